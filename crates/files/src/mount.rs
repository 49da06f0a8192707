//! The mount point: one program at a time, and what a killed one has left there goes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};

use crate::groups::unescaped;

/// What is mounted, as mountinfo and `mount` show it: so one of ours is known.
pub const SOURCE: &str = "memgov-files";

/// The mount point, ours for as long as this lives.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    /// Held by lock; the kernel lets go of it however we end.
    _lock: File,
}

impl Place {
    /// Takes it. The mount itself is not looked at, only mountinfo: any look at what a killed or hung predecessor left would fail or hang.
    pub fn take(dir: &Path) -> Result<Self> {
        let (above, name) = match (dir.parent(), dir.file_name()) {
            (Some(above), Some(name)) if above.as_os_str().is_empty() => (Path::new("."), name),
            (Some(above), Some(name)) => (above, name),
            _ => bail!("{} cannot be mounted on: name a directory", dir.display()),
        };
        fs::create_dir_all(above).with_context(|| format!("making {}", above.display()))?;
        let above = above.canonicalize().with_context(|| format!("finding {}", above.display()))?;
        let dir = above.join(name);
        let mut beside = name.to_owned();
        beside.push(".lock");
        let beside = above.join(beside);
        let lock = File::create(&beside).with_context(|| format!("making {}", beside.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another memgov-files runs on {}", dir.display());
        }
        let place = Self { dir, _lock: lock };
        place.leave()?;
        match fs::create_dir(&place.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("making {}", place.dir.display()))
            }
            _ => Ok(place),
        }
    }

    /// Where.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts all of ours that is there, lazily: whoever is in it does not keep it.
    pub fn leave(&self) -> Result<()> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        for _ in 0..mounts_on(&mountinfo, &self.dir) {
            let left = unmount(&self.dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            left.with_context(|| format!("unmounting {}", self.dir.display()))?;
        }
        Ok(())
    }
}

/// How many of ours are mounted there, one over the other. What else is mounted above them hides them and is not ours to take away.
fn mounts_on(mountinfo: &str, dir: &Path) -> usize {
    let there = mountinfo.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let what = (back.next()?, back.next()?);
        (unescaped(front.split(' ').nth(4)?) == dir).then_some(what)
    });
    let there: Vec<(&str, &str)> = there.collect();
    there.iter().rev().take_while(|what| **what == ("fuse", SOURCE)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_and_on_top() {
        let line = |at: &str, kind: &str| format!("36 35 0:31 / {at} rw,nosuid - {kind} memgov-files rw\n");
        let ours = line("/run/a\\040b", "fuse");
        let count = |text: String| mounts_on(&text, Path::new("/run/a b"));
        assert_eq!(count(format!("{ours}{ours}")), 2);
        assert_eq!(count(format!("{}{ours}", line("/run/a\\040b", "ext4"))), 1);
        assert_eq!(count(format!("{ours}{}", line("/run/a\\040b", "ext4"))), 0);
        assert_eq!(count(line("/run", "fuse")), 0);
    }

    #[test]
    fn one_at_a_time() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("x/fs");
        let first = Place::take(&dir).unwrap();
        assert!(first.dir().is_dir());
        assert!(Place::take(&dir).unwrap_err().to_string().starts_with("another memgov-files"));
        drop(first);
        assert!(Place::take(&dir).is_ok());
        assert!(Place::take(Path::new("/")).is_err());
    }
}
