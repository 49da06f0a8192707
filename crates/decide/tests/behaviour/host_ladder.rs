//! What a rule of the host does before it kills, and whom: steps that are done to one job, chosen once; and the largest process of the machine.

use std::time::Duration;

use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::hook::Hook;
use memgov_decide::policy::*;
use memgov_decide::question::{Answer, Ask, Verdict};
use memgov_decide::snapshot::*;
use proptest::prelude::*;

const JOBS: [&str; 3] = ["/jobs/0", "/jobs/1", "/jobs/2"];

/// Three jobs of 300 MiB each, the first of the lowest priority, on a host with 4000 MiB of which 2000 are available.
fn host(steps: &[(Action, u64)]) -> (World, [GroupSlot; 3]) {
    let mut policy = policy([host_rule("host", 100, steps)]);
    for (path, priority) in JOBS.into_iter().zip([10, 20, 30]) {
        policy.groups.push(job(path, priority, 0));
    }
    policy.kills = KillBudget { count: 100, ..KillBudget::default() };
    let mut world = World::new(policy);
    world.snap.host.memory = Some(mib(4000));
    let jobs = JOBS.map(|path| world.group(path, None));
    jobs.iter().for_each(|&slot| world.usage(slot, mib(300)));
    world.available(2000);
    assert!(world.tick(10).is_empty());
    (world, jobs)
}

/// The host is short and everything is read; what is decided.
fn short(world: &mut World, ms: u64) -> Vec<Decision> {
    let groups: Vec<u32> = world.snap.groups.iter().map(|(slot, _)| slot).collect();
    groups.into_iter().for_each(|slot| {
        world.row(GroupSlot(slot));
    });
    let processes: Vec<u32> = world.snap.processes.iter().map(|(slot, _)| slot).collect();
    processes.into_iter().for_each(|slot| {
        world.process_row(ProcessSlot(slot));
    });
    world.available(90);
    world.tick(ms)
}

fn said(world: &mut World, ms: u64) -> Vec<String> {
    let decisions = short(world, ms);
    decisions.iter().map(|decision| world.words(decision)).collect()
}

/// It is dead and holds nothing.
fn die(world: &mut World, kill: &Decision) {
    world.report(kill.id, dead(mib(300)));
    if let Target::Group(_, slot) = kill.target {
        world.usage(slot, mib(0));
    }
}

fn kill_of(decisions: &[Decision]) -> Option<Decision> {
    decisions.iter().copied().find(|decision| matches!(decision.order, Order::Kill { .. }))
}

#[test]
fn the_job_that_gives_way_is_frozen_killed_and_then_the_next() {
    let (mut world, jobs) = host(&[(Action::Freeze, 0), (KILL_JOB, 1000)]);
    let decisions = short(&mut world, 10);
    let words: Vec<_> = decisions.iter().map(|decision| world.words(decision)).collect();
    assert_eq!(words, ["record /jobs/0 log", "freeze-begin /jobs/0"]);
    assert_eq!(decisions[0].ranking.jobs().len(), 3, "with all that were asked");
    // Others grow meanwhile: who was chosen stays chosen.
    world.usage(jobs[1], mib(900));
    assert_eq!(said(&mut world, 500), ["freeze-keep /jobs/0"]);
    let decisions = short(&mut world, 600);
    let kill = kill_of(&decisions).unwrap();
    assert_eq!(kill.target, Target::Group(world.snap.group(jobs[0]).unwrap().id, jobs[0]));
    die(&mut world, &kill);
    let mut words = Vec::new();
    for _ in 0..10 {
        words.extend(said(&mut world, 100));
    }
    words.retain(|word| !word.contains("keep"));
    assert_eq!(words, ["freeze-end /jobs/0 target-gone", "record /jobs/1", "freeze-begin /jobs/1"]);
    world.available(2000);
    assert_eq!(world.said(10), ["freeze-end /jobs/1", "relieved host"]);
}

