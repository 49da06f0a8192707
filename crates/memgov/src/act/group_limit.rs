//! Limits of groups that memgov lowers for a while: reading and writing their files.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use memgov_decide::decision::Operation;

use super::ledger::GroupLimit;
use crate::kernel::cgroup::{v1, v2};
use crate::kernel::file::{self, Decimal};
use crate::kernel::{Errno, sys, text};

/// No limit, as [`GroupLimit::read`] and [`GroupLimit::write`] have it.
pub const NONE: u64 = u64::MAX;

impl GroupLimit {
    /// Its file.
    pub const fn file(self) -> &'static CStr {
        match self {
            Self::Max => v1::LIMIT,
            Self::High => v2::HIGH,
            Self::Pids => c"pids.max",
        }
    }

    /// What fails when it cannot be written.
    pub const fn operation(self) -> Operation {
        Operation::PidsMax
    }

    /// What it is now; [`NONE`]: no limit.
    pub fn read(self, dir: BorrowedFd<'_>) -> Result<u64, Errno> {
        let mut buffer = [0; 64];
        let text = file::read_in(dir, self.file(), &mut buffer)?;
        let limit = match self {
            Self::Max => v1::parse_limit(text, sys::page_size()).map(|l| l.bytes().map_or(NONE, |b| b.0)),
            Self::High => v2::parse_limit(text).map(|l| l.bytes().map_or(NONE, |b| b.0)),
            Self::Pids => match text::only_line(text) {
                Some(b"max") => Some(NONE),
                line => line.and_then(text::number),
            },
        };
        limit.ok_or(Errno::IO)
    }

    /// Sets it. Allocates nothing.
    pub fn write(self, dir: BorrowedFd<'_>, value: u64) -> Result<(), Errno> {
        let none = if self == Self::Max { b"-1".as_slice() } else { b"max" };
        let number = Decimal::new(value);
        file::write_in(dir, self.file(), if value == NONE { none } else { number.as_bytes() })
    }
}
