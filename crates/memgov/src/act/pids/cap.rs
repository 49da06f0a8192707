//! One group whose `pids.max` memgov sets: what it was, what it is, and who wants it so. Whether it may be set at all is decided before.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use memgov_decide::decision::{EpisodeId, Operation};
use memgov_decide::kernel_memory::Headroom;
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::Time;

use super::super::holders::Holders;
use super::super::ledger::{Entry, GroupLimit, Ledger, Place};
use super::super::paths;
use super::{Failure, failed};
use crate::kernel::{Errno, file, text};

/// No limit, as a number.
const NONE: u64 = u64::MAX;
/// More than this the kernel does not take as a number (`PIDS_MAX` in kernel/cgroup/pids.c, PID_MAX_LIMIT of 64-bit kernels).
const MOST_PIDS: u64 = 4 << 20;

/// One limited group.
#[derive(Debug)]
pub struct Cap {
    /// Whose kernel memory it is about.
    pub group: GroupId,
    /// The group whose `pids.max` it is: on v1 another directory.
    pub dir: OwnedFd,
    current: OwnedFd,
    before: u64,
    /// What it has now.
    pub set: u64,
    place: Place,
    /// Episodes that allow it no more than it has.
    pub holders: Holders<8>,
    /// What it may have while it is under its line, where a rule says that it is to have a limit then too.
    pub standing: Option<Standing>,
}

/// What stands before the line is met.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// What its processes are known to cost.
    pub headroom: Headroom,
    /// What it may have, by the last look.
    pub most: u64,
    /// When it was last seen to be this group's alone, with nobody protected in it.
    pub checked: Time,
}

impl Cap {
    /// Sets it at what `most` says of the count there is, written down first.
    pub fn begin(
        ledger: &mut Ledger,
        group: GroupId,
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
        let cap =
            Self { group, dir, current, before, set, place, holders: Holders::default(), standing: None };
        match cap.write() {
            Ok(()) => Ok(cap),
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

    /// No more than it has, for this episode. Looks whether that still stands, and follows the count downwards.
    pub fn keep(&mut self, ledger: &mut Ledger, episode: EpisodeId) -> Result<(), Failure> {
        self.holders.add(episode);
        let wanted = no_more(self.tasks()?).min(self.set);
        self.change(ledger, wanted)
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
        (self.before, self.set) = (before, wanted);
        self.write()
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

/// What holds a group at this count. At least 1: a limit of 0 says that the last one, too, is one too many.
pub fn no_more(tasks: u64) -> u64 {
    tasks.max(1)
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
