//! Slowing real processes: they run as much as their share says, and nothing stays stopped. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::time::Duration;

use memgov::act::HoldView;
use memgov::kernel::MemoryVersion;
use memgov_decide::decision::{Mechanism, Operation, Order, Outcome, Phase, Take, Target};
use rig::{Rig, cpu, eventually, limits, line, order, pid, run, slow};

const SPIN: &str = "while :; do :; done";
const SECOND: Duration = Duration::from_secs(1);

fn done(outcome: Outcome) -> Mechanism {
    match outcome {
        Outcome::Done { by, .. } => by,
        other => panic!("{other:?}"),
    }
}

/// CPU used in a second by each.
fn race<const N: usize>(actor: &mut memgov::act::Actor, runners: [Target; N]) -> [u64; N] {
    let before = runners.map(cpu);
    run(actor, SECOND * 2);
    std::array::from_fn(|i| cpu(runners[i]) - before[i])
}

#[test]
fn a_process_runs_as_much_as_its_share_says() {
    rig::with_actor(|mut rig, mut actor| {
        let before = rig.state();
        let slowed = rig.spinner();
        let free = rig.spinner();
        let all = rig.state();
        done(order(&mut actor, &rig, 1, slowed, slow(Phase::Begin, 100)));
        let [a, b] = race(&mut actor, [slowed, free]);
        assert!(a > 0 && a * 3 < b, "{a} and {b} ticks at a share of a tenth");
        // A new share takes effect.
        done(order(&mut actor, &rig, 1, slowed, slow(Phase::Sustain, 1000)));
        let [a, b] = race(&mut actor, [slowed, free]);
        assert!(a * 2 > b, "{a} and {b} ticks at the whole share");
        done(order(&mut actor, &rig, 1, slowed, slow(Phase::End, 0)));
        run(&mut actor, Duration::from_millis(100));
        assert_eq!(rig.state(), all, "where it was, and nothing left over");
        assert!(before.len() < all.len());
        assert_eq!((actor.ledger().entries(), actor.deadline()), (0, None));
    });
}

#[test]
fn a_group_runs_as_much_as_its_share_says_with_all_that_is_born_in_it() {
    rig::with_actor(|mut rig, mut actor| {
        let mut outside = Rig::new();
        let (parent, mut out) = rig.spawn(&format!("({SPIN}) & echo $!; read x; ({SPIN}) & echo $!; wait"));
        let free = outside.spinner();
        let first: u32 = line(&mut out).parse().unwrap();
        let first = rig.target(first);
        let before = rig.state();
        let group = rig.group;
        let by = done(order(&mut actor, &rig, 1, group, slow(Phase::Begin, 100)));
        assert_eq!(by == Mechanism::CgroupFreeze, rig.layout.version == MemoryVersion::V2);
        run(&mut actor, Duration::from_millis(50));
        rig.tell(parent, "another");
        // Its parent is slowed too.
        let born = std::thread::scope(|scope| {
            let born = scope.spawn(|| line(&mut out));
            run(&mut actor, SECOND);
            born.join().unwrap()
        });
        let second = rig.target(born.parse().unwrap());
        done(order(&mut actor, &rig, 1, group, slow(Phase::Sustain, 100)));
        let [a, b, c] = race(&mut actor, [first, second, free]);
        assert!(a > 0 && b > 0 && a * 3 < c && b * 3 < c, "{a}, {b} and {c} ticks");
        assert!(actor.holds().any(|hold| matches!(hold, HoldView::Slowed(view) if view.target == group)));
        order(&mut actor, &rig, 1, group, slow(Phase::End, 0));
        run(&mut actor, Duration::from_millis(100));
        assert_eq!(rig.state(), before);
        assert_eq!(actor.ledger().entries(), 0);
    });
}

