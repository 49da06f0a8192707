//! What all parts together came to: the rows of the table, and what has to be read again when something failed. Of a long
//! log often only the tail is kept, so every failure is repeated there, right before the table.

use std::collections::VecDeque;
use std::fmt::Write;

use super::table::{self, Row};

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

/// The outcome of some parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub rows: Vec<Row>,
    pub failures: Vec<Failure>,
    pub retried: Vec<Retried>,
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
        Self { rows: vec![row], failures, retried: Vec::new() }
    }

    /// Puts another part behind it.
    pub fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.failures.extend(other.failures);
        self.retried.extend(other.retried);
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
    use std::time::Duration;

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
}
