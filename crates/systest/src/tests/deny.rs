//! `deny` beyond the letter's criteria: threads, children, other users' processes, processes with limits of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, CLIMIT, Rig, expect_probe, virtual_high, word};
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("deny_reaches_every_thread", threads).seconds(45),
        Test::new("deny_reaches_a_process_without_its_first_thread", headless),
        Test::new("deny_group_rule_takes_all_and_leaves_the_neighbour", group_rule),
        Test::new("deny_children_inherit_and_are_released", children),
        Test::new("deny_never_gets_a_program_killed_in_exec", execed_child),
        Test::new("deny_setuid_child_is_held_and_released", setuid_child).needs(&[Need::SysResource]),
        Test::new("deny_setuid_child_out_of_reach_is_reported", setuid_refused).needs(&[Need::NoSysResource]),
        Test::new("deny_respects_limits_set_meanwhile", own_limits),
        Test::new("deny_restores_odd_limits_exactly", odd_limits),
        Test::new("deny_shared_memory_by_rss_rule", shared),
    ]
}

/// A group denied as a whole while over 64 MiB, and what fills it: one process over the line, and the time it takes.
pub fn denying(group: &Group) -> String {
    format!(
        "[[rule]]\nname = \"deny\"\ngroups = {:?}\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [\"deny\"]\n",
        group.path()
    )
}

/// Goes over 64 MiB and waits until that is acted upon.
fn go_over(bench: &Bench<'_>, daemon: &Daemon, hog: &mut Agent, group: &Group) -> Result<()> {
    hog.push("anon", 80 * MIB)?;
    let path = group.path();
    let begun = daemon.event("deny-begin of the group", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&path) && event.outcome.is_some()
    })?;
    hog.ask("stop")?;
    let said = daemon.ok(&["explain", &begun.id.to_string()])?;
    ensure!(
        said.contains("touching memory mapped before"),
        "explain is silent on what is not refused: {said}"
    );
    Ok(())
}

fn go_under(bench: &Bench<'_>, daemon: &Daemon, hog: &mut Agent) -> Result<()> {
    hog.ask("free")?;
    daemon.event("deny-end of the group", bench.patience(), |event| event.order == "deny-end")?;
    Ok(())
}

fn threads(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    let mut thread = rig.hog.offspring("thread", &bench.dir)?;
    let mut second = rig.hog.offspring("thread", &bench.dir)?;
    rig.daemon.set_memctl(rig.hog.pid, word::DENY, CLIMIT, 0)?;
    rig.grow(160 * MIB)?;
    rig.hog.note_within("refused", bench.patience() * 3).map_err(|error| rig.daemon.explain(error))?;
    expect_probe(bench, &mut thread, "a thread", libc::ENOMEM)?;
    expect_probe(bench, &mut second, "another thread", libc::ENOMEM)?;
    rig.hog.ask("free")?;
    bench.await_calls(&mut thread, &rig.daemon, "allowed")?;
    expect_probe(bench, &mut second, "another thread, released", 0)?;
    Ok(String::new())
}

/// Ends the first thread of a process that goes on in another.
pub fn behead(bench: &Bench<'_>, hog: &mut Agent) -> Result<Agent> {
    let thread = hog.offspring("thread", &bench.dir)?;
    hog.say("leave")?;
    let left = poll_until(bench.patience(), Duration::from_millis(2), || {
        (process::state(hog.pid) == Some('Z')).then_some(())
    });
    ensure!(left.is_some(), "the first thread is still there");
    Ok(thread)
}

fn headless(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    let mut thread = behead(bench, &mut hog)?;
    go_over(bench, &daemon, &mut thread, &job)?;
    expect_probe(bench, &mut thread, "the surviving thread", libc::ENOMEM)?;
    go_under(bench, &daemon, &mut thread)?;
    bench.await_calls(&mut thread, &daemon, "allowed")?;
    Ok(String::new())
}

