//! What all parts together came to: the rows of the table, and what has to be read again when something failed. Of a long
//! log often only the tail is kept, so every failure is repeated there, right before the table.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use super::results::{TestResult, Verdict};
use super::table::{self, Row};
use crate::progress::heading;

/// Of what a failed test printed, so many lines are repeated.
pub const REPEATED: usize = 20;

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it ran.
    pub target: String,
    /// Which test or step.
    pub name: String,
    /// In a line; may be empty.
    pub reason: String,
    /// The last it printed.
    pub printed: Vec<String>,
}

/// A test that failed once, and its reason then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// Where it ran.
    pub target: String,
    /// Which test.
    pub name: String,
    /// Why it failed at the first try.
    pub first: String,
}

/// Of a test that a target could run and leaves to another one: what its reason says.
const LEFT: &str = "here when asked for";

/// Whether each test was shown on some target, by name; if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown(BTreeMap<String, Option<String>>);

impl Shown {
    /// Of one target.
    pub fn of(results: &[TestResult]) -> Self {
        let why = |test: &TestResult| (test.verdict == Verdict::NotApplicable).then(|| test.reason.clone());
        Self(results.iter().map(|test| (test.name.clone(), why(test))).collect())
    }

    fn add(&mut self, other: Self) {
        for (name, why) in other.0 {
            match (self.0.entry(name).or_insert_with(|| why.clone()), why) {
                (known, None) => *known = None,
                // That it could have been shown is what has to be known.
                (Some(known), Some(why)) if why.contains(LEFT) => *known = why,
                _ => {}
            }
        }
    }

    fn nowhere(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().filter_map(|(name, why)| Some((name, why.as_ref()?)))
    }
}

/// The outcome of some parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub rows: Vec<Row>,
    pub failures: Vec<Failure>,
    pub retried: Vec<Retried>,
    pub shown: Shown,
}

impl Summary {
    /// Of one step; what it printed matters if it failed.
    pub fn step(row: Row, reason: String, printed: Last) -> Self {
        let failure = Failure {
            target: row.target.clone(),
            name: row.tier.clone(),
            reason,
            printed: printed.lines().collect(),
        };
        let failures = if row.failed > 0 { vec![failure] } else { Vec::new() };
        Self { rows: vec![row], failures, ..Self::default() }
    }

    /// Puts another part behind it.
    pub fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.failures.extend(other.failures);
        self.retried.extend(other.retried);
        self.shown.add(other.shown);
    }

    /// At the end of a run of everything: what each target left to another one and none has shown has failed; what takes another kernel or minutes is told.
    pub fn nothing_is_left_to_nobody(&mut self) {
        let (left, told): (Vec<_>, Vec<_>) = self.shown.nowhere().partition(|(_, why)| why.contains(LEFT));
        if !told.is_empty() {
            heading("shown on no target of this run:");
        }
        for (name, why) in told {
            println!("{name}: {why}");
        }
        let failure = |(name, why): (&String, &String)| Failure {
            target: "all".into(),
            name: name.clone(),
            reason: format!("left to another target by each: {why}"),
            printed: Vec::new(),
        };
        let failures: Vec<_> = left.into_iter().map(failure).collect();
        let row = Row {
            failed: failures.len(),
            ..Row::step("all", "shown somewhere", failures.is_empty(), Duration::ZERO)
        };
        self.failures.extend(failures);
        self.rows.push(row);
    }

    /// What failed and what was tried twice, then the table; the last line has the totals.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        if !self.failures.is_empty() {
            let _ = writeln!(out, "==> failed:");
        }
        for Failure { target, name, reason, printed } in &self.failures {
            let separator = if reason.is_empty() { "" } else { ": " };
            let _ = writeln!(out, "{target}: FAILED {name}{separator}{reason}");
            for line in printed {
                let _ = writeln!(out, "    | {line}");
            }
        }
        if !self.retried.is_empty() {
            let _ = writeln!(out, "==> tried a second time:");
        }
        for Retried { target, name, first } in &self.retried {
            let _ = writeln!(out, "{target}: {name}: at first: {first}");
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out + &table::render(&self.rows)
    }
}

/// The last lines of many.
#[derive(Debug, Default)]
pub struct Last {
    lines: VecDeque<String>,
}

impl Last {
    /// Another line.
    pub fn push(&mut self, line: &str) {
        if self.lines.len() == REPEATED {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    /// Those that are kept, in their order.
    pub fn lines(self) -> impl Iterator<Item = String> {
        self.lines.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stand_before_the_table_and_the_totals_last() {
        let mut printed = Last::default();
        (0..=REPEATED).for_each(|n| printed.push(&format!("line {n}")));
        let row = |passed| Row::step("source", "fmt", passed, Duration::ZERO);
        let mut summary = Summary::step(row(false), "exit status 1".into(), printed);
        summary.add(Summary::step(row(true), String::new(), Last::default()));
        summary.add(Summary {
            retried: vec![Retried { target: "uml".into(), name: "wl_01".into(), first: "late".into() }],
            ..Summary::default()
        });
        let text = summary.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["==> failed:", "source: FAILED fmt: exit status 1", "    | line 1"]);
        assert_eq!(lines[1 + REPEATED], "    | line 20");
        assert_eq!(
            lines[2 + REPEATED..4 + REPEATED],
            ["==> tried a second time:", "uml: wl_01: at first: late"]
        );
        assert!(lines[5 + REPEATED].starts_with("target"), "{text}");
        assert_eq!(lines.last(), Some(&"1 passed, 1 failed"));
    }

    #[test]
    fn where_all_is_well_there_is_the_table_alone() {
        let summary =
            Summary::step(Row::step("source", "fmt", true, Duration::ZERO), String::new(), Last::default());
        assert_eq!(summary.render(), table::render(&summary.rows));
    }

    #[test]
    fn what_each_leaves_to_another_is_a_failure() {
        let result = |name: &str, verdict, reason: &str| TestResult {
            name: name.into(),
            verdict,
            took: Duration::ZERO,
            tier: "portable".into(),
            reason: reason.into(),
            printed: Vec::new(),
        };
        let left = |name| result(name, Verdict::NotApplicable, "shown on the host; here when asked for");
        let cannot = |name| result(name, Verdict::NotApplicable, "no nginx");
        let target = |results: &[TestResult]| Summary { shown: Shown::of(results), ..Summary::default() };
        let mut summary = target(&[left("a"), cannot("b"), cannot("c"), left("d")]);
        summary.add(target(&[result("a", Verdict::Passed, ""), cannot("b"), left("c"), cannot("d")]));
        summary.nothing_is_left_to_nobody();
        let failed: Vec<_> = summary.failures.iter().map(|failure| failure.name.as_str()).collect();
        assert_eq!(failed, ["c", "d"]);
        assert_eq!(table::totals(&summary.rows), (0, 2));
    }
}
