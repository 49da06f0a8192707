//! The table at the end, and the last line. Adds up; knows nothing of where the numbers come from.

use std::fmt::Write;
use std::time::Duration;

use super::results::{Results, Verdict};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it ran.
    pub target: String,
    /// What it was: fmt, unit, portable.
    pub tier: String,
    pub passed: usize,
    pub failed: usize,
    pub not_applicable: usize,
    pub took: Duration,
}

impl Row {
    /// A step that either works or does not.
    pub fn step(target: &str, tier: &str, passed: bool, took: Duration) -> Self {
        let (passed, failed) = (usize::from(passed), usize::from(!passed));
        Self { target: target.to_owned(), tier: tier.to_owned(), passed, failed, not_applicable: 0, took }
    }

    /// A row a tier, in the order the tiers were met; the time is that of the tests.
    pub fn of_results(target: &str, results: &Results) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for test in &results.tests {
            let at = rows.iter().position(|row| row.tier == test.tier).unwrap_or(rows.len());
            if at == rows.len() {
                rows.push(Self {
                    passed: 0,
                    failed: 0,
                    ..Self::step(target, &test.tier, true, Duration::ZERO)
                });
            }
            let row = &mut rows[at];
            row.took += test.took;
            *match test.verdict {
                Verdict::Passed => &mut row.passed,
                Verdict::Failed => &mut row.failed,
                Verdict::NotApplicable => &mut row.not_applicable,
            } += 1;
        }
        rows
    }
}

/// Passed and failed, of all rows.
pub fn totals(rows: &[Row]) -> (usize, usize) {
    (rows.iter().map(|row| row.passed).sum(), rows.iter().map(|row| row.failed).sum())
}

/// The table with its head and, as the last line, the totals.
pub fn render(rows: &[Row]) -> String {
    let head = ["target", "tier", "passed", "failed", "n/a", "seconds"].map(str::to_owned);
    let body = rows.iter().map(|row| {
        let numbers = [row.passed, row.failed, row.not_applicable].map(|number| number.to_string());
        let [passed, failed, not_applicable] = numbers;
        let seconds = format!("{:.1}", row.took.as_secs_f64());
        [row.target.clone(), row.tier.clone(), passed, failed, not_applicable, seconds]
    });
    let lines: Vec<[String; 6]> = [head].into_iter().chain(body).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    let mut out = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right. Writing to a String cannot fail.
            let _ =
                if column < 2 { write!(out, "{cell:<width$}  ") } else { write!(out, "{cell:>width$}  ") };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    let (passed, failed) = totals(rows);
    let _ = writeln!(out, "{passed} passed, {failed} failed");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_ends_with_the_totals() {
        let mut rows = vec![Row::step("source", "fmt", true, Duration::from_millis(1500))];
        rows.push(Row {
            passed: 12,
            failed: 1,
            not_applicable: 3,
            ..Row::step("6.12-v2", "portable", true, Duration::ZERO)
        });
        let expected = "\
target   tier      passed  failed  n/a  seconds
source   fmt            1       0    0      1.5
6.12-v2  portable      12       1    3      0.0
13 passed, 1 failed
";
        assert_eq!(render(&rows), expected);
    }

    #[test]
    fn not_applicable_counts_nowhere() {
        let row = Row { passed: 0, not_applicable: 5, ..Row::step("uml", "portable", true, Duration::ZERO) };
        assert_eq!(totals(&[row]), (0, 0));
    }

    #[test]
    fn results_make_a_row_a_tier() {
        let mut results = Results::default();
        for line in [
            "@@PLAN 3",
            "@@TEST a passed 1000 portable",
            "@@TEST b failed 500 bpf why",
            "@@TEST c not-applicable 1 portable why",
            "@@DONE 1 1 1",
        ] {
            results.line(line);
        }
        results.finish(None, Some(1));
        let rows = Row::of_results("host", &results);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].passed, rows[0].failed, rows[0].not_applicable), (1, 0, 1));
        assert_eq!(
            (rows[1].tier.as_str(), rows[1].failed, rows[1].took),
            ("bpf", 1, Duration::from_millis(500))
        );
        assert_eq!(totals(&rows), (1, 1));
    }
}
