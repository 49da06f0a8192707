//! Where the kernel shows what is looked at, found out before anything is short. Allocates.

use std::ffi::CStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::text::Text;

/// The hierarchy of memory control groups.
pub struct Memory {
    /// Its root.
    pub root: OwnedFd,
    /// Where that is mounted.
    pub mount: Text<256>,
    /// The file that tells usage of a group with all below it.
    pub usage: &'static CStr,
}

/// A hierarchy in which groups can be frozen.
pub struct Freezer {
    /// Its root.
    pub root: OwnedFd,
    /// Its file, and what freezes and thaws by it.
    pub file: &'static str,
    /// What freezes, what thaws.
    pub words: [&'static str; 2],
}

/// All of them.
pub struct Places {
    /// /proc
    pub proc: OwnedFd,
    /// None: no memory controller is mounted.
    pub memory: Option<Memory>,
    /// None: nothing can be frozen.
    pub freezer: Option<Freezer>,
    /// Bytes.
    pub page: u64,
}

impl Places {
    /// Of this machine (/proc/self/mountinfo, proc_pid_mountinfo(5)).
    pub fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        Ok(Self {
            proc: directory("/proc")?,
            memory: memory(&mounts)?,
            freezer: freezer(&mounts)?,
            page: rustix::param::page_size() as u64,
        })
    }
}

fn directory(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).with_context(|| format!("opening {path}"))
}

fn memory(mounts: &str) -> Result<Option<Memory>> {
    let unified = unified(mounts).filter(|mount| has_controller(mount, "memory"));
    let found = match unified {
        Some(mount) => Some((mount, c"memory.current")),
        None => hierarchy(mounts, "memory").map(|mount| (mount, c"memory.usage_in_bytes")),
    };
    let Some((path, usage)) = found else { return Ok(None) };
    let mut mount = Text::new();
    mount.push(path.as_bytes());
    Ok(Some(Memory { root: directory(&path)?, mount, usage }))
}

/// The groups are looked for by the path that they have in the memory hierarchy: the same in the others wherever somebody keeps order.
fn freezer(mounts: &str) -> Result<Option<Freezer>> {
    let v1 = || hierarchy(mounts, "freezer");
    let unified = unified(mounts).filter(|mount| has_controller(mount, "memory") || v1().is_none());
    match (unified, v1()) {
        (Some(mount), _) => {
            let (file, words) = ("cgroup.freeze", ["1", "0"]);
            Ok(Some(Freezer { root: directory(&mount)?, file, words }))
        }
        (None, Some(mount)) => {
            let (file, words) = ("freezer.state", ["FROZEN", "THAWED"]);
            Ok(Some(Freezer { root: directory(&mount)?, file, words }))
        }
        (None, None) => Ok(None),
    }
}

fn has_controller(mount: &str, name: &str) -> bool {
    let controllers = fs::read_to_string(Path::new(mount).join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|it| it == name)
}

fn unified(mounts: &str) -> Option<String> {
    all(mounts).find(|(_, kind, _)| *kind == "cgroup2").map(|(mount, ..)| unescaped(mount))
}

fn hierarchy(mounts: &str, controller: &str) -> Option<String> {
    let has = |options: &str| options.split(',').any(|it| it == controller);
    all(mounts)
        .find(|(_, kind, options)| *kind == "cgroup" && has(options))
        .map(|(mount, ..)| unescaped(mount))
}

/// Mount point, kind and options of the superblock.
fn all(mounts: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some((before.split(' ').nth(4)?, after.next()?, after.nth(1)?))
    })
}

/// Blanks and the like are written as three octal digits.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_kind() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
                      33 1 0:28 / /sys/fs/cgroup/mem\\040ory rw shared:16 - cgroup cgroup rw,memory\n\
                      34 1 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(unified(mounts).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(hierarchy(mounts, "memory").as_deref(), Some("/sys/fs/cgroup/mem ory"));
        assert_eq!(hierarchy(mounts, "cpuacct").as_deref(), Some("/sys/fs/cgroup/cpu"));
        assert_eq!(hierarchy(mounts, "freezer"), None);
    }
}
