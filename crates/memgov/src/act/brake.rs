//! What stops processes for a while: the `cgroup.freeze` or `freezer.state` of a whole group, a hold group made for some of its processes, or SIGSTOP. Each is in
//! the ledger for as long as it exists, and each can be taken off at any moment. When to stop and when to go on is `slow`'s.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use memgov_decide::decision::{EpisodeId, Mechanism, Operation};
use memgov_decide::snapshot::ProcessId;

use super::ledger::{Entry, Freezer, HOLD_PREFIX, Ledger, Place};
use super::paths;
use crate::kernel::file::{self, Decimal};
use crate::kernel::freeze::{self, FreezeFile};
use crate::kernel::pidfd::PidFd;
use crate::kernel::{Errno, text};

const STOP: u8 = 19;
const CONTINUE: u8 = 18;

type Failure = (Operation, Errno);

/// What is stopped, and by what.
#[derive(Debug)]
enum Kind {
    /// A group that is not memgov's.
    Group { dir: OwnedFd, file: FreezeFile },
    /// A group made by memgov, below the group whose processes it holds.
    Hold {
        dir: OwnedFd,
        parent: OwnedFd,
        parent_inode: u64,
        file: FreezeFile,
        freezer: Freezer,
        name: HoldName,
    },
    /// One process, by SIGSTOP.
    Process { who: ProcessId },
}

/// One brake.
#[derive(Debug)]
pub struct Brake {
    /// For which slowdown; `None`: it is taken off, and only the emptied group waits to be removed.
    pub owner: Option<EpisodeId>,
    /// Times its removal was tried.
    pub tries: u16,
    inode: u64,
    kind: Kind,
    place: Place,
    on: bool,
}

/// `memgov.hold-PID-N`: unique among all memgovs of the host, so that what is found under such a name is the maker's.
#[derive(Clone, Copy, Debug)]
struct HoldName {
    bytes: [u8; 40],
    length: usize,
}

