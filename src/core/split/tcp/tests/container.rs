//! A container's TCP by hand: a test says which segment comes, and looks at what is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bed::{ACK, Bed, Endpoint, FIN, PSH, RST, SYN, Seg, URG, end};
use crate::core::counters::DropReason;
use crate::core::socket::{Close, Failure, Mark, Ready, SocketId};
use crate::core::split::tcp::Config;
use crate::core::split::tcp::segment::later;
use crate::wire::addr::Addr;
use crate::wire::{checksum, get32};

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

    fn between(bed: Bed, me: Endpoint, far: Endpoint, options: &[u8]) -> Peer {
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

    /// Opens another connection of the same container; an acknowledgement as it would be sent in it now.
    fn another(&mut self, port: u16) -> Seg {
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
fn what_the_host_decides_at_once_is_told_at_once() {
    for (outcome, flags) in [(Ok(()), SYN | ACK), (Err(Failure::Refused), RST | ACK)] {
        let mut bed = Bed::new(Config::default());
        bed.world.outcome = Some(outcome);
        let mut peer = Peer { bed, me: end("172.17.0.2", 40_000), ..Peer::connecting(Config::default(), &OPTIONS) };
        let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") };
        peer.bed.input(&syn).unwrap();
        assert_eq!(peer.one().flags, flags);
    }
}

#[test]
fn what_a_host_says_before_the_container_knows_of_it_is_not_lost() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    let sock = peer.bed.world.sockets.get_mut(&peer.id).unwrap();
    sock.outcome = Some(Ok(()));
    sock.inbox.extend(b"hello");
    let both = Ready { readable: true, writable: true, error: false };
    peer.bed.tcp.socket_ready(peer.id, both, peer.bed.now, &mut peer.bed.world);
    let answer = peer.one();
    peer.ack = answer.seq.wrapping_add(1);
    peer.seq = peer.seq.wrapping_add(1);
    peer.bed.input(&peer.seg(ACK, b"")).unwrap();
    assert_eq!(peer.bed.sent()[0].data, b"hello");
}

#[test]
fn syn_is_answered_only_when_the_host_is_connected() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    assert_eq!((peer.bed.socket().1.to, peer.bed.socket().1.mss), (Some(peer.far), 1460));
    assert_eq!(peer.bed.socket().1.marks, [Mark { ttl: 64, tos: 0 }]);
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
fn reset_of_the_container_resets_the_host() {
    let mut peer = Peer::new(Config::default());
    peer.send(RST | ACK, b"");
    assert_eq!(peer.bed.sent(), []);
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    peer.bed.assert_empty();
}

#[test]
fn reset_of_the_host_resets_the_container() {
    let mut peer = Peer::new(Config::default());
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().recv_error = Some(Failure::Reset);
    peer.bed.events();
    let rst = peer.one();
    assert_eq!((rst.flags, rst.seq), (RST | ACK, peer.ack));
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
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
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
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Orderly));
    assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
    assert_eq!(peer.one().ack, peer.seq);
    peer.bed.assert_empty();
}

#[test]
fn error_after_data_ends_in_a_reset_behind_the_data_and_never_in_a_fin() {
    for by_send in [false, true] {
        let mut peer = Peer::new(Config::default());
        let data = ramp(10_000);
        let sock = peer.bed.world.sockets.get_mut(&peer.id).unwrap();
        sock.inbox.extend(&data);
        sock.recv_error = Some(Failure::Reset);
        if by_send {
            sock.send_error = Some(Failure::Reset);
            peer.send(ACK | PSH, b"x");
        }
        peer.bed.events();
        let sent = peer.bed.sent();
        assert_eq!(sent.iter().map(|s| s.data.len()).sum::<usize>(), data.len());
        assert!(sent.iter().all(|s| s.flags & (FIN | RST) == 0), "the data comes first");
        peer.acknowledge(peer.ack.wrapping_add(10_000));
        let last = peer.one();
        assert_eq!((last.flags, last.seq), (RST | ACK, peer.ack));
        peer.bed.assert_empty();
    }
}

#[test]
fn error_is_latched_while_data_before_it_still_waits() {
    let mut peer = Peer::new(Config::default());
    peer.window = 0;
    peer.send(ACK, b"");
    assert_eq!(peer.host_sends(b"before the error"), []);
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().recv_error = Some(Failure::Reset);
    let failed = Ready { readable: true, writable: true, error: true };
    peer.bed.tcp.socket_ready(peer.id, failed, peer.bed.now, &mut peer.bed.world);
    assert_eq!((peer.bed.rows()[0].error, peer.bed.states()), (Some(Failure::Reset), vec!["ESTABLISHED"]));
    assert_eq!(peer.one().flags, ACK, "no more than its window");
    peer.window = 0xffff;
    peer.send(ACK, b"");
    let data = peer.one();
    assert_eq!(data.data, b"before the error");
    peer.acknowledge(data.seq.wrapping_add(16));
    assert_eq!(peer.one().flags, RST | ACK);
    peer.bed.assert_empty();
}

#[test]
fn error_after_the_hosts_end_is_told_by_a_reset() {
    let mut peer = Peer::new(Config::default());
    assert!(peer.host_ends()[0].has(FIN));
    peer.acknowledge(peer.ack.wrapping_add(1));
    let sock = peer.bed.world.sockets.get_mut(&peer.id).unwrap();
    (sock.eof, sock.recv_error) = (false, Some(Failure::Reset));
    let ready = Ready { error: true, ..Ready::default() };
    peer.bed.tcp.socket_ready(peer.id, ready, peer.bed.now, &mut peer.bed.world);
    assert!(peer.one().has(RST));
    peer.bed.assert_empty();
}

