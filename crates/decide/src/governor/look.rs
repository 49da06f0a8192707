//! Fresh rows against their lines: where an episode begins, which processes a group's usage concerns, and when the
//! row is worth another look.

use std::time::Duration;

use crate::decision::{Source, Target};
use crate::policy::{Meter, Over, Policy, Rule, RuleId};
use crate::snapshot::{Group, GroupSlot, Host, ProcessSlot, Snapshot};
use crate::trend::next_look;
use crate::units::{Bytes, Limit};
use crate::working_set::INTERVAL;

use super::Governor;
use super::judge::{Question, Verdict, judge};
use super::rows::{RuleSet, sampled};

/// By how much an event may come too late: v1 looks at its thresholds once in so many pages on each processor
/// (`THRESHOLDS_EVENTS_TARGET` in mm/memcontrol-v1.c).
const THRESHOLD_PAGES: u64 = 128;

fn late(host: &Host) -> Bytes {
    Bytes(THRESHOLD_PAGES.saturating_mul(host.page.0).saturating_mul(u64::from(host.cpus)))
}

/// How long a group stays watched for the sake of its processes before it is checked that there still are any.
pub(super) const RECHECK: Duration = Duration::from_secs(10);

/// How often a group is read whose line is watched by an event, while it is under it.
const WATCHED: Duration = Duration::from_secs(30);
/// Over this part of the line (or within a quarter of the slowest pace of it), processes are sampled.
const NEAR: u64 = 16;
/// Processes that may have to be ranked are sampled so many times slower than the fastest pace.
pub(super) const RANKING_PACE: u32 = 8;

impl Governor {
    /// Weighs a fresh group, and the processes below it if its usage concerns them.
    pub(super) fn look_at_group(&mut self, slot: GroupSlot, snap: &Snapshot) {
        if !self.renew_group(slot, snap) {
            return;
        }
        let Some(row) = snap.group(slot) else { return };
        self.note_rise(slot, row, snap);
        for id in self.groups[slot.0 as usize].whole.iter() {
            let Some(rule) = self.policy.rules.get(id.0 as usize) else { continue };
            let question = self.question_of_group(rule, slot);
            if let Verdict::Over(_) = judge(&question, snap, &self.tree, Some(slot), None) {
                self.begin(Source::Rule(id), Target::Group(row.id, slot), snap);
            }
        }
        self.look_below(slot, row, snap);
        self.hint_members(slot, row, snap);
        let interval = self.interval_of_group(slot, row, snap);
        let item = self.group_item(slot);
        match interval {
            // A row that has never been read is read at once.
            Some(_) if row.usage.is_none() && self.timers.at(item).is_none() => {
                self.timers.set(item, Some(self.now));
            }
            Some(interval) => self.timers.set(item, Some(self.after(interval))),
            None => self.timers.set(item, None),
        }
        self.groups[slot.0 as usize].interval = interval.unwrap_or(self.policy.pace.slowest).into();
    }

    /// The processes below a group that is close to a line are to be sampled, below one that is over it to be weighed.
    fn look_below(&mut self, slot: GroupSlot, row: &Group, snap: &Snapshot) {
        let state = &self.groups[slot.0 as usize];
        let line = self.watch_line(slot, row);
        let (was_near, near, over) = match (row.usage, line) {
            (Some(usage), Some(line)) => {
                let soon =
                    state.trend.next_look(usage, line, &self.policy.pace) <= self.policy.pace.slowest / 4;
                (state.near, soon || usage > line - Bytes(line.0 / NEAR), usage > line)
            }
            // Not known: as it was.
            (None, Some(_)) => (state.near, state.near, false),
            (_, None) => (state.near, false, false),
        };
        let check = state.watched && self.now.since(state.checked) >= RECHECK;
        self.groups[slot.0 as usize].near = near;
        if !(over || (near && !was_near) || check) {
            return;
        }
        let mut watched = false;
        let mut walk = self.tree.walk(slot);
        while let Some(process) = self.tree.step(&mut walk) {
            if !self.renew_process(process, snap) {
                continue;
            }
            let concerned = self.conditions(process).any(|condition| condition.group.is_some());
            watched |= concerned;
            if concerned && over {
                self.weigh(process, snap);
            }
            if concerned && near && !was_near {
                self.timers.bring_forward(self.process_item(process), self.now);
            }
        }
        let state = &mut self.groups[slot.0 as usize];
        (state.watched, state.checked) = (watched, self.now);
    }

