//! Limits of groups that memgov lowers or raises for a while: reading and writing their files.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use memgov_decide::decision::Operation;

use super::ledger::GroupLimit;
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
        }
    }

    /// What fails when it cannot be written.
    pub const fn operation(self) -> Operation {
        match self {
            Self::Max | Self::High => Operation::Reclaim,
            Self::Pids => Operation::PidsMax,
            Self::Hard => Operation::Lend,
            Self::Tcp => Operation::TcpLimit,
        }
    }

    /// What it is now; `u64::MAX`: no limit.
    pub fn read(self, dir: BorrowedFd<'_>) -> Result<u64, Errno> {
        let mut buffer = [0; 64];
        let text = file::read_in(dir, self.file(), &mut buffer)?;
        let limit = match self {
            Self::Max | Self::Tcp => v1::parse_limit(text, sys::page_size()),
            // A number, or `max`: of processes as of bytes.
            Self::High | Self::Pids | Self::Hard => v2::parse_limit(text),
        };
        Ok(limit.ok_or(Errno::IO)?.bytes().map_or(NONE, |bytes| bytes.0))
    }

    /// Sets it. Not begun again when a signal interrupts it; allocates nothing.
    pub fn write(self, dir: BorrowedFd<'_>, value: u64) -> Result<(), Errno> {
        file::write_once(file::open_to_write(dir, self.file())?, self.text(value).as_bytes())
    }

    /// What is written for a value.
    pub(crate) fn text(self, value: u64) -> Text {
        match (self, value) {
            (Self::Max | Self::Tcp, NONE) => Text::None("-1"),
            (_, NONE) => Text::None("max"),
            _ => Text::Number(Decimal::new(value)),
        }
    }
}

/// The text of a limit, on the stack.
pub(crate) enum Text {
    /// No limit.
    None(&'static str),
    /// A number.
    Number(Decimal),
}

impl Text {
    /// To be written.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::None(word) => word.as_bytes(),
            Self::Number(digits) => digits.as_bytes(),
        }
    }
}
