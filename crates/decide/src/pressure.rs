//! How much of the time somebody waits for memory (Documentation/accounting/psi.rst), over the last moments and not over the kernel's ten seconds; and whose doing that is.
//!
//! Waiting alone says neither who is short nor that anybody is.
//!
//! - A group's tasks wait when its own limit, one above it or the machine is short, and they wait as well while one group below is. So it counts for a group only where meanwhile its own
//!   limit or one above it was met, or the machine had its tasks reclaim. What is reclaimed beforehand (`memory.reclaim`, kswapd) meets no limit.
//! - Whoever reads files at full speed through a full group waits for reclaim much of the time, and misses nothing of what goes. So it counts only where what could go is little, or
//!   where what went is wanted again soon.

use std::time::Duration;

use crate::units::{Bytes, Time};

/// The share is that of so long, or twice as long.
pub const WINDOW: Duration = Duration::from_millis(250);
/// Where nothing tells that somebody waits, it is looked for so often.
pub const SAMPLED: Duration = Duration::from_millis(500);

/// Counters, as read: of a group or of the machine. Only read where a rule is about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Time in which some tasks have waited for memory: `some total` of a pressure file, in microseconds. `None`: not known, there is no PSI.
    pub waited: Option<u64>,
    /// How often a limit was met for its sake: its own and those above it (`high` and `max` of `memory.events.local`, v1 `memory.failcnt`), and pages for which tasks have looked through
    /// the machine's memory (`pgscan_direct` of /proc/vmstat). What is counted twice or in different units does no harm: only that it grows counts.
    pub met: Option<u64>,
    /// Pages that went and came back so soon that a little more memory would have kept them (`workingset_activate_…` of `memory.stat`, of /proc/vmstat). `None`: the kernel does not say
    /// (v1).
    pub came_back: Option<u64>,
    /// The kernel tells when somebody waits.
    pub watched: bool,
}

/// Who was short is so for so long, though no limit is met and nothing comes back in one window or another.
const RECENT: Duration = Duration::from_secs(2);

/// So many in a window are no accident.
const MANY: u64 = 16;

/// A part of the time, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u16);

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, tenth) => write!(f, "{whole}.{tenth}%"),
        }
    }
}

/// What the last moments were like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressed {
    /// Somebody waited for so much of the time...
    pub share: Share,
    /// ...and a limit was met lately.
    pub met: bool,
    /// Pages went lately that were wanted again soon.
    pub thrashes: bool,
}

impl Pressed {
    /// Whether it is for want of memory, where so much is held and so much of that could go.
    pub fn is_short(&self, held: Option<Bytes>, could_go: Option<Bytes>) -> bool {
        let little = held.zip(could_go).is_none_or(|(held, could_go)| could_go.0 < held.0 / 4);
        self.met && (self.thrashes || little)
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Time,
    waited: u64,
    met: u64,
    came_back: u64,
}

/// The last reading, and two before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    last: Option<Mark>,
    marks: [Option<Mark>; 2],
    met_at: Option<Time>,
    thrashed_at: Option<Time>,
}

impl Window {
    /// Takes in a reading. One that says nothing, or less than the one before (another group), begins anew.
    pub fn observe(&mut self, at: Time, stall: Stall) {
        let (Some(waited), Some(met)) = (stall.waited, stall.met) else {
            *self = Self::default();
            return;
        };
        let new = Mark { at, waited, met, came_back: stall.came_back.unwrap_or_default() };
        if self.last.is_some_and(|last| last.waited > waited || last.met > met || last.at > at) {
            *self = Self::default();
        }
        if self.last.is_some_and(|last| last.met < met) {
            self.met_at = Some(at);
        }
        self.last = Some(new);
        match self.marks[1] {
            Some(mark) if at.since(mark.at) >= WINDOW => self.marks = [Some(mark), Some(new)],
            Some(_) => {}
            None => self.marks[1] = Some(new),
        }
        if self.marks[0].is_some_and(|since| new.came_back.saturating_sub(since.came_back) >= MANY) {
            self.thrashed_at = Some(at);
        }
    }