    /// What a process grows its group grows: where usage has risen by half of what was left to a process, that one is looked at now
    /// and not only when its own, perhaps slow, pace says so. A hint, which can only bring a look forward: what is shared may have been charged
    /// to another group. Goes through the processes only when one of them is due, not each time the group is read.
    fn hint_members(&mut self, slot: GroupSlot, row: &Group, snap: &Snapshot) {
        let (Some(usage), Some(hint_at)) = (row.usage, self.groups[slot.0 as usize].hint_at) else { return };
        if usage < hint_at {
            return;
        }
        let mut least = None;
        let mut walk = self.tree.walk(slot);
        while let Some(process) = self.tree.step(&mut walk) {
            if self.tree.group_of(process) != Some(slot) {
                continue;
            }
            match self.processes[process.0 as usize].hint_at {
                Some(at) if usage >= at => {
                    // Set again when it has been read.
                    self.processes[process.0 as usize].hint_at = None;
                    if self.interval_of_process(process, snap).is_some() {
                        self.timers.bring_forward(self.process_item(process), self.now);
                    }
                }
                Some(at) => least = Some(least.map_or(at, |least: Bytes| least.min(at))),
                None => {}
            }
        }
        self.groups[slot.0 as usize].hint_at = least;
    }

    /// Notes at what usage of its group a process that has just been read is to be looked at again.
    fn set_hint(&mut self, slot: ProcessSlot, snap: &Snapshot) {
        let group = self.tree.group_of(slot);
        let usage = group.and_then(|group| snap.group(group)).and_then(|group| group.usage);
        let row = snap.process(slot).filter(|_| self.processes[slot.0 as usize].protected.is_none());
        let left = row.and_then(|row| {
            let alone = self.conditions(slot).filter(|condition| condition.group.is_none());
            let under = alone.filter_map(|condition| sampled(&condition, row));
            under.filter(|(value, line, _)| value <= line).map(|(value, line, _)| line - value).min()
        });
        let hint_at = usage.zip(left).map(|(usage, left)| usage + Bytes((left.0 / 2).max(1)));
        self.processes[slot.0 as usize].hint_at = hint_at;
        if let (Some(group), Some(at)) = (group, hint_at) {
            let least = &mut self.groups[group.0 as usize].hint_at;
            *least = Some(least.map_or(at, |least| least.min(at)));
        }
    }

    /// Weighs a fresh process and says when to sample it again.
    pub(super) fn look_at_process(&mut self, slot: ProcessSlot, snap: &Snapshot) {
        if !self.renew_process(slot, snap) {
            return;
        }
        self.weigh(slot, snap);
        self.watch_groups_of(slot);
        self.set_hint(slot, snap);
        let item = self.process_item(slot);
        let interval = self.interval_of_process(slot, snap);
        let never_read = snap.process(slot).is_some_and(|row| row.rss == crate::snapshot::Rss::default());
        match interval {
            Some(_) if never_read && self.timers.at(item).is_none() => self.timers.set(item, Some(self.now)),
            Some(interval) => self.timers.set(item, Some(self.after(interval))),
            None => self.timers.set(item, None),
        }
        self.processes[slot.0 as usize].interval = interval.unwrap_or(self.policy.pace.slowest).into();
    }

    /// Begins an episode for each condition of a process that holds. A protected process has none.
    pub(super) fn weigh(&mut self, slot: ProcessSlot, snap: &Snapshot) {
        let Some(row) = snap.process(slot) else { return };
        let state = &self.processes[slot.0 as usize];
        if state.protected.is_some() {
            return;
        }
        let (matches, group) = (state.matches, self.tree.group_of(slot));
        let target = Target::Process(row.id, slot);
        for rule in matches.iter() {
            let Some(question) = self.policy.rules.get(rule.0 as usize).map(Question::of_process) else {
                continue;
            };
            if let Verdict::Over(_) = judge(&question, snap, &self.tree, group, Some(row)) {
                self.begin(Source::Rule(rule), target, snap);
            }
        }
        let Some(set) = self.controls.get(row.id) else { return };
        let Some(question) = Question::of_control(&set.control) else { return };
        if let Verdict::Over(_) = judge(&question, snap, &self.tree, group, Some(row)) {
            self.begin(Source::Control, target, snap);
        }
    }

