//! One decision as it is shown and kept: from the plain data of the loop to the object of `memgov events`.

use std::sync::Arc;
use std::time::Duration;

use memgov_decide::decision::{
    Decision, MAX_CANDIDATES, MAX_JOBS, Mechanism, Operation, Order, Outcome, Phase, Reason, Source, Take,
    Target,
};
use memgov_decide::hook::{Ended, Run};
use memgov_decide::kernel_memory::{Basis, Diagnosis, Offender};
use memgov_decide::policy::Policy;
use memgov_decide::pressure::Share;
use memgov_decide::snapshot::{GroupSlot, Snapshot};
use memgov_decide::trend::nanos;
use memgov_decide::units::Bytes;

use super::text;
use crate::config::ask::verdict_text;
use crate::serve::wire;
use crate::terminal;

/// Names that a decision holds only by slot, taken while the rows still exist. Taking them copies no path.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The rule's name.
    pub rule: Option<Arc<str>>,
    /// Path of the target group, or of the target process's group.
    pub group: Option<Arc<[u8]>>,
    /// Path of the group that was compared.
    pub compared: Option<Arc<[u8]>>,
    /// Owner of the target group's directory.
    pub owner: Option<u32>,
    /// The target process's name.
    pub comm: [u8; 16],
    /// Its real uid.
    pub uid: Option<u32>,
    /// Names of the ranking, in its order.
    pub ranked: [[u8; 16]; MAX_CANDIDATES],
    /// Paths of ranked jobs, in their order.
    pub jobs: [Option<Arc<[u8]>>; MAX_JOBS],
}

impl Names {
    /// Resolves the slots of a decision. `rule` gives a rule's name by its number.
    pub fn of(decision: &Decision, snap: &Snapshot, rule: impl Fn(usize) -> Option<Arc<str>>) -> Self {
        let mut names = Self::of_target(decision.source, decision.target, Some(&decision.reason), snap, rule);
        for (name, candidate) in names.ranked.iter_mut().zip(decision.ranking.iter()) {
            *name = snap.process(candidate.slot).map_or([0; 16], |p| p.comm);
        }
        for (name, job) in names.jobs.iter_mut().zip(decision.ranking.jobs()) {
            *name = snap.group(job.slot).map(|row| Arc::clone(&row.path));
        }
        names
    }

    /// The same for what is not a decision: an episode, a hold.
    pub fn of_target(
        source: Source,
        target: Target,
        reason: Option<&Reason>,
        snap: &Snapshot,
        rule: impl Fn(usize) -> Option<Arc<str>>,
    ) -> Self {
        let path = |slot: GroupSlot| snap.group(slot).map(|g| Arc::clone(&g.path));
        let mut names = Self::default();
        if let Source::Rule(id) = source {
            names.rule = rule(usize::from(id.0));
        }
        match target {
            Target::Group(_, slot) => {
                names.group = path(slot);
                names.owner = snap.group(slot).and_then(|g| g.owner);
            }
            Target::Process(_, slot) => {
                if let Some(process) = snap.process(slot) {
                    names.group = process.group.and_then(path);
                    (names.comm, names.uid) = (process.comm, process.uid);
                }
            }
            Target::Host => {}
        }
        names.compared = match reason {
            Some(
                Reason::Usage { group, .. }
                | Reason::Kernel { group, .. }
                | Reason::Sockets { group, .. }
                | Reason::Pool { group, .. }
                | Reason::UsageAndRss { group, .. }
                | Reason::Available { group: Some(group), .. }
                | Reason::Pressure { group: Some(group), .. },
            ) => path(*group),
            _ => None,
        };
        names
    }

    /// The group a sentence about the reason should name.
    pub fn compared(&self) -> Option<&[u8]> {
        self.compared.as_deref().or(self.group.as_deref())
    }
}

