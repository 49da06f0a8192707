//! A hash map of fixed size: everything is allocated by [`Index::with_capacity`], what does not fit is refused, and the
//! order of iteration depends on nothing but the calls before it. (`std`'s map may grow while tombstones pile up and
//! iterates in a random order: neither is acceptable where memory is short and replay must give the same decisions.)
//!
//! Open addressing with linear probing, at most half full; removal shifts the run back, so there are no tombstones.

use std::hash::{Hash, Hasher};

use super::Full;

#[derive(Debug)]
pub(super) struct Index<K, V> {
    slots: Vec<Option<(K, V)>>,
    mask: usize,
    len: usize,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V: Copy> Index<K, V> {
    pub fn with_capacity(capacity: u32) -> Self {
        let capacity = capacity as usize;
        let size = (capacity * 2).next_power_of_two().max(2);
        Self { slots: vec![None; size], mask: size - 1, len: 0, capacity }
    }

    pub fn get(&self, key: K) -> Option<V> {
        self.slots[self.find(key)].map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let at = self.find(key);
        self.slots[at].as_mut().map(|(_, value)| value)
    }

    /// Adds or replaces.
    pub fn insert(&mut self, key: K, value: V) -> Result<(), Full> {
        let at = self.find(key);
        if self.slots[at].is_none() {
            if self.len == self.capacity {
                return Err(Full);
            }
            self.len += 1;
        }
        self.slots[at] = Some((key, value));
        Ok(())
    }

    pub fn remove(&mut self, key: K) -> Option<V> {
        let mut hole = self.find(key);
        let (_, value) = self.slots[hole].take()?;
        self.len -= 1;
        // Whoever was pushed past the hole by a collision moves back into it, so that probing never meets a false end.
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let Some((other, _)) = self.slots[at] else { return Some(value) };
            let displaced = at.wrapping_sub(self.home(other)) & self.mask;
            let gap = at.wrapping_sub(hole) & self.mask;
            if displaced >= gap {
                self.slots[hole] = self.slots[at].take();
                hole = at;
            }
        }
    }

    pub fn clear(&mut self) {
        self.slots.fill(None);
        self.len = 0;
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, V)> + '_ {
        self.slots.iter().flatten().copied()
    }

    /// Where the key is, or the free place where it would go. Ends because half of the places are free.
    fn find(&self, key: K) -> usize {
        let mut at = self.home(key);
        while self.slots[at].is_some_and(|(other, _)| other != key) {
            at = (at + 1) & self.mask;
        }
        at
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
