//! What the over-high letter means, at the level of decisions: the criteria WL 3 to 10, by number.

use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::units::{Bytes, Limit};

const ENOMEM: u64 = 1;
const SLOWDOWN: u64 = 2;
const SIGNAL_USR1: u64 = 3 | 10 << 8;
const KILL_WORD: u64 = 4;
const SIGCONT: u64 = 1 << 16;
const DIRECT: u64 = 2 << 16;
const LOG: u64 = 4 << 16;
const RSS_ANON: u64 = 0x100 << 16;
const RSS_FILE: u64 = 0x200 << 16;
const RSS_SHMEM: u64 = 0x400 << 16;
const BATCH: u64 = 64 * 4096;

/// A group with `memory.high` of 100 MiB and one process in it.
fn rig() -> (World, memgov_decide::snapshot::GroupSlot, memgov_decide::snapshot::ProcessSlot) {
    let mut world = World::new(Policy::default());
    let group = world.group("/x", Some(100));
    let process = world.process(7, Some(group));
    assert!(world.tick(10).is_empty());
    (world, group, process)
}

#[test]
fn wl_3_at_the_line_nothing_and_one_batch_above_it_the_action() {
    for climit in [0, 8, 33] {
        let (mut world, group, process) = rig();
        world.governor.set_control(world.id(process), control(ENOMEM, climit, 0)).unwrap();
        let line = mib(100 + climit);
        world.usage(group, line);
        assert!(world.said(10).is_empty(), "at the line is not over it");
        world.usage(group, Bytes(line.0 + BATCH));
        assert_eq!(world.said(10), ["deny-begin 7"]);
        world.usage(group, line);
        assert!(world.said(10).is_empty(), "within a batch of the line it stays in force");
        world.usage(group, Bytes(line.0 - BATCH));
        assert_eq!(world.said(10), ["deny-end 7", "relieved 7"]);
    }
}

#[test]
fn wl_3_any_group_above_counts_and_max_or_unknown_never_does() {
    let mut world = World::new(Policy::default());
    let root = world.group("/", Some(1));
    let top = world.group("/x", Some(100));
    let inner = world.group("/x/a", None);
    let process = world.process(7, Some(inner));
    world.usage(root, mib(500));
    world.usage(inner, mib(90));
    world.governor.set_control(world.id(process), control(ENOMEM, 0, 0)).unwrap();
    assert!(world.said(10).is_empty(), "the root is never over, and a high of max neither");
    world.row(top).high = None;
    world.usage(top, mib(120));
    assert!(world.said(10).is_empty(), "an unknown high is not one of 0");
    world.row(top).high = Some(Limit::At(mib(100)));
    let decisions = world.tick(10);
    assert_eq!(decisions[0].reason, Reason::Usage { group: top, usage: mib(120), line: mib(100) });
    world.row(top).high = None;
    assert!(world.said(10).is_empty(), "nor does it relieve");
    world.row(top).high = Some(Limit::Max);
    assert_eq!(
        world.said(10),
        ["deny-end 7 rule-gone", "relieved 7 rule-gone"],
        "but max takes the line away"
    );
}

#[test]
fn wl_4_each_kind_trips_on_itself_and_sums_are_summed() {
    for (flags, expected) in [
        (RSS_ANON, [true, false, false, false]),
        (RSS_FILE, [false, true, false, false]),
        (RSS_SHMEM, [false, false, true, false]),
        (RSS_ANON | RSS_SHMEM, [true, false, true, true]),
    ] {
        for (memory, expected) in [(33, 0, 0), (0, 33, 0), (0, 0, 33), (20, 0, 20)].into_iter().zip(expected)
        {
            let (mut world, group, process) = rig();
            world.governor.set_control(world.id(process), control(ENOMEM | flags, 0, 32)).unwrap();
            world.usage(group, mib(101));
            let rss = &mut world.process_row(process).rss;
            (rss.anon, rss.file, rss.shmem) = (Some(mib(memory.0)), Some(mib(memory.1)), Some(mib(memory.2)));
            assert_eq!(!world.tick(10).is_empty(), expected, "{flags:#x} {memory:?}");
        }
    }
}

