//! Where a process is in a hierarchy, and opening groups by path: one component after the other, so that no path is too long,
//! through fixed buffers, so that nothing is allocated.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags};

use crate::kernel::file::{self, ShortPath};
use crate::kernel::layout::{Controller, Layout, group_of, visible};
use crate::kernel::{Errno, freeze};

/// Bytes for one line of `/proc/PID/cgroup`, whose path is of 4096 bytes at the most.
pub const LINE_BUFFER: usize = 8 * 1024;

/// The path of a process below the mount of a hierarchy, copied into `into`, and its length. `NOENT`: no such hierarchy, or its group is
/// being removed. `XDEV`: it is outside of what is mounted.
pub fn of_process(
    layout: &Layout,
    which: Controller,
    pid: u32,
    line: &mut [u8],
    into: &mut [u8],
) -> Result<usize, Errno> {
    let mounted = layout.mounted_root(which).ok_or(Errno::NOENT)?;
    let path = ShortPath::of_process(pid, b"cgroup")?;
    let mut found = Err(Errno::NOENT);
    file::for_each_line(file::open(path.as_c_str())?, line, &mut |line| {
        if let Some(path) = group_of(line, which, layout.is_unified(which)) {
            found = copy(path, mounted, into);
        }
    })?;
    found
}

fn copy(path: &[u8], mounted: &[u8], into: &mut [u8]) -> Result<usize, Errno> {
    if path.ends_with(b" (deleted)") {
        return Err(Errno::NOENT);
    }
    let path = visible(path, mounted).ok_or(Errno::XDEV)?;
    into.get_mut(..path.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(path);
    Ok(path.len())
}

/// The absolute path of a group of the memory hierarchy, into room that is there already.
pub fn absolute(layout: &Layout, path: &[u8], into: &mut Vec<u8>) -> Result<(), Errno> {
    into.clear();
    extend(into, layout.memory.mount.as_os_str().as_bytes())?;
    extend(into, path)
}

/// Allocates nothing: what has no room is `NAMETOOLONG`.
pub fn extend(path: &mut Vec<u8>, part: &[u8]) -> Result<(), Errno> {
    if path.len() + part.len() > path.capacity() {
        return Err(Errno::NAMETOOLONG);
    }
    path.extend_from_slice(part);
    Ok(())
}

/// Opens a directory by absolute path.
pub fn open_path(path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(rustix::fs::CWD, c"/", flags, Mode::empty())?;
    open_below(root.as_fd(), path)
}

/// Opens a directory below `dir`; an empty path is `dir` itself.
pub fn open_below(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut dir = freeze::open_group(dir, c".")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        if name == b".." {
            // Outside of memgov's cgroup namespace: nothing there is ours to touch.
            return Err(Errno::NOENT);
        }
        dir = open_child(dir.as_fd(), name)?;
    }
    Ok(dir)
}

/// Opens a directory in a directory.
pub fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    with_name(name, |name| freeze::open_group(dir, name))
}

/// Makes a group in a directory and opens it.
pub fn make_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    with_name(name, |name| freeze::make_group(dir, name))
}

/// Removes an empty group in a directory.
pub fn remove_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    with_name(name, |name| freeze::remove_group(dir, name))
}

fn with_name<T>(name: &[u8], f: impl FnOnce(&CStr) -> Result<T, Errno>) -> Result<T, Errno> {
    let mut buffer = [0u8; 256];
    let room = buffer.get_mut(..name.len()).ok_or(Errno::NAMETOOLONG)?;
    room.copy_from_slice(name);
    f(CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?)
}

/// The last component.
pub fn name_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(path, |at| &path[at + 1..])
}

/// Everything before the last component.
pub fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |at| &path[..at])
}

/// The inode of an open directory.
pub fn inode(dir: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(dir)?.st_ino)
}

/// Whether an open directory is a control group: undoing must never touch another file system because a path in a file says so.
pub fn is_cgroup(dir: BorrowedFd<'_>) -> bool {
    const CGROUP_V1: rustix::fs::FsWord = 0x0027_e0eb;
    const CGROUP_V2: rustix::fs::FsWord = 0x6367_7270;
    rustix::fs::fstatfs(dir).is_ok_and(|fs| fs.f_type == CGROUP_V1 || fs.f_type == CGROUP_V2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_process_is_where_proc_says() {
        let layout = Layout::detect(Path::new("/")).unwrap();
        let (mut line, mut path) = ([0; LINE_BUFFER], [0; 4096]);
        let length =
            of_process(&layout, Controller::Memory, std::process::id(), &mut line, &mut path).unwrap();
        assert_eq!(Some(&path[..length]), layout.own.memory.as_deref());
        assert!(
            of_process(&layout, Controller::Memory, std::process::id(), &mut line, &mut path[..0]).is_err()
        );
        assert!(of_process(&layout, Controller::Memory, u32::MAX, &mut line, &mut path).is_err());
        assert_eq!(copy(b"/a (deleted)", b"/", &mut path), Err(Errno::NOENT));
        assert_eq!(copy(b"/../a", b"/", &mut path), Err(Errno::XDEV));
        assert_eq!(copy(b"/c/a) Z ", b"/c", &mut path), Ok(6));
        assert_eq!(&path[..6], b"/a) Z ");
    }

    #[test]
    fn paths_longer_than_path_max_are_opened_and_others_refused() {
        let mut path = b"/".to_vec();
        path.extend_from_slice(&b"./".repeat(3000));
        path.extend_from_slice(b"proc");
        let there = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc").unwrap());
        assert_eq!(inode(open_path(&path).unwrap().as_fd()), Ok(there));
        assert_eq!(open_path(b"/proc/../proc").unwrap_err(), Errno::NOENT);
        assert_eq!(open_path(&[b'x'; 300]).unwrap_err(), Errno::NAMETOOLONG);
        assert_eq!((name_of(b"/a/b"), parent_of(b"/a/b")), (&b"b"[..], &b"/a"[..]));
        assert_eq!((name_of(b"/a"), parent_of(b"/a")), (&b"a"[..], &b""[..]));
    }

    #[test]
    fn only_control_groups_are_control_groups() {
        assert!(!is_cgroup(open_path(b"/proc").unwrap().as_fd()));
    }
}
