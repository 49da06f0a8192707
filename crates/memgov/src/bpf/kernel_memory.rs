//! The live counter of a group's kernel memory against the kernel's own file: where it starts, and how it is put right.
//!
//! The programs add and take away while this reads, so the counter is never stored, only added to: nothing that happens at the same moment is
//! lost. The file is read between two looks at the counter; where those are far apart it says too little about either, and nothing is
//! done.

#[cfg(feature = "bpf")]
use super::{Hot, Maps};
#[cfg(feature = "bpf")]
use crate::kernel::Errno;
use crate::kernel::sys;
#[cfg(feature = "bpf")]
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::Bytes;
#[cfg(feature = "bpf")]
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

/// What came of comparing a live counter with the kernel's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeding {
    /// They agree as far as can be said.
    Agrees,
    /// So many bytes were added to the counter.
    Corrected(i64),
    /// Too much happened between the two looks; to be tried again.
    Busy,
}

/// What must be added to a counter that said `before` and `after` a reading of `file`. All in one unit, as the result.
///
/// `spread`: the looks may be so far apart. `lateness`: the file may be so far from the truth of its moment, beside what changed
/// between the looks; less than that is no reason to change anything.
pub fn correction(before: i64, file: i64, after: i64, spread: i64, lateness: i64) -> Seeding {
    let (low, high) = (before.min(after), before.max(after));
    if high.saturating_sub(low) > spread {
        return Seeding::Busy;
    }
    let within = (low.saturating_sub(lateness)..=high.saturating_add(lateness)).contains(&file);
    let middle = low.saturating_add((high - low) / 2);
    match file.saturating_sub(middle) {
        _ if within => Seeding::Agrees,
        0 => Seeding::Agrees,
        more => Seeding::Corrected(more),
    }
}

/// How late `kernel` of `memory.stat` can be, in bytes: the kernel leaves 64 changes with each of `cpus` processors, and adds
/// them up for a reader when there are more than that for each (`MEMCG_CHARGE_BATCH` in mm/memcontrol.c), or else every 2 s.
/// `memory.kmem.usage_in_bytes` of v1 is not late: 0.
pub fn stat_lateness(cpus: u32) -> Bytes {
    Bytes(2 * 64 * u64::from(cpus) * sys::page_size())
}

/// Two looks may be so many pages apart (1 MiB in pages of 4 KiB): what a fork bomb takes in a few milliseconds.
#[cfg(feature = "bpf")]
const SPREAD_AT_SEEDING: i64 = 256;
/// Later there is time to wait for a quiet moment.
#[cfg(feature = "bpf")]
const SPREAD: i64 = 16;

#[cfg(feature = "bpf")]
impl Maps {
    /// Kernel memory of a group and all below it, live: `kernel` of `memory.stat` (v1: `memory.kmem.usage_in_bytes`) without its delay.
    /// `None`: it has no line for it, or is not seeded (again). (hot)
    pub fn kernel_usage(&self, id: GroupId) -> Option<Bytes> {
        let slot = self.slot(id).ok()??;
        if slot.kernel_seeded.load(Acquire) == 0 {
            return None;
        }
        let pages = u64::try_from(slot.kernel_pages.load(Acquire)).unwrap_or(0);
        Some(Bytes(pages.saturating_mul(sys::page_size())))
    }

    /// Starts a group's counter: adds what was there before anybody counted, as the kernel's file says, which `read` gives. The counting
    /// program must be attached ([`super::Hook::Kernel`]) and the line be set. From then on [`Maps::kernel_usage`] answers and the
    /// line is enforced. Also resets one that has gone wrong. `NOENT`: the group has no line. (hot, as far as `read` is)
    pub fn seed_kernel(&self, id: GroupId, read: &mut dyn FnMut() -> Hot<Bytes>) -> Hot<Seeding> {
        let seeding = self.compare(id, SPREAD_AT_SEEDING, 0, read)?;
        if seeding != Seeding::Busy
            && let Some(slot) = self.slot(id)?
        {
            slot.nothing_pending();
            slot.kernel_seeded.store(1, Release);
        }
        Ok(seeding)
    }

