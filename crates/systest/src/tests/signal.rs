//! `signal` from rules: any number, by name; blocked signals; repetition. And `never`: who is not touched.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::MIB;
use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, T};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("signal_realtime_by_name", realtime),
        Test::new("signal_blocked_stays_pending", blocked),
        Test::new("signal_repeats_as_told", repeats),
        Test::new("signal_group_reaches_every_process", whole_group),
    ]
}

fn signalling(group: &Group, step: &str) -> String {
    format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"usage\"\nover = \"32MiB\"\ndo = [{{ action = \"signal\", {step} }}]\n",
        group.path()
    )
}

fn start(bench: &Bench<'_>, step: &str) -> Result<(Group, Daemon, Agent)> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&signalling(&job, step))?;
    let hog = bench.agent(&job, "hog")?;
    Ok((job, daemon, hog))
}

fn go_over(bench: &Bench<'_>, daemon: &Daemon, hog: &mut Agent) -> Result<String> {
    hog.take("anon", 40 * MIB)?;
    let event = daemon
        .event("signal", bench.patience(), |event| event.order == "signal" && event.outcome.is_some())?;
    std::thread::sleep(T);
    Ok(event.to_string())
}

fn expect_count(hog: &mut Agent, signal: i32, expected: u64, when: &str) -> Result<()> {
    let count = hog.number(&format!("counted {signal}"))?;
    ensure!(count == expected, "{when}: expected {expected} of signal {signal}, got {count}");
    Ok(())
}

fn realtime(bench: &mut Bench<'_>) -> Result<String> {
    let (_job, daemon, mut hog) = start(bench, "signal = \"SIGRTMIN+3\"")?;
    let number = libc::SIGRTMIN() + 3;
    hog.ask(&format!("count {number}"))?;
    let event = go_over(bench, &daemon, &mut hog)?;
    expect_count(&mut hog, number, 1, "over the line")?;
    Ok(event)
}

/// The kernel series would have killed it (force_sig). memgov's signal waits until it is unblocked.
fn blocked(bench: &mut Bench<'_>) -> Result<String> {
    let (_job, daemon, mut hog) = start(bench, "signal = \"SIGUSR2\"")?;
    hog.ask("count 12")?;
    hog.ask("block 12")?;
    let event = go_over(bench, &daemon, &mut hog)?;
    expect_count(&mut hog, 12, 0, "while blocked")?;
    hog.ask("unblock 12")?;
    expect_count(&mut hog, 12, 1, "once unblocked")?;
    Ok(event)
}

fn repeats(bench: &mut Bench<'_>) -> Result<String> {
    let (_job, daemon, mut hog) = start(bench, "signal = 10, repeat = \"250ms\"")?;
    hog.ask("count 10")?;
    go_over(bench, &daemon, &mut hog)?;
    std::thread::sleep(Duration::from_millis(2000));
    let count = hog.number("counted 10")?;
    ensure!((5..=10).contains(&count), "each 250 ms for 2.2 s: expected 5 to 10 signals, got {count}");
    Ok(format!("{count} in 2.2 s"))
}

fn whole_group(bench: &mut Bench<'_>) -> Result<String> {
    let (job, daemon, mut hog) = start(bench, "signal = \"SIGUSR1\"")?;
    let mut second = bench.agent(&job, "second")?;
    let beside = bench.group("beside")?;
    let mut neighbour = bench.agent(&beside, "neighbour")?;
    for agent in [&mut hog, &mut second, &mut neighbour] {
        agent.ask("count 10")?;
    }
    let event = go_over(bench, &daemon, &mut hog)?;
    expect_count(&mut hog, 10, 1, "the hog")?;
    expect_count(&mut second, 10, 1, "the other of the group")?;
    expect_count(&mut neighbour, 10, 0, "the neighbour group")?;
    Ok(event)
}
