//! Where the line lies, beside the group's limit and from one moment to the next.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memgov::serve::wire::{KernelMark, Status};

use super::{BEHIND, fork_slowly, pids_limits, rule, shielded, times};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::Tier;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("gk_04_a_line_at_the_limit_only_tracks", only_tracks).seconds(60),
        Test::new("gk_07_a_line_moves_under_and_over_what_is_there", moves).seconds(60),
    ]
}

fn mark(daemon: &Daemon) -> Result<KernelMark> {
    let status: Status = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    ensure!(status.kernel.len() == 1, "{:?}", status.kernel);
    status.kernel.into_iter().next().context("no line is told of")
}

/// K = U: kernel memory is counted and nothing is done for it; U acts as ever. With a higher U the line is one, and with the old one it is none again.
fn only_tracks(bench: &mut Bench<'_>) -> Result<String> {
    const U: u64 = 48 * MIB;
    bench.patience *= 2;
    let job = shielded(bench)?;
    job.set_max(U)?;
    let (mut hog, mut user) = (bench.worker(&job, "hog")?, bench.agent(&job, "user")?);
    let daemon = bench.daemon(&rule(&job, U, "\"deny\", \"kill\""))?;
    // At once, which what stands under a line would refuse some of: more than there is room for processes.
    let taken = hog.numbers("hoard threads 700")?;
    ensure!(taken[..2] == [700, 0], "refused though the line is none: {taken:?}");
    let free = || pids_limits(&job).iter().all(|limit| limit == "max");
    ensure!(free(), "limited: {:?}", pids_limits(&job));
    let seen = poll_until(bench.patience(), Duration::from_millis(50), || {
        mark(&daemon).ok().filter(|mark| mark.peak_bytes.is_some_and(|peak| peak > 10 * MIB))
    });
    let seen = seen.with_context(|| format!("not tracked: {:?}", mark(&daemon)))?;
    ensure!(seen.only_tracks && seen.hits == 0 && seen.line_bytes == U, "{seen:?}");
    // The limit of both kinds: the kernel sees to that.
    user.push("anon", 2 * U)?;
    let killed =
        poll_until(bench.patience(), Duration::from_millis(10), || job.oom_kills().ok().filter(|&n| n > 0));
    killed.context("the group's own limit does not act")?;
    let done =
        daemon.events().into_iter().find(|event| ["deny-begin", "kill"].contains(&event.order.as_str()));
    ensure!(
        done.is_none() && free(),
        "{} {:?}",
        done.map(|it| it.to_string()).unwrap_or_default(),
        pids_limits(&job)
    );
    let becomes = |tracks: bool| {
        // From outside it is a limit that stands beforehand.
        let is = || free() == tracks || bench.host.tier == Tier::Bpf;
        let seen = || mark(&daemon).is_ok_and(|mark| mark.only_tracks == tracks) && is();
        poll_until(bench.patience(), Duration::from_millis(20), || seen().then_some(())).with_context(|| {
            format!("only tracks: {tracks} expected, {:?}, {:?}", mark(&daemon), pids_limits(&job))
        })
    };
    job.set_max(BEHIND)?;
    // Whoever was killed, nobody need be in it for that, on either version.
    let _other = bench.worker(&job, "other")?;
    becomes(false)?;
    job.set_max(U)?;
    becomes(true)?;
    Ok(format!("peak {} under a line and limit of {}", mib(seen.peak_bytes.unwrap_or(0)), mib(U)))
}

/// On a parent whose child has all the processes: by request and by reload, under what is there and over it again.
fn moves(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    job.delegate_memory()?;
    let child = bench.group("cage/job/child")?;
    let mut hog = bench.worker(&child, "hog")?;
    let taken = fork_slowly(&mut hog, 40)?;
    ensure!(taken == (40, 0), "{taken:?}");
    // The kernel's own count on v2 is up to 2 s late.
    std::thread::sleep(Duration::from_millis(2500));
    let there = job.kernel()?;
    let (low, high) = (there / 2, there + 64 * MIB);
    let daemon = bench.daemon(&rule(&job, high, "\"deny\""))?;
    let path = job.path();
    let by_request = |line: u64| -> Result<()> {
        let over = format!("{line}B");
        daemon.ok(&["set", "--group", &path, "--meter", "kernel", "--over", &over, "--do", "deny"]).map(drop)
    };
    let by_reload = |line: u64| -> Result<()> {
        std::fs::write(daemon.config(), rule(&job, line, "\"deny\""))?;
        daemon.ok(&["reload"]).map(drop)
    };
    for (round, way) in [(1, "set"), (2, "reload")] {
        let set = |line| if way == "set" { by_request(line) } else { by_reload(line) };
        let becomes = |order: &'static str| {
            let done = || (times(&daemon, &job, order) >= round).then_some(());
            let seen = poll_until(bench.patience(), Duration::from_millis(10), done);
            seen.with_context(|| format!("{way}: no {order} (round {round})"))
                .map_err(|error| daemon.explain(error))
        };
        set(low).context(way)?;
        becomes("deny-begin")?;
        refused(&mut hog, bench, true).with_context(|| format!("{way}, under what is there"))?;
        set(high).context(way)?;
        becomes("deny-end")?;
        refused(&mut hog, bench, false).with_context(|| format!("{way}, over it again"))?;
        if way == "set" {
            daemon.ok(&["clear", "--group", &path])?;
        }
    }
    ensure!(job.oom_kills()? == 0 && times(&daemon, &job, "kill") == 0, "somebody was killed");
    hog.ask("let-go")?;
    Ok(format!("{} of kernel memory, lines of {} and {}", mib(there), mib(low), mib(high)))
}

fn refused(hog: &mut Agent, bench: &Bench<'_>, is: bool) -> Result<()> {
    let errno = if bench.host.tier == Tier::Bpf { 12 } else { 11 };
    let expected = if is { [0, errno] } else { [1, 0] };
    let taken = hog.numbers("hoard forks 1")?;
    ensure!(taken[..2] == expected, "{taken:?} forks and errno, expected {expected:?}");
    Ok(())
}
