//! Whether a program of a hook can be run, and by nobody's will but root's: `memgov check --host`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const EXECUTE: u32 = 0o111;
const OTHERS_WRITE: u32 = 0o022;
/// Others may add to such a directory, and replace nothing in it.
const STICKY: u32 = 0o1000;

/// What is wrong with it, if anything is.
pub(super) fn fault(program: &Path) -> Option<String> {
    let shown = program.display();
    let found = match fs::metadata(program) {
        Ok(found) => found,
        Err(error) => return Some(format!("{shown}: {error}")),
    };
    if !found.is_file() {
        return Some(format!("{shown} is no file"));
    }
    if found.mode() & EXECUTE == 0 {
        return Some(format!("{shown} is not executable"));
    }
    let others = |what: &Path, found: &fs::Metadata, spared: u32| {
        let writes = found.mode() & OTHERS_WRITE != 0 && found.mode() & spared == 0;
        match found.uid() {
            0 if writes => Some(format!("{} may be written to by others than root", what.display())),
            0 => None,
            uid => {
                Some(format!("{} belongs to uid {uid}, who may have anything run as root", what.display()))
            }
        }
    };
    let above = |what: &Path| {
        let found = fs::metadata(what).ok()?;
        others(what, &found, STICKY)
    };
    others(program, &found, 0).or_else(|| directories(program).iter().find_map(|directory| above(directory)))
}

/// Those it is found through: by its name, and where that is a link, by what it leads to.
fn directories(program: &Path) -> BTreeSet<PathBuf> {
    let real = fs::canonicalize(program).unwrap_or_default();
    let above = |path: &Path| path.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    above(program).into_iter().chain(above(&real)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn allow(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn who_else_may_write_it_is_found() {
        if !rustix::process::geteuid().is_root() {
            // Nothing that this makes is root's.
            return;
        }
        let dir = tempfile::tempdir_in("/root").or_else(|_| tempfile::tempdir()).unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let program = inner.join("drop-cache");
        assert!(fault(&program).unwrap().contains("No such file"));
        fs::write(&program, "#!/bin/sh\n").unwrap();
        allow(&inner, 0o755);
        allow(&program, 0o644);
        assert!(fault(&program).unwrap().ends_with("is not executable"));
        allow(&program, 0o755);
        assert_eq!(fault(&program), None);
        allow(&program, 0o775);
        assert!(fault(&program).unwrap().contains("drop-cache may be written to by others"));
        allow(&program, 0o755);
        allow(&inner, 0o777);
        let link = dir.path().join("link");
        symlink(&program, &link).unwrap();
        for path in [&program, &link] {
            assert!(fault(path).unwrap().contains("inner may be written to by others"), "{path:?}");
        }
        allow(&inner, 0o1777);
        assert_eq!(fault(&program), None, "as /tmp is: nobody replaces what is another's");
        chown(&program, Some(1000), None).unwrap();
        assert!(fault(&program).unwrap().contains("belongs to uid 1000"));
        assert!(fault(&inner).unwrap().ends_with("is no file"));
    }
}
