//! The binary as scripts use it: exit codes, JSON, text, broken pipes, against a server with a daemon that only remembers.
//! No privilege is needed and nothing on the machine is touched.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy knows tests by their attribute only"
)]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use memgov::serve::worth::{Job, Said};
use memgov::serve::{
    self, Failure, FailureKind, From, Governed, GroupFacts, GroupRule, Limits, ProcessFacts, Serving,
};
use memgov::serve::{shrink, wire};
use memgov_decide::control::MemControl;
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::{Bytes, Limit};
use serde_json::{Value, json};

#[derive(Default)]
struct Fake {
    control: Mutex<MemControl>,
    rule: Mutex<Option<wire::GroupRule>>,
    said: Mutex<Option<(Said, u32)>>,
}

/// Clears the screen, and turns what follows around.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}\u{202e}y\u{2066}";

fn event(id: u64) -> wire::Event {
    serde_json::from_value(json!({
        "id": id, "episode": 3, "time": "2026-11-22T05:00:00.123Z", "monotonic_ns": 1, "source": { "rule": "builds" }, "step": 1,
        "target": { "kind": "process", "pid": 7, "start": 2, "comm": "foo) Z \u{1b}[2J", "group": "/x", "uid": me() },
        "order": "kill",
        "reason": { "kind": "rss", "text": "rss.anon 9GiB is over 8GiB", "rss_bytes": 9u64 << 30, "rss_line_bytes": 8u64 << 30 },
        "ranking": [{ "pid": 7, "start": 2, "comm": "foo) Z ", "rss_bytes": 9u64 << 30 }],
        "outcome": { "kind": "dead", "processes": 1, "by": "pidfd", "expected_bytes": 9u64 << 30 },
        "kernel": {
            "time": "2026-11-22T05:00:00.125Z", "kernel_bytes": 17u64 << 20, "processes": 2, "trial": { "freed_bytes": 4096, "held_bytes": 17u64 << 20 },
            "cause": { "kind": "slab_reclaimable", "bytes": 9u64 << 20, "by": "holding", "pinned": false },
            "holders": [
                { "comm": HOSTILE, "processes": 2, "oldest_pid": 7, "threads": 2, "descriptors": 20_000 },
                { "comm": HOSTILE, "processes": 1, "oldest_pid": 9, "threads": 1 }
            ]
        },
        "log": "Cgroup: x, Comm: foo) Z , Pid: 7, Mem: 2359296 pages, Action: kill the process"
    }))
    .unwrap()
}

/// Whoever runs the tests owns everything in them: no privilege is needed.
fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

const EVENTS: u64 = 5000;

/// The number says how it ends.
fn job(id: u64) -> shrink::Job {
    let state = ["running", "reached", "already", "hard", "cancelled"][usize::try_from(id).unwrap()];
    serde_json::from_value(json!({
        "job": id, "path": HOSTILE, "state": state,
        "before_bytes": 600u64 << 20, "usage_bytes": 400u64 << 20, "target_bytes": 400u64 << 20, "freed_bytes": 200u64 << 20,
        "elapsed_ns": 1_500_000_000u64, "rate_bytes": 133u64 << 20, "file": "memory.reclaim", "owner": me(), "by": me()
    }))
    .unwrap()
}

impl shrink::Shrinking for Fake {
    fn shrink(&self, _: &GroupFacts, asked: &shrink::Request, _: u32) -> Result<shrink::Job, Failure> {
        // How far says how it is to end.
        Ok(job(asked.to_bytes.unwrap() >> 20))
    }
    fn shrink_get(&self, id: u64) -> Result<shrink::Job, Failure> {
        if id < 5 { Ok(job(id)) } else { Err(FailureKind::NoSuchJob.because("no shrink 9")) }
    }
    fn shrinks(&self) -> Result<Vec<shrink::Job>, Failure> {
        Ok(vec![job(0), job(3)])
    }
    fn shrink_cancel(&self, _: u64) -> Result<shrink::Job, Failure> {
        Ok(job(4))
    }
}

impl memgov::serve::questions::Asking for Fake {
    fn questions(&self) -> Result<Vec<wire::QuestionStatus>, Failure> {
        let question = json!({
            "number": 7, "episode": 1, "source": { "rule": HOSTILE }, "target": { "kind": "group", "path": HOSTILE, "id": 1, "owner": me() },
            "reason": { "kind": "usage", "text": HOSTILE }, "since": "now", "left_ns": 59_000_000_000u64, "default": "kill"
        });
        Ok(vec![serde_json::from_value(question).unwrap()])
    }
    fn why_not_open(&self, number: u64) -> Failure {
        FailureKind::NoSuchQuestion.because(format!("there is no question {number}"))
    }
    fn answer(&self, _: u64, _: memgov_decide::question::Answer) -> Result<(), Failure> {
        Ok(())
    }
}

