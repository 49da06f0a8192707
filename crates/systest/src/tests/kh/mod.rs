//! Shrinking a group on purpose: the criteria of the letter about `memory.shrink_in_bytes`, by their numbers.

mod background;
mod balance;
mod beside;
mod kill9;
mod law;
mod parallel;
mod rights;
mod senpai;
mod target;
mod terminal;
mod working_set;

use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::{Output, run_within};
use crate::harness::group::Group;
use crate::harness::run::Test;

/// Exit code of a shrink that was hard.
const HARD: i32 = 8;
/// A batch of the kernel's: SWAP_CLUSTER_MAX pages.
const BATCH: u64 = 32 * 4096;

pub fn tests() -> Vec<Test> {
    [
        target::tests,
        terminal::tests,
        kill9::tests,
        parallel::tests,
        background::tests,
        balance::tests,
        beside::tests,
        working_set::tests,
        rights::tests,
        senpai::tests,
    ]
    .iter()
    .flat_map(|tests| tests())
    .collect()
}

/// Has a workload fill its group with page cache that can go at any time: no two with the same number share a page. It is all read anew, so that it is this group's,
/// and nothing of it counts as wanted again. Gives how long it took, in nanoseconds.
fn cache(bench: &Bench<'_>, agent: &mut Agent, number: u64, bytes: u64) -> Result<u64> {
    let file = bench.host.clean_cache.as_ref().map_err(|why| anyhow!("{why}"))?;
    agent.number(&format!("cache {} {} {bytes}", file.display(), number << 30))
}

/// Has a workload use what it read so, as programs do: what is still there is found, and what is not is wanted again.
fn reuse(bench: &Bench<'_>, agent: &mut Agent, number: u64, bytes: u64) -> Result<u64> {
    let file = bench.host.clean_cache.as_ref().map_err(|why| anyhow!("{why}"))?;
    agent.number(&format!("use {} {} {bytes}", file.display(), number << 30))
}

/// As [`cache`], at so many bytes a second.
fn stream(bench: &Bench<'_>, agent: &mut Agent, number: u64, bytes: u64, rate: u64) -> Result<u64> {
    let file = bench.host.clean_cache.as_ref().map_err(|why| anyhow!("{why}"))?;
    agent.number(&format!("cache {} {} {bytes} {rate}", file.display(), number << 30))
}

/// `memgov shrink` without a daemon, whatever runs on this machine.
fn shrink_here(bench: &Bench<'_>, arguments: &[&str]) -> Result<Output> {
    run_within(&mut alone(bench, arguments), bench.patience())
}

/// The same, not started yet.
fn alone(bench: &Bench<'_>, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.host.memgov);
    command.arg("shrink").args(arguments).arg("--state-dir").arg(bench.dir.join("alone"));
    command.env_remove("MEMGOV_SOCKET");
    command
}

/// What `--json` printed.
fn json(output: &Output) -> Result<serde_json::Value> {
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("exit code {}: {:?} {:?}", output.code, output.stdout, output.stderr))
}

/// Fails unless it ended so.
fn expect(output: &Output, code: i32, what: &str) -> Result<()> {
    let Output { code: got, stdout, stderr } = output;
    ensure!(*got == code, "{what}: expected exit code {code}, got {got}: {stdout}{stderr}");
    Ok(())
}

/// Fails unless usage is at the target and not a tenth under it.
fn at_target(group: &Group, target: u64) -> Result<u64> {
    let usage = group.usage()?;
    ensure!(usage <= target + BATCH, "usage is {usage}, over the target {target}");
    ensure!(usage >= target - target / 10, "usage is {usage}, more than a tenth under the target {target}");
    Ok(usage)
}
