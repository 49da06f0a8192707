//! What the governor remembers about each row of the snapshot: which rules match it (worked out once, when it is first
//! seen or has changed what it is), whether it may be touched, and how fast it grows. Rows are known by identity, so a
//! slot that was given to another group or process is never taken for the old one.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::decision::Protected;
use crate::jobs::Worth;
use crate::kernel_memory::Watermark;
use crate::policy::{Condition, Kinds, MAX_RULES, Over, Policy, Rule, RuleId, Scope, names_it_or_above};
use crate::pressure::Window;
use crate::rise::Rise;
use crate::snapshot::{GroupId, GroupSlot, Process, ProcessId, ProcessSlot, Snapshot};
use crate::trend::{Fall, Trend, nanos};
use crate::units::{Bytes, Time};
use crate::victim;

use super::Governor;
use super::index::Fnv;

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleSet([u64; MAX_RULES / 64]);

impl RuleSet {
    /// The rules of a policy for which `wanted` holds.
    pub fn of(policy: &Policy, wanted: impl Fn(&Rule) -> bool) -> Self {
        let mut set = Self::default();
        for (at, rule) in policy.rules.iter().take(MAX_RULES).enumerate() {
            if !rule.steps.is_empty() && wanted(rule) {
                set.0[at / 64] |= 1 << (at % 64);
            }
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    pub fn iter(self) -> impl Iterator<Item = RuleId> {
        (0u16..).zip(self.0).flat_map(|(at, word)| {
            std::iter::successors(Some(word), |&word| Some(word & word.wrapping_sub(1)))
                .take_while(|&word| word != 0)
                .map(move |word| RuleId(at * 64 + u16::try_from(word.trailing_zeros()).unwrap_or(0)))
        })
    }
}

/// Rules about a group as a whole. The root is never a target.
pub(super) fn rules_of_group(policy: &Policy, path: &[u8]) -> RuleSet {
    RuleSet::of(policy, |rule| match &rule.scope {
        Scope::Groups(patterns) => {
            rule.when.rss.is_none() && path != b"/" && patterns.iter().any(|p| p.matches(path))
        }
        Scope::Processes(_) | Scope::Host => false,
    })
}

/// Rules about processes that name this group or one above it.
pub(super) fn rules_of_members(policy: &Policy, path: &[u8]) -> RuleSet {
    RuleSet::of(policy, |rule| match &rule.scope {
        Scope::Groups(patterns) => rule.when.rss.is_some() && names_it_or_above(patterns, path),
        Scope::Processes(named) => !named.groups.is_empty() && names_it_or_above(&named.groups, path),
        Scope::Host => false,
    })
}

/// Rules about processes wherever they are.
pub(super) fn roaming_rules(policy: &Policy) -> RuleSet {
    RuleSet::of(policy, |rule| matches!(&rule.scope, Scope::Processes(named) if named.groups.is_empty()))
}

fn rules_of_process(policy: &Policy, process: &Process, group: Option<&[u8]>) -> RuleSet {
    RuleSet::of(policy, |rule| match &rule.scope {
        Scope::Groups(patterns) => {
            rule.when.rss.is_some() && group.is_some_and(|path| names_it_or_above(patterns, path))
        }
        Scope::Processes(named) => named.matches(process, group),
        Scope::Host => false,
    })
}

/// A [`Duration`] in half the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interval(u64);

impl From<Duration> for Interval {
    fn from(time: Duration) -> Self {
        Self(nanos(time))
    }
}

impl From<Interval> for Duration {
    fn from(Interval(nanos): Interval) -> Self {
        Self::from_nanos(nanos)
    }
}

/// More than any group takes.
const ALL: Bytes = Bytes(u64::MAX / 2);

#[derive(Clone, Debug, Default)]
pub(super) struct GroupState {
    pub id: Option<GroupId>,
    /// The policy that `whole` and `members` are of.
    generation: u32,
    /// Rules about it as a whole.
    pub whole: RuleSet,
    /// Rules about processes in it that name it or a group above it.
    pub members: RuleSet,
    pub trend: Trend,
    /// Of kernel memory.
    pub kernel_trend: Trend,
    /// Likewise; nothing is decided by it.
    pub kernel_mark: Watermark,
    /// What it is worth as a job, if it is one.
    pub worth: Option<Worth>,
    /// So much under its hard limit is not available.
    pub oom_reserve: Bytes,
    /// Likewise where the word of this user counts as well.
    pub users_worth: Option<(u32, Worth)>,
    /// It could not be killed as a job, or was: not tried again until then...
    pub spared_until: Time,
    /// ...unless it uses more than this, which it was first seen with after that; `None`: not seen yet.
    pub left: Option<Bytes>,
    /// How many of it and of those below it the kernel's OOM killer had killed when that was last read.
    pub oom_kills: Option<u64>,
    /// Since when kernel memory grows, for rules about it.
    pub kernel_rise: Rise,
    /// The interval after which to look again, should a look bring nothing.
    pub interval: Interval,
    /// Some process in it or below has a condition with a group part; checked again after [`super::look::RECHECK`].
    pub watched: bool,
    pub checked: Time,
    /// Usage is so close to a line that processes in it must be sampled.
    pub near: bool,
    /// At this usage some process in it may have used up half of what was left to a line of its own; `None`: no process is waited for.
    pub hint_at: Option<Bytes>,
    /// How much of the time somebody in it waits for memory, where a rule asks. Boxed, for there may be as many groups as the table holds, and few such rules.
    pub pressure: Option<Box<Window>>,
    /// How fast what it takes and cannot give back grows; likewise.
    pub fall: Option<Box<Fall>>,
    /// When an episode that may have to choose a victim in it last ran.
    pub ranks_at: Option<Time>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ProcessState {
    pub id: Option<ProcessId>,
    pub generation: u32,
    /// Of all that rules can match: it changes when the process calls exec, renames itself or moves.
    print: u64,
    pub matches: RuleSet,
    pub protected: Option<Protected>,
    /// Growth of each kind of memory.
    trends: [Trend; 3],
    /// As [`GroupState::hint_at`], for this process alone.
    pub hint_at: Option<Bytes>,
    pub interval: Interval,
    /// Its kernel memory at the first reading since somebody may have to be chosen by it.
    pub kernel_before: Option<Bytes>,
}

impl ProcessState {
    /// The fastest that the sum of these kinds has grown lately; no less than it really has.
    pub fn growth(&self, kinds: Kinds) -> u64 {
        [kinds.anon, kinds.file, kinds.shmem]
            .iter()
            .zip(&self.trends)
            .filter(|(wanted, _)| **wanted)
            .fold(0, |sum: u64, (_, trend)| sum.saturating_add(trend.fastest()))
    }
}

impl Governor {
    /// Forgets what was remembered of a fresh group row if it is another group now, or gone.
    pub(super) fn identify_group(&mut self, slot: GroupSlot, snap: &Snapshot) {
        if slot.0 as usize >= self.groups.len() {
            self.lost.groups += 1;
            return;
        }
        let row = snap.group(slot).filter(|row| !row.gone);
        let state = &mut self.groups[slot.0 as usize];
        if state.id != row.map(|row| row.id) {
            *state = GroupState::default();
            self.tree.remove_group(slot);
            self.timers.set(self.group_item(slot), None);
        }
        let state = &mut self.groups[slot.0 as usize];
        if let (None, Some(row)) = (state.id, row) {
            state.id = Some(row.id);
            state.interval = self.policy.pace.slowest.into();
        }
    }

    /// Takes in the readings of a fresh group row, and where it hangs.
    pub(super) fn take_in_group(&mut self, slot: GroupSlot, snap: &Snapshot) {
        let Some(row) = snap.group(slot).filter(|row| !row.gone) else { return };
        let Some(state) = self.groups.get_mut(slot.0 as usize) else { return };
        let before = state.trend.last().map(|(usage, _)| usage);
        // v1 tells of no such event, and its count is read now and then only: who knows when that was.
        let oom_kills = row.events.oom_kill.filter(|_| row.events.oom.is_some());
        let kills = (state.oom_kills, oom_kills);
        state.oom_kills = oom_kills.or(state.oom_kills);
        if let Some(usage) = row.usage {
            state.trend.observe(row.read_at, usage);
            state.left = state.left.or(Some(usage));
        }
        if let Some(kernel) = row.kernel {
            state.kernel_trend.observe(row.read_at, kernel);
        }
        self.tree.set_parent(slot, row.parent);
        self.renew_group(slot, snap);
        if let Some(window) = &mut self.groups[slot.0 as usize].pressure {
            window.observe(row.read_at, row.stall);
        }
        if let Some(fall) = &mut self.groups[slot.0 as usize].fall
            && let Some((usage, reclaimable)) = row.usage.zip(row.reclaimable)
        {
            // What is taken, from the other end: that a limit is moved takes no memory. What could be had back is known only near the line.
            fall.observe(row.read_at, ALL - (usage - reclaimable));
        }
        if let (Some(known), Some(now)) = kills
            && now > known
        {
            self.kills.by_oom_killer(self.now, slot, before, snap);
        }
    }

    /// The rules about a group as a whole.
    pub(crate) fn rules_of_group(&self, slot: GroupSlot, id: GroupId) -> impl Iterator<Item = &Rule> {
        let state = self.groups.get(slot.0 as usize).filter(|state| state.id == Some(id));
        let rules = state.map(|state| state.whole.iter()).into_iter().flatten();
        rules.filter_map(|rule| self.policy.rules.get(rule.0 as usize))
    }

    /// Makes sure that what is remembered of a group is about the group in that slot and of the policy in force.
    pub(super) fn renew_group(&mut self, slot: GroupSlot, snap: &Snapshot) -> bool {
        let Some(row) = snap.group(slot).filter(|row| !row.gone) else { return false };
        let Some(state) = self.groups.get_mut(slot.0 as usize) else { return false };
        if state.id != Some(row.id) {
            return false;
        }
        if state.generation != self.generation {
            state.generation = self.generation;
            state.whole = rules_of_group(&self.policy, &row.path);
            state.members = rules_of_members(&self.policy, &row.path);
            let asks = |what: fn(Over) -> bool| {
                let mut rules = state.whole.iter().map(|rule| &self.policy.rules[usize::from(rule.0)]);
                rules.any(|rule| rule.when.group.is_some_and(what))
            };
            let waits = asks(|over| matches!(over, Over::Pressure { .. }));
            let falls = asks(|over| matches!(over, Over::Available { exhausted_in: Some(_), .. }));
            state.pressure = waits.then(|| state.pressure.take().unwrap_or_default());
            state.fall = falls.then(|| state.fall.take().unwrap_or_default());
            let is_root = *row.path == *b"/";
            state.worth = self.policy.worth(&row.path).filter(|_| !is_root);
            state.users_worth = self.policy.users_worth(&row.path).filter(|_| !is_root);
            state.oom_reserve = self.policy.oom_reserve(&row.path);
        }
        true
    }

    /// Takes in a fresh process row.
    pub(super) fn take_in_process(&mut self, slot: ProcessSlot, snap: &Snapshot) {
        if slot.0 as usize >= self.processes.len() {
            self.lost.processes += 1;
            return;
        }
        let row = snap.process(slot).filter(|row| !row.gone);
        let state = &mut self.processes[slot.0 as usize];
        if state.id != row.map(|row| row.id) {
            if let Some(old) = state.id
                && self.slots.get(old) == Some(slot)
            {
                self.slots.remove(old);
            }
            let exited = state.id;
            *state = ProcessState::default();
            if let Some(exited) = exited {
                self.forget(exited);
            }
            self.tree.set_group(slot, None);
            self.timers.set(self.process_item(slot), None);
        }
        let Some(row) = row else { return };
        let state = &mut self.processes[slot.0 as usize];
        if state.id.is_none() {
            state.id = Some(row.id);
            state.interval = self.policy.pace.slowest.into();
            // As large as the process table, so it is never full.
            self.lost.processes += u64::from(self.slots.insert(row.id, slot).is_err());
        }
        for (trend, value) in state.trends.iter_mut().zip([row.rss.anon, row.rss.file, row.rss.shmem]) {
            if let Some(value) = value {
                trend.observe(row.read_at, value);
            }
        }
        state.kernel_before = state.kernel_before.or(row.kernel.estimate());
        self.tree.set_group(slot, row.group);
        self.renew_process(slot, snap);
    }

    /// As [`Governor::renew_group`], for a process; also notices that it has become another program.
    pub(super) fn renew_process(&mut self, slot: ProcessSlot, snap: &Snapshot) -> bool {
        let Some(row) = snap.process(slot).filter(|row| !row.gone) else { return false };
        let Some(state) = self.processes.get_mut(slot.0 as usize) else { return false };
        if state.id != Some(row.id) {
            return false;
        }
        let group = row.group.and_then(|group| snap.group(group)).filter(|group| !group.gone);
        let print = print(row, group.map(|group| group.id));
        if state.generation != self.generation || state.print != print {
            let path = group.map(|group| &*group.path);
            state.generation = self.generation;
            state.print = print;
            state.matches = rules_of_process(&self.policy, row, path);
            state.protected = victim::untouchable(row, path, &self.policy.never);
        }
        true
    }

    /// All conditions on a process: of the rules that match it, and its own.
    pub(super) fn conditions(&self, slot: ProcessSlot) -> impl Iterator<Item = Condition> + '_ {
        let state = &self.processes[slot.0 as usize];
        let rules =
            state.matches.iter().filter_map(|rule| Some(self.policy.rules.get(rule.0 as usize)?.when));
        let control = state.id.and_then(|id| self.controls.get(id)).and_then(|set| set.control.condition());
        rules.chain(control)
    }
}

fn print(row: &Process, group: Option<GroupId>) -> u64 {
    let mut hasher = Fnv::default();
    row.comm.hash(&mut hasher);
    row.exe.hash(&mut hasher);
    row.exe_elsewhere.hash(&mut hasher);
    row.uid.hash(&mut hasher);
    row.untouchable.map(|fact| fact as u8).hash(&mut hasher);
    group.hash(&mut hasher);
    hasher.finish()
}

/// The amount that is compared with the line when a process is sampled.
pub(super) fn sampled(condition: &Condition, row: &Process) -> Option<(Bytes, Bytes, Kinds)> {
    let rss = condition.rss?;
    Some((rss.meter(row)?, rss.over, rss.kinds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Step};

    proptest::proptest! {
        #[test]
        fn a_rule_set_holds_what_was_put_in(wanted in proptest::collection::btree_set(0u16..300, 0..40)) {
            let rule = |at: u16| Rule {
                name: at.to_string(),
                scope: Scope::Groups(vec![]),
                when: Condition { group: None, rss: None },
                until: None,
                steps: vec![Step { action: Action::Record, after: Duration::ZERO }],
                log: false,
            };
            let policy = Policy { rules: (0..300).map(rule).collect(), ..Policy::default() };
            let set = RuleSet::of(&policy, |rule| wanted.contains(&rule.name.parse().unwrap()));
            let kept: Vec<u16> = wanted.iter().copied().filter(|&r| r < 256).collect();
            assert_eq!(set.iter().map(|r| r.0).collect::<Vec<_>>(), kept);
            assert_eq!(set.is_empty(), kept.is_empty());
        }
    }
}
