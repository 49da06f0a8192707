//! The server against clients of every kind, hostile ones first: after each of them a plain client must still be served.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memgov_decide::snapshot::GroupId;
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::permit::Peer;
use super::requests::{Answer, Follow, answer};
use super::varlink::Call;
use super::*;

mod any_request;
mod files;
mod handlers;
mod interface;
mod jobs;

/// What was said of which group, and by whom.
type SaidOf = (Box<[u8]>, worth::Said, u32);

/// A daemon that remembers and does nothing.
#[derive(Default)]
struct Fake {
    controls: Mutex<Vec<(ProcessId, MemControl, u32)>>,
    rules: Mutex<Vec<GroupRule>>,
    events: Mutex<Vec<wire::Event>>,
    jobs: Mutex<Vec<SaidOf>>,
    missed: AtomicU64,
    busy: AtomicBool,
    /// Handlers there are.
    places: Arc<AtomicU64>,
}

fn event(id: u64, uid: u32, padding: usize) -> wire::Event {
    wire::Event {
        allocating: None,
        denials: None,
        left_out: None,
        kernel: None,
        id,
        episode: 1,
        time: "2026-11-22T05:00:00.123Z".into(),
        monotonic_ns: 1,
        source: wire::Source::Rule { rule: "r".into() },
        step: 0,
        target: wire::Target::Process {
            pid: 7,
            start: 1,
            comm: "x".repeat(padding),
            group: None,
            uid: Some(uid),
        },
        order: wire::OrderKind::DenyBegin,
        signal: None,
        lent_bytes: None,
        share_permille: None,
        reason: wire::Reason {
            kind: wire::ReasonKind::Rss,
            text: "over".into(),
            usage_bytes: None,
            usage_line_bytes: None,
            sockets_bytes: None,
            rss_bytes: Some(2),
            rss_line_bytes: Some(1),
            available_bytes: None,
            available_line_bytes: None,
            falling_bytes_per_second: None,
            stalled_thousandths: None,
            stalled_line_thousandths: None,
        },
        ranking: Vec::new(),
        jobs: Vec::new(),
        jobs_considered: None,
        takes: None,
        outcome: wire::Outcome {
            kind: wire::OutcomeKind::Done,
            processes: Some(1),
            refused: None,
            by: Some("rlimit".into()),
            operation: None,
            errno: None,
            error: None,
            expected_bytes: None,
            freed_bytes: None,
            held_bytes: None,
            run: None,
        },
        log: None,
        question: None,
        output: None,
        situation: None,
    }
}

/// The first shrink is of a user's own group, begun by root; the second is root's.
fn job(id: u64, state: shrink::State) -> shrink::Job {
    shrink::Job {
        job: Some(id),
        path: "/x".into(),
        state,
        before_bytes: 3,
        usage_bytes: 2,
        target_bytes: 1,
        freed_bytes: 1,
        elapsed_ns: 1,
        rate_bytes: None,
        left_ns: None,
        file: "memory.reclaim".into(),
        errno: None,
        owner: Some(if id == 1 { 1000 } else { 0 }),
        by: 0,
    }
}

impl shrink::Shrinking for Fake {
    fn shrink(&self, _: &GroupFacts, _: &shrink::Request, _: u32) -> Result<shrink::Job, Failure> {
        Ok(job(1, shrink::State::Running))
    }
    fn shrink_get(&self, id: u64) -> Result<shrink::Job, Failure> {
        match id {
            1 | 2 => Ok(job(id, shrink::State::Running)),
            _ => Err(FailureKind::NoSuchJob.because("no")),
        }
    }
    fn shrinks(&self) -> Result<Vec<shrink::Job>, Failure> {
        Ok(vec![job(1, shrink::State::Hard), job(2, shrink::State::Running)])
    }
    fn shrink_cancel(&self, id: u64) -> Result<shrink::Job, Failure> {
        Ok(job(id, shrink::State::Cancelled))
    }
}

