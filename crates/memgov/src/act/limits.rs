//! The soft limits of one process: lowered, kept lowered, put back. Whom and how long is `deny`'s.
//!
//! Each is written down before it is lowered, and is put back only while it still is what memgov made it. What the process sets for itself
//! meanwhile is remembered as what it wants back.

use memgov_decide::decision::Operation;
use memgov_decide::policy::Kinds;
use memgov_decide::snapshot::ProcessId;

use super::ledger::{Entry, Ledger, Leftover, Lowered, LoweredLimits, OwnedEntry, Place, Verdict};
use crate::kernel::pidfd::PidFd;
use crate::kernel::proc;
use crate::kernel::rlimit::{self, Pair, Resource};
use crate::kernel::{Errno, sys};

/// The limits that are lowered, in the order in which they are kept and written down.
pub const RESOURCES: [Resource; 3] = [Resource::Data, Resource::AddressSpace, Resource::MemLock];
/// Descendants further away are not looked for.
const MOST_GENERATIONS: u32 = 64;

/// The limit's name.
pub const fn name(resource: Resource) -> &'static str {
    match resource {
        Resource::Data => "RLIMIT_DATA",
        Resource::AddressSpace => "RLIMIT_AS",
        Resource::MemLock => "RLIMIT_MEMLOCK",
    }
}

/// What of a process is refused by its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Locks, and the mappings that this meter counts.
    Mappings(Kinds),
    /// Locks only: mappings are refused inside the kernel.
    Locks,
}

impl Refusal {
    /// What refuses both.
    pub fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Locks, other) | (other, Self::Locks) => other,
            (Self::Mappings(a), Self::Mappings(b)) => Self::Mappings(Kinds {
                anon: a.anon | b.anon,
                file: a.file | b.file,
                shmem: a.shmem | b.shmem,
            }),
        }
    }

    /// Whether it takes this limit. RLIMIT_DATA knows nothing of file and shared mappings; RLIMIT_AS refuses every mapping, but
    /// while both are exhausted the kernel lets mprotect through, so it is one or the other.
    fn takes(self, resource: Resource) -> bool {
        match (resource, self) {
            (Resource::MemLock, _) => true,
            (_, Self::Locks) => false,
            (Resource::Data, Self::Mappings(meter)) => !meter.file && !meter.shmem,
            (Resource::AddressSpace, Self::Mappings(meter)) => meter.file || meter.shmem,
        }
    }
}

/// What memgov did to the limits of a process.
#[derive(Clone, Debug)]
pub struct SoftLimits {
    /// Whose.
    pub who: ProcessId,
    /// Which are lowered.
    pub lowered: LoweredLimits,
    /// To where each is lowered: present use when it was first denied. Not tightened later.
    lines: [Option<u64>; 3],
    place: Option<Place>,
    /// How often the process has set one of its own meanwhile.
    pub contested: u32,
}

