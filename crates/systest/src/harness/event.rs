//! Events as `memgov events --json` prints them. Only what the tests look at; unknown fields are somebody else's.

use std::fmt;

use serde::Deserialize;

/// One event.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Number of the decision.
    pub id: u64,
    /// Number of the episode.
    pub episode: u64,
    /// When, on CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// Rule or control.
    pub source: Source,
    /// Which step of the ladder.
    #[serde(default)]
    pub step: u64,
    /// Whom.
    pub target: Target,
    /// What.
    pub order: String,
    /// With which signal.
    pub signal: Option<u64>,
    /// Why.
    pub reason: Reason,
    /// Candidates of a kill.
    #[serde(default)]
    pub ranking: Vec<Candidate>,
    /// Jobs of a kill by priority.
    #[serde(default)]
    pub jobs: Vec<Job>,
    /// Of a kill of processes that belong together: which.
    pub takes: Option<String>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// The letter's log line.
    pub log: Option<String>,
    /// What a program has written.
    pub output: Option<Output>,
}

/// What a program has written.
#[derive(Clone, Debug, Deserialize)]
pub struct Output {
    /// The beginning of it.
    pub text: String,
    /// And so much more.
    pub left_out_bytes: u64,
}

/// How a program has ended.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// In a word.
    pub ended: String,
    /// By itself, with this status.
    pub status: Option<u8>,
    /// After so long.
    pub took_ns: u64,
}

/// Where an order comes from.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    /// A rule's name.
    pub rule: Option<String>,
    /// Or the control set on a process.
    pub control: Option<bool>,
}

/// Whom an event concerns.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// `group` or `process`.
    pub kind: String,
    /// Path of a group.
    pub path: Option<String>,
    /// Pid of a process.
    pub pid: Option<i32>,
    /// Its comm.
    pub comm: Option<String>,
}

/// The numbers that led to it.
#[derive(Clone, Debug, Deserialize)]
pub struct Reason {
    /// Which comparison.
    pub kind: String,
    /// In words.
    #[serde(default)]
    pub text: String,
    /// Usage of the group.
    pub usage_bytes: Option<u64>,
    /// Its line.
    pub usage_line_bytes: Option<u64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
    /// Its line.
    pub rss_line_bytes: Option<u64>,
    /// What was available.
    pub available_bytes: Option<u64>,
    /// How fast that falls, where a rule asks.
    pub falling_bytes_per_second: Option<u64>,
}

/// One of a ranking.
#[derive(Clone, Debug, Deserialize)]
pub struct Candidate {
    /// Who.
    pub pid: i32,
}

/// A job of a ranking.
#[derive(Clone, Debug, Deserialize)]
pub struct Job {
    /// Which.
    pub path: String,
    /// Lower gives way first.
    pub priority: i32,
    /// What it used.
    pub usage_bytes: u64,
    /// What is reserved for it.
    pub reservation_bytes: u64,
    /// What it asks for itself.
    pub asks: Option<String>,
}

/// What came of an order.
#[derive(Clone, Debug, Deserialize)]
pub struct Outcome {
    /// done, refused, ...
    pub kind: String,
    /// Reached.
    pub processes: Option<u64>,
    /// Not reached.
    pub refused: Option<u64>,
    /// The mechanism.
    pub by: Option<String>,
    /// Name of the errno.
    pub error: Option<String>,
    /// Of a program.
    pub run: Option<Run>,
}

impl Event {
    /// Whether it concerns this process.
    pub fn is_of(&self, pid: i32) -> bool {
        self.target.pid == Some(pid)
    }
    /// Whether it concerns this group.
    pub fn is_of_group(&self, path: &str) -> bool {
        self.target.path.as_deref() == Some(path)
    }
    /// The mechanism, in a word.
    pub fn by(&self) -> &str {
        self.outcome.as_ref().and_then(|outcome| outcome.by.as_deref()).unwrap_or("-")
    }
    /// The kind of the outcome.
    pub fn came_of_it(&self) -> &str {
        self.outcome.as_ref().map_or("-", |outcome| outcome.kind.as_str())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match (&self.target.path, self.target.pid) {
            (Some(path), _) => path.clone(),
            (None, pid) => format!("{}[{}]", self.target.comm.as_deref().unwrap_or("?"), pid.unwrap_or(0)),
        };
        let (order, reason) = (&self.order, &self.reason.text);
        write!(to, "#{} {order} {target}: {reason} -> {} by {}", self.id, self.came_of_it(), self.by())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_shape_is_read() {
        let text = r#"{"id":7,"episode":3,"time":"2026-11-22T05:00:00.123Z","monotonic_ns":1,"source":{"rule":"builds"},
            "step":0,"target":{"kind":"process","pid":1,"start":2,"comm":"hog","group":"/x"},"order":"signal","signal":10,
            "reason":{"kind":"usage","text":"usage 108.1MiB is over","usage_bytes":113351065,"usage_line_bytes":113246208},
            "ranking":[],"outcome":{"kind":"done","processes":1,"refused":0,"by":"pidfd"},"log":"Cgroup: x"}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert!(event.is_of(1) && !event.is_of_group("/x"));
        assert_eq!((event.by(), event.came_of_it(), event.signal), ("pidfd", "done", Some(10)));
        assert_eq!(event.to_string(), "#7 signal hog[1]: usage 108.1MiB is over -> done by pidfd");
        let group = r#"{"id":8,"episode":4,"monotonic_ns":1,"source":{"control":true},"target":{"kind":"group","path":"/x","id":1},
            "order":"deny-begin","reason":{"kind":"usage"},"outcome":null}"#;
        let event: Event = serde_json::from_str(group).unwrap();
        assert!(event.is_of_group("/x") && event.log.is_none() && event.came_of_it() == "-");
    }
}
