//! Who uses how much of what there is a limit of, and who gives way when it is full.
//!
//! An owner may use its share. When several owners fill the whole, the one that uses most gives way: who uses little is
//! never the victim of who uses much.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::port::PortId;

/// An account of anything that can be counted: sockets, flows, bytes.
#[derive(Debug)]
pub(in crate::core::split) struct Account {
    limit: usize,
    share: usize,
    total: usize,
    /// Who uses nothing is not there.
    used: BTreeMap<PortId, usize>,
    /// The same, who uses most last.
    by_use: BTreeSet<(usize, PortId)>,
}

/// May an owner use more?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::split) enum Room {
    /// Yes.
    Yes,
    /// When this owner has given something back.
    After(PortId),
    /// Never: it is more than an owner's share.
    Never,
}

impl Account {
    /// `limit` over all owners, `share` of each.
    pub fn new(limit: usize, share: usize) -> Account {
        Account { limit, share: share.min(limit), total: 0, used: BTreeMap::new(), by_use: BTreeSet::new() }
    }

    /// May `owner` use `price` more?
    pub fn room(&self, owner: PortId, price: usize) -> Room {
        let own = self.used(owner);
        if price > self.share {
            Room::Never
        } else if own + price > self.share {
            Room::After(owner)
        } else if self.total + price > self.limit {
            match self.by_use.last() {
                Some(&(most, fattest)) if most > own => Room::After(fattest),
                _ => Room::After(owner),
            }
        } else {
            Room::Yes
        }
    }

    /// What an owner uses.
    pub fn used(&self, owner: PortId) -> usize {
        self.used.get(&owner).copied().unwrap_or(0)
    }

    /// What all use.
    #[cfg(test)]
    pub fn total(&self) -> usize {
        self.total
    }

    /// `owner` uses `price` more.
    pub fn charge(&mut self, owner: PortId, price: usize) {
        self.total += price;
        let own = self.used(owner);
        self.set(owner, own, own + price);
    }

    /// `owner` uses `price` less.
    pub fn refund(&mut self, owner: PortId, price: usize) {
        let own = self.used(owner);
        debug_assert!(price <= own && price <= self.total, "what is given back was taken");
        self.total = self.total.saturating_sub(price);
        self.set(owner, own, own.saturating_sub(price));
    }

    fn set(&mut self, owner: PortId, old: usize, new: usize) {
        self.by_use.remove(&(old, owner));
        if new == 0 {
            self.used.remove(&owner);
        } else {
            self.used.insert(owner, new);
            self.by_use.insert((new, owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);
    const C: PortId = PortId(3);

    #[test]
    fn share_is_a_limit_of_each_and_the_greatest_gives_way_to_the_small() {
        let mut account = Account::new(10, 6);
        account.charge(A, 6);
        assert_eq!(account.room(A, 1), Room::After(A));
        assert_eq!(account.room(B, 7), Room::Never);
        account.charge(B, 4);
        assert_eq!(account.room(C, 1), Room::After(A));
        assert_eq!(account.room(B, 1), Room::After(A));
        account.refund(A, 3);
        assert_eq!(account.room(C, 3), Room::Yes);
        account.charge(C, 3);
        assert_eq!(account.room(B, 1), Room::After(B), "who uses most is its own victim");
        for (who, all) in [(A, 3), (B, 4), (C, 3)] {
            account.refund(who, all);
        }
        assert_eq!((account.total(), account.used.len(), account.by_use.len()), (0, 0, 0));
    }
}
