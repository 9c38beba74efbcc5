//! TCP between containers and host sockets: we are the far end of the container's connection, and a client or server of
//! the host's.
//!
//! # Theory of operation
//! A container's SYN makes the host connect; only when that succeeded is the SYN answered, so a refusal is a refusal, and
//! silence is silence. From then on bytes cross, and nothing else does:
//!
//! ```text
//!  container --segments--> flow --send--> host socket       what the socket does not take is stored (receive)
//!  container <--segments-- flow <--recv-- host socket       what is sent is kept until acknowledged (send)
//! ```
//!
//! A published port is a listener of the host; each client it accepts becomes a SYN to the container.
//!
//! Four verbs drive the engine: [`Tcp::input`] (a segment), [`Tcp::socket_ready`] (an event of a socket),
//! [`Tcp::flush`] (the end of a turn: acknowledgements are owed until then, one for each flow), and
//! [`Tcp::handle_timeout`].
//!
//! # Invariants
//! - Every flow, TIME_WAIT and probe has a slot, and is in the index under what its container calls it.
//! - Every flow is in its container's account, has one entry in the heap of timers, and its chunks are on that account.
//! - A host socket is named by [`super::ids::Ids`] exactly as long as it is open.
//! - Work is in proportion to what came in: nothing visits all flows, but [`Tcp::flows`], by pages. What is due of many flows
//!   at once is done by steps, with others' turns between two.
//!
//! # Limits
//! All in [`Config`].
//!
//! # References
//! RFC 9293, RFC 5681, RFC 6298, RFC 6582, RFC 6675, RFC 8985 7, RFC 7323, RFC 2018, RFC 5961, RFC 6528.

mod build;
mod config;
mod flow;
mod listen;
mod pool;
mod ranges;
mod receive;
mod segment;
mod send;
#[cfg(test)]
mod tests;
mod timers;
mod view;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::HashMap;

use self::build::Header;
pub use self::config::Config;
use self::flow::{Account, Context, Fate, Flow, Phase};
use self::listen::Listener;
pub use self::listen::{ListenerId, ListenerView};
use self::pool::{Memory, Usage};
use self::segment::{Segment, mss_for};
use self::send::Send;
use self::timers::Timers;
pub use self::view::View;
use super::ids::Owner;
use super::{Lower, Origin, no_socket};
use crate::core::conntrack::FiveTuple;
use crate::core::conntrack::index::Index;
use crate::core::counters::DropReason;
use crate::core::hash::Keyed;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{Close, Endpoint, Failure, Ready, SocketId, leaves_some};
use crate::core::time::Instant;
use crate::core::worth::Worth;
use crate::frame::Frame;
use crate::wire::ip::{proto, tcp};

/// Flows that go on in one call of [`Tcp::handle_timeout`]: each may send as much as a port may in a turn.
const TODO_AT_ONCE: usize = 8;

/// Flows that are woken by their timers in one call: ten thousand connections that one container leaves unanswered are due at
/// once, and each sends a super-frame again.
const WOKEN_AT_ONCE: usize = 32;

/// What a container calls a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    network: NetworkId,
    /// In the container.
    inside: Endpoint,
    /// What it takes for the other end.
    outside: Endpoint,
}

/// All 38 bytes in one write: SipHash is half as fast when it is fed field by field.
impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 38];
        bytes[..16].copy_from_slice(self.inside.addr.octets());
        bytes[16..32].copy_from_slice(self.outside.addr.octets());
        bytes[32..34].copy_from_slice(&self.inside.port.to_ne_bytes());
        bytes[34..36].copy_from_slice(&self.outside.port.to_ne_bytes());
        bytes[36..].copy_from_slice(&self.network.0.to_ne_bytes());
        state.write(&bytes);
    }
}

impl Key {
    fn new(tuple: &FiveTuple, network: NetworkId) -> Key {
        Key {
            network,
            inside: Endpoint { addr: tuple.src, port: tuple.sport },
            outside: Endpoint { addr: tuple.dst, port: tuple.dport },
        }
    }

    /// The tuple of the container's packets.
    fn tuple(&self) -> FiveTuple {
        FiveTuple {
            src: self.inside.addr,
            dst: self.outside.addr,
            sport: self.inside.port,
            dport: self.outside.port,
            proto: proto::TCP,
        }
    }
}

