//! WL 3: the comparison is strict, and climit moves the line by exactly its pages.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::harness::bench::{Bench, HIGH, Rig, word};
use crate::harness::run::Test;
use crate::harness::{MIB, mib, millis};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_03_threshold_is_strict", strict).seconds(90),
        Test::new("wl_03_climit_moves_the_line", climit).seconds(60),
    ]
}

const PAGE: u64 = 4096;
const TRIES: u32 = 12;

/// The usage stands still at some amount over high; the control is set so that the line lies exactly there, then a page
/// lower. If the kernel moved the usage meanwhile, it is done again.
fn strict(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::start(bench)?;
    let pid = rig.hog.pid.to_string();
    for _ in 0..TRIES {
        rig.daemon.cli(&["clear", "--pid", &pid])?;
        rig.hog.take("anon", HIGH + 2 * MIB)?;
        // Others are charged on each processor, so that what it holds in stock for the hog goes back now and not later.
        for _ in 0..4 {
            rig.daemon.cli(&["get", "--pid", &pid])?;
        }
        let usage = settled(&rig)?;
        ensure!(usage > HIGH + PAGE, "the hog holds {}, its group only {usage}", HIGH + 2 * MIB);
        let since = rig.daemon.events().len();
        rig.daemon.set_memctl(rig.hog.pid, word::DENY, usage - HIGH, 0)?;
        std::thread::sleep(Duration::from_millis(700));
        if rig.job.usage()? != usage {
            rig.hog.ask("free")?;
            continue;
        }
        let early: Vec<String> = rig.daemon.events()[since..].iter().map(ToString::to_string).collect();
        ensure!(early.is_empty(), "at usage == high + climit == {usage}: expected nothing, got {early:?}");
        rig.daemon.set_memctl(rig.hog.pid, word::DENY, usage - HIGH - PAGE, 0)?;
        let set = crate::sys::now();
        let event =
            rig.daemon.event("deny-begin with usage a page over the line", bench.patience(), |event| {
                event.is_of(rig.hog.pid) && event.order == "deny-begin"
            });
        let event = match event {
            Ok(event) => event,
            // Not over it any more: a stock of charged pages went back in this very moment.
            Err(_) if rig.job.usage()? < usage => {
                rig.hog.ask("free")?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let line = event.reason.usage_line_bytes;
        ensure!(line == Some(usage - PAGE), "expected the line {}, got {line:?}", usage - PAGE);
        let took = millis(event.monotonic_ns.saturating_sub(set));
        return Ok(format!(
            "nothing at {usage} bytes, acted one page above the line, {took} after it was set"
        ));
    }
    bail!("the group's usage would not stand still for 700 ms in {TRIES} tries")
}

/// The usage once it stands still: a processor's stock of charged pages goes back when another group is charged there.
fn settled(rig: &Rig) -> Result<u64> {
    let mut last = rig.job.usage()?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(300));
        match rig.job.usage()? {
            now if now == last => break,
            now => last = now,
        }
    }
    Ok(last)
}

fn climit(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::start(bench)?;
    let mut overshoot = 0;
    for climit in [0, 3 * MIB, 5 * MIB + PAGE] {
        rig.daemon.set_memctl(rig.hog.pid, word::DENY, climit, 0)?;
        rig.grow(130 * MIB)?;
        let event = rig.daemon.event("deny-begin", bench.patience() * 2, |event| {
            event.order == "deny-begin" && event.reason.usage_line_bytes == Some(HIGH + climit)
        })?;
        let usage = event.reason.usage_bytes.unwrap_or(0);
        ensure!(usage > HIGH + climit, "climit {climit}: acted at usage {usage}, which is not over the line");
        overshoot = overshoot.max(usage - HIGH - climit);
        rig.hog.ask("free")?;
        rig.daemon.event("deny-end", bench.patience(), |later| {
            later.order == "deny-end" && later.episode == event.episode
        })?;
    }
    Ok(format!("seen at most {} over the line", mib(overshoot)))
}
