//! The step that has a program run: told as stories, and over random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::world::script::*;
use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::governor::{SETTLED, SETTLES};
use memgov_decide::hook::{Ended, Run};
use memgov_decide::policy::*;
use memgov_decide::snapshot::{GroupId, GroupSlot};
use memgov_decide::units::{Bytes, Time};

/// A group over its line for which a program runs that may take five seconds.
fn begun(steps: &[(Action, u64)]) -> (World, GroupSlot, DecisionId) {
    let mut world = World::new(policy([usage_rule("a", "/*", 100, steps)]));
    let group = world.group("/x", None);
    world.usage(group, mib(200));
    let decisions = world.tick(10);
    assert_eq!(world.words(&decisions[0]), "hook /x log");
    world.report(decisions[0].id, Outcome::Begun);
    (world, group, decisions[0].id)
}

/// Goes on in steps of 10 ms until something is said; what, and after how many milliseconds.
fn next_word(world: &mut World, group: GroupSlot, usage: Bytes) -> (Vec<String>, u64) {
    for ms in 1..2000 {
        world.usage(group, usage);
        let said = world.said(10);
        if !said.is_empty() {
            return (said, ms * 10);
        }
    }
    panic!("nothing in twenty seconds");
}

#[test]
fn who_frees_enough_is_not_killed() {
    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 0)]);
    for _ in 0..100 {
        world.usage(group, mib(200));
        assert!(world.said(10).is_empty());
    }
    world.report(id, RAN);
    world.usage(group, mib(90));
    assert_eq!(world.said(10), ["relieved /x"]);
}

#[test]
fn who_frees_nothing_is_killed_soon_after_the_end() {
    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 0)]);
    world.report(id, RAN);
    let (said, ms) = next_word(&mut world, group, mib(200));
    assert_eq!((said, Duration::from_millis(ms)), (vec!["kill /x".into()], SETTLED));
}

#[test]
fn what_comes_back_is_waited_for_while_it_comes_and_not_for_ever() {
    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 0)]);
    world.tick(1000);
    world.report(id, RAN);
    for i in 0..8 {
        world.usage(group, mib(199 - i));
        assert!(world.said(400).is_empty(), "it comes back");
    }
    let (said, ms) = next_word(&mut world, group, mib(192));
    assert_eq!((said, ms), (vec!["kill /x".into()], 500), "it has stopped coming back");

    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 0)]);
    world.usage(group, mib(200));
    assert!(world.said(5000).is_empty());
    let run = Run { ended: Ended::Overdue, took: Duration::from_secs(5) };
    world.report(id, Outcome::Ran(run));
    for i in 0..19 {
        world.usage(group, mib(199 - i));
        assert!(world.said(100).is_empty(), "at {i}");
    }
    world.usage(group, mib(180));
    assert_eq!(world.said(100), ["kill /x"], "it comes back still, but two seconds are over");
    let view = world.governor.episodes().next().unwrap().hook.unwrap();
    assert_eq!((view.id, view.run), (id, Some(run)));
}

#[test]
fn without_word_of_its_end_the_ladder_goes_on_after_its_time() {
    let (mut world, group, _) = begun(&[(hook(5000), 0), (KILL, 0)]);
    let (said, ms) = next_word(&mut world, group, mib(200));
    assert_eq!((said, Duration::from_millis(ms)), (vec!["kill /x".into()], Duration::from_secs(5) + SETTLES));
}

#[test]
fn what_cannot_be_started_makes_nobody_wait_and_a_rehearsal_neither() {
    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 1000)]);
    world.report(id, Outcome::Refused { at: Operation::Hook, errno: 2 });
    world.usage(group, mib(200));
    assert_eq!(world.said(1), ["kill /x"], "not even its own delay");

    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 1000)]);
    world.report(id, Outcome::DryRun);
    let (said, ms) = next_word(&mut world, group, mib(200));
    assert_eq!((said, ms), (vec!["kill /x".into()], 1000), "nothing was done, so only the delay counts");
}

#[test]
fn a_later_delay_counts_from_the_beginning_of_the_program() {
    let (mut world, group, id) = begun(&[(hook(5000), 0), (KILL, 3000)]);
    world.report(id, RAN);
    let (said, ms) = next_word(&mut world, group, mib(200));
    assert_eq!((said, ms), (vec!["kill /x".into()], 3000));
}

