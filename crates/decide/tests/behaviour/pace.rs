//! When rows are read: seldom where nothing can happen soon, at once where it can. A simulated observer reads what is
//! due, and nothing else.
use std::time::Duration;

use crate::world::*;
use memgov_decide::governor::{Bounds, Governor};
use memgov_decide::policy::*;
use memgov_decide::snapshot::*;
use memgov_decide::units::{Bytes, Time};

/// An observer: reads these rows at this time.
type Read<'a> = dyn FnMut(&mut World, &[GroupSlot], &[ProcessSlot], Time) + 'a;

/// Runs a world for so long: calls `due`, lets `read` fill in what is due (and returns who was), steps. Counts wake-ups and reads.
struct Run {
    groups: Vec<GroupSlot>,
    processes: Vec<ProcessSlot>,
    wakeups: u32,
    reads: u32,
}

impl Run {
    fn new(room: usize) -> Self {
        Self { groups: Vec::with_capacity(room), processes: Vec::with_capacity(room), wakeups: 0, reads: 0 }
    }

    /// Until `end`, or until `stop` says so; returns when that was.
    fn until(
        &mut self,
        world: &mut World,
        end: Time,
        read: &mut Read<'_>,
        stop: &dyn Fn(&World) -> bool,
    ) -> Time {
        let mut now = world.snap.at;
        while now < end && !stop(world) {
            let next = world.governor.due(&world.snap, now, &mut self.groups, &mut self.processes);
            if !self.groups.is_empty() || !self.processes.is_empty() {
                self.wakeups += 1;
                self.reads += u32::try_from(self.groups.len() + self.processes.len()).unwrap();
                read(world, &self.groups, &self.processes, now);
                world.tick(u64::try_from(now.since(world.snap.at).as_millis()).unwrap());
            } else if next <= now {
                world.tick(u64::try_from(now.since(world.snap.at).as_millis()).unwrap());
            }
            let ms = Duration::from_millis(1);
            now =
                world.governor.due(&world.snap, now, &mut Vec::new(), &mut Vec::new()).max(now + ms).min(end);
        }
        now
    }
}

#[test]
fn ten_thousand_idle_groups_cost_a_few_wakeups_a_second_and_one_read_each_per_slowest() {
    const GROUPS: u32 = 10_000;
    let bounds = Bounds { groups: GROUPS, processes: 1, controls: 1, episodes: 1 };
    let mut world = World::bounded(policy([usage_rule("a", "/*", 1000, &[(Action::Deny, 0)])]), bounds, 8);
    // They come up one after the other, so that nothing lines them up but the governor.
    for i in 0..GROUPS {
        let slot = GroupSlot(world.snap.groups.insert(idle_group(i)).unwrap());
        world.snap.fresh_groups.push(slot);
        if i % 10 == 0 {
            world.tick(1);
        }
    }
    let mut run = Run::new(GROUPS as usize);
    let mut read = |world: &mut World, groups: &[GroupSlot], _: &[ProcessSlot], _| {
        for &slot in groups {
            world.snap.fresh_groups.push(slot);
        }
    };
    let end = world.snap.at + Duration::from_secs(60);
    run.until(&mut world, end, &mut read, &|_| false);
    assert!((20..=180).contains(&run.wakeups), "{} wake-ups in a minute", run.wakeups);
    let each = f64::from(run.reads) / f64::from(GROUPS);
    assert!((25.0..=50.0).contains(&each), "{each} reads of each in a minute, 30 at the slowest pace");
}

fn idle_group(i: u32) -> Group {
    let mut row = Group::new(GroupId(u64::from(i) + 1), format!("/g{i}").as_bytes());
    row.usage = Some(mib(10));
    row.high = Some(memgov_decide::units::Limit::Max);
    row
}

