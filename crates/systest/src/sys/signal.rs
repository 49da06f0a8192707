//! Counting signals. The counters are process-wide statics because a handler has nothing else to write to.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Errno, check};

/// Signals 1 to 64, at their number.
static COUNTS: [AtomicU32; 65] = [const { AtomicU32::new(0) }; 65];
/// SIGCHLDs that said "stopped" or "continued", which a shell would act on.
static JOB_CONTROL: AtomicU32 = AtomicU32::new(0);
/// Set by SIGINT and SIGTERM once [`note_interrupts`] was called.
static INTERRUPTED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(counter) = usize::try_from(signal).ok().and_then(|at| COUNTS.get(at)) {
        counter.fetch_add(1, Relaxed);
    }
    // SAFETY: the kernel passes a valid siginfo because the handler was installed with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if signal == libc::SIGCHLD && matches!(code, libc::CLD_STOPPED | libc::CLD_CONTINUED) {
        JOB_CONTROL.fetch_add(1, Relaxed);
    }
}

extern "C" fn interrupted(_: libc::c_int) {
    INTERRUPTED.store(1, Relaxed);
}

fn install(signal: i32, handler: libc::sighandler_t, flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: an all-zero sigaction is a valid one, and the handlers above only touch atomics.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        check(libc::c_long::from(libc::sigaction(signal, &raw const action, std::ptr::null_mut())))
    }
}

/// Counts this signal from now on.
pub fn count_signal(signal: i32) -> Result<(), Errno> {
    let handler = count as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    install(signal, handler as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_RESTART)
}

/// How often this signal came.
pub fn counted(signal: i32) -> u32 {
    usize::try_from(signal).ok().and_then(|at| COUNTS.get(at)).map_or(0, |counter| counter.load(Relaxed))
}

/// How many stop and continue notices of children came (needs SIGCHLD counted).
pub fn job_control_notices() -> u32 {
    JOB_CONTROL.load(Relaxed)
}

/// From now on SIGINT and SIGTERM are noted instead of ending the program, so that it can clean up.
pub fn note_interrupts() -> Result<(), Errno> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        install(signal, interrupted as extern "C" fn(libc::c_int) as libc::sighandler_t, 0)?;
    }
    Ok(())
}

/// Whether one of them came.
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Relaxed) != 0
}

/// Blocks or unblocks a signal for this thread.
pub fn block(signal: i32, on: bool) -> Result<(), Errno> {
    let how = if on { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: the set lives on the stack and is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        check(libc::c_long::from(libc::sigprocmask(how, &raw const set, std::ptr::null_mut())))
    }
}

/// Ignores a signal.
pub fn ignore(signal: i32) -> Result<(), Errno> {
    install(signal, libc::SIG_IGN, 0)
}

/// `kill(2)`; signal 0 only asks whether the process is there.
pub fn send(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: sends a signal, touches no memory.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) }))
}
