//! What an idle machine pays: wake-ups, reads, processor time and memory of the daemon and its guardian, at three sizes.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::bench::Bench;
use crate::harness::process;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![Test::new("idle_cost", idle).seconds(240), Test::new("locked_memory_is_bounded", locked).seconds(60)]
}

/// What the daemon may lock with default settings: `VmLck` of proc(5), which counts all that is mapped and locked, touched or not.
const MOST_LOCKED_KIB: u64 = 16 << 10;

/// Also after it has been asked, which takes other threads memory, and has given rows to groups, which takes the loop some.
fn locked(bench: &mut Bench<'_>) -> Result<String> {
    let parent = bench.group("many")?;
    parent.delegate_memory()?;
    let rule = format!("[[rule]]\ngroups = \"{}/*\"\nover = \"1GiB\"\ndo = [\"deny\"]\n", parent.path());
    let daemon = bench.daemon(&rule)?;
    let locked = || process::locked_kib(daemon.pid).context("reading VmLck");
    let at_first = locked()?;
    ensure!(at_first > 1024, "only {at_first} KiB are locked: its tables are not");
    for at in 0..200 {
        fs::create_dir(parent.dir().join(format!("g{at}")))?;
    }
    let watched = || {
        let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"]).ok()?).ok()?;
        (status["watched"]["groups"].as_u64()? >= 200).then_some(())
    };
    let found = crate::harness::poll_until(bench.patience() * 6, Duration::from_millis(100), watched);
    ensure!(found.is_some(), "the groups are not watched: {}", daemon.ok(&["status"])?);
    let at_last = locked()?;
    for kib in [at_first, at_last] {
        ensure!(kib < MOST_LOCKED_KIB, "{kib} KiB are locked, of at most {MOST_LOCKED_KIB}");
    }
    // What the loop took for the new rows is locked too: no heap of it is left outside.
    let outside = || process::unlocked_heap_kib(daemon.pid).filter(|kib| *kib == 0);
    let all = crate::harness::poll_until(bench.patience(), std::time::Duration::from_millis(50), outside);
    ensure!(
        all.is_some(),
        "{:?} KiB of the loop's heap are not locked",
        process::unlocked_heap_kib(daemon.pid)
    );
    Ok(format!("{at_first} KiB, {at_last} KiB with 200 groups"))
}

/// Counters of all of memgov's processes together.
#[derive(Clone, Copy, Default)]
struct Counters {
    wakeups: u64,
    reads: u64,
    ticks: u64,
    rss_kib: u64,
}

fn count(processes: &[i32]) -> Option<Counters> {
    let mut sum = Counters::default();
    for &pid in processes {
        sum.wakeups += process::wakeups(pid)?;
        sum.reads += process::reads(pid)?;
        sum.ticks += process::cpu_ticks(pid)?;
        sum.rss_kib += process::rss_kib(pid)?;
    }
    Some(sum)
}

/// One line of the table, each a second's worth, in tenths where it matters.
#[derive(Clone, Copy)]
struct Cost {
    wakeups: u64,
    reads: u64,
    cpu_millis_tenths: u64,
    rss_kib: u64,
    /// How long it took to be ready.
    start: Duration,
}

const IDLE: u64 = 6;

fn at_size(bench: &Bench<'_>, groups: usize) -> Result<Cost> {
    let parent = bench.group(&format!("n{groups}"))?;
    parent.delegate_memory()?;
    for at in 0..groups {
        let dir = parent.dir().join(format!("g{at}"));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let rule = format!(
        "[[rule]]\ngroups = \"{}/*\"\nmeter = \"usage\"\nover = \"1GiB\"\ndo = [\"deny\"]\n",
        parent.path()
    );
    let begin = Instant::now();
    let daemon = bench.quiet_daemon(&rule, &[])?;
    let start = begin.elapsed();
    let processes: Vec<i32> = std::iter::once(daemon.pid).chain(daemon.companions()).collect();
    settle(&processes)?;
    let before = count(&processes).context("reading its counters")?;
    std::thread::sleep(Duration::from_secs(IDLE));
    let after = count(&processes).context("reading its counters")?;
    drop(daemon);
    parent.remove()?;
    let tick_millis = 1000 / rustix::param::clock_ticks_per_second().max(1);
    Ok(Cost {
        wakeups: (after.wakeups - before.wakeups).div_ceil(IDLE),
        reads: (after.reads - before.reads).div_ceil(IDLE),
        cpu_millis_tenths: (after.ticks - before.ticks) * tick_millis * 10 / IDLE,
        rss_kib: after.rss_kib,
        start,
    })
}

/// Reading all groups for the first time is not idling, nor is setting their alarms, which on v1 takes the kernel ten
/// milliseconds each. Waits for a second with few wake-ups; if none comes, what follows shows it.
fn settle(processes: &[i32]) -> Result<()> {
    const QUIET: u64 = 10;
    const SETTLING: Duration = Duration::from_secs(60);
    let end = Instant::now() + SETTLING;
    while Instant::now() < end {
        let before = count(processes).context("reading its counters")?.wakeups;
        std::thread::sleep(Duration::from_secs(1));
        if count(processes).context("reading its counters")?.wakeups - before <= QUIET {
            break;
        }
    }
    Ok(())
}

fn idle(bench: &mut Bench<'_>) -> Result<String> {
    // On v1 the kernel takes ten milliseconds and more to set one usage threshold.
    bench.patience *= 6;
    let mut costs = Vec::new();
    println!("@@COST groups wakeups_per_s reads_per_s cpu_ms_per_s rss_kib");
    for groups in [10, 100, 1000] {
        let cost = at_size(bench, groups)?;
        let Cost { wakeups, reads, cpu_millis_tenths: cpu, rss_kib, .. } = cost;
        println!("@@COST {groups} {wakeups} {reads} {}.{} {rss_kib}", cpu / 10, cpu % 10);
        costs.push(cost);
    }
    let (small, large) = (costs[0], costs[2]);
    ensure!(small.wakeups <= 20, "{} wake-ups a second with 10 idle groups", small.wakeups);
    ensure!(
        large.wakeups <= small.wakeups * 10 + 50,
        "wake-ups grow with the groups: {} with 10, {} with 1000: looks are not taken together",
        small.wakeups,
        large.wakeups
    );
    ensure!(large.reads <= 3000, "{} reads a second with 1000 idle groups", large.reads);
    let grown = large.rss_kib.saturating_sub(small.rss_kib);
    ensure!(grown <= 64 << 10, "memory grows by {grown} KiB from 10 to 1000 groups");
    let allowed = 1000 * u64::from(bench.host.patience);
    ensure!(
        large.cpu_millis_tenths <= allowed,
        "{} tenths of a ms a second with 1000 groups",
        large.cpu_millis_tenths
    );
    let Cost { wakeups, reads, rss_kib, start, .. } = large;
    Ok(format!(
        "{wakeups} wake-ups, {reads} reads a second, {rss_kib} KiB with 1000 groups, ready after {start:.1?}"
    ))
}
