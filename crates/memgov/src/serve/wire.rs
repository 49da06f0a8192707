//! What goes over the control socket and comes out of `--json`: one set of types for both. They live only here; nothing
//! inside memgov is shaped by them. Field names are a promise: units stand last, what is not known is absent, never 0.

mod job;
mod kernel;
mod program;
mod question;
mod situation;
mod sockets;
mod status;

pub use job::{JobKey, JobStatus, JobWorth};
pub use kernel::{
    KernelCause, KernelFinding, KernelGroup, KernelHolder, KernelKind, KernelMark, KernelMemory, KernelTrial,
};

pub use program::{ProgramOutput, ProgramRun, ProgramStatus, Shortage};
pub use question::{Answered, QuestionSaid, QuestionStatus};
pub use situation::{GroupSeen, HostSeen, PressureSeen, ProcessSeen, Situation};
pub use sockets::{GroupSockets, HeldSocket, SocketHolder};
pub use status::{
    Counts, DenialStatus, EpisodeStatus, HoldStatus, HookStatus, Losses, Mechanism, RuleStatus, Status,
    TierStatus, Watched, WorkingSetStatus,
};

use memgov_decide::control::{ControlAction, Flags, MemControl};
use serde::{Deserialize, Serialize};

/// Bytes of a path or name as text: UTF-8 as it is; otherwise each byte that is none becomes `\xNN` and `\` is doubled.
pub fn text(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Where an order comes from: `{"rule":"builds"}`, `{"control":true}`, or `{"kernel":true}` where nobody ordered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A rule.
    Rule {
        /// Its name.
        rule: String,
    },
    /// The control a process has set on itself.
    Control {
        /// Always true.
        control: bool,
    },
    /// A user asked for it: `memgov shrink`.
    Hand {
        /// His uid.
        by: u32,
    },
    /// The kernel did it by itself: its OOM killer, or a refusal that no running episode stands for.
    Kernel {
        /// Always true.
        kernel: bool,
    },
}

/// Whom something concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Target {
    /// A group.
    Group {
        /// Path in the memory hierarchy.
        path: String,
        /// Inode of its directory.
        id: u64,
        /// Owner of its directory: decides who else than root is shown this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<u32>,
    },
    /// A process.
    Process {
        /// Its pid.
        pid: u32,
        /// Its start time in clock ticks.
        start: u64,
        /// Its name.
        comm: String,
        /// Path of its group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// Its real uid: decides who else than root is shown this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
    },
    /// The whole machine: only root is shown this.
    Host {},
}

/// What was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the meaning; docs/cli.md explains them")]
pub enum OrderKind {
    Record,
    DenyBegin,
    DenySustain,
    DenyEnd,
    SlowBegin,
    SlowSustain,
    SlowEnd,
    FreezeBegin,
    FreezeSustain,
    FreezeEnd,
    ReclaimBegin,
    ReclaimSustain,
    ReclaimEnd,
    SqueezeBegin,
    SqueezeSustain,
    SqueezeEnd,
    Shrink,
    Signal,
    Kill,
    Relieved,
    Denied,
    Oom,
    OomKill,
    LendBegin,
    LendEnd,
    Ask,
    Answered,
    Hook,
}

/// Why, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the meaning; docs/cli.md explains them")]
pub enum ReasonKind {
    Usage,
    Kernel,
    /// What the buffers of sockets hold.
    Sockets,
    /// Usage with the buffers of sockets, in one pool.
    Pool,
    Rss,
    UsageAndRss,
    Relieved,
    RuleGone,
    TargetGone,
    BudgetSpent,
    TooManyKills,
    Protected,
    FreeingPending,
    Available,
    /// Tasks wait for memory.
    Pressure,
    NoJob,
    NobodyHoldsEnough,
    Asked,
    Denied,
    Oom,
    HostShort,
    LoanDue,
    Answered,
    NoAnswer,
}

/// Why, with the numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// As a word.
    pub kind: ReasonKind,
    /// As a sentence.
    pub text: String,
    /// Usage of the group that was compared; its kernel memory where the kind is `kernel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// Its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_line_bytes: Option<u64>,
    /// What of it lies in the buffers of sockets, where the kind is `sockets` or `pool` and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets_bytes: Option<u64>,
    /// Resident memory that was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_line_bytes: Option<u64>,
    /// What is available: on the host, or under a group's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
    /// Its line; of a relief, its relief level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_line_bytes: Option<u64>,
    /// How fast it falls, where the rule asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub falling_bytes_per_second: Option<u64>,
    /// Where the kind is `pressure`, or the relief of that: so much of the time some task waits for memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_thousandths: Option<u16>,
    /// Its line; of a relief, its relief level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_line_thousandths: Option<u16>,
}

/// One of a ranking, best victim first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in Target")]
pub struct Candidate {
    pub pid: u32,
    pub start: u64,
    pub comm: String,
    pub rss_bytes: u64,
}

/// One of a ranking of jobs, first to give way first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Path in the memory hierarchy.
    pub path: String,
    /// Inode of its directory.
    pub id: u64,
    /// Lower gives way first.
    pub priority: i32,
    /// What it used.
    pub usage_bytes: u64,
    /// What is reserved for it.
    pub reservation_bytes: u64,
    /// By how much it is over that; absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_bytes: Option<u64>,
    /// What it asks for itself by an extended attribute: `prefer` or `avoid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
}