#[test]
fn both_may_end_at_once() {
    let mut peer = Peer::new(Config::default());
    let fin = peer.host_ends();
    assert!(fin[0].has(FIN));
    // Its FIN does not acknowledge ours.
    peer.send(FIN | ACK, b"");
    assert_eq!(peer.one().ack, peer.seq);
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Orderly));
    peer.acknowledge(peer.ack.wrapping_add(1));
    assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
    peer.bed.assert_empty();
}

#[test]
fn container_that_ends_first_leaves_nothing_behind() {
    let mut peer = Peer::new(Config::default());
    peer.set_room(3);
    peer.send(FIN | ACK | PSH, b"farewell");
    assert_eq!(peer.bed.states(), ["CLOSE_WAIT"]);
    assert!(!peer.bed.socket().1.finished, "not before its last byte");
    peer.set_room(100);
    assert!(peer.bed.socket().1.finished && peer.got() == b"farewell");
    peer.bed.sent();
    let sent = peer.host_sends(b"the answer");
    assert_eq!(sent[0].data, b"the answer");
    let fin = peer.host_ends();
    assert!(fin[0].has(FIN));
    peer.acknowledge(fin[0].seq.wrapping_add(1));
    assert_eq!(peer.bed.states(), [""; 0]);
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Orderly));
    peer.bed.assert_empty();
}

/// Whoever has said and heard both ends has no socket any more, and answers what still comes by a reset.
#[test]
fn reset_after_both_ends_takes_nothing_back_that_was_acknowledged() {
    for host_first in [true, false] {
        let mut peer = Peer::new(Config::default());
        peer.set_room(0);
        let data = ramp(50_000);
        if host_first {
            let fin = peer.host_ends();
            peer.acknowledge(fin[0].seq.wrapping_add(1));
            peer.send(FIN | ACK | PSH, &data);
        } else {
            peer.send(FIN | ACK | PSH, &data);
            peer.bed.sent();
            let fin = peer.host_ends();
            peer.acknowledge(fin[0].seq.wrapping_add(1));
        }
        peer.bed.sent();
        // The host takes its time; nobody who could answer is asked.
        assert_eq!(peer.pass(600_000).len(), 0);
        assert_eq!(peer.stray(0, RST, b""), Err(DropReason::InvalidState));
        assert_eq!(peer.bed.socket().1.closed, None);
        peer.set_room(100_000);
        assert!(peer.got() == data);
        assert_eq!(peer.bed.last_socket().closed, Some(Close::Orderly));
        assert_eq!(peer.bed.states(), if host_first { &["TIME_WAIT"][..] } else { &[] });
    }
}

#[test]
fn fin_out_of_order_is_remembered() {
    let mut peer = Peer::new(Config::default());
    peer.stray(5, FIN | ACK, b"").unwrap();
    assert_eq!(peer.one().ack, peer.seq);
    peer.send(ACK, b"12345");
    peer.seq = peer.seq.wrapping_add(1);
    assert_eq!(peer.one().ack, peer.seq);
    assert_eq!(peer.bed.states(), ["CLOSE_WAIT"]);
}

#[test]
fn failed_connects_are_told_as_what_they_are() {
    for (why, flags, icmp, counted) in [
        (Failure::Refused, Some(RST | ACK), None, None),
        (Failure::Reset, Some(RST | ACK), None, None),
        (Failure::HostUnreachable, None, Some(1), None),
        (Failure::NetUnreachable, None, Some(0), None),
        (Failure::Prohibited, None, Some(13), None),
        (Failure::TimedOut, None, None, Some(DropReason::ConnectTimeout)),
        (Failure::NoAddress, None, None, Some(DropReason::PortsExhausted)),
    ] {
        let mut peer = Peer::connecting(Config::default(), &OPTIONS);
        peer.bed.decide(peer.id, Err(why));
        if let Some(flags) = flags {
            let rst = peer.one();
            assert_eq!((rst.flags, rst.seq, rst.ack), (flags, 0, ISN.wrapping_add(1)));
        } else if let Some(code) = icmp {
            let packet = peer.bed.packets().remove(0);
            assert_eq!((packet[9], packet[20], packet[21]), (1, 3, code), "{why:?}");
            assert_eq!(packet[12..16], [172, 17, 0, 1]);
            assert_eq!(get32(&packet, 28 + 24), ISN, "the SYN is quoted");
            assert_eq!(checksum::sum(&packet[20..]), 0xffff);
        }
        assert!(peer.bed.world.out.is_empty());
        assert_eq!(peer.bed.world.counted.pop(), counted);
        peer.bed.assert_empty();
        // The same when connect itself says so.
        let mut bed = Bed::new(Config::default());
        bed.world.connect = Err(why);
        let syn = peer.seg(SYN, b"");
        let result = bed.input(&syn);
        assert_eq!(result.err(), (why == Failure::NoAddress).then_some(DropReason::PortsExhausted));
        assert_eq!(bed.world.out.len(), usize::from(flags.is_some() || icmp.is_some()));
        bed.world.sockets.clear();
        bed.assert_empty();
    }
}

