//! `reclaim` of a rule: the group is shrunk to its relief level in the background, in memgov's time and not in its own, so that it never
//! meets its limit. The kernel may take as long as it likes, so threads of their own do it, a group each; the loop leaves word in a slot and
//! goes on. All of it is made when the first rule asks for it.
//!
//! Of kernel memory only part can be reclaimed, and nobody says which: what is in use is told by a bounded trial (`memgov_decide::kernel_memory::trial`), and the
//! ladder goes on at once.
//!
//! A thread uses no more than its share of a processor: after each piece it rests in proportion to the time that the piece took (the last piece
//! may be over it by itself, a few milliseconds).

mod thread;

use std::sync::Arc;
use std::time::Duration;

use memgov_decide::decision::{
    Decision, DecisionId, EpisodeId, Extent, Mechanism, Operation, Outcome, Phase, Report, Target,
};
use memgov_decide::kernel_memory::trial::Verdict;
use memgov_decide::policy::{Meter, Reclaim};
use memgov_decide::shrink::End;
use memgov_decide::snapshot::{Group, GroupId, Snapshot};
use memgov_decide::units::{Bytes, Time};

use super::crew::{self, Crew};
use super::shrink::Book;
use crate::kernel::{Errno, Layout, MemoryVersion, sys};

/// A group from which nothing could be had is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// Makes what a thread writes to the ledger through. The loop has that.
pub type MakeBook = Box<dyn Fn() -> Box<dyn Book + Send> + Send>;

type Slot = crew::Slot<Word>;

/// The groups that are reclaimed from, at a time as many as there are threads; more wait until one has enough.
pub(super) struct Reclaims {
    layout: Layout,
    make: Option<MakeBook>,
    crew: Crew<Word>,
}

impl std::fmt::Debug for Reclaims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reclaims({} threads)", self.crew.slots().count())
    }
}

#[derive(Debug, Default)]
struct Word {
    task: Option<Task>,
    /// A try is asked for.
    asked: bool,
    /// A thread is at it.
    running: bool,
    /// How its last try ended, and when.
    ended: Option<(Result<Ended, Errno>, Time)>,
    /// Said to the governor already.
    told: bool,
}

/// How a try ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Shrunk(End),
    Tried(Verdict),
}

impl Ended {
    const fn well(self) -> bool {
        matches!(self, Self::Shrunk(End::Already | End::Reached) | Self::Tried(Verdict::Back))
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    /// What is over its line.
    pub meter: Meter,
    /// How much is to go.
    pub extent: Extent,
    /// Thousandths of a processor.
    pub share: u16,
}

/// Where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// The meter is there.
    At(Bytes),
    /// So much has gone, counted from when this was said; `None`: a thread has taken it on already.
    Gone(Option<Bytes>),
}

/// One group to be reclaimed from.
#[derive(Clone, Debug)]
struct Task {
    episode: EpisodeId,
    decision: DecisionId,
    group: GroupId,
    path: Arc<[u8]>,
    meter: Meter,
    aim: Aim,
    share: u16,
}

impl Word {
    /// Nobody's. One that still runs for an episode that is over is about to look.
    fn is_free(&self, _: Time) -> bool {
        self.task.is_none() && !self.running
    }

    /// Its last try got what it was asked for, or what came of it was told and is long ago.
    fn has_nothing_to_do(&self, now: Time) -> bool {
        let known = |(how, _): (Result<Ended, Errno>, Time)| self.told || how.is_ok_and(Ended::well);
        !self.running && !self.asked && !self.is_left_alone(now) && self.ended.is_some_and(known)
    }

    /// Nothing could be had just now.
    fn is_left_alone(&self, now: Time) -> bool {
        self.ended.is_some_and(|(how, at)| !how.is_ok_and(Ended::well) && now.since(at) < LEFT_ALONE)
    }
}

