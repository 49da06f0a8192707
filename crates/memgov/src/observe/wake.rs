//! What can wake the loop: epoll over inotify (group files and directories), v1 usage thresholds, process events,
//! requests and signals. Events are hints; none is trusted beyond "look there".

use std::ffi::CStr;
use std::time::Duration;

use memgov_decide::snapshot::GroupSlot;
use memgov_decide::units::Time;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::kernel::forks::{ProcessEvent, ProcessEvents};
use crate::kernel::notify::{Inotify, Notice, Threshold};
use crate::kernel::psi::Trigger;
use crate::kernel::{Errno, Error, GroupDir, sys};

/// Births wake the loop no more often than this; what comes in between is fetched together.
const REST: Duration = Duration::from_millis(10);
/// Room for events of one wait.
const EVENTS: usize = 64;
/// epoll tokens: the kind in the high half, a slot in the low.
const KIND: u64 = !0 << 32;
const INOTIFY: u64 = 1 << 32;
const PROCESSES: u64 = 2 << 32;
const THRESHOLD: u64 = 3 << 32;
const OTHER: u64 = 4 << 32;
const PRESSURE: u64 = 5 << 32;
const GROUP_PRESSURE: u64 = 6 << 32;
/// inotify tokens: a row's event file, or a watched directory.
pub(super) const FILE: u64 = 1 << 32;
pub(super) const FOLDER: u64 = 2 << 32;
/// ...or the file that tells that a row's group was refused a process.
pub(super) const REFUSALS: u64 = 4 << 32;

/// What the loop was woken by, besides what observe handles itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// A foreign descriptor (requests, signals) is ready: bit by its number in [`super::Observer::also_wait_for`].
    pub others: u32,
}

pub(super) struct Wake {
    epoll: OwnedFd,
    events: Vec<Event>,
    inotify: Inotify,
    processes: Option<ProcessEvents>,
    /// Births are heard at this moment.
    attends: bool,
    /// Births came a moment ago: the next ones are fetched together, not one wake-up each.
    rest_until: Option<Time>,
    /// Groups whose threshold or pressure trigger fired in this wait.
    crossed: Vec<GroupSlot>,
    inotify_ready: bool,
    processes_ready: bool,
    /// Tasks wait for memory, by the host's pressure trigger.
    pressed: bool,
}

