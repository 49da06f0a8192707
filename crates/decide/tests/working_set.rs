//! The properties that `decide::working_set` promises, on the simulated memory, and a table of how it goes beside two laws that are published:
//! `cargo test -p memgov-decide --test working_set -- --ignored --nocapture table`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "laws that are published with fractions are written with them; amounts here are small and positive"
)]
#![allow(clippy::disallowed_macros, reason = "the table is printed")]

#[path = "memory/reuse.rs"]
mod reuse;

use std::time::Duration;

use memgov_decide::snapshot::Strain;
use memgov_decide::units::Bytes;
use memgov_decide::working_set::*;
use proptest::prelude::*;
use reuse::{Memory, PIECE, STEP};

const TOLERANCE: Tolerance = Tolerance { pressure: 1000, swap_out: Bytes::mib(1) };

/// Usage and time lost (ns), once a second.
#[derive(Clone, Debug, Default)]
struct Run {
    usage: Vec<u64>,
    lost: Vec<u64>,
}

impl Run {
    /// Part of the time that was lost from one second to another, in millionths.
    fn pressure(&self, from: usize, to: usize) -> u64 {
        let lost: u64 = self.lost[from..to].iter().sum();
        lost / 1000 / (to - from) as u64
    }

    /// Lowest, mean and highest usage.
    fn band(&self, from: usize) -> (u64, u64, u64) {
        let usage = &self.usage[from..];
        let mean = usage.iter().sum::<u64>() / usage.len() as u64;
        (*usage.iter().min().unwrap(), mean, *usage.iter().max().unwrap())
    }

    /// The second from which on usage stays under this.
    fn settled(&self, under: u64) -> Option<usize> {
        let last = self.usage.iter().rposition(|&usage| usage > under).map_or(0, |at| at + 1);
        (last < self.usage.len()).then_some(last)
    }
}

/// Runs it for so many seconds under a law that is asked once a second.
fn run(memory: &mut Memory, seconds: usize, mut law: impl FnMut(&mut Memory)) -> Run {
    let mut run = Run::default();
    for _ in 0..seconds {
        let before = memory.strain.stalled.unwrap();
        for _ in 0..1000 / STEP.as_millis() {
            memory.step();
        }
        law(memory);
        run.usage.push(memory.usage().0);
        let lost = memory.strain.stalled.unwrap() - before;
        run.lost.push(u64::try_from(lost.as_nanos()).unwrap());
    }
    run
}

/// The law of this crate.
fn search(search: &mut Search, floor: Bytes, tolerance: Tolerance) -> impl FnMut(&mut Memory) {
    move |memory| {
        let usage = memory.usage();
        if let Some(ask) = search.next(memory.now, &memory.strain, usage, floor, true, &tolerance) {
            assert!(ask <= usage.saturating_sub(floor), "{ask} of {usage}, floor {floor}");
            assert!(ask.0 <= usage.0 / 16, "{ask} at a time of {usage}");
            // The kernel gives whole pieces here, and less than one is none.
            memory.reclaim(Bytes(ask.0 / PIECE * PIECE));
        }
    }
}

fn searched(memory: &mut Memory, seconds: usize) -> (Run, Search) {
    let mut found = Search::default();
    let run = run(memory, seconds, search(&mut found, Bytes(0), TOLERANCE));
    (run, found)
}

/// Hot pieces, wanted each second or so, and cold ones, wanted after an hour or never.
fn hot_and_cold(hot: usize, cold: usize) -> Vec<u64> {
    let hot = (0..hot).map(|at| 500 + at as u64 % 1000);
    hot.chain((0..cold).map(|at| 3_600_000 + at as u64 * 1000)).collect()
}

/// Times spread evenly on a logarithmic scale, from a tenth of a second to three hours: no clear edge.
fn spread(pieces: usize) -> Vec<u64> {
    (0..pieces).map(|at| (100.0 * 10f64.powf(5.0 * at as f64 / pieces as f64)) as u64).collect()
}

/// A job that goes over part of its memory once in ten seconds: what goes is missed only then.
fn slow_reuse(pieces: usize) -> Vec<u64> {
    (0..pieces).map(|at| if at < pieces / 2 { 10_000 } else { 10_000_000 }).collect()
}

/// A build: tools and headers always, objects for the link each half minute, sources once.
fn build(pieces: usize) -> Vec<u64> {
    (0..pieces)
        .map(|at| match at * 10 / pieces {
            0..2 => 400 + at as u64 % 300,
            2..4 => 5_000 + at as u64 % 3_000,
            4..5 => 30_000,
            _ => 3_000_000 + at as u64 * 1000,
        })
        .collect()
}

