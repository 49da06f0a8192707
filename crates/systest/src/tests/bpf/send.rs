//! Signals and kills out of the kernel, and the events of charges and of the OOM killer.

use anyhow::{Result, ensure};
use memgov::bpf::{Condition, Event, EventKind, GroupLimit, Hook, TaskAction};
use memgov_decide::policy::Over;
use memgov_decide::units::Bytes;

use super::process::{ANON, limit, rss};
use super::rig::{Rig, bound, id_of, identity};
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_signal_once_until_it_is_set_anew", once),
        test("bpf_signal_over_a_group_line", over_group),
        test("bpf_kill_takes_the_process_and_no_other", kill),
        test("bpf_kill_needs_the_lease", lease),
        test("bpf_crossing_is_told_once_an_episode", crossing),
        test("bpf_oom_and_its_victim_are_told", oom),
    ]
}

const USR1: u8 = 10;

fn once(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Rss])?;
    let mut hog = bench.agent(&bench.group("job")?, "hog")?;
    hog.ask("count 10")?;
    let wanted = limit(rss(ANON, 16 * MIB), TaskAction::Signal { signal: USR1 }, 3);
    rig.limit_process(&hog, &wanted)?;
    hog.take("anon", 8 * MIB)?;
    ensure!(hog.number("counted 10")? == 0, "signalled under its line");
    hog.take("anon", 32 * MIB)?;
    ensure!(hog.number("counted 10")? == 1, "signalled {} times", hog.number("counted 10")?);
    let event = rig.wait_for(EventKind::Signalled, hog.pid, bench.patience())?;
    ensure!(event.tag == 3 && event.signal == USR1 && event.who == identity(hog.pid)?, "{event:?}");
    ensure!(event.limit == Bytes(16 * MIB) && anon(&event) > event.limit, "{event:?}");
    ensure!(anon(&event).0 <= bound(16 * MIB, 0), "{event:?}");
    rig.limit_process(&hog, &wanted)?;
    hog.take("anon", 34 * MIB)?;
    ensure!(hog.number("counted 10")? == 2, "set anew: signalled {} times", hog.number("counted 10")?);
    let mut child = hog.offspring("fork", &bench.dir)?;
    child.take("anon", 36 * MIB)?;
    ensure!(
        child.number("counted 10")? == 3,
        "a child is signalled for itself: {}",
        child.number("counted 10")?
    );
    Ok(format!("at {}", mib(anon(&event).0)))
}

fn over_group(bench: &mut Bench<'_>) -> Result<String> {
    const LINE: u64 = 24 * MIB;
    let mut rig = Rig::new(&[Hook::Charge])?;
    let group = bench.group("job")?;
    let (mut hog, mut other) = (bench.agent(&group, "hog")?, bench.agent(&group, "other")?);
    for agent in [&mut hog, &mut other] {
        agent.ask("count 10")?;
    }
    let over = Condition { group: Some(Over::Amount(Bytes(LINE))), rss: None };
    rig.limit_process(&hog, &limit(over, TaskAction::Signal { signal: USR1 }, 4))?;
    hog.take("anon", 48 * MIB)?;
    let event = rig.wait_for(EventKind::Signalled, hog.pid, bench.patience())?;
    ensure!(event.usage.0 > LINE && event.usage.0 <= bound(LINE, 0), "{event:?}");
    ensure!(event.group == id_of(&group)?, "{event:?}");
    ensure!(
        hog.number("counted 10")? == 1 && other.number("counted 10")? == 0,
        "who was signalled, and how often"
    );
    Ok(format!("at {} of {}", mib(event.usage.0), mib(LINE)))
}

fn kill(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Rss])?;
    let group = bench.group("job")?;
    let (mut hog, mut other) = (bench.agent(&group, "hog")?, bench.agent(&group, "other")?);
    rig.limit_process(&hog, &limit(rss(ANON, 16 * MIB), TaskAction::Kill, 8))?;
    rig.tier.allow_kills(1);
    other.take("anon", 24 * MIB)?;
    hog.push("anon", 64 * MIB)?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == 9, "died of {signal}");
    let event = rig.wait_for(EventKind::Killed, hog.pid, bench.patience())?;
    ensure!(event.tag == 8 && anon(&event).0 <= bound(16 * MIB, 0), "{event:?}");
    ensure!(other.number("held")? == 24 * MIB, "the other is not as it was");
    ensure!(rig.count(EventKind::Killed, hog.pid) == 1, "told more than once");
    Ok(format!("at {}", mib(anon(&event).0)))
}

fn lease(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Rss, Hook::Charge])?;
    let mut hog = bench.agent(&bench.group("job")?, "hog")?;
    rig.tier.end_lease();
    rig.tier.allow_kills(1);
    rig.limit_process(&hog, &limit(rss(ANON, 4 * MIB), TaskAction::Kill, 8))?;
    hog.take("anon", 16 * MIB)?;
    rig.tier.renew(memgov_decide::units::Time(crate::sys::now()));
    hog.push("anon", 64 * MIB)?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == 9, "died of {signal}");
    Ok(String::new())
}

fn crossing(bench: &mut Bench<'_>) -> Result<String> {
    const LINE: u64 = 16 * MIB;
    let mut rig = Rig::new(&[Hook::Charge])?;
    let group = bench.group("job")?;
    let mut hog = bench.agent(&group, "hog")?;
    let id = rig.limit(&group, GroupLimit { tell: Some(Bytes(LINE)), tag: 6, ..GroupLimit::default() })?;
    let mut said = Vec::new();
    for episode in 1..=3 {
        // Sooner after the last it would not be told at once.
        std::thread::sleep(std::time::Duration::from_millis(150));
        hog.take("anon", 24 * MIB)?;
        let crossed: Vec<_> =
            rig.events().iter().filter(|event| event.kind == EventKind::Crossed).copied().collect();
        ensure!(crossed.len() == episode, "in episode {episode}: {crossed:?}");
        let event = crossed[episode - 1];
        ensure!(event.group == id && event.tag == 6 && event.who == identity(hog.pid)?, "{event:?}");
        ensure!(event.usage.0 > LINE && event.usage.0 <= bound(LINE, 0), "{event:?}");
        said.push(mib(event.usage.0));
        hog.ask("free")?;
        hog.take("anon", 2 * MIB)?;
        hog.ask("free")?;
    }
    ensure!(rig.tier.denials_of(id) == Some(0), "something was refused");
    Ok(format!("at {}", said.join(", ")))
}

fn oom(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Oom])?;
    let group = bench.group("job")?;
    let mut hog = bench.agent(&group, "hog")?;
    group.set_max(24 * MIB)?;
    hog.push("anon", 64 * MIB)?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == 9, "died of {signal}");
    let enter = rig.wait_for(EventKind::OomEnter, hog.pid, bench.patience())?;
    let victim = rig.wait_for(EventKind::OomVictim, hog.pid, bench.patience())?;
    ensure!(enter.group == id_of(&group)? && enter.usage.0 <= 24 * MIB, "{enter:?}");
    ensure!(victim.group == id_of(&group)?, "{victim:?}");
    Ok(format!("at {}", mib(enter.usage.0)))
}

/// The anonymous memory of who caused an event.
fn anon(event: &Event) -> Bytes {
    event.rss.and_then(|rss| rss.anon).unwrap_or_default()
}
