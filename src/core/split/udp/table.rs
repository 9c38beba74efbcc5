//! Datagram sockets of the host and the flows that they carry, of UDP and of echo requests alike.
//!
//! # Theory of operation
//! A flow is what a connection tracker calls one: a container's endpoint and a peer. It is found from either side:
//!
//! ```text
//!  container                                 socket                          peer
//!  inside ── (origin, inside, shown) ─────►  flow  ◄───── (socket, peer, local) ──
//! ```
//!
//! `shown` is the peer as the container knows it, `peer` as the host does: they differ where an address of the container's
//! world leads to the host's loopback, and where a client of a published port may not be shown. `local` is the address
//! that such a client asked. What comes from a peer without a flow is nobody's (filtering by address and port, as Linux'
//! connection tracker does).
//!
//! A socket of a container ([`Kind::Inside`]) lives as long as it has flows; a published one until it is withdrawn.
//!
//! Flows end by time. A packet only writes its flow's deadline; the order of deadlines is brought up to date when the old
//! one comes. So it is with the order in which flows and sockets make room for new ones: of the same container, those
//! that a client began and nobody answered first, then those that nobody answered, then the rest, each by age. An assured
//! flow (a conversation of more than two seconds), or a socket that has one, never makes room for its own container; only
//! for one that has fewer, when all containers together are at the limit: four that fill it leave a fifth its share.
//!
//! # Limits
//! Sockets and flows are counted over all containers and for each ([`Limits`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hashbrown::HashMap;

use super::account::{Account, Room};
use super::packet::Quote;
use crate::core::command::Traffic;
use crate::core::hash::Keyed;
use crate::core::port::PortId;
use crate::core::socket::{Endpoint, SocketId};
use crate::core::split::Origin;
use crate::core::time::Instant;
use crate::wire::addr::Addr;

/// A flow that is answered becomes a conversation when it is older than this (`nf_conntrack_udp_packet`).
pub(in crate::core::split) const STREAM_AGE: Duration = Duration::from_secs(2);

/// How often a stale order is brought up to date for one eviction.
const REORDERS: usize = 16;

/// Flows that one call of [`Table::expire`] ends.
const EXPIRED_AT_ONCE: usize = 1024;

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Host sockets of all containers.
    pub sockets: usize,
    /// Host sockets of one container.
    pub sockets_each: usize,
    /// Flows of all containers.
    pub flows: usize,
    /// Flows of one container.
    pub flows_each: usize,
}

/// How long a silent flow is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// One direction only, or younger than two seconds.
    pub unreplied: Duration,
    /// Both directions.
    pub stream: Duration,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::split) enum Kind {
    /// What a container's endpoint sends from.
    Inside { inside: Endpoint },
    /// A published port.
    Published { tag: u32, to: Endpoint },
}

/// A host socket.
#[derive(Debug)]
pub(in crate::core::split) struct Socket {
    pub id: SocketId,
    pub origin: Origin,
    pub kind: Kind,
    /// Where it is bound.
    pub bound: Endpoint,
    /// When it last carried something.
    used: Instant,
    /// Its place in the order of eviction.
    place: (Rank, Instant),
    /// Its flows by rank.
    flows: [u32; Rank::COUNT],
}

/// Who sent the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::split) enum Begun {
    /// The container.
    Inside,
    /// A client of a published port.
    Outside,
}

/// How much a flow is worth, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::core::split) enum Rank {
    /// A client sent something and was not answered.
    Unasked,
    /// The container sent something and was not answered.
    Unanswered,
    /// Answered.
    Answered,
    /// A conversation.
    Assured,
}

impl Rank {
    const COUNT: usize = Rank::Assured as usize + 1;
    const ALL: [Rank; Rank::COUNT] = [Rank::Unasked, Rank::Unanswered, Rank::Answered, Rank::Assured];
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::split) enum Way {
    /// From the container.
    Out,
    /// To it.
    In,
}

