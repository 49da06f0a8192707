//! What happens to this process and to the groups it is in, as it comes: a descriptor to poll, and notices to take.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use serde::Deserialize;
use serde_json::json;

use crate::wire::Connection;
use crate::{Error, Memgov};

/// What sort of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A line was crossed and nothing was done but recording it: there is still time to give something back. So with a step that is only rehearsed (a dry run), was decided against, or failed.
    Warning,
    /// A line was crossed, or a further step reached, and something was done: [`Notice::action`] says what.
    Over,
    /// Under the line again: what was done has been undone.
    Relieved,
    /// The kernel ran out of memory in a group of this process, or killed for it.
    OutOfMemory,
    /// So many notices ([`Notice::missed`]) were left out, because they were not taken in time.
    Missed,
}

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// What sort.
    pub kind: Kind,
    /// The decision's number, for `memgov explain`; 0 of [`Kind::Missed`].
    pub id: u64,
    /// What was done, as `memgov events` calls it (`deny-begin`, `slow-begin`, `signal`, `kill`...).
    pub action: String,
    /// The group it is about; `None`: this process itself.
    pub group: Option<String>,
    /// What was compared, in bytes, where it is known: usage of the group, or what of the process is resident.
    pub usage_bytes: Option<u64>,
    /// The line it was compared with.
    pub line_bytes: Option<u64>,
    /// Of [`Kind::Missed`]: how many.
    pub missed: u64,
}

/// Notices, from the moment it was made on. To wait for one beside other things poll the descriptor ([`AsFd`]) for input and then take with
/// [`Watch::try_next`] until that gives `None`; as an iterator it waits. After a fork the notices go on to be about the process that made it.
#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    /// Taken from the socket and not given out yet, the next one last.
    ready: Vec<Notice>,
    /// Given out lately: a decision is told again when its outcome is known, which is something new here only if nothing had been done before.
    told: VecDeque<(u64, Kind)>,
}

/// Outcomes become known within two seconds; this many decisions about one process in that time are beyond any rule.
const REMEMBERED: usize = 256;

/// As much of a reply as a notice needs. The rest is skipped as it is read: a page of the longest events is to be read in little memory.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    missed: u64,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    id: u64,
    order: String,
    target: Target,
    reason: Reason,
    outcome: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    /// OutcomeKind of the daemon's `wire.rs`.
    kind: String,
}

#[derive(Deserialize)]
struct Target {
    kind: String,
    #[serde(default)]
    path: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reason {
    usage_bytes: Option<u64>,
    usage_line_bytes: Option<u64>,
    rss_bytes: Option<u64>,
    rss_line_bytes: Option<u64>,
}

impl Event {
    /// What this is to a program; `None`: nothing new (the end of something, which is told by the relief, or more of the same).
    fn kind(&self) -> Option<Kind> {
        match self.order.as_str() {
            "record" => Some(Kind::Warning),
            "relieved" => Some(Kind::Relieved),
            "oom" | "oom-kill" => Some(Kind::OutOfMemory),
            "signal" | "kill" => Some(self.crossing()),
            other => other.ends_with("-begin").then(|| self.crossing()),
        }
    }

    /// Whether anything has come of a step. What is still pending comes again, and so does what it comes to.
    fn crossing(&self) -> Kind {
        match self.outcome.kind.as_str() {
            "done" | "partial" | "dead" | "pinned" | "begun" | "ran" => Kind::Over,
            _ => Kind::Warning,
        }
    }

    fn notice(self) -> Option<Notice> {
        let kind = self.kind()?;
        let of_group = self.target.kind == "group";
        let Reason { usage_bytes, usage_line_bytes, rss_bytes, rss_line_bytes } = self.reason;
        // What was done, and not what was to be done.
        let action = if kind == Kind::Warning { "record".to_owned() } else { self.order };
        Some(Notice {
            kind,
            id: self.id,
            action,
            group: self.target.path.filter(|_| of_group),
            usage_bytes: rss_bytes.or(usage_bytes),
            line_bytes: rss_line_bytes.or(usage_line_bytes),
            missed: 0,
        })
    }
}

impl Notice {
    fn gap(missed: u64) -> Self {
        let (usage_bytes, line_bytes) = (None, None);
        Self {
            kind: Kind::Missed,
            id: 0,
            action: String::new(),
            group: None,
            usage_bytes,
            line_bytes,
            missed,
        }
    }
}

impl Memgov {
    /// Asks to be told from now on: when this returns, nothing that happens later is left out.
    ///
    /// # Errors
    /// `ESRCH`: this process cannot be governed, or memgov cannot see it (a pid namespace beside memgov's). The rest as [`Error`] says.
    pub fn watch(&self) -> Result<Watch, Error> {
        let mut connection = self.connect()?;
        connection.send("Watch", json!({}), true)?;
        let first = connection.wait()?;
        connection.patient()?;
        let mut watch = Watch { connection, ready: Vec::new(), told: VecDeque::new() };
        watch.add(first);
        Ok(watch)
    }
}

impl Watch {
    /// The next notice if there is one.
    ///
    /// # Errors
    /// [`Error::Closed`] when memgov has ended: make a new one when it runs again. Polled, the descriptor is ready for that, too.
    pub fn try_next(&mut self) -> Result<Option<Notice>, Error> {
        loop {
            if let Some(notice) = self.ready.pop() {
                return Ok(Some(notice));
            }
            let Some(page) = self.connection.poll()? else { return Ok(None) };
            self.add(page);
        }
    }

