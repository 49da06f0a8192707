//! How fast something grows, and from that when to look again: sampling costs in proportion to the danger.
//!
//! Fast attack, slow decay: one fast sample is believed at once, and forgotten over seconds, because a workload that has
//! grown fast once will do so again. Integers only, so that a replay on another machine gives the same answer.

use std::time::Duration;

use crate::policy::Pace;
use crate::units::{Bytes, Time};

/// The growth seen fades by half in about this time.
const FADE: Duration = Duration::from_secs(4);

/// Growth is assumed to be at least this part of the line each second, so that a meter at rest close under
/// its line is looked at more often than one at rest far from it: what rests may wake.
const LEAST_PART: u64 = 32;

/// The growth of one meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trend {
    /// When it was last read; `FAR`: never. There are several of these for each process, so no `Option`.
    read_at: Time,
    last: Bytes,
    fastest: u64,
}

impl Default for Trend {
    fn default() -> Self {
        Self { read_at: Time::FAR, last: Bytes(0), fastest: 0 }
    }
}

impl Trend {
    /// Takes in a reading. Readings of the same moment, or from before, change nothing.
    pub fn observe(&mut self, at: Time, value: Bytes) {
        if self.read_at != Time::FAR {
            let passed = nanos(at.since(self.read_at));
            if passed == 0 {
                return;
            }
            let growth = per_second(value.saturating_sub(self.last), passed);
            // f * FADE / (FADE + t): close to exponential where samples are close together, safe where they are not.
            let faded = u128::from(self.fastest) * u128::from(nanos(FADE))
                / (u128::from(nanos(FADE)) + u128::from(passed));
            self.fastest = growth.max(u64::try_from(faded).unwrap_or(u64::MAX));
        }
        (self.read_at, self.last) = (at, value);
    }

    /// The latest reading, and when it was.
    pub fn last(&self) -> Option<(Bytes, Time)> {
        (self.read_at != Time::FAR).then_some((self.last, self.read_at))
    }

    /// The fastest growth seen lately, in bytes a second.
    pub const fn fastest(&self) -> u64 {
        self.fastest
    }

    /// [`next_look`] at the growth seen.
    pub fn next_look(&self, value: Bytes, line: Bytes, pace: &Pace) -> Duration {
        next_look(self.fastest, value, line, pace)
    }
}

/// How long until the next look at a meter that is at `value`, may grow by `growth` bytes a second and must not be
/// missed crossing `line`: the time in which half of the headroom could be used up, within the pace. Over the line:
/// [`Pace::fastest`].
pub fn next_look(growth: u64, value: Bytes, line: Bytes, pace: &Pace) -> Duration {
    if value > line {
        return pace.fastest;
    }
    let growth = growth.max(line.0 / LEAST_PART).max(1);
    let half = u128::from(line.saturating_sub(value).0 / 2);
    let time = half * 1_000_000_000 / u128::from(growth);
    within(Duration::from_nanos(u64::try_from(time).unwrap_or(u64::MAX)), pace)
}

/// Within the bounds of a pace, whichever way round they are given.
pub(crate) fn within(time: Duration, pace: &Pace) -> Duration {
    time.min(pace.slowest).max(pace.fastest)
}

