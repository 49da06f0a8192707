//! Rows of processes. `/proc/PID/status` stays open: a descriptor of it belongs to the process, not to the pid, so a
//! reused pid can never be read by mistake.

use std::collections::HashMap;
use std::time::Duration;

use memgov_decide::snapshot::{GroupSlot, Process, ProcessId, ProcessSlot, Snapshot, Untouchable};
use memgov_decide::units::Time;
use rustix::fd::OwnedFd;

use crate::kernel::roots::Roots;
use crate::kernel::{Errno, proc};
use crate::record::trace::Tape;

/// Facts of `/proc/PID/stat` and the process's group are read again at least so often.
const FACTS_AGE: Duration = Duration::from_secs(1);

/// Processes that are kept for a tick at once.
const KEPT: usize = 64;

/// Who memgov is: never to be touched.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// memgov, and its ancestors up to pid 1.
    pub pids: Vec<u32>,
    /// Its guardian.
    pub guardian: Option<u32>,
}

#[derive(Debug)]
struct Row {
    status: OwnedFd,
    facts_read: Time,
}

/// What observe holds for each row of the process table.
#[derive(Debug)]
pub(super) struct ProcessRows {
    rows: Vec<Option<Row>>,
    by_pid: HashMap<u32, ProcessSlot>,
    own: Own,
    roots: Roots,
    /// Killed inside the kernel and not decided on yet: gone only when that is done.
    kept: Vec<ProcessSlot>,
}

impl ProcessRows {
    pub(super) fn with_capacity(capacity: u32, own: Own) -> Self {
        let rows = (0..capacity).map(|_| None).collect();
        let by_pid = HashMap::with_capacity(capacity as usize);
        Self { rows, by_pid, own, roots: Roots::look(), kept: Vec::with_capacity(KEPT) }
    }

    pub(super) fn slot(&self, pid: u32) -> Option<ProcessSlot> {
        self.by_pid.get(&pid).copied()
    }

    /// What is known of a process that may get a row; `None` if it is gone, a zombie or unreadable.
    pub(super) fn examine(&self, pid: u32, buffer: &mut [u8]) -> Option<(Process, OwnedFd)> {
        let status = proc::open_file(pid, c"status").ok()?;
        // After opening: what is read now belongs to whom the descriptor belongs to, or the descriptor is dead.
        let stat = proc::read_stat(pid, buffer).ok().filter(|s| !s.has_ended())?;
        let mut process = Process::new(stat.id());
        process.parent = stat.ppid;
        process.comm = stat.comm;
        process.untouchable = self.untouchable(&stat);
        process.uid = proc::read_status(pid, buffer).ok().and_then(|s| s.uids).map(|uids| uids[0]);
        let shows_it = proc::surviving_thread(pid, buffer).unwrap_or(pid);
        process.exe = proc::exe(shows_it);
        process.exe_elsewhere =
            process.exe.as_deref().is_some_and(|path| self.roots.is_elsewhere(shows_it, path));
        process.oom_score_adj = proc::read_oom_score_adj(pid, buffer).ok();
        Some((process, status))
    }

    /// Whether it has memory of its own that could come back: kernel threads have none, and take no row from others.
    pub(super) fn may_be_taken(&self, pid: u32, buffer: &mut [u8]) -> bool {
        proc::read_stat(pid, buffer).is_ok_and(|stat| !stat.has_ended() && self.untouchable(&stat).is_none())
    }

    fn untouchable(&self, stat: &proc::Stat) -> Option<Untouchable> {
        if stat.pid == 1 {
            Some(Untouchable::Init)
        } else if stat.kernel_thread {
            Some(Untouchable::Kernel)
        } else {
            let own = self.own.pids.contains(&stat.pid) || self.own.guardian == Some(stat.pid);
            own.then_some(Untouchable::Governor)
        }
    }

    /// Another guardian, or none.
    pub(super) fn set_guardian(&mut self, guardian: Option<u32>) {
        self.own.guardian = guardian;
    }

    /// Gives a process a row, or renews the facts of the one it has.
    pub(super) fn admit(
        &mut self,
        process: Process,
        status: OwnedFd,
        snap: &mut Snapshot,
        tape: &mut Tape,
    ) -> Option<ProcessSlot> {
        let pid = process.id.pid;
        if let Some(slot) = self.slot(pid) {
            let old = snap.processes.get_mut(slot.0)?;
            if old.id == process.id && !old.gone {
                // What was read of its memory stays, with the session, which is of the same reading.
                let Process { rss, kernel, session, read_at, killed, .. } = *old;
                *old = Process { rss, kernel, session, read_at, killed, ..process };
                tape.process_new(slot, old);
                snap.touch_process(slot);
                return Some(slot);
            }
            self.gone(slot, snap, tape);
        }
        let Ok(index) = snap.processes.insert(process) else {
            snap.lost.processes += 1;
            return None;
        };
        let slot = ProcessSlot(index);
        self.rows[index as usize] = Some(Row { status, facts_read: snap.at });
        self.by_pid.insert(pid, slot);
        if let Some(process) = snap.process(slot) {
            tape.process_new(slot, process);
        }
        snap.touch_process(slot);
        Some(slot)
    }