    /// Groups above a process with a group part in its conditions are to be looked at for its sake.
    pub(super) fn watch_groups_of(&mut self, slot: ProcessSlot) {
        if !self.conditions(slot).any(|condition| condition.group.is_some()) {
            return;
        }
        let mut next = self.tree.group_of(slot);
        while let Some(group) = next {
            next = self.tree.upward(Some(group)).nth(1);
            let item = self.group_item(group);
            let state = &mut self.groups[group.0 as usize];
            if state.id.is_some() && !state.watched {
                (state.watched, state.checked) = (true, self.now);
                self.timers.bring_forward(item, self.now);
            }
        }
    }

    /// The lowest line that usage of this group could cross for the sake of a process below it.
    fn watch_line(&self, slot: GroupSlot, row: &Group) -> Option<Bytes> {
        let state = &self.groups[slot.0 as usize];
        let lines = |set: RuleSet| {
            set.iter()
                .filter_map(|rule| line_of(&self.policy, rule, row, Part::Usage))
                .min()
                .map_or(Limit::Max, Limit::At)
        };
        let mut line = lines(state.members);
        if state.watched {
            // Controls on processes below are over from memory.high on, plus what each of them allows.
            line = line.min(lines(self.roaming)).min(row.high.unwrap_or(Limit::Max));
        }
        line.bytes().filter(|_| &*row.path != b"/")
    }

    /// When to look at a group again; `None`: nothing there is measured by looking.
    fn interval_of_group(&self, slot: GroupSlot, row: &Group, snap: &Snapshot) -> Option<Duration> {
        let (state, pace) = (&self.groups[slot.0 as usize], &self.policy.pace);
        let filling = state.trend.fastest().max(filling(snap));
        let measured = !state.whole.is_empty() || state.watched || !state.members.is_empty();
        if !measured || &*row.path == b"/" {
            return None;
        }
        let available = state.whole.iter().filter_map(|rule| self.policy.rules.get(rule.0 as usize));
        let of_available = available
            .filter_map(|rule| rule.when.group.filter(|_| rule.when.meter() == Meter::Available))
            .filter_map(|over| {
                let (value, line) = (over.meter(row).or(row.usage)?, over.line_with(row, state.oom_reserve)?);
                Some(match (over, row.max.and_then(Limit::bytes)) {
                    // Over its line it is waited for until it runs out, and that is as far as the limit.
                    (Over::Available { exhausted_in: Some(time), .. }, Some(max)) if value > line => {
                        next_look(filling, value, max - state.oom_reserve, pace)
                            .min(time / 4)
                            .max(pace.fastest)
                    }
                    _ => next_look(filling, value, line, pace),
                })
            });
        // Over the line of a rule that takes its time it is not looked at for that rule's sake but in each interval.
        let patient = |rule: RuleId| {
            let over = || row.usage > line_of(&self.policy, rule, row, Part::Usage);
            self.policy.rules.get(rule.0 as usize).is_some_and(Rule::is_patient) && over()
        };
        let own = |part: Part| {
            let rules = state.whole.iter().filter(|&rule| !patient(rule));
            rules.filter_map(|rule| line_of(&self.policy, rule, row, part)).min()
        };
        let of_patient = state.whole.iter().any(patient).then_some(INTERVAL.max(pace.fastest));
        let of_kernel = own(Part::Kernel).map(|line| match row.kernel {
            Some(kernel) if !row.kernel_watched => {
                next_look(state.kernel_trend.fastest().max(BURST.0), kernel, line, pace)
            }
            _ => pace.slowest,
        });
        // No event tells of sockets; what fills their buffers does so at the speed of the network, or of memory on loopback.
        let soon = |value: Option<Bytes>, line| {
            value.map_or(pace.slowest, |value| next_look(filling, value, line, pace))
        };
        let of_sockets = own(Part::Sockets).map(|line| soon(row.sockets, line));
        // What TCP may hold follows usage, where the kernel counts them apart.
        let of_pool = own(Part::Pool)
            .map(|line| soon(row.pool(), line).min(if row.sockets_apart { FOLLOWS } else { pace.slowest }));
        let of_pressure =
            state.pressure.as_ref().map(|window| window.next_look(row.stall.watched, pace.slowest));
        let line = own(Part::Usage).into_iter().chain(self.watch_line(slot, row)).min();
        let of_usage = match (line, row.usage) {
            // An event tells when the line is crossed; the rare look is for the day it does not. Close to the line it is
            // sampled all the same.
            (Some(line), Some(usage))
                if row.watched && usage + late(&snap.host) <= line - Bytes(line.0 / NEAR) =>
            {
                Some(WATCHED.max(pace.slowest))
            }
            (Some(line), Some(usage)) => Some(state.trend.next_look(usage, line, pace)),
            (Some(_), None) => Some(pace.slowest),
            // No line: for good where memory.high is `max` (an event says when that changes), else not known yet.
            (None, _) => row.high.is_none().then_some(pace.slowest),
        };
        of_kernel
            .into_iter()
            .chain(of_sockets)
            .chain(of_pool)
            .chain(of_usage)
            .chain(of_available)
            .chain(of_patient)
            .chain(of_pressure)
            .min()
    }