/// `amount` in `nanos` nanoseconds, as bytes a second.
pub(crate) fn per_second(amount: Bytes, nanos: u64) -> u64 {
    let rate = u128::from(amount.0) * 1_000_000_000 / u128::from(nanos.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// A duration in nanoseconds, saturated (after 584 years).
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How fast something that is running out has fallen in the last moments, honestly: unlike [`Trend`] it forgets at once, because somebody may be
/// killed for it.
#[derive(Clone, Copy, Debug)]
pub struct Fall {
    /// Earlier readings, oldest first, at least [`Fall::STEP`] apart; `FAR`: none.
    past: [(Time, Bytes); 8],
    now: (Time, Bytes),
}

impl Default for Fall {
    fn default() -> Self {
        Self { past: [(Time::FAR, Bytes(0)); 8], now: (Time::FAR, Bytes(0)) }
    }
}

impl Fall {
    /// Readings closer to one another say little.
    const STEP: Duration = Duration::from_millis(50);

    /// Takes in a reading.
    pub fn observe(&mut self, at: Time, value: Bytes) {
        let last = self.past[self.past.len() - 1].0;
        if self.now.0 != Time::FAR && (last == Time::FAR || self.now.0.since(last) >= Self::STEP) {
            self.past.rotate_left(1);
            self.past[self.past.len() - 1] = self.now;
        }
        self.now = (at, value);
    }

    /// Bytes a second over the last 0.4 s at the most, or since the reading before where that is longer ago; 0 where it rises. `None`: not
    /// known yet.
    pub fn per_second(&self) -> Option<u64> {
        let (now, value) = self.now;
        let old =
            |&&(at, _): &&(Time, Bytes)| at != Time::FAR && now != Time::FAR && now.since(at) >= Self::STEP;
        let window = Self::STEP * 8;
        let recent = self.past.iter().filter(old).find(|(at, _)| now.since(*at) <= window);
        let &(at, then) = recent.or_else(|| self.past.iter().rev().find(old))?;
        Some(per_second(then.saturating_sub(value), nanos(now.since(at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { fastest: Duration::from_millis(10), slowest: Duration::from_secs(2) };
    const fn ms(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    #[test]
    fn looks_again_when_half_the_headroom_can_be_gone() {
        let mut trend = Trend::default();
        trend.observe(ms(0), Bytes::mib(100));
        trend.observe(ms(100), Bytes::mib(110));
        assert_eq!(trend.fastest(), Bytes::mib(100).0);
        // 100 MiB of headroom at 100 MiB/s: half of it in half a second.
        assert_eq!(trend.next_look(Bytes::mib(110), Bytes::mib(210), &PACE), Duration::from_millis(500));
        assert_eq!(trend.next_look(Bytes::mib(209), Bytes::mib(210), &PACE), PACE.fastest);
        assert_eq!(trend.next_look(Bytes::mib(211), Bytes::mib(210), &PACE), PACE.fastest);
        assert_eq!(trend.next_look(Bytes::mib(110), Bytes::gib(64), &PACE), PACE.slowest);
    }

    #[test]
    fn attack_is_fast_and_decay_is_slow() {
        let mut trend = Trend::default();
        trend.observe(ms(0), Bytes(0));
        trend.observe(ms(10), Bytes::mib(10));
        let peak = trend.fastest();
        for i in 2..=100 {
            trend.observe(ms(i * 10), Bytes::mib(10));
        }
        assert!(
            trend.fastest() < peak && trend.fastest() > peak / 2,
            "a second of rest does not hide the burst"
        );
        for i in 0..600 {
            trend.observe(ms(1000 + i * 100), Bytes::mib(10));
        }
        assert!(trend.fastest() < peak / 1000, "a minute does");
        trend.observe(ms(1000), Bytes::gib(9));
        assert!(trend.fastest() < peak / 1000, "a reading from the past changes nothing");
    }

    proptest::proptest! {
        #[test]
        fn never_outside_the_pace_and_never_later_when_closer(
            samples in proptest::collection::vec((0u64..1 << 40, 1u64..3_000), 0..20),
            line in 0u64..1 << 41, a in 0u64..1 << 41, b in 0u64..1 << 41,
        ) {
            let (mut trend, mut at) = (Trend::default(), 0);
            for (value, passed) in samples {
                at += passed;
                trend.observe(ms(at), Bytes(value));
            }
            let look = |value| trend.next_look(Bytes(value), Bytes(line), &PACE);
            assert!((PACE.fastest..=PACE.slowest).contains(&look(a)));
            assert!(look(a.max(b)) <= look(a.min(b)));
        }
    }
}
