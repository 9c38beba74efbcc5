//! Connection tracking: which packets belong together, what they may do, and how long that is remembered.
//!
//! # Theory of operation
//! A flow is known under two [tuples](FiveTuple): as its first packet came in, and as the answer will come in. The reply
//! tuple *is* the translation: masquerade and published ports only edit it before the flow exists, and inserting it is
//! the allocation of the port. There is no second table, no pool and nothing to leak.
//!
//! The journey of a packet:
//!
//! ```text
//! lookup(tuple) ── found ──> track(flow, direction, facts) ──> Accept | Ignore: translate by the flow's tuples
//!      │                          │     └──> Invalid: drop, count
//!    absent  <────── Reopen ──────┘
//!      │
//! admit(tuple, facts) ──> Tentative (edited by NAT, judged by policy) ──> commit ──> a flow
//! ```
//!
//! A [`Tentative`] is a value on the stack: a packet that is dropped leaves no trace. Only [`Table::commit`] makes a
//! flow.
//!
//! The rules are Linux': [`tcp`] for TCP, [`Timeouts`] for the rest. A packet that is refused renews nothing (V8), and
//! so does an ICMP error, which only looks its flow up (V9, I6).
//!
//! - `tuple`: five-tuples and how ICMP fits in them.
//! - `segment`: the facts of a TCP segment.
//! - `tcp`: the state machine and the windows.
//! - `timeouts`: the timeout classes.
//! - `flow`: one flow, and its line in `conntrack -L`.
//! - `index`: hash to slot, without rehash or tombstone.
//! - `lists`: intrusive lists.
//! - `table`: slab, timers, limits, quotas, eviction.

mod flow;
pub(super) mod index;
mod lists;
pub mod segment;
mod table;
pub mod tcp;
mod timeouts;
pub mod tuple;

pub use flow::{Flow, Line};
pub use segment::Segment;
pub use table::{Config, LIMIT_MAX, Page, Purge, STEP_LOOKS, STEP_REMOVALS, Stats, Table};
pub use tcp::State;
pub use timeouts::Timeouts;
pub use tuple::{FiveTuple, Query};

/// As the first packet went, or against it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    /// As the flow's first packet.
    #[default]
    Original = 0,
    /// As the answer to it.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[inline]
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// Names a flow as long as it lives; of one that is gone it finds nothing (for 255 successors in the same place).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId(u32);

/// Who is charged for a flow: the container's port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OwnerId(pub u32);

/// A flow that may come to be. NAT edits its reply tuple; [`Table::commit`] takes it.
#[derive(PartialEq, Eq, Debug)]
pub struct Tentative {
    /// As the packet came in.
    pub original: FiveTuple,
    /// As the answer will come in.
    pub reply: FiveTuple,
    /// Who is charged.
    pub owner: OwnerId,
    /// The published-port rule that made it; 0 is none. For a [`Purge`].
    pub tag: u32,
}

impl Tentative {
    /// The flow of this packet, not translated and not yet marked.
    pub fn new(original: FiveTuple, owner: OwnerId) -> Tentative {
        Tentative { original, reply: original.inverse(), owner, tag: 0 }
    }
}

/// What of a packet above IP matters to tracking.
#[derive(Clone, Copy, Debug)]
pub enum L4<'a> {
    /// A TCP segment.
    Tcp(&'a Segment),
    /// A UDP datagram.
    Udp,
    /// An ICMP or ICMPv6 query.
    Icmp(Query),
    /// Another protocol, or a later fragment of any: it passes with its flow, and of a TCP flow it renews no timer.
    Other,
}

/// Why a packet is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// TCP flags that do not go together (X01).
    Flags,
    /// Belongs to no flow and may not begin one: a TCP segment that is no SYN, an ICMP reply (I10).
    NotNew,
    /// The flow's state has no place for it.
    State,
    /// Outside the TCP window; only when not liberal (X03).
    Window,
    /// A RST below what has been acknowledged (X04).
    Reset,
}

/// What becomes of a packet of a known flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Track {
    /// Translate and send. The flow can be read until the next packet, even if this one ended it (X09).
    Accept,
    /// The same; but the packet was not believed and has changed nothing.
    Ignore,
    /// Drop. The timer was not renewed.
    Invalid(Invalid),
    /// The flow is gone; treat the packet as one without a flow (X07).
    Reopen,
}

/// Why there is no flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The table is full, and nothing in it may be evicted.
    Table,
    /// The owner is at its quota, and nothing of its own may be evicted.
    Quota,
    /// One of the tuples is taken.
    Clash,
}

#[cfg(test)]
mod tests;
