//! A group around jobs whose limit is about to be met.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::jobs::Jobs;
use super::{
    expect_alive, expect_killed, job_killed, kernel_kills, only_one, parent_rule, the_lowest_gives_way, told,
};
use crate::harness::bench::Bench;
use crate::harness::host::NOBODY;
use crate::harness::{MIB, mib, poll_until};

pub const LIMIT: u64 = 160 * MIB;
pub const UNDER: u64 = 24 * MIB;

/// Three jobs that use the same: the one of the lowest priority is killed whole, the others live on, and the limit is not met.
pub fn lowest_priority(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let before = kernel_kills()?;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &parent_rule(&jobs.parent.path(), UNDER)))?;
    // All three together are over, two are not.
    jobs.grow((LIMIT - UNDER) / 3 + 4 * MIB)?;
    let event = the_lowest_gives_way(bench, &daemon, &mut jobs, before)?;
    Ok(told(&event))
}

/// The most important job is over its reservation and the others are not: it gives way. When all are within theirs, priority decides again.
pub fn reservation(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let before = kernel_kills()?;
    let config = jobs.config([80 * MIB, 80 * MIB, 24 * MIB]) + &parent_rule(&jobs.parent.path(), UNDER);
    let daemon = bench.daemon(&config)?;
    jobs.agents[0][0].take("anon", 40 * MIB)?;
    jobs.agents[1][0].take("anon", 40 * MIB)?;
    jobs.agents[2][0].push("anon", 64 * MIB)?;
    let first = job_killed(bench, &daemon, &jobs.path(2))?;
    expect_killed(bench, &mut jobs.agents[2])?;
    only_one(bench, &daemon, &jobs, before)?;
    expect_alive(&daemon, &jobs.agents[0])?;
    expect_alive(&daemon, &jobs.agents[1])?;
    let mut again = bench.agent(&jobs.groups[2], "again")?;
    again.take("anon", 8 * MIB)?;
    jobs.agents[0][0].push("anon", 70 * MIB)?;
    jobs.agents[1][0].push("anon", 70 * MIB)?;
    expect_killed(bench, &mut jobs.agents[0]).map_err(|error| daemon.explain(error))?;
    let path = jobs.path(0);
    let second = daemon.event("the other kill", bench.patience(), |event| {
        event.order == "kill" && event.is_of_group(&path) && event.came_of_it() == "dead"
    })?;
    expect_alive(&daemon, &jobs.agents[1])?;
    expect_alive(&daemon, &[again])?;
    ensure!(kernel_kills()? == before, "the kernel's OOM killer acted");
    Ok(format!("{}; {}", told(&first), told(&second)))
}

/// Nearly full and filling slowly it is left alone, though the line is crossed; when it would be full within a second it is not.
pub fn slope(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let rule = parent_rule(&jobs.parent.path(), LIMIT / 2).replace("do = ", "exhausted-in = \"1s\"\ndo = ");
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &rule))?;
    jobs.agents[0][0].take("anon", LIMIT / 4)?;
    // 16 MiB a second, from three quarters of what is left under the line to a quarter of the limit.
    jobs.agents[1][0].grow("anon", MIB / 4, Duration::from_micros(15_625), LIMIT / 3)?;
    jobs.agents[1][0].note("full")?;
    daemon.no_event("a kill", Duration::from_secs(1), |event| event.order == "kill")?;
    let slow = jobs.parent.usage()?;
    ensure!(slow > LIMIT / 2, "the line was not crossed: {}", mib(slow));
    jobs.agents[2][0].grow("anon", MIB, Duration::from_millis(2), LIMIT)?;
    let event = job_killed(bench, &daemon, &jobs.path(0))?;
    ensure!(event.reason.falling_bytes_per_second.is_some_and(|rate| rate > 0), "{:?}", event.reason);
    Ok(format!("left alone at {}; {}", mib(slow), told(&event)))
}

