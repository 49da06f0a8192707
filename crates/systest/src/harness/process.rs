//! What `/proc` says about one process, read from outside. Hostile names are in play, so fields of `stat` are counted from
//! the last `)`.

use std::fs;

/// The state letter, or `None` when it is gone.
pub fn state(pid: i32) -> Option<char> {
    after_comm(pid)?.chars().next()
}

/// Whether it runs or could: neither gone nor a zombie.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// User and system time in clock ticks.
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    let text = after_comm(pid)?;
    let mut fields = text.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Processor time of its threads whose name begins so, in nanoseconds: `/proc/PID/task/*/schedstat` (Documentation/scheduler/sched-stats.rst). What
/// ended threads used is not in it.
pub fn thread_time(pid: i32, name: &str) -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        if fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name)) {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            sum += text.split(' ').next()?.parse::<u64>().ok()?;
        }
    }
    Some(sum)
}

/// The names of its threads.
pub fn threads(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| Some(fs::read_to_string(task.path().join("comm")).ok()?.trim_end().to_owned()))
        .collect()
}

/// What its descriptors are of: paths, or names as `anon_inode:bpf-prog`.
pub fn open_files(pid: i32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect()
}

fn after_comm(pid: i32) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    Some(text.rsplit_once(')')?.1.trim().to_owned())
}

/// The three limits memgov lowers, as `/proc/PID/limits` has them (readable for every user's processes).
pub fn limits(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let kept = ["Max address space", "Max data size", "Max locked memory"];
    let lines = text.lines().filter(|line| kept.iter().any(|name| line.starts_with(name)));
    Some(
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("; "),
    )
}

/// Its groups in every hierarchy.
pub fn groups(pid: i32) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// A line of `/proc/PID/status`, without its name.
pub fn status(pid: i32, name: &str) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// Resident KiB.
pub fn rss_kib(pid: i32) -> Option<u64> {
    status(pid, "VmRSS")?.split(' ').next()?.parse().ok()
}

/// KiB locked in memory, counted by what is mapped.
pub fn locked_kib(pid: i32) -> Option<u64> {
    status(pid, "VmLck")?.split(' ').next()?.parse().ok()
}

/// KiB of its first thread's heap that are not locked.
pub fn unlocked_heap_kib(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut heap, mut size, mut outside) = (false, 0, 0);
    for line in text.lines() {
        if let Some(kib) = line.strip_prefix("Size:") {
            size = kib.trim().split(' ').next()?.parse().ok()?;
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            outside += if heap && !flags.split(' ').any(|flag| flag == "lo") { size } else { 0 };
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            heap = line.ends_with("[heap]");
        }
    }
    Some(outside)
}

/// System calls that read, over its life.
pub fn reads(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse().ok())
}

/// System calls that write, over its life.
pub fn writes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("syscw: ")?.parse().ok())
}

/// Voluntary context switches of all its threads: how often it went to sleep, so how often it woke.
pub fn wakeups(pid: i32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("status")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    };
    Some(threads.flatten().filter_map(of).sum())
}

/// Major page faults of one thread so far: those that had to wait for a disk (proc_pid_stat(5)).
pub fn major_faults(pid: i32, tid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    // state ppid pgrp session tty tpgid flags minflt cminflt majflt
    text.rsplit_once(')')?.1.trim().split(' ').nth(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_about_itself() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(is_alive(own));
        assert!(limits(own).unwrap().starts_with("Max data size"), "{:?}", limits(own));
        assert_eq!(limits(own).unwrap().split(';').count(), 3);
        assert!(rss_kib(own).unwrap() > 100);
        assert!(wakeups(own).is_some() && cpu_ticks(own).is_some() && reads(own).is_some());
        assert!(!is_alive(i32::MAX) && limits(i32::MAX).is_none());
    }
}
