//! Carries out what `decide` has decided: nothing is chosen here, only done, verified, and undone again.
//!
//! Two rules hold everywhere below. What is reversible stands in the [`ledger`] before it is made. And the acting path ([`Actor::perform`],
//! [`Actor::tick`]) allocates nothing: tables and buffers are made in [`Actor::new`]. Whatever the kernel answers (a process that is gone, a
//! group that is busy, a right that is missing) becomes an [`Outcome`], never a panic.

mod brake;
mod crew;
mod deny;
mod group_limit;
mod guard;
mod guardian;
mod holders;
mod holds;
pub mod hook;
mod inside;
mod kept_limit;
mod kill;
pub mod ledger;
mod lend;
mod limits;
mod oom_killer;
mod paths;
mod pids;
mod pool;
mod reclaim;
mod rehearsal;
mod same_members;
pub mod shrink;
mod signal;
pub mod situation;
mod slow;
mod squeeze;
pub mod strays;
mod sweep;
mod tree;

pub use deny::DeniedView;
pub use guardian::{Guardian, Heart, Post, stand_guard};
pub use holds::HoldView;
pub use inside::{Inside, Of, REMEMBERED, Refused, SWEPT};
pub use ledger::{Ledger, Leftover, Undone, Verdict};
pub use pids::Stood;
pub use reclaim::MakeBook;
pub use rehearsal::Finding;
pub use slow::SlowedView;
pub use squeeze::Squeezed;

use memgov_decide::decision::{
    Decision, EpisodeId, Mechanism, Operation, Order, Outcome, Phase, Report, Target,
};
use memgov_decide::policy::{Kinds, Meter, Policy, ProcessMatch};
use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessId, Snapshot};
use memgov_decide::units::Time;

use crate::bpf::EventKind;
use crate::kernel::{Errno, Error, GroupDir, Layout, proc, sys};
use guard::Guard;
use limits::Refusal;
use sweep::Sweep;

/// Open groups by their row; `observe` has them.
pub trait GroupDirs {
    /// The group in a slot, if it is open.
    fn dir(&self, slot: GroupSlot) -> Option<&GroupDir>;
}

/// How to act.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decide and record, touch nothing.
    pub dry_run: bool,
    /// Processes that can be denied at once.
    pub max_holds: u32,
    /// Groups and processes that can be slowed at once.
    pub max_slowed: u32,
    /// Processes of one group that are looked at in one sweep.
    pub max_processes: u32,
    /// Who is never touched, beside what facts forbid.
    pub never: Vec<ProcessMatch>,
    /// The guardian's pid.
    pub guardian: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dry_run: false,
            max_holds: 2048,
            max_slowed: 256,
            max_processes: 4096,
            never: Vec::new(),
            guardian: None,
        }
    }
}

/// What everything that acts needs.
#[derive(Debug)]
struct Kit {
    layout: Layout,
    ledger: Ledger,
    guard: Guard,
    sweep: Sweep,
}

/// Word of threads that reclaim is looked for so often.
const WORD: std::time::Duration = std::time::Duration::from_millis(100);

/// What the kernel's events call it.
const SIGKILL: u8 = 9;

/// Carries decisions out.
#[derive(Debug)]
pub struct Actor {
    kit: Kit,
    denials: deny::Denials,
    /// Groups that may have no more processes.
    caps: pids::Caps,
    slowdowns: slow::Slowdowns,
    kills: kill::Kills,
    reclaims: reclaim::Reclaims,
    loans: lend::Loans,
    /// Groups whose TCP limit is kept at what is left of their pool.
    pools: pool::Pools,
    /// Groups whose sockets stop growing.
    squeezes: squeeze::Squeezes,
    oom_killers: oom_killer::OomKillers,
    hooks: hook::Hooks,
    /// What is looked at before a kill.
    host_files: situation::HostFiles,
    /// Enforcement inside the kernel, where there is any.
    pub inside: Option<Inside>,
    dry_run: bool,
}

/// What was given back at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Processes and groups released.
    pub count: u32,
    /// Of those that were to be: not released; their entries stay in the ledger.
    pub failed: u32,
}

