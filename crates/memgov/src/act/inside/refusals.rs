//! How many calls the kernel refused to whom: its counters, read when a refusal is told, and said so seldom that a storm of them
//! fills no record.

use std::os::fd::AsFd as _;
use std::time::Duration;

use memgov_decide::decision::Target;
use memgov_decide::snapshot::{GroupSlot, ProcessSlot};
use memgov_decide::units::Time;

use super::{Inside, ToldProcess};
use crate::bpf::Maps;
use crate::kernel::pidfd::PidFd;

/// Between two records of the refusals of one group or process, unless it is the last of an episode.
const GAP: Duration = Duration::from_secs(10);
/// Processes whose counters are read for one status: each costs a pidfd.
const MOST_PROCESSES: usize = 64;

/// What was recorded of one target's refusals. There is one of these for every process, so counters end at 2^32.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// Of counters before the one that runs now: telling the kernel another line of a process begins a new one.
    before: u32,
    /// The counter as it was last read.
    read: u32,
    /// Refusals that are in the record.
    said: u32,
    /// When they were recorded; 0: none were.
    at: Time,
}

impl Said {
    fn take(&mut self, counter: u64) -> u64 {
        let counter = u32::try_from(counter).unwrap_or(u32::MAX);
        if counter < self.read {
            self.before = self.before.saturating_add(self.read);
        }
        self.read = counter;
        u64::from(self.before.saturating_add(counter))
    }
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Memory of the process.
    Memory,
    /// Kernel memory: processes, files, sockets.
    KernelMemory,
}

/// Refusals that are worth a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// All, since the target's line was set.
    pub calls: u64,
    /// Those that no record has told of.
    pub more: u64,
}

impl Inside {
    /// What is to be recorded of a target's refusals now: nothing if there was none since the last record, or that is not long ago and this
    /// is not the end.
    pub fn refused(&mut self, target: Target, of: Of, now: Time, the_last: bool) -> Option<Refused> {
        let (said, counter) = match target {
            Target::Group(id, slot) if of == Of::KernelMemory => {
                let told = self.groups.get_mut(slot.0 as usize)?.as_mut().filter(|told| told.id == id)?;
                (&mut told.kernel_said, self.maps.kernel_denials_of(id)?)
            }
            Target::Group(id, slot) => {
                let told = self.groups.get_mut(slot.0 as usize)?.as_mut().filter(|told| told.id == id)?;
                (&mut told.said, self.maps.denials_of(id)?)
            }
            Target::Process(who, slot) => {
                let told =
                    self.processes.get_mut(slot.0 as usize)?.as_mut().filter(|told| told.who == who)?;
                let counter = counter_of(&self.maps, told)?;
                (&mut told.said, counter)
            }
            Target::Host => return None,
        };
        let calls = said.take(counter);
        let more = calls.saturating_sub(u64::from(said.said));
        if more == 0 || (!the_last && said.at != Time(0) && now.since(said.at) < GAP) {
            return None;
        }
        (said.said, said.at) = (u32::try_from(calls).unwrap_or(u32::MAX), now);
        Some(Refused { calls, more })
    }

    /// Whoever was refused something by a line that still stands, with the number of calls: for status.
    pub fn each_refused(&self, f: &mut dyn FnMut(Target, u64)) {
        for (slot, told) in (0u32..).zip(&self.groups) {
            if let Some(told) = told
                && let Some((counter, kernel)) =
                    self.maps.denials_of(told.id).zip(self.maps.kernel_denials_of(told.id))
                && let calls @ 1.. = told.said.clone().take(counter) + told.kernel_said.clone().take(kernel)
            {
                f(Target::Group(told.id, GroupSlot(slot)), calls);
            }
        }
        let told = (0u32..).zip(&self.processes).filter_map(|(slot, told)| Some((slot, told.as_ref()?)));
        for (slot, told) in told.filter(|(_, told)| told.said.at != Time(0)).take(MOST_PROCESSES) {
            if let Some(counter) = counter_of(&self.maps, told)
                && let calls @ 1.. = told.said.clone().take(counter)
            {
                f(Target::Process(told.who, ProcessSlot(slot)), calls);
            }
        }
    }
}

/// `None`: it is gone, or has no line.
fn counter_of(maps: &Maps, told: &ToldProcess) -> Option<u64> {
    let process = PidFd::open(told.who).ok()?;
    maps.process(process.as_fd()).map(|(_, denials)| denials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_begins_anew_loses_nothing() {
        let mut said = Said::default();
        assert_eq!([said.take(3), said.take(7), said.take(2), said.take(2)], [3, 7, 9, 9]);
    }
}
