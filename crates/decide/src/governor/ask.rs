//! The step that asks: the group is frozen first, as the step `freeze` does it, and only when that has not failed is the question put. While it is
//! open the ladder stands still. An answer comes in like any other request, between two ticks, and is taken up in the next.
//!
//! Whoever was asked may have anything killed, over its line or not. Nobody is killed because nobody has answered but while he is over: who is
//! back in the band by then runs on, for a group that stands still does not leave the band by itself.

use crate::decision::{DecisionId, Decisions, Order, Phase as Keep, Reason, Target};
use crate::policy::{Action, RuleId, Victim};
use crate::question::{Answer, Ask, NotOpen, QuestionView, Verdict};
use crate::snapshot::Snapshot;
use crate::units::Time;

use super::Governor;
use super::episode::{Episode, Key, Phase};
use super::judge::Excess;
use super::ladder::Step;
use super::report::What;

/// Groups at a time that are not to be asked about for some time. The one that would be asked about first makes room.
const MOST_EXCUSED: usize = 64;

/// The question of an episode: one at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Its number; `None`: the group is to be seen frozen first.
    pub id: Option<DecisionId>,
    /// Which step of the ladder asks.
    pub step: u8,
    at: Time,
    until: Time,
    excess: Excess,
    /// An answer that has come since the last tick.
    heard: Option<Answer>,
    /// It is to be killed, for this reason (`None`: because nobody answered); what has to come before that is waited for.
    condemned: Option<Option<Reason>>,
}

impl Asked {
    /// Nobody has answered yet, and it is not too late.
    const fn is_open(&self) -> bool {
        self.heard.is_none() && self.condemned.is_none()
    }
}

/// Who is not asked about until when.
#[derive(Debug)]
pub(super) struct Excused(Vec<(Key, Time)>);

impl Excused {
    pub fn new() -> Self {
        Self(Vec::with_capacity(MOST_EXCUSED))
    }

    fn add(&mut self, key: Key, until: Time, now: Time) {
        self.0.retain(|&(other, at)| other != key && at > now);
        if self.0.len() == self.0.capacity()
            && let Some(soonest) = (0..self.0.len()).min_by_key(|&at| self.0[at].1)
        {
            self.0.remove(soonest);
        }
        self.0.push((key, until));
    }

    /// Until when; long ago: it may be asked about.
    pub fn until(&self, key: Key) -> Time {
        self.0.iter().find(|(other, _)| *other == key).map_or(Time(0), |&(_, until)| until)
    }

    /// The rules have new numbers, or none any more.
    pub fn renumber(&mut self, number: impl Fn(RuleId) -> Option<RuleId>) {
        self.0.retain_mut(|(key, _)| match key.source {
            crate::decision::Source::Rule(rule) => match number(rule) {
                Some(rule) => {
                    key.source = crate::decision::Source::Rule(rule);
                    true
                }
                None => false,
            },
            crate::decision::Source::Control => true,
        });
    }
}

impl Governor {
    /// Answers an open question; it is acted on in the next [`Governor::step`].
    ///
    /// # Errors
    /// None of that number is open, or it is answered already.
    pub fn answer(&mut self, number: DecisionId, answer: Answer) -> Result<(), NotOpen> {
        let named = |asked: &Asked| asked.id == Some(number) && asked.is_open();
        let open = |e: &Episode| e.phase == Phase::Running && e.asked.as_ref().is_some_and(named);
        let slot = self.episodes.live.iter().copied().find(|&slot| self.episodes.get(slot).is_some_and(open));
        let episode = slot.and_then(|slot| self.episodes.get_mut(slot)).ok_or(NotOpen)?;
        if let Some(asked) = &mut episode.asked {
            asked.heard = Some(answer);
        }
        self.deadline = self.now;
        Ok(())
    }

