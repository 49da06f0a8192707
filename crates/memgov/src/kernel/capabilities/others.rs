//! Other programs that kill when memory is short. Two with different ideas of when and whom kill twice for one shortage, so each that runs
//! is named, with what to do. Found by name: this is advice, and nothing hangs on it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::kernel::text;

/// One that runs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OtherKiller {
    /// Its name.
    pub name: &'static str,
    /// Its pid.
    pub pid: u32,
    /// What it does that memgov does too.
    pub does: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// Name (`comm`), what it does, and what to do.
const KNOWN: [(&str, &str, &str); 4] = [
    (
        "systemd-oomd",
        "kills units whose ManagedOOMSwap= or ManagedOOMMemoryPressure= says so",
        "systemctl disable --now systemd-oomd.socket systemd-oomd.service; or leave it what `oomctl` lists and give memgov no rule for that",
    ),
    (
        "earlyoom",
        "kills the process with the highest oom_score when memory and swap are low",
        "systemctl disable --now earlyoom; a rule with host = true and victim = \"largest\" (or jobs with priorities) takes its place",
    ),
    (
        "nohang",
        "kills the process with the highest badness when memory and swap are low, or pressure is high",
        "systemctl disable --now nohang nohang-desktop; a rule with host = true and victim = \"largest\" (or jobs with priorities) takes its place",
    ),
    (
        "oomd",
        "kills groups by its rulesets",
        "systemctl disable --now oomd; or leave it other groups than memgov",
    ),
];

/// Those that run, by what is in a `/proc`.
pub fn others(proc: &Path) -> Vec<OtherKiller> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| pid_of(&entry.file_name()));
    let mut found: Vec<OtherKiller> = pids.filter_map(|pid| known(proc, pid)).collect();
    found.sort_by_key(|killer| killer.pid);
    found
}

fn pid_of(name: &OsStr) -> Option<u32> {
    text::number32(name.as_encoded_bytes())
}

fn known(proc: &Path, pid: u32) -> Option<OtherKiller> {
    let comm = fs::read(proc.join(pid.to_string()).join("comm")).ok()?;
    let (name, does, advice) =
        KNOWN.into_iter().find(|(name, ..)| comm.strip_suffix(b"\n") == Some(name.as_bytes()))?;
    Some(OtherKiller { name, pid, does, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_run_are_found_by_name_and_nobody_else_is() {
        let proc = tempfile::tempdir().unwrap();
        assert_eq!(others(&proc.path().join("none")), []);
        let all = [
            ("1", "systemd"),
            ("70", "earlyoom"),
            ("8", "systemd-oomd"),
            ("9", "oomd-exporter"),
            ("self", "oomd"),
        ];
        for (pid, comm) in all {
            let dir = proc.path().join(pid);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        }
        let found: Vec<_> = others(proc.path()).into_iter().map(|killer| (killer.name, killer.pid)).collect();
        assert_eq!(found, [("systemd-oomd", 8), ("earlyoom", 70)]);
    }
}
