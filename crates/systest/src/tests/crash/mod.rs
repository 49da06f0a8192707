//! What is left when memgov is killed, hung or told to go: nothing. The whole state is compared with the one before.

mod guardian;
mod hung;
mod kill9;
mod leftover;

use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::run::Test;
use crate::harness::state::State;
use crate::harness::{MIB, poll_until, process};

/// All of them.
pub fn tests() -> Vec<Test> {
    let parts: [fn() -> Vec<Test>; 4] = [kill9::tests, leftover::tests, hung::tests, guardian::tests];
    parts.iter().flat_map(|tests| tests()).collect()
}

/// What the rule of a test does, and at which meter: the amount a process holds decides between group and process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Deny,
    SlowGroup,
    SlowProcess,
    Signal,
    Kill,
    /// Frozen until somebody answers.
    Ask,
    /// Its limit is raised.
    Lend,
}

/// Processes are looked at often here: what is of interest is what follows.
const PACE: &str = "[memgov]\nlease = \"2s\"\npace = { fastest = \"10ms\", slowest = \"100ms\" }\n";

/// The limit of the group, far enough over what is ever used: taken back, a loan can be at once.
const LIMIT: u64 = 128 * MIB;
/// Over this the rule acts.
const LINE: u64 = 48 * MIB;

impl Action {
    fn rule(self, group: &Group) -> String {
        let meter = if self == Self::SlowProcess { "rss.anon" } else { "usage" };
        let step = match self {
            Self::Deny => "\"deny\"",
            Self::SlowGroup | Self::SlowProcess => "{ action = \"slow\", budget = \"60s\" }",
            Self::Signal => "{ action = \"signal\", signal = \"SIGUSR1\", repeat = \"20ms\" }",
            Self::Kill => "{ action = \"kill\", victim = \"group\" }",
            Self::Ask => "{ action = \"ask\", timeout = \"10m\" }",
            Self::Lend => "{ action = \"lend\", amount = \"64MiB\", keep = \"1%\" }",
        };
        let path = group.path();
        format!("{PACE}[[rule]]\ngroups = {path:?}\nmeter = {meter:?}\nover = \"48MiB\"\ndo = [{step}]\n")
    }
}

/// Two processes in a governed group and one beside it.
struct Scene {
    job: Group,
    hog: Agent,
    bystander: Agent,
    neighbour: Agent,
    before: State,
}

impl Scene {
    fn set(bench: &Bench<'_>) -> Result<Self> {
        let (job, beside) = (bench.group("job")?, bench.group("beside")?);
        job.set_max(LIMIT)?;
        bench.daemon_group()?;
        let (mut hog, mut bystander) = (bench.agent(&job, "hog")?, bench.agent(&job, "bystander")?);
        [&mut hog, &mut bystander].into_iter().try_for_each(|agent| agent.ask("count 10").map(|_| ()))?;
        let neighbour = bench.agent(&beside, "neighbour")?;
        let mut scene = Self { job, hog, bystander, neighbour, before: bench.state(&[]) };
        scene.before = bench.state(&scene.processes());
        Ok(scene)
    }

    /// The same with a daemon, and the action seen under way.
    fn under_way(bench: &Bench<'_>, action: Action) -> Result<(Self, Daemon)> {
        let mut scene = Self::set(bench)?;
        let daemon = bench.quiet_daemon(&action.rule(&scene.job), &[])?;
        scene.hog.say(&format!("grow anon 1048576 0 {}", LINE + 16 * MIB))?;
        let touched = poll_until(bench.patience(), Duration::from_micros(500), || {
            scene.is_touched(bench).then_some(())
        });
        touched.ok_or_else(|| daemon.explain(anyhow!("the action was never seen")))?;
        Ok((scene, daemon))
    }

    fn processes(&self) -> [i32; 3] {
        [self.hog.pid, self.bystander.pid, self.neighbour.pid]
    }

    /// Whether something of the action can be seen from outside at this moment.
    fn is_touched(&self, bench: &Bench<'_>) -> bool {
        !process::is_alive(self.hog.pid) || bench.state(&self.processes()) != self.before
    }
}
