//! Refusing new processes and threads from outside by `pids.max` of a group. Of kernel memory this is what can be refused without a program
//! inside the kernel; files, directories and sockets go on, and the next step of the ladder meets those.
//!
//! Over its line a group may have no more than it has ([`Caps::hold`], an order). Under it what there is room for ([`Caps::stand`], no order): a fork
//! bomb that is faster than any look ends there. How many that are is `decide`'s ([`memgov_decide::kernel_memory::Headroom`]).
//!
//! The kernel refuses with EAGAIN (kernel/cgroup/pids.c). On v1 the pids hierarchy is one of its own: there the limit is that of the pids group that
//! the group's processes are in, if nobody else is in it. Of two memory groups that have one pids group between them the lower line counts.

mod cap;
mod limit;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use memgov_decide::decision::{EpisodeId, Operation, Order, Outcome, Phase};
use memgov_decide::kernel_memory::{Headroom, Tasks};
use memgov_decide::snapshot::{Group, GroupId, GroupSlot, Snapshot};
use memgov_decide::units::{Bytes, Time};

use super::same_members::Finder;
use super::{Actor, Aim, GroupDirs, Kit, Tally, nobody_is_protected, refused};
use crate::kernel::layout::Controller;
use crate::kernel::{Errno, GroupDir, MemoryVersion};
use cap::{Standing, Table};

/// Groups that can be limited at once before their lines are met; `status` says when that is not enough.
const MOST: usize = 512;
/// A group that may not be limited (somebody protected is in it, or it shares its pids group) is asked again after so long.
const DECLINED: Duration = Duration::from_secs(10);
/// One that is at its limit is gone through at most so often: whether it is its own still, and nobody protected has come.
const CHECK: Duration = Duration::from_secs(1);
/// A limit that stands is changed when it is off by this part of what is free under it: each change is two writes.
const PART: u64 = 16;

/// All limited groups.
#[derive(Debug)]
pub struct Caps {
    table: Table,
    /// Groups that may have no standing limit, and until when.
    declined: Vec<(GroupId, Time)>,
    finder: Finder,
}

type Failure = (Operation, Errno);

const fn failed(errno: Errno) -> Failure {
    (Operation::PidsMax, errno)
}

/// What has become of a limit that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stood {
    /// There is none, or it is as it was.
    Same,
    /// It has begun: [`Actor::standing_dir`](super::Actor::standing_dir) has the file that tells of refusals.
    Began,
    /// It was met, and is raised as far as there is room.
    Met,
    /// It has ended.
    Ended,
}

impl Actor {
    /// Before its `line` for kernel memory is met a group may have so many processes as there is room for: set from a row that was read in this tick, where
    /// its programs inside the kernel do not refuse that memory themselves. `None`: nothing of the kind is asked for, or no more.
    pub fn stand(
        &mut self,
        slot: GroupSlot,
        snap: &Snapshot,
        groups: &dyn GroupDirs,
        line: Option<Bytes>,
    ) -> Stood {
        let Some(row) = snap.group(slot).filter(|_| !self.dry_run) else { return Stood::Same };
        let inside = self.inside.as_ref().is_some_and(|inside| inside.counts) && row.kernel_watched;
        let dir = groups.dir(slot).filter(|dir| dir.id() == row.id);
        self.caps.stand(&mut self.kit, row, dir, line.filter(|_| !inside), snap.at)
    }

    /// Where such a limit stands: `pids.events` there tells when it is met.
    pub fn standing_dir(&self, group: GroupId) -> Option<BorrowedFd<'_>> {
        self.caps.dir(group)
    }

    /// Whether no group more gets one, for want of room.
    pub fn standing_is_full(&self) -> bool {
        self.caps.is_full()
    }
}

impl Caps {
    /// Allocates the tables.
    pub fn new() -> Self {
        Self { table: Table::new(), declined: Vec::with_capacity(MOST), finder: Finder::default() }
    }

    /// Who may have no more processes, or so many: while under its line, or because what it had could not be given back yet. For status.
    pub fn views(&self) -> impl Iterator<Item = (GroupId, Option<u64>)> {
        let all = self.table.caps.iter().enumerate().map(|(i, cap)| (cap, self.table.limit(i)));
        let limited = all.filter(|(cap, limit)| cap.holders.any() || limit.binds());
        let limited = limited.map(|(cap, limit)| (cap.group, (!cap.holders.any()).then_some(limit.set())));
        limited.chain(self.table.owed().map(|(group, set)| (group, Some(set))))
    }

