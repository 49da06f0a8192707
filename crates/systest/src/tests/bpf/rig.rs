//! What the tests of the tier share: a loaded tier with a long lease, ids of groups and processes, and events as they come.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use memgov::bpf::{Event, EventKind, GroupLimit, Hook, Hooks, Options, TaskLimit, Tier};
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::{Bytes, Time};

use crate::harness::agent::Agent;
use crate::harness::group::Group;
use crate::harness::poll_until;

/// Long enough for any test.
pub const LONG: Duration = Duration::from_secs(3600);

/// So long after exec a program with little memory is not refused any (ROOM_NS in life.bpf.c), and some more.
pub const ROOM_TO_START: Duration = Duration::from_millis(1300);

/// A loaded tier.
pub struct Rig {
    pub tier: Tier,
    pub seen: Vec<Event>,
}

impl Rig {
    /// Loads it and attaches these sets; each must be there.
    pub fn new(hooks: &[Hook]) -> Result<Self> {
        Self::with(hooks, &Options { lease: LONG, ..Options::default() })
    }

    pub fn with(hooks: &[Hook], options: &Options) -> Result<Self> {
        let mut tier = match Tier::load(options)? {
            Ok(tier) => tier,
            Err(absent) => bail!("{absent}"),
        };
        let wanted: Hooks = hooks.iter().copied().collect();
        tier.require(wanted)?;
        ensure!(tier.in_force() == wanted, "not all hooks are in force: {:#?}", tier.hooks());
        tier.renew(Time(crate::sys::now()));
        Ok(Self { tier, seen: Vec::new() })
    }

    /// Refuses memory to a group over this much.
    pub fn deny_over(&self, group: &Group, usage: u64) -> Result<GroupId> {
        self.limit(
            group,
            GroupLimit { deny: Some(Bytes(usage)), tell: Some(Bytes(usage)), ..GroupLimit::default() },
        )
    }

    /// Sets a group's limit; its depth is that of its path.
    pub fn limit(&self, group: &Group, mut limit: GroupLimit) -> Result<GroupId> {
        let id = id_of(group)?;
        limit.level = u32::try_from(group.path().split('/').filter(|part| !part.is_empty()).count())?;
        self.tier.set_group(id, &limit).with_context(|| format!("limiting {}", group.path()))?;
        Ok(id)
    }

    /// Sets a process's limit.
    pub fn limit_process(&self, agent: &Agent, limit: &TaskLimit) -> Result<()> {
        let pidfd = pidfd(agent.pid)?;
        self.tier.set_process(pidfd.as_fd(), limit).with_context(|| format!("limiting {}", agent.pid))
    }

    /// Whether a process has a limit, and its tag.
    pub fn tag_of(&self, pid: i32) -> Result<Option<u64>> {
        Ok(self.tier.process(pidfd(pid)?.as_fd()).map(|(tag, _)| tag))
    }

    /// Everything that happened so far.
    pub fn events(&mut self) -> &[Event] {
        let seen = &mut self.seen;
        self.tier.drain(&mut |event| {
            seen.push(*event);
            true
        });
        &self.seen
    }

    /// How many events of this kind there were of this process.
    pub fn count(&mut self, kind: EventKind, pid: i32) -> usize {
        self.events()
            .iter()
            .filter(|event| event.kind == kind && i64::from(event.who.pid) == i64::from(pid))
            .count()
    }

    /// Waits for an event of this kind of this process.
    pub fn wait_for(&mut self, kind: EventKind, pid: i32, within: Duration) -> Result<Event> {
        let found = poll_until(within, Duration::from_millis(5), || {
            let of = |event: &&Event| event.kind == kind && i64::from(event.who.pid) == i64::from(pid);
            self.events().iter().find(of).copied()
        });
        found.ok_or_else(|| anyhow!("no {kind:?} of {pid}; there were {:?}", self.seen))
    }
}

/// As memgov names groups: the inode.
pub fn id_of(group: &Group) -> Result<GroupId> {
    Ok(GroupId(std::fs::metadata(group.dir())?.ino()))
}

/// A process by its descriptor.
pub fn pidfd(pid: i32) -> Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Field 22 of `/proc/PID/stat`.
pub fn identity(pid: i32) -> Result<ProcessId> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    Ok(ProcessId { pid: u32::try_from(pid)?, start: start.context("a start time")? })
}

/// The bound of the issue: what processors hold in stock, and one call more.
pub fn bound(line: u64, step: u64) -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64;
    line + 64 * 4096 * cpus + step
}

/// The calls that a workload finds refused with ENOMEM, by name; another error is an error here.
pub fn calls_refused(agent: &mut Agent) -> Result<Vec<String>> {
    let results = agent.probe()?;
    let other = results.iter().find(|(name, errno)| name != "at" && *errno != 0 && *errno != 12);
    ensure!(other.is_none(), "{other:?} in {results:?}");
    let mut refused: Vec<String> =
        results.into_iter().filter(|(_, errno)| *errno == 12).map(|(name, _)| name).collect();
    refused.sort();
    Ok(refused)
}
