//! `nothing_is_allocated`: after start, no tick, report, control or look takes memory from the heap, however many there are.
#![allow(clippy::unwrap_used, reason = "a test that is set up wrongly is to fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[path = "behaviour/world/mod.rs"]
mod world;

use memgov_decide::decision::*;
use memgov_decide::governor::Bounds;
use memgov_decide::policy::*;
use memgov_decide::snapshot::*;
use memgov_decide::units::{Bytes, Time};
use world::*;

/// Counts what the current thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system allocator unchanged; counting touches only a constant-initialised
// thread-local without a destructor, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` allocates.
fn allocated<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = ASKED.get();
    let done = work();
    (ASKED.get() - before, done)
}

/// xorshift: the same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn the_counter_counts() {
    let (asked, list) = allocated(|| vec![1, 2, 3]);
    assert_eq!((asked, list.len()), (1, 3));
}

#[test]
fn nothing_is_allocated() {
    const GROUPS: u32 = 40;
    const PROCESSES: u32 = 200;
    let bounds = Bounds { groups: GROUPS, processes: PROCESSES, controls: 50, episodes: 60 };
    let steps = [(Action::Record, 0), (Action::Deny, 10), (slow(500), 10), (KILL_LARGEST, 50), (KILL, 100)];
    let mut rules = vec![usage_rule("usage", "/x/**", 500, &steps), anon_rule("anon", "hog", 300, &steps)];
    rules.push(Rule {
        when: Condition { group: Some(Over::High { plus: mib(8) }), rss: None },
        ..anon_rule("b", "h*", 0, &steps)
    });
    rules.push(host_rule("host", 300, &[(Action::Record, 0), (KILL_JOB, 10)]));
    let mut policy = policy(rules);
    policy.groups = vec![job("/x/*", 10, 200), job("/x/**", 5, 0)];
    policy.never = vec![ProcessMatch { comm: vec![Pattern::new("sshd")], ..ProcessMatch::default() }];
    policy.kills.count = 1000;
    let mut world = World::bounded(policy, bounds, 50);
    world.snap.host.memory = Some(mib(4000));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut groups, mut processes) = (Vec::with_capacity(20), Vec::with_capacity(20));
    let (mut decided, mut jobs) = (0, 0);
    for tick in 0..6000u64 {
        disturb(&mut world, &mut dice, tick);
        world.snap.at = Time(world.snap.at.0 + 1_000_000 * (1 + dice.below(300)));
        let World { snap, governor, out, .. } = &mut world;
        let (asked, ()) = allocated(|| governor.step(snap, out));
        assert_eq!(asked, 0, "step in tick {tick}");
        decided += out.len();
        let now = snap.at;
        for decision in out.iter() {
            jobs += usize::from(!decision.ranking.jobs().is_empty());
            let outcome = match dice.below(6) {
                0 => REFUSED,
                1 => dead(Bytes(dice.below(1 << 30))),
                2 => Outcome::DryRun,
                3 => Outcome::LedgerFull,
                _ => DONE,
            };
            let (asked, ()) = allocated(|| governor.report(&Report { decision: decision.id, outcome }));
            assert_eq!(asked, 0, "report in tick {tick}");
        }
        snap.begin(now);
        let (asked, _) = allocated(|| governor.due(snap, now, &mut groups, &mut processes));
        assert_eq!(asked, 0, "due in tick {tick}");
        let who = |dice: &mut Dice| {
            snap.process(ProcessSlot(u32::try_from(dice.below(u64::from(PROCESSES))).unwrap_or(0)))
                .map(|row| row.id)
        };
        if let (Some(a), Some(b)) = (who(&mut dice), who(&mut dice)) {
            let word = [1, 2, 3 | 10 << 8, 4, 1 | 0x100 << 16][usize::try_from(dice.below(5)).unwrap()];
            let set = control(word, dice.below(9), 100);
            let (asked, ()) = allocated(|| {
                let _ = governor.set_control(a, set);
                let _ = governor.inherit(a, b);
                governor.forget(b);
                governor.pace_hint_event(GroupSlot(0), now);
                let seen = governor.controls().count() + governor.episodes().count();
                assert!(seen <= 110);
            });
            assert_eq!(asked, 0, "controls in tick {tick}");
        }
    }
    assert!(jobs > 50, "{jobs} jobs gave way");
    assert!(decided > 10_000, "{decided} decisions: something was going on");
    assert_eq!((world.governor.lost().groups, world.governor.lost().processes), (0, 0));
}

/// Changes usage and memory, lets rows go and others come.
fn disturb(world: &mut World, dice: &mut Dice, tick: u64) {
    if dice.below(2) == 0 {
        let short = dice.below(100) > 0;
        world.available(if short { dice.below(250) } else { 600 });
    }
    for _ in 0..dice.below(6) {
        let slot = GroupSlot(u32::try_from(dice.below(40)).unwrap());
        if world.snap.group(slot).is_none() {
            continue;
        }
        let usage = (dice.below(9) > 0).then(|| mib(dice.below(1000)));
        world.usage(slot, usage);
        world.row(slot).gone = dice.below(30) == 0;
        world.row(slot).oom_group = Some(dice.below(8) == 0);
    }
    if world.snap.groups.len() < 40 {
        let path = if dice.below(3) == 0 {
            format!("/x/g{tick}")
        } else {
            format!("/x/g{}/s{tick}", tick / 50 * 50)
        };
        world.group(&path, Some(100 + dice.below(400)));
    }
    for _ in 0..dice.below(20) {
        let slot = ProcessSlot(u32::try_from(dice.below(200)).unwrap());
        if world.snap.process(slot).is_none() {
            continue;
        }
        let anon = (dice.below(9) > 0).then(|| mib(dice.below(600)));
        world.anon(slot, anon);
        world.process_row(slot).gone = dice.below(20) == 0;
    }
    for _ in 0..3 {
        if world.snap.processes.len() < 200 {
            let group = GroupSlot(u32::try_from(dice.below(40)).unwrap());
            let group = world.snap.group(group).is_some().then_some(group);
            world.process(u32::try_from(tick + 100).unwrap(), group);
        }
    }
}
