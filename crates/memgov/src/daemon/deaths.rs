//! How often somebody whom memgov starts anew has died: who dies again and again is not started for ever. Something kills it, and each start costs memory
//! where memory may be what is short.

use std::time::{Duration, Instant};

/// So many deaths within [`WHILE`], and it is given up.
pub(super) const MOST: usize = 3;
/// "a minute" in what is said of it.
const WHILE: Duration = Duration::from_secs(60);

/// Those of the last minute.
#[derive(Default)]
pub(super) struct Deaths(Vec<Instant>);

impl Deaths {
    /// One more, now; whether that is one too many.
    pub fn too_many(&mut self) -> bool {
        let now = Instant::now();
        self.0.retain(|then| now.duration_since(*then) < WHILE);
        self.0.push(now);
        self.0.len() >= MOST
    }
}
