//! What groups are worth as jobs, and what is kept under their limit, said while memgov runs: root of any group, an owner of groups below one that is his.

use memgov_decide::jobs::Worth;
use memgov_decide::units::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::permit::{self, Peer};
use super::requests::{Path, path};
use super::wire::{JobKey, JobWorth};
use super::{Failure, FailureKind, Governed, GroupFacts};

/// What somebody says of a group as a job; what is `None` he says nothing of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Lower is given up first.
    pub priority: Option<i32>,
    /// What it may use before it gives way like others.
    pub reservation: Option<Bytes>,
    /// The last part under its hard limit that is not available.
    pub oom_reserve: Option<Bytes>,
}

/// A group as a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// What it is worth, by the configuration and by what was said since; `None`: it is none.
    pub worth: Option<Worth>,
    /// The last part under its hard limit that is not available: likewise.
    pub oom_reserve: Bytes,
    /// What was said since, and by whom.
    pub said: Option<(Said, u32)>,
}

/// What the daemon is asked about jobs.
#[allow(clippy::missing_errors_doc, reason = "each fails with the Failure that the client is told")]
pub trait Weighing {
    /// What it is worth.
    fn job(&self, group: &GroupFacts) -> Result<Job, Failure>;
    /// `said` is from now on all that was said of it since the start; nothing: as the configuration has it. `by` is whose word that is, `asked_by` the uid of who asked: root
    /// may take from another's.
    fn job_set(&self, group: &GroupFacts, said: Said, by: u32, asked_by: u32) -> Result<(), Failure>;
}

impl Said {
    /// With what is said now in place of what was said before.
    fn or(self, before: Self) -> Self {
        Self {
            priority: self.priority.or(before.priority),
            reservation: self.reservation.or(before.reservation),
            oom_reserve: self.oom_reserve.or(before.oom_reserve),
        }
    }

    fn without(mut self, key: JobKey) -> Self {
        match key {
            JobKey::Priority => self.priority = None,
            JobKey::Reservation => self.reservation = None,
            JobKey::OomReserve => self.oom_reserve = None,
        }
        self
    }

    /// Nothing at all.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn keys(&self) -> Vec<JobKey> {
        let said = [
            (JobKey::Priority, self.priority.is_some()),
            (JobKey::Reservation, self.reservation.is_some()),
            (JobKey::OomReserve, self.oom_reserve.is_some()),
        ];
        said.into_iter().filter_map(|(key, is_said)| is_said.then_some(key)).collect()
    }
}

impl Job {
    /// As it is told.
    pub fn wire(&self) -> JobWorth {
        JobWorth {
            priority: self.worth.map(|worth| worth.priority),
            reservation_bytes: self.worth.map(|worth| worth.reservation.0),
            oom_reserve_bytes: self.oom_reserve.0,
            set: self.said.map(|(said, _)| said.keys()).unwrap_or_default(),
            by: self.said.map(|(_, by)| by),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetJob {
    path: String,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    reservation_bytes: Option<u64>,
    #[serde(default)]
    oom_reserve_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClearJob {
    path: String,
    #[serde(default)]
    only: Option<Vec<JobKey>>,
}

pub(super) fn get(asked: &Path, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::group(peer, &facts)?;
    told(&facts, governed)
}

pub(super) fn set(asked: &SetJob, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let said = Said {
        priority: asked.priority,
        reservation: asked.reservation_bytes.map(Bytes),
        oom_reserve: asked.oom_reserve_bytes.map(Bytes),
    };
    if said.is_nothing() {
        return Err(FailureKind::InvalidRule
            .because("nothing is said of the group: give a `priority`, a `reservation_bytes`, an `oom_reserve_bytes`, or several"));
    }
    let facts = governed.group(path(&asked.path)?)?;
    permit::job(peer, &facts)?;
    // Another's word does not become root's because root adds to it.
    let before = governed.job(&facts)?.said.filter(|&(_, by)| by == peer.uid);
    governed.job_set(&facts, said.or(before.unwrap_or_default().0), peer.uid, peer.uid)?;
    told(&facts, governed)
}

pub(super) fn clear(asked: &ClearJob, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let facts = governed.group(path(&asked.path)?)?;
    permit::job(peer, &facts)?;
    let all = [JobKey::Priority, JobKey::Reservation, JobKey::OomReserve];
    let keys = asked.only.as_deref().unwrap_or(&all);
    let (before, by) = governed.job(&facts)?.said.unwrap_or_default();
    let after = keys.iter().fold(before, |said, &key| said.without(key));
    if after == before {
        let text = format!(
            "nothing of the kind is set on {}: there is nothing to clear; what the configuration says goes by `memgov reload`",
            asked.path
        );
        return Err(FailureKind::NoSuchRule.because(text));
    }
    governed.job_set(&facts, after, by, peer.uid)?;
    told(&facts, governed)
}

fn told(facts: &GroupFacts, governed: &dyn Governed) -> Result<Value, Failure> {
    let told = governed.job(facts)?.wire();
    serde_json::to_value(told).map_err(|error| FailureKind::Internal.because(error.to_string()))
}