/// What came of it, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the meaning; docs/cli.md explains them")]
pub enum OutcomeKind {
    Done,
    Nothing,
    Partial,
    Refused,
    Dead,
    Gone,
    LedgerFull,
    Pinned,
    DryRun,
    Withheld,
    Pending,
    Begun,
    Ran,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// As a word.
    pub kind: OutcomeKind,
    /// Processes reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Processes that could not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u32>,
    /// The mechanism: `rlimit`, `cgroup.freeze`, `hold-group`, `v1-freezer`, `sigstop`, `pidfd`, `cgroup.kill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The system call or file that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Its errno...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// ...and what errno(3) calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the dead held, credited as memory on its way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_bytes: Option<u64>,
    /// Of `pinned`: kernel memory that a trial got back...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_bytes: Option<u64>,
    /// ...of so much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_bytes: Option<u64>,
    /// Of `ran`: how the program has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<ProgramRun>,
}

/// One decision and what came of it. Sent again, with the same id, when more of it becomes known later: its outcome, what the kernel memory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// For `memgov explain`.
    pub id: u64,
    /// All events of one episode, from crossing to relief, carry its number.
    pub episode: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// Which rule or control.
    pub source: Source,
    /// Step of the ladder, from 0.
    pub step: u8,
    /// Whom.
    pub target: Target,
    /// What.
    pub order: OrderKind,
    /// Which signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Share of running time of a slowdown, of a processor that reclaim may use, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_permille: Option<u16>,
    /// By how much a hard limit is raised, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent_bytes: Option<u64>,
    /// Why.
    pub reason: Reason,
    /// For kills of one among many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<Candidate>,
    /// For kills by priority: the first of all jobs that were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<Job>,
    /// How many that were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs_considered: Option<u32>,
    /// For kills of processes that belong together: which, as a sentence says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<String>,
    /// Of an `oom`: whose allocation the kernel could not satisfy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocating: Option<Candidate>,
    /// Of a `denied`: calls that were refused to the target since its line was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denials: Option<u64>,
    /// Records of the same kind that were left out before this one, because they came too fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// Where kernel memory is the reason: what it is and who holds it. Looked into behind the loop, so it comes a little later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelFinding>,
    /// What came of it.
    pub outcome: Outcome,
    /// The letter's log line: on the first event of an episode with logging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Of an `ask` and of an `answered`: the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<QuestionSaid>,
    /// Of a `hook` that has ended: what the program has written, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<ProgramOutput>,
    /// Of a `kill`: what was seen in the moment before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub situation: Option<Box<Situation>>,
}

/// Some events, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The events.
    pub events: Vec<Event>,
    /// Events that were asked for and are no longer kept (a reader slower than the ring).
    #[serde(default)]
    pub missed: u64,
    /// Where to go on: opaque, to be given back as `cursor`.
    #[serde(default)]
    pub cursor: u64,
}

/// Everything known about one decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The decision.
    pub event: Event,
    /// The rule in a sentence; absent for controls and for rules that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// What was decided in the same episode before it, as far as it is kept...
    #[serde(default)]
    pub before: Vec<Event>,
    /// ...and what came after it.
    #[serde(default)]
    pub after: Vec<Event>,
}

/// A process's control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Whose.
    pub pid: u32,
    /// Its start time in clock ticks.
    pub start: u64,
    /// `none`, `deny`, `slow`, `signal`, `kill`.
    pub action: String,
    /// 0: none.
    pub signal: u8,
    /// `sigcont`, `direct`, `log`, `rss-anon`, `rss-file`, `rss-shmem`.
    pub flags: Vec<String>,
    /// The letter's action word.
    pub word: u32,
    /// How far the group may be over `memory.high`.
    pub climit_bytes: u64,
    /// How much the selected RSS kinds may be.
    pub plimit_bytes: u64,
    /// The letter's text form, without its newline.
    pub memctl: String,
}

/// Names of actions, by their number.
pub const CONTROL_ACTIONS: [&str; 5] = ["none", "deny", "slow", "signal", "kill"];
/// Names of flags.
pub const CONTROL_FLAGS: [(&str, Flags); 6] = [
    ("sigcont", Flags::SIGCONT),
    ("direct", Flags::DIRECT),
    ("log", Flags::LOG),
    ("rss-anon", Flags::RSS_ANON),
    ("rss-file", Flags::RSS_FILE),
    ("rss-shmem", Flags::RSS_SHMEM),
];

impl Control {
    /// The wire form of a control.
    pub fn new(pid: u32, start: u64, control: MemControl) -> Self {
        let named = CONTROL_FLAGS.iter().filter(|(_, flag)| control.flags.has(*flag));
        let action = match control.action {
            ControlAction::None => 0,
            ControlAction::Deny => 1,
            ControlAction::Slow => 2,
            ControlAction::Signal => 3,
            ControlAction::Kill => 4,
        };
        Self {
            pid,
            start,
            action: CONTROL_ACTIONS[action].into(),
            signal: control.signal,
            flags: named.map(|(name, _)| (*name).into()).collect(),
            word: control.word(),
            climit_bytes: control.climit.0,
            plimit_bytes: control.plimit.0,
            memctl: control.text().trim_end().into(),
        }
    }
}

/// One step of a ladder: the keys and words of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "docs/rules.md explains the keys")]
pub struct Step {
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// As `pressure` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<String>,
    /// As `swap-out` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<String>,
    /// As `when` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A rule for one running group, in the words of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// Which group, from the root of the memory hierarchy.
    pub path: String,
    /// Default `usage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// The line.
    pub over: String,
    /// For rss meters: the group must be over this too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_over: Option<String>,
    /// The relief level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The ladder.
    #[serde(rename = "do")]
    pub steps: Vec<Step>,
    /// Write the log line; default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<bool>,
    /// A virtual high for the group, in place of the kernel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<String>,
}

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Reloaded {
    pub files: Vec<String>,
    pub rules: u64,
    #[serde(default)]
    pub notes: Vec<String>,
}
