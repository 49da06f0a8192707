//! Takes kernel memory, a kind at a time, and holds it; and tries each call that can be refused for it. Everything is relative to the
//! working directory, which is one on tmpfs.

use std::fmt;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, CWD, FileType, MemfdFlags, Mode, XattrFlags};
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{self, SpliceFlags};

use crate::sys::memory::{self, Mapping, PAGE};
use crate::sys::{Errno, hoard, process, signal};

/// What can be hoarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Sleeping children.
    Forks,
    /// The same, each in a session of its own.
    Sessions,
    /// Each with a name of its own.
    Names,
    /// Each with both.
    Strangers,
    /// Sleeping threads.
    Threads,
    /// The same, and tries again for as long as it is refused one.
    StubbornThreads,
    /// A directory in a directory in a directory.
    Dirs,
    /// Plain files that stay.
    Files,
    /// Files that are open and have no name.
    Unlinked,
    /// Files that are open and keep their names.
    Named,
    /// Full pipes.
    Pipes,
    /// Pairs of sockets.
    Sockets,
    /// Unread messages, in sockets that were there before.
    Messages,
    /// Room in pipes that were there before.
    PipeSizes,
    /// What fills pipes that were there before.
    PipePages,
    /// Full pages of a pipe, moved into sockets that were there before.
    Spliced,
    /// Full System V message queues.
    Queues,
    /// Names of one file.
    Links,
    /// Attributes of one file.
    Xattrs,
    /// Mappings, by changing single pages of one.
    Splits,
    /// Mappings of a page each.
    Maps,
    /// Mappings, by holes in one.
    Holes,
    /// Mappings, by what is said of single pages of one: mlock, then madvise.
    Marks,
    /// Page tables, by looking at one page in 2 MiB.
    Tables,
    /// Names that were asked for and are not there, in a directory that remembers those: not on tmpfs.
    Absent,
    /// TCP connections to itself with full queues.
    Tcp,
    /// Timers that never run.
    Timers,
}

impl Kind {
    /// As in the protocol.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "forks" => Self::Forks,
            "sessions" => Self::Sessions,
            "names" => Self::Names,
            "strangers" => Self::Strangers,
            "threads" => Self::Threads,
            "stubborn-threads" => Self::StubbornThreads,
            "dirs" => Self::Dirs,
            "files" => Self::Files,
            "unlinked" => Self::Unlinked,
            "named" => Self::Named,
            "pipes" => Self::Pipes,
            "sockets" => Self::Sockets,
            "messages" => Self::Messages,
            "pipe-sizes" => Self::PipeSizes,
            "pipe-pages" => Self::PipePages,
            "spliced" => Self::Spliced,
            "queues" => Self::Queues,
            "links" => Self::Links,
            "xattrs" => Self::Xattrs,
            "splits" => Self::Splits,
            "maps" => Self::Maps,
            "holes" => Self::Holes,
            "marks" => Self::Marks,
            "tables" => Self::Tables,
            "absent" => Self::Absent,
            "tcp" => Self::Tcp,
            "timers" => Self::Timers,
            _ => return None,
        })
    }
}

static THREADS_MAY_STAY: AtomicBool = AtomicBool::new(true);
/// Bytes of a message and of an attribute.
const PIECE: usize = 4000;
/// What a page of page tables spans on x86-64, and how many can be had.
const SPAN: usize = 2 << 20;
const SPANS: usize = 16_000;
/// Pages of the mapping that is split.
const SPLIT_PAGES: usize = 60_000;
/// Of the one that gets holes: half as many.
const HOLED_PAGES: usize = 120_000;

/// What is held.
#[derive(Default)]
pub struct Hoard {
    descriptors: Vec<OwnedFd>,
    /// What was there before.
    before: Vec<OwnedFd>,
    children: Vec<i32>,
    depth: usize,
    files: usize,
    links: usize,
    xattrs: usize,
    used: usize,
    split: Option<(usize, usize)>,
    maps: Vec<usize>,
    holed: Option<(usize, usize)>,
    tables: Option<(usize, usize)>,
    absent: usize,
    timers: Vec<i32>,
    queues: Vec<hoard::Queue>,
}

