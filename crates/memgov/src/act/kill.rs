//! SIGKILL, and seeing to it that the killed are dead.
//!
//! Who is killed is checked again just before: identity by pidfd and start time, the never-list, `oom_score_adj`. Whole groups go by
//! `cgroup.kill` where there is such a file and nobody in them is protected, else one by one, again and again until nobody is left. A group is
//! not frozen for that: with a protected process inside (it may be memgov) that would freeze it too, and a killed process forks no more than a frozen
//! one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use memgov_decide::decision::{
    Candidate, DecisionId, Family, Mechanism, Operation, Outcome, Report, Take, Target,
};
use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessId};
use memgov_decide::units::{Bytes, Time};

use super::tree::{Tree, Trees};
use super::{Aim, Kit, Tally, refused};
use crate::kernel::pidfd::PidFd;
use crate::kernel::proc::{self, Stat};
use crate::kernel::{Errno, freeze, sys};

const KILL: u8 = 9;
/// Victims whose deaths are waited for at once. Each costs a descriptor.
const MOST_VICTIMS: usize = 64;
/// Groups whose emptying is waited for at once.
const MOST_GROUPS: usize = 32;
/// How often deaths are looked for.
const LOOK: Duration = Duration::from_millis(5);
/// A victim that lives on so long (in uninterruptible sleep) is reported, so that the next one can be tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rounds through a group that are made at once; if it still is not empty, [`Kills::tick`] goes on.
const ROUNDS: u32 = 8;

#[derive(Debug)]
struct Victim {
    decision: DecisionId,
    who: ProcessId,
    process: PidFd,
    choice: u8,
    by: Mechanism,
    expected: Bytes,
    since: Time,
    stuck: bool,
}

#[derive(Debug)]
struct Emptying {
    decision: DecisionId,
    dir: OwnedFd,
    /// Of these only.
    family: Option<Family>,
    /// Of this tree only.
    tree: Option<usize>,
    processes: u32,
    expected: Bytes,
    by: Mechanism,
    since: Time,
    /// When they are gone through again, to kill those born since.
    again: Time,
}

/// Kills whose end is waited for.
#[derive(Debug)]
pub struct Kills {
    victims: Vec<Victim>,
    groups: Vec<Emptying>,
    trees: Trees,
    next: Time,
}

impl Kills {
    /// Allocates the tables.
    pub fn new() -> Self {
        Self {
            trees: Trees::default(),
            victims: Vec::with_capacity(MOST_VICTIMS),
            groups: Vec::with_capacity(MOST_GROUPS),
            next: Time(0),
        }
    }

    /// Trees of so many processes may have to be killed. Allocates: when rules are put in force.
    pub fn make_room_for_trees(&mut self, processes: u32) {
        self.trees.make_room(processes as usize);
    }

    /// Kills the first of the ranking that can be, or the target.
    pub(super) fn kill(&mut self, kit: &mut Kit, at: &Aim<'_>, take: Take) -> Outcome {
        self.next = sys::now() + LOOK;
        match at.decision.target {
            // Of the machine nobody but one is taken.
            Target::Host => self.kill_ranked(kit, at),
            Target::Group(id, slot) => match take {
                Take::Whole => self.kill_group(kit, at, id, slot, None),
                Take::Family(family) => self.kill_group(kit, at, id, slot, Some(family)),
                Take::One => self.kill_ranked(kit, at),
                Take::Tree(root) => self.kill_tree(kit, at, (id, slot), root),
            },
            Target::Process(..) if at.decision.ranking.iter().next().is_some() => self.kill_ranked(kit, at),
            Target::Process(who, slot) => {
                let rss = at.snap.process(slot).map_or(Bytes(0), |row| {
                    let kinds = [row.rss.anon, row.rss.shmem];
                    kinds.into_iter().flatten().fold(Bytes(0), |sum, kind| sum + kind)
                });
                let only = Candidate { process: who, slot, rss };
                self.kill_one(kit, at.decision.id, 0, &only).unwrap_or_else(|outcome| outcome)
            }
        }
    }

    /// The kernel has killed this process already: its death is all that is left to see.
    pub(super) fn see_die(&mut self, decision: DecisionId, who: ProcessId, expected: Bytes) -> Outcome {
        let since = sys::now();
        self.next = since + LOOK;
        let (by, choice) = (Mechanism::Bpf, 0);
        let Ok(process) = PidFd::open(who) else {
            return Outcome::Dead { processes: 1, by, choice, expected };
        };
        self.await_death(Victim { decision, who, process, choice, by, expected, since, stuck: false })
    }

