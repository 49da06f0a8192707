//! Who gives way when the host, or a group around jobs, runs short: told as stories, and as properties over any jobs.

use std::time::Duration;

use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::jobs::{Contender, Preference, Wish};
use memgov_decide::policy::*;
use memgov_decide::snapshot::GroupSlot;
use memgov_decide::units::{Bytes, Limit, Time};
use proptest::prelude::*;

/// Three jobs of 300 MiB each below `/jobs`, which may use 1000 MiB, on a host with 4000 MiB.
fn three(rule: Rule, reservations: [u64; 3]) -> (World, GroupSlot, [GroupSlot; 3]) {
    three_with(rule, reservations, Vec::new())
}

/// With what was said of jobs since the start.
fn three_with(
    rule: Rule,
    reservations: [u64; 3],
    said: Vec<GroupPolicy>,
) -> (World, GroupSlot, [GroupSlot; 3]) {
    let mut policy = policy([rule]);
    policy.put_first(said);
    for (at, (priority, reservation)) in [10, 20, 30].into_iter().zip(reservations).enumerate() {
        policy.groups.push(job(&format!("/jobs/{at}"), priority, reservation));
    }
    let mut world = World::new(policy);
    world.snap.host.memory = Some(mib(4000));
    let parent = world.group("/jobs", None);
    world.row(parent).max = Some(Limit::At(mib(1000)));
    let jobs = [0, 1, 2].map(|at| world.group(&format!("/jobs/{at}"), None));
    for slot in jobs {
        world.usage(slot, mib(300));
    }
    world.available(2000);
    assert!(world.tick(10).is_empty());
    (world, parent, jobs)
}

/// The shortage is seen, the jobs are read because of it, and somebody gives way.
fn shortage(world: &mut World, jobs: &[GroupSlot]) -> Vec<Decision> {
    world.available(90);
    assert!(world.tick(10).is_empty(), "what jobs use was read before the shortage");
    for &slot in jobs {
        world.row(slot);
    }
    world.tick(1)
}

fn killed(decisions: &[Decision]) -> Vec<GroupSlot> {
    let kills = decisions.iter().filter(|d| matches!(d.order, Order::Kill { .. }));
    kills.filter_map(|d| if let Target::Group(_, slot) = d.target { Some(slot) } else { None }).collect()
}

#[test]
fn the_lowest_priority_gives_way_for_the_host() {
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    let decisions = shortage(&mut world, &jobs);
    assert_eq!(killed(&decisions), [jobs[0]]);
    let Reason::Available { group: None, available, line, falling: None } = decisions[0].reason else {
        panic!("{decisions:?}")
    };
    assert_eq!((available, line), (mib(90), mib(100)));
    let ranked: Vec<_> = decisions[0].ranking.jobs().iter().map(|job| (job.slot, job.priority)).collect();
    assert_eq!(ranked, [(jobs[0], 10), (jobs[1], 20), (jobs[2], 30)], "with all that were asked");
}

#[test]
fn a_reservation_turns_it_round_and_back() {
    // The most important job is over what was reserved for it, the others are not.
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [300, 300, 100]);
    assert_eq!(killed(&shortage(&mut world, &jobs)), [jobs[2]]);
    // All are within theirs: the order of priority is back.
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [300, 300, 300]);
    assert_eq!(killed(&shortage(&mut world, &jobs)), [jobs[0]]);
    // All are over: likewise, however much.
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [299, 200, 0]);
    assert_eq!(killed(&shortage(&mut world, &jobs)), [jobs[0]]);
}

/// What this user has said of a group.
fn said(by: u32, groups: &str, priority: i32, reservation_mib: u64) -> GroupPolicy {
    GroupPolicy { set_by: Some(by), ..job(groups, priority, reservation_mib) }
}