    /// Reads one process's memory.
    pub(super) fn look(
        &mut self,
        slot: ProcessSlot,
        snap: &mut Snapshot,
        buffer: &mut [u8],
        tape: &mut Tape,
    ) {
        let at = snap.at;
        let Some(process) = snap.processes.get_mut(slot.0) else { return };
        let mut tap = |name: &str, text: &[u8]| tape.process_file(slot, name, text);
        let Some(mut read) = self.reread(slot, buffer, &mut tap) else { return };
        process.read_at = at;
        // A zombie has a status without memory, and the thread whose status is kept may have ended: the process may go on in
        // other threads, and then theirs is read.
        if matches!(read, Ok(status) if status.zombie) || matches!(read, Err(Errno::SRCH | Errno::NOENT)) {
            if !self.keep_survivor(slot, process.id.pid, buffer) {
                return self.gone(slot, snap, tape);
            }
            let Some(again) = self.reread(slot, buffer, &mut tap) else { return };
            read = again;
        }
        match read {
            Ok(status) => {
                status.fill(process);
            }
            Err(_) => {
                tape.process_file(slot, "unreadable", b"");
                process.rss = Default::default();
            }
        }
        snap.touch_process(slot);
    }

    fn reread(
        &self,
        slot: ProcessSlot,
        buffer: &mut [u8],
        tap: &mut dyn FnMut(&str, &[u8]),
    ) -> Option<Result<proc::Status, Errno>> {
        let row = self.rows.get(slot.0 as usize)?.as_ref()?;
        Some(proc::reread_status(&row.status, buffer, tap))
    }

    /// Keeps the status of a thread that is still there in place of one that has ended; `false`: there is none, so the process is gone.
    fn keep_survivor(&mut self, slot: ProcessSlot, pid: u32, buffer: &mut [u8]) -> bool {
        let Some(status) = proc::open_surviving_thread(pid, buffer) else { return false };
        if let Some(Some(row)) = self.rows.get_mut(slot.0 as usize) {
            row.status = status;
        }
        true
    }

    /// Processes whose facts are old enough to be looked at again, among those given.
    pub(super) fn facts_due(&mut self, slot: ProcessSlot, now: Time) -> bool {
        match self.rows.get_mut(slot.0 as usize) {
            Some(Some(row)) if now.since(row.facts_read) >= FACTS_AGE => {
                row.facts_read = now;
                true
            }
            _ => false,
        }
    }

    /// Whether the process of a row still exists.
    pub(super) fn is_there(&mut self, slot: ProcessSlot, pid: u32, buffer: &mut [u8]) -> bool {
        match self.reread(slot, buffer, &mut |_, _| {}) {
            None => false,
            Some(Ok(status)) if !status.zombie => true,
            Some(Err(errno)) if !matches!(errno, Errno::SRCH | Errno::NOENT) => true,
            Some(_) => self.keep_survivor(slot, pid, buffer),
        }
    }

    /// The first thread of a process has ended; whether the process has.
    pub(super) fn ended(
        &mut self,
        slot: ProcessSlot,
        snap: &mut Snapshot,
        buffer: &mut [u8],
        tape: &mut Tape,
    ) {
        let Some(pid) = Self::id(snap, slot).map(|id| id.pid) else { return };
        if !self.keep_survivor(slot, pid, buffer) {
            self.gone(slot, snap, tape);
        }
    }

    /// What this process met is decided on in this tick, whether it is still there or not.
    pub(super) fn keep_for_a_tick(&mut self, slot: ProcessSlot) {
        if self.kept.len() < KEPT && !self.kept.contains(&slot) {
            self.kept.push(slot);
        }
    }

    /// Those that were kept in the tick before are looked at like everybody else.
    pub(super) fn let_go(&mut self) -> impl Iterator<Item = ProcessSlot> {
        self.kept.drain(..)
    }

    /// A process has exited.
    pub(super) fn gone(&mut self, slot: ProcessSlot, snap: &mut Snapshot, tape: &mut Tape) {
        if self.kept.contains(&slot) {
            return;
        }
        if let Some(process) = snap.processes.get_mut(slot.0)
            && !process.gone
        {
            process.gone = true;
            self.by_pid.remove(&process.id.pid);
            tape.process_gone(slot);
            snap.touch_process(slot);
        }
    }

    /// Closes a row whose process is gone.
    pub(super) fn close(&mut self, slot: ProcessSlot, pid: u32) {
        if let Some(row) = self.rows.get_mut(slot.0 as usize) {
            *row = None;
        }
        if self.by_pid.get(&pid) == Some(&slot) {
            self.by_pid.remove(&pid);
        }
    }

    /// Rows whose process has its group below or at one of a slot: none of them checked for being gone.
    pub(super) fn id(snap: &Snapshot, slot: ProcessSlot) -> Option<ProcessId> {
        snap.process(slot).filter(|p| !p.gone).map(|p| p.id)
    }

    /// Moves a row to another group.
    pub(super) fn moved(slot: ProcessSlot, group: Option<GroupSlot>, snap: &mut Snapshot, tape: &mut Tape) {
        if let Some(process) = snap.processes.get_mut(slot.0)
            && process.group != group
        {
            process.group = group;
            tape.process_new(slot, process);
            snap.touch_process(slot);
        }
    }
}
