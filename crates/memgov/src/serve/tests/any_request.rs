//! Whatever a client says: it is answered with what the interface describes, nothing panics, and nobody changes what is not his.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::INTERFACE;
use super::super::requests::{Answer, SERVICE, answer};
use super::super::varlink::Call;
use super::{Fake, Peer, ROOT, USER};

/// Who owns nothing here.
const STRANGER: Peer = Peer { uid: 65534, pid: Some(9) };

const METHODS: [&str; 27] = [
    "Status",
    "GetControl",
    "SetControl",
    "ClearControl",
    "GetGroupRule",
    "SetGroupRule",
    "ClearGroupRule",
    "GetJob",
    "SetJob",
    "ClearJob",
    "GetKernelMark",
    "GetSocketRefusals",
    "ResetKernelPeak",
    "Events",
    "Watch",
    "Explain",
    "Shrink",
    "GetShrink",
    "ListShrinks",
    "CancelShrink",
    "Questions",
    "Answer",
    "Handle",
    "Handled",
    "Reload",
    "reload",
    "",
];

const KEYS: [&str; 37] = [
    "pid",
    "as_file",
    "word",
    "climit_bytes",
    "plimit_bytes",
    "path",
    "rule",
    "shrink",
    "id",
    "number",
    "answer",
    "for_ns",
    "since",
    "cursor",
    "meter",
    "over",
    "group_over",
    "until",
    "do",
    "log",
    "high",
    "action",
    "after",
    "signal",
    "repeat",
    "victim",
    "budget",
    "floor",
    "share",
    "pressure",
    "timeout",
    "default",
    "to_bytes",
    "priority",
    "reservation_bytes",
    "oom_reserve_bytes",
    "only",
];

/// Words of the rules, paths that there are and some that there are not, and what looks like one of them.
const WORDS: [&str; 33] = [
    "/user",
    "/root",
    "/user/below",
    "/user/../root",
    "/",
    "",
    "usage",
    "sockets",
    "kernel",
    "available",
    "rss.anon+rss.shmem",
    "usage+sockets",
    "8MiB",
    "0B",
    "18446744073709551615B",
    "99999999999999999999",
    "high+8MiB",
    "high",
    "max",
    "deny",
    "squeeze",
    "reclaim",
    "kill",
    "signal",
    "SIGTERM",
    "hook",
    "lend",
    "50%",
    "100%",
    "5s",
    "18446744073709551615s",
    "go-on",
    "\u{0}\u{1b}[2J",
];

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just(0u64),
        Just(1),
        Just(7),
        Just(8),
        Just(9),
        Just(u64::from(u32::MAX)),
        Just(u64::MAX),
        any::<u64>()
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number.prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&WORDS[..]).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..9).prop_map(Value::from),
            object(inner).prop_map(Value::Object),
        ]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key = prop_oneof![9 => prop::sample::select(&KEYS[..]).prop_map(String::from), 1 => ".{0,9}"];
    prop::collection::vec((key, value), 0..9).prop_map(|entries| entries.into_iter().collect())
}

/// One of a few that mean something in this place, or now and then any.
fn mostly(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![6 => prop::sample::select(words).prop_map(Value::from), 1 => value()]
}

/// Mostly such as could be set, or no rule ever would be.
fn rule() -> impl Strategy<Value = Value> {
    let action = mostly(&["deny", "kill", "squeeze", "record", "freeze", "hook"]);
    let more = prop_oneof![2 => Just(Map::new()), 1 => object(value())];
    let step = (action, more.clone()).prop_map(|(action, mut step)| {
        step.insert("action".into(), action);
        Value::Object(step)
    });
    let path = mostly(&["/user", "/root"]);
    let meter = mostly(&["usage", "kernel", "sockets"]);
    let over = mostly(&["8MiB", "1GiB"]);
    let rule = (path, meter, over, prop::collection::vec(step, 1..3), more);
    rule.prop_map(|(path, meter, over, steps, mut rule)| {
        rule.extend([("path".into(), path), ("meter".into(), meter)]);
        rule.extend([("over".into(), over), ("do".into(), steps.into())]);
        serde_json::json!({ "rule": rule })
    })
}

/// What groups are worth as jobs, mostly such as could be said.
fn job() -> impl Strategy<Value = (String, Value)> {
    let path = mostly(&["/user", "/user/below", "/root"]);
    let number = prop_oneof![4 => any::<i32>().prop_map(Value::from), 1 => value()];
    let keys = prop_oneof![4 => mostly(&["priority", "reservation", "oom-reserve"]).prop_map(|key| vec![key].into()), 1 => value()];
    let said = (path, number.clone(), number, keys, any::<bool>());
    said.prop_map(|(path, priority, reservation, only, set)| match set {
        true => (
            "org.memgov.SetJob".into(),
            serde_json::json!({ "path": path, "priority": priority, "reservation_bytes": reservation }),
        ),
        false => ("org.memgov.ClearJob".into(), serde_json::json!({ "path": path, "only": only })),
    })
}

