//! The built-in never-list: processes whose death or stop would take the machine or the operator with it. Policy, not fact
//! (the facts are `Untouchable`): `never-defaults = false` switches it off.
//!
//! By executable and not by name: any process may call itself `sshd` (prctl PR_SET_NAME), none may put a file into
//! /usr. System services are asked for uid 0 too, because in a container's root file system anybody owns /usr.

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

/// As whatever user they run: login sessions, buses, compositors.
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

/// The built-in list.
pub fn defaults() -> Vec<ProcessMatch> {
    let matching = |exes: &[&str], uid: &[u32]| ProcessMatch {
        exe: exes.iter().map(|exe| Pattern::new(exe)).collect(),
        uid: uid.to_vec(),
        ..ProcessMatch::default()
    };
    vec![matching(SERVICES, &[0]), matching(SESSIONS, &[])]
}
