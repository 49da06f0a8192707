//! Ladders, kills and reloads, told as stories.

use std::time::Duration;

use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::snapshot::Untouchable;
use memgov_decide::units::{Bytes, Limit};

fn rig(rules: impl IntoIterator<Item = Rule>) -> (World, memgov_decide::snapshot::GroupSlot) {
    let mut world = World::new(policy(rules));
    let group = world.group("/x", None);
    assert!(world.tick(10).is_empty());
    (world, group)
}

#[test]
fn each_step_has_its_time_and_what_lasts_stays_in_force() {
    let steps = [(Action::Record, 0), (Action::Deny, 100), (signal(15), 1000), (KILL, 500)];
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &steps)]);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["record /x log"]);
    assert!(world.said(90).is_empty());
    assert_eq!(world.said(10), ["deny-begin /x"]);
    assert_eq!(world.said(990), ["deny-keep /x"]);
    assert_eq!(world.said(10), ["signal-15 /x", "deny-keep /x"]);
    world.usage(group, mib(99));
    assert!(world.said(600).is_empty(), "in the band: nothing is added, nothing is taken back");
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["kill /x", "deny-keep /x"], "over again in the same episode");
    world.usage(group, mib(98));
    assert_eq!(world.said(10), ["deny-end /x", "relieved /x"]);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["record /x log"], "a new episode begins at the first step");
}

#[test]
fn what_is_refused_hurries_the_next_step_on_if_still_over() {
    let steps = [(Action::Deny, 0), (signal(15), 60_000), (KILL, 60_000)];
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &steps)]);
    world.usage(group, mib(101));
    let denied = world.tick(10);
    world.report(denied[0].id, REFUSED);
    let now = world.snap.at;
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    assert!(world.governor.due(&world.snap, now, &mut groups, &mut processes) <= now, "at once");
    assert_eq!(world.said(10), ["signal-15 /x"], "and what was refused is not kept up");
    world.usage(group, mib(50));
    assert_eq!(world.said(10), ["deny-end /x", "relieved /x"], "but ended: some of it may have been done");
}

#[test]
fn a_slowdown_ends_when_its_time_is_up_and_is_not_begun_again() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(slow(1000), 0), (signal(15), 60_000)])]);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["slow-begin /x log"]);
    assert_eq!(world.said(990), ["slow-keep /x"]);
    assert_eq!(world.said(10), ["slow-end /x budget-spent", "signal-15 /x"]);
    for _ in 0..100 {
        assert!(world.said(1000).is_empty());
    }
    world.usage(group, None);
    world.said(10);
    world.usage(group, mib(50));
    assert_eq!(world.said(10), ["relieved /x"]);
}

#[test]
fn the_largest_is_killed_and_its_memory_waited_for_before_the_next() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(KILL_LARGEST, 0)])]);
    let small = world.process(11, Some(group));
    let large = world.process(12, Some(group));
    let safe = world.process(13, Some(group));
    world.anon(small, mib(20));
    world.anon(large, mib(60));
    world.anon(safe, mib(70));
    world.process_row(safe).oom_score_adj = Some(-1000);
    world.usage(group, mib(200));
    let killed = world.tick(10);
    assert_eq!(world.words(&killed[0]), "kill-one-of-12-11 /x log");
    assert_eq!((killed[0].ranking.considered, killed[0].ranking.protected), (3, 1));
    assert!(world.said(500).is_empty());
    world.report(killed[0].id, dead(mib(60)));
    world.process_row(large).gone = true;
    assert_eq!(world.said(600), ["record /x freeing-pending"], "said once");
    assert!(world.said(600).is_empty());
    world.usage(group, mib(140));
    assert_eq!(world.said(10), ["kill-one-of-11 /x"], "60 MiB came back and it was not enough");
}

#[test]
fn memory_that_does_not_come_back_is_waited_for_two_seconds() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(KILL, 0)])]);
    world.usage(group, mib(200));
    let killed = world.tick(10);
    world.report(killed[0].id, dead(mib(150)));
    let mut waited = 0;
    while world.said(50).iter().all(|words| !words.starts_with("kill")) {
        waited += 50;
    }
    assert_eq!(waited, 1950);
}

#[test]
fn nobody_above_or_below_is_killed_meanwhile_and_others_are() {
    let (mut world, top) = rig([usage_rule("a", "/**", 100, &[(KILL, 0)])]);
    let inner = world.group("/x/in", None);
    let other = world.group("/y", None);
    for group in [top, inner, other] {
        world.usage(group, mib(200));
    }
    let mut said = world.said(10);
    said.sort();
    assert_eq!(
        said,
        ["kill /x/in log", "kill /y log", "record /x freeing-pending log"],
        "the first that was read"
    );
}