/// What came to pass, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections on which both sides agreed.
    pub opened: u64,
    /// Connections that the host refused or could not make.
    pub refused: u64,
    /// Connections that the container reset.
    pub resets: u64,
    /// Connections given up because somebody did not answer.
    pub timeouts: u64,
    /// Segments toward containers sent again.
    pub retransmits: u64,
    /// Times that a loss halved a congestion window.
    pub losses: u64,
    /// Segments dropped by their timestamp (PAWS).
    pub old_duplicates: u64,
    /// Clients that were accepted.
    pub accepted: u64,
    /// Half-open connections that gave way to newer ones.
    pub evicted: u64,
}

/// What is left of a connection that ended, for as long as its segments may be about.
#[derive(Debug)]
struct TimeWait {
    key: Key,
    port: PortId,
    /// As [`Flow::asked`].
    asked: Option<Endpoint>,
    since: Instant,
    serial: u64,
    /// Our next sequence number, and the container's.
    ours: u32,
    theirs: u32,
    /// As it stands in a header.
    window: u16,
    /// The container's last timestamp.
    stamp: Option<u32>,
    stamp_offset: u32,
}

/// A place in the table.
#[derive(Debug)]
enum Slot {
    Free,
    Flow(Box<Flow>),
    TimeWait(TimeWait),
    /// A question of ours whether a container listens again.
    Probe {
        key: Key,
        listener: u32,
        iss: u32,
    },
}

impl Slot {
    fn key(&self) -> Option<&Key> {
        match self {
            Slot::Free => None,
            Slot::Flow(flow) => Some(&flow.key),
            Slot::TimeWait(wait) => Some(&wait.key),
            Slot::Probe { key, .. } => Some(key),
        }
    }
}

/// What is left to do for the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Flow(u32),
    Listener(u32),
}

/// The TCP engine.
pub struct Tcp {
    config: Config,
    keyed: Keyed,
    /// For sequence numbers, which containers see: a key of its own, so that they tell nothing of the index.
    sequence: Keyed,
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: Index,
    flow_count: usize,
    serial: u64,
    timers: Timers,
    accounts: Vec<Option<Account>>,
    by_port: HashMap<PortId, u32, Keyed>,
    memory: Memory,
    stats: Stats,
    /// Flows that owe an acknowledgement.
    owed: Vec<u32>,
    todo: VecDeque<Todo>,
    /// In the order in which they end: when, which slot, which serial number.
    time_waits: VecDeque<(Instant, u32, u64)>,
    time_wait_count: usize,
    listeners: Vec<Option<Listener>>,
    free_listeners: Vec<u32>,
    listener_timers: Timers,
    /// Listeners whose clients wait for want of something, the longest waiting first.
    starved: VecDeque<u32>,
    /// Sockets closed since they were told.
    freed: usize,
}

impl Tcp {
    /// An engine without flows. `key`: 16 random bytes, for the index, sequence numbers and timestamps (RFC 6528).
    pub fn new(config: Config, key: [u8; 16]) -> Tcp {
        let keyed = Keyed::new(key);
        let mut second = [0; 16];
        second[..8].copy_from_slice(&keyed.hash_one(1_u8).to_le_bytes());
        second[8..].copy_from_slice(&keyed.hash_one(2_u8).to_le_bytes());
        // Probes have slots, too.
        let index = Index::new(config.flows_max + config.time_wait_max + listen::MAX);
        Tcp {
            memory: Memory::new(&config),
            sequence: Keyed::new(second),
            by_port: HashMap::with_hasher(keyed.clone()),
            keyed,
            index,
            slots: Vec::new(),
            free: Vec::new(),
            flow_count: 0,
            serial: 0,
            timers: Timers::default(),
            accounts: Vec::new(),
            stats: Stats::default(),
            owed: Vec::new(),
            todo: VecDeque::new(),
            time_waits: VecDeque::new(),
            time_wait_count: 0,
            listeners: Vec::new(),
            free_listeners: Vec::new(),
            listener_timers: Timers::default(),
            starved: VecDeque::new(),
            freed: 0,
            config,
        }
    }

