//! What came of decisions: delivered signals are spent, refused steps hurry the ladder on, deaths are credited.
//!
//! The decisions worth an answer are remembered in a ring, ordered by their number; the oldest make room.

use crate::control::ControlAction;
use crate::decision::{DecisionId, EpisodeId, Outcome, Report, Source, Target};
use crate::policy::Action;
use crate::snapshot::GroupSlot;

use super::episode::Episode;
use super::{Governor, REPEAT};

/// What kind of decision it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Begin,
    Kept,
    Signal,
    Kill,
    /// Of this job.
    KillJob(GroupSlot),
    /// Of part of this job.
    KillIn(GroupSlot),
    Other,
}

/// A decision whose outcome matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub id: DecisionId,
    /// Its episode, and where it stood.
    pub slot: u32,
    pub episode: EpisodeId,
    pub step: u8,
    pub what: What,
    pub answered: bool,
}

impl Sent {
    /// Whether word of it still is about what this episode is doing.
    fn is_of(&self, episode: &Episode) -> bool {
        episode.id == self.episode && self.id >= episode.anew
    }
}

impl Governor {
    pub(super) fn remember(&mut self, sent: Sent) {
        if self.sent.len() == self.sent.capacity() {
            let oldest = self.sent.pop_front();
            self.lost.answers += u64::from(oldest.is_some_and(|sent| !sent.answered));
        }
        self.sent.push_back(sent);
    }

    /// What came of a decision. May come more than once for one decision: a kill is done first and dead later.
    pub fn report(&mut self, report: &Report) {
        let hook_ended = self.hooks.end(report);
        let Ok(at) = self.sent.binary_search_by_key(&report.decision, |sent| sent.id) else { return };
        self.sent[at].answered = true;
        let sent = self.sent[at];
        // Who has ended by himself is missing from a job, and is not the job.
        let vain = match (sent.what, report.outcome) {
            (What::KillJob(job), Outcome::Gone) => Some(job),
            (What::KillJob(job) | What::KillIn(job), outcome) => {
                let vain = matches!(outcome, Outcome::Refused { .. } | Outcome::Nothing | Outcome::Withheld);
                vain.then_some(job)
            }
            _ => None,
        };
        if let Some(job) = vain {
            self.spare_job(job);
            self.kills.failed(sent.id);
            return;
        }
        if let (What::KillJob(job), Outcome::Dead { .. }) = (sent.what, report.outcome) {
            self.job_is_dead(job);
        }
        if hook_ended {
            self.hook_ended(sent, report.outcome);
            return;
        }
        match report.outcome {
            Outcome::Done { .. } | Outcome::Partial { .. } => self.reached(sent),
            Outcome::Dead { expected, .. } => self.kills.dead(self.now, sent.id, expected),
            // What is pinned stays pinned: the next step does not wait, and this one is not kept up.
            Outcome::Refused { .. } | Outcome::Pinned { .. } => self.refused(sent),
            // A loan is not kept up: it was never made.
            Outcome::LedgerFull if self.lends(sent) => self.refused(sent),
            // The next step does not wait either, but this one is kept up: there may be room again.
            Outcome::LedgerFull => self.hurry(sent),
            Outcome::DryRun => self.rehearsed(sent),
            Outcome::Nothing | Outcome::Gone | Outcome::Withheld => self.kills.failed(sent.id),
            // Of a program that is no longer waited for, or word that one runs.
            Outcome::Begun | Outcome::Ran(_) => {}
        }
    }

    fn lends(&self, sent: Sent) -> bool {
        let episode = self.episodes.get(sent.slot).filter(|e| e.id == sent.episode);
        let step = episode.and_then(|episode| self.step_of(episode, sent.step));
        step.is_some_and(|step| matches!(step.action, Action::Lend(_)))
    }

    /// A one-shot signal of a control is spent once it was delivered, unless it was set again meanwhile.
    fn reached(&mut self, sent: Sent) {
        if sent.what != What::Signal {
            return;
        }
        let Some(episode) = self.episodes.get(sent.slot).filter(|e| e.id == sent.episode) else { return };
        let (Source::Control, Target::Process(who, _), Some((control, serial))) =
            (episode.source, episode.target, episode.control)
        else {
            return;
        };
        let one_shot =
            control.action == ControlAction::Signal && !control.flags.has(crate::control::Flags::SIGCONT);
        if let Some(set) = self.controls.get_mut(who).filter(|set| one_shot && set.serial == serial) {
            set.control.signal = 0;
        }
    }

    /// None was reached: the next step does not wait, and a one-shot signal of a control is tried again.
    fn refused(&mut self, sent: Sent) {
        self.kills.failed(sent.id);
        let Some(episode) = self.episodes.get_mut(sent.slot).filter(|e| sent.is_of(e)) else { return };
        match sent.what {
            What::Begin => episode.refused |= 1 << sent.step,
            What::Signal if episode.source == Source::Control => {
                episode.retry_at = Some(episode.ordered_at[usize::from(sent.step)] + REPEAT);
            }
            _ => {}
        }
        self.hurry(sent);
    }

    pub(super) fn hurry(&mut self, sent: Sent) {
        let Some(episode) = self.episodes.get_mut(sent.slot).filter(|e| sent.is_of(e)) else { return };
        if episode.next == sent.step + 1 {
            episode.withdraw_question(sent.step);
            episode.hurry = true;
            self.deadline = self.now;
        }
    }

    /// Nothing was touched: nothing comes back, and a kill is not rehearsed again in the same episode.
    fn rehearsed(&mut self, sent: Sent) {
        self.kills.failed(sent.id);
        if let Some(episode) = self.episodes.get_mut(sent.slot).filter(|e| e.id == sent.episode) {
            episode.rehearsed |= matches!(sent.what, What::Kill | What::KillJob(_) | What::KillIn(_));
        }
    }
}
