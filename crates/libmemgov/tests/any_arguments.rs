//! Whatever C hands in, as far as memgov.h allows it to, and whatever answers: each function comes back with what the header says, and nothing is written past what the caller has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::io::{Read as _, Write as _};
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::ptr::{null, null_mut};

use memgov_c::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const EINVAL: c_int = libc::EINVAL;
/// Not UTF-8.
const BAD: &CStr = c"/a\xff\xfe";

/// Says this to each that comes, whatever it asks, and hangs up.
struct Daemon {
    dir: tempfile::TempDir,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn saying(answer: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut asked) = (stream.unwrap(), [0; 8192]);
                if stream.read(&mut asked).is_ok_and(|got| &asked[..got] == b"end") {
                    return;
                }
                let _gone = stream.write_all(&answer);
            }
        });
        Self { dir, thread: Some(thread) }
    }

    fn handle(&self) -> *mut Handle {
        let socket = CString::new(self.dir.path().join("s").as_os_str().as_bytes()).unwrap();
        // SAFETY: a string.
        unsafe { memgov_new(socket.as_ptr()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _said = UnixStream::connect(self.dir.path().join("s")).and_then(|mut end| end.write_all(b"end"));
        let _ended = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn replies(replies: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for reply in replies {
        bytes.extend(serde_json::to_vec(reply).unwrap());
        bytes.push(0);
    }
    bytes
}

/// The calls about a group.
fn of_group(handle: *mut Handle, group: *const c_char) -> [c_int; 7] {
    let (mut handler, mut usage) = (null_mut(), 0);
    let mut job = Job {
        size: size_of::<Job>() as u64,
        priority: 0,
        reservation_bytes: 0,
        oom_reserve_bytes: 0,
        set: 0,
    };
    // SAFETY: NULL or a handle, NULL or a string, and places that may be written.
    unsafe {
        let registered = memgov_handler_new(handle, group, &raw mut handler);
        memgov_handler_free(handler);
        [
            registered,
            memgov_shrink(handle, group, 0, &raw mut usage),
            memgov_get_job(handle, group, &raw mut job),
            memgov_set_priority(handle, group, -1),
            memgov_set_reservation(handle, group, 1),
            memgov_set_oom_reserve(handle, group, 1),
            memgov_clear_job(handle, group, 0),
        ]
    }
}

#[test]
fn null_is_einval() {
    let none: *mut Handle = null_mut();
    // SAFETY: all may be NULL.
    unsafe {
        memgov_free(none);
        memgov_watch_free(null_mut());
        memgov_handler_free(null_mut());
        assert!(!CStr::from_ptr(memgov_error(none)).is_empty());
        let (mut watch, mut notice): (*mut Watch, Notice) = (null_mut(), std::mem::zeroed());
        notice.size = size_of::<Notice>() as u64;
        for refused in [
            memgov_set_control(none, 0, 0, 0),
            memgov_get_control(none, null_mut(), null_mut(), null_mut()),
            memgov_clear_control(none),
            memgov_watch_new(none, &raw mut watch),
            memgov_watch_fd(null()),
            memgov_watch_take(null_mut(), &raw mut notice),
            memgov_handler_fd(null()),
            memgov_handler_take(null_mut(), null_mut()),
            memgov_handled(none, 1),
        ] {
            assert_eq!(refused, -EINVAL);
        }
        assert_eq!(of_group(none, c"/a".as_ptr()), [-EINVAL; 7]);
        // The default socket; nobody is asked.
        let handle = memgov_new(null());
        assert_eq!(memgov_watch_new(handle, null_mut()), -EINVAL);
        assert_eq!(memgov_handler_new(handle, c"/a".as_ptr(), null_mut()), -EINVAL);
        assert_eq!(memgov_get_job(handle, c"/a".as_ptr(), null_mut()), -EINVAL);
        assert_eq!(of_group(handle, null()), [-EINVAL; 7]);
        memgov_free(handle);
    }
}

#[test]
fn what_is_not_utf8_or_no_word_is_refused_with_a_sentence() {
    // SAFETY: strings, and handles that are given back once.
    unsafe {
        assert!(memgov_new(BAD.as_ptr()).is_null());
        let handle = memgov_new(null());
        assert!(CStr::from_ptr(memgov_error(handle)).is_empty());
        assert_eq!(of_group(handle, BAD.as_ptr()), [-EINVAL; 7]);
        assert_eq!(CStr::from_ptr(memgov_error(handle)), c"the path of the group is NULL or not UTF-8");
        assert_eq!(memgov_set_control(handle, 5, 0, 0), -EINVAL);
        assert!(CStr::from_ptr(memgov_error(handle)).to_str().unwrap().starts_with("unknown action"));
        assert_eq!(memgov_clear_job(handle, c"/a".as_ptr(), 8), -EINVAL);
        memgov_free(handle);
    }
}

/// Room for a struct with its size in front; behind what it says, 0xaa.
fn room(size: u64) -> Box<[u64; 64]> {
    let mut room = Box::new([0xaaaa_aaaa_aaaa_aaaa; 64]);
    room[0] = size;
    room
}

/// What was written, and where it was not.
fn written(room: &[u64; 64]) -> usize {
    room.iter().rposition(|&word| word != 0xaaaa_aaaa_aaaa_aaaa).map_or(0, |last| (last + 1) * 8)
}

#[test]
fn no_more_is_written_than_the_caller_has() {
    let shortage = json!({ "number": 7, "path": "/a", "meter": "usage", "meter_bytes": 1, "line_bytes": 2, "oom_reserve_bytes": 3, "left_ns": 4 });
    let event = json!({ "id": 7, "order": "kill", "target": { "kind": "group", "path": "/a" }, "reason": {}, "outcome": { "kind": "done" } });
    let daemon = Daemon::saying(replies(&[
        json!({ "parameters": { "events": [event], "priority": 1 } }),
        json!({ "parameters": { "shortage": shortage } }),
    ]));
    let (handle, group) = (daemon.handle(), c"/a".as_ptr());
    let first = offset_of!(Shortage, oom_reserve_bytes) as u64;
    // SAFETY: handles that are given back once, and room for more than the sizes say.
    unsafe {
        for (size, expected) in [
            (0, None),
            (first - 1, None),
            (first, Some(first)),
            (first + 8, Some(first + 8)),
            (512, Some(first + 8)),
        ] {
            let (mut handler, mut room) = (null_mut(), room(size));
            assert_eq!(memgov_handler_new(handle, group, &raw mut handler), 0);
            let got = memgov_handler_take(handler, room.as_mut_ptr().cast());
            assert_eq!(
                (got, written(&room) as u64),
                expected.map_or((-EINVAL, 8), |length| (1, length)),
                "{size}"
            );
            assert_eq!((got != 1 || room[1] == 7, room[0]), (true, size));
            // A wrong size took nothing.
            let mut whole: Shortage = std::mem::zeroed();
            whole.size = size_of::<Shortage>() as u64;
            if got != 1 {
                assert_eq!((memgov_handler_take(handler, &raw mut whole), whole.oom_reserve_bytes), (1, 3));
            }
            // It has hung up: that is said as often as it is asked, and the descriptor stays.
            for _ in 0..2 {
                assert_eq!(memgov_handler_take(handler, &raw mut whole), -libc::EAGAIN);
                assert!(memgov_handler_fd(handler) >= 0);
            }
            memgov_handler_free(handler);
        }
        let least = size_of::<Notice>() as u64;
        for (size, expected) in [(0, None), (least - 1, None), (least, Some(least)), (512, Some(least))] {
            let (mut watch, mut room) = (null_mut(), room(size));
            assert_eq!(memgov_watch_new(handle, &raw mut watch), 0);
            let got = memgov_watch_take(watch, room.as_mut_ptr().cast());
            assert_eq!(
                (got, written(&room) as u64),
                expected.map_or((-EINVAL, 8), |length| (1, length)),
                "{size}"
            );
            memgov_watch_free(watch);
        }
        for (size, expected) in [(39, None), (40, Some(40)), (512, Some(40))] {
            let mut room = room(size);
            let got = memgov_get_job(handle, group, room.as_mut_ptr().cast());
            assert_eq!(
                (got, written(&room) as u64),
                expected.map_or((-EINVAL, 8), |length| (0, length)),
                "{size}"
            );
        }
        memgov_free(handle);
    }
}

/// A watch is no part of the handle that made it.
#[test]
fn a_watch_outlives_its_handle() {
    let daemon = Daemon::saying(replies(&[json!({ "parameters": { "missed": 2 } })]));
    let handle = daemon.handle();
    // SAFETY: handles that are given back once.
    unsafe {
        let (mut watch, mut notice): (*mut Watch, Notice) = (null_mut(), std::mem::zeroed());
        notice.size = size_of::<Notice>() as u64;
        assert_eq!(memgov_watch_new(handle, &raw mut watch), 0);
        memgov_free(handle);
        assert_eq!((memgov_watch_take(watch, &raw mut notice), notice.kind, notice.missed), (1, 5, 2));
        assert_eq!(memgov_watch_take(watch, &raw mut notice), -libc::EAGAIN);
        memgov_watch_free(watch);
    }
}

fn thing() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,300}".prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!("reached")),
    ]
}

