//! Who may send how much: windows, memory, and the share of a turn.

use std::collections::BTreeMap;

use super::bed::{ACK, RST, Seg, end};
use super::peer::{ISN, Peer, ramp};
use crate::core::counters::DropReason;
use crate::core::socket::Ready;
use crate::core::split::tcp::Config;

const EVENT: Ready = Ready { readable: true, writable: true, error: false };

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
fn what_waits_before_its_turn_is_bounded() {
    let mut peer = Peer::new(Config::default());
    for n in 1..1000 {
        let _ = peer.stray(n * 20, ACK, b"piece"); // refused when there are too many
        assert!(peer.one().sacks().len() <= 4);
    }
    assert!(peer.bed.tcp.memory().0 <= 32 * 2048);
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
fn error_behind_a_window_that_stays_closed_is_told_after_some_questions() {
    let mut peer = Peer::failed_behind_a_closed_window();
    peer.bed.sent();
    // A container that answers, but takes nothing.
    for question in 1..=5 {
        let at = peer.bed.tcp.next_timeout().unwrap();
        peer.bed.pass(at.since(peer.bed.now));
        let told = peer.one();
        if question == 5 {
            assert_eq!(told.flags, RST | ACK);
        } else {
            assert_eq!(told.flags, ACK);
            peer.send(ACK, b"");
        }
    }
    peer.bed.assert_empty();
}

#[test]
fn window_that_opens_again_ends_the_waits_that_had_grown_while_it_was_closed() {
    for in_flight in [false, true] {
        let mut peer = Peer::new(Config::default());
        if in_flight {
            // Linux throws away what it has no memory for, and closes its window.
            assert_eq!(peer.host_sends(&[1; 100]).len(), 1);
        }
        peer.window = 0;
        peer.send(ACK, b"");
        assert_eq!(peer.host_sends(&[2; 100]), []);
        for _ in 0..8 {
            let at = peer.bed.tcp.next_timeout().unwrap();
            peer.bed.pass(at.since(peer.bed.now));
            peer.one();
            peer.send(ACK, b"");
        }
        peer.window = 0xffff;
        peer.send(ACK, b"");
        assert_eq!(peer.one().data, [2; 100]);
        // It was lost.
        assert!(!peer.pass(1100).is_empty(), "sent again within a second, not a minute");
    }
}

#[test]
fn window_without_scale_has_not_opened_for_ever() {
    let mut peer = Peer::with(Config::default(), &[2, 4, 5, 180]);
    peer.send(ACK, b"x");
    assert_eq!(peer.one().window, 0xfffe, "a byte more is not worth a word (RFC 9293 3.8.6.2.2)");
    for _ in 0..3 {
        peer.bed.tcp.socket_ready(peer.id, EVENT, peer.bed.now, &mut peer.bed.world);
        peer.bed.tcp.flush(peer.bed.now, &mut peer.bed.world);
        assert_eq!(peer.bed.sent(), [], "a third acknowledgement of the same would look like a loss");
    }
}
