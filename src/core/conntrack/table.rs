//! The table of flows: index, slab, timers, limits and eviction.
//!
//! # Theory of operation
//! Flows lie in a slab that is reserved for the limit at start and touched as it fills: it never moves, and idle it costs
//! nothing. The index maps the keyed hash of a tuple to `slot << 1 | direction`; each flow is in it twice. It is sized for
//! the limit, too, and never grows or rehashes.
//!
//! **Timers.** A packet only stamps its flow. Flows lie in lists by rank and timeout class, ordered by the stamp they had
//! when they were queued; when the head of a list is due, its true deadline is looked at, and it goes, or to the tail.
//! Nothing is scanned. A lookup checks the true deadline, so an expired flow is never found, however late it is
//! collected. A class that outlasts the list's does not move the flow (a TCP connection flips between "acknowledged" and
//! "unacknowledged" with each segment); one that falls short of it does.
//!
//! **Room.** At the limit, one flow goes, by this ladder:
//!
//! 1. expired;
//! 2. unreplied, the oldest first;
//! 3. closing (FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE), the oldest first;
//! 4. answered but not assured, the oldest first;
//! 5. never an assured one.
//!
//! An owner at its quota goes down the same ladder over its own flows only, so that its flood disturbs nobody else.
//!
//! # Limits
//! - An expired flow in the middle of a busy list is collected at most one timeout late; it counts towards the limit
//!   until then. At the limit, [`REVIEWS`] assured flows a turn are looked at for such leftovers.
//! - Every step of the ladder looks at no more than [`REVIEWS`] flows for one that is new in its place.
//!
//! # References
//! `nf_conntrack_core.c` (`early_drop`), RFC 6888 REQ-3 and REQ-4 (limits per subscriber), C4, C5, R31, X12-X14.

use std::hash::BuildHasher;
use std::ops::Index;
use std::time::Duration;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::flow::{Flow, Rank, mark};
use super::index::Index as TupleIndex;
use super::lists::{Chain, Ends, NIL, Node};
use super::segment::Kind;
use super::tcp::{Context, Outcome, State, Tcp};
use super::timeouts::{Class, Timeouts};
use super::tuple::{self, FiveTuple, Query};
use super::{Direction, FlowId, Full, Invalid, L4, OwnerId, Tentative, Track};
use crate::core::hash::Keyed;
use crate::core::time::Instant;

/// The most that [`Config::limit`] can be: a [`FlowId`] has 24 bits for the place.
pub const LIMIT_MAX: u32 = 1 << 24;

/// Flows that a step of the ladder looks at, and puts back, before it gives up or takes the next as it is.
const REVIEWS: usize = 8;

/// Linux' `UDP_STREAM` rule: a UDP flow counts as a conversation when it goes on after two seconds.
const UDP_STREAM_AGE: Duration = Duration::from_secs(2);

/// Linux' `nf_ct_expires(ct) < 120 * HZ` in `nf_tcp_handle_invalid`: what is over soon anyhow is left alone.
const SHRINK_ABOVE: Duration = Duration::from_secs(120);

/// What an operator may choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Flows at most (`nf_conntrack_max`), 1..=[`LIMIT_MAX`]; what is outside is taken as the nearest.
    pub limit: u32,
    /// Flows at most per owner; by default a quarter of the limit.
    pub quota: Option<u32>,
    /// How long silent flows are kept.
    pub timeouts: Timeouts,
    /// `nf_conntrack_tcp_be_liberal`: TCP outside the window passes and is translated (X03). Linux' default is off.
    pub tcp_liberal: bool,
    /// `nf_conntrack_tcp_loose`: an ACK may begin a flow (X06). Linux' default is on; a NAT's mapping is lost all the
    /// same.
    pub tcp_loose: bool,
    /// `nf_conntrack_tcp_max_retrans`: the same segment so often in a row shortens the timer.
    pub tcp_max_retrans: u8,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            limit: 262_144,
            quota: None,
            timeouts: Timeouts::default(),
            tcp_liberal: true,
            tcp_loose: false,
            tcp_max_retrans: 3,
        }
    }
}