/// A flow.
#[derive(Debug)]
pub(in crate::core::split) struct Flow {
    /// Its socket.
    pub socket: u32,
    /// Its container.
    pub origin: Origin,
    /// The container's endpoint.
    pub inside: Endpoint,
    /// The peer as the container knows it.
    pub shown: Endpoint,
    /// The peer as the host knows it.
    pub peer: Endpoint,
    /// The interface by which alone the peer was last heard, and is reached; 0: whichever.
    pub scope: u32,
    /// The host's address that the peer asked.
    pub local: Option<Addr>,
    pub begun: Begun,
    pub rank: Rank,
    /// Questions without answers, of a protocol that answers each once.
    pub pending: u16,
    pub created: Instant,
    pub deadline: Instant,
    /// The deadline by which it is sorted.
    queued: Instant,
    /// Of datagrams without their headers.
    pub out: Traffic,
    pub back: Traffic,
    /// The last packet that the container sent.
    pub last: Quote,
}

/// What a new flow is made of.
#[derive(Clone, Copy, Debug)]
pub(in crate::core::split) struct New {
    pub socket: u32,
    pub origin: Origin,
    pub inside: Endpoint,
    pub shown: Endpoint,
    pub peer: Endpoint,
    pub local: Option<Addr>,
    pub begun: Begun,
}

/// What does not make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::split) enum Spared {
    /// Conversations.
    Assured,
    /// Nothing, but everything else goes first.
    Nothing,
}

impl Spared {
    fn spares(self, rank: Rank) -> bool {
        self == Spared::Assured && rank == Rank::Assured
    }
}

/// The limits are reached, and nothing may make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::split) struct Full;

/// Entries by number; a free number is used again.
#[derive(Debug)]
struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    fn new() -> Slab<T> {
        Slab { entries: Vec::new(), free: Vec::new() }
    }

    /// The number of the next entry.
    fn next(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.entries.len() as u32) // limits are far below 2^32
    }

    fn insert(&mut self, value: T) -> u32 {
        let at = self.next();
        if self.free.pop().is_none() {
            self.entries.push(None);
        }
        self.entries[at as usize] = Some(value);
        at
    }

    fn remove(&mut self, at: u32) -> Option<T> {
        let value = self.entries.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(value)
    }

    fn get(&self, at: u32) -> Option<&T> {
        self.entries.get(at as usize)?.as_ref()
    }

    fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.entries.get_mut(at as usize)?.as_mut()
    }
}

/// Sockets and flows.
#[derive(Debug)]
pub(in crate::core::split) struct Table {
    timeouts: Timeouts,
    sockets: Slab<Socket>,
    flows: Slab<Flow>,
    /// The sockets of containers' endpoints.
    by_inside: HashMap<(Origin, Endpoint), u32, Keyed>,
    by_shown: HashMap<(Origin, Endpoint, Endpoint), u32, Keyed>,
    /// Sorted, so that a peer is found of whose packet the address it asked is not known.
    by_peer: BTreeMap<(u32, Endpoint, Option<Addr>), u32>,
    by_socket: BTreeSet<(u32, u32)>,
    by_time: BTreeSet<(Instant, u32)>,
    flow_order: BTreeSet<(PortId, Rank, Instant, u32)>,
    socket_order: BTreeSet<(PortId, Rank, Instant, u32)>,
    flow_account: Account,
    socket_account: Account,
    published: BTreeMap<u32, u32>,
    /// To be closed.
    closed: Vec<SocketId>,
}

impl Table {
    /// An empty table; `key` is random and secret.
    pub fn new(limits: Limits, timeouts: Timeouts, key: Keyed) -> Table {
        Table {
            timeouts,
            sockets: Slab::new(),
            flows: Slab::new(),
            by_inside: HashMap::with_hasher(key.clone()),
            by_shown: HashMap::with_hasher(key),
            by_peer: BTreeMap::new(),
            by_socket: BTreeSet::new(),
            by_time: BTreeSet::new(),
            flow_order: BTreeSet::new(),
            socket_order: BTreeSet::new(),
            flow_account: Account::new(limits.flows, limits.flows_each),
            socket_account: Account::new(limits.sockets, limits.sockets_each),
            published: BTreeMap::new(),
            closed: Vec::new(),
        }
    }

    /// The socket that a container's endpoint sends from.
    pub fn socket_of(&self, origin: Origin, inside: Endpoint) -> Option<u32> {
        self.by_inside.get(&(origin, inside)).copied()
    }

