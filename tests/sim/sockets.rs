//! The uplink over host sockets: which packets of a container end in a socket, what they become there, and what comes back.

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::prelude::*;

use pontoon::core::command::{
    Answer, Applied, Command, CommandError, NetworkConfig, PublicationRequest, Query, SocketUplinkConfig, StaticRule,
    Transport, UplinkConfig,
};
use pontoon::core::datapath::Config;
use pontoon::core::flush::Progress;
use pontoon::core::socket::{Close, DatagramError, Endpoint, Failure};
use pontoon::core::worth::Worth;
use pontoon::frame::Caps;
use pontoon::wire::addr::Addr;
use pontoon::wire::vnet::VnetHeader;

use crate::net::{Host, Net, addr, chosen, first_of, network, publication};
use crate::packet::{
    ACK, FIN, ICMP, PSH, Packet, RST, SYN, Seen, TCP, UDP, error, frame, other, ping, query, tcp, tcp_with, too_big,
    udp, udp_with,
};

const SERVER: &str = "198.51.100.5:80";
const RESOLVER: &str = "198.51.100.53:5353";
const CLIENT: &str = "203.0.113.7:5555";
/// The host's own address.
const OWN: &str = "192.0.2.10";
/// An MSS of 1460 bytes.
const MSS: [u8; 4] = [2, 4, 5, 180];

fn end(text: &str) -> Endpoint {
    let (ip, port) = text.rsplit_once(':').unwrap();
    Endpoint { addr: addr(ip), port: port.parse().unwrap() }
}

/// Defaults, with tables as small as the tests need.
fn config() -> SocketUplinkConfig {
    let mut config = SocketUplinkConfig::for_ports(32_768..=60_999);
    (config.tcp.flows_max, config.tcp.time_wait_max) = (1024, 64);
    config
}

fn lab() -> Net {
    let mut net = Net::with_sockets(config());
    net.host().own.insert(addr(OWN));
    // A rootless host knows nothing of the containers' networks.
    net.host().unreachable.insert(addr("172.17.0.1"));
    net
}

/// A host whose loopback has an address of its own.
fn lab_with_loopback(at: &str) -> Net {
    let mut config = config();
    config.policy.host_loopback = Some(addr(at));
    Net::with_sockets(config)
}

/// A container's end of a connection, segment by segment.
#[derive(Clone, Debug)]
struct Conn {
    host: Host,
    inside: String,
    outside: String,
    seq: u32,
    ack: u32,
    ended: bool,
}

impl Conn {
    #[track_caller]
    fn open(net: &mut Net, host: &Host, port: u16, to: &str) -> Conn {
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
    fn accept(net: &mut Net, host: &Host) -> Conn {
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

    fn send(&self, net: &mut Net, flags: u8, data: &[u8]) {
        net.route(&self.host, &tcp_with(&self.inside, &self.outside, flags, self.seq, self.ack, &[], data));
        net.pump();
    }

    #[track_caller]
    fn say(&mut self, net: &mut Net, data: &[u8]) {
        self.send(net, ACK | PSH, data);
        self.seq = self.seq.wrapping_add(data.len() as u32);
        let acked = net.got(&self.host).iter().any(|s| s.ack() == self.seq);
        assert!(acked, "what was said is acknowledged");
    }

    fn finish(&mut self, net: &mut Net) {
        self.send(net, FIN | ACK, &[]);
        self.seq = self.seq.wrapping_add(1);
    }

    /// All data of this connection that came, in order, which it acknowledges.
    #[track_caller]
    fn heard(&mut self, net: &mut Net) -> Vec<u8> {
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
    fn talk(&mut self, net: &mut Net, peer: &str) {
        let (question, answer) = (format!("from {}", self.inside), format!("to {}", self.inside));
        self.say(net, question.as_bytes());
        assert_eq!(net.host().take(end(peer)), question.as_bytes());
        net.host().send_from(end(peer), answer.as_bytes());
        net.pump();
        assert_eq!(self.heard(net), answer.as_bytes());
    }
}

/// A datagram of the container, and where its socket is bound.
#[track_caller]
fn ask(net: &mut Net, host: &Host, port: u16, to: &str, data: &[u8]) -> Endpoint {
    let before = net.host().sent.len();
    net.route(host, &udp_with(&format!("{}:{port}", host.ip.unwrap()), to, data));
    net.pump();
    let sent = net.host().sent[before..].to_vec();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].payload, data);
    Endpoint { addr: addr(OWN), port: net.host().bound(sent[0].id).port }
}

fn publish(net: &mut Net, name: &str, ports: Vec<PublicationRequest>) -> Result<Applied, CommandError> {
    net.try_apply(Command::Publish { name: name.to_owned(), ifname: None, ports })
}

fn detach(net: &mut Net, host: &Host) {
    net.apply(Command::Detach { port: host.port });
    net.pump();
}

/// What the container was told, if that is an ICMP error: type and code.
#[track_caller]
fn told(net: &mut Net, host: &Host) -> (u8, u8) {
    let error = net.got_one(host);
    assert_eq!(error.src.to_string(), "172.17.0.1");
    error.icmp()
}

#[test]
fn connection_reaches_the_host_and_data_crosses_both_ways() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    for _ in 0..3 {
        conn.talk(&mut net, SERVER);
    }
}

#[test]
fn half_closed_connection_carries_data_until_the_other_end_finishes() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    let (id, _) = net.host().stream(end(SERVER));
    net.host().end_from(end(SERVER));
    net.pump();
    assert_eq!((conn.heard(&mut net), conn.ended), (vec![], true));
    conn.say(&mut net, b"half-closed is not closed");
    assert_eq!(net.host().take(end(SERVER)), b"half-closed is not closed");
    conn.finish(&mut net);
    let stream = &net.host().streams[&id];
    assert_eq!((stream.finished, stream.closed), (true, Some(Close::Orderly)));
    assert_eq!(net.host().open(), 0);
    net.secs(60);
    assert_eq!(net.flows(), []);
}

#[test]
fn host_that_breaks_off_is_a_reset_and_never_an_end() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    conn.talk(&mut net, SERVER);
    net.host().break_off(end(SERVER), Failure::Reset);
    net.pump();
    let last = net.got_one(&a);
    assert_eq!(last.flags() & (RST | FIN), RST, "{last:?}");
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn host_that_does_not_read_closes_the_window_and_loses_nothing() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    let data: Vec<u8> = (0..900_000u32).map(|n| (n % 251) as u8).collect();
    let (mut said, mut got, mut window, mut closed) = (0, Vec::new(), 1400, 0);
    while said < data.len() {
        let len = 1400.min(data.len() - said);
        if window < len {
            closed += 1;
            net.secs(5);
            assert_eq!(net.got(&a), [], "nothing opens it but the host");
            got.extend(net.host().take(end(SERVER)));
            net.pump();
        } else {
            conn.send(&mut net, ACK | PSH, &data[said..said + len]);
            (said, conn.seq) = (said + len, conn.seq.wrapping_add(len as u32));
        }
        let last = net.got(&a).pop().expect("an acknowledgement");
        assert_eq!(last.ack(), conn.seq);
        window = usize::from(last.word(14));
    }
    while got.len() < data.len() {
        got.extend(net.host().take(end(SERVER)));
        net.pump();
    }
    assert!(got == data && closed > 1, "{closed} times closed");
}

#[test]
fn tcp_super_frames_cross_whole() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    let data: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    let large = tcp_with(&conn.inside, SERVER, ACK | PSH, conn.seq, conn.ack, &[], &data).partial();
    net.route_offloaded(&a, &large, 1460);
    net.pump();
    assert!(net.host().take(end(SERVER)) == data);
    assert_eq!(net.got_one(&a).ack(), conn.seq + 20_000);
    net.host().send_from(end(SERVER), &data);
    conn.seq += 20_000;
    net.pump();
    let out = net.received(a.port);
    assert_eq!((out.len(), out[0].vnet.gso_size), (1, 1460));
    assert!(out[0].ip().data() == data);
}

#[test]
fn udp_super_frame_leaves_by_one_call() {
    let mut net = lab();
    let a = net.attach();
    let data: Vec<u8> = (0..14_500u32).map(|n| (n % 251) as u8).collect();
    net.route_offloaded(&a, &udp_with("172.17.0.2:5000", RESOLVER, &data).partial(), 1400);
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].how.segment.map(u16::from)), (1, Some(1400)));
    assert!(sent[0].payload == data);
}

