//! Each way to take kernel memory, at full speed against a line: how far it gets, that it is refused, that a neighbour is not, and that
//! giving back is never refused.

use std::time::Duration;

use anyhow::{Result, ensure};
use memgov::bpf::EventKind;
use memgov_decide::snapshot::GroupId;

use super::kernel_rig::{Neighbour, counted, line, live, refused, rig};
use super::rig::Rig;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(90);
    vec![
        test("bpf_kernel_holds_a_fork_bomb", fork_bomb),
        test("bpf_kernel_holds_sleeping_children", |bench| hoard(bench, "forks", 2000, 0)),
        test("bpf_kernel_holds_a_thread_bomb", |bench| hoard(bench, "threads", 3000, 0)),
        test("bpf_kernel_holds_a_mkdir_and_chdir_loop", |bench| hoard(bench, "dirs", 20_000, 0)),
        test("bpf_kernel_holds_open_unlinked_files", |bench| hoard(bench, "unlinked", 20_000, 0)),
        test("bpf_kernel_holds_files", |bench| hoard(bench, "files", 20_000, 0)),
        test("bpf_kernel_holds_full_pipes", |bench| hoard(bench, "pipes", 2000, 0)),
        test("bpf_kernel_holds_sockets", |bench| hoard(bench, "sockets", 8000, 0)),
        test("bpf_kernel_holds_messages_in_sockets_opened_before", |bench| {
            hoard(bench, "messages", 20_000, 300)
        }),
        test("bpf_kernel_holds_pipes_opened_before_that_grow", |bench| {
            hoard(bench, "pipe-sizes", 2000, 2000)
        }),
        test("bpf_kernel_holds_links", |bench| hoard(bench, "links", 60_000, 0)),
        test("bpf_kernel_holds_attributes", attributes),
        test("bpf_kernel_holds_mprotect_splits", |bench| hoard(bench, "splits", 29_000, 0)),
    ]
}

/// What may be over the line: one call's worth, and what the call after which it stood at the line had begun.
const TOLERANCE: u64 = MIB / 2;
/// A child fills the page tables of what it runs, which are files, by its own faults (vma_needs_copy in mm/memory.c), and no fault is refused: a
/// table each of the program, of its libraries and of what starts it.
const FILLED_BY_A_CHILD: u64 = 3 * 4096;
/// Room above what is there at the start.
const ROOM: u64 = 4 * MIB;

/// The line, ROOM above what the group has now.
fn held(rig: &Rig, bench: &Bench<'_>, group: &crate::harness::group::Group) -> Result<u64> {
    let id = counted(rig, bench, group)?;
    let wanted = live(rig, id)? + ROOM;
    line(rig, bench, group, wanted)?;
    Ok(wanted)
}

/// Hoards until refused.
fn hoard(bench: &mut Bench<'_>, kind: &str, count: u64, before: u64) -> Result<String> {
    bench.patience *= 2;
    let mut rig = rig()?;
    let mut neighbour = Neighbour::new(&rig, bench)?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask(&format!("prepare {kind} {before}"))?;
    let wanted = held(&rig, bench, &group)?;
    let id = super::rig::id_of(&group)?;
    let taken = hog.numbers(&format!("hoard {kind} {count}"))?;
    // glibc says EAGAIN for a thread.
    let errno = if kind == "threads" { 11 } else { 12 };
    let peak = live(&rig, id)?;
    ensure!(taken[1] == errno && taken[0] > 0, "{kind}: {taken:?} taken and errno, {peak} of {wanted}");
    ensure!(peak <= wanted + TOLERANCE, "{kind}: {peak} of {wanted}");
    ensure!(rig.tier.kernel_denials_of(id).unwrap_or(0) > 0, "no denial was counted");
    rig.wait_for(EventKind::KernelDenied, hog.pid, bench.patience())?;
    neighbour.is_free(&rig)?;
    std::thread::sleep(Duration::from_millis(2500));
    let stat = group.kernel()?;
    ensure!(stat <= wanted + TOLERANCE, "{kind}: the file says {stat} of {wanted}");
    hog.ask("let-go")?;
    let left = poll_until(bench.patience(), Duration::from_millis(50), || {
        live(&rig, id).ok().filter(|left| left + ROOM / 2 < peak)
    });
    ensure!(left.is_some(), "not given back: {} of {peak}", live(&rig, id)?);
    hog.ask("kernel-calls-prepare")?;
    ensure!(refused(&mut hog)?.is_empty(), "refused when under again");
    let over = (i64::try_from(peak)? - i64::try_from(wanted)?) / 1024;
    Ok(format!(
        "{} taken, {over:+} KiB of the line at {} KiB; the file says {} KiB",
        taken[0],
        wanted / 1024,
        stat / 1024
    ))
}