/// The first question is about a user's own group, the second about root's, the third about his for the host's sake.
fn question(number: u64) -> wire::QuestionStatus {
    let (path, owner) = if number == 2 { ("/root", 0) } else { ("/user", 1000) };
    wire::QuestionStatus {
        number,
        episode: 1,
        source: wire::Source::Rule { rule: "a".into() },
        // As for a group whose name has something in it that is shown otherwise.
        target: wire::Target::Group { path: format!("{path}, as shown"), id: 1, owner: Some(owner) },
        path: path.into(),
        of_host: number == 3,
        reason: event(1, owner, 1).reason,
        since: String::new(),
        left_ns: 1,
        default: "kill".into(),
    }
}

impl super::questions::Asking for Fake {
    fn questions(&self) -> Result<Vec<wire::QuestionStatus>, Failure> {
        Ok(vec![question(1), question(2), question(3)])
    }
    fn why_not_open(&self, number: u64) -> Failure {
        FailureKind::NoSuchQuestion.because(format!("question {number} is not open any more: kill"))
    }
    fn answer(&self, number: u64, answer: memgov_decide::question::Answer) -> Result<(), Failure> {
        assert!(number < 4 && answer.by != 7);
        Ok(())
    }
}

impl Governed for Fake {
    fn page(&self) -> Bytes {
        Bytes(4096)
    }
    fn status(&self) -> Result<wire::Status, Failure> {
        if self.busy.load(Ordering::Relaxed) {
            return Err(FailureKind::Busy.because("busy"));
        }
        let episodes = [0, 1000].map(|uid| {
            let e = event(1, uid, 1);
            wire::EpisodeStatus {
                episode: 1,
                source: e.source,
                target: e.target,
                since: e.time,
                step: Some(0),
                order: Some(e.order),
                reason: Some(e.reason),
                working_set: None,
                program: None,
            }
        });
        Ok(wire::Status { version: "test".into(), episodes: episodes.into(), ..wire::Status::default() })
    }
    fn process(&self, pid: u32) -> Result<ProcessFacts, Failure> {
        match pid {
            7 => Ok(ProcessFacts { id: ProcessId { pid, start: 1 }, uids: Some([1000; 4]) }),
            // Who asks over a real socket.
            _ if pid == std::process::id() => {
                Ok(ProcessFacts { id: ProcessId { pid, start: 3 }, uids: None })
            }
            8 => Ok(ProcessFacts { id: ProcessId { pid, start: 2 }, uids: Some([0; 4]) }),
            _ => Err(FailureKind::NoSuchProcess.because("no such process")),
        }
    }
    fn group(&self, path: &[u8]) -> Result<GroupFacts, Failure> {
        let (owner, owner_above) = match path {
            b"/user" => (1000, 0),
            b"/user/below" => (1000, 1000),
            b"/root" => (0, 0),
            _ => return Err(FailureKind::NoSuchGroup.because("no such group")),
        };
        let (id, limit) = (GroupId(1), Some(Limit::At(Bytes::mib(100))));
        let said_by = self.jobs.lock().unwrap().iter().find(|job| *job.0 == *path).map(|job| job.2);
        let (path, owner, owner_above) = (path.into(), Some(owner), Some(owner_above));
        Ok(GroupFacts { path, id, owner, owner_above, limit, ruled_by: None, said_by })
    }
    fn control_get(&self, who: ProcessId) -> Result<MemControl, Failure> {
        let controls = self.controls.lock().unwrap();
        Ok(controls.iter().rev().find(|c| c.0 == who).map(|c| c.1).unwrap_or_default())
    }
    fn control_set(&self, who: ProcessId, control: MemControl, by: u32) -> Result<(), Failure> {
        self.controls.lock().unwrap().push((who, control, by));
        Ok(())
    }
    fn control_clear(&self, who: ProcessId) -> Result<(), Failure> {
        self.controls.lock().unwrap().retain(|c| c.0 != who);
        Ok(())
    }
    fn kernel_mark(&self, group: &GroupFacts) -> Result<Option<wire::KernelMark>, Failure> {
        Ok((*group.path == *b"/user").then(files::mark))
    }
    fn socket_refusals(&self, _: &GroupFacts) -> Result<Option<u64>, Failure> {
        Ok(Some(3))
    }
    fn kernel_peak_reset(&self, _: &GroupFacts) -> Result<(), Failure> {
        Ok(())
    }
    fn group_rule_get(&self, _: &GroupFacts) -> Result<Option<wire::GroupRule>, Failure> {
        Ok(self.rules.lock().unwrap().last().map(|r| r.request.clone()))
    }
    fn group_rule_set(&self, _: &GroupFacts, rule: GroupRule, _: u32) -> Result<(), Failure> {
        self.rules.lock().unwrap().push(rule);
        Ok(())
    }
    fn group_rule_clear(&self, _: &GroupFacts) -> Result<(), Failure> {
        self.rules.lock().unwrap().clear();
        Ok(())
    }
    fn events(&self, from: From, most: usize) -> Result<wire::Events, Failure> {
        let all = self.events.lock().unwrap();
        let start = match from {
            From::Start => 0,
            From::After(id) | From::Cursor(id) => id,
            From::Now => all.last().map_or(0, |e| e.id),
        };
        let events: Vec<_> = all.iter().filter(|e| e.id > start).take(most).cloned().collect();
        let cursor = events.last().map_or(start, |e| e.id);
        Ok(wire::Events { events, missed: self.missed.swap(0, Ordering::Relaxed), cursor })
    }
    fn group_of(&self, who: ProcessId) -> Option<String> {
        (who.pid == 7).then(|| "/mine/job".into())
    }
    fn explain(&self, id: u64) -> Result<wire::Explanation, Failure> {
        let events = self.events.lock().unwrap();
        let found = events.iter().find(|e| e.id == id).cloned();
        let event = found.ok_or_else(|| FailureKind::NoSuchDecision.because("no such decision"))?;
        Ok(wire::Explanation { event, meaning: None, before: Vec::new(), after: Vec::new() })
    }
    fn reload(&self) -> Result<wire::Reloaded, Failure> {
        Ok(wire::Reloaded::default())
    }
}

