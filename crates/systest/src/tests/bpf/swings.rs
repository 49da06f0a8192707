//! Whoever swings around a line crosses it as often as he likes: what he can make of that is little, and no crossing is forgotten for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memgov::bpf::{EventKind, GroupLimit, Hook, TaskAction};
use memgov_decide::units::Bytes;

use super::process::{ANON, limit, rss};
use super::rig::Rig;
use crate::harness::MIB;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::process;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_swings_around_a_groups_line_are_told_seldom", group),
        test("bpf_swings_around_an_own_line_are_told_seldom", own),
    ]
}

/// EVENT_GAP_NS in tier.rs.
const GAP: Duration = Duration::from_millis(100);
const SWING: u64 = 2 * MIB;
const ROUNDS: u64 = 300;

/// Over the line and back, at full speed; says how often the line was told of, and that it is told again when it is quiet.
fn swing(rig: &mut Rig, hog: &mut Agent, kind: EventKind) -> Result<String> {
    let begin = Instant::now();
    let rounds = hog.numbers(&format!("hammer anon {SWING} {SWING} {ROUNDS}"))?;
    let took = begin.elapsed();
    ensure!(rounds[..2] == [0, ROUNDS], "refused and full: {rounds:?}");
    let told = rig.count(kind, hog.pid) as u64;
    let most = u64::try_from(took.as_nanos() / GAP.as_nanos())? + 1;
    // A third of the swings at the least must go untold.
    ensure!(3 * most < 2 * ROUNDS, "too slow to show anything: {ROUNDS} swings in {took:?}");
    ensure!((1..=most).contains(&told), "told {told} times in {took:?}");
    std::thread::sleep(2 * GAP);
    hog.take("anon", 2 * SWING)?;
    let again = rig.count(kind, hog.pid) as u64;
    ensure!(again == told + 1, "after it was quiet a crossing was told {} times", again - told);
    ensure!(rig.tier.lost().events == 0, "{} events lost", rig.tier.lost().events);
    Ok(format!("{ROUNDS} swings in {took:?} told {told} times"))
}

fn group(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Charge])?;
    let group = bench.group("job")?;
    let mut hog = bench.agent(&group, "hog")?;
    let tell = Some(Bytes(group.usage()? + SWING / 2));
    rig.limit(&group, GroupLimit { tell, ..GroupLimit::default() })?;
    swing(&mut rig, &mut hog, EventKind::Crossed)
}

/// Resident anonymous memory of a process.
fn anon_of(pid: i32) -> Result<u64> {
    let text = process::status(pid, "RssAnon").context("reading what it holds")?;
    Ok(text.trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn own(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Rss])?;
    let group = bench.group("job")?;
    let mut hog = bench.agent(&group, "hog")?;
    let line = anon_of(hog.pid)? + SWING / 2;
    rig.limit_process(&hog, &limit(rss(ANON, line), TaskAction::Tell, 3))?;
    swing(&mut rig, &mut hog, EventKind::CrossedOwn)
}
