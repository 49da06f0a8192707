//! What a test body gets: a scratch tree of its own, and short words for the things most of them do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::agent::Agent;
use super::crossing::Crossing;
use super::daemon::{Daemon, Place};
use super::group::Group;
use super::host::{Host, Tier, Version};
use super::state::State;
use super::{MIB, lateness, poll_until};

/// The criteria's bar: so long after the crossing it must have happened.
pub const T: Duration = Duration::from_millis(200);
/// The rig's memory.high.
pub const HIGH: u64 = 100 * MIB;
/// The rig's climit.
pub const CLIMIT: u64 = 8 * MIB;
/// Time between two steps of a paced hog.
pub const PACE: Duration = Duration::from_millis(10);

/// The letter's action words.
pub mod word {
    /// Refuse with ENOMEM.
    pub const DENY: u32 = 1;
    /// Slow down.
    pub const SLOW: u32 = 2;
    /// Send a signal.
    pub const SIGNAL: u32 = 3;
    /// Kill.
    pub const KILL: u32 = 4;
    /// Again and again.
    pub const SIGCONT: u32 = 1 << 16;
    /// Only the process's own memory counts.
    pub const DIRECT: u32 = 1 << 17;
    /// Log once an episode.
    pub const LOG: u32 = 1 << 18;
    /// Count anonymous memory.
    pub const ANON: u32 = 1 << 24;
    /// Count mapped files.
    pub const FILE: u32 = 1 << 25;
    /// Count shared memory.
    pub const SHMEM: u32 = 1 << 26;
    /// This signal.
    pub const fn signal(number: u32) -> u32 {
        number << 8
    }
}

/// One test's context.
pub struct Bench<'a> {
    /// This machine.
    pub host: &'a Host,
    /// The top of its scratch tree.
    pub top: Group,
    /// Its directory for files.
    pub dir: PathBuf,
    /// See [`Bench::patience`]; a test that asks for much may raise it.
    pub patience: Duration,
    name: String,
}

/// How a daemon is started, beside what it is told.
struct Extras {
    tier: Tier,
    locks: bool,
    files: bool,
}

impl Extras {
    const NONE: Self = Self { tier: Tier::Portable, locks: true, files: false };
}

impl<'a> Bench<'a> {
    /// Makes the scratch tree `name` and a directory of the same name.
    pub fn new(host: &'a Host, name: &str) -> Result<Self> {
        let dir = host.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let top = Group::make(host, Path::new(name))?;
        top.delegate_memory()?;
        let patience = Duration::from_secs(10) * host.patience;
        Ok(Self { host, top, dir, patience, name: name.to_owned() })
    }

    /// How long the kernel itself may keep a process asleep that allocates over memory.high, each time it does.
    pub fn throttle(&self) -> Duration {
        Duration::from_secs(if self.host.version == Version::V2 { 2 } else { 0 })
    }

    /// How long an answer may take where a criterion does not say.
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// A group below the top.
    pub fn group(&self, name: &str) -> Result<Group> {
        Group::make(self.host, &Path::new(&self.name).join(name))
    }

    /// A workload.
    pub fn agent(&self, group: &Group, name: &str) -> Result<Agent> {
        Agent::start(group, name, self.patience())
    }