impl Reclaims {
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone(), make: None, crew: Crew::default() }
    }

    /// By what it is done on a host laid out like this.
    pub const fn by(layout: &Layout) -> Mechanism {
        match layout.version {
            MemoryVersion::V1 => Mechanism::LoweredLimit,
            MemoryVersion::V2 => Mechanism::MemoryReclaim,
        }
    }

    /// Makes everything, once. Not on the acting path.
    pub fn prepare(&mut self, make: MakeBook) {
        self.make = Some(make);
    }

    /// What gives a thread the ledger.
    pub const fn book(&self) -> Option<&MakeBook> {
        self.make.as_ref()
    }

    /// Starts the threads, if rules ask for them and they do not run yet. Allocates: when rules are put in force.
    pub fn start(&mut self) {
        let (layout, make) = (&self.layout, &self.make);
        self.crew.start("memgov-reclaim", || {
            let (layout, book) = (layout.clone(), make.as_ref().map(|make| make()));
            move |slot: &Slot| thread::serve(slot, &layout, book)
        });
    }

    /// Carries an order out, as far as the loop's part goes.
    pub fn order(&mut self, decision: &Decision, phase: Phase, goal: Goal, snap: &Snapshot) -> Outcome {
        let done = Outcome::Done { processes: 0, by: Self::by(&self.layout) };
        if phase == Phase::End {
            self.let_go(decision.episode);
            return done;
        }
        let Target::Group(group, at) = decision.target else { return Outcome::Nothing };
        let value = |row: &Group| if goal.meter == Meter::Kernel { row.kernel } else { row.usage };
        let Some((row, value)) = snap.group(at).and_then(|row| Some((row, value(row)?))) else {
            return Outcome::Nothing;
        };
        if row.id != group {
            return Outcome::Gone;
        }
        if self.crew.is_empty() {
            return Outcome::Refused { at: Operation::Reclaim, errno: Errno::AGAIN.raw_os_error() };
        }
        let task = Task {
            episode: decision.episode,
            decision: decision.id,
            group,
            path: Arc::clone(&row.path),
            meter: goal.meter,
            aim: match goal.extent {
                // Nothing is to go now: not even what it has grown by since.
                Extent::Down(Bytes(0)) => Aim::At(Bytes(u64::MAX)),
                Extent::Down(excess) => Aim::At(value.saturating_sub(excess)),
                Extent::Amount(amount) => Aim::Gone(Some(amount)),
            },
            share: goal.share,
        };
        if self.leave_word(task, phase) { done } else { Outcome::Nothing }
    }

    /// In the slot that has the episode, else in a free one, else in one that has nothing to do just now (rules that reclaim with a tolerance may have more
    /// groups than there are threads, for days); whether there was one.
    fn leave_word(&mut self, task: Task, phase: Phase) -> bool {
        let now = sys::now();
        for slot in self.crew.slots() {
            let Some(mut word) = slot.try_lock() else { continue };
            let Some(known) = word.task.as_mut().filter(|known| known.episode == task.episode) else {
                continue;
            };
            (known.aim, known.share) = (task.aim, task.share);
            // A thread that runs may be about to end, and would not look for another amount.
            let again = matches!(task.aim, Aim::Gone(_)) || !word.running;
            if again && !word.is_left_alone(now) {
                word.asked = true;
                slot.ring();
            }
            return true;
        }
        for rests in [Word::is_free, Word::has_nothing_to_do] {
            for slot in self.crew.slots() {
                let Some(mut word) = slot.try_lock() else { continue };
                if rests(&word, now) {
                    let told = phase == Phase::Sustain;
                    *word = Word { task: Some(task), asked: true, told, ..Word::default() };
                    slot.ring();
                    return true;
                }
            }
        }
        false
    }

    /// For a loan that is due: the group is pressed down to what it had. Whatever an episode asks for besides has a place of its own.
    pub fn press_on(&mut self, group: GroupId, path: &Arc<[u8]>, target: Bytes, decision: DecisionId) {
        let (meter, aim, share) = (Meter::Usage, Aim::At(target), Reclaim::default().share);
        let task =
            Task { episode: due_of(group), decision, group, path: Arc::clone(path), meter, aim, share };
        self.leave_word(task, Phase::Begin);
    }

    /// And no more.
    pub fn stop_pressing(&mut self, group: GroupId) {
        self.let_go(due_of(group));
    }

    fn let_go(&self, episode: EpisodeId) {
        for slot in self.crew.slots() {
            // One that could not be looked at ends by itself at its target, which is where this ends.
            if let Some(mut word) = slot.try_lock()
                && word.task.as_ref().is_some_and(|task| task.episode == episode)
            {
                word.task = None;
            }
        }
    }

    /// What has become of orders: of each episode once, if nothing could be had.
    pub fn tick(&mut self, reports: &mut dyn FnMut(Report)) {
        for slot in self.crew.slots() {
            let Some(mut word) = slot.try_lock() else { continue };
            let (Some(task), Some((how, _)), false) = (&word.task, word.ended, word.told) else { continue };
            let (at, by) = (Operation::Reclaim, Self::by(&self.layout));
            let outcome = match how {
                Ok(Ended::Shrunk(End::Hard | End::Emptied)) => {
                    let errno = Errno::BUSY.raw_os_error();
                    Outcome::Partial { processes: 0, refused: 0, by, at, errno }
                }
                Ok(Ended::Tried(Verdict::Pinned { freed, held })) => Outcome::Pinned { freed, held },
                Err(errno) => Outcome::Refused { at, errno: errno.raw_os_error() },
                Ok(_) => continue,
            };
            reports(Report { decision: task.decision, outcome });
            word.told = true;
        }
    }

    /// Whether the loop is to come back for word of a thread.
    pub fn busy(&self) -> bool {
        self.crew.slots().any(|slot| slot.try_lock().is_none_or(|word| word.running))
    }

    /// Nothing is reclaimed any more. Threads end within a moment, and may need the ledger before.
    pub fn stop(&self) {
        self.crew.stop();
    }

    /// Whether all have ended after [`Reclaims::stop`].
    pub fn stopped(&self) -> bool {
        self.crew.stopped()
    }
}

