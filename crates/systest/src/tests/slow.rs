//! `slow` beyond the letter's criterion: it ends, it lets something through, and nobody's job control sees it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, virtual_high, word};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, process};

pub fn tests() -> Vec<Test> {
    let freezer: &[Need] = &[Need::Freezer];
    vec![
        Test::new("slow_ends_with_its_budget", budget).needs(freezer),
        Test::new("slow_leaves_a_floor_of_progress", floor).needs(freezer),
        Test::new("slow_is_unseen_by_job_control", job_control).needs(freezer),
        Test::new("slow_process_leaves_the_others_alone", others).needs(freezer),
        Test::new("slow_children_come_back_too", children).needs(freezer),
    ]
}

fn slowing(group: &Group, step: &str) -> String {
    format!(
        "[[rule]]\nname = \"slow\"\ngroups = {:?}\nmeter = \"usage\"\nover = \"48MiB\"\ndo = [{{ action = \"slow\", {step} }}]\n",
        group.path()
    )
}

/// A spinning process in a group that is over its line.
fn start(bench: &Bench<'_>, step: &str) -> Result<(Group, Daemon, Agent)> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&slowing(&job, step))?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.ask("spin")?;
    Ok((job, daemon, hog))
}

/// CPU clock ticks it gets in this time.
fn ticks(pid: i32, during: Duration) -> Result<u64> {
    let cpu = || process::cpu_ticks(pid).ok_or_else(|| anyhow::anyhow!("{pid} is gone"));
    let before = cpu()?;
    std::thread::sleep(during);
    Ok(cpu()? - before)
}

const LOOK: Duration = Duration::from_secs(2);

fn slow_begin(bench: &Bench<'_>, daemon: &Daemon) -> Result<crate::harness::event::Event> {
    daemon.event("slow-begin", bench.patience(), |event| event.order == "slow-begin")
}

fn budget(bench: &mut Bench<'_>) -> Result<String> {
    let (job, daemon, mut hog) = start(bench, "budget = \"2s\", floor = \"1%\"")?;
    let all = [hog.pid];
    let before = bench.state(&all);
    let free = ticks(hog.pid, LOOK)?;
    hog.push("anon", 64 * MIB)?;
    let begin = slow_begin(bench, &daemon)?;
    let end = daemon.event("slow-end", bench.patience(), |event| event.order == "slow-end")?;
    ensure!(end.reason.kind == "budget-spent", "expected the reason budget-spent, got {}", end.reason.kind);
    let lasted = Duration::from_nanos(end.monotonic_ns - begin.monotonic_ns);
    ensure!(
        lasted >= Duration::from_millis(1900) && lasted < Duration::from_secs(4),
        "budget 2s, lasted {lasted:?}"
    );
    ensure!(job.usage()? > 48 * MIB, "the group is not over any more");
    bench.back_to(&before, &all, bench.patience(), "after the budget")?;
    let after = ticks(hog.pid, LOOK)?;
    ensure!(after * 2 > free, "still slow: {free} ticks in {LOOK:?} before, {after} after the end");
    Ok(format!("lasted {lasted:?} by {}", begin.by()))
}

fn floor(bench: &mut Bench<'_>) -> Result<String> {
    let (_job, daemon, mut hog) = start(bench, "budget = \"60s\", floor = \"5%\"")?;
    let free = ticks(hog.pid, LOOK)?;
    hog.push("anon", 128 * MIB)?;
    let event = slow_begin(bench, &daemon)?;
    std::thread::sleep(Duration::from_secs(1));
    let slowed = ticks(hog.pid, LOOK * 2)?;
    // Ticks are 10 ms: 5 % of 4 s are 20 of them. Half of the floor is asked for, half of full speed forbidden.
    ensure!(slowed >= 8, "floor 5 %: expected about 20 ticks in {:?}, got {slowed}", LOOK * 2);
    ensure!(
        slowed * 2 < free * 2,
        "not slowed: {free} ticks in {LOOK:?} free, {slowed} in twice that slowed"
    );
    Ok(format!("{free} ticks in 2 s free, {slowed} in 4 s slowed, by {}", event.by()))
}

/// A shell learns of its children's stops by SIGCHLD and waitpid. A freezer must show it neither.
fn job_control(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&virtual_high(&job, 24 * MIB))?;
    let mut shell = bench.agent(&job, "shell")?;
    shell.ask(&format!("count {}", libc::SIGCHLD))?;
    let mut child = shell.offspring("fork", &bench.dir)?;
    daemon.set_memctl(child.pid, word::SLOW, 0, 0)?;
    child.push("anon", 48 * MIB)?;
    let event = daemon.event("slow-begin of the child", bench.patience(), |event| {
        event.order == "slow-begin" && event.is_of(child.pid)
    })?;
    ensure!(event.by() != "sigstop", "there is a freezer, and it was done by {}", event.by());
    for _ in 0..150 {
        let state = process::state(child.pid);
        ensure!(state != Some('T'), "the child was seen stopped");
        std::thread::sleep(Duration::from_millis(10));
    }
    let notices = shell.number("jobs")?;
    ensure!(notices == 0, "expected no stop or continue notices, got {notices}");
    Ok(format!("by {}", event.by()))
}

fn others(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&virtual_high(&job, 24 * MIB))?;
    let (mut hog, mut other) = (bench.agent(&job, "hog")?, bench.agent(&job, "other")?);
    let before = bench.state(&[hog.pid, other.pid]);
    daemon.set_memctl(hog.pid, word::SLOW, 0, 0)?;
    other.ask("innocent 2000")?;
    hog.push("anon", 48 * MIB)?;
    let event = daemon
        .event("slow-begin", bench.patience(), |event| event.order == "slow-begin" && event.is_of(hog.pid))?;
    std::thread::sleep(LOOK);
    let figures = other.numbers("figures")?;
    ensure!(figures[1] == 0, "{} failures of the other process", figures[1]);
    let worst = Duration::from_micros(figures[3]);
    let allowed = Duration::from_millis(50) * bench.host.patience;
    ensure!(worst < allowed, "the other process was held up: p99 {worst:?}, expected under {allowed:?}");
    daemon.ok(&["clear", "--pid", &hog.pid.to_string()])?;
    bench
        .back_to(&before, &[hog.pid, other.pid], bench.patience(), "after clear")
        .map_err(|e| daemon.explain(e))?;
    Ok(format!("by {}, p99 of the other {worst:?}", event.by()))
}

/// A child born while its parent is held is born inside the hold; afterwards it must be back in the parent's group.
fn children(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&virtual_high(&job, 24 * MIB))?;
    let mut hog = bench.agent(&job, "hog")?;
    let (groups, before) = (process::groups(hog.pid), bench.state(&[hog.pid]));
    daemon.set_memctl(hog.pid, word::SLOW, 0, 0)?;
    hog.push("anon", 40 * MIB)?;
    daemon
        .event("slow-begin", bench.patience(), |event| event.order == "slow-begin" && event.is_of(hog.pid))?;
    let child = hog.offspring("fork", &bench.dir)?;
    daemon.ok(&["clear", "--pid", &hog.pid.to_string()])?;
    daemon.ok(&["clear", "--pid", &child.pid.to_string()])?;
    bench
        .back_to(&before, &[hog.pid], bench.patience(), "after clear")
        .map_err(|error| daemon.explain(error))?;
    let child_groups = process::groups(child.pid);
    ensure!(child_groups == groups, "the child's groups: expected {groups:?}, got {child_groups:?}");
    Ok(String::new())
}
