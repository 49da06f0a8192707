//! The whole state memgov could have left changed: limits, freezing, membership and signal state of every workload, and every
//! group of the test with its writable files. Two of them are compared line by line.

use std::collections::BTreeMap;
use std::fs;

use super::group::{Group, tree};
use super::process;

/// Files memgov, or a part of it, could have written.
const FILES: [&str; 9] = [
    "memory.high",
    "memory.max",
    "memory.min",
    "memory.low",
    "memory.limit_in_bytes",
    "cgroup.freeze",
    "freezer.state",
    "pids.max",
    "cgroup.subtree_control",
];

/// A picture of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(BTreeMap<String, String>);

impl State {
    /// Takes one, of the tree below `top` in every hierarchy and of these processes.
    pub fn take(top: &Group, processes: &[i32]) -> Self {
        let mut seen = BTreeMap::new();
        for &pid in processes {
            let mut add = |what: &str, value: Option<String>| {
                seen.insert(format!("{pid} {what}"), value.unwrap_or_else(|| "gone".to_owned()));
            };
            add("limits", process::limits(pid));
            add("groups", process::groups(pid));
            add("run state", process::state(pid).map(run_state));
            for name in ["SigBlk", "SigIgn", "SigCgt", "Uid"] {
                add(name, process::status(pid, name));
            }
        }
        for dir in top.dirs().iter().flat_map(|dir| tree(dir)) {
            seen.insert(dir.display().to_string(), "exists".to_owned());
            for file in FILES {
                let path = dir.join(file);
                if let Ok(text) = fs::read_to_string(&path) {
                    seen.insert(path.display().to_string(), text.trim_end().to_owned());
                }
            }
        }
        Self(seen)
    }

    /// What differs, each `name: before -> after`.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let absent = "absent".to_owned();
        let keys = self.0.keys().chain(after.0.keys().filter(|key| !self.0.contains_key(*key)));
        keys.filter_map(|key| {
            let (before, now) = (self.0.get(key).unwrap_or(&absent), after.0.get(key).unwrap_or(&absent));
            (before != now).then(|| format!("{key}: {before} -> {now}"))
        })
        .collect()
    }
}

/// Running, sleeping and waiting alternate by themselves; stopped, traced and dead do not.
fn run_state(letter: char) -> String {
    match letter {
        'R' | 'S' | 'D' | 'I' => "live".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_both_sides() {
        let of = |pairs: &[(&str, &str)]| {
            State(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let before = of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let after = of(&[("a", "1"), ("b", "9"), ("d", "4")]);
        assert_eq!(before.differences(&after), ["b: 2 -> 9", "c: 3 -> absent", "d: absent -> 4"]);
        assert!(before.differences(&before).is_empty());
    }
}
