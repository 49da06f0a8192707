//! Kernel memory of all groups at one moment, for whoever asks: what each holds with all below it, how much of that none of its living
//! groups below holds, and which processes there are to hold it. Reads files only, needs no privilege and no daemon; it takes its time and
//! allocates, so it is nothing for the loop.

mod holdings;

pub use holdings::{holdings, some_holdings, stack_size};

use std::path::Path;

use memgov_decide::kernel_memory::Breakdown;
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::{Bytes, Time};

use crate::kernel::cgroup::{self, Accounting, Switches};
use crate::kernel::{Errno, Error, GroupDir, Layout, MemoryVersion, Reading, file, subgroups, sys, text};

/// Groups beyond so many are left out, and counted.
const MOST: usize = 20_000;
/// So are groups deeper than so many below the one that is asked for: each is opened from the top.
const DEEPEST: usize = 256;

/// What was found out about one group.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its path below the mount.
    pub path: Box<[u8]>,
    /// Who it is.
    pub id: GroupId,
    /// Kernel memory of it and all below it. Where [`Account::accounting`] says that nobody counts, nothing is in it.
    pub breakdown: Breakdown,
    /// Whether there is a number, and why not.
    pub accounting: Accounting,
    /// The most kernel memory there was, where the kernel keeps it.
    pub peak: Option<Bytes>,
    /// All memory of it and all below it. The root of the hierarchy has no such account.
    pub usage: Option<Bytes>,
    /// What the living groups directly below hold with all below them.
    pub below: Below,
    /// Processes in the group itself.
    pub processes: u32,
    /// Processes in it and below it.
    pub processes_in_all: u32,
    /// Removed groups below it that still hold memory. v1 does not tell.
    pub dying: Option<u64>,
}

/// Sums over the groups directly below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// How many there are.
    pub groups: u32,
    /// Their kernel memory. `None`: one of them could not be read.
    pub kernel: Option<Bytes>,
    /// All their memory.
    pub usage: Option<Bytes>,
}

impl Account {
    /// Kernel memory that no living group below holds: the group's own processes do, or nobody alive in it does. The kernel makes over what a
    /// group holds to its parent when it is removed, so it is here that a removed group's kernel memory went.
    pub fn own(&self) -> Option<Bytes> {
        Some(self.breakdown.total? - self.below.kernel?)
    }

    /// All memory that no living group below holds: beside the group's own, page cache and shared memory of removed groups.
    pub fn own_usage(&self) -> Option<Bytes> {
        Some(self.usage? - self.below.usage?)
    }

    /// What is left of groups that were removed and of processes that ended or went elsewhere: kernel memory in the group's own name though
    /// no process is in it. `None` where one is: then nobody can tell the two apart.
    pub fn left_behind(&self) -> Option<Bytes> {
        self.own().filter(|_| self.processes == 0)
    }
}

/// All groups from one down.
#[derive(Clone, Debug)]
pub struct Survey {
    /// When it was begun.
    pub at: Time,
    /// How the files are spelt.
    pub version: MemoryVersion,
    /// The one that was asked for first, each before those below it.
    pub accounts: Vec<Account>,
    /// Groups that were left out for want of room.
    pub left_out: usize,
    /// Removed groups of the whole hierarchy that still hold something, where only that is told (v1). `None`: not known, or the whole
    /// hierarchy was not asked for.
    pub removed: Option<u64>,
    /// Sockets' buffers are charged to nobody (`cgroup.memory=nosocket`).
    pub no_sockets: bool,
}

