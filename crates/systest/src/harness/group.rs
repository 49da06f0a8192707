//! Scratch groups: `memgov-t-<pid>-<n>` at the top of each hierarchy, and groups below it. A workload is put into the group
//! of the same name everywhere, so whatever memgov does to it (hold groups included) happens below a scratch group.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::host::{Host, Version};
use super::poll_until;
use crate::sys::signal;

/// One group, in the memory hierarchy and, under the same path, in the others.
#[derive(Clone, Debug)]
pub struct Group {
    version: Version,
    path: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Makes the group `path` (from the top, with its parents made before) in all hierarchies.
    pub fn make(host: &Host, path: &Path) -> Result<Self> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let dirs: Vec<PathBuf> = host.hierarchies().map(|top| top.join(below)).collect();
        for dir in &dirs {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(Self { version: host.version, path: Path::new("/").join(below), dirs })
    }

    /// Lets groups below have limits of their own, of memory and, where there is the controller, of processes (v2).
    pub fn delegate_memory(&self) -> Result<()> {
        match self.version {
            Version::V1 => Ok(()),
            Version::V2 => {
                let _none = self.write("cgroup.subtree_control", "+pids");
                self.write("cgroup.subtree_control", "+memory")
            }
        }
    }

    /// As rules name it.
    pub fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
    /// Its directory in the memory hierarchy.
    pub fn dir(&self) -> &Path {
        &self.dirs[0]
    }
    /// Its directories in all hierarchies.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }
    /// The file with its usage.
    pub fn usage_file(&self) -> PathBuf {
        self.dir().join(self.spelled("memory.usage_in_bytes", "memory.current"))
    }
    fn spelled<'a>(&self, v1: &'a str, v2: &'a str) -> &'a str {
        if self.version == Version::V1 { v1 } else { v2 }
    }

    /// Usage now.
    pub fn usage(&self) -> Result<u64> {
        self.number(self.spelled("memory.usage_in_bytes", "memory.current"))
    }
    /// The most there ever was; `None` where the kernel does not keep it.
    pub fn peak(&self) -> Option<u64> {
        self.number(self.spelled("memory.max_usage_in_bytes", "memory.peak")).ok()
    }
    /// The text of every limit it has.
    pub fn limits(&self) -> String {
        let names = [
            "memory.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.max",
        ];
        let more = [
            "memory.high",
            "memory.low",
            "memory.min",
            "memory.swap.max",
            "memory.swap.high",
            "memory.swappiness",
        ];
        let text = |name: &&str| Some(format!("{name}={}", self.read(name).ok()?.trim()));
        names.iter().chain(&more).filter_map(text).collect::<Vec<_>>().join(" ")
    }
    /// A number of `memory.stat`.
    pub fn stat(&self, key: &str) -> Result<u64> {
        self.keyed("memory.stat", key)
    }
    /// Sets the hard limit.
    pub fn set_max(&self, bytes: u64) -> Result<()> {
        self.write(self.spelled("memory.limit_in_bytes", "memory.max"), &bytes.to_string())
    }
    /// Sets memory.high; on v1 there is none.
    pub fn set_high(&self, bytes: u64) -> Result<()> {
        self.write("memory.high", &bytes.to_string())
    }
    /// Kernel memory of it and all below it, as the kernel's own file says.
    pub fn kernel(&self) -> Result<u64> {
        match self.version {
            Version::V1 => self.number("memory.kmem.usage_in_bytes"),
            Version::V2 => self.keyed("memory.stat", "kernel"),
        }
    }
    /// What the buffers of sockets hold, as the kernel's own file says: v1 of TCP alone.
    pub fn sockets(&self) -> Result<u64> {
        match self.version {
            Version::V1 => self.number("memory.kmem.tcp.usage_in_bytes"),
            Version::V2 => self.keyed("memory.stat", "sock"),
        }
    }
    /// A count of `memory.events` (v2).
    pub fn event(&self, key: &str) -> Result<u64> {
        self.keyed("memory.events", key)
    }
    /// Processes the kernel's OOM killer took here.
    pub fn oom_kills(&self) -> Result<u64> {
        self.keyed(self.spelled("memory.oom_control", "memory.events"), "oom_kill")
    }
    /// How often the hard limit was hit.
    pub fn max_events(&self) -> Result<u64> {
        match self.version {
            Version::V1 => self.number("memory.failcnt"),
            Version::V2 => self.keyed("memory.events", "max"),
        }
    }

