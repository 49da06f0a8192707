//! What wakes the loop: inotify, thresholds, pressure triggers, process events.

use super::*;

fn notices(inotify: &mut Inotify) -> Vec<String> {
    let (mut buffer, mut seen) = ([0; 4096], Vec::new());
    inotify.read(&mut buffer, &mut |notice| seen.push(format!("{notice:?}"))).unwrap();
    seen
}

#[test]
fn inotify_tells_of_groups_made_and_removed() {
    let layout = host();
    let test = TestGroup::new(&layout.memory.mount);
    let mut inotify = Inotify::new(2).unwrap();
    let dir = File::open(&test.path).unwrap();
    inotify.watch_children(dir.as_fd(), 42).unwrap();
    assert_eq!(inotify.watch_children(dir.as_fd(), 43), Err(Errno::EXIST));
    fs::create_dir(test.path.join("kid")).unwrap();
    fs::remove_dir(test.path.join("kid")).unwrap();
    let name = b"kid";
    let expected = [
        format!("{:?}", Notice::Created { token: 42, name }),
        format!("{:?}", Notice::Removed { token: 42, name }),
    ];
    assert_eq!(notices(&mut inotify), expected);
    // The kernel says nothing to the watch of a group that was itself removed: it is for the caller to end it.
    drop((dir, test));
    inotify.unwatch(42);
    assert!(inotify.is_empty());
    let again = TestGroup::new(&layout.memory.mount);
    inotify.watch_children(File::open(&again.path).unwrap().as_fd(), 42).unwrap();
    fs::create_dir(again.path.join("kid")).unwrap();
    fs::remove_dir(again.path.join("kid")).unwrap();
    assert_eq!(notices(&mut inotify), expected);
}

#[test]
fn inotify_tells_of_changed_control_files_and_is_bounded() {
    let layout = host();
    let test = TestGroup::new(layout.unified.as_ref().expect("cgroup2 is mounted"));
    let dir = File::open(&test.path).unwrap();
    let mut inotify = Inotify::new(1).unwrap();
    inotify.watch_file(dir.as_fd(), c"cgroup.events", 7).unwrap();
    assert_eq!(inotify.watch_children(dir.as_fd(), 8), Err(Errno::NOSPC));
    assert_eq!(notices(&mut inotify), <[String; 0]>::default());
    let child = Own::sleep();
    test.add(child.pid());
    assert!(ready(inotify.as_fd(), PollFlags::IN, Duration::from_secs(10)));
    assert_eq!(notices(&mut inotify)[0], format!("{:?}", Notice::Changed { token: 7 }));
    inotify.unwatch(7);
    assert_eq!(inotify.len(), 0);
    notices(&mut inotify);
    inotify.watch_children(dir.as_fd(), 8).unwrap();
}

#[test]
fn an_overflowing_inotify_queue_is_reported() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fd = File::open(dir.path()).unwrap();
    let mut inotify = Inotify::new(1).unwrap();
    inotify.watch_children(fd.as_fd(), 1).unwrap();
    for _ in 0..=limit / 2 {
        fs::create_dir(dir.path().join("x")).unwrap();
        fs::remove_dir(dir.path().join("x")).unwrap();
    }
    let seen = notices(&mut inotify);
    assert!(seen.len() <= limit + 1);
    assert_eq!(seen.last(), Some(&format!("{:?}", Notice::Overflow)));
}

#[test]
fn a_threshold_of_v1_wakes_when_usage_crosses_it() {
    let layout = host();
    let test = TestGroup::new(&layout.memory.mount);
    let dir = File::open(&test.path).unwrap();
    let armed = Threshold::arm(dir.as_fd(), 4 * MIB);
    if layout.version == MemoryVersion::V2 {
        assert_eq!(armed.err(), Some(Errno::NOENT));
        return;
    }
    let threshold = armed.unwrap();
    assert_eq!(threshold.crossed(), Ok(0));
    let child = Own::spawn("sh", &["-c", "read go; exec dd if=/dev/zero bs=16M count=1 status=none"]);
    test.add(child.pid());
    (&mut child.0.stdin.as_ref().unwrap()).write_all(b"go\n").unwrap();
    assert!(ready(threshold.as_fd(), PollFlags::IN, Duration::from_secs(10)));
    assert_eq!(threshold.crossed(), Ok(1));
    drop(child);
    assert!(ready(threshold.as_fd(), PollFlags::IN, Duration::from_secs(10)), "and back under it");
}

