//! What is known at one moment: facts as read, with `None` for everything that was not or could not be read.
//!
//! The tables are filled in place by `observe` and only lent to `decide`. They are bounded: what did not fit is counted
//! in [`Lost`], never silently dropped. Rows keep their slot while their subject lives, so nothing is allocated or
//! copied between two ticks; [`Snapshot::fresh_groups`] and [`Snapshot::fresh_processes`] say which rows this tick has read anew.

use std::sync::Arc;
use std::time::Duration;

use crate::jobs::Preference;
use crate::pressure::Stall;
use crate::units::{Bytes, Limit, Time};

/// A control group, by the inode of its directory in the memory hierarchy: paths are reused, inodes are not
/// (`kernfs_node.id`; on 64-bit kernels it never repeats within a boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// A process: a pid alone is reused, a pid with its start time (field 22 of `/proc/PID/stat`, in clock ticks) is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// The pid in memgov's own pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

/// The position of a row in [`Snapshot::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupSlot(pub u32);

/// The position of a row in [`Snapshot::processes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessSlot(pub u32);

/// Facts that do not change while memgov runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// `sysconf(_SC_PAGESIZE)`.
    pub page: Bytes,
    /// Processors online: the kernel's charge batch (64 pages) exists once for each.
    pub cpus: u32,
    /// `MemTotal` of `/proc/meminfo`.
    pub memory: Option<Bytes>,
}

impl Default for Host {
    fn default() -> Self {
        Self { page: Bytes(4096), cpus: 1, memory: None }
    }
}

/// Counters of `memory.events` (v2) or their nearest kin on v1; monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Times the group was throttled over `memory.high`.
    pub high: Option<u64>,
    /// Times usage was about to go over `memory.max` (v1: `memory.failcnt`).
    pub max: Option<u64>,
    /// Times the group was out of memory.
    pub oom: Option<u64>,
    /// Processes of the group killed by the kernel's OOM killer.
    pub oom_kill: Option<u64>,
}

/// What it costs a group that some of its memory is not there: counters of what has happened since it was made, and what it has in swap. Only read where a
/// rule is about it, once in [`crate::working_set::INTERVAL`]; v2 only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// Time in which some of its tasks waited for memory: `some total` of `memory.pressure`. `None` too where the kernel has no PSI.
    pub stalled: Option<Duration>,
    /// Pages that were wanted again after they had gone: `workingset_refault_anon` and `workingset_refault_file` of `memory.stat`.
    pub refaults: Option<u64>,
    /// `memory.swap.current`.
    pub swap: Option<Bytes>,
    /// What came back from swap: `workingset_refault_anon` in bytes.
    pub swapped_in: Option<Bytes>,
    /// User memory that was reclaimed from it, whoever asked for that: `pgsteal` of `memory.stat` in bytes.
    pub taken: Option<Bytes>,
    /// What of that came back: `refaults` in bytes.
    pub came_back: Option<Bytes>,
}

