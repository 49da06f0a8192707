//! Who sits in front of it: lines in, text out, over the descriptors that came with the connection.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};

/// The longest line.
pub const LINE: usize = 1024;
/// A terminal that takes nothing for so long is given up, or nobody else would be let in.
const STUCK: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Somebody's terminal, as long as he is there.
pub struct Terminal {
    /// Lines come from here.
    pub input: OwnedFd,
    /// Text goes here.
    pub output: OwnedFd,
    /// Complaints of programs.
    pub errors: OwnedFd,
    /// Ends when he goes.
    peer: OwnedFd,
    gone: bool,
    typed: [u8; LINE],
    length: usize,
}

impl Terminal {
    /// Over these.
    pub const fn new(input: OwnedFd, output: OwnedFd, errors: OwnedFd, peer: OwnedFd) -> Self {
        Self { input, output, errors, peer, gone: false, typed: [0; LINE], length: 0 }
    }

    /// Whether he has left, or takes no more.
    pub const fn is_gone(&self) -> bool {
        self.gone
    }

    /// For waiting for something else beside him.
    pub fn peer(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }

    /// The next line, cut at the size of a line; how long it is. `None`: he is gone.
    pub fn line(&mut self, line: &mut [u8; LINE]) -> Option<usize> {
        loop {
            if let Some(end) = self.typed[..self.length].iter().position(|&b| b == b'\n') {
                line[..end].copy_from_slice(&self.typed[..end]);
                self.typed.copy_within(end + 1..self.length, 0);
                self.length -= end + 1;
                return Some(end);
            }
            // The rest of a line that is too long is no line of its own.
            let from = self.length.min(LINE - 1);
            if self.gone || !self.has_input() {
                return None;
            }
            match read(&self.input, &mut self.typed[from..]) {
                Ok(0) => return None,
                Ok(count) => self.length = from + count,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return None,
            }
        }
    }

    fn has_input(&mut self) -> bool {
        loop {
            let mut fds =
                [PollFd::new(&self.input, PollFlags::IN), PollFd::new(&self.peer, PollFlags::RDHUP)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return false,
            }
            // What he has typed before he left he meant; a pipe that was filled and closed is worked through.
            if !fds[0].revents().is_empty() {
                return true;
            }
            if !fds[1].revents().is_empty() {
                self.gone = true;
                return false;
            }
        }
    }

    /// Writes all of it, or gives him up.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !self.gone && !bytes.is_empty() {
            let mut fds =
                [PollFd::new(&self.output, PollFlags::OUT), PollFd::new(&self.peer, PollFlags::RDHUP)];
            let ready = poll(&mut fds, Some(&STUCK));
            let (writable, left) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            // A small piece: a pipe or terminal that is ready takes it without waiting.
            let piece = &bytes[..bytes.len().min(512)];
            match ready {
                Err(Errno::INTR) => {}
                Ok(_) if left || !writable => self.gone = true,
                Ok(_) => match write(&self.output, piece) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => self.gone = true,
                },
                Err(_) => self.gone = true,
            }
        }
    }
}

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        if self.gone { Err(fmt::Error) } else { Ok(()) }
    }
}
