//! Fragments to flows: virtual reassembly of IP datagrams.
//!
//! # Theory of operation
//! Only the first fragment of a datagram has ports. A router that looks at ports need not put datagrams together to know
//! where their fragments go; it remembers what the first one had:
//!
//! ```text
//!            first arrives            later ones arrive
//! (nothing) ---------------> Known ----------------------> Known(ports), until all has passed
//!     |                        ^
//!     | later one arrives      | first arrives: take_held(), to be put in again in the order of their arrival
//!     v                        |
//!  Waiting: later ones are held as copies
//!     |                                     any state, an overlap: Refused, all that comes is dropped
//!     '--> 30 s after its first arrival a datagram is forgotten, whatever its state
//! ```
//!
//! What a datagram's fragments cover is kept as runs, exactly as Linux does (`inet_frag_queue_insert`): what lies within
//! a run is a duplicate and is dropped alone; what overlaps in part ends the datagram, "including those not yet
//! received" (RFC 5722), for IPv4 too. Fragments too small to hold a transport header are dropped (RFC 1858, RFC 3128).
//! A datagram that has passed in full is forgotten at once, so that its identification can come again.
//!
//! # Limits
//! One account of [`TOTAL`] bytes; each datagram costs [`DATAGRAM_PRICE`] and each held fragment its length and
//! [`HELD_PRICE`]. One owner may use a quarter of it ([`SHARE`]), then its own oldest datagrams make room. When several
//! owners fill the account, the one that uses most gives way: who uses little is never the victim of who uses much
//! (U14). There is no scan: all orders are kept sorted.
//!
//! # References
//! RFC 791 3.2, RFC 815, RFC 1858, RFC 3128, RFC 5722; Linux net/ipv4/ip_fragment.c, net/ipv4/inet_fragment.c.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use hashbrown::HashMap;

use super::hash::Keyed;
use super::port::PortId;
use super::time::Instant;
use crate::frame::{Fragment, Frame, L3};
use crate::wire::addr::Addr;
use crate::wire::get16;
use crate::wire::ip::{icmp, ipv4, proto, tcp, udp};

/// `net.ipv4.ipfrag_time`: after this a datagram is given up, counted from its first arrival, R20.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// `net.ipv4.ipfrag_high_thresh`, bytes.
pub const TOTAL: usize = 4 << 20;

/// What one owner may use, bytes.
pub const SHARE: usize = TOTAL / 4;

/// What remembering a datagram costs, bytes: at most 4,096 datagrams, 1,024 of one owner.
pub const DATAGRAM_PRICE: usize = 1024;

/// What holding a fragment costs besides its bytes.
pub const HELD_PRICE: usize = 64;

/// Fragments held for one datagram. 64 KiB over the smallest MTU a network may have (576) are 119 fragments.
pub const MAX_HELD: usize = 128;

/// Separate runs of one datagram: every second one of 119 fragments.
const MAX_RUNS: usize = 64;

/// Bytes that a datagram's data may have.
const MAX_DATAGRAM: u32 = 65_535;

/// What makes fragments belong together (RFC 791 3.2), and the zone in which they arrived: addresses may repeat on
/// another network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Source as it came.
    pub src: Addr,
    /// Destination as it came.
    pub dst: Addr,
    /// Identification; 16 bits in IPv4.
    pub id: u32,
    /// Protocol.
    pub proto: u8,
    /// Network.
    pub zone: u32,
}

/// Which of its datagram's bytes a fragment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte; a multiple of eight.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// Do others follow?
    pub more: bool,
}

/// Reads what [`Table`] wants to know off a fragment; `None` when `frame` is no IPv4 fragment.
pub fn read(frame: &Frame<'_>, zone: u32) -> Option<(Key, Extent)> {
    let layout = frame.layout();
    if layout.kind != L3::V4 || layout.fragment == Fragment::None {
        return None;
    }
    let (src, dst) = frame.addrs()?;
    let header = frame.l3();
    let word = get16(header, ipv4::FRAGMENT);
    let start = u32::from(word & ipv4::OFFSET_MASK) * 8;
    let key = Key { src, dst, id: u32::from(get16(header, ipv4::ID)), proto: layout.proto, zone };
    let extent = Extent {
        start,
        end: start + (layout.l3_end - layout.l4) as u32, // within a packet: at most 65,535
        more: word & ipv4::MF != 0,
    };
    Some((key, extent))
}

/// What to do with a first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It may go on. `held`: others wait for it; call [`Table::take_held`].
    Pass {
        /// Do others wait?
        held: bool,
    },
    /// It ends here.
    Drop(Why),
}

