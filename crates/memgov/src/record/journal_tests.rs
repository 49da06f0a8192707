//! The journal: numbers, late outcomes, late findings.

use super::*;
use memgov_decide::decision::{
    DecisionId, EpisodeId, Extent, Mechanism, Order, Phase, Ranking, Reason, Source, Take, Target,
};
use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessId, ProcessSlot};
use memgov_decide::units::Time;

use crate::serve::wire::OutcomeKind;

fn kill(id: u64) -> Decision {
    Decision {
        id: DecisionId(id),
        episode: EpisodeId(1),
        at: Time(5),
        source: Source::Control,
        step: 0,
        target: Target::Process(ProcessId { pid: 7, start: 9 }, ProcessSlot(0)),
        order: Order::Kill { take: Take::One },
        reason: Reason::RuleGone,
        log: false,
        notable: true,
        ranking: Ranking::default(),
    }
}

/// Writes decisions with these numbers into the file, as a run of the daemon would.
fn a_run(file: &Path, ids: impl Iterator<Item = u64>) {
    let (_, recorder) = Journal::start(Some(file.to_owned()), Bytes(4096)).unwrap();
    for id in ids {
        recorder.decision(&kill(id), Outcome::Nothing, Names::default());
    }
}

#[test]
fn a_new_run_counts_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    let next = |decision, episode| Numbers { decision, episode };
    assert_eq!(numbers_after(&file), next(1, 1), "nothing is kept");
    a_run(&file, 1..=3);
    assert_eq!(numbers_after(&file), next(4, 2));
    // The file has just been turned over: the former one still counts.
    std::fs::rename(&file, former(&file)).unwrap();
    std::fs::write(&file, "").unwrap();
    assert_eq!(numbers_after(&file), next(4, 2));
    // Killed in the middle of a line; the line after it is one of its own.
    std::fs::write(&file, "{\"id\":99,\"epi").unwrap();
    assert_eq!(numbers_after(&file), next(4, 2));
    a_run(&file, 4..=4);
    assert_eq!(numbers_after(&file), next(5, 2));
    std::fs::write(&file, format!("{}\n{}", "x".repeat(2 * 1024 * 1024), "{\"id\":7,\"episode\":5}\n"))
        .unwrap();
    assert_eq!(numbers_after(&file), next(8, 6), "only the end of a long file is read");
    std::fs::write(&file, format!("{{\"id\":{0},\"episode\":{0}}}\n", u64::MAX)).unwrap();
    assert_eq!(numbers_after(&file), next(4, 2), "nonsense does not count");
}

#[test]
fn a_later_outcome_supersedes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    let (journal, recorder) = Journal::start(Some(file.clone()), Bytes(4096)).unwrap();
    let sent = Outcome::Done { processes: 1, by: Mechanism::Pidfd };
    recorder.decision(&kill(3), sent, Names::default());
    let dead = Outcome::Dead { processes: 1, by: Mechanism::Pidfd, choice: 0, expected: Bytes::mib(1) };
    recorder.outcome(Report { decision: DecisionId(3), outcome: dead });
    let mut seen: Vec<Event> = Vec::new();
    let mut cursor = 0;
    while seen.len() < 2 {
        journal.wait(cursor, Duration::from_secs(10));
        let excerpt = journal.since(cursor, 10);
        cursor = excerpt.cursor;
        seen.extend(excerpt.events);
    }
    assert_eq!((seen[0].outcome.kind, seen[1].outcome.kind), (OutcomeKind::Done, OutcomeKind::Dead));
    let (event, rest) = journal.episode_of(3).unwrap();
    assert_eq!((event.outcome.kind, rest.len()), (OutcomeKind::Dead, 1));
    let lines = std::fs::read_to_string(file).unwrap();
    assert_eq!(lines.lines().count(), 2);
    for line in lines.lines() {
        serde_json::from_str::<Event>(line).unwrap();
    }
}

/// A decision of an episode whose reclaim was found to be pinned: looked into, and told again with what was found.
#[test]
fn a_finding_comes_behind_its_decision() {
    let (journal, recorder) = Journal::start(None, Bytes(4096)).unwrap();
    let (examiner, doubts) = sync_channel(4);
    journal.examine_by(examiner);
    let over = |id, order| Decision {
        source: Source::Rule(memgov_decide::policy::RuleId(0)),
        target: Target::Group(GroupId(5), GroupSlot(0)),
        reason: Reason::Kernel { group: GroupSlot(0), kernel: Bytes::mib(17), line: Bytes::mib(16) },
        order,
        ..kill(id)
    };
    let meter = memgov_decide::policy::Meter::Kernel;
    let reclaim =
        Order::Reclaim { phase: Phase::Begin, meter, extent: Extent::Down(Bytes::mib(1)), share: 100 };
    let names = Names { group: Some((*b"/job").into()), ..Names::default() };
    recorder.decision(&over(1, reclaim), Outcome::Nothing, names.clone());
    let pinned = Outcome::Pinned { freed: Bytes(9), held: Bytes::mib(17) };
    recorder.outcome(Report { decision: DecisionId(1), outcome: pinned });
    recorder.decision(&over(2, Order::Deny { phase: Phase::Begin, meter }), Outcome::Nothing, names.clone());
    recorder.decision(&over(3, Order::Kill { take: Take::Whole }), Outcome::Nothing, names);
    recorder.decision(&kill(4), Outcome::Nothing, Names::default());
    let asked: Vec<Doubt> = (0..3).map(|_| doubts.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
    assert_eq!(asked.iter().map(|d| (d.id, d.kill)).collect::<Vec<_>>(), [(1, false), (2, false), (3, true)]);
    assert_eq!((asked[0].group, &*asked[0].path), (GroupId(5), b"/job".as_slice()));
    let found = KernelFinding { kernel_bytes: Some(17 << 20), ..KernelFinding::default() };
    let findings = recorder.findings().unwrap();
    assert!(findings.found(2, found.clone()) && findings.found(77, found));
    // Both are in the queue before this ends it.
    drop(recorder);
    let (event, rest) = journal.episode_of(2).unwrap();
    let trial = event.kernel.unwrap().trial.unwrap();
    assert_eq!((trial.freed_bytes, trial.held_bytes), (9, 17 << 20));
    assert_eq!(rest.iter().map(|e| e.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(!findings.found(2, KernelFinding::default()), "nobody records any more");
}
