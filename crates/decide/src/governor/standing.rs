//! What may be told to a kernel that can act by itself, before anything has happened: the lines at which the first step of
//! a ladder is due at once. It changes when and where a line is noticed, never what is decided: the crossing is read
//! and decided on afterwards as ever, and whoever acts sees that it is done already.
//!
//! Only what needs no choice is told. A victim that has to be picked, a step that waits, a slowdown, one of several lines of a process: those are
//! left to the loop. Kills are made by the kernel within [`Governor::kill_allowance`] only, so that
//! they are braked as all others are.

use std::time::Duration;

use crate::control::ControlAction;
use crate::decision::Source;
use crate::policy::{Action, Condition, Meter, Over, Rule, RuleId, Scope};
use crate::snapshot::{GroupId, GroupSlot, Process, ProcessSlot, Snapshot};
use crate::units::Bytes;
use crate::victim;

use super::Governor;
use super::episode::{Key, Phase, Who};
use super::judge::Question;
use super::rows::ProcessState;

/// What a process is to meet in the allocating call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When. `memory.high` and so much on top: of any group from its own up to `group`. A plain amount: of `group`.
    pub condition: Condition,
    /// See `condition`; `None`: all groups above it count.
    pub group: Option<GroupId>,
    /// What.
    pub action: StandingAction,
    /// Which setting this is: another number means that a one-shot signal is armed again. 0: a rule's, and nothing of it is ever spent.
    pub serial: u64,
}

/// Serials from here on are of rules.
const OF_RULES: u64 = 1 << 63;

impl Standing {
    /// Whether it is a rule's, and not what the process has asked for itself.
    pub const fn by_rule(&self) -> bool {
        self.serial == 0 || self.serial >= OF_RULES
    }

    /// Which of several comes first.
    fn order(&self) -> (bool, Option<Bytes>) {
        (self.condition.group.is_some(), self.condition.rss.map(|rss| rss.over))
    }
}

/// The lines of usage at which a group as a whole meets something, the lowest of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStanding {
    /// Over this everything in it is denied at once.
    pub deny: Option<Bytes>,
    /// Crossing this is to be told, so that it need not be found by sampling.
    pub tell: Option<Bytes>,
    /// As `deny`, of kernel memory: fork, files, directories and sockets are refused.
    pub kernel_deny: Option<Bytes>,
    /// As `tell`, of kernel memory.
    pub kernel_tell: Option<Bytes>,
}

/// What a kernel can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandingAction {
    /// Refuse memory while it holds.
    Deny,
    /// Send this signal, once. Whether again is decided.
    Signal(u8),
    /// SIGKILL.
    Kill,
    /// Nothing but to say that the line is crossed, so that it need not be found by sampling.
    Tell,
}

impl Governor {
    /// The lines of usage at which a group as a whole meets something.
    pub fn standing_of_group(&self, slot: GroupSlot, snap: &Snapshot) -> GroupStanding {
        let mut standing = GroupStanding::default();
        let Some(row) = snap.group(slot).filter(|row| !row.gone) else { return standing };
        let Some(state) = self.groups.get(slot.0 as usize).filter(|state| state.id == Some(row.id)) else {
            return standing;
        };
        for rule in state.whole.iter().filter_map(|rule| self.policy.rules.get(rule.0 as usize)) {
            let Some(over) = rule.when.group else { continue };
            // What is available no program knows.
            if rule.when.meter() == Meter::Available {
                continue;
            }
            // Nor what sockets hold, where that is not part of usage.
            if over.asks_for_sockets() && (row.sockets_apart || rule.when.meter() == Meter::Sockets) {
                continue;
            }
            let Some(line) = over.line(row) else { continue };
            let denies = denies_at_once(rule) && !over.only_tracks(row);
            let lowest = match (over.is_kernel(), denies) {
                (false, true) => &mut standing.deny,
                (false, false) => &mut standing.tell,
                (true, true) => &mut standing.kernel_deny,
                (true, false) => &mut standing.kernel_tell,
            };
            *lowest = Some(lowest.map_or(line, |other: Bytes| other.min(line)));
        }
        standing
    }

