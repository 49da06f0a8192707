//! What is attached: sets of programs, on and off. Loading and attaching take milliseconds, detaching may wait for the kernel: not for the loop.
//! A program stays loaded once it was, so that the next time is quick; links are what makes it run, and they end with this value.

use super::load::{Failure, MapFds, Source};
use super::maps::Maps;
use super::programs::{PROGRAMS, Program, programs_of, programs_of_life};
use super::raw;
use super::record::{HookStats, StatId};
use super::selftest::prove;
use super::{Error, Hook, HookStatus, Hooks, How, Lost};
use libbpf_rs::{Link, Object};
use rustix::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// One file of each object.
const OBJECTS: [Source; 3] = [Source::Life, Source::Deny, Source::Counter];

/// What became of a program so far.
#[derive(Default)]
struct State {
    link: Option<Link>,
    /// The way that worked, as a position in `ways`.
    way: Option<usize>,
    proven: bool,
    unavailable: Option<String>,
}

/// Programs in the kernel, whether attached or not.
struct Loaded {
    object: Object,
    names: Vec<&'static str>,
}

/// The programs. Dropping it detaches all of them.
pub struct Attachments {
    /// Their links are dropped before the objects they come from.
    states: [State; PROGRAMS.len()],
    loaded: Vec<Loaded>,
    fds: MapFds,
    stats: OwnedFd,
    cpus: usize,
    maps: Arc<Maps>,
    avoid: Option<How>,
}

impl Attachments {
    pub(super) fn new(
        life: Object,
        fds: MapFds,
        stats: OwnedFd,
        maps: Arc<Maps>,
        avoid: Option<How>,
    ) -> Result<Self, Error> {
        let cpus =
            libbpf_rs::num_possible_cpus().map_err(|error| Error(format!("counting processors: {error}")))?;
        let states = std::array::from_fn(|_| State::default());
        let loaded = vec![Loaded { object: life, names: programs_of_life() }];
        Ok(Self { states, loaded, fds, stats, cpus, maps, avoid })
    }

    /// What the programs read.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Attaches these sets and detaches all others. A hook that this kernel does not have, or that is not proven, is left out and says why
    /// in [`Attachments::hooks`]; [`Attachments::in_force`] says what is there.
    pub fn require(&mut self, hooks: Hooks) -> Result<(), Error> {
        let wanted = |program: &Program| program.set.map_or(hooks.any_limits(), |set| hooks.has(set));
        for source in OBJECTS {
            self.load_together(source, wanted);
        }
        for (index, program) in PROGRAMS.iter().enumerate() {
            if wanted(program) && self.states[index].link.is_none() {
                self.attach(index)?;
            }
        }
        // Last attached, first detached: limits follow their processes to the end.
        for (program, state) in PROGRAMS.iter().zip(&mut self.states).rev() {
            if !wanted(program) && state.link.take().is_some() && program.source == Source::Counter {
                self.maps.forget_kernel();
            }
        }
        Ok(())
    }

    /// The sets of which every program is attached and, where it refuses, proven.
    pub fn in_force(&self) -> Hooks {
        let whole = |hook: Hook| {
            let mut programs =
                PROGRAMS.iter().zip(&self.states).filter(|(program, _)| program.set == Some(hook));
            programs.clone().next().is_some()
                && programs
                    .all(|(program, state)| state.link.is_some() && (program.proof.is_none() || state.proven))
        };
        Hook::ALL.into_iter().filter(|hook| whole(*hook)).collect()
    }

    /// Each program: how it is attached, what it did, what it cost. Allocates.
    pub fn hooks(&self) -> Vec<HookStatus> {
        PROGRAMS.iter().zip(&self.states).map(|(program, state)| self.status(program, state)).collect()
    }

    /// What was lost.
    pub fn lost(&self) -> Lost {
        Lost { events: self.sum(StatId::LostEvents).calls, children: self.sum(StatId::LostChildren).calls }
    }

    fn status(&self, program: &Program, state: &State) -> HookStatus {
        let sum = self.sum(program.stat);
        let info = self.info(program, state);
        HookStatus {
            name: program.name,
            set: program.set,
            how: state.link.is_some().then(|| state.way.map(|way| program.ways[way].0)).flatten(),
            proven: state.proven && state.link.is_some(),
            unavailable: state.unavailable.clone(),
            calls: sum.calls,
            acted: sum.acted,
            run: info.map(|info| info.run),
            missed: info.map_or(0, |info| info.missed),
            verified: info.map(|info| info.verified),
        }
    }

