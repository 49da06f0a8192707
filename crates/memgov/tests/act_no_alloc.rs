//! The acting path allocates nothing: when memory is short, memgov must not be the one to ask for some. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod counting;
mod rig;

use std::time::Duration;

use counting::allocations;
use memgov_decide::decision::{Candidate, Order, Outcome, Phase, Take, Target};
use memgov_decide::units::Bytes;
use rig::{Rig, Sealed, decision, deny, deny_kernel, pid, slow};

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
}

#[test]
fn no_order_and_no_tick_allocates() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let never = memgov_decide::policy::Pattern::new("nobody-*");
        let never = memgov_decide::policy::ProcessMatch {
            exe: vec![never.clone()],
            comm: vec![never.clone()],
            groups: vec![never],
            uid: Vec::new(),
        };
        let (one, two) = (rig.spinner(), rig.spinner());
        // Without freezers the last resort is what is tested; both ways.
        for freezers in [true, false] {
            if !freezers {
                (rig.layout.freezer, rig.layout.unified) = (None, None);
            }
            let exe = memgov_decide::policy::ProcessMatch { comm: Vec::new(), ..never.clone() };
            let options = memgov::act::Options { never: vec![never.clone(), exe], ..Default::default() };
            let mut actor = rig.actor_with(options);
            let group = rig.group;
            let orders = [
                (1, one, deny(Phase::Begin)),
                (2, group, deny(Phase::Begin)),
                (3, one, slow(Phase::Begin, 10)),
                (4, group, slow(Phase::Begin, 300)),
                (2, group, deny(Phase::Sustain)),
                (4, group, slow(Phase::Sustain, 200)),
                (8, group, deny_kernel(Phase::Begin)),
                (8, group, deny_kernel(Phase::Sustain)),
                (9, group, Order::Freeze { phase: Phase::Begin }),
                (9, group, Order::Freeze { phase: Phase::Sustain }),
                (9, group, Order::Freeze { phase: Phase::End }),
                (8, group, deny_kernel(Phase::End)),
                (5, two, Order::Signal { signal: 18 }),
                (6, group, Order::Signal { signal: 18 }),
                (3, one, slow(Phase::End, 0)),
                (4, group, slow(Phase::Sustain, 200)),
                (1, one, deny(Phase::End)),
                (2, group, deny(Phase::End)),
                (4, group, slow(Phase::End, 0)),
            ];
            for (episode, target, what) in orders {
                let decision = decision(episode, target, what);
                let mut outcome = Outcome::Nothing;
                let count = allocations(|| outcome = actor.perform(&decision, &rig.snap, &rig));
                assert_eq!(count, 0, "{what:?}");
                // What stands still, or is refused by the count of processes, needs nothing to be kept up.
                let stands = outcome == Outcome::Nothing
                    && matches!(
                        what,
                        Order::Deny { phase: Phase::Sustain, .. } | Order::Freeze { phase: Phase::Sustain }
                    );
                assert!(stands || matches!(outcome, Outcome::Done { .. }), "{what:?}: {outcome:?}");
                let ticks = allocations(|| {
                    for _ in 0..30 {
                        actor.tick(memgov::kernel::sys::now(), &mut |_| {});
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    actor.process_forked(pid(two), pid(one));
                    std::hint::black_box(actor.deadline());
                });
                assert_eq!(ticks, 0, "ticks after {what:?}");
            }
            rig::run(&mut actor, Duration::from_millis(100));
            assert_eq!(actor.ledger().entries(), 0);
        }
        standing(&mut rig);
        lending(&rig);
        kills(&mut rig, one);
    });
}

