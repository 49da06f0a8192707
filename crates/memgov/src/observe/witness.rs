//! What programs inside the kernel have seen. Their events carry the reading that made them act, made in the instant of the
//! allocation: a crossing that is over before the loop comes to look has happened all the same. So a reading of
//! theirs counts for the tick it is heard in, where it is more than what was read; the next tick reads again.

use memgov_decide::governor::Governor;
use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessSlot, Rss, Snapshot};

use super::Observer;
use crate::bpf::{Event, EventKind};
use crate::record::trace::Tape;

impl Observer {
    /// Has the rows that events are about read in this tick; a process that nobody knew of gets a row. Gives how many were killed
    /// that have none and can get none any more.
    pub fn summon(
        &mut self,
        events: &[Event],
        snap: &mut Snapshot,
        governor: &mut Governor,
        tape: &mut Tape,
    ) -> u32 {
        let now = snap.at;
        let mut nobody = 0;
        for slot in self.processes.let_go() {
            set_killed(slot, false, snap, tape);
            // Its end may have been told while it was kept.
            governor.pace_hint_process(slot, now);
        }
        for event in events {
            if let Some(slot) = self.slot_about(snap, event) {
                governor.pace_hint_event(slot, now);
            }
            if event.kind == EventKind::OomEnter && event.group == GroupId(0) {
                // All of the machine is short, whatever was read a moment ago.
                governor.pace_hint_host(now);
            }
            if event.kind == EventKind::Exit {
                self.exited(event, snap, tape);
                continue;
            }
            if !is_about_a_process(event.kind) {
                continue;
            }
            match self.processes.slot(event.who.pid) {
                Some(slot) => governor.pace_hint_process(slot, now),
                // Born and over its line before anything else told of it: its control is its parent's.
                None if self.ensure_process(event.who.pid, snap, governor, tape).is_some() => {
                    self.adopt(event.who, snap, governor, tape);
                }
                None => {}
            }
            // What it met is decided on although it may be dead of it by now.
            if !matches!(event.kind, EventKind::Killed | EventKind::Signalled) {
                continue;
            }
            let slot = self.processes.slot(event.who.pid);
            match slot.filter(|slot| snap.process(*slot).is_some_and(|row| row.id == event.who)) {
                Some(slot) => {
                    self.processes.keep_for_a_tick(slot);
                    if event.kind == EventKind::Killed {
                        set_killed(slot, true, snap, tape);
                    }
                }
                None => nobody += u32::from(event.kind == EventKind::Killed),
            }
        }
        nobody
    }

    /// The last thread of a process with a limit is gone: its row is free at once, and not when somebody looks.
    fn exited(&mut self, event: &Event, snap: &mut Snapshot, tape: &mut Tape) {
        if let Some(slot) = self.processes.slot(event.who.pid)
            && snap.process(slot).is_some_and(|row| row.id == event.who)
        {
            self.processes.gone(slot, snap, tape);
        }
    }

    /// Puts the readings of events over what was read, where they are more.
    pub fn witness(&mut self, events: &[Event], snap: &mut Snapshot, tape: &mut Tape) {
        for event in events {
            if matches!(event.kind, EventKind::KernelCrossed | EventKind::KernelDenied) {
                self.witness_kernel(event, snap, tape);
                continue;
            }
            if event.usage.0 > 0
                && let Some(slot) = self.slot_about(snap, event)
                && let Some(row) = snap.groups.get_mut(slot.0)
                && row.usage.is_none_or(|usage| usage < event.usage)
            {
                row.usage = Some(event.usage);
                tape.group_witness(slot, event.usage);
                snap.touch_group(slot);
            }
            if let Some(rss) = event.rss
                && let Some(slot) = self.processes.slot(event.who.pid)
                && let Some(row) = snap.processes.get_mut(slot.0).filter(|row| row.id == event.who)
            {
                let more = Rss {
                    anon: row.rss.anon.max(rss.anon),
                    file: row.rss.file.max(rss.file),
                    shmem: row.rss.shmem.max(rss.shmem),
                };
                if more != row.rss {
                    row.rss = more;
                    tape.process_witness(slot, &row.rss);
                    snap.touch_process(slot);
                }
            }
        }
    }

    /// What a refused call would have made of it counts as what it is: the group goes on wanting more than it may have.
    fn witness_kernel(&self, event: &Event, snap: &mut Snapshot, tape: &mut Tape) {
        if let Some(slot) = self.slot_about(snap, event)
            && let Some(row) = snap.groups.get_mut(slot.0)
            && row.kernel.is_none_or(|kernel| kernel < event.usage)
        {
            row.kernel = Some(event.usage);
            tape.group_kernel_witness(slot, event.usage);
            snap.touch_group(slot);
        }
    }

    /// The row of the group an event is about.
    fn slot_about(&self, snap: &Snapshot, event: &Event) -> Option<GroupSlot> {
        self.group_slot(event.group, snap)
    }

    /// The row of a group that is still there.
    pub fn group_slot(&self, id: GroupId, snap: &Snapshot) -> Option<GroupSlot> {
        let slot = self.groups.slot_of(id)?;
        snap.group(slot).is_some_and(|row| row.id == id && !row.gone).then_some(slot)
    }
}

/// Puts down that the kernel has killed a process, or that this is dealt with.
fn set_killed(slot: ProcessSlot, killed: bool, snap: &mut Snapshot, tape: &mut Tape) {
    if let Some(row) = snap.processes.get_mut(slot.0)
        && row.killed != killed
    {
        row.killed = killed;
        tape.process_killed(slot, killed);
        snap.touch_process(slot);
    }
}

/// Whether the event says something of a process's own line, not only who happened to be the one to cross its group's.
fn is_about_a_process(kind: EventKind) -> bool {
    matches!(kind, EventKind::CrossedOwn | EventKind::Signalled | EventKind::Killed)
}
