//! Puts back what a ledger tells of. Twice is as good as once; what is not what it was when it was written down (another process
//! under the pid, another group under the path, a value changed since) is somebody else's and stays.
//!
//! Off the acting path: it may allocate and wait a little. The order matters: first limits of groups that are lowered, under which somebody may starve, then
//! everything runs again, then it goes home, then its own limits, and last what is raised: nobody suffers from that, taking it back may take time, and
//! where somebody was lowering a raised limit both entries are of one file.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use memgov_decide::decision::Operation;
use memgov_decide::snapshot::ProcessId;

use super::{GroupLimit, Ledger, Leftover, OwnedEntry, Place};
use crate::act::paths;
use crate::act::{brake, lend, limits, squeeze};
use crate::kernel::freeze;
use crate::kernel::pidfd::PidFd;
use crate::kernel::{Errno, file, proc};

/// What became of a leftover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Put back.
    Undone,
    /// The process or group is gone, so there is nothing to put back.
    Gone,
    /// Somebody else has changed it since: left alone.
    Changed,
    /// Not put back; the entry stays in force.
    Failed(Operation, Errno),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undone => f.write_str("undone"),
            Self::Gone => f.write_str("gone, nothing to undo"),
            Self::Changed => f.write_str("changed by somebody else since, left alone"),
            Self::Failed(Operation::Lend, Errno::BUSY) => f.write_str(
                "not yet: more is in use than that limit allows, and lowering it would have the kernel kill",
            ),
            Self::Failed(operation, errno) => write!(f, "failed: {operation:?}: {errno}"),
        }
    }
}

/// A leftover and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// What was left.
    pub leftover: Leftover,
    /// What became of it.
    pub verdict: Verdict,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.leftover, self.verdict)
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(f)
    }
}

impl fmt::Display for OwnedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |path: &[u8]| path.escape_ascii().to_string();
        match self {
            OwnedEntry::Limits { who, lowered } => {
                write!(f, "pid {} (started at tick {}): lowered", who.pid, who.start)?;
                for (resource, lowered) in limits::RESOURCES.iter().zip(lowered) {
                    let Some(lowered) = lowered else { continue };
                    write!(f, " {} to {} from ", limits::name(*resource), lowered.set)?;
                    match lowered.before.soft {
                        Some(soft) => write!(f, "{soft}")?,
                        None => f.write_str("unlimited")?,
                    }
                }
                Ok(())
            }
            OwnedEntry::Hold { path, .. } => write!(f, "hold group {}", show(path)),
            OwnedEntry::Frozen { path, .. } => write!(f, "slowed group {}", show(path)),
            OwnedEntry::Stopped { who, .. } => {
                write!(f, "pid {} (started at tick {}): slowed by SIGSTOP", who.pid, who.start)
            }
            OwnedEntry::Socket { who, inode, .. } => {
                write!(f, "pid {} (started at tick {}): socket {inode} squeezed", who.pid, who.start)
            }
            OwnedEntry::GroupLimit { path, which, before, set, .. } => {
                let name = which.file().to_str().unwrap_or_default();
                if *which == GroupLimit::OomKiller {
                    return write!(f, "group {}: the kernel's OOM killer held off ({name})", show(path));
                }
                let how = if set > before { "raised" } else { "lowered" };
                write!(f, "group {}: {name} {how} to {set} from ", show(path))?;
                if *before == u64::MAX { f.write_str("unlimited") } else { write!(f, "{before}") }
            }
        }
    }
}

impl Ledger {
    /// Puts back everything in `leftovers`, crosses out what is done with, and says what became of each.
    pub fn undo(&mut self, leftovers: Vec<Leftover>) -> Vec<Undone> {
        let verdicts = put_back_each(&leftovers);
        let mut report = Vec::with_capacity(leftovers.len());
        for (leftover, mut verdict) in leftovers.into_iter().zip(verdicts) {
            if !matches!(verdict, Verdict::Failed(..))
                && let Err(errno) = self.erase(leftover.place)
            {
                verdict = Verdict::Failed(Operation::Ledger, errno);
            }
            report.push(Undone { leftover, verdict });
        }
        report
    }
}

/// Puts back what stands in no ledger ([`crate::act::strays`]), and says what became of each.
pub fn put_back(entries: Vec<OwnedEntry>) -> Vec<Undone> {
    let leftovers: Vec<_> = entries.into_iter().map(|entry| Leftover { place: Place::NONE, entry }).collect();
    let verdicts = put_back_each(&leftovers);
    leftovers.into_iter().zip(verdicts).map(|(leftover, verdict)| Undone { leftover, verdict }).collect()
}