/// A shortage of the group around three jobs, which has this owner, after this was said: who gives way.
fn below(owner: u32, said: GroupPolicy) -> Option<usize> {
    let (mut world, parent, jobs) =
        three_with(available_rule("parent", "/jobs", 50, &[(KILL_JOB, 0)]), [0; 3], vec![said]);
    world.row(parent).owner = Some(owner);
    (world.row(parent).usage, world.row(parent).reclaimable) = (Some(mib(980)), Some(mib(10)));
    world.tick(10);
    for slot in jobs {
        world.row(slot);
    }
    let killed = killed(&world.tick(1));
    jobs.iter().position(|slot| killed == [*slot])
}

#[test]
fn what_a_user_says_counts_among_his_own_and_nowhere_else() {
    const USER: u32 = 1000;
    assert_eq!(below(USER, said(USER, "/jobs/2", -1, 0)), Some(2), "all of it is his");
    assert_eq!(below(0, said(USER, "/jobs/2", -1, 0)), Some(0), "root's group");
    assert_eq!(below(1001, said(USER, "/jobs/2", -1, 0)), Some(0), "another's group");
    assert_eq!(below(USER, said(0, "/jobs/2", -1, 0)), Some(2), "root's word counts with everybody");
    assert_eq!(below(0, said(USER, "/jobs/0", i32::MAX, 1000)), Some(0), "nobody is spared at others' cost");
    let mine = GroupPolicy { priority: None, ..said(USER, "/jobs/1", 0, 1) };
    assert_eq!(below(USER, mine), Some(0), "what he says nothing of is as it was");
    // Of the host's shortages only root speaks.
    for (by, first) in [(USER, 0), (0, 2)] {
        let words = vec![said(by, "/jobs/2", -1, 0)];
        let (mut world, _, jobs) = three_with(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3], words);
        assert_eq!(killed(&shortage(&mut world, &jobs)), [jobs[first]], "{by}");
    }
}

#[test]
fn a_group_around_jobs_is_short_when_what_cannot_be_had_back_fills_it() {
    let (mut world, parent, jobs) = three(available_rule("parent", "/jobs", 50, &[(KILL_JOB, 0)]), [0; 3]);
    world.usage(parent, mib(980));
    assert!(world.tick(10).is_empty(), "what of it can be had back is not known");
    world.row(parent).reclaimable = Some(mib(200));
    assert!(world.tick(10).is_empty(), "page cache is not a shortage");
    world.row(parent).reclaimable = Some(mib(10));
    world.tick(10);
    for slot in jobs {
        world.row(slot);
    }
    let decisions = world.tick(1);
    assert_eq!(killed(&decisions), [jobs[0]]);
    let expected =
        Reason::Available { group: Some(parent), available: mib(30), line: mib(50), falling: None };
    assert_eq!(decisions[0].reason, expected);
    let outside = world.group("/other", None);
    world.usage(outside, mib(500));
    assert!(killed(&world.tick(3000)).iter().all(|&slot| slot != outside), "only what is below it");
}

#[test]
fn what_is_kept_for_whoever_helps_is_not_available() {
    let rule = || available_rule("line", "/x", 50, &[(Action::Record, 0)]);
    let short_at = |reserve: Option<u64>| {
        let mut policy = policy([rule()]);
        let groups = vec![Pattern::new("/x")];
        let oom_reserve = reserve.map(Bytes::mib);
        policy.groups = vec![GroupPolicy { groups, oom_reserve, ..GroupPolicy::default() }];
        let mut world = World::new(policy);
        let group = world.group("/x", None);
        let row = world.row(group);
        (row.max, row.reclaimable) = (Some(Limit::At(mib(1000))), Some(mib(0)));
        let told = (1..=1000).find_map(|used| {
            world.usage(group, mib(used));
            world.tick(100).first().map(|decision| (used, decision.reason))
        });
        let (used, Reason::Available { available, line, .. }) = told.unwrap() else { panic!("{told:?}") };
        (used, available, line)
    };
    assert_eq!(short_at(None), (951, mib(49), mib(50)));
    assert_eq!(short_at(Some(200)), (751, mib(49), mib(50)));
}

