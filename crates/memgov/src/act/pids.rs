//! Refusing new processes and threads from outside: `pids.max` of a group at the count it has. Of kernel memory this is what can be refused
//! without a program inside the kernel; files, directories and sockets go on, and the next step of the ladder meets those.
//!
//! The kernel refuses with EAGAIN (kernel/cgroup/pids.c). On v1 the pids hierarchy is one of its own: there the limit is that of the pids group that
//! the group's processes are in, if nobody else is in it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use memgov_decide::decision::{EpisodeId, Operation, Order, Outcome, Phase};
use memgov_decide::snapshot::{GroupId, GroupSlot};

use super::holders::Holders;
use super::ledger::{Entry, GroupLimit, Ledger, MAX_PATH, Place};
use super::{Aim, Kit, Tally, nobody_is_protected, paths, refused};
use crate::kernel::layout::Controller;
use crate::kernel::{Errno, MemoryVersion, file, freeze, text};

/// Groups that can be limited at once.
const MOST: usize = 256;

/// One limited group.
#[derive(Debug)]
struct Cap {
    group: GroupId,
    dir: OwnedFd,
    before: u64,
    set: u64,
    place: Place,
    holders: Holders<8>,
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
        let sustained = matches!(at.decision.order, Order::Deny { phase: Phase::Sustain, .. });
        // What stands is only looked at: who is in the group is nothing to it.
        let kept = sustained && known.is_some();
        if !kept && let Err(outcome) = at.sweep_group(kit, id, slot) {
            return outcome;
        }
        let done = match known {
            Some(i) => self.caps[i].keep(&mut kit.ledger, episode),
            None => self.begin(kit, at, id, slot),
        };
        match done {
            Ok(()) if kept => Outcome::Nothing,
            Ok(()) => Tally::of(&kit.sweep).outcome(super::Mechanism::PidsMax),
            Err((_, Errno::NODEV)) => Outcome::Gone,
            Err((operation, errno)) => refused(operation, errno),
        }
    }

    fn begin(&mut self, kit: &mut Kit, at: &Aim<'_>, id: GroupId, slot: GroupSlot) -> Result<(), Failure> {
        if self.caps.len() == self.caps.capacity() {
            return Err((Operation::Ledger, Errno::NOSPC));
        }
        if !nobody_is_protected(kit) {
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
        extend(&mut self.path, std::os::unix::ffi::OsStrExt::as_bytes(mount.as_os_str()))?;
        if kit.layout.version == MemoryVersion::V2 && kit.layout.is_unified(Controller::Pids) {
            let row = at.snap.group(slot).ok_or(failed(Errno::NODEV))?;
            let dir = at.group(id, slot).map_err(|_| failed(Errno::NODEV))?;
            extend(&mut self.path, &row.path)?;
            return freeze::open_group(dir.dir(), c".").map_err(failed);
        }
        let first = *kit.sweep.pids().first().ok_or(failed(Errno::SRCH))?;
        let length = paths::of_process(&kit.layout, Controller::Pids, first, &mut self.line, &mut self.below);
        let length = length.map_err(failed)?;
        if &self.below[..length] == b"/" {
            // Everything that has no group of its own there: not this group's alone.
            return Err(failed(Errno::XDEV));
        }
        extend(&mut self.path, &self.below[..length])?;
        let dir = paths::open_path(&self.path).map_err(failed)?;
        self.is_its_alone(kit, at, id, slot, dir.as_fd())?;
        Ok(dir)
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
        let row = at.snap.group(slot).ok_or(failed(Errno::NODEV))?;
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
            if cap.holders.remove(episode) && !cap.holders.any() {
                tally.count(self.lift(kit, i));
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
        let mut holders = Holders::default();
        holders.add(episode);
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
        self.holders.add(episode);
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

/// Allocates nothing.
fn extend(path: &mut Vec<u8>, part: &[u8]) -> Result<(), Failure> {
    if path.len() + part.len() > path.capacity() {
        return Err(failed(Errno::NAMETOOLONG));
    }
    path.extend_from_slice(part);
    Ok(())
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
