//! The trials behind [`Facts`]. Each is a few lines and stands alone: one that fails takes no other with it.

use super::{BpfFacts, CapabilityFacts, Facts, GroupFacts, ProcessFacts, WakeFacts};
use crate::kernel::cgroup::{Switches, v1, v2};
use crate::kernel::forks::ProcessEvents;
use crate::kernel::layout::{Layout, MemoryVersion};
use crate::kernel::notify::{Inotify, Notice, Threshold};
use crate::kernel::pidfd::PidFd;
use crate::kernel::psi::{Kind, Trigger};
use crate::kernel::{Errno, file, freeze, proc, text};
use memgov_decide::snapshot::ProcessId;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::thread::CapabilitySet;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

impl Facts {
    /// Tries everything, once, and puts back what it changed. `root` is `/`, or a recorded tree, of which only files are
    /// looked at: what needs a living kernel stays `None`.
    pub fn probe(root: &Path) -> Self {
        let alive = root == Path::new("/");
        let layout = Layout::detect(root);
        let capabilities = if alive { capability_facts() } else { CapabilityFacts::default() };
        let bpf = bpf_facts(root, capabilities);
        let (swap, zram) = swaps(root);
        let mut facts = Self { capabilities, bpf, swap, zram, ..Self::default() };
        match &layout {
            Ok(layout) => {
                let places = Places::find(layout, alive);
                facts.memory = Some(layout.version);
                facts.whole_hierarchy = Some(*layout.memory.root == *b"/");
                facts.groups = group_facts(layout, &places, root, alive);
                facts.wake = wake_facts(layout, &places, alive);
            }
            Err(error) => facts.no_memory = Some(error.to_string()),
        }
        if alive {
            facts.process = process_facts();
            facts.wake.proc_connector = Some(matches!(ProcessEvents::open(), Ok(Some(_))));
            facts.wake.psi = Some(host_trigger(Duration::from_secs(2)));
            facts.wake.psi_short_window = Some(host_trigger(Duration::from_secs(1)));
        }
        facts
    }
}

/// Groups to look at: memgov's own and those beside it, and where allowed an empty one made for the purpose.
struct Places {
    memory: Vec<OwnedFd>,
    unified: Vec<OwnedFd>,
    made_memory: Option<TrialGroup>,
    made_unified: Option<TrialGroup>,
    made_freezer: Option<TrialGroup>,
}

impl Places {
    fn find(layout: &Layout, alive: bool) -> Self {
        let own = &layout.own;
        let make = |mount: Option<&PathBuf>, own: Option<&[u8]>| {
            let dir = open_dir(&below(mount?, own?))?;
            alive.then(|| TrialGroup::make(dir)).flatten()
        };
        let made_memory = match layout.version {
            MemoryVersion::V1 => make(Some(&layout.memory.mount), own.memory.as_deref()),
            MemoryVersion::V2 => None,
        };
        let places = |mount: Option<&PathBuf>, own: Option<&[u8]>| {
            mount.map_or_else(Vec::new, |mount| existing_groups(mount, own.unwrap_or(b"/")))
        };
        Self {
            memory: places(Some(&layout.memory.mount), own.memory.as_deref()),
            unified: places(layout.unified.as_ref(), own.unified.as_deref()),
            made_memory,
            made_unified: make(layout.unified.as_ref(), own.unified.as_deref()),
            made_freezer: make(layout.freezer.as_ref(), own.freezer.as_deref()),
        }
    }

    /// The trial group in the memory hierarchy.
    fn memory_trial(&self, layout: &Layout) -> Option<&TrialGroup> {
        match layout.version {
            MemoryVersion::V1 => self.made_memory.as_ref(),
            MemoryVersion::V2 => self.made_unified.as_ref(),
        }
    }

    /// Whether groups say how much kernel memory they have, and the kernel counts it: with `cgroup.memory=nokmem` it says 0 for ever.
    fn account_kernel(&self, layout: &Layout, root: &Path) -> bool {
        !Switches::read(root).no_kernel && self.accounts(layout, v1::KERNEL, b"kernel")
    }

    fn account_sockets(&self, layout: &Layout, root: &Path) -> bool {
        let switched_off = layout.version == MemoryVersion::V2 && Switches::read(root).no_sockets;
        !switched_off && self.accounts(layout, v1::TCP, b"sock")
    }

    /// Whether there is this file on v1, this line of `memory.stat` on v2.
    fn accounts(&self, layout: &Layout, file: &CStr, key: &[u8]) -> bool {
        match layout.version {
            MemoryVersion::V1 => self.memory_has(layout, file),
            MemoryVersion::V2 => {
                let trial = self.memory_trial(layout).map(TrialGroup::dir);
                let mut dirs = self.memory.iter().map(|fd| fd.as_fd()).chain(trial);
                let mut buffer = [0; 512];
                dirs.any(|dir| {
                    let text = file::read_in(dir, v2::STAT, &mut buffer);
                    text.is_ok_and(|text| text::keyed(text, key).is_some())
                })
            }
        }
    }

