//! Whatever a container sends and a host does, nothing panics, spins or leaks.

use std::time::Duration;

use proptest::prelude::*;

use super::bed::{ACK, Bed, Endpoint, FIN, PORT, RST, SYN, Seg, end};
use super::peer::{OPTIONS, Peer};
use crate::core::socket::{Failure, Ready};
use crate::core::split::tcp::Config;
use crate::core::worth::Worth;

#[derive(Clone, Debug)]
enum Step {
    /// A segment near what would fit: offsets of sequence and acknowledgement number, flags, length, window, SACK block.
    Segment(i32, i32, u8, usize, u16, (i32, u32)),
    /// The next data in order.
    Data(usize),
    /// Everything that was sent is acknowledged.
    Ack,
    HostSends(usize),
    HostEnds,
    HostFails(bool),
    Room(usize),
    Mtu(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let near = || prop_oneof![4 => Just(0), 3 => -3000_i32..3000, 1 => any::<i32>()];
    let flags = prop_oneof![4 => Just(ACK), 1 => any::<u8>(), 1 => Just(ACK | 0x20), 1 => Just(SYN)];
    let sack = (-3000_i32..300_000, 0_u32..100_000);
    prop_oneof![
        6 => (near(), near(), flags, 0_usize..4000, any::<u16>(), sack)
            .prop_map(|(seq, ack, flags, len, window, sack)| Step::Segment(seq, ack, flags, len, window, sack)),
        4 => (1_usize..50_000).prop_map(Step::Data),
        4 => Just(Step::Ack),
        4 => (1_usize..200_000).prop_map(Step::HostSends),
        1 => Just(Step::HostEnds),
        1 => any::<bool>().prop_map(Step::HostFails),
        2 => (0_usize..100_000).prop_map(Step::Room),
        1 => (0_u32..2000).prop_map(Step::Mtu),
        2 => (1_u64..100_000).prop_map(Step::Pass),
    ]
}

#[test]
fn what_a_segment_came_to_is_told() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    assert_eq!(peer.bed.world.worth, Worth::Attempt);
    peer = Peer::new(Config::default());
    assert_eq!(peer.bed.world.worth, Worth::Completion);
    let came_to = |peer: &mut Peer, act: &mut dyn FnMut(&mut Peer)| {
        peer.bed.world.worth = Worth::Something;
        act(peer);
        peer.bed.world.worth
    };
    // What an honest container sends.
    assert_eq!(came_to(&mut peer, &mut |p| p.send(ACK, b"data")), Worth::Something);
    assert_eq!(came_to(&mut peer, &mut |p| p.stray(100, ACK, b"early").unwrap()), Worth::Something);
    let end = peer.host_sends(&[7; 3000]).last().map(|s| s.seq.wrapping_add(s.data.len() as u32)).unwrap();
    assert_eq!(came_to(&mut peer, &mut |p| p.acknowledge(end)), Worth::Something);
    peer.window = 0;
    assert_eq!(came_to(&mut peer, &mut |p| p.send(ACK, b"")), Worth::Nothing, "it takes less");
    peer.window = 0xffff;
    assert_eq!(came_to(&mut peer, &mut |p| p.send(ACK, b"")), Worth::Nothing, "no further than before");
    peer.host_sends(&[7; 3000]);
    let (ack, block) = (peer.ack, (peer.ack.wrapping_add(1460), peer.ack.wrapping_add(2920)));
    let worth = [(); 4].map(|()| came_to(&mut peer, &mut |p| p.sack(ack, &[block])));
    assert_eq!(worth, [Worth::Nothing, Worth::Nothing, Worth::Something, Worth::Nothing], "the third shows a loss");
    peer.stray(100, ACK, b"early").unwrap(); // of all segments the last in order: the window that it tells counts
    // What comes to nothing.
    for (offset, flags, data) in
        [(0, ACK, &b""[..]), (-4, ACK, b"data"), (4 << 20, ACK, b"far"), (100, ACK, b"early"), (-1, ACK, b"")]
    {
        let worth = came_to(&mut peer, &mut |p| p.stray(offset, flags, data).unwrap());
        assert_eq!(worth, Worth::Nothing, "{offset} {flags} {data:?}");
    }
    assert_eq!(came_to(&mut peer, &mut |p| p.send(FIN | ACK, b"")), Worth::Something);
    assert_eq!(came_to(&mut peer, &mut |p| p.stray(-1, FIN | ACK, b"").unwrap()), Worth::Nothing, "said before");
}

#[test]
fn connections_that_are_begun_and_given_up_come_to_nothing() {
    let mut peer = Peer::received(Config::default(), &OPTIONS);
    peer.bed.world.worth = Worth::Something;
    peer.send(RST, b"");
    assert_eq!((peer.bed.world.worth, peer.bed.states().len()), (Worth::Nothing, 0));
    let mut peer = Peer::new(Config::default());
    peer.bed.world.worth = Worth::Something;
    peer.send(RST, b"");
    assert_eq!((peer.bed.world.worth, peer.bed.states().len()), (Worth::Something, 0));
}

fn syn_of(from: Endpoint, to: Endpoint) -> Seg {
    let (options, data) = (OPTIONS.to_vec(), Vec::new());
    Seg { from, to, seq: 1000, ack: 0, flags: SYN, window: 0xffff, urgent: 0, tos: 0, options, data, gso: 0 }
}