    /// A control file's text.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.dir().join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }
    /// Writes a control file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir().join(file);
        fs::write(&path, text).with_context(|| format!("writing {text} to {}", path.display()))
    }
    fn number(&self, file: &str) -> Result<u64> {
        let text = self.read(file)?;
        text.trim().parse().with_context(|| format!("{file} says {text:?}"))
    }
    fn keyed(&self, file: &str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).ok_or_else(|| anyhow!("{file} has no {key}: {text:?}"))
    }

    /// Its `cgroup.procs` files, open for a process that is about to enter.
    pub fn doors(&self) -> Result<Vec<OwnedFd>> {
        let open = |dir: &PathBuf| {
            let path = dir.join("cgroup.procs");
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.map(OwnedFd::from).with_context(|| format!("opening {}", path.display()))
        };
        self.dirs.iter().map(open).collect()
    }
    /// Processes in it, by the memory hierarchy.
    pub fn processes(&self) -> Vec<i32> {
        members(self.dir())
    }
    /// Whether a freezer holds it or a group below it, in any hierarchy.
    pub fn is_frozen(&self) -> bool {
        self.dirs.iter().flat_map(|dir| tree(dir)).any(|dir| {
            let says = |file: &str, text: &str| {
                fs::read_to_string(dir.join(file)).is_ok_and(|got| got.trim() == text)
            };
            says("cgroup.freeze", "1") || says("freezer.state", "FROZEN") || says("freezer.state", "FREEZING")
        })
    }

    /// Kills what is in it and below, and removes it everywhere.
    pub fn remove(&self) -> Result<()> {
        remove_trees(&self.dirs)
    }
}

/// Processes listed in a directory's `cgroup.procs`.
pub fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect()
}

/// The directory and all below it, deepest first. Steps down by path relative to each directory would be needed for paths
/// the kernel refuses as too long; scratch groups of such depth are removed through shorter ones by their test.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(tree(&entry.path()));
            }
        }
        found.push(dir.to_owned());
    }
    found
}

/// A fork bomb takes an emulated processor seconds to take apart.
const EMPTIED: Duration = Duration::from_secs(30);

/// All hierarchies in one go: what a v1 freezer holds dies only when that is thawed, and leaves its memory group only then.
fn remove_trees(tops: &[PathBuf]) -> Result<()> {
    let emptied = poll_until(EMPTIED, Duration::from_millis(5), || {
        let groups: Vec<PathBuf> = tops.iter().flat_map(|top| tree(top)).collect();
        let mut left = 0;
        for group in &groups {
            for pid in members(group) {
                left += 1;
                // It may have died by itself since it was listed.
                let _gone = signal::send(pid, libc::SIGKILL);
            }
            // Each file exists in one kind of hierarchy only.
            let _other_kind = fs::write(group.join("cgroup.freeze"), "0");
            let _other_kind = fs::write(group.join("freezer.state"), "THAWED");
        }
        let removed = groups.iter().filter(|group| fs::remove_dir(group).is_ok()).count();
        (left == 0 && removed == groups.len()).then_some(())
    });
    emptied.ok_or_else(|| {
        let left: Vec<String> =
            tops.iter().flat_map(|top| tree(top)).map(|dir| dir.display().to_string()).collect();
        anyhow!("could not be emptied and removed in {EMPTIED:?}: {}", left.join(", "))
    })
}

/// Removes all groups at the top of any hierarchy whose name starts so.
pub fn remove_all(host: &Host, prefix: &str) -> Result<()> {
    let mut found = Vec::new();
    for top in host.hierarchies() {
        for entry in fs::read_dir(top).with_context(|| format!("listing {}", top.display()))?.flatten() {
            if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    remove_trees(&found)
}

/// A path with one component more, of any bytes.
pub fn below(path: &Path, component: &[u8]) -> PathBuf {
    path.join(OsStr::from_bytes(component))
}
