//! The second file with unsafe code: forking, and memory shared with a forked child. Each is a thin, safe function; what the children
//! do is their callers' business.

use super::Errno;
use rustix::fd::OwnedFd;
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
        // SAFETY: as above. SIGALRM's default ends it even if its parent was gone before the prctl.
        0 => unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::alarm(60);
            loop {
                libc::pause();
            }
        },
        pid => u32::try_from(pid).map_err(|_| Errno::OVERFLOW),
    }
}

/// Ignores the signals by which an administrator or a terminal ends a whole process group or control group.
pub fn ignore_ending_signals() {
    for signal in [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
    ] {
        // SAFETY: SIG_IGN is no function that could run at a bad moment.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

fn threads() -> Result<u64, Errno> {
    let mut buffer = [0; super::proc::STAT_BUFFER];
    super::proc::read_stat(std::process::id(), &mut buffer).map(|stat| u64::from(stat.threads))
}

/// A page that a process and the children it forks afterwards both see.
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
    /// A zeroed page.
    pub fn new() -> Result<Self, Errno> {
        let length = rustix::param::page_size();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping, at an address of the kernel's choice, overlaps nothing.
        let at =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, protection, MapFlags::SHARED)? };
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
        // SAFETY: mapped by `new`, and no reference outlives self. The other process keeps its own mapping.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

/// A pidfd of this process itself.
pub fn own_pidfd() -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
