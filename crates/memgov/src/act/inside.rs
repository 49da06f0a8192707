//! What the kernel is told to enforce by itself: the lines that stand beforehand, and who is held by an episode. The limits lie in
//! maps; nothing here has to be undone, because nothing acts for longer than memgov renews the lease or lives.
//!
//! What stands changes when and where a line is met, never what is decided: the crossing is read and decided on as
//! ever, and an order that the kernel has carried out already is found to be done.

mod counting;
mod kills;
mod refusals;
mod swept;

use std::os::fd::AsFd as _;
use std::sync::Arc;

use memgov_decide::decision::{EpisodeId, Target};
use memgov_decide::governor::{GroupStanding, Standing, StandingAction};
use memgov_decide::policy::Condition;
use memgov_decide::snapshot::{Group, GroupId, GroupSlot, ProcessId, ProcessSlot};
use memgov_decide::units::{Bytes, Limit, Time};

use crate::bpf::{Event, EventKind, ExemptBy, GroupLimit, Hook, Hooks, Maps, TaskAction, TaskLimit};
use crate::kernel::Errno;
use crate::kernel::pidfd::PidFd;

pub use refusals::{Of, Refused};
pub use swept::SWEPT;

/// Each row has them, so they are few.
type Holders = super::holders::Holders<4>;
/// Signals and deaths by the kernel's hand that are remembered until their order comes.
pub const REMEMBERED: usize = 512;

const NOBODY: ProcessId = ProcessId { pid: 0, start: 0 };

#[derive(Clone, Copy, Debug)]
struct ToldGroup {
    id: GroupId,
    level: u32,
    standing: GroupStanding,
    high: Option<Limit>,
    holders: Holders,
    /// Episodes that refuse it kernel memory.
    kernel_holders: Holders,
    told: Option<GroupLimit>,
    said: refusals::Said,
    kernel_said: refusals::Said,
    /// When its counter of kernel memory was last compared with the kernel's file.
    compared: Time,
    /// When everybody in it was last looked at for the never-list's sake.
    swept: Time,
}

#[derive(Clone, Copy, Debug)]
struct ToldProcess {
    who: ProcessId,
    standing: Option<Standing>,
    holders: Holders,
    /// The kernel has a line of it; and it is what follows from the above.
    has: bool,
    right: bool,
    /// Its signal is being sent or was sent from here: the kernel is not to send it too, until it is armed anew.
    disarmed: bool,
    said: refusals::Said,
}

impl ToldGroup {
    fn new(id: GroupId, level: u32) -> Self {
        Self {
            id,
            level,
            standing: GroupStanding::default(),
            high: None,
            holders: Holders::default(),
            kernel_holders: Holders::default(),
            told: None,
            said: refusals::Said::default(),
            kernel_said: refusals::Said::default(),
            compared: Time(0),
            swept: Time(0),
        }
    }
}

impl ToldProcess {
    fn new(who: ProcessId) -> Self {
        let (holders, said) = (Holders::default(), refusals::Said::default());
        Self { who, standing: None, holders, has: false, right: true, disarmed: false, said }
    }

    /// What the kernel is to know of it; `None`: nothing.
    fn wanted(&self) -> Option<TaskLimit> {
        let spent =
            |standing: &Standing| self.disarmed && matches!(standing.action, StandingAction::Signal(_));
        let standing = self.standing.filter(|standing| !spent(standing));
        // A child inherits what stands, and not that its parent is held.
        let held = self.holders.any();
        match standing {
            Some(standing) => {
                let Standing { condition, group, action, serial } = standing;
                let by_rule = standing.by_rule();
                Some(TaskLimit { condition, group, action: task_action(action), held, by_rule, tag: serial })
            }
            None => held.then_some(TaskLimit {
                condition: Condition { group: None, rss: None },
                group: None,
                action: TaskAction::Nothing,
                held,
                by_rule: false,
                tag: 0,
            }),
        }
    }
}

