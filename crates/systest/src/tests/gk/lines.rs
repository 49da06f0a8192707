//! What the line is: beside the group's limit, set at any time, and nobody else's business.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memgov::serve::wire::Status;

use super::{K, fork_slowly, over, pids_limits, refuser, rule, shielded};
use crate::harness::bench::Bench;
use crate::harness::host::{Need, Tier, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("gk_04_user_memory_goes_on_at_the_line", user_memory).seconds(60),
        Test::new("gk_04_under_the_line_nobody_is_refused", bursts).seconds(60),
        Test::new("gk_04_without_a_line_nothing_happens", no_line).seconds(60),
        Test::new("gk_07_what_stands_is_undone", undone).needs(&[Need::Portable]).seconds(60),
        Test::new("gk_07_set_on_a_populated_group_with_children", populated).seconds(60),
        Test::new("gk_07_the_root_has_no_line", root),
        Test::new("gk_10_the_kernels_own_limit_is_left_alone", kernels_own).needs(&[Need::Freezer]),
    ]
}

/// At the line for kernel memory a process may still take user memory, and dies of nothing.
fn user_memory(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let (mut holder, mut user) = (bench.worker(&job, "holder")?, bench.agent(&job, "user")?);
    let line = job.kernel()? + 3 * MIB;
    let daemon = bench.daemon(&rule(&job, line, "\"deny\""))?;
    let taken = fork_slowly(&mut holder, 400)?;
    // ENOMEM inside, EAGAIN of pids.max.
    let expected = if bench.host.tier == Tier::Bpf { 12 } else { 11 };
    ensure!(taken.1 == expected && taken.0 > 0, "{taken:?} taken and errno, expected errno {expected}");
    let path = job.path();
    let event = daemon.event("deny-begin", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&path) && event.outcome.is_some()
    })?;
    ensure!(event.by() == refuser(bench), "{event}");
    user.take("anon", 64 * MIB)?;
    ensure!(job.oom_kills()? == 0, "the kernel killed");
    user.ask("free")?;
    holder.ask("let-go")?;
    daemon
        .event("relief", bench.patience(), |event| event.order == "relieved" && event.is_of_group(&path))?;
    let again = holder.numbers("hoard forks 5")?;
    ensure!(again[..2] == [5, 0], "refused when back under the line: {again:?}");
    Ok(format!("{} forks, then refused by {}", taken.0, event.by()))
}

/// Bursts of threads and of processes, made as fast as that can be done, for which there is room: whatever stands beforehand is no denial of those.
fn bursts(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let mut hog = bench.worker(&job, "hog")?;
    let line = job.kernel()? + 64 * MIB;
    let daemon = bench.daemon(&rule(&job, line, "\"deny\""))?;
    let threads = hog.numbers("hoard threads 800")?;
    ensure!(threads[..2] == [800, 0], "refused with room for 1,024 processes: {threads:?}");
    hog.ask("let-go")?;
    let mut other = bench.worker(&job, "other")?;
    let forks = other.numbers("hoard forks 200")?;
    ensure!(forks[..2] == [200, 0], "refused: {forks:?}");
    let taken = job.kernel()?;
    ensure!(taken < line, "{}", over(taken, line));
    daemon.no_event("anything", Duration::from_millis(300), |_| true)?;
    other.ask("let-go")?;
    Ok(format!("800 threads, then 200 processes: {}", over(taken, line)))
}

/// The limit on processes that stands while nothing has happened goes with the daemon, however that goes.
fn undone(bench: &mut Bench<'_>) -> Result<String> {
    let job = shielded(bench)?;
    let _worker = bench.worker(&job, "worker")?;
    let limits = || pids_limits(&job);
    let becomes = |limited: bool, when: &str| {
        let is = || limits().iter().any(|limit| limit != "max") == limited;
        poll_until(bench.patience(), Duration::from_millis(3), || is().then_some(()))
            .with_context(|| format!("{when}: pids.max {:?}", limits()))
    };
    becomes(false, "before")?;
    let mut daemon = bench.daemon(&rule(&job, K, "\"deny\""))?;
    becomes(true, "with a daemon")?;
    let stood = limits().concat();
    let status = daemon.ok(&["status"])?;
    ensure!(status.contains("tasks at most"), "status does not show it: {status}");
    daemon.kill9()?;
    becomes(false, "after kill -9")?;
    daemon.wait_companions_gone()?;
    let mut daemon = bench.daemon(&rule(&job, K, "\"deny\""))?;
    becomes(true, "with the next daemon")?;
    let path = job.path();
    daemon.ok(&["set", "--group", &path, "--meter", "kernel", "--over", "1MiB", "--do", "record"])?;
    becomes(true, "with another rule beside it")?;
    ensure!(daemon.terminate()? == 0, "the daemon's exit code");
    becomes(false, "after SIGTERM")?;
    Ok(stood)
}

