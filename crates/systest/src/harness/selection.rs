//! What each target shows in a run of everything, so that it ends in its time. This machine runs all that it can, and at its own speed; an emulated one is ten to twenty times as
//! slow, so each is asked for what only it can show: cgroup v2, another version of the kernel, enforcement inside. Nothing is left to no target.
//! By name (`--filter`), or with `--all`, every test runs wherever it can.

use super::host::{Host, Tier};

/// Takes minutes: shown when asked for.
const MINUTES: &[&str] =
    &["bpf_deny_bound_in_a_thousand", "dr_twenty_", "gk_01_fifty", "jw_06_iperf3_at_100", "kh_beside_senpai"];

/// Takes long where it is emulated, and is as true on this machine: decided, answered and written down by memgov itself, or a workload of the same kind as another that stays.
const AS_TRUE_ON_THE_HOST: &[&str] = &[
    "config_",
    "dr_ask_people",
    "dr_ask_replay",
    "dr_ask_two",
    "dr_hook_check",
    "dr_hook_dry",
    "dr_hook_eight",
    "dr_hook_is",
    "dr_hook_missing",
    "dr_hook_output",
    "dr_hook_replay",
    "dr_lend_kill9",
    "dr_replay",
    "dr_takes_replay",
    "dr_victim",
    "events_",
    "files_are",
    "files_come",
    "files_find",
    "files_go",
    "files_kernel_line_of",
    "files_of_a_stopped",
    "files_owner_says",
    "files_priority",
    "files_stuck",
    "gk_01_fork_bomb",
    "gk_01_one_bomb",
    "gk_01_thread",
    "gk_02_a_shells",
    "gk_02_a_dentry_bomb_at_full_speed_on_ext4",
    "gk_02_open",
    "gk_03_a_trial",
    "gk_03_files",
    "gk_03_open",
    "gk_04_a_line",
    "gk_08",
    "gk_09_a_",
    "gk_09_who",
    "gk_attack_by_a",
    "gk_attack_by_f",
    "gk_attack_by_h",
    "gk_attack_by_l",
    "gk_attack_by_m",
    "gk_attack_by_o",
    "gk_attack_by_s",
    "gk_standing",
    "hostile_",
    "jw_02_limit_given_back_by_the_next",
    "jw_03_a_thousand",
    "jw_04",
    "jw_06_a_squeezed",
    "jw_09_bounds_restored_at",
    "jw_09_bounds_restored_by",
    "kh_04_kill9_without",
    "kh_04_who",
    "kh_06_one",
    "kill9_every_step_of_ask",
    "kill9_every_step_of_deny",
    "kill9_every_step_of_lend",
    "kill9_every_step_of_signal",
    "kill9_every_step_of_slow_process",
    "reload_",
    "rfc_prctl_without_a",
    "socket_",
    "wl_06_slow_keeps",
];

/// Inside the kernel on 6.12: all that is about it, kernel memory, and of the foundation what it takes part in. Who gives way is chosen outside in either tier, and a shrink, a file and a
/// slowdown pass no program of ours.
const INSIDE: &[&str] = &[
    "bpf_",
    "config_of",
    "deny_",
    "dry_run",
    "gk_01_f",
    "gk_01_s",
    "gk_01_t",
    "gk_02_mkdir",
    "gk_02_open",
    "gk_02_a_dentry_bomb_at_full_speed_on_tmpfs",
    "gk_03_what",
    "gk_04_u",
    "gk_04_w",
    "gk_05_a_line",
    "gk_06",
    "gk_07",
    "gk_09_nobody",
    "gk_09_the_bomb",
    "gk_10",
    "gk_explain",
    "gk_standing",
    "hung_daemon_group",
    "instructions_",
    "kill9_every_step_of_deny",
    "kill9_guardian_too_next_run_undoes_deny",
    "kill_",
    "locked_memory",
    "pid_reuse",
    "reload_drops",
    "replay",
    "signal_",
    "sigterm_restores_deny",
    "slow_ends",
    "status_events",
    "wl_0",
    "wl_10",
];
const NOT_INSIDE: &[&str] = &[
    "deny_reaches_every",
    "signal_repeats",
    "wl_01_invalid",
    "wl_02_deny_ends",
    "wl_06",
    "wl_08_double",
    "wl_08_exec",
    "wl_08_thread",
    "wl_09_log_d",
    "wl_09_log_only",
    "wl_10_del",
    "wl_10_two_tasks_and",
];