    /// A workload that works in a directory of its own.
    pub fn worker(&self, group: &Group, name: &str) -> Result<Agent> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let mut agent = self.agent(group, name)?;
        agent.ask(&format!("work-in {}", dir.display()))?;
        Ok(agent)
    }

    /// A daemon with this configuration, its events followed.
    pub fn daemon(&self, config: &str) -> Result<Daemon> {
        self.daemon_with(config, &[])
    }

    /// The same with further arguments.
    pub fn daemon_with(&self, config: &str, arguments: &[&str]) -> Result<Daemon> {
        let mut daemon = self.quiet_daemon(config, arguments)?;
        daemon.follow()?;
        Ok(daemon)
    }

    /// A daemon whose events nobody follows.
    pub fn quiet_daemon(&self, config: &str, arguments: &[&str]) -> Result<Daemon> {
        self.placed_daemon(config, arguments, Extras { tier: self.host.tier, ..Extras::NONE })
    }

    /// The same in a tier of its own.
    pub fn quiet_daemon_of(&self, tier: Tier, config: &str, arguments: &[&str]) -> Result<Daemon> {
        self.placed_daemon(config, arguments, Extras { tier, ..Extras::NONE })
    }

    /// A daemon that may not lock its memory, its events followed.
    pub fn daemon_without_ipc_lock(&self, config: &str) -> Result<Daemon> {
        let extras = Extras { tier: self.host.tier, locks: false, ..Extras::NONE };
        let mut daemon = self.placed_daemon(config, &[], extras)?;
        daemon.follow()?;
        Ok(daemon)
    }

    /// A daemon that mounts the letters' files as it is told to, or by itself.
    pub fn daemon_with_files(&self, config: &str, arguments: &[&str]) -> Result<Daemon> {
        let extras = Extras { tier: self.host.tier, files: true, ..Extras::NONE };
        self.placed_daemon(config, arguments, extras)
    }

    fn placed_daemon(&self, config: &str, arguments: &[&str], extras: Extras) -> Result<Daemon> {
        let Extras { tier, locks, files } = extras;
        let group = self.daemon_group()?;
        let place = Place {
            memgov: &self.host.memgov,
            group: &group,
            dir: &self.dir,
            patience: self.patience(),
            tier,
            locks,
            files,
        };
        Daemon::start(&place, config, arguments)
    }

    /// Where daemons of this test run: beside the tree they govern, because memgov never governs its own ancestors.
    pub fn daemon_group(&self) -> Result<Group> {
        Group::make(self.host, Path::new(&format!("{}-d", self.name)))
    }

    /// Gives a group its high: the kernel's own on v2; what must stand in the configuration for it on v1.
    pub fn high(&self, group: &Group, bytes: u64) -> Result<String> {
        match self.host.version {
            Version::V1 => Ok(virtual_high(group, bytes)),
            Version::V2 => {
                group.set_high(bytes)?;
                Ok(String::new())
            }
        }
    }

    /// The calls of the letter that can be judged here, as a mask: brk, mmap, mlock, mlock2, mlockall, mprotect. Where the
    /// hard RLIMIT_MEMLOCK cannot be raised, mlockall fails of any program larger than that, memgov or not.
    pub const fn judged_calls(&self) -> u32 {
        if self.host.sys_resource { 0b11_1111 } else { 0b10_1111 }
    }

    /// Waits until a workload finds all these calls refused, or allowed; gives when.
    pub fn await_calls(&self, agent: &mut Agent, daemon: &Daemon, state: &str) -> Result<u64> {
        agent.ask(&self.until(state))?;
        self.noted(agent, daemon, state)
    }

    /// The command that begins such a wait.
    pub fn until(&self, state: &str) -> String {
        format!("await {state} {}", self.judged_calls())
    }

    /// The end of such a wait.
    pub fn noted(&self, agent: &mut Agent, daemon: &Daemon, state: &str) -> Result<u64> {
        let note = agent.note(&format!("all-{state}")).map_err(|error| {
            let found = agent.probe().map_or_else(|error| error.to_string(), |found| format!("{found:?}"));
            daemon.explain(error.context(format!("the calls give {found}")))
        })?;
        note.numbers.first().copied().ok_or_else(|| anyhow!("a note without a time"))
    }

    /// The whole state of this test's tree and of these processes.
    pub fn state(&self, processes: &[i32]) -> State {
        State::take(&self.top, processes)
    }

    /// Fails unless the state becomes what it was, in this time.
    pub fn back_to(&self, before: &State, processes: &[i32], within: Duration, when: &str) -> Result<()> {
        let back =
            poll_until(within, Duration::from_millis(2), || (self.state(processes) == *before).then_some(()));
        back.ok_or_else(|| {
            let differences = before.differences(&self.state(processes)).join("; ");
            anyhow!("{when}: after {within:?} the state is not what it was: {differences}")
        })
    }
}