fn group_rule(bench: &mut Bench<'_>) -> Result<String> {
    let (job, beside) = (bench.group("job")?, bench.group("beside")?);
    let daemon = bench.daemon(&denying(&job))?;
    let (mut hog, mut second) = (bench.agent(&job, "hog")?, bench.agent(&job, "second")?);
    let mut neighbour = bench.agent(&beside, "neighbour")?;
    let all = [hog.pid, second.pid, neighbour.pid];
    let before = bench.state(&all);
    go_over(bench, &daemon, &mut hog, &job)?;
    for agent in [&mut hog, &mut second] {
        bench.await_calls(agent, &daemon, "refused")?;
    }
    expect_probe(bench, &mut neighbour, "the neighbour group", 0)?;
    go_under(bench, &daemon, &mut hog)?;
    bench
        .back_to(&before, &all, bench.patience(), "after the relief")
        .map_err(|error| daemon.explain(error))?;
    Ok(String::new())
}

fn children(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    let before = process::limits(hog.pid);
    go_over(bench, &daemon, &mut hog, &job)?;
    let mut child = hog.offspring("fork", &bench.dir)?;
    let mut grandchild = child.offspring("fork", &bench.dir)?;
    for agent in [&mut child, &mut grandchild] {
        bench.await_calls(agent, &daemon, "refused")?;
    }
    // Born of it they hold its pages too; all must let go before the usage falls.
    child.ask("free")?;
    grandchild.ask("free")?;
    go_under(bench, &daemon, &mut hog)?;
    for (agent, who) in [(&mut hog, "parent"), (&mut child, "child"), (&mut grandchild, "grandchild")] {
        bench.await_calls(agent, &daemon, "allowed")?;
        let after = process::limits(agent.pid);
        ensure!(after == before, "{who}: limits {after:?}, expected {before:?}");
    }
    Ok(String::new())
}

/// What a program starting under deny may meet is ENOMEM in its loader, which then gives up in an orderly way. The kernel
/// must not kill it in exec, as it does where RLIMIT_DATA has no room for what exec itself maps.
fn execed_child(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    let before = process::limits(hog.pid);
    go_over(bench, &daemon, &mut hog, &job)?;
    let (mut lived, mut gave_up) = (Vec::new(), 0);
    for _ in 0..8 {
        let mut child = hog.offspring("fork", &bench.dir)?;
        let pid = child.pid;
        child.say("exec")?;
        let started = poll_until(bench.patience(), Duration::from_millis(1), || {
            let ready = child.note_within("ready", Duration::ZERO).is_ok();
            (ready || !process::is_alive(pid)).then_some(ready)
        });
        match started {
            Some(true) => lived.push(child),
            Some(false) => {
                let status = hog.number(&format!("reap {pid}"))?;
                let signal = status & 0x7f;
                ensure!(signal == 0, "killed by signal {signal} in exec\n{}", daemon.log_tail());
                gave_up += 1;
            }
            None => return Err(daemon.explain(anyhow::anyhow!("neither started nor ended after exec"))),
        }
    }
    go_under(bench, &daemon, &mut hog)?;
    for child in &mut lived {
        bench.await_calls(child, &daemon, "allowed")?;
        let after = process::limits(child.pid);
        ensure!(after == before, "limits {after:?}, expected {before:?}");
    }
    Ok(format!("{} started, {gave_up} were told ENOMEM at their start", lived.len()))
}

fn setuid_child(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    let mut child = hog.offspring("fork", &bench.dir)?;
    child.ask(&format!("become {NOBODY}"))?;
    let before = bench.state(&[hog.pid, child.pid]);
    go_over(bench, &daemon, &mut hog, &job)?;
    bench.await_calls(&mut child, &daemon, "refused")?;
    go_under(bench, &daemon, &mut hog)?;
    bench.back_to(&before, &[hog.pid, child.pid], bench.patience(), "after the relief")?;
    Ok(String::new())
}

