//! What the tests of kernel memory share: the kernel's file of it, seeding by it, and comparing with it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use memgov::bpf::{GroupLimit, Hook, Options, Seeding, Tier};
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::{Bytes, Time};

use super::rig::{LONG, Rig, id_of};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::{MIB, poll_until};

/// The tier with everything about kernel memory in force.
pub fn rig() -> Result<Rig> {
    Rig::with(&[Hook::Kernel], &Options { lease: LONG, ..Options::default() })
}

/// Starts the counter of a group that has a line.
pub fn seed(tier: &Tier, bench: &Bench<'_>, group: &Group) -> Result<GroupId> {
    let id = id_of(group)?;
    ensure!(tier.kernel_usage(id).is_none(), "it answers before it is seeded");
    let mut read = || group.kernel().map(Bytes).map_err(|_| rustix::io::Errno::IO);
    let seeded = poll_until(bench.patience(), Duration::from_millis(20), || {
        tier.seed_kernel(id, &mut read).ok().filter(|it| *it != Seeding::Busy)
    });
    seeded.ok_or_else(|| anyhow!("{} could not be seeded", group.path()))?;
    Ok(id)
}

/// Counted from now on, with a line out of reach.
pub fn counted(rig: &Rig, bench: &Bench<'_>, group: &Group) -> Result<GroupId> {
    line(rig, bench, group, 1 << 40)
}

/// Counted from now on, and held to this line.
pub fn line(rig: &Rig, bench: &Bench<'_>, group: &Group, bytes: u64) -> Result<GroupId> {
    let kernel = Some(Bytes(bytes));
    let id = rig.limit(group, GroupLimit { kernel, kernel_tell: kernel, tag: 4, ..GroupLimit::default() })?;
    if rig.tier.kernel_usage(id).is_none() {
        seed(&rig.tier, bench, group)?;
    }
    Ok(id)
}

/// The live counter.
pub fn live(rig: &Rig, id: GroupId) -> Result<u64> {
    Ok(rig.tier.kernel_usage(id).context("not seeded")?.0)
}

/// How far the counter is from the file, once nothing goes on any more: live, file, live until it says the same before and after, and the
/// file has had its time (the kernel adds up every 2 s). In bytes; positive: the counter says more.
pub fn difference(rig: &Rig, bench: &Bench<'_>, group: &Group) -> Result<i64> {
    let id = id_of(group)?;
    let quiet = Duration::from_millis(2500);
    let end = Instant::now() + bench.patience();
    let mut since = (Instant::now(), live(rig, id)?);
    loop {
        let (before, stat, after) = (live(rig, id)?, group.kernel()?, live(rig, id)?);
        if before != since.1 || after != before {
            since = (Instant::now(), after);
        }
        if since.0.elapsed() >= quiet {
            return Ok(i64::try_from(after)? - i64::try_from(stat)?);
        }
        ensure!(Instant::now() < end, "never quiet: {before}, {stat}, {after}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Pages that may be charged or given back in the moment of the comparison.
pub const SLACK: i64 = 64 << 10;

/// Fails unless the two agree; gives the difference.
pub fn agrees(rig: &Rig, bench: &Bench<'_>, group: &Group, when: &str) -> Result<i64> {
    let difference = difference(rig, bench, group)?;
    ensure!(difference.abs() <= SLACK, "{when}: the counter is {difference} bytes above the file");
    Ok(difference)
}

/// Calls that are refused with ENOMEM, sorted; another error is an error here. glibc says EAGAIN for a thread.
pub fn refused(agent: &mut Agent) -> Result<Vec<String>> {
    let answer = agent.ask("kernel-calls")?;
    let mut refused = Vec::new();
    for word in answer.split_whitespace() {
        let (name, errno) = word.split_once('=').context("name=errno")?;
        match (name, errno) {
            (_, "0") => {}
            ("thread", "11") | (_, "12") => refused.push(name.to_owned()),
            _ => anyhow::bail!("{name} failed with errno {errno}: {answer}"),
        }
    }
    Ok(refused)
}

/// All the calls that are tried.
pub const CALLS: usize = 20;

/// Another group with a far line, whose calls must never be refused.
pub struct Neighbour {
    agent: Agent,
    id: GroupId,
}

impl Neighbour {
    pub fn new(rig: &Rig, bench: &Bench<'_>) -> Result<Self> {
        let group = bench.group("other")?;
        let mut agent = bench.worker(&group, "neighbour")?;
        agent.ask("kernel-calls-prepare")?;
        let id = line(rig, bench, &group, 1024 * MIB)?;
        Ok(Self { agent, id })
    }

    /// A round of everything.
    pub fn is_free(&mut self, rig: &Rig) -> Result<()> {
        let refused = refused(&mut self.agent)?;
        ensure!(refused.is_empty(), "the neighbour was refused {refused:?}");
        ensure!(rig.tier.kernel_denials_of(self.id) == Some(0), "a denial was counted for the neighbour");
        Ok(())
    }
}

/// Now, as the lease counts.
pub fn now() -> Time {
    Time(crate::sys::now())
}