/// What to do with a later fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// Its datagram has these ports.
    Known((u16, u16)),
    /// A copy waits for the first fragment; nothing more to do.
    Held,
    /// It ends here.
    Drop(Why),
}

/// Why a fragment was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No data, a length that is no multiple of eight with others to follow, or beyond 64 KiB.
    Malformed,
    /// The transport header would be spread over several fragments (RFC 1858).
    Tiny,
    /// All of it was there before.
    Duplicate,
    /// Overlaps others of its datagram, or contradicts its length; the whole datagram is dropped.
    Overlap,
    /// In more pieces than we keep account of.
    TooMany,
    /// Fragments of this owner, or of all, use up what they may.
    Full,
}

/// Why held fragments were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GivenUp {
    /// The first fragment did not come in time.
    TimedOut,
    /// Newer ones needed the room.
    Evicted,
    /// Another fragment overlapped.
    Overlapped,
}

/// A fragment that waited: what was given to [`Table::later`].
pub type Held = Box<[u8]>;

/// Owners are part of what a datagram is, so nobody can spoil another's by claiming its addresses.
type Id = (PortId, Key);

/// `start..end`, never empty.
type Run = (u32, u32);

/// Deadline, then order of arrival.
type Age = (Instant, u64);

struct Datagram {
    age: Age,
    state: State,
    /// What came, sorted, neither overlapping nor touching.
    runs: Vec<Run>,
    /// Length, once the last fragment has come.
    len: Option<u32>,
    /// Empty but while the first fragment is missing, and from its arrival to [`Table::take_held`].
    held: Vec<Held>,
    /// What it costs its owner, bytes.
    price: usize,
}

#[derive(Clone, Copy)]
enum State {
    /// The first fragment has not come.
    Waiting,
    /// It has, and is `first_end` bytes long.
    Known { ports: (u16, u16), first_end: u32 },
    /// Fragments overlapped.
    Refused,
}

// The price of a datagram covers what is really kept: itself with all its runs, and its places in three indexes.
const _: () = assert!(
    mem::size_of::<Datagram>()
        + MAX_RUNS * mem::size_of::<Run>()
        + 3 * mem::size_of::<Id>()
        + 2 * mem::size_of::<Age>()
        <= DATAGRAM_PRICE
);
const _: () = assert!(mem::size_of::<Held>() <= HELD_PRICE);

/// The datagrams whose fragments are on their way.
pub struct Table {
    datagrams: HashMap<Id, Datagram, Keyed>,
    by_age: BTreeMap<Age, Id>,
    by_owner: BTreeMap<(PortId, Age), Key>,
    /// What each owner uses, bytes; who uses nothing is not there.
    used: BTreeMap<PortId, usize>,
    /// The same, who uses most last.
    by_use: BTreeSet<(usize, PortId)>,
    total: usize,
    arrivals: u64,
    given_up: BTreeMap<(PortId, GivenUp), u64>,
}

impl Table {
    /// An empty table; `key` is random and secret, so that nobody can choose what collides.
    pub fn new(key: [u8; 16]) -> Table {
        Table {
            datagrams: HashMap::with_hasher(Keyed::new(key)),
            by_age: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            used: BTreeMap::new(),
            by_use: BTreeSet::new(),
            total: 0,
            arrivals: 0,
            given_up: BTreeMap::new(),
        }
    }

    /// A first fragment came, whose transport header says `ports`. The caller has checked that this header is whole.
    pub fn first(&mut self, key: Key, ports: (u16, u16), extent: Extent, owner: PortId, now: Instant) -> First {
        if extent.start != 0 || !extent.more {
            return First::Drop(Why::Malformed);
        }
        if extent.end < transport_header(key.proto) {
            return First::Drop(Why::Tiny);
        }
        let id = (owner, key);
        if let Err(why) = self.arrive(id, extent, now) {
            return First::Drop(why);
        }
        let Some(datagram) = self.datagrams.get_mut(&id) else {
            return First::Drop(Why::Full);
        };
        datagram.state = State::Known { ports, first_end: extent.end };
        First::Pass { held: !datagram.held.is_empty() }
    }