/// Counters since the start, and what is there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Stats {
    /// Flows now, expired ones that are not collected yet included.
    pub flows: u32,
    /// Of them TCP.
    pub tcp: u32,
    /// Of them UDP.
    pub udp: u32,
    /// Of them ICMP and ICMPv6.
    pub icmp: u32,
    /// Of them other protocols.
    pub other: u32,
    /// TCP flows by [`State`].
    pub tcp_states: [u32; State::COUNT],
    /// Flows made.
    pub created: u64,
    /// Flows that ended by their timer or their own doing.
    pub expired: u64,
    /// Flows evicted for room while unreplied.
    pub evicted_unreplied: u64,
    /// Flows evicted for room while closing.
    pub evicted_closing: u64,
    /// Flows evicted for room while answered but not assured.
    pub evicted_unassured: u64,
    /// Flows removed by command.
    pub removed: u64,
    /// New flows refused because the table was full.
    pub refused_table: u64,
    /// New flows refused because their owner was at its quota.
    pub refused_quota: u64,
    /// New flows refused because a tuple was taken.
    pub refused_clash: u64,
    /// Packets of known flows that were refused.
    pub invalid: u64,
}

/// A page of a listing.
#[derive(Debug)]
pub struct Page<'a> {
    /// Live flows in the order of their places.
    pub flows: Vec<(FlowId, &'a Flow)>,
    /// Where to go on; `None` at the end.
    pub next: Option<u32>,
}

/// Flows that are to be removed in steps of [`Table::purge`]: those that are there when it begins. One that begins later is
/// passed over, and the pass is as long as the table has ever been.
#[derive(Debug)]
pub struct Purge {
    /// Who is charged for them, sorted; `None`: whoever.
    owners: Option<Vec<OwnerId>>,
    /// Sorted.
    tags: Vec<u32>,
    since: Instant,
    /// The slot to look at next.
    next: u32,
    removed: usize,
}

impl Purge {
    /// Of the flows that any of `owners` is charged for (`None`: all flows), and of those of any of `tags`.
    pub fn new(owners: Option<Vec<OwnerId>>, mut tags: Vec<u32>, now: Instant) -> Purge {
        tags.sort_unstable();
        let owners = owners.map(|mut owners| {
            owners.sort_unstable();
            owners
        });
        Purge { owners, tags, since: now, next: 0, removed: 0 }
    }

    /// Flows that are gone so far.
    pub fn removed(&self) -> usize {
        self.removed
    }

    fn is_of(&self, flow: &Flow) -> bool {
        let charged = self.owners.as_ref().is_none_or(|owners| owners.binary_search(&flow.owner).is_ok());
        (charged || flow.tag != 0 && self.tags.binary_search(&flow.tag).is_ok()) && flow.created <= self.since
    }
}

/// Why a flow leaves.
#[derive(Clone, Copy)]
enum Leave {
    Expired,
    Evicted(Rank),
    Removed,
}

/// Flows that one step of a [`Purge`] removes at most: some hundred microseconds.
pub const STEP_REMOVALS: u32 = 2048;
/// Flows that one step of a [`Purge`] looks at at most.
pub const STEP_LOOKS: u32 = 16_384;

struct Owner {
    count: u32,
    ranks: [Ends; Rank::COUNT],
}

/// What a million flows cost, all in.
const _: () = assert!(1_000_000 * (size_of::<Flow>() + size_of::<Node>()) + TupleIndex::bytes(2_000_000) < 300 << 20);

const LISTS: usize = Rank::COUNT * Class::COUNT;
const _: () = assert!(LISTS <= u128::BITS as usize);

