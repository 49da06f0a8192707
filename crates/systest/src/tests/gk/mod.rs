//! The criteria of the kernel-memory letter: a ceiling of its own beside the group's limit, in the daemon's rules.

mod attacks;
mod bombs;
mod cost;
mod crashes;
mod dentries;
mod lines;
mod moving;
mod offenders;
mod pinned;
mod races;
mod standing;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memgov_decide::kernel_memory::Headroom;

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::host::Tier;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};
use crate::sys::process::start_in_groups;

pub fn tests() -> Vec<Test> {
    [
        attacks::tests,
        bombs::tests,
        dentries::tests,
        races::tests,
        standing::tests,
        lines::tests,
        pinned::tests,
        offenders::tests,
        moving::tests,
        crashes::tests,
        cost::tests,
    ]
    .iter()
    .flat_map(|tests| tests())
    .collect()
}

/// The letter's line.
const K: u64 = 16 * MIB;
/// So far over the line it may get: inside the kernel what calls under way need; from outside, where nothing refuses it, what is taken until `freeze` 100 ms later
/// (docs/kernel-memory.md: some ways take 600 MiB a second).
fn tolerance(bench: &Bench<'_>) -> u64 {
    if bench.host.tier == Tier::Bpf { 2 * MIB } else { 64 * MIB }
}

/// The most that a fork bomb may come to.
#[derive(Debug)]
struct Allowed {
    peak: u64,
    tasks: usize,
}

impl Allowed {
    /// One in a group that has `before` of kernel memory. From outside it is their number that is bounded, whoever looks and when: by what there was room for when nobody
    /// had begun, if each takes no more than a thread: whoever meets what stands with room left is taken to be that cheap, and children that have not run yet are. What that many take is another
    /// thing: a copy of this program takes 180 KiB, and a fork that is refused takes as much again until the kernel gets round to giving it back (kernel/fork.c
    /// refuses when the child is nearly made, and leaves the rest to RCU). Their hard limit they must not meet.
    fn to_a_bomb(bench: &Bench<'_>, before: u64) -> Self {
        if bench.host.tier == Tier::Bpf {
            return Self { peak: K + tolerance(bench), tasks: usize::MAX };
        }
        let tasks = K.saturating_sub(before) / Headroom::THREAD.0 + Headroom::SPARE;
        Self { peak: BEHIND, tasks: usize::try_from(tasks).unwrap_or(usize::MAX) }
    }
}

/// Forks ten at a time, with a moment between, until refused or so many are there: how many there are, and the errno.
pub fn fork_slowly(agent: &mut Agent, most: u64) -> Result<(u64, u64)> {
    let mut forked = 0;
    while forked < most {
        let taken = agent.numbers("hoard forks 10")?;
        forked += taken[0];
        if taken[1] != 0 {
            return Ok((forked, taken[1]));
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok((forked, 0))
}
/// A hard limit behind it all, so that a ceiling that does not hold ends in this group.
const BEHIND: u64 = 256 * MIB;
/// Likewise, processes and threads: kernel memory of some 80 MiB.
const MOST: &str = "1200";

/// A rule about the group's kernel memory.
fn rule(group: &Group, over: u64, does: &str) -> String {
    rule_for(&group.path(), over, does)
}

/// The same of all that match.
fn rule_for(groups: &str, over: u64, does: &str) -> String {
    format!(
        "[[rule]]\nname = \"kernel\"\ngroups = {groups:?}\nmeter = \"kernel\"\nover = \"{over}B\"\ndo = [{does}]\n"
    )
}

/// Runs a script in a group until it is killed with it. By a copy of the shell: where that is busybox, it is the same file as the rescue tools that nobody
/// is to touch.
fn shell(bench: &Bench<'_>, group: &Group, script: &str) -> Result<Child> {
    let program = bench.dir.join("sh");
    std::fs::copy("/bin/sh", &program).context("copying /bin/sh")?;
    let mut command = Command::new(program);
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    start_in_groups(&mut command, group.doors()?, false);
    command.spawn().context("starting a shell")
}

/// A group in a cage with two hard limits, of memory and of processes: a ceiling that does not hold ends there, and not with the machine.
pub fn shielded(bench: &Bench<'_>) -> Result<Group> {
    let cage = bench.group("cage")?;
    cage.delegate_memory()?;
    let caps = cage.dirs().iter().map(|dir| dir.join("pids.max"));
    let capped = caps.filter(|file| file.exists()).filter_map(|file| std::fs::write(file, MOST).ok()).count();
    ensure!(capped > 0, "no pids controller to shield this machine with");
    cage.set_max(BEHIND)?;
    bench.group("cage/job")
}

/// What `pids.max` says, in each hierarchy that has it.
fn pids_limits(group: &Group) -> Vec<String> {
    let files = group.dirs().iter().filter_map(|dir| std::fs::read_to_string(dir.join("pids.max")).ok());
    files.map(|text| text.trim().to_owned()).collect()
}

/// Forks that the kernel has refused for want of places, by its own count.
fn forks_refused(group: &Group) -> u64 {
    let texts = group.dirs().iter().filter_map(|dir| std::fs::read_to_string(dir.join("pids.events")).ok());
    let counts =
        texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("max ")?.parse::<u64>().ok()));
    counts.sum()
}

