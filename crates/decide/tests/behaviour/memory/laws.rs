//! Workloads for the simulated memory, the law of this crate and two that are published, and what a run of one of them shows.
#![allow(dead_code, reason = "each user uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "laws that are published with fractions are written with them; amounts here are small and positive"
)]

use std::time::Duration;

use memgov_decide::units::Bytes;
use memgov_decide::working_set::*;

use super::reuse::{Memory, PIECE, STEP};

pub const TOLERANCE: Tolerance = Tolerance { pressure: 1000, swap_out: Bytes::mib(1) };

/// Usage and time lost (ns), once a second.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub usage: Vec<u64>,
    pub lost: Vec<u64>,
}

impl Run {
    /// Part of the time that was lost from one second to another, in millionths.
    pub fn pressure(&self, from: usize, to: usize) -> u64 {
        let lost: u64 = self.lost[from..to].iter().sum();
        lost / 1000 / (to - from) as u64
    }

    /// Lowest, mean and highest usage.
    pub fn band(&self, from: usize) -> (u64, u64, u64) {
        let usage = &self.usage[from..];
        let mean = usage.iter().sum::<u64>() / usage.len() as u64;
        (*usage.iter().min().unwrap(), mean, *usage.iter().max().unwrap())
    }

    /// The second from which on usage stays under this.
    pub fn settled(&self, under: u64) -> Option<usize> {
        let last = self.usage.iter().rposition(|&usage| usage > under).map_or(0, |at| at + 1);
        (last < self.usage.len()).then_some(last)
    }
}

/// Runs it for so many seconds under a law that is asked once a second.
pub fn run(memory: &mut Memory, seconds: usize, mut law: impl FnMut(&mut Memory)) -> Run {
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
pub fn search(search: &mut Search, floor: Bytes, tolerance: Tolerance) -> impl FnMut(&mut Memory) {
    let mut carry = 0;
    move |memory| {
        let usage = memory.usage();
        if let Some(ask) = search.next(memory.now, &memory.strain, usage, floor, true, &tolerance) {
            assert!(ask <= usage.saturating_sub(floor), "{ask} of {usage}, floor {floor}");
            assert!(ask.0 <= usage.0 / 16, "{ask} at a time of {usage}");
            // Pieces are larger here than what the kernel gives at the least: what is less than one is not lost, and comes with the next.
            carry = if ask == Bytes(0) { 0 } else { carry + ask.0 };
            memory.reclaim(Bytes(carry / PIECE * PIECE));
            carry %= PIECE;
        }
    }
}

/// Hot pieces, wanted each second or so, and cold ones, wanted after an hour or never.
pub fn hot_and_cold(hot: usize, cold: usize) -> Vec<u64> {
    let hot = (0..hot).map(|at| 500 + at as u64 % 1000);
    hot.chain((0..cold).map(|at| 3_600_000 + at as u64 * 1000)).collect()
}

/// Times spread evenly on a logarithmic scale, from a tenth of a second to three hours: no clear edge.
pub fn spread(pieces: usize) -> Vec<u64> {
    (0..pieces).map(|at| (100.0 * 10f64.powf(5.0 * at as f64 / pieces as f64)) as u64).collect()
}

/// A job that goes over part of its memory once in ten seconds: what goes is missed only then.
pub fn slow_reuse(pieces: usize) -> Vec<u64> {
    (0..pieces).map(|at| if at < pieces / 2 { 10_000 } else { 10_000_000 }).collect()
}

/// A build: tools and headers always, objects for the link each half minute, sources once.
pub fn build(pieces: usize) -> Vec<u64> {
    (0..pieces)
        .map(|at| match at * 10 / pieces {
            0..2 => 400 + at as u64 % 300,
            2..4 => 5_000 + at as u64 % 3_000,
            4..5 => 30_000,
            _ => 3_000_000 + at as u64 * 1000,
        })
        .collect()
}

pub fn workloads() -> Vec<(&'static str, Vec<u64>)> {
    vec![
        ("hot and cold", hot_and_cold(200, 300)),
        ("spread", spread(500)),
        ("slow reuse", slow_reuse(500)),
        ("build", build(500)),
        ("all hot", hot_and_cold(500, 0)),
    ]
}

/// Senpai as it is published (github.com/facebookincubator/senpai, its defaults but the smallest size): `memory.high` is lowered by up to 1 %
/// each 6 s while less than 10 ms were lost in them, and raised by the square of how much more it was.
pub fn senpai() -> impl FnMut(&mut Memory) {
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
pub fn tmo() -> impl FnMut(&mut Memory) {
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
