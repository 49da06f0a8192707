//! Who gives way when memory is short: jobs, groups that the configuration says the worth of. Pure comparison; who is asked, and when, is the
//! governor's.
//!
//! The order, first to give way first:
//!
//! 1. who uses more than its reservation; who does not is touched only when nobody is over;
//! 2. who asks to go first, who asks for nothing, who asks to be spared ([`Wish`]);
//! 3. lower priority;
//! 4. by how much it is over its reservation (of those that are not: by how little it is under it);
//! 5. of equals the group that was made last: the higher inode number.

use std::cmp::Ordering;

use crate::snapshot::{GroupId, GroupSlot};
use crate::units::Bytes;

/// What a job is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worth {
    /// Lower is given up first; 0 where only a reservation is given.
    pub priority: i32,
    /// What it may use without giving way for it; 0 where only a priority is given, so that whoever uses anything is over.
    pub reservation: Bytes,
}

/// What a group asks for itself by an extended attribute of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// `oomd_prefer`: take this first.
    Prefer,
    /// `oomd_avoid`: only if there is nobody else.
    Avoid,
    /// `oomd_omit`: never.
    Omit,
}

/// The attributes by who may write them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preference {
    /// `trusted.oomd_…`: only root can write those (xattr(7)).
    pub trusted: Option<Wish>,
    /// `user.oomd_…`: whoever may write to the directory.
    pub user: Option<Wish>,
}

impl Preference {
    /// What of it counts. A `user.` attribute only if the group is root's, or its owner is also that of the group whose shortage it is (`of`; the
    /// host is root's): whoever was given a subtree says who goes first in it, and not against others. As systemd-oomd.service(8) and
    /// `ManagedOOMPreference=` in systemd.resource-control(5) have it.
    pub fn counts(self, owner: Option<u32>, of: Option<u32>) -> Option<Wish> {
        let may = owner.is_some() && (owner == Some(0) || owner == of);
        self.trusted.or(self.user.filter(|_| may))
    }
}

/// A job among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// Which group is killed.
    pub group: GroupId,
    /// What it uses.
    pub usage: Bytes,
    /// Its reservation.
    pub reservation: Bytes,
    /// Its priority.
    pub priority: i32,
    /// Its row.
    pub slot: GroupSlot,
    /// What it asks for, if that counts.
    pub wish: Option<Wish>,
}

impl Default for Contender {
    fn default() -> Self {
        Self {
            group: GroupId(0),
            usage: Bytes(0),
            reservation: Bytes(0),
            priority: 0,
            slot: GroupSlot(0),
            wish: None,
        }
    }
}

impl Contender {
    /// It uses more than its reservation.
    pub fn is_over(&self) -> bool {
        self.usage > self.reservation
    }

    /// By how much it is over its reservation; negative: it is so far under it.
    pub fn excess(&self) -> i128 {
        i128::from(self.usage.0) - i128::from(self.reservation.0)
    }

    /// Takes in another job that dies with this one, because a group around both is indivisible (`memory.oom.group`). The two are
    /// as important as the more important of them, and have what was reserved for either.
    pub fn join(&mut self, other: &Self) {
        self.priority = self.priority.max(other.priority);
        self.reservation = self.reservation + other.reservation;
        self.wish = match (self.wish, other.wish) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (Some(Wish::Prefer), None) | (None, Some(Wish::Prefer)) => None,
            (a, b) => a.or(b),
        };
    }

    /// Whether it gives way before the other: see the [module](self). No two groups are equal.
    pub fn gives_way_before(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Less
    }

    fn order(&self, other: &Self) -> Ordering {
        let spared = |job: &Self| match job.wish {
            Some(Wish::Prefer) => 0u8,
            None => 1,
            Some(Wish::Avoid | Wish::Omit) => 2,
        };
        other
            .is_over()
            .cmp(&self.is_over())
            .then(spared(self).cmp(&spared(other)))
            .then(self.priority.cmp(&other.priority))
            .then(other.excess().cmp(&self.excess()))
            .then(other.group.cmp(&self.group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{MAX_JOBS, Ranking};
    use proptest::prelude::*;

    fn contender() -> impl Strategy<Value = Contender> {
        let wish = prop::sample::select(vec![None, None, Some(Wish::Prefer), Some(Wish::Avoid)]);
        (0u64..4, 0u64..4, -1i32..2, wish).prop_map(|(usage, reservation, priority, wish)| Contender {
            usage: Bytes::mib(usage),
            reservation: Bytes::mib(reservation),
            priority,
            wish,
            ..Contender::default()
        })
    }

    /// The rules of the module, each said as it stands there.
    fn must_go_first(a: &Contender, b: &Contender) -> bool {
        let (over_a, over_b) = (a.usage > a.reservation, b.usage > b.reservation);
        if over_a != over_b {
            return over_a;
        }
        if a.wish != b.wish {
            return a.wish == Some(Wish::Prefer) || b.wish == Some(Wish::Avoid);
        }
        if a.priority != b.priority {
            return a.priority < b.priority;
        }
        let (over_a, over_b) = (a.excess(), b.excess());
        if over_a == over_b { a.group > b.group } else { over_a > over_b }
    }

    proptest! {
        #[test]
        fn a_ranking_is_the_first_of_all_in_any_order(mut jobs in prop::collection::vec(contender(), 1..20), turn in 0usize..20) {
            for (at, job) in (0u32..).zip(&mut jobs) {
                (job.group, job.slot) = (GroupId(u64::from(at)), GroupSlot(at));
            }
            let turn = turn % jobs.len();
            let mut ranking = Ranking::of_jobs();
            jobs.iter().cycle().skip(turn).take(jobs.len()).for_each(|job| ranking.offer_job(*job));
            let mut sorted = jobs.clone();
            sorted.sort_by(|a, b| if must_go_first(a, b) { Ordering::Less } else { Ordering::Greater });
            sorted.truncate(MAX_JOBS);
            prop_assert_eq!(ranking.jobs(), sorted.as_slice());
        }
    }

    #[test]
    fn attributes_count_by_who_could_write_them() {
        let wish = Preference { trusted: None, user: Some(Wish::Avoid) };
        assert_eq!(wish.counts(Some(0), Some(0)), Some(Wish::Avoid), "root's group");
        assert_eq!(wish.counts(Some(0), Some(1000)), Some(Wish::Avoid));
        assert_eq!(wish.counts(Some(1000), Some(1000)), Some(Wish::Avoid), "all of it is his");
        assert_eq!(wish.counts(Some(1000), Some(0)), None, "not against others");
        assert_eq!(wish.counts(None, None), None, "not known");
        let wish = Preference { trusted: Some(Wish::Omit), ..wish };
        assert_eq!(wish.counts(Some(1000), Some(0)), Some(Wish::Omit), "only root could write it");
    }

    #[test]
    fn what_dies_together_is_as_important_as_its_most_important_part() {
        let job = |priority, reservation, wish| Contender {
            priority,
            reservation: Bytes::mib(reservation),
            wish,
            ..Contender::default()
        };
        let mut both = job(10, 1, Some(Wish::Prefer));
        both.join(&job(30, 2, None));
        assert_eq!((both.priority, both.reservation, both.wish), (30, Bytes::mib(3), None));
        both.join(&job(0, 0, Some(Wish::Avoid)));
        assert_eq!((both.priority, both.wish), (30, Some(Wish::Avoid)));
    }
}