#[test]
fn host_without_descriptors_is_counted_and_keeps_what_it_has() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    net.host().full = true;
    net.route(&a, &tcp("172.17.0.2:40001", SERVER, SYN));
    net.pump();
    assert_eq!((net.got(&a), net.dropped(a.port, "no-socket")), (vec![], 1));
    net.route(&a, &udp("172.17.0.2:1", RESOLVER));
    assert_eq!((told(&mut net, &a), net.dropped(a.port, "no-socket")), ((3, 13), 2));
    conn.talk(&mut net, SERVER);
    net.host().full = false;
    Conn::open(&mut net, &a, 40_001, "198.51.100.5:81").talk(&mut net, "198.51.100.5:81");
}

#[test]
fn client_that_waits_for_a_descriptor_leaves_the_loop_asleep_and_is_taken_when_there_is_one() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.host().full = true;
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    assert_eq!(net.dropped(a.port, "no-socket"), 1);
    net.secs(60); // which fails if a timer is always due
    assert_eq!(net.got(&a), vec![]);
    net.host().full = false;
    net.secs(1);
    Conn::accept(&mut net, &a).talk(&mut net, CLIENT);
}

#[test]
fn what_a_container_had_said_to_the_end_is_delivered_after_its_detach() {
    let mut net = lab();
    let a = net.attach();
    let mut said = Conn::open(&mut net, &a, 40_000, SERVER);
    let mut cut = Conn::open(&mut net, &a, 40_001, "198.51.100.6:80");
    cut.say(&mut net, b"half of");
    said.say(&mut net, b"all of it");
    said.finish(&mut net);
    detach(&mut net, &a);
    let closed =
        |net: &mut Net, peer| net.host().streams.values().find(|s| s.peer == Some(end(peer))).and_then(|s| s.closed);
    assert_eq!(closed(&mut net, SERVER), Some(Close::Orderly));
    assert_eq!(closed(&mut net, "198.51.100.6:80"), Some(Close::Reset));
}

#[test]
fn static_rule_leads_elsewhere_and_answers_come_from_where_was_asked() {
    let mut net = lab();
    let a = net.attach();
    // Also an address that no socket may go to.
    for (dst, proto) in
        [("203.0.113.50", Transport::Tcp), ("169.254.1.1", Transport::Tcp), ("169.254.1.1", Transport::Udp)]
    {
        let (dst, to) = (addr(dst), addr("198.51.100.5"));
        net.apply(Command::AddRule(StaticRule::Dnat { proto, dst, port: 7, to, to_port: 80 }));
    }
    for (port, dst) in [(40_000, "203.0.113.50:7"), (40_001, "169.254.1.1:7")] {
        let mut conn = Conn::open(&mut net, &a, port, dst);
        conn.talk(&mut net, SERVER);
        conn.send(&mut net, RST | ACK, &[]);
    }
    for _ in 0..2 {
        let at = ask(&mut net, &a, 5000, "169.254.1.1:7", b"question");
        assert_eq!(net.host().sent.last().unwrap().to, end(SERVER));
        net.host().datagram(end(SERVER), at, b"answer");
        net.pump();
        assert_eq!(net.got_one(&a).from(), "169.254.1.1:7");
    }
}

/// A connection of the container's, and a segment of 1400 bytes to it that waits to be acknowledged: the IP packet.
#[track_caller]
fn long_segment(net: &mut Net, host: &Host) -> Vec<u8> {
    let mut conn = Conn::open(net, host, 40_000, SERVER);
    conn.talk(net, SERVER);
    net.host().send_from(end(SERVER), &[7; 400]);
    net.host().send_from(end(SERVER), &[7; 1000]);
    net.pump();
    let sent = net.received(host.port);
    let long = sent.iter().map(|out| (&out.bytes[14..], out.ip())).find(|(_, s)| s.data().len() > 400);
    let (bytes, seen) = long.expect("a segment that is too long behind the container");
    assert_eq!(seen.seq(), conn.ack);
    bytes.to_vec()
}

#[test]
fn too_big_about_what_was_not_sent_is_unrelated() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let bytes = long_segment(&mut net, &a);
    let mut wrong = bytes.clone();
    let seq = Seen::read(&bytes).seq().wrapping_sub(9);
    wrong[24..28].copy_from_slice(&seq.to_be_bytes());
    for quoted in [&wrong[..], &bytes[..20]] {
        net.route(&a, &too_big("172.17.0.2", "198.51.100.5", 576, quoted));
    }
    // What a neighbour was sent.
    net.route(&b, &too_big("172.17.0.3", "198.51.100.6", 576, &bytes));
    net.pump();
    assert_eq!(net.got(&a), []);
    assert_eq!((net.dropped(a.port, "icmp-unrelated"), net.dropped(b.port, "icmp-unrelated")), (2, 1));
}

#[test]
fn router_behind_a_container_makes_segments_fit_its_mtu() {
    let mut net = lab();
    let a = net.attach();
    let bytes = long_segment(&mut net, &a);
    net.route(&a, &too_big("172.17.0.2", "198.51.100.5", 576, &bytes));
    net.pump();
    let again = net.received(a.port);
    assert!(!again.is_empty(), "sent again");
    for out in &again {
        let header = out.bytes.len() - 14 - out.ip().data().len();
        let segment = if out.vnet.gso_size > 0 { usize::from(out.vnet.gso_size) } else { out.ip().data().len() };
        assert!(header + segment <= 576, "{header} and {segment}");
    }
    assert_eq!(again.iter().map(|out| out.ip().data().len()).sum::<usize>(), 1400);
}

#[test]
fn client_of_a_container_that_cannot_be_reached_is_reset() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    let (id, _) = net.host().stream(end(CLIENT));
    let syn = net.received(a.port).remove(0);
    net.route(&a, &error("172.17.0.2", "203.0.113.7", 3, 10, &syn.bytes[14..]));
    net.pump();
    assert_eq!(net.host().streams[&id].closed, Some(Close::Reset));
    assert_eq!(net.flows(), []);
}

#[test]
fn refused_connection_is_reset_and_an_unreachable_one_gets_its_icmp_error() {
    let mut net = lab();
    let a = net.attach();
    let outcomes = [
        (Failure::Refused, None),
        (Failure::HostUnreachable, Some((3, 1))),
        (Failure::NetUnreachable, Some((3, 0))),
        (Failure::Prohibited, Some((3, 13))),
    ];
    for (port, (failure, error)) in (7001..).zip(outcomes) {
        let to = format!("198.51.100.5:{port}");
        net.host().refusals.insert(end(&to), failure);
        net.route(&a, &tcp_with("172.17.0.2:40000", &to, SYN, 7, 0, &[], &[]));
        net.pump();
        match error {
            Some(error) => assert_eq!(told(&mut net, &a), error, "{failure:?}"),
            None => {
                let reset = net.got_one(&a);
                assert_eq!((reset.flags(), reset.ack(), reset.from()), (RST | ACK, 8, to));
            }
        }
        assert_eq!((net.host().open(), net.flows()), (0, vec![]), "{failure:?}");
        net.secs(1);
    }
}

#[test]
fn connection_that_is_never_answered_gets_no_word() {
    let mut net = lab();
    let a = net.attach();
    net.host().refusals.insert(end(SERVER), Failure::TimedOut);
    net.route(&a, &tcp("172.17.0.2:40000", SERVER, SYN));
    net.pump();
    assert_eq!(net.got(&a), [], "silence is silence");
    assert_eq!((net.dropped(a.port, "connect-timeout"), net.host().open()), (1, 0));
}

#[test]
fn one_socket_serves_all_peers() {
    let mut net = lab();
    let a = net.attach();
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    let sent = net.host().sent[0].clone();
    assert_eq!((sent.to, sent.how.ttl, sent.how.segment), (end(RESOLVER), 63, None));
    let another = "198.51.100.54:53";
    assert_eq!(ask(&mut net, &a, 5000, another, b"question"), at, "one socket, whomever it talks to");
    for peer in [RESOLVER, another] {
        net.host().datagram(end(peer), at, b"answer");
        net.pump();
        let got = net.got_one(&a);
        assert_eq!((got.from(), got.to(), got.data()), (peer.into(), "172.17.0.2:5000".into(), &b"answer"[..]));
    }
}

