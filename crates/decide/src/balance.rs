//! Memory from those who do not need it for those who do: which groups of a rule give while another of them is starved. Nothing is moved
//! and no limit is raised: what a giver loses by reclaim its neighbour can take, up to his own limit.
//!
//! Properties, each a test of the same name in `tests/behaviour/balance.rs`:
//!
//! - **nobody_starved_nobody_gives**. And who has been helped is not starved any more (`who_has_been_helped_is_given_no_more`).
//! - **never_from_within_a_reservation**: a group gives only what it uses beyond it.
//! - **lowest_priority_first**: a group gives only when those of a lower priority have nothing left to give; among equals those further beyond
//!   their reservation give more.
//! - **who_feels_it_stops**: a group that is not calm gives nothing.
//! - **who_could_not_take_it_does_not_count**: a group at its own limit is not helped by what another gives.

pub use crate::jobs::Worth;
use crate::snapshot::Group;
use crate::units::{Bytes, Limit};

/// What a group is worth when memory is moved between groups: what is said of it as a job, and at the least what the kernel keeps for it, the larger of
/// `memory.low` and `memory.min`.
pub fn worth_of(group: &Group, job: Option<Worth>) -> Worth {
    let kept = match group.reserved {
        Some(Limit::At(bytes)) => bytes,
        Some(Limit::Max) => Bytes(u64::MAX),
        None => Bytes(0),
    };
    let Worth { priority, reservation } = job.unwrap_or_default();
    Worth { priority, reservation: reservation.max(kept) }
}

/// How one group of a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is worth.
    pub worth: Worth,
    /// What it uses.
    pub usage: Bytes,
    /// Under this it gives nothing, whatever it is worth.
    pub floor: Bytes,
    /// Its limit.
    pub limit: Option<Bytes>,
    /// It does without memory that it needs, and that costs more than is tolerated.
    pub starved: bool,
    /// It feels nothing.
    pub calm: bool,
    /// It has given all that it can without feeling it.
    pub spent: bool,
}

impl Standing {
    /// What it could give.
    fn spare(&self) -> Bytes {
        self.usage.saturating_sub(self.floor.max(self.worth.reservation))
    }
    fn willing(&self) -> bool {
        self.calm && !self.starved && !self.spent && self.spare() > Bytes(0)
    }
    /// A group that stands at its own limit (a 64th of it is left at the most) takes nothing from others.
    fn needy(&self) -> bool {
        let room = |limit: Bytes| limit.saturating_sub(self.usage) > Bytes(limit.0 / 64);
        self.starved && self.limit.is_none_or(room)
    }
}

/// What there is to know of all groups of a rule before one of them is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    starved: bool,
    lowest: Option<i32>,
    /// Of those of the lowest priority.
    most: Bytes,
}

impl Tally {
    /// Counts one in.
    pub fn count(&mut self, one: &Standing) {
        self.starved |= one.needy();
        if !one.willing() {
            return;
        }
        let priority = one.worth.priority;
        match self.lowest {
            Some(lowest) if lowest < priority => {}
            Some(lowest) if lowest == priority => self.most = self.most.max(one.spare()),
            _ => (self.lowest, self.most) = (Some(priority), one.spare()),
        }
    }

    /// Of an ask for so much, what this one gives now.
    pub fn portion(&self, one: &Standing, ask: Bytes) -> Bytes {
        if !self.is_asked(one) {
            return Bytes(0);
        }
        let part = u128::from(ask.0) * u128::from(one.spare().0) / u128::from(self.most.0.max(1));
        Bytes(u64::try_from(part).unwrap_or(u64::MAX)).min(ask).min(one.spare())
    }

    /// Whether it is this one's turn to give.
    pub fn is_asked(&self, one: &Standing) -> bool {
        self.starved && one.willing() && self.lowest == Some(one.worth.priority)
    }
}
