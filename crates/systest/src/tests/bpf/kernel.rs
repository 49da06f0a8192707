//! Kernel memory inside the kernel: the live counter against the kernel's own file, and which calls are refused to whom.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use memgov::bpf::{EventKind, ExemptBy, GroupLimit, Hook, Hooks, How, Options, Seeding, Tier};
use memgov_decide::units::Bytes;

use super::kernel_rig::{
    CALLS, Neighbour, SLACK, agrees, counted, difference, line, live, now, refused, rig,
};
use super::rig::{LONG, Rig, id_of, identity};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_kernel_every_program_loads_and_is_proven", all),
        test("bpf_kernel_lsm_is_used_where_it_is_called", by_lsm),
        test("bpf_kernel_fmod_ret_refuses_where_lsm_is_not_used", by_fmod_ret),
        test("bpf_kernel_counter_agrees_with_the_kernels_file", agreement),
        test("bpf_kernel_counter_survives_removal_of_a_child", removal),
        test("bpf_kernel_counter_survives_removal_after_its_holders_ended", removal_of_files),
        test("bpf_kernel_counter_is_put_right", put_right),
        test("bpf_kernel_refuses_each_call_and_allows_it_again", calls),
        test("bpf_kernel_refuses_nothing_before_it_is_seeded", unseeded),
        test("bpf_kernel_threads_of_a_large_process_need_no_copy_of_it", large),
        test("bpf_kernel_two_children_under_a_limited_parent", siblings),
        test("bpf_kernel_exempts_names_and_processes", exempt),
        test("bpf_kernel_ends_with_the_lease", lease),
        test("bpf_kernel_ends_when_the_tier_is_dropped", dropped),
        test("bpf_kernel_crossing_and_denial_are_told", told),
    ]
}

fn left_behind() -> usize {
    let of = |place: &str| std::fs::read_dir(place).into_iter().flatten().flatten();
    let names = ["/run", "/tmp", "/dev/shm"].into_iter().flat_map(of).map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("memgov-proof")).count()
}

fn all(_: &mut Bench<'_>) -> Result<String> {
    let begin = std::time::Instant::now();
    let mut rig = Rig::new(&[])?;
    let hooks = Hooks::NONE.with(Hook::Kernel);
    rig.tier.require(hooks)?;
    let attached = begin.elapsed();
    let status = rig.tier.hooks();
    ensure!(rig.tier.in_force() == hooks, "not all in force: {status:#?}");
    let of_kernel: Vec<_> = status.iter().filter(|hook| hook.set == Some(Hook::Kernel)).collect();
    let proven = of_kernel.iter().filter(|hook| hook.proven).count();
    ensure!(of_kernel.len() == 19 && proven == 15, "proven: {proven} of {}", of_kernel.len());
    ensure!(left_behind() == 0, "{} directories of self-tests are left", left_behind());
    rig.tier.require(Hooks::NONE)?;
    ensure!(rig.tier.hooks().iter().all(|hook| hook.how.is_none()), "something is still attached");
    let ways: Vec<String> =
        of_kernel.iter().filter_map(|hook| Some(format!("{} {}", hook.how?, hook.name))).collect();
    Ok(format!("in {attached:?}: {}", ways.join(", ")))
}

/// Without fmod_ret: proven where bpf is among the security modules, and left out with a reason where it is not.
fn by_lsm(_: &mut Bench<'_>) -> Result<String> {
    let options = Options { avoid: Some(How::FmodRet), lease: LONG, ..Options::default() };
    let mut tier = Tier::load(&options)?.map_err(|absent| anyhow!("{absent}"))?;
    tier.require(Hooks::NONE.with(Hook::Kernel))?;
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let active = modules.split(',').any(|name| name.trim() == "bpf");
    let refusing = |hook: &&memgov::bpf::HookStatus| {
        hook.set == Some(Hook::Kernel) && hook.name.starts_with("security_")
    };
    for hook in tier.hooks().iter().filter(refusing) {
        let right = if active {
            hook.how == Some(How::Lsm) && hook.proven
        } else {
            hook.how.is_none() && hook.unavailable.as_ref().is_some_and(|why| why.contains("not refused"))
        };
        ensure!(right, "security modules {modules}: {hook:?}");
    }
    ensure!(left_behind() == 0, "{} directories of self-tests are left", left_behind());
    Ok(format!("security modules {}", modules.trim()))
}

