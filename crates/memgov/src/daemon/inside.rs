//! Enforcement inside the kernel, from the daemon's side: loaded at the start, attached while some rule needs it and by a
//! thread that may wait, told of rows as they change.

use std::fs;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use memgov_decide::governor::{Governor, Stands};
use memgov_decide::policy::ProcessMatch;
use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessSlot, Snapshot};
use rustix::fd::AsFd as _;

use super::exemptions::{self, Pinned};
use super::queue::{Asker, Request};
use super::say;
use crate::act::{GroupDirs as _, Inside, SWEPT};
use crate::bpf::{self, Attachments, Events, ExemptFile, GroupPass, Hook, Hooks, How, Maps};
use crate::config::{Settings, Tier};
use crate::kernel::{Errno, Layout, proc};
use crate::observe::Observer;
use crate::serve::wire;

/// What was loaded, in the parts that different threads have; the first two are the loop's.
pub(super) type Loaded = (Option<Inside>, Option<Events>, Attached);

/// Loads the programs if the tier asked for wants them; `own` are never refused anything.
///
/// # Errors
/// The tier is `bpf`, and it cannot be had.
pub(super) fn load(
    tier: Tier,
    settings: &Settings,
    never: &[ProcessMatch],
    own: &[u32],
    dry_run: bool,
) -> anyhow::Result<Loaded> {
    let why = match try_load(tier, settings, never) {
        Ok((bpf::Parts { maps, events, attachments }, pins)) => {
            let inside = Inside::new(Arc::clone(&maps), settings.max_groups, settings.max_processes);
            exempt(&inside, own);
            let attached = Attached {
                attachments: Mutex::new(Some(attachments)),
                maps: Some(maps),
                known: Mutex::default(),
                pins: Mutex::new(pins),
                why: None,
            };
            return Ok((Some(inside), Some(events), attached));
        }
        Err(why) => why,
    };
    if tier == Tier::Bpf && !dry_run {
        anyhow::bail!(
            "tier `bpf`, but nothing can be enforced inside this kernel: {why}\n\
             with tier `auto` memgov enforces from outside where that is so; `memgov doctor` says more"
        );
    }
    let attached = Attached {
        attachments: Mutex::new(None),
        maps: None,
        known: Mutex::default(),
        pins: Mutex::default(),
        why: Some(why),
    };
    Ok((None, None, attached))
}

fn try_load(
    tier: Tier,
    settings: &Settings,
    never: &[ProcessMatch],
) -> Result<(bpf::Parts, Vec<Pinned>), String> {
    if tier == Tier::Portable {
        return Err("the tier is `portable`".into());
    }
    let files = exemptions::files(never);
    let options = bpf::Options {
        max_groups: settings.max_groups,
        lease: settings.lease,
        protected_names: exemptions::names(never),
        exempt_files: files.iter().map(|(file, _)| *file).collect(),
        max_exempt: settings.max_processes.saturating_add(u32::try_from(SWEPT).unwrap_or(u32::MAX)),
        ..bpf::Options::default()
    };
    match bpf::Tier::load(&options) {
        Ok(Ok(loaded)) => Ok((loaded.into_parts(), files)),
        Ok(Err(absent)) => Err(absent.to_string()),
        Err(error) => {
            // Not a lack of this kernel or these privileges: worth a line of its own.
            say(&format!("memgov: enforcement inside the kernel: {error}"));
            Err(error.to_string())
        }
    }
}

/// So many records for each row there can be: a host has groups that no rule concerns.
const RECORDS_A_ROW: u32 = 2;

/// Has the observer read crowds of groups by an iterator, where there can be one. That there is none changes no decision.
pub(super) fn read_in_one_pass(observer: &mut Observer, max_groups: u32) {
    let capacity = max_groups.saturating_mul(RECORDS_A_ROW);
    let pass = fs::File::open(&observer.layout().memory.mount)
        .map_err(|error| error.to_string())
        .and_then(|root| GroupPass::load(root.as_fd(), capacity).map_err(|absent| absent.to_string()));
    match pass {
        Ok(pass) => observer.read_in_one_pass(pass),
        Err(why) => say(&format!("memgov: groups are read by their files alone: {why}")),
    }
}

/// Keeps memgov and those it was started from out of it.
pub(super) fn exempt(inside: &Inside, pids: &[u32]) {
    let mut buffer = [0; proc::STAT_BUFFER];
    for &pid in pids {
        if let Ok(who) = proc::identify(pid, &mut buffer) {
            inside.exempt(who);
        }
    }
}

