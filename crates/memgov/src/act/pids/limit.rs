//! One group whose `pids.max` memgov has set: what it was and what it is. Whether it may be set at all is decided before, and at what by all who ask for one
//! ([`super::cap::Cap`]): on v1 two memory groups, one in the other, may have one pids group between them.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use memgov_decide::decision::Operation;

use super::super::ledger::{Entry, GroupLimit, Ledger, Place};
use super::super::paths;
use super::{Failure, failed};
use crate::kernel::{Errno, file, text};

/// No limit, as a number.
const NONE: u64 = u64::MAX;
/// More than this the kernel does not take as a number (`PIDS_MAX` in kernel/cgroup/pids.c, PID_MAX_LIMIT of 64-bit kernels).
const MOST_PIDS: u64 = 4 << 20;

/// A limit that is memgov's until it is lifted.
#[derive(Debug)]
pub struct Limit {
    /// Which group's it is, among all that count processes.
    pub inode: u64,
    /// The group whose `pids.max` it is: on v1 not the memory group's directory.
    pub dir: OwnedFd,
    current: OwnedFd,
    before: u64,
    /// What it is now.
    pub set: u64,
    place: Place,
}

impl Limit {
    /// Sets it at what `most` says of the count there is, written down first.
    pub fn begin(
        ledger: &mut Ledger,
        dir: OwnedFd,
        path: &[u8],
        most: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Self, Failure> {
        let before = GroupLimit::Pids.read(dir.as_fd()).map_err(none_there)?;
        let current = file::open_in(dir.as_fd(), c"pids.current").map_err(none_there)?;
        let set = possible(most(count(current.as_fd())?), before);
        let inode = paths::inode(dir.as_fd()).map_err(failed)?;
        let entry = Entry::GroupLimit { path, inode, which: GroupLimit::Pids, before, set, was: set };
        let place = ledger.record(&entry).map_err(|errno| (Operation::Ledger, errno))?;
        let limit = Self { inode, dir, current, before, set, place };
        match limit.write() {
            Ok(()) => Ok(limit),
            Err(failure) => {
                // If this fails the entry is found at the next start, and found to be done with.
                let _ = ledger.erase(place);
                Err(failure)
            }
        }
    }

    fn write(&self) -> Result<(), Failure> {
        GroupLimit::Pids.write(self.dir.as_fd(), self.set).map_err(failed)
    }

    /// The processes and threads there are.
    pub fn tasks(&self) -> Result<u64, Failure> {
        count(self.current.as_fd())
    }

    /// Whether it is less than it would be without memgov.
    pub const fn binds(&self) -> bool {
        self.set < self.before
    }

    /// Another limit, if it is one. Whoever has set one of his own meanwhile gets that back in the end.
    pub fn change(&mut self, ledger: &mut Ledger, wanted: u64) -> Result<(), Failure> {
        let has = GroupLimit::Pids.read(self.dir.as_fd()).map_err(failed)?;
        let before = if has == self.set { self.before } else { has };
        let wanted = possible(wanted, before);
        if has == self.set && wanted == self.set {
            return Ok(());
        }
        ledger.set_group_limit(self.place, before, wanted).map_err(|errno| (Operation::Ledger, errno))?;
        match GroupLimit::Pids.write(self.dir.as_fd(), wanted) {
            Ok(()) => {
                (self.before, self.set) = (before, wanted);
                Ok(())
            }
            Err(errno) => {
                // It has what it had: that is what is to be found there, here and after a crash.
                ledger
                    .set_group_limit(self.place, self.before, self.set)
                    .map_err(|errno| (Operation::Ledger, errno))?;
                Err(failed(errno))
            }
        }
    }

    /// Gives the limit back, unless somebody else has set one.
    pub fn lift(&self, ledger: &mut Ledger) -> Result<(), Failure> {
        let has = GroupLimit::Pids.read(self.dir.as_fd());
        let done = match has {
            Ok(has) if has == self.set => GroupLimit::Pids.write(self.dir.as_fd(), self.before),
            other => other.map(|_| ()),
        };
        match done {
            // Gone with its group.
            Ok(()) | Err(Errno::NODEV | Errno::NOENT) => {
                ledger.erase(self.place).map_err(|errno| (Operation::Ledger, errno))
            }
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// Never above what it had before, and nothing the kernel would not take.
fn possible(most: u64, before: u64) -> u64 {
    (if most > MOST_PIDS { NONE } else { most }).min(before)
}

fn count(current: BorrowedFd<'_>) -> Result<u64, Failure> {
    let mut buffer = [0; 32];
    let text = file::pread(current, &mut buffer).map_err(failed)?;
    text::only_line(text).and_then(text::number).ok_or(failed(Errno::IO))
}

/// A group without the file is one whose parent does not enable the controller.
fn none_there(errno: Errno) -> Failure {
    failed(if errno == Errno::NOENT { Errno::OPNOTSUPP } else { errno })
}
