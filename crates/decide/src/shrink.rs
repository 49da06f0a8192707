//! Shrinking a group to a target: how much to ask the kernel for next, when to wait, when to stop. What is asked is asked elsewhere;
//! here are only the numbers.
//!
//! The kernel may give more than it was asked for (6.1 asks the whole rest in each try and sums over the groups below), less, or nothing
//! for want of anything to reclaim. So a distance is never asked for at once: an eighth of it first, to learn how generous the kernel is, then
//! half of it, divided by that generosity. Properties, each a test of the same name in `tests/behaviour/shrink.rs`:
//!
//! - **not_under_the_target**: with a kernel that gives up to four times what it was asked for, usage ends at the target and not more than a
//!   tenth, or eight batches, under it.
//! - **never_asks_beyond_the_distance**: an ask is between one batch and the larger of one batch and the distance, and [`MOST`] at the most.
//! - **always_ends**, whatever the kernel answers and however the group grows: at the latest [`PATIENCE`] after usage was last seen to sink.
//! - **hard_only_when_nothing_is_left**: while the kernel can give, it goes on.
//! - **already_below_asks_nothing**.
//!
//! [`Portion`] is the other way to say it: so much of a group and no more, however it grows meanwhile (`decide::working_set` asks like this). Its properties:
//!
//! - **a_portion_is_no_more_than_was_decided**: what it asks for is the amount in all, or one batch where that is less; what goes is no more, where the kernel gives what it is
//!   asked for. A kernel that gives up to four times that is found out by usage, and what goes is a tenth, or eight batches, more at the most (a group that grows meanwhile hides that).
//! - **a_portion_goes_and_it_ends**: where there is enough it goes but for a batch, and where the kernel has no more to give it ends at once.

use std::time::Duration;

use crate::units::{Bytes, Time};

/// Pages that the kernel reclaims at the least when it is asked for one (`SWAP_CLUSTER_MAX`, include/linux/swap.h).
pub const BATCH_PAGES: u64 = 32;
/// At most so much is asked for at once: it bounds how long one call lasts, and with it how stale a progress line is.
pub const MOST: Bytes = Bytes::mib(64);
/// Without a new low of usage for so long it is given up. With the longest call on top, five seconds at the most.
pub const PATIENCE: Duration = Duration::from_millis(4500);
/// So many calls in a row that gave nothing, and it is given up.
pub const FRUITLESS: u8 = 5;
/// The pause after the first of them; doubled after each further one. Writeback and swap may have something to give by then.
const PAUSE: Duration = Duration::from_millis(100);
/// No kernel is taken to be more generous than this, or asks would shrink to nothing after one lucky moment.
const MOST_GREED: u64 = 64;

/// What the kernel answered to the last ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It gave what it was asked for.
    Met,
    /// It gave less, and says that it has no more (EAGAIN, EBUSY).
    Short,
    /// It was interrupted on the way.
    Interrupted,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask the kernel for so much, then come again with the answer.
    Ask(Bytes),
    /// Wait so long, then come again.
    Wait(Duration),
    /// It is over.
    End(End),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Usage was at or under the target before anything was asked.
    Already,
    /// It is now.
    Reached,
    /// Everything that can go has gone; for a target of 0 that is what was wanted.
    Emptied,
    /// What is left cannot be reclaimed, or grows as fast as it is.
    Hard,
}

/// The rest after work that took `busy` of a processor's time, so that it takes no more than `share` thousandths of it. At most a second,
/// so that it stays answerable.
pub fn rest_after(busy: Duration, share: u16) -> Duration {
    let share = u32::from(share.clamp(1, 1000));
    (busy * (1000 - share) / share).min(Duration::from_secs(1))
}

/// One shrink on its way.
#[derive(Clone, Copy, Debug)]
pub struct Shrink {
    target: Bytes,
    batch: Bytes,
    asked: Option<(Bytes, Bytes)>,
    answer: Option<Answer>,
    ever: bool,
    /// How many times what it was asked for the kernel gives.
    greed: u64,
    /// The last low, and when it was reached.
    low: Bytes,
    low_at: Time,
    fruitless: u8,
    most: Bytes,
}

impl Shrink {
    /// To `target`, for a group that uses `usage` at `now`.
    pub fn new(target: Bytes, page: Bytes, usage: Bytes, now: Time) -> Self {
        Self {
            target,
            batch: Bytes(page.0.saturating_mul(BATCH_PAGES).max(1)),
            asked: None,
            answer: None,
            ever: false,
            greed: 1,
            low: usage,
            low_at: now,
            fruitless: 0,
            most: MOST,
        }
    }

    /// The same, asking for so much at a time at the most: in small pieces a share of a processor is kept to evenly.
    #[must_use]
    pub fn in_pieces_of(mut self, most: Bytes) -> Self {
        self.most = most.min(MOST);
        self
    }

    /// Another target from now on. What it has learnt, and how patient it still is, stays.
    pub fn aim(&mut self, target: Bytes) {
        self.target = target;
    }