/// One control group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Who it is.
    pub id: GroupId,
    /// The nearest ancestor that has a row; `None` below the root.
    pub parent: Option<GroupSlot>,
    /// Path from the root of the memory hierarchy, `/` first. Bytes, because cgroup names may be any but `/` and NUL.
    /// Shared, so that the record can keep the name of a group that is gone without a copy being made on the loop.
    pub path: Arc<[u8]>,
    /// Owner of the directory: who the group is delegated to.
    pub owner: Option<u32>,
    /// When `usage` was read.
    pub read_at: Time,
    /// `memory.current` (v1: `memory.usage_in_bytes`), the subtree's.
    pub usage: Option<Bytes>,
    /// Kernel memory, the subtree's: `kernel` of `memory.stat` (v1: `memory.kmem.usage_in_bytes`); only read where a rule is about it. `None` too where the
    /// kernel does not account it (`nokmem`).
    pub kernel: Option<Bytes>,
    /// What the buffers of its sockets hold, the subtree's: `sock` of `memory.stat` (v1: `memory.kmem.tcp.usage_in_bytes`, TCP only); only read where a
    /// rule is about it. `None` too where the kernel does not account it (`nosocket`; on v1 for groups of which it counts none).
    pub sockets: Option<Bytes>,
    /// `sockets` is not part of `usage`: v1 counts it in a counter of its own.
    pub sockets_apart: bool,
    /// What of `usage` the kernel can have back: `active_file`, `inactive_file` and `slab_reclaimable` of `memory.stat` (v1: the first two,
    /// `total_…`); only read where a rule asks what is available and usage alone does not answer that.
    pub reclaimable: Option<Bytes>,
    /// Whether it asks to be spared, or to go first; only read of jobs.
    pub preference: Preference,
    /// Somebody tells when kernel memory crosses a line of this group.
    pub kernel_watched: bool,
    /// `memory.high`; on v1 the virtual high that the configuration gives, `Max` where it gives none.
    pub high: Option<Limit>,
    /// `memory.max` (v1: `memory.limit_in_bytes`).
    pub max: Option<Limit>,
    /// Event counters.
    pub events: Events,
    /// What it costs that memory is not there.
    pub strain: Strain,
    /// When that was read.
    pub strain_at: Time,
    /// How long its tasks have waited for memory; only read where a rule is about that.
    pub stall: Stall,
    /// What is kept for it: the larger of `memory.low` and `memory.min`. Read with `strain`.
    pub reserved: Option<Limit>,
    /// `memory.oom.group`: the kernel treats the group as one indivisible workload, and so does memgov. v1: always false.
    pub oom_group: Option<bool>,
    /// An event will tell when usage crosses the lowest line that concerns this group (v2: `memory.events` at
    /// `memory.high`; v1: a usage threshold), so that it need not be sampled while it is under it.
    pub watched: bool,
    /// The directory is gone. The row is cleared at the end of the tick.
    pub gone: bool,
}

impl Group {
    /// A group of which only its identity is known.
    pub fn new(id: GroupId, path: &[u8]) -> Self {
        Self {
            id,
            parent: None,
            path: path.into(),
            owner: None,
            read_at: Time(0),
            usage: None,
            kernel: None,
            sockets: None,
            sockets_apart: false,
            reclaimable: None,
            preference: Preference::default(),
            kernel_watched: false,
            high: None,
            max: None,
            events: Events::default(),
            strain: Strain::default(),
            strain_at: Time(0),
            stall: Stall::default(),
            reserved: None,
            oom_group: None,
            watched: false,
            gone: false,
        }
    }

    /// All its memory in one pool: usage, and the buffers of sockets where those are counted beside it.
    pub fn pool(&self) -> Option<Bytes> {
        if self.sockets_apart { Some(self.usage? + self.sockets?) } else { self.usage }
    }
}

/// Resident memory by kind (`RssAnon`, `RssFile`, `RssShmem` of `/proc/PID/status`; swap entries are not resident).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rss {
    /// `MM_ANONPAGES`.
    pub anon: Option<Bytes>,
    /// `MM_FILEPAGES`.
    pub file: Option<Bytes>,
    /// `MM_SHMEMPAGES`.
    pub shmem: Option<Bytes>,
}

/// What of its group's kernel memory is known to be for a process (`Threads`, `VmPTE` and `FDSize` of `/proc/PID/status`). Inodes, dentries, and
/// what lies in pipes and sockets belongs to no process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelShare {
    /// Threads.
    pub threads: Option<u32>,
    /// Page tables.
    pub page_tables: Option<Bytes>,
    /// Places in the table of descriptors: the next power of two above the highest in use, at least 64.
    pub descriptors: Option<u32>,
}

impl KernelShare {
    /// A stack of 16 KiB and a `struct task_struct` with what hangs on it.
    const THREAD: Bytes = Bytes::kib(28);
    /// A `struct file` with its dentry and inode.
    const DESCRIPTOR: Bytes = Bytes::kib(1);
    /// The table that every process has; how much of it is in use is not known.
    const FREE: u32 = 64;

    /// About how much that is, for a ranking; `None` where nothing is known.
    pub fn estimate(&self) -> Option<Bytes> {
        let threads = self.threads.map(|n| Bytes(Self::THREAD.0 * u64::from(n)));
        let files =
            self.descriptors.map(|n| Bytes(Self::DESCRIPTOR.0 * u64::from(n.saturating_sub(Self::FREE))));
        [threads, self.page_tables, files].into_iter().flatten().reduce(|a, b| a + b)
    }
}