/// The flows.
pub struct Table {
    key: Keyed,
    index: TupleIndex,
    flows: Vec<Flow>,
    /// In step with `flows`.
    nodes: Vec<Node>,
    /// The first of the free slots below `flows.len()`.
    free: u32,
    lists: [Ends; LISTS],
    /// Bit n: list n has a member.
    busy: u128,
    owners: HashMap<OwnerId, Owner, Keyed>,
    micros: [u64; Class::COUNT],
    limit: u32,
    quota: u32,
    config: Config,
    stats: Stats,
}

impl Table {
    /// An empty table. `key` must be unguessable: it keeps containers from making tuples that collide.
    pub fn new(config: Config, key: [u8; 16]) -> Table {
        let limit = config.limit.clamp(1, LIMIT_MAX);
        let key = Keyed::new(key);
        Table {
            index: TupleIndex::new(2 * limit as usize),
            flows: Vec::with_capacity(limit as usize),
            nodes: Vec::with_capacity(limit as usize),
            free: NIL,
            lists: [Ends::EMPTY; LISTS],
            busy: 0,
            owners: HashMap::with_hasher(key.clone()),
            key,
            micros: config.timeouts.micros(),
            limit,
            quota: config.quota.unwrap_or((limit / 4).max(1)),
            config,
            stats: Stats::default(),
        }
    }

    /// The flow of a packet with this tuple, and which way it goes. An expired flow is not found.
    #[inline]
    pub fn lookup(&mut self, tuple: &FiveTuple, now: Instant) -> Option<(FlowId, Direction)> {
        let (slot, dir) = self.find(tuple, self.hash(tuple))?;
        let flow = &self.flows[slot as usize];
        if flow.deadline(&self.micros) <= now.micros() {
            self.leave(slot, Leave::Expired);
            return None;
        }
        Some((FlowId(u32::from(flow.generation) << 24 | slot), dir))
    }

    /// Is the tuple taken, so that a translation may not choose it?
    pub fn in_use(&mut self, tuple: &FiveTuple, now: Instant) -> bool {
        self.lookup(tuple, now).is_some()
    }

    /// May a packet without a flow begin one?
    pub fn admit(&self, tuple: &FiveTuple, l4: L4<'_>) -> Result<(), Invalid> {
        match l4 {
            L4::Tcp(segment) if !segment.has_valid_flags() => Err(Invalid::Flags),
            L4::Tcp(segment) => match segment.kind() {
                Kind::Syn => Ok(()),
                Kind::Ack if self.config.tcp_loose => Ok(()),
                _ => Err(Invalid::NotNew),
            },
            L4::Icmp(Query::Reply) => Err(Invalid::NotNew),
            L4::Udp | L4::Icmp(Query::Request) => Ok(()),
            // Without their headers TCP and ICMP cannot be judged.
            L4::Other if tuple.proto == tuple::TCP || tuple.is_icmp() => Err(Invalid::NotNew),
            L4::Other => Ok(()),
        }
    }

