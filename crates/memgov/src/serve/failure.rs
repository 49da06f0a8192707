//! Why a request was not carried out: one list, each with its varlink name, errno and exit code.

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Which.
    pub kind: FailureKind,
    /// A sentence with the way out.
    pub text: String,
}

/// Which refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Not theirs, or beyond a limit above.
    PermissionDenied,
    /// No such pid, or it has exited meanwhile.
    NoSuchProcess,
    /// No such group, or it has been removed meanwhile.
    NoSuchGroup,
    /// Nothing of the kind was set on the group.
    NoSuchRule,
    /// No such decision, or it is no longer kept.
    NoSuchDecision,
    /// No such shrink, or it is no longer kept.
    NoSuchJob,
    /// A shrink that says nothing or that this kernel cannot do.
    InvalidShrink,
    /// An action word or limit the letter refuses.
    InvalidControl,
    /// A rule that says nothing or something impossible.
    InvalidRule,
    /// A configuration that was not put in force.
    InvalidConfig,
    /// A table is full.
    TableFull,
    /// The loop did not answer in time.
    Busy,
    /// Something failed that should not.
    Internal,
    /// No question of that number is open.
    NoSuchQuestion,
    /// An answer that there is not.
    InvalidAnswer,
    /// The group has a handler already.
    HandlerTaken,
    /// A process that cannot be the handler of this group: it is in it.
    InvalidHandler,
    /// No handler is waited for about that (any more), or it is another process.
    NoSuchShortage,
    /// A reserve that is to be smaller than what of it is in use.
    ReserveInUse,
}

/// Exit codes of the command line.
pub mod exit {
    /// Failed for a reason that has no code of its own.
    pub const FAILED: u8 = 1;
    /// Wrong usage (clap's code).
    pub const USAGE: u8 = 2;
    /// The configuration is not valid.
    pub const CONFIG: u8 = 3;
    /// Not permitted.
    pub const PERMISSION: u8 = 4;
    /// No such process, group, rule or decision.
    pub const NO_TARGET: u8 = 5;
    /// The daemon does not run.
    pub const NO_DAEMON: u8 = 6;
    /// The daemon is busy, or a table of it is full: try again.
    pub const BUSY: u8 = 7;
    /// `shrink`: what is left cannot be reclaimed (EBUSY).
    pub const HARD: u8 = 8;
    /// `exec` itself failed, its command was not run.
    pub const EXEC: u8 = 125;
}

use FailureKind as K;

/// Kind, varlink error name, errno, exit code.
const LIST: [(FailureKind, &str, i32, u8); 19] = [
    (K::PermissionDenied, "PermissionDenied", libc::EACCES, exit::PERMISSION),
    (K::NoSuchProcess, "NoSuchProcess", libc::ESRCH, exit::NO_TARGET),
    (K::NoSuchGroup, "NoSuchGroup", libc::ENOENT, exit::NO_TARGET),
    (K::NoSuchRule, "NoSuchRule", libc::ENOENT, exit::NO_TARGET),
    (K::NoSuchDecision, "NoSuchDecision", libc::ENOENT, exit::NO_TARGET),
    (K::NoSuchJob, "NoSuchJob", libc::ENOENT, exit::NO_TARGET),
    (K::InvalidShrink, "InvalidShrink", libc::EINVAL, exit::USAGE),
    (K::InvalidControl, "InvalidControl", libc::EINVAL, exit::USAGE),
    (K::InvalidRule, "InvalidRule", libc::EINVAL, exit::USAGE),
    (K::InvalidConfig, "InvalidConfig", libc::EINVAL, exit::CONFIG),
    (K::TableFull, "TableFull", libc::ENOSPC, exit::BUSY),
    (K::Busy, "Busy", libc::EAGAIN, exit::BUSY),
    (K::Internal, "Internal", libc::EIO, exit::FAILED),
    (K::NoSuchQuestion, "NoSuchQuestion", libc::ENOENT, exit::NO_TARGET),
    (K::InvalidAnswer, "InvalidAnswer", libc::EINVAL, exit::USAGE),
    (K::HandlerTaken, "HandlerTaken", libc::EBUSY, exit::FAILED),
    (K::InvalidHandler, "InvalidHandler", libc::EINVAL, exit::USAGE),
    (K::NoSuchShortage, "NoSuchShortage", libc::ENOENT, exit::NO_TARGET),
    (K::ReserveInUse, "ReserveInUse", libc::EBUSY, exit::HARD),
];

impl FailureKind {
    /// The kind with this sentence.
    pub fn because(self, text: impl Into<String>) -> Failure {
        Failure { kind: self, text: text.into() }
    }
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        LIST.iter().map(|row| row.0)
    }
    /// The name of the varlink error, without the interface.
    pub fn name(self) -> &'static str {
        LIST.iter().find(|row| row.0 == self).map_or("Internal", |row| row.1)
    }
    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        LIST.iter().find(|row| row.1 == name).map(|row| row.0)
    }
    /// What the letter's interface would have returned.
    pub fn errno(self) -> i32 {
        LIST.iter().find(|row| row.0 == self).map_or(libc::EIO, |row| row.2)
    }
    /// What the command line exits with.
    pub fn exit_code(self) -> u8 {
        LIST.iter().find(|row| row.0 == self).map_or(exit::FAILED, |row| row.3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_row_of_its_own() {
        for kind in FailureKind::all() {
            assert_eq!(LIST.iter().filter(|row| row.0 == kind).count(), 1, "{kind:?}");
            assert_eq!(FailureKind::named(kind.name()), Some(kind));
            assert!(kind.errno() > 0 && kind.exit_code() > 0);
        }
    }
}
