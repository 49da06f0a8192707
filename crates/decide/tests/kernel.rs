//! Rules about kernel memory, told as stories.

mod world;

use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::snapshot::{GroupSlot, KernelShare, ProcessSlot};
use memgov_decide::units::Bytes;
use world::*;

fn rig(steps: &[(Action, u64)]) -> (World, GroupSlot) {
    let mut world = World::new(policy([kernel_rule("kernel", "/*", 16, steps)]));
    let group = world.group("/x", None);
    assert!(world.tick(10).is_empty());
    (world, group)
}

/// A process called so, in a session, with so many threads.
fn member(
    world: &mut World,
    group: GroupSlot,
    pid: u32,
    comm: &[u8],
    session: u32,
    threads: u32,
) -> ProcessSlot {
    let slot = world.process(pid, Some(group));
    let row = world.process_row(slot);
    row.comm[..comm.len()].copy_from_slice(comm);
    row.session = Some(session);
    row.kernel = KernelShare { threads: Some(threads), ..KernelShare::default() };
    slot
}

#[test]
fn kernel_memory_has_a_line_of_its_own() {
    let (mut world, group) = rig(&[(Action::Deny, 0), (Action::Freeze, 1000), (KILL, 1000)]);
    world.usage(group, mib(500));
    world.kernel(group, mib(16));
    assert!(world.said(10).is_empty(), "usage is not its business, and at the line is not over it");
    world.kernel(group, mib(17));
    let decisions = world.tick(10);
    assert_eq!(decisions[0].order, Order::Deny { phase: Phase::Begin, meter: Meter::Kernel });
    assert_eq!(decisions[0].reason, Reason::Kernel { group, kernel: mib(17), line: mib(16) });
    assert_eq!(world.said(1000), ["freeze-begin /x", "deny-keep /x"]);
    assert_eq!(world.said(1000), ["kill /x", "deny-keep /x", "freeze-keep /x"]);
    world.kernel(group, None);
    assert!(world.said(10).is_empty(), "not known: nothing is done and nothing undone");
    world.kernel(group, mib(1));
    assert_eq!(world.said(10), ["deny-end /x", "freeze-end /x", "relieved /x"]);
}

/// What the daemon tells of a group's kernel memory beside the row.
fn read(world: &mut World, group: GroupSlot, kernel: Bytes) {
    let (id, at) = (world.row(group).id, world.snap.at);
    world.governor.mark_kernel(group, id, at, kernel);
    world.kernel(group, kernel);
}

#[test]
fn a_group_with_a_line_has_a_peak_and_its_hits() {
    let (mut world, group) = rig(&[(Action::Deny, 0)]);
    let id = world.snap.group(group).unwrap().id;
    let mark = |world: &World| {
        let marks: Vec<_> = world.governor.kernel_marks(&world.snap).collect();
        assert_eq!((marks.len(), marks[0].slot, marks[0].line), (1, group, mib(16)));
        marks[0].mark
    };
    assert_eq!((mark(&world).peak(), mark(&world).hits()), (None, 0), "nothing was read");
    for kernel in [3, 17, 1, 2, 18] {
        read(&mut world, group, mib(kernel));
        world.tick(1000);
    }
    assert_eq!(mark(&world).peak().map(|(peak, _)| peak), Some(mib(18)));
    assert_eq!((mark(&world).hits(), mark(&world).growth()), (2, Some(mib(16).0)));
    // A refused call's wish is in the row, and in no watermark.
    world.kernel(group, mib(19));
    world.tick(10);
    assert_eq!(mark(&world).peak().map(|(peak, _)| peak), Some(mib(18)));
    read(&mut world, group, mib(4));
    assert!(world.governor.reset_kernel_mark(id, world.snap.at, &world.snap));
    assert_eq!((mark(&world).peak().map(|(peak, _)| peak), mark(&world).hits()), (Some(mib(4)), 0));
    world.governor.set_policy(policy([usage_rule("usage", "/*", 16, &[(KILL, 0)])]));
    world.tick(10);
    assert_eq!(world.governor.kernel_marks(&world.snap).count(), 0, "no rule, no watermark");
    assert!(!world.governor.reset_kernel_mark(id, world.snap.at, &world.snap));
}