    /// A packet of a known flow. `bytes` is what is counted for it.
    #[inline]
    pub fn track(&mut self, id: FlowId, dir: Direction, l4: L4<'_>, bytes: u64, now: Instant) -> Track {
        let Some(slot) = self.slot(id) else {
            return Track::Reopen;
        };
        let flow = &mut self.flows[slot as usize];
        let first_reply = dir == Direction::Reply && !flow.seen_reply();
        let is_tcp = flow.original.proto == tuple::TCP;
        let verdict = match l4 {
            L4::Tcp(segment) if is_tcp => {
                if !segment.has_valid_flags() {
                    self.stats.invalid += 1;
                    return Track::Invalid(Invalid::Flags);
                }
                let cx = Context {
                    liberal: self.config.tcp_liberal,
                    max_retrans: self.config.tcp_max_retrans,
                    seen_reply: flow.seen_reply(),
                    assured: flow.is_assured(),
                    timeouts: &self.micros,
                };
                let old = flow.tcp.state;
                let outcome = flow.tcp.packet(dir, segment, &cx);
                let new = flow.tcp.state;
                if old != new {
                    self.stats.tcp_states[old as usize] -= 1;
                    self.stats.tcp_states[new as usize] += 1;
                }
                match outcome {
                    Outcome::Accept { class, assured } => {
                        flow.refreshed = now;
                        flow.class = class;
                        if assured {
                            flow.marks |= mark::ASSURED;
                        }
                        Track::Accept
                    }
                    Outcome::Last => {
                        flow.refreshed = now;
                        flow.class = Class::Dead;
                        Track::Accept
                    }
                    Outcome::Ignore => Track::Ignore,
                    Outcome::Reopen => {
                        self.leave(slot, Leave::Expired);
                        return Track::Reopen;
                    }
                    Outcome::Invalid(why) => {
                        self.stats.invalid += 1;
                        return Track::Invalid(why);
                    }
                    Outcome::Shrink(why) => {
                        self.stats.invalid += 1;
                        self.shrink(slot, now);
                        return Track::Invalid(why);
                    }
                }
            }
            L4::Icmp(query) if flow.original.is_icmp() => {
                let asks = query == Query::Request;
                if asks != (dir == Direction::Original) {
                    self.stats.invalid += 1;
                    return Track::Invalid(Invalid::State);
                }
                flow.refreshed = now;
                Track::Accept
            }
            L4::Udp | L4::Other if !is_tcp => {
                flow.refreshed = now;
                let class = answered_class(flow, now);
                if matches!(class, Class::UdpStream | Class::GreStream) {
                    flow.marks |= mark::ASSURED;
                }
                flow.class = class;
                Track::Accept
            }
            L4::Other => Track::Ignore,
            // Facts of another protocol than the tuple's: the caller has mixed up two packets.
            L4::Tcp(_) | L4::Udp | L4::Icmp(_) => {
                self.stats.invalid += 1;
                return Track::Invalid(Invalid::State);
            }
        };
        flow.packets[dir as usize] += 1;
        flow.bytes[dir as usize] += bytes;
        if first_reply {
            flow.marks |= mark::SEEN_REPLY;
        }
        self.settle(slot);
        verdict
    }

    /// Makes a flow of a packet that [`admit`](Table::admit) let begin one, and that policy let pass.
    pub fn commit(&mut self, tentative: Tentative, l4: L4<'_>, bytes: u64, now: Instant) -> Result<FlowId, Full> {
        let Tentative { original, reply, owner, tag } = tentative;
        if original == reply || self.in_use(&original, now) || self.in_use(&reply, now) {
            self.stats.refused_clash += 1;
            return Err(Full::Clash);
        }
        if self.owner_flows(owner) >= self.quota && !self.make_room_of(owner, now) {
            self.stats.refused_quota += 1;
            return Err(Full::Quota);
        }
        if self.stats.flows >= self.limit && !self.make_room(now) {
            self.stats.refused_table += 1;
            return Err(Full::Table);
        }

        let (tcp, class) = match l4 {
            L4::Tcp(segment) if original.proto == tuple::TCP => {
                let mut tcp = Tcp::begin(segment);
                let cx = Context {
                    liberal: true,
                    max_retrans: u8::MAX,
                    seen_reply: false,
                    assured: false,
                    timeouts: &self.micros,
                };
                let class = match tcp.packet(Direction::Original, segment, &cx) {
                    Outcome::Accept { class, .. } => class,
                    // Not admitted: a flow that goes with its packet.
                    _ => Class::Dead,
                };
                (tcp, class)
            }
            _ => (Tcp::default(), first_class(original.proto)),
        };
        let slot = self.take_slot();
        let flow = &mut self.flows[slot as usize];
        let state = tcp.state;
        *flow = Flow {
            original,
            reply,
            class,
            list: 0,
            marks: 0,
            generation: flow.generation,
            refreshed: now,
            created: now,
            packets: [1, 0],
            bytes: [bytes, 0],
            tcp,
            tag,
            owner,
        };
        let id = FlowId(u32::from(flow.generation) << 24 | slot);
        self.index.insert(self.hash(&original), slot << 1);
        self.index.insert(self.hash(&reply), slot << 1 | 1);
        self.stats.flows += 1;
        self.stats.created += 1;
        *self.protocol_count(original.proto) += 1;
        if original.proto == tuple::TCP {
            self.stats.tcp_states[state as usize] += 1;
        }
        let account = self.owners.entry(owner).or_insert(Owner { count: 0, ranks: [Ends::EMPTY; Rank::COUNT] });
        account.count += 1;
        account.ranks[Rank::Unreplied as usize].push(&mut self.nodes, Chain::Owner, slot);
        self.enqueue(slot, Rank::Unreplied);
        Ok(id)
    }

