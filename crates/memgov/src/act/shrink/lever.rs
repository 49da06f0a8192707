//! By what a group can be made smaller here, and one press of it.

use std::fmt;
use std::os::fd::OwnedFd;

use memgov_decide::decision::Mechanism;
use memgov_decide::shrink::Answer;
use memgov_decide::units::Bytes;

use super::Book;
use super::lowering::Lowering;
use crate::act::ledger::GroupLimit;
use crate::kernel::cgroup::{v1, v2};
use crate::kernel::{Errno, GroupDir, Layout, MemoryVersion, file};

/// What of its memory is to go, where the kernel lets that be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// What the kernel thinks best.
    #[default]
    Any,
    /// Files and anonymous memory in this proportion, 0 (files only) to 200 (anonymous memory as if it cost nothing).
    Swappiness(u8),
    /// Files only.
    File,
    /// Anonymous memory only (6.16).
    Anon,
}

impl Kind {
    /// As `memory.reclaim` takes it behind the amount.
    fn argument(self) -> String {
        match self {
            Self::Any => String::new(),
            Self::Swappiness(n) => format!(" swappiness={n}"),
            Self::File => " swappiness=0".into(),
            Self::Anon => " swappiness=max".into(),
        }
    }
}

/// Which way to take; for a test of the ways that this kernel would not need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Means {
    /// `memory.reclaim` where it is, else a limit.
    #[default]
    Auto,
    /// A lowered limit: `memory.high`, v1 `memory.limit_in_bytes`.
    Limit,
}

/// Why a group cannot be shrunk as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unable {
    /// Not by this kernel, or not this group: a sentence.
    Not(String),
    /// Not by whoever asks.
    Forbidden(String),
    /// The group has gone.
    Gone,
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Not(why) | Self::Forbidden(why) => f.write_str(why),
            Self::Gone => f.write_str("the group has been removed"),
        }
    }
}

impl Unable {
    /// As an errno, for records.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Not(_) => Errno::OPNOTSUPP,
            Self::Forbidden(_) => Errno::ACCESS,
            Self::Gone => Errno::NOENT,
        }
    }
}

/// A way to reclaim from one group.
pub struct Lever(Way);

enum Way {
    Reclaim { file: OwnedFd, argument: String },
    Limit(Lowering),
}

impl Lever {
    /// The way for this group. Tries what cannot be seen: an ask for nothing tells which arguments the kernel takes.
    pub fn of(
        layout: &Layout,
        path: &[u8],
        dir: &GroupDir,
        kind: Kind,
        means: Means,
    ) -> Result<Self, Unable> {
        if !dir.has_memory() {
            let why = "its memory is not accounted: the parent does not enable the memory controller \
                       (echo +memory > cgroup.subtree_control), or it is the root";
            return Err(Unable::Not(why.into()));
        }
        if layout.version == MemoryVersion::V2 && means == Means::Auto {
            match file::open_to_write(dir.dir(), v2::RECLAIM) {
                Ok(file) => return reclaim(file, kind),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(unable(v2::RECLAIM, errno)),
            }
        }
        if kind != Kind::Any {
            let why = match layout.version {
                MemoryVersion::V1 => {
                    "cgroup v1 takes no swappiness with a reclaim: memory.swappiness of the group decides"
                }
                MemoryVersion::V2 => "without memory.reclaim (Linux 5.19) nothing says which memory is to go",
            };
            return Err(Unable::Not(why.into()));
        }
        let which = match layout.version {
            MemoryVersion::V1 => GroupLimit::Max,
            MemoryVersion::V2 => GroupLimit::High,
        };
        let file =
            file::open_to_write(dir.dir(), which.file()).map_err(|errno| unable(which.file(), errno))?;
        let (path, inode) = (absolute(layout, path), dir.id().0);
        Ok(Self(Way::Limit(Lowering { which, file, path, inode, written: None })))
    }

    /// By what.
    pub fn mechanism(&self) -> Mechanism {
        match &self.0 {
            Way::Reclaim { .. } => Mechanism::MemoryReclaim,
            Way::Limit(_) => Mechanism::LoweredLimit,
        }
    }

    /// The file that is written, for people.
    pub fn file(&self) -> &'static str {
        let name = match &self.0 {
            Way::Reclaim { .. } => v2::RECLAIM,
            Way::Limit(Lowering { which: GroupLimit::Max, .. }) => v1::LIMIT,
            Way::Limit(_) => v2::HIGH,
        };
        name.to_str().unwrap_or_default()
    }

    /// Has the kernel reclaim so much, and no further than to the target.
    pub fn press(
        &mut self,
        dir: &GroupDir,
        amount: Bytes,
        target: Bytes,
        book: &mut dyn Book,
    ) -> Result<Answer, Errno> {
        match &mut self.0 {
            Way::Reclaim { file, argument } => {
                let text = format!("{}{argument}", amount.0);
                match file::write_once(&*file, text.as_bytes()) {
                    Ok(()) => Ok(Answer::Met),
                    Err(Errno::AGAIN) => Ok(Answer::Short),
                    Err(Errno::INTR) => Ok(Answer::Interrupted),
                    Err(errno) => Err(errno),
                }
            }
            Way::Limit(lowering) => lowering.press(dir.dir(), target, book),
        }
    }

    /// At the end.
    pub fn close(&mut self, book: &mut dyn Book) -> Result<(), Errno> {
        match &mut self.0 {
            Way::Reclaim { .. } => Ok(()),
            Way::Limit(lowering) => lowering.close(book),
        }
    }
}

fn reclaim(file: OwnedFd, kind: Kind) -> Result<Lever, Unable> {
    let argument = kind.argument();
    if kind != Kind::Any {
        match file::write_once(&file, format!("0{argument}").as_bytes()) {
            Ok(()) => {}
            Err(Errno::INVAL) => {
                let since = if kind == Kind::Anon { "Linux 6.16" } else { "Linux 6.11" };
                let why = format!(
                    "this kernel's memory.reclaim does not take `{}`, which came with {since}",
                    argument.trim()
                );
                return Err(Unable::Not(why));
            }
            Err(errno) => return Err(unable(v2::RECLAIM, errno)),
        }
    }
    Ok(Lever(Way::Reclaim { file, argument }))
}

fn unable(file: &std::ffi::CStr, errno: Errno) -> Unable {
    let name = file.to_string_lossy();
    match errno {
        Errno::NODEV | Errno::NOENT => Unable::Gone,
        Errno::ACCESS | Errno::PERM => Unable::Forbidden(format!("{name} may not be written: {errno}")),
        errno => Unable::Not(format!("{name}: {errno}")),
    }
}

/// As the ledger names groups.
fn absolute(layout: &Layout, path: &[u8]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut absolute = layout.memory.mount.as_os_str().as_bytes().to_vec();
    absolute.extend_from_slice(path);
    absolute
}
