//! A limit of a group that memgov lowers and moves: what it was and what it is, in the ledger before each change, and given back in the end.

use std::os::fd::{AsFd as _, OwnedFd};

use memgov_decide::decision::Operation;
use memgov_decide::snapshot::Group;

use super::ledger::{Entry, GroupLimit, Ledger, Place};
use super::{Kit, paths};
use crate::kernel::{Errno, GroupDir, freeze};

type Failure = (Operation, Errno);

/// A limit that is memgov's until it is lifted. It is never above what it was.
#[derive(Debug)]
pub struct KeptLimit {
    which: GroupLimit,
    /// The group whose limit it is.
    pub dir: OwnedFd,
    before: u64,
    /// What it is now.
    pub set: u64,
    place: Place,
}

impl KeptLimit {
    /// Sets a limit of the group of a row. `path` is where its path is made.
    pub fn of_group(
        kit: &mut Kit,
        which: GroupLimit,
        (row, dir): (&Group, &GroupDir),
        path: &mut Vec<u8>,
        wanted: u64,
    ) -> Result<Self, Failure> {
        let failed = |errno| (which.operation(), errno);
        let dir = freeze::open_group(dir.dir(), c".").map_err(failed)?;
        paths::absolute(&kit.layout, &row.path, path).map_err(failed)?;
        let before = which.read(dir.as_fd()).map_err(failed)?;
        Self::begin(&mut kit.ledger, which, dir, (path, row.id.0), (before, wanted))
    }

    /// Sets the limit of the group at `path`, of that inode, which was `before`. Written down first.
    pub fn begin(
        ledger: &mut Ledger,
        which: GroupLimit,
        dir: OwnedFd,
        (path, inode): (&[u8], u64),
        (before, wanted): (u64, u64),
    ) -> Result<Self, Failure> {
        let set = wanted.min(before);
        let entry = Entry::GroupLimit { path, inode, which, before, set, was: set };
        let place = ledger.record(&entry).map_err(noted)?;
        let limit = Self { which, dir, before, set, place };
        match limit.write(set) {
            Ok(()) => Ok(limit),
            Err(errno) => {
                // If this fails the entry is found at the next start, and found to be done with.
                let _ = ledger.erase(place);
                Err(limit.failed(errno))
            }
        }
    }

    fn read(&self) -> Result<u64, Errno> {
        self.which.read(self.dir.as_fd())
    }

    fn write(&self, value: u64) -> Result<(), Errno> {
        self.which.write(self.dir.as_fd(), value)
    }

    const fn failed(&self, errno: Errno) -> Failure {
        (self.which.operation(), errno)
    }

    /// Whether it is less than it would be without memgov.
    pub const fn binds(&self) -> bool {
        self.set < self.before
    }

    /// What it would be if so much were wanted.
    pub fn at(&self, wanted: u64) -> u64 {
        wanted.min(self.before)
    }

    /// Another limit, if it is one. Whoever has set one of his own meanwhile gets that back in the end.
    pub fn change(&mut self, ledger: &mut Ledger, wanted: u64) -> Result<(), Failure> {
        let has = self.read().map_err(|errno| self.failed(errno))?;
        let before = if has == self.set { self.before } else { has };
        let wanted = wanted.min(before);
        if has == self.set && wanted == self.set {
            return Ok(());
        }
        ledger.set_group_limit(self.place, before, wanted).map_err(noted)?;
        match self.write(wanted) {
            Ok(()) => {
                (self.before, self.set) = (before, wanted);
                Ok(())
            }
            Err(errno) => {
                // It has what it had: that is what is to be found there, here and after a crash.
                ledger.set_group_limit(self.place, self.before, self.set).map_err(noted)?;
                Err(self.failed(errno))
            }
        }
    }

    /// Gives the limit back, unless somebody else has set one. If it fails it can be tried again.
    pub fn lift(&self, ledger: &mut Ledger) -> Result<(), Failure> {
        let done = match self.read() {
            Ok(has) if has == self.set => self.write(self.before),
            Ok(has) if has == self.before => self.which.give_below(self.dir.as_fd()),
            other => other.map(drop),
        };
        match done {
            // Gone with its group.
            Ok(()) | Err(Errno::NODEV | Errno::NOENT) => ledger.erase(self.place).map_err(noted),
            Err(errno) => Err(self.failed(errno)),
        }
    }
}

const fn noted(errno: Errno) -> Failure {
    (Operation::Ledger, errno)
}
