//! Who is below whom: the children of each group and the processes in it, as lists linked through the rows themselves.
//! Built from the `parent` and `group` fields of fresh rows, so that "all processes below this group" costs what it
//! yields and never a scan of the tables. Allocates only in [`Tree::new`].

use crate::snapshot::{GroupSlot, ProcessSlot};

/// A slot or none, in the room of a slot: there is one of these for everything that anybody is linked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(u32::MAX);

    fn get(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl From<Option<u32>> for Link {
    fn from(slot: Option<u32>) -> Self {
        slot.map_or(Self::NONE, Self)
    }
}

#[derive(Clone, Copy, Debug)]
struct Links {
    parent: Link,
    previous: Link,
    next: Link,
}

impl Links {
    const NONE: Self = Self { parent: Link::NONE, previous: Link::NONE, next: Link::NONE };
}

#[derive(Debug)]
pub(super) struct Tree {
    groups: Vec<Links>,
    processes: Vec<Links>,
    first_child: Vec<Link>,
    first_process: Vec<Link>,
}

impl Tree {
    pub fn new(groups: u32, processes: u32) -> Self {
        Self {
            groups: vec![Links::NONE; groups as usize],
            processes: vec![Links::NONE; processes as usize],
            first_child: vec![Link::NONE; groups as usize],
            first_process: vec![Link::NONE; groups as usize],
        }
    }

    /// Hangs a group below another, or takes it out. A group that would come to hang below itself is taken out.
    pub fn set_parent(&mut self, group: GroupSlot, parent: Option<GroupSlot>) {
        let parent = parent.map(|p| p.0).filter(|&p| (p as usize) < self.groups.len());
        if self.groups[group.0 as usize].parent == parent.into() {
            return;
        }
        unlink(&mut self.groups, &mut self.first_child, group.0);
        let parent = parent.filter(|&p| !self.below(p, group.0));
        link(&mut self.groups, &mut self.first_child, group.0, parent);
    }

    /// Puts a process into a group, or into none.
    pub fn set_group(&mut self, process: ProcessSlot, group: Option<GroupSlot>) {
        let group = group.map(|g| g.0).filter(|&g| (g as usize) < self.groups.len());
        if self.processes[process.0 as usize].parent != group.into() {
            unlink(&mut self.processes, &mut self.first_process, process.0);
            link(&mut self.processes, &mut self.first_process, process.0, group);
        }
    }

    /// Takes a group out with everything in it: its slot will mean another group.
    pub fn remove_group(&mut self, group: GroupSlot) {
        while let Some(child) = self.first_child[group.0 as usize].get() {
            unlink(&mut self.groups, &mut self.first_child, child);
        }
        while let Some(process) = self.first_process[group.0 as usize].get() {
            unlink(&mut self.processes, &mut self.first_process, process);
        }
        unlink(&mut self.groups, &mut self.first_child, group.0);
    }

    /// The group and those above it, nearest first.
    pub fn upward(&self, from: Option<GroupSlot>) -> impl Iterator<Item = GroupSlot> + '_ {
        let from = from.filter(|g| (g.0 as usize) < self.groups.len());
        std::iter::successors(from, |g| self.groups[g.0 as usize].parent.get().map(GroupSlot))
    }

    /// The group a process is in.
    pub fn group_of(&self, process: ProcessSlot) -> Option<GroupSlot> {
        self.processes.get(process.0 as usize)?.parent.get().map(GroupSlot)
    }

    /// Where to begin a walk over the processes of a group and everything below it. The walk holds no borrow:
    /// what is found may be worked on with [`Tree::step`] in between, as long as the tree itself is left alone.
    pub fn walk(&self, top: GroupSlot) -> Walk {
        Walk {
            top: top.0,
            group: Some(top.0),
            process: self.first_process.get(top.0 as usize).and_then(|first| first.get()),
        }
    }

    /// The next process of a walk.
    pub fn step(&self, walk: &mut Walk) -> Option<ProcessSlot> {
        loop {
            if let Some(process) = walk.process {
                walk.process = self.processes[process as usize].next.get();
                return Some(ProcessSlot(process));
            }
            walk.group = self.group_after(walk.group?, walk.top);
            walk.process = self.first_process[walk.group? as usize].get();
        }
    }

    /// The group after `at` in a walk of everything below `top`.
    fn group_after(&self, mut at: u32, top: u32) -> Option<u32> {
        if let Some(child) = self.first_child.get(at as usize).and_then(|first| first.get()) {
            return Some(child);
        }
        while at != top {
            if let Some(next) = self.groups[at as usize].next.get() {
                return Some(next);
            }
            at = self.groups[at as usize].parent.get()?;
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

fn link(links: &mut [Links], first: &mut [Link], item: u32, parent: Option<u32>) {
    let Some(parent) = parent else { return };
    let next = std::mem::replace(&mut first[parent as usize], Link(item));
    if let Some(next) = next.get() {
        links[next as usize].previous = Link(item);
    }
    links[item as usize] = Links { parent: Link(parent), previous: Link::NONE, next };
}

fn unlink(links: &mut [Links], first: &mut [Link], item: u32) {
    let Links { parent, previous, next } = std::mem::replace(&mut links[item as usize], Links::NONE);
    let Some(parent) = parent.get() else { return };
    match previous.get() {
        Some(previous) => links[previous as usize].next = next,
        None => first[parent as usize] = next,
    }
    if let Some(next) = next.get() {
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
