//! `hook` of a rule: a program of the administrator's runs for a group before worse happens to it. The loop leaves word in a slot and goes on; a thread
//! starts the program and sees it end (`running.rs`), beside a small process that ends it when its time is up or memgov is dead (`keeper.rs`).
//!
//! The threads are started when the first rule asks for them. One that has no slot free for it is refused, and the ladder goes on.

mod keeper;
mod running;

pub use keeper::{Charge, keep};
pub use running::Output;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memgov_decide::decision::{
    Decision, DecisionId, EpisodeId, Operation, Outcome, Reason, Report, Source, Target,
};
use memgov_decide::hook::Hook;
use memgov_decide::policy::{Action, Policy, RuleId};
use memgov_decide::snapshot::{GroupId, Snapshot};
use memgov_decide::units::{Bytes, Limit};

use super::crew::{self, Crew};
use crate::kernel::{Errno, Layout};

/// Where goes what a program has written, before it is said how it ended.
pub type Tell = Arc<dyn Fn(DecisionId, Output) + Send + Sync>;

/// A step of the policy in force that runs a program.
#[derive(Debug)]
struct Plan {
    rule: RuleId,
    step: u8,
    name: String,
    hook: Hook,
}

/// One run of it.
#[derive(Clone, Debug)]
struct Task {
    plan: Arc<Plan>,
    decision: DecisionId,
    episode: EpisodeId,
    group: GroupId,
    path: Arc<[u8]>,
    usage: Option<Bytes>,
    limit: Option<Limit>,
    meter: &'static str,
    value: Bytes,
    line: Bytes,
}

/// Its sign: the program is to be ended.
type Slot = crew::Slot<Word, AtomicBool>;

/// The programs that run, at a time as many as there are threads.
pub(super) struct Hooks {
    layout: Layout,
    plans: Vec<Arc<Plan>>,
    tell: Option<Tell>,
    crew: Crew<Word, AtomicBool>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hooks({} plans, {} threads)", self.plans.len(), self.crew.slots().count())
    }
}

#[derive(Debug, Default)]
struct Word {
    task: Option<Task>,
    begun: bool,
    ended: Option<Outcome>,
}

impl Hooks {
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone(), plans: Vec::new(), tell: None, crew: Crew::default() }
    }

    /// Where goes what programs write. Set once, at start.
    pub fn tell_by(&mut self, tell: Tell) {
        self.tell = Some(tell);
    }

    /// The programs of another policy. Allocates: when rules are put in force. Those that run go on.
    pub fn plan(&mut self, policy: &Policy, in_earnest: bool) {
        self.plans.clear();
        for (rule, number) in policy.rules.iter().zip(0..) {
            for (step, at) in rule.steps.iter().zip(0..) {
                if let Action::Hook(hook) = &step.action {
                    let (name, hook) = (rule.name.clone(), hook.clone());
                    self.plans.push(Arc::new(Plan { rule: RuleId(number), step: at, name, hook }));
                }
            }
        }
        if in_earnest && !self.plans.is_empty() {
            self.start();
        }
    }

    fn start(&mut self) {
        let (layout, tell) = (&self.layout, &self.tell);
        self.crew.start("memgov-hook", || {
            let (layout, tell) = (layout.clone(), tell.clone());
            move |slot: &Slot| serve(slot, &layout, tell)
        });
    }

    /// Carries an order out, as far as the loop's part goes.
    pub fn order(&mut self, decision: &Decision, snap: &Snapshot) -> Outcome {
        let refused = |errno: Errno| Outcome::Refused { at: Operation::Hook, errno: errno.raw_os_error() };
        let (Target::Group(group, at), Source::Rule(rule)) = (decision.target, decision.source) else {
            return refused(Errno::OPNOTSUPP);
        };
        let Some(row) = snap.group(at).filter(|row| row.id == group) else { return Outcome::Gone };
        let Some(plan) = self.plans.iter().find(|plan| (plan.rule, plan.step) == (rule, decision.step))
        else {
            return refused(Errno::INVAL);
        };
        let (meter, value, line) = compared(&decision.reason);
        let task = Task {
            plan: Arc::clone(plan),
            decision: decision.id,
            episode: decision.episode,
            group,
            path: Arc::clone(&row.path),
            usage: row.usage,
            limit: row.max,
            meter,
            value,
            line,
        };
        match self.leave_word(task) {
            Ok(()) => Outcome::Begun,
            Err(errno) => refused(errno),
        }
    }

    fn leave_word(&mut self, task: Task) -> Result<(), Errno> {
        let words = || self.crew.slots().filter_map(|slot| Some((slot, slot.try_lock()?)));
        if words().any(|(_, word)| word.task.as_ref().is_some_and(|other| other.group == task.group)) {
            return Err(Errno::BUSY);
        }
        let (slot, mut word) = words().find(|(_, word)| word.task.is_none()).ok_or(Errno::AGAIN)?;
        slot.sign.store(false, Ordering::Release);
        *word = Word { task: Some(task), ..Word::default() };
        slot.ring();
        Ok(())
    }

    /// Which programs have ended, and how.
    pub fn tick(&mut self, reports: &mut dyn FnMut(Report)) {
        for slot in self.crew.slots() {
            let Some(mut word) = slot.try_lock() else { continue };
            if let (Some(task), Some(outcome)) = (&word.task, word.ended) {
                reports(Report { decision: task.decision, outcome });
                *word = Word::default();
            }
        }
    }

    /// Whether the loop is to come back for word of a thread.
    pub fn busy(&self) -> bool {
        self.crew.slots().any(|slot| slot.try_lock().is_none_or(|word| word.task.is_some()))
    }

    /// Whatever runs is ended, within a moment.
    pub fn call_off(&self) {
        self.crew.slots().for_each(|slot| slot.sign.store(true, Ordering::Release));
    }

    /// Nothing is run any more. Threads end within a moment.
    pub fn stop(&self) {
        self.call_off();
        self.crew.stop();
    }

    /// Whether all have ended after [`Hooks::stop`].
    pub fn stopped(&self) -> bool {
        self.crew.stopped()
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What was compared, in the configuration's words.
fn compared(reason: &Reason) -> (&'static str, Bytes, Bytes) {
    match *reason {
        Reason::Kernel { kernel, line, .. } => ("kernel", kernel, line),
        Reason::Available { available, line, .. } => ("available", available, line),
        Reason::Usage { usage, line, .. } => ("usage", usage, line),
        // Nothing else begins a step of a rule for groups as wholes.
        _ => ("usage", Bytes(0), Bytes(0)),
    }
}

/// A thread: waits for a task, sees it through, says how it went, again.
fn serve(slot: &Slot, layout: &Layout, tell: Option<Tell>) {
    let waits = |word: &Word| word.task.is_some() && !word.begun;
    while let Some(mut word) = slot.wait_for(waits) {
        let Some(task) = word.task.clone() else { continue };
        word.begun = true;
        drop(word);
        let (outcome, output) = running::run(&task, layout, &slot.sign);
        if let (Some(tell), false) = (&tell, output.is_empty()) {
            tell(task.decision, output);
        }
        slot.lock().ended = Some(outcome);
    }
}
