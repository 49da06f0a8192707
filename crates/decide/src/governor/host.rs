//! The machine as a whole: how much memory is available, how fast that falls, and when it is to be looked at again. Its readings are
//! [`Snapshot::memory`]; whom a shortage costs is [`super::jobs`]'s, or the largest process of all.

use std::time::Duration;

use crate::decision::{Decisions, Order, Reason, Source, Take, Target};
use crate::policy::{Over, RuleId, Scope};
use crate::pressure::Window;
use crate::snapshot::{ProcessSlot, Snapshot};
use crate::trend::{Fall, Trend, next_look};
use crate::units::{Bytes, Time};
use crate::victim::{Selection, unkillable};

use super::brake::Sake;
use super::episode::Episode;
use super::judge::{Excess, Verdict, judge};
use super::ladder::Step;
use super::look::RANKING_PACE;
use super::report::What;
use super::rows::Interval;
use super::{Governor, REPEAT};

/// Nobody allocates slowly for a while before he allocates fast: a processor makes about so much of fresh memory a second. Only says how far ahead
/// of the line to look often.
const BURST: Bytes = Bytes::gib(1);

/// So much time a process, at the least, between two looks at all of them.
const EACH: Duration = Duration::from_millis(1);
/// So long readings are waited for that are as new as the shortage; then those that are there have to do.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct HostState {
    /// Of what is not available.
    trend: Trend,
    fall: Fall,
    /// How much of the time somebody waits.
    pub pressure: Window,
    pub interval: Interval,
    /// It is to be read.
    pub due: bool,
    /// So little is left that whoever is largest may soon have to be known.
    near: bool,
    /// When an episode that may have to choose among all processes last ran.
    pub ranks_at: Option<Time>,
}

impl HostState {
    /// How fast what is available falls, in bytes a second; `None`: not known.
    pub fn falling(&self) -> Option<u64> {
        self.fall.per_second()
    }
}

impl Governor {
    /// Whether some rule is about the machine.
    pub fn watches_host(&self) -> bool {
        self.policy.watches_host()
    }

    /// Weighs a fresh reading, and says when the next is due.
    pub(super) fn look_at_host(&mut self, snap: &Snapshot) {
        if !self.watches_host() {
            self.timers.set(self.host_item(), None);
            return;
        }
        if !snap.fresh_memory {
            // Never read so far: at once.
            if self.timers.at(self.host_item()).is_none() {
                self.timers.set(self.host_item(), Some(self.now));
            }
            return;
        }
        if let (Some(all), Some(available)) = (snap.host.memory, snap.memory.available) {
            self.host.trend.observe(snap.memory.read_at, all - available);
            self.host.fall.observe(snap.memory.read_at, available);
        }
        self.host.pressure.observe(snap.memory.read_at, snap.memory.stall);
        for at in 0..self.policy.rules.len() {
            let Some(rule) = self.policy.rules.get(at).filter(|rule| rule.scope == Scope::Host) else {
                continue;
            };
            let question = self.question_of_host(rule);
            if let (Verdict::Over(_), Ok(rule)) =
                (judge(&question, snap, &self.tree, None, None), u16::try_from(at))
            {
                self.begin(Source::Rule(RuleId(rule)), Target::Host, snap);
            }
        }
        let of_available = self.interval_of_available(snap);
        let of_pressure = self.policy.pressure_of_host();
        let of_pressure = of_pressure
            .map(|_| self.host.pressure.next_look(snap.memory.stall.watched, self.policy.pace.slowest));
        let interval = of_pressure.map_or(of_available, |soon| soon.min(of_available));
        self.host.interval = interval.into();
        self.host.near = of_available <= self.policy.pace.slowest / 4;
        self.timers.set(self.host_item(), Some(self.after(interval)));
    }

    fn interval_of_available(&self, snap: &Snapshot) -> Duration {
        let pace = &self.policy.pace;
        let (Some(all), Some(available)) = (snap.host.memory, snap.memory.available) else {
            return pace.slowest;
        };
        let growth = self.host.trend.fastest().max(BURST.0);
        let lines = self.policy.rules.iter().filter(|rule| rule.scope == Scope::Host);
        let lines = lines.filter_map(|rule| match rule.when.group? {
            Over::Available { under, .. } => Some(all - under.of(all)),
            _ => None,
        });
        lines.map(|line| next_look(growth, all - available, line, pace)).min().unwrap_or(pace.slowest)
    }