#[test]
fn a_grower_is_seen_close_to_its_line_whatever_its_speed() {
    for mib_per_second in [1u64, 20, 300, 3000] {
        let mut world = World::new(policy([anon_rule("a", "hog", 1000, &[(Action::Deny, 0)])]));
        let process = world.process(7, None);
        world.tick(0);
        let start = world.snap.at;
        let size = |now: Time| {
            Bytes(
                u64::try_from(now.since(start).as_micros()).unwrap() * mib_per_second * 1024 * 1024
                    / 1_000_000,
            )
        };
        let mut run = Run::new(8);
        let mut read = |world: &mut World, _: &[GroupSlot], processes: &[ProcessSlot], now: Time| {
            for &slot in processes {
                world.anon(slot, size(now));
            }
        };
        let end = start + Duration::from_secs(2000);
        let seen = run.until(&mut world, end, &mut read, &|world| world.governor.episodes().next().is_some());
        assert!(seen < end, "{mib_per_second} MiB/s");
        let anon = world.snap.process(process).unwrap().rss.anon.unwrap();
        // The fastest pace (and the millisecond of this observer), or for the fastest grower the first look of all.
        let over = anon - mib(1000);
        let allowed = Bytes(mib(mib_per_second).0 * 12 / 1000);
        assert!(over <= allowed || mib_per_second > 1000, "{mib_per_second} MiB/s: {over} over");
        assert!(
            run.reads < 60 + 2 * u32::try_from(1000 / mib_per_second).unwrap(),
            "{mib_per_second} MiB/s: {} reads",
            run.reads
        );
    }
}

#[test]
fn a_process_whose_group_is_far_under_its_line_is_not_read_at_all() {
    let mut world = World::new(Policy::default());
    let group = world.group("/x", Some(100));
    let process = world.process(7, Some(group));
    let who = world.id(process);
    // ENOMEM, RSS_ANON.
    world.governor.set_control(who, control(0x0100_0001, 8, 32)).unwrap();
    world.usage(group, mib(10));
    world.tick(10);
    let mut run = Run::new(8);
    let mut idle = |world: &mut World, groups: &[GroupSlot], processes: &[ProcessSlot], _| {
        assert!(processes.is_empty());
        for &slot in groups {
            world.row(slot);
        }
    };
    let end = world.snap.at + Duration::from_secs(60);
    run.until(&mut world, end, &mut idle, &|_| false);
    assert!(run.wakeups <= 40, "{} wake-ups in a minute", run.wakeups);
    assert!(!world.governor.wants_processes(group, &world.snap));
    // An event says that the group moves; it is over, and the process is due with the same breath.
    let now = world.snap.at;
    world.governor.pace_hint_event(group, now);
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    world.governor.due(&world.snap, now, &mut groups, &mut processes);
    assert_eq!((&groups[..], &processes[..]), (&[group][..], &[][..]));
    world.usage(group, mib(104));
    world.tick(1);
    let now = world.snap.at;
    world.governor.due(&world.snap, now, &mut groups, &mut processes);
    assert_eq!(processes, [process]);
    world.anon(process, mib(40));
    world.usage(group, mib(109));
    assert_eq!(world.said(1), ["deny-begin 7"]);
}

#[test]
fn growth_of_the_group_brings_a_look_at_its_processes_forward() {
    let mut world = World::new(policy([
        anon_rule("own", "hog", 64, &[(Action::Deny, 0)]),
        usage_rule("whole", "/x", 1000, &[(Action::Record, 0)]),
    ]));
    let group = world.group("/x", None);
    let (process, beside) = (world.process(7, Some(group)), world.process(8, Some(group)));
    world.usage(group, mib(100));
    world.anon(process, mib(4));
    world.anon(beside, mib(60));
    world.tick(10);
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    let mut due = |world: &mut World| {
        let now = world.snap.at;
        world.governor.due(&world.snap, now, &mut groups, &mut processes);
        processes.clone()
    };
    due(&mut world);
    // Less than half of what is left to either.
    world.usage(group, mib(101));
    world.tick(1);
    assert_eq!(due(&mut world), []);
    // More than half of the 4 MiB that are left to one, and not of the 60 that are left to the other.
    world.usage(group, mib(103));
    world.tick(1);
    assert_eq!(due(&mut world), [beside]);
    world.anon(beside, mib(60));
    world.usage(group, mib(131));
    world.tick(1);
    // The other; the one has been read with the same breath.
    assert_eq!(due(&mut world), [process]);
    // Nobody is looked at again for growth that has been looked into.
    world.anon(process, mib(4));
    world.usage(group, mib(132));
    world.tick(1);
    assert_eq!(due(&mut world), []);
}

#[test]
fn groups_without_a_line_are_never_due_and_an_unknown_line_is_asked_for() {
    let mut rule = usage_rule("a", "/*", 0, &[(Action::Deny, 0)]);
    rule.when.group = Some(Over::High { plus: Bytes(0) });
    let mut world = World::new(policy([rule]));
    let unlimited = world.group("/max", None);
    let unknown = world.group("/unknown", Some(1));
    world.row(unknown).high = None;
    world.group("/no/rule/is/about/it", Some(1));
    world.tick(10);
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    let now = world.snap.at + Duration::from_secs(3);
    world.governor.due(&world.snap, now, &mut groups, &mut processes);
    assert_eq!(groups, [unknown]);
    assert!(!groups.contains(&unlimited));
}

