//! A container or a host that says nothing: who is asked, how often, and when it is given up.

use super::bed::{ACK, FIN, PSH, RST};
use super::peer::Peer;
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
