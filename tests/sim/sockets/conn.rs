//! A container's TCP by hand, against whatever a host's sockets bring.

use super::lab::end;
use crate::net::{Host, Net};
use crate::packet::{ACK, FIN, PSH, RST, SYN, tcp_with};

/// An MSS of 1460 bytes.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// A container's end of a connection, segment by segment.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) host: Host,
    pub(super) inside: String,
    pub(super) outside: String,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) ended: bool,
}

impl Conn {
    #[track_caller]
    pub(super) fn open(net: &mut Net, host: &Host, port: u16, to: &str) -> Conn {
        let inside = format!("{}:{port}", host.ip.unwrap());
        net.route(host, &tcp_with(&inside, to, SYN, 999, 0, &MSS, &[]));
        net.pump();
        let answer = net.got_one(host);
        assert_eq!((answer.flags(), answer.ack()), (SYN | ACK, 1000), "{answer:?}");
        assert_eq!((answer.from(), answer.to()), (to.to_owned(), inside.clone()));
        let ack = answer.seq().wrapping_add(1);
        let conn = Conn { host: *host, inside, outside: to.to_owned(), seq: 1000, ack, ended: false };
        conn.send(net, ACK, &[]);
        assert_eq!(net.got(host), []);
        conn
    }

    /// Takes a client that came by a published port.
    #[track_caller]
    pub(super) fn accept(net: &mut Net, host: &Host) -> Conn {
        let syn = net.got_one(host);
        assert_eq!(syn.flags(), SYN, "{syn:?}");
        let ack = syn.seq().wrapping_add(1);
        let mut conn = Conn { host: *host, inside: syn.to(), outside: syn.from(), seq: 4999, ack, ended: false };
        conn.send(net, SYN | ACK, &[]);
        conn.seq = 5000;
        let third = net.got_one(host);
        assert_eq!((third.flags(), third.ack()), (ACK, 5000));
        conn
    }

    pub(super) fn send(&self, net: &mut Net, flags: u8, data: &[u8]) {
        net.route(&self.host, &tcp_with(&self.inside, &self.outside, flags, self.seq, self.ack, &[], data));
        net.pump();
    }

    #[track_caller]
    pub(super) fn say(&mut self, net: &mut Net, data: &[u8]) {
        self.send(net, ACK | PSH, data);
        self.seq = self.seq.wrapping_add(data.len() as u32);
        let acked = net.got(&self.host).iter().any(|s| s.ack() == self.seq);
        assert!(acked, "what was said is acknowledged");
    }

    pub(super) fn finish(&mut self, net: &mut Net) {
        self.send(net, FIN | ACK, &[]);
        self.seq = self.seq.wrapping_add(1);
    }

    /// All data of this connection that came, in order, which it acknowledges.
    #[track_caller]
    pub(super) fn heard(&mut self, net: &mut Net) -> Vec<u8> {
        let mut data = Vec::new();
        for s in net.got(&self.host) {
            assert_eq!((s.from(), s.to()), (self.outside.clone(), self.inside.clone()), "of no other connection");
            assert_eq!(s.flags() & (RST | SYN), 0, "{s:?}");
            assert_eq!(s.seq(), self.ack, "in order");
            data.extend_from_slice(s.data());
            self.ended |= s.flags() & FIN != 0;
            self.ack = self.ack.wrapping_add(s.data().len() as u32 + u32::from(s.flags() & FIN != 0));
        }
        self.send(net, ACK, &[]);
        data
    }

    /// Data crosses both ways.
    #[track_caller]
    pub(super) fn talk(&mut self, net: &mut Net, peer: &str) {
        let (question, answer) = (format!("from {}", self.inside), format!("to {}", self.inside));
        self.say(net, question.as_bytes());
        assert_eq!(net.host().take(end(peer)), question.as_bytes());
        net.host().send_from(end(peer), answer.as_bytes());
        net.pump();
        assert_eq!(self.heard(net), answer.as_bytes());
    }
}
