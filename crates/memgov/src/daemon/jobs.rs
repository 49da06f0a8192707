//! Shrinks under way: each on a thread of its own, because the kernel may take as long as it likes, so that one that is stuck holds up
//! neither the others nor the loop. What a thread has to write into the ledger it asks the loop for, which owns that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::queue::{Asker, Request};
use crate::act::ledger::{Entry, OwnedEntry, Place};
use crate::act::shrink::{Book, Lever, Outcome, Progress, Unable, Watched, Work};
use crate::kernel::{Errno, GroupDir, Layout};
use crate::record::happening::Shrunk;
use crate::serve::shrink::{self, Job};
use crate::serve::{Failure, FailureKind, GroupFacts};
use memgov_decide::decision::Mechanism;
use memgov_decide::shrink::End;
use memgov_decide::snapshot::GroupId;

/// Shrinks that run at a time...
const MOST: usize = 64;
/// ...and of one user who is not root.
const OF_A_USER: usize = 8;
/// Niceness (sched(7)) of the shrinks of users other than root.
const NICE: i32 = 10;
/// Ended ones that are still shown.
const KEPT: usize = 64;
/// What a thread of it needs; locked in memory like all of memgov's, so not more than that.
const STACK: usize = 256 << 10;
/// How often a busy loop is asked to cross something out: what stays is undone at the next start, and is no harm until then.
const ASKED: u32 = 5;

/// All of them.
pub(super) struct Jobs {
    layout: Layout,
    asker: Asker,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    jobs: Vec<One>,
    /// memgov goes: nothing is begun any more.
    over: bool,
}

struct One {
    id: u64,
    group: GroupId,
    path: Box<[u8]>,
    owner: Option<u32>,
    by: u32,
    file: &'static str,
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

impl One {
    fn job(&self) -> Job {
        Job::new(Some(self.id), &self.path, &self.watched.progress(), self.file, self.owner, self.by)
    }

