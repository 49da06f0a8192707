//! The kill step: may it be now, and whom does it take.

use std::time::Duration;

use crate::control::{ControlAction, MemControl};
use crate::decision::{Candidate, Decisions, Order, Protected, Reason, Take, Target};
use crate::policy::{Meter, Over, Rule, Scope, Takes, Victim};
use crate::snapshot::{Group, GroupSlot, ProcessId, ProcessSlot, Snapshot};
use crate::units::Bytes;
use crate::victim::{self, Selection};

use super::brake::{Brake, Branch, Elsewhere, Sake};
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
        let group = match (episode.target, victim) {
            (_, Victim::LowestPriority(takes)) => {
                return self.kill_job(episode, step, takes, excess, snap, out);
            }
            // Whoever was asked about stands for the host.
            (Target::Host, Victim::Group) => {
                return self.kill_job(episode, step, Takes::Job, excess, snap, out);
            }
            (Target::Host, Victim::Largest) => return self.kill_of_machine(episode, step, excess, snap, out),
            (Target::Group(_, group), _) => Some(group),
            (Target::Process(_, process), _) => self.tree.group_of(process),
        };
        let (take, selection) = self.select(episode, victim, snap);
        let whole = take == Take::Whole;
        if !whole && let Some(why) = selection.hopeless() {
            return self.withhold(episode, step, Reason::Protected(why), out);
        }
        if let Target::Process(who, _) = episode.target
            && self.killed_inside(episode, snap)
        {
            return self.killed_already(episode, step, who, excess, selection, out);
        }
        if let Some(brake) = self.kills.brake(self.now, Branch::Of(group), snap, &self.tree) {
            return self.braked(episode, step, brake, out);
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
        self.kills.ordered(self.now, id, Sake::Own, group, expected, snap);
        Step::Began
    }

    /// Whether the kernel has killed its process, and that is still to be decided on.
    pub(super) fn killed_inside(&self, episode: &Episode, snap: &Snapshot) -> bool {
        let Target::Process(who, slot) = episode.target else { return false };
        snap.process(slot).is_some_and(|row| row.killed) && self.kills.is_undecided(who)
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

    /// How many kills the kernel may make by itself from now on, of processes that stand under [`super::StandingAction::Kill`].
    /// What it has not used has to be taken back before a [`Governor::step`] that may order one itself: see [`Governor::may_kill`].
    pub fn kill_allowance(&mut self) -> u32 {
        self.kills.allowance(self.now)
    }

    /// Whether the next [`Governor::step`] on this snapshot may order a kill. Rather too often than too seldom: while an episode runs whose
    /// ladder has one, and when a fresh row is over a line that may begin such an episode. Otherwise the kernel keeps its
    /// allowance, so that whoever crosses his line during a tick meets it in that instant too.
    pub fn may_kill(&self, snap: &Snapshot) -> bool {
        let killing = |rule: &&Rule| rule.steps.iter().any(|step| step.action.may_kill());
        let by_control = |(_, control): (ProcessId, MemControl)| control.action == ControlAction::Kill;
        if !self.policy.rules.iter().any(|rule| killing(&rule)) && !self.controls().any(by_control) {
            return false;
        }
        // A control that has just been set is weighed wherever its process was last seen.
        !self.new_controls.is_empty()
            || self.episodes_may_kill()
            || snap.fresh_memory
                && self.policy.rules.iter().any(|rule| rule.scope == Scope::Host && killing(&rule))
            || snap.fresh_groups.iter().filter_map(|&slot| snap.group(slot)).any(|row| self.crosses(row))
            || snap.fresh_processes.iter().filter_map(|&slot| snap.process(slot)).any(|row| {
                let rules = self.policy.rules.iter().filter(killing).map(|rule| rule.when);
                let controls = self.controls().filter(|&one| by_control(one));
                rules.chain(controls.filter_map(|(_, control)| control.condition())).any(|condition| {
                    condition.rss.is_none_or(|rss| rss.meter(row).is_some_and(|value| value > rss.over))
                })
            })
    }

    fn episodes_may_kill(&self) -> bool {
        let kills = |episode: &Episode| {
            let steps = (0..).map_while(|step| self.step_of(episode, step));
            steps.into_iter().any(|step| step.action.may_kill())
        };
        self.episodes.live.iter().filter_map(|&slot| self.episodes.get(slot)).any(kills)
    }

    /// Whether a group is over any line at which it, or whoever is in it, is weighed.
    fn crosses(&self, row: &Group) -> bool {
        let lines = self.policy.rules.iter().filter_map(|rule| rule.when.group);
        let reserve = self.policy.oom_reserve(&row.path);
        let over = |over: Over| {
            over.line_with(row, reserve).zip(over.meter(row)).is_some_and(|(line, value)| value > line)
        };
        // Controls are over from memory.high on.
        lines.chain([Over::High { plus: Bytes(0) }]).any(over)
    }

    /// Word of kills that the kernel has made, or may have made, and of which no process is known.
    pub fn kill_elsewhere(&mut self, word: Elsewhere) {
        self.kills.elsewhere(self.now, word);
    }

    /// A kill has to wait or to be left: said once.
    pub(super) fn braked(
        &mut self,
        episode: &mut Episode,
        step: u8,
        brake: Brake,
        out: &mut Decisions,
    ) -> Step {
        match brake {
            Brake::Freeing(expected) => {
                if !episode.noted_freeing {
                    let reason = Reason::FreeingPending { expected };
                    episode.noted_freeing =
                        self.emit(episode, step, Order::Record, reason, What::Other, out).is_some();
                }
                Step::Waits
            }
            Brake::TooMany(_) if episode.noted_budget => Step::Began,
            Brake::TooMany(reason) => {
                episode.noted_budget = self.withhold(episode, step, reason, out) != Step::Waits;
                if episode.noted_budget { Step::Began } else { Step::Waits }
            }
        }
    }

    /// Something that is recorded instead of being done.
    pub(super) fn withhold(
        &mut self,
        episode: &mut Episode,
        step: u8,
        reason: Reason,
        out: &mut Decisions,
    ) -> Step {
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
            Target::Host => (Take::One, selection),
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
