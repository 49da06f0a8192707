//! The rules of [`super::features`] on invented hosts: nothing here looks at the machine it runs on.

use super::*;
use crate::kernel::capabilities::{BpfFacts, CapabilityFacts, GroupFacts, ProcessFacts, WakeFacts};

/// Debian 12 with kernel 6.12, memgov as root on the host.
fn v2_root() -> Facts {
    let yes = Some(true);
    Facts {
        memory: Some(MemoryVersion::V2),
        no_memory: None,
        whole_hierarchy: yes,
        groups: GroupFacts {
            make_memory: yes,
            make_unified: yes,
            v1_freezer: Some(false),
            high: yes,
            reclaim: yes,
            oom_group: yes,
            kill: yes,
            freeze: yes,
            kernel: yes,
            sockets: yes,
            pids: yes,
        },
        process: ProcessFacts {
            pidfd: yes,
            mrelease: yes,
            mlockall: yes,
            oom_score_adj: yes,
            others_visible: yes,
        },
        wake: WakeFacts {
            inotify: yes,
            thresholds: Some(false),
            psi: yes,
            psi_short_window: yes,
            group_psi: yes,
            proc_connector: yes,
        },
        capabilities: CapabilityFacts {
            kill: true,
            ipc_lock: true,
            net_admin: true,
            sys_resource: true,
            sys_ptrace: true,
            sys_admin: true,
            bpf: true,
            perfmon: true,
        },
        bpf: BpfFacts {
            btf: true,
            lockdown: Some("none".into()),
            permitted: true,
            enforces: Some(true),
            why_not: None,
        },
        swap: Some(false),
        zram: Some(false),
    }
}

/// A v1 guest whose root lacks CAP_SYS_RESOURCE.
fn v1_without_sys_resource() -> Facts {
    let mut facts = v2_root();
    facts.memory = Some(MemoryVersion::V1);
    facts.groups.v1_freezer = Some(true);
    (facts.groups.high, facts.groups.reclaim, facts.groups.oom_group) =
        (Some(false), Some(false), Some(false));
    facts.wake.thresholds = Some(true);
    facts.wake.psi_short_window = Some(false);
    facts.process.oom_score_adj = Some(false);
    facts.capabilities.sys_resource = false;
    facts
}

/// User-mode Linux 6.1: v2, neither PSI nor BTF.
fn uml() -> Facts {
    let mut facts = v2_root();
    (facts.wake.psi, facts.wake.psi_short_window, facts.wake.group_psi) =
        (Some(false), Some(false), Some(false));
    (facts.bpf.btf, facts.bpf.enforces) = (false, Some(false));
    facts
}

/// A container without privileges, its cgroup mount read-only.
fn unprivileged_container() -> Facts {
    let mut facts = v2_root();
    facts.whole_hierarchy = Some(false);
    facts.groups.make_memory = Some(false);
    facts.groups.make_unified = Some(false);
    facts.groups.freeze = Some(false);
    facts.groups.kill = Some(false);
    facts.process.mlockall = Some(false);
    facts.process.oom_score_adj = Some(false);
    facts.wake = WakeFacts { psi: Some(false), psi_short_window: Some(false), ..WakeFacts::default() };
    facts.wake.proc_connector = Some(false);
    facts.capabilities = CapabilityFacts::default();
    (facts.bpf.permitted, facts.bpf.enforces) = (false, Some(false));
    facts
}

fn lacking(facts: &Facts) -> Vec<(&'static str, &'static str)> {
    let all = features(facts).into_iter();
    all.filter(|feature| feature.state != State::Available)
        .map(|feature| (feature.name, feature.mechanism))
        .collect()
}

fn mechanism(facts: &Facts, name: &str) -> &'static str {
    features(facts).iter().find(|feature| feature.name == name).unwrap().mechanism
}

