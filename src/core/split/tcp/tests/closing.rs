//! How a connection ends: by FIN, by RST, with its container.

use std::time::Duration;

use super::bed::{ACK, Bed, FIN, PORT, PSH, RST, SYN, Seg, end};
use super::peer::{OPTIONS, Peer, ramp};
use crate::core::counters::DropReason;
use crate::core::socket::{Close, Failure, Ready, SocketId};
use crate::core::split::tcp::Config;

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
    let mut peer = Peer::failed_behind_a_closed_window();
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
fn last_fin_again_is_acknowledged_in_time_wait() {
    let mut peer = Peer::in_time_wait();
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
    peer.bed.tcp.detach(PORT, peer.bed.now, &mut peer.bed.world);
    let rst = peer.bed.sent().pop().unwrap();
    assert_eq!((rst.flags, rst.ack), (RST | ACK, peer.seq));
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    peer.bed.assert_empty();
}

#[test]
fn what_a_container_had_said_to_the_end_is_delivered_after_it_is_gone() {
    let mut peer = Peer::new(Config::default());
    peer.send(ACK | FIN, &ramp(5000));
    peer.bed.tcp.detach(PORT, peer.bed.now, &mut peer.bed.world);
    let sock = peer.bed.last_socket();
    assert_eq!((sock.outbox.len(), sock.finished, sock.closed), (5000, true, Some(Close::Orderly)));
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
fn name_of_a_connection_that_only_the_host_still_takes_may_be_used_again() {
    let mut peer = Peer::new(Config::default());
    peer.set_room(10);
    peer.send(ACK | PSH, &ramp(1000));
    peer.bed.sent();
    assert!(peer.host_ends()[0].has(FIN));
    peer.ack = peer.ack.wrapping_add(1);
    peer.send(FIN | ACK, b"");
    peer.bed.sent();
    let old = peer.id;
    let syn = Seg { seq: peer.seq.wrapping_add(100_000), options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") };
    peer.bed.input(&syn).unwrap();
    let new = *peer.bed.world.sockets.keys().last().unwrap();
    assert_ne!(new, old);
    peer.bed.decide(new, Ok(()));
    let answer = peer.one();
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, syn.seq.wrapping_add(1)));
    // What the old one had said arrives, to its end, and the new one goes on.
    peer.set_room(usize::MAX);
    peer.bed.events();
    assert!(peer.got() == ramp(1000));
    assert_eq!(peer.bed.world.sockets[&old].closed, Some(Close::Orderly));
    assert_eq!(peer.bed.states(), ["SYN_RECV"]);
}
