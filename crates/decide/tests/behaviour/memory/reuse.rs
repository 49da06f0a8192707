//! A small simulated memory in which every piece has a time after which it is wanted again, for the control behaviour of
//! `decide::working_set`. What it does, and nothing else:
//!
//! - It is of pieces of [`PIECE`] bytes. Each is wanted once in its own time, from its own moment on.
//! - What is reclaimed is what was wanted longest ago. Of a piece of anonymous memory that is swap-out.
//! - A piece that is wanted and has gone is read again: its pages count as refaults, and its tasks wait [`READ`] for it, all of which counts as
//!   pressure. It is there then, so usage grows by it: no limit was touched.
//! - With a `limit` (`memory.high`) a piece that comes back puts another one out in its place.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use memgov_decide::snapshot::Strain;
use memgov_decide::units::{Bytes, Time};

pub const PIECE: u64 = 1 << 20;
/// An SSD gives 250 MB a second.
pub const READ: Duration = Duration::from_millis(4);
/// The simulation goes on in steps of so much.
pub const STEP: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
struct Piece {
    period: u64,
    next: u64,
    last: u64,
    there: bool,
    anon: bool,
}

#[derive(Clone, Debug)]
pub struct Memory {
    pieces: Vec<Piece>,
    pub now: Time,
    pub strain: Strain,
    pub limit: Option<u64>,
    /// All that was ever swapped out.
    pub swapped_out: u64,
}

impl Memory {
    /// Pieces that are wanted again after these times, in milliseconds; all are there. Every `anon`-th is anonymous; 0: none.
    pub fn new(periods: &[u64], anon: usize) -> Self {
        let piece = |(at, &period): (usize, &u64)| {
            let period = period.max(1) * 1_000_000;
            // Moments without a pattern, the same each time.
            let phase = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % period;
            let anon = anon > 0 && at.is_multiple_of(anon);
            Piece { period, next: phase, last: 0, there: true, anon }
        };
        Self {
            pieces: periods.iter().enumerate().map(piece).collect(),
            now: Time(0),
            strain: Strain {
                stalled: Some(Duration::ZERO),
                refaults: Some(0),
                swap: Some(Bytes(0)),
                swapped_in: Some(Bytes(0)),
                taken: Some(Bytes(0)),
                came_back: Some(Bytes(0)),
            },
            limit: None,
            swapped_out: 0,
        }
    }

    /// From now on the pieces of this part are wanted after other times.
    pub fn change(&mut self, part: std::ops::Range<usize>, period: u64) {
        let now = self.now.0;
        for (at, piece) in (0u64..).zip(&mut self.pieces[part]) {
            piece.period = period.max(1) * 1_000_000;
            piece.next = now + at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % piece.period;
        }
    }

    pub fn usage(&self) -> Bytes {
        Bytes(self.pieces.iter().filter(|piece| piece.there).count() as u64 * PIECE)
    }

    pub fn all(&self) -> Bytes {
        Bytes(self.pieces.len() as u64 * PIECE)
    }

    /// What an oracle would leave: those wanted most often, so many that reading the others again takes no more than the tolerated part of
    /// the time (in millionths).
    pub fn oracle(&self, pressure: u32) -> Bytes {
        let mut periods: Vec<u64> = self.pieces.iter().map(|piece| piece.period).collect();
        periods.sort_unstable();
        let read = u64::try_from(READ.as_nanos()).unwrap();
        let mut lost = 0;
        while let Some(&longest) = periods.last() {
            lost += read * 1_000_000 / longest;
            if lost > u64::from(pressure) {
                break;
            }
            periods.pop();
        }
        Bytes(periods.len() as u64 * PIECE)
    }

    /// Lets a step pass.
    pub fn step(&mut self) {
        self.now = self.now + STEP;
        let now = self.now.0;
        for at in 0..self.pieces.len() {
            let piece = &mut self.pieces[at];
            if piece.next > now {
                continue;
            }
            piece.last = now;
            while piece.next <= now {
                piece.next += piece.period;
            }
            if !piece.there {
                self.fault(at);
            }
        }
    }

    fn fault(&mut self, at: usize) {
        self.pieces[at].there = true;
        let pages = PIECE / 4096;
        let Strain { stalled, refaults, swap, swapped_in, came_back, .. } = &mut self.strain;
        *came_back = came_back.map(|came_back| came_back + Bytes(PIECE));
        *stalled = stalled.map(|stalled| stalled + READ);
        *refaults = refaults.map(|count| count + pages);
        if self.pieces[at].anon {
            *swap = swap.map(|swap| swap.saturating_sub(Bytes(PIECE)));
            *swapped_in = swapped_in.map(|swapped_in| swapped_in + Bytes(PIECE));
        }
        self.keep_to_limit();
    }

    /// What `memory.high` does.
    pub fn keep_to_limit(&mut self) {
        if let Some(limit) = self.limit {
            self.reclaim(self.usage().saturating_sub(Bytes(limit)));
        }
    }

    /// Reclaims so much.
    pub fn reclaim(&mut self, amount: Bytes) {
        let mut there: Vec<usize> = (0..self.pieces.len()).filter(|&at| self.pieces[at].there).collect();
        there.sort_by_key(|&at| (self.pieces[at].last, at));
        for &at in there.iter().take(usize::try_from(amount.0.div_ceil(PIECE)).unwrap()) {
            self.pieces[at].there = false;
            self.strain.taken = self.strain.taken.map(|taken| taken + Bytes(PIECE));
            if self.pieces[at].anon {
                self.strain.swap = self.strain.swap.map(|swap| swap + Bytes(PIECE));
                self.swapped_out += PIECE;
            }
        }
    }
}
