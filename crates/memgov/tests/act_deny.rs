//! Denying memory to real processes: it is refused, it is given again, and everybody's own wishes survive. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod rig;

use memgov::act::{HoldView, Options};
use memgov::kernel::rlimit::{self, Pair, Resource};
use memgov_decide::decision::{Mechanism, Outcome, Phase, Take};
use memgov_decide::policy::{Kinds, Meter};
use rig::{ANON, Rig, deny, eventually, limits, line, order, pid, set_soft};

/// A shell that has forked before has the memory to do it again when no more is given.
const WARM: &str = "(:) & (:) & (:) & (:) & wait; echo warm;";
const DONE: Outcome = Outcome::Done { processes: 1, by: Mechanism::Rlimit };

/// A `dd` that waits for its input before it allocates a buffer of 64 MiB.
fn waiting_dd(rig: &mut Rig, fifo: &str) -> memgov_decide::decision::Target {
    let path = rig.state.path().join(fifo);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let script = format!("exec dd if={} of=/dev/null bs=64M count=1 2>/dev/null", path.display());
    let (target, _) = rig.spawn(&script);
    eventually("dd runs", || {
        std::fs::read_to_string(format!("/proc/{}/comm", pid(target))).is_ok_and(|comm| comm == "dd\n")
    });
    // It has come to its open() when it no longer runs.
    eventually("dd waits", || {
        let stat = memgov::kernel::proc::read_stat(pid(target), &mut [0; 1280]).unwrap();
        stat.state == b'S'
    });
    target
}

#[test]
fn memory_is_refused_while_denied_and_given_afterwards() {
    rig::with_actor(|mut rig, mut actor| {
        let denied = waiting_dd(&mut rig, "denied");
        let neighbour = waiting_dd(&mut rig, "neighbour");
        let released = waiting_dd(&mut rig, "released");
        let before = limits(pid(released));
        for (episode, target) in [(1, denied), (2, released)] {
            assert_eq!(order(&mut actor, &rig, episode, target, deny(Phase::Begin)), DONE);
        }
        assert_ne!(limits(pid(released)), before);
        assert_eq!(order(&mut actor, &rig, 2, released, deny(Phase::End)), DONE);
        assert_eq!(limits(pid(released)), before);
        for fifo in ["denied", "neighbour", "released"] {
            // The denied one gives up before it reads: a broken pipe.
            let written = std::fs::write(rig.state.path().join(fifo), "x");
            assert!(written.is_ok() || fifo == "denied");
        }
        assert!(!rig.wait(denied).success(), "its buffer was refused");
        assert!(rig.wait(neighbour).success());
        assert!(rig.wait(released).success());
        assert_eq!(order(&mut actor, &rig, 1, denied, deny(Phase::End)), Outcome::Nothing);
        assert_eq!(actor.ledger().entries(), 0);
    });
}

#[test]
fn only_soft_limits_go_down_and_the_meter_says_which() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.waiter();
        let before = limits(pid(target));
        let file = Kinds { file: true, ..ANON };
        order(&mut actor, &rig, 1, target, deny(Phase::Begin));
        let [data, space, lock] = limits(pid(target));
        assert!(data.soft.is_some_and(|soft| soft > 4096) && space == before[1] && lock.soft == Some(1));
        // A second holder whose meter counts files: every mapping is refused, and the data limit goes back (both would let mprotect through).
        let both = memgov_decide::decision::Order::Deny { phase: Phase::Begin, meter: Meter::Rss(file) };
        order(&mut actor, &rig, 2, target, both);
        let [data, space, lock] = limits(pid(target));
        assert!(data == before[0] && space.soft.is_some_and(|soft| soft > 4096) && lock.soft == Some(1));
        order(&mut actor, &rig, 2, target, deny(Phase::End));
        let [data, space, _] = limits(pid(target));
        assert!(data.soft.is_some() && space == before[1], "the first holder is still there");
        assert_eq!(limits(pid(target)).map(|pair| pair.hard), before.map(|pair| pair.hard));
        order(&mut actor, &rig, 1, target, deny(Phase::End));
        assert_eq!(limits(pid(target)), before);
    });
}