#[test]
fn nobody_else_is_hit_until_what_comes_back_is_seen() {
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    let first = shortage(&mut world, &jobs);
    world.available(90);
    assert!(world.tick(50).is_empty());
    world.report(first[0].id, dead(mib(300)));
    world.usage(jobs[0], mib(0));
    world.available(90);
    assert!(world.tick(10).is_empty(), "it has come back, and this reading may be from before");
    world.available(95);
    assert!(world.tick(1).is_empty(), "the jobs are to be read again");
    for slot in jobs {
        world.row(slot);
    }
    world.available(95);
    assert_eq!(killed(&world.tick(10)), [jobs[1]], "it was not enough");
    world.available(2000);
    assert_eq!(world.said(10), ["relieved host"]);
}

#[test]
fn kills_elsewhere_are_waited_for_but_not_for_ever() {
    let rules = [host_rule("host", 100, &[(KILL_JOB, 0)]), usage_rule("other", "/other", 100, &[(KILL, 0)])];
    let mut policy = policy(rules);
    policy.groups.push(job("/job", 1, 0));
    policy.kills = KillBudget { count: 100, ..KillBudget::default() };
    let mut world = World::new(policy);
    world.snap.host.memory = Some(mib(4000));
    let (job, other) = (world.group("/job", None), world.group("/other", None));
    let mut passed = 0;
    for tick in 0..100 {
        world.usage(job, mib(300));
        world.usage(other, mib(200));
        world.available(90);
        for decision in world.tick(100) {
            // It is never told that anybody died.
            world.report(decision.id, DONE);
            if matches!(decision.order, Order::Kill { .. })
                && matches!(decision.target, Target::Group(_, slot) if slot == job)
            {
                assert!((38..50).contains(&tick), "after {tick} ticks");
                passed += 1;
            }
        }
        if passed > 0 {
            return;
        }
    }
    panic!("the shortage was never met");
}

#[test]
fn a_job_that_is_dead_is_waited_for_only_shortly_and_not_asked_again() {
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    let first = shortage(&mut world, &jobs);
    world.report(first[0].id, dead(mib(300)));
    let (mut due, mut processes) = (Vec::with_capacity(64), Vec::with_capacity(64));
    world.governor.due(&world.snap, world.snap.at, &mut due, &mut processes);
    assert!(due.contains(&jobs[0]), "what it has left is read at once: {due:?}");
    let mut next = Vec::new();
    for _ in 0..6 {
        // Its page cache stays charged to it.
        world.usage(jobs[0], mib(280));
        jobs[1..].iter().for_each(|&slot| world.usage(slot, mib(300)));
        world.available(90);
        next.extend(world.tick(60));
    }
    assert_eq!(killed(&next), [jobs[1]]);
    let waited = next[0].at.since(first[0].at);
    assert!((200..400).contains(&waited.as_millis()), "{waited:?}");
    // Somebody has begun anew in it: it is the first to give way again.
    world.report(next[0].id, dead(mib(300)));
    let mut again = Vec::new();
    for _ in 0..6 {
        world.usage(jobs[0], mib(282));
        world.usage(jobs[1], mib(10));
        world.usage(jobs[2], mib(300));
        world.available(90);
        again.extend(world.tick(60));
    }
    assert_eq!(killed(&again), [jobs[0]]);
}

#[test]
fn who_cannot_be_killed_is_left_out_and_the_next_is_taken() {
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    for (at, answer) in [REFUSED, Outcome::Nothing, Outcome::Withheld].into_iter().enumerate() {
        let decisions = if at == 0 { shortage(&mut world, &jobs) } else { world.tick(10) };
        assert_eq!(killed(&decisions), [jobs[at]]);
        world.report(decisions[0].id, answer);
    }
    let decisions = world.tick(10);
    assert_eq!(decisions[0].reason, Reason::NoJob { considered: 3, left_out: 3 });
    assert!(world.tick(10).is_empty(), "said once");
    for slot in jobs {
        world.row(slot);
    }
    assert_eq!(killed(&world.tick(10_000)), [jobs[0]], "it is tried again later");
}

