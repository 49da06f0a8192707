//! What a program asks for itself: the memory control of the over-high series (Waiman Long, LKML, 17 Aug 2020), whose word is kept although its two prctl numbers
//! have been given to others since.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::wire::field;
use crate::{Error, Memgov};

/// What happens when the process is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Nothing.
    #[default]
    None = 0,
    /// Further memory is refused with ENOMEM.
    Deny = 1,
    /// It is slowed down.
    Slow = 2,
    /// It is sent a signal.
    Signal = 3,
    /// It is killed.
    Kill = 4,
}

/// What is compared and how: bits 16 to 31 of the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// The signal is sent again and again, not once.
    pub const SIGCONT: Self = Self(1 << 0);
    /// Only the process's own memory counts, its group does not. Needs a kind and a plimit.
    pub const DIRECT: Self = Self(1 << 1);
    /// One line in the log for each episode.
    pub const LOG: Self = Self(1 << 2);
    /// Its anonymous memory counts.
    pub const RSS_ANON: Self = Self(1 << 8);
    /// Its mapped pages of files count.
    pub const RSS_FILE: Self = Self(1 << 9);
    /// Its shared memory counts.
    pub const RSS_SHMEM: Self = Self(1 << 10);

    /// Whether all of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A memory control. It is inherited by children and kept over exec; without flags it acts when usage of the process's group is over `memory.high` and `climit_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Control {
    /// What happens.
    pub action: Action,
    /// Which signal [`Action::Signal`] sends, 1 to 63; it becomes 0 when it was sent, unless [`Flags::SIGCONT`] is set.
    pub signal: u8,
    /// What is compared.
    pub flags: Flags,
    /// How far the group may be over `memory.high`, in bytes; rounded up to pages.
    pub climit_bytes: u64,
    /// How much the kinds of the flags may be together, in bytes; rounded up to pages.
    pub plimit_bytes: u64,
}

#[derive(Deserialize)]
struct Wire {
    word: u32,
    climit_bytes: u64,
    plimit_bytes: u64,
}

impl Control {
    /// One with this action and nothing else.
    pub fn of(action: Action) -> Self {
        Self { action, ..Self::default() }
    }

    /// The series' action word: bits 0-7 action, 8-15 signal, 16-31 flags.
    pub fn word(&self) -> u32 {
        u32::from(self.action as u8) | u32::from(self.signal) << 8 | u32::from(self.flags.0) << 16
    }

    /// From a word and its limits; `None` if the action is above 4. The rest is checked by memgov.
    pub fn from_word(word: u32, climit_bytes: u64, plimit_bytes: u64) -> Option<Self> {
        let [action, signal, low, high] = word.to_le_bytes();
        let action = match action {
            0 => Action::None,
            1 => Action::Deny,
            2 => Action::Slow,
            3 => Action::Signal,
            4 => Action::Kill,
            _ => return None,
        };
        Some(Self {
            action,
            signal,
            flags: Flags(u16::from_le_bytes([low, high])),
            climit_bytes,
            plimit_bytes,
        })
    }

    fn from_answer(answer: &Value) -> Result<Self, Error> {
        let wire: Wire = field(answer, "control")?;
        Self::from_word(wire.word, wire.climit_bytes, wire.plimit_bytes)
            .ok_or_else(|| Error::Garbled(format!("an action word {:#x}", wire.word)))
    }
}

impl Memgov {
    /// The control of this process; all zero if it has none.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn control(&self) -> Result<Control, Error> {
        let answer = self.connect()?.call("GetControl", json!({}))?;
        Control::from_answer(&answer)
    }

    /// Sets the control of this process, all of its threads, and gives it as it is in force.
    ///
    /// # Errors
    /// `EINVAL` for what the series refuses: a signal above 63, an unknown flag, [`Flags::DIRECT`] without a kind or a plimit; the rest as [`Error`] says. Nothing is half set.
    pub fn set_control(&self, control: &Control) -> Result<Control, Error> {
        let asked = json!({
            "word": control.word(),
            "climit_bytes": control.climit_bytes,
            "plimit_bytes": control.plimit_bytes,
        });
        let answer = self.connect()?.call("SetControl", asked)?;
        Control::from_answer(&answer)
    }

    /// Takes it away.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn clear_control(&self) -> Result<(), Error> {
        self.connect()?.call("ClearControl", json!({})).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_example_goes_round() {
        let control = Control {
            action: Action::Signal,
            signal: 10,
            flags: Flags::SIGCONT | Flags::RSS_ANON,
            climit_bytes: 1,
            plimit_bytes: 2,
        };
        assert_eq!(control.word(), 0x0101_0a03);
        assert_eq!(Control::from_word(0x0101_0a03, 1, 2), Some(control));
        assert_eq!(Control::from_word(5, 0, 0), None);
    }
}
