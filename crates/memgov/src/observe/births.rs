//! Processes coming, changing and going: who gets a row, and who takes over whose control. A control belongs to a
//! process and to those it begets after it was set, however many generations a batch of events tells of at once.

use std::collections::HashMap;

use memgov_decide::control::MemControl;
use memgov_decide::governor::{Full, Governor};
use memgov_decide::snapshot::{GroupSlot, ProcessId, ProcessSlot, Snapshot};

use super::Observer;
use super::processes::ProcessRows;
use crate::act::ledger::HOLD_PREFIX;
use crate::kernel::forks::ProcessEvent;
use crate::kernel::{proc, sys};
use crate::record::trace::Tape;

/// Generations that are looked back for a control nobody has told of.
const MAX_GENERATIONS: usize = 16;
/// Controls that one user who is not root may have, children included: the table is for all.
const CONTROLS_A_USER: usize = 1024;
/// Parents that were gone before they could be looked at, remembered for their children.
const REMEMBERED: usize = 256;

/// Who set a control, and when.
#[derive(Clone, Copy, Debug)]
struct Setting {
    by: u32,
    /// Clock ticks since boot, as start times are: who is older was not born with it.
    since: u64,
}

/// What is known about controls besides the controls.
#[derive(Debug, Default)]
pub(super) struct Settings {
    of: HashMap<ProcessId, Setting>,
    /// Pids that were born to a process with a control and gone before they were looked at, with whose control it is.
    passed_on: Vec<(u32, ProcessId)>,
}

impl Settings {
    fn forget(&mut self, who: ProcessId) {
        self.of.remove(&who);
    }

    fn donor(&self, pid: u32) -> Option<ProcessId> {
        self.passed_on.iter().rev().find(|(child, _)| *child == pid).map(|(_, donor)| *donor)
    }

    fn pass_on(&mut self, child: u32, donor: ProcessId) {
        if self.passed_on.len() == REMEMBERED {
            self.passed_on.remove(0);
        }
        self.passed_on.push((child, donor));
    }
}

/// Sets a control and puts it on the tape, in one place so that neither is forgotten.
///
/// # Errors
/// There is no room.
pub fn set_control(
    governor: &mut Governor,
    tape: &mut Tape,
    who: ProcessId,
    control: MemControl,
) -> Result<(), Full> {
    governor.set_control(who, control)?;
    tape.control(who, control);
    Ok(())
}

impl Observer {
    /// Whether this user may set one more control.
    pub fn may_set(&self, who: ProcessId, by: u32) -> bool {
        let of = &self.settings.of;
        by == 0 || of.contains_key(&who) || of.values().filter(|s| s.by == by).count() < CONTROLS_A_USER
    }

    /// Remembers who has set the control of a process.
    pub fn set_by(&mut self, who: ProcessId, by: u32) {
        self.settings.of.insert(who, Setting { by, since: sys::boot_ticks() });
    }

    /// The control of a process is gone, and with it what is remembered of it.
    pub fn forget(&mut self, who: ProcessId) {
        self.settings.forget(who);
    }

    /// Start times count in ticks of 10 ms. A pid that is had again within one gives a process that only the open descriptor
    /// tells from the one before: whoever is asked about by name is looked at by descriptor first, and the dead lose their control.
    pub fn bury_namesake(
        &mut self,
        who: ProcessId,
        snap: &mut Snapshot,
        governor: &mut Governor,
        tape: &mut Tape,
    ) {
        let Some(slot) = self.processes.slot(who.pid) else { return };
        if self.processes.is_there(slot, who.pid, &mut self.buffer) {
            return;
        }
        let dead = ProcessRows::id(snap, slot);
        self.processes.gone(slot, snap, tape);
        if let Some(dead) = dead {
            governor.forget(dead);
            tape.forget(dead);
            self.settings.forget(dead);
        }
    }

    /// The row of a process, and of its group; `None` if it is gone or there is no room.
    pub fn ensure_process(
        &mut self,
        pid: u32,
        snap: &mut Snapshot,
        governor: &Governor,
        tape: &mut Tape,
    ) -> Option<ProcessSlot> {
        let (mut process, status) = self.processes.examine(pid, &mut self.buffer)?;
        process.group = self.group_of(pid, snap, governor, tape);
        let slot = self.processes.admit(process, status, snap, tape)?;
        self.processes.look(slot, snap, &mut self.buffer, tape);
        Some(slot)
    }

    /// The row of the group a process is in; a hold group stands for the group it was made in.
    pub(super) fn group_of(
        &mut self,
        pid: u32,
        snap: &mut Snapshot,
        governor: &Governor,
        tape: &mut Tape,
    ) -> Option<GroupSlot> {
        let path = proc::memory_group(&self.layout, pid, &mut self.buffer).ok()?;
        let hold = path.windows(HOLD_PREFIX.len() + 1).position(|w| w[0] == b'/' && &w[1..] == HOLD_PREFIX);
        let path = hold.map_or(&path[..], |cut| &path[..cut]);
        self.ensure_group(path, snap, governor, tape)
    }

    /// Gives a process a row if a rule that names no group may match it.
    pub(super) fn consider(&mut self, pid: u32, snap: &mut Snapshot, governor: &Governor, tape: &mut Tape) {
        let known = self.processes.slot(pid).is_some();
        let Some((process, _)) = self.processes.examine(pid, &mut self.buffer) else { return };
        if known || self.concerns.anywhere.iter().any(|m| m.matches(&process, None)) {
            self.ensure_process(pid, snap, governor, tape);
        }
    }

