//! Which group's `pids.max` counts exactly the processes of a group: on v2 it is the group itself, on v1 one of another hierarchy, if there is one.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use memgov_decide::snapshot::Group;

use super::super::ledger::MAX_PATH;
use super::super::{Kit, paths};
use super::{Failure, failed};
use crate::kernel::layout::{Controller, is_at_or_below};
use crate::kernel::{Errno, GroupDir, MemoryVersion, freeze, proc};

/// Room for looking; allocated once.
#[derive(Debug)]
pub struct Finder {
    /// Of what was found last.
    path: Vec<u8>,
    line: Box<[u8]>,
    below: Box<[u8]>,
}

impl Default for Finder {
    fn default() -> Self {
        Self {
            path: Vec::with_capacity(MAX_PATH),
            line: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
            below: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
        }
    }
}

impl Finder {
    /// The absolute path of what was found last.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The group whose `pids.max` counts exactly the processes of the last sweep. On v1 the group of the same path, if it is that (also where nobody is in it:
    /// whoever fills the one will fill the other, as systemd and container runtimes do); else the one that the first of them is in.
    pub fn find(&mut self, kit: &mut Kit, row: &Group, group: &GroupDir) -> Result<OwnedFd, Failure> {
        let mount = kit.layout.pids.as_deref().ok_or(failed(Errno::OPNOTSUPP))?;
        self.path.clear();
        extend(&mut self.path, mount.as_os_str().as_bytes())?;
        if kit.layout.version == MemoryVersion::V2 && kit.layout.is_unified(Controller::Pids) {
            extend(&mut self.path, &row.path)?;
            return freeze::open_group(group.dir(), c".").map_err(failed);
        }
        let (first, top) = (kit.sweep.pids().first().copied(), self.path.len());
        extend(&mut self.path, &row.path)?;
        let same = self.open_alone(kit, row, group);
        let (Some(first), Err(failure)) = (first, &same) else { return same };
        // Whoever is in it was put elsewhere, all into one.
        let found = paths::of_process(&kit.layout, Controller::Pids, first, &mut self.line, &mut self.below);
        let length = found.map_err(failed)?;
        if self.below[..length] == *row.path {
            return Err(*failure);
        }
        if &self.below[..length] == b"/" {
            // Everything that has no group of its own there: not this group's alone.
            return Err(failed(Errno::XDEV));
        }
        self.path.truncate(top);
        extend(&mut self.path, &self.below[..length])?;
        self.open_alone(kit, row, group)
    }

    /// What [`Finder::path`] names, if it is this group's alone.
    fn open_alone(&mut self, kit: &mut Kit, row: &Group, group: &GroupDir) -> Result<OwnedFd, Failure> {
        let dir = paths::open_path(&self.path).map_err(failed)?;
        self.is_its_alone(kit, row, group, dir.as_fd())?;
        Ok(dir)
    }

    /// Whether nobody else is in the pids group, and all of the group, as last swept, are. `XDEV`: no.
    pub fn is_its_alone(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        group: &GroupDir,
        pids: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let members = kit.sweep.pids().len();
        kit.sweep.collect(pids).map_err(failed)?;
        let mut others = 0;
        for i in 0..kit.sweep.pids().len() {
            let pid = kit.sweep.pids()[i];
            let found =
                paths::of_process(&kit.layout, Controller::Memory, pid, &mut self.line, &mut self.below);
            // Whoever cannot be found has gone meanwhile.
            let Ok(length) = found else { continue };
            if is_at_or_below(&self.below[..length], &row.path) {
                continue;
            }
            // Who ends is in the root group of v1 already, whoever he was.
            let mut buffer = [0; proc::STAT_BUFFER];
            others += usize::from(proc::read_stat(pid, &mut buffer).is_ok_and(|stat| !stat.is_ending()));
        }
        let counted = kit.sweep.pids().len();
        kit.sweep.collect(group.dir()).map_err(|_| failed(Errno::NODEV))?;
        // A few are born or die between the two looks; a group that is spread over several is another thing.
        if others > 0 || counted * 2 < members { Err(failed(Errno::XDEV)) } else { Ok(()) }
    }
}

/// Allocates nothing.
fn extend(path: &mut Vec<u8>, part: &[u8]) -> Result<(), Failure> {
    if path.len() + part.len() > path.capacity() {
        return Err(failed(Errno::NAMETOOLONG));
    }
    path.extend_from_slice(part);
    Ok(())
}