/// Kernels before 6.6 charge attributes of tmpfs to nobody; what is charged is held, and the call is refused in either case.
fn attributes(bench: &mut Bench<'_>) -> Result<String> {
    let rig = rig()?;
    let group = bench.group("job")?;
    let mut hog = bench.worker(&group, "hog")?;
    hog.ask("prepare xattrs 0")?;
    let wanted = held(&rig, bench, &group)?;
    let id = super::rig::id_of(&group)?;
    let taken = hog.numbers("hoard xattrs 4000")?;
    let peak = live(&rig, id)?;
    ensure!(peak <= wanted + TOLERANCE, "{peak} of {wanted}");
    let charged = peak + ROOM / 2 > wanted;
    ensure!(taken[1] == if charged { 12 } else { 0 }, "{taken:?} taken and errno, {peak} of {wanted}");
    line(&rig, bench, &group, 4096)?;
    ensure!(hog.numbers("hoard xattrs 1")? == [0, 12], "not refused over the line");
    hog.ask("let-go")?;
    let what = if charged { "charged" } else { "charged to nobody here" };
    Ok(format!("{} taken, {what}, {} KiB under the line", taken[0], (wanted.saturating_sub(peak)) / 1024))
}

/// The most kernel memory and processes of a bomb that has met the line, and its denials.
fn watch_bomb(bench: &Bench<'_>, rig: &Rig, group: &Group, id: GroupId) -> Result<(u64, usize, u64)> {
    let refused = poll_until(bench.patience(), Duration::from_millis(2), || {
        (rig.tier.kernel_denials_of(id)? > 50).then_some(())
    });
    ensure!(refused.is_some(), "never refused: {}, {} processes", live(rig, id)?, group.processes().len());
    let (mut peak, mut most) = (0, 0);
    for _ in 0..200 {
        peak = peak.max(live(rig, id)?).max(group.kernel()?);
        most = most.max(group.processes().len());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((peak, most, rig.tier.kernel_denials_of(id).unwrap_or(0)))
}

/// Every process forks for as long as it can, and goes on trying.
fn fork_bomb(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let rig = rig()?;
    let mut neighbour = Neighbour::new(&rig, bench)?;
    let group = bench.group("job")?;
    let mut bomb = bench.worker(&group, "bomb")?;
    let wanted = held(&rig, bench, &group)? + 4 * MIB;
    let id = line(&rig, bench, &group, wanted)?;
    bomb.say("fork-bomb")?;
    let seen = watch_bomb(bench, &rig, &group, id);
    // Whatever was seen, the bomb ends before the tier does: nothing else holds it.
    let begin = crate::sys::now();
    drop(bomb);
    group.remove()?;
    let took = crate::harness::millis(crate::sys::now() - begin);
    let (peak, most, denials) = seen?;
    neighbour.is_free(&rig)?;
    let allowed = wanted + TOLERANCE + most as u64 * FILLED_BY_A_CHILD;
    ensure!(peak <= allowed, "{peak} of {wanted}, allowed {allowed}, {most} processes");
    let over = (i64::try_from(peak)? - i64::try_from(wanted)?) / 1024;
    Ok(format!(
        "{most} processes, peak {over:+} KiB of the line at {} KiB, {denials} denials, emptied in {took}",
        wanted / 1024
    ))
}
