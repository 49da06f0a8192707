//! A group made smaller.

use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::wire::{Connection, field, is_errno, parameters};
use crate::{Error, Memgov};

/// memgov calls a shrink off that nobody has asked for in 10 s.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Until it uses no more than so many bytes; 0: as empty as possible.
    To(u64),
    /// Until it uses so many bytes less than now.
    By(u64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Shrunk {
    /// What the group used before.
    pub before_bytes: u64,
    /// What it uses now.
    pub usage_bytes: u64,
}

#[derive(Deserialize)]
struct Job {
    #[serde(default)]
    job: Option<u64>,
    path: String,
    state: String,
    target_bytes: u64,
    #[serde(default)]
    errno: Option<i32>,
    #[serde(flatten)]
    sizes: Shrunk,
}

impl Memgov {
    /// Has the kernel reclaim memory of a group (named from the root of the memory hierarchy) and of those below, and waits for it. Nothing is killed
    /// and no limit stays changed; if this thread's process ends meanwhile memgov calls it off.
    ///
    /// # Errors
    /// [`Error::Hard`] (`EBUSY`) if what is left cannot be reclaimed, with what it uses now. `EACCES`: the group is not root's or its owner's who asks.
    /// `ECANCELED`: somebody called it off. `ENOENT`: there is no such group, or it was removed meanwhile. The rest as [`Error`] says.
    pub fn shrink(&self, group: &str, goal: Goal) -> Result<Shrunk, Error> {
        let (to, by) = match goal {
            Goal::To(bytes) => (Some(json!(bytes)), None),
            Goal::By(bytes) => (None, Some(json!(bytes))),
        };
        let path = Some(json!(group));
        let asked =
            parameters([("path", path), ("to_bytes", to), ("by_bytes", by), ("attended", Some(json!(true)))]);
        let mut connection = self.connect()?;
        let mut answer = connection.call("Shrink", json!({ "shrink": asked }))?;
        loop {
            let job: Job = field(&answer, "job")?;
            match (job.state.as_str(), job.job) {
                ("running", Some(id)) => {
                    thread::sleep(ASKED_EVERY);
                    answer = still(&mut connection, id)?;
                }
                ("running", None) => return Err(Error::Garbled("a running shrink without a number".into())),
                _ => return ended(&job),
            }
        }
    }
}

/// How far it is. Busy is no reason to give up what is under way.
fn still(connection: &mut Connection, id: u64) -> Result<Value, Error> {
    loop {
        match connection.call("GetShrink", json!({ "id": id })) {
            Err(Error::Refused { name, .. }) if name == "Busy" => thread::sleep(ASKED_EVERY),
            other => return other,
        }
    }
}

fn ended(job: &Job) -> Result<Shrunk, Error> {
    use rustix::io::Errno;
    let refused = |errno: Errno, text: String| Error::Refused {
        name: job.state.clone(),
        errno: errno.raw_os_error(),
        text,
    };
    match job.state.as_str() {
        "reached" | "already" | "emptied" => Ok(job.sizes),
        "hard" => Err(Error::Hard {
            path: job.path.clone(),
            usage_bytes: job.sizes.usage_bytes,
            target_bytes: job.target_bytes,
        }),
        "cancelled" => Err(refused(Errno::CANCELED, format!("the shrink of {} was called off", job.path))),
        "gone" => Err(refused(Errno::NOENT, format!("{} was removed meanwhile", job.path))),
        "failed" => {
            let errno = job.errno.filter(is_errno).map_or(Errno::IO, Errno::from_raw_os_error);
            Err(refused(errno, format!("shrinking {}: {errno}", job.path)))
        }
        other => Err(Error::Garbled(format!("a shrink that is {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: &str, errno: Option<i32>) -> Job {
        let sizes = Shrunk { before_bytes: 9, usage_bytes: 5 };
        Job { job: Some(1), path: "/x".into(), state: state.into(), target_bytes: 4, errno, sizes }
    }

    #[test]
    fn each_end_has_its_errno() {
        for state in ["reached", "already", "emptied"] {
            assert_eq!(ended(&job(state, None)).unwrap().usage_bytes, 5, "{state}");
        }
        let table = [
            ("hard", None, 16),
            ("cancelled", None, 125),
            ("gone", None, 2),
            ("failed", Some(13), 13),
            ("failed", None, 5),
            ("failed", Some(0), 5),
            ("failed", Some(1 << 20), 5),
            ("new", None, 71),
        ];
        for (state, errno, expected) in table {
            assert_eq!(ended(&job(state, errno)).unwrap_err().errno(), expected, "{state}");
        }
    }
}
