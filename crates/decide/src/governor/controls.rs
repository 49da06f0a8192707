//! What processes ask for themselves: one control each, kept by identity, copied to children, forgotten at exit.

use crate::control::{ControlAction, MemControl};
use crate::decision::{Decisions, Source};
use crate::policy::{Action, Slow, Step, Victim};
use crate::snapshot::{ProcessId, Snapshot};

use super::episode::{Key, Who};
use super::{Full, Governor, REPEAT};

/// A control as set.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetControl {
    pub control: MemControl,
    /// Which setting this is: a control set again is another one, with its signal and its log line armed.
    pub serial: u64,
    /// Set since the last tick.
    new: bool,
}

impl Governor {
    /// Sets the control of a process in place of the one it had: a spent signal and the log line are armed again.
    ///
    /// # Errors
    /// There is no room; nothing was changed.
    pub fn set_control(&mut self, who: ProcessId, control: MemControl) -> Result<(), Full> {
        self.serial += 1;
        self.asked += 1;
        let set = SetControl { control, serial: self.serial, new: true };
        let noted = self.controls.get(who).is_some_and(|old| old.new);
        if self.controls.insert(who, set).is_err() {
            self.lost.controls += 1;
            return Err(Full);
        }
        if !noted {
            // As large as the table of controls, but a process may be forgotten and set again within a tick: then
            // the list is full and the process waits for its next look.
            if self.new_controls.len() < self.new_controls.capacity() {
                self.new_controls.push(who);
            }
            self.deadline = self.now;
        }
        Ok(())
    }

    /// The control of a process; its signal is 0 once a one-shot signal was delivered.
    pub fn control(&self, who: ProcessId) -> Option<MemControl> {
        self.controls.get(who).map(|set| set.control)
    }

    /// All controls.
    pub fn controls(&self) -> impl Iterator<Item = (ProcessId, MemControl)> + '_ {
        self.controls.iter().map(|(who, set)| (who, set.control))
    }

    /// A process has forked: the child has the same control, and no episode of its own yet. Says whether the
    /// parent has one at all.
    ///
    /// # Errors
    /// There is no room: the child has no control, and it was counted.
    pub fn inherit(&mut self, parent: ProcessId, child: ProcessId) -> Result<bool, Full> {
        match self.control(parent) {
            Some(control) => self.set_control(child, control).map(|()| true),
            None => Ok(false),
        }
    }

    /// A process has exited, or its control was cleared.
    pub fn forget(&mut self, who: ProcessId) {
        if self.controls.remove(who).is_some() {
            self.asked += 1;
            self.deadline = self.now;
        }
    }

    /// Controls set since the last tick act in this one, wherever their process was last seen: what was in force under
    /// the old setting ends first.
    pub(super) fn take_up_controls(&mut self, snap: &Snapshot, out: &mut Decisions) {
        while let Some(who) = self.new_controls.pop() {
            let Some(set) = self.controls.get_mut(who) else { continue };
            set.new = false;
            let key = Key { source: Source::Control, who: Who::Process(who) };
            if let Some(slot) = self.episodes.find(key) {
                self.advance(slot, snap, out);
            }
            if let Some(slot) = self.slots.get(who)
                && self.renew_process(slot, snap)
            {
                self.look_at_process(slot, snap);
            }
        }
    }
}

/// A control as the only step of a ladder.
pub(super) fn step_of(control: &MemControl) -> Option<Step> {
    let action = match control.action {
        ControlAction::None => return None,
        ControlAction::Deny => Action::Deny,
        ControlAction::Slow => Action::Slow(Slow::default()),
        ControlAction::Signal => Action::Signal {
            signal: control.signal,
            repeat: control.flags.has(crate::control::Flags::SIGCONT).then_some(REPEAT),
        },
        ControlAction::Kill => Action::Kill { victim: Victim::Group },
    };
    Some(Step { action, after: std::time::Duration::ZERO })
}