/// What stood for it is taken back when it is read.
#[test]
fn under_another_policy_a_process_is_due_once_though_nothing_measures_it_any_more() {
    let mut world = World::new(policy([anon_rule("a", "hog", 100, &[(Action::Deny, 0)])]));
    let group = world.group("/x", None);
    let hog = world.process(7, Some(group));
    world.process_row(hog).comm[..4].copy_from_slice(b"hog\0");
    world.anon(hog, Bytes::mib(50));
    world.tick(10);
    world.governor.set_policy(policy([usage_rule("b", "/other", 100, &[(Action::Deny, 0)])]));
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    let now = world.snap.at + Duration::from_millis(10);
    world.governor.due(&world.snap, now, &mut groups, &mut processes);
    assert_eq!(processes, [hog]);
    world.anon(hog, Bytes::mib(50));
    world.tick(10);
    let later = now + Duration::from_secs(60);
    world.governor.due(&world.snap, later, &mut groups, &mut processes);
    assert_eq!(processes, [], "and not again");
}

#[test]
fn more_than_fits_is_due_again_at_once() {
    let mut world = World::new(policy([usage_rule("a", "/*", 1000, &[(Action::Deny, 0)])]));
    let all = ["/a", "/b", "/c"].map(|path| world.group(path, None));
    world.tick(10);
    let later = world.snap.at + Duration::from_secs(9);
    let (mut groups, mut processes) = (Vec::with_capacity(2), Vec::with_capacity(2));
    assert!(world.governor.due(&world.snap, later, &mut groups, &mut processes) <= later);
    let mut seen = groups.clone();
    assert!(world.governor.due(&world.snap, later, &mut groups, &mut processes) > later);
    seen.extend(&groups);
    assert_eq!((seen, groups.capacity()), (all.to_vec(), 2));
}

#[test]
fn a_step_of_the_ladder_has_its_own_alarm() {
    let mut world = World::new(policy([usage_rule("a", "/*", 100, &[(Action::Record, 0), (signal(15), 5)])]));
    world.governor = Governor::new(
        Policy {
            pace: Pace { fastest: Duration::from_secs(1), slowest: Duration::from_secs(9) },
            ..world.governor.policy().clone()
        },
        BOUNDS,
    );
    let group = world.group("/x", None);
    world.usage(group, mib(200));
    assert_eq!(world.said(10), ["record /x log"]);
    let now = world.snap.at;
    let next = world.governor.due(&world.snap, now, &mut Vec::with_capacity(8), &mut Vec::with_capacity(8));
    assert_eq!(next, now + Duration::from_millis(5));
}

/// Over the line of a rule that takes its time nothing happens between two of its looks.
#[test]
fn a_rule_that_takes_its_time_is_looked_at_once_a_second() {
    let tolerance = Some(memgov_decide::working_set::Tolerance::default());
    let reclaim = Action::Reclaim(Reclaim { tolerance, ..Reclaim::default() });
    let rule = usage_rule("small", "/x/*", 8, &[(reclaim, 0)]);
    let mut world = World::new(Policy { rules: vec![rule.clone()], ..Policy::default() });
    let group = world.group("/x/a", None);
    let end = world.snap.at + Duration::from_secs(60);
    let mut read = |world: &mut World, groups: &[GroupSlot], _: &[ProcessSlot], _: Time| {
        if !groups.is_empty() {
            world.usage(group, Bytes::mib(100));
        }
    };
    world.tick(1);
    let mut run = Run::new(8);
    run.until(&mut world, end, &mut read, &|_| false);
    assert!((55..=65).contains(&run.reads), "{} reads in a minute", run.reads);
    // With a step that does not take its time the pace is that of the others.
    let mut hasty = rule;
    hasty.steps.push(Step { action: Action::Record, after: Duration::from_secs(3600) });
    world.governor.set_policy(Policy { rules: vec![hasty], ..Policy::default() });
    let end = world.snap.at + Duration::from_secs(1);
    let mut run = Run::new(8);
    run.until(&mut world, end, &mut read, &|_| false);
    assert!(run.reads >= 50, "{} reads in a second", run.reads);
}
