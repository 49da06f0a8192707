//! Rules about kernel memory, told as stories.

use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::snapshot::{GroupSlot, KernelShare, Process, ProcessSlot};
use memgov_decide::units::Bytes;

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

/// What comes after this has come since: kernel memory was as low as this now, and then over its line.
fn begins_to_grow(world: &mut World, group: GroupSlot, low: u64) {
    world.snap.ticks = Some(world.next_id - 1);
    world.kernel(group, mib(low));
    assert!(world.said(100).is_empty());
}

/// Past the time in which processes may yet turn up that are not known.
const PATIENCE: u64 = 1100;

fn family_of(decision: &Decision) -> Option<Family> {
    match decision.order {
        Order::Kill { take: Take::Family(family) } => Some(family),
        _ => None,
    }
}

/// A process of 100 MiB, with page tables of so many KiB, which was there before.
fn innocent(world: &mut World, group: GroupSlot, tables: u64) -> ProcessSlot {
    let slot = member(world, group, 50, b"postgres", 50, 3);
    world.anon(slot, mib(100));
    world.process_row(slot).kernel.page_tables = Some(Bytes::kib(tables));
    slot
}

#[test]
fn the_largest_is_a_family_and_no_big_innocent() {
    for known in [false, true] {
        let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
        innocent(&mut world, group, 300);
        let root = member(&mut world, group, 99, b"bomb", 99, 1);
        if known {
            begins_to_grow(&mut world, group, 1);
        }
        for pid in 100..120 {
            member(&mut world, group, pid, b"bomb", 99, 20);
        }
        let newcomer = member(&mut world, group, 400, b"sshd", 200, 1);
        world.anon(newcomer, mib(1));
        world.kernel(group, mib(17));
        let decisions = world.tick(10);
        let family = family_of(&decisions[0]).unwrap();
        assert_eq!((family.session, family.comm.unwrap()), (Some(99), *b"bomb\0\0\0\0\0\0\0\0\0\0\0\0"));
        let root = world.id(root);
        assert!(family.holds(root, 99, &family.comm.unwrap()), "who forks them is of them: {family:?}");
        let ranked: Vec<u32> = decisions[0].ranking.iter().map(|c| c.process.pid).collect();
        assert_eq!(ranked.len(), MAX_CANDIDATES);
        assert!(ranked.iter().all(|pid| (99..120).contains(pid)));
        assert_eq!(decisions[0].ranking.considered, 23);
    }
}

#[test]
fn what_nobody_is_seen_to_hold_kills_nobody() {
    // Dentries: the one who makes them looks as small as anybody.
    for (tables, known) in [(300, true), (300, false), (8192, true)] {
        let (mut world, group) = rig(&[(Action::Freeze, 0), (KILL_LARGEST, 100), (KILL, 2000)]);
        innocent(&mut world, group, tables);
        member(&mut world, group, 99, b"mkdir", 99, 1);
        if known {
            begins_to_grow(&mut world, group, tables / 1024 + 1);
        }
        member(&mut world, group, 200, b"sshd", 200, 1);
        world.kernel(group, mib(17));
        assert_eq!(world.said(10), ["freeze-begin /x log"]);
        assert_eq!(world.said(100), ["freeze-keep /x"], "somebody may yet turn up");
        world.kernel(group, mib(17));
        let decisions = world.tick(PATIENCE);
        let Reason::NobodyHoldsEnough { most, needed } = decisions[0].reason else { panic!("{decisions:?}") };
        assert!(most < needed && needed >= mib(2), "{most} of {needed}");
        assert_eq!(decisions[0].order, Order::Record);
        assert_eq!(world.said(PATIENCE), ["freeze-keep /x"], "said once");
        assert_eq!(world.said(PATIENCE), ["kill /x", "freeze-keep /x"], "the ladder goes on at its own time");
    }
}

#[test]
fn a_last_step_that_kills_nobody_says_so_once() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    innocent(&mut world, group, 300);
    begins_to_grow(&mut world, group, 1);
    world.kernel(group, mib(17));
    assert!(world.said(10).is_empty());
    assert_eq!(world.said(PATIENCE), ["record /x nobody-holds-enough log"]);
    for kernel in 18..25 {
        world.kernel(group, mib(kernel));
        assert!(world.said(PATIENCE).is_empty());
    }
    // Then somebody is seen to hold it.
    for pid in 100..120 {
        member(&mut world, group, pid, b"bomb", 99, 20);
    }
    assert_eq!(world.said(PATIENCE), ["kill-family-bomb-99 /x"]);
}

#[test]
fn who_has_grown_goes_before_who_holds_more() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    innocent(&mut world, group, 8192);
    let hog = member(&mut world, group, 99, b"hog", 99, 1);
    begins_to_grow(&mut world, group, 9);
    world.kernel(group, mib(17));
    assert!(world.said(10).is_empty());
    world.process_row(hog);
    assert!(world.said(10).is_empty(), "both were there before, and neither is seen to grow");
    world.process_row(hog).kernel.page_tables = Some(mib(7));
    assert_eq!(world.said(10), ["kill-one-of-99 /x log"]);
}

#[test]
fn who_holds_more_than_all_held_before_has_grown() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    innocent(&mut world, group, 1024);
    let hog = member(&mut world, group, 99, b"hog", 99, 1);
    begins_to_grow(&mut world, group, 3);
    world.process_row(hog).kernel.threads = Some(500);
    world.kernel(group, mib(17));
    assert_eq!(world.said(10), ["kill-one-of-99 /x log"]);
}

