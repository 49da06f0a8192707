//! Many groups read at once: where a program inside the kernel can visit them all in one pass, rows that are due take their readings
//! from it and not from a file each. An overlay: files remain what a row is opened and first read by, what a row that the pass did not give is read
//! by, and what notices that a group is gone.
//!
//! A pass waits for a lock in the kernel that others hold while they make and remove groups, which a file does not. So it is made
//! for crowds only, and not again for a while when one was slow or failed.

use std::time::Duration;

use memgov_decide::snapshot::{Events, GroupId};
use memgov_decide::units::Time;

use crate::bpf::{GroupPass, GroupRecord};
use crate::kernel::{MemoryVersion, Reading, sys};

/// A pass is three system calls, 32 KiB that the kernel allocates, and a lock. In system calls it is less than files from 4 rows on, in time
/// from some 30 (`bpf_groups_cost_three_system_calls_a_pass` on 6.1 and 6.12, emulated). With fewer rows due, files are read.
const FEWEST: usize = 32;
/// It visits all groups of the host, each in a third to a half of the time of a `pread`: at least one of so many must be due.
const SHARE: u64 = 2;
/// A pass that takes longer than this had to wait for somebody, ...
const SLOW: Duration = Duration::from_millis(50);
/// ... and then files are read for so long.
const REST: Duration = Duration::from_secs(30);

/// Where a row's record is, and of which pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pass: u64,
    record: u32,
}

/// The passes.
#[derive(Default)]
pub(super) struct Overlay {
    source: Option<GroupPass>,
    /// Groups that the last pass visited.
    seen: u64,
    /// Counts passes; records of another than this are old.
    pass: u64,
    /// The last pass belongs to the look that is going on.
    current: bool,
    rests_until: Time,
}

impl Overlay {
    pub(super) fn over(source: GroupPass) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    /// Makes a pass if it is worth it for so many rows, and tells `found` where the record of each group is.
    pub(super) fn lay(&mut self, due: usize, now: Time, found: &mut dyn FnMut(GroupId, At)) {
        if !worth(due, self.seen) || now < self.rests_until {
            return;
        }
        let Some(source) = &mut self.source else { return };
        let begin = sys::now();
        let result = source.read();
        if result.is_err() || sys::now().since(begin) > SLOW {
            self.rests_until = now + REST;
        }
        let Ok(seen) = result else { return };
        (self.seen, self.current) = (seen, true);
        self.pass += 1;
        for (record, id) in source.ids() {
            found(id, At { pass: self.pass, record });
        }
    }

    /// The look is over: what was read is not new any more.
    pub(super) fn lift(&mut self) {
        self.current = false;
    }

    /// What this look's pass says of a group.
    pub(super) fn reading(&self, at: Option<At>, id: GroupId, version: MemoryVersion) -> Option<Reading> {
        let at = at.filter(|at| self.current && at.pass == self.pass)?;
        let record = self.source.as_ref()?.record(at.record)?;
        (record.id == id).then(|| reading(&record, version))
    }
}

fn worth(due: usize, seen: u64) -> bool {
    due >= FEWEST && (due as u64).saturating_mul(SHARE) >= seen
}

/// As the files of this version would have filled it.
fn reading(record: &GroupRecord, version: MemoryVersion) -> Reading {
    let (usage, max) = (Some(record.usage), Some(record.max));
    match version {
        MemoryVersion::V2 => Reading {
            usage,
            kernel: None,
            sockets: None,
            sockets_apart: false,
            reclaimable: None,
            high: Some(record.high),
            max,
            events: record.events,
            oom_group: Some(record.oom_group),
            under_oom: None,
        },
        MemoryVersion::V1 => {
            let oom_kill = record.events.oom_kill;
            let events = Events { max: Some(record.failcnt), oom_kill, ..Events::default() };
            Reading { usage, max, events, oom_group: Some(false), ..Reading::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::units::{Bytes, Limit};

    #[test]
    fn only_a_crowd_is_worth_a_pass() {
        assert!(!worth(FEWEST - 1, 0));
        assert!(worth(FEWEST, 0) && worth(FEWEST, SHARE * 32));
        assert!(!worth(FEWEST, SHARE * 32 + 1));
        assert!(worth(1000, 1003));
    }

    #[test]
    fn without_a_source_nothing_is_overlaid() {
        let mut overlay = Overlay::default();
        overlay.lay(1000, Time(1), &mut |_, _| panic!("no pass can be made"));
        let at = Some(At { pass: 0, record: 0 });
        assert_eq!(overlay.reading(at, GroupId(1), MemoryVersion::V2), None);
    }

    #[test]
    fn each_version_gets_what_its_files_say() {
        let record = GroupRecord {
            id: GroupId(7),
            usage: Bytes(8192),
            high: Limit::At(Bytes(4096)),
            max: Limit::Max,
            swap: Bytes(0),
            failcnt: 5,
            events: Events { high: Some(1), max: Some(2), oom: Some(3), oom_kill: Some(4) },
            oom_group: true,
        };
        let two = reading(&record, MemoryVersion::V2);
        assert_eq!((two.high, two.events, two.oom_group), (Some(record.high), record.events, Some(true)));
        let one = reading(&record, MemoryVersion::V1);
        assert_eq!((one.high, one.max, one.oom_group), (None, Some(Limit::Max), Some(false)));
        assert_eq!(one.events, Events { max: Some(5), oom_kill: Some(4), ..Events::default() });
    }
}
