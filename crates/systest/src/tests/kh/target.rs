//! KH 1, 2, 3, 5: the target, EBUSY, nothing to do, and not too much.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{BATCH, HARD, at_target, cache, expect, json, shrink_here};
use crate::harness::bench::Bench;
use crate::harness::daemon::Output;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until, process};
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    let cached: &[Need] = &[Need::CleanCache];
    vec![
        Test::new("kh_01_the_letters_line", letter).needs(cached).seconds(60),
        Test::new("kh_01_ctrl_c_stops_it", ctrl_c).seconds(60),
        Test::new("kh_02_hard_is_ebusy", hard).needs(cached).seconds(60),
        Test::new("kh_03_already_below_does_nothing", already).needs(cached),
        Test::new("kh_03_nonsense_is_refused", nonsense),
        Test::new("kh_05_never_a_tenth_under_the_target", slices).needs(cached).seconds(90),
        Test::new("kh_05_kinds_of_memory", kinds).needs(&[Need::CleanCache, Need::V2]),
        Test::new("kh_10_nothing_else_changes", side_effects).needs(cached).seconds(60),
    ]
}

/// 600 MiB of clean page cache to 400M by the daemon, on to 300M without one.
fn letter(bench: &mut Bench<'_>) -> Result<String> {
    // Reading so much takes a busy machine long.
    bench.patience *= 3;
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut reader = bench.agent(&job, "reader")?;
    cache(bench, &mut reader, 0, 600 * MIB)?;
    let (before, limits) = (job.usage()?, job.limits());
    ensure!(before >= 550 * MIB, "the group could not be filled: {}", mib(before));
    let begin = Instant::now();
    let output = daemon.cli(&["shrink", &job.path(), "400M"])?;
    let took = begin.elapsed();
    expect(&output, 0, "shrink to 400M").map_err(|error| daemon.explain(error))?;
    let usage = at_target(&job, 400 * MIB)?;
    ensure!(output.stdout.contains("400MiB"), "it does not say where to: {}", output.stdout);
    let path = job.path();
    daemon
        .event("the record", bench.patience(), |event| event.order == "shrink" && event.is_of_group(&path))?;
    let output = shrink_here(bench, &[&job.path(), "--by", "100MiB", "--json"])?;
    expect(&output, 0, "shrink by 100MiB without a daemon")?;
    let said = json(&output)?;
    let target = said["target_bytes"].as_u64().context("no target")?;
    let then = said["before_bytes"].as_u64().context("no usage")?;
    ensure!(target == then - 100 * MIB, "the target is {target}, 100 MiB under {then}");
    ensure!(then.abs_diff(usage) <= 16 * MIB, "usage is {usage}, and {then} when it began");
    at_target(&job, target)?;
    ensure!(said["state"] == "reached" && job.limits() == limits, "{said}; limits {}", job.limits());
    Ok(format!("{} -> {} in {took:.1?} by {}", mib(before), mib(usage), said["file"]))
}

fn ctrl_c(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 64 * MIB)?;
    let limits = job.limits();
    for there in [true, false] {
        let path = job.path();
        let mut command = match there {
            true => daemon.command(&["shrink", &path, "--to", "16MiB"]),
            false => super::alone(bench, &[&path, "--to", "16MiB"]),
        };
        let child =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
        // Before that the signal would end it as any program.
        let pid = i32::try_from(child.id())?;
        let heeds = |mask: String| {
            u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & 1 << (libc::SIGINT - 1) != 0)
        };
        let ready = || process::status(pid, "SigBlk").filter(|mask| heeds(mask.clone())).map(drop);
        poll_until(bench.patience(), Duration::from_millis(2), ready).context("it never heeds signals")?;
        std::thread::sleep(Duration::from_millis(300));
        signal::send(pid, libc::SIGINT).ok().context("it had ended already")?;
        let output = child.wait_with_output()?;
        ensure!(output.status.code() == Some(130), "expected exit code 130, got {}", output.status);
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("called off"), "it does not say so: {said}");
        ensure!(job.limits() == limits, "limits are {}, were {limits}", job.limits());
    }
    let listed = daemon.ok(&["shrink", "--list"])?;
    ensure!(listed.contains("cancelled"), "the daemon goes on: {listed}");
    Ok(String::new())
}

