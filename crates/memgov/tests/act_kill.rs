//! Signals and kills on real processes: who was meant dies, nobody else does, and the dead are seen to be dead. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::time::Duration;

use memgov_decide::decision::{
    Candidate, Family, Mechanism, Operation, Order, Outcome, Phase, Ranking, Take, Target,
};
use memgov_decide::snapshot::{ProcessId, ProcessSlot};
use memgov_decide::units::Bytes;
use rig::{decision, eventually, line, order, pid, run, slow};

const KILL: Order = Order::Kill { take: Take::One };
const WHOLE: Order = Order::Kill { take: Take::Whole };

fn ranking(of: &[(Target, u64)]) -> Ranking {
    let mut ranking = Ranking::default();
    for &(target, rss) in of {
        let Target::Process(process, slot) = target else { panic!("not a process") };
        ranking.offer(Candidate { process, slot, rss: Bytes(rss) });
    }
    ranking
}

/// The outcome, once it is that of a death.
fn death(first: Outcome, actor: &mut memgov::act::Actor) -> Outcome {
    match first {
        Outcome::Done { .. } => run(actor, Duration::from_millis(500)).first().expect("a report").outcome,
        outcome => outcome,
    }
}

#[test]
fn the_target_dies_and_its_neighbour_does_not() {
    rig::with_actor(|mut rig, mut actor| {
        let victim = rig.waiter();
        let neighbour = rig.waiter();
        let first = order(&mut actor, &rig, 1, victim, KILL);
        let dead = death(first, &mut actor);
        assert!(
            matches!(dead, Outcome::Dead { processes: 1, by: Mechanism::Pidfd, choice: 0, .. }),
            "{dead:?}"
        );
        assert!(!rig.wait(victim).success());
        assert_eq!(order(&mut actor, &rig, 2, victim, KILL), Outcome::Gone);
        rig.tell(neighbour, "go");
        assert!(rig.wait(neighbour).success());
        assert_eq!(actor.deadline(), None);
    });
}

#[test]
fn a_family_dies_and_nobody_else_of_the_group() {
    rig::with_actor(|mut rig, mut actor| {
        let bombs = [rig.sleeper(), rig.sleeper(), rig.sleeper()];
        let innocent = rig.waiter();
        let stat = memgov::kernel::proc::read_stat(pid(bombs[0]), &mut [0; 1280]).unwrap();
        let family = Family { session: Some(stat.session), comm: Some(stat.comm), ..Family::default() };
        let mut kill = decision(1, rig.group, Order::Kill { take: Take::Family(family) });
        kill.ranking = ranking(&[(bombs[0], 20), (bombs[1], 10)]);
        let first = actor.perform(&kill, &rig.snap, &rig);
        assert_eq!(first, Outcome::Done { processes: 3, by: Mechanism::Pidfd });
        for bomb in bombs {
            assert!(!rig.wait(bomb).success());
        }
        let dead = death(first, &mut actor);
        assert!(matches!(dead, Outcome::Dead { processes: 3, expected: Bytes(30), .. }), "{dead:?}");
        rig.tell(innocent, "go");
        assert!(rig.wait(innocent).success());
        let mut other = decision(2, rig.group, Order::Kill { take: Take::Family(family) });
        other.ranking = kill.ranking;
        assert_eq!(actor.perform(&other, &rig.snap, &rig), Outcome::Gone);
    });
}

#[test]
fn of_a_family_by_one_sign_only_the_young_die_and_who_starts_them() {
    rig::with_actor(|mut rig, mut actor| {
        let (parent, older) = (rig.sleeper(), rig.sleeper());
        let stat_of = |target| memgov::kernel::proc::read_stat(pid(target), &mut [0; 1280]).unwrap();
        let (first, last) = (stat_of(parent), stat_of(older));
        // Start times are in hundredths of a second.
        std::thread::sleep(Duration::from_millis(50));
        let young = [rig.sleeper(), rig.sleeper()];
        let family = Family {
            session: None,
            comm: Some(first.comm),
            since: Some(last.start),
            parent: Some(first.id()),
        };
        let mut kill = decision(1, rig.group, Order::Kill { take: Take::Family(family) });
        kill.ranking = ranking(&[(young[0], 20), (young[1], 10)]);
        let outcome = actor.perform(&kill, &rig.snap, &rig);
        assert_eq!(outcome, Outcome::Done { processes: 3, by: Mechanism::Pidfd });
        for dead in [parent, young[0], young[1]] {
            assert!(!rig.wait(dead).success());
        }
        assert!(!stat_of(older).has_ended(), "it was there before");
    });
}

