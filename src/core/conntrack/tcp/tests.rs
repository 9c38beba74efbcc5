//! The transition table, cell by cell.

use super::super::segment::FIN;
use super::*;

/// Rows are flags, columns states, in the order NO SS SR ES FW CW LA TW CL S2.
const LINUX: &str = "\
o.syn    SS SS IG IG IG IG IG SS SS S2
o.synack IV IV SR IV IV IV IV IV IV SR
o.fin    IV IV FW FW LA LA LA TW CL IV
o.ack    ES IV ES ES CW CW TW TW CL IV
o.rst    IV CL CL CL CL CL CL CL CL CL
r.syn    IV S2 IV IV IV IV IV SS IV S2
r.synack IV SR IG IG IG IG IG IG IG SR
r.fin    IV IV FW FW LA LA LA TW CL IV
r.ack    IV IG SR ES CW CW TW TW CL IG
r.rst    IV CL CL CL CL CL CL CL CL CL";

const STATES: [State; State::COUNT] = [
    State::None,
    State::SynSent,
    State::SynRecv,
    State::Established,
    State::FinWait,
    State::CloseWait,
    State::LastAck,
    State::TimeWait,
    State::Close,
    State::SynSent2,
];

fn cell(text: &str) -> Next {
    match text {
        "IG" => Next::Ignore,
        "IV" => Next::Invalid,
        state => {
            let names = ["NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2"];
            Next::To(STATES[names.iter().position(|&n| n == state).unwrap()])
        }
    }
}

/// The parts of a row: direction, flags, and what each state makes of them.
fn rows() -> impl Iterator<Item = (Direction, u8, Vec<Next>)> {
    LINUX.lines().map(|row| {
        let mut words = row.split_whitespace();
        let (dir, flags) = words.next().unwrap().split_once('.').unwrap();
        let dir = if dir == "o" { Direction::Original } else { Direction::Reply };
        let flags = match flags {
            "syn" => SYN,
            "synack" => SYN | ACK,
            "fin" => FIN | ACK,
            "ack" => ACK,
            "rst" => RST,
            other => panic!("no such row: {other}"),
        };
        (dir, flags, words.map(cell).collect())
    })
}

fn segment(flags: u8) -> Segment {
    Segment { flags, seq: 1, ack: 1, window: 1000, sack: 1, ..Segment::default() }
}

// V1
#[test]
fn every_cell_is_that_of_linux() {
    let mut cells = 0;
    for (dir, flags, row) in rows() {
        for (state, want) in STATES.into_iter().zip(row) {
            assert_eq!(next(dir, segment(flags).kind(), state), want, "{dir:?} {flags:#x} in {state:?}");
            cells += 1;
        }
    }
    assert_eq!(cells, 100);
}

/// The same cells through the whole machine, with a segment that fits every window.
#[test]
fn a_segment_moves_the_connection_as_its_cell_says() {
    for (dir, flags, row) in rows() {
        for (state, want) in STATES.into_iter().zip(row) {
            let side = Peer { end: 1, maxend: 1000, maxwin: 1000, maxack: 1 };
            let mut tcp = Tcp { peers: [side; 2], state, ..Tcp::default() };
            let timeouts = crate::core::conntrack::Timeouts::default().micros();
            let cx = Context { liberal: false, max_retrans: 3, seen_reply: true, assured: true, timeouts: &timeouts };
            let mut s = segment(flags);
            // A SYN counts as a byte; let it end where the side has ended, as a retransmission does.
            if flags & SYN != 0 {
                s.seq = 0;
            }
            let outcome = tcp.packet(dir, &s, &cx);
            let context = format!("{dir:?} {flags:#x} in {state:?}: {outcome:?}");
            match want {
                Next::Invalid => {
                    assert_eq!(outcome, Outcome::Invalid(Invalid::State), "{context}");
                    assert_eq!(tcp.state, state, "{context}");
                }
                Next::Ignore => {
                    assert_eq!(outcome, Outcome::Ignore, "{context}");
                    assert_eq!(tcp.state, state, "{context}");
                }
                // Who began the close is not known here, so a SYN cannot reopen; see reopening's own tests.
                Next::To(State::SynSent) if state >= State::TimeWait && state <= State::Close => {
                    assert_eq!(outcome, Outcome::Ignore, "{context}");
                }
                Next::To(new) => {
                    assert!(matches!(outcome, Outcome::Accept { .. }), "{context}");
                    assert_eq!(tcp.state, new, "{context}");
                }
            }
        }
    }
}
