//! Limits of processes: what is compared, and that a limit follows its process and nobody else.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use memgov::bpf::{Condition, EventKind, GroupLimit, Hook, TaskAction, TaskLimit};
use memgov_decide::policy::{Kinds, Over, RssOver};
use memgov_decide::units::{Bytes, Limit};

use super::rig::{Rig, bound, calls_refused, pidfd};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_process_deny_by_kind_of_memory", kinds).needs(&[Need::Bpf, Need::FileMemory]),
        test("bpf_process_deny_over_a_virtual_high", virtual_high),
        test("bpf_process_deny_over_memory_high", memory_high).needs(&[Need::Bpf, Need::V2]),
        test("bpf_process_limit_follows_fork_exec_and_threads", follows),
        test("bpf_process_limit_of_other_rules_is_looked_at_no_more", other_rules),
        test("bpf_process_limit_goes_with_its_process", goes),
        test("bpf_process_limit_is_not_found_by_a_reused_pid", reused).needs(&[Need::Bpf, Need::ChoosePid]),
    ]
}

pub const ANON: Kinds = Kinds { anon: true, file: false, shmem: false };

/// Over so much resident memory.
pub fn rss(kinds: Kinds, over: u64) -> Condition {
    Condition { group: None, rss: Some(RssOver { kinds, over: Bytes(over) }) }
}

pub fn limit(condition: Condition, action: TaskAction, tag: u64) -> TaskLimit {
    TaskLimit { condition, group: None, action, held: false, by_rule: false, tag }
}

fn kinds(bench: &mut Bench<'_>) -> Result<String> {
    const LINE: u64 = 16 * MIB;
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let file = bench.host.file_memory.clone().map_err(anyhow::Error::msg)?.join("kinds");
    let mut said = Vec::new();
    let of = |anon, file, shmem| Kinds { anon, file, shmem };
    for (kind, other, kinds) in [
        ("anon", "shmem", of(true, false, false)),
        ("file", "anon", of(false, true, false)),
        ("shmem", "anon", of(false, false, true)),
    ] {
        let mut hog = bench.agent(&group, kind)?;
        hog.ask(&format!("file {}", file.display()))?;
        rig.limit_process(&hog, &limit(rss(kinds, LINE), TaskAction::Deny, 1))?;
        hog.take(other, 2 * LINE).with_context(|| format!("{other} does not count for {kind}"))?;
        hog.ask("free")?;
        hog.push(kind, 3 * LINE)?;
        hog.note("refused").with_context(|| format!("{kind} counts for {kind}"))?;
        hog.ask("stop")?;
        let held = hog.number("held")?;
        // The program itself has a few MiB; what processors or threads have not added yet is less than 64 pages each.
        ensure!(held <= bound(LINE, 256 << 10) && held + 8 * MIB > LINE, "{kind}: refused at {}", mib(held));
        said.push(format!("{kind} at {}", mib(held)));
    }
    Ok(said.join(", "))
}

fn over_high(bench: &mut Bench<'_>, set: impl Fn(&Rig) -> Result<()>, high: u64) -> Result<String> {
    const CLIMIT: u64 = 4 * MIB;
    let mut rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let (mut marked, mut unmarked) = (bench.agent(&group, "marked")?, bench.agent(&group, "unmarked")?);
    set(&rig)?;
    let over = Condition { group: Some(Over::High { plus: Bytes(CLIMIT) }), rss: None };
    rig.limit_process(&marked, &limit(over, TaskAction::Deny, 9))?;
    marked.push("anon", 4 * high)?;
    marked.note("refused")?;
    marked.ask("stop")?;
    let denied = rig.wait_for(EventKind::Denied, marked.pid, bench.patience())?;
    ensure!(denied.limit == Bytes(high + CLIMIT) && denied.tag == 9, "{denied:?}");
    ensure!(denied.usage.0 <= bound(high + CLIMIT, 256 << 10), "{denied:?}");
    ensure!(calls_refused(&mut unmarked)?.is_empty(), "another process of the group was refused");
    marked.ask("free")?;
    ensure!(calls_refused(&mut marked)?.is_empty(), "refused although the group is under the line");
    Ok(format!("refused at {}", mib(denied.usage.0)))
}

fn virtual_high(bench: &mut Bench<'_>) -> Result<String> {
    let group = bench.group("job")?;
    let high = GroupLimit { high: Some(Limit::At(Bytes(32 * MIB))), ..GroupLimit::default() };
    over_high(bench, |rig| rig.limit(&group, high).map(drop), 32 * MIB)
}

fn memory_high(bench: &mut Bench<'_>) -> Result<String> {
    let group = bench.group("job")?;
    over_high(bench, |_| group.set_high(32 * MIB), 32 * MIB)
}

