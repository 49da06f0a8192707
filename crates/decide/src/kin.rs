//! Trees of processes within a job: who has come from whom, by parent, and what all of a tree hold together. A process whose parent is not in the job begins one;
//! so does a child whose parent has died, unless the kernel has given it to somebody in the job.

use crate::snapshot::ProcessId;
use crate::units::Bytes;

/// A longer line of parents is cut, and what hangs below counts as a tree of its own: it bounds the work.
const GENERATIONS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Member {
    who: ProcessId,
    parent: u32,
    holds: Bytes,
    /// What it and all that have come from it hold; only of who begins a tree.
    together: Bytes,
}

/// The processes of one job. Allocates nothing but room that was asked for.
#[derive(Debug, Default)]
pub struct Kin(Vec<Member>);

impl Kin {
    /// Room for so many.
    pub fn make_room(&mut self, processes: usize) {
        self.0.clear();
        self.0.reserve_exact(processes);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// One more; it has room as long as there are no more than was said. What may not be taken holds nothing.
    pub fn add(&mut self, who: ProcessId, parent: u32, holds: Bytes) {
        if self.0.len() < self.0.capacity() {
            self.0.push(Member { who, parent, holds, together: Bytes(0) });
        }
    }

    /// Who begins the tree that holds most, and how much that is; of equals the youngest. `None`: nobody holds anything. To be asked once all are added.
    pub fn largest(&mut self) -> Option<(ProcessId, Bytes)> {
        self.0.sort_unstable_by_key(|member| member.who.pid);
        for at in 0..self.0.len() {
            let (root, holds) = (self.climb(at), self.0[at].holds);
            self.0[root].together = self.0[root].together + holds;
        }
        let best = self.0.iter().max_by_key(|member| (member.together, member.who.start, member.who.pid))?;
        (best.together > Bytes(0)).then_some((best.who, best.together))
    }

    /// Who begins the tree that this one is in. Only after [`Kin::largest`].
    pub fn root_of(&self, who: ProcessId) -> Option<ProcessId> {
        let at = self.place(who.pid).filter(|&at| self.0[at].who == who)?;
        Some(self.0[self.climb(at)].who)
    }

    fn place(&self, pid: u32) -> Option<usize> {
        self.0.binary_search_by_key(&pid, |member| member.who.pid).ok()
    }

    fn climb(&self, mut at: usize) -> usize {
        for _ in 0..GENERATIONS {
            let Member { who, parent, .. } = self.0[at];
            // A pid that is had again since is not its parent's: who is younger has not borne it.
            match self.place(parent) {
                Some(above) if above != at && self.0[above].who.start <= who.start => at = above,
                _ => break,
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn who(pid: u32) -> ProcessId {
        ProcessId { pid, start: u64::from(pid) }
    }

    #[test]
    fn the_tree_that_holds_most_is_found_by_who_begins_it() {
        let mut kin = Kin::default();
        kin.make_room(8);
        assert_eq!(kin.largest(), None);
        // A shell with two children, one of them with a child of its own; and a larger process by itself.
        for (pid, parent, mib) in [(10, 1, 1), (11, 10, 20), (12, 10, 1), (13, 12, 30), (20, 1, 50)] {
            kin.add(who(pid), parent, Bytes::mib(mib));
        }
        assert_eq!(kin.largest(), Some((who(10), Bytes::mib(52))));
        assert_eq!(kin.root_of(who(13)), Some(who(10)));
        assert_eq!(kin.root_of(who(20)), Some(who(20)));
        assert_eq!(kin.root_of(ProcessId { pid: 20, start: 1 }), None, "another process of that pid");
    }

    #[test]
    fn a_pid_that_is_had_again_is_nobodys_parent() {
        let mut kin = Kin::default();
        kin.make_room(2);
        kin.add(ProcessId { pid: 5, start: 900 }, 1, Bytes::mib(1));
        kin.add(ProcessId { pid: 30, start: 100 }, 5, Bytes::mib(2));
        assert_eq!(kin.largest(), Some((ProcessId { pid: 30, start: 100 }, Bytes::mib(2))));
    }

    proptest! {
        #[test]
        fn each_is_in_one_tree_and_all_trees_together_hold_everything(
            parents in prop::collection::vec((0u32..24, 0u64..5), 1..24),
        ) {
            let mut kin = Kin::default();
            kin.make_room(24);
            for (pid, &(parent, mib)) in (1u32..).zip(&parents) {
                kin.add(who(pid), parent, Bytes::mib(mib));
            }
            let largest = kin.largest();
            let mut sums = std::collections::BTreeMap::new();
            for (pid, &(_, mib)) in (1u32..).zip(&parents) {
                let root = kin.root_of(who(pid)).unwrap();
                prop_assert!(root.pid <= pid, "nobody comes from who is younger");
                *sums.entry(root.pid).or_insert(Bytes(0)) = sums.get(&root.pid).copied().unwrap_or_default() + Bytes::mib(mib);
            }
            let most = sums.values().copied().max().unwrap();
            prop_assert_eq!(largest.map_or(Bytes(0), |(_, together)| together), most);
        }
    }
}
