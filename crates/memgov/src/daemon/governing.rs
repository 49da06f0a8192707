//! The loop: observe, decide, act, record, again. One thread; between two ticks it sleeps until something happens or
//! something is due. Serving requests is the only thing it does besides, one queue entry at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use memgov_decide::decision::{Decision, Decisions, Order, Outcome, Report};
use memgov_decide::governor::{Bounds, Elsewhere, Governor};
use memgov_decide::snapshot::{Group, GroupSlot, ProcessSlot, Snapshot};
use memgov_decide::units::Time;
use rustix::fd::{AsFd as _, OwnedFd};

use super::queue::Ticket;
use super::succession::Sentry;
use crate::act::{Actor, Heart, Stood};
use crate::bpf::EventKind;
use crate::kernel::{Error, sys};
use crate::observe::Observer;
use crate::record::Recorder;
use crate::record::event::{self, Names};
use crate::record::trace::Tape;

/// Bits of [`crate::observe::Woken::others`].
pub(super) const REQUESTS: u32 = 0;
/// See [`REQUESTS`].
pub(super) const SIGNALS: u32 = 1;
/// See [`REQUESTS`].
const GUARDIAN: u32 = 2;
/// See [`REQUESTS`].
pub(super) const INSIDE: u32 = 3;
/// Events of the kernel's own enforcement that are taken in at once; more come in the next tick.
pub(super) const HEARD: usize = 356;
/// What the kernel did is found by the order it stands for in the same tick.
const _: () = assert!(HEARD <= crate::act::REMEMBERED);
/// Events of the kernel's own enforcement wake the loop no more often than this; what comes in between is taken in together. Anybody can cause them.
const INSIDE_REST: Duration = Duration::from_millis(10);

/// However much is due at once, so much time is left to others between two ticks.
const SHORTEST_REST: Duration = Duration::from_micros(500);
/// Reports of the actor between two ticks.
const REPORTS: usize = 1024;

/// Counters for status, read by other threads.
#[derive(Debug, Default)]
pub struct Counts {
    /// Times round the loop.
    pub ticks: AtomicU64,
    /// Decisions worth a record.
    pub decisions: AtomicU64,
    /// Kills.
    pub kills: AtomicU64,
    /// Decisions that were refused, wholly or in part.
    pub refused: AtomicU64,
    /// The guardian's pid; 0: there is none.
    pub guardian: AtomicU32,
    /// Guardians that died.
    pub guardians_lost: AtomicU64,
}

/// What a signal asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    Reload,
    Stop,
}

/// The loop with all it owns.
pub(super) struct Governing {
    pub snap: Snapshot,
    pub governor: Governor,
    pub observer: Observer,
    pub actor: Actor,
    pub recorder: Recorder,
    pub tape: Tape,
    pub heart: Option<Heart>,
    pub guardian: Option<Sentry>,
    pub requests: Receiver<Ticket>,
    pub request_bell: Arc<OwnedFd>,
    pub signals: OwnedFd,
    /// Tells the chores thread that SIGHUP came.
    pub reload: Box<dyn Fn() + Send>,
    /// Tells it that a group is gone, and with it the rules that were set on it.
    pub prune: Box<dyn Fn() + Send>,
    /// Has programs attached and others detached; whether the chores thread has taken it on.
    pub attach: Box<dyn Fn() -> bool + Send>,
    /// What the kernel's own enforcement tells, and what of it belongs to this tick.
    pub events: Option<crate::bpf::Events>,
    pub heard: Vec<crate::bpf::Event>,
    /// Until then they do not wake the loop.
    pub deaf_until: Option<Time>,
    /// What of it nobody decided.
    pub happenings: super::happenings::Happenings,
    /// What was last said of kills that the kernel makes by itself.
    pub elsewhere: Elsewhere,
    /// What was asked for when programs were last attached.
    pub stood: u64,
    /// Other rules are in force, and the kernel has not been told of all rows since.
    pub other_rules: bool,
    /// Tells it that the guardian has died; whether it could be told.
    pub bereave: Box<dyn Fn() -> bool + Send>,
    pub rule_names: Vec<Arc<str>>,
    pub counts: Arc<Counts>,
    pub lease: Duration,
    pub locked: super::protection::Locked,
    pub buffers: Buffers,
}

/// Everything the loop writes into, allocated once.
pub(super) struct Buffers {
    decisions: Decisions,
    reports: Vec<Report>,
    due_groups: Vec<GroupSlot>,
    due_processes: Vec<ProcessSlot>,
}

impl Buffers {
    /// Decisions that found no room; they come again.
    pub fn decisions_lost(&self) -> u64 {
        self.decisions.overflow
    }

