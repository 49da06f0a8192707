//! Who dies for kernel memory: those who have grown it, whatever they call themselves; and nobody where none is known to have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{K, rule, shielded, two_are_left};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Freezer]).seconds(90);
    vec![
        test("gk_09_nobody_dies_for_dentries", dentries),
        test("gk_09_who_joins_at_the_line_is_no_offender", newcomer),
        test("gk_09_a_session_each", |bench| disguised(bench, "sessions")),
        test("gk_09_a_name_each", |bench| disguised(bench, "names")),
        test("gk_09_a_session_and_a_name_each", |bench| disguised(bench, "strangers")),
    ]
}

fn event(daemon: &Daemon, bench: &Bench<'_>, job: &Group, order: &'static str) -> Result<Event> {
    let path = job.path();
    daemon.event(order, bench.patience(), |event| {
        event.order == order && event.is_of_group(&path) && event.outcome.is_some()
    })
}

/// Directories in directories belong to no process: beside the one who makes them stands one that looks larger.
fn dentries(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let mut innocent = bench.agent(&job, "innocent")?;
    innocent.take("anon", 100 * MIB)?;
    let mut hog = bench.worker(&job, "hog")?;
    hog.ask("prepare dirs 0")?;
    // A chain of directories takes long to take apart.
    let line = job.kernel()? + 3 * MIB;
    let does = "{ action = \"kill\", victim = \"largest\" }, { action = \"freeze\", after = \"100ms\" }";
    let mut daemon = bench.daemon(&rule(&job, line, does))?;
    let newcomer = bench.agent(&job, "newcomer")?;
    hog.say("hoard dirs 5000")?;
    let said = event(&daemon, bench, &job, "record")?;
    ensure!(said.reason.kind == "nobody-holds-enough", "{said}");
    let explained = daemon.ok(&["explain", &said.id.to_string()])?;
    ensure!(explained.contains("none of its processes is known to hold enough"), "{explained}");
    event(&daemon, bench, &job, "freeze-begin").context("the ladder does not go on")?;
    // The innocent would be killed again each second.
    std::thread::sleep(Duration::from_secs(2));
    for (name, pid) in [("innocent", innocent.pid), ("newcomer", newcomer.pid), ("hog", hog.pid)] {
        ensure!(process::is_alive(pid), "the {name} is dead");
    }
    ensure!(daemon.terminate()? == 0, "the daemon's exit code");
    hog.answer(bench.patience()).context("after the daemon has gone")?;
    hog.ask("let-go")?;
    Ok(said.reason.text)
}

/// The kernel's OOM killer takes whoever joins a full group (it charges last): here a bomb stands at its line, somebody of 30 MiB is put beside it, and the bomb dies.
fn newcomer(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let (job, elsewhere) = (shielded(bench)?, bench.group("elsewhere")?);
    let mut innocent = bench.agent(&job, "innocent")?;
    innocent.take("anon", 60 * MIB)?;
    let mut newcomer = bench.agent(&elsewhere, "newcomer")?;
    newcomer.take("anon", 30 * MIB)?;
    let mut bomb = bench.worker(&job, "bomb")?;
    let ladder = "\"deny\", { action = \"kill\", victim = \"largest\", after = \"1500ms\" }";
    let daemon = bench.daemon(&rule(&job, K, ladder))?;
    bomb.say("fork-bomb")?;
    event(&daemon, bench, &job, "deny-begin")?;
    for dir in job.dirs() {
        std::fs::write(dir.join("cgroup.procs"), newcomer.pid.to_string())
            .with_context(|| format!("moving the newcomer into {}", dir.display()))?;
    }
    let killed = event(&daemon, bench, &job, "kill");
    let killed = two_are_left(bench, &job, killed)?;
    for (name, pid) in [("big innocent", innocent.pid), ("newcomer", newcomer.pid)] {
        ensure!(process::is_alive(pid), "the {name} is dead; {killed}");
        ensure!(killed.ranking.iter().all(|one| one.pid != pid), "the {name} is in the ranking: {killed}");
    }
    event(&daemon, bench, &job, "relieved")?;
    // It lives there as anybody does.
    newcomer.take("anon", 40 * MIB)?;
    Ok(killed.to_string())
}

/// Each child of the bomb looks as if it belonged to nobody: all of them die, with who starts them, and a process of 100 MiB stays.
fn disguised(bench: &mut Bench<'_>, kind: &str) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let mut innocent = bench.agent(&job, "innocent")?;
    innocent.take("anon", 100 * MIB)?;
    let mut bomb = bench.worker(&job, "bomb")?;
    bomb.ask(&format!("prepare {kind} 0"))?;
    let daemon = bench.daemon(&rule(&job, K, "{ action = \"kill\", victim = \"largest\" }"))?;
    bomb.say(&format!("hoard {kind} 1000"))?;
    let (_, signal) = bomb.wait_for_end(bench.patience()).map_err(|error| daemon.explain(error))?;
    ensure!(signal == libc::SIGKILL, "who starts them died of {signal}");
    let killed = event(&daemon, bench, &job, "kill")?;
    let takes = killed.takes.clone().with_context(|| format!("no class is named: {killed}"))?;
    ensure!(takes.contains("which starts them"), "{takes}");
    ensure!(killed.ranking.iter().all(|one| one.pid != innocent.pid), "the innocent is in the ranking");
    poll_until(bench.patience(), Duration::from_millis(10), || (job.processes().len() == 1).then_some(()))
        .with_context(|| format!("{} processes are left, 1 expected", job.processes().len()))?;
    ensure!(process::is_alive(innocent.pid), "the big innocent is dead");
    event(&daemon, bench, &job, "relieved")?;
    Ok(format!("{takes}; {}", killed.reason.text))
}
