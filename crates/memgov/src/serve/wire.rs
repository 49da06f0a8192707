//! What goes over the control socket and comes out of `--json`: one set of types for both. They live only here; nothing
//! inside memgov is shaped by them. Field names are a promise: units stand last, what is not known is absent, never 0.

mod job;
mod kernel;
mod program;
mod question;
mod situation;
mod sockets;

pub use job::{JobKey, JobStatus, JobWorth};
pub use kernel::{
    KernelCause, KernelFinding, KernelGroup, KernelHolder, KernelKind, KernelMark, KernelMemory, KernelTrial,
};

pub use program::{ProgramOutput, ProgramRun, ProgramStatus, Shortage};
pub use question::{Answered, QuestionSaid, QuestionStatus};
pub use situation::{GroupSeen, HostSeen, PressureSeen, ProcessSeen, Situation};
pub use sockets::{GroupSockets, HeldSocket, SocketHolder};

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

/// What `memgov status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of memgov.
    pub version: String,
    /// Of the daemon.
    pub pid: u32,
    /// For how long it has governed.
    pub uptime_ns: u64,
    /// Decides and touches nothing.
    pub dry_run: bool,
    /// `v1` or `v2`: where the memory controller is.
    pub memory: String,
    /// How each action is carried out on this host: action, mechanism.
    pub mechanisms: Vec<Mechanism>,
    /// Enforcement inside the kernel.
    #[serde(default)]
    pub tier: TierStatus,
    /// Files of the configuration in force.
    pub files: Vec<String>,
    /// The last reload was refused, and this is why; the rules before it are in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_error: Option<String>,
    /// The rules in force.
    pub rules: Vec<RuleStatus>,
    /// What goes on.
    pub episodes: Vec<EpisodeStatus>,
    /// What is held: denied, slowed.
    pub holds: Vec<HoldStatus>,
    /// Calls that were refused inside the kernel, by whose line: those that stand now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<DenialStatus>,
    /// Groups whose kernel memory has a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<KernelMark>,
    /// Controls of processes.
    pub controls: Vec<Control>,
    /// Entries of the three lists above that were left out, to bound the answer.
    pub truncated: u64,
    /// What is watched.
    pub watched: Watched,
    /// The process that puts everything back when the daemon dies or hangs; none: it died too often, or could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardian: Option<u32>,
    /// Guardians that have died since the start.
    #[serde(default)]
    pub guardians_lost: u64,
    /// What did not fit or was missed since the start.
    pub lost: Losses,
    /// Since the start.
    pub counts: Counts,
    /// What somebody is to answer.
    #[serde(default)]
    pub questions: Vec<QuestionStatus>,
    /// Groups of which it was said since the start what they are worth as jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobStatus>,
}

/// Enforcement inside the kernel: whether there is any, and what of it is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierStatus {
    /// `bpf` or `portable`.
    pub name: String,
    /// Why it is not `bpf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What is attached at this moment; nothing while no rule needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookStatus>,
    /// Events that found no room on their way from the kernel.
    #[serde(default)]
    pub lost_events: u64,
    /// Children that did not get their parent's limit for want of memory.
    #[serde(default)]
    pub lost_children: u64,
    /// Runs of programs that were left out, because another run stood still on the same processor (kernel preemption).
    #[serde(default)]
    pub missed_runs: u64,
}

/// A program attached to a place in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// The kernel's function or tracepoint.
    pub name: String,
    /// `fmod_ret`, `lsm`, `fentry`, `tp_btf`.
    pub how: String,
    /// It was seen to refuse, or needs no such proof.
    pub proven: bool,
    /// Times it ran and looked at somebody with a limit.
    pub calls: u64,
    /// Times it refused or sent something.
    pub acted: u64,
    /// Nanoseconds spent in it, counted while the kernel keeps such statistics (`memgov status --costs`, `kernel.bpf_stats_enabled`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ns: Option<u64>,
    /// Runs of it, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
}

/// How an action is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Mechanism {
    pub action: String,
    pub by: String,
}

/// A rule in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RuleStatus {
    pub name: String,
    pub meaning: String,
    pub episodes: u64,
}

/// An episode that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpisodeStatus {
    /// Its number.
    pub episode: u64,
    /// Which rule or control.
    pub source: Source,
    /// Whom.
    pub target: Target,
    /// RFC 3339, UTC.
    pub since: String,
    /// The last step of the ladder that began, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u8>,
    /// The last order...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderKind>,
    /// ...and why it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How small the group runs without feeling it, where a rule looks for that and something is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set: Option<WorkingSetStatus>,
    /// The program of a step `hook` that runs for it, or has run last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramStatus>,
}

/// What a rule that reclaims with a tolerance has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSetStatus {
    /// About so much is in use.
    pub working_set_bytes: u64,
    /// The most that was since the episode began.
    pub peak_bytes: u64,
    /// The group's limit (`memory.max`); absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// A limit that would do: an eighth over the peak.
    pub enough_bytes: u64,
    /// It has been found, and is not still looked for.
    pub settled: bool,
}

/// A process or group that is denied or slowed, or a group that is lent memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// Who.
    pub target: Target,
    /// `deny`, `slow` or `freeze`; `bound`: it is under its line for kernel memory, and may have so many processes and threads as there is room for;
    /// `lend`: its limit is raised; `oom-delay`: the kernel's OOM killer is held off it (v1).
    pub action: String,
    /// By which mechanism.
    pub by: String,
    /// Share of running time, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_permille: Option<u16>,
    /// Processes and threads that a bounded group may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// By how much the limit of a group is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent_bytes: Option<u64>,
    /// `pool`: so much TCP may hold (v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_limit_bytes: Option<u64>,
    /// `squeeze`: so many sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u32>,
}

/// Calls that were refused to a group or process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialStatus {
    /// Whose line it was.
    pub target: Target,
    /// How many, since the line was set.
    pub calls: u64,
}

/// What is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Watched {
    pub groups: u64,
    pub processes: u64,
    pub controls: u64,
}

/// What did not fit or was missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Losses {
    pub groups: u64,
    pub processes: u64,
    pub events: u64,
    pub decisions: u64,
    pub records: u64,
    #[serde(default)]
    pub clients: u64,
    #[serde(default)]
    pub happenings: u64,
    #[serde(default)]
    pub standing: u64,
    /// Sockets that should be squeezed now and are not.
    #[serde(default)]
    pub sockets: u64,
}

/// Counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub ticks: u64,
    pub decisions: u64,
    pub kills: u64,
    /// Sockets that were squeezed.
    #[serde(default)]
    pub sockets_squeezed: u64,
    /// Sockets that were let go after that, or were closed.
    #[serde(default)]
    pub sockets_released: u64,
    /// Sockets that could not be squeezed.
    #[serde(default)]
    pub sockets_refused: u64,
    pub refused: u64,
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