    pub fn new(bounds: &Bounds) -> Self {
        Self {
            decisions: Decisions::with_capacity(bounds.decisions()),
            reports: Vec::with_capacity(REPORTS),
            due_groups: Vec::with_capacity(bounds.groups as usize),
            due_processes: Vec::with_capacity(bounds.processes as usize),
        }
    }
}

impl Governing {
    /// Governs until asked to stop.
    ///
    /// # Errors
    /// Only what makes governing impossible: epoll failing.
    pub fn run(&mut self) -> Result<(), Error> {
        let mut next = Time(0);
        loop {
            let now = sys::now();
            self.listen_again(now)?;
            let until = next.min(self.deaf_until.unwrap_or(Time::FAR));
            let woken = self.observer.wait(now, until).map_err(|e| Error::new("waiting on", "epoll", e))?;
            if woken.others & (1 << SIGNALS) != 0 {
                match super::signals::asked(&self.signals) {
                    Asked::Stop => return Ok(()),
                    Asked::Reload => (self.reload)(),
                    Asked::Nothing => {}
                }
            }
            if woken.others & (1 << GUARDIAN) != 0 {
                self.bereaved();
            }
            if woken.others & (1 << INSIDE) != 0 {
                self.listen_to_inside(false)?;
                self.deaf_until = Some(sys::now() + INSIDE_REST);
            }
            next = self.tick();
            // After acting: a request never delays what is due.
            if woken.others & (1 << REQUESTS) != 0 && self.answer() {
                next = Time(0);
            }
        }
    }

    /// What the kernel does wakes the loop again when the rest from it is over.
    fn listen_again(&mut self, now: Time) -> Result<(), Error> {
        if self.deaf_until.is_none_or(|until| now < until) {
            return Ok(());
        }
        self.deaf_until = None;
        self.listen_to_inside(true)
    }

    fn listen_to_inside(&self, listen: bool) -> Result<(), Error> {
        let Some(events) = &self.events else { return Ok(()) };
        let listened = self.observer.listen_to(events.fd(), INSIDE, listen);
        listened.map_err(|e| Error::new("listening to events by", "epoll", e))
    }

    /// A guardian to watch over the loop, and the loop over it.
    pub fn post(&mut self, sentry: Sentry) {
        if let Err(error) = self.observer.also_wait_for(sentry.pidfd.as_fd(), GUARDIAN) {
            super::say(&format!("memgov: {error}; should the guardian die, nobody will notice"));
        }
        self.protect(Some(sentry.pid));
        if let Some(inside) = &self.actor.inside {
            super::inside::exempt(inside, &[sentry.pid]);
        }
        self.guardian = Some(sentry);
    }

    /// The guardian may have died. Only the chores thread may wait for it and start another; until it can be told, the loop is woken again.
    fn bereaved(&mut self) {
        // A wake-up is a hint. Who takes a living guardian for dead has that thread wait for its end, for good.
        let Some(sentry) = self.guardian.take_if(|sentry| sentry.pidfd.exited() == Ok(true)) else { return };
        if !(self.bereave)() {
            self.guardian = Some(sentry);
            return;
        }
        self.observer.no_longer_wait_for(sentry.pidfd.as_fd());
        self.protect(None);
        self.counts.guardians_lost.fetch_add(1, Ordering::Relaxed);
    }

    fn protect(&mut self, guardian: Option<u32>) {
        self.actor.set_guardian(guardian);
        self.observer.set_guardian(guardian);
        self.counts.guardian.store(guardian.unwrap_or(0), Ordering::Relaxed);
    }

    /// Once round: what is known is brought up to date, decided on, acted on, recorded. When to come again.
    pub fn tick(&mut self) -> Time {
        let now = sys::now();
        self.counts.ticks.fetch_add(1, Ordering::Relaxed);
        // Also while there is no guardian: the next one looks at it from its first moment on.
        if let Some(heart) = &self.heart {
            heart.beat(now);
        }
        self.observe(now);
        self.decide();
        self.stand();
        self.act();
        self.tell_happenings();
        self.tell();
        // What comes to be known from here on (a request, a scan) belongs to the next tick.
        let groups_went = self.observer.clear_gone(&self.snap);
        if groups_went {
            (self.prune)();
        }
        self.snap.end();
        self.reap(now);
        self.observer.attend(self.actor.denies());
        self.locked.grow();
        self.deadline(now)
    }