impl memgov::serve::handling::Handling for Fake {
    fn handler_take(
        &self,
        _: &GroupFacts,
        _: ProcessId,
        _: u32,
    ) -> Result<Box<dyn memgov::serve::handling::Post>, Failure> {
        Err(FailureKind::HandlerTaken.because("no command asks for it"))
    }
    fn handler_done(&self, _: u64, _: Option<u32>) -> Result<(), Failure> {
        Err(FailureKind::NoSuchShortage.because("no command asks for it"))
    }
}

/// The configuration says a priority of 5 of `/job`, and nothing of others.
impl memgov::serve::worth::Weighing for Fake {
    fn job(&self, group: &GroupFacts) -> Result<Job, Failure> {
        let said = *self.said.lock().unwrap();
        let of_config = (*group.path == *b"/job").then_some(5);
        let (now, _) = said.unwrap_or_default();
        let is_job = of_config.is_some() || said.is_some();
        let worth = is_job.then(|| memgov_decide::jobs::Worth {
            priority: now.priority.or(of_config).unwrap_or_default(),
            reservation: now.reservation.unwrap_or_default(),
        });
        let oom_reserve = now.oom_reserve.unwrap_or_default();
        Ok(Job { worth, oom_reserve, said })
    }
    fn job_set(&self, _: &GroupFacts, said: Said, by: u32, _: u32) -> Result<(), Failure> {
        *self.said.lock().unwrap() = (!said.is_nothing()).then_some((said, by));
        Ok(())
    }
}

impl Governed for Fake {
    fn page(&self) -> Bytes {
        Bytes(4096)
    }
    fn status(&self) -> Result<wire::Status, Failure> {
        let target = event(1).target;
        let hold = wire::HoldStatus {
            target,
            action: "deny".into(),
            by: "rlimit".into(),
            share_permille: None,
            tasks: None,
            lent_bytes: None,
            tcp_limit_bytes: None,
            sockets: None,
        };
        let files = vec![format!("/{HOSTILE}")];
        let mut status =
            wire::Status { version: "0.1.0".into(), memory: "v1".into(), ..wire::Status::default() };
        status.kernel = vec![wire::KernelMark {
            only_tracks: false,
            target: wire::Target::Group { path: HOSTILE.into(), id: 5, owner: Some(me()) },
            line_bytes: 16 << 20,
            kernel_bytes: None,
            peak_bytes: Some(17 << 20),
            peak_by: Some("readings".into()),
            peak_time: None,
            since: None,
            hits: 3,
            growth_bytes_per_second: None,
        }];
        status.jobs = vec![wire::JobStatus {
            target: wire::Target::Group { path: HOSTILE.into(), id: 5, owner: Some(me()) },
            worth: wire::JobWorth {
                priority: Some(-5),
                reservation_bytes: Some(2 << 30),
                oom_reserve_bytes: 0,
                set: vec![wire::JobKey::Priority],
                by: Some(0),
            },
        }];
        (status.holds, status.files, status.reload_error) = (vec![hold], files, Some(HOSTILE.into()));
        Ok(status)
    }
    fn process(&self, pid: u32) -> Result<ProcessFacts, Failure> {
        match pid {
            7 => Ok(ProcessFacts { id: ProcessId { pid, start: 2 }, uids: Some([me(); 4]) }),
            8 => Err(FailureKind::PermissionDenied.because("not yours")),
            _ => Err(FailureKind::NoSuchProcess.because("there is no process 99")),
        }
    }
    fn group(&self, path: &[u8]) -> Result<GroupFacts, Failure> {
        let limit = Some(Limit::Max);
        let owner = Some(me());
        let (path, id) = (path.into(), GroupId(1));
        Ok(GroupFacts { path, id, owner, owner_above: owner, limit, ruled_by: None, said_by: None })
    }
    fn control_get(&self, _: ProcessId) -> Result<MemControl, Failure> {
        Ok(*self.control.lock().unwrap())
    }
    fn control_set(&self, _: ProcessId, control: MemControl, _: u32) -> Result<(), Failure> {
        *self.control.lock().unwrap() = control;
        Ok(())
    }
    fn control_clear(&self, _: ProcessId) -> Result<(), Failure> {
        *self.control.lock().unwrap() = MemControl::default();
        Ok(())
    }
    fn kernel_mark(&self, _: &GroupFacts) -> Result<Option<wire::KernelMark>, Failure> {
        Ok(None)
    }
    fn socket_refusals(&self, _: &GroupFacts) -> Result<Option<u64>, Failure> {
        Ok(None)
    }
    fn kernel_peak_reset(&self, _: &GroupFacts) -> Result<(), Failure> {
        Ok(())
    }
    fn group_rule_get(&self, _: &GroupFacts) -> Result<Option<wire::GroupRule>, Failure> {
        Ok(self.rule.lock().unwrap().clone())
    }
    fn group_rule_set(&self, _: &GroupFacts, rule: GroupRule, _: u32) -> Result<(), Failure> {
        *self.rule.lock().unwrap() = Some(rule.request);
        Ok(())
    }
    fn group_rule_clear(&self, _: &GroupFacts) -> Result<(), Failure> {
        *self.rule.lock().unwrap() = None;
        Ok(())
    }
    fn events(&self, from: From, most: usize) -> Result<wire::Events, Failure> {
        let start = match from {
            From::Start => 0,
            From::After(id) | From::Cursor(id) => id,
            From::Now => EVENTS,
        };
        let events: Vec<_> = (start + 1..=EVENTS).take(most).map(event).collect();
        let cursor = events.last().map_or(start, |e| e.id);
        Ok(wire::Events { events, missed: 0, cursor })
    }
    fn group_of(&self, _: ProcessId) -> Option<String> {
        None
    }
    fn explain(&self, id: u64) -> Result<wire::Explanation, Failure> {
        match id {
            1 => Ok(wire::Explanation {
                event: event(1),
                meaning: None,
                before: vec![],
                after: vec![event(2)],
            }),
            _ => Err(FailureKind::NoSuchDecision.because("no decision 9")),
        }
    }
    fn reload(&self) -> Result<wire::Reloaded, Failure> {
        Err(FailureKind::InvalidConfig.because("x.toml:1:1: wrong"))
    }
}

