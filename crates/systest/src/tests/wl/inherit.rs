//! WL 8: fork, clone and exec keep the settings; a child starts un-flagged.

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, CLIMIT, expect_probe, word};
use crate::harness::daemon::Daemon;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_08_fork_keeps_the_settings", fork),
        Test::new("wl_08_double_fork_keeps_the_settings", double_fork),
        Test::new("wl_08_thread_keeps_the_settings", thread),
        Test::new("wl_08_exec_keeps_the_settings", exec),
        Test::new("wl_08_child_starts_unflagged", unflagged),
    ]
}

const SETTINGS: u32 = word::DENY | word::ANON | word::LOG;

fn start(bench: &Bench<'_>) -> Result<(Daemon, Agent, String)> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let parent = bench.agent(&job, "parent")?;
    daemon.set_memctl(parent.pid, SETTINGS, CLIMIT, 5 * MIB)?;
    let settings = daemon.memctl(parent.pid)?;
    Ok((daemon, parent, settings))
}

/// Inheritance travels by an event of the kernel: it may take a moment, not more.
fn expect_same(bench: &Bench<'_>, daemon: &Daemon, pid: i32, settings: &str) -> Result<()> {
    let mut last = String::new();
    let same = poll_until(bench.patience() / 10, std::time::Duration::from_millis(20), || {
        let output = daemon.cli(&["get", "--pid", &pid.to_string(), "--memctl"]).ok()?;
        last = format!("exit code {} {}{}", output.code, output.stdout, output.stderr);
        (output.stdout == settings).then_some(())
    });
    ensure!(same.is_some(), "expected {settings:?} of {pid}, got {last}\n{}", daemon.log_tail());
    Ok(())
}

fn fork(bench: &mut Bench<'_>) -> Result<String> {
    let (daemon, mut parent, settings) = start(bench)?;
    let mut child = parent.offspring("fork", &bench.dir)?;
    expect_same(bench, &daemon, child.pid, &settings)?;
    let grandchild = child.offspring("fork", &bench.dir)?;
    expect_same(bench, &daemon, grandchild.pid, &settings)?;
    daemon.set_memctl(parent.pid, word::KILL, 0, 0)?;
    expect_same(bench, &daemon, child.pid, &settings)?;
    Ok("child and grandchild, and a later change of the parent is its own".to_owned())
}

/// As daemons do it: the process between is gone at once, and its child is an orphan.
fn double_fork(bench: &mut Bench<'_>) -> Result<String> {
    let (daemon, mut parent, settings) = start(bench)?;
    let mut between = parent.offspring("fork", &bench.dir)?;
    let orphan = between.offspring("fork", &bench.dir)?;
    between.say("exit 0")?;
    parent.ask(&format!("reap {}", between.pid))?;
    let ppid = process::status(orphan.pid, "PPid");
    ensure!(ppid.as_deref() != Some(&between.pid.to_string()), "the orphan's parent is still {ppid:?}");
    expect_same(bench, &daemon, orphan.pid, &settings)?;
    Ok(String::new())
}

fn thread(bench: &mut Bench<'_>) -> Result<String> {
    let (daemon, mut parent, settings) = start(bench)?;
    let thread = parent.offspring("thread", &bench.dir)?;
    ensure!(thread.pid == parent.pid && thread.tid != parent.tid, "no thread of its own");
    expect_same(bench, &daemon, parent.pid, &settings)?;
    Ok("the process is what is governed: its threads share the settings".to_owned())
}

fn exec(bench: &mut Bench<'_>) -> Result<String> {
    let (daemon, mut parent, settings) = start(bench)?;
    let pid = parent.pid;
    parent.exec()?;
    ensure!(parent.pid == pid, "exec made another process");
    expect_same(bench, &daemon, pid, &settings)?;
    let mut child = parent.offspring("fork", &bench.dir)?;
    child.exec()?;
    expect_same(bench, &daemon, child.pid, &settings)?;
    Ok(String::new())
}

/// Only the own memory counts (DIRECT), so that parent and child differ: the parent is over, the child soon is not.
fn unflagged(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut parent = bench.agent(&job, "parent")?;
    let free = process::limits(parent.pid);
    daemon.set_memctl(parent.pid, word::DENY | word::DIRECT | word::ANON, 0, 32 * MIB)?;
    parent.grow("anon", MIB, std::time::Duration::from_millis(40), 200 * MIB)?;
    parent.note("refused").map_err(|error| daemon.explain(error))?;
    parent.ask("stop")?;
    let denied = process::limits(parent.pid);
    ensure!(denied != free, "the parent's limits are as before: {free:?}");
    let mut child = parent.offspring("fork", &bench.dir)?;
    child.ask("free")?;
    bench.await_calls(&mut child, &daemon, "allowed")?;
    ensure!(
        process::limits(child.pid) == free,
        "the child's limits: expected {free:?}, got {:?}",
        process::limits(child.pid)
    );
    expect_probe(bench, &mut parent, "the parent, still over", libc::ENOMEM)?;
    Ok(String::new())
}