#[test]
fn one_job_after_the_other_goes_before_the_next_step() {
    let steps = [(KILL_JOB, 0), (signal(15), 1000)];
    let (mut world, parent, jobs) = three(available_rule("parent", "/jobs", 50, &steps), [0; 3]);
    world.usage(parent, mib(990));
    world.row(parent).reclaimable = Some(mib(0));
    world.tick(10);
    let mut said = Vec::new();
    for _ in 0..60 {
        jobs.iter().for_each(|&slot| {
            world.row(slot);
        });
        world.row(parent);
        for decision in world.tick(100) {
            said.push(world.words(&decision));
            if let Target::Group(_, slot) = decision.target
                && decision.order == (Order::Kill { take: Take::Whole })
            {
                // It dies slowly, and it does not help.
                world.report(decision.id, dead(mib(300)));
                world.usage(slot, mib(0));
            }
        }
    }
    said.retain(|words| !words.contains("freeing-pending"));
    let expected =
        ["kill /jobs/0 log", "kill /jobs/1", "kill /jobs/2", "record /jobs no-job", "signal-15 /jobs"];
    assert_eq!(said, expected);
}

#[test]
fn without_a_job_the_next_step_follows_at_once() {
    let steps = [(KILL_JOB, 0), (signal(15), 60_000)];
    let mut world = World::new(policy([available_rule("parent", "/jobs", 50, &steps)]));
    let parent = world.group("/jobs", None);
    world.row(parent).max = Some(Limit::At(mib(100)));
    world.usage(parent, mib(60));
    world.row(parent).reclaimable = Some(mib(0));
    assert_eq!(world.said(10), ["record /jobs no-job log", "signal-15 /jobs"]);
}

#[test]
fn wishes_come_before_priority_and_behind_reservations() {
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    let wish = |world: &mut World, at: usize, owner, user| {
        let row = world.row(jobs[at]);
        (row.owner, row.preference) = (Some(owner), Preference { user, trusted: None });
    };
    wish(&mut world, 0, 0, Some(Wish::Avoid));
    wish(&mut world, 1, 0, Some(Wish::Omit));
    let decisions = shortage(&mut world, &jobs);
    assert_eq!(killed(&decisions), [jobs[2]]);
    assert_eq!(decisions[0].ranking.jobs().len(), 2);
    assert_eq!(decisions[0].ranking.protected, 1);
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    wish(&mut world, 0, 1000, Some(Wish::Omit));
    assert_eq!(
        killed(&shortage(&mut world, &jobs)),
        [jobs[0]],
        "a user's group is not spared at others' cost"
    );
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0, 300, 300]);
    wish(&mut world, 0, 0, Some(Wish::Avoid));
    assert_eq!(killed(&shortage(&mut world, &jobs)), [jobs[0]], "the others are within their reservations");
}

#[test]
fn what_is_indivisible_dies_as_one_and_a_job_below_a_job_is_part_of_it() {
    let (mut world, _, jobs) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    let mut policy = world.governor.policy().clone();
    policy.groups.push(job("/jobs/0/*", 1, 0));
    policy.groups.push(job("/pod/*", 15, 0));
    policy.groups.push(job("/pod/b", 40, 0));
    world.governor.set_policy(policy.clone());
    let below = world.group("/jobs/0/below", None);
    world.usage(below, mib(200));
    let pod = world.group("/pod", None);
    let parts = ["/pod/a", "/pod/b"].map(|path| world.group(path, None));
    for slot in parts {
        world.usage(slot, mib(50));
    }
    world.usage(pod, mib(100));
    world.row(pod).oom_group = Some(true);
    world.tick(10);
    let all: Vec<_> = jobs.into_iter().chain([below, pod]).chain(parts).collect();
    let decisions = shortage(&mut world, &all);
    assert_eq!(killed(&decisions), [jobs[0]], "the job around it is asked, at its own priority");
    let ranked: Vec<_> = decisions[0].ranking.jobs().iter().map(|job| (job.slot, job.priority)).collect();
    // First match: /pod/* gives both 15.
    assert_eq!(ranked, [(jobs[0], 10), (pod, 15), (jobs[1], 20), (jobs[2], 30)]);
}

