//! What happened to groups, counted from one stream of the daemon's events, and who polls for it.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Errno, PollNotifier};
use memgov_client::{Error, Memgov};
use memgov_decide::decision::UNDONE;
use serde::Deserialize;
use serde_json::{Value, json};

/// Keys of `memgov.events` and the orders they count. Holds are counted when they begin.
const KEYS: [(&str, &str); 15] = [
    ("warning", "record"),
    ("deny", "deny-begin"),
    ("slow", "slow-begin"),
    ("freeze", "freeze-begin"),
    ("reclaim", "reclaim-begin"),
    ("lend", "lend-begin"),
    ("squeeze", "squeeze-begin"),
    ("shrink", "shrink"),
    ("signal", "signal"),
    ("kill", "kill"),
    ("ask", "ask"),
    ("denied", "denied"),
    ("relieved", "relieved"),
    ("oom", "oom"),
    ("oom_kill", "oom-kill"),
];

/// Of them, what tells and does nothing to anybody: `nothing` is what comes of it.
const TELL: [&str; 4] = ["record", "ask", "relieved", "oom"];

/// Groups that are counted for; beyond that the one that has been quiet for longest starts from 0.
const MOST_GROUPS: usize = 4096;
/// A decision is told again when its outcome is known, within two seconds.
const REMEMBERED: usize = 1024;
/// Between two tries to reach a daemon.
const RETRY: Duration = Duration::from_secs(1);
/// A stream that says nothing is that of a daemon to which nothing happens, or of one that stands still: after so long who reads has to ask it.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Event {
    id: u64,
    order: String,
    target: Target,
    outcome: Outcome,
}