#[test]
fn strangers_are_unsolicited() {
    let mut net = lab();
    let a = net.attach();
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    for stranger in ["198.51.100.53:5354", "198.51.100.99:5353"] {
        net.host().datagram(end(stranger), at, b"nobody asked");
    }
    net.pump();
    assert_eq!((net.got(&a), net.dropped(a.port, "unsolicited")), (vec![], 2));
}

#[test]
fn silent_flow_leaves_no_socket() {
    let mut net = lab();
    let a = net.attach();
    ask(&mut net, &a, 5000, RESOLVER, b"question");
    assert_eq!((net.host().open(), net.flows().len()), (1, 1));
    net.secs(200);
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn congestion_of_the_host_is_not_held_against_a_container() {
    let mut net = lab();
    let a = net.attach();
    net.host().busy = true;
    net.route(&a, &udp_with("172.17.0.2:5000", RESOLVER, b"question"));
    assert_eq!((net.dropped(a.port, "host-busy"), net.dp.worth()), (1, Worth::Something));
    net.route(&a, &udp_with("172.17.0.2:5000", "127.0.0.1:53", b"question"));
    assert_eq!(net.dp.worth(), Worth::Nothing, "a destination that no router takes");
}

#[test]
fn icmp_error_that_a_datagram_met_is_about_the_containers_own_packet() {
    let mut net = lab();
    let a = net.attach();
    ask(&mut net, &a, 5000, RESOLVER, b"question");
    let id = net.host().sent[0].id;
    let router = Some(addr("203.0.113.1"));
    let error =
        DatagramError { to: end(RESOLVER), icmp: Ok((3, 3)), mtu: 0, offender: router, sequence: None, from: None };
    net.host().complain(id, error);
    net.pump();
    let got = net.got_one(&a);
    let (src, dst, l4) = got.quote();
    assert_eq!((got.icmp(), got.src.to_string()), ((3, 3), "203.0.113.1".to_owned()));
    assert_eq!((src.to_string(), dst.to_string()), ("172.17.0.2".to_owned(), "198.51.100.53".to_owned()));
    assert_eq!(l4[..4], [5000u16.to_be_bytes(), 5353u16.to_be_bytes()].concat());
}

#[test]
fn echo_keeps_its_identifier_whatever_the_host_gives() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    net.host().taken.insert(78);
    for (host, id) in [(&a, 77), (&b, 78)] {
        let from = host.ip.unwrap().to_string();
        net.route(host, &ping(&from, "198.51.100.5", id));
        let sent = net.host().sent.last().unwrap().clone();
        let at = net.host().bound(sent.id);
        assert_eq!(at.port == id, id == 77, "its own if it is free");
        assert_eq!((sent.to.addr, sent.payload[0], sent.how.ttl), (addr("198.51.100.5"), 8, 63));
        let mut reply = sent.payload;
        reply[0] = 0;
        reply[4..6].copy_from_slice(&at.port.to_be_bytes());
        let here = Endpoint { addr: addr(OWN), port: at.port };
        net.host().datagram(end("198.51.100.99:0"), here, &reply);
        net.host().datagram(end("198.51.100.5:0"), here, &reply);
        net.pump();
        let got = net.got_one(host);
        assert_eq!((got.icmp(), got.icmp_id(), got.src.to_string()), ((0, 0), id, "198.51.100.5".to_owned()));
        assert_eq!(got.data(), b"abcdefghijklmnop");
    }
    assert_eq!(net.dropped(a.port, "unsolicited"), 1, "a reply of another host");
    net.secs(60);
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn host_that_forbids_echo_is_told_as_a_filter() {
    let mut net = lab();
    let a = net.attach();
    net.host().no_ping = true;
    net.route(&a, &ping("172.17.0.2", "198.51.100.5", 77));
    assert_eq!(told(&mut net, &a), (3, 13));
    assert_eq!((net.dropped(a.port, "host-refused"), net.host().open()), (1, 0));
}

#[test]
fn fragments_are_sent_whole() {
    let mut net = lab();
    let a = net.attach();
    let data: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let whole = udp_with("172.17.0.2:5000", RESOLVER, &data);
    let mut parts = whole.fragments(1480);
    parts.reverse();
    for part in &parts {
        assert!(net.host().sent.is_empty(), "not before the last");
        net.route(&a, part);
    }
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].to), (1, end(RESOLVER)));
    assert!(sent[0].payload == data, "byte for byte");
}

#[test]
fn long_answers_come_in_fragments() {
    let mut net = lab();
    let a = net.attach();
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    let data: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    net.host().datagram(end(RESOLVER), at, &data);
    net.pump();
    let got = net.got(&a);
    assert!(got.len() > 40 && got.iter().all(|p| p.is_fragment() && p.body.len() <= 1480 && p.id == got[0].id));
    let mut body = vec![0; 60_008];
    for part in &got {
        let at = usize::from(part.frag & 0x1fff) * 8;
        body[at..at + part.body.len()].copy_from_slice(&part.body);
    }
    assert!(body[8..] == data, "byte for byte");
}

#[test]
fn echo_in_fragments_is_sent_whole() {
    let mut net = lab();
    let a = net.attach();
    let mut request = ping("172.17.0.2", "198.51.100.5", 9);
    request.body.extend(std::iter::repeat_n(7, 5000));
    for part in request.resum().fragments(1480) {
        net.route(&a, &part);
    }
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].payload.len()), (1, 8 + 16 + 5000));
}

#[test]
fn address_of_the_hosts_loopback_leads_there() {
    // The gateway's own, and one beyond.
    for at in ["172.17.0.1", "10.0.2.2"] {
        let mut net = lab_with_loopback(at);
        let a = net.attach();
        let mut conn = Conn::open(&mut net, &a, 40_000, &format!("{at}:8080"));
        assert_eq!(net.host().streams.values().next().unwrap().peer, Some(end("127.0.0.1:8080")));
        conn.talk(&mut net, "127.0.0.1:8080");

        let to = format!("{at}:5353");
        let bound = ask(&mut net, &a, 5000, &to, b"question");
        assert_eq!(net.host().sent[0].to, end("127.0.0.1:5353"));
        net.host().datagram(end("127.0.0.1:5353"), bound, b"answer");
        net.pump();
        let got = net.got_one(&a);
        assert_eq!((got.from(), got.data()), (to, &b"answer"[..]));
    }
}

#[test]
fn fragments_to_the_hosts_loopback_are_sent_whole() {
    let mut net = lab_with_loopback("10.0.2.2");
    let a = net.attach();
    for part in udp_with("172.17.0.2:5001", "10.0.2.2:5353", &[5; 4000]).fragments(1480) {
        net.route(&a, &part);
    }
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].to), (1, end("127.0.0.1:5353")));
    assert_eq!(sent[0].payload, [5; 4000]);
}

#[test]
fn loopback_and_unspecified_addresses_are_martians() {
    for mut net in [lab(), lab_with_loopback("10.0.2.2")] {
        let a = net.attach();
        for refused in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3"] {
            net.route(&a, &tcp("172.17.0.2:1", &format!("{refused}:80"), SYN));
            net.route(&a, &udp("172.17.0.2:1", &format!("{refused}:80")));
            net.route(&a, &ping("172.17.0.2", refused, 1));
        }
        net.pump();
        assert_eq!((net.got(&a), net.dropped(a.port, "martian")), (vec![], 12), "no router takes these");
        assert_eq!((net.host().open(), net.host().sent.len()), (0, 0));
    }
}

