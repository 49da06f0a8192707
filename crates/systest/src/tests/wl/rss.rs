//! WL 4 and 5: resident memory by kind, with the group and (DIRECT) without it. The high is memgov's own here on every
//! kernel: with the kernel's, the hogs would be asleep long before they get to where they should be seen.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, CLIMIT, T, virtual_high, word};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_04_rss_anon_trips_only_on_its_own", |bench| kind(bench, "anon")),
        Test::new("wl_04_rss_shmem_trips_only_on_its_own", |bench| kind(bench, "shmem")),
        Test::new("wl_04_rss_file_trips_only_on_its_own", |bench| kind(bench, "file"))
            .needs(&[Need::FileMemory]),
        Test::new("wl_04_rss_kinds_sum", sum),
        Test::new("wl_04_rss_needs_the_group_over_too", group_too),
        Test::new("wl_05_direct_ignores_the_group", direct),
        Test::new("wl_05_direct_without_plimit_is_invalid", direct_invalid),
    ]
}

const PLIMIT: u64 = 32 * MIB;
/// Quiet for so long counts as nothing happening.
const QUIET: Duration = Duration::from_millis(600);

fn flag(kind: &str) -> u32 {
    match kind {
        "anon" => word::ANON,
        "shmem" => word::SHMEM,
        _ => word::FILE,
    }
}

/// A group that is over its (virtual) high + climit because of a fourth process, and a daemon.
fn over_group(bench: &Bench<'_>) -> Result<(Group, Daemon, Agent)> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&virtual_high(&job, 40 * MIB))?;
    let mut ballast = bench.agent(&job, "ballast")?;
    ballast.take("anon", 64 * MIB)?;
    Ok((job, daemon, ballast))
}

fn hog(bench: &Bench<'_>, job: &Group, kind: &str) -> Result<Agent> {
    let mut hog = bench.agent(job, kind)?;
    if let (Ok(dir), "file") = (&bench.host.file_memory, kind) {
        hog.ask(&format!("file {}", dir.join(format!("pages-{}", hog.pid)).display()))?;
    }
    Ok(hog)
}

/// Three processes hold 40 MiB each of this kind and watch one kind each: only the one that watches it acts, and not
/// before its own 32 MiB.
fn kind(bench: &mut Bench<'_>, held: &str) -> Result<String> {
    let (job, daemon, _ballast) = over_group(bench)?;
    let mut others = Vec::new();
    for watched in ["anon", "shmem", "file"].into_iter().filter(|watched| *watched != held) {
        let mut other = hog(bench, &job, held)?;
        daemon.set_memctl(other.pid, word::DENY | flag(watched), CLIMIT, PLIMIT)?;
        other.take(held, 40 * MIB)?;
        others.push(other.pid);
    }
    let mut hog = hog(bench, &job, held)?;
    daemon.set_memctl(hog.pid, word::DENY | flag(held), CLIMIT, PLIMIT)?;
    hog.take(held, 24 * MIB)?;
    daemon.no_event("with 24 MiB of 32 MiB", QUIET, |event| event.order == "deny-begin")?;
    hog.push(held, 80 * MIB)?;
    let event = daemon.event("deny-begin of the one over its plimit", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of(hog.pid)
    })?;
    let (rss, line) = (event.reason.rss_bytes.unwrap_or(0), event.reason.rss_line_bytes);
    ensure!(line == Some(PLIMIT) && rss > PLIMIT, "expected rss over {PLIMIT}, got {rss} over {line:?}");
    ensure!(event.reason.kind == "usage-and-rss", "expected usage-and-rss, got {}", event.reason.kind);
    daemon.no_event("processes that watch another kind", QUIET, |event| {
        event.order == "deny-begin" && others.iter().any(|&pid| event.is_of(pid))
    })?;
    Ok(format!("acted at {} of {held}", mib(rss)))
}

fn sum(bench: &mut Bench<'_>) -> Result<String> {
    let (job, daemon, _ballast) = over_group(bench)?;
    let mut both = bench.agent(&job, "both")?;
    daemon.set_memctl(both.pid, word::DENY | word::ANON | word::SHMEM, CLIMIT, PLIMIT)?;
    both.take("anon", 20 * MIB)?;
    daemon.no_event("with 20 MiB of anon alone", QUIET, |event| event.order == "deny-begin")?;
    both.push("shmem", 80 * MIB)?;
    let event = daemon.event("deny-begin by the sum", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of(both.pid)
    })?;
    Ok(event.reason.text)
}

fn group_too(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&virtual_high(&job, 100 * MIB))?;
    let mut hog = bench.agent(&job, "hog")?;
    daemon.set_memctl(hog.pid, word::DENY | word::ANON, CLIMIT, PLIMIT)?;
    hog.take("anon", 48 * MIB)?;
    daemon.no_event("the group is under its high", QUIET, |event| event.order == "deny-begin")?;
    let mut ballast = bench.agent(&job, "ballast")?;
    ballast.take("anon", 72 * MIB)?;
    let event = daemon.event("deny-begin once the group is over too", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of(hog.pid)
    })?;
    Ok(event.reason.text)
}

/// Growth in MiB a second.
const GROWTH: u64 = 20;
/// The default of the slowest pace.
const SLOWEST: Duration = Duration::from_secs(2);

fn direct(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    daemon.set_memctl(hog.pid, word::DENY | word::DIRECT | word::ANON, 0, 64 * MIB)?;
    hog.take("anon", 60 * MIB)?;
    daemon.no_event("with 60 MiB of 64 MiB", QUIET, |event| event.order == "deny-begin")?;
    hog.grow("anon", MIB, Duration::from_millis(1000 / GROWTH), 300 * MIB)?;
    let refused = hog.note("refused").map_err(|error| daemon.explain(error))?;
    let event = daemon.event("deny-begin at high = max", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of(hog.pid)
    })?;
    let held = refused.numbers[1];
    // No event of the kernel tells of a process's memory: it is looked at, at the slowest every 2 s.
    let most = 64 * MIB + MIB * GROWTH * u64::try_from((SLOWEST + T).as_millis())? / 1000 + MIB;
    ensure!(held <= most, "refused only at {}, expected by {}", mib(held), mib(most));
    ensure!(event.reason.kind == "rss", "expected the reason rss, got {}", event.reason.kind);
    Ok(format!("refused at {}", mib(held)))
}

fn direct_invalid(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let hog = bench.agent(&job, "hog")?;
    for word in [word::DENY | word::DIRECT | word::ANON, word::DENY | word::DIRECT] {
        let plimit = if word & word::ANON == 0 { "4096" } else { "0" };
        let output =
            daemon.cli(&["set", "--pid", &hog.pid.to_string(), "--memctl", &format!("{word} 0 {plimit}")])?;
        ensure!(
            output.code == 2,
            "word {word:#x} plimit {plimit}: expected exit code 2, got {}",
            output.code
        );
    }
    Ok(String::new())
}