    fn unified_has(&self, name: &CStr) -> bool {
        has(
            self.unified.iter().map(|fd| fd.as_fd()).chain(self.made_unified.as_ref().map(TrialGroup::dir)),
            name,
        )
    }

    fn memory_has(&self, layout: &Layout, name: &CStr) -> bool {
        has(
            self.memory.iter().map(|fd| fd.as_fd()).chain(self.memory_trial(layout).map(TrialGroup::dir)),
            name,
        )
    }
}

fn has<'d>(mut dirs: impl Iterator<Item = BorrowedFd<'d>>, name: &CStr) -> bool {
    dirs.any(|dir| {
        rustix::fs::accessat(dir, name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
    })
}

fn below(mount: &Path, path: &[u8]) -> PathBuf {
    mount.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

fn open_dir(path: &Path) -> Option<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// memgov's own group and a few of the first level: the root has not the files that others have.
fn existing_groups(mount: &Path, own: &[u8]) -> Vec<OwnedFd> {
    const ENOUGH: usize = 16;
    let mut dirs: Vec<_> = open_dir(&below(mount, own)).into_iter().collect();
    if let Ok(entries) = std::fs::read_dir(mount) {
        let children = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.extend(children.take(ENOUGH).filter_map(|entry| open_dir(&entry.path())));
    }
    dirs
}

/// An empty group that lives as long as this value.
struct TrialGroup {
    parent: OwnedFd,
    name: CString,
    dir: OwnedFd,
}

impl TrialGroup {
    fn make(parent: OwnedFd) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("memgov.probe-{}-{n}", std::process::id())).ok()?;
        let dir = freeze::make_group(parent.as_fd(), &name).ok()?;
        Some(Self { parent, name, dir })
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for TrialGroup {
    fn drop(&mut self) {
        // Nothing was ever in it; if it cannot be removed there is nobody to tell.
        let _ = freeze::remove_group(self.parent.as_fd(), &self.name);
    }
}

fn group_facts(layout: &Layout, places: &Places, root: &Path, alive: bool) -> GroupFacts {
    let unified = layout.unified.is_some();
    let freeze = match &places.made_unified {
        Some(group) => {
            freeze::freeze(group.dir(), true).and_then(|()| freeze::freeze(group.dir(), false)).is_ok()
        }
        None => unified && places.unified_has(c"cgroup.freeze"),
    };
    let v1_freezer = places.made_freezer.as_ref().map(|group| freeze::state(group.dir()).is_ok());
    GroupFacts {
        make_memory: alive.then(|| places.memory_trial(layout).is_some()),
        make_unified: alive.then(|| places.made_unified.is_some()),
        v1_freezer: alive.then(|| v1_freezer.unwrap_or(false)),
        high: Some(places.memory_has(layout, c"memory.high")),
        reclaim: Some(places.memory_has(layout, c"memory.reclaim")),
        oom_group: Some(places.memory_has(layout, c"memory.oom.group")),
        kill: Some(unified && places.unified_has(c"cgroup.kill")),
        freeze: Some(freeze),
        kernel: Some(places.account_kernel(layout, root)),
        sockets: Some(places.account_sockets(layout, root)),
        pids: Some(layout.pids.is_some()),
    }
}

fn wake_facts(layout: &Layout, places: &Places, alive: bool) -> WakeFacts {
    let thresholds =
        match (layout.version, places.made_memory.as_ref().map(TrialGroup::dir), places.memory.first()) {
            (MemoryVersion::V2, ..) => Some(false),
            _ if !alive => None,
            (_, Some(dir), _) => Some(Threshold::arm(dir, 1 << 20).is_ok()),
            (_, None, own) => own.map(|own| Threshold::arm(own.as_fd(), 1 << 20).is_ok()),
        };
    let inotify = places.made_unified.as_ref().map(|group| notices_freezing(group.dir()).unwrap_or(false));
    WakeFacts {
        inotify,
        thresholds,
        group_psi: Some(places.unified_has(c"memory.pressure")),
        ..WakeFacts::default()
    }
}

/// Freezing an empty group changes its `cgroup.events`: does inotify say so?
fn notices_freezing(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut inotify = Inotify::new(1).map_err(|error| error.errno().unwrap_or(Errno::IO))?;
    inotify.watch_file(dir, c"cgroup.events", 0)?;
    freeze::freeze(dir, true)?;
    freeze::freeze(dir, false)?;
    // Notifications of kernfs go through a work queue.
    let mut fds = [rustix::event::PollFd::new(&inotify, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 300_000_000 }))?;
    let (mut buffer, mut changed) = ([0; 1024], false);
    inotify.read(&mut buffer, &mut |notice| changed |= matches!(notice, Notice::Changed { .. }))?;
    Ok(changed)
}

fn process_facts() -> ProcessFacts {
    let me = std::process::id();
    let mut buffer = [0; proc::STAT_BUFFER];
    let own = proc::identify(me, &mut buffer).unwrap_or(ProcessId { pid: me, start: 0 });
    let pidfd = PidFd::open(own);
    ProcessFacts {
        pidfd: Some(pidfd.as_ref().is_ok_and(|fd| fd.send(0).is_ok())),
        // Alive and not dying: a kernel that has the call says EINVAL.
        mrelease: Some(pidfd.is_ok_and(|fd| fd.release_memory() == Err(Errno::INVAL))),
        mlockall: Some(may_lock(me)),
        oom_score_adj: Some(may_lower_oom_score_adj(me)),
        others_visible: Some(proc::read_stat(1, &mut buffer).is_ok()),
    }
}

/// If something is locked already, memgov has done it and it worked; unlocking again would undo that.
fn may_lock(me: u32) -> bool {
    let mut buffer = [0; proc::STATUS_BUFFER];
    let locked = proc::read_status(me, &mut buffer).ok().and_then(|status| status.vm_locked);
    if locked.is_some_and(|locked| locked.0 > 0) {
        return true;
    }
    // ONFAULT: the same permission, without reading everything in.
    let allowed = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).is_ok();
    allowed && munlockall().is_ok()
}

