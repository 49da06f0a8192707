//! JW 1 and 10: what sockets hold is known, by group and by socket; where nobody counts it is not known, and never 0.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{counting_daemon, rule, status};
use crate::harness::bench::Bench;
use crate::harness::host::Version;
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, mib, poll_until};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("jw_01_accounting_agrees_with_the_kernel_and_by_socket", flood),
        Test::new("jw_01_sockets_of_groups_below_count", below),
        Test::new("jw_10_unaccounted_is_not_zero", unaccounted),
    ]
}

/// A flood over 64 connections that nobody reads: group, sockets and rule say the same, and nothing is left of it when it is closed.
fn flood(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let job = bench.group("job")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", 8 * MIB, "\"record\""))?;
    let mut agent = bench.agent(&job, "flooder")?;
    agent.ask("flood 64")?;
    let path = job.path();
    let event = daemon
        .event("record", bench.patience(), |event| event.order == "record" && event.is_of_group(&path))?;
    let full = poll_until(bench.patience(), Duration::from_millis(100), || {
        let (before, _) = (job.sockets().ok()?, std::thread::sleep(Duration::from_millis(700)));
        let after = job.sockets().ok()?;
        (after > 16 * MIB && after.abs_diff(before) < after / 100).then_some(after)
    });
    ensure!(full.is_some(), "the flood never came to rest: {}", mib(job.sockets()?));
    let (said, charged) = (status(&daemon, &job)?, job.sockets()?);
    let of = |key: &str| said[key].as_u64().unwrap_or(0);
    let by_socket = of("receive_bytes") + of("send_bytes");
    let told = of("charged_bytes");
    ensure!(told.abs_diff(charged) <= charged / 10, "the kernel says {charged}, memgov {told}");
    ensure!(
        by_socket.abs_diff(charged) <= charged / 10,
        "the kernel says {charged}, its sockets {by_socket}"
    );
    let sockets = said["sockets"].as_array().map_or(0, Vec::len);
    ensure!(sockets >= 128, "{sockets} sockets listed: {said}");
    let first = &said["sockets"][0];
    ensure!(first["kind"] == "tcp" && first["state"] == "established", "the largest is {first}");
    ensure!(first["holders"][0]["pid"] == agent.pid, "held by {}", first["holders"]);
    agent.ask("flood-end")?;
    daemon
        .event("relief", bench.patience(), |event| event.order == "relieved" && event.is_of_group(&path))?;
    let gone = poll_until(bench.patience(), Duration::from_millis(50), || {
        job.sockets().ok().filter(|left| *left < MIB / 4)
    });
    ensure!(gone.is_some(), "{} are left when all is closed", mib(job.sockets()?));
    Ok(format!(
        "charged {}, by socket {} in {sockets}; the rule said: {}",
        mib(charged),
        mib(by_socket),
        event.reason.text
    ))
}

/// What a group below holds counts in the group that the rule names, also on v1, where each group has to be counted by itself.
fn below(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let job = bench.group("job")?;
    job.delegate_memory()?;
    let inner = bench.group("job/inner")?;
    let daemon = counting_daemon(bench, &inner, &rule(&job, "sockets", 8 * MIB, "\"record\""))?;
    let mut agent = bench.agent(&inner, "flooder")?;
    agent.ask("flood 16")?;
    let path = job.path();
    daemon.event("record", bench.patience(), |event| event.order == "record" && event.is_of_group(&path))?;
    let said = status(&daemon, &job)?;
    ensure!(said["sockets"].as_array().is_some_and(|all| all.len() >= 32), "{said}");
    Ok(format!("{} in the group above", mib(job.sockets()?)))
}

/// v1: a group for which nobody has asked. v2: one without the controller.
fn unaccounted(bench: &mut Bench<'_>) -> Result<String> {
    let outer = bench.group("plain")?;
    let job = match bench.host.version {
        Version::V1 => outer,
        Version::V2 => bench.group("plain/job")?,
    };
    let path = job.path();
    let daemon = bench.daemon(&rule(&job, "usage", 900 * MIB, "\"record\""))?;
    let said = status(&daemon, &job)?;
    ensure!(said.get("charged_bytes").is_none(), "a number where nobody counts: {said}");
    let why = said["unaccounted"].as_str().unwrap_or_default().to_owned();
    ensure!(!why.is_empty(), "and no word why: {said}");
    let text = daemon.ok(&["status", "--sockets", &path])?;
    ensure!(text.contains("charged ?") && text.contains("unaccounted: "), "{text}");
    Ok(why)
}
