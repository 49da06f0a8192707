//! Refusing new processes and threads from outside: `pids.max` of a group at the count it has. Of kernel memory this is what can be refused
//! without a program inside the kernel; files, directories and sockets go on, and the next step of the ladder meets those.
//!
//! The kernel refuses with EAGAIN (kernel/cgroup/pids.c). On v1 the pids hierarchy is one of its own: there the limit is that of the pids group that
//! the group's processes are in, if nobody else is in it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use memgov_decide::decision::{EpisodeId, Operation, Outcome};
use memgov_decide::snapshot::{GroupId, GroupSlot};

use super::ledger::{Entry, GroupLimit, Ledger, MAX_PATH, Place};
use super::{Aim, Kit, Tally, paths, refused};
use crate::kernel::layout::Controller;
use crate::kernel::{Errno, MemoryVersion, file, freeze, proc, text};

/// Groups that can be limited at once.
const MOST: usize = 256;
/// Episodes that may hold one group at once.
const MOST_HOLDERS: usize = 8;

/// One limited group.
#[derive(Debug)]
struct Cap {
    group: GroupId,
    dir: OwnedFd,
    before: u64,
    set: u64,
    place: Place,
    holders: [Option<EpisodeId>; MOST_HOLDERS],
}

/// All limited groups.
#[derive(Debug)]
pub struct Caps {
    caps: Vec<Cap>,
    /// Room for the path of one that begins.
    path: Vec<u8>,
    line: Box<[u8]>,
    below: Box<[u8]>,
}

type Failure = (Operation, Errno);

const fn failed(errno: Errno) -> Failure {
    (Operation::PidsMax, errno)
}

impl Caps {
    /// Allocates the tables.
    pub fn new() -> Self {
        Self {
            caps: Vec::with_capacity(MOST),
            path: Vec::with_capacity(MAX_PATH),
            line: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
            below: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
        }
    }

    /// Who is limited, for status.
    pub fn views(&self) -> impl Iterator<Item = GroupId> {
        self.caps.iter().map(|cap| cap.group)
    }

    /// Limits a group to the processes and threads it has now, or keeps it so.
    pub(super) fn hold(&mut self, kit: &mut Kit, at: &Aim<'_>, id: GroupId, slot: GroupSlot) -> Outcome {
        let episode = at.decision.episode;
        let known = self.caps.iter().position(|cap| cap.group == id);
        if known.is_none()
            && let Err(outcome) = at.sweep_group(kit, id, slot)
        {
            return outcome;
        }
        let done = match known {
            Some(i) => self.caps[i].keep(&mut kit.ledger, episode),
            None => self.begin(kit, at, id, slot),
        };
        match done {
            Ok(()) if known.is_some() => Outcome::Nothing,
            Ok(()) => {
                let processes = u32::try_from(kit.sweep.pids().len()).unwrap_or(u32::MAX);
                Tally { reached: processes, ..Tally::default() }.outcome(super::Mechanism::PidsMax)
            }
            Err((_, Errno::NODEV)) => Outcome::Gone,
            Err((operation, errno)) => refused(operation, errno),
        }
    }

    fn begin(&mut self, kit: &mut Kit, at: &Aim<'_>, id: GroupId, slot: GroupSlot) -> Result<(), Failure> {
        if self.caps.len() == self.caps.capacity() {
            return Err((Operation::Ledger, Errno::NOSPC));
        }
        if somebody_is_protected(kit) {
            return Err(failed(Errno::PERM));
        }
        let dir = self.find(kit, at, id, slot)?;
        let cap = Cap::begin(&mut kit.ledger, at.decision.episode, id, dir, &self.path)?;
        self.caps.push(cap);
        Ok(())
    }

    /// The group whose `pids.max` counts exactly the processes of the last sweep, with its absolute path.
    fn find(
        &mut self,
        kit: &mut Kit,
        at: &Aim<'_>,
        id: GroupId,
        slot: GroupSlot,
    ) -> Result<OwnedFd, Failure> {
        let mount = kit.layout.pids.as_deref().ok_or(failed(Errno::OPNOTSUPP))?;
        self.path.clear();
        self.extend(std::os::unix::ffi::OsStrExt::as_bytes(mount.as_os_str()))?;
        if kit.layout.version == MemoryVersion::V2 && kit.layout.is_unified(Controller::Pids) {
            let row = at.snap.group(slot).ok_or(failed(Errno::NODEV))?;
            let dir = at.group(id, slot).map_err(|_| failed(Errno::NODEV))?;
            self.extend(&row.path)?;
            return freeze::open_group(dir.dir(), c".").map_err(failed);
        }
        let first = *kit.sweep.pids().first().ok_or(failed(Errno::SRCH))?;
        let length = paths::of_process(&kit.layout, Controller::Pids, first, &mut self.line, &mut self.below);
        let length = length.map_err(failed)?;
        if &self.below[..length] == b"/" {
            // Everything that has no group of its own there: not this group's alone.
            return Err(failed(Errno::XDEV));
        }
        if self.path.len() + length > self.path.capacity() {
            return Err(failed(Errno::NAMETOOLONG));
        }
        self.path.extend_from_slice(&self.below[..length]);
        let dir = paths::open_path(&self.path).map_err(failed)?;
        self.is_its_alone(kit, at, id, slot, dir.as_fd())?;
        Ok(dir)
    }

    /// Allocates nothing.
    fn extend(&mut self, part: &[u8]) -> Result<(), Failure> {
        if self.path.len() + part.len() > self.path.capacity() {
            return Err(failed(Errno::NAMETOOLONG));
        }
        self.path.extend_from_slice(part);
        Ok(())
    }

