//! The thread's side, and the undoing that a guardian and the next start share with it. It allocates, reads directories, and waits for the loop to write in the ledger.
//!
//! What is set: the receive buffer and the send buffer stop growing where they are, and unsent data is bounded, so a connection that is read and acknowledged goes on as before. One whose program
//! has read nothing between two looks keeps no more than it has, and so does one whose other side has acknowledged nothing. No window is clamped: that bounds no memory.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use memgov_decide::decision::Operation;
use memgov_decide::snapshot::{GroupId, ProcessId};
use memgov_decide::units::Time;

use super::super::guard::Guard;
use super::super::ledger::{Entry, OwnedEntry, Place, Verdict};
use super::births::Births;
use super::{AnyBook, Shared};
use crate::kernel::pidfd::PidFd;
use crate::kernel::socket::{Bounds, Progress, TcpSocket};
use crate::kernel::{Errno, Layout, proc, sys};
use crate::observe::sockets::{descriptors, processes};

/// Newcomers are looked for, and who has stood still, so often.
const LOOK: Duration = Duration::from_millis(200);
/// A connection that was told of is looked for so much later: by then its process has a descriptor of it, and those that came with it are there too.
const SETTLED: Duration = Duration::from_millis(2);
/// Who has not moved for so long, or for two round trips, stands still. A program that reads four times a second does not.
const STILL: Duration = Duration::from_millis(400);
/// For each look it rests so many times as long as that took: with the more sockets, the later newcomers are found.
const REST: u32 = 9;
/// However long a look took.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Sockets that are squeezed at once: each has a slot in the ledger.
const MOST: usize = 4096;
/// Unsent data of a connection that moves.
const UNSENT: u32 = 128 << 10;
/// No buffer is made smaller than this.
const LEAST: u32 = 64 << 10;
/// SO_BUF_LOCK: both.
const BOTH: u32 = 3;
/// TCP_ESTABLISHED and TCP_CLOSE_WAIT: the states in which a program reads and writes.
const OPEN: [u8; 2] = [1, 8];
/// Sockets that nobody in the group has any more are looked for everywhere once in so many looks.
const ROUNDS: u64 = 25;

/// One squeezed socket.
struct Held {
    /// For whose sake: one of a group and one of a group above it may both ask.
    groups: Vec<GroupId>,
    who: ProcessId,
    fd: i32,
    inode: u32,
    before: Bounds,
    set: Bounds,
    place: Place,
    progress: Progress,
    /// When it was seen to move last: its reader, and whoever acknowledges.
    read_at: Time,
    acknowledged_at: Time,
    /// The look in which it was seen last.
    seen: u64,
}

struct Hand<'h> {
    shared: &'h Shared,
    layout: &'h Layout,
    book: AnyBook,
    guard: Guard,
    /// By cookie.
    held: HashMap<u64, Held>,
    /// Inodes that are no TCP socket, or none that can be squeezed.
    others: HashSet<u32>,
    /// The number of this look.
    look: u64,
    /// Sockets for which there was no room in it.
    beyond: u64,
}

/// Until memgov ends.
pub(super) fn serve(shared: &Shared, layout: &Layout, book: AnyBook, mut births: Births) {
    let guard = Guard::new(layout, Vec::new(), None);
    let mut hand = Hand {
        shared,
        layout,
        book,
        guard,
        held: HashMap::new(),
        others: HashSet::new(),
        look: 0,
        beyond: 0,
    };
    while !shared.over.load(Ordering::Acquire) {
        let now = sys::now();
        let mut word = shared.word.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(never) = word.never.take() {
            hand.guard.set_never(never);
        }
        let groups: Vec<_> = word.groups.iter().map(|a| (a.group, a.path.clone(), a.until)).collect();
        drop(word);
        births
            .follow(groups.iter().filter(|(.., until)| until.is_none()).map(|(group, ..)| *group).collect());
        (hand.look, hand.beyond) = (hand.look + 1, 0);
        let known = groups.len();
        for (group, path, until) in groups {
            if until.is_none_or(|until| until > now) {
                hand.squeeze(group, &path);
            } else {
                hand.release_of(group);
            }
            hand.tell(group);
        }
        hand.forget_closed();
        shared.beyond.store(hand.beyond, Ordering::Relaxed);
        let took = Duration::from_nanos(sys::now().0.saturating_sub(now.0));
        rest(shared, known, (took * REST).min(LONGEST_REST));
    }
    hand.release(|_| true);
}

