//! The unit in `dist/` against what the program asks for: a capability that `doctor` names, or a system call, that the unit withholds makes a
//! daemon that does less than it says, or one that systemd starts again and again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> std::io::Result<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
}

/// The words of all lines of a key; systemd adds them up.
fn words(unit: &str, key: &str) -> BTreeSet<String> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// Names of capabilities in a text.
fn capabilities(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    words.filter(|word| word.starts_with("CAP_")).map(str::to_owned).collect()
}

/// What only `status --costs` needs, and what stands for two others: a drop-in's business (docs/cli.md).
const NOT_GIVEN: &str = "CAP_SYS_ADMIN";

#[test]
fn the_unit_gives_what_doctor_and_the_daemon_ask_for() {
    let given = words(&read("../../dist/memgov.service").unwrap(), "CapabilityBoundingSet");
    let mut asked = BTreeSet::new();
    for source in [
        "src/kernel/capabilities/features.rs",
        "src/daemon/protection.rs",
        "src/kernel/forks.rs",
        "src/bpf/load.rs",
    ] {
        let found = capabilities(&read(source).unwrap());
        assert!(source == "src/bpf/load.rs" || !found.contains(NOT_GIVEN), "{source}");
        asked.extend(found);
    }
    asked.remove(NOT_GIVEN);
    for name in ["CAP_BPF", "CAP_PERFMON", "CAP_KILL", "CAP_SYS_RESOURCE", "CAP_SYS_PTRACE", "CAP_NET_ADMIN"]
    {
        assert!(asked.contains(name), "{name} is not looked for where it was: {asked:?}");
    }
    let missing: Vec<_> = asked.difference(&given).collect();
    assert!(missing.is_empty(), "the unit does not give {missing:?}");
    assert!(!given.contains(NOT_GIVEN));
}

/// System calls that the program makes and that are in none of the groups of systemd's that the unit names (`systemd-analyze syscall-filter`).
#[test]
fn the_unit_lets_the_inner_tier_be_loaded() {
    let unit = read("../../dist/memgov.service").unwrap();
    let allowed = words(&unit, "SystemCallFilter");
    for call in ["bpf", "process_mrelease", "pidfd_open", "pidfd_send_signal"] {
        assert!(allowed.contains(call), "{call} is not in {allowed:?}");
    }
    let cli = read("../../docs/cli.md").unwrap();
    assert_eq!(
        words(&cli, "CapabilityBoundingSet"),
        BTreeSet::from([NOT_GIVEN.to_owned()]),
        "the drop-in in docs/cli.md"
    );
}
