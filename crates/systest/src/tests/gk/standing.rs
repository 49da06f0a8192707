//! Limits on processes that stand before a line is met: there is room for so many of them. Who finds none is told of, is met at the line itself, and has its turn when
//! there is room again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memgov::serve::wire::Status;

use super::{Allowed, K, fork_slowly, pids_limits, rule_for, shielded};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::poll_until;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![Test::new("gk_standing_limits_have_room_for_so_many", room).needs(&[Need::Portable]).seconds(120)]
}

/// Groups that can have one (`MOST` in memgov's act/pids.rs), and how many more there are here.
const ROOM: usize = 512;
const MORE: usize = 3;

/// EAGAIN.
const REFUSED: u64 = 11;

fn is_limited(group: &Group) -> bool {
    pids_limits(group).iter().any(|limit| limit != "max")
}

fn left_out(daemon: &Daemon) -> Result<u64> {
    Ok(serde_json::from_str::<Status>(&daemon.ok(&["status", "--json"])?)?.lost.standing)
}

/// Until so many have a limit.
fn settles(bench: &Bench<'_>, groups: &[Group], expected: usize) -> Result<()> {
    let count = || groups.iter().filter(|group| is_limited(group)).count();
    let settled =
        poll_until(bench.patience(), Duration::from_millis(50), || (count() == expected).then_some(()));
    settled.with_context(|| format!("{} have a limit, expected {expected}", count()))
}

fn room(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 6;
    let job = shielded(bench)?;
    job.delegate_memory()?;
    let groups: Result<Vec<Group>> =
        (0..ROOM + MORE).map(|at| bench.group(&format!("cage/job/g{at}"))).collect();
    let groups = groups?;
    let daemon = bench.daemon(&rule_for(&format!("{}/*", job.path()), K, "\"deny\""))?;
    settles(bench, &groups, ROOM)?;
    let status = daemon.ok(&["status"])?;
    let told = format!("lost: {MORE} groups under a line for kernel memory may fork freely");
    ensure!(status.contains(&told), "not told of: {status}");
    let (limited, without): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(is_limited);
    let late = met_at_the_line(bench, &daemon, &without[0])?;
    let bound = bound_before(bench, &limited[0])?;
    ensure!(without[1..].iter().all(|group| !is_limited(group)), "one of those without a limit has one");
    // There is room again.
    let (gone, rest) = limited.split_at(MORE);
    gone.iter().try_for_each(Group::remove)?;
    let rest: Vec<Group> = rest.iter().chain(&without).cloned().collect();
    settles(bench, &rest, ROOM)?;
    ensure!(left_out(&daemon)? == 0, "still told of {}", left_out(&daemon)?);
    Ok(format!("{MORE} without: met at the line after {late} forks; of {ROOM} with one: bound after {bound}"))
}

/// One without a limit forks until its line is crossed and it is denied.
fn met_at_the_line(bench: &Bench<'_>, daemon: &Daemon, group: &Group) -> Result<u64> {
    let mut worker = bench.worker(group, "late")?;
    let (forks, errno) = fork_slowly(&mut worker, 900)?;
    ensure!(errno == REFUSED, "{forks} forks, then errno {errno}");
    let path = group.path();
    daemon.event("deny-begin", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&path) && event.by() == "pids.max"
    })?;
    Ok(forks)
}

/// One with a limit is refused by that at the latest, at full speed.
fn bound_before(bench: &Bench<'_>, group: &Group) -> Result<u64> {
    let mut worker = bench.worker(group, "bound")?;
    let allowed = Allowed::to_a_bomb(bench, group.kernel()?).tasks as u64;
    let taken = worker.numbers("hoard forks 1100")?;
    ensure!(taken[1] == REFUSED && taken[0] <= allowed, "{taken:?} forks and errno, {allowed} allowed");
    Ok(taken[0])
}
