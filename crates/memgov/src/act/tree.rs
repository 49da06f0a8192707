//! A tree of processes in a group: one process and all that have come from it. Who that is, is put down before the first of them is killed, for the kernel gives the
//! children of the dead to others, and nothing says then whose they were.

use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::Bytes;

use super::kill::{self, Large};
use super::{Kit, Tally};
use crate::kernel::proc::{self, Stat};
use crate::kernel::sys;

/// Trees whose end is waited for at once. A third is refused until one of them is dead.
const MOST_TREES: usize = 2;
/// Longer lines of parents are not followed.
const GENERATIONS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Member {
    who: ProcessId,
    parent: u32,
    resident: u64,
    of_tree: bool,
}

impl Member {
    fn of(stat: &Stat) -> Self {
        let resident = stat.resident.unwrap_or_default();
        Self { who: stat.id(), parent: stat.ppid, resident, of_tree: false }
    }
}

/// Room for those that are being killed.
#[derive(Debug, Default)]
pub(super) struct Trees([Tree; MOST_TREES]);

/// Its members by pid; empty: it is free.
#[derive(Debug, Default)]
pub(super) struct Tree(Vec<Member>);

impl Trees {
    /// Room for so many processes in each. Allocates: when rules are put in force that ask for trees.
    pub fn make_room(&mut self, processes: usize) {
        for Tree(members) in &mut self.0 {
            members.reserve_exact(processes.saturating_sub(members.len()));
        }
    }

    /// One that is free.
    pub fn free(&self) -> Option<usize> {
        self.0.iter().position(|tree| tree.0.is_empty())
    }

    pub fn get(&mut self, at: usize) -> &mut Tree {
        &mut self.0[at % MOST_TREES]
    }
}

impl Tree {
    /// It is over.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Puts down who of the last sweep belongs to the tree of this root; nobody if the root itself is gone.
    pub fn collect(&mut self, kit: &Kit, root: ProcessId) {
        self.0.clear();
        let mut buffer = [0; proc::STAT_BUFFER];
        for &pid in kit.sweep.pids() {
            if let Ok(stat) = proc::read_stat(pid, &mut buffer)
                && self.0.len() < self.0.capacity()
            {
                self.0.push(Member { of_tree: stat.id() == root, ..Member::of(&stat) });
            }
        }
        self.0.sort_unstable_by_key(|member| member.who.pid);
        for _ in 0..GENERATIONS {
            let mut grown = false;
            for at in 0..self.0.len() {
                let Member { who, parent, of_tree, .. } = self.0[at];
                if !of_tree && self.has(parent, who.start) {
                    (self.0[at].of_tree, grown) = (true, true);
                }
            }
            if !grown {
                break;
            }
        }
        self.0.retain(|member| member.of_tree);
    }

    /// Whether this parent of somebody who has started then is of the tree. A pid that is had again since is another's.
    fn has(&self, parent: u32, start: u64) -> bool {
        let place = self.0.binary_search_by_key(&parent, |member| member.who.pid);
        place.is_ok_and(|at| self.0[at].of_tree && self.0[at].who.start <= start)
    }

    /// Takes in who was born to it since, as the last sweep shows; whether there was anybody.
    pub fn grow(&mut self, kit: &Kit) -> bool {
        let (mut buffer, before) = ([0; proc::STAT_BUFFER], self.0.len());
        for &pid in kit.sweep.pids() {
            let Err(place) = self.0.binary_search_by_key(&pid, |member| member.who.pid) else { continue };
            if let Ok(stat) = proc::read_stat(pid, &mut buffer)
                && self.has(stat.ppid, stat.start)
                && self.0.len() < self.0.capacity()
            {
                self.0.insert(place, Member { of_tree: true, ..Member::of(&stat) });
            }
        }
        self.0.len() > before
    }

    /// What all of it had in memory when it was put down.
    pub fn resident(&self) -> Bytes {
        Bytes(self.0.iter().fold(0, |pages: u64, one| pages.saturating_add(one.resident)) * sys::page_size())
    }

    /// Kills each that may be and is not dying; how many those are.
    pub fn kill(&self, kit: &mut Kit, tally: &mut Tally, large: &mut Large) -> u32 {
        let (mut killed, mut buffer) = (0, [0; proc::STAT_BUFFER]);
        for member in &self.0 {
            let Ok(stat) = proc::read_stat(member.who.pid, &mut buffer) else { continue };
            if stat.id() == member.who && !stat.is_ending() && !kill::spared(kit, &stat) {
                killed += u32::from(kill::kill_this(&stat, tally, large));
            }
        }
        killed
    }

    /// Whether anybody of it who may be killed is still there.
    pub fn lives(&self, kit: &mut Kit) -> bool {
        let mut buffer = [0; proc::STAT_BUFFER];
        self.0.iter().any(|member| {
            let stat = proc::read_stat(member.who.pid, &mut buffer);
            stat.is_ok_and(|stat| stat.id() == member.who && !stat.has_ended() && !kill::spared(kit, &stat))
        })
    }
}
