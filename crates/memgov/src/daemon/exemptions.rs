//! The never-list as programs inside the kernel can know it beforehand: names and executables. What cannot be said so (users, groups,
//! patterns over whole trees) is exempted process by process, when a process gets its row and by the sweep with which each order begins.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use memgov_decide::policy::{Pattern, ProcessMatch};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};

use crate::bpf::{self, Comm, ExemptFile};

/// So long an executable that was replaced is not known by its new file; a process of it that gets a row is exempt before that.
pub(super) const AGE: Duration = Duration::from_secs(30);

/// Executables that were replaced are known for so long: until so many others were, or the next reload.
const MOST_FORMER: usize = 64;

/// An executable that is exempt, held open: the number of a file that is gone is given to another, but not while it is open.
pub(super) type Pinned = (ExemptFile, OwnedFd);

/// Those that are there now, and behind them those that were there before, because they may still be running; nothing if none is new.
pub(super) fn renewed(mut now: Vec<Pinned>, before: &mut Vec<Pinned>) -> Option<Vec<Pinned>> {
    let known = |file: &ExemptFile| before.iter().any(|(known, _)| known == file);
    if now.iter().all(|(file, _)| known(file)) {
        return None;
    }
    let same = |a: &ExemptFile, b: &ExemptFile| (a.inode, a.device) == (b.inode, b.device);
    before.retain(|(former, _)| !now.iter().any(|(file, _)| same(file, former)));
    let room = bpf::MAX_EXEMPT_FILES.saturating_sub(now.len()).min(MOST_FORMER);
    now.extend(before.drain(..).take(room));
    Some(now)
}

/// Names on the never-list that stand for themselves. A process may call itself what it likes: whoever lists a bare name has
/// chosen that.
pub(super) fn names(never: &[ProcessMatch]) -> Vec<Comm> {
    let bare =
        |entry: &&ProcessMatch| entry.exe.is_empty() && entry.uid.is_empty() && entry.groups.is_empty();
    let comm = |pattern: &Pattern| {
        let mut name = [0; 16];
        let bytes = pattern.as_bytes();
        name[..15].get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(name)
    };
    let named = never.iter().filter(bare).flat_map(|entry| entry.comm.iter().filter(|it| is_literal(it)));
    named.filter_map(comm).take(bpf::MAX_PROTECTED_NAMES).collect()
}

/// The executables it names that are there now: of each path the file, of a pattern in the last component the files of that directory that match. Reads
/// directories, so not for the loop.
///
/// On a file system that shows its files under other device numbers than its own (btrfs, a subvolume each; overlayfs over several) programs do not know
/// them again: there they are exempt as what cannot be said beforehand. Not to be mended by the file system's own number: the same
/// inode number is in every subvolume, and anybody may make one.
pub(super) fn files(never: &[ProcessMatch]) -> Vec<Pinned> {
    let mut found: Vec<Pinned> = Vec::new();
    for entry in never.iter().filter(|entry| entry.comm.is_empty() && entry.groups.is_empty()) {
        // Programs are told up to which uid, not of single ones.
        let Some(uids_under) = up_to(&entry.uid) else { continue };
        for pattern in &entry.exe {
            each_match(pattern, &mut |path| {
                let Some((file, pin)) = identify(path, uids_under) else { return };
                let same = |(known, _): &&mut (ExemptFile, OwnedFd)| {
                    (known.inode, known.device) == (file.inode, file.device)
                };
                if let Some((known, _)) = found.iter_mut().find(same) {
                    known.uids_under = known.uids_under.max(uids_under);
                } else if found.len() < bpf::MAX_EXEMPT_FILES {
                    found.push((file, pin));
                }
            });
        }
    }
    found
}

/// All uids under this, if it is just those.
fn up_to(uids: &[u32]) -> Option<u32> {
    match uids {
        [] => Some(u32::MAX),
        _ => (0u32..).zip(uids).all(|(at, uid)| at == *uid).then(|| u32::try_from(uids.len()).ok())?,
    }
}

