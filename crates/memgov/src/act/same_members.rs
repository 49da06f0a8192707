//! Which group of another controller has exactly the processes of a memory group: on v2 it is the group itself, on v1 one of that controller's hierarchy, if
//! there is one. What is done to it (`pids.max`, `freezer.state`) is done to those processes and nobody else.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use memgov_decide::snapshot::Group;

use super::ledger::MAX_PATH;
use super::{Kit, paths};
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

    /// The group of this controller that has exactly the processes of the last sweep. On v1 the group of the same path, if it is that (also where nobody is in it:
    /// whoever fills the one will fill the other, as systemd and container runtimes do); else the one that the first of them is in. `OPNOTSUPP`: the
    /// controller is nowhere; `XDEV`: others are in it, or not all of them.
    pub fn find(
        &mut self,
        kit: &mut Kit,
        controller: Controller,
        row: &Group,
        group: &GroupDir,
    ) -> Result<OwnedFd, Errno> {
        let mount = match controller {
            Controller::Memory => Some(kit.layout.memory.mount.as_path()),
            Controller::Unified => kit.layout.unified.as_deref(),
            Controller::Freezer => kit.layout.freezer.as_deref(),
            Controller::Pids => kit.layout.pids.as_deref(),
        };
        let mount = mount.ok_or(Errno::OPNOTSUPP)?;
        self.path.clear();
        paths::extend(&mut self.path, mount.as_os_str().as_bytes())?;
        if kit.layout.version == MemoryVersion::V2 && kit.layout.is_unified(controller) {
            paths::extend(&mut self.path, &row.path)?;
            return freeze::open_group(group.dir(), c".");
        }
        let (first, top) = (kit.sweep.pids().first().copied(), self.path.len());
        paths::extend(&mut self.path, &row.path)?;
        let same = self.open_alone(kit, row, group);
        let (Some(first), Err(errno)) = (first, &same) else { return same };
        // Whoever is in it was put elsewhere, all into one.
        let length = paths::of_process(&kit.layout, controller, first, &mut self.line, &mut self.below)?;
        if self.below[..length] == *row.path {
            return Err(*errno);
        }
        if &self.below[..length] == b"/" {
            // Everything that has no group of its own there: not this group's alone.
            return Err(Errno::XDEV);
        }
        self.path.truncate(top);
        paths::extend(&mut self.path, &self.below[..length])?;
        self.open_alone(kit, row, group)
    }

    /// What [`Finder::path`] names, if it is this group's alone.
    fn open_alone(&mut self, kit: &mut Kit, row: &Group, group: &GroupDir) -> Result<OwnedFd, Errno> {
        let dir = paths::open_path(&self.path)?;
        self.is_its_alone(kit, row, group, dir.as_fd())?;
        Ok(dir)
    }

    /// Whether nobody else is in that group, and all of the memory group, as last swept, are. `XDEV`: no.
    pub fn is_its_alone(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        group: &GroupDir,
        found: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let members = kit.sweep.pids().len();
        kit.sweep.collect(found)?;
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
        kit.sweep.collect(group.dir()).map_err(|_| Errno::NODEV)?;
        // A few are born or die between the two looks; a group that is spread over several is another thing.
        if others > 0 || counted * 2 < members { Err(Errno::XDEV) } else { Ok(()) }
    }
}