    /// `None` while it is not loaded.
    fn info(&self, program: &Program, state: &State) -> Option<raw::ProgramInfo> {
        let name = program.ways[state.way?].1;
        let object = &self.loaded.iter().find(|loaded| loaded.names.contains(&name))?.object;
        let loaded = object.progs().find(|loaded| loaded.name() == name)?;
        raw::program_info(loaded.as_fd()).ok()
    }

    fn sum(&self, stat: StatId) -> HookStats {
        let each: Vec<HookStats> =
            raw::lookup_on_every_cpu(self.stats.as_fd(), stat as u32, self.cpus).unwrap_or_default();
        each.iter().fold(HookStats::default(), |sum, cpu| HookStats {
            calls: sum.calls + cpu.calls,
            acted: sum.acted + cpu.acted,
        })
    }

    /// Tries the ways in their order, the one that worked before first.
    fn attach(&mut self, index: usize) -> Result<(), Error> {
        let program = &PROGRAMS[index];
        let known = self.states[index].way;
        let mut reasons = Vec::new();
        for way in known.into_iter().chain((0..program.ways.len()).filter(|way| Some(*way) != known)) {
            let how = program.ways[way].0;
            if self.avoid == Some(how) {
                continue;
            }
            match self.attach_way(index, way) {
                Ok(()) => {
                    self.states[index].unavailable = None;
                    return Ok(());
                }
                Err(why) => reasons.push(format!("{how}: {why}")),
            }
        }
        let state = &mut self.states[index];
        (state.link, state.way, state.proven) = (None, None, false);
        let reason = format!("{} cannot be used: {}", program.name, reasons.join("; "));
        if program.set.is_none() {
            // Without these a limit would be lost on the way; nothing may be promised then.
            return Err(Error(reason));
        }
        state.unavailable = Some(reason);
        Ok(())
    }

    /// Loads at once what is going to be attached of the object that this file is in: for each load libbpf reads all the kernel's types, and that takes longer than the programs do. If one
    /// of them cannot be loaded here none is, and [`Attachments::object_with`] finds out which.
    fn load_together(&mut self, source: Source, wanted: impl Fn(&Program) -> bool) {
        let preferred = |program: &Program| program.ways.iter().find(|(how, _)| self.avoid != Some(*how));
        let names: Vec<_> = PROGRAMS
            .iter()
            .zip(&self.states)
            .filter(|(program, _)| program.source.is_with(source) && wanted(program))
            .filter(|(_, state)| state.link.is_none() && state.way.is_none())
            .filter_map(|(program, _)| preferred(program).map(|(_, name)| *name))
            .filter(|name| !self.loaded.iter().any(|loaded| loaded.names.contains(name)))
            .collect();
        if names.len() > 1
            && let Ok(loaded) = self.load(source, names)
        {
            self.loaded.push(loaded);
        }
    }

    /// The object with this program, loaded if it is not yet: with all of its file that are attached the same way, or alone if one of the others cannot be
    /// loaded here.
    fn object_with(&mut self, source: Source, how: How, name: &'static str) -> Result<&mut Object, String> {
        let known = self.loaded.iter().position(|loaded| loaded.names.contains(&name));
        let at = match known {
            Some(at) => at,
            None => {
                let together = programs_of(source, how);
                let loaded = self.load(source, together).or_else(|_| self.load(source, vec![name]));
                self.loaded.push(loaded.map_err(|failure| failure.brief())?);
                self.loaded.len() - 1
            }
        };
        Ok(&mut self.loaded[at].object)
    }

    fn load(&self, source: Source, names: Vec<&'static str>) -> Result<Loaded, Failure> {
        let object = self.fds.load(source, &names)?;
        Ok(Loaded { object, names })
    }

    fn attach_way(&mut self, index: usize, way: usize) -> Result<(), String> {
        let program = &PROGRAMS[index];
        let (how, name) = program.ways[way];
        let object = self.object_with(program.source, how, name)?;
        let link = attach(object, name).map_err(|failure| failure.brief())?;
        let proven = match program.proof {
            None => false,
            Some(proof) => prove(proof, program.stat, self.maps.control()).map(|()| true)?,
        };
        if program.source == Source::Counter {
            self.maps.forget_kernel();
        }
        let state = &mut self.states[index];
        (state.link, state.way, state.proven) = (Some(link), Some(way), proven);
        Ok(())
    }
}

fn attach(object: &mut Object, name: &str) -> Result<Link, Failure> {
    super::load::listening(|| {
        let program = object.progs_mut().find(|program| program.name() == name);
        match program {
            Some(program) => program.attach(),
            None => Err(libbpf_rs::Error::from_raw_os_error(libc::ENOENT)),
        }
    })
}