#[test]
fn a_modern_host_lacks_nothing() {
    assert_eq!(lacking(&v2_root()), []);
    assert_eq!(mechanism(&v2_root(), "slow-group"), "cgroup.freeze");
    assert_eq!(mechanism(&v2_root(), "kill-group"), "cgroup.kill");
}

#[test]
fn v1_has_a_virtual_high_and_denies_only_its_own_without_sys_resource() {
    let facts = v1_without_sys_resource();
    assert_eq!(
        lacking(&facts),
        [
            ("high", "virtual high"),
            ("deny", "prlimit (RLIMIT_DATA, RLIMIT_AS, RLIMIT_MEMLOCK)"),
            ("sockets-meter", "memory.kmem.tcp.usage_in_bytes"),
            ("working-set", "none"),
            ("pressure", "PSI triggers"),
            ("survive", "mlockall"),
        ]
    );
    assert_eq!(mechanism(&facts, "group-events"), "cgroup.event_control thresholds");
    assert_eq!(mechanism(&facts, "kill-group"), "freeze, SIGKILL by pidfd to each, thaw");
}

#[test]
fn v1_without_its_freezer_uses_the_unified_tree_and_last_signals() {
    let mut facts = v1_without_sys_resource();
    facts.groups.v1_freezer = Some(false);
    assert_eq!(mechanism(&facts, "slow-process"), "cgroup.freeze of a hold group in the unified tree");
    facts.groups.make_unified = Some(false);
    assert_eq!(mechanism(&facts, "slow-process"), "SIGSTOP");
    assert_eq!(mechanism(&facts, "slow-group"), "SIGSTOP");
}

#[test]
fn uml_lacks_pressure_and_the_inner_tier() {
    assert_eq!(
        lacking(&uml()),
        [
            ("deny-kernel", "pids.max"),
            ("enforce-inside", "none"),
            ("working-set", "memory.reclaim, by refaults"),
            ("pressure", "none")
        ]
    );
}

#[test]
fn a_container_can_still_meter_deny_and_signal_its_own() {
    let lacking: Vec<_> = lacking(&unprivileged_container()).into_iter().map(|(name, _)| name).collect();
    let all_but = ["high", "kernel-meter", "sockets-meter", "reclaim", "release-memory"];
    let expected: Vec<_> =
        features(&v2_root()).iter().map(|f| f.name).filter(|name| !all_but.contains(name)).collect();
    assert_eq!(lacking, expected);
    let unavailable = features(&unprivileged_container());
    let unavailable: Vec<_> =
        unavailable.iter().filter(|f| matches!(f.state, State::Unavailable(_))).map(|f| f.name).collect();
    assert_eq!(unavailable, ["squeeze", "enforce-inside", "pressure"]);
}

#[test]
fn a_host_of_which_nothing_is_known_promises_nothing() {
    assert_eq!(features(&Facts::default()).iter().filter(|f| f.state == State::Available).count(), 0);
}

#[test]
fn whatever_is_missing_comes_with_a_way_to_get_it() {
    let hosts = [v2_root(), v1_without_sys_resource(), uml(), unprivileged_container(), Facts::default()];
    for feature in hosts.iter().flat_map(features) {
        match &feature.state {
            State::Available => assert_eq!(feature.how_to_get, "", "{}", feature.name),
            State::Degraded(why) | State::Unavailable(why) => {
                assert!(why.len() > 20 && feature.how_to_get.len() > 20, "{feature:?}");
            }
        }
    }
}

#[test]
fn doctor_json_is_flat_and_kebab_case() {
    let feature = Feature::degraded("deny", "prlimit", "own uid only", "CAP_SYS_RESOURCE");
    assert_eq!(
        serde_json::to_string(&feature).unwrap(),
        r#"{"name":"deny","state":"degraded","why":"own uid only","mechanism":"prlimit","how-to-get":"CAP_SYS_RESOURCE"}"#
    );
    let feature = serde_json::to_value(Feature::available("deny", "prlimit")).unwrap();
    assert_eq!(feature["state"], "available");
}
