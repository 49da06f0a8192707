//! The most there was, how often it was too much, and how fast it grows. cgroup v2 keeps none of them for kernel memory (`memory.peak` is of all
//! memory).

use crate::trend::Trend;
use crate::units::{Bytes, Time};

/// Peak of a meter since it was first looked at, or since it was reset, and how often its line was hit. What was between two readings is not
/// seen: a peak is the highest of the readings. There is one for each group, and it is locked in memory: no `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// `FAR`: it was never looked at.
    since: Time,
    /// Means something where there was a reading.
    peak: Bytes,
    peak_at: Time,
    trend: Trend,
    hits: u32,
    /// There were two readings: growth is known.
    twice: bool,
}

impl Default for Watermark {
    fn default() -> Self {
        let trend = Trend::default();
        Self { since: Time::FAR, peak: Bytes(0), peak_at: Time::FAR, trend, hits: 0, twice: false }
    }
}

impl Watermark {
    /// Takes in a reading.
    pub fn observe(&mut self, at: Time, value: Bytes) {
        self.since = self.since.min(at);
        self.twice |= self.last().is_some_and(|(_, before)| before < at);
        self.trend.observe(at, value);
        if self.peak_at == Time::FAR || value > self.peak {
            (self.peak, self.peak_at) = (value, at);
        }
    }

    /// The line was hit: an episode began.
    pub const fn hit(&mut self) {
        self.hits = self.hits.saturating_add(1);
    }

    /// Starts anew from what there was when it was last read, as a write to `memory.kmem.max_usage_in_bytes` does; hits too. Growth is no record and stays.
    pub fn reset(&mut self, at: Time) {
        (self.peak, self.peak_at) = self.last().unwrap_or((Bytes(0), Time::FAR));
        (self.since, self.hits) = (at, 0);
    }

    /// The highest reading, and when it was.
    pub fn peak(&self) -> Option<(Bytes, Time)> {
        (self.peak_at != Time::FAR).then_some((self.peak, self.peak_at))
    }

    /// The latest reading, and when it was.
    pub fn last(&self) -> Option<(Bytes, Time)> {
        self.trend.last()
    }

    /// The fastest growth lately, in bytes a second: believed at once, and faded by half in 4 s. `None`: it was read once.
    pub fn growth(&self) -> Option<u64> {
        self.twice.then(|| self.trend.fastest())
    }

    /// From when on.
    pub fn since(&self) -> Option<Time> {
        (self.since != Time::FAR).then_some(self.since)
    }

    /// How often the line was hit since then.
    pub fn hits(&self) -> u64 {
        self.hits.into()
    }
}
