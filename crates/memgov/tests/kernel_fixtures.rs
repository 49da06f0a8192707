//! Recorded and invented hosts under `fixtures/`, each compared whole: what `Layout`, `GroupDir` and the offline part of
//! `Facts` make of the tree must be exactly its `expected.txt`. No privileges, no living kernel.
//! `MEMGOV_BLESS=1` writes the expectation anew; read the difference before committing it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use memgov::kernel::capabilities::Facts;
use memgov::kernel::{GroupDir, Layout, Reading, subgroups};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn below(root: &Path, path: Option<&PathBuf>) -> String {
    path.map_or("-".into(), |path| format!("/{}", path.strip_prefix(root).unwrap().display()))
}

fn show(root: &Path) -> String {
    let layout = Layout::detect(root).unwrap();
    let mut out = String::new();
    let own = |group: &Option<Box<[u8]>>| group.as_deref().map_or("-".into(), text);
    let (memory, version) = (&layout.memory, layout.version);
    writeln!(out, "{version:?} memory at {} of {}", below(root, Some(&memory.mount)), text(&memory.root))
        .unwrap();
    writeln!(out, "own memory group {}", own(&layout.own.memory)).unwrap();
    for (name, mount, group) in [
        ("unified", &layout.unified, &layout.own.unified),
        ("freezer", &layout.freezer, &layout.own.freezer),
        ("pids", &layout.pids, &layout.own.pids),
    ] {
        writeln!(out, "{name} at {}, own group {}", below(root, mount.as_ref()), own(group)).unwrap();
    }
    show_group(&mut out, &layout, b"/");
    let facts = Facts::probe(root);
    writeln!(out, "{}", serde_json::to_string_pretty(&facts).unwrap()).unwrap();
    out
}

fn show_group(out: &mut String, layout: &Layout, path: &[u8]) {
    let group = GroupDir::open(layout, path).unwrap();
    let (mut buffer, mut reading, mut pids) = ([0; 512], Reading::default(), Vec::new());
    group.read(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
    group.read_limits(&mut buffer, &mut reading, &mut |_, _| {}).unwrap();
    // Smaller than any number: each straddles reads.
    group.for_each_pid(&mut buffer[..1], &mut |pid| pids.push(pid)).unwrap();
    writeln!(out, "{}\n  {reading:?}\n  has_memory {} pids {pids:?}", text(path), group.has_memory())
        .unwrap();
    for child in subgroups(layout, path).unwrap() {
        let parent = path.strip_suffix(b"/").unwrap_or(path);
        show_group(out, layout, &[parent, b"/", &child].concat());
    }
}

fn compare(name: &str) {
    let root = fixture(name);
    let (shown, file) = (show(&root), root.join("expected.txt"));
    if std::env::var_os("MEMGOV_BLESS").is_some() {
        std::fs::write(&file, &shown).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert!(shown == expected, "{} differs:\n{shown}", file.display());
}

#[test]
fn v2_is_understood_whole() {
    compare("v2");
}

#[test]
fn v1_is_understood_whole() {
    compare("v1");
}

#[test]
fn hybrid_is_understood_whole() {
    compare("hybrid");
}