const ROOT: Peer = Peer { uid: 0, pid: Some(1) };
const USER: Peer = Peer { uid: 1000, pid: Some(7) };

fn ask(fake: &Fake, peer: Peer, method: &str, parameters: Value) -> Result<Value, String> {
    let method = if method.contains('.') { method.into() } else { format!("org.memgov.{method}") };
    let call = Call { method, parameters, more: false, oneway: false, upgrade: false };
    match answer(&call, peer, fake) {
        Answer::Reply(reply) => reply.error.map_or(Ok(reply.parameters), Err),
        Answer::Follow(_) | Answer::Handle(_) => panic!("a stream"),
    }
}

#[test]
fn questions_are_answered_by_root_and_the_owner_of_the_group() {
    let fake = Fake::default();
    let say = |peer, number: u64, word: &str| {
        ask(&fake, peer, "Answer", json!({ "number": number, "answer": word }))
    };
    for (peer, number, expected) in [
        (ROOT, 1, None),
        (ROOT, 2, None),
        (USER, 1, None),
        (USER, 2, Some("org.memgov.PermissionDenied")),
        (ROOT, 3, None),
        (USER, 3, Some("org.memgov.PermissionDenied")),
        (ROOT, 4, Some("org.memgov.NoSuchQuestion")),
        (USER, 4, Some("org.memgov.NoSuchQuestion")),
    ] {
        assert_eq!(say(peer, number, "kill").err().as_deref(), expected, "{peer:?} {number}");
    }
    assert_eq!(say(ROOT, 1, "perhaps").err().as_deref(), Some("org.memgov.InvalidAnswer"));
    for (word, time) in [("kill", 1), ("wait", 1), ("go-on", 0), ("go-on", u64::MAX)] {
        let asked = json!({ "number": 1, "answer": word, "for_ns": time });
        assert_eq!(
            ask(&fake, ROOT, "Answer", asked).err().as_deref(),
            Some("org.memgov.InvalidAnswer"),
            "{word} {time}"
        );
    }
    let shown =
        |peer| ask(&fake, peer, "Questions", json!({})).unwrap()["questions"].as_array().unwrap().len();
    assert_eq!((shown(ROOT), shown(USER)), (3, 2));
}

