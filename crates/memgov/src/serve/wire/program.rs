//! Programs that run for a group (the step `hook`), and what its handler does for it (`handler`), as they are shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a program has ended, or what a handler has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRun {
    /// Of a program `exited`, `signalled` or `overdue` (killed, its time was up); of a handler `handled` (it has done what it could), `gone` or `late`; of both `called-off` (memgov ended).
    pub ended: String,
    /// Of `exited`: with which status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// Of `signalled`: by which signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// After so long.
    pub took_ns: u64,
}

impl ProgramRun {
    /// In words.
    pub fn sentence(&self) -> String {
        let took = Duration::from_millis(self.took_ns / 1_000_000);
        let took = humantime::format_duration(took);
        match (self.ended.as_str(), self.status, self.signal) {
            ("exited", Some(status), _) => format!("ended with status {status} after {took}"),
            ("signalled", _, Some(signal)) => {
                format!("ended by {} after {took}", crate::config::signals::name(signal))
            }
            ("overdue", ..) => format!("killed after {took}: its time was up"),
            ("handled", ..) => format!("handled after {took}"),
            ("gone", ..) => format!("the handler was gone after {took}"),
            ("late", ..) => format!("not waited for any more after {took}: the handler's time was up"),
            _ => format!("called off after {took}"),
        }
    }
}

/// What a program has written to its standard output and error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramOutput {
    /// The beginning of it.
    pub text: String,
    /// So much more came and was not kept.
    #[serde(default)]
    pub left_out_bytes: u64,
}

/// What the handler of a group is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// For its answer, and for `memgov explain`: the number of the decision that asks for it.
    pub number: u64,
    /// The group.
    pub path: String,
    /// What was compared: `usage`, `available`, `kernel`...
    pub meter: String,
    /// How much of it there was.
    pub meter_bytes: u64,
    /// Its line.
    pub line_bytes: u64,
    /// What the group used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Its hard limit; absent: none, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// So much under that limit is kept for what helps the group.
    #[serde(default)]
    pub oom_reserve_bytes: u64,
    /// So long its word is waited for.
    pub left_ns: u64,
}

/// Who helps in an episode, a program or the group's handler, or has helped last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// It is the group's handler, and no program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handler: bool,
    /// The number of the decision that began it, for `memgov explain`.
    pub number: u64,
    /// When. RFC 3339, UTC.
    pub since: String,
    /// So long it may take still.
    pub left_ns: u64,
    /// How it ended; absent: it is at it, or could not be started or asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<ProgramRun>,
}
