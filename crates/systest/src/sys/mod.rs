//! The only place of this crate with `unsafe`: the system calls the workloads make on purpose, one thin function each, and
//! the few the harness needs before `exec`. Nothing here decides anything, and nothing here allocates.

pub mod connection;
pub mod hoard;
pub mod memory;
pub mod net;
pub mod process;
pub mod signal;
pub mod swap;

/// An errno as the kernel gave it.
pub type Errno = i32;

/// `errno` of the call that just failed.
pub fn errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The result of a call that gives 0 or -1.
fn check(result: libc::c_long) -> Result<(), Errno> {
    if result == -1 { Err(errno()) } else { Ok(()) }
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of memgov's `monotonic_ns`.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A number of bytes as a length in memory.
pub fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
