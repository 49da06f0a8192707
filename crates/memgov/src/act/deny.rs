//! Refusing memory: soft limits lowered to what a process has now, so that mmap, brk and mlock fail with ENOMEM, and put back later.
//!
//! Only soft limits, because a lowered hard one could not be raised again without CAP_SYS_RESOURCE. Not to 1 but to present use: exec
//! under a data limit of 1 is a death sentence. What the process sets for itself meanwhile is its wish: it gets that back, not what it had
//! before.

use memgov_decide::decision::{EpisodeId, Mechanism, Operation};
use memgov_decide::snapshot::{ProcessId, Table};

use super::ledger::{LoweredLimits, Verdict};
use super::limits::{self, Refusal, SoftLimits};
use super::{Kit, Tally};
use crate::kernel::pidfd::PidFd;
use crate::kernel::{Errno, proc};

/// Episodes that may hold one process at once; a further one finds it denied already and comes again with its next order.
const MOST_HOLDERS: usize = 4;
/// Processes let go of late whose children may still be on their way through the event queue.
const REMEMBERED: usize = 512;

/// Who denies a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    episode: EpisodeId,
    refusal: Refusal,
    /// The whole group is held: children are too.
    group: bool,
}

/// One denied process.
#[derive(Clone, Debug)]
struct Denied {
    limits: SoftLimits,
    holders: [Option<Holder>; MOST_HOLDERS],
}

impl Denied {
    fn holds(&self, episode: EpisodeId) -> bool {
        self.holders.iter().flatten().any(|h| h.episode == episode)
    }

    fn add(&mut self, holder: Holder) {
        if !self.holds(holder.episode)
            && let Some(free) = self.holders.iter_mut().find(|h| h.is_none())
        {
            *free = Some(holder);
        }
    }

    fn remove(&mut self, episode: EpisodeId) {
        for holder in &mut self.holders {
            if holder.is_some_and(|h| h.episode == episode) {
                *holder = None;
            }
        }
    }

    fn is_held(&self) -> bool {
        self.holders.iter().any(Option::is_some)
    }

    /// Of all holders together: if one counts file or shared pages, every mapping is refused.
    fn refusal(&self) -> Refusal {
        self.holders.iter().flatten().fold(Refusal::Locks, |all, holder| all.with(holder.refusal))
    }
}

/// All denied processes.
#[derive(Debug)]
pub struct Denials {
    rows: Table<Denied>,
    /// Slots of `rows` by pid.
    order: Vec<u32>,
    /// Of processes let go of, or children freed, the youngest last: their own children may have inherited.
    remembered: Vec<(u32, LoweredLimits)>,
    next_remembered: usize,
}

/// A denied process, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedView {
    /// Who.
    pub who: ProcessId,
    /// Episodes that hold it.
    pub holders: u32,
    /// How often it has set a limit of its own meanwhile.
    pub contested: u32,
    /// By what mappings are refused to it.
    pub by: Mechanism,
}

impl Denials {
    /// Room for so many processes.
    pub fn with_capacity(processes: u32) -> Self {
        Self {
            rows: Table::with_capacity(processes),
            order: Vec::with_capacity(processes as usize),
            remembered: Vec::with_capacity(REMEMBERED),
            next_remembered: 0,
        }
    }

    /// For status.
    pub fn views(&self) -> impl Iterator<Item = DeniedView> {
        self.rows.iter().map(|(_, row)| DeniedView {
            who: row.limits.who,
            holders: u32::try_from(row.holders.iter().flatten().count()).unwrap_or(0),
            contested: row.limits.contested,
            by: if row.refusal() == Refusal::Locks { Mechanism::Bpf } else { BY },
        })
    }

    /// Denies one process, for `episode`.
    pub fn hold_process(
        &mut self,
        kit: &mut Kit,
        who: ProcessId,
        episode: EpisodeId,
        refusal: Refusal,
        tally: &mut Tally,
    ) {
        tally.count(self.hold(kit, who, Holder { episode, refusal, group: false }));
    }

    /// Keeps up those of the episode that were denied before, and denies the newcomers of the last sweep.
    pub fn hold_group(&mut self, kit: &mut Kit, episode: EpisodeId, refusal: Refusal, tally: &mut Tally) {
        for i in (0..self.order.len()).rev() {
            let slot = self.order[i];
            if self.rows.get(slot).is_some_and(|row| row.holds(episode)) {
                let kept = self.keep(kit, slot);
                tally.count(kept);
            }
        }
        let mut buffer = [0; proc::STAT_BUFFER];
        for i in 0..kit.sweep.pids().len() {
            let pid = kit.sweep.pids()[i];
            if let Some(row) = self.find(pid).and_then(|slot| self.rows.get(slot))
                && row.holds(episode)
            {
                continue;
            }
            match proc::read_stat(pid, &mut buffer) {
                Ok(stat) if !stat.has_ended() && kit.guard.forbids(&stat).is_none() => {
                    let held = self.hold(kit, stat.id(), Holder { episode, refusal, group: true });
                    tally.count(held);
                }
                _ => {}
            }
        }
    }

