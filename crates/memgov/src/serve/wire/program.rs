//! Programs that run for a group (the step `hook`), as they are shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a program has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramRun {
    /// `exited`, `signalled`, `overdue` (killed, its time was up) or `called-off` (killed, because memgov ended).
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

/// The program that runs for an episode, or has run last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// The number of the decision that began it, for `memgov explain`.
    pub number: u64,
    /// When. RFC 3339, UTC.
    pub since: String,
    /// So long it may run still.
    pub left_ns: u64,
    /// How it ended; absent: it runs, or could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<ProgramRun>,
}
