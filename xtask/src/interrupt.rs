//! Ctrl-C and SIGTERM as a number that loops look at, so that children are ended and scratch files removed first.
//! Must not end the process by itself: who waits for a child decides what an interrupt means for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static SEEN: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Takes over SIGINT, SIGTERM and SIGHUP for the rest of the run.
pub fn watch() -> Result<()> {
    let seen = Arc::clone(SEEN.get_or_init(Arc::default));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watching for signals")?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// How often the user asked to stop.
pub fn count() -> usize {
    SEEN.get().map_or(0, |seen| seen.load(Ordering::Relaxed))
}

/// An error once the user asked to stop: to be put between two steps.
pub fn check() -> Result<()> {
    anyhow::ensure!(count() == 0, "interrupted");
    Ok(())
}
