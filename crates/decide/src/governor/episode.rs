//! An episode: from the crossing of a line to the relief. Its table, how one begins and how it is closed.
//!
//! An episode that is over may stay behind at rest, for the log line's sake: the letter's line is due again only when the
//! group is back at or under `memory.high`, which is further down than the line that began the episode.

use std::time::Duration;

use crate::control::MemControl;
use crate::decision::{self, DecisionId, EpisodeId, Extent, Order, Reason, Source, Target};
use crate::hook::HookView;
use crate::policy::{Action, MAX_STEPS, Meter, Rule, RuleId, Step, Victim};
use crate::slow::{ALL, Throttle};
use crate::snapshot::{GroupId, GroupSlot, ProcessId, Snapshot, Table};
use crate::units::{Bytes, Time};
use crate::working_set::{Found, Search};

use super::ask::Asked;
use super::hook::Hooked;
use super::index::Index;
use super::judge::{Excess, Question};
use super::lend::Loan;
use super::pin::Pinned;
use super::within::Sought;
use super::{Governor, controls};

/// What an episode is found by: there is one for each source and target at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub source: Source,
    pub who: Who,
}

/// A target without its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Group(GroupId),
    Process(ProcessId),
    Host,
}

impl From<Target> for Who {
    fn from(target: Target) -> Self {
        match target {
            Target::Group(id, _) => Self::Group(id),
            Target::Process(id, _) => Self::Process(id),
            Target::Host => Self::Host,
        }
    }
}

/// Where an episode stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    Running,
    /// To be ended for this reason; what is in force has not all been ended yet, because the decisions had no room.
    Closing(Reason),
    /// Over, and kept until the log line is due again.
    AtRest,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Episode {
    pub id: EpisodeId,
    /// Its place in the table.
    pub place: u32,
    pub source: Source,
    pub target: Target,
    pub phase: Phase,
    /// The rule is no longer in the policy, so `source` is its number in the policy before.
    pub orphan: bool,
    /// The control that began it, and which setting it was.
    pub control: Option<(MemControl, u64)>,
    /// What is compared.
    pub meter: Meter,
    /// When the line was crossed.
    pub began: Time,
    /// The next step of the ladder.
    pub next: u8,
    /// When the step before it began.
    pub base: Time,
    /// The step before it was refused or has used up its time: the next does not wait.
    pub hurry: bool,
    /// When each step was last ordered.
    pub ordered_at: [Time; MAX_STEPS],
    /// Steps whose lasting action is in force, as bits.
    pub denied: u8,
    pub frozen: u8,
    pub slowed: u8,
    pub reclaimed: u8,
    pub lent: u8,
    pub squeezed: u8,
    /// What was lent, for as long as the episode lasts.
    pub loan: Option<Loan>,
    /// Steps that were refused: not kept up, but ended all the same.
    pub refused: u8,
    /// Over its line as of this tick.
    pub over: Option<Excess>,
    pub throttle: Throttle,
    /// How small its target runs.
    pub search: Search,
    /// The last that was asked for by it is more than nothing.
    pub pressing: bool,
    /// A refused one-shot signal of a control is tried again from here on.
    pub retry_at: Option<Time>,
    /// The last step is a kill that was only rehearsed: it is not tried again.
    pub rehearsed: bool,
    /// Things that are recorded only once.
    pub noted_freeing: bool,
    pub noted_budget: bool,
    /// What is asked about it.
    pub asked: Option<Asked>,
    /// Until then it is not asked about (again).
    pub excused: Time,
    /// Steps that have asked and were told to kill, as bits.
    pub condemned: u8,
    /// The program that runs for it, or has run last.
    pub hook: Option<Hooked>,
    /// The job to which steps of the host's ladder are done.
    pub job: Option<Pinned>,
    /// Word of earlier decisions is about a job that is not the one any more.
    pub anew: DecisionId,
    /// The job of which part is to be killed, while its processes are looked for.
    pub sought: Option<Sought>,
    /// Some decision was made: its end is worth one too.
    pub spoken: bool,
    /// The log line is written.
    pub logged: bool,
    pub last: Option<(Order, Reason)>,
}

