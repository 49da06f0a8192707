//! The rest of the command line against the real thing: exec, group rules by hand, doctor.

use anyhow::{Context, Result, ensure};

use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::daemon::{Daemon, Output};
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("exec_runs_a_command_in_a_group_of_its_own", exec),
        Test::new("exec_holds_its_command_to_its_rule", exec_rule),
        Test::new("exec_passes_the_exit_code_on", exec_code),
        Test::new("set_group_rule_by_hand", group_rule),
        Test::new("doctor_tells_of_this_host", doctor),
    ]
}

/// `memgov exec OPTIONS -- agent COMMANDS`.
fn exec_agent(daemon: &Daemon, options: &[&str], commands: &[&str]) -> Result<Output> {
    let own = std::env::current_exe()?.display().to_string();
    let front = ["exec"].iter().chain(options);
    let arguments: Vec<&str> =
        front.copied().chain(["--", &own, "workload", "agent"]).chain(commands.iter().copied()).collect();
    daemon.cli(&arguments)
}

fn exec(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let output = exec_agent(&daemon, &["--max", "200MiB"], &["groups", "exit 0"])?;
    ensure!(output.code == 0, "exit code {}: {}{}", output.code, output.stdout, output.stderr);
    let path = output
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("= /"))
        .context("it did not say its group")?;
    ensure!(!path.is_empty(), "it ran in the root group");
    let dir = bench.host.memory.join(path);
    ensure!(!dir.exists(), "its group {} is still there", dir.display());
    Ok(format!("/{path}"))
}

fn exec_rule(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let options = ["--over", "32MiB", "--do", "kill"];
    // Standard input is empty: the agent would end there, so it is kept by a wait of its own.
    let grow = format!("grow anon 1048576 5000 {}", 200 * MIB);
    let output = exec_agent(&daemon, &options, &[&grow, "linger 20"])?;
    ensure!(
        output.code == 128 + libc::SIGKILL,
        "expected 137, got {}: {}{}",
        output.code,
        output.stdout,
        output.stderr
    );
    let event = daemon.event("the kill", bench.patience(), |event| event.order == "kill")?;
    Ok(event.to_string())
}

fn exec_code(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    for code in [0, 7, 42] {
        let output = exec_agent(&daemon, &["--max", "64MiB"], &[&format!("exit {code}")])?;
        ensure!(output.code == code, "expected {code}, got {} ({})", output.code, output.stderr.trim());
    }
    let output = daemon.cli(&["exec", "--", "/nonexistent/program"])?;
    ensure!(
        [125, 126, 127].contains(&output.code),
        "no such program: expected 125 to 127, got {}",
        output.code
    );
    Ok(String::new())
}

fn group_rule(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let path = job.path();
    daemon.ok(&["set", "--group", &path, "--over", "32MiB", "--do", "deny"])?;
    let shown = daemon.ok(&["get", "--group", &path])?;
    ensure!(shown.contains("32MiB"), "get --group does not show the rule: {shown:?}");
    let mut hog = bench.agent(&job, "hog")?;
    let before = bench.state(&[hog.pid]);
    hog.push("anon", 48 * MIB)?;
    daemon.event("deny-begin", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&path) && event.outcome.is_some()
    })?;
    let status = daemon.ok(&["status"])?;
    let held = format!("pid {} (hog)", hog.pid);
    ensure!(status.contains(&held) && !status.contains("()"), "no `{held}` among what is held: {status}");
    daemon.ok(&["clear", "--group", &path])?;
    let again = daemon.cli(&["clear", "--group", &path])?;
    ensure!(
        again.code == 5 && again.stdout.is_empty() && again.stderr.contains("no rule is set"),
        "clear where nothing is set: exit code {}, {}{}",
        again.code,
        again.stdout,
        again.stderr
    );
    bench
        .back_to(&before, &[hog.pid], bench.patience(), "after clear")
        .map_err(|error| daemon.explain(error))?;
    let missing = daemon.cli(&["set", "--group", "/memgov-no-such", "--over", "1GiB", "--do", "record"])?;
    ensure!(missing.code == 5, "no such group: expected exit code 5, got {}", missing.code);
    Ok(String::new())
}

fn doctor(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let text = daemon.ok(&["doctor", "--json"])?;
    let found: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("doctor --json: {text:?}"))?;
    ensure!(!found.is_null(), "doctor says nothing");
    let people = daemon.ok(&["doctor"])?;
    people.lines().for_each(|line| println!("    {line}"));
    for action in ["deny", "slow", "signal", "kill"] {
        ensure!(people.to_lowercase().contains(action), "doctor does not mention {action}");
    }
    Ok(format!("{} lines", people.lines().count()))
}