#[test]
fn syn_flood_is_bounded_and_the_oldest_gives_way() {
    let config = Config { half_open_per_port: 10, ..Config::default() };
    let mut bed = Bed::new(config);
    let peer = Peer::connecting(Config::default(), &OPTIONS);
    for port in 1000..2000 {
        let syn = Seg { from: end("172.17.0.2", port), ..peer.seg(SYN, b"") };
        bed.input(&syn).unwrap();
        let open: Vec<u16> = bed.rows().iter().map(|r| r.tuple.sport).collect();
        assert!(open.len() <= 10 && open.contains(&port) && open.iter().all(|p| *p + 10 > port));
    }
    assert_eq!(bed.world.counted.len(), 990);
    assert_eq!(bed.world.sockets.values().filter(|s| s.closed.is_none()).count(), 10);
    bed.pass(Duration::from_secs(200));
    bed.assert_empty();
}

#[test]
fn data_on_a_syn_is_not_lost() {
    let mut bed = Bed::new(Config::default());
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"early") };
    bed.input(&syn).unwrap();
    let id = bed.socket().0;
    bed.decide(id, Ok(()));
    let answer = bed.sent().remove(0);
    assert_eq!(answer.ack, ISN.wrapping_add(1), "the SYN alone is acknowledged");
    (peer.seq, peer.ack) = (ISN.wrapping_add(1), answer.seq.wrapping_add(1));
    let again = peer.seg(ACK, b"early");
    bed.input(&again).unwrap();
    assert_eq!(bed.world.sockets[&id].outbox, b"early");
}

#[test]
fn urgent_byte_stays_urgent_and_in_its_place() {
    let mut peer = Peer::new(Config::default());
    let urgent = Seg { urgent: 3, flags: ACK | PSH | 0x20, ..peer.seg(ACK, b"abcdef") };
    peer.bed.input(&urgent).unwrap();
    assert_eq!(peer.got(), b"abcdef");
    assert_eq!(peer.bed.world.sockets[&peer.id].urgent, [2]);
}

#[test]
fn urgent_byte_of_the_host_is_marked_in_a_segment_of_its_own_and_when_it_is_sent_again() {
    let mut peer = Peer::new(Config::default());
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().mark = Some(2);
    let sent = peer.host_sends(b"abcdef");
    let told: Vec<_> = sent.iter().map(|s| (&s.data[..], s.has(URG), s.urgent)).collect();
    assert_eq!(told, [(&b"ab"[..], false, 0), (b"c", true, 1), (b"def", false, 0)]);
    let again = peer.pass(300).remove(0);
    assert_eq!((&again.data[..], again.has(URG), again.urgent), (&b"abcdef"[..], true, 3));
    peer.acknowledge(peer.ack.wrapping_add(6));
    let later = peer.host_sends(b"ghi").remove(0);
    assert_eq!((later.has(URG), later.urgent), (false, 0));
}

#[test]
fn type_of_service_is_followed_and_the_time_to_live_of_the_syn_stays() {
    let mut peer = Peer::new(Config::default());
    let cs1 = Seg { tos: 0x20, ..peer.seg(ACK | PSH, b"hello") };
    peer.bed.input(&cs1).unwrap();
    assert_eq!(peer.bed.socket().1.marks, [Mark { ttl: 64, tos: 0 }, Mark { ttl: 64, tos: 0x20 }]);
}

#[test]
fn lost_tail_is_asked_about_by_its_last_packet_long_before_the_timeout() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(14_600)).remove(0);
    let end = frame.seq.wrapping_add(14_600);
    // A kernel whose reader stands still delays its acknowledgement by 40 ms and more, of any number of packets.
    assert_eq!(peer.pass(99), []);
    let probe = peer.pass(1).remove(0);
    assert_eq!((probe.seq, probe.data == ramp(14_600)[13_140..]), (end.wrapping_sub(1460), true));
    // All but the probe is missing: told by its answer, sent again at once.
    peer.sack(frame.seq, &[(probe.seq, end)]);
    let again = peer.one();
    assert_eq!((again.seq, again.data.len()), (frame.seq, 13_140));
    peer.acknowledge(end);
    assert_eq!((peer.bed.tcp.stats().retransmits, peer.bed.tcp.stats().losses), (2, 1));
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
    // What follows is not taken for a second loss.
    let more = peer.host_sends(&ramp(14_600)).remove(0);
    peer.acknowledge(more.seq.wrapping_add(more.data.len() as u32));
    assert_eq!(peer.bed.tcp.stats().losses, 1);
}

#[test]
fn probe_that_mends_a_loss_counts_as_one_and_a_needless_one_does_not() {
    for needless in [false, true] {
        let mut peer = Peer::new(Config::default());
        let frame = peer.host_sends(&ramp(14_600)).remove(0);
        let end = frame.seq.wrapping_add(14_600);
        let probe = peer.pass(100).remove(0);
        if needless {
            peer.acknowledge(end);
            peer.sack(end, &[(probe.seq, end)]);
        } else {
            peer.acknowledge(end);
        }
        let cwnd = peer.bed.rows()[0].cwnd;
        let more = peer.host_sends(&ramp(29_200)).remove(0);
        peer.acknowledge(more.seq.wrapping_add(more.data.len() as u32));
        assert_eq!(peer.bed.tcp.stats().losses, u64::from(!needless));
        assert_eq!(peer.bed.rows()[0].cwnd < cwnd, !needless);
    }
}

