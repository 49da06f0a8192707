//! `handler` of a rule: the process that has registered as a group's handler (the third letter's, which did so by an eventfd) is told that the group is short of
//! memory, and waited for.
//!
//! It takes no thread: the loop leaves word in a table and looks for word in it, the serving thread tells and hears. Neither holds the table's lock for longer than it takes to
//! look through it, and the loop never waits for that.
//!
//! A handler that is in the group itself, or below, would be out of memory when it is needed, frozen with the others or killed first: it is refused when it registers, and
//! again when it would be told, for it may have been moved meanwhile.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use memgov_decide::decision::{DecisionId, Outcome, Report};
use memgov_decide::hook::{Ended, Run};
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::{Bytes, Limit, Time};

use super::refused;
use crate::act::crew;
use crate::kernel::{Errno, GroupDir, Layout, proc, sys};

/// Whether group and process are still there is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Groups that the loop may have left word for and nobody has taken yet: while the serving thread looks through the table.
const MOST: usize = 64;

/// That a group is short of memory: what a handler is told of, and a program too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The decision that asks for it.
    pub decision: DecisionId,
    /// The group, by its path in the memory hierarchy.
    pub path: Arc<[u8]>,
    /// What it uses, if that is known.
    pub usage: Option<Bytes>,
    /// Its hard limit.
    pub limit: Option<Limit>,
    /// What of that is kept for what helps it.
    pub reserve: Bytes,
    /// What was compared, in the configuration's word.
    pub meter: &'static str,
    /// How much of that there is.
    pub value: Bytes,
    /// Its line.
    pub line: Bytes,
    /// Since when its word is waited for...
    pub since: Time,
    /// ...and until when.
    pub until: Time,
}

/// What its holder finds at a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    Nothing,
    /// The group is short of memory. Told once.
    Short(Shortage),
    /// The post is no more: the group or the holder is gone, or root has taken it over.
    Over,
}

/// What wakes the thread that tells handlers.
type Bell = Box<dyn Fn() + Send + Sync>;

/// Who has registered as whose handler, one for a group.
#[derive(Default)]
pub struct Handlers {
    rows: Mutex<Vec<Row>>,
    bell: OnceLock<Bell>,
    numbers: AtomicU64,
    /// Nobody is waited for any more.
    off: AtomicBool,
}

#[derive(Debug)]
struct Row {
    number: u64,
    group: GroupId,
    who: ProcessId,
    /// Which user's it is.
    by: u32,
    task: Option<Task>,
    /// Its holder has left it; it stays until the loop has taken word of its task.
    left: bool,
}

#[derive(Debug)]
struct Task {
    shortage: Shortage,
    told: bool,
    word: Option<Word>,
}

/// What came of a task, as far as the handler goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Handled,
    Gone,
    /// It is in the group now, and was not told.
    Inside,
}

impl Task {
    /// What came of it, if it is over.
    fn outcome(&self, now: Time, off: bool) -> Option<Outcome> {
        let ended = match self.word {
            Some(Word::Inside) => return Some(refused(Errno::INVAL)),
            Some(Word::Handled) => Ended::Handled,
            Some(Word::Gone) => Ended::Gone,
            None if off => Ended::CalledOff,
            None if now >= self.shortage.until => Ended::Late,
            None => return None,
        };
        Some(Outcome::Ran(Run { ended, took: now.since(self.shortage.since) }))
    }
}

impl Row {
    /// Its holder leaves, or has to.
    fn leave(&mut self) {
        self.left = true;
        if let Some(task) = &mut self.task {
            task.word = task.word.or(Some(Word::Gone));
        }
    }

    const fn is_spent(&self) -> bool {
        self.left && self.task.is_none()
    }
}

/// A handler's place. Dropped when its connection ends, and free then.
#[derive(Debug)]
pub struct Post {
    handlers: Arc<Handlers>,
    number: u64,
    group: GroupId,
    path: Box<[u8]>,
    who: ProcessId,
    layout: Layout,
    looked_at: Cell<Time>,
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handlers({:?})", self.lock())
    }
}