fn standing(rig: &mut Rig) {
    let mut actor = rig.actor();
    let Target::Group(_, slot) = rig.group else { unreachable!("a group") };
    let line = Bytes::mib(16);
    for (kernel, asked) in [(1, true), (9, true), (17, true), (3, true), (3, false)] {
        let row = rig.snap.groups.get_mut(slot.0).expect("its row");
        row.kernel = Some(Bytes::mib(kernel));
        let line = asked.then_some(line);
        let count = allocations(|| {
            std::hint::black_box(actor.stand(slot, &rig.snap, rig, line));
        });
        assert_eq!(count, 0, "{kernel} {line:?}");
        assert_eq!(actor.ledger().entries(), u32::from(asked));
    }
    // Giving back what could not be, in vain and in the end.
    let pids_max = rig.dirs().into_iter().map(|dir| dir.join("pids.max")).find(|file| file.exists());
    let pids_max = pids_max.expect("a group with pids.max");
    actor.stand(slot, &rig.snap, rig, Some(line));
    let mut sealed = Some(Sealed::new(&pids_max));
    actor.stand(slot, &rig.snap, rig, None);
    for left in [1, 0] {
        if left == 0 {
            sealed.take();
        }
        let due = actor.deadline().expect("it is to be tried again");
        let count = allocations(|| actor.tick(due, &mut |_| {}));
        assert_eq!((count, actor.ledger().entries()), (0, left));
    }
}

fn lending(rig: &Rig) {
    let mut actor = rig.actor();
    let limits = ["memory.limit_in_bytes", "memory.max"];
    let mut files = rig.dirs().into_iter().flat_map(|dir| limits.map(|name| dir.join(name)));
    // A unified tree without the memory controller has nothing to lend: there the other layout shows it.
    let Some(limit) = files.find(|file| file.exists()) else { return };
    std::fs::write(&limit, "268435456").expect("setting its limit");
    let read =
        || std::fs::read_to_string(&limit).expect("its limit").trim().parse::<u64>().expect("a number");
    for (phase, expected) in [(Phase::Begin, 320 << 20), (Phase::End, 256 << 20), (Phase::Begin, 320 << 20)] {
        let decision = decision(12, rig.group, Order::Lend { phase, amount: Bytes::mib(64) });
        let mut outcome = Outcome::Nothing;
        let count = allocations(|| outcome = actor.perform(&decision, &rig.snap, rig));
        assert_eq!(count, 0, "{phase:?}");
        assert!(matches!(outcome, Outcome::Done { .. }), "{phase:?}: {outcome:?}");
        assert_eq!(read(), expected);
        let ticks = allocations(|| actor.tick(memgov::kernel::sys::now(), &mut |_| {}));
        assert_eq!(ticks, 0, "ticks after {phase:?}");
        assert_eq!(actor.ledger().entries(), 1);
    }
    // Another rule's, while it is out.
    let other = decision(13, rig.group, Order::Lend { phase: Phase::Begin, amount: Bytes::mib(64) });
    assert!(matches!(actor.perform(&other, &rig.snap, rig), Outcome::Refused { .. }));
    actor.release_all();
    assert_eq!((read(), actor.ledger().entries()), (256 << 20, 0));
}

fn kills(rig: &mut Rig, one: Target) {
    let mut actor = rig.actor();
    let Target::Process(process, slot) = one else { unreachable!("a process") };
    let mut kill = decision(7, rig.group, Order::Kill { take: Take::One });
    kill.ranking.offer(Candidate { process, slot, rss: Bytes(1) });
    let whole = decision(8, rig.group, Order::Kill { take: Take::Whole });
    let mut seen = Box::<memgov::act::situation::Situation>::default();
    for decision in [kill, whole] {
        let looking = allocations(|| actor.look_before_kill(&decision, &rig.snap, rig, &mut seen));
        assert_eq!(looking, 0, "looking before the kill");
        let largest = seen.largest[0].expect("processes were seen");
        assert!(largest.resident > 0 && largest.rss.anon.is_some(), "{largest:?}");
        assert!(seen.target.path.is_some() && !seen.vmstat.as_bytes().is_empty());
        let mut dead = 0;
        let count = allocations(|| {
            let outcome = actor.perform(&decision, &rig.snap, rig);
            dead += u32::from(matches!(outcome, Outcome::Dead { .. }));
            // A busy machine takes its time over a death.
            for _ in 0..5000 {
                if dead == 1 {
                    break;
                }
                let report = &mut |report: memgov_decide::decision::Report| {
                    dead += u32::from(matches!(report.outcome, Outcome::Dead { .. }));
                };
                actor.tick(memgov::kernel::sys::now(), report);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        assert_eq!((count, dead), (0, 1));
    }
}
