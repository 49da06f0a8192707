//! What the administrator asked for, already checked: a list of rules, each *meter x limit x actions*.
//!
//! `config.rs` of the memgov crate makes a [`Policy`] from TOML; nothing here parses text except [`Pattern`].

mod condition;
mod pattern;

use std::time::Duration;

use crate::hook::{Helper, Hook};
use crate::jobs::Worth;
use crate::pressure::Share;
use crate::question::Ask;
use crate::snapshot::Process;
use crate::units::{Bytes, Limit};

use crate::working_set::Tolerance;
pub use condition::{Condition, Kinds, Meter, Over, RssOver, Under};
pub use pattern::Pattern;

/// The position of a rule in [`Policy::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

/// At most so many rules: a group remembers which rules match it in a bit set of this size.
pub const MAX_RULES: usize = 256;
/// At most so many steps in one ladder.
pub const MAX_STEPS: usize = 8;

/// Everything asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Rules, in the order of the configuration. All that match apply; order only breaks ties.
    pub rules: Vec<Rule>,
    /// What groups are worth, first match wins for each field.
    pub groups: Vec<GroupPolicy>,
    /// Processes that are never touched, by `exe` or `comm`, beside the built-in facts ([`crate::snapshot::Untouchable`]).
    pub never: Vec<ProcessMatch>,
    /// How often to look.
    pub pace: Pace,
    /// How many kills are too many.
    pub kills: KillBudget,
}

/// What is said about groups rather than about what happens to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupPolicy {
    /// Which groups.
    pub groups: Vec<Pattern>,
    /// A line like `memory.high`, for v1 where the kernel has none, or in place of the kernel's. Nothing is written to the kernel.
    pub high: Option<Limit>,
    /// Lower is given up first. A group for which this or `reservation` is said is a job ([`Worth`]).
    pub priority: Option<i32>,
    /// What it may use without losing the protection of its reservation.
    pub reservation: Option<Bytes>,
    /// So much under its hard limit is not available: it is left for what helps the group when it is short of memory.
    pub oom_reserve: Option<Bytes>,
    /// So long the kernel's OOM killer is held off when it is out of memory, for what the rules do (v1).
    pub oom_delay: Option<Duration>,
    /// Who has said it while memgov ran; `None`: the configuration. What root says counts as the configuration does, what another says in rules for
    /// his own groups only ([`Policy::users_worth`]).
    pub set_by: Option<u32>,
}

impl GroupPolicy {
    /// Whether it is about the group of this path.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.groups.iter().any(|pattern| pattern.matches(path))
    }

    /// Whether it makes its groups jobs.
    pub const fn is_job(&self) -> bool {
        self.priority.is_some() || self.reservation.is_some()
    }
}

impl Policy {
    fn of_group(&self, path: &[u8]) -> impl Iterator<Item = &GroupPolicy> {
        self.groups.iter().filter(move |group| group.matches(path))
    }

    /// What the group of this path is worth as a job by the word of those who count.
    fn worth_by(&self, path: &[u8], counts: impl Fn(Option<u32>) -> bool) -> Option<Worth> {
        let said = || self.of_group(path).filter(|group| counts(group.set_by));
        let priority = said().find_map(|group| group.priority);
        let reservation = said().find_map(|group| group.reservation);
        (priority.is_some() || reservation.is_some()).then(|| Worth {
            priority: priority.unwrap_or_default(),
            reservation: reservation.unwrap_or_default(),
        })
    }

    /// What the group of this path is worth as a job, to everybody: by the configuration and by root. `None`: it is none.
    pub fn worth(&self, path: &[u8]) -> Option<Worth> {
        self.worth_by(path, |by| matches!(by, None | Some(0)))
    }

    /// What it is worth where the word of a user who is not root counts as well, and whose word that is.
    pub fn users_worth(&self, path: &[u8]) -> Option<(u32, Worth)> {
        let said = self.of_group(path).filter(|group| group.is_job());
        let user = said.filter_map(|group| group.set_by).find(|&by| by != 0)?;
        let worth = self.worth_by(path, |by| matches!(by, None | Some(0)) || by == Some(user))?;
        Some((user, worth))
    }

    /// Whether the group of this path is a job by anybody's word.
    pub fn is_job(&self, path: &[u8]) -> bool {
        self.of_group(path).any(GroupPolicy::is_job)
    }

    /// Takes in what was said of jobs while memgov ran, in front: the first match wins.
    pub fn put_first(&mut self, said: impl IntoIterator<Item = GroupPolicy>) {
        self.groups.splice(0..0, said);
    }

