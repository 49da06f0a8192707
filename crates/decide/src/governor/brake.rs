//! Two brakes on killing: so many kills in so long and no more, and nobody is killed while memory from an earlier kill
//! is still on its way back to the same branch of the tree.

use std::collections::VecDeque;
use std::time::Duration;

use crate::decision::{DecisionId, Reason};
use crate::policy::KillBudget;
use crate::snapshot::{GroupId, GroupSlot, ProcessId, Snapshot};
use crate::units::{Bytes, Time};

use super::tree::Tree;

/// How long memory of the dead is waited for; the same for word of a kill's outcome.
const RETURN_TIME: Duration = Duration::from_secs(2);
/// How long for that of a whole job that was seen to be dead: nobody is left to give anything back, and page cache, which stays charged to the
/// group, does not come back at all.
const SETTLES: Duration = Duration::from_millis(200);
/// At most so many kills whose memory is waited for at a time. While there are so many, nobody else is killed.
const MAX_CREDITS: usize = 64;
/// From when the kernel's OOM killer has killed somebody and that is waited for, it is so long not waited for again: whoever has the kernel kill in a small group of his own, again and
/// again, must not keep a shortage from being met.
const OOM_REST: Duration = Duration::from_secs(4);
/// A larger budget than this is cut to it: the times of so many kills are remembered.
const MAX_COUNT: u32 = 4096;

/// Memory on its way back.
#[derive(Clone, Copy, Debug)]
struct Credit {
    /// `None`: killed inside the kernel, and not decided on yet.
    decision: Option<DecisionId>,
    who: Option<ProcessId>,
    group: Option<(GroupId, GroupSlot)>,
    /// Usage of the group when the kill was ordered.
    before: Option<Bytes>,
    expected: Bytes,
    until: Time,
    sake: Sake,
}

/// For whose sake somebody is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sake {
    /// Of his own group: what he held comes back there, and is waited for there.
    Own,
    /// Of somebody else, as part of a job or as the largest of the machine: what comes back shows in that one's meter and not where it was, so nobody who is dead is waited for any longer than
    /// it takes to see what that has brought.
    Another,
    /// Likewise, and all of the group.
    AnotherAll,
}

/// Whose shortage a kill is to help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branch {
    /// This group's, or somebody's in it; `None`: of nobody who has a row.
    Of(Option<GroupSlot>),
    /// The machine's: whatever comes back anywhere helps it.
    Host,
}

/// Word of kills that the kernel makes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// It has used its allowance, and who was killed is not known yet: until then nobody else is.
    Maybe,
    /// There is no such kill, or it is known by now ([`crate::snapshot::Process::killed`]).
    No,
    /// It is not going to be known who was killed; that somebody was counts.
    Unseen,
}

/// What a kill must wait for or give up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brake {
    /// Wait: memory is coming back.
    Freeing(Bytes),
    /// Give up for now.
    TooMany(Reason),
}

#[derive(Debug)]
pub(super) struct Kills {
    budget: KillBudget,
    times: VecDeque<Time>,
    credits: Vec<Credit>,
    /// The kernel may have killed somebody of whom no word has come yet.
    in_flight: bool,
    /// When the last memory that was waited for had come back, or was given up: what was read until then does not show all of it.
    settled: Time,
    /// When the OOM killer's last kill that is waited for was seen.
    oom_at: Option<Time>,
}

impl Kills {
    pub fn new(budget: KillBudget) -> Self {
        let count = budget.count.min(MAX_COUNT);
        let times = VecDeque::with_capacity(count as usize);
        Self {
            budget: KillBudget { count, ..budget },
            times,
            credits: Vec::with_capacity(MAX_CREDITS),
            in_flight: false,
            settled: Time(0),
            oom_at: None,
        }
    }

