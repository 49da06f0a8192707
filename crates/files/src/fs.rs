//! The file system. Its own threads look at directories and never wait for the daemon; what asks the daemon goes to a thread of its own ([`caller`](crate::caller)), a
//! bounded number of them, and shrinks are counted apart: however many of them stand still, everything else goes on.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, Notifier, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::caller::{Caller, Gate, on_behalf};
use crate::desk::{Desk, daemons_path};
use crate::look;
use crate::node::{self, Dir, File};
use crate::open::{Handles, OpenFile};
use crate::processes;
use crate::text::Command;
use crate::tree::{ENOUGH, ROOT, Tree};

/// So long the kernel remembers a directory: `find` would ask for each part of each path otherwise (122 requests a group, by busybox's). Whose it is and whether it is
/// still the same is looked at when a file is opened, and judged by the daemon.
const DIRECTORY_KEPT: Duration = Duration::from_secs(1);
/// Nothing is remembered of a file: what was read last would be taken for its length.
const FILE_KEPT: Duration = Duration::ZERO;
/// The number of an entry that was not looked up (FUSE_UNKNOWN_INO of libfuse).
const UNNUMBERED: INodeNo = INodeNo(0xffff_ffff);
const SWEPT_EVERY: Duration = Duration::from_secs(2);
/// The kernel's least; no write that is understood is as long.
const MOST_WRITTEN: u32 = 4096;

/// It.
#[derive(Debug)]
pub struct Files {
    desk: Arc<Desk>,
    tree: Arc<Tree>,
    handles: Handles,
    /// Requests under way.
    asking: Gate,
    /// Shrinks under way.
    shrinking: Gate,
}

impl Files {
    /// Over this hierarchy and daemon.
    pub fn new(desk: Desk) -> Self {
        Self {
            desk: Arc::new(desk),
            tree: Arc::default(),
            handles: Handles::default(),
            // The daemon takes 32 of one user and keeps 16 of 128 for root.
            asking: Gate::new(64, 16, 16),
            shrinking: Gate::new(24, 8, 4),
        }
    }