#[test]
fn wl_4_with_rss_flags_both_must_be_over() {
    let (mut world, group, process) = rig();
    world.governor.set_control(world.id(process), control(ENOMEM | RSS_ANON, 0, 32)).unwrap();
    world.anon(process, mib(50));
    assert!(world.said(10).is_empty());
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["deny-begin 7"], "also when only the group is fresh");
    world.process_row(process).rss.anon = None;
    assert!(world.said(10).is_empty(), "unknown: as it was");
    world.usage(group, mib(90));
    assert_eq!(world.said(10), ["deny-end 7", "relieved 7"], "the group alone settles it");
}

#[test]
fn wl_5_direct_looks_at_nothing_but_the_process() {
    let mut world = World::new(Policy::default());
    let group = world.group("/x", None);
    let process = world.process(7, Some(group));
    world.governor.set_control(world.id(process), control(ENOMEM | DIRECT | RSS_ANON, 0, 64)).unwrap();
    world.anon(process, mib(64));
    assert!(world.said(10).is_empty());
    world.anon(process, mib(65));
    assert_eq!(world.said(10), ["deny-begin 7"]);
}

#[test]
fn wl_6_slowdown_is_in_proportion_and_kept_up() {
    let (mut world, group, process) = rig();
    world.governor.set_control(world.id(process), control(SLOWDOWN, 0, 0)).unwrap();
    let share = |decisions: &[Decision]| match decisions {
        [Decision { order: Order::Slow { share, .. }, .. }] => *share,
        other => panic!("{other:?}"),
    };
    // Hardly any growth, so the excess alone speaks.
    world.usage(group, mib(100));
    world.tick(100_000);
    world.usage(group, mib(101));
    let at_one = share(&world.tick(100_000));
    world.usage(group, mib(110));
    let at_ten = share(&world.tick(100_000));
    assert!(at_ten < at_one && at_one <= 556 && at_ten >= 5, "{at_one} {at_ten}");
}

#[test]
fn wl_7_a_signal_is_sent_once_unless_sigcont_or_set_again() {
    let (mut world, group, process) = rig();
    let who = world.id(process);
    world.governor.set_control(who, control(SIGNAL_USR1, 0, 0)).unwrap();
    world.usage(group, mib(101));
    let sent = world.tick(10);
    assert_eq!(sent[0].order, Order::Signal { signal: 10 });
    assert_eq!(world.governor.control(who).unwrap().signal, 10, "not before it is delivered");
    world.report(sent[0].id, DONE);
    assert_eq!(world.governor.control(who).unwrap().signal, 0);
    for over in 101..=111 {
        world.usage(group, mib(over));
        assert!(world.said(1000).is_empty());
    }
    world.usage(group, mib(50));
    assert_eq!(world.said(10), ["relieved 7"]);
    world.usage(group, mib(120));
    assert!(world.said(10).is_empty(), "spent");
    world.governor.set_control(who, control(SIGNAL_USR1, 0, 0)).unwrap();
    assert_eq!(world.said(10), ["signal-10 7"], "set again, and not even freshly read");

    world.governor.set_control(who, control(SIGNAL_USR1 | SIGCONT, 0, 0)).unwrap();
    let mut count = 0;
    for _ in 0..1000 {
        let decisions = world.tick(10);
        count += decisions.iter().filter(|d| matches!(d.order, Order::Signal { .. })).count();
        for decision in decisions {
            world.report(decision.id, DONE);
        }
    }
    assert_eq!(count, 10, "each second");
}

#[test]
fn wl_7_a_refused_signal_is_not_spent_and_tried_again_each_second() {
    let (mut world, group, process) = rig();
    let who = world.id(process);
    world.governor.set_control(who, control(SIGNAL_USR1, 0, 0)).unwrap();
    world.usage(group, mib(101));
    let mut count = 0;
    for _ in 0..500 {
        for decision in world.tick(10) {
            count += 1;
            world.report(decision.id, REFUSED);
        }
    }
    assert_eq!(count, 5);
    assert_eq!(world.governor.control(who).unwrap().signal, 10);
}