/// A line like memory.high that memgov keeps itself.
pub fn virtual_high(group: &Group, bytes: u64) -> String {
    format!("[[group]]\nmatch = {:?}\nhigh = \"{bytes}B\"\n", group.path())
}

/// The rig of the criteria: one group with high 100 MiB, a daemon, a hog in it.
pub struct Rig {
    /// The group.
    pub job: Group,
    /// The daemon.
    pub daemon: Daemon,
    /// The hog.
    pub hog: Agent,
}

impl Rig {
    /// With nothing but the high configured.
    pub fn start(bench: &Bench<'_>) -> Result<Self> {
        Self::with_rules(bench, |_| String::new())
    }

    /// With rules that may name the group.
    pub fn with_rules(bench: &Bench<'_>, rules: impl Fn(&Group) -> String) -> Result<Self> {
        let job = bench.group("job")?;
        let config = bench.high(&job, HIGH)? + &rules(&job);
        let daemon = bench.daemon(&config)?;
        let hog = bench.agent(&job, "hog")?;
        Ok(Self { job, daemon, hog })
    }

    /// The same with the hog a little under the line already. Its memory was there before the high was: to get there over
    /// the kernel's own high takes a throttled hog half a minute.
    pub fn near_the_line(bench: &Bench<'_>) -> Result<Self> {
        let job = bench.group("job")?;
        let mut hog = bench.agent(&job, "hog")?;
        fill(&mut hog, &job)?;
        let daemon = bench.daemon(&bench.high(&job, HIGH)?)?;
        Ok(Self { job, daemon, hog })
    }

    /// Back to there, after the hog has let go: the high is out of the way meanwhile.
    pub fn return_near_the_line(&mut self, bench: &Bench<'_>) -> Result<()> {
        if bench.host.version == Version::V2 {
            self.job.write("memory.high", "max")?;
        }
        fill(&mut self.hog, &self.job)?;
        bench.high(&self.job, HIGH).map(|_| ())
    }

    /// Watches for usage over high + climit, for as long as a hog needs that the kernel throttles at its own high.
    pub fn crossing(&self, bench: &Bench<'_>) -> Result<Crossing> {
        Crossing::watch(&self.job.usage_file(), HIGH + CLIMIT, bench.patience() * 3)
    }

    /// The paced hog of the criteria: 1 MiB a step.
    pub fn grow(&mut self, upto: u64) -> Result<()> {
        self.hog.grow("anon", MIB, PACE, upto)
    }
}

/// Fills the group up to 1.5 MiB under its line.
fn fill(hog: &mut Agent, job: &Group) -> Result<()> {
    hog.take("anon", HIGH)?;
    let more = (HIGH + CLIMIT - MIB * 3 / 2).saturating_sub(job.usage()?);
    hog.take("anon", HIGH + more)
}

/// Fails with the numbers if this took longer than allowed; what the machine itself took away is not counted ([`lateness`]).
/// Events before the crossing are a clock's noise, not time.
pub fn within(what: &str, from: u64, to: u64, bar: Duration) -> Result<u64> {
    let allowed = lateness::allowed(bar, from, to);
    let took = to.saturating_sub(from);
    let took_millis = super::millis(took);
    ensure!(
        u128::from(took) <= allowed.as_nanos(),
        "{what}: expected within {allowed:?}, took {took_millis}"
    );
    Ok(took)
}

/// Fails unless each of the letter's calls that can be judged here gave this errno.
pub fn expect_probe(bench: &Bench<'_>, agent: &mut Agent, who: &str, errno: i32) -> Result<()> {
    let probe = agent.probe()?;
    let judged = |at: &usize| bench.judged_calls() & (1 << at) != 0;
    let wrong: Vec<String> = (0..probe.len())
        .filter(judged)
        .filter(|&at| probe[at].1 != errno)
        .map(|at| format!("{} gave errno {}", probe[at].0, probe[at].1))
        .collect();
    ensure!(
        probe.len() >= 6 && wrong.is_empty(),
        "{who}: expected errno {errno} of all calls; {}",
        wrong.join(", ")
    );
    Ok(())
}
