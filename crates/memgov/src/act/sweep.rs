//! The processes of a group and of all groups below it, into a list allocated once. What has no room is counted, and comes with the
//! next sweep, when those that had room are dealt with.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{FileType, RawDir};

use crate::kernel::cgroup::each_number;
use crate::kernel::{Errno, file, freeze};

/// Groups nested deeper than this are not followed: it bounds the stack.
pub(super) const MOST_LEVELS: u32 = 48;

/// Pids found in a subtree.
#[derive(Debug)]
pub struct Sweep {
    pids: Vec<u32>,
    buffer: Box<[u8]>,
    overflow: u32,
}

impl Sweep {
    /// Room for so many pids.
    pub fn with_capacity(pids: u32) -> Self {
        Self {
            pids: Vec::with_capacity(pids as usize),
            buffer: vec![0; 4096].into_boxed_slice(),
            overflow: 0,
        }
    }

    /// How many pids there is room for.
    pub fn room(&self) -> u32 {
        u32::try_from(self.pids.capacity()).unwrap_or(u32::MAX)
    }

    /// Looks at the subtree of `dir`. Groups that vanish meanwhile are passed over; `NODEV` if `dir` itself is gone.
    pub fn collect(&mut self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        self.pids.clear();
        self.overflow = 0;
        self.descend(dir, 0)
    }

    /// What the last look found, in the order found.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// How many pids the last look had no room for.
    pub fn overflow(&self) -> u32 {
        self.overflow
    }

    fn descend(&mut self, dir: BorrowedFd<'_>, level: u32) -> Result<(), Errno> {
        self.own(dir)?;
        each_group_below(dir, &mut |child| match level {
            MOST_LEVELS => Err(Errno::LOOP),
            _ => self.descend(child, level + 1).map(ControlFlow::Continue),
        })
    }

    /// The processes of the group itself. Those of a threaded group are listed by the group its domain begins at.
    fn own(&mut self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        let (pids, overflow) = (&mut self.pids, &mut self.overflow);
        let listed = file::open_in(dir, c"cgroup.procs").and_then(|procs| {
            each_number(procs, &mut self.buffer, &mut |pid| {
                if pids.len() < pids.capacity() {
                    pids.push(pid);
                } else {
                    *overflow = overflow.saturating_add(1);
                }
            })
        });
        match listed {
            Err(Errno::OPNOTSUPP) => Ok(()),
            // The directory is still open, but no group any more.
            Err(Errno::NOENT) => Err(Errno::NODEV),
            other => other,
        }
    }
}

/// The groups directly below one, until `f` has seen enough. One that vanishes meanwhile is passed over. Allocates nothing.
pub(super) fn each_group_below(
    dir: BorrowedFd<'_>,
    f: &mut dyn FnMut(BorrowedFd<'_>) -> Result<ControlFlow<()>, Errno>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(dir_reader(dir)?, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || is_dot(name) {
            continue;
        }
        match freeze::open_group(dir, name).and_then(|child| f(child.as_fd())) {
            Ok(ControlFlow::Continue(())) | Err(Errno::NOENT | Errno::NODEV) => {}
            Ok(ControlFlow::Break(())) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A descriptor with a reading position of its own.
fn dir_reader(dir: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, Errno> {
    freeze::open_group(dir, c".")
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