/// Two killers would kill twice for one shortage: one that runs is named when memgov starts and by `doctor`, with what to do.
pub fn another_killer(bench: &mut Bench<'_>) -> Result<String> {
    let beside = bench.group("beside")?;
    let other = bench.agent(&beside, "earlyoom")?;
    let daemon = bench.daemon("")?;
    let said = format!("earlyoom runs (pid {})", other.pid);
    let log = daemon.log_tail();
    ensure!(log.contains(&said) && log.contains("systemctl disable --now earlyoom"), "{log}");
    let doctor = daemon.cli(&["doctor"])?.stdout;
    ensure!(doctor.contains("earlyoom") && doctor.contains(&other.pid.to_string()), "{doctor}");
    drop(other);
    Ok(said)
}

/// A group that is full of page cache has all of it available: nobody is hit, though usage stands at the limit.
pub fn page_cache(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &parent_rule(&jobs.parent.path(), UNDER)))?;
    let cache = bench.host.clean_cache.clone().map_err(anyhow::Error::msg)?;
    jobs.agents[0][0].ask(&format!("cache {} 0 {}", cache.display(), 3 * LIMIT))?;
    let parent = jobs.parent.clone();
    let full = poll_until(bench.patience(), Duration::from_millis(2), || {
        parent.usage().ok().filter(|&usage| usage > LIMIT - UNDER)
    });
    let full =
        full.ok_or_else(|| anyhow::anyhow!("page cache did not fill the group: {:?}", parent.usage()))?;
    daemon.no_event("a kill for page cache", Duration::from_secs(1), |event| event.order == "kill")?;
    for agents in &jobs.agents {
        expect_alive(&daemon, agents)?;
    }
    Ok(format!("usage {} of {}, nobody hit", mib(full), mib(LIMIT)))
}

/// `user.oomd_avoid` of root's group counts, that of a user's group does not count against others.
pub fn wishes(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    for at in [0, 1] {
        let dir = std::fs::File::open(jobs.groups[at].dir())?;
        rustix::fs::fsetxattr(&dir, c"user.oomd_avoid", b"1", rustix::fs::XattrFlags::empty())?;
    }
    // A user was given the second: what it asks is not heard in a shortage of root's group.
    std::os::unix::fs::chown(jobs.groups[1].dir(), Some(NOBODY), Some(NOBODY))?;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &parent_rule(&jobs.parent.path(), UNDER)))?;
    jobs.grow((LIMIT - UNDER) / 3 + 4 * MIB)?;
    let event = job_killed(bench, &daemon, &jobs.path(1))?;
    let asked: Vec<Option<&str>> = event.jobs.iter().map(|job| job.asks.as_deref()).collect();
    ensure!(asked == [None, None, Some("avoid")], "asked: {asked:?}");
    expect_alive(&daemon, &jobs.agents[0])?;
    expect_alive(&daemon, &jobs.agents[2])?;
    Ok(told(&event))
}

/// What was recorded meanwhile leads to the same decisions.
pub fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let trace = bench.dir.join("trace");
    let rules = parent_rule(&jobs.parent.path(), UNDER)
        + "[[rule]]\nname = \"host\"\nhost = true\nunder = \"1MiB\"\ndo = [\"record\"]\n";
    let arguments = ["--trace", &trace.to_string_lossy()];
    let mut daemon = bench.daemon_with(&(jobs.config([0, 0, 8 * MIB]) + &rules), &arguments)?;
    jobs.grow((LIMIT - UNDER) / 3 + 4 * MIB)?;
    job_killed(bench, &daemon, &jobs.path(0))?;
    std::thread::sleep(Duration::from_millis(300));
    let said = daemon.replays_alike(&trace)?;
    let text = std::fs::read(&trace)?;
    ensure!(String::from_utf8_lossy(&text).contains("\nhost "), "the host's memory is not in the trace");
    Ok(said)
}