/// Facts that forbid touching a process, whatever the rules say. The administrator's own never-list is policy
/// ([`crate::policy::Policy::never`]) and is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untouchable {
    /// pid 1.
    Init,
    /// memgov itself, its guardian, or an ancestor of it.
    Governor,
    /// A kernel thread.
    Kernel,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent when last looked at (field 4 of `/proc/PID/stat`).
    pub parent: u32,
    /// Its row in the group table: its group in the memory hierarchy, or the nearest ancestor with a row.
    pub group: Option<GroupSlot>,
    /// Real uid.
    pub uid: Option<u32>,
    /// `comm`, as the kernel gives it: up to 15 bytes of anything, NUL-padded.
    pub comm: [u8; 16],
    /// Target of `/proc/PID/exe`; `None` for kernel threads and where it may not be read.
    pub exe: Option<Box<[u8]>>,
    /// `exe` is a path in another root file system (a container's), where there may be anything under it: it says nothing of the file of that path here.
    pub exe_elsewhere: bool,
    /// `/proc/PID/oom_score_adj`; -1000 takes a process out of every choice of victim.
    pub oom_score_adj: Option<i16>,
    /// A fact that forbids touching it.
    pub untouchable: Option<Untouchable>,
    /// When `rss` was read.
    pub read_at: Time,
    /// Resident memory.
    pub rss: Rss,
    /// Kernel memory.
    pub kernel: KernelShare,
    /// Its session.
    pub session: Option<u32>,
    /// Killed inside the kernel, in the instant it went over the line of its first step; for one tick, in which that is decided on.
    pub killed: bool,
    /// It has exited, or its pid belongs to another now. The row is cleared at the end of the tick.
    pub gone: bool,
}

impl Process {
    /// A process of which only its identity is known.
    pub fn new(id: ProcessId) -> Self {
        Self {
            id,
            parent: 0,
            group: None,
            uid: None,
            comm: [0; 16],
            exe: None,
            exe_elsewhere: false,
            oom_score_adj: None,
            untouchable: None,
            read_at: Time(0),
            rss: Rss::default(),
            kernel: KernelShare::default(),
            session: None,
            killed: false,
            gone: false,
        }
    }

    /// `comm` without its padding.
    pub fn comm(&self) -> &[u8] {
        let end = self.comm.iter().position(|&b| b == 0).unwrap_or(self.comm.len());
        &self.comm[..end]
    }
}

/// The host's memory; only read where a rule is about the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// When it was read.
    pub read_at: Time,
    /// `MemAvailable` of `/proc/meminfo`: what can be had without swapping (`si_mem_available` in mm/show_mem.c).
    pub available: Option<Bytes>,
    /// How long the machine's tasks have waited for memory; only read where a rule is about that.
    pub stall: Stall,
}

/// What did not fit or was missed since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Groups that matched a rule and found no free row.
    pub groups: u64,
    /// Processes that matched a rule and found no free row.
    pub processes: u64,
    /// Event queues that overflowed (inotify, process events) and were followed by a full look.
    pub events: u64,
}

/// A bounded table whose rows keep their place.
#[derive(Clone, Debug)]
pub struct Table<T> {
    rows: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    /// A table of `capacity` rows, all allocated now.
    pub fn with_capacity(capacity: u32) -> Self {
        Self { rows: (0..capacity).map(|_| None).collect(), free: (0..capacity).rev().collect() }
    }
    /// Puts a row into a free slot; gives it back if there is none.
    pub fn insert(&mut self, row: T) -> Result<u32, T> {
        match self.free.pop() {
            Some(slot) => {
                self.rows[slot as usize] = Some(row);
                Ok(slot)
            }
            None => Err(row),
        }
    }
    /// Puts a row into a given slot, over what was there; `None` if there is no such slot. For replay, where slots are given.
    pub fn put(&mut self, slot: u32, row: T) -> Option<()> {
        let place = self.rows.get_mut(slot as usize)?;
        if place.replace(row).is_none() {
            self.free.retain(|&free| free != slot);
        }
        Some(())
    }
    /// Empties a slot.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let row = self.rows.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(row)
    }
    /// The row in a slot.
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.rows.get(slot as usize)?.as_ref()
    }
    /// The row in a slot, to be changed.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.rows.get_mut(slot as usize)?.as_mut()
    }
    /// All rows with their slots, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..).zip(&self.rows).filter_map(|(slot, row)| Some((slot, row.as_ref()?)))
    }
    /// Rows in use.
    pub fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }
    /// Whether no row is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Rows there can be.
    pub fn capacity(&self) -> usize {
        self.rows.len()
    }
}

