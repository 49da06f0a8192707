//! [`super::GroupDir`] on invented trees: long lists, long paths, ways out, files that come and go.

use super::*;
use crate::kernel::layout::{Hierarchy, MountedRoots, OwnGroups};
use crate::kernel::sys;
use std::fs;
use std::path::Path;

fn layout(mount: &Path, version: MemoryVersion) -> Layout {
    let memory = Hierarchy { mount: mount.to_owned(), root: (*b"/").into() };
    let (own, roots) = (OwnGroups::default(), MountedRoots::default());
    Layout { memory, version, unified: None, freezer: None, pids: None, own, roots }
}

fn pids(group: &GroupDir, buffer: usize) -> Vec<u32> {
    let (mut buffer, mut pids) = (vec![0; buffer], Vec::new());
    group.for_each_pid(&mut buffer, &mut |pid| pids.push(pid)).unwrap();
    pids
}

#[test]
fn thousands_of_pids_go_through_any_buffer() {
    let root = tempfile::tempdir().unwrap();
    let expected: Vec<u32> = (1..5000).chain([4_194_304, u32::MAX]).collect();
    let text: String = expected.iter().map(|pid| format!("{pid}\n")).collect();
    fs::write(root.path().join("cgroup.procs"), text).unwrap();
    for version in [MemoryVersion::V1, MemoryVersion::V2] {
        let group = GroupDir::open(&layout(root.path(), version), b"/").unwrap();
        for buffer in [1, 2, 3, 7, 64, 4096, 100_000] {
            assert_eq!(pids(&group, buffer), expected, "{buffer}");
        }
        assert_eq!(group.for_each_pid(&mut [], &mut |_| ()), Err(Errno::INVAL));
    }
}

#[test]
fn what_is_no_pid_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.procs"), "0\n12\n4294967296\n-5\n\n1 2\nx\n77\n13").unwrap();
    let group = GroupDir::open(&layout(root.path(), MemoryVersion::V2), b"/").unwrap();
    for buffer in [1, 5, 512] {
        assert_eq!(pids(&group, buffer), [12, 77]);
    }
}

#[test]
fn paths_longer_than_the_kernel_takes_at_once_are_opened() {
    let root = tempfile::tempdir().unwrap();
    let name = "x".repeat(200);
    let mut dir = fs::File::open(root.path()).map(OwnedFd::from).unwrap();
    let mut path = Vec::new();
    for _ in 0..25 {
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        path.push(b'/');
        path.extend(name.as_bytes());
    }
    assert!(path.len() > 4096);
    let group = GroupDir::open(&layout(root.path(), MemoryVersion::V2), &path).unwrap();
    assert_eq!(group.id().0, rustix::fs::fstat(&dir).unwrap().st_ino);
    assert_eq!(group.owner(), Some(rustix::process::getuid().as_raw()));
}

#[test]
fn no_path_leads_out_of_the_hierarchy() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("mount/a")).unwrap();
    std::os::unix::fs::symlink(root.path(), root.path().join("mount/link")).unwrap();
    let layout = layout(&root.path().join("mount"), MemoryVersion::V2);
    for path in ["", "a", "/..", "/a/../..", "/./a", "//a", "/a/", "/a\0b"] {
        let error = GroupDir::open(&layout, path.as_bytes()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::INVAL), "{path:?}");
    }
    assert_eq!(GroupDir::open(&layout, b"/link").unwrap_err().errno(), Some(Errno::NOTDIR));
    let error = GroupDir::open(&layout, b"/gone").unwrap_err();
    assert_eq!((error.errno(), error.path.ends_with("mount/gone")), (Some(Errno::NOENT), true));
    assert!(error.to_string().starts_with("opening /"), "{error}");
    assert_eq!(subgroups(&layout, b"/").unwrap(), [(*b"a").into()]);
}

