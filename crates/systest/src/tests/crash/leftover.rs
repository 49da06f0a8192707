//! The guardian killed as well: the ledger on disk is all there is, and `memgov restore` or the next start undoes it.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::{Action, Scene};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::Need;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let freezer: &[Need] = &[Need::Freezer];
    vec![
        Test::new("kill9_guardian_too_next_run_undoes_deny", |bench| next_run(bench, Action::Deny)),
        Test::new("kill9_guardian_too_next_run_undoes_slow", |bench| next_run(bench, Action::SlowProcess))
            .needs(freezer),
        Test::new("kill9_guardian_too_restore_undoes_deny", |bench| restore(bench, Action::Deny)),
        Test::new("kill9_guardian_too_restore_undoes_slow", |bench| restore(bench, Action::SlowProcess))
            .needs(freezer),
        Test::new("kill9_guardian_too_next_run_undoes_ask", |bench| next_run(bench, Action::Ask))
            .needs(freezer),
        Test::new("kill9_guardian_too_next_run_undoes_lend", |bench| next_run(bench, Action::Lend)),
        Test::new("kill9_guardian_too_restore_undoes_ask", |bench| restore(bench, Action::Ask))
            .needs(freezer),
        Test::new("kill9_guardian_too_restore_undoes_lend", |bench| restore(bench, Action::Lend)),
        Test::new("kill9_restore_dry_run_touches_nothing", restore_dry_run),
        Test::new("lost_ledger_next_run_undoes_slow", lost_next_run).needs(freezer),
        Test::new("lost_ledger_restore_undoes_slow", lost_restore).needs(freezer),
        Test::new("lost_ledger_of_a_living_memgov_is_left_alone", lost_alive).needs(freezer),
    ]
}

/// Leaves the action in force with nobody to undo it.
fn leave_behind(bench: &Bench<'_>, action: Action) -> Result<(Scene, Daemon)> {
    let (scene, mut daemon) = Scene::under_way(bench, action)?;
    daemon.kill9_with_guardian()?;
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

/// A ledger that is none: it tells of nothing, and what it told of is found by its name.
fn lost_next_run(bench: &mut Bench<'_>) -> Result<String> {
    let (scene, dead) = leave_behind(bench, Action::SlowProcess)?;
    std::fs::write(dead.state_dir().join("ledger"), [0x55; 8192])?;
    let daemon = bench.quiet_daemon("", &[])?;
    let within = Duration::from_secs(1);
    bench
        .back_to(&scene.before, &scene.processes(), within, "the next start, with a ledger of rubbish")
        .map_err(|error| daemon.explain(error))?;
    ensure!(daemon.log_tail().contains("in no ledger: hold group"), "not said:\n{}", daemon.log_tail());
    Ok(String::new())
}

fn lost_restore(bench: &mut Bench<'_>) -> Result<String> {
    let (scene, dead) = leave_behind(bench, Action::SlowProcess)?;
    std::fs::remove_file(dead.state_dir().join("ledger"))?;
    let touched = bench.state(&scene.processes());
    let dir = dead.state_dir().display().to_string();
    let said = dead.ok(&["restore", "--state-dir", &dir, "--dry-run"])?;
    ensure!(said.contains("memgov.hold-"), "restore --dry-run does not tell of the hold group: {said:?}");
    let differences = touched.differences(&bench.state(&scene.processes()));
    ensure!(differences.is_empty(), "restore --dry-run changed {}", differences.join("; "));
    let said = dead.ok(&["restore", "--state-dir", &dir])?;
    ensure!(said.contains("memgov.hold-") && said.contains("undone"), "restore said {said:?}");
    bench.back_to(&scene.before, &scene.processes(), Duration::from_secs(1), "memgov restore")?;
    let said = dead.ok(&["restore", "--state-dir", &dir])?;
    ensure!(said.contains("nothing to restore"), "restore once more said {said:?}");
    Ok(String::new())
}

/// Another state directory has no ledger either; whose pid is in the name is alive and a memgov.
fn lost_alive(bench: &mut Bench<'_>) -> Result<String> {
    let (scene, daemon) = Scene::under_way(bench, Action::SlowProcess)?;
    let elsewhere = bench.dir.join("elsewhere").display().to_string();
    let said = daemon.ok(&["restore", "--state-dir", &elsewhere])?;
    ensure!(said.contains("nothing to restore"), "restore beside a living memgov said {said:?}");
    ensure!(scene.is_touched(bench), "what the living memgov holds was let go");
    Ok(String::new())
}
