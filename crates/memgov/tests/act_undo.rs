//! The ledger: whatever is in force when memgov vanishes is put back by whoever comes next, exactly, once, and nothing else is. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use memgov::act::ledger::{Entry, Freezer, GroupLimit, OwnedEntry};
use memgov::act::{Actor, Ledger, Leftover, Undone, Verdict};
use memgov::kernel::rlimit::Resource;
use memgov_decide::decision::{Outcome, Phase};
use proptest::prelude::*;
use rig::{Rig, deny, limits, order, pid, run, set_soft, slow};

/// What would be found if memgov vanished right now: its file as it is, in a place where nobody holds the lock.
fn crash(rig: &Rig, name: &str) -> (Ledger, Vec<Leftover>) {
    let copy = rig.state.path().join(name);
    fs::copy(rig.ledger_path(), &copy).unwrap();
    Ledger::open_sized(&copy, 64).unwrap()
}

fn verdicts(undone: &[Undone]) -> Vec<Verdict> {
    undone.iter().map(|one| one.verdict).collect()
}

/// An order that went well.
fn ordered(outcome: Outcome) {
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

type Step = fn(&mut Actor, &Rig, memgov_decide::decision::Target);

#[test]
fn a_crash_after_any_step_is_undone() {
    rig::on_each_layout(|| {
        let steps: [Step; 10] = [
            |a, r, t| ordered(order(a, r, 1, t, deny(Phase::Begin))),
            |a, r, t| ordered(order(a, r, 2, t, slow(Phase::Begin, 50))),
            |a, _, _| drop(run(a, Duration::from_millis(25))),
            |a, r, _| ordered(order(a, r, 3, r.group, slow(Phase::Begin, 500))),
            |a, _, _| drop(run(a, Duration::from_millis(60))),
            |a, r, _| ordered(order(a, r, 4, r.group, deny(Phase::Begin))),
            |a, r, t| ordered(order(a, r, 2, t, slow(Phase::End, 0))),
            |a, r, _| ordered(order(a, r, 3, r.group, slow(Phase::Sustain, 1))),
            |a, _, _| drop(run(a, Duration::from_millis(55))),
            |a, r, t| ordered(order(a, r, 1, t, deny(Phase::End))),
        ];
        for crash_after in 1..=steps.len() {
            let mut rig = Rig::new();
            let target = rig.spinner();
            rig.waiter();
            let before = rig.state();
            let mut actor = rig.actor();
            for step in &steps[..crash_after] {
                step(&mut actor, &rig, target);
            }
            let (mut ledger, leftovers) = crash(&rig, "after");
            assert!(!leftovers.is_empty(), "step {crash_after} left nothing");
            // As if it had been killed: nothing of it runs any more, not even its drop.
            std::mem::forget(actor);
            let again = leftovers.clone();
            for one in ledger.undo(leftovers) {
                assert!(
                    matches!(one.verdict, Verdict::Undone | Verdict::Changed),
                    "step {crash_after}: {one}"
                );
            }
            // SIGCONT takes a moment.
            rig::settle(|| rig.state() == before);
            assert_eq!(rig.state(), before, "step {crash_after}");
            assert_eq!((ledger.entries(), ledger.leftovers().unwrap()), (0, Vec::new()));
            // Once more, as by a guardian and a next start at the same time.
            for one in ledger.undo(again) {
                assert!(!matches!(one.verdict, Verdict::Failed(..)), "step {crash_after}: {one}");
            }
            assert_eq!(rig.state(), before);
        }
    });
}

#[test]
fn what_others_have_changed_since_is_theirs() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let changed = rig.waiter();
        let gone = rig.waiter();
        let mut actor = rig.actor();
        order(&mut actor, &rig, 1, changed, deny(Phase::Begin));
        order(&mut actor, &rig, 2, gone, deny(Phase::Begin));
        for resource in [Resource::Data, Resource::MemLock] {
            set_soft(pid(changed), resource, 1 << 20);
        }
        rig.tell(gone, "go");
        rig.wait(gone);
        let (mut ledger, mut leftovers) = crash(&rig, "after");
        std::mem::forget(actor);
        leftovers.sort_by_key(|l| matches!(l.entry, OwnedEntry::Limits { who, .. } if who.pid == pid(gone)));
        let now = limits(pid(changed));
        assert_eq!(verdicts(&ledger.undo(leftovers)), [Verdict::Changed, Verdict::Gone]);
        assert_eq!(limits(pid(changed)), now);
    });
}

