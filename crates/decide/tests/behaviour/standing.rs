//! What a kernel may be told beforehand: only what would be decided anyway at the crossing, and nothing that needs a choice.

use std::time::Duration;

use crate::world::*;
use memgov_decide::control::MemControl;
use memgov_decide::decision::{Decision, Order, Phase, Source};
use memgov_decide::governor::{GroupStanding, Standing, StandingAction, Stands};
use memgov_decide::policy::*;
use memgov_decide::units::{Bytes, Limit};

fn step(action: Action, after: u64) -> Step {
    Step { action, after: Duration::from_secs(after) }
}

fn rule(scope: Scope, group: Option<Over>, rss: Option<RssOver>, steps: Vec<Step>) -> Rule {
    Rule { name: format!("{steps:?}"), scope, when: Condition { group, rss }, until: None, steps, log: false }
}

fn groups() -> Scope {
    Scope::Groups(vec![Pattern::new("/x")])
}

const ANON: RssOver = RssOver { kinds: Kinds { anon: true, file: false, shmem: false }, over: Bytes::mib(7) };

#[test]
fn a_group_stands_at_the_lowest_line_of_a_rule_that_denies_at_once() {
    let amount = |mib| Some(Over::Amount(Bytes::mib(mib)));
    let kill = Action::Kill { victim: Victim::Group };
    let rules = vec![
        rule(groups(), amount(50), None, vec![step(kill.clone(), 0)]),
        rule(groups(), amount(60), None, vec![step(Action::Deny, 5)]),
        rule(groups(), amount(70), None, vec![step(Action::Record, 0), step(Action::Deny, 0)]),
        rule(groups(), amount(90), None, vec![step(Action::Deny, 0), step(kill, 5)]),
        rule(groups(), Some(Over::High { plus: Bytes::mib(8) }), None, vec![step(Action::Deny, 0)]),
        rule(groups(), amount(10), Some(ANON), vec![step(Action::Deny, 0)]),
        rule(groups(), Some(Over::Kernel(Bytes::mib(3))), None, vec![step(Action::Record, 0)]),
    ];
    let mut world = World::new(Policy { rules, ..Policy::default() });
    let (group, other) = (world.group("/x", Some(100)), world.group("/y", Some(1)));
    world.tick(10);
    let standing = |world: &World, slot| world.governor.standing_of_group(slot, &world.snap);
    assert_eq!(
        standing(&world, group),
        GroupStanding {
            deny: Some(mib(90)),
            tell: Some(mib(50)),
            kernel_tell: Some(mib(3)),
            ..GroupStanding::default()
        }
    );
    assert_eq!(standing(&world, other), GroupStanding::default());
    world.row(group).high = Some(Limit::At(mib(20)));
    world.tick(10);
    assert_eq!(standing(&world, group).deny, Some(mib(28)));
    world.row(group).gone = true;
    assert_eq!(standing(&world, group), GroupStanding::default());
}

#[test]
fn a_line_on_kernel_memory_at_the_groups_limit_only_tracks() {
    let rule = kernel_rule("kernel", "/x", 16, &[(Action::Deny, 0)]);
    let mut world = World::new(Policy { rules: vec![rule], ..Policy::default() });
    let group = world.group("/x", Some(40));
    let tick = |world: &mut World, limit| {
        world.row(group).max = Some(Limit::At(mib(limit)));
        world.kernel(group, mib(20));
        world.tick(10)
    };
    let standing = |world: &World| world.governor.standing_of_group(group, &world.snap);
    let tracks = |world: &World| world.governor.kernel_marks(&world.snap).any(|mark| mark.only_tracks);
    // The limit was lowered under what is there: still nothing.
    assert_eq!(tick(&mut world, 16), []);
    assert_eq!((standing(&world).kernel_deny, standing(&world).kernel_tell), (None, Some(mib(16))));
    assert!(tracks(&world));
    let begun = tick(&mut world, 17);
    assert!(
        matches!(begun[..], [Decision { order: Order::Deny { phase: Phase::Begin, .. }, .. }]),
        "{begun:?}"
    );
    assert_eq!(standing(&world).kernel_deny, Some(mib(16)));
    assert!(!tracks(&world));
    // What is in force ends when it is no line any more.
    let ended = tick(&mut world, 16);
    assert!(ended.iter().any(|it| matches!(it.order, Order::Deny { phase: Phase::End, .. })), "{ended:?}");
}