/// The programs that serve what is asked for.
pub(super) fn hooks(stands: Stands) -> Hooks {
    let wanted = [
        (stands.deny, Hook::Deny),
        (stands.usage, Hook::Charge),
        (stands.rss, Hook::Rss),
        (stands.kernel, Hook::Kernel),
        (stands.sockets, Hook::Sockets),
        (stands.shortage, Hook::Oom),
    ];
    let hooks: Hooks = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, hook)| hook).collect();
    // Whoever is governed wants to know what the kernel took besides; it costs nothing until memory is short.
    if hooks.is_empty() { hooks } else { hooks.with(Hook::Oom) }
}

/// Tells the kernel of rows that this tick has read anew.
pub(super) fn tell(inside: &mut Inside, observer: &Observer, governor: &Governor, snap: &mut Snapshot) {
    for i in 0..snap.fresh_groups.len() {
        let slot = snap.fresh_groups[i];
        tell_group(inside, observer.layout(), governor, snap, slot);
        let now = snap.at;
        if let Some(row) = snap.groups.get_mut(slot.0).filter(|row| !row.gone)
            && let Some(dir) = observer.dir(slot)
        {
            row.kernel_watched = inside.count_kernel(slot, row.id, dir, now);
        }
    }
    for &slot in &snap.fresh_processes {
        tell_process(inside, governor, snap, slot);
    }
}

fn tell_group(inside: &mut Inside, layout: &Layout, governor: &Governor, snap: &Snapshot, slot: GroupSlot) {
    let Some(row) = snap.group(slot).filter(|row| &*row.path != b"/") else { return };
    let high = governor.virtual_high(&row.path);
    inside.stand_group(slot, row, layout.level_of(&row.path), governor.standing_of_group(slot, snap), high);
}

fn tell_process(inside: &mut Inside, governor: &Governor, snap: &Snapshot, slot: ProcessSlot) {
    match snap.process(slot) {
        Some(row) if !row.gone => {
            inside.set_exempt(slot, governor.protects(slot, snap).then_some(row.id));
            inside.stand_process(slot, row.id, governor.standing_of_process(slot, snap));
        }
        _ => inside.forget_process(slot),
    }
}

/// How long somebody who asks what is attached waits while that changes; then he is told what was.
const CHANGING: Duration = Duration::from_secs(1);
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// What is attached, for whoever asks. Attaching takes its time (natively a fraction of a second, in an emulated machine many seconds), and is done
/// with `attachments` locked: so nobody who is to be answered waits for that.
pub(super) struct Attached {
    pub attachments: Mutex<Option<Attachments>>,
    /// What the programs read.
    maps: Option<Arc<Maps>>,
    /// What was last seen of `attachments`.
    known: Mutex<Known>,
    /// Executables that are exempt, held open: the number of a file that is gone is given to another, but not while it is open.
    pins: Mutex<Vec<Pinned>>,
    /// Why there is none.
    pub why: Option<String>,
}

/// See [`Attached::known`].
#[derive(Clone, Default)]
struct Known {
    in_force: Hooks,
    status: wire::TierStatus,
}

impl Known {
    fn of(attachments: &Attachments) -> Self {
        Self { in_force: attachments.in_force(), status: status_of(attachments) }
    }
}

impl Attached {
    /// Whether anything can be attached at all.
    pub fn is_there(&self) -> bool {
        self.why.is_none()
    }

    /// Another never-list.
    pub fn protect(&self, never: &[ProcessMatch]) {
        self.protect_files(never, exemptions::files(never));
    }

    /// The same never-list, whose executables may be other files by now. Who still runs a former one stays exempt.
    pub fn follow(&self, never: &[ProcessMatch]) {
        let files = exemptions::files(never);
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(files) = exemptions::renewed(files, &mut pins) else { return };
        drop(pins);
        self.protect_files(never, files);
    }

    fn protect_files(&self, never: &[ProcessMatch], pins: Vec<Pinned>) {
        let Some(maps) = &self.maps else { return };
        let files: Vec<ExemptFile> = pins.iter().map(|(file, _)| *file).collect();
        let told = maps.protect(&exemptions::names(never), &files);
        // The former ones go when the kernel knows them no more.
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = pins;
        if let Err(errno) = told {
            say(&format!(
                "memgov: not all of the never-list could be told to the kernel ({errno}); the rest is exempted process by process"
            ));
        }
    }

    /// Attaches what is needed and detaches what is not. What of it is in force now.
    pub fn require(&self, hooks: Hooks) -> Hooks {
        self.require_what(|| Some(hooks)).unwrap_or_default()
    }