/// Locked memory beside a little cache: what can go goes, the rest is EBUSY, soon, and nobody is harmed.
fn hard(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 500 * MIB)?;
    cache(bench, &mut hog, 0, 100 * MIB)?;
    let could_go = job.stat(if bench.host.version == Version::V2 { "file" } else { "cache" })?;
    ensure!(could_go >= 40 * MIB, "the group could not be filled with cache: {could_go}");
    let limits = job.limits();
    let mut measured = Vec::new();
    for there in [true, false] {
        let path = job.path();
        let asked = ["--to", "400M", "--json"];
        let begin = Instant::now();
        let output = match there {
            true => daemon.cli(&[&["shrink", &path], &asked[..]].concat())?,
            false => shrink_here(bench, &[&[path.as_str()], &asked[..]].concat())?,
        };
        let took = begin.elapsed();
        expect(&output, HARD, "anonymous memory without swap").map_err(|error| daemon.explain(error))?;
        ensure!(output.stderr.contains("EBUSY"), "it does not say EBUSY: {}", output.stderr);
        ensure!(took <= Duration::from_secs(5) * bench.host.patience, "only after {took:?}");
        let said = json(&output)?;
        let freed = said["freed_bytes"].as_u64().unwrap_or(0);
        ensure!(said["errno"] == libc::EBUSY && said["state"] == "hard", "{said}");
        // All but a tenth of what was there: on a full machine the kernel itself has taken some before.
        ensure!(
            !there || freed + 10 * MIB >= could_go,
            "{could_go} bytes of cache could go, {freed} did: {said}"
        );
        measured.push(format!("{took:.1?}, {} freed", mib(freed)));
    }
    ensure!(job.limits() == limits, "limits are {}, were {limits}", job.limits());
    ensure!(job.oom_kills()? == 0 && process::is_alive(hog.pid), "somebody was killed");
    Ok(measured.join("; "))
}

fn already(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut reader = bench.agent(&job, "reader")?;
    cache(bench, &mut reader, 0, 40 * MIB)?;
    let counter = if bench.host.version == Version::V2 { "pgsteal" } else { "pgpgout" };
    let before = (job.stat(counter)?, job.usage()?);
    let output = daemon.cli(&["shrink", &job.path(), "--to", "400M"])?;
    expect(&output, 0, "already below")?;
    ensure!(output.stdout.contains("already"), "it does not say so: {}", output.stdout);
    let after = (job.stat(counter)?, job.usage()?);
    // Each processor may hold back a charge of some pages.
    let stray = if counter == "pgsteal" { 0 } else { 64 };
    ensure!(
        after.0 <= before.0 + stray && after.1.abs_diff(before.1) <= MIB,
        "reclaimed: {after:?}, was {before:?}"
    );
    // Nothing: as empty as possible, which is no failure.
    let output = daemon.cli(&["shrink", &job.path(), "--to", "0"])?;
    expect(&output, 0, "to nothing")?;
    let left = job.usage()?;
    ensure!(left < 8 * MIB, "{} left of {}", mib(left), mib(before.1));
    Ok(format!("to nothing: {} left", mib(left)))
}

fn nonsense(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let path = job.path();
    let cases: [(&[&str], i32, &str); 10] = [
        (&[&path, "--to", "-5M"], 2, "not an amount"),
        (&[&path, "-5M"], 2, "not an amount"),
        (&[&path, "--to", "5"], 2, "no unit"),
        (&[&path, "--to", "five"], 2, "not an amount"),
        (&[&path, "--to", "16777216T"], 2, "more than 16 EiB"),
        (&[&path], 2, "say how far"),
        (&[&path, "--by", "0"], 2, "by nothing"),
        (&["/", "--to", "1G"], 2, "root group"),
        (&["/memgov-no-such", "--to", "1G"], 5, "No such file"),
        (&["--watch", "4711"], 5, "no shrink 4711"),
    ];
    for (arguments, code, says) in cases {
        for there in [true, false] {
            let output = match there {
                true => daemon.cli(&[&["shrink"], arguments].concat())?,
                false if arguments.contains(&"--watch") => continue,
                false => shrink_here(bench, arguments)?,
            };
            expect(&output, code, &format!("{arguments:?}"))?;
            let Output { stderr, .. } = output;
            ensure!(stderr.contains(says), "{arguments:?} does not say {says:?}: {stderr}");
        }
    }
    for text in ["300K", "1M", "400M\n", "1.5G", "2MiB"] {
        expect(&daemon.cli(&["shrink", &path, "--to", text])?, 0, &format!("{text:?}"))?;
    }
    Ok(String::new())
}

