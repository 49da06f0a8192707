//! Getting programs into the kernel: an object file for what is wanted together, all with the same maps, one for what reads groups, and what libbpf had to say when it failed.

use super::{Absent, Error};
use libbpf_rs::{ErrorKind, MapCore, Object, ObjectBuilder, OpenObject, PrintLevel, set_print};
use rustix::fd::{AsFd, OwnedFd};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// libelf reads words out of it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

macro_rules! object {
    ($name:literal) => {{
        static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".o")));
        &BYTES.0
    }};
}

/// A file of programs (c/), each of one concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Life,
    Deny,
    Charge,
    Rss,
    Oom,
    Groups,
    Counter,
    Ceiling,
    Forks,
    Sockets,
}

impl Source {
    /// The object that it is compiled into.
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Life => object!("life"),
            Self::Deny | Self::Charge | Self::Rss | Self::Oom | Self::Sockets => object!("usage"),
            Self::Counter | Self::Ceiling | Self::Forks => object!("kernel_memory"),
            Self::Groups => object!("groups"),
        }
    }

    /// Whether both are in the same object.
    pub fn is_with(self, other: Self) -> bool {
        std::ptr::eq(self.bytes(), other.bytes())
    }
}

/// The objects, which are read when programs are attached and never by the loop: half a megabyte that need not be locked.
pub(super) fn unlock() {
    for source in [Source::Life, Source::Deny, Source::Counter, Source::Groups] {
        // The pages at its ends may be other things' too: those stay as they are.
        let (bytes, page) = (source.bytes(), rustix::param::page_size());
        let start = bytes.as_ptr().addr().wrapping_neg() % page;
        let whole = bytes.get(start..).map_or(&[][..], |rest| &rest[..rest.len() / page * page]);
        // Not locked, then.
        let _ = crate::kernel::sys::munlock(whole);
    }
}

/// What libbpf says while loading; it knows no other way than a function for the whole process.
static SAID: Mutex<String> = Mutex::new(String::new());
/// One at a time, so that what is heard belongs to who listens.
static LISTENING: Mutex<()> = Mutex::new(());
/// Of a long verifier log the end is what matters.
const KEPT: usize = 4000;

/// Why loading failed.
pub(super) struct Failure {
    pub kind: ErrorKind,
    text: String,
}

impl Failure {
    fn new(error: &libbpf_rs::Error, said: &str) -> Self {
        Self { kind: error.kind(), text: format!("{error}{}{said}", if said.is_empty() { "" } else { ": " }) }
    }

    /// In one line, for people: of a verifier's log what stands before its count of instructions.
    pub fn brief(&self) -> String {
        const LINE: usize = 300;
        let lines: Vec<&str> = self.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let end = lines.iter().position(|line| line.starts_with("processed ")).unwrap_or(lines.len());
        let from = if end < lines.len() { end.saturating_sub(3) } else { 0 };
        let line = lines[from..end].join(" | ");
        let end = line.char_indices().nth(LINE).map_or(line.len(), |(at, _)| at);
        line[..end].to_owned()
    }