    /// Is a container's segment with this tuple of a connection that is known?
    #[inline]
    pub fn knows(&self, tuple: &FiveTuple, network: NetworkId) -> bool {
        self.find(&Key::new(tuple, network)).is_some()
    }

    /// A TCP segment of a container, whole and with a sound checksum. `dial`: where the host connects to when it begins a
    /// connection; its destination otherwise.
    pub fn input(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        dial: Endpoint,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let (tuple, s) = Segment::parse(frame).ok_or(DropReason::BadTransport)?;
        let key = Key::new(&tuple, origin.network);
        if let Some(slot) = self.find(&key) {
            match &mut self.slots[slot as usize] {
                Slot::Flow(flow) => {
                    let begins = s.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
                    if begins && flow.is_over_inside() {
                        // The container keeps no socket for it and uses its name again; what the host still takes needs none.
                        flow.first_to_end = false;
                        self.index.remove(self.keyed.hash_one(key), slot);
                    } else if begins && flow.phase == Phase::Connecting && s.seq != flow.rx.irs {
                        // The container gave up and begins anew; what it had asked for before is nobody's.
                        self.run(slot, now, lower, |flow, cx| {
                            flow.close_socket(Close::Reset, cx);
                            flow.fate = Fate::Gone;
                        });
                    } else {
                        let taken = self.run(slot, now, lower, |flow, cx| {
                            let before = flow.progress();
                            let result = flow.segment(&s, cx);
                            let worth = before.worth_of(flow);
                            cx.lower.came_to(worth);
                            result
                        });
                        return taken.unwrap_or(Ok(()));
                    }
                }
                Slot::TimeWait(_) => {
                    if let Some(result) = self.in_time_wait(slot, &s, now, lower) {
                        return result;
                    }
                    self.end_time_wait(slot);
                }
                Slot::Probe { .. } => return self.probe_answered(slot, &s, now, lower),
                Slot::Free => debug_assert!(false, "the index names what is there"),
            }
        }
        if s.has(tcp::RST) {
            return Err(DropReason::Untracked);
        }
        if s.has(tcp::ACK) || !s.has(tcp::SYN) {
            build::refuse(lower, key.network, key.outside, key.inside, &s);
            return Err(DropReason::Untracked);
        }
        if s.has(tcp::FIN) || key.inside.port == 0 || key.outside.port == 0 {
            return Err(DropReason::InvalidState);
        }
        self.begin(origin.port, key, &s, dial, now, lower)
    }

    /// Something became possible with a socket of ours; `true`: there is more to do, call again in the next turn.
    pub fn socket_ready(&mut self, id: SocketId, ready: Ready, now: Instant, lower: &mut dyn Lower) -> bool {
        match lower.ids().get(id) {
            Some(Owner::TcpFlow(slot)) => self
                .run(slot, now, lower, |flow, cx| {
                    if flow.socket != Some(id) {
                        return false;
                    }
                    if flow.phase == Phase::Connecting {
                        flow.readable |= ready.readable;
                        if ready.writable || ready.error {
                            let outcome = cx.lower.sockets().outcome(id);
                            flow.connected(outcome, cx);
                        }
                        return false;
                    }
                    flow.ready(ready, cx)
                })
                .unwrap_or(false),
            Some(Owner::TcpListener(listener)) => self.accept(listener, now, lower),
            Some(Owner::Udp(_) | Owner::Ping(_)) | None => false,
        }
    }

    /// The end of a turn: what is owed is acknowledged, by one segment a flow.
    pub fn flush(&mut self, now: Instant, lower: &mut dyn Lower) {
        let mut owed = std::mem::take(&mut self.owed);
        for slot in owed.drain(..) {
            self.run(slot, now, lower, |flow, cx| {
                flow.queued = false;
                flow.flush(cx);
            });
        }
        // Nothing was owed anew: the list's memory is kept.
        if self.owed.is_empty() {
            self.owed = owed;
        }
    }

