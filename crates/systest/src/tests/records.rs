//! What memgov says about what it did: events, explain, status, and a trace that gives the same decisions again.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::deny::denying;
use crate::harness::MIB;
use crate::harness::bench::{Bench, T};
use crate::harness::event::Event;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("status_events_explain_are_json", json),
        Test::new("events_since_gives_the_rest", since),
        Test::new("replay_gives_the_same_decisions", replay).seconds(60),
    ]
}

fn parse(text: &str, what: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{what} is not JSON: {:?}", text.lines().next()))
}

/// An episode from its beginning to its end.
fn episode(bench: &Bench<'_>, arguments: &[&str]) -> Result<crate::harness::daemon::Daemon> {
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

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace").display().to_string();
    let mut daemon = episode(bench, &["--trace", &trace])?;
    let recorded = daemon.ok(&["events", "--json"])?;
    let code = daemon.terminate()?;
    ensure!(code == 0, "expected exit code 0 after SIGTERM, got {code}");
    let config = daemon.config().display().to_string();
    let again = daemon.ok(&["replay", &trace, "--config", &config, "--json"])?;
    let decisions = |text: &str| -> Result<Vec<String>> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Ok(decision(&parse(line, "a decision")?))).collect()
    };
    let (recorded, mut again) = (decisions(&recorded)?, decisions(&again)?);
    // Orders that only keep up what is in force come each tick, and are not recorded.
    again.retain(|decision| !decision.contains("-sustain\""));
    ensure!(!recorded.is_empty(), "nothing was recorded");
    let differs = recorded.iter().zip(&again).find(|(before, now)| before != now);
    if let Some((before, now)) = differs {
        return Err(anyhow!("replay differs: recorded {before}, replayed {now}"));
    }
    // What release at the end did was no decision of a tick that replay sees.
    ensure!(again.len() >= recorded.len(), "{} recorded, {} replayed", recorded.len(), again.len());
    let other = bench.dir.join("other.toml");
    std::fs::write(&other, "")?;
    let none = daemon.ok(&["replay", &trace, "--config", &other.display().to_string(), "--json"])?;
    ensure!(decisions(&none)?.is_empty(), "with no rule there is nothing to decide: {none}");
    Ok(format!("{} decisions", recorded.len()))
}
