//! A bounded set of sequence ranges: what the peer has selectively acknowledged.

use super::segment::{after, before, distance, earlier, later};

/// Ranges kept. Small segments could make thousands of holes; what does not fit is forgotten, which costs a needless
/// retransmission and nothing else.
pub(super) const MAX_RANGES: usize = 32;

/// Disjoint ranges in order, none empty, all within half the sequence space of each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Adds `from..to`; `false` if there is no room for another range.
    pub fn insert(&mut self, mut from: u32, mut to: u32) -> bool {
        let first = self.0.partition_point(|r| before(r.1, from));
        let mut last = first;
        while let Some(range) = self.0.get(last)
            && !after(range.0, to)
        {
            from = earlier(from, range.0);
            to = later(to, range.1);
            last += 1;
        }
        if first == last && self.0.len() >= MAX_RANGES {
            return false;
        }
        self.0.splice(first..last, [(from, to)]);
        true
    }

    /// Forgets what lies before `seq`.
    pub fn forget_before(&mut self, seq: u32) {
        if self.0.first().is_none_or(|r| !before(r.0, seq)) {
            return;
        }
        self.0.retain_mut(|r| {
            r.0 = later(r.0, seq);
            before(r.0, r.1)
        });
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// The right edge of the last.
    pub fn end(&self) -> Option<u32> {
        self.0.last().map(|r| r.1)
    }

    /// Bytes of `from..to` that are in the set.
    pub fn covered(&self, from: u32, to: u32) -> u32 {
        self.0.iter().map(|r| distance(later(r.0, from), earlier(r.1, to))).sum()
    }

    /// The first part of `from..to` that is not in the set.
    pub fn gap(&self, mut from: u32, to: u32) -> Option<(u32, u32)> {
        for range in &self.0 {
            if before(from, range.0) {
                return before(from, to).then(|| (from, earlier(range.0, to)));
            }
            from = later(from, range.1);
        }
        before(from, to).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn set_of_ranges_agrees_with_a_set_of_numbers(
            base: u32,
            parts in proptest::collection::vec((0_u32..200, 1_u32..20), 0..40),
            cut in 0_u32..250,
            from in 0_u32..250,
        ) {
            let mut ranges = Ranges::default();
            let mut model = vec![false; 250];
            for (start, len) in parts {
                if ranges.insert(base.wrapping_add(start), base.wrapping_add(start + len)) {
                    model[start as usize..(start + len) as usize].fill(true);
                }
            }
            ranges.forget_before(base.wrapping_add(cut));
            model[..cut as usize].fill(false);
            let at = |n: u32| base.wrapping_add(n);
            let count = model[from as usize..].iter().filter(|set| **set).count() as u32;
            prop_assert_eq!(ranges.covered(at(from), at(250)), count);
            let hole = (from..250).find(|n| !model[*n as usize]);
            let end = hole.map(|h| (h..250).find(|n| model[*n as usize]).unwrap_or(250));
            prop_assert_eq!(ranges.gap(at(from), at(250)), hole.map(|h| (at(h), at(end.unwrap()))));
            prop_assert!(ranges.0.len() <= MAX_RANGES);
        }
    }
}