    /// A new budget; what was killed and is waited for stays known.
    pub fn set_budget(&mut self, budget: KillBudget) {
        let old = std::mem::replace(self, Self::new(budget));
        (self.credits, self.in_flight) = (old.credits, old.in_flight);
        (self.settled, self.oom_at) = (old.settled, old.oom_at);
        let kept = old.times.len().min(self.budget.count as usize);
        self.times.extend(old.times.iter().skip(old.times.len() - kept));
    }

    /// Takes note of what has come back, and of what will not any more. To be called in each tick.
    pub fn settle(&mut self, now: Time, snap: &Snapshot) {
        let before = self.credits.len();
        self.credits.retain(|credit| now < credit.until && !credit.returned(snap));
        if self.credits.len() < before {
            self.settled = now;
        }
    }

    /// From when on a reading shows what kills so far have brought: it has to be later.
    pub fn settled(&self) -> Time {
        self.settled
    }

    /// Whether somebody may be killed now for the sake of this branch.
    pub fn brake(&mut self, now: Time, branch: Branch, snap: &Snapshot, tree: &Tree) -> Option<Brake> {
        let full = (self.credits.len() == MAX_CREDITS || self.in_flight).then_some(Bytes(0));
        let pending = self.credits.iter().find(|credit| match branch {
            Branch::Of(group) => credit.concerns(group, snap, tree),
            Branch::Host => true,
        });
        if let Some(expected) = pending.map(|credit| credit.expected).or(full) {
            return Some(Brake::Freeing(expected));
        }
        if self.left(now) > 0 {
            return None;
        }
        let count = u32::try_from(self.times.len()).unwrap_or(MAX_COUNT);
        Some(Brake::TooMany(Reason::TooManyKills { count, window: self.budget.window }))
    }

    /// How many more kills the budget has room for.
    fn left(&mut self, now: Time) -> usize {
        while self.times.front().is_some_and(|&at| at + self.budget.window <= now) {
            self.times.pop_front();
        }
        (self.budget.count as usize).saturating_sub(self.times.len())
    }

    /// How many kills the kernel may make by itself until the next tick: one, and only while nothing is waited for anywhere. It knows neither
    /// branches of the tree nor what comes back; whoever is not killed by it is found over his line and weighed as everybody.
    pub fn allowance(&mut self, now: Time) -> u32 {
        u32::from(self.credits.is_empty() && !self.in_flight && self.left(now) > 0)
    }

    /// Word of a kill that was made elsewhere.
    pub fn elsewhere(&mut self, now: Time, word: Elsewhere) {
        self.in_flight = word == Elsewhere::Maybe;
        if word == Elsewhere::Unseen {
            self.count(now);
        }
    }

    /// The budget may be smaller by now than what was allowed under the one before it: then the oldest makes room.
    fn count(&mut self, now: Time) {
        if self.times.len() == self.times.capacity() {
            self.times.pop_front();
        }
        if self.times.capacity() > 0 {
            self.times.push_back(now);
        }
    }

    /// The kernel has killed somebody by itself, with this allowance: counted and waited for like any other.
    pub fn happened(
        &mut self,
        now: Time,
        who: ProcessId,
        group: Option<GroupSlot>,
        expected: Bytes,
        snap: &Snapshot,
    ) {
        let known = self.credits.iter().any(|credit| credit.who == Some(who));
        if !known && self.credits.len() < MAX_CREDITS {
            self.note(now, (None, Some(who)), Sake::Own, group, expected, snap);
        }
    }

