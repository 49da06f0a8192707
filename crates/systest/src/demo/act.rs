//! One act of the demo: a runaway and its neighbour under one rule, and the figures of it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Live;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::crossing::{Crossed, Crossing};
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::{MIB, mib, process};

/// Each rule acts over this...
pub const LINE: u64 = 64 * MIB;
/// ...and here the kernel would kill.
pub const MAX: u64 = 160 * MIB;
/// How long what is held is watched.
const WATCHED: Duration = Duration::from_secs(4);

/// So long an order is waited for.
const REACTION: Duration = Duration::from_secs(10);

/// What is shown.
pub struct Act {
    /// The action, and the name of its group and rule.
    pub name: &'static str,
    /// What is going to happen.
    pub story: &'static str,
    /// The action as the configuration has it.
    step: &'static str,
    /// The order its event carries.
    order: &'static str,
    /// How the runaway takes memory: kind, bytes a step, microseconds between steps.
    growth: (&'static str, u64, u64),
}

/// The four of them.
pub const ACTS: [Act; 4] = [
    Act {
        name: "deny",
        story: "its further allocations fail with ENOMEM, it lives",
        step: "\"deny\"",
        order: "deny-begin",
        growth: ("anon", MIB, 5000),
    },
    Act {
        name: "slow",
        story: "it gets only so much time that it stays under its limit",
        step: "{ action = \"slow\", budget = \"60s\" }",
        order: "slow-begin",
        growth: ("populate", 64 << 10, 1000),
    },
    Act {
        name: "signal",
        story: "it is told by SIGUSR1, and frees its memory itself",
        step: "{ action = \"signal\", signal = \"SIGUSR1\" }",
        order: "signal",
        growth: ("anon", MIB, 5000),
    },
    Act {
        name: "kill",
        story: "the largest process of the group is killed, before the kernel picks one",
        step: "{ action = \"kill\", victim = \"largest\" }",
        order: "kill",
        growth: ("anon", MIB, 5000),
    },
];

/// One line of the table.
pub struct Line {
    /// The action.
    pub action: &'static str,
    /// The most the group used.
    pub peak: u64,
    /// Nanoseconds from the crossing to the decision, if there was one.
    pub reaction: Option<u64>,
    /// The mechanism.
    pub by: String,
    /// The neighbour: pieces of work, failures, p50, p99 and max in microseconds.
    pub neighbour: Vec<u64>,
    /// Whether it was held, or why not.
    pub held: Result<String, String>,
}

impl Act {
    /// Its rule.
    pub fn rule(&self, top: &Group) -> String {
        let (name, step) = (self.name, self.step);
        let groups = format!("{}/{name}", top.path());
        format!(
            "[[rule]]\nname = {name:?}\ngroups = {groups:?}\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [{step}]\n"
        )
    }

    /// Plays it.
    pub fn play(&self, bench: &Bench<'_>, live: &mut Live<'_>) -> Result<Line> {
        let (job, beside) = (bench.group(self.name)?, bench.group(&format!("beside-{}", self.name))?);
        job.set_max(MAX)?;
        let mut neighbour = bench.agent(&beside, "neighbour")?;
        neighbour.ask("innocent 2000")?;
        let mut hog = bench.agent(&job, "runaway")?;
        if self.name == "signal" {
            hog.ask("yield-on 10")?;
        }
        live.say(&format!(
            "{} runs away (pid {}), limit {}, memory.max {}",
            self.name,
            hog.pid,
            mib(LINE),
            mib(MAX)
        ));
        let crossing = Crossing::watch(&job.usage_file(), LINE, bench.patience())?;
        let (kind, step, interval) = self.growth;
        hog.grow(kind, step, Duration::from_micros(interval), u64::MAX)?;
        let crossed = crossing.wait()?;
        let event = self.reaction(live, &job)?;
        let mut sampled = job.usage().unwrap_or(0);
        live.until(WATCHED, || {
            sampled = sampled.max(job.usage().unwrap_or(0));
            self.name == "kill" && !process::is_alive(hog.pid)
        })?;
        let held = match &event {
            Some(_) => self.judge(&job, &mut hog, live).map_err(|error| format!("{error:#}")),
            None => Err(format!("memgov gave no order within {REACTION:?}")),
        };
        live.say(&match &held {
            Ok(how) => format!("held: {how}"),
            Err(why) => format!("NOT HELD: {why}"),
        });
        let peak = job.peak().unwrap_or(sampled);
        let neighbour = neighbour.numbers("figures")?;
        drop(hog);
        let by = self.mechanism(live, &job);
        self.line(peak, crossed, event.as_ref(), by, neighbour, held)
    }

    /// The order that answers the crossing.
    fn reaction(&self, live: &mut Live<'_>, job: &Group) -> Result<Option<Event>> {
        let path = job.path();
        let find =
            |event: &Event| event.order == self.order && event.is_of_group(&path) && event.outcome.is_some();
        let daemon = live.daemon;
        live.until(REACTION, || daemon.events().iter().any(find))?;
        Ok(daemon.events().into_iter().find(find))
    }

    /// By what the group was held, as its events say.
    fn mechanism(&self, live: &Live<'_>, job: &Group) -> String {
        let path = job.path();
        let events = live.daemon.events();
        let mut used = events.iter().filter(|event| event.is_of_group(&path)).map(Event::by);
        used.find(|by| *by != "-").unwrap_or("-").to_owned()
    }

    fn judge(&self, job: &Group, hog: &mut Agent, live: &mut Live<'_>) -> Result<String> {
        let kills = job.oom_kills()?;
        ensure!(kills == 0, "the kernel's OOM killer came: oom_kill {kills}");
        let usage = job.usage()?;
        match self.name {
            "deny" => {
                let refused = hog.note("refused")?;
                ensure!(process::is_alive(hog.pid), "it is dead");
                ensure!(usage < MAX, "usage {}", mib(usage));
                Ok(format!("it lives, ENOMEM from {} on", mib(refused.numbers[1])))
            }
            "slow" => {
                ensure!(process::is_alive(hog.pid), "it is dead");
                ensure!(usage < MAX, "usage {}", mib(usage));
                Ok(format!("{} after {WATCHED:?}, and growing slowly", mib(usage)))
            }
            "signal" => {
                let yielded = hog.note("yielded")?;
                ensure!(usage < LINE, "usage is still {}", mib(usage));
                Ok(format!("it freed {} itself", mib(yielded.numbers[1])))
            }
            _ => {
                let dead = live.until(WATCHED, || !process::is_alive(hog.pid))?;
                ensure!(dead, "it still lives");
                let (_, signal) = hog.wait_for_end(WATCHED)?;
                ensure!(signal == libc::SIGKILL, "it died of signal {signal}");
                Ok("dead by SIGKILL, oom_kill 0".to_owned())
            }
        }
    }

    fn line(
        &self,
        peak: u64,
        crossed: Crossed,
        event: Option<&Event>,
        by: String,
        neighbour: Vec<u64>,
        held: Result<String, String>,
    ) -> Result<Line> {
        ensure!(neighbour.len() == 5, "the neighbour answered {neighbour:?}");
        let held = held.and_then(|how| match neighbour[1] {
            0 => Ok(how),
            failures => Err(format!("its neighbour had {failures} failures")),
        });
        let reaction = event.map(|event| event.monotonic_ns.saturating_sub(crossed.at));
        Ok(Line { action: self.name, peak, reaction, by, neighbour, held })
    }
}