fn follows(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let mut parent = bench.agent(&group, "parent")?;
    rig.limit_process(&parent, &limit(rss(ANON, 24 * MIB), TaskAction::Deny, 77))?;
    let mut child = parent.offspring("fork", &bench.dir)?;
    let grandchild = child.offspring("fork", &bench.dir)?;
    for pid in [parent.pid, child.pid, grandchild.pid] {
        ensure!(rig.tag_of(pid)? == Some(77), "{pid} has {:?}", rig.tag_of(pid)?);
    }
    rig.tier.clear_process(pidfd(parent.pid)?.as_fd())?;
    ensure!(
        rig.tag_of(parent.pid)?.is_none() && rig.tag_of(child.pid)? == Some(77),
        "cleared in the parent only"
    );
    child.exec()?;
    ensure!(rig.tag_of(child.pid)? == Some(77), "lost by exec: {:?}", rig.tag_of(child.pid)?);
    child.push("anon", 64 * MIB)?;
    child.note("refused").context("the child's own memory is what counts")?;
    ensure!(calls_refused(&mut parent)?.is_empty(), "the parent was refused");
    // Another thread than the first calls exec: the first one goes, and its storage with it.
    rig.limit_process(&parent, &limit(rss(ANON, 24 * MIB), TaskAction::Deny, 78))?;
    let mut thread = parent.offspring("thread", &bench.dir)?;
    thread.say("exec")?;
    parent.note("ready").context("the program that a thread became")?;
    ensure!(rig.tag_of(parent.pid)? == Some(78), "lost by exec of a thread: {:?}", rig.tag_of(parent.pid)?);
    Ok(String::new())
}

/// What a child has of its parent's ends with the rule, and not with what the parent has asked for itself.
fn other_rules(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let (mut ruled, mut wilful) = (bench.agent(&group, "ruled")?, bench.agent(&group, "wilful")?);
    let over = |by_rule| TaskLimit { by_rule, ..limit(rss(ANON, 0), TaskAction::Deny, 7) };
    rig.limit_process(&ruled, &over(true))?;
    rig.limit_process(&wilful, &over(false))?;
    let (child, heir) = (ruled.offspring("fork", &bench.dir)?, wilful.offspring("fork", &bench.dir)?);
    let mut all = [ruled, child, wilful, heir];
    let refused = |all: &mut [Agent; 4], when: &str, wanted: [usize; 4]| -> Result<()> {
        let found = all.iter_mut().map(|agent| calls_refused(agent).map(|calls| calls.len()));
        let found = found.collect::<Result<Vec<_>>>()?;
        ensure!(
            found == wanted,
            "{when}: calls refused to who has a rule, its child, who has asked, its child: {found:?}"
        );
        Ok(())
    };
    refused(&mut all, "at first", [5, 5, 5, 5])?;
    rig.tier.begin_generation();
    refused(&mut all, "while rows are told anew", [5, 5, 5, 5])?;
    rig.tier.end_generation();
    refused(&mut all, "with other rules", [0, 0, 5, 5])?;
    let mut late = all[0].offspring("fork", &bench.dir)?;
    ensure!(rig.tag_of(late.pid)?.is_none(), "what stands no more was inherited");
    rig.tier.begin_generation();
    rig.limit_process(&all[0], &over(true))?;
    refused(&mut all, "told ahead", [5, 0, 5, 5])?;
    rig.tier.end_generation();
    refused(&mut all, "told in time", [5, 0, 5, 5])?;
    ensure!(calls_refused(&mut late)?.is_empty(), "a child that inherited nothing was refused");
    Ok(String::new())
}

fn goes(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    let mut agent = bench.agent(&group, "short")?;
    let pid = agent.pid;
    rig.limit_process(&agent, &limit(rss(ANON, 24 * MIB), TaskAction::Deny, 5))?;
    let fd = pidfd(pid)?;
    agent.say("exit 0")?;
    agent.wait_for_end(bench.patience())?;
    let exit = rig.wait_for(EventKind::Exit, pid, bench.patience())?;
    ensure!(exit.tag == 5, "{exit:?}");
    let gone = poll_until(bench.patience(), Duration::from_millis(10), || {
        rig.tier.process(fd.as_fd()).is_none().then_some(())
    });
    ensure!(gone.is_some(), "the limit outlived its process");
    let some = limit(rss(ANON, MIB), TaskAction::Deny, 6);
    let again = rig.tier.set_process(fd.as_fd(), &some);
    ensure!(again.is_err(), "a limit could be set on a process that is gone");
    Ok(format!("setting it then: {again:?}"))
}

fn reused(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::new(&[Hook::Deny])?;
    let group = bench.group("job")?;
    for tries in 1..=20 {
        let mut first = bench.agent(&group, "first")?;
        let pid = first.pid;
        rig.limit_process(&first, &limit(rss(ANON, 0), TaskAction::Deny, 5))?;
        ensure!(calls_refused(&mut first)?.len() == 5, "the first one was not refused");
        first.say("exit 0")?;
        first.wait_for_end(bench.patience())?;
        drop(first);
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let mut second = bench.agent(&group, "second")?;
        if second.pid != pid {
            continue;
        }
        ensure!(rig.tag_of(pid)?.is_none(), "the next process of that pid has the limit of the first");
        ensure!(calls_refused(&mut second)?.is_empty(), "the next process of that pid was refused");
        return Ok(format!("pid {pid} had again at try {tries}"));
    }
    bail!("no pid could be had twice in 20 tries")
}