/// The kernel's share of the work.
pub struct Inside {
    maps: Arc<Maps>,
    /// Calls that allocate are refused by a hook that was seen to refuse.
    pub denies: bool,
    /// Kernel memory is counted live, and refused.
    pub counts: bool,
    groups: Vec<Option<ToldGroup>>,
    processes: Vec<Option<ToldProcess>>,
    /// So many of them the kernel was told a line of.
    told: u32,
    /// Who of the rows is protected, and known as such; pid 0: nobody.
    exempt: Vec<ProcessId>,
    /// Who was found protected by sweeps.
    swept: swept::Found,
    /// What the kernel did by itself, the youngest last, and with which signal.
    done: Vec<(EventKind, ProcessId, u8)>,
    /// Kills it was allowed to make and has not answered for: see `kills.rs`.
    allowed: i64,
    /// Kills that it has made and of which no event has come yet, and since when.
    unheard: i64,
    unheard_since: Time,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").field("denies", &self.denies).finish_non_exhaustive()
    }
}

impl Inside {
    /// What the kernel is told by.
    pub fn maps(&self) -> Arc<Maps> {
        Arc::clone(&self.maps)
    }

    /// Room for so many rows, as in the snapshot.
    pub fn new(maps: Arc<Maps>, groups: u32, processes: u32) -> Self {
        Self {
            maps,
            denies: false,
            counts: false,
            groups: vec![None; groups as usize],
            processes: vec![None; processes as usize],
            told: 0,
            exempt: vec![NOBODY; processes as usize],
            swept: swept::Found::new(),
            done: Vec::with_capacity(REMEMBERED),
            allowed: 0,
            unheard: 0,
            unheard_since: Time(0),
        }
    }

    /// These are attached, and seen to work.
    pub fn in_force(&mut self, hooks: Hooks) {
        (self.denies, self.counts) = (hooks.has(Hook::Deny), hooks.has(Hook::Kernel));
    }

    /// The programs go on acting for a lease from now.
    pub fn renew(&self, now: Time) {
        self.maps.renew(now);
    }

    /// Whether anything was told, so that the lease matters.
    pub fn is_told(&self) -> bool {
        self.told > 0
    }

    /// Never refused anything, whatever its group is told and whatever becomes of the never-list.
    pub fn exempt(&self, who: ProcessId) {
        // No room: the sweep before each order comes to it again.
        let _ = self.maps.exempt(who, ExemptBy::Always, true);
    }

    /// Who of this row is protected; `None`: nobody, or nobody any more.
    pub fn set_exempt(&mut self, slot: ProcessSlot, who: Option<ProcessId>) {
        let who = who.unwrap_or(NOBODY);
        let Some(place) = self.exempt.get_mut(slot.0 as usize).filter(|place| **place != who) else { return };
        let former = std::mem::replace(place, NOBODY);
        if former != NOBODY {
            let _ = self.maps.exempt(former, ExemptBy::Row, false);
        }
        if who != NOBODY && self.maps.exempt(who, ExemptBy::Row, true).is_ok() {
            *place = who;
        }
    }

    /// Puts down what the kernel says it did; `slot`: the row of the process, if there is one.
    pub fn hear(&mut self, event: &Event, slot: Option<ProcessSlot>) {
        if event.kind == EventKind::CrossedOwn {
            self.distrust(slot, event.who);
        }
        if !matches!(event.kind, EventKind::Signalled | EventKind::Killed) {
            return;
        }
        if self.done.len() == REMEMBERED {
            self.done.remove(0);
        }
        self.done.push((event.kind, event.who, event.signal));
        self.unheard -= i64::from(event.kind == EventKind::Killed);
    }

    /// The line at which a group meets a refusal, and the `memory.high` that stands in for the kernel's. A row that is gone
    /// is forgotten by the kernel too.
    pub fn stand_group(
        &mut self,
        slot: GroupSlot,
        row: &Group,
        level: u32,
        standing: GroupStanding,
        high: Option<Limit>,
    ) {
        let Some(place) = self.groups.get_mut(slot.0 as usize) else { return };
        if let Some(other) = place.take_if(|told| told.id != row.id || row.gone)
            && other.told.is_some()
        {
            self.told -= 1;
            let _ = self.maps.clear_group(other.id);
        }
        if row.gone || (place.is_none() && standing == GroupStanding::default() && high.is_none()) {
            return;
        }
        let told = place.get_or_insert(ToldGroup::new(row.id, level));
        (told.standing, told.high) = (standing, high);
        // What cannot be told is enforced from outside, as everywhere else.
        let _ = tell_group(&self.maps, told, &mut self.told);
    }

