//! What was seen in the moment before a kill, as it is shown. Names in the maps are the kernel's own, of whichever version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was seen in the moment before a kill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Situation {
    /// The group that was hit, whole or in part; after it the one that was short, if that is another.
    pub groups: Vec<GroupSeen>,
    /// The host.
    pub host: HostSeen,
    /// The largest processes of the group that was hit, at most ten.
    #[serde(default)]
    pub processes: Vec<ProcessSeen>,
    /// How many were looked at for that.
    #[serde(default)]
    pub processes_looked_at: u32,
    /// How many there were beside them.
    #[serde(default)]
    pub processes_left_out: u32,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSeen {
    /// Which.
    pub path: String,
    /// Usage by kind: of `memory.stat`, and what whole files say (`memory.current`, `memory.swap.current`, `memory.usage_in_bytes`...).
    pub memory_bytes: BTreeMap<String, u64>,
    /// Limits and protections by their files. One that bounds nothing is absent.
    pub limits_bytes: BTreeMap<String, u64>,
    /// `memory.events`, v1 `memory.oom_control`.
    pub events: BTreeMap<String, u64>,
    /// `memory.pressure`; absent where the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureSeen>,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSeen {
    /// Of `/proc/meminfo`.
    pub memory_bytes: BTreeMap<String, u64>,
    /// Of `/proc/vmstat`, since boot.
    pub counters: BTreeMap<String, u64>,
    /// `/proc/pressure/memory`; absent where the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureSeen>,
}

/// How much of the time tasks waited for memory: some of them, or all. Averages in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureSeen {
    /// Over 10 s.
    pub some_avg10_per_10000: u32,
    /// Over 60 s.
    pub some_avg60_per_10000: u32,
    /// Since boot, or since the group was made.
    pub some_total_ns: u64,
    /// As above, of all.
    pub full_avg10_per_10000: u32,
    /// As above, of all.
    pub full_avg60_per_10000: u32,
    /// As above, of all.
    pub full_total_ns: u64,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSeen {
    /// Who.
    pub pid: u32,
    /// Its start time in clock ticks.
    pub start: u64,
    /// Its name.
    pub comm: String,
    /// `RssAnon` of `/proc/PID/status`; absent: it was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anon_bytes: Option<u64>,
    /// `RssFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// `RssShmem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shmem_bytes: Option<u64>,
}
