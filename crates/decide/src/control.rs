//! What one process asks for itself: the memory-control word of the over-high series (Waiman Long, LKML, 17 Aug 2020),
//! with the limits that go with it. The layout of the word is the series' header; the transport is memgov's, because
//! mainline has given both prctl numbers to others (59 and 60).
//!
//! ```text
//! bits 0-7 action | bits 8-15 signal | bits 16-31 flags
//! ```

use crate::units::Bytes;

/// What to do to the process when it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ControlAction {
    /// Nothing.
    #[default]
    None = 0,
    /// Further memory is refused with ENOMEM.
    Deny = 1,
    /// The process is slowed down.
    Slow = 2,
    /// A signal is sent.
    Signal = 3,
    /// SIGKILL.
    Kill = 4,
}

/// The flag bits of the word, as they stand in bits 16-31.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// `PR_MEMFLAG_SIGCONT`: the signal is sent again and again, not once.
    pub const SIGCONT: Self = Self(1 << 0);
    /// `PR_MEMFLAG_DIRECT`: only the process's own RSS counts, the group does not.
    pub const DIRECT: Self = Self(1 << 1);
    /// `PR_MEMFLAG_LOG`: one line for each episode.
    pub const LOG: Self = Self(1 << 2);
    /// `PR_MEMFLAG_RSS_ANON`.
    pub const RSS_ANON: Self = Self(1 << 8);
    /// `PR_MEMFLAG_RSS_FILE`.
    pub const RSS_FILE: Self = Self(1 << 9);
    /// `PR_MEMFLAG_RSS_SHMEM`.
    pub const RSS_SHMEM: Self = Self(1 << 10);
    /// All RSS kinds.
    pub const RSS: Self = Self(0x700);
    /// Every flag that may be set. The posted series forgot LOG in its mask; memgov accepts it. LOGGED (bit 7) is
    /// internal there and does not exist here.
    pub const ALL: Self = Self(0x707);

    /// Flags with these bits, if each is known.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 { Some(Self(bits)) } else { None }
    }
    /// The bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
    /// Whether all of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether any of `other` is set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A checked memory control. Limits are whole pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemControl {
    /// What to do.
    pub action: ControlAction,
    /// Signal number, 0 for none. With [`ControlAction::Signal`] and no SIGCONT it becomes 0 once delivered.
    pub signal: u8,
    /// Flags.
    pub flags: Flags,
    /// How far the group may be over `memory.high`.
    pub climit: Bytes,
    /// How much the selected RSS kinds may be.
    pub plimit: Bytes,
}

/// So many bytes of its text are looked at.
const LOOKED_AT: usize = 79;

/// Why a control is refused; each is EINVAL in the letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Action above 4.
    #[error("unknown action {0}: 0 none, 1 deny, 2 slow, 3 signal, 4 kill")]
    Action(u8),
    /// Signal not below `_NSIG` (64 on x86: the series refuses 64 itself).
    #[error("signal {0} is out of range: 0 to 63")]
    Signal(u8),
    /// A bit outside the mask.
    #[error(
        "unknown flag bits {0:#x}: SIGCONT 0x1, DIRECT 0x2, LOG 0x4, RSS_ANON 0x100, RSS_FILE 0x200, RSS_SHMEM 0x400"
    )]
    Flags(u16),
    /// Bits above 31.
    #[error("the action word has 32 bits")]
    Word,
    /// DIRECT with no RSS flag or no plimit: there would be nothing to compare.
    #[error("DIRECT needs at least one RSS flag and a plimit above 0")]
    Direct,
    /// Not three numbers.
    #[error(
        "expected three numbers: action word, climit in bytes, plimit in bytes (0x and 0 prefixes are understood)"
    )]
    Text,
}

impl MemControl {
    /// From the letter's word and limits in bytes, by the rules of its prctl: limits are rounded up to pages, NONE forgets both, and DIRECT needs something to compare.
    ///
    /// # Errors
    /// Each is EINVAL in the letter; nothing is half-stored.
    pub fn from_word(word: u64, climit: Bytes, plimit: Bytes, page: Bytes) -> Result<Self, ControlError> {
        let control = Self::from_file(word, climit, plimit, page)?;
        let compares = control.flags.any(Flags::RSS) && control.plimit.0 > 0;
        if control.flags.has(Flags::DIRECT) && !compares {
            return Err(ControlError::Direct);
        }
        match control.action {
            ControlAction::None => Ok(Self { climit: Bytes(0), plimit: Bytes(0), ..control }),
            _ => Ok(control),
        }
    }

    /// The same by the rules of the letter's `/proc/PID/memctl`, which looks at each number by itself: NONE keeps the limits that are written with it, and DIRECT without a kind
    /// compares nothing, so that it never acts.
    ///
    /// # Errors
    /// As [`MemControl::from_word`], without [`ControlError::Direct`].
    pub fn from_file(word: u64, climit: Bytes, plimit: Bytes, page: Bytes) -> Result<Self, ControlError> {
        let word = u32::try_from(word).map_err(|_| ControlError::Word)?;
        let [action, signal, low, high] = word.to_le_bytes();
        let flag_bits = u16::from_le_bytes([low, high]);
        let action = match action {
            0 => ControlAction::None,
            1 => ControlAction::Deny,
            2 => ControlAction::Slow,
            3 => ControlAction::Signal,
            4 => ControlAction::Kill,
            other => return Err(ControlError::Action(other)),
        };
        if signal >= 64 {
            return Err(ControlError::Signal(signal));
        }
        let flags = Flags::from_bits(flag_bits).ok_or(ControlError::Flags(flag_bits))?;
        Ok(Self { action, signal, flags, climit: climit.round_up(page), plimit: plimit.round_up(page) })
    }

