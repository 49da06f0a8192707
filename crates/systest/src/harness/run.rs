//! Runs tests one after the other, each in a scratch tree of its own and with a deadline, and speaks the result protocol:
//!
//! ```text
//! @@PLAN n
//! @@TEST <name> <passed|failed|not-applicable> <millis> <tier> [reason]
//! @@AGAIN <each of them once more>
//! @@DONE passed failed not-applicable
//! ```
//! Other lines are for people.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::bench::Bench;
use super::group;
use super::host::{Host, Need, Tier};
use super::lateness;
use super::selection::left_to_others;
use crate::sys::signal;

/// One test.
pub struct Test {
    /// Its name; a criterion's tests begin with its number.
    pub name: &'static str,
    /// What the machine must have.
    pub needs: &'static [Need],
    /// Seconds it may take on plain hardware.
    pub seconds: u32,
    /// What it does; gives what it measured.
    pub body: fn(&mut Bench<'_>) -> Result<String>,
}

impl Test {
    /// A test that needs nothing special.
    pub const fn new(name: &'static str, body: fn(&mut Bench<'_>) -> Result<String>) -> Self {
        Self { name, needs: &[], seconds: 30, body }
    }
    /// With what the machine must have.
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }
    /// With another time limit.
    pub const fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }
}

enum Verdict {
    Passed(String),
    Failed(String),
    NotApplicable(String),
}

/// A machine that others share stands still at times, an emulated one most of all, in ways no bound allows for: a test that fails is run once more,
/// after all others, when whatever was in its way is over, and says so. No machine is slow enough to excuse a panic of memgov's, or that it had no memory.
#[derive(Clone, Copy)]
enum Try {
    First,
    Second,
}

/// Runs them all, once in each tier; whether none failed. `asked_for`: none is left to another run.
pub fn run(host: &Host, tests: &[Test], tiers: &[Tier], asked_for: bool) -> bool {
    println!("@@PLAN {}", tests.len() * tiers.len());
    let (mut passed, mut failed, mut not_applicable) = (0, 0, 0);
    let hosts: Vec<_> = tiers.iter().map(|&tier| Arc::new(Host { tier, ..host.clone() })).collect();
    lateness::watch(host.patience > 1);
    more_descriptors();
    if let Err(errno) = signal::note_interrupts() {
        println!("errno {errno}: Ctrl-C will leave groups behind");
    }
    let mut results = Vec::new();
    let all = hosts.iter().flat_map(|host| tests.iter().map(move |test| (host, test, Try::First)));
    let mut all: VecDeque<_> = all.collect();
    for number in 0.. {
        let Some((host, test, attempt)) = all.pop_front() else { break };
        if signal::was_interrupted() {
            println!("interrupted");
            return false;
        }
        let (begin, open) = (Instant::now(), descriptors());
        let unmet = test.needs.iter().find_map(|need| need.unmet(host));
        let verdict =
            match unmet.or_else(|| left_to_others(host, test).filter(|_| !asked_for).map(str::to_owned)) {
                Some(why) => Verdict::NotApplicable(why),
                None => isolated(host, test, number),
            };
        let verdict = match (verdict, attempt) {
            (Verdict::Failed(first), Try::First) if !FATAL.iter().any(|said| first.contains(said)) => {
                let mut lines = first.lines();
                println!(
                    "{}: failed, and is tried once more: {}",
                    test.name,
                    lines.next().unwrap_or_default()
                );
                lines.for_each(|line| println!("    {line}"));
                all.push_back((host, test, Try::Second));
                continue;
            }
            (Verdict::Passed(measured), Try::Second) => {
                Verdict::Passed(format!("{measured} (at the second try)"))
            }
            (verdict, _) => verdict,
        };
        let (count, word, reason) = match verdict {
            Verdict::Passed(measured) => (&mut passed, "passed", measured),
            Verdict::Failed(why) => (&mut failed, "failed", why),
            Verdict::NotApplicable(why) => (&mut not_applicable, "not-applicable", why),
        };
        *count += 1;
        let left = descriptors().saturating_sub(open);
        if left > 0 {
            println!("{}: left {left} descriptors open", test.name);
        }
        results.push(report(test.name, host.tier, word, begin.elapsed(), &reason));
    }
    // A console is the kernel's too, and what it says may come in the middle of a line.
    results.iter().for_each(|result| println!("@@AGAIN {result}"));
    println!("@@DONE {passed} {failed} {not_applicable}");
    failed == 0
}

/// Some tests hold a file of each of a thousand groups.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        println!("raising the limit of open files: {errno}");
    }
}

/// Of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Tells of a result; gives its first line.
fn report(name: &str, tier: Tier, word: &str, took: Duration, reason: &str) -> String {
    let mut lines = reason.lines();
    let first = lines.next().unwrap_or_default();
    let result = format!("{name} {word} {} {} {first}", took.as_millis(), tier.name());
    println!("@@TEST {result}");
    lines.for_each(|line| println!("    {line}"));
    result
}