    /// Waits for the next notice.
    ///
    /// # Errors
    /// As [`Watch::try_next`].
    pub fn wait(&mut self) -> Result<Notice, Error> {
        loop {
            if let Some(notice) = self.ready.pop() {
                return Ok(notice);
            }
            let page = self.connection.wait()?;
            self.add(page);
        }
    }

    fn add(&mut self, page: Page) {
        let missed = page.missed;
        self.ready.extend((missed > 0).then(|| Notice::gap(missed)));
        for notice in page.events.into_iter().filter_map(Event::notice) {
            let (told, over) = ((notice.id, notice.kind), (notice.id, Kind::Over));
            if !self.told.contains(&told) && !self.told.contains(&over) {
                self.told.truncate(REMEMBERED - 1);
                self.told.push_front(told);
                self.ready.push(notice);
            }
        }
        self.ready.reverse();
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Never ends by itself; after an error there is nothing more to come.
impl Iterator for Watch {
    type Item = Result<Notice, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.wait())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn said(order: &str, outcome: &str) -> Value {
        json!({
            "id": 7, "episode": 1, "order": order, "new-field": {},
            "target": { "kind": "group", "path": "/a", "id": 1 },
            "reason": { "kind": "usage", "text": "x", "usage_bytes": 5, "usage_line_bytes": 4 },
            "outcome": { "kind": outcome },
        })
    }

    fn event(order: &str, outcome: &str) -> Event {
        serde_json::from_value(said(order, outcome)).unwrap()
    }

    #[test]
    fn orders_become_notices() {
        let table = [
            ("record", Some(Kind::Warning)),
            ("deny-begin", Some(Kind::Over)),
            ("deny-sustain", None),
            ("deny-end", None),
            ("kill", Some(Kind::Over)),
            ("relieved", Some(Kind::Relieved)),
            ("oom-kill", Some(Kind::OutOfMemory)),
            ("denied", None),
        ];
        for (order, expected) in table {
            assert_eq!(event(order, "done").notice().map(|n| n.kind), expected, "{order}");
        }
        let notice = event("slow-begin", "done").notice().unwrap();
        let numbers = (notice.usage_bytes, notice.line_bytes);
        assert_eq!((notice.group.as_deref(), numbers), (Some("/a"), (Some(5), Some(4))));
    }

    #[test]
    fn over_is_said_where_something_was_done() {
        for order in ["deny-begin", "slow-begin", "signal", "kill"] {
            for outcome in ["done", "partial", "dead"] {
                let notice = event(order, outcome).notice().unwrap();
                assert_eq!((notice.kind, notice.action.as_str()), (Kind::Over, order), "{outcome}");
            }
            for outcome in
                ["dry-run", "withheld", "refused", "nothing", "gone", "ledger-full", "pending", "new"]
            {
                let notice = event(order, outcome).notice().unwrap();
                assert_eq!(
                    (notice.kind, notice.action.as_str()),
                    (Kind::Warning, "record"),
                    "{order} {outcome}"
                );
            }
        }
    }

    #[test]
    fn what_comes_of_it_later_is_told_once() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut watch =
            Watch { connection: Connection::of(socket.into()), ready: Vec::new(), told: VecDeque::new() };
        let mut told = |outcome: &str| {
            watch.add(serde_json::from_value(json!({ "events": [said("kill", outcome)] })).unwrap());
            watch.ready.drain(..).map(|notice| notice.kind).collect::<Vec<_>>()
        };
        assert_eq!(told("pending"), [Kind::Warning]);
        assert_eq!(told("pending"), []);
        assert_eq!(told("done"), [Kind::Over]);
        assert_eq!(told("dead"), []);
        assert_eq!(told("refused"), [], "it had been done");
    }
}
