//! What `memgov status` shows.

use serde::{Deserialize, Serialize};

use super::{
    Control, JobStatus, KernelMark, OrderKind, ProgramStatus, QuestionStatus, Reason, Source, Target,
};

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
