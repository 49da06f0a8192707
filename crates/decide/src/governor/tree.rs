//! Who is below whom: the children of each group and the processes in it, as lists linked through the rows themselves.
//! Built from the `parent` and `group` fields of fresh rows, so that "all processes below this group" costs what it
//! yields and never a scan of the tables. Allocates only in [`Tree::new`].

use crate::snapshot::{GroupSlot, ProcessSlot};

#[derive(Clone, Copy, Debug, Default)]
struct Links {
    parent: Option<u32>,
    previous: Option<u32>,
    next: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Tree {
    groups: Vec<Links>,
    processes: Vec<Links>,
    first_child: Vec<Option<u32>>,
    first_process: Vec<Option<u32>>,
}

impl Tree {
    pub fn new(groups: u32, processes: u32) -> Self {
        Self {
            groups: vec![Links::default(); groups as usize],
            processes: vec![Links::default(); processes as usize],
            first_child: vec![None; groups as usize],
            first_process: vec![None; groups as usize],
        }
    }

    /// Hangs a group below another, or takes it out. A group that would come to hang below itself is taken out.
    pub fn set_parent(&mut self, group: GroupSlot, parent: Option<GroupSlot>) {
        let parent = parent.map(|p| p.0).filter(|&p| (p as usize) < self.groups.len());
        if self.groups[group.0 as usize].parent == parent {
            return;
        }
        unlink(&mut self.groups, &mut self.first_child, group.0);
        let parent = parent.filter(|&p| !self.below(p, group.0));
        link(&mut self.groups, &mut self.first_child, group.0, parent);
    }

    /// Puts a process into a group, or into none.
    pub fn set_group(&mut self, process: ProcessSlot, group: Option<GroupSlot>) {
        let group = group.map(|g| g.0).filter(|&g| (g as usize) < self.groups.len());
        if self.processes[process.0 as usize].parent != group {
            unlink(&mut self.processes, &mut self.first_process, process.0);
            link(&mut self.processes, &mut self.first_process, process.0, group);
        }
    }

    /// Takes a group out with everything in it: its slot will mean another group.
    pub fn remove_group(&mut self, group: GroupSlot) {
        while let Some(child) = self.first_child[group.0 as usize] {
            unlink(&mut self.groups, &mut self.first_child, child);
        }
        while let Some(process) = self.first_process[group.0 as usize] {
            unlink(&mut self.processes, &mut self.first_process, process);
        }
        unlink(&mut self.groups, &mut self.first_child, group.0);
    }

    /// The group and those above it, nearest first.
    pub fn upward(&self, from: Option<GroupSlot>) -> impl Iterator<Item = GroupSlot> + '_ {
        let from = from.filter(|g| (g.0 as usize) < self.groups.len());
        std::iter::successors(from, |g| self.groups[g.0 as usize].parent.map(GroupSlot))
    }

    /// The group a process is in.
    pub fn group_of(&self, process: ProcessSlot) -> Option<GroupSlot> {
        self.processes.get(process.0 as usize)?.parent.map(GroupSlot)
    }

    /// Where to begin a walk over the processes of a group and everything below it. The walk holds no borrow:
    /// what is found may be worked on with [`Tree::step`] in between, as long as the tree itself is left alone.
    pub fn walk(&self, top: GroupSlot) -> Walk {
        Walk {
            top: top.0,
            group: Some(top.0),
            process: self.first_process.get(top.0 as usize).copied().flatten(),
        }
    }

    /// The next process of a walk.
    pub fn step(&self, walk: &mut Walk) -> Option<ProcessSlot> {
        loop {
            if let Some(process) = walk.process {
                walk.process = self.processes[process as usize].next;
                return Some(ProcessSlot(process));
            }
            walk.group = self.group_after(walk.group?, walk.top);
            walk.process = self.first_process[walk.group? as usize];
        }
    }

    /// The group after `at` in a walk of everything below `top`.
    fn group_after(&self, mut at: u32, top: u32) -> Option<u32> {
        if let Some(child) = self.first_child.get(at as usize).copied().flatten() {
            return Some(child);
        }
        while at != top {
            if let Some(next) = self.groups[at as usize].next {
                return Some(next);
            }
            at = self.groups[at as usize].parent?;
        }
        None
    }

    /// Whether `group` is `top` or below it.
    fn below(&self, group: u32, top: u32) -> bool {
        self.upward(Some(GroupSlot(group))).any(|g| g.0 == top)
    }
}

/// A walk in progress.
#[derive(Debug)]
pub(super) struct Walk {
    top: u32,
    group: Option<u32>,
    process: Option<u32>,
}

fn link(links: &mut [Links], first: &mut [Option<u32>], item: u32, parent: Option<u32>) {
    let Some(parent) = parent else { return };
    let next = first[parent as usize].replace(item);
    if let Some(next) = next {
        links[next as usize].previous = Some(item);
    }
    links[item as usize] = Links { parent: Some(parent), previous: None, next };
}

fn unlink(links: &mut [Links], first: &mut [Option<u32>], item: u32) {
    let Links { parent, previous, next } = std::mem::take(&mut links[item as usize]);
    let Some(parent) = parent else { return };
    match previous {
        Some(previous) => links[previous as usize].next = next,
        None => first[parent as usize] = next,
    }
    if let Some(next) = next {
        links[next as usize].previous = previous;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    proptest::proptest! {
        #[test]
        fn a_walk_finds_exactly_what_is_below(calls in proptest::collection::vec((0u8..8, 0u32..8, 0u32..9), 0..200)) {
            let mut tree = Tree::new(8, 8);
            let (mut parents, mut groups) = ([None; 8], [None; 8]);
            for (what, a, b) in calls {
                let to = (b < 8).then_some(b);
                match what {
                    0 => {
                        tree.remove_group(GroupSlot(a));
                        for entry in parents.iter_mut().chain(&mut groups) {
                            if *entry == Some(a) {
                                *entry = None;
                            }
                        }
                        parents[a as usize] = None;
                    }
                    1..4 => {
                        let cycle = std::iter::successors(to, |&g| parents[g as usize]).any(|g| g == a);
                        // A refused parent leaves the group on its own, unless it already hung there.
                        if parents[a as usize] != to {
                            parents[a as usize] = if cycle { None } else { to };
                        }
                        tree.set_parent(GroupSlot(a), to.map(GroupSlot));
                    }
                    _ => {
                        groups[a as usize] = to;
                        tree.set_group(ProcessSlot(a), to.map(GroupSlot));
                    }
                }
                for top in 0..8 {
                    let mut walk = tree.walk(GroupSlot(top));
                    let found: Vec<u32> = std::iter::from_fn(|| tree.step(&mut walk)).map(|p| p.0).collect();
                    let set: BTreeSet<u32> = found.iter().copied().collect();
                    assert_eq!(set.len(), found.len(), "each once");
                    let expected = (0..8).filter(|&p| {
                        std::iter::successors(groups[p as usize], |&g| parents[g as usize]).any(|g| g == top)
                    });
                    assert_eq!(set, expected.collect());
                }
            }
        }
    }
}
