//! The properties that `decide::working_set` promises, on the simulated memory. How it goes beside two laws that are published, for people:
//! `cargo run --release -p memgov-decide --example working_set`.

use crate::memory::laws::*;
use crate::memory::reuse::{Memory, PIECE};
use memgov_decide::snapshot::Strain;
use memgov_decide::units::Bytes;
use memgov_decide::working_set::*;
use proptest::prelude::*;

fn searched(memory: &mut Memory, seconds: usize) -> (Run, Search) {
    let mut found = Search::default();
    let run = run(memory, seconds, search(&mut found, Bytes(0), TOLERANCE));
    (run, found)
}

/// Seconds after which it must have settled...
const SETTLED: usize = 300;
/// ...and where the memory has no edge to be found.
const SETTLED_WITHOUT_EDGE: usize = 900;

fn settled(name: &str) -> usize {
    if name == "spread" { SETTLED_WITHOUT_EDGE } else { SETTLED }
}

#[test]
fn finds_what_can_go() {
    for (name, periods) in workloads() {
        let mut memory = Memory::new(&periods, 0);
        let (run, found) = searched(&mut memory, 1800);
        let oracle = memory.oracle(TOLERANCE.pressure).0;
        let (_, mean, _) = run.band(settled(name));
        assert!(mean <= oracle + oracle / 4, "{name}: {} MiB, an oracle {} MiB", mean >> 20, oracle >> 20);
        let found = found.found().unwrap();
        assert!(found.settled, "{name}: {found:?}");
        let near = found.working_set.0.abs_diff(mean);
        assert!(near <= mean / 10, "{name}: {found:?}, usage {} MiB", mean >> 20);
        assert!(found.limit().0 >= run.band(settled(name)).2, "{name}: {found:?}");
    }
}

#[test]
fn the_tolerance_is_kept() {
    for (name, periods) in workloads() {
        let mut memory = Memory::new(&periods, 0);
        let (run, _) = searched(&mut memory, 1800);
        let after = run.pressure(SETTLED, 1800);
        assert!(after <= u64::from(TOLERANCE.pressure), "{name}: {after} ppm once settled");
        let before = run.pressure(0, SETTLED);
        assert!(before <= 2 * u64::from(TOLERANCE.pressure), "{name}: {before} ppm while it looks");
    }
}

#[test]
fn does_not_oscillate() {
    for (name, periods) in workloads() {
        let mut memory = Memory::new(&periods, 0);
        let (run, _) = searched(&mut memory, 1800);
        let (low, mean, high) = run.band(settled(name));
        assert!(high - low <= mean / 8, "{name}: between {} and {} MiB", low >> 20, high >> 20);
    }
}

#[test]
fn follows_a_change() {
    let mut memory = Memory::new(&hot_and_cold(200, 300), 0);
    let mut found = Search::default();
    run(&mut memory, SETTLED, search(&mut found, Bytes(0), TOLERANCE));
    // It wants 100 MiB more...
    memory.change(200..300, 1000);
    let grown = run(&mut memory, SETTLED, search(&mut found, Bytes(0), TOLERANCE));
    assert!(grown.usage[10] >= 290 * PIECE, "after 10 s it has {} MiB", grown.usage[10] >> 20);
    assert!(grown.pressure(60, SETTLED) <= u64::from(TOLERANCE.pressure));
    // ...and 150 MiB less.
    memory.change(150..300, 7_200_000);
    let shrunk = run(&mut memory, 1800, search(&mut found, Bytes(0), TOLERANCE));
    let (_, mean, _) = shrunk.band(1500);
    assert!(mean <= 190 * PIECE, "after 25 minutes it has {} MiB", mean >> 20);
}

#[test]
fn all_that_can_go_has_gone_and_is_not_asked_for_for_ever() {
    let memory = Memory::new(&hot_and_cold(0, 100), 0);
    let (mut found, mut asks) = (Search::default(), 0);
    let mut memory = memory;
    run(&mut memory, 1800, |memory| {
        let ask = found.next(memory.now, &memory.strain, memory.usage(), Bytes(0), true, &TOLERANCE);
        asks += u32::from(ask.is_some_and(|ask| ask > Bytes(0)));
        // Nothing goes: anonymous memory without swap.
    });
    assert!(asks <= 60, "{asks} asks in half an hour, and nothing ever came");
    assert!(found.found().unwrap().settled);
}