/// Reads the group at `path` and all below it.
pub fn survey(layout: &Layout, path: &[u8]) -> Result<Survey, Error> {
    let mut buffer = vec![0; 16 << 10];
    let at = sys::now();
    let (mut accounts, left_out) = walk(layout, path, &mut buffer)?;
    let whole = whole(layout, path, &accounts, &mut buffer);
    let switches = Switches::read(Path::new("/"));
    let inhabited = is_inhabited(layout, path, &accounts);
    if let Some(root) = accounts.first_mut().filter(|_| path == b"/" && is_whole(layout)) {
        // What v1 says there is made of other numbers, without kernel memory (`mem_cgroup_usage` in mm/memcontrol.c). v2 has no file.
        root.usage = None;
    }
    for account in &mut accounts {
        account.accounting = cgroup::accounting(switches, account.breakdown.total, whole, inhabited);
        if account.accounting != Accounting::Accounted {
            account.breakdown = Breakdown::undivided(None, account.breakdown.sockets);
            (account.peak, account.below.kernel) = (None, None);
        }
        if switches.no_sockets {
            account.breakdown.sockets = None;
        }
    }
    let removed = if left_out == 0 { removed(layout, path, accounts.len()) } else { None };
    let (version, no_sockets) = (layout.version, switches.no_sockets);
    Ok(Survey { at, version, accounts, left_out, removed, no_sockets })
}

/// Reads all groups from one down, each before those below it, and adds up. A group that went meanwhile, or may not be read, is an error only
/// where it is the one that was asked for.
fn walk(layout: &Layout, path: &[u8], buffer: &mut [u8]) -> Result<(Vec<Account>, usize), Error> {
    let (mut accounts, mut parents, mut left_out) = (Vec::new(), Vec::new(), 0);
    let mut waiting = vec![(Box::<[u8]>::from(path), None, 0)];
    while let Some((path, parent, depth)) = waiting.pop() {
        if accounts.len() >= MOST || depth > DEEPEST {
            left_out += 1;
            parents.extend(parent.map(|parent| (parent, None)));
            continue;
        }
        match read(layout, &path, buffer) {
            Ok(account) => accounts.push(account),
            Err(error) if parent.is_none() => return Err(error),
            Err(_) => continue,
        }
        let index = accounts.len() - 1;
        parents.extend(parent.map(|parent| (parent, Some(index))));
        // Gone meanwhile, with nothing below it.
        let names = subgroups(layout, &path).unwrap_or_default();
        let child = |name: &[u8]| [path.strip_suffix(b"/").unwrap_or(&path), b"/", name].concat().into();
        waiting.extend(names.iter().rev().map(|name| (child(name), Some(index), depth + 1)));
    }
    // From the last one up: all below a group are complete before it is added to its own parent.
    for (parent, child) in parents.into_iter().rev() {
        let share = child.map(|child| Share::of(&accounts[child]));
        accounts[parent].add(share);
    }
    Ok((accounts, left_out))
}

/// What a group adds to its parent.
struct Share {
    kernel: Option<Bytes>,
    usage: Option<Bytes>,
    processes: u32,
}

impl Share {
    fn of(account: &Account) -> Self {
        Self { kernel: account.breakdown.total, usage: account.usage, processes: account.processes_in_all }
    }
}

impl Account {
    /// `None`: a group below that was left out.
    fn add(&mut self, share: Option<Share>) {
        self.below.groups += 1;
        let Some(Share { kernel, usage, processes }) = share else {
            (self.below.kernel, self.below.usage) = (None, None);
            return;
        };
        self.processes_in_all = self.processes_in_all.saturating_add(processes);
        // A group without the controller has no account of its own: what it holds is its parent's.
        if kernel.is_some() || usage.is_some() {
            let add = |sum: Option<Bytes>, more: Option<Bytes>| Some(sum? + more?);
            self.below.kernel = add(self.below.kernel, kernel);
            self.below.usage = add(self.below.usage, usage);
        }
    }
}

fn read(layout: &Layout, path: &[u8], buffer: &mut [u8]) -> Result<Account, Error> {
    let dir = GroupDir::open(layout, path)?;
    account(&dir, path, buffer).map_err(|errno| {
        Error::new("reading the memory files of", String::from_utf8_lossy(path).into_owned(), errno)
    })
}