#[test]
fn unanswered_probe_leaves_the_timeout_where_it_was() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(14_600)).remove(0);
    assert_eq!(peer.pass(100).len(), 1);
    assert_eq!(peer.pass(199), []);
    let again = peer.pass(1).remove(0);
    assert_eq!((again.seq, again.data.len()), (frame.seq, 14_600));
    assert_eq!(peer.pass(599), [], "one probe, then the timeout doubles");
}

#[test]
fn single_packet_whose_answer_may_be_delayed_waits_for_the_timeout() {
    let mut peer = Peer::new(Config::default());
    peer.host_sends(&ramp(1000));
    assert_eq!(peer.pass(299), []);
    assert_eq!(peer.pass(1).len(), 1);
}

#[test]
fn nothing_is_sent_again_while_a_reader_that_stands_may_delay_its_acknowledgement() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(29_200)).remove(0);
    // Half of it has come, and nobody has read it: the right edge stays where it was.
    peer.window -= 14_600 >> 7;
    peer.acknowledge(frame.seq.wrapping_add(14_600));
    assert_eq!(peer.pass(299), []);
    assert_eq!(peer.pass(1).len(), 1, "the timeout");
}

#[test]
fn end_behind_lost_data_is_asked_about_too() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(14_600)).remove(0);
    let fin = peer.host_ends().remove(0);
    let probe = peer.pass(100).remove(0);
    assert_eq!((probe.seq, probe.flags), (fin.seq, ACK | FIN));
    peer.sack(frame.seq, &[(fin.seq, fin.seq.wrapping_add(1))]);
    assert_eq!(peer.one().data.len(), 14_600);
}

#[test]
fn smallest_mss_makes_frames_of_at_most_128_segments() {
    let mut options = OPTIONS;
    options[2..4].copy_from_slice(&50_u16.to_be_bytes());
    let mut peer = Peer::with(Config::default(), &options);
    let sent = peer.host_sends(&ramp(100_000));
    assert!(sent.len() >= 8 && sent.iter().all(|s| s.data.len() <= 128 * 88));
    assert_eq!(sent[0].gso, 88);
}

#[test]
fn old_timestamps_are_dropped_and_new_ones_echoed() {
    let stamps = |value: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &[0; 4]].concat();
    let options = [&OPTIONS[..], &stamps(1000)].concat();
    let mut peer = Peer::received(Config::default(), &options);
    let send = |peer: &mut Peer, value: u32, data: &[u8]| {
        let seg = Seg { options: stamps(value), ..peer.seg(ACK, data) };
        let result = peer.bed.input(&seg);
        if result.is_ok() {
            peer.seq = peer.seq.wrapping_add(data.len() as u32);
        }
        result
    };
    send(&mut peer, 1001, b"one").unwrap();
    let ack = peer.one();
    assert_eq!(ack.options[8..12], 1001_u32.to_be_bytes());
    let ours = get32(&ack.options, 4);
    assert_eq!(send(&mut peer, 1000, b"old"), Err(DropReason::InvalidState));
    assert_eq!(peer.one().ack, peer.seq, "and acknowledged (RFC 7323 5.3)");
    peer.pass(1234);
    send(&mut peer, 1002, b"two").unwrap();
    assert_eq!(get32(&peer.one().options, 4), ours.wrapping_add(1234), "milliseconds");
    assert_eq!(peer.got(), b"onetwo");
    let sent = peer.host_sends(&ramp(5000));
    assert_eq!(sent[0].gso, 1448, "the option is part of the segment");
}

#[test]
fn what_came_last_is_told_first() {
    let mut peer = Peer::new(Config::default());
    for n in 1..=32 {
        peer.stray(n * 20, ACK, b"piece").unwrap();
        let at = peer.seq.wrapping_add_signed(n * 20);
        assert_eq!(peer.one().sacks()[0], (at, at.wrapping_add(5)));
    }
}

#[test]
fn what_waits_before_its_turn_is_bounded() {
    let mut peer = Peer::new(Config::default());
    for n in 1..1000 {
        let _ = peer.stray(n * 20, ACK, b"piece"); // refused when there are too many
        assert!(peer.one().sacks().len() <= 4);
    }
    assert!(peer.bed.tcp.memory().0 <= 32 * 2048);
}

#[test]
fn challenge_answers_what_an_attacker_could_send() {
    let mut peer = Peer::new(Config::default());
    for (offset, flags) in [(1, RST), (5000, RST | ACK), (0, SYN), (5000, SYN)] {
        assert_eq!(peer.stray(offset, flags, b""), Err(DropReason::InvalidState));
        let challenge = peer.one();
        assert_eq!((challenge.flags, challenge.seq, challenge.ack), (ACK, peer.ack, peer.seq));
        assert_eq!(peer.stray(offset, flags, b""), Err(DropReason::InvalidState));
        assert_eq!(peer.bed.sent(), [], "not twice at once");
        peer.pass(100);
    }
    assert_eq!(peer.stray(-5000, RST, b""), Err(DropReason::InvalidState));
    assert_eq!(peer.bed.sent(), []);
    assert_eq!(peer.bed.states(), ["ESTABLISHED"]);
}

#[test]
fn keepalive_of_the_container_is_asked_of_the_host() {
    let mut peer = Peer::new(Config::default());
    peer.stray(-1, ACK, b"").unwrap();
    assert!(peer.bed.socket().1.keepalive);
    assert_eq!(peer.one().ack, peer.seq);
}

