//! What one memory group is to have of processes and threads at the most, and who wants it so; and all of those with the limits they share.

use std::os::fd::{AsFd as _, OwnedFd};

use memgov_decide::decision::EpisodeId;
use memgov_decide::kernel_memory::Headroom;
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::Time;

use super::super::holders::Holders;
use super::super::ledger::Ledger;
use super::super::paths;
use super::limit::Limit;
use super::{Failure, MOST, failed};

/// Groups that can be limited at once, of which [`MOST`] before their lines are met: an order finds room whoever stands there.
const TABLE: usize = MOST + 128;
/// So many limits that are owed are tried at once; the rest with the next tick.
const AT_ONCE: usize = 16;

/// One limited group.
#[derive(Debug)]
pub struct Cap {
    /// Whose kernel memory it is about.
    pub group: GroupId,
    /// Where its processes are counted.
    inode: u64,
    /// What it is to have at the most. The limit is the least that anybody wants of it, and never more than it was.
    wanted: u64,
    /// Episodes that allow it no more than it has.
    pub holders: Holders<8>,
    /// What it may have while it is under its line, where a rule says that it is to have a limit then too.
    pub standing: Option<Standing>,
}

/// What stands before the line is met.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// What its processes are known to cost.
    pub headroom: Headroom,
    /// What it may have, by the last look.
    pub most: u64,
    /// When it was last seen to be this group's alone, with nobody protected in it.
    pub checked: Time,
}

/// All of them. Every cap has its limit, and every limit somebody who wants it, or it is owed.
#[derive(Debug)]
pub struct Table {
    pub caps: Vec<Cap>,
    limits: Vec<Limit>,
    /// When giving back what is owed is to be tried next.
    due: Option<Time>,
}

impl Table {
    /// Allocates.
    pub fn new() -> Self {
        Self { caps: Vec::with_capacity(TABLE), limits: Vec::with_capacity(TABLE), due: None }
    }

    pub fn at(&self, group: GroupId) -> Option<usize> {
        self.caps.iter().position(|cap| cap.group == group)
    }

    /// Whether no group more can be limited at all.
    pub fn is_full(&self) -> bool {
        self.caps.len() == self.caps.capacity() || self.limits.len() == self.limits.capacity()
    }

    fn of(&self, i: usize) -> usize {
        let inode = self.caps[i].inode;
        self.limits.iter().position(|limit| limit.inode == inode).unwrap_or(0)
    }

    /// The limit of a group.
    pub fn limit(&self, i: usize) -> &Limit {
        &self.limits[self.of(i)]
    }

    /// Sets the first limit of a group, at what `most` says of the count there is.
    pub fn begin(
        &mut self,
        ledger: &mut Ledger,
        group: GroupId,
        dir: OwnedFd,
        path: &[u8],
        most: &mut dyn FnMut(u64) -> u64,
    ) -> Result<usize, Failure> {
        let inode = paths::inode(dir.as_fd()).map_err(failed)?;
        let mut wanted = 0;
        let mut asked = |tasks| {
            wanted = most(tasks);
            wanted
        };
        match self.limits.iter_mut().find(|limit| limit.inode == inode) {
            // Another group's as well: the least counts.
            Some(limit) => {
                let wanted = asked(limit.tasks()?);
                let least = if limit.owed().is_some() { wanted } else { wanted.min(limit.set()) };
                limit.change(ledger, least)?;
            }
            None => {
                let limit = Limit::begin(ledger, dir, path, &mut asked)?;
                self.limits.push(limit);
            }
        }
        self.caps.push(Cap { group, inode, wanted, holders: Holders::default(), standing: None });
        Ok(self.caps.len() - 1)
    }

    /// The least that others want who share its limit.
    fn others(&self, i: usize) -> Option<u64> {
        let inode = self.caps[i].inode;
        let others = self.caps.iter().enumerate().filter(|(j, cap)| *j != i && cap.inode == inode);
        others.map(|(_, cap)| cap.wanted).min()
    }

    /// Whether what binds it, if anything does, is its own: neither the administrator's nor another group's.
    pub fn binds_by_itself(&self, i: usize) -> bool {
        self.limit(i).binds() && self.others(i).is_none_or(|least| self.caps[i].wanted <= least)
    }

    /// What its limit would be if it wanted so many.
    pub fn least(&self, i: usize, wanted: u64) -> u64 {
        self.others(i).map_or(wanted, |least| least.min(wanted))
    }

    /// Notes what it wants, without setting it yet.
    pub fn want(&mut self, i: usize, wanted: u64) {
        self.caps[i].wanted = wanted;
    }

    /// What it is to have from now on.
    pub fn change(&mut self, ledger: &mut Ledger, i: usize, wanted: u64) -> Result<(), Failure> {
        self.want(i, wanted);
        let (least, at) = (self.least(i, wanted), self.of(i));
        self.limits[at].change(ledger, least)
    }

    /// No more than it has, for this episode. Looks whether that still stands, and follows the count downwards.
    pub fn keep(&mut self, ledger: &mut Ledger, i: usize, episode: EpisodeId) -> Result<(), Failure> {
        self.caps[i].holders.add(episode);
        let wanted = no_more(self.limit(i).tasks()?).min(self.caps[i].wanted);
        self.change(ledger, i, wanted)
    }

    /// It wants nothing any more: the limit is what others want of it, or given back.
    pub fn lift(&mut self, ledger: &mut Ledger, i: usize) -> Result<(), Failure> {
        let (at, others) = (self.of(i), self.others(i));
        let group = self.caps.swap_remove(i).group;
        match others {
            Some(least) => self.limits[at].change(ledger, least),
            None => self.give_back(ledger, at, group),
        }
    }

    fn give_back(&mut self, ledger: &mut Ledger, at: usize, group: GroupId) -> Result<(), Failure> {
        let done = self.limits[at].give_back(ledger, group);
        match self.limits[at].owed() {
            Some((_, due)) if done.is_err() => self.due = Some(self.due.map_or(due, |first| first.min(due))),
            _ => drop(self.limits.swap_remove(at)),
        }
        done
    }

    /// Tries once more to give back what is owed, where its time has come.
    pub fn try_again(&mut self, ledger: &mut Ledger, now: Time) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let mut left = AT_ONCE;
        for at in (0..self.limits.len()).rev() {
            if let Some((group, due)) = self.limits[at].owed()
                && due <= now
                && left > 0
            {
                left -= 1;
                // If it fails it says itself when it is to be tried next.
                let _ = self.give_back(ledger, at, group);
            }
        }
        self.due = self.limits.iter().filter_map(|limit| Some(limit.owed()?.1)).min();
    }

    /// When [`Table::try_again`] has something to do.
    pub const fn due(&self) -> Option<Time> {
        self.due
    }

    /// What could not be given back yet: who wanted it last, and what it still is.
    pub fn owed(&self) -> impl Iterator<Item = (GroupId, u64)> {
        self.limits.iter().filter_map(|limit| Some((limit.owed()?.0, limit.set())))
    }
}

/// What holds a group at this count. At least 1: a limit of 0 says that the last one, too, is one too many.
pub fn no_more(tasks: u64) -> u64 {
    tasks.max(1)
}
