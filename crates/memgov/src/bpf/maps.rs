//! The calls of whoever acts: limits of groups and processes, exemptions, the lease. A plain store, or one system call on memory that the
//! kernel holds ready; nothing is allocated here.

use super::raw::{Shared, TypedMap};
use super::record::{
    ACTION_DENY, ACTION_KILL, ACTION_NONE, ACTION_SIGNAL, ACTION_TELL, Control, ExemptFileKey, ExemptKey,
    GroupSlot, HIGH_MAX, HIGH_OF_KERNEL, KIND_ANON, KIND_FILE, KIND_SHMEM, NO_LINE, RawTaskLimit, TASK_HELD,
    TASK_HIGH, TASK_RULE,
};
use super::table::Table;
use super::{GroupLimit, Hot, MAX_LEVEL, TaskAction, TaskLimit};
use crate::kernel::{Errno, sys};
use memgov_decide::policy::Over;
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::{Bytes, Limit, Time};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What programs read. Can be shared by threads: each call takes a lock for the length of a system call at most.
pub struct Maps {
    pub(super) control: Shared<Control>,
    pub(super) slots: Shared<GroupSlot>,
    pub(super) groups: TypedMap<u64, u32>,
    pub(super) tasks: TypedMap<i32, RawTaskLimit>,
    pub(super) squeezed: TypedMap<u64, u64>,
    pub(super) socket_refusals: TypedMap<u64, u64>,
    pub(super) exempt: TypedMap<ExemptKey, u8>,
    pub(super) exempt_files: TypedMap<ExemptFileKey, u32>,
    /// What is in `exempt_files`.
    pub(super) files: Mutex<Vec<ExemptFileKey>>,
    pub(super) lease: Duration,
    /// What limits of rules are told for, which is ahead of [`Control::generation`] while they are told anew.
    pub(super) telling: AtomicU32,
    pub(super) table: Mutex<Table>,
}

impl Maps {
    /// Sets or changes what is asked of a group. `NOSPC`: [`super::Options::max_groups`] have a limit already; `INVAL`: deeper than
    /// [`MAX_LEVEL`]. (hot)
    pub fn set_group(&self, id: GroupId, limit: &GroupLimit) -> Hot {
        let level = usize::try_from(limit.level).map_err(|_| Errno::INVAL)?;
        if limit.level > MAX_LEVEL || id.0 == 0 {
            return Err(Errno::INVAL);
        }
        let mut table = self.table();
        if let Some(slot) = self.slot(id)? {
            let before = Lines::of(slot);
            fill(slot, limit);
            self.publish(&mut table, &before, &Lines { level, ..Lines::wanted(limit) });
            return Ok(());
        }
        let index = table.free.pop_front().ok_or(Errno::NOSPC)?;
        let slot = self.slots.get(index as usize).ok_or(Errno::NOSPC)?;
        let last_told = [&slot.told_ns, &slot.kernel_told_ns, &slot.crossed_ns, &slot.kernel_crossed_ns];
        for counter in [&slot.denials, &slot.kernel_denials].into_iter().chain(last_told) {
            counter.store(0, Relaxed);
        }
        for flag in [&slot.crossed, &slot.kernel_crossed, &slot.kernel_seeded] {
            flag.store(0, Relaxed);
        }
        slot.kernel_pages.store(0, Relaxed);
        slot.nothing_pending();
        slot.kernel_line.store(NO_LINE, Relaxed);
        slot.kernel_tell_line.store(NO_LINE, Relaxed);
        fill(slot, limit);
        slot.id.store(id.0, Release);
        self.publish_id(&mut table, id, true);
        if let Err(errno) = self.groups.update(&id.0, &index) {
            slot.id.store(0, Release);
            self.publish_id(&mut table, id, false);
            table.free.push_back(index);
            return Err(errno);
        }
        // Last: until now programs do not even look at this depth.
        let wanted = Lines { level, ..Lines::wanted(limit) };
        self.publish(&mut table, &Lines { usage: false, kernel: false, level }, &wanted);
        Ok(())
    }

    /// Tells the programs which groups they have to look up.
    fn publish_id(&self, table: &mut Table, id: GroupId, comes: bool) {
        let (word, bits) = table.note_id(id, comes);
        self.control().ids[word].store(bits, Release);
    }

