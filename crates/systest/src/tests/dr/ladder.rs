//! The ladder of the host on a machine that is really short: what is done before a kill is done to the job that gives way first, everything is put back, and the
//! largest process goes where there are no jobs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::host::available;
use super::jobs::Jobs;
use super::{dies, expect_alive, expect_killed, kernel_kills};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until, process};

pub fn tests() -> Vec<Test> {
    let test = |name, run: fn(&mut Bench<'_>) -> Result<String>| {
        Test::new(name, run).needs(&[Need::OwnMachine, Need::Freezer]).seconds(90)
    };
    vec![
        test("dr_host_freezes_the_job_and_kills_it", freezes_and_kills),
        test("dr_host_relief_thaws_the_job", relieved),
        test("dr_host_kill9_thaws_the_job", kill9),
        test("dr_host_asks_root_and_not_the_owner", asks),
        test("dr_host_hook_runs_for_the_job_and_nobody_dies", hook),
        test("dr_host_largest_process_goes_where_there_are_no_jobs", largest),
        test("dr_host_replay_decides_alike", replay),
    ]
}

const UNDER: u64 = 128 * MIB;

fn rule(steps: &str) -> String {
    format!("[[rule]]\nname = \"host\"\nhost = true\nunder = \"{UNDER}B\"\ndo = [{steps}]\n")
}

/// Three jobs that together leave the host too little, and who governs it.
struct Scene {
    jobs: Jobs,
    daemon: Daemon,
    kernel_kills: u64,
}

impl Scene {
    fn short(bench: &Bench<'_>, steps: &str, arguments: &[&str]) -> Result<Self> {
        let jobs = Jobs::start(bench)?;
        let kernel_kills = kernel_kills()?;
        let daemon = bench.daemon_with(&(jobs.config([0; 3]) + &rule(steps)), arguments)?;
        let mut scene = Self { jobs, daemon, kernel_kills };
        let each = (available()? - UNDER) / 3 + 16 * MIB;
        scene.jobs.grow(each)?;
        Ok(scene)
    }

    /// The job of the lowest priority stands still, as the kernel's own files say, and the others do not.
    fn frozen(&self, bench: &Bench<'_>) -> Result<()> {
        let path = self.jobs.path(0);
        let event = self.daemon.event("a freeze", bench.patience(), |event| event.order == "freeze-begin")?;
        ensure!(event.is_of_group(&path), "not of {path}: {event}");
        let still = poll_until(bench.patience(), Duration::from_millis(2), || {
            self.jobs.groups[0].is_frozen().then_some(())
        });
        still.with_context(|| self.daemon.explain(anyhow::anyhow!("it is not frozen")))?;
        ensure!(
            !self.jobs.groups[1].is_frozen() && !self.jobs.groups[2].is_frozen(),
            "another job is frozen"
        );
        Ok(())
    }

    fn thawed(&self, bench: &Bench<'_>) -> Result<()> {
        let thawed = poll_until(bench.patience(), Duration::from_millis(2), || {
            (!self.jobs.groups[0].is_frozen()).then_some(())
        });
        thawed.with_context(|| self.daemon.explain(anyhow::anyhow!("it is still frozen")))
    }

    fn others_live(&self) -> Result<()> {
        expect_alive(&self.daemon, &self.jobs.agents[1])?;
        expect_alive(&self.daemon, &self.jobs.agents[2])?;
        ensure!(kernel_kills()? == self.kernel_kills, "the kernel's OOM killer acted");
        Ok(())
    }

    fn order(&self, bench: &Bench<'_>, order: &str) -> Result<crate::harness::event::Event> {
        self.daemon.event(order, bench.patience(), |event| event.order == order)
    }
}

const KILL: &str = "{ action = \"kill\", victim = \"lowest-priority\", after = \"2s\" }";

fn freezes_and_kills(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::short(bench, &format!("\"freeze\", {KILL}"), &[])?;
    scene.frozen(bench)?;
    let event = super::job_killed(bench, &scene.daemon, &scene.jobs.path(0))?;
    expect_killed(bench, &mut scene.jobs.agents[0])?;
    scene.order(bench, "relieved")?;
    scene.thawed(bench)?;
    scene.others_live()?;
    Ok(super::told(&event))
}

/// Somebody else lets go of what he has: nobody is killed, and it runs on.
fn relieved(bench: &mut Bench<'_>) -> Result<String> {
    let steps = "\"freeze\", { action = \"kill\", victim = \"lowest-priority\", after = \"10m\" }";
    let mut scene = Scene::short(bench, steps, &[])?;
    scene.frozen(bench)?;
    let kill = |pid| crate::sys::signal::send(pid, libc::SIGKILL);
    kill(scene.jobs.agents[2][0].pid).map_err(|errno| anyhow::anyhow!("kill: errno {errno}"))?;
    let end = scene.order(bench, "freeze-end")?;
    ensure!(end.is_of_group(&scene.jobs.path(0)), "{end}");
    scene.thawed(bench)?;
    scene.jobs.agents[0][1].ask("groups")?;
    scene.daemon.no_event("a kill", Duration::ZERO, |event| event.order == "kill")?;
    Ok(end.to_string())
}

