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

/// What a thread does.
pub type Body = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;

/// A thread by pthread_create(3), waited for or left alone. One of the standard library's asks for more memory once it runs, and where that is refused it ends the whole program.
pub fn thread(body: Body, wait: bool) -> Result<(), Errno> {
    let (mut attributes, mut thread) = (std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit(), 0);
    let at = attributes.as_mut_ptr();
    let failed = |code: i32| if code == 0 { Ok(()) } else { Err(code) };
    // SAFETY: the attributes are initialised before they are used, and destroyed once; the body takes no argument, and lives as long as the program. A thread that
    // is waited for is not detached, and joined once.
    unsafe {
        failed(libc::pthread_attr_init(at))?;
        let mut result = failed(libc::pthread_attr_setstacksize(at, 32 << 10));
        if !wait {
            result = result.and(failed(libc::pthread_attr_setdetachstate(at, libc::PTHREAD_CREATE_DETACHED)));
        }
        let started = result
            .and_then(|()| failed(libc::pthread_create(&raw mut thread, at, body, std::ptr::null_mut())));
        libc::pthread_attr_destroy(at);
        started?;
        if wait { failed(libc::pthread_join(thread, std::ptr::null_mut())) } else { Ok(()) }
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

/// A timer of this process, which never runs: `timer_create(2)`. Each keeps a signal pending, so to speak (RLIMIT_SIGPENDING), and a record in a slab.
pub fn timer() -> Result<i32, Errno> {
    let mut timer = 0;
    let none = std::ptr::null_mut::<libc::sigevent>();
    // SAFETY: `timer` outlives the call; the kernel's timer_t is an int.
    check(unsafe { libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, none, &raw mut timer) })?;
    Ok(timer)
}

/// `timer_delete(2)`.
pub fn end_timer(timer: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_timer_delete, timer) })
}

/// As many timers as root may ask for.
pub fn raise_timers() -> Result<(), Errno> {
    let many = libc::rlimit { rlim_cur: 400_000, rlim_max: 400_000 };
    // SAFETY: `many` outlives the call.
    check(libc::c_long::from(unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const many) }))
}

/// `msgget(2)` of a queue of its own, which is removed.
pub fn message_queue() -> Result<(), Errno> {
    // SAFETY: plain numbers.
    let queue = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    check(queue.into())?;
    // SAFETY: removing asks for no buffer.
    check(unsafe { libc::msgctl(queue, libc::IPC_RMID, std::ptr::null_mut()) }.into())
}

/// A queue of System V messages that is there before.
pub struct Queue(i32);

impl Queue {
    /// `msgget(2)`.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: plain numbers.
        let queue = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
        check(queue.into()).map(|()| Self(queue))
    }

    /// `msgsnd(2)` until it is full; what is in it stays.
    pub fn fill(&self) -> Result<(), Errno> {
        const PIECE: usize = 4000;
        let message = [1 as libc::c_long; 1 + PIECE / size_of::<libc::c_long>()];
        loop {
            // SAFETY: the message is a type, which is positive, and as many bytes as are said after it.
            let sent = unsafe { libc::msgsnd(self.0, message.as_ptr().cast(), PIECE, libc::IPC_NOWAIT) };
            match check(sent.into()) {
                Err(libc::EAGAIN) => return Ok(()),
                result => result?,
            }
        }
    }

    /// `msgsnd(2)` of a byte, and `msgrcv(2)` of it.
    pub fn send(&self) -> Result<(), Errno> {
        let mut message: [libc::c_long; 2] = [1, 0];
        // SAFETY: the message is longer than the byte that is read of it, and written to it.
        unsafe {
            check(libc::msgsnd(self.0, message.as_ptr().cast(), 1, libc::IPC_NOWAIT).into())?;
            match libc::msgrcv(self.0, message.as_mut_ptr().cast(), 1, 0, libc::IPC_NOWAIT) {
                -1 => Err(errno()),
                _ => Ok(()),
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: removing asks for no buffer.
        unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// `unshare(2)` of this thread's System V queues and semaphores: what is in them goes with the thread, whatever ends it.
pub fn own_queues() -> Result<(), Errno> {
    // SAFETY: a plain number; nothing of the old namespace is in use.
    check(unsafe { libc::unshare(libc::CLONE_NEWIPC) }.into())
}

/// `semget(2)` of a semaphore of its own, which is removed.
pub fn semaphores() -> Result<(), Errno> {
    // SAFETY: plain numbers.
    let set = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    check(set.into())?;
    // SAFETY: removing asks for nothing more.
    check(unsafe { libc::semctl(set, 0, libc::IPC_RMID) }.into())
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
