//! Senpai's law as it is published (github.com/facebookincubator/senpai, `senpai.py`), with its own constants but one: its smallest size is 100 MiB,
//! more than a job here uses.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::senpai::stalled;
use crate::harness::group::Group;

/// Seconds between two probes.
const INTERVAL: u32 = 6;
/// Microseconds that may be lost in an interval.
const PRESSURE: f64 = 10_000.0;
const MAX_PROBE: f64 = 0.01;
const MAX_BACKOFF: f64 = 1.0;
const COEFF_PROBE: f64 = 10.0;
const COEFF_BACKOFF: f64 = 20.0;
/// Its smallest size.
const LEAST: u64 = 1 << 20;

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the law is published with fractions; amounts here are positive and far from the bounds"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// One group under it.
pub struct Senpai {
    group: Group,
    limit: u64,
    last: u64,
    integral: u64,
    grace: u32,
}

impl Senpai {
    /// From what the group uses now.
    pub fn new(group: &Group) -> Result<Self> {
        let limit = group.usage()? & !4095;
        group.set_high(limit)?;
        Ok(Self { limit, last: stalled(group)?, integral: 0, grace: INTERVAL, group: group.clone() })
    }

    /// Once a second.
    pub fn run(&mut self, over: impl Fn() -> bool) -> Result<()> {
        let mut next = Instant::now();
        while !over() {
            next += Duration::from_secs(1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            self.tick()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        let total = stalled(&self.group)?;
        self.integral += total - self.last;
        self.last = total;
        let lost = self.integral as f64;
        if lost > PRESSURE {
            let part = (lost / PRESSURE / COEFF_BACKOFF).powi(2);
            return self.adjust((part * MAX_BACKOFF).min(MAX_BACKOFF));
        }
        if self.grace > 0 {
            self.grace -= 1;
            return Ok(());
        }
        let part = (PRESSURE / lost.max(1.0) / COEFF_PROBE).powi(2);
        self.adjust(-(part * MAX_PROBE).min(MAX_PROBE))
    }

    fn adjust(&mut self, factor: f64) -> Result<()> {
        let limit = self.limit as f64 * (1.0 + factor);
        self.limit = whole(limit).max(LEAST) & !4095;
        // It reclaims before it returns.
        self.group.set_high(self.limit)?;
        (self.integral, self.grace) = (0, INTERVAL - 1);
        Ok(())
    }
}