#[test]
fn a_reused_pid_or_path_is_not_touched() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let target = rig.waiter();
        let (mut ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
        let dirs = rig.dirs();
        let path = dirs.last().unwrap().display().to_string();
        let mut who = rig::identify(pid(target));
        who.start -= 1;
        ledger.record(&Entry::Stopped { who, now: true }).unwrap();
        ledger.record(&Entry::Frozen { path: path.as_bytes(), inode: 1, now: true }).unwrap();
        // Not a name that memgov gives, so never its to empty and remove.
        ledger.record(&Entry::Hold { freezer: Freezer::V2, path: path.as_bytes(), inode: 0 }).unwrap();
        // A name it gives, but no control group.
        let directory = rig.state.path().join("memgov.hold-1-1");
        fs::create_dir(&directory).unwrap();
        let not_a_group = directory.display().to_string();
        ledger.record(&Entry::Hold { freezer: Freezer::V2, path: not_a_group.as_bytes(), inode: 0 }).unwrap();
        // Never made.
        let missing = format!("{path}/memgov.hold-0-0");
        ledger.record(&Entry::Hold { freezer: Freezer::V1, path: missing.as_bytes(), inode: 0 }).unwrap();
        let before = rig.state();
        let leftovers = ledger.leftovers().unwrap();
        assert_eq!(Ledger::peek(&rig.ledger_path()).unwrap(), leftovers);
        let undone = ledger.undo(leftovers);
        use Verdict::{Changed, Gone};
        assert_eq!(verdicts(&undone), [Gone, Changed, Changed, Changed, Gone]);
        assert!(directory.is_dir());
        assert_eq!(rig.state(), before);
        assert!(undone[4].to_string().ends_with("gone, nothing to undo"), "{}", undone[4]);
    });
}

#[test]
fn children_born_under_a_denied_process_are_found() {
    rig::on_each_layout(|| {
        let mut rig = Rig::new();
        let fifo = rig.state.path().join("never");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let script =
            format!("(:) & (:) & wait; echo warm; read x; (read y < {}) & echo $!; wait", fifo.display());
        let (parent, mut out) = rig.spawn(&script);
        assert_eq!(rig::line(&mut out), "warm");
        let before = limits(pid(parent));
        let mut actor = rig.actor();
        order(&mut actor, &rig, 1, parent, deny(Phase::Begin));
        rig.tell(parent, "fork");
        let child: u32 = rig::line(&mut out).parse().unwrap();
        assert_ne!(limits(child), before);
        let (mut ledger, leftovers) = crash(&rig, "after");
        std::mem::forget(actor);
        assert_eq!(verdicts(&ledger.undo(leftovers)), [Verdict::Undone]);
        assert_eq!((limits(child), limits(pid(parent))), (before, before));
    });
}

#[test]
fn one_memgov_at_a_time_and_a_file_that_only_root_reads() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("ledger");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let (first, leftovers) = Ledger::open_sized(&path, 8).unwrap();
    assert_eq!((leftovers, first.set_aside()), (Vec::new(), None));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = Ledger::open_sized(&path, 8).unwrap_err();
    assert!(refused.to_string().contains("another memgov"), "{refused}");
    drop(first);
    Ledger::open_sized(&path, 8).unwrap();
    // A place where no ledger can be.
    assert!(Ledger::open_sized(state.path(), 8).is_err());
    std::os::unix::fs::symlink(&path, state.path().join("link")).unwrap();
    assert!(Ledger::open_sized(&state.path().join("link"), 8).is_err(), "a link leads elsewhere");
}

#[test]
fn long_paths_take_several_slots_and_room_is_found_again() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("ledger");
    let (mut ledger, _) = Ledger::open_sized(&path, 12).unwrap();
    let long = vec![b'/'; 4096];
    let entry = Entry::Frozen { path: &long, inode: 7, now: false };
    let first = ledger.record(&entry).unwrap();
    assert!(ledger.record(&entry).is_err(), "no room for two");
    let who = memgov_decide::snapshot::ProcessId { pid: 1, start: 1 };
    ledger.record(&Entry::Stopped { who, now: false }).unwrap();
    ledger.set_now(first, true).unwrap();
    drop(ledger);
    let (mut ledger, leftovers) = Ledger::open_sized(&path, 12).unwrap();
    assert_eq!(leftovers.len(), 2);
    assert_eq!(leftovers[0].entry, OwnedEntry::Frozen { path: long.clone().into(), inode: 7, now: true });
    ledger.erase(first).unwrap();
    ledger.record(&entry).unwrap();
    assert_eq!(ledger.entries(), 2);
    let too_long = vec![b'/'; 9000];
    assert!(ledger.record(&Entry::Frozen { path: &too_long, inode: 7, now: false }).is_err());
}