/// By what refusing is done in this tier.
fn refuser(bench: &Bench<'_>) -> &'static str {
    if bench.host.tier == Tier::Bpf { "bpf" } else { "pids.max" }
}

/// How often this has been done to the group. An event that comes again, with what was found behind the record, has the number it had.
fn times(daemon: &Daemon, group: &Group, order: &str) -> usize {
    let (path, events) = (group.path(), daemon.events());
    let of_it = events.iter().filter(|event| event.order == order && event.is_of_group(&path));
    of_it.map(|event| event.id).collect::<BTreeSet<_>>().len()
}

/// The most kernel memory and processes in this time, and the last count of processes.
struct Watched {
    peak: u64,
    most: usize,
    last: usize,
}

fn watch(group: &Group, during: Duration) -> Result<Watched> {
    let end = std::time::Instant::now() + during;
    let mut seen = Watched { peak: 0, most: 0, last: 0 };
    while std::time::Instant::now() < end {
        seen.peak = seen.peak.max(group.kernel()?);
        seen.last = group.processes().len();
        seen.most = seen.most.max(seen.last);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(seen)
}

/// On request: all of it killed by a rule set for the purpose, whatever holds it. Gives how long that took.
fn empty(bench: &Bench<'_>, daemon: &Daemon, group: &Group) -> Result<Duration> {
    let begin = std::time::Instant::now();
    let path = group.path();
    // Exit code 7: it is busy acting, ask again. The time that takes counts.
    let asked = poll_until(bench.patience(), Duration::from_millis(5), || {
        let line = ["--meter", "usage", "--over", "4KiB", "--do", "kill"];
        let output = daemon.cli(&[&["set", "--group", &path], &line[..]].concat());
        (!output.as_ref().is_ok_and(|output| output.code == 7)).then_some(output)
    });
    let asked = asked.context("it stays busy")??;
    if asked.code != 0 {
        return Err(daemon.explain(anyhow::anyhow!("memgov set: {}", asked.stderr)));
    }
    let gone = poll_until(bench.patience(), Duration::from_millis(5), || {
        group.processes().is_empty().then(|| begin.elapsed())
    });
    let took = gone.with_context(|| format!("{} processes are left", group.processes().len()));
    let took = took.map_err(|error| daemon.explain(error))?;
    let allowed = Duration::from_secs(5) * bench.host.patience;
    ensure!(took <= allowed, "emptied in {took:?}, allowed {allowed:?}");
    Ok(took)
}

/// After a kill only the two that nobody has reason to kill are there; what is left of a bomb ends in any case.
fn two_are_left(bench: &Bench<'_>, job: &Group, killed: Result<Event>) -> Result<Event> {
    let gone = poll_until(bench.patience(), Duration::from_millis(10), || {
        (job.processes().len() == 2).then_some(())
    });
    let left = job.processes().len();
    if gone.is_none() {
        job.remove()?;
    }
    let killed = killed?;
    ensure!(gone.is_some(), "{left} processes are left, 2 expected; {killed}");
    Ok(killed)
}

/// Kibibytes over the line, for a result.
fn over(peak: u64, line: u64) -> String {
    let over = i64::try_from(peak).unwrap_or(i64::MAX) - i64::try_from(line).unwrap_or(0);
    format!("peak {:+} KiB of the line at {} KiB", over / 1024, line / 1024)
}
