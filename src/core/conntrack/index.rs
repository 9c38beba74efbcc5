//! From the hash of a tuple to where its flow lies: an open table that never grows, never rehashes and leaves no
//! tombstones.
//!
//! Linear probing, at most half full, and removal shifts what follows back to where it belongs: after a billion flows
//! have come and gone it is as it would be if only the present ones had ever come. (hashbrown was tried: at the same
//! load its tombstones pile up under churn, and every few hundred thousand flows it rehashed all of them on the path of
//! one frame.) A bucket holds 32 bits of the hash beside the entry, so a lookup touches one cache line here and no
//! flow but its own. The buckets are zero at first, so memory is touched only as it fills.

/// A bucket: the low half of the hash above, the entry plus one below; 0 is empty.
type Bucket = u64;

#[derive(Debug)]
pub(in crate::core) struct Index {
    buckets: Vec<Bucket>,
    len: usize,
}

impl Index {
    /// Memory for that many entries.
    pub(in crate::core) const fn bytes(entries: usize) -> usize {
        (entries * 2).next_power_of_two() * size_of::<Bucket>()
    }

    /// Room for `entries`, each below 2^31.
    pub(in crate::core) fn new(entries: usize) -> Index {
        let buckets = Index::bytes(entries) / size_of::<Bucket>();
        assert!(buckets <= 1 << 32, "the home of an entry is read off 32 bits of its hash");
        Index { buckets: vec![0; buckets], len: 0 }
    }

    /// The entry with this hash for which `is_it` holds.
    #[inline]
    pub(in crate::core) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash as u32);
        loop {
            let bucket = self.buckets[at];
            if bucket == 0 {
                return None;
            }
            if (bucket >> 32) as u32 == hash as u32 && is_it(entry(bucket)) {
                return Some(entry(bucket));
            }
            at = self.after(at);
        }
    }

    /// Adds an entry, which must not be there yet.
    pub(in crate::core) fn insert(&mut self, hash: u64, entry: u32) {
        assert!(self.len < self.buckets.len() / 2, "sized for the table's limit");
        self.len += 1;
        let mut at = self.home(hash as u32);
        while self.buckets[at] != 0 {
            at = self.after(at);
        }
        self.buckets[at] = hash << 32 | u64::from(entry + 1);
    }

    /// Removes an entry; was it there?
    pub(in crate::core) fn remove(&mut self, hash: u64, entry: u32) -> bool {
        let wanted = hash << 32 | u64::from(entry + 1);
        let mut hole = self.home(hash as u32);
        while self.buckets[hole] != wanted {
            if self.buckets[hole] == 0 {
                return false;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        // What lies behind the hole moves into it unless its home is behind the hole, too.
        let mut at = self.after(hole);
        while self.buckets[at] != 0 {
            let home = self.home((self.buckets[at] >> 32) as u32);
            if self.distance(home, at) >= self.distance(hole, at) {
                self.buckets[hole] = self.buckets[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.buckets[hole] = 0;
        true
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.buckets.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.buckets.len() - 1)
    }
}

#[inline]
fn entry(bucket: Bucket) -> u32 {
    bucket as u32 - 1
}

#[cfg(test)]
impl Index {
    pub(in crate::core) fn len(&self) -> usize {
        self.len
    }

    /// The longest way that a lookup can go, in buckets.
    pub(in crate::core) fn longest_run(&self) -> usize {
        self.buckets.split(|&b| b == 0).map(<[Bucket]>::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few homes and a tiny table, so that runs collide, merge and wrap around.
        #[test]
        fn index_agrees_with_a_map(ops in proptest::collection::vec((any::<bool>(), 0..12_u32, 0..16_u64), 1..200)) {
            let mut index = Index::new(12);
            let mut map = BTreeMap::new();
            for (add, entry, hash) in ops {
                if add {
                    if let std::collections::btree_map::Entry::Vacant(free) = map.entry(entry) {
                        free.insert(hash + 20);
                        index.insert(hash + 20, entry);
                    }
                } else if let Some(hash) = map.remove(&entry) {
                    prop_assert!(index.remove(hash, entry));
                } else {
                    prop_assert!(!index.remove(hash + 20, entry));
                }
                prop_assert_eq!(index.len(), map.len());
                for entry in 0..12 {
                    for hash in 20..36 {
                        let found = index.find(hash, |e| e == entry);
                        prop_assert_eq!(found, (map.get(&entry) == Some(&hash)).then_some(entry));
                    }
                }
            }
        }
    }
}
