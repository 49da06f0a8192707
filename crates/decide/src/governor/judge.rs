//! Is it over? One question, asked of groups and processes alike, with five honest answers. Pure comparisons of what the
//! snapshot holds; what is unknown is answered with [`Verdict::Unknown`], which changes nothing.

use crate::control::MemControl;
use crate::decision::Reason;
use crate::policy::{
    Condition, DEFAULT_BAND, MAX_DEFAULT_BAND, Meter, Over, Pattern, Rule, Scope, names_it_or_above,
};
use crate::pressure::{Pressed, Share};
use crate::snapshot::{Group, GroupId, GroupSlot, Host, Process, Snapshot};
use crate::units::{Bytes, Limit};

use super::lend::Loan;
use super::tree::Tree;

/// Pages the kernel charges at once, on each processor: memory that is charged and not yet used.
const CHARGE_BATCH_PAGES: u64 = 64;

/// Which groups above a process the group part of a condition is compared with.
#[derive(Clone, Copy, Debug)]
enum Reach<'a> {
    /// The target itself is a group.
    Itself,
    /// Only the group the process is in: a plain amount says nothing about the groups above, which hold others too.
    Nearest,
    /// It and all above it, as the letter walks: the first that is over is the reason.
    Above,
    /// Those of them that the rule names.
    Named(&'a [Pattern]),
    /// No group, but the machine.
    Host,
}

/// A condition with all that is needed to judge it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub condition: Condition,
    reach: Reach<'a>,
    until: Option<Bytes>,
    /// Controls have the letter's hysteresis: none but the charge batch.
    letter: bool,
    /// What the group was lent: its lines are where they were without that.
    loan: Option<Loan>,
    /// So much under its hard limit is not available.
    reserve: Bytes,
    /// How much of the time somebody waits for memory, where that is asked and known.
    pressed: Option<Pressed>,
    /// How fast what is available falls, in bytes a second; likewise.
    falling: Option<u64>,
}

impl<'a> Question<'a> {
    fn of(rule: &'a Rule, reach: Reach<'a>) -> Self {
        let (condition, until) = (rule.when, rule.until);
        let (reserve, loan, pressed, falling) = (Bytes(0), None, None, None);
        Self { condition, reach, until, letter: false, loan, reserve, pressed, falling }
    }

    /// What a rule asks about a group as a whole, of whose hard limit so much is kept.
    pub fn of_group(rule: &'a Rule, reserve: Bytes) -> Self {
        Self { reserve, ..Self::of(rule, Reach::Itself) }
    }

    /// What a rule asks about a process.
    pub fn of_process(rule: &'a Rule) -> Self {
        let reach = match (&rule.scope, rule.when.group) {
            (Scope::Groups(patterns), _) => Reach::Named(patterns),
            (Scope::Host, _) => Reach::Host,
            (
                Scope::Processes(_),
                Some(
                    Over::High { .. }
                    | Over::Kernel(_)
                    | Over::Sockets(_)
                    | Over::Pool(_)
                    | Over::Available { .. }
                    | Over::Pressure { .. },
                )
                | None,
            ) => Reach::Above,
            (Scope::Processes(named), Some(Over::Amount(_))) if named.groups.is_empty() => Reach::Nearest,
            (Scope::Processes(named), Some(Over::Amount(_))) => Reach::Named(&named.groups),
        };
        Self::of(rule, reach)
    }

    /// What a rule asks about the machine.
    pub fn of_host(rule: &'a Rule) -> Self {
        Self::of(rule, Reach::Host)
    }

    /// What a control asks about its process; `None` if it asks nothing (NONE, or a signal already spent).
    pub fn of_control(control: &MemControl) -> Option<Self> {
        let condition = control.condition()?;
        Some(Self {
            condition,
            reach: Reach::Above,
            until: None,
            letter: true,
            loan: None,
            reserve: Bytes(0),
            pressed: None,
            falling: None,
        })
    }