#[test]
fn a_process_stands_under_rules_before_its_control_and_never_when_protected() {
    let named = ProcessMatch { comm: vec![Pattern::new("hog")], ..ProcessMatch::default() };
    let rules = vec![
        rule(
            Scope::Processes(named.clone()),
            Some(Over::High { plus: mib(1) }),
            Some(ANON),
            vec![step(Action::Deny, 0)],
        ),
        rule(
            Scope::Processes(named.clone()),
            None,
            Some(ANON),
            vec![step(Action::Signal { signal: 10, repeat: None }, 0)],
        ),
        rule(Scope::Processes(named), None, Some(ANON), vec![step(Action::Deny, 0)]),
    ];
    let mut world = World::new(Policy { rules, ..Policy::default() });
    let group = world.group("/x", Some(100));
    let process = world.process(7, Some(group));
    world.tick(10);
    let standing = |world: &World| world.governor.standing_of_process(process, &world.snap);
    let by_rule = Standing {
        condition: Condition { group: None, rss: Some(ANON) },
        group: None,
        action: StandingAction::Deny,
        serial: 0,
    };
    assert_eq!(
        standing(&world),
        Some(by_rule),
        "a process has one line inside: the one that asks for nothing of groups comes first"
    );

    let who = world.id(process);
    let set = |world: &mut World, word, climit| {
        let control = MemControl::from_word(word, Bytes::mib(climit), Bytes(0), Bytes(4096)).unwrap();
        world.governor.set_control(who, control).unwrap();
        world.tick(10);
    };
    set(&mut world, 3 | 10 << 8, 8);
    assert_eq!(standing(&world), Some(by_rule), "the administrator's line comes before the process's own");
    world.process_row(process).untouchable = Some(memgov_decide::snapshot::Untouchable::Governor);
    world.tick(10);
    assert_eq!(standing(&world), None);
}

/// A rule may ask for what a process holds and for what its groups hold: the kernel is told which groups are meant.
#[test]
fn a_line_with_a_part_about_groups_says_which_are_meant() {
    let process_rule = |groups: &[&str], over, action| {
        let groups = groups.iter().map(|group| Pattern::new(group)).collect();
        let named = ProcessMatch { comm: vec![Pattern::new("hog")], groups, ..ProcessMatch::default() };
        rule(Scope::Processes(named), Some(over), Some(ANON), vec![step(action, 0)])
    };
    let (high, amount) = (Over::High { plus: mib(1) }, Over::Amount(mib(50)));
    let signal = || Action::Signal { signal: 10, repeat: None };
    let kill = || Action::Kill { victim: Victim::Group };
    let in_group = |rule: Rule| {
        let mut world = World::new(Policy { rules: vec![rule], ..Policy::default() });
        let top = world.group("/x", Some(100));
        let middle = world.group("/x/y", Some(100));
        let group = world.group("/x/y/z", Some(100));
        (world.row(middle).parent, world.row(group).parent) = (Some(top), Some(middle));
        let process = world.process(7, Some(group));
        world.tick(10);
        let ids = [top, middle, group].map(|slot| world.row(slot).id);
        let standing = world.governor.standing_of_process(process, &world.snap);
        let at =
            |standing: Standing| standing.group.map(|id| ids.iter().position(|other| *other == id).unwrap());
        (standing.map(|standing| (standing.action, at(standing))), world.governor.stands())
    };
    let (deny, stands) = (StandingAction::Deny, Stands { deny: true, rss: true, ..Stands::default() });
    assert_eq!(
        in_group(process_rule(&[], high, Action::Deny)),
        (Some((deny, None)), stands),
        "all above it count"
    );
    assert_eq!(in_group(process_rule(&[], amount, Action::Deny)), (Some((deny, Some(2))), stands), "its own");
    let named = in_group(process_rule(&["/x/y"], amount, Action::Deny)).0;
    assert_eq!(named, Some((deny, Some(1))), "what is named, and what is below that");
    for over in [high, amount] {
        let by_groups = rule(groups(), Some(over), Some(ANON), vec![step(Action::Deny, 0)]);
        assert_eq!(in_group(by_groups).0, Some((deny, Some(0))), "{over:?}");
    }
    assert_eq!(in_group(process_rule(&[], amount, signal())).0, Some((StandingAction::Signal(10), Some(2))));
    assert_eq!(in_group(process_rule(&[], amount, kill())).0, Some((StandingAction::Kill, Some(2))));

    let alone = |action| Rule {
        when: Condition { group: Some(amount), rss: None },
        ..process_rule(&[], amount, action)
    };
    let usage = Stands { usage: true, ..Stands::default() };
    assert_eq!(in_group(alone(signal())), (Some((StandingAction::Signal(10), Some(2))), usage));
    assert_eq!(in_group(alone(kill())), (None, Stands::default()), "who dies for what all hold is chosen");
}