#[test]
fn steps_that_last_name_the_job_to_the_end() {
    let steps = [(Action::Deny, 0), (slow(60_000), 100), (signal(10), 100), (Action::Record, 100)];
    let (mut world, _) = host(&steps);
    let mut words = said(&mut world, 10);
    (0..3).for_each(|_| words.extend(said(&mut world, 150)));
    words.retain(|word| !word.contains("keep"));
    let expected = [
        "record /jobs/0 log",
        "deny-begin /jobs/0",
        "slow-begin /jobs/0",
        "signal-10 /jobs/0",
        "record host",
    ];
    assert_eq!(words, expected);
    world.available(2000);
    assert_eq!(world.said(10), ["deny-end /jobs/0", "slow-end /jobs/0", "relieved host"]);
}

#[test]
fn a_job_that_goes_by_itself_is_let_go_and_the_ladder_begins_anew() {
    let (mut world, jobs) = host(&[(Action::Freeze, 0), (KILL_JOB, 60_000)]);
    said(&mut world, 10);
    world.row(jobs[0]).gone = true;
    world.available(90);
    let mut words = world.said(10);
    assert_eq!(words[0], "freeze-end ? target-gone");
    world.snap.groups.remove(jobs[0].0);
    words.extend((0..3).flat_map(|_| said(&mut world, 10)));
    assert!(words.contains(&"freeze-begin /jobs/1".to_owned()), "{words:?}");
}

#[test]
fn who_was_asked_about_is_who_is_killed_and_an_answer_is_heard() {
    let ask = Ask { timeout: Duration::from_secs(5), default: Verdict::Kill };
    let (mut world, jobs) = host(&[(Action::Ask(ask), 0)]);
    let mut decisions = short(&mut world, 10);
    decisions.extend(short(&mut world, 10));
    let words: Vec<_> = decisions.iter().map(|decision| world.words(decision)).collect();
    assert_eq!(words[..3], ["record /jobs/0 log", "freeze-begin /jobs/0", "ask /jobs/0"]);
    let questions: Vec<_> = world.governor.questions().collect();
    assert!(questions[0].of_host && matches!(questions[0].target, Target::Group(_, slot) if slot == jobs[0]));
    world.usage(jobs[1], mib(900));
    let answer = Answer { verdict: Verdict::Kill, time: None, by: 0 };
    assert_eq!(world.governor.answer(questions[0].id, answer), Ok(()));
    let mut decisions = short(&mut world, 10);
    decisions.extend(short(&mut world, 10));
    let kill = kill_of(&decisions).unwrap();
    assert!(matches!(kill.target, Target::Group(_, slot) if slot == jobs[0]), "{kill:?}");
    die(&mut world, &kill);
    let words: Vec<_> = (0..8).flat_map(|_| said(&mut world, 100)).collect();
    assert!(
        words.contains(&"ask /jobs/1".to_owned()),
        "the next is asked about before it is killed: {words:?}"
    );
}

#[test]
fn a_program_runs_for_the_job_and_the_ladder_waits_for_it() {
    let hook = Hook::program(["/x".into()].into());
    let (mut world, _) = host(&[(Action::Hook(hook), 0), (KILL_JOB, 0)]);
    let decisions = short(&mut world, 10);
    let words: Vec<_> = decisions.iter().map(|decision| world.words(decision)).collect();
    assert_eq!(words, ["record /jobs/0 log", "hook /jobs/0"]);
    world.report(decisions[1].id, Outcome::Begun);
    assert!(said(&mut world, 1000).is_empty());
    let run = memgov_decide::hook::Run { ended: memgov_decide::hook::Ended::Exited(0), took: Duration::ZERO };
    world.report(decisions[1].id, Outcome::Ran(run));
    assert!(said(&mut world, 100).is_empty(), "what it frees may be on its way");
    assert_eq!(said(&mut world, 600), ["kill /jobs/0"]);
}