/// A line for usage is none for kernel memory.
fn no_line(bench: &mut Bench<'_>) -> Result<String> {
    let job = shielded(bench)?;
    let mut hog = bench.worker(&job, "hog")?;
    let usage = format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"usage\"\nover = \"90MiB\"\ndo = [\"kill\"]\n",
        job.path()
    );
    let daemon = bench.daemon(&usage)?;
    let before = job.kernel()?;
    let taken = hog.numbers("hoard forks 300")?;
    ensure!(taken[..2] == [300, 0], "{taken:?}");
    let after = job.kernel()?;
    ensure!(after > before + 4 * MIB, "only {before} to {after}");
    daemon.no_event("anything", Duration::from_millis(500), |_| true)?;
    ensure!(pids_limits(&job).iter().all(|limit| limit == "max"), "limited: {:?}", pids_limits(&job));
    let told: Status = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    ensure!(told.kernel.is_empty() && told.holds.is_empty(), "{:?} {:?}", told.kernel, told.holds);
    if bench.host.tier == Tier::Bpf {
        let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
        let hooks = status["tier"]["hooks"].as_array().cloned().unwrap_or_default();
        let counts =
            hooks.iter().any(|hook| hook["name"].as_str().is_some_and(|n| n.contains("memcg_state")));
        ensure!(!counts, "kernel memory is counted though nobody asked");
    }
    hog.ask("let-go")?;
    Ok(format!("{} KiB taken", (after - before) / 1024))
}

fn populated(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    job.delegate_memory()?;
    let child = bench.group("cage/job/child")?;
    let mut hog = bench.worker(&child, "hog")?;
    hog.numbers("hoard forks 20")?;
    let daemon = bench.daemon("")?;
    let line = job.kernel()? + 2 * MIB;
    let path = job.path();
    let over_text = format!("{line}B");
    daemon.ok(&["set", "--group", &path, "--meter", "kernel", "--over", &over_text, "--do", "deny"])?;
    let taken = fork_slowly(&mut hog, 400)?;
    ensure!(taken.1 != 0, "never refused: {taken:?}");
    let peak = job.kernel()?;
    ensure!(peak <= line + 2 * MIB, "{}", over(peak, line));
    daemon.event("deny-begin", bench.patience(), |e| e.order == "deny-begin" && e.is_of_group(&path))?;
    daemon.ok(&["clear", "--group", &path])?;
    daemon.event("deny-end", bench.patience(), |e| e.order == "deny-end" && e.is_of_group(&path))?;
    let after = hog.numbers("hoard forks 50")?;
    ensure!(after[..2] == [50, 0], "still refused after clear: {after:?}");
    hog.ask("let-go")?;
    Ok(format!("{} forks; {}", taken.0, over(peak, line)))
}

fn root(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let output =
        daemon.cli(&["set", "--group", "/", "--meter", "kernel", "--over", "16MiB", "--do", "deny"])?;
    ensure!(output.code != 0, "the root took a line: {}", output.stdout);
    ensure!(output.stderr.contains("root"), "the refusal does not say why: {}", output.stderr);
    Ok(output.stderr.trim().to_owned())
}

/// v1 takes what is written to `memory.kmem.limit_in_bytes` and does nothing: memgov neither writes nor believes it.
fn kernels_own(bench: &mut Bench<'_>) -> Result<String> {
    if bench.host.version == Version::V2 {
        let job = bench.group("job")?;
        let there = job.dir().join("memory.kmem.limit_in_bytes").exists();
        ensure!(!there, "v2 has no such file");
        return Ok("no such file on v2".to_owned());
    }
    let job = shielded(bench)?;
    let limit = || job.read("memory.kmem.limit_in_bytes");
    let before = limit().ok();
    let mut hog = bench.worker(&job, "hog")?;
    let daemon = bench.daemon(&rule(&job, K, "\"deny\", { action = \"freeze\", after = \"100ms\" }"))?;
    hog.say("hoard forks 600")?;
    let path = job.path();
    daemon.event("deny-begin", bench.patience(), |e| e.order == "deny-begin" && e.is_of_group(&path))?;
    ensure!(limit().ok() == before, "it was written: {:?}, before it {before:?}", limit().ok());
    Ok(format!("it says {before:?}"))
}
