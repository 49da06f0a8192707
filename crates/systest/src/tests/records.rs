//! What memgov says about what it did: events, explain, status, and a trace that gives the same decisions again.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::deny::denying;
use crate::harness::MIB;
use crate::harness::bench::{Bench, T, word};
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("status_events_explain_are_json", json),
        Test::new("events_since_gives_the_rest", since),
        Test::new("replay_gives_the_same_decisions", replay).seconds(60),
        Test::new("numbers_go_on_after_a_restart", numbers).seconds(60),
    ]
}

fn parse(text: &str, what: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{what} is not JSON: {:?}", text.lines().next()))
}

/// An episode from its beginning to its end.
fn episode(bench: &Bench<'_>, arguments: &[&str]) -> Result<Daemon> {
    let job = bench.group("job")?;
    let daemon = bench.daemon_with(&denying(&job), arguments)?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.push("anon", 80 * MIB)?;
    daemon.event("deny-begin", bench.patience(), |event| {
        event.order == "deny-begin" && event.outcome.is_some()
    })?;
    std::thread::sleep(T);
    hog.ask("free")?;
    daemon
        .event("deny-end", bench.patience(), |event| event.order == "deny-end" && event.outcome.is_some())?;
    Ok(daemon)
}

/// What every event of this daemon's one rule must say.
fn as_promised(event: &Event, line: &str) -> Result<()> {
    let (source, target) = (&event.source, &event.target);
    ensure!(
        source.rule.as_deref() == Some("deny") && source.control.is_none(),
        "the source is wrong: {line}"
    );
    ensure!(
        target.kind == "group" && target.path.is_some() && target.pid.is_none(),
        "the target is wrong: {line}"
    );
    ensure!(event.signal.is_none(), "there was no signal: {line}");
    if event.order == "deny-begin" {
        let reached = event.outcome.as_ref().and_then(|outcome| outcome.processes);
        ensure!(reached == Some(1), "expected 1 process reached: {line}");
    }
    Ok(())
}

fn json(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = episode(bench, &[])?;
    let status = parse(&daemon.ok(&["status", "--json"])?, "status")?;
    ensure!(status["rules"][0]["name"] == "deny", "status: {status}");
    ensure!(status["pid"] == daemon.pid, "status names pid {}, it is {}", status["pid"], daemon.pid);
    let text = daemon.ok(&["events", "--json"])?;
    let mut ids = Vec::new();
    for line in text.lines() {
        let event: Event =
            serde_json::from_str(line).with_context(|| format!("an event is not as documented: {line}"))?;
        as_promised(&event, line)?;
        ids.push(event.id);
    }
    ensure!(!ids.is_empty(), "no events");
    for id in &ids {
        let explained = parse(&daemon.ok(&["explain", &id.to_string(), "--json"])?, "explain")?;
        let text = explained.to_string();
        ensure!(text.contains("usage"), "explain {id} does not say why: {text}");
    }
    for arguments in [&["status"][..], &["events"], &["explain", &ids[0].to_string()]] {
        let text = daemon.ok(arguments)?;
        ensure!(!text.trim().is_empty(), "memgov {} says nothing", arguments.join(" "));
    }
    let unknown = daemon.cli(&["explain", "99999999"])?;
    ensure!(unknown.code == 5, "explain of no such decision: expected exit code 5, got {}", unknown.code);
    Ok(format!("{} events", ids.len()))
}

fn since(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = episode(bench, &[])?;
    let ids = |text: &str| -> Result<Vec<u64>> {
        text.lines().map(|line| Ok(serde_json::from_str::<Event>(line)?.id)).collect()
    };
    let all = ids(&daemon.ok(&["events", "--json"])?)?;
    let (first, last) = (all.first().context("no events")?, all.last().context("no events")?);
    let rest = ids(&daemon.ok(&["events", "--json", "--since", &first.to_string()])?)?;
    ensure!(rest.last() == Some(last), "the last event is missing from {rest:?}");
    ensure!(rest.len() <= all.len() && all.ends_with(&rest), "--since {first} gave {rest:?} of {all:?}");
    let none = ids(&daemon.ok(&["events", "--json", "--since", &(last + 1).to_string()])?)?;
    ensure!(none.is_empty(), "--since {} gave {none:?}", last + 1);
    Ok(String::new())
}