#[test]
fn a_refused_kill_makes_room_for_another() {
    let rules = [usage_rule("a", "/*", 100, &[(KILL, 0)]), usage_rule("b", "/*", 100, &[(signal(9), 0)])];
    let (mut world, group) = rig(rules);
    world.usage(group, mib(200));
    let killed = world.tick(10);
    world.report(killed[0].id, REFUSED);
    assert!(world.said(500).is_empty());
    assert_eq!(world.said(500), ["kill /x"], "tried again after a second, as nothing is expected back");
}

#[test]
fn a_whole_is_a_whole() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(KILL_LARGEST, 0)])]);
    let process = world.process(11, Some(group));
    world.anon(process, mib(20));
    world.row(group).oom_group = Some(true);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["kill /x log"]);
}

#[test]
fn a_choice_waits_for_what_there_is_to_choose_from() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(KILL_LARGEST, 0), (KILL, 5000)])]);
    world.usage(group, mib(101));
    assert!(world.said(10).is_empty(), "no process is known yet");
    assert!(world.governor.wants_processes(group, &world.snap));
    let process = world.process(11, Some(group));
    world.anon(process, None);
    let rss = &mut world.process_row(process).rss;
    (rss.file, rss.shmem) = (None, None);
    assert!(world.said(10).is_empty(), "nor how large it is");
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    world.governor.due(&world.snap, world.snap.at, &mut groups, &mut processes);
    assert_eq!(processes, [process], "so it is read");
    world.anon(process, mib(30));
    assert_eq!(world.said(10), ["kill-one-of-11 /x log"]);
}

#[test]
fn a_group_of_the_protected_is_said_and_passed_over() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(KILL_LARGEST, 0), (signal(15), 60_000)])]);
    let process = world.process(11, Some(group));
    world.anon(process, mib(30));
    world.process_row(process).untouchable = Some(Untouchable::Governor);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["record /x protected log", "signal-15 /x"]);
}

#[test]
fn too_many_kills_are_recorded_and_done_when_there_may_be_more() {
    let mut policy = policy([usage_rule("a", "/*", 100, &[(KILL, 0)])]);
    policy.kills = KillBudget { count: 2, window: Duration::from_secs(60) };
    let mut world = World::new(policy);
    let groups = ["/a", "/b", "/c"].map(|path| world.group(path, None));
    for group in groups {
        world.usage(group, mib(200));
    }
    assert_eq!(world.said(10), ["kill /a log", "kill /b log", "record /c too-many-kills log"]);
    for group in &groups[..2] {
        world.usage(*group, mib(0));
    }
    world.said(10);
    let mut waited = 0;
    while world.said(500).is_empty() {
        waited += 500;
    }
    assert!((59_000..60_000).contains(&waited), "{waited}");
}

#[test]
fn a_reload_keeps_what_is_unchanged_and_ends_the_rest() {
    let keep = usage_rule("keep", "/*", 100, &[(Action::Deny, 0)]);
    let gone = usage_rule("gone", "/*", 100, &[(slow(60_000), 0)]);
    let (mut world, group) = rig([gone.clone(), keep.clone()]);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["slow-begin /x log", "deny-begin /x log"]);
    let begun: Vec<_> = world.governor.episodes().collect();
    let changed = Rule { log: false, ..gone };
    let old = world.governor.set_policy(policy([keep, changed]));
    assert_eq!(old.rules.len(), 2);
    assert_eq!(world.said(10), ["slow-end /x rule-gone", "relieved /x rule-gone", "deny-keep /x"]);
    let kept: Vec<_> = world.governor.episodes().collect();
    assert_eq!((kept.len(), kept[0].id, kept[0].since), (1, begun[1].id, begun[1].since));
    assert_eq!(kept[0].source, Source::Rule(RuleId(0)), "under its new number");
    let (mut groups, mut processes) = (Vec::with_capacity(8), Vec::with_capacity(8));
    world.governor.due(&world.snap, world.snap.at, &mut groups, &mut processes);
    assert_eq!(groups, [group], "all are read once for the new rules");
    world.row(group);
    assert_eq!(world.said(10), ["slow-begin /x", "deny-keep /x"]);
}

