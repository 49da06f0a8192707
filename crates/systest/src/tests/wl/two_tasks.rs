//! WL 10: two tasks of one group get each their own, others nothing; and whose task it is decides who may set it.

use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::bench::{Bench, Rig, expect_probe, word};
use crate::harness::host::NOBODY;
use crate::harness::run::Test;
use crate::harness::{MIB, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_10_two_tasks_deny_first", |bench| two_tasks(bench, MIB, 4 * MIB)).seconds(60),
        Test::new("wl_10_two_tasks_signal_first", |bench| two_tasks(bench, 4 * MIB, MIB)).seconds(60),
        Test::new("wl_10_two_tasks_and_permissions", permissions),
        Test::new("wl_10_delegated_group_within_its_limits", delegated),
    ]
}

/// One is to be denied, one signalled, at different climits; a third grows the group over both lines, and gets nothing.
fn two_tasks(bench: &mut Bench<'_>, deny_at: u64, signal_at: u64) -> Result<String> {
    let mut rig = Rig::start(bench)?;
    let (mut denied, mut signalled) = (bench.agent(&rig.job, "denied")?, bench.agent(&rig.job, "signalled")?);
    signalled.ask("count 12")?;
    let before = process::limits(rig.hog.pid);
    rig.daemon.set_memctl(denied.pid, word::DENY, deny_at, 0)?;
    rig.daemon.set_memctl(signalled.pid, word::SIGNAL | word::signal(12), signal_at, 0)?;
    rig.grow(106 * MIB)?;
    let long = bench.patience() * 3;
    let deny = rig
        .daemon
        .event("deny-begin of one", long, |event| event.order == "deny-begin" && event.is_of(denied.pid))?;
    let signal = rig
        .daemon
        .event("signal to the other", long, |event| event.order == "signal" && event.is_of(signalled.pid))?;
    let deny_first = deny.monotonic_ns < signal.monotonic_ns;
    ensure!(deny_first == (deny_at < signal_at), "the order is not that of the lines: {deny}; {signal}");
    expect_probe(bench, &mut denied, "the denied one", libc::ENOMEM)?;
    expect_probe(bench, &mut signalled, "the signalled one", 0)?;
    let count = signalled.number("counted 12")?;
    ensure!(count == 1, "expected 1 signal, got {count}");
    ensure!(
        process::limits(rig.hog.pid) == before,
        "the unset one was touched: {:?}",
        process::limits(rig.hog.pid)
    );
    rig.daemon.no_event("of the unset one", Duration::ZERO, |event| event.is_of(rig.hog.pid))?;
    Ok(String::new())
}

fn permissions(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::start(bench)?;
    let mut own = bench.agent(&rig.job, "own")?;
    own.ask(&format!("become {NOBODY}"))?;
    let (own_pid, other_pid) = (own.pid.to_string(), rig.hog.pid.to_string());
    let limits = |file: &str| rig.job.read(file).ok();
    let before = (limits("memory.high"), limits("memory.max"), limits("memory.limit_in_bytes"));
    let path = rig.job.path();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["set", "--pid", &own_pid, "--memctl", "1 8388608 0"], 0, "its own process"),
        (&["get", "--pid", &own_pid, "--memctl"], 0, "reading its own"),
        (&["set", "--pid", &other_pid, "--memctl", "4 0 0"], 4, "root's process"),
        (&["clear", "--pid", &other_pid], 4, "clearing root's process"),
        (&["set", "--group", &path, "--over", "1GiB", "--do", "kill"], 4, "a group it does not own"),
        (&["reload"], 4, "reload"),
    ];
    for (arguments, code, what) in cases {
        let output = rig.daemon.cli_as(NOBODY, arguments)?;
        let said = output.stderr.trim();
        ensure!(
            output.code == code,
            "{what}, as uid {NOBODY}: expected exit code {code}, got {} ({said})",
            output.code
        );
    }
    let got = rig.daemon.memctl(own.pid)?;
    ensure!(got == "1 8388608 0\n", "what it set on itself: got {got:?}");
    let after = (limits("memory.high"), limits("memory.max"), limits("memory.limit_in_bytes"));
    ensure!(before == after, "limits of the group: expected {before:?}, got {after:?}");
    Ok(format!("{} cases", cases.len()))
}

fn delegated(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::start(bench)?;
    rig.job.set_max(200 * MIB)?;
    let file = if rig.job.dir().join("memory.max").exists() { "memory.max" } else { "memory.limit_in_bytes" };
    let before = rig.job.read(file)?;
    rig.job.dirs().iter().try_for_each(|dir| chown(dir, Some(NOBODY), Some(NOBODY)))?;
    let path = rig.job.path();
    let set =
        |over: &str| rig.daemon.cli_as(NOBODY, &["set", "--group", &path, "--over", over, "--do", "record"]);
    let output = set("64MiB")?;
    ensure!(
        output.code == 0,
        "its own group under its limit: expected 0, got {} ({})",
        output.code,
        output.stderr.trim()
    );
    let output = set("4GiB")?;
    ensure!(
        output.code == 4,
        "beyond the limit above it: expected 4, got {} ({})",
        output.code,
        output.stderr.trim()
    );
    rig.hog.take("anon", 70 * MIB)?;
    let event =
        rig.daemon.event("the record it asked for", bench.patience(), |event| event.is_of_group(&path))?;
    ensure!(event.order == "record", "expected record, got {event}");
    let after = rig.job.read(file)?;
    ensure!(before == after, "{file}: expected {before:?}, got {after:?}");
    Ok(String::new())
}
