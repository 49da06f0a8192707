//! The tier as one value, and its three parts.

use super::attach::Attachments;
use super::events::Events;
use super::load::{self, Failure, MapFds, Source};
use super::maps::Maps;
use super::programs::programs_of_life;
use super::raw::{Ring, Shared, TypedMap};
use super::record::Control;
use super::table::Table;
use super::{Absent, Error, Event, HookStatus, Hooks, Lost, Options, Parts};
use crate::kernel::sys;
use libbpf_rs::{ErrorKind, MapCore, Object};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

/// The tier. Dropping it detaches everything.
pub struct Tier {
    maps: Arc<Maps>,
    events: Events,
    attachments: Attachments,
}

/// At least 100 ms between two records of denials of one group or process, or of its crossings.
const EVENT_GAP_NS: u64 = 100_000_000;

impl Tier {
    /// Makes the maps and loads the programs that follow limits; attaches nothing. `Ok(Err(..))`: this kernel, or these privileges, cannot.
    /// `Err`: it should have worked. Takes milliseconds.
    pub fn load(options: &Options) -> Result<Result<Self, Absent>, Error> {
        if let Some(absent) = load::hopeless() {
            return Ok(Err(absent));
        }
        match load_life(options) {
            Ok(life) => Self::over(life, options).map(Ok),
            Err(failure) => match failure.kind {
                ErrorKind::PermissionDenied => Ok(Err(load::forbidden(&failure))),
                // A kernel function or type that is not there, or a kernel that knows no such program.
                ErrorKind::NotFound | ErrorKind::Unsupported => Ok(Err(Absent {
                    reason: format!("this kernel lacks what is needed: {}", failure.brief()),
                })),
                _ => Err(failure.whole()),
            },
        }
    }

    fn over(life: Object, options: &Options) -> Result<Self, Error> {
        let fds = MapFds::of(&life)?;
        let ns_per_tick = 1_000_000_000 / sys::clock_ticks().max(1);
        let maps = Arc::new(Maps {
            control: shared(&life, ".data.control", 1)?,
            slots: shared(&life, "slots", options.max_groups as usize)?,
            groups: typed(&life, "groups")?,
            tasks: typed(&life, "tasks")?,
            squeezed: typed(&life, "squeezed")?,
            socket_refusals: typed(&life, "socket_refusals")?,
            exempt: typed(&life, "exempt")?,
            exempt_files: typed(&life, "exempt_files")?,
            files: Mutex::default(),
            lease: options.lease,
            telling: AtomicU32::new(0),
            table: Mutex::new(Table::new(options.max_groups)),
        });
        prepare(maps.control(), ns_per_tick);
        maps.protect(&options.protected_names, &options.exempt_files)
            .map_err(|errno| Error(format!("naming executables that are exempt: {errno}")))?;
        let size = map(&life, "events")?.max_entries() as usize;
        let ring = Ring::map(descriptor(&life, "events")?, size)
            .map_err(|errno| Error(format!("mapping the ring of events: {errno}")))?;
        let stats = descriptor(&life, "stats")?;
        let attachments = Attachments::new(life, fds, stats, Arc::clone(&maps), options.avoid)?;
        Ok(Self { maps, events: Events { ring, ns_per_tick }, attachments })
    }

    /// For as many threads.
    pub fn into_parts(self) -> Parts {
        Parts { maps: self.maps, events: self.events, attachments: self.attachments }
    }
    /// What whoever acts needs.
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }
    /// See [`Attachments::require`].
    pub fn require(&mut self, hooks: Hooks) -> Result<(), Error> {
        self.attachments.require(hooks)
    }
    /// See [`Attachments::in_force`].
    pub fn in_force(&self) -> Hooks {
        self.attachments.in_force()
    }
    /// See [`Attachments::hooks`].
    pub fn hooks(&self) -> Vec<HookStatus> {
        self.attachments.hooks()
    }
    /// See [`Attachments::lost`].
    pub fn lost(&self) -> Lost {
        self.attachments.lost()
    }
    /// See [`Events::fd`].
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.fd()
    }
    /// See [`Events::drain`].
    pub fn drain(&mut self, f: &mut dyn FnMut(&Event) -> bool) {
        self.events.drain(f);
    }
}

/// The calls of whoever acts.
impl std::ops::Deref for Tier {
    type Target = Maps;

    fn deref(&self) -> &Maps {
        &self.maps
    }
}

fn load_life(options: &Options) -> Result<Object, Failure> {
    load::listening(|| {
        let mut object = load::open(Source::Life)?;
        for mut map in object.maps_mut() {
            if map.name() == "groups" || map.name() == "slots" {
                map.set_max_entries(options.max_groups.max(1))?;
            }
            if map.name() == "exempt" {
                map.set_max_entries(options.max_exempt.max(1))?;
            }
        }
        let names = programs_of_life();
        for mut program in object.progs_mut() {
            let wanted = names.iter().any(|name| program.name() == *name);
            program.set_autoload(wanted);
        }
        object.load()
    })
}

fn prepare(control: &Control, ns_per_tick: u64) {
    control.event_gap_ns.store(EVENT_GAP_NS, Relaxed);
    control.ns_per_tick.store(ns_per_tick, Relaxed);
    control.page_size.store(u32::try_from(sys::page_size()).unwrap_or(4096), Relaxed);
}

fn map<'o>(object: &'o Object, name: &str) -> Result<libbpf_rs::Map<'o>, Error> {
    object
        .maps()
        .find(|map| map.name() == name)
        .ok_or_else(|| Error(format!("the programs have no map {name}")))
}

fn descriptor(object: &Object, name: &str) -> Result<OwnedFd, Error> {
    map(object, name)?
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Error(format!("keeping map {name}: {error}")))
}

fn typed<K: Copy, V: Copy>(object: &Object, name: &str) -> Result<TypedMap<K, V>, Error> {
    let map = map(object, name)?;
    TypedMap::new(descriptor(object, name)?, map.key_size(), map.value_size())
        .ok_or_else(|| Error(format!("map {name} has keys and values of other sizes than record.rs")))
}

fn shared<T>(object: &Object, name: &str, count: usize) -> Result<Shared<T>, Error> {
    let map = map(object, name)?;
    Shared::map(map.as_fd(), map.value_size(), count)
        .map_err(|errno| Error(format!("mapping {name}: {errno}")))
}