    /// The same; what is needed is asked for when it is this caller's turn. `None`: it is not known, and nothing was changed.
    fn require_what(&self, needed: impl FnOnce() -> Option<Hooks>) -> Option<Hooks> {
        let mut attachments = self.attachments.lock().unwrap_or_else(PoisonError::into_inner);
        let attachments = attachments.as_mut()?;
        let hooks = needed()?;
        if let Err(error) = attachments.require(hooks) {
            say(&format!("memgov: enforcement inside the kernel: {error}; it is done from outside"));
        }
        for hook in &attachments.hooks() {
            if let (Some(set), Some(why)) = (hook.set, &hook.unavailable)
                && hooks.has(set)
            {
                say(&format!("memgov: {}: {why}", hook.name));
            }
        }
        let known = Known::of(attachments);
        let in_force = known.in_force;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Some(in_force)
    }

    /// Has the kernel do by itself what the loop needs now, on a thread of its own. Whoever asks waits for it, but no longer than `patience`: until
    /// it is attached everything is enforced from outside.
    pub fn follow_need(self: &Arc<Self>, asker: &Asker, patience: Duration) {
        let (attached, asker) = (Arc::clone(self), asker.clone());
        let (done, wait) = sync_channel(1);
        let attach = move || {
            let needed = || asker.ask(|reply| Request::Needed { reply }).ok();
            if let Some(hooks) = attached.require_what(needed) {
                let _ = asker.ask(|reply| Request::Attached { hooks, reply });
            }
            let _ = done.try_send(());
        };
        match std::thread::Builder::new().name("memgov-attach".into()).spawn(attach) {
            Ok(_) => drop(wait.recv_timeout(patience)),
            Err(error) => say(&format!("memgov: starting a thread that attaches programs: {error}")),
        }
    }

    /// Looks at what is attached, or at what was last known of it while that changes; and whether it does.
    fn look(&self) -> (Option<Known>, bool) {
        let begin = Instant::now();
        loop {
            let attachments = match self.attachments.try_lock() {
                Ok(attachments) => attachments,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if begin.elapsed() < CHANGING => {
                    std::thread::sleep(TRY_AGAIN);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    return (Some(self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()), true);
                }
            };
            return (attachments.as_ref().map(Known::of), false);
        }
    }

    /// What is enforced inside the kernel at this moment.
    pub fn in_force(&self) -> Hooks {
        self.look().0.unwrap_or_default().in_force
    }

    /// How often the kernel refused a charge for a group's sockets; `None`: that is not counted now.
    pub fn socket_refusals(&self, group: GroupId) -> Result<Option<u64>, Errno> {
        match &self.maps {
            Some(maps) if self.in_force().has(Hook::Sockets) => maps.socket_refusals_of(group).map(Some),
            _ => Ok(None),
        }
    }

    /// For `status`.
    pub fn status(&self, dry_run: bool) -> wire::TierStatus {
        let (known, changing) = self.look();
        let Some(known) = known else {
            return wire::TierStatus {
                name: Tier::Portable.name().into(),
                why: self.why.clone(),
                ..wire::TierStatus::default()
            };
        };
        let why = match (dry_run, changing) {
            (true, _) => Some("dry run: nothing is attached".into()),
            (_, true) => Some("programs are being attached or detached".into()),
            _ => None,
        };
        wire::TierStatus { name: Tier::Bpf.name().into(), why, ..known.status }
    }
}

fn status_of(attachments: &Attachments) -> wire::TierStatus {
    let hooks = attachments.hooks();
    let missed_runs = hooks.iter().map(|hook| hook.missed).sum();
    let hooks = hooks.into_iter().filter_map(|hook| {
        Some(wire::HookStatus {
            name: hook.name.into(),
            how: hook.how?.to_string(),
            proven: hook.proven || !matches!(hook.how, Some(How::FmodRet | How::Lsm)),
            calls: hook.calls,
            acted: hook.acted,
            run_ns: hook.run.map(|(ns, _)| ns),
            runs: hook.run.map(|(_, runs)| runs),
        })
    });
    let (hooks, lost) = (hooks.collect(), attachments.lost());
    wire::TierStatus {
        hooks,
        lost_events: lost.events,
        lost_children: lost.children,
        missed_runs,
        ..wire::TierStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_has_its_hook() {
        let stands = Stands { deny: true, rss: true, ..Stands::default() };
        let hooks = hooks(stands);
        assert!(hooks.has(Hook::Deny) && hooks.has(Hook::Rss) && !hooks.has(Hook::Charge));
        assert!(super::hooks(Stands::default()).is_empty());
    }
}