/// Without lsm, as where bpf is not among the security modules.
fn by_fmod_ret(bench: &mut Bench<'_>) -> Result<String> {
    let options = Options { avoid: Some(How::Lsm), lease: LONG, ..Options::default() };
    let rig = Rig::with(&[Hook::Kernel], &options)?;
    for hook in rig.tier.hooks().iter().filter(|hook| hook.proven) {
        ensure!(hook.how == Some(How::FmodRet), "{hook:?}");
    }
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("kernel-calls-prepare")?;
    let id = counted(&rig, bench, &group)?;
    ensure!(refused(&mut hog)?.is_empty(), "refused under its line: {:?}", refused(&mut hog)?);
    line(&rig, bench, &group, live(&rig, id)? / 2)?;
    let over = refused(&mut hog)?;
    ensure!(over.len() == CALLS, "refused only {over:?}");
    Ok(over.join(", "))
}

fn agreement(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    let id = counted(&rig, bench, &group)?;
    let mut said = vec![format!("seeded {}", agrees(&rig, bench, &group, "seeded")?)];
    for (kind, count) in [("unlinked", 4000), ("dirs", 500), ("forks", 40), ("sockets", 300)] {
        hog.ask(&format!("prepare {kind} 0"))?;
        let before = live(&rig, id)?;
        let taken = hog.numbers(&format!("hoard {kind} {count}"))?;
        ensure!(taken == [count, 0], "{kind}: {taken:?}");
        let (stat, more) = (group.kernel()?, live(&rig, id)?);
        ensure!(more > before + 256 * 1024, "{kind} took nothing: {before} to {more}");
        let quiet = agrees(&rig, bench, &group, kind)?;
        said.push(format!(
            "{kind} to {more}: {quiet} (at once {})",
            i64::try_from(more)? - i64::try_from(stat)?
        ));
    }
    hog.ask("let-go")?;
    said.push(format!("let go to {}: {}", live(&rig, id)?, agrees(&rig, bench, &group, "let go")?));
    for round in 0..20 {
        hog.ask("hoard unlinked 500")?;
        hog.ask("hoard forks 20")?;
        hog.ask("let-go").map_err(|error| error.context(format!("round {round}")))?;
    }
    said.push(format!("after 20 rounds more {}", agrees(&rig, bench, &group, "20 rounds")?));
    Ok(format!("counter - file in bytes: {}", said.join("; ")))
}

/// The holder has left for another group, the child is removed, its charges live on in the parent's name until it lets go.
fn removal(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let parent = bench.group("job")?;
    parent.delegate_memory()?;
    let (child, elsewhere) = (bench.group("job/child")?, bench.group("elsewhere")?);
    let mut hog = bench.worker(&child, "hog")?;
    let (id, child_id) = (counted(&rig, bench, &parent)?, counted(&rig, bench, &child)?);
    let empty = live(&rig, id)?;
    hog.ask("prepare unlinked 0")?;
    ensure!(hog.numbers("hoard unlinked 6000")? == [6000, 0], "files were refused");
    let full = live(&rig, id)?;
    let before = agrees(&rig, bench, &parent, "before the removal")?;
    let of_child = agrees(&rig, bench, &child, "of the child")?;
    for dir in elsewhere.dirs() {
        std::fs::write(dir.join("cgroup.procs"), hog.pid.to_string())?;
    }
    child.remove()?;
    let held = live(&rig, id)?;
    ensure!(held + MIB > full && full > empty + 6 * MIB, "empty {empty}, full {full}, removed {held}");
    let after = agrees(&rig, bench, &parent, "after the removal")?;
    rig.tier.clear_group(child_id)?;
    ensure!(rig.tier.kernel_usage(child_id).is_none(), "the removed group still answers");
    hog.ask("let-go")?;
    let freed = agrees(&rig, bench, &parent, "after it was freed")?;
    let left = live(&rig, id)?;
    ensure!(left < held - 5 * MIB, "still {left} of {held}");
    Ok(format!(
        "counter - file in bytes: before {before} (child {of_child}), removed {after}, freed {freed}; \
         counter {empty}, {full}, {held}, {left}"
    ))
}

