//! [`super::Layout`] on small invented hosts: containers, hidden mounts, odd names, nothing to govern with.

use super::*;
use std::fs;
use tempfile::TempDir;

/// A tree with these mounts and this membership; every directory in `groups` gets a `cgroup.procs`.
fn host(mountinfo: &str, cgroup: &str, groups: &[&str], controllers: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("proc/self/mountinfo", mountinfo);
    put("proc/self/cgroup", cgroup);
    for group in groups {
        put(&format!("{group}/cgroup.procs"), "1\n");
    }
    for (group, list) in controllers {
        put(&format!("{group}/cgroup.controllers"), list);
    }
    root
}

fn path(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).unwrap())
}

#[test]
fn escapes_in_mount_points_are_undone() {
    assert_eq!(unescape(br"/a\040b\011c\012d\134e"), b"/a b\tc\nd\\e");
    assert_eq!(unescape(br"/x\04"), br"/x\04");
    assert_eq!(unescape(br"/x\777\8"), br"/x\777\8");
    let root = host(
        "1 2 0:1 / /my\\040cgroups rw,relatime - cgroup2 none rw\n",
        "0::/a\n",
        &["my cgroups"],
        &[("my cgroups", "cpu memory pids\n")],
    );
    let layout = Layout::detect(root.path()).unwrap();
    assert_eq!(layout.version, MemoryVersion::V2);
    assert_eq!(layout.memory.mount, root.path().join("my cgroups"));
    assert_eq!(layout.unified.as_ref(), Some(&layout.memory.mount));
    assert_eq!(layout.pids.as_ref(), Some(&layout.memory.mount));
    assert_eq!(path(layout.own.memory.as_deref()), Some("/a"));
    assert_eq!(path(layout.own.pids.as_deref()), Some("/a"));
}

#[test]
fn a_container_sees_its_share_from_its_own_root() {
    let root = host(
        "1 2 0:1 /docker/c0ffee /sys/fs/cgroup/memory ro,relatime master:9 - cgroup cgroup rw,memory\n\
         1 2 0:2 /docker/c0ffee /sys/fs/cgroup/freezer ro,relatime master:9 - cgroup cgroup rw,freezer\n",
        "9:memory:/docker/c0ffee/job\n8:freezer:/docker/c0ffee\n7:pids:/docker/c0ffee\n",
        &["sys/fs/cgroup/memory", "sys/fs/cgroup/freezer"],
        &[],
    );
    let layout = Layout::detect(root.path()).unwrap();
    assert_eq!(&*layout.memory.root, b"/docker/c0ffee");
    assert_eq!(path(layout.own.memory.as_deref()), Some("/job"));
    assert_eq!(path(layout.own.freezer.as_deref()), Some("/"));
    assert_eq!((layout.own.pids, layout.pids, layout.unified), (None, None, None));
}

#[test]
fn what_is_not_below_the_mount_has_no_name() {
    assert_eq!(visible(b"/docker/c0ffee", b"/docker/c0ffee"), Some(&b"/"[..]));
    assert_eq!(visible(b"/docker/c0ffee/x", b"/docker/c0ffee"), Some(&b"/x"[..]));
    assert_eq!(visible(b"/docker/c0ffee2", b"/docker/c0ffee"), None);
    assert_eq!(visible(b"/", b"/docker"), None);
    assert_eq!(visible(b"/../sibling", b"/"), None);
    assert_eq!(visible(b"/..", b"/"), None);
    assert_eq!(visible(b"/..x", b"/"), Some(&b"/..x"[..]));
    assert_eq!(visible(b"/", b"/"), Some(&b"/"[..]));
}

#[test]
fn of_several_cgroup2_mounts_the_one_that_shows_and_allows_most_is_taken() {
    let root = host(
        "1 2 0:1 /a /mnt/part rw - cgroup2 none rw\n\
         1 2 0:1 / /mnt/readonly ro - cgroup2 none rw\n\
         1 2 0:1 / /mnt/hidden rw - cgroup2 none rw\n\
         1 2 0:1 / /mnt/whole rw - cgroup2 none rw\n",
        "0::/b\n",
        &["mnt/part", "mnt/readonly", "mnt/whole"],
        &[("mnt/part", "memory\n"), ("mnt/readonly", "memory\n"), ("mnt/whole", "memory\n")],
    );
    let layout = Layout::detect(root.path()).unwrap();
    assert_eq!(layout.memory.mount, root.path().join("mnt/whole"));
    assert_eq!(path(layout.own.unified.as_deref()), Some("/b"));
}

#[test]
fn cgroup2_without_memory_leaves_it_to_v1() {
    let mounts = "1 2 0:1 / /u rw - cgroup2 none rw\n1 2 0:2 / /m rw - cgroup none rw,cpuset,memory\n";
    let groups = "4:cpuset,memory:/x:y\n0::/z\n";
    let root = host(mounts, groups, &["u", "m"], &[("u", "hugetlb memoryless\n")]);
    let layout = Layout::detect(root.path()).unwrap();
    assert_eq!(layout.version, MemoryVersion::V1);
    assert_eq!(path(layout.own.memory.as_deref()), Some("/x:y"));
    assert_eq!(path(layout.own.unified.as_deref()), Some("/z"));
    // Memory given to cgroup2 wins over a v1 mount left behind.
    let root = host(mounts, groups, &["u", "m"], &[("u", "memory\n")]);
    assert_eq!(Layout::detect(root.path()).unwrap().version, MemoryVersion::V2);
}

#[test]
fn a_host_without_memory_controller_is_told_what_to_do() {
    let root = host("1 2 0:1 / /u rw - cgroup2 none rw\n", "0::/\n", &["u"], &[("u", "")]);
    let message = Layout::detect(root.path()).unwrap_err().to_string();
    assert!(message.contains("cgroup_disable=memory") && message.contains("Delegate=memory"), "{message}");
    let root = host("1 1 8:1 / / rw - ext4 /dev/sda rw\n", "", &[], &[]);
    let message = Layout::detect(root.path()).unwrap_err().to_string();
    assert!(message.contains("mount -t cgroup2"), "{message}");
    assert!(message.starts_with("finding the memory controller in "), "{message}");
    let nowhere = Layout::detect(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(nowhere.path, Path::new("/nonexistent/proc/self/mountinfo"));
    assert_eq!(nowhere.errno(), Some(crate::kernel::Errno::NOENT));
}

#[test]
fn half_read_and_nonsense_lines_are_no_mounts() {
    for line in [
        "",
        "1",
        "1 2 0:1 / /x rw",
        "1 2 0:1 / /x rw -",
        "1 2 0:1 / /x rw shared:1 cgroup2 none rw",
        "1 2 0:1 / /x rw - cgroup none",
        "1 2 0:1 / /x rw - tmpfs none rw,memory",
    ] {
        assert_eq!(Mount::parse(line.as_bytes()), None, "{line:?}");
    }
    let mount = Mount::parse(b"1 2 0:1 / /x rw,relatime shared:1 master:2 - cgroup2 none rw").unwrap();
    assert!(mount.writable && mount.carries(Controller::Unified) && !mount.carries(Controller::Memory));
    for line in ["", ":", "4:memory", "4:memory:relative", "4:memoryx:/a"] {
        assert_eq!(group_of(line.as_bytes(), Controller::Memory, false), None, "{line:?}");
    }
}
