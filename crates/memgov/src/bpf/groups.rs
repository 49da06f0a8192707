//! All groups in one pass: an iterator (`iter/cgroup`, since Linux 6.1) that is run when it is read from and leaves a record a group
//! in mapped memory. Three system calls a pass, however many groups there are: BPF_ITER_CREATE, one `read` that gives nothing but
//! runs the program over all of them, `close`.
//!
//! - The link that [`GroupPass::load`] makes is no attachment: nothing in the kernel calls the program but a read of ours.
//! - **The kernel holds `cgroup_mutex` for the length of a pass** and waits for it first. Whoever makes or removes groups meanwhile
//!   waits for us, and we for them; reading a file does neither. So a pass is for looking at many groups that are quiet, and who
//!   makes it should watch how long it took.
//! - Each value is exact, in the instant its group was visited. Groups that are dead, being removed, or without the memory controller have no
//!   record, nor has the root.

use super::load::{self, Failure, Source};
use super::raw::{Shared, iter_create};
use super::record::{RawGroupPass, RawGroupRecord};
use super::{Absent, GroupRecord, Hot};
use crate::kernel::{Errno, sys};
use libbpf_rs::{CgroupIterOpts, CgroupIterOrder, IterOpts, MapCore, Object};
use memgov_decide::snapshot::{Events, GroupId};
use memgov_decide::units::{Bytes, Limit};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The iterator over the groups of one hierarchy, and what its last pass found.
pub struct GroupPass {
    /// Keeps the program and its maps.
    link: OwnedFd,
    pass: Shared<RawGroupPass>,
    records: Shared<RawGroupRecord>,
    /// Records of the last complete pass.
    filled: u32,
}

impl GroupPass {
    /// Loads the program and ties it to the group `root` (an open directory, v1 or v2) and all below it, with room for `capacity` records of
    /// 88 bytes. Takes milliseconds. `Err`: this kernel, or these privileges, cannot; found by one pass that is made here.
    pub fn load(root: BorrowedFd<'_>, capacity: u32) -> Result<Self, Absent> {
        let mut new = load_and_tie(root, capacity).map_err(|failure| Absent {
            reason: format!("no iterator over this hierarchy's groups: {}", failure.brief()),
        })?;
        new.read().map_err(|errno| Absent { reason: format!("a first pass over all groups: {errno}") })?;
        Ok(new)
    }

    /// One pass. How many groups were visited; for those that `capacity` had no room for there is no record. (hot; three system
    /// calls, and it may wait: see above)
    pub fn read(&mut self) -> Hot<u64> {
        self.filled = 0;
        let pass = &self.pass[0];
        pass.seen.store(0, Relaxed);
        pass.complete.store(0, Release);
        let iterator = iter_create(self.link.as_fd())?;
        // Not tried again when interrupted: an iterator over groups cannot go on where it was.
        rustix::io::read(&iterator, &mut [0; 8])?;
        if pass.complete.load(Acquire) == 0 {
            return Err(Errno::IO);
        }
        let seen = pass.seen.load(Relaxed);
        self.filled = u32::try_from(seen.min(self.records.len() as u64)).unwrap_or(u32::MAX);
        Ok(seen)
    }

    /// The records of the last pass: where they are, and whose. Nothing if it failed. (hot)
    pub fn ids(&self) -> impl Iterator<Item = (u32, GroupId)> {
        let whose = |record: &RawGroupRecord| GroupId(record.id.load(Relaxed));
        (0..self.filled).zip(self.records.iter()).map(move |(at, record)| (at, whose(record)))
    }

    /// One of them. (hot)
    pub fn record(&self, at: u32) -> Option<GroupRecord> {
        (at < self.filled)
            .then(|| self.records.get(at as usize))
            .flatten()
            .map(|raw| record(raw, sys::page_size()))
    }
}

fn load_and_tie(root: BorrowedFd<'_>, capacity: u32) -> Result<GroupPass, Failure> {
    load::listening(|| {
        let mut object = load::open(Source::Groups)?;
        for mut map in object.maps_mut() {
            if map.name() == "records" {
                map.set_max_entries(capacity.max(1))?;
            }
        }
        let object = object.load()?;
        let missing = || libbpf_rs::Error::from_raw_os_error(libc::ENOENT);
        let program =
            object.progs_mut().find(|program| program.name() == "read_groups").ok_or_else(missing)?;
        let mut over = CgroupIterOpts::from_fd(root);
        over.order = CgroupIterOrder::DescendantsPre;
        let link = program.attach_iter_with_opts(IterOpts::Cgroup(over))?;
        // What libbpf keeps beside the descriptor is not needed any more.
        let link = link.as_fd().try_clone_to_owned()?;
        let (pass, records) =
            (shared(&object, ".data.pass", 1)?, shared(&object, "records", capacity.max(1))?);
        Ok(GroupPass { link, pass, records, filled: 0 })
    })
}

fn shared<T>(object: &Object, name: &str, count: u32) -> libbpf_rs::Result<Shared<T>> {
    let missing = || libbpf_rs::Error::from_raw_os_error(libc::ENOENT);
    let map = object.maps().find(|map| map.name() == name).ok_or_else(missing)?;
    Shared::map(map.as_fd(), map.value_size(), count as usize)
        .map_err(|errno| libbpf_rs::Error::from_raw_os_error(errno.raw_os_error()))
}

fn record(raw: &RawGroupRecord, page: u64) -> GroupRecord {
    let number = |field: &AtomicU64| field.load(Relaxed);
    GroupRecord {
        id: GroupId(number(&raw.id)),
        usage: amount(number(&raw.usage), page),
        high: limit(number(&raw.high), page),
        max: limit(number(&raw.max), page),
        swap: amount(number(&raw.swap), page),
        failcnt: number(&raw.failcnt),
        events: Events {
            high: Some(number(&raw.high_events)),
            max: Some(number(&raw.max_events)),
            oom: Some(number(&raw.oom_events)),
            oom_kill: Some(number(&raw.oom_kills)),
        },
        oom_group: number(&raw.oom_group) != 0,
    }
}

/// Pages of a page_counter. It may be below zero for a moment; files then say 0 less a little, as a huge number, which is no help.
fn amount(pages: u64, page: u64) -> Bytes {
    let pages = if i64::try_from(pages).is_ok() { pages } else { 0 };
    Bytes(pages.saturating_mul(page))
}

/// PAGE_COUNTER_MAX (include/linux/page_counter.h) stands for none.
fn limit(pages: u64, page: u64) -> Limit {
    let none = i64::MAX.unsigned_abs() / page.max(1);
    if pages >= none { Limit::Max } else { Limit::At(Bytes(pages * page)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_what_the_files_say() {
        assert_eq!(amount(3, 4096), Bytes(12288));
        assert_eq!(amount(u64::MAX - 1, 4096), Bytes(0));
        assert_eq!(limit(i64::MAX.unsigned_abs() / 4096, 4096), Limit::Max);
        assert_eq!(limit(0, 4096), Limit::At(Bytes(0)));
        assert_eq!(limit(25, 65536), Limit::At(Bytes(25 * 65536)));
    }
}
