//! Rules and the never-list through the daemon, enforced inside the kernel: signals and kills in the instant of the allocation, the brake on kills, who is
//! exempt from his first call on, and what it all costs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::feed::denying;
use super::rig::{ROOM_TO_START, calls_refused};
use crate::harness::MIB;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;

const USR1: i32 = 10;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_rule_signals_in_the_instant_and_once", signals),
        test("bpf_rule_kills_in_the_instant", kills),
        test("bpf_rule_kills_no_more_than_the_budget_allows", braked),
        test("bpf_never_by_executable_from_the_first_call_on", executable),
        test("bpf_rule_that_is_gone_binds_no_child_without_a_row", gone),
        test("bpf_status_tells_what_hooks_cost", costs),
    ]
}

/// Over the line by what one call faults in and what processors keep to themselves of resident memory.
pub const MOST_OVER: u64 = MIB / 2;

fn on_hogs(path: &str, over_mib: u64, does: &str) -> String {
    format!(
        "[[rule]]\nname = \"hogs\"\nprocesses = {{ comm = \"hog\", groups = {path:?} }}\nmeter = \"rss.anon\"\n\
         over = \"{over_mib}MiB\"\ndo = [{does}]\n"
    )
}

/// Until its rows are told to the kernel.
pub fn is_watched(bench: &Bench<'_>, daemon: &Daemon, processes: u64) -> Result<()> {
    let watched = || {
        let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"]).ok()?).ok()?;
        let hooks = status["tier"]["hooks"].as_array()?;
        let attached = hooks.iter().any(|hook| hook["name"] == "rss_stat");
        (attached && status["watched"]["processes"].as_u64()? >= processes).then_some(())
    };
    let found = crate::harness::poll_until(bench.patience(), Duration::from_millis(20), watched);
    ensure!(found.is_some(), "the processes are not watched: {}", daemon.ok(&["status"])?);
    // Each is told in the tick after its row is made.
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

fn about(pid: i32, order: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.order == order && event.is_of(pid)
}

fn signals(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.ask(&format!("yield-on {USR1}"))?;
    let daemon = bench.daemon(&on_hogs(&job.path(), 32, "{ action = \"signal\", signal = \"SIGUSR1\" }"))?;
    is_watched(bench, &daemon, 1)?;
    hog.push("anon", 128 * MIB)?;
    // The signal is met before the next step: what it held then is what it had.
    let yielded = hog.note("yielded")?;
    let held = yielded.numbers.get(1).copied().unwrap_or(u64::MAX);
    ensure!(held <= 32 * MIB + MOST_OVER, "signalled when it held {held}");
    let event = daemon.event("the signal", bench.patience(), about(hog.pid, "signal"))?;
    ensure!(event.by() == "bpf" && event.source.rule.as_deref() == Some("hogs"), "{event}");
    daemon.event("relief", bench.patience(), about(hog.pid, "relieved"))?;
    let count = hog.number(&format!("counted {USR1}"))?;
    ensure!(count == 1, "{count} signals in one episode");
    hog.push("anon", 128 * MIB)?;
    hog.note("yielded")?;
    let count = hog.number(&format!("counted {USR1}"))?;
    ensure!(count == 2, "the next episode brings the next signal: {count}");
    Ok(format!("signalled at {} KiB over the line", held.saturating_sub(32 * MIB) / 1024))
}

fn kills(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let (mut hog, bystander) = (bench.agent(&job, "hog")?, bench.agent(&job, "bystander")?);
    let before = job.usage()?;
    let daemon = bench.daemon(&on_hogs(&job.path(), 32, "\"kill\""))?;
    is_watched(bench, &daemon, 1)?;
    hog.push("anon", 256 * MIB)?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == libc::SIGKILL, "died of {signal}");
    let event = daemon.event("the kill", bench.patience(), |event| {
        event.order == "kill" && event.is_of(hog.pid) && event.came_of_it() == "dead"
    })?;
    ensure!(event.by() == "bpf", "{event}");
    ensure!(crate::harness::process::is_alive(bystander.pid), "the bystander is dead");
    let peak = job.peak().unwrap_or(0);
    ensure!(peak <= before + 33 * MIB + MOST_OVER, "peak {peak}, before it {before}");
    Ok(format!("peak {} KiB more than before, line 32768 KiB", peak.saturating_sub(before) / 1024))
}

fn braked(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hogs = [bench.agent(&job, "hog")?, bench.agent(&job, "hog")?];
    let budget = "[memgov]\nkills = { count = 1, window = \"10m\" }\n";
    let daemon = bench.daemon(&format!("{budget}{}", on_hogs(&job.path(), 24, "\"kill\"")))?;
    is_watched(bench, &daemon, 2)?;
    hogs[0].push("anon", 256 * MIB)?;
    let (_, signal) = hogs[0].wait_for_end(bench.patience())?;
    ensure!(signal == libc::SIGKILL, "died of {signal}");
    hogs[1].take("anon", 40 * MIB)?;
    let event = daemon.event("a kill withheld", bench.patience(), |event| {
        event.is_of(hogs[1].pid) && event.reason.kind == "too-many-kills"
    })?;
    ensure!(crate::harness::process::is_alive(hogs[1].pid), "killed beyond the budget");
    Ok(event.to_string())
}

