//! The rest of the command line against the real thing: exec, group rules by hand, doctor.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::harness::bench::Bench;
use crate::harness::daemon::{Daemon, Output};
use crate::harness::run::Test;
use crate::harness::{MIB, process};
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("exec_runs_a_command_in_a_group_of_its_own", exec),
        Test::new("exec_holds_its_command_to_its_rule", exec_rule),
        Test::new("exec_passes_the_exit_code_on", exec_code),
        Test::new("exec_gives_its_command_a_clean_signal_mask", exec_signals),
        Test::new("set_group_rule_by_hand", group_rule),
        Test::new("stray_signals_do_not_end_the_daemon", stray_signals),
        Test::new("without_ipc_lock_it_governs_all_the_same", without_ipc_lock),
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

/// memgov blocks signals to wait for them; a command that started with them blocked could not be told to end.
fn exec_signals(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let own = std::env::current_exe()?.display().to_string();
    let mut command =
        daemon.command(&["exec", "--max", "200MiB", "--", &own, "workload", "agent", "linger 20"]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    let pid = line.split(' ').nth(2).and_then(|pid| pid.parse::<i32>().ok());
    let masks = pid.and_then(|pid| Some((process::status(pid, "SigBlk")?, process::status(pid, "SigIgn")?)));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)?;
    let ended = child.wait()?;
    let (blocked, ignored) = masks.with_context(|| format!("no command: {line:?}"))?;
    // What whoever runs the tests ignores is inherited by everything (a shell's background job ignores SIGINT and SIGQUIT), as nohup(1) relies on.
    let inherited =
        process::status(i32::try_from(std::process::id())?, "SigIgn").context("our own SigIgn")?;
    let inherited = u64::from_str_radix(&inherited, 16)?;
    // Rust's runtime ignores SIGPIPE in the workload, and glibc's posix_spawn gives no program its own two back.
    let theirs = [libc::SIGPIPE, 32, 33].iter().fold(0u64, |mask, signal| mask | 1 << (signal - 1));
    let ignored = u64::from_str_radix(&ignored, 16)? & !theirs & !inherited;
    ensure!(blocked == "0".repeat(16) && ignored == 0, "SigBlk {blocked}, SigIgn {ignored:x}");
    ensure!(ended.code() == Some(128 + libc::SIGTERM), "SIGTERM was not passed on: {ended}");
    Ok(String::new())
}

/// What has no meaning to a governor must not end it; the same for its guardian.
fn stray_signals(bench: &mut Bench<'_>) -> Result<String> {
    let mut daemon = bench.daemon("")?;
    let guardian = daemon.guardian()?.context("no guardian")?;
    let named = [libc::SIGPIPE, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF]
        .into_iter()
        .chain([libc::SIGIO, libc::SIGPWR, libc::SIGXCPU, libc::SIGXFSZ]);
    for number in named.chain(32..=64) {
        for pid in [daemon.pid, guardian] {
            signal::send(pid, number).map_err(|errno| anyhow!("signal {number}: errno {errno}"))?;
        }
        std::thread::sleep(Duration::from_millis(2));
        ensure!(daemon.is_running(), "signal {number} ended the daemon");
        ensure!(process::is_alive(guardian), "signal {number} ended the guardian");
    }
    daemon.ok(&["status"])?;
    let code = daemon.terminate()?;
    ensure!(code == 0, "SIGTERM: expected exit code 0, got {code}");
    Ok(String::new())
}

fn without_ipc_lock(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut daemon = bench.daemon_without_ipc_lock(&super::deny::denying(&job))?;
    ensure!(daemon.log_tail().contains("mlockall"), "it does not say so:\n{}", daemon.log_tail());
    let locked = process::status(daemon.pid, "VmLck");
    ensure!(locked.as_deref() == Some("0 kB"), "it has locked {locked:?}");
    ensure!(daemon.guardian()?.is_some(), "no guardian");
    let mut hog = bench.agent(&job, "hog")?;
    hog.push("anon", 80 * MIB)?;
    let path = job.path();
    let event = daemon.event("deny-begin", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&path)
    })?;
    let code = daemon.terminate()?;
    ensure!(code == 0, "SIGTERM: expected exit code 0, got {code}");
    Ok(event.to_string())
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
    // Attaching programs patches the kernel's text, which the emulator with a thread a processor gets wrong at times (int3 oops).
    let load: &[&str] = if bench.host.patience > 1 { &["--no-load"] } else { &[] };
    let text = daemon.ok(&[&["doctor", "--json"], load].concat())?;
    let found: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("doctor --json: {text:?}"))?;
    ensure!(!found.is_null(), "doctor says nothing");
    let people = daemon.ok(&[&["doctor"], load].concat())?;
    people.lines().for_each(|line| println!("    {line}"));
    for action in ["deny", "slow", "signal", "kill"] {
        ensure!(people.to_lowercase().contains(action), "doctor does not mention {action}");
    }
    Ok(format!("{} lines", people.lines().count()))
}