#[test]
fn word_of_a_job_that_is_no_longer_the_one_changes_nothing() {
    let (mut world, jobs) = host(&[(Action::Reclaim(Reclaim::default()), 0), (KILL_JOB, 60_000)]);
    let first = short(&mut world, 10);
    world.row(jobs[0]).gone = true;
    world.available(90);
    let mut words = world.said(10);
    world.snap.groups.remove(jobs[0].0);
    words.extend((0..3).flat_map(|_| said(&mut world, 10)));
    assert!(
        words.iter().any(|word| word.starts_with("reclaim-begin") && word.ends_with("/jobs/1")),
        "{words:?}"
    );
    world.report(first[1].id, REFUSED);
    let words = said(&mut world, 100);
    assert!(words.iter().all(|word| word.starts_with("reclaim-keep")) && !words.is_empty(), "{words:?}");
}

#[test]
fn without_jobs_the_next_step_follows_at_once_and_the_largest_process_goes() {
    let mut world =
        World::new(policy([host_rule("host", 100, &[(Action::Freeze, 0), (KILL_LARGEST, 60_000)])]));
    world.snap.host.memory = Some(mib(4000));
    let group = world.group("/some", None);
    let small = world.process(11, Some(group));
    let large = world.process(12, None);
    world.anon(small, mib(100));
    world.anon(large, mib(900));
    world.available(2000);
    world.tick(10);
    assert!(!world.governor.wants_all_processes(), "there is enough");
    assert_eq!(said(&mut world, 10), ["record host no-job log"]);
    assert!(world.governor.wants_all_processes());
    let decisions = short(&mut world, 10);
    assert_eq!(world.words(&decisions[0]), "kill-one-of-12-11 host");
    world.report(decisions[0].id, dead(mib(900)));
    world.process_row(large).gone = true;
    world.available(90);
    world.tick(10);
    world.snap.processes.remove(large.0);
    let words: Vec<_> = (0..4).flat_map(|_| said(&mut world, 100)).collect();
    assert_eq!(words, ["kill-one-of-11 host"], "and the next as soon as that is seen not to be enough");
}

#[test]
fn protected_processes_are_nobodys_choice_for_the_host_either() {
    let mut policy = policy([host_rule("host", 100, &[(KILL_LARGEST, 0)])]);
    policy.never = vec![ProcessMatch { comm: vec![Pattern::new("sshd")], ..ProcessMatch::default() }];
    let mut world = World::new(policy);
    world.snap.host.memory = Some(mib(4000));
    let all = [1, 21, 22, 23, 24, 25].map(|pid| world.process(pid, None));
    all.iter().zip([900, 800, 700, 600, 500, 400]).for_each(|(&slot, held)| world.anon(slot, mib(held)));
    world.process_row(all[1]).untouchable = Some(Untouchable::Governor);
    world.process_row(all[2]).oom_score_adj = Some(-1000);
    world.process_row(all[3]).comm[..5].copy_from_slice(b"sshd\0");
    let words: Vec<_> = (0..2).flat_map(|_| said(&mut world, 10)).collect();
    assert_eq!(words, ["kill-one-of-24-25 host log"]);
}

#[test]
fn what_is_read_before_the_shortage_chooses_nobody() {
    let mut world = World::new(policy([host_rule("host", 100, &[(KILL_LARGEST, 0)])]));
    world.snap.host.memory = Some(mib(4000));
    let (old, new) = (world.process(11, None), world.process(12, None));
    world.anon(old, mib(500));
    world.anon(new, mib(10));
    world.available(2000);
    world.tick(10);
    world.available(90);
    assert!(world.tick(500).is_empty());
    // The one has let go of it, and the other taken it.
    world.anon(old, mib(20));
    world.anon(new, mib(600));
    assert_eq!(world.said(10), ["kill-one-of-12-11 host log"]);
}

/// Jobs with processes: pid, parent, MiB, and which job.
fn within(action: Action, members: &[(u32, u32, u64, usize)]) -> (World, [GroupSlot; 3]) {
    let (mut world, jobs) = host(&[]);
    let mut policy = world.governor.policy().clone();
    policy.rules[0].steps = ladder(&[(action, 0)]);
    world.governor.set_policy(policy);
    for &(pid, parent, held, job) in members {
        let slot = world.process(pid, Some(jobs[job]));
        world.process_row(slot).parent = parent;
        world.anon(slot, mib(held));
    }
    world.tick(10);
    (world, jobs)
}

