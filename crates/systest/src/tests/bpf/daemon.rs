//! What the end of the daemon, of its lease, of its last rule and of its privileges means for those who are refused memory inside the kernel: the
//! door is open then, and `doctor` and `status` say what is so.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::feed::denying;
use super::rig::calls_refused;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::{Daemon, run_within};
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};
use crate::sys::process::{start_in_own_cgroup_namespace, start_with_capabilities};
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_daemon_killed_opens_the_door", killed),
        test("bpf_daemon_stopped_opens_the_door_after_the_lease", stopped),
        test("bpf_daemon_detaches_with_the_last_rule", detaches),
        test("bpf_daemon_is_content_with_the_capabilities_of_the_unit", capabilities),
        test("bpf_daemon_in_a_cgroup_namespace_says_that_it_cannot", namespace),
    ]
}

/// A hog over its line that is refused memory, under a daemon with this lease.
fn denied(bench: &Bench<'_>, lease: &str) -> Result<(Agent, Daemon)> {
    let job = bench.group("job")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 64 * MIB)?;
    let daemon = bench.daemon(&format!("[memgov]\nlease = \"{lease}\"\n{}", denying(&job, 32)))?;
    daemon.event("deny", bench.patience(), |event| event.order == "deny-begin")?;
    let refused = calls_refused(&mut hog)?;
    ensure!(refused.len() >= 5, "the hog is refused only {refused:?}");
    Ok((hog, daemon))
}

/// When nothing is refused any more.
fn open(hog: &mut Agent, begin: Instant, within: Duration) -> Result<Duration> {
    opened(hog, begin, within, |_| true)
}

/// The same, of the calls that count.
fn opened(hog: &mut Agent, begin: Instant, within: Duration, counts: fn(&str) -> bool) -> Result<Duration> {
    let mut still = || anyhow::Ok(calls_refused(hog)?.into_iter().filter(|call| counts(call)).collect());
    let free = poll_until(within, Duration::from_millis(2), || still().ok().filter(Vec::is_empty));
    ensure!(free.is_some(), "still refused after {:?}: {:?}", begin.elapsed(), still()?);
    Ok(begin.elapsed())
}

/// mlock has no hook: it is refused by a lowered limit, which the daemon or its guardian takes back, whichever of them lives.
fn has_a_hook(call: &str) -> bool {
    !call.starts_with("mlock")
}

/// Programs go with the process that holds them, whatever its lease: there is nobody who could take a limit back.
fn killed(bench: &mut Bench<'_>) -> Result<String> {
    let (mut hog, mut daemon) = denied(bench, "60s")?;
    let begin = Instant::now();
    daemon.kill9()?;
    let took = open(&mut hog, begin, Duration::from_secs(10))?;
    daemon.wait_companions_gone()?;
    Ok(format!("open {took:?} after the kill, with a lease of 60 s"))
}

/// Stops processes, and lets them go on at the end.
struct Stopped(Vec<i32>);

impl Stopped {
    fn stop(pids: Vec<i32>) -> Result<Self> {
        let stopped = Self(pids);
        for &pid in &stopped.0 {
            signal::send(pid, libc::SIGSTOP).map_err(std::io::Error::from_raw_os_error)?;
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for &pid in &self.0 {
            // It fails only if it has ended.
            let _ended = signal::send(pid, libc::SIGCONT);
        }
    }
}

/// The guardian is stopped with it: else it ends a daemon that hangs, and nothing would be seen of the lease.
fn stopped(bench: &mut Bench<'_>) -> Result<String> {
    const LEASE: Duration = Duration::from_secs(4);
    let (mut hog, mut daemon) = denied(bench, "4s")?;
    let guardian = Stopped::stop(daemon.companions())?;
    let begin = Instant::now();
    let stopped = Stopped::stop(vec![daemon.pid])?;
    ensure!(calls_refused(&mut hog)?.len() >= 5, "open at once");
    let took = opened(&mut hog, begin, LEASE + bench.patience(), has_a_hook)?;
    // It was renewed some time before the stop, by as much as a look takes.
    ensure!(took > LEASE / 4, "open {took:?} after the stop already");
    ensure!(
        daemon.is_running() && process::state(daemon.pid) == Some('T'),
        "the daemon is not stopped any more"
    );
    drop(stopped);
    let again = poll_until(bench.patience(), Duration::from_millis(20), || {
        calls_refused(&mut hog).ok()?.iter().any(|call| call == "mmap").then_some(())
    });
    ensure!(again.is_some(), "the daemon goes on, and the hog is refused nothing\n{}", daemon.log_tail());
    drop(guardian);
    Ok(format!("open {took:?} after the stop, with a lease of {LEASE:?}, and closed again when it went on"))
}

/// Programs that this process holds attached (`link_type` in `/proc/PID/fdinfo`, bpf_link_show_fdinfo in kernel/bpf/syscall.c); an iterator is none.
fn attached(pid: i32) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let mut kinds = text.lines().filter_map(|line| line.strip_prefix("link_type:"));
        count += usize::from(kinds.any(|kind| kind.trim() != "iter"));
    }
    Ok(count)
}