    /// The flow, if it is still there.
    #[inline]
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.slot(id).map(|slot| &self.flows[slot as usize])
    }

    /// How long the flow has yet to live if nothing comes.
    pub fn remaining(&self, flow: &Flow, now: Instant) -> Duration {
        Instant::from_micros(flow.deadline(&self.micros)).since(now)
    }

    /// Removes a flow; nothing if it is gone already.
    pub fn remove(&mut self, id: FlowId) {
        if let Some(slot) = self.slot(id) {
            self.leave(slot, Leave::Removed);
        }
    }

    /// Removes all flows of an owner, in as many steps; returns how many there were.
    pub fn remove_owner(&mut self, owner: OwnerId) -> usize {
        let mut removed = 0;
        while let Some(slot) =
            self.owners.get(&owner).and_then(|o| o.ranks.iter().map(|ends| ends.head).find(|&head| head != NIL))
        {
            self.leave(slot, Leave::Removed);
            removed += 1;
        }
        removed
    }

    /// One step of a purge; `true`: it is done.
    pub fn purge(&mut self, purge: &mut Purge) -> bool {
        if let Some(owners) = &mut purge.owners {
            // Who has few flows is spared the pass over all: their list leads to them. Not after it has begun: the list has
            // what began meanwhile, too.
            let has_few = |owner: &OwnerId| purge.next == 0 && self.owner_flows(*owner) <= STEP_REMOVALS;
            let few = owners.iter().rposition(has_few);
            if let Some(few) = few {
                let owner = owners.remove(few);
                purge.removed += self.remove_owner(owner);
            }
            if owners.is_empty() && purge.tags.is_empty() {
                return true;
            }
            if few.is_some() {
                return false;
            }
        }
        let (mut looks, mut removals) = (STEP_LOOKS, STEP_REMOVALS);
        while looks > 0 && removals > 0 {
            if self.stats.flows == 0 || purge.next as usize >= self.flows.len() {
                return true;
            }
            let flow = &self.flows[purge.next as usize];
            if !flow.is_free() && purge.is_of(flow) {
                self.leave(purge.next, Leave::Removed);
                purge.removed += 1;
                removals -= 1;
            }
            purge.next += 1;
            looks -= 1;
        }
        false
    }

    /// Live flows from `cursor` (0 at first) on; looks at no more than `max` places.
    ///
    /// Flows that come and go between two pages may be missed or not; one that stays is listed once.
    pub fn flows(&self, cursor: u32, max: usize, now: Instant) -> Page<'_> {
        let start = (cursor as usize).min(self.flows.len());
        let end = start.saturating_add(max.max(1)).min(self.flows.len());
        let flows = (start..)
            .zip(&self.flows[start..end])
            .filter(|(_, flow)| !flow.is_free() && flow.deadline(&self.micros) > now.micros())
            .map(|(slot, flow)| (FlowId(u32::from(flow.generation) << 24 | slot as u32), flow))
            .collect();
        Page {
            flows,
            next: (end < self.flows.len()).then_some(end as u32), // below LIMIT_MAX
        }
    }

    /// When [`expire`](Table::expire) has something to do; `None` while there is no flow.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.busy_lists().map(|list| self.due(list)).min().map(Instant::from_micros)
    }

    /// Collects flows that have expired, looking at no more than `budget`; returns how many went. Call it again while
    /// [`next_timeout`](Table::next_timeout) is not later than `now`.
    pub fn expire(&mut self, now: Instant, budget: usize) -> usize {
        let (mut left, mut expired) = (budget, 0);
        for list in self.busy_lists() {
            while left > 0 && !self.lists[list].is_empty() && self.due(list) <= now.micros() {
                left -= 1;
                expired += usize::from(self.review(self.lists[list].head, now));
            }
        }
        expired
    }

    /// Flows that are charged to this owner.
    pub fn owner_flows(&self, owner: OwnerId) -> u32 {
        self.owners.get(&owner).map_or(0, |o| o.count)
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The limit in force.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The quota per owner in force.
    pub fn quota(&self) -> u32 {
        self.quota
    }

    #[inline]
    fn hash(&self, tuple: &FiveTuple) -> u64 {
        self.key.hash_one(tuple)
    }

    #[inline]
    fn find(&self, tuple: &FiveTuple, hash: u64) -> Option<(u32, Direction)> {
        let entry = self.index.find(hash, |e| entry_tuple(&self.flows, e) == tuple)?;
        Some((entry >> 1, entry_direction(entry)))
    }

    /// The place of a flow that is alive, or at least not collected.
    #[inline]
    fn slot(&self, id: FlowId) -> Option<u32> {
        let slot = id.0 & (LIMIT_MAX - 1);
        let flow = self.flows.get(slot as usize)?;
        (u32::from(flow.generation) == id.0 >> 24 && !flow.is_free()).then_some(slot)
    }

    fn take_slot(&mut self) -> u32 {
        match self.free {
            NIL => {
                debug_assert!(self.flows.len() < self.limit as usize);
                self.flows.push(Flow::vacant());
                self.nodes.push(Node::new());
                self.flows.len() as u32 - 1 // at most LIMIT_MAX
            }
            slot => {
                self.free = self.nodes[slot as usize].next(Chain::Timer);
                slot
            }
        }
    }

    fn protocol_count(&mut self, proto: u8) -> &mut u32 {
        match proto {
            tuple::TCP => &mut self.stats.tcp,
            tuple::UDP => &mut self.stats.udp,
            tuple::ICMP | tuple::ICMPV6 => &mut self.stats.icmp,
            _ => &mut self.stats.other,
        }
    }

    /// Takes a flow out of everything.
    fn leave(&mut self, slot: u32, why: Leave) {
        match why {
            Leave::Expired => self.stats.expired += 1,
            Leave::Evicted(Rank::Unreplied) => self.stats.evicted_unreplied += 1,
            Leave::Evicted(Rank::Closing) => self.stats.evicted_closing += 1,
            Leave::Evicted(Rank::Unassured | Rank::Assured) => self.stats.evicted_unassured += 1,
            Leave::Removed => self.stats.removed += 1,
        }
        let flow = &self.flows[slot as usize];
        let (original, reply, owner) = (flow.original, flow.reply, flow.owner);
        let rank = flow.list as usize / Class::COUNT;
        let state = flow.tcp.state;
        let indexed =
            self.index.remove(self.hash(&original), slot << 1) && self.index.remove(self.hash(&reply), slot << 1 | 1);
        debug_assert!(indexed, "a flow is indexed under both tuples");
        self.dequeue(slot);
        if let Some(account) = self.owners.get_mut(&owner) {
            account.ranks[rank].unlink(&mut self.nodes, Chain::Owner, slot);
            account.count -= 1;
            if account.count == 0 {
                self.owners.remove(&owner);
            }
        }
        self.stats.flows -= 1;
        *self.protocol_count(original.proto) -= 1;
        if original.proto == tuple::TCP {
            self.stats.tcp_states[state as usize] -= 1;
        }
        let flow = &mut self.flows[slot as usize];
        flow.generation = flow.generation.wrapping_add(1);
        flow.marks = mark::FREE;
        self.nodes[slot as usize].set_next(Chain::Timer, self.free);
        self.free = slot;
    }

    /// Brings a flow's lists up to date after its rank or class has changed.
    #[inline]
    fn settle(&mut self, slot: u32) {
        let flow = &self.flows[slot as usize];
        let (rank, listed) = (flow.rank(), flow.list as usize);
        let (old_rank, old_class) = (listed / Class::COUNT, listed % Class::COUNT);
        if rank as usize != old_rank {
            self.change_rank(slot, old_rank, rank);
        } else if self.micros[flow.class as usize] < self.micros[old_class] {
            self.dequeue(slot);
            self.enqueue(slot, rank);
        }
    }

    fn change_rank(&mut self, slot: u32, old: usize, new: Rank) {
        self.dequeue(slot);
        self.enqueue(slot, new);
        let owner = self.flows[slot as usize].owner;
        if let Some(account) = self.owners.get_mut(&owner) {
            account.ranks[old].unlink(&mut self.nodes, Chain::Owner, slot);
            account.ranks[new as usize].push(&mut self.nodes, Chain::Owner, slot);
        }
    }

    /// Appends a flow to the timer list of its class and this rank.
    fn enqueue(&mut self, slot: u32, rank: Rank) {
        let flow = &mut self.flows[slot as usize];
        let list = rank as usize * Class::COUNT + flow.class as usize;
        flow.list = list as u8; // LISTS is below 256
        let mut queued = flow.refreshed.micros();
        // The order of the list is what makes its head the first that can be due. A flow older than the tail waits
        // with the tail, and is collected that much late.
        if let Some(tail) = self.nodes.get(self.lists[list].tail as usize) {
            queued = queued.max(tail.queued);
        }
        self.nodes[slot as usize].queued = queued;
        self.lists[list].push(&mut self.nodes, Chain::Timer, slot);
        self.busy |= 1 << list;
    }

    fn dequeue(&mut self, slot: u32) {
        let list = usize::from(self.flows[slot as usize].list);
        self.lists[list].unlink(&mut self.nodes, Chain::Timer, slot);
        if self.lists[list].is_empty() {
            self.busy &= !(1 << list);
        }
    }

    /// The lists with members, as they are now.
    fn busy_lists(&self) -> impl Iterator<Item = usize> + use<> {
        let mut busy = self.busy;
        std::iter::from_fn(move || {
            let list = (busy != 0).then(|| busy.trailing_zeros() as usize)?;
            busy &= busy - 1;
            Some(list)
        })
    }

    /// Microseconds: when the head of a list with members must be looked at.
    fn due(&self, list: usize) -> u64 {
        self.nodes[self.lists[list].head as usize].queued.saturating_add(self.micros[list % Class::COUNT])
    }

    /// Looks at a flow's true deadline: it goes (true), or to the tail of its list.
    fn review(&mut self, slot: u32, now: Instant) -> bool {
        let flow = &self.flows[slot as usize];
        if flow.deadline(&self.micros) <= now.micros() {
            self.leave(slot, Leave::Expired);
            return true;
        }
        let rank = flow.rank();
        self.dequeue(slot);
        self.enqueue(slot, rank);
        false
    }

    /// X10: waits no longer for an assured connection than for an acknowledgement.
    fn shrink(&mut self, slot: u32, now: Instant) {
        let flow = &mut self.flows[slot as usize];
        let left = Instant::from_micros(flow.deadline(&self.micros)).since(now);
        let shorter = Duration::from_micros(self.micros[Class::Unacknowledged as usize]);
        if flow.is_assured() && left >= SHRINK_ABOVE && left > shorter {
            flow.refreshed = now;
            flow.class = Class::Unacknowledged;
            self.settle(slot);
        }
    }

    /// Goes down the ladder over the whole table; true if a flow went.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.expire(now, REVIEWS) > 0 {
            return true;
        }
        [Rank::Unreplied, Rank::Closing, Rank::Unassured].into_iter().any(|rank| self.evict(rank))
            || self.sweep_assured(now)
    }

    /// Evicts the oldest of a rank. One that was refreshed since it was queued is put back, a few times.
    fn evict(&mut self, rank: Rank) -> bool {
        let base = rank as usize * Class::COUNT;
        for attempt in 0.. {
            let oldest = (base..base + Class::COUNT)
                .filter_map(|list| self.nodes.get(self.lists[list].head as usize).map(|n| (n.queued, list)))
                .min();
            let Some((queued, list)) = oldest else {
                return false;
            };
            let slot = self.lists[list].head;
            if attempt == REVIEWS || self.flows[slot as usize].refreshed.micros() <= queued {
                self.leave(slot, Leave::Evicted(rank));
                return true;
            }
            self.dequeue(slot);
            self.enqueue(slot, rank);
        }
        false
    }

    /// Looks at some assured flows that are not due, for one that has expired in the middle of its list.
    fn sweep_assured(&mut self, now: Instant) -> bool {
        let base = Rank::Assured as usize * Class::COUNT;
        (base..base + Class::COUNT).any(|list| {
            (0..REVIEWS).any(|_| {
                let head = self.lists[list].head;
                head != NIL && self.review(head, now)
            })
        })
    }

    /// Goes down the ladder over the flows of one owner; true if a flow went.
    fn make_room_of(&mut self, owner: OwnerId, now: Instant) -> bool {
        for rank in (0..Rank::COUNT).rev() {
            for _ in 0..REVIEWS {
                let Some(account) = self.owners.get_mut(&owner) else {
                    return true; // the last one has just gone
                };
                let head = account.ranks[rank].head;
                if head == NIL {
                    break;
                }
                if self.flows[head as usize].deadline(&self.micros) <= now.micros() {
                    self.leave(head, Leave::Expired);
                    return true;
                }
                if rank != Rank::Assured as usize {
                    break; // it will be evicted below, if it comes to that
                }
                account.ranks[rank].unlink(&mut self.nodes, Chain::Owner, head);
                account.ranks[rank].push(&mut self.nodes, Chain::Owner, head);
            }
        }
        for rank in [Rank::Unreplied, Rank::Closing, Rank::Unassured] {
            let head = self.owners.get(&owner).map_or(NIL, |o| o.ranks[rank as usize].head);
            if head != NIL {
                self.leave(head, Leave::Evicted(rank));
                return true;
            }
        }
        false
    }
}

