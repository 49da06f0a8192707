//! Whether kernel memory can be reclaimed is told by a trial alone: no file says how much of the dentries and inodes somebody uses. The numbers
//! of one are here: how much the kernel is asked for, and when it is enough to say that what is left is pinned. Asked elsewhere.
//!
//! The kernel has no way to reclaim kernel memory and nothing else. It shrinks slabs in the proportion in which it goes through user pages (twice that,
//! `do_shrink_slab` in mm/vmscan.c). So a trial asks for the same part of *all* memory as kernel memory is to lose, twice at the most where
//! nothing comes back: that bounds what user memory it costs. Properties, each a test of its name in `tests/trial.rs`:
//!
//! - **always_ends**, whatever the kernel answers.
//! - **asks_no_more_than_its_part**: while nothing comes back, twice the part and a batch of each of two asks at the most, and never more than four times it.
//! - **pinned_only_after_a_fair_trial**: at least twice the part was asked for, or the kernel said that it had no more, or a second was worked.
//! - **what_comes_back_is_not_pinned**: a kernel that gives a twentieth of the rest each time is pressed on.

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

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask the kernel for so much, then come again with the answer.
    Ask(Bytes),
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
    /// The reading right after it, before anybody rested.
    after: Option<Bytes>,
    asked: Bytes,
    exhausted: bool,
    fruitless: u8,
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
        }
    }

    /// Takes in what the kernel answered to an ask for so much, and what it left: what a group takes anew while whoever asks rests hides what came back.
    pub const fn answered(&mut self, answer: Answer, asked: Bytes, left: Bytes) {
        self.answer = Some((answer, asked));
        self.after = Some(left);
    }

    /// What to do: with so much kernel memory of so much in all, a level to come to, and after so much work.
    pub fn next(&mut self, kernel: Bytes, usage: Bytes, target: Bytes, worked: Duration) -> Next {
        if kernel <= target {
            return Next::End(Verdict::Back);
        }
        self.learn(kernel, target);
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

    fn learn(&mut self, kernel: Bytes, target: Bytes) {
        let (Some((answer, asked)), Some(before)) = (self.answer.take(), self.before.take()) else { return };
        self.exhausted |= answer == Answer::Short;
        // What was interrupted has looked at some of it, nobody knows at how much.
        if answer != Answer::Interrupted {
            self.asked = self.asked + asked;
        }
        // The lower of the two readings: the later one shows what the kernel was late to count, the earlier one what had not grown again.
        let left = self.after.take().map_or(kernel, |left| left.min(kernel));
        let gained = before.saturating_sub(left);
        let little = gained.0.saturating_mul(PART) < before.saturating_sub(target).0;
        self.fruitless = if little { self.fruitless + 1 } else { 0 };
    }
}

/// The part of all memory that kernel memory is to lose of itself.
fn part(kernel: Bytes, usage: Bytes, target: Bytes) -> Bytes {
    let excess = u128::from(kernel.saturating_sub(target).0);
    let part = u128::from(usage.max(kernel).0) * excess / u128::from(kernel.0.max(1));
    Bytes(u64::try_from(part).unwrap_or(u64::MAX))
}
