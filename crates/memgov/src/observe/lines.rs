//! The lines of usage that matter to a group, and whether somebody tells when they are crossed.

use memgov_decide::governor::Governor;
use memgov_decide::policy::{Meter, Over, Rule, Scope, Under, names_it_or_above};
use memgov_decide::pool::reclaims;
use memgov_decide::pressure::Share;
use memgov_decide::snapshot::{Group, GroupId};
use memgov_decide::units::{Bytes, Limit};

use super::discovery::ControlledLines;
use crate::kernel::layout::is_at_or_below;
use crate::kernel::{MemoryVersion, Reading};

/// Who tells when usage crosses the lowest line of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Alarm {
    /// v1: a threshold stands on every line. v2: `memory.events` is watched.
    pub set: bool,
    /// v2: the lowest line that is a plain amount; `memory.events` speaks of `memory.high` only.
    pub amount: Option<Bytes>,
    /// v2: the configuration's high stands in for the kernel's, which is the only one that tells.
    pub blind: bool,
}

impl Alarm {
    /// Whether nothing can be crossed without being told. A group with no high and no amount has no line at all;
    /// should it get one, crossing it is told.
    pub(super) fn covers(&self, reading: &Reading, version: MemoryVersion) -> bool {
        match version {
            MemoryVersion::V1 => self.set,
            MemoryVersion::V2 => {
                let high = reading.high.and_then(Limit::bytes);
                self.set
                    && !self.blind
                    && self.amount.is_none_or(|amount| high.is_some_and(|high| high <= amount))
            }
        }
    }
}

/// The lines of usage that matter to a group, lowest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lines {
    /// Plain amounts.
    pub amounts: Vec<Bytes>,
    /// The virtual high with what rules and controls put on top; v1 only, where it is the only high there is.
    over_high: Vec<Bytes>,
    /// The configuration gives the group a high.
    pub virtual_high: bool,
    /// Some rule is about its kernel memory, which is then read too.
    pub kernel: bool,
    /// Some rule is about what the buffers of its sockets hold, which is then read too.
    pub sockets: bool,
    /// Lines for usage with sockets in one pool.
    pool: Vec<Bytes>,
    /// Of such a pool page cache gives way to TCP.
    cache_gives_way: bool,
    /// How much has to be available under its limit, by the rules that name it.
    pub available: Vec<Under>,
    /// The last part under the hard limit, which is not available.
    oom_reserve: Bytes,
    /// v1: when it is out of memory it waits, and that is to be heard.
    pub waits: bool,
    /// It may have to give way for others: what it asks for itself is read too.
    pub job: bool,
    /// Some rule asks what it costs the group to do without memory.
    pub strain: bool,
    /// The least part of the time that a rule lets its tasks wait for memory.
    pub pressure: Option<Share>,
}

/// Whether a rule is about this group as a whole.
fn names(rule: &Rule, path: &[u8]) -> bool {
    matches!(&rule.scope, Scope::Groups(patterns) if patterns.iter().any(|pattern| pattern.matches(path)))
}

impl Lines {
    pub(super) fn of(governor: &Governor, controls: &ControlledLines, path: &[u8]) -> Self {
        let mut group = Group::new(GroupId(0), path);
        group.high = governor.virtual_high(path);
        let concerned = |rule: &&Rule| match &rule.scope {
            Scope::Groups(patterns) => names_it_or_above(patterns, path),
            Scope::Processes(of) => of.groups.is_empty() || names_it_or_above(&of.groups, path),
            Scope::Host => false,
        };
        let of_rules = governor.policy().rules.iter().filter(concerned).filter_map(|rule| rule.when.group);
        // A control counts in its process's group and in all above it.
        let of_controls = controls.iter().filter(|(of, _)| is_at_or_below(of, path)).map(|(_, over)| *over);
        let virtual_high = group.high.is_some();
        let policy = governor.policy();
        let of_it = policy.rules.iter().filter(|rule| names(rule, path)).filter_map(|rule| rule.when.group);
        let pressure = of_it.clone().filter_map(|over| match over {
            Over::Pressure { over, .. } => Some(over),
            _ => None,
        });
        let available = of_it.filter_map(|over| match over {
            Over::Available { under, .. } => Some(under),
            _ => None,
        });
        let mut lines = Self {
            amounts: Vec::new(),
            over_high: Vec::new(),
            virtual_high,
            kernel: false,
            sockets: false,
            pool: Vec::new(),
            cache_gives_way: policy
                .rules
                .iter()
                .any(|rule| names(rule, path) && rule.when.meter() == Meter::Pool && reclaims(rule)),
            pressure: pressure.min(),
            available: available.collect(),
            oom_reserve: policy.oom_reserve(path),
            waits: policy.oom_delay(path).is_some(),
            strain: policy.rules.iter().any(|rule| rule.asks_for_strain() && names(rule, path)),
            job: policy.chooses_jobs() && policy.is_job(path),
        };
        for over in of_rules.chain(of_controls) {
            let kind = match over {
                Over::Amount(_) => &mut lines.amounts,
                Over::High { .. } => &mut lines.over_high,
                Over::Kernel(_) => {
                    lines.kernel = true;
                    continue;
                }
                // Likewise by no event.
                Over::Sockets(_) => {
                    lines.sockets = true;
                    continue;
                }
                Over::Pool(line) => {
                    lines.sockets = true;
                    lines.pool.push(line);
                    continue;
                }
                // No event tells of it, and where it lies is not known before the limit is.
                // Likewise.
                Over::Available { .. } | Over::Pressure { .. } => continue,
            };
            kind.extend(over.line(&group));
        }
        lines.amounts.sort_unstable();
        lines.over_high.sort_unstable();
        lines.over_high.dedup();
        lines
    }

    /// Whether it has to be known what of the usage could go: usage alone does not say that enough is available, or tasks may wait for memory.
    pub(super) fn may_be_short(&self, reading: &Reading) -> bool {
        let Some(usage) = reading.usage else { return false };
        let short = |max| self.available.iter().any(|under| usage > under.line(max, self.oom_reserve));
        self.pressure.is_some()
            || reading.max.and_then(Limit::bytes).is_some_and(short)
            || self.makes_room(reading)
    }

    /// Whether memory.stat has to be asked at all.
    pub(super) fn asks_for_cache(&self) -> bool {
        !self.available.is_empty() || self.cache_gives_way || self.pressure.is_some()
    }

    /// TCP would have little room beside all of the usage, and may have that of page cache.
    fn makes_room(&self, reading: &Reading) -> bool {
        let crowded = |line: &Bytes| reading.usage.is_some_and(|usage| usage.0 > line.0 / 2);
        self.cache_gives_way && reading.sockets_apart && self.pool.iter().any(crowded)
    }

    /// What v1 has to tell of. Of a pool usage alone crosses no line; but what TCP may hold beside it is to follow it, and so it is told on its way there.
    pub(super) fn all(&self) -> Vec<Bytes> {
        let mut all = [self.amounts.as_slice(), &self.over_high].concat();
        if let Some(line) = self.pool.iter().min() {
            all.extend((1..=3).map(|quarters| Bytes(line.0 / 4 * quarters)));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}
