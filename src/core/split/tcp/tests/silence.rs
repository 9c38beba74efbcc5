//! A container or a host that says nothing: who is asked, how often, and when it is given up.

use std::time::Duration;

use super::bed::{ACK, FIN, PSH, RST, SYN};
use super::peer::{OPTIONS, Peer};
use crate::core::counters::DropReason;
use crate::core::socket::Close;
use crate::core::split::tcp::Config;

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
fn keepalive_of_the_container_is_asked_of_the_host() {
    let mut peer = Peer::new(Config::default());
    peer.stray(-1, ACK, b"").unwrap();
    assert!(peer.bed.socket().1.keepalive);
    assert_eq!(peer.one().ack, peer.seq);
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

/// What is sent until the connection is over: milliseconds from now, and flags.
fn until_over(peer: &mut Peer) -> Vec<(u128, u8)> {
    let start = peer.bed.now;
    let mut told = Vec::new();
    for _ in 0..100 {
        let Some(at) = peer.bed.tcp.next_timeout().filter(|_| !peer.bed.states().is_empty()) else { break };
        peer.bed.pass(at.since(peer.bed.now));
        told.extend(peer.bed.sent().iter().map(|s| (peer.bed.now.since(start).as_millis(), s.flags)));
    }
    told
}

/// Nine questions, 75 s between two, the first after so many seconds; and the end.
fn nine_questions(first: u128) -> Vec<(u128, u8)> {
    let asked = (0..9).map(|n| ((first + n * 75) * 1000, ACK));
    asked.chain([((first + 9 * 75) * 1000, RST | ACK)]).collect()
}

#[test]
fn idle_connection_is_asked_every_two_hours_and_lasts_while_it_answers() {
    let mut peer = Peer::new(Config::default());
    for _ in 0..3 {
        assert_eq!(peer.pass(7_199_999), []);
        peer.bed.pass(Duration::from_millis(1));
        let probe = peer.one();
        assert_eq!((probe.flags, probe.seq, probe.ack), (ACK, peer.ack.wrapping_sub(1), peer.seq));
        assert!(probe.data.is_empty());
        peer.send(ACK, b"");
        assert_eq!(peer.bed.sent(), []);
    }
    assert_eq!(peer.bed.states(), ["ESTABLISHED"]);
}

#[test]
fn each_segment_of_the_container_puts_the_question_off() {
    let mut peer = Peer::new(Config::default());
    for _ in 0..3 {
        assert_eq!(peer.pass(7_199_999), []);
        peer.send(ACK, b"alive");
        assert_eq!(peer.one().ack, peer.seq);
    }
}

#[test]
fn one_answer_is_enough_after_eight_questions_without() {
    let mut peer = Peer::new(Config::default());
    assert_eq!(peer.pass(7_200_000 + 7 * 75_000).len(), 8);
    peer.send(ACK, b"");
    assert_eq!(until_over(&mut peer), nine_questions(7200));
}

#[test]
fn idle_connection_whose_container_is_silent_is_reset() {
    let mut peer = Peer::new(Config::default());
    assert_eq!(until_over(&mut peer), nine_questions(7200));
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    assert_eq!(peer.bed.tcp.stats().timeouts, 1);
    peer.bed.assert_empty();
}

#[test]
fn half_closed_connection_whose_container_is_silent_is_reset() {
    for state in ["FIN_WAIT2", "CLOSE_WAIT"] {
        let mut peer = Peer::new(Config::default());
        if state == "FIN_WAIT2" {
            peer.host_ends();
            peer.acknowledge(peer.ack.wrapping_add(1));
        } else {
            peer.send(FIN | ACK, b"");
            peer.bed.sent();
        }
        assert_eq!(peer.bed.states(), [state]);
        assert_eq!(until_over(&mut peer), nine_questions(60), "{state}");
        assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset), "{state}");
        peer.bed.assert_empty();
    }
}

#[test]
fn end_that_is_never_acknowledged_is_given_up() {
    let mut peer = Peer::new(Config::default());
    peer.host_ends();
    let told = until_over(&mut peer);
    let fins: Vec<u128> = told.iter().filter(|(_, flags)| flags & FIN != 0).map(|(at, _)| *at).collect();
    assert_eq!(fins, [300, 900, 2100, 4500, 9300, 18_900, 38_100]);
    assert_eq!(told.last(), Some(&(76_500, RST | ACK)));
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    peer.bed.assert_empty();
}

#[test]
fn container_that_never_answers_a_syn_ack_is_given_up() {
    let mut peer = Peer::received(Config::default(), &OPTIONS);
    let told = until_over(&mut peer);
    let again = [1000, 3000, 7000, 15_000, 31_000].map(|at| (at, SYN | ACK));
    assert_eq!(told, [&again[..], &[(63_000, RST | ACK)]].concat());
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    assert_eq!(peer.bed.tcp.stats().timeouts, 1);
    peer.bed.assert_empty();
}

#[test]
fn connect_is_given_up_after_150_s_and_not_before() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    assert_eq!(peer.pass(149_999), []);
    assert_eq!((peer.bed.states(), peer.bed.socket().1.closed), (vec!["CONNECTING"], None));
    assert_eq!(peer.pass(1), [], "silence is told as silence");
    assert_eq!(peer.bed.world.counted, [DropReason::ConnectTimeout]);
    assert_eq!(peer.bed.last_socket().closed, Some(Close::Reset));
    peer.bed.assert_empty();
}

#[test]
fn connect_that_ends_at_the_last_moment_is_answered() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    peer.pass(149_999);
    peer.bed.decide(peer.id, Ok(()));
    assert_eq!(peer.one().flags, SYN | ACK);
}

#[test]
fn time_wait_lasts_10_s() {
    let mut peer = Peer::in_time_wait();
    peer.bed.sent();
    assert_eq!(peer.pass(9999), []);
    assert_eq!(peer.bed.states(), ["TIME_WAIT"]);
    assert_eq!(peer.pass(1), []);
    assert!(peer.bed.states().is_empty());
}