impl Actor {
    /// Everything is allocated here. The ledger must have been opened and its leftovers undone.
    pub fn new(layout: &Layout, ledger: Ledger, options: Options) -> Result<Self, Error> {
        let slowdowns = slow::Slowdowns::new(layout, options.max_slowed)?;
        Ok(Self {
            kit: Kit {
                layout: layout.clone(),
                ledger,
                guard: Guard::new(layout, options.never, options.guardian),
                sweep: Sweep::with_capacity(options.max_processes),
            },
            denials: deny::Denials::with_capacity(options.max_holds),
            caps: pids::Caps::new(),
            slowdowns,
            kills: kill::Kills::new(),
            reclaims: reclaim::Reclaims::new(layout),
            loans: lend::Loans::new(),
            pools: pool::Pools::new(),
            squeezes: squeeze::Squeezes::new(layout),
            oom_killers: oom_killer::OomKillers::new(),
            hooks: hook::Hooks::new(layout),
            host_files: situation::HostFiles::open(),
            inside: None,
            dry_run: options.dry_run,
        })
    }

    /// Carries one decision out as far as that is possible at once; what takes time (deaths, duty cycles) goes on in [`Actor::tick`].
    pub fn perform(&mut self, decision: &Decision, snap: &Snapshot, groups: &dyn GroupDirs) -> Outcome {
        if let (Order::Relieved, Target::Process(who, slot), Some(inside)) =
            (decision.order, decision.target, &mut self.inside)
        {
            inside.arm(slot, who);
        }
        if matches!(decision.order, Order::Record | Order::Relieved) {
            return Outcome::Nothing;
        }
        if self.dry_run {
            return Outcome::DryRun;
        }
        let at = Aim { decision, snap, groups };
        match decision.order {
            // Asking is telling: behind the record.
            Order::Record | Order::Relieved | Order::Ask { .. } | Order::Answered { .. } => Outcome::Nothing,
            Order::Deny { phase, meter: Meter::Kernel } => self.deny_kernel(&at, phase),
            Order::Deny { phase, meter } => {
                let mut tally = Tally::default();
                let kinds = if let Meter::Rss(kinds) = meter { kinds } else { Kinds::default() };
                let inside = phase != Phase::End && self.deny_inside(&at);
                let refusal = if inside { Refusal::Locks } else { Refusal::Mappings(kinds) };
                let gone = self.deny(&at, phase, refusal, &mut tally);
                gone.unwrap_or_else(|| tally.outcome(if inside { Mechanism::Bpf } else { deny::BY }))
            }
            Order::Slow { phase: Phase::End, .. } => self.slowdowns.release(&mut self.kit, decision.episode),
            Order::Slow { share, .. } => self.slowdowns.hold(&mut self.kit, &at, share),
            Order::Freeze { phase: Phase::End } => self.slowdowns.release(&mut self.kit, decision.episode),
            Order::Freeze { phase: Phase::Sustain } if self.slowdowns.stands_still(decision.episode) => {
                Outcome::Nothing
            }
            Order::Freeze { .. } => self.slowdowns.hold(&mut self.kit, &at, slow::FROZEN),
            Order::Reclaim { phase, meter, extent, share } => {
                self.reclaims.order(decision, phase, reclaim::Goal { meter, extent, share }, snap)
            }
            Order::Lend { phase, amount } => {
                self.loans.order(&mut self.kit, &mut self.reclaims, &at, phase, amount)
            }
            Order::Squeeze { phase } => self.squeezes.order(decision, phase, snap),
            Order::Hook => self.hooks.order(decision, snap),
            Order::Signal { signal } => {
                self.sent_inside(&at, signal).unwrap_or_else(|| signal::send(&mut self.kit, &at, signal))
            }
            Order::Kill { take } => {
                let outcome = match self.killed_inside(&at) {
                    Some(who) => {
                        let expected = decision.ranking.iter().next().map_or(Default::default(), |c| c.rss);
                        self.kills.see_die(decision.id, who, expected)
                    }
                    None => self.kills.kill(&mut self.kit, &at, take),
                };
                // A v1 freezer keeps even the killed from dying.
                self.slowdowns.let_die(&mut self.kit, &at, sys::now());
                outcome
            }
        }
    }

    /// What there is to see before this kill is carried out. It touches nothing.
    pub fn look_before_kill(
        &mut self,
        decision: &Decision,
        snap: &Snapshot,
        groups: &dyn GroupDirs,
        seen: &mut situation::Situation,
    ) {
        self.host_files.look(&mut self.kit, &Aim { decision, snap, groups }, seen);
    }