impl Episode {
    fn new(id: EpisodeId, source: Source, target: Target, now: Time) -> Self {
        Self {
            id,
            place: 0,
            source,
            target,
            phase: Phase::Running,
            orphan: false,
            control: None,
            meter: Meter::Usage,
            began: now,
            next: 0,
            base: now,
            hurry: false,
            ordered_at: [now; MAX_STEPS],
            denied: 0,
            frozen: 0,
            slowed: 0,
            reclaimed: 0,
            lent: 0,
            squeezed: 0,
            loan: None,
            refused: 0,
            over: None,
            throttle: Throttle::default(),
            search: Search::default(),
            pressing: false,
            retry_at: None,
            rehearsed: false,
            noted_freeing: false,
            noted_budget: false,
            asked: None,
            excused: Time(0),
            condemned: 0,
            hook: None,
            job: None,
            anew: DecisionId(0),
            sought: None,
            spoken: false,
            logged: false,
            last: None,
        }
    }

    /// Where the steps of a lasting action that are in force stand; `None`: it does not last.
    pub fn in_force(&mut self, order: &Order) -> Option<&mut u8> {
        match order {
            Order::Deny { .. } => Some(&mut self.denied),
            Order::Freeze { .. } => Some(&mut self.frozen),
            Order::Slow { .. } => Some(&mut self.slowed),
            Order::Reclaim { .. } => Some(&mut self.reclaimed),
            Order::Lend { .. } => Some(&mut self.lent),
            Order::Squeeze { .. } => Some(&mut self.squeezed),
            Order::Record | Order::Signal { .. } | Order::Kill { .. } | Order::Relieved => None,
            Order::Ask { .. } | Order::Answered { .. } | Order::Hook => None,
        }
    }

    /// By which orders the lasting actions end, in the order in which they do.
    pub fn ends(&self) -> [Order; 6] {
        let phase = decision::Phase::End;
        [
            Order::Deny { phase, meter: self.meter },
            Order::Freeze { phase },
            Order::Slow { phase, share: ALL },
            Order::Reclaim { phase, meter: self.meter, extent: Extent::Down(Bytes(0)), share: 0 },
            Order::Squeeze { phase },
            Order::Lend { phase, amount: self.loan.map_or(Bytes(0), |loan| loan.amount) },
        ]
    }

    pub fn key(&self) -> Key {
        Key { source: self.source, who: self.target.into() }
    }
}

/// The table of episodes: rows keep their slot, and those in use are listed, so that idle room costs nothing.
#[derive(Debug)]
pub(super) struct Episodes {
    table: Table<Episode>,
    pub live: Vec<u32>,
    index: Index<Key, u32>,
    at_rest: usize,
}

impl Episodes {
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            table: Table::with_capacity(capacity),
            live: Vec::with_capacity(capacity as usize),
            index: Index::with_capacity(capacity),
            at_rest: 0,
        }
    }

    pub fn find(&self, key: Key) -> Option<u32> {
        self.index.get(key)
    }

    pub fn get(&self, slot: u32) -> Option<&Episode> {
        self.table.get(slot)
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Episode> {
        self.table.get_mut(slot)
    }

    /// All, those at rest included.
    pub fn iter(&self) -> impl Iterator<Item = &Episode> {
        self.live.iter().filter_map(|&slot| self.table.get(slot))
    }

    /// Puts one in, in the place of one at rest if need be; says whether there was room.
    pub fn insert(&mut self, episode: Episode) -> bool {
        if self.table.len() == self.table.capacity() && self.at_rest > 0 {
            let rests = |&slot: &u32| self.table.get(slot).is_some_and(|e| e.phase == Phase::AtRest);
            if let Some(slot) = self.live.iter().copied().find(rests) {
                self.remove(slot);
            }
        }
        let Ok(slot) = self.table.insert(episode) else { return false };
        if let Some(row) = self.table.get_mut(slot) {
            row.place = slot;
        }
        self.live.push(slot);
        // As large as the table, so it has room.
        self.index.insert(episode.key(), slot).is_ok()
    }

    pub fn remove(&mut self, slot: u32) {
        let Some(episode) = self.table.remove(slot) else { return };
        self.at_rest -= usize::from(episode.phase == Phase::AtRest);
        if !episode.orphan {
            self.index.remove(episode.key());
        }
        // Keeps the order of the others: which of two kills comes first must not depend on who has left.
        self.live.retain(|&other| other != slot);
    }

    /// Writes an episode back to its place.
    pub fn put(&mut self, episode: Episode) {
        if let Some(row) = self.table.get_mut(episode.place) {
            self.at_rest -= usize::from(row.phase == Phase::AtRest);
            self.at_rest += usize::from(episode.phase == Phase::AtRest);
            *row = episode;
        }
    }

    /// The rules have new numbers, or none any more.
    pub fn renumber(&mut self, number: impl Fn(RuleId) -> Option<RuleId>) {
        self.index.clear();
        for &slot in &self.live {
            let Some(episode) = self.table.get_mut(slot) else { continue };
            if let (Source::Rule(rule), false) = (episode.source, episode.orphan) {
                match number(rule) {
                    Some(rule) => episode.source = Source::Rule(rule),
                    None => episode.orphan = true,
                }
            }
            if !episode.orphan {
                // It was in the index before, so there is room.
                let _ = self.index.insert(episode.key(), slot);
            }
        }
    }
}