#[test]
fn what_is_frozen_does_not_run_at_all() {
    rig::with_actor(|mut rig, mut actor| {
        let (group, inside) = (rig.group, rig.spinner());
        let mut outside = Rig::new();
        let free = outside.spinner();
        let before = rig.state();
        done(order(&mut actor, &rig, 1, group, Order::Freeze { phase: Phase::Begin }));
        run(&mut actor, Duration::from_millis(100));
        let [a, b] = race(&mut actor, [inside, free]);
        assert!(a == 0 && b > 20, "{a} and {b} ticks while frozen");
        // Slowed before: from now on it stands still.
        done(order(&mut actor, &rig, 2, inside, slow(Phase::Begin, 500)));
        order(&mut actor, &rig, 2, inside, slow(Phase::End, 0));
        order(&mut actor, &rig, 1, group, Order::Freeze { phase: Phase::Sustain });
        let [a, _] = race(&mut actor, [inside, free]);
        assert_eq!(a, 0, "ticks while still frozen");
        done(order(&mut actor, &rig, 1, group, Order::Freeze { phase: Phase::End }));
        run(&mut actor, Duration::from_millis(100));
        assert_eq!(rig.state(), before, "where it was, and nothing left over");
        let [a, _] = race(&mut actor, [inside, free]);
        assert!(a > 20, "{a} ticks after the thaw");
        assert_eq!((actor.ledger().entries(), actor.deadline()), (0, None));
    });
}

#[test]
fn two_episodes_may_slow_the_same() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.spinner();
        let before = rig.state();
        let group = rig.group;
        done(order(&mut actor, &rig, 1, group, slow(Phase::Begin, 50)));
        done(order(&mut actor, &rig, 2, target, slow(Phase::Begin, 50)));
        done(order(&mut actor, &rig, 3, group, slow(Phase::Begin, 50)));
        run(&mut actor, Duration::from_millis(300));
        order(&mut actor, &rig, 1, group, slow(Phase::End, 0));
        // The others take over.
        done(order(&mut actor, &rig, 2, target, slow(Phase::Sustain, 50)));
        done(order(&mut actor, &rig, 3, group, slow(Phase::Sustain, 50)));
        run(&mut actor, Duration::from_millis(300));
        for episode in [2, 3] {
            order(&mut actor, &rig, episode, group, slow(Phase::End, 0));
        }
        run(&mut actor, Duration::from_millis(200));
        assert_eq!(rig.state(), before);
        assert_eq!(actor.ledger().entries(), 0);
    });
}

#[test]
fn without_freezers_sigstop_is_the_last_resort() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        (rig.layout.freezer, rig.layout.unified) = (None, None);
        let mut actor = rig.actor();
        let slowed = rig.spinner();
        let free = rig.spinner();
        let before = rig.state();
        assert_eq!(done(order(&mut actor, &rig, 1, slowed, slow(Phase::Begin, 100))), Mechanism::Sigstop);
        let [a, b] = race(&mut actor, [slowed, free]);
        assert!(a > 0 && a * 3 < b, "{a} and {b} ticks");
        order(&mut actor, &rig, 1, slowed, slow(Phase::End, 0));
        eventually("it goes on", || rig.state() == before);
        // Stopped by somebody else: not memgov's to let go on.
        let stop = memgov::kernel::pidfd::PidFd::open(rig::identify(pid(free))).unwrap();
        stop.send(19).unwrap();
        eventually("stopped", || rig.state() != before);
        let refused = order(&mut actor, &rig, 2, free, slow(Phase::Begin, 100));
        assert_eq!(refused, Outcome::Refused { at: Operation::SendSignal, errno: libc::EBUSY });
        order(&mut actor, &rig, 2, free, slow(Phase::End, 0));
        assert_ne!(rig.state(), before);
    });
}

#[test]
fn nothing_is_left_stopped_by_a_drop() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let target = rig.spinner();
        let before = rig.state();
        let group = rig.group;
        for (share, length) in [(1, 30), (500, 75)] {
            let mut actor = rig.actor();
            done(order(&mut actor, &rig, 1, group, slow(Phase::Begin, share)));
            done(order(&mut actor, &rig, 2, target, rig::deny(Phase::Begin)));
            run(&mut actor, Duration::from_millis(length));
            drop(actor);
            assert_eq!(rig.state(), before);
            assert_eq!(memgov::act::Ledger::peek(&rig.ledger_path()).unwrap(), []);
        }
    });
}

#[test]
fn release_all_counts() {
    rig::with_actor(|mut rig, mut actor| {
        let one = rig.spinner();
        let two = rig.spinner();
        order(&mut actor, &rig, 1, one, slow(Phase::Begin, 10));
        order(&mut actor, &rig, 2, two, rig::deny(Phase::Begin));
        run(&mut actor, Duration::from_millis(20));
        let released = actor.release_all();
        assert_eq!((released.count, released.failed), (2, 0));
        assert_eq!((actor.holds().count(), actor.ledger().entries()), (0, 0));
    });
}

