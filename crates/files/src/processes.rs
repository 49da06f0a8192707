//! Processes as `/proc` shows them.

use std::fs;
use std::path::{Path, PathBuf};

use fuser::Errno;

/// Where a process or thread is shown.
pub fn dir(pid: u32) -> PathBuf {
    format!("/proc/{pid}").into()
}

/// The same of a thread.
pub fn thread(pid: u32, tid: u32) -> PathBuf {
    format!("/proc/{pid}/task/{tid}").into()
}

/// Whether this is a process and not one of its further threads, which can be named in `/proc` too.
pub fn is_process(pid: u32) -> bool {
    let status = fs::read_to_string(dir(pid).join("status")).unwrap_or_default();
    line(&status, "Tgid:").and_then(|text| text.parse().ok()) == Some(pid)
}

/// When it started, in clock ticks: with its pid this is who it is.
pub fn start(pid: u32) -> Result<u64, Errno> {
    start_of(&dir(pid))
}

/// The same of a thread, as long as it is one of this process.
pub fn thread_start(pid: u32, tid: u32) -> Result<u64, Errno> {
    start_of(&thread(pid, tid))
}

fn start_of(dir: &Path) -> Result<u64, Errno> {
    // It may end between open and read: ESRCH of itself.
    let stat = fs::read(dir.join("stat")).map_err(|_| Errno::ESRCH)?;
    start_in(&String::from_utf8_lossy(&stat)).ok_or(Errno::ESRCH)
}

/// The 22nd field; the second is a name, which may hold anything.
fn start_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Whether a signal waits for this thread to return: it has been killed, or interrupted.
pub fn is_interrupted(tid: u32) -> bool {
    let Ok(status) = fs::read_to_string(dir(tid).join("status")) else { return true };
    let mask = |key| line(&status, key).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

/// Whether this is one of the further groups of a thread (its first the caller is told of). One that is out of sight (0) has none.
pub fn is_in_group(tid: u32, gid: u32) -> bool {
    let status = fs::read_to_string(dir(tid).join("status")).unwrap_or_default();
    lists(&status, gid)
}

fn lists(status: &str, gid: u32) -> bool {
    let groups = line(status, "Groups:").unwrap_or_default();
    groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid))
}

fn line<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lie_about_the_start() {
        let stat = "7 (a) S 1 2) 3 (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        assert_eq!(start_in(stat), Some(4711));
        assert_eq!(start_in("7 (a"), None);
    }

    #[test]
    fn further_groups() {
        let status = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t4 27 1000 \n";
        assert!(lists(status, 27) && lists(status, 1000) && !lists(status, 2) && !lists(status, 7));
        assert!(!lists("Groups:\t \n", 0) && !lists("", 0) && !is_in_group(0, 0));
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        assert!(is_process(pid) && start(pid).is_ok() && !is_interrupted(pid));
        assert_eq!(start(u32::MAX), Err(Errno::ESRCH));
        assert_eq!(thread_start(pid, pid), start(pid));
    }

    #[test]
    fn a_thread_is_no_more_when_its_process_still_is() {
        let pid = std::process::id();
        let (send, tid) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
            let _over = ended.recv();
        });
        let tid = tid.recv().unwrap();
        assert!(thread_start(pid, tid).is_ok());
        assert_eq!(thread_start(1, tid), Err(Errno::ESRCH), "it is this process's");
        drop(end);
        thread.join().unwrap();
        // join() waits for the thread's memory, which the kernel clears a little before the thread is gone.
        while thread_start(pid, tid).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(thread_start(pid, tid), Err(Errno::ESRCH));
    }
}