#[test]
fn pressure_triggers_are_armed_on_the_host_and_on_groups() {
    let (stall, window) = (Duration::from_millis(150), Duration::from_secs(2));
    let path = Path::new("/proc/pressure/memory");
    let pressure = psi::parse(&fs::read(path).unwrap());
    assert!(pressure.some.is_some() && pressure.full.is_some());
    let trigger = psi::Trigger::open(path, psi::Kind::Some, stall, window).unwrap().expect("PSI is on");
    assert!(!ready(trigger.as_fd(), PollFlags::PRI, Duration::ZERO));
    let error = psi::Trigger::open(path, psi::Kind::Full, window * 2, window).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::INVAL));
    let missing = psi::Trigger::open(Path::new("/proc/pressure/none"), psi::Kind::Some, stall, window);
    assert!(missing.unwrap().is_none());

    let test = TestGroup::new(host().unified.as_ref().expect("cgroup2 is mounted"));
    let dir = File::open(&test.path).unwrap();
    let trigger = psi::Trigger::open_in(dir.as_fd(), psi::Kind::Full, stall, window).unwrap().unwrap();
    drop((dir, test));
    assert!(ready(trigger.as_fd(), PollFlags::PRI, Duration::from_secs(10)), "the group is gone");
}

#[test]
fn births_and_deaths_are_told_and_threads_are_not() {
    let mut events = ProcessEvents::open().unwrap().expect("CAP_NET_ADMIN and CONFIG_PROC_EVENTS");
    let me = std::process::id();
    std::thread::spawn(|| ()).join().unwrap();
    let mut child = Own::sleep();
    let pid = child.pid();
    let (mut buffer, mut seen) = ([0; 4096], Vec::new());
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    soon("exit", || {
        events.read(&mut buffer, &mut |event| seen.push(event)).unwrap();
        seen.contains(&ProcessEvent::Exit { pid })
    });
    assert!(seen.contains(&ProcessEvent::Fork { parent: me, child: pid }));
    assert!(!seen.iter().any(|event| matches!(event, ProcessEvent::Fork { child, .. } if *child == me)));
}

/// The filter works in the kernel: what it drops never makes the socket readable.
#[test]
fn only_what_is_attended_to_is_heard() {
    let mut events = ProcessEvents::open().unwrap().expect("CAP_NET_ADMIN and CONFIG_PROC_EVENTS");
    let mut buffer = [0; 4096];
    let mut hear = |events: &mut ProcessEvents| {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        std::thread::spawn(|| ()).join().unwrap();
        let mut seen = Vec::new();
        events.read(&mut buffer, &mut |event| seen.push(event)).unwrap();
        (pid, seen)
    };
    events.attend(true).unwrap();
    hear(&mut events); // Takes away what came before the filter.
    let (pid, seen) = hear(&mut events);
    let of_child: Vec<_> = seen
        .into_iter()
        .filter(|event| match *event {
            ProcessEvent::Fork { child, .. } => child == pid,
            ProcessEvent::Exec { pid: who } | ProcessEvent::Exit { pid: who } => who == pid,
            ProcessEvent::Lost => false,
        })
        .collect();
    let born = ProcessEvent::Fork { parent: std::process::id(), child: pid };
    assert_eq!(of_child, [born, ProcessEvent::Exec { pid }, ProcessEvent::Exit { pid }]);
    events.attend(false).unwrap();
    hear(&mut events);
    assert_eq!(hear(&mut events).1, []);
}

#[test]
fn lost_events_are_reported() {
    let mut events = ProcessEvents::open().unwrap().expect("CAP_NET_ADMIN and CONFIG_PROC_EVENTS");
    rustix::net::sockopt::set_socket_recv_buffer_size(events.as_fd(), 1).unwrap();
    for _ in 0..50 {
        Command::new("true").status().unwrap();
    }
    let (mut buffer, mut lost) = ([0; 4096], false);
    events.read(&mut buffer, &mut |event| lost |= event == ProcessEvent::Lost).unwrap();
    assert!(lost);
}
