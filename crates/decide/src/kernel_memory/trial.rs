//! Whether kernel memory can be reclaimed is told by a trial alone: no file says how much of the dentries and inodes somebody uses. The numbers
//! of one are here: how much the kernel is asked for, and when it is enough to say that what is left is pinned. Asked elsewhere.
//!
//! The kernel has no way to reclaim kernel memory and nothing else. It shrinks slabs in the proportion in which it goes through user pages (twice that,
//! `do_shrink_slab` in mm/vmscan.c). So a trial asks for the same part of *all* memory as kernel memory is to lose, twice at the most where
//! nothing comes back: that bounds what user memory it costs. Properties, each a test of its name in `tests/behaviour/trial.rs`:
//!
//! - **always_ends**, whatever the kernel answers.
//! - **asks_no_more_than_its_part**: while nothing comes back, twice the part and a batch of each of two asks at the most, and never more than four times it.
//! - **pinned_only_after_a_fair_trial**: at least twice the part was asked for, or the kernel said that it had no more, or a second was worked.
//! - **what_comes_back_is_not_pinned**: a kernel that gives a twentieth of the rest each time is pressed on.
//! - **what_comes_back_late_is_not_pinned**: nor if it is freed up to [`SETTLE`] after the ask.

use std::time::Duration;

use crate::shrink::{Answer, BATCH_PAGES, MOST};
use crate::units::Bytes;

/// So much of a thread's time is worked at a trial at the most; the last ask may be over it by itself.
pub const LONGEST: Duration = Duration::from_secs(1);
/// So many asks in a row that gave next to nothing: once may be the kernel's own lateness in counting.
pub const FRUITLESS: u8 = 2;
/// Less than this part of what is still to go is next to nothing (the criterion's 5 %).
const PART: u64 = 20;
/// While something comes back at most so many times the part is asked for.
const PATIENT: u64 = 4;

/// Dentries and inodes are freed after an RCU grace period (`dentry_free` in fs/dcache.c), some tens of milliseconds after the ask that gave them
/// up, and later on a busy machine: so long nothing that came of an ask is taken for nothing.
pub const SETTLE: Duration = Duration::from_millis(250);
/// A look so often meanwhile: the lowest reading counts, for the group may be taking anew.
pub const LOOK: Duration = Duration::from_millis(10);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask the kernel for so much, then come again with the answer.
    Ask(Bytes),
    /// Wait so long, then come again.
    Wait(Duration),
    /// It is over.
    End(Verdict),
}

/// What a trial has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is back at the target.
    Back,
    /// What is left is in use: only whoever holds it can give it back.
    Pinned {
        /// What came back.
        freed: Bytes,
        /// What there was.
        held: Bytes,
    },
    /// Some comes back, not enough in the time: neither can be said.
    Unsure,
}

/// One trial on its way.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    held: Bytes,
    batch: Bytes,
    /// The reading before the last ask.
    before: Option<Bytes>,
    answer: Option<(Answer, Bytes)>,
    /// The lowest reading since then.
    after: Option<Bytes>,
    asked: Bytes,
    exhausted: bool,
    fruitless: u8,
    /// Since the last ask, in looks.
    waited: Duration,
}

impl Trial {
    /// Of a group that holds so much kernel memory.
    pub const fn new(held: Bytes, page: Bytes) -> Self {
        let batch = Bytes(page.0.saturating_mul(BATCH_PAGES));
        Self {
            held,
            batch,
            before: None,
            answer: None,
            after: None,
            asked: Bytes(0),
            exhausted: false,
            fruitless: 0,
            waited: Duration::ZERO,
        }
    }

    /// Takes in what the kernel answered to an ask for so much, and what it left: what a group takes anew while whoever asks rests hides what came back.
    pub const fn answered(&mut self, answer: Answer, asked: Bytes, left: Bytes) {
        self.answer = Some((answer, asked));
        self.after = Some(left);
        self.waited = Duration::ZERO;
    }

    /// What to do: with so much kernel memory of so much in all, a level to come to, and after so much work.
    pub fn next(&mut self, kernel: Bytes, usage: Bytes, target: Bytes, worked: Duration) -> Next {
        if kernel <= target {
            return Next::End(Verdict::Back);
        }
        if self.may_still_come(kernel, target) {
            self.waited += LOOK;
            return Next::Wait(LOOK);
        }
        self.learn(target);
        let (part, freed) = (part(kernel, usage, target).max(self.batch), self.held.saturating_sub(kernel));
        let fair = self.exhausted || self.asked.0 >= part.0.saturating_mul(2);
        if self.fruitless >= FRUITLESS && (fair || worked >= LONGEST) {
            return Next::End(Verdict::Pinned { freed, held: self.held });
        }
        if worked >= LONGEST || self.asked.0 >= part.0.saturating_mul(PATIENT) {
            return Next::End(Verdict::Unsure);
        }
        self.before = Some(kernel);
        Next::Ask(part.min(MOST))
    }

    /// Takes in a reading; whether it would be the last word on an ask, and too early.
    fn may_still_come(&mut self, kernel: Bytes, target: Bytes) -> bool {
        // The lowest of the readings: a later one shows what was freed late, an earlier one what had not grown again.
        self.after = self.after.map(|left| left.min(kernel));
        self.gave_little(target) == Some(true) && self.fruitless >= FRUITLESS - 1 && self.waited < SETTLE
    }

    /// Of the last ask.
    fn gave_little(&self, target: Bytes) -> Option<bool> {
        let (before, left) = (self.before?, self.after?);
        Some(before.saturating_sub(left).0.saturating_mul(PART) < before.saturating_sub(target).0)
    }

    fn learn(&mut self, target: Bytes) {
        let Some(little) = self.gave_little(target) else { return };
        let Some((answer, asked)) = self.answer.take() else { return };
        self.exhausted |= answer == Answer::Short;
        // What was interrupted has looked at some of it, nobody knows at how much.
        if answer != Answer::Interrupted {
            self.asked = self.asked + asked;
        }
        self.fruitless = if little { self.fruitless.saturating_add(1) } else { 0 };
        (self.before, self.after) = (None, None);
    }
}

/// The part of all memory that kernel memory is to lose of itself.
fn part(kernel: Bytes, usage: Bytes, target: Bytes) -> Bytes {
    let excess = u128::from(kernel.saturating_sub(target).0);
    let part = u128::from(usage.max(kernel).0) * excess / u128::from(kernel.0.max(1));
    Bytes(u64::try_from(part).unwrap_or(u64::MAX))
}
