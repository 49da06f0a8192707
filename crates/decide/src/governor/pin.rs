//! The job on which the ladder of the host acts: all its steps but kills of the machine's largest process are done to one job, chosen once.
//!
//! It is the first to give way when the first such step is due, and stays the one: whoever was frozen and asked about is who is killed. When it is dead or gone,
//! or could not be killed, what is in force on it ends, and the ladder goes on for the next job, from the first step that is done to one.

use crate::decision::{DecisionId, Decisions, Order, Ranking, Reason, Target};
use crate::jobs::Contender;
use crate::snapshot::{GroupId, GroupSlot, Snapshot};

use super::Governor;
use super::episode::Episode;
use super::judge::Excess;
use super::ladder::Step;
use super::report::What;

/// A job that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    pub group: GroupId,
    pub slot: GroupSlot,
    /// It is dead, or cannot be killed: another is to be chosen.
    lost: bool,
}

impl Episode {
    /// To whom its steps are done: to its target, or to the job that stands for the host.
    pub fn subject(&self) -> Target {
        self.job.map_or(self.target, |job| Target::Group(job.group, job.slot))
    }
}

impl Governor {
    /// Chooses the job to which the steps of the host's ladder are done, if there is none yet. `Err`: what becomes of the step.
    pub(super) fn pin_job(
        &mut self,
        episode: &mut Episode,
        step: u8,
        excess: &Excess,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Result<(), Step> {
        if episode.job.is_some() {
            return Ok(());
        }
        self.may_take_others(episode, step, false, snap, out)?;
        let (job, ranking) = self.first_to_give_way(episode, step, snap, out)?;
        self.tell_choice(episode, step, &job, excess.reason, ranking, out).ok_or(Step::Waits)?;
        episode.job = Some(Pinned { group: job.group, slot: job.slot, lost: false });
        Ok(())
    }

    /// Puts down which job was chosen, and among whom: what is done to it are decisions of their own.
    pub(super) fn tell_choice(
        &mut self,
        episode: &mut Episode,
        step: u8,
        job: &Contender,
        reason: Reason,
        ranking: Ranking,
        out: &mut Decisions,
    ) -> Option<()> {
        let target = Target::Group(job.group, job.slot);
        self.emit_about(episode, step, (target, Order::Record), (reason, ranking), What::Other, out).map(drop)
    }

    /// Lets go of a job that is dead, gone or cannot be killed; the ladder begins anew for the next.
    pub(super) fn attend_job(&mut self, episode: &mut Episode, snap: &Snapshot, out: &mut Decisions) {
        let Some(job) = episode.job else { return };
        let there = snap.group(job.slot).is_some_and(|row| row.id == job.group && !row.gone);
        if there && !job.lost {
            return;
        }
        for order in episode.ends() {
            if self.end_all(episode, order, Reason::TargetGone, out).is_none() {
                self.deadline = self.now;
                return;
            }
        }
        (episode.job, episode.asked, episode.hook) = (None, None, None);
        (episode.refused, episode.condemned, episode.hurry) = (0, 0, false);
        episode.anew = DecisionId(self.next_decision);
        let first = (0..episode.next)
            .find(|&step| self.step_of(episode, step).is_some_and(|step| step.action.is_done_to_groups()));
        if let Some(first) = first {
            (episode.next, episode.base) = (first, self.now);
        }
    }

    /// Whoever acts on this job is to choose another.
    pub(super) fn lose_job(&mut self, job: GroupSlot) {
        for at in 0..self.episodes.live.len() {
            let Some(episode) = self.episodes.get_mut(self.episodes.live[at]) else { continue };
            if let Some(pinned) = episode.job.as_mut().filter(|pinned| pinned.slot == job) {
                pinned.lost = true;
            }
        }
    }
}
