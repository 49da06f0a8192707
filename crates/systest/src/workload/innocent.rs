//! A neighbour that does a little of everything memgov could disturb, on a timetable, and measures how late it gets.
//! Latency counts from when a piece of work was due, so a stop is seen even where no call is slow.

use super::histogram::Histogram;
use crate::sys::memory::{self, Mapping};
use crate::sys::{Errno, now, process};

/// One piece of work maps, fills and frees so much.
const BYTES: usize = 256 << 10;
/// Every so many pieces a child is born and dies.
const FORK_EVERY: u64 = 16;

/// Its state and what it measured.
pub struct Innocent {
    /// Nanoseconds between two pieces of work.
    pub interval: u64,
    due: u64,
    pieces: u64,
    failures: u64,
    latency: Histogram,
}

impl Innocent {
    /// Starts now.
    pub fn new(interval: u64) -> Self {
        Self { interval, due: now(), pieces: 0, failures: 0, latency: Histogram::new() }
    }
    /// When it wants to run next.
    pub const fn due(&self) -> u64 {
        self.due
    }
    /// One piece of work.
    pub fn work(&mut self) {
        self.pieces += 1;
        let done = if self.pieces.is_multiple_of(FORK_EVERY) { fork_once() } else { map_once() };
        self.failures += u64::from(done.is_err());
        let end = now();
        self.latency.add(end.saturating_sub(self.due));
        // Work that is late already is not caught up with: each delay is counted once.
        self.due = (self.due + self.interval).max(end);
    }
    /// `pieces failures p50 p99 max`, times in microseconds.
    pub fn figures(&self) -> [u64; 5] {
        let micro = |nanos: u64| nanos / 1000;
        let latency = &self.latency;
        [
            latency.total(),
            self.failures,
            micro(latency.percentile(50)),
            micro(latency.percentile(99)),
            micro(latency.max()),
        ]
    }
}

fn map_once() -> Result<(), Errno> {
    let address = memory::map(BYTES, Mapping::Anon)?;
    memory::touch(address, BYTES);
    memory::unmap(address, BYTES)
}

fn fork_once() -> Result<(), Errno> {
    match process::fork()? {
        0 => process::exit_now(0),
        child => process::wait(child, 0).map(|_| ()),
    }
}
