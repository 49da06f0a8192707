//! Refusal by the usage of groups: the bound, the neighbours, nesting, exemptions, and that it fails open.

use std::time::Duration;

use anyhow::{Result, ensure};
use memgov::bpf::{EventKind, ExemptBy, Hook, Options};
use memgov_decide::units::{Bytes, Time};

use super::rig::{LONG, Rig, bound, calls_refused, identity};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_deny_holds_a_group_at_its_line", line),
        test("bpf_deny_bound_in_fifty_runs_and_no_neighbour_refused", fifty),
        test("bpf_deny_bound_in_a_thousand_runs_and_no_neighbour_refused", thousand).seconds(240),
        test("bpf_deny_nested_groups_count_both_lines", nested),
        test("bpf_deny_reaches_a_child_group_without_controllers", hold),
        test("bpf_deny_reaches_groups_nested_deeper_than_limits_go", deep),
        test("bpf_deny_exempts_names_and_processes", exempt),
        test("bpf_deny_ends_with_the_lease", lease),
        test("bpf_deny_ends_when_the_tier_is_dropped", dropped),
    ]
}

/// The group as a whole stands over its line.
fn filled(bench: &Bench<'_>, rig: &Rig, name: &str) -> Result<(Group, Agent)> {
    let group = bench.group(name)?;
    let mut hog = bench.agent(&group, "hog")?;
    rig.deny_over(&group, 24 * MIB)?;
    hog.push("anon", 64 * MIB)?;
    hog.note("refused")?;
    hog.ask("stop")?;
    Ok((group, hog))
}

fn line(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Deny])?;
    let (group, mut hog) = filled(bench, &rig, "job")?;
    let refused = calls_refused(&mut hog)?;
    ensure!(refused == ["brk", "mmap", "mprotect", "mremap", "shared"], "refused: {refused:?}");
    let peak = group.peak().unwrap_or(0);
    ensure!(peak <= bound(24 * MIB, 256 << 10), "peak {}", mib(peak));
    let denied = rig.wait_for(EventKind::Denied, hog.pid, bench.patience())?;
    ensure!(denied.who == identity(hog.pid)?, "{denied:?} is of another than {:?}", identity(hog.pid)?);
    ensure!(denied.usage > denied.limit && denied.limit == Bytes(24 * MIB), "{denied:?}");
    let id = super::rig::id_of(&group)?;
    ensure!(denied.group == id, "{denied:?} names another group than {id:?}");
    ensure!(rig.tier.denials_of(id).unwrap_or(0) >= 5, "{:?} denials", rig.tier.denials_of(id));
    hog.ask("free")?;
    let refused = calls_refused(&mut hog)?;
    ensure!(refused.is_empty(), "still refused when under the line: {refused:?}");
    Ok(format!("peak {} of 24 MiB, {} denials", mib(peak), rig.tier.denials_of(id).unwrap_or(0)))
}

fn fifty(bench: &mut Bench<'_>) -> Result<String> {
    bounds(bench, 50)
}

fn thousand(bench: &mut Bench<'_>) -> Result<String> {
    bounds(bench, 1000)
}

fn bounds(bench: &mut Bench<'_>, runs: u64) -> Result<String> {
    const LINE: u64 = 8 * MIB;
    const STEP: u64 = 512 << 10;
    bench.patience *= 10;
    let rig = Rig::new(&[Hook::Deny])?;
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let mut hog = bench.agent(&job, "hog")?;
    let mut neighbour = bench.agent(&other, "neighbour")?;
    // A limit of its own, so that its groups are looked at too, and far away.
    rig.deny_over(&other, 1024 * MIB)?;
    rig.deny_over(&job, LINE)?;
    neighbour.ask("innocent 500")?;
    let rounds = hog.numbers(&format!("hammer anon {STEP} {} {runs}", 64 * MIB))?;
    let figures = neighbour.numbers("figures")?;
    ensure!(rounds[..2] == [runs, 0], "rounds refused and full: {rounds:?}");
    ensure!(figures[1] == 0 && figures[0] > runs / 10, "pieces and failures of the neighbour: {figures:?}");
    let peak = job.peak().unwrap_or(0);
    ensure!(peak <= bound(LINE, STEP), "peak {}, allowed {}", mib(peak), mib(bound(LINE, STEP)));
    ensure!(rig.tier.denials_of(super::rig::id_of(&other)?) == Some(0), "the neighbour was refused");
    Ok(format!("peak {} of {}, neighbour {} pieces, none failed", mib(peak), mib(LINE), figures[0]))
}

