//! The most there was, and how often it was too much. cgroup v2 keeps neither for kernel memory (`memory.peak` is of all memory).

use crate::units::{Bytes, Time};

/// Peak of a meter since it was first looked at, or since it was reset, and how often its line was hit. What was between two readings is not
/// seen: a peak is the highest of the readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    since: Option<Time>,
    peak: Option<(Bytes, Time)>,
    hits: u64,
}

impl Watermark {
    /// Takes in a reading.
    pub fn observe(&mut self, at: Time, value: Bytes) {
        self.since.get_or_insert(at);
        if self.peak.is_none_or(|(peak, _)| value > peak) {
            self.peak = Some((value, at));
        }
    }

    /// The line was hit: an episode began.
    pub const fn hit(&mut self) {
        self.hits = self.hits.saturating_add(1);
    }

    /// Starts anew from what there is now, as a write to `memory.kmem.max_usage_in_bytes` does; hits too.
    pub fn reset(&mut self, at: Time, value: Option<Bytes>) {
        *self = Self { since: Some(at), peak: value.map(|value| (value, at)), hits: 0 };
    }

    /// The highest reading, and when it was.
    pub const fn peak(&self) -> Option<(Bytes, Time)> {
        self.peak
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