#[test]
fn missing_files_and_half_read_ones_are_none_never_0() {
    let root = tempfile::tempdir().unwrap();
    let layout = layout(root.path(), MemoryVersion::V2);
    let stale = Reading {
        kernel: None,
        sockets: None,
        sockets_apart: false,
        reclaimable: None,
        usage: Some(Bytes(1)),
        high: Some(Limit::Max),
        max: Some(Limit::Max),
        events: Events { high: Some(1), ..Events::default() },
        oom_group: Some(true),
        under_oom: Some(true),
    };
    let look = |buffer: usize| {
        let (mut buffer, mut reading) = (vec![0; buffer], stale);
        let group = GroupDir::open(&layout, b"/").unwrap();
        group.read(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
        group.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
        reading
    };
    assert_eq!(look(512), Reading::default());
    fs::write(root.path().join("memory.current"), "123456\n").unwrap();
    fs::write(root.path().join("memory.max"), "max\n").unwrap();
    fs::write(root.path().join("memory.events"), "low 0\nhigh 7\nmax 2\n").unwrap();
    let whole = look(512);
    assert_eq!((whole.usage, whole.max, whole.high), (Some(Bytes(123_456)), Some(Limit::Max), None));
    assert_eq!(whole.events, Events { high: Some(7), max: Some(2), ..Events::default() });
    // A buffer that cuts the number off must not make it smaller.
    let cut = look(4);
    assert_eq!((cut.usage, cut.max, cut.events), (None, Some(Limit::Max), Events::default()));
}

#[test]
fn kernel_memory_is_read_where_it_is_kept() {
    for (version, name, text) in [
        (MemoryVersion::V1, "memory.kmem.usage_in_bytes", "4096\n"),
        (MemoryVersion::V2, "memory.stat", "anon 8192\nfile 0\nkernel 4096\nkernel_stack 1024\n"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path(), version);
        std::fs::write(layout.memory.mount.join(name), text).unwrap();
        let mut dir = GroupDir::open(&layout, b"/").unwrap();
        let mut shown = Vec::new();
        assert_eq!(dir.read_kernel(&mut [0; 512], &mut |_, _| {}), Ok(None), "nobody asked");
        dir.keep_kernel(true);
        let read =
            dir.read_kernel(&mut [0; 512], &mut |name, text| shown.push((name.to_owned(), text.to_vec())));
        assert_eq!(read, Ok(Some(Bytes(4096))));
        // A trace is read back by what was shown.
        let mut reading = Reading::default();
        assert!(reading.apply(&shown[0].0, &shown[0].1, 4096));
        assert_eq!(reading.kernel, Some(Bytes(4096)));
    }
}

#[test]
fn how_a_group_fares_is_read_where_it_is_kept_and_it_can_be_reclaimed_from() {
    let pressure =
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
    let stat = format!(
        "anon 1\n{}pgscan 9\npgsteal 7\npgsteal_direct 7\nworkingset_refault_anon 2\nworkingset_refault_file 3\nzswpin 0\n",
        "filler 0\n".repeat(200)
    );
    let files = [
        ("memory.pressure", pressure),
        ("memory.stat", &stat),
        ("memory.swap.current", "8192\n"),
        ("memory.low", "4096\n"),
        ("memory.min", "0\n"),
    ];
    for (version, with_reclaim) in
        [(MemoryVersion::V2, true), (MemoryVersion::V2, false), (MemoryVersion::V1, true)]
    {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path(), version);
        for (name, text) in files {
            std::fs::write(layout.memory.mount.join(name), text).unwrap();
        }
        if with_reclaim {
            std::fs::write(layout.memory.mount.join("memory.reclaim"), "").unwrap();
        }
        let mut dir = GroupDir::open(&layout, b"/").unwrap();
        let mut read = |keep| {
            dir.keep_strain(keep);
            let mut shown = StrainReading::default();
            let mut tap =
                |name: &str, text: &[u8]| assert!(shown.apply(name, text, sys::page_size()), "{name}");
            let read = dir.read_strain(&mut [0; 8192], &mut tap).unwrap();
            // A trace is read back by what was shown.
            assert!(read.is_none_or(|read| read == shown));
            read
        };
        assert_eq!(read(false), None, "nobody asked");
        let found = read(true);
        assert_eq!(found.is_some(), version == MemoryVersion::V2 && with_reclaim);
        if let Some(StrainReading { strain, reserved }) = found {
            assert_eq!(strain.stalled, Some(std::time::Duration::from_micros(77)));
            assert_eq!((strain.refaults, strain.swap), (Some(5), Some(Bytes(8192))));
            assert_eq!((strain.taken, strain.came_back), (Some(Bytes(7 * 4096)), Some(Bytes(5 * 4096))));
            assert_eq!(reserved, Some(Limit::At(Bytes(4096))));
        }
        assert_eq!(read(false), None);
    }
}