impl Wake {
    pub(super) fn new(groups: u32) -> Result<Self, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| Error::new("opening", "epoll", e))?;
        // Three watches for each row's files, and one for each directory.
        let inotify = Inotify::new(groups as usize * 4 + 1024)?;
        let wake = Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            inotify,
            processes: None,
            attends: false,
            rest_until: None,
            crossed: Vec::with_capacity(EVENTS),
            inotify_ready: false,
            processes_ready: false,
            pressed: false,
        };
        wake.add(wake.inotify.as_fd(), INOTIFY).map_err(|e| Error::new("adding inotify to", "epoll", e))?;
        Ok(wake)
    }

    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN)
    }

    /// Also waits for a descriptor of somebody else; its number is the bit in [`Woken::others`].
    pub(super) fn add_other(&self, fd: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
        self.add(fd, OTHER | u64::from(number))
    }

    /// Closing it is not enough: epoll (epoll(7), Q6) hears of it until its last copy is closed, and a program that another thread has just started has copies
    /// of all descriptors until its exec is over.
    pub(super) fn remove_other(&self, fd: BorrowedFd<'_>) {
        // Fails only for one that was never added.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Is told of pressure; ends when the trigger is closed.
    pub(super) fn watch_pressure(&self, trigger: &Trigger) -> bool {
        let token = EventData::new_u64(PRESSURE);
        epoll::add(&self.epoll, trigger.as_fd(), token, EventFlags::PRI).is_ok()
    }

    /// Likewise of a group; when it is gone the trigger fires until it is closed.
    pub(super) fn watch_pressure_of(&self, slot: GroupSlot, trigger: &Trigger) -> bool {
        let token = EventData::new_u64(GROUP_PRESSURE | u64::from(slot.0));
        epoll::add(&self.epoll, trigger.as_fd(), token, EventFlags::PRI).is_ok()
    }

    /// Whether there was pressure in this wait.
    pub(super) const fn is_pressed(&self) -> bool {
        self.pressed
    }

    /// Waits for it, or for now does not.
    pub(super) fn listen_to_other(&self, fd: BorrowedFd<'_>, number: u32, listen: bool) -> Result<(), Errno> {
        let flags = if listen { EventFlags::IN } else { EventFlags::empty() };
        epoll::modify(&self.epoll, fd, EventData::new_u64(OTHER | u64::from(number)), flags)
    }

    /// Starts or stops listening to births and deaths of processes; whether it listens.
    pub(super) fn follow_processes(&mut self, follow: bool) -> Result<bool, Error> {
        if follow && self.processes.is_none() {
            self.processes = ProcessEvents::open()?;
            if let Some(events) = &self.processes {
                self.add(events.as_fd(), PROCESSES)
                    .map_err(|e| Error::new("adding process events to", "epoll", e))?;
                events.attend(true).map_err(|e| Error::new("filtering", "process events", e))?;
                self.attends = true;
            }
        } else if !follow {
            // Closing it takes it out of epoll.
            self.processes = None;
        }
        Ok(self.processes.is_some())
    }

    /// Births cannot be heard; they are looked for.
    pub(super) fn lost_hearing(&mut self) {
        self.processes = None;
    }

    /// Hears births, or for now does not: a filter in the kernel, so that a busy machine does not wake an idle memgov.
    pub(super) fn attend(&mut self, attend: bool) {
        if let Some(events) = &self.processes
            && attend != self.attends
            && events.attend(attend).is_ok()
        {
            self.attends = attend;
        }
    }

    pub(super) const fn follows_processes(&self) -> bool {
        self.processes.is_some()
    }

    pub(super) fn watch_events(&mut self, slot: GroupSlot, dir: &GroupDir, name: &CStr) -> bool {
        let token = FILE | u64::from(slot.0);
        self.inotify.unwatch(token);
        // A write to memory.high raises no event of the group's, but one of the file's.
        self.inotify.watch_file(dir.dir(), name, token).is_ok()
            && self.inotify.watch_file(dir.dir(), crate::kernel::cgroup::v2::HIGH, token).is_ok()
    }

    /// On some kernels the file speaks of refusals in the group itself only, not of those below it (kernel/cgroup/pids.c before 6.11): then they are found by
    /// sampling.
    pub(super) fn watch_refusals(&mut self, slot: GroupSlot, pids: BorrowedFd<'_>) {
        let token = REFUSALS | u64::from(slot.0);
        self.inotify.unwatch(token);
        // Without it they are found by sampling.
        let _ = self.inotify.watch_file(pids, c"pids.events", token);
    }

    pub(super) fn ignore_refusals(&mut self, slot: GroupSlot) {
        self.inotify.unwatch(REFUSALS | u64::from(slot.0));
    }

    pub(super) fn watch_folder(&mut self, dir: &GroupDir, number: u32) -> bool {
        self.inotify.watch_children(dir.dir(), FOLDER | u64::from(number)).is_ok()
    }

    /// The kernel does not end the watch of a removed group by itself.
    pub(super) fn unwatch_folder(&mut self, number: u32) {
        self.inotify.unwatch(FOLDER | u64::from(number));
    }

    pub(super) fn watch_threshold(&self, slot: GroupSlot, threshold: &Threshold) -> bool {
        self.add(threshold.as_fd(), THRESHOLD | u64::from(slot.0)).is_ok()
    }

    /// The row's thresholds are closed by their owner, which takes them out of epoll; its inotify watch is ended here.
    pub(super) fn ignore_group(&mut self, slot: GroupSlot) {
        self.inotify.unwatch(FILE | u64::from(slot.0));
    }

    /// Waits until `deadline` at the longest.
    pub(super) fn wait(&mut self, now: Time, deadline: Time) -> Result<Woken, Errno> {
        if self.rest_until.is_some_and(|until| until <= now) {
            self.rest_until = None;
            self.listen(EventFlags::IN)?;
        }
        let deadline = deadline.min(self.rest_until.unwrap_or(Time::FAR));
        let timeout = (deadline != Time::FAR).then(|| timespec(deadline.since(now)));
        self.events.clear();
        (self.inotify_ready, self.processes_ready, self.pressed) = (false, false, false);
        self.crossed.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut woken = Woken::default();
        for event in &self.events {
            let token = event.data.u64();
            let low = u32::try_from(token & !KIND).unwrap_or(u32::MAX);
            match token & KIND {
                INOTIFY => self.inotify_ready = true,
                PROCESSES => self.processes_ready = true,
                THRESHOLD | GROUP_PRESSURE => self.crossed.push(GroupSlot(low)),
                PRESSURE => self.pressed = true,
                _ => woken.others |= 1u32.checked_shl(low).unwrap_or(0),
            }
        }
        if self.processes_ready {
            self.rest_until = Some(sys::now() + REST);
            self.listen(EventFlags::empty())?;
        }
        Ok(woken)
    }

    fn listen(&self, flags: EventFlags) -> Result<(), Errno> {
        match &self.processes {
            Some(events) => epoll::modify(&self.epoll, events.as_fd(), EventData::new_u64(PROCESSES), flags),
            None => Ok(()),
        }
    }

    pub(super) fn crossed(&self) -> &[GroupSlot] {
        &self.crossed
    }

    /// Gives out inotify's news, if there were any.
    pub(super) fn notices(&mut self, buffer: &mut [u8], f: &mut dyn FnMut(Notice<'_>)) {
        if self.inotify_ready && self.inotify.read(buffer, f).is_err() {
            f(Notice::Overflow);
        }
    }

    /// Gives out process events, if there were any.
    pub(super) fn process_events(&mut self, buffer: &mut [u8], f: &mut dyn FnMut(ProcessEvent)) {
        if let Some(events) = &mut self.processes
            && self.processes_ready
            && events.read(buffer, f).is_err()
        {
            f(ProcessEvent::Lost);
        }
    }
}

fn timespec(wait: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    const NUMBER: u32 = 3;

    /// Something that is readable from the beginning and for good, and is waited for.
    fn with_bell() -> (Wake, OwnedFd) {
        let wake = Wake::new(16).unwrap();
        let bell = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        wake.add_other(bell.as_fd(), NUMBER).unwrap();
        (wake, bell)
    }

    fn woken(wake: &mut Wake) -> u32 {
        let now = sys::now();
        wake.wait(now, now + Duration::from_millis(5)).unwrap().others
    }

    #[test]
    fn who_is_not_listened_to_wakes_nobody_and_is_heard_afterwards() {
        let (mut wake, bell) = with_bell();
        assert_eq!(woken(&mut wake), 1 << NUMBER);
        wake.listen_to_other(bell.as_fd(), NUMBER, false).unwrap();
        assert_eq!(woken(&mut wake), 0);
        wake.listen_to_other(bell.as_fd(), NUMBER, true).unwrap();
        assert_eq!(woken(&mut wake), 1 << NUMBER);
    }

    #[test]
    fn who_is_removed_wakes_nobody_though_somebody_holds_a_copy() {
        let (mut wake, bell) = with_bell();
        let copy = bell.try_clone().unwrap();
        drop(bell);
        assert_eq!(woken(&mut wake), 1 << NUMBER, "closing has been enough");
        drop(wake);
        let (mut wake, bell) = with_bell();
        let other = bell.try_clone().unwrap();
        wake.remove_other(bell.as_fd());
        drop(bell);
        assert_eq!(woken(&mut wake), 0);
        drop((copy, other));
    }
}