    /// The questions that nobody has answered yet, in the order in which their episodes began.
    pub fn questions(&self) -> impl Iterator<Item = QuestionView> + '_ {
        self.episodes.iter().filter(|e| e.phase == Phase::Running).filter_map(|episode| {
            let asked = episode.asked.as_ref().filter(|asked| asked.is_open())?;
            let Action::Ask(ask) = self.step_of(episode, asked.step)?.action else { return None };
            Some(QuestionView {
                id: asked.id?,
                episode: episode.id,
                source: episode.source,
                target: episode.subject(),
                of_host: episode.target == Target::Host,
                since: asked.at,
                until: asked.until,
                default: ask.default,
                reason: asked.excess.reason,
            })
        })
    }

    /// Begins to ask: whom it is about is to stand still.
    pub(super) fn begin_asking(
        &mut self,
        episode: &mut Episode,
        step: u8,
        excess: &Excess,
        out: &mut Decisions,
    ) -> Step {
        let order = Order::Freeze { phase: Keep::Begin };
        if self.emit(episode, step, order, excess.reason, What::Begin, out).is_none() {
            return Step::Waits;
        }
        episode.frozen |= 1 << step;
        let (at, until) = (self.now, Time::FAR);
        let excess = *excess;
        episode.asked = Some(Asked { id: None, step, at, until, excess, heard: None, condemned: None });
        // By then it is known whether that could be done.
        self.deadline = self.now;
        Step::Began
    }

    /// Whether the ladder stands still: somebody is asked, or has said that it shall not go on.
    pub(super) fn stands_at_a_question(&self, episode: &Episode) -> bool {
        let asks = || self.step_of(episode, episode.next).is_some_and(|s| matches!(s.action, Action::Ask(_)));
        episode.asked.is_some() || self.now < episode.excused && asks()
    }

    /// Puts the question, takes up what was answered, and does what happens when nobody has.
    pub(super) fn attend_question(&mut self, episode: &mut Episode, snap: &Snapshot, out: &mut Decisions) {
        let Some(asked) = episode.asked else {
            if self.now < episode.excused {
                self.deadline = self.deadline.min(episode.excused);
            }
            return;
        };
        let Some(Action::Ask(ask)) = self.step_of(episode, asked.step).map(|s| s.action) else { return };
        let done = match (asked.id, asked.condemned) {
            (None, _) => self.put_question(episode, asked, ask, out),
            (Some(_), Some(why)) => self.carry_out(episode, (asked, ask), why, snap, out),
            (Some(id), None) => self.listen(episode, asked, id, ask, out),
        };
        // Decisions had no room, or memory is on its way back.
        if done.is_none() {
            self.deadline = self.deadline.min(self.now + self.policy.pace.fastest);
        }
    }

    fn put_question(
        &mut self,
        episode: &mut Episode,
        mut asked: Asked,
        ask: Ask,
        out: &mut Decisions,
    ) -> Option<()> {
        // What it was frozen for, if it is back in the band by now: nobody stands still without a question.
        let excess = episode.over.unwrap_or(asked.excess);
        let order = Order::Ask { timeout: ask.timeout, default: ask.default };
        let id = self.emit(episode, asked.step, order, excess.reason, What::Other, out)?;
        (asked.id, asked.excess) = (Some(id), excess);
        (asked.at, asked.until) = (self.now, self.now + ask.timeout);
        self.deadline = self.deadline.min(asked.until);
        episode.asked = Some(asked);
        Some(())
    }

    /// What was answered, or what happens because nobody has.
    fn listen(
        &mut self,
        episode: &mut Episode,
        mut asked: Asked,
        question: DecisionId,
        ask: Ask,
        out: &mut Decisions,
    ) -> Option<()> {
        let lapses = asked.heard.is_none() && ask.default == Verdict::Kill && episode.over.is_none();
        let (verdict, time, reason) = match asked.heard {
            Some(answer) => (answer.verdict, answer.time, Reason::Answered { by: answer.by }),
            None if self.now < asked.until => {
                self.deadline = self.deadline.min(asked.until);
                return Some(());
            }
            // Nobody is over his line who could be killed for it: it runs on.
            None if lapses => (Verdict::GoOn, None, Reason::NoAnswer { within: ask.timeout }),
            None => (ask.default, None, Reason::NoAnswer { within: ask.timeout }),
        };
        if verdict == Verdict::GoOn {
            self.end_all(episode, Order::Freeze { phase: Keep::End }, reason, out)?;
        }
        let order = Order::Answered { question, verdict, time };
        self.emit(episode, asked.step, order, reason, What::Other, out)?;
        let by_somebody = asked.heard.take().is_some();
        match verdict {
            Verdict::Wait => {
                asked.until = self.now + ask.timeout;
                self.deadline = self.deadline.min(asked.until);
                episode.asked = Some(asked);
            }
            Verdict::GoOn if lapses => self.ask_again(episode, asked.step),
            Verdict::GoOn => {
                episode.asked = None;
                // Should it ever be asked again, then by the same step.
                episode.next = asked.step;
                episode.hurry = time.is_some();
                episode.excused = time.map_or(Time::FAR, |time| self.now + time);
                if time.is_some() {
                    self.excused.add(episode.key(), episode.excused, self.now);
                    self.deadline = self.deadline.min(episode.excused);
                }
            }
            Verdict::Kill => {
                asked.condemned = Some(by_somebody.then_some(reason));
                episode.asked = Some(asked);
                // In the next tick, which is at once.
                return None;
            }
        }
        Some(())
    }

    /// It runs on, and is asked about again, by this step and at its own time, when it is over its line.
    fn ask_again(&self, episode: &mut Episode, step: u8) {
        (episode.asked, episode.next, episode.hurry) = (None, step, false);
        episode.base = self.now;
    }

    /// Kills, as a step `kill` would: within the kill budget, and not while memory of an earlier kill is on its way back.
    fn carry_out(
        &mut self,
        episode: &mut Episode,
        (asked, ask): (Asked, Ask),
        why: Option<Reason>,
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Option<()> {
        let excess = match (why, episode.over) {
            (Some(reason), over) => Excess { reason, ..over.unwrap_or(asked.excess) },
            (None, Some(over)) => over,
            (None, None) => {
                let reason = Reason::NoAnswer { within: ask.timeout };
                self.end_all(episode, Order::Freeze { phase: Keep::End }, reason, out)?;
                self.ask_again(episode, asked.step);
                return Some(());
            }
        };
        let said = out.len();
        let taken = self.kill(episode, asked.step, Victim::Group, &excess, snap, out);
        let killed =
            (said..out.len()).filter_map(|at| out.get(at)).any(|one| matches!(one.order, Order::Kill { .. }));
        // A kill that has to wait, or is one too many for now, is made as soon as it may be.
        if taken == Step::Waits || !killed {
            return None;
        }
        episode.asked = None;
        episode.condemned |= 1 << asked.step;
        episode.base = self.now;
        episode.ordered_at[usize::from(asked.step)] = self.now;
        Some(())
    }

    /// What a step comes to by now: one that has asked and was told to kill goes on as a kill.
    pub(super) fn action_of(&self, episode: &Episode, step: u8) -> Option<Action> {
        let action = self.step_of(episode, step)?.action;
        let kills = matches!(action, Action::Ask(_)) && episode.condemned & (1 << step) != 0;
        Some(if kills { Action::Kill { victim: Victim::Group } } else { action })
    }
}

impl Episode {
    /// A step could not be carried out. Nobody is asked about a group that runs on: the next step follows.
    pub(super) fn withdraw_question(&mut self, step: u8) {
        if self.asked.is_some_and(|asked| asked.step == step && asked.id.is_none()) {
            self.asked = None;
            // Nor is it frozen by and by, when there is room for that again.
            self.refused |= 1 << step;
        }
    }
}