#[test]
fn the_ranking_is_gone_down_until_one_can_be_killed() {
    rig::with_actor_of(&|| rig::sparing("sleep"), |mut rig, mut actor| {
        let (gone, _) = rig.spawn("exit 0");
        rig.wait(gone);
        let listed = rig.sleeper();
        let reused = rig.waiter();
        // Its pid, but another start time.
        let other = Target::Process(ProcessId { pid: pid(reused), start: 1 }, ProcessSlot(0));
        let victim = rig.waiter();
        let init = rig.target(1);
        let mut kill = decision(1, rig.group, KILL);
        kill.ranking = ranking(&[(gone, 60), (listed, 50), (other, 30), (init, 20), (victim, 10)]);
        let first = actor.perform(&kill, &rig.snap, &rig);
        let dead = death(first, &mut actor);
        let expected = Bytes(10);
        assert_eq!(dead, Outcome::Dead { processes: 1, by: Mechanism::Pidfd, choice: 4, expected });
        rig.wait(victim);
        rig.tell(reused, "go");
        assert!(rig.wait(reused).success());
        kill.ranking = ranking(&[(listed, 50), (init, 20)]);
        assert_eq!(actor.perform(&kill, &rig.snap, &rig), Outcome::Withheld);
        kill.ranking = Ranking::default();
        assert_eq!(actor.perform(&kill, &rig.snap, &rig), Outcome::Nothing);
    });
}

#[test]
fn a_whole_group_dies_however_fast_it_forks() {
    rig::with_actor(|mut rig, mut actor| {
        let (parent, mut out) =
            rig.spawn("f() { (:) ; (read x </dev/zero) & f; }; (f) & (f) & (f) & echo forking; f");
        assert_eq!(line(&mut out), "forking");
        std::thread::sleep(Duration::from_millis(30));
        let group = rig.group;
        let first = order(&mut actor, &rig, 1, group, WHOLE);
        let dead = death(first, &mut actor);
        assert!(matches!(dead, Outcome::Dead { processes: 2.., .. }), "{dead:?}");
        rig.wait(parent);
        for dir in rig.dirs() {
            eventually("empty", || fs::read_to_string(dir.join("cgroup.procs")).unwrap().is_empty());
        }
        assert_eq!(order(&mut actor, &rig, 2, group, WHOLE), Outcome::Nothing);
    });
}

#[test]
fn a_whole_kill_spares_the_protected() {
    rig::with_actor_of(&|| rig::sparing("sleep"), |mut rig, mut actor| {
        let victim = rig.waiter();
        rig.sleeper();
        let group = rig.group;
        let first = order(&mut actor, &rig, 1, group, WHOLE);
        let dead = death(first, &mut actor);
        assert!(matches!(dead, Outcome::Dead { processes: 1, by: Mechanism::Pidfd, .. }), "{dead:?}");
        rig.wait(victim);
        assert_eq!(order(&mut actor, &rig, 2, group, WHOLE), Outcome::Withheld);
        assert_eq!(rig.state().iter().filter(|(key, _)| key.ends_with("limits")).count(), 1, "it is alive");
    });
}

#[test]
fn oom_score_adj_of_minus_1000_is_respected() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.waiter();
        // Only CAP_SYS_RESOURCE may set it: without it, it is not set, and the same order kills.
        let set = fs::write(format!("/proc/{}/oom_score_adj", pid(target)), "-1000").is_ok();
        let group = rig.group;
        let outcomes = [order(&mut actor, &rig, 1, group, WHOLE), order(&mut actor, &rig, 2, target, KILL)];
        assert_eq!(outcomes == [Outcome::Withheld; 2], set, "{outcomes:?}");
        if set {
            rig.tell(target, "go");
        }
        assert_eq!(rig.wait(target).success(), set);
    });
}

