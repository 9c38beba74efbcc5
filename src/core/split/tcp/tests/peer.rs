//! A container's TCP by hand: a test says which segment comes, and looks at what is answered.

use std::time::Duration;

use super::bed::{ACK, Bed, Endpoint, FIN, SYN, Seg, end};
use super::published::Port;
use crate::core::counters::DropReason;
use crate::core::socket::{Failure, Ready, SocketId};
use crate::core::split::tcp::Config;

/// The container's initial sequence number: the streams wrap early.
pub const ISN: u32 = 0xffff_fff0;

/// MSS 1460, SACK, scale 7; no timestamps.
pub const OPTIONS: [u8; 12] = [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7];

/// One connection and both its ends.
pub struct Peer {
    pub bed: Bed,
    pub me: Endpoint,
    pub far: Endpoint,
    /// The container's next sequence number.
    pub seq: u32,
    /// Our next, as the container knows it.
    pub ack: u32,
    /// Unscaled.
    pub window: u16,
    pub id: SocketId,
}

impl Peer {
    /// A container that has sent its SYN; the host has not decided.
    pub fn connecting(config: Config, options: &[u8]) -> Peer {
        Peer::from(Bed::new(config), options)
    }

    pub fn from(bed: Bed, options: &[u8]) -> Peer {
        Peer::between(bed, end("172.17.0.2", 40_000), end("198.51.100.5", 80), options)
    }

    /// The same between two other ends.
    pub fn between(bed: Bed, me: Endpoint, far: Endpoint, options: &[u8]) -> Peer {
        let mut peer = Peer { bed, me, far, seq: ISN, ack: 0, window: 0xffff, id: SocketId(0) };
        let syn = Seg { options: options.to_vec(), ..peer.seg(SYN, b"") };
        peer.bed.input(&syn).unwrap();
        assert_eq!(peer.bed.sent(), [], "silence until the host is connected");
        peer.id = peer.bed.socket().0;
        peer
    }