// S38
#[test]
fn static_rule_leads_to_a_service_on_the_hosts_loopback() {
    // Its own address, and the one that stands for it.
    for to in [addr("127.0.0.1"), addr("10.0.2.2")] {
        for dst in ["169.254.169.254", "172.17.0.1", "198.51.100.5"] {
            let mut net = lab_with_loopback("10.0.2.2");
            let a = net.attach();
            for (proto, port, to_port) in [(Transport::Tcp, 80, 900), (Transport::Udp, 53, 5353)] {
                net.apply(Command::AddRule(StaticRule::Dnat { proto, dst: addr(dst), port, to, to_port }));
            }
            let mut conn = Conn::open(&mut net, &a, 40_000, &format!("{dst}:80"));
            assert_eq!(net.host().streams.values().next().unwrap().peer, Some(end("127.0.0.1:900")));
            conn.talk(&mut net, "127.0.0.1:900");

            let bound = ask(&mut net, &a, 5000, &format!("{dst}:53"), &[7; 1400]);
            for part in udp_with("172.17.0.2:5000", &format!("{dst}:53"), &[5; 4000]).fragments(1480) {
                net.route(&a, &part);
            }
            assert!(net.host().sent.iter().all(|sent| sent.to == end("127.0.0.1:5353")));
            assert_eq!(net.host().sent[1].payload, [5; 4000]);
            net.host().datagram(end("127.0.0.1:5353"), bound, b"answer");
            net.pump();
            assert_eq!(net.got_one(&a).from(), format!("{dst}:53"));
        }
    }
}

#[test]
fn rules_about_sources_are_refused_over_host_sockets() {
    let mut net = lab();
    for rule in [
        StaticRule::Snat { source: "172.17.0.0/16".parse().unwrap(), to: addr("192.0.2.77") },
        StaticRule::NoNat { dst: "198.51.100.0/24".parse().unwrap() },
    ] {
        let refused = net.try_apply(Command::AddRule(rule)).unwrap_err().to_string();
        assert!(refused.contains("--outbound-address"), "{refused}");
    }
}

#[test]
fn new_network_has_no_neighbour_that_leads_to_the_hosts_loopback() {
    let mut net = lab_with_loopback("10.0.2.2");
    let error = net.try_apply(Command::AddNetwork(network("new", "10.0.2.0/24"))).unwrap_err();
    assert!(matches!(error, CommandError::Invalid { field: "subnet", .. }), "{error}");
    assert!(error.to_string().contains("holds 10.0.2.2"), "{error}");
    let gateway = Some(addr("10.0.2.2"));
    net.apply(Command::AddNetwork(NetworkConfig { gateway, ..network("new", "10.0.2.0/24") }));
    net.apply(Command::AddNetwork(network("beside", "10.0.3.0/24")));
}

#[test]
fn gateway_that_stands_for_the_loopback_still_answers_echo_and_resets_nothing_else() {
    let mut net = lab_with_loopback("172.17.0.1");
    let a = net.attach();
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 5));
    assert_eq!(net.got_one(&a).icmp(), (0, 0));
    assert_eq!(net.host().open(), 0);
}

#[test]
fn gateway_without_a_loopback_is_a_host_where_nothing_listens() {
    let mut net = lab();
    let a = net.attach();
    net.route(&a, &tcp("172.17.0.2:1", "172.17.0.1:80", SYN));
    assert_eq!(net.got_one(&a).flags() & RST, RST);
    net.route(&a, &udp("172.17.0.2:1", "172.17.0.1:80"));
    assert_eq!(told(&mut net, &a), (3, 3));
    assert_eq!(net.host().open(), 0);
}

#[test]
fn what_is_not_allowed_is_refused_as_by_a_filter() {
    let mut net = lab();
    let a = net.attach();
    net.host().broadcast.insert(addr("192.0.2.255"));
    net.host().unreachable.insert(addr("192.0.2.99"));
    let mut not_allowed = 0;
    for (to, error, reason) in [
        ("169.254.169.254", (3, 13), "not-allowed"),
        ("168.63.129.16", (3, 13), "not-allowed"),
        ("169.254.1.1", (3, 13), "not-allowed"),
        ("192.0.2.255", (3, 13), "broadcast"),
        ("192.0.2.99", (3, 0), "no-route"),
    ] {
        for packet in [
            tcp("172.17.0.2:1", &format!("{to}:80"), SYN),
            udp("172.17.0.2:1", &format!("{to}:80")),
            ping("172.17.0.2", to, 1),
        ] {
            let before = net.dropped(a.port, reason);
            net.route(&a, &packet);
            net.pump();
            assert_eq!(told(&mut net, &a), error, "{to}");
            assert_eq!(net.dropped(a.port, reason), before + 1, "{to}");
            not_allowed += u64::from(reason == "not-allowed");
            net.secs(1);
        }
    }
    assert_eq!(net.dropped(a.port, "not-allowed"), not_allowed);
    assert_eq!((net.host().open(), net.host().sent.len(), net.flows()), (0, 0, vec![]));
}

#[test]
fn own_address_of_the_host_is_reached() {
    let to = format!("{OWN}:8080");
    let mut net = lab();
    let a = net.attach();
    Conn::open(&mut net, &a, 40_000, &to).talk(&mut net, &to);
}

#[test]
fn own_address_of_the_host_is_refused_where_it_is_not_allowed() {
    let mut closed = config();
    closed.policy.allow_host_addresses = false;
    let mut net = Net::with_sockets(closed);
    net.host().own.insert(addr(OWN));
    let a = net.attach();
    net.route(&a, &tcp("172.17.0.2:1", &format!("{OWN}:8080"), SYN));
    assert_eq!(told(&mut net, &a), (3, 13));
    assert_eq!((net.dropped(a.port, "not-allowed"), net.host().open()), (1, 0));
}

#[test]
fn protocols_without_sockets_are_refused_as_by_a_filter() {
    let mut net = lab();
    let a = net.attach();
    for (count, packet) in (1..).zip([
        other("172.17.0.2", "198.51.100.5", 47, b"a tunnel's packet"),
        other("172.17.0.2", "198.51.100.5", 132, b"sixteen bytes or so"),
        query("172.17.0.2", "198.51.100.5", 13, 5),
    ]) {
        net.route(&a, &packet);
        assert_eq!(told(&mut net, &a), (3, 13));
        assert_eq!(net.dropped(a.port, "no-socket-for"), count);
    }
    assert_eq!(net.host().open(), 0);
}

#[test]
fn internal_network_reaches_nothing() {
    let mut net = lab_with_loopback("10.0.2.2");
    net.add_network(NetworkConfig { internal: true, ..network("inner", "172.18.0.0/16") });
    let a = net.attach_to("inner");
    net.quiet();
    let gateway = net.gateway_mac_of("inner");
    let mut count = 0;
    for to in ["198.51.100.5", "10.0.2.2", OWN, "169.254.169.254"] {
        let mut packets = vec![
            tcp("172.18.0.2:1", &format!("{to}:80"), SYN),
            udp("172.18.0.2:1", &format!("{to}:80")),
            ping("172.18.0.2", to, 1),
        ];
        count += packets.len() as u64 + 1; // and one whole of fragments
        packets.extend(udp_with("172.18.0.2:1", &format!("{to}:80"), &[1; 3000]).fragments(1480));
        for packet in packets {
            net.send_to(&a, gateway, &packet);
            net.pump();
        }
    }
    assert_eq!(net.dropped(a.port, "internal"), count);
    assert_eq!((net.host().open(), net.host().sent.len(), net.flows()), (0, 0, vec![]));
    net.secs(100);
    assert!(net.host().streams.is_empty());
}

#[test]
fn packet_whose_time_to_live_is_over_ends_at_the_gateway() {
    let mut net = lab();
    let a = net.attach();
    for packet in [tcp("172.17.0.2:1", SERVER, SYN), udp("172.17.0.2:1", SERVER), ping("172.17.0.2", "198.51.100.5", 1)]
    {
        net.route(&a, &packet.ttl(1));
        assert_eq!(told(&mut net, &a), (11, 0));
    }
    assert_eq!(net.dropped(a.port, "ttl-exceeded"), 3);
    assert_eq!((net.host().open(), net.host().sent.len()), (0, 0));
}

// S27
#[test]
fn published_tcp_port_listens_for_both_families() {
    let mut net = lab();
    net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    let bound: HashSet<Endpoint> = net.host().listeners.values().map(|(at, _)| *at).collect();
    let both = [Addr::V4_UNSPECIFIED, Addr::V6_UNSPECIFIED].map(|addr| Endpoint { addr, port: 8080 });
    assert_eq!((bound, net.host().open()), (both.into(), 2));
}