    fn observe(&mut self, now: Time) {
        self.snap.advance(now);
        self.snap.ticks = Some(sys::boot_ticks());
        self.tape.tick(now, self.snap.ticks);
        self.hear(now);
        let actor = &mut self.actor;
        let births = &mut |parent, child| actor.process_forked(parent, child);
        self.observer.news(&mut self.snap, &mut self.governor, &mut self.tape, births);
        self.observer.upkeep(&mut self.snap, &mut self.governor, &mut self.tape);
        let Buffers { due_groups, due_processes, .. } = &mut self.buffers;
        self.governor.due(&self.snap, now, due_groups, due_processes);
        self.observer.look(&mut self.snap, due_groups, due_processes, &self.governor, &mut self.tape);
        self.mark();
        // Last: what groups are seen to have given back is in it.
        if self.governor.take_host_due() {
            self.observer.look_at_host(&mut self.snap, &mut self.tape);
        }
        self.observer.witness(&self.heard, &mut self.snap, &mut self.tape);
        self.take_back_kills(now);
        self.tape.step();
    }

    /// Puts down what was read of kernel memory, and what the kernel has seen cross a line, before what refused calls would have made of it
    /// is laid over the rows.
    fn mark(&mut self) {
        let Self { snap, governor, heard, .. } = self;
        for &slot in &snap.fresh_groups {
            if let Some(row) = snap.group(slot).filter(|row| row.read_at == snap.at)
                && let Some(kernel) = row.kernel
            {
                governor.mark_kernel(slot, row.id, row.read_at, kernel);
            }
        }
        for event in heard.iter().filter(|event| event.kind == EventKind::KernelCrossed) {
            if let Some(slot) = self.observer.group_slot(event.group, snap) {
                governor.mark_kernel(slot, event.group, snap.at, event.usage);
            }
        }
    }

    /// Takes in what the kernel has done by itself, or seen cross a line.
    fn hear(&mut self, now: Time) {
        let Self { actor, events, heard, observer, snap, governor, tape, .. } = self;
        heard.clear();
        if let Some(inside) = actor.inside() {
            inside.renew(now);
        }
        let (Some(inside), Some(events)) = (&mut actor.inside, events) else { return };
        inside.count_kills(now);
        let mut births = false;
        events.drain(&mut |event| {
            if event.kind == EventKind::Birth {
                births = true;
                return true;
            }
            // What finds no room waits in the ring, which stays readable.
            let taken = heard.len() < heard.capacity();
            if taken {
                inside.hear(event, observer.process_slot(event.who.pid));
                heard.push(*event);
            }
            taken
        });
        let nobody = observer.summon(heard, snap, governor, tape);
        let word = inside.unheard_kills(now, nobody);
        if births {
            actor.connection_born();
        }
        self.tell_elsewhere(word);
    }

    /// What is known of kills that the kernel makes by itself, for the governor and for a replay.
    fn tell_elsewhere(&mut self, word: Elsewhere) {
        let Self { elsewhere, tape, governor, .. } = self;
        if std::mem::replace(elsewhere, word) != word || word == Elsewhere::Unseen {
            tape.elsewhere(word);
            governor.kill_elsewhere(word);
        }
    }

    /// Sets how many processes groups may have before their lines for kernel memory are met, as the readings of this tick leave room. Before orders are
    /// carried out: what ends with an episode goes back to that.
    fn stand(&mut self) {
        let Self { actor, governor, snap, observer, .. } = self;
        for &slot in &snap.fresh_groups {
            let line = governor.standing_of_group(slot, snap).kernel_deny;
            match actor.stand(slot, snap, observer, line) {
                Stood::Same => {}
                Stood::Began => {
                    let group = snap.group(slot).and_then(|row| actor.standing_dir(row.id));
                    group.into_iter().for_each(|dir| observer.hear_refusals(slot, dir));
                }
                // The next burst may be on its way, and not every kernel tells of it.
                Stood::Met => governor.pace_hint_soon(slot),
                Stood::Ended => observer.ignore_refusals(slot),
            }
            let (pool, counted) = (governor.pool(slot, snap), governor.asks_for_sockets(slot, snap));
            actor.pool(slot, snap, observer, pool, counted);
            if actor.hold_oom_killer(slot, snap, observer, governor.oom_delay(slot, snap)) {
                governor.pace_hint_soon(slot);
            }
        }
    }

    /// Groups that should have such a limit and have none, once there is room for no more.
    pub fn unbounded(&self) -> u64 {
        let Self { actor, governor, snap, .. } = self;
        if !actor.standing_is_full() {
            return 0;
        }
        let bare = |(slot, row): &(u32, &Group)| {
            governor.standing_of_group(GroupSlot(*slot), snap).kernel_deny.is_some()
                && !row.kernel_watched
                && actor.standing_dir(row.id).is_none()
        };
        snap.groups.iter().filter(bare).count() as u64
    }