    /// What a process meets; `None`: nothing of its own.
    pub fn stand_process(&mut self, slot: ProcessSlot, who: ProcessId, standing: Option<Standing>) {
        let Some(place) = self.processes.get_mut(slot.0 as usize) else { return };
        forget_other(place, who, &mut self.told);
        if place.is_none() && standing.is_none() {
            // Of what its parent had when it was born nothing is its own.
            disinherit(&self.maps, who);
        }
        // A child has what its parent has from its birth on, and may have met it before it got a row.
        let met = self.done.iter().any(|(kind, whom, _)| (*kind, *whom) == (EventKind::Signalled, who));
        let told = place.get_or_insert(ToldProcess {
            standing,
            disarmed: met,
            right: false,
            ..ToldProcess::new(who)
        });
        let _ = tell_process(&self.maps, told, &mut self.told, |told| {
            told.disarmed &= told.standing.map(|s| s.serial) == standing.map(|s| s.serial);
            told.standing = standing;
        });
    }

    /// A process is gone.
    pub fn forget_process(&mut self, slot: ProcessSlot) {
        if let Some(place) = self.processes.get_mut(slot.0 as usize) {
            self.told -= u32::from(place.take().is_some_and(|told| told.has));
        }
        self.set_exempt(slot, None);
    }

    /// Refuses this memory to the target until the episode ends; kernel memory to groups only.
    pub fn hold(&mut self, target: Target, of: Of, level: u32, episode: EpisodeId) -> Result<(), Errno> {
        match target {
            Target::Group(id, slot) => {
                let place = self.groups.get_mut(slot.0 as usize).ok_or(Errno::NOSPC)?;
                let other = place.take_if(|told| told.id != id);
                self.told -= u32::from(other.is_some_and(|told| told.told.is_some()));
                let told = place.get_or_insert(ToldGroup::new(id, level));
                match of {
                    Of::Memory => told.holders.add(episode),
                    Of::KernelMemory => told.kernel_holders.add(episode),
                }
                tell_group(&self.maps, told, &mut self.told)
            }
            Target::Host => Err(Errno::OPNOTSUPP),
            Target::Process(..) if of == Of::KernelMemory => Err(Errno::OPNOTSUPP),
            Target::Process(who, slot) => {
                let place = self.processes.get_mut(slot.0 as usize).ok_or(Errno::NOSPC)?;
                forget_other(place, who, &mut self.told);
                let told = place.get_or_insert(ToldProcess::new(who));
                tell_process(&self.maps, told, &mut self.told, |told| told.holders.add(episode))
            }
        }
    }

    /// Ends an episode; what stands beforehand goes on standing.
    pub fn release(&mut self, episode: EpisodeId) {
        for told in self.groups.iter_mut().flatten() {
            if told.holders.remove(episode) | told.kernel_holders.remove(episode) {
                let _ = tell_group(&self.maps, told, &mut self.told);
            }
        }
        for told in self.processes.iter_mut().flatten().filter(|told| told.holders.has(episode)) {
            let _ = tell_process(&self.maps, told, &mut self.told, |told| {
                told.holders.remove(episode);
            });
        }
    }

    /// The kernel is to send the signal of this process no more: it is sent from here. What it has sent until now is in its events.
    pub fn disarm(&mut self, slot: ProcessSlot, who: ProcessId) {
        self.set_disarmed(slot, who, true);
    }

    /// The episode of this process is over: the next crossing is met by the kernel again.
    pub fn arm(&mut self, slot: ProcessSlot, who: ProcessId) {
        self.set_disarmed(slot, who, false);
    }

    fn set_disarmed(&mut self, slot: ProcessSlot, who: ProcessId, disarmed: bool) {
        if let Some(Some(told)) = self.processes.get_mut(slot.0 as usize)
            && told.who == who
        {
            let _ = tell_process(&self.maps, told, &mut self.told, |told| told.disarmed = disarmed);
        }
    }

    /// Whether the kernel did this to that process, since it was last asked.
    pub fn took(&mut self, kind: EventKind, who: ProcessId, signal: u8) -> bool {
        let before = self.done.len();
        self.done.retain(|done| *done != (kind, who, signal));
        self.done.len() < before
    }

