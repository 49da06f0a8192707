//! Freezers, and the small groups made to freeze single processes in. Everything is relative to an open directory; who is
//! frozen, for how long, and what is written down first, is `act`'s.

use super::{Errno, file, text};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::CStr;

/// How far a freezer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezeState {
    /// Everything runs.
    Thawed,
    /// Asked for; some task has not stopped yet.
    Freezing,
    /// Nothing in it runs.
    Frozen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    V1,
    V2,
}

/// The freeze file of a group, kept open for duty cycles.
#[derive(Debug)]
pub struct FreezeFile {
    fd: OwnedFd,
    spelling: Spelling,
}

impl FreezeFile {
    /// `cgroup.freeze` (v2), or `freezer.state` (v1 freezer hierarchy); `NOENT` where there is neither, as in every root group.
    pub fn open(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, c"cgroup.freeze", flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, spelling: Spelling::V2 }),
            Err(Errno::NOENT) => {
                let fd = rustix::fs::openat(dir, c"freezer.state", flags, Mode::empty())?;
                Ok(Self { fd, spelling: Spelling::V1 })
            }
            Err(errno) => Err(errno),
        }
    }

    /// Whether it is that of a v1 freezer.
    pub fn is_v1(&self) -> bool {
        self.spelling == Spelling::V1
    }

    /// Freezes or thaws. Asks and returns; [`state`] says when it has happened.
    pub fn set(&self, frozen: bool) -> Result<(), Errno> {
        let value: &[u8] = match (self.spelling, frozen) {
            (Spelling::V2, true) => b"1",
            (Spelling::V2, false) => b"0",
            (Spelling::V1, true) => b"FROZEN",
            (Spelling::V1, false) => b"THAWED",
        };
        file::write(&self.fd, value)
    }
}

/// As [`FreezeFile::set`], once.
pub fn freeze(dir: BorrowedFd<'_>, frozen: bool) -> Result<(), Errno> {
    FreezeFile::open(dir)?.set(frozen)
}

/// What the freezer of a group says, its ancestors' freezing included.
pub fn state(dir: BorrowedFd<'_>) -> Result<FreezeState, Errno> {
    let mut buffer = [0; 128];
    match file::read_in(dir, c"cgroup.freeze", &mut buffer) {
        Ok(asked) => {
            let asked = text::only_line(asked) == Some(b"1");
            let events = file::read_in(dir, c"cgroup.events", &mut buffer)?;
            Ok(match text::keyed(events, b"frozen") {
                Some(1) => FreezeState::Frozen,
                Some(_) if asked => FreezeState::Freezing,
                Some(_) => FreezeState::Thawed,
                None => return Err(Errno::IO),
            })
        }
        Err(Errno::NOENT) => {
            parse_v1_state(file::read_in(dir, c"freezer.state", &mut buffer)?).ok_or(Errno::IO)
        }
        Err(errno) => Err(errno),
    }
}

/// The text of v1's `freezer.state`.
pub fn parse_v1_state(state: &[u8]) -> Option<FreezeState> {
    match text::only_line(state)? {
        b"THAWED" => Some(FreezeState::Thawed),
        b"FREEZING" => Some(FreezeState::Freezing),
        b"FROZEN" => Some(FreezeState::Frozen),
        _ => None,
    }
}

/// Makes a group below `parent` and opens it; `EXIST` if there is one of that name already.
pub fn make_group(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    open_group(parent, name)
}

/// Opens a group below `parent`; a symbolic link is not followed.
pub fn open_group(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Removes an empty group; `BUSY` while a process or a group is in it.
pub fn remove_group(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Moves a whole process into a group.
pub fn move_pid(dir: BorrowedFd<'_>, pid: u32) -> Result<(), Errno> {
    if pid == 0 {
        // To the kernel 0 is whoever writes.
        return Err(Errno::SRCH);
    }
    let value = file::Decimal::new(pid);
    file::write_in(dir, c"cgroup.procs", value.as_bytes())
}
