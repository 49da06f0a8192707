//! The unsafe code of this crate: a signal by any number, and a program started without allocating.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;

use crate::terminal::Terminal;

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// kill(2); realtime signals too.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(last()) }
}

/// All of this process's memory, now and from now on, is kept in RAM (mlockall(2)).
pub fn lock_all() -> Result<(), Errno> {
    // SAFETY: takes no pointers.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } == 0 { Ok(()) } else { Err(last()) }
}

/// A command has no more words.
pub const MOST_WORDS: usize = 32;

/// Words of a command, with what execve(2) wants behind them.
pub struct Words<'a> {
    pointers: [*const libc::c_char; MOST_WORDS + 1],
    count: usize,
    of: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Words<'a> {
    /// None yet.
    pub const fn new() -> Self {
        Self { pointers: [std::ptr::null(); MOST_WORDS + 1], count: 0, of: std::marker::PhantomData }
    }

    /// One more; `false`: there is no room.
    pub fn push(&mut self, word: &'a CStr) -> bool {
        let fits = self.count < MOST_WORDS;
        if fits {
            self.pointers[self.count] = word.as_ptr();
            self.count += 1;
        }
        fits
    }
}

/// What a started program finds: the shell's own surroundings may be anybody's.
const PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TERM: &CStr = c"TERM=linux";

/// Forks and executes `program` with the terminal as its standard files. The child makes system calls only. Gives its pid; that it could not be
/// executed is status 127.
pub fn spawn(program: &CStr, words: &Words<'_>, terminal: &Terminal) -> Result<i32, Errno> {
    let fd = |file: &OwnedFd| file.as_raw_fd();
    let (input, output, errors) = (fd(&terminal.input), fd(&terminal.output), fd(&terminal.errors));
    let environment = [PATH.as_ptr(), TERM.as_ptr(), std::ptr::null()];
    // SAFETY: this process has one thread, and the child calls nothing but what is async-signal-safe. The pointers are to texts that end
    // with NUL and live here, and both lists end with a null pointer.
    unsafe {
        match libc::fork() {
            -1 => Err(last()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::dup2(input, 0);
                libc::dup2(output, 1);
                libc::dup2(errors, 2);
                libc::execve(program.as_ptr(), words.pointers.as_ptr(), environment.as_ptr());
                libc::_exit(127)
            }
            pid => Ok(pid),
        }
    }
}

/// Standard descriptors must be taken before others are: [`spawn`] puts the terminal over them.
pub fn standard_files_are_open() -> bool {
    // SAFETY: asks for a flag of a descriptor.
    (0..=2).all(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0)
}