    /// `None`: not known yet.
    pub fn pressed(&self) -> Option<Pressed> {
        let (last, since) = (self.last?, self.marks[0]?);
        let span = u128::max(last.at.since(since.at).as_micros(), 1);
        let share = u128::from(last.waited - since.waited) * 1000 / span;
        Some(Pressed {
            share: Share(u16::try_from(share.min(1000)).unwrap_or(1000)),
            met: self.met_at.is_some_and(|met_at| last.at.since(met_at) <= RECENT),
            thrashes: self.thrashed_at.is_some_and(|thrashed| last.at.since(thrashed) <= RECENT),
        })
    }

    /// When to look again.
    pub fn next_look(&self, watched: bool, slowest: Duration) -> Duration {
        match self.pressed() {
            Some(Pressed { share: Share(0), .. }) if watched => slowest,
            Some(Pressed { share: Share(0), .. }) => SAMPLED.min(slowest),
            _ => WINDOW.min(slowest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(0) + Duration::from_millis(millis)
    }

    fn stall(waited_millis: u64, met: u64) -> Stall {
        Stall { waited: Some(waited_millis * 1000), met: Some(met), came_back: None, watched: true }
    }

    #[test]
    fn the_share_is_that_of_the_last_moments() {
        let mut window = Window::default();
        window.observe(at(0), stall(9000, 1));
        assert_eq!(window.pressed(), None, "one reading says nothing");
        window.observe(at(250), stall(9000, 1));
        assert_eq!(window.pressed(), Some(Pressed { share: Share(0), met: false, thrashes: false }));
        window.observe(at(500), stall(9100, 1));
        assert_eq!(window.pressed().unwrap().share, Share(400));
        window.observe(at(600), stall(9100, 2));
        assert_eq!(
            window.pressed(),
            Some(Pressed { share: Share(285), met: true, thrashes: false }),
            "100 of 350 ms"
        );
        window.observe(at(750), stall(9100, 2));
        window.observe(at(1000), stall(9100, 2));
        assert_eq!(window.pressed(), Some(Pressed { share: Share(0), met: true, thrashes: false }), "over");
        window.observe(at(2750), stall(9100, 2));
        assert!(!window.pressed().unwrap().met, "long ago");
    }

    #[test]
    fn what_is_not_known_and_counters_that_run_backwards_begin_anew() {
        let mut window = Window::default();
        window.observe(at(0), stall(100, 5));
        window.observe(at(300), stall(300, 6));
        assert!(window.pressed().is_some());
        window.observe(at(600), stall(10, 6));
        assert_eq!(window.pressed(), None);
        window.observe(at(900), stall(20, 6));
        assert!(window.pressed().is_some());
        window.observe(at(1200), Stall::default());
        assert_eq!(window.pressed(), None);
    }

    #[test]
    fn who_reads_files_is_not_short_and_who_misses_them_is() {
        let of = |met, thrashes| Pressed { share: Share(500), met, thrashes };
        let mib = |n| Some(Bytes::mib(n));
        assert!(!of(true, false).is_short(mib(64), mib(40)), "most of it may go");
        assert!(of(true, false).is_short(mib(64), mib(10)));
        assert!(of(true, true).is_short(mib(64), mib(40)), "and is wanted again");
        assert!(of(true, false).is_short(mib(64), None), "not known");
        assert!(!of(false, true).is_short(mib(64), mib(0)), "taken beforehand");
        let mut window = Window::default();
        for (at_millis, came_back) in [(0, 5), (250, 5), (500, 30)] {
            window.observe(at(at_millis), Stall { came_back: Some(came_back), ..stall(0, 0) });
        }
        assert!(window.pressed().unwrap().thrashes);
    }

    #[test]
    fn never_more_than_all_of_the_time() {
        let mut window = Window::default();
        window.observe(at(0), stall(0, 0));
        window.observe(at(250), stall(5000, 0));
        assert_eq!(window.pressed().unwrap().share, Share(1000));
        assert_eq!((Share(1000).to_string(), Share(125).to_string()), ("100%".into(), "12.5%".into()));
    }

    #[test]
    fn nobody_is_looked_at_often_who_waits_for_nothing() {
        let (mut window, slowest) = (Window::default(), Duration::from_secs(2));
        assert_eq!(window.next_look(true, slowest), WINDOW);
        window.observe(at(0), stall(0, 0));
        window.observe(at(250), stall(0, 0));
        assert_eq!((window.next_look(true, slowest), window.next_look(false, slowest)), (slowest, SAMPLED));
        window.observe(at(500), stall(1, 0));
        assert_eq!(window.next_look(true, slowest), WINDOW);
    }
}
