//! Running episodes, tick by tick: relief, the ladder, what is kept up, and the end. Everything an episode remembers changes only
//! after its decision has found room, so that an overflow delays and loses nothing.

use crate::decision::{Decisions, Extent, Order, Phase as Keep, Reason, Source, Target};
use crate::policy::{Action, MAX_STEPS, Meter, Reclaim, Slow, Victim};
use crate::slow::{ALL, Throttle};
use crate::snapshot::Snapshot;
use crate::units::{Bytes, Time};
use crate::working_set::INTERVAL;

use super::Governor;
use super::episode::{Episode, Phase};
use super::judge::{Excess, Verdict, above_high, judge};
use super::report::What;

/// What became of a step that was due.
#[derive(PartialEq)]
pub(super) enum Step {
    /// It began: the next counts from here.
    Began,
    /// It came to nothing and will not: the next follows at once.
    Failed,
    /// It must wait, or the decisions have no room.
    Waits,
}

impl Governor {
    /// Moves every episode on, then keeps up what is in force. In this order: when decisions have no room,
    /// a kept-up action can wait a tick, a new one or an end should not.
    pub(super) fn run_episodes(&mut self, snap: &Snapshot, out: &mut Decisions) {
        self.deadline = Time::FAR;
        let mut at = 0;
        while let Some(&slot) = self.episodes.live.get(at) {
            self.advance(slot, snap, out);
            at += usize::from(self.episodes.live.get(at) == Some(&slot));
        }
        self.tally(snap);
        for at in 0..self.episodes.live.len() {
            self.keep_up(self.episodes.live[at], snap, out);
        }
    }

    /// One episode, one tick.
    pub(super) fn advance(&mut self, slot: u32, snap: &Snapshot, out: &mut Decisions) {
        let Some(&(mut episode)) = self.episodes.get(slot) else { return };
        let verdict = self.verdict(&episode, snap);
        if episode.phase == Phase::Running {
            episode.over = match verdict {
                Ok(Verdict::Over(excess)) => Some(excess),
                _ => None,
            };
            match verdict {
                Err(reason) => episode.phase = Phase::Closing(reason),
                Ok(Verdict::Relieved { value, until }) => {
                    episode.phase = Phase::Closing(relieved(&episode, snap, value, until));
                }
                Ok(Verdict::Calm { stalled, until }) => {
                    episode.phase = Phase::Closing(Reason::Calm { stalled, until });
                }
                Ok(Verdict::NoLine) => episode.phase = Phase::Closing(Reason::RuleGone),
                Ok(Verdict::Over(_) | Verdict::InBand | Verdict::Unknown) => {
                    self.go_on(&mut episode, snap, out)
                }
            }
        }
        let keep = match episode.phase {
            Phase::Running => true,
            Phase::Closing(reason) => match self.end(&mut episode, reason, out) {
                Some(()) => {
                    matches!(reason, Reason::Relieved { .. } | Reason::Calm { .. })
                        && self.rests(&episode, snap)
                }
                None => {
                    self.deadline = self.deadline.min(self.now);
                    true
                }
            },
            Phase::AtRest => verdict.is_ok() && self.rests(&episode, snap),
        };
        if keep {
            self.episodes.put(episode);
        } else {
            self.episodes.remove(slot);
        }
    }

    /// How things stand with an episode's target, or why the episode is over whatever the numbers say.
    fn verdict(&mut self, episode: &Episode, snap: &Snapshot) -> Result<Verdict, Reason> {
        let (group, process) = match episode.target {
            Target::Group(id, slot) => {
                let there = self.renew_group(slot, snap) && self.groups[slot.0 as usize].id == Some(id);
                (there.then_some(slot).ok_or(Reason::TargetGone)?.into(), None)
            }
            Target::Process(id, slot) => {
                let there = self.renew_process(slot, snap) && self.processes[slot.0 as usize].id == Some(id);
                let state = &self.processes[slot.0 as usize];
                if !there || state.protected.is_some() {
                    return Err(Reason::TargetGone);
                }
                // It has called exec or moved, and the rule is about others.
                if let Source::Rule(rule) = episode.source
                    && !state.matches.iter().any(|other| other == rule)
                {
                    return Err(Reason::RuleGone);
                }
                (self.tree.group_of(slot), snap.process(slot))
            }
            Target::Host => (None, None),
        };
        let question = self.question_of(episode).ok_or(Reason::RuleGone)?;
        Ok(judge(&question, snap, &self.tree, group, process))
    }