impl Event {
    /// Something was done, as far as that is known; it comes again when more is.
    fn is_done(&self) -> bool {
        let outcome = self.outcome.kind.as_str();
        let only_tells = outcome == "nothing" && TELL.contains(&self.order.as_str());
        only_tells || outcome != "pending" && !UNDONE.contains(&outcome)
    }
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Target {
    Group {
        path: String,
        id: u64,
    },
    Process {
        #[serde(default)]
        group: Option<String>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Outcome {
    kind: String,
}

#[derive(Debug, Default)]
struct Row {
    /// Which group had the path; `None` while only processes in it were met.
    id: Option<u64>,
    counts: [u64; KEYS.len()],
    changed: u64,
}

#[derive(Debug, Default)]
struct Inner {
    groups: HashMap<String, Row>,
    told: VecDeque<u64>,
    /// Grows with each change of anything.
    clock: u64,
    /// When all changed at once: the daemon came or went, or events were missed.
    epoch: u64,
    /// Events that the daemon no longer had when they were to be told, of whatever group.
    missed: u64,
    connected: bool,
    /// When the daemon last said anything.
    heard: Option<Instant>,
    /// Times a daemon was looked for.
    tries: u64,
    /// What came of the last try that came to nothing.
    failure: Option<Errno>,
    waiting: HashMap<u64, (String, PollNotifier)>,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Counts {
    inner: Mutex<Inner>,
    tried: Condvar,
    wanted: Condvar,
}

/// A reader's place: changes up to here are known to him.
pub type Seen = u64;

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of this group, and how far that goes. Without a daemon one is looked for at once.
    pub fn text(&self, path: &str, id: u64, patience: Duration) -> (Result<String, Errno>, Seen) {
        let mut inner = self.lock();
        let before = inner.tries;
        if !inner.connected {
            self.wanted.notify_all();
            let untried = |inner: &mut Inner| !inner.connected && inner.tries == before;
            let waited = self.tried.wait_timeout_while(inner, patience, untried);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !inner.connected {
            // The try that ended may have begun before this reader came: what it says of the daemon holds for him too.
            let error = inner.failure.filter(|_| inner.tries != before).unwrap_or(Errno::ETIMEDOUT);
            return (Err(error), inner.clock);
        }
        let row = inner.groups.get(path).filter(|row| row.id.is_none_or(|known| known == id));
        let counts = row.map_or([0; KEYS.len()], |row| row.counts);
        let mut text = String::new();
        for ((key, _), count) in KEYS.iter().zip(counts) {
            let _infallible = writeln!(text, "{key} {count}");
        }
        let _infallible = writeln!(text, "missed {}", inner.missed);
        (Ok(text), inner.clock)
    }

    /// Whether the daemon has to be asked if it is there, before counts are told as what they are now.
    pub fn is_quiet(&self) -> bool {
        let inner = self.lock();
        inner.connected && inner.heard.is_none_or(|heard| heard.elapsed() > QUIET)
    }

    /// It has said something.
    pub fn heard(&self) {
        self.lock().heard = Some(Instant::now());
    }

    /// Whether there is news for this reader; if not, he is told when there is.
    pub fn poll(&self, handle: u64, path: &str, seen: Seen, notifier: Option<PollNotifier>) -> bool {
        let mut inner = self.lock();
        let changed = inner.groups.get(path).map_or(0, |row| row.changed);
        let news = changed.max(inner.epoch) > seen;
        if let Some(notifier) = notifier.filter(|_| !news) {
            inner.waiting.insert(handle, (path.to_owned(), notifier));
        }
        news
    }

    /// This reader has gone.
    pub fn closed(&self, handle: u64) {
        self.lock().waiting.remove(&handle);
    }

    /// The stream is there, or there is none, and why.
    fn connected(&self, came: Result<(), Errno>) {
        let mut inner = self.lock();
        inner.tries += 1;
        inner.failure = came.err();
        let connected = came.is_ok();
        if connected {
            inner.heard = Some(Instant::now());
        }
        if inner.connected != connected {
            inner.connected = connected;
            inner.clock += 1;
            inner.epoch = inner.clock;
        }
        let all =
            if inner.epoch == inner.clock { std::mem::take(&mut inner.waiting) } else { HashMap::new() };
        drop(inner);
        self.tried.notify_all();
        wake(all.into_values().map(|(_, notifier)| notifier));
    }

    fn forget_all(&self) {
        let mut inner = self.lock();
        inner.groups.clear();
        inner.told.clear();
        inner.missed = 0;
    }

    /// Counts a page of events and wakes whom they concern.
    fn add(&self, page: &Value) {
        let events = page.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        // An event of a newer daemon's that is not understood is not counted.
        let events = events.iter().filter_map(|event| Event::deserialize(event).ok());
        let mut inner = self.lock();
        inner.heard = Some(Instant::now());
        let changed: Vec<String> = events.filter_map(|event| inner.count(event)).collect();
        // Whose they were nobody knows.
        let missed = page.get("missed").and_then(Value::as_u64).unwrap_or(0);
        if missed > 0 {
            inner.missed = inner.missed.saturating_add(missed);
            inner.clock += 1;
            inner.epoch = inner.clock;
        }
        let concerned = inner.waiting.iter().filter(|(_, (path, _))| missed > 0 || changed.contains(path));
        let woken: Vec<u64> = concerned.map(|(&at, _)| at).collect();
        let notifiers: Vec<_> = woken.iter().filter_map(|at| inner.waiting.remove(at)).collect();
        drop(inner);
        wake(notifiers.into_iter().map(|(_, notifier)| notifier));
    }

    /// Follows the daemon for as long as this process lives.
    pub fn follow(self: &Arc<Self>, memgov: Memgov) -> std::io::Result<()> {
        let counts = Arc::clone(self);
        let body = move || {
            loop {
                let ended = counts.count_from(&memgov);
                counts.connected(Err(why(&ended)));
                let inner = counts.lock();
                drop(counts.wanted.wait_timeout(inner, RETRY).unwrap_or_else(PoisonError::into_inner));
            }
        };
        thread::Builder::new().name("follows".into()).spawn(body).map(|_| ())
    }

    /// All that the daemon keeps, and then what comes.
    fn count_from(&self, memgov: &Memgov) -> Result<(), Error> {
        let mut page = memgov.call("Events", json!({}))?;
        self.forget_all();
        let mut cursor = None;
        loop {
            self.add(&page);
            let next = page.get("cursor").and_then(Value::as_u64);
            if next == cursor || next.is_none() {
                break;
            }
            cursor = next;
            page = memgov.call("Events", json!({ "cursor": cursor }))?;
        }
        let from = cursor.map_or(json!({}), |cursor| json!({ "cursor": cursor }));
        let stream = memgov.stream("Events", from)?;
        self.connected(Ok(()));
        for page in stream {
            self.add(&page?);
        }
        Ok(())
    }
}

/// Why there is nobody to follow. Who has closed the connection has ended, or is about to say why not in the next try.
fn why(ended: &Result<(), Error>) -> Errno {
    match ended {
        Ok(()) | Err(Error::Closed) => Errno::ENOTCONN,
        Err(error) => Errno::from_i32(error.errno()),
    }
}

fn wake(notifiers: impl Iterator<Item = PollNotifier>) {
    for notifier in notifiers {
        // Fails if who waited has gone meanwhile.
        let _gone = notifier.notify();
    }
}

impl Inner {
    /// The path of the group that this changes; `None`: it is nothing new, or about no group.
    fn count(&mut self, event: Event) -> Option<String> {
        let at = KEYS.iter().position(|(_, order)| *order == event.order)?;
        if !event.is_done() || self.told.contains(&event.id) {
            return None;
        }
        let (path, id) = match event.target {
            Target::Group { path, id } => (path, Some(id)),
            Target::Process { group } => (group?, None),
            Target::Other => return None,
        };
        self.told.truncate(REMEMBERED - 1);
        self.told.push_front(event.id);
        self.make_room(&path);
        self.clock += 1;
        let row = self.groups.entry(path.clone()).or_default();
        if id.is_some() && row.id.is_some() && row.id != id {
            *row = Row::default();
        }
        row.id = id.or(row.id);
        row.changed = self.clock;
        if let Some(count) = row.counts.get_mut(at) {
            *count += 1;
        }
        Some(path)
    }

    fn make_room(&mut self, path: &str) {
        if self.groups.len() < MOST_GROUPS || self.groups.contains_key(path) {
            return;
        }
        let quiet = self.groups.iter().min_by_key(|(_, row)| row.changed).map(|(path, _)| path.clone());
        quiet.and_then(|path| self.groups.remove(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, order: &str, target: Value, outcome: &str) -> Value {
        json!({ "events": [{ "id": id, "order": order, "target": target, "outcome": { "kind": outcome }, "new": 1 }] })
    }

    fn count(counts: &Counts, path: &str, id: u64, key: &str) -> u64 {
        let (text, _) = counts.text(path, id, Duration::ZERO);
        let text = text.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} ")));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn counted_once_and_for_the_group_that_has_the_path_now() {
        let counts = Counts::default();
        counts.connected(Ok(()));
        let group = |id: u64| json!({ "kind": "group", "path": "/a", "id": id, "owner": 0 });
        counts.add(&event(1, "kill", group(5), "pending"));
        counts.add(&event(1, "kill", group(5), "done"));
        counts.add(&event(
            2,
            "kill",
            json!({ "kind": "process", "pid": 1, "start": 2, "comm": "x", "group": "/a" }),
            "done",
        ));
        assert_eq!(count(&counts, "/a", 5, "kill"), 2);
        for outcome in UNDONE.into_iter().chain(["pending"]) {
            counts.add(&event(3, "deny-begin", group(5), outcome));
        }
        counts.add(&event(4, "deny-end", group(5), "done"));
        counts.add(&event(5, "kill", json!({ "kind": "host" }), "done"));
        counts.add(&json!({ "events": [7, { "id": "x" }] }));
        assert_eq!((count(&counts, "/a", 5, "deny"), count(&counts, "/a", 5, "kill")), (0, 2));
        assert_eq!(count(&counts, "/a", 6, "kill"), 0, "another group of the same path");
        counts.add(&event(6, "relieved", group(6), "done"));
        assert_eq!((count(&counts, "/a", 6, "kill"), count(&counts, "/a", 6, "relieved")), (0, 1));
    }

    #[test]
    fn what_only_tells_is_counted_and_what_was_first_refused_may_be_done() {
        let counts = Counts::default();
        counts.connected(Ok(()));
        let group = json!({ "kind": "group", "path": "/a", "id": 5 });
        for (id, order) in (1..).zip(["record", "ask", "relieved", "oom"]) {
            counts.add(&event(id, order, group.clone(), "nothing"));
            counts.add(&event(id + 10, order, group.clone(), "withheld"));
        }
        for key in ["warning", "ask", "relieved", "oom"] {
            assert_eq!(count(&counts, "/a", 5, key), 1, "{key}");
        }
        for outcome in ["pending", "refused", "done", "dead"] {
            counts.add(&event(30, "kill", group.clone(), outcome));
        }
        assert_eq!(count(&counts, "/a", 5, "kill"), 1);
    }

    #[test]
    fn what_was_missed_is_said_to_everybody() {
        let counts = Counts::default();
        counts.connected(Ok(()));
        let (_, seen) = counts.text("/a", 1, Duration::ZERO);
        counts.add(&json!({ "events": [], "missed": 3 }));
        assert!(counts.poll(1, "/a", seen, None), "its counts may be short");
        counts.add(&json!({ "events": [], "missed": 4 }));
        assert_eq!((count(&counts, "/a", 1, "missed"), count(&counts, "/b", 2, "missed")), (7, 7));
        let (_, seen) = counts.text("/a", 1, Duration::ZERO);
        counts.add(&json!({ "events": [], "missed": 0 }));
        assert!(!counts.poll(1, "/a", seen, None));
        counts.forget_all();
        assert_eq!(count(&counts, "/a", 1, "missed"), 0, "another daemon");
    }

    #[test]
    fn news_is_what_came_after_the_last_look() {
        let counts = Counts::default();
        let (text, seen) = counts.text("/a", 1, Duration::ZERO);
        assert_eq!(text, Err(Errno::ETIMEDOUT), "nobody has looked for a daemon yet");
        counts.connected(Ok(()));
        assert!(counts.poll(1, "/a", seen, None), "the daemon has come");
        let (_, seen) = counts.text("/a", 1, Duration::ZERO);
        assert!(!counts.poll(1, "/a", seen, None));
        counts.add(&event(1, "kill", json!({ "kind": "group", "path": "/b", "id": 1 }), "done"));
        assert!(!counts.poll(1, "/a", seen, None), "another's news");
        counts.add(&event(2, "kill", json!({ "kind": "group", "path": "/a", "id": 1 }), "done"));
        assert!(counts.poll(1, "/a", seen, None));
        let (_, seen) = counts.text("/a", 1, Duration::ZERO);
        counts.connected(Err(Errno::ENOTCONN));
        assert!(counts.poll(1, "/a", seen, None), "it has gone");
    }

    #[test]
    fn a_reader_in_the_middle_of_a_try_is_told_what_comes_of_it() {
        for (ended, expected) in [
            (Err(Error::Silent), Errno::ETIMEDOUT),
            (Err(Error::Closed), Errno::ENOTCONN),
            (
                Err(Error::NotRunning { socket: "x".into(), source: std::io::Error::other("x") }),
                Errno::ENOTCONN,
            ),
            (Ok(()), Errno::ENOTCONN),
        ] {
            let counts = Arc::new(Counts::default());
            let reader = {
                let counts = Arc::clone(&counts);
                thread::spawn(move || counts.text("/a", 1, Duration::from_secs(60)).0)
            };
            while !reader.is_finished() {
                counts.connected(Err(why(&ended)));
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(reader.join().unwrap(), Err(expected), "{ended:?}");
        }
    }

    #[test]
    fn only_a_stream_that_stands_gets_quiet() {
        let counts = Counts::default();
        assert!(!counts.is_quiet(), "who is not there is looked for anyhow");
        counts.connected(Ok(()));
        assert!(!counts.is_quiet(), "it has just come");
        let ago = || Instant::now().checked_sub(QUIET + Duration::from_millis(1)).unwrap();
        counts.lock().heard = Some(ago());
        assert!(counts.is_quiet());
        counts.heard();
        assert!(!counts.is_quiet());
        counts.lock().heard = Some(ago());
        counts.add(&json!({ "events": [] }));
        assert!(!counts.is_quiet());
    }

    #[test]
    fn bounded() {
        let counts = Counts::default();
        counts.connected(Ok(()));
        for id in 0..=MOST_GROUPS as u64 {
            let target = json!({ "kind": "group", "path": format!("/{id}"), "id": id });
            counts.add(&event(id, "kill", target, "done"));
        }
        assert_eq!(counts.lock().groups.len(), MOST_GROUPS);
        assert_eq!(counts.lock().told.len(), REMEMBERED);
        assert_eq!((count(&counts, "/0", 0, "kill"), count(&counts, "/1", 1, "kill")), (0, 1));
    }

    proptest::proptest! {
        /// Whatever a daemon of another version says.
        #[test]
        fn any_page_is_counted_or_passed_over(
            events in proptest::collection::vec((proptest::prelude::any::<u64>(), "[a-z-]{0,8}", "(/[ab]){0,2}", 0..6u8), 0..6),
            missed in proptest::prelude::any::<u64>(),
        ) {
            let counts = Counts::default();
            counts.connected(Ok(()));
            let events: Vec<Value> = events
                .iter()
                .map(|(id, order, path, shape)| match shape {
                    0 => json!({ "id": id }),
                    1 => json!(order),
                    2 => event(*id, order, json!(path), order),
                    3 => event(*id, "kill-begin", json!({ "kind": "group", "path": path, "id": id }), order),
                    _ => event(*id, "kill-begin", json!({ "kind": "group", "path": path, "id": id }), "done"),
                })
                .collect();
            for page in [json!({ "events": events, "missed": missed }), json!({ "events": missed }), json!(events), Value::Null] {
                counts.add(&page);
            }
            let (text, _) = counts.text("/a", 1, Duration::ZERO);
            proptest::prop_assert!(text.unwrap().lines().all(|line| line.split_once(' ').is_some_and(|(_, n)| n.parse::<u64>().is_ok())));
        }
    }
}
