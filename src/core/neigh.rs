//! Neighbours of the gateways: which MAC address has an IP address on a network.
//!
//! # Theory of operation
//! An attachment's address is known from the moment it is attached; it is permanent. Any other on-link address is asked
//! for by ARP: three requests a second apart (Linux `mcast_solicit`, `retrans_time_ms`), then it is given up (R04).
//! Packets wait meanwhile in a bounded queue (R30); only those are ever copied. An answer that is older than a minute
//! is used and asked for again by unicast; three silences forget it.
//!
//! ```text
//!   unknown --packet--> incomplete --answer--> reachable --60 s, used--> probing --answer--> reachable
//!                           `--3 s--> failed: 3/1 for what waited           `--3 s--> unknown
//! ```
//!
//! # Limits
//! [`LEARNED`] entries a network and [`LEARNED_PER_PORT`] a port; [`HELD_PER_NEIGHBOUR`] packets wait for one address.
//! All that waits shares [`HELD_BYTES`], of which an open question takes [`QUESTION`]. When that is used up, the port that
//! has the most of it loses its latest question: nobody who asks for little is refused because others ask for much.
//!
//! # References
//! RFC 826, RFC 1122 2.3.2, Linux net/core/neighbour.c.

use std::time::Duration;

use hashbrown::HashMap;

use super::hash::Keyed;
use super::port::PortId;
use super::time::Instant;
use crate::wire::addr::Addr;
use crate::wire::mac::Mac;

/// Learned neighbours of one network (Linux `gc_thresh3`).
pub const LEARNED: usize = 1024;
/// Learned neighbours behind one port.
pub const LEARNED_PER_PORT: usize = 128;
/// Packets that wait for one address.
pub const HELD_PER_NEIGHBOUR: usize = 16;
/// Bytes that wait in one network, open questions included.
pub const HELD_BYTES: usize = 1 << 20;
/// What an open question costs of them, so that there are 256 at most.
pub const QUESTION: usize = 4096;

/// Requests before an address is given up (Linux `mcast_solicit`, `ucast_solicit`).
const PROBES: u8 = 3;
/// Between two requests (Linux `retrans_time_ms`).
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer counts without a doubt.
const REACHABLE: Duration = Duration::from_secs(60);

/// A packet that waits.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// The port it came by: what becomes of it is counted there.
    pub from: PortId,
    /// Its bytes, a virtio header first.
    pub packet: Box<[u8]>,
}

#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    /// The port its last word came from.
    port: Option<PortId>,
    permanent: bool,
    confirmed: Instant,
    /// Requests sent since the last answer; 0: nothing is asked.
    probes: u8,
    next_probe: Instant,
    /// Whose packet was the first to wait, while there is no answer.
    asker: Option<PortId>,
    held: Vec<Held>,
}

impl Entry {
    /// What each port has waiting here, bytes.
    fn charges(&self) -> impl Iterator<Item = (PortId, usize)> {
        let question = self.asker.map(|port| (port, QUESTION));
        question.into_iter().chain(self.held.iter().map(|h| (h.from, h.packet.len())))
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Use this one.
    Known(Mac),
    /// Use this one, and ask it whether it is still there.
    Doubtful(Mac),
    /// Ask all.
    Unknown,
}

/// What became of a packet that must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It waits, and it is the first: ask now.
    Ask,
    /// It waits with others.
    Waits,
    /// No room: too much waits for this address, or too much of this port.
    Full,
}

/// What a timer brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Ask again: all, or just this station.
    Ask { addr: Addr, to: Option<Mac> },
    /// Nobody answered; these packets waited.
    Failed { addr: Addr, held: Vec<Held> },
}

