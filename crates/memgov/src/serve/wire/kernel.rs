//! What `status --kernel --json` prints, and what `status` says of groups whose kernel memory has a line.

use serde::{Deserialize, Serialize};

use super::Target;

/// What the daemon keeps of the kernel memory of a group that a rule has a line for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelMark {
    /// Which group.
    pub target: Target,
    /// The lowest line.
    pub line_bytes: u64,
    /// It is at or above the group's limit: what there is is tracked, and nothing done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_tracks: bool,
    /// The latest reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
    /// The most there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// `kernel`: kept by the kernel (v1), since the group was made or it was reset. `readings`: the highest reading of the daemon since `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_by: Option<String>,
    /// When that reading was. RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_time: Option<String>,
    /// First reading, or reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How often a line was hit since then: episodes. (Calls that were refused are in `denials`.)
    pub hits: u64,
    /// The fastest growth lately; it fades by half in 4 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_second: Option<u64>,
}

/// What was found out about the kernel memory of a group that went over its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFinding {
    /// When it was looked into. RFC 3339, UTC. Before the decision, where that is a kill: afterwards the offender is gone.
    pub time: String,
    /// How much there was. Absent: the group is gone, or it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
    /// The kind that grew or holds most. Absent on v1, which does not divide kernel memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<KernelCause>,
    /// A trial has shown that what is left is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<KernelTrial>,
    /// Who holds it as far as that shows, the worst first, four at the most. Empty: nobody was there any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<KernelHolder>,
    /// Processes that were looked at.
    pub processes: u32,
    /// Processes that were not, for want of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u32>,
}

/// How a trial of reclaim went after which nothing more could be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTrial {
    /// What came back...
    pub freed_bytes: u64,
    /// ...of so much.
    pub held_bytes: u64,
}

/// Kernel memory of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelMemory {
    /// `v1` or `v2`.
    pub memory: String,
    /// Time between the two readings, where growth was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ns: Option<u64>,
    /// The group that was asked for, or all of them, most kernel memory first. Each includes all below it.
    pub groups: Vec<KernelGroup>,
    /// Groups that were left out for want of room.
    pub left_out: u64,
    /// v1: removed groups of the whole hierarchy that still hold memory; of single groups v1 does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_groups: Option<u64>,
}

/// Kernel memory of a group and all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelGroup {
    /// Path in the memory hierarchy.
    pub path: String,
    /// Inode of its directory.
    pub id: u64,
    /// Whether the kernel accounts it; if not, no amount of it is here.
    pub accounted: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
    /// What it grew by in a second; negative: it shrank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_second: Option<i64>,
    /// The most there was: kept by the kernel (v1), else by the daemon, of groups that a rule has a line for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// What the daemon keeps of it, where it runs and a rule has a line for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<KernelMark>,
    /// By kind, where the kernel divides it (v2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<KernelKind>,
    /// The most that reclaim could get back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimable_bytes: Option<u64>,
    /// What no reclaim gets back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_bytes: Option<u64>,
    /// Sockets' buffers, which are counted beside it. Absent: nobody counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets_bytes: Option<u64>,
    /// Which sockets the kernel may count: `all`, or `tcp` (v1, and those only in groups with a limit for them).
    pub sockets: String,
    /// All memory, user memory included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Kernel memory that no living group below holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_bytes: Option<u64>,
    /// All memory that no living group below holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_usage_bytes: Option<u64>,
    /// [`Self::own_bytes`] of a group without processes: left by removed groups, and by processes that ended or went elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_behind_bytes: Option<u64>,
    /// Groups directly below.
    pub groups_below: u32,
    /// Removed groups below it that still hold memory (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_groups: Option<u64>,
    /// Processes in the group itself.
    pub processes: u32,
    /// Processes in it and below it.
    pub processes_in_all: u32,
    /// The kind that grew or holds most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<KernelCause>,
    /// Of the one group that was asked for: who holds it as far as that shows, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<KernelHolder>,
}

/// A kind of kernel memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelKind {
    /// As `memory.stat` calls it, or `other`.
    pub kind: String,
    /// How much.
    pub bytes: u64,
    /// What it grew by in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_second: Option<i64>,
    /// `reclaim`, `exit` or `let-go`: how it comes back.
    pub release: String,
}

/// The kind that is to be named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCause {
    /// Which.
    pub kind: String,
    /// How much of it there is.
    pub bytes: u64,
    /// By how much it grew between the readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grew_bytes: Option<u64>,
    /// `growth` or `holding`: what the answer rests on.
    pub by: String,
    /// No reclaim gets it back.
    pub pinned: bool,
}

/// All processes of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelHolder {
    /// The name.
    pub comm: String,
    /// How many.
    pub processes: u32,
    /// How many of them were not there at the first reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<u32>,
    /// The oldest of them.
    pub oldest_pid: u32,
    /// Their threads.
    pub threads: u64,
    /// The threads' stacks in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stacks_bytes: Option<u64>,
    /// Their page tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_tables_bytes: Option<u64>,
    /// Their open descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u64>,
}