    /// What a process is to meet, of which a kernel can keep one: the lowest line on its resident memory at which a rule denies at once, rules
    /// that ask for nothing of its groups before those that do; else the lowest at which one signals or kills at
    /// once and has not done so; else what its own control says, which a rule of the administrator's comes before; else the lowest line on its
    /// resident memory that anything waits for. `None` for a protected process.
    pub fn standing_of_process(&self, slot: ProcessSlot, snap: &Snapshot) -> Option<Standing> {
        let row = snap.process(slot).filter(|row| !row.gone)?;
        let state = self.processes.get(slot.0 as usize).filter(|state| state.id == Some(row.id))?;
        if state.protected.is_some() {
            return None;
        }
        let rules = state.matches.iter().filter_map(|rule| self.policy.rules.get(rule.0 as usize));
        let denying = rules
            .filter(|rule| denies_at_once(rule))
            .filter_map(|rule| {
                let group = self.group_of_line(rule, slot, snap)?;
                Some(Standing { condition: rule.when, group, action: StandingAction::Deny, serial: 0 })
            })
            .min_by_key(Standing::order);
        let (always, sometimes) = match denying {
            Some(standing) if standing.condition.group.is_none() => (Some(standing), None),
            other => (None, other),
        };
        always
            .or_else(|| self.standing_act(slot, row, state, snap))
            .or(sometimes)
            .or_else(|| self.standing_control(row.id, row.oom_score_adj))
            .or_else(|| {
                let rss =
                    self.conditions(slot).filter_map(|condition| condition.rss).min_by_key(|rss| rss.over)?;
                let condition = Condition { group: None, rss: Some(rss) };
                Some(Standing { condition, group: None, action: StandingAction::Tell, serial: 0 })
            })
    }

    /// Which group the line of a rule is looked for at, or up to; `Some(None)`: it has no such part, or all count. `None`: no group of the
    /// process's is meant.
    fn group_of_line(&self, rule: &Rule, slot: ProcessSlot, snap: &Snapshot) -> Option<Option<GroupId>> {
        if rule.when.group.is_none() {
            return Some(None);
        }
        Question::of_process(rule).looks_up_to(snap, &self.tree, self.tree.group_of(slot))
    }

    /// The lowest line of a rule whose first step signals or kills this process at once. A rule whose first step is done stands no more
    /// until its episode is over: what it does again is decided.
    fn standing_act(
        &self,
        slot: ProcessSlot,
        row: &Process,
        state: &ProcessState,
        snap: &Snapshot,
    ) -> Option<Standing> {
        let acting = state.matches.iter().filter_map(|id| {
            let rule = self.policy.rules.get(id.0 as usize)?;
            let action = acts_at_once(rule)?;
            if action == StandingAction::Kill && victim::unkillable(row).is_some() {
                return None;
            }
            let group = self.group_of_line(rule, slot, snap)?;
            let key = Key { source: Source::Rule(id), who: Who::Process(row.id) };
            let episode = self.episodes.find(key).and_then(|slot| self.episodes.get(slot));
            if episode.is_some_and(|episode| episode.phase != Phase::AtRest && episode.next > 0) {
                return None;
            }
            // No control counts so far: rules of one policy are told apart, and from those of another.
            let serial = OF_RULES | u64::from(self.generation) << 16 | u64::from(id.0);
            Some(Standing { condition: rule.when, group, action, serial })
        });
        acting.min_by_key(|standing| (standing.order(), standing.action != StandingAction::Kill))
    }

    fn standing_control(
        &self,
        who: crate::snapshot::ProcessId,
        oom_score_adj: Option<i16>,
    ) -> Option<Standing> {
        let set = self.controls.get(who)?;
        let condition = set.control.condition()?;
        let action = match set.control.action {
            ControlAction::Deny => StandingAction::Deny,
            ControlAction::Signal => StandingAction::Signal(set.control.signal),
            // The kernel's OOM killer spares it, and so does memgov.
            ControlAction::Kill if oom_score_adj != Some(-1000) => StandingAction::Kill,
            ControlAction::None | ControlAction::Slow | ControlAction::Kill => return None,
        };
        Some(Standing { condition, group: None, action, serial: set.serial })
    }

    /// Whose line it is that has this serial; `None`: of a policy that is no longer in force.
    pub fn source_of(&self, serial: u64) -> Option<Source> {
        let Some(of_rule) = serial.checked_sub(OF_RULES) else { return Some(Source::Control) };
        let rule = u16::try_from(of_rule & u64::from(u16::MAX)).ok()?;
        (of_rule >> 16 == u64::from(self.generation)).then_some(Source::Rule(RuleId(rule)))
    }

