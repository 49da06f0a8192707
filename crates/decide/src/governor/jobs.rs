//! The kill of a job for the sake of the machine or of a group above it: may it be now, and who gives way. The order is [`crate::jobs`]'s.
//!
//! A job below another belongs to that one. A group around jobs that is indivisible (`memory.oom.group`) is taken as one, as the kernel would
//! take it. Goes through the rows of groups, in ticks in which such a kill is due and in no other.

use std::time::Duration;

use crate::decision::{Decisions, Order, Ranking, Reason, Take, Target};
use crate::jobs::{Contender, Wish, Worth};
use crate::policy::{Action, Takes, Victim};
use crate::snapshot::{GroupSlot, Snapshot};
use crate::units::{Bytes, Time};

use super::brake::{Brake, Branch, Sake};
use super::episode::Episode;
use super::judge::Excess;
use super::ladder::Step;
use super::pin::Pinned;
use super::report::What;
use super::{Governor, REPEAT};

/// A job that could not be killed is not tried again for so long.
const SPARED: Duration = Duration::from_secs(10);
/// So long readings are waited for that are as new as the shortage; then those that are there have to do.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whoever uses so much more than was left of him when he was dead has begun anew.
const STIRS: Bytes = Bytes::mib(1);
/// So long a shortage waits for memory of kills elsewhere, at the most: twice as long as any of it is waited for.
const TIRED: Duration = Duration::from_secs(4);

/// Groups that are taken as one and have several jobs in them, so many of them.
pub(super) const MOST_INDIVISIBLE: usize = 256;

/// Who could give way.
struct Choice {
    ranking: Ranking,
    /// Somebody was last read before the moment that was given.
    stale: bool,
    /// Somebody's usage is not known.
    unknown: bool,
}