/// A running episode, for `memgov status`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpisodeView {
    /// Its number.
    pub id: EpisodeId,
    /// Which rule or control.
    pub source: Source,
    /// Whom.
    pub target: Target,
    /// When the line was crossed.
    pub since: Time,
    /// The last step of the ladder that began.
    pub step: Option<u8>,
    /// The last order and its reason.
    pub last: Option<(Order, Reason)>,
    /// How small it runs without feeling it, where that is looked for and something is known.
    pub found: Option<Found>,
    /// The program that runs for it, or has run last.
    pub hook: Option<HookView>,
}

impl Governor {
    /// The running episodes, in the order in which they began.
    pub fn episodes(&self) -> impl Iterator<Item = EpisodeView> + '_ {
        self.episodes.iter().filter(|e| e.phase != Phase::AtRest).map(|e| EpisodeView {
            id: e.id,
            source: e.source,
            target: e.target,
            since: e.began,
            step: e.next.checked_sub(1),
            last: e.last,
            found: e.search.found(),
            hook: e.hook.map(Hooked::view),
        })
    }

    /// A line is crossed. Begins an episode unless it runs already; one at rest is woken as a new one, its log line
    /// remembered.
    pub(super) fn begin(&mut self, source: Source, target: Target, snap: &Snapshot) {
        let key = Key { source, who: target.into() };
        let old = self.episodes.find(key);
        let logged = match old.and_then(|slot| self.episodes.get(slot)) {
            Some(episode) if episode.phase != Phase::AtRest => return,
            Some(episode) => episode.logged,
            None => false,
        };
        let mut episode = Episode::new(EpisodeId(self.next_episode), source, target, self.now);
        episode.logged = logged;
        episode.excused = self.excused.until(key);
        if let (Source::Control, Target::Process(who, _)) = (source, target) {
            episode.control = self.controls.get(who).map(|set| (set.control, set.serial));
        }
        let condition = self.question_of(&episode).map(|question| question.condition);
        episode.meter = condition.map_or(Meter::Usage, |condition| condition.meter());
        let placed = match old {
            Some(slot) => {
                episode.place = slot;
                self.episodes.put(episode);
                true
            }
            None => self.episodes.insert(episode),
        };
        if !placed {
            self.lost.episodes += 1;
            return;
        }
        self.next_episode += 1;
        if let (Target::Group(_, slot), Meter::Kernel) = (target, episode.meter) {
            self.groups[slot.0 as usize].kernel_mark.hit();
        }
        match target {
            Target::Group(_, slot) if self.may_choose(&episode) => self.sample_for_ranking(slot, snap),
            Target::Host if self.may_choose(&episode) => self.sample_machine(snap),
            _ => {}
        }
        if self.may_choose_jobs(&episode) {
            self.sample_jobs(target, snap);
        }
    }

    /// Whoever may have to be chosen from is to be sampled before that.
    pub(super) fn sample_for_ranking(&mut self, group: GroupSlot, snap: &Snapshot) {
        self.groups[group.0 as usize].ranks_at = Some(self.now);
        let mut walk = self.tree.walk(group);
        while let Some(process) = self.tree.step(&mut walk) {
            if self.renew_process(process, snap) {
                self.processes[process.0 as usize].kernel_before = None;
                self.timers.bring_forward(self.process_item(process), self.now);
            }
        }
    }

    /// A step of an episode's ladder.
    pub(super) fn step_of(&self, episode: &Episode, step: u8) -> Option<Step> {
        match (episode.source, &episode.control) {
            (Source::Control, Some((control, _))) => controls::step_of(control).filter(|_| step == 0),
            (Source::Rule(rule), _) if !episode.orphan && usize::from(step) < MAX_STEPS => {
                self.policy.rules.get(rule.0 as usize)?.steps.get(usize::from(step)).cloned()
            }
            _ => None,
        }
    }

    /// What an episode's rule or control asks; `None` if it asks nothing any more.
    pub(super) fn question_of(&self, episode: &Episode) -> Option<Question<'_>> {
        match (episode.source, episode.target, &episode.control) {
            (Source::Control, Target::Process(who, _), Some((control, serial))) => {
                self.controls.get(who).filter(|set| set.serial == *serial)?;
                Question::of_control(control)
            }
            (Source::Rule(rule), target, _) if !episode.orphan => {
                let rule = self.policy.rules.get(rule.0 as usize)?;
                Some(match target {
                    Target::Group(_, slot) => self.question_of_group(rule, slot).with_loan(episode.loan),
                    Target::Process(..) => Question::of_process(rule),
                    Target::Host => self.question_of_host(rule),
                })
            }
            _ => None,
        }
    }

    /// What a rule asks about a group as a whole, of whose hard limit the last part may be kept.
    pub(super) fn question_of_group<'a>(&self, rule: &'a Rule, slot: GroupSlot) -> Question<'a> {
        let state = self.groups.get(slot.0 as usize);
        let reserve = state.map(|state| state.oom_reserve);
        let pressed = state.and_then(|state| state.pressure.as_ref()?.pressed());
        let falling = state.and_then(|state| state.fall.as_ref()?.per_second());
        Question::of_group(rule, reserve.unwrap_or_default()).with_pressure(pressed).with_fall(falling)
    }

    /// What a rule asks about the machine.
    pub(super) fn question_of_host<'a>(&self, rule: &'a Rule) -> Question<'a> {
        let pressed = self.host.pressure.pressed();
        Question::of_host(rule).with_pressure(pressed).with_fall(self.host.falling())
    }

    /// Whether some step of the ladder has to choose one process of a group.
    pub(super) fn may_choose(&self, episode: &Episode) -> bool {
        let Source::Rule(rule) = episode.source else { return false };
        let rule = self.policy.rules.get(rule.0 as usize).filter(|_| !episode.orphan);
        let steps = rule.map_or(&[][..], |rule| &rule.steps);
        let chooses = |step: &Step| matches!(step.action, Action::Kill { victim: Victim::Largest });
        steps.iter().take(MAX_STEPS).any(chooses)
    }

    /// Whether some step of the ladder takes a job.
    pub(super) fn may_choose_jobs(&self, episode: &Episode) -> bool {
        let Source::Rule(rule) = episode.source else { return false };
        let rule = self.policy.rules.get(rule.0 as usize).filter(|_| !episode.orphan);
        rule.is_some_and(crate::policy::Rule::chooses_jobs)
    }

    /// The growth that counts for an episode's target.
    pub(super) fn growth_of(&self, episode: &Episode) -> u64 {
        match (episode.target, episode.over.map(|over| over.reason)) {
            (Target::Group(_, slot), Some(Reason::Kernel { .. })) => {
                self.groups[slot.0 as usize].kernel_trend.fastest()
            }
            (Target::Group(_, slot), _) => self.groups[slot.0 as usize].trend.fastest(),
            (
                Target::Process(_, slot),
                Some(Reason::Rss { kinds, .. } | Reason::UsageAndRss { kinds, .. }),
            ) => self.processes[slot.0 as usize].growth(kinds),
            (Target::Process(..), Some(Reason::Usage { group, .. })) => {
                self.groups[group.0 as usize].trend.fastest()
            }
            _ => 0,
        }
    }

    /// How long a slowdown has left.
    pub(super) fn left(&self, episode: &Episode, step: u8, budget: Duration) -> Duration {
        budget.saturating_sub(self.now.since(episode.ordered_at[usize::from(step)]))
    }
}

/// What a target held when it was last looked at; the expectation of what its death gives back.
pub(super) fn held(excess: Option<&Excess>) -> Bytes {
    excess.map_or(Bytes(0), |excess| excess.value)
}
