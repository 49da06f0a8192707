//! What groups are worth as jobs, and what is kept under their limit, as it is shown.

use serde::{Deserialize, Serialize};

use super::Target;

/// What a group is worth as a job: in force, and what of it was set since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWorth {
    /// Lower is given up first. Absent, as its reservation: it is no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// What it may use before it gives way like others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
    /// The last part under its hard limit that is not available, whether it is a job or not. Absent: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_reserve_bytes: u64,
    /// Which of them were set since the start, and are not the configuration's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<JobKey>,
    /// Which user has set them. If that is not root they count in rules for his own groups only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What can be said of a group as a job, by the configuration's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "docs/rules.md explains the keys")]
pub enum JobKey {
    Priority,
    Reservation,
    OomReserve,
}

/// A group of which it was said since the start what it is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Which.
    pub target: Target,
    /// What it is worth.
    #[serde(flatten)]
    pub worth: JobWorth,
}