/// A neighbour in a listing: its MAC, its state, how many packets wait.
pub type Row = (Addr, Option<Mac>, &'static str, usize);

/// The neighbours of one network's gateway.
pub struct Neighbours {
    entries: HashMap<Addr, Entry, Keyed>,
    /// Addresses with a question open.
    asking: Vec<Addr>,
    learned: usize,
    /// How many of them each port has said, so that nothing is counted while a frame waits; none is not there.
    of_port: HashMap<PortId, usize, Keyed>,
    /// What each port has waiting, bytes; none is not there.
    waiting: HashMap<PortId, usize, Keyed>,
    held_bytes: usize,
}

impl Neighbours {
    /// None are known.
    pub fn new(key: Keyed) -> Neighbours {
        Neighbours {
            entries: HashMap::with_hasher(key.clone()),
            asking: Vec::new(),
            learned: 0,
            of_port: HashMap::with_hasher(key.clone()),
            waiting: HashMap::with_hasher(key),
            held_bytes: 0,
        }
    }

    /// The address of an attachment. Gives back what waited for it.
    pub fn add_permanent(&mut self, addr: Addr, mac: Mac, port: PortId, now: Instant) -> Vec<Held> {
        let held = self.remove(addr);
        let entry = Entry {
            mac: Some(mac),
            port: Some(port),
            permanent: true,
            confirmed: now,
            probes: 0,
            next_probe: now,
            asker: None,
            held: Vec::new(),
        };
        self.entries.insert(addr, entry);
        held
    }

    /// Forgets an address and gives back what waited for it.
    pub fn remove(&mut self, addr: Addr) -> Vec<Held> {
        let Some(entry) = self.entries.remove(&addr) else { return Vec::new() };
        if !entry.permanent {
            self.learned -= 1;
            self.credit(entry.port);
        }
        if entry.probes > 0 {
            self.asking.retain(|a| *a != addr);
        }
        for (port, bytes) in entry.charges() {
            self.uncharge(port, bytes);
        }
        entry.held
    }

    /// Forgets what was learned from a port.
    pub fn flush_port(&mut self, port: PortId) {
        let mut gone: Vec<Addr> =
            self.entries.iter().filter(|(_, e)| e.port == Some(port)).map(|(addr, _)| *addr).collect();
        gone.sort_unstable();
        for addr in gone {
            self.remove(addr);
        }
    }

    /// Ends all of it; what waited.
    pub fn into_held(self) -> impl Iterator<Item = Held> {
        self.entries.into_values().flat_map(|e| e.held)
    }

    /// Where is `addr`?
    #[inline]
    pub fn resolve(&mut self, addr: Addr, now: Instant) -> Resolution {
        let Some(entry) = self.entries.get_mut(&addr) else { return Resolution::Unknown };
        let Some(mac) = entry.mac else { return Resolution::Unknown };
        if entry.permanent || entry.probes > 0 || now.since(entry.confirmed) < REACHABLE {
            return Resolution::Known(mac);
        }
        entry.probes = 1;
        entry.next_probe = now + PROBE_INTERVAL;
        self.asking.push(addr);
        Resolution::Doubtful(mac)
    }

    /// Lets a packet wait for `addr`. Gives back what waited for others and had to make room.
    pub fn hold(&mut self, addr: Addr, from: PortId, packet: &[u8], now: Instant) -> (Hold, Vec<Held>) {
        let known = self.entries.get(&addr);
        let no_room = match known {
            Some(entry) => entry.held.len() >= HELD_PER_NEIGHBOUR,
            None => !self.room(),
        };
        let cost = packet.len() + if known.is_none() { QUESTION } else { 0 };
        if no_room {
            return (Hold::Full, Vec::new());
        }
        let mut evicted = Vec::new();
        while self.held_bytes + cost > HELD_BYTES {
            let Some(victim) = self.victim(addr, self.waiting.get(&from).map_or(0, |own| *own) + cost) else {
                return (Hold::Full, evicted);
            };
            evicted.extend(self.remove(victim));
        }
        self.held_bytes += cost;
        *self.waiting.entry(from).or_default() += cost;
        let held = Held { from, packet: packet.into() };
        if let Some(entry) = self.entries.get_mut(&addr) {
            entry.held.push(held);
            return (Hold::Waits, evicted);
        }
        let entry = Entry {
            mac: None,
            port: None,
            permanent: false,
            confirmed: now,
            probes: 1,
            next_probe: now + PROBE_INTERVAL,
            asker: Some(from),
            held: vec![held],
        };
        self.entries.insert(addr, entry);
        self.learned += 1;
        self.asking.push(addr);
        (Hold::Ask, evicted)
    }

    /// The latest question but `spared` of the port that has the most waiting, if that is more than `own` bytes.
    fn victim(&self, spared: Addr, own: usize) -> Option<Addr> {
        let (port, most) = self.waiting.iter().map(|(port, bytes)| (*port, *bytes)).max_by_key(|(p, b)| (*b, p.0))?;
        let is_its = |addr: &&Addr| {
            let entry = self.entries.get(*addr);
            **addr != spared && entry.is_some_and(|e| e.mac.is_none() && e.charges().any(|(p, _)| p == port))
        };
        if most > own { self.asking.iter().rev().find(is_its).copied() } else { None }
    }

    fn uncharge(&mut self, port: PortId, bytes: usize) {
        self.held_bytes -= bytes;
        if let Some(waiting) = self.waiting.get_mut(&port) {
            *waiting -= bytes;
            if *waiting == 0 {
                self.waiting.remove(&port);
            }
        }
    }

    /// `addr` said that it is at `mac`. `unasked`: it said so in a question to us, which may make a new entry; an answer
    /// only ever confirms or moves one that is there. Gives back what waited.
    pub fn heard(&mut self, addr: Addr, mac: Mac, port: PortId, unasked: bool, now: Instant) -> Vec<Held> {
        if let Some(entry) = self.entries.get_mut(&addr) {
            if entry.permanent {
                return Vec::new();
            }
            let asked = entry.probes > 0;
            let before = entry.port.replace(port);
            (entry.mac, entry.confirmed, entry.probes) = (Some(mac), now, 0);
            let charges: Vec<_> = entry.charges().collect();
            entry.asker = None;
            let held = std::mem::take(&mut entry.held);
            for (port, bytes) in charges {
                self.uncharge(port, bytes);
            }
            if asked {
                self.asking.retain(|a| *a != addr);
            }
            if before != Some(port) {
                self.credit(before);
                *self.of_port.entry(port).or_default() += 1;
            }
            return held;
        }
        if unasked && self.room() && self.of_port.get(&port).is_none_or(|said| *said < LEARNED_PER_PORT) {
            self.learned += 1;
            *self.of_port.entry(port).or_default() += 1;
            self.entries.insert(
                addr,
                Entry {
                    mac: Some(mac),
                    port: Some(port),
                    permanent: false,
                    confirmed: now,
                    probes: 0,
                    next_probe: now,
                    asker: None,
                    held: Vec::new(),
                },
            );
        }
        Vec::new()
    }

    /// The next time that [`Neighbours::tick`] has work.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.asking.iter().filter_map(|addr| self.entries.get(addr)).map(|e| e.next_probe).min()
    }

    /// Does what is due: repeats questions, gives up.
    pub fn tick(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for addr in self.asking.clone() {
            let Some(entry) = self.entries.get_mut(&addr).filter(|e| e.next_probe <= now) else { continue };
            if entry.probes < PROBES {
                entry.probes += 1;
                entry.next_probe = now + PROBE_INTERVAL;
                events.push(Event::Ask { addr, to: entry.mac });
            } else {
                events.push(Event::Failed { addr, held: self.remove(addr) });
            }
        }
        events
    }

    /// Rows for listings, by address. Those after the first `skip`, `max` at most; and whether
    /// there are more. Looks at each address once, and puts in order only what it gives.
    pub fn list(&self, skip: usize, max: usize, now: Instant) -> (Vec<Row>, bool) {
        let state = |e: &Entry| match e {
            Entry { permanent: true, .. } => "permanent",
            Entry { mac: None, .. } => "incomplete",
            Entry { probes: 1.., .. } => "probe",
            _ if now.since(e.confirmed) < REACHABLE => "reachable",
            _ => "stale",
        };
        let mut addresses: Vec<Addr> = self.entries.keys().copied().collect();
        if skip >= addresses.len() {
            return (Vec::new(), false);
        }
        addresses.select_nth_unstable(skip);
        let rest = &mut addresses[skip..];
        let more = rest.len() > max;
        if more {
            rest.select_nth_unstable(max);
        }
        let given = rest.len().min(max);
        rest[..given].sort_unstable();
        let row = |addr: &Addr| self.entries.get(addr).map(|e| (*addr, e.mac, state(e), e.held.len()));
        (rest[..given].iter().filter_map(row).collect(), more)
    }

    /// One fewer of what `port` has said.
    fn credit(&mut self, port: Option<PortId>) {
        if let Some(port) = port
            && let Some(said) = self.of_port.get_mut(&port)
        {
            *said -= 1;
            if *said == 0 {
                self.of_port.remove(&port);
            }
        }
    }

    fn room(&self) -> bool {
        self.learned < LEARNED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(1);
    const IP: Addr = Addr::v4([172, 17, 0, 9]);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn neighbours() -> Neighbours {
        Neighbours::new(Keyed::new([1; 16]))
    }

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    // R04
    #[test]
    fn three_requests_then_failure_gives_back_what_waited() {
        let mut n = neighbours();
        assert_eq!(n.hold(IP, PORT, b"one", at(0)).0, Hold::Ask);
        assert_eq!(n.hold(IP, PORT, b"two", at(0)).0, Hold::Waits);
        assert_eq!(n.tick(at(1)), [Event::Ask { addr: IP, to: None }]);
        assert_eq!(n.tick(at(2)), [Event::Ask { addr: IP, to: None }]);
        let held = [&b"one"[..], b"two"].map(|p| Held { from: PORT, packet: p.into() }).into();
        assert_eq!(n.tick(at(3)), [Event::Failed { addr: IP, held }]);
        assert_eq!(n.next_timeout(), None);
        assert_eq!(n.held_bytes, 0);
    }

    #[test]
    fn answer_releases_what_waited_in_order() {
        let mut n = neighbours();
        n.hold(IP, PORT, b"one", at(0));
        n.hold(IP, PORT, b"two", at(0));
        let held = n.heard(IP, MAC, PORT, false, at(0));
        assert_eq!(held.iter().map(|h| h.packet.as_ref()).collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(n.resolve(IP, at(1)), Resolution::Known(MAC));
        assert_eq!(n.next_timeout(), None);
    }

    #[test]
    fn answer_that_nobody_asked_for_makes_no_entry() {
        let mut n = neighbours();
        n.heard(IP, MAC, PORT, false, at(0));
        assert_eq!(n.resolve(IP, at(0)), Resolution::Unknown);
        n.heard(IP, MAC, PORT, true, at(0));
        assert_eq!(n.resolve(IP, at(0)), Resolution::Known(MAC));
    }

    #[test]
    fn old_answer_is_used_and_asked_for_again_by_unicast() {
        let mut n = neighbours();
        n.heard(IP, MAC, PORT, true, at(0));
        assert_eq!(n.resolve(IP, at(61)), Resolution::Doubtful(MAC));
        assert_eq!(n.resolve(IP, at(61)), Resolution::Known(MAC));
        assert_eq!(n.tick(at(62)), [Event::Ask { addr: IP, to: Some(MAC) }]);
        n.tick(at(63));
        assert_eq!(n.tick(at(64)), [Event::Failed { addr: IP, held: vec![] }]);
        assert_eq!(n.resolve(IP, at(65)), Resolution::Unknown);
    }

    // R30
    #[test]
    fn packets_to_a_dead_address_are_bounded() {
        let mut n = neighbours();
        let full = (0..10_000).filter(|_| n.hold(IP, PORT, &[0; 1500], at(0)).0 == Hold::Full).count();
        assert_eq!(full, 10_000 - HELD_PER_NEIGHBOUR);
        for host in 0..10_000u32 {
            n.hold(Addr::v4((0x0a00_0000 + host).to_be_bytes()), PORT, &[0; 1500], at(0));
        }
        assert!(n.asking.len() <= HELD_BYTES / QUESTION && n.held_bytes <= HELD_BYTES);
        for secs in 1..4 {
            n.tick(at(secs));
        }
        assert!(n.held_bytes == 0 && n.waiting.is_empty() && n.learned == 0);
    }

    // R30
    #[test]
    fn ports_that_ask_for_everything_leave_room_for_one_that_asks_for_little() {
        let mut n = neighbours();
        let addr = |host: u32| Addr::v4((0x0a00_0000 + host).to_be_bytes());
        for host in 0..10_000 {
            n.hold(addr(host), PortId(2 + host % 50), &[0; 1500], at(0));
        }
        let (hold, evicted) = n.hold(IP, PORT, &[0; 60], at(0));
        assert_eq!((hold, evicted.len()), (Hold::Ask, 1));
        let (hold, evicted) = n.hold(IP, PORT, &[0; 1500], at(0));
        assert_eq!((hold, evicted.len()), (Hold::Waits, 0));
        n.hold(addr(20_000), PortId(2), &[0; 1500], at(0));
        assert_eq!(n.heard(IP, MAC, PORT, false, at(0)).len(), 2, "whoever asks for much makes room among themselves");
        assert!(n.held_bytes <= HELD_BYTES);
        assert_eq!(n.held_bytes, n.waiting.values().sum::<usize>());
    }

    // R30
    #[test]
    fn one_port_cannot_fill_the_table() {
        let mut n = neighbours();
        for host in 0..10_000u32 {
            n.heard(Addr::v4((0x0a00_0000 + host).to_be_bytes()), MAC, PORT, true, at(0));
        }
        n.heard(IP, MAC, PortId(2), true, at(0));
        assert_eq!(n.resolve(IP, at(0)), Resolution::Known(MAC));
    }

    #[test]
    fn what_each_port_has_said_is_counted_as_it_moves_and_goes() {
        let mut n = neighbours();
        let addr = |host: u32| Addr::v4((0x0a00_0000 + host).to_be_bytes());
        for host in 0..300 {
            n.heard(addr(host), MAC, PORT, true, at(0));
        }
        assert_eq!((n.of_port[&PORT], n.learned), (LEARNED_PER_PORT, LEARNED_PER_PORT));
        for host in 0..100 {
            n.heard(addr(host), MAC, PortId(2), false, at(0));
        }
        assert_eq!((n.of_port[&PORT], n.of_port[&PortId(2)]), (LEARNED_PER_PORT - 100, 100));
        n.hold(IP, PORT, b"one", at(0));
        n.add_permanent(addr(0), MAC, PORT, at(0));
        n.flush_port(PortId(2));
        assert_eq!((n.of_port.get(&PortId(2)), n.learned), (None, LEARNED_PER_PORT - 100 + 1));
        n.heard(IP, MAC, PORT, false, at(0));
        assert_eq!(n.of_port[&PORT], LEARNED_PER_PORT - 100 + 1);
        n.flush_port(PORT);
        assert!(n.of_port.is_empty() && n.learned == 0 && n.next_timeout().is_none());
    }

    #[test]
    fn attachment_cannot_be_moved_by_arp() {
        let mut n = neighbours();
        n.add_permanent(IP, MAC, PORT, at(0));
        n.heard(IP, Mac([2, 6, 6, 6, 6, 6]), PortId(2), true, at(1));
        assert_eq!(n.resolve(IP, at(100_000)), Resolution::Known(MAC));
    }
}
