//! Which control-group hierarchies this host has, where they are mounted, and where memgov itself is in them. Read once
//! from `/proc/self/mountinfo` and `/proc/self/cgroup`; nothing is guessed from versions or distributions.

use super::{Error, file, text};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Which hierarchy the memory controller is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryVersion {
    /// A hierarchy of its own: `memory.limit_in_bytes`.
    V1,
    /// The unified hierarchy: `memory.max`.
    V2,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted, below the root that was asked for.
    pub mount: PathBuf,
    /// Which of its groups is mounted there: `/`, or the container's own.
    pub root: Box<[u8]>,
}

/// memgov's own groups, as seen below the mounts; `None` where the hierarchy is not mounted or the group is not below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnGroups {
    /// In the memory hierarchy.
    pub memory: Option<Box<[u8]>>,
    /// In the unified hierarchy.
    pub unified: Option<Box<[u8]>>,
    /// In the v1 freezer hierarchy.
    pub freezer: Option<Box<[u8]>>,
    /// In the pids hierarchy.
    pub pids: Option<Box<[u8]>>,
}

/// The groups that are mounted at the mount points of [`Layout`]; `/` outside containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountedRoots {
    /// Of the unified hierarchy.
    pub unified: Option<Box<[u8]>>,
    /// Of the v1 freezer hierarchy.
    pub freezer: Option<Box<[u8]>>,
    /// Of the pids hierarchy.
    pub pids: Option<Box<[u8]>>,
}

/// The hierarchies of a host. Paths of groups, here and everywhere in memgov, are those seen below the mount: `/` is what
/// is mounted, also where that is only one container's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The memory hierarchy.
    pub memory: Hierarchy,
    /// How its files are spelt.
    pub version: MemoryVersion,
    /// Where cgroup2 is mounted, with or without the memory controller.
    pub unified: Option<PathBuf>,
    /// Where the v1 freezer is mounted.
    pub freezer: Option<PathBuf>,
    /// Where the pids controller is: its v1 hierarchy, or the unified one.
    pub pids: Option<PathBuf>,
    /// Where memgov is.
    pub own: OwnGroups,
    /// What is mounted at those places.
    pub roots: MountedRoots,
}

impl Layout {
    /// How deep a group lies in its hierarchy, as the kernel counts: the root is 0, also where only a part is mounted.
    pub fn level_of(&self, path: &[u8]) -> u32 {
        let depth = |path: &[u8]| path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).count();
        u32::try_from(depth(&self.memory.root) + depth(path)).unwrap_or(u32::MAX)
    }
}

/// A hierarchy, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Memory, v1 or v2.
    Memory,
    /// cgroup2.
    Unified,
    /// The v1 freezer.
    Freezer,
    /// The pids controller, v1 or v2.
    Pids,
}

impl Controller {
    /// Its column in `/proc/PID/cgroup` of a v1 hierarchy.
    const fn v1_name(self) -> &'static [u8] {
        match self {
            Self::Memory => b"memory",
            Self::Unified => b"",
            Self::Freezer => b"freezer",
            Self::Pids => b"pids",
        }
    }
}

/// A line of `/proc/self/mountinfo`, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    root: Vec<u8>,
    point: Vec<u8>,
    writable: bool,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    V2,
    /// With its super options: the controllers.
    V1(Vec<u8>),
}

impl Mount {
    /// A cgroup mount, or `None` for any other line.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = text::words(line);
        let root = unescape(words.nth(3)?);
        let point = unescape(words.next()?);
        let options = words.next()?;
        // Optional fields, then a lone dash.
        words.find(|&word| word == b"-")?;
        let kind = match words.next()? {
            b"cgroup2" => Kind::V2,
            b"cgroup" => Kind::V1(words.nth(1)?.to_vec()),
            _ => return None,
        };
        Some(Self { root, point, writable: has_word(options, b',', b"rw"), kind })
    }

    fn carries(&self, which: Controller) -> bool {
        match &self.kind {
            Kind::V2 => which == Controller::Unified,
            Kind::V1(options) => which != Controller::Unified && has_word(options, b',', which.v1_name()),
        }
    }
}

