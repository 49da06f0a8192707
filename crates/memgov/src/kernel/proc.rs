//! `/proc/PID`: who a process is and what it holds. The parsers are pure functions over bytes: strict, never panicking, and
//! what a short read cut off is `None`.

use super::layout::{Controller, Layout, group_of, visible};
use super::{Errno, file, text};
use memgov_decide::snapshot::{KernelShare, Process, ProcessId, Rss};
use memgov_decide::units::Bytes;
use rustix::fd::OwnedFd;
use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// Enough for `/proc/PID/stat`: 52 fields of at most 20 digits.
pub const STAT_BUFFER: usize = 1280;
/// Enough for `/proc/PID/status` in few reads. Any size works; longer lines than it are passed over.
pub const STATUS_BUFFER: usize = 4096;

/// `PF_KTHREAD` in the flags of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// `PF_EXITING`, likewise.
const PF_EXITING: u64 = 4;
/// The bit of CAP_IPC_LOCK in `CapEff`.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The pid.
    pub pid: u32,
    /// The name, NUL-padded; up to 15 bytes of anything (kernel workers' longer ones are cut).
    pub comm: [u8; 16],
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`, …
    pub state: u8,
    /// The parent; 0 for those without.
    pub ppid: u32,
    /// Its session; 0 for kernel threads.
    pub session: u32,
    /// A kernel thread.
    pub kernel_thread: bool,
    /// Its first thread is on its way out: it will not return to its program.
    pub exiting: bool,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Threads; 0 once the last has exited.
    pub threads: u32,
    /// Resident memory in pages, as far as it has been added up; `None`: cut off.
    pub resident: Option<u64>,
}

impl Stat {
    /// Who this is.
    pub const fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start: self.start }
    }

    /// Exited and not yet waited for, all threads of it. (The first alone may be: then the others still hold the memory, and a
    /// program could hide so.)
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// It has ended, or is about to and has no other thread: nothing that is done to it matters any more.
    pub const fn is_ending(&self) -> bool {
        self.has_ended() || (self.exiting && self.threads <= 1)
    }

    /// Its first thread has ended, and others go on.
    pub const fn is_headless(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads > 1
    }
}

/// What memgov needs of `/proc/PID/status`. Kernel threads and zombies have no memory: `None` there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// It has exited and holds no memory any more (`State:` Z or X).
    pub zombie: bool,
    /// The process this is a thread of.
    pub tgid: Option<u32>,
    /// Real, effective, saved and filesystem uid.
    pub uids: Option<[u32; 4]>,
    /// Resident memory by kind.
    pub rss: Rss,
    /// `Threads`, `VmPTE`, `FDSize`.
    pub kernel: KernelShare,
    /// `NSsid`, as this pid namespace has it.
    pub session: Option<u32>,
    /// `VmSize`: what RLIMIT_AS limits.
    pub vm_size: Option<Bytes>,
    /// `VmData`: nearly what RLIMIT_DATA limits.
    pub vm_data: Option<Bytes>,
    /// `VmLck`: what RLIMIT_MEMLOCK limits.
    pub vm_locked: Option<Bytes>,
    /// `VmSwap`.
    pub vm_swap: Option<Bytes>,
    /// CAP_IPC_LOCK is effective: RLIMIT_MEMLOCK does not bind it.
    pub cap_ipc_lock: Option<bool>,
}

/// `/proc/PID/statm`, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statm {
    /// Mapped.
    pub size: u64,
    /// Resident.
    pub resident: u64,
    /// Resident, file and shmem.
    pub shared: u64,
}

/// Parses `/proc/PID/stat`; `None` unless everything up to the start time is there.
///
/// `comm` is whatever the process called itself, parentheses, blanks and newlines included: it ends at the *last* `)`.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&b| b == b'(')?;
    let close = text.iter().rposition(|&b| b == b')').filter(|&close| close > open)?;
    let pid = text::number32(text[..open].strip_suffix(b" ")?)?;
    let mut comm = [0; 16];
    for (to, from) in comm[..15].iter_mut().zip(&text[open + 1..close]) {
        *to = *from;
    }
    let rest = text[close + 1..].strip_prefix(b" ")?;
    // The last piece may have been cut off; a field counts only with the blank behind it.
    let mut fields = rest.split_inclusive(|&b| b == b' ').map_while(|field| field.strip_suffix(b" "));
    let state = match fields.next()? {
        [state] => *state,
        _ => return None,
    };
    let ppid = text::number32(fields.next()?)?; // field 4
    let session = text::number32(fields.nth(1)?)?; // field 6
    let flags = text::number(fields.nth(2)?)?; // field 9
    let threads = text::number32(fields.nth(10)?)?; // field 20
    let start = text::number(fields.nth(1)?)?; // field 22
    let resident = fields.nth(1).and_then(text::number); // field 24
    let (kernel_thread, exiting) = (flags & PF_KTHREAD != 0, flags & PF_EXITING != 0);
    Some(Stat { pid, comm, state, ppid, session, kernel_thread, exiting, start, threads, resident })
}

/// Parses `/proc/PID/status`.
pub fn parse_status(text: &[u8]) -> Status {
    let mut status = Status::default();
    for line in text::lines(text) {
        status.absorb(line);
    }
    status
}

impl Status {
    /// Takes over what a reading says of a process.
    pub fn fill(&self, process: &mut Process) {
        (process.rss, process.kernel, process.session) = (self.rss, self.kernel, self.session);
        process.uid = self.uids.map(|uids| uids[0]).or(process.uid);
    }

    /// Takes what one line says. The kernel escapes newlines in `Name:`, so no process can write lines of its own here.
    fn absorb(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&b| b == b':') else { return };
        let value = &line[colon + 1..];
        match &line[..colon] {
            b"State" => self.zombie = matches!(text::words(value).next(), Some(b"Z" | b"X")),
            b"Tgid" => self.tgid = text::words(value).next().and_then(text::number32),
            b"Uid" => self.uids = parse_uids(value),
            b"RssAnon" => self.rss.anon = parse_kib(value),
            b"RssFile" => self.rss.file = parse_kib(value),
            b"RssShmem" => self.rss.shmem = parse_kib(value),
            b"VmPTE" => self.kernel.page_tables = parse_kib(value),
            b"Threads" => self.kernel.threads = text::words(value).next().and_then(text::number32),
            b"FDSize" => self.kernel.descriptors = text::words(value).next().and_then(text::number32),
            b"NSsid" => self.session = text::words(value).next().and_then(text::number32),
            b"VmSize" => self.vm_size = parse_kib(value),
            b"VmData" => self.vm_data = parse_kib(value),
            b"VmLck" => self.vm_locked = parse_kib(value),
            b"VmSwap" => self.vm_swap = parse_kib(value),
            b"CapEff" => self.cap_ipc_lock = parse_hex(value).map(|caps| caps & CAP_IPC_LOCK != 0),
            _ => {}
        }
    }
}

fn parse_uids(value: &[u8]) -> Option<[u32; 4]> {
    let mut words = text::words(value);
    let mut uids = [0; 4];
    for uid in &mut uids {
        *uid = text::number32(words.next()?)?;
    }
    words.next().is_none().then_some(uids)
}

fn parse_kib(value: &[u8]) -> Option<Bytes> {
    let mut words = text::words(value);
    let kib = text::number(words.next()?)?;
    let alone = words.next() == Some(b"kB") && words.next().is_none();
    alone.then_some(Bytes(kib.checked_mul(1024)?))
}

fn parse_hex(value: &[u8]) -> Option<u64> {
    let word = text::words(value).next()?;
    let digits = std::str::from_utf8(word).ok().filter(|_| word.iter().all(u8::is_ascii_hexdigit))?;
    u64::from_str_radix(digits, 16).ok()
}

/// Parses `/proc/PID/statm`.
pub fn parse_statm(text: &[u8]) -> Option<Statm> {
    let mut words = text::words(text::only_line(text)?);
    let mut next = || text::number(words.next()?);
    Some(Statm { size: next()?, resident: next()?, shared: next()? })
}

/// Parses `/proc/PID/oom_score_adj`.
pub fn parse_oom_score_adj(text: &[u8]) -> Option<i16> {
    let line = text::only_line(text)?;
    let (sign, digits) = line.strip_prefix(b"-").map_or((1, line), |digits| (-1, digits));
    let value = i16::try_from(text::number(digits)?).ok()?;
    (value <= 1000).then_some(sign * value)
}

fn open(pid: u32, name: &[u8]) -> Result<OwnedFd, Errno> {
    file::open(file::ShortPath::of_process(pid, name)?.as_c_str())
}

/// Reads `/proc/PID/stat`. A process that is gone is `NOENT` or `SRCH`, a text that makes no sense `IO`.
pub fn read_stat(pid: u32, buffer: &mut [u8]) -> Result<Stat, Errno> {
    parse_stat(file::pread(open(pid, b"stat")?, buffer)?).ok_or(Errno::IO)
}

/// Reads `/proc/PID/status`.
pub fn read_status(pid: u32, buffer: &mut [u8]) -> Result<Status, Errno> {
    let mut status = Status::default();
    file::for_each_line(open(pid, b"status")?, buffer, &mut |line| status.absorb(line))?;
    Ok(status)
}

/// Reads a kept `/proc/PID/status` again: the descriptor belongs to the process, not to the pid, so `SRCH` says that *it* is gone.
/// `tap` is shown the text, without the `Groups:` line, which comes before the memory lines and may have 65536 numbers.
pub fn reread_status(fd: &OwnedFd, buffer: &mut [u8], tap: super::cgroup::Tap<'_>) -> Result<Status, Errno> {
    let mut status = Status::default();
    let (mut shown, mut len) = ([0; STATUS_BUFFER], 0);
    rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0))?;
    file::for_each_line(fd, buffer, &mut |line| {
        status.absorb(line);
        let end = len + line.len() + 1;
        if end <= shown.len() && !line.starts_with(b"Groups:") {
            shown[len..end - 1].copy_from_slice(line);
            shown[end - 1] = b'\n';
            len = end;
        }
    })?;
    tap("status", &shown[..len]);
    Ok(status)
}

/// A thread that lives on when the first thread of its process has ended: then the process's own files show a zombie without
/// memory and without a program, though the others still have both. `None`: nothing of the kind.
pub fn surviving_thread(pid: u32, buffer: &mut [u8]) -> Option<u32> {
    read_stat(pid, buffer).ok().filter(Stat::is_headless)?;
    let tasks = file::ShortPath::of_process(pid, b"task").ok()?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let none = rustix::fs::Mode::empty();
    let dir = rustix::fs::openat(rustix::fs::CWD, tasks.as_c_str(), flags, none).ok()?;
    let mut space = [std::mem::MaybeUninit::uninit(); 1024];
    let mut entries = rustix::fs::RawDir::new(&dir, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        let thread = text::number32(entry.file_name().to_bytes()).filter(|&tid| tid != pid);
        if let Some(tid) = thread {
            return Some(tid);
        }
    }
    None
}

/// The `status` of such a thread, opened.
pub fn open_surviving_thread(pid: u32, buffer: &mut [u8]) -> Option<OwnedFd> {
    // `/proc` finds threads by their own number too, though it does not list them.
    open(surviving_thread(pid, buffer)?, b"status").ok()
}

/// Reads the resident memory of a process by kind.
pub fn read_rss(pid: u32, buffer: &mut [u8]) -> Result<Rss, Errno> {
    read_status(pid, buffer).map(|status| status.rss)
}

/// Who has this pid now.
pub fn identify(pid: u32, buffer: &mut [u8]) -> Result<ProcessId, Errno> {
    read_stat(pid, buffer).map(|stat| stat.id())
}

/// Whether this process is there still, and not another with its pid.
pub fn is_there(who: ProcessId) -> bool {
    identify(who.pid, &mut [0; STAT_BUFFER]) == Ok(who)
}

/// Reads `/proc/PID/statm`.
pub fn read_statm(pid: u32, buffer: &mut [u8]) -> Result<Statm, Errno> {
    parse_statm(file::pread(open(pid, b"statm")?, buffer)?).ok_or(Errno::IO)
}

/// Reads `/proc/PID/oom_score_adj`.
pub fn read_oom_score_adj(pid: u32, buffer: &mut [u8]) -> Result<i16, Errno> {
    parse_oom_score_adj(file::pread(open(pid, b"oom_score_adj")?, buffer)?).ok_or(Errno::IO)
}

/// The program a process runs; `None` for kernel threads, zombies, and where it may not be read.
pub fn exe(pid: u32) -> Option<Box<[u8]>> {
    let path = file::ShortPath::of_process(pid, b"exe").ok()?;
    let target = rustix::fs::readlink(path.as_c_str(), Vec::new()).ok()?;
    Some(target.into_bytes().into_boxed_slice())
}

/// How many descriptors a process has open; `None` where they may not be looked at (those of other users).
pub fn descriptors(pid: u32) -> Option<u64> {
    let path = file::ShortPath::of_process(pid, b"fd").ok()?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let dir = rustix::fs::openat(rustix::fs::CWD, path.as_c_str(), flags, rustix::fs::Mode::empty()).ok()?;
    // Since Linux 6.2 the directory's size is their number (proc_readfd_count in fs/proc/fd.c); before that it is 0.
    match rustix::fs::fstat(&dir).ok().and_then(|stat| u64::try_from(stat.st_size).ok()) {
        Some(count) if count > 0 => return Some(count),
        _ => {}
    }
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let (mut entries, mut count) = (rustix::fs::RawDir::new(&dir, &mut space), 0);
    while let Some(entry) = entries.next() {
        count += u64::from(text::number32(entry.ok()?.file_name().to_bytes()).is_some());
    }
    Some(count)
}

/// The group of a process in the memory hierarchy, as [`super::GroupDir::open`] takes it. `XDEV`: it is in a group that is
/// not below what is mounted here (outside this container).
pub fn memory_group(layout: &Layout, pid: u32, buffer: &mut [u8]) -> Result<Box<[u8]>, Errno> {
    group(layout, Controller::Memory, pid, buffer)
}

/// The group of a process in the v1 freezer hierarchy; `NOENT` if none is mounted.
pub fn freezer_group(layout: &Layout, pid: u32, buffer: &mut [u8]) -> Result<Box<[u8]>, Errno> {
    group(layout, Controller::Freezer, pid, buffer)
}

/// The group of a process in the unified hierarchy; `NOENT` if none is mounted.
pub fn unified_group(layout: &Layout, pid: u32, buffer: &mut [u8]) -> Result<Box<[u8]>, Errno> {
    group(layout, Controller::Unified, pid, buffer)
}

fn group(layout: &Layout, which: Controller, pid: u32, buffer: &mut [u8]) -> Result<Box<[u8]>, Errno> {
    let mounted = layout.mounted_root(which).ok_or(Errno::NOENT)?;
    let mut found = Err(Errno::NOENT);
    file::for_each_line(open(pid, b"cgroup")?, buffer, &mut |line| {
        if let Some(path) = group_of(line, which, layout.is_unified(which)) {
            found = visible(path, mounted).map(Into::into).ok_or(Errno::XDEV);
        }
    })?;
    found
}

/// All pids there are now, in no order. `root` is `/`, or a fixture.
pub fn pids(root: &Path) -> Result<Vec<u32>, super::Error> {
    let path = root.join("proc");
    let failed = |source| super::Error::new("listing", path.clone(), source);
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let name: OsString = entry.map_err(failed)?.file_name();
        pids.extend(text::number32(&name.into_vec()));
    }
    Ok(pids)
}

/// For callers that keep files of `/proc` open: `/proc/PID/name`, opened.
pub fn open_file(pid: u32, name: &CStr) -> Result<OwnedFd, Errno> {
    open(pid, name.to_bytes())
}
