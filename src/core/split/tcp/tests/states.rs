//! Every state against every kind of segment (RFC 9293 3.10.7), as a table.

use super::bed::{ACK, FIN, PORT, RST, SYN, Seg};
use super::peer::{ISN, OPTIONS, Peer};
use crate::core::split::tcp::Config;

/// Short names for [`TABLE`].
const STATES: [(&str, &str); 11] = [
    ("CLOSED", "CLOSED"),
    ("CONN", "CONNECTING"),
    ("SENT", "SYN_SENT"),
    ("RCVD", "SYN_RECV"),
    ("EST", "ESTABLISHED"),
    ("CW", "CLOSE_WAIT"),
    ("FW1", "FIN_WAIT1"),
    ("FW2", "FIN_WAIT2"),
    ("CLOSING", "CLOSING"),
    ("LA", "LAST_ACK"),
    ("TW", "TIME_WAIT"),
];

/// Answers: `-` none, `A` an acknowledgement, `R` a reset, `S` a SYN-ACK; behind `>` the state after, if it is another.
///
/// - CLOSED: toward a container we listen for all the world, so a SYN begins a connection; the rest is of none.
/// - CONNECTING: an answered SYN would be a lie; any other begins anew. What acknowledges nothing of ours is refused.
/// - SYN_SENT: only what acknowledges our SYN opens or refuses; a SYN alone was sent at the same time as ours.
/// - SYN_RECV: a SYN-ACK is the other half of such a crossing (RFC 9293 3.5).
/// - TIME_WAIT: no reset ends it (RFC 1337); a SYN begins a connection.
const TABLE: &str = "\
                CLOSED CONN   SENT   RCVD   EST    CW     FW1    FW2    CLOSING LA     TW
syn again       ->CONN -      S>RCVD S      A      A      A      A      A       A      ->CONN
syn new         ->CONN -      S>RCVD A      A      A      A      A      A       A      ->CONN
syn in window   ->CONN -      S>RCVD A      A      A      A      A      A       A      ->CONN
syn-ack         R      R      A>EST  A>EST  A      A      A      A      A       A      A
syn-ack unsent  R      R      R      A      A      A      A      A      A       A      A
rst exact       -      ->gone -      ->gone ->gone ->gone ->gone ->gone ->gone  ->gone -
rst ack         -      ->gone ->gone ->gone ->gone ->gone ->gone ->gone ->gone  ->gone -
rst in window   -      -      -      A      A      A      A      A      A       A      -
rst outside     -      -      -      -      -      -      -      -      -       -      -
ack             R      R      -      ->EST  -      -      ->FW2  -      ->TW    ->gone -
ack old         R      R      R      R      -      -      -      -      -       -      -
ack unsent      R      R      R      R      A      A      A      A      A       A      -
data            R      R      -      A>EST  A      A      A>FW2  A      A>TW    A>gone A
data old        R      R      -      A>EST  A      A      A>FW2  A      A>TW    A>gone A
no ack          R      -      -      -      -      -      -      -      -       -      A
fin             R      R      -      A>CW   A>CW   A      A>TW   A>TW   A>TW    A>gone A
";

/// Brings a connection into a state.
fn peer_in(state: &str) -> Peer {
    let config = Config::default;
    let mut peer = match state {
        "CONNECTING" => {
            let mut peer = Peer::connecting(config(), &OPTIONS);
            peer.seq = peer.seq.wrapping_add(1);
            peer
        }
        "SYN_SENT" => Peer::asked(config()),
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
        "CLOSED" => peer.bed.tcp.detach(PORT, peer.bed.now, &mut peer.bed.world),
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
    match state {
        "CLOSED" => assert!(peer.bed.states().is_empty()),
        "CLOSING" => assert_eq!(peer.bed.states(), ["LAST_ACK"]),
        _ => assert_eq!(peer.bed.states(), [state]),
    }
    peer
}

/// What is answered, and the state after if it is another, as they stand in [`TABLE`].
fn outcome(state: &str, kind: &str) -> String {
    let mut peer = peer_in(state);
    // Our FIN is acknowledged by what acknowledges everything.
    let unacknowledged_fin = matches!(state, "FIN_WAIT1" | "CLOSING" | "LAST_ACK");
    let everything = peer.ack.wrapping_add(u32::from(unacknowledged_fin));
    let seg = match kind {
        "syn again" => Seg { seq: ISN, options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") },
        "syn new" => Seg { seq: peer.seq.wrapping_add(100_000), ..peer.seg(SYN, b"") },
        "syn in window" => Seg { seq: peer.seq.wrapping_add(10), ..peer.seg(SYN, b"") },
        // Of the opening, with its own number; and one that acknowledges what we never sent.
        "syn-ack" => Seg { seq: peer.seq.wrapping_sub(1), ack: everything, ..peer.seg(SYN | ACK, b"") },
        "syn-ack unsent" => {
            Seg { seq: peer.seq.wrapping_sub(1), ack: everything.wrapping_add(5), ..peer.seg(SYN | ACK, b"") }
        }
        "rst exact" => peer.seg(RST, b""),
        "rst ack" => Seg { ack: everything, ..peer.seg(RST | ACK, b"") },
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
    match peer.bed.states().as_slice() {
        [] if state == "CLOSED" => answer.to_owned(),
        [] => format!("{answer}>gone"),
        [same] if *same == state || *same == "LAST_ACK" && state == "CLOSING" => answer.to_owned(),
        [other] => format!("{answer}>{}", STATES.iter().find(|(_, name)| name == other).unwrap().0),
        more => panic!("{more:?}"),
    }
}

#[test]
fn every_state_does_with_every_segment_what_rfc_9293_says() {
    let mut lines = TABLE.lines();
    assert!(lines.next().unwrap().split_whitespace().eq(STATES.map(|(short, _)| short)));
    let mut wrong = Vec::new();
    for line in lines {
        let (kind, cells) = line.split_at(16);
        let cells: Vec<&str> = cells.split_whitespace().collect();
        assert_eq!(cells.len(), STATES.len(), "{kind}");
        for ((_, state), want) in STATES.iter().zip(cells) {
            let got = outcome(state, kind.trim_end());
            if got != want {
                wrong.push(format!("{state}, {kind}: {got}, not {want}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
