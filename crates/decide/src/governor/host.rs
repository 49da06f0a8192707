//! The machine as a whole: how much memory is available, how fast that falls, and when it is to be looked at again. Its readings are
//! [`Snapshot::memory`]; whom a shortage costs is [`super::jobs`]'s.

use std::time::Duration;

use crate::decision::{Source, Target};
use crate::policy::{Over, RuleId, Scope};
use crate::pressure::Window;
use crate::snapshot::Snapshot;
use crate::trend::{Fall, Trend, next_look};
use crate::units::{Bytes, Time};

use super::Governor;
use super::judge::{Verdict, judge};
use super::rows::Interval;

/// Nobody allocates slowly for a while before he allocates fast: a processor makes about so much of fresh memory a second. Only says how far ahead
/// of the line to look often.
const BURST: Bytes = Bytes::gib(1);

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
        let interval = self.interval_of_host(snap);
        self.host.interval = interval.into();
        self.timers.set(self.host_item(), Some(self.after(interval)));
    }

    fn interval_of_host(&self, snap: &Snapshot) -> Duration {
        let pace = &self.policy.pace;
        let of_pressure = self
            .policy
            .pressure_of_host()
            .map(|_| self.host.pressure.next_look(snap.memory.stall.watched, pace.slowest));
        let slowest = of_pressure.unwrap_or(pace.slowest);
        let (Some(all), Some(available)) = (snap.host.memory, snap.memory.available) else {
            return slowest;
        };
        let growth = self.host.trend.fastest().max(BURST.0);
        let lines = self.policy.rules.iter().filter(|rule| rule.scope == Scope::Host);
        let lines = lines.filter_map(|rule| match rule.when.group? {
            Over::Available { under, .. } => Some(all - under.of(all)),
            _ => None,
        });
        lines
            .map(|line| next_look(growth, all - available, line, pace))
            .min()
            .map_or(slowest, |soon| soon.min(slowest))
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
