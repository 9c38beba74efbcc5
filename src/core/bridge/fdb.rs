//! The forwarding database: which station is behind which port.
//!
//! # Theory of operation
//! Every accepted frame teaches where its source is (B01); a station that moves is followed at once (B03); what has been
//! silent for the ageing time is unknown again (B02). An attachment's own MAC is permanent: it is known before its first
//! frame and never ages.
//!
//! The table is bounded *per port*: each port has a queue of the stations learned from it, oldest first, with lazy
//! stamps (a frame only restamps its entry; the queue is put right when its head is looked at). A port that learns more
//! than its share loses its own oldest station, so a MAC flood evicts nobody else (B18).
//!
//! # Limits
//! [`STATIONS_PER_PORT`] learned stations a port; an eviction looks at [`EVICTION_STEPS`] entries at most.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;

use hashbrown::HashMap;

use super::super::hash::Keyed;
use super::super::port::PortId;
use super::super::time::Instant;
use crate::wire::mac::Mac;

/// Stations one port may teach.
pub const STATIONS_PER_PORT: usize = 1024;

/// Entries that one eviction looks at before it takes the last one seen.
const EVICTION_STEPS: usize = 8;

/// A station as the switch knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Where it is.
    pub port: PortId,
    /// When it last sent; permanent stations: when they were attached.
    pub seen: Instant,
    /// Does not age and does not move.
    pub permanent: bool,
}

/// The stations of one network.
pub struct Fdb {
    stations: HashMap<Mac, Station, Keyed>,
    /// Learned stations by port, in the order of their (possibly outdated) stamps.
    learned: HashMap<PortId, VecDeque<Mac>, Keyed>,
    ageing: Duration,
}

impl Fdb {
    /// An empty table. `key` keeps containers from choosing colliding addresses.
    pub fn new(ageing: Duration, key: Keyed) -> Fdb {
        Fdb { stations: HashMap::with_hasher(key.clone()), learned: HashMap::with_hasher(key), ageing }
    }

    /// The port behind which `mac` is now.
    #[inline]
    pub fn lookup(&self, mac: Mac, now: Instant) -> Option<PortId> {
        let station = self.stations.get(&mac)?;
        (station.permanent || now.since(station.seen) < self.ageing).then_some(station.port)
    }

    /// A frame from `mac` came by `port`.
    #[inline]
    pub fn learn(&mut self, mac: Mac, port: PortId, now: Instant) {
        match self.stations.get_mut(&mac) {
            Some(station) if station.permanent => {}
            Some(station) if station.port == port => station.seen = now,
            Some(_) => {
                self.forget(mac);
                self.insert(mac, port, now);
            }
            None => self.insert(mac, port, now),
        }
    }

    /// The address of an attachment: known at once, never aged.
    pub fn add_permanent(&mut self, mac: Mac, port: PortId, now: Instant) {
        self.forget(mac);
        self.stations.insert(mac, Station { port, seen: now, permanent: true });
    }

    /// Forgets one station.
    pub fn forget(&mut self, mac: Mac) {
        if let Some(station) = self.stations.remove(&mac)
            && !station.permanent
            && let Some(queue) = self.learned.get_mut(&station.port)
        {
            queue.retain(|queued| *queued != mac);
        }
    }

    /// Forgets all that `port` taught (B20); its permanent address stays until it is forgotten by name.
    pub fn flush_port(&mut self, port: PortId) {
        for mac in self.learned.remove(&port).into_iter().flatten() {
            self.stations.remove(&mac);
        }
    }

    /// How many stations are in the table, aged ones included until they are met.
    pub fn len(&self) -> usize {
        self.stations.len()
    }

    /// Is the table empty?
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    /// The stations behind `port`, whose own address is `own`, that have not aged; in the order of their addresses, for
    /// listings.
    pub fn stations_of(&self, port: PortId, own: Mac, now: Instant) -> Vec<(Mac, Station)> {
        let learned = self.learned.get(&port).into_iter().flatten().copied();
        let permanent = |mac: &Mac| self.stations.get(mac).is_some_and(|s| s.permanent && s.port == port);
        let mut all: Vec<_> = learned
            .chain(Some(own).filter(permanent))
            .filter_map(|mac| Some((mac, *self.stations.get(&mac)?)))
            .filter(|(_, s)| s.permanent || now.since(s.seen) < self.ageing)
            .collect();
        all.sort_unstable_by_key(|(mac, _)| *mac);
        all
    }

