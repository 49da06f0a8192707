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
pub mod peers;
pub mod process;
pub mod run;
mod selection;
pub mod state;
pub mod swap;
pub mod zram;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

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

/// A line of /proc/meminfo (proc_meminfo(5)), in bytes.
pub fn meminfo(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.with_context(|| format!("no {name} in /proc/meminfo"))?;
    let kib: u64 = value.trim().trim_end_matches(" kB").parse().with_context(|| name.to_owned())?;
    Ok(kib << 10)
}

/// Makes loopback work: a machine of the tests' own begins without.
pub fn loopback_up() -> Result<()> {
    crate::sys::net::loopback_up().map_err(|errno| anyhow!("bringing lo up: errno {errno}"))
}

/// Milliseconds with one decimal, of nanoseconds.
pub fn millis(nanos: u64) -> String {
    format!("{}.{}ms", nanos / 1_000_000, nanos / 100_000 % 10)
}

/// MiB with one decimal.
pub fn mib(bytes: u64) -> String {
    format!("{}.{}MiB", bytes / MIB, bytes % MIB * 10 / MIB)
}
