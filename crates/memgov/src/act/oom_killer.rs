//! The kernel's OOM killer, held off for a while on cgroup v1 (`memory.oom_control`): a group for which an `oom-delay` is given and that meets its hard limit waits, and whoever of
//! it has to give way is chosen by the rules. Written down in the ledger before, and given back like every limit: by the guardian too, when memgov is dead or hangs.
//!
//! Nobody waits for ever: if the group is still out of memory after its delay, whatever the rules did, the kernel is let have it, and is not held off there again for a minute.
//! v2 has no such switch, and `memory.high` lies in front of its limit.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use memgov_decide::decision::Operation;
use memgov_decide::snapshot::{Group, GroupId, GroupSlot, Snapshot};
use memgov_decide::units::Time;

use super::group_limit::has_heir_without_killer;
use super::kept_limit::KeptLimit;
use super::ledger::{GroupLimit, MAX_PATH};
use super::{Actor, GroupDirs, Kit, Tally};
use crate::kernel::cgroup::v1;
use crate::kernel::layout::is_at_or_below;
use crate::kernel::{Errno, GroupDir, MemoryVersion, file};

/// Groups for which it is held off at once.
const MOST: usize = 64;
/// Where the delay has passed it is the kernel's for so long.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// Tasks that have not been seen to wait for so long wait no more; and groups below are looked at so often, where looks are frequent.
const QUIET: Duration = Duration::from_secs(1);

type Failure = (Operation, Errno);

const fn failed(errno: Errno) -> Failure {
    (Operation::OomControl, errno)
}

#[derive(Debug)]
struct Held {
    group: GroupId,
    path: Arc<[u8]>,
    limit: KeptLimit,
    /// Since when its tasks wait, and when they were seen to last.
    waits: Option<(Time, Time)>,
    /// Links of its directory, which are others when there are more groups below, and when those were last looked at.
    below: (u64, Time),
}

impl Held {
    /// Groups that were made below are born without a killer, and nobody is told of them.
    fn look_below(&mut self, now: Time) {
        let dir = self.limit.dir.as_fd();
        let links = rustix::fs::fstat(dir).map_or(0, |stat| stat.st_nlink);
        let (known, looked) = self.below;
        if links != known || now.since(looked) >= QUIET {
            self.below = (links, now);
            // What cannot be written now is with the next look, and with the end of the hold.
            let _later = GroupLimit::OomKiller.give_below(dir);
        }
    }

    /// Takes in whether tasks wait; for how long they have.
    fn waits_for(&mut self, waits: bool, now: Time) -> Duration {
        self.waits = match (waits, self.waits) {
            (true, known) => Some((known.map_or(now, |(since, _)| since), now)),
            // A task that was woken and tries again is not out of memory for a moment.
            (false, Some((since, last))) if now.since(last) < QUIET => Some((since, last)),
            (false, _) => None,
        };
        self.waits.map_or(Duration::ZERO, |(since, _)| now.since(since))
    }
}

/// All groups for which it is held off.
#[derive(Debug)]
pub struct OomKillers {
    held: Vec<Held>,
    given_up: Vec<(GroupId, Time)>,
    path: Vec<u8>,
}

impl Actor {
    /// Holds the kernel's OOM killer off a group whose row was read in this tick, for `delay` once it is out of memory; `None`: nobody asks for that, or no more.
    /// Whether its tasks wait, and it is to be looked at again soon.
    pub fn hold_oom_killer(
        &mut self,
        slot: GroupSlot,
        snap: &Snapshot,
        groups: &dyn GroupDirs,
        delay: Option<Duration>,
    ) -> bool {
        if self.kit.layout.version == MemoryVersion::V2
            || (delay.is_none() && self.oom_killers.held.is_empty())
        {
            return false;
        }
        let Some(row) = snap.group(slot).filter(|_| !self.dry_run) else { return false };
        let dir = groups.dir(slot).filter(|dir| dir.id() == row.id && !row.gone);
        self.oom_killers.keep(&mut self.kit, row, dir, delay, snap.at)
    }
}

impl OomKillers {
    pub fn new() -> Self {
        Self {
            held: Vec::with_capacity(MOST),
            given_up: Vec::with_capacity(MOST),
            path: Vec::with_capacity(MAX_PATH),
        }
    }

    /// The groups; for status.
    pub fn views(&self) -> impl Iterator<Item = GroupId> {
        self.held.iter().map(|held| held.group)
    }