fn is_literal(pattern: &Pattern) -> bool {
    !pattern.as_bytes().iter().any(|byte| b"*?\\".contains(byte))
}

fn each_match(pattern: &Pattern, f: &mut dyn FnMut(&Path)) {
    let text = pattern.as_bytes();
    if is_literal(pattern) {
        return f(Path::new(OsStr::from_bytes(text)));
    }
    let Some(cut) = text.iter().rposition(|&byte| byte == b'/') else { return };
    let dir = Pattern::new(&String::from_utf8_lossy(&text[..cut]));
    if !is_literal(&dir) {
        return;
    }
    let Ok(entries) = fs::read_dir(OsStr::from_bytes(&text[..cut.max(1)])) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if pattern.matches(path.as_os_str().as_bytes()) {
            f(&path);
        }
    }
}

/// What programs inside the kernel see of it, and the file held open; `None`: it is not there, or no file.
fn identify(path: &Path, uids_under: u32) -> Option<Pinned> {
    let pin = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&pin).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let device = u64::from(major) << 20 | u64::from(minor);
    Some((ExemptFile { inode: stat.st_ino, device, uids_under }, pin))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn entry(comm: &[&str], exe: &[&str], uid: &[u32]) -> ProcessMatch {
        ProcessMatch {
            comm: comm.iter().map(|word| Pattern::new(word)).collect(),
            exe: exe.iter().map(|word| Pattern::new(word)).collect(),
            uid: uid.to_vec(),
            ..ProcessMatch::default()
        }
    }

    #[test]
    fn only_bare_names_are_protected_by_name() {
        let never = [
            entry(&["rescue", "net*", "a-name-of-16-byt"], &[], &[]),
            entry(&["sshd"], &["/usr/sbin/sshd"], &[]),
        ];
        let found = names(&never);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].split(|&byte| byte == 0).next(), Some(b"rescue".as_slice()));
    }

    #[test]
    fn a_replaced_executable_is_exempt_beside_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        let never = [entry(&[], &[&path.display().to_string()], &[])];
        let inodes = |files: &[Pinned]| files.iter().map(|(file, _)| file.inode).collect::<Vec<_>>();
        let mut known = files(&never);
        let mut written = Vec::new();
        for round in 0..3 {
            let new = dir.path().join("new");
            fs::write(&new, "x").unwrap();
            fs::rename(&new, &path).unwrap();
            written.insert(0, fs::metadata(&path).unwrap().ino());
            known = renewed(files(&never), &mut known).unwrap();
            assert_eq!(inodes(&known), written, "round {round}: the newest first, and no number twice");
            assert!(renewed(files(&never), &mut known).is_none(), "nothing is new");
        }
        for _ in 0..2 * MOST_FORMER {
            fs::write(dir.path().join("new"), "x").unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
            known = renewed(files(&never), &mut known).unwrap();
        }
        assert_eq!(known.len(), MOST_FORMER + 1);
    }

    #[test]
    fn executables_are_known_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["one", "two-a", "two-b"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::hard_link(dir.path().join("one"), dir.path().join("two-c")).unwrap();
        let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
        let found = files(&[
            entry(&[], &[&at("two-*"), &at("none"), &at("*/x")], &[0]),
            entry(&[], &[&at("one")], &[]),
        ]);
        let mut known: Vec<_> = found.iter().map(|(file, _)| (file.inode, file.uids_under)).collect();
        known.sort_unstable();
        let mut wanted = vec![(inode("one"), u32::MAX), (inode("two-a"), 1), (inode("two-b"), 1)];
        wanted.sort_unstable();
        assert_eq!(known, wanted, "the one that is everybody's is not root's alone");
        let system = [entry(&[], &[&at("one")], &[0, 1, 2]), entry(&[], &[&at("one")], &[0])];
        assert_eq!(files(&system)[0].0.uids_under, 3);
        let narrow = [entry(&["x"], &[&at("one")], &[]), entry(&[], &[&at("one")], &[7])];
        assert!(files(&narrow).is_empty(), "more is asked than a program can know");
    }
}
