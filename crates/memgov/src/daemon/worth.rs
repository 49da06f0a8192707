//! What groups are worth as jobs, said while memgov runs: over what the configuration says, a reload included, until the group or the daemon ends.

use memgov_decide::policy::{GroupPolicy, Pattern, Policy};
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::{Bytes, Limit};

use super::desk::{Desk, InForce};
use crate::kernel::cgroup::Reading;
use crate::kernel::{Errno, GroupDir};
use crate::serve::worth::{Job, Said, Weighing};
use crate::serve::{Failure, FailureKind, GroupFacts, wire};

/// As many as rules: the loop compares each group with all of them when one changes.
const MOST: usize = 256;
/// Of one user who is not root: the table is for all.
const A_USER: usize = 32;

/// What was said of a running group.
#[derive(Clone)]
pub(super) struct SetJob {
    pub id: GroupId,
    pub path: Box<[u8]>,
    pub by: u32,
    pub said: Said,
}

impl SetJob {
    pub fn policy(&self) -> GroupPolicy {
        let Said { priority, reservation, oom_reserve } = self.said;
        let groups = vec![Pattern::literal(&self.path)];
        GroupPolicy {
            groups,
            priority,
            reservation,
            oom_reserve,
            set_by: Some(self.by),
            ..GroupPolicy::default()
        }
    }
}

fn job(policy: &Policy, path: &[u8], set: Option<&SetJob>) -> Job {
    // What a user has said is shown, though it does not count everywhere: so is whose word it is.
    let users = policy.users_worth(path).map(|(_, worth)| worth);
    Job {
        worth: users.or_else(|| policy.worth(path)),
        oom_reserve: policy.oom_reserve(path),
        said: set.map(|set| (set.said, set.by)),
    }
}

/// What of a reserve under this limit is in use.
fn in_use(usage: Option<Bytes>, max: Option<Limit>, reserve: Bytes) -> Bytes {
    match (usage, max) {
        (Some(usage), Some(Limit::At(max))) => usage - (max - reserve),
        _ => Bytes(0),
    }
}

/// Whether there is room for one more.
fn room(set: &[SetJob], by: u32) -> Result<(), Failure> {
    if by != 0 && set.iter().filter(|set| set.by == by).count() >= A_USER {
        return Err(FailureKind::TableFull
            .because(format!("a user may say of {A_USER} groups what they are worth as jobs")));
    }
    if set.len() >= MOST {
        let text = format!(
            "it was said of {MOST} groups what they are worth as jobs, and there is room for no more; `[[group]]` of the configuration takes any number"
        );
        return Err(FailureKind::TableFull.because(text));
    }
    Ok(())
}

impl Weighing for Desk {
    fn job(&self, group: &GroupFacts) -> Result<Job, Failure> {
        let is_stale = |set: &SetJob| set.path == group.path && set.id != group.id;
        // Where no rule chooses among jobs the loop has no row for it that would have told of its end.
        if self.lock().set_jobs.iter().any(is_stale) {
            self.prune();
        }
        let in_force = self.lock();
        let set = in_force.set_jobs.iter().find(|set| set.id == group.id);
        Ok(job(&in_force.policy(), &group.path, set))
    }

    fn job_set(&self, group: &GroupFacts, said: Said, by: u32, asked_by: u32) -> Result<(), Failure> {
        let before = self.lock().set_jobs.iter().find(|set| set.id == group.id).map(|set| (set.said, set.by));
        if before == Some((said, by)) {
            return Ok(());
        }
        // What another has said does not bind root.
        if before.is_none_or(|(_, of)| of == asked_by) {
            self.may_be_lowered(group, said)?;
        }
        let mut in_force = self.lock();
        let former = in_force.set_jobs.clone();
        in_force.set_jobs.retain(|set| set.id != group.id && self.is_there(&set.path, set.id));
        let mut done = Ok(());
        if !said.is_nothing() {
            done = room(&in_force.set_jobs, by);
            in_force.set_jobs.push(SetJob { id: group.id, path: group.path.clone(), by, said });
        }
        let done = done.and_then(|()| self.put(&in_force, true));
        done.inspect_err(|_| in_force.set_jobs = former)
    }
}

