//! What there is to see in the moment before a kill: of the group that is hit, of the one that is short, of the host, and of the largest processes. Kept as
//! the kernel wrote it, in a box made beforehand; what it means is read out of it behind the loop (`record`). Every look is bounded: a number of files, a
//! number of processes, and no more of each than there is room for. The kill waits for it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memgov_decide::decision::{Decision, DecisionId, Reason, Target};
use memgov_decide::snapshot::{GroupSlot, ProcessId, Rss, Snapshot};

use super::{Aim, GroupDirs, Kit};
use crate::kernel::file;
use crate::kernel::proc;

/// The beginning of a file.
#[derive(Debug)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    /// A file of the kernel that is longer than a page comes in pieces; three are enough for the longest here.
    const PIECES: usize = 3;

    /// What was read; empty where there is no such file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn read(&mut self, fd: impl AsFd) {
        self.len = 0;
        for _ in 0..Self::PIECES {
            let rest = &mut self.bytes[self.len..];
            let at = self.len as u64;
            match rustix::io::retry_on_intr(|| rustix::io::pread(fd.as_fd(), &mut *rest, at)) {
                Ok(0) | Err(_) => return,
                Ok(read) => self.len += read,
            }
        }
    }

    fn read_in(&mut self, dir: BorrowedFd<'_>, name: &CStr) {
        self.len = 0;
        if let Ok(fd) = file::open_in(dir, name) {
            self.read(fd);
        }
    }
}

/// Files of a group with one number each, of either version: what is in use, and what bounds it.
pub const NUMBERS: [&CStr; 13] = [
    c"memory.current",
    c"memory.swap.current",
    c"memory.min",
    c"memory.low",
    c"memory.high",
    c"memory.max",
    c"memory.swap.max",
    c"memory.usage_in_bytes",
    c"memory.memsw.usage_in_bytes",
    c"memory.kmem.usage_in_bytes",
    c"memory.soft_limit_in_bytes",
    c"memory.limit_in_bytes",
    c"memory.memsw.limit_in_bytes",
];

/// A group.
#[derive(Debug, Default)]
pub struct GroupSeen {
    /// Its path; `None`: nothing was looked at.
    pub path: Option<Arc<[u8]>>,
    /// What is in each of [`NUMBERS`].
    pub numbers: [Text<24>; NUMBERS.len()],
    /// `memory.stat`.
    pub stat: Text<4096>,
    /// `memory.events`, v1 `memory.oom_control`.
    pub events: Text<512>,
    /// `memory.pressure`.
    pub pressure: Text<256>,
}

impl GroupSeen {
    fn look(&mut self, slot: Option<GroupSlot>, snap: &Snapshot, groups: &dyn GroupDirs) {
        self.path = None;
        let Some((slot, row)) = slot.and_then(|slot| Some((slot, snap.group(slot)?))) else { return };
        let Some(dir) = groups.dir(slot).filter(|dir| dir.id() == row.id) else { return };
        let dir = dir.dir();
        for (text, name) in self.numbers.iter_mut().zip(NUMBERS) {
            text.read_in(dir, name);
        }
        self.stat.read_in(dir, c"memory.stat");
        self.events.read_in(dir, c"memory.events");
        if self.events.as_bytes().is_empty() {
            self.events.read_in(dir, c"memory.oom_control");
        }
        self.pressure.read_in(dir, c"memory.pressure");
        self.path = Some(Arc::clone(&row.path));
    }
}

/// A process of the group that is hit.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSeen {
    /// Who.
    pub who: ProcessId,
    /// Its name.
    pub comm: [u8; 16],
    /// What it has in memory, in pages, as far as that has been added up: what it is ranked by.
    pub resident: u64,
    /// The same by kind.
    pub rss: Rss,
}

/// So many are kept, the largest first.
pub const LARGEST: usize = 10;
/// So many processes are looked at for that.
const LOOKED_AT: usize = 128;

/// All of it.
#[derive(Debug, Default)]
pub struct Situation {
    /// Before which.
    pub decision: DecisionId,
    /// The group that is hit, whole or in part.
    pub target: GroupSeen,
    /// The group that is short, where that is another.
    pub short: GroupSeen,
    /// `/proc/meminfo`.
    pub meminfo: Text<2048>,
    /// `/proc/vmstat`.
    pub vmstat: Text<8192>,
    /// `/proc/pressure/memory`.
    pub pressure: Text<256>,
    /// The largest of the target's processes.
    pub largest: [Option<ProcessSeen>; LARGEST],
    /// How many were looked at for that.
    pub looked_at: u32,
    /// How many there were beside them.
    pub left_out: u32,
}

