//! The machine itself runs out of memory: only on machines that are there for nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::jobs::Jobs;
use super::{expect_alive, expect_killed, job_killed, kernel_kills, only_one, the_lowest_gives_way, told};
use crate::harness::bench::{Bench, within};
use crate::harness::{MIB, meminfo, mib, millis, process};
use crate::sys::now;

pub fn rule(under: u64) -> String {
    format!(
        "[[rule]]\nname = \"host\"\nhost = true\nunder = \"{under}B\"\n\
         do = [{{ action = \"kill\", victim = \"lowest-priority\" }}]\n"
    )
}

/// `MemAvailable`.
pub fn available() -> Result<u64> {
    meminfo("MemAvailable")
}

/// `MemAvailable` without slab. Of that it counts most as available, and dentries that are in use are part of it: on a machine that has many, the kernel kills
/// long before `MemAvailable` comes near 0.
pub fn available_without_slab() -> Result<u64> {
    Ok(meminfo("MemAvailable")?.saturating_sub(meminfo("SReclaimable")?))
}

/// Three jobs that use the same fill the machine: the one of the lowest priority is killed whole, before the kernel's OOM killer acts.
pub fn lowest_priority(bench: &mut Bench<'_>) -> Result<String> {
    let mut jobs = Jobs::start(bench)?;
    let before = kernel_kills()?;
    let under = 128 * MIB;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &rule(under)))?;
    let there = available()?;
    // All three together are over, two are not.
    jobs.grow((there - under) / 3 + 16 * MIB)?;
    let event = the_lowest_gives_way(bench, &daemon, &mut jobs, before)?;
    Ok(format!("{} were available; {}", mib(there), told(&event)))
}

/// The first moment in which less was available than this, as somebody sees it who does nothing but look.
pub struct Watch {
    crossed: Arc<AtomicU64>,
    least: Arc<AtomicU64>,
    least_swap: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    pub fn start(line: u64) -> Self {
        let (crossed, least) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let least_swap = Arc::new(AtomicU64::new(u64::MAX));
        let stop = Arc::new(AtomicBool::new(false));
        let of_thread =
            (Arc::clone(&crossed), Arc::clone(&least), Arc::clone(&least_swap), Arc::clone(&stop));
        std::thread::spawn(move || {
            let (crossed, least, least_swap, stop) = of_thread;
            while !stop.load(Ordering::Relaxed) {
                let Ok(available) = available() else { continue };
                least.fetch_min(available, Ordering::Relaxed);
                least_swap.fetch_min(meminfo("SwapFree").unwrap_or(u64::MAX), Ordering::Relaxed);
                if available < line && crossed.load(Ordering::Relaxed) == 0 {
                    crossed.store(now(), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { crossed, least, least_swap, stop }
    }

    /// The least swap that was free.
    pub fn least_swap(&self) -> u64 {
        self.least_swap.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Ten hogs at full speed eat all memory there is: memgov decides and kills within a second of the crossing, its loop waits for no disk meanwhile, and the
/// kernel's own killer has nothing to do.
pub fn in_time(bench: &mut Bench<'_>) -> Result<String> {
    eaten(bench, Jobs::start(bench)?)
}

pub fn eaten(bench: &Bench<'_>, mut jobs: Jobs) -> Result<String> {
    let bar = Duration::from_secs(1);
    let before = kernel_kills()?;
    let line = 48 * MIB;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &rule(line)))?;
    jobs.agents[1][0].take("anon", 32 * MIB)?;
    jobs.agents[2][0].take("anon", 32 * MIB)?;
    for number in 1..10 {
        let hog = bench.agent(&jobs.groups[0], &format!("hog-{number}"))?;
        jobs.agents[0].push(hog);
    }
    let faults = process::major_faults(daemon.pid, daemon.pid).context("the daemon's loop")?;
    let watch = Watch::start(line);
    let share = available()? / 8;
    for hog in &mut jobs.agents[0] {
        hog.say(&format!("grow anon {MIB} 0 {share}"))?;
    }
    let event = job_killed(bench, &daemon, &jobs.path(0))?;
    let seen = now();
    expect_killed(bench, &mut jobs.agents[0])?;
    let crossed = watch.crossed.load(Ordering::Relaxed);
    ensure!(crossed > 0, "nobody but memgov saw the crossing: {event}");
    let decided = within("the decision", crossed, event.monotonic_ns, bar)?;
    let dead = within("their death, as it was told", crossed, seen, bar)?;
    let faults = process::major_faults(daemon.pid, daemon.pid).context("the daemon's loop")? - faults;
    ensure!(faults == 0, "{faults} major faults on the loop's thread");
    only_one(bench, &daemon, &jobs, before)?;
    expect_alive(&daemon, &jobs.agents[1])?;
    expect_alive(&daemon, &jobs.agents[2])?;
    let journal = std::fs::read_to_string(daemon.state_dir().join("events.jsonl"))?;
    ensure!(journal.contains("\"available_bytes\""), "no record of it: {journal}");
    let least = watch.least.load(Ordering::Relaxed);
    Ok(format!(
        "decided {} after the crossing, dead {} after it, 0 major faults, least available {}; {}",
        millis(decided),
        millis(dead),
        mib(least),
        told(&event)
    ))
}