    /// Whether nothing may be done to this process.
    pub fn protects(&self, slot: ProcessSlot, snap: &Snapshot) -> bool {
        let id = snap.process(slot).map(|row| row.id);
        self.processes.get(slot.0 as usize).is_some_and(|state| state.id == id && state.protected.is_some())
    }

    /// For how long the kernel's OOM killer is to be held off a group: not at all where no rule about what is available there would kill instead.
    pub fn oom_delay(&self, slot: GroupSlot, snap: &Snapshot) -> Option<Duration> {
        let row = snap.group(slot)?;
        let delay = self.policy.oom_delay(&row.path)?;
        self.rules_of_group(slot, row.id).any(Rule::kills_when_full).then_some(delay)
    }

    /// Counts whatever may change [`Governor::stands`], so that it need not be asked for each tick.
    pub fn stands_version(&self) -> u64 {
        self.asked
    }

    /// Whether anything may have to be told: for a group, for a process with a line on what it holds, for a process with one on
    /// what its groups hold. A kernel is not made to look for what nobody asks.
    pub fn stands(&self) -> Stands {
        let short = |rule: &Rule| rule.when.meter() == Meter::Available;
        let mut stands = Stands {
            sockets: self.policy.squeezes(),
            shortage: self.policy.rules.iter().any(short),
            ..Stands::default()
        };
        for rule in self.policy.rules.iter().filter(|rule| !short(rule)) {
            if rule.when.group.is_some_and(Over::is_kernel) {
                stands.kernel = true;
                continue;
            }
            stands.deny |= rule.steps.iter().any(|step| step.action == Action::Deny);
            stands.rss |= rule.when.rss.is_some();
            // Crossing memory.high is told by the kernel as it is, and crossing a line that denies by the first refusal.
            let untold = matches!(rule.when.group, Some(Over::Amount(_))) && !denies_at_once(rule);
            let alone = rule.when.rss.is_none() && rule.when.group.is_some();
            stands.usage |= alone
                && match rule.scope {
                    Scope::Groups(_) => untold,
                    Scope::Processes(_) => acts_at_once(rule).is_some(),
                    Scope::Host => false,
                };
        }
        for (_, control) in self.controls() {
            let Some(condition) = control.condition() else { continue };
            stands.deny |= control.action == ControlAction::Deny;
            stands.rss |= condition.rss.is_some();
            let acts = matches!(control.action, ControlAction::Signal | ControlAction::Kill);
            stands.usage |= acts && condition.group.is_some() && condition.rss.is_none();
        }
        stands
    }
}

/// What of a kernel's own enforcement is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stands {
    /// Somebody is or may have to be denied.
    pub deny: bool,
    /// A process is signalled or killed for what its groups hold, or a group's line has no event of its own.
    pub usage: bool,
    /// Something waits for what a process holds.
    pub rss: bool,
    /// A group has a line for its kernel memory.
    pub kernel: bool,
    /// A rule squeezes sockets.
    pub sockets: bool,
    /// A rule is about what is available: that the kernel has run out of memory says that nothing is.
    pub shortage: bool,
}

impl Stands {
    /// Whether anything is.
    pub const fn any(self) -> bool {
        self.deny || self.usage || self.rss || self.kernel || self.sockets || self.shortage
    }
}

/// What the first step does to a single process, at once and without a choice. (Whoever is killed only for what its groups hold is chosen.)
fn acts_at_once(rule: &Rule) -> Option<StandingAction> {
    match rule.steps.first().filter(|step| step.after.is_zero())?.action {
        Action::Signal { signal, .. } => Some(StandingAction::Signal(signal)),
        Action::Kill { .. } if rule.when.rss.is_some() => Some(StandingAction::Kill),
        _ => None,
    }
}

/// Whether a kernel that can act by itself carries out the first step of this rule; what it does not is carried out from outside.
pub fn met_inside(rule: &Rule) -> bool {
    let single = matches!(rule.scope, Scope::Processes(_)) || rule.when.rss.is_some();
    denies_at_once(rule) || (single && acts_at_once(rule).is_some())
}

fn denies_at_once(rule: &Rule) -> bool {
    rule.steps.first().is_some_and(|step| step.action == Action::Deny && step.after.is_zero())
}
