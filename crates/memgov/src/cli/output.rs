//! Text for people: tables, sentences. A process may call itself anything, so names go through [`shown`].

use std::fmt::Write as _;
use std::io::{self, Write};

use memgov_decide::units::Bytes;
use serde::Serialize;

use crate::config::signals;
use crate::serve::wire::{Event, OrderKind, Outcome, OutcomeKind, Reason, Source, Target};
use crate::terminal;
pub(crate) use crate::terminal::shown;

/// One JSON object, indented.
pub(crate) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    writeln!(out, "{}", terminal::json(&text))
}

/// One JSON object on one line.
pub(crate) fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::from)?;
    writeln!(out, "{}", terminal::json(&text))
}

/// Columns as wide as their widest cell; the last is not padded.
pub(crate) fn table(out: &mut dyn Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(head[column].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `rule builds`, `its own control`.
pub(crate) fn source(source: &Source) -> String {
    match source {
        Source::Rule { rule } => format!("rule {}", shown(rule)),
        Source::Control { .. } => "own control".into(),
        Source::Hand { by } => format!("uid {by}"),
        Source::Kernel { .. } => "the kernel".into(),
    }
}

/// `/x`, `pid 7 (hog) in /x`; of a process whose name nobody knows any more, `pid 7 in /x`.
pub(crate) fn target(target: &Target) -> String {
    match target {
        Target::Group { path, .. } => shown(path),
        Target::Host {} => "the machine".into(),
        Target::Process { pid, comm, group, .. } => {
            let group = group.as_ref().map(|g| format!(" in {}", shown(g))).unwrap_or_default();
            let name = if comm.is_empty() { String::new() } else { format!(" ({})", shown(comm)) };
            format!("pid {pid}{name}{group}")
        }
    }
}

/// What was ordered, in words.
pub(crate) fn order(order: OrderKind, signal: Option<u8>, share: Option<u16>) -> String {
    let share = share.map(|s| format!(" to {}.{}%", s / 10, s % 10)).unwrap_or_default();
    match order {
        OrderKind::Record => "record".into(),
        OrderKind::DenyBegin => "deny".into(),
        OrderKind::DenySustain => "deny goes on".into(),
        OrderKind::DenyEnd => "deny ends".into(),
        OrderKind::SlowBegin => format!("slow{share}"),
        OrderKind::SlowSustain => format!("slow goes on{share}"),
        OrderKind::SlowEnd => "slow ends".into(),
        OrderKind::FreezeBegin => "freeze".into(),
        OrderKind::FreezeSustain => "freeze goes on".into(),
        OrderKind::FreezeEnd => "freeze ends".into(),
        OrderKind::ReclaimBegin => format!("reclaim{}", share.replace(" to ", " with ")),
        OrderKind::SqueezeBegin => format!("squeeze{}", share.replace(" to ", " with ")),
        OrderKind::ReclaimSustain => "reclaim goes on".into(),
        OrderKind::SqueezeSustain => "squeeze goes on".into(),
        OrderKind::ReclaimEnd => "reclaim ends".into(),
        OrderKind::SqueezeEnd => "squeeze ends".into(),
        OrderKind::Shrink => "shrink".into(),
        OrderKind::Signal => format!("signal {}", signal.map(signals::name).unwrap_or_default()),
        OrderKind::Kill => "kill".into(),
        OrderKind::Relieved => "relieved".into(),
        OrderKind::Denied => "denied".into(),
        OrderKind::Oom => "out of memory".into(),
        OrderKind::OomKill => "killed by the kernel".into(),
        OrderKind::LendBegin => "lend".into(),
        OrderKind::LendEnd => "what was lent is taken back".into(),
        OrderKind::Ask => "ask".into(),
        OrderKind::Answered => "answered".into(),
        OrderKind::Hook => "hook".into(),
    }
}

/// Why, in words.
pub(crate) fn reason(reason: &Reason) -> String {
    shown(&reason.text)
}

/// What came of it, in words.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let count = |n: Option<u32>| match n {
        Some(1) => "1 process".into(),
        Some(n) => format!("{n} processes"),
        None => "?".to_owned(),
    };
    let by = outcome.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let failure = || {
        let operation = outcome.operation.as_deref().unwrap_or("?");
        let number = || outcome.errno.map(|n| format!("errno {n}"));
        let error = outcome.error.clone().or_else(number).unwrap_or_default();
        format!("{operation}: {error}")
    };
    match outcome.kind {
        // A group as such, not processes of it.
        OutcomeKind::Done if outcome.processes == Some(0) => format!("done{by}"),
        OutcomeKind::Partial if outcome.processes == Some(0) => format!("not all of it{by} ({})", failure()),
        OutcomeKind::Done => format!("done to {}{by}", count(outcome.processes)),
        OutcomeKind::Nothing => "nothing to do".into(),
        OutcomeKind::Partial => {
            format!(
                "done to {}{by}, {} refused ({})",
                count(outcome.processes),
                count(outcome.refused),
                failure()
            )
        }
        OutcomeKind::Refused => format!("refused ({})", failure()),
        OutcomeKind::Dead => {
            let freed = outcome.expected_bytes.map(|n| format!(", {} on its way back", Bytes(n)));
            format!("{} dead{by}{}", count(outcome.processes), freed.unwrap_or_default())
        }
        OutcomeKind::Gone => "was gone already".into(),
        OutcomeKind::LedgerFull => "not done: the ledger is full".into(),
        OutcomeKind::DryRun => "dry run: nothing touched".into(),
        OutcomeKind::Pinned => match (outcome.freed_bytes, outcome.held_bytes) {
            (Some(freed), Some(held)) => format!(
                "pinned: a trial of reclaim got back {} of {}; what is left is in use, and the next step did not wait",
                Bytes(freed),
                Bytes(held)
            ),
            _ => "pinned".into(),
        },
        OutcomeKind::Begun => "the program runs".into(),
        OutcomeKind::Ran => {
            let run = outcome.run.as_ref().map(|run| run.sentence());
            format!("the program {}", run.unwrap_or_else(|| "has ended".into()))
        }
        OutcomeKind::Withheld => "withheld".into(),
        OutcomeKind::Pending => "not known yet".into(),
    }
}

/// What was ordered, with how much of it.
pub(crate) fn ordered(event: &Event) -> String {
    let lent = event.lent_bytes.filter(|_| event.order == OrderKind::LendBegin);
    let lent = lent.map(|more| format!(" {}", Bytes(more))).unwrap_or_default();
    order(event.order, event.signal, event.share_permille) + &lent
}

/// An event in a line.
pub(crate) fn event(event: &Event) -> String {
    let order = ordered(event);
    let found = event.kernel.as_ref().map(|found| format!("; {}", crate::record::text::finding(found)));
    let said = event.question.as_ref().map(|said| format!(" ({})", shown(&said.sentence())));
    format!(
        "{}  #{} {}: {}: {order}: {}{} -> {}{}",
        event.time,
        event.id,
        source(&event.source),
        target(&event.target),
        reason(&event.reason),
        said.unwrap_or_default(),
        outcome(&event.outcome),
        found.unwrap_or_default()
    )
}