#[test]
fn a_reused_slot_is_somebody_else() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(Action::Deny, 0)])]);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["deny-begin /x log"]);
    world.row(group).gone = true;
    assert_eq!(world.said(10), ["deny-end ? target-gone", "relieved ? target-gone"]);
    let other = world.group("/deep/er", None);
    assert_eq!(other, group, "the same slot");
    world.usage(other, mib(101));
    assert!(world.said(10).is_empty(), "and no rule is about it");

    // Without a tick between in which the row was gone.
    let x = world.group("/x", None);
    world.usage(x, mib(101));
    assert_eq!(world.said(10), ["deny-begin /x log"]);
    world.row(x).id = memgov_decide::snapshot::GroupId(999);
    let said = world.said(10);
    assert!(said[0].starts_with("deny-end") && said[0].contains("target-gone"), "{said:?}");
}

#[test]
fn rules_follow_what_a_process_is() {
    let mut world = World::new(policy([anon_rule("a", "ld*", 100, &[(Action::Deny, 0)])]));
    let process = world.process(7, None);
    world.anon(process, mib(200));
    assert!(world.said(10).is_empty());
    world.process_row(process).comm = *b"ld.bfd\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(world.said(10), ["deny-begin 7 log"], "it has called exec");
    world.process_row(process).comm = *b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(world.said(10), ["deny-end 7 rule-gone", "relieved 7 rule-gone"]);
}

#[test]
fn a_group_rule_with_resident_memory_is_about_each_process_in_it() {
    let mut rule = anon_rule("a", "", 32, &[(Action::Deny, 0)]);
    rule.scope = Scope::Groups(vec![Pattern::new("/x/*")]);
    rule.when.group = Some(Over::High { plus: mib(8) });
    let mut world = World::new(policy([rule]));
    let top = world.group("/x", Some(10));
    let group = world.group("/x/a", Some(100));
    let deep = world.group("/x/a/deep", None);
    let (one, two, outside) =
        (world.process(1001, Some(group)), world.process(1002, Some(deep)), world.process(1003, Some(top)));
    for process in [one, two, outside] {
        world.anon(process, mib(50));
    }
    world.usage(top, mib(108));
    world.usage(group, mib(108));
    assert!(world.said(10).is_empty());
    world.usage(group, mib(109));
    world.usage(top, mib(109));
    let mut said = world.said(10);
    said.sort();
    assert_eq!(
        said,
        ["deny-begin 1001 log", "deny-begin 1002 log"],
        "the group above is over, but not the rule's"
    );
    world.process_row(two).gone = true;
    assert_eq!(world.said(10).len(), 3, "one is kept, the other ends");
}

#[test]
fn a_process_rule_with_an_amount_looks_at_the_group_it_names() {
    let mut rule = anon_rule("a", "hog", 0, &[(signal(10), 0)]);
    rule.when = Condition { group: Some(Over::Amount(mib(100))), rss: None };
    let mut world = World::new(policy([rule.clone()]));
    let top = world.group("/x", None);
    let inner = world.group("/x/a", None);
    world.process(7, Some(inner));
    world.usage(top, mib(500));
    assert!(world.said(10).is_empty(), "the groups above hold others too");
    world.usage(inner, mib(101));
    assert_eq!(world.said(10), ["signal-10 7 log"]);
}

#[test]
fn a_loop_of_parents_harms_nobody() {
    let (mut world, a) = rig([usage_rule("a", "/**", 100, &[(KILL_LARGEST, 0)])]);
    let b = world.group("/x/b", None);
    world.process(7, Some(b));
    world.row(a).parent = Some(b);
    for slot in [a, b] {
        world.usage(slot, mib(200));
    }
    world.said(10);
    world.row(b).parent = Some(b);
    world.row(a).parent = Some(memgov_decide::snapshot::GroupSlot(9999));
    world.said(3000);
}

#[test]
fn what_does_not_fit_is_counted() {
    let bounds = memgov_decide::governor::Bounds { groups: 1, processes: 1, controls: 1, episodes: 1 };
    let mut world = World::new(policy([usage_rule("a", "/*", 100, &[(Action::Record, 0)])]));
    world.governor = memgov_decide::governor::Governor::new(world.governor.policy().clone(), bounds);
    let (a, b) = (world.group("/a", None), world.group("/b", None));
    let (one, two) = (world.process(7, Some(a)), world.process(8, Some(b)));
    world.usage(a, mib(200));
    world.usage(b, mib(200));
    let (one, two) = (world.id(one), world.id(two));
    assert_eq!(world.said(10), ["record /a log"]);
    world.governor.set_control(one, control(1, 0, 0)).unwrap();
    assert!(world.governor.set_control(two, control(1, 0, 0)).is_err());
    assert!(world.governor.inherit(one, two).is_err());
    assert!(world.governor.set_control(one, control(2, 0, 0)).is_ok(), "replacing needs no room");
    world.said(10);
    let lost = world.governor.lost();
    assert_eq!((lost.groups, lost.processes, lost.controls, lost.episodes), (1, 1, 2, 0));
    world.row(a).high = Some(Limit::At(Bytes(1)));
    assert!(world.said(10).is_empty());
    assert!(world.governor.lost().episodes > 0, "no room for the control's episode beside the rule's");
    world.usage(a, mib(1));
    assert_eq!(world.said(10), ["relieved /a"]);
    world.row(a);
    assert_eq!(world.said(10), ["slow-begin 7"], "and when there is room, it begins");
}

