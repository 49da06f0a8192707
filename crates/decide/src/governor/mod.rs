//! The engine: snapshots in, decisions out. One for all rules and all controls, on every kernel, live and in replay.
//!
//! What always holds, each shown by a property test of the same name in `tests/behaviour/invariants.rs` or `tests/behaviour/inside.rs`:
//!
//! - `never_a_protected_target`: no process that may not be touched ([`Untouchable`](crate::snapshot::Untouchable), pid 1,
//!   the never-list) is ever a target or a candidate, none with `oom_score_adj` -1000 is killed, and the root group is never a target.
//!   (What is in force on a process that becomes protected is ended.)
//! - `no_action_without_a_limit_crossed`: whatever is begun, sent or killed has a reason whose numbers are over their line in
//!   that very snapshot.
//!   (What somebody who was asked has answered apart.)
//! - `missing_data_never_escalates`: while the meter is not known nothing is begun, sent or killed; nor is anything relieved.
//! - `more_over_never_weaker`: of two snapshots that differ only in a meter that is further over its line, the one that is further over
//!   leads to the same orders or more, and to no larger share of running time. (Kills apart, and reclaim with a tolerance: these look at the past.)
//! - `kills_per_window_bounded`: there are never more kills in a window than the policy's budget.
//! - `kills_inside_the_kernel_are_braked_alike`: the two above hold for both together: kills that are ordered, and those that a kernel makes with
//!   [`Governor::kill_allowance`]; and each of the latter is decided on once, whatever the brakes say by then.
//! - `kills_are_foreseen`: no step orders a kill of which [`Governor::may_kill`] had said on the same snapshot that it cannot be.
//! - `loans_leave_what_is_to_stay` (`tests/behaviour/lend.rs`): whenever something is lent, what the host has available, less what was lent before and is not in use
//!   yet, is enough for it and for what the rule says has to stay.
//! - `freed_memory_is_waited_for`: while the memory of a kill is on its way back, nobody in the same branch of the tree is killed.
//! - `what_the_oom_killer_frees_is_waited_for` (`tests/behaviour/jobs.rs`): likewise when the kernel's OOM killer has killed there, but for no more than a part of the time, and at no cost to the budget.
//! - `whoever_gives_way_is_the_first_of_all`: a kill by priority takes the job that comes first in the order of [`crate::jobs`] among all below the
//!   rule's target, by readings that are no older than the shortage, and not one that may ask to be left out and does. (Or the job that was chosen so when the host's
//!   ladder began.)
//! - `one_shortage_is_one_kill`: between two kills by priority what the first had held has come back, or its time is up, and the meter was read anew after that.
//! - `no_flapping_inside_the_band`: between the relief level and the line nothing begins and nothing ends.
//! - `same_snapshots_same_decisions`: to the bit. No clock, no randomness, no order that depends on addresses.
//! - `every_begin_has_an_end`: each lasting action that was begun is ended exactly once: at relief, when its rule or
//!   control is gone, when its target is gone, when its time is up; and nothing is kept up or ended that was not begun.
//! - `log_once_an_episode`: the log line is due at most once an episode, and again only after the group was at or
//!   under `memory.high`.
//! - `somebody_is_asked_and_heard`: whoever is asked about is frozen first and until the answer; one question has one answer, its own, the default at its time
//!   and not before; after `go-on` nothing of the ladder begins until it may ask again, and nobody is killed for a question but for `kill`.
//! - `a_hook_is_waited_for_within_a_bound` (`tests/behaviour/hook.rs`): while a program runs for a group no further step of its ladder begins and no other program is
//!   started for the same group; both end when it has ended and what it frees has settled, and at its time and [`SETTLES`] at the latest.
//! - `the_hosts_ladder_holds_one_job_at_a_time` (`tests/behaviour/host_ladder.rs`): what steps of a rule of the host do is done to one job, of which it was told with a ranking
//!   first, and ends on that one before anything begins on another.
//! - `steps_in_order`: the steps of a ladder begin in their order, the first not before its delay after the crossing, each not before
//!   its delay after the one before, unless that one failed. (For another job the host's ladder begins anew.)
//! - `overflow_delays_and_loses_nothing`: when decisions have no room, ends and begins come in a later tick.
//! - `nothing_is_allocated` after [`Governor::new`] and [`Governor::set_policy`] (`tests/allocation.rs`), and every table is
//!   bounded; what did not fit is counted in [`Governor::lost`].
//!
//! The work of a tick is in proportion to the fresh rows and the running episodes, never to all rows (a group that is over a line
//! its processes depend on counts with the processes below it; a kill by priority, in the ticks in which it is due, goes through the rows of groups).

use std::collections::VecDeque;
use std::time::Duration;

use crate::decision::{DecisionId, Decisions, EpisodeId};
use crate::policy::{Policy, Rule, RuleId, Scope};
use crate::snapshot::{ProcessId, ProcessSlot, Snapshot};
use crate::units::{Limit, Time};

