//! Slowing: letting a group or a process run only part of the time. Who is stopped by what is `brake`'s; here is the clock.
//!
//! A slowdown always ends: by its `End`, at release, when memgov goes, and through the ledger when memgov dies. A whole group is stopped by its own
//! `cgroup.freeze`, on v1 by the `freezer.state` of the group that has the same processes; where that cannot be (there is none, a protected process inside) its processes are taken into
//! hold groups below the groups they are in, so that what they are charged to stays the same. SIGSTOP is the last resort.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use memgov_decide::decision::{EpisodeId, Mechanism, Operation, Outcome, Target};
use memgov_decide::snapshot::{Group, GroupId, GroupSlot, ProcessSlot, Snapshot};
use memgov_decide::units::Time;

use super::brake::Brake;
use super::ledger::{Freezer, HOLD_PREFIX, MAX_PATH};
use super::same_members::Finder;
use super::{Aim, Kit, Tally, nobody_is_protected, paths, refused};
use crate::kernel::layout::{Controller, is_at_or_below};
use crate::kernel::proc::{self, Stat};
use crate::kernel::{Errno, Error, GroupDir, Layout, MemoryVersion, sys};

/// One slice of running and one of standing still.
const PERIOD: Duration = Duration::from_millis(100);
/// No slice of running is shorter.
const LEAST_RUN: Duration = Duration::from_millis(1);
/// No slice of standing still is longer.
const MOST_STOP: Duration = Duration::from_secs(1);
/// After a kill everything runs so long, so that the killed can die.
const DYING: Duration = Duration::from_millis(20);
/// How often the removal of an emptied hold group is tried, and how many times. After that it is left to the ledger.
const RETRY: Duration = Duration::from_millis(20);
const MOST_TRIES: u16 = 250;
/// Hold groups, stopped processes and frozen groups for each slowdown, on average.
const BRAKES_EACH: usize = 8;
const WHOLE: u64 = 1000;
/// The share of what is frozen.
pub const FROZEN: u16 = 0;

/// One slowdown.
#[derive(Clone, Copy, Debug)]
struct Slowed {
    episode: EpisodeId,
    target: Target,
    share: u16,
    running: bool,
    since: Time,
    next: Time,
    by: Mechanism,
    processes: u32,
}

/// A slowed group or process, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowedView {
    /// Whom.
    pub target: Target,
    /// For which episode.
    pub episode: EpisodeId,
    /// Thousandths of the time that it may run.
    pub share: u16,
    /// Processes reached by the last order.
    pub processes: u32,
    /// By what.
    pub by: Mechanism,
}

/// A hierarchy that can freeze, opened at its root.
#[derive(Debug)]
struct FreezerRoot {
    controller: Controller,
    freezer: Freezer,
    mount: Box<[u8]>,
    dir: OwnedFd,
}

/// All slowdowns.
#[derive(Debug)]
pub struct Slowdowns {
    slowed: Vec<Slowed>,
    brakes: Vec<Brake>,
    /// Best first.
    freezers: Vec<FreezerRoot>,
    number: u32,
    retry: Time,
    line: Box<[u8]>,
    below: Box<[u8]>,
    path: Vec<u8>,
    finder: Finder,
}

impl Slowdowns {
    /// Room for so many slowdowns at once.
    pub fn new(layout: &Layout, most: u32) -> Result<Self, Error> {
        let unified = (Controller::Unified, Freezer::V2, layout.unified.as_ref());
        let v1 = (Controller::Freezer, Freezer::V1, layout.freezer.as_ref());
        // Where memory is, there the groups are fine-grained; else the freezer's own hierarchy, whose groups nobody else uses.
        let order = if layout.version == MemoryVersion::V2 { [unified, v1] } else { [v1, unified] };
        let mut freezers = Vec::with_capacity(order.len());
        for (controller, freezer, mount) in order {
            let Some(mount) = mount else { continue };
            let bytes = std::os::unix::ffi::OsStrExt::as_bytes(mount.as_os_str());
            let dir = paths::open_path(bytes).map_err(|errno| Error::new("opening", mount, errno))?;
            freezers.push(FreezerRoot { controller, freezer, mount: bytes.into(), dir });
        }
        Ok(Self {
            slowed: Vec::with_capacity(most as usize),
            brakes: Vec::with_capacity(most as usize * BRAKES_EACH),
            freezers,
            number: 0,
            retry: Time::FAR,
            line: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
            below: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
            path: Vec::with_capacity(MAX_PATH),
            finder: Finder::default(),
        })
    }

