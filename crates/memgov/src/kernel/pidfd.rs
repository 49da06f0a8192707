//! Signals to the process that was meant: a descriptor, checked against the start time, never a bare pid.

use super::{Errno, proc, sys};
use memgov_decide::snapshot::ProcessId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// An open process: it stays the same one, however often its pid is reused.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens `who`; `SRCH` if that pid belongs to another process by now. The start time is read after opening: the
    /// descriptor pins the identity, so a match then is a match for good.
    pub fn open(who: ProcessId) -> Result<Self, Errno> {
        let pid = i32::try_from(who.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        let opened = Self(fd);
        let mut buffer = [0; proc::STAT_BUFFER];
        match proc::identify(who.pid, &mut buffer) {
            Ok(now) if now == who => Ok(opened),
            Ok(_) | Err(Errno::NOENT) => Err(Errno::SRCH),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a child that has not been waited for: until it is, its pid is nobody else's.
    pub fn of_child(pid: u32) -> Result<Self, Errno> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        pidfd_open(pid, PidfdFlags::empty()).map(Self)
    }

    /// Another descriptor of the same process.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends signal 1 to 64; 0 only asks whether sending would be allowed.
    pub fn send(&self, signal: u8) -> Result<(), Errno> {
        sys::pidfd_send_signal(self.0.as_fd(), signal)
    }

    /// Whether all its threads have exited (a zombie has).
    pub fn exited(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(ready > 0)
    }

    /// Frees its memory at once. Only after SIGKILL: `INVAL` otherwise.
    pub fn release_memory(&self) -> Result<(), Errno> {
        sys::process_mrelease(self.0.as_fd())
    }
}

/// Readable once it has exited: for epoll.
impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
