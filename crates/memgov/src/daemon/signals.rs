//! SIGTERM and SIGINT stop, SIGHUP reloads: as readable events, never as interruptions. What has no meaning is ignored.

use rustix::fd::OwnedFd;

use super::governing::Asked;
use crate::kernel::{Error, fork, sys};

/// Blocks the signals in this thread and those it will start, and opens them for reading. Before the first thread, which may make the C
/// library set up signals of its own.
pub(super) fn open() -> Result<OwnedFd, Error> {
    fork::ignore_stray_signals();
    sys::signal_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .map_err(|errno| Error::new("opening", "signalfd", errno))
}

/// What the signals that have come ask for; stopping outweighs reloading.
pub(super) fn asked(fd: &OwnedFd) -> Asked {
    let mut asked = Asked::Nothing;
    while let Ok(Some(signal)) = sys::read_signal(fd) {
        match signal {
            libc::SIGHUP if asked == Asked::Nothing => asked = Asked::Reload,
            libc::SIGTERM | libc::SIGINT => asked = Asked::Stop,
            _ => {}
        }
    }
    asked
}