#[test]
fn every_method_of_the_interface_is_there_and_no_other() {
    let names: Vec<&str> =
        INTERFACE.lines().filter_map(|l| l.strip_prefix("method ")?.split('(').next()).collect();
    assert_eq!(names.len(), 25);
    let fake = Fake::default();
    for name in names {
        let error = ask(&fake, ROOT, name, json!({})).err().unwrap_or_default();
        assert!(!error.ends_with("MethodNotFound"), "{name} is described and missing");
    }
    assert_eq!(ask(&fake, ROOT, "Nonsense", json!({})), Err("org.varlink.service.MethodNotFound".into()));
    let errors: Vec<&str> =
        INTERFACE.lines().filter_map(|l| l.strip_prefix("error ")?.split(' ').next()).collect();
    let kinds: Vec<&str> = FailureKind::all().map(FailureKind::name).collect();
    assert_eq!(errors, kinds);
}

#[test]
fn the_service_describes_itself() {
    let fake = Fake::default();
    let info = ask(&fake, USER, "org.varlink.service.GetInfo", Value::Null).unwrap();
    assert_eq!(info["interfaces"], json!(["org.varlink.service", "org.memgov"]));
    for name in ["org.memgov", "org.varlink.service"] {
        let asked = json!({ "interface": name });
        let text = ask(&fake, USER, "org.varlink.service.GetInterfaceDescription", asked).unwrap();
        assert!(text["description"].as_str().unwrap().contains(&format!("interface {name}\n")));
    }
    let unknown =
        ask(&fake, USER, "org.varlink.service.GetInterfaceDescription", json!({ "interface": "x" }));
    assert_eq!(unknown, Err("org.varlink.service.InterfaceNotFound".into()));
    assert_eq!(ask(&fake, USER, "a.b", json!({})), Err("org.varlink.service.InterfaceNotFound".into()));
}

#[test]
fn controls_go_round_as_the_letter_says() {
    let fake = Fake::default();
    let word = json!({ "pid": 7, "word": 0x0101_0a03, "climit_bytes": 1_000_001, "plimit_bytes": 5000 });
    let set = ask(&fake, USER, "SetControl", word).unwrap();
    assert_eq!(set["control"]["memctl"], "16845315 1003520 8192");
    assert_eq!(ask(&fake, USER, "GetControl", json!({ "pid": 7 })).unwrap(), set);
    assert_eq!(set["control"]["flags"], json!(["sigcont", "rss-anon"]));
    assert_eq!(fake.controls.lock().unwrap()[0].2, 1000);
    for bad in [5u64, 64 << 8 | 3, 1 << 23 | 1, 1 << 32, 0x0002_0001] {
        let asked = json!({ "pid": 7, "word": bad, "climit_bytes": 0, "plimit_bytes": 4096 });
        assert_eq!(
            ask(&fake, USER, "SetControl", asked),
            Err("org.memgov.InvalidControl".into()),
            "{bad:#x}"
        );
    }
    assert_eq!(fake.controls.lock().unwrap().len(), 1, "nothing is half stored");
    ask(&fake, USER, "ClearControl", json!({ "pid": 7 })).unwrap();
    assert_eq!(ask(&fake, USER, "GetControl", json!({ "pid": 7 })).unwrap()["control"]["word"], 0);
}

