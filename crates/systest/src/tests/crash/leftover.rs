//! The guardian killed as well: the ledger on disk is all there is, and `memgov restore` or the next start undoes it.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::{Action, Scene};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    let freezer: &[Need] = &[Need::Freezer];
    vec![
        Test::new("kill9_guardian_too_next_run_undoes_deny", |bench| next_run(bench, Action::Deny)),
        Test::new("kill9_guardian_too_next_run_undoes_slow", |bench| next_run(bench, Action::SlowProcess))
            .needs(freezer),
        Test::new("kill9_guardian_too_restore_undoes_deny", |bench| restore(bench, Action::Deny)),
        Test::new("kill9_guardian_too_restore_undoes_slow", |bench| restore(bench, Action::SlowProcess))
            .needs(freezer),
        Test::new("kill9_restore_dry_run_touches_nothing", restore_dry_run),
    ]
}

/// Leaves the action in force with nobody to undo it. The guardian goes first, or it would; the daemon stands still meanwhile, or
/// it would put up another.
fn leave_behind(bench: &Bench<'_>, action: Action) -> Result<(Scene, Daemon)> {
    let (scene, mut daemon) = Scene::under_way(bench, action)?;
    daemon.signal(libc::SIGSTOP)?;
    for guardian in daemon.companions() {
        signal::send(guardian, libc::SIGKILL)
            .map_err(|errno| anyhow!("killing the guardian: errno {errno}"))?;
    }
    daemon.kill9()?;
    daemon.wait_companions_gone()?;
    ensure!(scene.is_touched(bench), "nothing is left to undo: who did it?");
    Ok((scene, daemon))
}

fn next_run(bench: &mut Bench<'_>, action: Action) -> Result<String> {
    let (scene, _dead) = leave_behind(bench, action)?;
    let daemon = bench.quiet_daemon("", &[])?;
    let within = Duration::from_secs(1);
    bench
        .back_to(&scene.before, &scene.processes(), within, "the next start")
        .map_err(|error| daemon.explain(error))?;
    Ok(String::new())
}

fn restore(bench: &mut Bench<'_>, action: Action) -> Result<String> {
    let (scene, dead) = leave_behind(bench, action)?;
    let dir = dead.state_dir().display().to_string();
    let said = dead.ok(&["restore", "--state-dir", &dir, "--json"])?;
    serde_json::from_str::<serde_json::Value>(&said)
        .map_err(|error| anyhow!("restore --json: {error}: {said}"))?;
    bench.back_to(&scene.before, &scene.processes(), Duration::from_secs(1), "memgov restore")?;
    dead.ok(&["restore", "--state-dir", &dir])?;
    bench.back_to(&scene.before, &scene.processes(), Duration::ZERO, "memgov restore once more")?;
    Ok(String::new())
}

fn restore_dry_run(bench: &mut Bench<'_>) -> Result<String> {
    let (scene, dead) = leave_behind(bench, Action::Deny)?;
    let touched = bench.state(&scene.processes());
    let dir = dead.state_dir().display().to_string();
    let said = dead.ok(&["restore", "--state-dir", &dir, "--dry-run"])?;
    let differences = touched.differences(&bench.state(&scene.processes()));
    ensure!(differences.is_empty(), "a dry run changed: {differences:?}");
    dead.ok(&["restore", "--state-dir", &dir])?;
    bench.back_to(&scene.before, &scene.processes(), Duration::from_secs(1), "memgov restore")?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
