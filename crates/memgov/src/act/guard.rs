//! Who is never touched: pid 1, memgov and its guardian, memgov's ancestors, kernel threads, and the administrator's never-list. Asked
//! anew for every process just before it is touched, from facts read at that moment.

use std::sync::Arc;

use memgov_decide::decision::Protected;
use memgov_decide::policy::{Pattern, ProcessMatch};
use memgov_decide::snapshot::Untouchable;

use super::guardian::Heart;
use super::paths;
use crate::bpf::Maps;
use crate::kernel::file::ShortPath;
use crate::kernel::layout::{Controller, Layout};
use crate::kernel::proc::{self, Stat};
use crate::kernel::roots::Roots;
use crate::kernel::{Errno, sys};

/// More generations than that between memgov and pid 1 are not looked for.
const MOST_ANCESTORS: usize = 64;

/// Knows who is not to be touched.
#[derive(Debug)]
pub struct Guard {
    never: Vec<ProcessMatch>,
    /// memgov and its ancestors.
    governors: Vec<u32>,
    guardian: Option<u32>,
    layout: Layout,
    roots: Roots,
    line: Box<[u8]>,
    path: Box<[u8]>,
    lease: Lease,
}

/// The lease of enforcement inside the kernel, and the guardian's. Every long look at many processes asks the guard about each: as long as it gets on, it is
/// alive. Without that a sweep of a fork bomb, on a processor that has it to share with the bomb, would outlast the lease and let the bomb go.
#[derive(Default)]
struct Lease {
    maps: Option<Arc<Maps>>,
    heart: Option<Heart>,
}

impl Lease {
    fn go_on(&self) {
        let now = sys::now();
        if let Some(maps) = &self.maps {
            maps.go_on(now);
        }
        if let Some(heart) = &self.heart {
            heart.beat(now);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}

impl Guard {
    /// Renews the lease of these from now on.
    pub fn keep_alive(&mut self, maps: Arc<Maps>) {
        self.lease.maps = Some(maps);
    }

    /// Tells the guardian from now on that the loop lives.
    pub fn beat(&mut self, heart: Heart) {
        self.lease.heart = Some(heart);
    }

    /// `guardian`: its pid, if there is one.
    pub fn new(layout: &Layout, never: Vec<ProcessMatch>, guardian: Option<u32>) -> Self {
        let mut governors = vec![std::process::id()];
        let mut buffer = [0; proc::STAT_BUFFER];
        let mut pid = std::process::id();
        for _ in 0..MOST_ANCESTORS {
            match proc::read_stat(pid, &mut buffer) {
                Ok(stat) if stat.ppid > 1 => pid = stat.ppid,
                _ => break,
            }
            governors.push(pid);
        }
        Self {
            never,
            governors,
            guardian,
            layout: layout.clone(),
            roots: Roots::look(),
            line: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
            path: vec![0; paths::LINE_BUFFER].into_boxed_slice(),
            lease: Lease::default(),
        }
    }

    /// Replaces the never-list, after a reload.
    pub fn set_never(&mut self, never: Vec<ProcessMatch>) {
        self.never = never;
    }

    /// Replaces the guardian, when it has died.
    pub fn set_guardian(&mut self, guardian: Option<u32>) {
        self.guardian = guardian;
    }

    /// Why the process may not be touched; `None`: it may.
    pub fn forbids(&mut self, stat: &Stat) -> Option<Protected> {
        self.lease.go_on();
        if stat.pid == 1 {
            return Some(Protected::Fact(Untouchable::Init));
        }
        if stat.kernel_thread {
            return Some(Protected::Fact(Untouchable::Kernel));
        }
        if self.governors.contains(&stat.pid) || self.guardian == Some(stat.pid) {
            return Some(Protected::Fact(Untouchable::Governor));
        }
        let never = std::mem::take(&mut self.never);
        let mut facts = Facts::of(stat);
        let listed = never.iter().any(|entry| self.matches(entry, &mut facts));
        self.never = never;
        listed.then_some(Protected::Never)
    }

    /// All that the entry gives must match. What cannot be read counts as a match: the list is there to protect. What costs least is asked first, and
    /// each of it once for all entries: this is asked of every process of a fork bomb, while that has the processor.
    fn matches(&mut self, entry: &ProcessMatch, of: &mut Facts<'_>) -> bool {
        let given =
            [!entry.comm.is_empty(), !entry.uid.is_empty(), !entry.exe.is_empty(), !entry.groups.is_empty()];
        given.contains(&true)
            && (entry.comm.is_empty() || any(&entry.comm, comm(of.stat)))
            && (entry.exe.is_empty() || of.exe_matches(&entry.exe, &self.roots))
            && (entry.uid.is_empty() || of.uid().is_none_or(|uid| entry.uid.contains(&uid)))
            && (entry.groups.is_empty() || self.group_matches(&entry.groups, of.stat.pid))
    }

    fn group_matches(&mut self, patterns: &[Pattern], pid: u32) -> bool {
        let found = paths::of_process(&self.layout, Controller::Memory, pid, &mut self.line, &mut self.path);
        found.map_or(true, |length| {
            let path = &self.path[..length];
            // The group or an ancestor of it.
            let ends = (1..length).filter(|&at| path[at] == b'/').chain([length]);
            ends.map(|end| &path[..end]).any(|path| any(patterns, path))
        })
    }
}

fn any(patterns: &[Pattern], text: &[u8]) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn comm(stat: &Stat) -> &[u8] {
    stat.comm.split(|&b| b == 0).next().unwrap_or_default()
}

/// What is read of a process for the never-list, when the first entry asks for it.
struct Facts<'a> {
    stat: &'a Stat,
    exe: Option<Exe>,
    uid: Option<Option<u32>>,
}

/// The program of a process, on the stack.
struct Exe {
    space: [u8; 4096],
    found: Found,
    /// Where it was found: the process, or a thread of it.
    shown_by: u32,
    /// It is another file than that of this path here; once it was asked for.
    elsewhere: Option<bool>,
}

enum Found {
    /// A path of this length.
    Path(usize),
    /// None any more: the process has given its memory back and ends.
    Ended,
    /// Not to be read.
    Unknown,
}

impl Exe {
    fn of(pid: u32) -> Self {
        let mut exe = Self { space: [0; 4096], found: Found::Unknown, shown_by: pid, elsewhere: None };
        let found = exe.read(pid).or_else(|_| {
            // A process whose first thread has ended shows its program only in the others.
            let mut buffer = [0; proc::STAT_BUFFER];
            match proc::read_stat(pid, &mut buffer) {
                Ok(stat) if stat.is_ending() => Ok(Found::Ended),
                Err(Errno::NOENT | Errno::SRCH) => Ok(Found::Ended),
                _ => {
                    exe.shown_by = proc::surviving_thread(pid, &mut buffer).unwrap_or(pid);
                    exe.read(exe.shown_by)
                }
            }
        });
        exe.found = found.unwrap_or(Found::Unknown);
        exe
    }

