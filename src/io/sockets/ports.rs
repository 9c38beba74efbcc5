//! Local ports of outbound TCP connections: a small window for each.
//!
//! # Theory of operation
//! connect() walks the whole local port range until it finds a port that is free towards the destination. After some
//! 14,000 connections a minute to one destination nearly all are in TIME_WAIT, and one connect() takes milliseconds, in
//! which no frame moves. IP_LOCAL_PORT_RANGE (Linux 6.3) gives each socket a range of its own: [`WINDOW`] ports at a
//! place that cannot be foreseen (RFC 6056), another for each connection. A window that is full is given up for the
//! next, [`TRIES`] times, so that a connect() is bounded in time whatever was done before.

use std::hash::{BuildHasher, RandomState};

/// Ports in a window.
const WINDOW: u16 = 64;
/// Windows that are tried for one connection.
const TRIES: u64 = 8;

/// Gives out windows of the host's local port range.
#[derive(Debug)]
pub struct Windows {
    first: u16,
    last: u16,
    random: RandomState,
    count: u64,
}

impl Windows {
    /// Of the range `first` to `last`, both included.
    pub fn new(first: u16, last: u16) -> Windows {
        Windows { first: first.min(last), last: first.max(last), random: RandomState::new(), count: 0 }
    }

    /// Of the range of this network namespace (net.ipv4.ip_local_port_range).
    pub fn of_host() -> Windows {
        let range = local_ports();
        Windows::new(*range.start(), *range.end())
    }

    /// How many ports the whole range has.
    pub fn range_len(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Another window each time, and after it those to try when it is full: each as its lowest and its highest port.
    pub fn tries(&mut self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (first, last) = (u64::from(self.first), u64::from(self.last));
        let windows = self.range_len().div_ceil(usize::from(WINDOW)) as u64;
        self.count += 1;
        let start = self.random.hash_one(self.count) % windows;
        (0..TRIES.min(windows)).map(move |n| {
            let low = first + (start + n) % windows * u64::from(WINDOW);
            let high = (low + u64::from(WINDOW) - 1).min(last);
            (low as u16, high as u16) // both within the range
        })
    }
}

/// The local ports of this network namespace (net.ipv4.ip_local_port_range).
pub fn local_ports() -> std::ops::RangeInclusive<u16> {
    let (first, last) = host_range().unwrap_or((32_768, 60_999)); // Linux's default
    first..=last
}

fn host_range() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_range_and_never_leave_it() {
        let mut windows = Windows::new(32_768, 60_999);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            let tries: std::collections::BTreeSet<_> = windows.tries().collect();
            assert_eq!(tries.len(), 8, "none twice");
            for &(low, high) in &tries {
                assert!((32_768..=60_999).contains(&low) && (low..=60_999).contains(&high) && high - low < WINDOW);
            }
            seen.extend(windows.tries().next());
        }
        assert_eq!(seen.len(), 28_232_usize.div_ceil(64));
    }

    #[test]
    fn a_small_range_has_few_windows() {
        assert_eq!(Windows::new(65_535, 65_535).tries().collect::<Vec<_>>(), [(65_535, 65_535)]);
        assert_eq!(Windows::new(1, 10).tries().collect::<Vec<_>>(), [(1, 10)]);
        assert_eq!(Windows::new(1, 65).tries().count(), 2);
    }
}