#[test]
fn a_rehearsed_kill_is_not_repeated_and_a_rehearsed_signal_not_spent() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(KILL, 0)])]);
    let process = world.process(7, Some(group));
    let who = world.id(process);
    world.row(group).high = Some(Limit::At(mib(50)));
    world.governor.set_control(who, control(3 | 10 << 8, 0, 0)).unwrap();
    world.usage(group, mib(101));
    for decision in world.tick(10) {
        world.report(decision.id, Outcome::DryRun);
    }
    assert_eq!(world.governor.control(who).unwrap().signal, 10);
    for _ in 0..50 {
        assert!(world.said(500).is_empty());
    }
}

#[test]
fn a_full_ledger_hurries_the_ladder_and_is_tried_again() {
    let (mut world, group) = rig([usage_rule("a", "/*", 100, &[(Action::Deny, 0), (signal(15), 60_000)])]);
    world.usage(group, mib(101));
    let denied = world.tick(10);
    world.report(denied[0].id, Outcome::LedgerFull);
    assert_eq!(world.said(10), ["signal-15 /x", "deny-keep /x"]);
}

#[test]
fn observe_learns_what_concerns_the_policy() {
    let mut members = anon_rule("members", "hog", 32, &[(Action::Deny, 0)]);
    members.scope =
        Scope::Processes(ProcessMatch { groups: vec![Pattern::new("/m/*")], ..ProcessMatch::default() });
    let mut policy = policy([usage_rule("usage", "/u/*", 100, &[(Action::Deny, 0)]), members]);
    let line = |pattern: &str, high| GroupPolicy {
        groups: vec![Pattern::new(pattern)],
        high,
        ..GroupPolicy::default()
    };
    policy.groups =
        vec![line("/h/**", None), line("/h/a", Some(Limit::At(mib(7)))), line("/h/*", Some(Limit::Max))];
    let mut world = World::new(policy.clone());
    for (path, concerned) in [("/u/a", true), ("/m/a", true), ("/h/a/b", true), ("/u", false), ("/", false)] {
        assert_eq!(world.governor.concerns_group(path.as_bytes()), concerned, "{path}");
    }
    assert_eq!(world.governor.virtual_high(b"/h/a"), Some(Limit::At(mib(7))), "the first that gives one");
    assert_eq!(world.governor.virtual_high(b"/h/b"), Some(Limit::Max));
    assert_eq!(world.governor.virtual_high(b"/h/a/b"), None);
    let groups = ["/u/a", "/m/a", "/m/a/b", "/h/a"].map(|path| world.group(path, None));
    let wanted = |world: &World| groups.map(|group| world.governor.wants_processes(group, &world.snap));
    assert_eq!(wanted(&world), [false, true, true, false], "before it was ever seen");
    world.tick(10);
    assert_eq!(wanted(&world), [false, true, true, false]);
    assert!(!world.governor.concerns_all_processes());
    policy.rules.push(anon_rule("roaming", "hog", 32, &[(Action::Deny, 0)]));
    world.governor.set_policy(policy);
    assert!(world.governor.concerns_all_processes());
}

#[test]
fn reclaim_is_told_how_far_it_is_to_the_relief_level() {
    let mut rule = usage_rule(
        "low",
        "/*",
        90,
        &[(Action::Reclaim(Reclaim { share: 50, ..Reclaim::default() }), 0), (KILL, 60_000)],
    );
    rule.until = Some(Bytes::mib(80));
    let (mut world, group) = rig([rule]);
    world.usage(group, mib(95));
    assert_eq!(world.said(10), ["reclaim-begin-15MiB /x log"]);
    world.usage(group, mib(100));
    assert_eq!(world.said(10), ["reclaim-keep-20MiB /x"]);
    world.usage(group, mib(85));
    assert!(
        world.said(5000).is_empty(),
        "under the line and not down yet: it goes on by itself, nothing is added"
    );
    world.usage(group, mib(80));
    assert_eq!(world.said(10), ["reclaim-end-0B /x", "relieved /x"]);
}
