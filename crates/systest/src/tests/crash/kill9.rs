//! kill -9 of the daemon at many moments of every action: the guardian undoes at once what was under way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Action, LINE, Scene};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::{Need, Tier};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let freezer: &[Need] = &[Need::Freezer];
    vec![
        Test::new("kill9_every_step_of_deny", |bench| every_step(bench, Action::Deny)).seconds(90),
        Test::new("kill9_every_step_of_slow_group", |bench| every_step(bench, Action::SlowGroup))
            .needs(freezer)
            .seconds(90),
        Test::new("kill9_every_step_of_slow_process", |bench| every_step(bench, Action::SlowProcess))
            .needs(freezer)
            .seconds(90),
        Test::new("kill9_every_step_of_signal", |bench| every_step(bench, Action::Signal)).seconds(90),
        Test::new("kill9_every_step_of_kill", every_step_of_kill).seconds(90),
        Test::new("kill9_every_step_of_ask", |bench| every_step(bench, Action::Ask))
            .needs(freezer)
            .seconds(90),
        Test::new("kill9_every_step_of_lend", |bench| every_step(bench, Action::Lend)).seconds(90),
    ]
}

/// When the daemon is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the hog went over.
    Over(Duration),
    /// So long after something of the action is seen.
    Seen(Duration),
    /// So long after the hog has let go: while it is being undone.
    Ending(Duration),
    /// So long after SIGTERM: while everything is being undone.
    Terminating(Duration),
}

/// A kind of moment, and the time over which its delays are spread, in microseconds.
type Kind = (fn(Duration) -> Moment, u64);

/// How many of each kind: a daemon whose programs are loaded by an emulated processor takes seconds to start.
fn of_each(bench: &Bench<'_>) -> u64 {
    if bench.host.tier == Tier::Bpf { 2 } else { 6 }
}

/// So many of each kind, the delays spread without a pattern over the time each takes.
fn moments(each: u64) -> Vec<Moment> {
    let kinds: [Kind; 4] = [
        (Moment::Over, 60_000),
        (Moment::Seen, 110_000),
        (Moment::Ending, 30_000),
        (Moment::Terminating, 4_000),
    ];
    let spread =
        |kind: usize, at: u64, most: u64| (at * each + kind as u64).wrapping_mul(2_654_435_761) % most;
    let of = |(kind, (moment, most)): (usize, Kind)| {
        (0..each).map(move |at| moment(Duration::from_micros(spread(kind, at, most))))
    };
    kinds.into_iter().enumerate().flat_map(of).collect()
}

fn every_step(bench: &mut Bench<'_>, action: Action) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let rule = action.rule(&scene.job);
    let mut seen = 0;
    for moment in moments(of_each(bench)) {
        let mut daemon = bench.quiet_daemon(&rule, &[])?;
        scene.hog.say(&format!("grow anon 1048576 0 {}", LINE + 16 * MIB))?;
        // Signals leave nothing to be seen; the others must act.
        let visible = Duration::from_millis(if action == Action::Signal { 100 } else { 1000 });
        let touched = until(bench, &scene, moment, visible, &daemon);
        let touched = touched.with_context(|| format!("{moment:?}"))?;
        seen += u32::from(touched);
        finish(&mut scene, moment, &daemon)?;
        daemon.kill9()?;
        daemon.wait_companions_gone()?;
        let when = format!("kill -9 at {moment:?}");
        bench
            .back_to(&scene.before, &scene.processes(), Duration::from_secs(2), &when)
            .map_err(|e| daemon.explain(e))?;
        settle(&mut scene)?;
    }
    ensure!(action == Action::Signal || seen > 0, "the action was never seen under way: nothing was tried");
    Ok(format!("{} kills, {seen} of them with the action seen under way", moments(of_each(bench)).len()))
}

/// Waits for the moment; says whether the action could be seen then.
fn until(
    bench: &Bench<'_>,
    scene: &Scene,
    moment: Moment,
    visible: Duration,
    daemon: &Daemon,
) -> Result<bool> {
    let every = Duration::from_micros(200);
    if let Moment::Over(delay) = moment {
        let over = poll_until(bench.patience(), every, || (scene.job.usage().ok()? > LINE).then_some(()));
        over.context("the hog never went over")?;
        std::thread::sleep(delay);
    } else {
        let touched = poll_until(visible, every, || scene.is_touched(bench).then_some(()));
        if let (Moment::Seen(delay), Some(())) = (moment, touched) {
            std::thread::sleep(delay);
        }
    }
    if daemon.companions().is_empty() {
        return Err(daemon.explain(anyhow::anyhow!("the daemon has no guardian in its group")));
    }
    Ok(scene.is_touched(bench))
}

/// What comes just before the kill for the moments at the end of an action.
fn finish(scene: &mut Scene, moment: Moment, daemon: &Daemon) -> Result<()> {
    match moment {
        Moment::Ending(delay) => {
            scene.hog.say("shrink 0")?;
            std::thread::sleep(delay);
        }
        Moment::Terminating(delay) => {
            daemon.signal(libc::SIGTERM)?;
            std::thread::sleep(delay);
        }
        Moment::Over(_) | Moment::Seen(_) => {}
    }
    Ok(())
}

/// The hog answers what it was told meanwhile, and holds nothing any more.
fn settle(scene: &mut Scene) -> Result<()> {
    scene.hog.say("free")?;
    scene.hog.drain()?;
    let held = scene.hog.number("held")?;
    ensure!(held == 0, "the hog still holds {held}");
    Ok(())
}

/// The hogs die here, so each kill has its own, and the others of the scene are compared.
fn every_step_of_kill(bench: &mut Bench<'_>) -> Result<String> {
    let (job, beside) = (bench.group("job")?, bench.group("beside")?);
    let neighbour = bench.agent(&beside, "neighbour")?;
    bench.daemon_group()?;
    let before = bench.state(&[neighbour.pid]);
    let rule = Action::Kill.rule(&job);
    let mut died = 0;
    let kills = 4 * of_each(bench);
    for at in 0..kills {
        let mut daemon = bench.quiet_daemon(&rule, &[])?;
        let mut hog = bench.agent(&job, "hog")?;
        hog.say(&format!("grow anon 1048576 0 {}", LINE + 16 * MIB))?;
        let over = || (job.usage().ok()? > LINE || job.processes().is_empty()).then_some(());
        poll_until(bench.patience(), Duration::from_micros(200), over).context("the hog never went over")?;
        std::thread::sleep(Duration::from_micros(at.wrapping_mul(2_654_435_761) % 40_000));
        daemon.kill9()?;
        daemon.wait_companions_gone()?;
        let when = format!("kill -9, number {at}");
        bench
            .back_to(&before, &[neighbour.pid], Duration::from_secs(2), &when)
            .map_err(|error| daemon.explain(error))?;
        // Killed or not, nothing may be left half frozen: what lives must answer.
        if hog.wait_for_end(Duration::from_millis(30)).is_ok() {
            died += 1;
        } else {
            hog.say("free")?;
            hog.drain().map_err(|error| daemon.explain(error))?;
        }
    }
    Ok(format!("{kills} kills, the hog had died in {died}"))
}
