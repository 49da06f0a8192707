//! What may be told to a kernel that can act by itself, before anything has happened: the lines at which the first step of
//! a ladder is due at once. It changes when and where a line is noticed, never what is decided: the crossing is read
//! and decided on afterwards as ever, and whoever acts sees that it is done already.
//!
//! Only what needs no choice is told. A victim that has to be picked, a step that waits, a slowdown, a condition that mixes groups
//! in a way only the snapshot knows: those are left to the loop. Kills are made by the kernel within [`Governor::kill_allowance`] only, so that
//! they are braked as all others are.

use crate::control::ControlAction;
use crate::decision::Source;
use crate::policy::{Action, Condition, Over, Rule, Scope};
use crate::snapshot::{GroupSlot, Process, ProcessSlot, Snapshot};
use crate::units::Bytes;
use crate::victim;

use super::Governor;
use super::episode::{Key, Phase, Who};
use super::rows::ProcessState;

/// What a process is to meet in the allocating call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When. A group part is always `memory.high` of any group above it and so much on top.
    pub condition: Condition,
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
            let Some(line) = over.line(row) else { continue };
            let lowest = match (over.is_kernel(), denies_at_once(rule)) {
                (false, true) => &mut standing.deny,
                (false, false) => &mut standing.tell,
                (true, true) => &mut standing.kernel_deny,
                (true, false) => &mut standing.kernel_tell,
            };
            *lowest = Some(lowest.map_or(line, |other: Bytes| other.min(line)));
        }
        standing
    }

    /// What a process is to meet: the lowest line on its resident memory at which a rule denies at once; else the lowest at which one signals or kills at
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
            .filter(|rule| denies_at_once(rule) && rule.when.group.is_none())
            .min_by_key(|rule| rule.when.rss.map(|rss| rss.over));
        denying
            .map(|rule| Standing { condition: rule.when, action: StandingAction::Deny, serial: 0 })
            .or_else(|| self.standing_act(row, state))
            .or_else(|| self.standing_control(row.id, row.oom_score_adj))
            .or_else(|| {
                let rss =
                    self.conditions(slot).filter_map(|condition| condition.rss).min_by_key(|rss| rss.over)?;
                let condition = Condition { group: None, rss: Some(rss) };
                Some(Standing { condition, action: StandingAction::Tell, serial: 0 })
            })
    }

    /// The lowest line of a rule whose first step signals or kills this process at once. A rule whose first step is done stands no more
    /// until its episode is over: what it does again is decided.
    fn standing_act(&self, row: &Process, state: &ProcessState) -> Option<Standing> {
        let acting = state.matches.iter().filter_map(|id| {
            let rule = self.policy.rules.get(id.0 as usize)?;
            let (None, Some(rss)) = (rule.when.group, rule.when.rss) else { return None };
            let first = rule.steps.first().filter(|step| step.after.is_zero())?;
            let action = match first.action {
                Action::Signal { signal, .. } => StandingAction::Signal(signal),
                Action::Kill { .. } if victim::unkillable(row).is_none() => StandingAction::Kill,
                _ => return None,
            };
            let key = Key { source: Source::Rule(id), who: Who::Process(row.id) };
            let episode = self.episodes.find(key).and_then(|slot| self.episodes.get(slot));
            if episode.is_some_and(|episode| episode.phase != Phase::AtRest && episode.next > 0) {
                return None;
            }
            // No control counts so far: rules of one policy are told apart, and from those of another.
            let serial = OF_RULES | u64::from(self.generation) << 16 | u64::from(id.0);
            Some((
                rss.over,
                action != StandingAction::Kill,
                Standing { condition: rule.when, action, serial },
            ))
        });
        acting.min_by_key(|&(line, milder, _)| (line, milder)).map(|(_, _, standing)| standing)
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
        Some(Standing { condition, action, serial: set.serial })
    }

    /// Whether nothing may be done to this process.
    pub fn protects(&self, slot: ProcessSlot, snap: &Snapshot) -> bool {
        let id = snap.process(slot).map(|row| row.id);
        self.processes.get(slot.0 as usize).is_some_and(|state| state.id == id && state.protected.is_some())
    }

    /// Counts whatever may change [`Governor::stands`], so that it need not be asked for each tick.
    pub fn stands_version(&self) -> u64 {
        self.asked
    }

    /// Whether anything may have to be told: for a group, for a process with a line on what it holds, for a process with one on
    /// what its groups hold. A kernel is not made to look for what nobody asks.
    pub fn stands(&self) -> Stands {
        let mut stands = Stands::default();
        for rule in &self.policy.rules {
            if rule.when.group.is_some_and(Over::is_kernel) {
                stands.kernel = true;
                continue;
            }
            stands.deny |= rule.steps.iter().any(|step| step.action == Action::Deny);
            stands.rss |= rule.when.rss.is_some();
            // Crossing memory.high is told by the kernel as it is, and crossing a line that denies by the first refusal.
            let untold = matches!(rule.when.group, Some(Over::Amount(_))) && !denies_at_once(rule);
            stands.usage |= untold && matches!(rule.scope, Scope::Groups(_)) && rule.when.rss.is_none();
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
}

impl Stands {
    /// Whether anything is.
    pub const fn any(self) -> bool {
        self.deny || self.usage || self.rss || self.kernel
    }
}

fn denies_at_once(rule: &Rule) -> bool {
    rule.steps.first().is_some_and(|step| step.action == Action::Deny && step.after.is_zero())
}