    /// When [`Tcp::handle_timeout`] wants to be called; sooner does no harm. Time zero: at once.
    pub fn next_timeout(&self) -> Option<Instant> {
        if !self.todo.is_empty() {
            return Some(Instant::ZERO);
        }
        let wait = self.time_waits.front().map(|w| w.0);
        [self.timers.next(), self.listener_timers.next(), wait].into_iter().flatten().min()
    }

    /// Does what is due, as far as one call may: what is left stays due.
    pub fn handle_timeout(&mut self, now: Instant, lower: &mut dyn Lower) {
        for _ in 0..self.todo.len().min(TODO_AT_ONCE) {
            match self.todo.pop_front() {
                Some(Todo::Flow(slot)) => {
                    let more = self.run(slot, now, lower, |flow, cx| {
                        let more = flow.pump(cx.config.turn, cx);
                        flow.complete(cx);
                        more
                    });
                    if more == Some(true) {
                        self.todo.push_back(Todo::Flow(slot));
                    }
                }
                Some(Todo::Listener(listener)) => {
                    if self.accept(listener, now, lower) {
                        self.todo.push_back(Todo::Listener(listener));
                    }
                }
                None => break,
            }
        }
        for _ in 0..WOKEN_AT_ONCE {
            let Some(slot) = self.timers.pop(now) else { break };
            self.run(slot, now, lower, |flow, cx| {
                if flow.deadline(cx.config) <= cx.now {
                    flow.timeout(cx);
                }
            });
        }
        while let Some(&(at, slot, serial)) = self.time_waits.front()
            && at <= now
        {
            self.time_waits.pop_front();
            self.end_time_wait_of(slot, serial);
        }
        while let Some(listener) = self.listener_timers.pop(now) {
            self.listener_timeout(listener, now, lower);
        }
    }

    /// A container is gone: every flow of it ends, by a reset unless it had said all it had to say, and its ports are
    /// unpublished.
    pub fn detach(&mut self, port: PortId, now: Instant, lower: &mut dyn Lower) {
        for listener in 0..self.listeners.len() as u32 {
            if self.listeners[listener as usize].as_ref().is_some_and(|l| l.port == port) {
                self.unlisten_at(listener, lower);
            }
        }
        self.end_each(port, usize::MAX, now, lower, Flow::leave);
        if let Some(account) = self.by_port.remove(&port) {
            self.accounts[account as usize] = None;
        }
    }

    /// How many flows a container has.
    pub fn flows_of(&self, port: PortId) -> usize {
        let account = self.by_port.get(&port).and_then(|account| self.accounts[*account as usize].as_ref());
        account.map_or(0, |account| account.flows.len())
    }

    /// Flows of a container, `most` at most, are reset, both ways, and its published ports stay; how many there were.
    pub fn end_flows(&mut self, port: PortId, most: usize, now: Instant, lower: &mut dyn Lower) -> usize {
        self.end_each(port, most, now, lower, Flow::reset)
    }