fn nested(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let outer = bench.group("job")?;
    outer.delegate_memory()?;
    let (a, b) = (bench.group("job/a")?, bench.group("job/b")?);
    let (mut in_a, mut in_b) = (bench.agent(&a, "in-a")?, bench.agent(&b, "in-b")?);
    let outer_id = rig.deny_over(&outer, 40 * MIB)?;
    let inner_id = rig.deny_over(&a, 16 * MIB)?;
    in_a.push("anon", 100 * MIB)?;
    in_a.note("refused")?;
    in_a.ask("stop")?;
    ensure!(rig.tier.denials_of(inner_id).unwrap_or(0) > 0, "not refused by the inner line");
    ensure!(rig.tier.denials_of(outer_id) == Some(0), "refused by the outer line too early");
    ensure!(a.peak().unwrap_or(0) <= bound(16 * MIB, 256 << 10), "inner peak {:?}", a.peak());
    in_a.ask("shrink 4194304")?;
    in_b.push("anon", 100 * MIB)?;
    in_b.note("refused")?;
    in_b.ask("stop")?;
    ensure!(rig.tier.denials_of(outer_id).unwrap_or(0) > 0, "not refused by the outer line");
    ensure!(outer.peak().unwrap_or(0) <= bound(40 * MIB, 256 << 10), "outer peak {:?}", outer.peak());
    let refused = calls_refused(&mut in_a)?;
    ensure!(
        refused.contains(&"mmap".to_owned()),
        "under its own line and the outer one is over: {refused:?}"
    );
    rig.tier.clear_group(outer_id)?;
    ensure!(calls_refused(&mut in_a)?.is_empty(), "refused although the outer line is gone");
    rig.tier.clear_group(inner_id)?;
    in_a.take("anon", 60 * MIB)?;
    Ok(format!("outer peak {}", mib(outer.peak().unwrap_or(0))))
}

/// As memgov makes them to hold a process: below its group, with no controller enabled.
fn hold(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let (group, child) = (bench.group("job")?, bench.group("job/memgov.hold-1")?);
    let mut hog = bench.agent(&child, "hog")?;
    let id = rig.deny_over(&group, 24 * MIB)?;
    hog.push("anon", 64 * MIB)?;
    hog.note("refused")?;
    ensure!(rig.tier.denials_of(id).unwrap_or(0) > 0, "nothing was counted");
    Ok(format!("peak {}", mib(group.peak().unwrap_or(0))))
}

/// Nobody gets out from under a line by nesting.
fn deep(bench: &mut Bench<'_>) -> Result<String> {
    const LEVELS: usize = 70;
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let mut path = "job".to_owned();
    group.delegate_memory()?;
    for _ in 0..LEVELS {
        path += "/n";
        bench.group(&path)?.delegate_memory()?;
    }
    let bottom = bench.group(&format!("{path}/n"))?;
    let mut hog = bench.agent(&bottom, "hog")?;
    let id = rig.deny_over(&group, 24 * MIB)?;
    hog.push("anon", 64 * MIB)?;
    hog.note("refused")?;
    ensure!(rig.tier.denials_of(id).unwrap_or(0) > 0, "nothing was counted");
    ensure!(group.peak().unwrap_or(0) <= bound(24 * MIB, 256 << 10), "peak {:?}", group.peak());
    Ok(format!("peak {} from {LEVELS} levels below", mib(group.peak().unwrap_or(0))))
}

fn exempt(bench: &mut Bench<'_>) -> Result<String> {
    let mut name = [0; 16];
    name[..6].copy_from_slice(b"rescue");
    let options = Options { lease: LONG, protected_names: vec![name], ..Options::default() };
    let rig = Rig::with(&[Hook::Deny], &options)?;
    let (group, mut hog) = filled(bench, &rig, "job")?;
    rig.deny_over(&group, 1024 * MIB)?;
    let (mut rescue, mut plain) = (bench.agent(&group, "rescue")?, bench.agent(&group, "plain")?);
    rig.deny_over(&group, 24 * MIB)?;
    // A program that has just been started has room to start in.
    std::thread::sleep(super::rig::ROOM_TO_START);
    ensure!(calls_refused(&mut rescue)?.is_empty(), "a protected name was refused");
    ensure!(calls_refused(&mut plain)?.len() == 5, "a plain name was not refused");
    rig.tier.exempt(identity(plain.pid)?, ExemptBy::Row, true)?;
    ensure!(calls_refused(&mut plain)?.is_empty(), "an exempt process was refused");
    rig.tier.exempt(identity(plain.pid)?, ExemptBy::Row, false)?;
    ensure!(calls_refused(&mut plain)?.len() == 5, "a process that is exempt no more was not refused");
    ensure!(calls_refused(&mut hog)?.len() == 5, "the hog was not refused");
    Ok(String::new())
}

fn lease(bench: &mut Bench<'_>) -> Result<String> {
    const LEASE: Duration = Duration::from_secs(3);
    let rig = Rig::with(&[Hook::Deny], &Options { lease: LEASE, ..Options::default() })?;
    let now = || Time(crate::sys::now());
    rig.tier.renew(now() + LONG);
    let (_, mut hog) = filled(bench, &rig, "job")?;
    rig.tier.renew(now());
    ensure!(calls_refused(&mut hog)?.len() == 5, "not refused while the lease is good");
    std::thread::sleep(LEASE);
    ensure!(calls_refused(&mut hog)?.is_empty(), "refused after the lease");
    rig.tier.renew(now());
    ensure!(calls_refused(&mut hog)?.len() == 5, "not refused after the lease was renewed");
    rig.tier.end_lease();
    ensure!(calls_refused(&mut hog)?.is_empty(), "refused after the lease was ended");
    Ok(String::new())
}

fn dropped(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let (_, mut hog) = filled(bench, &rig, "job")?;
    ensure!(calls_refused(&mut hog)?.len() == 5, "not refused");
    drop(rig);
    ensure!(calls_refused(&mut hog)?.is_empty(), "refused although nobody is there");
    let pinned = std::fs::read_dir("/sys/fs/bpf").map_or(0, |dir| {
        dir.flatten().filter(|it| !it.file_name().to_string_lossy().ends_with(".debug")).count()
    });
    ensure!(pinned == 0, "{pinned} things are pinned in /sys/fs/bpf");
    Ok(String::new())
}