#[test]
fn what_a_process_sets_itself_is_what_it_gets_back() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.waiter();
        let before = limits(pid(target));
        order(&mut actor, &rig, 1, target, deny(Phase::Begin));
        let denied = limits(pid(target));
        set_soft(pid(target), Resource::Data, 1 << 30);
        assert_eq!(order(&mut actor, &rig, 1, target, deny(Phase::Sustain)), DONE);
        assert_eq!(limits(pid(target)), denied, "lowered again");
        assert!(actor.holds().any(|hold| matches!(hold, HoldView::Denied(view) if view.contested == 1)));
        order(&mut actor, &rig, 1, target, deny(Phase::End));
        assert_eq!(limits(pid(target))[0].soft, Some(1 << 30));
        assert_eq!(limits(pid(target))[1..], before[1..]);

        // Lower than memgov's: that is its wish too, also afterwards.
        order(&mut actor, &rig, 2, target, deny(Phase::Begin));
        set_soft(pid(target), Resource::Data, 4096);
        order(&mut actor, &rig, 2, target, deny(Phase::Sustain));
        order(&mut actor, &rig, 2, target, deny(Phase::End));
        assert_eq!(limits(pid(target))[0].soft, Some(4096));

        // And what it sets after the last look.
        order(&mut actor, &rig, 3, target, deny(Phase::Begin));
        set_soft(pid(target), Resource::MemLock, 8192);
        order(&mut actor, &rig, 3, target, deny(Phase::End));
        assert_eq!(limits(pid(target))[2].soft, Some(8192));

        // A hard limit lowered meanwhile bounds what can be put back.
        order(&mut actor, &rig, 4, target, deny(Phase::Begin));
        let soft = limits(pid(target))[2].soft;
        rlimit::set(pid(target), Resource::MemLock, Pair { soft, hard: Some(4096) }).unwrap();
        order(&mut actor, &rig, 4, target, deny(Phase::End));
        assert_eq!(limits(pid(target))[2], Pair { soft: Some(4096), hard: Some(4096) });
    });
}

#[test]
fn children_of_a_denied_process_get_their_own_back() {
    rig::with_actor(|mut rig, mut actor| {
        let fifo = rig.state.path().join("never");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let child = format!("read x; (read y < {0}) & echo $!; ", fifo.display());
        let (target, mut out) = rig.spawn(&format!("{WARM} {} wait", child.repeat(3)));
        assert_eq!(line(&mut out), "warm");
        let before = limits(pid(target));
        order(&mut actor, &rig, 1, target, deny(Phase::Begin));
        let denied = limits(pid(target));

        rig.tell(target, "first");
        let first: u32 = line(&mut out).parse().unwrap();
        assert_eq!(limits(first), denied, "inherited");
        actor.process_forked(pid(target), first);
        assert_eq!(limits(first), before, "told of by an event");

        rig.tell(target, "second");
        let second: u32 = line(&mut out).parse().unwrap();
        rig.tell(target, "third");
        let third: u32 = line(&mut out).parse().unwrap();
        order(&mut actor, &rig, 1, target, deny(Phase::End));
        assert_eq!(limits(second), before, "found by looking");
        assert_eq!(limits(third), before);
        assert_eq!(limits(pid(target)), before);
    });
}

#[test]
fn a_group_is_denied_with_all_that_is_born_in_it() {
    rig::with_actor(|mut rig, mut actor| {
        let fifo = rig.state.path().join("never");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let child = format!("read x; (read y < {0}) & echo $!; ", fifo.display());
        let (parent, mut out) = rig.spawn(&format!("{WARM} {} wait", child.repeat(2)));
        assert_eq!(line(&mut out), "warm");
        let other = rig.waiter();
        let before = limits(pid(parent));
        let group = rig.group;
        let two = Outcome::Done { processes: 2, by: Mechanism::Rlimit };
        assert_eq!(order(&mut actor, &rig, 1, group, deny(Phase::Begin)), two);
        // A holder of one of them alone does not end with the group's.
        assert_eq!(order(&mut actor, &rig, 2, other, deny(Phase::Begin)), DONE);

        rig.tell(parent, "first");
        let first: u32 = line(&mut out).parse().unwrap();
        actor.process_forked(pid(parent), first);
        rig.tell(parent, "second");
        let second: u32 = line(&mut out).parse().unwrap();
        let four = Outcome::Done { processes: 4, by: Mechanism::Rlimit };
        assert_eq!(order(&mut actor, &rig, 1, group, deny(Phase::Sustain)), four);
        for pid in [first, second] {
            assert_ne!(limits(pid), before, "denied like its group");
        }
        assert_eq!(order(&mut actor, &rig, 1, group, deny(Phase::End)), four);
        for pid in [first, second, pid(parent)] {
            assert_eq!(limits(pid), before, "its own, not what its parent had when it was born");
        }
        assert_ne!(limits(pid(other)), before);
        order(&mut actor, &rig, 2, other, deny(Phase::End));
        assert_eq!(limits(pid(other)), before);
        assert_eq!(actor.ledger().entries(), 0);
    });
}