    /// When to sample a process again; `None`: nothing is learnt by it now.
    pub(super) fn interval_of_process(&self, slot: ProcessSlot, snap: &Snapshot) -> Option<Duration> {
        let (state, pace) = (&self.processes[slot.0 as usize], &self.policy.pace);
        let row = snap.process(slot)?;
        if state.protected.is_some() {
            return None;
        }
        let group = self.tree.group_of(slot);
        let above = |wanted: &dyn Fn(GroupSlot) -> bool| self.tree.upward(group).any(wanted);
        let near = above(&|group| self.groups[group.0 as usize].near);
        let ranked =
            above(&|group| self.is_ranking(group)).then_some((pace.fastest * RANKING_PACE).min(pace.slowest));
        self.conditions(slot)
            .filter(|condition| condition.rss.is_some() && (near || condition.group.is_none()))
            .map(|condition| match sampled(&condition, row) {
                Some((value, line, kinds)) => crate::trend::next_look(state.growth(kinds), value, line, pace),
                None => pace.slowest,
            })
            .chain(ranked)
            .chain(self.ranks_machine_each(snap))
            .min()
    }

    /// Whether an episode that may have to choose a victim among the processes of this group runs.
    pub(super) fn is_ranking(&self, group: GroupSlot) -> bool {
        self.groups[group.0 as usize].ranks_at.is_some_and(|at| at >= self.stepped_at)
    }
}

/// Nobody forks slowly for a while before he forks fast: what no event tells of is looked at as if it grew at this rate, a second.
const BURST: Bytes = Bytes::mib(64);

/// The same of what fills a limit: what a processor can ([`super::host`]), while groups are few. There may be a thousand that stand at their limits with page cache,
/// and each look at one of those reads all of its `memory.stat`: of many less is assumed, and what was seen of each counts.
fn filling(snap: &Snapshot) -> u64 {
    let each = FEW_FILLING.0 * FEW / (snap.groups.len() as u64).max(FEW);
    each.max(FILLING.0)
}

const FILLING: Bytes = Bytes::mib(256);
const FEW_FILLING: Bytes = Bytes::mib(1024);
const FEW: u64 = 16;

/// Usage and what TCP may hold beside it drift apart no longer than so.
const FOLLOWS: Duration = Duration::from_secs(1);

/// What of a group's memory a line is for. (What is available has its own pace.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Usage,
    Kernel,
    Sockets,
    Pool,
}

impl Part {
    const fn of(over: Over) -> Option<Self> {
        match over {
            Over::Amount(_) | Over::High { .. } => Some(Self::Usage),
            Over::Kernel(_) => Some(Self::Kernel),
            Over::Sockets(_) => Some(Self::Sockets),
            Over::Pool(_) => Some(Self::Pool),
            Over::Available { .. } | Over::Pressure { .. } => None,
        }
    }
}

/// Where the group part of a rule lies for a group, if it has one for this part of its memory.
pub(super) fn line_of(policy: &Policy, rule: RuleId, row: &Group, part: Part) -> Option<Bytes> {
    let over = policy.rules.get(rule.0 as usize)?.when.group;
    over.filter(|&over| Part::of(over) == Some(part))?.line(row)
}