    /// Refuses kernel memory: the kernel in each call that asks for it, else from outside new processes and threads at least.
    fn deny_kernel(&mut self, at: &Aim<'_>, phase: Phase) -> Outcome {
        let (Target::Group(id, slot), episode) = (at.decision.target, at.decision.episode) else {
            return refused(Operation::PidsMax, Errno::OPNOTSUPP);
        };
        if phase == Phase::End {
            if let Some(inside) = &mut self.inside {
                inside.release(episode);
            }
            let mut tally = Tally::default();
            self.caps.release(&mut self.kit, episode, &mut tally);
            return tally.outcome(Mechanism::PidsMax);
        }
        let level = at.snap.group(slot).map_or(0, |row| self.kit.layout.level_of(&row.path));
        if let Some(inside) = self.inside.as_mut().filter(|inside| inside.counts)
            && inside.hold(at.decision.target, Of::KernelMemory, level, episode).is_ok()
        {
            let begin = sys::now();
            if phase == Phase::Sustain && !inside.sweep_is_due(slot, id, begin) {
                // It stands. A bomb of a thousand processes is not read through every few milliseconds: that would keep memgov from renewing its lease.
                return Outcome::Nothing;
            }
            let swept =
                at.sweep_group(&mut self.kit, id, slot).map(|()| self.exempt_protected(Refusal::Locks));
            if let Some(inside) = &mut self.inside {
                inside.was_swept(slot, begin, sys::now());
            }
            return match (phase, swept) {
                // Whoever could not be looked at is looked at again; the refusal stands.
                (Phase::Sustain, _) => Outcome::Nothing,
                (_, Err(outcome)) => outcome,
                (_, Ok(())) => Tally::of(&self.kit.sweep).outcome(Mechanism::Bpf),
            };
        }
        self.caps.hold(&mut self.kit, at, id, slot)
    }

    /// Has the kernel refuse mappings; whether it does.
    fn deny_inside(&mut self, at: &Aim<'_>) -> bool {
        let Some(inside) = self.inside.as_mut().filter(|inside| inside.denies) else { return false };
        let level = match at.decision.target {
            Target::Host => return false,
            Target::Group(_, slot) => {
                at.snap.group(slot).map_or(0, |row| self.kit.layout.level_of(&row.path))
            }
            Target::Process(who, _) => {
                if at.guarded(&mut self.kit, who).is_err() {
                    return false;
                }
                0
            }
        };
        inside.hold(at.decision.target, Of::Memory, level, at.decision.episode).is_ok()
    }

    /// `Some`: the kernel has sent this process its signal already. From now on until it is relieved signals are sent from here.
    fn sent_inside(&mut self, at: &Aim<'_>, signal: u8) -> Option<Outcome> {
        let (Target::Process(who, slot), Some(inside)) = (at.decision.target, &mut self.inside) else {
            return None;
        };
        inside.disarm(slot, who);
        let sent = inside.took(EventKind::Signalled, who, signal);
        sent.then_some(Outcome::Done { processes: 1, by: Mechanism::Bpf })
    }

    /// `Some`: the kernel has killed the target already.
    fn killed_inside(&mut self, at: &Aim<'_>) -> Option<ProcessId> {
        match (at.decision.target, &mut self.inside) {
            (Target::Process(who, _), Some(inside)) => {
                inside.took(EventKind::Killed, who, SIGKILL).then_some(who)
            }
            _ => None,
        }
    }

    /// `Some`: there was nobody to do it to.
    fn deny(&mut self, at: &Aim<'_>, phase: Phase, refusal: Refusal, tally: &mut Tally) -> Option<Outcome> {
        let episode = at.decision.episode;
        if phase == Phase::End {
            if let Some(inside) = &mut self.inside {
                inside.release(episode);
            }
            // Children that no event has told of: before, while all their parents are known; and those born in between.
            if matches!(at.decision.target, Target::Group(..)) && at.sweep_around(&mut self.kit).is_ok() {
                self.denials.free_heirs(&mut self.kit);
            }
            self.denials.release(&mut self.kit, episode, tally);
            if at.sweep_around(&mut self.kit).is_ok() {
                self.denials.free_heirs(&mut self.kit);
            }
            return None;
        }
        match at.decision.target {
            Target::Host => Some(of_the_host(Operation::Prlimit)),
            Target::Process(who, _) => match at.guarded(&mut self.kit, who) {
                Err(outcome) => Some(outcome),
                Ok(()) => {
                    self.denials.hold_process(&mut self.kit, who, episode, refusal, tally);
                    tally.gone_if_nobody()
                }
            },
            Target::Group(id, slot) => match at.sweep_group(&mut self.kit, id, slot) {
                Err(outcome) => Some(outcome),
                Ok(()) => {
                    self.exempt_protected(refusal);
                    self.denials.hold_group(&mut self.kit, episode, refusal, tally);
                    tally.overflow(self.kit.sweep.overflow());
                    None
                }
            },
        }
    }

