//! Kills that the kernel makes by itself: it has an allowance in shared memory, and takes from it in the instant it kills. The loop takes
//! back what is left before it decides on kills of its own, so that both together stay within the budget, whoever is faster.

use std::time::Duration;

use memgov_decide::governor::Elsewhere;
use memgov_decide::units::Time;

use super::Inside;

/// Events come in the instant of the kill. One that has not come for so long was lost.
const PATIENCE: Duration = Duration::from_secs(2);

impl Inside {
    /// Takes the allowance back. Before the events are read: whoever was killed with it is then in them, but for the moment between the kill
    /// and its event.
    pub fn take_back_kills(&mut self, now: Time) {
        let left = self.maps.take_back_kills();
        let made = self.allowed - left;
        self.allowed = 0;
        if self.unheard == 0 && made != 0 {
            self.unheard_since = now;
        }
        self.unheard += made;
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

    /// So many kills may be made until they are taken back.
    pub fn allow_kills(&mut self, count: u32) {
        self.allowed = i64::from(count);
        self.maps.allow_kills(count);
    }
}
