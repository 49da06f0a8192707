//! The host's memory, as `/proc/meminfo` (proc_meminfo(5)) tells it. Kept open: a look is one `pread` into the caller's buffer.

use super::{Errno, Error, file, text};
use memgov_decide::units::Bytes;
use rustix::fd::OwnedFd;

/// The file, open.
#[derive(Debug)]
pub struct Meminfo(OwnedFd);

impl Meminfo {
    /// Opens it.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn open() -> Result<Self, Error> {
        file::open(c"/proc/meminfo").map(Self).map_err(|errno| Error::new("opening", "/proc/meminfo", errno))
    }

    /// The line `MemAvailable`, with its newline; empty where the kernel has none. `buffer`: 512 bytes do, it is among the first lines.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn available<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let most = buffer.len().min(512);
        let read = file::pread(&self.0, &mut buffer[..most])?;
        // With its newline: a line that was cut off says nothing.
        let mut lines = read.split_inclusive(|&byte| byte == b'\n');
        Ok(lines.find(|line| line.starts_with(AVAILABLE)).unwrap_or_default())
    }
}

const AVAILABLE: &[u8] = b"MemAvailable:";

/// What can be had without swapping: free memory, page cache and reclaimable slab, less what the kernel keeps for itself of each
/// (`si_mem_available` in mm/show_mem.c). tmpfs, mlocked and huge pages are not in it. `None`: there is no such line, or not all of it.
pub fn parse_available(text: &[u8]) -> Option<Bytes> {
    let line = text::lines(text).find_map(|line| line.strip_prefix(AVAILABLE))?;
    let mut words = text::words(line);
    let kib = text::number(words.next()?)?;
    (words.next() == Some(b"kB") && words.next().is_none()).then_some(())?;
    kib.checked_mul(1024).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_understood_or_nothing_is() {
        let text = b"MemTotal:       24684000 kB\nMemFree:          100 kB\nMemAvailable:    2048 kB\nBuffers:  1 kB\n";
        assert_eq!(parse_available(text), Some(Bytes::mib(2)));
        assert_eq!(parse_available(b"MemAvailable:    2048 kB"), None, "cut off");
        let bad = [
            "MemAvailable: kB\n",
            "MemAvailable: 1 MB\n",
            "MemAvailable: 99999999999999999999 kB\n",
            "MemFree: 1 kB\n",
        ];
        for bad in bad {
            assert_eq!(parse_available(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn this_machine_has_some() {
        let mut buffer = [0; 512];
        let meminfo = Meminfo::open().unwrap();
        let available = parse_available(meminfo.available(&mut buffer).unwrap());
        assert!(available.is_some_and(|bytes| bytes > Bytes(0)), "{available:?}");
    }
}