    fn end_each(
        &mut self,
        port: PortId,
        most: usize,
        now: Instant,
        lower: &mut dyn Lower,
        end: fn(&mut Flow, &mut Context<'_>),
    ) -> usize {
        let account = self.by_port.get(&port).and_then(|account| self.accounts[*account as usize].as_ref());
        let flows: Vec<u32> = account.into_iter().flat_map(|a| a.flows.iter().copied()).take(most).collect();
        for slot in &flows {
            self.run(*slot, now, lower, end);
        }
        flows.len()
    }

    /// An ICMP error about a packet of ours came from inside: `tuple` and `seq` are those that it quotes (our packet's, so
    /// its source is the far end), `mtu` is that of a "fragmentation needed" or "packet too big", `None` says that the
    /// container cannot be reached. `false`: it is about nothing of ours.
    pub fn icmp_error(
        &mut self,
        tuple: &FiveTuple,
        network: NetworkId,
        seq: u32,
        mtu: Option<u32>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> bool {
        let Some(slot) = self.find(&Key::new(&tuple.inverse(), network)) else { return false };
        self.run(slot, now, lower, |flow, cx| {
            if !flow.has_in_flight(seq) {
                return false;
            }
            match mtu {
                Some(mtu) => flow.path_mtu(mtu as usize, cx),
                // A soft error once both sides have agreed (RFC 5461); before that there is nothing to wait for.
                None if matches!(flow.phase, Phase::SynSent | Phase::SynReceived) => flow.reset(cx),
                None => {}
            }
            true
        })
        .unwrap_or(false)
    }

    /// What came to pass since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Bytes of memory that hold data: toward the host, toward containers.
    pub fn memory(&self) -> (usize, usize) {
        self.memory.used()
    }

    /// Connections, without those in TIME_WAIT.
    pub fn len(&self) -> usize {
        self.flow_count
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, key: &Key) -> Option<u32> {
        self.index.find(self.keyed.hash_one(key), |slot| self.slots[slot as usize].key() == Some(key))
    }

    /// Does something with a flow, and then what follows from it.
    fn run<R>(
        &mut self,
        slot: u32,
        now: Instant,
        lower: &mut dyn Lower,
        act: impl FnOnce(&mut Flow, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let Some(Slot::Flow(flow)) = self.slots.get_mut(slot as usize) else { return None };
        let account = self.accounts.get_mut(flow.account as usize)?.as_mut()?;
        let mut cx = Context {
            config: &self.config,
            now,
            lower,
            memory: &mut self.memory,
            account,
            stats: &mut self.stats,
            freed: &mut self.freed,
        };
        let result = act(flow, &mut cx);
        if flow.fate == Fate::Alive {
            if flow.ack_now {
                flow.flush(&mut cx);
            }
            if flow.ack_pending && !flow.queued {
                flow.queued = true;
                self.owed.push(slot);
            }
        }
        if flow.half_open && (flow.phase == Phase::Open || flow.fate != Fate::Alive) {
            flow.half_open = false;
            let refused = flow.refused;
            match flow.listener {
                Some(listener) => self.left_half_open(listener, refused, now, lower),
                None => cx.account.half_open_count -= 1,
            }
        }
        self.settle(slot, now, lower);
        Some(result)
    }

    /// Keeps timers and tables in step with a flow.
    fn settle(&mut self, slot: u32, now: Instant, lower: &mut dyn Lower) {
        let Some(Slot::Flow(flow)) = self.slots.get_mut(slot as usize) else { return };
        match flow.fate {
            Fate::Alive => {
                // What is due already was done just now.
                let at = flow.deadline(&self.config).max(now + std::time::Duration::from_millis(1));
                self.timers.set(slot, at);
                if flow.more {
                    flow.more = false;
                    self.todo.push_back(Todo::Flow(slot));
                }
            }
            Fate::Gone => self.remove(slot, lower),
            Fate::TimeWait => {
                let (ours, theirs, window, stamp) = flow.last_words();
                let wait = TimeWait {
                    key: flow.key,
                    port: flow.port,
                    asked: flow.asked,
                    since: now,
                    serial: flow.serial,
                    ours,
                    theirs,
                    window,
                    stamp,
                    stamp_offset: flow.stamp_offset,
                };
                self.remove(slot, lower);
                self.begin_time_wait(wait, now);
            }
        }
        self.retry_starved();
    }

    /// Takes a flow out of every table.
    fn remove(&mut self, slot: u32, lower: &mut dyn Lower) {
        let Slot::Flow(mut flow) = std::mem::replace(&mut self.slots[slot as usize], Slot::Free) else { return };
        debug_assert!(flow.socket.is_none(), "closed by who ended the flow");
        self.index.remove(self.keyed.hash_one(flow.key), slot);
        self.timers.remove(slot);
        self.free.push(slot);
        self.flow_count -= 1;
        let Some(Some(account)) = self.accounts.get_mut(flow.account as usize) else { return };
        account.flows.swap_remove(flow.place as usize);
        let moved = account.flows.get(flow.place as usize).copied();
        let mut cx = Context {
            config: &self.config,
            now: flow.born,
            lower,
            memory: &mut self.memory,
            account,
            stats: &mut self.stats,
            freed: &mut self.freed,
        };
        flow.drop_received(&mut cx);
        flow.drop_queue(&mut cx);
        if let Some(moved) = moved
            && let Slot::Flow(other) = &mut self.slots[moved as usize]
        {
            other.place = flow.place;
        }
    }

    /// The account of a container.
    fn account(&mut self, port: PortId) -> u32 {
        if let Some(account) = self.by_port.get(&port) {
            return *account;
        }
        let account = Account {
            port,
            usage: Usage::default(),
            flows: Vec::new(),
            half_open: VecDeque::new(),
            half_open_count: 0,
        };
        let place = match self.accounts.iter().position(Option::is_none) {
            Some(place) => {
                self.accounts[place] = Some(account);
                place
            }
            None => {
                self.accounts.push(Some(account));
                self.accounts.len() - 1
            }
        } as u32; // ports are at most 65,536
        self.by_port.insert(port, place);
        place
    }

    fn take_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            (self.slots.len() - 1) as u32 // within the index's limit
        })
    }

