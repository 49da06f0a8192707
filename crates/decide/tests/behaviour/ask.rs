//! The step that asks: told as stories, and over random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::world::script::*;
use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::question::{Answer, Ask, NotOpen, Verdict};
use memgov_decide::snapshot::GroupSlot;
use memgov_decide::units::{Bytes, Time};

fn ask(ms: u64, default: Verdict) -> Action {
    Action::Ask(Ask { timeout: Duration::from_millis(ms), default })
}

const fn say(verdict: Verdict) -> Answer {
    Answer { verdict, time: None, by: 7 }
}

/// A group over its line, frozen and asked about; the number of the question.
fn asked(steps: &[(Action, u64)]) -> (World, GroupSlot, DecisionId) {
    let mut world = World::new(policy([usage_rule("a", "/*", 100, steps)]));
    let group = world.group("/x", None);
    world.usage(group, mib(101));
    let frozen = world.tick(10);
    assert_eq!(world.words(&frozen[0]), "freeze-begin /x log");
    assert_eq!(world.governor.questions().count(), 0, "nobody is asked before that has worked");
    world.report(frozen[0].id, DONE);
    let put = world.tick(1);
    assert_eq!(world.words(&put[0]), "ask /x");
    let question = world.governor.questions().next().unwrap();
    assert_eq!(question.id, put[0].id);
    assert!(matches!(question.reason, Reason::Usage { usage, .. } if usage == mib(101)));
    (world, group, put[0].id)
}

#[test]
fn kill_kills_and_counts_as_the_last_word() {
    let (mut world, group, question) = asked(&[(ask(5000, Verdict::GoOn), 0)]);
    assert_eq!(world.said(1000), ["freeze-keep /x"]);
    world.governor.answer(question, say(Verdict::Kill)).unwrap();
    assert_eq!(world.governor.answer(question, say(Verdict::GoOn)), Err(NotOpen), "it is answered");
    assert_eq!(world.said(1), ["answered-Kill /x somebody", "freeze-keep /x"]);
    assert_eq!(world.governor.questions().count(), 0);
    let killed = world.tick(1);
    assert_eq!(
        (killed[0].order, killed[0].reason),
        (Order::Kill { take: Take::Whole }, Reason::Answered { by: 7 })
    );
    world.report(killed[0].id, dead(mib(101)));
    world.usage(group, mib(0));
    assert_eq!(world.said(10), ["freeze-end /x", "relieved /x"]);
}

#[test]
fn who_is_asked_may_have_killed_what_is_back_in_the_band() {
    let (mut world, group, question) = asked(&[(ask(5000, Verdict::GoOn), 0)]);
    world.usage(group, Bytes(mib(100).0));
    world.governor.answer(question, say(Verdict::Kill)).unwrap();
    assert_eq!(world.said(1), ["answered-Kill /x somebody"]);
    assert_eq!(world.said(1), ["kill /x somebody"]);
}

#[test]
fn go_on_thaws_and_nothing_more_happens_in_the_episode() {
    let (mut world, group, question) = asked(&[(ask(5000, Verdict::Kill), 0), (KILL, 100)]);
    world.governor.answer(question, say(Verdict::GoOn)).unwrap();
    assert_eq!(world.said(1), ["freeze-end /x somebody", "answered-GoOn /x somebody"]);
    for _ in 0..100 {
        assert!(world.said(1000).is_empty());
        world.usage(group, mib(200));
    }
    world.usage(group, mib(0));
    assert_eq!(world.said(10), ["relieved /x"]);
    world.usage(group, mib(101));
    assert_eq!(world.said(10), ["freeze-begin /x log"], "another episode is another question");
}

#[test]
fn go_on_for_some_time_outlasts_the_episode_and_is_asked_again_after_it() {
    let (mut world, group, question) = asked(&[(ask(5000, Verdict::Kill), 0)]);
    let time = Some(Duration::from_secs(60));
    world.governor.answer(question, Answer { time, ..say(Verdict::GoOn) }).unwrap();
    assert_eq!(world.said(1), ["freeze-end /x somebody", "answered-GoOn /x somebody"]);
    world.usage(group, mib(0));
    assert_eq!(world.said(30_000), ["relieved /x"]);
    world.usage(group, mib(101));
    assert!(world.said(10_000).is_empty());
    let (mut groups, mut processes) = (Vec::new(), Vec::new());
    let next = world.governor.due(&world.snap, world.snap.at, &mut groups, &mut processes);
    assert!(next <= world.snap.at + Duration::from_secs(20), "it comes back to it by itself");
    world.usage(group, mib(101));
    assert_eq!(world.said(20_000), ["freeze-begin /x log"]);
}