impl Hoard {
    /// Makes what a kind needs before there is a line, `count` of it.
    pub fn prepare(&mut self, kind: Kind, count: u64) -> Result<(), Errno> {
        hoard::raise_descriptors()?;
        match kind {
            Kind::Messages => {
                for _ in 0..count {
                    let (a, b) = socket_pair()?;
                    self.before.extend([a, b]);
                }
            }
            Kind::PipeSizes | Kind::PipePages => {
                for _ in 0..count {
                    let (a, b) = pipe::pipe().map_err(raw)?;
                    self.before.extend([a, b]);
                }
            }
            Kind::Spliced => self.prepare_splicing(count)?,
            Kind::Timers => {
                hoard::raise_timers()?;
                self.timers.reserve(1 << 16);
            }
            Kind::Queues => hoard::own_queues()?,
            Kind::Links | Kind::Xattrs => make_file(c"base")?,
            Kind::Tables => self.tables = Some((memory::map(SPANS * SPAN, Mapping::ReadOnly)?, 0)),
            Kind::Splits => self.split = Some((memory::map(SPLIT_PAGES * PAGE, Mapping::NoAccess)?, 0)),
            Kind::Holes | Kind::Marks => {
                self.holed = Some((memory::map(HOLED_PAGES * PAGE, Mapping::NoAccess)?, 0));
            }
            Kind::Maps => self.maps.reserve(1 << 16),
            _ => {}
        }
        // The table of descriptors is kernel memory too, and of those kinds the smaller part.
        self.descriptors.reserve(1 << 16);
        self.children.reserve(1 << 14);
        Ok(())
    }

    /// A pipe, and sockets that what is in it can be moved to.
    fn prepare_splicing(&mut self, count: u64) -> Result<(), Errno> {
        let (reader, writer) = pipe::pipe().map_err(raw)?;
        self.before.extend([reader, writer]);
        for _ in 0..count {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (a, b) =
                net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(raw)?;
            self.before.extend([a, b]);
        }
        self.used = 2;
        Ok(())
    }

    /// Takes so often, or until it fails: how often, and the errno.
    pub fn take(&mut self, kind: Kind, count: u64) -> (u64, Errno) {
        for taken in 0..count {
            if let Err(errno) = self.step(kind) {
                return (taken, errno);
            }
        }
        (count, 0)
    }

