//! How long the tasks of a group have waited for memory, and how often a limit was met for its sake ([`Stall`]). For the loop: files are kept open where a rule asks for them.
//!
//! On v1 the kernel keeps pressure for groups of the unified hierarchy only (kernel/cgroup/cgroup.c, `cgroup_psi_files`): the one of the same path is read, as systemd and
//! container runtimes make it beside the other. Where there is none nothing is known.

use super::{GroupDir, v1, v2, walk_in};
use crate::kernel::layout::{Layout, MemoryVersion};
use crate::kernel::vmstat::{Vmstat, came_back};
use crate::kernel::{Errno, file, psi, text};
use memgov_decide::pressure::Stall;
use memgov_decide::units::Time;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PRESSURE: &CStr = c"memory.pressure";
const LOCAL_EVENTS: &CStr = c"memory.events.local";
/// On v1 the group of the same path may come later.
const AGAIN: Duration = Duration::from_secs(2);

/// The files, open.
#[derive(Debug)]
pub(super) struct StallFiles {
    place: PathBuf,
    pressure: Option<OwnedFd>,
    tried: Time,
    /// Of the group and of those above it.
    limits: Vec<OwnedFd>,
    /// v2: memory.stat.
    stat: Option<OwnedFd>,
}

impl GroupDir {
    /// Opens what says how long it waits, or closes it. `path`: its own.
    pub fn keep_stall(&mut self, layout: &Layout, path: &[u8], keep: bool) {
        if !keep {
            self.stall = None;
        } else if self.stall.is_none() {
            let mount = match layout.version {
                MemoryVersion::V2 => Some(&layout.memory.mount),
                MemoryVersion::V1 => layout.unified.as_ref(),
            };
            self.stall = mount.map(|mount| Box::new(StallFiles::open(layout, mount, path)));
        }
    }

    /// Where its pressure is told, if that is there.
    pub fn pressure_file(&self) -> Option<&Path> {
        let files = self.stall.as_ref()?;
        files.pressure.as_ref().map(|_| files.place.as_path())
    }

    /// How long it has waited. `Ok(None)`: nobody asks. `buffer`: all of memory.stat, 8 KiB do.
    ///
    /// # Errors
    /// If a file of the group cannot be read: it is gone.
    pub fn read_stall(
        &mut self,
        at: Time,
        vmstat: &mut Vmstat,
        buffer: &mut [u8],
    ) -> Result<Option<Stall>, Errno> {
        let Some(files) = &mut self.stall else { return Ok(None) };
        if files.pressure.is_none() && at.since(files.tried) >= AGAIN {
            files.tried = at;
            files.pressure = open_path(&files.place).ok();
        }
        let Some(pressure) = &files.pressure else { return Ok(Some(Stall::default())) };
        let waited = match file::pread(pressure, buffer) {
            Ok(text) => psi::waited(text),
            // The kernel was started without PSI; on v1 the other group may go first.
            Err(Errno::OPNOTSUPP) => None,
            Err(Errno::NODEV) if self.version == MemoryVersion::V1 => {
                files.pressure = None;
                None
            }
            Err(errno) => return Err(errno),
        };
        let mut met = vmstat.scans(at, buffer).direct;
        for fd in &files.limits {
            let text = file::pread(fd, buffer)?;
            let here = match self.version {
                MemoryVersion::V1 => v1::parse_failcnt(text),
                MemoryVersion::V2 => local_events(text),
            };
            met = met.zip(here).map(|(sum, here)| sum.wrapping_add(here));
        }
        let came_back = match &files.stat {
            Some(stat) => text::lines(file::pread(stat, buffer)?)
                .filter_map(came_back)
                .reduce(|a, b| a.saturating_add(b)),
            None => None,
        };
        Ok(Some(Stall { waited, met, came_back, watched: false }))
    }
}

/// `high` and `max`: reclaim that the group's own limits asked of its tasks.
fn local_events(text: &[u8]) -> Option<u64> {
    let high = text::keyed(text, b"high")?;
    Some(high.wrapping_add(text::keyed(text, b"max")?))
}

impl StallFiles {
    fn open(layout: &Layout, mount: &Path, path: &[u8]) -> Self {
        let below = OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path));
        let place = mount.join(below).join(OsStr::from_bytes(PRESSURE.to_bytes()));
        let name = match layout.version {
            MemoryVersion::V1 => v1::FAILCNT,
            MemoryVersion::V2 => LOCAL_EVENTS,
        };
        let stat = match layout.version {
            MemoryVersion::V1 => None,
            MemoryVersion::V2 => {
                let dir = walk_in(&layout.memory.mount, path);
                dir.and_then(|dir| file::open_if_there(dir.as_fd(), v2::STAT)).ok().flatten()
            }
        };
        let mut limits = Vec::new();
        let mut end = path.len();
        // The root has no limit.
        while end > 0 {
            let dir = walk_in(&layout.memory.mount, &path[..end]);
            limits.extend(dir.and_then(|dir| file::open_if_there(dir.as_fd(), name)).ok().flatten());
            end = path[..end].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        }
        Self { pressure: open_path(&place).ok(), place, tried: Time(0), limits, stat }
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limits_are_what_counts() {
        let events = b"low 1\nhigh 20\nmax 300\noom 4000\noom_kill 50000\noom_group_kill 0\n";
        assert_eq!(local_events(events), Some(320));
        assert_eq!(local_events(b"low 1\nhigh 20\n"), None, "cut off");
    }
}
