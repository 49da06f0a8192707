//! Somebody who is given time to help a group before worse happens to it, a program of the administrator's or the group's own handler: what is asked of him, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::DecisionId;
use crate::units::{Bytes, Time};

/// How [`crate::policy::Action::Hook`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Who helps.
    pub by: Helper,
    /// So long it may take. A program is then killed with all that it has started; for a handler nobody waits any more.
    pub within: Duration,
}

/// Who helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Helper {
    /// A program that is started for it.
    Program(Program),
    /// The process that has registered as the group's handler.
    Handler,
}

/// A program of the administrator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// It, by its absolute path, and its arguments.
    pub run: Arc<[Box<str>]>,
    /// So much data each of its processes may have.
    pub memory: Bytes,
}

impl Hook {
    /// By this one, with the usual time.
    pub const fn by(by: Helper) -> Self {
        Self { by, within: Duration::from_secs(10) }
    }

    /// By this program, with what is usual otherwise.
    pub const fn program(run: Arc<[Box<str>]>) -> Self {
        Self::by(Helper::Program(Program { run, memory: Bytes::mib(256) }))
    }
}

/// How it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal that was not memgov's.
    Signalled(u8),
    /// A program was killed, because its time was up.
    Overdue,
    /// memgov ends, or may touch nothing any more: a program was killed.
    CalledOff,
    /// A handler has said that it has done what it could.
    Handled,
    /// A handler has gone away, or ended, before it said so.
    Gone,
    /// A handler's time was up before it said so.
    Late,
}

/// That, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How.
    pub ended: Ended,
    /// After so long.
    pub took: Duration,
}

/// Who helps in an episode, or has helped last, for `memgov status`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HookView {
    /// It is the group's handler, and no program.
    pub by_handler: bool,
    /// The number of the decision that began it.
    pub id: DecisionId,
    /// When.
    pub since: Time,
    /// When its time is up.
    pub until: Time,
    /// How it ended; `None`: there is no word of that yet.
    pub run: Option<Run>,
}