#[test]
fn nobody_answers() {
    let (mut world, _, _) = asked(&[(ask(5000, Verdict::Kill), 0)]);
    assert_eq!(world.said(4999), ["freeze-keep /x"]);
    assert_eq!(world.said(1), ["answered-Kill /x nobody", "freeze-keep /x"]);
    assert_eq!(world.said(1)[0], "kill /x");

    let (mut world, _, _) = asked(&[(ask(5000, Verdict::GoOn), 0)]);
    assert_eq!(world.said(5000), ["freeze-end /x nobody", "answered-GoOn /x nobody"]);

    let (mut world, _, question) = asked(&[(ask(5000, Verdict::Wait), 0), (KILL, 0)]);
    for _ in 0..5 {
        assert_eq!(world.said(5000), ["answered-Wait /x nobody", "freeze-keep /x"]);
    }
    assert_eq!(world.governor.questions().next().unwrap().id, question, "it is still the same question");
}

/// A group that stands still does not leave the band by itself: it is not to wait there for ever.
#[test]
fn who_is_back_in_the_band_is_asked_about_and_runs_on_when_nobody_answers() {
    let steps = [(ask(5000, Verdict::Kill), 0)];
    let mut world = World::new(policy([usage_rule("a", "/*", 100, &steps)]));
    let group = world.group("/x", None);
    world.usage(group, mib(101));
    let frozen = world.tick(10);
    world.report(frozen[0].id, DONE);
    world.usage(group, mib(100));
    assert_eq!(world.said(1), ["ask /x"]);
    assert_eq!(world.said(5000), ["freeze-end /x nobody", "answered-GoOn /x nobody"]);
    assert!(world.said(60_000).is_empty());
    world.usage(group, mib(101));
    assert_eq!(world.said(10)[0], "freeze-begin /x");
}

/// One kill in a minute is allowed: the second is made when it may be, and stands still until then.
#[test]
fn a_kill_too_many_for_now_is_made_later() {
    let rules = [usage_rule("a", "/*", 100, &[(ask(5000, Verdict::Wait), 0), (signal(15), 60_000)])];
    let kills = KillBudget { count: 1, window: Duration::from_secs(60) };
    let mut world = World::new(Policy { kills, ..policy(rules) });
    let groups = [world.group("/x", None), world.group("/y", None)];
    groups.iter().for_each(|&group| world.usage(group, mib(101)));
    world.tick(10);
    world.tick(1);
    let open: Vec<_> = world.governor.questions().map(|q| q.id).collect();
    open.iter().for_each(|&id| world.governor.answer(id, say(Verdict::Kill)).unwrap());
    let mut killed = Vec::new();
    for second in 0..70 {
        for decision in world.tick(1000) {
            if let Order::Kill { .. } = decision.order {
                killed.push((second, decision.target));
                world.report(decision.id, dead(mib(0)));
            }
        }
    }
    assert_eq!(killed.len(), 2, "{killed:?}");
    assert!(killed[0].0 < 5 && killed[1].0 >= 59 && killed[0].1 != killed[1].1, "{killed:?}");
}

#[test]
fn wait_gives_another_time() {
    let (mut world, _, question) = asked(&[(ask(5000, Verdict::Kill), 0)]);
    world.said(4000);
    world.governor.answer(question, say(Verdict::Wait)).unwrap();
    assert_eq!(world.said(1), ["answered-Wait /x somebody", "freeze-keep /x"]);
    assert_eq!(world.said(4999), ["freeze-keep /x"]);
    assert_eq!(world.said(1)[0], "answered-Kill /x nobody");
}

#[test]
fn a_group_that_cannot_be_frozen_is_not_asked_about() {
    for outcome in [REFUSED, Outcome::LedgerFull] {
        let mut world = World::new(policy([usage_rule(
            "a",
            "/*",
            100,
            &[(ask(5000, Verdict::Kill), 0), (signal(15), 60_000)],
        )]));
        let group = world.group("/x", None);
        world.usage(group, mib(101));
        let frozen = world.tick(10);
        world.report(frozen[0].id, outcome);
        assert_eq!(world.said(1), ["signal-15 /x"], "the next step follows at once");
        assert_eq!(world.governor.questions().count(), 0);
        assert!(world.said(1000).is_empty(), "nobody is frozen later who was not asked about");
    }
}

#[test]
fn relief_takes_the_question_back() {
    let (mut world, group, question) = asked(&[(ask(5000, Verdict::Kill), 0)]);
    world.usage(group, mib(10));
    assert_eq!(world.said(10), ["freeze-end /x", "relieved /x"]);
    assert_eq!(world.governor.answer(question, say(Verdict::Kill)), Err(NotOpen));
    assert!(world.said(60_000).is_empty());
}