impl Desk {
    /// As the letter has it: a reserve is not made smaller than what of it is in use.
    fn may_be_lowered(&self, group: &GroupFacts, said: Said) -> Result<(), Failure> {
        let (before, of_config) = {
            let in_force = self.lock();
            (in_force.policy().oom_reserve(&group.path), in_force.config.policy.oom_reserve(&group.path))
        };
        // Taken back, it is what the configuration says.
        let after = said.oom_reserve.unwrap_or(of_config);
        if after >= before {
            return Ok(());
        }
        let path = wire::text(&group.path);
        let gone = |_: Errno| FailureKind::NoSuchGroup.because(format!("{path} is gone"));
        let (mut buffer, mut reading) = ([0; 4096], Reading::default());
        let dir = GroupDir::open(&self.layout, &group.path).map_err(|_| gone(Errno::NOENT))?;
        dir.read_usage(&mut buffer, &mut reading, &mut |_, _| {}).map_err(gone)?;
        dir.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).map_err(gone)?;
        let used = in_use(reading.usage, reading.max, before);
        if used <= after {
            return Ok(());
        }
        Err(FailureKind::ReserveInUse.because(format!(
            "{used} of the reserve of {path}, {before}, are in use: it cannot be lowered to {after} before the group has given that back"
        )))
    }

    /// For `memgov status`: those of which something was said, and is still.
    pub(super) fn set_jobs(&self, in_force: &InForce) -> Vec<wire::JobStatus> {
        let policy = in_force.policy();
        let shown = in_force.set_jobs.iter().filter_map(|set| {
            let dir = GroupDir::open(&self.layout, &set.path).ok().filter(|dir| dir.id() == set.id)?;
            let (path, id, owner) = (wire::text(&set.path), set.id.0, dir.owner());
            let target = wire::Target::Group { path, id, owner };
            Some(wire::JobStatus { target, worth: job(&policy, &set.path, Some(set)).wire() })
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::jobs::Worth;

    fn set(number: u64, by: u32, said: Said) -> SetJob {
        SetJob { id: GroupId(number), path: format!("/{number}").into_bytes().into(), by, said }
    }

    #[test]
    fn what_of_a_reserve_is_in_use() {
        let max = Some(Limit::At(Bytes::mib(128)));
        for (usage, expected) in [(Some(90), 0), (Some(96), 0), (Some(100), 4), (Some(128), 32), (None, 0)] {
            let usage = usage.map(Bytes::mib);
            assert_eq!(in_use(usage, max, Bytes::mib(32)), Bytes::mib(expected), "{usage:?}");
        }
        assert_eq!(in_use(Some(Bytes::mib(9)), Some(Limit::Max), Bytes::mib(32)), Bytes(0));
    }

    #[test]
    fn the_table_is_for_all() {
        let many =
            |count: usize, by| (0..count as u64).map(|it| set(it, by, Said::default())).collect::<Vec<_>>();
        let full = many(A_USER, 1000);
        let refused = room(&full, 1000).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TableFull);
        assert!(room(&full[1..], 1000).is_ok() && room(&full, 1001).is_ok() && room(&full, 0).is_ok());
        let full = many(MOST, 0);
        assert!(room(&full, 0).is_err() && room(&full, 1000).is_err() && room(&full[1..], 0).is_ok());
    }

    #[test]
    fn what_is_set_comes_before_the_configuration_and_leaves_the_rest() {
        let of_config = GroupPolicy {
            groups: vec![Pattern::new("/*")],
            priority: Some(5),
            reservation: Some(Bytes::mib(1)),
            ..GroupPolicy::default()
        };
        for by in [0, 1000] {
            let said = Said { priority: Some(-9), ..Said::default() };
            let set = set(1, by, said);
            let mut policy = Policy { groups: vec![of_config.clone()], ..Policy::default() };
            policy.put_first([set.policy()]);
            let of = |priority| Some(Worth { priority, reservation: Bytes::mib(1) });
            let worth = of(-9);
            assert_eq!(
                job(&policy, b"/1", Some(&set)),
                Job { worth, said: Some((said, by)), ..Job::default() }
            );
            let others = of(5);
            assert_eq!(job(&policy, b"/11", None), Job { worth: others, ..Job::default() });
        }
    }
}
