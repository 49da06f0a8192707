//! What the kernel did by itself, as the daemon records it: shortages and their victims, refusals by the count, the end of processes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::rig::calls_refused;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_feed_tells_of_an_oom_and_its_victim", oom),
        test("bpf_feed_is_not_flooded_by_an_oom_storm", storm).needs(&[Need::Bpf, Need::V2]),
        test("bpf_feed_counts_refused_calls", denials),
        test("bpf_feed_an_exit_frees_the_row", exit),
    ]
}

/// A rule that denies over so many MiB.
pub fn denying(group: &Group, mib: u64) -> String {
    let path = group.path();
    format!("[[rule]]\nname = \"deny\"\ngroups = {path:?}\nover = \"{mib}MiB\"\ndo = [\"deny\"]\n")
}

/// All that is recorded so far.
pub fn recorded(daemon: &Daemon) -> Result<Vec<Value>> {
    let text = daemon.ok(&["events", "--json"])?;
    text.lines().map(|line| serde_json::from_str(line).context("an event")).collect()
}

/// Waits for a record.
pub fn await_record(
    bench: &Bench<'_>,
    daemon: &Daemon,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let found = poll_until(bench.patience(), Duration::from_millis(20), || {
        recorded(daemon).ok()?.into_iter().find(&wanted)
    });
    found.with_context(|| format!("no record of {what}: {}", daemon.ok(&["events"]).unwrap_or_default()))
}

fn oom(bench: &mut Bench<'_>) -> Result<String> {
    let (ruled, free) = (bench.group("ruled")?, bench.group("free")?);
    let daemon = bench.daemon(&denying(&ruled, 512))?;
    let mut hog = bench.agent(&free, "hog")?;
    free.set_max(24 * MIB)?;
    hog.push("anon", 64 * MIB)?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == 9, "died of {signal}");
    let enter = await_record(bench, &daemon, "the shortage", |event| event["order"] == "oom")?;
    ensure!(enter["source"]["kernel"] == true && enter["target"]["kind"] == "group", "{enter}");
    ensure!(enter["target"]["path"] == free.path(), "the group of no rule is not named: {enter}");
    ensure!(enter["allocating"]["pid"] == hog.pid && enter["allocating"]["comm"] == "hog", "{enter}");
    ensure!(enter["reason"]["usage_line_bytes"] == 24 * MIB, "{enter}");
    let victim = await_record(bench, &daemon, "the victim", |event| event["order"] == "oom-kill")?;
    let target = &victim["target"];
    ensure!(
        target["pid"] == hog.pid && target["comm"] == "hog" && target["group"] == free.path(),
        "{victim}"
    );
    ensure!(victim["reason"]["rss_bytes"].as_u64() > Some(8 * MIB), "what it held: {victim}");
    ensure!(victim["episode"] == enter["episode"], "two episodes: {enter} {victim}");
    let explained = daemon.ok(&["explain", &victim["id"].to_string()])?;
    ensure!(
        explained.contains("before it in this episode") && explained.contains("OOM killer"),
        "{explained}"
    );
    println!("{}", daemon.ok(&["events"])?);
    Ok(format!("{} held", victim["reason"]["rss_bytes"]))
}