    /// The socket of a published port.
    pub fn published(&self, tag: u32) -> Option<u32> {
        self.published.get(&tag).copied()
    }

    /// A socket.
    pub fn socket(&self, at: u32) -> Option<&Socket> {
        self.sockets.get(at)
    }

    /// A flow.
    pub fn flow(&self, at: u32) -> Option<&Flow> {
        self.flows.get(at)
    }

    /// A flow, to be changed; not what it is found by.
    pub fn flow_mut(&mut self, at: u32) -> Option<&mut Flow> {
        self.flows.get_mut(at)
    }

    /// The flow by which a container reaches `shown`, if it has not ended by `now`.
    pub fn of_container(&mut self, origin: Origin, inside: Endpoint, shown: Endpoint, now: Instant) -> Option<u32> {
        let at = self.by_shown.get(&(origin, inside, shown)).copied()?;
        self.live(at, now)
    }

    /// Is there such a flow, which a client began?
    pub fn is_reply(&self, origin: Origin, inside: Endpoint, shown: Endpoint, now: Instant) -> bool {
        let at = self.by_shown.get(&(origin, inside, shown));
        let flow = at.and_then(|at| self.flows.get(*at));
        flow.is_some_and(|flow| flow.begun == Begun::Outside && flow.deadline > now)
    }

    /// The flow of a peer on a socket, if it has not ended by `now`.
    pub fn of_peer(&mut self, socket: u32, peer: Endpoint, local: Option<Addr>, now: Instant) -> Option<u32> {
        let at = self.by_peer.get(&(socket, peer, local)).copied()?;
        self.live(at, now)
    }

    /// The flow that sent to a peer from `local`; where that is not known, or no part of the flow, any of that peer's.
    pub fn about_peer(&self, socket: u32, peer: Endpoint, local: Option<Addr>) -> Option<u32> {
        if let Some(exact) = self.by_peer.get(&(socket, peer, local)) {
            return Some(*exact);
        }
        let (key, at) = self.by_peer.range((socket, peer, None)..).next()?;
        (key.0 == socket && key.1 == peer && (local.is_none() || key.2.is_none())).then_some(*at)
    }

    fn live(&mut self, at: u32, now: Instant) -> Option<u32> {
        if self.flows.get(at)?.deadline <= now {
            self.remove_flow(at);
            return None;
        }
        Some(at)
    }

    /// Makes room for one more socket of `owner`; `true`: another of its own gave way.
    pub fn make_socket_room(&mut self, owner: PortId) -> Result<bool, Full> {
        let mut own = false;
        loop {
            match self.socket_account.room(owner, 1) {
                Room::Yes => return Ok(own),
                Room::Never => return Err(Full),
                Room::After(victim) => {
                    own |= victim == owner;
                    let spared = if victim == owner { Spared::Assured } else { Spared::Nothing };
                    if !self.evict_socket(victim, spared) {
                        return Err(Full);
                    }
                }
            }
        }
    }

    /// Ends the socket that `owner` is to miss least; `false`: it can spare none.
    pub fn evict_socket(&mut self, owner: PortId, spared: Spared) -> bool {
        for _ in 0..REORDERS {
            let Some(&(of, rank, stamp, at)) =
                self.socket_order.range((owner, Rank::Unasked, Instant::ZERO, 0)..).next()
            else {
                return false;
            };
            if of != owner || spared.spares(rank) {
                return false;
            }
            let Some(socket) = self.sockets.get_mut(at) else { return false };
            if socket.used <= stamp {
                break;
            }
            socket.place = (rank, socket.used);
            let used = socket.used;
            self.socket_order.remove(&(of, rank, stamp, at));
            self.socket_order.insert((of, rank, used, at));
        }
        match self.socket_order.range((owner, Rank::Unasked, Instant::ZERO, 0)..).next() {
            Some(&(of, rank, _, at)) if of == owner && !spared.spares(rank) => {
                self.remove_socket(at);
                true
            }
            _ => false,
        }
    }

    /// The number that the next socket will have.
    pub fn next_socket(&self) -> u32 {
        self.sockets.next()
    }