#[test]
fn others_are_refused_everything_that_is_not_theirs() {
    let fake = Fake::default();
    fake.events.lock().unwrap().extend([event(1, 0, 1), event(2, 1000, 1)]);
    let denied = Err("org.memgov.PermissionDenied".to_owned());
    let rule = |path: &str, over: &str| json!({ "rule": { "path": path, "over": over, "do": [{ "action": "deny" }] } });
    let set = json!({ "pid": 8, "word": 1, "climit_bytes": 0, "plimit_bytes": 0 });
    for (method, asked) in [
        ("GetControl", json!({ "pid": 8 })),
        ("SetControl", set),
        ("ClearControl", json!({ "pid": 8 })),
        ("GetGroupRule", json!({ "path": "/root" })),
        ("GetJob", json!({ "path": "/root" })),
        ("SetGroupRule", rule("/root", "1MiB")),
        ("SetGroupRule", rule("/user", "101MiB")),
        ("ClearGroupRule", json!({ "path": "/root" })),
        ("ResetKernelPeak", json!({ "path": "/root" })),
        ("Explain", json!({ "id": 1 })),
        ("Reload", json!({})),
        ("Shrink", json!({ "shrink": { "path": "/root", "to_bytes": 1 } })),
        ("GetShrink", json!({ "id": 2 })),
        ("CancelShrink", json!({ "id": 2 })),
        ("SetJob", json!({ "path": "/user", "priority": 1 })),
        ("SetJob", json!({ "path": "/root", "priority": 1 })),
        ("ClearJob", json!({ "path": "/user" })),
    ] {
        assert_eq!(ask(&fake, USER, method, asked.clone()), denied, "{method} {asked}");
    }
    assert!(fake.controls.lock().unwrap().is_empty() && fake.rules.lock().unwrap().is_empty());
    let worth = json!({ "priority": -3, "reservation_bytes": 1 << 20 });
    assert_eq!(ask(&fake, USER, "GetJob", json!({ "path": "/user" })), Ok(worth));
    assert_eq!(ask(&fake, ROOT, "GetJob", json!({ "path": "/root" })), Ok(json!({})), "no job");
    assert!(ask(&fake, USER, "SetGroupRule", rule("/user", "100MiB")).is_ok());
    assert!(ask(&fake, USER, "ResetKernelPeak", json!({ "path": "/user" })).is_ok());
    assert!(ask(&fake, USER, "Explain", json!({ "id": 2 })).is_ok());
    let own = json!({ "shrink": { "path": "/user", "by_bytes": 1 } });
    assert!(
        ask(&fake, USER, "Shrink", own).is_ok()
            && ask(&fake, USER, "CancelShrink", json!({ "id": 1 })).is_ok()
    );
    let jobs = ask(&fake, USER, "ListShrinks", json!({})).unwrap();
    assert_eq!((jobs["jobs"].as_array().unwrap().len(), &jobs["jobs"][0]["state"]), (1, &json!("hard")));
    let seen = ask(&fake, USER, "Events", json!({})).unwrap();
    assert_eq!(seen["events"].as_array().unwrap().len(), 1);
    let status = ask(&fake, USER, "Status", json!({})).unwrap();
    assert_eq!(status["status"]["episodes"].as_array().unwrap().len(), 1);
    let status = ask(&fake, ROOT, "Status", json!({})).unwrap();
    assert_eq!(status["status"]["episodes"].as_array().unwrap().len(), 2);
}

#[test]
fn shrinks_that_say_nothing_possible_are_refused() {
    let fake = Fake::default();
    for shrink in [
        json!({ "path": "/user" }),
        json!({ "path": "/user", "to_bytes": 1, "by_bytes": 1 }),
        json!({ "path": "/user", "by_bytes": 0 }),
        json!({ "path": "/", "to_bytes": 1 }),
        json!({ "path": "/user*", "to_bytes": 1 }),
        json!({ "path": "", "to_bytes": 1 }),
        json!({ "path": "/user", "to_bytes": 1, "swappiness": 201 }),
        json!({ "path": "/user", "to_bytes": 1, "only": "shmem" }),
        json!({ "path": "/user", "to_bytes": 1, "only": "file", "swappiness": 0 }),
        json!({ "path": "/user", "to_bytes": 1, "means": "magic" }),
    ] {
        let got = ask(&fake, ROOT, "Shrink", json!({ "shrink": shrink }));
        assert_eq!(got, Err("org.memgov.InvalidShrink".into()), "{shrink}");
    }
    for bad in [json!(-1), json!("1"), json!(1.5)] {
        let got = ask(&fake, ROOT, "Shrink", json!({ "shrink": { "path": "/user", "to_bytes": bad } }));
        assert_eq!(got, Err("org.varlink.service.InvalidParameter".into()), "{bad}");
    }
    assert_eq!(ask(&fake, ROOT, "GetShrink", json!({ "id": 9 })), Err("org.memgov.NoSuchJob".into()));
}