#[test]
fn client_is_seen_as_itself_or_as_the_gateway() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    for (client, shown) in [
        (CLIENT, CLIENT),
        ("127.0.0.1:6666", "172.17.0.1:6666"),
        ("192.0.2.10:6667", "172.17.0.1:6667"),
        ("172.17.0.9:6668", "172.17.0.1:6668"),
        ("169.254.7.7:6669", "172.17.0.1:6669"),
    ] {
        net.host().knock(end("192.0.2.10:8080"), end(client));
        net.pump();
        let mut conn = Conn::accept(&mut net, &a);
        assert_eq!((&conn.outside[..], &conn.inside[..]), (shown, "172.17.0.2:80"));
        conn.talk(&mut net, client);
    }
}

#[test]
fn flow_of_a_published_port_is_listed_as_the_client_asked() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    for client in [CLIENT, "127.0.0.1:6666"] {
        net.host().knock(end("192.0.2.10:8080"), end(client));
        net.pump();
        Conn::accept(&mut net, &a);
    }
    let flows = net.flows();
    assert_eq!(flows.len(), 2);
    for flow in &flows {
        // The client's packets as they came to the host; and the container's.
        assert_eq!((flow.name.as_str(), flow.dst, flow.dport), ("c1", addr(OWN), 8080), "{flow:?}");
        assert_eq!((flow.reply_src, flow.reply_sport), (addr("172.17.0.2"), 80), "{flow:?}");
    }
    for line in [
        "src=203.0.113.7 dst=192.0.2.10 sport=5555 dport=8080 src=172.17.0.2 dst=203.0.113.7 sport=80 dport=5555",
        "src=127.0.0.1 dst=192.0.2.10 sport=6666 dport=8080 src=172.17.0.2 dst=172.17.0.1 sport=80 dport=6666",
    ] {
        assert_eq!(flows.iter().filter(|flow| flow.line.contains(line)).count(), 1, "{line}");
    }
}

#[test]
fn client_is_answered_even_where_a_container_may_not_go() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    // A cloud's health probe, and a client whose way back the host's routing has lost.
    net.host().unreachable.insert(addr("203.0.113.8"));
    for client in ["168.63.129.16:50000", "203.0.113.8:50001"] {
        net.host().knock(end("192.0.2.10:8080"), end(client));
        net.pump();
        let mut conn = Conn::accept(&mut net, &a);
        conn.talk(&mut net, client);
    }
    assert_eq!(net.dropped(a.port, "not-allowed") + net.dropped(a.port, "no-route"), 0);
}

#[test]
fn published_udp_port_answers_from_the_address_that_was_asked() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Udp, 5353, 53);
    assert_eq!(net.host().open(), 2, "one for each family");
    let at = end("192.0.2.10:5353");
    for (client, shown) in
        [(CLIENT, CLIENT), ("127.0.0.1:6666", "172.17.0.1:6666"), ("168.63.129.16:6667", "172.17.0.1:6667")]
    {
        net.host().sent.clear();
        net.host().datagram(end(client), at, b"question");
        net.pump();
        let got = net.got_one(&a);
        assert_eq!((got.from(), got.to(), got.data()), (shown.into(), "172.17.0.2:53".into(), &b"question"[..]));
        net.route(&a, &udp_with("172.17.0.2:53", shown, b"answer"));
        net.pump();
        let sent = net.host().sent.clone();
        assert_eq!(sent.len(), 1, "{client}");
        assert_eq!((sent[0].to, sent[0].how.from, &sent[0].payload[..]), (end(client), Some(at.addr), &b"answer"[..]));
    }
    assert_eq!((net.host().open(), net.flows().len()), (2, 3), "no socket but the published");
    net.secs(200);
    assert_eq!((net.host().open(), net.flows().len()), (2, 0), "flows end, the port stays");
}

#[test]
fn long_answer_to_a_client_that_the_gateway_stands_for_is_sent_whole() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Udp, 5353, 53);
    net.host().datagram(end("127.0.0.1:6666"), end("127.0.0.1:5353"), b"question");
    net.pump();
    assert_eq!(net.got_one(&a).from(), "172.17.0.1:6666");
    for part in udp_with("172.17.0.2:53", "172.17.0.1:6666", &[5; 4000]).fragments(1480) {
        net.route(&a, &part);
    }
    net.pump();
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].to, &sent[0].payload[..]), (1, end("127.0.0.1:6666"), &[5; 4000][..]));
    // To nobody's port of the gateway it stays an error.
    for part in udp_with("172.17.0.2:53", "172.17.0.1:7777", &[5; 4000]).fragments(1480) {
        net.route(&a, &part);
    }
    assert_eq!(told(&mut net, &a), (3, 3));
    assert_eq!(net.host().sent.len(), 1);
}

#[test]
fn host_without_ipv6_publishes_by_ipv4_alone() {
    let mut net = lab();
    net.attach();
    net.host().no_ipv6 = true;
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Udp, 8080, 80);
    assert_eq!(net.host().open(), 2);
}

// S60
#[test]
fn taken_port_refuses_all_of_a_publication_and_leaves_nothing_open() {
    let mut net = lab();
    net.attach();
    net.publish("c1", Transport::Tcp, 7000, 70);
    let open = net.host().open();
    net.host().taken.insert(9090);
    for last in [Transport::Tcp, Transport::Udp] {
        let ports = vec![
            publication(Transport::Tcp, 8080, 80),
            publication(Transport::Udp, 8081, 80),
            publication(last, 9090, 90),
        ];
        let refused = publish(&mut net, "c1", ports).unwrap_err();
        let words = refused.to_string();
        assert!(matches!(refused, CommandError::Bind { port: 9090, failure: Failure::InUse, .. }), "{words}");
        assert!(words.contains("0.0.0.0:9090"), "{words}");
        assert_eq!(net.host().open(), open);
        let Answer::Published(listed) = net.query(Query::Published) else { unreachable!() };
        assert_eq!(listed.len(), 1);
    }
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Udp, 8081, 80);
    assert_eq!(net.host().open(), open + 4, "what was let go of can be had");
}

// D14
#[test]
fn chosen_port_is_one_that_the_host_has_free() {
    let mut net = lab();
    net.attach();
    net.host().taken.extend((32_768..=60_999).filter(|port| port % 64 != 0));
    for proto in [Transport::Tcp, Transport::Udp] {
        let got = net.try_publish("c1", vec![chosen(proto, 80); 3]).unwrap();
        assert!(got.iter().all(|port| port % 64 == 0), "{got:?}");
    }
    assert_eq!(net.host().open(), 12, "each for both families");
}

// D14
#[test]
fn range_gives_its_lowest_port_that_the_host_has_free() {
    let mut net = lab();
    net.attach();
    net.host().taken.extend(7000..=7003);
    let range = |last| vec![first_of(Transport::Tcp, 7000, last, 80)];
    let refused = net.try_publish("c1", range(7003)).unwrap_err().to_string();
    assert!(refused.contains("0.0.0.0:7000-7003/tcp failed: all ports are allocated"), "{refused}");
    assert_eq!(net.host().open(), 0);
    assert_eq!(net.try_publish("c1", range(7005)).unwrap(), [7004]);
}

// D14, D16
#[test]
fn chosen_port_that_cannot_be_had_takes_its_whole_request_back() {
    let mut net = lab();
    net.attach();
    net.host().taken.extend(32_768..=60_999);
    for proto in [Transport::Tcp, Transport::Udp] {
        let request = vec![publication(Transport::Tcp, 8080, 80), first_of(proto, 8081, 8082, 80), chosen(proto, 80)];
        // The host is asked so often and no more, whatever it says.
        assert!(matches!(net.try_publish("c1", request), Err(CommandError::Bind { failure: Failure::InUse, .. })));
        assert_eq!((net.host().open(), net.published().len()), (0, 0));
        let privileged = vec![publication(proto, 8080, 80), first_of(proto, 80, 8081, 80)];
        let refused = net.try_publish("c1", privileged).unwrap_err().to_string();
        assert!(refused.contains("ip_unprivileged_port_start"), "{refused}");
        assert_eq!((net.host().open(), net.published().len()), (0, 0));
    }
}

