//! `lend` of a rule: the hard limit of a group raised for a while, and taken back without anybody being killed for it.
//!
//! What is written is never less than what is in use. `memory.max` below usage has the kernel reclaim, and where that is not enough kill
//! (`memory_max_write` in mm/memcontrol.c); on v1 such a write reclaims for as long as it likes and gives EBUSY (`mem_cgroup_resize_max`). So a limit that is
//! taken back follows usage down, in pieces, with an eighth of the loan left above what is in use, so that who still grows a little is not killed for the
//! taking back; once usage is at or under the limit that was, that is written and nothing else. (`memory.max` alone goes back in pieces, the others in one.)
//! Meanwhile the threads that reclaim for rules press the group there.
//!
//! Where `memory.high` is set it is raised by the same amount: else the group would be throttled long before it meets its raised limit.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use memgov_decide::decision::{
    Decision, DecisionId, EpisodeId, Mechanism, Operation, Outcome, Phase, Report, Target,
};
use memgov_decide::snapshot::{Group, GroupId};
use memgov_decide::units::{Bytes, Time};

use super::ledger::{Entry, GroupLimit, Ledger, MAX_PATH, OwnedEntry, Undone, Verdict};
use super::reclaim::Reclaims;
use super::{Aim, Kit, Tally, paths, refused};
use crate::kernel::cgroup::{v1, v2};
use crate::kernel::{Errno, GroupDir, MemoryVersion, file, freeze, sys, text};

/// Groups that something is lent to, or has to come back from, at once.
const MOST: usize = 256;
/// A limit that is on its way back is looked at so often.
const LOOK: Duration = Duration::from_millis(50);
/// Whoever lowers a limit for a moment (a shrink, v1) puts back what he read before: until then it is looked at whether that was the raised one. Longer than
/// one such call lasts ([`super::shrink::CALL`]).
const SETTLED: Duration = Duration::from_secs(1);
/// So much room is left above what is in use while a limit is lowered in pieces, be the loan ever so small.
const LEAST_ROOM: u64 = 4 << 20;
/// So much is reclaimed at once for a loan after the end of the run that has made it: whoever does that has more to do.
const BIT: u64 = 64 << 20;
/// No limit.
const NONE: u64 = u64::MAX;

type Failure = (Operation, Errno);

const fn failed(errno: Errno) -> Failure {
    (Operation::Lend, errno)
}

/// All loans.
#[derive(Debug)]
pub(super) struct Loans {
    loans: Vec<Loan>,
    /// Room for one path.
    path: Vec<u8>,
}

/// One group's.
#[derive(Debug)]
struct Loan {
    group: GroupId,
    /// Which step of which episode has asked for it. `None`: one of a run before this.
    by: Option<(EpisodeId, u8)>,
    dir: OwnedFd,
    path: Arc<[u8]>,
    version: MemoryVersion,
    /// `memory.max` or `memory.limit_in_bytes`, and `memory.high` where there is one.
    limits: [Option<Raised>; 2],
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    /// To be taken back; by which decision, and when that is looked at next.
    Due(Option<DecisionId>, Time),
    /// It is back. Until then somebody may put back the raised limit.
    Back(Option<DecisionId>, Time),
}

/// One limit, raised.
#[derive(Clone, Copy, Debug)]
struct Raised {
    which: GroupLimit,
    place: super::ledger::Place,
    before: u64,
    /// What it was raised to.
    most: u64,
    /// What it has now.
    set: u64,
    /// Since when it is something else.
    foreign: Option<Time>,
}

impl Loans {
    pub fn new() -> Self {
        Self { loans: Vec::with_capacity(MOST), path: Vec::with_capacity(MAX_PATH) }
    }

    /// Raises a group's limits, or has that taken back.
    pub fn order(
        &mut self,
        kit: &mut Kit,
        reclaims: &mut Reclaims,
        at: &Aim<'_>,
        phase: Phase,
        amount: Bytes,
    ) -> Outcome {
        let by = (at.decision.episode, at.decision.step);
        match phase {
            Phase::Sustain => Outcome::Nothing,
            Phase::Begin => match self.begin(kit, reclaims, at, by, amount) {
                Ok(()) => DONE,
                Err(outcome) => outcome,
            },
            Phase::End => self.end(kit, reclaims, at.decision, by),
        }
    }

