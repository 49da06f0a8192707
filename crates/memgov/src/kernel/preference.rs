//! Extended attributes by which a group says whether it wants to be spared (xattr(7)): those of oomd and of systemd-oomd.
//!
//! `oomd_prefer`, `oomd_avoid` (both) and `oomd_omit` (systemd-oomd), in the namespaces `user.` and `trusted.`. A value that means no
//! (systemd-oomd writes booleans) is none; any other, and an empty one (oomd looks at the name only), is yes. What of it counts is
//! decide's question. cgroup v1 has no `user.` attributes (`KERNFS_ROOT_SUPPORT_USER_XATTR`).

use std::ffi::CStr;

use memgov_decide::jobs::{Preference, Wish};
use rustix::fd::BorrowedFd;
use rustix::fs::{fgetxattr, flistxattr};

use super::Errno;

/// Never comes before all, as systemd-oomd has it, and first before rather not, as oomd has it.
const TRUSTED: [(&CStr, Wish); 3] = [
    (c"trusted.oomd_omit", Wish::Omit),
    (c"trusted.oomd_prefer", Wish::Prefer),
    (c"trusted.oomd_avoid", Wish::Avoid),
];
const USER: [(&CStr, Wish); 3] =
    [(c"user.oomd_omit", Wish::Omit), (c"user.oomd_prefer", Wish::Prefer), (c"user.oomd_avoid", Wish::Avoid)];

/// What the group of this directory asks for; nothing where that cannot be read. One system call where there is no attribute.
pub fn read(dir: BorrowedFd<'_>) -> Preference {
    let mut names = [0u8; 1024];
    let (named, all) = match flistxattr(dir, &mut names) {
        Ok(length) => (&names[..length], false),
        // More names than fit: each is asked for.
        Err(Errno::RANGE) => (&[][..], true),
        Err(_) => return Preference::default(),
    };
    let there = |name: &CStr| all || named.split(|&b| b == 0).any(|other| other == name.to_bytes());
    let first = |of: &[(&CStr, Wish)]| {
        of.iter().find(|(name, _)| there(name) && says_yes(dir, name)).map(|&(_, wish)| wish)
    };
    Preference { trusted: first(&TRUSTED), user: first(&USER) }
}

fn says_yes(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    let mut value = [0u8; 16];
    match fgetxattr(dir, name, &mut value) {
        Ok(length) => is_yes(&value[..length]),
        // Longer than any no.
        Err(Errno::RANGE) => true,
        Err(_) => false,
    }
}

fn is_yes(value: &[u8]) -> bool {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    let no: [&[u8]; 6] = [b"0", b"no", b"n", b"false", b"f", b"off"];
    !no.iter().any(|no| value.eq_ignore_ascii_case(no))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd as _;
    use rustix::fs::{XattrFlags, fsetxattr};

    #[test]
    fn a_value_that_means_no_is_none() {
        for yes in ["1", "yes", "true", "", "anything"] {
            assert!(is_yes(yes.as_bytes()), "{yes}");
        }
        for no in ["0", "No", "false", "off"] {
            assert!(!is_yes(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn attributes_of_a_directory_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(read(open.as_fd()), Preference::default());
        let set = |name: &CStr, value: &[u8]| fsetxattr(&open, name, value, XattrFlags::empty());
        if set(c"user.oomd_avoid", b"1").is_err() {
            return; // tmpfs before 6.6 has no user attributes.
        }
        assert_eq!(read(open.as_fd()).user, Some(Wish::Avoid));
        set(c"user.oomd_omit", b"0").unwrap();
        assert_eq!(read(open.as_fd()).user, Some(Wish::Avoid));
        set(c"user.oomd_omit", b"1").unwrap();
        assert_eq!(read(open.as_fd()).user, Some(Wish::Omit));
        for many in 0..200 {
            let name = std::ffi::CString::new(format!("user.some-name-{many}")).unwrap();
            if set(&name, b"x").is_err() {
                break;
            }
        }
        assert_eq!(read(open.as_fd()).user, Some(Wish::Omit));
    }
}
