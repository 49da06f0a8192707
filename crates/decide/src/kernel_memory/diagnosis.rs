//! Which kind it is.

use super::{Breakdown, Kind};
use crate::units::Bytes;

/// Growth below this share of the total names nobody: at rest, the kernel's own lateness moves every kind by some pages.
const SHARE: u64 = 64;
/// Nor does growth below this, in a group that has next to nothing.
const LEAST: Bytes = Bytes::kib(64);

/// What the answer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// It grew most between two readings.
    Growth,
    /// It holds most: nothing grew to speak of, or there was one reading.
    Holding,
}

/// The kind that is to be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Which.
    pub kind: Kind,
    /// How much of it there is.
    pub held: Bytes,
    /// By how much it grew from the first reading to the second.
    pub grew: Option<Bytes>,
    /// What the answer rests on.
    pub basis: Basis,
}

impl Diagnosis {
    /// No reclaim gets it back.
    pub const fn is_pinned(&self) -> bool {
        self.kind.is_pinned()
    }
}

/// Names a kind. `before` is an earlier reading of the same group, if there is one. `None`: no kind is known, or there is nothing of any.
///
/// Growth comes first: who asks wants to know what fills the group now, not what has always been there. Of equals the first in the order of
/// [`Kind::ALL`].
pub fn diagnose(before: Option<&Breakdown>, now: &Breakdown) -> Option<Diagnosis> {
    let growth = |kind| Some(now.of(kind)?.saturating_sub(before?.of(kind)?));
    let named =
        |(kind, held), basis| Diagnosis { kind, held, grew: growth(kind).filter(|it| it.0 > 0), basis };
    let line = LEAST.max(Bytes(now.total.unwrap_or_default().0 / SHARE));
    let grown = now.kinds().filter(|(kind, _)| growth(*kind) >= Some(line));
    if let Some(most) = first_greatest(grown, |(kind, _)| growth(*kind)) {
        return Some(named(most, Basis::Growth));
    }
    let held = now.kinds().filter(|(_, held)| held.0 > 0);
    first_greatest(held, |(_, held)| *held).map(|most| named(most, Basis::Holding))
}

/// `max_by_key` gives the last of equals.
fn first_greatest<T, K: Ord>(items: impl Iterator<Item = T>, key: impl Fn(&T) -> K) -> Option<T> {
    items.reduce(|best, next| if key(&next) > key(&best) { next } else { best })
}
