//! What was seen in the moment before a kill is in the record of it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::jobs::Jobs;
use super::parent::{LIMIT, UNDER};
use super::{kernel_kills, parent_rule, the_lowest_gives_way, told};
use crate::harness::bench::Bench;
use crate::harness::host::Version;
use crate::harness::{MIB, mib};

/// What the hog that is killed has of each kind at least.
const ANON: u64 = 24 * MIB;
const SHMEM: u64 = 16 * MIB;

/// A job of two processes, with memory of two kinds, gives way for the group around it: what both groups used and may use, what the host had, and who was largest is told as it was.
pub fn before_the_kill(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let before = kernel_kills()?;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &parent_rule(&jobs.parent.path(), UNDER)))?;
    jobs.agents[0][0].take("anon", ANON)?;
    jobs.agents[0][0].take("shmem", ANON + SHMEM)?;
    let (hog, bystander) = (jobs.agents[0][0].pid, jobs.agents[0][1].pid);
    jobs.grow((LIMIT - UNDER) / 3 + 4 * MIB)?;
    let event = the_lowest_gives_way(bench, &daemon, &mut jobs, before)?;
    let number = event.id.to_string();
    let explained: Value = serde_json::from_str(&daemon.ok(&["explain", &number, "--json"])?)?;
    let seen = &explained["event"]["situation"];
    of_the_groups(bench, &jobs, seen).with_context(|| seen.to_string())?;
    of_the_host(seen).with_context(|| seen.to_string())?;
    of_the_processes(hog, bystander, seen).with_context(|| seen.to_string())?;
    let text = daemon.ok(&["explain", &number])?;
    for word in
        [format!("before   of {}", jobs.path(0)), "MemAvailable".into(), hog.to_string(), mib_text(LIMIT)]
    {
        ensure!(text.contains(&word), "no {word:?} in:\n{text}");
    }
    let journal = std::fs::read_to_string(daemon.state_dir().join("events.jsonl"))?;
    let kept =
        journal.lines().any(|line| line.contains("\"situation\"") && line.contains("\"memory_bytes\""));
    ensure!(kept, "not in the journal: {journal}");
    Ok(format!(
        "{}; {} of it in the job",
        told(&event),
        mib(number_of(&seen["groups"][0], "memory_bytes", USAGE)?)
    ))
}

/// What is in use, in the words of either version.
const USAGE: [&str; 2] = ["memory.current", "memory.usage_in_bytes"];

fn mib_text(bytes: u64) -> String {
    format!("{}MiB", bytes / MIB)
}

/// The number under the first of these names that is there.
fn number_of<const N: usize>(of: &Value, map: &str, names: [&str; N]) -> Result<u64> {
    let found = names.iter().find_map(|name| of[map][*name].as_u64());
    found.with_context(|| format!("none of {names:?} in {map}"))
}

fn of_the_groups(bench: &Bench<'_>, jobs: &Jobs, seen: &Value) -> Result<()> {
    let [target, short] = [&seen["groups"][0], &seen["groups"][1]];
    ensure!(
        target["path"] == jobs.path(0).as_str() && short["path"] == jobs.parent.path().as_str(),
        "which groups"
    );
    let usage = number_of(target, "memory_bytes", USAGE)?;
    let anon = number_of(target, "memory_bytes", ["anon", "total_rss"])?;
    let shmem = number_of(target, "memory_bytes", ["shmem", "total_shmem"])?;
    ensure!(anon >= ANON && shmem >= SHMEM, "{} anonymous, {} shared", mib(anon), mib(shmem));
    ensure!(usage + 2 * MIB >= anon + shmem, "{} in all", mib(usage));
    ensure!(number_of(short, "memory_bytes", USAGE)? > LIMIT - UNDER - 8 * MIB, "it was not short");
    let limit = number_of(short, "limits_bytes", ["memory.max", "memory.limit_in_bytes"])?;
    ensure!(limit == LIMIT, "its limit was {}", mib(limit));
    let limits = &target["limits_bytes"];
    ensure!(
        limits["memory.max"].is_null() && limits["memory.limit_in_bytes"].is_null(),
        "a limit that is none"
    );
    if bench.host.version == Version::V2 {
        ensure!(short["events"]["oom_kill"].as_u64() == Some(0), "its events");
        ensure!(
            short["pressure"].is_object() == jobs.parent.dir().join("memory.pressure").exists(),
            "its pressure"
        );
    }
    Ok(())
}

fn of_the_host(seen: &Value) -> Result<()> {
    let host = &seen["host"];
    let [total, available] = ["MemTotal", "MemAvailable"].map(|name| number_of(host, "memory_bytes", [name]));
    let (total, available) = (total?, available?);
    ensure!(available > 0 && available < total, "{} of {} available", mib(available), mib(total));
    number_of(host, "memory_bytes", ["MemFree"])?;
    number_of(host, "memory_bytes", ["SwapFree"])?;
    for name in ["oom_kill", "allocstall_normal", "pgscan_direct", "pgscan_kswapd"] {
        number_of(host, "counters", [name])?;
    }
    let psi = std::fs::read("/proc/pressure/memory").is_ok();
    ensure!(host["pressure"].is_object() == psi, "the kernel has pressure information: {psi}");
    Ok(())
}

fn of_the_processes(hog: i32, bystander: i32, seen: &Value) -> Result<()> {
    let processes = seen["processes"].as_array().context("no processes")?;
    ensure!(seen["processes_looked_at"] == 2 && seen["processes_left_out"] == 0, "how many");
    let pids: Vec<_> = processes.iter().map(|one| one["pid"].as_i64()).collect();
    ensure!(pids == [Some(i64::from(hog)), Some(i64::from(bystander))], "who: the largest first");
    let size = |kind: &str| processes[0][kind].as_u64().unwrap_or(0);
    ensure!(size("anon_bytes") >= ANON && size("shmem_bytes") >= SHMEM, "what the largest had");
    ensure!(processes[0]["comm"] == "hog10", "its name");
    Ok(())
}