/// A bomb of 20 processes of 20 threads beside an innocent and a newcomer: whom it takes.
fn disguised(name: impl Fn(u32) -> [u8; 16], session: impl Fn(u32) -> u32) -> (World, Decision) {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    innocent(&mut world, group, 8192);
    for (pid, comm) in [(97, b"sh"), (98, b"sh")] {
        member(&mut world, group, pid, comm, 98, 1);
    }
    begins_to_grow(&mut world, group, 9);
    for pid in 100..120 {
        let slot = member(&mut world, group, pid, &name(pid), session(pid), 20);
        world.process_row(slot).parent = 98;
    }
    member(&mut world, group, 400, b"sshd", 400, 1);
    world.kernel(group, mib(20));
    let decisions = world.tick(10);
    (world, decisions[0])
}

fn numbered(pid: u32) -> [u8; 16] {
    let mut name = [0; 16];
    name[0] = b'x';
    for (to, from) in name[1..].iter_mut().zip(pid.to_string().bytes()) {
        *to = from;
    }
    name
}

#[test]
fn a_bomb_may_give_each_of_its_own_a_session_or_a_name() {
    let bomb = *b"bomb\0\0\0\0\0\0\0\0\0\0\0\0";
    for (setsid, rename) in [(true, false), (false, true), (true, true)] {
        let name = |pid| if rename { numbered(pid) } else { bomb };
        let (world, decision) = disguised(name, |pid| if setsid { pid } else { 98 });
        let family = family_of(&decision).unwrap();
        assert_eq!((family.session, family.comm), ((!setsid).then_some(98), (!rename).then_some(bomb)));
        assert!(family.since.is_some());
        let rows: Vec<&Process> = world.snap.processes.iter().map(|(_, row)| row).collect();
        let taken = |row: &&&Process| family.holds(row.id, row.session.unwrap(), &row.comm);
        let mut pids: Vec<u32> = rows.iter().filter(taken).map(|row| row.id.pid).collect();
        pids.sort_unstable();
        // Who starts them goes too, and no other of its session and name. What differs in nothing but having come now cannot be told from them.
        let also: &[u32] = if setsid && rename { &[400] } else { &[] };
        let expected: Vec<u32> = [98].into_iter().chain(100..120).chain(also.iter().copied()).collect();
        assert_eq!(pids, expected, "setsid {setsid}, renamed {rename}");
        assert_eq!(family.parent.map(|parent| parent.pid), Some(98));
    }
}

#[test]
fn having_come_since_is_no_sign_where_that_is_long_ago() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    begins_to_grow(&mut world, group, 1);
    for pid in 100..120 {
        member(&mut world, group, pid, &numbered(pid), pid, 20);
    }
    // It has risen by 2 MiB in each half minute.
    for step in 1..=7 {
        world.kernel(group, mib(1 + 2 * step));
        assert!(world.said(30_000).is_empty());
    }
    world.kernel(group, mib(17));
    assert!(world.said(10).is_empty());
    assert_eq!(world.said(PATIENCE), ["record /x nobody-holds-enough log"]);
}

#[test]
fn what_may_not_be_killed_makes_no_family() {
    let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
    for pid in 100..110 {
        let slot = member(&mut world, group, pid, b"safe", 99, 50);
        world.process_row(slot).oom_score_adj = Some(-1000);
    }
    for pid in 200..220 {
        member(&mut world, group, pid, b"small", 200, 10);
    }
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

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever a bomb calls its own, and however large who was there before: as long as that one does not grow, he is not taken.
    #[test]
    fn who_was_there_and_has_not_grown_is_never_taken(
        old in proptest::collection::vec((0u32..4, 0u8..4, 0u64..8192), 1..6),
        new in proptest::collection::vec((0u32..6, 0u8..6, 1u32..60), 0..40),
        low in 0u64..16, over in 1u64..8,
    ) {
        let (mut world, group) = rig(&[(KILL_LARGEST, 0)]);
        let comm = |n: u8| [b'a' + n];
        for (pid, &(session, name, tables)) in (50..).zip(&old) {
            // As much as the whole group held, at the most: less is not possible.
            let slot = member(&mut world, group, pid, &comm(10 + name), session, 1);
            world.process_row(slot).kernel = KernelShare { page_tables: Some(Bytes::kib(tables.min(low * 1024))), ..KernelShare::default() };
        }
        begins_to_grow(&mut world, group, low);
        for (pid, &(session, name, threads)) in (100..).zip(&new) {
            member(&mut world, group, pid, &comm(name), session, threads);
        }
        world.kernel(group, mib(16 + over));
        let decisions: Vec<Decision> = (0..3).flat_map(|_| world.tick(PATIENCE)).collect();
        for decision in &decisions {
            proptest::prop_assert!(decision.ranking.iter().all(|one| one.process.pid >= 100), "{decision:?}");
            if let Some(family) = family_of(decision) {
                for (_, row) in world.snap.processes.iter().filter(|(_, row)| row.id.pid < 100) {
                    proptest::prop_assert!(!family.holds(row.id, row.session.unwrap(), &row.comm), "{family:?}");
                }
            }
        }
        let held: u64 = new.iter().map(|&(_, _, threads)| Bytes::kib(28 * u64::from(threads)).0).sum();
        // All of it together is enough, and then somebody goes.
        let killed = decisions.iter().any(|decision| matches!(decision.order, Order::Kill { .. }));
        proptest::prop_assert!(killed || held < mib(16 + over - low).0.max(mib(over).0), "{held}: {decisions:?}");
    }
}
