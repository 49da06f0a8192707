//! Words in, numbers out, and what of a hostile name may reach a terminal; nothing is allocated.

use std::fmt::{self, Display, Formatter, Write};

use rustix::io::Errno;

/// Text in a buffer of its own; what does not fit is left out.
#[derive(Debug)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// How much.
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Back to so much.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Adds as much as fits. `false`: something was left out.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len().min(N - self.length);
        self.bytes[self.length..self.length + fits].copy_from_slice(&bytes[..fits]);
        self.length += fits;
        fits == bytes.len()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// Somebody's bytes, without what a terminal would obey.
pub struct Shown<'a>(pub &'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                out.write_char(if harmless(char) { char } else { '?' })?;
            }
            chunk.invalid().iter().try_for_each(|_| out.write_char('?'))?;
        }
        Ok(())
    }
}

/// Letters and signs; neither control characters nor those that turn the direction of writing.
fn harmless(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Bytes for people, in powers of 1024.
pub struct Size(pub u64);

impl Display for Size {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (mut whole, mut rest, mut unit) = (self.0, 0, 0);
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        while whole >= 1024 && unit + 1 < UNITS.len() {
            rest = whole % 1024;
            whole /= 1024;
            unit += 1;
        }
        // Made whole first, so that a width is of all of it.
        let mut text = Text::<24>::new();
        if unit == 0 {
            write!(text, "{whole} B")?;
        } else {
            write!(text, "{whole}.{} {}", rest * 10 / 1024, UNITS[unit])?;
        }
        out.pad(std::str::from_utf8(text.bytes()).unwrap_or("?"))
    }
}

/// What the kernel said, in words. The C library's own would be copied into memory that is not there yet.
pub struct Why(pub Errno);

impl Display for Why {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            Errno::PERM => "not permitted",
            Errno::NOENT => "No such file or directory",
            Errno::SRCH => "no such process",
            Errno::AGAIN => "not now (EAGAIN)",
            Errno::NOMEM => "no memory (ENOMEM)",
            Errno::ACCESS => "permission denied",
            Errno::BUSY => "busy",
            Errno::NODEV => "it is gone",
            Errno::NOTDIR => "not a directory",
            Errno::ISDIR => "a directory",
            Errno::INVAL => "not valid (EINVAL)",
            Errno::MFILE | Errno::NFILE => "too many open files",
            Errno::ROFS => "read-only file system",
            Errno::NAMETOOLONG => "that name is too long",
            Errno::OPNOTSUPP => "not supported",
            other => return write!(out, "errno {}", other.raw_os_error()),
        })
    }
}

/// A number in decimal digits and nothing else.
pub fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok().filter(|word| word.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// The words of a line.
pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// The value behind `name` in a file of `name value` or `name: value` lines, as a number.
pub fn value(file: &[u8], name: &[u8]) -> Option<u64> {
    file.split(|&b| b == b'\n').find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest
            .strip_prefix(b":")
            .or_else(|| rest.first().is_some_and(u8::is_ascii_whitespace).then_some(rest))?;
        number(words(rest).next()?)
    })
}

/// Signals by their names, as kill(1) takes them, or by number.
pub fn signal(word: &[u8]) -> Option<i32> {
    const NAMES: [(&[u8], i32); 9] = [
        (b"HUP", libc::SIGHUP),
        (b"INT", libc::SIGINT),
        (b"QUIT", libc::SIGQUIT),
        (b"KILL", libc::SIGKILL),
        (b"USR1", libc::SIGUSR1),
        (b"USR2", libc::SIGUSR2),
        (b"TERM", libc::SIGTERM),
        (b"CONT", libc::SIGCONT),
        (b"STOP", libc::SIGSTOP),
    ];
    let name = word.strip_prefix(b"SIG").unwrap_or(word);
    let known = NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, signal)| *signal);
    known.or_else(|| number(word).and_then(|n| i32::try_from(n).ok()).filter(|n| (1..=64).contains(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        let said = |bytes| format!("{}", Size(bytes));
        assert_eq!([said(0), said(1023), said(1536), said(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(format!("{:>9}|", Size(1536)), "  1.5 KiB|");
    }

    #[test]
    fn a_name_does_not_command_the_terminal() {
        assert_eq!(format!("{}", Shown(b"a\x1b[2Jb\n\xff")), "a?[2Jb??");
        assert_eq!(format!("{}", Shown("größe\u{202e}".as_bytes())), "größe?");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut text = Text::<4>::new();
        assert!(text.push(b"abc") && !text.push(b"de"));
        assert_eq!(text.bytes(), b"abcd");
    }

    #[test]
    fn values_and_signals() {
        let file = b"MemTotal:       100 kB\nMemFree: 5 kB\nsock 12\n";
        assert_eq!(value(file, b"MemFree"), Some(5));
        assert_eq!(value(file, b"Mem"), None);
        assert_eq!(value(file, b"sock"), Some(12));
        assert_eq!([signal(b"KILL"), signal(b"sigterm"), signal(b"9")], [Some(9), None, Some(9)]);
        assert_eq!([signal(b"SIGTERM"), signal(b"65"), signal(b"-9")], [Some(15), None, None]);
    }
}
