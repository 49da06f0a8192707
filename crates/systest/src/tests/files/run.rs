//! The files as `memgov run` mounts them itself: in its state directory, elsewhere, or not; and gone with it, however it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::host::Need;
use crate::harness::poll_until;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files_come_with_memgov_run", come).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_go_with_memgov_run", go).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_are_mounted_anew_by_memgov_run", anew).needs(&[Need::Fuse]).seconds(60),
    ]
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.contains(&format!(" {} ", dir.display()))
}

/// The file that says something of the daemon itself, once it is there.
fn reads(bench: &Bench<'_>, dir: &Path) -> Result<String> {
    let file = dir.join(format!("process/{}/memctl", std::process::id()));
    let read = poll_until(bench.patience(), Duration::from_millis(5), || fs::read_to_string(&file).ok());
    read.with_context(|| format!("{} cannot be read", file.display()))
}

fn gone(bench: &Bench<'_>, dir: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let gone = poll_until(bench.patience(), Duration::from_millis(5), || (!is_mounted(dir)).then_some(()));
    gone.with_context(|| format!("{} is still mounted", dir.display()))?;
    Ok(begin.elapsed())
}

/// Where it mounts by itself.
fn by_itself(daemon: &Daemon) -> PathBuf {
    daemon.state_dir().join("fs")
}

fn come(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon_with_files("", &[])?;
    let dir = by_itself(&daemon);
    ensure!(reads(bench, &dir)? == "0 0 0\n");
    drop(daemon);
    gone(bench, &dir)?;
    let here = bench.dir.join("here");
    let config = format!("[memgov]\nfiles = \"{}\"\n", here.display());
    let daemon = bench.daemon_with_files(&config, &[])?;
    reads(bench, &here)?;
    ensure!(!is_mounted(&dir), "in two places");
    drop(daemon);
    gone(bench, &here)?;
    let there = bench.dir.join("there");
    let daemon = bench.daemon_with_files(&config, &["--files", &there.display().to_string()])?;
    reads(bench, &there)?;
    drop(daemon);
    gone(bench, &there)?;
    let nowhere: [(&str, &[&str]); 3] =
        [("", &["--no-files"]), ("[memgov]\nfiles = \"off\"\n", &[]), ("", &["--dry-run"])];
    for (config, arguments) in nowhere {
        let daemon = bench.daemon_with_files(config, arguments)?;
        // Who starts it does so before it is ready.
        daemon.ok(&["status"])?;
        let started = server(&daemon);
        ensure!(started.is_none(), "{config:?} {arguments:?}: {started:?} was started");
    }
    Ok("by itself, by the configuration, by --files; not with --no-files, \"off\" or --dry-run".into())
}

fn go(bench: &mut Bench<'_>) -> Result<String> {
    let mut took = Vec::new();
    let mut daemon = bench.daemon_with_files("", &[])?;
    let dir = by_itself(&daemon);
    reads(bench, &dir)?;
    ensure!(daemon.terminate()? == 0, "its exit code");
    ensure!(!is_mounted(&dir), "it is still mounted after an orderly end");
    let mut daemon = bench.daemon_with_files("", &[])?;
    reads(bench, &dir)?;
    let held = fs::File::open(dir.join(format!("process/{}/memctl", std::process::id())))?;
    daemon.kill9()?;
    took.push(gone(bench, &dir)?);
    daemon.wait_companions_gone()?;
    drop(held);
    let daemon = bench.daemon_with_files("", &[])?;
    reads(bench, &dir).context("with a daemon again")?;
    drop(daemon);
    took.push(gone(bench, &dir)?);
    Ok(format!("unmounted {:.1?} after kill -9", took[0]))
}

fn anew(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon_with_files("", &[])?;
    let dir = by_itself(&daemon);
    reads(bench, &dir)?;
    let first = server(&daemon).context("no memgov-files was started")?;
    crate::sys::signal::send(first, libc::SIGKILL).map_err(|errno| anyhow::anyhow!("errno {errno}"))?;
    let second = poll_until(bench.patience(), Duration::from_millis(5), || {
        server(&daemon).filter(|&pid| pid != first)
    });
    let second = second.context("no other was started")?;
    reads(bench, &dir).context("mounted anew")?;
    // Started by a memgov that has put on what it needs for itself.
    let score = fs::read_to_string(format!("/proc/{second}/oom_score_adj"))?;
    ensure!(score.trim() == "0", "its OOM score is memgov's: {score}");
    ensure!(daemon.ok(&["status"])?.contains("memgov"), "memgov does not govern on");
    Ok(format!("{first}, then {second}"))
}

/// The process that serves the files of this daemon.
fn server(daemon: &Daemon) -> Option<i32> {
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    daemon.companions().into_iter().find(|&pid| name(pid).trim() == "memgov-files")
}
