//! What memgov can do on a host with given facts, by which mechanism, and how to get what is missing. Pure: no file is
//! read here.

use super::Facts;
use crate::kernel::layout::MemoryVersion;

/// How well something works here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", content = "why", rename_all = "kebab-case")]
pub enum State {
    /// Fully.
    Available,
    /// By a weaker mechanism, or for some only: which.
    Degraded(String),
    /// Not at all: why.
    Unavailable(String),
}

/// Something memgov does, and whether and how it can here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Feature {
    /// What: `deny`.
    pub name: &'static str,
    /// How well.
    #[serde(flatten)]
    pub state: State,
    /// By which mechanism: `prlimit`.
    pub mechanism: &'static str,
    /// What to change to get all of it; empty when nothing is missing.
    pub how_to_get: &'static str,
}

impl Feature {
    fn available(name: &'static str, mechanism: &'static str) -> Self {
        Self { name, state: State::Available, mechanism, how_to_get: "" }
    }

    fn degraded(name: &'static str, mechanism: &'static str, why: &str, how_to_get: &'static str) -> Self {
        Self { name, state: State::Degraded(why.to_owned()), mechanism, how_to_get }
    }

    fn unavailable(name: &'static str, why: &str, how_to_get: &'static str) -> Self {
        Self { name, state: State::Unavailable(why.to_owned()), mechanism: "none", how_to_get }
    }
}

/// What follows from the facts. Pure; always the same features in the same order.
pub fn features(facts: &Facts) -> Vec<Feature> {
    vec![
        group_meter(facts),
        process_meter(facts),
        high(facts),
        deny(facts),
        kernel_meter(facts),
        sockets_meter(facts),
        squeeze(facts),
        deny_kernel(facts),
        inside(facts),
        slow_group(facts),
        slow_process(facts),
        reclaim(facts),
        working_set(facts),
        signal(facts),
        kill_group(facts),
        release_memory(facts),
        inherit(facts),
        group_events(facts),
        pressure(facts),
        survive(facts),
    ]
}

fn yes(fact: Option<bool>) -> bool {
    fact == Some(true)
}

const MOUNT_MEMORY: &str = "mount cgroup2 with the memory controller (boot without cgroup_disable=memory; in a container \
     or a user service have it delegated: systemd Delegate=memory, docker --cgroupns=host)";

fn group_meter(facts: &Facts) -> Feature {
    let name = "group-meter";
    let mechanism = match facts.memory {
        Some(MemoryVersion::V2) => "memory.current",
        Some(MemoryVersion::V1) => "memory.usage_in_bytes",
        None => {
            let why = facts.no_memory.as_deref().unwrap_or("no memory controller is mounted");
            return Feature::unavailable(name, why, MOUNT_MEMORY);
        }
    };
    if facts.whole_hierarchy == Some(false) {
        let why = "only this container's own groups can be seen; rules name them from the container's root";
        let how = "run memgov on the host, or give the container the host's cgroup namespace and mount";
        return Feature::degraded(name, mechanism, why, how);
    }
    Feature::available(name, mechanism)
}

fn process_meter(facts: &Facts) -> Feature {
    let (name, mechanism) = ("process-meter", "/proc/PID/status");
    if !yes(facts.process.others_visible) {
        let why = "/proc hides other users' processes";
        return Feature::degraded(
            name,
            mechanism,
            why,
            "mount /proc without hidepid, or give memgov its gid= group",
        );
    }
    if !facts.capabilities.sys_ptrace {
        let why = "/proc/PID/exe of other users cannot be read: rules with `exe` do not see their processes";
        let how =
            "give memgov CAP_SYS_PTRACE (systemd: AmbientCapabilities=CAP_SYS_PTRACE), or match by comm";
        return Feature::degraded(name, mechanism, why, how);
    }
    Feature::available(name, mechanism)
}

fn high(facts: &Facts) -> Feature {
    let name = "high";
    match facts.memory {
        Some(MemoryVersion::V2) if yes(facts.groups.high) => Feature::available(name, "memory.high"),
        Some(MemoryVersion::V2) => Feature::unavailable(
            name,
            "no group has memory.high: the controller is not enabled below the root",
            "enable it: echo +memory > /sys/fs/cgroup/cgroup.subtree_control (systemd: MemoryAccounting=yes)",
        ),
        Some(MemoryVersion::V1) => Feature::degraded(
            name,
            "virtual high",
            "cgroup v1 has no memory.high: the line is memgov's own (`[[group]] high = ...`), and the kernel does not \
             throttle at it",
            "boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2",
        ),
        None => Feature::unavailable(name, "no memory controller is mounted", MOUNT_MEMORY),
    }
}