    /// SIGKILL is sent: it may be dead by now, or still share its memory with one that is not.
    fn await_death(&mut self, victim: Victim) -> Outcome {
        let Victim { choice, by, expected, .. } = victim;
        let _ = victim.process.release_memory();
        if victim.process.exited() == Ok(true) {
            return Outcome::Dead { processes: 1, by, choice, expected };
        }
        if self.victims.len() < self.victims.capacity() {
            self.victims.push(victim);
        }
        Outcome::Done { processes: 1, by }
    }

    /// Down the ranking until one is killed. Why the last could not be is the outcome if none was.
    fn kill_ranked(&mut self, kit: &mut Kit, at: &Aim<'_>) -> Outcome {
        let mut last = Outcome::Nothing;
        for (choice, candidate) in (0u8..).zip(at.decision.ranking.iter()) {
            match self.kill_one(kit, at.decision.id, choice, &candidate) {
                Ok(outcome) => return outcome,
                // A refusal says more than that another one was gone.
                Err(outcome) if !matches!(last, Outcome::Refused { .. }) => last = outcome,
                Err(_) => {}
            }
        }
        last
    }

    /// `Err`: this one could not be, or need not be, killed.
    fn kill_one(
        &mut self,
        kit: &mut Kit,
        decision: DecisionId,
        choice: u8,
        candidate: &Candidate,
    ) -> Result<Outcome, Outcome> {
        let who = candidate.process;
        if self.victims.iter().any(|victim| victim.who == who) {
            // Killed already and not dead yet: another kill would not help it along.
            return Err(refused(Operation::SendSignal, Errno::ALREADY));
        }
        let process = PidFd::open(who).map_err(|errno| missing(Operation::PidfdOpen, errno))?;
        check(kit, who)?;
        process.send(KILL).map_err(|errno| missing(Operation::SendSignal, errno))?;
        let (by, expected, since) = (Mechanism::Pidfd, candidate.rss, sys::now());
        Ok(self.await_death(Victim { decision, who, process, choice, by, expected, since, stuck: false }))
    }

    /// The whole group, or of it the family alone. Those born meanwhile are of it too.
    fn kill_group(
        &mut self,
        kit: &mut Kit,
        at: &Aim<'_>,
        id: GroupId,
        slot: GroupSlot,
        family: Option<Family>,
    ) -> Outcome {
        let (dir, kept) = match at.group(id, slot).and_then(|dir| {
            let kept = freeze::open_group(dir.dir(), c".")
                .map_err(|errno| missing(Operation::ListProcesses, errno))?;
            at.sweep_group(kit, id, slot).map(|()| (dir, kept))
        }) {
            Ok(opened) => opened,
            Err(outcome) => return outcome,
        };
        let (expected, nobody) = match family {
            Some(_) => (at.decision.ranking.iter().fold(Bytes(0), |sum, c| sum + c.rss), Outcome::Gone),
            None if kit.sweep.pids().is_empty() => return Outcome::Nothing,
            // Everybody in it is protected.
            None => (at.snap.group(slot).and_then(|row| row.usage).unwrap_or_default(), Outcome::Withheld),
        };
        let (mut tally, mut large) = (Tally::default(), Large::default());
        let mut by = Mechanism::Pidfd;
        if family.is_none() && spares_nobody(kit, &mut large) && dir.kill().is_ok() {
            by = Mechanism::CgroupKill;
            tally = Tally::of(&kit.sweep);
        } else {
            large = Large::default();
            kill_swept(kit, &mut tally, &mut large, family);
            // Those born meanwhile. The dying are still listed, so only the first round counts.
            for _ in 1..ROUNDS {
                if at.sweep_group(kit, id, slot).is_err()
                    || kill_swept(kit, &mut Tally::default(), &mut large, family) == 0
                {
                    break;
                }
            }
        }
        large.release_memory();
        let (decision, since, processes) = (at.decision.id, sys::now(), tally.reached);
        let again = since + patience_of(by, since, since);
        let tree = None;
        let new = Emptying { decision, dir: kept, family, tree, processes, expected, by, since, again };
        self.await_emptying(new);
        if tally.reached == 0 && tally.failure.is_none() {
            return nobody;
        }
        tally.outcome(by)
    }