#[test]
fn wl_7_kill_takes_the_process_and_nobody_else() {
    let (mut world, group, process) = rig();
    let other = world.process(8, Some(group));
    world.anon(other, mib(90));
    world.anon(process, mib(20));
    world.governor.set_control(world.id(process), control(KILL_WORD, 0, 0)).unwrap();
    world.usage(group, mib(110));
    let killed = world.tick(10);
    assert_eq!(killed.iter().map(|d| world.words(d)).collect::<Vec<_>>(), ["kill 7"]);
    assert_eq!(killed[0].ranking.iter().map(|c| c.process.pid).collect::<Vec<_>>(), [7]);
    world.process_row(process).gone = true;
    assert_eq!(world.said(10), ["relieved 7 target-gone"]);
}

#[test]
fn wl_8_children_inherit_and_start_unflagged() {
    let (mut world, group, parent) = rig();
    let parent_id = world.id(parent);
    world.governor.set_control(parent_id, control(SIGNAL_USR1 | RSS_ANON, 1, 32)).unwrap();
    world.usage(group, mib(120));
    world.anon(parent, mib(40));
    assert_eq!(world.said(10), ["signal-10 7"]);
    let child = world.process(8, Some(group));
    let child_id = world.id(child);
    assert_eq!(world.governor.inherit(parent_id, child_id), Ok(true));
    assert_eq!(world.governor.control(child_id), world.governor.control(parent_id));
    assert!(world.said(10).is_empty(), "un-flagged until it is over itself");
    world.anon(child, mib(40));
    assert_eq!(world.said(10), ["signal-10 8"]);
    let stranger = world.process(9, Some(group));
    assert_eq!(world.governor.inherit(world.id(stranger), child_id), Ok(false));
    // exec: another name, the same process.
    world.process_row(child).comm = *b"other\0\0\0\0\0\0\0\0\0\0\0";
    assert!(world.said(10).is_empty());
    assert!(world.governor.control(child_id).is_some());
}

#[test]
fn wl_9_one_line_an_episode_armed_again_under_high() {
    let (mut world, group, process) = rig();
    world.governor.set_control(world.id(process), control(ENOMEM | LOG, 8, 0)).unwrap();
    world.usage(group, mib(120));
    assert_eq!(world.said(10), ["deny-begin 7 log"]);
    assert_eq!(world.said(10), ["deny-keep 7"]);
    world.usage(group, mib(102));
    assert_eq!(world.said(10), ["deny-end 7", "relieved 7"]);
    world.usage(group, mib(120));
    assert_eq!(world.said(10), ["deny-begin 7"], "it was under the line, but never back under high");
    world.usage(group, mib(100));
    world.tick(10);
    world.usage(group, mib(120));
    assert_eq!(world.said(10), ["deny-begin 7 log"]);
    world.governor.set_control(world.id(process), control(ENOMEM | LOG, 8, 0)).unwrap();
    let again = ["deny-end 7 rule-gone", "relieved 7 rule-gone", "deny-begin 7 log"];
    assert_eq!(world.said(10), again, "set again: armed again");
}

#[test]
fn wl_10_two_processes_of_a_group_each_get_their_own() {
    for first in [7, 8] {
        let (mut world, group, seven) = rig();
        let eight = world.process(8, Some(group));
        let nine = world.process(9, Some(group));
        let (a, b) = (world.id(seven), world.id(eight));
        world.governor.set_control(a, control(ENOMEM | RSS_ANON, 0, 32)).unwrap();
        world.governor.set_control(b, control(SIGNAL_USR1 | RSS_ANON, 0, 32)).unwrap();
        world.usage(group, mib(150));
        world.anon(nine, mib(100));
        let (one, two) = if first == 7 { (seven, eight) } else { (eight, seven) };
        world.anon(one, mib(40));
        let mut said = world.said(10);
        world.anon(two, mib(40));
        said.extend(world.said(10));
        said.retain(|words| !words.contains("keep"));
        said.sort();
        assert_eq!(said, ["deny-begin 7", "signal-10 8"]);
    }
}
