//! What this kernel lets this process do: facts, found by trying and never by version. What follows from them stands apart in
//! [`features`], pure, so that those rules are tested on invented hosts. Changes nothing for good: what a trial made or
//! wrote is removed or put back.

mod features;
mod others;
mod probe;

pub use features::{Feature, State, features};
pub use others::{OtherKiller, others};

use super::layout::MemoryVersion;

/// What was found on this host. `None`: it could not be tried, or the question makes no sense here.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Facts {
    /// Which hierarchy has the memory controller; `None`: none that can be seen, and `no_memory` says why.
    pub memory: Option<MemoryVersion>,
    /// Why there is no memory controller.
    pub no_memory: Option<String>,
    /// The mount shows the whole hierarchy, not one container's share.
    pub whole_hierarchy: Option<bool>,
    /// What control groups offer.
    pub groups: GroupFacts,
    /// What signals, limits and memory locks offer.
    pub process: ProcessFacts,
    /// What wakes the loop.
    pub wake: WakeFacts,
    /// Effective capabilities.
    pub capabilities: CapabilityFacts,
    /// What BPF would find; only read, nothing is loaded.
    pub bpf: BpfFacts,
    /// Some swap is on.
    pub swap: Option<bool>,
    /// Some of it is zram.
    pub zram: Option<bool>,
}

/// Files of control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupFacts {
    /// A group can be made below memgov's own in the memory hierarchy.
    pub make_memory: Option<bool>,
    /// … in the unified hierarchy.
    pub make_unified: Option<bool>,
    /// … in the v1 freezer hierarchy, and it has `freezer.state`.
    pub v1_freezer: Option<bool>,
    /// `memory.high`.
    pub high: Option<bool>,
    /// `memory.reclaim`.
    pub reclaim: Option<bool>,
    /// `memory.oom.group`.
    pub oom_group: Option<bool>,
    /// `cgroup.kill`, where the memory controller is or not.
    pub kill: Option<bool>,
    /// `cgroup.freeze`, likewise; tried on an empty group.
    pub freeze: Option<bool>,
    /// Kernel memory is accounted: `kernel` of `memory.stat`, v1 `memory.kmem.usage_in_bytes`.
    pub kernel: Option<bool>,
    /// The buffers of sockets are accounted: `sock` of `memory.stat`, v1 `memory.kmem.tcp.usage_in_bytes`.
    pub sockets: Option<bool>,
    /// The pids controller.
    pub pids: Option<bool>,
}

/// Calls on processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProcessFacts {
    /// `pidfd_open` and `pidfd_send_signal`.
    pub pidfd: Option<bool>,
    /// `process_mrelease`.
    pub mrelease: Option<bool>,
    /// `mlockall`.
    pub mlockall: Option<bool>,
    /// The own `oom_score_adj` can be lowered to -1000.
    pub oom_score_adj: Option<bool>,
    /// `/proc` shows the processes of others (no `hidepid`).
    pub others_visible: Option<bool>,
}

/// Notifications.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WakeFacts {
    /// inotify reports changes of control files (v2).
    pub inotify: Option<bool>,
    /// `cgroup.event_control` takes usage thresholds (v1).
    pub thresholds: Option<bool>,
    /// `/proc/pressure/memory` takes triggers.
    pub psi: Option<bool>,
    /// … with a window of less than two seconds.
    pub psi_short_window: Option<bool>,
    /// Groups have `memory.pressure`.
    pub group_psi: Option<bool>,
    /// The proc connector reports forks.
    pub proc_connector: Option<bool>,
}

/// Effective capabilities that something here needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CapabilityFacts {
    /// CAP_KILL: signals to other users' processes.
    pub kill: bool,
    /// CAP_IPC_LOCK: unlimited mlock.
    pub ipc_lock: bool,
    /// CAP_NET_ADMIN: the proc connector.
    pub net_admin: bool,
    /// CAP_SYS_RESOURCE: limits of other users' processes, hard limits, oom_score_adj, PSI windows.
    pub sys_resource: bool,
    /// CAP_SYS_PTRACE: `/proc/PID/exe` of others.
    pub sys_ptrace: bool,
    /// CAP_SYS_ADMIN.
    pub sys_admin: bool,
    /// CAP_BPF.
    pub bpf: bool,
    /// CAP_PERFMON.
    pub perfmon: bool,
}

/// What BPF needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BpfFacts {
    /// `/sys/kernel/btf/vmlinux`.
    pub btf: bool,
    /// The chosen word of `/sys/kernel/security/lockdown`; `None` where it cannot be read.
    pub lockdown: Option<String>,
    /// Capabilities and lockdown do not forbid it.
    pub permitted: bool,
    /// The programs were loaded, and each that refuses was seen to; `None`: not tried.
    pub enforces: Option<bool>,
    /// Why they do not.
    pub why_not: Option<String>,
}
