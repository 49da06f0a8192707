//! The right job gives way, in time, whatever way memory runs out: three jobs below a group that is about to meet its limit, again and again.

use anyhow::{Context, Result, ensure};

use super::jobs::Jobs;
use super::{STEP, expect_alive, expect_killed, job_killed, kernel_kills, only_one, parent_rule};
use crate::harness::bench::{Bench, PACE};
use crate::harness::daemon::Daemon;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

/// How often each is run; as often as the criterion says only when asked for by name, because it takes minutes.
const FEW: usize = 2;
const TWENTY: usize = 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("dr_victim_is_who_leaks", |bench| runs(bench, FEW, leak)).seconds(60),
        Test::new("dr_victim_is_the_job_of_many_small_processes", |bench| runs(bench, FEW, many)).seconds(90),
        Test::new("dr_victim_is_who_fills_shared_memory", |bench| runs(bench, FEW, shared)).seconds(60),
        Test::new("dr_victim_is_none_for_page_cache", |bench| runs(bench, FEW, cache))
            .needs(&[crate::harness::host::Need::CleanCache])
            .seconds(60),
        Test::new("dr_victim_is_not_the_important_job_that_doubles", |bench| runs(bench, FEW, doubles))
            .seconds(60),
        Test::new("dr_twenty_runs_of_each", |bench| {
            let each = [leak, many, shared, cache, doubles].map(|scenario| runs(bench, TWENTY, scenario));
            Ok(each.into_iter().collect::<Result<Vec<_>>>()?.join("; "))
        })
        .needs(&[crate::harness::host::Need::CleanCache])
        .seconds(600),
    ]
}

const LIMIT: u64 = 256 * MIB;
const UNDER: u64 = 32 * MIB;
/// What each job may use before it gives way like others.
const RESERVED: u64 = 64 * MIB;

/// The jobs of one run, the least important first, a daemon that governs the group around them, and what the kernel has killed so far.
struct Scene<'a, 'b> {
    bench: &'a Bench<'b>,
    jobs: Jobs,
    daemon: Daemon,
    kernel_kills: u64,
}

impl<'a, 'b> Scene<'a, 'b> {
    fn new(bench: &'a Bench<'b>, name: &str) -> Result<Self> {
        let jobs = Jobs::start_below(bench, name)?;
        jobs.parent.set_max(LIMIT)?;
        let config = jobs.config([RESERVED; 3]) + &parent_rule(&jobs.parent.path(), UNDER);
        Ok(Self { bench, daemon: bench.daemon(&config)?, jobs, kernel_kills: kernel_kills()? })
    }

    /// All use so much.
    fn steady(&mut self, each: u64) -> Result<()> {
        self.jobs.agents.iter_mut().try_for_each(|agents| agents[0].take("anon", each))
    }

    /// This job dies whole, by one decision, nobody else is hit, and the kernel had nothing to do.
    fn gives_way(mut self, at: usize) -> Result<String> {
        let event = job_killed(self.bench, &self.daemon, &self.jobs.path(at))?;
        expect_killed(self.bench, &mut self.jobs.agents[at])?;
        only_one(self.bench, &self.daemon, &self.jobs, self.kernel_kills)?;
        for other in (0..self.jobs.agents.len()).filter(|&other| other != at) {
            expect_alive(&self.daemon, &self.jobs.agents[other])?;
        }
        let left = event.reason.available_bytes.context("no word of what was left")?;
        Ok(format!("{} left", mib(left)))
    }
}

type Scenario = fn(Scene<'_, '_>) -> Result<String>;

fn runs(bench: &Bench<'_>, count: usize, scenario: Scenario) -> Result<String> {
    let mut said = Vec::new();
    for run in 1..=count {
        let scene = Scene::new(bench, &format!("run{run}-{:x}", scenario as usize))?;
        said.push(scenario(scene).with_context(|| format!("run {run} of {count}"))?);
    }
    Ok(format!("{count} of {count}: {}", said.join(", ")))
}

/// The most important one leaks: it is over its reservation, and the others are not.
fn leak(scene: Scene<'_, '_>) -> Result<String> {
    grows(scene, 2, "anon")
}

/// This job grows past its reservation, and the others stay within theirs.
fn grows(mut scene: Scene<'_, '_>, at: usize, kind: &str) -> Result<String> {
    scene.steady(RESERVED / 2)?;
    scene.jobs.agents[at][0].grow(kind, STEP, PACE / 5, LIMIT)?;
    scene.gives_way(at)
}

/// A job of many processes, each of them smaller than any other job's.
fn many(mut scene: Scene<'_, '_>) -> Result<String> {
    scene.steady(RESERVED / 2)?;
    for number in 0..40 {
        if scene.jobs.parent.usage()? > LIMIT - UNDER - 8 * MIB {
            break;
        }
        let mut small = scene.bench.agent(&scene.jobs.groups[1], &format!("small{number}"))?;
        small.take("anon", 4 * MIB)?;
        scene.jobs.agents[1].push(small);
    }
    // Three of them grow: all at once would be more in 10 ms than is left, and that is another scenario.
    for small in scene.jobs.agents[1].iter_mut().skip(2).take(3) {
        // It may be dead by now: that is what is to happen.
        let _dead = small.push("anon", 12 * MIB);
    }
    scene.gives_way(1)
}

/// Shared memory is in nobody's anonymous memory, and counts all the same.
fn shared(scene: Scene<'_, '_>) -> Result<String> {
    grows(scene, 1, "shmem")
}

/// A job that reads more than there is room for is no shortage: all of it is there to be had back.
fn cache(mut scene: Scene<'_, '_>) -> Result<String> {
    scene.steady(RESERVED / 2)?;
    let file = scene.bench.host.clean_cache.clone().map_err(anyhow::Error::msg)?;
    scene.jobs.agents[0][0].ask(&format!("cache {} 0 {}", file.display(), 3 * LIMIT))?;
    let kills = scene.daemon.events().iter().filter(|event| event.order == "kill").count();
    ensure!(kills == 0 && kernel_kills()? == scene.kernel_kills, "{kills} kills for page cache");
    for agents in &scene.jobs.agents {
        expect_alive(&scene.daemon, agents)?;
    }
    Ok("nobody hit".to_owned())
}

/// All are over what is reserved, and the important one wants twice as much: the least important makes room for it.
fn doubles(mut scene: Scene<'_, '_>) -> Result<String> {
    scene.steady(RESERVED + 4 * MIB)?;
    scene.jobs.agents[2][0].grow("anon", STEP, PACE / 5, 2 * RESERVED)?;
    let said = scene.jobs.agents[2][0].note("full");
    let end = scene.gives_way(0)?;
    said.context("the important job did not get what it wanted")?;
    Ok(end)
}
