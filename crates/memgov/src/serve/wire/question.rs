//! Questions to an operator, as they are shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Reason, Source, Target};

/// What an event says of a question: that it is asked, or what was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionSaid {
    /// For `memgov answer`: the number of the decision that asks.
    pub number: u64,
    /// Of an `ask`: what happens when nobody answers: `kill`, `go-on` or `wait`...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// ...within this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ns: Option<u64>,
    /// Of an `answered`: what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Of `go-on`: it is not asked again for so long; absent: not in this episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ns: Option<u64>,
}

impl QuestionSaid {
    /// In words.
    pub fn sentence(&self) -> String {
        let time = |ns: u64| humantime::format_duration(Duration::from_nanos(ns));
        match (&self.answer, &self.default, self.timeout_ns) {
            (Some(answer), ..) => {
                let span = self.for_ns.map(|ns| format!(" for {}", time(ns))).unwrap_or_default();
                format!("question {}: {answer}{span}", self.number)
            }
            (None, Some(default), Some(ns)) => {
                format!("memgov answer {} kill|go-on|wait; after {}: {default}", self.number, time(ns))
            }
            _ => format!("question {}", self.number),
        }
    }
}

/// An open question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionStatus {
    /// For `memgov answer`.
    pub number: u64,
    /// Its episode.
    pub episode: u64,
    /// Which rule asks.
    pub source: Source,
    /// About which group. It is frozen.
    pub target: Target,
    /// The path of that group as it is, and not as it can be shown.
    #[serde(skip)]
    pub path: Vec<u8>,
    /// It is the host that is short: its owner has no say.
    #[serde(skip)]
    pub of_host: bool,
    /// Why: its usage and its line as they were when it was asked.
    pub reason: Reason,
    /// When it was asked. RFC 3339, UTC.
    pub since: String,
    /// So long it is still open.
    pub left_ns: u64,
    /// What happens then: `kill`, `go-on` or `wait`.
    pub default: String,
}

/// What came of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The question.
    pub number: u64,
    /// What was answered.
    pub answer: String,
    /// About which group.
    pub target: Target,
    /// Of `go-on`: it is not asked again for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ns: Option<u64>,
}
