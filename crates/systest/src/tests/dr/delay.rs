//! v1: a group that meets its limit waits for what the rules do, with the kernel's OOM killer held off (`oom-delay`), and never for ever.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::jobs::Jobs;
use super::parent::LIMIT;
use super::{job_killed, kernel_kills, parent_rule};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::V1]).seconds(60);
    vec![
        test("dr_09_who_waits_goes_on_when_another_has_given_way", goes_on),
        test("dr_06_nobody_waits_longer_than_he_was_told", |bench| comes_back(bench, Why::NobodyGivesWay)),
        test("dr_06_stopped_daemon_gives_the_killer_back", |bench| comes_back(bench, Why::Stopped)),
        test("dr_06_kill9_gives_the_killer_back", |bench| comes_back(bench, Why::Killed)),
        test("dr_06_kill9_of_both_and_the_next_gives_the_killer_back", |bench| {
            comes_back(bench, Why::BothKilled)
        }),
    ]
}

/// So little has to be left that the limit is met first.
const UNDER: u64 = 64 << 10;
/// Taken at once.
const PIECE: u64 = 256 << 10;

/// `oom_kill_disable` and `under_oom` of a group.
fn switch(group: &Group) -> Result<(bool, bool)> {
    let text = group.read("memory.oom_control")?;
    let key = |key: &str| text.lines().any(|line| line == format!("{key} 1"));
    Ok((key("oom_kill_disable"), key("under_oom")))
}

/// Three jobs, of which the first and the second have half of the limit between them, under a daemon that holds the killer off.
fn held(bench: &Bench<'_>, delay: &str, settings: &str) -> Result<(Jobs, Daemon)> {
    let mut jobs = Jobs::start(bench)?;
    jobs.parent.set_max(LIMIT)?;
    let path = jobs.parent.path();
    let daemon = bench.daemon(&format!(
        "[memgov]\nlease = \"2s\"\n{settings}\n[[group]]\nmatch = {path:?}\noom-delay = {delay:?}\n\n{}{}",
        jobs.config([0; 3]),
        parent_rule(&path, UNDER),
    ))?;
    let off = poll_until(bench.patience(), Duration::from_millis(5), || {
        switch(&jobs.parent).ok().filter(|(off, _)| *off)
    });
    off.with_context(|| daemon.explain(anyhow::anyhow!("the kernel's killer is not held off")))?;
    ensure!(daemon.ok(&["status"])?.contains("oom-delay"), "{}", daemon.ok(&["status"])?);
    for at in [0, 1] {
        jobs.agents[at][0].take("anon", LIMIT / 4)?;
    }
    Ok((jobs, daemon))
}

/// The second job takes at full speed what is not there: the first gives way, and the second gets it, though it was asleep in the kernel.
fn goes_on(bench: &mut Bench<'_>) -> Result<String> {
    let before = kernel_kills()?;
    let (mut jobs, mut daemon) = held(bench, "10s", "")?;
    jobs.agents[1][0].grow("anon", PIECE, Duration::ZERO, LIMIT - 24 * MIB)?;
    let waits = poll_until(bench.patience(), Duration::from_micros(200), || {
        switch(&jobs.parent).ok().filter(|(_, waits)| *waits).map(|_| Instant::now())
    });
    let event = job_killed(bench, &daemon, &jobs.path(0))?;
    let took = waits.map(|since| since.elapsed());
    jobs.agents[1][0].note("full").context("who waited has not gone on")?;
    let (off, waits) = switch(&jobs.parent)?;
    ensure!(off && !waits, "held off: {off}; out of memory: {waits}");
    ensure!(kernel_kills()? == before && jobs.parent.oom_kills()? == 0, "the kernel's OOM killer acted");
    let allowed = Duration::from_secs(1) * bench.host.patience;
    ensure!(took.is_none_or(|took| took <= allowed), "it waited {took:?}");
    // The kernel has a group inherit that it has no killer.
    let late = bench.group("jobs/late")?;
    let given =
        poll_until(bench.patience(), Duration::from_millis(5), || switch(&late).ok().filter(|(off, _)| !off));
    given.context("a group made meanwhile has no killer")?;
    daemon.terminate()?;
    ensure!(!switch(&jobs.parent)?.0, "the killer is held off by nobody");
    Ok(match took {
        Some(took) => format!("{event}, seen dead {took:.0?} after it was seen to wait"),
        None => format!("{event}, before it was seen to wait"),
    })
}

/// What becomes of the daemon, or of whom it would kill.
#[derive(Clone, Copy, PartialEq)]
enum Why {
    NobodyGivesWay,
    Stopped,
    Killed,
    BothKilled,
}

/// Whatever happens, the kernel has its killer back within the delay or the lease, and uses it.
fn comes_back(bench: &mut Bench<'_>, why: Why) -> Result<String> {
    let before = kernel_kills()?;
    let never = match why {
        Why::NobodyGivesWay => "never = [\"hog10\", \"by10\", \"hog20\", \"by20\", \"hog30\", \"by30\"]",
        _ => "",
    };
    let (mut jobs, mut daemon) = held(bench, "1500ms", never)?;
    let begin = Instant::now();
    let heirs = |bench: &Bench<'_>| anyhow::Ok([bench.group("jobs/late")?, bench.group("jobs/late/later")?]);
    let mut late = Vec::new();
    match why {
        Why::NobodyGivesWay => {}
        Why::Stopped => {
            daemon.signal(libc::SIGSTOP)?;
            late.extend(heirs(bench)?);
        }
        Why::Killed => {
            late.extend(heirs(bench)?);
            daemon.kill9()?;
        }
        Why::BothKilled => {
            daemon.kill9_with_guardian()?;
            late.extend(heirs(bench)?);
            ensure!(switch(&late[1])?.0, "this kernel has no group inherit it");
            ensure!(switch(&jobs.parent)?.0, "nobody was there to give it back");
            daemon = bench.quiet_daemon("", &[])?;
        }
    }
    jobs.agents[1][0].grow("anon", PIECE, Duration::ZERO, LIMIT + 64 * MIB)?;
    let parent = jobs.parent.clone();
    let back = poll_until(bench.patience(), Duration::from_millis(2), || {
        switch(&parent).ok().filter(|(off, _)| !off).map(|_| begin.elapsed())
    });
    let back = back.with_context(|| format!("still held off: {:?}", switch(&parent)))?;
    let killed = poll_until(bench.patience(), Duration::from_millis(2), || {
        (kernel_kills().ok()? > before).then(|| begin.elapsed())
    });
    let killed = killed.context("the kernel has killed nobody")?;
    for heir in &late {
        ensure!(!switch(heir)?.0, "{} has inherited that it has no killer", heir.path());
    }
    let allowed = Duration::from_secs(4) * bench.host.patience;
    ensure!(back <= allowed, "the killer came back after {back:?}");
    if why == Why::Stopped {
        daemon.signal(libc::SIGCONT)?;
    }
    Ok(format!("the kernel had it back after {back:.0?}, and killed {killed:.0?} after"))
}