    fn read(&mut self, pid: u32) -> Result<Found, Errno> {
        let link = ShortPath::of_process(pid, b"exe")?;
        rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut self.space[..]).map(Found::Path)
    }

    fn matches(&mut self, patterns: &[Pattern], roots: &Roots) -> bool {
        match self.found {
            Found::Path(length) => {
                let (exe, shown_by) = (&self.space[..length], self.shown_by);
                // A program replaced by an upgrade is still that program. A container's is none of those that are meant.
                let named = any(patterns, exe)
                    || exe.strip_suffix(b" (deleted)").is_some_and(|exe| any(patterns, exe));
                named && !*self.elsewhere.get_or_insert_with(|| roots.is_elsewhere(shown_by, exe))
            }
            Found::Ended => false,
            Found::Unknown => true,
        }
    }
}

impl<'a> Facts<'a> {
    const fn of(stat: &'a Stat) -> Self {
        Self { stat, exe: None, uid: None }
    }

    fn uid(&mut self) -> Option<u32> {
        *self.uid.get_or_insert_with(|| uid(self.stat.pid))
    }

    fn exe_matches(&mut self, patterns: &[Pattern], roots: &Roots) -> bool {
        let pid = self.stat.pid;
        let exe = self.exe.get_or_insert_with(|| Exe::of(pid));
        exe.matches(patterns, roots)
    }
}

fn uid(pid: u32) -> Option<u32> {
    let mut buffer = [0; proc::STATUS_BUFFER];
    proc::read_status(pid, &mut buffer).ok()?.uids.map(|[real, ..]| real)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn stat(pid: u32) -> Stat {
        proc::read_stat(pid, &mut [0; proc::STAT_BUFFER]).unwrap()
    }

    #[test]
    fn facts_protect() {
        let layout = Layout::detect(Path::new("/")).unwrap();
        let mut guard = Guard::new(&layout, Vec::new(), Some(77));
        let me = stat(std::process::id());
        assert_eq!(guard.forbids(&stat(1)), Some(Protected::Fact(Untouchable::Init)));
        assert_eq!(guard.forbids(&me), Some(Protected::Fact(Untouchable::Governor)));
        assert_eq!(guard.forbids(&Stat { pid: me.ppid, ..me }), Some(Protected::Fact(Untouchable::Governor)));
        assert_eq!(guard.forbids(&Stat { pid: 77, ..me }), Some(Protected::Fact(Untouchable::Governor)));
        let thread = Stat { pid: 99, kernel_thread: true, ..me };
        assert_eq!(guard.forbids(&thread), Some(Protected::Fact(Untouchable::Kernel)));
    }

    #[test]
    fn the_never_list_protects_by_all_that_an_entry_gives() {
        let layout = Layout::detect(Path::new("/")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut guard = Guard::new(&layout, Vec::new(), None);
        let exe = std::fs::canonicalize(format!("/proc/{}/exe", std::process::id())).unwrap();
        let exe = Pattern::new(exe.to_str().unwrap());
        // Not forked-but-not-yet-exec'd.
        while comm(&stat(child.id())) != b"sleep" {}
        let sleep = || vec![Pattern::new("sl?ep")];
        let group = vec![Pattern::new("/**")];
        let cases = [
            (ProcessMatch { comm: sleep(), ..Default::default() }, true),
            (ProcessMatch { comm: sleep(), uid: vec![u32::MAX - 1], ..Default::default() }, false),
            (ProcessMatch { groups: group.clone(), ..Default::default() }, true),
            (ProcessMatch { comm: sleep(), groups: group, ..Default::default() }, true),
            (
                ProcessMatch {
                    exe: vec![Pattern::new("/**/sleep"), Pattern::new("/**/*coreutils*")],
                    ..Default::default()
                },
                true,
            ),
            (ProcessMatch { comm: sleep(), exe: vec![exe], ..Default::default() }, false),
            (ProcessMatch::default(), false),
        ];
        for (entry, protects) in cases {
            guard.set_never(vec![entry.clone()]);
            let expected = protects.then_some(Protected::Never);
            assert_eq!(guard.forbids(&stat(child.id())), expected, "{entry:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
