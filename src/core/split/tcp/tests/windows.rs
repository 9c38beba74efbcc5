//! Windows that close, open again, or cannot be told: what is waited for, and what is not.

use super::bed::{ACK, RST};
use super::container::Peer;
use crate::core::socket::{Failure, Ready};
use crate::core::split::tcp::Config;

const EVENT: Ready = Ready { readable: true, writable: true, error: false };

#[test]
fn error_behind_a_window_that_stays_closed_is_told_after_some_questions() {
    let mut peer = Peer::new(Config::default());
    peer.window = 0;
    peer.send(ACK, b"");
    assert_eq!(peer.host_sends(b"before the error"), []);
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().recv_error = Some(Failure::Reset);
    peer.bed.tcp.socket_ready(peer.id, Ready { error: true, ..EVENT }, peer.bed.now, &mut peer.bed.world);
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

#[test]
fn duplicates_of_a_recovery_that_is_over_are_no_second_loss() {
    let mut peer = Peer::with(Config::default(), &[2, 4, 5, 180, 1, 3, 3, 7]);
    let first = peer.host_sends(&[1; 150_000]);
    let len: u32 = first.iter().map(|s| s.data.len() as u32).sum();
    for _ in 0..3 {
        peer.acknowledge(first[0].seq);
    }
    assert_eq!(peer.one().seq, first[0].seq, "sent again");
    let end = first[0].seq.wrapping_add(len);
    peer.acknowledge(end);
    assert!(!peer.host_sends(&[2; 10_000]).is_empty());
    // What was sent again in vain is acknowledged once more for each of its packets (RFC 6582 3.2).
    for _ in 0..5 {
        peer.acknowledge(end);
        assert_eq!(peer.bed.sent(), []);
    }
    assert_eq!(peer.bed.tcp.stats().losses, 1);
}
