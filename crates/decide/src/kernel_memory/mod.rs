//! Kernel memory by kind: how much a group and all below it hold of each, what the kernel may get back by reclaim and what it may not,
//! which kind is the answer to "what is it?" ([`diagnose`]), who holds it ([`offenders`]), and whether it is in use ([`trial`]).
//!
//! Properties, each a test of its name: `the_kinds_never_say_more_than_the_total`, `what_can_be_reclaimed_and_what_is_pinned_are_the_whole`,
//! `the_kind_named_is_the_one_that_grew_or_holds_most`, `what_is_unknown_is_never_named`, `offenders_account_for_every_process_once`.

mod diagnosis;
mod headroom;
mod offender;
pub mod trial;
mod watermark;

pub use diagnosis::{Basis, Diagnosis, diagnose};
pub use headroom::{Headroom, Tasks};
pub use offender::{Holding, Offender, offenders};
pub use watermark::Watermark;

use crate::units::Bytes;

/// A kind of kernel memory, as `memory.stat` of cgroup v2 divides it (Documentation/admin-guide/cgroup-v2.rst), and what it does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `kernel_stack`: one of fixed size for each thread.
    Stacks,
    /// `pagetables`: of the processes' address spaces.
    PageTables,
    /// `sec_pagetables`: of virtual machines and IOMMUs.
    SecondaryPageTables,
    /// `percpu`: a copy for each processor; what groups themselves, BPF maps and mounts need.
    Percpu,
    /// `vmalloc`: large tables, such as those of many open files, BPF maps, filters.
    Vmalloc,
    /// `slab_reclaimable`: dentries and inodes, above all.
    SlabReclaimable,
    /// `slab_unreclaimable`: open files, tasks, mappings, sockets, attributes, tmpfs inodes.
    SlabUnreclaimable,
    /// `zswap`: user memory that was swapped out and is kept compressed. The kernel counts it as kernel memory.
    Zswap,
    /// What the total has beyond those, by the page: contents of pipes, top levels of page tables.
    Other,
}

/// How a kind comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// The kernel may take it back while nobody uses it: only a trial tells how much of it is in use.
    Reclaim,
    /// With the threads and the address spaces that it belongs to.
    Exit,
    /// When whoever holds it lets go: closes, unlinks, unmaps, exits.
    LetGo,
}

impl Kind {
    /// All, those with a line of their own in `memory.stat` first.
    pub const ALL: [Self; 9] = [
        Self::Stacks,
        Self::PageTables,
        Self::SecondaryPageTables,
        Self::Percpu,
        Self::Vmalloc,
        Self::SlabReclaimable,
        Self::SlabUnreclaimable,
        Self::Zswap,
        Self::Other,
    ];

    /// The kernel's name for it, and `other`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stacks => "kernel_stack",
            Self::PageTables => "pagetables",
            Self::SecondaryPageTables => "sec_pagetables",
            Self::Percpu => "percpu",
            Self::Vmalloc => "vmalloc",
            Self::SlabReclaimable => "slab_reclaimable",
            Self::SlabUnreclaimable => "slab_unreclaimable",
            Self::Zswap => "zswap",
            Self::Other => "other",
        }
    }

    /// The kind of a line of `memory.stat`; `None` for what is not kernel memory, and for sums.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL[..NAMED].iter().copied().find(|kind| kind.name().as_bytes() == name)
    }

    /// How it comes back.
    pub const fn release(self) -> Release {
        match self {
            Self::SlabReclaimable | Self::Zswap => Release::Reclaim,
            Self::Stacks | Self::PageTables => Release::Exit,
            Self::SecondaryPageTables
            | Self::Percpu
            | Self::Vmalloc
            | Self::SlabUnreclaimable
            | Self::Other => Release::LetGo,
        }
    }

    /// Whether no reclaim can get it back, whatever the group does.
    pub const fn is_pinned(self) -> bool {
        !matches!(self.release(), Release::Reclaim)
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// How many kinds the kernel names.
const NAMED: usize = Kind::Other.index();

/// What every kernel that divides kernel memory at all gives. Without them nothing can be said of the rest.
const ESSENTIAL: [Kind; 4] = [Kind::Stacks, Kind::PageTables, Kind::SlabReclaimable, Kind::SlabUnreclaimable];

/// Kernel memory of a group and all below it at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakdown {
    /// All of it, without sockets' buffers.
    pub total: Option<Bytes>,
    /// Sockets' buffers. They are no part of the total: the kernel counts them beside it.
    pub sockets: Option<Bytes>,
    named: [Option<Bytes>; NAMED],
}

impl Breakdown {
    /// Of a kernel that gives the whole and does not divide it: cgroup v1.
    pub fn undivided(total: Option<Bytes>, sockets: Option<Bytes>) -> Self {
        Self { total, sockets, ..Self::default() }
    }

    /// Takes over what the kernel says of a kind. Of [`Kind::Other`] it says nothing: that is what is left.
    pub fn set(&mut self, kind: Kind, amount: Bytes) {
        if let Some(place) = self.named.get_mut(kind.index()) {
            *place = Some(amount);
        }
    }

    /// How much of a kind there is. `None`: the kernel does not say.
    pub fn of(&self, kind: Kind) -> Option<Bytes> {
        match self.named.get(kind.index()) {
            Some(named) => *named,
            None => self.other(),
        }
    }

    /// The kinds that are known, with their amounts.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, Bytes)> + '_ {
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.of(kind)?)))
    }

    /// The kinds with a name overtake the total by a few pages now and then: they are counted in bytes and each by itself, it in pages. Then
    /// nothing is left, not less than nothing.
    fn other(&self) -> Option<Bytes> {
        let divided = ESSENTIAL.iter().all(|kind| self.named[kind.index()].is_some());
        let named = self.named.iter().flatten().fold(Bytes(0), |sum, amount| sum + *amount);
        divided.then_some(self.total?.saturating_sub(named))
    }

    /// The most that reclaim could get back. `None`: the kinds are not known.
    pub fn reclaimable(&self) -> Option<Bytes> {
        let total = self.total?;
        self.other()?;
        let sum = self.kinds().filter(|(kind, _)| !kind.is_pinned()).fold(Bytes(0), |sum, (_, it)| sum + it);
        Some(sum.min(total))
    }

    /// What no reclaim gets back. `None`: the kinds are not known.
    pub fn pinned(&self) -> Option<Bytes> {
        Some(self.total? - self.reclaimable()?)
    }
}
