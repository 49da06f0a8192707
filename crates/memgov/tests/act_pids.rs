//! Refusing kernel memory from outside: a group has no more processes than it has, and gets its limit back. Needs root and the pids controller.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use memgov::act::{Actor, GroupDirs, HoldView, Ledger, Stood, Verdict};
use memgov::kernel::{GroupDir, sys};
use memgov_decide::decision::{Mechanism, Operation, Outcome, Phase, Target};
use memgov_decide::kernel_memory::Headroom;
use memgov_decide::snapshot::{Group, GroupSlot};
use memgov_decide::units::Bytes;
use rig::{Rig, Sealed, deny_kernel, eventually, line, order};

/// Forks for each line it gets; a shell that cannot gives up.
const FORKER: &str = "echo up; while read x; do (exit 0); echo forked; done";

/// The rig's group where the pids controller is.
fn pids(rig: &Rig) -> PathBuf {
    rig.dirs().into_iter().find(|dir| dir.join("pids.max").exists()).expect("a group with pids.max")
}

fn limit(rig: &Rig) -> String {
    fs::read_to_string(pids(rig).join("pids.max")).unwrap().trim().to_owned()
}

#[test]
fn no_process_more_than_there_are_until_it_ends() {
    rig::with_actor(|mut rig, mut actor| {
        let (first, mut of_first) = rig.spawn(FORKER);
        let (second, mut of_second) = rig.spawn(FORKER);
        assert_eq!([line(&mut of_first), line(&mut of_second)], ["up", "up"]);
        let group = rig.group;
        rig.tell(first, "fork");
        assert_eq!(line(&mut of_first), "forked");
        eventually("its child is gone", || {
            fs::read_to_string(pids(&rig).join("pids.current")).unwrap() == "2\n"
        });
        let outcome = order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        assert_eq!(outcome, Outcome::Done { processes: 2, by: Mechanism::PidsMax });
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("2", 1));
        assert!(actor.holds().any(|hold| matches!(hold, HoldView::Capped(_))));
        rig.tell(first, "fork");
        assert_eq!(rig.wait(first).code(), Some(2), "a fork that is refused");
        order(&mut actor, &rig, 2, group, deny_kernel(Phase::Begin));
        assert_eq!(limit(&rig), "1", "it follows the count downwards");
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::End));
        assert_eq!(limit(&rig), "1", "another episode still holds it");
        order(&mut actor, &rig, 2, group, deny_kernel(Phase::End));
        assert_eq!(limit(&rig), "max");
        rig.tell(second, "fork");
        assert_eq!(line(&mut of_second), "forked");
        assert_eq!(actor.ledger().entries(), 0);
    });
}

#[test]
fn a_limit_set_meanwhile_is_its_owners() {
    rig::with_actor(|mut rig, mut actor| {
        let _waiter = rig.waiter();
        let group = rig.group;
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        fs::write(pids(&rig).join("pids.max"), "50").unwrap();
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::Sustain));
        assert_eq!(limit(&rig), "1", "kept up");
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::End));
        assert_eq!(limit(&rig), "50");
        order(&mut actor, &rig, 2, group, deny_kernel(Phase::Begin));
        fs::write(pids(&rig).join("pids.max"), "60").unwrap();
        order(&mut actor, &rig, 2, group, deny_kernel(Phase::End));
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("60", 0));
    });
}

#[test]
fn a_crash_is_undone() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let mut actor = rig.actor();
        let _waiter = rig.waiter();
        let (before, group) = (rig.state(), rig.group);
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        assert_ne!(rig.state(), before);
        // The ledger's lock goes with the process; here it has to be read by hand.
        let leftovers = Ledger::peek(&rig.ledger_path()).unwrap();
        let undone = memgov::act::ledger::put_back(leftovers.into_iter().map(|l| l.entry).collect());
        assert_eq!(undone.iter().map(|u| u.verdict).collect::<Vec<_>>(), [Verdict::Undone]);
        assert!(undone[0].to_string().contains("pids.max lowered to 1 from unlimited"), "{}", undone[0]);
        assert_eq!(rig.state(), before);
        drop(actor);
        assert_eq!(rig.state(), before);
    });
}

#[test]
fn a_group_that_shares_its_pids_group_is_left_to_the_next_step() {
    rig::with_actor(|mut rig, mut actor| {
        if rig.layout.pids == Some(rig.layout.memory.mount.clone()) {
            return; // One tree: nobody can be in one and not in the other.
        }
        let _waiter = rig.waiter();
        let mut outside = Rig::new();
        let stranger = outside.waiter();
        let before = rig.state();
        fs::write(pids(&rig).join("cgroup.procs"), rig::pid(stranger).to_string()).unwrap();
        let group = rig.group;
        let outcome = order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        let errno = libc::EXDEV;
        assert_eq!(outcome, Outcome::Refused { at: Operation::PidsMax, errno });
        assert_eq!(rig.state(), before);
        fs::write(pids(&outside).join("cgroup.procs"), rig::pid(stranger).to_string()).unwrap();
    });
}

