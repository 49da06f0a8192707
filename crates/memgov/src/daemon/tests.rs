//! The loop as it runs, on a real group: from the crossing of a line to the relief it allocates nothing. Needs root.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memgov_decide::governor::{Bounds, Governor};
use memgov_decide::policy::{Action, Condition, Over, Pattern, Policy, Rule, Scope, Slow, Step, Victim};
use memgov_decide::snapshot::Snapshot;
use memgov_decide::units::Bytes;

use super::governing::{Buffers, Counts, Governing};
use super::{host, own, queue, signals};
use crate::act::{Actor, Ledger, Options};
use crate::counting::allocations;
use crate::kernel::{Layout, sys};
use crate::observe::Observer;
use crate::record::Journal;
use crate::record::trace::Tape;

/// A group of the test's own with a process in it, removed with it.
struct Job {
    dir: PathBuf,
    name: String,
    child: Child,
}

impl Job {
    fn start(layout: &Layout) -> Self {
        let name = format!("memgov-looptest-{}", std::process::id());
        let dir = layout.memory.mount.join(&name);
        fs::create_dir(&dir).unwrap();
        // It enters when told, and what the program it then becomes uses is charged to the group.
        let script = format!("read go; echo $$ > {}/cgroup.procs; exec sleep 60", dir.display());
        let child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        Self { dir, name, child }
    }

    fn enter(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.dir).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// One rule with every action of the ladder, one after another, on whatever the group uses at all.
fn policy(group: &str) -> Policy {
    let step = |action, millis| Step { action, after: Duration::from_millis(millis) };
    let rule = Rule {
        name: "all".into(),
        scope: Scope::Groups(vec![Pattern::new(&format!("/{group}"))]),
        when: Condition { group: Some(Over::Amount(Bytes(0))), rss: None },
        until: None,
        steps: vec![
            step(Action::Deny, 0),
            step(Action::Slow(Slow::default()), 50),
            step(Action::Signal { signal: 18, repeat: Some(Duration::from_millis(50)) }, 50),
            step(Action::Kill { victim: Victim::Group }, 200),
        ],
        log: true,
    };
    Policy { rules: vec![rule], ..Policy::default() }
}

fn governing(layout: &Layout, state: &Path, policy: Policy) -> (Governing, Arc<Journal>) {
    let bounds = Bounds { groups: 64, processes: 64, controls: 64, episodes: 64 };
    let mut snap = Snapshot::with_capacity(bounds.groups, bounds.processes);
    snap.host = host();
    let (ledger, _) = Ledger::open(&state.join("ledger")).unwrap();
    let (journal, recorder) = Journal::start(None, snap.host.page).unwrap();
    let (_asker, requests, request_bell) = queue::queue().unwrap();
    let governing = Governing {
        observer: Observer::new(layout.clone(), own(None), bounds.groups, bounds.processes).unwrap(),
        actor: Actor::new(layout, ledger, Options::default()).unwrap(),
        rule_names: policy.rules.iter().map(|r| r.name.as_str().into()).collect(),
        governor: Governor::new(policy, bounds),
        snap,
        recorder,
        tape: Tape::default(),
        heart: None,
        guardian: None,
        requests,
        request_bell,
        signals: signals::open().unwrap(),
        reload: Box::new(|| {}),
        prune: Box::new(|| {}),
        attach: Box::new(|| true),
        events: None,
        elsewhere: memgov_decide::governor::Elsewhere::No,
        happenings: Default::default(),
        deaf_until: None,
        other_rules: false,
        heard: Vec::new(),
        stood: 0,
        bereave: Box::new(|| true),
        counts: Arc::new(Counts::default()),
        lease: Duration::from_secs(10),
        locked: super::protection::Locked::nothing(),
        buffers: Buffers::new(&bounds),
    };
    (governing, journal)
}

#[test]
fn from_crossing_to_kill_the_loop_allocates_nothing() {
    let layout = Layout::detect(Path::new("/")).unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut job = Job::start(&layout);
    let (mut governing, journal) = governing(&layout, state.path(), policy(&job.name));
    let Governing { observer, snap, governor, tape, .. } = &mut governing;
    snap.advance(sys::now());
    observer.scan(snap, governor, tape);
    governing.tick();
    job.enter();
    let end = Instant::now() + Duration::from_secs(10);
    let mut count = 0;
    let kinds = |journal: &Journal| -> Vec<String> {
        journal.since(0, 100).events.iter().map(|e| format!("{:?} {:?}", e.order, e.outcome.kind)).collect()
    };
    while !kinds(&journal).iter().any(|k| k == "Kill Dead") {
        assert!(Instant::now() < end, "{:?}", kinds(&journal));
        count += allocations(|| {
            let now = sys::now();
            governing.observer.wait(now, now + Duration::from_millis(5)).unwrap();
            governing.tick();
        });
    }
    let seen = kinds(&journal);
    for order in ["DenyBegin Done", "SlowBegin Done", "Signal Done"] {
        assert!(seen.iter().any(|k| k == order), "{order} is not in {seen:?}");
    }
    assert_eq!(count, 0, "allocations in the loop, over {seen:?}");
    let events = journal.since(0, 100).events;
    let kill = events.iter().find(|event| event.order == crate::serve::wire::OrderKind::Kill);
    let before = kill.and_then(|kill| kill.situation.as_deref()).expect("what was seen before the kill");
    assert!(before.groups[0].path.contains(&job.name) && !before.groups[0].memory_bytes.is_empty());
    assert!(before.host.memory_bytes.contains_key("MemAvailable") && !before.processes.is_empty());
}
