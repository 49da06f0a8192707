//! The properties that `decide::balance` promises, and the governor that keeps to them: two groups of one rule, on the simulated memory.

use std::time::Duration;

use crate::memory::reuse::{Memory, PIECE, STEP};
use crate::world::*;
use memgov_decide::balance::*;
use memgov_decide::decision::{Order, Phase, Target};
use memgov_decide::policy::*;
use memgov_decide::snapshot::GroupSlot;
use memgov_decide::units::{Bytes, Limit};
use memgov_decide::working_set::Tolerance;
use proptest::prelude::*;

fn standing() -> impl Strategy<Value = Standing> {
    let sizes = (0u64..100, 0u64..100, 0u64..100, prop::option::of(0u64..120));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), -2i32..3);
    (sizes, flags).prop_map(|((usage, floor, reservation, limit), (starved, calm, spent, priority))| {
        Standing {
            worth: Worth { priority, reservation: Bytes::mib(reservation) },
            usage: Bytes::mib(usage),
            floor: Bytes::mib(floor),
            limit: limit.map(Bytes::mib),
            starved,
            calm,
            spent,
        }
    })
}

fn tally(all: &[Standing]) -> Tally {
    let mut tally = Tally::default();
    all.iter().for_each(|one| tally.count(one));
    tally
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starved_nobody_gives(mut all in prop::collection::vec(standing(), 1..8), ask in 0u64..100) {
        all.iter_mut().for_each(|one| one.starved = false);
        let tally = tally(&all);
        prop_assert!(all.iter().all(|one| tally.portion(one, Bytes::mib(ask)) == Bytes(0)));
    }

    #[test]
    fn never_from_within_a_reservation(all in prop::collection::vec(standing(), 1..8), ask in 0u64..100) {
        let tally = tally(&all);
        for one in &all {
            let left = one.usage - tally.portion(one, Bytes::mib(ask));
            prop_assert!(left >= one.worth.reservation.min(one.usage) && left >= one.floor.min(one.usage));
        }
    }

    #[test]
    fn lowest_priority_first(all in prop::collection::vec(standing(), 1..8), ask in 1u64..100) {
        let tally = tally(&all);
        let gives = |one: &Standing| tally.portion(one, Bytes::mib(ask));
        for one in all.iter().filter(|one| gives(one) > Bytes(0)) {
            for other in all.iter().filter(|other| other.calm && !other.starved && !other.spent) {
                let spare = |of: &Standing| of.usage - of.floor.max(of.worth.reservation);
                if spare(other) > Bytes(0) {
                    prop_assert!(other.worth.priority >= one.worth.priority, "{other:?} is spared");
                }
                if other.worth.priority == one.worth.priority && spare(other) >= spare(one) {
                    prop_assert!(gives(other) >= gives(one));
                }
            }
        }
    }

    #[test]
    fn who_feels_it_stops(all in prop::collection::vec(standing(), 1..8), ask in 0u64..100) {
        let tally = tally(&all);
        for one in all.iter().filter(|one| !one.calm || one.spent || one.starved) {
            prop_assert_eq!(tally.portion(one, Bytes::mib(ask)), Bytes(0));
        }
    }

    #[test]
    fn who_could_not_take_it_does_not_count(mut all in prop::collection::vec(standing(), 1..8)) {
        for one in &mut all {
            one.limit = one.starved.then_some(one.usage);
        }
        let tally = tally(&all);
        prop_assert!(all.iter().all(|one| !tally.is_asked(one)));
    }
}

const FLOOR: u64 = 16;

fn balancing() -> Policy {
    let tolerance = Some(Tolerance::default());
    let reclaim = Action::Reclaim(Reclaim { tolerance, for_starved: true, ..Reclaim::default() });
    let mut rule = usage_rule("balance", "/x/*", FLOOR, &[(reclaim, 0)]);
    rule.until = Some(Bytes::mib(FLOOR));
    Policy { rules: vec![rule], ..Policy::default() }
}

/// Two groups under one limit, at which the kernel takes from both alike.
struct Host {
    world: World,
    groups: Vec<(GroupSlot, Memory)>,
    limit: u64,
}

