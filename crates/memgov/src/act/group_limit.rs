//! Limits of groups that memgov lowers or raises for a while: reading and writing their files.

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use memgov_decide::decision::Operation;
use memgov_decide::units::{Bytes, Limit};

use super::ledger::GroupLimit;
use super::sweep::{MOST_LEVELS, each_group_below};
use crate::kernel::cgroup::{v1, v2};
use crate::kernel::file::{self, Decimal};
use crate::kernel::{Errno, sys};

/// No limit.
const NONE: u64 = u64::MAX;

impl GroupLimit {
    /// Its file.
    pub const fn file(self) -> &'static CStr {
        match self {
            Self::Max => v1::LIMIT,
            Self::High => v2::HIGH,
            Self::Pids => c"pids.max",
            Self::Hard => v2::MAX,
            Self::Tcp => v1::TCP_LIMIT,
            Self::OomKiller => v1::OOM_CONTROL,
        }
    }

    /// What fails when it cannot be written.
    pub const fn operation(self) -> Operation {
        match self {
            Self::Max | Self::High => Operation::Reclaim,
            Self::Pids => Operation::PidsMax,
            Self::Hard => Operation::Lend,
            Self::Tcp => Operation::TcpLimit,
            Self::OomKiller => Operation::OomControl,
        }
    }

    /// What it is now; `u64::MAX`: no limit.
    pub fn read(self, dir: BorrowedFd<'_>) -> Result<u64, Errno> {
        let mut buffer = [0; 64];
        let text = file::read_in(dir, self.file(), &mut buffer)?;
        let limit = match self {
            // What is written is whether it is off, what is kept how far it is on.
            Self::OomKiller => v1::parse_oom_killer(text).map(|on| Limit::At(Bytes(on.into()))),
            Self::Max | Self::Tcp => v1::parse_limit(text, sys::page_size()),
            // A number, or `max`: of processes as of bytes.
            Self::High | Self::Pids | Self::Hard => v2::parse_limit(text),
        };
        Ok(limit.ok_or(Errno::IO)?.bytes().map_or(NONE, |bytes| bytes.0))
    }

    /// Sets it. Not begun again when a signal interrupts it; allocates nothing.
    pub fn write(self, dir: BorrowedFd<'_>, value: u64) -> Result<(), Errno> {
        self.put(dir, value)?;
        if value == 0 { Ok(()) } else { self.give_below(dir) }
    }

    /// What groups below have inherited while it was held, and lose when it is given back: of the OOM killer alone. Whoever gave it back may not have come to that.
    pub fn give_below(self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            Self::OomKiller => give_heirs(dir, 0),
            Self::Max | Self::High | Self::Pids | Self::Hard | Self::Tcp => Ok(()),
        }
    }

    fn put(self, dir: BorrowedFd<'_>, value: u64) -> Result<(), Errno> {
        file::write_once(file::open_to_write(dir, self.file())?, self.text(value).as_bytes())
    }

    /// What is written for a value.
    pub(crate) fn text(self, value: u64) -> Text {
        match (self, value) {
            (Self::OomKiller, 0) => Text::Word("1"),
            (Self::OomKiller, _) => Text::Word("0"),
            (Self::Max | Self::Tcp, NONE) => Text::Word("-1"),
            (_, NONE) => Text::Word("max"),
            _ => Text::Number(Decimal::new(value)),
        }
    }
}

/// A group that is made below one whose killer is held off is born without one, and keeps it so (mem_cgroup_css_alloc in mm/memcontrol.c): what
/// such groups have inherited they lose here. Where one had none before, nothing is held off ([`has_heir_without_killer`]).
///
/// A group is given it after those below it, so that whoever is interrupted finds where he was; and they are looked at once more, for what was made meanwhile. What fails for one is no
/// reason to leave out the others. Who nests deeper than is followed may write the file himself.
fn give_heirs(dir: BorrowedFd<'_>, level: u32) -> Result<(), Errno> {
    if level == MOST_LEVELS {
        return Ok(());
    }
    let mut done = Ok(());
    each_group_below(dir, &mut |child| {
        let given = match GroupLimit::OomKiller.read(child) {
            Ok(0) => give_heirs(child, level + 1)
                .and(GroupLimit::OomKiller.put(child, 1))
                .and_then(|()| give_heirs(child, level + 1)),
            other => other.map(drop),
        };
        if !matches!(given, Err(Errno::NOENT | Errno::NODEV)) {
            done = done.and(given);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    done
}

/// Whether some group directly below has no killer.
pub(super) fn has_heir_without_killer(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut found = false;
    each_group_below(dir, &mut |child| {
        found = GroupLimit::OomKiller.read(child) == Ok(0);
        Ok(if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(found)
}

/// The text of a limit, on the stack.
pub(crate) enum Text {
    /// No limit, or a switch.
    Word(&'static str),
    /// A number.
    Number(Decimal),
}

impl Text {
    /// To be written.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Word(word) => word.as_bytes(),
            Self::Number(digits) => digits.as_bytes(),
        }
    }
}
