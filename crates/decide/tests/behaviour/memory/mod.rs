//! A small simulated memory of one group, and the kernel that reclaims from it, for the control behaviour of `decide::shrink` and of
//! background reclaim. What it does, and nothing else:
//!
//! - `cold` goes first and does not come back; `hot` goes when there is no `cold` left, and all of it that went is read again (refaulted) within
//!   a second; `fixed` never goes (anonymous memory without swap, or locked).
//! - An ask for n bytes frees `greed` times n, or what there is; `Short` if that is less than n. It takes n / `speed` seconds and is
//!   interrupted after [`CALL`], with what it has freed by then.
//! - Between asks the group grows by `growth` bytes a second of `cold` memory.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod laws;
pub mod reuse;

use std::time::Duration;

use memgov_decide::shrink::Answer;
use memgov_decide::units::{Bytes, Time};

/// A call that lasts longer is interrupted.
pub const CALL: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub struct Memory {
    pub cold: u64,
    pub hot: u64,
    pub fixed: u64,
    /// Of `hot`, what has gone and is being read again.
    pub gone: u64,
    /// All that was ever read again.
    pub refaulted: u64,
    /// All that was ever freed.
    pub freed: u64,
    /// How many times what it is asked for the kernel frees.
    pub greed: u64,
    /// Bytes a second that it frees.
    pub speed: u64,
    /// Bytes a second that the group grows by.
    pub growth: u64,
    pub now: Time,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            cold: 0,
            hot: 0,
            fixed: 0,
            gone: 0,
            refaulted: 0,
            freed: 0,
            greed: 1,
            speed: Bytes::gib(2).0,
            growth: 0,
            now: Time(0),
        }
    }
}

impl Memory {
    pub fn usage(&self) -> Bytes {
        Bytes(self.cold + self.hot + self.fixed)
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        self.now = self.now + time;
        self.cold += share(self.growth, nanos);
        let back = share(self.gone, nanos).max(u64::from(self.gone > 0)).min(self.gone);
        self.gone -= back;
        self.hot += back;
        self.refaulted += back;
    }

    /// The kernel's answer to an ask.
    pub fn ask(&mut self, asked: Bytes) -> Answer {
        let most = share(self.speed, u64::try_from(CALL.as_nanos()).unwrap());
        let wanted = asked.0.min(most);
        let free = wanted.saturating_mul(self.greed).min(self.cold + self.hot);
        let cold = free.min(self.cold);
        self.cold -= cold;
        self.hot -= free - cold;
        self.gone += free - cold;
        self.freed += free;
        let took = u128::from(free.max(4096)) * 1_000_000_000 / u128::from(self.speed.max(1));
        self.pass(Duration::from_nanos(u64::try_from(took).unwrap()).min(CALL));
        match free {
            free if free >= asked.0 => Answer::Met,
            free if free >= wanted && wanted < asked.0 => Answer::Interrupted,
            _ => Answer::Short,
        }
    }
}

/// `rate` a second for so many nanoseconds.
fn share(rate: u64, nanos: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(nanos) / 1_000_000_000).unwrap()
}
