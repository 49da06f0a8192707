//! The properties that `decide::shrink` promises, on the simulated memory.

use std::time::Duration;

use crate::memory::Memory;
use memgov_decide::shrink::*;
use memgov_decide::units::{Bytes, Time};
use proptest::prelude::*;

const PAGE: Bytes = Bytes(4096);
const BATCH: Bytes = Bytes(32 * 4096);

/// What one run did.
#[derive(Debug)]
struct Run {
    end: End,
    asks: Vec<(Bytes, Bytes)>,
    /// The longest time without a new low of usage by at least a batch.
    longest_rest: Duration,
    lowest: Bytes,
}

fn run(memory: &mut Memory, target: Bytes) -> Run {
    let mut shrink = Shrink::new(target, PAGE, memory.usage(), memory.now);
    let (mut low, mut low_at) = (memory.usage(), memory.now);
    let mut run = Run { end: End::Hard, asks: Vec::new(), longest_rest: Duration::ZERO, lowest: low };
    for _ in 0..2_000_000 {
        let (usage, now) = (memory.usage(), memory.now);
        run.lowest = run.lowest.min(usage);
        run.longest_rest = run.longest_rest.max(now.since(low_at));
        if usage + BATCH <= low {
            (low, low_at) = (usage, now);
        }
        match shrink.next(usage, now) {
            Next::Ask(amount) => {
                run.asks.push((amount, usage.saturating_sub(target)));
                shrink.answered(memory.ask(amount));
            }
            Next::Wait(time) => memory.pass(time),
            Next::End(end) => {
                run.end = end;
                return run;
            }
        }
    }
    panic!("it does not end: {memory:?}");
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![0..64u64 << 20, 0..4u64 << 30]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn not_under_the_target(
        cold in sizes(), fixed in 0u64..64 << 20, target in sizes(), greed in 1u64..=4, speed in 1u64 << 26..1 << 34,
    ) {
        let target = Bytes(target.max(fixed));
        let mut memory = Memory { cold, fixed, greed, speed, ..Memory::default() };
        let before = memory.usage();
        let run = run(&mut memory, target);
        let reached = if before <= target { End::Already } else { End::Reached };
        prop_assert_eq!(run.end, reached, "{:?}", memory);
        prop_assert!(memory.usage() <= target + BATCH);
        let least = target.saturating_sub(Bytes((target.0 / 10).max(8 * BATCH.0)));
        prop_assert!(run.lowest >= least.min(before), "{} under {target}", target - run.lowest);
    }

    #[test]
    fn never_asks_beyond_the_distance(
        cold in sizes(), hot in sizes(), target in sizes(), greed in 1u64..=8, growth in 0u64..1 << 30,
    ) {
        let mut memory = Memory { cold, hot, greed, growth, ..Memory::default() };
        for (asked, distance) in run(&mut memory, Bytes(target)).asks {
            prop_assert!(asked >= BATCH && asked <= distance.max(BATCH) && asked <= MOST, "{asked} of {distance}");
        }
    }

    #[test]
    fn always_ends(
        cold in sizes(), hot in sizes(), fixed in sizes(), target in sizes(), greed in 0u64..=8, speed in 1u64 << 20..1 << 34,
        growth in 0u64..1 << 32,
    ) {
        let mut memory = Memory { cold, hot, fixed, greed, speed, growth, ..Memory::default() };
        let run = run(&mut memory, Bytes(target));
        prop_assert!(run.longest_rest <= Duration::from_secs(5), "{:?} {:?}", run.end, run.longest_rest);
        if run.end == End::Hard {
            prop_assert!(memory.usage() > Bytes(target));
        }
    }

    #[test]
    fn hard_only_when_nothing_is_left(
        cold in sizes(), fixed in 1u64 << 24..4 << 30, under in 1u64 << 20..1 << 24, speed in 1u64 << 26..1 << 34,
    ) {
        let mut memory = Memory { cold, fixed, speed, ..Memory::default() };
        let run = run(&mut memory, Bytes(fixed - under));
        prop_assert_eq!(run.end, End::Hard);
        prop_assert_eq!(memory.cold, 0, "given up with memory left to reclaim");
        prop_assert!(run.longest_rest <= Duration::from_secs(5));
    }

    #[test]
    fn already_below_asks_nothing(usage in sizes(), above in sizes()) {
        let mut memory = Memory { cold: usage, ..Memory::default() };
        let run = run(&mut memory, Bytes(usage + above));
        prop_assert_eq!((run.end, run.asks.len(), memory.cold), (End::Already, 0, usage));
    }
}

