//! The built-in never-list: processes whose death or stop would take the machine or the operator with it. Policy, not fact
//! (the facts are `Untouchable`): `never-defaults = false` switches it off.
//!
//! By executable and not by name: any process may call itself `sshd` (prctl PR_SET_NAME), none may put a file into
//! /usr. System services are asked for uid 0 too, and all others for a user of the system's: what a file is says nothing of what is made to run in
//! it (`LD_PRELOAD=./hog.so dbus-daemon`), so a user's own sessions, buses and compositors are for whoever trusts that user to list, by uid.

use memgov_decide::policy::{Pattern, ProcessMatch};

/// Only as root.
const SERVICES: &[&str] = &[
    "/sbin/init",
    "/usr/sbin/init",
    "/usr/lib/systemd/systemd",
    "/usr/lib/systemd/systemd-*",
    "/lib/systemd/systemd",
    "/lib/systemd/systemd-*",
    "/usr/bin/containerd",
    "/usr/bin/containerd-shim*",
    "/usr/local/bin/containerd*",
    "/usr/sbin/containerd",
    "/usr/bin/dockerd",
    "/usr/sbin/dockerd",
    "/usr/bin/crio",
    "/usr/local/bin/crio",
    "/usr/bin/kubelet",
    "/usr/local/bin/kubelet",
    "/usr/sbin/runc",
    "/usr/bin/runc",
    "/usr/bin/crun",
    "/sbin/agetty",
    "/usr/sbin/agetty",
    "/bin/login",
    "/usr/bin/login",
    "/usr/bin/memgov",
    "/usr/sbin/memgov",
    "/usr/local/bin/memgov",
    "/usr/local/sbin/memgov",
];

/// As any user of the system's: logins, buses, names and addresses, compositors of display managers.
const SESSIONS: &[&str] = &[
    "/usr/sbin/sshd",
    "/usr/lib/openssh/sshd-session",
    "/usr/libexec/openssh/sshd-session",
    "/usr/lib/systemd/systemd-networkd",
    "/usr/lib/systemd/systemd-resolved",
    "/lib/systemd/systemd-networkd",
    "/lib/systemd/systemd-resolved",
    "/usr/bin/dbus-daemon",
    "/usr/bin/dbus-broker",
    "/usr/bin/dbus-broker-launch",
    "/usr/bin/conmon",
    "/usr/libexec/podman/conmon",
    "/usr/lib/xorg/Xorg",
    "/usr/libexec/Xorg",
    "/usr/bin/Xwayland",
    "/usr/bin/gnome-shell",
    "/usr/bin/kwin_wayland",
    "/usr/bin/kwin_x11",
    "/usr/bin/sway",
    "/usr/bin/weston",
];

/// Users of the system's are those under this (SYS_UID_MAX of login.defs(5)): nobody logs in as one.
const FIRST_USER: u32 = 1000;

/// The built-in list.
pub fn defaults() -> Vec<ProcessMatch> {
    let matching = |exes: &[&str], uid: &[u32]| ProcessMatch {
        exe: exes.iter().map(|exe| Pattern::new(exe)).collect(),
        uid: uid.to_vec(),
        ..ProcessMatch::default()
    };
    let system: Vec<u32> = (0..FIRST_USER).collect();
    vec![matching(SERVICES, &[0]), matching(SESSIONS, &system)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::decision::Protected;
    use memgov_decide::snapshot::{Process, ProcessId};
    use memgov_decide::victim::untouchable;

    #[test]
    fn nobody_is_spared_for_the_sake_of_a_program_that_he_starts_himself() {
        let spared = |exe: &str, uid, elsewhere| {
            let mut process = Process::new(ProcessId { pid: 77, start: 1 });
            (process.exe, process.uid) = (Some(exe.as_bytes().into()), Some(uid));
            process.exe_elsewhere = elsewhere;
            untouchable(&process, None, &defaults()) == Some(Protected::Never)
        };
        for exe in SESSIONS {
            assert!(spared(exe, 0, false) && spared(exe, 105, false) && spared(exe, 999, false), "{exe}");
            assert!(!spared(exe, 1000, false) && !spared(exe, 65534, false), "{exe}");
            assert!(!spared(exe, 0, true), "{exe} of a container");
        }
        assert!(spared("/usr/bin/dockerd", 0, false) && !spared("/usr/bin/dockerd", 105, false));
        assert!(!spared("/usr/bin/dockerd", 0, true));
    }
}
