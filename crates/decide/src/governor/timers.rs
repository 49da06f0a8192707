//! When each row is to be looked at next: a binary heap of fixed capacity that knows where each item is, so that a row
//! can be put off or brought forward in O(log n) and rows nobody is due to look at cost nothing at all.

use crate::units::Time;

#[derive(Debug)]
pub(super) struct Timers {
    /// Items, earliest first as a binary heap; ties go to the smaller item, so that replay gives the same order.
    heap: Vec<u32>,
    /// When each item is due and where in `heap` it stands; [`NOWHERE`]: it is not due.
    at: Vec<Time>,
    places: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl Timers {
    /// For the items `0..capacity`.
    pub fn with_capacity(capacity: u32) -> Self {
        let capacity = capacity as usize;
        Self {
            heap: Vec::with_capacity(capacity),
            at: vec![Time::FAR; capacity],
            places: vec![NOWHERE; capacity],
        }
    }

    /// When the item is due; `None` if it never is.
    pub fn at(&self, item: u32) -> Option<Time> {
        self.stands(item)?;
        self.at.get(item as usize).copied()
    }

    /// The item due first.
    pub fn first(&self) -> Option<(Time, u32)> {
        let &item = self.heap.first()?;
        Some((self.at(item)?, item))
    }

    /// Sets or moves an item; `None` takes it out. Items out of range are ignored.
    pub fn set(&mut self, item: u32, at: Option<Time>) {
        let place = self.stands(item);
        let Some(due) = self.at.get_mut(item as usize) else { return };
        match (at, place) {
            (Some(at), Some(place)) => {
                *due = at;
                self.settle(place);
            }
            (Some(at), None) => {
                *due = at;
                self.heap.push(item);
                self.place(self.heap.len() - 1);
                self.settle(self.heap.len() - 1);
            }
            (None, Some(place)) => {
                self.places[item as usize] = NOWHERE;
                self.heap.swap_remove(place);
                if place < self.heap.len() {
                    self.place(place);
                    self.settle(place);
                }
            }
            (None, None) => {}
        }
    }

    /// Brings an item forward to `at`, or in; never puts it off.
    pub fn bring_forward(&mut self, item: u32, at: Time) {
        if self.at(item).is_none_or(|set| set > at) {
            self.set(item, Some(at));
        }
    }

    /// Where in the heap an item stands.
    fn stands(&self, item: u32) -> Option<usize> {
        self.places.get(item as usize).filter(|&&place| place != NOWHERE).map(|&place| place as usize)
    }

    /// What the heap is ordered by.
    fn key(&self, place: usize) -> (Time, u32) {
        let item = self.heap[place];
        (self.at[item as usize], item)
    }

    /// Notes of the item where it stands.
    fn place(&mut self, place: usize) {
        // There are no more items than fit in 32 bits.
        self.places[self.heap[place] as usize] = u32::try_from(place).unwrap_or(NOWHERE);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.place(a);
        self.place(b);
    }

    /// Moves the item at `place` up or down to where it belongs.
    fn settle(&mut self, mut place: usize) {
        while place > 0 && self.key(place) < self.key((place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.key(child) < self.key(least) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_first_is_always_the_least(calls in proptest::collection::vec((0u32..12, proptest::option::of(0u64..50)), 0..300)) {
            let mut timers = Timers::with_capacity(10);
            let mut oracle = [None; 10];
            for (item, at) in calls {
                timers.set(item, at.map(Time));
                if let Some(entry) = oracle.get_mut(item as usize) {
                    *entry = at.map(Time);
                }
                let least = (0u32..).zip(oracle).filter_map(|(item, at)| Some((at?, item))).min();
                assert_eq!(timers.first(), least);
            }
            while let Some((at, item)) = timers.first() {
                timers.bring_forward(item, Time(at.0 + 1));
                assert_eq!(timers.at(item), Some(at));
                timers.set(item, None);
                assert!(timers.first().is_none_or(|(next, _)| next >= at));
            }
        }
    }
}
