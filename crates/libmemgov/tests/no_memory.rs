//! A program that is refused all memory, as it has asked to be, lives: it takes its notices and takes its control back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::{GlobalAlloc as _, Layout, System};
use std::ffi::{CStr, CString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::ptr;

use memgov_c::*;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};

/// Notices that are told while there is no memory: a page, as many as memgov puts into one reply.
const NOTICES: u64 = 64;
/// Calls without memory: many, so that what is not given back to the pool would be missed.
const CALLS: u32 = 1000;

/// A decision with all that may be in one, of a group with a long name.
fn event(id: u64) -> Value {
    let path = format!("/{}", "long-name/".repeat(40));
    let candidate = json!({ "pid": 1, "start": 1, "comm": "x", "rss_bytes": 1 });
    let job = json!({ "path": path, "id": 1, "priority": 1, "usage_bytes": 1, "reservation_bytes": 1 });
    json!({
        "id": id, "episode": 1, "time": "2026-11-27T00:00:00.000Z", "monotonic_ns": 1, "source": { "rule": "line" }, "step": 0,
        "target": { "kind": "group", "path": path, "id": 1, "owner": 0 }, "order": "deny-begin",
        "reason": { "kind": "usage", "text": format!("usage of {path} is over"), "usage_bytes": 5, "usage_line_bytes": 4 },
        "ranking": vec![candidate; 8], "jobs": vec![job; 8], "outcome": { "kind": "done" }, "log": path,
    })
}

fn say(stream: &mut UnixStream, reply: &Value) {
    let mut bytes = serde_json::to_vec(reply).unwrap();
    bytes.push(0);
    // Whoever has gone is not told.
    let _gone = stream.write_all(&bytes);
}

/// Answers everybody; a page of notices comes to a watch when somebody asks for `GetControl`, which the starved program does when it is.
fn daemon(listener: &UnixListener) {
    let mut watch: Option<UnixStream> = None;
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut call = Vec::new();
        BufReader::new(&stream).read_until(0, &mut call).unwrap();
        let call = String::from_utf8_lossy(&call).into_owned();
        let control = json!({ "control": { "word": 1, "climit_bytes": 2, "plimit_bytes": 3 } });
        if call.contains("org.memgov.Watch") {
            say(&mut stream, &json!({ "parameters": { "events": [], "missed": 0, "cursor": 1 } }));
            watch = Some(stream);
        } else if call.contains("GetControl") {
            say(&mut stream, &json!({ "parameters": control }));
            let events: Vec<Value> = (1..=NOTICES).map(event).collect();
            let page =
                json!({ "parameters": { "events": events, "missed": 3, "cursor": 70 }, "continues": true });
            say(watch.as_mut().unwrap(), &page);
        } else if call.contains("Shrink") {
            say(
                &mut stream,
                &json!({ "error": "org.memgov.NoSuchGroup", "parameters": { "text": "no such group", "errno": 2 } }),
            );
        } else if call.contains("ClearControl") {
            say(&mut stream, &json!({ "parameters": {} }));
        } else {
            return;
        }
    }
}

/// Until malloc(3) gives nothing more.
fn starve() -> bool {
    let none = || Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::As, none()).is_ok() && setrlimit(Resource::Data, none()).is_ok();
    for size in (4..26).rev().map(|bits| 1usize << bits) {
        let Ok(layout) = Layout::from_size_align(size, 8) else { return false };
        // SAFETY: its size is not 0. Nobody is to have it back.
        while !unsafe { System.alloc(layout) }.is_null() {}
    }
    // SAFETY: its size is not 0.
    limited && unsafe { System.alloc(Layout::new::<u128>()) }.is_null()
}

/// What the starved program does; the first step that went wrong.
fn program(socket: &CStr, nobody: &CStr) -> Result<(), u8> {
    let right = |step: u8, is: bool| if is { Ok(()) } else { Err(step) };
    // SAFETY: strings, places that may be written, and handles that are given back once.
    unsafe {
        let handle = memgov_new(socket.as_ptr());
        let mut watch = ptr::null_mut();
        right(1, memgov_watch_new(handle, &raw mut watch) == 0)?;
        right(8, starve())?;
        let (mut word, mut climit) = (0, 0);
        let got = memgov_get_control(handle, &raw mut word, &raw mut climit, ptr::null_mut());
        right(2, (got, word, climit) == (0, 1, 2))?;
        let mut notice: Notice = std::mem::zeroed();
        notice.size = size_of::<Notice>() as u64;
        for id in 0..=NOTICES {
            let mut pollfd = libc::pollfd { fd: memgov_watch_fd(watch), events: libc::POLLIN, revents: 0 };
            while memgov_watch_take(watch, &raw mut notice) == 0 {
                libc::poll(&raw mut pollfd, 1, -1);
            }
            // The first says how many were missed.
            right(3, notice.id == id && notice.kind == if id == 0 { 5 } else { 2 })?;
        }
        right(4, memgov_watch_take(watch, &raw mut notice) == 0)?;
        for _ in 0..CALLS {
            right(5, memgov_clear_control(handle) == 0)?;
            let other = memgov_new(nobody.as_ptr());
            right(
                6,
                memgov_clear_control(other) == -libc::ENOTCONN
                    && !CStr::from_ptr(memgov_error(other)).is_empty(),
            )?;
            memgov_free(other);
        }
        let refused = memgov_shrink(handle, c"/x".as_ptr(), 0, ptr::null_mut());
        right(7, refused == -libc::ENOENT && CStr::from_ptr(memgov_error(handle)) == c"no such group")?;
        memgov_watch_free(watch);
        memgov_free(handle);
    }
    Ok(())
}

/// How a child ends that does this.
fn child(what: impl FnOnce() -> Result<(), u8>) -> (Option<i32>, Option<i32>) {
    // SAFETY: the child runs `what` and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: nothing of the test's is run in it afterwards; one that waits for ever is ended by the alarm.
        unsafe {
            libc::alarm(60);
            libc::_exit(what().err().unwrap_or(0).into())
        }
    }
    let mut status = -1;
    // SAFETY: a child of ours, and room for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    let exited = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    (exited, libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)))
}

#[test]
fn a_program_without_memory_lives() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("s");
    let listener = UnixListener::bind(&at).unwrap();
    let daemon = std::thread::spawn(move || daemon(&listener));
    let socket = CString::new(at.as_os_str().as_bytes()).unwrap();
    let nobody = CString::new(dir.path().join("nobody").as_os_str().as_bytes()).unwrap();
    let ended = child(|| program(&socket, &nobody));
    UnixStream::connect(&at).unwrap().write_all(b"end\0").unwrap();
    daemon.join().unwrap();
    assert_eq!(ended, (Some(0), None), "exit code (the step that went wrong), signal");
}