    /// With the end of the verifier's log.
    pub fn whole(&self) -> Error {
        Error(self.text.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` and keeps what libbpf says meanwhile instead of printing it.
pub(super) fn listening<T>(f: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, Failure> {
    let _one_at_a_time = lock(&LISTENING);
    lock(&SAID).clear();
    let before = set_print(Some((PrintLevel::Warn, |_, text| lock(&SAID).push_str(&text))));
    let result = f();
    set_print(before);
    result.map_err(|error| {
        let said = lock(&SAID);
        let start = said.len().saturating_sub(KEPT);
        let start = (start..said.len()).find(|&at| said.is_char_boundary(at)).unwrap_or(0);
        Failure::new(&error, said[start..].trim())
    })
}

/// The maps by name, as the first object made them.
pub(super) struct MapFds(Vec<(String, OwnedFd)>);

impl MapFds {
    pub fn of(object: &Object) -> Result<Self, Error> {
        let mut fds = Vec::new();
        for map in object.maps() {
            let name = map.name().to_string_lossy().into_owned();
            let fd = map
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| Error(format!("keeping map {name}: {error}")))?;
            fds.push((name, fd));
        }
        Ok(Self(fds))
    }

    /// Loads the named programs of the object that this file is in, over these maps.
    pub fn load(&self, source: Source, programs: &[&str]) -> Result<Object, Failure> {
        listening(|| {
            let mut object = open(source)?;
            for mut map in object.maps_mut() {
                let name = map.name().to_string_lossy().into_owned();
                if let Some((_, fd)) = self.0.iter().find(|(known, _)| *known == name) {
                    map.reuse_fd(fd.as_fd())?;
                }
            }
            for mut program in object.progs_mut() {
                let wanted = programs.iter().any(|wanted| program.name() == *wanted);
                program.set_autoload(wanted);
            }
            object.load()
        })
    }
}

/// Opens the object that this file is in.
pub(super) fn open(source: Source) -> libbpf_rs::Result<OpenObject> {
    ObjectBuilder::default().name("memgov")?.open_memory(source.bytes())
}

/// What can be seen without trying.
pub(super) fn hopeless() -> Option<Absent> {
    let absent = |reason: &str| Some(Absent { reason: reason.to_owned() });
    if fs::metadata("/sys/kernel/btf/vmlinux").is_err() {
        return absent(
            "this kernel does not describe its types (no /sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF",
        );
    }
    // Where a thread's count of interrupts is: see `in_interrupt` in c/judge.h.
    if !cfg!(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "powerpc64"
    )) {
        return absent(
            "on this processor memgov's programs cannot tell whether they interrupt somebody else; known are x86_64, arm64, riscv64 and powerpc64",
        );
    }
    if lockdown().as_deref() == Some("confidentiality") {
        return absent(
            "the kernel is locked down (confidentiality in /sys/kernel/security/lockdown): no program may read its memory",
        );
    }
    for (name, first, why) in FIRST_NAMESPACES {
        if !is_in(name, first) {
            return absent(&format!("memgov runs in a {name} namespace of its own: {why}"));
        }
    }
    None
}

/// Why the kernel said EPERM.
pub(super) fn forbidden(failure: &Failure) -> Absent {
    let sets = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let has = |wanted| sets.as_ref().is_ok_and(|sets| sets.contains(wanted));
    use rustix::thread::CapabilitySet as Set;
    let allowed = has(Set::SYS_ADMIN) || (has(Set::BPF) && has(Set::PERFMON));
    let reason = if !allowed {
        "memgov lacks CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN)".to_owned()
    } else {
        format!(
            "the kernel refuses to load tracing programs although memgov has the capabilities; lockdown: {}; {}",
            lockdown().unwrap_or_else(|| "unknown".to_owned()),
            failure.brief()
        )
    };
    Absent { reason }
}

/// `none [integrity] confidentiality`: the word in brackets.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let word = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))?;
    Some(word.to_owned())
}

/// Of these memgov must be in the first one, with its inode number (include/linux/proc_ns.h: PROC_PID_INIT_INO, PROC_CGROUP_INIT_INO), and why.
const FIRST_NAMESPACES: [(&str, u64, &str); 2] = [
    ("pid", 0xEFFF_FFFC, "programs see the pids of the first one (docker and podman: --pid=host)"),
    (
        "cgroup",
        0xEFFF_FFFB,
        "how deep a group lies cannot be seen from there, so programs would look for its limit at the wrong depth (docker and podman: --cgroupns=host)",
    ),
];

/// Whether this process is in the namespace with that number. One that cannot be read is not known to be it.
fn is_in(name: &str, number: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/self/ns/{name}")).is_ok_and(|it| it.ino() == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn another_namespace_is_told_from_the_first() {
        for (name, first, _) in FIRST_NAMESPACES {
            let own = fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino();
            assert!(is_in(name, own) && !is_in(name, own - 1));
            // Something else may be in the way before it.
            let said = hopeless().map(|absent| absent.reason);
            assert!(own == first || said.is_some(), "in a {name} namespace of its own");
            let named = said.is_some_and(|said| said.contains(&format!("a {name} namespace")));
            assert!(own != first || !named);
        }
        assert!(!is_in("no such namespace", 1));
    }
}
