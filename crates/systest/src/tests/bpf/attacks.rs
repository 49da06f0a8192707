//! Ways out from under a limit of usage or resident memory: moving between groups, being born elsewhere, starting programs, a daemon that stands
//! still, rules that change while somebody allocates. Those out from under kernel memory are in `kernel_attacks`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memgov::bpf::{Hook, TaskAction};

use super::feed::{await_record, denying, recorded};
use super::process::{ANON, limit, rss};
use super::rig::{Rig, bound, calls_refused};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_attack_moving_between_groups_while_over", moving),
        test("bpf_attack_born_into_another_group", born).needs(&[Need::Bpf, Need::V2]),
        test("bpf_attack_helper_in_another_group_maps_for_it", helper),
        test("bpf_attack_programs_started_by_the_hundred", programs),
        test("bpf_attack_children_gone_before_they_are_known", brood),
        test("bpf_attack_rules_reloaded_while_it_allocates", reloads),
        test("bpf_stopped_daemon_kills_nobody_until_it_goes_on", stopped),
        test("bpf_dry_run_is_reloaded_to_enforce_and_back", dry_run),
    ]
}

const LINE: u64 = 24 * MIB;
const STEP: u64 = 256 << 10;

/// What is charged stays where it was charged, and each group is held at its own line, whoever is in it at the moment. What was asked for in one group and
/// first touched in another is charged there without a call that could be refused: no more than one call of this workload for each time it was moved.
fn moving(bench: &mut Bench<'_>) -> Result<String> {
    const MOVES: u64 = 60;
    let rig = Rig::new(&[Hook::Deny])?;
    let groups = [bench.group("a")?, bench.group("b")?];
    let mut hog = bench.agent(&groups[0], "hog")?;
    let before = groups[0].usage()?;
    for group in &groups {
        rig.deny_over(group, LINE)?;
    }
    hog.grow("anon", STEP, Duration::ZERO, 256 * MIB)?;
    for turn in 1..=MOVES {
        groups[usize::from(turn % 2 == 1)].write("cgroup.procs", &hog.pid.to_string())?;
        std::thread::sleep(Duration::from_millis(5));
    }
    hog.note("refused")?;
    hog.ask("stop")?;
    let held = hog.number("held")?;
    for group in &groups {
        let peak = group.peak().unwrap_or(0);
        ensure!(peak <= bound(LINE, STEP) + MOVES / 2 * STEP, "{}: peak {}", group.path(), mib(peak));
    }
    let most = 2 * bound(LINE, STEP) - before.min(LINE);
    ensure!(held <= most + MOVES * STEP, "held {} in both together", mib(held));
    let carried = held.saturating_sub(most).div_ceil(STEP);
    Ok(format!(
        "{} held in two groups of {} each, {carried} of {MOVES} moves between asking and touching",
        mib(held),
        mib(LINE)
    ))
}

/// A child that is cloned into a full group (CLONE_INTO_CGROUP) is refused there, and one that is cloned out of it takes its own limit along.
fn born(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let (full, free) = (bench.group("full")?, bench.group("free")?);
    let (mut hog, mut outsider) = (bench.agent(&full, "hog")?, bench.agent(&free, "outsider")?);
    hog.take("anon", LINE + 4 * MIB)?;
    rig.deny_over(&full, LINE)?;
    let into = |dir: &std::path::Path| format!("fork-into {}", dir.display());
    let mut inside = outsider.offspring(&into(full.dir()), &bench.dir)?;
    ensure!(full.processes().contains(&inside.pid), "the child is in {}", inside.ask("groups")?);
    let refused = calls_refused(&mut inside)?;
    ensure!(refused.len() >= 5, "born into a full group it is refused only {refused:?}");
    ensure!(calls_refused(&mut outsider)?.is_empty(), "its parent is refused elsewhere");

    rig.limit_process(&hog, &limit(rss(ANON, 16 * MIB), TaskAction::Deny, 5))?;
    let mut outside = hog.offspring(&into(free.dir()), &bench.dir)?;
    ensure!(free.processes().contains(&outside.pid), "the child is in {}", outside.ask("groups")?);
    ensure!(
        rig.tag_of(outside.pid)? == Some(5),
        "its own limit stayed behind: {:?}",
        rig.tag_of(outside.pid)?
    );
    let refused = calls_refused(&mut outside)?;
    ensure!(refused.len() >= 5, "what it holds is over its own line, and it is refused only {refused:?}");
    Ok(String::new())
}

