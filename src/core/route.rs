//! The routing table: longest prefix first.
//!
//! One hash table for each prefix length in use, asked from the longest to the shortest: a lookup costs as many probes
//! as there are lengths (two or three), however many networks there are.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::network::NetworkId;
use crate::wire::addr::{Addr, Cidr};

/// Where packets to a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The prefix is on this network's link.
    Network(NetworkId),
    /// By the uplink.
    Uplink,
}

/// Prefixes are configured, never learned, so a fast hash without a secret is enough.
type Prefixes = HashMap<Cidr, Target, FixedState>;

/// The table.
#[derive(Default)]
pub struct Routes {
    /// By prefix length, longest first; families do not mix, since a prefix holds its own family only.
    lengths: Vec<(bool, u8, Prefixes)>,
}

impl Routes {
    /// The target of the longest prefix that holds `dst`.
    #[inline]
    pub fn lookup(&self, dst: Addr) -> Option<Target> {
        for (v4, bits, prefixes) in &self.lengths {
            if *v4 == dst.is_v4()
                && let Some(target) = Cidr::new(dst, *bits).and_then(|prefix| prefixes.get(&prefix.network()))
            {
                return Some(*target);
            }
        }
        None
    }

    /// The target of exactly this prefix.
    pub fn get(&self, prefix: Cidr) -> Option<Target> {
        let at = self.position(prefix).ok()?;
        self.lengths[at].2.get(&prefix.network()).copied()
    }

    /// Adds or replaces a route.
    pub fn insert(&mut self, prefix: Cidr, target: Target) {
        let at = self.position(prefix).unwrap_or_else(|at| {
            self.lengths.insert(at, (prefix.addr().is_v4(), prefix.bits(), Prefixes::default()));
            at
        });
        self.lengths[at].2.insert(prefix.network(), target);
    }

    /// Removes a route; was it there?
    pub fn remove(&mut self, prefix: Cidr) -> bool {
        let Ok(at) = self.position(prefix) else { return false };
        let removed = self.lengths[at].2.remove(&prefix.network()).is_some();
        if self.lengths[at].2.is_empty() {
            self.lengths.remove(at);
        }
        removed
    }

    /// All routes, longest prefix first, then by address.
    pub fn list(&self) -> Vec<(Cidr, Target)> {
        let mut all: Vec<_> = self.lengths.iter().flat_map(|(_, _, p)| p.iter().map(|(c, t)| (*c, *t))).collect();
        all.sort_unstable_by_key(|(c, _)| (std::cmp::Reverse(c.bits()), *c));
        all
    }

    fn position(&self, prefix: Cidr) -> Result<usize, usize> {
        let want = (prefix.addr().is_v4(), prefix.bits());
        self.lengths.binary_search_by(|(v4, bits, _)| want.cmp(&(*v4, *bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    // S09
    #[test]
    fn longest_prefix_wins() {
        let net = |n| Target::Network(NetworkId(n));
        let mut routes = Routes::default();
        routes.insert(cidr("0.0.0.0/0"), Target::Uplink);
        routes.insert(cidr("172.17.0.1/16"), net(0));
        routes.insert(cidr("172.17.9.0/24"), net(1));
        routes.insert(cidr("172.17.9.9/32"), net(2));
        for (dst, want) in
            [("203.0.113.1", Target::Uplink), ("172.17.1.1", net(0)), ("172.17.9.1", net(1)), ("172.17.9.9", net(2))]
        {
            assert_eq!(routes.lookup(dst.parse().unwrap()), Some(want), "{dst}");
        }
        assert!(routes.remove(cidr("0.0.0.0/0")) && !routes.remove(cidr("0.0.0.0/0")));
        assert_eq!(routes.lookup("203.0.113.1".parse().unwrap()), None);
        assert_eq!(routes.lookup("2001:db8::1".parse().unwrap()), None);
    }
}
