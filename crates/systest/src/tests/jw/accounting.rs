//! JW 1 and 10: what sockets hold is known, by group and by socket; where nobody counts it is not known, and never 0.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{counting_daemon, rule, status};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, mib, poll_until};
use crate::sys::net::namespace;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("jw_01_accounting_agrees_with_the_kernel_and_by_socket", flood),
        Test::new("jw_01_sockets_of_groups_below_count", below),
        Test::new("jw_01_another_network_namespace_and_udp", elsewhere),
        Test::new("jw_10_unaccounted_is_not_zero", unaccounted),
        Test::new("jw_10_nosocket_is_not_zero", nosocket).needs(&[Need::NoSocketAccounting]),
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

/// Connections of one process, and datagrams that lie in the socket of another, both in a network namespace that memgov is not in: each is listed with its holder, and
/// what they hold counts, of datagrams on v2.
fn elsewhere(bench: &mut Bench<'_>) -> Result<String> {
    const DATAGRAM: u64 = 1000;
    let namespace = namespace().map_err(|errno| anyhow!("making a network namespace: errno {errno}"))?;
    let job = bench.group("job")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", 4 * MIB, "\"record\""))?;
    let start = |name| Agent::start_in(&namespace, &job, name, bench.patience());
    let (mut flooder, mut receiver) = (start("flooder")?, start("receiver")?);
    receiver.ask(&format!("datagrams 50 {DATAGRAM}"))?;
    if bench.host.version == Version::V2 {
        // The kernel gathers what it counts every two seconds.
        let counted = poll_until(bench.patience(), Duration::from_millis(100), || {
            job.sockets().ok().filter(|held| *held >= 50 * DATAGRAM)
        });
        ensure!(counted.is_some(), "datagrams alone count {}", job.sockets()?);
    }
    flooder.ask("flood 16")?;
    let path = job.path();
    daemon.event("record", bench.patience(), |event| event.order == "record" && event.is_of_group(&path))?;
    let full = poll_until(bench.patience(), Duration::from_millis(100), || {
        let (before, _) = (job.sockets().ok()?, std::thread::sleep(Duration::from_millis(700)));
        let after = job.sockets().ok()?;
        (after.abs_diff(before) < after / 100).then_some(after)
    });
    ensure!(full.is_some(), "the flood never came to rest: {}", mib(job.sockets()?));
    let said = status(&daemon, &job)?;
    ensure!(said["namespaces"] == 1, "looked into {} namespaces", said["namespaces"]);
    let all = said["sockets"].as_array().context("no list")?;
    let of = |kind: &str, pid: i32| {
        let held = all.iter().filter(|it| it["kind"] == kind && it["holders"][0]["pid"] == pid);
        let bytes = |it: &serde_json::Value, key: &str| it[key].as_u64().unwrap_or(0);
        held.fold((0, 0), |(count, sum), it| {
            (count + 1, sum + bytes(it, "receive_bytes") + bytes(it, "send_bytes"))
        })
    };
    let ((connections, held), (sockets, lying)) = (of("tcp", flooder.pid), of("udp", receiver.pid));
    ensure!(connections == 32, "{connections} TCP sockets of the flooder: {said}");
    ensure!(sockets == 1 && lying >= 50 * DATAGRAM, "{sockets} UDP sockets hold {lying}: {said}");
    let charged = said["charged_bytes"].as_u64().context("not charged")?;
    let counted = if bench.host.version == Version::V1 { held } else { held + lying };
    ensure!(charged.abs_diff(counted) <= charged / 10, "charged {charged}, the sockets hold {counted}");
    Ok(format!("TCP {} in {connections}, UDP {lying} bytes in one, charged {}", mib(held), mib(charged)))
}

/// Its files say 0, and a flood is there.
fn nosocket(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let job = bench.group("job")?;
    let path = job.path();
    let daemon = bench.daemon(&rule(&job, "usage", 900 * MIB, "\"record\""))?;
    let mut flooder = bench.agent(&job, "flooder")?;
    flooder.ask("flood 16")?;
    let by_socket = poll_until(bench.patience(), Duration::from_millis(100), || {
        let said = status(&daemon, &job).ok()?;
        let of = |key: &str| said[key].as_u64().unwrap_or(0);
        Some((of("receive_bytes") + of("send_bytes"), said)).filter(|(bytes, _)| *bytes > 8 * MIB)
    });
    let (bytes, said) = by_socket.with_context(|| format!("{:?}", status(&daemon, &job)))?;
    ensure!(job.sockets()? == 0, "this kernel counts after all: {}", job.sockets()?);
    ensure!(said.get("charged_bytes").is_none(), "a number where nobody counts: {said}");
    let why = said["unaccounted"].as_str().unwrap_or_default();
    ensure!(why.contains("nosocket"), "and no word why: {said}");
    let text = daemon.ok(&["status", "--sockets", &path])?;
    ensure!(text.contains("charged ?") && text.contains("nosocket"), "{text}");
    std::fs::write(daemon.config(), rule(&job, "sockets", 8 * MIB, "\"squeeze\""))?;
    let config = daemon.config().to_string_lossy().into_owned();
    let check = daemon.cli(&["check", "--host", &config])?;
    let said = format!("{}{}", check.stdout, check.stderr);
    ensure!(check.code != 0 && said.contains("sockets-meter"), "exit code {}: {said}", check.code);
    Ok(format!("{} by socket, {why}", mib(bytes)))
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