impl Situation {
    fn place(&mut self, seen: ProcessSeen) {
        let smaller = |known: &Option<ProcessSeen>| known.is_none_or(|known| known.resident < seen.resident);
        if let Some(at) = self.largest.iter().position(smaller) {
            self.largest[at..].rotate_right(1);
            self.largest[at] = Some(seen);
        }
    }

    fn look_at_processes(&mut self, kit: &mut Kit, at: &Aim<'_>) {
        (self.largest, self.looked_at, self.left_out) = ([None; LARGEST], 0, 0);
        if at.sweep_around(kit).is_err() {
            return;
        }
        let mut buffer = [0; proc::STATUS_BUFFER];
        let pids = kit.sweep.pids();
        for &pid in pids.iter().take(LOOKED_AT) {
            let Ok(stat) = proc::read_stat(pid, &mut buffer) else { continue };
            self.looked_at += 1;
            let resident = stat.resident.unwrap_or(0);
            self.place(ProcessSeen { who: stat.id(), comm: stat.comm, resident, rss: Rss::default() });
        }
        let left_out = u32::try_from(pids.len().saturating_sub(LOOKED_AT)).unwrap_or(u32::MAX);
        self.left_out = left_out.saturating_add(kit.sweep.overflow());
        for seen in self.largest.iter_mut().flatten() {
            seen.rss = proc::read_rss(seen.who.pid, &mut buffer).unwrap_or_default();
        }
    }
}

/// The host's files, kept open: where descriptors or memory run short they are there.
#[derive(Debug, Default)]
pub(super) struct HostFiles {
    meminfo: Option<OwnedFd>,
    vmstat: Option<OwnedFd>,
    pressure: Option<OwnedFd>,
}

impl HostFiles {
    pub(super) fn open() -> Self {
        // What is not there is not seen.
        let open = |path| file::open(path).ok();
        Self {
            meminfo: open(c"/proc/meminfo"),
            vmstat: open(c"/proc/vmstat"),
            pressure: open(c"/proc/pressure/memory"),
        }
    }

    /// Looks at everything before this decision is carried out.
    pub(super) fn look(&self, kit: &mut Kit, at: &Aim<'_>, seen: &mut Situation) {
        seen.decision = at.decision.id;
        let target = target_group(at.decision, at.snap);
        let short = short_group(&at.decision.reason).filter(|&slot| Some(slot) != target);
        seen.target.look(target, at.snap, at.groups);
        seen.short.look(short, at.snap, at.groups);
        read_if_open(&mut seen.meminfo, self.meminfo.as_ref());
        read_if_open(&mut seen.vmstat, self.vmstat.as_ref());
        read_if_open(&mut seen.pressure, self.pressure.as_ref());
        seen.look_at_processes(kit, at);
    }
}

fn read_if_open<const N: usize>(text: &mut Text<N>, fd: Option<&OwnedFd>) {
    text.len = 0;
    if let Some(fd) = fd {
        text.read(fd);
    }
}

fn target_group(decision: &Decision, snap: &Snapshot) -> Option<GroupSlot> {
    match decision.target {
        Target::Group(_, slot) => Some(slot),
        Target::Process(_, slot) => snap.process(slot).and_then(|row| row.group),
        Target::Host => None,
    }
}

/// Whose memory the reason compares.
fn short_group(reason: &Reason) -> Option<GroupSlot> {
    match *reason {
        Reason::Usage { group, .. }
        | Reason::Kernel { group, .. }
        | Reason::Sockets { group, .. }
        | Reason::Pool { group, .. }
        | Reason::UsageAndRss { group, .. } => Some(group),
        Reason::Available { group, .. } => group,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_in_order() {
        let mut seen = Situation::default();
        for resident in [3, 9, 1, 7, 12, 5, 11, 2, 8, 6, 10, 4] {
            let who = ProcessId { pid: 1, start: resident };
            seen.place(ProcessSeen { who, comm: [0; 16], resident, rss: Rss::default() });
        }
        let kept: Vec<u64> = seen.largest.iter().flatten().map(|seen| seen.resident).collect();
        assert_eq!(kept, [12, 11, 10, 9, 8, 7, 6, 5, 4, 3]);
    }

    #[test]
    fn a_file_of_more_than_a_page_is_read_to_its_end() {
        let files = HostFiles::open();
        let mut vmstat = Text::<8192>::default();
        read_if_open(&mut vmstat, files.vmstat.as_ref());
        let whole = std::fs::read_to_string("/proc/vmstat").unwrap();
        let lines = vmstat.as_bytes().iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(lines, whole.lines().count(), "{} of about {} bytes", vmstat.len, whole.len());
        read_if_open(&mut vmstat, None);
        assert!(vmstat.as_bytes().is_empty(), "what was seen before is not what is seen now");
    }
}
