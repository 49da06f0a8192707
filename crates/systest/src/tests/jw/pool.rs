//! JW 2: one pool on v1, where the kernel has two.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{counting_daemon, most, pool, rule};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, mib, poll_until};

pub fn tests() -> Vec<Test> {
    let v1 = |name, body| Test::new(name, body).needs(&[Need::V1]);
    vec![
        v1("jw_02_one_pool_both_ways", both_ways),
        v1("jw_02_limit_given_back_at_the_end", |bench| given_back(bench, End::Asked)),
        v1("jw_02_limit_given_back_after_kill9", |bench| given_back(bench, End::Killed)),
        v1("jw_02_limit_given_back_by_the_next_after_kill9_of_both", |bench| given_back(bench, End::Both)),
        v1("jw_02_limit_given_back_when_the_rule_goes", |bench| given_back(bench, End::Reloaded)),
    ]
}

/// The letter's line.
const LINE: u64 = 100 * MIB;
/// So much of it is anonymous at first.
const ANON: u64 = 60 * MIB;

fn limit(group: &Group) -> Result<u64> {
    Ok(group.read("memory.kmem.tcp.limit_in_bytes")?.trim().parse()?)
}

fn governed(bench: &Bench<'_>) -> Result<(Group, Daemon)> {
    let job = bench.group("job")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "usage+sockets", LINE, "\"deny\""))?;
    let set = poll_until(bench.patience(), Duration::from_millis(5), || {
        limit(&job).ok().filter(|limit| *limit <= LINE)
    });
    set.with_context(|| daemon.explain(anyhow::anyhow!("no limit for TCP was set")))?;
    Ok((job, daemon))
}

/// 60 MiB of anonymous memory and a flood: 105 at the most. Then the anonymous memory goes, and TCP gets its place; then TCP goes, and anonymous memory does.
fn both_ways(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let (job, _daemon) = governed(bench)?;
    let mut hog = bench.agent(&job, "hog")?;
    let mut flooder = bench.agent(&job, "flooder")?;
    let begin = Instant::now();
    hog.take("anon", ANON)?;
    let left = LINE - ANON + LINE / 20;
    let followed = poll_until(bench.patience(), Duration::from_millis(2), || {
        (limit(&job).ok()? <= left).then(|| begin.elapsed())
    });
    let followed = followed.with_context(|| format!("the limit stays at {:?}", limit(&job)))?;
    ensure!(followed <= Duration::from_secs(2) * bench.host.patience, "it followed after {followed:?}");
    flooder.ask("flood 64")?;
    let total = || pool(&job, Version::V1);
    let first = most(Duration::from_secs(3), total)?;
    let (held, usage) = (job.sockets()?, job.usage()?);
    ensure!(first <= LINE + LINE / 20, "{} in one pool of {}", mib(first), mib(LINE));
    ensure!(first >= LINE - LINE / 10, "the pool was never full: {}", mib(first));
    let begin = Instant::now();
    hog.ask("free")?;
    let moved = poll_until(bench.patience(), Duration::from_millis(5), || {
        (limit(&job).ok()? >= LINE - LINE / 10).then(|| begin.elapsed())
    });
    let moved = moved.with_context(|| format!("the limit stays at {:?}", limit(&job)))?;
    ensure!(moved <= Duration::from_secs(2) * bench.host.patience, "TCP got its place after {moved:?}");
    // Connections that wait for a reader ask seldom whether there is room again; others find it at once.
    let mut another = bench.agent(&job, "another")?;
    another.ask("flood 64")?;
    let grown = poll_until(bench.patience(), Duration::from_millis(10), || {
        (pool(&job, Version::V1).ok()? >= LINE - LINE / 10).then(|| begin.elapsed())
    });
    let grown = grown.with_context(|| format!("TCP stays at {} of {}", job.sockets().unwrap_or(0), LINE))?;
    ensure!(grown <= Duration::from_secs(2) * bench.host.patience, "TCP had its place after {grown:?}");
    let second = most(Duration::from_secs(1), total)?;
    ensure!(second <= LINE + LINE / 20, "{} in one pool of {}", mib(second), mib(LINE));
    flooder.ask("flood-end")?;
    another.ask("flood-end")?;
    let begin = Instant::now();
    let back = poll_until(bench.patience(), Duration::from_millis(10), || {
        (pool(&job, Version::V1).ok()? < LINE / 2).then(|| begin.elapsed())
    });
    ensure!(back.is_some(), "{} are left of the flood", mib(job.sockets()?));
    // Whatever was refused while the pool was full is allowed again.
    let taken = poll_until(bench.patience(), Duration::from_millis(50), || {
        hog.take("anon", 80 * MIB).ok().map(|()| begin.elapsed())
    });
    let taken = taken.context("anonymous memory does not get the place of TCP")?;
    let third = most(Duration::from_secs(1), total)?;
    ensure!(third <= LINE + LINE / 20, "{} in one pool of {}", mib(third), mib(LINE));
    Ok(format!(
        "the limit followed after {followed:?}; full at {} ({} in TCP, {} beside), TCP might have the rest after {moved:?} and had it after {grown:?} ({}), anonymous memory after {taken:?} ({})",
        mib(first),
        mib(held),
        mib(usage),
        mib(second),
        mib(third)
    ))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Asked,
    Killed,
    Both,
    Reloaded,
}

/// What the administrator has set himself is there again, however memgov ends.
fn given_back(bench: &mut Bench<'_>, end: End) -> Result<String> {
    const HIS: u64 = 512 * MIB;
    let job = bench.group("job")?;
    bench.daemon_group()?;
    job.write("memory.kmem.tcp.limit_in_bytes", &HIS.to_string())?;
    let mut hog: Agent = bench.agent(&job, "hog")?;
    let (_, mut daemon) = governed(bench)?;
    hog.take("anon", ANON)?;
    let moved = poll_until(bench.patience(), Duration::from_millis(5), || {
        limit(&job).ok().filter(|limit| *limit <= LINE - ANON)
    });
    let moved = moved.with_context(|| format!("the limit stays at {:?}", limit(&job)))?;
    match end {
        End::Asked => {
            daemon.terminate()?;
        }
        End::Killed => daemon.kill9()?,
        End::Both => {
            daemon.kill9_with_guardian()?;
            ensure!(limit(&job)? <= LINE, "nobody was there to give it back, and it is: {}", limit(&job)?);
            // The same group is nobody's now.
            daemon = bench.quiet_daemon("", &[])?;
        }
        End::Reloaded => {
            std::fs::write(daemon.config(), "")?;
            daemon.ok(&["reload"])?;
        }
    }
    let back = poll_until(bench.patience(), Duration::from_millis(5), || {
        limit(&job).ok().filter(|limit| *limit == HIS)
    });
    back.with_context(|| daemon.explain(anyhow::anyhow!("the limit is {:?}, it was {HIS}", limit(&job))))?;
    Ok(format!("{} while governed, {} again", mib(moved), mib(HIS)))
}