#[test]
fn who_may_not_be_touched_is_not_refused_a_fork_either() {
    rig::with_actor_of(&|| rig::sparing("sleep"), |mut rig, mut actor| {
        let _sleeper = rig.sleeper();
        let group = rig.group;
        let outcome = order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        assert_eq!(outcome, Outcome::Refused { at: Operation::PidsMax, errno: libc::EPERM });
        assert_eq!(limit(&rig), "max");
    });
}

/// Room under a line for so many processes more.
const LINE: Bytes = Bytes::mib(16);

fn room(rig: &mut Rig, processes: u64) {
    let Target::Group(_, slot) = rig.group else { unreachable!("a group") };
    rig.snap.groups.get_mut(slot.0).unwrap().kernel = Some(Bytes(LINE.0 - processes * Headroom::PROCESS.0));
}

/// A reading of the group, with a rule that refuses over [`LINE`].
fn stand(actor: &mut Actor, rig: &mut Rig, line: Option<Bytes>) -> Stood {
    let Target::Group(_, slot) = rig.group else { unreachable!("a group") };
    rig.snap.at = sys::now();
    actor.stand(slot, &rig.snap, rig, line)
}

#[test]
fn under_its_line_it_may_have_what_there_is_room_for() {
    rig::with_actor(|mut rig, mut actor| {
        let _waiter = rig.waiter();
        room(&mut rig, 100);
        assert_eq!(stand(&mut actor, &mut rig, None), Stood::Same);
        assert_eq!(limit(&rig), "max");
        assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Began);
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("101", 1));
        assert!(actor.holds().any(|hold| matches!(hold, HoldView::Bounded(_, 101))));
        room(&mut rig, 98);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), "101", "what changes by little is left");
        room(&mut rig, 50);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), "51");
        room(&mut rig, 200);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), "201");
        room(&mut rig, 0);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), (1 + Headroom::SPARE).to_string(), "a little there is always");
        // The line is crossed: an order.
        let group = rig.group;
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        assert_eq!(limit(&rig), "1");
        assert!(actor.holds().all(|hold| matches!(hold, HoldView::Capped(_))));
        room(&mut rig, 30);
        assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Same);
        assert_eq!(limit(&rig), "1", "an episode holds it");
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::End));
        assert_eq!(limit(&rig), "31", "back to what stands");
        assert_eq!(stand(&mut actor, &mut rig, None), Stood::Ended);
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("max", 0));
    });
}

#[test]
fn who_meets_it_with_room_left_gets_more_at_once() {
    rig::with_actor(|mut rig, mut actor| {
        let (forker, mut out) =
            rig.spawn("echo up; i=0; while read x; do sleep 60 & i=$((i+1)); echo $i; done");
        assert_eq!(line(&mut out), "up");
        room(&mut rig, 20);
        stand(&mut actor, &mut rig, Some(LINE));
        let most = 21;
        assert_eq!(limit(&rig), most.to_string());
        for _ in 1..most {
            rig.tell(forker, "fork");
            line(&mut out);
        }
        // They cost next to nothing: threads, it seems.
        assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Met);
        let room = 20 * Headroom::PROCESS.0 / Headroom::THREAD.0;
        assert_eq!(limit(&rig), (most + room).to_string());
        rig.tell(forker, "fork");
        assert_eq!(line(&mut out), most.to_string());
    });
}

#[test]
fn a_limit_of_the_administrators_is_never_raised() {
    rig::with_actor(|mut rig, mut actor| {
        let _waiter = rig.waiter();
        fs::write(pids(&rig).join("pids.max"), "1").unwrap();
        room(&mut rig, 100);
        assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Began);
        assert_eq!(
            stand(&mut actor, &mut rig, Some(LINE)),
            Stood::Same,
            "it is at his limit, which is not ours"
        );
        assert_eq!((limit(&rig).as_str(), actor.holds().count()), ("1", 0));
        fs::write(pids(&rig).join("pids.max"), "60").unwrap();
        room(&mut rig, 100);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), "60");
        assert_eq!(actor.holds().count(), 0, "nothing is bound by it");
        room(&mut rig, 40);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), "41");
        // Lower by his hand: that is what it had from now on.
        fs::write(pids(&rig).join("pids.max"), "30").unwrap();
        room(&mut rig, 80);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_eq!(limit(&rig), "30");
        actor.release_all();
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("30", 0));
    });
}

