//! The group that `memgov exec` makes for its command: `memgov.exec/NAME-PID` at the root of the memory hierarchy, or, for
//! users other than root, inside what is delegated to them. On v2 the memory controller is enabled along that path and
//! nowhere else.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memgov_decide::units::Limit;

use crate::kernel::Error;
use crate::kernel::layout::{Layout, MemoryVersion};

const FOLDER: &str = "memgov.exec";

/// A group that this process has made.
#[derive(Debug)]
pub(crate) struct ExecGroup {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Its path from the root of the memory hierarchy.
    pub(crate) path: String,
    version: MemoryVersion,
}

impl ExecGroup {
    /// Makes it.
    pub(crate) fn make(layout: &Layout, uid: u32, name: &str) -> anyhow::Result<Self> {
        let base = base(layout, uid)?;
        let folder = base.join(FOLDER);
        if layout.version == MemoryVersion::V2 {
            enable_memory(&base)?;
        }
        make(&folder)?;
        if layout.version == MemoryVersion::V2 {
            enable_memory(&folder)?;
        }
        let dir = folder.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| Error::new("making the group", &dir, e))?;
        let below = dir.strip_prefix(&layout.memory.mount).unwrap_or(&dir);
        let path = format!("/{}", below.to_string_lossy());
        Ok(Self { dir, path, version: layout.version })
    }

    /// `memory.max`, or its v1 kin.
    pub(crate) fn set_max(&self, max: Limit) -> Result<(), Error> {
        match self.version {
            MemoryVersion::V2 => self.write("memory.max", &limit_text(max, "max")),
            MemoryVersion::V1 => self.write("memory.limit_in_bytes", &limit_text(max, "-1")),
        }
    }

    /// `memory.high`; `false` where the kernel has none and the daemon must keep it.
    pub(crate) fn set_high(&self, high: Limit) -> Result<bool, Error> {
        match self.version {
            MemoryVersion::V2 => self.write("memory.high", &limit_text(high, "max")).map(|()| true),
            MemoryVersion::V1 => Ok(false),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        write(&self.dir.join(name), text)
    }

    /// Removes it. A process that has just died is counted for a moment still; one that lives on keeps the group.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match fs::remove_dir(&self.dir) {
                Err(error) if tries < 50 && error.kind() == io::ErrorKind::ResourceBusy => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        // The folder goes with the last group in it.
        if let Some(folder) = self.dir.parent() {
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

/// Moves this process into a group: the child does that itself, before it becomes the command.
pub(crate) fn enter(dir: &Path) -> Result<(), Error> {
    write(&dir.join("cgroup.procs"), "0")
}

fn limit_text(limit: Limit, none: &str) -> String {
    limit.bytes().map_or_else(|| none.to_owned(), |bytes| bytes.0.to_string())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| Error::new("writing", path, e))
}

fn make(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::new("making the group", dir, e)),
        _ => Ok(()),
    }
}

/// Whether `file` of `dir` (a list of controllers) has memory.
fn lists_memory(dir: &Path, file: &str) -> bool {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.split_ascii_whitespace().any(|name| name == "memory")
}

fn enable_memory(dir: &Path) -> anyhow::Result<()> {
    if lists_memory(dir, "cgroup.subtree_control") {
        return Ok(());
    }
    write(&dir.join("cgroup.subtree_control"), "+memory").map_err(|error| {
        let why = match error.errno() {
            Some(rustix::io::Errno::BUSY) => {
                "; processes stand in this group itself, and v2 allows that only in leaves"
            }
            Some(rustix::io::Errno::NOENT) => "; the memory controller is not handed down to it",
            _ => "",
        };
        anyhow::anyhow!("cannot enable the memory controller: {error}{why}")
    })
}

/// Below which directory the folder is made: the root of the hierarchy for root, else the nearest group at or above our own that
/// is ours and, on v2, hands the memory controller down.
fn base(layout: &Layout, uid: u32) -> anyhow::Result<PathBuf> {
    let mount = &layout.memory.mount;
    if uid == 0 {
        return Ok(mount.clone());
    }
    let own = layout.own.memory.as_deref().unwrap_or(b"/");
    let own = mount.join(OsStr::from_bytes(own.strip_prefix(b"/").unwrap_or(own)));
    let is_ours = |dir: &Path| {
        let owned = fs::metadata(dir).is_ok_and(|m| m.uid() == uid);
        owned && (layout.version == MemoryVersion::V1 || lists_memory(dir, "cgroup.subtree_control"))
    };
    let found = own.ancestors().take_while(|dir| dir.starts_with(mount)).find(|dir| is_ours(dir));
    found.map(Path::to_path_buf).ok_or_else(|| {
        anyhow::anyhow!(
            "no group above {} is delegated to you (uid {uid}) with the memory controller; run it as root, or inside \
             `systemd-run --user --scope -p Delegate=yes`",
            own.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::layout::{Hierarchy, MountedRoots, OwnGroups};

    fn layout(mount: &Path, own: &[u8], version: MemoryVersion) -> Layout {
        Layout {
            memory: Hierarchy { mount: mount.into(), root: (*b"/").into() },
            version,
            unified: None,
            freezer: None,
            pids: None,
            own: OwnGroups { memory: Some(own.into()), ..OwnGroups::default() },
            roots: MountedRoots::default(),
        }
    }

    #[test]
    fn a_user_gets_the_nearest_group_that_hands_memory_down() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("user.slice/app.slice/x.service");
        fs::create_dir_all(&own).unwrap();
        let uid = fs::metadata(&own).unwrap().uid();
        // Root stands for the user here: what is tested is the walk, and files of this test belong to whoever runs it.
        let find =
            |version, uid| base(&layout(root.path(), b"/user.slice/app.slice/x.service", version), uid);
        fs::write(root.path().join("user.slice/cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        fs::write(root.path().join("user.slice/app.slice/cgroup.subtree_control"), "cpu pids\n").unwrap();
        if uid != 0 {
            assert_eq!(find(MemoryVersion::V2, uid).unwrap(), root.path().join("user.slice"));
            assert_eq!(find(MemoryVersion::V1, uid).unwrap(), own);
        } else {
            assert_eq!(find(MemoryVersion::V2, 0).unwrap(), root.path());
        }
        let error = find(MemoryVersion::V2, uid + 1).unwrap_err().to_string();
        assert!(error.contains("systemd-run --user --scope"), "{error}");
    }
}
