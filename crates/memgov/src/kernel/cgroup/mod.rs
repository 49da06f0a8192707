//! A control group as an open directory with its hot files kept open. v1 and v2 differ only in how [`v1`] and [`v2`] spell
//! file names and texts; both fill the same [`Reading`].

mod find;
mod kernel_memory;
mod reclaimable;
mod sockets;
mod stall;
mod strain;
pub mod v1;
pub mod v2;

pub use find::find;
pub use kernel_memory::{Accounting, Switches, accounting};
pub use strain::StrainReading;

use super::layout::{Layout, MemoryVersion};
use super::{Errno, Error, file, text};
use memgov_decide::snapshot::{Events, GroupId};
use memgov_decide::units::{Bytes, Limit};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What one look at a group found; fields of files that are not there stay `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `memory.current`; v1 `memory.usage_in_bytes`.
    pub usage: Option<Bytes>,
    /// `kernel` of `memory.stat`; v1 `memory.kmem.usage_in_bytes`. Only read of groups that a rule about it concerns.
    pub kernel: Option<Bytes>,
    /// `sock` of `memory.stat`; v1 `memory.kmem.tcp.usage_in_bytes`. Only read of groups that a rule about it concerns, and `None` where nobody counts.
    pub sockets: Option<Bytes>,
    /// `sockets` is not part of `usage` (v1).
    pub sockets_apart: bool,
    /// What of `usage` can be had back (`active_file`, `inactive_file`, `slab_reclaimable` of `memory.stat`); only read where a rule asks what is
    /// available, and always after `usage`.
    pub reclaimable: Option<Bytes>,
    /// `memory.high`; v1 has none.
    pub high: Option<Limit>,
    /// `memory.max`; v1 `memory.limit_in_bytes`.
    pub max: Option<Limit>,
    /// `memory.events`; v1 `memory.failcnt` and `memory.oom_control`.
    pub events: Events,
    /// `memory.oom.group`; v1 has none, so `Some(false)`.
    pub oom_group: Option<bool>,
    /// v1 `memory.oom_control`: the group is out of memory now and its tasks wait. v2 has none.
    pub under_oom: Option<bool>,
}

/// Is shown each file that is read, by name and text: how a trace gets the kernel's own words.
pub type Tap<'a> = &'a mut dyn FnMut(&str, &[u8]);

/// In a trace, in place of a file's name: the group could not be read.
pub const UNREADABLE: &str = "unreadable";

impl Reading {
    /// Takes over what a file says, by its name; the names of both versions are understood, so that a trace can be read anywhere.
    /// What the text does not say becomes `None`. Whether the name is known.
    pub fn apply(&mut self, name: &str, text: &[u8], page: u64) -> bool {
        match name {
            "memory.current" | "memory.usage_in_bytes" => {
                (self.usage, self.reclaimable) = (parse_usage(text), None);
            }
            reclaimable::FRAME => self.reclaimable = reclaimable::parse(text),
            sockets::FRAME_V1 | sockets::FRAME_V2 => {
                (self.sockets, self.sockets_apart) = (sockets::parse(name, text), name == sockets::FRAME_V1);
            }
            "memory.kmem.usage_in_bytes" => self.kernel = parse_usage(text),
            "memory.stat" => self.kernel = v2::parse_kernel(text),
            "memory.high" => self.high = v2::parse_limit(text),
            "memory.max" => self.max = v2::parse_limit(text),
            "memory.limit_in_bytes" => self.max = v1::parse_limit(text, page),
            "memory.oom.group" => self.oom_group = v2::parse_oom_group(text),
            "memory.events" => self.events = v2::parse_events(text),
            "memory.failcnt" => self.events.max = v1::parse_failcnt(text),
            "memory.oom_control" => v1::parse_oom_control(text, self),
            UNREADABLE => {
                (self.usage, self.kernel, self.reclaimable) = (None, None, None);
                self.sockets = None;
            }
            _ => return false,
        }
        true
    }
}

/// A group of the memory hierarchy, open. Reads go to kept descriptors; a group that was removed gives `NODEV`.
#[derive(Debug)]
pub struct GroupDir {
    dir: OwnedFd,
    version: MemoryVersion,
    id: GroupId,
    owner: Option<u32>,
    usage: Option<OwnedFd>,
    /// v2 `memory.stat`, v1 `memory.kmem.usage_in_bytes`; open where a rule asks for it.
    kernel: Option<OwnedFd>,
    /// v2 `memory.stat`, v1 `memory.kmem.tcp.usage_in_bytes`; open where a rule asks for it.
    sockets: Option<OwnedFd>,
    /// `memory.stat`; open where a rule asks what is available.
    stat: Option<OwnedFd>,
    /// Open where a rule asks for it.
    strain: Option<Box<strain::StrainFiles>>,
    /// Likewise.
    stall: Option<Box<stall::StallFiles>>,
    /// v2 `memory.events`, v1 `memory.failcnt`.
    events: Option<OwnedFd>,
    /// v1 `memory.oom_control`.
    oom_control: Option<OwnedFd>,
    /// v2 `cgroup.procs`. Not kept on v1: see [`GroupDir::for_each_pid`].
    procs: Option<OwnedFd>,
}

impl GroupDir {
    /// Opens the group at `path`, from the root of the memory hierarchy: `/a/b`.
    pub fn open(layout: &Layout, path: &[u8]) -> Result<Self, Error> {
        Self::open_at(layout, path).map_err(|errno| Error::new("opening", full_path(layout, path), errno))
    }

    fn open_at(layout: &Layout, path: &[u8]) -> Result<Self, Errno> {
        let dir = walk(layout, path)?;
        let stat = rustix::fs::fstat(&dir)?;
        let version = layout.version;
        let there = |name: Option<&CStr>| match name {
            Some(name) => file::open_if_there(dir.as_fd(), name),
            None => Ok(None),
        };
        let (usage, events, oom_control, procs) = match version {
            MemoryVersion::V1 => (v1::USAGE, v1::FAILCNT, Some(v1::OOM_CONTROL), None),
            MemoryVersion::V2 => (v2::USAGE, v2::EVENTS, None, Some(PROCS)),
        };
        Ok(Self {
            usage: there(Some(usage))?,
            kernel: None,
            sockets: None,
            stat: None,
            strain: None,
            stall: None,
            events: there(Some(events))?,
            oom_control: there(oom_control)?,
            procs: there(procs)?,
            id: GroupId(stat.st_ino),
            owner: Some(stat.st_uid),
            version,
            dir,
        })
    }

    /// Who it is: the inode of its directory.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Who owned the directory when it was opened: to whom the group is delegated.
    pub fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// How its files are spelt.
    pub const fn version(&self) -> MemoryVersion {
        self.version
    }

    /// Whether the group still exists.
    pub fn exists(&self) -> bool {
        file::open_in(self.dir(), PROCS).is_ok_and(|procs| {
            // An open file of a removed group gives ENODEV; one that is only threaded is there.
            !matches!(rustix::io::pread(&procs, &mut [0; 1], 0), Err(Errno::NODEV))
        })
    }

    /// Whether it has memory files. A root of v2 has none, nor has a group whose parent does not enable the controller;
    /// open it again when that may have changed.
    pub fn has_memory(&self) -> bool {
        self.usage.is_some()
    }

    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The file whose modification (inotify) says that `events` or, on some kernels, the limits have changed; v1 has none.
    pub fn events_file(&self) -> Option<&'static CStr> {
        match self.version {
            MemoryVersion::V1 => None,
            MemoryVersion::V2 => Some(v2::EVENTS),
        }
    }

    /// Usage and events. `buffer`: 512 bytes do. `tap` is shown each file's name and text, for a trace.
    pub fn read(&self, buffer: &mut [u8], into: &mut Reading, tap: Tap<'_>) -> Result<(), Errno> {
        let (usage, events) = match self.version {
            MemoryVersion::V1 => (v1::USAGE, v1::FAILCNT),
            MemoryVersion::V2 => (v2::USAGE, v2::EVENTS),
        };
        into.usage = None;
        into.events = Events::default();
        into.under_oom = None;
        let files = [(usage, &self.usage), (events, &self.events), (v1::OOM_CONTROL, &self.oom_control)];
        for (name, fd) in files {
            if let Some(fd) = fd {
                let text = file::pread(fd, buffer)?;
                let name = name.to_str().unwrap_or_default();
                tap(name, text);
                into.apply(name, text, super::sys::page_size());
            }
        }
        Ok(())
    }

    /// Usage alone: the one file that a look needs.
    pub fn read_usage(&self, buffer: &mut [u8], into: &mut Reading, tap: Tap<'_>) -> Result<(), Errno> {
        into.usage = None;
        if let Some(fd) = &self.usage {
            let name = match self.version {
                MemoryVersion::V1 => v1::USAGE,
                MemoryVersion::V2 => v2::USAGE,
            };
            let (name, text) = (name.to_str().unwrap_or_default(), file::pread(fd, buffer)?);
            tap(name, text);
            into.apply(name, text, super::sys::page_size());
        }
        Ok(())
    }

    /// Opens what says how much kernel memory there is, or closes it. What is not there stays closed.
    pub fn keep_kernel(&mut self, keep: bool) {
        let name = match self.version {
            MemoryVersion::V1 => v1::KERNEL,
            MemoryVersion::V2 => v2::STAT,
        };
        if keep && self.kernel.is_none() {
            self.kernel = file::open_if_there(self.dir(), name).ok().flatten();
        } else if !keep {
            self.kernel = None;
        }
    }

    /// Kernel memory of the group and those below it; `None`: not kept open, or not said. `buffer`: 512 bytes do. `tap` is shown the name and the line.
    ///
    /// v1 is exact. v2 adds up what its processors have counted when enough has changed or 2 s have passed (mm/memcontrol.c).
    pub fn read_kernel(&self, buffer: &mut [u8], tap: Tap<'_>) -> Result<Option<Bytes>, Errno> {
        let Some(fd) = &self.kernel else { return Ok(None) };
        // `kernel` is among the first lines of memory.stat: the rest need not be copied.
        let most = buffer.len().min(512);
        let text = file::pread(fd, &mut buffer[..most])?;
        match self.version {
            MemoryVersion::V1 => {
                tap(v1::KERNEL.to_str().unwrap_or_default(), text);
                Ok(parse_usage(text))
            }
            MemoryVersion::V2 => {
                // With its newline: a line that was cut off says nothing.
                let mut lines = text.split_inclusive(|&byte| byte == b'\n');
                let line = lines.find(|line| line.starts_with(b"kernel ")).unwrap_or_default();
                tap(v2::STAT.to_str().unwrap_or_default(), line);
                Ok(v2::parse_kernel(line))
            }
        }
    }

    /// Opens what says how much can be had back, or closes it.
    pub fn keep_stat(&mut self, keep: bool) {
        if keep && self.stat.is_none() {
            self.stat = file::open_if_there(self.dir(), v2::STAT).ok().flatten();
        } else if !keep {
            self.stat = None;
        }
    }

    /// What of its usage the kernel can have back; `None`: not kept open, or not said. `buffer`: 8 KiB do. `tap` is shown the lines that say it.
    ///
    /// The kernel adds up what its processors have counted when enough has changed (`mem_cgroup_flush_stats` in mm/memcontrol.c).
    pub fn read_reclaimable(&self, buffer: &mut [u8], tap: Tap<'_>) -> Result<Option<Bytes>, Errno> {
        let Some(fd) = &self.stat else { return Ok(None) };
        let text = file::pread(fd, buffer)?;
        let mut said = reclaimable::Said::default();
        said.collect(text, self.version);
        tap(reclaimable::FRAME, said.text());
        Ok(reclaimable::parse(said.text()))
    }

    /// What it asks for, and who owns the directory now.
    pub fn preference(&self) -> (memgov_decide::jobs::Preference, Option<u32>) {
        let owner = rustix::fs::fstat(&self.dir).ok().map(|stat| stat.st_uid);
        (super::preference::read(self.dir()), owner)
    }

    /// Limits: on opening and when an event says so, so these files are not kept open.
    pub fn read_limits(&self, buffer: &mut [u8], into: &mut Reading, tap: Tap<'_>) -> Result<(), Errno> {
        let files: &[&CStr] = match self.version {
            MemoryVersion::V1 => &[v1::LIMIT],
            MemoryVersion::V2 => &[v2::HIGH, v2::MAX, v2::OOM_GROUP],
        };
        (into.high, into.max, into.oom_group) =
            (None, None, (self.version == MemoryVersion::V1).then_some(false));
        for name in files {
            if let Some(fd) = file::open_if_there(self.dir(), name)? {
                let text = file::pread(fd, buffer)?;
                let name = name.to_str().unwrap_or_default();
                tap(name, text);
                into.apply(name, text, super::sys::page_size());
            }
        }
        Ok(())
    }

    /// The processes in the group itself, not in its children. `OPNOTSUPP`: a threaded group. Processes that memgov's pid
    /// namespace does not have are left out.
    ///
    /// On v1 the file is opened anew each time: an open one goes on giving the list of its first read until nobody has
    /// read any for a second.
    pub fn for_each_pid(&self, buffer: &mut [u8], f: &mut dyn FnMut(u32)) -> Result<(), Errno> {
        match &self.procs {
            Some(fd) => each_number(fd, buffer, f),
            None => each_number(file::open_in(self.dir(), PROCS)?, buffer, f),
        }
    }

    /// Kills every process in it and below (v2 `cgroup.kill`); `NOENT` on v1 and before 5.14.
    pub fn kill(&self) -> Result<(), Errno> {
        file::write_in(self.dir(), c"cgroup.kill", b"1")
    }
}

const PROCS: &CStr = c"cgroup.procs";

/// The text of a usage file, both versions.
pub fn parse_usage(text: &[u8]) -> Option<Bytes> {
    text::number(text::only_line(text)?).map(Bytes)
}

/// Numbers, one a line, in a file of any length through a buffer of any length; 0 is left out (a process of another pid
/// namespace).
pub(crate) fn each_number(fd: impl AsFd, buffer: &mut [u8], f: &mut dyn FnMut(u32)) -> Result<(), Errno> {
    if buffer.is_empty() {
        return Err(Errno::INVAL);
    }
    let (mut offset, mut number) = (0u64, Number::default());
    loop {
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(fd.as_fd(), &mut *buffer, offset))?;
        if n == 0 {
            return Ok(());
        }
        offset += n as u64;
        for &byte in &buffer[..n] {
            if let Some(pid) = number.push(byte) {
                f(pid);
            }
        }
    }
}

/// A number that may straddle two reads.
#[derive(Default)]
struct Number {
    value: u32,
    digits: bool,
    bad: bool,
}

impl Number {
    /// The number, when its line is complete and it is one.
    fn push(&mut self, byte: u8) -> Option<u32> {
        if byte == b'\n' {
            let line = std::mem::take(self);
            return (line.digits && !line.bad && line.value != 0).then_some(line.value);
        }
        let digit = byte.is_ascii_digit().then(|| u32::from(byte.wrapping_sub(b'0')));
        match digit.and_then(|digit| self.value.checked_mul(10)?.checked_add(digit)) {
            Some(value) => (self.value, self.digits) = (value, true),
            None => self.bad = true,
        }
        None
    }
}

/// Opens a directory a component at a time: paths may be longer than the kernel takes at once, and neither `..` nor a
/// symbolic link leads out.
fn walk(layout: &Layout, path: &[u8]) -> Result<OwnedFd, Errno> {
    walk_in(&layout.memory.mount, path)
}

fn walk_in(mount: &Path, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(CWD, mount, flags, Mode::empty())?;
    let path = path.strip_prefix(b"/").ok_or(Errno::INVAL)?;
    for name in path.split(|&b| b == b'/').filter(|_| !path.is_empty()) {
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        dir = rustix::fs::openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

fn full_path(layout: &Layout, path: &[u8]) -> PathBuf {
    layout.memory.mount.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

/// The names of the groups directly below one.
pub fn subgroups(layout: &Layout, path: &[u8]) -> Result<Vec<Box<[u8]>>, Error> {
    let failed = |errno| Error::new("listing", full_path(layout, path), errno);
    let dir = walk(layout, path).map_err(failed)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == rustix::fs::FileType::Directory && !matches!(name, b"." | b"..") {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests;
