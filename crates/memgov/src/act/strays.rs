//! Hold groups that no ledger tells of any more: it was lost, or could not be read. They are found by their name, `memgov.hold-PID-N`, and are
//! somebody's for as long as that pid is a memgov's. Off the acting path: at start and by `memgov restore`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::ledger::{Freezer, HOLD_PREFIX, OwnedEntry};
use crate::kernel::layout::Layout;
use crate::kernel::proc;

/// At most so many groups are looked through in each hierarchy, and none deeper than this: it bounds how long a start takes.
const MOST_GROUPS: usize = 50_000;
const DEEPEST: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub struct Strays {
    /// As a ledger would have told of them.
    pub entries: Vec<OwnedEntry>,
    /// There were more groups than are looked through: some may have been missed.
    pub cut_short: bool,
}

/// Looks through every hierarchy that can hold. What cannot be read is passed over.
pub fn find(layout: &Layout) -> Strays {
    let mut found = Strays::default();
    let owners = Owners::read();
    let memory = Some(&layout.memory.mount);
    let mut seen: Vec<&Path> = Vec::new();
    for (freezer, mount) in [
        (Freezer::V2, layout.unified.as_ref()),
        (Freezer::V1, layout.freezer.as_ref()),
        (Freezer::V1, memory),
    ] {
        let Some(mount) = mount.filter(|mount| !seen.contains(&mount.as_path())) else { continue };
        seen.push(mount);
        look_through(mount, freezer, &owners, &mut found);
    }
    found
}

fn look_through(mount: &Path, freezer: Freezer, owners: &Owners, found: &mut Strays) {
    let mut stack: Vec<(PathBuf, usize)> = vec![(mount.to_owned(), 0)];
    let mut looked = 0;
    while let Some((path, depth)) = stack.pop() {
        looked += 1;
        if looked > MOST_GROUPS {
            found.cut_short = true;
            return;
        }
        for child in fs::read_dir(&path).into_iter().flatten().flatten() {
            // Of a symbolic link this says that it is one.
            if !child.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match owner(&child.file_name()) {
                Some(pid) if owners.has(pid) => {}
                Some(_) => found.entries.extend(stray(&child.path(), freezer)),
                None if depth < DEEPEST => stack.push((child.path(), depth + 1)),
                None => found.cut_short = true,
            }
        }
    }
}

/// Who made a hold group, by its name; `None`: it is no hold group.
fn owner(name: &OsStr) -> Option<u32> {
    let rest = name.as_bytes().strip_prefix(HOLD_PREFIX)?;
    let (pid, number) = std::str::from_utf8(rest).ok()?.split_once('-')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain(pid) && plain(number) { pid.parse().ok() } else { None }
}

/// A memgov in a container has its pid there in the name, which says nothing here: what it holds has another pid namespace, and is left
/// to it.
fn stray(path: &Path, freezer: Freezer) -> Option<OwnedEntry> {
    let members = fs::read_to_string(path.join("cgroup.procs")).ok()?;
    let here = fs::read_link("/proc/self/ns/pid").ok();
    let foreign = |pid: &str| {
        let there = fs::read_link(format!("/proc/{pid}/ns/pid"));
        // Gone meanwhile, or a zombie: nobody's.
        there.map_or_else(|error| error.kind() != std::io::ErrorKind::NotFound, |there| Some(there) != here)
    };
    if members.lines().any(foreign) {
        return None;
    }
    let inode = fs::metadata(path).ok()?.ino();
    Some(OwnedEntry::Hold { freezer, path: path.as_os_str().as_bytes().into(), inode })
}

/// The living memgovs: each holds the lock of its ledger for as long as it lives.
struct Owners {
    /// `None`: the locks cannot be read, so that everybody who is alive may be one.
    lockers: Option<HashSet<u32>>,
}

impl Owners {
    fn read() -> Self {
        let lockers = fs::read_to_string("/proc/locks").ok();
        Self { lockers: lockers.map(|text| text.lines().filter_map(locker).collect()) }
    }

    /// Whoever asks has not held anybody yet: a group with its own pid in its name is another's, from before.
    fn has(&self, pid: u32) -> bool {
        let alive = || proc::read_stat(pid, &mut [0; proc::STAT_BUFFER]).is_ok_and(|stat| !stat.has_ended());
        pid != std::process::id()
            && self.lockers.as_ref().is_none_or(|lockers| lockers.contains(&pid))
            && alive()
    }
}

/// The pid in a line of `/proc/locks` (`1: FLOCK  ADVISORY  WRITE 4711 00:19:5 0 EOF`) about a lock like a ledger's.
fn locker(line: &str) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let flock = words.next()? == "FLOCK" && words.next()? == "ADVISORY" && words.next()? == "WRITE";
    if flock { words.next()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_memgov_gives_are_names_of_hold_groups() {
        assert_eq!(owner(OsStr::new("memgov.hold-4711-3")), Some(4711));
        for other in
            ["memgov.hold-", "memgov.hold-1", "memgov.hold--1", "memgov.hold-1-", "memgov.hold-+1-2", "x"]
        {
            assert_eq!(owner(OsStr::new(other)), None, "{other}");
        }
        assert_eq!(owner(OsStr::from_bytes(b"memgov.hold-1-\xff")), None);
    }

    #[test]
    fn a_lock_like_a_ledgers_is_known() {
        assert_eq!(locker("1: FLOCK  ADVISORY  WRITE 4711 00:19:5 0 EOF"), Some(4711));
        for other in [
            "2: POSIX  ADVISORY  WRITE 4711 00:19:5 0 EOF",
            "1: -> FLOCK  ADVISORY  WRITE 4711 00:19:5 0 EOF",
            "",
        ] {
            assert_eq!(locker(other), None, "{other}");
        }
    }
}
