//! The eBPF tier: the checks run in the kernel, in the allocating call itself. User space says who has which limit, renews a lease
//! and reads what happened; the programs decide alone and at once.
//!
//! What must hold:
//! - **Fails open.** A program acts only while the lease is good ([`Maps::renew`]). Nothing is pinned: links close with the process. So
//!   kill -9 opens the door at once, and a daemon that hangs opens it when the lease ends.
//! - **Nothing is attached until asked for** ([`Tier::require`]), and a hook that refuses is proven by a refusal before it counts.
//! - **Found by trying**, never by kernel version. [`Absent`] says in words why this kernel or these privileges cannot.
//! - Calls marked *hot* allocate nothing and wait for nobody; attaching takes milliseconds and belongs on another thread
//!   ([`Tier::into_parts`]).
//!
//! Without the cargo feature `bpf` the same API answers [`Absent`].

#[cfg(not(feature = "bpf"))]
mod absent;
#[cfg(feature = "bpf")]
mod attach;
#[cfg(feature = "bpf")]
mod events;
#[cfg(feature = "bpf")]
mod exemptions;
#[cfg(feature = "bpf")]
mod groups;
mod kernel_memory;
#[cfg(feature = "bpf")]
mod load;
#[cfg(feature = "bpf")]
mod maps;
#[cfg(feature = "bpf")]
mod programs;
#[cfg(feature = "bpf")]
mod raw;
#[cfg(feature = "bpf")]
mod record;
#[cfg(feature = "bpf")]
mod run_stats;
#[cfg(feature = "bpf")]
mod selftest;
#[cfg(feature = "bpf")]
mod table;
#[cfg(feature = "bpf")]
mod tier;
#[cfg(feature = "bpf")]
mod trials;

#[cfg(feature = "bpf")]
pub use self::{
    attach::Attachments, events::Events, groups::GroupPass, maps::Maps, run_stats::RunStats, tier::Tier,
};
#[cfg(not(feature = "bpf"))]
pub use absent::{Attachments, Events, GroupPass, Maps, RunStats, Tier};

pub use self::kernel_memory::{Seeding, correction, stat_lateness};
pub use memgov_decide::policy::Condition;

use crate::kernel::Errno;
use memgov_decide::snapshot::{Events as GroupEvents, GroupId, ProcessId, Rss};
use memgov_decide::units::{Bytes, Limit, Time};
use std::fmt;
use std::time::Duration;

/// A `comm` as the kernel keeps it: NUL-padded.
pub type Comm = [u8; 16];

/// At most so many names are protected.
pub const MAX_PROTECTED_NAMES: usize = 32;
/// A limit can be set on groups down to this depth (the root is 0).
pub const MAX_LEVEL: u32 = 63;

/// At most so many executables are exempt.
pub const MAX_EXEMPT_FILES: usize = 1024;

/// An executable whose processes are exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExemptFile {
    /// Inode number.
    pub inode: u64,
    /// The device of its file system as the kernel keeps it (include/linux/kdev_t.h): `major << 20 | minor`.
    pub device: u64,
    /// Only processes whose real uid, of the first user namespace, is under this: 1 is root, `u32::MAX` everybody.
    pub uids_under: u32,
}

/// By what a process is exempt. Each says so for itself and takes back only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExemptBy {
    /// What it is: memgov, its guardian, those it was started from.
    Always,
    /// Its row in the process table, which is on the never-list.
    Row,
    /// The look at everybody in a group, for processes without a row.
    Sweep,
}

/// What is fixed when the tier is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Room for so many groups with a limit.
    pub max_groups: u32,
    /// Room for so many exempt processes.
    pub max_exempt: u32,
    /// How long programs go on acting after the last [`Maps::renew`].
    pub lease: Duration,
    /// Processes whose first thread has one of these names are exempt; at most [`MAX_PROTECTED_NAMES`].
    pub protected_names: Vec<Comm>,
    /// Processes that run one of these are exempt; at most [`MAX_EXEMPT_FILES`].
    pub exempt_files: Vec<ExemptFile>,
    /// Never attach this way, where there is another: for a kernel on which it misbehaves, and for tests of the other way.
    pub avoid: Option<How>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_groups: 2048,
            max_exempt: 4096,
            lease: Duration::from_secs(2),
            protected_names: Vec::new(),
            exempt_files: Vec::new(),
            avoid: None,
        }
    }
}

