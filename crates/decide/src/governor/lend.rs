//! Lending: a group's hard limit is raised for a while, from what the host has to spare. Whether it has is asked of a reading of this very moment, less
//! what others were lent and have not used yet: nobody is lent what is promised already.
//!
//! The lines of the rule that lends stay where they were without the loan: else `over = "high"` would be relieved by the raised `memory.high`, the loan
//! taken back, the line met again, and so on.

use crate::decision::{Decisions, Order, Phase, Reason, Target};
use crate::policy::{Action, Lend};
use crate::snapshot::{Group, Snapshot};
use crate::units::{Bytes, Limit};

use super::episode::Episode;
use super::judge::Excess;
use super::ladder::{Step, bits};
use super::report::What;
use super::{Governor, REPEAT};

/// What a group was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loan {
    /// So much.
    pub amount: Bytes,
    /// Its limits before.
    max: Option<Limit>,
    high: Option<Limit>,
}

impl Loan {
    /// Where `memory.high` would be without it.
    pub fn own_high(&self, row: &Group) -> Option<Limit> {
        row.high.map(|now| self.own(self.high, now))
    }

    /// Where `memory.max` would be without it.
    pub fn own_max(&self, row: &Group) -> Option<Limit> {
        row.max.map(|now| self.own(self.max, now))
    }

    /// What lies between the limit and what it was raised to is the loan, whole or in part on its way back; anything else an administrator has set.
    fn own(&self, before: Option<Limit>, now: Limit) -> Limit {
        match (before, now) {
            (Some(Limit::At(before)), Limit::At(at)) if (before..=before + self.amount).contains(&at) => {
                Limit::At(before)
            }
            _ => now,
        }
    }

    /// What of it the group has not used so far; all of it where that is not known.
    fn unused(&self, row: Option<&Group>) -> Bytes {
        let used = row.and_then(|row| Some((row.usage?, self.max?.bytes()?)));
        self.amount - used.map_or(Bytes(0), |(usage, before)| usage - before)
    }
}

/// What there is to lend from.
struct Means {
    /// `None`: it is not known.
    available: Option<Bytes>,
    keep: Bytes,
}

impl Governor {
    /// Lends, if the host has enough to spare.
    pub(super) fn lend(
        &mut self,
        episode: &mut Episode,
        step: u8,
        lend: Lend,
        excess: &Excess,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Step {
        let fresh = self.now.since(snap.memory.read_at) <= self.policy.pace.fastest;
        if !fresh || snap.memory.available.is_none() {
            // To be read in the next tick. Not for ever: the ladder must go on.
            self.timers.bring_forward(self.host_item(), self.now);
            let after = self.step_of(episode, step).map_or_else(Default::default, |step| step.after);
            if self.now < episode.base + after + REPEAT {
                return Step::Waits;
            }
        }
        let Means { available, keep } = self.means(&lend, snap, fresh);
        let amount = lend.amount;
        let spared = available.is_some_and(|available| available >= keep + amount);
        if !spared {
            return self.withhold(episode, step, Reason::HostShort { available, keep, amount }, out);
        }
        let order = Order::Lend { phase: Phase::Begin, amount };
        if self.emit(episode, step, order, excess.reason, What::Begin, out).is_none() {
            return Step::Waits;
        }
        let row = match episode.target {
            Target::Group(_, slot) => snap.group(slot),
            Target::Process(..) | Target::Host => None,
        };
        episode.lent |= 1 << step;
        episode.loan =
            Some(Loan { amount, max: row.and_then(|row| row.max), high: row.and_then(|row| row.high) });
        Step::Began
    }

    /// What there is, less what others have been promised.
    fn means(&self, lend: &Lend, snap: &Snapshot, fresh: bool) -> Means {
        let known = snap.host.memory.zip(snap.memory.available).filter(|_| fresh);
        let keep = lend.keep.of(snap.host.memory.unwrap_or_default());
        Means { available: known.map(|(_, available)| available - self.promised(snap)), keep }
    }

    /// What was lent and is not in use yet, so that it counts as available still.
    fn promised(&self, snap: &Snapshot) -> Bytes {
        let out = self.episodes.iter().filter(|episode| episode.lent & !episode.refused != 0);
        let unused = out.filter_map(|episode| {
            let Target::Group(id, slot) = episode.target else { return None };
            Some(episode.loan?.unused(snap.group(slot).filter(|row| row.id == id)))
        });
        unused.fold(Bytes(0), |sum, one| sum + one)
    }

    /// A loan is over after its time, helped or not, and when the host needs it itself.
    pub(super) fn end_due_loans(&mut self, episode: &mut Episode, snap: &Snapshot, out: &mut Decisions) {
        // What was refused was never lent.
        for step in bits(episode.lent & !episode.refused) {
            let Some(Action::Lend(lend)) = self.step_of(episode, step).map(|step| step.action) else {
                continue;
            };
            let due = episode.ordered_at[usize::from(step)] + lend.budget;
            let keep = lend.keep.of(snap.host.memory.unwrap_or_default());
            let reason = match snap.memory.available {
                _ if self.now >= due => Reason::LoanDue { budget: lend.budget },
                // What is not known ends nothing.
                Some(available) if available < keep => {
                    Reason::HostShort { available: Some(available), keep, amount: Bytes(0) }
                }
                _ => {
                    self.deadline = self.deadline.min(due);
                    continue;
                }
            };
            let order = Order::Lend { phase: Phase::End, amount: lend.amount };
            if self.emit(episode, step, order, reason, What::Other, out).is_some() {
                episode.lent &= !(1 << step);
                episode.hurry |= episode.next == step + 1;
            }
        }
    }

    /// Whether what the host has left is to be known as often as what the episode hangs on.
    pub(super) fn needs_host(&self, episode: &Episode) -> bool {
        let next = self.step_of(episode, episode.next);
        episode.lent != 0 || next.is_some_and(|step| matches!(step.action, Action::Lend(_)))
    }
}