/// For rules and `memgov shrink`.
fn reclaim(facts: &Facts) -> Feature {
    let name = "reclaim";
    match facts.memory {
        Some(MemoryVersion::V2) if yes(facts.groups.reclaim) => Feature::available(name, "memory.reclaim"),
        Some(MemoryVersion::V2) => Feature::degraded(
            name,
            "memory.high, lowered at moments",
            "there is no memory.reclaim: who allocates above the target is throttled meanwhile",
            "boot Linux 5.19 or later",
        ),
        Some(MemoryVersion::V1) => Feature::available(name, "memory.limit_in_bytes, lowered at moments"),
        None => Feature::unavailable(name, "no memory controller is mounted", MOUNT_MEMORY),
    }
}

/// `reclaim` with a tolerance.
fn working_set(facts: &Facts) -> Feature {
    let name = "working-set";
    match (facts.memory, yes(facts.groups.reclaim), yes(facts.wake.group_psi)) {
        (Some(MemoryVersion::V2), true, true) => {
            Feature::available(name, "memory.reclaim, by pressure and refaults")
        }
        (Some(MemoryVersion::V2), true, false) => Feature::degraded(
            name,
            "memory.reclaim, by refaults",
            "groups have no memory.pressure: what it costs is guessed from refaults alone",
            "boot with psi=1 on a kernel with CONFIG_PSI",
        ),
        _ => Feature::unavailable(
            name,
            "there is no memory.reclaim: on cgroup v1 and before Linux 5.19 a group cannot be made smaller without lowering a limit, \
             and that would be felt; nothing is asked there",
            "boot Linux 5.19 or later with systemd.unified_cgroup_hierarchy=1 for cgroup v2",
        ),
    }
}

/// The same refusals, signals and kills in the allocating call itself; without it they come from outside, moments later.
fn inside(facts: &Facts) -> Feature {
    let name = "enforce-inside";
    if yes(facts.bpf.enforces) {
        return Feature::available(name, "bpf (lsm or fmod_ret, fentry, tp_btf)");
    }
    let tried = facts.bpf.why_not.as_deref();
    let (why, how) = if !facts.bpf.btf {
        ("this kernel has no /sys/kernel/btf/vmlinux", "run a kernel built with CONFIG_DEBUG_INFO_BTF")
    } else if facts.bpf.lockdown.as_deref().is_some_and(|lockdown| lockdown != "none") {
        ("kernel lockdown forbids it", "boot with lockdown=none, or without Secure Boot")
    } else if !facts.bpf.permitted {
        (
            "CAP_BPF and CAP_PERFMON are missing",
            "give memgov both (systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON)",
        )
    } else {
        ("not tried", "a kernel from 6.1 on with BPF tracing or LSM programs allowed")
    };
    Feature::unavailable(name, tried.unwrap_or(why), how)
}

fn deny(facts: &Facts) -> Feature {
    let (name, mechanism) = ("deny", "prlimit (RLIMIT_DATA, RLIMIT_AS, RLIMIT_MEMLOCK)");
    if facts.capabilities.sys_resource {
        return Feature::available(name, mechanism);
    }
    Feature::degraded(
        name,
        mechanism,
        "only processes of memgov's own uid: limits of others may not be changed",
        "give memgov CAP_SYS_RESOURCE (systemd: AmbientCapabilities=CAP_SYS_RESOURCE; docker: --cap-add=SYS_RESOURCE), or \
         run a memgov as each user",
    )
}

fn kernel_meter(facts: &Facts) -> Feature {
    let name = "kernel-meter";
    match facts.memory {
        Some(MemoryVersion::V2) if yes(facts.groups.kernel) => Feature::available(name, "memory.stat"),
        Some(MemoryVersion::V1) if yes(facts.groups.kernel) => {
            Feature::available(name, "memory.kmem.usage_in_bytes")
        }
        Some(_) => Feature::unavailable(
            name,
            "this kernel does not say how much kernel memory a group has",
            "a kernel from 5.18 on, booted without cgroup.memory=nokmem",
        ),
        None => Feature::unavailable(name, "no memory controller is mounted", MOUNT_MEMORY),
    }
}