fn account(dir: &GroupDir, path: &[u8], buffer: &mut [u8]) -> Result<Account, Errno> {
    let mut reading = Reading::default();
    dir.read_usage(buffer, &mut reading, &mut |_, _| ())?;
    let mut processes = 0;
    match dir.for_each_pid(buffer, &mut |_| processes += 1) {
        // A threaded group: its processes are listed in the one above it that is not.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    Ok(Account {
        path: path.into(),
        id: dir.id(),
        breakdown: dir.read_kernel_memory(buffer)?,
        accounting: Accounting::Unavailable,
        peak: dir.read_kernel_peak(buffer)?,
        usage: reading.usage,
        below: Below { groups: 0, kernel: Some(Bytes(0)), usage: Some(Bytes(0)) },
        processes,
        processes_in_all: processes,
        dying: dir.read_dying(buffer)?,
    })
}

/// The total of the mounted root, which tells whether anybody counts.
fn whole(layout: &Layout, path: &[u8], accounts: &[Account], buffer: &mut [u8]) -> Option<Bytes> {
    if path == b"/" {
        return accounts.first()?.breakdown.total;
    }
    GroupDir::open(layout, b"/").ok()?.read_kernel_memory(buffer).ok()?.total
}

/// Whether a process is in a group that is charged for something: the root of the hierarchy is not.
fn is_inhabited(layout: &Layout, path: &[u8], accounts: &[Account]) -> bool {
    accounts.first().is_some_and(|first| {
        let uncharged = if path == b"/" && is_whole(layout) { first.processes } else { 0 };
        first.processes_in_all > uncharged
    })
}

/// Whether the root of the hierarchy is what is mounted, and not a container's share that looks like it from inside: files that the root alone
/// has, or has not.
fn is_whole(layout: &Layout) -> bool {
    let mount = &layout.memory.mount;
    match layout.version {
        MemoryVersion::V1 => mount.join("release_agent").exists(),
        MemoryVersion::V2 => !mount.join("cgroup.type").exists(),
    }
}

/// v1: the kernel's count of groups of the memory hierarchy (`/proc/cgroups`, which goes on counting a removed one until nothing is charged to
/// it), less the directories there are. Only where the whole hierarchy is seen.
fn removed(layout: &Layout, path: &[u8], directories: usize) -> Option<u64> {
    if layout.version == MemoryVersion::V2 || path != b"/" || !is_whole(layout) {
        return None;
    }
    let table = file::whole(Path::new("/proc/cgroups")).ok()?;
    Some(counted_groups(&table)?.saturating_sub(directories as u64))
}

/// `memory 4 55 1`: name, hierarchy, groups, enabled.
fn counted_groups(table: &[u8]) -> Option<u64> {
    let row = text::lines(table).find(|line| line.starts_with(b"memory\t"))?;
    text::number(text::words(row).nth(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(total: Option<u64>, below: Option<u64>, processes: u32) -> Account {
        Account {
            path: (*b"/a").into(),
            id: GroupId(1),
            breakdown: Breakdown::undivided(total.map(Bytes), None),
            accounting: Accounting::Accounted,
            peak: None,
            usage: None,
            below: Below { groups: 1, kernel: below.map(Bytes), usage: None },
            processes,
            processes_in_all: processes,
            dying: None,
        }
    }

    #[test]
    fn what_is_left_behind_is_said_only_where_nobody_else_can_hold_it() {
        assert_eq!(account(Some(700), Some(300), 0).left_behind(), Some(Bytes(400)));
        assert_eq!(account(Some(700), Some(300), 1).left_behind(), None);
        assert_eq!(account(Some(700), Some(300), 1).own(), Some(Bytes(400)));
        assert_eq!(account(Some(700), None, 0).left_behind(), None, "a group below could not be read");
        assert_eq!(account(None, Some(0), 0).own(), None);
        assert_eq!(account(Some(300), Some(301), 0).own(), Some(Bytes(0)), "read one after the other");
    }

    #[test]
    fn groups_the_kernel_counts() {
        let table = b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nmemory\t4\t55\t1\nmemoryx\t4\t7\t1\n";
        assert_eq!(counted_groups(table), Some(55));
        assert_eq!(counted_groups(b"cpuset\t3\t1\t1\n"), None);
    }
}
