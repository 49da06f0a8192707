//! One group whose `pids.max` memgov has set. Whether it may be set at all is decided before, and at what by all who ask for one
//! ([`super::cap::Cap`]): on v1 two memory groups, one in the other, may have one pids group between them.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use memgov_decide::snapshot::GroupId;
use memgov_decide::units::Time;

use super::super::kept_limit::KeptLimit;
use super::super::ledger::{GroupLimit, Ledger};
use super::super::paths;
use super::{Failure, failed};
use crate::kernel::{Errno, file, sys, text};

/// No limit, as a number.
const NONE: u64 = u64::MAX;
/// More than this the kernel does not take as a number (`PIDS_MAX` in kernel/cgroup/pids.c, PID_MAX_LIMIT of 64-bit kernels).
const MOST_PIDS: u64 = 4 << 20;
/// What could not be given back is tried again after so long, and each time after twice as long.
const AGAIN: Duration = Duration::from_secs(1);
/// Until it is tried so seldom.
const SELDOM: Duration = Duration::from_secs(60);

/// A group's limit with the count that it bounds.
#[derive(Debug)]
pub struct Limit {
    /// Which group's it is, among all that count processes.
    pub inode: u64,
    current: OwnedFd,
    kept: KeptLimit,
    owed: Option<Owed>,
}

/// Nobody wants it any more, and it could not be given back: whoever limits the group meanwhile finds here what it had before.
#[derive(Clone, Copy, Debug)]
struct Owed {
    /// Who wanted it last.
    group: GroupId,
    due: Time,
    wait: Duration,
}

impl Limit {
    /// Sets it at what `most` says of the count there is, written down first. On v1 the group is not the memory group's directory.
    pub fn begin(
        ledger: &mut Ledger,
        dir: OwnedFd,
        path: &[u8],
        most: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Self, Failure> {
        let before = GroupLimit::Pids.read(dir.as_fd()).map_err(none_there)?;
        let current = file::open_in(dir.as_fd(), c"pids.current").map_err(none_there)?;
        let wanted = possible(most(count(current.as_fd())?));
        let inode = paths::inode(dir.as_fd()).map_err(failed)?;
        let kept = KeptLimit::begin(ledger, GroupLimit::Pids, dir, (path, inode), (before, wanted))?;
        Ok(Self { inode, current, kept, owed: None })
    }

    /// The group whose `pids.max` it is.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.kept.dir.as_fd()
    }

    /// What it is now.
    pub const fn set(&self) -> u64 {
        self.kept.set
    }

    /// The processes and threads there are.
    pub fn tasks(&self) -> Result<u64, Failure> {
        count(self.current.as_fd())
    }

    /// See [`KeptLimit::binds`].
    pub const fn binds(&self) -> bool {
        self.kept.binds()
    }

    /// See [`KeptLimit::change`].
    pub fn change(&mut self, ledger: &mut Ledger, wanted: u64) -> Result<(), Failure> {
        self.kept.change(ledger, possible(wanted))?;
        self.owed = None;
        Ok(())
    }

    /// Gives it back, now that `group` as the last wants nothing of it. If it fails, it is owed from then on.
    pub fn give_back(&mut self, ledger: &mut Ledger, group: GroupId) -> Result<(), Failure> {
        let done = self.kept.lift(ledger);
        if done.is_err() {
            let wait = self.owed.map_or(AGAIN, |owed| SELDOM.min(owed.wait * 2));
            self.owed = Some(Owed { group, due: sys::now() + wait, wait });
        }
        done
    }

    /// To whom it is owed, and when giving it back is to be tried again.
    pub fn owed(&self) -> Option<(GroupId, Time)> {
        self.owed.map(|owed| (owed.group, owed.due))
    }
}

/// Nothing the kernel would not take.
const fn possible(most: u64) -> u64 {
    if most > MOST_PIDS { NONE } else { most }
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