#[test]
fn rules_that_say_nothing_possible_are_refused() {
    let fake = Fake::default();
    let deny = json!([{ "action": "deny" }]);
    for rule in [
        json!({ "path": "/", "over": "1MiB", "do": deny }),
        json!({ "path": "user", "over": "1MiB", "do": deny }),
        json!({ "path": "/user*", "over": "1MiB", "do": deny }),
        json!({ "path": "/user", "over": "1", "do": deny }),
        json!({ "path": "/user", "over": "1MiB", "do": [] }),
        json!({ "path": "/user", "over": "1MiB", "do": [{ "action": "explode" }] }),
        json!({ "path": "/user", "over": "1MiB", "do": [{ "action": "signal" }] }),
        json!({ "path": "/user", "over": "1MiB", "group_over": "high", "do": deny }),
        json!({ "path": "/user", "over": "high", "meter": "rss.anon", "do": deny }),
        json!({ "path": "/user", "over": "1MiB", "high": "lots", "do": deny }),
        json!({ "path": "/user", "over": "1MiB", "until": "2MiB", "do": deny }),
        json!({ "path": "/user", "over": "1MiB", "until": "2MiB", "meter": "rss.anon", "do": deny }),
        json!({ "path": "/user", "over": "1MiB", "meter": "rss.anon", "do": [{ "action": "kill", "victim": "largest" }] }),
        json!({ "path": "/user", "over": "1MiB", "do": [{ "action": "hook" }] }),
    ] {
        let got = ask(&fake, ROOT, "SetGroupRule", json!({ "rule": rule }));
        assert_eq!(got, Err("org.memgov.InvalidRule".into()), "{rule}");
    }
    let unknown = json!({ "rule": { "path": "/user", "ovr": "1MiB", "over": "1MiB", "do": deny } });
    let invalid = Err("org.varlink.service.InvalidParameter".to_owned());
    assert_eq!(ask(&fake, ROOT, "SetGroupRule", unknown), invalid);
    let program = json!([{ "action": "hook", "run": ["/bin/true"] }]);
    let program = json!({ "rule": { "path": "/user", "over": "1MiB", "do": program } });
    for peer in [ROOT, USER] {
        assert_eq!(ask(&fake, peer, "SetGroupRule", program.clone()), invalid, "no request has a program");
    }
    for bad in
        [json!([]), json!("x"), json!({ "pid": -1 }), json!({ "pid": "7" }), json!({ "pid": 1u64 << 40 })]
    {
        assert_eq!(ask(&fake, ROOT, "GetControl", bad), invalid);
    }
    assert!(fake.rules.lock().unwrap().is_empty());
    let none = ask(&fake, ROOT, "ClearGroupRule", json!({ "path": "/user" }));
    assert_eq!(none, Err("org.memgov.NoSuchRule".into()), "nothing to clear is no success");
    assert_eq!(ask(&fake, ROOT, "GetControl", json!({ "pid": 99 })), Err("org.memgov.NoSuchProcess".into()));
    assert_eq!(
        ask(&fake, ROOT, "GetGroupRule", json!({ "path": "/no" })),
        Err("org.memgov.NoSuchGroup".into())
    );
}

/// A server with a fake daemon behind it.
struct Rig {
    fake: Arc<Fake>,
    serving: Serving,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let fake = Arc::new(Fake::default());
    let limits =
        Limits { half: Duration::from_millis(300), idle: Duration::from_millis(1500), ..Limits::default() };
    let serving = start(&path, fake.clone(), limits).unwrap();
    Rig { fake, serving, path, _folder: folder }
}

impl Rig {
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }
    /// What everything else is measured by.
    fn still_serves(&self) {
        let began = Instant::now();
        let status: Value = Client::connect(&self.path).unwrap().call("Status", json!({})).unwrap();
        assert_eq!(status["status"]["version"], "test");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(5), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn rubbish_is_answered_with_an_error_and_dropped() {
    let rig = rig();
    let mut stream = rig.raw();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n\0more").unwrap();
    let mut answer = String::new();
    // The kernel may say "reset" instead of "end", because "more" was never read.
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.contains("InvalidParameter"), "{answer}");
    until("counted", || rig.serving.dropped() == 1);
    rig.still_serves();
}

#[test]
fn half_a_request_then_silence_is_dropped_in_time_even_if_it_drips() {
    let rig = rig();
    let mut silent = rig.raw();
    silent.write_all(b"{\"method\":").unwrap();
    let mut dripping = rig.raw();
    let began = Instant::now();
    while dripping.write_all(b" ").is_ok() && began.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "a dripping client was kept");
    assert_eq!(silent.read(&mut [0; 9]).unwrap(), 0);
    assert!(rig.serving.dropped() >= 2);
    rig.still_serves();
}

#[test]
fn a_megabyte_without_an_end_is_not_kept() {
    let rig = rig();
    let mut stream = rig.raw();
    // The server stops reading at 64 KiB, answers and hangs up: the write fails somewhere on the way.
    assert!(stream.write_all(&vec![b'x'; 1 << 20]).is_err());
    until("counted", || rig.serving.dropped() == 1);
    rig.still_serves();
}