/// What is mapped counts for the group of who owns the address space, wherever a process that shares it is.
fn helper(bench: &mut Bench<'_>) -> Result<String> {
    const ENOMEM: u64 = 12;
    let rig = Rig::new(&[Hook::Deny])?;
    let (full, free) = (bench.group("full")?, bench.group("free")?);
    let (mut hog, mut outsider) = (bench.agent(&full, "hog")?, bench.agent(&free, "outsider")?);
    hog.take("anon", LINE + 4 * MIB)?;
    let by_helper = |agent: &mut Agent, group: &Group| {
        agent.number(&format!("ask-by-helper {} {MIB}", group.dir().join("cgroup.procs").display()))
    };
    ensure!(by_helper(&mut hog, &free)? == 0, "refused although nothing is denied");
    rig.deny_over(&full, LINE)?;
    ensure!(by_helper(&mut hog, &full)? == ENOMEM, "not refused in its own group");
    ensure!(by_helper(&mut hog, &free)? == ENOMEM, "a helper in a free group maps for a full one");
    ensure!(by_helper(&mut outsider, &full)? == 0, "a helper in a full group may not map for a free one");
    rig.tier.clear_group(super::rig::id_of(&full)?)?;
    // Likewise of what a process is held to itself.
    rig.limit_process(&hog, &limit(rss(ANON, 16 * MIB), TaskAction::Deny, 5))?;
    ensure!(by_helper(&mut hog, &free)? == ENOMEM, "a helper maps for a process over its own line");
    Ok(String::new())
}

/// A child of vfork has its parent's memory and is not signalled for it; the program it becomes has its own.
fn programs(bench: &mut Bench<'_>) -> Result<String> {
    const USR1: i32 = 10;
    let rig = Rig::new(&[Hook::Rss])?;
    let mut parent = bench.agent(&bench.group("job")?, "parent")?;
    parent.ask(&format!("count {USR1}"))?;
    parent.take("anon", 32 * MIB)?;
    rig.limit_process(&parent, &limit(rss(ANON, 16 * MIB), TaskAction::Signal { signal: 10 }, 3))?;
    parent.say("spawn 200")?;
    let well = bench.patience * 4;
    let ended =
        poll_until(well, Duration::from_millis(50), || parent.answered().ok()).context("no answer")?;
    ensure!(ended == [200], "of 200 programs {ended:?} ended as they should");
    ensure!(rig.tag_of(parent.pid)? == Some(3), "the parent has lost its limit");
    parent.take("anon", 40 * MIB)?;
    let signals = parent.number(&format!("counted {USR1}"))?;
    ensure!(signals == 1, "the parent was signalled {signals} times");
    Ok(String::new())
}

/// They inherit their parent's line and are killed at it before memgov has heard that they were born: each leaves a record.
fn brood(bench: &mut Bench<'_>) -> Result<String> {
    const CHILDREN: u64 = 12;
    let job = bench.group("job")?;
    let mut parent = bench.agent(&job, "hog")?;
    let rule = format!(
        "[memgov]\nkills = {{ count = 100, window = \"10m\" }}\n[[rule]]\nname = \"hogs\"\n\
         processes = {{ comm = \"hog\", groups = {:?} }}\nmeter = \"rss.anon\"\nover = \"24MiB\"\ndo = [\"kill\"]\n",
        job.path()
    );
    let daemon = bench.daemon(&rule)?;
    std::thread::sleep(Duration::from_millis(500));
    let died = parent.number(&format!("brood {CHILDREN} {}", 64 * MIB))?;
    ensure!(died > 0, "none was killed");
    let killed = || -> Result<Vec<i64>> {
        let all = recorded(&daemon)?;
        let kills = all.iter().filter(|event| event["order"] == "kill" && event["outcome"]["kind"] == "dead");
        let mut pids: Vec<i64> = kills.filter_map(|event| event["target"]["pid"].as_i64()).collect();
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    };
    let all = |pids: &Vec<i64>| pids.len() as u64 == died && !pids.contains(&i64::from(parent.pid));
    let found = poll_until(bench.patience(), Duration::from_millis(50), || killed().ok().filter(all));
    ensure!(found.is_some(), "{died} died, records of {:?}\n{}", killed()?, daemon.ok(&["events"])?);
    // What the loop has not seen at all: it stands still, for less than the lease, while a child is born, grows, is killed and buried.
    // One kill is allowed when the memory of those before is back, which the loop looks at at least every quarter of a lease.
    let mut buried = 0;
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(3));
        daemon.signal(libc::SIGSTOP)?;
        let last = parent.number(&format!("brood 1 {}", 64 * MIB));
        daemon.signal(libc::SIGCONT)?;
        buried += last?;
        if buried > 0 {
            break;
        }
    }
    ensure!(buried == 1, "no child was killed while the loop stood still");
    let event = await_record(bench, &daemon, "a child that nobody knew", |event| {
        event["reason"]["text"].as_str().is_some_and(|text| text.contains("gone before memgov"))
    })?;
    ensure!(event["order"] == "kill" && event["outcome"]["by"] == "bpf", "{event}");
    ensure!(event["source"]["rule"] == "hogs" && event["target"]["comm"] == "hog", "{event}");
    ensure!(event["reason"]["rss_bytes"].as_u64() > Some(24 * MIB), "{event}");
    Ok(format!("{died} of {CHILDREN} killed and recorded; then {}", event["reason"]["text"]))
}

