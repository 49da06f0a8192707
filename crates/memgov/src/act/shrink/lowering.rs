//! A limit of a group, lowered for a moment so that the kernel reclaims down to it: v1, which has no other way to a target, and v2 before
//! 5.19. In the ledger before it is lowered, so that nobody is left with less than his administrator gave him.
//!
//! v1 (`mem_cgroup_resize_max` in mm/memcontrol.c) reclaims first and changes the limit only when usage is under the new one; interrupted,
//! or EBUSY, it has changed nothing. So the limit is lower only from the end of the one call that gets there to the next instruction, which
//! puts it back; who charges memory within these microseconds reclaims a little, and is not killed as long as that gives anything. v2
//! (`memory_high_write`) changes `memory.high` first: for as long as the call lasts, which is a fifth of a second at the most, who
//! allocates above it is throttled. Nobody is killed for `memory.high`.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use memgov_decide::shrink::Answer;
use memgov_decide::units::Bytes;

use super::{Book, CALL};
use crate::act::ledger::{Entry, GroupLimit, Place};
use crate::kernel::{Errno, file, sys};

/// A limit that is lowered again and again until its group is small enough.
pub(super) struct Lowering {
    pub which: GroupLimit,
    /// Opened once: whoever may lower it can raise it again, whatever becomes of his rights.
    pub file: OwnedFd,
    /// As the ledger names the group.
    pub path: Vec<u8>,
    pub inode: u64,
    /// What stands in the ledger: the place, what the limit was, what it is set to.
    pub written: Option<(Place, u64, u64)>,
}

impl Lowering {
    /// One call: reclaim towards `target`, for at most [`CALL`].
    pub fn press(
        &mut self,
        dir: BorrowedFd<'_>,
        target: Bytes,
        book: &mut dyn Book,
    ) -> Result<Answer, Errno> {
        let page = sys::page_size();
        // As the kernel rounds it, or undo would not know it again.
        let set = target.0 - target.0 % page;
        let before = self.which.read(dir)?;
        if before <= set {
            // Usage is over this limit or on its way under it: the kernel sees to that without our help.
            return Ok(Answer::Short);
        }
        if self.written.is_none_or(|(_, was, to)| (was, to) != (before, set)) {
            self.close(book)?;
            let Self { which, inode, .. } = *self;
            let entry = Entry::GroupLimit { path: &self.path, inode, which, before, set, was: set };
            self.written = Some((book.record(&entry)?, before, set));
        }
        let begin = Instant::now();
        let pressed = file::write_once(&self.file, self.which.text(set).as_bytes());
        let restored = self.put_back(dir, before, set, pressed);
        let answer = match pressed {
            Ok(()) if self.which == GroupLimit::Max => Answer::Met,
            // It says neither that it was interrupted nor that it has given up.
            Ok(()) if begin.elapsed() + Duration::from_millis(5) >= CALL => Answer::Interrupted,
            Ok(()) => Answer::Short,
            Err(Errno::BUSY) => Answer::Short,
            Err(Errno::INTR) => Answer::Interrupted,
            Err(errno) => return restored.and(Err(errno)),
        };
        restored.map(|()| answer)
    }

    /// The former limit again. Of v1 only a call that succeeded has changed anything.
    fn put_back(
        &self,
        dir: BorrowedFd<'_>,
        before: u64,
        set: u64,
        pressed: Result<(), Errno>,
    ) -> Result<(), Errno> {
        if self.which == GroupLimit::Max && pressed.is_err() {
            return Ok(());
        }
        let text = self.which.text(before);
        loop {
            match file::write_once(&self.file, text.as_bytes()) {
                Err(Errno::INTR) => {}
                Ok(()) => return Ok(()),
                // Somebody has set another limit meanwhile, one that this does not go with: it is his.
                Err(errno) => {
                    return match self.which.read(dir) {
                        Ok(now) if now != set => Ok(()),
                        _ => Err(errno),
                    };
                }
            }
        }
    }

    /// Crosses out what stands in the ledger: nothing is lowered between two calls.
    pub fn close(&mut self, book: &mut dyn Book) -> Result<(), Errno> {
        match self.written.take() {
            Some((place, ..)) => book.erase(place),
            None => Ok(()),
        }
    }
}
