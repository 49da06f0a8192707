//! Processes: `/proc` against the `procfs` crate, pidfds, signals, limits.

use super::*;

#[test]
fn a_process_may_call_itself_anything() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["foo) Z ", "a\nb) R 1 (", ") 0 0 0", "(((((((((((((((((("] {
        let program = dir.path().join(name);
        fs::copy("/bin/sleep", &program).unwrap();
        let child = Own(Command::new(&program).arg("1000").spawn().unwrap());
        let mut buffer = [0; proc::STATUS_BUFFER];
        let stat = proc::read_stat(child.pid(), &mut buffer).unwrap();
        assert_eq!((stat.pid, stat.ppid), (child.pid(), std::process::id()));
        let mut comm = [0; 16];
        let len = name.len().min(15);
        comm[..len].copy_from_slice(&name.as_bytes()[..len]);
        assert_eq!(stat.comm, comm);
        assert_eq!(proc::exe(child.pid()).as_deref(), Some(program.as_os_str().as_bytes()));
        assert!(proc::read_rss(child.pid(), &mut buffer).unwrap().file.is_some());
    }
}

#[test]
fn every_process_here_reads_as_procfs_reads_it() {
    let mut buffer = [0; proc::STATUS_BUFFER];
    let mut compared = 0;
    for pid in proc::pids(Path::new("/")).unwrap() {
        let Ok(before) = proc::read_stat(pid, &mut buffer) else { continue };
        let Ok(process) = procfs::process::Process::new(pid.cast_signed()) else { continue };
        let (Ok(stat), Ok(status)) = (process.stat(), process.status()) else { continue };
        let (Ok(after), Ok(ours)) = (proc::read_stat(pid, &mut buffer), proc::read_status(pid, &mut buffer))
        else {
            continue;
        };
        if before.comm != after.comm || before.ppid != after.ppid || before.start != after.start {
            continue; // Changed under our eyes.
        }
        compared += 1;
        assert_eq!((after.start, after.ppid.cast_signed()), (stat.starttime, stat.ppid));
        assert_eq!(after.kernel_thread, stat.flags & 0x0020_0000 != 0);
        let len = stat.comm.len().min(15);
        assert_eq!(&after.comm[..len], &stat.comm.as_bytes()[..len]);
        assert_eq!(ours.uids, Some([status.ruid, status.euid, status.suid, status.fuid]));
        assert_eq!(ours.cap_ipc_lock, Some(status.capeff & 1 << 14 != 0));
        assert_eq!(ours.vm_size.is_none(), status.vmsize.is_none());
    }
    assert!(compared > 0);
}

#[test]
fn a_stopped_process_has_the_rss_that_procfs_sees() {
    let child = Own::sleep();
    let mut buffer = [0; 64]; // Far smaller than the file.
    // Right after execve it has nothing in memory yet.
    soon("at work", || {
        let status = proc::read_status(child.pid(), &mut [0; 64]).unwrap();
        status.rss.file.is_some_and(|file| file.0 > 0) && status.vm_data.is_some_and(|data| data.0 > 0)
    });
    PidFd::open(child.id()).unwrap().send(19).unwrap();
    soon("stopped", || proc::read_stat(child.pid(), &mut [0; proc::STAT_BUFFER]).unwrap().state == b'T');
    let ours = proc::read_status(child.pid(), &mut buffer).unwrap();
    let theirs = procfs::process::Process::new(child.pid().cast_signed()).unwrap().status().unwrap();
    let kib = |n: Option<u64>| n.map(|n| Bytes(n * 1024));
    assert_eq!(ours.rss.anon, kib(theirs.rssanon));
    assert_eq!((ours.rss.file, ours.rss.shmem), (kib(theirs.rssfile), kib(theirs.rssshmem)));
    assert_eq!((ours.vm_size, ours.vm_data), (kib(theirs.vmsize), kib(theirs.vmdata)));
    assert!(ours.rss.file.unwrap().0 > 0 && ours.vm_data.unwrap().0 > 0);
}

#[test]
fn a_pidfd_is_the_process_that_was_meant() {
    let mut child = Own::sleep();
    let who = child.id();
    let other = ProcessId { start: who.start + 1, ..who };
    assert_eq!(PidFd::open(other).err(), Some(Errno::SRCH));
    assert_eq!(PidFd::open(ProcessId { pid: 0, start: 0 }).err(), Some(Errno::SRCH));
    let pidfd = PidFd::open(who).unwrap();
    assert_eq!((pidfd.exited(), pidfd.send(0)), (Ok(false), Ok(())));
    assert_eq!(pidfd.send(65), Err(Errno::INVAL));
    assert_eq!(pidfd.release_memory(), Err(Errno::INVAL), "it is alive");
    pidfd.send(9).unwrap();
    assert!(matches!(pidfd.release_memory(), Ok(()) | Err(Errno::SRCH)));
    assert!(ready(pidfd.as_fd(), PollFlags::IN, Duration::from_secs(10)));
    assert_eq!(pidfd.exited(), Ok(true), "a zombie has exited");
    assert_eq!(child.died_of(), Some(9));
    assert_eq!(pidfd.send(9), Err(Errno::SRCH));
    assert_eq!(PidFd::open(who).err(), Some(Errno::SRCH));
}

#[test]
fn every_signal_that_kills_arrives_realtime_ones_included() {
    for signal in [1, 10, 12, 15, 34, 63, 64] {
        let mut child = Own::sleep();
        PidFd::open(child.id()).unwrap().send(signal).unwrap();
        assert_eq!(child.died_of(), Some(signal.into()));
    }
    // The C library's own two: whoever started this test may have made all its children ignore them.
    let child = Own::sleep();
    let pidfd = PidFd::open(child.id()).unwrap();
    assert_eq!((pidfd.send(32), pidfd.send(33)), (Ok(()), Ok(())));
}

#[test]
fn limits_of_a_child_are_set_and_refuse() {
    let mut child = Own::spawn("sh", &["-c", "read go; ulimit -v"]);
    let before = rlimit::get(child.pid(), Resource::AddressSpace).unwrap();
    let new = Pair { soft: Some(1 << 30), hard: before.hard };
    assert_eq!(rlimit::set(child.pid(), Resource::AddressSpace, new), Ok(before));
    (&mut child.0.stdin.as_ref().unwrap()).write_all(b"go\n").unwrap();
    let mut said = [0; 8];
    child.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"1048576\n");
    assert_eq!(rlimit::get(u32::MAX >> 1, Resource::Data), Err(Errno::SRCH));
}
