//! One flow: two tuples, what its protocol is up to, and when it was last refreshed.

use std::fmt;
use std::time::Duration;

use super::tcp::{State, Tcp};
use super::timeouts::Class;
use super::tuple::{FiveTuple, TCP, proto_name};
use super::{Direction, OwnerId};
use crate::core::time::Instant;
use crate::wire::addr::Addr;

/// What a flow is worth when room is needed: the ladder from the first to go to the one that stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Rank {
    /// Nothing came back yet.
    Unreplied = 0,
    /// TCP on its way out.
    Closing = 1,
    /// Answered, but not proven: a handshake, a single question and its answer.
    Unassured = 2,
    /// Never evicted.
    Assured = 3,
}

impl Rank {
    pub(super) const COUNT: usize = 4;
}

pub(super) mod mark {
    pub const SEEN_REPLY: u8 = 1;
    pub const ASSURED: u8 = 2;
    /// The slot holds no flow.
    pub const FREE: u8 = 4;
}

/// A tracked flow. The first two cache lines are what finding, translating and counting a packet touch; the third is for
/// TCP.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub struct Flow {
    /// As its first packet came in.
    pub original: FiveTuple,
    /// As an answer comes in: what is expected back, and the translation.
    pub reply: FiveTuple,
    pub(super) class: Class,
    /// Rank and class of the timer list it is in; its class may be newer.
    pub(super) list: u8,
    pub(super) marks: u8,
    pub(super) generation: u8,
    pub(super) refreshed: Instant,
    pub(super) created: Instant,
    pub(super) packets: [u64; 2],
    pub(super) bytes: [u64; 2],
    pub(super) tcp: Tcp,
    /// The published-port rule that made it; 0 is none.
    pub tag: u32,
    /// Who is charged for it.
    pub owner: OwnerId,
}

/// Three cache lines. A million flows are 183 MiB of these, 23 MiB of list nodes and 32 MiB of index.
const _: () = assert!(size_of::<Flow>() == 192);

impl Flow {
    /// A slot that holds no flow yet.
    pub(super) fn vacant() -> Flow {
        let nothing = FiveTuple { src: Addr::V4_UNSPECIFIED, dst: Addr::V4_UNSPECIFIED, sport: 0, dport: 0, proto: 0 };
        Flow {
            original: nothing,
            reply: nothing,
            class: Class::Dead,
            list: 0,
            marks: mark::FREE,
            generation: 0,
            refreshed: Instant::ZERO,
            created: Instant::ZERO,
            packets: [0; 2],
            bytes: [0; 2],
            tcp: Tcp::default(),
            tag: 0,
            owner: OwnerId(0),
        }
    }

    /// The tuple of this direction.
    #[inline]
    pub fn tuple(&self, dir: Direction) -> &FiveTuple {
        match dir {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// Has anything come back?
    #[inline]
    pub fn seen_reply(&self) -> bool {
        self.marks & mark::SEEN_REPLY != 0
    }

    /// Is it proven, so that it is never evicted while it is alive (X02)?
    #[inline]
    pub fn is_assured(&self) -> bool {
        self.marks & mark::ASSURED != 0
    }

    /// The TCP state; `None` for other protocols.
    pub fn tcp_state(&self) -> Option<State> {
        (self.original.proto == TCP).then_some(self.tcp.state)
    }

    /// Packets that passed in this direction. A super-frame counts as one.
    pub fn packets(&self, dir: Direction) -> u64 {
        self.packets[dir as usize]
    }

    /// Bytes that passed in this direction, as the caller counts them.
    pub fn bytes(&self, dir: Direction) -> u64 {
        self.bytes[dir as usize]
    }

    /// When its first packet came.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// When a packet last renewed its timer.
    pub fn refreshed(&self) -> Instant {
        self.refreshed
    }

    #[inline]
    pub(super) fn is_free(&self) -> bool {
        self.marks & mark::FREE != 0
    }

    #[inline]
    pub(super) fn rank(&self) -> Rank {
        if !self.seen_reply() {
            Rank::Unreplied
        } else if self.original.proto == TCP && self.tcp.state.is_closing() {
            Rank::Closing
        } else if self.is_assured() {
            Rank::Assured
        } else {
            Rank::Unassured
        }
    }

    /// Microseconds; from this moment on the flow is gone.
    #[inline]
    pub(super) fn deadline(&self, timeouts: &[u64; Class::COUNT]) -> u64 {
        self.refreshed.micros().saturating_add(timeouts[self.class as usize])
    }

    /// The flow as `conntrack -L` prints it (X18, S14, S22); `remaining` as [`super::Table::remaining`] says.
    pub fn line(&self, remaining: Duration) -> Line<'_> {
        Line {
            original: &self.original,
            reply: &self.reply,
            remaining,
            state: self.tcp_state().map(State::name),
            replied: self.seen_reply(),
            assured: self.is_assured(),
            rest: "mark=0 use=1",
        }
    }
}

/// A flow as `conntrack -L` prints it, whoever tracks it.
pub struct Line<'a> {
    pub original: &'a FiveTuple,
    /// Its ports of ICMP are those of [`FiveTuple::icmp_query`]'s inverse.
    pub reply: &'a FiveTuple,
    pub remaining: Duration,
    /// Of TCP.
    pub state: Option<&'static str>,
    pub replied: bool,
    pub assured: bool,
    /// What follows.
    pub rest: &'a str,
}

/// The tuple in the words of libnetfilter_conntrack, with a blank after each.
fn write_tuple(f: &mut fmt::Formatter<'_>, t: &FiveTuple, dir: Direction) -> fmt::Result {
    write!(f, "src={} dst={} ", t.src, t.dst)?;
    if t.is_icmp() {
        let (what, id) = match dir {
            Direction::Original => (t.dport, t.sport),
            Direction::Reply => (t.sport, t.dport),
        };
        let (asked, code) = ((what >> 8) as u8, what & 0xff);
        let kind = match (dir, asked) {
            (Direction::Original, _) => asked,
            (Direction::Reply, 8) => 0,
            (Direction::Reply, _) => asked.wrapping_add(1),
        };
        return write!(f, "type={kind} code={code} id={id} ");
    }
    match t.proto {
        super::tuple::TCP | super::tuple::UDP | super::tuple::SCTP => {
            write!(f, "sport={} dport={} ", t.sport, t.dport)
        }
        super::tuple::GRE => write!(f, "srckey={:#x} dstkey={:#x} ", t.sport, t.dport),
        _ => Ok(()),
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proto = self.original.proto;
        let name = proto_name(proto).unwrap_or("unknown");
        write!(f, "{name:<8} {proto} {} ", self.remaining.as_secs())?;
        if let Some(state) = self.state {
            write!(f, "{state} ")?;
        }
        write_tuple(f, self.original, Direction::Original)?;
        if !self.replied {
            f.write_str("[UNREPLIED] ")?;
        }
        write_tuple(f, self.reply, Direction::Reply)?;
        if self.assured {
            f.write_str("[ASSURED] ")?;
        }
        f.write_str(self.rest)
    }
}