    fn hold(&mut self, kit: &mut Kit, who: ProcessId, holder: Holder) -> Result<(), (Operation, Errno)> {
        let slot = match self.find(who.pid) {
            Some(slot) if self.rows.get(slot).is_some_and(|row| row.limits.who == who) => Some(slot),
            Some(stale) => {
                self.forget(kit, stale);
                None
            }
            None => None,
        };
        let Some(slot) = slot else { return self.begin(kit, who, holder) };
        if let Some(row) = self.rows.get_mut(slot) {
            row.add(holder);
        }
        self.keep(kit, slot)
    }

    fn begin(&mut self, kit: &mut Kit, who: ProcessId, holder: Holder) -> Result<(), (Operation, Errno)> {
        let process = PidFd::open(who).map_err(|errno| (Operation::PidfdOpen, errno))?;
        let mut row = Denied { limits: SoftLimits::of(who)?, holders: [None; MOST_HOLDERS] };
        row.add(holder);
        if self.order.len() == self.rows.capacity() {
            return Err((Operation::Ledger, Errno::NOSPC));
        }
        let inherited = self.inherited(who)?;
        let adopted = row.limits.adopt(inherited, &mut kit.ledger);
        let lowered = adopted.and_then(|()| row.limits.lower(holder.refusal, &mut kit.ledger));
        if process.exited() == Ok(true) {
            // Whoever has the pid now did not get its limits from us, or gets them back here.
            limits::put_back_all(who.pid, &row.limits.lowered);
            row.limits.cross_out(&mut kit.ledger)?;
            return Err((Operation::PidfdOpen, Errno::SRCH));
        }
        if let Ok(slot) = self.rows.insert(row) {
            let at = self.order.partition_point(|&s| self.pid_of(s) < who.pid);
            self.order.insert(at, slot);
        }
        lowered
    }