mod accuse;
mod ask;
mod brake;
mod controls;
mod due;
mod emit;
mod episode;
mod hook;
mod host;
mod index;
mod jobs;
mod judge;
mod kill;
mod ladder;
mod lend;
mod look;
mod marks;
mod pin;
mod report;
mod rows;
mod seek;
mod standing;
mod timers;
mod tree;
mod within;

pub use brake::Elsewhere;
pub use episode::EpisodeView;
pub use hook::{SETTLED, SETTLES};
pub use marks::KernelMark;
pub use standing::{GroupStanding, Standing, StandingAction, Stands, met_inside};

/// How often something is done again that has to be: a repeated signal of a control (SIGCONT), a refused one-shot, a
/// kill at the end of its ladder.
pub const REPEAT: Duration = Duration::from_secs(1);

/// Capacities of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Rows of groups, as in the snapshot.
    pub groups: u32,
    /// Rows of processes, as in the snapshot.
    pub processes: u32,
    /// Controls that processes have set.
    pub controls: u32,
    /// Episodes at a time.
    pub episodes: u32,
}

impl Bounds {
    /// Room for decisions of one tick that is enough for all but storms; the same in the daemon and in replay, so that a storm is replayed too.
    pub const fn decisions(&self) -> usize {
        let twice = self.episodes as usize * 2;
        if twice < 64 { 64 } else { twice }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        // An episode with its decisions takes over 2 KiB, which are locked.
        Self { groups: 2048, processes: 4096, controls: 8192, episodes: 640 }
    }
}

/// The numbers the next decision and the next episode get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Of the next decision.
    pub decision: u64,
    /// Of the next episode.
    pub episode: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { decision: 1, episode: 1 }
    }
}

/// A table has no room left. Counted in [`Governor::lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table is full")]
pub struct Full;

/// What did not fit since start; each counts attempts, so a row that never fits is counted again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Fresh groups beyond [`Bounds::groups`].
    pub groups: u64,
    /// Fresh processes beyond [`Bounds::processes`].
    pub processes: u64,
    /// Controls that were refused.
    pub controls: u64,
    /// Crossings that found no room for an episode; tried again while they last.
    pub episodes: u64,
    /// Decisions whose outcome was not reported before they had to make room for later ones.
    pub answers: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Governor {
    policy: Policy,
    /// Counts policies: what rows remember of rules is of one of them.
    generation: u32,
    /// Rules about processes wherever they are.
    roaming: rows::RuleSet,
    /// The latest time that was heard of, and that of the last tick.
    now: Time,
    stepped_at: Time,
    /// When some episode has something to do that no reading brings about.
    deadline: Time,
    groups: Vec<rows::GroupState>,
    processes: Vec<rows::ProcessState>,
    slots: index::Index<ProcessId, ProcessSlot>,
    tree: tree::Tree,
    timers: timers::Timers,
    controls: index::Index<ProcessId, controls::SetControl>,
    new_controls: Vec<ProcessId>,
    serial: u64,
    /// Counts changes of what is asked for: policies and controls.
    asked: u64,
    episodes: episode::Episodes,
    kills: brake::Kills,
    host: host::HostState,
    /// Of rules that move memory between their groups.
    tallies: Vec<crate::balance::Tally>,
    /// Room for one choice.
    offenders: crate::offender::Offenders,
    /// Room for one choice of a tree.
    kin: crate::kin::Kin,
    /// Room for one choice of jobs.
    indivisible: Vec<crate::jobs::Contender>,
    excused: ask::Excused,
    hooks: hook::Running,
    sent: VecDeque<report::Sent>,
    next_decision: u64,
    next_episode: u64,
    lost: Lost,
}

impl Governor {
    /// A governor that knows nothing yet. All its memory is allocated here.
    pub fn new(policy: Policy, bounds: Bounds) -> Self {
        let Bounds { groups, processes, controls, episodes } = bounds;
        Self {
            generation: 1,
            roaming: rows::roaming_rules(&policy),
            now: Time(0),
            stepped_at: Time(0),
            deadline: Time::FAR,
            groups: vec![rows::GroupState::default(); groups as usize],
            processes: vec![rows::ProcessState::default(); processes as usize],
            slots: index::Index::with_capacity(processes),
            tree: tree::Tree::new(groups, processes),
            timers: timers::Timers::with_capacity(groups.saturating_add(processes).saturating_add(1)),
            controls: index::Index::with_capacity(controls),
            new_controls: Vec::with_capacity(controls as usize),
            serial: 0,
            asked: 1,
            episodes: episode::Episodes::with_capacity(episodes),
            kills: brake::Kills::new(policy.kills),
            host: host::HostState::default(),
            tallies: seek::tallies(&policy),
            offenders: crate::offender::Offenders::with_capacity(processes as usize),
            kin: within::room(&policy, processes as usize),
            indivisible: Vec::with_capacity(jobs::MOST_INDIVISIBLE),
            excused: ask::Excused::new(),
            hooks: hook::Running::new(),
            sent: VecDeque::with_capacity((episodes as usize).saturating_mul(2).max(64)),
            next_decision: 1,
            next_episode: 1,
            lost: Lost::default(),
            policy,
        }
    }

