//! Handing decisions over. What an episode remembers of a decision it remembers only once that has found room.

use crate::decision::{Decision, DecisionId, Decisions, Order, Ranking, Reason, Source, Target};

use super::Governor;
use super::episode::Episode;
use super::report::{Sent, What};

impl Governor {
    pub(super) fn emit(
        &mut self,
        episode: &mut Episode,
        step: u8,
        order: Order,
        reason: Reason,
        what: What,
        out: &mut Decisions,
    ) -> Option<DecisionId> {
        let decision = self.decision(episode, step, order, reason, what != What::Kept, Ranking::default());
        self.send(episode, decision, what, out)
    }

    pub(super) fn emit_ranked(
        &mut self,
        episode: &mut Episode,
        step: u8,
        order: Order,
        reason: Reason,
        ranking: Ranking,
        out: &mut Decisions,
    ) -> Option<DecisionId> {
        let decision = self.decision(episode, step, order, reason, true, ranking);
        self.send(episode, decision, What::Kill, out)
    }

    /// What is done to somebody for the sake of somebody else: the decision is about the one, the reason about the other.
    pub(super) fn emit_about(
        &mut self,
        episode: &mut Episode,
        step: u8,
        (target, order): (Target, Order),
        (reason, ranking): (Reason, Ranking),
        what: What,
        out: &mut Decisions,
    ) -> Option<DecisionId> {
        let decision = Decision { target, ..self.decision(episode, step, order, reason, true, ranking) };
        self.send(episode, decision, what, out)
    }

    fn decision(
        &self,
        episode: &Episode,
        step: u8,
        order: Order,
        reason: Reason,
        notable: bool,
        ranking: Ranking,
    ) -> Decision {
        let log = notable && !episode.logged && self.wants_log(episode);
        // What is only said is said of who is short.
        let target = match order {
            Order::Record | Order::Relieved => episode.target,
            _ => episode.subject(),
        };
        Decision {
            id: DecisionId(self.next_decision),
            episode: episode.id,
            at: self.now,
            source: episode.source,
            step,
            target,
            order,
            reason,
            log,
            notable,
            ranking,
        }
    }

    /// Hands a decision over if there is room, and only then remembers it.
    fn send(
        &mut self,
        episode: &mut Episode,
        decision: Decision,
        what: What,
        out: &mut Decisions,
    ) -> Option<DecisionId> {
        if !out.push(decision) {
            return None;
        }
        self.next_decision += 1;
        episode.logged |= decision.log;
        episode.spoken |= decision.notable;
        episode.last = Some((decision.order, decision.reason));
        if matches!(what, What::Begin | What::Signal | What::Kill | What::KillJob(_) | What::KillIn(_)) {
            self.remember(Sent {
                id: decision.id,
                slot: episode.place,
                episode: episode.id,
                step: decision.step,
                what,
                answered: false,
            });
        }
        Some(decision.id)
    }

    fn wants_log(&self, episode: &Episode) -> bool {
        match (episode.source, &episode.control) {
            (Source::Control, Some((control, _))) => control.flags.has(crate::control::Flags::LOG),
            (Source::Rule(rule), _) if !episode.orphan => {
                self.policy.rules.get(rule.0 as usize).is_some_and(|rule| rule.log)
            }
            _ => false,
        }
    }
}
