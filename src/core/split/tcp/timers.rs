//! When each flow wants to be woken: a heap with one entry for each.
//!
//! # Theory of operation
//! A deadline that moves later is not moved in the heap: the entry is found to be early when it is due, and is put where
//! it belongs then. So the timer that restarts with every acknowledgement costs a comparison, and the heap never holds
//! more entries than there are flows.

use crate::core::time::Instant;

/// No entry.
const NONE: u32 = u32::MAX;

/// Deadlines by slot.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Vec<(Instant, u32)>,
    /// Where in `heap` a slot's entry is.
    place: Vec<u32>,
}

impl Timers {
    /// The earliest entry; may be earlier than what its slot wants now.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|e| e.0)
    }

    /// Wakes `slot` at `at`, or earlier if it was to be woken earlier.
    #[inline]
    pub fn set(&mut self, slot: u32, at: Instant) {
        if self.place.len() <= slot as usize {
            self.place.resize(slot as usize + 1, NONE);
        }
        match self.place[slot as usize] {
            NONE => {
                self.heap.push((at, slot));
                self.up(self.heap.len() - 1);
            }
            place => {
                let place = place as usize;
                if at < self.heap[place].0 {
                    self.heap[place].0 = at;
                    self.up(place);
                }
            }
        }
    }

    /// Forgets `slot`.
    pub fn remove(&mut self, slot: u32) {
        let Some(place) = self.place.get_mut(slot as usize) else { return };
        let at = std::mem::replace(place, NONE);
        if at == NONE {
            return;
        }
        let at = at as usize;
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.up(at);
            self.down(at);
        }
    }

    /// Takes out an entry that is due.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        let (at, slot) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            self.heap.swap(at, (at - 1) / 2);
            self.note(at);
            at = (at - 1) / 2;
        }
        self.note(at);
    }

    fn down(&mut self, at: usize) {
        let mut at = self.place[self.heap[at].1 as usize] as usize;
        loop {
            let left = 2 * at + 1;
            let Some(&(when, _)) = self.heap.get(left) else { break };
            let child = match self.heap.get(left + 1) {
                Some(&(right, _)) if right < when => left + 1,
                _ => left,
            };
            if self.heap[child].0 >= self.heap[at].0 {
                break;
            }
            self.heap.swap(at, child);
            self.note(at);
            at = child;
        }
        self.note(at);
    }

    fn note(&mut self, at: usize) {
        self.place[self.heap[at].1 as usize] = at as u32; // as many entries as slots
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heap_agrees_with_a_sorted_map(steps in proptest::collection::vec((0_u32..40, 0_u64..1000, 0_u8..4), 0..400)) {
            let mut timers = Timers::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (slot, at, what) in steps {
                if what < 2 {
                    timers.set(slot, Instant::from_micros(at));
                    let entry = model.entry(slot).or_insert(at);
                    *entry = at.min(*entry);
                } else if what == 2 {
                    timers.remove(slot);
                    model.remove(&slot);
                } else if let Some(due) = timers.pop(Instant::from_micros(at)) {
                    let when = model.remove(&due).unwrap();
                    prop_assert!(when <= at && model.values().all(|w| *w >= when));
                } else {
                    prop_assert!(model.values().all(|w| *w > at));
                }
                prop_assert_eq!(timers.next().map(Instant::micros), model.values().min().copied());
                prop_assert_eq!(timers.len(), model.len());
            }
        }
    }
}