#[test]
fn what_is_pinned_is_not_waited_for() {
    let ladder = [(Action::Reclaim(Reclaim { share: 100, ..Reclaim::default() }), 0), (Action::Deny, 10_000)];
    let (mut world, group) = rig(&ladder);
    world.kernel(group, mib(17));
    let begun = world.tick(10);
    let Order::Reclaim { meter: Meter::Kernel, phase: Phase::Begin, .. } = begun[0].order else {
        panic!("{begun:?}")
    };
    world.kernel(group, mib(17));
    assert_eq!(world.said(100).len(), 1, "kept up, and nothing else before its time");
    let outcome = Outcome::Pinned { freed: Bytes(0), held: mib(17) };
    world.governor.report(&Report { decision: begun[0].id, outcome });
    world.kernel(group, mib(17));
    assert_eq!(world.said(10), ["deny-begin /x"], "at once, and reclaim is no longer kept up");
    world.kernel(group, mib(1));
    let said = world.said(10);
    assert!(
        said.iter().any(|s| s.starts_with("reclaim-end")) && said.last().unwrap() == "relieved /x",
        "{said:?}"
    );
}

#[test]
fn usage_rules_do_not_see_kernel_memory() {
    let mut world = World::new(policy([usage_rule("usage", "/*", 16, &[(KILL, 0)])]));
    let group = world.group("/x", None);
    world.usage(group, mib(10));
    world.kernel(group, mib(100));
    assert!(world.said(10).is_empty());
}

#[test]
fn the_largest_is_a_family_and_no_big_innocent() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    let innocent = member(&mut world, group, 50, b"postgres", 50, 3);
    world.anon(innocent, mib(100));
    world.process_row(innocent).kernel.page_tables = Some(Bytes::kib(300));
    for pid in 100..140 {
        member(&mut world, group, pid, b"bomb", 99, 1);
    }
    let newcomer = member(&mut world, group, 200, b"sshd", 200, 1);
    world.anon(newcomer, mib(1));
    world.kernel(group, mib(17));
    let decisions = world.tick(10);
    let Order::Kill { take: Take::Family(family) } = decisions[0].order else { panic!("{decisions:?}") };
    assert_eq!((family.session, &family.comm[..5]), (99, b"bomb\0".as_slice()));
    let ranked: Vec<u32> = decisions[0].ranking.iter().map(|c| c.process.pid).collect();
    assert_eq!(ranked.len(), MAX_CANDIDATES);
    assert!(ranked.iter().all(|pid| (100..140).contains(pid)));
    assert_eq!(decisions[0].ranking.considered, 42);
}

#[test]
fn what_may_not_be_killed_makes_no_family() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    for pid in 100..110 {
        let slot = member(&mut world, group, pid, b"safe", 99, 5);
        world.process_row(slot).oom_score_adj = Some(-1000);
    }
    member(&mut world, group, 200, b"small", 200, 1);
    world.kernel(group, mib(17));
    let said = world.said(10);
    assert_eq!(said, ["kill-family-small-200 /x log"]);
}

#[test]
fn descriptors_and_page_tables_count_too() {
    let share = |threads, tables, files| KernelShare {
        threads: Some(threads),
        page_tables: Some(Bytes::kib(tables)),
        descriptors: Some(files),
    };
    assert_eq!(
        share(1, 40, 64).estimate(),
        Some(Bytes::kib(68)),
        "a small process is what was measured: some 70 KiB"
    );
    assert_eq!(share(1, 0, 32_768).estimate(), Some(Bytes::kib(28 + 32_704)));
    assert_eq!(KernelShare::default().estimate(), None);
}

#[test]
fn what_is_frozen_is_not_slowed_besides() {
    let (mut world, group) = rig(&[(slow(2000), 0), (Action::Freeze, 1000)]);
    world.kernel(group, mib(17));
    assert_eq!(world.said(10), ["slow-begin /x log"]);
    assert_eq!(world.said(1000), ["slow-end /x", "freeze-begin /x"]);
    assert_eq!(world.said(1500), ["freeze-keep /x"], "nor is a slowdown ended whose time is up");
    world.kernel(group, mib(1));
    assert_eq!(world.said(10), ["freeze-end /x", "relieved /x"]);
}