/// Puts a decision into its shown form. `time` is RFC 3339.
pub fn event(
    decision: &Decision,
    outcome: &Outcome,
    names: &Names,
    time: String,
    page: Bytes,
) -> wire::Event {
    let pid = match decision.target {
        Target::Group(..) | Target::Host => 0,
        Target::Process(who, _) => who.pid,
    };
    let log =
        decision.log.then(|| text::letter_line(decision, names.compared(), comm(&names.comm), pid, page));
    wire::Event {
        id: decision.id.0,
        episode: decision.episode.0,
        time,
        monotonic_ns: decision.at.0,
        source: source(decision.source, names.rule.as_deref()),
        step: decision.step,
        target: target(decision.target, names),
        order: order(&decision.order),
        signal: match decision.order {
            Order::Signal { signal } => Some(signal),
            _ => None,
        },
        share_permille: match decision.order {
            Order::Slow { share, phase: Phase::Begin | Phase::Sustain }
            | Order::Reclaim { share, phase: Phase::Begin | Phase::Sustain, .. } => Some(share),
            _ => None,
        },
        lent_bytes: match decision.order {
            Order::Lend { amount, .. } => Some(amount.0),
            _ => None,
        },
        reason: reason(&decision.reason, names.compared()),
        ranking: ranking(decision, names),
        jobs: jobs(decision, names),
        jobs_considered: Some(decision.ranking.considered).filter(|_| !decision.ranking.jobs().is_empty()),
        takes: match &decision.order {
            Order::Kill { take: Take::Family(family) } => Some(text::family(family)),
            Order::Kill { take: Take::Tree(root) } => Some(text::tree(*root)),
            _ => None,
        },
        allocating: None,
        denials: None,
        left_out: None,
        kernel: None,
        outcome: self::outcome(outcome),
        log: log.flatten(),
        question: question(decision),
        output: None,
        situation: None,
    }
}

/// What is asked, or was answered.
fn question(decision: &Decision) -> Option<wire::QuestionSaid> {
    let number = decision.id.0;
    match decision.order {
        Order::Ask { timeout, default } => Some(wire::QuestionSaid {
            number,
            default: Some(verdict_text(default).into()),
            timeout_ns: Some(nanos(timeout)),
            ..Default::default()
        }),
        Order::Answered { question, verdict, time } => Some(wire::QuestionSaid {
            number: question.0,
            answer: Some(verdict_text(verdict).into()),
            for_ns: time.map(nanos),
            ..Default::default()
        }),
        _ => None,
    }
}

/// A decision as it stands on a tape: without what only the daemon knows (wall clock, outcome).
pub fn canonical(decision: &Decision, snap: &Snapshot, policy: &Policy) -> wire::Event {
    let names = Names::of(decision, snap, |n| policy.rules.get(n).map(|r| r.name.as_str().into()));
    event(decision, &Outcome::Nothing, &names, String::new(), snap.host.page)
}

/// The shown form of a target.
pub fn target(target: Target, names: &Names) -> wire::Target {
    let group = names.group.as_deref();
    match target {
        Target::Group(id, _) => {
            let path = text::printable(group.unwrap_or(b"?"));
            wire::Target::Group { path, id: id.0, owner: names.owner }
        }
        Target::Process(id, _) => wire::Target::Process {
            pid: id.pid,
            start: id.start,
            comm: text::printable(comm(&names.comm)),
            group: group.map(text::printable),
            uid: names.uid,
        },
        Target::Host => wire::Target::Host {},
    }
}

/// The shown form of where an order comes from.
pub fn source(source: Source, rule: Option<&str>) -> wire::Source {
    match source {
        Source::Rule(_) => wire::Source::Rule { rule: rule.unwrap_or("?").to_owned() },
        Source::Control => wire::Source::Control { control: true },
    }
}

/// A name without its padding.
pub(super) fn comm(comm: &[u8; 16]) -> &[u8] {
    comm.split(|&b| b == 0).next().unwrap_or_default()
}

fn ranking(decision: &Decision, names: &Names) -> Vec<wire::Candidate> {
    let named = decision.ranking.iter().zip(&names.ranked);
    let shown = named.map(|(candidate, name)| wire::Candidate {
        pid: candidate.process.pid,
        start: candidate.process.start,
        comm: text::printable(comm(name)),
        rss_bytes: candidate.rss.0,
    });
    shown.collect()
}