// D14
// As moby's TestPortMappingOnDistinctLoopbackAddrs.
#[test]
fn one_port_is_published_on_distinct_loopback_addresses() {
    let mut net = lab();
    net.attach();
    net.attach();
    net.host().own.extend([addr("127.0.0.1"), addr("127.0.0.2")]);
    let on = |ip: &str| PublicationRequest { host_ip: Some(addr(ip)), ..publication(Transport::Tcp, 8080, 80) };
    publish(&mut net, "c1", vec![on("127.0.0.1")]).unwrap();
    publish(&mut net, "c2", vec![on("127.0.0.2")]).unwrap();
    for (name, request) in [("c2", on("127.0.0.1")), ("c1", publication(Transport::Tcp, 8080, 80))] {
        let refused = publish(&mut net, name, vec![request]).unwrap_err();
        assert!(matches!(refused, CommandError::PortAllocated { port: 8080, .. }), "{refused}");
    }
    assert_eq!(net.host().open(), 2);
}

#[test]
fn range_beyond_the_hosts_descriptors_is_refused_before_any_is_opened() {
    let mut net = lab();
    net.attach();
    let room = u16::try_from(pontoon::core::socket::Sockets::room(net.host())).unwrap();
    let range = |count: u16| (0..count).map(|n| publication(Transport::Tcp, 2000 + n, 80)).collect::<Vec<_>>();
    // Each has a socket of either family.
    let refused = publish(&mut net, "c1", range(room / 2 + 1)).unwrap_err();
    let words = refused.to_string();
    assert!(matches!(refused, CommandError::Bind { failure: Failure::NoFiles, .. }), "{words}");
    for part in [&format!(":{}/tcp", 2000 + room / 2), "10002 descriptors", "10000 are left", "RLIMIT_NOFILE"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(net.host().open(), 0);
    publish(&mut net, "c1", range(room / 2)).unwrap();
    assert_eq!(net.host().open(), usize::from(room));
}

#[test]
fn privileged_port_is_refused_with_the_name_of_its_sysctl() {
    let mut net = lab();
    net.attach();
    for proto in [Transport::Tcp, Transport::Udp] {
        let words = publish(&mut net, "c1", vec![publication(proto, 80, 80)]).unwrap_err().to_string();
        assert!(words.contains("sysctl net.ipv4.ip_unprivileged_port_start=80"), "{words}");
    }
    assert_eq!(net.host().open(), 0);
}

#[test]
fn published_address_is_the_hosts_or_a_gateways() {
    let mut net = lab();
    net.attach();
    let at = |ip: &str, port| PublicationRequest { host_ip: Some(addr(ip)), ..publication(Transport::Tcp, port, 80) };
    assert!(publish(&mut net, "c1", vec![at("198.51.100.77", 8080)]).is_err());
    publish(&mut net, "c1", vec![at(OWN, 8080)]).unwrap();
    assert_eq!(net.host().listeners.values().map(|(at, _)| *at).collect::<Vec<_>>(), [end("192.0.2.10:8080")]);
    publish(&mut net, "c1", vec![at("172.17.0.1", 8081)]).unwrap();
    assert_eq!(net.host().open(), 1, "for containers alone");
}

#[test]
fn withdrawn_port_closes_its_listeners_and_connections_go_on() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Udp, 8080, 80);
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    let mut conn = Conn::accept(&mut net, &a);
    assert_eq!(net.host().open(), 5);
    let ports = vec![publication(Transport::Tcp, 8080, 80), publication(Transport::Udp, 8080, 80)];
    net.apply(Command::Unpublish { name: "c1".to_owned(), ports });
    assert_eq!((net.host().open(), net.host().listeners.len()), (1, 0));
    conn.talk(&mut net, CLIENT);
}

/// One of everything: a connection out, a datagram, an echo request, two published ports and a client.
fn busy(net: &mut Net, name: &str, host: &Host, port: u16) -> Conn {
    let conn = Conn::open(net, host, 40_000, &format!("198.51.100.5:{port}"));
    ask(net, host, 5000, RESOLVER, b"question");
    net.route(host, &ping(&host.ip.unwrap().to_string(), "198.51.100.5", port));
    net.publish(name, Transport::Tcp, port, 80);
    net.publish(name, Transport::Udp, port, 53);
    net.host().knock(Endpoint { addr: addr(OWN), port }, Endpoint { addr: addr("203.0.113.7"), port });
    net.pump();
    Conn::accept(net, host);
    conn
}

/// Sockets that [`busy`] has.
const BUSY: usize = 8;

#[test]
fn detached_container_takes_its_sockets_with_it_and_no_others() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let conn = busy(&mut net, "c1", &a, 8001);
    let mut kept = busy(&mut net, "c2", &b, 8002);
    assert_eq!((net.host().open(), net.flows().len()), (2 * BUSY, 8));
    let (id, _) = net.host().stream(end(&conn.outside));
    // The first half of a datagram that will not come.
    net.route(&a, &udp_with("172.17.0.2:1", RESOLVER, &[1; 3000]).fragments(1480)[0]);

    detach(&mut net, &a);
    assert_eq!(net.host().streams[&id].closed, Some(Close::Reset));
    assert_eq!(net.host().open(), BUSY);
    assert!(net.flows().iter().all(|f| f.name == "c2"));
    kept.talk(&mut net, "198.51.100.5:8002");
    detach(&mut net, &b);
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn successor_with_the_same_address_inherits_nothing() {
    let mut net = lab();
    let a = net.attach();
    // One that is over, of which segments may still be about, and one that is not.
    let mut over = Conn::open(&mut net, &a, 40_000, SERVER);
    net.host().end_from(end(SERVER));
    net.pump();
    over.heard(&mut net);
    over.finish(&mut net);
    assert_eq!(net.got_one(&a).ack(), over.seq);
    Conn::open(&mut net, &a, 40_001, "198.51.100.5:81");
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    detach(&mut net, &a);
    assert_eq!(net.host().open(), 0);

    let b = net.attach();
    assert_eq!(b.ip, a.ip);
    assert_ne!(ask(&mut net, &b, 5000, "198.51.100.54:53", b"question"), at);
    for (port, to) in [(40_000, SERVER), (40_001, "198.51.100.5:81")] {
        Conn::open(&mut net, &b, port, to).talk(&mut net, to);
    }
    assert!(net.flows().iter().all(|f| f.name == "c2"), "{:?}", net.flows());
}

#[test]
fn flush_of_many_flows_over_host_sockets_takes_steps() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    for port in 1..=150 {
        ask(&mut net, &a, 5000, &format!("198.51.100.53:{port}"), b"question");
        Conn::open(&mut net, &a, 40_000 + port, &format!("198.51.100.5:{port}"));
    }
    let mut kept = Conn::open(&mut net, &b, 40_000, "198.51.100.5:8002");
    let mut progress = net.start(Command::FlushFlows { name: Some("c1".to_owned()) });
    let mut steps = 1;
    let flushed = loop {
        match progress {
            Progress::Done(applied) => break applied,
            Progress::More(unfinished) => {
                assert!(net.flows().len() <= 301 - 64 * steps.min(4), "{steps}");
                kept.talk(&mut net, "198.51.100.5:8002");
                progress = net.proceed(unfinished);
                steps += 1;
            }
        }
    };
    assert_eq!((flushed, steps >= 5), (Applied::Flushed(300), true));
    assert_eq!((net.host().open(), net.flows().len()), (1, 1));
}

#[test]
fn flushed_container_keeps_its_published_ports() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    busy(&mut net, "c1", &a, 8001);
    busy(&mut net, "c2", &b, 8002);
    net.quiet_now();
    let flushed = net.apply(Command::FlushFlows { name: Some("c1".to_owned()) });
    assert_eq!(flushed, Applied::Flushed(4), "two connections, a datagram's flow and a ping's");
    assert_eq!(net.host().open(), BUSY + 4, "the four sockets of published ports");
    let resets = net.got(&a).iter().filter(|s| s.proto == TCP && s.flags() & RST != 0).count();
    assert_eq!(resets, 2, "both connections end");
    net.host().knock(end("192.0.2.10:8001"), end("203.0.113.7:9999"));
    net.host().datagram(end("203.0.113.7:9999"), end("192.0.2.10:8001"), b"question");
    net.pump();
    let got = net.got(&a);
    assert_eq!(
        got.iter().map(|s| (s.proto, s.from())).collect::<HashSet<_>>(),
        [(TCP, "203.0.113.7:9999".to_owned()), (UDP, "203.0.113.7:9999".to_owned())].into()
    );
    assert_eq!(net.apply(Command::FlushFlows { name: None }), Applied::Flushed(6));
    assert_eq!((net.host().open(), net.flows()), (8, vec![]));
}