/// Nobody holds it any more: names of files on tmpfs that outlive process and group.
fn removal_of_files(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let parent = bench.group("job")?;
    parent.delegate_memory()?;
    let id = counted(&rig, bench, &parent)?;
    let mut said = Vec::new();
    for round in 0..3 {
        let child = bench.group("job/child")?;
        let mut hog = bench.worker(&child, &format!("hog-{round}"))?;
        ensure!(hog.numbers("hoard files 3000")? == [3000, 0], "files were refused");
        hog.say("exit 0")?;
        hog.wait_for_end(bench.patience())?;
        child.remove()?;
        said.push(format!("{} at {}", agrees(&rig, bench, &parent, "removed")?, live(&rig, id)?));
    }
    let held = live(&rig, id)?;
    for round in 0..3 {
        std::fs::remove_dir_all(bench.dir.join(format!("hog-{round}")))?;
    }
    let freed = agrees(&rig, bench, &parent, "freed")?;
    let left = live(&rig, id)?;
    ensure!(held > 6 * MIB && left < held / 3, "{held} held, {left} left");
    Ok(format!("three children one after the other: {}; freed {freed} at {left}", said.join(", ")))
}

/// A counter that has lost something agrees again, while the group goes on, and what agrees is left alone.
fn put_right(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("prepare unlinked 0")?;
    let id = counted(&rig, bench, &group)?;
    let lateness = match bench.host.version {
        Version::V1 => Bytes(0),
        Version::V2 => {
            memgov::bpf::stat_lateness(u32::try_from(std::thread::available_parallelism()?.get())?)
        }
    };
    let sync = |rig: &Rig| {
        let mut read = || group.kernel().map(Bytes).map_err(|_| rustix::io::Errno::IO);
        rig.tier.sync_kernel(id, lateness, &mut read)
    };
    agrees(&rig, bench, &group, "seeded")?;
    ensure!(sync(&rig)? == Seeding::Agrees, "a right counter was corrected");
    // Nobody counts while nothing is attached; then everything is wrong by what happened meanwhile, and says so.
    rig.tier.require(Hooks::NONE)?;
    ensure!(hog.numbers("hoard unlinked 5000")?[1] == 0, "refused with nothing attached");
    rig.tier.require(Hooks::NONE.with(Hook::Kernel))?;
    ensure!(rig.tier.kernel_usage(id).is_none(), "it answers although nobody has counted");
    ensure!(sync(&rig) == Err(rustix::io::Errno::AGAIN), "it was put right without being seeded");
    std::thread::sleep(Duration::from_millis(2500));
    super::kernel_rig::seed(&rig.tier, bench, &group)?;
    let again = agrees(&rig, bench, &group, "seeded again")?;
    // Wrong on purpose: seeded with a file that says 3 MiB less.
    let mut wrong = || group.kernel().map(|it| Bytes(it - 3 * MIB)).map_err(|_| rustix::io::Errno::IO);
    ensure!(matches!(rig.tier.seed_kernel(id, &mut wrong)?, Seeding::Corrected(_)), "not made wrong");
    ensure!(difference(&rig, bench, &group)? < -2 * i64::try_from(MIB)?, "it is not wrong");
    hog.say("hoard unlinked 3000")?;
    let corrected = poll_until(bench.patience(), Duration::from_millis(5), || {
        matches!(sync(&rig), Ok(Seeding::Corrected(_))).then_some(())
    });
    ensure!(corrected.is_some(), "never put right");
    std::thread::sleep(Duration::from_secs(1));
    poll_until(bench.patience(), Duration::from_millis(100), || {
        let quiet = difference(&rig, bench, &group).ok()?;
        (quiet.abs() <= SLACK + i64::try_from(lateness.0).ok()?).then_some(())
    })
    .ok_or_else(|| anyhow!("still {:?} off", difference(&rig, bench, &group)))?;
    Ok(format!("seeded again {again}; corrected while busy to {}", difference(&rig, bench, &group)?))
}