#[test]
fn a_process_stands_under_its_own_control() {
    let mut world = World::new(Policy::default());
    let group = world.group("/x", Some(100));
    let process = world.process(7, Some(group));
    let who = world.id(process);
    let standing = |world: &World| world.governor.standing_of_process(process, &world.snap);
    let set = |world: &mut World, word, climit| {
        let control = MemControl::from_word(word, Bytes::mib(climit), Bytes(0), Bytes(4096)).unwrap();
        world.governor.set_control(who, control).unwrap();
        world.tick(10);
    };
    set(&mut world, 3 | 10 << 8, 8);
    let signal = standing(&world).unwrap();
    assert_eq!(world.governor.source_of(signal.serial), Some(Source::Control));
    assert_eq!(
        (signal.action, signal.condition.group),
        (StandingAction::Signal(10), Some(Over::High { plus: mib(8) }))
    );
    set(&mut world, 3 | 10 << 8, 8);
    assert_ne!(standing(&world).unwrap().serial, signal.serial, "set again is armed again");
    set(&mut world, 2, 0);
    assert_eq!(standing(&world), None, "a slowdown cannot be told");
    set(&mut world, 4, 0);
    assert_eq!(standing(&world).unwrap().action, StandingAction::Kill);
    world.process_row(process).oom_score_adj = Some(-1000);
    assert_eq!(standing(&world), None, "never killed");
}

#[test]
fn a_spent_signal_stands_no_more() {
    let mut world = World::new(Policy::default());
    let group = world.group("/x", Some(100));
    let process = world.process(7, Some(group));
    let who = world.id(process);
    let spent = MemControl::from_word(3, Bytes(0), Bytes(0), Bytes(4096)).unwrap();
    world.governor.set_control(who, spent).unwrap();
    world.tick(10);
    assert_eq!(world.governor.standing_of_process(process, &world.snap), None);
    assert_eq!(world.governor.stands(), Stands::default());
}

#[test]
fn nothing_is_asked_of_a_kernel_that_nobody_needs() {
    let empty = World::new(Policy::default());
    assert!(!empty.governor.stands().any());
    let stands = |rule| World::new(Policy { rules: vec![rule], ..Policy::default() }).governor.stands();
    let kill = || vec![step(Action::Kill { victim: Victim::Group }, 0)];
    let above_high = rule(groups(), Some(Over::High { plus: mib(1) }), None, kill());
    assert!(!stands(above_high).any(), "memory.events tells of it");
    let amount = rule(groups(), Some(Over::Amount(mib(1))), None, kill());
    assert_eq!(stands(amount), Stands { usage: true, ..Stands::default() });
    let deny = rule(groups(), Some(Over::Amount(mib(1))), None, vec![step(Action::Deny, 0)]);
    assert_eq!(stands(deny), Stands { deny: true, ..Stands::default() });
    let late = rule(
        groups(),
        Some(Over::Amount(mib(1))),
        None,
        vec![step(Action::Record, 0), step(Action::Deny, 9)],
    );
    assert_eq!(stands(late), Stands { deny: true, usage: true, ..Stands::default() });
}

#[test]
fn a_line_on_what_a_process_holds_is_told_of_whatever_comes_of_it() {
    let named =
        || Scope::Processes(ProcessMatch { comm: vec![Pattern::new("hog")], ..ProcessMatch::default() });
    let over = |mib| Some(RssOver { over: Bytes::mib(mib), ..ANON });
    let kill = |after| vec![step(Action::Kill { victim: Victim::Group }, after)];
    let standing = |rules: Vec<Rule>| {
        let mut world = World::new(Policy { rules, ..Policy::default() });
        let process = world.process(7, None);
        world.tick(10);
        assert_eq!(world.governor.stands(), Stands { rss: true, ..Stands::default() });
        let standing = world.governor.standing_of_process(process, &world.snap).unwrap();
        (standing.action, standing.condition.rss)
    };
    let record = || rule(named(), None, over(5), vec![step(Action::Record, 0)]);
    let late = rule(named(), None, over(9), kill(1));
    assert_eq!(standing(vec![late, record()]), (StandingAction::Tell, over(5)));
    let acting = rule(named(), None, over(9), kill(0));
    let mut world = World::new(Policy { rules: vec![record(), acting], ..Policy::default() });
    let process = world.process(7, None);
    world.tick(10);
    let serial = world.governor.standing_of_process(process, &world.snap).unwrap().serial;
    assert_eq!(world.governor.source_of(serial), Some(Source::Rule(RuleId(1))));
    world.governor.set_policy(Policy::default());
    assert_eq!(world.governor.source_of(serial), None, "of a policy that is gone");
    // A process has one line inside: the one at which something is done at once comes before one that is only told.
    let at_once = rule(named(), None, over(9), kill(0));
    assert_eq!(standing(vec![at_once, record()]), (StandingAction::Kill, over(9)));
}