    /// What was said of jobs while memgov ran.
    pub fn set_jobs(&self) -> impl Iterator<Item = &GroupPolicy> {
        self.groups.iter().filter(|group| group.set_by.is_some())
    }

    /// The line that stands in for `memory.high` of the group of this path, if one is given.
    pub fn high(&self, path: &[u8]) -> Option<Limit> {
        self.of_group(path).find_map(|group| group.high)
    }

    /// What is left under the hard limit of the group of this path for what helps it; 0 where nothing is said.
    pub fn oom_reserve(&self, path: &[u8]) -> Bytes {
        // Mostly nobody says anything of it, and then no path is compared.
        let said = self.groups.iter().filter(|group| group.oom_reserve.is_some());
        said.filter(|group| group.matches(path)).find_map(|group| group.oom_reserve).unwrap_or_default()
    }

    /// For how long the kernel's OOM killer is held off the group of this path; `None`: it is not.
    pub fn oom_delay(&self, path: &[u8]) -> Option<Duration> {
        let said = self.groups.iter().filter(|group| group.oom_delay.is_some());
        said.filter(|group| group.matches(path)).find_map(|group| group.oom_delay)
    }

    /// Whether some rule chooses among jobs, so that all of them have to be known.
    pub fn chooses_jobs(&self) -> bool {
        self.rules.iter().any(Rule::chooses_jobs)
    }
    /// Whether some rule squeezes sockets.
    pub fn squeezes(&self) -> bool {
        self.rules.iter().flat_map(|rule| &rule.steps).any(|step| step.action == Action::Squeeze)
    }
    /// Whether some rule asks what sockets hold.
    pub fn asks_for_sockets(&self) -> bool {
        self.rules.iter().any(|rule| rule.when.group.is_some_and(Over::asks_for_sockets))
    }
    /// The least part of the time that a rule lets the host's tasks wait for memory; `None`: none is about that.
    pub fn pressure_of_host(&self) -> Option<Share> {
        let of_host = self.rules.iter().filter(|rule| rule.scope == Scope::Host);
        let lines = of_host.filter_map(|rule| match rule.when.group {
            Some(Over::Pressure { over, .. }) => Some(over),
            _ => None,
        });
        lines.min()
    }
    /// Whether some rule takes the largest process of the machine, so that all of them may have to be known.
    pub fn ranks_host(&self) -> bool {
        let largest = |step: &Step| step.action == Action::Kill { victim: Victim::Largest };
        self.rules.iter().any(|rule| rule.scope == Scope::Host && rule.steps.iter().any(largest))
    }
    /// Whether some rule takes trees of processes.
    pub fn takes_trees(&self) -> bool {
        let tree = |step: &Step| step.action == Action::Kill { victim: Victim::LowestPriority(Takes::Tree) };
        self.rules.iter().flat_map(|rule| &rule.steps).any(tree)
    }
    /// Whether some rule is about the host, or lends its memory.
    pub fn watches_host(&self) -> bool {
        self.rules.iter().any(|rule| rule.scope == Scope::Host || rule.lends())
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique; states of a running episode survive a reload under this name.
    pub name: String,
    /// Whom it concerns.
    pub scope: Scope,
    /// When it acts.
    pub when: Condition,
    /// Relieved at or under this amount of the meter, so that a value on the line does not flap.
    /// `None`: the limit less [`DEFAULT_BAND`] of it.
    pub until: Option<Bytes>,
    /// What to do, in order; `1..=MAX_STEPS` of them.
    pub steps: Vec<Step>,
    /// Write the letter's log line, once an episode.
    pub log: bool,
}

impl Rule {
    /// Whether some step lends memory of the host's.
    pub fn lends(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Lend(_)))
    }
    /// Whether some step has a program run.
    pub fn has_program(&self) -> bool {
        let program = |step: &Step| matches!(&step.action, Action::Hook(Hook { by: Helper::Program(_), .. }));
        self.steps.iter().any(program)
    }
    /// Whether some step tells the group's handler.
    pub fn asks_handler(&self) -> bool {
        self.steps.iter().any(|step| matches!(&step.action, Action::Hook(Hook { by: Helper::Handler, .. })))
    }
    /// Whether some step takes the job that gives way first, or acts on it.
    pub fn chooses_jobs(&self) -> bool {
        let of_host = self.scope == Scope::Host;
        let chooses = |step: &Step| match step.action {
            Action::Kill { victim } => matches!(victim, Victim::LowestPriority(_)),
            ref other => of_host && other.is_done_to_groups(),
        };
        self.steps.iter().any(chooses)
    }
}

/// The default hysteresis is this part (1/64) of the limit, but no more than [`MAX_DEFAULT_BAND`].
pub const DEFAULT_BAND: u64 = 64;
/// See [`DEFAULT_BAND`].
pub const MAX_DEFAULT_BAND: Bytes = Bytes::mib(8);