fn kill9(bench: &mut Bench<'_>) -> Result<String> {
    let steps = "\"freeze\", { action = \"kill\", victim = \"lowest-priority\", after = \"10m\" }";
    let mut scene = Scene::short(bench, steps, &[])?;
    scene.frozen(bench)?;
    let begin = Instant::now();
    scene.daemon.kill9()?;
    scene.thawed(bench)?;
    let took = begin.elapsed();
    scene.daemon.wait_companions_gone()?;
    expect_alive(&scene.daemon, &scene.jobs.agents[0])?;
    Ok(format!("it ran {took:?} after the daemon was killed"))
}

fn asks(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::short(bench, "{ action = \"ask\", timeout = \"10m\" }", &[])?;
    let question = scene.order(bench, "ask")?;
    ensure!(question.is_of_group(&scene.jobs.path(0)), "{question}");
    scene.frozen(bench)?;
    chown(scene.jobs.groups[0].dir(), Some(NOBODY), Some(NOBODY))?;
    let number = question.id.to_string();
    let owner = scene.daemon.cli_as(NOBODY, &["answer", &number, "go-on"])?;
    ensure!(owner.code == 4, "the owner of the job: exit code {}, {}", owner.code, owner.stderr);
    ensure!(scene.jobs.groups[0].is_frozen(), "it runs");
    scene.daemon.ok(&["answer", &number, "kill"])?;
    expect_killed(bench, &mut scene.jobs.agents[0])?;
    scene.order(bench, "relieved")?;
    scene.others_live()?;
    Ok(owner.stderr.trim().to_owned())
}

fn hook(bench: &mut Bench<'_>) -> Result<String> {
    let program = bench.dir.join("drop");
    let told = bench.dir.join("told");
    // Stands for a job that lets go of a cache: the largest part of it ends, the rest goes on.
    let script = format!(
        "#!/bin/sh\nprintf '%s %s' \"$MEMGOV_GROUP\" \"$MEMGOV_METER\" > {0}.new && mv {0}.new {0}\nkill -KILL $(cat {1})\n",
        told.display(),
        bench.dir.join("cache").display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let jobs = Jobs::start(bench)?;
    fs::write(bench.dir.join("cache"), jobs.agents[0][0].pid.to_string())?;
    let steps = format!("{{ action = \"hook\", run = [{program:?}], within = \"10s\" }}, {KILL}");
    let kernel_kills = kernel_kills()?;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &rule(&steps)))?;
    let mut scene = Scene { jobs, daemon, kernel_kills };
    let each = (available()? - UNDER) / 3 + 16 * MIB;
    scene.jobs.grow(each)?;
    let hook = scene.order(bench, "hook")?;
    ensure!(hook.is_of_group(&scene.jobs.path(0)), "{hook}");
    scene.order(bench, "relieved")?;
    let said = fs::read_to_string(&told)?;
    ensure!(said == format!("{} available", scene.jobs.path(0)), "it was told {said:?}");
    scene.daemon.no_event("a kill", Duration::from_secs(3), |event| event.order == "kill")?;
    ensure!(process::is_alive(scene.jobs.agents[0][1].pid), "the rest of the job is dead");
    scene.others_live()?;
    Ok(hook.to_string())
}

fn largest(bench: &mut Bench<'_>) -> Result<String> {
    let group = bench.group("anybody")?;
    let before = kernel_kills()?;
    let mut protected = bench.agent(&group, "protected")?;
    let mut hog = bench.agent(&group, "hog")?;
    let small = bench.agent(&group, "small")?;
    let daemon = bench.daemon(&rule("{ action = \"kill\", victim = \"largest\" }"))?;
    // The largest of all, and not to be had.
    fs::write(format!("/proc/{}/oom_score_adj", protected.pid), "-1000")?;
    let there = available()?;
    protected.take("anon", there / 2)?;
    hog.grow("anon", MIB, Duration::from_millis(1), there)?;
    let event = daemon.event("a kill, seen dead", bench.patience(), |event| {
        event.order == "kill" && event.came_of_it() == "dead"
    })?;
    ensure!(event.target.kind == "host", "{event}");
    ensure!(event.ranking.first().is_some_and(|first| first.pid == hog.pid), "{:?}", event.ranking);
    ensure!(
        event.ranking.iter().all(|one| one.pid != protected.pid && one.pid != 1 && one.pid != daemon.pid)
    );
    dies(&daemon, &mut hog, bench.patience())?;
    daemon.event("the end of it", bench.patience(), |event| event.order == "relieved")?;
    daemon.no_event("another kill", Duration::from_millis(500), |event| {
        let kills = daemon.events().iter().filter(|other| other.order == "kill").count();
        event.order == "kill" && kills > 1
    })?;
    expect_alive(&daemon, &[protected, small])?;
    ensure!(kernel_kills()? == before, "the kernel's OOM killer acted");
    Ok(format!("{event}, {} left", mib(event.reason.available_bytes.unwrap_or_default())))
}

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace");
    let steps = format!("\"freeze\", {KILL}, {{ action = \"kill\", victim = \"largest\", after = \"10m\" }}");
    let mut scene = Scene::short(bench, &steps, &["--trace", &trace.to_string_lossy()])?;
    super::job_killed(bench, &scene.daemon, &scene.jobs.path(0))?;
    scene.order(bench, "relieved")?;
    std::thread::sleep(Duration::from_millis(300));
    scene.daemon.replays_alike(&trace)
}