    /// Enters a socket; for one of a container, room was made.
    pub fn insert_socket(&mut self, id: SocketId, origin: Origin, kind: Kind, bound: Endpoint, now: Instant) -> u32 {
        let place = (Rank::Unasked, now);
        let socket = Socket { id, origin, kind, bound, used: now, place, flows: [0; Rank::COUNT] };
        let at = self.sockets.insert(socket);
        match kind {
            Kind::Inside { inside } => {
                self.by_inside.insert((origin, inside), at);
                self.socket_order.insert((origin.port, place.0, place.1, at));
                self.socket_account.charge(origin.port, 1);
            }
            Kind::Published { tag, .. } => {
                self.published.insert(tag, at);
            }
        }
        at
    }

    /// Ends a socket and its flows.
    pub fn remove_socket(&mut self, at: u32) {
        while let Some(&(socket, flow)) = self.by_socket.range((at, 0)..).next()
            && socket == at
        {
            self.remove_flow(flow); // with the last one a container's socket goes
        }
        let Some(socket) = self.sockets.remove(at) else { return };
        match socket.kind {
            Kind::Inside { inside } => {
                self.by_inside.remove(&(socket.origin, inside));
                self.socket_order.remove(&(socket.origin.port, socket.place.0, socket.place.1, at));
                self.socket_account.refund(socket.origin.port, 1);
            }
            Kind::Published { tag, .. } => {
                self.published.remove(&tag);
            }
        }
        self.closed.push(socket.id);
    }

    /// Begins a flow on a socket. What is there under either of its names gives way.
    pub fn insert_flow(&mut self, new: New, now: Instant) -> Result<u32, Full> {
        let New { socket, origin, inside, shown, peer, local, begun } = new;
        // First what its socket must outlive: the last flow takes the socket along.
        let old = [self.by_shown.get(&(origin, inside, shown)), self.by_peer.get(&(socket, peer, local))];
        for at in old.map(|at| at.copied()).into_iter().flatten() {
            if let Some(other) = self.detach_flow(at).filter(|other| *other != socket) {
                self.drop_idle(other);
            }
        }
        let made = self.make_flow_room(origin.port, socket);
        if made.is_err() || self.sockets.get(socket).is_none() {
            self.drop_idle(socket);
            return Err(Full);
        }
        let rank = match begun {
            Begun::Inside => Rank::Unanswered,
            Begun::Outside => Rank::Unasked,
        };
        let deadline = now + self.timeouts.unreplied;
        let at = self.flows.insert(Flow {
            socket,
            origin,
            inside,
            shown,
            peer,
            scope: 0,
            local,
            begun,
            rank,
            pending: 0,
            created: now,
            deadline,
            queued: deadline,
            out: Traffic::default(),
            back: Traffic::default(),
            last: Quote::default(),
        });
        self.by_shown.insert((origin, inside, shown), at);
        self.by_peer.insert((socket, peer, local), at);
        self.by_socket.insert((socket, at));
        self.by_time.insert((deadline, at));
        self.flow_order.insert((origin.port, rank, deadline, at));
        self.flow_account.charge(origin.port, 1);
        self.count_rank(socket, None, Some(rank));
        Ok(at)
    }

    /// A packet of the flow passes.
    pub fn touch(&mut self, at: u32, way: Way, packets: u64, bytes: u64, now: Instant) {
        let Some(flow) = self.flows.get_mut(at) else { return };
        let counted = match way {
            Way::Out => &mut flow.out,
            Way::In => &mut flow.back,
        };
        counted.frames += packets;
        counted.bytes += bytes;
        let answers = matches!((flow.begun, way), (Begun::Inside, Way::In) | (Begun::Outside, Way::Out));
        // The reply that is just passing does not count yet.
        let stream = flow.rank >= Rank::Answered && now.since(flow.created) > STREAM_AGE;
        let timeout = if stream { self.timeouts.stream } else { self.timeouts.unreplied };
        flow.deadline = now + timeout;
        let rank = match flow.rank {
            _ if stream => Rank::Assured,
            Rank::Unasked | Rank::Unanswered if answers => Rank::Answered,
            rank => rank,
        };
        let (old, port, queued, socket) = (flow.rank, flow.origin.port, flow.queued, flow.socket);
        if let Some(socket) = self.sockets.get_mut(socket) {
            socket.used = now;
        }
        if rank != old {
            flow.rank = rank;
            self.flow_order.remove(&(port, old, queued, at));
            self.flow_order.insert((port, rank, queued, at));
            self.count_rank(socket, Some(old), Some(rank));
        }
    }