    /// Where it goes.
    pub const fn target(&self) -> Bytes {
        self.target
    }

    /// Takes in what the kernel answered to [`Next::Ask`].
    pub fn answered(&mut self, answer: Answer) {
        self.answer = Some(answer);
    }

    /// What to do at `now`, with this usage.
    pub fn next(&mut self, usage: Bytes, now: Time) -> Next {
        if usage <= self.target {
            return Next::End(if self.ever { End::Reached } else { End::Already });
        }
        let answer = self.answer.take();
        self.learn(answer, usage);
        // A trickle is no progress: it would keep a hopeless shrink going for ever.
        if usage + self.batch <= self.low {
            (self.low, self.low_at, self.fruitless) = (usage, now, 0);
        } else if answer == Some(Answer::Short) {
            self.fruitless += 1;
        }
        // Less than a batch is left: it is not waited for.
        let near = usage <= self.target + self.batch && answer == Some(Answer::Short);
        if near || self.fruitless >= FRUITLESS || now.since(self.low_at) >= PATIENCE {
            return Next::End(self.given_up(usage));
        }
        if answer == Some(Answer::Short) && self.fruitless > 0 {
            let left = PATIENCE.saturating_sub(now.since(self.low_at));
            return Next::Wait((PAUSE * (1 << (self.fruitless - 1))).min(left));
        }
        let amount = self.amount(usage);
        (self.asked, self.ever) = (Some((amount, usage)), true);
        Next::Ask(amount)
    }

    /// Within a batch of the target counts as there: less than that the kernel does not reclaim on purpose.
    fn given_up(&self, usage: Bytes) -> End {
        match usage {
            usage if usage <= self.target + self.batch => End::Reached,
            _ if self.target == Bytes(0) => End::Emptied,
            _ => End::Hard,
        }
    }

    fn learn(&mut self, answer: Option<Answer>, usage: Bytes) {
        let (Some((asked, before)), Some(Answer::Met | Answer::Short)) = (self.asked.take(), answer) else {
            return;
        };
        self.greed = generosity(self.greed, asked, before.saturating_sub(usage));
    }

    fn amount(&self, usage: Bytes) -> Bytes {
        let distance = usage.saturating_sub(self.target);
        let part = if self.ever { 2 * self.greed } else { 8 };
        Bytes(distance.0 / part).min(self.most).max(self.batch)
    }
}

/// How many times what it is asked for the kernel gives, by its last answer: believed at once when it gives more, bit by bit when it gives less.
fn generosity(known: u64, asked: Bytes, given: Bytes) -> u64 {
    let given = given.0.div_ceil(asked.0.max(1)).clamp(1, MOST_GREED);
    given.max(known.div_ceil(2))
}

/// A part of a group on its way out: so much, whatever the group uses by then.
#[derive(Clone, Copy, Debug)]
pub struct Portion {
    left: Bytes,
    batch: Bytes,
    most: Bytes,
    /// The last ask, usage before it, and the answer.
    asked: Option<(Bytes, Bytes)>,
    answer: Option<Answer>,
    ever: bool,
    greed: u64,
}

impl Portion {
    /// So much of a group.
    pub fn new(amount: Bytes, page: Bytes) -> Self {
        Self {
            left: amount,
            batch: Bytes(page.0.saturating_mul(BATCH_PAGES).max(1)),
            most: MOST,
            asked: None,
            answer: None,
            ever: false,
            greed: 1,
        }
    }

    /// The same, asking for so much at a time at the most.
    #[must_use]
    pub fn in_pieces_of(mut self, most: Bytes) -> Self {
        self.most = most.min(MOST);
        self
    }

    /// Another amount, in place of what is left of this one. What it has learnt stays.
    pub fn renew(&mut self, amount: Bytes) {
        (self.left, self.asked, self.answer, self.ever) = (amount, None, None, false);
    }

    /// Takes in what the kernel answered to [`Next::Ask`].
    pub fn answered(&mut self, answer: Answer) {
        self.answer = Some(answer);
    }

    /// What to do now, with this usage.
    pub fn next(&mut self, usage: Bytes) -> Next {
        let answer = self.answer.take();
        if let Some((asked, before)) = self.asked.take() {
            let given = before.saturating_sub(usage);
            if answer != Some(Answer::Interrupted) {
                self.greed = generosity(self.greed, asked, given);
            }
            // How much an interrupted call has given cannot be seen in a group that grows: it is taken for all.
            self.left = self.left.saturating_sub(asked.max(given));
            if answer == Some(Answer::Short) {
                return Next::End(if given >= self.batch { End::Reached } else { End::Hard });
            }
        }
        // Less than a batch the kernel does not reclaim on purpose.
        if self.left == Bytes(0) || (self.ever && self.left < self.batch) {
            return Next::End(if self.ever { End::Reached } else { End::Already });
        }
        let part = if self.ever { 2 * self.greed } else { 8 };
        let amount = Bytes(self.left.0 / part).min(self.most).max(self.batch);
        (self.asked, self.ever) = (Some((amount, usage)), true);
        Next::Ask(amount)
    }
}