    fn insert(&mut self, mac: Mac, port: PortId, now: Instant) {
        let queue = self.learned.entry(port).or_default();
        // Aged stations at the head go first; without any, the port's share decides.
        while let Some(oldest) = queue.front().copied() {
            let aged = self.stations.get(&oldest).is_none_or(|s| now.since(s.seen) >= self.ageing);
            if !aged {
                break;
            }
            queue.pop_front();
            self.stations.remove(&oldest);
        }
        if queue.len() >= STATIONS_PER_PORT {
            let mut oldest = queue.pop_front();
            let mut stamp = oldest.and_then(|m| self.stations.get(&m)).map(|s| s.seen);
            for _ in 0..EVICTION_STEPS {
                let (Some(candidate), Some(next)) = (oldest, queue.front().copied()) else { break };
                let seen = self.stations.get(&next).map(|s| s.seen);
                if seen >= stamp {
                    break;
                }
                // The head was refreshed since it was queued: it goes to the back, the next one is older.
                queue.pop_front();
                queue.push_back(candidate);
                (oldest, stamp) = (Some(next), seen);
            }
            if let Some(oldest) = oldest {
                self.stations.remove(&oldest);
            }
        }
        queue.push_back(mac);
        self.stations.insert(mac, Station { port, seen: now, permanent: false });
    }
}

impl std::fmt::Debug for Fdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fdb of {} stations, hash of nothing {:x}", self.len(), self.stations.hasher().hash_one(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([0x02, 0, a, b, c, d])
    }

    fn fdb() -> Fdb {
        Fdb::new(Duration::from_secs(300), Keyed::new([7; 16]))
    }

    // B02
    #[test]
    fn learned_station_ages_out_after_300_s_of_silence() {
        let mut fdb = fdb();
        fdb.learn(mac(1), A, Instant::from_secs(0));
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(299)), Some(A));
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(300)), None);
        fdb.learn(mac(1), A, Instant::from_secs(299));
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(301)), Some(A));
    }

    // B03
    #[test]
    fn moved_mac_follows_its_new_port() {
        let mut fdb = fdb();
        fdb.learn(mac(1), A, Instant::ZERO);
        fdb.learn(mac(1), B, Instant::ZERO);
        assert_eq!(fdb.lookup(mac(1), Instant::ZERO), Some(B));
        fdb.flush_port(A);
        assert_eq!(fdb.lookup(mac(1), Instant::ZERO), Some(B));
    }

    // B18
    #[test]
    fn mac_flood_evicts_nobody_elses_stations() {
        let mut fdb = fdb();
        fdb.learn(mac(1), B, Instant::ZERO);
        for n in 0..100_000 {
            fdb.learn(mac(1000 + n), A, Instant::from_micros(u64::from(n)));
        }
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(1)), Some(B));
        assert_eq!(fdb.len(), STATIONS_PER_PORT + 1);
    }

    #[test]
    fn active_station_survives_its_own_ports_flood() {
        let mut fdb = fdb();
        fdb.learn(mac(1), A, Instant::ZERO);
        for n in 0..10_000 {
            let now = Instant::from_micros(1 + u64::from(n));
            fdb.learn(mac(1000 + n), A, now);
            fdb.learn(mac(1), A, now);
        }
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(1)), Some(A));
    }

    #[test]
    fn permanent_station_neither_ages_nor_moves() {
        let mut fdb = fdb();
        fdb.add_permanent(mac(1), A, Instant::ZERO);
        fdb.learn(mac(1), B, Instant::from_secs(1));
        fdb.flush_port(A);
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(100_000)), Some(A));
        fdb.forget(mac(1));
        assert_eq!(fdb.lookup(mac(1), Instant::from_secs(100_000)), None);
    }

    #[test]
    fn aged_stations_leave_the_table_when_their_port_learns() {
        let mut fdb = fdb();
        for n in 0..100 {
            fdb.learn(mac(n), A, Instant::ZERO);
        }
        fdb.learn(mac(1000), A, Instant::from_secs(400));
        assert_eq!(fdb.len(), 1);
    }
}