    /// Takes in births, programs begun and deaths; whether some were lost.
    pub(super) fn process_news(
        &mut self,
        snap: &mut Snapshot,
        governor: &mut Governor,
        tape: &mut Tape,
        births: &mut dyn FnMut(u32, u32),
    ) -> bool {
        // Most events concern nobody with a row: they are sorted out before anything is read. A child born in this very batch
        // has no row yet, and its children and its end matter as much as if it had.
        let (mut lost, mut mine): (bool, Vec<ProcessEvent>) = (false, Vec::new());
        let (processes, settings) = (&self.processes, &self.settings);
        let anywhere = !self.concerns.anywhere.is_empty();
        let born = |mine: &[ProcessEvent], pid: u32| {
            mine.iter().any(|e| matches!(e, ProcessEvent::Fork { child, .. } if *child == pid))
        };
        let known = |pid: u32| processes.slot(pid).is_some() || settings.donor(pid).is_some();
        self.wake.process_events(&mut self.buffer, &mut |event| match event {
            ProcessEvent::Lost => lost = true,
            ProcessEvent::Fork { parent, child } => {
                births(parent, child);
                if known(parent) || born(&mine, parent) {
                    mine.push(event);
                }
            }
            ProcessEvent::Exec { pid } => {
                if anywhere || known(pid) || born(&mine, pid) {
                    mine.push(event);
                }
            }
            ProcessEvent::Exit { pid } => {
                if known(pid) || born(&mine, pid) {
                    mine.push(event);
                }
            }
        });
        for event in mine {
            match event {
                ProcessEvent::Fork { parent, child } => self.born(parent, child, snap, governor, tape),
                ProcessEvent::Exec { pid } => {
                    self.consider(pid, snap, governor, tape);
                    self.check_setter(pid, snap, governor, tape);
                }
                ProcessEvent::Exit { pid } => {
                    if let Some(slot) = self.processes.slot(pid) {
                        self.processes.ended(slot, snap, &mut self.buffer, tape);
                    }
                }
                ProcessEvent::Lost => {}
            }
        }
        lost
    }

    /// A process with a row has a child: the child has one too, and its parent's control. A parent that was gone before it
    /// could be looked at passes on what it would have had.
    fn born(
        &mut self,
        parent: u32,
        child: u32,
        snap: &mut Snapshot,
        governor: &mut Governor,
        tape: &mut Tape,
    ) {
        let row = self.processes.slot(parent).and_then(|slot| ProcessRows::id(snap, slot));
        let Some(donor) = row.or_else(|| self.settings.donor(parent)) else { return };
        let slot = self.ensure_process(child, snap, governor, tape);
        match slot.and_then(|slot| ProcessRows::id(snap, slot)) {
            Some(child) => self.inherit(donor, child, governor, tape),
            None if governor.control(donor).is_some() => self.settings.pass_on(child, donor),
            None => {}
        }
    }

    /// Asked for a process nobody has told of yet: if a process above it has a control and had it before this one was born, it is
    /// this one's too.
    pub fn adopt(&mut self, who: ProcessId, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) {
        if governor.control(who).is_some() || governor.controls().next().is_none() {
            return;
        }
        let (mut line, mut pid) = (Vec::new(), who.pid);
        while line.len() < MAX_GENERATIONS {
            let Ok(stat) = proc::read_stat(pid, &mut self.buffer) else { return };
            line.push(stat.id());
            if governor.control(stat.id()).is_some() {
                break;
            }
            if stat.ppid <= 1 {
                return;
            }
            pid = stat.ppid;
        }
        // From the one who has it down to the one who was asked for.
        for pair in line.windows(2).rev() {
            let (child, parent) = (pair[0], pair[1]);
            let born_with_it = self.settings.of.get(&parent).is_some_and(|set| set.since <= child.start);
            if !born_with_it || self.ensure_process(child.pid, snap, governor, tape).is_none() {
                return;
            }
            self.inherit(parent, child, governor, tape);
        }
    }

    fn inherit(&mut self, parent: ProcessId, child: ProcessId, governor: &mut Governor, tape: &mut Tape) {
        // A full table is counted by the governor.
        if governor.control(child).is_none()
            && let Ok(true) = governor.inherit(parent, child)
        {
            tape.inherit(parent, child);
            if let Some(set) = self.settings.of.get(&parent).copied() {
                self.settings.of.insert(child, Setting { since: child.start, ..set });
            }
        }
    }

    /// A control that a user has set on his own process ends where the process becomes another's: a program that runs with more
    /// rights is not his to stop.
    fn check_setter(&mut self, pid: u32, snap: &Snapshot, governor: &mut Governor, tape: &mut Tape) {
        let Some(who) = self.processes.slot(pid).and_then(|slot| ProcessRows::id(snap, slot)) else { return };
        let Some(by) = self.settings.of.get(&who).map(|set| set.by).filter(|&by| by != 0) else { return };
        let uids = proc::read_status(pid, &mut self.buffer).ok().and_then(|status| status.uids);
        if uids.is_none_or(|[real, effective, saved, _]| [real, effective, saved] != [by; 3]) {
            governor.forget(who);
            tape.forget(who);
            self.settings.forget(who);
        }
    }
}
