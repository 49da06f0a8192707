//! The calls that the hooks of kernel memory must refuse, each on things of its own: a private directory, a pipe and a pair of sockets that are
//! there before. A call that is granted is undone before the trial ends.

use super::raw::{self, Trials as Memory};
use crate::kernel::Errno;
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, XattrFlags};
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{self, PipeFlags};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a proof stands on.
pub(super) struct Trials {
    pub memory: Memory,
    scratch: Option<Scratch>,
}

impl Trials {
    /// Everything that must be there before refusal begins. `files`: the private directory and what goes with it too.
    pub fn new(files: bool) -> Result<Self, Errno> {
        let scratch = if files { Some(Scratch::new()?) } else { None };
        Ok(Self { memory: Memory::new()?, scratch })
    }

    fn scratch(&self) -> Result<&Scratch, Errno> {
        self.scratch.as_ref().ok_or(Errno::INVAL)
    }

    /// `clone(2)`; the child ends at once.
    pub fn fork(&mut self) -> Result<(), Errno> {
        raw::make_child()
    }

    /// `mknod(2)` of a plain file, which is `security_inode_create` without a descriptor.
    pub fn create(&mut self) -> Result<(), Errno> {
        self.scratch()?.make(|dir, name| fs::mknodat(dir, name, FileType::RegularFile, Mode::RUSR, 0))
    }

    /// `mknod(2)` of a FIFO.
    pub fn mknod(&mut self) -> Result<(), Errno> {
        self.scratch()?.make(|dir, name| fs::mknodat(dir, name, FileType::Fifo, Mode::RUSR, 0))
    }

    /// `symlink(2)`.
    pub fn symlink(&mut self) -> Result<(), Errno> {
        self.scratch()?.make(|dir, name| fs::symlinkat(c"nowhere", dir, name))
    }

    /// `link(2)` to the file that is there.
    pub fn link(&mut self) -> Result<(), Errno> {
        self.scratch()?.make(|dir, name| fs::linkat(dir, FILE, dir, name, AtFlags::empty()))
    }

    /// `mkdir(2)`.
    pub fn mkdir(&mut self) -> Result<(), Errno> {
        let dir = &self.scratch()?.dir;
        fs::mkdirat(dir, NEW, Mode::RWXU)?;
        fs::unlinkat(dir, NEW, AtFlags::REMOVEDIR)
    }

    /// `setxattr(2)`. A file system that has none says so only after the hook.
    pub fn setxattr(&mut self) -> Result<(), Errno> {
        let file = &self.scratch()?.file;
        match fs::fsetxattr(file, c"user.memgov", b"1", XattrFlags::empty()) {
            Err(Errno::NOTSUP) => Ok(()),
            Err(errno) => Err(errno),
            Ok(()) => fs::fremovexattr(file, c"user.memgov"),
        }
    }

    /// `open(2)` of what is there.
    pub fn open(&mut self) -> Result<(), Errno> {
        fs::openat(&self.scratch()?.dir, FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)
    }

    /// `pipe2(2)`.
    pub fn pipe(&mut self) -> Result<(), Errno> {
        pipe::pipe_with(PipeFlags::CLOEXEC).map(drop)
    }

    /// `memfd_create(2)`.
    pub fn memfd(&mut self) -> Result<(), Errno> {
        fs::memfd_create(c"memgov-proof", MemfdFlags::CLOEXEC).map(drop)
    }

    /// `socket(2)`.
    pub fn socket(&mut self) -> Result<(), Errno> {
        net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map(drop)
    }

    /// `send(2)` of a byte on a socket from before.
    pub fn send(&mut self) -> Result<(), Errno> {
        net::send(&self.scratch()?.sockets.0, b"1", SendFlags::DONTWAIT).map(drop)
    }

    /// `fcntl(2)` F_SETPIPE_SZ from one page to two, and back.
    pub fn enlarge_pipe(&mut self) -> Result<(), Errno> {
        let pipe = &self.scratch()?.pipe.0;
        let page = rustix::param::page_size();
        pipe::fcntl_setpipe_size(pipe, 2 * page)?;
        pipe::fcntl_setpipe_size(pipe, page).map(drop)
    }
}

const FILE: &std::ffi::CStr = c"file";
const NEW: &std::ffi::CStr = c"new";

struct Scratch {
    path: PathBuf,
    dir: OwnedFd,
    file: OwnedFd,
    sockets: (OwnedFd, OwnedFd),
    pipe: (OwnedFd, OwnedFd),
}

impl Scratch {
    fn new() -> Result<Self, Errno> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("memgov-proof-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let own = std::env::var_os("RUNTIME_DIRECTORY");
        let places = own.iter().map(Path::new).chain(["/run", "/dev/shm", "/tmp"].map(Path::new));
        let mut last = Errno::NOENT;
        for path in places.map(|place| place.join(&name)) {
            match fs::mkdirat(CWD, &path, Mode::RWXU).and_then(|()| Self::within(&path)) {
                Ok(scratch) => return Ok(scratch),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    fn within(path: &Path) -> Result<Self, Errno> {
        let made = || {
            let dir = fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = fs::openat(&dir, FILE, new, Mode::RUSR | Mode::WUSR)?;
            let sockets =
                net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            let pipe = pipe::pipe_with(PipeFlags::CLOEXEC)?;
            pipe::fcntl_setpipe_size(&pipe.0, rustix::param::page_size())?;
            Ok(Self { path: path.to_owned(), dir, file, sockets, pipe })
        };
        made().inspect_err(|_| {
            // What there is of it; nobody else knows its name.
            let _ = std::fs::remove_dir_all(path);
        })
    }

    /// A new name in the directory, and gone again.
    fn make(&self, make: impl FnOnce(&OwnedFd, &std::ffi::CStr) -> Result<(), Errno>) -> Result<(), Errno> {
        make(&self.dir, NEW)?;
        fs::unlinkat(&self.dir, NEW, AtFlags::empty())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It can only be gone already.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_is_granted_where_nobody_refuses_and_leaves_nothing() {
        let mut trials = Trials::new(true).unwrap();
        let path = trials.scratch().unwrap().path.clone();
        type Call = fn(&mut Trials) -> Result<(), Errno>;
        let calls: [Call; 13] = [
            Trials::fork,
            Trials::create,
            Trials::mknod,
            Trials::symlink,
            Trials::link,
            Trials::mkdir,
            Trials::setxattr,
            Trials::open,
            Trials::pipe,
            Trials::memfd,
            Trials::socket,
            Trials::send,
            Trials::enlarge_pipe,
        ];
        for round in 0..2 {
            for (at, call) in calls.iter().enumerate() {
                assert_eq!(call(&mut trials), Ok(()), "call {at} in round {round}");
            }
        }
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "only the file that was there");
        drop(trials);
        assert!(!path.exists());
    }
}