    /// The kernel's OOM killer has killed somebody of this group, or below it. Nobody knows what that one held, so whatever comes back is taken for it; it is waited for like memory of a kill
    /// of ours, and is none of the budget's. `before`: what was in use by the latest reading before that.
    pub fn by_oom_killer(&mut self, now: Time, slot: GroupSlot, before: Option<Bytes>, snap: &Snapshot) {
        let rests = self.oom_at.is_some_and(|at| at != now && now.since(at) < OOM_REST);
        // Half of the places stay for kills of ours: with none left nobody could be killed.
        let Some(row) = snap.group(slot).filter(|row| !rests && &*row.path != b"/") else { return };
        if self.credits.len() >= MAX_CREDITS / 2 {
            return;
        }
        self.oom_at = Some(now);
        self.credits.push(Credit {
            decision: None,
            who: None,
            group: Some((row.id, slot)),
            before: before.max(row.usage),
            expected: Bytes(1),
            until: now + RETURN_TIME,
            sake: Sake::Own,
        });
    }

    /// Whether that is still to be decided on.
    pub fn is_undecided(&self, who: ProcessId) -> bool {
        self.credits.iter().any(|credit| credit.who == Some(who) && credit.decision.is_none())
    }

    /// It is decided on now.
    pub fn decided(&mut self, who: ProcessId, decision: DecisionId) {
        if let Some(credit) = self.credits.iter_mut().find(|credit| credit.who == Some(who)) {
            credit.decision = Some(decision);
        }
    }

    /// A kill was ordered: counted, and until its outcome is known, waited for.
    pub fn ordered(
        &mut self,
        now: Time,
        decision: DecisionId,
        sake: Sake,
        group: Option<GroupSlot>,
        expected: Bytes,
        snap: &Snapshot,
    ) {
        self.note(now, (Some(decision), None), sake, group, expected, snap);
    }

    fn note(
        &mut self,
        now: Time,
        (decision, who): (Option<DecisionId>, Option<ProcessId>),
        sake: Sake,
        group: Option<GroupSlot>,
        expected: Bytes,
        snap: &Snapshot,
    ) {
        self.count(now);
        // The root has no line: what comes back to it directly helps nobody else.
        let row = group.and_then(|slot| Some((slot, snap.group(slot).filter(|row| &*row.path != b"/")?)));
        self.credits.push(Credit {
            decision,
            who,
            group: row.map(|(slot, row)| (row.id, slot)),
            before: row.and_then(|(_, row)| row.usage),
            // Until word comes that nothing was held, something must be seen to come back.
            expected: expected.max(Bytes(1)),
            until: now + RETURN_TIME,
            sake,
        });
    }

    /// The victims are dead: from now on their memory is waited for.
    pub fn dead(&mut self, now: Time, decision: DecisionId, expected: Bytes) {
        if let Some(credit) = self.credits.iter_mut().find(|credit| credit.decision == Some(decision)) {
            credit.expected = expected;
            credit.until = now + if credit.sake == Sake::Own { RETURN_TIME } else { SETTLES };
        }
    }

    /// The kill came to nothing: nothing will come back.
    pub fn failed(&mut self, decision: DecisionId) {
        self.credits.retain(|credit| credit.decision != Some(decision));
    }
}

impl Credit {
    /// Whether as much came back as was expected.
    fn returned(&self, snap: &Snapshot) -> bool {
        if self.sake == Sake::AnotherAll
            && self.group.is_none_or(|(id, slot)| snap.group(slot).is_none_or(|row| row.id != id || row.gone))
        {
            return true;
        }
        let now = self
            .group
            .and_then(|(id, slot)| snap.group(slot).filter(|row| row.id == id && !row.gone))
            .and_then(|row| row.usage);
        match (self.before, now) {
            (Some(before), Some(now)) => now.0.saturating_add(self.expected.0) <= before.0,
            _ => false,
        }
    }

    /// Whether memory that comes back to this credit's group helps `group`: one is the other, or above it.
    fn concerns(&self, group: Option<GroupSlot>, snap: &Snapshot, tree: &Tree) -> bool {
        let (Some((id, slot)), Some(group)) = (self.group, group) else { return false };
        snap.group(slot).is_some_and(|row| row.id == id)
            && (tree.upward(Some(group)).any(|above| above == slot)
                || tree.upward(Some(slot)).any(|above| above == group))
    }
}
