//! Fork bombs win races: ten of them, and fifty when asked for by name (minutes), at full speed on every processor, against a daemon that has no more right to a processor than each of
//! their processes. What contains them must not be that memgov was quick.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Allowed, K, over, rule, shielded, times};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{Need, Tier};
use crate::harness::poll_until;
use crate::harness::run::Test;
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("gk_01_one_bomb_after_the_other_at_normal_priority", |bench| races(bench, 10))
            .needs(&[Need::Freezer])
            .seconds(240),
        Test::new("gk_01_fifty_bombs_at_normal_priority", |bench| races(bench, 50))
            .needs(&[Need::Freezer])
            .seconds(1200),
    ]
}

/// So long it is left to itself when it has met the line.
const LEFT: Duration = Duration::from_millis(200);

/// One run of it.
struct Run {
    peak: u64,
    most: usize,
    /// Until it had met the line.
    took: Duration,
}

fn races(bench: &mut Bench<'_>, count: usize) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let daemon = bench.daemon(&rule(&job, K, "\"deny\""))?;
    at_normal_priority(&daemon)?;
    let mut runs = Vec::new();
    for number in 1..=count {
        let run = one(bench, &daemon, &job);
        let run = run.map_err(|error| daemon.explain(error.context(format!("run {number}"))))?;
        runs.push(run);
    }
    ensure!(job.oom_kills()? == 0, "the kernel's OOM killer was faster");
    let worst = runs.iter().map(|run| run.peak).max().unwrap_or(0);
    let most = runs.iter().map(|run| run.most).max().unwrap_or(0);
    let slowest = runs.iter().map(|run| run.took).max().unwrap_or_default();
    Ok(format!("{count} runs: {}, {most} processes, met after {slowest:.0?} at the latest", over(worst, K)))
}

/// The loop goes ahead of ordinary work by itself; here it may not.
fn at_normal_priority(daemon: &Daemon) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(daemon.pid).context("its pid")?;
    rustix::process::setpriority_process(Some(pid), 0).context("setting its nice value")?;
    let nice = rustix::process::getpriority_process(Some(pid))?;
    ensure!(nice == 0, "its nice value is {nice}");
    Ok(())
}

/// Processes of the last bomb count until somebody has waited for them; then what stands is what there is room for again.
fn ready(bench: &Bench<'_>, job: &Group) -> Result<()> {
    if bench.host.tier == Tier::Bpf {
        return Ok(());
    }
    let allowed = Allowed::to_a_bomb(bench, 0).tasks;
    let says = |file: &str| {
        let mut texts = job.dirs().iter().filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
        texts.find_map(|text| text.trim().parse::<usize>().ok())
    };
    let ready = poll_until(bench.patience(), Duration::from_millis(3), || {
        let alone = says("pids.current").is_some_and(|tasks| tasks <= 2);
        (alone && says("pids.max").is_some_and(|limit| limit <= allowed)).then_some(())
    });
    ready.with_context(|| format!("{:?} tasks and a limit of {:?}", says("pids.current"), says("pids.max")))
}

/// A bomb from its first fork to its end.
fn one(bench: &Bench<'_>, daemon: &Daemon, job: &Group) -> Result<Run> {
    let mut bomb = bench.worker(job, "bomb")?;
    ready(bench, job)?;
    // The last bomb's are over, however many they were.
    let [denials, reliefs] = ["deny-begin", "relieved"].map(|order| times(daemon, job, order));
    let (before, begin) = (job.kernel()?, Instant::now());
    bomb.say("fork-bomb")?;
    let (mut peak, mut most, mut met) = (0, 0, None);
    let watched = poll_until(bench.patience(), Duration::from_millis(3), || {
        peak = peak.max(job.kernel().unwrap_or(0));
        most = most.max(job.processes().len());
        if met.is_none() && times(daemon, job, "deny-begin") > denials {
            met = Some(begin.elapsed());
        }
        met.filter(|met| begin.elapsed() >= *met + LEFT)
    });
    // Whatever was seen, it ends here.
    let gone = poll_until(bench.patience(), Duration::from_millis(3), || {
        let left = job.processes();
        left.iter().for_each(|pid| {
            let _gone = signal::send(*pid, libc::SIGKILL);
        });
        left.is_empty().then_some(())
    });
    gone.with_context(|| format!("{} processes are left", job.processes().len()))?;
    let allowed = Allowed::to_a_bomb(bench, before);
    let seen = format!("{}, {most} processes, allowed {allowed:?}", over(peak, K));
    let took = watched.with_context(|| format!("never denied: {seen}"))?;
    // Inside, forks under way count with what they are going to need: on a slow machine few are through by then.
    let least = if bench.host.tier == Tier::Bpf { 10 } else { 50 };
    ensure!(most > least && peak <= allowed.peak && most <= allowed.tasks, "{seen}");
    relieved(bench, daemon, job, reliefs)?;
    Ok(Run { peak, most, took })
}

/// Once more than so many times.
fn relieved(bench: &Bench<'_>, daemon: &Daemon, job: &Group, before: usize) -> Result<()> {
    let done = poll_until(bench.patience(), Duration::from_millis(3), || {
        (times(daemon, job, "relieved") > before).then_some(())
    });
    done.with_context(|| format!("not relieved {} times: {:?}", before + 1, daemon.events().last()))
}
