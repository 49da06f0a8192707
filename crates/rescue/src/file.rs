//! Small files of the kernel, by buffers that are there already.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, openat};
use rustix::io::{Errno, read, retry_on_intr, write};

/// Opens it below `dir` for reading.
pub fn open(dir: impl AsFd, name: &CStr, more: OFlags) -> Result<OwnedFd, Errno> {
    // Neither a terminal nor a FIFO may hold up who opens it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | more;
    retry_on_intr(|| openat(&dir, name, flags, Mode::empty()))
}

/// What it says, as far as the buffer goes.
pub fn all<'b>(dir: impl AsFd, name: &CStr, buffer: &'b mut [u8]) -> Result<&'b [u8], Errno> {
    let file = open(dir, name, OFlags::empty())?;
    let mut length = 0;
    while length < buffer.len() {
        match retry_on_intr(|| read(&file, &mut buffer[length..]))? {
            0 => break,
            count => length += count,
        }
    }
    Ok(&buffer[..length])
}

/// Writes it in one call, as files of the kernel want it.
pub fn put(dir: impl AsFd, name: &CStr, text: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = retry_on_intr(|| openat(&dir, name, flags, Mode::empty()))?;
    retry_on_intr(|| write(&file, text)).map(drop)
}

/// A name as system calls take it.
pub struct Name<const N: usize>([u8; N]);

impl<const N: usize> Name<N> {
    /// `None`: too long, or a NUL in it.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut name = [0; N];
        if bytes.contains(&0) {
            return None;
        }
        name.get_mut(..bytes.len()).filter(|_| bytes.len() < N)?.copy_from_slice(bytes);
        Some(Self(name))
    }

    /// It.
    pub fn as_c(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// Each entry of a directory but itself and its parent, until `each` says that it is enough. `true` for a directory.
pub fn entries(dir: &OwnedFd, each: &mut dyn FnMut(&CStr, bool) -> bool) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut all = RawDir::new(dir, &mut buffer);
    while let Some(entry) = all.next() {
        let entry = entry?;
        let name = entry.file_name();
        let own = matches!(name.to_bytes(), b"." | b"..");
        if !own && !each(name, entry.file_type() == FileType::Directory) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_room_and_no_nul() {
        assert!(Name::<4>::new(b"abcd").is_none() && Name::<4>::new(b"a\0").is_none());
        assert_eq!(Name::<4>::new(b"abc").unwrap().as_c(), c"abc");
    }
}