    /// The same of a group, or the machine, where somebody waits for memory so much of the time.
    pub fn with_pressure(self, pressed: Option<Pressed>) -> Self {
        Self { pressed, ..self }
    }

    /// The same of a group, or the machine, whose available memory falls so fast.
    pub fn with_fall(self, falling: Option<u64>) -> Self {
        Self { falling, ..self }
    }

    /// Whether so much that is available is gone soon enough for the rule, if it asks that. Whatever the rate, a line is relieved by the level alone.
    fn runs_out(&self, over: Over, available: Bytes) -> bool {
        let Over::Available { exhausted_in: Some(time), .. } = over else { return true };
        let left = u128::from(available.0) * 1_000_000_000;
        self.falling.is_some_and(|rate| rate > 0 && left < u128::from(rate) * time.as_nanos())
    }

    /// How fast it falls, where the rule asks that: for the record.
    fn falling(&self) -> Option<u64> {
        self.falling
            .filter(|_| matches!(self.condition.group, Some(Over::Available { exhausted_in: Some(_), .. })))
    }

    /// The same about a group that was lent so much.
    pub fn with_loan(self, loan: Option<Loan>) -> Self {
        Self { loan, ..self }
    }

    /// Where the line lies, whatever the group was lent.
    fn line(&self, over: Over, row: &Group) -> Option<Bytes> {
        match (over, &self.loan) {
            (Over::Available { under, .. }, _) => Some(under.line(self.own_max(row)?.bytes()?, self.reserve)),
            (Over::High { plus }, Some(loan)) => loan.own_high(row)?.bytes().map(|high| high + plus),
            _ => over.line(row),
        }
    }

    /// The hard limit, whatever the group was lent.
    fn own_max(&self, row: &Group) -> Option<Limit> {
        self.loan.map_or(row.max, |loan| loan.own_max(row))
    }

    /// Up to where memory is available: that without the reserve.
    fn available_up_to(&self, row: &Group) -> Option<Limit> {
        self.own_max(row).map(|max| match max {
            Limit::At(max) => Limit::At(max - self.reserve),
            Limit::Max => Limit::Max,
        })
    }

    /// What is compared with the line.
    fn meter(&self, over: Over, row: &Group, line: Bytes) -> Option<Bytes> {
        let value = over.meter(row)?;
        // What can be had back is not read as long as usage alone is under the raised limit's line: that much is not known.
        let short = matches!(over, Over::Available { .. }) && row.reclaimable.is_none() && value > line;
        (!short).then_some(value)
    }

    /// The relief level of a line that is crossed: where what is done about it is to lead.
    pub fn relief(&self, line: Bytes, host: &Host) -> Bytes {
        self.until.map_or_else(|| self.until(line, host), |until| until.min(line))
    }

    /// The last group above a process that its condition's group part looks at, beginning with the one it is in; `Some(None)`: all count.
    /// `None`: there is none. (All between count too: what a rule names goes for what is below it.)
    pub fn looks_up_to(
        &self,
        snap: &Snapshot,
        tree: &Tree,
        from: Option<GroupSlot>,
    ) -> Option<Option<GroupId>> {
        let row = |slot| snap.group(slot).filter(|row| !row.gone && in_reach(self.reach, row));
        match self.reach {
            Reach::Above => Some(None),
            Reach::Host => None,
            Reach::Itself | Reach::Nearest => Some(Some(row(from?)?.id)),
            Reach::Named(_) => tree.upward(from).filter_map(row).last().map(|row| Some(row.id)),
        }
    }

    /// The relief level under a line.
    fn until(&self, line: Bytes, host: &Host) -> Bytes {
        let widest = if self.letter {
            Bytes(CHARGE_BATCH_PAGES.saturating_mul(host.page.0).saturating_mul(u64::from(host.cpus)))
        } else {
            MAX_DEFAULT_BAND
        };
        line - Bytes(line.0 / DEFAULT_BAND).min(widest)
    }
}

