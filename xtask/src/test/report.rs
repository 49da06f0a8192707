//! The results of one target as they come: shown at once, and kept for the summary with what was printed before them.

use std::collections::VecDeque;

use super::results::{Meaning, Results, TestResult, Verdict};
use super::summary::{Failure, REPEATED, Retried, Shown, Summary};
use super::table::Row;

/// What a test printed before it failed: this many lines are shown.
const SHOWN: usize = 60;
/// Of a reason of many lines, so many are kept besides: what the daemon said of itself, and the end of its log.
const REASON: usize = 40;
/// How memgov-systest says that it runs a test again.
const AGAIN: &str = ": failed, and is tried once more: ";

/// One target's.
pub struct Report {
    target: &'static str,
    results: Results,
    printed: VecDeque<String>,
    /// The last result was a failure, and nothing but the rest of its reason (indented) has come since.
    in_reason: bool,
    retried: Vec<Retried>,
}

impl Report {
    /// Nothing yet.
    pub fn new(target: &'static str) -> Self {
        let (results, printed) = (Results::default(), VecDeque::new());
        Self { target, results, printed, in_reason: false, retried: Vec::new() }
    }

    /// Takes one line.
    pub fn line(&mut self, line: &str) {
        let result = match self.results.line(line) {
            Meaning::Text => return self.text(line),
            Meaning::Protocol => return,
            Meaning::Result(test) => test.clone(),
        };
        self.say(&result);
        self.in_reason = result.verdict == Verdict::Failed;
        if self.in_reason {
            self.show_printed();
            self.keep_printed();
        }
        self.printed.clear();
    }

    fn text(&mut self, line: &str) {
        if let Some((name, first)) = line.split_once(AGAIN) {
            println!("{}: {line}", self.target);
            let (target, name, first) = (self.target.to_owned(), name.to_owned(), first.to_owned());
            self.retried.push(Retried { target, name, first });
            // What it printed would be taken for the next one's.
            self.show_printed();
            self.printed.clear();
            return;
        }
        self.in_reason &= line.starts_with("    ");
        if let (true, Some(test)) = (self.in_reason, self.results.tests.last_mut()) {
            println!("{}: {line}", self.target);
            if test.printed.len() < REPEATED + REASON {
                test.printed.push(line.to_owned());
            }
            return;
        }
        if self.printed.len() == SHOWN {
            self.printed.pop_front();
        }
        self.printed.push_back(line.to_owned());
    }

    /// With the last result goes the end of what was printed before it.
    fn keep_printed(&mut self) {
        let skip = self.printed.len().saturating_sub(REPEATED);
        if let Some(test) = self.results.tests.last_mut() {
            test.printed = self.printed.iter().skip(skip).cloned().collect();
        }
    }

    /// The end of the run; as [`Results::finish`].
    pub fn finish(mut self, trouble: Option<&str>, code: Option<i32>) -> Summary {
        let reported = self.results.tests.len();
        self.results.finish(trouble, code);
        for test in &self.results.tests[reported..] {
            self.say(test);
        }
        if self.results.tests.len() > reported {
            self.show_printed();
            self.keep_printed();
        }
        let failed = self.results.tests.iter().filter(|test| test.verdict == Verdict::Failed);
        let failures = failed.map(|test| Failure {
            target: self.target.to_owned(),
            name: test.name.clone(),
            reason: test.reason.clone(),
            printed: test.printed.clone(),
        });
        let failures = failures.collect();
        Summary {
            rows: Row::of_results(self.target, &self.results),
            failures,
            retried: self.retried,
            shown: Shown::of(&self.results.tests),
        }
    }

    fn say(&self, test: &TestResult) {
        let TestResult { name, verdict, took, tier, reason, .. } = test;
        let separator = if reason.is_empty() { "" } else { ": " };
        let seconds = took.as_secs_f64();
        println!("{}: {:<6} {name} [{tier}] {seconds:.1} s{separator}{reason}", self.target, verdict.name());
    }

    fn show_printed(&self) {
        for line in &self.printed {
            println!("{}:     | {line}", self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(lines: &[&str], code: i32) -> Summary {
        let mut report = Report::new("6.1-v1");
        lines.iter().for_each(|line| report.line(line));
        report.finish(None, Some(code))
    }

    #[test]
    fn a_failure_has_what_it_printed_and_all_of_its_reason() {
        let mut lines = vec!["@@PLAN 3", "of a", "@@TEST a passed 1 portable"];
        lines.extend(std::iter::repeat_n("chatter of b", 30));
        lines.extend(["@@TEST b failed 1 portable not at once", "    -- status:", "    memgov 0.1", "of c"]);
        lines.extend(["@@TEST c failed 1 portable no", "@@DONE 1 2 0"]);
        let failures = summary(&lines, 1).failures;
        assert_eq!(failures.len(), 2);
        assert_eq!((failures[0].name.as_str(), failures[0].reason.as_str()), ("b", "not at once"));
        assert_eq!(failures[0].target, "6.1-v1");
        assert_eq!(failures[0].printed.len(), REPEATED + 2);
        assert_eq!(failures[0].printed[REPEATED - 1..], ["chatter of b", "    -- status:", "    memgov 0.1"]);
        assert_eq!(failures[1].printed, ["of c"]);
    }

    #[test]
    fn a_run_that_breaks_off_has_its_last_lines() {
        let failures = summary(&["@@PLAN 1", "going well", "Killed"], 137).failures;
        assert_eq!(failures.last().unwrap().printed, ["going well", "Killed"]);
    }

    #[test]
    fn second_tries_are_told() {
        let lines = [
            "@@PLAN 1",
            "wl_01: failed, and is tried once more: peak was 120 MiB",
            "@@TEST wl_01 passed 1 portable 5 ms (at the second try)",
            "@@DONE 1 0 0",
        ];
        let summary = summary(&lines, 0);
        assert!(summary.failures.is_empty());
        let Retried { name, first, .. } = &summary.retried[0];
        assert_eq!((name.as_str(), first.as_str()), ("wl_01", "peak was 120 MiB"));
    }
}