#[test]
fn a_thousand_connections_harm_nobody() {
    let rig = rig();
    let held: Vec<UnixStream> = (0..1000).filter_map(|_| UnixStream::connect(&rig.path).ok()).collect();
    until("turned away", || rig.serving.turned_away() >= 1000 - Limits::default().clients as u64);
    drop(held);
    until("room again", || {
        let status: Result<Value, ClientError> =
            Client::connect(&rig.path).and_then(|mut c| c.call("Status", json!({})));
        status.is_ok()
    });
    rig.still_serves();
}

#[test]
fn pipelined_requests_are_answered_in_order_and_others_get_their_turn() {
    let rig = rig();
    let mut stream = rig.raw();
    let one = b"{\"method\":\"org.varlink.service.GetInfo\"}\0{\"method\":\"org.memgov.Status\"}\0";
    stream.write_all(&one.repeat(300)).unwrap();
    rig.still_serves();
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    while bytes.iter().filter(|&&b| b == 0).count() < 600 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "hung up");
        bytes.extend_from_slice(&buffer[..n]);
    }
    for (i, reply) in bytes.split(|&b| b == 0).take(600).enumerate() {
        let text = String::from_utf8_lossy(reply);
        assert_eq!(text.contains("vendor"), i % 2 == 0, "{i}: {text}");
    }
}

#[test]
fn requests_sent_before_hanging_up_are_answered() {
    let rig = rig();
    let mut stream = rig.raw();
    stream.write_all(b"{\"method\":\"org.memgov.Status\"}\0{\"method\":\"org.memgov.Status\"}\0").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.iter().filter(|&&b| b == 0).count(), 2);
}

#[test]
fn followers_are_woken_and_told_what_they_missed() {
    let rig = rig();
    rig.fake.events.lock().unwrap().push(event(1, 0, 1));
    let path = rig.path.clone();
    let (send, receive) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut client = Client::connect(&path).unwrap();
        let each = |page: wire::Events| {
            let ids: Vec<u64> = page.events.iter().map(|e| e.id).collect();
            let last = ids.contains(&3);
            send.send((ids, page.missed)).unwrap();
            Ok(!last)
        };
        client.follow(None, each).unwrap();
    });
    let next = || receive.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(next(), (vec![1], 0));
    rig.fake.events.lock().unwrap().push(event(2, 0, 1));
    rig.serving.waker().wake();
    assert_eq!(next(), (vec![2], 0));
    rig.fake.missed.store(5, Ordering::Relaxed);
    rig.fake.events.lock().unwrap().push(event(3, 0, 1));
    rig.serving.waker().wake();
    assert_eq!(next(), (vec![3], 5));
    reader.join().unwrap();
    rig.still_serves();
}

#[test]
fn a_watch_is_confirmed_and_shows_only_what_concerns_the_caller() {
    let fake = Fake::default();
    let watch = |peer, more| {
        let method = "org.memgov.Watch".to_owned();
        answer(&Call { method, parameters: Value::Null, more, oneway: false, upgrade: false }, peer, &fake)
    };
    fake.events.lock().unwrap().push(event(1, 0, 1));
    let Answer::Follow(follow) = watch(USER, true) else { panic!("no stream") };
    assert_eq!((follow.from, follow.whose.map(|who| who.pid)), (From::Now, Some(7)));
    let group = |id: u64, path: &str| {
        let target = wire::Target::Group { path: path.into(), id: 1, owner: Some(0) };
        wire::Event { target, ..event(id, 0, 1) }
    };
    let all = [
        group(2, "/mine"),
        group(3, "/mine/job"),
        group(4, "/mine/job/below"),
        group(5, "/mine/jobs"),
        event(6, 1000, 1),
    ];
    fake.events.lock().unwrap().extend(all);
    let now = Follow { from: From::Cursor(1), ..follow };
    let page = super::requests::stream(now, USER, &fake).unwrap();
    assert_eq!(
        page.events.iter().map(|e| e.id).collect::<Vec<_>>(),
        [2, 3, 6],
        "itself and what it is in, whoever owns them"
    );
    let all = Follow { whose: None, ..now };
    let page = super::requests::stream(all, USER, &fake).unwrap();
    assert_eq!(page.events.iter().map(|e| e.id).collect::<Vec<_>>(), [6], "of others only what is theirs");
    for (peer, more, error) in [
        (USER, false, "org.varlink.service.InvalidParameter"),
        (Peer { pid: None, ..USER }, true, "org.memgov.NoSuchProcess"),
    ] {
        let Answer::Reply(reply) = watch(peer, more) else { panic!("a stream") };
        assert_eq!(reply.error.as_deref(), Some(error));
    }
}

