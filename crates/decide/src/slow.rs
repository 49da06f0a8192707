//! How much of the time a slowed-down target may run.
//!
//! Two answers, and the smaller counts. The letter's: for each batch of 64 pages allocated, a pause in proportion to the excess,
//! at most 5 ms. And memgov's own: at the growth that was observed, the ceiling must not be reached before the
//! slowdown's time is up. The share is never under the floor: progress must go on, whatever holds the locks.

use std::time::Duration;

use crate::trend::{nanos, per_second};
use crate::units::{Bytes, Time};

/// The whole of the time, in thousandths.
pub const ALL: u16 = 1000;

/// What a batch of 64 pages takes to allocate and touch when nothing slows it down: about a microsecond a page.
const BATCH_MICROS: u64 = 64;
/// The letter's pause for each 1/256 of excess.
const PAUSE_MICROS: u64 = 20;
/// The letter's longest pause.
const LONGEST_PAUSE_MICROS: u64 = 5000;
/// Growth is measured over this long: over two periods of the duty cycle, so that its pulses even out.
const WINDOW: Duration = Duration::from_millis(200);

/// The letter's share for a meter at `value` over `line`: the less the further it is over.
pub fn proportional(value: Bytes, line: Bytes) -> u16 {
    let excess = u128::from(value.saturating_sub(line).0);
    let pause = (excess * 256 * u128::from(PAUSE_MICROS))
        .checked_div(u128::from(line.0))
        .map_or(LONGEST_PAUSE_MICROS, |pause| {
            u64::try_from(pause).unwrap_or(u64::MAX).min(LONGEST_PAUSE_MICROS)
        });
    thousandths(BATCH_MICROS, BATCH_MICROS + pause)
}

/// The state of one slowdown: what its target would grow by if it ran all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Estimated growth at full speed, bytes a second.
    full: u64,
    /// The share in force.
    share: u16,
    /// Since when growth is being measured, and from which value.
    window: (Time, Bytes),
    /// Running time granted in the window: thousandths times nanoseconds.
    granted: u128,
    /// Until when it is accounted.
    accounted: Time,
}

impl Throttle {
    /// At the beginning: nothing is slowed yet, so the growth seen is the growth at full speed.
    pub fn new(now: Time, value: Bytes, growth: u64) -> Self {
        Self { full: growth, share: ALL, window: (now, value), granted: 0, accounted: now }
    }

    /// Takes in a reading under the share in force. Faster than thought is believed at once, slower bit by bit.
    pub fn observe(&mut self, now: Time, value: Bytes) {
        self.granted += u128::from(self.share) * u128::from(nanos(now.since(self.accounted)));
        self.accounted = self.accounted.max(now);
        let (since, was) = self.window;
        if now.since(since) < WINDOW {
            return;
        }
        let ran = u64::try_from(self.granted / u128::from(ALL)).unwrap_or(u64::MAX);
        let full = per_second(value.saturating_sub(was), ran);
        self.full = full.max(self.full - self.full / 8 + full / 8);
        self.window = (now, value);
        self.granted = 0;
    }

    /// The share with which `room` lasts twice as long as the `left` time, at most the letter's, at least `floor`.
    pub fn share(&self, value: Bytes, line: Bytes, room: Bytes, left: Duration, floor: u16) -> u16 {
        let affordable = per_second(Bytes(room.0 / 2), nanos(left));
        let lasting = if self.full <= affordable { ALL } else { thousandths(affordable, self.full) };
        proportional(value, line).min(lasting).max(floor.clamp(1, ALL))
    }

    /// Notes the share that is in force from now on.
    pub fn set(&mut self, share: u16) {
        self.share = share;
    }
}

/// `part` of `whole` in thousandths, rounded down.
fn thousandths(part: u64, whole: u64) -> u16 {
    let share =
        (u128::from(part) * u128::from(ALL)).checked_div(u128::from(whole)).unwrap_or(u128::from(ALL));
    u16::try_from(share).unwrap_or(ALL).min(ALL)
}

#[cfg(test)]
mod tests {
    use super::*;
    const LINE: Bytes = Bytes(100 << 20);

    #[test]
    fn as_the_letter_pauses() {
        // 64 us of work against no pause, 51 us (1 % over), 512 us (10 % over) and the longest, 5 ms.
        for (over_percent, share) in [(0, 1000), (1, 556), (10, 111), (98, 12), (500, 12)] {
            assert_eq!(
                proportional(Bytes(LINE.0 + LINE.0 / 100 * over_percent), LINE),
                share,
                "{over_percent} %"
            );
        }
        assert_eq!(proportional(Bytes(1), Bytes(0)), 12);
    }

    proptest::proptest! {
        #[test]
        fn more_over_never_a_larger_share_and_never_under_the_floor(
            a in 0u64..1 << 40, b in 0u64..1 << 40, line in 0u64..1 << 40, growth in 0u64..1 << 40,
            left in 0u64..1 << 40, floor in 0u16..1000,
        ) {
            let throttle = Throttle::new(Time(0), Bytes(a), growth);
            let top = Bytes(line + line / 4);
            let share = |value| {
                throttle.share(Bytes(value), Bytes(line), top - Bytes(value), Duration::from_nanos(left), floor)
            };
            assert!(share(a.max(b)) <= share(a.min(b)));
            assert!((floor.max(1)..=ALL).contains(&share(a)));
        }
    }

    /// An allocator that takes memory at full speed whenever it runs, in slices of a 100 ms duty cycle.
    fn peak(full_mib_per_second: u64, budget: Duration, floor: u16) -> Bytes {
        let tick = Duration::from_millis(10);
        let (mut value, mut now) = (LINE + Bytes(1), Time(0));
        let mut throttle = Throttle::new(now, value, Bytes::mib(full_mib_per_second).0);
        let mut share = ALL;
        let mut peak = value;
        while now.since(Time(0)) < budget {
            if now.0.is_multiple_of(100_000_000) {
                // The slice that runs in this period comes at its beginning, as a pulse.
                value = value + Bytes(Bytes::mib(full_mib_per_second).0 * u64::from(share) / 10_000);
            }
            now = now + tick;
            throttle.observe(now, value);
            let left = budget.saturating_sub(now.since(Time(0)));
            share = throttle.share(value, LINE, LINE + Bytes::mib(25) - value, left, floor);
            throttle.set(share);
            peak = peak.max(value);
        }
        peak
    }

    #[test]
    fn a_slowed_allocator_never_reaches_the_ceiling_within_its_budget() {
        for full in [1, 10, 50, 200] {
            for seconds in [10, 60, 300] {
                let floor = 1;
                let least = Bytes(Bytes::mib(full).0 * seconds / 1000);
                if least > Bytes::mib(5) {
                    continue; // Even the floor of progress takes more than the room: no share could help.
                }
                let peak = peak(full, Duration::from_secs(seconds), floor);
                assert!(peak < LINE + Bytes::mib(25), "{full} MiB/s for {seconds} s: {peak}");
                assert!(
                    peak > LINE + Bytes::kib(64),
                    "{full} MiB/s for {seconds} s: it still makes progress"
                );
            }
        }
    }
}