fn has_word(list: &[u8], separator: u8, word: &[u8]) -> bool {
    list.split(|&b| b == separator).any(|item| item == word)
}

/// mountinfo writes blank, tab, newline and backslash as `\040` and so on.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let octal = |b: u8| (b'0'..=b'7').contains(&b).then(|| u32::from(b - b'0'));
        let escaped = match rest {
            [b'\\', a, b, c, ..] => (|| u8::try_from(octal(*a)? * 64 + octal(*b)? * 8 + octal(*c)?).ok())(),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// The path in a line of `/proc/PID/cgroup`, `ID:CONTROLLERS:PATH`, if that line is `which` hierarchy's; `unified` says
/// that the controller is in the unified one.
pub(crate) fn group_of(line: &[u8], which: Controller, unified: bool) -> Option<&[u8]> {
    let mut parts = line.splitn(3, |&b| b == b':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let ours = if unified || which == Controller::Unified {
        id == b"0" && controllers.is_empty()
    } else {
        has_word(controllers, b',', which.v1_name())
    };
    (ours && path.starts_with(b"/")).then_some(path)
}

/// Whether the group of this path is the one of the other or stands below it. Of the root group: only itself.
pub(crate) fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// What a path of `/proc/PID/cgroup` is called below a mount of the group `root`; `None` if it is not below it.
pub(crate) fn visible<'p>(path: &'p [u8], root: &[u8]) -> Option<&'p [u8]> {
    if path == b"/.." || path.starts_with(b"/../") {
        return None; // Outside our cgroup namespace: no name leads there.
    }
    if root == b"/" {
        return Some(path);
    }
    match path.strip_prefix(root)? {
        b"" => Some(b"/"),
        below if below.starts_with(b"/") => Some(below),
        _ => None,
    }
}

/// `/proc` texts of a host, and where its files are.
struct Host<'r> {
    root: &'r Path,
    mounts: Vec<Mount>,
    groups: Vec<u8>,
}

impl Host<'_> {
    fn place(&self, mount: &Mount) -> PathBuf {
        let point = mount.point.strip_prefix(b"/").unwrap_or(&mount.point);
        self.root.join(OsStr::from_bytes(point))
    }

    fn own(&self, which: Controller, unified: bool, root: &[u8]) -> Option<Box<[u8]>> {
        let path = text::lines(&self.groups).find_map(|line| group_of(line, which, unified))?;
        visible(path, root).map(Into::into)
    }

    /// The best of the mounts of a hierarchy: one that is not hidden under another, that has memgov's own group below it, that can be
    /// written, that shows most.
    fn find(&self, which: Controller) -> Option<Hierarchy> {
        let path = text::lines(&self.groups).find_map(|line| group_of(line, which, false));
        self.mounts
            .iter()
            .filter(|mount| mount.carries(which) && self.place(mount).join("cgroup.procs").exists())
            .min_by_key(|mount| {
                let has_us = path.is_some_and(|path| visible(path, &mount.root).is_some());
                (!has_us, !mount.writable, mount.root.len())
            })
            .map(|mount| Hierarchy { mount: self.place(mount), root: mount.root.clone().into() })
    }
}

impl Layout {
    /// Looks at a host; `root` is `/`, or the root of a recorded tree.
    pub fn detect(root: &Path) -> Result<Self, Error> {
        let mountinfo = root.join("proc/self/mountinfo");
        let mounts = file::whole(&mountinfo)?;
        let mounts = text::lines(&mounts).filter_map(Mount::parse).collect();
        let host = Host { root, mounts, groups: file::whole(&root.join("proc/self/cgroup"))? };
        let unified = host.find(Controller::Unified);
        let with_memory = match &unified {
            Some(hierarchy) => controllers(hierarchy)?.contains(&b"memory"[..].into()),
            None => false,
        };
        let (memory, version) = match (with_memory, &unified, host.find(Controller::Memory)) {
            (true, Some(unified), _) => (unified.clone(), MemoryVersion::V2),
            (_, _, Some(v1)) => (v1, MemoryVersion::V1),
            _ => return Err(no_memory(&mountinfo, unified.as_ref())),
        };
        Ok(Self::assemble(&host, memory, version, unified))
    }