prop_compose! {
    /// Something like a reply; not "running", which a shrink goes on to ask after.
    fn answer()(things in prop::collection::vec(thing(), 9), error in prop_oneof![4 => Just(Value::Null), 1 => ".{0,20}".prop_map(Value::from), 1 => Just(json!("org.memgov.Busy"))]) -> Vec<u8> {
        let [a, b, c, d, e, f, g, h, i] = &things[..] else { return Vec::new() };
        let shortage = json!({ "number": a, "path": b, "meter": c, "meter_bytes": d, "line_bytes": e, "left_ns": f });
        let event = json!({ "id": a, "order": b, "target": { "kind": "group", "path": c }, "reason": { "usage_bytes": d }, "outcome": { "kind": e } });
        let control = json!({ "word": a, "climit_bytes": b, "plimit_bytes": c });
        let job = json!({ "job": a, "path": b, "state": c, "before_bytes": d, "usage_bytes": e, "target_bytes": f });
        let parameters = json!({
            "shortage": shortage, "events": [event], "control": control, "job": job, "missed": g, "priority": h, "oom_reserve_bytes": i, "text": b, "errno": a,
        });
        replies(&[json!({ "parameters": parameters, "error": error }), json!({ "parameters": parameters })])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_call_comes_back(
        answer in prop_oneof![4 => answer(), 1 => prop::collection::vec(any::<u8>(), 0..200)],
        group in prop::collection::vec(1u8.., 0..300), word in any::<u32>(), limits in any::<(u64, u64)>(), number in any::<u64>(),
    ) {
        let (daemon, group) = (Daemon::saying(answer), CString::new(group).unwrap());
        let handle = daemon.handle();
        // SAFETY: strings, places that may be written, and handles that are given back once.
        unsafe {
            let mut said = of_group(handle, group.as_ptr()).to_vec();
            said.push(memgov_set_control(handle, word, limits.0, limits.1));
            said.push(memgov_get_control(handle, null_mut(), null_mut(), null_mut()));
            said.push(memgov_clear_control(handle));
            said.push(memgov_handled(handle, number));
            said.push(memgov_clear_job(handle, group.as_ptr(), word));
            let (mut watch, mut notice): (*mut Watch, Notice) = (null_mut(), std::mem::zeroed());
            notice.size = size_of::<Notice>() as u64;
            said.push(memgov_watch_new(handle, &raw mut watch));
            for _ in 0..4 {
                let took = memgov_watch_take(watch, &raw mut notice);
                prop_assert!(took != 1 || notice.group.contains(&0) && notice.action.contains(&0));
            }
            memgov_watch_free(watch);
            for one in said {
                prop_assert!((-4095..=0).contains(&one), "{one}");
            }
            prop_assert!(CStr::from_ptr(memgov_error(handle)).to_str().is_ok());
            memgov_free(handle);
        }
    }
}