/// A line that is crossed, with what the actions need to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Excess {
    pub reason: Reason,
    /// The meter: the RSS sum where the condition has one, else the usage.
    pub value: Bytes,
    /// The line of that meter.
    pub line: Bytes,
    /// How far it may still grow before worse happens (`memory.max`; where there is none, a quarter of the line).
    pub room: Bytes,
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Over(Excess),
    /// Not over, and not down to the relief level: whatever is in force stays, nothing is added.
    InBand,
    Relieved {
        value: Bytes,
        until: Bytes,
    },
    /// The same of a share of the time.
    Calm {
        stalled: Share,
        until: Share,
    },
    /// There is nothing to be over any more (`memory.high` became `max`).
    NoLine,
    /// Something is not known, and what is known does not decide it.
    Unknown,
}

/// One half of the answer.
enum Part {
    Over {
        value: Bytes,
        line: Bytes,
        group: Option<(GroupSlot, Option<Limit>)>,
    },
    /// Of the machine.
    HostOver {
        value: Bytes,
        line: Bytes,
        all: Bytes,
    },
    InBand,
    Relieved {
        value: Bytes,
        until: Bytes,
    },
    NoLine,
    Unknown,
}

/// Judges a group (`process: None`) or a process in it.
pub(super) fn judge(
    question: &Question,
    snap: &Snapshot,
    tree: &Tree,
    group: Option<GroupSlot>,
    process: Option<&Process>,
) -> Verdict {
    if let Some(Over::Pressure { over, until }) = question.condition.group {
        return pressure(question, over, until, snap, group);
    }
    let usage = question.condition.group.map(|over| match question.reach {
        Reach::Host => host_part(question, over, snap),
        _ => usage_part(question, over, snap, tree, group),
    });
    let rss = question.condition.rss.is_some().then(|| rss_part(question, &snap.host, process));
    match (usage, rss) {
        (Some(part), None) | (None, Some(part)) => alone(question, &part, snap),
        (Some(usage), Some(rss)) => both(question, &usage, &rss),
        (None, None) => Verdict::NoLine,
    }
}

/// The group part: over if any group in reach is, relieved if all that have a line are.
fn usage_part(
    question: &Question,
    over: Over,
    snap: &Snapshot,
    tree: &Tree,
    from: Option<GroupSlot>,
) -> Part {
    let depth = if matches!(question.reach, Reach::Itself | Reach::Nearest) { 1 } else { usize::MAX };
    let (mut unknown, mut in_band, mut relieved) = (from.is_none(), false, None);
    for slot in tree.upward(from).take(depth) {
        let Some(row) = snap.group(slot).filter(|row| !row.gone && in_reach(question.reach, row)) else {
            continue;
        };
        let Some(line) = question.line(over, row) else {
            unknown |= over.line_is_unknown(row);
            continue;
        };
        if over.only_tracks(row) {
            continue;
        }
        let until = match (question.until, over) {
            // As an amount of what is available: so much of the limit may not be used.
            (Some(until), Over::Available { .. }) => {
                question.available_up_to(row).and_then(Limit::bytes).map_or(line, |max| max - until).min(line)
            }
            (Some(until), _) if question.condition.rss.is_none() => until.min(line),
            _ => question.until(line, &snap.host),
        };
        // Of what is available under it the limit is the group's own.
        let max =
            if matches!(over, Over::Available { .. }) { question.available_up_to(row) } else { row.max };
        match question.meter(over, row, line) {
            None => unknown = true,
            Some(value) if value > line => {
                let left = max.and_then(Limit::bytes).map(|max| max - value).unwrap_or_default();
                if question.runs_out(over, left) {
                    return Part::Over { value, line, group: Some((slot, max)) };
                }
                in_band = true;
            }
            Some(value) if value > until => in_band = true,
            Some(value) => relieved = relieved.or(Some(Part::Relieved { value, until })),
        }
    }
    match relieved {
        _ if unknown => Part::Unknown,
        _ if in_band => Part::InBand,
        Some(relieved) => relieved,
        None => Part::NoLine,
    }
}