#[test]
fn a_protected_process_in_a_slowed_group_goes_on() {
    rig::with_actor_of(&|| rig::sparing("dd"), |mut rig, mut actor| {
        let slowed = rig.spinner();
        let (free, _out2) = rig.spawn("exec dd if=/dev/zero of=/dev/null");
        eventually("exec", || {
            fs::read_to_string(format!("/proc/{}/comm", pid(free))).is_ok_and(|comm| comm == "dd\n")
        });
        let before = rig.state();
        let group = rig.group;
        done(order(&mut actor, &rig, 1, group, slow(Phase::Begin, 100)));
        let [a, b] = race(&mut actor, [slowed, free]);
        assert!(a > 0 && a * 3 < b, "{a} and {b} ticks");
        order(&mut actor, &rig, 1, group, slow(Phase::End, 0));
        run(&mut actor, Duration::from_millis(100));
        assert_eq!(rig.state(), before);
    });
}

#[test]
fn a_process_that_dies_in_its_hold_group_and_a_group_that_is_removed_harm_nothing() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.waiter();
        done(order(&mut actor, &rig, 1, target, slow(Phase::Begin, 1)));
        run(&mut actor, Duration::from_millis(30));
        assert!(matches!(
            order(&mut actor, &rig, 2, target, Order::Kill { take: Take::One }),
            Outcome::Done { .. } | Outcome::Dead { .. }
        ));
        run(&mut actor, Duration::from_millis(200));
        rig.wait(target);
        assert_eq!(order(&mut actor, &rig, 1, target, slow(Phase::Sustain, 1)), Outcome::Gone);
        // Somebody tidies up the empty hold group.
        for dir in rig.dirs() {
            for child in fs::read_dir(dir).unwrap().flatten() {
                if child.file_name().to_string_lossy().starts_with("memgov.hold-") {
                    fs::remove_dir(child.path()).unwrap();
                }
            }
        }
        run(&mut actor, Duration::from_millis(200));
        order(&mut actor, &rig, 1, target, slow(Phase::End, 1));
        assert_eq!((actor.ledger().entries(), actor.deadline()), (0, None));
    });
}

#[test]
fn a_stranger_in_the_hold_group_is_waited_for() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.spinner();
        let before = rig.state();
        done(order(&mut actor, &rig, 1, target, slow(Phase::Begin, 100)));
        let hold = rig.dirs().into_iter().flat_map(|dir| fs::read_dir(dir).unwrap()).flatten();
        let hold = hold.map(|e| e.path()).find(|p| p.display().to_string().contains("memgov.hold-")).unwrap();
        fs::create_dir(hold.join("mine")).unwrap();
        done(order(&mut actor, &rig, 1, target, slow(Phase::End, 0)));
        run(&mut actor, Duration::from_millis(60));
        assert!(hold.exists() && actor.deadline().is_some(), "busy, tried again");
        assert_eq!(limits(pid(target)).len(), 3);
        fs::remove_dir(hold.join("mine")).unwrap();
        run(&mut actor, Duration::from_millis(100));
        assert_eq!(rig.state(), before);
        assert_eq!((actor.ledger().entries(), actor.deadline()), (0, None));
    });
}

#[test]
fn an_administrators_freeze_is_respected() {
    rig::with_actor(|mut rig, mut actor| {
        let _target = rig.spinner();
        let group = rig.group;
        let frozen = |rig: &Rig| {
            rig.dirs().iter().map(|d| fs::read_to_string(d.join("cgroup.freeze"))).find_map(Result::ok)
        };
        for dir in rig.dirs() {
            // Where there is no unified hierarchy, there is no such file.
            let _ = fs::write(dir.join("cgroup.freeze"), "1");
        }
        let before = frozen(&rig);
        let outcome = order(&mut actor, &rig, 1, group, slow(Phase::Begin, 100));
        if rig.layout.version == MemoryVersion::V2 {
            assert_eq!(outcome, Outcome::Refused { at: Operation::Freeze, errno: libc::EBUSY });
        } else {
            // Another hierarchy carries memgov's slowing; the administrator's freezing is in none of its hands.
            assert_eq!(done(outcome), Mechanism::V1Freezer);
        }
        run(&mut actor, Duration::from_millis(250));
        order(&mut actor, &rig, 1, group, slow(Phase::End, 0));
        drop(actor);
        assert_eq!(frozen(&rig), before);
    });
}
