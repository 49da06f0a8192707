//! Configuration of a running daemon: reload is all or nothing, a dry run touches nothing, groups come and go.

use std::fs;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::deny::denying;
use crate::harness::bench::{Bench, T, expect_probe};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("reload_bad_file_leaves_the_old_rules", |bench| bad_file(bench, false)),
        Test::new("reload_bad_file_by_sighup", |bench| bad_file(bench, true)),
        Test::new("reload_drops_a_rule_and_what_it_held", drops_rule),
        Test::new("dry_run_touches_nothing", dry_run),
        Test::new("config_of_vanished_group", vanished),
        Test::new("config_drop_ins_are_read", drop_ins),
        Test::new("config_that_is_a_fifo_is_refused", fifo),
        Test::new("config_refuses_what_it_must_not_govern", refused),
    ]
}

/// Opening it would wait for a writer: the daemon would hang, at its start or in a reload.
fn fifo(bench: &mut Bench<'_>) -> Result<String> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let daemon = bench.daemon("")?;
    let path = daemon.config().to_owned();
    fs::remove_file(&path)?;
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let file = path.display().to_string();
    let elsewhere = bench.dir.join("elsewhere").display().to_string();
    let attempts: [&[&str]; 3] =
        [&["check", &file], &["reload"], &["run", "--config", &file, "--state-dir", &elsewhere]];
    for arguments in attempts {
        let output = daemon.cli(arguments)?;
        let shown = arguments[0];
        ensure!(
            output.code == 3 && (output.stderr.clone() + &output.stdout).contains("not a regular file"),
            "memgov {shown} of a FIFO: expected exit code 3, got {} ({}{})",
            output.code,
            output.stdout,
            output.stderr
        );
    }
    daemon.ok(&["status"])?;
    Ok(String::new())
}

fn rules_of(daemon: &Daemon) -> Result<Vec<String>> {
    let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    let rules = status["rules"].as_array().ok_or_else(|| anyhow!("status has no rules: {status}"))?;
    Ok(rules.iter().filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect())
}

fn bad_file(bench: &mut Bench<'_>, by_signal: bool) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    // A good rule first, so that a reload that stops half way shows.
    let good = "[[rule]]\nname = \"new\"\ngroups = \"/memgov-none/*\"\nmeter = \"usage\"\nover = \"1GiB\"\ndo = [\"record\"]\n";
    fs::write(
        daemon.config(),
        format!("{good}\n[[rule]]\nname = \"bad\"\ngroupz = \"/x\"\nover = \"1\"\ndo = [\"deny\"]\n"),
    )?;
    let said = if by_signal {
        daemon.signal(libc::SIGHUP)?;
        let noticed = poll_until(bench.patience(), Duration::from_millis(10), || {
            let log = daemon.log_tail();
            log.contains("groupz").then_some(log)
        });
        noticed
            .ok_or_else(|| daemon.explain(anyhow!("SIGHUP with a bad file: nothing about it in the log")))?
    } else {
        let output = daemon.cli(&["reload"])?;
        ensure!(
            output.code == 3,
            "reload of a bad file: expected exit code 3, got {} ({})",
            output.code,
            output.stderr
        );
        output.stderr + &output.stdout
    };
    ensure!(said.contains("groups"), "no did-you-mean for groupz in {said:?}");
    let rules = rules_of(&daemon)?;
    ensure!(rules == ["deny"], "expected the old rule alone to be in force, got {rules:?}");
    hog.push("anon", 80 * MIB)?;
    daemon.event("deny-begin by the old rule", bench.patience(), |event| event.order == "deny-begin")?;
    Ok(String::new())
}

fn drops_rule(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    let before = process::limits(hog.pid);
    hog.push("anon", 80 * MIB)?;
    daemon.event("deny-begin", bench.patience(), |event| event.order == "deny-begin")?;
    fs::write(daemon.config(), "")?;
    daemon.ok(&["reload"])?;
    let end = daemon.event("deny-end", bench.patience(), |event| event.order == "deny-end")?;
    ensure!(end.reason.kind == "rule-gone", "expected the reason rule-gone, got {}", end.reason.kind);
    let after = process::limits(hog.pid);
    ensure!(before == after, "limits: expected {before:?}, got {after:?}");
    expect_probe(bench, &mut hog, "the hog", 0)?;
    ensure!(rules_of(&daemon)?.is_empty(), "rules are left: {:?}", rules_of(&daemon)?);
    Ok(String::new())
}