#[test]
fn two_questions_are_answered_apart() {
    let mut world = World::new(policy([usage_rule("a", "/*", 100, &[(ask(5000, Verdict::Wait), 0)])]));
    let groups = [world.group("/x", None), world.group("/y", None)];
    for group in groups {
        world.usage(group, mib(101));
    }
    world.tick(10);
    world.tick(1);
    let open: Vec<_> = world.governor.questions().map(|q| (q.id, q.target)).collect();
    assert_eq!(open.len(), 2);
    world.governor.answer(open[1].0, say(Verdict::Kill)).unwrap();
    world.governor.answer(open[0].0, say(Verdict::GoOn)).unwrap();
    let said: Vec<String> = (0..3).flat_map(|_| world.said(1)).collect();
    assert!(
        said.contains(&"freeze-end /x somebody".to_owned()) && said.contains(&"kill /y somebody".to_owned()),
        "{said:?}"
    );
    assert!(
        !said.iter().any(|words| words.starts_with("kill /x") || words.starts_with("freeze-end /y")),
        "{said:?}"
    );
}

#[test]
fn a_reload_that_keeps_the_rule_keeps_the_question_and_what_was_said() {
    let (mut world, group, question) = asked(&[(ask(5000, Verdict::Kill), 0)]);
    let other = usage_rule("first", "/z", 1, &[(KILL, 0)]);
    let mut rules = world.governor.policy().rules.clone();
    rules.insert(0, other);
    world.governor.set_policy(policy(rules.clone()));
    let time = Some(Duration::from_secs(60));
    world.governor.answer(question, Answer { time, ..say(Verdict::GoOn) }).unwrap();
    world.said(1);
    rules.remove(0);
    world.governor.set_policy(policy(rules));
    world.usage(group, mib(0));
    world.said(10);
    world.usage(group, mib(101));
    assert!(world.said(10).is_empty(), "it is not to be asked about yet");
}

/// What happens by the rules in force when nobody answers.
fn default_of(world: &World) -> Option<Verdict> {
    let mut steps = world.governor.policy().rules.iter().flat_map(|rule| &rule.steps);
    steps.find_map(|step| if let Action::Ask(ask) = step.action { Some(ask.default) } else { None })
}

/// What a question has come to.
#[derive(Debug)]
struct Seen {
    until: Time,
    timeout: Duration,
    closed: Option<Verdict>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn somebody_is_asked_and_heard(script in ticks(80), number in 0u8..2, room in prop::sample::select(vec![2usize, 5, 64])) {
        let mut stage = Stage::new(number, room);
        let mut frozen: BTreeMap<EpisodeId, bool> = BTreeMap::new();
        let mut asked: BTreeMap<u64, Seen> = BTreeMap::new();
        // Until when nothing of the ladder may begin.
        let mut quiet: BTreeMap<EpisodeId, Option<Time>> = BTreeMap::new();
        for tick in &script {
            let ends = stage.world.governor.questions().map(|q| (q.id.0, q.until)).collect::<BTreeMap<_, _>>();
            for (id, until) in ends {
                asked.get_mut(&id).expect("nobody asked it").until = until;
            }
            for decision in stage.play(tick) {
                let episode = decision.episode;
                match decision.order {
                    Order::Freeze { phase } => {
                        frozen.insert(episode, phase != Phase::End);
                    }
                    Order::Ask { timeout, .. } => {
                        prop_assert_eq!(frozen.get(&episode), Some(&true), "asked about while it runs: {:?}", decision);
                        prop_assert!(quiet.get(&episode).is_none_or(|until| until.is_some_and(|until| until <= decision.at)));
                        let until = decision.at + timeout;
                        let new = asked.insert(decision.id.0, Seen { until, timeout, closed: None });
                        prop_assert!(new.is_none());
                    }
                    Order::Answered { question, verdict, time } => {
                        let seen = asked.get_mut(&question.0).expect("nobody asked it");
                        prop_assert!(seen.closed.is_none(), "answered twice: {:?}", decision);
                        match decision.reason {
                            Reason::NoAnswer { .. } => prop_assert!(decision.at >= seen.until, "too early: {:?} {:?}", decision, seen),
                            reason => prop_assert_eq!(reason, Reason::Answered { by: 7 }),
                        }
                        if verdict == Verdict::Wait {
                            seen.until = decision.at + seen.timeout;
                        } else {
                            seen.closed = Some(verdict);
                        }
                        if verdict == Verdict::GoOn {
                            prop_assert_eq!(frozen.get(&episode), Some(&false));
                            // Where the default is a kill, and nobody was over who could be killed, it is asked about again.
                            let kills = default_of(&stage.world) == Some(Verdict::Kill);
                            let lapsed = kills && matches!(decision.reason, Reason::NoAnswer { .. });
                            if !lapsed {
                                quiet.insert(episode, time.map(|time| decision.at + time));
                            }
                        }
                    }
                    Order::Kill { .. } => {
                        let told = matches!(decision.reason, Reason::Answered { .. });
                        prop_assert!(!told || asked.values().any(|seen| seen.closed == Some(Verdict::Kill)));
                        prop_assert!(
                            quiet.get(&episode).is_none_or(|until| until.is_some_and(|until| until <= decision.at)),
                            "killed after go-on: {:?}", decision
                        );
                    }
                    _ => {}
                }
            }
        }
    }
}
