//! Inode numbers of the directories that the kernel knows of, and nothing else: what it forgets is forgotten here.
//!
//! A directory's number is a slot shifted by four; its files are the fifteen numbers after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::node::{Dir, File};

const SHIFT: u32 = 4;
/// The kernel's number for the mount point, which no file of slot 0 takes: it has none.
pub const ROOT: u64 = 1;
/// More directories than that at one time are refused: some 50 MB.
const MOST: usize = 1 << 18;
/// When it knows more than that the kernel is asked to forget. By itself it does so only when memory is short.
pub const ENOUGH: usize = 1 << 14;

/// The table.
#[derive(Debug)]
pub struct Tree {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_slot: HashMap<u64, Entry>,
    by_dir: HashMap<Arc<Dir>, u64>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    dir: Arc<Dir>,
    /// Look-ups that the kernel has not taken back, those of its files included.
    known: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { most: MOST, inner: Mutex::default() }
    }
}

/// The number of a file of this directory.
fn file_number(dir: u64, at: usize) -> u64 {
    dir + 1 + at as u64
}

impl Tree {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many directories the kernel knows.
    pub fn known(&self) -> usize {
        self.lock().by_slot.len()
    }

    /// What has this number.
    pub fn place(&self, number: u64) -> Option<(Arc<Dir>, Option<File>)> {
        if number == ROOT {
            return Some((Arc::new(Dir::Root), None));
        }
        let dir = Arc::clone(&self.lock().by_slot.get(&(number >> SHIFT))?.dir);
        let at = usize::try_from(number & ((1 << SHIFT) - 1)).ok()?;
        match at.checked_sub(1) {
            None => Some((dir, None)),
            Some(at) => {
                let file = *dir.files().get(at)?;
                Some((dir, Some(file)))
            }
        }
    }

    /// One look-up more of this directory, or of a file in it. `None`: the table is full.
    pub fn look_up(&self, dir: Dir, file: Option<usize>) -> Option<u64> {
        let mut inner = self.lock();
        let slot = match inner.by_dir.get(&dir) {
            Some(&slot) => slot,
            None if inner.by_slot.len() >= self.most => return None,
            None => {
                inner.last += 1;
                let (slot, dir) = (inner.last, Arc::new(dir));
                inner.by_dir.insert(Arc::clone(&dir), slot);
                inner.by_slot.insert(slot, Entry { dir, known: 0 });
                slot
            }
        };
        inner.by_slot.get_mut(&slot)?.known += 1;
        let dir = slot << SHIFT;
        Some(file.map_or(dir, |at| file_number(dir, at)))
    }

    /// The kernel takes so many look-ups back.
    pub fn forget(&self, number: u64, times: u64) {
        let mut inner = self.lock();
        let slot = number >> SHIFT;
        let Some(entry) = inner.by_slot.get_mut(&slot) else { return };
        entry.known = entry.known.saturating_sub(times);
        if entry.known == 0 {
            let dir = Arc::clone(&entry.dir);
            inner.by_slot.remove(&slot);
            inner.by_dir.remove(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> Dir {
        Dir::Group(name.as_bytes().into())
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let tree = Tree::default();
        let dir = tree.look_up(group("a"), None).unwrap();
        let last = crate::node::OF_GROUP.len() - 1;
        let file = tree.look_up(group("a"), Some(last)).unwrap();
        assert_eq!(tree.place(file), Some((Arc::new(group("a")), Some(File::Events))));
        assert_eq!(tree.place(dir), Some((Arc::new(group("a")), None)));
        assert_eq!(tree.place(file + 1), None, "that is the last");
        tree.forget(dir, 1);
        assert!(tree.place(dir).is_some(), "a file of it is still known");
        tree.forget(file, 1);
        assert_eq!(tree.place(dir), None);
        assert!(tree.known() == 0 && tree.lock().by_dir.is_empty());
    }

    #[test]
    fn bounded() {
        let tree = Tree { most: 2, inner: Mutex::default() };
        let first = tree.look_up(group("a"), None).unwrap();
        assert!(tree.look_up(group("b"), None).is_some());
        assert_eq!(tree.look_up(group("c"), None), None);
        assert_eq!(tree.look_up(group("a"), None), Some(first), "who is known is not refused");
        tree.forget(first, 2);
        let next = tree.look_up(group("c"), None).unwrap();
        assert_ne!(next, first, "a number is not given twice");
    }

    #[test]
    fn the_root_is_always_there() {
        let tree = Tree::default();
        tree.forget(ROOT, 99);
        assert_eq!(tree.place(ROOT), Some((Arc::new(Dir::Root), None)));
        assert_eq!(tree.place(0), None);
    }
}