/// The line moves with each reload and is never away.
fn reloads(bench: &mut Bench<'_>) -> Result<String> {
    const HIGHEST: u64 = 26;
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let (mut hog, mut neighbour) = (bench.agent(&job, "hog")?, bench.agent(&other, "neighbour")?);
    let daemon = bench.quiet_daemon(&denying(&job, 24), &[])?;
    std::thread::sleep(Duration::from_millis(500));
    neighbour.ask("innocent 2000")?;
    hog.say(&format!("hammer anon {STEP} {} 60", 128 * MIB))?;
    for turn in 0..30 {
        std::fs::write(daemon.config(), denying(&job, 24 + turn % 3))?;
        daemon.ok(&["reload"])?;
    }
    let within = bench.patience * 6;
    let rounds =
        poll_until(within, Duration::from_millis(50), || hog.answered().ok()).context("no answer")?;
    ensure!(rounds[1] == 0, "{} rounds were refused and {} were not", rounds[0], rounds[1]);
    let peak = job.peak().unwrap_or(0);
    ensure!(peak <= bound(HIGHEST * MIB, STEP), "peak {}", mib(peak));
    let figures = neighbour.numbers("figures")?;
    ensure!(figures[0] > 0 && figures[1] == 0, "pieces and failures of the neighbour: {figures:?}");
    Ok(format!("{} rounds under 30 reloads, peak {} of {HIGHEST} MiB", rounds[0], mib(peak)))
}

/// Nothing is held, so no guardian ends it: what the kernel was told beforehand ends with the lease, and is taken up where it was left.
fn stopped(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = bench.agent(&job, "hog")?;
    let rule = format!(
        "[memgov]\nlease = \"1s\"\n[[rule]]\nprocesses = {{ comm = \"hog\", groups = {:?} }}\nmeter = \"rss.anon\"\n\
         over = \"24MiB\"\ndo = [\"kill\"]\n",
        job.path()
    );
    let daemon = bench.quiet_daemon(&rule, &[])?;
    std::thread::sleep(Duration::from_millis(500));
    daemon.signal(libc::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(1500));
    let taken = hog.take("anon", 64 * MIB);
    daemon.signal(libc::SIGCONT)?;
    taken.context("killed by programs whose lease had ended")?;
    let (_, signal) = hog.wait_for_end(bench.patience())?;
    ensure!(signal == libc::SIGKILL, "died of {signal}");
    Ok(String::new())
}

fn dry_run(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 64 * MIB)?;
    let config = |dry: bool| format!("[memgov]\ndry-run = {dry}\n{}", denying(&job, 32));
    let daemon = bench.quiet_daemon(&config(true), &[])?;
    let tier = || -> Result<(usize, String)> {
        let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
        let hooks = status["tier"]["hooks"].as_array().map_or(0, Vec::len);
        Ok((hooks, status["tier"]["why"].as_str().unwrap_or_default().to_owned()))
    };
    let mut allowed = |when: &str| -> Result<()> {
        let all = || calls_refused(&mut hog).ok().filter(Vec::is_empty);
        let free = poll_until(bench.patience(), Duration::from_millis(50), all);
        ensure!(free.is_some(), "{when} calls are refused");
        let (hooks, why) = tier()?;
        ensure!(hooks == 0 && why.contains("dry run"), "{when} {hooks} programs are attached: {why:?}");
        Ok(())
    };
    allowed("in a dry run")?;
    // By signal: loading programs takes an emulated machine longer than an answer may.
    let reload = |dry: bool| -> Result<()> {
        std::fs::write(daemon.config(), config(dry))?;
        daemon.signal(libc::SIGHUP)
    };
    for round in 0..2 {
        reload(false)?;
        let attached = || tier().ok().filter(|(hooks, why)| *hooks > 0 && why.is_empty());
        let found = poll_until(bench.patience() * 4, Duration::from_millis(100), attached);
        ensure!(found.is_some(), "round {round}: {:?}", tier()?);
        std::thread::sleep(Duration::from_millis(500));
        reload(true)?;
        let detached = || tier().ok().filter(|(hooks, why)| *hooks == 0 && why.contains("dry run"));
        let found = poll_until(bench.patience() * 4, Duration::from_millis(100), detached);
        ensure!(found.is_some(), "round {round}, back in a dry run: {:?}", tier()?);
        allowed("back in a dry run")?;
    }
    reload(false)?;
    let refused = || calls_refused(&mut hog).ok().filter(|refused| refused.len() >= 5);
    let held = poll_until(bench.patience(), Duration::from_millis(50), refused);
    ensure!(held.is_some(), "not refused when it is meant: {}", daemon.ok(&["status"])?);
    let status = daemon.ok(&["status"])?;
    ensure!(status.contains("deny by bpf"), "by what it is done: {status}");
    Ok(String::new())
}
