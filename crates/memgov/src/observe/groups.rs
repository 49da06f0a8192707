//! Rows of control groups: opened once, read again and again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use memgov_decide::governor::Governor;
use memgov_decide::pressure::Stall;
use memgov_decide::snapshot::{Group, GroupId, GroupSlot, Snapshot};
use memgov_decide::units::Time;

use super::discovery::ControlledLines;
use super::lines::{Alarm, Lines};
use super::overlay::{At, Overlay};
use super::pressure;
use super::sentry::{OrderId, Refused, Sentry};
use super::wake::Wake;
use crate::kernel::cgroup::{StrainReading, Tap};
use crate::kernel::notify::Threshold;
use crate::kernel::psi::Trigger;
use crate::kernel::vmstat::Vmstat;
use crate::kernel::{Errno, Error, GroupDir, Layout, MemoryVersion, Reading, sys};
use crate::record::trace::Tape;

/// v1 thresholds of one group, at most. A group with more lines is sampled.
const MAX_THRESHOLDS: usize = 4;
/// Limits and counters are read again at least so often, and sooner when an event says so (on v1 none does, and only the limit
/// itself is read, for the ceiling of a slowdown).
const LIMITS_AGE: Duration = Duration::from_secs(10);
/// How a group fares is read no more often, however often it is looked at.
const STRAIN_AGE: Duration = memgov_decide::working_set::DUE;

#[derive(Debug)]
struct Row {
    dir: GroupDir,
    alarm: Alarm,
    lines: Lines,
    thresholds: Vec<Threshold>,
    /// Tells when its tasks wait for memory.
    trigger: Option<Trigger>,
    /// v1: the thresholds that were ordered last.
    ordered: Option<OrderId>,
    limits_read: Time,
    limits_stale: bool,
    /// When its processes are listed next; `FAR` while nobody wants them.
    sweep: Time,
    /// Where the last pass over all groups that found it has put it.
    overlaid: Option<At>,
}

/// What observe holds for each row of the group table.
#[derive(Debug)]
pub(super) struct GroupRows {
    /// Boxed: a new group allocates anyway, and a place that nobody needs costs little.
    rows: Vec<Option<Box<Row>>>,
    by_path: HashMap<Arc<[u8]>, GroupSlot>,
    by_id: HashMap<GroupId, GroupSlot>,
    next_sweep: Time,
    /// v1: rows whose alarm is still to be ordered, and who sets those that were.
    unarmed: Vec<GroupSlot>,
    sentry: Sentry,
    /// Pressure triggers with a thread of the kernel's.
    triggers: usize,
    vmstat: Vmstat,
}

impl GroupRows {
    pub(super) fn with_capacity(capacity: u32) -> Self {
        let rows = (0..capacity).map(|_| None).collect();
        Self {
            rows,
            by_path: HashMap::with_capacity(capacity as usize),
            by_id: HashMap::with_capacity(capacity as usize),
            next_sweep: Time::FAR,
            unarmed: Vec::new(),
            sentry: Sentry::default(),
            triggers: 0,
            vmstat: Vmstat::default(),
        }
    }

    pub(super) fn dir(&self, slot: GroupSlot) -> Option<&GroupDir> {
        self.rows.get(slot.0 as usize)?.as_ref().map(|row| &row.dir)
    }

    pub(super) fn slot(&self, path: &[u8]) -> Option<GroupSlot> {
        self.by_path.get(path).copied()
    }

    /// The row of a group, also one that was just found to be gone.
    pub(super) fn slot_of(&self, id: GroupId) -> Option<GroupSlot> {
        self.by_id.get(&id).copied()
    }

