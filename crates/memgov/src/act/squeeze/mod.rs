//! `squeeze` of a rule: the TCP sockets of a group stop growing. The loop leaves word for one thread and goes on; the thread goes through the group's processes (`hand.rs`), writes down
//! what bounds each socket before it sets that, and puts it back when pressure has passed for a second.
//!
//! The letter's hysteresis is here and not in `decide`: a line that is crossed twice a second is squeezed once.

mod births;
mod hand;

pub use hand::put_back;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use memgov_decide::decision::{Decision, EpisodeId, Mechanism, Operation, Outcome, Phase, Target};
use memgov_decide::policy::ProcessMatch;
use memgov_decide::snapshot::{GroupId, Snapshot};
use memgov_decide::units::Time;

use self::births::Births;
use super::crew::try_lock;
use super::holders::Holders;
use super::reclaim::MakeBook;
use super::shrink::Book;
use crate::bpf::Maps;
use crate::kernel::{Errno, Layout, sys};

/// Groups that can be squeezed at once.
const MOST: usize = 64;
/// A squeeze is kept so long after the last word of pressure.
const KEPT: Duration = Duration::from_secs(1);

/// One group.
#[derive(Clone, Debug)]
struct Asked {
    group: GroupId,
    path: Arc<[u8]>,
    holders: Holders<8>,
    /// When nobody holds it any more: from then on it is let go.
    until: Option<Time>,
    /// Sockets that are squeezed, as the thread says.
    sockets: u32,
}

#[derive(Debug, Default)]
struct Word {
    groups: Vec<Asked>,
    /// Another never-list.
    never: Option<Vec<ProcessMatch>>,
}

/// What loop and thread share.
#[derive(Debug, Default)]
struct Shared {
    word: Mutex<Word>,
    bell: Condvar,
    over: AtomicBool,
    /// The kernel has told of a connection that came to be.
    born: AtomicBool,
    squeezes: AtomicU64,
    releases: AtomicU64,
    refused: AtomicU64,
    beyond: AtomicU64,
}

/// How often sockets were squeezed and released since the start, and how many could not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Squeezed {
    /// Sockets whose bounds were set.
    pub squeezes: u64,
    /// Sockets that have theirs back, or are closed.
    pub releases: u64,
    /// Sockets that could not be had or set.
    pub refused: u64,
    /// Sockets that should be squeezed now and are not: so many are already.
    pub beyond: u64,
}

#[derive(Debug)]
pub(super) struct Squeezes {
    layout: Layout,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Ends that the thread has not been told of yet.
    ended: Vec<EpisodeId>,
}

impl Squeezes {
    pub fn new(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
            shared: Arc::default(),
            thread: None,
            ended: Vec::with_capacity(MOST * 8),
        }
    }

    /// Starts the thread, if it does not run yet; with a kernel that can tell of connections that come to be. Allocates: when rules are put in force.
    pub fn start(&mut self, make: Option<&MakeBook>, never: Vec<ProcessMatch>, kernel: Option<Arc<Maps>>) {
        let Some(make) = make else { return };
        let mut word = self.shared.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.never = Some(never);
        word.groups.reserve(MOST);
        drop(word);
        if self.thread.is_some() {
            return;
        }
        let (shared, layout, book) = (Arc::clone(&self.shared), self.layout.clone(), make());
        let births = Births::new(kernel);
        let thread = std::thread::Builder::new()
            .name("memgov-squeeze".into())
            .spawn(move || hand::serve(&shared, &layout, book, births));
        // Without it orders are refused.
        self.thread = thread.ok();
    }

    /// Carries an order out, as far as the loop's part goes.
    pub fn order(&mut self, decision: &Decision, phase: Phase, snap: &Snapshot) -> Outcome {
        let refused = |errno: Errno| Outcome::Refused { at: Operation::Sockets, errno: errno.raw_os_error() };
        let done = Outcome::Done { processes: 1, by: Mechanism::SocketOptions };
        let (Target::Group(group, at), true) = (decision.target, self.thread.is_some()) else {
            return refused(Errno::OPNOTSUPP);
        };
        if phase == Phase::End {
            if self.ended.len() < self.ended.capacity() {
                self.ended.push(decision.episode);
            }
            self.tick();
            return done;
        }
        let Some(row) = snap.group(at).filter(|row| row.id == group) else { return Outcome::Gone };
        // The thread has it for a moment: the next order comes with the next look.
        let Some(mut word) = try_lock(&self.shared.word) else { return done };
        let full = word.groups.len() == word.groups.capacity().min(MOST);
        let known = word.groups.iter_mut().find(|asked| asked.group == group);
        match known {
            Some(asked) => {
                asked.holders.add(decision.episode);
                asked.until = None;
            }
            None if full => return refused(Errno::AGAIN),
            None => {
                let mut holders = Holders::default();
                holders.add(decision.episode);
                let path = Arc::clone(&row.path);
                word.groups.push(Asked { group, path, holders, until: None, sockets: 0 });
                self.shared.bell.notify_one();
            }
        }
        done
    }

    /// A connection has come to be in a group that is squeezed.
    pub fn born(&self) {
        self.shared.born.store(true, Ordering::Release);
        // A thread that is on its way to sleep misses it, and finds the connection when it looks next.
        self.shared.bell.notify_one();
    }

    /// Tells the thread what has ended.
    pub fn tick(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let Some(mut word) = try_lock(&self.shared.word) else { return };
        let until = sys::now() + KEPT;
        for episode in self.ended.drain(..) {
            for asked in &mut word.groups {
                if asked.holders.remove(episode) && !asked.holders.any() {
                    asked.until = Some(until);
                }
            }
        }
    }

    /// Whether the loop is to come back.
    pub fn busy(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Groups and how many of their sockets are squeezed; for status. None, if the thread has them just now.
    pub fn views(&self) -> impl Iterator<Item = (GroupId, u32)> {
        let word = try_lock(&self.shared.word);
        let groups = word.iter().flat_map(|word| &word.groups);
        groups.map(|asked| (asked.group, asked.sockets)).collect::<Vec<_>>().into_iter()
    }

    /// Counters since the start.
    pub fn counts(&self) -> Squeezed {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Squeezed {
            squeezes: of(&self.shared.squeezes),
            releases: of(&self.shared.releases),
            refused: of(&self.shared.refused),
            beyond: of(&self.shared.beyond),
        }
    }

    /// Everything is let go; the thread ends when it has, and may need the ledger before.
    pub fn stop(&self) {
        self.shared.over.store(true, Ordering::Release);
        // Under the lock, or a thread that has just looked would miss the bell.
        drop(self.shared.word.lock());
        self.shared.bell.notify_all();
    }

    /// Whether it has ended.
    pub fn stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Nothing is to be touched any more, though memgov goes on: all is let go at once.
    pub fn let_go(&mut self) {
        let mut word = self.shared.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.groups.iter_mut().for_each(|asked| asked.until = Some(Time(0)));
    }
}

impl Drop for Squeezes {
    fn drop(&mut self) {
        self.stop();
    }
}

type AnyBook = Box<dyn Book + Send>;
