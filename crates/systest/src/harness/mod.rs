//! What the tests and the demo stand on: facts of this machine, scratch groups, workloads in them, the real daemon and its
//! command line, and what can be seen of all these from outside. Everything made here is removed again, by name.

pub mod agent;
pub mod bench;
pub mod crossing;
pub mod daemon;
pub mod event;
pub mod group;
pub mod host;
pub mod lateness;
pub mod process;
pub mod run;
pub mod state;

use std::time::{Duration, Instant};

/// 1 MiB.
pub const MIB: u64 = 1 << 20;

/// Asks again and again until there is an answer; `None` when the time is over.
pub fn poll_until<T>(within: Duration, every: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(every);
    }
}

/// Milliseconds with one decimal, of nanoseconds.
pub fn millis(nanos: u64) -> String {
    format!("{}.{}ms", nanos / 1_000_000, nanos / 100_000 % 10)
}

/// MiB with one decimal.
pub fn mib(bytes: u64) -> String {
    format!("{}.{}MiB", bytes / MIB, bytes % MIB * 10 / MIB)
}
