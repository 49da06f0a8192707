//! How long a call takes: batches of the same call by the clock of the machine, which on a counting machine counts instructions.

use std::ffi::CStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::sys::memory::{self, Mapping, PAGE};
use crate::sys::{Errno, now, process};

/// A call, and what undoes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// mmap and munmap of 16 pages that nobody touches.
    Map,
    /// The first touch of a page of memory mapped before.
    Fault,
    /// fork, and the child ends.
    Fork,
    /// mkdir and rmdir.
    Mkdir,
}

impl Call {
    /// By its name in the protocol.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "mmap" => Self::Map,
            "fault" => Self::Fault,
            "fork" => Self::Fork,
            "mkdir" => Self::Mkdir,
            _ => return None,
        })
    }
}

/// Pages faulted in before they are given back.
const PAGES: usize = 64;
const DIRECTORY: &CStr = c"/tmp/memgov-paced";

/// The least and the median nanoseconds of one call, over so many batches of so many calls. A batch that something else came between is longer: the least is
/// what the call itself takes.
pub fn measure(call: Call, calls: u64, batches: usize) -> Result<(u64, u64), Errno> {
    let _pinned = Pinned::here()?;
    let room = memory::map(PAGES * PAGE, Mapping::Anon)?;
    let mut took = Vec::with_capacity(batches);
    for _ in 0..batches {
        let begin = now();
        for number in 0..calls {
            once(call, room, usize::try_from(number).unwrap_or(0))?;
        }
        took.push((now() - begin) / calls.max(1));
    }
    memory::unmap(room, PAGES * PAGE)?;
    took.sort_unstable();
    Ok((took.first().copied().unwrap_or(0), took.get(batches / 2).copied().unwrap_or(0)))
}

/// On one processor, with its children: what a call takes depends on whether somebody has to be woken on another.
struct Pinned(CpuSet);

impl Pinned {
    fn here() -> Result<Self, Errno> {
        let before = sched_getaffinity(None).map_err(rustix::io::Errno::raw_os_error)?;
        let mut one = CpuSet::new();
        one.set(rustix::thread::sched_getcpu());
        sched_setaffinity(None, &one).map_err(rustix::io::Errno::raw_os_error)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Who is pinned for ever is slower, and nothing else.
        let _ = sched_setaffinity(None, &self.0);
    }
}

fn once(call: Call, room: usize, number: usize) -> Result<(), Errno> {
    match call {
        Call::Map => memory::unmap(memory::map(16 * PAGE, Mapping::Anon)?, 16 * PAGE),
        Call::Fault => {
            let page = number % PAGES;
            if page == 0 {
                memory::discard(room, PAGES * PAGE)?;
            }
            memory::touch(room + page * PAGE, PAGE);
            Ok(())
        }
        Call::Fork => match process::fork()? {
            0 => process::exit_now(0),
            child => process::wait(child, 0).map(|_| ()),
        },
        Call::Mkdir => {
            let made = rustix::fs::mkdir(DIRECTORY, rustix::fs::Mode::RWXU);
            made.and_then(|()| rustix::fs::rmdir(DIRECTORY)).map_err(rustix::io::Errno::raw_os_error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_can_be_measured_and_leaves_nothing() {
        for name in ["mmap", "fault", "fork", "mkdir"] {
            let (least, median) = measure(Call::named(name).unwrap(), 100, 3).unwrap();
            assert!(least > 0 && least <= median, "{name}: {least} {median}");
        }
        assert!(!std::path::Path::new("/tmp/memgov-paced").exists());
        assert_eq!(Call::named("open"), None);
    }
}