/// What the buffers of sockets hold.
fn sockets_meter(facts: &Facts) -> Feature {
    let name = "sockets-meter";
    match facts.memory {
        Some(MemoryVersion::V2) if yes(facts.groups.sockets) => Feature::available(name, "memory.stat"),
        Some(MemoryVersion::V1) if yes(facts.groups.sockets) => Feature::degraded(
            name,
            "memory.kmem.tcp.usage_in_bytes",
            "TCP only, and of sockets that were made after a rule asked for it",
            "cgroup v2, which charges all sockets to the one pool of their group",
        ),
        Some(_) => Feature::unavailable(
            name,
            "this kernel does not say what the sockets of a group hold",
            "a kernel booted without cgroup.memory=nosocket",
        ),
        None => Feature::unavailable(name, "no memory controller is mounted", MOUNT_MEMORY),
    }
}

/// Bounds of other processes' sockets.
fn squeeze(facts: &Facts) -> Feature {
    let (name, mechanism) = ("squeeze", "pidfd_getfd, setsockopt");
    let needed = facts.capabilities.sys_ptrace && facts.capabilities.net_admin;
    if needed && yes(facts.process.pidfd) {
        return Feature::available(name, mechanism);
    }
    Feature::unavailable(
        name,
        "memgov may not have the sockets of other processes, or not set their buffers",
        "Linux 5.14, and CAP_SYS_PTRACE and CAP_NET_ADMIN for memgov (dist/memgov.service has both)",
    )
}

/// Refusing kernel memory.
fn deny_kernel(facts: &Facts) -> Feature {
    let name = "deny-kernel";
    if yes(facts.bpf.enforces) {
        return Feature::available(name, "bpf with tier `bpf` or `auto`, else pids.max");
    }
    if !yes(facts.groups.pids) {
        return Feature::unavailable(
            name,
            "there is no pids controller, and no enforcement inside the kernel",
            GET_PIDS,
        );
    }
    let why = "from outside only new processes and threads can be refused; files, directories and sockets go on: put `freeze` behind";
    Feature::degraded(name, "pids.max", why, "enforcement inside the kernel: see enforce-inside")
}

const GET_PIDS: &str = "enable the pids controller (echo +pids > /sys/fs/cgroup/cgroup.subtree_control; systemd: TasksAccounting=yes)";

const GET_FREEZER: &str = "mount cgroup2 (mount -t cgroup2 none /sys/fs/cgroup/unified is enough beside v1), kernel 5.2 or \
     newer, with memgov's group delegated to it";
const SIGSTOP: &str =
    "no freezer: SIGSTOP and SIGCONT, which the process and its parent can see (job control, WUNTRACED)";

fn slow_group(facts: &Facts) -> Feature {
    let name = "slow-group";
    let groups = &facts.groups;
    match facts.memory {
        Some(MemoryVersion::V2) if yes(groups.freeze) => Feature::available(name, "cgroup.freeze"),
        Some(_) if yes(groups.v1_freezer) => {
            Feature::available(name, "v1 freezer, processes moved to a hold group meanwhile")
        }
        Some(_) if yes(groups.freeze) && yes(groups.make_unified) => Feature::available(
            name,
            "cgroup.freeze of the unified tree, processes moved to a hold group meanwhile",
        ),
        Some(_) => Feature::degraded(name, "SIGSTOP", SIGSTOP, GET_FREEZER),
        None => Feature::unavailable(
            name,
            "no memory controller is mounted: there are no groups to slow",
            MOUNT_MEMORY,
        ),
    }
}

fn slow_process(facts: &Facts) -> Feature {
    let name = "slow-process";
    let groups = &facts.groups;
    match facts.memory {
        Some(MemoryVersion::V2) if yes(groups.freeze) && yes(groups.make_unified) => {
            Feature::available(name, "cgroup.freeze of a hold group below the process's own")
        }
        _ if yes(groups.v1_freezer) => Feature::available(name, "v1 freezer, in a hold group"),
        Some(MemoryVersion::V1) if yes(groups.freeze) && yes(groups.make_unified) => {
            Feature::available(name, "cgroup.freeze of a hold group in the unified tree")
        }
        _ => Feature::degraded(name, "SIGSTOP", SIGSTOP, GET_FREEZER),
    }
}

fn signal(facts: &Facts) -> Feature {
    let name = "signal";
    if !yes(facts.process.pidfd) {
        let why =
            "no pidfd: a signal could hit another process that got the same pid meanwhile, so none is sent";
        return Feature::unavailable(
            name,
            why,
            "kernel 5.3 or newer; allow pidfd_open and pidfd_send_signal in seccomp",
        );
    }
    if !facts.capabilities.kill {
        let why = "only processes of memgov's own uid";
        return Feature::degraded(
            name,
            "pidfd",
            why,
            "give memgov CAP_KILL (systemd: AmbientCapabilities=CAP_KILL)",
        );
    }
    Feature::available(name, "pidfd")
}

