//! Kernel memory of groups, counted live: started from the kernel's own file, and compared with it now and then.

use std::time::Duration;

use memgov_decide::snapshot::{GroupId, GroupSlot};
use memgov_decide::units::{Bytes, Time};

use super::{Inside, ToldGroup};
use crate::bpf::{Seeding, stat_lateness};
use crate::kernel::{Errno, GroupDir, MemoryVersion, sys};

/// Between two comparisons of a running counter.
const INTERVAL: Duration = Duration::from_secs(2);

impl Inside {
    /// Groups with a line for kernel memory whose counter is not started: to be looked at.
    pub fn each_uncounted(&self, f: &mut dyn FnMut(GroupSlot)) {
        for (slot, told) in (0u32..).zip(&self.groups) {
            if let Some(told) = told.as_ref().filter(|told| wants(told))
                && self.maps.kernel_usage(told.id).is_none()
            {
                f(GroupSlot(slot));
            }
        }
    }

    /// Starts the counter of a group that has a line for kernel memory, or puts it right. What is too busy for that comes again with the next
    /// look; until it is started the line is met from outside. Whether it runs, and crossing the line is told.
    pub fn count_kernel(&mut self, slot: GroupSlot, id: GroupId, dir: &GroupDir, now: Time) -> bool {
        let Some(Some(told)) = self.groups.get_mut(slot.0 as usize) else { return false };
        if !self.counts || told.id != id || !wants(told) {
            return false;
        }
        let mut read =
            || dir.read_kernel(&mut [0; 512], &mut |_, _| {}).and_then(|bytes| bytes.ok_or(Errno::IO));
        if self.maps.kernel_usage(id).is_none() {
            let _ = self.maps.seed_kernel(id, &mut read);
            told.compared = now;
        } else if now.since(told.compared) >= INTERVAL {
            let late = match dir.version() {
                MemoryVersion::V1 => Bytes(0),
                MemoryVersion::V2 => stat_lateness(sys::cpus()),
            };
            if self.maps.sync_kernel(id, late, &mut read) != Ok(Seeding::Busy) {
                told.compared = now;
            }
        }
        self.maps.kernel_usage(id).is_some()
    }
}

fn wants(told: &ToldGroup) -> bool {
    told.told.is_some_and(|limit| limit.kernel.is_some() || limit.kernel_tell.is_some())
}
