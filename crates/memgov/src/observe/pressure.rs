//! Triggers by which the kernel tells that tasks wait for memory (Documentation/accounting/psi.rst). Hints: what counts is what is read then.

use std::path::Path;
use std::time::Duration;

use memgov_decide::pressure::Share;

use crate::kernel::psi::{Kind, Trigger};

/// The shortest window there is; the kernel runs a thread for it, one a group.
const QUICK: Duration = Duration::from_millis(500);
/// The shortest that costs no thread, and the shortest that is allowed without CAP_SYS_RESOURCE.
const SLOW: Duration = Duration::from_secs(2);
/// So many groups have the quick one; with the slow one the others are also sampled.
pub(super) const QUICK_ONES: usize = 64;

/// A trigger that fires before tasks have waited for this part of a window.
fn arm(file: &Path, share: Share, window: Duration) -> Option<Trigger> {
    let stall = (window * u32::from(share.0) / 2000).max(Duration::from_millis(1));
    Trigger::open(file, Kind::Some, stall, window).ok().flatten()
}

/// For a line at this share: the quick one, if there is one to be had.
pub(super) fn quick(file: &Path, share: Share) -> Option<Trigger> {
    arm(file, share, QUICK)
}

/// The quick one, or the slow one.
pub(super) fn any(file: &Path, share: Share) -> Option<Trigger> {
    quick(file, share).or_else(|| arm(file, share, SLOW))
}