    /// Whether all processes of the machine are to be known: some rule takes the largest of them, and there is little left.
    pub fn wants_all_processes(&self) -> bool {
        (self.host.near || self.is_ranking_machine()) && self.policy.ranks_host()
    }

    /// Whether one of them may have to be chosen now.
    pub fn is_ranking_machine(&self) -> bool {
        self.host.ranks_at.is_some_and(|at| at >= self.stepped_at)
    }

    /// How often each process is looked at while one of all is to be chosen: the more there are the slower, so that this never takes much of a processor.
    pub(super) fn ranks_machine_each(&self, snap: &Snapshot) -> Option<Duration> {
        let rows = u32::try_from(snap.processes.len()).unwrap_or(u32::MAX);
        let pace = &self.policy.pace;
        self.is_ranking_machine()
            .then(|| (pace.fastest * RANKING_PACE).max(EACH.saturating_mul(rows)).min(pace.slowest))
    }

    /// Whoever may have to be chosen is read before that.
    pub(super) fn sample_machine(&mut self, snap: &Snapshot) {
        self.host.ranks_at = Some(self.now);
        for (slot, _) in snap.processes.iter() {
            let slot = ProcessSlot(slot);
            if self.renew_process(slot, snap) {
                self.timers.bring_forward(self.process_item(slot), self.now);
            }
        }
    }

    /// Kills the largest process of the machine, if that may be now.
    pub(super) fn kill_of_machine(
        &mut self,
        episode: &mut Episode,
        step: u8,
        excess: &Excess,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Step {
        if let Err(outcome) = self.may_take_others(episode, step, true, snap, out) {
            return outcome;
        }
        let since = episode.began.max(self.kills.settled());
        let (selection, stale) = self.rank_machine(since, snap);
        // Whoever is not known yet is looked for in the next tick.
        let patient = self.now < since + PATIENCE;
        if patient && (stale || self.now <= episode.began) {
            self.sample_machine(snap);
            return Step::Waits;
        }
        if let Some(why) = selection.hopeless() {
            return self.withhold(episode, step, Reason::Protected(why), out);
        }
        let Some(first) = selection.ranking.iter().next() else {
            // As for a group: the ladder goes on, but at its own time.
            let after = self.step_of(episode, step).map_or(Duration::ZERO, |step| step.after);
            return if self.now < episode.base + after + REPEAT { Step::Waits } else { Step::Began };
        };
        let about = (Target::Host, Order::Kill { take: Take::One });
        let why = (excess.reason, selection.ranking);
        let Some(id) = self.emit_about(episode, step, about, why, What::Kill, out) else {
            return Step::Waits;
        };
        episode.noted_freeing = true;
        let group = self.tree.group_of(first.slot);
        self.kills.ordered(self.now, id, Sake::Another, group, first.rss, snap);
        Step::Began
    }

    /// All that may be killed; whether somebody was last read before this.
    fn rank_machine(&mut self, since: Time, snap: &Snapshot) -> (Selection, bool) {
        let (mut selection, mut stale) = (Selection::default(), false);
        for (slot, row) in snap.processes.iter() {
            let slot = ProcessSlot(slot);
            if !self.renew_process(slot, snap) {
                continue;
            }
            let spared = self.protection(slot);
            stale |= spared.is_none() && unkillable(row).is_none() && row.read_at < since;
            selection.consider(slot, row, spared);
        }
        (selection, stale)
    }

    /// When the reading was taken that a shortage of this target shows in.
    pub(super) fn meter_read_at(&self, target: Target, snap: &Snapshot) -> Time {
        match target {
            Target::Host => snap.memory.read_at,
            Target::Group(_, slot) => snap.group(slot).map_or(Time(0), |row| row.read_at),
            Target::Process(_, slot) => snap.process(slot).map_or(Time(0), |row| row.read_at),
        }
    }
}