    /// Budgets, the ladder and repetitions of an episode that goes on.
    fn go_on(&mut self, episode: &mut Episode, snap: &Snapshot, out: &mut Decisions) {
        self.attend_job(episode, snap, out);
        self.end_spent_slowdowns(episode, out);
        self.end_due_loans(episode, snap, out);
        self.attend_question(episode, snap, out);
        self.attend_hook(episode);
        if let Some(excess) = episode.over {
            while let Some(step) = self.step_of(episode, episode.next) {
                if self.stands_at_a_question(episode) || episode.waits_for_hook() {
                    break;
                }
                let due = episode.base + step.after;
                if !episode.hurry && self.now < due {
                    self.deadline = self.deadline.min(due);
                    break;
                }
                let at = episode.next;
                let outcome = self.take_step(episode, at, &step.action, &excess, snap, out);
                if outcome == Step::Waits {
                    self.deadline = self.deadline.min(self.now + self.policy.pace.fastest);
                    break;
                }
                episode.hurry = outcome == Step::Failed;
                episode.base = self.now;
                episode.ordered_at[usize::from(at)] = self.now;
                episode.next += 1;
            }
            self.repeat(episode, &excess, snap, out);
        }
        self.look_again_at(episode);
    }

    /// A slowdown is over after its time, helped or not.
    fn end_spent_slowdowns(&mut self, episode: &mut Episode, out: &mut Decisions) {
        for step in bits(episode.slowed) {
            let Some(Action::Slow(Slow { budget, .. })) = self.step_of(episode, step).map(|s| s.action)
            else {
                continue;
            };
            let spent = episode.ordered_at[usize::from(step)] + budget;
            if self.now < spent {
                self.deadline = self.deadline.min(spent);
                continue;
            }
            let order = Order::Slow { phase: Keep::End, share: ALL };
            if self.emit(episode, step, order, Reason::BudgetSpent { budget }, What::Other, out).is_some() {
                episode.slowed &= !(1 << step);
                episode.hurry |= episode.next == step + 1;
            }
        }
    }

