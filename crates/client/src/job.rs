//! What a group is worth as a job, and how much of its memory is kept for what helps it when it is short.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::wire::parameters;
use crate::{Error, Memgov};

/// What can be said of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobKey {
    /// [`Job::priority`]
    Priority,
    /// [`Job::reservation_bytes`]
    Reservation,
    /// [`Job::oom_reserve_bytes`]
    OomReserve,
}

impl JobKey {
    fn named(name: &str) -> Option<Self> {
        match name {
            "priority" => Some(Self::Priority),
            "reservation" => Some(Self::Reservation),
            "oom-reserve" => Some(Self::OomReserve),
            _ => None,
        }
    }
}

/// A group, as far as the configuration and what was said since make a job of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// Lower is given up first. `None`, as its reservation: it is no job.
    pub priority: Option<i32>,
    /// What it may use before it gives way like others.
    pub reservation_bytes: Option<u64>,
    /// The last part under its hard limit, which is not available: the group's rules act as if the limit were so much lower. 0: none.
    pub oom_reserve_bytes: u64,
    /// What of this was set since memgov started, and is not the configuration's...
    pub set: Vec<JobKey>,
    /// ...and by which user.
    pub by: Option<u32>,
}

/// What is said of a group; what is `None` nothing is said of, and it stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobWords {
    /// [`Job::priority`]
    pub priority: Option<i32>,
    /// [`Job::reservation_bytes`]
    pub reservation_bytes: Option<u64>,
    /// [`Job::oom_reserve_bytes`]
    pub oom_reserve_bytes: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    priority: Option<i32>,
    reservation_bytes: Option<u64>,
    oom_reserve_bytes: u64,
    set: Vec<String>,
    by: Option<u32>,
}

impl Job {
    fn from_answer(answer: &Value) -> Result<Self, Error> {
        let wire = Wire::deserialize(answer).map_err(|error| Error::Garbled(format!("a job: {error}")))?;
        let Wire { priority, reservation_bytes, oom_reserve_bytes, set, by } = wire;
        let set = set.iter().filter_map(|name| JobKey::named(name)).collect();
        Ok(Self { priority, reservation_bytes, oom_reserve_bytes, set, by })
    }
}

impl Memgov {
    /// What a group (named from the root of the memory hierarchy) is worth.
    ///
    /// # Errors
    /// `EACCES`: the group is not root's or its owner's who asks. `ENOENT`: there is no such group. The rest as [`Error`] says.
    pub fn job(&self, group: &str) -> Result<Job, Error> {
        Job::from_answer(&self.call("GetJob", json!({ "path": group }))?)
    }

    /// Says what a group is worth, over what the configuration says, until the group or memgov ends, and gives what is in force then.
    ///
    /// # Errors
    /// `EBUSY`: its `oom_reserve` is to be less than what of that is in use. `EACCES`: not root asks, nor the owner of both the group and the one above it; or another has said something of it.
    /// `EINVAL`: nothing is said. `ENOENT`: there is no such group. `ENOSPC`: it was said of too many groups. The rest as [`Error`] says.
    pub fn set_job(&self, group: &str, words: &JobWords) -> Result<Job, Error> {
        let said = parameters([
            ("path", Some(json!(group))),
            ("priority", words.priority.map(Value::from)),
            ("reservation_bytes", words.reservation_bytes.map(Value::from)),
            ("oom_reserve_bytes", words.oom_reserve_bytes.map(Value::from)),
        ]);
        Job::from_answer(&self.call("SetJob", said)?)
    }

    /// What was said is as the configuration has it: of these, or with none of them of all.
    ///
    /// # Errors
    /// `ENOENT`: none of it was said, or there is no such group. `EBUSY` and `EACCES` as [`Memgov::set_job`]. The rest as [`Error`] says.
    pub fn clear_job(&self, group: &str, only: &[JobKey]) -> Result<Job, Error> {
        let which = (!only.is_empty()).then(|| json!(only));
        Job::from_answer(&self.call("ClearJob", parameters([("path", Some(json!(group))), ("only", which)]))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_with_what_is_not_said_of_it() {
        let said = json!({ "priority": -3, "reservation_bytes": 7, "oom_reserve_bytes": 9, "set": ["oom-reserve", "new"], "by": 1000 });
        let job = Job::from_answer(&said).unwrap();
        assert_eq!((job.priority, job.reservation_bytes, job.oom_reserve_bytes), (Some(-3), Some(7), 9));
        assert_eq!((job.set, job.by), (vec![JobKey::OomReserve], Some(1000)));
        assert_eq!(Job::from_answer(&json!({})).unwrap(), Job::default());
        assert_eq!(Job::from_answer(&json!({ "priority": "high" })).unwrap_err().errno(), 71);
    }

    #[test]
    fn keys_are_named_as_the_socket_names_them() {
        for key in [JobKey::Priority, JobKey::Reservation, JobKey::OomReserve] {
            assert_eq!(json!(key).as_str().and_then(JobKey::named), Some(key));
        }
    }
}
