//! A `pids.max` of memgov's goes when memgov does, however that goes: what stands before the line is met, and what an order has set.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{K, fork_slowly, pids_limits, rule, shielded};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Portable]).seconds(60);
    vec![
        test("gk_07_kill9_undoes_what_stands", |bench| alone(bench, false)),
        test("gk_07_kill9_undoes_what_an_order_set", |bench| alone(bench, true)),
        test("gk_07_kill9_guardian_too_next_run_undoes_what_stands", |bench| both(bench, false)),
        test("gk_07_kill9_guardian_too_next_run_undoes_what_an_order_set", |bench| both(bench, true)),
    ]
}

/// What the administrator has set himself: that is what has to be back.
const HIS: &str = "900";

/// A group, somebody in it who forks, and memgov's limit in its file.
struct Limited {
    job: Group,
    hog: Agent,
    before: Vec<String>,
    set: Vec<String>,
}

fn limited(bench: &mut Bench<'_>, by_order: bool) -> Result<(Limited, Daemon)> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    for file in job.dirs().iter().map(|dir| dir.join("pids.max")).filter(|file| file.exists()) {
        std::fs::write(file, HIS)?;
    }
    let before = pids_limits(&job);
    let mut hog = bench.worker(&job, "hog")?;
    let line = if by_order { job.kernel()? + 3 * MIB } else { K };
    let daemon = bench.daemon(&rule(&job, line, "\"deny\""))?;
    if by_order {
        let taken = fork_slowly(&mut hog, 400)?;
        ensure!(taken.1 == libc::EAGAIN as u64, "never refused: {taken:?}");
        let path = job.path();
        daemon.event("deny-begin", bench.patience(), |event| {
            event.order == "deny-begin" && event.is_of_group(&path) && event.outcome.is_some()
        })?;
    }
    let set = poll_until(bench.patience(), Duration::from_millis(3), || {
        Some(pids_limits(&job)).filter(|limits| *limits != before)
    });
    let set = set.with_context(|| format!("no limit was set: {before:?}"))?;
    Ok((Limited { job, hog, before, set }, daemon))
}

impl Limited {
    /// The limit is back, and whoever was refused may fork.
    fn gets_it_back(mut self, bench: &Bench<'_>, when: &str) -> Result<String> {
        let Self { before, job, .. } = &self;
        let back = || (pids_limits(job) == *before).then_some(());
        poll_until(bench.patience(), Duration::from_millis(3), back)
            .with_context(|| format!("{when}: {:?}, before it {before:?}", pids_limits(job)))?;
        // It stays so.
        std::thread::sleep(Duration::from_millis(100));
        ensure!(pids_limits(job) == *before, "{when}: {:?}", pids_limits(job));
        let forks = self.hog.numbers("hoard forks 30")?;
        ensure!(forks[..2] == [30, 0], "{when}, still refused: {forks:?}");
        self.hog.ask("let-go")?;
        Ok(format!("{:?}, then {:?}", self.set, self.before))
    }
}

/// The guardian undoes it.
fn alone(bench: &mut Bench<'_>, by_order: bool) -> Result<String> {
    let (limited, mut daemon) = limited(bench, by_order)?;
    daemon.kill9()?;
    limited.gets_it_back(bench, "after kill -9")
}

/// The ledger on disk is all there is.
fn both(bench: &mut Bench<'_>, by_order: bool) -> Result<String> {
    let (limited, mut daemon) = limited(bench, by_order)?;
    daemon.kill9_with_guardian()?;
    ensure!(pids_limits(&limited.job) != limited.before, "nothing is left to undo: who did it?");
    let _next = bench.quiet_daemon("", &[])?;
    limited.gets_it_back(bench, "after the next start")
}