/// What identifies a decision: everything but what came of it.
fn decision(event: &Value) -> String {
    let mut kept = event.clone();
    if let Some(fields) = kept.as_object_mut() {
        // When a reader would call it is wall clock; what came of it was not up to the decision.
        ["time", "outcome"].iter().for_each(|field| {
            fields.remove(*field);
        });
    }
    kept.to_string()
}

/// The rules of the trace: one for a group, one for processes. `first` stands before them, so that their numbers move.
fn rules(first: &str, job: &Group, tasks: &Group, line: u64) -> String {
    let processes = format!("{{ comm = \"glutton\", groups = {:?} }}", tasks.path());
    format!(
        "{first}{}[[rule]]\nname = \"glutton\"\nprocesses = {processes}\nmeter = \"rss.anon\"\nover = \"{line}MiB\"\n\
         do = [\"deny\"]\n",
        denying(job)
    )
}

/// Waits for the beginning (or the end) of what is done to a process.
fn of_process(bench: &Bench<'_>, daemon: &Daemon, pid: i32, order: &str) -> Result<()> {
    let what = format!("{order} of process {pid}");
    daemon.event(&what, bench.patience(), |event| {
        event.order == order && event.is_of(pid) && event.outcome.is_some()
    })?;
    Ok(())
}

/// All that a trace can hold: a rule for a group, one for processes, a control that a child takes over, and in the middle of
/// it other rules. Gives what was recorded.
fn eventful(bench: &mut Bench<'_>, daemon: &Daemon, groups: [&Group; 2], later: &str) -> Result<String> {
    let [job, tasks] = groups;
    let mut hog = bench.agent(job, "hog")?;
    hog.push("anon", 80 * MIB)?;
    daemon.event("deny-begin of the group", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&job.path()) && event.outcome.is_some()
    })?;
    let mut controlled = bench.agent(tasks, "controlled")?;
    daemon.set_memctl(controlled.pid, word::DENY | word::DIRECT | word::ANON, 0, 32 * MIB)?;
    let mut child = controlled.offspring("fork", &bench.dir)?;
    controlled.push("anon", 48 * MIB)?;
    of_process(bench, daemon, controlled.pid, "deny-begin")?;
    let mut glutton = bench.agent(tasks, "glutton")?;
    glutton.push("anon", 48 * MIB)?;
    of_process(bench, daemon, glutton.pid, "deny-begin")?;
    std::fs::write(daemon.config(), later)?;
    daemon.ok(&["reload"])?;
    // The rule is another now, so what it held is let go; the new one begins further up.
    of_process(bench, daemon, glutton.pid, "deny-end")?;
    glutton.push("anon", 80 * MIB)?;
    daemon.event("deny-begin by the rule after the reload", bench.patience(), |event| {
        let line = event.reason.rss_line_bytes;
        event.order == "deny-begin" && event.is_of(glutton.pid) && line == Some(64 * MIB)
    })?;
    child.push("anon", 48 * MIB)?;
    of_process(bench, daemon, child.pid, "deny-begin")?;
    hog.ask("free")?;
    controlled.ask("free")?;
    of_process(bench, daemon, controlled.pid, "deny-end")?;
    daemon.event("deny-end of the group", bench.patience(), |event| {
        event.order == "deny-end" && event.is_of_group(&job.path()) && event.outcome.is_some()
    })?;
    daemon.ok(&["events", "--json"])
}