/// For the serving thread.
impl Handlers {
    /// What is rung when there is something to tell a handler. Set once, at start.
    pub fn ring_by(&self, bell: Bell) {
        // A second one would be a fault of whoever starts; the first stays.
        let _ = self.bell.set(bell);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of a group's handler, for a user: `BUSY` if somebody has it (root takes it over from others), `INVAL` if this process is in the group, or below.
    pub fn take(
        self: &Arc<Self>,
        layout: &Layout,
        (group, path): (GroupId, &[u8]),
        who: ProcessId,
        by: u32,
    ) -> Result<Post, Errno> {
        if is_inside(layout, who, path)? {
            return Err(Errno::INVAL);
        }
        let mut rows = self.lock();
        if let Some(holder) = rows.iter_mut().find(|row| row.group == group && !row.left) {
            if by != 0 || holder.by == 0 {
                return Err(Errno::BUSY);
            }
            holder.leave();
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        rows.push(Row { number, group, who, by, task: None, left: false });
        rows.retain(|row| !row.is_spent());
        drop(rows);
        let (path, layout, looked_at) = (path.into(), layout.clone(), Cell::new(sys::now()));
        Ok(Post { handlers: Arc::clone(self), number, group, path, who, layout, looked_at })
    }

    /// The handler that was told of this decision has done what it could. `NOENT`: nobody waits for that (any more), or another process was told.
    pub fn done(&self, decision: DecisionId, pid: Option<u32>) -> Result<(), Errno> {
        let mut rows = self.lock();
        let mut told =
            rows.iter_mut().filter(|row| Some(row.who.pid) == pid).filter_map(|row| row.task.as_mut());
        let waited_for =
            |task: &&mut Task| task.shortage.decision == decision && task.told && task.word.is_none();
        let task = told.find(waited_for).ok_or(Errno::NOENT)?;
        task.word = Some(Word::Handled);
        Ok(())
    }
}

/// For the loop, which never waits for the lock and allocates nothing.
impl Handlers {
    /// Leaves word for the handlers of these groups, and gives what can be said of those that have none; what finds the table in use stays.
    pub(super) fn leave_word(&self, asked: &mut Vec<(GroupId, Shortage)>, reports: &mut dyn FnMut(Report)) {
        let Some(mut rows) = crew::try_lock(&self.rows) else { return };
        let mut rings = false;
        for (group, shortage) in asked.drain(..) {
            match rows.iter_mut().find(|row| row.group == group && !row.left && row.task.is_none()) {
                Some(row) => {
                    row.task = Some(Task { shortage, told: false, word: None });
                    rings = true;
                }
                None => reports(Report { decision: shortage.decision, outcome: refused(Errno::SRCH) }),
            }
        }
        drop(rows);
        if let (true, Some(bell)) = (rings, self.bell.get()) {
            bell();
        }
    }

    /// What has come of tasks.
    pub(super) fn tick(&self, now: Time, reports: &mut dyn FnMut(Report)) {
        let Some(mut rows) = crew::try_lock(&self.rows) else { return };
        let off = self.off.swap(false, Ordering::AcqRel);
        for row in rows.iter_mut() {
            if let Some(task) = &row.task
                && let Some(outcome) = task.outcome(now, off)
            {
                reports(Report { decision: task.shortage.decision, outcome });
                row.task = None;
            }
        }
        rows.retain(|row| !row.is_spent());
    }

    /// Whether somebody is waited for.
    pub(super) fn busy(&self) -> bool {
        crew::try_lock(&self.rows).is_none_or(|rows| rows.iter().any(|row| row.task.is_some()))
    }

    /// Nobody is waited for any more: word of that comes with the next tick.
    pub(super) fn call_off(&self) {
        self.off.store(true, Ordering::Release);
    }
}

impl Post {
    /// What there is for its holder. Reads files, now and then.
    pub fn news(&self) -> News {
        if self.is_deserted() {
            return News::Over;
        }
        let word = {
            let rows = self.handlers.lock();
            let Some(row) = rows.iter().find(|row| row.number == self.number && !row.left) else {
                return News::Over;
            };
            row.task.as_ref().is_some_and(|task| !task.told && task.word.is_none())
        };
        if !word {
            return News::Nothing;
        }
        // Not under the lock.
        let inside = is_inside(&self.layout, self.who, &self.path);
        let mut rows = self.handlers.lock();
        let row = rows.iter_mut().find(|row| row.number == self.number);
        let Some(task) = row.and_then(|row| row.task.as_mut()) else { return News::Nothing };
        if inside != Ok(false) {
            task.word = Some(Word::Inside);
            return News::Nothing;
        }
        task.told = true;
        News::Short(task.shortage.clone())
    }

    /// Whether the group is gone, another of its name perhaps in its place, or whoever registered: a child of his may have the connection still.
    fn is_deserted(&self) -> bool {
        let now = sys::now();
        if now.since(self.looked_at.get()) < LOOK {
            return false;
        }
        self.looked_at.set(now);
        let there = GroupDir::open(&self.layout, &self.path).is_ok_and(|dir| dir.id() == self.group);
        !there || !proc::is_there(self.who)
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        let mut rows = self.handlers.lock();
        if let Some(row) = rows.iter_mut().find(|row| row.number == self.number) {
            row.leave();
        }
        rows.retain(|row| !row.is_spent());
    }
}

/// Whether it is in this group, or below; `SRCH` if it is gone.
fn is_inside(layout: &Layout, who: ProcessId, path: &[u8]) -> Result<bool, Errno> {
    let mut buffer = [0; 4096];
    let at = proc::memory_group(layout, who.pid, &mut buffer).map_err(|_| Errno::SRCH)?;
    // Read after the path: whoever has the pid now had it then.
    if !proc::is_there(who) {
        return Err(Errno::SRCH);
    }
    Ok(is_below(&at, path))
}

fn is_below(at: &[u8], path: &[u8]) -> bool {
    at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Room for what the loop asks while it finds the table in use.
pub(super) fn room() -> Vec<(GroupId, Shortage)> {
    Vec::with_capacity(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);

    fn shortage(decision: u64, within: Duration) -> Shortage {
        let since = sys::now();
        Shortage {
            decision: DecisionId(decision),
            path: (*b"/x").into(),
            usage: None,
            limit: None,
            reserve: Bytes(0),
            meter: "usage",
            value: Bytes(2),
            line: Bytes(1),
            since,
            until: since + within,
        }
    }

    /// A handler with pid 10, of user 1000, and a task if there is one.
    fn with_row(task: Option<(u64, Duration)>) -> Arc<Handlers> {
        let handlers: Arc<Handlers> = Arc::default();
        let task = task.map(|(id, within)| Task { shortage: shortage(id, within), told: true, word: None });
        let who = ProcessId { pid: 10, start: 1 };
        handlers.lock().push(Row { number: 0, group: GROUP, who, by: 1000, task, left: false });
        handlers
    }

    fn ended(handlers: &Handlers) -> Vec<(u64, Ended)> {
        let mut all = Vec::new();
        handlers.tick(sys::now(), &mut |report| match report.outcome {
            Outcome::Ran(run) => all.push((report.decision.0, run.ended)),
            other => panic!("{other:?}"),
        });
        all
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn below() {
        for (at, path, expected) in [
            ("/a", "/a", true),
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/", "/a", false),
            ("/b/a", "/a", false),
        ] {
            assert_eq!(is_below(at.as_bytes(), path.as_bytes()), expected, "{at} {path}");
        }
    }

    #[test]
    fn only_who_was_told_may_say_that_it_is_done_and_once() {
        let handlers = with_row(Some((3, LONG)));
        let done = |decision, pid| handlers.done(DecisionId(decision), pid);
        assert_eq!(done(3, Some(11)), Err(Errno::NOENT), "another process");
        assert_eq!(done(4, Some(10)), Err(Errno::NOENT), "another decision");
        assert_eq!(done(3, None), Err(Errno::NOENT), "a process that cannot be seen");
        assert!(ended(&handlers).is_empty() && handlers.busy());
        assert_eq!(done(3, Some(10)), Ok(()));
        assert_eq!(done(3, Some(10)), Err(Errno::NOENT), "twice");
        assert_eq!(ended(&handlers), [(3, Ended::Handled)]);
        assert!(ended(&handlers).is_empty() && !handlers.busy(), "said once");
        assert_eq!(done(3, Some(10)), Err(Errno::NOENT), "over");
    }

    #[test]
    fn who_was_not_told_is_not_believed() {
        let handlers = with_row(None);
        let mut asked = room();
        asked.push((GROUP, shortage(3, LONG)));
        handlers.leave_word(&mut asked, &mut |report| panic!("{report:?}"));
        assert!(asked.is_empty() && handlers.busy());
        assert_eq!(handlers.done(DecisionId(3), Some(10)), Err(Errno::NOENT));
    }

    #[test]
    fn who_is_late_or_called_off_is_not_waited_for() {
        let handlers = with_row(Some((3, Duration::ZERO)));
        assert_eq!(ended(&handlers), [(3, Ended::Late)]);
        let handlers = with_row(Some((3, LONG)));
        handlers.call_off();
        assert_eq!(ended(&handlers), [(3, Ended::CalledOff)]);
        let mut asked = room();
        asked.push((GROUP, shortage(4, LONG)));
        handlers.leave_word(&mut asked, &mut |report| panic!("{report:?}"));
        assert!(ended(&handlers).is_empty(), "what came later was not called off");
    }

    #[test]
    fn where_nobody_is_nobody_is_waited_for() {
        let handlers = with_row(None);
        let mut asked = room();
        asked.push((GroupId(8), shortage(3, LONG)));
        let mut said = Vec::new();
        handlers.leave_word(&mut asked, &mut |report| said.push(report));
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].decision, said[0].outcome), (DecisionId(3), refused(Errno::SRCH)));
    }

    #[test]
    fn the_loop_does_not_wait_for_the_table() {
        let handlers = with_row(Some((3, Duration::ZERO)));
        let mut asked = room();
        asked.push((GROUP, shortage(4, LONG)));
        let held = handlers.lock();
        handlers.leave_word(&mut asked, &mut |report| panic!("{report:?}"));
        assert_eq!(asked.len(), 1, "it stays");
        assert!(ended(&handlers).is_empty() && handlers.busy(), "looked for again");
        drop(held);
        assert_eq!(ended(&handlers), [(3, Ended::Late)]);
    }

    /// This process, in a group that cannot be there.
    fn take(handlers: &Arc<Handlers>, layout: &Layout, by: u32) -> Result<Post, Errno> {
        let mut buffer = [0; proc::STAT_BUFFER];
        let me = proc::identify(std::process::id(), &mut buffer).unwrap();
        handlers.take(layout, (GROUP, b"/nowhere/at/all"), me, by)
    }

    #[test]
    fn one_for_a_group_and_root_before_others() {
        let layout = Layout::detect(std::path::Path::new("/")).unwrap();
        let handlers = with_row(Some((3, LONG)));
        assert_eq!(take(&handlers, &layout, 1000).err(), Some(Errno::BUSY));
        let roots = take(&handlers, &layout, 0).unwrap();
        assert_eq!(ended(&handlers), [(3, Ended::Gone)], "whoever was at it is waited for no more");
        assert_eq!(take(&handlers, &layout, 0).err(), Some(Errno::BUSY));
        assert_eq!(roots.news(), News::Nothing);
        drop(roots);
        let users = take(&handlers, &layout, 1000).unwrap();
        let roots = take(&handlers, &layout, 0).unwrap();
        assert_eq!((users.news(), roots.news()), (News::Over, News::Nothing));
        drop((users, roots));
        assert!(handlers.lock().is_empty());
    }

    #[test]
    fn a_post_whose_group_is_gone_is_over() {
        let layout = Layout::detect(std::path::Path::new("/")).unwrap();
        let handlers: Arc<Handlers> = Arc::default();
        let post = take(&handlers, &layout, 0).unwrap();
        assert_eq!(post.news(), News::Nothing);
        post.looked_at.set(Time(0));
        assert_eq!(post.news(), News::Over);
    }
}
