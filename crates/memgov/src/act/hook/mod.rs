//! `hook` and `handler` of a rule: a program of the administrator's runs for a group before worse happens to it, or the process that has registered for it is
//! told (`handlers.rs`). For a program the loop leaves word in a slot and goes on; a thread starts it and sees it end (`running.rs`), beside a small process that ends it when its time
//! is up or memgov is dead (`keeper.rs`).
//!
//! The threads are started when the first rule asks for a program. One that has no slot free for it is refused, and the ladder goes on.

mod handlers;
mod keeper;
mod running;

pub use handlers::{Handlers, News, Post, Shortage};
pub use keeper::{Charge, keep};
pub use running::Output;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memgov_decide::decision::{
    Decision, DecisionId, EpisodeId, Operation, Outcome, Reason, Report, Source, Target,
};
use memgov_decide::hook::{Helper, Hook, Program};
use memgov_decide::policy::{Action, Policy, RuleId};
use memgov_decide::snapshot::{GroupId, Snapshot};
use memgov_decide::units::Bytes;

use super::crew::{self, Crew};
use crate::kernel::{Errno, Layout, sys};

/// Where goes what a program has written, before it is said how it ended.
pub type Tell = Arc<dyn Fn(DecisionId, Output) + Send + Sync>;

/// A step of the policy in force that has somebody help.
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
    program: Program,
    episode: EpisodeId,
    group: GroupId,
    shortage: Shortage,
}

/// Its sign: the program is to be ended.
type Slot = crew::Slot<Word, AtomicBool>;

/// The programs that run, at a time as many as there are threads, and handlers that are waited for.
pub(super) struct Hooks {
    layout: Layout,
    handlers: Arc<Handlers>,
    /// For handlers, not left yet.
    asked: Vec<(GroupId, Shortage)>,
    plans: Vec<Arc<Plan>>,
    /// Of the policy in force no more than what it says of reserves.
    reserves: Policy,
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
        let (layout, handlers) = (layout.clone(), Arc::default());
        Self {
            layout,
            handlers,
            asked: handlers::room(),
            plans: Vec::new(),
            reserves: Policy::default(),
            tell: None,
            crew: Crew::default(),
        }
    }

    /// Who has registered as whose handler.
    pub fn handlers(&self) -> Arc<Handlers> {
        Arc::clone(&self.handlers)
    }

    /// Where goes what programs write. Set once, at start.
    pub fn tell_by(&mut self, tell: Tell) {
        self.tell = Some(tell);
    }

    /// The programs of another policy. Allocates: when rules are put in force. Those that run go on.
    pub fn plan(&mut self, policy: &Policy, in_earnest: bool) {
        self.plans.clear();
        let reserved = policy.groups.iter().filter(|group| group.oom_reserve.is_some());
        self.reserves = Policy { groups: reserved.cloned().collect(), ..Policy::default() };
        for (rule, number) in policy.rules.iter().zip(0..) {
            for (step, at) in rule.steps.iter().zip(0..) {
                if let Action::Hook(hook) = &step.action {
                    let (name, hook) = (rule.name.clone(), hook.clone());
                    self.plans.push(Arc::new(Plan { rule: RuleId(number), step: at, name, hook }));
                }
            }
        }
        if in_earnest && self.plans.iter().any(|plan| matches!(plan.hook.by, Helper::Program(_))) {
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
        let (Target::Group(group, at), Source::Rule(rule)) = (decision.target, decision.source) else {
            return refused(Errno::OPNOTSUPP);
        };
        let Some(row) = snap.group(at).filter(|row| row.id == group) else { return Outcome::Gone };
        let Some(plan) = self.plans.iter().find(|plan| (plan.rule, plan.step) == (rule, decision.step))
        else {
            return refused(Errno::INVAL);
        };
        let (meter, value, line) = compared(&decision.reason);
        let since = sys::now();
        let shortage = Shortage {
            decision: decision.id,
            path: Arc::clone(&row.path),
            usage: row.usage,
            limit: row.max,
            reserve: self.reserves.oom_reserve(&row.path),
            meter,
            value,
            line,
            since,
            until: since + plan.hook.within,
        };
        let Helper::Program(program) = &plan.hook.by else { return self.ask_handler(group, shortage) };
        let (plan, program) = (Arc::clone(plan), program.clone());
        match self.leave_word(Task { plan, program, episode: decision.episode, group, shortage }) {
            Ok(()) => Outcome::Begun,
            Err(errno) => refused(errno),
        }
    }

    fn ask_handler(&mut self, group: GroupId, shortage: Shortage) -> Outcome {
        if self.asked.len() == self.asked.capacity() {
            return refused(Errno::AGAIN);
        }
        // Who finds the table in use comes again with the next tick, as those do that came before.
        let alone = self.asked.is_empty();
        self.asked.push((group, shortage));
        let mut outcome = Outcome::Begun;
        if alone {
            self.handlers.leave_word(&mut self.asked, &mut |report| outcome = report.outcome);
        }
        outcome
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
        self.handlers.leave_word(&mut self.asked, reports);
        self.handlers.tick(sys::now(), reports);
        for slot in self.crew.slots() {
            let Some(mut word) = slot.try_lock() else { continue };
            if let (Some(task), Some(outcome)) = (&word.task, word.ended) {
                reports(Report { decision: task.shortage.decision, outcome });
                *word = Word::default();
            }
        }
    }

    /// Whether the loop is to come back for word of a thread.
    pub fn busy(&self) -> bool {
        let runs = |slot: &Slot| slot.try_lock().is_none_or(|word| word.task.is_some());
        !self.asked.is_empty() || self.handlers.busy() || self.crew.slots().any(runs)
    }

    /// Whatever runs is ended, within a moment, and nobody is waited for.
    pub fn call_off(&self) {
        self.handlers.call_off();
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

fn refused(errno: Errno) -> Outcome {
    Outcome::Refused { at: Operation::Hook, errno: errno.raw_os_error() }
}

/// What was compared, in the configuration's words. Of pressure no amount is.
fn compared(reason: &Reason) -> (&'static str, Bytes, Bytes) {
    match *reason {
        Reason::Kernel { kernel, line, .. } => ("kernel", kernel, line),
        Reason::Sockets { sockets, line, .. } => ("sockets", sockets, line),
        Reason::Pool { pool, line, .. } => ("usage+sockets", pool, line),
        Reason::Available { available, line, .. } => ("available", available, line),
        Reason::Usage { usage, line, .. } => ("usage", usage, line),
        Reason::Pressure { .. } => ("pressure", Bytes(0), Bytes(0)),
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
            tell(task.shortage.decision, output);
        }
        slot.lock().ended = Some(outcome);
    }
}