#[test]
fn uplink_that_is_taken_away_leaves_nothing_open() {
    let mut net = lab();
    let a = net.attach();
    busy(&mut net, "c1", &a, 8001);
    let port = net.uplink.unwrap();
    net.apply(Command::Detach { port });
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn connection_that_has_ended_is_listed_as_it_began_with_what_is_left_of_its_wait() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    let mut conn = Conn::accept(&mut net, &a);
    net.host().end_from(end(CLIENT));
    net.pump();
    conn.heard(&mut net);
    conn.finish(&mut net);
    net.secs(3);
    let flows = net.flows();
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    assert_eq!((flow.state, flow.timeout_seconds), ("TIME_WAIT", 7));
    assert_eq!((flow.src, flow.dst, flow.sport, flow.dport), (addr("203.0.113.7"), addr("192.0.2.10"), 5555, 8080));
    assert!(
        flow.line.starts_with("tcp      6 7 TIME_WAIT src=203.0.113.7 dst=192.0.2.10 sport=5555 dport=8080 "),
        "{}",
        flow.line
    );
    let socket = flow.socket.as_ref().unwrap();
    assert_eq!((socket.age_seconds, socket.peer, socket.peer_port), (3, addr("203.0.113.7"), 5555));
}

/// Two containers with all that [`busy`] has, and a flow that is tracked: between them, by the gateway.
fn every_kind_of_flow() -> Net {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    busy(&mut net, "c1", &a, 8001);
    busy(&mut net, "c2", &b, 8002);
    net.route(&b, &udp("172.17.0.3:7000", "172.17.0.1:8001"));
    net
}

#[test]
fn listing_goes_through_all_kinds_of_flows_by_pages() {
    let mut net = every_kind_of_flow();
    let all = net.flows();
    assert_eq!((all.len(), net.stats().flows), (9, 9));
    for max in [1, 2, 3, 5, 9] {
        assert_eq!(net.flows_by(max), all, "by {max}");
    }
}

#[test]
fn each_kind_of_flow_is_listed_once_with_its_container() {
    let all = every_kind_of_flow().flows();
    let count = |name: &str, proto: u8, socket: bool| {
        all.iter().filter(|f| f.name == name && f.proto == proto && f.socket.is_some() == socket).count()
    };
    for name in ["c1", "c2"] {
        assert_eq!((count(name, TCP, true), count(name, UDP, true), count(name, ICMP, true)), (2, 1, 1));
    }
    assert_eq!(all.iter().filter(|f| f.socket.is_none()).count(), 1);
    let ping = all.iter().find(|f| f.proto == ICMP && f.name == "c1").unwrap();
    assert!(ping.line.contains("src=172.17.0.2 dst=198.51.100.5 type=8 code=0 id=8001"), "{}", ping.line);
    let tcp = all.iter().find(|f| f.proto == TCP && f.sport == 40_000 && f.name == "c2").unwrap();
    assert!(tcp.line.contains("src=172.17.0.3 dst=198.51.100.5 sport=40000 dport=8002"), "{}", tcp.line);
    assert_eq!((tcp.state, tcp.socket.as_ref().unwrap().peer_port), ("ESTABLISHED", 8002));
}

#[test]
fn connections_of_equal_ports_do_not_mix() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let mut conns = [Conn::open(&mut net, &a, 40_000, SERVER), Conn::open(&mut net, &b, 40_000, "198.51.100.5:81")];
    let peers = [SERVER, "198.51.100.5:81"];
    for (conn, peer) in conns.iter_mut().zip(peers) {
        conn.talk(&mut net, peer);
    }
    for peer in peers {
        net.host().send_from(end(peer), peer.as_bytes());
    }
    net.pump();
    for (conn, peer) in conns.iter_mut().zip(peers) {
        assert_eq!(conn.heard(&mut net), peer.as_bytes());
    }
}

#[test]
fn datagrams_of_equal_ports_do_not_mix() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let places = [ask(&mut net, &a, 5000, RESOLVER, b"a"), ask(&mut net, &b, 5000, RESOLVER, b"b")];
    assert_ne!(places[0], places[1]);
    for (host, at) in [&a, &b].into_iter().zip(places) {
        net.host().datagram(end(RESOLVER), at, b"answer");
        net.pump();
        assert_eq!(net.got_one(host).dst.to_string(), host.ip.unwrap().to_string());
    }
    assert!(net.got(&a).is_empty() && net.got(&b).is_empty());
}

#[test]
fn pings_of_equal_identifiers_do_not_mix() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    for host in [&a, &b] {
        net.route(host, &ping(&host.ip.unwrap().to_string(), "198.51.100.5", 5));
        // The host gives each identifier once.
        net.host().taken.insert(5);
    }
    let sent = net.host().sent.clone();
    let [first, second] = &sent[..] else { panic!("two requests and not {sent:?}") };
    assert_ne!(first.id, second.id);
    // Answered in the other order.
    for (host, request) in [(&b, second), (&a, first)] {
        let port = net.host().bound(request.id).port;
        let mut reply = request.payload.clone();
        reply[0] = 0;
        reply[4..6].copy_from_slice(&port.to_be_bytes());
        net.host().datagram(end("198.51.100.5:0"), Endpoint { addr: addr(OWN), port }, &reply);
        net.pump();
        let got = net.got_one(host);
        assert_eq!((got.icmp(), got.icmp_id(), got.dst.to_string()), ((0, 0), 5, host.ip.unwrap().to_string()));
    }
    assert!(net.got(&a).is_empty() && net.got(&b).is_empty());
}

#[test]
fn port_that_is_published_to_a_neighbour_is_reached_by_the_gateway_without_a_socket() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    net.publish("c1", Transport::Tcp, 8080, 80);
    let open = net.host().open();
    net.route(&b, &tcp("172.17.0.3:40000", "172.17.0.1:8080", SYN));
    let syn = net.got_one(&a);
    assert_eq!((syn.to(), syn.src.to_string()), ("172.17.0.2:80".to_owned(), "172.17.0.1".to_owned()));
    net.route(&a, &tcp_with("172.17.0.2:80", &syn.from(), SYN | ACK, 5, 1, &[], &[]));
    let answer = net.got_one(&b);
    assert_eq!((answer.from(), answer.to()), ("172.17.0.1:8080".to_owned(), "172.17.0.3:40000".to_owned()));
    net.pump();
    assert_eq!((net.host().open(), net.host().streams.len()), (open, 0));
    assert_eq!(net.flow().socket, None);
}

fn device_uplink() -> Command {
    Command::SetUplink(UplinkConfig { address: addr("192.0.2.112"), mtu: 1500, mss_clamp: false })
}

fn socket_uplink() -> Command {
    Command::SetSocketUplink(Box::new(config()))
}

#[test]
fn sockets_take_no_device_beside_them() {
    let mut net = lab();
    for another in [device_uplink(), socket_uplink()] {
        assert!(matches!(net.try_apply(another), Err(CommandError::Busy { what: "uplink", .. })));
    }
    let a = net.attach();
    Conn::open(&mut net, &a, 40_000, SERVER).talk(&mut net, SERVER);
}

#[test]
fn device_takes_no_sockets_beside_it() {
    let mut net = Net::new();
    net.world.sockets = Some(crate::host::Host::default());
    assert!(matches!(net.try_apply(socket_uplink()), Err(CommandError::Busy { what: "uplink", .. })));
    let a = net.attach();
    net.route(&a, &udp("172.17.0.2:1", SERVER));
    assert_eq!(net.left_one().to(), SERVER);
    assert_eq!(net.host().open(), 0);
}

#[test]
fn world_without_sockets_refuses_them() {
    let mut net = Net::bare(Config::default());
    assert!(net.try_apply(socket_uplink()).is_err());
    net.apply(device_uplink());
}

