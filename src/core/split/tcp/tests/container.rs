//! A container's TCP by hand: a test says which segment comes, and looks at what is answered.

use std::time::Duration;

use super::bed::{ACK, Bed, Endpoint, FIN, PSH, RST, SYN, Seg, end};
use crate::core::counters::DropReason;
use crate::core::socket::{SocketId, Sockets};
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
        let (me, far) = (end("172.17.0.2", 40_000), end("198.51.100.5", 80));
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

fn ramp(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 251) as u8).collect()
}

#[test]
fn syn_is_answered_only_when_the_host_is_connected() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    assert_eq!(peer.bed.socket().1.to, Some(peer.far));
    assert_eq!(peer.bed.socket().1.marks, [(64, 0)]);
    // It comes again, and changes nothing.
    let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") };
    peer.bed.input(&syn).unwrap();
    assert_eq!(peer.bed.world.sockets.len(), 1);
    peer.bed.decide(peer.id, Ok(()));
    let answer = peer.one();
    assert_eq!((answer.flags, answer.window), (SYN | ACK, 0xffff));
    assert_eq!(answer.options, [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 4]);
    peer.seq = ISN.wrapping_add(1);
    peer.ack = answer.seq.wrapping_add(1);
    peer.send(ACK | PSH, b"hello");
    let ack = peer.one();
    assert_eq!((ack.flags, ack.ack), (ACK, peer.seq));
    assert_eq!(u32::from(ack.window) << 4, 256 << 10, "the window from the first acknowledgement on");
    assert_eq!(peer.got(), b"hello");
}

#[test]
fn reset_of_either_end_resets_the_other() {
    let mut peer = Peer::new(Config::default());
    peer.send(RST | ACK, b"");
    assert_eq!(peer.bed.sent(), []);
    assert_eq!(peer.bed.last_socket().closed, Some(crate::core::socket::Close::Reset));
    peer.bed.assert_empty();

    let mut peer = Peer::new(Config::default());
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().recv_error = Some(crate::core::socket::Failure::Reset);
    peer.bed.events();
    let rst = peer.one();
    assert_eq!((rst.flags, rst.seq), (RST | ACK, peer.ack));
    assert!(Sockets::room(&peer.bed.world) > 0);
    peer.bed.assert_empty();
}

#[test]
fn hole_is_told_by_sack_and_filled() {
    let mut peer = Peer::new(Config::default());
    peer.stray(1000, ACK, &ramp(2500)[1000..2000]).unwrap();
    let ack = peer.one();
    assert_eq!((ack.ack, ack.sacks()), (peer.seq, vec![(peer.seq.wrapping_add(1000), peer.seq.wrapping_add(2000))]));
    peer.send(ACK, &ramp(1000));
    let ack = peer.one();
    assert_eq!((ack.ack, ack.sacks()), (peer.seq.wrapping_add(1000), vec![]));
    assert_eq!(peer.got(), &ramp(2000)[..]);
}

/// What a container may not send beyond.
fn edge(seg: &Seg, scale: u8) -> u32 {
    seg.ack.wrapping_add(u32::from(seg.window) << scale)
}

#[test]
fn all_that_is_stored_is_acknowledged_and_the_right_edge_never_moves_left() {
    let mut peer = Peer::new(Config::default());
    peer.set_room(1000);
    let data = ramp(600_000);
    let mut last = ISN.wrapping_add(1);
    let mut at = 0;
    loop {
        let len = 1461.min(data.len() - at); // an odd size
        let room = last.wrapping_sub(peer.seq) as usize;
        if at > 0 && room < len {
            break;
        }
        peer.send(ACK, &data[at..at + len]);
        at += len;
        let ack = peer.one();
        assert_eq!(ack.ack, peer.seq, "everything is stored");
        assert!(edge(&ack, 4).wrapping_sub(last) as i32 >= 0, "the edge moved left");
        last = edge(&ack, 4);
    }
    assert!(at >= 256 << 10, "{at}");
    assert_eq!(peer.got(), &data[..1000]);
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().room = usize::MAX;
    peer.bed.events();
    assert_eq!(peer.got(), &data[..at]);
    let update = peer.bed.sent();
    assert!(!update.is_empty(), "the window is told when it has opened");
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
}

#[test]
fn closed_window_is_asked_about_and_costs_no_memory() {
    let mut peer = Peer::new(Config::default());
    peer.window = 0;
    peer.send(ACK, b"");
    assert_eq!(peer.host_sends(&ramp(100_000)), []);
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
    for _ in 0..20 {
        let at = peer.bed.tcp.next_timeout().unwrap();
        peer.bed.pass(at.since(peer.bed.now));
        let probe = peer.one();
        assert!(probe.seq == peer.ack.wrapping_sub(1) && probe.data.is_empty());
        peer.send(ACK, b"");
    }
    peer.window = 100;
    peer.send(ACK, b"");
    let sent = peer.bed.sent();
    assert_eq!((sent[0].data.len(), sent.len()), (8 * 1460, 1), "whole segments of what it allows");
    assert_eq!(peer.bed.states(), ["ESTABLISHED"]);
}

#[test]
fn container_that_never_answers_a_probe_is_given_up() {
    let mut peer = Peer::new(Config::default());
    peer.window = 0;
    peer.send(ACK, b"");
    peer.host_sends(b"hello");
    let sent = peer.pass(400_000);
    assert_eq!(sent.last().unwrap().flags, RST | ACK);
    assert_eq!(sent.len(), 8, "seven questions");
    assert_eq!(peer.bed.last_socket().closed, Some(crate::core::socket::Close::Reset));
    peer.bed.assert_empty();
}

#[test]
fn lost_super_frame_is_sent_again_as_one() {
    let mut peer = Peer::new(Config::default());
    let data = ramp(192_720);
    let first = peer.host_sends(&data);
    assert!(first.iter().all(|s| s.gso == 1460), "{:?}", first.iter().map(|s| s.data.len()).collect::<Vec<_>>());
    let (lost, next) = (&first[1], &first[2]);
    peer.sack(lost.seq, &[(next.seq, next.seq.wrapping_add(next.data.len() as u32))]);
    let again = peer.bed.sent();
    assert_eq!(again[0].seq, lost.seq);
    assert!(again[0].data == lost.data);
    peer.acknowledge(peer.ack.wrapping_add(data.len() as u32 - lost.seq.wrapping_sub(first[0].seq)));
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
    assert_eq!(peer.bed.tcp.stats().retransmits, 1);
}

#[test]
fn half_close_lasts_as_long_as_the_container_answers() {
    let mut peer = Peer::new(Config::default());
    let fin = peer.host_ends();
    assert!(fin[0].has(FIN | ACK) && fin.len() == 1);
    peer.acknowledge(fin[0].seq.wrapping_add(1));
    assert_eq!(peer.bed.states(), ["FIN_WAIT2"]);
    for _ in 0..600 {
        let probes = peer.pass(61_000);
        assert_eq!(probes.len(), 1);
        assert_eq!(probes[0].seq, peer.ack.wrapping_sub(1));
        peer.send(ACK, b"");
    }
    peer.send(ACK | PSH, b"still here");
    assert_eq!(peer.got(), b"still here");
    peer.bed.sent();
    peer.send(FIN | ACK, b"");
    assert_eq!(peer.bed.last_socket().closed, Some(crate::core::socket::Close::Orderly));
    assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
    assert_eq!(peer.one().ack, peer.seq);
    peer.bed.assert_empty();
}
