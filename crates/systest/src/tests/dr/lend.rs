//! `lend`: a job that would meet its limit is lent memory of the host's, and its limit is afterwards what it was, whatever becomes of memgov, with nobody
//! killed for it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::kernel_kills;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until, process};

/// Where the step is taken, the limit, what is lent, and what the job comes to.
const LINE: u64 = 40 * MIB;
const LIMIT: u64 = 72 * MIB;
const AMOUNT: u64 = 96 * MIB;
const DEMAND: u64 = 120 * MIB;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("dr_lend_saves_a_job_at_its_limit", saves),
        Test::new("dr_lend_by_request", by_request),
        Test::new("dr_lend_raises_high_too", high).needs(&[Need::V2]),
        Test::new("dr_lend_not_by_a_short_host", short),
        Test::new("dr_lend_due_is_taken_back_without_a_kill", due),
        Test::new("dr_lend_leaves_the_limit_of_an_administrator", administrator),
        Test::new("dr_lend_kill9_and_sigterm", ended).seconds(60),
        Test::new("dr_lend_kill9_guardian_too", guardian_too).seconds(60),
    ]
}

fn rule(job: &Group, lend: &str, then: &str) -> String {
    format!(
        "[[rule]]\nname = \"lender\"\ngroups = {:?}\nover = \"{LINE}B\"\n\
         do = [{{ action = \"lend\", amount = \"{AMOUNT}B\", keep = \"1%\"{lend} }}, {then}]\n",
        job.path()
    )
}

const KILL_LATE: &str = "{ action = \"kill\", after = \"60s\" }";

/// A job at work, its limits before, and how many the kernel had killed.
struct Scene {
    job: Group,
    hog: Agent,
    limits: String,
    kernel_kills: u64,
}

impl Scene {
    fn set(bench: &Bench<'_>) -> Result<Self> {
        let job = bench.group("job")?;
        job.set_max(LIMIT)?;
        let hog = bench.agent(&job, "hog")?;
        Ok(Self { limits: job.limits(), job, hog, kernel_kills: kernel_kills()? })
    }

    /// The job takes twice its limit, a step at a time, and gets it.
    fn demand(&mut self, bench: &Bench<'_>, daemon: &Daemon) -> Result<()> {
        let pace = Duration::from_millis(u64::from(2 * bench.host.patience));
        self.hog.grow("anon", MIB / 4, pace, DEMAND)?;
        self.hog
            .note("full")
            .map_err(|error| daemon.explain(error.context("the job was not lent enough")))?;
        ensure!(self.job.usage()? > LIMIT, "{} in use: no more than its limit", mib(self.job.usage()?));
        Ok(())
    }

    fn is_raised(&self) -> bool {
        self.job.limits() != self.limits
    }

    fn comes_back(&self, bench: &Bench<'_>, when: &str) -> Result<()> {
        let back =
            poll_until(bench.patience(), Duration::from_millis(2), || (!self.is_raised()).then_some(()));
        back.with_context(|| format!("{when}: limits are {}, were {}", self.job.limits(), self.limits))?;
        self.nobody_killed()
    }

    fn nobody_killed(&self) -> Result<()> {
        ensure!(self.job.oom_kills()? == 0 && kernel_kills()? == self.kernel_kills, "the kernel has killed");
        ensure!(process::is_alive(self.hog.pid), "the job is dead");
        Ok(())
    }
}

fn lent(bench: &Bench<'_>, daemon: &Daemon) -> Result<Event> {
    daemon.event("a loan", bench.patience(), |event| {
        event.order == "lend-begin" && event.came_of_it() == "done"
    })
}

fn taken_back(bench: &Bench<'_>, daemon: &Daemon) -> Result<Event> {
    daemon.event("the end of the loan", bench.patience(), |event| {
        event.order == "lend-end" && event.came_of_it() == "done"
    })
}

/// A rule set while memgov runs lends like one of a file, and what it lent is taken back when the rule is cleared.
fn by_request(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let daemon = bench.daemon("")?;
    let (path, line, steps) = (scene.job.path(), format!("{LINE}B"), format!("lend:{AMOUNT}B,kill@60s"));
    daemon.ok(&["set", "--group", &path, "--over", &line, "--do", &steps])?;
    scene.demand(bench, &daemon)?;
    lent(bench, &daemon)?;
    ensure!(scene.is_raised(), "limits are {}", scene.job.limits());
    scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
    scene.comes_back(bench, "it needs no more")?;
    let twice = format!("lend:{AMOUNT}B,lend:{AMOUNT}B");
    let refused = daemon.cli(&["set", "--group", &path, "--over", &line, "--do", &twice])?;
    ensure!(refused.code == 2 && refused.stderr.contains("lends once"), "{refused:?}");
    Ok("lent and taken back; not twice".to_owned())
}

/// Twice the limit is used, nobody is killed, and the limit is what it was once the job needs no more.
fn saves(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let daemon = bench.daemon(&rule(&scene.job, "", KILL_LATE))?;
    scene.demand(bench, &daemon)?;
    let event = lent(bench, &daemon)?;
    let held = daemon.ok(&["status"])?;
    ensure!(held.contains("lend") && held.contains("raised-limit"), "not in status:\n{held}");
    scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
    scene.comes_back(bench, "after relief")?;
    taken_back(bench, &daemon)?;
    daemon.no_event("a kill", Duration::from_millis(300), |event| event.order == "kill")?;
    Ok(format!("{event}; peak {}", scene.job.peak().map_or("unknown".into(), mib)))
}

