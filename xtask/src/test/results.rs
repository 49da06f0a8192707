//! What `memgov-systest run` prints, as results. A test that was announced and has no result failed; so did a run that
//! does not end as it must. Nothing here can turn into "passed" by being absent.
//!
//! ```text
//! @@PLAN 2
//! @@TEST wl_1_deny passed 1200 portable
//! @@TEST wl_2_slow not-applicable 0 portable no freezer here
//! @@AGAIN wl_1_deny passed 1200 portable
//! @@AGAIN wl_2_slow not-applicable 0 portable no freezer here
//! @@DONE 1 0 1
//! ```
//!
//! A virtual machine's console is its kernel's too, which may speak in the middle of a line: so each result comes twice, and one is enough.

use std::collections::BTreeSet;
use std::time::Duration;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    Passed,
    /// It did not, or never said.
    Failed,
    /// This machine cannot do what it is about.
    NotApplicable,
}

impl Verdict {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "passed" => Some(Self::Passed),
            "failed" => Some(Self::Failed),
            "not-applicable" => Some(Self::NotApplicable),
            _ => None,
        }
    }

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotApplicable => "n/a",
        }
    }
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    pub name: String,
    pub verdict: Verdict,
    pub took: Duration,
    /// The mechanism under test: portable, bpf.
    pub tier: String,
    pub reason: String,
    /// If it failed: the last it printed, and the rest of its reason.
    pub printed: Vec<String>,
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A result, now the last one of the list.
    Result(&'a TestResult),
    /// Part of the protocol, also when it is malformed.
    Protocol,
    /// What the tests print.
    Text,
}

/// The results of one target, line by line.
#[derive(Default)]
pub struct Results {
    pub tests: Vec<TestResult>,
    planned: Option<usize>,
    done: Option<[usize; 3]>,
    wrong: Vec<String>,
}

impl Results {
    /// Takes one line.
    pub fn line(&mut self, line: &str) -> Meaning<'_> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "@@TEST" => match parse_test(rest) {
                Some(test) => {
                    self.tests.push(test);
                    return self.tests.last().map_or(Meaning::Protocol, Meaning::Result);
                }
                None => self.wrong.push(format!("not a result: {line}")),
            },
            "@@AGAIN" => return self.again(rest),
            "@@PLAN" => match rest.trim().parse() {
                Ok(count) if self.planned.is_none() => self.planned = Some(count),
                _ => self.wrong.push(format!("not a plan: {line}")),
            },
            "@@DONE" => match parse_done(rest) {
                Some(counts) if self.done.is_none() => self.done = Some(counts),
                _ => self.wrong.push(format!("not an end: {line}")),
            },
            _ => return Meaning::Text,
        }
        Meaning::Protocol
    }

    /// A result's second time: what got lost the first time is taken from here. Lost here it is missed by nobody who has had it.
    fn again(&mut self, rest: &str) -> Meaning<'_> {
        let Some(test) = parse_test(rest) else { return Meaning::Protocol };
        let known = self.tests.iter().find(|known| (&known.name, &known.tier) == (&test.name, &test.tier));
        match known.map(|known| known.verdict) {
            None => {
                self.tests.push(test);
                self.tests.last().map_or(Meaning::Protocol, Meaning::Result)
            }
            Some(verdict) => {
                if verdict != test.verdict {
                    self.wrong.push(format!("{} has two results", test.name));
                }
                Meaning::Protocol
            }
        }
    }

    /// The end of the run. `trouble` is what its surroundings say against it: a kernel that failed, a time limit; `code`
    /// is its exit status. Adds a failed test for everything that is missing or does not agree.
    pub fn finish(&mut self, trouble: Option<&str>, code: Option<i32>) {
        let mut against: Vec<(&str, String)> = Vec::new();
        against.extend(trouble.map(|trouble| ("run", trouble.to_owned())));
        against.extend(self.wrong.drain(..).map(|wrong| ("protocol", wrong)));
        let mut names = BTreeSet::new();
        for test in &self.tests {
            if !names.insert((&test.name, &test.tier)) {
                against.push(("protocol", format!("{} has two results", test.name)));
            }
        }
        let counts =
            [Verdict::Passed, Verdict::Failed, Verdict::NotApplicable].map(|verdict| self.count(verdict));
        match self.done {
            None => against.push(("run", "it did not come to its end (no @@DONE)".to_owned())),
            Some(done) if done != counts => {
                against.push(("protocol", format!("@@DONE says {done:?}, the results say {counts:?}")));
            }
            Some(_) => {}
        }
        let missing = match self.planned {
            None => {
                against.push(("protocol", "it announced no tests (no @@PLAN)".to_owned()));
                0
            }
            Some(planned) => planned.saturating_sub(self.tests.len()),
        };
        if code != Some(0) && counts[1] == 0 && against.is_empty() {
            against.push(("run", format!("no test failed, but the exit status is {code:?}")));
        }
        let failed = |(name, reason): (&str, String)| TestResult {
            name: format!("({name})"),
            verdict: Verdict::Failed,
            took: Duration::ZERO,
            tier: "-".to_owned(),
            reason,
            printed: Vec::new(),
        };
        self.tests.extend(against.into_iter().map(failed));
        let lost =
            |at| failed(("no result", format!("test {at} of those announced never said how it ended")));
        self.tests.extend((1..=missing).map(lost));
    }

    /// How many ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.tests.iter().filter(|test| test.verdict == verdict).count()
    }
}

