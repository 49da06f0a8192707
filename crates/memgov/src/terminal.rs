//! What may leave for a terminal. Anybody may give a process, a group or an argument a name that moves the cursor, clears the
//! screen or turns the text around; here such characters are replaced, by one rule for all text that leaves.
//!
//! [`shown`] is for a name inside a line: it can forge no second line. [`lines`] is for text of memgov's own, which has
//! lines. [`Terminal`] does that to everything written through it, so that nothing is left out by mistake.

use std::io::{self, Write};

/// Whether a terminal would obey this character rather than show it: control characters, and those that override the
/// direction of what follows (Unicode Standard Annex 9: LRE to RLO, LRI to PDI).
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) && !keep(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A name as it may stand in a line: `\n`, `\u{1b}`, `\u{202e}`.
pub fn shown(text: &str) -> String {
    escaped(text, |_| false)
}

/// Text with lines of its own.
pub fn lines(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// JSON text with the same characters in JSON's own escapes: it means the same.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Those below a blank stand escaped inside strings already; what is left of them is the layout.
        if is_obeyed(c) && c > ' ' {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// A line on stderr. A closed stderr ends nothing, as `eprintln!` would.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", lines(line));
}

/// Writes text through [`lines()`]. What is no UTF-8 becomes `\xNN`.
#[derive(Debug)]
pub struct Terminal<W>(pub W);

impl<W: Write> Write for Terminal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for chunk in bytes.utf8_chunks() {
            self.0.write_all(lines(chunk.valid()).as_bytes())?;
            for byte in chunk.invalid() {
                write!(self.0, "\\x{byte:02x}")?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{7f}\u{9b}\u{202e}b\u{2066}\u{2069}\u{202a}\t\nc";

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        assert!(!shown(HOSTILE).chars().any(is_obeyed), "{}", shown(HOSTILE));
        assert!(shown(HOSTILE).starts_with("a\\u{1b}[2J\\u{7f}\\u{9b}\\u{202e}b\\u{2066}"));
        assert!(shown(HOSTILE).ends_with("\\t\\nc"));
        assert!(lines(HOSTILE).ends_with("\t\nc"));
        assert_eq!(shown("grün עברית \u{200e}"), "grün עברית \u{200e}", "other writing is left alone");
    }

    #[test]
    fn json_means_the_same() {
        let text = serde_json::to_string_pretty(&[HOSTILE]).unwrap();
        let safe = json(&text);
        assert!(!safe.chars().any(|c| is_obeyed(c) && c != '\n'), "{safe}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [HOSTILE]);
    }

    #[test]
    fn all_that_is_written_goes_through() {
        let mut terminal = Terminal(Vec::new());
        terminal.write_all(HOSTILE.as_bytes()).unwrap();
        terminal.write_all(b"\xff").unwrap();
        assert_eq!(String::from_utf8(terminal.0).unwrap(), format!("{}\\xff", lines(HOSTILE)));
    }
}