struct Rig {
    _serving: Serving,
    folder: tempfile::TempDir,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let serving =
        serve::start(&folder.path().join("s"), Arc::new(Fake::default()), Limits::default()).unwrap();
    Rig { _serving: serving, folder }
}

impl Rig {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }
    fn memgov(&self, arguments: &[&str]) -> Output {
        memgov().env("MEMGOV_SOCKET", self.socket()).args(arguments).output().unwrap()
    }
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.memgov(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments)).unwrap()
    }
}

fn memgov() -> Command {
    Command::new(env!("CARGO_BIN_EXE_memgov"))
}

#[test]
fn controls_by_word_and_by_name_are_the_same() {
    let rig = rig();
    rig.text(&["set", "--pid", "7", "--memctl", "0x01010a03 1000001 5000"]);
    assert_eq!(rig.text(&["get", "--pid", "7", "--memctl"]), "16845315 1003520 8192\n");
    let by_name = "set --pid 7 --action signal --signal SIGUSR1 --sigcont --rss anon --climit 1000001B --plimit 5000B --json";
    let set = rig.json(&by_name.split(' ').collect::<Vec<_>>());
    assert_eq!(set["memctl"], "16845315 1003520 8192");
    assert_eq!(rig.json(&["get", "--pid", "7", "--json"]), set);
    assert_eq!(
        rig.text(&["get", "--pid", "7"]),
        "pid 7 is sent SIGUSR1 every second while its group is over memory.high + 980KiB and its rss.anon is over 8KiB\n"
    );
    rig.text(&["clear", "--pid", "7"]);
    assert_eq!(rig.text(&["get", "--pid", "7"]), "pid 7: no control\n");
}