fn parse_test(rest: &str) -> Option<TestResult> {
    let mut words = rest.splitn(5, ' ');
    let name = words.next().filter(|name| !name.is_empty())?.to_owned();
    let verdict = Verdict::parse(words.next()?)?;
    let took = Duration::from_millis(words.next()?.parse().ok()?);
    let tier = words.next().filter(|tier| !tier.is_empty())?.to_owned();
    let reason = words.next().unwrap_or_default().trim().to_owned();
    // "Does not apply" without a reason is not an answer.
    (verdict != Verdict::NotApplicable || !reason.is_empty()).then_some(TestResult {
        name,
        verdict,
        took,
        tier,
        reason,
        printed: Vec::new(),
    })
}

fn parse_done(rest: &str) -> Option<[usize; 3]> {
    let counts: Vec<usize> = rest.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    counts.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[&str], trouble: Option<&str>, code: Option<i32>) -> Results {
        let mut results = Results::default();
        for line in lines {
            results.line(line);
        }
        results.finish(trouble, code);
        results
    }

    #[test]
    fn a_result_that_got_lost_is_taken_from_its_second_time() {
        let lines = [
            "@@PLAN 2",
            "@@TEST a passed 1 portable",
            "@@TE[  12.3] a kernel speaks",
            "ST b failed 1 portable why",
            "@@AGAIN a passed 1 portable",
            "@@AGAIN b failed 1 portable why",
            "@@DONE 1 1 0",
        ];
        let results = run(&lines, None, Some(1));
        assert_eq!(counts(&results), [1, 1, 0]);
        assert!(results.tests.iter().all(|test| !test.name.starts_with('(')), "{:?}", results.tests);
        let lines =
            ["@@PLAN 1", "@@TEST a passed 1 portable", "@@AGAIN a failed 1 portable x", "@@DONE 1 0 0"];
        assert_eq!(counts(&run(&lines, None, Some(0)))[1], 1, "they do not agree");
        let lines = ["@@PLAN 2", "@@TEST a passed 1 portable", "@@AGAIN a passed 1 portable", "@@DONE 2 0 0"];
        assert_eq!(counts(&run(&lines, None, Some(0)))[1], 2, "one is lost both times");
    }

    fn counts(results: &Results) -> [usize; 3] {
        [Verdict::Passed, Verdict::Failed, Verdict::NotApplicable].map(|verdict| results.count(verdict))
    }

    const GOOD: &[&str] = &[
        "@@PLAN 3",
        "@@TEST a passed 1200 portable",
        "chatter",
        "@@TEST b not-applicable 0 portable no freezer here",
        "@@TEST c passed 7 portable",
        "@@DONE 2 0 1",
    ];

    #[test]
    fn a_good_run_is_counted_and_not_applicable_is_not_passed() {
        let results = run(GOOD, None, Some(0));
        assert_eq!(counts(&results), [2, 0, 1]);
        assert_eq!(results.tests[0].took, Duration::from_millis(1200));
        assert_eq!(results.tests[1].reason, "no freezer here");
    }

    #[test]
    fn a_failure_keeps_its_reason() {
        let lines = ["@@PLAN 1", "@@TEST a failed 5 portable peak was 120 MiB", "@@DONE 0 1 0"];
        let results = run(&lines, None, Some(1));
        assert_eq!(counts(&results), [0, 1, 0]);
        assert_eq!(results.tests[0].reason, "peak was 120 MiB");
    }

    #[test]
    fn what_was_announced_and_never_reported_failed() {
        let results = run(&GOOD[..2], Some("ended after its limit of 9 s"), None);
        // The trouble, no @@DONE, and two lost tests.
        assert_eq!(counts(&results), [1, 4, 0]);
    }

    #[test]
    fn a_run_that_says_nothing_failed() {
        assert!(counts(&run(&[], None, Some(0)))[1] > 0);
    }

    #[test]
    fn without_any_one_line_a_good_run_is_a_bad_one() {
        for at in (0..GOOD.len()).filter(|&at| GOOD[at].starts_with("@@")) {
            let mut lines = GOOD.to_vec();
            lines.remove(at);
            assert!(counts(&run(&lines, None, Some(0)))[1] > 0, "without {}", GOOD[at]);
        }
    }

    #[test]
    fn trouble_and_a_bad_exit_status_fail_a_good_run() {
        assert_eq!(counts(&run(GOOD, Some("the kernel failed: Oops"), Some(0))), [2, 1, 1]);
        assert_eq!(counts(&run(GOOD, None, Some(101))), [2, 1, 1]);
        assert_eq!(counts(&run(GOOD, None, None)), [2, 1, 1]);
    }

    #[test]
    fn a_malformed_or_repeated_line_fails_the_run() {
        for line in [
            "@@TEST d",
            "@@TEST d ok 5 portable",
            "@@TEST d passed soon portable",
            "@@TEST d passed 5",
            "@@TEST d not-applicable 5 portable",
            "@@TEST a passed 1200 portable",
            "@@PLAN 3",
            "@@PLAN",
            "@@DONE 2 0",
            "@@DONE 2 0 1",
        ] {
            let lines: Vec<_> = GOOD.iter().copied().chain([line]).collect();
            assert!(counts(&run(&lines, None, Some(0)))[1] > 0, "{line}");
        }
    }

    #[test]
    fn other_lines_are_what_tests_print() {
        let mut results = Results::default();
        for line in
            ["", "@@", "x @@TEST a passed 1 portable", "@@TESTS a passed 1 portable", "[ 1.0] @@DONE 1 0 0"]
        {
            assert_eq!(results.line(line), Meaning::Text);
        }
    }
}