/// Relieved by half of what it does, it is left to do the other half; who is over again meanwhile waits for that, and then has one of his own.
#[test]
fn the_next_episode_waits_for_a_program_of_the_last() {
    let (mut world, group, first) = begun(&[(hook(5000), 0), (KILL, 0)]);
    world.usage(group, mib(10));
    assert_eq!(world.said(10), ["relieved /x"]);
    world.usage(group, mib(200));
    for _ in 0..100 {
        assert!(world.said(10).is_empty(), "it runs still");
    }
    world.report(first, RAN);
    let said = world.tick(10);
    assert_eq!(world.words(&said[0]), "hook /x log");
    assert_ne!(said[0].id, first);
    // Word of one that was never heard of again is not waited for either.
    world.usage(group, mib(10));
    assert_eq!(world.said(10), ["relieved /x"]);
    let (said, ms) = next_word(&mut world, group, mib(200));
    assert_eq!((said, ms), (vec!["hook /x log".into()], 6990));
}

#[test]
fn a_reload_lets_it_run_and_the_ladder_go_on() {
    let steps = [(hook(5000), 0), (KILL, 0)];
    let (mut world, group, id) = begun(&steps);
    let same =
        policy([usage_rule("other", "/y", 1, &[(Action::Record, 0)]), usage_rule("a", "/*", 100, &steps)]);
    world.governor.set_policy(same);
    world.usage(group, mib(200));
    assert!(world.said(1000).is_empty(), "it is the same rule, so it is waited for as before");
    world.report(id, RAN);
    assert_eq!(next_word(&mut world, group, mib(200)).0, ["kill /x"]);
}

/// When there is word of a program's end in a random history: after so many ticks, or never.
type Word = Option<usize>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The half that is about safety: nothing begins meanwhile.
    #[test]
    fn a_hook_is_waited_for_within_a_bound(script in ticks(80), number in 0u8..2, room in prop::sample::select(vec![2usize, 5, 64])) {
        let mut stage = Stage::new(number, room);
        let mut running: BTreeMap<GroupId, (DecisionId, Time)> = BTreeMap::new();
        let mut held: BTreeMap<EpisodeId, (DecisionId, u8, Time)> = BTreeMap::new();
        for tick in &script {
            let before = stage.world.snap.at;
            let decisions = stage.play(tick);
            for (_, (id, until)) in running.iter_mut().filter(|(_, (id, _))| stage.ended.contains(id)) {
                *until = before;
                // What it has freed is waited for.
                held.values_mut().filter(|held| held.0 == *id).for_each(|held| held.2 = held.2.min(before + SETTLED));
            }
            for decision in &decisions {
                if let Some(&(_, step, until)) = held.get(&decision.episode) {
                    let further = decision.step > step && decision.order != Order::Relieved;
                    prop_assert!(!further || decision.at >= until, "{decision:?} while a program runs, until {until:?}");
                }
                let (Order::Hook, Target::Group(group, _), Source::Rule(rule)) = (decision.order, decision.target, decision.source) else {
                    continue;
                };
                if let Some(&(id, until)) = running.get(&group) {
                    prop_assert!(decision.at >= until, "{decision:?} beside {id:?}, until {until:?}");
                }
                let steps = &stage.world.governor.policy().rules[usize::from(rule.0)].steps;
                let Action::Hook(hook) = &steps[usize::from(decision.step)].action else { panic!("{decision:?}") };
                let until = decision.at + hook.within + SETTLES;
                running.insert(group, (decision.id, until));
                held.insert(decision.episode, (decision.id, decision.step, until));
            }
            // These were not even started.
            for id in decisions.iter().map(|d| d.id).filter(|id| stage.ended.contains(id)) {
                running.retain(|_, (other, _)| *other != id);
                held.retain(|_, (other, ..)| *other != id);
            }
        }
    }

    /// The half that is about progress: the kill comes, and not later than that.
    #[test]
    fn whatever_a_program_does_the_ladder_goes_on(
        usages in prop::collection::vec(101u64..400, 1..60),
        word in prop::option::of(0usize..900),
        within in 100u64..4000,
    ) {
        let word: Word = word;
        let mut world = World::new(policy([usage_rule("a", "/*", 100, &[(hook(within), 0), (KILL, 0)])]));
        let group = world.group("/x", None);
        world.usage(group, mib(400));
        let hook = world.tick(10)[0];
        world.report(hook.id, Outcome::Begun);
        let killed = (0..).find_map(|n| {
            assert!(n < 1000, "never");
            if word == Some(n) {
                world.report(hook.id, RAN);
            }
            world.usage(group, mib(usages[n % usages.len()]));
            world.tick(10).iter().find(|d| matches!(d.order, Order::Kill { .. })).map(|d| d.at)
        });
        let (killed, most) = (killed.unwrap(), hook.at + Duration::from_millis(within) + SETTLES);
        prop_assert!(killed <= most + Duration::from_millis(10), "{:?} and not {:?}", killed, most);
        let ended = word.map(|n| hook.at + Duration::from_millis(10 * u64::try_from(n).unwrap()));
        let least = ended.map_or(most, |ended| (ended + SETTLED).min(most));
        prop_assert!(killed >= least, "{:?} and not {:?}", killed, least);
    }
}
