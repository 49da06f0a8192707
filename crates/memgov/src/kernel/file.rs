//! Reading and writing kernel files into fixed buffers, and paths of `/proc` on the stack. Allocates only in [`whole`],
//! which is for start-up and tests.

use super::{Errno, Error};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::CStr;
use std::io::Read as _;
use std::path::Path;

/// A number as text, without the allocator.
pub(crate) struct Decimal {
    digits: [u8; 20],
    at: usize,
}

impl Decimal {
    /// Its decimal digits.
    pub(crate) fn new(n: impl Into<u64>) -> Self {
        let mut n = n.into();
        let mut text = Self { digits: [0; 20], at: 20 };
        loop {
            text.at -= 1;
            text.digits[text.at] = b"0123456789"[(n % 10) as usize];
            n /= 10;
            if n == 0 {
                return text;
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.at..]
    }
}

/// A path short enough for the stack: `/proc/4294967295/oom_score_adj` and the like.
pub(crate) struct ShortPath {
    bytes: [u8; 80],
    len: usize,
}

impl ShortPath {
    /// `base` followed by `id`; `NAMETOOLONG` if it does not fit.
    pub(crate) fn new(base: &[u8], id: u32) -> Result<Self, Errno> {
        let mut path = Self { bytes: [0; 80], len: 0 };
        path.push(base)?;
        path.push(Decimal::new(id).as_bytes())?;
        Ok(path)
    }

    /// `/proc/PID/name`.
    pub(crate) fn of_process(pid: u32, name: &[u8]) -> Result<Self, Errno> {
        Self::new(b"/proc/", pid)?.join(name)
    }

    /// `/proc/self/fd/FD/name`: a file in an open directory, for calls that take only a path.
    pub(crate) fn of_fd(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        use std::os::fd::AsRawFd as _;
        let fd = u32::try_from(dir.as_raw_fd()).map_err(|_| Errno::BADF)?;
        Self::new(b"/proc/self/fd/", fd)?.join(name)
    }

    fn join(mut self, name: &[u8]) -> Result<Self, Errno> {
        self.push(b"/")?;
        self.push(name)?;
        Ok(self)
    }

    fn push(&mut self, part: &[u8]) -> Result<(), Errno> {
        let end = self.len + part.len();
        // One byte stays for the NUL.
        if end >= self.bytes.len() {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.len..end].copy_from_slice(part);
        self.len = end;
        Ok(())
    }

    /// With its NUL; a name that has one inside is cut there, so callers give names without.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC);

/// Opens a file by path.
pub(crate) fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, READ, Mode::empty())
}

/// Opens a file in a directory.
pub(crate) fn open_in(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, READ, Mode::empty())
}

/// As [`open_in`]; a file this kernel does not have is `None`.
pub(crate) fn open_if_there(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match open_in(dir, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The beginning of a file, in one call: control files and `/proc/PID/stat` come whole if the buffer holds them, and what is cut
/// off the parsers refuse.
pub(crate) fn pread(fd: impl AsFd, buffer: &mut [u8]) -> Result<&[u8], Errno> {
    let n = rustix::io::retry_on_intr(|| rustix::io::pread(fd.as_fd(), &mut *buffer, 0))?;
    Ok(&buffer[..n])
}

/// Opens, reads and closes a file in a directory.
pub(crate) fn read_in<'b>(dir: BorrowedFd<'_>, name: &CStr, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    pread(open_in(dir, name)?, buffer)
}

/// Opens, writes and closes a file in a directory, with exactly one `write`: control files take a value a call.
pub(crate) fn write_in(dir: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let fd = rustix::fs::openat(dir, name, WRITE, Mode::empty())?;
    write(fd, value)
}

/// One `write` of the whole value; a partial one is an error.
pub(crate) fn write(fd: impl AsFd, value: &[u8]) -> Result<(), Errno> {
    let n = rustix::io::retry_on_intr(|| rustix::io::write(fd.as_fd(), value))?;
    if n == value.len() { Ok(()) } else { Err(Errno::IO) }
}

/// One `write` that is not begun again when a signal interrupts it: to files that act for as long as it lasts.
pub(crate) fn write_once(fd: impl AsFd, value: &[u8]) -> Result<(), Errno> {
    match rustix::io::write(fd.as_fd(), value) {
        Ok(n) if n == value.len() => Ok(()),
        Ok(_) => Err(Errno::IO),
        Err(errno) => Err(errno),
    }
}

/// Opens a file in a directory to be written.
pub(crate) fn open_to_write(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, WRITE, Mode::empty())
}

/// Each complete line of a file of any length, through one fixed buffer. A line longer than the buffer is passed over (the
/// `Groups:` line of `/proc/PID/status` may have 65536 numbers), a last line without newline too.
pub(crate) fn for_each_line(fd: impl AsFd, buffer: &mut [u8], f: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
    let (mut filled, mut too_long) = (0, false);
    loop {
        let n = rustix::io::retry_on_intr(|| rustix::io::read(fd.as_fd(), &mut buffer[filled..]))?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
        let mut begin = 0;
        while let Some(len) = buffer[begin..filled].iter().position(|&b| b == b'\n') {
            if !std::mem::take(&mut too_long) {
                f(&buffer[begin..begin + len]);
            }
            begin += len + 1;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
        if filled == buffer.len() {
            (filled, too_long) = (0, true);
        }
    }
}

/// A whole file, allocated. For start-up.
pub(crate) fn whole(path: &Path) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut text))
        .map_err(|source| Error::new("reading", path, source))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};

    #[test]
    fn paths_fit_or_are_refused() {
        let path = ShortPath::of_process(u32::MAX, b"oom_score_adj").unwrap();
        assert_eq!(path.as_c_str(), c"/proc/4294967295/oom_score_adj");
        assert_eq!(ShortPath::of_process(0, b"x").unwrap().as_c_str(), c"/proc/0/x");
        let fits = ShortPath::of_process(1, &[b'x'; 71]).unwrap();
        assert_eq!(fits.as_c_str().to_bytes().len(), 79);
        assert_eq!(ShortPath::of_process(1, &[b'x'; 72]).err(), Some(Errno::NAMETOOLONG));
    }

    #[test]
    fn lines_longer_than_the_buffer_are_passed_over_and_nothing_after_them_is_lost() {
        let long = "9 ".repeat(100);
        let text = format!("a\n\nGroups: {long}\nRssAnon: 1 kB\n{long}\nb\ncut");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        for size in [16, 17, 64] {
            file.rewind().unwrap();
            let (mut buffer, mut lines) = (vec![0; size], Vec::new());
            for_each_line(&file, &mut buffer, &mut |line| {
                lines.push(String::from_utf8_lossy(line).into_owned());
            })
            .unwrap();
            assert_eq!(lines, ["a", "", "RssAnon: 1 kB", "b"], "{size}");
        }
    }
}
