//! The kernel's files and calls, in its own words: control groups, `/proc`, pidfds, rlimits, freezers, notifications.
//!
//! Nothing here knows a rule or takes a decision. Off the acting path errors are [`Error`] (operation and path); on it they
//! are [`Errno`], buffers are the caller's, and nothing is allocated. A missing file or key is `None`, never 0.

pub mod capabilities;
pub mod cgroup;
pub(crate) mod file;
pub mod fork;
pub mod forks;
pub mod freeze;
pub mod layout;
pub mod meminfo;
pub mod notify;
pub mod pidfd;
pub mod preference;
pub mod proc;
pub mod psi;
pub mod rlimit;
pub mod roots;
pub mod seccomp;
pub mod sock_diag;
pub mod socket;
pub mod sys;
pub(crate) mod text;
pub mod vmstat;

pub use cgroup::{GroupDir, Reading, subgroups};
pub use layout::{Hierarchy, Layout, MemoryVersion, OwnGroups};
pub use rustix::io::Errno;

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What went wrong, with which file, while doing what: `reading /x/y: No such file or directory`.
#[derive(Debug)]
pub struct Error {
    /// The operation, as a participle: `reading`.
    pub op: &'static str,
    /// The file it was done to.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl Error {
    /// The one way errors are built, so that none lacks its path.
    pub fn new(op: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { op, path: path.into(), source: source.into() }
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.op, self.path.display(), self.source)
    }
}

// No `source()`: the cause is part of the message already, and a chain printer would say it twice.
impl std::error::Error for Error {}