impl Host {
    fn new(memories: Vec<Memory>, limit: u64) -> Self {
        Self::of_jobs(memories, limit, Vec::new())
    }

    fn of_jobs(memories: Vec<Memory>, limit: u64, groups: Vec<GroupPolicy>) -> Self {
        let mut world = World::new(Policy { groups, ..balancing() });
        let group = |(at, memory)| (world.group(&format!("/x/{at}"), None), memory);
        let groups = memories.into_iter().enumerate().map(group).collect();
        Self { world, groups, limit: limit * PIECE }
    }

    fn usage(&self, at: usize) -> u64 {
        self.groups[at].1.usage().0 >> 20
    }

    /// Lets so many seconds pass; the refaults of each, in pages.
    fn run(&mut self, seconds: usize, governed: bool) -> Vec<u64> {
        let refaults = |groups: &[(GroupSlot, Memory)]| -> Vec<u64> {
            groups.iter().map(|(_, memory)| memory.strain.refaults.unwrap()).collect()
        };
        let before = refaults(&self.groups);
        for _ in 0..seconds {
            for _ in 0..1000 / STEP.as_millis() {
                for (_, memory) in &mut self.groups {
                    memory.step();
                }
                self.shared_limit();
            }
            for (slot, memory) in &self.groups {
                let at = self.world.snap.at + Duration::from_secs(1);
                let row = self.world.row(*slot);
                (row.usage, row.strain, row.strain_at) = (Some(memory.usage()), memory.strain, at);
            }
            for decision in self.world.tick(1000) {
                let (Target::Group(_, at), Order::Reclaim { phase, extent, .. }) =
                    (decision.target, decision.order)
                else {
                    continue;
                };
                if let Some((_, memory)) = self.groups.iter_mut().find(|(slot, _)| *slot == at)
                    && governed
                    && phase != Phase::End
                {
                    memory.reclaim(Bytes(extent.bytes().0 / PIECE * PIECE));
                }
            }
        }
        refaults(&self.groups).iter().zip(before).map(|(now, then)| now - then).collect()
    }

    fn shared_limit(&mut self) {
        let all: u64 = self.groups.iter().map(|(_, memory)| memory.usage().0).sum();
        let over = all.saturating_sub(self.limit) / PIECE;
        for at in 0..over {
            let largest = self.groups.iter_mut().max_by_key(|(_, memory)| memory.usage().0);
            // The kernel goes by size and does not see who is idle: every other piece is the smaller one's.
            let smallest_too = at % 2 == 1;
            let (_, memory) = largest.unwrap();
            if smallest_too { self.groups[1].1.reclaim(Bytes(PIECE)) } else { memory.reclaim(Bytes(PIECE)) }
        }
    }
}

/// One that is idle, and one that goes over 200 MiB again and again.
fn idle_and_busy() -> Vec<Memory> {
    vec![Memory::new(&[36_000_000; 300], 0), Memory::new(&[2_000; 200], 0)]
}

#[test]
fn memory_goes_from_the_idle_to_the_starved() {
    let run = |governed| {
        let mut host = Host::new(idle_and_busy(), 350);
        host.groups[1].1.reclaim(Bytes(150 * PIECE));
        host.run(120, governed);
        let after = host.run(60, governed);
        (host, after)
    };
    let (_, alone) = run(false);
    let (host, after) = run(true);
    assert!(host.usage(1) >= 195, "the busy one has {} of 200 MiB", host.usage(1));
    assert!(host.usage(0) <= 160 && host.usage(0) >= FLOOR, "the idle one has {} MiB", host.usage(0));
    assert!(after[1] * 20 <= alone[1], "refaults {after:?}, without memgov {alone:?}");
}

/// Once it has what it was short of, nobody gives it any more, although it still has to pay back what it lost before.
#[test]
fn who_has_been_helped_is_given_no_more() {
    let mut host = Host::new(idle_and_busy(), 600);
    for _ in 0..30 {
        host.groups[1].1.reclaim(Bytes(50 * PIECE));
        host.run(1, true);
    }
    let given = 300 - host.usage(0);
    assert!(given > 20, "it gave {given} MiB while the other was starved");
    // What was taken is back within its two seconds; one ask may be on its way.
    host.run(4, true);
    let helped = host.usage(0);
    let lost = host.run(60, true);
    assert_eq!((host.usage(0), lost[1]), (helped, 0), "given to one that is not starved any more");
}