    fn begin(
        &mut self,
        kit: &mut Kit,
        reclaims: &mut Reclaims,
        at: &Aim<'_>,
        by: (EpisodeId, u8),
        amount: Bytes,
    ) -> Result<(), Outcome> {
        let amount = amount.0 - amount.0 % sys::page_size();
        let Target::Group(id, slot) = at.decision.target else {
            return Err(refused(Operation::Lend, Errno::OPNOTSUPP));
        };
        let group = at.group(id, slot)?;
        let row = at.snap.group(slot).ok_or(Outcome::Gone)?;
        if let Some(known) = self.loans.iter_mut().find(|loan| loan.group == id) {
            // Not back yet: it is lent anew, if it is as much, and nobody has set a limit of his own meanwhile.
            if known.state == State::Out
                || !known.may_be_renewed(amount).map_err(|(at, errno)| refused(at, errno))?
            {
                return Err(refused(Operation::Lend, Errno::BUSY));
            }
            reclaims.stop_pressing(id);
            return known.renew(&mut kit.ledger, by);
        }
        if self.loans.len() == self.loans.capacity() {
            return Err(refused(Operation::Lend, Errno::NOBUFS));
        }
        let loan = self.raise(kit, row, group, by, amount).map_err(|(at, errno)| refused(at, errno))?;
        self.loans.push(loan);
        Ok(())
    }

    fn raise(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        group: &GroupDir,
        by: (EpisodeId, u8),
        amount: u64,
    ) -> Result<Loan, Failure> {
        let dir = freeze::open_group(group.dir(), c".").map_err(failed)?;
        paths::absolute(&kit.layout, &row.path, &mut self.path).map_err(failed)?;
        let version = group.version();
        let mut loan = Loan {
            group: row.id,
            by: Some(by),
            dir,
            path: Arc::clone(&row.path),
            version,
            limits: [None; 2],
            state: State::Out,
        };
        let wanted: &[GroupLimit] = match version {
            MemoryVersion::V1 => &[GroupLimit::Max],
            MemoryVersion::V2 => &[GroupLimit::Hard, GroupLimit::High],
        };
        for (i, &which) in wanted.iter().enumerate() {
            match loan.raise(&mut kit.ledger, &self.path, which, amount) {
                // Without a hard limit there is nothing to be had by raising one.
                Ok(None) if i == 0 => return Err(failed(Errno::OPNOTSUPP)),
                Ok(raised) => loan.limits[i] = raised,
                Err(failure) => {
                    // Seldom is any of it in use already; then it is taken back as any loan.
                    if loan.lower(&mut kit.ledger) == Ok(true) {
                        loan.cross_out(&mut kit.ledger);
                    } else {
                        loan.state = State::Due(None, sys::now());
                        self.loans.push(loan);
                    }
                    return Err(failure);
                }
            }
        }
        Ok(loan)
    }

    fn end(
        &mut self,
        kit: &mut Kit,
        reclaims: &mut Reclaims,
        decision: &Decision,
        by: (EpisodeId, u8),
    ) -> Outcome {
        let Some(i) = self.loans.iter().position(|loan| loan.by == Some(by)) else { return Outcome::Nothing };
        let now = sys::now();
        self.loans[i].state = State::Due(Some(decision.id), now);
        self.go_on(kit, reclaims, i, now, &mut |_| ())
    }

    /// What is due goes back as far as its group allows by now.
    pub fn tick(
        &mut self,
        kit: &mut Kit,
        reclaims: &mut Reclaims,
        now: Time,
        reports: &mut dyn FnMut(Report),
    ) {
        for i in (0..self.loans.len()).rev() {
            if self.loans[i].looked_at().is_some_and(|at| at <= now) {
                self.go_on(kit, reclaims, i, now, reports);
            }
        }
    }