/// What memgov itself says of a trace: its last line.
fn verdict(daemon: &Daemon, trace: &str, configs: &[&Path]) -> Result<String> {
    let configs: Vec<String> = configs.iter().map(|config| config.display().to_string()).collect();
    let mut arguments = vec!["replay", trace];
    arguments.extend(configs.iter().flat_map(|config| ["--config", config]));
    let said = daemon.ok(&arguments)?;
    let tail: Vec<&str> = said.lines().rev().take(4).collect();
    tail.iter().rev().for_each(|line| println!("    {line}"));
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace").display().to_string();
    let (job, tasks) = (bench.group("job")?, bench.group("workers")?);
    let unrelated =
        "[[rule]]\nname = \"unrelated\"\ngroups = \"/memgov-none/*\"\nover = \"1GiB\"\ndo = [\"record\"]\n";
    let (first, later) = (rules("", &job, &tasks, 32), rules(unrelated, &job, &tasks, 64));
    let files = ["first.toml", "later.toml", "none.toml"].map(|name| bench.dir.join(name));
    for (file, text) in files.iter().zip([&first, &later, &String::new()]) {
        std::fs::write(file, text)?;
    }
    let [first_file, later_file, none_file] = &files;
    let mut daemon = bench.daemon_with(&first, &["--trace", &trace])?;
    let recorded = eventful(bench, &daemon, [&job, &tasks], &later)?;
    let code = daemon.terminate()?;
    ensure!(code == 0, "expected exit code 0 after SIGTERM, got {code}");
    let said = verdict(&daemon, &trace, &[first_file, later_file])?;
    ensure!(said == "the decisions are identical", "replay with what was in force says: {said}");
    for configs in [&[first_file.as_path()][..], &[later_file.as_path()], &[none_file.as_path()]] {
        let said = verdict(&daemon, &trace, configs)?;
        ensure!(said == "the decisions are not identical", "replay with {configs:?} says: {said}");
    }
    let decisions = |text: &str| -> Result<Vec<String>> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Ok(decision(&parse(line, "a decision")?))).collect()
    };
    let json = |configs: &[&Path]| -> Result<Vec<String>> {
        let configs: Vec<String> = configs.iter().map(|config| config.display().to_string()).collect();
        let mut arguments = vec!["replay", &trace, "--json"];
        arguments.extend(configs.iter().flat_map(|config| ["--config", config]));
        decisions(&daemon.ok(&arguments)?)
    };
    // Also by what was told while it went on: nobody has to take the trace's word for it.
    let (mut recorded, mut again) = (decisions(&recorded)?, json(&[first_file, later_file])?);
    // What the kernel refused by itself is told, and was not decided.
    recorded.retain(|decision| !decision.contains("\"order\":\"denied\""));
    // Orders that only keep up what is in force come each tick, and are not recorded.
    again.retain(|decision| !decision.contains("-sustain\""));
    ensure!(recorded.len() >= 8, "only {} decisions were recorded", recorded.len());
    let missing = recorded.iter().find(|decision| !again.contains(decision));
    if let Some(missing) = missing {
        return Err(anyhow!("not decided in replay: {missing}"));
    }
    let by_rule = json(&[none_file])?.into_iter().find(|decision| decision.contains("{\"rule\":"));
    ensure!(by_rule.is_none(), "with no rule only the control decides, and not: {by_rule:?}");
    Ok(format!("{} decisions", recorded.len()))
}

/// A number names one decision in all that is kept: a daemon started again counts on.
fn numbers(bench: &mut Bench<'_>) -> Result<String> {
    let highest = |daemon: &Daemon| daemon.events().iter().map(|event| event.id).max();
    let mut first = episode(bench, &[])?;
    let last = highest(&first).context("no events")?;
    let code = first.terminate()?;
    ensure!(code == 0, "expected exit code 0 after SIGTERM, got {code}");
    let trace = bench.dir.join("second").display().to_string();
    let mut second = episode(bench, &["--trace", &trace])?;
    let lowest = second.events().iter().map(|event| event.id).min().context("no events")?;
    ensure!(lowest > last, "the run before went up to #{last}, and this one begins with #{lowest}");
    second.ok(&["explain", &lowest.to_string()])?;
    let former = second.cli(&["explain", &last.to_string()])?;
    ensure!(former.code == 5, "explain of a decision of the run before: exit code {}", former.code);
    second.terminate()?;
    let said = verdict(&second, &trace, &[second.config()])?;
    ensure!(said == "the decisions are identical", "replay of the second run says: {said}");
    let kept = std::fs::read_to_string(second.state_dir().join("events.jsonl"))?;
    let mut decided = std::collections::BTreeMap::new();
    for line in kept.lines() {
        let event = parse(line, "a line of the journal")?;
        let (id, at) = (event["id"].to_string(), event["monotonic_ns"].to_string());
        let before = decided.insert(id.clone(), at.clone());
        ensure!(before.is_none_or(|before| before == at), "#{id} names two decisions in the journal");
    }
    Ok(format!("up to #{last}, then from #{lowest}"))
}