/// What it is asked for is hidden by what it grows by: that is not taken for a kernel that has nothing to give.
#[test]
fn a_group_that_grows_is_asked_on() {
    let (mut found, mut usage) = (Search::default(), Bytes::mib(100));
    let mut memory = Memory::new(&[], 0);
    let mut resting = 0;
    run(&mut memory, 120, |memory| {
        let ask = found.next(memory.now, &memory.strain, usage, Bytes(0), true, &TOLERANCE);
        resting += u32::from(ask == Some(Bytes(0)));
        let ask = ask.unwrap_or_default();
        usage = usage.saturating_sub(ask) + Bytes::mib(8);
        memory.strain.taken = memory.strain.taken.map(|taken| taken + ask);
    });
    assert_eq!(resting, 0, "seconds in which nothing was asked of a group that only grows");
    // A 64th a second: reclaim keeps up with 8 MiB a second at 512 MiB.
    assert!(usage <= Bytes::mib(512), "{usage}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_under_the_floor(periods in prop::collection::vec(100u64..10_000_000, 20..200), floor in 0u64..200) {
        let mut memory = Memory::new(&periods, 3);
        let floor = Bytes((floor * PIECE).min(memory.all().0));
        let mut found = Search::default();
        let run = run(&mut memory, 300, search(&mut found, floor, TOLERANCE));
        let lowest = *run.usage.iter().min().unwrap();
        prop_assert!(lowest >= floor.0, "{} under {}", lowest, floor);
    }

    #[test]
    fn swap_out_is_braked(periods in prop::collection::vec(100u64..10_000_000, 50..400), rate in 0u64..4) {
        let mut memory = Memory::new(&periods, 1);
        let tolerance = Tolerance { swap_out: Bytes::mib(rate), ..TOLERANCE };
        let mut found = Search::default();
        run(&mut memory, 600, search(&mut found, Bytes(0), tolerance));
        // What was saved at the beginning, and one ask.
        let allowed = rate * (600 + 10) * PIECE + memory.all().0 / 16 + PIECE;
        prop_assert!(memory.swapped_out <= allowed, "{} MiB", memory.swapped_out >> 20);
    }

    #[test]
    fn unknown_asks_nothing(periods in prop::collection::vec(100u64..10_000_000, 20..100)) {
        let (mut memory, mut found) = (Memory::new(&periods, 0), Search::default());
        let unknown = Strain { stalled: None, refaults: None, ..memory.strain };
        run(&mut memory, 60, |memory| {
            let ask = found.next(memory.now, &unknown, memory.usage(), Bytes(0), true, &TOLERANCE);
            assert!(ask.is_none_or(|ask| ask == Bytes(0)));
        });
        assert_eq!(found.found(), None);
    }

    #[test]
    fn nobody_wants_it_nothing_is_asked(periods in prop::collection::vec(100u64..10_000_000, 20..100)) {
        let (mut memory, mut found) = (Memory::new(&periods, 0), Search::default());
        run(&mut memory, 60, |memory| {
            let ask = found.next(memory.now, &memory.strain, memory.usage(), Bytes(0), false, &TOLERANCE);
            assert!(ask.is_none_or(|ask| ask == Bytes(0)));
        });
    }
}

/// At the pressure that senpai tolerates, and though the simulation takes no time for the reclaim that `memory.high` makes the group's own tasks do.
#[test]
fn beside_senpai_less_is_lost_for_as_much_saved() {
    const LONG: usize = 3600;
    let tolerance = Tolerance { pressure: 1667, ..TOLERANCE };
    for (name, periods) in workloads() {
        let mut found = Search::default();
        let ours = run(&mut Memory::new(&periods, 0), LONG, search(&mut found, Bytes(0), tolerance));
        let theirs = run(&mut Memory::new(&periods, 0), LONG, senpai());
        let (lost, their_loss) = (ours.pressure(LONG / 2, LONG), theirs.pressure(LONG / 2, LONG));
        assert!(lost * 6 <= their_loss * 5, "{name}: {lost} ppm, senpai {their_loss}");
        let ((_, mean, _), (_, their_mean, _)) = (ours.band(LONG / 2), theirs.band(LONG / 2));
        assert!(
            mean <= their_mean + their_mean / 25,
            "{name}: {} MiB, senpai {}",
            mean >> 20,
            their_mean >> 20
        );
        let when = |run: &Run, mean: u64| run.settled(mean + mean / 10).unwrap();
        assert!(when(&ours, mean) <= when(&theirs, their_mean), "{name}: it settles later");
        let width = |run: &Run| run.band(LONG / 2).2 - run.band(LONG / 2).0;
        assert!(width(&ours) <= width(&theirs).max(mean / 16), "{name}: it oscillates more");
    }
}