/// On 6.1, with either hierarchy: each criterion and each mechanism, and what the versions of the kernel differ in.
const ON_6_1: &[&str] = &[
    "deny_group_rule",
    "deny_never",
    "deny_restores",
    "deny_setuid",
    "doctor",
    "dr_01",
    "dr_02",
    "dr_03",
    "dr_07",
    "dr_ask_answered_kill",
    "dr_handler_frees",
    "dr_hook_frees_64",
    "dr_host_freezes",
    "dr_host_kill9",
    "dr_host_largest",
    "dr_lend_saves",
    "dr_lend_raises",
    "dr_rescue_while",
    "dr_zram_is",
    "exec_holds",
    "files_kernel_memory",
    "files_memctl_round",
    "files_shells",
    "files_shrink",
    "gk_01_shell",
    "gk_02_mkdir",
    "gk_03_what_can",
    "gk_04_user",
    "gk_05",
    "gk_06",
    "gk_07_what",
    "gk_09_the_bomb",
    "gk_10",
    "hung_daemon",
    "jw_01_accounting",
    "jw_02_one_pool",
    "jw_05",
    "jw_09_bounds_restored_after",
    "kh_01_the",
    "kh_02",
    "kh_05_kinds",
    "kh_07_background_reclaim",
    "kh_07_kill9",
    "kh_08_never",
    "kh_10_a_limit",
    "kh_10_nothing",
    "kh_working_set_needs",
    "kill9_every_step_of_slow_group",
    "kill9_guardian_too_next_run_undoes_slow",
    "kill_largest",
    "kill_oom_group",
    "kill_passes",
    "kill_whole",
    "locked_memory",
    "lost_ledger_next",
    "rfc_prctl_sets",
    "sigterm_restores_slow_group",
    "slow_children",
    "slow_ends",
    "status_events",
    "wl_01_round_trip",
    "wl_02",
    "wl_03_threshold",
    "wl_04_rss",
    "wl_05_direct_ignores",
    "wl_06_slow_with",
    "wl_06_unmitigated",
    "wl_07_kill",
    "wl_07_signal_comes",
    "wl_08_fork",
    "wl_08_exec",
    "wl_09_log_once",
    "wl_10_two_tasks_and",
    "wl_10_delegated",
];

/// On a kernel with one processor and neither PSI nor BTF: that each part works there.
const ON_USER_MODE_LINUX: &[&str] = &[
    "wl_01",
    "wl_08_fork",
    "wl_08_exec",
    "wl_09_log_direct",
    "wl_10_two_tasks_and_permissions",
    "deny_group_rule",
    "deny_restores",
    "slow_ends",
    "slow_children",
    "signal_realtime",
    "kill_whole",
    "kill_largest",
    "kill9_guardian_too",
    "sigterm_restores",
    "dry_run",
    "replay",
    "doctor",
];

fn is_of(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| name.starts_with(part))
}

/// Why a test is left to another run although it could be done in this one.
pub fn left_to_others(host: &Host, name: &str) -> Option<&'static str> {
    if is_of(name, MINUTES) {
        return Some("takes minutes: shown when asked for");
    }
    let (here, elsewhere) = match (host.target.as_str(), host.tier) {
        ("6.12-v2", Tier::Portable) => {
            (!is_of(name, AS_TRUE_ON_THE_HOST), "shown on the host, at its own speed; here when asked for")
        }
        ("6.12-v2", Tier::Bpf) => {
            let here = is_of(name, INSIDE) && !is_of(name, NOT_INSIDE);
            (here, "shown with the portable tier; here when asked for")
        }
        ("6.1-v1" | "6.1-v2", Tier::Portable) => {
            (is_of(name, ON_6_1), "shown on 6.12-v2 and on the host; here when asked for")
        }
        ("uml", _) => (is_of(name, ON_USER_MODE_LINUX), "shown on 6.1-v2, which is ten times as fast"),
        _ => return None,
    };
    (!here).then_some(elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_of_a_test() {
        let tests = crate::tests::all();
        for list in [MINUTES, AS_TRUE_ON_THE_HOST, INSIDE, NOT_INSIDE, ON_6_1, ON_USER_MODE_LINUX] {
            for part in list {
                assert!(tests.iter().any(|test| test.name.starts_with(part)), "{part} is of no test");
            }
        }
    }
}