    /// A kill may be decided on: the kernel makes none meanwhile. Whom it has killed since its events were read is in the next ones, and until then
    /// nobody else is killed. Not in every tick: whoever crosses his line meanwhile would be left to the next.
    fn take_back_kills(&mut self, now: Time) {
        let Some(inside) = &mut self.actor.inside else { return };
        if self.governor.may_kill(&self.snap) {
            inside.take_back_kills(now);
            let word = inside.unheard_kills(now, 0);
            self.tell_elsewhere(word);
        }
    }

    /// Tells the kernel what has changed of what it enforces by itself.
    fn tell(&mut self) {
        let Self { actor, governor, snap, observer, other_rules, .. } = self;
        let Some(inside) = actor.inside() else { return };
        super::inside::tell(inside, observer, governor, snap);
        if std::mem::take(other_rules) {
            // Another policy has every row looked at in the next tick, which is this one.
            inside.end_generation();
        }
        inside.allow_kills(sys::now(), governor.kill_allowance());
        let version = self.governor.stands_version();
        if version != self.stood && (self.attach)() {
            self.stood = version;
        }
    }

    fn decide(&mut self) {
        self.buffers.decisions.clear();
        self.governor.step(&self.snap, &mut self.buffers.decisions);
    }

    fn act(&mut self) {
        for i in 0..self.buffers.decisions.len() {
            let Some(decision) = self.buffers.decisions.get(i) else { break };
            if self.tape.on() {
                let shown = event::canonical(&decision, &self.snap, self.governor.policy());
                self.tape.decision(decision.id.0, &serde_json::to_vec(&shown).unwrap_or_default());
            }
            let refused = self.last_refused(&decision);
            self.look_before_kill(&decision);
            let outcome = self.actor.perform(&decision, &self.snap, &self.observer);
            let report = Report { decision: decision.id, outcome };
            self.governor.report(&report);
            self.tape.report(&report);
            self.count(&decision, &outcome);
            if decision.notable {
                self.record(&decision, outcome);
            }
            if let Some(refused) = refused {
                self.tell_refused(&decision, refused);
            }
        }
    }

    /// The record of a kill has what there was to see before it. Where no box is free (more kills at a time than there are boxes) it goes without.
    fn look_before_kill(&mut self, decision: &Decision) {
        let is_kill = decision.notable && matches!(decision.order, Order::Kill { .. });
        if !is_kill {
            return;
        }
        let Some(mut seen) = self.recorder.empty_box() else { return };
        self.actor.look_before_kill(decision, &self.snap, &self.observer, &mut seen);
        self.recorder.situation(seen);
    }

    fn record(&self, decision: &Decision, outcome: Outcome) {
        let rule = |number: usize| self.rule_names.get(number).map(Arc::clone);
        self.recorder.decision(decision, outcome, Names::of(decision, &self.snap, rule));
    }

    fn count(&self, decision: &Decision, outcome: &Outcome) {
        if decision.notable {
            self.counts.decisions.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(decision.order, Order::Kill { .. }) {
            self.counts.kills.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(outcome, Outcome::Refused { .. } | Outcome::Partial { .. } | Outcome::LedgerFull) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What time brings to what has been done: duty cycles, deaths.
    pub fn reap(&mut self, now: Time) {
        let reports = &mut self.buffers.reports;
        reports.clear();
        self.actor.tick(now, &mut |report| {
            if reports.len() < reports.capacity() {
                reports.push(report);
            }
        });
        for report in &self.buffers.reports {
            self.governor.report(report);
            self.tape.report(report);
            self.recorder.outcome(*report);
        }
    }

    fn deadline(&mut self, now: Time) -> Time {
        // Asked again after deciding: an episode that has just begun is looked at sooner. No room, so nothing is taken from
        // what is due; an empty Vec allocates nothing.
        let next = self.governor.due(&self.snap, now, &mut Vec::new(), &mut Vec::new());
        let mut next = next.max(now + SHORTEST_REST).min(self.observer.deadline());
        if let Some(at) = self.actor.deadline() {
            next = next.min(at);
        }
        // A lease is renewed well before it ends.
        if self.actor.inside.as_ref().is_some_and(crate::act::Inside::is_told) {
            next = next.min(now + self.lease / 4);
        }
        // While something is held the guardian wants to hear from the loop within the lease.
        if self.heart.is_some() && self.actor.ledger().entries() > 0 {
            next = next.min(now + self.lease / 4);
        }
        next
    }

    /// Answers one request; whether there may be more.
    pub fn answer(&mut self) -> bool {
        super::queue::quiet(&self.request_bell);
        let Ok(ticket) = self.requests.try_recv() else { return false };
        if let Some(request) = ticket.take() {
            super::answers::answer(self, request);
        }
        // The bell was silenced for all of them.
        super::queue::ring(&self.request_bell);
        true
    }
}
