//! Whatever answers on the socket, be it no memgov at all: every call ends within its time, with a value or an error that has an errno, and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use memgov_client::{Action, Control, Error, Goal, JobKey, JobWords, Memgov};
use proptest::prelude::*;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_millis(50);

/// Says this to each of so many that come, whatever they ask, and closes; or keeps the connection open and says no more.
fn daemon(socket: &Path, answer: Vec<u8>, silent: bool) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut asked = [0; 4096];
            // The end of the test says "end".
            if stream.read(&mut asked).is_ok_and(|got| &asked[..got] == b"end") {
                return;
            }
            let _gone = stream.write_all(&answer);
            if silent {
                kept.push(stream);
            }
        }
    })
}

/// What a client meets where such a daemon answers; it is gone afterwards.
fn with_daemon<T>(answer: Vec<u8>, silent: bool, client: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let daemon = daemon(&socket, answer, silent);
    let met = client(&socket);
    UnixStream::connect(&socket).unwrap().write_all(b"end").unwrap();
    daemon.join().unwrap();
    met
}

/// Replies that a memgov could give, with anything in their places.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        Just(json!(0)),
        Just(json!(1)),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from)
    ];
    let thing = prop_oneof![
        3 => number,
        2 => ".{0,9}".prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => prop_oneof![Just(Value::Null), Just(json!([])), Just(json!({})), Just(json!("reached")), Just(json!("running")), Just(json!("hard"))],
    ];
    let fields = [
        "job",
        "path",
        "state",
        "before_bytes",
        "usage_bytes",
        "target_bytes",
        "errno",
        "pid",
        "word",
        "climit_bytes",
        "plimit_bytes",
        "action",
        "flags",
        "signal",
        "id",
        "order",
        "kind",
        "text",
        "missed",
        "cursor",
        "number",
        "meter",
        "meter_bytes",
        "line_bytes",
        "left_ns",
        "priority",
        "reservation_bytes",
        "set",
        "oom_reserve_bytes",
        "by",
    ];
    let object = prop::collection::vec((prop::sample::select(fields.to_vec()), thing), 0..12);
    let object = object.prop_map(|entries| {
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<serde_json::Map<_, _>>()
    });
    let error = prop_oneof![
        3 => Just(Value::Null),
        1 => Just(json!("org.memgov.Busy")),
        1 => Just(json!("org.varlink.service.MethodNotFound")),
        1 => ".{0,12}".prop_map(Value::from),
    ];
    (object, error, any::<bool>()).prop_map(|(object, error, twice)| {
        let inner = Value::Object(object.clone());
        let event = json!({ "id": 1, "order": inner.get("order"), "target": inner, "reason": inner });
        let parameters = json!({ "job": inner, "shortage": inner, "control": inner, "events": [event], "missed": inner.get("missed"), "oom_reserve_bytes": inner.get("oom_reserve_bytes"), "priority": inner.get("priority"), "set": inner.get("set"), "text": "x", "errno": inner.get("errno") });
        let mut reply = serde_json::to_vec(&json!({ "parameters": parameters, "error": error })).unwrap();
        reply.push(0);
        if twice { [reply.clone(), reply].concat() } else { reply }
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        reply(),
        prop::collection::vec(any::<u8>(), 0..200),
        Just(b"{\"parameters\":{}}\0".to_vec()),
        Just(vec![0; 9])
    ]
}

/// Every call there is; how long the longest took.
fn all_calls(socket: &Path) -> Result<Duration, TestCaseError> {
    let memgov = Memgov::at(socket).patience(PATIENCE);
    let mut longest = Duration::ZERO;
    let mut call = |what: &str, one: &dyn Fn() -> Result<(), Error>| {
        let begin = Instant::now();
        let ended = one();
        longest = longest.max(begin.elapsed());
        if let Err(error) = ended {
            prop_assert!(error.errno() > 0, "{what}: {error} has no errno");
            prop_assert!(!error.to_string().is_empty(), "{what}: no word");
        }
        Ok(())
    };
    call("control", &|| memgov.control().map(drop))?;
    call("set_control", &|| memgov.set_control(&Control::of(Action::Deny)).map(drop))?;
    call("clear_control", &|| memgov.clear_control())?;
    call("call", &|| memgov.call("Status", json!({})).map(drop))?;
    call("job", &|| memgov.job("/a").map(drop))?;
    let words = JobWords { oom_reserve_bytes: Some(1), ..JobWords::default() };
    call("set_job", &|| memgov.set_job("/a", &words).map(drop))?;
    call("clear_job", &|| memgov.clear_job("/a", &[JobKey::OomReserve]).map(drop))?;
    call("watch", &|| {
        let mut watch = memgov.watch()?;
        for _ in 0..4 {
            if watch.try_next()?.is_none() {
                break;
            }
        }
        Ok(())
    })?;
    call("handler", &|| {
        let mut handler = memgov.handler("/a")?;
        for _ in 0..4 {
            if handler.try_next()?.is_none() {
                break;
            }
        }
        Ok(())
    })?;
    call("handled", &|| memgov.handled(1))?;
    Ok(longest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_call_ends(answer in bytes(), silent in prop::bool::weighted(0.1)) {
        let longest = with_daemon(answer, silent, all_calls);
        prop_assert!(longest? < PATIENCE * 40, "a call took long");
    }

    /// It goes on to ask while it is told "running", so only what is no such word may end it, and does.
    #[test]
    fn a_shrink_ends(answer in bytes().prop_filter("as long as it runs it is asked", |bytes| !String::from_utf8_lossy(bytes).contains("running"))) {
        let ended =
            with_daemon(answer, false, |socket| Memgov::at(socket).patience(PATIENCE).shrink("/a", Goal::To(0)));
        if let Err(error) = ended {
            prop_assert!(error.errno() > 0, "{error}");
        }
    }
}