#[test]
fn what_stands_is_undone_after_a_crash() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let mut actor = rig.actor();
        let _waiter = rig.waiter();
        let before = rig.state();
        room(&mut rig, 100);
        stand(&mut actor, &mut rig, Some(LINE));
        room(&mut rig, 50);
        stand(&mut actor, &mut rig, Some(LINE));
        assert_ne!(rig.state(), before);
        let entries = || Ledger::peek(&rig.ledger_path()).unwrap().into_iter().map(|l| l.entry).collect();
        let verdicts =
            |entries| memgov::act::ledger::put_back(entries).iter().map(|u| u.verdict).collect::<Vec<_>>();
        // It died before the second was set.
        fs::write(pids(&rig).join("pids.max"), "101").unwrap();
        assert_eq!(verdicts(entries()), [Verdict::Undone]);
        assert_eq!(rig.state(), before);
        fs::write(pids(&rig).join("pids.max"), "51").unwrap();
        assert_eq!(verdicts(entries()), [Verdict::Undone]);
        assert_eq!(rig.state(), before);
    });
}

/// No limit can be written.
fn seal(rig: &rig::Rig) -> Sealed {
    Sealed::new(&pids(rig).join("pids.max"))
}

/// A limit that has stood, with room for 100 tasks, and cannot be given back until this is dropped.
fn owing(actor: &mut Actor, rig: &mut rig::Rig) -> Sealed {
    room(rig, 100);
    stand(actor, rig, Some(LINE));
    let sealed = seal(rig);
    assert_eq!(stand(actor, rig, None), Stood::Ended);
    sealed
}

#[test]
fn what_could_not_be_given_back_is_tried_again() {
    rig::with_actor(|mut rig, mut actor| {
        let _waiter = rig.waiter();
        let group = rig.group;
        let sealed = owing(&mut actor, &mut rig);
        let owed = |actor: &Actor, most| {
            actor.holds().any(|hold| hold == HoldView::Bounded(rig::group_id(group), most))
        };
        rig::run(&mut actor, Duration::from_millis(1200));
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("101", 1));
        assert!(owed(&actor, 101), "status does not tell of it");
        let next = actor.deadline().expect("it is to be tried again").since(sys::now());
        assert!(
            // After as long as before it would be 0.8 s.
            next > Duration::from_secs(1) && next < Duration::from_secs(2),
            "and less often: {next:?}"
        );
        drop(sealed);
        rig::run(&mut actor, Duration::from_secs(2));
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries(), actor.holds().count()), ("max", 0, 0));
        assert_eq!(actor.deadline(), None);
        // Of an episode.
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        let sealed = seal(&rig);
        let outcome = order(&mut actor, &rig, 1, group, deny_kernel(Phase::End));
        assert_eq!(outcome, Outcome::Refused { at: Operation::PidsMax, errno: libc::EROFS });
        assert!(owed(&actor, 1), "status does not tell of it");
        drop(sealed);
        rig::run(&mut actor, Duration::from_millis(1200));
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries(), actor.holds().count()), ("max", 0, 0));
    });
}

#[test]
fn what_is_still_owed_is_not_taken_for_the_administrators() {
    rig::with_actor(|mut rig, mut actor| {
        let _waiter = rig.waiter();
        let group = rig.group;
        let sealed = owing(&mut actor, &mut rig);
        drop(sealed);
        room(&mut rig, 200);
        assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Began);
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("201", 1), "as if there were none");
        assert_eq!(stand(&mut actor, &mut rig, None), Stood::Ended);
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("max", 0));
        // The same where an order finds it.
        stand(&mut actor, &mut rig, Some(LINE));
        let sealed = seal(&rig);
        stand(&mut actor, &mut rig, None);
        drop(sealed);
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
        assert_eq!(limit(&rig), "1");
        rig::run(&mut actor, Duration::from_millis(1200));
        assert_eq!(limit(&rig), "1", "it is wanted again");
        order(&mut actor, &rig, 1, group, deny_kernel(Phase::End));
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("max", 0));
        // What is owed is written down as before.
        stand(&mut actor, &mut rig, Some(LINE));
        let sealed = seal(&rig);
        assert_eq!(actor.release_all().failed, 1);
        drop(sealed);
        let leftovers = Ledger::peek(&rig.ledger_path()).unwrap();
        let undone = memgov::act::ledger::put_back(leftovers.into_iter().map(|l| l.entry).collect());
        assert_eq!(undone.iter().map(|u| u.verdict).collect::<Vec<_>>(), [Verdict::Undone]);
        assert_eq!(limit(&rig), "max");
    });
}

#[test]
fn nothing_stands_where_somebody_is_protected() {
    rig::with_actor_of(&|| rig::sparing("sleep"), |mut rig, mut actor| {
        let _sleeper = rig.sleeper();
        room(&mut rig, 100);
        assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Same);
        assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("max", 0));
    });
}