    fn runs(&self) -> bool {
        self.watched.progress().outcome.is_none()
    }
}

impl Jobs {
    pub fn new(layout: Layout, asker: Asker) -> Self {
        Self { layout, asker, table: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one.
    pub fn begin(&self, group: &GroupFacts, asked: &shrink::Request, by: u32) -> Result<Job, Failure> {
        let meaning = asked.meaning()?;
        let mut table = self.lock();
        table.admit(group.id, by)?;
        let dir = GroupDir::open(&self.layout, &group.path)
            .map_err(|error| FailureKind::NoSuchGroup.because(error.to_string()))?;
        if dir.id() != group.id {
            return Err(failure(Unable::Gone));
        }
        let lever =
            Lever::of(&self.layout, &group.path, &dir, meaning.kind, meaning.means).map_err(failure)?;
        let file = lever.file();
        let watched = Arc::new(Watched::default());
        if asked.attended {
            watched.attend();
        }
        table.last += 1;
        let id = table.last;
        let (for_thread, asker) = (Arc::clone(&watched), self.asker.clone());
        let (mechanism, group_id) = (lever.mechanism(), group.id);
        let work = Work { dir, lever, goal: meaning.goal };
        let thread = std::thread::Builder::new()
            .name(format!("memgov-shrink-{id}"))
            .stack_size(STACK)
            .spawn(move || {
                if by != 0 {
                    // Their shrinks run in memgov's time: after what memgov does for everybody. Without it they merely run sooner.
                    let _ = rustix::process::setpriority_process(None, NICE);
                }
                let mut book = LoopBook(asker);
                let how = work.run(&for_thread, &mut book);
                tell(&book.0, group_id, by, mechanism, how, &for_thread);
            })
            .map_err(|error| FailureKind::TableFull.because(format!("no thread for it: {error}")))?;
        let (path, owner) = (group.path.clone(), group.owner);
        table.jobs.push(One { id, group: group_id, path, owner, by, file, watched, thread: Some(thread) });
        table.forget();
        table.find(id).map(One::job)
    }

    pub fn get(&self, id: u64) -> Result<Job, Failure> {
        let table = self.lock();
        let one = table.find(id)?;
        if one.watched.is_attended() {
            one.watched.attend();
        }
        Ok(one.job())
    }

    pub fn list(&self) -> Vec<Job> {
        self.lock().jobs.iter().map(One::job).collect()
    }

    pub fn cancel(&self, id: u64) -> Result<Job, Failure> {
        let table = self.lock();
        let one = table.find(id)?;
        one.watched.cancel();
        Ok(one.job())
    }

    /// Calls all off, for good. The threads end within a moment, and may ask the loop for the ledger before.
    pub fn stop(&self) {
        let mut table = self.lock();
        table.over = true;
        table.jobs.iter().for_each(|one| one.watched.cancel());
    }

    /// Whether some thread has not ended yet.
    pub fn busy(&self) -> bool {
        self.lock().jobs.iter().any(|one| one.thread.as_ref().is_some_and(|thread| !thread.is_finished()))
    }
}

impl Table {
    fn admit(&self, group: GroupId, by: u32) -> Result<(), Failure> {
        let running = || self.jobs.iter().filter(|one| one.runs());
        if self.over {
            return Err(FailureKind::Busy.because("the daemon is stopping"));
        }
        if let Some(one) = running().find(|one| one.group == group) {
            let text = format!("the group is being shrunk already: see `memgov shrink --watch {}`", one.id);
            return Err(FailureKind::Busy.because(text));
        }
        if running().count() >= MOST {
            return Err(FailureKind::TableFull
                .because(format!("{MOST} groups are being shrunk; wait for one to end")));
        }
        if by != 0 && running().filter(|one| one.by == by).count() >= OF_A_USER {
            let text = format!("a user may have {OF_A_USER} groups shrunk at a time; wait for one to end");
            return Err(FailureKind::TableFull.because(text));
        }
        Ok(())
    }

    /// The oldest of the ended ones make room.
    fn forget(&mut self) {
        let ended = self.jobs.iter().filter(|one| !one.runs()).count();
        let mut too_many = ended.saturating_sub(KEPT);
        self.jobs.retain(|one| {
            let goes = too_many > 0 && !one.runs();
            too_many -= usize::from(goes);
            !goes
        });
    }

    fn find(&self, id: u64) -> Result<&One, Failure> {
        let none =
            || FailureKind::NoSuchJob.because(format!("there is no shrink {id}, or it is no longer kept"));
        self.jobs.iter().find(|one| one.id == id).ok_or_else(none)
    }
}

fn failure(unable: Unable) -> Failure {
    let kind = match unable {
        Unable::Not(_) => FailureKind::InvalidShrink,
        Unable::Forbidden(_) => FailureKind::PermissionDenied,
        Unable::Gone => FailureKind::NoSuchGroup,
    };
    kind.because(unable.to_string())
}

/// Has a shrink put down that did something.
fn tell(asker: &Asker, group: GroupId, by: u32, mechanism: Mechanism, how: Outcome, watched: &Watched) {
    if how == Outcome::Ended(End::Already) {
        return;
    }
    let Progress { before, usage, target, elapsed: took, .. } = watched.progress();
    let shrunk = Shrunk { before, usage, target, took, how, by: mechanism };
    // Whoever asked knows it in any case; a loop that is too busy for it, or gone, leaves it out of the record.
    let _ = asker.ask(|reply| Request::Shrunk { group, by, shrunk, reply });
}

/// The ledger, through the loop.
pub(super) struct LoopBook(pub Asker);

impl Book for LoopBook {
    fn record(&mut self, entry: &Entry<'_>) -> Result<Place, Errno> {
        let entry = match *entry {
            Entry::GroupLimit { path, inode, which, before, set, was } => {
                OwnedEntry::GroupLimit { path: path.into(), inode, which, before, set, was }
            }
            Entry::Socket { who, fd, inode, cookie, before } => {
                OwnedEntry::Socket { who, fd, inode, cookie, before }
            }
            _ => return Err(Errno::INVAL),
        };
        self.0.ask(|reply| Request::WriteDown { entry, reply }).unwrap_or(Err(Errno::AGAIN))
    }

    fn erase(&mut self, place: Place) -> Result<(), Errno> {
        let mut asked = (0..ASKED).map(|_| self.0.ask(|reply| Request::CrossOut { place, reply }));
        asked.find_map(Result::ok).unwrap_or(Err(Errno::AGAIN))
    }
}
