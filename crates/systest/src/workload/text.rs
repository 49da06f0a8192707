//! Lines in and out through fixed buffers: under ENOMEM a workload must still be able to read a command and answer.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest command and the longest answer.
pub const LINE: usize = 1024;

/// One line being written.
pub struct Line {
    bytes: [u8; LINE],
    used: usize,
}

impl Line {
    /// An empty one.
    pub const fn new() -> Self {
        Self { bytes: [0; LINE], used: 0 }
    }
    /// What is in it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.used + text.len();
        let room = self.bytes.get_mut(self.used..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

/// Where the commands come from and the answers go.
pub enum Channel {
    /// Standard input and output.
    Standard,
    /// Two FIFOs.
    Fifos(OwnedFd, OwnedFd),
}

impl Channel {
    /// The end to read from.
    pub fn input(&self) -> BorrowedFd<'_> {
        match self {
            Self::Standard => rustix::stdio::stdin(),
            Self::Fifos(input, _) => input.as_fd(),
        }
    }
    fn output(&self) -> BorrowedFd<'_> {
        match self {
            Self::Standard => rustix::stdio::stdout(),
            Self::Fifos(_, output) => output.as_fd(),
        }
    }
    /// Writes a line; a reader that is gone is noticed at the next read.
    pub fn say(&self, text: fmt::Arguments<'_>) {
        let mut line = Line::new();
        if line.write_fmt(text).is_ok() && line.write_char('\n').is_ok() {
            // Lines are shorter than PIPE_BUF: they arrive whole, or nobody reads any more.
            let _unread = rustix::io::write(self.output(), line.as_bytes());
        }
    }
}

/// Bytes read and not yet a line.
pub struct Input {
    bytes: [u8; LINE],
    used: usize,
}

impl Input {
    /// Empty.
    pub const fn new() -> Self {
        Self { bytes: [0; LINE], used: 0 }
    }
    /// Reads once; false at the end of the input.
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> bool {
        if self.used == LINE {
            self.used = 0;
        }
        match rustix::io::read(from, &mut self.bytes[self.used..]) {
            Ok(0) => false,
            Ok(count) => {
                self.used += count;
                true
            }
            Err(error) => error == rustix::io::Errno::INTR || error == rustix::io::Errno::AGAIN,
        }
    }
    /// Takes one line out, without its newline.
    pub fn next_line(&mut self, into: &mut [u8; LINE]) -> Option<usize> {
        let end = self.bytes[..self.used].iter().position(|&byte| byte == b'\n')?;
        into[..end].copy_from_slice(&self.bytes[..end]);
        self.bytes.copy_within(end + 1..self.used, 0);
        self.used -= end + 1;
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"one\ntwo\nthr").unwrap();
        let (mut input, mut line) = (Input::new(), [0; LINE]);
        assert!(input.fill(reader.as_fd()));
        assert_eq!(input.next_line(&mut line).map(|end| line[..end].to_vec()), Some(b"one".to_vec()));
        assert_eq!(input.next_line(&mut line).map(|end| line[..end].to_vec()), Some(b"two".to_vec()));
        assert_eq!(input.next_line(&mut line), None);
        rustix::io::write(&writer, b"ee\n").unwrap();
        assert!(input.fill(reader.as_fd()));
        assert_eq!(input.next_line(&mut line).map(|end| line[..end].to_vec()), Some(b"three".to_vec()));
        drop(writer);
        assert!(!input.fill(reader.as_fd()));
    }

    #[test]
    fn a_line_too_long_is_refused_whole() {
        let mut line = Line::new();
        assert!(line.write_str(&"x".repeat(LINE)).is_ok());
        assert!(line.write_str("y").is_err());
        assert_eq!(line.as_bytes().len(), LINE);
    }
}
