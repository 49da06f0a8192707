//! How far a process at full speed gets past a line before it is met, in both tiers: the same workload against the same line in one run. Inside the kernel
//! there is a bound, and it is held; from outside there is none, and what was seen is stated.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, word};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{Need, Tier};
use crate::harness::run::Test;
use crate::harness::{MIB, process};

const USR1: u32 = 10;

pub fn tests() -> Vec<Test> {
    vec![Test::new("bpf_overshoot_of_both_tiers_compared", compared).needs(&[Need::Bpf]).seconds(240)]
}

/// What one call maps, and then faults in.
const STEP: u64 = 64 << 10;
/// Far enough for the slower of both tiers.
const UPTO: u64 = 400 * MIB;
/// The line of the group is its (virtual) memory.high and so much more; the line of a process is as high.
const HIGH: u64 = 48 * MIB;
const CLIMIT: u64 = 8 * MIB;
const LINE: u64 = HIGH + CLIMIT;

/// A control of the letter's, and how what it let through is measured.
struct Case {
    name: &'static str,
    control: u32,
    climit: u64,
    plimit: u64,
    overshoot: fn(&Bench<'_>, &Group, &mut Agent) -> Result<u64>,
}

const CASES: [Case; 4] = [
    Case {
        name: "WL 2, 3: denied over its group's line",
        control: word::DENY,
        climit: CLIMIT,
        plimit: 0,
        overshoot: denied_by_group,
    },
    Case {
        name: "WL 5: denied over its own line",
        control: word::DENY | word::DIRECT | word::ANON,
        climit: 0,
        plimit: LINE,
        overshoot: denied_by_own,
    },
    Case {
        name: "WL 7: signalled over its group's line",
        control: word::SIGNAL | word::signal(USR1),
        climit: CLIMIT,
        plimit: 0,
        overshoot: signalled,
    },
    Case {
        name: "WL 7: killed over its group's line",
        control: word::KILL,
        climit: CLIMIT,
        plimit: 0,
        overshoot: killed,
    },
];

fn denied_by_group(_: &Bench<'_>, job: &Group, hog: &mut Agent) -> Result<u64> {
    hammer(hog)?;
    over_group(job)
}

fn denied_by_own(_: &Bench<'_>, _: &Group, hog: &mut Agent) -> Result<u64> {
    hog.grow("anon", STEP, Duration::ZERO, UPTO)?;
    hog.note("refused")?;
    hog.ask("stop")?;
    let held = process::status(hog.pid, "RssAnon").context("reading what it holds")?;
    let kib: u64 = held.split(' ').next().unwrap_or_default().parse()?;
    Ok((kib * 1024).saturating_sub(LINE))
}

fn signalled(_: &Bench<'_>, job: &Group, hog: &mut Agent) -> Result<u64> {
    hog.ask(&format!("yield-on {USR1}"))?;
    hog.grow("anon", STEP, Duration::ZERO, UPTO)?;
    hog.note("yielded")?;
    over_group(job)
}

fn killed(bench: &Bench<'_>, job: &Group, hog: &mut Agent) -> Result<u64> {
    hog.grow("anon", STEP, Duration::ZERO, UPTO)?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == libc::SIGKILL, "died of {signal}");
    over_group(job)
}

/// One round at full speed, until it is refused.
fn hammer(hog: &mut Agent) -> Result<()> {
    let rounds = hog.numbers(&format!("hammer anon {STEP} {UPTO} 1"))?;
    ensure!(rounds.first() == Some(&1), "not refused: {rounds:?}");
    Ok(())
}

fn over_group(job: &Group) -> Result<u64> {
    let Some(peak) = job.peak() else { bail!("no peak can be read") };
    Ok(peak.saturating_sub(LINE))
}

/// One case under one daemon.
fn run(bench: &Bench<'_>, daemon: &Daemon, tier: Tier, at: usize) -> Result<u64> {
    let case = &CASES[at];
    let job = bench.group(&format!("{}-{at}", tier.name()))?;
    let mut hog = bench.agent(&job, "hog")?;
    daemon.set_memctl(hog.pid, case.control, case.climit, case.plimit)?;
    // Its row is read, and the kernel is told of it, in the ticks after that.
    std::thread::sleep(Duration::from_millis(500) * bench.host.patience);
    (case.overshoot)(bench, &job, &mut hog)
}

fn compared(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let config = format!("[[group]]\nmatch = \"{}/*\"\nhigh = \"{HIGH}B\"\n", bench.top.path());
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64;
    let bound = 64 * 4096 * cpus + STEP;
    let mut said =
        vec![format!("KiB over a line of {} MiB; inside at most {} are allowed", LINE / MIB, bound / 1024)];
    let mut seen = [[0; CASES.len()]; 2];
    for (seen, tier) in seen.iter_mut().zip([Tier::Portable, Tier::Bpf]) {
        let daemon = bench.quiet_daemon_of(tier, &config, &[])?;
        for (at, over) in seen.iter_mut().enumerate() {
            *over = run(bench, &daemon, tier, at)
                .with_context(|| format!("{}, {}", tier.name(), CASES[at].name))?;
        }
    }
    let [outside, inside] = seen;
    for (at, case) in CASES.iter().enumerate() {
        said.push(format!(
            "{}: inside {}, from outside {}",
            case.name,
            inside[at] / 1024,
            outside[at] / 1024
        ));
    }
    let said = said.join("\n");
    println!("{said}");
    for (at, case) in CASES.iter().enumerate() {
        ensure!(inside[at] <= bound, "{}: further over its line than allowed\n{said}", case.name);
    }
    Ok(said)
}