#[test]
fn a_watch_begins_with_a_reply_of_its_own() {
    let rig = rig();
    let mut stream = rig.raw();
    stream.write_all(b"{\"method\":\"org.memgov.Watch\",\"more\":true}\0").unwrap();
    let mut buffer = [0; 256];
    let got = stream.read(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
    assert!(text.contains("\"events\":[]") && text.contains("\"continues\":true"), "{text}");
}

#[test]
fn without_a_pid_a_control_is_the_callers() {
    let fake = Fake::default();
    let asked = json!({ "word": 1, "climit_bytes": 4096, "plimit_bytes": 0 });
    let set = ask(&fake, USER, "SetControl", asked).unwrap();
    assert_eq!(set["control"]["pid"], 7);
    assert_eq!(ask(&fake, USER, "GetControl", json!({})).unwrap(), set);
    let nobody = Peer { pid: None, ..USER };
    assert_eq!(ask(&fake, nobody, "GetControl", json!({})), Err("org.memgov.NoSuchProcess".into()));
    ask(&fake, USER, "ClearControl", json!({})).unwrap();
    assert_eq!(fake.controls.lock().unwrap().len(), 0);
}

#[test]
fn a_follower_that_does_not_read_is_dropped_and_counted() {
    let rig = rig();
    rig.fake.events.lock().unwrap().extend((1..=500).map(|id| event(id, 0, 20_000)));
    let mut stream = rig.raw();
    stream.write_all(b"{\"method\":\"org.memgov.Events\",\"more\":true}\0").unwrap();
    rig.still_serves();
    until("dropped", || rig.serving.dropped() == 1);
    rig.still_serves();
}

#[test]
fn an_idle_follower_is_kept() {
    let rig = rig();
    let mut stream = rig.raw();
    stream.write_all(b"{\"method\":\"org.memgov.Events\",\"more\":true}\0").unwrap();
    std::thread::sleep(Duration::from_millis(2000));
    rig.fake.events.lock().unwrap().push(event(1, 0, 1));
    rig.serving.waker().wake();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
}

#[test]
fn a_busy_daemon_is_said_to_be_busy() {
    let rig = rig();
    rig.fake.busy.store(true, Ordering::Relaxed);
    let result: Result<Value, ClientError> = Client::connect(&rig.path).unwrap().call("Status", json!({}));
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), failure::exit::BUSY);
    rig.fake.busy.store(false, Ordering::Relaxed);
    rig.still_serves();
}

#[test]
fn sockets_left_behind_are_replaced_and_living_ones_are_not() {
    let rig = rig();
    let again = start(&rig.path, rig.fake.clone(), Limits::default());
    assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    rig.still_serves();
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let serving = start(&stale, rig.fake.clone(), Limits::default()).unwrap();
    assert!(Client::connect(&stale).is_ok());
    drop(serving);
    assert!(!stale.exists(), "the socket goes with its server");
    let error = Client::connect(&stale).unwrap_err();
    assert_eq!(error.exit_code(), failure::exit::NO_DAEMON);
    assert!(error.to_string().contains("memgov run"), "{error}");
    std::fs::write(&stale, "data").unwrap();
    assert!(start(&stale, rig.fake.clone(), Limits::default()).is_err());
    assert_eq!(std::fs::read(&stale).unwrap(), b"data");
}

#[test]
fn names_that_are_no_text_are_shown_without_loss() {
    assert_eq!(wire::text(b"/a\xffb\\c"), "/a\\xffb\\\\c");
    assert_eq!(wire::text("/é\n".as_bytes()), "/é\n");
    assert_eq!(wire::text(br"/dev-sda\x2d1"), r"/dev-sda\x2d1");
}