fn open_bytes(bytes: &[u8]) -> (Vec<Leftover>, bool, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("ledger");
    fs::write(&path, bytes).unwrap();
    let (ledger, leftovers) = Ledger::open_sized(&path, 8).unwrap();
    let aside = ledger.set_aside().map(|aside| fs::read(&aside.kept).unwrap());
    if let Some(kept) = &aside {
        assert_eq!(kept, bytes, "kept as it was");
    }
    assert_eq!(ledger.leftovers().unwrap(), leftovers);
    (leftovers, aside.is_some(), state)
}

/// A ledger with two entries, as bytes.
fn two_entries() -> (Vec<u8>, Vec<OwnedEntry>) {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("ledger");
    let (mut ledger, _) = Ledger::open_sized(&path, 8).unwrap();
    let who = memgov_decide::snapshot::ProcessId { pid: u32::MAX, start: 1 };
    ledger.record(&Entry::Stopped { who, now: true }).unwrap();
    ledger.record(&Entry::Frozen { path: &[b'x'; 1000], inode: 3, now: true }).unwrap();
    (fs::read(path).unwrap(), ledger.leftovers().unwrap().into_iter().map(|l| l.entry).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn rubbish_is_set_aside_and_tells_nothing(bytes in proptest::collection::vec(any::<u8>(), 1..6000)) {
        let (leftovers, aside, _state) = open_bytes(&bytes);
        prop_assert!(leftovers.is_empty() && aside);
    }

    #[test]
    fn a_damaged_ledger_tells_nothing_that_was_not_written(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut bytes, written) = two_entries();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        let (leftovers, _, _state) = open_bytes(&bytes);
        for leftover in leftovers {
            prop_assert!(written.contains(&leftover.entry));
        }
    }
}

#[test]
fn a_ledger_of_another_boot_is_emptied_and_one_of_another_version_set_aside() {
    let (bytes, written) = two_entries();
    let (leftovers, ..) = open_bytes(&bytes);
    assert_eq!(leftovers.into_iter().map(|l| l.entry).collect::<Vec<_>>(), written);
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(bytes[32..68], boot[..36], "where the next lines change it");
    let mut newer = bytes;
    newer[16] += 1;
    let (leftovers, aside, state) = open_bytes(&newer);
    assert!(leftovers.is_empty() && aside);
    // The next start finds a good ledger, and the set-aside file untouched.
    let (ledger, _) = Ledger::open_sized(&state.path().join("ledger"), 8).unwrap();
    assert_eq!(ledger.set_aside(), None);
    assert!(Path::new(&state.path().join("ledger.aside-1")).exists());
    drop(ledger);
}

/// A group of the rig with a limit on memory.
struct Limited {
    file: std::path::PathBuf,
    path: String,
    inode: u64,
    which: GroupLimit,
}

/// The first that has one of these files; `None`: the rig's groups have none of them.
fn limited(rig: &Rig, files: &[(&str, GroupLimit)]) -> Option<Limited> {
    let there = |dir: &std::path::PathBuf| {
        files.iter().find(|(name, _)| dir.join(name).exists()).map(|&(name, which)| Limited {
            file: dir.join(name),
            path: dir.display().to_string(),
            inode: std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir).unwrap()),
            which,
        })
    };
    rig.dirs().iter().find_map(there)
}

