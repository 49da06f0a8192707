//! Reclaim with a tolerance: what is asked of each group, and whose turn it is where it is for those that are starved.

use crate::balance::{Standing, Tally, Worth, worth_of};
use crate::decision::{Extent, Source, Target};
use crate::policy::{Action, MAX_RULES, Policy, Reclaim, Rule, Step};
use crate::snapshot::{Group, Snapshot};
use crate::units::{Bytes, Limit};

use super::Governor;
use super::episode::{Episode, Phase};

/// Whether a rule moves memory between its groups.
fn balances(rule: &Rule) -> bool {
    let balances = |step: &Step| matches!(step.action, Action::Reclaim(Reclaim { for_starved: true, .. }));
    rule.steps.iter().any(balances)
}

/// Room for the tallies of a policy: of one without such rules, none.
pub(super) fn tallies(policy: &Policy) -> Vec<Tally> {
    let some = policy.rules.iter().any(balances);
    vec![Tally::default(); if some { policy.rules.len().min(MAX_RULES) } else { 0 }]
}

impl Governor {
    /// Before anybody is asked: who of each rule is starved, and who could give.
    pub(super) fn tally(&mut self, snap: &Snapshot) {
        if self.tallies.is_empty() {
            return;
        }
        self.tallies.fill(Tally::default());
        for at in 0..self.episodes.live.len() {
            let Some(episode) = self.episodes.get(self.episodes.live[at]) else { continue };
            let (Source::Rule(rule), Phase::Running, false) = (episode.source, episode.phase, episode.orphan)
            else {
                continue;
            };
            let Some(standing) = self.standing_of(episode, snap) else { continue };
            if let Some(tally) = self.tallies.get_mut(rule.0 as usize) {
                tally.count(&standing);
            }
        }
    }

    fn standing_of(&self, episode: &Episode, snap: &Snapshot) -> Option<Standing> {
        let excess = episode.over.as_ref()?;
        let row = row_of(episode, snap)?;
        let usage = row.usage?;
        let search = &episode.search;
        Some(Standing {
            worth: self.worth_of(episode, row),
            usage,
            floor: usage.saturating_sub(self.too_much(episode, excess, snap)),
            limit: row.max.and_then(Limit::bytes),
            starved: search.suffers(),
            calm: search.is_calm(),
            spent: search.is_spent(),
        })
    }

    fn worth_of(&self, episode: &Episode, row: &Group) -> Worth {
        let state = match episode.target {
            Target::Group(_, slot) => self.groups.get(slot.0 as usize),
            Target::Process(..) | Target::Host => None,
        };
        worth_of(row, state.and_then(|state| state.worth))
    }

    /// How much is to go now; `None`: what was asked stands.
    pub(super) fn sought(
        &self,
        episode: &mut Episode,
        reclaim: &Reclaim,
        too_much: Bytes,
        snap: &Snapshot,
    ) -> Option<Extent> {
        let Some(tolerance) = reclaim.tolerance else { return Some(Extent::Down(too_much)) };
        let (row, Source::Rule(rule)) = (row_of(episode, snap)?, episode.source) else { return None };
        let usage = row.usage?;
        let turn = match self.standing_of(episode, snap) {
            Some(standing) if reclaim.for_starved => {
                self.tallies.get(rule.0 as usize).map(|tally| (tally, standing))
            }
            _ => None,
        };
        let wanted = match &turn {
            Some((tally, standing)) => tally.is_asked(standing),
            None => !reclaim.for_starved,
        };
        // A search goes down to the relief level, and never into a reservation.
        let floor = usage.saturating_sub(too_much).max(self.worth_of(episode, row).reservation);
        let ask = episode.search.next(row.strain_at, &row.strain, usage, floor, wanted, &tolerance)?;
        let ask = turn.map_or(ask, |(tally, standing)| tally.portion(&standing, ask));
        // Nothing after nothing need not be said.
        let said = std::mem::replace(&mut episode.pressing, ask > Bytes(0)) || ask > Bytes(0);
        said.then_some(Extent::Amount(ask))
    }

    /// Whether an episode needs no more than a look in each interval.
    pub(super) fn is_patient(&self, episode: &Episode) -> bool {
        let Source::Rule(rule) = episode.source else { return false };
        let rule = self.policy.rules.get(rule.0 as usize).filter(|_| !episode.orphan);
        rule.is_some_and(Rule::is_patient) && self.step_of(episode, episode.next).is_none()
    }
}

fn row_of<'a>(episode: &Episode, snap: &'a Snapshot) -> Option<&'a Group> {
    match episode.target {
        Target::Group(_, slot) => snap.group(slot),
        Target::Process(..) | Target::Host => None,
    }
}