    /// The letter's action word.
    pub const fn word(self) -> u32 {
        self.action as u32 | (self.signal as u32) << 8 | (self.flags.bits() as u32) << 16
    }

    /// From the text form of `/proc/PID/memctl`: three numbers, white space between, base by prefix. Only the first 79
    /// bytes are looked at, as there; but a number that goes on beyond them is refused, where the letter took what it had of it.
    ///
    /// # Errors
    /// As [`MemControl::from_file`], and [`ControlError::Text`] for what is not three numbers.
    pub fn from_text(text: &str, page: Bytes) -> Result<Self, ControlError> {
        let end = (0..=LOOKED_AT.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let (seen, rest) = text.split_at(end);
        let is_space = |c: char| c.is_ascii_whitespace();
        let is_cut = !rest.is_empty() && !rest.starts_with(is_space) && !seen.ends_with(is_space);
        let mut words = seen.split_ascii_whitespace();
        let mut next = || words.next().and_then(number).ok_or(ControlError::Text);
        let (word, climit, plimit) = (next()?, next()?, next()?);
        if is_cut && words.next().is_none() {
            return Err(ControlError::Text);
        }
        Self::from_file(word, Bytes(climit), Bytes(plimit), page)
    }

    /// The text form, newline included: decimal word, climit and plimit in bytes.
    pub fn text(self) -> String {
        format!("{} {} {}\n", self.word(), self.climit.0, self.plimit.0)
    }
}

/// `kstrtoul` with base 0: `0x` hexadecimal, leading `0` octal, decimal otherwise, and one plus sign in front.
fn number(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return if hex.starts_with('+') { None } else { u64::from_str_radix(hex, 16).ok() };
    }
    if text.starts_with('+') {
        return None;
    }
    match text.strip_prefix('0') {
        Some("") => Some(0),
        Some(octal) if !octal.starts_with('+') => u64::from_str_radix(octal, 8).ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const PAGE: Bytes = Bytes(4096);

    #[test]
    fn the_letters_example_goes_round() {
        let control = MemControl::from_word(0x0101_0a03, Bytes(1_000_001), Bytes(5000), PAGE).unwrap();
        assert_eq!(control.word(), 0x0101_0a03);
        assert_eq!((control.action, control.signal), (ControlAction::Signal, 10));
        assert!(control.flags.has(Flags::SIGCONT.with(Flags::RSS_ANON)));
        assert_eq!((control.climit, control.plimit), (Bytes(1_003_520), Bytes(8192)));
        assert_eq!(control.text(), "16845315 1003520 8192\n");
        assert_eq!(MemControl::from_text("0x01010a03 1000001 5000", PAGE), Ok(control));
        assert_eq!(MemControl::from_text(&control.text(), PAGE), Ok(control));
    }

    #[test]
    fn every_invalid_case_is_refused() {
        let from = |word, plimit| MemControl::from_word(word, Bytes(0), Bytes(plimit), PAGE);
        assert_eq!(from(5, 0), Err(ControlError::Action(5)));
        assert_eq!(from(64 << 8 | 3, 0), Err(ControlError::Signal(64)));
        assert_eq!(from(1 << 23 | 1, 0), Err(ControlError::Flags(1 << 7)));
        assert_eq!(from(1 << 32, 0), Err(ControlError::Word));
        assert_eq!(from(0x0002_0001, 4096), Err(ControlError::Direct));
        assert_eq!(from(0x0102_0001, 0), Err(ControlError::Direct));
        assert!(from(0x0102_0001, 1).is_ok());
        assert!(from(0x0004_0001, 0).is_ok(), "LOG is settable");
        for bad in ["", "1", "1 2", "x 1 2", "1 2 -3", "1 2 08", "++1 2 3", "0x+1 2 3", "0x 1 2"] {
            assert_eq!(MemControl::from_text(bad, PAGE), Err(ControlError::Text), "{bad}");
        }
        assert_eq!(MemControl::from_text("01 010 0x10", PAGE).unwrap().climit, Bytes(4096));
    }

    #[test]
    fn none_forgets_its_limits() {
        let none = MemControl::from_word(10 << 8, Bytes(9), Bytes(9), PAGE).unwrap();
        assert_eq!((none.climit, none.plimit, none.signal), (Bytes(0), Bytes(0), 10));
    }

    #[test]
    fn the_file_has_rules_of_its_own() {
        let of = |text: &str| MemControl::from_text(text, PAGE);
        assert_eq!(of("0 4097 1").unwrap().text(), "0 8192 4096\n", "NONE keeps its limits");
        for direct in ["0x20001 0 4096", "0x1020001 0 0"] {
            let control = of(direct).unwrap();
            assert!(control.flags.has(Flags::DIRECT), "{direct} is prctl's to refuse");
            assert_eq!(of(&control.text()), Ok(control));
        }
        assert_eq!(of("5 0 0"), Err(ControlError::Action(5)));
        assert_eq!(of("+1 +4096 0"), of("1 4096 0"), "kstrtoul() takes one");
    }

    #[test]
    fn no_more_than_79_bytes_are_looked_at() {
        let of = |text: &str| MemControl::from_text(text, PAGE);
        let last = format!("1 2 {:>75}", 4096);
        assert_eq!((last.len(), of(&last)), (79, of("1 2 4096")));
        assert_eq!(of(&format!("{last} x y z")), of("1 2 4096"));
        assert_eq!(of(&format!("{last}0")), Err(ControlError::Text), "a number that is cut");
        assert_eq!(of(&format!("1 2 {:>76}", 4096)), Err(ControlError::Text));
        assert_eq!(of(&format!("1 2{:>78}", 3)), Err(ControlError::Text), "the third is beyond them");
    }
}