/// The machine: over if what it has cannot be had back as far as the line, and is running out as fast as the rule asks.
fn host_part(question: &Question, over: Over, snap: &Snapshot) -> Part {
    let Over::Available { under, .. } = over else { return Part::NoLine };
    let (Some(all), Some(available)) = (snap.host.memory, snap.memory.available) else {
        return Part::Unknown;
    };
    let (value, line) = (all - available, all - under.of(all));
    let until =
        question.until.map_or_else(|| question.until(line, &snap.host), |until| (all - until).min(line));
    if value <= until {
        return Part::Relieved { value, until };
    }
    if value <= line || !question.runs_out(over, available) {
        return Part::InBand;
    }
    Part::HostOver { value, line, all }
}

/// Of a group as a whole, or the machine. What is held is named for what is done about it, and is not compared.
fn pressure(
    question: &Question,
    line: Share,
    until: Share,
    snap: &Snapshot,
    group: Option<GroupSlot>,
) -> Verdict {
    let Some(pressed) = question.pressed else { return Verdict::Unknown };
    let stalled = pressed.share;
    let (held, could_go) = match group.map(|slot| snap.group(slot)) {
        Some(row) => (row.and_then(|row| row.usage), row.and_then(|row| row.reclaimable)),
        None => (snap.host.memory, snap.memory.available),
    };
    if stalled <= until || !pressed.is_short(held, could_go) {
        return Verdict::Calm { stalled, until };
    }
    if stalled <= line {
        return Verdict::InBand;
    }
    let value = held.unwrap_or_default();
    let reason = Reason::Pressure { group, stalled, line };
    Verdict::Over(Excess { reason, value, line: value, room: Bytes(0) })
}

/// The root is never charged and never a target.
fn in_reach(reach: Reach, row: &Group) -> bool {
    &*row.path != b"/"
        && match reach {
            Reach::Itself | Reach::Nearest | Reach::Above => true,
            Reach::Host => false,
            Reach::Named(patterns) => names_it_or_above(patterns, &row.path),
        }
}

fn rss_part(question: &Question, host: &Host, process: Option<&Process>) -> Part {
    let Some(rss) = question.condition.rss else { return Part::NoLine };
    let until = question.until.map_or_else(|| question.until(rss.over, host), |until| until.min(rss.over));
    match process.and_then(|process| rss.meter(process)) {
        None => Part::Unknown,
        Some(value) if value > rss.over => Part::Over { value, line: rss.over, group: None },
        Some(value) if value > until => Part::InBand,
        Some(value) => Part::Relieved { value, until },
    }
}

/// A quarter above the line: where slowing down must have stopped the growth if there is no `memory.max` to say it.
fn ceiling(line: Bytes) -> Bytes {
    line + Bytes(line.0 / 4)
}