#[test]
fn segment_of_no_connection_is_refused() {
    let mut bed = Bed::new(Config::default());
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    peer.ack = 77;
    assert_eq!(bed.input(&peer.seg(ACK, b"data")), Err(DropReason::Untracked));
    let rst = bed.sent().remove(0);
    assert_eq!((rst.flags, rst.seq, rst.from, rst.to), (RST, 77, peer.far, peer.me));
    assert_eq!(bed.input(&peer.seg(FIN, b"data")), Err(DropReason::Untracked));
    let rst = bed.sent().remove(0);
    assert_eq!((rst.flags, rst.ack), (RST | ACK, peer.seq.wrapping_add(5)));
    assert_eq!(bed.input(&peer.seg(RST, b"")), Err(DropReason::Untracked));
    assert_eq!(bed.sent(), []);
    assert_eq!(bed.input(&peer.seg(SYN | FIN, b"")), Err(DropReason::InvalidState));
    bed.assert_empty();
}

#[test]
fn last_fin_again_is_acknowledged_in_time_wait() {
    let mut peer = Peer::new(Config::default());
    peer.host_ends();
    peer.acknowledge(peer.ack.wrapping_add(1));
    peer.send(FIN | ACK, b"");
    assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
    let lost = peer.one();
    let fin = Seg { seq: peer.seq.wrapping_sub(1), ..peer.seg(FIN | ACK, b"") };
    peer.bed.input(&fin).unwrap();
    assert_eq!(peer.one(), lost, "our acknowledgement, as it was");
}

#[test]
fn syn_in_time_wait_begins_a_connection_with_higher_numbers() {
    let mut peer = Peer::new(Config::default());
    let last = peer.host_sends(&ramp(200_000)).pop().unwrap();
    peer.host_ends();
    peer.acknowledge(last.seq.wrapping_add(last.data.len() as u32 + 1));
    peer.send(FIN | ACK, b"");
    assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
    peer.bed.sent();
    peer.bed.pass(Duration::from_secs(2));
    let syn = Seg { seq: peer.seq.wrapping_add(9999), ..peer.seg(SYN, b"") };
    peer.bed.input(&syn).unwrap();
    assert_eq!(peer.bed.states(), ["CONNECTING"]);
    let id = peer.bed.socket().0;
    peer.bed.decide(id, Ok(()));
    let answer = peer.one();
    assert!((answer.seq.wrapping_sub(peer.ack) as i32) > 0, "RFC 6528");
}

#[test]
fn detach_resets_both_ways() {
    let mut peer = Peer::new(Config::default());
    peer.set_room(0);
    peer.send(ACK, &ramp(5000));
    peer.host_sends(&ramp(5000));
    peer.bed.tcp.detach(super::bed::PORT, peer.bed.now, &mut peer.bed.world);
    let rst = peer.bed.sent().pop().unwrap();
    assert_eq!((rst.flags, rst.ack), (RST | ACK, peer.seq));
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    peer.bed.assert_empty();
}

#[test]
fn what_a_container_had_said_to_the_end_is_delivered_after_it_is_gone() {
    let mut peer = Peer::new(Config::default());
    peer.send(ACK | FIN, &ramp(5000));
    peer.bed.tcp.detach(super::bed::PORT, peer.bed.now, &mut peer.bed.world);
    let sock = peer.bed.last_socket();
    assert_eq!((sock.outbox.len(), sock.finished, sock.closed), (5000, true, Some(Close::Orderly)));
}

#[test]
fn lost_syn_ack_does_not_slow_the_data_down() {
    let mut peer = Peer::received(Config::default(), &OPTIONS);
    assert_eq!(peer.pass(1000).len(), 1, "the SYN-ACK again");
    assert_eq!(peer.pass(2000).len(), 1, "and again");
    peer.send(ACK, b"");
    assert_eq!(peer.host_sends(b"x").len(), 1);
    // RFC 6298 5.7: three seconds, and not what the timeout had grown to.
    assert_eq!(peer.pass(2900).len(), 0);
    assert_eq!(peer.pass(200).len(), 1);
}

#[test]
fn path_mtu_of_the_container_is_obeyed() {
    let mut peer = Peer::new(Config::default());
    let sent = peer.host_sends(&ramp(20_000));
    let tuple = crate::core::conntrack::FiveTuple {
        src: peer.far.addr,
        dst: peer.me.addr,
        sport: peer.far.port,
        dport: peer.me.port,
        proto: 6,
    };
    let bed = &mut peer.bed;
    let tell =
        |bed: &mut Bed, seq: u32| bed.tcp.icmp_error(&tuple, super::bed::NET, seq, Some(1400), bed.now, &mut bed.world);
    assert!(!tell(bed, sent[0].seq.wrapping_sub(1)), "quotes nothing that is in flight");
    assert!(tell(bed, sent[0].seq));
    let again = bed.sent();
    assert!(again.iter().all(|s| s.gso == 1360), "{again:?}");
    assert_eq!(again.iter().map(|s| s.data.len()).sum::<usize>(), 20_000);
}

