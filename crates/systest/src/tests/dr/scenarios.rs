//! The right job gives way, in time, whatever way memory runs out: three jobs below a group that is about to meet its limit, again and again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::jobs::Jobs;
use super::{STEP, expect_alive, expect_killed, job_killed, kernel_kills, only_one, parent_rule};
use crate::harness::bench::{Bench, PACE};
use crate::harness::daemon::Daemon;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

/// How often each is run; as often as the criterion says only when asked for by name, because it takes minutes.
const FEW: usize = 2;
const TWENTY: usize = 20;

/// Who runs out of memory how.
#[derive(Clone, Copy)]
enum Way {
    Leak,
    FullSpeed,
    Many,
    Swarm,
    Shared,
    Cache,
    Doubles,
    DoublesAtOnce,
}

impl Way {
    fn scenario(self) -> fn(Scene<'_, '_>) -> Result<String> {
        match self {
            Self::Leak => leak,
            Self::FullSpeed => full_speed,
            Self::Many => many,
            Self::Swarm => swarm,
            Self::Shared => shared,
            Self::Cache => cache,
            Self::Doubles => doubles,
            Self::DoublesAtOnce => doubles_at_once,
        }
    }

    /// The limit of the group around the jobs, and how much of it is to be left. A line has to be as far from the limit as memory can be taken while memgov looks, chooses and
    /// kills; at full speed that is tens of MiB.
    fn room(self) -> (u64, u64) {
        match self {
            Self::FullSpeed | Self::DoublesAtOnce => (512 * MIB, 96 * MIB),
            _ => (LIMIT, UNDER),
        }
    }
}

pub fn tests() -> Vec<Test> {
    let few = |name, body| Test::new(name, body).seconds(90);
    let twenty = |name, body| Test::new(name, body).seconds(600);
    let cache: &[Need] = &[Need::CleanCache];
    vec![
        few("dr_victim_is_who_leaks", |bench| runs(bench, FEW, Way::Leak)),
        few("dr_victim_is_who_takes_at_full_speed", |bench| runs(bench, FEW, Way::FullSpeed)),
        few("dr_victim_is_the_job_of_many_small_processes", |bench| runs(bench, FEW, Way::Many)),
        few("dr_victim_is_the_job_whose_children_all_grow", |bench| runs(bench, FEW, Way::Swarm)),
        few("dr_victim_is_who_fills_shared_memory", |bench| runs(bench, FEW, Way::Shared)),
        few("dr_victim_is_none_for_page_cache", |bench| runs(bench, FEW, Way::Cache)).needs(cache),
        few("dr_victim_is_not_the_important_job_that_doubles", |bench| runs(bench, FEW, Way::Doubles)),
        few("dr_victim_is_not_the_important_job_that_doubles_at_once", |bench| {
            runs(bench, FEW, Way::DoublesAtOnce)
        }),
        twenty("dr_twenty_leak", |bench| runs(bench, TWENTY, Way::Leak)),
        twenty("dr_twenty_full_speed", |bench| runs(bench, TWENTY, Way::FullSpeed)),
        twenty("dr_twenty_many", |bench| runs(bench, TWENTY, Way::Many)),
        twenty("dr_twenty_swarm", |bench| runs(bench, TWENTY, Way::Swarm)),
        twenty("dr_twenty_shared", |bench| runs(bench, TWENTY, Way::Shared)),
        twenty("dr_twenty_cache", |bench| runs(bench, TWENTY, Way::Cache)).needs(cache),
        twenty("dr_twenty_doubles", |bench| runs(bench, TWENTY, Way::Doubles)),
        twenty("dr_twenty_at_once", |bench| runs(bench, TWENTY, Way::DoublesAtOnce)),
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
    fn new(bench: &'a Bench<'b>, name: &str, way: Way) -> Result<Self> {
        let jobs = Jobs::start_below(bench, name)?;
        let (limit, under) = way.room();
        jobs.parent.set_max(limit)?;
        let config = jobs.config([RESERVED; 3]) + &parent_rule(&jobs.parent.path(), under);
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
        let left = self.jobs.groups[at].processes();
        ensure!(left.is_empty(), "{left:?} of the job that gave way are alive");
        let left = event.reason.available_bytes.context("no word of what was left")?;
        Ok(format!("{} left", mib(left)))
    }
}

fn runs(bench: &Bench<'_>, count: usize, way: Way) -> Result<String> {
    let mut said = Vec::new();
    for run in 1..=count {
        let scene = Scene::new(bench, &format!("run{run}"), way)?;
        said.push(way.scenario()(scene).with_context(|| format!("run {run} of {count}"))?);
    }
    Ok(format!("{count} of {count}: {}", said.join(", ")))
}

/// The most important one leaks: it is over its reservation, and the others are not.
fn leak(scene: Scene<'_, '_>) -> Result<String> {
    grows(scene, 2, "anon")
}

/// The most important one again, without a pause, 1 MiB at a time.
fn full_speed(mut scene: Scene<'_, '_>) -> Result<String> {
    scene.steady(RESERVED * 3 / 4)?;
    scene.jobs.agents[2][0].grow("anon", MIB, Duration::ZERO, 2 * LIMIT)?;
    scene.gives_way(2)
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

/// Children made by `fork`, all of which grow, each to less than any other job has.
fn swarm(mut scene: Scene<'_, '_>) -> Result<String> {
    scene.steady(RESERVED / 2)?;
    // What their parent holds each of them has too, without a page more.
    let (each, rest) = (RESERVED * 5 / 8, (PACE * 2).as_micros());
    scene.jobs.agents[1][0].ask(&format!("swarm 40 anon 65536 {rest} {each}"))?;
    let most = scene.jobs.groups[1].processes().len();
    ensure!(most > 40, "{most} processes in the job of forty children");
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

/// The same in one call, and by more than is left under the limit: without a kill it would not get it.
fn doubles_at_once(mut scene: Scene<'_, '_>) -> Result<String> {
    let each = RESERVED + 68 * MIB;
    scene.steady(each)?;
    let left = Way::DoublesAtOnce.room().0.saturating_sub(scene.jobs.parent.usage()?);
    ensure!(left < each, "{} are left: no shortage is coming", mib(left));
    scene.jobs.agents[2][0].grow("populate", each, Duration::ZERO, 2 * each)?;
    let said = scene.jobs.agents[2][0].note("full");
    let end = scene.gives_way(0)?;
    said.context("the important job did not get what it wanted")?;
    Ok(end)
}