const MEMBERS: [(u32, u32, u64, usize); 6] =
    [(10, 1, 1, 0), (11, 10, 60, 0), (12, 10, 50, 0), (13, 12, 20, 0), (20, 1, 100, 0), (30, 1, 250, 1)];

#[test]
fn the_largest_process_of_the_job_goes_and_the_job_is_asked_again() {
    let (mut world, jobs) = within(KILL_IN_JOB, &MEMBERS);
    let first = short(&mut world, 10);
    assert_eq!(world.words(&first[0]), "record /jobs/0 log");
    assert_eq!(first[0].ranking.jobs().len(), 3, "which job, and among whom");
    assert_eq!(first.len(), 1, "its processes are read first");
    let kill = kill_of(&short(&mut world, 10)).unwrap();
    assert_eq!(world.words(&kill), "kill-one-of-20-11-12-13-10 /jobs/0");
    let slot = ProcessSlot(world.snap.processes.iter().find(|(_, row)| row.id.pid == 20).unwrap().0);
    world.report(kill.id, dead(mib(100)));
    world.process_row(slot).gone = true;
    world.usage(jobs[0], mib(200));
    world.available(90);
    world.tick(10);
    world.snap.processes.remove(slot.0);
    let words: Vec<_> = (0..4).flat_map(|_| said(&mut world, 100)).collect();
    assert_eq!(words[1], "kill-one-of-11-12-13-10 /jobs/0", "the job is not dead, and not spared: {words:?}");
}

#[test]
fn a_tree_goes_with_all_that_have_come_from_its_first() {
    let (mut world, _) = within(KILL_TREE, &MEMBERS);
    short(&mut world, 10);
    let kill = kill_of(&short(&mut world, 10)).unwrap();
    assert_eq!(world.words(&kill), "kill-tree-10 /jobs/0", "131 MiB are more than 100");
    let ranked: Vec<u32> = kill.ranking.iter().map(|candidate| candidate.process.pid).collect();
    assert_eq!(ranked, [11, 12, 13, 10]);
    assert_eq!(kill.ranking.considered, 5);
}

#[test]
fn an_indivisible_job_goes_whole_and_one_of_the_protected_is_passed_over() {
    let (mut world, jobs) = within(KILL_IN_JOB, &MEMBERS);
    world.row(jobs[0]).oom_group = Some(true);
    assert_eq!(said(&mut world, 10), ["kill /jobs/0 log"]);
    let (mut world, _) = within(KILL_IN_JOB, &[(10, 1, 60, 0), (30, 1, 50, 1)]);
    let slot = ProcessSlot(0);
    world.process_row(slot).oom_score_adj = Some(-1000);
    let words: Vec<_> = (0..5).flat_map(|_| said(&mut world, 10)).collect();
    assert_eq!(words, ["record /jobs/0 log", "record /jobs/1", "kill-one-of-30 /jobs/1"]);
}

#[test]
fn a_job_of_which_nobody_is_known_is_passed_over_after_a_while() {
    let (mut world, _) = within(KILL_IN_JOB, &[(30, 1, 50, 1)]);
    let mut words = Vec::new();
    for _ in 0..60 {
        words.extend(said(&mut world, 10));
    }
    assert_eq!(words[..3], ["record /jobs/0 log", "record /jobs/1", "kill-one-of-30 /jobs/1"]);
}

#[test]
fn who_has_ended_by_himself_is_not_the_job() {
    for (answer, spared) in [(Outcome::Gone, false), (REFUSED, true), (Outcome::Withheld, true)] {
        let (mut world, jobs) = within(KILL_IN_JOB, &MEMBERS);
        short(&mut world, 10);
        let kill = kill_of(&short(&mut world, 10)).unwrap();
        world.report(kill.id, answer);
        let next = (0..4).find_map(|_| kill_of(&short(&mut world, 20))).unwrap();
        let expected = if spared { jobs[1] } else { jobs[0] };
        assert!(matches!(next.target, Target::Group(_, slot) if slot == expected), "{answer:?}: {next:?}");
    }
}