#[test]
fn running_out_soon_can_be_asked_for_besides_the_level() {
    let mut rule = host_rule("host", 500, &[(KILL_JOB, 0)]);
    let under = Under::Amount(mib(500));
    rule.when.group = Some(Over::Available { under, exhausted_in: Some(Duration::from_secs(2)) });
    let (mut world, _, jobs) = three(rule, [0; 3]);
    // A host that stands at 400 MiB is not short.
    for step in 0..60 {
        world.available((550 - step * 5).max(400));
        assert!(world.tick(50).is_empty());
    }
    // 100 MiB a second: nothing would be left in 3.9 s.
    for step in 1..=2 {
        world.available(400 - step * 5);
        assert!(world.tick(50).is_empty());
    }
    // 1 GiB a second.
    let mut all = Vec::new();
    for step in 1..=4 {
        for slot in jobs {
            world.row(slot);
        }
        world.available(390 - step * 50);
        all.extend(world.tick(50));
    }
    assert_eq!(killed(&all), [jobs[0]]);
    let Reason::Available { falling: Some(falling), available, .. } = all[0].reason else {
        panic!("{all:?}")
    };
    assert!(available.0 < falling * 2, "{all:?}");
}

#[test]
fn a_group_too_may_be_full_and_is_not_to_run_out() {
    let mut rule = available_rule("jobs", "/jobs", 500, &[(KILL_JOB, 0)]);
    let under = Under::Amount(mib(500));
    rule.when.group = Some(Over::Available { under, exhausted_in: Some(Duration::from_secs(2)) });
    let (mut world, parent, jobs) = three(rule, [0; 3]);
    let all_read = |world: &mut World, used: u64| {
        for slot in jobs {
            world.row(slot);
        }
        world.usage(parent, mib(used));
        // Of what it uses 100 MiB can be had back.
        world.row(parent).reclaimable = Some(mib(100));
    };
    // It stands at 300 MiB that are available, and gets there slowly.
    for step in 0..60 {
        all_read(&mut world, (500 + step * 5).min(800));
        assert!(world.tick(50).is_empty(), "at step {step}");
    }
    // That a limit is lowered takes no memory.
    world.row(parent).max = Some(Limit::At(mib(950)));
    for _ in 0..10 {
        all_read(&mut world, 800);
        assert!(world.tick(50).is_empty(), "the limit has moved, and nothing else");
    }
    world.row(parent).max = Some(Limit::At(mib(1000)));
    for step in 1..=2 {
        all_read(&mut world, 800 + step * 5);
        assert!(world.tick(50).is_empty(), "100 MiB a second: nothing would be left in 2.9 s");
    }
    let mut all = Vec::new();
    for step in 1..=3 {
        all_read(&mut world, 810 + step * 50);
        all.extend(world.tick(50));
    }
    assert_eq!(killed(&all), [jobs[0]]);
    let Reason::Available { group, falling: Some(falling), available, .. } = all[0].reason else {
        panic!("{all:?}")
    };
    assert_eq!(group, Some(parent));
    assert!(available.0 < falling * 2, "{all:?}");
}

