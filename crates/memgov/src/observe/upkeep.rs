//! What no event tells: processes of groups whose rules want them, rows whose subject went unheard, processes that were
//! moved. Done from time to time, and not at all while there is nothing to keep up.

use std::time::Duration;

use memgov_decide::governor::Governor;
use memgov_decide::snapshot::{GroupSlot, ProcessSlot, Snapshot};
use memgov_decide::units::Time;

use super::Observer;
use super::processes::ProcessRows;
use crate::kernel::{Errno, proc};
use crate::record::trace::Tape;

/// How often processes are listed while births are not told by the kernel, and while they are.
const SWEEP_BLIND: Duration = Duration::from_millis(200);
const SWEEP_TOLD: Duration = Duration::from_secs(2);
/// How often all of `/proc` is listed for rules that name no group, where births are not told.
const LIST_BLIND: Duration = Duration::from_secs(1);
/// How often every row is checked for being about somebody who is still there, and still in the same group.
const CHECK: Duration = Duration::from_secs(30);
/// The same while processes have controls: a move to another group changes the line that counts.
const CHECK_CONTROLLED: Duration = Duration::from_secs(5);

/// How often the loop asks whether alarms that were ordered are set.
const ARM_REST: Duration = Duration::from_millis(20);

/// When what is due next; `FAR` while there is nothing to keep up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    list: Time,
    check: Time,
    arm: Time,
    /// Readings have changed what rules want: groups are gone through for it in the next tick.
    pub sweep: bool,
}

impl Default for Due {
    fn default() -> Self {
        Self { list: Time::FAR, check: Time::FAR, arm: Time(0), sweep: true }
    }
}

impl Due {
    pub fn next(&self) -> Time {
        self.list.min(self.check).min(self.arm)
    }
}

impl Observer {
    /// Does what is due.
    pub fn upkeep(&mut self, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) {
        let now = snap.at;
        if std::mem::take(&mut self.due.sweep) || self.groups.sweep_due() <= now {
            self.sweep(snap, governor, tape);
        }
        // Somebody may have to be chosen among all of them; as it becomes urgent whoever has just started is to be among them.
        let all = governor.wants_all_processes();
        let again = if governor.is_ranking_machine() { SWEEP_BLIND } else { LIST_BLIND };
        if self.due.list <= now || all && self.due.list > now + again {
            self.due.list = now;
            self.list_all(snap, governor, tape);
        }
        if self.due.check <= now {
            self.check_rows(snap, governor, tape);
        }
        self.groups.arm(&mut self.wake, &mut |slot| governor.pace_hint_event(slot, now));
        self.due.arm = if self.groups.has_unarmed() { now + ARM_REST } else { Time::FAR };
        let blind = !self.wake.follows_processes() && !self.concerns.anywhere.is_empty();
        self.due.list = when(blind || all, now, self.due.list, again);
        let again = if governor.controls().next().is_some() { CHECK_CONTROLLED } else { CHECK };
        self.due.check = when(!snap.processes.is_empty(), now, self.due.check, again);
    }

    /// Lists the processes of groups where a rule wants them; without process events also where a child may take over a
    /// control.
    fn sweep(&mut self, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) {
        let told = self.wake.follows_processes();
        let again = if told { SWEEP_TOLD } else { SWEEP_BLIND };
        let controlled = |slot: GroupSlot| {
            !told
                && governor.controls().any(|(who, _)| {
                    let row = self.processes.slot(who.pid).and_then(|row| snap.process(row));
                    row.is_some_and(|row| row.id == who && row.group == Some(slot))
                })
        };
        let above = |slot: GroupSlot| std::iter::successors(Some(slot), |s| snap.group(*s)?.parent);
        let wanted =
            |slot: GroupSlot| controlled(slot) || above(slot).any(|s| governor.wants_processes(s, snap));
        self.groups.sweeps(snap.at, again, &wanted, &mut self.sweeps);
        for i in 0..self.sweeps.len() {
            let slot = self.sweeps[i];
            self.listed.clear();
            let (listed, lost) = (&mut self.listed, &mut snap.lost.processes);
            let Some(dir) = self.groups.dir(slot) else { continue };
            let result = dir.for_each_pid(&mut self.buffer, &mut |pid| {
                if listed.len() < listed.capacity() {
                    listed.push(pid);
                } else {
                    *lost += 1;
                }
            });
            // A threaded group has no processes of its own to list: any other failure means nobody was listed.
            if matches!(result, Err(Errno::NODEV | Errno::NOENT)) {
                self.groups.gone(slot, snap, tape);
            }
            for at in 0..self.listed.len() {
                self.swept(self.listed[at], slot, snap, governor, tape);
            }
        }
    }

    fn swept(
        &mut self,
        pid: u32,
        group: GroupSlot,
        snap: &mut Snapshot,
        governor: &mut Governor,
        tape: &mut Tape,
    ) {
        let known = self.processes.slot(pid);
        if let Some(slot) = known {
            if snap.process(slot).is_some_and(|p| p.group != Some(group)) {
                ProcessRows::moved(slot, Some(group), snap, tape);
            }
            if !self.processes.facts_due(slot, snap.at) {
                return;
            }
        }
        let Some(slot) = self.ensure_process(pid, snap, governor, tape) else { return };
        // Where it was listed is where it is charged, whatever `/proc` says of a process whose first thread has ended.
        if snap.process(slot).is_some_and(|p| p.group != Some(group)) {
            ProcessRows::moved(slot, Some(group), snap, tape);
        }
        // Births may have gone unheard: what a process above it has is its own.
        if known.is_none()
            && let Some(who) = snap.process(slot).map(|p| p.id)
        {
            self.adopt(who, snap, governor, tape);
        }
    }

    /// Looks at every process of the host, for rules that name no group, and where the largest of all may have to be known.
    pub(super) fn list_all(&mut self, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) {
        let Ok(pids) = proc::pids(std::path::Path::new("/")) else {
            // No descriptors, no memory: tried again.
            snap.lost.events += 1;
            self.due.list = snap.at;
            return;
        };
        for pid in pids {
            if self.processes.slot(pid).is_some() {
                continue;
            }
            if governor.wants_all_processes() && self.processes.may_be_taken(pid, &mut self.buffer) {
                self.ensure_process(pid, snap, governor, tape);
            } else {
                self.consider(pid, snap, governor, tape);
            }
        }
    }

    /// Checks that every row still is about somebody, and where processes are now.
    pub(super) fn check_rows(&mut self, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) {
        self.groups.check(snap, tape);
        let rows = u32::try_from(snap.processes.capacity()).unwrap_or(u32::MAX);
        for slot in (0..rows).map(ProcessSlot) {
            let Some(process) = snap.process(slot).filter(|p| !p.gone) else { continue };
            let (who, group) = (process.id, process.group);
            if !self.processes.is_there(slot, who.pid, &mut self.buffer) {
                self.processes.gone(slot, snap, tape);
                continue;
            }
            let now = self.group_of(who.pid, snap, governor, tape);
            if now.is_some() && now != group {
                ProcessRows::moved(slot, now, snap, tape);
            }
        }
    }
}

/// The next time for something that is to be done again and again while it is `needed`.
fn when(needed: bool, now: Time, planned: Time, again: Duration) -> Time {
    match needed {
        false => Time::FAR,
        // It was done just now, or is needed anew.
        true if planned <= now || planned == Time::FAR => now + again,
        true => planned,
    }
}
