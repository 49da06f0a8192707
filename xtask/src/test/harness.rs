//! What `cargo test` prints, as a row and as failures with the names of the tests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::summary::{Failure, Last, Summary};
use super::table::Row;

/// Reads it line by line.
#[derive(Debug, Default)]
pub struct Harness {
    counts: Counts,
    /// Tests that failed or were ignored, in their order.
    failed: Vec<(String, &'static str)>,
    /// What each failed test printed: `---- NAME stdout ----` and what follows.
    printed: BTreeMap<String, Last>,
    section: Option<String>,
    last: Last,
}

impl Harness {
    /// Takes one line; only what the harness says on its standard output counts, but a build says why it failed elsewhere.
    pub fn line(&mut self, line: &str, on_stdout: bool) {
        self.last.push(line);
        if !on_stdout {
            return;
        }
        self.counts.line(line);
        if let Some(test) = line.strip_prefix("test ") {
            for (end, reason) in [(" ... FAILED", ""), (" ... ignored", "ignored: nobody ran it")] {
                if let Some((name, _)) = test.split_once(end) {
                    self.failed.push((name.to_owned(), reason));
                }
            }
        }
        let section = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = section {
            self.section = Some(name.to_owned());
        } else if ["failures:", "stack backtrace:"].contains(&line) || line.starts_with("test result: ") {
            // Of a panic its message is wanted, which a backtrace would push out.
            self.section = None;
        } else if let Some(name) = &self.section
            && !line.is_empty()
        {
            self.printed.entry(name.clone()).or_default().push(line);
        }
    }

    /// The end of it.
    pub fn finish(mut self, success: bool, took: Duration) -> Summary {
        let counts = self.counts.finish(success);
        let target = || "workspace".to_owned();
        let mut failures: Vec<Failure> = Vec::new();
        for (name, reason) in self.failed {
            // Of two tests of one name in two crates the first has what both printed.
            let printed = self.printed.remove(&name).unwrap_or_default().lines().collect();
            failures.push(Failure { target: target(), name, reason: reason.to_owned(), printed });
        }
        if failures.len() < counts.failed {
            let reason =
                format!("{} of {} failures have no name", counts.failed - failures.len(), counts.failed);
            let printed = self.last.lines().collect();
            failures.push(Failure { target: target(), name: "(cargo test)".into(), reason, printed });
        }
        let row = Row {
            passed: counts.passed,
            failed: counts.failed,
            ..Row::step("workspace", "unit", true, took)
        };
        Summary { rows: vec![row], failures, retried: Vec::new() }
    }
}

/// The sums of all test harnesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    /// "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
    fn line(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse::<usize>(), what)) {
                Some((Ok(number), "passed")) => self.passed += number,
                // An ignored test is one that nobody ran.
                Some((Ok(number), "failed" | "ignored")) => self.failed += number,
                _ => {}
            }
        }
    }

    /// A harness that crashed or did not build counts nothing and must not look like success.
    fn finish(mut self, success: bool) -> Self {
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &[&str], success: bool) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.line(line));
        counts.finish(success)
    }

    #[test]
    fn the_sums_of_all_harnesses_are_counted() {
        let lines = [
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test governor::tests::x ... FAILED",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.00s",
        ];
        assert_eq!(count(&lines, false), Counts { passed: 15, failed: 2 });
    }

    #[test]
    fn an_ignored_test_is_a_failed_one() {
        let line =
            "test result: ok. 1 passed; 0 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(count(&[line], true), Counts { passed: 1, failed: 4 });
    }

    #[test]
    fn a_build_that_fails_is_no_success() {
        assert_eq!(count(&["error: could not compile"], false), Counts { passed: 0, failed: 1 });
    }

    #[test]
    fn failures_have_their_names_and_what_they_printed() {
        let mut harness = Harness::default();
        for line in [
            "test good ... ok",
            "test governor::tests::x ... FAILED",
            "test slow ... ignored",
            "",
            "failures:",
            "",
            "---- governor::tests::x stdout ----",
            "thread 'governor::tests::x' panicked at x.rs:1:1:",
            "assertion failed",
            "stack backtrace:",
            "   0: __rustc::rust_begin_unwind",
            "",
            "failures:",
            "    governor::tests::x",
            "",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            harness.line(line, true);
        }
        let summary = harness.finish(false, Duration::ZERO);
        assert_eq!((summary.rows[0].passed, summary.rows[0].failed), (1, 2));
        let names: Vec<&str> = summary.failures.iter().map(|failure| failure.name.as_str()).collect();
        assert_eq!(names, ["governor::tests::x", "slow"]);
        assert_eq!(summary.failures[0].printed[1], "assertion failed");
        assert_eq!(summary.failures[0].printed.len(), 2);
    }

    #[test]
    fn a_failure_without_a_name_is_repeated_by_its_last_lines() {
        let mut harness = Harness::default();
        harness.line("error[E0425]: cannot find value `x`", false);
        let summary = harness.finish(false, Duration::ZERO);
        assert_eq!((summary.rows[0].failed, summary.failures.len()), (1, 1));
        assert_eq!(summary.failures[0].printed, ["error[E0425]: cannot find value `x`"]);
    }
}
