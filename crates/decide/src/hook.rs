//! A program of the administrator's that runs for a group before worse happens to it: what is asked of it, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::DecisionId;
use crate::units::{Bytes, Time};

/// How [`crate::policy::Action::Hook`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program, by its absolute path, and its arguments.
    pub run: Arc<[Box<str>]>,
    /// So long it may run; then it is killed with all that it has started.
    pub within: Duration,
    /// So much data each of its processes may have.
    pub memory: Bytes,
}

impl Hook {
    /// This program, with what is usual otherwise.
    pub fn new(run: Arc<[Box<str>]>) -> Self {
        Self { run, within: Duration::from_secs(10), memory: Bytes::mib(256) }
    }
}

/// How a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal that was not memgov's.
    Signalled(u8),
    /// Killed, because its time was up.
    Overdue,
    /// Killed, because memgov ends or may touch nothing any more.
    CalledOff,
}

/// That, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How.
    pub ended: Ended,
    /// After so long.
    pub took: Duration,
}

/// The program that runs for an episode, or has run last, for `memgov status`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HookView {
    /// The number of the decision that began it.
    pub id: DecisionId,
    /// When.
    pub since: Time,
    /// When it is killed.
    pub until: Time,
    /// How it ended; `None`: there is no word of that yet.
    pub run: Option<Run>,
}
