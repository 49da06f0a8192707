//! Finding groups and processes that some rule or control concerns. Directories are watched only where a match could
//! still appear below them; processes are listed only where a rule wants them now.

use std::sync::Arc;
use std::time::Duration;

use memgov_decide::governor::Governor;
use memgov_decide::policy::{Action, Meter, Over, Pattern, Policy, ProcessMatch, Scope};
use memgov_decide::snapshot::{GroupSlot, ProcessSlot, Snapshot};
use memgov_decide::units::Time;

use super::groups::parent_of;
use super::lines::Lines;
use super::wake::{FILE, FOLDER, REFUSALS};
use super::{Observer, Woken};
use crate::act::ledger::HOLD_PREFIX;
use crate::kernel::notify::Notice;
use crate::kernel::{Errno, Error, GroupDir, subgroups};
use crate::record::trace::Tape;

/// How often everything is looked through when a directory could not be watched.
const RESCAN: Duration = Duration::from_secs(5);
/// Groups are looked for no deeper than this: beyond, a path is longer than any the kernel takes at once.
const MAX_DEPTH: usize = 512;

/// Directories watched for groups coming and going.
#[derive(Debug, Default)]
pub(super) struct Folders {
    paths: Vec<Option<Arc<[u8]>>>,
    /// A directory could not be watched: look through everything from time to time.
    blind_until: Option<Time>,
}

impl Folders {
    fn number(&mut self, path: &[u8]) -> Option<u32> {
        if self.paths.iter().flatten().any(|known| **known == *path) {
            return None;
        }
        let free = self.paths.iter().position(Option::is_none).unwrap_or(self.paths.len());
        if free == self.paths.len() {
            self.paths.push(None);
        }
        self.paths[free] = Some(path.into());
        u32::try_from(free).ok()
    }

    fn remove(&mut self, path: &[u8]) -> Option<u32> {
        let at = self.paths.iter().position(|known| known.as_deref() == Some(path))?;
        self.paths[at] = None;
        u32::try_from(at).ok()
    }

    fn path(&self, number: u32) -> Option<Arc<[u8]>> {
        self.paths.get(number as usize)?.clone()
    }

    pub(super) fn rescan_due(&self) -> Time {
        self.blind_until.unwrap_or(Time::FAR)
    }
}

/// Groups of processes with controls, each with its line.
pub(super) type ControlledLines = Vec<(Arc<[u8]>, Over)>;

/// What the policy and the controls make worth finding.
#[derive(Debug, Default)]
pub(super) struct Concerns {
    /// Patterns of group rules and of process rules that name groups.
    patterns: Vec<Pattern>,
    /// Jobs, where a rule chooses among them.
    jobs: Vec<Pattern>,
    /// Process rules that name no group: any process may match.
    pub anywhere: Vec<ProcessMatch>,
    /// Births matter all the time: children inherit controls, or match rules.
    births: bool,
    /// Births matter while somebody is denied: children inherit lowered limits.
    denies: bool,
}

impl Concerns {
    fn of(policy: &Policy, controls: bool) -> Self {
        let (mut patterns, mut anywhere, mut births, mut denies) = (Vec::new(), Vec::new(), controls, false);
        for rule in &policy.rules {
            births |= rule.when.rss.is_some();
            // Kernel memory is refused to a group as a whole: who is born in it changes nothing.
            let inherited = rule.when.meter() != Meter::Kernel;
            denies |= inherited && rule.steps.iter().any(|s| s.action == Action::Deny);
            match &rule.scope {
                Scope::Groups(of_rule) => patterns.extend_from_slice(of_rule),
                Scope::Processes(matching) => {
                    births = true;
                    patterns.extend_from_slice(&matching.groups);
                    if matching.groups.is_empty() {
                        anywhere.push(matching.clone());
                    }
                }
                Scope::Host => {}
            }
        }
        let jobs = policy.groups.iter().filter(|group| group.is_job() && policy.chooses_jobs());
        let jobs = jobs.flat_map(|group| group.groups.iter().cloned()).collect();
        Self { patterns, jobs, anywhere, births, denies }
    }

    /// The group itself matches, or it lies in one that does; or it is a job.
    fn concerns(&self, path: &[u8]) -> bool {
        if self.jobs.iter().any(|p| p.matches(path)) {
            return true;
        }
        let mut at = Some(path);
        while let Some(path) = at {
            if self.patterns.iter().any(|p| p.matches(path)) {
                return true;
            }
            at = parent_of(path);
        }
        false
    }

    fn below(&self, path: &[u8]) -> bool {
        let mut all = self.patterns.iter().chain(&self.jobs);
        self.concerns(path) || all.any(|p| p.may_match_below(path))
    }
}

impl Observer {
    /// Looks through everything: at start, after a reload, and when events were lost. What is known already is looked at anew,
    /// because what would have told of a change may be among what was lost.
    pub fn scan(&mut self, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) {
        self.follow(governor);
        self.arm(snap, governor);
        self.folders.blind_until = None;
        self.explore(&[b"/".to_vec()], snap, governor, tape);
        if !self.concerns.anywhere.is_empty() {
            self.list_all(snap, governor, tape);
        }
        self.check_rows(snap, governor, tape);
        for (slot, _) in snap.groups.iter() {
            governor.pace_hint_event(GroupSlot(slot), snap.at);
        }
        self.due.sweep = true;
    }

