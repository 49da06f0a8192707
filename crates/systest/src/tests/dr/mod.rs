//! Criteria of the userspace out-of-memory series: who gives way when memory runs short, before the kernel's own OOM killer acts.

mod ask;
mod delay;
mod handler;
mod hook;
mod host;
mod jobs;
mod ladder;
mod lend;
mod parent;
mod record;
mod rescue;
mod scenarios;
mod swap;
mod takes;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::{Event, Run};
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, process};
use jobs::Jobs;

pub fn tests() -> Vec<Test> {
    const OWN: &[Need] = &[Need::OwnMachine];
    let mut tests = vec![
        Test::new("dr_01_lowest_priority_gives_way_below_a_full_parent", parent::lowest_priority),
        Test::new("dr_01_lowest_priority_gives_way_on_a_full_host", host::lowest_priority)
            .needs(OWN)
            .seconds(60),
        Test::new("dr_slope_a_group_that_fills_slowly_is_left_alone", parent::slope),
        Test::new("dr_02_reservation_turns_the_order_round_and_back", parent::reservation),
        Test::new("dr_02_page_cache_is_no_shortage", parent::page_cache).needs(&[Need::CleanCache]),
        Test::new("dr_02_groups_that_ask_to_be_spared", parent::wishes).needs(&[Need::V2]),
        Test::new("dr_03_decides_in_time_while_memory_is_eaten", host::in_time).needs(OWN).seconds(60),
        Test::new("dr_07_the_record_before_the_kill", record::before_the_kill),
        Test::new("dr_replay_decides_alike", parent::replay),
        Test::new("dr_another_killer_is_named_at_the_start", parent::another_killer),
    ];
    tests.extend(scenarios::tests());
    tests.extend(swap::tests());
    tests.extend(lend::tests());
    tests.extend(delay::tests());
    tests.extend(ask::tests());
    tests.extend(hook::tests());
    tests.extend(handler::tests());
    tests.extend(ladder::tests());
    tests.extend(takes::tests());
    tests.extend(rescue::tests());
    tests
}

/// The rule of a group around jobs: so much has to be left under its limit.
fn parent_rule(path: &str, under: u64) -> String {
    format!(
        "[[rule]]\nname = \"parent\"\ngroups = {path:?}\nmeter = \"available\"\nunder = \"{under}B\"\n\
         do = [{{ action = \"kill\", victim = \"lowest-priority\" }}]\n"
    )
}

/// What came of the program or handler that this decision began.
fn ran(daemon: &Daemon, id: u64, within: Duration) -> Result<(Event, Run)> {
    let ended = |event: &Event| event.id == id && event.came_of_it() == "ran";
    let event = daemon.event("the end of the step", within, ended)?;
    let run = event.outcome.as_ref().and_then(|outcome| outcome.run.clone()).context("no run")?;
    Ok((event, run))
}

/// It is killed.
fn dies(daemon: &Daemon, hog: &mut Agent, within: Duration) -> Result<()> {
    let (_, signal) = hog.wait_for_end(within).map_err(|error| daemon.explain(error))?;
    ensure!(signal == libc::SIGKILL, "expected death by SIGKILL, got {signal}");
    Ok(())
}

/// The kill of this job, seen dead.
fn job_killed(bench: &Bench<'_>, daemon: &Daemon, path: &str) -> Result<Event> {
    let event = daemon.event("a kill by priority, seen dead", bench.patience(), |event| {
        event.order == "kill" && event.came_of_it() == "dead"
    })?;
    let wrong = || daemon.explain(anyhow::anyhow!("expected {path} to give way: {event}; {:?}", event.jobs));
    ensure!(event.is_of_group(path), wrong());
    Ok(event)
}

fn expect_killed(bench: &Bench<'_>, agents: &mut [Agent]) -> Result<()> {
    for agent in agents {
        let (_, signal) = agent.wait_for_end(bench.patience()).context("of the job that was to give way")?;
        ensure!(signal == libc::SIGKILL, "expected death by SIGKILL, got {signal}");
    }
    Ok(())
}

fn expect_alive(daemon: &Daemon, agents: &[Agent]) -> Result<()> {
    let dead: Vec<i32> = agents.iter().map(|a| a.pid).filter(|&pid| !process::is_alive(pid)).collect();
    ensure!(dead.is_empty(), daemon.explain(anyhow::anyhow!("{dead:?} of other jobs are dead")));
    Ok(())
}

/// The job of the lowest priority is killed whole, by one decision that is explained, and nobody else is hit.
fn the_lowest_gives_way(
    bench: &Bench<'_>,
    daemon: &Daemon,
    jobs: &mut Jobs,
    kernel_kills_before: u64,
) -> Result<Event> {
    let event = job_killed(bench, daemon, &jobs.path(0))?;
    expect_killed(bench, &mut jobs.agents[0])?;
    only_one(bench, daemon, jobs, kernel_kills_before)?;
    expect_alive(daemon, &jobs.agents[1])?;
    expect_alive(daemon, &jobs.agents[2])?;
    explained(daemon, &event, jobs)?;
    ranked(&event, jobs)?;
    Ok(event)
}

/// Processes that the kernel's OOM killer took anywhere, since the machine started.
fn kernel_kills() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/vmstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.parse().ok()).context("/proc/vmstat has no oom_kill")
}

/// The kernel's killer was not needed; nobody was hit besides, and only one decision was made.
fn only_one(bench: &Bench<'_>, daemon: &Daemon, jobs: &Jobs, kernel_kills_before: u64) -> Result<()> {
    daemon.no_event("another kill", Duration::from_millis(500), |event| {
        let others = daemon.events().iter().filter(|other| other.order == "kill").count();
        event.order == "kill" && others > 1
    })?;
    for group in jobs.groups.iter().chain([&bench.top]) {
        ensure!(group.oom_kills()? == 0, "the kernel's OOM killer acted in {}", group.path());
    }
    let kernel = kernel_kills()? - kernel_kills_before;
    ensure!(kernel == 0, "the kernel's OOM killer took {kernel}");
    Ok(())
}

/// The ranking, as `memgov explain` tells it, has all jobs with their numbers.
fn explained(daemon: &Daemon, event: &Event, jobs: &Jobs) -> Result<()> {
    let text = daemon.ok(&["explain", &event.id.to_string()])?;
    for group in &jobs.groups {
        ensure!(text.contains(&group.path()), "no {} in:\n{text}", group.path());
    }
    ensure!(text.contains("PRIORITY") && text.contains("RESERVATION"), "no ranking in:\n{text}");
    Ok(())
}

fn told(event: &Event) -> String {
    let jobs = event
        .jobs
        .iter()
        .map(|job| format!("{}: {} of {}", job.priority, mib(job.usage_bytes), mib(job.reservation_bytes)));
    let (jobs, left) =
        (jobs.collect::<Vec<_>>().join(", "), mib(event.reason.available_bytes.unwrap_or_default()));
    format!("{event} [{jobs}], {left} left")
}

/// All are ranked, the lowest priority first.
fn ranked(event: &Event, jobs: &Jobs) -> Result<()> {
    let ranked: Vec<&str> = event.jobs.iter().map(|job| job.path.as_str()).collect();
    let expected: Vec<String> = jobs.groups.iter().map(Group::path).collect();
    ensure!(ranked == expected, "ranked {ranked:?}");
    Ok(())
}

/// Of one step of growth.
const STEP: u64 = MIB / 4;
