//! Rules for processes with two parts, resident memory and usage of the group, through the daemon and enforced inside the kernel: they act when both
//! hold, whichever comes first, and never before.

use anyhow::{Context, Result, ensure};

use super::rig::calls_refused;
use super::rules::{MOST_OVER, is_watched};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, process};

const USR1: i32 = 10;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_rule_of_two_parts_signals_when_both_hold", signals),
        test("bpf_rule_of_two_parts_denies_when_both_hold", denies),
    ]
}

/// The hog's own line, and that of its group.
const OWN: u64 = 32 * MIB;
const OF_GROUP: u64 = 96 * MIB;

fn rule(job: &Group, does: &str) -> String {
    format!(
        "[[rule]]\nname = \"both\"\nprocesses = {{ comm = \"hog\", groups = {:?} }}\nmeter = \"rss.anon\"\nover = \"{OWN}B\"\n\
         group-over = \"{OF_GROUP}B\"\ndo = [{does}]\n",
        job.path()
    )
}

/// A hog under the rule, and another process that fills their group.
struct Scene {
    job: Group,
    hog: Agent,
    ballast: Agent,
    daemon: Daemon,
}

fn scene(bench: &Bench<'_>, does: &str) -> Result<Scene> {
    let job = bench.group("job")?;
    let (hog, ballast) = (bench.agent(&job, "hog")?, bench.agent(&job, "ballast")?);
    let daemon = bench.daemon(&rule(&job, does))?;
    // Nobody in a group that is far from its line can be over both, so nobody has a row yet.
    is_watched(bench, &daemon, 0)?;
    Ok(Scene { job, hog, ballast, daemon })
}

/// Brings the group to an amount by the ballast, with the hog as it is.
fn fill(scene: &mut Scene, usage: u64) -> Result<()> {
    scene.ballast.ask("free")?;
    let more = usage.saturating_sub(scene.job.usage()?);
    scene.ballast.take("anon", more)?;
    Ok(())
}

fn signals(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = scene(bench, "{ action = \"signal\", signal = \"SIGUSR1\" }")?;
    let counted = |scene: &mut Scene| scene.hog.number(&format!("counted {USR1}"));
    scene.hog.ask(&format!("yield-on {USR1}"))?;
    // Only its own memory is over its line.
    scene.hog.take("anon", OWN + 8 * MIB)?;
    ensure!(scene.job.usage()? < OF_GROUP, "the group is over its line too");
    std::thread::sleep(bench.patience() / 10);
    ensure!(counted(&mut scene)? == 0, "signalled although its group is under the line");
    // Its own came first, and the group's is crossed by the hog itself.
    fill(&mut scene, OF_GROUP - 4 * MIB)?;
    is_watched(bench, &scene.daemon, 1)?;
    let before = scene.job.usage()?;
    scene.hog.push("anon", 200 * MIB)?;
    let first = yielded(&mut scene)?;
    let most = OWN + 8 * MIB + (OF_GROUP - before);
    ensure!(first + MIB > most && first <= most + MIB, "held {}, and {} was the line", mib(first), mib(most));
    relieved(bench, &mut scene)?;
    // Now the group's comes first.
    scene.ballast.take("anon", OF_GROUP + 4 * MIB)?;
    scene.hog.take("anon", OWN / 2)?;
    is_watched(bench, &scene.daemon, 1)?;
    std::thread::sleep(bench.patience() / 10);
    ensure!(counted(&mut scene)? == 1, "signalled although it holds little itself");
    scene.hog.push("anon", 200 * MIB)?;
    let second = yielded(&mut scene)?;
    ensure!(second <= OWN + MOST_OVER, "held {}, and {} was the line", mib(second), mib(OWN));
    ensure!(counted(&mut scene)? == 2, "{} signals in two episodes", counted(&mut scene)?);
    Ok(format!("signalled at {} of {} and at {} of {}", mib(first), mib(most), mib(second), mib(OWN)))
}

/// What the hog held when the signal came, and that the kernel sent it.
fn yielded(scene: &mut Scene) -> Result<u64> {
    let note = scene.hog.note("yielded")?;
    let pid = scene.hog.pid;
    let patience = std::time::Duration::from_secs(20);
    let event =
        scene.daemon.event("the signal", patience, |event| event.order == "signal" && event.is_of(pid))?;
    ensure!(event.by() == "bpf" && event.reason.kind == "usage-and-rss", "{event}");
    Ok(note.numbers.get(1).copied().unwrap_or(u64::MAX))
}

/// It has let go of its memory when it was signalled; the episode ends, and the signal is armed anew.
fn relieved(bench: &Bench<'_>, scene: &mut Scene) -> Result<()> {
    let pid = scene.hog.pid;
    scene.daemon.event("relief", bench.patience(), |event| event.order == "relieved" && event.is_of(pid))?;
    scene.ballast.ask("free")?;
    std::thread::sleep(bench.patience() / 20);
    Ok(())
}

fn denies(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = scene(bench, "\"deny\"")?;
    scene.hog.take("anon", OWN + 8 * MIB)?;
    ensure!(calls_refused(&mut scene.hog)?.is_empty(), "refused although its group is under the line");
    fill(&mut scene, OF_GROUP - 4 * MIB)?;
    is_watched(bench, &scene.daemon, 1)?;
    scene.hog.push("anon", 200 * MIB)?;
    scene.hog.note("refused")?;
    scene.hog.ask("stop")?;
    let usage = scene.job.usage()?;
    // Processors give back meanwhile what they keep charged beforehand (64 pages each, `MEMCG_CHARGE_BATCH` in mm/memcontrol.c).
    let most = super::rig::bound(OF_GROUP, 0);
    let near = usage + (most - OF_GROUP) >= OF_GROUP && usage <= most + (256 << 10);
    ensure!(near, "refused at {}", mib(usage));
    ensure!(calls_refused(&mut scene.ballast)?.is_empty(), "the ballast is refused, which no rule names");
    // The hog holds little, its group much: that is not both.
    scene.hog.ask("free")?;
    scene.ballast.take("anon", OF_GROUP + 4 * MIB)?;
    let free = crate::harness::poll_until(bench.patience(), std::time::Duration::from_millis(50), || {
        calls_refused(&mut scene.hog).ok()?.is_empty().then_some(())
    });
    ensure!(free.is_some(), "still refused when it holds little itself");
    scene.hog.push("anon", 200 * MIB)?;
    scene.hog.note("refused")?;
    scene.hog.ask("stop")?;
    let anon = process::status(scene.hog.pid, "RssAnon").context("reading what it holds")?;
    let held = anon.split(' ').next().unwrap_or_default().parse::<u64>()? * 1024;
    // Before 6.2 each thread keeps up to 64 pages to itself, which this file does not show.
    ensure!(held + MIB > OWN && held <= OWN + MOST_OVER, "refused at {} of its own", mib(held));
    Ok(format!(
        "refused at {} of the group's {}, and at {} of its own {}",
        mib(usage),
        mib(OF_GROUP),
        mib(held),
        mib(OWN)
    ))
}