    fn step(&mut self, kind: Kind) -> Result<(), Errno> {
        match kind {
            Kind::Forks => self.children.push(hoard::sleeping_child(false, None)?),
            Kind::Sessions => self.children.push(hoard::sleeping_child(true, None)?),
            Kind::Names | Kind::Strangers => {
                let name = &mut [0; 24];
                let name = self::name(name, "n", self.children.len())?;
                self.children.push(hoard::sleeping_child(kind == Kind::Strangers, Some(name))?);
            }
            Kind::Threads => thread()?,
            Kind::StubbornThreads => {
                while thread() == Err(libc::EAGAIN) {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            Kind::Dirs => {
                fs::mkdir(c"d", Mode::RWXU).map_err(raw)?;
                rustix::process::chdir(c"d").map_err(raw)?;
                self.depth += 1;
            }
            Kind::Files => {
                make_file(name(&mut [0; 24], "f", self.files)?)?;
                self.files += 1;
            }
            Kind::Named => {
                let new = &mut [0; 24];
                let new = name(new, "f", self.files)?;
                make_file(new)?;
                self.files += 1;
                self.descriptors.push(process::open(new, libc::O_RDONLY)?);
            }
            Kind::Unlinked => {
                make_file(c"u")?;
                let open = process::open(c"u", libc::O_RDONLY);
                fs::unlink(c"u").map_err(raw)?;
                self.descriptors.push(open?);
            }
            Kind::Pipes => {
                let (reader, writer) = pipe::pipe().map_err(raw)?;
                rustix::io::write(&writer, &[1; 65536]).map_err(raw)?;
                self.descriptors.extend([reader, writer]);
            }
            Kind::Sockets => {
                let (a, b) = socket_pair()?;
                self.descriptors.extend([a, b]);
            }
            Kind::Messages => return self.message(),
            Kind::PipeSizes => {
                hoard::set_pipe_size(self.before.get(2 * self.used).ok_or(libc::ENFILE)?, 1 << 20)?;
                self.used += 1;
            }
            Kind::PipePages => {
                let writer = self.before.get(2 * self.used + 1).ok_or(libc::ENFILE)?;
                rustix::io::write(writer, &[1; 65536]).map_err(raw)?;
                self.used += 1;
            }
            Kind::Spliced => return self.splice(),
            Kind::Queues => {
                let queue = hoard::Queue::new()?;
                let filled = queue.fill();
                self.queues.push(queue);
                filled?;
            }
            Kind::Maps => {
                // Neighbours that are alike would be one.
                let odd = self.maps.len() % 2 == 1;
                self.maps.push(memory::map(PAGE, if odd { Mapping::ReadOnly } else { Mapping::NoAccess })?);
            }
            Kind::Holes => memory::unmap(self.next_page()?, PAGE)?,
            Kind::Marks => {
                let page = self.next_page()?;
                // Locked while RLIMIT_MEMLOCK allows it.
                memory::lock_on_fault(page, PAGE).or_else(|_| memory::leave_out_of_dumps(page, PAGE))?;
            }
            Kind::Links => {
                let new = &mut [0; 24];
                fs::linkat(CWD, c"base", CWD, name(new, "l", self.links)?, AtFlags::empty()).map_err(raw)?;
                self.links += 1;
            }
            Kind::Xattrs => {
                let key = &mut [0; 24];
                let key = name(key, "trusted.m", self.xattrs)?;
                fs::setxattr(c"base", key, &[1; PIECE], XattrFlags::empty()).map_err(raw)?;
                self.xattrs += 1;
            }
            Kind::Tables => {
                let (at, done) =
                    self.tables.as_mut().filter(|(_, done)| *done < SPANS).ok_or(libc::EINVAL)?;
                // Reading maps the one page of zeros that all share.
                memory::read_pages(*at + *done * SPAN, PAGE);
                *done += 1;
            }
            Kind::Absent => match fs::stat(name(&mut [0; 24], "absent", self.absent)?) {
                Err(rustix::io::Errno::NOENT) => self.absent += 1,
                result => return result.map(|_| ()).map_err(raw),
            },
            Kind::Timers => self.timers.push(hoard::timer()?),
            Kind::Tcp => self.tcp().map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?,
            Kind::Splits => {
                let (at, done) = self.split.as_mut().ok_or(libc::EINVAL)?;
                memory::protect(*at + (2 * *done + 1) * PAGE, PAGE, true)?;
                *done += 1;
            }
        }
        Ok(())
    }

    fn tcp(&mut self) -> std::io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut writer = TcpStream::connect(listener.local_addr()?)?;
        let (reader, _) = listener.accept()?;
        writer.set_nonblocking(true)?;
        while writer.write(&[1; PIECE]).is_ok_and(|written| written > 0) {}
        self.descriptors.extend([writer.into(), reader.into()]);
        Ok(())
    }

    /// Every other page of one mapping.
    fn next_page(&mut self) -> Result<usize, Errno> {
        let (at, done) =
            self.holed.as_mut().filter(|(_, done)| 2 * *done + 1 < HOLED_PAGES).ok_or(libc::EINVAL)?;
        let page = *at + (2 * *done + 1) * PAGE;
        *done += 1;
        Ok(page)
    }

    /// Fills the pipe and moves its pages to the next socket that has room.
    fn splice(&mut self) -> Result<(), Errno> {
        let [reader, writer, ..] = &self.before[..] else { return Err(libc::ENFILE) };
        let mut left = rustix::io::write(writer, &[1; 65536]).map_err(raw)?;
        while left > 0 {
            let socket = self.before.get(self.used).ok_or(libc::ENFILE)?;
            match pipe::splice(reader, None, socket, None, left, SpliceFlags::NONBLOCK) {
                Ok(moved) => left -= moved,
                Err(rustix::io::Errno::AGAIN) => self.used += 2,
                Err(errno) => return Err(raw(errno)),
            }
        }
        Ok(())
    }

    /// To the next socket that has room.
    fn message(&mut self) -> Result<(), Errno> {
        while let Some(socket) = self.before.get(self.used) {
            match net::send(socket, &[1; PIECE], SendFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) => self.used += 1,
                result => return result.map(|_| ()).map_err(raw),
            }
        }
        Err(libc::ENFILE)
    }