    /// One whose SYN was answered.
    pub fn received(config: Config, options: &[u8]) -> Peer {
        let mut peer = Peer::connecting(config, options);
        peer.bed.decide(peer.id, Ok(()));
        let answer = peer.one();
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, ISN.wrapping_add(1)));
        peer.seq = ISN.wrapping_add(1);
        peer.ack = answer.seq.wrapping_add(1);
        peer
    }

    /// One that is asked, by our SYN, to take a client of its published port.
    pub fn asked(config: Config) -> Peer {
        let mut port = Port::new(config);
        let syn = port.client(end("203.0.113.9", 50_000)).unwrap();
        let id = *port.bed.world.sockets.keys().last().unwrap();
        let seq = ISN.wrapping_add(1);
        Peer { bed: port.bed, me: syn.to, far: syn.from, seq, ack: syn.seq.wrapping_add(1), window: 0xffff, id }
    }

    /// One that is established.
    pub fn new(config: Config) -> Peer {
        Peer::with(config, &OPTIONS)
    }

    pub fn with(config: Config, options: &[u8]) -> Peer {
        let mut peer = Peer::received(config, options);
        peer.send(ACK, b"");
        assert_eq!(peer.bed.sent(), []);
        assert_eq!(peer.bed.states(), ["ESTABLISHED"]);
        peer
    }

    /// A segment as it would be sent now.
    pub fn seg(&self, flags: u8, data: &[u8]) -> Seg {
        Seg {
            from: self.me,
            to: self.far,
            seq: self.seq,
            ack: if flags & ACK != 0 { self.ack } else { 0 },
            flags,
            window: self.window,
            urgent: 0,
            tos: 0,
            options: Vec::new(),
            data: data.to_vec(),
            gso: 0,
        }
    }

    /// Sends the next segment.
    pub fn send(&mut self, flags: u8, data: &[u8]) {
        let seg = self.seg(flags, data);
        self.seq = self.seq.wrapping_add(data.len() as u32 + u32::from(flags & FIN != 0));
        self.bed.input(&seg).unwrap();
    }

    /// Sends a segment that lies `offset` beyond the next, and does not count it.
    pub fn stray(&mut self, offset: i32, flags: u8, data: &[u8]) -> Result<(), DropReason> {
        let seq = self.seq.wrapping_add_signed(offset);
        self.bed.input(&Seg { seq, ..self.seg(flags, data) })
    }

    /// Acknowledges up to `ack`.
    pub fn acknowledge(&mut self, ack: u32) {
        self.ack = ack;
        self.send(ACK, b"");
    }

    /// Acknowledges with SACK blocks.
    pub fn sack(&mut self, ack: u32, blocks: &[(u32, u32)]) {
        self.ack = ack;
        let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (left, right) in blocks {
            options.extend(left.to_be_bytes());
            options.extend(right.to_be_bytes());
        }
        let seg = Seg { options, ..self.seg(ACK, b"") };
        self.bed.input(&seg).unwrap();
    }

    /// Opens another connection of the same container; an acknowledgement as it would be sent in it now.
    pub fn another(&mut self, port: u16) -> Seg {
        let from = end("172.17.0.2", port);
        let syn = Seg { from, seq: ISN, ack: 0, options: OPTIONS.to_vec(), ..self.seg(SYN, b"") };
        self.bed.input(&syn).unwrap();
        let id = *self.bed.world.sockets.keys().last().unwrap();
        self.bed.decide(id, Ok(()));
        let (seq, ack) = (ISN.wrapping_add(1), self.one().seq.wrapping_add(1));
        let opened = Seg { seq, ack, flags: ACK, options: Vec::new(), ..syn };
        self.bed.input(&opened).unwrap();
        opened
    }

    /// One whose window is closed while "before the error", and then an error, wait at the host.
    pub fn failed_behind_a_closed_window() -> Peer {
        let mut peer = Peer::new(Config::default());
        peer.window = 0;
        peer.send(ACK, b"");
        assert_eq!(peer.host_sends(b"before the error"), []);
        peer.bed.world.sockets.get_mut(&peer.id).unwrap().recv_error = Some(Failure::Reset);
        let failed = Ready { readable: true, writable: true, error: true };
        peer.bed.tcp.socket_ready(peer.id, failed, peer.bed.now, &mut peer.bed.world);
        peer
    }

    /// One that the host ended first and the container then; our last acknowledgement is still to be looked at.
    pub fn in_time_wait() -> Peer {
        let mut peer = Peer::new(Config::default());
        peer.host_ends();
        peer.acknowledge(peer.ack.wrapping_add(1));
        peer.send(FIN | ACK, b"");
        assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
        peer
    }

    /// The only segment that was sent since.
    #[track_caller]
    pub fn one(&mut self) -> Seg {
        let mut sent = self.bed.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// The host's peer sends; what came to the container.
    pub fn host_sends(&mut self, data: &[u8]) -> Vec<Seg> {
        self.bed.world.sockets.get_mut(&self.id).unwrap().inbox.extend(data);
        self.bed.events();
        self.bed.sent()
    }

    /// The host's peer ends.
    pub fn host_ends(&mut self) -> Vec<Seg> {
        self.bed.world.sockets.get_mut(&self.id).unwrap().eof = true;
        self.bed.events();
        self.bed.sent()
    }

    /// What the host's peer got.
    pub fn got(&self) -> &[u8] {
        &self.bed.world.sockets[&self.id].outbox
    }

    /// How much more the socket takes.
    pub fn set_room(&mut self, room: usize) {
        self.bed.world.sockets.get_mut(&self.id).unwrap().room = room;
        self.bed.events();
    }

    pub fn pass(&mut self, millis: u64) -> Vec<Seg> {
        self.bed.pass(Duration::from_millis(millis));
        self.bed.sent()
    }
}

/// Bytes whose place shows.
pub fn ramp(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 251) as u8).collect()
}
