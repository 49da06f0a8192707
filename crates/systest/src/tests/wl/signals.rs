//! WL 7: one signal for one setting, many with SIGCONT; and SIGKILL takes that process only, before the kernel takes any.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::bench::{Bench, CLIMIT, HIGH, Rig, T, within, word};
use crate::harness::run::Test;
use crate::harness::{MIB, mib, millis, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_07_signal_comes_once", once).seconds(60),
        Test::new("wl_07_signal_again_with_sigcont", again).seconds(45),
        Test::new("wl_07_kill_takes_that_process_only", kill).seconds(45),
    ]
}

const USR1: u32 = 10;

/// The criterion's 10 s where it is measured in full; elsewhere long enough for several looks.
fn growth_time(bench: &Bench<'_>) -> Duration {
    Duration::from_secs(if bench.host.target == "6.12-v2" { 10 } else { 4 })
}

/// Over the line and growing on, slowly enough not to end the machine's memory.
fn grow_over(rig: &mut Rig) -> Result<()> {
    rig.hog.grow("anon", MIB / 4, Duration::from_millis(5), 200 * MIB)
}

fn once(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    rig.hog.ask("count 10")?;
    let control = word::SIGNAL | word::signal(USR1);
    rig.daemon.set_memctl(rig.hog.pid, control, CLIMIT, 0)?;
    let crossing = rig.crossing(bench)?;
    grow_over(&mut rig)?;
    let crossed = crossing.wait()?;
    let event = rig
        .daemon
        .event("signal", bench.patience(), |event| event.order == "signal" && event.is_of(rig.hog.pid))?;
    let took = within("signal after the crossing", crossed.at, event.monotonic_ns, T)?;
    std::thread::sleep(growth_time(bench));
    // It stays over, but awake: what the kernel throttles takes its signals late.
    rig.hog.ask("stop")?;
    let count = rig.hog.number("counted 10")?;
    ensure!(count == 1, "expected 1 signal in {:?} over the line, got {count}", growth_time(bench));
    let spent = rig.daemon.memctl(rig.hog.pid)?;
    let expected = format!("{} {CLIMIT} 0\n", word::SIGNAL);
    ensure!(spent == expected, "the delivered signal reads back as 0: expected {expected:?}, got {spent:?}");
    rig.daemon.set_memctl(rig.hog.pid, control, CLIMIT, 0)?;
    std::thread::sleep(T * 5);
    let count = rig.hog.number("counted 10")?;
    ensure!(count == 2, "set again gives one more: expected 2, got {count}");
    Ok(format!("{} after the crossing, {}", millis(took), event.by()))
}

/// Time for several of them: there is one each second.
const AGAIN: Duration = Duration::from_secs(4);

fn again(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    rig.hog.ask("count 10")?;
    rig.daemon.set_memctl(rig.hog.pid, word::SIGNAL | word::signal(USR1) | word::SIGCONT, CLIMIT, 0)?;
    let crossing = rig.crossing(bench)?;
    grow_over(&mut rig)?;
    crossing.wait()?;
    std::thread::sleep(AGAIN);
    let count = rig.hog.number("counted 10")?;
    ensure!(count > 1, "with SIGCONT: expected more than 1 in {AGAIN:?}, got {count}");
    rig.hog.ask("free")?;
    rig.daemon.event("relieved", bench.patience(), |event| event.order == "relieved")?;
    let at_relief = rig.hog.number("counted 10")?;
    std::thread::sleep(Duration::from_millis(2500));
    let count = rig.hog.number("counted 10")?;
    ensure!(count == at_relief, "once relieved it stops: {at_relief}, then {count}");
    Ok(format!("{count} signals"))
}

fn kill(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    let other = bench.agent(&rig.job, "other")?;
    rig.job.set_max(2 * HIGH)?;
    rig.daemon.set_memctl(rig.hog.pid, word::KILL, CLIMIT, 0)?;
    let crossing = rig.crossing(bench)?;
    rig.grow(180 * MIB)?;
    let crossed = crossing.wait()?;
    let (at, signal) = rig.hog.wait_for_end(bench.patience()).map_err(|error| rig.daemon.explain(error))?;
    ensure!(signal == libc::SIGKILL, "expected death by SIGKILL, got signal {signal}");
    let took = within("dead after the crossing", crossed.at, at, T)?;
    ensure!(process::is_alive(other.pid), "the other process of the group is dead");
    let kills = rig.job.oom_kills()?;
    ensure!(kills == 0, "oom_kill: expected 0, got {kills}");
    let event = rig.daemon.event("a kill seen dead", bench.patience(), |event| {
        event.order == "kill" && event.is_of(rig.hog.pid) && event.came_of_it() == "dead"
    })?;
    let peak = rig.job.peak().map_or(String::new(), |peak| format!(", peak {}", mib(peak)));
    Ok(format!("dead {} after the crossing by {}{peak}", millis(took), event.by()))
}