/// Whom a rule concerns.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// Groups as wholes. An RSS meter then means each process in them.
    Groups(Vec<Pattern>),
    /// Single processes.
    Processes(ProcessMatch),
    /// The machine as a whole. What is done for it is done to the job that gives way first, or to the largest process.
    Host,
}

/// All that is given must match; a list matches if one of it does. An empty match matches nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessMatch {
    /// Path of the process's group, or of an ancestor of it.
    pub groups: Vec<Pattern>,
    /// Target of `/proc/PID/exe`.
    pub exe: Vec<Pattern>,
    /// `comm`.
    pub comm: Vec<Pattern>,
    /// Real uid.
    pub uid: Vec<u32>,
}

impl ProcessMatch {
    /// Whether it names this process, whose group has the path `group` (`None`: not known, so no group is named).
    pub fn matches(&self, process: &Process, group: Option<&[u8]>) -> bool {
        let given = [self.groups.is_empty(), self.exe.is_empty(), self.comm.is_empty(), self.uid.is_empty()];
        let named = |patterns: &[Pattern], text: Option<&[u8]>| {
            text.is_some_and(|t| patterns.iter().any(|p| p.matches(t)))
        };
        !given.iter().all(|&empty| empty)
            && (self.groups.is_empty() || group.is_some_and(|path| names_it_or_above(&self.groups, path)))
            && (self.exe.is_empty() || named(&self.exe, process.exe.as_deref()))
            && (self.comm.is_empty() || named(&self.comm, Some(process.comm())))
            && (self.uid.is_empty() || process.uid.is_some_and(|uid| self.uid.contains(&uid)))
    }
}

/// Whether one of the patterns names the group `path` or a group above it. The root is above all, and so says nothing:
/// it only counts for itself.
pub fn names_it_or_above(patterns: &[Pattern], path: &[u8]) -> bool {
    let mut end = path.len();
    while end > 0 {
        if patterns.iter().any(|p| p.matches(&path[..end])) {
            return true;
        }
        end = path[..end].iter().rposition(|&b| b == b'/').unwrap_or(0);
    }
    false
}

/// One rung of the ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub action: Action,
    /// How long after the step before it (the first: after the crossing), if that has not helped.
    pub after: Duration,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only record what is seen.
    Record,
    /// Refuse further memory with ENOMEM while over.
    Deny,
    /// Let it run only part of the time, the less the further it is over.
    Slow(Slow),
    /// Stop all of it while over. Frozen processes give nothing back, so this waits for somebody outside, or for the next step.
    Freeze,
    /// Have the kernel reclaim from the group, down to the relief level, in memgov's time and not in the group's.
    Reclaim(Reclaim),
    /// Send a signal.
    Signal {
        /// Number, 1 to 64.
        signal: u8,
        /// Again after so long while over; `None`: once an episode.
        repeat: Option<Duration>,
    },
    /// SIGKILL.
    Kill {
        /// Whom.
        victim: Victim,
    },
    /// Raise the group's hard limit for a while, as long as the host has memory to spare.
    Lend(Lend),
    /// Stop all of it and ask somebody what is to happen; of groups as wholes only.
    Ask(Ask),
    /// Have the buffers of its TCP sockets stop growing; of groups as wholes only.
    Squeeze,
    /// Have a program of the administrator's run for it, and wait for that; of groups as wholes only.
    Hook(Hook),
}

impl Action {
    /// Whether it is done to a group, or to whoever is in it: what a rule of the host does to the job that gives way first.
    pub const fn is_done_to_groups(&self) -> bool {
        !matches!(self, Self::Record | Self::Kill { .. })
    }
    /// Whether it may come to a kill.
    pub const fn may_kill(&self) -> bool {
        matches!(self, Self::Kill { .. } | Self::Ask(_))
    }
}

/// How [`Action::Lend`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lend {
    /// The limit is raised by so much; by less it is not.
    pub amount: Bytes,
    /// So much of the host's memory has to stay available, though all that is lent were used.
    pub keep: Under,
    /// It is taken back after so long, helped or not.
    pub budget: Duration,
}

impl Lend {
    /// So much, with what is usual otherwise.
    pub const fn new(amount: Bytes) -> Self {
        Self { amount, keep: Under::Share(50), budget: Duration::from_secs(60) }
    }
}

/// How [`Action::Slow`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// It ends after so long, helped or not.
    pub budget: Duration,
    /// The least part of the time it may run, in thousandths: a floor of progress.
    pub floor: u16,
}