#[test]
fn a_share_is_of_what_there_is_in_all() {
    let mut rule = host_rule("host", 0, &[(KILL_JOB, 0)]);
    rule.when.group = Some(Over::Available { under: Under::Share(50), exhausted_in: None });
    let (mut world, _, jobs) = three(rule, [0; 3]);
    world.available(200);
    world.tick(10);
    for slot in jobs {
        world.row(slot);
    }
    assert!(world.tick(10).is_empty(), "5% of 4000 MiB is the line, and at it is not under it");
    world.available(199);
    world.tick(10);
    for slot in jobs {
        world.row(slot);
    }
    assert_eq!(killed(&world.tick(10)), [jobs[0]]);
}

#[test]
fn the_host_is_read_often_when_little_is_left_and_seldom_when_not() {
    let (mut world, _, _) = three(host_rule("host", 100, &[(KILL_JOB, 0)]), [0; 3]);
    let (mut groups, mut processes) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let mut next = |world: &mut World| {
        let now = world.snap.at;
        let mut at = world.governor.due(&world.snap, now, &mut groups, &mut processes);
        while !world.governor.take_host_due() {
            at = world.governor.due(&world.snap, at, &mut groups, &mut processes);
        }
        at.since(now)
    };
    world.available(3900);
    world.tick(10);
    let seldom = next(&mut world);
    world.available(110);
    world.tick(10);
    let often = next(&mut world);
    assert!(seldom > Duration::from_secs(1) && often < Duration::from_millis(50), "{seldom:?} {often:?}");
    let at = world.snap.at;
    world.available(3900);
    world.tick(10);
    world.governor.pace_hint_host(at);
    assert!(next(&mut world) <= Duration::from_secs(2));
    world.governor.set_policy(Policy::default());
    world.tick(10);
    for _ in 0..20 {
        let now = world.snap.at + Duration::from_secs(1);
        world.snap.at = now;
        world.governor.due(&world.snap, now, &mut groups, &mut processes);
        assert!(!world.governor.take_host_due(), "no rule is about it");
    }
}

/// What a job of the property tests is like: priority, reservation and usage in MiB, wish.
type Like = (i32, u64, u64, Option<Wish>);

fn like() -> impl Strategy<Value = Like> {
    let wish =
        prop::sample::select(vec![None, None, Some(Wish::Avoid), Some(Wish::Omit), Some(Wish::Prefer)]);
    (0i32..3, 0u64..4, 0u64..5, wish)
}

