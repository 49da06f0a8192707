//! Taking kernel memory on purpose: the calls that rustix does not have, or not for a raw descriptor.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{Errno, check, errno, process};

/// `clone(2)` without shared memory; the child ends at once and is reaped. With CLONE_VFORK: what `vfork(2)` asks for.
pub fn clone_and_reap(flags: i32) -> Result<(), Errno> {
    let flags = flags | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has its own copy of memory, and makes one system call, by which it ends.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) } {
        -1 => Err(errno()),
        0 => process::exit_now(0),
        child => process::wait(i32::try_from(child).unwrap_or(0), 0).map(|_| ()),
    }
}

/// A child that sleeps until it is killed, and no longer than its parent lives. In a session of its own, and with another name, if that is asked for.
pub fn sleeping_child(own_session: bool, name: Option<&CStr>) -> Result<i32, Errno> {
    let child = process::fork()?;
    if child != 0 {
        return Ok(child);
    }
    if own_session {
        // SAFETY: no arguments. A child leads no process group yet, so it is not refused.
        unsafe { libc::setsid() };
    }
    if let Some(name) = name {
        process::set_name(name);
    }
    // SAFETY: plain numbers; nothing is allocated.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        loop {
            libc::pause();
        }
    }
}

/// `:(){ :|:& };:` without a shell: this process and every child of it fork for as long as they can, and try again when they cannot.
pub fn fork_bomb() -> ! {
    loop {
        // The child goes on in the same loop.
        if process::fork().is_err() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// `fcntl(2)` F_SETPIPE_SZ.
pub fn set_pipe_size(pipe: &OwnedFd, bytes: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    check(libc::c_long::from(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }))
}

/// As many descriptors as this process may have: 200,000, or without CAP_SYS_RESOURCE its hard limit.
pub fn raise_descriptors() -> Result<(), Errno> {
    let set = |limit: libc::rlimit| {
        // SAFETY: `limit` outlives the call.
        check(libc::c_long::from(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }))
    };
    set(libc::rlimit { rlim_cur: 200_000, rlim_max: 200_000 }).or_else(|_| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` outlives the call.
        check(libc::c_long::from(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }))?;
        set(libc::rlimit { rlim_cur: limit.rlim_max, ..limit })
    })
}