fn action() -> impl Strategy<Value = Action> {
    let hook = Action::Hook(Hook::program(["/x".into()].into()));
    prop::sample::select(vec![
        Action::Record,
        Action::Deny,
        Action::Freeze,
        slow(500),
        signal(10),
        Action::Reclaim(Reclaim::default()),
        Action::Ask(Ask { timeout: Duration::from_millis(300), default: Verdict::Kill }),
        hook,
        KILL_JOB,
        KILL_IN_JOB,
        KILL_LARGEST,
    ])
}

proptest! {
    /// Whatever the ladder is and whatever becomes of it: what is begun is ended once, on whom it was begun; no two jobs are held at a time; no step is done to
    /// a job that was not told of with a ranking first; and at relief nothing is in force.
    #[test]
    fn the_hosts_ladder_holds_one_job_at_a_time(
        steps in prop::collection::vec((action(), 0u64..300), 1..6),
        events in prop::collection::vec((0u64..8, 1u64..200, any::<bool>(), 0usize..4), 1..50),
    ) {
        let (mut world, jobs) = host(&steps);
        for (pid, job) in (10..16).zip(jobs.into_iter().cycle()) {
            let slot = world.process(pid, Some(job));
            world.anon(slot, mib(u64::from(pid)));
        }
        world.tick(1);
        let mut held: Vec<(&str, Target)> = Vec::new();
        let mut told = None;
        let mut heed = |decisions: &[Decision]| {
            for decision in decisions {
                if !decision.ranking.jobs().is_empty() {
                    told = Some(decision.target);
                }
                let (word, phase) = match decision.order {
                    Order::Deny { phase, .. } => ("deny", phase),
                    Order::Freeze { phase } => ("freeze", phase),
                    Order::Slow { phase, .. } => ("slow", phase),
                    Order::Reclaim { phase, .. } => ("reclaim", phase),
                    _ => continue,
                };
                let this = (word, decision.target);
                match phase {
                    Phase::Begin => {
                        prop_assert_eq!(Some(decision.target), told, "not told of");
                        held.push(this);
                    }
                    Phase::Sustain => prop_assert!(held.contains(&this), "kept up and not begun: {:?}", this),
                    Phase::End => {
                        let at = held.iter().position(|other| *other == this);
                        prop_assert!(at.is_some(), "ended and not begun: {:?}", this);
                        held.remove(at.unwrap_or_default());
                    }
                }
                prop_assert!(held.iter().all(|(_, target)| *target == decision.target), "two at a time: {held:?}");
            }
            Ok(held.len())
        };
        for (what, ms, over, at) in events {
            let decisions = if over { short(&mut world, ms) } else { world.tick(ms) };
            heed(&decisions)?;
            let outcome = match what {
                0 => REFUSED,
                1 | 2 => dead(mib(10)),
                3 => Outcome::Gone,
                4 => Outcome::Nothing,
                _ => DONE,
            };
            decisions.iter().for_each(|decision| world.report(decision.id, outcome));
            if what == 5 {
                world.usage(jobs[at % 3], mib(at as u64 * 100));
            }
        }
        for _ in 0..3 {
            world.available(3000);
            heed(&world.tick(10))?;
        }
        prop_assert_eq!(heed(&[])?, 0, "nothing stays in force");
        prop_assert_eq!(world.governor.episodes().count(), 0);
    }

    /// The same snapshots lead to the same decisions, also where processes are chosen.
    #[test]
    fn a_choice_among_processes_is_repeatable(
        held in prop::collection::vec((0u64..5, 0u32..6), 1..6),
        tree in any::<bool>(),
    ) {
        let run = || {
            let members: Vec<_> =
                held.iter().zip(10u32..).map(|(&(mib, parent), pid)| (pid, 9 + parent, mib, 0)).collect();
            let (mut world, _) = within(if tree { KILL_TREE } else { KILL_IN_JOB }, &members);
            (0..5).flat_map(|_| short(&mut world, 50)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
