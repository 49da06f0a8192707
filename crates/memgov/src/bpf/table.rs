//! What user space keeps of groups with a slot: which slots are free, at which depths programs have to look, and which groups they have to look up. Plain
//! counting; the maps are elsewhere.

use std::collections::VecDeque;

use memgov_decide::snapshot::GroupId;

use super::MAX_LEVEL;
use super::record::ID_WORDS;

/// Which slots are free, and at which depths there are lines.
pub(super) struct Table {
    /// The one that was freed longest ago goes first: a program may still be looking at the others.
    pub free: VecDeque<u32>,
    /// For usage, and a high.
    pub usage: Depths,
    /// For kernel memory.
    pub kernel: Depths,
    /// How many groups with a slot have an id of each bit of [`ids`](super::record::Control::ids).
    ids: Vec<u32>,
}

/// How many groups at each depth have a line.
pub(super) struct Depths([u32; MAX_LEVEL as usize + 1]);

impl Table {
    /// All of them free.
    pub fn new(slots: u32) -> Self {
        let none = || Depths([0; MAX_LEVEL as usize + 1]);
        let ids = vec![0; ID_WORDS * 64];
        Self { free: (0..slots).collect(), usage: none(), kernel: none(), ids }
    }

    /// Counts a group with a slot, or one that has none any more; its word of [`ids`](super::record::Control::ids), and what that is now.
    pub fn note_id(&mut self, id: GroupId, comes: bool) -> (usize, u64) {
        let bits = self.ids.len() as u64;
        let at = usize::try_from(id.0 % bits).unwrap_or(0);
        let count = &mut self.ids[at];
        *count = (*count + u32::from(comes)).saturating_sub(u32::from(!comes));
        let word = at / 64;
        let counts = &self.ids[word * 64..][..64];
        (word, (0..64).zip(counts).filter(|(_, n)| **n > 0).fold(0, |bits, (n, _)| bits | 1 << n))
    }
}

impl Depths {
    /// Counts what a group has there now and had before.
    pub fn shift(&mut self, level: usize, had: bool, has: bool) {
        let count = &mut self.0[level];
        *count = (*count + u32::from(has)).saturating_sub(u32::from(had));
    }

    /// A bit for each depth that has any.
    pub fn bits(&self) -> u64 {
        self.0.iter().enumerate().filter(|(_, n)| **n > 0).fold(0, |bits, (n, _)| bits | 1 << n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_with_a_line_are_counted() {
        let mut depths = Table::new(3).usage;
        let mut shift = |level, had, has| {
            depths.shift(level, had, has);
            depths.bits()
        };
        assert_eq!(shift(2, false, true), 0b100);
        assert_eq!(shift(2, false, true), 0b100);
        assert_eq!(shift(63, false, true), 1 << 63 | 0b100);
        assert_eq!(shift(2, true, true), 1 << 63 | 0b100, "changed, not added");
        assert_eq!(shift(2, true, false), 1 << 63 | 0b100);
        assert_eq!(shift(2, true, false), 1 << 63);
        assert_eq!(shift(63, true, false), 0);
        assert_eq!(shift(5, false, false), 0);
    }

    #[test]
    fn ids_of_groups_with_a_slot_are_counted() {
        let mut table = Table::new(3);
        let bits = ID_WORDS as u64 * 64;
        assert_eq!(table.note_id(GroupId(65), true), (1, 0b10));
        assert_eq!(table.note_id(GroupId(bits + 65), true), (1, 0b10), "two of one bit");
        assert_eq!(table.note_id(GroupId(64), true), (1, 0b11));
        assert_eq!(table.note_id(GroupId(65), false), (1, 0b11));
        assert_eq!(table.note_id(GroupId(bits + 65), false), (1, 0b01));
        assert_eq!(table.note_id(GroupId(bits - 1), true), (ID_WORDS - 1, 1 << 63));
    }
}