    /// Whether tasks of the group wait.
    fn keep(
        &mut self,
        kit: &mut Kit,
        row: &Group,
        dir: Option<&GroupDir>,
        delay: Option<Duration>,
        now: Time,
    ) -> bool {
        let known = self.held.iter().position(|held| held.group == row.id);
        match (known, dir.zip(delay)) {
            (Some(i), None) => self.let_go(kit, i),
            (Some(i), Some((_, delay))) => return self.look(kit, i, delay, now),
            (None, Some((dir, _))) => self.hold(kit, row, dir, now),
            (None, None) => {}
        }
        false
    }

    fn look(&mut self, kit: &mut Kit, i: usize, delay: Duration, now: Time) -> bool {
        let held = &mut self.held[i];
        let state = State::of(held.limit.dir.as_fd());
        if matches!(state, State::Off) {
            held.look_below(now);
        }
        match state {
            // Somebody has turned it on again: that stays so.
            State::On => self.give_up(kit, i, Time::FAR),
            state => {
                if held.waits_for(matches!(state, State::Waits), now) < delay {
                    return held.waits.is_some();
                }
                self.give_up(kit, i, now + GIVEN_UP);
            }
        }
        false
    }

    fn hold(&mut self, kit: &mut Kit, row: &Group, dir: &GroupDir, now: Time) {
        self.given_up.retain(|(_, until)| *until > now);
        let full = self.held.len() == self.held.capacity();
        // One below would inherit, or be given what is held off there.
        let related =
            |held: &Held| is_at_or_below(&row.path, &held.path) || is_at_or_below(&held.path, &row.path);
        let around = self.held.iter().any(related);
        if full || around || self.given_up.iter().any(|(group, _)| *group == row.id) {
            return;
        }
        match self.begin(kit, row, dir) {
            Ok(limit) => {
                let path = Arc::clone(&row.path);
                self.held.push(Held { group: row.id, path, limit, waits: None, below: (0, now) });
            }
            // Who holds it off himself goes on doing so.
            Err(_) => self.leave(row.id, now + GIVEN_UP),
        }
    }

    fn begin(&mut self, kit: &mut Kit, row: &Group, dir: &GroupDir) -> Result<KeptLimit, Failure> {
        // Somebody's own doing, here or below: from then on it could not be told from what is inherited.
        let on = GroupLimit::OomKiller.read(dir.dir()).map_err(failed)? > 0;
        if !on || has_heir_without_killer(dir.dir()).map_err(failed)? {
            return Err(failed(Errno::BUSY));
        }
        KeptLimit::of_group(kit, GroupLimit::OomKiller, (row, dir), &mut self.path, 0)
    }

    /// What cannot be given back is tried again with the next look.
    fn let_go(&mut self, kit: &mut Kit, i: usize) {
        if self.held[i].limit.lift(&mut kit.ledger).is_ok() {
            self.held.swap_remove(i);
        }
    }

    /// Until then it is the kernel's.
    fn give_up(&mut self, kit: &mut Kit, i: usize, until: Time) {
        self.leave(self.held[i].group, until);
        self.let_go(kit, i);
    }

    /// Not to be held before then. Of too many the first that could be is held sooner.
    fn leave(&mut self, group: GroupId, until: Time) {
        self.given_up.retain(|(other, _)| *other != group);
        if self.given_up.len() == self.given_up.capacity()
            && let Some(soonest) = (0..self.given_up.len()).min_by_key(|&i| self.given_up[i].1)
        {
            self.given_up.swap_remove(soonest);
        }
        self.given_up.push((group, until));
    }

    /// Gives all of them back.
    pub(super) fn release_all(&mut self, kit: &mut Kit, tally: &mut Tally) {
        for held in self.held.drain(..) {
            tally.count(held.limit.lift(&mut kit.ledger));
        }
    }
}

/// What a group's file says.
enum State {
    /// The kernel kills when the group is out of memory.
    On,
    /// It would not.
    Off,
    /// The group is, and its tasks wait.
    Waits,
}

impl State {
    /// (hot)
    fn of(dir: BorrowedFd<'_>) -> Self {
        let mut buffer = [0; 96];
        // A group that is gone is told of in another way.
        let text = file::read_in(dir, v1::OOM_CONTROL, &mut buffer).unwrap_or_default();
        match (v1::parse_oom_killer(text), v1::parse_under_oom(text)) {
            (Some(true), _) => Self::On,
            (_, Some(true)) => Self::Waits,
            _ => Self::Off,
        }
    }
}