/// Until there is something to look for: at least for so long, unless there are other groups than were looked at, or all is over.
fn rest(shared: &Shared, groups: usize, least: Duration) {
    let begin = Instant::now();
    let mut word = shared.word.lock().unwrap_or_else(PoisonError::into_inner);
    let known = word.groups.len().min(groups);
    // With nothing to squeeze it sleeps until somebody rings.
    let mut end = begin + if word.groups.is_empty() { Duration::from_secs(3600) } else { LOOK.max(least) };
    while !shared.over.load(Ordering::Acquire) && word.groups.len() <= known {
        let now = Instant::now();
        // Whoever opens connections one after the other does not have it look all the time.
        if shared.born.swap(false, Ordering::AcqRel) {
            end = end.min((begin + least).max(now + SETTLED));
        }
        if now >= end {
            return;
        }
        word = shared.bell.wait_timeout(word, end - now).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Hand<'_> {
    /// How many there are of this group; whoever is asked for no more and has none left is forgotten.
    fn tell(&mut self, group: GroupId) {
        let count = self.held.values().filter(|held| held.groups.contains(&group)).count();
        let now = sys::now();
        let mut word = self.shared.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.groups.retain_mut(|asked| {
            if asked.group != group {
                return true;
            }
            asked.sockets = u32::try_from(count).unwrap_or(u32::MAX);
            count > 0 || asked.until.is_none_or(|until| until > now)
        });
    }

    fn squeeze(&mut self, group: GroupId, path: &[u8]) {
        let (mut pids, mut buffer) = (Vec::new(), [0; 4096]);
        // If it still is the one that was meant.
        processes(self.layout, path, Some(group), &mut buffer, &mut pids);
        let mut buffer = [0; proc::STAT_BUFFER];
        for pid in pids {
            let Ok(stat) = proc::read_stat(pid, &mut buffer) else { continue };
            if self.guard.forbids(&stat).is_some() {
                continue;
            }
            let Ok(process) = PidFd::open(stat.id()) else { continue };
            for (fd, inode) in descriptors(pid).unwrap_or_default() {
                if !self.others.contains(&inode) {
                    self.one(group, stat.id(), &process, fd, inode);
                }
            }
        }
    }

    /// One socket of one process, each time it is looked at.
    fn one(&mut self, group: GroupId, who: ProcessId, process: &PidFd, fd: i32, inode: u32) {
        let socket = match TcpSocket::borrow(process, fd) {
            Ok(socket) => socket,
            // No TCP socket, or it may not be had: neither changes.
            Err(errno) => {
                if matches!(errno, Errno::PERM | Errno::ACCESS) {
                    self.shared.refused.fetch_add(1, Ordering::Relaxed);
                }
                if errno != Errno::BADF && errno != Errno::SRCH {
                    self.others.insert(inode);
                }
                return;
            }
        };
        let Ok(progress) = socket.progress() else { return };
        let Ok(cookie) = socket.cookie() else { return };
        if let Some(held) = self.held.get_mut(&cookie) {
            if !held.groups.contains(&group) {
                held.groups.push(group);
            }
            // Of another process too, or of a group below another that is squeezed.
            if std::mem::replace(&mut held.seen, self.look) == self.look {
                return;
            }
            (held.who, held.fd) = (who, fd);
            let still = held.moves(progress, sys::now());
            if let Ok(wanted) = wanted(&socket, held, still)
                && wanted != held.set
                && socket.set_bounds(&wanted).is_ok()
            {
                held.set = wanted;
            }
            return;
        }
        if !OPEN.contains(&progress.state) {
            return;
        }
        if self.held.len() >= MOST {
            self.beyond += 1;
            return;
        }
        match self.begin(group, who, fd, inode, &socket, progress) {
            Ok(held) => {
                self.held.insert(cookie, held);
                self.shared.squeezes.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.others.insert(inode);
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn begin(
        &mut self,
        group: GroupId,
        who: ProcessId,
        fd: i32,
        inode: u32,
        socket: &TcpSocket,
        progress: Progress,
    ) -> Result<Held, Errno> {
        let before = socket.bounds()?;
        let unsent = if before.unsent == 0 { UNSENT } else { before.unsent.min(UNSENT) };
        let set = Bounds { unsent, locks: BOTH, ..before };
        let cookie = socket.cookie()?;
        let entry = Entry::Socket { who, fd, inode, cookie, before };
        let place = self.book.record(&entry)?;
        if let Err(errno) = socket.set_bounds(&set) {
            // Whatever of it was set.
            let _ = socket.set_bounds(&before);
            let _ = self.book.erase(place);
            return Err(errno);
        }
        let (now, seen) = (sys::now(), self.look);
        let groups = vec![group];
        Ok(Held {
            groups,
            who,
            fd,
            inode,
            before,
            set,
            place,
            progress,
            read_at: now,
            acknowledged_at: now,
            seen,
        })
    }

    /// A group asks no more. What another still asks for stays.
    fn release_of(&mut self, group: GroupId) {
        self.held.values_mut().for_each(|held| held.groups.retain(|other| *other != group));
        self.release(|held| held.groups.is_empty());
    }

    /// Lets those go. Who is not where he was is looked for everywhere; whom nobody has any more is closed.
    fn release(&mut self, which: impl Fn(&Held) -> bool) {
        let cookies: Vec<u64> =
            self.held.iter().filter(|(_, held)| which(held)).map(|(cookie, _)| *cookie).collect();
        if cookies.is_empty() {
            return;
        }
        let mut elsewhere = None;
        for cookie in cookies {
            let Some(held) = self.held.get(&cookie) else { continue };
            let wanted =
                Wanted { who: held.who, fd: held.fd, inode: held.inode, cookie, before: held.before };
            // What cannot be put back now is tried again with the next look.
            if !matches!(restore(&wanted, &mut elsewhere), Verdict::Failed(..))
                && self.book.erase(held.place).is_ok()
            {
                self.held.remove(&cookie);
                self.shared.releases.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.others.clear();
    }

    /// What was closed meanwhile has its place in the ledger back.
    fn forget_closed(&mut self) {
        if self.look.is_multiple_of(ROUNDS) {
            self.others.clear();
            let look = self.look;
            self.release(|held| held.seen != look);
        }
    }
}

/// What has not moved for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Still {
    reader: bool,
    receiver: bool,
}

impl Held {
    /// How far it has come by now, and who stands still.
    fn moves(&mut self, progress: Progress, now: Time) -> Still {
        if progress.unread == 0 || progress.read != self.progress.read {
            self.read_at = now;
        }
        if progress.acknowledged != self.progress.acknowledged {
            self.acknowledged_at = now;
        }
        self.progress = progress;
        let long = STILL.max(progress.round_trip * 2);
        let since = |at: Time| now.since(at) >= long;
        Still { reader: since(self.read_at), receiver: since(self.acknowledged_at) }
    }
}

/// What a socket is to have, after a look that found it so. Who has stood still and goes on has the buffers back that he had.
fn wanted(socket: &TcpSocket, held: &Held, still: Still) -> Result<Bounds, Errno> {
    let memory = socket.memory()?;
    let has = |held: u64, most: u32| u32::try_from(held).unwrap_or(u32::MAX).max(LEAST).min(most);
    let Held { set, before, .. } = held;
    let mut wanted = Bounds { receive: before.receive, send: before.send, ..*set };
    if still.reader {
        wanted.receive = has(memory.receives(), set.receive) & !1;
    }
    if still.receiver && memory.queued > 0 {
        wanted.send = has(memory.queued.into(), set.send) & !1;
    }
    Ok(wanted)
}

/// A socket that is to have its bounds back.
struct Wanted {
    who: ProcessId,
    fd: i32,
    inode: u32,
    cookie: u64,
    before: Bounds,
}

/// Where sockets are open on this host: read once, when the first is not where it was.
type Elsewhere = HashMap<u32, Vec<(u32, i32)>>;

/// Puts back what stands in the ledger, of a memgov that is dead.
pub fn put_back(entries: &[&OwnedEntry]) -> Vec<Verdict> {
    let mut elsewhere = None;
    let each = entries.iter().map(|entry| match entry {
        OwnedEntry::Socket { who, fd, inode, cookie, before } => {
            let (who, fd, inode, cookie) = (*who, *fd, *inode, *cookie);
            restore(&Wanted { who, fd, inode, cookie, before: *before }, &mut elsewhere)
        }
        _ => Verdict::Changed,
    });
    each.collect()
}

fn restore(wanted: &Wanted, elsewhere: &mut Option<Elsewhere>) -> Verdict {
    let mut found = borrow(wanted.who, wanted.fd, wanted.cookie);
    if matches!(found, Ok(None)) {
        let known = elsewhere.get_or_insert_with(everywhere).get(&wanted.inode).cloned().unwrap_or_default();
        let mut buffer = [0; proc::STAT_BUFFER];
        for (pid, fd) in known {
            let Ok(stat) = proc::read_stat(pid, &mut buffer) else { continue };
            found = borrow(stat.id(), fd, wanted.cookie);
            if !matches!(found, Ok(None)) {
                break;
            }
        }
    }
    match found {
        Ok(None) => Verdict::Gone,
        Ok(Some(socket)) => match socket.set_bounds(&wanted.before) {
            Ok(()) => Verdict::Undone,
            Err(errno) => Verdict::Failed(Operation::Sockets, errno),
        },
        Err(errno) => Verdict::Failed(Operation::Sockets, errno),
    }
}

/// `None`: it is not there.
fn borrow(who: ProcessId, fd: i32, cookie: u64) -> Result<Option<TcpSocket>, Errno> {
    let gone = |errno: Errno| matches!(errno, Errno::SRCH | Errno::NOENT | Errno::BADF);
    let socket = match PidFd::open(who).and_then(|process| TcpSocket::borrow(&process, fd)) {
        Ok(socket) => socket,
        Err(errno) if gone(errno) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok(Some(socket).filter(|socket| socket.cookie() == Ok(cookie)))
}

fn everywhere() -> Elsewhere {
    let mut found = Elsewhere::new();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        for (fd, inode) in descriptors(pid).unwrap_or_default() {
            found.entry(inode).or_default().push((pid, fd));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Asked;
    use super::*;

    fn shared(groups: u64) -> Shared {
        let shared = Shared::default();
        let asked = |id| Asked {
            group: GroupId(id),
            path: Arc::from(&b"/x"[..]),
            holders: Default::default(),
            until: None,
            sockets: 0,
        };
        shared.word.lock().unwrap().groups.extend((0..groups).map(asked));
        shared
    }

    fn rested(shared: &Shared, groups: usize, least: u64) -> Duration {
        let begin = Instant::now();
        rest(shared, groups, Duration::from_millis(least));
        begin.elapsed()
    }

    #[test]
    fn a_birth_is_looked_for_at_once_but_not_all_the_time() {
        let shared = shared(1);
        assert!(rested(&shared, 1, 0) >= LOOK);
        shared.born.store(true, Ordering::Release);
        let soon = rested(&shared, 1, 0);
        assert!(soon >= SETTLED && soon < LOOK, "{soon:?}");
        assert!(!shared.born.load(Ordering::Acquire), "it was heeded");
        shared.born.store(true, Ordering::Release);
        assert!(
            rested(&shared, 1, 60) >= Duration::from_millis(60),
            "it rests after a long look all the same"
        );
    }

    #[test]
    fn a_group_that_came_while_others_were_looked_at_is_next() {
        assert!(rested(&shared(2), 1, 0) < LOOK);
    }
}
