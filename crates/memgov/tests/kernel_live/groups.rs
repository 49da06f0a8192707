//! Control groups: identity, files, membership, freezing, killing, and what probing makes of them.

use super::*;

#[test]
fn a_group_is_its_inode_and_its_files_follow_the_kernel() {
    let layout = host();
    let test = TestGroup::new(&layout.memory.mount);
    let group = GroupDir::open(&layout, &test.in_hierarchy()).unwrap();
    let metadata = fs::metadata(&test.path).unwrap();
    assert_eq!((group.id(), group.owner()), (GroupId(metadata.ino()), Some(metadata.uid())));
    assert!(group.has_memory());
    assert!(subgroups(&layout, b"/").unwrap().contains(&test.name.as_bytes().into()));

    let (mut buffer, mut reading) = ([0; 512], Reading::default());
    group.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
    assert_eq!((reading.max, reading.oom_group), (Some(Limit::Max), Some(false)));
    match layout.version {
        MemoryVersion::V1 => {
            test.put("memory.limit_in_bytes", "64M");
            assert_eq!((group.kill(), group.events_file()), (Err(Errno::NOENT), None));
        }
        MemoryVersion::V2 => {
            assert_eq!(reading.high, Some(Limit::Max));
            test.put("memory.max", "64M");
            test.put("memory.high", "32M");
        }
    }
    group.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
    assert_eq!(reading.max, Some(Limit::At(Bytes(64 * MIB))));
    let high = (layout.version == MemoryVersion::V2).then_some(Limit::At(Bytes(32 * MIB)));
    assert_eq!(reading.high, high);

    group.read(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
    assert_eq!((reading.events.max, reading.events.oom_kill), (Some(0), Some(0)));
    let before = reading.usage.unwrap();
    let child = Own::spawn("sh", &["-c", "read go; exec dd if=/dev/zero bs=8M count=1 status=none"]);
    test.add(child.pid());
    (&mut child.0.stdin.as_ref().unwrap()).write_all(b"go\n").unwrap();
    // dd has filled its 8 MiB and waits for the pipe to be read.
    soon("8 MiB charged", || {
        group.read(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
        reading.usage.unwrap() >= Bytes(before.0 + 8 * MIB)
    });
    drop(child);
    drop(test);
    assert_eq!(group.read(&mut buffer, &mut reading, &mut |_, _| {}), Err(Errno::NODEV));
}

#[test]
fn newcomers_are_listed_at_once() {
    // cgroup v1 goes on giving an open cgroup.procs its first list; GroupDir must not.
    let layout = host();
    let test = TestGroup::new(&layout.memory.mount);
    let group = GroupDir::open(&layout, &test.in_hierarchy()).unwrap();
    assert_eq!(pids(&group), Vec::<u32>::new());
    let mut children = Vec::new();
    for _ in 0..5 {
        let child = Own::sleep();
        test.add(child.pid());
        children.push(child);
        let mut expected: Vec<_> = children.iter().map(Own::pid).collect();
        let mut listed = pids(&group);
        expected.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, expected);
    }
    let mut buffer = [0; 256];
    let path = proc::memory_group(&layout, children[0].pid(), &mut buffer).unwrap();
    assert_eq!(*path, *test.in_hierarchy());
}

#[test]
fn every_hierarchy_says_where_a_process_is() {
    let layout = host();
    let mut buffer = [0; 4096];
    let me = std::process::id();
    assert_eq!(proc::memory_group(&layout, me, &mut buffer).ok(), layout.own.memory);
    let freezer = proc::freezer_group(&layout, me, &mut buffer);
    assert_eq!(freezer, layout.own.freezer.clone().ok_or(Errno::NOENT));
    let unified = proc::unified_group(&layout, me, &mut buffer);
    assert_eq!(unified, layout.own.unified.clone().ok_or(Errno::NOENT));
    assert_eq!(proc::memory_group(&layout, u32::MAX, &mut buffer), Err(Errno::NOENT));
}

#[test]
fn cgroupfs_sees_the_same_in_the_unified_tree() {
    let layout = host();
    let unified = layout.unified.as_ref().expect("cgroup2 is mounted");
    let test = TestGroup::new(unified);
    let theirs = cgroupfs::CgroupReader::new(test.path.clone()).unwrap();
    assert_eq!(theirs.read_inode_number().unwrap(), fs::metadata(&test.path).unwrap().ino());
    let text = fs::read(test.path.join("memory.pressure")).unwrap();
    let (ours, pressure) = (psi::parse(&text), theirs.read_memory_pressure().unwrap());
    let total = |stall: Option<psi::Stall>| u64::try_from(stall.unwrap().total.as_micros()).unwrap();
    assert_eq!(Some(total(ours.some)), pressure.some.total);
    assert_eq!(Some(total(ours.full)), pressure.full.total);
    if layout.version == MemoryVersion::V2 {
        test.put("memory.high", "32M");
        let group = GroupDir::open(&layout, &test.in_hierarchy()).unwrap();
        let (mut buffer, mut reading) = ([0; 512], Reading::default());
        group.read(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
        group.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
        assert_eq!(reading.usage, Some(Bytes(theirs.read_memory_current().unwrap())));
        assert_eq!(theirs.read_memory_high().unwrap(), 32 << 20);
        assert_eq!(reading.high, Some(Limit::At(Bytes(32 * MIB))));
        assert_eq!((reading.max, theirs.read_memory_max().unwrap()), (Some(Limit::Max), -1));
        let events = theirs.read_memory_events().unwrap();
        assert_eq!((reading.events.high, reading.events.max), (events.high, events.max));
        assert_eq!((reading.events.oom, reading.events.oom_kill), (events.oom, events.oom_kill));
    }
}

#[test]
fn freezers_stop_a_process_and_let_it_go() {
    let layout = host();
    let mounts: Vec<_> = [&layout.unified, &layout.freezer].into_iter().flatten().collect();
    assert!(!mounts.is_empty());
    for mount in mounts {
        let test = TestGroup::new(mount);
        let parent = File::open(&test.path).unwrap();
        let hold = freeze::make_group(parent.as_fd(), c"memgov.hold-1").unwrap();
        assert_eq!(freeze::make_group(parent.as_fd(), c"memgov.hold-1").err(), Some(Errno::EXIST));
        let child = Own::sleep();
        freeze::move_pid(hold.as_fd(), child.pid()).unwrap();
        assert_eq!(freeze::move_pid(hold.as_fd(), 0), Err(Errno::SRCH));
        assert_eq!(freeze::remove_group(parent.as_fd(), c"memgov.hold-1"), Err(Errno::BUSY));
        assert_eq!(freeze::state(hold.as_fd()), Ok(FreezeState::Thawed));
        let file = FreezeFile::open(hold.as_fd()).unwrap();
        for _ in 0..20 {
            file.set(true).unwrap();
            soon("frozen", || freeze::state(hold.as_fd()) == Ok(FreezeState::Frozen));
            file.set(false).unwrap();
            soon("thawed", || freeze::state(hold.as_fd()) == Ok(FreezeState::Thawed));
        }
        drop(child);
        soon("empty", || freeze::remove_group(parent.as_fd(), c"memgov.hold-1").is_ok());
        let root = File::open(mount).unwrap();
        assert_eq!(freeze::freeze(root.as_fd(), true), Err(Errno::NOENT), "a root has no freezer");
    }
}

#[test]
fn a_threaded_group_says_that_it_lists_no_processes() {
    let layout = host();
    let unified = layout.unified.clone().expect("cgroup2 is mounted");
    let test = TestGroup::new(&unified);
    let child = test.path.join("threads");
    fs::create_dir(&child).unwrap();
    fs::write(child.join("cgroup.type"), "threaded").unwrap();
    let mut view = layout.clone();
    (view.memory.mount, view.version) = (unified, MemoryVersion::V2);
    let path = [&test.in_hierarchy()[..], b"/threads"].concat();
    let group = GroupDir::open(&view, &path).unwrap();
    assert_eq!(group.for_each_pid(&mut [0; 64], &mut |_| ()), Err(Errno::OPNOTSUPP));
    fs::remove_dir(child).unwrap();
}

#[test]
fn killing_a_group_of_v2_kills_all_of_it() {
    let layout = host();
    let unified = layout.unified.clone().expect("cgroup2 is mounted");
    let test = TestGroup::new(&unified);
    let mut children = [Own::sleep(), Own::sleep()];
    children.iter().for_each(|child| test.add(child.pid()));
    let mut view = layout.clone();
    (view.memory.mount, view.version) = (unified, MemoryVersion::V2);
    let group = GroupDir::open(&view, &test.in_hierarchy()).unwrap();
    group.kill().unwrap();
    for child in &mut children {
        assert_eq!(child.died_of(), Some(9));
    }
    soon("empty", || pids(&group).is_empty());
}

#[test]
fn probing_finds_what_the_other_tests_use_and_leaves_nothing_behind() {
    let layout = host();
    let (me, mut buffer) = (std::process::id(), [0; proc::STATUS_BUFFER]);
    let before = proc::read_oom_score_adj(me, &mut buffer).unwrap();
    let facts = Facts::probe(Path::new("/"));
    assert_eq!(
        (facts.memory, facts.whole_hierarchy),
        (Some(layout.version), Some(*layout.memory.root == *b"/"))
    );
    assert_eq!((facts.process.pidfd, facts.process.mrelease), (Some(true), Some(true)));
    assert_eq!(
        (facts.wake.psi, facts.wake.inotify, facts.wake.proc_connector),
        (Some(true), Some(true), Some(true))
    );
    assert_eq!(facts.wake.thresholds, Some(layout.version == MemoryVersion::V1));
    assert_eq!((facts.groups.kill, facts.groups.freeze), (Some(true), Some(true)));
    assert_eq!(facts.groups.high, Some(layout.version == MemoryVersion::V2));
    assert_eq!(facts.groups.v1_freezer, Some(layout.freezer.is_some()));
    assert!(!features(&facts).is_empty());

    assert_eq!(proc::read_oom_score_adj(me, &mut buffer), Ok(before));
    assert_eq!(proc::read_status(me, &mut buffer).unwrap().vm_locked, Some(Bytes(0)));
    let own = [(&layout.unified, &layout.own.unified), (&layout.freezer, &layout.own.freezer)];
    for (mount, group) in own {
        let (Some(mount), Some(group)) = (mount, group) else { continue };
        let dir = mount.join(std::ffi::OsStr::from_bytes(group.strip_prefix(b"/").unwrap()));
        let left = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let trial = format!("memgov.probe-{me}-");
        assert_eq!(left.filter(|name| name.as_bytes().starts_with(trial.as_bytes())).count(), 0);
    }
}
