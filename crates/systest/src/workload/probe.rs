//! Tries each call that memory can be had by, and keeps the errno of each. Whatever succeeds is undone at once.
//!
//! Every round asks for a page more than the one before: memgov sets a limit to what it *reads* of the process, and
//! if it reads in the middle of a round, the part held just then is room that a round of the same size would fit into.

use std::fmt;

use crate::sys::memory::{self, Mapping, PAGE};
use crate::sys::{Errno, now};

/// The calls tried, by name. The first six are those the letter says return ENOMEM.
pub const CALLS: [&str; 8] = ["brk", "mmap", "mlock", "mlock2", "mlockall", "mprotect", "mremap", "shared"];
/// How many of [`CALLS`] the letter names.
pub const LETTERS: usize = 6;

/// The most pages a round asks for.
const MAX_PAGES: usize = 64;

/// The errno of each call, 0 for success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Results {
    /// When the round was over.
    pub at: u64,
    errnos: [Errno; CALLS.len()],
}

impl Results {
    /// Whether all calls the mask selects gave this errno.
    pub fn all(&self, mask: u32, errno: Errno) -> bool {
        (0..CALLS.len()).filter(|&at| mask & (1 << at) != 0).all(|at| self.errnos[at] == errno)
    }
}

impl fmt::Display for Results {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}", self.at)?;
        CALLS.iter().zip(self.errnos).try_for_each(|(name, errno)| write!(to, " {name}={errno}"))
    }
}

/// What [`ask_much`] tries, by name: between two mappings of a page each call that can ask for much at once.
pub const MUCH: [&str; 7] = ["little", "private", "shared", "brk", "mremap", "mprotect", "little again"];

/// Each of [`MUCH`] once, without touching what is got; the errno of each, 0 for success. What is got is given back.
pub fn ask_much(bytes: usize) -> [Errno; MUCH.len()] {
    let errno = |result: Result<(), Errno>| result.err().unwrap_or(0);
    let tried = |length, mapping| memory::map(length, mapping).and_then(|at| memory::unmap(at, length));
    let grown = || {
        let page = memory::map(PAGE, Mapping::Anon)?;
        match memory::remap(page, PAGE, bytes) {
            Ok(at) => memory::unmap(at, bytes),
            Err(errno) => memory::unmap(page, PAGE).and(Err(errno)),
        }
    };
    // So little that it may be mapped, as long as it cannot be written to.
    let part = bytes / 8;
    let opened = || {
        let at = memory::map(part, Mapping::NoAccess)?;
        let opened = memory::protect(at, part, true);
        memory::unmap(at, part).and(opened)
    };
    [
        errno(tried(PAGE, Mapping::Anon)),
        errno(tried(bytes, Mapping::Anon)),
        errno(tried(bytes, Mapping::Shared)),
        errno(memory::grow_break(bytes)),
        errno(grown()),
        errno(opened()),
        errno(tried(PAGE, Mapping::Anon)),
    ]
}

/// Numbers with blanks between them.
pub struct Spaced<'a>(pub &'a [Errno]);

impl fmt::Display for Spaced<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, it)| write!(to, "{}{it}", if at > 0 { " " } else { "" }))
    }
}

/// The regions used, made before anything can be refused.
pub struct Probe {
    no_access: usize,
    read_only: usize,
    movable: usize,
    pages: usize,
}

impl Probe {
    /// Maps what later rounds need.
    pub fn prepare() -> Result<Self, Errno> {
        let read_only = memory::map(MAX_PAGES * PAGE, Mapping::ReadOnly)?;
        // Its page tables are there from now on: a round charges as little as it can, because over memory.high the kernel
        // puts to sleep who charges.
        memory::read_pages(read_only, MAX_PAGES * PAGE);
        Ok(Self {
            no_access: memory::map(MAX_PAGES * PAGE, Mapping::NoAccess)?,
            read_only,
            movable: memory::map(PAGE, Mapping::Anon)?,
            pages: 0,
        })
    }

    /// Whether a mapping is refused: asked before a whole round while refusal is waited for. A round locks everything for
    /// a moment, and memgov sets RLIMIT_MEMLOCK to what it reads as locked.
    pub fn is_refused(&mut self) -> bool {
        self.pages = self.pages % MAX_PAGES + 1;
        let length = self.pages * PAGE;
        memory::map(length, Mapping::Anon).and_then(|at| memory::unmap(at, length)) == Err(libc::ENOMEM)
    }

    /// One round.
    pub fn round(&mut self) -> Results {
        self.pages = self.pages % MAX_PAGES + 1;
        let length = self.pages * PAGE;
        let errnos = [
            memory::grow_break(length),
            memory::map(length, Mapping::Anon).and_then(|at| memory::unmap(at, length)),
            // Never written, so that locking fills in the zero page, which is charged to nobody.
            memory::lock(self.read_only, length).and_then(|()| memory::unlock(self.read_only, length)),
            memory::lock_on_fault(self.read_only, length)
                .and_then(|()| memory::unlock(self.read_only, length)),
            memory::lock_all().and_then(|()| memory::unlock_all()),
            memory::protect(self.no_access, length, true)
                .and_then(|()| memory::protect(self.no_access, length, false)),
            self.remap(length),
            memory::map(length, Mapping::Shared).and_then(|at| memory::unmap(at, length)),
        ]
        .map(|result| result.err().unwrap_or(0));
        Results { at: now(), errnos }
    }

    fn remap(&mut self, length: usize) -> Result<(), Errno> {
        self.movable = memory::remap(self.movable, PAGE, PAGE + length)?;
        self.movable = memory::remap(self.movable, PAGE + length, PAGE)?;
        Ok(())
    }
}