#[test]
fn timeout_sends_one_super_frame_and_doubles() {
    // Without SACK nothing is asked before.
    let mut peer = Peer::with(Config::default(), &[2, 4, 5, 180, 1, 3, 3, 7]);
    let first = peer.host_sends(&ramp(262_144));
    let mut waits = Vec::new();
    let mut last = peer.bed.now;
    for _ in 0..7 {
        let at = peer.bed.tcp.next_timeout().unwrap();
        peer.bed.pass(at.since(peer.bed.now));
        for again in peer.bed.sent() {
            assert_eq!((again.seq, again.data.len()), (first[0].seq, first[0].data.len()));
            waits.push(peer.bed.now.since(last).as_millis());
            last = peer.bed.now;
        }
    }
    assert_eq!(waits, [300, 600, 1200, 2400, 4800, 9600, 19_200]);
    assert!(peer.pass(40_000).last().unwrap().has(RST));
    peer.bed.assert_empty();
}

#[test]
fn twenty_thousand_connections_leave_nothing() {
    let mut bed = Bed::new(Config { time_wait_max: 50, ..Config::default() });
    let model = Peer::new(Config::default());
    for n in 0..20_000_u32 {
        let me = end("172.17.0.2", 1024 + (n % 60_000) as u16);
        let seq = n.wrapping_mul(77_777);
        let mut peer = Peer { bed, me, far: model.far, seq, ack: 0, window: 0xffff, id: SocketId(0) };
        let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") };
        peer.bed.input(&syn).unwrap();
        peer.id = peer.bed.socket().0;
        peer.bed.decide(peer.id, Ok(()));
        peer.seq = peer.seq.wrapping_add(1);
        peer.ack = peer.one().seq.wrapping_add(1);
        peer.send(ACK | PSH, b"question");
        peer.host_sends(&[7; 3000]);
        match n % 3 {
            0 => peer.send(RST | ACK, b""),
            1 => {
                peer.send(FIN | ACK, b"");
                peer.host_ends();
                peer.acknowledge(peer.ack.wrapping_add(3001));
            }
            _ => {
                peer.host_ends();
                peer.acknowledge(peer.ack.wrapping_add(3001));
                peer.send(FIN | ACK, b"");
                let waits = peer.bed.states().len();
                assert!((1..=50).contains(&waits), "{waits} in TIME_WAIT");
            }
        }
        bed = peer.bed;
        bed.world.out.clear();
        bed.world.sockets.clear();
        assert!(bed.tcp.is_empty(), "{n}: {:?}", bed.rows());
    }
    bed.assert_empty();
}

#[test]
fn loss_without_sack_is_found_by_duplicate_acknowledgements() {
    for key in 0..16 {
        lose_without_sack(Bed::with_key(Config::default(), key));
    }
}

/// One loss from sequence numbers on that the bed's key decides.
fn lose_without_sack(bed: Bed) {
    let mut peer = Peer::from(bed, &[2, 4, 5, 180, 1, 3, 3, 7]);
    peer.bed.decide(peer.id, Ok(()));
    peer.seq = ISN.wrapping_add(1);
    peer.ack = peer.one().seq.wrapping_add(1);
    peer.send(ACK, b"");
    let first = peer.host_sends(&ramp(262_144));
    assert!(first.len() > 4);
    let lost = first[0].seq;
    for _ in 0..2 {
        peer.acknowledge(lost);
        assert_eq!(peer.bed.sent(), []);
    }
    peer.acknowledge(lost);
    let again = peer.one();
    assert_eq!((again.seq, again.data.len()), (lost, first[0].data.len()), "the super-frame");
    // A second one was lost, too (RFC 6582): it is sent again at once.
    peer.acknowledge(first[1].seq);
    assert_eq!(peer.bed.sent()[0].seq, first[1].seq);
    let all: u32 = first.iter().map(|s| s.data.len() as u32).sum();
    peer.acknowledge(lost.wrapping_add(all));
    assert_eq!(peer.bed.tcp.stats().losses, 1);
    let row = peer.bed.rows().remove(0);
    assert_eq!(row.cwnd, all / 2, "halved");
}

#[test]
fn small_writes_share_chunks_and_are_sent_again_exactly() {
    let mut peer = Peer::new(Config::default());
    let data = ramp(9000);
    let mut seen = Vec::new();
    for piece in data.chunks(90) {
        for seg in peer.host_sends(piece) {
            seen.push((seg.seq, seg.data));
        }
    }
    assert!(peer.bed.tcp.memory().1 <= 16_384, "{:?}", peer.bed.tcp.memory());
    let start = seen[0].0;
    // All but the pieces in the middle arrived: they lie within a chunk whose other bytes are still needed.
    for n in 0..4 {
        peer.sack(start.wrapping_add(90), &[(start.wrapping_add(180), start.wrapping_add(1170 + n))]);
    }
    let hole = peer.bed.sent();
    assert_eq!((hole[0].seq, &hole[0].data[..]), (start.wrapping_add(90), &data[90..180]));
    // Then nothing of it is heard of any more, and all comes again after a timeout.
    let mut stream = vec![0; 9000];
    for _ in 0..20 {
        for seg in peer.pass(500) {
            let at = seg.seq.wrapping_sub(start) as usize;
            stream[at..at + seg.data.len()].copy_from_slice(&seg.data);
            peer.ack = later(peer.ack, seg.seq.wrapping_add(seg.data.len() as u32));
        }
        peer.acknowledge(peer.ack);
        for seg in peer.bed.sent() {
            let at = seg.seq.wrapping_sub(start) as usize;
            stream[at..at + seg.data.len()].copy_from_slice(&seg.data);
            peer.ack = later(peer.ack, seg.seq.wrapping_add(seg.data.len() as u32));
        }
    }
    assert!(stream[90..] == data[90..]);
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
}