#[test]
fn shrinks_end_as_they_went() {
    let rig = rig();
    let shown = "x\\u{1b}[2J\\u{9b}\\u{202e}y\\u{2066}";
    assert_eq!(
        rig.text(&["shrink", "/x", "1M"]),
        format!(
            "{shown}: at the target of 400MiB: 600MiB -> 400MiB in 1.5s (200MiB freed by memory.reclaim, 133MiB/s)\n"
        )
    );
    assert!(rig.text(&["shrink", "/x", "--to", "2M"]).contains("already"));
    assert_eq!(rig.text(&["shrink", "/x", "--to", "1M", "--async"]), "1\n");
    assert_eq!(rig.json(&["shrink", "/x", "--to", "1M", "--json"])["state"], "reached");
    assert_eq!(rig.json(&["shrink", "--list", "--json"])["jobs"].as_array().unwrap().len(), 2);
    let list = rig.text(&["shrink", "--list"]);
    assert!(list.contains("hard") && list.contains("running") && !list.contains('\u{1b}'), "{list}");
    for (line, code) in [
        ("shrink /x --to 3M", 8),
        ("shrink --watch 3", 8),
        ("shrink --watch 4", 1),
        ("shrink --watch 9", 5),
        ("shrink --watch 1", 0),
        ("shrink / --to 1M", 2),
        ("shrink /x", 2),
        ("shrink", 2),
        ("shrink /x --to 1M --by 1M", 2),
        ("shrink /x 1M --to 1M", 2),
        ("shrink /x --to 1M --file-only --anon-only", 2),
        ("shrink /x --to 1M --swappiness 201", 2),
        ("shrink --list --async", 2),
    ] {
        let output = rig.memgov(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
    }
    let hard = rig.memgov(&["shrink", "/x", "--to", "3M"]);
    assert!(String::from_utf8_lossy(&hard.stderr).contains("EBUSY") && !hard.stderr.contains(&0x1b));
}

#[test]
fn rules_of_groups_go_round() {
    let rig = rig();
    let set = rig.text(&[
        "set",
        "--group",
        "/x",
        "--over",
        "high+8MiB",
        "--do",
        "deny,signal:SIGRTMIN+3,kill:largest@10s",
    ]);
    assert!(set.contains("10s later, if still over, kill its largest process"), "{set}");
    let rule = rig.json(&["get", "--group", "/x", "--json"]);
    assert_eq!(rule["do"][2], json!({ "action": "kill", "after": "10s", "victim": "largest" }));
    assert_eq!(rig.text(&["get", "--group", "/x"]), set);
    rig.text(&["clear", "--group", "/x"]);
    assert_eq!(rig.memgov(&["get", "--group", "/x"]).status.code(), Some(5));
}

#[test]
fn what_a_group_is_worth_goes_round() {
    let rig = rig();
    let by = if me() == 0 { "" } else { ", by uid" };
    let said = |line: &str| rig.text(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(said("get --group /job"), "/job is a job of priority 5, reservation 0B\n");
    let set = said("set --group /job --priority -7");
    assert!(set.starts_with(&format!("/job is a job of priority -7 (set), reservation 0B{by}")), "{set}");
    let set = said("set --group /job --reservation 2GiB");
    let both = format!("/job is a job of priority -7 (set), reservation 2GiB (set){by}");
    assert!(set.starts_with(&both), "what is not given stays: {set}");
    assert_eq!(said("get --group /job"), set);
    let told = json!({ "priority": -7, "reservation_bytes": 2u64 << 30, "set": ["priority", "reservation"], "by": me() });
    assert_eq!(rig.json(&["get", "--group", "/job", "--json"]), json!({ "path": "/job", "job": told }));
    assert_eq!(rig.json(&["set", "--group", "/job", "--priority", "-7", "--json"]), told);
    said("set --group /job --over 1MiB --do deny");
    let all = rig.json(&["get", "--group", "/job", "--json"]);
    assert_eq!(
        (&all["over"], &all["job"]),
        (&json!("1MiB"), &told),
        "the rule, and what it is worth beside it"
    );
    said("clear --group /job");
    assert_eq!(said("clear --group /job --priority"), "cleared\n");
    assert!(said("get --group /job").starts_with("/job is a job of priority 5, reservation 2GiB (set)"));
    let none = rig.memgov(&["clear", "--group", "/job", "--priority"]);
    assert_eq!(none.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is nothing to clear"));
    said("clear --group /job --reservation");
    assert_eq!(said("get --group /job"), "/job is a job of priority 5, reservation 0B\n");
    refused(&rig, "set --group /job --priority 2147483648", "2147483648 is not in");
    refused(&rig, "set --group /job --reservation 5", "no unit");
    refused(&rig, "set --group /job --priority 1 --over 1MiB --do deny", "one after the other");
    refused(&rig, "set --pid 7 --priority 1", "cannot be used with");
    refused(&rig, "clear --pid 7 --priority", "cannot be used with");
}

#[test]
fn exit_codes_are_the_documented_ones() {
    let rig = rig();
    let code = |arguments: &[&str]| {
        let output = rig.memgov(arguments);
        assert!(!output.stderr.is_empty(), "{arguments:?} says nothing");
        output.status.code()
    };
    assert_eq!(code(&["set", "--pid", "7"]), Some(2));
    assert_eq!(code(&["set", "--pid", "7", "--memctl", "5 0 0"]), Some(2));
    assert_eq!(code(&["set", "--pid", "7", "--over", "1MiB"]), Some(2));
    assert_eq!(code(&["set", "--group", "/", "--over", "1MiB", "--do", "kill"]), Some(2));
    assert_eq!(code(&["set", "--group", "/x", "--over", "1", "--do", "kill"]), Some(2));
    assert_eq!(code(&["reload"]), Some(3));
    assert_eq!(code(&["get", "--pid", "8"]), Some(4));
    assert_eq!(code(&["get", "--pid", "99"]), Some(5));
    assert_eq!(code(&["explain", "9"]), Some(5));
    let away = memgov().args(["--socket", "/nonexistent/s", "status"]).output().unwrap();
    assert_eq!(away.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&away.stderr).contains("memgov run --config FILE"));
    let exec = memgov()
        .args(["--socket", "/nonexistent/s", "exec", "--over", "1MiB", "--do", "kill", "--", "true"])
        .output();
    assert_eq!(exec.unwrap().status.code(), Some(6), "refused before anything is made");
}

/// Runs it, and expects it to be refused as wrong usage for this reason.
fn refused(rig: &Rig, line: &str, reason: &str) {
    let output = rig.memgov(&line.split(' ').collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}: {said}");
    assert!(said.contains(reason) && said.matches(reason).count() == 1, "{line}: {said}");
}

#[test]
fn set_refuses_what_would_not_do_what_it_says() {
    let rig = rig();
    let above = "`until` (2MiB) is above `over` (1MiB)";
    refused(&rig, "set --group /x --over 1MiB --until 2MiB --do deny", above);
    refused(&rig, "set --group /x --meter rss.anon --over 1MiB --until 2MiB --do deny", above);
    refused(&rig, "set --group /x --meter rss.anon --over 1MiB --do kill:largest", "no victim to choose");
    rig.text(&["set", "--group", "/x", "--over", "2MiB", "--until", "2MiB", "--do", "deny"]);
    for action in ["deny", "slow", "kill", "none"] {
        refused(
            &rig,
            &format!("set --pid 7 --action {action} --signal 9"),
            "--signal goes with --action signal",
        );
    }
    let set = rig.json(&["set", "--pid", "7", "--action", "deny", "--climit", "0", "--json"]);
    assert_eq!(set["climit_bytes"], 0);
    refused(&rig, "set --pid 7 --action deny --climit 1", "no unit");
}

#[test]
fn clear_says_when_there_was_nothing() {
    let rig = rig();
    let output = rig.memgov(&["clear", "--group", "/x"]);
    assert_eq!((output.status.code(), output.stdout), (Some(5), Vec::new()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no rule is set on /x"));
    rig.text(&["set", "--group", "/x", "--over", "1MiB", "--do", "deny"]);
    assert_eq!(rig.text(&["clear", "--group", "/x"]), "cleared\n");
}

#[test]
fn an_empty_socket_variable_is_as_unset() {
    let output = memgov().env("MEMGOV_SOCKET", "").args(["completions", "bash"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_name_reaches_the_terminal_as_it_is() {
    let rig = rig();
    let group = format!("/{HOSTILE}");
    let file = rig.folder.path().join(format!("{HOSTILE}.toml"));
    let pattern = HOSTILE.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>();
    let text = format!("[[rule]]\ngroups = \"/{pattern}\"\nover = \"1MiB\"\ndo = [\"deny\"]\n");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let bad = rig.folder.path().join("bad.toml");
    std::fs::write(&bad, format!("[[rule]]\nname = \"{pattern}\"\n{HOSTILE} = 1\n")).unwrap();
    let bad = bad.to_str().unwrap();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["events", "--since", "4999"],
        &["explain", "1"],
        &["get", "--group", &group],
        &["clear", "--group", &group],
        &["set", "--group", &group, "--over", "1MiB", "--do", "deny"],
        &["get", "--group", &group],
        &["get", "--group", &group, "--json"],
        &["set", "--group", "/x", "--over", HOSTILE, "--do", "deny"],
        &["set", "--group", "/x", "--over", "1MiB", "--do", HOSTILE],
        &["set", "--pid", "7", "--action", "signal", "--signal", HOSTILE],
        &["check", file],
        &["check", file, "--json"],
        &["check", bad],
        &["check", HOSTILE],
        &["replay", HOSTILE, "--config", file],
        &["replay", HOSTILE, "--config", bad],
        &["--socket", HOSTILE, "status"],
        &["restore", "--state-dir", HOSTILE],
    ] {
        let output = rig.memgov(arguments);
        for text in [&output.stdout, &output.stderr] {
            let text = std::str::from_utf8(text).unwrap();
            let obeyed = text.chars().find(|&c| c != '\n' && memgov::terminal::is_obeyed(c));
            assert_eq!(obeyed, None, "{arguments:?}: {text:?}");
        }
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{arguments:?} says nothing");
    }
}

#[test]
fn kernel_memory_is_told_with_its_kind_and_its_holder() {
    let rig = rig();
    let text = rig.text(&["explain", "1"]);
    for expected in [
        "kernel   of 17MiB, slab_reclaimable holds most, 9MiB (pinned: a trial got back 4KiB of 17MiB); held by x",
        "(2 processes, 2 threads, 20000 open files, the oldest pid 7)\n",
        "looked into at 2026-11-22T05:00:00.125Z; 2 processes were looked at\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let text = rig.text(&["status"]);
    let row: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("KERNEL MEMORY OF")).take(2).collect();
    assert!(row[1].ends_with("?    16MiB  17MiB  3     ?        ?"), "what is not known is no 0: {row:?}");
}

#[test]
fn events_come_in_pages_and_one_a_line() {
    let rig = rig();
    let lines = rig.text(&["events", "--json", "--since", "4000"]);
    let ids: Vec<u64> = lines.lines().map(|l| serde_json::from_str::<wire::Event>(l).unwrap().id).collect();
    assert_eq!(ids, (4001..=EVENTS).collect::<Vec<_>>());
    let text = rig.text(&["events", "--since", "4999"]);
    assert_eq!(
        text,
        "2026-11-22T05:00:00.123Z  #5000 rule builds: pid 7 (foo) Z \\u{1b}[2J) in /x: kill: \
         rss.anon 9GiB is over 8GiB -> 1 process dead by pidfd, 9GiB on its way back; of 17MiB, slab_reclaimable holds most, 9MiB \
         (pinned: a trial got back 4KiB of 17MiB); held by x\\u{1b}[2J\\u{9b}\\u{202e}y\\u{2066} (2 processes, 2 threads, 20000 open files, \
         the oldest pid 7)\n"
    );
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let rig = rig();
    for arguments in [&["events"][..], &["events", "--json", "--follow"], &["events", "--json"]] {
        let mut child = memgov()
            .env("MEMGOV_SOCKET", rig.socket())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 10];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut some).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}

#[test]
fn a_decision_is_explained() {
    let text = rig().text(&["explain", "1"]);
    for part in [
        "decision #1 of episode 3",
        "rule     rule builds, step 2",
        "over by 1GiB",
        "1.",
        "dead by pidfd",
        "after it:",
        "#2",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[test]
fn check_says_what_is_meant_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let check = |text: &str, json: bool| {
        std::fs::write(&file, text).unwrap();
        let mut command = memgov();
        command.arg("check").arg(&file);
        if json {
            command.arg("--json");
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let good = "[[rule]]\nname = \"x\"\ngroups = \"/x\"\nover = \"1GiB\"\ndo = [\"kill\"]\n";
    let (code, text) = check(good, false);
    assert_eq!(code, Some(0));
    assert!(text.starts_with(
        "rule `x`: each group /x while its usage is over 1GiB: at once kill all its processes."
    ));
    assert!(text.ends_with("valid: 1 rules in 1 file\n"), "{text}");
    let (code, text) = check(&good.replace("over", "ovr"), false);
    assert_eq!(code, Some(3));
    assert!(text.contains("x.toml:4:1: unknown key `ovr`") && text.ends_with("2 errors\n"), "{text}");
    let (code, text) = check(&good.replace("over", "ovr"), true);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["valid"], &report["errors"][0]["line"]), (Some(3), &json!(false), &json!(1)));
    let (code, text) = check(good, true);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["valid"], &report["rules"][0]["name"]), (Some(0), &json!(true), &json!("x")));
}

#[test]
fn what_packagers_install_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = memgov().args(["completions", shell]).output().unwrap();
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("memgov"),
            "{shell}"
        );
    }
    assert!(memgov().args(["man", "--dir"]).arg(folder.path()).status().unwrap().success());
    assert!(folder.path().join("memgov-exec.1").exists());
}