    /// Opens a group that has no row yet. `Ok(None)`: it is gone again, or the table is full (counted).
    pub(super) fn open(
        &mut self,
        layout: &Layout,
        path: &[u8],
        snap: &mut Snapshot,
        lines: Lines,
        wake: &mut Wake,
        tape: &mut Tape,
    ) -> Result<Option<GroupSlot>, Error> {
        let mut dir = match GroupDir::open(layout, path) {
            Ok(dir) => dir,
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut group = Group::new(dir.id(), path);
        group.owner = dir.owner();
        group.parent = parent_of(path).and_then(|parent| self.slot(parent));
        let name = Arc::clone(&group.path);
        let Ok(index) = snap.groups.insert(group) else {
            snap.lost.groups += 1;
            return Ok(None);
        };
        let slot = GroupSlot(index);
        dir.keep_kernel(lines.kernel);
        dir.keep_sockets(lines.sockets);
        dir.keep_stat(lines.asks_for_cache());
        dir.keep_strain(lines.strain);
        dir.keep_stall(layout, path, lines.pressure.is_some());
        let mut row = Row {
            dir,
            alarm: Alarm::default(),
            thresholds: Vec::new(),
            trigger: None,
            ordered: None,
            lines,
            limits_read: Time(0),
            limits_stale: true,
            sweep: Time::FAR,
            overlaid: None,
        };
        match layout.version {
            MemoryVersion::V2 => row.watch_events(slot, wake),
            MemoryVersion::V1 => self.unarmed.push(slot),
        }
        row.watch_pressure(slot, wake, &mut self.triggers);
        if let Some(group) = snap.group(slot) {
            tape.group_new(slot, group);
        }
        self.by_id.insert(row.dir.id(), slot);
        self.rows[index as usize] = Some(Box::new(row));
        self.by_path.insert(name, slot);
        snap.touch_group(slot);
        Ok(Some(slot))
    }

    /// Sets alarms anew where the lines have changed, and tells `changed` of each.
    pub(super) fn rearm(
        &mut self,
        layout: &Layout,
        snap: &Snapshot,
        governor: &mut Governor,
        controls: &ControlledLines,
        wake: &mut Wake,
        changed: &mut dyn FnMut(&mut Governor, GroupSlot),
    ) {
        for (slot, row) in (0u32..).map(GroupSlot).zip(&mut self.rows) {
            let Some(row) = row else { continue };
            let Some(path) = snap.group(slot).map(|g| &g.path) else { continue };
            let lines = Lines::of(governor, controls, path);
            if lines != row.lines {
                row.lines = lines;
                row.dir.keep_kernel(row.lines.kernel);
                row.dir.keep_sockets(row.lines.sockets);
                row.dir.keep_stat(row.lines.asks_for_cache());
                row.dir.keep_strain(row.lines.strain);
                row.dir.keep_stall(layout, path, row.lines.pressure.is_some());
                row.watch_pressure(slot, wake, &mut self.triggers);
                row.limits_stale = true;
                match layout.version {
                    MemoryVersion::V2 => row.watch_events(slot, wake),
                    MemoryVersion::V1 => {
                        row.disarm(slot, wake);
                        self.unarmed.push(slot);
                    }
                }
                changed(governor, slot);
            }
        }
    }

    /// Whether alarms are still to be set.
    pub(super) fn has_unarmed(&self) -> bool {
        !self.unarmed.is_empty() || self.sentry.is_busy()
    }

    /// v1: orders the alarms that are still to be set, and takes in those that are; tells of each: its line may have been crossed meanwhile.
    pub(super) fn arm(&mut self, wake: &mut Wake, armed: &mut dyn FnMut(GroupSlot)) {
        while let Some(slot) = self.unarmed.pop() {
            let Some(Some(row)) = self.rows.get_mut(slot.0 as usize) else { continue };
            if row.order_thresholds(slot, &mut self.sentry) == Err(Refused::Full) {
                self.unarmed.push(slot);
                break;
            }
        }
        while let Some(posted) = self.sentry.posted() {
            let row = self.rows.get_mut(posted.slot.0 as usize).and_then(Option::as_mut);
            let Some(row) = row.filter(|row| row.ordered == Some(posted.id)) else { continue };
            row.ordered = None;
            let heard =
                posted.thresholds.iter().all(|threshold| wake.watch_threshold(posted.slot, threshold));
            row.alarm = Alarm { set: posted.whole && heard, ..Alarm::default() };
            row.thresholds = posted.thresholds;
            armed(posted.slot);
        }
    }

    /// Whether the group of a row still exists.
    pub(super) fn is_there(&self, slot: GroupSlot) -> bool {
        self.dir(slot).is_some_and(GroupDir::exists)
    }

    /// Marks the rows of groups that are gone without anybody having told.
    pub(super) fn check(&mut self, snap: &mut Snapshot, tape: &mut Tape) {
        for index in 0..self.rows.len() {
            let slot = GroupSlot(u32::try_from(index).unwrap_or(u32::MAX));
            if self.rows[index].is_some() && !self.is_there(slot) {
                if let Some(path) = snap.group(slot).map(|g| Arc::clone(&g.path)) {
                    self.forget_path(&path);
                }
                self.gone(slot, snap, tape);
            }
        }
    }

    /// Empties a threshold's counter; it would wake the loop for ever otherwise.
    pub(super) fn drain_threshold(&mut self, slot: GroupSlot) {
        if let Some(Some(row)) = self.rows.get_mut(slot.0 as usize) {
            // A group that was removed makes its thresholds readable for ever: they are closed.
            row.thresholds.retain(|threshold| threshold.crossed().is_ok());
        }
    }

    /// A path now means nobody, though its row lives on until the next tick.
    pub(super) fn forget_path(&mut self, path: &[u8]) {
        self.by_path.remove(path);
    }

    /// Closes a row whose group is gone.
    pub(super) fn close(&mut self, slot: GroupSlot, path: &[u8], wake: &mut Wake) {
        if let Some(row) = self.rows.get_mut(slot.0 as usize).and_then(Option::take) {
            self.triggers -= usize::from(row.trigger.is_some());
            if self.slot_of(row.dir.id()) == Some(slot) {
                self.by_id.remove(&row.dir.id());
            }
        }
        wake.ignore_group(slot);
        wake.ignore_refusals(slot);
        if self.slot(path) == Some(slot) {
            self.by_path.remove(path);
        }
    }

    /// An event says that limits may have changed.
    pub(super) fn limits_stale(&mut self, slot: GroupSlot) {
        if let Some(Some(row)) = self.rows.get_mut(slot.0 as usize) {
            row.limits_stale = true;
        }
    }

    /// Reads many groups at once, if so many are due that it pays: where a row is in what was read.
    pub(super) fn lay(&mut self, overlay: &mut Overlay, due: usize, now: Time) {
        let Self { rows, by_id, .. } = self;
        overlay.lay(due, now, &mut |id, at| {
            if let Some(slot) = by_id.get(&id)
                && let Some(Some(row)) = rows.get_mut(slot.0 as usize)
            {
                row.overlaid = Some(at);
            }
        });
    }

    /// Reads one group.
    pub(super) fn look(
        &mut self,
        slot: GroupSlot,
        snap: &mut Snapshot,
        buffer: &mut [u8],
        governor: &Governor,
        overlay: &Overlay,
        tape: &mut Tape,
    ) {
        let at = snap.at;
        let Some(Some(row)) = self.rows.get_mut(slot.0 as usize) else { return };
        let Some(group) = snap.groups.get_mut(slot.0) else { return };
        let mut reading = Reading {
            usage: None,
            kernel: None,
            sockets: None,
            sockets_apart: row.dir.version() == MemoryVersion::V1,
            reclaimable: None,
            high: group.high,
            max: group.max,
            events: group.events,
            oom_group: group.oom_group,
            under_oom: None,
        };
        let result = match row.overlaid(overlay) {
            Some(found) => {
                reading = Reading { sockets_apart: reading.sockets_apart, ..found };
                (row.limits_read, row.limits_stale) = (at, false);
                tape.group_overlay(slot, &reading);
                Ok(())
            }
            None => row.read(at, buffer, &mut reading, &mut |name, text| tape.group_file(slot, name, text)),
        };
        let result = result.and_then(|()| {
            reading.kernel =
                row.dir.read_kernel(buffer, &mut |name, text| tape.group_file(slot, name, text))?;
            reading.sockets =
                row.dir.read_sockets(buffer, &mut |name, text| tape.group_file(slot, name, text))?;
            if row.lines.may_be_short(&reading) {
                reading.reclaimable =
                    row.dir.read_reclaimable(buffer, &mut |name, text| tape.group_file(slot, name, text))?;
            }
            Ok(())
        });
        let result = result.and_then(|()| {
            if at.since(group.strain_at) >= STRAIN_AGE {
                let strain =
                    row.dir.read_strain(buffer, &mut |name, text| tape.group_file(slot, name, text))?;
                if let Some(StrainReading { strain, reserved }) = strain {
                    (group.strain, group.strain_at, group.reserved) = (strain, at, reserved);
                }
            }
            Ok(())
        });
        let result = result.and_then(|()| {
            if let Some(stall) = row.dir.read_stall(at, &mut self.vmstat, buffer)? {
                group.stall = Stall { watched: row.trigger.is_some(), ..stall };
                tape.stall(Some(slot), &group.stall);
            }
            Ok(())
        });
        group.read_at = at;
        match result {
            Ok(()) => {
                reading.fill(group, governor.virtual_high(&group.path));
                group.watched = row.alarm.covers(&reading, row.dir.version());
            }
            Err(Errno::NODEV | Errno::NOENT) => {
                group.gone = true;
                tape.group_gone(slot);
            }
            // Unreadable now (EIO, a torn file system): unknown, not zero.
            Err(_) => {
                tape.group_file(slot, crate::kernel::cgroup::UNREADABLE, b"");
                (group.usage, group.kernel, group.reclaimable) = (None, None, None);
                group.sockets = None;
                group.stall = Stall::default();
            }
        }
        if row.lines.job {
            row.read_preference(slot, group, tape);
        }
        snap.touch_group(slot);
    }

    /// A group's directory is gone.
    pub(super) fn gone(&mut self, slot: GroupSlot, snap: &mut Snapshot, tape: &mut Tape) {
        if let Some(group) = snap.groups.get_mut(slot.0)
            && !group.gone
        {
            group.gone = true;
            tape.group_gone(slot);
            snap.touch_group(slot);
        }
    }

    /// When the next listing of processes is due.
    pub(super) const fn sweep_due(&self) -> Time {
        self.next_sweep
    }

    /// Groups whose processes are to be listed now, into `due`. `again` says when they are listed next.
    pub(super) fn sweeps(
        &mut self,
        now: Time,
        again: Duration,
        wanted: &dyn Fn(GroupSlot) -> bool,
        due: &mut Vec<GroupSlot>,
    ) {
        due.clear();
        self.next_sweep = Time::FAR;
        for (index, row) in (0u32..).zip(&mut self.rows) {
            let Some(row) = row else { continue };
            if !wanted(GroupSlot(index)) {
                row.sweep = Time::FAR;
                continue;
            }
            // Wanted anew, or time is up.
            if row.sweep == Time::FAR || row.sweep <= now {
                due.push(GroupSlot(index));
                row.sweep = now + again;
            }
            self.next_sweep = self.next_sweep.min(row.sweep);
        }
    }
}

impl Row {
    /// What the pass of this look says. Only of a row that was read by its files once, and has them: they say whether the group has the
    /// memory controller at all.
    fn overlaid(&self, overlay: &Overlay) -> Option<Reading> {
        let known = self.limits_read != Time(0) && self.dir.has_memory();
        let found = || overlay.reading(self.overlaid, self.dir.id(), self.dir.version());
        known.then(found).flatten()
    }