    fn place(&mut self, slot: u32, what: Slot) {
        if let Some(key) = what.key() {
            self.index.insert(self.keyed.hash_one(key), slot);
        }
        self.slots[slot as usize] = what;
    }

    /// Our initial sequence number and the offset of our timestamps (RFC 6528, RFC 7323 5.4): both grow from one
    /// connection of the same name to the next.
    fn initial(&self, key: &Key, now: Instant) -> (u32, u32) {
        let hash = self.sequence.hash_one(key);
        let clock = (now.micros() / 4) as u32; // RFC 9293 3.4.1: a tick in 4 microseconds
        (clock.wrapping_add(hash as u32), (hash >> 32) as u32)
    }

    /// Is there room for another flow of this container?
    fn admits(&mut self, account: u32) -> Result<(), DropReason> {
        let (held, left) = (self.held(account), self.config.flows_max.saturating_sub(self.flow_count));
        if held >= self.config.flows_per_port {
            Err(DropReason::FlowQuota)
        } else if !leaves_some(left, held) {
            Err(DropReason::FlowTableFull)
        } else {
            Ok(())
        }
    }

    /// Flows of a container.
    fn held(&self, account: u32) -> usize {
        self.accounts[account as usize].as_ref().map_or(0, |a| a.flows.len())
    }

    /// Enters a flow into every table.
    fn enter(&mut self, slot: u32, mut flow: Flow, account: u32, now: Instant) {
        self.serial += 1;
        flow.serial = self.serial;
        let (iss, offset) = self.initial(&flow.key, now);
        flow.tx = Send::new(iss, self.config.flight_initial, self.config.rto_initial);
        flow.stamp_offset = offset;
        flow.account = account;
        if let Some(account) = &mut self.accounts[account as usize] {
            flow.place = account.flows.len() as u32; // bounded by flows_per_port
            account.flows.push(slot);
        }
        self.flow_count += 1;
        self.place(slot, Slot::Flow(Box::new(flow)));
    }

    /// A container's SYN: the host connects.
    fn begin(
        &mut self,
        port: PortId,
        key: Key,
        s: &Segment<'_>,
        dial: Endpoint,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let account = self.account(port);
        self.admits(account)?;
        if !leaves_some(lower.sockets().room(), self.held(account)) {
            return Err(DropReason::NoSocket);
        }
        self.make_room_half_open(account, now, lower);
        let slot = self.take_slot();
        let Some(id) = lower.ids().insert(Owner::TcpFlow(slot)) else {
            self.free.push(slot);
            return Err(DropReason::NoSocket);
        };
        let mss = mss_for(lower.mtu(key.network), dial.addr.is_v4());
        let refusal = match lower.sockets().connect(id, dial, s.mark, mss) {
            Ok(()) | Err(Failure::WouldBlock) => {
                lower.sockets().assign(id, port);
                None
            }
            Err(why @ (Failure::NoAddress | Failure::InUse | Failure::NoFiles | Failure::NoMemory)) => {
                lower.ids().remove(id);
                self.free.push(slot);
                return Err(no_socket(why));
            }
            Err(why) => {
                lower.ids().remove(id);
                Some(why)
            }
        };
        let mut flow = Flow::new(key, port, dial, Phase::Connecting, &self.config, now);
        lower.came_to(Worth::Attempt);
        flow.half_open = true;
        flow.socket = refusal.is_none().then_some(id);
        self.enter(slot, flow, account, now);
        let serial = self.serial;
        if let Some(Some(account)) = self.accounts.get_mut(account as usize) {
            account.half_open_count += 1;
            account.half_open.push_back((slot, serial));
        }
        self.run(slot, now, lower, |flow, cx| {
            flow.learn(s, cx);
            match refusal {
                Some(why) => flow.connected(Err(why), cx),
                None => {
                    // To the host itself, or to a container beside it, it is decided already.
                    let outcome = cx.lower.sockets().outcome(id);
                    flow.connected(outcome, cx);
                }
            }
        });
        Ok(())
    }