/// Runs a portion to its end; what was asked for in all.
fn take(memory: &mut Memory, amount: Bytes) -> (End, Vec<Bytes>) {
    let mut portion = Portion::new(amount, PAGE);
    let mut asks = Vec::new();
    for _ in 0..2_000_000 {
        match portion.next(memory.usage()) {
            Next::Ask(amount) => {
                asks.push(amount);
                portion.answered(memory.ask(amount));
                memory.pass(Duration::from_millis(1));
            }
            Next::Wait(time) => memory.pass(time),
            Next::End(end) => return (end, asks),
        }
    }
    panic!("it does not end: {memory:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_portion_is_no_more_than_was_decided(
        cold in sizes(), hot in sizes(), amount in sizes(), growth in 0u64..1 << 32, speed in 1u64 << 20..1 << 34,
        greed in 1u64..=4,
    ) {
        let most = amount.max(BATCH.0);
        let mut memory = Memory { cold, hot, speed, growth, ..Memory::default() };
        let asked: u64 = take(&mut memory, Bytes(amount)).1.iter().map(|ask| ask.0).sum();
        prop_assert!(asked <= most, "{asked} asked for of {amount}");
        prop_assert!(memory.freed <= most, "{} gone of {amount}", memory.freed);
        // One that is generous, and nothing that hides it.
        let mut memory = Memory { cold, hot, speed: 1 << 40, greed, ..Memory::default() };
        take(&mut memory, Bytes(amount));
        let over = memory.freed.saturating_sub(amount);
        prop_assert!(over <= (amount / 10).max(8 * BATCH.0), "{over} over {amount}");
    }

    #[test]
    fn a_portion_goes_and_it_ends(cold in sizes(), fixed in sizes(), amount in sizes(), growth in 0u64..1 << 30) {
        let mut memory = Memory { cold, fixed, growth, speed: 1 << 40, ..Memory::default() };
        let (end, asks) = take(&mut memory, Bytes(amount));
        if cold >= amount {
            prop_assert_eq!(end, if amount == 0 { End::Already } else { End::Reached });
            prop_assert!(memory.freed + BATCH.0 > amount, "{} gone of {}", memory.freed, amount);
        }
        if cold == 0 && growth == 0 && amount > 0 {
            prop_assert_eq!((end, asks.len()), (End::Hard, 1));
        }
    }
}

#[test]
fn a_target_of_nothing_is_as_empty_as_possible() {
    let mut memory = Memory { cold: 100 << 20, fixed: 5 << 20, ..Memory::default() };
    assert_eq!(run(&mut memory, Bytes(0)).end, End::Emptied);
    assert_eq!(memory.cold, 0);
}

#[test]
fn the_letters_line_takes_few_calls() {
    let mut memory = Memory { cold: 600 << 20, ..Memory::default() };
    let run = run(&mut memory, Bytes::mib(400));
    assert_eq!(run.end, End::Reached);
    assert!(run.asks.len() <= 20, "{} calls for 200 MiB", run.asks.len());
    assert!(memory.usage() >= Bytes::mib(360));
}

/// A kernel that gives nothing is asked five times, with pauses, and given up well within five seconds.
#[test]
fn a_stuck_group_is_given_up_soon() {
    let mut memory = Memory { fixed: 600 << 20, ..Memory::default() };
    let run = run(&mut memory, Bytes::mib(400));
    assert_eq!((run.end, run.asks.len()), (End::Hard, usize::from(FRUITLESS)));
    assert!(memory.now.since(Time(0)) < Duration::from_secs(2), "{:?}", memory.now);
}

/// A group that grows as fast as it is reclaimed: the kernel always gives, usage never sinks.
#[test]
fn a_group_that_outgrows_reclaim_is_hard() {
    let mut memory = Memory { cold: 600 << 20, growth: 4 << 30, ..Memory::default() };
    let run = run(&mut memory, Bytes::mib(400));
    assert_eq!(run.end, End::Hard);
    assert!(memory.now.since(Time(0)) <= Duration::from_secs(5));
}

/// Whatever pieces it comes in, work that rests so takes no more than its share.
#[test]
fn a_share_is_kept() {
    for share in [1u16, 20, 100, 500, 1000] {
        for busy in [1u64, 7, 50] {
            let busy = Duration::from_micros(busy * u64::from(share));
            let all = busy + rest_after(busy, share);
            assert!(busy.as_nanos() * 1000 <= all.as_nanos() * u128::from(share), "{share} {busy:?}");
        }
    }
    assert_eq!(rest_after(Duration::from_secs(9), 1), Duration::from_secs(1), "it stays answerable");
}