    fn assemble(
        host: &Host<'_>,
        memory: Hierarchy,
        version: MemoryVersion,
        unified: Option<Hierarchy>,
    ) -> Self {
        let freezer = host.find(Controller::Freezer);
        let v1_pids = host.find(Controller::Pids);
        let pids_unified = v1_pids.is_none();
        let pids = v1_pids.or_else(|| {
            unified.clone().filter(|u| controllers(u).is_ok_and(|list| list.contains(&b"pids"[..].into())))
        });
        let own =
            |which, in_unified, hierarchy: Option<&Hierarchy>| host.own(which, in_unified, &hierarchy?.root);
        let own = OwnGroups {
            memory: own(Controller::Memory, version == MemoryVersion::V2, Some(&memory)),
            unified: own(Controller::Unified, true, unified.as_ref()),
            freezer: own(Controller::Freezer, false, freezer.as_ref()),
            pids: own(Controller::Pids, pids_unified, pids.as_ref()),
        };
        let (unified, unified_root) = split(unified);
        let (freezer, freezer_root) = split(freezer);
        let (pids, pids_root) = split(pids);
        let roots = MountedRoots { unified: unified_root, freezer: freezer_root, pids: pids_root };
        Self { memory, version, unified, freezer, pids, own, roots }
    }

    /// Which group is mounted where this hierarchy is; `None` if it is not mounted.
    pub(crate) fn mounted_root(&self, which: Controller) -> Option<&[u8]> {
        match which {
            Controller::Memory => Some(&self.memory.root),
            Controller::Unified => self.roots.unified.as_deref(),
            Controller::Freezer => self.roots.freezer.as_deref(),
            Controller::Pids => self.roots.pids.as_deref(),
        }
    }

    /// Whether this hierarchy is the unified one.
    pub(crate) fn is_unified(&self, which: Controller) -> bool {
        match which {
            Controller::Memory => self.version == MemoryVersion::V2,
            Controller::Unified => true,
            Controller::Freezer => false,
            Controller::Pids => self.pids.is_some() && self.pids == self.unified,
        }
    }
}

fn split(hierarchy: Option<Hierarchy>) -> (Option<PathBuf>, Option<Box<[u8]>>) {
    hierarchy.map(|h| (h.mount, h.root)).unzip()
}

/// What `cgroup.controllers` lists; it is there in every group of cgroup2.
fn controllers(unified: &Hierarchy) -> Result<Vec<Box<[u8]>>, Error> {
    let list = file::whole(&unified.mount.join("cgroup.controllers"))?;
    let list = list.strip_suffix(b"\n").unwrap_or(&list);
    Ok(text::words(list).map(Into::into).collect())
}

fn no_memory(mountinfo: &Path, unified: Option<&Hierarchy>) -> Error {
    let advice = match unified {
        Some(unified) => format!(
            "cgroup2 is at {} without the memory controller, and no cgroup v1 memory hierarchy is mounted; boot without \
             cgroup_disable=memory, and inside a container or a user service have it delegated (systemd: Delegate=memory)",
            unified.mount.display()
        ),
        None => "no cgroup hierarchy with the memory controller is mounted; mount one with \
                 `mount -t cgroup2 none /sys/fs/cgroup`"
            .to_owned(),
    };
    Error::new(
        "finding the memory controller in",
        mountinfo,
        io::Error::new(io::ErrorKind::Unsupported, advice),
    )
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