    /// Gives everything back. None of these calls may be refused.
    pub fn let_go(&mut self) -> Result<(), Errno> {
        for child in self.children.drain(..) {
            signal::send(child, libc::SIGKILL)?;
            process::wait(child, 0)?;
        }
        THREADS_MAY_STAY.store(false, Ordering::Relaxed);
        for timer in self.timers.drain(..) {
            hoard::end_timer(timer)?;
        }
        self.descriptors.clear();
        self.before.clear();
        self.queues.clear();
        for _ in 0..self.depth {
            rustix::process::chdir(c"..").map_err(raw)?;
            fs::rmdir(c"d").map_err(raw)?;
        }
        for file in 0..self.files {
            fs::unlink(name(&mut [0; 24], "f", file)?).map_err(raw)?;
        }
        for link in 0..self.links {
            fs::unlink(name(&mut [0; 24], "l", link)?).map_err(raw)?;
        }
        // With the file go its attributes.
        if fs::stat(c"base").is_ok() {
            fs::unlink(c"base").map_err(raw)?;
        }
        if let Some((at, _)) = self.split.take() {
            memory::unmap(at, SPLIT_PAGES * PAGE)?;
        }
        for at in self.maps.drain(..) {
            memory::unmap(at, PAGE)?;
        }
        if let Some((at, _)) = self.holed.take() {
            memory::unmap(at, HOLED_PAGES * PAGE)?;
        }
        if let Some((at, _)) = self.tables.take() {
            memory::unmap(at, SPANS * SPAN)?;
        }
        (self.depth, self.files, self.links, self.xattrs, self.used) = (0, 0, 0, 0, 0);
        Ok(())
    }
}

/// The calls that are tried, by name, in the order of [`Calls::round`].
pub const CALLS: [&str; 20] = [
    "fork", "vfork", "clone", "thread", "create", "mkdir", "mknod", "symlink", "link", "setxattr", "open",
    "pipe", "memfd", "socket", "sendmsg", "setpipe", "mprotect", "msgget", "msgsnd", "semget",
];

/// What the calls are tried on, made before anything is refused.
pub struct Calls {
    file: OwnedFd,
    sockets: (OwnedFd, OwnedFd),
    pipe: (OwnedFd, OwnedFd),
    mapping: usize,
    queue: hoard::Queue,
}

/// More mappings than a process may have before another is refused.
const MANY: usize = 200;

impl Calls {
    /// Makes them, in the working directory.
    pub fn prepare() -> Result<Self, Errno> {
        let mapping = memory::map((2 * MANY + 8) * PAGE, Mapping::NoAccess)?;
        for at in 0..MANY {
            memory::protect(mapping + (2 * at + 1) * PAGE, PAGE, true)?;
        }
        let file = process::open(c"probe", libc::O_RDWR | libc::O_CREAT)?;
        let pipe = pipe::pipe().map_err(raw)?;
        hoard::set_pipe_size(&pipe.0, 4096)?;
        Ok(Self { file, sockets: socket_pair()?, pipe, mapping, queue: hoard::Queue::new()? })
    }

