//! Every state against every kind of segment (RFC 9293 3.10.7), as a table.

use super::bed::{ACK, FIN, RST, SYN, Seg};
use super::peer::{ISN, OPTIONS, Peer};
use crate::core::split::tcp::Config;

/// Brings a connection into a state.
fn peer_in(state: &str) -> Peer {
    let config = Config::default;
    let mut peer = match state {
        "CONNECTING" => {
            let mut peer = Peer::connecting(config(), &OPTIONS);
            peer.seq = peer.seq.wrapping_add(1);
            peer
        }
        "SYN_RECV" => Peer::received(config(), &OPTIONS),
        _ => Peer::new(config()),
    };
    if matches!(state, "FIN_WAIT1" | "FIN_WAIT2" | "CLOSING" | "TIME_WAIT") {
        assert_eq!(peer.host_ends().len(), 1);
    }
    match state {
        "CLOSE_WAIT" => peer.send(FIN | ACK, b""),
        "LAST_ACK" => {
            peer.send(FIN | ACK, b"");
            assert_eq!(peer.host_ends().len(), 2);
        }
        "FIN_WAIT2" => peer.acknowledge(peer.ack.wrapping_add(1)),
        "CLOSING" => peer.send(FIN | ACK, b""),
        "TIME_WAIT" => {
            peer.ack = peer.ack.wrapping_add(1);
            peer.send(FIN | ACK, b"");
        }
        _ => {}
    }
    peer.bed.world.out.clear();
    // RFC 9293's CLOSING and LAST_ACK differ in who was first; the listing does not.
    let name = if state == "CLOSING" { "LAST_ACK" } else { state };
    assert_eq!(peer.bed.states(), [name]);
    peer
}

/// What is answered, and the state after: `-` nothing, `A` an acknowledgement, `R` a reset.
fn outcome(state: &str, kind: &str) -> String {
    let mut peer = peer_in(state);
    // Our FIN is acknowledged by what acknowledges everything.
    let unacknowledged_fin = matches!(state, "FIN_WAIT1" | "CLOSING" | "LAST_ACK");
    let everything = peer.ack.wrapping_add(u32::from(unacknowledged_fin));
    let seg = match kind {
        "syn again" => Seg { seq: ISN, options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") },
        "syn new" => Seg { seq: peer.seq.wrapping_add(100_000), ..peer.seg(SYN, b"") },
        "syn in window" => Seg { seq: peer.seq.wrapping_add(10), ..peer.seg(SYN, b"") },
        "rst exact" => peer.seg(RST, b""),
        "rst in window" => Seg { seq: peer.seq.wrapping_add(10), ..peer.seg(RST, b"") },
        "rst outside" => Seg { seq: peer.seq.wrapping_sub(10), ..peer.seg(RST, b"") },
        "ack" => Seg { ack: everything, ..peer.seg(ACK, b"") },
        "ack old" => Seg { ack: peer.ack.wrapping_sub(1), ..peer.seg(ACK, b"") },
        "ack unsent" => Seg { ack: everything.wrapping_add(5), ..peer.seg(ACK, b"") },
        "data" => Seg { ack: everything, ..peer.seg(ACK, b"data") },
        "data old" => Seg { seq: peer.seq.wrapping_sub(4), ack: everything, ..peer.seg(ACK, b"data") },
        "no ack" => peer.seg(0, b"data"),
        "fin" => Seg { ack: everything, ..peer.seg(FIN | ACK, b"") },
        other => panic!("{other}"),
    };
    let _ = peer.bed.input(&seg); // what is refused is in the table
    let sent = peer.bed.sent();
    let answer = match sent.as_slice() {
        [] => "-",
        [s] if s.has(RST) => "R",
        [s] if s.has(SYN) => "S",
        [s] if s.has(ACK) && s.data.is_empty() => "A",
        other => panic!("{state} {kind}: {other:?}"),
    };
    let after = match peer.bed.states().as_slice() {
        [] => "gone",
        [same] if *same == state || *same == "LAST_ACK" && state == "CLOSING" => "=",
        [other] => other,
        more => panic!("{more:?}"),
    };
    format!("{answer} {after}")
}

#[test]
fn every_state_does_with_every_segment_what_rfc_9293_says() {
    let kinds = [
        "syn again",
        "syn new",
        "syn in window",
        "rst exact",
        "rst in window",
        "rst outside",
        "ack",
        "ack old",
        "ack unsent",
        "data",
        "data old",
        "no ack",
        "fin",
    ];
    let table: [(&str, [&str; 13]); 9] = [
        // An answered SYN would be a lie; any other begins anew. What acknowledges nothing of ours is refused.
        ("CONNECTING", ["- =", "- =", "- =", "- gone", "- =", "- =", "R =", "R =", "R =", "R =", "R =", "- =", "R ="]),
        (
            "SYN_RECV",
            [
                "S =",
                "A =",
                "A =",
                "- gone",
                "A =",
                "- =",
                "- ESTABLISHED",
                "R =",
                "R =",
                "A ESTABLISHED",
                "A ESTABLISHED",
                "- =",
                "A CLOSE_WAIT",
            ],
        ),
        (
            "ESTABLISHED",
            ["A =", "A =", "A =", "- gone", "A =", "- =", "- =", "- =", "A =", "A =", "A =", "- =", "A CLOSE_WAIT"],
        ),
        ("CLOSE_WAIT", ["A =", "A =", "A =", "- gone", "A =", "- =", "- =", "- =", "A =", "A =", "A =", "- =", "A ="]),
        (
            "FIN_WAIT1",
            [
                "A =",
                "A =",
                "A =",
                "- gone",
                "A =",
                "- =",
                "- FIN_WAIT2",
                "- =",
                "A =",
                "A FIN_WAIT2",
                "A FIN_WAIT2",
                "- =",
                "A TIME_WAIT",
            ],
        ),
        (
            "FIN_WAIT2",
            ["A =", "A =", "A =", "- gone", "A =", "- =", "- =", "- =", "A =", "A =", "A =", "- =", "A TIME_WAIT"],
        ),
        (
            "CLOSING",
            [
                "A =",
                "A =",
                "A =",
                "- gone",
                "A =",
                "- =",
                "- TIME_WAIT",
                "- =",
                "A =",
                "A TIME_WAIT",
                "A TIME_WAIT",
                "- =",
                "A TIME_WAIT",
            ],
        ),
        (
            "LAST_ACK",
            ["A =", "A =", "A =", "- gone", "A =", "- =", "- gone", "- =", "A =", "A gone", "A gone", "- =", "A gone"],
        ),
        // RFC 1337: no reset; a SYN begins a connection.
        (
            "TIME_WAIT",
            [
                "- CONNECTING",
                "- CONNECTING",
                "- CONNECTING",
                "- =",
                "- =",
                "- =",
                "- =",
                "- =",
                "- =",
                "A =",
                "A =",
                "A =",
                "A =",
            ],
        ),
    ];
    let mut wrong = Vec::new();
    for (state, row) in table {
        for (kind, want) in kinds.iter().zip(row) {
            let got = outcome(state, kind);
            if got != want {
                wrong.push(format!("{state}, {kind}: {got}, not {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