impl HoldName {
    fn new(number: u32) -> Self {
        let mut name = Self { bytes: [0; 40], length: 0 };
        for part in
            [HOLD_PREFIX, Decimal::new(std::process::id()).as_bytes(), b"-", Decimal::new(number).as_bytes()]
        {
            name.bytes[name.length..name.length + part.len()].copy_from_slice(part);
            name.length += part.len();
        }
        name
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Brake {
    /// For a whole group of the unified hierarchy or the v1 freezer's. `BUSY`: somebody else has it frozen.
    pub fn group(
        ledger: &mut Ledger,
        owner: EpisodeId,
        dir: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<Self, Failure> {
        let failed = |errno| (Operation::Freeze, errno);
        if asked_to_freeze(dir).map_err(failed)? {
            return Err(failed(Errno::BUSY));
        }
        let file = FreezeFile::open(dir).map_err(failed)?;
        let inode = paths::inode(dir).map_err(failed)?;
        let dir = freeze::open_group(dir, c".").map_err(failed)?;
        let place = write_down(ledger, &Entry::Frozen { path, inode, now: false })?;
        Ok(Self { owner: Some(owner), tries: 0, inode, kind: Kind::Group { dir, file }, place, on: false })
    }

    /// A hold group in `parent`, whose path is `path`; `number` makes its name. `path` has room for the name.
    pub fn hold(
        ledger: &mut Ledger,
        owner: EpisodeId,
        freezer: Freezer,
        parent: OwnedFd,
        path: &mut Vec<u8>,
        number: u32,
    ) -> Result<Self, Failure> {
        let name = HoldName::new(number);
        let parent_inode = paths::inode(parent.as_fd()).map_err(|errno| (Operation::MakeGroup, errno))?;
        if path.capacity() < path.len() + 1 + name.length {
            return Err((Operation::MakeGroup, Errno::NAMETOOLONG));
        }
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        let place = write_down(ledger, &Entry::Hold { freezer, path, inode: 0 })?;
        match make(ledger, place, parent.as_fd(), freezer, &name) {
            Ok((dir, file, inode)) => {
                let kind = Kind::Hold { dir, parent, parent_inode, file, freezer, name };
                Ok(Self { owner: Some(owner), tries: 0, inode, kind, place, on: false })
            }
            Err(failure) => {
                // It may have been made before the failure; if it cannot be removed, its entry has to stay.
                if matches!(paths::remove_child(parent.as_fd(), name.as_bytes()), Ok(()) | Err(Errno::NOENT))
                {
                    ledger.erase(place).map_err(|errno| (Operation::Ledger, errno))?;
                }
                Err(failure)
            }
        }
    }

    /// For one process, by SIGSTOP. `BUSY`: somebody else has stopped it.
    pub fn process(
        ledger: &mut Ledger,
        owner: EpisodeId,
        who: ProcessId,
        stopped: bool,
    ) -> Result<Self, Failure> {
        if stopped {
            return Err((Operation::SendSignal, Errno::BUSY));
        }
        PidFd::open(who).map_err(|errno| (Operation::PidfdOpen, errno))?;
        let place = write_down(ledger, &Entry::Stopped { who, now: false })?;
        Ok(Self { owner: Some(owner), tries: 0, inode: 0, kind: Kind::Process { who }, place, on: false })
    }

    /// By what it acts.
    pub fn by(&self) -> Mechanism {
        match &self.kind {
            Kind::Group { file, .. } if file.is_v1() => Mechanism::V1Freezer,
            Kind::Group { .. } => Mechanism::CgroupFreeze,
            Kind::Hold { freezer: Freezer::V2, .. } => Mechanism::HoldGroup,
            Kind::Hold { freezer: Freezer::V1, .. } => Mechanism::V1Freezer,
            Kind::Process { .. } => Mechanism::Sigstop,
        }
    }

    /// Whether it stops this group, or is this hold group.
    pub fn is_of(&self, inode: u64) -> bool {
        self.inode == inode && !matches!(self.kind, Kind::Process { .. })
    }

    /// Whether it stops a whole group that is not memgov's.
    pub fn is_group(&self) -> bool {
        matches!(self.kind, Kind::Group { .. })
    }

    /// Whether it holds processes of this group by this freezer.
    pub fn holds_from(&self, parent: u64, of: Freezer) -> bool {
        matches!(self.kind, Kind::Hold { parent_inode, freezer, .. } if parent_inode == parent && freezer == of)
    }

    /// Whether it stops this process by SIGSTOP.
    pub fn stops(&self, process: ProcessId) -> bool {
        matches!(self.kind, Kind::Process { who } if who == process)
    }

    /// Puts a process under it; only hold groups take any.
    pub fn take_in(&self, pid: u32) -> Result<(), Failure> {
        match &self.kind {
            Kind::Hold { dir, .. } => {
                freeze::move_pid(dir.as_fd(), pid).map_err(|errno| (Operation::MoveProcess, errno))
            }
            Kind::Group { .. } | Kind::Process { .. } => Ok(()),
        }
    }

    /// Stops what is under it. `BUSY`: the administrator has frozen the group himself, it is no longer memgov's business.
    pub fn stop(&mut self, ledger: &mut Ledger) -> Result<(), Failure> {
        let frozen = |errno| (Operation::Freeze, errno);
        if let Kind::Group { dir, .. } = &self.kind
            && !self.on
            && asked_to_freeze(dir.as_fd()).map_err(frozen)?
        {
            return Err(frozen(Errno::BUSY));
        }
        if !matches!(self.kind, Kind::Hold { .. }) {
            ledger.set_now(self.place, true).map_err(|errno| (Operation::Ledger, errno))?;
        }
        self.on = true;
        match &self.kind {
            Kind::Group { file, .. } | Kind::Hold { file, .. } => file.set(true).map_err(frozen),
            Kind::Process { who } => signal(*who, STOP),
        }
    }

    /// Lets what is under it go on. What is not stopped by memgov is not touched.
    pub fn go(&mut self, ledger: &mut Ledger) -> Result<(), Failure> {
        if !self.on {
            return Ok(());
        }
        match &self.kind {
            Kind::Group { file, .. } | Kind::Hold { file, .. } => {
                file.set(false).map_err(|errno| (Operation::Freeze, errno))?
            }
            Kind::Process { who } => signal(*who, CONTINUE)?,
        }
        self.on = false;
        if matches!(self.kind, Kind::Hold { .. }) {
            return Ok(());
        }
        ledger.set_now(self.place, false).map_err(|errno| (Operation::Ledger, errno))
    }

    /// Takes it off: everything goes on, everybody goes home, the hold group is removed, the entry crossed out. `BUSY`: the hold group is not
    /// empty yet; to be tried again.
    pub fn take_off(&mut self, ledger: &mut Ledger) -> Result<(), Failure> {
        match self.go(ledger) {
            // Gone with its group or process.
            Ok(()) | Err((_, Errno::NOENT | Errno::NODEV | Errno::SRCH)) => {}
            Err(failure) => return Err(failure),
        }
        if let Kind::Hold { dir, parent, name, .. } = &self.kind {
            // A fork may race with the move; its child is there the next time.
            for _ in 0..8 {
                if send_home(dir.as_fd(), parent.as_fd())? == 0 {
                    break;
                }
            }
            match paths::remove_child(parent.as_fd(), name.as_bytes()) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(errno) => return Err((Operation::MakeGroup, errno)),
            }
        }
        ledger.erase(self.place).map_err(|errno| (Operation::Ledger, errno))
    }
}

fn write_down(ledger: &mut Ledger, entry: &Entry<'_>) -> Result<Place, Failure> {
    ledger.record(entry).map_err(|errno| (Operation::Ledger, errno))
}

fn make(
    ledger: &mut Ledger,
    place: Place,
    parent: BorrowedFd<'_>,
    freezer: Freezer,
    name: &HoldName,
) -> Result<(OwnedFd, FreezeFile, u64), Failure> {
    let failed = |errno| (Operation::MakeGroup, errno);
    let dir = paths::make_child(parent, name.as_bytes()).map_err(failed)?;
    let inode = paths::inode(dir.as_fd()).map_err(failed)?;
    ledger.set_inode(place, inode).map_err(|errno| (Operation::Ledger, errno))?;
    if freezer == Freezer::V2 && has_controllers(dir.as_fd()).map_err(failed)? {
        // Being in it would change what the processes are charged to.
        return Err(failed(Errno::OPNOTSUPP));
    }
    let file = FreezeFile::open(dir.as_fd()).map_err(|errno| (Operation::Freeze, errno))?;
    Ok((dir, file, inode))
}

fn has_controllers(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffer = [0; 512];
    let text = file::read_in(dir, c"cgroup.controllers", &mut buffer)?;
    Ok(text::words(text.trim_ascii_end()).next().is_some())
}

/// Whether a group's own `cgroup.freeze` is 1, or on v1 `freezer.self_freezing`; an ancestor's does not count.
pub fn asked_to_freeze(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffer = [0; 16];
    let mut asked =
        |name| file::read_in(dir, name, &mut buffer).map(|text| text::only_line(text) == Some(b"1"));
    match asked(c"cgroup.freeze") {
        Err(Errno::NOENT) => asked(c"freezer.self_freezing"),
        other => other,
    }
}

/// Moves the processes of `from` to `to`, up to a buffer full; how many there were to move.
pub fn send_home(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<usize, Failure> {
    // Listed first: moving while reading would make the kernel's list skip some.
    let (mut pids, mut count, mut buffer) = ([0u32; 512], 0, [0u8; 512]);
    let listed = file::open_in(from, c"cgroup.procs").and_then(|procs| {
        crate::kernel::cgroup::each_number(procs, &mut buffer, &mut |pid| {
            if let Some(free) = pids.get_mut(count) {
                *free = pid;
                count += 1;
            }
        })
    });
    match listed {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::NODEV) => return Ok(0),
        Err(errno) => return Err((Operation::ListProcesses, errno)),
    }
    let mut moved = 0;
    for &pid in &pids[..count] {
        match freeze::move_pid(to, pid) {
            Ok(()) => moved += 1,
            Err(Errno::SRCH) => {}
            Err(errno) => return Err((Operation::MoveProcess, errno)),
        }
    }
    Ok(moved)
}

fn signal(who: ProcessId, signal: u8) -> Result<(), Failure> {
    let process = PidFd::open(who).map_err(|errno| (Operation::PidfdOpen, errno))?;
    process.send(signal).map_err(|errno| (Operation::SendSignal, errno))
}
