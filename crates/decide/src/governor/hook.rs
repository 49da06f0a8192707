//! The step that has a program of the administrator's run. The ladder stands still while it runs, and afterwards while what it frees comes back, for
//! [`SETTLED`] after the last of it and [`SETTLES`] at the most. Whatever comes of it, and if there is never word of it, the ladder goes on then.
//!
//! A program ends by itself or at its time, not with its episode: who is relieved by half of what it does is not left with the other half undone. So the
//! next episode of the same group may find it running, and waits for it before its own is started.

use std::time::Duration;

use crate::decision::{DecisionId, Decisions, Order, Outcome, Report, Target};
use crate::hook::{Helper, Hook, HookView, Run};
use crate::snapshot::GroupId;
use crate::units::{Bytes, Time};

use super::Governor;
use super::episode::Episode;
use super::judge::Excess;
use super::ladder::Step;
use super::report::{Sent, What};

/// Memory on its way back is waited for no longer than this after the program's time...
pub const SETTLES: Duration = Duration::from_secs(2);
/// ...and after the program has ended no longer than this without any having come.
pub const SETTLED: Duration = Duration::from_millis(500);
/// Less than this is not on its way back: it comes and goes.
const SOME: Bytes = Bytes::kib(256);
/// Programs that are known to run. What carries decisions out runs fewer.
const MOST: usize = 64;

/// Who helps in an episode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hooked {
    by_handler: bool,
    id: DecisionId,
    at: Time,
    within: Duration,
    /// The ladder waits for it.
    holds: bool,
    ended: Option<Time>,
    run: Option<Run>,
    /// The least its meter was since it began, and since when it is that.
    least: Bytes,
    fell_at: Time,
}

impl Hooked {
    pub fn view(self) -> HookView {
        let Self { by_handler, id, at, within, run, .. } = self;
        HookView { by_handler, id, since: at, until: at + within, run }
    }

    /// When the ladder goes on, as far as is known.
    fn goes_on_at(&self) -> Time {
        let most = self.at + self.within + SETTLES;
        self.ended.map_or(most, |ended| most.min(ended.max(self.fell_at) + SETTLED))
    }
}

impl Episode {
    /// Whether the ladder stands still for a program.
    pub(super) fn waits_for_hook(&self) -> bool {
        self.hook.is_some_and(|hooked| hooked.holds)
    }
}

/// Who has a program that runs, and when there is no word of it to be had any more.
#[derive(Debug)]
pub(super) struct Running(Vec<(GroupId, DecisionId, Time)>);

impl Running {
    pub fn new() -> Self {
        Self(Vec::with_capacity(MOST))
    }

    /// Whether one may be started for this group.
    fn has_room_for(&mut self, group: GroupId, now: Time) -> bool {
        self.0.retain(|&(_, _, until)| now < until);
        self.0.len() < self.0.capacity() && self.0.iter().all(|&(other, ..)| other != group)
    }

    /// Takes note of what came of one; whether that was the end of it.
    pub fn end(&mut self, report: &Report) -> bool {
        let before = self.0.len();
        if report.outcome != Outcome::Begun {
            self.0.retain(|&(_, id, _)| id != report.decision);
        }
        self.0.len() < before
    }
}

impl Governor {
    /// Has a program started, or the group's handler told, once nobody is at it for the group any more.
    pub(super) fn begin_hook(
        &mut self,
        episode: &mut Episode,
        step: u8,
        hook: &Hook,
        excess: &Excess,
        out: &mut Decisions,
    ) -> Step {
        let Target::Group(group, _) = episode.subject() else { return Step::Failed };
        if !self.hooks.has_room_for(group, self.now) {
            return Step::Waits;
        }
        let Some(id) = self.emit(episode, step, Order::Hook, excess.reason, What::Begin, out) else {
            return Step::Waits;
        };
        let (at, within, by_handler) = (self.now, hook.within, hook.by == Helper::Handler);
        self.hooks.0.push((group, id, at + within + SETTLES));
        let (holds, least) = (true, excess.value);
        let hooked = Hooked { by_handler, id, at, within, holds, ended: None, run: None, least, fell_at: at };
        episode.hook = Some(hooked);
        Step::Began
    }

    /// Sees memory come back, and lets the ladder go on when that has settled.
    pub(super) fn attend_hook(&mut self, episode: &mut Episode) {
        let Some(hooked) = episode.hook.as_mut().filter(|hooked| hooked.holds) else { return };
        if let Some(excess) = episode.over
            && excess.value + SOME <= hooked.least
        {
            (hooked.least, hooked.fell_at) = (excess.value, self.now);
        }
        hooked.holds = self.now < hooked.goes_on_at();
        if hooked.holds {
            self.deadline = self.deadline.min(hooked.goes_on_at());
        }
    }

    /// It has ended, or was not started at all: then the next step does not wait.
    pub(super) fn hook_ended(&mut self, sent: Sent, outcome: Outcome) {
        let now = self.now;
        let Some(episode) = self.episodes.get_mut(sent.slot).filter(|e| e.id == sent.episode) else { return };
        let Some(hooked) = episode.hook.as_mut().filter(|hooked| hooked.id == sent.id) else { return };
        hooked.ended = Some(now);
        match outcome {
            Outcome::Ran(run) => hooked.run = Some(run),
            // Nothing was touched, and nothing comes back.
            Outcome::DryRun => hooked.holds = false,
            _ => {
                hooked.holds = false;
                self.hurry(sent);
            }
        }
        self.deadline = now;
    }
}
