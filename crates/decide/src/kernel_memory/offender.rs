//! Who holds it. A bomb is many small processes: none of them is large, all together are. So processes of one name are weighed together.

use std::collections::{BTreeMap, BTreeSet};

use super::Kind;
use crate::snapshot::ProcessId;
use crate::units::Bytes;

/// A thread weighs as much as so many open files: `task_struct` and what goes with it takes some 10 KiB of slab on x86-64, a file with its dentry and
/// inode 1.2 KiB (tmpfs) to 1.5 KiB (ext4).
const THREAD: u64 = 8;
/// An open file, where it has to be compared with stacks and page tables.
const FILE: Bytes = Bytes::kib(1);

/// What is known of the kernel memory of one process. The kernel keeps no account of it: what a process holds shows in its threads, its page
/// tables and its open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub process: ProcessId,
    /// What it calls itself, NUL-padded.
    pub comm: [u8; 16],
    /// Its threads, of which each has a stack.
    pub threads: u32,
    /// The stacks of its threads in the kernel.
    pub stacks: Option<Bytes>,
    /// `VmPTE` of `/proc/PID/status`.
    pub page_tables: Option<Bytes>,
    /// Its open descriptors; `None` where they may not be looked at. Each is a file at the least, and with it a dentry and an inode.
    pub descriptors: Option<u64>,
}

/// All processes of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offender {
    /// The name, NUL-padded.
    pub comm: [u8; 16],
    /// How many there are.
    pub processes: u32,
    /// How many were not there at the first reading.
    pub born: u32,
    /// The oldest of them: of a bomb the one that is most likely to be known.
    pub oldest: ProcessId,
    /// Threads of all.
    pub threads: u64,
    /// Stacks of all, as far as known.
    pub stacks: Option<Bytes>,
    /// Page tables of all, as far as known.
    pub page_tables: Option<Bytes>,
    /// Descriptors of all, as far as known.
    pub descriptors: Option<u64>,
}

impl Offender {
    fn of(first: &Holding) -> Self {
        Self {
            comm: first.comm,
            processes: 0,
            born: 0,
            oldest: first.process,
            threads: 0,
            stacks: None,
            page_tables: None,
            descriptors: None,
        }
    }

    fn add(&mut self, one: &Holding) {
        let older = (one.process.start, one.process.pid) < (self.oldest.start, self.oldest.pid);
        if older {
            self.oldest = one.process;
        }
        self.processes = self.processes.saturating_add(1);
        self.threads = self.threads.saturating_add(u64::from(one.threads));
        let bytes = |sum: Option<Bytes>, more: Option<Bytes>| match (sum, more) {
            (Some(sum), Some(more)) => Some(sum + more),
            (sum, more) => sum.or(more),
        };
        self.stacks = bytes(self.stacks, one.stacks);
        self.page_tables = bytes(self.page_tables, one.page_tables);
        self.descriptors = bytes(self.descriptors.map(Bytes), one.descriptors.map(Bytes)).map(|sum| sum.0);
    }

    /// Stacks and page tables: what can be said in bytes.
    pub fn known(&self) -> Bytes {
        self.stacks.unwrap_or_default() + self.page_tables.unwrap_or_default()
    }

    /// How much of what matters for a kind it has. Only to be compared with that of others.
    fn weight(&self, kind: Option<Kind>) -> u64 {
        match kind {
            Some(Kind::Stacks) => self.threads,
            Some(Kind::PageTables | Kind::SecondaryPageTables) => self.page_tables.unwrap_or_default().0,
            // What lives in slabs, pipes and tables hangs on descriptors where somebody holds it at all, or is the threads themselves.
            Some(
                Kind::SlabReclaimable | Kind::SlabUnreclaimable | Kind::Vmalloc | Kind::Percpu | Kind::Other,
            ) => self.descriptors.unwrap_or(0).saturating_add(self.threads.saturating_mul(THREAD)),
            Some(Kind::Zswap) => self.known().0,
            None => self.known().0.saturating_add(self.descriptors.unwrap_or(0).saturating_mul(FILE.0)),
        }
    }
}

/// Ranks names, the worst first, for a kind that [`super::diagnose`] has named (`None`: no kind is known, then by what is known of any).
///
/// With an earlier reading `before` those come first that grew most in what matters for the kind; otherwise, and of equals, those that hold
/// most of it; then those with most memory, then by age and pid, so that the same readings give the same order.
pub fn offenders(before: Option<&[Holding]>, now: &[Holding], kind: Option<Kind>) -> Vec<Offender> {
    let there: BTreeSet<ProcessId> = before.unwrap_or_default().iter().map(|one| one.process).collect();
    let then = before.map(|before| by_name(before, &there));
    let weigh = |offender: Offender| {
        let Some(then) = &then else { return (0, offender) };
        let earlier = then.get(&offender.comm).map_or(0, |earlier| earlier.weight(kind));
        (offender.weight(kind).saturating_sub(earlier), offender)
    };
    let mut ranked: Vec<(u64, Offender)> = by_name(now, &there).into_values().map(weigh).collect();
    if then.is_none() {
        // Nothing is known of who was there before.
        ranked.iter_mut().for_each(|(_, offender)| offender.born = 0);
    }
    ranked.sort_by_key(|(grew, it)| {
        let Offender { oldest, .. } = it;
        (
            std::cmp::Reverse(*grew),
            std::cmp::Reverse((it.weight(kind), it.known())),
            (oldest.start, oldest.pid),
        )
    });
    ranked.into_iter().map(|(_, offender)| offender).collect()
}

fn by_name(holdings: &[Holding], there: &BTreeSet<ProcessId>) -> BTreeMap<[u8; 16], Offender> {
    let mut names = BTreeMap::new();
    for one in holdings {
        let offender = names.entry(one.comm).or_insert_with(|| Offender::of(one));
        offender.add(one);
        offender.born += u32::from(!there.contains(&one.process));
    }
    names
}