fn calls(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("kernel-calls-prepare")?;
    let mut neighbour = Neighbour::new(&rig, bench)?;
    let id = counted(&rig, bench, &group)?;
    ensure!(refused(&mut hog)?.is_empty(), "refused under its line: {:?}", refused(&mut hog)?);
    let held = live(&rig, id)?;
    line(&rig, bench, &group, held / 2)?;
    let over = refused(&mut hog)?;
    ensure!(over.len() == CALLS, "refused only {over:?}");
    neighbour.is_free(&rig)?;
    ensure!(hog.number("give-back")? == 0, "what gives memory back was refused");
    counted(&rig, bench, &group)?;
    ensure!(refused(&mut hog)?.is_empty(), "refused when under again: {:?}", refused(&mut hog)?);
    let denials = rig.tier.kernel_denials_of(id).unwrap_or(0);
    ensure!(denials >= CALLS as u64 && rig.tier.denials_of(id) == Some(0), "{denials} denials");
    // A usage line alone is nobody's business here.
    rig.limit(&group, GroupLimit { deny: Some(Bytes(4096)), ..GroupLimit::default() })?;
    ensure!(rig.tier.kernel_usage(id).is_none(), "counted without a line");
    ensure!(refused(&mut hog)?.is_empty(), "refused for its usage");
    Ok(format!("{denials} denials: {}", over.join(", ")))
}

fn unseeded(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("kernel-calls-prepare")?;
    let id = rig.limit(&group, GroupLimit { kernel: Some(Bytes(0)), ..GroupLimit::default() })?;
    ensure!(refused(&mut hog)?.is_empty(), "refused by what nobody knows yet");
    ensure!(rig.tier.kernel_usage(id).is_none(), "known already");
    super::kernel_rig::seed(&rig.tier, bench, &group)?;
    ensure!(refused(&mut hog)?.len() == CALLS, "not refused once it is known");
    rig.tier.clear_group(id)?;
    ensure!(refused(&mut hog)?.is_empty(), "refused after the line has gone");
    Ok(String::new())
}

/// Threads, and programs started as libraries start them (CLONE_VM), copy no page tables: a process with more of those than there is room is not refused
/// them, and a fork that would copy them is.
fn large(bench: &mut Bench<'_>) -> Result<String> {
    const TABLES: u64 = 16 * MIB;
    let rig = rig()?;
    let group = bench.group("job")?;
    let mut agent = bench.worker(&group, "large")?;
    agent.ask("prepare tables 0")?;
    agent.ask("prepare threads 0")?;
    let id = counted(&rig, bench, &group)?;
    line(&rig, bench, &group, 1 << 30)?;
    let before = live(&rig, id)?;
    let taken = agent.numbers(&format!("hoard tables {}", TABLES / 4096))?;
    let tables = live(&rig, id)?.saturating_sub(before);
    ensure!(taken[1] == 0 && tables >= TABLES, "{taken:?} taken and errno, {tables} bytes of tables");
    line(&rig, bench, &group, live(&rig, id)? + 2 * MIB)?;
    let threads = agent.numbers("hoard threads 8")?;
    ensure!(threads == [8, 0], "threads were refused: {threads:?} taken and errno");
    let started = agent.number("spawn 8")?;
    ensure!(started == 8, "of 8 programs {started} were started and ended well");
    ensure!(rig.tier.kernel_denials_of(id) == Some(0), "denials were counted");
    Ok(format!("{} KiB of page tables, 2 MiB under the line", tables / 1024))
}