    /// The same, counting on from an earlier run, so that a number names one decision in all that is kept.
    #[must_use]
    pub fn counting_from(mut self, next: Numbers) -> Self {
        (self.next_decision, self.next_episode) = (next.decision, next.episode);
        self
    }

    /// A number for a record of what nobody decided: the kernel's own OOM killer, calls that it refused. `episode`: the one it
    /// belongs to; without one it begins its own. From the same row as decisions, so that a number names one thing in all that is kept.
    pub fn number(&mut self, episode: Option<EpisodeId>) -> (DecisionId, EpisodeId) {
        let episode = episode.unwrap_or_else(|| {
            self.next_episode += 1;
            EpisodeId(self.next_episode - 1)
        });
        self.next_decision += 1;
        (DecisionId(self.next_decision - 1), episode)
    }

    /// What is asked for.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What did not fit.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// Puts another policy in force and returns the old one. Episodes of rules that are still there under the same name and
    /// unchanged go on; the others end at the next [`Governor::step`], and their last decisions carry the rule's number
    /// in the old policy. Allocates.
    pub fn set_policy(&mut self, policy: Policy) -> Policy {
        let old = std::mem::replace(&mut self.policy, policy);
        let new = &self.policy;
        let number = |RuleId(number)| {
            let rule = old.rules.get(usize::from(number))?;
            let number = new.rules.iter().position(|r| r == rule)?;
            u16::try_from(number).ok().map(RuleId)
        };
        self.episodes.renumber(number);
        self.excused.renumber(number);
        self.generation += 1;
        self.asked += 1;
        self.roaming = rows::roaming_rules(new);
        self.tallies = seek::tallies(new);
        self.kills.set_budget(new.kills);
        self.kin = within::room(new, self.processes.len());
        // Every known row may have other rules now, and so another pace: each is read once.
        for (item, known) in (0u32..).zip(
            self.groups.iter().map(|g| g.id.is_some()).chain(self.processes.iter().map(|p| p.id.is_some())),
        ) {
            if known {
                self.timers.bring_forward(item, self.now);
            }
        }
        if self.watches_host() {
            self.timers.bring_forward(self.host_item(), self.now);
        }
        self.deadline = self.now;
        old
    }

    /// Whether a rule or a group setting names this group, so that it needs a row. (For rules about single processes
    /// the groups they name count too: a row is where their processes are looked for.)
    pub fn concerns_group(&self, path: &[u8]) -> bool {
        let named = |patterns: &[crate::policy::Pattern]| patterns.iter().any(|p| p.matches(path));
        self.policy.groups.iter().any(|group| named(&group.groups))
            || self.policy.rules.iter().any(|rule: &Rule| match &rule.scope {
                Scope::Groups(patterns) => named(patterns),
                Scope::Processes(process) => named(&process.groups),
                Scope::Host => false,
            })
    }

    /// Whether some rule is about processes wherever they are, so that all of the host's have to be gone through.
    pub fn concerns_all_processes(&self) -> bool {
        !self.roaming.is_empty()
    }

    /// The line that stands in for `memory.high` of this group, if the policy gives one.
    pub fn virtual_high(&self, path: &[u8]) -> Option<Limit> {
        self.policy.high(path)
    }

    /// One tick: clears `out` and fills it with what is to be done now. Fresh rows are taken in, then weighed, then every running
    /// episode moves on.
    pub fn step(&mut self, snap: &Snapshot, out: &mut Decisions) {
        out.clear();
        self.now = snap.at;
        // All that are new first: a parent may come after its child, and must not push it off when it does.
        for &slot in &snap.fresh_groups {
            self.identify_group(slot, snap);
        }
        for &slot in &snap.fresh_groups {
            self.take_in_group(slot, snap);
        }
        for &slot in &snap.fresh_processes {
            self.take_in_process(slot, snap);
        }
        self.kills.settle(self.now, snap);
        self.count_killed(snap);
        self.take_up_controls(snap, out);
        for &slot in &snap.fresh_groups {
            self.look_at_group(slot, snap);
        }
        for &slot in &snap.fresh_processes {
            self.look_at_process(slot, snap);
        }
        self.look_at_host(snap);
        self.stepped_at = self.now;
        self.run_episodes(snap, out);
    }
}

// Rules are numbered in 16 bits, and the steps of a ladder that are in force are kept as the bits of a byte.
const _: () = assert!(crate::policy::MAX_RULES <= 1 << 16 && crate::policy::MAX_STEPS <= 8);
