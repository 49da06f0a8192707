//! Who may be touched, and who is taken first. A ranking, never a single choice: the best candidate may turn out to be
//! impossible to kill, and then the next one is tried.
//!
//! Ranked by resident memory of all kinds, as the kernel's own OOM killer does: what counts is what comes back.

use crate::decision::{Candidate, Protected, Ranking};
use crate::policy::ProcessMatch;
use crate::snapshot::{Process, ProcessSlot};
use crate::units::Bytes;

/// `oom_score_adj` of a process that is out of every choice of victim.
pub const NEVER_A_VICTIM: i16 = -1000;

/// Why a process may not be touched at all, if it may not. Facts come first: no configuration overrides them.
pub fn untouchable(process: &Process, group: Option<&[u8]>, never: &[ProcessMatch]) -> Option<Protected> {
    if let Some(fact) = process.untouchable {
        return Some(Protected::Fact(fact));
    }
    if process.id.pid == 1 {
        return Some(Protected::Fact(crate::snapshot::Untouchable::Init));
    }
    // A list of executables means those of the host; in a container anybody may have a file of that path.
    let means = |list: &&ProcessMatch| list.exe.is_empty() || !process.exe_elsewhere;
    never.iter().filter(means).any(|list| list.matches(process, group)).then_some(Protected::Never)
}

/// Why a process that may be touched may not be killed.
pub fn unkillable(process: &Process) -> Option<Protected> {
    (process.oom_score_adj == Some(NEVER_A_VICTIM)).then_some(Protected::OomScoreAdj)
}

/// All resident memory that is known; `None` where nothing is.
pub fn resident(process: &Process) -> Option<Bytes> {
    [process.rss.anon, process.rss.file, process.rss.shmem].into_iter().flatten().reduce(|a, b| a + b)
}

/// A ranking in the making, and why it may stay empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// The ranking so far.
    pub ranking: Ranking,
    /// One of the reasons why somebody is not in it.
    pub protected: Option<Protected>,
    /// Candidates whose memory is not known yet: they cannot be ranked.
    pub unknown: u32,
    /// What the chosen family holds.
    pub together: Bytes,
    /// Nobody holds enough, as far as is known: the most of any, and what it would have to be.
    pub short: Option<(Bytes, Bytes)>,
}

impl Selection {
    /// Considers one process. `untouchable` is the answer of [`untouchable`], which callers keep.
    pub fn consider(&mut self, slot: ProcessSlot, process: &Process, untouchable: Option<Protected>) {
        if let Some(rss) = self.count(process, untouchable, resident(process)) {
            self.ranking.offer(Candidate { process: process.id, slot, rss });
        }
    }

    /// Counts one process, and gives what it holds if it may be taken and that is known.
    pub fn count(
        &mut self,
        process: &Process,
        untouchable: Option<Protected>,
        held: Option<Bytes>,
    ) -> Option<Bytes> {
        if process.gone {
            return None;
        }
        self.ranking.considered += 1;
        if let Some(why) = untouchable.or_else(|| unkillable(process)) {
            self.ranking.protected += 1;
            self.protected = Some(why);
            return None;
        }
        self.unknown += u32::from(held.is_none());
        held
    }

    /// Whether nobody can be taken, now or later: everyone there is protected.
    pub fn hopeless(&self) -> Option<Protected> {
        self.protected.filter(|_| self.ranking.considered == self.ranking.protected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Pattern;
    use crate::snapshot::{ProcessId, Untouchable};

    fn process(pid: u32, anon: u64) -> Process {
        let mut process = Process::new(ProcessId { pid, start: u64::from(pid) });
        process.rss.anon = Some(Bytes::mib(anon));
        process
    }

    #[test]
    fn the_largest_that_may_be_killed_comes_first() {
        let mut all = [
            process(1, 900),
            process(2, 800),
            process(3, 700),
            process(4, 10),
            process(5, 20),
            process(6, 0),
        ];
        all[1].untouchable = Some(Untouchable::Governor);
        all[2].oom_score_adj = Some(-1000);
        all[5].rss.anon = None;
        let never = [ProcessMatch { comm: vec![Pattern::new("sshd")], ..ProcessMatch::default() }];
        all[4].comm[..4].copy_from_slice(b"sshd");
        let mut selection = Selection::default();
        for (slot, process) in (0..).zip(&all) {
            selection.consider(ProcessSlot(slot), process, untouchable(process, None, &never));
        }
        let pids: Vec<u32> = selection.ranking.iter().map(|c| c.process.pid).collect();
        assert_eq!(pids, [4]);
        assert_eq!((selection.ranking.considered, selection.ranking.protected, selection.unknown), (6, 4, 1));
        assert_eq!(selection.hopeless(), None, "the unknown one may be ranked later");
    }

    #[test]
    fn a_group_of_the_protected_is_hopeless() {
        let mut selection = Selection::default();
        assert_eq!(selection.hopeless(), None, "nobody was looked at");
        let one = process(1, 5);
        selection.consider(ProcessSlot(0), &one, untouchable(&one, None, &[]));
        assert_eq!(selection.hopeless(), Some(Protected::Fact(Untouchable::Init)));
    }
}
