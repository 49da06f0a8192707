//! How small a group runs without feeling it: its working set, found by reclaiming a little, waiting, and looking at what it costs. What is
//! asked is asked elsewhere; here are only the numbers.
//!
//! What it costs is the time that tasks of the group waited for memory (`some total` of `memory.pressure`, Documentation/accounting/psi.rst) or, if that
//! is more, what its refaults must have taken ([`REFAULT`] each): pages that had gone and were wanted again (`workingset_refault_*` of `memory.stat`). The
//! kernel counts as pressure only refaults of pages that were active before, and only while somebody waits; refaults are told all and at once.
//!
//! Three phases. *Sinking*: nothing is known yet; steps double from 1/256 to 1/64 of usage a second until it begins to cost. *Holding*: what grows beyond a
//! level is reclaimed at once, for it is cold; the level itself sinks slowly, the slower the closer the cost is to three quarters of what is tolerated, and
//! rises above that. *Recovering*: it has cost too much; nothing is asked, and what is wanted comes back by itself, as no limit was touched. Where that
//! happened is the *edge*: within an eighth of it the level sinks 1/2048 a second, half of that after each time that it was there again, down to
//! 1/16384; a 32nd beneath it, and nothing is lost, it is forgotten, for the working set has become smaller. Properties, each a test of the same name in
//! `tests/behaviour/working_set.rs`:
//!
//! - **finds_what_can_go**: within five minutes (fifteen, where reuse times are spread so evenly that there is no edge) it is at the most a quarter over
//!   what an oracle would leave that knows them.
//! - **the_tolerance_is_kept**: once it has settled, the part of the time that is lost is the tolerated one at the most; before, twice that.
//! - **does_not_oscillate**: once settled, usage stays within a band of an eighth.
//! - **unknown_asks_nothing**: no reading, no ask.
//! - **never_under_the_floor**, nor more than a part of usage at a time.
//! - **swap_out_is_braked**: what it swaps out in the long run is the rate that was given, and one ask.
//! - **all_that_can_go_has_gone_and_is_not_asked_for_for_ever**: where the kernel has nothing to give it is asked ever more seldom.
//! - **follows_a_change**: a working set that grows has it back in seconds, one that shrinks is followed.

use std::time::Duration;

use crate::snapshot::Strain;
use crate::trend::nanos;
use crate::units::{Bytes, Time};

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// A refault is taken to cost so much at the least: a page of a read of 128 KiB from an SSD.
pub const REFAULT: Duration = Duration::from_micros(10);
/// So often it is decided.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A reading is taken for the next one from so much on: no clock is exact.
pub const DUE: Duration = Duration::from_millis(875);

/// A burst that is forgiven: what is tolerated in so many seconds.
const WINDOW: u64 = 10;
/// What is lost is averaged over about so many seconds.
const SMOOTH: u64 = 16;
/// Sinking: the first step, ...
const FIRST: u64 = 256;
/// ... and the largest: parts of usage a second.
const MOST: u64 = 64;
/// Holding near the edge: by such a part of it the level sinks a second.
const NEAR: u64 = 2048;
/// Halved so often at the most.
const SLOWEST: u32 = 3;
/// Holding far from an edge, each time that it cost nothing for so many seconds the level sinks twice as fast.
const FASTER: u8 = 8;
/// What grows beyond the level is reclaimed in such parts of usage.
const KEEP: u64 = 16;
/// Where nobody wants anything, an edge is forgotten after so many seconds.
const FORGOTTEN: u32 = 300;
/// Less than such a part of it is not worth asking.
const LEAST: u64 = 256;
/// So many asks in a row of which nothing came, and it is taken to be all that can go: nothing is asked for so many seconds, ...
const FRUITLESS: u8 = 4;
const FIRST_REST: u32 = 8;
/// ... twice as many each time that it was so again, so often at the most.
const LONGEST: u8 = 6;
/// The swap-out that was not used is kept for so long.
const SAVED: u64 = 10;

/// What may be lost for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// Part of the time that may be lost waiting for memory, in millionths.
    pub pressure: u32,
    /// Memory that may be swapped out in a second, in the long run.
    pub swap_out: Bytes,
}

