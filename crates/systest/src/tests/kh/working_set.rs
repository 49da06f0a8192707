//! Proactive reclaim: how small a group runs without feeling it is found, said, and kept to; and nothing is asked where that cannot be known.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{cache, json, reuse};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, mib, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("kh_working_set_is_found", found).needs(&[Need::CleanCache, Need::V2]).seconds(240),
        Test::new("kh_working_set_needs_memory_reclaim", unavailable).needs(&[Need::CleanCache]).seconds(30),
    ]
}

/// Read again and again.
const HOT: u64 = 24 * MIB;
/// Read once.
const COLD: u64 = 72 * MIB;
const LIMIT: u64 = 256 * MIB;
/// `until` of the rule.
const FLOOR: u64 = 8 * MIB;
/// It sinks by a 64th a second: to a quarter in 90 s.
const FOUND_WITHIN: Duration = Duration::from_secs(150);

fn rule(group: &Group) -> String {
    format!(
        "[[rule]]\nname = \"small\"\ngroups = {:?}\nover = \"8MiB\"\nuntil = \"8MiB\"\n\
         do = [{{ action = \"reclaim\", pressure = \"0.1%\", share = \"20%\" }}]\n",
        group.path()
    )
}

/// What `memgov status` says of it, in JSON and in words; nothing while nothing is looked for.
fn status(daemon: &Daemon) -> Result<Option<(serde_json::Value, String)>> {
    let status = json(&daemon.cli(&["status", "--json"])?)?;
    let episodes = status["episodes"].as_array().context("no episodes")?;
    let found = episodes.iter().find_map(|episode| episode.get("working_set").cloned());
    let text = daemon.ok(&["status"])?;
    let line = text.lines().find(|line| line.contains("working set about"));
    Ok(found.zip(line.map(str::to_owned)))
}

/// Uses the hot part for so long, about twice a second; how often `enough` was asked before it said yes.
fn work(
    bench: &Bench<'_>,
    reader: &mut Agent,
    time: Duration,
    mut enough: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < time && !enough()? {
        reuse(bench, reader, 1, HOT)?;
        std::thread::sleep(Duration::from_millis(400));
    }
    Ok(begin.elapsed())
}

fn found(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let job = bench.group("job")?;
    job.set_max(LIMIT)?;
    let limits = job.limits();
    let mut reader = bench.agent(&job, "reader")?;
    cache(bench, &mut reader, 1, HOT)?;
    work(bench, &mut reader, Duration::from_secs(2), || Ok(false))?;
    cache(bench, &mut reader, 0, COLD)?;
    let full = job.usage()?;
    ensure!(full >= HOT + COLD, "the group could not be filled: {}", mib(full));
    let daemon = bench.daemon(&rule(&job))?;
    let took = work(bench, &mut reader, FOUND_WITHIN, || Ok(job.usage()? <= HOT * 3 / 2))?;
    let usage = job.usage()?;
    ensure!(usage <= HOT * 3 / 2, "{} after {took:.0?}, {} are in use", mib(usage), mib(HOT));
    // Kept to, and not felt.
    let refaults = || job.stat("workingset_refault_file");
    let (before, mut least, mut most, mut said) = (refaults()?, u64::MAX, 0, None);
    let watched = work(bench, &mut reader, Duration::from_secs(20), || {
        let usage = job.usage()?;
        (least, most) = (least.min(usage), most.max(usage));
        // A machine that stands still is one where nobody reads: there the group goes down to its floor, and while it is there nothing is looked for.
        said = status(&daemon)?.or(said.take());
        Ok(false)
    })?;
    let refaulted = refaults()? - before;
    // 0.1 % of the time at 10 us each is 100 a second; and a burst of ten seconds' worth.
    let tolerated = 100 * (watched.as_secs() + 20);
    ensure!(refaulted <= tolerated, "{refaulted} refaults in {watched:.0?}, {tolerated} are tolerated");
    // What it costs is what was promised, not a level: it may dip for as much as is tolerated, but never under its floor.
    ensure!(least >= FLOOR * 9 / 10 && most <= HOT * 2, "between {} and {}", mib(least), mib(most));
    let (said, line) = said.context("status says nothing of a working set")?;
    let bytes = |key: &str| said[key].as_u64().with_context(|| format!("no {key} in {said}"));
    let (set, enough) = (bytes("working_set_bytes")?, bytes("enough_bytes")?);
    ensure!((FLOOR..=HOT * 2).contains(&set) && enough >= set, "{said}");
    ensure!(bytes("limit_bytes")? == LIMIT, "{said}");
    ensure!(job.limits() == limits && job.oom_kills()? == 0, "limits {}, were {limits}", job.limits());
    ensure!(process::is_alive(reader.pid), "somebody was killed");
    Ok(format!(
        "{} to {} in {took:.0?} ({} in use), then {refaulted} refaults in {watched:.0?} and between {} and {}; {line}",
        mib(full),
        mib(usage),
        mib(HOT),
        mib(least),
        mib(most)
    ))
}

/// On v1 `check --host` refuses such a rule, and a daemon that runs all the same takes nothing.
fn unavailable(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let has = bench.host.version == Version::V2 && job.write("memory.reclaim", "0").is_ok();
    let config = bench.dir.join("small.toml");
    std::fs::write(&config, rule(&job))?;
    let daemon = bench.daemon(&rule(&job))?;
    let path = config.to_string_lossy().into_owned();
    let checked = daemon.cli(&["check", "--host", &path])?;
    let refused = checked.stdout.contains("working-set") && checked.stdout.contains("cannot be obeyed");
    ensure!(refused != has, "memory.reclaim is there: {has}, and check says: {}", checked.stdout);
    if has {
        return Ok("memory.reclaim is there".to_owned());
    }
    let mut reader = bench.agent(&job, "reader")?;
    cache(bench, &mut reader, 0, COLD)?;
    // Read on meanwhile: a kernel may page out by itself what nobody uses (DAMON). What the rule took, a 64th a second, would be read back.
    let refaults = || job.stat("workingset_refault_file");
    let (before, limits) = (refaults()?, job.limits());
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        reuse(bench, &mut reader, 0, COLD)?;
    }
    let taken = refaults()? - before;
    ensure!(taken * 4096 < MIB, "{taken} pages were taken and read back");
    ensure!(job.limits() == limits, "limits {}, were {limits}", job.limits());
    Ok("nothing is taken".to_owned())
}
