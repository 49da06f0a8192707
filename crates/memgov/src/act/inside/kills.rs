//! Kills that the kernel makes by itself: it has an allowance in shared memory, and takes from it in the instant it kills. It keeps that while the
//! loop looks and decides, and loses it only before a decision that may be a kill too, so that both together stay within the
//! budget, whoever is faster.

use std::time::Duration;

use memgov_decide::governor::Elsewhere;
use memgov_decide::units::Time;

use super::Inside;

/// Events come in the instant of the kill. One that has not come for so long was lost.
const PATIENCE: Duration = Duration::from_secs(2);

impl Inside {
    /// Counts what was used of the allowance. Before the events are read: whoever was killed with it is then in them, but for the moment between
    /// the kill and its event.
    pub fn count_kills(&mut self, now: Time) {
        let left = self.maps.kills_left();
        self.note_kills(now, left);
    }

    /// Takes the allowance back: from here on until [`Inside::allow_kills`] only the loop kills.
    pub fn take_back_kills(&mut self, now: Time) {
        let left = self.maps.take_back_kills();
        self.note_kills(now, left);
        self.allowed = 0;
    }

    /// `left`: of the allowance, by the kernel's word.
    fn note_kills(&mut self, now: Time, left: i64) {
        let before = self.unheard;
        self.unheard += self.allowed - left;
        self.allowed = left;
        if before <= 0 && self.unheard > 0 {
            self.unheard_since = now;
        }
    }

    /// After the events are read: what is to be said of kills that they do not tell of. `nobody`: so many were told of whose process is not
    /// known any more.
    pub fn unheard_kills(&mut self, now: Time, nobody: u32) -> Elsewhere {
        if nobody > 0 {
            return Elsewhere::Unseen;
        }
        match self.unheard {
            ..=0 => Elsewhere::No,
            _ if now.since(self.unheard_since) < PATIENCE => Elsewhere::Maybe,
            _ => {
                self.unheard = 0;
                Elsewhere::Unseen
            }
        }
    }

    /// So many kills may be made from now on. None more as long as one is not told of: the governor did not know of it when it said how many.
    pub fn allow_kills(&mut self, now: Time, count: u32) {
        self.count_kills(now);
        let more = i64::from(count) - self.allowed;
        if more != 0 && (more < 0 || self.unheard <= 0) {
            self.allowed += more;
            self.maps.allow_more_kills(more);
        }
    }
}
