//! The most there was, how often it was too much, and how fast it grows. cgroup v2 keeps none of them for kernel memory (`memory.peak` is of all
//! memory).

use crate::trend::Trend;
use crate::units::{Bytes, Time};

/// Peak of a meter since it was first looked at, or since it was reset, and how often its line was hit. What was between two readings is not
/// seen: a peak is the highest of the readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    since: Option<Time>,
    peak: Option<(Bytes, Time)>,
    last: Option<(Bytes, Time)>,
    trend: Trend,
    /// There were two readings: growth is known.
    twice: bool,
    hits: u64,
}

impl Watermark {
    /// Takes in a reading.
    pub fn observe(&mut self, at: Time, value: Bytes) {
        self.since.get_or_insert(at);
        self.twice |= self.last.is_some_and(|(_, before)| before < at);
        self.trend.observe(at, value);
        self.last = Some((value, at));
        if self.peak.is_none_or(|(peak, _)| value > peak) {
            self.peak = Some((value, at));
        }
    }

    /// The line was hit: an episode began.
    pub const fn hit(&mut self) {
        self.hits = self.hits.saturating_add(1);
    }

    /// Starts anew from what there was when it was last read, as a write to `memory.kmem.max_usage_in_bytes` does; hits too. Growth is no record and stays.
    pub fn reset(&mut self, at: Time) {
        (self.since, self.peak, self.hits) = (Some(at), self.last, 0);
    }

    /// The highest reading, and when it was.
    pub const fn peak(&self) -> Option<(Bytes, Time)> {
        self.peak
    }

    /// The latest reading, and when it was.
    pub const fn last(&self) -> Option<(Bytes, Time)> {
        self.last
    }

    /// The fastest growth lately, in bytes a second: believed at once, and faded by half in 4 s. `None`: it was read once.
    pub fn growth(&self) -> Option<u64> {
        self.twice.then(|| self.trend.fastest())
    }

    /// From when on.
    pub const fn since(&self) -> Option<Time> {
        self.since
    }

    /// How often the line was hit since then.
    pub const fn hits(&self) -> u64 {
        self.hits
    }
}