fn dry_run(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let steps = "\"deny\", { action = \"slow\", after = \"50ms\", budget = \"5s\" }, \
        { action = \"signal\", signal = \"SIGUSR1\", after = \"50ms\" }, { action = \"kill\", after = \"50ms\" }";
    let path = job.path();
    let config =
        format!("[[rule]]\ngroups = {path:?}\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [{steps}]\n");
    let daemon = bench.daemon_with(&config, &["--dry-run"])?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.ask("count 10")?;
    let before = bench.state(&[hog.pid]);
    hog.push("anon", 80 * MIB)?;
    for order in ["deny-begin", "slow-begin", "signal", "kill"] {
        let event =
            daemon.event(order, bench.patience(), |event| event.order == order && event.outcome.is_some())?;
        let kind = event.came_of_it();
        ensure!(kind == "dry-run", "{order}: expected the outcome dry-run, got {kind}");
    }
    let differences = before.differences(&bench.state(&[hog.pid]));
    ensure!(differences.is_empty(), "it changed: {differences:?}");
    expect_probe(bench, &mut hog, "the hog", 0)?;
    ensure!(hog.number("counted 10")? == 0, "a signal came");
    Ok(String::new())
}

fn deny_begins(daemon: &Daemon) -> usize {
    daemon.events().iter().filter(|event| event.order == "deny-begin").count()
}

/// The group of the rule is not there at the start, comes, is held, goes while held, and comes again under its old name.
fn vanished(bench: &mut Bench<'_>) -> Result<String> {
    let path = format!("{}/job", bench.top.path());
    let config =
        format!("[[rule]]\ngroups = {path:?}\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [\"deny\"]\n");
    let daemon = bench.daemon(&config)?;
    let mut ids = Vec::new();
    for life in 1..=3 {
        let job: Group = bench.group("job")?;
        let mut hog = bench.agent(&job, "hog")?;
        hog.push("anon", 80 * MIB)?;
        daemon.event("a deny-begin in each life of the group", bench.patience(), |_| {
            deny_begins(&daemon) == life
        })?;
        ids.push(hog.pid);
        drop(hog);
        job.remove()?;
        std::thread::sleep(T);
    }
    let status = daemon.ok(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let holds = status["holds"].as_array().map(Vec::len);
    ensure!(holds == Some(0), "expected no holds left, got {:?}", status["holds"]);
    Ok(format!("{} lives", ids.len()))
}

fn drop_ins(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let dir = bench.dir.join("memgov.d");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("50-deny.toml"), denying(&job))?;
    fs::write(dir.join("README"), "not a configuration")?;
    let daemon = bench.daemon("")?;
    ensure!(rules_of(&daemon)? == ["deny"], "expected the rule of the drop-in, got {:?}", rules_of(&daemon)?);
    let mut hog = bench.agent(&job, "hog")?;
    expect_probe(bench, &mut hog, "before", 0)?;
    hog.push("anon", 80 * MIB)?;
    daemon.event("deny-begin", bench.patience(), |event| event.order == "deny-begin")?;
    Ok(String::new())
}

/// `memgov check` refuses these, and the daemon does not start with them.
fn refused(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let file = bench.dir.join("refused.toml");
    let rule = |groups: &str, over: &str| {
        format!("[[rule]]\ngroups = \"{groups}\"\nmeter = \"usage\"\nover = \"{over}\"\ndo = [\"kill\"]\n")
    };
    let cases = [
        (rule("/", "1GiB"), "the root"),
        (rule("/x", "1000"), "a bare number"),
        (rule("/x", "1GiB").replace("meter", "metre"), "an unknown key"),
        (rule("/x", "1GiB").replace("usage", "pressure"), "a meter of a later version"),
        (rule("/x", "1GiB").replace("\"kill\"", ""), "no action"),
        ("[[rule]\n".to_owned(), "no TOML"),
    ];
    for (text, what) in &cases {
        fs::write(&file, text)?;
        let output = daemon.cli(&["check", &file.display().to_string()])?;
        ensure!(
            output.code == 3,
            "{what}: expected exit code 3, got {} ({})",
            output.code,
            output.stderr.trim()
        );
        let said = output.stderr + &output.stdout;
        ensure!(said.contains("refused.toml"), "{what}: the file is not named in {said:?}");
    }
    fs::write(&file, rule("/x", "1GiB"))?;
    daemon.ok(&["check", &file.display().to_string()])?;
    Ok(format!("{} cases", cases.len()))
}