#[test]
fn without_anybody_starved_all_is_left_alone() {
    let mut host = Host::new(idle_and_busy(), 600);
    host.run(120, true);
    assert_eq!((host.usage(0), host.usage(1)), (300, 200));
}

#[test]
fn a_giver_that_refaults_is_left_alone() {
    // Both want all that they have, and there is not enough.
    let mut host = Host::new(vec![Memory::new(&[2_000; 200], 0), Memory::new(&[2_000; 200], 0)], 350);
    host.run(30, true);
    let first = host.usage(0);
    host.run(120, true);
    assert!(host.usage(0).abs_diff(first) <= 30, "{} MiB, first {first}", host.usage(0));
}

/// One is robbed again and again, so that it is starved whatever the other gives; there is no limit, so nobody but memgov takes from the other.
fn given_to_a_starved_one(reserved: Option<Limit>) -> u64 {
    let mut host = Host::new(idle_and_busy(), 600);
    let slot = host.groups[0].0;
    host.world.row(slot).reserved = reserved;
    for _ in 0..120 {
        host.groups[1].1.reclaim(Bytes(50 * PIECE));
        host.run(1, true);
    }
    300 - host.usage(0)
}

#[test]
fn a_reservation_is_left_alone() {
    let all = given_to_a_starved_one(None);
    assert!(all > 200, "without a reservation it gives {all} MiB");
    let some = given_to_a_starved_one(Some(Limit::At(Bytes::mib(280))));
    assert!((15..=20).contains(&some), "of 300 MiB, 280 reserved, it gives {some} MiB");
    assert_eq!(given_to_a_starved_one(Some(Limit::Max)), 0);
}

fn job(path: &str, priority: Option<i32>, reservation: Option<u64>) -> GroupPolicy {
    GroupPolicy {
        groups: vec![Pattern::new(path)],
        priority,
        reservation: reservation.map(Bytes::mib),
        ..GroupPolicy::default()
    }
}

/// Beside the two another idle one; what it and the first have given after so long.
fn given_by_two(seconds: usize, jobs: Vec<GroupPolicy>) -> [u64; 2] {
    let mut memories = idle_and_busy();
    memories.push(Memory::new(&[36_000_000; 300], 0));
    let mut host = Host::of_jobs(memories, 900, jobs);
    for _ in 0..seconds {
        host.groups[1].1.reclaim(Bytes(50 * PIECE));
        host.run(1, true);
    }
    [300 - host.usage(0), 300 - host.usage(2)]
}

#[test]
fn the_lower_priority_gives_before_the_higher() {
    let [first, second] = given_by_two(20, Vec::new());
    assert!(first > 20 && first == second, "of equals {first} and {second} MiB");
    let [low, high] = given_by_two(20, vec![job("/x/0", Some(-1), None)]);
    assert!(low > 20 && high == 0, "the lower gives {low} MiB, the higher {high}");
    let [high, low] = given_by_two(20, vec![job("/x/0", Some(1), None)]);
    assert!(low > 20 && high == 0, "the lower gives {low} MiB, the higher {high}");
}

#[test]
fn what_is_reserved_for_a_job_is_left_to_it() {
    let [some, all] = given_by_two(240, vec![job("/x/0", None, Some(280))]);
    // In proportion to what is beyond it, a fifteenth of the other's.
    assert!((1..=20).contains(&some) && all > 200, "of 300 MiB, 280 reserved, {some} MiB; without, {all}");
}

#[test]
fn a_users_word_moves_no_memory() {
    let users = |word: GroupPolicy| GroupPolicy { set_by: Some(1000), ..word };
    let silent = given_by_two(20, Vec::new());
    assert_eq!(given_by_two(20, vec![users(job("/x/0", Some(1), Some(280)))]), silent);
    assert_ne!(given_by_two(20, vec![job("/x/0", Some(1), Some(280))]), silent, "the configuration's does");
}
