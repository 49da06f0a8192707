//! The memory hierarchy as the kernel shows it: where it is, its directories, and its own figures of kernel memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fuser::Errno;

/// Where memory groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    top: PathBuf,
    version: Version,
    /// The kernel charges no v2 group for its sockets. v1 does not look at that switch (`memcg_update_tcp_max` in mm/memcontrol.c).
    no_sockets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Keys of `memory.stat` that are kernel memory.
const KINDS: [&str; 10] = [
    "kernel",
    "kernel_stack",
    "pagetables",
    "sec_pagetables",
    "percpu",
    "sock",
    "vmalloc",
    "slab_reclaimable",
    "slab_unreclaimable",
    "slab",
];

impl Groups {
    /// From `/proc/self/mountinfo` and `/proc/cmdline`: v1 where there is a memory hierarchy of it, else v2.
    pub fn find(mountinfo: &str, cmdline: &str) -> Option<Self> {
        let words = cmdline.split_whitespace().take_while(|word| *word != "--");
        let switches = words.filter_map(|word| word.strip_prefix("cgroup.memory="));
        let no_sockets = switches.flat_map(|list| list.split(',')).any(|switch| switch == "nosocket");
        let mounts = mountinfo.lines().filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut back = back.split(' ');
            Some((front.split(' ').nth(4)?, back.next()?, back.nth(1).unwrap_or_default()))
        });
        let of = |version, place: &str| Self { top: unescaped(place), version, no_sockets };
        let mut found = None;
        for (place, kind, options) in mounts {
            if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
                return Some(of(Version::V1, place));
            }
            if kind == "cgroup2" && found.is_none() {
                found = Some(of(Version::V2, place));
            }
        }
        found
    }

    /// The directory of a group, by its path without the first slash.
    pub fn dir(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.top.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Kernel memory of a group.
    pub fn kernel_usage(&self, path: &[u8]) -> Result<u64, Errno> {
        let dir = self.dir(path);
        match self.version {
            Version::V1 => number(&dir.join("memory.kmem.usage_in_bytes")),
            Version::V2 => kind(&dir, "kernel"),
        }
    }

    /// The same by kind, in the lines of `memory.stat`. v1 does not divide it.
    pub fn kernel_stat(&self, path: &[u8]) -> Result<String, Errno> {
        let dir = self.dir(path);
        match self.version {
            Version::V1 => {
                let kernel = number(&dir.join("memory.kmem.usage_in_bytes"))?;
                let sockets = self.socket_usage(path);
                let sockets = sockets.map(|bytes| format!("sock {bytes}\n")).unwrap_or_default();
                Ok(format!("kernel {kernel}\n{sockets}"))
            }
            Version::V2 => {
                let text = read(&dir.join("memory.stat"))?;
                // The line is there, and says 0.
                let kinds = kinds(&text).filter(|(key, _)| *key != "sock" || !self.no_sockets);
                Ok(kinds.map(|(key, bytes)| format!("{key} {bytes}\n")).collect())
            }
        }
    }

    /// What the buffers of a group's sockets hold. ENODATA: nobody counts, which is not 0: v1 counts only where a limit was once written, and v2 of a kernel
    /// that was started with `cgroup.memory=nosocket` nowhere.
    pub fn socket_usage(&self, path: &[u8]) -> Result<u64, Errno> {
        let dir = self.dir(path);
        match self.version {
            Version::V1 => {
                let of = |name| number(&dir.join(name));
                let held = of("memory.kmem.tcp.usage_in_bytes")?;
                let counted = || {
                    let limited = of("memory.kmem.tcp.limit_in_bytes")? < i64::MAX.unsigned_abs() >> 1;
                    Ok::<_, Errno>(limited || of("memory.kmem.tcp.max_usage_in_bytes")? > 0)
                };
                if held > 0 || counted()? { Ok(held) } else { Err(Errno::ENODATA) }
            }
            Version::V2 if self.no_sockets => Err(Errno::ENODATA),
            Version::V2 => kind(&dir, "sock"),
        }
    }

    /// The most kernel memory there was, where the kernel keeps that (v1).
    pub fn kernel_peak(&self, path: &[u8]) -> Result<u64, Errno> {
        match self.version {
            Version::V1 => number(&self.dir(path).join("memory.kmem.max_usage_in_bytes")),
            Version::V2 => Err(Errno::ENODATA),
        }
    }

    /// It starts anew.
    pub fn reset_kernel_peak(&self, path: &[u8]) -> Result<(), Errno> {
        match self.version {
            Version::V1 => Ok(fs::write(self.dir(path).join("memory.kmem.max_usage_in_bytes"), "0")?),
            Version::V2 => Err(Errno::ENODATA),
        }
    }
}

/// One of them. ENODATA: there is no such line.
fn kind(dir: &Path, name: &str) -> Result<u64, Errno> {
    let text = read(&dir.join("memory.stat"))?;
    kinds(&text).find_map(|(key, bytes)| (key == name).then_some(bytes)).ok_or(Errno::ENODATA)
}

fn kinds(stat: &str) -> impl Iterator<Item = (&str, u64)> {
    let of = |line| str::split_once(line, ' ').and_then(|(key, bytes)| Some((key, bytes.parse().ok()?)));
    stat.lines().filter_map(of).filter(|(key, _)| KINDS.contains(key))
}

/// A file of a group; without it the kernel does not keep that, and a group that is gone has none either.
fn read(path: &Path) -> Result<String, Errno> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Errno::ENODATA,
        _ => error.into(),
    })
}

fn number(path: &Path) -> Result<u64, Errno> {
    read(path)?.trim().parse().map_err(|_| Errno::EIO)
}

/// A path of mountinfo, where `\040` is a space.
pub fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\');
        let code = octal.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let v1 = "35 31 0:32 / /cg\\040x/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";
        let at = |top: &str, version, no_sockets| Some(Groups { top: top.into(), version, no_sockets });
        assert_eq!(Groups::find(v2, ""), at("/sys/fs/cgroup", Version::V2, false));
        assert_eq!(Groups::find(&format!("{v2}{v1}"), "quiet"), at("/cg x/memory", Version::V1, false));
        let switched = "ro cgroup.memory=nokmem,nosocket quiet\n";
        assert_eq!(Groups::find(v2, switched), at("/sys/fs/cgroup", Version::V2, true));
        let of_init = "ro -- cgroup.memory=nosocket";
        assert_eq!(Groups::find(v2, of_init), at("/sys/fs/cgroup", Version::V2, false));
        assert_eq!(Groups::find("garbage\n1 2 - cgroup\n", ""), None);
    }

    #[test]
    fn kernel_memory_by_kind() {
        let stat = "anon 5\nkernel 9\nslab 3\nworkingset_refault_anon 1\nsock x\n";
        assert_eq!(kinds(stat).collect::<Vec<_>>(), [("kernel", 9), ("slab", 3)]);
    }
}
