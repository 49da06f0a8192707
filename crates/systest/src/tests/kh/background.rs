//! KH 7: a group with watermarks never meets its limit, pays nothing for it, and memgov's part is bounded.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{cache, stream};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, millis, poll_until, process};

pub fn tests() -> Vec<Test> {
    let cached: &[Need] = &[Need::CleanCache];
    vec![
        Test::new("kh_07_background_reclaim", background).needs(cached).seconds(90),
        Test::new("kh_07_what_cannot_go_is_said", stuck).needs(cached).seconds(60),
        Test::new("kh_07_kill9_leaves_the_limit", kill9).needs(cached).seconds(90),
    ]
}

const LIMIT: u64 = 50 * MIB;
const HIGH_MARK: u64 = 40 * MIB;
const LOW_MARK: u64 = 32 * MIB;
/// Four times the limit.
const STREAMED: u64 = 4 * LIMIT;

/// Emulated, a page takes twenty times as long to go.
fn share(bench: &Bench<'_>) -> u64 {
    if bench.host.patience > 1 { 60 } else { 20 }
}

fn rate(bench: &Bench<'_>) -> u64 {
    if bench.host.patience > 1 { 8 * MIB } else { 80 * MIB }
}

fn rule(bench: &Bench<'_>, job: &Group) -> String {
    format!(
        "[[rule]]\nname = \"marks\"\ngroups = {:?}\nover = \"{HIGH_MARK}B\"\nuntil = \"{LOW_MARK}B\"\ndo = [{{ action = \"reclaim\", share = \"{}%\" }}]\n",
        job.path(),
        share(bench)
    )
}

/// Processor time of the daemon, in milliseconds.
fn busy(daemon: &Daemon) -> Result<u64> {
    let ticks = process::cpu_ticks(daemon.pid).context("the daemon is gone")?;
    Ok(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

fn background(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let job = bench.group("job")?;
    job.set_max(LIMIT)?;
    let limits = job.limits();
    let mut reader = bench.agent(&job, "reader")?;
    // Without memgov it meets its limit, or this would show nothing.
    let before = job.max_events()?;
    let alone = stream(bench, &mut reader, 0, STREAMED, rate(bench))?;
    let met_alone = job.max_events()? - before;
    ensure!(met_alone > 10, "the limit is met only {met_alone} times without memgov");
    // From under the mark on: what is there already is over it.
    cache(bench, &mut reader, 1, 1)?;
    super::expect(&super::shrink_here(bench, &[&job.path(), "--to", "4MiB"])?, 0, "to begin with")?;
    let daemon = bench.daemon(&rule(bench, &job))?;
    let (before, cpu) = (job.max_events()?, busy(&daemon)?);
    let governed = stream(bench, &mut reader, 2, STREAMED, rate(bench))?;
    let met = job.max_events()? - before;
    let cpu = busy(&daemon)? - cpu;
    let begun = daemon.event("reclaim-begin", bench.patience(), |event| event.order == "reclaim-begin")?;
    ensure!(met <= 3.max(met_alone / 50), "the limit is met {met} times, {met_alone} without memgov");
    ensure!(governed * 95 <= alone * 100, "it took {}, {} without memgov", millis(governed), millis(alone));
    let permille = cpu * 1000 / (governed / 1_000_000).max(1);
    ensure!(permille <= share(bench) * 10 + 100, "memgov used {permille} thousandths of a processor");
    daemon.event("relief", bench.patience(), |event| event.order == "relieved")?;
    let usage = job.usage()?;
    ensure!(usage <= HIGH_MARK && job.limits() == limits, "usage {}, limits {}", mib(usage), job.limits());
    ensure!(job.oom_kills()? == 0, "somebody was killed");
    Ok(format!(
        "limit met {met} times ({met_alone} without), {} ({} without), {permille} thousandths of a processor; {begun}",
        millis(governed),
        millis(alone)
    ))
}

/// Anonymous memory without swap: tried again and again, said once, and the next step comes in its time.
fn stuck(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let next = rule(bench, &job).replace(" }]", " }, { action = \"record\", after = \"3s\" }]");
    let daemon = bench.daemon(&next)?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", HIGH_MARK + 8 * MIB)?;
    let hard = daemon.event("word that it is hard", bench.patience(), |event| {
        let error = event.outcome.as_ref().and_then(|outcome| outcome.error.as_deref());
        event.order == "reclaim-begin" && event.came_of_it() == "partial" && error == Some("EBUSY")
    })?;
    daemon.event("the next step", bench.patience(), |event| event.order == "record")?;
    // What can go by now goes.
    hog.ask("free")?;
    cache(bench, &mut hog, 0, HIGH_MARK + 4 * MIB)?;
    let down = poll_until(bench.patience(), Duration::from_millis(20), || {
        (job.usage().ok()? <= HIGH_MARK).then_some(())
    });
    down.with_context(|| format!("usage stays at {:?}", job.usage()))?;
    ensure!(process::is_alive(hog.pid) && job.oom_kills()? == 0, "somebody was killed");
    Ok(hard.to_string())
}

fn kill9(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.set_max(LIMIT * 2)?;
    let limits = job.limits();
    let mut reader = bench.agent(&job, "reader")?;
    let kills = if bench.host.patience > 1 { 5 } else { 20 };
    for at in 0..kills {
        let mut daemon = bench.quiet_daemon(&rule(bench, &job), &[])?;
        cache(bench, &mut reader, at % 4, HIGH_MARK * 2)?;
        std::thread::sleep(Duration::from_millis(at * 3 % 20));
        daemon.kill9()?;
        daemon.wait_companions_gone()?;
        ensure!(job.limits() == limits, "kill {at}: limits are {}, were {limits}", job.limits());
    }
    ensure!(job.oom_kills()? == 0 && process::is_alive(reader.pid), "somebody was killed");
    Ok(format!("{kills} kills"))
}