fn jobs(decision: &Decision, names: &Names) -> Vec<wire::Job> {
    let named = decision.ranking.jobs().iter().zip(&names.jobs);
    let shown = named.map(|(job, name)| wire::Job {
        path: text::printable(name.as_deref().unwrap_or(b"?")),
        id: job.group.0,
        priority: job.priority,
        usage_bytes: job.usage.0,
        reservation_bytes: job.reservation.0,
        over_bytes: job.is_over().then(|| (job.usage - job.reservation).0),
        asks: job.wish.map(|wish| text::wish(wish).to_owned()),
    });
    shown.collect()
}

/// The word for an order.
pub const fn order(order: &Order) -> wire::OrderKind {
    match order {
        Order::Record => wire::OrderKind::Record,
        Order::Deny { phase: Phase::Begin, .. } => wire::OrderKind::DenyBegin,
        Order::Deny { phase: Phase::Sustain, .. } => wire::OrderKind::DenySustain,
        Order::Deny { phase: Phase::End, .. } => wire::OrderKind::DenyEnd,
        Order::Slow { phase: Phase::Begin, .. } => wire::OrderKind::SlowBegin,
        Order::Slow { phase: Phase::Sustain, .. } => wire::OrderKind::SlowSustain,
        Order::Slow { phase: Phase::End, .. } => wire::OrderKind::SlowEnd,
        Order::Freeze { phase: Phase::Begin } => wire::OrderKind::FreezeBegin,
        Order::Freeze { phase: Phase::Sustain } => wire::OrderKind::FreezeSustain,
        Order::Freeze { phase: Phase::End } => wire::OrderKind::FreezeEnd,
        Order::Reclaim { phase: Phase::Begin, .. } => wire::OrderKind::ReclaimBegin,
        Order::Reclaim { phase: Phase::Sustain, .. } => wire::OrderKind::ReclaimSustain,
        Order::Reclaim { phase: Phase::End, .. } => wire::OrderKind::ReclaimEnd,
        Order::Squeeze { phase: Phase::Begin } => wire::OrderKind::SqueezeBegin,
        Order::Squeeze { phase: Phase::Sustain } => wire::OrderKind::SqueezeSustain,
        Order::Squeeze { phase: Phase::End } => wire::OrderKind::SqueezeEnd,
        Order::Signal { .. } => wire::OrderKind::Signal,
        Order::Kill { .. } => wire::OrderKind::Kill,
        Order::Relieved => wire::OrderKind::Relieved,
        Order::Lend { phase: Phase::Begin | Phase::Sustain, .. } => wire::OrderKind::LendBegin,
        Order::Lend { phase: Phase::End, .. } => wire::OrderKind::LendEnd,
        Order::Ask { .. } => wire::OrderKind::Ask,
        Order::Answered { .. } => wire::OrderKind::Answered,
        Order::Hook => wire::OrderKind::Hook,
    }
}