impl Governor {
    /// Kills the job that gives way first, or part of it, if that may be now.
    pub(super) fn kill_job(
        &mut self,
        episode: &mut Episode,
        step: u8,
        takes: Takes,
        excess: &Excess,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Step {
        if let Err(outcome) = self.may_take_others(episode, step, true, snap, out) {
            return outcome;
        }
        let (job, ranking) = match self.first_to_give_way(episode, step, snap, out) {
            Ok(chosen) => chosen,
            Err(outcome) => return outcome,
        };
        // After that only the branch of whoever is hit is waited for, and the budget holds.
        if let Some(brake) = self.kills.brake(self.now, Branch::Of(Some(job.slot)), snap, &self.tree) {
            return self.braked(episode, step, brake, out);
        }
        let indivisible = snap.group(job.slot).and_then(|row| row.oom_group) == Some(true);
        if takes != Takes::Job && !indivisible {
            return self.kill_in_job(episode, step, (&job, takes), (excess, ranking), snap, out);
        }
        let about = (Target::Group(job.group, job.slot), Order::Kill { take: Take::Whole });
        let what = What::KillJob(job.slot);
        let Some(id) = self.emit_about(episode, step, about, (excess.reason, ranking), what, out) else {
            return Step::Waits;
        };
        // That its own kill is waited for goes without saying.
        episode.noted_freeing = true;
        self.kills.ordered(self.now, id, Sake::AnotherAll, Some(job.slot), job.usage, snap);
        Step::Began
    }

    /// Whether somebody else may be taken for this shortage now: not before what an earlier kill has brought shows in the meter, or one shortage is met twice.
    /// `Err`: what becomes of the step.
    pub(super) fn may_take_others(
        &mut self,
        episode: &mut Episode,
        step: u8,
        kills: bool,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Result<(), Step> {
        let branch = match episode.target {
            Target::Group(_, slot) => Branch::Of(Some(slot)),
            Target::Process(..) => return Err(Step::Failed),
            Target::Host => Branch::Host,
        };
        let last = if step < episode.next { episode.ordered_at[usize::from(step)] } else { Time(0) };
        // Whoever goes on being killed elsewhere must not keep a shortage from being met: what this one has waited for is long back.
        let tired = self.now.since(episode.began.max(last)) >= TIRED;
        match self.kills.brake(self.now, branch, snap, &self.tree) {
            Some(Brake::Freeing(_)) if tired => {}
            Some(Brake::TooMany(_)) if !kills => {}
            Some(brake) => return Err(self.braked(episode, step, brake, out)),
            None => {}
        }
        let settled = self.kills.settled();
        if !tired && settled > Time(0) && self.meter_read_at(episode.target, snap) <= settled {
            self.read_meter(episode.target);
            return Err(Step::Waits);
        }
        Ok(())
    }

    /// The job that is chosen already, or who gives way first, by readings that are no older than the shortage, and all that were asked. `Err`: what becomes of the step.
    pub(super) fn first_to_give_way(
        &mut self,
        episode: &mut Episode,
        step: u8,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Result<(Contender, Ranking), Step> {
        let since = episode.began.max(self.kills.settled());
        let patient = self.now < since + PATIENCE;
        let choice = self.choose_job(episode.target, since, snap);
        if choice.stale && patient {
            self.sample_jobs(episode.target, snap);
            return Err(Step::Waits);
        }
        let chosen = match episode.job {
            None => choice.ranking.jobs().first().copied(),
            Some(Pinned { group, slot, .. }) => {
                let ranked = choice.ranking.jobs().iter().find(|job| job.group == group).copied();
                let usage = snap.group(slot).and_then(|row| row.usage).unwrap_or_default();
                Some(ranked.unwrap_or(Contender { group, slot, usage, ..Contender::default() }))
            }
        };
        if let Some(job) = chosen {
            return Ok((job, choice.ranking));
        }
        if choice.unknown && patient {
            return Err(Step::Waits);
        }
        let Ranking { considered, protected: left_out, .. } = choice.ranking;
        Err(self.withhold(episode, step, Reason::NoJob { considered, left_out }, out))
    }

    /// How long after a kill at the end of its ladder the next is tried: a job's death may not be enough, and who is next is known.
    pub(super) fn kills_again_in(&self, episode: &Episode, action: &Action) -> Duration {
        let nobody =
            matches!(episode.last, Some((Order::Record, Reason::NoJob { .. } | Reason::TooManyKills { .. })));
        match action {
            Action::Kill { victim: Victim::LowestPriority(_) } if !nobody => self.policy.pace.fastest,
            Action::Kill { victim: Victim::Largest } if episode.target == Target::Host => {
                self.policy.pace.fastest
            }
            _ => REPEAT,
        }
    }

    /// It could not be killed, or had nothing to give: the next is taken.
    pub(super) fn spare_job(&mut self, job: GroupSlot) {
        if let Some(state) = self.groups.get_mut(job.0 as usize) {
            (state.spared_until, state.left) = (self.now + SPARED, Some(Bytes(u64::MAX)));
        }
        self.lose_job(job);
        self.deadline = self.now;
    }

    /// Nobody is in it any more. What it has left, page cache, it cannot give back: it is not asked again unless somebody begins anew in it.
    pub(super) fn job_is_dead(&mut self, job: GroupSlot) {
        if let Some(state) = self.groups.get_mut(job.0 as usize) {
            (state.spared_until, state.left) = (self.now + SPARED, None);
            // What is left is what is there now, not what somebody who begins anew will have.
            self.timers.bring_forward(self.group_item(job), self.now);
            self.deadline = self.now;
        }
        self.lose_job(job);
    }

    /// Has all jobs read that could give way for this target.
    pub(super) fn sample_jobs(&mut self, target: Target, snap: &Snapshot) {
        let of = owner_of(target, snap);
        for slot in (0u32..).take(self.groups.len()).map(GroupSlot) {
            if let Some(unit) = self.unit_of_job(slot, target, of, snap) {
                self.timers.bring_forward(self.group_item(slot), self.now);
                self.timers.bring_forward(self.group_item(unit), self.now);
            }
        }
    }

    fn read_meter(&mut self, target: Target) {
        match target {
            Target::Host => self.timers.bring_forward(self.host_item(), self.now),
            Target::Group(_, slot) => self.timers.bring_forward(self.group_item(slot), self.now),
            Target::Process(..) => {}
        }
    }

    fn choose_job(&mut self, target: Target, since: Time, snap: &Snapshot) -> Choice {
        let mut choice = Choice { ranking: Ranking::of_jobs(), stale: false, unknown: false };
        let of = owner_of(target, snap);
        self.indivisible.clear();
        for slot in (0u32..).take(self.groups.len()).map(GroupSlot) {
            let Some(unit) = self.unit_of_job(slot, target, of, snap) else { continue };
            let (Some(job), Some(row)) = (snap.group(slot), snap.group(unit)) else { continue };
            let Some(worth) = self.worth_for(slot, of) else { continue };
            choice.ranking.considered += 1;
            choice.stale |= row.read_at < since;
            let Some(usage) = row.usage else {
                choice.unknown = true;
                continue;
            };
            let wish = job.preference.counts(job.owner, of);
            let (group, priority, reservation) = (row.id, worth.priority, worth.reservation);
            let new = Contender { group, usage, reservation, priority, slot: unit, wish };
            let room = unit != slot && self.indivisible.len() < MOST_INDIVISIBLE;
            match self.indivisible.iter_mut().find(|other| unit != slot && other.slot == unit) {
                Some(other) => other.join(&new),
                None if room => self.indivisible.push(new),
                // Of more than that each job in them stands for itself.
                None => self.offer(&new, &mut choice.ranking),
            }
        }
        for job in &self.indivisible {
            self.offer(job, &mut choice.ranking);
        }
        choice
    }

    /// Ranks one that may be taken and holds something.
    fn offer(&self, job: &Contender, ranking: &mut Ranking) {
        let state = &self.groups[job.slot.0 as usize];
        let spared = state.spared_until > self.now && state.left.is_none_or(|left| job.usage <= left + STIRS);
        if spared || job.wish == Some(Wish::Omit) {
            ranking.protected += 1;
        } else if job.usage.0 > 0 {
            ranking.offer_job(*job);
        }
    }

    /// What a job is worth in a shortage of a group with this owner. What a user has said of his groups decides among his, and not against others:
    /// as with [`crate::jobs::Preference::counts`].
    fn worth_for(&self, slot: GroupSlot, of: Option<u32>) -> Option<Worth> {
        let state = &self.groups[slot.0 as usize];
        let users = state.users_worth.filter(|&(user, _)| of == Some(user));
        users.map(|(_, worth)| worth).or(state.worth)
    }

    /// Which group dies with a job that could give way for this target: itself, or the outermost around it, up to the target's, that is
    /// indivisible. `None`: it is no job, or not one that is asked in a shortage of a group with this owner.
    fn unit_of_job(
        &self,
        slot: GroupSlot,
        target: Target,
        of: Option<u32>,
        snap: &Snapshot,
    ) -> Option<GroupSlot> {
        let is_job = |slot: GroupSlot| {
            let state = &self.groups[slot.0 as usize];
            let row = snap.group(slot).filter(|row| !row.gone && Some(row.id) == state.id);
            row.is_some() && self.worth_for(slot, of).is_some()
        };
        if !is_job(slot) {
            return None;
        }
        let top = match target {
            Target::Group(_, top) => Some(top),
            _ => None,
        };
        let (mut unit, mut found) = (slot, top.is_none());
        for above in self.tree.upward(Some(slot)) {
            let row = snap.group(above)?;
            if row.oom_group == Some(true) && *row.path != *b"/" {
                unit = above;
            }
            if Some(above) == top {
                // A job is not asked for its own sake.
                found = above != slot;
                break;
            }
            if above != slot && is_job(above) {
                return None;
            }
        }
        found.then_some(unit)
    }
}

/// Whose shortage it is; the host is root's.
fn owner_of(target: Target, snap: &Snapshot) -> Option<u32> {
    match target {
        Target::Group(_, slot) => snap.group(slot).and_then(|row| row.owner),
        _ => Some(0),
    }
}
