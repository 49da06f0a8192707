//! What runs on the path that acts allocates nothing: counted by an allocator that knows when it is watched. Needs `/proc` only.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod counting;

use counting::allocations;
use memgov::kernel::freeze::{self, FreezeFile, FreezeState};
use memgov::kernel::pidfd::PidFd;
use memgov::kernel::rlimit::{self, Resource};
use memgov::kernel::{GroupDir, Layout, Reading, proc, sys};
use std::os::fd::AsFd as _;
use std::path::Path;

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn reading_groups_allocates_nothing() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    for host in ["v1", "v2"] {
        let layout = Layout::detect(&fixtures.join(host)).unwrap();
        let group = GroupDir::open(&layout, b"/system.slice/builds.service").unwrap();
        let (mut buffer, mut reading, mut pids) = ([0; 512], Reading::default(), 0);
        let count = allocations(|| {
            group.read(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
            group.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
            group.for_each_pid(&mut buffer, &mut |_| pids += 1).unwrap();
        });
        assert_eq!(count, 0, "{host}");
        assert!(reading.usage.is_some() && reading.max.is_some() && pids >= 2);
    }
}

#[test]
fn looking_at_and_acting_on_processes_allocates_nothing() {
    let me = std::process::id();
    let mut buffer = [0; proc::STATUS_BUFFER];
    let count = allocations(|| {
        let who = proc::identify(me, &mut buffer).unwrap();
        assert!(proc::read_rss(me, &mut buffer).unwrap().anon.is_some());
        assert!(proc::read_oom_score_adj(me, &mut buffer).is_ok());
        let pidfd = PidFd::open(who).unwrap();
        pidfd.send(0).unwrap();
        assert_eq!(pidfd.exited(), Ok(false));
        assert!(pidfd.release_memory().is_err());
        let now = rlimit::get(me, Resource::Data).unwrap();
        assert_eq!(rlimit::set(me, Resource::Data, now), Ok(now));
        assert!(proc::read_stat(u32::MAX, &mut buffer).is_err());
        sys::now();
    });
    assert_eq!(count, 0);
}

#[test]
fn freezing_and_moving_allocates_nothing() {
    let group = tempfile::tempdir().unwrap();
    for file in ["cgroup.freeze", "cgroup.procs", "cgroup.events"] {
        std::fs::write(group.path().join(file), "frozen 0\n").unwrap();
    }
    let dir = std::fs::File::open(group.path()).unwrap();
    let count = allocations(|| {
        freeze::freeze(dir.as_fd(), true).unwrap();
        FreezeFile::open(dir.as_fd()).unwrap().set(false).unwrap();
        freeze::move_pid(dir.as_fd(), 4_194_304).unwrap();
        assert_eq!(freeze::state(dir.as_fd()), Ok(FreezeState::Thawed));
    });
    assert_eq!(count, 0);
    let said = |file| std::fs::read_to_string(group.path().join(file)).unwrap();
    assert!(said("cgroup.freeze").starts_with("0") && said("cgroup.procs").starts_with("4194304"));
}