#[test]
fn the_slowed_die_at_once() {
    rig::with_actor(|mut rig, mut actor| {
        let (one, _out1) = rig.spawn("while :; do :; done");
        let (two, _out2) = rig.spawn("while :; do :; done");
        let group = rig.group;
        for (episode, victim, how) in [(1, one, KILL), (2, group, WHOLE)] {
            order(&mut actor, &rig, episode, group, slow(Phase::Begin, 1));
            // In the middle of standing still.
            run(&mut actor, Duration::from_millis(40));
            let first = order(&mut actor, &rig, episode + 10, victim, how);
            let dead = death(first, &mut actor);
            assert!(matches!(dead, Outcome::Dead { .. }), "{dead:?}");
            order(&mut actor, &rig, episode, group, slow(Phase::End, 0));
        }
        rig.wait(one);
        rig.wait(two);
        run(&mut actor, Duration::from_millis(100));
        assert_eq!((actor.ledger().entries(), actor.deadline()), (0, None));
    });
}

#[test]
fn signals_of_any_number_arrive() {
    rig::with_actor(|mut rig, mut actor| {
        let traps = "trap 'echo usr1' USR1; trap 'echo usr2' USR2; echo ready; while :; do sleep 0.01; done";
        let (one, mut out) = rig.spawn(traps);
        let (two, mut other) = rig.spawn(traps);
        assert_eq!((line(&mut out), line(&mut other)), ("ready".into(), "ready".into()));
        let done = |processes| Outcome::Done { processes, by: Mechanism::Pidfd };
        assert_eq!(order(&mut actor, &rig, 1, one, Order::Signal { signal: 10 }), done(1));
        assert_eq!(line(&mut out), "usr1");
        // Its `sleep` is in the group too and dies of it.
        let group = rig.group;
        let outcome = order(&mut actor, &rig, 2, group, Order::Signal { signal: 12 });
        assert!(matches!(outcome, Outcome::Done { processes: 2..=4, by: Mechanism::Pidfd }), "{outcome:?}");
        assert_eq!((line(&mut out), line(&mut other)), ("usr2".into(), "usr2".into()));
        let invalid = Outcome::Refused { at: Operation::SendSignal, errno: libc::EINVAL };
        for signal in [0, 65, 255] {
            assert_eq!(order(&mut actor, &rig, 3, two, Order::Signal { signal }), invalid);
        }
        // The last realtime signal: its default is death.
        assert_eq!(order(&mut actor, &rig, 4, two, Order::Signal { signal: 64 }), done(1));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&rig.wait(two)), Some(64));
        let init = rig.target(1);
        assert_eq!(order(&mut actor, &rig, 5, init, Order::Signal { signal: 10 }), Outcome::Withheld);
    });
}

#[test]
fn a_group_that_is_gone_is_gone() {
    rig::with_actor(|rig, mut actor| {
        for dir in rig.dirs() {
            fs::remove_dir(dir).unwrap();
        }
        let group = rig.group;
        for what in [WHOLE, rig::deny(Phase::Begin), slow(Phase::Begin, 10), Order::Signal { signal: 10 }] {
            assert_eq!(order(&mut actor, &rig, 1, group, what), Outcome::Gone, "{what:?}");
        }
        let Target::Group(id, _) = group else { unreachable!() };
        let elsewhere = Target::Group(id, memgov_decide::snapshot::GroupSlot(3));
        assert_eq!(order(&mut actor, &rig, 1, elsewhere, WHOLE), Outcome::Gone);
        for dir in rig.dirs() {
            fs::create_dir(dir).unwrap();
        }
    });
}

#[test]
fn the_rehearsal_goes_well_and_leaves_nothing() {
    rig::with_actor(|mut rig, mut actor| {
        rig.waiter();
        let before = rig.state();
        let findings = actor.rehearse();
        assert_eq!(findings.iter().map(|f| f.what).collect::<Vec<_>>(), ["ledger", "deny", "slow", "kill"]);
        for finding in &findings {
            assert!(finding.result.is_ok(), "{finding}");
            assert!(finding.took < Duration::from_secs(1), "{finding}");
        }
        run(&mut actor, Duration::from_millis(100));
        assert_eq!((actor.ledger().entries(), actor.holds().count()), (0, 0));
        assert_eq!(rig.state(), before);
    });
}