#[test]
fn the_protected_and_the_gone_are_left_alone() {
    rig::with_actor_of(&|| rig::sparing("sleep"), |mut rig, mut actor| {
        let target = rig.sleeper();
        let before = limits(pid(target));
        let group = rig.group;
        assert_eq!(order(&mut actor, &rig, 1, group, deny(Phase::Begin)), Outcome::Nothing);
        assert_eq!(order(&mut actor, &rig, 2, target, deny(Phase::Begin)), Outcome::Withheld);
        let init = rig.target(1);
        let me = rig.target(std::process::id());
        assert_eq!(order(&mut actor, &rig, 3, init, deny(Phase::Begin)), Outcome::Withheld);
        assert_eq!(order(&mut actor, &rig, 3, me, deny(Phase::Begin)), Outcome::Withheld);
        assert_eq!(limits(pid(target)), before);

        let (gone, _) = rig.spawn("exit 0");
        rig.wait(gone);
        assert_eq!(order(&mut actor, &rig, 4, gone, deny(Phase::Begin)), Outcome::Gone);
        assert_eq!(order(&mut actor, &rig, 4, gone, deny(Phase::Sustain)), Outcome::Gone);
        assert_eq!(order(&mut actor, &rig, 4, gone, deny(Phase::End)), Outcome::Nothing);
    });
}

#[test]
fn a_process_that_dies_while_denied_leaves_nothing_in_the_ledger() {
    rig::with_actor(|mut rig, mut actor| {
        let target = rig.waiter();
        let group = rig.group;
        order(&mut actor, &rig, 1, group, deny(Phase::Begin));
        assert_eq!(actor.ledger().entries(), 1);
        rig.tell(target, "go");
        rig.wait(target);
        order(&mut actor, &rig, 1, group, deny(Phase::Sustain));
        assert_eq!(actor.ledger().entries(), 0);
        assert_eq!(actor.holds().count(), 0);
    });
}

#[test]
fn without_room_in_the_ledger_nothing_is_changed() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let (ledger, _) = memgov::act::Ledger::open_sized(&rig.ledger_path(), 1).unwrap();
        let mut actor = memgov::act::Actor::new(&rig.layout, ledger, Options::default()).unwrap();
        let first = rig.waiter();
        let second = rig.waiter();
        let before = limits(pid(second));
        assert_eq!(order(&mut actor, &rig, 1, first, deny(Phase::Begin)), DONE);
        assert_eq!(order(&mut actor, &rig, 2, second, deny(Phase::Begin)), Outcome::LedgerFull);
        assert_eq!(limits(pid(second)), before);
        assert_eq!(order(&mut actor, &rig, 3, second, rig::slow(Phase::Begin, 100)), Outcome::LedgerFull);
        // Room again: the next order to keep it up makes good for it.
        order(&mut actor, &rig, 1, first, deny(Phase::End));
        assert_eq!(order(&mut actor, &rig, 2, second, deny(Phase::Sustain)), DONE);
        assert_ne!(limits(pid(second)), before);
    });
}

#[test]
fn a_dry_run_touches_nothing() {
    rig::with_actor_of(&|| Options { dry_run: true, ..Options::default() }, |mut rig, mut actor| {
        let target = rig.waiter();
        let before = rig.state();
        for what in [
            deny(Phase::Begin),
            rig::slow(Phase::Begin, 10),
            memgov_decide::decision::Order::Kill { take: Take::Whole },
        ] {
            assert_eq!(order(&mut actor, &rig, 1, target, what), Outcome::DryRun);
        }
        assert_eq!(rig.state(), before);
        assert_eq!(actor.rehearse(), []);
    });
}