    /// Room for one more half-open flow: the oldest gives way.
    fn make_room_half_open(&mut self, account: u32, now: Instant, lower: &mut dyn Lower) {
        let is_half_open = |slots: &[Slot], (slot, serial): (u32, u64)| matches!(&slots[slot as usize], Slot::Flow(f) if f.serial == serial && f.half_open);
        loop {
            let Some(Some(a)) = self.accounts.get_mut(account as usize) else { return };
            while a.half_open.front().is_some_and(|entry| !is_half_open(&self.slots, *entry)) {
                a.half_open.pop_front();
            }
            // One that is slow to open keeps those behind it from leaving by the front.
            if a.half_open.len() > 2 * a.half_open_count + 64 {
                a.half_open.retain(|entry| is_half_open(&self.slots, *entry));
            }
            if a.half_open_count < self.config.half_open_per_port {
                return;
            }
            let Some((slot, _)) = a.half_open.pop_front() else { return };
            self.stats.evicted += 1;
            lower.count(a.port, DropReason::HalfOpenLimit);
            self.run(slot, now, lower, |flow, cx| match flow.phase {
                Phase::Connecting => {
                    flow.close_socket(Close::Reset, cx);
                    flow.fate = Fate::Gone;
                }
                Phase::SynSent | Phase::SynReceived | Phase::Open => flow.reset(cx),
            });
        }
    }

    fn begin_time_wait(&mut self, wait: TimeWait, now: Instant) {
        while self.time_wait_count >= self.config.time_wait_max
            && let Some((_, slot, serial)) = self.time_waits.pop_front()
        {
            self.end_time_wait_of(slot, serial);
        }
        let slot = self.take_slot();
        self.time_waits.push_back((now + self.config.time_wait, slot, wait.serial));
        self.time_wait_count += 1;
        self.place(slot, Slot::TimeWait(wait));
    }

    /// A segment for a connection that ended; `None`: it begins another.
    fn in_time_wait(
        &mut self,
        slot: u32,
        s: &Segment<'_>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Option<Result<(), DropReason>> {
        let Slot::TimeWait(wait) = &self.slots[slot as usize] else { return None };
        // RFC 1337: a reset does not end it.
        if s.has(tcp::RST) {
            return Some(Err(DropReason::InvalidState));
        }
        // The link keeps order, so this is no old SYN; and our own numbers only grow (RFC 6528).
        if s.has(tcp::SYN) && !s.has(tcp::ACK) {
            return None;
        }
        lower.came_to(Worth::Nothing);
        // Our last acknowledgement was lost, or this is an old segment: only what takes sequence space is answered.
        if s.len() > 0 {
            let mut header = Header {
                from: wait.key.outside,
                to: wait.key.inside,
                seq: wait.ours,
                ack: wait.theirs,
                flags: tcp::ACK,
                window: wait.window,
                urgent: 0,
                options: build::Options::default(),
                mss: 0,
            };
            if let Some(stamp) = wait.stamp {
                header.options.stamps = Some((flow::stamp(now, wait.stamp_offset), stamp));
            }
            build::send_bare(lower, wait.key.network, &header);
        }
        Some(Ok(()))
    }

    fn end_time_wait_of(&mut self, slot: u32, serial: u64) {
        if matches!(&self.slots[slot as usize], Slot::TimeWait(wait) if wait.serial == serial) {
            self.end_time_wait(slot);
        }
    }

    fn end_time_wait(&mut self, slot: u32) {
        let Slot::TimeWait(wait) = std::mem::replace(&mut self.slots[slot as usize], Slot::Free) else { return };
        self.index.remove(self.keyed.hash_one(wait.key), slot);
        self.free.push(slot);
        self.time_wait_count -= 1;
    }
}