impl Default for Tolerance {
    /// 0.1 %, as in TMO (Weiner et al., ASPLOS 2022), and 1 MiB a second.
    fn default() -> Self {
        Self { pressure: 1000, swap_out: Bytes::mib(1) }
    }
}

impl Tolerance {
    /// Of so much time, in nanoseconds.
    fn of(&self, time: u64) -> u64 {
        u64::try_from(u128::from(time) * u128::from(self.pressure) / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// What is known of a working set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// About so much is in use.
    pub working_set: Bytes,
    /// The most that it was since the search began: what a limit has to leave room for.
    pub peak: Bytes,
    /// It is found, and not still being looked for.
    pub settled: bool,
}

impl Found {
    /// A limit that would do: an eighth over the peak.
    pub fn limit(&self) -> Bytes {
        self.peak + Bytes(self.peak.0 / 8)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sinking,
    Holding,
    Recovering,
}

/// The search for one group's working set.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    phase: Phase,
    last: Option<(Time, Strain)>,
    /// Nanoseconds lost beyond what is tolerated.
    debt: u64,
    /// Nanoseconds lost in a second, of the last one ...
    lost: u64,
    /// ... and on average.
    cost: u64,
    /// What is tolerated of that.
    tolerated: u64,
    /// It has cost too much, and not been paid back yet.
    hurting: bool,
    /// Where it is held; what is over this may go.
    level: Bytes,
    /// Where it cost too much.
    edge: Option<Bytes>,
    /// How often it was there.
    met: u32,
    /// The next step, a part of usage.
    step: u64,
    /// Seconds in a row that cost nothing to speak of.
    free: u8,
    asked: Bytes,
    usage: Bytes,
    fruitless: u8,
    /// Seconds in which nothing is asked, because nothing came.
    rest: u32,
    resisted: u8,
    /// Seconds in a row in which nobody wanted it.
    unwanted: u32,
    /// What may be swapped out by now, ...
    swap: Bytes,
    /// ... and what was swapped out beyond that.
    swap_debt: Bytes,
    settled: bool,
    peak: Bytes,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            phase: Phase::Sinking,
            last: None,
            debt: 0,
            lost: 0,
            cost: 0,
            tolerated: 0,
            hurting: false,
            level: Bytes(u64::MAX),
            edge: None,
            met: 0,
            step: FIRST,
            free: 0,
            asked: Bytes(0),
            usage: Bytes(0),
            fruitless: 0,
            rest: 0,
            resisted: 0,
            unwanted: 0,
            swap: Bytes(0),
            swap_debt: Bytes(0),
            settled: false,
            peak: Bytes(0),
        }
    }
}

impl Search {
    /// What to ask for now, of a group that uses `usage`; `None`: it is not time yet, and what was asked stands. `floor`: never under
    /// this. `wanted`: somebody has a use for it; without that nothing is asked, and it is only watched.
    pub fn next(
        &mut self,
        at: Time,
        strain: &Strain,
        usage: Bytes,
        floor: Bytes,
        wanted: bool,
        tolerance: &Tolerance,
    ) -> Option<Bytes> {
        let Some((then, before)) = self.last else {
            self.last = Some((at, *strain));
            (self.level, self.usage) = (usage, usage);
            return None;
        };
        let passed = at.since(then);
        if passed < DUE {
            return None;
        }
        self.last = Some((at, *strain));
        self.brake(&before, strain, passed, tolerance);
        let Some(lost) = lost(&before, strain) else {
            self.asked = Bytes(0);
            return Some(Bytes(0));
        };
        self.feel(lost, passed, tolerance);
        self.learn(usage, gone(&before, strain));
        self.usage = usage;
        let ask = if wanted { self.decide(usage) } else { self.stand(usage) };
        let ask = if self.swap_debt > Bytes(0) { Bytes(0) } else { ask };
        let ask = ask.min(usage.saturating_sub(floor));
        self.asked = ask;
        self.note(usage, floor);
        Some(ask)
    }

    /// It has cost too much, and what it cost has not been paid back yet.
    pub const fn hurts(&self) -> bool {
        self.hurting
    }

    /// And it goes on: it has cost too much in the last second, too. Who has been helped still has to pay back what it cost before.
    pub const fn suffers(&self) -> bool {
        self.hurting && self.lost > self.tolerated
    }

