//! The daemon reading many groups in one pass: what it saves, that it misses nothing, and that its trace gives the same decisions again.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, T};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{Need, Tier, Version};
use crate::harness::process;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(240);
    vec![
        test("bpf_groups_by_the_thousand_take_few_reads", thousand),
        test("bpf_groups_read_in_one_pass_are_replayed_the_same", replay),
    ]
}

/// Two rounds of the slowest pace of ten seconds in which limits are read again.
const WINDOW: Duration = Duration::from_secs(12);
/// The files take at least so many times as many reads.
const RATIO: u64 = 10;

/// `record` alone: nothing is refused or signalled beforehand, inside the kernel or out.
fn rule(parent: &Group) -> String {
    format!(
        "[[rule]]\nname = \"seen\"\ngroups = \"{}/*\"\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [\"record\"]\n",
        parent.path()
    )
}

fn many(bench: &Bench<'_>, count: usize) -> Result<Group> {
    let parent = bench.group("many")?;
    parent.delegate_memory()?;
    for at in 0..count {
        let dir = parent.dir().join(format!("g{at}"));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    // Where processes are put: the same path in the other hierarchies.
    bench.group("many/g0")?;
    Ok(parent)
}

/// Reads of a daemon in the window, once its first look at everything is over.
fn reads(daemon: &Daemon) -> Result<u64> {
    let count = || process::reads(daemon.pid).context("reading its counters");
    let mut last = count()?;
    for _ in 0..30 {
        std::thread::sleep(Duration::from_secs(1));
        let now = count()?;
        if now - last < 3000 {
            break;
        }
        last = now;
    }
    let before = count()?;
    std::thread::sleep(WINDOW);
    Ok(count()? - before)
}

/// Rows of groups that it has.
fn watched(daemon: &Daemon) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    status["watched"]["groups"].as_u64().with_context(|| format!("no number of groups in {status}"))
}

fn thousand(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 6;
    let parent = many(bench, 1000)?;
    let job = bench.group("many/g0")?;
    let config = rule(&parent);
    let by_files = reads(&bench.quiet_daemon_of(Tier::Portable, &config, &[])?)?;
    let daemon = bench.daemon(&config)?;
    let in_passes = reads(&daemon)?;
    let said = format!("{by_files} reads by files, {in_passes} in passes, in {WINDOW:?}");
    // On v1 alarms stand on the lines and next to nothing is read in either way.
    if bench.host.version == Version::V2 {
        ensure!(by_files >= in_passes * RATIO, "{said}: not {RATIO} times as many");
    }
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 80 * MIB)?;
    let event =
        daemon.event("a record of the one group", bench.patience(), |event| event.order == "record")?;
    ensure!(event.is_of_group(&job.path()), "of another group: {event}");
    let rows = watched(&daemon)?;
    fs::remove_dir(parent.dir().join("g999"))?;
    let gone = poll_until(bench.patience(), T, || (watched(&daemon).ok()? == rows - 1).then_some(()));
    ensure!(gone.is_some(), "a group was removed, and there are {} rows after {rows}", watched(&daemon)?);
    let others: Vec<String> = daemon
        .events()
        .iter()
        .filter(|event| !event.is_of_group(&job.path()))
        .map(ToString::to_string)
        .collect();
    ensure!(others.is_empty(), "decisions on others: {others:?}");
    Ok(said)
}

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace");
    let parent = many(bench, 100)?;
    let job = bench.group("many/g0")?;
    let config = format!(
        "[[rule]]\nname = \"deny\"\ngroups = \"{}/*\"\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [\"record\", \"deny\"]\n",
        parent.path()
    );
    let mut daemon = bench.daemon_with(&config, &["--trace", &trace.display().to_string()])?;
    let mut hog = bench.agent(&job, "hog")?;
    std::thread::sleep(Duration::from_secs(5));
    hog.push("anon", 80 * MIB)?;
    daemon.event("deny-begin", bench.patience(), |event| event.order == "deny-begin")?;
    std::thread::sleep(Duration::from_secs(3));
    hog.ask("free")?;
    daemon
        .event("deny-end", bench.patience(), |event| event.order == "deny-end" && event.outcome.is_some())?;
    let code = daemon.terminate()?;
    ensure!(code == 0, "expected exit code 0 after SIGTERM, got {code}");
    let text = fs::read(&trace)?;
    let text = String::from_utf8_lossy(&text);
    let passed = text.lines().filter(|line| line.starts_with("group= ")).count();
    ensure!(
        passed >= 100 || bench.host.version == Version::V1,
        "only {passed} readings from passes in the trace"
    );
    let (trace, config) = (trace.display().to_string(), daemon.config().display().to_string());
    let said = daemon.ok(&["replay", &trace, "--config", &config])?;
    let verdict = said.lines().last().unwrap_or_default();
    ensure!(verdict == "the decisions are identical", "{said}");
    Ok(format!("{passed} readings from passes; {verdict}"))
}