/// A kill -9 in the one moment in which a limit is lowered: whoever comes next raises it, and touches nobody else's.
#[test]
fn a_limit_lowered_for_a_shrink_is_raised_again() {
    let rig = Rig::new();
    let files = [("memory.limit_in_bytes", GroupLimit::Max), ("memory.high", GroupLimit::High)];
    let Limited { file, path, inode, which } = limited(&rig, &files).expect("a group with memory");
    let read = || fs::read_to_string(&file).unwrap();
    let unlimited = read();
    let (mut ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
    let entry = |inode, before| Entry::GroupLimit {
        path: path.as_bytes(),
        inode,
        which,
        before,
        set: 64 << 20,
        was: 64 << 20,
    };
    let mut undo = |entry: &Entry<'_>| {
        ledger.record(entry).unwrap();
        let leftovers = ledger.leftovers().unwrap();
        let undone = ledger.undo(leftovers);
        assert_eq!(ledger.leftovers().unwrap(), []);
        (verdicts(&undone), undone[0].to_string())
    };
    fs::write(&file, "67108864").unwrap();
    let (verdict, text) = undo(&entry(inode, u64::MAX));
    assert_eq!((verdict, read()), (vec![Verdict::Undone], unlimited));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(name) && text.contains("from unlimited"), "{text}");
    fs::write(&file, "67108864").unwrap();
    assert_eq!((undo(&entry(inode, 128 << 20)).0, read()), (vec![Verdict::Undone], "134217728\n".into()));
    // It was never lowered.
    assert_eq!((undo(&entry(inode, 128 << 20)).0, read()), (vec![Verdict::Undone], "134217728\n".into()));
    // It died between writing another one down and setting it.
    fs::write(&file, "33554432").unwrap();
    let between = Entry::GroupLimit {
        path: path.as_bytes(),
        inode,
        which,
        before: 128 << 20,
        set: 64 << 20,
        was: 32 << 20,
    };
    assert_eq!((undo(&between).0, read()), (vec![Verdict::Undone], "134217728\n".into()));
    // Somebody has set another one, or it is another group.
    fs::write(&file, "33554432").unwrap();
    assert_eq!((undo(&entry(inode, 128 << 20)).0, read()), (vec![Verdict::Changed], "33554432\n".into()));
    fs::write(&file, "67108864").unwrap();
    assert_eq!((undo(&entry(inode + 1, 128 << 20)).0, read()), (vec![Verdict::Changed], "67108864\n".into()));
}

/// A kill -9 while something is lent: whoever comes next takes it back, and touches nobody else's limit.
#[test]
fn what_was_lent_is_taken_back() {
    let rig = Rig::new();
    let files = [("memory.limit_in_bytes", GroupLimit::Max), ("memory.max", GroupLimit::Hard)];
    let Limited { file, path, inode, which } = limited(&rig, &files).expect("a group with memory");
    let (mut ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
    let (before, set, was) = (128 << 20, 192 << 20, 256 << 20);
    // As it was raised, between two writes on its way back, back already, and set by somebody else.
    let cases = [
        (set, before, Verdict::Undone),
        (was, before, Verdict::Undone),
        (before, before, Verdict::Undone),
        (200 << 20, 200 << 20, Verdict::Changed),
    ];
    for (has, left, expected) in cases {
        fs::write(&file, has.to_string()).unwrap();
        ledger.record(&Entry::GroupLimit { path: path.as_bytes(), inode, which, before, set, was }).unwrap();
        let leftovers = ledger.leftovers().unwrap();
        let undone = ledger.undo(leftovers);
        assert_eq!(verdicts(&undone), [expected], "{has}");
        assert!(undone[0].to_string().contains("raised to 201326592 from 134217728"), "{}", undone[0]);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{left}\n"));
    }
}

/// A kill -9 while what was lent is pressed back: the press has lowered the raised limit and written that down beside the loan.
#[test]
fn what_was_lent_is_taken_back_though_it_was_lowered_at_that_moment() {
    let rig = Rig::new();
    // Where there is memory.max, a shrink lowers memory.high, and what is written down is of two files.
    let files = [("memory.limit_in_bytes", GroupLimit::Max)];
    let Some(Limited { file, path, inode, which }) = limited(&rig, &files) else { return };
    let (mut ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
    let (low, high) = (128u64 << 20, 192u64 << 20);
    let entry =
        |before, set| Entry::GroupLimit { path: path.as_bytes(), inode, which, before, set, was: set };
    for (first, second) in [((low, high), (high, low)), ((high, low), (low, high))] {
        for has in [low, high] {
            fs::write(&file, has.to_string()).unwrap();
            ledger.record(&entry(first.0, first.1)).unwrap();
            ledger.record(&entry(second.0, second.1)).unwrap();
            let leftovers = ledger.leftovers().unwrap();
            let undone = ledger.undo(leftovers);
            assert_eq!(verdicts(&undone), [Verdict::Undone; 2], "{has}, {first:?} first");
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{low}\n"), "{has}, {first:?} first");
        }
    }
}
