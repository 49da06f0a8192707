//! Shrinks as they are asked for over the socket, and as they are shown there and by `--json`.

use memgov_decide::shrink::End;
use memgov_decide::units::Bytes;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, FailureKind};
use super::permit::{GroupFacts, Peer};
use super::wire;
use crate::act::shrink::{Goal, Kind, Means, Outcome, Progress};

/// What is asked for: one of `to_bytes` and `by_bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which group, from the root of the memory hierarchy.
    pub path: String,
    /// Usage to get to; 0: as empty as possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_bytes: Option<u64>,
    /// How much less than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_bytes: Option<u64>,
    /// 0 to 200, as `memory.reclaim` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swappiness: Option<u8>,
    /// `file` or `anon`: only that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// `auto` or `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<String>,
    /// It is called off when nobody has asked for it (`GetShrink`) for 10 s: somebody waits for its end.
    #[serde(default)]
    pub attended: bool,
}

/// A request that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Where to.
    pub goal: Goal,
    /// What of its memory.
    pub kind: Kind,
    /// By what.
    pub means: Means,
}

/// Largest swappiness of a `memory.reclaim` (MAX_SWAPPINESS, include/linux/swap.h).
const MOST_SWAPPINESS: u8 = 200;

impl Request {
    /// What it means.
    ///
    /// # Errors
    /// Says what contradicts what.
    pub fn meaning(&self) -> Result<Meaning, Failure> {
        let invalid = |why: &str| FailureKind::InvalidShrink.because(why);
        let goal = match (self.to_bytes, self.by_bytes) {
            (Some(to), None) => Goal::To(Bytes(to)),
            (None, Some(0)) => return Err(invalid("to shrink a group by nothing is no shrink")),
            (None, Some(by)) => Goal::By(Bytes(by)),
            (None, None) => {
                return Err(invalid("say how far: a usage to shrink to, or an amount to shrink by"));
            }
            (Some(_), Some(_)) => {
                return Err(invalid("say how far once: a usage to shrink to, or an amount to shrink by"));
            }
        };
        let kind = match (self.swappiness, self.only.as_deref()) {
            (None, None) => Kind::Any,
            (Some(n), None) if n <= MOST_SWAPPINESS => Kind::Swappiness(n),
            (Some(_), None) => return Err(invalid("swappiness is between 0 (files only) and 200")),
            (None, Some("file")) => Kind::File,
            (None, Some("anon")) => Kind::Anon,
            (None, Some(_)) => return Err(invalid("`only` is `file` or `anon`")),
            (Some(_), Some(_)) => {
                return Err(invalid("swappiness and `only` say the same thing twice: give one"));
            }
        };
        let means = match self.means.as_deref() {
            None | Some("auto") => Means::Auto,
            Some("limit") => Means::Limit,
            Some(_) => return Err(invalid("`means` is `auto` or `limit`")),
        };
        Ok(Meaning { goal, kind, means })
    }
}

/// The root group is not shrunk.
///
/// # Errors
/// If this is it.
pub fn refuse_root(path: &str) -> Result<(), Failure> {
    if !path.is_empty() && path.bytes().all(|b| b == b'/') {
        let text = "the root group is the whole machine and is not shrunk: it has no usage to follow; name a group below it";
        return Err(FailureKind::InvalidShrink.because(text));
    }
    Ok(())
}

/// How far a shrink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the meaning; docs/cli.md explains them")]
pub enum State {
    Running,
    Reached,
    Already,
    Emptied,
    Hard,
    Cancelled,
    Gone,
    Failed,
}

impl From<Option<Outcome>> for State {
    fn from(outcome: Option<Outcome>) -> Self {
        match outcome {
            None => Self::Running,
            Some(Outcome::Ended(End::Reached)) => Self::Reached,
            Some(Outcome::Ended(End::Already)) => Self::Already,
            Some(Outcome::Ended(End::Emptied)) => Self::Emptied,
            Some(Outcome::Ended(End::Hard)) => Self::Hard,
            Some(Outcome::Cancelled) => Self::Cancelled,
            Some(Outcome::Gone) => Self::Gone,
            Some(Outcome::Failed(_)) => Self::Failed,
        }
    }
}

/// A shrink, running or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// For `--watch` and `--cancel`; absent: no daemon does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<u64>,
    /// Which group.
    pub path: String,
    /// How far it is.
    pub state: State,
    /// Usage when it began.
    pub before_bytes: u64,
    /// Usage now, or at its end.
    pub usage_bytes: u64,
    /// Where to.
    pub target_bytes: u64,
    /// What has gone so far.
    pub freed_bytes: u64,
    /// How long it has run.
    pub elapsed_ns: u64,
    /// Bytes a second so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes: Option<u64>,
    /// How long it will take at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ns: Option<u64>,
    /// The file that is written: `memory.reclaim`, `memory.high`, `memory.limit_in_bytes`.
    pub file: String,
    /// EBUSY if it was hard; what the kernel refused it with if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Owner of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// Who asked for it.
    pub by: u32,
}

impl Job {
    /// Its shown form. `owner`: of the group; `by`: who asked.
    pub fn new(
        job: Option<u64>,
        path: &[u8],
        progress: &Progress,
        file: &str,
        owner: Option<u32>,
        by: u32,
    ) -> Self {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            job,
            path: wire::text(path),
            state: progress.outcome.into(),
            before_bytes: progress.before.0,
            usage_bytes: progress.usage.0,
            target_bytes: progress.target.0,
            freed_bytes: progress.freed().0,
            elapsed_ns: nanos(progress.elapsed),
            rate_bytes: progress.rate(),
            left_ns: progress.left().filter(|_| progress.outcome.is_none()).map(nanos),
            file: file.into(),
            errno: match progress.outcome {
                Some(Outcome::Ended(End::Hard)) => Some(libc::EBUSY),
                Some(Outcome::Failed(errno)) => Some(errno.raw_os_error()),
                _ => None,
            },
            owner,
            by,
        }
    }

    /// May this peer see it and call it off? Root, who asked for it, and whose group it is.
    pub fn concerns(&self, peer: Peer) -> bool {
        peer.is_root() || self.by == peer.uid || self.owner == Some(peer.uid)
    }
}

/// Who can shrink groups, and knows of those under way. Asked by the serving thread, so nothing may take long.
#[allow(clippy::missing_errors_doc, reason = "each fails with the Failure that the client is told")]
pub trait Shrinking {
    /// Begins one; `by` is the uid of who asked.
    fn shrink(&self, group: &GroupFacts, asked: &Request, by: u32) -> Result<Job, Failure>;
    /// One of them; whoever waits for its end asks again within 10 s.
    fn shrink_get(&self, id: u64) -> Result<Job, Failure>;
    /// All that run, and the last that have ended.
    fn shrinks(&self) -> Result<Vec<Job>, Failure>;
    /// Calls one off.
    fn shrink_cancel(&self, id: u64) -> Result<Job, Failure>;
}
