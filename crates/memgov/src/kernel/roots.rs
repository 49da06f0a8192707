//! Whose path it is that `/proc/PID/exe` shows. It is one in the mount namespace of the file: in a container `/usr/sbin/sshd` is whatever its owner
//! has put there. Allocates nothing and waits for no file system.

use std::ffi::CStr;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::Errno;
use super::file::ShortPath;

/// PATH_MAX, with the NUL.
const LONGEST: usize = 4096;
/// A look that was disturbed (a rename somewhere) is made again so often.
const TRIES: u32 = 3;

/// Mount namespaces in which a path is what it is for memgov.
#[derive(Clone, Debug)]
pub struct Roots {
    /// memgov's own, by inode number (namespaces(7)).
    own: Option<u64>,
    /// That of pid 1: a service manager gives services, memgov too, a namespace of their own, with the host's files in it.
    first: Option<u64>,
}

impl Roots {
    /// Looks at both.
    pub fn look() -> Self {
        Self { own: namespace(std::process::id()).ok(), first: namespace(1).ok() }
    }

    /// Whether `path`, which `/proc/PID/exe` shows, is that of another file than the one memgov would find there: the process is in a mount namespace
    /// that is neither memgov's nor pid 1's, and what it runs is not the file of that path here. `false` where the namespace cannot be read.
    pub fn is_elsewhere(&self, pid: u32, path: &[u8]) -> bool {
        let Ok(theirs) = namespace(pid) else { return false };
        if [self.own, self.first].contains(&Some(theirs)) {
            return false;
        }
        !is_same_file(pid, path).unwrap_or(false)
    }
}

fn namespace(pid: u32) -> Result<u64, Errno> {
    let path = ShortPath::of_process(pid, b"ns/mnt")?;
    rustix::fs::stat(path.as_c_str()).map(|stat| stat.st_ino)
}

/// Only if the kernel has the path at hand (RESOLVE_CACHED of openat2(2), Linux 5.12), as it has that of any file that is run: the path is of a stranger's
/// choice, and looking for it might take for ever (a network, FUSE).
fn is_same_file(pid: u32, path: &[u8]) -> Result<bool, Errno> {
    let mut space = [0; LONGEST];
    space.get_mut(..path.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(path);
    let path = CStr::from_bytes_until_nul(&space).map_err(|_| Errno::NAMETOOLONG)?;
    let link = ShortPath::of_process(pid, b"exe")?;
    let theirs = rustix::fs::stat(link.as_c_str())?;
    let look = || {
        rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::CACHED)
    };
    let mut found = look();
    for _ in 1..TRIES {
        if found.as_ref().err() == Some(&Errno::AGAIN) {
            found = look();
        }
    }
    let ours = rustix::fs::fstat(found?)?;
    Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exe() -> Vec<u8> {
        rustix::fs::readlink("/proc/self/exe", Vec::new()).unwrap().into_bytes()
    }

    #[test]
    fn a_path_of_an_own_namespace_is_what_it_says() {
        let me = std::process::id();
        assert!(!Roots::look().is_elsewhere(me, &exe()));
        assert!(!Roots::look().is_elsewhere(me, b"/nowhere/at/all"), "replaced by an upgrade, say");
        assert!(!Roots { own: None, first: None }.is_elsewhere(u32::MAX, b"/bin/sh"), "nothing can be read");
    }

    #[test]
    fn in_another_namespace_it_is_the_file_that_counts() {
        let (roots, me) = (Roots { own: None, first: None }, std::process::id());
        assert!(
            !roots.is_elsewhere(me, &exe()),
            "a service with a namespace of its own, and the host's files"
        );
        let other = std::fs::canonicalize("/bin/sh").unwrap();
        std::fs::metadata(&other).unwrap();
        assert!(roots.is_elsewhere(me, other.as_os_str().as_encoded_bytes()), "another file of that path");
        assert!(roots.is_elsewhere(me, b"/nowhere/at/all"));
        assert!(roots.is_elsewhere(me, &[b'/'; 2 * LONGEST]));
    }
}
