//! The process beside a program of a hook (`memgov hook-keeper`): starts it as what an ordinary program expects to be, and leaves nobody of it behind, whether it
//! ends by itself, its time is up, or memgov does not want it any more or is dead, which the end of standard input says.
//!
//! A process of its own, and not a thread with PR_SET_PDEATHSIG: memgov cannot be forked (`act/guardian.rs`), that signal reaches one process and not those it has
//! started, and it follows the thread that forked. As child subreaper (prctl(2)) this is the parent of whatever the program leaves, in whatever session that is.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use memgov_decide::units::{Bytes, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus};

use crate::kernel::{Errno, fork, proc, sys};

/// The subcommand it is started as.
pub(super) const COMMAND: &str = "hook-keeper";
/// Its last words: one of these, a number (status, signal, errno), and how long it took in nanoseconds.
pub(super) const EXITED: &str = "exited";
pub(super) const SIGNALLED: &str = "signalled";
pub(super) const OVERDUE: &str = "overdue";
pub(super) const CALLED_OFF: &str = "called-off";
const FAILED: &str = "failed";
/// So long those are killed who are left. One that the kernel holds on to then stays behind: nobody can do more.
const LAST: Duration = Duration::from_millis(500);
/// The soft limit of descriptors that programs expect (select(2)); memgov has raised its own.
const DESCRIPTORS: u64 = 1024;

/// What it is given.
#[derive(Debug)]
pub struct Charge {
    /// The program's time.
    pub within: Duration,
    /// So much data each of its processes may have.
    pub memory: Bytes,
    /// The program and its arguments.
    pub run: Vec<OsString>,
}

/// What `memgov hook-keeper` does. The exit code.
pub fn keep(charge: &Charge) -> u8 {
    fork::default_signals();
    fork::ignore_ending_signals();
    // No failure of these changes what it can do.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"memgov-hook");
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = rustix::process::chdir("/");
    fork::close_others_on_exec();
    let begin = sys::now();
    let (word, number) = match start(charge) {
        Ok((program, failed)) => watch(program, failed, begin + charge.within),
        Err(errno) => (FAILED, errno.raw_os_error()),
    };
    end_all();
    let took = sys::now().since(begin).as_nanos();
    // Nobody to tell: memgov is dead.
    let _ = writeln!(std::io::stderr(), "{word} {number} {took}");
    0
}

/// The program, and the pipe by which it says that it could not become that.
fn start(charge: &Charge) -> Result<(Pid, OwnedFd), Errno> {
    let (failed, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let keeper = std::process::id();
    let pid = fork::fork(|| {
        let errno = become_program(charge, keeper);
        // Read when this is dead.
        let _ = rustix::io::write(&say, &errno.raw_os_error().to_ne_bytes());
        127
    })?;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    Ok((pid, failed))
}

/// Returns only if that failed. Of memgov nothing is left: neither its place before the OOM killer and the scheduler nor its limits and signals.
fn become_program(charge: &Charge, keeper: u32) -> Errno {
    let failed = |error: &std::io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
    let _ = rustix::process::setsid();
    // Should somebody kill the keeper. It may have happened already.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get().cast_unsigned() != keeper)
    {
        return Errno::CANCELED;
    }
    fork::default_signals();
    fork::ordinary_priority();
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "0") {
        return failed(&error);
    }
    if let Err(errno) = limit(charge.memory) {
        return errno;
    }
    // Output and errors are one text.
    let output = match std::io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => output,
        Err(error) => return failed(&error),
    };
    let Some((program, arguments)) = charge.run.split_first() else { return Errno::INVAL };
    let mut command = Command::new(program);
    failed(&command.args(arguments).stdin(Stdio::null()).stderr(output).exec())
}

/// RLIMIT_DATA and not RLIMIT_AS: what a program may write to and nobody shares (brk, private writable mappings), not address space that runtimes
/// set aside by the gigabyte and never touch.
fn limit(memory: Bytes) -> Result<(), Errno> {
    let most = Some(memory.0);
    rustix::process::setrlimit(Resource::Data, Rlimit { current: most, maximum: most })?;
    let files = rustix::process::getrlimit(Resource::Nofile);
    let current = Some(files.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS)));
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current, ..files })
}

/// Until it ends, is not wanted any more, or its time is up.
fn watch(program: Pid, failed: OwnedFd, until: Time) -> (&'static str, i32) {
    let Ok(pidfd) = rustix::process::pidfd_open(program, PidfdFlags::empty()) else {
        return (FAILED, Errno::SRCH.raw_os_error());
    };
    let stdin = std::io::stdin();
    let how = loop {
        let left = until.since(sys::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        let seen = poll(&mut fds, Some(&timeout));
        let [ended, unwanted] = [0, 1].map(|at: usize| !fds[at].revents().is_empty());
        match seen {
            Ok(_) if ended => break None,
            Ok(_) if unwanted => break Some(CALLED_OFF),
            Ok(0) => break Some(OVERDUE),
            _ => {}
        }
    };
    if let Some(how) = how {
        // At once: before anything is looked for that it may have started. Both fail only for who is dead.
        let _ = rustix::process::kill_process_group(program, Signal::KILL);
        let _ = rustix::process::kill_process(program, Signal::KILL);
        return (how, 0);
    }
    let mut errno = [0; size_of::<i32>()];
    let status = rustix::process::waitpid(Some(program), WaitOptions::empty());
    // The other end is closed by now.
    if fs::File::from(failed).read_exact(&mut errno).is_ok() {
        return (FAILED, i32::from_ne_bytes(errno));
    }
    status.ok().flatten().map_or((FAILED, libc::ECHILD), |(_, status)| said(status))
}

fn said(status: WaitStatus) -> (&'static str, i32) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => (EXITED, status),
        (None, Some(signal)) => (SIGNALLED, signal),
        (None, None) => (FAILED, libc::ECHILD),
    }
}

/// Kills whoever is left. Those whose parents die become this process's own children, and are found in the next round.
fn end_all() {
    let until = sys::now() + LAST;
    loop {
        kill_children();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // There is nobody.
                Err(_) => return,
            }
        }
        if sys::now() >= until {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill_children() {
    let (own, mut buffer) = (std::process::id(), [0; proc::STAT_BUFFER]);
    for pid in proc::pids(Path::new("/")).unwrap_or_default() {
        let child = proc::read_stat(pid, &mut buffer).is_ok_and(|stat| stat.ppid == own);
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| child) {
            // Not waited for, so its pid is nobody else's.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