impl SoftLimits {
    fn entry(&self) -> Entry<'static> {
        Entry::Limits { who: self.who, lowered: self.lowered }
    }

    /// Of a process that is about to be denied. `SRCH`: it has no memory any more.
    pub fn of(who: ProcessId) -> Result<Self, (Operation, Errno)> {
        let mut lines = present_use(who.pid).map_err(|errno| (Operation::ReadProcess, errno))?;
        if sys::boot_ticks().saturating_sub(who.start) < YOUNG_SECONDS_TENTHS * sys::clock_ticks() / 10 {
            for (line, least) in lines.iter_mut().zip(LEAST_OF_THE_YOUNG) {
                *line = line.map(|line| line.max(least));
            }
        }
        Ok(Self { who, lowered: [None; 3], lines, place: None, contested: 0 })
    }

    /// Leaves the entry in force, for somebody with more rights.
    pub fn abandon(&mut self) {
        self.place = None;
    }

    /// Whether every limit stands where memgov put it, and none is missing.
    pub fn is_kept(&self, refusal: Refusal) -> Result<bool, Errno> {
        for (i, resource) in RESOURCES.into_iter().enumerate() {
            let soft = rlimit::get(self.who.pid, resource)?.soft;
            let kept = match (self.lowered[i], refusal.takes(resource)) {
                (Some(lowered), true) => soft == Some(lowered.set),
                (Some(_), false) => false,
                (None, true) => self.lines[i].is_none_or(|line| soft.is_some_and(|soft| soft <= line)),
                (None, false) => true,
            };
            if !kept {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes over what the process has inherited from a denied parent: that is not its own, and is put back in the end.
    pub fn adopt(&mut self, inherited: LoweredLimits, ledger: &mut Ledger) -> Result<(), (Operation, Errno)> {
        self.lowered = inherited;
        self.write_down(ledger)
    }

    /// Lowers what the holders want lowered and is not; puts back what they no longer want. Written down first.
    pub fn lower(&mut self, refusal: Refusal, ledger: &mut Ledger) -> Result<(), (Operation, Errno)> {
        let mut result = Ok(());
        for (i, resource) in RESOURCES.into_iter().enumerate() {
            let done =
                if refusal.takes(resource) { self.lower_one(ledger, i) } else { self.raise_one(ledger, i) };
            result = result.and(done);
        }
        if self.lowered.iter().all(Option::is_none) {
            result = result.and(self.cross_out(ledger));
        }
        result
    }

    fn lower_one(&mut self, ledger: &mut Ledger, i: usize) -> Result<(), (Operation, Errno)> {
        let Some(line) = self.lines[i] else { return Ok(()) };
        let failed = |errno| (Operation::Prlimit, errno);
        let mut has = rlimit::get(self.who.pid, RESOURCES[i]).map_err(failed)?;
        let known = self.lowered[i];
        match known {
            Some(lowered) if has.soft == Some(lowered.set) && lowered.set <= line => return Ok(()),
            Some(lowered) if has.soft != Some(lowered.set) => self.contested += 1,
            _ => {}
        }
        // What memgov has set is not what the process wants back.
        let own = |has: Pair| match known {
            Some(lowered) if has.soft == Some(lowered.set) => {
                Pair { soft: lowered.before.soft, hard: has.hard }
            }
            _ => has,
        };
        // A process that changes its limit at this very moment is asked again.
        for _ in 0..4 {
            let before = own(has);
            if before.soft.is_some_and(|soft| soft <= line) {
                return self.raise_one(ledger, i);
            }
            let set = has.soft.map_or(line, |soft| soft.min(line));
            self.lowered[i] = Some(Lowered { before, set });
            if let Err(error) = self.write_down(ledger) {
                self.lowered[i] = None;
                return Err(error);
            }
            match rlimit::set(self.who.pid, RESOURCES[i], Pair { soft: Some(set), hard: has.hard }) {
                Ok(was) if was == has => return Ok(()),
                Ok(was) => has = was,
                Err(errno) => {
                    self.lowered[i] = None;
                    self.write_down(ledger)?;
                    return Err(failed(errno));
                }
            }
        }
        Ok(())
    }

    fn raise_one(&mut self, ledger: &mut Ledger, i: usize) -> Result<(), (Operation, Errno)> {
        let Some(lowered) = self.lowered[i] else { return Ok(()) };
        put_back(self.who.pid, RESOURCES[i], &lowered).map_err(|errno| (Operation::Prlimit, errno))?;
        self.lowered[i] = None;
        self.write_down(ledger)
    }

    fn write_down(&mut self, ledger: &mut Ledger) -> Result<(), (Operation, Errno)> {
        let entry = self.entry();
        let written = match self.place {
            Some(place) => ledger.set_limits(place, &entry),
            None if self.lowered.iter().all(Option::is_none) => Ok(()),
            None => ledger.record(&entry).map(|place| self.place = Some(place)),
        };
        written.map_err(|errno| (Operation::Ledger, errno))
    }

    /// Crosses the entry out: nothing is lowered any more, or nobody is there any more.
    pub fn cross_out(&mut self, ledger: &mut Ledger) -> Result<(), (Operation, Errno)> {
        match self.place.take() {
            Some(place) => ledger.erase(place).map_err(|errno| (Operation::Ledger, errno)),
            None => Ok(()),
        }
    }
}

/// A process younger than this may be in the middle of execve, with next to no memory...
const YOUNG_SECONDS_TENTHS: u64 = 3;
/// ...and limited to that the kernel would kill it (fs/binfmt_elf.c: past the point of no return a mapping that fails is
/// fatal). So it may have this much, in the order of [`RESOURCES`]: room to start in, and no more than that.
const LEAST_OF_THE_YOUNG: [u64; 3] = [4 << 20, 64 << 20, 1];

/// What the process uses of each limit, whole pages, at least 1. Of locked memory nothing: what is locked stays so, and what happens to be locked at this moment
/// would be room for mlock ever after. 1 and not 0, which would turn its ENOMEM into EPERM (can_do_mlock in mm/mlock.c).
fn present_use(pid: u32) -> Result<[Option<u64>; 3], Errno> {
    let mut buffer = [0; proc::STATUS_BUFFER];
    let mut status = proc::read_status(pid, &mut buffer)?;
    if status.zombie
        && let Some(thread) = proc::open_surviving_thread(pid, &mut buffer)
    {
        status = proc::reread_status(&thread, &mut buffer, &mut |_, _| {})?;
    }
    // A zombie has no memory, and nothing more to be refused.
    let (Some(data), Some(size)) = (status.vm_data, status.vm_size) else { return Err(Errno::SRCH) };
    let page = sys::page_size();
    let whole = |bytes: u64| Some((bytes / page * page).max(1));
    Ok([whole(data.0), whole(size.0), Some(1)])
}

/// All three.
pub fn read(pid: u32) -> Result<[Option<Pair>; 3], Errno> {
    let mut has = [None; 3];
    for (has, resource) in has.iter_mut().zip(RESOURCES) {
        *has = Some(rlimit::get(pid, resource)?);
    }
    Ok(has)
}

/// Puts one limit back, if it still is what memgov made it. `Ok(false)`: it is not.
fn put_back(pid: u32, resource: Resource, lowered: &Lowered) -> Result<bool, Errno> {
    let has = rlimit::get(pid, resource)?;
    if has.soft != Some(lowered.set) {
        return Ok(false);
    }
    // The process may have lowered its hard limit since; the soft one cannot be over it.
    let soft = match (lowered.before.soft, has.hard) {
        (Some(soft), Some(hard)) => Some(soft.min(hard)),
        (None, hard) => hard,
        (soft, None) => soft,
    };
    let was = rlimit::set(pid, resource, Pair { soft, hard: has.hard })?;
    if was != has {
        // It set its own between the two calls.
        rlimit::set(pid, resource, was)?;
        return Ok(false);
    }
    Ok(true)
}

/// Puts all limits back, as far as they still are what memgov made them.
pub fn put_back_all(pid: u32, lowered: &LoweredLimits) {
    for (resource, lowered) in RESOURCES.into_iter().zip(lowered) {
        if let Some(lowered) = lowered {
            // It has exited, or may not be touched any more: nothing is left to be done for it.
            let _ = put_back(pid, resource, lowered);
        }
    }
}

/// Whether limits look like `lowered`, all of them, hard ones included: a process comes by such values only by inheriting them.
pub fn matches_inherited(lowered: &LoweredLimits, has: &[Option<Pair>; 3]) -> bool {
    let same = |lowered: &Lowered, has: &Option<Pair>| {
        has.is_some_and(|has| has.soft == Some(lowered.set) && has.hard == lowered.before.hard)
    };
    lowered.iter().any(Option::is_some)
        && lowered.iter().zip(has).all(|(lowered, has)| lowered.as_ref().is_none_or(|l| same(l, has)))
}

/// Puts all limits of a process back.
pub fn undo(who: ProcessId, lowered: &LoweredLimits) -> Verdict {
    let _process = match PidFd::open(who) {
        Ok(process) => process,
        Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => return Verdict::Gone,
        Err(errno) => return Verdict::Failed(Operation::PidfdOpen, errno),
    };
    let mut verdict = Verdict::Changed;
    for (resource, lowered) in RESOURCES.into_iter().zip(lowered) {
        let Some(lowered) = lowered else { continue };
        match put_back(who.pid, resource, lowered) {
            Ok(true) if verdict == Verdict::Changed => verdict = Verdict::Undone,
            Ok(_) => {}
            Err(Errno::SRCH) => return Verdict::Gone,
            Err(errno) => verdict = Verdict::Failed(Operation::Prlimit, errno),
        }
    }
    verdict
}

/// Children of denied processes, born when nobody was there to free them. Not on the acting path: looks at every process.
pub fn undo_inherited(leftovers: &[Leftover]) {
    let given: Vec<_> = leftovers
        .iter()
        .filter_map(|leftover| match &leftover.entry {
            OwnedEntry::Limits { who, lowered } => Some((*who, *lowered)),
            _ => None,
        })
        .collect();
    if given.is_empty() {
        return;
    }
    let mut buffer = [0; proc::STAT_BUFFER];
    for pid in proc::pids(std::path::Path::new("/")).unwrap_or_default() {
        let Ok(has) = read(pid) else { continue };
        let mut from = given.iter().filter(|(_, lowered)| matches_inherited(lowered, &has));
        if let Some((_, lowered)) = from.find(|(who, _)| is_heir(pid, *who, &mut buffer)) {
            put_back_all(pid, lowered);
        }
    }
}

/// Whether a process descends from a denied one. Where that one is gone its children have another parent now, and their age has to do: the
/// limits that they share with it, to the byte, are nobody else's.
fn is_heir(pid: u32, of: ProcessId, buffer: &mut [u8]) -> bool {
    let gone = proc::identify(of.pid, buffer) != Ok(of);
    let mut at = pid;
    for _ in 0..MOST_GENERATIONS {
        let Ok(stat) = proc::read_stat(at, buffer) else { return false };
        if stat.start < of.start || stat.kernel_thread || stat.pid == of.pid {
            return false;
        }
        if gone || stat.ppid == of.pid {
            return true;
        }
        at = stat.ppid;
    }
    false
}