    /// It is told of a process that should have met more: the kernel lays down what it is told when a process becomes another program. It is told anew.
    fn distrust(&mut self, slot: Option<ProcessSlot>, who: ProcessId) {
        if let Some(slot) = slot
            && let Some(Some(told)) = self.processes.get_mut(slot.0 as usize)
            && told.who == who
        {
            told.right = false;
        }
    }

    /// Other rules are in force. What the rows stand under is told anew when each has been looked at; [`Inside::end_generation`] then.
    pub fn begin_generation(&mut self) {
        self.maps.begin_generation();
        for told in self.processes.iter_mut().flatten() {
            told.right &= !told.standing.is_some_and(|standing| standing.by_rule());
        }
    }

    /// Every row was looked at since: what was told before it counts no more, above all what children have that nobody knows of.
    pub fn end_generation(&self) {
        self.maps.end_generation();
    }

    /// Takes everything back, in the end or when memgov stops enforcing. What children have that nobody knows of ends with the lease.
    pub fn clear(&mut self) {
        self.maps.end_lease();
        self.told = 0;
        for told in self.groups.iter_mut().filter_map(Option::take) {
            let _ = self.maps.clear_group(told.id);
        }
        for told in self.processes.iter_mut().filter_map(Option::take) {
            if let Ok(process) = PidFd::open(told.who) {
                let _ = self.maps.clear_process(process.as_fd());
            }
        }
    }
}

fn disinherit(maps: &Maps, who: ProcessId) {
    if let Ok(process) = PidFd::open(who)
        && maps.process(process.as_fd()).is_some()
    {
        let _ = maps.clear_process(process.as_fd());
    }
}

/// Drops what is known of a process that had this place before; its entry has died with it.
fn forget_other(place: &mut Option<ToldProcess>, who: ProcessId, count: &mut u32) {
    let other = place.take_if(|told| told.who != who);
    *count -= u32::from(other.is_some_and(|told| told.has));
}

fn tell_group(maps: &Maps, told: &mut ToldGroup, count: &mut u32) -> Result<(), Errno> {
    let held = told.holders.any();
    let GroupStanding { deny, tell, kernel_deny, kernel_tell } = told.standing;
    let tell = deny.into_iter().chain(tell).min();
    let deny = if held { Some(Bytes(0)) } else { deny };
    let kernel_tell = kernel_deny.into_iter().chain(kernel_tell).min();
    let kernel = if told.kernel_holders.any() { Some(Bytes(0)) } else { kernel_deny };
    let usage = deny.is_some() || tell.is_some() || told.high.is_some();
    let wanted = (usage || kernel.is_some() || kernel_tell.is_some()).then_some(GroupLimit {
        level: told.level,
        deny,
        tell,
        kernel,
        kernel_tell,
        high: told.high,
        tag: 0,
    });
    if wanted == told.told {
        return Ok(());
    }
    match &wanted {
        Some(limit) => maps.set_group(told.id, limit)?,
        None => maps.clear_group(told.id)?,
    }
    *count = *count + u32::from(wanted.is_some()) - u32::from(told.told.is_some());
    told.told = wanted;
    Ok(())
}

/// Changes what is known of a process, and tells the kernel if something else follows from it.
fn tell_process(
    maps: &Maps,
    told: &mut ToldProcess,
    count: &mut u32,
    change: impl FnOnce(&mut ToldProcess),
) -> Result<(), Errno> {
    let before = told.wanted();
    change(told);
    let wanted = told.wanted();
    if told.right && wanted == before {
        return Ok(());
    }
    told.right = false;
    if wanted.is_some() || told.has {
        let process = PidFd::open(told.who)?;
        match &wanted {
            Some(limit) => maps.set_process(process.as_fd(), limit)?,
            None => maps.clear_process(process.as_fd())?,
        }
    }
    *count = *count + u32::from(wanted.is_some()) - u32::from(told.has);
    (told.has, told.right) = (wanted.is_some(), true);
    Ok(())
}

fn task_action(action: StandingAction) -> TaskAction {
    match action {
        StandingAction::Deny => TaskAction::Deny,
        StandingAction::Signal(signal) => TaskAction::Signal { signal },
        StandingAction::Kill => TaskAction::Kill,
        StandingAction::Tell => TaskAction::Tell,
    }
}