/// Without CAP_SYS_RESOURCE the kernel refuses limits of another user's process: said in the outcome, and the rest is done.
fn setuid_refused(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&denying(&job))?;
    let mut hog = bench.agent(&job, "hog")?;
    let mut child = hog.offspring("fork", &bench.dir)?;
    child.ask(&format!("become {NOBODY}"))?;
    let before = process::limits(child.pid);
    go_over(bench, &daemon, &mut hog, &job)?;
    let path = job.path();
    let event = daemon.event("a partial outcome with EPERM", bench.patience(), |event| {
        event.order == "deny-begin" && event.is_of_group(&path) && event.came_of_it() == "partial"
    })?;
    let outcome = event.outcome.as_ref();
    let (refused, error) = (outcome.and_then(|o| o.refused), outcome.and_then(|o| o.error.clone()));
    ensure!(
        refused == Some(1) && error.as_deref() == Some("EPERM"),
        "expected 1 refused with EPERM, got {refused:?} {error:?}"
    );
    ensure!(process::limits(child.pid) == before, "its limits were changed all the same");
    bench.await_calls(&mut hog, &daemon, "refused")?;
    Ok(event.to_string())
}

fn own_limits(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = start_with_room(bench)?;
    rig.hog.push("anon", 130 * MIB)?;
    bench.await_calls(&mut rig.hog, &rig.daemon, "refused")?;
    // It gives itself room again, to a value of its own.
    let own = (3u64 << 30) + 4096;
    rig.hog.ask(&format!("limit data {own} inf"))?;
    rig.hog.ask("free")?;
    rig.daemon.event("deny-end", bench.patience(), |event| event.order == "deny-end")?;
    let expected = format!("Max data size {own} unlimited bytes");
    let limits = process::limits(rig.hog.pid).unwrap_or_default();
    ensure!(limits.contains(&expected), "expected {expected:?} to stay, got {limits:?}");
    ensure!(limits.contains("Max address space unlimited"), "address space: {limits:?}");
    Ok(limits)
}

/// The rig with memgov's own high on every kernel: no throttling in the way of a hog that is to be denied at once.
fn start_with_room(bench: &Bench<'_>) -> Result<Rig> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&virtual_high(&job, 100 * MIB))?;
    let hog = bench.agent(&job, "hog")?;
    daemon.set_memctl(hog.pid, word::DENY, CLIMIT, 0)?;
    Ok(Rig { job, daemon, hog })
}

fn odd_limits(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = start_with_room(bench)?;
    rig.hog.ask("limit data 4000000001 5000000003")?;
    rig.hog.ask("limit as 7000000005 inf")?;
    rig.hog.ask("limit memlock 65537 131075")?;
    let before = process::limits(rig.hog.pid);
    rig.hog.push("anon", 130 * MIB)?;
    rig.hog.ask("await refused 7")?;
    rig.hog.note("all-refused").map_err(|error| rig.daemon.explain(error))?;
    rig.hog.ask("free")?;
    rig.daemon.event("deny-end", bench.patience(), |event| event.order == "deny-end")?;
    let after = process::limits(rig.hog.pid);
    ensure!(before == after, "expected {before:?}, got {after:?}");
    Ok(after.unwrap_or_default())
}

/// A meter that counts shared memory must refuse shared mappings, which RLIMIT_DATA does not count.
fn shared(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let rule = format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"rss.anon+rss.shmem\"\nover = \"32MiB\"\ndo = [\"deny\"]\n",
        job.path()
    );
    let daemon = bench.daemon(&rule)?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.grow("shmem", MIB, Duration::from_millis(40), 160 * MIB)?;
    let refused = hog.note("refused").map_err(|error| daemon.explain(error))?;
    ensure!(refused.numbers[1] < 100 * MIB, "refused only at {} bytes", refused.numbers[1]);
    // brk, mmap and shared mappings.
    hog.ask("await refused 131")?;
    hog.note("all-refused").map_err(|error| daemon.explain(error))?;
    Ok(format!("refused at {} bytes", refused.numbers[1]))
}