impl Default for Slow {
    fn default() -> Self {
        Self { budget: Duration::from_secs(300), floor: 5 }
    }
}

/// How [`Action::Reclaim`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// Thousandths of one processor that it may use.
    pub share: u16,
    /// Not all at once, but only as far as costs the group no more than this: how small it runs without feeling it. `None`: down to the relief
    /// level, whatever it costs.
    pub tolerance: Option<Tolerance>,
    /// Only while another group of the same rule is starved ([`crate::balance`]).
    pub for_starved: bool,
}

impl Default for Reclaim {
    fn default() -> Self {
        Self { share: 100, tolerance: None, for_starved: false }
    }
}

impl Rule {
    /// Whether all that it does is reclaim with a tolerance, which takes its time.
    pub fn is_patient(&self) -> bool {
        let patient =
            |step: &Step| matches!(step.action, Action::Reclaim(Reclaim { tolerance: Some(_), .. }));
        self.steps.iter().all(patient)
    }
    /// Whether it kills in groups that are full, and that is in the kernel's place: not one that goes by how fast memory goes, for while all wait nothing does.
    pub fn kills_when_full(&self) -> bool {
        matches!(self.scope, Scope::Groups(_))
            && matches!(self.when.group, Some(Over::Available { exhausted_in: None, .. }))
            && self.steps.iter().any(|step| matches!(step.action, Action::Kill { .. }))
    }
    /// Whether what it costs a group to do without memory has to be known.
    pub fn asks_for_strain(&self) -> bool {
        let asks = |step: &Step| matches!(step.action, Action::Reclaim(Reclaim { tolerance: Some(_), .. }));
        self.steps.iter().any(asks)
    }
}

/// Whom a kill takes in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Victim {
    /// All of it.
    #[default]
    Group,
    /// The process with the largest memory, down the ranking if it cannot be killed. For kernel memory, which a fork bomb holds in many
    /// small pieces, the family ([`crate::decision::Family`]) that holds most. Becomes [`Victim::Group`] where `memory.oom.group` is set.
    /// Of a rule for the host: the largest of the machine.
    Largest,
    /// The job below it (of a rule for the host: any) that gives way first, or part of it: [`crate::jobs`].
    LowestPriority(Takes),
}

/// How much of a job goes at once. All of it where `memory.oom.group` is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takes {
    /// All of it.
    #[default]
    Job,
    /// Its largest process, down the ranking if it cannot be killed.
    Process,
    /// Of the trees of processes in it (by parent, beginning with who has none in the job) the one that holds most.
    Tree,
}

/// How often to look at what has no event: the next look comes when half of the headroom could be used up at the
/// fastest growth seen, within these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Never sooner.
    pub fastest: Duration,
    /// Never later.
    pub slowest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { fastest: Duration::from_millis(10), slowest: Duration::from_secs(2) }
    }
}

/// A brake on memgov itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KillBudget {
    /// At most so many kill decisions...
    pub count: u32,
    /// ...in so long; more are recorded and not done.
    pub window: Duration,
}

impl Default for KillBudget {
    fn default() -> Self {
        Self { count: 10, window: Duration::from_secs(60) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_itself_and_by_those_above() {
        let names = |pattern: &str, path: &str| names_it_or_above(&[Pattern::new(pattern)], path.as_bytes());
        assert!(names("/a/*", "/a/b/c") && names("/a/b", "/a/b") && names("/", "/") && names("/a", "/a/b/c"));
        assert!(!names("/", "/a") && !names("/a/*", "/a") && !names("/b", "/a/b") && !names("/a/b", "/a/bc"));
    }

    #[test]
    fn all_that_is_given_must_match_and_nothing_given_matches_nothing() {
        let mut process = Process::new(crate::snapshot::ProcessId { pid: 7, start: 1 });
        process.comm[..6].copy_from_slice(b"foo) Z");
        process.uid = Some(1000);
        let mut wanted = ProcessMatch::default();
        assert!(!wanted.matches(&process, Some(b"/a")));
        wanted.comm = vec![Pattern::new("bar"), Pattern::new("foo*")];
        assert!(wanted.matches(&process, None));
        wanted.uid = vec![1000];
        assert!(wanted.matches(&process, None));
        wanted.exe = vec![Pattern::new("/usr/bin/ld*")];
        assert!(!wanted.matches(&process, None), "an exe that could not be read is not a match");
        process.exe = Some(b"/usr/bin/ld.bfd".as_slice().into());
        assert!(wanted.matches(&process, None));
        wanted.groups = vec![Pattern::new("/build/*")];
        assert!(!wanted.matches(&process, None) && wanted.matches(&process, Some(b"/build/x/y")));
    }
}
