//! What the tests of `act` share: groups of their own in every hierarchy, real processes in them, decisions as a governor would give them, and
//! the state of it all to compare. Everything made here is removed by its drop.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use memgov::act::{Actor, GroupDirs, Ledger, Options};
use memgov::kernel::rlimit::{self, Pair, Resource};
use memgov::kernel::{GroupDir, Hierarchy, Layout, MemoryVersion, proc, sys};
use memgov_decide::decision::{
    Decision, DecisionId, EpisodeId, Order, Outcome, Phase, Ranking, Reason, Report, Source, Target,
};
use memgov_decide::policy::{Kinds, Meter, Pattern, ProcessMatch};
use memgov_decide::snapshot::{Group, GroupSlot, Process, ProcessId, ProcessSlot, Snapshot};

pub const ANON: Kinds = Kinds { anon: true, file: false, shmem: false };
pub const RESOURCES: [Resource; 3] = [Resource::Data, Resource::AddressSpace, Resource::MemLock];

/// A group of this name in the memory, freezer and unified hierarchies, with what a governor would know about it.
pub struct Rig {
    pub layout: Layout,
    pub snap: Snapshot,
    pub group: Target,
    pub state: tempfile::TempDir,
    dirs: Vec<PathBuf>,
    dir: GroupDir,
    children: Vec<Child>,
}

thread_local! {
    static CHOSEN: Cell<usize> = const { Cell::new(0) };
}

/// Runs a test on every layout that this host can play.
pub fn on_each_layout(test: impl Fn()) {
    for choice in 0..layouts().len() {
        CHOSEN.set(choice);
        test();
    }
    CHOSEN.set(0);
}

/// As [`on_each_layout`], each time with a rig of its own and somebody to act in it.
pub fn with_actor(test: impl Fn(Rig, Actor)) {
    with_actor_of(&|| Options { max_processes: 256, ..Options::default() }, test);
}

/// The same with these options.
pub fn with_actor_of(options: &dyn Fn() -> Options, test: impl Fn(Rig, Actor)) {
    on_each_layout(|| {
        let rig = Rig::new();
        let actor = rig.actor_with(options());
        test(rig, actor);
    });
}

/// Never touches a program of this name.
pub fn sparing(comm: &str) -> Options {
    let never = vec![ProcessMatch { comm: vec![Pattern::new(comm)], ..Default::default() }];
    Options { never, ..Options::default() }
}

/// The host's own layout; on a hybrid host also that of a host with the unified hierarchy alone: act needs no memory files.
fn layouts() -> Vec<Layout> {
    let own = Layout::detect(Path::new("/")).unwrap();
    let mut layouts = vec![own.clone()];
    if let (MemoryVersion::V1, Some(mount)) = (own.version, &own.unified) {
        let root = own.roots.unified.clone().unwrap();
        let memory = Hierarchy { mount: mount.clone(), root };
        layouts.push(Layout { memory, version: MemoryVersion::V2, freezer: None, ..own });
    }
    layouts
}

impl GroupDirs for Rig {
    fn dir(&self, slot: GroupSlot) -> Option<&GroupDir> {
        (slot == GroupSlot(0)).then_some(&self.dir)
    }
}