fn may_lower_oom_score_adj(me: u32) -> bool {
    const FILE: &str = "/proc/self/oom_score_adj";
    let mut buffer = [0; 16];
    let Ok(before) = proc::read_oom_score_adj(me, &mut buffer) else { return false };
    let allowed = std::fs::write(FILE, "-1000").is_ok();
    allowed && std::fs::write(FILE, before.to_string()).is_ok()
}

fn host_trigger(window: Duration) -> bool {
    let stall = Duration::from_millis(150);
    let path = Path::new("/proc/pressure/memory");
    matches!(Trigger::open(path, Kind::Some, stall, window), Ok(Some(_)))
}

fn capability_facts() -> CapabilityFacts {
    let effective = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    CapabilityFacts {
        kill: effective.contains(CapabilitySet::KILL),
        ipc_lock: effective.contains(CapabilitySet::IPC_LOCK),
        net_admin: effective.contains(CapabilitySet::NET_ADMIN),
        sys_resource: effective.contains(CapabilitySet::SYS_RESOURCE),
        sys_ptrace: effective.contains(CapabilitySet::SYS_PTRACE),
        sys_admin: effective.contains(CapabilitySet::SYS_ADMIN),
        bpf: effective.contains(CapabilitySet::BPF),
        perfmon: effective.contains(CapabilitySet::PERFMON),
    }
}

fn bpf_facts(root: &Path, capabilities: CapabilityFacts) -> BpfFacts {
    let lockdown = file::whole(&root.join("sys/kernel/security/lockdown")).ok();
    let lockdown = lockdown.as_deref().and_then(parse_lockdown);
    let allowed = capabilities.sys_admin || (capabilities.bpf && capabilities.perfmon);
    BpfFacts {
        btf: root.join("sys/kernel/btf/vmlinux").exists(),
        // `confidentiality` forbids reading kernel memory, without which nothing here would work.
        permitted: allowed && lockdown.as_deref() != Some("confidentiality"),
        lockdown,
        enforces: None,
        why_not: None,
    }
}

/// `none [integrity] confidentiality`: the word in brackets.
fn parse_lockdown(text: &[u8]) -> Option<String> {
    let chosen =
        text::words(text::only_line(text)?).find_map(|word| word.strip_prefix(b"[")?.strip_suffix(b"]"))?;
    Some(String::from_utf8_lossy(chosen).into_owned())
}

/// Whether `/proc/swaps` lists anything, and zram among it.
fn swaps(root: &Path) -> (Option<bool>, Option<bool>) {
    match file::whole(&root.join("proc/swaps")) {
        Ok(text) => {
            let mut areas = text::lines(&text).skip(1).peekable();
            let any = areas.peek().is_some();
            (Some(any), Some(areas.any(|area| area.starts_with(b"/dev/zram"))))
        }
        // A kernel without CONFIG_SWAP has no such file.
        Err(error) if error.errno() == Some(Errno::NOENT) => (Some(false), Some(false)),
        Err(_) => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        assert_eq!(parse_lockdown(b"none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(parse_lockdown(b"none integrity\n"), None);
        assert_eq!(parse_lockdown(b"[none] integrity confi"), None);
    }
}