    /// Whoever of the last sweep may not be touched is not to be refused by the kernel either.
    fn exempt_protected(&mut self, refusal: Refusal) {
        let Some(inside) = self.inside.as_mut().filter(|_| refusal == Refusal::Locks) else { return };
        let mut buffer = [0; proc::STAT_BUFFER];
        for &pid in self.kit.sweep.pids() {
            if let Ok(stat) = proc::read_stat(pid, &mut buffer)
                && self.kit.guard.forbids(&stat).is_some()
            {
                inside.exempt_swept(stat.id(), &mut proc::is_there);
            }
        }
    }

    /// What time brings: slowed processes stop and go on, deaths are seen, emptied hold groups are removed.
    pub fn tick(&mut self, now: Time, reports: &mut dyn FnMut(Report)) {
        self.slowdowns.tick(&mut self.kit, now);
        self.caps.tick(&mut self.kit, now);
        self.kills.tick(&mut self.kit, now, reports);
        self.loans.tick(&mut self.kit, &mut self.reclaims, now, reports);
        self.reclaims.tick(reports);
        self.hooks.tick(reports);
        self.squeezes.tick();
    }

    /// When [`Actor::tick`] must be called next.
    pub fn deadline(&self) -> Option<Time> {
        // Word of a thread that could do nothing is not urgent, and whoever waits for a program looks more often anyway.
        let word =
            (self.reclaims.busy() || self.hooks.busy() || self.squeezes.busy()).then(|| sys::now() + WORD);
        let own = [
            self.slowdowns.deadline(),
            self.caps.deadline(),
            self.kills.deadline(),
            self.loans.deadline(),
            word,
        ];
        own.into_iter().flatten().min()
    }

    /// `parent` has forked `child`. A child of a denied process was born with the lowered limits: it gets its own back, or is denied itself
    /// where its whole group is.
    pub fn process_forked(&mut self, parent: u32, child: u32) {
        self.denials.process_forked(&mut self.kit, parent, child);
    }

    /// Gives everything back.
    pub fn release_all(&mut self) -> Released {
        let mut tally = Tally::default();
        self.hooks.call_off();
        self.squeezes.let_go();
        if let Some(inside) = &mut self.inside {
            inside.clear();
        }
        self.slowdowns.release_all(&mut self.kit, &mut tally);
        self.denials.release_all(&mut self.kit, &mut tally);
        self.caps.release_all(&mut self.kit, &mut tally);
        self.pools.release_all(&mut self.kit, &mut tally);
        self.oom_killers.release_all(&mut self.kit, &mut tally);
        self.loans.release_all(&mut self.kit, &mut self.reclaims, &mut tally);
        Released { count: tally.reached, failed: tally.refused }
    }

    /// Whether anybody is refused memory at this moment.
    pub fn denies(&self) -> bool {
        self.denials.views().next().is_some()
    }

    /// The ledger, for the guardian and status.
    pub fn ledger(&self) -> &Ledger {
        &self.kit.ledger
    }

