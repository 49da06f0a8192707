//! The second file with unsafe code: forking, what a child starts with, and memory shared with one. Each is a thin, safe function; what
//! the children do is their callers' business.

use super::Errno;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// Forks; the child runs `run` and exits with what it returns, without unwinding into, or flushing, anything of its parent's. `BUSY`: this
/// process has more than one thread. A lock that another thread holds (the allocator's, say) would stay locked in the child for
/// good.
pub fn fork(run: impl FnOnce() -> i32) -> Result<u32, Errno> {
    if threads()? != 1 {
        return Err(Errno::BUSY);
    }
    // SAFETY: there is no other thread, so the child is as good a process as its parent; it leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => {
            let run = std::panic::AssertUnwindSafe(run);
            let status = std::panic::catch_unwind(run).unwrap_or(101);
            // SAFETY: ends this process, with nothing of it left to be dropped.
            unsafe { libc::_exit(status) }
        }
        pid => u32::try_from(pid).map_err(|_| Errno::OVERFLOW),
    }
}

/// Forks a child that does nothing but sleep until it is killed, and no longer than its parent lives. Allowed with threads: the child
/// makes only system calls.
pub fn fork_sleeper() -> Result<u32, Errno> {
    // SAFETY: the child takes no lock and allocates nothing: prctl, pause and _exit are async-signal-safe.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => {
            default_signals();
            // SAFETY: as above. SIGALRM's default ends it even if its parent was gone before the prctl.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::alarm(60);
                loop {
                    libc::pause();
                }
            }
        }
        pid => u32::try_from(pid).map_err(|_| Errno::OVERFLOW),
    }
}

/// Signals that end a process which has no use for them. A governor must not die because somebody has mistaken it for another program.
/// Not among them: SIGQUIT, by which an administrator asks for a core, and what the processor sends for a fault.
const STRAY: [i32; 11] = [
    libc::SIGPIPE,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];
/// Those by which an administrator or a terminal ends a whole process group or control group.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// The realtime signals, with the two that the C library keeps to itself and sets up when it needs them.
const REALTIME: std::ops::RangeInclusive<i32> = 32..=64;

/// Ignores the signals that have no meaning to memgov. Children inherit that unless they call [`default_signals`].
pub fn ignore_stray_signals() {
    STRAY.into_iter().chain(REALTIME).for_each(|signal| set_disposition(signal, libc::SIG_IGN));
}

/// Ignores those too that ask a program to end: for one that ends with another.
pub fn ignore_ending_signals() {
    ignore_stray_signals();
    ENDING.into_iter().for_each(|signal| set_disposition(signal, libc::SIG_IGN));
}

/// Every signal does what it does by default, and none is blocked: what a new program expects, whatever its parent did for itself.
pub fn default_signals() {
    (1..=*REALTIME.end()).for_each(|signal| set_disposition(signal, libc::SIG_DFL));
    // It fails only for an invalid pointer.
    let _ = super::sys::unblock_signals();
}

/// By the system call itself: the C library's does not let its own two realtime signals be set, and they end a process like any other.
fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // `struct sigaction` of the kernel: the handler first, then flags, restorer and mask, all zero.
    let action: [libc::sighandler_t; 8] = [disposition, 0, 0, 0, 0, 0, 0, 0];
    let no_old: *mut libc::c_void = ptr::null_mut();
    // SAFETY: `action` is as large as the structure on any architecture, and SIG_IGN and SIG_DFL are no functions that could run at a bad
    // moment. SIGKILL and SIGSTOP are refused, which is as good.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), no_old, size_of::<u64>()) };
}

/// No descriptor but standard input, output and error goes on through an exec, whoever has left one open.
pub fn close_others_on_exec() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|&number| number > 2) {
        // SAFETY: sets a flag of a descriptor; one that is closed by now is refused.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Neither ahead of others nor behind them, and no realtime policy, whatever the parent was given.
pub fn ordinary_priority() {
    // SAFETY: a plain C structure of integers, for which 0 is a valid value of each.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is read only. A failure leaves the policy as it was.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter) };
    let _ = rustix::process::setpriority_process(None, 0);
}

fn threads() -> Result<u64, Errno> {
    let mut buffer = [0; super::proc::STAT_BUFFER];
    super::proc::read_stat(std::process::id(), &mut buffer).map(|stat| u64::from(stat.threads))
}

/// A page that memgov and another process both see.
#[derive(Debug)]
pub struct SharedPage {
    at: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: all access is through atomics.
unsafe impl Send for SharedPage {}
// SAFETY: all access is through atomics.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// A zeroed page, and the file by which another process gets at it.
    pub fn new() -> Result<(Self, OwnedFd), Errno> {
        let file = rustix::fs::memfd_create(c"memgov-heart", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, rustix::param::page_size() as u64)?;
        Ok((Self::of(&file)?, file))
    }

    /// The page in such a file; `INVAL` if the file has none.
    pub fn of(file: impl AsFd) -> Result<Self, Errno> {
        let length = rustix::param::page_size();
        // Beyond the end of a file, reading a mapping is fatal.
        if u64::try_from(rustix::fs::fstat(&file)?.st_size) != Ok(length as u64) {
            return Err(Errno::INVAL);
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, overlaps nothing.
        let at =
            unsafe { rustix::mm::mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, &file, 0)? };
        NonNull::new(at.cast()).map(|at| Self { at, length }).ok_or(Errno::NOMEM)
    }

    /// Its first word.
    pub fn word(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped until drop, aligned, zeroed at first, and nobody has a reference that is not to an atomic.
        unsafe { self.at.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and no reference outlives self. The other process keeps its own mapping.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
