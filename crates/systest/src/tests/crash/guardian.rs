//! The guardian killed and the daemon alive: another takes its place, and does what the first would have done.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::{Action, Scene};
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::Need;
use crate::harness::poll_until;
use crate::harness::run::Test;
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    let freezer: &[Need] = &[Need::Freezer];
    vec![
        Test::new("guardian_killed_the_next_undoes_deny", |bench| replaced(bench, Action::Deny)),
        Test::new("guardian_killed_the_next_undoes_slow", |bench| replaced(bench, Action::SlowProcess))
            .needs(freezer),
        Test::new("guardian_killed_the_next_undoes_ask", |bench| replaced(bench, Action::Ask)).needs(freezer),
        Test::new("guardian_killed_the_next_undoes_lend", |bench| replaced(bench, Action::Lend)),
        Test::new("guardian_that_dies_again_and_again_is_given_up", given_up),
    ]
}

/// Kills the guardian and gives it.
fn kill(daemon: &Daemon) -> Result<i32> {
    let companions = daemon.companions();
    let [guardian] = companions[..] else {
        return Err(daemon.explain(anyhow!("expected one guardian, found {companions:?}")));
    };
    signal::send(guardian, libc::SIGKILL).map_err(|errno| anyhow!("killing the guardian: errno {errno}"))?;
    Ok(guardian)
}

/// Waits until the daemon says that it has another guardian than this, or none.
fn await_status(
    bench: &Bench<'_>,
    daemon: &Daemon,
    wanted: impl Fn(Option<i32>) -> bool,
) -> Result<Option<i32>> {
    let found = poll_until(bench.patience(), Duration::from_millis(5), || {
        daemon.guardian().ok().filter(|guardian| wanted(*guardian))
    });
    found
        .ok_or_else(|| daemon.explain(anyhow!("the guardian in `status` stays {:?}", daemon.guardian().ok())))
}

fn replaced(bench: &mut Bench<'_>, action: Action) -> Result<String> {
    let (scene, mut daemon) = Scene::under_way(bench, action)?;
    let first = kill(&daemon)?;
    let second = await_status(bench, &daemon, |pid| pid.is_some_and(|pid| pid != first))?;
    ensure!(
        daemon.companions() == second.into_iter().collect::<Vec<_>>(),
        "who is {:?}?",
        daemon.companions()
    );
    ensure!(!PathBuf::from(format!("/proc/{first}")).exists(), "the dead guardian was not waited for");
    ensure!(daemon.log_tail().contains("has died"), "not said:\n{}", daemon.log_tail());
    ensure!(daemon.is_running() && scene.is_touched(bench), "the death of the guardian has undone something");
    daemon.kill9()?;
    daemon.wait_companions_gone()?;
    bench
        .back_to(
            &scene.before,
            &scene.processes(),
            Duration::from_secs(2),
            "kill -9 under the second guardian",
        )
        .map_err(|error| daemon.explain(error))?;
    Ok(String::new())
}

fn given_up(bench: &mut Bench<'_>) -> Result<String> {
    let mut daemon = bench.quiet_daemon("", &[])?;
    for _ in 0..2 {
        let dead = kill(&daemon)?;
        await_status(bench, &daemon, |pid| pid.is_some_and(|pid| pid != dead))?;
    }
    kill(&daemon)?;
    await_status(bench, &daemon, |pid| pid.is_none())?;
    let said = poll_until(bench.patience(), Duration::from_millis(5), || {
        daemon.log_tail().contains("no other is started").then_some(())
    });
    ensure!(said.is_some(), "not said:\n{}", daemon.log_tail());
    std::thread::sleep(Duration::from_millis(500));
    ensure!(daemon.companions().is_empty(), "another was started: {:?}", daemon.companions());
    let code = daemon.terminate()?;
    ensure!(code == 0, "expected exit code 0, got {code}\n{}", daemon.log_tail());
    Ok(String::new())
}