    /// The same, for what is lowered on another thread.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.kit.ledger
    }

    /// Replaces the never-list after a reload. Where that begins a dry run, everything in force is given back.
    pub fn reconfigure(&mut self, never: Vec<ProcessMatch>, dry_run: bool) {
        self.kit.guard.set_never(never);
        if let Some(inside) = &mut self.inside {
            let (guard, mut buffer) = (&mut self.kit.guard, [0; proc::STAT_BUFFER]);
            inside.judge_swept(&mut |who| {
                let stat = proc::read_stat(who.pid, &mut buffer);
                stat.is_ok_and(|stat| stat.id() == who && guard.forbids(&stat).is_some())
            });
        }
        // What is in force would stay: in a dry run not even an end is carried out.
        if dry_run && !self.dry_run {
            self.release_all();
        }
        self.dry_run = dry_run;
    }

    /// From now on what the kernel can do by itself is told to it.
    pub fn enforce_inside(&mut self, inside: Option<Inside>) {
        if let Some(inside) = &inside {
            self.kit.guard.keep_alive(inside.maps());
        }
        self.inside = inside;
    }

    /// What is beaten while many processes are gone through: the round of the loop is not over then, but it goes on.
    pub fn beat(&mut self, heart: Heart) {
        self.kit.guard.beat(heart);
    }

    /// Another guardian, or none: never to be touched.
    pub fn set_guardian(&mut self, guardian: Option<u32>) {
        self.kit.guard.set_guardian(guardian);
    }

    /// Nothing is touched.
    pub const fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The kernel's share of the work, unless nothing is to be touched.
    pub fn inside(&mut self) -> Option<&mut Inside> {
        self.inside.as_mut().filter(|_| !self.dry_run)
    }

    /// Reclaim needs threads, and these the ledger; both are made when the first rule asks for them ([`Actor::reclaim_ready`]).
    pub fn reclaim_by(&mut self, make: MakeBook) {
        self.reclaims.prepare(make);
    }

    /// Some rule asks for reclaim. Allocates; not on the acting path.
    pub fn reclaim_ready(&mut self) {
        self.reclaims.start();
    }

    /// Some rule squeezes sockets. Allocates; not on the acting path.
    pub fn squeeze_ready(&mut self, wanted: bool, never: Vec<ProcessMatch>) {
        if wanted && !self.dry_run {
            let kernel = self.inside.as_ref().map(Inside::maps);
            self.squeezes.start(self.reclaims.book(), never, kernel);
        }
    }

    /// The kernel tells of a connection that has come to be in a group whose sockets are squeezed. (hot)
    pub fn connection_born(&self) {
        self.squeezes.born();
    }

    /// How often sockets were squeezed, and released.
    pub fn squeezed(&self) -> Squeezed {
        self.squeezes.counts()
    }

    /// What an earlier run had lent and could not be taken back so far: from now on that is tried here. At start.
    pub fn take_over(&mut self, undone: &[Undone]) {
        self.loans.adopt(&self.kit, undone);
        if self.loans.any() && !self.dry_run {
            self.reclaims.start();
        }
    }

    /// Where goes what programs of hooks write.
    pub fn tell_output_by(&mut self, tell: hook::Tell) {
        self.hooks.tell_by(tell);
    }

    /// Who has registered as whose handler.
    pub fn handlers(&self) -> std::sync::Arc<hook::Handlers> {
        self.hooks.handlers()
    }

    /// What this policy may come to: programs of its hooks, room for trees. Allocates; not on the acting path.
    pub fn plan(&mut self, policy: &Policy) {
        self.hooks.plan(policy, !self.dry_run);
        if policy.takes_trees() {
            self.kills.make_room_for_trees(self.kit.sweep.room());
        }
    }

    /// Ends reclaim and programs of hooks; the threads may ask for the ledger until [`Actor::threads_ended`].
    pub fn end_threads(&mut self) {
        self.reclaims.stop();
        self.hooks.stop();
        self.pools.stop();
        self.squeezes.stop();
    }

    /// Whether they are gone.
    pub fn threads_ended(&self) -> bool {
        self.reclaims.stopped() && self.hooks.stopped() && self.pools.stopped() && self.squeezes.stopped()
    }

    /// By what reclaim is done here.
    pub const fn reclaims_by(layout: &Layout) -> Mechanism {
        reclaim::Reclaims::by(layout)
    }

    /// Runs the fatal path, and the others, against a child of its own. At start, before anything is governed.
    pub fn rehearse(&mut self) -> Vec<Finding> {
        if self.dry_run {
            return Vec::new();
        }
        rehearsal::run(&mut self.kit, &mut self.slowdowns, &mut self.denials)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.release_all();
    }
}

/// A decision and where its target is.
struct Aim<'a> {
    decision: &'a Decision,
    snap: &'a Snapshot,
    groups: &'a dyn GroupDirs,
}

