//! Who was found protected by a look at everybody in a group: processes that have no row and are on the never-list by what no program can know
//! beforehand. A bounded list; nothing is allocated after start.

use std::collections::VecDeque;
use std::time::Duration;

use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessId};
use memgov_decide::units::Time;

use super::Inside;
use crate::bpf::ExemptBy;

/// Processes found protected by sweeps that are known at a time.
pub const SWEPT: usize = 1024;
/// A group whose calls are refused is looked through again after so long: who comes meanwhile waits no longer for his exemption.
const AGE: Duration = Duration::from_secs(2);
/// And all looks together take no more than one part in so many of the time.
const SHARE: u32 = 20;

/// Who was found, the youngest last.
#[derive(Debug)]
pub(super) struct Found {
    who: VecDeque<ProcessId>,
    /// No group is looked through again before.
    rest_until: Time,
}

impl Found {
    pub fn new() -> Self {
        Self { who: VecDeque::with_capacity(SWEPT), rest_until: Time(0) }
    }

    /// Makes room where there is none: of those that are dead, else of the one that was found longest ago. Whether this is a new one.
    fn add(
        &mut self,
        who: ProcessId,
        stays: &mut dyn FnMut(ProcessId) -> bool,
        drop: &mut dyn FnMut(ProcessId),
    ) -> bool {
        if self.who.contains(&who) {
            return false;
        }
        if self.who.len() == SWEPT {
            self.keep(stays, drop);
        }
        if self.who.len() == SWEPT
            && let Some(former) = self.who.pop_front()
        {
            drop(former);
        }
        self.who.push_back(who);
        true
    }

    fn keep(&mut self, stays: &mut dyn FnMut(ProcessId) -> bool, drop: &mut dyn FnMut(ProcessId)) {
        self.who.retain(|who| {
            let stays = stays(*who);
            if !stays {
                drop(*who);
            }
            stays
        });
    }
}

/// Whether it is time to look again, the last look at this group having been at `last`.
fn is_due(last: Time, rest_until: Time, now: Time) -> bool {
    now >= rest_until && now.since(last) >= AGE
}

impl Inside {
    /// Found protected by a sweep. At most so many are known at a time: one that was forgotten is found by the next sweep.
    pub fn exempt_swept(&mut self, who: ProcessId, lives: &mut dyn FnMut(ProcessId) -> bool) {
        let maps = &self.maps;
        let mut drop = |who| {
            let _ = maps.exempt(who, ExemptBy::Sweep, false);
        };
        if self.swept.add(who, lives, &mut drop) {
            // No room: the next sweep comes to it again.
            let _ = maps.exempt(who, ExemptBy::Sweep, true);
        }
    }

    /// Another never-list: only those whom it protects too stay exempt.
    pub fn judge_swept(&mut self, protected: &mut dyn FnMut(ProcessId) -> bool) {
        let maps = &self.maps;
        self.swept.keep(protected, &mut |who| {
            let _ = maps.exempt(who, ExemptBy::Sweep, false);
        });
        for told in self.groups.iter_mut().flatten() {
            told.swept = Time(0);
        }
        self.swept.rest_until = Time(0);
    }

    /// Whether everybody in a group whose calls are refused is to be looked at again: not each few milliseconds, because that would take a fork bomb's
    /// governor all its time.
    pub fn sweep_is_due(&self, slot: GroupSlot, id: GroupId, now: Time) -> bool {
        let told = self.groups.get(slot.0 as usize).and_then(Option::as_ref);
        told.is_some_and(|told| told.id == id && is_due(told.swept, self.swept.rest_until, now))
    }

    /// Everybody in it was looked at, from `begin` to `end`.
    pub fn was_swept(&mut self, slot: GroupSlot, begin: Time, end: Time) {
        if let Some(Some(told)) = self.groups.get_mut(slot.0 as usize) {
            told.swept = end;
        }
        self.swept.rest_until = end + end.since(begin) * SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start: 1 }
    }

    #[test]
    fn the_dead_make_room_before_the_living() {
        let (mut found, mut dropped) = (Found::new(), Vec::new());
        let last = u32::try_from(SWEPT).unwrap();
        for pid in 1..=last {
            assert!(found.add(process(pid), &mut |_| true, &mut |_| unreachable!()));
        }
        assert!(!found.add(process(1), &mut |_| true, &mut |_| unreachable!()), "known");
        assert!(found.add(process(last + 1), &mut |who| who.pid % 2 == 1, &mut |who| dropped.push(who.pid)));
        assert!(dropped.len() == SWEPT / 2 && dropped.iter().all(|pid| pid % 2 == 0));
        dropped.clear();
        for pid in last + 2..2 * last {
            found.add(process(pid), &mut |_| true, &mut |who| dropped.push(who.pid));
        }
        assert_eq!(dropped.first(), Some(&1), "where all live, the one that was found longest ago");
        assert_eq!(found.who.len(), SWEPT);
    }

    #[test]
    fn looks_take_a_bounded_share_of_the_time() {
        let at = |ms: u64| Time(ms * 1_000_000);
        assert!(is_due(Time(0), Time(0), at(5000)));
        assert!(!is_due(at(5000), Time(0), at(6999)) && is_due(at(5000), Time(0), at(7000)));
        let rest = at(5000) + Duration::from_millis(200) * SHARE;
        assert!(!is_due(Time(0), rest, at(8999)) && is_due(Time(0), rest, at(9000)), "one that took 200 ms");
    }
}