    /// Whether nobody else is in the pids group, and all of the group are. `XDEV`: no.
    fn is_its_alone(
        &mut self,
        kit: &mut Kit,
        at: &Aim<'_>,
        id: GroupId,
        slot: GroupSlot,
        pids: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let Ok(row) = at.snap.group(slot).ok_or(Errno::NODEV) else { return Err(failed(Errno::NODEV)) };
        let members = kit.sweep.pids().len();
        kit.sweep.collect(pids).map_err(failed)?;
        let mut others = 0;
        for i in 0..kit.sweep.pids().len() {
            let pid = kit.sweep.pids()[i];
            let found =
                paths::of_process(&kit.layout, Controller::Memory, pid, &mut self.line, &mut self.below);
            // Whoever cannot be found has gone meanwhile.
            let Ok(length) = found else { continue };
            let inside = self.below[..length].strip_prefix(&*row.path);
            others += usize::from(!inside.is_some_and(|rest| rest.is_empty() || rest[0] == b'/'));
        }
        let counted = kit.sweep.pids().len();
        at.sweep_group(kit, id, slot).map_err(|_| failed(Errno::NODEV))?;
        // A few are born or die between the two looks; a group that is spread over several is another thing.
        if others > 0 || counted * 2 < members { Err(failed(Errno::XDEV)) } else { Ok(()) }
    }

    /// Ends an episode: a group that no other holds gets its limit back.
    pub(super) fn release(&mut self, kit: &mut Kit, episode: EpisodeId, tally: &mut Tally) {
        for i in (0..self.caps.len()).rev() {
            let cap = &mut self.caps[i];
            if cap.holders.contains(&Some(episode)) {
                cap.holders.iter_mut().filter(|h| **h == Some(episode)).for_each(|h| *h = None);
                if cap.holders.iter().all(Option::is_none) {
                    tally.count(self.lift(kit, i));
                }
            }
        }
    }

    /// Ends everything.
    pub(super) fn release_all(&mut self, kit: &mut Kit, tally: &mut Tally) {
        for i in (0..self.caps.len()).rev() {
            tally.count(self.lift(kit, i));
        }
    }

    fn lift(&mut self, kit: &mut Kit, i: usize) -> Result<(), Failure> {
        self.caps.swap_remove(i).lift(&mut kit.ledger)
    }
}

impl Cap {
    fn begin(
        ledger: &mut Ledger,
        episode: EpisodeId,
        group: GroupId,
        dir: OwnedFd,
        path: &[u8],
    ) -> Result<Self, Failure> {
        let before = GroupLimit::Pids.read(dir.as_fd()).map_err(none_there)?;
        let set = count(dir.as_fd())?.min(before);
        let inode = paths::inode(dir.as_fd()).map_err(failed)?;
        let entry = Entry::GroupLimit { path, inode, which: GroupLimit::Pids, before, set };
        let place = ledger.record(&entry).map_err(|errno| (Operation::Ledger, errno))?;
        let mut holders = [None; MOST_HOLDERS];
        holders[0] = Some(episode);
        match GroupLimit::Pids.write(dir.as_fd(), set) {
            Ok(()) => Ok(Self { group, dir, before, set, place, holders }),
            Err(errno) => {
                // If this fails the entry is found at the next start, and found to be done with.
                let _ = ledger.erase(place);
                Err(failed(errno))
            }
        }
    }

    /// Looks whether it still stands; whoever has set another meanwhile gets that back in the end. Follows the count downwards.
    fn keep(&mut self, ledger: &mut Ledger, episode: EpisodeId) -> Result<(), Failure> {
        if !self.holders.contains(&Some(episode))
            && let Some(free) = self.holders.iter_mut().find(|h| h.is_none())
        {
            *free = Some(episode);
        }
        let has = GroupLimit::Pids.read(self.dir.as_fd()).map_err(failed)?;
        let wanted = count(self.dir.as_fd())?.min(self.set);
        if has == self.set && wanted == self.set {
            return Ok(());
        }
        if has != self.set {
            self.before = has;
        }
        self.set = wanted.min(self.before);
        ledger
            .set_group_limit(self.place, self.before, self.set)
            .map_err(|errno| (Operation::Ledger, errno))?;
        GroupLimit::Pids.write(self.dir.as_fd(), self.set).map_err(failed)
    }

    /// Gives the limit back, unless somebody else has set one.
    fn lift(&self, ledger: &mut Ledger) -> Result<(), Failure> {
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

/// The processes and threads a pids group has now. At least 1: a limit of 0 says that the last one, too, is one too many.
fn count(dir: BorrowedFd<'_>) -> Result<u64, Failure> {
    let mut buffer = [0; 32];
    let text = file::read_in(dir, c"pids.current", &mut buffer).map_err(none_there)?;
    let current = text::only_line(text).and_then(text::number).ok_or(failed(Errno::IO))?;
    Ok(current.max(1))
}

/// A group without the file is one whose parent does not enable the controller.
fn none_there(errno: Errno) -> Failure {
    failed(if errno == Errno::NOENT { Errno::OPNOTSUPP } else { errno })
}

/// Whether somebody of the last sweep may not be touched.
fn somebody_is_protected(kit: &mut Kit) -> bool {
    let mut buffer = [0; proc::STAT_BUFFER];
    (0..kit.sweep.pids().len()).any(|i| {
        proc::read_stat(kit.sweep.pids()[i], &mut buffer).is_ok_and(|stat| kit.guard.forbids(&stat).is_some())
    })
}
