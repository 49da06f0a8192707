//! KH 4: a limit that is lowered for a shrink is what it was, whatever happens to memgov, and who grows meanwhile lives.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{alone, cache};
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("kh_04_kill9_leaves_the_limit", daemon).needs(&[Need::CleanCache]).seconds(120),
        Test::new("kh_04_kill9_without_a_daemon", command).needs(&[Need::CleanCache]).seconds(120),
        Test::new("kh_04_who_grows_meanwhile_lives", grows).needs(&[Need::CleanCache]).seconds(60),
    ]
}

/// So often something is killed; in an emulated machine, where a daemon takes seconds to start, less.
fn kills(bench: &Bench<'_>) -> u64 {
    if bench.host.patience > 1 { 10 } else { 50 }
}

/// Moments without a pattern within the time that a shrink takes here.
fn moment(bench: &Bench<'_>, at: u64) -> Duration {
    let most = 30_000 * u64::from(bench.host.patience);
    Duration::from_micros(at.wrapping_mul(2_654_435_761) % most)
}

/// Waits for the moment to kill, every other time the one in which usage begins to sink; whether the shrink is under way then.
fn strike(bench: &Bench<'_>, job: &Group, full: u64, at: u64) -> Result<bool> {
    let sinks = |usage: u64| usage < full - 2 * MIB;
    if at.is_multiple_of(2) {
        let seen = || job.usage().ok().filter(|&usage| sinks(usage)).map(drop);
        poll_until(bench.patience(), Duration::from_micros(20), seen).context("usage does not sink")?;
    } else {
        std::thread::sleep(moment(bench, at));
    }
    let usage = job.usage()?;
    Ok(sinks(usage) && usage > 51 * MIB)
}

/// Limits are lowered on v1 in any case, on v2 where there is no `memory.reclaim`: asked for here. The group has a limit of its own.
fn limited(bench: &Bench<'_>) -> Result<Group> {
    let job = bench.group("job")?;
    match bench.host.version {
        Version::V1 => job.set_max(300 * MIB)?,
        Version::V2 => job.set_high(300 * MIB)?,
    }
    Ok(job)
}

fn daemon(bench: &mut Bench<'_>) -> Result<String> {
    let job = limited(bench)?;
    let limits = job.limits();
    let mut reader = bench.agent(&job, "reader")?;
    let (mut under_way, mut lowered) = (0, 0);
    let kills = kills(bench);
    for at in 0..kills {
        cache(bench, &mut reader, at % 4, 150 * MIB)?;
        let full = job.usage()?;
        let mut daemon = bench.quiet_daemon("", &[])?;
        let mut begin =
            daemon.command(&["shrink", &job.path(), "--to", "50MiB", "--means", "limit", "--async"]);
        let mut asking = begin.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        under_way += u64::from(strike(bench, &job, full, at)?);
        daemon.kill9()?;
        asking.wait()?;
        lowered += u32::from(job.limits() != limits);
        let back =
            poll_until(bench.patience(), Duration::from_millis(1), || (job.limits() == limits).then_some(()));
        back.with_context(|| format!("kill {at}: limits are {}, were {limits}", job.limits()))?;
        daemon.wait_companions_gone()?;
        ensure!(
            job.limits() == limits,
            "kill {at}: after the guardian limits are {}, were {limits}",
            job.limits()
        );
    }
    ensure!(job.oom_kills()? == 0 && process::is_alive(reader.pid), "somebody was killed");
    // The others before it had begun, or after its end.
    ensure!(
        under_way >= kills / 5,
        "only {under_way} of {kills} were killed while the group was being shrunk"
    );
    Ok(format!("{under_way} of {kills} killed under way, {lowered} seen with the limit lowered"))
}

fn command(bench: &mut Bench<'_>) -> Result<String> {
    let job = limited(bench)?;
    let limits = job.limits();
    let mut reader = bench.agent(&job, "reader")?;
    let mut under_way = 0;
    let kills = kills(bench);
    for at in 0..kills {
        cache(bench, &mut reader, at % 4, 150 * MIB)?;
        let full = job.usage()?;
        let mut command = alone(bench, &[&job.path(), "--to", "50MiB", "--means", "limit"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        under_way += u64::from(strike(bench, &job, full, at)?);
        child.kill()?;
        child.wait()?;
        let back =
            poll_until(bench.patience(), Duration::from_millis(1), || (job.limits() == limits).then_some(()));
        back.with_context(|| format!("kill {at}: limits are {}, were {limits}", job.limits()))?;
    }
    ensure!(
        under_way >= kills / 5,
        "only {under_way} of {kills} were killed while the group was being shrunk"
    );
    Ok(format!("{under_way} of {kills} killed under way"))
}

/// An allocator that never rests, in a group that is shrunk again and again.
fn grows(bench: &mut Bench<'_>) -> Result<String> {
    let job = limited(bench)?;
    let limits = job.limits();
    let daemon = bench.daemon("")?;
    let mut reader = bench.agent(&job, "reader")?;
    let mut hog = bench.agent(&job, "hog")?;
    let mut shrinks = 0;
    let rounds = kills(bench).min(20);
    for at in 0..rounds {
        cache(bench, &mut reader, at % 4, 100 * MIB)?;
        hog.say(&format!("hammer anon 262144 {} 20", 16 * MIB))?;
        let output = daemon.cli(&["shrink", &job.path(), "--by", "60MiB", "--means", "limit"])?;
        ensure!([0, super::HARD].contains(&output.code), "{}{}", output.stdout, output.stderr);
        shrinks += u32::from(output.code == 0);
        hog.answered()?;
        ensure!(job.limits() == limits, "limits are {}, were {limits}", job.limits());
    }
    ensure!(job.oom_kills()? == 0, "{} killed by the kernel", job.oom_kills()?);
    ensure!(process::is_alive(hog.pid) && process::is_alive(reader.pid), "somebody was killed");
    ensure!(shrinks > 0, "none of the shrinks got there");
    Ok(format!("{shrinks} of {rounds} got there"))
}
