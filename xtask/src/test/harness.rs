//! What `cargo test` prints, as a row and as failures with the names of the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::summary::{Failure, Last, Retried, Summary};
use super::table::Row;

const WORKSPACE: &str = "workspace";
/// The reason of a test that failed: what it printed says more.
const FAILED: &str = "";

/// Reads it line by line.
#[derive(Debug, Default)]
pub struct Harness {
    counts: Counts,
    passed: BTreeSet<String>,
    /// Tests that failed or were ignored, in their order.
    failed: Vec<(String, &'static str)>,
    retried: Vec<Retried>,
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
            if let Some(name) = test.strip_suffix(" ... ok") {
                self.passed.insert(name.to_owned());
            }
            for (end, reason) in [(" ... FAILED", FAILED), (" ... ignored", "ignored: nobody ran it")] {
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

    /// What may be run once more: the tests that failed. None where something else failed too, which trying these again
    /// would hide: a harness that crashed, a build.
    pub fn to_try_again(&self) -> Vec<String> {
        if self.counts.begun != self.counts.ended || self.counts.failed != self.failed.len() {
            return Vec::new();
        }
        let failed = self.failed.iter().filter(|(_, reason)| *reason == FAILED);
        failed.map(|(name, _)| name.clone()).collect()
    }

    /// What came of running them once more, and whether cargo was content then. Who passed there passed; who was not seen there, or failed in any crate, failed. Of a run in which
    /// something broke that is none of the tests nothing is taken.
    pub fn tried_again(&mut self, second: &Self, success: bool) {
        let whole = second.counts.begun == second.counts.ended && (success || !second.failed.is_empty());
        if !whole {
            return;
        }
        let mended = |name: &String| {
            second.passed.contains(name) && !second.failed.iter().any(|(failed, _)| failed == name)
        };
        let (mended, failed): (Vec<_>, Vec<_>) =
            self.failed.drain(..).partition(|(name, reason)| *reason == FAILED && mended(name));
        self.failed = failed;
        self.counts.passed += mended.len();
        self.counts.failed -= mended.len();
        for (name, _) in mended {
            let printed: Vec<_> = self.printed.remove(&name).unwrap_or_default().lines().collect();
            self.retried.push(Retried { target: WORKSPACE.to_owned(), name, first: printed.join(" / ") });
        }
    }

    /// The end of it.
    pub fn finish(mut self, success: bool, took: Duration) -> Summary {
        let success = success || (self.counts.failed == 0 && !self.retried.is_empty());
        let counts = self.counts.finish(success);
        let target = || WORKSPACE.to_owned();
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
        let row =
            Row { passed: counts.passed, failed: counts.failed, ..Row::step(WORKSPACE, "unit", true, took) };
        Summary { rows: vec![row], failures, retried: self.retried, ..Summary::default() }
    }
}

/// The sums of all test harnesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    /// Harnesses that said that they run tests, and that said how that ended.
    begun: usize,
    ended: usize,
}

impl Counts {
    /// "running 13 tests", "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
    fn line(&mut self, line: &str) {
        let tests = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
        self.begun += usize::from(tests.is_some_and(|(number, _)| number.parse::<usize>().is_ok()));
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        self.ended += 1;
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
        let counts = count(&lines, false);
        assert_eq!((counts.passed, counts.failed, counts.ended), (15, 2, 2));
    }

    #[test]
    fn an_ignored_test_is_a_failed_one() {
        let line =
            "test result: ok. 1 passed; 0 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let counts = count(&[line], true);
        assert_eq!((counts.passed, counts.failed), (1, 4));
    }

    #[test]
    fn a_build_that_fails_is_no_success() {
        let counts = count(&["error: could not compile"], false);
        assert_eq!((counts.passed, counts.failed), (0, 1));
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

    fn said(lines: &[&str]) -> Harness {
        let mut harness = Harness::default();
        lines.iter().for_each(|line| harness.line(line, true));
        harness
    }

    const TWO_FAILED: &[&str] = &[
        "running 3 tests",
        "test a ... ok",
        "test b ... FAILED",
        "test c ... FAILED",
        "---- b stdout ----",
        "too late",
        "",
        "failures:",
        "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
    ];

    #[test]
    fn who_passes_alone_passed_at_the_second_try() {
        let mut first = said(TWO_FAILED);
        assert_eq!(first.to_try_again(), ["b", "c"]);
        first.tried_again(&said(&[
            "running 2 tests",
            "test b ... ok",
            "test c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s",
        ]), false);
        let summary = first.finish(false, Duration::ZERO);
        assert_eq!((summary.rows[0].passed, summary.rows[0].failed), (2, 1));
        assert_eq!(summary.failures.iter().map(|failure| failure.name.as_str()).collect::<Vec<_>>(), ["c"]);
        assert_eq!((summary.retried[0].name.as_str(), summary.retried[0].first.as_str()), ("b", "too late"));
    }

    #[test]
    fn who_was_not_run_again_or_failed_in_another_crate_failed() {
        let seconds = [
            (&["test b ... ok", "test c ... ok", "test b ... FAILED"][..], false),
            (&["test c ... ok"], true),
        ];
        for (second, success) in seconds {
            let mut first = said(TWO_FAILED);
            first.tried_again(&said(second), success);
            let summary = first.finish(false, Duration::ZERO);
            assert_eq!((summary.rows[0].passed, summary.rows[0].failed), (2, 1), "{second:?}");
        }
        let mut first = said(TWO_FAILED);
        first.tried_again(&said(&["test b ... ok", "test c ... ok"]), true);
        assert_eq!(first.finish(false, Duration::ZERO).rows[0].failed, 0);
    }

    #[test]
    fn nothing_is_taken_from_a_second_run_that_broke() {
        let passed = ["test b ... ok", "test c ... ok"];
        let crashed = [&passed[..], &["running 1 test"]].concat();
        for (second, success) in [(&passed[..], false), (&crashed, true)] {
            let mut first = said(TWO_FAILED);
            first.tried_again(&said(second), success);
            assert_eq!(first.finish(false, Duration::ZERO).rows[0].failed, 2, "{second:?}");
        }
    }

    #[test]
    fn nothing_is_run_again_beside_a_harness_that_crashed() {
        let crashed = [TWO_FAILED, &["running 2 tests", "test d ... ok"]].concat();
        assert!(said(&crashed).to_try_again().is_empty());
    }
}
