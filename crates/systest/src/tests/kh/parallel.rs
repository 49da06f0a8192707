//! KH 6: many at a time, one of them stuck.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cache;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("kh_06_one_stuck_holds_up_nobody", parallel).needs(&[Need::CleanCache]).seconds(90),
        Test::new("kh_06_watched_and_called_off", watched).seconds(60),
    ]
}

const TARGET: u64 = 16 * MIB;

fn begin(daemon: &Daemon, group: &Group) -> Result<u64> {
    let text = daemon.ok(&["shrink", &group.path(), "--to", "16MiB", "--async"])?;
    text.trim().parse().with_context(|| format!("no number of a shrink: {text:?}"))
}

fn job(daemon: &Daemon, id: u64) -> Result<serde_json::Value> {
    let listed: serde_json::Value = serde_json::from_str(&daemon.ok(&["shrink", "--list", "--json"])?)?;
    let jobs = listed["jobs"].as_array().context("no jobs")?;
    jobs.iter().find(|job| job["job"] == id).cloned().with_context(|| format!("no shrink {id} in {listed}"))
}

/// Has all of them shrunk at once and waits for their end.
fn all(bench: &Bench<'_>, daemon: &Daemon, groups: &[Group]) -> Result<Duration> {
    let start = Instant::now();
    let ids = groups.iter().map(|group| begin(daemon, group)).collect::<Result<Vec<_>>>()?;
    for id in ids {
        let done = poll_until(bench.patience(), Duration::from_millis(5), || {
            job(daemon, id).ok().filter(|job| job["state"] != "running")
        });
        let done = done.with_context(|| format!("shrink {id} does not end"))?;
        ensure!(done["state"] == "reached", "{done}");
    }
    Ok(start.elapsed())
}

fn parallel(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let groups = (0..9).map(|i| bench.group(&format!("g{i}"))).collect::<Result<Vec<_>>>()?;
    let mut readers = groups.iter().map(|group| bench.agent(group, "reader")).collect::<Result<Vec<_>>>()?;
    let mut fill = || -> Result<()> {
        for (i, reader) in (0..).zip(&mut readers) {
            cache(bench, reader, i, 48 * MIB)?;
        }
        Ok(())
    };
    fill()?;
    let alone = all(bench, &daemon, &groups)?;
    fill()?;
    let stuck_group = bench.group("stuck")?;
    let mut hog = bench.agent(&stuck_group, "hog")?;
    hog.take("anon", 48 * MIB)?;
    let stuck = begin(&daemon, &stuck_group)?;
    let beside = all(bench, &daemon, &groups)?;
    let state = job(&daemon, stuck)?;
    let allowed = alone * 3 / 2 + Duration::from_millis(100) * bench.host.patience;
    ensure!(beside <= allowed, "nine took {beside:?} beside a stuck one, {alone:?} alone");
    for group in &groups {
        ensure!(group.usage()? <= TARGET + super::BATCH, "{} uses {}", group.path(), group.usage()?);
    }
    // One more that is stuck, called off.
    poll_until(bench.patience(), Duration::from_millis(20), || {
        job(&daemon, stuck).ok().filter(|j| j["state"] == "hard")
    })
    .context("the stuck one is never given up")?;
    let again = begin(&daemon, &stuck_group)?;
    let twice = daemon.cli(&["shrink", &stuck_group.path(), "--to", "1MiB"])?;
    ensure!(
        twice.code == 7 && twice.stderr.contains("already"),
        "two at a time: {}{}",
        twice.code,
        twice.stderr
    );
    let begin = Instant::now();
    daemon.ok(&["shrink", "--cancel", &again.to_string()])?;
    let took = begin.elapsed();
    let cancelled = job(&daemon, again)?;
    ensure!(cancelled["state"] == "cancelled", "{cancelled}");
    ensure!(took <= Duration::from_secs(1) * bench.host.patience, "calling off took {took:?}");
    Ok(format!(
        "nine alone {alone:.1?}, beside a stuck one ({}) {beside:.1?}; called off in {took:.1?}",
        state["state"]
    ))
}

/// `--watch` follows one that runs by itself: Ctrl-C ends the watching and not the shrink; calling that off ends both.
fn watched(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let group = bench.group("stuck")?;
    let mut hog = bench.agent(&group, "hog")?;
    hog.take("anon", 48 * MIB)?;
    let limits = group.limits();
    let id = begin(&daemon, &group)?;
    let watch = || -> Result<std::process::Child> {
        let mut command = daemon.command(&["shrink", "--watch", &id.to_string(), "--json"]);
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    };
    let mut interrupted = watch()?;
    first_line(&mut interrupted)?;
    signal::send(i32::try_from(interrupted.id())?, libc::SIGINT).ok().context("it had ended already")?;
    let ended = interrupted.wait_with_output()?;
    ensure!(ended.status.code() == Some(130), "watching ended with {}", ended.status);
    ensure!(job(&daemon, id)?["state"] == "running", "Ctrl-C of who only watches called it off");
    let mut watching = watch()?;
    let first = first_line(&mut watching)?;
    daemon.ok(&["shrink", "--cancel", &id.to_string()])?;
    let ended = watching.wait_with_output()?;
    let said = first + &String::from_utf8_lossy(&ended.stdout);
    let lines: Vec<serde_json::Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = lines.last().context("it said nothing")?;
    ensure!(last["state"] == "cancelled" && ended.status.code() == Some(1), "{}: {said}", ended.status);
    ensure!(lines[0]["state"] == "running", "{said}");
    ensure!(group.limits() == limits, "limits {}, were {limits}", group.limits());
    Ok(format!("{} lines", lines.len()))
}

/// What it says first, and no byte more; then it is well under way.
fn first_line(child: &mut std::process::Child) -> Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    let output = child.stdout.as_mut().context("no pipe to it")?;
    while !line.ends_with(b"\n") {
        output.read_exact(&mut byte).context("it ended before its first line")?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line)?)
}