    /// The flow ends at `deadline`, if not before.
    pub fn shorten(&mut self, at: u32, deadline: Instant) {
        let Some(flow) = self.flows.get_mut(at) else { return };
        if deadline < flow.deadline {
            flow.deadline = deadline;
        }
        if flow.deadline < flow.queued {
            self.requeue(at);
        }
    }

    /// When [`Table::expire`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.by_time.first().map(|(deadline, _)| *deadline)
    }

    /// Ends what is over, some of it at a time.
    pub fn expire(&mut self, now: Instant) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(&(queued, at)) = self.by_time.first() else { return };
            if queued > now {
                return;
            }
            if self.flows.get(at).is_some_and(|flow| flow.deadline > now) {
                self.requeue(at);
            } else {
                self.remove_flow(at);
            }
        }
    }

    /// Ends flows of a port, `most` at most, with the sockets that they alone have; how many there were.
    pub fn end_flows(&mut self, owner: PortId, most: usize) -> usize {
        let mut ended = 0;
        while ended < most
            && let Some((_, _, _, at)) = self.first_flow(owner)
        {
            self.remove_flow(at);
            ended += 1;
        }
        ended
    }

    /// Ends all that belongs to a port, its published ports as well.
    pub fn forget(&mut self, owner: PortId) {
        while let Some(&(of, _, _, at)) = self.socket_order.range((owner, Rank::Unasked, Instant::ZERO, 0)..).next()
            && of == owner
        {
            self.remove_socket(at);
        }
        let published = self.published.values().copied();
        let theirs = published.filter(|at| self.sockets.get(*at).is_some_and(|s| s.origin.port == owner));
        for at in theirs.collect::<Vec<_>>() {
            self.remove_socket(at);
        }
    }

    /// The sockets that have ended since the last call; they are still to be closed.
    pub fn take_closed(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.closed)
    }

    /// At most `max` flows from number `cursor` on, and where the next ones begin.
    pub fn page(&self, cursor: u64, max: usize) -> (Vec<&Flow>, Option<u64>) {
        let mut rows = Vec::new();
        let from = usize::try_from(cursor).unwrap_or(usize::MAX).min(self.flows.entries.len());
        for (i, entry) in self.flows.entries[from..].iter().enumerate() {
            if rows.len() == max {
                return (rows, Some((from + i) as u64));
            }
            rows.extend(entry);
        }
        (rows, None)
    }

    fn requeue(&mut self, at: u32) {
        let Some(flow) = self.flows.get_mut(at) else { return };
        let (old, new, port, rank) = (flow.queued, flow.deadline, flow.origin.port, flow.rank);
        flow.queued = new;
        self.by_time.remove(&(old, at));
        self.by_time.insert((new, at));
        self.flow_order.remove(&(port, rank, old, at));
        self.flow_order.insert((port, rank, new, at));
    }

    /// Makes room for one more flow of `owner`, on `socket`, which survives.
    fn make_flow_room(&mut self, owner: PortId, socket: u32) -> Result<(), Full> {
        loop {
            match self.flow_account.room(owner, 1) {
                Room::Yes => return Ok(()),
                Room::Never => return Err(Full),
                Room::After(victim) => {
                    let spared = if victim == owner { Spared::Assured } else { Spared::Nothing };
                    if !self.evict_flow(victim, spared, socket) {
                        return Err(Full);
                    }
                }
            }
        }
    }

    fn evict_flow(&mut self, owner: PortId, spared: Spared, keep: u32) -> bool {
        for _ in 0..REORDERS {
            let Some((of, rank, queued, at)) = self.first_flow(owner) else { return false };
            let Some(flow) = self.flows.get(at) else { return false };
            if of != owner || spared.spares(rank) {
                return false;
            }
            if flow.deadline <= queued {
                break;
            }
            self.requeue(at);
        }
        match self.first_flow(owner) {
            Some((_, rank, _, at)) if !spared.spares(rank) => {
                let socket = self.detach_flow(at);
                if let Some(socket) = socket.filter(|socket| *socket != keep) {
                    self.drop_idle(socket);
                }
                true
            }
            _ => false,
        }
    }

    fn first_flow(&self, owner: PortId) -> Option<(PortId, Rank, Instant, u32)> {
        let first = self.flow_order.range((owner, Rank::Unasked, Instant::ZERO, 0)..).next().copied();
        first.filter(|(of, ..)| *of == owner)
    }

    fn remove_flow(&mut self, at: u32) {
        if let Some(socket) = self.detach_flow(at) {
            self.drop_idle(socket);
        }
    }

    /// Ends a flow and leaves its socket, which is returned.
    fn detach_flow(&mut self, at: u32) -> Option<u32> {
        let flow = self.flows.remove(at)?;
        let port = flow.origin.port;
        self.by_shown.remove(&(flow.origin, flow.inside, flow.shown));
        self.by_peer.remove(&(flow.socket, flow.peer, flow.local));
        self.by_socket.remove(&(flow.socket, at));
        self.by_time.remove(&(flow.queued, at));
        self.flow_order.remove(&(port, flow.rank, flow.queued, at));
        self.flow_account.refund(port, 1);
        self.count_rank(flow.socket, Some(flow.rank), None);
        Some(flow.socket)
    }

    /// Ends a container's socket that has no flow.
    pub fn drop_idle(&mut self, at: u32) {
        let idle = |socket: &Socket| matches!(socket.kind, Kind::Inside { .. }) && socket.flows == [0; Rank::COUNT];
        if self.sockets.get(at).is_some_and(idle) {
            self.remove_socket(at);
        }
    }

    /// A flow of a socket changes its rank: the socket is worth as much as the best of its flows.
    fn count_rank(&mut self, at: u32, old: Option<Rank>, new: Option<Rank>) {
        let Some(socket) = self.sockets.get_mut(at) else { return };
        if let Some(old) = old {
            socket.flows[old as usize] -= 1;
        }
        if let Some(new) = new {
            socket.flows[new as usize] += 1;
        }
        let best = Rank::ALL.into_iter().rfind(|rank| socket.flows[*rank as usize] > 0).unwrap_or(Rank::Unasked);
        if matches!(socket.kind, Kind::Inside { .. }) && best != socket.place.0 {
            let (port, old, used) = (socket.origin.port, socket.place, socket.used);
            socket.place = (best, used);
            self.socket_order.remove(&(port, old.0, old.1, at));
            self.socket_order.insert((port, best, used, at));
        }
    }

    /// Does nothing refer to what is not there, and is nothing missing?
    #[cfg(test)]
    pub fn audit(&self) {
        let flows = self.flows.entries.iter().flatten().count();
        let sockets: Vec<_> = self.sockets.entries.iter().flatten().collect();
        let inside = sockets.iter().filter(|s| matches!(s.kind, Kind::Inside { .. })).count();
        assert_eq!(self.by_shown.len(), flows);
        assert_eq!(self.by_peer.len(), flows);
        assert_eq!(self.by_socket.len(), flows);
        assert_eq!(self.by_time.len(), flows);
        assert_eq!(self.flow_order.len(), flows);
        assert_eq!(self.flow_account.total(), flows);
        assert_eq!(self.by_inside.len(), inside);
        assert_eq!(self.socket_order.len(), inside);
        assert_eq!(self.socket_account.total(), inside);
        assert_eq!(self.published.len(), sockets.len() - inside);
        for socket in sockets {
            let all: u32 = socket.flows.iter().sum();
            assert!(all > 0 || matches!(socket.kind, Kind::Published { .. }), "a socket without flows");
        }
    }

    /// How many sockets and flows there are; looks at every place.
    pub fn len(&self) -> (usize, usize) {
        (self.sockets.entries.iter().flatten().count(), self.flows.entries.iter().flatten().count())
    }

    /// Flows of a container.
    pub fn flows_of(&self, owner: PortId) -> usize {
        self.flow_account.used(owner)
    }

    /// Sockets of a container.
    pub fn sockets_of(&self, owner: PortId) -> usize {
        self.socket_account.used(owner)
    }
}
