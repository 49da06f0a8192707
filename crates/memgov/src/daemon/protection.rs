//! What memgov does for itself, so that it is still there when memory is not: locked memory, no OOM score, descriptors
//! enough, and on v2 a group of its own with memory of its own. Each is asked for and done without where it is refused.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::say;
use crate::kernel::{Errno, Layout, MemoryVersion, rlimit, sys};

/// memgov's own group on v2, where nobody has given it one.
pub(super) const OWN_GROUP: &str = "memgov.daemon";
/// What is kept for it (`memory.min`): its locked memory with room to spare.
const OWN_MEMORY: &str = "67108864";

/// The nice value of the loop: ahead of everybody ordinary, behind what is urgent for the machine itself.
const AHEAD: i32 = -10;

/// The heap of the loop grows by so much at a time.
const SPARE: u32 = 128 << 10;

/// Libraries that the loop does not call: two that read programs of the inner tier when they are loaded, and the one that unwinds the stack.
const NOT_OF_THE_LOOP: [&str; 3] = ["libelf", "libz.so", "libgcc_s.so"];

/// What is to be taken off again.
pub(super) struct Protection {
    own_group: Option<PathBuf>,
}

/// The memory of the loop, kept in RAM: the program, its stack, its tables and its one heap. Other threads may wait for a page; nobody
/// waits for them, and what they hold for whoever asks (JSON, events of the past) is not worth a server's RAM for ever.
#[derive(Debug)]
pub(super) struct Locked {
    /// Up to where the heap is locked; `None`: nothing is.
    end: Option<usize>,
}

impl Locked {
    /// Nothing is locked.
    #[cfg(test)]
    pub const fn nothing() -> Self {
        Self { end: None }
    }

    /// The loop's tables are made, and no other thread is started yet: what is mapped from here on is theirs.
    pub fn settle() -> Self {
        // That it cannot be was said when it was first tried.
        if !rlimit::may_lock_all() || sys::mlock_present().is_err() {
            return Self { end: None };
        }
        crate::bpf::unlock_programs();
        sys::munlock_seldom_read(&NOT_OF_THE_LOOP);
        sys::keep_one_heap(SPARE);
        Self { end: Some(sys::heap_end()) }
    }

    /// What the loop has allocated since (a new row, another policy) is locked too. Asks the kernel only if the heap has grown.
    pub fn grow(&mut self) {
        let Some(end) = self.end else { return };
        let now = sys::heap_end();
        if now > end && sys::mlock_heap(end, now).is_ok() {
            self.end = Some(now);
        }
    }
}

impl Protection {
    /// Puts on what can be had. Says what cannot.
    pub fn put_on(layout: &Layout, dry_run: bool) -> Self {
        more_descriptors();
        sys::map_large_pieces();
        if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
            say(&format!(
                "memgov: oom_score_adj -1000: {error}; the kernel's OOM killer may choose memgov itself"
            ));
        }
        let locked = if rlimit::may_lock_all() { sys::mlock_all() } else { Err(Errno::PERM) };
        if let Err(errno) = locked {
            say(&format!(
                "memgov: mlockall: {errno}; memgov's own pages may be swapped out (CAP_IPC_LOCK or LimitMEMLOCK=infinity helps)"
            ));
        }
        Self { own_group: own_group(layout).filter(|_| !dry_run).and_then(move_in) }
    }

    /// Puts the thread that calls it ahead of ordinary work, its own process's included: those who ask must not hold up
    /// those who govern, and a fork bomb must not either (setpriority(2); for one thread only, see NOTES there).
    pub fn go_ahead() {
        if let Err(errno) = rustix::process::setpriority_process(None, AHEAD) {
            say(&format!(
                "memgov: nice {AHEAD}: {errno}; on a busy machine memgov may be late (CAP_SYS_NICE helps)"
            ));
        }
    }

    /// Where it was started, if it has moved into a group of its own since: what is no part of it belongs there.
    pub fn home(&self) -> Option<&Path> {
        self.own_group.as_deref()?.parent()
    }

    /// Goes back to where it was started.
    pub fn take_off(self) {
        if let Some(group) = self.own_group
            && let Some(parent) = group.parent()
            && let Err(error) =
                fs::write(parent.join("cgroup.procs"), "0").and_then(|()| fs::remove_dir(&group))
        {
            say(&format!("memgov: leaving {}: {error}", group.display()));
        }
    }
}

/// A descriptor for each file of each row: the soft limit is raised to the hard one.
fn more_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(errno) = setrlimit(Resource::Nofile, raised) {
        say(&format!("memgov: raising the limit of open files: {errno}"));
    }
}

/// Where memgov's own group would be: on v2, if it was started in the root group. Under systemd the unit says what
/// is kept for it (`MemoryMin=`), and elsewhere somebody has put it where it is.
fn own_group(layout: &Layout) -> Option<PathBuf> {
    let in_root = layout.own.memory.as_deref() == Some(b"/");
    let may = layout.version == MemoryVersion::V2 && in_root;
    may.then(|| layout.memory.mount.join(OsStr::from_bytes(OWN_GROUP.as_bytes())))
}

fn move_in(group: PathBuf) -> Option<PathBuf> {
    match fs::create_dir(&group) {
        Ok(()) => {}
        // Left by a run that was killed.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            say(&format!("memgov: making {}: {error}; no memory is kept for memgov", group.display()));
            return None;
        }
    }
    if let Err(error) = fs::write(group.join("memory.min"), OWN_MEMORY) {
        say(&format!("memgov: {}/memory.min: {error}; no memory is kept for memgov", group.display()));
    }
    match fs::write(group.join("cgroup.procs"), "0") {
        Ok(()) => Some(group),
        Err(error) => {
            say(&format!("memgov: moving into {}: {error}", group.display()));
            // Nobody is in it.
            let _ = fs::remove_dir(&group);
            None
        }
    }
}
