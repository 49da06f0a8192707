//! The kill step: may it be now, and whom does it take.

use std::time::Duration;

use crate::decision::{Candidate, Decisions, Order, Protected, Reason, Take, Target};
use crate::policy::{Meter, Victim};
use crate::snapshot::{GroupSlot, ProcessId, ProcessSlot, Snapshot};
use crate::victim::{self, Selection};

use super::brake::{Brake, Elsewhere};
use super::episode::{Episode, held};
use super::judge::Excess;
use super::ladder::Step;
use super::report::What;
use super::{Governor, REPEAT};

impl Governor {
    /// A kill, if it may be: of the whole target, or of one chosen from a group.
    pub(super) fn kill(
        &mut self,
        episode: &mut Episode,
        step: u8,
        victim: Victim,
        excess: &Excess,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Step {
        let group = match episode.target {
            Target::Group(_, group) => Some(group),
            Target::Process(_, process) => self.tree.group_of(process),
        };
        let (take, selection) = self.select(episode, victim, snap);
        let whole = take == Take::Whole;
        if !whole && let Some(why) = selection.hopeless() {
            return self.withhold(episode, step, Reason::Protected(why), out);
        }
        if let Target::Process(who, process) = episode.target
            && snap.process(process).is_some_and(|row| row.killed)
            && self.kills.is_undecided(who)
        {
            return self.killed_already(episode, step, who, excess, selection, out);
        }
        match self.kills.brake(self.now, group, snap, &self.tree) {
            Some(Brake::Freeing(expected)) => {
                if !episode.noted_freeing {
                    let reason = Reason::FreeingPending { expected };
                    episode.noted_freeing =
                        self.emit(episode, step, Order::Record, reason, What::Other, out).is_some();
                }
                return Step::Waits;
            }
            Some(Brake::TooMany(_)) if episode.noted_budget => return Step::Began,
            Some(Brake::TooMany(reason)) => {
                let noted = self.withhold(episode, step, reason, out) != Step::Waits;
                episode.noted_budget = noted;
                return if noted { Step::Began } else { Step::Waits };
            }
            None => {}
        }
        let ranking = selection.ranking;
        let best = match take {
            Take::Family(_) => Some(selection.together),
            _ => ranking.iter().next().map(|c| c.rss),
        };
        let Some(expected) = best.or(whole.then_some(held(Some(excess)))) else {
            // Nobody can be ranked yet: rows and readings are on their way. Not for ever: the ladder must go on, but
            // at its own time, because what is not known is no reason to hurry.
            let patience =
                episode.base + self.step_of(episode, step).map_or(Duration::ZERO, |s| s.after) + REPEAT;
            return match selection.short {
                _ if self.now < patience => Step::Waits,
                Some((most, needed)) => {
                    let reason = Reason::NobodyHoldsEnough { most, needed };
                    if self.withhold(episode, step, reason, out) == Step::Waits {
                        Step::Waits
                    } else {
                        Step::Began
                    }
                }
                None => Step::Began,
            };
        };
        let Some(id) = self.emit_ranked(episode, step, Order::Kill { take }, excess.reason, ranking, out)
        else {
            return Step::Waits;
        };
        episode.noted_freeing = false;
        self.kills.ordered(self.now, id, group, expected, snap);
        Step::Began
    }

    /// The kernel has killed it in the instant of the crossing: what would be ordered is put down as an order. The brakes were asked
    /// before ([`Governor::kill_allowance`]), and it is counted already.
    fn killed_already(
        &mut self,
        episode: &mut Episode,
        step: u8,
        who: ProcessId,
        excess: &Excess,
        selection: Selection,
        out: &mut Decisions,
    ) -> Step {
        let order = Order::Kill { take: Take::Whole };
        match self.emit_ranked(episode, step, order, excess.reason, selection.ranking, out) {
            Some(id) => {
                self.kills.decided(who, id);
                Step::Began
            }
            None => Step::Waits,
        }
    }

    /// Counts whom the kernel has killed since the last tick, before anything is decided: nobody else in that branch is killed in this one.
    pub(super) fn count_killed(&mut self, snap: &Snapshot) {
        for &slot in &snap.fresh_processes {
            if let Some(row) = snap.process(slot).filter(|row| row.killed) {
                let expected = victim::resident(row).unwrap_or_default();
                self.kills.happened(self.now, row.id, self.tree.group_of(slot), expected, snap);
            }
        }
    }

    /// How many kills the kernel may make by itself until the next tick, of processes that stand under [`super::StandingAction::Kill`].
    /// What it has not used has to be taken back before the next [`Governor::step`].
    pub fn kill_allowance(&mut self) -> u32 {
        self.kills.allowance(self.now)
    }

    /// Word of kills that the kernel has made, or may have made, and of which no process is known.
    pub fn kill_elsewhere(&mut self, word: Elsewhere) {
        self.kills.elsewhere(self.now, word);
    }

    /// Something that is recorded instead of being done.
    fn withhold(&mut self, episode: &mut Episode, step: u8, reason: Reason, out: &mut Decisions) -> Step {
        // Said once: a last step comes back here each second.
        let said = |last: Reason| last == reason || both_short(last, reason);
        if episode.last.is_some_and(|(order, last)| order == Order::Record && said(last)) {
            return Step::Failed;
        }
        match self.emit(episode, step, Order::Record, reason, What::Other, out) {
            Some(_) => Step::Failed,
            None => Step::Waits,
        }
    }

    /// Whom a kill takes: the whole target, or the ranking of those below it.
    fn select(&mut self, episode: &Episode, victim: Victim, snap: &Snapshot) -> (Take, Selection) {
        let mut selection = Selection::default();
        match episode.target {
            Target::Process(who, slot) => {
                let Some(row) = snap.process(slot) else { return (Take::One, selection) };
                if let Some(why) = victim::unkillable(row) {
                    selection.ranking.considered = 1;
                    selection.ranking.protected = 1;
                    selection.protected = Some(why);
                    return (Take::One, selection);
                }
                let rss = victim::resident(row).unwrap_or(held(episode.over.as_ref()));
                selection.ranking.considered = 1;
                selection.ranking.offer(Candidate { process: who, slot, rss });
                (Take::Whole, selection)
            }
            Target::Group(_, slot) => {
                let indivisible = snap.group(slot).and_then(|row| row.oom_group) == Some(true);
                if victim == Victim::Group || indivisible {
                    return (Take::Whole, selection);
                }
                if episode.meter == Meter::Kernel {
                    return (self.accuse(episode, slot, snap, &mut selection), selection);
                }
                self.rank(slot, snap, &mut selection);
                (Take::One, selection)
            }
        }
    }

    fn rank(&mut self, group: GroupSlot, snap: &Snapshot, selection: &mut Selection) {
        let mut walk = self.tree.walk(group);
        while let Some(slot) = self.tree.step(&mut walk) {
            if self.renew_process(slot, snap)
                && let Some(row) = snap.process(slot)
            {
                selection.consider(slot, row, self.protection(slot));
            }
        }
    }

    pub(super) fn protection(&self, slot: ProcessSlot) -> Option<Protected> {
        self.processes[slot.0 as usize].protected
    }
}

/// The same but for the numbers, which are others each time.
fn both_short(last: Reason, reason: Reason) -> bool {
    let short = |reason| matches!(reason, Reason::NobodyHoldsEnough { .. });
    short(last) && short(reason)
}