impl<'a> Aim<'a> {
    /// The open group, if it is the one that was meant.
    fn group(&self, id: GroupId, slot: GroupSlot) -> Result<&'a GroupDir, Outcome> {
        let dir = self.groups.dir(slot).ok_or(Outcome::Gone)?;
        if dir.id() == id { Ok(dir) } else { Err(Outcome::Gone) }
    }

    fn sweep_group(&self, kit: &mut Kit, id: GroupId, slot: GroupSlot) -> Result<(), Outcome> {
        let dir = self.group(id, slot)?;
        kit.sweep.collect(dir.dir()).map_err(|errno| match errno {
            Errno::NODEV | Errno::NOENT => Outcome::Gone,
            errno => refused(Operation::ListProcesses, errno),
        })
    }

    /// The target group, or the group around the target process; not all processes of the host for the sake of one.
    fn sweep_around(&self, kit: &mut Kit) -> Result<(), Outcome> {
        match self.decision.target {
            Target::Host => Err(of_the_host(Operation::ListProcesses)),
            Target::Group(id, slot) => self.sweep_group(kit, id, slot),
            Target::Process(_, slot) => {
                let group = self.snap.process(slot).and_then(|row| row.group).ok_or(Outcome::Gone)?;
                if self.snap.group(group).is_none_or(|row| *row.path == *b"/") {
                    return Err(Outcome::Gone);
                }
                let dir = self.groups.dir(group).ok_or(Outcome::Gone)?;
                self.sweep_group(kit, dir.id(), group)
            }
        }
    }

    /// Whether a process still is who it was, and may be touched.
    fn guarded(&self, kit: &mut Kit, who: ProcessId) -> Result<(), Outcome> {
        let mut buffer = [0; proc::STAT_BUFFER];
        match proc::read_stat(who.pid, &mut buffer) {
            Ok(stat) if stat.id() != who || stat.has_ended() => Err(Outcome::Gone),
            Ok(stat) if kit.guard.forbids(&stat).is_some() => Err(Outcome::Withheld),
            Ok(_) => Ok(()),
            Err(Errno::NOENT | Errno::SRCH) => Err(Outcome::Gone),
            Err(errno) => Err(refused(Operation::ReadProcess, errno)),
        }
    }
}

fn refused(at: Operation, errno: Errno) -> Outcome {
    match (at, errno) {
        (Operation::Ledger, Errno::NOSPC) => Outcome::LedgerFull,
        _ => Outcome::Refused { at, errno: errno.raw_os_error() },
    }
}

/// Nothing is done to the machine as a whole: for its sake jobs are hit, and decisions about those name them.
fn of_the_host(at: Operation) -> Outcome {
    refused(at, Errno::OPNOTSUPP)
}

/// Whether everybody of the last sweep may be touched; who has gone meanwhile is nobody.
fn nobody_is_protected(kit: &mut Kit) -> bool {
    let mut buffer = [0; proc::STAT_BUFFER];
    (0..kit.sweep.pids().len()).all(|i| {
        let stat = proc::read_stat(kit.sweep.pids()[i], &mut buffer);
        stat.is_err() || stat.is_ok_and(|stat| kit.guard.forbids(&stat).is_none())
    })
}

/// Counts how it went with many.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    reached: u32,
    refused: u32,
    gone: u32,
    failure: Option<(Operation, Errno)>,
}

impl Tally {
    /// All of the last sweep were reached.
    fn of(sweep: &Sweep) -> Self {
        let reached = u32::try_from(sweep.pids().len()).unwrap_or(u32::MAX);
        Self { reached, ..Self::default() }
    }

    fn count(&mut self, result: Result<(), (Operation, Errno)>) {
        match result {
            Ok(()) => self.reached += 1,
            Err((operation, Errno::SRCH)) if operation != Operation::Ledger => self.gone += 1,
            Err((Operation::ReadProcess, Errno::NOENT)) => self.gone += 1,
            Err(failure) => {
                self.refused += 1;
                self.failure = Some(failure);
            }
        }
    }

    /// Processes that were not even looked at.
    fn overflow(&mut self, processes: u32) {
        if processes > 0 {
            self.refused = self.refused.saturating_add(processes);
            self.failure = Some((Operation::ListProcesses, Errno::NOBUFS));
        }
    }

    fn gone_if_nobody(&self) -> Option<Outcome> {
        (self.reached == 0 && self.refused == 0 && self.gone > 0).then_some(Outcome::Gone)
    }

    fn outcome(&self, by: Mechanism) -> Outcome {
        match (self.reached, self.failure) {
            (0, None) => Outcome::Nothing,
            (processes, None) => Outcome::Done { processes, by },
            (0, Some((at, errno))) => refused(at, errno),
            (processes, Some((at, errno))) => {
                Outcome::Partial { processes, refused: self.refused, by, at, errno: errno.raw_os_error() }
            }
        }
    }
}

/// An episode that no governor gives out: for rehearsals.
const NO_EPISODE: EpisodeId = EpisodeId(u64::MAX);