    /// Reads its files: usage, and from time to time the rest.
    fn read(
        &mut self,
        at: Time,
        buffer: &mut [u8],
        reading: &mut Reading,
        tap: Tap<'_>,
    ) -> Result<(), Errno> {
        if !self.limits_stale && at.since(self.limits_read) < LIMITS_AGE {
            return self.dir.read_usage(buffer, reading, tap);
        }
        (self.limits_read, self.limits_stale) = (at, false);
        self.dir.read(buffer, reading, tap)?;
        self.dir.read_limits(buffer, reading, tap)
    }

    /// What it asks for itself: of jobs, each time they are looked at, so that an attribute counts from the next shortage on.
    fn read_preference(&self, slot: GroupSlot, group: &mut Group, tape: &mut Tape) {
        let (preference, owner) = self.dir.preference();
        if (preference, owner) != (group.preference, group.owner) {
            (group.preference, group.owner) = (preference, owner);
            tape.group_preference(slot, group);
        }
    }

    fn disarm(&mut self, slot: GroupSlot, wake: &mut Wake) {
        self.thresholds.clear();
        self.ordered = None;
        self.alarm = Alarm::default();
        wake.ignore_group(slot);
    }

    /// Arranges to be told when its tasks wait for memory. Beyond some groups it is not, for each takes a thread of the kernel's: the others are sampled.
    fn watch_pressure(&mut self, slot: GroupSlot, wake: &Wake, triggers: &mut usize) {
        // Closing it takes it out of epoll.
        *triggers -= usize::from(self.trigger.take().is_some());
        let Some((share, file)) = self.lines.pressure.zip(self.dir.pressure_file()) else { return };
        if *triggers < pressure::QUICK_ONES {
            let armed = pressure::quick(file, share);
            self.trigger = armed.filter(|trigger| wake.watch_pressure_of(slot, trigger));
            *triggers += usize::from(self.trigger.is_some());
        }
    }