/// What is refused to somebody who has filled his group up. What others gave back meanwhile, and the kernel a moment later, may leave room for a call or two: filled up anew.
fn refused_when_full(agent: &mut Agent) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for _ in 0..20 {
        agent.numbers("hoard unlinked 20000")?;
        seen = refused(agent)?;
        if seen.len() == CALLS {
            break;
        }
    }
    Ok(seen)
}

fn siblings(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let parent = bench.group("job")?;
    parent.delegate_memory()?;
    let (a, b) = (bench.group("job/a")?, bench.group("job/b")?);
    let (mut in_a, mut in_b) = (bench.worker(&a, "in-a")?, bench.worker(&b, "in-b")?);
    for agent in [&mut in_a, &mut in_b] {
        agent.ask("kernel-calls-prepare")?;
        agent.ask("prepare unlinked 0")?;
    }
    let mut neighbour = Neighbour::new(&rig, bench)?;
    let id = counted(&rig, bench, &parent)?;
    let wanted = live(&rig, id)? + 8 * MIB;
    line(&rig, bench, &parent, wanted)?;
    let inner = counted(&rig, bench, &a)?;
    in_a.say("hoard unlinked 20000")?;
    in_b.say("hoard unlinked 20000")?;
    // Both at once; each is refused by the line above it.
    let done = poll_until(bench.patience(), Duration::from_millis(20), || {
        (rig.tier.kernel_denials_of(id)? >= 2).then_some(())
    });
    ensure!(done.is_some(), "not refused by the parent's line");
    for agent in [&mut in_a, &mut in_b] {
        let taken = agent.answered()?;
        ensure!(taken[1] == 12, "not refused: {taken:?}");
    }
    for (agent, name) in [(&mut in_b, "b"), (&mut in_a, "a")] {
        let seen = refused_when_full(agent)?;
        ensure!(seen.len() == CALLS, "refused in {name}: only {seen:?}");
    }
    ensure!(rig.tier.kernel_denials_of(inner) == Some(0), "refused by the far line of a");
    neighbour.is_free(&rig)?;
    let quiet = agrees(&rig, bench, &parent, "at the line")?;
    let peak = parent.kernel()?;
    ensure!(peak <= wanted + MIB / 2, "{peak} of {wanted}");
    in_b.ask("let-go")?;
    ensure!(refused(&mut in_a)?.is_empty(), "still refused after the other has let go");
    Ok(format!(
        "{peak} of {wanted} ({:+} KiB), counter - file {quiet}",
        (i64::try_from(peak)? - i64::try_from(wanted)?) / 1024
    ))
}

fn exempt(bench: &mut Bench<'_>) -> Result<String> {
    let mut name = [0; 16];
    name[..6].copy_from_slice(b"rescue");
    let rig = Rig::with(
        &[Hook::Kernel],
        &Options { lease: LONG, protected_names: vec![name], ..Options::default() },
    )?;
    let group = bench.group("job")?;
    let (mut rescue, mut plain) = (bench.worker(&group, "rescue")?, bench.worker(&group, "plain")?);
    rescue.ask("kernel-calls-prepare")?;
    plain.ask("kernel-calls-prepare")?;
    line(&rig, bench, &group, 4096)?;
    ensure!(refused(&mut rescue)?.is_empty(), "a protected name was refused");
    ensure!(refused(&mut plain)?.len() == CALLS, "a plain name was not refused");
    rig.tier.exempt(identity(plain.pid)?, ExemptBy::Row, true)?;
    ensure!(refused(&mut plain)?.is_empty(), "an exempt process was refused");
    rig.tier.exempt(identity(plain.pid)?, ExemptBy::Row, false)?;
    ensure!(refused(&mut plain)?.len() == CALLS, "a process that is exempt no more was not refused");
    Ok(String::new())
}