    /// The numbers it has given out.
    pub fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.tree)
    }

    fn place(&self, number: INodeNo) -> Result<(Arc<Dir>, Option<File>), Errno> {
        self.tree.place(number.0).ok_or(Errno::ENOENT)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let (dir, None) = self.place(parent)? else { return Err(Errno::ENOTDIR) };
        let at = dir.files().iter().position(|file| name == file.name());
        let (dir, file) = match at {
            Some(_) => (Dir::clone(&dir), at.and_then(|at| dir.files().get(at).copied())),
            None => (dir.below(name).ok_or(Errno::ENOENT)?, None),
        };
        if matches!(dir, Dir::Process(pid) if file.is_none() && !processes::is_process(pid)) {
            return Err(Errno::ENOENT);
        }
        // Looked at before it gets a number: what is not there has none to be forgotten.
        let found = look::attributes(&self.desk.groups, 0, &dir, file)?;
        let number = self.tree.look_up(dir, at).ok_or(Errno::ENFILE)?;
        Ok(FileAttr { ino: INodeNo(number), ..found })
    }

    fn open_file(&self, request: &Request, number: INodeNo) -> Result<u64, Errno> {
        let (dir, Some(file)) = self.place(number)? else { return Err(Errno::EISDIR) };
        let caller = Caller { uid: request.uid(), gid: request.gid() };
        let mut name = caller;
        let id = look::identify(&self.desk.groups, &dir)?;
        // The kernel has looked at the mode; it lets pass whoever may pass over modes, and the daemon does not know him.
        if file.is_private() && caller.uid != 0 {
            let found = look::metadata(&self.desk.groups, &dir)?.ok_or(Errno::ENOENT)?;
            if found.uid() != caller.uid {
                let writers = look::writers(&found).ok_or(Errno::EACCES)?;
                let is_one = caller.gid == writers || processes::is_in_group(request.pid(), writers);
                is_one.then_some(()).ok_or(Errno::EACCES)?;
                name = Caller { uid: found.uid(), gid: found.gid() };
                // What was looked at may have been another by then, made anew in its place.
                (look::identify(&self.desk.groups, &dir)? == id).then_some(()).ok_or(Errno::ENOENT)?;
            }
        }
        let (text, seen) = (std::sync::Mutex::new("".into()), AtomicU64::new(0));
        self.handles.file(OpenFile { dir, file, id, caller, name, text, seen }).ok_or(Errno::EMFILE)
    }

    /// From the start on a text is made anew; further on it goes on where that was.
    fn read_file(&self, open: &Arc<OpenFile>, offset: u64, size: u32, reply: ReplyData) {
        let known = Arc::clone(&open.text.lock().unwrap_or_else(PoisonError::into_inner));
        if offset > 0 && !known.is_empty() {
            return reply.data(piece(&known, offset, size));
        }
        let Some(place) = self.asking.enter(open.caller.uid) else { return reply.error(Errno::EAGAIN) };
        let (desk, open) = (Arc::clone(&self.desk), Arc::clone(open));
        let name = open.name;
        let work = move || {
            let read = desk.read(open.file, open.subject().ok_or(Errno::EINVAL)?);
            let (text, seen) = read.map_err(|(errno, seen)| {
                open.seen(seen);
                errno
            })?;
            let text: Arc<str> = text.into();
            open.read(Arc::clone(&text), seen);
            Ok(text)
        };
        on_behalf(name, place, work, move |text| match text {
            Ok(text) => reply.data(piece(&text, offset, size)),
            Err(errno) => reply.error(errno),
        });
    }

    fn write_file(&self, request: &Request, open: Arc<OpenFile>, data: &[u8], reply: ReplyWrite) {
        let command = match Command::parse(open.file, data, self.desk.page) {
            Ok(command) => command,
            Err(errno) => return reply.error(errno),
        };
        let gate = if matches!(command, Command::Shrink(_)) { &self.shrinking } else { &self.asking };
        let Some(place) = gate.enter(open.caller.uid) else { return reply.error(Errno::EAGAIN) };
        let (desk, name, tid) = (Arc::clone(&self.desk), open.name, request.pid());
        // 0: in a pid namespace that is not below ours, and out of sight.
        let stop = move || tid != 0 && processes::is_interrupted(tid);
        let work = move || desk.write(command, open.subject().ok_or(Errno::EINVAL)?, &stop);
        let written = u32::try_from(data.len()).unwrap_or(0);
        on_behalf(name, place, work, move |done| match done {
            Ok(()) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }
}

fn kept(attributes: &FileAttr) -> Duration {
    if attributes.kind == FileType::Directory { DIRECTORY_KEPT } else { FILE_KEPT }
}

fn piece(text: &str, offset: u64, size: u32) -> &[u8] {
    let bytes = text.as_bytes();
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let to = from.saturating_add(size as usize).min(bytes.len());
    bytes.get(from..to).unwrap_or_default()
}

impl Filesystem for Files {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Refused only if it were 0 or beyond the library's own buffer.
        let _taken = config.set_max_write(MOST_WRITTEN);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&kept(&attributes), &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, times: u64) {
        self.tree.forget(number.0, times);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = self
            .place(number)
            .and_then(|(dir, file)| look::attributes(&self.desk.groups, number.0, &dir, file));
        match found {
            Ok(attributes) => reply.attr(&kept(&attributes), &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    /// Truncating a file does nothing, as in `/proc`; whose it is and what he may is the directory's to say.
    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if size.is_none() || mode.is_some() || uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        self.getattr(request, number, handle, reply);
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(request, number) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.handles.get_file(handle.0) {
            Some(open) => self.read_file(&open, offset, size, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn write(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.handles.get_file(handle.0) {
            Some(open) => self.write_file(request, open, data, reply),
            None => reply.error(Errno::EBADF),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.desk.counts.closed(handle.0);
        self.handles.close(handle.0);
        reply.ok();
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.place(number).and_then(|(dir, _)| {
            self.handles.names(request.uid(), look::names(&self.desk.groups, &dir)?).ok_or(Errno::EMFILE)
        });
        match opened {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(names) = self.handles.get_names(handle.0) else { return reply.error(Errno::EBADF) };
        let dots = [OsStr::new("."), OsStr::new("..")].map(|dot| (dot, FileType::Directory));
        let all = dots.into_iter().chain(names.iter().map(|(name, kind)| (name.as_os_str(), *kind)));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (name, kind)) in (1..).zip(all).skip(from) {
            let number = if name == "." { number } else { UNNUMBERED };
            if reply.add(number, at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.close(handle.0);
        reply.ok();
    }

    /// As of `memory.events`: POLLPRI and POLLERR when there is something new since the last read.
    fn poll(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let Some(open) = self.handles.get_file(handle.0) else { return reply.error(Errno::EBADF) };
        let always =
            PollEvents::POLLIN | PollEvents::POLLRDNORM | PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        let news = match &*open.dir {
            Dir::Group(path) if open.file == File::Events => {
                let notifier = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY).then_some(notifier);
                let seen = open.seen.load(Ordering::Relaxed);
                daemons_path(path).is_ok_and(|path| self.desk.counts.poll(handle.0, &path, seen, notifier))
            }
            _ => false,
        };
        let more = if news { PollEvents::POLLPRI | PollEvents::POLLERR } else { PollEvents::empty() };
        reply.poll(always | more);
    }
}

/// Keeps the table small for as long as this process lives. Both directories of the mount point are dropped with all that is below, but what is in use; the next look finds them anew.
pub fn keep_small(tree: &Tree, notifier: &Notifier) {
    loop {
        thread::sleep(SWEPT_EVERY);
        if tree.known() > ENOUGH {
            for name in node::TOP {
                // Not known at the moment, or unmounted: nothing to forget.
                let _gone = notifier.inval_entry(INodeNo(ROOT), OsStr::new(name));
            }
        }
    }
}

// The mount point is the directory that the table does not hold.
const _: () = assert!(ROOT == INodeNo::ROOT.0);
