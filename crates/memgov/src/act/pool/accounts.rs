//! v1 counts the buffers of TCP only in groups for which a limit was written once, and only of sockets that were made after that (`tcpmem_active` in
//! mm/memcontrol-v1.c); a limit of the group above does not do. So for each group with a rule about sockets, and for all below it, the limit there is is written
//! once more: that changes nothing but that somebody counts, and is not undone.
//!
//! By a thread of its own, which goes through directories and waits for the kernel to change its code at the first such write of all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use memgov_decide::snapshot::{Group, GroupId};
use memgov_decide::units::Limit;

use crate::act::crew::try_lock;
use crate::kernel::cgroup::v1;
use crate::kernel::{Errno, GroupDir, Layout, MemoryVersion, file, subgroups};

/// Groups below are looked for so often: their sockets are not counted before they are found.
const ROUND: Duration = Duration::from_millis(250);
/// Groups that rules name, at most; of more the sockets may stay uncounted until there is room.
const MOST: usize = 1024;
/// No deeper than so far below one that a rule names.
const DEEPEST: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Accounts {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What the loop has seen and the thread has not taken over yet.
    named: Mutex<Vec<(GroupId, Arc<[u8]>)>>,
    over: AtomicBool,
}

impl Accounts {
    /// Whether somebody is to see to it. Allocates.
    pub fn plan(&mut self, layout: &Layout, wanted: bool) {
        if !wanted {
            self.stop();
            self.thread = None;
        }
        if !wanted || layout.version == MemoryVersion::V2 || self.thread.is_some() {
            return;
        }
        self.shared = Arc::new(Shared { named: Mutex::new(Vec::with_capacity(MOST)), ..Shared::default() });
        let (shared, layout) = (Arc::clone(&self.shared), layout.clone());
        let thread = std::thread::Builder::new()
            .name("memgov-tcp".into())
            .spawn(move || go_round(&shared, &layout, &mut |dir| count(dir)));
        // Without it nothing is counted, and that is said where it shows: no number.
        self.thread = thread.ok();
    }

    /// A group that a rule about sockets names. For the loop: neither waits nor allocates; what finds no room comes again with the next reading.
    pub fn open(&self, row: &Group) {
        if self.thread.is_none() {
            return;
        }
        let Some(mut named) = try_lock(&self.shared.named) else { return };
        if named.len() < named.capacity() && !named.iter().any(|(id, _)| *id == row.id) {
            named.push((row.id, Arc::clone(&row.path)));
        }
    }

    pub fn stop(&self) {
        self.shared.over.store(true, Ordering::Release);
    }

    pub fn stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        self.stop();
    }
}

type Count<'c> = &'c mut dyn FnMut(&GroupDir) -> Result<(), Errno>;

fn go_round(shared: &Shared, layout: &Layout, count: Count<'_>) {
    let mut known: HashMap<GroupId, Arc<[u8]>> = HashMap::new();
    let mut counted = HashSet::new();
    while !shared.over.load(Ordering::Acquire) {
        let mut named = shared.named.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(named.drain(..));
        drop(named);
        let mut there = HashSet::new();
        known.retain(|id, path| {
            let opened = GroupDir::open(layout, path).is_ok_and(|dir| dir.id() == *id);
            if opened {
                go_down(layout, path, DEEPEST, &mut counted, &mut there, count);
            }
            opened
        });
        counted.retain(|id| there.contains(id));
        std::thread::sleep(ROUND);
    }
}

fn go_down(
    layout: &Layout,
    path: &[u8],
    depth: usize,
    counted: &mut HashSet<GroupId>,
    there: &mut HashSet<GroupId>,
    count: Count<'_>,
) {
    let Ok(dir) = GroupDir::open(layout, path) else { return };
    there.insert(dir.id());
    if !counted.contains(&dir.id()) && count(&dir).is_ok() {
        counted.insert(dir.id());
    }
    drop(dir);
    if depth == 0 {
        return;
    }
    for name in subgroups(layout, path).unwrap_or_default() {
        go_down(layout, &[path, b"/", &name].concat(), depth - 1, counted, there, count);
    }
}

/// Writes the limit that there is, unless somebody has written one before. A limit that is written in between by somebody else is not lost: only where there is none is
/// anything written.
fn count(dir: &GroupDir) -> Result<(), Errno> {
    let mut buffer = [0; 64];
    if dir.counts_tcp(&mut buffer)? {
        return Ok(());
    }
    match dir.tcp_limit(&mut buffer)? {
        Some(Limit::Max) => file::write_in(dir.dir(), v1::TCP_LIMIT, b"-1"),
        _ => Ok(()),
    }
}