#[test]
fn ten_thousand_flows_that_are_due_at_once_are_woken_in_steps() {
    const FLOWS: u16 = 10_000;
    let mut bed = Bed::new(Config { half_open_per_port: usize::from(FLOWS), ..Config::default() });
    bed.world.outcome = Some(Ok(()));
    let far = end("198.51.100.5", 80);
    for port in 0..FLOWS {
        let from = end("172.17.0.2", 1024 + port);
        bed.input(&syn_of(from, far)).unwrap();
    }
    assert_eq!(bed.sent().len(), usize::from(FLOWS));
    bed.now = bed.now + Duration::from_secs(2);
    let mut most = 0;
    let mut all = 0;
    while bed.tcp.next_timeout().is_some_and(|at| at <= bed.now) {
        bed.tcp.handle_timeout(bed.now, &mut bed.world);
        let sent = bed.sent().len();
        (most, all) = (most.max(sent), all + sent);
    }
    assert_eq!(all, usize::from(FLOWS), "each SYN-ACK went out again");
    assert!(most <= 32, "{most} in one call");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_nothing_panics_or_leaks(
        steps in proptest::collection::vec(step(), 0..60),
        options in prop_oneof![Just(OPTIONS.to_vec()), Just(vec![]), Just(vec![2, 4, 0, 50])],
        small: bool,
    ) {
        let pool = if small { 100_000 } else { 1 << 24 };
        let mut peer = Peer::with(Config { pool, pool_per_port: pool, ..Config::default() }, &options);
        for step in steps {
            let end = peer.bed.world.out.iter().map(|bytes| Seg::read(bytes)).fold(peer.ack, |end, seg| {
                let after = seg.seq.wrapping_add(seg.data.len() as u32 + u32::from(seg.has(super::bed::FIN)));
                crate::core::split::tcp::segment::later(end, after)
            });
            let sock = peer.bed.world.sockets.get_mut(&peer.id);
            match step {
                Step::Segment(seq, ack, flags, len, window, (left, sacked)) => {
                    let left = peer.ack.wrapping_add_signed(left);
                    let mut options = vec![1, 1, 5, 10];
                    options.extend(left.to_be_bytes());
                    options.extend(left.wrapping_add(sacked).to_be_bytes());
                    let seg = Seg {
                        seq: peer.seq.wrapping_add_signed(seq),
                        ack: peer.ack.wrapping_add_signed(ack),
                        window,
                        urgent: len as u16 / 2,
                        options: if sacked % 2 == 0 { options } else { Vec::new() },
                        ..peer.seg(flags, &vec![7; len])
                    };
                    let _ = peer.bed.input(&seg); // whatever it is
                }
                Step::Data(len) => {
                    let seg = peer.seg(ACK, &vec![7; len]);
                    let _ = peer.bed.input(&seg);
                    let acked = peer.bed.world.out.iter().map(|b| Seg::read(b)).rfind(|s| s.has(ACK));
                    peer.seq = acked.map_or(peer.seq, |s| s.ack);
                }
                Step::Ack => {
                    peer.ack = end;
                    peer.bed.world.out.clear();
                    let _ = peer.bed.input(&peer.seg(ACK, b""));
                }
                Step::HostSends(len) => {
                    if let Some(sock) = sock.filter(|s| !s.eof) {
                        sock.inbox.extend(std::iter::repeat_n(9, len));
                    }
                }
                Step::HostEnds => {
                    if let Some(sock) = sock {
                        sock.eof = true;
                    }
                }
                Step::HostFails(sending) => {
                    if let Some(sock) = sock {
                        sock.recv_error = Some(Failure::Reset);
                        sock.send_error = sending.then_some(Failure::Reset);
                    }
                }
                Step::Room(room) => {
                    if let Some(sock) = sock {
                        sock.room = room;
                    }
                }
                Step::Mtu(mtu) => {
                    let (now, far, me) = (peer.bed.now, peer.far, peer.me);
                    let tuple = crate::core::conntrack::FiveTuple {
                        src: far.addr, dst: me.addr, sport: far.port, dport: me.port, proto: 6,
                    };
                    peer.bed.tcp.icmp_error(&tuple, super::bed::NET, peer.ack, Some(mtu), now, &mut peer.bed.world);
                }
                Step::Pass(millis) => peer.bed.pass(Duration::from_millis(millis)),
            }
            peer.bed.events();
            let room = if small { pool + 2048 } else { 3 << 20 };
            prop_assert!(peer.bed.tcp.memory().0 <= room && peer.bed.tcp.memory().1 <= room, "{:?}", peer.bed.tcp.memory());
        }
        // A connection that began anew may wait for the host.
        let waiting: Vec<_> = peer.bed.world.sockets.iter().filter(|s| s.1.closed.is_none()).map(|s| *s.0).collect();
        for id in waiting {
            let ready = Ready { readable: true, writable: true, error: true };
            peer.bed.tcp.socket_ready(id, ready, peer.bed.now, &mut peer.bed.world);
        }
        peer.bed.tcp.detach(PORT, peer.bed.now, &mut peer.bed.world);
        peer.bed.assert_empty();
    }
}