fn hooks(daemon: &Daemon) -> Result<usize> {
    let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    ensure!(status["tier"]["name"] == "bpf", "{}", status["tier"]);
    Ok(status["tier"]["hooks"].as_array().map_or(0, Vec::len))
}

fn detaches(bench: &mut Bench<'_>) -> Result<String> {
    let (mut hog, daemon) = denied(bench, "60s")?;
    let (links, named) = (attached(daemon.pid)?, hooks(&daemon)?);
    ensure!(links > 0 && named > 0, "{links} links, {named} hooks in status while a rule denies");
    let begin = Instant::now();
    fs::write(daemon.config(), "[memgov]\nlease = \"60s\"\n")?;
    daemon.ok(&["reload"])?;
    let gone = poll_until(bench.patience(), Duration::from_millis(20), || {
        (attached(daemon.pid).ok()? == 0 && hooks(&daemon).ok()? == 0).then_some(())
    });
    ensure!(gone.is_some(), "{} links, {} hooks with no rule", attached(daemon.pid)?, hooks(&daemon)?);
    open(&mut hog, begin, bench.patience())?;
    Ok(format!("{links} links before, none {:?} after the reload", begin.elapsed()))
}

/// What doctor says of enforcement inside the kernel, started in this way.
fn doctor(bench: &Bench<'_>, start: impl FnOnce(&mut Command)) -> Result<serde_json::Value> {
    let mut command = Command::new(&bench.host.memgov);
    command.args(["doctor", "--json"]);
    start(&mut command);
    let output = run_within(&mut command, bench.patience() * 6)?;
    let said: serde_json::Value = serde_json::from_str(&output.stdout)?;
    let features = said["features"].as_array().cloned().unwrap_or_default();
    let found = features.into_iter().find(|feature| feature["name"] == "enforce-inside");
    found.ok_or_else(|| anyhow::anyhow!("doctor does not speak of enforce-inside: {said}"))
}

fn capabilities(bench: &mut Bench<'_>) -> Result<String> {
    let unit = include_str!("../../../../../dist/memgov.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let all = doctor(bench, |command| start_with_capabilities(command, &names))?;
    ensure!(all["state"] == "available", "with {names:?}: {all}");
    let fewer: Vec<&str> = names.into_iter().filter(|name| *name != "CAP_PERFMON").collect();
    let without = doctor(bench, |command| start_with_capabilities(command, &fewer))?;
    ensure!(without["state"] != "available", "without CAP_PERFMON: {without}");
    Ok(String::new())
}

fn namespace(bench: &mut Bench<'_>) -> Result<String> {
    let here = doctor(bench, |_| {})?;
    ensure!(here["state"] == "available", "{here}");
    let there = doctor(bench, start_in_own_cgroup_namespace)?;
    let why = there["why"].as_str().unwrap_or_default();
    ensure!(there["state"] != "available" && why.contains("cgroup namespace"), "{there}");
    Ok(why.to_owned())
}