/// Everything known at `at`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The moment this tick stands for.
    pub at: Time,
    /// The same in what [`ProcessId::start`] is counted in: clock ticks since boot.
    pub ticks: Option<u64>,
    /// Facts about the host.
    pub host: Host,
    /// The host's memory...
    pub memory: Memory,
    /// ...was read this tick.
    pub fresh_memory: bool,
    /// Control groups that some rule or control concerns, and their ancestors.
    pub groups: Table<Group>,
    /// Processes that some rule or control concerns.
    pub processes: Table<Process>,
    /// Rows of `groups` that are new, were read, or are gone, this tick.
    pub fresh_groups: Vec<GroupSlot>,
    /// Rows of `processes` that are new, were read, or are gone, this tick.
    pub fresh_processes: Vec<ProcessSlot>,
    /// What was missed.
    pub lost: Lost,
    /// Rows already in the fresh lists, so that each is there once.
    group_marks: Vec<bool>,
    process_marks: Vec<bool>,
}

impl Snapshot {
    /// An empty snapshot with room for so many rows.
    pub fn with_capacity(groups: u32, processes: u32) -> Self {
        Self {
            at: Time(0),
            ticks: None,
            host: Host::default(),
            memory: Memory::default(),
            fresh_memory: false,
            groups: Table::with_capacity(groups),
            processes: Table::with_capacity(processes),
            fresh_groups: Vec::with_capacity(groups as usize),
            fresh_processes: Vec::with_capacity(processes as usize),
            lost: Lost::default(),
            group_marks: vec![false; groups as usize],
            process_marks: vec![false; processes as usize],
        }
    }
    /// Says that a group's row is new, was read, or is gone.
    pub fn touch_group(&mut self, slot: GroupSlot) {
        if let Some(mark) = self.group_marks.get_mut(slot.0 as usize)
            && !std::mem::replace(mark, true)
        {
            self.fresh_groups.push(slot);
        }
    }
    /// Says that a process's row is new, was read, or is gone.
    pub fn touch_process(&mut self, slot: ProcessSlot) {
        if let Some(mark) = self.process_marks.get_mut(slot.0 as usize)
            && !std::mem::replace(mark, true)
        {
            self.fresh_processes.push(slot);
        }
    }
    /// The group in a slot.
    pub fn group(&self, slot: GroupSlot) -> Option<&Group> {
        self.groups.get(slot.0)
    }
    /// The process in a slot.
    pub fn process(&self, slot: ProcessSlot) -> Option<&Process> {
        self.processes.get(slot.0)
    }
    /// Time goes on; what was touched since [`Snapshot::end`] belongs to this tick.
    pub fn advance(&mut self, at: Time) {
        self.at = at;
    }
    /// Ends one tick and begins the next: [`Snapshot::end`] and [`Snapshot::advance`] in one.
    pub fn begin(&mut self, at: Time) {
        self.end();
        self.advance(at);
    }
    /// Ends a tick, once it was decided on: rows that are gone are cleared, nothing is fresh.
    pub fn end(&mut self) {
        for i in 0..self.fresh_groups.len() {
            let slot = self.fresh_groups[i].0;
            if let Some(mark) = self.group_marks.get_mut(slot as usize) {
                *mark = false;
            }
            if self.groups.get(slot).is_some_and(|g| g.gone) {
                self.groups.remove(slot);
            }
        }
        for i in 0..self.fresh_processes.len() {
            let slot = self.fresh_processes[i].0;
            if let Some(mark) = self.process_marks.get_mut(slot as usize) {
                *mark = false;
            }
            if self.processes.get(slot).is_some_and(|p| p.gone) {
                self.processes.remove(slot);
            }
        }
        self.fresh_groups.clear();
        self.fresh_processes.clear();
        self.fresh_memory = false;
    }
}