    /// One process of the group and all that have come from it. Those born meanwhile are of it too, as long as their parent is seen.
    fn kill_tree(
        &mut self,
        kit: &mut Kit,
        at: &Aim<'_>,
        (id, slot): (GroupId, GroupSlot),
        root: ProcessId,
    ) -> Outcome {
        let Some(place) = self.trees.free() else { return refused(Operation::SendSignal, Errno::AGAIN) };
        let kept = match at.group(id, slot).and_then(|dir| {
            freeze::open_group(dir.dir(), c".").map_err(|errno| missing(Operation::ListProcesses, errno))
        }) {
            Ok(kept) => kept,
            Err(outcome) => return outcome,
        };
        if let Err(outcome) = at.sweep_group(kit, id, slot) {
            return outcome;
        }
        let tree = self.trees.get(place);
        tree.collect(kit, root);
        let (mut tally, mut large) = (Tally::default(), Large::default());
        tree.kill(kit, &mut tally, &mut large);
        for _ in 1..ROUNDS {
            if at.sweep_group(kit, id, slot).is_err() || !tree.grow(kit) {
                break;
            }
            tree.kill(kit, &mut Tally::default(), &mut large);
        }
        large.release_memory();
        let (expected, by) = (tree.resident(), Mechanism::Pidfd);
        if tally.reached == 0 {
            tree.clear();
            return if tally.failure.is_none() { Outcome::Gone } else { tally.outcome(by) };
        }
        let (decision, since, processes) = (at.decision.id, sys::now(), tally.reached);
        let again = since + patience_of(by, since, since);
        let (family, tree) = (None, Some(place));
        self.await_emptying(Emptying {
            decision,
            dir: kept,
            family,
            tree,
            processes,
            expected,
            by,
            since,
            again,
        });
        tally.outcome(by)
    }

    fn await_emptying(&mut self, new: Emptying) {
        if new.processes > 0 && self.groups.len() < self.groups.capacity() {
            self.groups.push(new);
        } else if let Some(tree) = new.tree {
            self.trees.get(tree).clear();
        }
    }

    /// When [`Kills::tick`] must be called next.
    pub fn deadline(&self) -> Option<Time> {
        (!self.victims.is_empty() || !self.groups.is_empty()).then_some(self.next)
    }

    /// Looks who has died; reports those, and those that do not.
    pub(super) fn tick(&mut self, kit: &mut Kit, now: Time, reports: &mut dyn FnMut(Report)) {
        if self.deadline().is_none_or(|next| now < next) {
            return;
        }
        self.next = now + LOOK;
        for i in (0..self.victims.len()).rev() {
            let victim = &mut self.victims[i];
            let report = |outcome| Report { decision: victim.decision, outcome };
            if victim.process.exited() != Ok(false) {
                let Victim { by, choice, expected, .. } = *victim;
                reports(report(Outcome::Dead { processes: 1, by, choice, expected }));
                self.victims.swap_remove(i);
            } else if !victim.stuck && now.since(victim.since) >= PATIENCE {
                reports(report(refused(Operation::SendSignal, Errno::TIMEDOUT)));
                victim.stuck = true;
            } else {
                let _ = victim.process.release_memory();
            }
        }
        for i in (0..self.groups.len()).rev() {
            let group = &mut self.groups[i];
            let outcome = match group.tree {
                None => empty(kit, group, now),
                Some(tree) => fell(kit, group, self.trees.get(tree), now),
            };
            if let Some(outcome) = outcome {
                reports(Report { decision: group.decision, outcome });
                if let Some(tree) = group.tree {
                    self.trees.get(tree).clear();
                }
                self.groups.swap_remove(i);
            }
        }
        if self.victims.iter().all(|victim| victim.stuck) && self.groups.is_empty() {
            self.next = now + PATIENCE;
        }
    }
}

/// `Some`: it is over. Whoever is left and may be killed is killed again, though not at every look: the killed need the processor to die, and each that is looked
/// at takes some of it.
fn empty(kit: &mut Kit, group: &mut Emptying, now: Time) -> Option<Outcome> {
    let dead = |processes| Outcome::Dead { processes, by: group.by, choice: 0, expected: group.expected };
    if kit.sweep.collect(std::os::fd::AsFd::as_fd(&group.dir)).is_err() || kit.sweep.pids().is_empty() {
        return Some(dead(group.processes));
    }
    if now < group.again {
        return None;
    }
    let begin = sys::now();
    if kill_swept(kit, &mut Tally::default(), &mut Large::default(), group.family) == 0 {
        return Some(dead(group.processes));
    }
    group.again = sys::now() + patience_of(group.by, begin, sys::now());
    (now.since(group.since) >= PATIENCE).then_some(refused(Operation::SendSignal, Errno::TIMEDOUT))
}

/// The same of a tree, of which it is known who is in it.
fn fell(kit: &mut Kit, group: &mut Emptying, tree: &mut Tree, now: Time) -> Option<Outcome> {
    if !tree.lives(kit) {
        let Emptying { processes, by, expected, .. } = *group;
        return Some(Outcome::Dead { processes, by, choice: 0, expected });
    }
    if now < group.again {
        return None;
    }
    let begin = sys::now();
    if kit.sweep.collect(std::os::fd::AsFd::as_fd(&group.dir)).is_ok() {
        tree.grow(kit);
    }
    tree.kill(kit, &mut Tally::default(), &mut Large::default());
    group.again = sys::now() + patience_of(group.by, begin, sys::now());
    (now.since(group.since) >= PATIENCE).then_some(refused(Operation::SendSignal, Errno::TIMEDOUT))
}