fn lease(bench: &mut Bench<'_>) -> Result<String> {
    const LEASE: Duration = Duration::from_secs(5);
    let rig = Rig::with(&[Hook::Kernel], &Options { lease: LEASE, ..Options::default() })?;
    rig.tier.renew(now() + LONG);
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("kernel-calls-prepare")?;
    line(&rig, bench, &group, 4096)?;
    rig.tier.renew(now());
    ensure!(refused(&mut hog)?.len() == CALLS, "not refused while the lease is good");
    std::thread::sleep(LEASE);
    ensure!(refused(&mut hog)?.is_empty(), "refused after the lease");
    rig.tier.renew(now());
    ensure!(refused(&mut hog)?.len() == CALLS, "not refused after the lease was renewed");
    rig.tier.end_lease();
    ensure!(refused(&mut hog)?.is_empty(), "refused after the lease was ended");
    Ok(String::new())
}

fn dropped(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("kernel-calls-prepare")?;
    line(&rig, bench, &group, 4096)?;
    ensure!(refused(&mut hog)?.len() == CALLS, "not refused");
    drop(rig);
    ensure!(refused(&mut hog)?.is_empty(), "refused although nobody is there");
    Ok(String::new())
}

fn told(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("prepare unlinked 0")?;
    let id = counted(&rig, bench, &group)?;
    let wanted = live(&rig, id)? + 2 * MIB;
    line(&rig, bench, &group, wanted)?;
    let (tag, limit) = (4, Bytes(wanted / 4096 * 4096));
    for episode in 1..=2 {
        ensure!(hog.numbers("hoard unlinked 20000")?[1] == 12, "not refused in episode {episode}");
        let crossed = rig.count(EventKind::KernelCrossed, hog.pid);
        ensure!(crossed == episode, "told {crossed} times in episode {episode}: {:?}", rig.seen);
        let event = rig.wait_for(EventKind::KernelCrossed, hog.pid, bench.patience())?;
        ensure!(event.group == id_of(&group)? && event.tag == tag && event.limit == limit, "{event:?}");
        ensure!(
            event.usage > limit && event.usage.0 < limit.0 + MIB && event.who == identity(hog.pid)?,
            "{event:?}"
        );
        let denied = rig.wait_for(EventKind::KernelDenied, hog.pid, bench.patience())?;
        ensure!(denied.group == id && denied.tag == tag && denied.usage > denied.limit, "{denied:?}");
        hog.ask("let-go")?;
        let freed = poll_until(bench.patience(), Duration::from_millis(20), || {
            (live(&rig, id).ok()? < wanted - MIB).then_some(())
        });
        ensure!(freed.is_some(), "nothing was freed: {}", live(&rig, id)?);
    }
    ensure!(
        rig.events().iter().all(|it| !matches!(it.kind, EventKind::Crossed | EventKind::Denied)),
        "as usage"
    );
    line(&rig, bench, &group, 4096)?;
    let (before, told) =
        (rig.tier.kernel_denials_of(id).unwrap_or(0), rig.count(EventKind::KernelDenied, hog.pid));
    let begin = crate::sys::now();
    for _ in 0..200 {
        hog.ask("hoard unlinked 1")?;
    }
    let counted = rig.tier.kernel_denials_of(id).unwrap_or(0) - before;
    let most = (crate::sys::now() - begin) / 100_000_000 + 2;
    let more = (rig.count(EventKind::KernelDenied, hog.pid) - told) as u64;
    ensure!(counted >= 200 && more <= most && more >= 1, "{counted} counted, {more} told of at most {most}");
    Ok(format!("{counted} denials counted, {more} told"))
}