    /// Each call once; 0 for success. What succeeds is undone.
    pub fn round(&self) -> [Errno; CALLS.len()] {
        let gone = |result: rustix::io::Result<()>| {
            result.map_err(raw).and_then(|()| fs::unlink(c"new").map_err(raw))
        };
        let tail = self.mapping + (2 * MANY + 4) * PAGE;
        [
            hoard::clone_and_reap(0),
            hoard::clone_and_reap(libc::CLONE_VFORK),
            hoard::clone_and_reap(libc::CLONE_FILES | libc::CLONE_FS),
            ended_thread(),
            gone(fs::mknodat(CWD, c"new", FileType::RegularFile, Mode::RWXU, 0)),
            fs::mkdir(c"new", Mode::RWXU).and_then(|()| fs::rmdir(c"new")).map_err(raw),
            gone(fs::mknodat(CWD, c"new", FileType::Fifo, Mode::RWXU, 0)),
            gone(fs::symlink(c"nowhere", c"new")),
            gone(fs::link(c"probe", c"new")),
            fs::fsetxattr(&self.file, c"trusted.memgov", b"1", XattrFlags::empty()).map_err(raw),
            process::open(c"probe", libc::O_RDONLY).map(drop),
            pipe::pipe().map(drop).map_err(raw),
            fs::memfd_create(c"probe", MemfdFlags::CLOEXEC).map(drop).map_err(raw),
            net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map(drop)
                .map_err(raw),
            self.send(),
            hoard::set_pipe_size(&self.pipe.0, 8192).and_then(|()| hoard::set_pipe_size(&self.pipe.0, 4096)),
            memory::protect(tail, PAGE, true).and_then(|()| memory::protect(tail, PAGE, false)),
            hoard::message_queue(),
            self.queue.send(),
            hoard::semaphores(),
        ]
        .map(|result: Result<(), Errno>| result.err().unwrap_or(0))
    }

    fn send(&self) -> Result<(), Errno> {
        net::send(&self.sockets.0, b"1", SendFlags::DONTWAIT).map_err(raw)?;
        net::recv(&self.sockets.1, &mut [0; 8], net::RecvFlags::DONTWAIT).map(|_| ()).map_err(raw)
    }

    /// What gives memory back, and must never be refused: 0, or the first errno.
    pub fn give_back(&self) -> Errno {
        // One of the many mappings, made like its neighbours: three become one.
        let merge = memory::protect(self.mapping + PAGE, PAGE, false);
        let smaller = hoard::set_pipe_size(&self.pipe.0, 4096);
        let hole = memory::unmap(self.mapping + 4 * PAGE, PAGE);
        merge.and(smaller).and(hole).err().unwrap_or(0)
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errnos = self.round();
        CALLS.iter().zip(errnos).try_for_each(|(name, errno)| write!(to, "{name}={errno} "))
    }
}

fn raw(errno: rustix::io::Errno) -> Errno {
    errno.raw_os_error()
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).map_err(raw)
}

fn make_file(name: &std::ffi::CStr) -> Result<(), Errno> {
    fs::mknodat(CWD, name, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0).map_err(raw)
}

fn thread() -> Result<(), Errno> {
    extern "C" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
        while THREADS_MAY_STAY.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        std::ptr::null_mut()
    }
    THREADS_MAY_STAY.store(true, Ordering::Relaxed);
    hoard::thread(body, false)
}

fn ended_thread() -> Result<(), Errno> {
    extern "C" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
        std::ptr::null_mut()
    }
    hoard::thread(body, true)
}

/// `prefix-number` in a fixed buffer.
fn name<'a>(buffer: &'a mut [u8; 24], prefix: &str, number: usize) -> Result<&'a std::ffi::CStr, Errno> {
    let mut room = &mut buffer[..];
    write!(room, "{prefix}-{number}\0").map_err(|_| libc::ENAMETOOLONG)?;
    std::ffi::CStr::from_bytes_until_nul(buffer).map_err(|_| libc::EINVAL)
}