impl Rig {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("memgov-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let layout = layouts().swap_remove(CHOSEN.get());
        let dirs: Vec<_> = mounts(&layout).into_iter().map(|mount| mount.join(&name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let path = format!("/{name}");
        let dir = GroupDir::open(&layout, path.as_bytes()).unwrap();
        let mut snap = Snapshot::with_capacity(4, 64);
        let slot = snap.groups.insert(Group::new(dir.id(), path.as_bytes())).unwrap();
        let group = Target::Group(dir.id(), GroupSlot(slot));
        let state = tempfile::tempdir().unwrap();
        Self { layout, snap, group, state, dirs, dir, children: Vec::new() }
    }

    pub fn ledger_path(&self) -> PathBuf {
        self.state.path().join("ledger")
    }

    pub fn actor(&self) -> Actor {
        self.actor_with(Options { max_processes: 256, ..Options::default() })
    }

    pub fn actor_with(&self, options: Options) -> Actor {
        let (ledger, leftovers) = Ledger::open_sized(&self.ledger_path(), 64).unwrap();
        assert_eq!(leftovers, []);
        Actor::new(&self.layout, ledger, options).unwrap()
    }

    /// Runs a shell script in the group; what it prints can be read.
    pub fn spawn(&mut self, script: &str) -> (Target, BufReader<ChildStdout>) {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for dir in self.dirs() {
            fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let target = self.target(child.id());
        self.children.push(child);
        (target, out)
    }

    /// Spawns a `sleep`, and waits until that is its name.
    pub fn sleeper(&mut self) -> Target {
        let (target, _) = self.spawn("exec sleep 60");
        eventually("exec", || {
            fs::read_to_string(format!("/proc/{}/comm", pid(target))).is_ok_and(|comm| comm == "sleep\n")
        });
        target
    }

    /// Gives a process a row.
    pub fn target(&mut self, pid: u32) -> Target {
        let id = identify(pid);
        let mut row = Process::new(id);
        row.group = Some(GroupSlot(0));
        Target::Process(id, ProcessSlot(self.snap.processes.insert(row).unwrap()))
    }

    /// Writes a line to the stdin of a spawned process.
    pub fn tell(&mut self, target: Target, line: &str) {
        let child = self.children.iter_mut().find(|c| c.id() == pid(target)).unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// How a spawned process ended.
    pub fn wait(&mut self, target: Target) -> std::process::ExitStatus {
        let at = self.children.iter().position(|c| c.id() == pid(target)).unwrap();
        self.children.remove(at).wait().unwrap()
    }

    /// This group in each hierarchy.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.dirs.clone()
    }

    /// Spawns what waits for a line, and has come to that: as with [`Rig::spinner`].
    pub fn waiter(&mut self) -> Target {
        let (target, mut out) = self.spawn("echo up; read x");
        assert_eq!(line(&mut out), "up");
        eventually("it waits", || {
            proc::read_stat(pid(target), &mut [0; proc::STAT_BUFFER]).is_ok_and(|stat| stat.state == b'S')
        });
        target
    }

    /// Spawns what uses as much of the processor as it gets, and needs no more memory: a shell that is denied some while it
    /// still reads its script gives up.
    pub fn spinner(&mut self) -> Target {
        let (target, mut out) = self.spawn("i=0; while :; do i=$((i+1)); [ $i = 1000 ] && echo up; done");
        assert_eq!(line(&mut out), "up");
        target
    }

    /// Everything that memgov could have changed: limits, places and states of the processes, the group tree and its freezers.
    pub fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        for child in &self.children {
            let pid = child.id();
            state.insert(format!("{pid} limits"), format!("{:?}", limits(pid)));
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            state.insert(format!("{pid} groups"), groups);
            let stat = proc::read_stat(pid, &mut [0; proc::STAT_BUFFER]).unwrap();
            state.insert(format!("{pid} stopped"), (stat.state == b'T').to_string());
        }
        for dir in self.dirs() {
            describe(&dir, &mut state);
        }
        state
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for dir in self.dirs() {
            remove(&dir);
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        for dir in self.dirs() {
            // The dead leave a moment later.
            let until = Instant::now() + Duration::from_secs(5);
            while dir.exists() && fs::remove_dir(&dir).is_err() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Thaws and empties a tree: even after a test has failed half-way nothing stays frozen.
fn remove(dir: &Path) {
    let _ = fs::write(dir.join("cgroup.freeze"), "0");
    let _ = fs::write(dir.join("freezer.state"), "THAWED");
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        // Whoever ends by himself meanwhile need not be ended.
        if let Ok(pid) = pid.parse::<u32>()
            && let Ok(who) = proc::identify(pid, &mut [0; proc::STAT_BUFFER])
            && let Ok(process) = memgov::kernel::pidfd::PidFd::open(who)
        {
            let _ = process.send(9);
        }
    }
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path());
            let until = Instant::now() + Duration::from_secs(2);
            while fs::remove_dir(child.path()).is_err() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn describe(dir: &Path, state: &mut BTreeMap<String, String>) {
    // A hold group may go while it is looked at.
    let Ok(children) = fs::read_dir(dir) else { return };
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    // Only what was asked for: whether it has happened yet depends on the moment.
    let freezer = [read("cgroup.freeze"), read("freezer.self_freezing"), read("pids.max")].concat();
    state.insert(dir.display().to_string(), freezer);
    for child in children.flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            describe(&child.path(), state);
        }
    }
}

/// The mounts a test group is made in.
fn mounts(layout: &Layout) -> Vec<PathBuf> {
    let mut mounts = vec![layout.memory.mount.clone()];
    for mount in [&layout.freezer, &layout.unified, &layout.pids].into_iter().flatten() {
        if !mounts.contains(mount) {
            mounts.push(mount.clone());
        }
    }
    mounts
}

pub fn identify(pid: u32) -> ProcessId {
    proc::identify(pid, &mut [0; proc::STAT_BUFFER]).unwrap()
}

pub fn pid(target: Target) -> u32 {
    match target {
        Target::Process(who, _) => who.pid,
        Target::Group(..) | Target::Host => panic!("neither a group nor the machine has a pid"),
    }
}

pub fn group_id(target: Target) -> memgov_decide::snapshot::GroupId {
    match target {
        Target::Group(id, _) => id,
        Target::Process(..) | Target::Host => panic!("no group"),
    }
}

pub fn limits(pid: u32) -> [Pair; 3] {
    RESOURCES.map(|resource| rlimit::get(pid, resource).unwrap())
}

pub fn set_soft(pid: u32, resource: Resource, soft: u64) {
    let hard = rlimit::get(pid, resource).unwrap().hard;
    rlimit::set(pid, resource, Pair { soft: Some(soft), hard }).unwrap();
}

pub fn decision(episode: u64, target: Target, order: Order) -> Decision {
    Decision {
        id: DecisionId(episode),
        episode: EpisodeId(episode),
        at: sys::now(),
        source: Source::Control,
        step: 0,
        target,
        order,
        reason: Reason::RuleGone,
        log: false,
        notable: true,
        ranking: Ranking::default(),
    }
}

pub fn deny(phase: Phase) -> Order {
    Order::Deny { phase, meter: Meter::Rss(ANON) }
}

pub fn deny_kernel(phase: Phase) -> Order {
    Order::Deny { phase, meter: Meter::Kernel }
}

pub fn slow(phase: Phase, share: u16) -> Order {
    Order::Slow { phase, share }
}

/// Performs an order of an episode.
pub fn order(actor: &mut Actor, rig: &Rig, episode: u64, target: Target, order: Order) -> Outcome {
    actor.perform(&decision(episode, target, order), &rig.snap, rig)
}

/// Ticks as the daemon would, for so long; returns the reports.
pub fn run(actor: &mut Actor, length: Duration) -> Vec<Report> {
    let (until, mut reports) = (sys::now() + length, Vec::new());
    loop {
        let now = sys::now();
        actor.tick(now, &mut |report| reports.push(report));
        if now >= until {
            return reports;
        }
        let next = actor.deadline().unwrap_or(until).min(until);
        std::thread::sleep(next.since(sys::now()));
    }
}

/// Waits until something holds, five seconds at most.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(settle(holds), "{what}: not within five seconds");
}

/// As [`eventually`], and says whether it holds.
pub fn settle(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while !holds() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// A file that can be read and not written, to root either, until this is dropped.
pub struct Sealed(PathBuf);

impl Sealed {
    pub fn new(file: &Path) -> Self {
        use rustix::mount::{MountFlags, mount_bind, mount_remount};
        mount_bind(file, file).unwrap();
        let sealed = Self(file.to_owned());
        mount_remount(file, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        sealed
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

/// The next line a child prints.
pub fn line(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// CPU time in clock ticks, in user mode and in the kernel.
pub fn cpu(target: Target) -> u64 {
    let stat = procfs::process::Process::new(i32::try_from(pid(target)).unwrap()).unwrap().stat().unwrap();
    stat.utime + stat.stime
}
