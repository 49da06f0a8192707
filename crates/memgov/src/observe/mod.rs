//! Reading: what is true now, into the [`Snapshot`]'s tables. Events only say where to look; what counts is what is read.
//!
//! Files stay open, buffers are fixed, and a row keeps its slot, so looking again at what is known allocates nothing.
//! Discovering a new group or process does. Nothing here compares with a limit or touches the system.

mod births;
mod discovery;
mod groups;
pub mod kernel_memory;
mod lines;
mod memory;
mod overlay;
mod pressure;
mod processes;
mod sentry;
pub mod sockets;
mod upkeep;
mod wake;
mod witness;

pub use births::set_control;
pub use processes::Own;
pub use wake::Woken;

use std::os::fd::BorrowedFd;

use memgov_decide::governor::Governor;
use memgov_decide::snapshot::{GroupSlot, ProcessSlot, Snapshot};
use memgov_decide::units::Time;

use crate::act::GroupDirs;
use crate::bpf::GroupPass;
use crate::kernel::{Error, GroupDir, Layout};
use crate::record::trace::Tape;
use discovery::{Concerns, Folders};
use groups::GroupRows;
use overlay::Overlay;
use processes::ProcessRows;
use wake::Wake;

/// Bytes for one read: `/proc/PID/status` and a good piece of `cgroup.procs`.
const BUFFER: usize = 16 << 10;

/// Eyes: open directories and files of everything that has a row, and the kernel's notifications.
pub struct Observer {
    layout: Layout,
    groups: GroupRows,
    overlay: Overlay,
    processes: ProcessRows,
    folders: Folders,
    memory: memory::HostMemory,
    wake: Wake,
    concerns: Concerns,
    settings: births::Settings,
    due: upkeep::Due,
    buffer: Box<[u8]>,
    /// Pids of one listing, and groups whose listing is due: room that is kept.
    listed: Vec<u32>,
    sweeps: Vec<GroupSlot>,
}

impl GroupDirs for Observer {
    fn dir(&self, slot: GroupSlot) -> Option<&GroupDir> {
        self.groups.dir(slot)
    }
}

impl Observer {
    /// Opens the notifications; sees nothing yet.
    ///
    /// # Errors
    /// If epoll or inotify cannot be had at all.
    pub fn new(layout: Layout, own: Own, groups: u32, processes: u32) -> Result<Self, Error> {
        let wake = Wake::new(groups)?;
        Ok(Self {
            groups: GroupRows::with_capacity(groups),
            overlay: Overlay::default(),
            processes: ProcessRows::with_capacity(processes, own),
            folders: Folders::default(),
            memory: memory::HostMemory::default(),
            wake,
            layout,
            concerns: Concerns::default(),
            settings: births::Settings::default(),
            due: upkeep::Due::default(),
            buffer: vec![0; BUFFER].into(),
            listed: Vec::with_capacity(processes as usize),
            sweeps: Vec::with_capacity(groups as usize),
        })
    }

    /// The hierarchies it looks at.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// From now on, many groups that are due at once are read in one pass of this.
    pub fn read_in_one_pass(&mut self, pass: GroupPass) {
        self.overlay = Overlay::over(pass);
    }

    /// Another guardian, or none: it is memgov's own.
    pub fn set_guardian(&mut self, guardian: Option<u32>) {
        self.processes.set_guardian(guardian);
    }

    /// Looks at a group as soon as it is refused a process by the limit in this directory.
    pub fn hear_refusals(&mut self, slot: GroupSlot, pids: BorrowedFd<'_>) {
        self.wake.watch_refusals(slot, pids);
    }

    /// And no more.
    pub fn ignore_refusals(&mut self, slot: GroupSlot) {
        self.wake.ignore_refusals(slot);
    }

    /// Reads the rows that are due.
    pub fn look(
        &mut self,
        snap: &mut Snapshot,
        groups: &[GroupSlot],
        processes: &[ProcessSlot],
        governor: &Governor,
        tape: &mut Tape,
    ) {
        self.groups.lay(&mut self.overlay, groups.len(), snap.at);
        for &slot in groups {
            self.groups.look(slot, snap, &mut self.buffer, governor, &self.overlay, tape);
        }
        self.overlay.lift();
        for &slot in processes {
            self.processes.look(slot, snap, &mut self.buffer, tape);
        }
        // What was read may change whose processes are wanted.
        self.due.sweep |= !snap.fresh_groups.is_empty();
    }

    /// Forgets what hung on rows that are gone; call before [`Snapshot::end`] frees them. Whether a group went.
    pub fn clear_gone(&mut self, snap: &Snapshot) -> bool {
        let mut groups_went = false;
        for &slot in &snap.fresh_groups {
            if let Some(group) = snap.group(slot).filter(|g| g.gone) {
                self.groups.close(slot, &group.path, &mut self.wake);
                groups_went = true;
            }
        }
        for &slot in &snap.fresh_processes {
            if let Some(process) = snap.process(slot)
                && process.gone
            {
                self.processes.close(slot, process.id.pid);
                self.forget(process.id);
            }
        }
        groups_went
    }

    /// When a sweep of processes or a new look at directories that could not be watched is due next.
    pub fn deadline(&self) -> Time {
        self.groups.sweep_due().min(self.folders.rescan_due()).min(self.due.next())
    }
}
