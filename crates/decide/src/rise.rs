//! Since when something grows: the moment before it began, and what there was then. Who has started later is of the growth; who was there before
//! has to have grown himself to be.

use std::time::Duration;

use crate::units::{Bytes, Time};

/// What is lowest in so much time stands for all of it.
const WINDOW: Duration = Duration::from_secs(30);
/// What grows by less than this part of the line in a window is at rest: what grows so slowly has no beginning.
const REST: u64 = 16;

/// A reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: Time,
    /// The same in clock ticks since boot, as start times are.
    pub ticks: u64,
    /// How much it was.
    pub value: Bytes,
}

/// The rise of one meter towards its line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rise(Option<Windows>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Windows {
    /// Before the growth.
    from: Mark,
    /// The lowest of the window before this one, and of this one so far.
    before: Mark,
    lowest: Mark,
    /// When this one began.
    began: Time,
}

impl Rise {
    /// Takes in a reading. Over the line nothing changes: what is held there by force is not at rest.
    pub fn observe(&mut self, now: Mark, line: Bytes) {
        if now.value > line {
            return;
        }
        let Some(windows) = self.0.as_mut().filter(|windows| now.value > windows.from.value) else {
            self.0 = Some(Windows { from: now, before: now, lowest: now, began: now.at });
            return;
        };
        if now.value <= windows.lowest.value {
            windows.lowest = now;
        }
        if now.at.since(windows.began) >= WINDOW {
            let grown = windows.lowest.value.saturating_sub(windows.before.value);
            if grown.0 <= line.0 / REST {
                windows.from = windows.before;
            }
            (windows.before, windows.lowest, windows.began) = (windows.lowest, now, now.at);
        }
    }

    /// The last reading before it began to grow, or as low as then. `None`: it has never been seen under its line.
    pub fn from(&self) -> Option<Mark> {
        self.0.map(|windows| windows.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Bytes = Bytes::mib(16);

    /// Readings: seconds, and MiB in tenths.
    fn after(readings: impl IntoIterator<Item = (u64, u64)>) -> Option<(u64, u64)> {
        let mut rise = Rise::default();
        for (second, tenths) in readings {
            let at = Time(second * 1_000_000_000);
            rise.observe(Mark { at, ticks: second * 100, value: Bytes(Bytes::mib(tenths).0 / 10) }, LINE);
        }
        rise.from().map(|mark| (mark.ticks / 100, (mark.value.0 * 10).div_ceil(1 << 20)))
    }

    #[test]
    fn growth_begins_where_it_was_lowest_last() {
        assert_eq!(after([]), None);
        assert_eq!(after([(0, 170), (1, 180)]), None, "never seen under its line");
        assert_eq!(after([(0, 20), (1, 20), (2, 20), (3, 100), (4, 150), (5, 170)]), Some((2, 20)));
        assert_eq!(after([(0, 50), (1, 100), (2, 40), (3, 170)]), Some((2, 40)));
    }

    #[test]
    fn what_has_come_to_rest_is_no_growth() {
        let risen = (1..200).map(|second| (second, 100));
        let (began, value) = after([(0, 10)].into_iter().chain(risen).chain([(200, 170)])).unwrap();
        assert!(began > 100 && value == 100, "began at {began}, with {value}");
    }

    #[test]
    fn what_grows_for_minutes_began_then() {
        // 1.5 MiB in half a minute.
        let grown = (0..200).map(|second| (second, 10 + second / 2));
        assert_eq!(after(grown).unwrap().1, 10);
    }

    #[test]
    fn being_held_at_the_line_is_no_rest() {
        let held = (2..1000).map(|second| (second, 161));
        assert_eq!(after([(0, 10), (1, 150)].into_iter().chain(held)), Some((0, 10)));
    }
}