fn storm(bench: &mut Bench<'_>) -> Result<String> {
    const VICTIMS: usize = 14;
    let (ruled, free) = (bench.group("ruled")?, bench.group("free")?);
    let daemon = bench.daemon(&denying(&ruled, 512))?;
    let mut hogs = (0..VICTIMS).map(|_| bench.agent(&free, "hog")).collect::<Result<Vec<_>>>()?;
    // All of it goes at once: so many victims in an instant.
    free.write("memory.oom.group", "1")?;
    free.set_max(96 * MIB)?;
    hogs[0].push("anon", 256 * MIB)?;
    for hog in &mut hogs {
        hog.wait_for_end(bench.patience())?;
    }
    std::thread::sleep(Duration::from_millis(1500));
    let mut last = bench.agent(&free, "last")?;
    last.push("anon", 256 * MIB)?;
    last.wait_for_end(bench.patience())?;
    let last = |event: &Value| event["order"] == "oom-kill" && event["target"]["comm"] == "last";
    await_record(bench, &daemon, "the last victim", last)?;
    let all = recorded(&daemon)?;
    let victims: Vec<&Value> = all.iter().filter(|event| event["order"] == "oom-kill").collect();
    let left_out: u64 = victims.iter().filter_map(|event| event["left_out"].as_u64()).sum();
    ensure!(
        victims.len() as u64 + left_out == VICTIMS as u64 + 1,
        "{} told, {left_out} left out",
        victims.len()
    );
    let status: Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    ensure!(status["lost"]["happenings"].as_u64() >= Some(left_out), "status: {}", status["lost"]);
    Ok(format!("{} victims told, {left_out} left out", victims.len()))
}

fn denials(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = bench.agent(&job, "hog")?;
    // Well over the line before there is one: at the line itself it would be refused at some moments and not at others.
    hog.take("anon", 48 * MIB)?;
    let daemon = bench.daemon(&denying(&job, 32))?;
    hog.push("anon", 64 * MIB)?;
    hog.note("refused")?;
    hog.ask("stop")?;
    let first = await_record(bench, &daemon, "refusals", |event| event["order"] == "denied")?;
    ensure!(first["target"]["path"] == job.path() && first["denials"].as_u64() >= Some(1), "{first}");
    for _ in 0..4 {
        let refused = calls_refused(&mut hog)?;
        ensure!(refused.len() >= 5, "only {refused:?} refused");
    }
    let status: Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    let counted = status["denials"][0]["calls"].as_u64();
    ensure!(status["denials"][0]["target"]["path"] == job.path() && counted >= Some(21), "{status}");
    let text = daemon.ok(&["status"])?;
    ensure!(text.contains("REFUSED"), "{text}");
    let begin = await_record(bench, &daemon, "deny", |event| event["order"] == "deny-begin")?;
    hog.ask("free")?;
    let end = await_record(bench, &daemon, "the end", |event| event["order"] == "deny-end")?;
    let all = recorded(&daemon)?;
    let told: Vec<&Value> = all.iter().filter(|event| event["order"] == "denied").collect();
    let sum = told.last().and_then(|event| event["denials"].as_u64());
    ensure!(sum >= counted, "{counted:?} in status, {sum:?} in the record at the end");
    ensure!(told.len() <= 3, "{} records of refusals", told.len());
    let last = told.last().context("a record")?;
    ensure!(last["episode"] == begin["episode"] && end["episode"] == begin["episode"], "{last} {begin}");
    Ok(format!("{} calls in {} records", sum.unwrap_or(0), told.len()))
}

fn exit(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let path = job.path();
    let rule =
        format!("[[rule]]\ngroups = {path:?}\nmeter = \"rss.anon\"\nover = \"900MiB\"\ndo = [\"deny\"]\n");
    let daemon = bench.daemon(&rule)?;
    let hogs = (0..4).map(|_| bench.agent(&job, "hog")).collect::<Result<Vec<_>>>()?;
    let watched = || -> Option<u64> {
        let status: Value = serde_json::from_str(&daemon.ok(&["status", "--json"]).ok()?).ok()?;
        status["watched"]["processes"].as_u64()
    };
    let all = poll_until(bench.patience(), Duration::from_millis(20), || watched().filter(|n| *n >= 4));
    let all = all.context("no rows for the processes")?;
    // Each is told to the kernel in the tick after its row is made.
    std::thread::sleep(Duration::from_millis(300));
    let begin = std::time::Instant::now();
    drop(hogs);
    let gone = poll_until(bench.patience(), Duration::from_millis(5), || watched().filter(|n| *n + 4 <= all));
    gone.context("the rows are still there")?;
    Ok(format!("{all} rows, free after {:?}", begin.elapsed()))
}