    /// A later fragment came; `frame` is what is to be given back should it have to wait.
    pub fn later(&mut self, key: Key, extent: Extent, owner: PortId, frame: &[u8], now: Instant) -> Later {
        if extent.start == 0 {
            return Later::Drop(Why::Malformed);
        }
        if extent.start < transport_header(key.proto) {
            return Later::Drop(Why::Tiny);
        }
        let id = (owner, key);
        if let Err(why) = self.arrive(id, extent, now) {
            return Later::Drop(why);
        }
        let Some(datagram) = self.datagrams.get_mut(&id) else {
            return Later::Drop(Why::Full);
        };
        match datagram.state {
            State::Known { ports, .. } => {
                if datagram.is_complete() {
                    self.remove(&id);
                }
                Later::Known(ports)
            }
            State::Waiting if datagram.held.len() == MAX_HELD => Later::Drop(Why::TooMany),
            State::Waiting => self.hold(id, frame),
            State::Refused => Later::Drop(Why::Overlap), // `arrive` says so before
        }
    }

    /// The fragments that waited for the first one, in the order of their arrival. They are to be put in again, and
    /// will be [`Later::Known`] then.
    pub fn take_held(&mut self, key: Key, owner: PortId) -> Vec<Held> {
        let id = (owner, key);
        let Some(datagram) = self.datagrams.get_mut(&id) else {
            return Vec::new();
        };
        let State::Known { first_end, .. } = datagram.state else {
            return Vec::new();
        };
        // They come again, and are no duplicates of themselves.
        datagram.runs.clear();
        datagram.runs.push((0, first_end));
        let held = mem::take(&mut datagram.held);
        let refund = mem::replace(&mut datagram.price, DATAGRAM_PRICE) - DATAGRAM_PRICE;
        self.refund(owner, refund);
        held
    }

    /// When [`Table::expire`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.by_age.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Forgets what has waited for [`TIMEOUT`]. Nobody is told by ICMP: that is for the host that reassembles, which
    /// we are not (Linux `ip_expire` is as silent when conntrack defragments).
    pub fn expire(&mut self, now: Instant) {
        while let Some((&(deadline, _), &id)) = self.by_age.first_key_value()
            && deadline <= now
        {
            self.give_up(&id, GivenUp::TimedOut);
        }
    }

    /// Forgets what belongs to an owner that is gone.
    pub fn forget(&mut self, owner: PortId) {
        while let Some(id) = self.oldest_of(owner) {
            self.remove(&id);
        }
    }

    /// How many held fragments were given up since the last call, by owner and reason.
    pub fn take_given_up(&mut self) -> BTreeMap<(PortId, GivenUp), u64> {
        mem::take(&mut self.given_up)
    }

    /// Enters the fragment into its datagram, which is made if there is none.
    fn arrive(&mut self, id: Id, extent: Extent, now: Instant) -> Result<(), Why> {
        let Extent { start, end, more } = extent;
        if end <= start || end > MAX_DATAGRAM || start % 8 != 0 || more && end % 8 != 0 {
            return Err(Why::Malformed);
        }
        if self.datagrams.get(&id).is_some_and(|d| d.age.0 <= now) {
            self.give_up(&id, GivenUp::TimedOut);
        }
        if !self.datagrams.contains_key(&id) {
            self.insert(id, now)?;
        }
        let Some(datagram) = self.datagrams.get_mut(&id) else {
            return Err(Why::Full);
        };
        let entered = datagram.enter(extent);
        if entered == Err(Why::Overlap) {
            self.refuse(&id);
        }
        entered
    }

    fn insert(&mut self, id: Id, now: Instant) -> Result<(), Why> {
        let (owner, key) = id;
        if !self.make_room(owner, DATAGRAM_PRICE) {
            return Err(Why::Full);
        }
        self.charge(owner, DATAGRAM_PRICE);
        let age = (now + TIMEOUT, self.arrivals);
        self.arrivals += 1;
        self.by_age.insert(age, id);
        self.by_owner.insert((owner, age), key);
        self.datagrams.insert(
            id,
            Datagram {
                age,
                state: State::Waiting,
                runs: Vec::new(),
                len: None,
                held: Vec::new(),
                price: DATAGRAM_PRICE,
            },
        );
        Ok(())
    }

    fn hold(&mut self, id: Id, frame: &[u8]) -> Later {
        let price = frame.len() + HELD_PRICE;
        if !self.make_room(id.0, price) {
            return Later::Drop(Why::Full);
        }
        // To make room, the datagram itself may have gone: it was its owner's oldest.
        let Some(datagram) = self.datagrams.get_mut(&id) else {
            return Later::Drop(Why::Full);
        };
        datagram.held.push(frame.into());
        datagram.price += price;
        self.charge(id.0, price);
        Later::Held
    }

    /// Its fragments overlapped: nothing of it is kept but the knowledge.
    fn refuse(&mut self, id: &Id) {
        if let Some(datagram) = self.datagrams.get_mut(id) {
            datagram.state = State::Refused;
            datagram.runs = Vec::new();
            let held = mem::take(&mut datagram.held).len();
            let refund = mem::replace(&mut datagram.price, DATAGRAM_PRICE) - DATAGRAM_PRICE;
            self.refund(id.0, refund);
            self.count(id.0, GivenUp::Overlapped, held);
        }
    }

