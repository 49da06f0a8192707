//! A daemon that hangs with something frozen, and one that is told to go.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::{Action, LINE, Scene};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let freezer: &[Need] = &[Need::Freezer];
    vec![
        Test::new("hung_daemon_group_is_thawed", |bench| hung(bench, Action::SlowGroup)).needs(freezer),
        Test::new("hung_daemon_process_is_thawed", |bench| hung(bench, Action::SlowProcess)).needs(freezer),
        Test::new("sigterm_restores_deny", |bench| sigterm(bench, Action::Deny)),
        Test::new("sigterm_restores_slow_group", |bench| sigterm(bench, Action::SlowGroup)).needs(freezer),
        Test::new("sigterm_restores_slow_process", |bench| sigterm(bench, Action::SlowProcess))
            .needs(freezer),
        Test::new("hung_daemon_group_asked_about_is_thawed", |bench| hung(bench, Action::Ask)).needs(freezer),
        Test::new("hung_daemon_loan_is_taken_back", |bench| hung(bench, Action::Lend)),
        Test::new("sigterm_restores_ask", |bench| sigterm(bench, Action::Ask)).needs(freezer),
        Test::new("sigterm_restores_lend", |bench| sigterm(bench, Action::Lend)),
    ]
}

const LEASE: Duration = Duration::from_secs(2);

/// Stops the daemon while the freezer is on, or the limit raised. A stop comes a moment after it is sent, so it is tried until it fits.
fn stop_in_force(bench: &Bench<'_>, scene: &Scene, daemon: &Daemon, action: Action) -> Result<()> {
    let is_in_force = || match action {
        Action::Lend => scene.is_touched(bench),
        _ => bench.top.is_frozen(),
    };
    let stopped = poll_until(bench.patience(), Duration::from_micros(300), || {
        if !is_in_force() {
            return None;
        }
        daemon.signal(libc::SIGSTOP).ok()?;
        std::thread::sleep(Duration::from_millis(5));
        if is_in_force() {
            return Some(());
        }
        daemon.signal(libc::SIGCONT).ok()?;
        None
    });
    let state = || scene.before.differences(&bench.state(&scene.processes())).join("; ");
    stopped.ok_or_else(|| daemon.explain(anyhow!("never caught with it in force; changed: {}", state())))
}

fn hung(bench: &mut Bench<'_>, action: Action) -> Result<String> {
    let mut scene = Scene::set(bench)?;
    let mut daemon = bench.quiet_daemon(&action.rule(&scene.job), &[])?;
    scene.hog.say(&format!("grow anon 1048576 0 {}", LINE + 16 * MIB))?;
    stop_in_force(bench, &scene, &daemon, action)?;
    let begin = Instant::now();
    // On an emulated processor this catches only what never comes; the criterion is judged on the host's.
    let allowed = LEASE + Duration::from_millis(1500) * bench.host.patience;
    bench
        .back_to(&scene.before, &scene.processes(), allowed, "the daemon hangs, lease 2s")
        .map_err(|error| daemon.explain(error))?;
    let took = begin.elapsed();
    scene.hog.drain()?;
    let dead =
        poll_until(bench.patience(), Duration::from_millis(5), || (!daemon.is_running()).then_some(()));
    ensure!(dead.is_some(), "a daemon that hangs is killed by its guardian; it still runs");
    Ok(format!("undone after {took:?}"))
}

fn sigterm(bench: &mut Bench<'_>, action: Action) -> Result<String> {
    let (scene, mut daemon) = Scene::under_way(bench, action)?;
    let begin = Instant::now();
    let code = daemon.terminate()?;
    let took = begin.elapsed();
    ensure!(code == 0, "expected exit code 0, got {code}\n{}", daemon.log_tail());
    bench
        .back_to(&scene.before, &scene.processes(), Duration::ZERO, "SIGTERM")
        .map_err(|e| daemon.explain(e))?;
    daemon.wait_companions_gone()?;
    Ok(format!("gone after {took:?}"))
}
