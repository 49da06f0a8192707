//! Kernel memory as recorded from real kernels (`fixtures/kernel-memory`): a group with 30 sleeping shells in which 400 directories and 300 files were
//! made on tmpfs, and what is left of it in its parent when it was removed. No privileges, no living kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use memgov::kernel::cgroup::{Accounting, Switches, accounting};
use memgov::kernel::layout::{Hierarchy, MountedRoots, OwnGroups};
use memgov::kernel::{GroupDir, Layout, MemoryVersion};
use memgov_decide::kernel_memory::{Breakdown, Kind, diagnose};
use memgov_decide::units::Bytes;
use std::path::Path;

fn group(name: &str) -> GroupDir {
    let mount = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/kernel-memory").join(name);
    let version = if name.contains("-v1") { MemoryVersion::V1 } else { MemoryVersion::V2 };
    let memory = Hierarchy { mount, root: (*b"/").into() };
    let (own, roots) = (OwnGroups::default(), MountedRoots::default());
    let layout = Layout { memory, version, unified: None, freezer: None, pids: None, own, roots };
    GroupDir::open(&layout, b"/").unwrap()
}

fn read(name: &str) -> Breakdown {
    // Hardly longer than the longest line: each straddles reads.
    group(name).read_kernel_memory(&mut [0; 64]).unwrap()
}

/// Of all nine kinds.
fn kinds(it: &Breakdown) -> Vec<u64> {
    it.kinds().map(|(_, held)| held.0).collect()
}

#[test]
fn v2_is_divided_whole() {
    let it = read("6.12-v2");
    assert_eq!((it.total, it.sockets), (Some(Bytes(3_313_664)), Some(Bytes(0))));
    assert_eq!(kinds(&it), [491_520, 1_175_552, 0, 1920, 0, 193_320, 1_076_168, 0, 375_184]);
    assert_eq!(kinds(&it).iter().sum::<u64>(), 3_313_664);
    assert_eq!((it.reclaimable(), it.pinned()), (Some(Bytes(193_320)), Some(Bytes(3_120_344))));
    assert_eq!(diagnose(None, &it).unwrap().kind, Kind::PageTables);

    let it = read("6.1-v2");
    assert_eq!(it.total, Some(Bytes(2_990_080)));
    assert_eq!(kinds(&it), [491_520, 614_400, 0, 0, 0, 193_400, 1_073_568, 0, 617_192]);
    assert_eq!(diagnose(None, &it).unwrap().kind, Kind::SlabUnreclaimable);
}

#[test]
fn v1_gives_a_total_and_a_peak_and_divides_nothing() {
    for (name, total, peak) in [("6.1-v1", 2_994_176, 3_022_848), ("6.18-v1", 1_396_736, 1_519_616)] {
        let it = read(name);
        // Its TCP file says 0, and counts only where a limit was written.
        assert_eq!(it, Breakdown::undivided(Some(Bytes(total)), None), "{name}");
        assert_eq!(group(name).read_kernel_peak(&mut [0; 64]), Ok(Some(Bytes(peak))), "{name}");
        assert_eq!(group(name).read_dying(&mut [0; 1024]), Ok(None), "v1 does not tell");
    }
    assert_eq!(group("6.12-v2").read_kernel_peak(&mut [0; 64]), Ok(None));
}

#[test]
fn nokmem_says_zero_everywhere_and_is_not_believed() {
    let off = Switches { no_kernel: true, no_sockets: false };
    for name in ["6.12-v2-nokmem", "6.1-v1-nokmem"] {
        let total = read(name).total;
        assert_eq!(total, Some(Bytes(0)), "{name}");
        assert_eq!(accounting(off, total, total, true), Accounting::SwitchedOff, "{name}");
        let unseen = Switches::default();
        assert_eq!(accounting(unseen, total, total, true), Accounting::CountsNothing, "{name}");
    }
}

#[test]
fn a_removed_group_leaves_its_slab_to_its_parent() {
    let it = read("6.12-v2-after-removal");
    assert_eq!(it.total, Some(Bytes(688_128)));
    assert_eq!(kinds(&it), [0, 0, 0, 0, 0, 142_024, 543_024, 0, 3080]);
    // Nothing but kernel memory was left, and that was made over: nobody is dying.
    assert_eq!(group("6.12-v2-after-removal").read_dying(&mut [0; 1024]), Ok(Some(0)));
}