    /// Compares a running counter with the kernel's file and puts it right, if the file says something else than the counter did before and
    /// after by more than `lateness`: see [`super::stat_lateness`]. `NOENT`: no line; `AGAIN`: not seeded. (hot, as far as `read` is)
    pub fn sync_kernel(
        &self,
        id: GroupId,
        lateness: Bytes,
        read: &mut dyn FnMut() -> Hot<Bytes>,
    ) -> Hot<Seeding> {
        let seeded = self.slot(id)?.ok_or(Errno::NOENT)?.kernel_seeded.load(Acquire) != 0;
        if !seeded {
            return Err(Errno::AGAIN);
        }
        if let Some(slot) = self.slot(id)? {
            slot.forget_what_never_ended();
        }
        self.compare(id, SPREAD, in_pages(lateness), read)
    }

    fn compare(
        &self,
        id: GroupId,
        spread: i64,
        lateness: i64,
        read: &mut dyn FnMut() -> Hot<Bytes>,
    ) -> Hot<Seeding> {
        let slot = self.slot(id)?.ok_or(Errno::NOENT)?;
        let before = slot.kernel_pages.load(Acquire);
        let file = in_pages(read()?);
        let after = slot.kernel_pages.load(Acquire);
        let seeding = correction(before, file, after, spread, lateness);
        let Seeding::Corrected(pages) = seeding else { return Ok(seeding) };
        // Added, not stored: what is counted at this moment stays counted.
        slot.kernel_pages.fetch_add(pages, AcqRel);
        let page = i64::try_from(sys::page_size()).unwrap_or(4096);
        Ok(Seeding::Corrected(pages.saturating_mul(page)))
    }

    /// Nobody has counted for a while: every counter has to be seeded anew, and until then no line is enforced.
    pub(super) fn forget_kernel(&self) {
        for slot in self.slots.iter() {
            slot.kernel_seeded.store(0, Release);
        }
    }
}

#[cfg(feature = "bpf")]
fn in_pages(bytes: Bytes) -> i64 {
    i64::try_from(bytes.pages(Bytes(sys::page_size()))).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_counter_becomes_what_the_file_says() {
        assert_eq!(correction(0, 700, 0, 16, 0), Seeding::Corrected(700));
        assert_eq!(correction(900, 700, 900, 16, 0), Seeding::Corrected(-200));
        assert_eq!(correction(-5, 700, -5, 16, 0), Seeding::Corrected(705));
        assert_eq!(correction(700, 700, 700, 16, 0), Seeding::Agrees);
    }

    #[test]
    fn what_changed_meanwhile_is_no_error() {
        for file in 700..=710 {
            assert_eq!(correction(700, file, 710, 16, 0), Seeding::Agrees, "{file}");
            assert_eq!(correction(710, file, 700, 16, 0), Seeding::Agrees, "{file}");
        }
        assert_eq!(correction(700, 750, 710, 16, 0), Seeding::Corrected(45));
    }

    #[test]
    fn nothing_is_done_where_too_much_changed() {
        assert_eq!(correction(700, 9000, 717, 16, 0), Seeding::Busy);
        assert_eq!(correction(717, 9000, 700, 16, 0), Seeding::Busy);
        assert_eq!(correction(i64::MIN, 0, i64::MAX, 16, 0), Seeding::Busy);
    }

    #[test]
    fn a_late_file_changes_nothing() {
        assert_eq!(correction(700, 572, 700, 16, 128), Seeding::Agrees);
        assert_eq!(correction(700, 828, 700, 16, 128), Seeding::Agrees);
        assert_eq!(correction(700, 571, 700, 16, 128), Seeding::Corrected(-129));
    }

    #[test]
    fn a_correction_agrees_afterwards_whatever_was_added_meanwhile() {
        for (before, file, after) in [(0, 100, 3), (50, 10, 47), (-20, 5, -20)] {
            let Seeding::Corrected(more) = correction(before, file, after, 16, 0) else {
                panic!("no correction")
            };
            for later in [-7, 0, 9] {
                // The kernel's truth and the counter change by the same.
                assert_eq!(
                    correction(before + more + later, file + later, after + more + later, 16, 0),
                    Seeding::Agrees
                );
            }
        }
    }
}
