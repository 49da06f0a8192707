//! A latency histogram of fixed size: 16 buckets to each power of two, so a percentile is exact to 1/16.

/// Buckets within one power of two.
const PARTS: u64 = 16;
const BUCKETS: usize = 64 * 16;

/// Counts of durations in nanoseconds.
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
    max: u64,
}

impl Histogram {
    /// Empty.
    pub const fn new() -> Self {
        Self { counts: [0; BUCKETS], total: 0, max: 0 }
    }
    /// Counts one.
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }
    /// How many were counted.
    pub const fn total(&self) -> u64 {
        self.total
    }
    /// The longest.
    pub const fn max(&self) -> u64 {
        self.max
    }
    /// The value below which so many percent lie: the upper end of its bucket, no more than the longest.
    pub fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (at, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return upper_end(at).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < PARTS {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = u64::from(value.ilog2());
    let part = (value >> (power - 4)) & (PARTS - 1);
    usize::try_from((power - 3) * PARTS + part).unwrap_or(BUCKETS - 1).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(0);
    if bucket < PARTS {
        return bucket;
    }
    let power = bucket / PARTS + 3;
    let width = 1 << (power - 4);
    ((1 << power) + (bucket % PARTS) * width).saturating_add(width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in
            (0..64).flat_map(|bit| [0, 1, 5].map(|more| (1u64 << bit).saturating_add(more << (bit / 2))))
        {
            let end = upper_end(bucket(value));
            assert!(end >= value && end - value <= value / 16 + 1, "{value} in a bucket up to {end}");
        }
    }

    #[test]
    fn percentiles_count_from_below() {
        let mut histogram = Histogram::new();
        (1..=100).for_each(|value| histogram.add(value * 1000));
        assert!((47_000..=53_500).contains(&histogram.percentile(50)), "{}", histogram.percentile(50));
        assert!((93_000..=100_000).contains(&histogram.percentile(99)));
        assert_eq!((histogram.percentile(100), histogram.max(), histogram.total()), (100_000, 100_000, 100));
        assert_eq!(Histogram::new().percentile(99), 0);
    }
}