fn parameters() -> impl Strategy<Value = Value> {
    let path = prop::sample::select(&WORDS[..6]);
    let plain = (path, prop_oneof![Just(7u32), Just(8), Just(9)], any::<u16>());
    let plain = plain.prop_map(|(path, pid, word)| {
        serde_json::json!({
            "path": path, "pid": pid, "word": word, "climit_bytes": 0, "plimit_bytes": 4096, "id": 1,
            "number": 2, "answer": "kill", "shrink": { "path": path, "to_bytes": 0 },
        })
    });
    prop_oneof![2 => value(), 2 => object(value()).prop_map(Value::Object), 2 => plain]
}

fn call() -> impl Strategy<Value = Call> {
    let interface = prop_oneof![8 => Just("org.memgov."), 1 => Just("org.varlink.service."), 1 => Just("")];
    let method = prop_oneof![
        9 => prop::sample::select(&METHODS[..]).prop_map(String::from),
        1 => prop_oneof![Just("GetInfo".into()), Just("GetInterfaceDescription".into()), ".{0,9}"],
    ];
    let one = (interface, method, parameters())
        .prop_map(|(interface, method, parameters)| (format!("{interface}{method}"), parameters));
    let set = rule().prop_map(|rule| ("org.memgov.SetGroupRule".to_owned(), rule));
    let call = (prop_oneof![8 => one, 2 => set, 1 => job()], any::<bool>(), prop::bool::weighted(0.02));
    call.prop_map(|((method, parameters), more, upgrade)| Call {
        method,
        parameters,
        more,
        oneway: false,
        upgrade,
    })
}

/// The errors that the descriptions name.
fn is_described(error: &str) -> bool {
    let (interface, name) = error.rsplit_once('.').unwrap_or_default();
    let description = match interface {
        "org.memgov" => INTERFACE,
        "org.varlink.service" => SERVICE,
        _ => return false,
    };
    let named = description.lines().filter_map(|line| line.strip_prefix("error "));
    named.filter_map(|rest| rest.split([' ', '(']).next()).any(|described| described == name)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn is_answered(calls in prop::collection::vec(call(), 1..6)) {
        let fake = Fake::default();
        for peer in [STRANGER, USER, ROOT] {
            for call in &calls {
                let reply = match answer(call, peer, &fake) {
                    Answer::Reply(reply) => reply,
                    Answer::Handle(_) => {
                        prop_assert!(peer.uid != STRANGER.uid, "a stranger may {call:?}");
                        continue;
                    }
                    Answer::Follow(_) => continue,
                };
                if let Some(error) = &reply.error {
                    prop_assert!(is_described(error), "{error} for {call:?}");
                }
                prop_assert!(serde_json::to_vec(&reply).is_ok());
                // What leaves no trace in the daemon of these tests, which does it all.
                let does = [
                    "Shrink",
                    "CancelShrink",
                    "GetKernelMark",
                    "GetSocketRefusals",
                    "ResetKernelPeak",
                    "Reload",
                    "Answer",
                ];
                if peer.uid == STRANGER.uid && does.iter().any(|name| call.method == format!("org.memgov.{name}")) {
                    prop_assert!(reply.error.is_some(), "a stranger may {call:?}");
                }
            }
            if peer.uid == STRANGER.uid {
                let rules = fake.rules.lock().unwrap();
                prop_assert!(rules.is_empty(), "a stranger has set {:?}", rules.first());
                let controls = fake.controls.lock().unwrap();
                prop_assert!(controls.is_empty(), "a stranger has set {:?}", controls.first());
                let jobs = fake.jobs.lock().unwrap();
                prop_assert!(jobs.is_empty(), "a stranger has said {:?}", jobs.first());
            }
            if peer.uid == USER.uid {
                let controls = fake.controls.lock().unwrap();
                prop_assert!(controls.iter().all(|(who, ..)| who.pid == 7), "another's process: {controls:?}");
                let rules = fake.rules.lock().unwrap();
                let his = |path: &str| ["/user", "/user/below"].contains(&path);
                prop_assert!(rules.iter().all(|rule| his(&rule.request.path)), "another's group");
                let jobs = fake.jobs.lock().unwrap();
                let below = |path: &[u8]| path == b"/user/below";
                prop_assert!(jobs.iter().all(|(path, _, by)| below(path) && *by == USER.uid), "not below his: {jobs:?}");
            }
        }
    }
}

/// The property above says something only if much of what is said is understood.
#[test]
fn much_is_understood() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut understood, mut set, mut jobs) = (0, 0, 0);
    for _ in 0..2000 {
        let fake = Fake::default();
        let call = call().new_tree(&mut runner).unwrap().current();
        let Answer::Reply(reply) = answer(&call, ROOT, &fake) else { continue };
        understood += usize::from(reply.error.is_none());
        set += fake.rules.lock().unwrap().len();
        jobs += fake.jobs.lock().unwrap().len();
    }
    let enough = understood > 300 && set > 50 && jobs > 20;
    assert!(enough, "{understood} understood, {set} rules set, {jobs} jobs");
}