    /// Looks whether a denied process still is what memgov made it, and makes it so again.
    fn keep(&mut self, kit: &mut Kit, slot: u32) -> Result<(), (Operation, Errno)> {
        let Some(row) = self.rows.get_mut(slot) else { return Ok(()) };
        let refusal = row.refusal();
        match row.limits.is_kept(refusal) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Errno::SRCH) => {
                self.forget(kit, slot);
                return Err((Operation::Prlimit, Errno::SRCH));
            }
            Err(errno) => return Err((Operation::Prlimit, errno)),
        }
        match PidFd::open(row.limits.who) {
            Ok(_process) => row.limits.lower(refusal, &mut kit.ledger),
            Err(errno) => {
                if errno == Errno::SRCH {
                    self.forget(kit, slot);
                }
                Err((Operation::PidfdOpen, errno))
            }
        }
    }

    /// Ends an episode: who is held by no other gets its limits back.
    pub fn release(&mut self, kit: &mut Kit, episode: EpisodeId, tally: &mut Tally) {
        for i in (0..self.order.len()).rev() {
            let slot = self.order[i];
            if self.rows.get(slot).is_some_and(|row| row.holds(episode)) {
                let released = self.let_go(kit, slot, Some(episode));
                tally.count(released);
            }
        }
    }

    /// Ends everything.
    pub fn release_all(&mut self, kit: &mut Kit, tally: &mut Tally) {
        for i in (0..self.order.len()).rev() {
            let released = self.let_go(kit, self.order[i], None);
            tally.count(released);
        }
    }

    /// `None`: whoever holds it.
    fn let_go(
        &mut self,
        kit: &mut Kit,
        slot: u32,
        episode: Option<EpisodeId>,
    ) -> Result<(), (Operation, Errno)> {
        let Some(row) = self.rows.get_mut(slot) else { return Ok(()) };
        match episode {
            Some(episode) => row.remove(episode),
            None => row.holders = [None; MOST_HOLDERS],
        }
        if row.is_held() {
            return self.keep(kit, slot);
        }
        let (who, lowered) = (row.limits.who, row.limits.lowered);
        match limits::undo(who, &lowered) {
            Verdict::Undone | Verdict::Changed => {
                self.forget(kit, slot);
                Ok(())
            }
            Verdict::Gone => {
                self.forget(kit, slot);
                Err((Operation::Prlimit, Errno::SRCH))
            }
            Verdict::Failed(operation, errno) => {
                // Its entry stays in force: a `memgov restore` with more rights may succeed.
                if let Some(row) = self.rows.get_mut(slot) {
                    row.limits.abandon();
                }
                self.forget(kit, slot);
                Err((operation, errno))
            }
        }
    }

    /// A child of a denied process has its lowered limits. It is denied itself if its group is; otherwise it gets its own back.
    pub fn process_forked(&mut self, kit: &mut Kit, parent: u32, child: u32) {
        if self.find(child).is_some() {
            return; // A sweep was faster than the event.
        }
        let row = self.find(parent).and_then(|slot| self.rows.get(slot));
        let held = row.map_or([None; MOST_HOLDERS], |row| row.holders.map(|h| h.filter(|h| h.group)));
        let lowered = match row {
            Some(row) => row.limits.lowered,
            None => match self.remembered.iter().rev().find(|(pid, _)| *pid == parent) {
                Some((_, lowered)) => *lowered,
                None => return,
            },
        };
        let mut buffer = [0; proc::STAT_BUFFER];
        let Ok(stat) = proc::read_stat(child, &mut buffer) else { return };
        if held.iter().any(Option::is_some) && kit.guard.forbids(&stat).is_none() {
            for holder in held.into_iter().flatten() {
                // What fails here fails again, and is told, with the group's next order.
                let _ = self.hold(kit, stat.id(), holder);
            }
            return;
        }
        self.free(child, &lowered);
    }

    /// Processes of the last sweep that are not denied, but have what a denied one was given: children that no event told of.
    pub fn free_heirs(&mut self, kit: &mut Kit) {
        let mut buffer = [0; proc::STAT_BUFFER];
        for i in 0..kit.sweep.pids().len() {
            let pid = kit.sweep.pids()[i];
            if self.find(pid).is_some() {
                continue;
            }
            let Ok(stat) = proc::read_stat(pid, &mut buffer) else { continue };
            if let Ok(inherited) = self.inherited(stat.id())
                && inherited.iter().any(Option::is_some)
            {
                self.free(pid, &inherited);
            }
        }
    }

    fn free(&mut self, pid: u32, lowered: &LoweredLimits) {
        limits::put_back_all(pid, lowered);
        self.remember(pid, *lowered);
    }

    /// What a process has not from itself, but from a denied parent.
    fn inherited(&self, who: ProcessId) -> Result<LoweredLimits, (Operation, Errno)> {
        let has = limits::read(who.pid).map_err(|errno| (Operation::Prlimit, errno))?;
        let rows =
            self.rows.iter().filter(|(_, row)| row.limits.who != who && row.limits.who.start <= who.start);
        let given = rows.map(|(_, row)| &row.limits.lowered).chain(self.remembered.iter().map(|(_, l)| l));
        let mut given = given.filter(|lowered| limits::matches_inherited(lowered, &has));
        Ok(given.next().copied().unwrap_or([None; 3]))
    }

    fn remember(&mut self, pid: u32, lowered: LoweredLimits) {
        if lowered.iter().all(Option::is_none) {
            return;
        }
        if self.remembered.len() < REMEMBERED {
            self.remembered.push((pid, lowered));
        } else {
            self.remembered[self.next_remembered] = (pid, lowered);
            self.next_remembered = (self.next_remembered + 1) % REMEMBERED;
        }
    }

    fn pid_of(&self, slot: u32) -> u32 {
        self.rows.get(slot).map_or(0, |row| row.limits.who.pid)
    }

    fn find(&self, pid: u32) -> Option<u32> {
        let at = self.order.binary_search_by_key(&pid, |&slot| self.pid_of(slot)).ok()?;
        self.order.get(at).copied()
    }

    /// Drops a row and crosses out its entry; whatever it told of is undone or gone.
    fn forget(&mut self, kit: &mut Kit, slot: u32) {
        let pid = self.pid_of(slot);
        if let Ok(at) = self.order.binary_search_by_key(&pid, |&slot| self.pid_of(slot)) {
            self.order.remove(at);
        }
        if let Some(mut row) = self.rows.remove(slot) {
            self.remember(row.limits.who.pid, row.limits.lowered);
            // If this fails the entry is found again at the next start, and found to be done with.
            let _ = row.limits.cross_out(&mut kit.ledger);
        }
    }
}

/// By what this module acts.
pub const BY: Mechanism = Mechanism::Rlimit;
