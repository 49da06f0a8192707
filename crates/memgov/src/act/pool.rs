//! One pool on cgroup v1, where the kernel counts the buffers of TCP beside all other memory and under a limit of their own: that limit
//! (`memory.kmem.tcp.limit_in_bytes`) is kept at what is left under the line of a rule with the meter `usage+sockets`, and moves with it both ways.
//! How much that is is `decide`'s ([`memgov_decide::pool::limit`]). Written down in the ledger before, and given back like every limit.
//!
//! The kernel does not take a limit under what is held already (EBUSY, `page_counter_set_max` in mm/page_counter.c): then it is set at what is held, and follows
//! that down with the next looks.

mod accounts;

use memgov_decide::pool::{self, Pool};
use memgov_decide::snapshot::{Group, GroupId, GroupSlot, Snapshot};
use memgov_decide::units::Bytes;

use super::kept_limit::KeptLimit;
use super::ledger::{GroupLimit, MAX_PATH};
use super::{Actor, GroupDirs, Kit, Tally};
use crate::kernel::{GroupDir, sys};
use accounts::Accounts;

/// Groups that can have such a limit at once.
const MOST: usize = 256;
/// It is moved when it is off by this part of what TCP may hold: each move is two writes.
const PART: u64 = 64;

/// All groups whose pool is kept.
#[derive(Debug)]
pub struct Pools {
    limits: Vec<(GroupId, KeptLimit)>,
    path: Vec<u8>,
    accounts: Accounts,
}

impl Actor {
    /// Keeps the TCP limit of a group whose row was read in this tick at what is left in its pool; `None`: no rule asks for that, or no more. `counted`: some
    /// rule asks what its sockets hold, which v1 counts only where that was asked for.
    pub fn pool(
        &mut self,
        slot: GroupSlot,
        snap: &Snapshot,
        groups: &dyn GroupDirs,
        pool: Option<Pool>,
        counted: bool,
    ) {
        let Some(row) = snap.group(slot).filter(|_| !self.dry_run) else { return };
        if row.sockets_apart && counted {
            self.pools.accounts.open(row);
        }
        let dir = groups.dir(slot).filter(|dir| dir.id() == row.id && !row.gone);
        self.pools.keep(&mut self.kit, row, dir, pool);
    }

    /// Some rule asks what sockets hold: on v1 somebody has to see to it that it is counted. Allocates; not on the acting path.
    pub fn count_sockets(&mut self, wanted: bool) {
        self.pools.accounts.plan(&self.kit.layout, wanted && !self.dry_run);
    }
}

impl Pools {
    pub fn new() -> Self {
        Self {
            limits: Vec::with_capacity(MOST),
            path: Vec::with_capacity(MAX_PATH),
            accounts: Accounts::default(),
        }
    }

    /// The groups with what TCP may hold in each; for status.
    pub fn views(&self) -> impl Iterator<Item = (GroupId, Bytes)> {
        self.limits.iter().map(|(group, limit)| (*group, Bytes(limit.set)))
    }

    fn keep(&mut self, kit: &mut Kit, row: &Group, dir: Option<&GroupDir>, pool: Option<Pool>) {
        let known = self.limits.iter().position(|(group, _)| *group == row.id);
        let (Some(pool), Some(dir)) = (pool, dir) else {
            if let Some(i) = known {
                // What cannot be given back stays in the ledger.
                let _ = self.limits.swap_remove(i).1.lift(&mut kit.ledger);
            }
            return;
        };
        // Not known now: as it was.
        let Some(beside) = pool.beside(row) else { return };
        let set = known.map(|i| Bytes(self.limits[i].1.set));
        let wanted = pool::limit(pool.line, beside, row.sockets, set).0.next_multiple_of(sys::page_size());
        match known {
            // What could not be written is tried again with the next look.
            Some(i) if is_off(&self.limits[i].1, wanted) => {
                let _ = self.limits[i].1.change(&mut kit.ledger, wanted);
            }
            Some(_) => {}
            None if self.limits.len() < self.limits.capacity() => {
                if let Ok(limit) =
                    KeptLimit::of_group(kit, GroupLimit::Tcp, (row, dir), &mut self.path, wanted)
                {
                    self.limits.push((row.id, limit));
                }
            }
            None => {}
        }
    }

    /// Gives all of them back.
    pub(super) fn release_all(&mut self, kit: &mut Kit, tally: &mut Tally) {
        for (_, limit) in self.limits.drain(..) {
            tally.count(limit.lift(&mut kit.ledger));
        }
    }

    /// Nothing is counted on any more; the thread ends within a moment.
    pub(super) fn stop(&self) {
        self.accounts.stop();
    }

    /// Whether it has ended.
    pub(super) fn stopped(&self) -> bool {
        self.accounts.stopped()
    }
}

fn is_off(limit: &KeptLimit, wanted: u64) -> bool {
    let wanted = limit.at(wanted);
    wanted.abs_diff(limit.set) > wanted / PART
}