fn kill_group(facts: &Facts) -> Feature {
    let name = "kill-group";
    let groups = &facts.groups;
    if facts.memory.is_none() {
        return Feature::unavailable(
            name,
            "no memory controller is mounted: there are no groups to kill",
            MOUNT_MEMORY,
        );
    }
    if facts.memory == Some(MemoryVersion::V2) && yes(groups.kill) {
        return Feature::available(name, "cgroup.kill");
    }
    if !yes(facts.process.pidfd) {
        return Feature::unavailable(
            name,
            "neither cgroup.kill nor pidfd",
            "kernel 5.3 or newer (5.14 for cgroup.kill)",
        );
    }
    if yes(groups.freeze) || yes(groups.v1_freezer) {
        return Feature::available(name, "freeze, SIGKILL by pidfd to each, thaw");
    }
    let why = "no freezer: SIGKILL to each until none is left; one that forks fast may need several rounds";
    Feature::degraded(name, "SIGKILL by pidfd to each", why, GET_FREEZER)
}

fn release_memory(facts: &Facts) -> Feature {
    let name = "release-memory";
    if yes(facts.process.mrelease) {
        return Feature::available(name, "process_mrelease");
    }
    let why = "memory of a killed process comes back only when the process is next scheduled";
    Feature::degraded(name, "exit", why, "kernel 5.15 or newer; allow process_mrelease in seccomp")
}

fn inherit(facts: &Facts) -> Feature {
    let name = "inherit";
    if yes(facts.wake.proc_connector) {
        return Feature::available(name, "proc connector");
    }
    Feature::degraded(
        name,
        "parents in /proc/PID/stat",
        "children of a controlled process are found only at the next look, and not if their parent has died before",
        "run memgov in the initial network and pid namespace with CAP_NET_ADMIN, on a kernel with CONFIG_PROC_EVENTS",
    )
}

fn group_events(facts: &Facts) -> Feature {
    let name = "group-events";
    if facts.memory == Some(MemoryVersion::V2) && yes(facts.wake.inotify) {
        return Feature::available(name, "inotify on memory.events");
    }
    if facts.memory == Some(MemoryVersion::V1) && yes(facts.wake.thresholds) {
        return Feature::available(name, "cgroup.event_control thresholds");
    }
    Feature::degraded(
        name,
        "sampling",
        "nothing says that a group has crossed its line: it is seen at the next sample, whose pace follows its growth",
        "run where memgov may make groups in its own (delegation), with inotify watches left (sysctl \
         fs.inotify.max_user_watches)",
    )
}

fn pressure(facts: &Facts) -> Feature {
    let (name, mechanism) = ("pressure", "PSI triggers");
    if yes(facts.wake.psi_short_window) {
        return Feature::available(name, mechanism);
    }
    if yes(facts.wake.psi) {
        let why =
            "without CAP_SYS_RESOURCE windows are whole multiples of two seconds: the loop is woken later";
        return Feature::degraded(name, mechanism, why, "give memgov CAP_SYS_RESOURCE");
    }
    Feature::unavailable(
        name,
        "/proc/pressure/memory is missing, off, or takes no trigger from memgov; sampling does without it",
        "boot with psi=1 on a kernel with CONFIG_PSI; before 6.5 triggers need CAP_SYS_RESOURCE",
    )
}

fn survive(facts: &Facts) -> Feature {
    let name = "survive";
    match (yes(facts.process.mlockall), yes(facts.process.oom_score_adj)) {
        (true, true) => Feature::available(name, "mlockall, oom_score_adj -1000"),
        (true, false) => Feature::degraded(
            name,
            "mlockall",
            "memgov may itself be chosen by the kernel's OOM killer",
            "give memgov CAP_SYS_RESOURCE, or start it with OOMScoreAdjust=-1000",
        ),
        (false, true) => Feature::degraded(
            name,
            "oom_score_adj -1000",
            "memgov's own memory may be reclaimed, and it is slow exactly when memory is short",
            "give memgov CAP_IPC_LOCK or LimitMEMLOCK=infinity",
        ),
        (false, false) => Feature::degraded(
            name,
            "none",
            "memgov's memory may be reclaimed and it may itself be chosen by the kernel's OOM killer",
            "give memgov CAP_IPC_LOCK and CAP_SYS_RESOURCE, or LimitMEMLOCK=infinity and OOMScoreAdjust=-1000",
        ),
    }
}

#[cfg(test)]
#[path = "features_tests.rs"]
mod tests;