/// What may happen between two containers and a host.
#[derive(Clone, Debug)]
enum Step {
    /// A packet to the gateway, from one of the addresses that a container may use, with an offload or without.
    Packet {
        host: usize,
        packet: Packet,
        segment: u16,
    },
    /// Only some of its fragments.
    Fragments {
        host: usize,
        packet: Packet,
        size: usize,
        which: u64,
    },
    /// Any bytes.
    Bytes {
        host: usize,
        header: [u8; 10],
        bytes: Vec<u8>,
    },
    /// The host's peers send, end or break off.
    Peer {
        which: usize,
        what: u8,
    },
    /// A client of a published port.
    Client {
        which: usize,
        from: u16,
        udp: bool,
    },
    Pass {
        millis: u64,
    },
    Pump,
}

impl Step {
    /// The protocol and the port (0: of an echo request) of a packet that is for the address of the host's loopback.
    fn asks_the_loopback(&self) -> Option<(u8, u16)> {
        let (Step::Packet { packet, .. } | Step::Fragments { packet, .. }) = self else { return None };
        let port = match packet.proto {
            TCP | UDP => u16::from_be_bytes([packet.body[2], packet.body[3]]),
            _ => 0,
        };
        (packet.dst.to_string() == "10.0.2.2").then_some((packet.proto, port))
    }
}

fn packets() -> impl Strategy<Value = Packet> {
    let inside = (2..6u8).prop_map(|n| format!("172.17.0.{n}"));
    let outside = prop_oneof![
        6 => (1..4u8).prop_map(|n| format!("198.51.100.{n}")),
        1 => prop::sample::select(vec!["172.17.0.1", "10.0.2.2", OWN, "169.254.169.254", "203.0.113.7", "172.17.0.9"])
            .prop_map(str::to_owned),
    ];
    let ports = (prop::sample::select(vec![1u16, 53, 80, 5000]), prop::sample::select(vec![0u16, 53, 80, 8001, 8002]));
    let data = prop::collection::vec(any::<u8>(), 0..3000);
    let flags = prop::sample::select(vec![SYN, SYN, SYN, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, SYN | ACK, 0, 63]);
    let body = (0..9u8, flags, any::<bool>(), 0..3u32, prop::sample::select(vec![1u8, 2, 64]));
    (inside, outside, ports, data, body).prop_map(|(src, dst, (sport, dport), data, (kind, flags, near, step, ttl))| {
        let (from, to) = (format!("{src}:{sport}"), format!("{dst}:{dport}"));
        let seq = if near { 1000 + step } else { step.wrapping_mul(0x7fff_ffff) };
        match kind {
            0..4 => tcp_with(&from, &to, flags, seq, seq, &[], &data),
            4 | 5 => udp_with(&from, &to, &data),
            6 => ping(&src, &dst, sport),
            7 => {
                let quoted = tcp_with(&to, &from, ACK, seq, seq, &[], &data).bytes();
                error(&src, &dst, 3, flags % 5, &quoted)
            }
            _ => other(&src, &dst, 47, &data),
        }
        .ttl(ttl)
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let segment = prop_oneof![3 => Just(0u16), 1 => 1..1500u16];
    prop_oneof![
        12 => (0..2usize, packets(), segment).prop_map(|(host, packet, segment)| Step::Packet { host, packet, segment }),
        3 => (0..2usize, packets(), 1..180usize, any::<u64>()).prop_map(|(host, packet, size, which)| {
            Step::Fragments { host, packet, size: size * 8, which }
        }),
        2 => (0..2usize, any::<[u8; 10]>(), prop::collection::vec(any::<u8>(), 0..120))
            .prop_map(|(host, header, bytes)| Step::Bytes { host, header, bytes }),
        3 => (0..8usize, 0..3u8).prop_map(|(which, what)| Step::Peer { which, what }),
        2 => (0..2usize, 1..4u16, any::<bool>()).prop_map(|(which, from, udp)| Step::Client { which, from, udp }),
        1 => (1..40_000u64).prop_map(|millis| Step::Pass { millis }),
        4 => Just(Step::Pump),
    ]
}

fn go(net: &mut Net, hosts: &[Host; 2], step: &Step) {
    match step {
        Step::Packet { host, packet, segment: 0 } => net.route(&hosts[*host], packet),
        Step::Packet { host, packet, segment } if packet.proto == TCP || packet.proto == UDP => {
            net.route_offloaded(&hosts[*host], &packet.clone().partial(), *segment);
        }
        Step::Packet { host, packet, .. } => net.route(&hosts[*host], packet),
        Step::Fragments { host, packet, size, which } => {
            for (at, part) in packet.fragments(*size).iter().enumerate() {
                if *which == 0 || which >> (at % 64) & 1 == 1 {
                    net.route(&hosts[*host], part);
                }
            }
        }
        Step::Bytes { host, header, bytes } => {
            let gateway = net.gateway_mac();
            let bytes = frame(gateway, hosts[*host].mac, 0x0800, bytes);
            net.input(hosts[*host].port, VnetHeader::read(header), &bytes);
        }
        Step::Peer { which, what } => {
            let mut peers: Vec<Endpoint> =
                net.host().streams.values().filter(|s| s.closed.is_none()).filter_map(|s| s.peer).collect();
            peers.sort();
            if let Some(peer) = peers.get(which % peers.len().max(1)) {
                match what {
                    0 => net.host().send_from(*peer, &[7; 5000]),
                    1 => net.host().end_from(*peer),
                    _ => net.host().break_off(*peer, Failure::Reset),
                }
            }
        }
        Step::Client { which, from, udp } => {
            let at = Endpoint { addr: addr(OWN), port: [8001, 8002][*which] };
            let client = Endpoint { addr: addr("203.0.113.7"), port: *from };
            if *udp {
                net.host().datagram(client, at, b"question");
            } else {
                net.host().knock(at, client);
            }
        }
        Step::Pass { millis } => net.advance(std::time::Duration::from_millis(*millis)),
        Step::Pump => net.pump(),
    }
}

/// Every packet that a container gets can be read, its sums are right, and it does not seem to come from inside.
fn look(net: &mut Net, hosts: &[Host; 2]) {
    for host in hosts {
        for seen in net.got(host) {
            let from = Addr::from(IpAddr::V4(seen.src));
            let inside = seen.src.octets()[..2] == [172, 17] && from != addr("172.17.0.1");
            assert!(!inside && !seen.src.is_loopback() && !seen.src.is_unspecified(), "{seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_containers_send_nothing_of_them_is_left_when_they_are_gone(
        steps in prop::collection::vec(steps(), 1..60)
    ) {
        let mut config = config();
        config.policy.host_loopback = Some(addr("10.0.2.2"));
        let mut net = Net::with_sockets(config);
        net.host().own.insert(addr(OWN));
        let hosts = [(); 2].map(|()| {
            let request = net.request("default");
            net.attach_as(request, Caps::FULL)
        });
        for (name, port) in [("c1", 8001), ("c2", 8002)] {
            net.publish(name, Transport::Tcp, port, 80);
            net.publish(name, Transport::Udp, port, 53);
        }
        for step in &steps {
            go(&mut net, &hosts, step);
            look(&mut net, &hosts);
        }
        net.pump();
        let asked: HashSet<(u8, u16)> = steps.iter().filter_map(Step::asks_the_loopback).collect();
        let connected: Vec<_> = net.host().streams.values().filter_map(|s| s.peer).map(|to| (TCP, to)).collect();
        let sent: Vec<_> =
            net.host().sent.iter().map(|sent| (if sent.to.port == 0 { ICMP } else { UDP }, sent.to)).collect();
        for (proto, to) in connected.into_iter().chain(sent) {
            let leads_there = to.addr.to_string().starts_with("127.");
            prop_assert!(!leads_there || asked.contains(&(proto, to.port)), "{} by {}: {:?}", to.port, proto, asked);
        }

        detach(&mut net, &hosts[0]);
        prop_assert!(net.flows().iter().all(|f| f.name != "c1"));
        detach(&mut net, &hosts[1]);
        prop_assert_eq!(net.host().open(), 0);
        net.secs(700);
        net.pump();
        prop_assert_eq!(net.flows(), []);
        prop_assert_eq!(net.host().open(), 0);
    }
}