#[test]
fn container_without_window_scale_is_told_what_16_bits_hold() {
    let mut peer = Peer::with(Config::default(), &[2, 4, 5, 180]);
    peer.send(ACK, b"x");
    assert_eq!(peer.one().window, 0xfffe);
    let sent = peer.host_sends(&ramp(200_000));
    assert_eq!(sent.iter().map(|s| s.data.len()).sum::<usize>(), 65_535 / 1460 * 1460);
}

#[test]
fn window_grows_for_who_fills_it_and_within_the_containers_sum() {
    let mut peer = Peer::new(Config::default());
    let data = ramp(50_000);
    peer.send(ACK, b"x");
    for _ in 0..20 {
        for _ in 0..4 {
            let seg = peer.seg(ACK, &data);
            peer.seq = peer.seq.wrapping_add(50_000);
            peer.bed.packet(&seg.packet()).unwrap();
        }
        peer.bed.tcp.flush(peer.bed.now, &mut peer.bed.world);
    }
    let last = peer.bed.sent().pop().unwrap();
    assert_eq!(u32::from(last.window) << 4, 512 << 10, "200,000 a turn fill half of no more");
}

/// The window that another connection of the same container is given, bytes.
fn window_of_another(peer: &mut Peer, port: u16) -> u32 {
    let first = Seg { data: b"x".to_vec(), ..peer.another(port) };
    peer.bed.input(&first).unwrap();
    u32::from(peer.one().window) << 4
}

#[test]
fn idle_connections_leave_windows_whole() {
    let mut peer = Peer::new(Config { pool_per_port: 100_000, ..Config::default() });
    for port in 40_001..40_200 {
        assert_eq!(window_of_another(&mut peer, port), 256 << 10);
    }
}

#[test]
fn stored_data_makes_new_windows_small() {
    let mut peer = Peer::new(Config { pool_per_port: 100_000, ..Config::default() });
    peer.set_room(0);
    peer.send(ACK, &ramp(40_000));
    peer.bed.sent();
    assert_eq!(window_of_another(&mut peer, 50_000), 64 << 10);
}

#[test]
fn one_acknowledgement_a_turn_for_each_flow() {
    let mut peer = Peer::new(Config::default());
    for _ in 0..10 {
        let seg = peer.seg(ACK, b"0123456789");
        peer.seq = peer.seq.wrapping_add(10);
        peer.bed.packet(&seg.packet()).unwrap();
    }
    assert_eq!(peer.bed.sent(), []);
    peer.bed.tcp.flush(peer.bed.now, &mut peer.bed.world);
    assert_eq!(peer.one().ack, peer.seq);
    peer.bed.tcp.flush(peer.bed.now, &mut peer.bed.world);
    assert_eq!(peer.bed.sent(), []);
}

#[test]
fn flow_without_memory_goes_on_by_small_steps_and_never_stops() {
    let mut peer = Peer::new(Config { pool: 0, pool_per_port: 0, ..Config::default() });
    let data = ramp(30_000);
    let mut got = Vec::new();
    let mut sent = peer.host_sends(&data);
    while got.len() < data.len() {
        assert!(peer.bed.tcp.memory().1 <= 2048);
        assert_eq!(sent.len(), 1, "{} bytes came", got.len());
        got.extend_from_slice(&sent[0].data);
        peer.acknowledge(sent[0].seq.wrapping_add(sent[0].data.len() as u32));
        sent = peer.bed.sent();
    }
    assert!(got == data);
}

#[test]
fn data_without_memory_is_not_acknowledged() {
    let mut peer = Peer::new(Config { pool: 0, pool_per_port: 0, ..Config::default() });
    // What the socket takes needs no memory.
    peer.set_room(100);
    let seg = peer.seg(ACK, &ramp(1000));
    assert_eq!(peer.bed.input(&seg), Err(DropReason::SplitMemory));
    let ack = peer.bed.sent().pop().unwrap();
    assert_eq!(ack.ack, peer.seq.wrapping_add(100));
    assert!(u32::from(ack.window) << 4 >= 64 << 10, "it stays what it was told");
}

#[test]
fn flows_of_one_container_share_what_is_in_flight_and_all_go_on() {
    let shared = 128 << 10;
    let mut peer = Peer::new(Config { flight_together: 600_000, ..Config::default() });
    for port in 40_001..40_010 {
        peer.another(port);
    }
    let data = ramp(1 << 20);
    peer.bed.world.sockets.values_mut().for_each(|sock| sock.inbox.extend(&data));
    peer.bed.events();
    let mut flights = BTreeMap::<u16, Vec<Seg>>::new();
    let mut came = BTreeMap::<u16, usize>::new();
    for round in 0.. {
        flights.clear();
        peer.bed.sent().into_iter().for_each(|seg| flights.entry(seg.to.port).or_default().push(seg));
        let Some(_) = flights.first_key_value() else { break };
        let mut sizes: Vec<usize> = flights.values().map(|segs| segs.iter().map(|s| s.data.len()).sum()).collect();
        if round == 0 {
            sizes.sort_unstable();
            assert_eq!(sizes.len(), 10, "each has something");
            assert!(sizes.iter().sum::<usize>() < 600_000 + 10 * shared, "{sizes:?}");
            assert!(sizes[..7].iter().all(|size| *size <= shared) && sizes[9] > shared, "{sizes:?}");
        }
        for (port, segs) in &flights {
            *came.entry(*port).or_default() += segs.iter().map(|s| s.data.len()).sum::<usize>();
            let last = segs.last().unwrap();
            let ack = last.seq.wrapping_add(last.data.len() as u32);
            let (from, seq) = (end("172.17.0.2", *port), ISN.wrapping_add(1));
            peer.bed.input(&Seg { from, seq, ack, ..peer.seg(ACK, b"") }).unwrap();
        }
        peer.bed.events();
    }
    assert!(came.len() == 10 && came.values().all(|len| *len == data.len()), "{came:?}");
}

