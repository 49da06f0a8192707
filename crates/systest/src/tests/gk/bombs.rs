//! Containing what takes kernel memory as fast as it can, and killing the right ones for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Allowed, K, empty, forks_refused, over, refuser, rule, shell, shielded, tolerance, two_are_left, watch,
};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::host::{Need, Tier, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, process};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Freezer]).seconds(90);
    vec![
        test("gk_01_shell_fork_bomb", |bench| bomb(bench, true)),
        test("gk_01_fork_bomb_that_does_not_give_up", |bench| bomb(bench, false)),
        test("gk_01_thread_bomb", |bench| hoarder(bench, "stubborn-threads", 1000)),
        test("gk_02_mkdir_loop", |bench| hoarder(bench, "dirs", 12_000)),
        test("gk_02_open_unlinked_files", |bench| hoarder(bench, "unlinked", 20_000)),
        test("gk_06_the_parents_line_meets_the_biggest_child", biggest_child),
        test("gk_09_the_bomb_dies_and_no_big_innocent", right_victim),
    ]
}

/// Refused at once, and frozen if that was not enough.
pub(super) const CONTAIN: &str = "\"deny\", { action = \"freeze\", after = \"100ms\" }";

/// What stops a bomb. Inside the kernel refusing does: it stays as it is, and goes on trying. From outside a fork is refused when it has cost nearly all that it costs
/// (processor time, and memory that comes back only later), and what goes on trying has to be frozen.
fn stop(bench: &Bench<'_>) -> &'static str {
    match bench.host.tier {
        Tier::Bpf => "\"deny\"",
        Tier::Portable => "\"deny\", { action = \"freeze\", after = \"10ms\" }",
    }
}

fn begun<'a>(path: &'a str, order: &'static str) -> impl Fn(&Event) -> bool + 'a {
    move |event| event.order == order && event.is_of_group(path) && event.outcome.is_some()
}

/// A neighbour that forks and maps on a timetable, and must not notice.
fn neighbour(bench: &Bench<'_>) -> Result<(Group, Agent)> {
    let group = bench.group("other")?;
    let mut agent = bench.agent(&group, "neighbour")?;
    agent.ask("innocent 2000")?;
    Ok((group, agent))
}

/// The criterion's.
const BAR: Duration = Duration::from_millis(100);

fn is_free(bench: &Bench<'_>, group: &Group, agent: &mut Agent, bar: Duration) -> Result<Duration> {
    let figures = agent.numbers("figures")?;
    ensure!(figures[1] == 0 && figures[0] > 0, "pieces and failures of the neighbour: {figures:?}");
    ensure!(group.oom_kills()? == 0, "the kernel killed in the neighbour's group");
    let worst = Duration::from_micros(figures[3]);
    let allowed = bar * bench.host.patience;
    ensure!(worst < allowed, "the neighbour was held up: p99 {worst:?}, allowed {allowed:?}");
    Ok(worst)
}

fn bomb(bench: &mut Bench<'_>, by_shell: bool) -> Result<String> {
    bench.patience *= 2;
    let (other, mut innocent) = neighbour(bench)?;
    let job = shielded(bench)?;
    let mut agent = if by_shell { None } else { Some(bench.worker(&job, "bomb")?) };
    let daemon = bench.daemon(&rule(&job, K, stop(bench)))?;
    let began_with = job.kernel()?;
    let mut started = None;
    match &mut agent {
        Some(agent) => agent.say("fork-bomb")?,
        None => started = Some(shell(bench, &job, "bomb() { bomb | bomb & }; bomb; sleep 600")?),
    }
    let result = contained(bench, &daemon, &job, began_with);
    // Whatever was seen, the bomb ends before the daemon does.
    let emptied = empty(bench, &daemon, &job);
    if let Some(mut child) = started {
        let _gone = child.kill();
        child.wait()?;
    }
    let removed = job.remove();
    let (said, emptied) = (result?, emptied?);
    removed?;
    // From outside it has every processor until all of it is frozen, each process when it comes to run.
    let bar = if bench.host.tier == Tier::Portable { 10 * BAR } else { BAR };
    let late = is_free(bench, &other, &mut innocent, bar)?;
    Ok(format!("{said}; emptied in {emptied:.0?}; p99 of the neighbour {late:?}"))
}

/// Waits until it is met, then sees that it grows no more.
fn contained(bench: &Bench<'_>, daemon: &Daemon, job: &Group, began_with: u64) -> Result<String> {
    let path = job.path();
    // From outside what stands may hold it under its line, and then nothing is ever decided.
    let outside = bench.host.tier == Tier::Portable;
    let within = if outside { Duration::from_secs(5) * bench.host.patience } else { bench.patience() };
    let met = match daemon.event("deny-begin", within, begun(&path, "deny-begin")) {
        Ok(event) => {
            ensure!(event.by() == refuser(bench), "{event}");
            let said = event.reason.kind == "kernel" && event.reason.usage_line_bytes == Some(K);
            ensure!(said, "{event}");
            format!("by {}", event.by())
        }
        Err(error) if !outside => return Err(error),
        Err(_) => {
            let held = daemon.ok(&["status", "--json"])?;
            ensure!(held.contains("\"bound\"") && job.kernel()? <= K, "neither denied nor bound: {held}");
            // That a limit stands is nothing: it has to have been met.
            let refused = forks_refused(job);
            ensure!(refused > 0, "it stopped by itself: {held}");
            format!("by what stands ({refused} forks refused)")
        }
    };
    let allowed = Allowed::to_a_bomb(bench, began_with);
    // The second that it may take until nothing more begins.
    let first = watch(job, Duration::from_secs(1) * bench.host.patience)?;
    let then = watch(job, Duration::from_secs(2))?;
    let peak = first.peak.max(then.peak);
    let most = first.most.max(then.most);
    if peak > allowed.peak || most > allowed.tasks {
        return Err(
            daemon.explain(anyhow::anyhow!("{}, {most} processes, allowed {allowed:?}", over(peak, K)))
        );
    }
    // It goes on trying: a shell's bomb may die of being refused and begin again, and what was given back is taken again. Not more than that.
    let later = watch(job, Duration::from_secs(1))?;
    let said = format!("later {}, {} processes, allowed {allowed:?}", over(later.peak, K), later.most);
    ensure!(later.peak <= allowed.peak && later.most <= allowed.tasks, "{said}");
    ensure!(job.oom_kills()? == 0, "the kernel's OOM killer was faster");
    Ok(format!("{met}, {}, {} processes", over(peak, K), first.most.max(then.most)))
}

/// One process at full speed.
fn hoarder(bench: &mut Bench<'_>, kind: &str, count: u64) -> Result<String> {
    bench.patience *= 2;
    let (other, mut innocent) = neighbour(bench)?;
    let job = shielded(bench)?;
    let mut hog = bench.worker(&job, "hog")?;
    hog.ask(&format!("prepare {kind} 0"))?;
    // A chain of directories takes long to take apart.
    let line = if kind == "dirs" { job.kernel()? + 4 * MIB } else { K };
    let daemon = bench.daemon(&rule(&job, line, CONTAIN))?;
    hog.say(&format!("hoard {kind} {count}"))?;
    let path = job.path();
    let met = daemon.event("deny-begin or freeze-begin", bench.patience(), |event| {
        begun(&path, "deny-begin")(event) || begun(&path, "freeze-begin")(event)
    })?;
    ensure!(met.reason.kind == "kernel", "{met}");
    let seen = watch(&job, Duration::from_secs(2) * bench.host.patience)?;
    ensure!(seen.peak <= line + tolerance(bench), "{}", over(seen.peak, line));
    if bench.host.tier == Tier::Portable && kind != "stubborn-threads" {
        // Nothing from outside refuses it: it has to stand still.
        daemon.event("freeze-begin", bench.patience(), begun(&path, "freeze-begin"))?;
        let (before, then) = (job.kernel()?, watch(&job, Duration::from_secs(1))?);
        ensure!(then.peak <= before.max(seen.peak), "it goes on: {before}, then {}", then.peak);
    }
    let late = is_free(bench, &other, &mut innocent, BAR)?;
    // With the daemon gone it goes on, and gives back what it has: nothing stays frozen.
    let mut daemon = daemon;
    ensure!(daemon.terminate()? == 0, "the daemon's exit code");
    hog.answer(bench.patience()).context("after the daemon has gone")?;
    hog.ask("let-go")?;
    Ok(format!("by {}, {}; p99 of the neighbour {late:?}", met.by(), over(seen.peak, line)))
}

/// Two children below one line: the bomb's dies, the other does not.
fn biggest_child(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    job.delegate_memory()?;
    let (mild, wild) = (bench.group("cage/job/mild")?, bench.group("cage/job/wild")?);
    let (mut mild, mut wild) = (bench.worker(&mild, "mild")?, bench.worker(&wild, "wild")?);
    mild.numbers("hoard forks 10")?;
    let daemon = bench.daemon(&rule(&job, K, "{ action = \"kill\", victim = \"largest\" }"))?;
    wild.say("hoard forks 2000")?;
    let (_, signal) = wild.wait_for_end(bench.patience()).map_err(|error| daemon.explain(error))?;
    ensure!(signal == libc::SIGKILL, "died of {signal}");
    let path = job.path();
    let event = daemon.event("the kill", bench.patience(), |event| {
        event.order == "kill" && event.is_of_group(&path) && event.came_of_it() == "dead"
    })?;
    ensure!(process::is_alive(mild.pid), "the mild one is dead");
    daemon.event("relief", bench.patience(), begun(&path, "relieved"))?;
    mild.ask("let-go")?;
    Ok(event.to_string())
}

/// A process of 100 MiB and one that has just come stay; the bomb of small ones goes.
fn right_victim(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let mut innocent = bench.agent(&job, "innocent")?;
    innocent.take("anon", 100 * MIB)?;
    let mut bomb = bench.worker(&job, "bomb")?;
    let kill = "\"deny\", { action = \"kill\", victim = \"largest\", after = \"500ms\" }";
    let daemon = bench.daemon(&rule(&job, K, kill))?;
    let newcomer = bench.agent(&job, "newcomer")?;
    bomb.say("fork-bomb")?;
    let path = job.path();
    let killed = daemon.event("a kill", bench.patience(), |event| {
        event.order == "kill" && event.is_of_group(&path) && event.outcome.is_some()
    });
    let killed = two_are_left(bench, &job, killed)?;
    ensure!(process::is_alive(innocent.pid), "the big innocent is dead");
    ensure!(process::is_alive(newcomer.pid), "the newcomer is dead");
    ensure!(!killed.ranking.is_empty(), "no ranking: {killed}");
    let judged = [innocent.pid, newcomer.pid];
    ensure!(killed.ranking.iter().all(|c| !judged.contains(&c.pid)), "an innocent is in the ranking");
    let v1 = bench.host.version == Version::V1;
    Ok(format!("{killed}{}", if v1 { "; on v1" } else { "" }))
}
