//! Who is never refused, signalled or killed, whatever the limits say: known to the programs beforehand, so that not even the first call is
//! refused.

use super::maps::Maps;
use super::record::{Control, ExemptFileKey, ExemptKey};
use super::{Comm, ExemptBy, ExemptFile, Hot, MAX_PROTECTED_NAMES};
use crate::kernel::Errno;
use memgov_decide::snapshot::ProcessId;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// What is to be written for a process of which there is `before` (0: it has no entry), and whether that is another value.
fn noted(before: u8, by: ExemptBy, on: bool) -> (u8, bool) {
    let bit = 1 << by as u8;
    let after = if on { before | bit } else { before & !bit };
    (after, after != before)
}

impl Maps {
    /// This process, by what was found out about it: it is exempt as long as anything says so. `2BIG`: too many are exempt. (hot)
    pub fn exempt(&self, who: ProcessId, by: ExemptBy, on: bool) -> Hot {
        let key = ExemptKey { start_ticks: who.start, tgid: who.pid, unused: 0 };
        // Nobody else changes it between the two calls.
        let _table = self.table();
        let mut before = 0;
        match self.exempt.lookup(&key, &mut before) {
            Ok(()) | Err(Errno::NOENT) => {}
            other => return other,
        }
        match noted(before, by, on) {
            (_, false) => Ok(()),
            (0, true) => self.exempt.delete(&key),
            (after, true) => self.exempt.update(&key, &after),
        }
    }

    /// Processes whose first thread has one of these names, and processes that run one of these executables, in place of those given before.
    /// At most [`MAX_PROTECTED_NAMES`] and [`super::MAX_EXEMPT_FILES`] count; `Err`: not all could be put in.
    pub fn protect(&self, names: &[Comm], files: &[ExemptFile]) -> Hot {
        set_names(self.control(), names);
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |file: &ExemptFile| ExemptFileKey { inode: file.inode, device: file.device };
        known.retain(|old| {
            let stays = files.iter().any(|file| key(file) == *old);
            if !stays {
                // Gone already, or about to be put in again.
                let _ = self.exempt_files.delete(old);
            }
            stays
        });
        let mut result = Ok(());
        for file in files {
            match self.exempt_files.update(&key(file), &file.uids_under) {
                Ok(()) if !known.contains(&key(file)) => known.push(key(file)),
                Ok(()) => {}
                Err(errno) => result = Err(errno),
            }
        }
        let count = u32::try_from(known.len()).unwrap_or(u32::MAX);
        self.control().exempt_files.store(count, Release);
        result
    }
}

fn set_names(control: &Control, names: &[Comm]) {
    let names = names.iter().take(MAX_PROTECTED_NAMES);
    let mut count = 0;
    for (to, name) in control.protected_names.iter().zip(names) {
        for (to, byte) in to.iter().zip(name) {
            to.store(*byte, Relaxed);
        }
        count += 1;
    }
    control.protected_count.store(count, Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_exempt_for_two_reasons_stays_so_when_one_ends() {
        use ExemptBy::{Always, Row, Sweep};
        let mut entry = 0;
        let mut note = |by, on| {
            let (after, other) = noted(entry, by, on);
            assert_eq!(other, after != entry);
            entry = after;
            entry != 0
        };
        assert!(!note(Row, false), "nothing is made of nothing");
        assert!(note(Always, true) && note(Row, true) && note(Sweep, true) && note(Sweep, true));
        assert!(
            note(Sweep, false) && note(Row, false),
            "memgov itself is exempt whatever a row or a sweep says"
        );
        assert!(note(Row, true) && note(Always, false));
        assert!(!note(Row, false), "and with the last one it goes");
    }
}
