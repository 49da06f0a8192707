//! How long this machine lets nobody run. A shared or emulated machine stands still now and then; what a criterion says
//! about time is about memgov, so what the machine took away is not held against it, and only that.
//!
//! A thread that does nothing but sleep notes each time it is woken later than it asked.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::sys::now;

/// How often the thread asks to be woken.
const NAP: Duration = Duration::from_millis(5);
/// Standstills kept; older ones are before any test that runs.
const KEPT: usize = 4096;

/// A time in which the thread should have run and did not.
#[derive(Clone, Copy)]
struct Standstill {
    begin: u64,
    end: u64,
}

static STANDSTILLS: OnceLock<Mutex<VecDeque<Standstill>>> = OnceLock::new();
/// How many times longer than on plain hardware the work itself may take here.
static SLOWNESS: OnceLock<u32> = OnceLock::new();
/// An emulated processor is four times slower and more, and shares this machine with another: there a bar only catches what waits for something that does
/// not come. The numbers of the criteria are met, or not, on this machine's own processors.
const EMULATED: u32 = 10;

fn standstills() -> MutexGuard<'static, VecDeque<Standstill>> {
    STANDSTILLS.get_or_init(Default::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to watch.
pub fn watch(emulated: bool) {
    if SLOWNESS.set(if emulated { EMULATED } else { 1 }).is_err() {
        return;
    }
    std::thread::spawn(|| {
        loop {
            let due = now().saturating_add(u64::try_from(NAP.as_nanos()).unwrap_or(0));
            std::thread::sleep(NAP);
            let woken = now();
            // A millisecond is the timer's own.
            if woken > due + 1_000_000 {
                let mut kept = standstills();
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back(Standstill { begin: due, end: woken });
            }
        }
    });
}

/// What may be allowed between two moments where a criterion allows `bar`: more where processors are emulated, and
/// what it took away meanwhile.
pub fn allowed(bar: Duration, from: u64, to: u64) -> Duration {
    let slowness = SLOWNESS.get().copied().unwrap_or(1);
    let taken: u64 = standstills().iter().map(|s| s.end.min(to).saturating_sub(s.begin.max(from))).sum();
    bar * slowness + Duration::from_nanos(taken)
}