    /// v2: arranges to be told when usage crosses the high of this group.
    fn watch_events(&mut self, slot: GroupSlot, wake: &mut Wake) {
        self.disarm(slot, wake);
        self.alarm = Alarm {
            set: self.dir.events_file().is_some_and(|name| wake.watch_events(slot, &self.dir, name)),
            amount: self.lines.amounts.first().copied(),
            blind: self.lines.virtual_high,
        };
    }

    /// v1: orders a threshold on each line of this group. One with more lines than that goes on being sampled.
    fn order_thresholds(&mut self, slot: GroupSlot, sentry: &mut Sentry) -> Result<(), Refused> {
        let lines = self.lines.all();
        if (lines.is_empty() && !self.lines.waits) || lines.len() > MAX_THRESHOLDS {
            return Ok(());
        }
        // A threshold fires when usage reaches it; being over begins a page later.
        let at = lines.iter().map(|line| line.0.saturating_add(sys::page_size())).collect();
        self.ordered = Some(sentry.order(slot, self.dir.dir(), at, self.lines.waits)?);
        Ok(())
    }
}

/// The group above, if it is not the root.
pub(super) fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let cut = path.iter().rposition(|&b| b == b'/')?;
    (cut > 0).then(|| &path[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_end_below_the_root() {
        assert_eq!(parent_of(b"/a/b"), Some(b"/a".as_slice()));
        assert_eq!(parent_of(b"/a"), None);
        assert_eq!(parent_of(b"/"), None);
    }
}