fn alone(question: &Question, part: &Part, snap: &Snapshot) -> Verdict {
    match *part {
        Part::Over { value, line, group: Some((group, _)) }
            if question.condition.group.is_some_and(Over::asks_for_sockets) =>
        {
            let reason = of_sockets(question.condition.meter(), group, value, line, snap);
            Verdict::Over(Excess { reason, value, line, room: ceiling(line) - value })
        }
        Part::Over { value, line, group: Some((group, _)) }
            if question.condition.group.is_some_and(Over::is_kernel) =>
        {
            let reason = Reason::Kernel { group, kernel: value, line };
            Verdict::Over(Excess { reason, value, line, room: ceiling(line) - value })
        }
        Part::Over { value, line, group: Some((group, Some(Limit::At(max)))) }
            if question.condition.meter() == Meter::Available =>
        {
            let (available, under) = (max - value, max - line);
            let falling = question.falling();
            let reason = Reason::Available { group: Some(group), available, line: under, falling };
            Verdict::Over(Excess { reason, value, line, room: available })
        }
        Part::HostOver { value, line, all } => {
            let (available, under) = (all - value, all - line);
            let falling = question.falling();
            let reason = Reason::Available { group: None, available, line: under, falling };
            Verdict::Over(Excess { reason, value, line, room: available })
        }
        Part::Over { value, line, group: Some((group, max)) } => {
            let top = max.and_then(Limit::bytes).unwrap_or(ceiling(line));
            let reason = Reason::Usage { group, usage: value, line };
            Verdict::Over(Excess { reason, value, line, room: top - value })
        }
        Part::Over { value, line, group: None } => {
            let kinds = question.condition.rss.map(|rss| rss.kinds).unwrap_or_default();
            let reason = Reason::Rss { kinds, rss: value, line };
            Verdict::Over(Excess { reason, value, line, room: ceiling(line) - value })
        }
        Part::InBand => Verdict::InBand,
        Part::Relieved { value, until } => Verdict::Relieved { value, until },
        Part::NoLine => Verdict::NoLine,
        Part::Unknown => Verdict::Unknown,
    }
}

/// Why a line is crossed that sockets have a part in.
fn of_sockets(meter: Meter, group: GroupSlot, value: Bytes, line: Bytes, snap: &Snapshot) -> Reason {
    match meter {
        Meter::Pool => {
            let sockets = snap.group(group).and_then(|row| row.sockets);
            Reason::Pool { group, pool: value, sockets, line }
        }
        _ => Reason::Sockets { group, sockets: value, line },
    }
}

/// Both must be over; one that is relieved settles it, whatever the other is.
fn both(question: &Question, usage: &Part, rss: &Part) -> Verdict {
    match (usage, rss) {
        (_, &Part::Relieved { value, until }) | (&Part::Relieved { value, until }, _) => {
            Verdict::Relieved { value, until }
        }
        (Part::NoLine | Part::HostOver { .. }, _) | (_, Part::NoLine | Part::HostOver { .. }) => {
            Verdict::NoLine
        }
        (Part::Unknown, _) | (_, Part::Unknown) => Verdict::Unknown,
        (Part::InBand, _) | (_, Part::InBand) => Verdict::InBand,
        (
            &Part::Over { value: usage, line: usage_line, group },
            &Part::Over { value: rss, line, group: _ },
        ) => {
            let Some((group, max)) = group else { return Verdict::Unknown };
            let kinds = question.condition.rss.map(|rss| rss.kinds).unwrap_or_default();
            let reason = Reason::UsageAndRss { group, usage, usage_line, kinds, rss, line };
            let left = max.and_then(Limit::bytes).map(|max| max - usage);
            let room = ceiling(line) - rss;
            Verdict::Over(Excess { reason, value: rss, line, room: left.map_or(room, |left| room.min(left)) })
        }
    }
}

/// Whether a group that `question` compares is still over its `memory.high`: the letter's log line is due again only
/// when none is. `None`: not known.
pub(super) fn above_high(
    question: &Question,
    snap: &Snapshot,
    tree: &Tree,
    group: Option<GroupSlot>,
) -> Option<bool> {
    let of_usage = |over| matches!(over, Over::Amount(_) | Over::High { .. });
    if !question.condition.group.is_some_and(of_usage) {
        return Some(false);
    }
    let depth = if matches!(question.reach, Reach::Itself | Reach::Nearest) { 1 } else { usize::MAX };
    for slot in tree.upward(group).take(depth) {
        let Some(row) = snap.group(slot).filter(|row| !row.gone && in_reach(question.reach, row)) else {
            continue;
        };
        if let Limit::At(high) = row.high?
            && row.usage? > high
        {
            return Some(true);
        }
    }
    Some(false)
}