/// A number that no governor gives an episode: there is one loan a group.
const fn due_of(group: GroupId) -> EpisodeId {
    EpisodeId(1 << 63 | group.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u64) -> Task {
        Task {
            episode: EpisodeId(number),
            decision: DecisionId(number),
            group: GroupId(number),
            path: Arc::from(&b"/a"[..]),
            meter: Meter::Usage,
            aim: Aim::At(Bytes(0)),
            share: 10,
        }
    }

    /// Two slots whose threads are played by the test.
    fn reclaims() -> Reclaims {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/v2");
        let mut reclaims = Reclaims::new(&Layout::detect(&root).unwrap());
        reclaims.crew = Crew::away(2);
        reclaims
    }

    fn end(reclaims: &Reclaims, slot: usize, how: Result<End, Errno>, told: bool) {
        let mut word = reclaims.crew.slot(slot).lock();
        (word.asked, word.running, word.told) = (false, false, told);
        word.ended = Some((how.map(Ended::Shrunk), sys::now()));
    }

    #[test]
    fn more_groups_than_threads_take_turns() {
        let mut reclaims = reclaims();
        assert!(reclaims.leave_word(task(1), Phase::Begin) && reclaims.leave_word(task(2), Phase::Begin));
        assert!(!reclaims.leave_word(task(3), Phase::Begin), "both are at work");
        end(&reclaims, 1, Ok(End::Reached), false);
        assert!(reclaims.leave_word(task(3), Phase::Sustain), "the second has nothing to do");
        assert!(!reclaims.leave_word(task(2), Phase::Sustain), "and waits now");
        end(&reclaims, 0, Ok(End::Already), false);
        assert!(reclaims.leave_word(task(1), Phase::Sustain), "whoever has a place keeps it");
        assert!(!reclaims.leave_word(task(2), Phase::Sustain));
    }

    #[test]
    fn an_amount_is_taken_on_once() {
        let mut reclaims = reclaims();
        let asked = |amount| Task { aim: Aim::Gone(Some(Bytes(amount))), ..task(1) };
        let taken_on =
            |reclaims: &Reclaims| thread::current(reclaims.crew.slot(0), &task(1)).map(|now| now.aim);
        assert!(reclaims.leave_word(asked(5), Phase::Begin));
        assert_eq!(taken_on(&reclaims), Some(Aim::Gone(Some(Bytes(5)))));
        assert_eq!(taken_on(&reclaims), Some(Aim::Gone(None)), "twice would be more than was decided");
        // The next ask finds a thread that is about to end: it is not lost.
        {
            let mut word = reclaims.crew.slot(0).lock();
            (word.asked, word.running) = (false, true);
        }
        assert!(reclaims.leave_word(asked(7), Phase::Sustain));
        assert!(reclaims.crew.slot(0).lock().asked);
        assert_eq!(taken_on(&reclaims), Some(Aim::Gone(Some(Bytes(7)))));
        reclaims.let_go(EpisodeId(1));
        assert_eq!(taken_on(&reclaims), None);
    }

    #[test]
    fn what_could_not_be_had_is_told_before_its_place_is_taken() {
        let mut reclaims = reclaims();
        assert!(reclaims.leave_word(task(1), Phase::Begin) && reclaims.leave_word(task(2), Phase::Begin));
        end(&reclaims, 0, Ok(End::Hard), false);
        assert!(!reclaims.leave_word(task(3), Phase::Begin), "not told yet");
        reclaims.crew.slot(0).lock().told = true;
        assert!(!reclaims.leave_word(task(3), Phase::Begin), "left alone for a second");
        reclaims.crew.slot(0).lock().ended = Some((Ok(Ended::Shrunk(End::Hard)), Time(0)));
        assert!(reclaims.leave_word(task(3), Phase::Begin));
    }
}