/// How long the killed are left to die after a round through them. `cgroup.kill` takes along who is being born (kernel/cgroup/cgroup.c), so nobody has to come
/// back for those.
fn patience_of(by: Mechanism, begin: Time, end: Time) -> Duration {
    let least = if by == Mechanism::CgroupKill { LOOK * 40 } else { LOOK };
    least.max(end.since(begin) * 4)
}

/// Kills each of the last sweep (of the family, if one is given) that may be and is not dying; returns how many.
fn kill_swept(kit: &mut Kit, tally: &mut Tally, large: &mut Large, family: Option<Family>) -> u32 {
    let mut killed = 0;
    let mut buffer = [0; proc::STAT_BUFFER];
    for i in 0..kit.sweep.pids().len() {
        let pid = kit.sweep.pids()[i];
        let Ok(stat) = proc::read_stat(pid, &mut buffer) else { continue };
        let is_of = |family: Family| family.holds(stat.id(), stat.session, &stat.comm);
        if stat.is_ending() || !family.is_none_or(is_of) || spared(kit, &stat) {
            continue;
        }
        killed += u32::from(kill_this(&stat, tally, large));
    }
    killed
}

/// Whether it has its signal.
pub(super) fn kill_this(stat: &Stat, tally: &mut Tally, large: &mut Large) -> bool {
    let done = PidFd::open(stat.id())
        .map_err(|errno| (Operation::PidfdOpen, errno))
        .and_then(|process| process.send(KILL).map_err(|errno| (Operation::SendSignal, errno)));
    large.note(stat);
    tally.count(done);
    done.is_ok()
}

/// Those of a group whose memory is worth a call of its own, when all have their signal. Such a call waits for whoever has the lock on that address space: a process
/// of a fork bomb in the middle of its fork, which may not get a processor for a long time. (A loop that did it for each took 50 s to kill a few hundred, and
/// was taken for hung.) The small ones give theirs back as they end.
#[derive(Default)]
pub(super) struct Large {
    processes: [Option<ProcessId>; 4],
}

impl Large {
    /// From here on it is.
    const LEAST: u64 = 32 << 20;

    fn note(&mut self, stat: &Stat) {
        let pages = Self::LEAST / sys::page_size();
        if stat.resident.is_some_and(|resident| resident >= pages)
            && let Some(free) = self.processes.iter_mut().find(|place| place.is_none())
        {
            *free = Some(stat.id());
        }
    }

    fn release_memory(&self) {
        for &who in self.processes.iter().flatten() {
            let _ = PidFd::open(who).and_then(|process| process.release_memory());
        }
    }
}

/// Whether everybody of the last sweep may be killed, so that the kernel can do it in one go.
fn spares_nobody(kit: &mut Kit, large: &mut Large) -> bool {
    let mut buffer = [0; proc::STAT_BUFFER];
    kit.sweep.overflow() == 0
        && (0..kit.sweep.pids().len()).all(|i| {
            let pid = kit.sweep.pids()[i];
            match proc::read_stat(pid, &mut buffer) {
                Ok(stat) => {
                    large.note(&stat);
                    stat.is_ending() || !spared(kit, &stat)
                }
                Err(errno) => matches!(errno, Errno::NOENT | Errno::SRCH),
            }
        })
}

/// Never touched, or taken out of every choice of victim by `oom_score_adj` -1000.
pub(super) fn spared(kit: &mut Kit, stat: &Stat) -> bool {
    kit.guard.forbids(stat).is_some() || proc::read_oom_score_adj(stat.pid, &mut [0; 16]) == Ok(-1000)
}

fn check(kit: &mut Kit, who: ProcessId) -> Result<(), Outcome> {
    let mut buffer = [0; proc::STAT_BUFFER];
    let stat =
        proc::read_stat(who.pid, &mut buffer).map_err(|errno| missing(Operation::ReadProcess, errno))?;
    if stat.id() != who || stat.has_ended() {
        return Err(Outcome::Gone);
    }
    if spared(kit, &stat) { Err(Outcome::Withheld) } else { Ok(()) }
}

fn missing(at: Operation, errno: Errno) -> Outcome {
    match errno {
        Errno::SRCH | Errno::NOENT | Errno::NODEV => Outcome::Gone,
        errno => refused(at, errno),
    }
}