    /// The directory in whose `pids.max` a limit stands.
    pub fn dir(&self, group: GroupId) -> Option<BorrowedFd<'_>> {
        self.table.at(group).map(|i| self.table.limit(i).dir())
    }

    /// See [`Actor::standing_is_full`].
    fn is_full(&self) -> bool {
        self.table.caps.len() >= MOST || self.table.is_full()
    }

    /// Tries again to give back what could not be. No order waits for it, and a failure is in status for as long as it lasts.
    pub(super) fn tick(&mut self, kit: &mut Kit, now: Time) {
        self.table.try_again(&mut kit.ledger, now);
    }

    /// When [`Caps::tick`] has something to do.
    pub(super) const fn deadline(&self) -> Option<Time> {
        self.table.due()
    }

    /// Limits a group to the processes and threads it has now, or keeps it so.
    pub(super) fn hold(&mut self, kit: &mut Kit, at: &Aim<'_>, id: GroupId, slot: GroupSlot) -> Outcome {
        let episode = at.decision.episode;
        let known = self.table.at(id);
        let sustained = matches!(at.decision.order, Order::Deny { phase: Phase::Sustain, .. });
        // What is held is only looked at: who is in the group is nothing to it.
        let kept = sustained && known.is_some_and(|i| self.table.caps[i].holders.any());
        // First it holds, then who is in there is looked at: that takes its time.
        let held = known.map(|i| self.table.keep(&mut kit.ledger, i, episode));
        if !kept && let Err(outcome) = at.sweep_group(kit, id, slot) {
            return outcome;
        }
        let done = match (known, held) {
            (Some(i), _) if !kept && !nobody_is_protected(kit) => {
                self.table.lift(&mut kit.ledger, i).and(Err(failed(Errno::PERM)))
            }
            (_, Some(held)) => held,
            (_, None) => self.begin(kit, at, id, slot),
        };
        match done {
            Ok(()) if kept => Outcome::Nothing,
            Ok(()) => Tally::of(&kit.sweep).outcome(super::Mechanism::PidsMax),
            Err((_, Errno::NODEV)) => Outcome::Gone,
            Err((operation, errno)) => refused(operation, errno),
        }
    }

    fn begin(&mut self, kit: &mut Kit, at: &Aim<'_>, id: GroupId, slot: GroupSlot) -> Result<(), Failure> {
        let row = at.snap.group(slot).ok_or(failed(Errno::NODEV))?;
        let dir = at.group(id, slot).map_err(|_| failed(Errno::NODEV))?;
        let i = self.limit(kit, row, dir, &mut cap::no_more)?;
        self.table.caps[i].holders.add(at.decision.episode);
        Ok(())
    }

    /// Sets the first limit of a group whose processes have just been swept, at what `most` says of their count.
    fn limit(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        dir: &GroupDir,
        most: &mut dyn FnMut(u64) -> u64,
    ) -> Result<usize, Failure> {
        if self.table.is_full() {
            return Err((Operation::Ledger, Errno::NOSPC));
        }
        if !nobody_is_protected(kit) {
            return Err(failed(Errno::PERM));
        }
        let found = self.finder.find(kit, Controller::Pids, row, dir).map_err(failed)?;
        self.table.begin(&mut kit.ledger, row.id, found, self.finder.path(), most)
    }

    /// What a group may have of processes and threads by this reading of it, if that is to be limited before its `line` is met; `None`: it is not.
    /// While an episode holds it, what comes after is noted.
    pub(super) fn stand(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        dir: Option<&GroupDir>,
        line: Option<Bytes>,
        now: Time,
    ) -> Stood {
        let known = self.table.at(row.id);
        let (Some(line), Some(dir), false) = (line, dir, row.gone) else {
            return known.map_or(Stood::Same, |i| self.fall(kit, i));
        };
        // Not known now: as it was.
        let Some(kernel) = row.kernel else { return Stood::Same };
        let Some(i) = known else { return self.stand_up(kit, row, dir, (kernel, line), now) };
        let Ok(tasks) = self.table.limit(i).tasks() else { return self.fall(kit, i) };
        if tasks == 0 && kit.sweep.collect(dir.dir()).is_ok() && !kit.sweep.pids().is_empty() {
            // On v1: who is in the one is not in the other.
            return self.fall(kit, i);
        }
        let (set, own) = (self.table.limit(i).set(), self.table.binds_by_itself(i));
        let cap = &mut self.table.caps[i];
        let held = cap.holders.any();
        // Where it is the administrator's own limit that is met, or that of another line, nothing is learnt of this one.
        let most = (!held && own).then_some(set);
        let met = most.is_some_and(|most| tasks >= most);
        let standing =
            cap.standing.get_or_insert(Standing { headroom: Headroom::default(), most: 0, checked: now });
        standing.most = standing.headroom.most(Tasks { kernel, line, tasks, most });
        if held {
            return Stood::Same;
        }
        let most = standing.most;
        if met && now.since(standing.checked) >= CHECK {
            standing.checked = now;
            if !self.is_still_its(kit, i, row, dir) {
                self.decline(row.id, now);
                return self.fall(kit, i);
            }
        }
        self.table.want(i, most);
        let off = self.table.least(i, most).abs_diff(set);
        if off > (most - tasks) / PART {
            // What could not be written is tried again with the next look.
            let _ = self.table.change(&mut kit.ledger, i, most);
        }
        if met { Stood::Met } else { Stood::Same }
    }

    fn stand_up(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        dir: &GroupDir,
        (kernel, line): (Bytes, Bytes),
        now: Time,
    ) -> Stood {
        if self.is_full() {
            return Stood::Same;
        }
        self.declined.retain(|(_, until)| *until > now);
        if self.declined.iter().any(|(id, _)| *id == row.id) || kit.sweep.collect(dir.dir()).is_err() {
            return Stood::Same;
        }
        let mut standing = Standing { headroom: Headroom::default(), most: 0, checked: now };
        let limited = self.limit(kit, row, dir, &mut |tasks| {
            standing.most = standing.headroom.most(Tasks { kernel, line, tasks, most: None });
            standing.most
        });
        match limited {
            Ok(i) => {
                self.table.caps[i].standing = Some(standing);
                Stood::Began
            }
            // On v1 nobody is in it who could say which pids group is its own, or whoever was is gone: soon somebody may be.
            Err((_, Errno::SRCH | Errno::NOENT)) => Stood::Same,
            Err(_) => {
                self.decline(row.id, now);
                Stood::Same
            }
        }
    }

    fn decline(&mut self, group: GroupId, now: Time) {
        if self.declined.len() < self.declined.capacity() {
            self.declined.push((group, now + DECLINED));
        }
    }

    fn is_still_its(&mut self, kit: &mut Kit, i: usize, row: &Group, dir: &GroupDir) -> bool {
        kit.sweep.collect(dir.dir()).is_ok()
            && nobody_is_protected(kit)
            && (kit.layout.version == MemoryVersion::V2 && kit.layout.is_unified(Controller::Pids)
                || self.finder.is_its_alone(kit, row, dir, self.table.limit(i).dir()).is_ok())
    }

    /// Nothing stands any more; what an episode holds it holds.
    fn fall(&mut self, kit: &mut Kit, i: usize) -> Stood {
        if self.table.caps[i].standing.take().is_none() {
            return Stood::Same;
        }
        if !self.table.caps[i].holders.any() {
            // What cannot be given back is tried again.
            let _ = self.table.lift(&mut kit.ledger, i);
        }
        Stood::Ended
    }

    /// Ends an episode: a group that no other holds gets its limit back, or the one that stands.
    pub(super) fn release(&mut self, kit: &mut Kit, episode: EpisodeId, tally: &mut Tally) {
        for i in (0..self.table.caps.len()).rev() {
            let cap = &mut self.table.caps[i];
            if cap.holders.remove(episode) && !cap.holders.any() {
                tally.count(match cap.standing {
                    Some(Standing { most, .. }) => self.table.change(&mut kit.ledger, i, most),
                    None => self.table.lift(&mut kit.ledger, i),
                });
            }
        }
    }

    /// Ends everything.
    pub(super) fn release_all(&mut self, kit: &mut Kit, tally: &mut Tally) {
        for i in (0..self.table.caps.len()).rev() {
            tally.count(self.table.lift(&mut kit.ledger, i));
        }
    }
}