    fn go_on(
        &mut self,
        kit: &mut Kit,
        reclaims: &mut Reclaims,
        i: usize,
        now: Time,
        reports: &mut dyn FnMut(Report),
    ) -> Outcome {
        let loan = &mut self.loans[i];
        let lowered = loan.lower(&mut kit.ledger);
        let (state, outcome) = match (lowered, loan.state) {
            // Gone with its group.
            (Err((_, Errno::NODEV | Errno::NOENT)), _) => {
                self.forget(kit, reclaims, i);
                return Outcome::Gone;
            }
            (Err((at, errno)), State::Due(id, _) | State::Back(id, _)) => {
                (State::Due(id, now + LOOK), refused(at, errno))
            }
            (Ok(true), State::Due(id, _)) => {
                reclaims.stop_pressing(loan.group);
                (State::Back(id, now + SETTLED), DONE)
            }
            (Ok(true), State::Back(..)) => {
                self.forget(kit, reclaims, i);
                return DONE;
            }
            // The raised limit was put back by somebody who had read it before.
            (Ok(false), State::Back(id, _)) => (State::Due(id, now), NOT_YET),
            (Ok(false), State::Due(id, _)) => {
                let target = loan.limits.iter().flatten().map(|raised| raised.before).min();
                let target = Bytes(target.unwrap_or(NONE));
                reclaims.press_on(loan.group, &loan.path, target, id.unwrap_or(DecisionId(0)));
                (State::Due(id, now + LOOK), NOT_YET)
            }
            (_, State::Out) => (State::Out, Outcome::Nothing),
        };
        if let (State::Due(Some(decision), _), State::Back(..)) = (loan.state, state) {
            reports(Report { decision, outcome });
        }
        loan.state = state;
        outcome
    }

    fn forget(&mut self, kit: &mut Kit, reclaims: &mut Reclaims, i: usize) {
        let mut loan = self.loans.swap_remove(i);
        reclaims.stop_pressing(loan.group);
        loan.cross_out(&mut kit.ledger);
    }

    /// When [`Loans::tick`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.loans.iter().filter_map(Loan::looked_at).min()
    }

    /// Takes everything back that can be without waiting for it. What is in use stays lent and in the ledger.
    pub fn release_all(&mut self, kit: &mut Kit, reclaims: &mut Reclaims, tally: &mut Tally) {
        let now = sys::now();
        for i in (0..self.loans.len()).rev() {
            let id = match self.loans[i].state {
                State::Out => None,
                State::Due(id, _) | State::Back(id, _) => id,
            };
            self.loans[i].state = State::Due(id, now);
            let back = self.loans[i].lower(&mut kit.ledger);
            match back {
                Ok(true) | Err((_, Errno::NODEV | Errno::NOENT)) => {
                    self.forget(kit, reclaims, i);
                    tally.count(Ok(()));
                }
                Ok(false) => tally.count(Err(failed(Errno::BUSY))),
                Err(failure) => tally.count(Err(failure)),
            }
        }
    }

    /// What an earlier run had lent and nobody could take back so far.
    pub fn adopt(&mut self, kit: &Kit, undone: &[Undone]) {
        for one in undone {
            let (OwnedEntry::GroupLimit { path, inode, which, before, set, was }, Verdict::Failed(..)) =
                (&one.leftover.entry, one.verdict)
            else {
                continue;
            };
            let mount = kit.layout.memory.mount.as_os_str().as_bytes();
            let (Some(below), Ok(dir)) = (path.strip_prefix(mount), paths::open_path(path)) else { continue };
            let same = paths::inode(dir.as_fd()).is_ok_and(|now| now == *inode);
            // Whoever dies between writing down and setting leaves what it was set to before.
            let most = *set.max(was);
            if !same || most <= *before || self.loans.len() == self.loans.capacity() {
                continue;
            }
            let place = one.leftover.place;
            let raised = Raised { which: *which, place, before: *before, most, set: *set, foreign: None };
            self.loans.push(Loan {
                group: GroupId(*inode),
                by: None,
                dir,
                path: below.into(),
                version: kit.layout.version,
                limits: [Some(raised), None],
                state: State::Due(None, Time(0)),
            });
        }
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        !self.loans.is_empty()
    }

    /// By how much limits are raised at this moment.
    pub fn views(&self) -> impl Iterator<Item = (GroupId, Bytes)> {
        self.loans.iter().filter_map(|loan| {
            let more = |raised: &Raised| raised.set.saturating_sub(raised.before);
            let raised = loan.limits.iter().flatten().map(more).max()?;
            (raised > 0).then_some((loan.group, Bytes(raised)))
        })
    }
}

