//! Pressure stall information: the text, and triggers that wake the loop when tasks wait for memory.

use super::{Errno, Error, file, text};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::CStr;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// One line of a pressure file. Averages in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Over 10 s.
    pub avg10: u32,
    /// Over 60 s.
    pub avg60: u32,
    /// Over 300 s.
    pub avg300: u32,
    /// Stalled since boot.
    pub total: Duration,
}

/// A pressure file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Some tasks waited.
    pub some: Option<Stall>,
    /// All tasks waited.
    pub full: Option<Stall>,
}

/// Which line a trigger watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Some tasks wait.
    Some,
    /// All tasks wait.
    Full,
}

/// Parses `/proc/pressure/memory` or a group's `memory.pressure`; a line that is not as expected is `None`.
pub fn parse(text: &[u8]) -> Pressure {
    let line = |name: &[u8]| {
        text::lines(text).find_map(|line| parse_stall(line.strip_prefix(name)?.strip_prefix(b" ")?))
    };
    Pressure { some: line(b"some"), full: line(b"full") }
}

/// What of that a rule about pressure asks: how long some tasks have waited, in microseconds.
pub fn waited(text: &[u8]) -> Option<u64> {
    parse(text).some.and_then(|some| u64::try_from(some.total.as_micros()).ok())
}

fn parse_stall(line: &[u8]) -> Option<Stall> {
    let mut words = text::words(line);
    let mut value = |key: &[u8]| words.next()?.strip_prefix(key);
    Some(Stall {
        avg10: parse_hundredths(value(b"avg10=")?)?,
        avg60: parse_hundredths(value(b"avg60=")?)?,
        avg300: parse_hundredths(value(b"avg300=")?)?,
        total: Duration::from_micros(text::number(value(b"total=")?)?),
    })
}

/// `12.34` as 1234: the kernel prints exactly two decimals.
fn parse_hundredths(text: &[u8]) -> Option<u32> {
    let point = text.len().checked_sub(3).filter(|&at| text[at] == b'.')?;
    let whole = text::number32(&text[..point])?;
    whole.checked_mul(100)?.checked_add(text::number32(&text[point + 1..])?)
}

/// A trigger: its descriptor becomes ready with `EPOLLPRI` when tasks stalled for longer than asked within the window,
/// at most once a window; with `EPOLLERR` when the group is gone.
#[derive(Debug)]
pub struct Trigger(OwnedFd);

impl Trigger {
    /// On a pressure file by path. `None` where the kernel has no PSI, or it is off.
    ///
    /// Without CAP_SYS_RESOURCE a window must be a multiple of two seconds (`INVAL`), and before 6.5 the host's file refuses (`PERM`).
    pub fn open(path: &Path, kind: Kind, stall: Duration, window: Duration) -> Result<Option<Self>, Error> {
        let opened = rustix::fs::openat(CWD, path, Self::FLAGS, Mode::empty());
        Self::arm(opened, kind, stall, window)
            .map_err(|errno| Error::new("arming a pressure trigger on", path, errno))
    }

    /// On the `memory.pressure` of an open group.
    pub fn open_in(
        dir: BorrowedFd<'_>,
        kind: Kind,
        stall: Duration,
        window: Duration,
    ) -> Result<Option<Self>, Errno> {
        const FILE: &CStr = c"memory.pressure";
        Self::arm(rustix::fs::openat(dir, FILE, Self::FLAGS, Mode::empty()), kind, stall, window)
    }

    const FLAGS: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

    fn arm(
        opened: Result<OwnedFd, Errno>,
        kind: Kind,
        stall: Duration,
        window: Duration,
    ) -> Result<Option<Self>, Errno> {
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let mut order = [0; 64];
        let line = order_text(&mut order, kind, stall, window).ok_or(Errno::INVAL)?;
        match file::write(&fd, line) {
            Ok(()) => Ok(Some(Self(fd))),
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn order_text(buffer: &mut [u8; 64], kind: Kind, stall: Duration, window: Duration) -> Option<&[u8]> {
    let name = match kind {
        Kind::Some => "some",
        Kind::Full => "full",
    };
    let mut rest = &mut buffer[..];
    write!(rest, "{name} {} {}\0", stall.as_micros(), window.as_micros()).ok()?;
    let left = rest.len();
    let len = buffer.len() - left;
    Some(&buffer[..len])
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
