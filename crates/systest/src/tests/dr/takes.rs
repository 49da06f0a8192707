//! Part of the job that gives way: its largest process, or the tree of processes that holds most; and all of it where it is indivisible.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::jobs::Jobs;
use super::{STEP, expect_alive, kernel_kills};
use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, PACE};
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("dr_takes_the_largest_process_and_spares_the_rest_of_the_job", largest).seconds(60),
        Test::new("dr_takes_one_process_after_the_other_of_the_same_job", one_by_one).seconds(60),
        Test::new("dr_takes_a_tree_with_all_its_children", tree).seconds(60),
        Test::new("dr_takes_an_indivisible_job_whole", indivisible).needs(&[Need::V2]).seconds(60),
        Test::new("dr_takes_replay_decides_alike", replay).seconds(60),
    ]
}

const LIMIT: u64 = 160 * MIB;
const UNDER: u64 = 24 * MIB;
/// What each of three jobs comes to, so that all three are too much and two are not.
const EACH: u64 = (LIMIT - UNDER) / 3 + 4 * MIB;

fn rule(jobs: &Jobs, takes: &str) -> String {
    format!(
        "[[rule]]\nname = \"parent\"\ngroups = {:?}\nmeter = \"available\"\nunder = \"{UNDER}B\"\n\
         do = [{{ action = \"kill\", victim = \"lowest-priority\", takes = \"{takes}\" }}]\n",
        jobs.parent.path()
    )
}

/// Three jobs below a limit, and who governs them.
struct Scene {
    jobs: Jobs,
    daemon: Daemon,
    kernel_kills: u64,
}

impl Scene {
    fn new(bench: &Bench<'_>, takes: &str, arguments: &[&str]) -> Result<Self> {
        Self::of(bench, Jobs::start(bench)?, takes, arguments)
    }

    fn of(bench: &Bench<'_>, jobs: Jobs, takes: &str, arguments: &[&str]) -> Result<Self> {
        jobs.parent.set_max(LIMIT)?;
        let kernel_kills = kernel_kills()?;
        let daemon = bench.daemon_with(&(jobs.config([0; 3]) + &rule(&jobs, takes)), arguments)?;
        Ok(Self { jobs, daemon, kernel_kills })
    }

    /// A kill in the job of the lowest priority, seen dead, of which it was told before with all jobs.
    fn killed(&self, bench: &Bench<'_>) -> Result<Event> {
        let path = self.jobs.path(0);
        let event = self.daemon.event("a kill, seen dead", bench.patience(), |event| {
            event.order == "kill" && event.came_of_it() == "dead"
        })?;
        ensure!(event.is_of_group(&path), "not of {path}: {event}");
        let told = self.daemon.event("which job was chosen", Duration::ZERO, |event| {
            event.order == "record" && event.is_of_group(&path) && event.jobs.len() == 3
        })?;
        ensure!(told.id < event.id, "told of after the kill: {told}");
        Ok(event)
    }

    /// Nobody else was hit, by memgov or by the kernel.
    fn nobody_else(&self, spared: &[&Agent]) -> Result<()> {
        self.daemon.no_event("another kill", Duration::from_millis(700), |event| {
            let kills = self.daemon.events().iter().filter(|other| other.order == "kill").count();
            event.order == "kill" && kills > 1
        })?;
        let dead: Vec<i32> = spared.iter().map(|a| a.pid).filter(|&pid| !process::is_alive(pid)).collect();
        ensure!(dead.is_empty(), self.daemon.explain(anyhow::anyhow!("{dead:?} are dead")));
        expect_alive(&self.daemon, &self.jobs.agents[1])?;
        expect_alive(&self.daemon, &self.jobs.agents[2])?;
        ensure!(kernel_kills()? == self.kernel_kills, "the kernel's OOM killer acted");
        Ok(())
    }
}

fn dies(bench: &Bench<'_>, daemon: &Daemon, agent: &mut Agent) -> Result<()> {
    super::dies(daemon, agent, bench.patience())
}