#[test]
fn one_call_does_a_bounded_amount_of_work() {
    let mut peer = Peer::new(Config { flight_initial: 1 << 20, ..Config::default() });
    peer.window = 0xffff;
    peer.send(ACK, b"");
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().inbox.extend(ramp(1 << 20));
    let ready = Ready { readable: true, ..Ready::default() };
    let mut turns = 0;
    while peer.bed.tcp.socket_ready(peer.id, ready, peer.bed.now, &mut peer.bed.world) {
        let bytes: usize = peer.bed.sent().iter().map(|s| s.data.len()).sum();
        assert!((256 << 10..320 << 10).contains(&bytes), "{bytes}");
        turns += 1;
    }
    assert_eq!(turns, 3);
}

#[test]
fn second_syn_of_a_container_that_began_anew_replaces_the_first() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    let syn = Seg { seq: 42, ..peer.seg(SYN, b"") };
    peer.bed.input(&syn).unwrap();
    assert_eq!(peer.bed.world.sockets[&peer.id].closed, Some(Close::Reset));
    let id = peer.bed.socket().0;
    peer.bed.decide(id, Ok(()));
    assert_eq!(peer.one().ack, 43);
    // The old socket's event comes late.
    let ready = Ready { writable: true, readable: true, error: true };
    assert!(!peer.bed.tcp.socket_ready(peer.id, ready, peer.bed.now, &mut peer.bed.world));
}

/// An IPv6 container that has sent its SYN.
fn connecting_by_ipv6() -> Peer {
    let mut bed = Bed::new(Config::default());
    bed.world.gateway = Some(super::bed::addr_of("2001:db8:17::1"));
    Peer::between(bed, end("2001:db8:17::2", 40_000), end("2001:db8::5", 80), &OPTIONS)
}

#[test]
fn ipv6_is_the_same() {
    let mut peer = connecting_by_ipv6();
    peer.bed.decide(peer.id, Ok(()));
    let answer = peer.one();
    assert_eq!(answer.options[..4], [2, 4, 5, 160], "1440");
    peer.seq = peer.seq.wrapping_add(1);
    peer.ack = answer.seq.wrapping_add(1);
    peer.send(ACK, b"six");
    assert_eq!(peer.got(), b"six");
    peer.bed.sent();
    let sent = peer.host_sends(&ramp(100_000));
    assert!(sent[0].gso == 1440 && sent[0].data.len() == 1440 * 45, "{} {}", sent[0].gso, sent[0].data.len());
}

#[test]
fn unreachable_ipv6_host_is_told_by_icmpv6() {
    let mut peer = connecting_by_ipv6();
    peer.bed.decide(peer.id, Err(Failure::HostUnreachable));
    let error = peer.bed.packets().remove(0);
    assert_eq!((error[6], error[40], error[41]), (58, 1, 3));
    let (us, them) = (Addr::read6(&error, 8).unwrap(), Addr::read6(&error, 24).unwrap());
    assert_eq!((us, them), (super::bed::addr_of("2001:db8:17::1"), peer.me.addr));
    let pseudo = checksum::pseudo_header(us, them, 58, (error.len() - 40) as u32);
    assert_eq!(checksum::add(pseudo, checksum::sum(&error[40..])), 0xffff);
    peer.bed.assert_empty();
}

#[test]
fn limits_refuse_new_connections_and_keep_old_ones() {
    for (config, room, why) in [
        (Config { flows_max: 1, ..Config::default() }, 10, DropReason::FlowTableFull),
        (Config { flows_per_port: 1, ..Config::default() }, 10, DropReason::FlowQuota),
        (Config::default(), 0, DropReason::NoSocket),
    ] {
        let mut peer = Peer::new(config);
        peer.bed.world.room = room;
        let syn = Seg { from: end("172.17.0.2", 1), ..peer.seg(SYN, b"") };
        assert_eq!(peer.bed.input(&syn), Err(why));
        assert_eq!(peer.bed.sent(), []);
        peer.send(ACK, b"still here");
        assert_eq!(peer.got(), b"still here");
        peer.bed.tcp.detach(super::bed::PORT, peer.bed.now, &mut peer.bed.world);
        peer.bed.assert_empty();
    }
}

#[test]
fn acknowledgement_from_long_ago_is_challenged() {
    let mut peer = Peer::new(Config::default());
    let old = Seg { ack: peer.ack.wrapping_sub(1 << 30), ..peer.seg(ACK, b"forged") };
    assert_eq!(peer.bed.input(&old), Err(DropReason::InvalidState));
    assert_eq!(peer.one().ack, peer.seq);
    assert_eq!(peer.got(), b"");
}
