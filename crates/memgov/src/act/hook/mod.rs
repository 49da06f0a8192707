//! `hook` of a rule: a program of the administrator's runs for a group before worse happens to it. The loop leaves word in a slot and goes on; a thread
//! starts the program and sees it end (`running.rs`), beside a small process that ends it when its time is up or memgov is dead (`keeper.rs`).
//!
//! The threads are started when the first rule asks for them. One that has no slot free for it is refused, and the ladder goes on.

mod keeper;
mod running;

pub use keeper::{Charge, keep};
pub use running::Output;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

use memgov_decide::decision::{
    Decision, DecisionId, EpisodeId, Operation, Outcome, Reason, Report, Source, Target,
};
use memgov_decide::hook::Hook;
use memgov_decide::policy::{Action, Policy, RuleId};
use memgov_decide::snapshot::{GroupId, Snapshot};
use memgov_decide::units::{Bytes, Limit};

use crate::kernel::{Errno, Layout};

/// Programs at a time.
const THREADS: usize = 8;
/// As of those that reclaim.
const STACK: usize = 256 << 10;

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

/// The programs that run.
pub(super) struct Hooks {
    layout: Layout,
    plans: Vec<Arc<Plan>>,
    tell: Option<Tell>,
    slots: Vec<Arc<Slot>>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hooks({} plans, {} threads)", self.plans.len(), self.threads.len())
    }
}

/// Where the loop leaves word for a thread, and the thread for the loop.
#[derive(Debug, Default)]
struct Slot {
    word: Mutex<Word>,
    bell: Condvar,
    /// The program is to be ended...
    off: AtomicBool,
    /// ...and the thread too.
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Word {
    task: Option<Task>,
    begun: bool,
    ended: Option<Outcome>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Word> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop, which never waits: a thread that has the lock gives it back in a moment.
    fn try_lock(&self) -> Option<MutexGuard<'_, Word>> {
        match self.word.try_lock() {
            Ok(word) => Some(word),
            Err(TryLockError::Poisoned(word)) => Some(word.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Hooks {
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone(), plans: Vec::new(), tell: None, slots: Vec::new(), threads: Vec::new() }
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
        if in_earnest && !self.plans.is_empty() && self.threads.is_empty() {
            self.start();
        }
    }

    fn start(&mut self) {
        for number in 0..THREADS {
            let slot = Arc::new(Slot::default());
            let (for_thread, layout, tell) = (Arc::clone(&slot), self.layout.clone(), self.tell.clone());
            let thread = std::thread::Builder::new()
                .name(format!("memgov-hook-{number}"))
                .stack_size(STACK)
                .spawn(move || serve(&for_thread, &layout, tell));
            // With fewer threads fewer programs run at a time; without any, orders are refused.
            if let Ok(thread) = thread {
                self.slots.push(slot);
                self.threads.push(thread);
            }
        }
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
        let words = || self.slots.iter().filter_map(|slot| Some((slot, slot.try_lock()?)));
        if words().any(|(_, word)| word.task.as_ref().is_some_and(|other| other.group == task.group)) {
            return Err(Errno::BUSY);
        }
        let (slot, mut word) = words().find(|(_, word)| word.task.is_none()).ok_or(Errno::AGAIN)?;
        slot.off.store(false, Ordering::Release);
        *word = Word { task: Some(task), ..Word::default() };
        slot.bell.notify_one();
        Ok(())
    }

    /// Which programs have ended, and how.
    pub fn tick(&mut self, reports: &mut dyn FnMut(Report)) {
        for slot in &self.slots {
            let Some(mut word) = slot.try_lock() else { continue };
            if let (Some(task), Some(outcome)) = (&word.task, word.ended) {
                reports(Report { decision: task.decision, outcome });
                *word = Word::default();
            }
        }
    }

    /// Whether the loop is to come back for word of a thread.
    pub fn busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.try_lock().is_none_or(|word| word.task.is_some()))
    }

    /// Whatever runs is ended, within a moment.
    pub fn call_off(&self) {
        self.slots.iter().for_each(|slot| slot.off.store(true, Ordering::Release));
    }

    /// Nothing is run any more. Threads end within a moment.
    pub fn stop(&self) {
        self.call_off();
        for slot in &self.slots {
            slot.over.store(true, Ordering::Release);
            // Under the lock, or a thread that has just looked would miss the bell.
            drop(slot.lock());
            slot.bell.notify_all();
        }
    }

    /// Whether all have ended after [`Hooks::stop`].
    pub fn stopped(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
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
    loop {
        let mut word = slot.lock();
        let task = loop {
            if slot.over.load(Ordering::Acquire) {
                return;
            }
            match &word.task {
                Some(task) if !word.begun => break task.clone(),
                _ => word = slot.bell.wait(word).unwrap_or_else(PoisonError::into_inner),
            }
        };
        word.begun = true;
        drop(word);
        let (outcome, output) = running::run(&task, layout, &slot.off);
        if let (Some(tell), false) = (&tell, output.is_empty()) {
            tell(task.decision, output);
        }
        slot.lock().ended = Some(outcome);
    }
}