    /// Listens to births if the policy or a control makes them matter. Where they cannot be heard, processes are listed.
    pub fn follow(&mut self, governor: &Governor) {
        self.concerns = Concerns::of(governor.policy(), governor.controls().next().is_some());
        self.memory.follow(governor.watches_host(), governor.policy().pressure_of_host(), &self.wake);
        let wanted = self.concerns.births || self.concerns.denies;
        if self.wake.follow_processes(wanted).is_err() {
            self.wake.lost_hearing();
        }
    }

    /// Births are heard while they matter; `denying`: somebody is denied at this moment.
    pub fn attend(&mut self, denying: bool) {
        self.wake.attend(self.concerns.births || denying);
    }

    /// Sets alarms where the lines have changed, after rules or controls have; those groups are looked at at once, because a line
    /// may have been drawn below what they use already.
    pub fn arm(&mut self, snap: &Snapshot, governor: &mut Governor) {
        let controls = self.controlled_lines(snap, governor);
        let Self { groups, layout, wake, .. } = self;
        groups.rearm(layout, snap, governor, &controls, wake, &mut |governor, slot| {
            governor.pace_hint_event(slot, snap.at);
        });
    }

    /// The group each control counts in, and how far over `memory.high` it lets it go.
    fn controlled_lines(&self, snap: &Snapshot, governor: &Governor) -> ControlledLines {
        let lines = governor.controls().filter_map(|(who, control)| {
            let over = control.condition()?.group?;
            let row = snap.process(self.processes.slot(who.pid)?).filter(|row| row.id == who)?;
            Some((Arc::clone(&snap.group(row.group?)?.path), over))
        });
        let mut lines: ControlledLines = lines.collect();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        lines.dedup();
        lines
    }

    /// Opens and watches what is concerned at and below some groups.
    fn explore(&mut self, from: &[Vec<u8>], snap: &mut Snapshot, governor: &Governor, tape: &mut Tape) {
        if from.is_empty() {
            return;
        }
        // Once for all of them: opening groups changes no control, and there may be many of both.
        let controls = self.controlled_lines(snap, governor);
        let mut stack: Vec<(Vec<u8>, usize)> = from.iter().map(|path| (path.clone(), 0)).collect();
        while let Some((path, depth)) = stack.pop() {
            if path != b"/" && self.concerns.concerns(&path) {
                self.ensure_group_among(&path, Some(&controls), snap, governor, tape);
            }
            if !self.concerns.below(&path) || depth >= MAX_DEPTH {
                continue;
            }
            // Watched first, listed after: a group made in between is seen twice, not never.
            self.watch_folder(&path, snap);
            let Ok(names) = subgroups(&self.layout, &path) else { continue };
            for name in names.iter().filter(|name| !name.starts_with(HOLD_PREFIX)) {
                stack.push((child_of(&path, name), depth + 1));
            }
        }
    }

    fn watch_folder(&mut self, path: &[u8], snap: &mut Snapshot) {
        let Some(number) = self.folders.number(path) else { return };
        let watched = match GroupDir::open(&self.layout, path) {
            Ok(dir) => self.wake.watch_folder(&dir, number),
            // Gone again already: nothing was missed.
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => {
                self.folders.paths[number as usize] = None;
                return;
            }
            Err(_) => false,
        };
        if !watched {
            self.folders.paths[number as usize] = None;
            self.folders.blind_until = Some(snap.at + RESCAN);
            snap.lost.events += 1;
        }
    }

    /// The row of a group, with rows for all above it; `None` if it is gone or there is no room.
    pub fn ensure_group(
        &mut self,
        path: &[u8],
        snap: &mut Snapshot,
        governor: &Governor,
        tape: &mut Tape,
    ) -> Option<GroupSlot> {
        self.ensure_group_among(path, None, snap, governor, tape)
    }

    /// As [`Observer::ensure_group`]; `controls` are the lines of all controls, if they are at hand.
    fn ensure_group_among(
        &mut self,
        path: &[u8],
        controls: Option<&ControlledLines>,
        snap: &mut Snapshot,
        governor: &Governor,
        tape: &mut Tape,
    ) -> Option<GroupSlot> {
        // From the top down, so that each finds its parent's row.
        let mut ends: Vec<usize> =
            (1..path.len()).filter(|&i| path[i] == b'/').chain(std::iter::once(path.len())).collect();
        ends.dedup();
        let mut last = None;
        for end in ends {
            let part = &path[..end];
            if part == b"/" || part.is_empty() {
                continue;
            }
            last = match self.groups.slot(part) {
                Some(slot) if self.groups.is_there(slot) => Some(slot),
                Some(stale) => {
                    // Removed, and perhaps made again, where nobody watches.
                    self.groups.gone(stale, snap, tape);
                    self.groups.forget_path(part);
                    None
                }
                None => None,
            };
            if last.is_none() {
                last = match controls {
                    Some(controls) => self.open_group(part, controls, snap, governor, tape),
                    None => {
                        let controls = self.controlled_lines(snap, governor);
                        self.open_group(part, &controls, snap, governor, tape)
                    }
                };
            }
            last?;
        }
        last
    }