fn largest(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::new(bench, "process", &[])?;
    scene.jobs.grow(EACH)?;
    let event = scene.killed(bench)?;
    dies(bench, &scene.daemon, &mut scene.jobs.agents[0][0])?;
    scene.nobody_else(&[&scene.jobs.agents[0][1]])?;
    let ranked: Vec<i32> = event.ranking.iter().map(|candidate| candidate.pid).collect();
    let job: Vec<i32> = scene.jobs.agents[0].iter().map(|agent| agent.pid).collect();
    ensure!(ranked == job, "ranked {ranked:?} of {job:?}");
    let text = scene.daemon.ok(&["explain", &event.id.to_string()])?;
    ensure!(text.contains(&job[0].to_string()), "no ranking in:\n{text}");
    Ok(event.to_string())
}

/// The second is as large by then: the job has not given way by the first, and is asked again.
fn one_by_one(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::new(bench, "process", &[])?;
    scene.jobs.agents[0][1].take("anon", 16 * MIB)?;
    scene.jobs.agents[1][0].take("anon", 40 * MIB)?;
    scene.jobs.agents[2][0].take("anon", 40 * MIB)?;
    scene.jobs.agents[0][0].grow("anon", STEP, PACE / 5, EACH)?;
    let first = scene.killed(bench)?;
    dies(bench, &scene.daemon, &mut scene.jobs.agents[0][0])?;
    ensure!(process::is_alive(scene.jobs.agents[0][1].pid), "two for one shortage");
    scene.jobs.agents[2][0].push("anon", LIMIT - 2 * UNDER)?;
    dies(bench, &scene.daemon, &mut scene.jobs.agents[0][1])?;
    let path = scene.jobs.path(0);
    let second = scene.daemon.event("the second", bench.patience(), |event| {
        event.order == "kill" && event.id != first.id && event.came_of_it() == "dead"
    })?;
    ensure!(second.is_of_group(&path), "{second}");
    ensure!(kernel_kills()? == scene.kernel_kills, "the kernel's OOM killer acted");
    Ok(format!("{first}; {second}"))
}

fn tree(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::new(bench, "tree", &[])?;
    let mut child = scene.jobs.agents[0][0].offspring("fork", &bench.dir)?;
    let mut grandchild = child.offspring("fork", &bench.dir)?;
    // Larger than any one of the tree, and less than all of it together.
    scene.jobs.agents[0][1].take("anon", 16 * MIB)?;
    scene.jobs.agents[0][0].take("anon", 10 * MIB)?;
    child.take("anon", 12 * MIB)?;
    grandchild.take("anon", 12 * MIB)?;
    scene.jobs.agents[1][0].take("anon", 40 * MIB)?;
    scene.jobs.agents[2][0].push("anon", EACH + 24 * MIB)?;
    let event = scene.killed(bench)?;
    dies(bench, &scene.daemon, &mut scene.jobs.agents[0][0])?;
    for pid in [child.pid, grandchild.pid] {
        ensure!(!process::is_alive(pid), "{pid} of the tree is alive");
    }
    scene.nobody_else(&[&scene.jobs.agents[0][1]])?;
    let takes = event.takes.clone().context("no word of whom it takes")?;
    ensure!(takes.contains(&format!("pid {} ", scene.jobs.agents[0][0].pid)), "{takes}");
    let killed = event.outcome.as_ref().and_then(|outcome| outcome.processes);
    ensure!(killed == Some(3), "{killed:?} were killed: {event}");
    Ok(format!("{event} ({takes})"))
}

fn indivisible(bench: &mut Bench<'_>) -> Result<String> {
    let jobs = Jobs::start(bench)?;
    jobs.groups[0].write("memory.oom.group", "1")?;
    let mut scene = Scene::of(bench, jobs, "process", &[])?;
    scene.jobs.grow(EACH)?;
    let event = super::job_killed(bench, &scene.daemon, &scene.jobs.path(0))?;
    super::expect_killed(bench, &mut scene.jobs.agents[0])?;
    scene.nobody_else(&[])?;
    Ok(super::told(&event))
}

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace");
    let mut said = Vec::new();
    for takes in ["process", "tree"] {
        let mut scene = Scene::new(bench, takes, &["--trace", &trace.to_string_lossy()])?;
        scene.jobs.grow(EACH)?;
        scene.killed(bench)?;
        std::thread::sleep(Duration::from_millis(300));
        said.push(scene.daemon.replays_alike(&trace)?);
        drop(scene);
        std::fs::remove_file(&trace)?;
    }
    Ok(said.join("; "))
}
