//! What there is in the tree: directories, and the files in each.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// The mount point.
    Root,
    /// A memory cgroup, by its path from the top of the hierarchy without the first slash; empty: the top.
    Group(Box<[u8]>),
    /// `process`.
    Processes,
    /// `process/PID`.
    Process(u32),
    /// `process/PID/task`.
    Tasks(u32),
    /// `process/PID/task/TID`.
    Task(u32, u32),
}

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    /// Usage to shrink to.
    Shrink,
    /// Kernel memory now.
    KernelUsage,
    /// The most there was.
    KernelPeak,
    /// How often its line was hit.
    KernelFailures,
    /// By kind.
    KernelStat,
    /// A line.
    Limit(Metered),
    /// What the buffers of sockets hold now.
    SocketUsage,
    /// As a job: lower is given up first.
    Priority,
    /// As a job: up to here it is protected.
    Reservation,
    /// The last part under the hard limit that is not available.
    OomReserve,
    /// How often what happened.
    Events,
    /// A process's control.
    Memctl,
}

/// What a group can have a line for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metered {
    /// Kernel memory.
    Kernel,
    /// The buffers of sockets.
    Sockets,
}

impl Metered {
    /// The daemon's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Sockets => "sockets",
        }
    }

    /// What a line that is a number and no more is kept by: further kernel memory is refused, and sockets stop growing.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Kernel => "deny",
            Self::Sockets => "squeeze",
        }
    }
}

/// In each group but the root, which is the whole machine: it has no limit and is not shrunk.
pub const OF_GROUP: [File; 12] = [
    File::Shrink,
    File::KernelUsage,
    File::KernelPeak,
    File::KernelFailures,
    File::KernelStat,
    File::Limit(Metered::Kernel),
    File::SocketUsage,
    File::Limit(Metered::Sockets),
    File::Priority,
    File::Reservation,
    File::OomReserve,
    File::Events,
];

/// What the mount point holds.
pub const TOP: [&str; 2] = ["cgroup", "process"];

impl File {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shrink => "memory.shrink_in_bytes",
            Self::KernelUsage => "memory.kmem.usage_in_bytes",
            Self::KernelPeak => "memory.kmem.max_usage_in_bytes",
            Self::KernelFailures => "memory.kmem.failcnt",
            Self::KernelStat => "memory.kmem.stat",
            Self::Limit(Metered::Kernel) => "memory.kmem.limit_in_bytes",
            Self::SocketUsage => "memory.sock.usage_in_bytes",
            Self::Limit(Metered::Sockets) => "memory.sock.limit_in_bytes",
            Self::Priority => "memory.priority",
            Self::Reservation => "memory.reservation_in_bytes",
            Self::OomReserve => "memory.oom_reserve_in_bytes",
            Self::Events => "memgov.events",
            Self::Memctl => "memctl",
        }
    }

    /// What its owner and others may do. What the daemon shows to the owner only says so here.
    pub const fn mode(self) -> u16 {
        match self {
            Self::Shrink => 0o200,
            Self::KernelUsage | Self::KernelStat | Self::SocketUsage => 0o444,
            Self::KernelPeak | Self::KernelFailures | Self::Limit(_) => 0o600,
            Self::Priority | Self::Reservation | Self::OomReserve => 0o600,
            Self::Events => 0o400,
            Self::Memctl => 0o644,
        }
    }

    /// The same where the owner has lent his rights to his directory's group.
    pub const fn lent_mode(self) -> u16 {
        self.mode() | self.mode() >> 3 & 0o070
    }

    /// Whether it is its owner's and root's only, whoever may pass over its mode.
    pub const fn is_private(self) -> bool {
        self.mode() & 0o077 == 0
    }
}

impl Dir {
    /// Its files.
    pub fn files(&self) -> &'static [File] {
        match self {
            Self::Group(path) if !path.is_empty() => &OF_GROUP,
            Self::Process(_) | Self::Task(..) => &[File::Memctl],
            _ => &[],
        }
    }

    /// The directory of this name in it, if there can be one.
    pub fn below(&self, name: &OsStr) -> Option<Self> {
        let number = || name.to_str().and_then(pid);
        match self {
            Self::Root if name == TOP[0] => Some(Self::Group(Box::default())),
            Self::Root if name == TOP[1] => Some(Self::Processes),
            Self::Root => None,
            Self::Group(path) if path.is_empty() => Some(Self::Group(name.as_bytes().into())),
            Self::Group(path) => Some(Self::Group([path, b"/".as_slice(), name.as_bytes()].concat().into())),
            Self::Processes => number().map(Self::Process),
            Self::Process(pid) => (name == "task").then_some(Self::Tasks(*pid)),
            Self::Tasks(pid) => number().map(|tid| Self::Task(*pid, tid)),
            Self::Task(..) => None,
        }
    }
}

/// A pid as `/proc` spells it, and in no other way.
pub fn pid(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten().filter(|&pid| pid <= i32::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_what_the_owner_may() {
        let lent: Vec<u16> =
            [File::Shrink, File::KernelPeak, File::Events, File::KernelStat].map(File::lent_mode).into();
        assert_eq!(lent, [0o220, 0o660, 0o440, 0o444]);
    }

    #[test]
    fn names_lead_to_directories() {
        let down = |names: &[&str]| names.iter().try_fold(Dir::Root, |dir, name| dir.below(OsStr::new(name)));
        assert_eq!(down(&["cgroup", "a", "b"]), Some(Dir::Group((*b"a/b").into())));
        assert_eq!(down(&["process", "12", "task", "13"]), Some(Dir::Task(12, 13)));
        for nothing in [
            &["x"][..],
            &["process", "012"],
            &["process", "+1"],
            &["process", ""],
            &["process", "4294967295"],
        ] {
            assert_eq!(down(nothing), None, "{nothing:?}");
        }
        assert!(Dir::Group(Box::default()).files().is_empty(), "the root group has none");
    }
}