    /// Lets old datagrams go until `owner` may use `price` bytes more.
    fn make_room(&mut self, owner: PortId, price: usize) -> bool {
        if price > SHARE {
            return false;
        }
        loop {
            let own = self.used.get(&owner).copied().unwrap_or(0);
            let victim = if own + price > SHARE {
                owner
            } else if self.total + price > TOTAL {
                match self.by_use.last() {
                    Some(&(most, fattest)) if most > own => fattest,
                    _ => owner,
                }
            } else {
                return true;
            };
            let Some(id) = self.oldest_of(victim) else {
                return false;
            };
            self.give_up(&id, GivenUp::Evicted);
        }
    }

    fn oldest_of(&self, owner: PortId) -> Option<Id> {
        let ((of, _), key) = self.by_owner.range((owner, (Instant::ZERO, 0))..).next()?;
        (*of == owner).then_some((owner, *key))
    }

    fn give_up(&mut self, id: &Id, why: GivenUp) {
        let held = self.remove(id);
        self.count(id.0, why, held);
    }

    /// Forgets a datagram; how many fragments it held.
    fn remove(&mut self, id: &Id) -> usize {
        let Some(datagram) = self.datagrams.remove(id) else {
            return 0;
        };
        self.by_age.remove(&datagram.age);
        self.by_owner.remove(&(id.0, datagram.age));
        self.refund(id.0, datagram.price);
        datagram.held.len()
    }

    fn count(&mut self, owner: PortId, why: GivenUp, fragments: usize) {
        if fragments > 0 {
            *self.given_up.entry((owner, why)).or_default() += fragments as u64;
        }
    }

    fn charge(&mut self, owner: PortId, bytes: usize) {
        let own = self.used.get(&owner).copied().unwrap_or(0);
        self.total += bytes;
        self.set_use(owner, own, own + bytes);
    }

    fn refund(&mut self, owner: PortId, bytes: usize) {
        let own = self.used.get(&owner).copied().unwrap_or(0);
        debug_assert!(bytes <= own && bytes <= self.total);
        self.total -= bytes;
        self.set_use(owner, own, own - bytes);
    }

    fn set_use(&mut self, owner: PortId, old: usize, new: usize) {
        self.by_use.remove(&(old, owner));
        if new == 0 {
            self.used.remove(&owner);
        } else {
            self.used.insert(owner, new);
            self.by_use.insert((new, owner));
        }
    }
}

impl Datagram {
    /// Enters what a fragment covers, if it may come.
    fn enter(&mut self, extent: Extent) -> Result<(), Why> {
        let Extent { start, end, more } = extent;
        if matches!(self.state, State::Refused) {
            return Err(Why::Overlap);
        }
        let reached = self.runs.last().map_or(0, |run| run.1);
        let contradicts = match (self.len, more) {
            (Some(len), true) => end > len,
            (Some(len), false) => end != len,
            (None, true) => false,
            (None, false) => end < reached,
        };
        if contradicts {
            return Err(Why::Overlap);
        }
        let next = self.runs.partition_point(|run| run.1 <= start);
        if let Some(&(from, to)) = self.runs.get(next)
            && from < end
        {
            let covered = from <= start && end <= to;
            return Err(if covered { Why::Duplicate } else { Why::Overlap });
        }
        let touches_next = self.runs.get(next).is_some_and(|run| run.0 == end);
        let touches_previous = next > 0 && self.runs[next - 1].1 == start;
        match (touches_previous, touches_next) {
            (true, true) => {
                self.runs[next - 1].1 = self.runs[next].1;
                self.runs.remove(next);
            }
            (true, false) => self.runs[next - 1].1 = end,
            (false, true) => self.runs[next].0 = start,
            (false, false) if self.runs.len() == MAX_RUNS => return Err(Why::TooMany),
            (false, false) => self.runs.insert(next, (start, end)),
        }
        if !more {
            self.len = Some(end);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        matches!((&self.runs[..], self.len), (&[(0, end)], Some(len)) if end == len)
    }
}

/// Bytes that a first fragment must have of its transport's header, so that no later one can bring ports or flags.
fn transport_header(protocol: u8) -> u32 {
    match protocol {
        proto::TCP => tcp::MIN_LEN as u32,
        proto::UDP => udp::LEN as u32,
        proto::ICMP => icmp::LEN as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