/// For an id that [`Table::lookup`] or [`Table::commit`] has just returned.
impl Index<FlowId> for Table {
    type Output = Flow;

    /// Panics if the flow is gone.
    #[inline]
    fn index(&self, id: FlowId) -> &Flow {
        self.get(id).expect("the id of a flow that is not gone")
    }
}

#[inline]
fn entry_direction(entry: u32) -> Direction {
    match entry & 1 {
        0 => Direction::Original,
        _ => Direction::Reply,
    }
}

#[inline]
fn entry_tuple(flows: &[Flow], entry: u32) -> &FiveTuple {
    flows[entry as usize >> 1].tuple(entry_direction(entry))
}

/// The class of a flow that is not TCP and has seen one packet.
fn first_class(proto: u8) -> Class {
    match proto {
        tuple::UDP => Class::Udp,
        tuple::ICMP => Class::Icmp,
        tuple::ICMPV6 => Class::Icmpv6,
        tuple::GRE => Class::Gre,
        _ => Class::Generic,
    }
}

/// The class of a flow that is not TCP when another packet comes. The reply that is just passing does not count yet
/// (`nf_conntrack_udp_packet`, `gre_packet`).
fn answered_class(flow: &Flow, now: Instant) -> Class {
    match flow.original.proto {
        tuple::UDP if flow.seen_reply() && now.since(flow.created) > UDP_STREAM_AGE => Class::UdpStream,
        tuple::GRE if flow.seen_reply() => Class::GreStream,
        proto => first_class(proto),
    }
}

#[cfg(test)]
mod audit;