impl Loan {
    /// `None`: there is nothing to be done until it is due.
    fn looked_at(&self) -> Option<Time> {
        match self.state {
            State::Out => None,
            State::Due(_, at) | State::Back(_, at) => Some(at),
        }
    }

    /// `None`: there is no such limit.
    fn raise(
        &self,
        ledger: &mut Ledger,
        path: &[u8],
        which: GroupLimit,
        amount: u64,
    ) -> Result<Option<Raised>, Failure> {
        let before = match which.read(self.dir.as_fd()) {
            Ok(NONE) | Err(Errno::NOENT) => return Ok(None),
            before => before.map_err(failed)?,
        };
        let set = before.saturating_add(amount);
        let entry = Entry::GroupLimit { path, inode: self.group.0, which, before, set, was: set };
        let place = ledger.record(&entry).map_err(|errno| (Operation::Ledger, errno))?;
        match which.write(self.dir.as_fd(), set) {
            Ok(()) => Ok(Some(Raised { which, place, before, most: set, set, foreign: None })),
            Err(errno) => {
                // If this fails the entry is found at the next start, and found to be done with.
                let _ = ledger.erase(place);
                Err(failed(errno))
            }
        }
    }

    /// Whether so much may be lent again of what is on its way back.
    fn may_be_renewed(&self, amount: u64) -> Result<bool, Failure> {
        for raised in self.limits.iter().flatten() {
            let has = raised.which.read(self.dir.as_fd()).map_err(failed)?;
            if !raised.is_ours(has) || raised.most - raised.before != amount {
                return Ok(false);
            }
        }
        Ok(self.limits[0].is_some())
    }

    /// What was on its way back is lent again.
    fn renew(&mut self, ledger: &mut Ledger, by: (EpisodeId, u8)) -> Result<(), Outcome> {
        for raised in self.limits.iter_mut().flatten() {
            raised.change(ledger, &self.dir, raised.most).map_err(|(at, errno)| refused(at, errno))?;
        }
        (self.by, self.state) = (Some(by), State::Out);
        Ok(())
    }

    /// Lowers what is raised as far as usage allows; whether all of it is as it was. Whoever has set another limit meanwhile keeps that.
    fn lower(&mut self, ledger: &mut Ledger) -> Result<bool, Failure> {
        let usage = usage(&self.dir, self.version)?;
        let mut back = true;
        for place in &mut self.limits {
            let Some(raised) = place else { continue };
            let has = raised.which.read(self.dir.as_fd()).map_err(failed)?;
            if !raised.is_ours(has) {
                // A shrink that was begun before may have lowered it for a moment, and puts back what it has read.
                let now = sys::now();
                if now < *raised.foreign.get_or_insert(now) + SETTLED {
                    back = false;
                    continue;
                }
                raised.erase(ledger)?;
                *place = None;
                continue;
            }
            raised.foreign = None;
            let wanted = raised.wanted(usage);
            if has != wanted && !raised.lower(ledger, &self.dir, wanted)? {
                back = false;
                continue;
            }
            raised.set = wanted;
            back &= wanted == raised.before;
        }
        Ok(back)
    }

    fn cross_out(&mut self, ledger: &mut Ledger) {
        for raised in self.limits.iter_mut().filter_map(Option::take) {
            // If this fails the entry is found at the next start, and found to be done with.
            let _ = raised.erase(ledger);
        }
    }
}

impl Raised {
    /// Whether memgov has set this, or it is what there was before.
    fn is_ours(&self, has: u64) -> bool {
        [self.before, self.set, self.most].contains(&has)
    }