/// Flat groups and deep ones, large steps and small ones.
fn slices(bench: &mut Bench<'_>) -> Result<String> {
    let top = bench.group("top")?;
    top.delegate_memory()?;
    let daemon = bench.daemon("")?;
    let children = (0..8).map(|i| bench.group(&format!("top/c{i}"))).collect::<Result<Vec<_>>>()?;
    let mut readers = Vec::new();
    for child in &children {
        readers.push(bench.agent(child, "reader")?);
    }
    let mut least = 100;
    for (round, percent) in [95, 80, 60, 40, 25].into_iter().enumerate() {
        for (i, reader) in (0..).zip(&mut readers) {
            cache(bench, reader, i, (10 + 5 * i) * MIB)?;
        }
        let target = top.usage()? * percent / 100;
        let target = target - target % 4096;
        expect(&daemon.cli(&["shrink", &top.path(), "--to", &format!("{target}B")])?, 0, "of eight groups")?;
        let usage = at_target(&top, target).with_context(|| format!("round {round}, {percent} %"))?;
        least = least.min(usage * 100 / target);
    }
    Ok(format!("at the least {least} % of the target"))
}

/// `--file-only` and its kin: obeyed where the kernel takes it, refused where not.
fn kinds(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut reader = bench.agent(&job, "reader")?;
    cache(bench, &mut reader, 0, 40 * MIB)?;
    // An ask for nothing: what a kernel before 6.11 refuses.
    let takes = |argument: &str| job.write("memory.reclaim", &format!("0 {argument}")).is_ok();
    let cases = [
        ("--file-only", takes("swappiness=0")),
        ("--swappiness=60", takes("swappiness=60")),
        ("--anon-only", takes("swappiness=max")),
    ];
    let mut taken = Vec::new();
    for (option, taken_here) in cases {
        let before = job.usage()?;
        let output = daemon.cli(&["shrink", &job.path(), "--by", "4MiB", option])?;
        match taken_here {
            // No swap here: nothing anonymous can go.
            true if option == "--anon-only" => expect(&output, HARD, option)?,
            true => {
                expect(&output, 0, option)?;
                ensure!(job.usage()? <= before - 4 * MIB + BATCH, "{option}: nothing went");
            }
            false => {
                expect(&output, 2, option)?;
                ensure!(output.stderr.contains("does not take"), "{option}: no reason: {}", output.stderr);
            }
        }
        taken.push(format!("{option} {}", if taken_here { "taken" } else { "refused" }));
    }
    Ok(taken.join(", "))
}

fn side_effects(bench: &mut Bench<'_>) -> Result<String> {
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let daemon = bench.daemon("")?;
    let mut reader = bench.agent(&job, "reader")?;
    let mut neighbour = bench.agent(&other, "neighbour")?;
    cache(bench, &mut neighbour, 0, 60 * MIB)?;
    cache(bench, &mut reader, 1, 200 * MIB)?;
    let seen = |group: &crate::harness::group::Group| -> Result<Vec<(String, u64)>> {
        let mut seen = vec![("max".into(), group.max_events()?), ("oom_kill".into(), group.oom_kills()?)];
        for dir in group.dirs() {
            let events = std::fs::read_to_string(dir.join("memory.events")).unwrap_or_default();
            let high = events.lines().find_map(|line| line.strip_prefix("high ")?.parse().ok());
            seen.extend(high.map(|count| ("high".into(), count)));
            let pressure = std::fs::read_to_string(dir.join("memory.pressure")).unwrap_or_default();
            let stall = pressure.lines().filter_map(|line| line.rsplit_once("total=")?.1.parse().ok());
            seen.extend(stall.map(|total| ("pressure".into(), total)));
        }
        Ok(seen)
    };
    let (before, kept, limits) = ((seen(&job)?, seen(&other)?), other.usage()?, job.limits());
    expect(&daemon.cli(&["shrink", &job.path(), "--to", "40MiB"])?, 0, "shrink")?;
    at_target(&job, 40 * MIB)?;
    ensure!(
        (seen(&job)?, seen(&other)?) == before,
        "events: {:?}, were {before:?}",
        (seen(&job)?, seen(&other)?)
    );
    ensure!(other.usage()?.abs_diff(kept) <= MIB, "the neighbour uses {}, before {kept}", other.usage()?);
    ensure!(job.limits() == limits, "limits are {}, were {limits}", job.limits());
    ensure!(process::is_alive(reader.pid) && process::is_alive(neighbour.pid), "somebody was killed");
    Ok(format!("{} counters unmoved", before.0.len() + before.1.len()))
}