    /// Begins a step of the ladder.
    fn take_step(
        &mut self,
        episode: &mut Episode,
        step: u8,
        action: &Action,
        excess: &Excess,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Step {
        if episode.target == Target::Host
            && action.is_done_to_groups()
            && let Err(outcome) = self.pin_job(episode, step, excess, snap, out)
        {
            return outcome;
        }
        let (order, what) = match action {
            Action::Record => (Order::Record, What::Other),
            Action::Deny => (Order::Deny { phase: Keep::Begin, meter: episode.meter }, What::Begin),
            Action::Freeze => {
                // What stands still is not slowed besides: both are done by the same brake.
                let slowed = Order::Slow { phase: Keep::End, share: ALL };
                if self.end_all(episode, slowed, excess.reason, out).is_none() {
                    return Step::Waits;
                }
                (Order::Freeze { phase: Keep::Begin }, What::Begin)
            }
            Action::Slow(slow) => {
                if episode.slowed == 0 {
                    episode.throttle = Throttle::new(self.now, excess.value, self.growth_of(episode));
                }
                let share =
                    episode.throttle.share(excess.value, excess.line, excess.room, slow.budget, slow.floor);
                (Order::Slow { phase: Keep::Begin, share }, What::Begin)
            }
            &Action::Reclaim(Reclaim { share, tolerance, .. }) => {
                // With a tolerance it is not known yet what may go.
                let extent = match tolerance {
                    None => Extent::Down(self.too_much(episode, excess, snap)),
                    Some(_) => Extent::Amount(Bytes(0)),
                };
                let meter = episode.meter;
                (Order::Reclaim { phase: Keep::Begin, meter, extent, share }, What::Begin)
            }
            Action::Squeeze => (Order::Squeeze { phase: Keep::Begin }, What::Begin),
            &Action::Signal { signal, .. } => (Order::Signal { signal }, What::Signal),
            &Action::Lend(lend) => return self.lend(episode, step, lend, excess, snap, out),
            &Action::Kill { victim } => return self.kill(episode, step, victim, excess, snap, out),
            Action::Ask(_) => {
                let slowed = Order::Slow { phase: Keep::End, share: ALL };
                if self.end_all(episode, slowed, excess.reason, out).is_none() {
                    return Step::Waits;
                }
                return self.begin_asking(episode, step, excess, out);
            }
            Action::Hook(hook) => return self.begin_hook(episode, step, hook, excess, out),
        };
        if self.emit(episode, step, order, excess.reason, what, out).is_none() {
            return Step::Waits;
        }
        if let Some(steps) = episode.in_force(&order) {
            *steps |= 1 << step;
        }
        if let Order::Slow { share, .. } = order {
            episode.throttle.set(share);
        }
        Step::Began
    }

    /// Signals that repeat, a refused one-shot signal of a control, and a kill at the end of the ladder that was not enough.
    fn repeat(&mut self, episode: &mut Episode, excess: &Excess, snap: &Snapshot, out: &mut Decisions) {
        for step in 0..episode.next {
            let Some(action) = self.action_of(episode, step) else { continue };
            let ordered = episode.ordered_at[usize::from(step)];
            let due = match action {
                Action::Signal { repeat: Some(repeat), .. } => ordered + repeat,
                Action::Signal { repeat: None, .. } => match episode.retry_at {
                    Some(at) => at,
                    None => continue,
                },
                Action::Kill { .. } => {
                    let last = step + 1 == episode.next;
                    let goes_on = jobs(&action) || self.step_of(episode, step + 1).is_none();
                    let inside = self.killed_inside(episode, snap);
                    if !last || !goes_on || (episode.rehearsed && !inside) {
                        continue;
                    }
                    if inside { self.now } else { ordered + self.kills_again_in(episode, &action) }
                }
                _ => continue,
            };
            if self.now < due {
                self.deadline = self.deadline.min(due);
                continue;
            }
            let taken = match ordered < self.now {
                true => self.take_step(episode, step, &action, excess, snap, out),
                false => Step::Waits,
            };
            if taken != Step::Waits {
                episode.ordered_at[usize::from(step)] = self.now;
                episode.retry_at = None;
            }
            if jobs(&action) {
                // No job is left: the next step does not wait. As long as one is, it counts from the last of them.
                episode.hurry |= taken == Step::Failed;
                if taken == Step::Began && matches!(episode.last, Some((Order::Kill { .. }, _))) {
                    episode.base = self.now;
                }
            }
            self.deadline = self.deadline.min(self.now + self.policy.pace.fastest);
        }
    }

    /// Ends what is in force and says that the episode is over; `None` if there was no room for all of it.
    fn end(&mut self, episode: &mut Episode, reason: Reason, out: &mut Decisions) -> Option<()> {
        for order in episode.ends() {
            self.end_all(episode, order, reason, out)?;
        }
        if episode.spoken {
            let last = episode.next.saturating_sub(1);
            self.emit(episode, last, Order::Relieved, reason, What::Other, out)?;
        }
        episode.phase = Phase::AtRest;
        (episode.over, episode.spoken, episode.last, episode.loan) = (None, false, None, None);
        (episode.asked, episode.hook, episode.job, episode.sought) = (None, None, None, None);
        Some(())
    }

    /// Ends all steps of one lasting action.
    pub(super) fn end_all(
        &mut self,
        episode: &mut Episode,
        order: Order,
        reason: Reason,
        out: &mut Decisions,
    ) -> Option<()> {
        for step in bits(episode.in_force(&order).copied().unwrap_or(0)) {
            self.emit(episode, step, order, reason, What::Other, out)?;
            if let Some(steps) = episode.in_force(&order) {
                *steps &= !(1 << step);
            }
        }
        Some(())
    }

    /// Whether an episode that is over is kept, because its log line is not due again yet.
    fn rests(&self, episode: &Episode, snap: &Snapshot) -> bool {
        let group = match episode.target {
            Target::Group(_, group) => Some(group),
            Target::Process(_, process) => self.tree.group_of(process),
            Target::Host => None,
        };
        episode.logged
            && self.question_of(episode).is_some_and(|question| {
                // Not known: as it was, and it was above.
                above_high(&question, snap, &self.tree, group).unwrap_or(true)
            })
    }

    /// Lasting actions that were not begun in this tick are kept up while over.
    fn keep_up(&mut self, slot: u32, snap: &Snapshot, out: &mut Decisions) {
        let Some(&(mut episode)) = self.episodes.get(slot) else { return };
        let (Phase::Running, Some(excess)) = (episode.phase, episode.over) else { return };
        let begun_now = |step: u8| episode.ordered_at[usize::from(step)] == self.now;
        let kept = |steps: u8| bits(steps & !episode.refused).filter(|&step| !begun_now(step));
        let (denied, slowed) = (mask(kept(episode.denied)), mask(kept(episode.slowed)));
        let (frozen, reclaimed) = (mask(kept(episode.frozen)), mask(kept(episode.reclaimed)));
        let squeezed = mask(kept(episode.squeezed));
        for step in bits(denied) {
            let order = Order::Deny { phase: Keep::Sustain, meter: episode.meter };
            self.emit(&mut episode, step, order, excess.reason, What::Kept, out);
        }
        for step in bits(frozen) {
            let order = Order::Freeze { phase: Keep::Sustain };
            self.emit(&mut episode, step, order, excess.reason, What::Kept, out);
        }
        for step in bits(squeezed) {
            let order = Order::Squeeze { phase: Keep::Sustain };
            self.emit(&mut episode, step, order, excess.reason, What::Kept, out);
        }
        if slowed != 0 {
            episode.throttle.observe(self.now, excess.value);
        }
        for step in bits(slowed) {
            let Some(Action::Slow(slow)) = self.step_of(&episode, step).map(|s| s.action) else { continue };
            let left = self.left(&episode, step, slow.budget);
            let share = episode.throttle.share(excess.value, excess.line, excess.room, left, slow.floor);
            let order = Order::Slow { phase: Keep::Sustain, share };
            if self.emit(&mut episode, step, order, excess.reason, What::Kept, out).is_some() {
                episode.throttle.set(share);
            }
        }
        for step in bits(reclaimed) {
            let Some(Action::Reclaim(reclaim)) = self.step_of(&episode, step).map(|s| s.action) else {
                continue;
            };
            let too_much = self.too_much(&episode, &excess, snap);
            let Some(extent) = self.sought(&mut episode, &reclaim, too_much, snap) else { continue };
            let (meter, share) = (episode.meter, reclaim.share);
            let order = Order::Reclaim { phase: Keep::Sustain, meter, extent, share };
            self.emit(&mut episode, step, order, excess.reason, What::Kept, out);
        }
        self.episodes.put(episode);
    }

    /// How far the meter is over the level at which an episode is relieved.
    pub(super) fn too_much(&self, episode: &Episode, excess: &Excess, snap: &Snapshot) -> Bytes {
        let question = self.question_of(episode);
        let until = question.map_or(excess.line, |question| question.relief(excess.line, &snap.host));
        excess.value.saturating_sub(until)
    }

    /// The row an episode hangs on is read at the fastest pace while there is something to be done or to be ended, and
    /// an eighth of it when only the relief is waited for.
    fn look_again_at(&mut self, episode: &Episode) {
        let busy = episode.denied
            | episode.frozen
            | episode.slowed
            | episode.reclaimed
            | episode.lent
            | episode.squeezed
            != 0
            || self.step_of(episode, episode.next).is_some() && !self.stands_at_a_question(episode);
        let pace = self.policy.pace.fastest * if busy { 1 } else { 8 };
        let pace = if self.is_patient(episode) { INTERVAL } else { pace };
        let at = self.after(pace.min(self.policy.pace.slowest));
        let item = match episode.target {
            Target::Group(_, slot) => {
                if self.may_choose(episode) {
                    self.groups[slot.0 as usize].ranks_at = Some(self.now);
                }
                self.group_item(slot)
            }
            Target::Process(_, slot) => self.process_item(slot),
            Target::Host => {
                if self.may_choose(episode) {
                    self.host.ranks_at = Some(self.now);
                }
                if let Some(job) = episode.job {
                    self.timers.bring_forward(self.group_item(job.slot), at);
                }
                self.host_item()
            }
        };
        self.timers.bring_forward(item, at);
        if self.needs_host(episode) {
            self.timers.bring_forward(self.host_item(), at);
        }
    }
}

/// Whether this takes one job after the other.
const fn jobs(action: &Action) -> bool {
    matches!(action, Action::Kill { victim: Victim::LowestPriority(_) })
}

/// Relief, in the meter's own terms: of what is available more is better.
fn relieved(episode: &Episode, snap: &Snapshot, value: Bytes, until: Bytes) -> Reason {
    let all = match episode.target {
        _ if episode.meter != Meter::Available => None,
        Target::Host => snap.host.memory,
        Target::Group(_, slot) => snap.group(slot).and_then(|row| row.max?.bytes()),
        Target::Process(..) => None,
    };
    match all {
        Some(all) => Reason::Recovered { available: all - value, until: all - until },
        None => Reason::Relieved { value, until },
    }
}

/// The steps in a set of bits.
pub(super) fn bits(set: u8) -> impl Iterator<Item = u8> + Clone {
    (0u8..).take(MAX_STEPS).filter(move |step| set & (1 << step) != 0)
}

fn mask(steps: impl Iterator<Item = u8>) -> u8 {
    steps.fold(0, |set, step| set | 1 << step)
}