    /// Lowers it, unless more has come into use meanwhile than that allows; whether it has.
    fn lower(&mut self, ledger: &mut Ledger, dir: &OwnedFd, wanted: u64) -> Result<bool, Failure> {
        // Written down first, and looked at last: between the look and the write is nothing.
        let set = self.set;
        self.note(ledger, wanted)?;
        if self.which == GroupLimit::Hard && usage(dir, MemoryVersion::V2)? > wanted {
            self.note(ledger, set)?;
            return Ok(false);
        }
        self.write(ledger, dir, wanted).map(|()| true)
    }

    /// What it may be at this usage, on its way back. Never higher than it is.
    fn wanted(&self, usage: u64) -> u64 {
        if usage <= self.before {
            return self.before;
        }
        // The others may be lowered for a moment by whoever shrinks the group, who puts back what he has read: in one go or not at all, or that is taken for
        // somebody's own. On v1 nothing is lost by it: there the kernel refuses.
        if self.which != GroupLimit::Hard {
            return self.set;
        }
        let page = sys::page_size();
        let piece = ((self.most - self.before) / 8).max(LEAST_ROOM);
        let wanted = usage.saturating_add(piece).div_ceil(page).saturating_mul(page);
        // Not for less than a piece: each change is two writes.
        if self.set.saturating_sub(wanted) >= piece { wanted } else { self.set }
    }

    fn change(&mut self, ledger: &mut Ledger, dir: &OwnedFd, wanted: u64) -> Result<(), Failure> {
        self.note(ledger, wanted)?;
        self.write(ledger, dir, wanted)
    }

    fn note(&self, ledger: &mut Ledger, set: u64) -> Result<(), Failure> {
        ledger.set_group_limit(self.place, self.before, set).map_err(|errno| (Operation::Ledger, errno))
    }

    fn write(&mut self, ledger: &mut Ledger, dir: &OwnedFd, wanted: u64) -> Result<(), Failure> {
        match self.which.write(dir.as_fd(), wanted) {
            Ok(()) => {
                self.set = wanted;
                Ok(())
            }
            Err(errno) => {
                self.note(ledger, self.set)?;
                Err(failed(errno))
            }
        }
    }

    fn erase(&self, ledger: &mut Ledger) -> Result<(), Failure> {
        ledger.erase(self.place).map_err(|errno| (Operation::Ledger, errno))
    }
}

const DONE: Outcome = Outcome::Done { processes: 0, by: Mechanism::RaisedLimit };
/// More is in use than the limit allows that is to be put back.
const NOT_YET: Outcome = Outcome::Partial {
    processes: 0,
    refused: 0,
    by: Mechanism::RaisedLimit,
    at: Operation::Lend,
    errno: Errno::BUSY.raw_os_error(),
};

fn usage(dir: &OwnedFd, version: MemoryVersion) -> Result<u64, Failure> {
    usage_in(dir, version).map_err(failed)
}

fn usage_in(dir: &OwnedFd, version: MemoryVersion) -> Result<u64, Errno> {
    let name = if version == MemoryVersion::V1 { v1::USAGE } else { v2::USAGE };
    let mut buffer = [0; 64];
    let bytes = file::read_in(dir.as_fd(), name, &mut buffer)?;
    text::only_line(bytes).and_then(text::number).ok_or(Errno::IO)
}

/// Puts a raised limit back after the end of the run that has raised it, if that can be without waiting: off the acting path. `BUSY`: more is in use than
/// it allows, and the kernel did not get that back at once; then it is left as it is, for whoever comes again.
pub(super) fn take_back(dir: &OwnedFd, which: GroupLimit, before: u64) -> Result<(), Errno> {
    if which == GroupLimit::Hard {
        let usage = usage_in(dir, MemoryVersion::V2)?;
        if usage > before
            && let Ok(reclaim) = file::open_to_write(dir.as_fd(), v2::RECLAIM)
        {
            // Short of the amount or not: usage tells.
            let _ = file::write_once(reclaim, file::Decimal::new((usage - before).min(BIT)).as_bytes());
        }
        if usage_in(dir, MemoryVersion::V2)? > before {
            return Err(Errno::BUSY);
        }
    }
    // v1 reclaims by itself, and refuses with EBUSY where that is not enough; for memory.high nobody is killed.
    match which.write(dir.as_fd(), before) {
        Err(Errno::INTR) => Err(Errno::BUSY),
        done => done,
    }
}
