//! What is being done, and how long after the start: of a run that is broken off one wants to know where its time went.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The clock begins.
pub fn begin() {
    LazyLock::force(&START);
}

/// Prints a heading.
pub fn heading(what: impl Display) {
    let seconds = START.elapsed().as_secs();
    println!("==> {:02}:{:02} {what}", seconds / 60, seconds % 60);
}
