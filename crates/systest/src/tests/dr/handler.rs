//! The step that tells a group's handler: a process that has registered for it is waited for, and nobody else is.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memgov_client::{Error, Handler, Memgov, Shortage};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::{Event, Run};
use crate::harness::group::Group;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until, process};

pub fn tests() -> Vec<Test> {
    let test = |name, run: fn(&mut Bench<'_>) -> Result<String>| Test::new(name, run).seconds(60);
    vec![
        test("dr_handler_frees_and_nobody_dies", frees),
        test("dr_handler_that_frees_nothing_is_late_or_goes_does_not_save_the_group", saves_nobody),
        test("dr_handler_is_one_for_a_group_and_outlives_its_daemon", one_for_a_group),
        test("dr_handler_that_is_not_there_makes_nobody_wait", nobody_is_there),
        test("dr_04_the_reserve_is_there_when_the_handler_is_told", reserve),
    ]
}

const LINE: u64 = 48 * MIB;
const HELD: u64 = 96 * MIB;

fn rule(group: &Group, within: &str) -> String {
    format!(
        "[[rule]]\nname = \"handler, then kill\"\ngroups = {:?}\nover = \"{LINE}B\"\n\
         do = [{{ action = \"handler\", within = {within:?} }}, {{ action = \"kill\", after = \"0s\" }}]\n",
        group.path()
    )
}

/// A group whose handler is this process.
struct Scene {
    job: Group,
    daemon: Daemon,
    memgov: Memgov,
    handler: Handler,
}

impl Scene {
    fn set(bench: &Bench<'_>, within: &str) -> Result<Self> {
        let job = bench.group("job")?;
        let daemon = bench.daemon(&rule(&job, within))?;
        let memgov = Memgov::at(daemon.socket());
        let handler = memgov.handler(&job.path()).context("registering as its handler")?;
        Ok(Self { job, daemon, memgov, handler })
    }

    /// A hog goes over the line, and the handler is told.
    fn short(&mut self, bench: &Bench<'_>) -> Result<(Agent, Shortage)> {
        let mut hog = bench.agent(&self.job, "hog")?;
        hog.push("anon", HELD)?;
        let told = told(bench, &mut self.handler).map_err(|error| self.daemon.explain(error))?;
        Ok((hog, told))
    }

    /// What came of it.
    fn ended(&self, bench: &Bench<'_>, told: &Shortage) -> Result<(Event, Run)> {
        super::ran(&self.daemon, told.number, bench.patience())
    }
}

/// Waits for the descriptor as a program would, then takes what there is.
fn told(bench: &Bench<'_>, handler: &mut Handler) -> Result<Shortage> {
    let end = Instant::now() + bench.patience();
    while Instant::now() < end {
        let fd = handler.as_fd();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let slice = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        if rustix::event::poll(&mut fds, Some(&slice))? > 0
            && let Some(told) = handler.try_next()?
        {
            return Ok(told);
        }
    }
    anyhow::bail!("the handler was not told")
}

fn frees(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench, "50s")?;
    let (mut hog, told) = scene.short(bench)?;
    ensure!(told.group == scene.job.path() && told.meter == "usage", "{told:?}");
    ensure!(told.line_bytes == LINE && told.meter_bytes > LINE && told.usage_bytes > Some(LINE), "{told:?}");
    ensure!(told.left > Duration::from_secs(20) && told.left <= Duration::from_secs(50), "{told:?}");
    let status = scene.daemon.ok(&["status"])?;
    ensure!(status.contains(&format!("handler of #{} is waited for", told.number)), "{status}");
    // Longer than the kill would wait, which is not at all.
    std::thread::sleep(Duration::from_secs(1));
    ensure!(scene.handler.try_next()?.is_none(), "told twice of one shortage");
    hog.ask(&format!("shrink {}", 32 * MIB))?;
    scene.memgov.handled(told.number)?;
    let (event, run) = scene.ended(bench, &told)?;
    ensure!(run.ended == "handled" && run.took_ns >= 1_000_000_000 && event.order == "hook", "{event}");
    scene.daemon.event("relief", bench.patience(), |event| event.order == "relieved")?;
    scene.daemon.no_event("a kill", Duration::from_secs(1), |event| event.order == "kill")?;
    ensure!(process::is_alive(hog.pid), "the job is dead");
    let again = scene.memgov.handled(told.number);
    ensure!(again.as_ref().is_err_and(|error| error.errno() == libc::ENOENT), "believed twice: {again:?}");
    // The next shortage is told to the same handler.
    hog.push("anon", HELD)?;
    let next = self::told(bench, &mut scene.handler).map_err(|error| scene.daemon.explain(error))?;
    ensure!(next.number > told.number, "{next:?} after {told:?}");
    hog.ask(&format!("shrink {}", 32 * MIB))?;
    scene.memgov.handled(next.number)?;
    scene.daemon.no_event("a kill", Duration::from_secs(1), |event| event.order == "kill")?;
    let explained = scene.daemon.ok(&["explain", &told.number.to_string()])?;
    ensure!(explained.contains("handled after"), "{explained}");
    Ok(event.to_string())
}

