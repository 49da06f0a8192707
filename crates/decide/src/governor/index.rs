//! A hash map of fixed size: everything is allocated by [`Index::with_capacity`], what does not fit is refused, and the
//! order of iteration depends on nothing but the calls before it. (`std`'s map may grow while tombstones pile up and
//! iterates in a random order: neither is acceptable where memory is short and replay must give the same decisions.)
//!
//! Open addressing with linear probing, at most half full; removal shifts the run back, so there are no tombstones.

use std::hash::{Hash, Hasher};

use super::Full;

#[derive(Debug)]
pub(super) struct Index<K, V> {
    /// Where in `entries` the key is whose place this is, and 1; 0: nowhere. Twice as many as entries, so they are small.
    places: Vec<u32>,
    entries: Vec<(K, V)>,
    mask: usize,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V: Copy> Index<K, V> {
    pub fn with_capacity(capacity: u32) -> Self {
        let capacity = capacity as usize;
        let size = (capacity * 2).next_power_of_two().max(2);
        Self { places: vec![0; size], entries: Vec::with_capacity(capacity), mask: size - 1, capacity }
    }

    pub fn get(&self, key: K) -> Option<V> {
        self.entry(self.find(key)).map(|at| self.entries[at].1)
    }

    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let at = self.entry(self.find(key))?;
        Some(&mut self.entries[at].1)
    }

    /// Adds or replaces.
    pub fn insert(&mut self, key: K, value: V) -> Result<(), Full> {
        let place = self.find(key);
        if let Some(at) = self.entry(place) {
            self.entries[at].1 = value;
            return Ok(());
        }
        if self.entries.len() == self.capacity {
            return Err(Full);
        }
        self.entries.push((key, value));
        self.places[place] = u32::try_from(self.entries.len()).map_err(|_| Full)?;
        Ok(())
    }

    pub fn remove(&mut self, key: K) -> Option<V> {
        let mut hole = self.find(key);
        let at = self.entry(hole)?;
        // The last entry goes where the removed one was.
        let last = self.find(self.entries.last()?.0);
        self.places[last] = self.places[hole];
        self.places[hole] = 0;
        let (_, value) = self.entries.swap_remove(at);
        // Whoever was pushed past the hole by a collision moves back into it, so that probing never meets a false end.
        let mut place = hole;
        loop {
            place = (place + 1) & self.mask;
            let Some(other) = self.entry(place) else { return Some(value) };
            let displaced = place.wrapping_sub(self.home(self.entries[other].0)) & self.mask;
            let gap = place.wrapping_sub(hole) & self.mask;
            if displaced >= gap {
                self.places[hole] = std::mem::take(&mut self.places[place]);
                hole = place;
            }
        }
    }

    pub fn clear(&mut self) {
        self.places.fill(0);
        self.entries.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, V)> + '_ {
        self.entries.iter().copied()
    }

    /// Which entry a place leads to.
    fn entry(&self, place: usize) -> Option<usize> {
        (self.places[place] as usize).checked_sub(1)
    }

    /// The place of the key, or the free one that would be its. Ends because half of the places are free.
    fn find(&self, key: K) -> usize {
        let mut place = self.home(key);
        while self.entry(place).is_some_and(|at| self.entries[at].0 != key) {
            place = (place + 1) & self.mask;
        }
        place
    }

    fn home(&self, key: K) -> usize {
        let mut hasher = Fnv::default();
        key.hash(&mut hasher);
        usize::try_from(hasher.finish() & (self.mask as u64)).unwrap_or(0)
    }
}

/// FNV-1a, finished by a multiply and shift so that the low bits depend on all of it. No random seed: see above.
#[derive(Debug)]
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    proptest::proptest! {
        #[test]
        fn behaves_as_a_map_that_can_be_full(calls in proptest::collection::vec((0u8..3, 0u32..40, 0u32..9), 0..400)) {
            let (mut index, mut oracle) = (Index::with_capacity(16), HashMap::new());
            for (what, key, value) in calls {
                if what == 0 {
                    assert_eq!(index.remove(key), oracle.remove(&key));
                } else if index.insert(key, value).is_ok() {
                    oracle.insert(key, value);
                } else {
                    assert!(oracle.len() == 16 && !oracle.contains_key(&key));
                }
                assert_eq!(index.get(key), oracle.get(&key).copied());
                assert_eq!(index.get_mut(key).copied(), oracle.get(&key).copied());
                assert_eq!(index.iter().collect::<HashMap<_, _>>(), oracle);
            }
            index.clear();
            assert_eq!(index.iter().count(), 0);
        }
    }
}