fn crowd(like: &[Like]) -> (World, Vec<GroupSlot>) {
    let mut policy = policy([host_rule("host", 100, &[(KILL_JOB, 0)])]);
    policy.kills = KillBudget { count: 100, ..KillBudget::default() };
    for (at, (priority, reservation, ..)) in like.iter().enumerate() {
        policy.groups.push(job(&format!("/j{at:02}"), *priority, *reservation));
    }
    let mut world = World::new(policy);
    world.snap.host.memory = Some(mib(4000));
    let slots: Vec<_> = (0..like.len()).map(|at| world.group(&format!("/j{at:02}"), None)).collect();
    for (&slot, (.., usage, wish)) in slots.iter().zip(like) {
        world.usage(slot, mib(*usage));
        let row = world.row(slot);
        (row.owner, row.preference) = (Some(0), Preference { user: *wish, trusted: None });
    }
    world.available(2000);
    world.tick(10);
    (world, slots)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_gives_way_is_the_first_of_all(like in prop::collection::vec(like(), 1..14)) {
        let (mut world, slots) = crowd(&like);
        let decisions = shortage(&mut world, &slots);
        let contender = |&slot: &GroupSlot| {
            let (at, row) = (slots.iter().position(|&s| s == slot).unwrap(), world.snap.group(slot).unwrap());
            let (priority, reservation, _, wish) = like[at];
            let (usage, reservation) = (row.usage.unwrap(), mib(reservation));
            Contender { group: row.id, usage, reservation, priority, slot, wish }
        };
        let may: Vec<Contender> =
            slots.iter().map(contender).filter(|job| job.wish != Some(Wish::Omit) && job.usage > Bytes(0)).collect();
        let first = may.iter().find(|a| may.iter().all(|b| a.slot == b.slot || a.gives_way_before(b)));
        prop_assert_eq!(killed(&decisions), first.map(|job| job.slot).into_iter().collect::<Vec<_>>());
        if let Some(first) = first {
            prop_assert!(first.is_over() || may.iter().all(|job| !job.is_over()), "within its reservation, and another is not");
            let ranking = decisions[0].ranking;
            prop_assert_eq!(ranking.jobs().len(), may.len().min(MAX_JOBS));
            prop_assert!(ranking.jobs().is_sorted_by(Contender::gives_way_before));
        }
    }

    /// He makes jobs of groups above and below the jobs there are, spares some and offers others: for the host all is as if he had said nothing.
    #[test]
    fn what_a_user_says_changes_nothing_for_others(
        words in prop::collection::vec((prop::sample::select(vec!["/jobs", "/jobs/0", "/jobs/1", "/jobs/2"]), any::<i32>(), 0u64..1000), 1..5),
        reservations in prop::array::uniform3(0u64..600),
    ) {
        let rule = || host_rule("host", 100, &[(KILL_JOB, 0)]);
        let words = words.into_iter().map(|(group, priority, reservation)| said(1000, group, priority, reservation));
        let (mut world, _, jobs) = three_with(rule(), reservations, words.collect());
        let (mut silent, _, same) = three(rule(), reservations);
        prop_assert_eq!(shortage(&mut world, &jobs), shortage(&mut silent, &same));
    }

    #[test]
    fn one_shortage_is_one_kill(
        like in prop::collection::vec(like(), 2..10),
        steps in prop::collection::vec((0u64..4, 0u64..200, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let (mut world, slots) = crowd(&like);
        // Whom a kill was ordered of and what the meter has said since its memory was back.
        let mut waiting: Option<(DecisionId, GroupSlot, Time)> = None;
        let (mut back, mut died): (Option<Time>, Option<Time>) = (None, None);
        for (what, ms, read_host, read_jobs) in steps {
            match (what, waiting) {
                (1, Some((id, _, _))) => {
                    world.report(id, dead(mib(100)));
                    died = Some(world.snap.at);
                }
                (2, Some((_, slot, _))) => world.usage(slot, mib(0)),
                _ => {}
            }
            if read_host {
                world.available(50);
            }
            if read_jobs {
                slots.iter().for_each(|&slot| { world.row(slot); });
            }
            let decisions = world.tick(ms);
            for decision in decisions.iter().filter(|d| matches!(d.order, Order::Kill { .. })) {
                let now = decision.at;
                if let Some((_, slot, at)) = waiting {
                    let returned = world.snap.group(slot).unwrap().usage == Some(mib(0));
                    prop_assert!(returned || now.since(at) >= Duration::from_millis(200), "too soon: {decision:?}");
                    let read = world.snap.memory.read_at;
                    prop_assert!(read > at && back.is_none_or(|back| read > back), "by an old reading: {decision:?}");
                }
                let Target::Group(_, slot) = decision.target else { panic!("{decision:?}") };
                (waiting, back, died) = (Some((decision.id, slot, now)), None, None);
            }
            let up = died.is_some_and(|at| world.snap.at.since(at) >= Duration::from_millis(200));
            if let Some((_, slot, _)) = waiting
                && back.is_none()
                && (up || world.snap.group(slot).unwrap().usage == Some(mib(0)))
            {
                back = Some(world.snap.at);
            }
        }
    }
}

/// The parent's limit is met, and the kernel has killed somebody there: `kills` by its own count.
fn met(world: &mut World, parent: GroupSlot, jobs: &[GroupSlot], usage: u64, kills: u64) {
    world.row(parent).usage = Some(mib(usage));
    world.row(parent).reclaimable = Some(mib(10));
    let events = &mut world.row(parent).events;
    (events.oom, events.oom_kill) = (Some(kills), Some(kills));
    for &slot in jobs {
        world.row(slot);
    }
}

/// Ticks of 10 ms with the same readings until somebody is killed; how many milliseconds that took.
fn until_a_kill(world: &mut World, parent: GroupSlot, jobs: &[GroupSlot], kills: impl Fn(u64) -> u64) -> u64 {
    for ms in (10..=10_000).step_by(10) {
        met(world, parent, jobs, 980, kills(ms));
        if !killed(&world.tick(10)).is_empty() {
            return ms;
        }
    }
    // Nobody.
    u64::MAX
}

#[test]
fn what_the_oom_killer_frees_is_waited_for() {
    let rule = || available_rule("parent", "/jobs", 50, &[(KILL_JOB, 0)]);
    let begin = || {
        let (mut world, parent, jobs) = three(rule(), [0; 3]);
        met(&mut world, parent, &jobs, 900, 7);
        assert!(world.tick(10).is_empty(), "what was killed before anybody looked is nobody's business");
        (world, parent, jobs)
    };
    // It has killed nobody: at once.
    let (mut world, parent, jobs) = begin();
    assert!(until_a_kill(&mut world, parent, &jobs, |_| 7) <= 20);
    // It has, and nothing comes back: not before its time is up, and then all the same.
    let (mut world, parent, jobs) = begin();
    let waited = until_a_kill(&mut world, parent, &jobs, |_| 8);
    assert!((2000..2200).contains(&waited), "{waited}");
    // It has, and that was enough: nobody.
    let (mut world, parent, jobs) = begin();
    met(&mut world, parent, &jobs, 980, 8);
    let first = world.tick(10);
    assert!(first.iter().any(|d| matches!(d.reason, Reason::FreeingPending { .. })), "{first:?}");
    met(&mut world, parent, &jobs, 600, 8);
    assert_eq!(killed(&world.tick(10)), []);
    for _ in 0..300 {
        assert_eq!(killed(&world.tick(10)), []);
    }
    // It has, and that was not enough: as soon as the meter shows so.
    let (mut world, parent, jobs) = begin();
    met(&mut world, parent, &jobs, 990, 8);
    assert_eq!(killed(&world.tick(10)), []);
    assert!(until_a_kill(&mut world, parent, &jobs, |_| 8) <= 50);
}

#[test]
fn an_oom_killer_that_does_not_rest_keeps_nobody_from_being_killed() {
    let (mut world, parent, jobs) = three(available_rule("parent", "/jobs", 50, &[(KILL_JOB, 0)]), [0; 3]);
    met(&mut world, parent, &jobs, 900, 0);
    world.tick(10);
    let waited = until_a_kill(&mut world, parent, &jobs, |ms| ms);
    assert!((2000..2200).contains(&waited), "{waited}");
}

#[test]
fn a_kill_of_the_oom_killer_costs_nothing_and_holds_up_nobody_elsewhere() {
    let mut policy = policy([available_rule("parent", "/*", 50, &[(KILL_JOB, 0)])]);
    policy.kills.count = 1;
    for path in ["/jobs/0", "/others/0"] {
        policy.groups.push(job(path, 10, 0));
    }
    let mut world = World::new(policy);
    let [(jobs, one), (others, another)] = ["jobs", "others"].map(|name| {
        let parent = world.group(&format!("/{name}"), None);
        world.row(parent).max = Some(Limit::At(mib(1000)));
        let job = world.group(&format!("/{name}/0"), None);
        world.usage(job, mib(300));
        met(&mut world, parent, &[job], 900, 0);
        (parent, job)
    });
    assert!(world.tick(10).is_empty());
    // The kernel kills in one, and the other is short: it is met at once, with the only kill of the budget.
    met(&mut world, others, &[another], 900, 1);
    met(&mut world, jobs, &[one], 980, 0);
    let mut first = killed(&world.tick(10));
    met(&mut world, jobs, &[one], 980, 0);
    first.extend(killed(&world.tick(10)));
    assert_eq!(first, [one]);
}
