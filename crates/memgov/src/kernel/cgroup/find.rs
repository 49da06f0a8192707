//! The path of a group of which only the number is known: a look through the directories. For records of groups that nobody governs;
//! it takes its time and allocates, so it is nothing for the loop.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};

use memgov_decide::snapshot::GroupId;

use crate::kernel::Layout;

/// Directories beyond so many are not looked at.
const MOST: usize = 20_000;

/// The path below the mount and the owner of the directory with this inode; `None`: it is gone, or there are too many.
pub fn find(layout: &Layout, id: GroupId) -> Option<(Box<[u8]>, Option<u32>)> {
    let mount = &layout.memory.mount;
    let mut waiting = VecDeque::from([mount.clone()]);
    let mut looked_at = 0;
    while let Some(dir) = waiting.pop_front() {
        // Gone meanwhile, or not ours to read: then it has nothing that could be named.
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path();
            if entry.ino() == id.0 {
                let owner = fs::metadata(&path).ok().map(|facts| facts.uid());
                let below = path.strip_prefix(mount).ok()?;
                return Some(([b"/", below.as_os_str().as_bytes()].concat().into(), owner));
            }
            looked_at += 1;
            if looked_at > MOST {
                return None;
            }
            waiting.push_back(path);
        }
    }
    None
}
