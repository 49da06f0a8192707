//! Looking at directories and files: whose they are, what they hold, who they are about. The daemon is not asked.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::groups::Groups;
use crate::node::{self, Dir, File};
use crate::open::Names;
use crate::processes;

/// What the kernel says of a directory; `None` of those that are only here.
pub fn metadata(groups: &Groups, dir: &Dir) -> Result<Option<Metadata>, Errno> {
    let path = match dir {
        Dir::Root | Dir::Processes => return Ok(None),
        Dir::Group(path) => groups.dir(path),
        Dir::Process(pid) | Dir::Tasks(pid) => processes::dir(*pid),
        Dir::Task(pid, tid) => processes::thread(*pid, *tid),
    };
    // A process may end between two looks, which /proc calls ESRCH; no name leads to it any more.
    let metadata = std::fs::symlink_metadata(path).map_err(|error| match Errno::from(error) {
        Errno::ESRCH => Errno::ENOENT,
        other => other,
    })?;
    if metadata.is_dir() { Ok(Some(metadata)) } else { Err(Errno::ENOENT) }
}

/// As sysfs says of its files: what is longer than any text. Of a file that says 0 sendfile(2) reads nothing (filemap_splice_read in mm/filemap.c), and `cat` of busybox uses that.
const SIZE: u64 = 4096;

/// Which group may do what the owner may, because he has made his directory writable for it. root lends its rights to nobody: at the daemon they know no limit.
pub fn writers(dir: &Metadata) -> Option<u32> {
    (dir.mode() & 0o020 != 0 && dir.uid() != 0).then(|| dir.gid())
}

/// What stat(2) says of a directory or of a file in it.
pub fn attributes(groups: &Groups, number: u64, dir: &Dir, file: Option<File>) -> Result<FileAttr, Errno> {
    let metadata = metadata(groups, dir)?;
    let of_group = matches!(dir, Dir::Group(_));
    let mode =
        metadata.as_ref().filter(|_| of_group).and_then(|found| u16::try_from(found.mode() & 0o7777).ok());
    let lent = of_group && metadata.as_ref().and_then(writers).is_some();
    let time = metadata.as_ref().and_then(|found| found.modified().ok()).unwrap_or(UNIX_EPOCH);
    Ok(FileAttr {
        ino: INodeNo(number),
        size: if file.is_some() { SIZE } else { 0 },
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if file.is_some() { FileType::RegularFile } else { FileType::Directory },
        perm: file.map_or(mode.unwrap_or(0o555), |file| if lent { file.lent_mode() } else { file.mode() }),
        nlink: if file.is_some() { 1 } else { 2 },
        uid: metadata.as_ref().map_or(0, Metadata::uid),
        gid: metadata.as_ref().map_or(0, Metadata::gid),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

/// What a directory holds, the names with a dot left out.
pub fn names(groups: &Groups, dir: &Dir) -> Result<Names, Errno> {
    let own = dir.files().iter().map(|file| (file.name().into(), FileType::RegularFile));
    let mut names: Names = own.collect();
    let below = |names: &mut Names, path, wanted: &dyn Fn(&OsStr) -> bool| {
        let entries = std::fs::read_dir(path)?.map_while(Result::ok);
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let found = dirs.map(|entry| entry.file_name()).filter(|name| wanted(name));
        names.extend(found.map(|name| (name, FileType::Directory)));
        Ok::<(), std::io::Error>(())
    };
    let numbers = |name: &OsStr| name.to_str().and_then(node::pid).is_some();
    let fixed = |names: &mut Names, fixed: &[&str]| {
        names.extend(fixed.iter().map(|name| (OsString::from(name), FileType::Directory)));
    };
    match dir {
        Dir::Root => fixed(&mut names, &node::TOP),
        Dir::Group(path) => below(&mut names, groups.dir(path), &|_| true)?,
        Dir::Processes => below(&mut names, "/proc".into(), &numbers)?,
        Dir::Process(_) => fixed(&mut names, &["task"]),
        Dir::Tasks(pid) => below(&mut names, processes::dir(*pid).join("task"), &numbers)?,
        Dir::Task(..) => {}
    }
    Ok(names)
}

/// Whom the files of this directory are about, and who that is now.
pub fn identify(groups: &Groups, dir: &Dir) -> Result<u64, Errno> {
    match dir {
        Dir::Group(path) => Ok(std::fs::symlink_metadata(groups.dir(path))?.ino()),
        Dir::Process(pid) => processes::start(*pid),
        Dir::Task(pid, tid) => processes::thread_start(*pid, *tid),
        _ => Err(Errno::EINVAL),
    }
}
