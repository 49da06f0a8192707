//! Makes a group smaller: [`Work::run`] takes one group to a target on the thread that calls it, as slowly as the kernel reclaims, and can be
//! watched and called off from another. What to ask for is [`memgov_decide::shrink`]'s; nothing is killed, and no limit stays changed.

mod lever;
mod lowering;

pub use lever::{Kind, Lever, Means, Unable};

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memgov_decide::shrink::{End, Next, Shrink};
use memgov_decide::units::{Bytes, Time};

use super::ledger::{Entry, Ledger, Place};
use crate::kernel::{Errno, GroupDir, Reading, sys};

/// A call that lasts longer is interrupted: for the progress line, and so that it can be called off.
pub const CALL: Duration = Duration::from_millis(200);
/// Whether it was called off is looked at so often while it rests.
const LOOK: Duration = Duration::from_millis(20);
/// Whoever waits for a shrink and has not asked for it for so long has gone away, and it is called off.
pub const ATTENTION: Duration = Duration::from_secs(10);

/// Where a lowered limit is written down.
pub trait Book {
    /// Before it is lowered.
    #[allow(clippy::missing_errors_doc, reason = "the ledger's")]
    fn record(&mut self, entry: &Entry<'_>) -> Result<Place, Errno>;
    /// After it has been put back.
    #[allow(clippy::missing_errors_doc, reason = "the ledger's")]
    fn erase(&mut self, place: Place) -> Result<(), Errno>;
}

impl Book for Ledger {
    fn record(&mut self, entry: &Entry<'_>) -> Result<Place, Errno> {
        Self::record(self, entry)
    }
    fn erase(&mut self, place: Place) -> Result<(), Errno> {
        Self::erase(self, place)
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To this usage.
    To(Bytes),
    /// By so much less than it uses at the beginning.
    By(Bytes),
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As decided.
    Ended(End),
    /// Called off.
    Cancelled,
    /// The group was removed.
    Gone,
    /// The kernel refused what it should not.
    Failed(Errno),
}

/// What can be seen from outside while it runs, and after.
#[derive(Debug, Default)]
pub struct Watched {
    cancel: AtomicBool,
    /// When it was last asked for by who waits for its end; 0: nobody waits.
    attended: AtomicU64,
    usage: AtomicU64,
    before: AtomicU64,
    target: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    outcome: Mutex<Option<Outcome>>,
}

/// [`Watched`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Usage when it began.
    pub before: Bytes,
    /// Usage now, or at its end.
    pub usage: Bytes,
    /// Where it goes.
    pub target: Bytes,
    /// How long it has run.
    pub elapsed: Duration,
    /// `None`: it runs.
    pub outcome: Option<Outcome>,
}

impl Progress {
    /// Bytes a second so far; `None`: too early to say.
    pub fn rate(&self) -> Option<u64> {
        let millis = u64::try_from(self.elapsed.as_millis()).ok().filter(|&millis| millis > 0)?;
        Some(self.freed().0.saturating_mul(1000) / millis)
    }

    /// What went so far.
    pub fn freed(&self) -> Bytes {
        self.before.saturating_sub(self.usage)
    }

    /// How long it will take at this rate; `None`: nobody knows.
    pub fn left(&self) -> Option<Duration> {
        let rate = self.rate().filter(|&rate| rate > 0)?;
        let left = self.usage.saturating_sub(self.target).0;
        Some(Duration::from_secs(left.div_ceil(rate)))
    }
}

impl Watched {
    /// Now.
    pub fn progress(&self) -> Progress {
        let load = |value: &AtomicU64| value.load(Ordering::Acquire);
        let outcome = *self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let until = if outcome.is_some() { Time(load(&self.ended)) } else { sys::now() };
        let begun = load(&self.begun);
        Progress {
            before: Bytes(load(&self.before)),
            usage: Bytes(load(&self.usage)),
            target: Bytes(load(&self.target)),
            elapsed: if begun == 0 { Duration::ZERO } else { until.since(Time(begun)) },
            outcome,
        }
    }

    /// Calls it off: it ends within [`CALL`] and the kernel's own delay.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Release);
    }

    /// Somebody waits for its end, and is there now.
    pub fn attend(&self) {
        self.attended.store(sys::now().0, Ordering::Release);
    }

    /// Whether somebody waits for its end.
    pub fn is_attended(&self) -> bool {
        self.attended.load(Ordering::Acquire) != 0
    }

    fn cancelled(&self) -> bool {
        let attended = Time(self.attended.load(Ordering::Acquire));
        self.cancel.load(Ordering::Acquire) || (attended.0 != 0 && sys::now().since(attended) > ATTENTION)
    }

    fn note(&self, usage: Bytes) {
        self.usage.store(usage.0, Ordering::Release);
    }

    /// Says how it went. For whoever could not even begin, too.
    pub fn end(&self, outcome: Outcome) {
        self.ended.store(sys::now().0, Ordering::Release);
        *self.outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(outcome);
    }
}

/// One group on its way to a target.
pub struct Work {
    /// The group.
    pub dir: GroupDir,
    /// By what.
    pub lever: Lever,
    /// Where to.
    pub goal: Goal,
}

impl Work {
    /// Runs to its end, which `watched` tells too.
    pub fn run(mut self, watched: &Watched, book: &mut dyn Book) -> Outcome {
        let outcome = self.shrink(watched, book).unwrap_or_else(|errno| match errno {
            Errno::NODEV | Errno::NOENT => Outcome::Gone,
            errno => Outcome::Failed(errno),
        });
        let closed = self.lever.close(book);
        let outcome = match (outcome, closed) {
            (Outcome::Ended(_), Err(errno)) => Outcome::Failed(errno),
            (outcome, _) => outcome,
        };
        watched.end(outcome);
        outcome
    }

    fn shrink(&mut self, watched: &Watched, book: &mut dyn Book) -> Result<Outcome, Errno> {
        let _nudge = sys::Nudge::every(CALL)?;
        let usage = self.usage()?;
        let target = match self.goal {
            Goal::To(target) => target,
            Goal::By(amount) => usage.saturating_sub(amount),
        };
        let now = sys::now();
        watched.before.store(usage.0, Ordering::Release);
        watched.target.store(target.0, Ordering::Release);
        watched.note(usage);
        watched.begun.store(now.0, Ordering::Release);
        let mut shrink = Shrink::new(target, Bytes(sys::page_size()), usage, now);
        loop {
            if watched.cancelled() {
                return Ok(Outcome::Cancelled);
            }
            let usage = self.usage()?;
            watched.note(usage);
            match shrink.next(usage, sys::now()) {
                Next::Ask(amount) => {
                    shrink.answered(self.lever.press(&self.dir, amount, target, book)?);
                }
                Next::Wait(time) => rest(time, watched),
                Next::End(end) => return Ok(Outcome::Ended(end)),
            }
        }
    }

    fn usage(&self) -> Result<Bytes, Errno> {
        let mut reading = Reading::default();
        self.dir.read_usage(&mut [0; 64], &mut reading, &mut |_, _| {})?;
        reading.usage.ok_or(Errno::IO)
    }
}

/// Sleeps, unless it is called off.
fn rest(time: Duration, watched: &Watched) {
    let until = sys::now() + time;
    while !watched.cancelled() && sys::now() < until {
        std::thread::sleep(LOOK.min(until.since(sys::now())));
    }
}