/// A memory group in the rig's, whose process is in the rig's pids group: what an administrator of v1 may do.
struct Inner {
    path: PathBuf,
    dir: GroupDir,
    slot: GroupSlot,
}

impl Inner {
    fn new(rig: &mut Rig) -> Self {
        let waiter = rig.waiter();
        let outer = rig.dirs().into_iter().find(|dir| dir.join("memory.limit_in_bytes").exists()).unwrap();
        let path = outer.join("inner");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.procs"), rig::pid(waiter).to_string()).unwrap();
        let name = format!("/{}/inner", outer.file_name().unwrap().to_str().unwrap());
        let dir = GroupDir::open(&rig.layout, name.as_bytes()).unwrap();
        let slot = GroupSlot(rig.snap.groups.insert(Group::new(dir.id(), name.as_bytes())).unwrap());
        Self { path, dir, slot }
    }

    /// Both in turn, with room for so many processes each.
    fn stand(&self, actor: &mut Actor, rig: &mut Rig, room: [Option<u64>; 2]) -> String {
        struct Both<'a>(&'a Rig, &'a Inner);
        impl GroupDirs for Both<'_> {
            fn dir(&self, slot: GroupSlot) -> Option<&GroupDir> {
                if slot == self.1.slot { Some(&self.1.dir) } else { self.0.dir(slot) }
            }
        }
        rig.snap.at = sys::now();
        for (slot, room) in [GroupSlot(0), self.slot].into_iter().zip(room) {
            let row = rig.snap.groups.get_mut(slot.0).unwrap();
            row.kernel = room.map(|room| Bytes(LINE.0 - room * Headroom::PROCESS.0));
            actor.stand(slot, &rig.snap, &Both(rig, self), room.map(|_| LINE));
        }
        limit(rig)
    }
}

#[test]
fn of_two_groups_in_one_pids_group_the_lower_line_counts_and_all_is_given_back() {
    let mut rig = Rig::new();
    if rig.layout.pids == Some(rig.layout.memory.mount.clone()) {
        return; // One tree: each has its own.
    }
    let mut actor = rig.actor();
    let inner = Inner::new(&mut rig);
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(100), None]), "101");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(100), Some(50)]), "51");
    assert_eq!(actor.ledger().entries(), 1, "one limit");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(80), Some(50)]), "51");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(80), Some(200)]), "81");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(150), Some(200)]), "151", "it goes up again");
    let group = rig.group;
    order(&mut actor, &rig, 1, group, deny_kernel(Phase::Begin));
    assert_eq!(limit(&rig), "1");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(150), Some(30)]), "1", "an episode holds the other");
    order(&mut actor, &rig, 1, group, deny_kernel(Phase::End));
    assert_eq!(limit(&rig), "31", "back to the lower of what stands");
    assert_eq!(inner.stand(&mut actor, &mut rig, [None, Some(30)]), "31");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(100), None]), "101");
    // What is there when it dies is undone by what is written down.
    let leftovers = Ledger::peek(&rig.ledger_path()).unwrap();
    let undone = memgov::act::ledger::put_back(leftovers.into_iter().map(|l| l.entry).collect());
    assert_eq!(undone.iter().map(|u| u.verdict).collect::<Vec<_>>(), [Verdict::Undone]);
    assert_eq!(limit(&rig), "max");
    assert_eq!(inner.stand(&mut actor, &mut rig, [Some(50), Some(100)]), "51");
    actor.release_all();
    assert_eq!((limit(&rig).as_str(), actor.ledger().entries()), ("max", 0));
    fs::read_to_string(inner.path.join("cgroup.procs")).unwrap().lines().for_each(|pid| {
        fs::write(inner.path.parent().unwrap().join("cgroup.procs"), pid).unwrap();
    });
    fs::remove_dir(&inner.path).unwrap();
}

#[test]
fn a_group_of_the_same_path_comes_before_the_one_its_first_process_is_in() {
    let mut rig = Rig::new();
    if rig.layout.pids == Some(rig.layout.memory.mount.clone()) {
        return;
    }
    let mut actor = rig.actor();
    let [first, _second] = [rig.waiter(), rig.waiter()];
    let below = pids(&rig).join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.procs"), rig::pid(first).to_string()).unwrap();
    room(&mut rig, 100);
    assert_eq!(stand(&mut actor, &mut rig, Some(LINE)), Stood::Began);
    let of_below = fs::read_to_string(below.join("pids.max")).unwrap();
    assert_eq!((limit(&rig).as_str(), of_below.trim()), ("102", "max"));
    actor.release_all();
    fs::write(pids(&rig).join("cgroup.procs"), rig::pid(first).to_string()).unwrap();
    fs::remove_dir(&below).unwrap();
}
