//! `kernel` against the kernel that is running: as root, on cgroup v1, v2 or both. Groups are made below
//! `memgov-ktest-…` at the roots of the hierarchies and removed; only own children are touched.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod groups;
mod processes;
mod wakeups;

use memgov::kernel::capabilities::{Facts, features};
use memgov::kernel::forks::{ProcessEvent, ProcessEvents};
use memgov::kernel::freeze::{self, FreezeFile, FreezeState};
use memgov::kernel::notify::{Inotify, Notice, Threshold};
use memgov::kernel::pidfd::PidFd;
use memgov::kernel::rlimit::{self, Pair, Resource};
use memgov::kernel::{Errno, GroupDir, Layout, MemoryVersion, Reading, proc, psi, subgroups};
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::{Bytes, Limit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn host() -> Layout {
    Layout::detect(Path::new("/")).unwrap()
}

/// Waits for what the kernel does in its own time.
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A group directly below the root of a hierarchy; removed at the end, once its processes are.
struct TestGroup {
    path: PathBuf,
    name: String,
}

impl TestGroup {
    fn new(mount: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("memgov-ktest-{}-{n}", std::process::id());
        let path = mount.join(&name);
        fs::create_dir(&path).unwrap();
        Self { path, name }
    }
    fn in_hierarchy(&self) -> Vec<u8> {
        format!("/{}", self.name).into_bytes()
    }
    fn add(&self, pid: u32) {
        freeze::move_pid(File::open(&self.path).unwrap().as_fd(), pid).unwrap();
    }
    fn put(&self, file: &str, value: &str) {
        fs::write(self.path.join(file), value).unwrap();
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        for _ in 0..500 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
        eprintln!("left behind: {}", self.path.display());
    }
}

/// A child that dies with the test.
struct Own(Child);

impl Own {
    fn spawn(program: &str, arguments: &[&str]) -> Self {
        Self(
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }
    fn sleep() -> Self {
        Self::spawn("sleep", &["1000"])
    }
    fn pid(&self) -> u32 {
        self.0.id()
    }
    /// The signal it died of; it must within 10 s.
    fn died_of(&mut self) -> Option<i32> {
        let mut status = None;
        soon("death", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().signal()
    }
    fn id(&self) -> ProcessId {
        proc::identify(self.pid(), &mut [0; proc::STAT_BUFFER]).unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pids(group: &GroupDir) -> Vec<u32> {
    // One byte: every number straddles reads.
    let mut pids = Vec::new();
    group.for_each_pid(&mut [0; 1], &mut |pid| pids.push(pid)).unwrap();
    pids
}

fn ready(fd: BorrowedFd<'_>, flags: PollFlags, wait: Duration) -> bool {
    let mut fds = [PollFd::new(&fd, flags)];
    let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
    poll(&mut fds, Some(&timeout)).unwrap() > 0
}