/// With `memory.high` as the line: both are raised, the raised line does not relieve the rule, and both come back.
fn high(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    scene.job.set_high(LINE)?;
    scene.limits = scene.job.limits();
    let config = rule(&scene.job, "", KILL_LATE).replace(&format!("over = \"{LINE}B\""), "over = \"high\"");
    let daemon = bench.daemon(&config)?;
    scene.demand(bench, &daemon)?;
    lent(bench, &daemon)?;
    let raised: u64 = scene.job.read("memory.high")?.trim().parse()?;
    ensure!(raised == LINE + AMOUNT, "memory.high is {raised}");
    daemon.no_event("the end of the loan", Duration::from_millis(500), |event| event.order == "lend-end")?;
    scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
    scene.comes_back(bench, "after relief")?;
    Ok(String::new())
}

/// All of the host's memory is to stay: nothing is lent, and the next step comes at once, though it would have had to wait.
fn short(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let config = rule(&scene.job, "", KILL_LATE).replace("keep = \"1%\"", "keep = \"99%\"");
    let daemon = bench.daemon(&config)?;
    scene.hog.push("anon", LINE + 8 * MIB)?;
    let kill = daemon.event("a kill", bench.patience(), |event| event.order == "kill")?;
    ensure!(!scene.is_raised(), "limits are {}, were {}", scene.job.limits(), scene.limits);
    let said =
        daemon.event("why nothing was lent", bench.patience(), |event| event.reason.kind == "host-short")?;
    ensure!(said.order == "record" && said.episode == kill.episode && said.id < kill.id, "{said}; {kill}");
    let text = daemon.ok(&["explain", &kill.id.to_string()])?;
    ensure!(text.contains("of the host's memory can be spared"), "not explained:\n{text}");
    ensure!(daemon.events().iter().all(|event| event.order != "lend-begin"), "something was lent");
    Ok(said.reason.text)
}

/// The time is up while more is in use than the limit: the next step is at once, the limit follows what is in use, and nobody is killed for it.
fn due(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let then = "{ action = \"signal\", signal = \"SIGURG\", after = \"60s\" }";
    let budget = format!(", budget = \"{}s\"", 3 * bench.host.patience);
    let daemon = bench.daemon(&rule(&scene.job, &budget, then))?;
    scene.demand(bench, &daemon)?;
    let end = daemon.event("the end of its time", bench.patience(), |event| event.order == "lend-end")?;
    ensure!(end.reason.kind == "loan-due" && end.came_of_it() == "partial", "{end}");
    daemon.event("the next step at once", bench.patience(), |event| event.order == "signal")?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(scene.is_raised(), "the limit is under what is in use");
    scene.nobody_killed()?;
    // On v1 it is written when it can be; on v2 it follows what is in use.
    if bench.host.version == Version::V2 {
        let max = |job: &Group| job.read("memory.max").ok()?.trim().parse::<u64>().ok();
        let followed = max(&scene.job).is_some_and(|max| max < LIMIT + AMOUNT);
        ensure!(followed, "memory.max is {:?} with {} in use", max(&scene.job), mib(scene.job.usage()?));
    }
    scene.hog.ask(&format!("shrink {}", LIMIT - 16 * MIB))?;
    scene.comes_back(bench, "when the job has let go")?;
    taken_back(bench, &daemon)?;
    Ok(String::new())
}

/// Somebody sets a limit of his own while the loan is out: that stays.
fn administrator(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let daemon = bench.daemon(&rule(&scene.job, "", KILL_LATE))?;
    scene.demand(bench, &daemon)?;
    lent(bench, &daemon)?;
    scene.job.set_max(LIMIT + AMOUNT - 8 * MIB)?;
    let his = scene.job.limits();
    scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
    taken_back(bench, &daemon)?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(scene.job.limits() == his, "limits are {}, were set to {his}", scene.job.limits());
    let mut daemon = daemon;
    ensure!(daemon.terminate()? == 0, "{}", daemon.log_tail());
    daemon.wait_companions_gone()?;
    ensure!(scene.job.limits() == his, "at the end limits are {}, were set to {his}", scene.job.limits());
    scene.nobody_killed()?;
    Ok(String::new())
}

/// memgov ends while more is in use than the limit: its guardian stays until that can be put back, and nobody is killed.
fn ended(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    for kill in [true, false] {
        let mut daemon = bench.daemon(&rule(&scene.job, "", KILL_LATE))?;
        scene.demand(bench, &daemon)?;
        lent(bench, &daemon)?;
        if kill {
            daemon.kill9()?;
        } else {
            daemon.terminate()?;
        }
        std::thread::sleep(Duration::from_secs(2));
        ensure!(scene.is_raised(), "the limit is under what is in use");
        scene.nobody_killed()?;
        scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
        scene
            .comes_back(bench, if kill { "after kill -9" } else { "after SIGTERM" })
            .map_err(|error| anyhow!("{error:#}\n{}", daemon.log_tail()))?;
        daemon.wait_companions_gone()?;
    }
    Ok(String::new())
}

/// Nobody is left to take it back: the next run does, at once or when it can.
fn guardian_too(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    for in_use in [true, false] {
        let mut daemon = bench.daemon(&rule(&scene.job, "", KILL_LATE))?;
        scene.demand(bench, &daemon)?;
        lent(bench, &daemon)?;
        daemon.kill9_with_guardian()?;
        ensure!(scene.is_raised(), "nothing is left to undo");
        if !in_use {
            scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
        }
        let mut next = bench.quiet_daemon("", &[])?;
        if in_use {
            ensure!(scene.is_raised(), "the limit is under what is in use");
            scene.nobody_killed()?;
            scene.hog.ask(&format!("shrink {}", 16 * MIB))?;
        }
        scene.comes_back(bench, "under the next run").map_err(|error| next.explain(error))?;
        next.terminate()?;
        next.wait_companions_gone()?;
        ensure!(!scene.is_raised(), "at the end limits are {}", scene.job.limits());
    }
    Ok(String::new())
}
