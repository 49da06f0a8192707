//! The watermark of each group whose kernel memory a rule has a line for. Nothing is decided by it.

use crate::kernel_memory::Watermark;
use crate::policy::Over;
use crate::snapshot::{GroupId, GroupSlot, Snapshot};
use crate::units::{Bytes, Time};

use super::Governor;
use super::look::{Part, line_of};

/// What is known of the kernel memory of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelMark {
    /// Who.
    pub id: GroupId,
    /// Its row.
    pub slot: GroupSlot,
    /// The lowest line that a rule has for it.
    pub line: Bytes,
    /// That is at or above the group's limit: nothing is done about it.
    pub only_tracks: bool,
    /// Peak, hits, growth; empty until it was read.
    pub mark: Watermark,
}

impl Governor {
    /// Takes in what was read of a group's kernel memory: what it holds, not what a refused call would have made of it, which the row may say in the
    /// same tick. A group that has not been decided on yet is left for its next reading.
    pub fn mark_kernel(&mut self, slot: GroupSlot, id: GroupId, at: Time, kernel: Bytes) {
        if let Some(state) = self.groups.get_mut(slot.0 as usize).filter(|state| state.id == Some(id)) {
            state.kernel_mark.observe(at, kernel);
        }
    }

    /// The watermarks of all groups that have a line for their kernel memory, in the order of rows.
    pub fn kernel_marks<'a>(&'a self, snap: &'a Snapshot) -> impl Iterator<Item = KernelMark> + 'a {
        (0u32..).zip(&self.groups).filter_map(|(slot, state)| {
            let slot = GroupSlot(slot);
            let row = snap.group(slot).filter(|row| !row.gone && state.id == Some(row.id))?;
            let lines = state.whole.iter().filter_map(|rule| line_of(&self.policy, rule, row, Part::Kernel));
            let line = lines.min()?;
            let only_tracks = Over::Kernel(line).only_tracks(row);
            Some(KernelMark { id: row.id, slot, line, only_tracks, mark: state.kernel_mark })
        })
    }

    /// What is kept of one group, if a rule has a line for its kernel memory.
    pub fn kernel_mark(&self, id: GroupId, snap: &Snapshot) -> Option<KernelMark> {
        self.kernel_marks(snap).find(|mark| mark.id == id)
    }

    /// Peak and hits of a group start anew; `false`: no rule has a line for its kernel memory.
    pub fn reset_kernel_mark(&mut self, id: GroupId, at: Time, snap: &Snapshot) -> bool {
        let slot = self.kernel_mark(id, snap).map(|mark| mark.slot);
        let state = slot.and_then(|slot| self.groups.get_mut(slot.0 as usize));
        state.map(|state| state.kernel_mark.reset(at)).is_some()
    }
}