/// A reason in its shown form. `group` is the path of the group that was compared.
pub fn reason(reason: &Reason, group: Option<&[u8]>) -> wire::Reason {
    let text = text::reason(reason, group);
    let (mut usage, mut rss, mut left, mut falls, mut held) = (None, None, None, None, None::<Bytes>);
    let mut stalled = None::<(Share, Share)>;
    let kind = match *reason {
        Reason::Usage { usage: value, line, .. } => {
            usage = Some((value, line));
            wire::ReasonKind::Usage
        }
        Reason::Kernel { kernel: value, line, .. } => {
            usage = Some((value, line));
            wire::ReasonKind::Kernel
        }
        Reason::Sockets { sockets: value, line, .. } => {
            (usage, held) = (Some((value, line)), Some(value));
            wire::ReasonKind::Sockets
        }
        Reason::Pool { pool: value, sockets, line, .. } => {
            (usage, held) = (Some((value, line)), sockets);
            wire::ReasonKind::Pool
        }
        Reason::Rss { rss: value, line, .. } => {
            rss = Some((value, line));
            wire::ReasonKind::Rss
        }
        Reason::UsageAndRss { usage: of_group, usage_line, rss: value, line, .. } => {
            (usage, rss) = (Some((of_group, usage_line)), Some((value, line)));
            wire::ReasonKind::UsageAndRss
        }
        Reason::Available { available, line, falling, .. } => {
            (left, falls) = (Some((available, line)), falling);
            wire::ReasonKind::Available
        }
        Reason::Pressure { stalled: share, line, .. } => {
            stalled = Some((share, line));
            wire::ReasonKind::Pressure
        }
        Reason::Calm { stalled: share, until } => {
            stalled = Some((share, until));
            wire::ReasonKind::Relieved
        }
        Reason::Recovered { available, until } => {
            left = Some((available, until));
            wire::ReasonKind::Relieved
        }
        Reason::NoJob { .. } => wire::ReasonKind::NoJob,
        Reason::Relieved { .. } => wire::ReasonKind::Relieved,
        Reason::RuleGone => wire::ReasonKind::RuleGone,
        Reason::TargetGone => wire::ReasonKind::TargetGone,
        Reason::BudgetSpent { .. } => wire::ReasonKind::BudgetSpent,
        Reason::TooManyKills { .. } => wire::ReasonKind::TooManyKills,
        Reason::Protected(_) => wire::ReasonKind::Protected,
        Reason::FreeingPending { .. } => wire::ReasonKind::FreeingPending,
        Reason::NobodyHoldsEnough { .. } => wire::ReasonKind::NobodyHoldsEnough,
        Reason::HostShort { available, keep, .. } => {
            left = available.map(|available| (available, keep));
            wire::ReasonKind::HostShort
        }
        Reason::LoanDue { .. } => wire::ReasonKind::LoanDue,
        Reason::Answered { .. } => wire::ReasonKind::Answered,
        Reason::NoAnswer { .. } => wire::ReasonKind::NoAnswer,
    };
    wire::Reason {
        kind,
        text,
        usage_bytes: usage.map(|(value, _)| value.0),
        usage_line_bytes: usage.map(|(_, line)| line.0),
        sockets_bytes: held.map(|value| value.0),
        rss_bytes: rss.map(|(value, _)| value.0),
        rss_line_bytes: rss.map(|(_, line)| line.0),
        available_bytes: left.map(|(value, _)| value.0),
        available_line_bytes: left.map(|(_, line)| line.0),
        falling_bytes_per_second: falls,
        stalled_thousandths: stalled.map(|(share, _)| share.0),
        stalled_line_thousandths: stalled.map(|(_, line)| line.0),
    }
}

/// An outcome in its shown form.
pub fn outcome(outcome: &Outcome) -> wire::Outcome {
    let mut shown = wire::Outcome {
        kind: wire::OutcomeKind::Nothing,
        processes: None,
        refused: None,
        by: None,
        operation: None,
        errno: None,
        error: None,
        expected_bytes: None,
        freed_bytes: None,
        held_bytes: None,
        run: None,
    };
    let mut failed = |at: Operation, errno: i32| {
        shown.operation = Some(text::operation(at).to_owned());
        shown.errno = Some(errno);
        shown.error = Some(text::errno(errno));
    };
    let mut reached = None;
    shown.kind = match *outcome {
        Outcome::Done { processes, by } => {
            reached = Some((processes, by));
            wire::OutcomeKind::Done
        }
        Outcome::Partial { processes, refused, by, at, errno } => {
            failed(at, errno);
            shown.refused = Some(refused);
            reached = Some((processes, by));
            wire::OutcomeKind::Partial
        }
        Outcome::Refused { at, errno } => {
            failed(at, errno);
            wire::OutcomeKind::Refused
        }
        Outcome::Dead { processes, by, expected, .. } => {
            shown.expected_bytes = Some(expected.0);
            reached = Some((processes, by));
            wire::OutcomeKind::Dead
        }
        Outcome::Pinned { freed, held } => {
            (shown.freed_bytes, shown.held_bytes) = (Some(freed.0), Some(held.0));
            wire::OutcomeKind::Pinned
        }
        Outcome::Ran(run) => {
            shown.run = Some(self::run(run));
            wire::OutcomeKind::Ran
        }
        Outcome::Begun => wire::OutcomeKind::Begun,
        Outcome::Nothing => wire::OutcomeKind::Nothing,
        Outcome::Gone => wire::OutcomeKind::Gone,
        Outcome::LedgerFull => wire::OutcomeKind::LedgerFull,
        Outcome::DryRun => wire::OutcomeKind::DryRun,
        Outcome::Withheld => wire::OutcomeKind::Withheld,
    };
    if let Some((processes, by)) = reached {
        (shown.processes, shown.by) = (Some(processes), Some(text::mechanism(by).to_owned()));
    }
    shown
}