    /// Tells the programs at which depths they have to look, and that those remembered for kernel memory are not all, or too many.
    /// A slot that is given back is given away again only after it, so nobody who begins then counts in another group's.
    fn publish(&self, table: &mut Table, before: &Lines, after: &Lines) {
        for (depths, had, has) in
            [(&mut table.usage, before.usage, after.usage), (&mut table.kernel, before.kernel, after.kernel)]
        {
            depths.shift(after.level, false, has);
            depths.shift(before.level, had, false);
        }
        self.control().levels.store(table.usage.bits(), Release);
        self.control().kernel_levels.store(table.kernel.bits(), Release);
        if before.kernel != after.kernel {
            self.control().kernel_generation.fetch_add(1, Release);
        }
    }

    /// Has births of connections told in exactly these groups and below. `NOSPC`: they are too many, and those that are left over are not told.
    /// One caller at a time.
    pub fn squeeze(&self, before: &[GroupId], groups: &[GroupId]) -> Hot {
        for group in before.iter().filter(|group| !groups.contains(group)) {
            // It may never have found room.
            let _none = self.squeezed.delete(&group.0);
        }
        let mut told = Ok(());
        for group in groups.iter().filter(|group| !before.contains(group)) {
            told = told.and(self.squeezed.update(&group.0, &0));
        }
        self.control().squeezed.store(u32::try_from(groups.len()).unwrap_or(u32::MAX), Release);
        told
    }

    /// How often the kernel refused a charge for sockets of a group or of one below it, while that was counted ([`super::Hook::Sockets`]); 0: never, or so long ago that it made room for others.
    pub fn socket_refusals_of(&self, id: GroupId) -> Hot<u64> {
        let mut count = 0;
        match self.socket_refusals.lookup(&id.0, &mut count) {
            Err(Errno::NOENT) => Ok(0),
            other => other.map(|()| count),
        }
    }