/// Why there is no tier, or no hook, here: for `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// One sentence, with the way out where there is one.
    pub reason: String,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What should have worked and did not.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// A set of programs that are attached together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Refusing mmap, brk, mremap and mprotect: [`GroupLimit::deny`], and [`TaskAction::Deny`].
    Deny,
    /// Looking at each charge: crossings of groups, and signals and kills on a condition that names a group.
    Charge,
    /// Looking at each change of resident memory: signals and kills on a condition that names only resident memory.
    Rss,
    /// Out of memory: entry and victims, as events.
    Oom,
    /// Kernel memory: counting it ([`Maps::kernel_usage`]), and refusing fork, inodes, files, sockets, unix messages, larger pipes and
    /// more mappings by [`GroupLimit::kernel`].
    Kernel,
    /// Sockets: births of connections in groups that are squeezed, and charges that the kernel refuses ([`Maps::socket_refusals_of`]).
    Sockets,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Deny, Self::Charge, Self::Rss, Self::Oom, Self::Kernel, Self::Sockets];

    const fn bit(self) -> u8 {
        match self {
            Self::Deny => 1,
            Self::Charge => 2,
            Self::Rss => 4,
            Self::Oom => 8,
            Self::Kernel => 16,
            Self::Sockets => 32,
        }
    }
}

/// Some of [`Hook`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// None: detaches everything.
    pub const NONE: Self = Self(0);

    /// Whether one of them goes by limits of processes and groups, which then have to follow forks and exec. That the kernel tells of something asks for none.
    pub const fn any_limits(self) -> bool {
        self.0 & !(Hook::Oom.bit() | Hook::Sockets.bit()) != 0
    }

    /// With this one too.
    #[must_use]
    pub const fn with(self, hook: Hook) -> Self {
        Self(self.0 | hook.bit())
    }
    /// Whether it is among them.
    pub const fn has(self, hook: Hook) -> bool {
        self.0 & hook.bit() != 0
    }
    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Hook> for Hooks {
    fn from_iter<I: IntoIterator<Item = Hook>>(hooks: I) -> Self {
        hooks.into_iter().fold(Self::NONE, Self::with)
    }
}

/// What is asked of a group. All amounts are rounded down to pages; strictly above is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLimit {
    /// The depth of the group in its hierarchy: 0 for the root, 1 for its children. At most [`MAX_LEVEL`].
    pub level: u32,
    /// Further memory is refused to everything in the group, and all below it, while its usage is over this.
    pub deny: Option<Bytes>,
    /// Its usage crossing this is an event.
    pub tell: Option<Bytes>,
    /// Calls that take kernel memory are refused to everything in the group, and all below it, while its kernel memory is over
    /// this. Not before [`Maps::seed_kernel`].
    pub kernel: Option<Bytes>,
    /// Its kernel memory crossing this is an event. Not before [`Maps::seed_kernel`] either.
    pub kernel_tell: Option<Bytes>,
    /// The `memory.high` that conditions of processes see, in place of the kernel's: the virtual high of v1.
    pub high: Option<Limit>,
    /// Comes back in events.
    pub tag: u64,
}

/// What is asked of a process; its threads share it, children it forks inherit it, exec keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLimit {
    /// When. `Over::High` looks at the process's group and those above it, the first that is over counts: up to `group`, or all if that is
    /// `None`. `Over::Amount` looks at `group`, or if that is `None` at the group the process is in.
    pub condition: Condition,
    /// See `condition`.
    pub group: Option<GroupId>,
    /// What happens then.
    pub action: TaskAction,
    /// Refused memory whatever it holds. Not inherited.
    pub held: bool,
    /// Of a rule: when the process becomes another program, a signal or kill becomes [`TaskAction::Tell`], until it is set anew.
    pub by_rule: bool,
    /// Comes back in events.
    pub tag: u64,
}

/// What happens to a process over its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskAction {
    /// Nothing; for a process that is only held, with an empty condition.
    Nothing,
    /// The crossing is an event, and nothing else.
    Tell,
    /// mmap, brk, mremap and mprotect fail with ENOMEM.
    Deny,
    /// A signal, 1 to 64, in the moment of the allocation.
    Signal {
        /// Its number. Once, until the limit is set anew.
        signal: u8,
    },
    /// SIGKILL, in the moment of the allocation, while [`Maps::allow_kills`] has some left; without, the crossing is told.
    Kill,
}