    fn open_group(
        &mut self,
        path: &[u8],
        controls: &ControlledLines,
        snap: &mut Snapshot,
        governor: &Governor,
        tape: &mut Tape,
    ) -> Option<GroupSlot> {
        let lines = Lines::of(governor, controls, path);
        let Self { groups, layout, wake, buffer, overlay, .. } = self;
        let slot = groups.open(layout, path, snap, lines, wake, tape).ok().flatten()?;
        groups.look(slot, snap, buffer, governor, overlay, tape);
        Some(slot)
    }

    /// Takes in all news: what changed is marked for a look, what came gets a row, what went is marked gone.
    /// Births are also told to `births`, parent first.
    pub fn news(
        &mut self,
        snap: &mut Snapshot,
        governor: &mut Governor,
        tape: &mut Tape,
        births: &mut dyn FnMut(u32, u32),
    ) {
        let now = snap.at;
        if self.wake.is_pressed() {
            governor.pace_hint_host(now);
        }
        for i in 0..self.wake.crossed().len() {
            let slot = self.wake.crossed()[i];
            self.groups.drain_threshold(slot);
            governor.pace_hint_event(slot, now);
        }
        let lost = self.group_news(snap, governor, tape);
        let lost = self.process_news(snap, governor, tape, births) || lost;
        if lost {
            snap.lost.events += 1;
        }
        if lost || self.folders.rescan_due() <= now {
            self.scan(snap, governor, tape);
        }
    }

    fn group_news(&mut self, snap: &mut Snapshot, governor: &mut Governor, tape: &mut Tape) -> bool {
        let (mut lost, mut came, mut went): (bool, Vec<Vec<u8>>, Vec<Vec<u8>>) =
            (false, Vec::new(), Vec::new());
        let (folders, groups, now) = (&mut self.folders, &mut self.groups, snap.at);
        self.wake.notices(&mut self.buffer, &mut |notice| match notice {
            Notice::Changed { token } if token & FILE != 0 => {
                let slot = GroupSlot(low(token));
                groups.limits_stale(slot);
                governor.pace_hint_event(slot, now);
            }
            Notice::Changed { token } if token & REFUSALS != 0 => {
                governor.pace_hint_event(GroupSlot(low(token)), now);
            }
            Notice::Created { token, name } if !name.starts_with(HOLD_PREFIX) => {
                came.extend(folders.path(low(token)).map(|path| child_of(&path, name)));
            }
            Notice::Removed { token, name } => {
                went.extend(folders.path(low(token)).map(|path| child_of(&path, name)));
            }
            Notice::Gone { token } if token & FOLDER != 0 => {
                if let Some(path) = folders.paths.get_mut(low(token) as usize) {
                    *path = None;
                }
            }
            Notice::Overflow => lost = true,
            _ => {}
        });
        for path in went {
            if let Some(number) = self.folders.remove(&path) {
                self.wake.unwatch_folder(number);
            }
            if let Some(slot) = self.groups.slot(&path) {
                // Made again in the meantime? Then it comes again below, under another inode.
                self.groups.gone(slot, snap, tape);
                self.groups.forget_path(&path);
            }
        }
        self.explore(&came, snap, governor, tape);
        lost
    }

    /// The row of a pid, if it has one.
    pub fn process_slot(&self, pid: u32) -> Option<ProcessSlot> {
        self.processes.slot(pid)
    }

    /// Also waits for a descriptor of somebody else.
    ///
    /// # Errors
    /// If epoll refuses it.
    pub fn also_wait_for(&self, fd: rustix::fd::BorrowedFd<'_>, number: u32) -> Result<(), Error> {
        self.wake.add_other(fd, number).map_err(|e| Error::new("adding a descriptor to", "epoll", e))
    }

    /// To be called before such a descriptor is closed.
    pub fn no_longer_wait_for(&self, fd: rustix::fd::BorrowedFd<'_>) {
        self.wake.remove_other(fd);
    }

    /// Waits for such a descriptor, or for now does not.
    ///
    /// # Errors
    /// If epoll refuses it.
    pub fn listen_to(&self, fd: rustix::fd::BorrowedFd<'_>, number: u32, listen: bool) -> Result<(), Errno> {
        self.wake.listen_to_other(fd, number, listen)
    }

    /// Waits until something happens, or the deadline.
    ///
    /// # Errors
    /// If epoll does not work.
    pub fn wait(&mut self, now: Time, deadline: Time) -> Result<Woken, Errno> {
        self.wake.wait(now, deadline)
    }
}

fn low(token: u64) -> u32 {
    u32::try_from(token & 0xffff_ffff).unwrap_or(u32::MAX)
}

fn child_of(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut child = if path == b"/" { Vec::new() } else { path.to_vec() };
    child.push(b'/');
    child.extend_from_slice(name);
    child
}