/// The shown form of how a program has ended.
pub fn run(Run { ended, took }: Run) -> wire::ProgramRun {
    let (word, status, signal) = match ended {
        Ended::Exited(status) => ("exited", Some(status), None),
        Ended::Signalled(signal) => ("signalled", None, Some(signal)),
        Ended::Overdue => ("overdue", None, None),
        Ended::CalledOff => ("called-off", None, None),
        Ended::Handled => ("handled", None, None),
        Ended::Gone => ("gone", None, None),
        Ended::Late => ("late", None, None),
    };
    wire::ProgramRun { ended: word.into(), status, signal, took_ns: nanos(took) }
}

fn run_of(shown: &wire::ProgramRun) -> Option<Run> {
    let ended = match shown.ended.as_str() {
        "exited" => Ended::Exited(shown.status?),
        "signalled" => Ended::Signalled(shown.signal?),
        "overdue" => Ended::Overdue,
        "called-off" => Ended::CalledOff,
        "handled" => Ended::Handled,
        "gone" => Ended::Gone,
        "late" => Ended::Late,
        _ => return None,
    };
    Some(Run { ended, took: Duration::from_nanos(shown.took_ns) })
}

/// The outcome a shown form was made from; `None` if it says too little.
pub fn outcome_of(shown: &wire::Outcome) -> Option<Outcome> {
    let by = || {
        text::MECHANISMS.into_iter().find(|m: &Mechanism| shown.by.as_deref() == Some(text::mechanism(*m)))
    };
    let at =
        || text::OPERATIONS.into_iter().find(|a| shown.operation.as_deref() == Some(text::operation(*a)));
    Some(match shown.kind {
        wire::OutcomeKind::Done => Outcome::Done { processes: shown.processes?, by: by()? },
        wire::OutcomeKind::Partial => Outcome::Partial {
            processes: shown.processes?,
            refused: shown.refused?,
            by: by()?,
            at: at()?,
            errno: shown.errno?,
        },
        wire::OutcomeKind::Refused => Outcome::Refused { at: at()?, errno: shown.errno? },
        wire::OutcomeKind::Dead => Outcome::Dead {
            processes: shown.processes?,
            by: by()?,
            choice: 0,
            expected: Bytes(shown.expected_bytes?),
        },
        wire::OutcomeKind::Pinned => {
            Outcome::Pinned { freed: Bytes(shown.freed_bytes?), held: Bytes(shown.held_bytes?) }
        }
        wire::OutcomeKind::Nothing => Outcome::Nothing,
        wire::OutcomeKind::Gone => Outcome::Gone,
        wire::OutcomeKind::LedgerFull => Outcome::LedgerFull,
        wire::OutcomeKind::DryRun => Outcome::DryRun,
        wire::OutcomeKind::Withheld => Outcome::Withheld,
        wire::OutcomeKind::Begun => Outcome::Begun,
        wire::OutcomeKind::Ran => Outcome::Ran(run_of(shown.run.as_ref()?)?),
        wire::OutcomeKind::Pending => return None,
    })
}

/// The shown form of the kind that is to be named.
pub fn cause(found: Diagnosis) -> wire::KernelCause {
    wire::KernelCause {
        kind: found.kind.name().into(),
        bytes: found.held.0,
        grew_bytes: found.grew.map(|grew| grew.0),
        by: match found.basis {
            Basis::Growth => "growth",
            Basis::Holding => "holding",
        }
        .into(),
        pinned: found.is_pinned(),
    }
}