fn executable(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 64 * MIB)?;
    let copy = |name: &str| -> Result<std::path::PathBuf> {
        let to = bench.dir.join(name);
        std::fs::copy(std::env::current_exe()?, &to)?;
        Ok(to)
    };
    let (free, of_root, plain) = (copy("free")?, copy("of-root")?, copy("plain")?);
    let never = format!(
        "[memgov]\nnever = [{{ exe = {:?} }}, {{ exe = {:?}, uid = 0 }}]\n",
        free.display().to_string(),
        of_root.display().to_string()
    );
    let daemon = bench.daemon(&format!("{never}{}", denying(&job, 32)))?;
    daemon.event("deny", bench.patience(), |event| event.order == "deny-begin")?;
    let refused = calls_refused(&mut hog)?;
    ensure!(refused.len() >= 5, "the hog is refused only {refused:?}");
    let start = |program: &Path, name: &str| Agent::start_program(program, &job, name, bench.patience());
    let mut one = start(&free, "free")?;
    ensure!(calls_refused(&mut one)?.is_empty(), "an exempt executable was refused");
    let mut two = start(&of_root, "of-root")?;
    ensure!(calls_refused(&mut two)?.is_empty(), "root's was refused");
    two.ask(&format!("become {NOBODY}"))?;
    // It was protected as root's until somebody looks again; a process of another user that starts it never was.
    let mut three = start(&plain, "plain").ok();
    std::thread::sleep(ROOM_TO_START);
    if let Some(plain) = &mut three {
        ensure!(calls_refused(plain)?.len() >= 5, "a copy that nobody named is not refused");
    }
    // Without the list they are as everybody.
    std::fs::write(daemon.config(), denying(&job, 32))?;
    daemon.ok(&["reload"])?;
    let refused = crate::harness::poll_until(bench.patience(), Duration::from_millis(50), || {
        (calls_refused(&mut one).ok()?.len() >= 5).then_some(())
    });
    ensure!(refused.is_some(), "still exempt after the list was taken back");
    Ok(format!(
        "a plain program {}",
        if three.is_some() { "started and was refused" } else { "did not even start" }
    ))
}

/// More children than there are rows: nobody takes from the last ones what they were born with.
fn gone(bench: &mut Bench<'_>) -> Result<String> {
    const CHILDREN: usize = 24;
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 4 * MIB)?;
    let config = |rule: &str| format!("[memgov]\nmax-processes = 16\n{rule}");
    let daemon = bench.daemon(&config(&on_hogs(&job.path(), 2, "\"deny\"")))?;
    is_watched(bench, &daemon, 1)?;
    let refused = |agent: &mut Agent| calls_refused(agent).map(|calls| calls.len() >= 5);
    ensure!(refused(&mut hog)?, "it is not refused what is over its line");
    let mut children =
        (0..CHILDREN).map(|_| hog.offspring("fork", &bench.dir)).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(1));
    let held = children.iter_mut().map(refused).collect::<Result<Vec<_>>>()?;
    ensure!(held.iter().all(|held| *held), "children that are not refused what their parent is: {held:?}");
    std::fs::write(daemon.config(), config(&denying(&other, 512)))?;
    daemon.ok(&["reload"])?;
    let free = crate::harness::poll_until(bench.patience(), Duration::from_millis(100), || {
        let held = children.iter_mut().map(refused).collect::<Result<Vec<_>>>().ok()?;
        held.iter().all(|held| !held).then_some(())
    });
    ensure!(free.is_some(), "still refused by a rule that is gone: {}", daemon.ok(&["status"])?);
    let status = daemon.ok(&["status"])?;
    ensure!(status.contains("security_mmap_addr"), "nothing is attached any more: {status}");
    Ok(String::new())
}

fn costs(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut worker = bench.agent(&job, "worker")?;
    let daemon = bench.daemon(&denying(&job, 512))?;
    worker.say("pace mmap 2000 60")?;
    let text = daemon.ok(&["status", "--costs", "2"])?;
    ensure!(text.contains("NS EACH"), "{text}");
    let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json", "--costs"])?)?;
    let hooks = status["tier"]["hooks"].as_array().cloned().unwrap_or_default();
    let mmap = hooks.iter().find(|hook| hook["name"] == "security_mmap_addr");
    let ran = mmap.is_some_and(|hook| hook["runs"].as_u64() > Some(0) && hook["run_ns"].as_u64() > Some(0));
    ensure!(ran, "nothing was counted: {hooks:?}");
    worker.answered()?;
    println!("{text}");
    Ok(String::new())
}