fn workloads() -> Vec<(&'static str, Vec<u64>)> {
    vec![
        ("hot and cold", hot_and_cold(200, 300)),
        ("spread", spread(500)),
        ("slow reuse", slow_reuse(500)),
        ("build", build(500)),
        ("all hot", hot_and_cold(500, 0)),
    ]
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

/// Senpai as it is published (github.com/facebookincubator/senpai, its defaults but the smallest size): `memory.high` is lowered by up to 1 %
/// each 6 s while less than 10 ms were lost in them, and raised by the square of how much more it was.
fn senpai() -> impl FnMut(&mut Memory) {
    let (mut limit, mut last, mut integral, mut grace) = (0f64, 0f64, 0f64, 6);
    move |memory| {
        let total = memory.strain.stalled.unwrap().as_secs_f64() * 1e6;
        integral += total - last;
        last = total;
        if limit == 0.0 {
            limit = memory.usage().0 as f64;
        }
        let tolerated = 10_000.0;
        let factor = if integral > tolerated {
            ((integral / tolerated / 20.0).powi(2)).min(1.0)
        } else if grace > 0 {
            grace -= 1;
            return;
        } else {
            -((tolerated / integral.max(1.0) / 10.0).powi(2) * 0.01).min(0.01)
        };
        limit += limit * factor;
        (integral, grace) = (0.0, 5);
        memory.limit = Some(limit as u64);
        memory.keep_to_limit();
    }
}

/// The law of the TMO paper (Weiner et al., ASPLOS 2022): each 6 s `memory.reclaim` of 0.05 % of usage, times what is left to the tolerated pressure
/// of 0.1 %.
fn tmo() -> impl FnMut(&mut Memory) {
    let (mut last, mut ticks, mut carry) = (Duration::ZERO, 0, 0f64);
    move |memory| {
        ticks += 1;
        if ticks % 6 != 0 {
            return;
        }
        let total = memory.strain.stalled.unwrap();
        let pressure = (total - std::mem::replace(&mut last, total)).as_secs_f64() / 6.0;
        carry += memory.usage().0 as f64 * 0.0005 * (1.0 - pressure / 0.001).max(0.0);
        let pieces = (carry / PIECE as f64) as u64;
        carry -= (pieces * PIECE) as f64;
        memory.reclaim(Bytes(pieces * PIECE));
    }
}

/// At the pressure that senpai tolerates, and though the simulation takes no time for the reclaim that `memory.high` makes the group's own tasks do.
#[test]
fn beside_senpai_less_is_lost_for_as_much_saved() {
    table();
    const LONG: usize = 3600;
    let tolerance = Tolerance { pressure: 1667, ..TOLERANCE };
    for (name, periods) in workloads() {
        let mut found = Search::default();
        let ours = run(&mut Memory::new(&periods, 0), LONG, search(&mut found, Bytes(0), tolerance));
        let theirs = run(&mut Memory::new(&periods, 0), LONG, senpai());
        let (lost, their_loss) = (ours.pressure(LONG / 2, LONG), theirs.pressure(LONG / 2, LONG));
        assert!(lost * 5 <= their_loss * 4, "{name}: {lost} ppm, senpai {their_loss}");
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

/// How it goes, for people: `cargo test -p memgov-decide --test working_set senpai -- --nocapture`.
fn table() {
    const LONG: usize = 3600;
    println!(
        "workload      law      settled  mean  lowest  highest  (MiB, last half)  oracle  lost ppm: first 10 min, last half"
    );
    for (name, periods) in workloads() {
        let oracle = Memory::new(&periods, 0).oracle(TOLERANCE.pressure).0;
        let show = |law: &str, run: Run| {
            let (low, mean, high) = run.band(LONG / 2);
            let settled = run.settled(mean + mean / 10).map_or("-".into(), |at| format!("{at} s"));
            println!(
                "{name:<13} {law:<8} {settled:>7} {:>5} {:>7} {:>8} {:>25} {:>12} {:>10}",
                mean >> 20,
                low >> 20,
                high >> 20,
                oracle >> 20,
                run.pressure(0, 600),
                run.pressure(LONG / 2, LONG)
            );
        };
        show("memgov", searched(&mut Memory::new(&periods, 0), LONG).0);
        // As much as senpai tolerates.
        let (as_senpai, mut found) = (Tolerance { pressure: 1667, ..TOLERANCE }, Search::default());
        let law = search(&mut found, Bytes(0), as_senpai);
        show("at 1667", run(&mut Memory::new(&periods, 0), LONG, law));
        show("senpai", run(&mut Memory::new(&periods, 0), LONG, senpai()));
        show("tmo", run(&mut Memory::new(&periods, 0), LONG, tmo()));
    }
}
