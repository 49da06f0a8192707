//! Reading a file through the page cache.

use rustix::fs::{Advice, fadvise};
use rustix::io::pread;

use super::children::Path;
use crate::sys::{Errno, now, process};

/// What is read, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read<'a> {
    /// The file.
    pub path: &'a str,
    /// From where on.
    pub offset: u64,
    /// So much.
    pub bytes: u64,
    /// In a second.
    pub rate: u64,
    /// None of it is there when it begins, so that all of it is charged to who reads it now. What is dropped for that leaves no trace: no page of it
    /// will ever count as wanted again. Else it finds what is still there, as programs do.
    pub fresh: bool,
}

impl Read<'_> {
    /// Reads, and gives the file, to be kept open: a block device's pages go with its last descriptor.
    pub fn run(&self) -> Result<std::os::fd::OwnedFd, Errno> {
        let raw = rustix::io::Errno::raw_os_error;
        let begin = now();
        let path = Path::new(self.path).ok_or(libc::ENAMETOOLONG)?;
        let file = process::open(path.as_c(), libc::O_RDONLY)?;
        if self.fresh {
            let length = std::num::NonZeroU64::new(self.bytes);
            fadvise(&file, self.offset, length, Advice::DontNeed).map_err(raw)?;
        }
        let mut buffer = [0; 64 << 10];
        let (mut at, end) = (self.offset, self.offset + self.bytes);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            match pread(&file, &mut buffer[..most], at).map_err(raw)? {
                0 => return Err(libc::ENODATA),
                count => at += count as u64,
            }
            let due = u128::from(at - self.offset) * 1_000_000_000 / u128::from(self.rate.max(1));
            let early = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(now() - begin);
            if early > 1_000_000 {
                std::thread::sleep(std::time::Duration::from_nanos(early));
            }
        }
        Ok(file)
    }
}