fn put_back_each(leftovers: &[Leftover]) -> Vec<Verdict> {
    // Opened once: after the thaw a path may be reused, a directory that is held may not.
    let opened: Vec<_> = leftovers.iter().map(|l| open(&l.entry)).collect();
    let lowered = |(left, group): (&Leftover, _)| {
        (!is_lent(&left.entry)).then(|| put_limit_back(&left.entry, group))?
    };
    let limits: Vec<_> = leftovers.iter().zip(&opened).map(lowered).collect();
    let thawed = leftovers.iter().zip(&opened).map(|(l, o)| thaw(&l.entry, o));
    let mut verdicts: Vec<Verdict> =
        thawed.zip(limits).map(|(thawed, raised)| raised.unwrap_or(thawed)).collect();
    for (i, group) in opened.iter().enumerate() {
        if let (OwnedEntry::Hold { .. }, Ok(group), Verdict::Undone) =
            (&leftovers[i].entry, group, verdicts[i])
        {
            verdicts[i] = send_home(group);
        }
    }
    for (leftover, verdict) in leftovers.iter().zip(&mut verdicts) {
        if let OwnedEntry::Limits { who, lowered } = &leftover.entry {
            *verdict = limits::undo(*who, lowered);
        }
    }
    limits::undo_inherited(leftovers);
    let sockets = |i: &usize| matches!(leftovers[*i].entry, OwnedEntry::Socket { .. });
    let at: Vec<usize> = (0..leftovers.len()).filter(sockets).collect();
    let of: Vec<&OwnedEntry> = at.iter().map(|i| &leftovers[*i].entry).collect();
    for (i, verdict) in at.iter().zip(squeeze::put_back(&of)) {
        verdicts[*i] = verdict;
    }
    for (i, group) in opened.iter().enumerate().filter(|(i, _)| is_lent(&leftovers[*i].entry)) {
        if let Some(verdict) = put_limit_back(&leftovers[i].entry, group) {
            verdicts[i] = verdict;
        }
    }
    for (i, group) in opened.into_iter().enumerate() {
        if let (OwnedEntry::Hold { path, .. }, Ok(group), Verdict::Undone) =
            (&leftovers[i].entry, group, verdicts[i])
        {
            verdicts[i] = remove(path, group);
        }
    }
    verdicts
}

/// The group of an entry with its parent, if it still is the one that was written down.
struct OpenGroup {
    dir: OwnedFd,
    parent: OwnedFd,
}

fn open(entry: &OwnedEntry) -> Result<OpenGroup, Verdict> {
    let (path, inode) = match entry {
        OwnedEntry::Hold { path, inode, .. } => {
            // A hold group that was written down and not made has no inode; its name alone says that it is memgov's.
            if !paths::name_of(path).starts_with(super::HOLD_PREFIX) {
                return Err(Verdict::Changed);
            }
            (path, *inode)
        }
        OwnedEntry::Frozen { path, inode, .. } | OwnedEntry::GroupLimit { path, inode, .. } => (path, *inode),
        OwnedEntry::Limits { .. } | OwnedEntry::Stopped { .. } | OwnedEntry::Socket { .. } => {
            return Err(Verdict::Gone);
        }
    };
    let failed = |errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NOTDIR => Verdict::Gone,
        errno => Verdict::Failed(Operation::MakeGroup, errno),
    };
    let parent = paths::open_path(paths::parent_of(path)).map_err(failed)?;
    let dir = paths::open_child(parent.as_fd(), paths::name_of(path)).map_err(failed)?;
    if !paths::is_cgroup(dir.as_fd()) {
        return Err(Verdict::Changed);
    }
    match paths::inode(dir.as_fd()) {
        Ok(now) if now == inode || inode == 0 => Ok(OpenGroup { dir, parent }),
        Ok(_) => Err(Verdict::Changed),
        Err(errno) => Err(failed(errno)),
    }
}

/// Whether it tells of a limit that was raised. What it was set to before counts too: whoever dies between writing down and setting leaves that.
fn is_lent(entry: &OwnedEntry) -> bool {
    matches!(entry, OwnedEntry::GroupLimit { before, set, was, .. } if set.max(was) > before)
}

