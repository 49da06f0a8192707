//! The ways round a line that the kernel-memory letter's own accounting had not thought of, each at full speed: what stops it in the tier at hand. The table in
//! docs/kernel-memory.md is of these tests.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::bombs::CONTAIN;
use super::dentries::{Mounted, Place};
use super::{over, rule, shielded, tolerance, watch};
use crate::harness::MIB;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::{Need, Tier, kernel};
use crate::harness::run::Test;

/// The call itself is refused with the tier `bpf`.
const HOOK: bool = true;
/// No call can be refused: the group is to stand still, in either tier.
const NO_HOOK: bool = false;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Freezer, Need::KernelAccounting]).seconds(90);
    vec![
        test("gk_attack_by_page_tables", |bench| attack(bench, "tables", 0, 16_000, NO_HOOK)),
        test("gk_attack_by_timers", |bench| attack(bench, "timers", 0, 40_000, NO_HOOK)).needs(&[
            Need::Freezer,
            Need::KernelAccounting,
            Need::SysResource,
        ]),
        test("gk_attack_by_splitting_mappings", |bench| attack(bench, "splits", 0, 29_000, HOOK)),
        test("gk_attack_by_messages_in_old_sockets", |bench| attack(bench, "messages", 600, 20_000, HOOK)),
        test("gk_attack_by_old_pipes_that_grow", |bench| attack(bench, "pipe-sizes", 2000, 2000, HOOK)),
        test("gk_attack_by_full_pipes", |bench| attack(bench, "pipes", 0, 2000, HOOK)),
        test("gk_attack_by_sockets", |bench| attack(bench, "sockets", 0, 8000, HOOK)),
        test("gk_attack_by_files", |bench| attack(bench, "files", 0, 60_000, HOOK)),
        test("gk_attack_by_links", |bench| attack(bench, "links", 0, 60_000, HOOK)),
        test("gk_attack_by_attributes", attributes).needs(&[
            Need::Freezer,
            Need::KernelAccounting,
            Need::ChargedAttributes,
        ]),
        test("gk_attack_by_filling_old_pipes", |bench| attack(bench, "pipe-pages", 2000, 2000, NO_HOOK)),
        test("gk_attack_by_splicing_into_old_sockets", |bench| {
            // Before Linux 6.5 that was a way of its own (sendpage), which no hook is on.
            attack(bench, "spliced", 800, 1200, kernel() >= (6, 5))
        }),
        test("gk_attack_by_message_queues", |bench| attack(bench, "queues", 0, 4000, HOOK)),
        test("gk_attack_by_mapping_page_by_page", |bench| attack(bench, "maps", 0, 60_000, NO_HOOK)),
        test("gk_attack_by_holes_in_a_mapping", |bench| attack(bench, "holes", 0, 59_000, NO_HOOK)),
        test("gk_attack_by_marking_pages_of_a_mapping", |bench| attack(bench, "marks", 0, 29_000, NO_HOOK)),
    ]
}

fn attack(bench: &mut Bench<'_>, kind: &str, before: u64, count: u64, hook: bool) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let hog = bench.worker(&job, "hog")?;
    stopped(bench, &job, hog, (kind, before, count), hook)
}

/// Attributes of a file on tmpfs, whatever `/tmp` is.
fn attributes(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    let mut hog = bench.worker(&job, "hog")?;
    let tmpfs = Mounted::new(bench, Place::Tmpfs)?;
    hog.ask(&format!("work-in {}", tmpfs.at.display()))?;
    stopped(bench, &job, hog, ("xattrs", 0, 8000), HOOK)
}

/// Takes a kind, with so much of it prepared, so often: at its line it is refused, or stands still.
fn stopped(
    bench: &Bench<'_>,
    job: &Group,
    mut hog: Agent,
    (kind, before, count): (&str, u64, u64),
    hook: bool,
) -> Result<String> {
    hog.ask(&format!("prepare {kind} {before}"))?;
    // The kernel's own count on v2 is up to 2 s late.
    std::thread::sleep(Duration::from_millis(2500));
    let line = job.kernel()? + 4 * MIB;
    // Where no call is refused nothing is gained by waiting: some of these take 600 MiB a second.
    let inside = bench.host.tier == Tier::Bpf && hook;
    let mut daemon = bench.daemon(&rule(job, line, if inside { CONTAIN } else { "\"freeze\"" }))?;
    hog.say(&format!("hoard {kind} {count}"))?;
    let path = job.path();
    let stopped = if inside {
        let taken = hog.answered()?;
        ensure!(taken[1] == 12 && taken[0] > 0 && taken[0] < count, "{taken:?} taken and errno");
        "the call was refused"
    } else {
        daemon
            .event("freeze-begin", bench.patience(), |e| e.order == "freeze-begin" && e.is_of_group(&path))?;
        "the group stands still"
    };
    let seen = watch(job, Duration::from_secs(2))?;
    // From outside it is met when somebody has looked: how far it got by then is said, and is no promise. It did not get to the limit behind.
    ensure!(!inside || seen.peak <= line + tolerance(bench), "{}", over(seen.peak, line));
    let (before, then) = (job.kernel()?, watch(job, Duration::from_millis(500))?);
    ensure!(then.peak <= before.max(seen.peak), "it goes on: {before}, then {}", then.peak);
    ensure!(job.oom_kills()? == 0, "the limit behind was needed");
    // With the daemon gone it goes on, and gives back what it has.
    ensure!(daemon.terminate()? == 0, "the daemon's exit code");
    if !inside {
        let taken = hog.answered()?;
        if taken[1] != 0 {
            bail!("refused by something else: {taken:?} taken and errno");
        }
    }
    hog.ask("let-go")?;
    Ok(format!("{stopped}, {}", over(seen.peak, line)))
}