    /// Less than half of what is tolerated is lost.
    pub const fn is_calm(&self) -> bool {
        self.cost <= self.tolerated / 2 && !self.hurting
    }

    /// Nothing more can be had without cost, as far as is known.
    pub fn is_spent(&self) -> bool {
        let at_edge = self.edge.is_some_and(|edge| self.usage <= edge + Bytes(edge.0 / 8));
        self.phase == Phase::Recovering || self.rest > 0 || at_edge
    }

    /// What was found so far; `None`: nothing, or nobody wants to know.
    pub fn found(&self) -> Option<Found> {
        let working_set = self.level.min(self.usage);
        let peak = self.peak.max(working_set);
        (self.tolerated > 0 && self.unwanted == 0).then_some(Found {
            working_set,
            peak,
            settled: self.settled,
        })
    }

    fn feel(&mut self, lost: u64, passed: Duration, tolerance: &Tolerance) {
        let passed = nanos(passed);
        self.tolerated = tolerance.of(SECOND);
        let burst = self.tolerated.saturating_mul(WINDOW);
        // Bounded, so that it is paid back in seconds.
        self.debt = self.debt.saturating_add(lost).saturating_sub(tolerance.of(passed)).min(2 * burst);
        self.hurting = self.debt > burst || (self.hurting && self.debt > 0);
        let rate = u128::from(lost) * u128::from(SECOND) / u128::from(passed.max(1));
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.lost = rate;
        let seconds = (passed / SECOND).clamp(1, SMOOTH);
        self.cost = (u128::from(self.cost) * u128::from(SMOOTH - seconds) / u128::from(SMOOTH))
            .saturating_add(u128::from(rate) * u128::from(seconds) / u128::from(SMOOTH))
            .try_into()
            .unwrap_or(u64::MAX);
        self.free = if self.cost <= self.tolerated / 4 { self.free.saturating_add(1) } else { 0 };
    }

    /// Whether what was asked for has gone: by usage, or, as a group that grows meanwhile hides it, by what was reclaimed and did not come back.
    fn learn(&mut self, usage: Bytes, gone: Bytes) {
        if self.asked == Bytes(0) {
            return;
        }
        if gone.max(self.usage.saturating_sub(usage)) >= Bytes(self.asked.0 / 4) {
            (self.fruitless, self.resisted) = (0, 0);
            return;
        }
        self.fruitless += 1;
        if self.fruitless >= FRUITLESS {
            self.hold(usage);
            self.resisted = (self.resisted + 1).min(LONGEST);
            self.rest = FIRST_REST << self.resisted;
        }
    }

    fn decide(&mut self, usage: Bytes) -> Bytes {
        self.unwanted = 0;
        if self.rest > 0 {
            self.rest -= 1;
            self.level = usage;
            return Bytes(0);
        }
        match self.phase {
            Phase::Recovering if self.hurting => Bytes(0),
            Phase::Recovering => {
                self.hold(usage);
                Bytes(0)
            }
            _ if self.hurting => {
                self.met = match self.edge {
                    Some(edge) if usage.0.abs_diff(edge.0) <= edge.0 / 8 => (self.met + 1).min(SLOWEST),
                    _ => 0,
                };
                (self.edge, self.phase) = (Some(usage), Phase::Recovering);
                Bytes(0)
            }
            Phase::Sinking => self.sink(usage),
            Phase::Holding => self.keep(usage),
        }
    }

    /// Nobody wants it: it is left as it is. What was learnt of it is forgotten in time.
    fn stand(&mut self, usage: Bytes) -> Bytes {
        (self.level, self.settled) = (usage, false);
        self.rest = self.rest.saturating_sub(1);
        self.unwanted = self.unwanted.saturating_add(1);
        if self.unwanted >= FORGOTTEN {
            self.edge = None;
        }
        if self.phase == Phase::Recovering && !self.hurting {
            self.hold(usage);
        }
        if self.edge.is_none() {
            (self.phase, self.step) = (Phase::Sinking, FIRST);
        }
        Bytes(0)
    }