/// Runs one on a thread of its own. Whatever becomes of it, its groups are emptied and removed, and because of that a test
/// that waits for a workload or the daemon comes to its end.
fn isolated(host: &Arc<Host>, test: &Test, number: usize) -> Verdict {
    let name = format!("memgov-t-{}-{number}", std::process::id());
    let (sender, result) = channel();
    let (body, for_test, tree) = (test.body, Arc::clone(host), name.clone());
    let thread = std::thread::spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Bench::new(&for_test, &tree).and_then(|mut bench| body(&mut bench))
        }));
        // The runner may have given up.
        let _too_late = sender.send(outcome);
    });
    let allowed = Duration::from_secs(u64::from(test.seconds * host.patience));
    let mut outcome = receive(&result, allowed);
    let timed_out = matches!(outcome, Err(RecvTimeoutError::Timeout));
    let mut panicked = panics(host, &name);
    let mut cleaned = clean(host, &name);
    if timed_out {
        // Its workloads and its daemon are dead now, so it ends soon, and says what it was waiting for.
        outcome = result.recv_timeout(Duration::from_secs(15));
        panicked = panicked.or_else(|| panics(host, &name));
        cleaned = clean(host, &name);
    }
    if outcome.is_ok() {
        // The thread has sent its result and ends at once; joined so that nothing of it outlives its test.
        let _ended = thread.join();
    }
    match panicked {
        // Also where the test saw nothing of it: a guardian puts right what a panic leaves.
        Some(panicked) => Verdict::Failed(panicked),
        None => verdict(outcome, timed_out.then_some(allowed), cleaned),
    }
}

/// How Rust tells of a panic, and that it has no memory.
const FATAL: [&str; 2] = ["panicked at", "memory allocation of "];

/// What the programs under test have logged from there on.
fn panics(host: &Host, name: &str) -> Option<String> {
    let logs = std::fs::read_dir(host.dir.join(name)).ok()?.flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.into_iter().find_map(|path| {
        let log = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
        let begin = FATAL.iter().filter_map(|said| log.find(said)).min()?;
        Some(log[log[..begin].rfind('\n').map_or(0, |at| at + 1)..].to_owned())
    })
}

/// Waits for the result; Ctrl-C ends the wait like a deadline.
fn receive(result: &Receiver<Outcome>, allowed: Duration) -> std::result::Result<Outcome, RecvTimeoutError> {
    let end = Instant::now() + allowed;
    loop {
        match result.recv_timeout(Duration::from_millis(200)) {
            Err(RecvTimeoutError::Timeout) if Instant::now() < end && !signal::was_interrupted() => {}
            other => return other,
        }
    }
}

type Outcome = std::result::Result<Result<String>, Box<dyn Any + Send>>;

fn verdict(
    outcome: std::result::Result<Outcome, RecvTimeoutError>,
    timed_out: Option<Duration>,
    cleaned: Result<()>,
) -> Verdict {
    let result = match outcome {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Err(anyhow!("panicked: {text}"))
        }
        Err(_) => Err(anyhow!("it did not end, even with its workloads and its daemon dead")),
    };
    let late = |allowed| anyhow!("not done after {allowed:?}");
    let result = match timed_out {
        Some(allowed) => {
            Err(result.err().map_or_else(|| late(allowed), |error| error.context(late(allowed))))
        }
        None => result,
    };
    match (result, cleaned) {
        (Ok(measured), Ok(())) => Verdict::Passed(measured),
        (Ok(_), Err(error)) => Verdict::Failed(format!("cleaning up: {error:#}")),
        (Err(error), _) => Verdict::Failed(format!("{error:#}")),
    }
}

fn clean(host: &Host, name: &str) -> Result<()> {
    group::remove_all(host, name)?;
    let dir = host.dir.join(name);
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let failed = |verdict| match verdict {
            Verdict::Failed(why) => why,
            _ => "not failed".to_owned(),
        };
        assert!(
            matches!(verdict(Ok(Ok(Ok("5ms".into()))), None, Ok(())), Verdict::Passed(text) if text == "5ms")
        );
        assert_eq!(failed(verdict(Ok(Ok(Err(anyhow!("no")))), None, Ok(()))), "no");
        assert_eq!(failed(verdict(Ok(Err(Box::new("boom"))), None, Ok(()))), "panicked: boom");
        assert_eq!(
            failed(verdict(Ok(Ok(Ok(String::new()))), None, Err(anyhow!("left")))),
            "cleaning up: left"
        );
        let second = Some(Duration::from_secs(1));
        assert!(
            failed(verdict(Err(RecvTimeoutError::Timeout), second, Ok(()))).starts_with("not done after 1s")
        );
        assert_eq!(
            failed(verdict(Ok(Ok(Ok(String::new()))), second, Ok(()))),
            "not done after 1s",
            "late is not passed"
        );
    }
}