    /// Asks nothing of a group any more; nothing happens if nothing was asked. (hot)
    pub fn clear_group(&self, id: GroupId) -> Hot {
        let mut table = self.table();
        let mut index = 0;
        match self.groups.lookup(&id.0, &mut index) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        }
        self.groups.delete(&id.0)?;
        let slot = self.slots.get(index as usize).ok_or(Errno::INVAL)?;
        let before = Lines::of(slot);
        slot.id.store(0, Release);
        self.publish(&mut table, &before, &Lines { usage: false, kernel: false, level: before.level });
        self.publish_id(&mut table, id, false);
        table.free.push_back(index);
        Ok(())
    }

    /// Sets or changes what is asked of a process, by its pidfd. A signal that was sent is forgotten, so it can be sent again.
    /// `INVAL`: the condition is empty, or the signal none; `NOENT`, `SRCH`: it is gone. (hot)
    pub fn set_process(&self, pid: BorrowedFd<'_>, limit: &TaskLimit) -> Hot {
        let mut raw = raw_limit(limit)?;
        raw.generation = self.telling.load(Relaxed);
        let mut before = RawTaskLimit::default();
        if self.tasks.lookup(&pid.as_raw_fd(), &mut before).is_ok() {
            // To be told anew makes nobody's crossings more frequent.
            raw.crossed_ns = before.crossed_ns;
        }
        self.control().tasks.store(1, Release);
        self.tasks.update(&pid.as_raw_fd(), &raw)
    }

    /// Asks nothing of a process any more. Children that have inherited it keep theirs. (hot)
    pub fn clear_process(&self, pid: BorrowedFd<'_>) -> Hot {
        match self.tasks.delete(&pid.as_raw_fd()) {
            Err(Errno::NOENT | Errno::SRCH) => Ok(()),
            other => other,
        }
    }

    /// Other rules: limits of rules that are set from now on are of these. (hot: an addition)
    pub fn begin_generation(&self) {
        self.telling.fetch_add(1, Relaxed);
    }

    /// Limits of rules that were set before the last [`Maps::begin_generation`] are looked at no more, whoever has inherited them. (hot: a store)
    pub fn end_generation(&self) {
        self.control().generation.store(self.telling.load(Relaxed), Release);
    }

    /// Whether a process has a limit of its own, its `tag` and how often it was refused. (hot)
    pub fn process(&self, pid: BorrowedFd<'_>) -> Option<(u64, u64)> {
        let mut raw = RawTaskLimit::default();
        self.tasks.lookup(&pid.as_raw_fd(), &mut raw).ok()?;
        // Only room to start in is no limit.
        (raw.action != ACTION_NONE || raw.flags & TASK_HELD != 0).then_some((raw.tag, raw.denials))
    }

    /// Programs go on acting for [`super::Options::lease`] from `now`. (hot: a store)
    pub fn renew(&self, now: Time) {
        self.control().lease_until_ns.store((now + self.lease).0, Release);
    }

    /// As [`Maps::renew`], unless the lease was ended. (hot: a load and a store)
    pub fn go_on(&self, now: Time) {
        if self.control().lease_until_ns.load(Relaxed) != 0 {
            self.renew(now);
        }
    }

    /// Programs act no more from now on, until the next [`Maps::renew`]. (hot: a store)
    pub fn end_lease(&self) {
        self.control().lease_until_ns.store(0, Release);
    }

    /// So many processes that stand under [`TaskAction::Kill`] may be killed from now on. (hot: a store)
    pub fn allow_kills(&self, count: u32) {
        self.control().kills_left.store(i64::from(count), Release);
    }

    /// So many more than before, or fewer. (hot: an addition)
    pub fn allow_more_kills(&self, more: i64) {
        self.control().kills_left.fetch_add(more, AcqRel);
    }

    /// How many of those that are allowed were not made use of yet; under 0 where more were taken back than there were. (hot: a load)
    pub fn kills_left(&self) -> i64 {
        self.control().kills_left.load(Acquire)
    }

    /// None from now on; gives how many of those that were allowed were not made use of. (hot: a swap)
    pub fn take_back_kills(&self) -> i64 {
        self.control().kills_left.swap(0, AcqRel)
    }

    /// How many calls of a group were refused since its limit was set. (hot)
    pub fn denials_of(&self, id: GroupId) -> Option<u64> {
        self.slot(id).ok()?.map(|slot| slot.denials.load(Relaxed))
    }

    /// How many calls of a group were refused for its kernel memory since its limit was set. (hot)
    pub fn kernel_denials_of(&self, id: GroupId) -> Option<u64> {
        self.slot(id).ok()?.map(|slot| slot.kernel_denials.load(Relaxed))
    }

    pub(super) fn control(&self) -> &Control {
        // Mapped with one value, always.
        &self.control[0]
    }

    pub(super) fn slot(&self, id: GroupId) -> Result<Option<&GroupSlot>, Errno> {
        let mut index = 0;
        match self.groups.lookup(&id.0, &mut index) {
            Ok(()) => Ok(self.slots.get(index as usize)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        // What it guards is whole after every statement that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which programs have to look at a group, and where.
struct Lines {
    usage: bool,
    kernel: bool,
    level: usize,
}

impl Lines {
    fn of(slot: &GroupSlot) -> Self {
        let some = |line: &AtomicU64| line.load(Relaxed) != NO_LINE;
        let level = usize::try_from(slot.level.load(Relaxed)).unwrap_or(0).min(MAX_LEVEL as usize);
        Self {
            usage: some(&slot.deny_line)
                || some(&slot.tell_line)
                || slot.high.load(Relaxed) != HIGH_OF_KERNEL,
            kernel: some(&slot.kernel_line) || some(&slot.kernel_tell_line),
            level,
        }
    }

    fn wanted(limit: &GroupLimit) -> Self {
        Self {
            usage: limit.deny.is_some() || limit.tell.is_some() || limit.high.is_some(),
            kernel: limit.kernel.is_some() || limit.kernel_tell.is_some(),
            level: 0,
        }
    }
}

/// Strictly above so many whole pages is strictly above so many bytes.
fn pages(bytes: Bytes) -> u64 {
    bytes.pages(Bytes(sys::page_size()))
}

fn fill(slot: &GroupSlot, limit: &GroupLimit) {
    slot.deny_line.store(limit.deny.map_or(NO_LINE, pages), Relaxed);
    slot.tell_line.store(limit.tell.map_or(NO_LINE, pages), Relaxed);
    if !(Lines::of(slot).kernel && Lines::wanted(limit).kernel) {
        // Nobody counts, or nobody has: what was counted is worth nothing.
        slot.kernel_seeded.store(0, Relaxed);
        slot.kernel_crossed.store(0, Relaxed);
        slot.kernel_pages.store(0, Relaxed);
        slot.nothing_pending();
    }
    slot.kernel_line.store(limit.kernel.map_or(NO_LINE, pages), Relaxed);
    slot.kernel_tell_line.store(limit.kernel_tell.map_or(NO_LINE, pages), Relaxed);
    let high = match limit.high {
        None => HIGH_OF_KERNEL,
        Some(Limit::Max) => HIGH_MAX,
        Some(Limit::At(bytes)) => pages(bytes),
    };
    slot.high.store(high, Relaxed);
    slot.tag.store(limit.tag, Relaxed);
    slot.level.store(limit.level, Release);
}

fn raw_limit(limit: &TaskLimit) -> Result<RawTaskLimit, Errno> {
    let mut raw = RawTaskLimit {
        group_line: NO_LINE,
        rss_line: NO_LINE,
        group: limit.group.map_or(0, |id| id.0),
        tag: limit.tag,
        ..RawTaskLimit::default()
    };
    match limit.condition.group {
        None => {}
        // No process has a line for kernel memory or for what is available.
        Some(
            Over::Kernel(_)
            | Over::Sockets(_)
            | Over::Pool(_)
            | Over::Available { .. }
            | Over::Pressure { .. },
        ) => {
            return Err(Errno::INVAL);
        }
        Some(Over::Amount(bytes)) => raw.group_line = pages(bytes),
        Some(Over::High { plus }) => (raw.group_line, raw.flags) = (pages(plus), TASK_HIGH),
    }
    if let Some(rss) = limit.condition.rss {
        raw.rss_line = pages(rss.over);
        let kinds = [(rss.kinds.anon, KIND_ANON), (rss.kinds.file, KIND_FILE), (rss.kinds.shmem, KIND_SHMEM)];
        raw.kinds = kinds.into_iter().filter(|(wanted, _)| *wanted).fold(0, |bits, (_, bit)| bits | bit);
    }
    let empty = raw.group_line == NO_LINE && raw.rss_line == NO_LINE;
    if empty != (limit.action == TaskAction::Nothing) {
        return Err(Errno::INVAL);
    }
    raw.flags |= if limit.held { TASK_HELD } else { 0 };
    raw.flags |= if limit.by_rule { TASK_RULE } else { 0 };
    match limit.action {
        TaskAction::Nothing => {}
        TaskAction::Tell => raw.action = ACTION_TELL,
        TaskAction::Deny => raw.action = ACTION_DENY,
        TaskAction::Kill => raw.action = ACTION_KILL,
        TaskAction::Signal { signal } if !(1..=64).contains(&signal) => return Err(Errno::INVAL),
        TaskAction::Signal { signal } => (raw.action, raw.signal) = (ACTION_SIGNAL, signal),
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::policy::{Condition, Kinds, RssOver};

    fn limit(group: Option<Over>, rss: Option<RssOver>, action: TaskAction) -> TaskLimit {
        TaskLimit {
            condition: Condition { group, rss },
            group: None,
            action,
            held: false,
            by_rule: false,
            tag: 7,
        }
    }

    #[test]
    fn lines_of_usage_and_of_kernel_memory_are_looked_at_apart() {
        let wanted = |limit: GroupLimit| {
            let lines = Lines::wanted(&limit);
            (lines.usage, lines.kernel)
        };
        let some = Some(Bytes(4096));
        assert_eq!(wanted(GroupLimit { kernel: some, ..GroupLimit::default() }), (false, true));
        assert_eq!(wanted(GroupLimit { kernel_tell: some, ..GroupLimit::default() }), (false, true));
        assert_eq!(wanted(GroupLimit { deny: some, ..GroupLimit::default() }), (true, false));
        assert_eq!(wanted(GroupLimit { high: Some(Limit::Max), ..GroupLimit::default() }), (true, false));
        assert_eq!(wanted(GroupLimit::default()), (false, false));
    }

    #[test]
    fn strictly_above_is_kept_by_whole_pages() {
        let raw = raw_limit(&limit(Some(Over::Amount(Bytes(8191))), None, TaskAction::Deny)).unwrap();
        assert_eq!((raw.group_line, raw.rss_line, raw.flags), (8191 / sys::page_size(), NO_LINE, 0));
        let high = Some(Over::High { plus: Bytes::mib(8) });
        let rss =
            Some(RssOver { kinds: Kinds { anon: true, file: false, shmem: true }, over: Bytes::mib(4) });
        let raw = raw_limit(&limit(high, rss, TaskAction::Kill)).unwrap();
        assert_eq!((raw.flags, raw.kinds, raw.action), (TASK_HIGH, KIND_ANON | KIND_SHMEM, ACTION_KILL));
        assert_eq!(raw.rss_line, Bytes::mib(4).0 / sys::page_size());
    }

    #[test]
    fn nothing_asked_and_no_signal_are_refused() {
        let some = Some(Over::Amount(Bytes(0)));
        assert_eq!(raw_limit(&limit(None, None, TaskAction::Deny)), Err(Errno::INVAL));
        for signal in [0, 65] {
            let action = TaskAction::Signal { signal };
            assert_eq!(raw_limit(&limit(some, None, action)), Err(Errno::INVAL));
        }
    }
}