    /// For status.
    pub fn views(&self) -> impl Iterator<Item = SlowedView> {
        self.slowed.iter().map(|s| SlowedView {
            target: s.target,
            episode: s.episode,
            share: s.share,
            processes: s.processes,
            by: s.by,
        })
    }

    /// Begins a slowdown or keeps it up: newcomers are taken in, the share is renewed.
    pub(super) fn hold(&mut self, kit: &mut Kit, at: &Aim<'_>, share: u16) -> Outcome {
        let (episode, target) = (at.decision.episode, at.decision.target);
        let i = match self.slowed.iter().position(|s| s.episode == episode) {
            Some(i) => i,
            None if self.slowed.len() == self.slowed.capacity() => return Outcome::LedgerFull,
            None => {
                let now = sys::now();
                let (by, next) = (Mechanism::CgroupFreeze, now + run_slice(share));
                self.slowed.push(Slowed {
                    episode,
                    target,
                    share,
                    running: true,
                    since: now,
                    next,
                    by,
                    processes: 0,
                });
                self.slowed.len() - 1
            }
        };
        self.set_share(i, share);
        let mut tally = Tally::default();
        let brought = match target {
            Target::Process(who, _) => at.guarded(kit, who).map(|()| {
                let by = self.hold_pid(kit, i, who.pid, &mut tally);
                self.slowed[i].by = by.unwrap_or(self.slowed[i].by);
            }),
            Target::Group(id, slot) => self.hold_group(kit, at, i, id, slot, &mut tally),
            Target::Host => Err(super::of_the_host(Operation::Freeze)),
        };
        self.slowed[i].processes = tally.reached;
        let outcome = match (brought, tally.gone_if_nobody()) {
            (Err(outcome), _) | (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => tally.outcome(self.slowed[i].by),
        };
        if !self.brakes.iter().any(|b| b.owner == Some(episode)) && tally.reached == 0 {
            self.slowed.swap_remove(i);
        }
        outcome
    }

    /// Whether all of it is stopped by the `cgroup.freeze` of the group itself, which stops whoever comes, too: there is nothing to keep up. On v1 one may come who
    /// is not in the group of the other hierarchy.
    pub(super) fn stands_still(&self, episode: EpisodeId) -> bool {
        self.slowed.iter().any(|s| s.episode == episode && !s.running && s.share == FROZEN)
            && self.brakes.iter().any(|b| b.owner == Some(episode) && b.by() == Mechanism::CgroupFreeze)
    }

    fn set_share(&mut self, i: usize, share: u16) {
        let slowed = &mut self.slowed[i];
        if slowed.share != share {
            slowed.share = share;
            let slice = if slowed.running { run_slice(share) } else { MOST_STOP };
            let next = slowed.next.min(slowed.since + slice);
            slowed.next = if share == FROZEN && !slowed.running { Time::FAR } else { next };
        }
    }

    fn hold_group(
        &mut self,
        kit: &mut Kit,
        at: &Aim<'_>,
        i: usize,
        id: GroupId,
        slot: GroupSlot,
        tally: &mut Tally,
    ) -> Result<(), Outcome> {
        at.sweep_group(kit, id, slot)?;
        let (dir, row) = (at.group(id, slot)?, at.snap.group(slot).ok_or(Outcome::Gone)?);
        let pids = kit.sweep.pids().len();
        if pids == 0 {
            return Ok(());
        }
        let episode = self.slowed[i].episode;
        let mine = |b: &Brake| b.owner == Some(episode) && b.is_group();
        if row.path.len() > 1 && all_may_be_stopped(kit) {
            if let Some(by) = self.hold_whole(kit, i, row, dir)? {
                self.slowed[i].by = by;
                tally.reached = u32::try_from(pids).unwrap_or(u32::MAX);
                tally.overflow(kit.sweep.overflow());
                return Ok(());
            }
            // Looking for such a group has swept others meanwhile, and some may have gone.
            at.sweep_group(kit, id, slot)?;
        }
        // Somebody who may not be stopped has come, or who is not of the group: the others are held one by one.
        while let Some(b) = self.brakes.iter().position(mine) {
            self.take_off(kit, b).map_err(|(operation, errno)| refused(operation, errno))?;
        }
        let mut next = 0;
        while let Some(&pid) = kit.sweep.pids().get(next) {
            next += 1;
            if let Some(by) = self.hold_pid(kit, i, pid, tally) {
                self.slowed[i].by = by;
            }
        }
        tally.overflow(kit.sweep.overflow());
        Ok(())
    }

    /// By the freezer of the group that has its processes and no others; `None`: on v1 there is none.
    fn hold_whole(
        &mut self,
        kit: &mut Kit,
        i: usize,
        row: &Group,
        group: &GroupDir,
    ) -> Result<Option<Mechanism>, Outcome> {
        let v2 = kit.layout.version == MemoryVersion::V2;
        let controller = if v2 { Controller::Unified } else { Controller::Freezer };
        let Ok(found) = self.finder.find(kit, controller, row, group) else { return Ok(None) };
        let failed = |errno| refused(Operation::Freeze, errno);
        let inode = paths::inode(found.as_fd()).map_err(failed)?;
        // Another episode may have it under its brake already; that one's share holds until it ends.
        if let Some(brake) = self.brakes.iter().find(|b| b.owner.is_some() && b.is_group() && b.is_of(inode))
        {
            return Ok(Some(brake.by()));
        }
        let (episode, ledger) = (self.slowed[i].episode, &mut kit.ledger);
        let made =
            self.room().and_then(|()| Brake::group(ledger, episode, found.as_fd(), self.finder.path()));
        let brake = made.map_err(|(operation, errno)| refused(operation, errno))?;
        let b = self.put_on(kit, i, brake).map_err(|(operation, errno)| refused(operation, errno))?;
        Ok(Some(self.brakes[b].by()))
    }

    /// Takes one process under a brake; `None`: it is not to be touched, or could not be.
    fn hold_pid(&mut self, kit: &mut Kit, i: usize, pid: u32, tally: &mut Tally) -> Option<Mechanism> {
        let mut buffer = [0; proc::STAT_BUFFER];
        let stat = match proc::read_stat(pid, &mut buffer) {
            Ok(stat) if stat.has_ended() || kit.guard.forbids(&stat).is_some() => return None,
            Ok(stat) => stat,
            Err(errno) => {
                tally.count(Err((Operation::ReadProcess, errno)));
                return None;
            }
        };
        let result = self.hold_one(kit, i, &stat);
        tally.count(result.map(|_| ()));
        result.ok()
    }

    fn hold_one(&mut self, kit: &mut Kit, i: usize, stat: &Stat) -> Result<Mechanism, (Operation, Errno)> {
        let mut result = Err((Operation::Freeze, Errno::NOSYS));
        for f in 0..self.freezers.len() {
            result = self.hold_in(kit, i, f, stat);
            if matches!(result, Ok(_) | Err((_, Errno::SRCH)) | Err((Operation::Ledger, _))) {
                break;
            }
        }
        if let Err((operation, errno)) = result
            && operation != Operation::Ledger
            && errno != Errno::SRCH
        {
            result = self.stop(kit, i, stat);
        }
        result
    }

    /// Stops a child of memgov's own for a moment and lets it go on: says by what that would be done.
    pub(super) fn rehearse(&mut self, kit: &mut Kit, stat: &Stat) -> Result<Mechanism, (Operation, Errno)> {
        let episode = super::NO_EPISODE;
        let (since, by) = (sys::now(), Mechanism::Sigstop);
        let target = Target::Process(stat.id(), ProcessSlot(u32::MAX));
        self.slowed.push(Slowed {
            episode,
            target,
            share: 1,
            running: true,
            since,
            next: since,
            by,
            processes: 0,
        });
        let i = self.slowed.len() - 1;
        let by = self.hold_one(kit, i, stat);
        self.toggle(kit, i, sys::now());
        let stopped = self.brakes.iter().any(|b| b.owner == Some(episode));
        match self.release(kit, episode) {
            Outcome::Refused { at, errno } => Err((at, Errno::from_raw_os_error(errno))),
            _ if !stopped => by.and(Err((Operation::Freeze, Errno::IO))),
            _ => by,
        }
    }

    /// By a hold group in one hierarchy, below the process's own group there.
    fn hold_in(
        &mut self,
        kit: &mut Kit,
        i: usize,
        f: usize,
        stat: &Stat,
    ) -> Result<Mechanism, (Operation, Errno)> {
        let root = &self.freezers[f];
        let found =
            paths::of_process(&kit.layout, root.controller, stat.pid, &mut self.line, &mut self.below);
        let below = &self.below[..found.map_err(|errno| (Operation::ReadProcess, errno))?];
        let group =
            paths::open_below(root.dir.as_fd(), below).map_err(|errno| (Operation::MakeGroup, errno))?;
        let inode = paths::inode(group.as_fd()).map_err(|errno| (Operation::MakeGroup, errno))?;
        if paths::name_of(below).starts_with(HOLD_PREFIX) {
            // Held already: by this slowdown, or by another whose share holds until it ends.
            let holder = self.brakes.iter().find(|b| b.owner.is_some() && b.is_of(inode));
            return holder.map(Brake::by).ok_or((Operation::MoveProcess, Errno::BUSY));
        }
        let episode = self.slowed[i].episode;
        let freezer = root.freezer;
        let mine = |b: &Brake| b.owner == Some(episode) && b.holds_from(inode, freezer);
        let b = match self.brakes.iter().position(mine) {
            Some(b) => b,
            None => {
                self.path.clear();
                self.path.extend_from_slice(&root.mount);
                self.path.extend_from_slice(if below == b"/" { b"" } else { below });
                self.number = self.number.wrapping_add(1);
                self.room()?;
                let brake =
                    Brake::hold(&mut kit.ledger, episode, freezer, group, &mut self.path, self.number)?;
                self.put_on(kit, i, brake)?
            }
        };
        self.brakes[b].take_in(stat.pid)?;
        Ok(self.brakes[b].by())
    }

    fn stop(&mut self, kit: &mut Kit, i: usize, stat: &Stat) -> Result<Mechanism, (Operation, Errno)> {
        if self.brakes.iter().any(|b| b.owner.is_some() && b.stops(stat.id())) {
            return Ok(Mechanism::Sigstop);
        }
        self.room()?;
        let stopped = matches!(stat.state, b'T' | b't');
        let brake = Brake::process(&mut kit.ledger, self.slowed[i].episode, stat.id(), stopped)?;
        self.put_on(kit, i, brake)?;
        Ok(Mechanism::Sigstop)
    }

    fn room(&self) -> Result<(), (Operation, Errno)> {
        let free = self.brakes.len() < self.brakes.capacity();
        free.then_some(()).ok_or((Operation::Ledger, Errno::NOSPC))
    }

    /// A new brake is on or off as those of its slowdown are.
    fn put_on(&mut self, kit: &mut Kit, i: usize, brake: Brake) -> Result<usize, (Operation, Errno)> {
        self.brakes.push(brake);
        let b = self.brakes.len() - 1;
        if !self.slowed[i].running {
            self.brakes[b].stop(&mut kit.ledger)?;
        }
        Ok(b)
    }

    /// Takes a brake off for good. A hold group that is not empty yet stays, without owner, until it is.
    fn take_off(&mut self, kit: &mut Kit, b: usize) -> Result<(), (Operation, Errno)> {
        let brake = &mut self.brakes[b];
        brake.owner = None;
        match brake.take_off(&mut kit.ledger) {
            Ok(()) => {
                self.brakes.swap_remove(b);
                Ok(())
            }
            Err((_, Errno::BUSY)) if brake.tries < MOST_TRIES => {
                brake.tries += 1;
                self.retry = sys::now() + RETRY;
                Ok(())
            }
            Err(failure) => {
                // Its entry stays in force, for the next start or `memgov restore`.
                self.brakes.swap_remove(b);
                Err(failure)
            }
        }
    }

    /// Ends the slowdown of an episode.
    pub(super) fn release(&mut self, kit: &mut Kit, episode: EpisodeId) -> Outcome {
        let Some(i) = self.slowed.iter().position(|s| s.episode == episode) else { return Outcome::Nothing };
        let slowed = self.slowed.swap_remove(i);
        let mut failure = None;
        for b in (0..self.brakes.len()).rev() {
            if self.brakes[b].owner == Some(episode)
                && let Err(error) = self.take_off(kit, b)
            {
                failure = Some(error);
            }
        }
        match failure {
            None => Outcome::Done { processes: slowed.processes, by: slowed.by },
            Some((operation, errno)) => refused(operation, errno),
        }
    }

    /// Ends everything, and waits a little for hold groups to become empty.
    pub(super) fn release_all(&mut self, kit: &mut Kit, tally: &mut Tally) {
        self.slowed.clear();
        for round in 0..20 {
            for b in (0..self.brakes.len()).rev() {
                let owned = self.brakes[b].owner.is_some();
                let done = self.take_off(kit, b);
                if owned || done.is_err() {
                    tally.count(done);
                }
            }
            if self.brakes.is_empty() {
                return;
            }
            if round < 19 {
                std::thread::sleep(RETRY / 4);
            }
        }
        tally.refused += u32::try_from(self.brakes.len()).unwrap_or(u32::MAX);
        self.brakes.clear();
    }

    /// When [`Slowdowns::tick`] must be called next.
    pub fn deadline(&self) -> Option<Time> {
        let waiting = self.brakes.iter().any(|b| b.owner.is_none()).then_some(self.retry);
        self.slowed.iter().map(|s| s.next).chain(waiting).min().filter(|next| *next != Time::FAR)
    }

    /// Stops and goes on as the shares say; removes hold groups that are empty by now.
    pub(super) fn tick(&mut self, kit: &mut Kit, now: Time) {
        for i in 0..self.slowed.len() {
            if self.slowed[i].next <= now {
                self.toggle(kit, i, now);
            }
        }
        if self.retry <= now {
            self.retry = Time::FAR;
            for b in (0..self.brakes.len()).rev() {
                if self.brakes[b].owner.is_none() {
                    // If it fails for good its entry stays; the next start reports it.
                    let _ = self.take_off(kit, b);
                }
            }
        }
    }

    fn toggle(&mut self, kit: &mut Kit, i: usize, now: Time) {
        let slowed = &mut self.slowed[i];
        let stop = slowed.running && u64::from(slowed.share) < WHOLE;
        // From what it has really run, however late this is: so the share holds on a busy machine too.
        let slice =
            if stop { stop_slice(slowed.share, now.since(slowed.since)) } else { run_slice(slowed.share) };
        let next = if stop && slowed.share == FROZEN { Time::FAR } else { now + slice };
        (slowed.running, slowed.since, slowed.next) = (!stop, now, next);
        let episode = slowed.episode;
        for b in (0..self.brakes.len()).rev() {
            let brake = &mut self.brakes[b];
            if brake.owner != Some(episode) {
                continue;
            }
            let done = if stop { brake.stop(&mut kit.ledger) } else { brake.go(&mut kit.ledger) };
            if done.is_err() {
                // Gone, or somebody else's now. The next order to keep it up finds out what is to be done.
                let _ = self.take_off(kit, b);
            }
        }
    }

    /// After a kill: whatever may hold the killed runs for a moment, because a v1 freezer keeps even them from dying. Whoever is frozen elsewhere (until somebody
    /// has said what is to happen) stays so.
    pub(super) fn let_die(&mut self, kit: &mut Kit, at: &Aim<'_>, now: Time) {
        if !self.brakes.iter().any(|b| b.by() == Mechanism::V1Freezer) {
            return;
        }
        for i in 0..self.slowed.len() {
            if !may_hold(at.snap, self.slowed[i].target, at.decision.target) {
                continue;
            }
            if !self.slowed[i].running {
                self.toggle(kit, i, now);
            }
            self.slowed[i].next = self.slowed[i].next.max(now + DYING);
        }
    }
}

/// Whether what stops the one may stop some of the other: the same branch of the tree, as far as is known.
fn may_hold(snap: &Snapshot, held: Target, killed: Target) -> bool {
    let path = |target| {
        let group = match target {
            Target::Group(_, slot) => Some(slot),
            Target::Process(_, slot) => snap.process(slot).and_then(|row| row.group),
            Target::Host => None,
        };
        group.and_then(|slot| snap.group(slot)).map(|row| &*row.path)
    };
    match (path(held), path(killed)) {
        (Some(held), Some(killed)) => is_at_or_below(killed, held) || is_at_or_below(held, killed),
        _ => true,
    }
}

fn all_may_be_stopped(kit: &mut Kit) -> bool {
    kit.sweep.overflow() == 0 && nobody_is_protected(kit)
}

fn run_slice(share: u16) -> Duration {
    if u64::from(share) >= WHOLE {
        return PERIOD;
    }
    (PERIOD * u32::from(share) / 1000).max(LEAST_RUN)
}

/// How long to stand still after having run for `ran`.
fn stop_slice(share: u16, ran: Duration) -> Duration {
    let share = u32::from(share.clamp(1, 1000));
    (ran * (1000 - share) / share).min(MOST_STOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_give_the_share() {
        for share in [1u16, 5, 10, 100, 500, 999] {
            let run = run_slice(share);
            let stop = stop_slice(share, run);
            let got = run.as_secs_f64() / (run + stop).as_secs_f64() * 1000.0;
            assert!((got - f64::from(share)).abs() < 0.01 * f64::from(share) + 0.01, "{share}: {got}");
            assert!(run >= LEAST_RUN && stop <= MOST_STOP);
        }
        assert_eq!(stop_slice(0, Duration::from_secs(100)), MOST_STOP);
        assert_eq!(run_slice(0), LEAST_RUN);
        assert_eq!(stop_slice(500, Duration::from_millis(70)), Duration::from_millis(70));
    }
}