/// A group that was being shrunk has its limit back, and what was lent to one is taken back.
fn put_limit_back(entry: &OwnedEntry, group: &Result<OpenGroup, Verdict>) -> Option<Verdict> {
    let OwnedEntry::GroupLimit { which, before, set, was, .. } = entry else { return None };
    let group = match group {
        Ok(group) => group,
        Err(verdict) => return Some(*verdict),
    };
    let verdict = which.read(group.dir.as_fd()).and_then(|now| match now {
        now if now == *before => which.give_below(group.dir.as_fd()).map(|()| Verdict::Undone),
        // Lent: only as far as what is in use allows, or the kernel would kill for it.
        now if (now == *set || now == *was) && now > *before => {
            lend::take_back(&group.dir, *which, *before).map(|()| Verdict::Undone)
        }
        now if now == *set || now == *was => {
            which.write(group.dir.as_fd(), *before).map(|()| Verdict::Undone)
        }
        _ => Ok(Verdict::Changed),
    });
    Some(verdict.unwrap_or_else(|errno| match errno {
        Errno::NOENT | Errno::NODEV => Verdict::Gone,
        errno if is_lent(entry) => Verdict::Failed(Operation::Lend, errno),
        errno => Verdict::Failed(which.operation(), errno),
    }))
}

/// Step one: whatever memgov has stopped runs again.
fn thaw(entry: &OwnedEntry, group: &Result<OpenGroup, Verdict>) -> Verdict {
    match entry {
        OwnedEntry::Limits { .. } | OwnedEntry::GroupLimit { .. } | OwnedEntry::Socket { .. } => {
            Verdict::Undone
        }
        OwnedEntry::Stopped { now: false, .. } => Verdict::Undone,
        OwnedEntry::Stopped { who, now: true } => resume(*who),
        OwnedEntry::Hold { .. } | OwnedEntry::Frozen { .. } => match group {
            Err(verdict) => *verdict,
            Ok(group) => thaw_group(entry, group.dir.as_fd()),
        },
    }
}

fn thaw_group(entry: &OwnedEntry, dir: BorrowedFd<'_>) -> Verdict {
    match entry {
        // Not at this moment: if it is frozen now, then by the administrator.
        OwnedEntry::Frozen { now: false, .. } => return Verdict::Undone,
        OwnedEntry::Frozen { now: true, .. } if brake::asked_to_freeze(dir) == Ok(false) => {
            return Verdict::Changed;
        }
        _ => {}
    }
    match freeze::freeze(dir, false) {
        Ok(()) => Verdict::Undone,
        // A hierarchy that has no freezer holds nobody, but its group is there.
        Err(Errno::NOENT) if file::open_in(dir, c"cgroup.procs").is_ok() => Verdict::Undone,
        Err(Errno::NOENT | Errno::NODEV) => Verdict::Gone,
        Err(errno) => Verdict::Failed(Operation::Freeze, errno),
    }
}

fn resume(who: ProcessId) -> Verdict {
    let mut buffer = [0; proc::STAT_BUFFER];
    let stopped = |buffer: &mut [u8]| proc::read_stat(who.pid, buffer).map(|stat| stat.state == b'T');
    let resumed = PidFd::open(who).and_then(|process| match stopped(&mut buffer)? {
        true => process.send(18).map(|()| Verdict::Undone),
        false => Ok(Verdict::Changed),
    });
    match resumed {
        Ok(verdict) => verdict,
        Err(Errno::SRCH | Errno::NOENT) => Verdict::Gone,
        Err(errno) => Verdict::Failed(Operation::SendSignal, errno),
    }
}

/// Step two: what is in a hold group goes back to the group it was made in.
fn send_home(group: &OpenGroup) -> Verdict {
    // Forks may race; each pass takes along what was born in the one before.
    for _ in 0..100 {
        match brake::send_home(group.dir.as_fd(), group.parent.as_fd()) {
            Ok(0) => return Verdict::Undone,
            // The dying cannot be moved; they are gone in a moment.
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
            Err((operation, errno)) => return Verdict::Failed(operation, errno),
        }
    }
    Verdict::Failed(Operation::MoveProcess, Errno::BUSY)
}

/// Step four: the emptied hold group goes. Dying processes keep it busy for a moment.
fn remove(path: &[u8], group: OpenGroup) -> Verdict {
    drop(group.dir);
    for _ in 0..200 {
        match paths::remove_child(group.parent.as_fd(), paths::name_of(path)) {
            Ok(()) => return Verdict::Undone,
            Err(Errno::NOENT | Errno::NODEV) => return Verdict::Gone,
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(5)),
            Err(errno) => return Verdict::Failed(Operation::MakeGroup, errno),
        }
    }
    Verdict::Failed(Operation::MakeGroup, Errno::BUSY)
}