/// What the programs tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A group went over a line: once, until it was seen at or under it.
    Crossed,
    /// A process went over its own line: once, until it was seen at or under it.
    CrossedOwn,
    /// A call was refused. At most one a group or process in 100 ms; [`Maps::denials_of`] counts them all.
    Denied,
    /// The kernel memory of a group went over its line: once, until it was seen at or under it. `usage` and `limit` are of kernel memory.
    KernelCrossed,
    /// A call was refused for the kernel memory of a group, likewise. At most one a group in 100 ms; [`Maps::kernel_denials_of`] counts
    /// them all.
    KernelDenied,
    /// A signal was sent to a process by its own limit.
    Signalled,
    /// A process was killed by its own limit.
    Killed,
    /// The kernel ran out of memory in a group (`group` 0: in the whole machine).
    OomEnter,
    /// The kernel's OOM killer took this process.
    OomVictim,
    /// A process that had a limit is gone.
    Exit,
    /// A TCP connection has come to be in a group whose sockets are squeezed ([`Maps::squeeze`]), or below it. At most one a group in 1 ms. Only `group` is told.
    Birth,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Who caused it, or to whom it happened.
    pub who: ProcessId,
    /// The group whose line it was; the group of the process where the line was its own.
    pub group: GroupId,
    /// As given with the limit. Of [`EventKind::OomEnter`] and [`EventKind::OomVictim`]: so many before it in this group were not told.
    pub tag: u64,
    /// Usage of `group`, where it was looked at.
    pub usage: Bytes,
    /// The line that was crossed. Of [`EventKind::OomEnter`] the group's `memory.max`; `u64::MAX` bytes: none.
    pub limit: Bytes,
    /// Resident memory of the process, where it still had any.
    pub rss: Option<Rss>,
    /// The signal that was sent; 0: none.
    pub signal: u8,
    /// When.
    pub at: Time,
    /// A denial by the process's own line, not by a group's.
    pub own: bool,
    /// The process's real uid.
    pub uid: u32,
    /// Its name.
    pub comm: Comm,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `fmod_ret/security_…`
    FmodRet,
    /// `lsm/…`
    Lsm,
    /// `fentry/…`
    Fentry,
    /// `fexit/…`
    Fexit,
    /// `tp_btf/…`
    Tracepoint,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FmodRet => "fmod_ret",
            Self::Lsm => "lsm",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Tracepoint => "tp_btf",
        })
    }
}

/// What `status` and `doctor` say of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookStatus {
    /// The kernel's function or tracepoint.
    pub name: &'static str,
    /// Why it is attached; `None`: it follows limits over fork, exec and exit, and is there with any.
    pub set: Option<Hook>,
    /// How it is attached; `None` while it is not.
    pub how: Option<How>,
    /// A refusal was seen to work. Always false for programs that cannot refuse.
    pub proven: bool,
    /// Why it could not be attached when it was asked for.
    pub unavailable: Option<String>,
    /// How often it ran and looked at somebody with a limit, since the tier was loaded.
    pub calls: u64,
    /// How often it refused, signalled or killed.
    pub acted: u64,
    /// Nanoseconds in it and runs of it, counted by the kernel while somebody has it done ([`RunStats`]).
    pub run: Option<(u64, u64)>,
    /// Times it should have run and did not, because another run of it stood still on the same processor: with kernel preemption
    /// (`preempt=full`), and not of lsm programs.
    pub missed: u64,
    /// Instructions the verifier looked at until it accepted the program; what loading takes grows with them. `None`: not loaded.
    pub verified: Option<u32>,
}

/// Events and children that the programs could not do justice to, since the tier was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The ring was full.
    pub events: u64,
    /// No memory for a child's limit at fork or exec.
    pub children: u64,
}

/// A group as the iterator has read it: what its control files say, in their units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// Who it is.
    pub id: GroupId,
    /// `memory.current`; v1 `memory.usage_in_bytes`.
    pub usage: Bytes,
    /// `memory.high`; `Max` on v1, which has none.
    pub high: Limit,
    /// `memory.max`; v1 `memory.limit_in_bytes`.
    pub max: Limit,
    /// `memory.swap.current`; v1 `memory.memsw.usage_in_bytes`, which is memory and swap.
    pub swap: Bytes,
    /// v1 `memory.failcnt`; 0 on v2.
    pub failcnt: u64,
    /// `memory.events`; on v1 only `oom_kill` of `memory.oom_control` is kept there.
    pub events: GroupEvents,
    /// `memory.oom.group`.
    pub oom_group: bool,
}

/// The tier in three parts, for as many threads.
pub struct Parts {
    /// Limits and the lease: for whoever acts.
    pub maps: std::sync::Arc<Maps>,
    /// What happened: for the loop.
    pub events: Events,
    /// What is attached: for a thread that may wait.
    pub attachments: Attachments,
}

/// What only attaching reads need not be locked in memory.
pub fn unlock_programs() {
    #[cfg(feature = "bpf")]
    load::unlock();
}

/// The result of a hot call.
pub type Hot<T = ()> = Result<T, Errno>;

/// Loads the programs, attaches those that refuse, sees them refuse, and takes everything away again. Why it does not work, if it
/// does not.
///
/// # Errors
/// The reason, in words.
pub fn trial() -> Result<(), String> {
    let mut tier = match Tier::load(&Options::default()) {
        Ok(Ok(tier)) => tier,
        Ok(Err(absent)) => return Err(absent.to_string()),
        Err(error) => return Err(error.to_string()),
    };
    tier.require(Hooks::NONE.with(Hook::Deny)).map_err(|error| error.to_string())?;
    let hooks = tier.hooks();
    let unproven = hooks.iter().find(|hook| hook.set == Some(Hook::Deny) && !hook.proven);
    match unproven {
        Some(hook) => {
            Err(format!("{}: {}", hook.name, hook.unavailable.as_deref().unwrap_or("it does not refuse")))
        }
        None => Ok(()),
    }
}