fn saves_nobody(bench: &mut Bench<'_>) -> Result<String> {
    let mut said = Vec::new();
    for expected in ["handled", "late", "gone"] {
        // A word within its time is not to be a question of how fast this machine is.
        let mut scene = Scene::set(bench, if expected == "late" { "2s" } else { "50s" })?;
        let (mut hog, told) = scene.short(bench)?;
        match expected {
            "handled" => scene.memgov.handled(told.number)?,
            // Its connection ends.
            "gone" => {
                let other = bench.group("other")?.path();
                scene.handler = scene.memgov.handler(&other).context("as the handler of another group")?;
            }
            _ => {}
        }
        super::dies(&scene.daemon, &mut hog, bench.patience())?;
        let (_, run) = scene.ended(bench, &told)?;
        ensure!(run.ended == expected, "expected {expected}: {run:?}");
        ensure!(expected != "late" || run.took_ns >= 2_000_000_000, "{run:?}");
        let too_late = scene.memgov.handled(told.number);
        ensure!(too_late.is_err_and(|error| error.errno() == libc::ENOENT), "believed after the end");
        scene
            .daemon
            .event("relief", bench.patience(), |event| event.order == "relieved" && event.id > told.number)?;
        said.push(format!("{expected} after {:?}", Duration::from_nanos(run.took_ns)));
    }
    Ok(said.join(", "))
}

fn one_for_a_group(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench, "50s")?;
    let path = scene.job.path();
    let errno = |result: Result<Handler, Error>| result.map_err(|error| error.errno()).err();
    ensure!(errno(scene.memgov.handler(&path)) == Some(libc::EBUSY), "a second handler");
    ensure!(errno(scene.memgov.handler("/not/there")) == Some(libc::ENOENT), "of no group");
    let (mut hog, told) = scene.short(bench)?;
    scene.daemon.kill9()?;
    scene.daemon.wait_companions_gone()?;
    let closed = poll_until(bench.patience(), Duration::from_millis(5), || scene.handler.try_next().err());
    ensure!(matches!(closed, Some(Error::Closed)), "its daemon is dead: {closed:?}");
    ensure!(process::is_alive(hog.pid), "the job died of its daemon's death");
    let gone = scene.memgov.handled(told.number);
    ensure!(matches!(gone, Err(Error::NotRunning { .. } | Error::Closed)), "{gone:?}");
    // Whoever is over the line when the next one begins, and has no handler yet, is killed at once.
    hog.ask(&format!("shrink {}", 32 * MIB))?;
    let mut next = Scene::set(bench, "50s").context("the next daemon")?;
    hog.push("anon", HELD)?;
    let anew = self::told(bench, &mut next.handler).map_err(|error| next.daemon.explain(error))?;
    Ok(format!("told as {} by the first daemon, as {} by the next", told.number, anew.number))
}

fn nobody_is_there(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&rule(&job, "50s"))?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.push("anon", HELD)?;
    super::dies(&daemon, &mut hog, bench.patience())?;
    let event = daemon.event("that nobody is there", bench.patience(), |event| {
        event.order == "hook" && event.came_of_it() == "refused"
    })?;
    ensure!(event.outcome.as_ref().and_then(|outcome| outcome.error.as_deref()) == Some("ESRCH"), "{event}");
    Ok(event.to_string())
}

/// The hard limit, what of it is kept for the handler's sake, and what is to be left beside that.
const LIMIT: u64 = 128 * MIB;
const RESERVE: u64 = 32 * MIB;
const LEFT: u64 = 16 * MIB;

fn reserve(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.set_max(LIMIT)?;
    let path = job.path();
    let daemon = bench.daemon(&format!(
        "[[group]]\nmatch = {path:?}\noom-reserve = \"{RESERVE}B\"\n[[rule]]\nname = \"kept\"\ngroups = {path:?}\nmeter = \"available\"\n\
         under = \"{LEFT}B\"\ndo = [{{ action = \"handler\", within = \"50s\" }}, {{ action = \"kill\", after = \"0s\" }}]\n"
    ))?;
    let memgov = Memgov::at(daemon.socket());
    let mut handler = memgov.handler(&path)?;
    let (mut hog, mut worker) = (bench.agent(&job, "hog")?, bench.agent(&job, "worker")?);
    hog.push("anon", LIMIT - RESERVE)?;
    let told = told(bench, &mut handler).map_err(|error| daemon.explain(error))?;
    ensure!(
        told.meter == "available" && told.line_bytes == LEFT && told.limit_bytes == Some(LIMIT),
        "{told:?}"
    );
    ensure!(told.meter_bytes < LEFT, "{told:?}: without the reserve so much is not left");
    // What the hog goes on to take is bounded by where it was told to stop; what is kept is there for who helps.
    worker.take("anon", RESERVE - 8 * MIB).context("a worker that writes out what is asked of it")?;
    let used = job.usage()?;
    ensure!(used > LIMIT - RESERVE - LEFT, "{used} of {LIMIT} used: nothing was short");
    ensure!(job.oom_kills()? == 0 && process::is_alive(hog.pid), "the kernel killed");
    worker.ask(&format!("shrink {MIB}"))?;
    hog.ask(&format!("shrink {}", 32 * MIB))?;
    memgov.handled(told.number)?;
    daemon.event("relief", bench.patience(), |event| event.order == "relieved")?;
    daemon.no_event("a kill", Duration::from_millis(500), |event| event.order == "kill")?;
    Ok(format!(
        "told with {} available and {} in use of {}",
        mib(told.meter_bytes),
        mib(told.usage_bytes.unwrap_or(0)),
        mib(LIMIT)
    ))
}
