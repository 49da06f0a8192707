//! What to read, and when. Rows wait in a heap by the time of their next look; those that nothing measures are not in it.

use std::time::Duration;

use crate::snapshot::{GroupSlot, ProcessSlot, Snapshot};
use crate::trend::nanos;
use crate::units::Time;

use super::Governor;
use super::rows;

/// The fastest pace is never faster than this, whatever the policy says.
const FASTEST: Duration = Duration::from_micros(100);

impl Governor {
    /// Fills `groups` and `processes` (cleared first, never beyond their capacity) with what should be read at `now`,
    /// and returns when to call again: in the past if there was more to read than room.
    ///
    /// Costs time for what is due, not for what is known.
    pub fn due(
        &mut self,
        snap: &Snapshot,
        now: Time,
        groups: &mut Vec<GroupSlot>,
        processes: &mut Vec<ProcessSlot>,
    ) -> Time {
        groups.clear();
        processes.clear();
        self.now = self.now.max(now);
        while let Some((at, item)) = self.timers.first() {
            if at > now {
                return at.min(self.deadline);
            }
            let next = match self.row_of(item) {
                Row::Group(slot) => {
                    if groups.len() == groups.capacity() {
                        return at;
                    }
                    let state = &self.groups[slot.0 as usize];
                    let there = snap.group(slot).is_some_and(|row| !row.gone && Some(row.id) == state.id);
                    there.then(|| groups.push(slot)).map(|()| state.interval)
                }
                Row::Process(slot) => {
                    if processes.len() == processes.capacity() {
                        return at;
                    }
                    let state = &self.processes[slot.0 as usize];
                    let there = snap.process(slot).is_some_and(|row| !row.gone && Some(row.id) == state.id);
                    // Under another policy each is read once, also where nothing measures it any more: what stood for it before is taken back then.
                    let anew = state.generation != self.generation;
                    let measured = anew || self.interval_of_process(slot, snap).is_some();
                    (there && measured).then(|| processes.push(slot)).map(|()| state.interval)
                }
                Row::Host => {
                    // Whoever has no room for anything only asks when.
                    if groups.capacity() == 0 {
                        return at;
                    }
                    self.host.due = true;
                    self.watches_host().then_some(self.host.interval)
                }
            };
            self.timers.set(item, next.map(|interval| self.after(interval.into())));
        }
        self.deadline
    }

    /// An event (inotify, an eventfd, PSI) says that something happened in this group: it is due now.
    pub fn pace_hint_event(&mut self, group: GroupSlot, now: Time) {
        self.now = self.now.max(now);
        if self.groups.get(group.0 as usize).is_some_and(|state| state.id.is_some()) {
            self.timers.bring_forward(self.group_item(group), now);
        }
    }

    /// A group that has just been read is to be read again soon: at the fastest pace.
    pub fn pace_hint_soon(&mut self, group: GroupSlot) {
        if self.groups.get(group.0 as usize).is_some_and(|state| state.id.is_some()) {
            self.timers.bring_forward(self.group_item(group), self.after(self.policy.pace.fastest));
        }
    }

    /// An event says that a process is over its line: it is due now.
    pub fn pace_hint_process(&mut self, process: ProcessSlot, now: Time) {
        self.now = self.now.max(now);
        if self.processes.get(process.0 as usize).is_some_and(|state| state.id.is_some()) {
            self.timers.bring_forward(self.process_item(process), now);
        }
    }

    /// An event (pressure) says that the host is short of memory: that is due now.
    pub fn pace_hint_host(&mut self, now: Time) {
        self.now = self.now.max(now);
        if self.watches_host() {
            self.timers.bring_forward(self.host_item(), now);
        }
    }

    /// Whether the host's memory is to be read: asked once after each [`Governor::due`].
    pub fn take_host_due(&mut self) -> bool {
        std::mem::take(&mut self.host.due)
    }

    /// Whether some rule needs rows for the processes of this group now: because their memory is the meter, because they
    /// are the targets, or because one of them may have to be chosen.
    pub fn wants_processes(&self, group: GroupSlot, snap: &Snapshot) -> bool {
        let Some(row) = snap.group(group).filter(|row| !row.gone) else { return false };
        let known = self.groups.get(group.0 as usize).filter(|state| state.id == Some(row.id));
        let (near, ranking) = match known {
            Some(_) => (
                self.tree.upward(Some(group)).any(|above| self.groups[above.0 as usize].near),
                self.tree.upward(Some(group)).any(|above| self.is_ranking(above)),
            ),
            None => (false, false),
        };
        let members =
            known.map_or_else(|| rows::rules_of_members(&self.policy, &row.path), |state| state.members);
        ranking
            || members.iter().chain(self.roaming.iter()).any(|rule| {
                self.policy.rules.get(rule.0 as usize).is_some_and(|rule| near || rule.when.group.is_none())
            })
    }

    /// The moment `interval` from now, rounded down to a step of a quarter to a half of the interval, so that rows at
    /// the same pace come due together and one wake-up serves them all.
    pub(super) fn after(&self, interval: Duration) -> Time {
        let finest = nanos(self.policy.pace.fastest.max(FASTEST));
        let interval = nanos(interval).max(finest);
        let mut step = 1;
        if interval >= 4 * finest {
            step = finest;
            while step <= interval / 4 {
                step *= 2;
            }
        }
        let at = self.now.0.saturating_add(interval);
        Time(at - at % step)
    }

    pub(super) fn group_item(&self, slot: GroupSlot) -> u32 {
        slot.0
    }

    pub(super) fn host_item(&self) -> u32 {
        let rows = self.groups.len().saturating_add(self.processes.len());
        u32::try_from(rows).unwrap_or(u32::MAX)
    }

    pub(super) fn process_item(&self, slot: ProcessSlot) -> u32 {
        u32::try_from(self.groups.len()).unwrap_or(u32::MAX).saturating_add(slot.0)
    }

    fn row_of(&self, item: u32) -> Row {
        let groups = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        if item == self.host_item() {
            return Row::Host;
        }
        item.checked_sub(groups).map_or(Row::Group(GroupSlot(item)), |item| Row::Process(ProcessSlot(item)))
    }
}

/// What an item of the heap stands for.
enum Row {
    Group(GroupSlot),
    Process(ProcessSlot),
    Host,
}