    fn hold(&mut self, usage: Bytes) {
        (self.phase, self.level, self.fruitless) = (Phase::Holding, usage, 0);
        (self.step, self.free, self.settled) = (NEAR << self.met, 0, true);
    }

    fn sink(&mut self, usage: Bytes) -> Bytes {
        if self.cost > self.tolerated / 2 {
            // It begins to cost.
            (self.edge, self.met) = (Some(usage), 0);
            self.hold(usage);
            return Bytes(0);
        }
        let ask = Bytes(usage.0 / self.step);
        self.step = (self.step / 2).max(MOST);
        self.level = usage.saturating_sub(ask);
        ask
    }

    fn keep(&mut self, usage: Bytes) -> Bytes {
        if self.edge.is_some_and(|edge| self.level + Bytes(edge.0 / 32) <= edge) && self.is_calm() {
            self.edge = None;
        }
        let near = self.edge.is_some_and(|edge| self.level <= edge + Bytes(edge.0 / 8));
        if near {
            // While it costs something, that is brake enough.
            self.step = if self.cost > self.tolerated / 4 { NEAR } else { NEAR << self.met };
        } else if self.free >= FASTER {
            (self.step, self.free) = ((self.step / 2).max(MOST), 0);
        } else if self.cost > self.tolerated / 2 {
            self.step = NEAR;
        }
        self.drift();
        let over = usage.saturating_sub(self.level);
        if over.0 < usage.0 / LEAST { Bytes(0) } else { over.min(Bytes(usage.0 / KEEP)) }
    }

    /// Down while it costs less than three quarters of what is tolerated, up while more, in proportion.
    fn drift(&mut self) {
        let (aim, most) = (self.tolerated / 4 * 3, self.level.0 / self.step);
        let part = |cost: u64| u64::try_from(u128::from(most) * u128::from(cost) / u128::from(aim.max(1)));
        let by = |cost: u64| Bytes(part(cost).unwrap_or(most).min(most));
        self.level = if self.cost <= aim {
            self.level.saturating_sub(by(aim - self.cost))
        } else {
            self.level + by(self.cost - aim)
        };
    }

    fn brake(&mut self, before: &Strain, now: &Strain, passed: Duration, tolerance: &Tolerance) {
        let out = swapped_out(before, now);
        let earned = u128::from(tolerance.swap_out.0) * u128::from(nanos(passed)) / 1_000_000_000;
        let earned = Bytes(u64::try_from(earned).unwrap_or(u64::MAX));
        let most = Bytes(tolerance.swap_out.0.saturating_mul(SAVED));
        let have = self.swap + earned;
        let owed = self.swap_debt + out;
        self.swap = have.saturating_sub(owed).min(most);
        self.swap_debt = owed.saturating_sub(have);
    }

    fn note(&mut self, usage: Bytes, floor: Bytes) {
        // At the floor there is nothing more to look for.
        self.settled |= usage <= floor + Bytes(usage.0 / MOST);
        if self.settled {
            self.peak = self.peak.max(usage);
        }
    }
}

/// Nanoseconds lost between two readings; `None`: not known.
fn lost(before: &Strain, now: &Strain) -> Option<u64> {
    let stalled = now.stalled.zip(before.stalled).map(|(now, then)| nanos(now.saturating_sub(then)));
    let refaults = now
        .refaults
        .zip(before.refaults)
        .map(|(now, then)| now.saturating_sub(then).saturating_mul(nanos(REFAULT)));
    stalled.into_iter().chain(refaults).max()
}

/// What was swapped out between two readings: what there is more of in swap, and what came back from there. What was freed there meanwhile is not
/// seen. Not known counts as nothing, as where there is no swap.
fn swapped_out(before: &Strain, now: &Strain) -> Bytes {
    more(now.swap, before.swap) + more(now.swapped_in, before.swapped_in)
}

/// What was reclaimed between two readings, less what came back.
fn gone(before: &Strain, now: &Strain) -> Bytes {
    more(now.taken, before.taken).saturating_sub(more(now.came_back, before.came_back))
}

/// How much more there is; not known counts as nothing.
fn more(now: Option<Bytes>, then: Option<Bytes>) -> Bytes {
    now.zip(then).map_or(Bytes(0), |(now, then)| now.saturating_sub(then))
}