/// The shown form of processes of one name; `twice`: there was an earlier reading.
pub fn holder(one: &Offender, twice: bool) -> wire::KernelHolder {
    wire::KernelHolder {
        comm: wire::text(comm(&one.comm)),
        processes: one.processes,
        born: twice.then_some(one.born),
        oldest_pid: one.oldest.pid,
        threads: one.threads,
        stacks_bytes: one.stacks.map(|it| it.0),
        page_tables_bytes: one.page_tables.map(|it| it.0),
        descriptors: one.descriptors,
    }
}

/// One line for a person.
pub fn line(event: &wire::Event, outcome: &str) -> String {
    let source = match &event.source {
        wire::Source::Rule { rule } => format!("rule {}", terminal::shown(rule)),
        wire::Source::Control { .. } => "control".to_owned(),
        wire::Source::Hand { by } => format!("uid {by}"),
        wire::Source::Kernel { .. } => "kernel".to_owned(),
    };
    let target = match &event.target {
        wire::Target::Group { path, .. } => path.clone(),
        wire::Target::Process { pid, comm, .. } if comm.is_empty() => format!("pid {pid}"),
        wire::Target::Process { pid, comm, .. } => format!("{comm}[{pid}]"),
        wire::Target::Host {} => "the machine".to_owned(),
    };
    let order = text::order(event.order);
    let said = event.question.as_ref().map(|said| format!(" ({})", said.sentence())).unwrap_or_default();
    format!("#{} {source}: {order} {target}: {}{said}; {outcome}", event.id, event.reason.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_done_is_told_by_its_words() {
        use wire::OutcomeKind::*;
        // Without a wildcard: whoever adds an outcome says which it is.
        let undone = |kind| match kind {
            Nothing | Refused | Gone | LedgerFull | DryRun | Withheld => true,
            Done | Partial | Dead | Pinned | Begun | Ran | Pending => false,
        };
        let all = [
            Done, Nothing, Partial, Refused, Dead, Gone, LedgerFull, Pinned, DryRun, Withheld, Pending,
            Begun, Ran,
        ];
        for kind in all {
            let word = serde_json::to_value(kind).unwrap();
            let is_listed = memgov_decide::decision::UNDONE.iter().any(|undone| word == *undone);
            assert_eq!(is_listed, undone(kind), "{kind:?}");
        }
    }

    #[test]
    fn outcomes_go_round() {
        let by = Mechanism::Pidfd;
        for original in [
            Outcome::Done { processes: 2, by },
            Outcome::Partial { processes: 1, refused: 1, by, at: Operation::Prlimit, errno: libc::EPERM },
            Outcome::Refused { at: Operation::Freeze, errno: libc::EBUSY },
            Outcome::Dead { processes: 1, by, choice: 0, expected: Bytes::mib(3) },
            Outcome::Pinned { freed: Bytes::kib(3), held: Bytes::mib(16) },
            Outcome::Nothing,
            Outcome::Gone,
            Outcome::LedgerFull,
            Outcome::DryRun,
            Outcome::Withheld,
            Outcome::Begun,
            Outcome::Ran(Run { ended: Ended::Exited(3), took: Duration::from_nanos(1_234_567_891) }),
            Outcome::Ran(Run { ended: Ended::Signalled(11), took: Duration::ZERO }),
            Outcome::Ran(Run { ended: Ended::Overdue, took: Duration::from_secs(5) }),
            Outcome::Ran(Run { ended: Ended::CalledOff, took: Duration::from_secs(1) }),
            Outcome::Ran(Run { ended: Ended::Handled, took: Duration::from_secs(1) }),
            Outcome::Ran(Run { ended: Ended::Gone, took: Duration::from_secs(1) }),
            Outcome::Ran(Run { ended: Ended::Late, took: Duration::from_secs(1) }),
        ] {
            assert_eq!(outcome_of(&outcome(&original)), Some(original));
        }
        for mechanism in text::MECHANISMS {
            assert_eq!(
                outcome_of(&outcome(&Outcome::Done { processes: 1, by: mechanism })),
                Some(Outcome::Done { processes: 1, by: mechanism })
            );
        }
    }
}
