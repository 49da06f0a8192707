//! What the administrator asked for, already checked: a list of rules, each *meter x limit x actions*.
//!
//! `config.rs` of the memgov crate makes a [`Policy`] from TOML; nothing here parses text except [`Pattern`].

use std::time::Duration;

use crate::control::{ControlAction, Flags, MemControl};
use crate::hook::Hook;
use crate::jobs::Worth;
use crate::question::Ask;
use crate::snapshot::{Group, Process};
use crate::units::{Bytes, Limit};
use crate::working_set::Tolerance;

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
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPolicy {
    /// Which groups.
    pub groups: Vec<Pattern>,
    /// A line like `memory.high`, for v1 where the kernel has none, or in place of the kernel's. Nothing is written to the kernel.
    pub high: Option<Limit>,
    /// Lower is given up first. A group for which this or `reservation` is said is a job ([`Worth`]).
    pub priority: Option<i32>,
    /// What it may use without losing the protection of its reservation.
    pub reservation: Option<Bytes>,
}

impl GroupPolicy {
    /// Whether it makes its groups jobs.
    pub const fn is_job(&self) -> bool {
        self.priority.is_some() || self.reservation.is_some()
    }
}

impl Policy {
    /// What the group of this path is worth as a job; `None`: it is none.
    pub fn worth(&self, path: &[u8]) -> Option<Worth> {
        let named = || self.groups.iter().filter(|group| group.groups.iter().any(|p| p.matches(path)));
        let priority = named().find_map(|group| group.priority);
        let reservation = named().find_map(|group| group.reservation);
        (priority.is_some() || reservation.is_some()).then(|| Worth {
            priority: priority.unwrap_or_default(),
            reservation: reservation.unwrap_or_default(),
        })
    }
    /// Whether some rule chooses among jobs, so that all of them have to be known.
    pub fn chooses_jobs(&self) -> bool {
        self.rules.iter().any(Rule::chooses_jobs)
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
    pub fn has_hook(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Hook(_)))
    }
    /// Whether some step takes the job that gives way first.
    pub fn chooses_jobs(&self) -> bool {
        let chooses = |step: &Step| step.action == Action::Kill { victim: Victim::LowestPriority };
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
    /// The machine as a whole. Only its available memory is measured, and only jobs are hit for it.
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

/// Resident memory kinds whose sum is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds {
    /// Anonymous pages.
    pub anon: bool,
    /// File pages.
    pub file: bool,
    /// Shared memory and tmpfs pages.
    pub shmem: bool,
}

impl Kinds {
    /// The kinds whose RSS flags are set.
    pub const fn of(flags: Flags) -> Self {
        Self {
            anon: flags.has(Flags::RSS_ANON),
            file: flags.has(Flags::RSS_FILE),
            shmem: flags.has(Flags::RSS_SHMEM),
        }
    }
    /// Whether any kind is selected.
    pub const fn any(self) -> bool {
        self.anon || self.file || self.shmem
    }
}

/// What a condition compares with its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meter {
    /// A group's usage.
    Usage,
    /// A group's kernel memory.
    Kernel,
    /// What the host, or a group under its limit, can still give.
    Available,
    /// The sum of these kinds of a process's resident memory.
    Rss(Kinds),
}

/// When to act. Both parts must hold if both are given; one is given at least. Every comparison is strict: at the line is not over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The group's usage, or kernel memory (for a process: of the nearest group above it whose line is not `max`, or any ancestor).
    pub group: Option<Over>,
    /// The process's resident memory.
    pub rss: Option<RssOver>,
}

impl Condition {
    /// What is compared: of two parts the process's own.
    pub fn meter(&self) -> Meter {
        match (self.rss, self.group) {
            (Some(rss), _) => Meter::Rss(rss.kinds),
            (None, Some(Over::Kernel(_))) => Meter::Kernel,
            (None, Some(Over::Available { .. })) => Meter::Available,
            (None, _) => Meter::Usage,
        }
    }
}

/// A line for what a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A given amount.
    Amount(Bytes),
    /// `memory.high` and so much on top (the letter's climit). Never over where high is `max` or unknown.
    High {
        /// climit.
        plus: Bytes,
    },
    /// A given amount of kernel memory; of groups as wholes only.
    Kernel(Bytes),
    /// Less than so much is left: of the host's memory, or of a group's under its `memory.max`. What is compared is what cannot be had back
    /// (all that is used, less what the kernel can reclaim) with what there is less this, so that more is worse here too.
    Available {
        /// So much.
        under: Under,
        /// And at the rate of the last moments nothing would be left in less than this; of the host only.
        exhausted_in: Option<Duration>,
    },
}

/// How much has to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// An amount.
    Amount(Bytes),
    /// Thousandths of what there is in all: the host's memory, a group's `memory.max`.
    Share(u16),
}

impl Under {
    /// As an amount, of so much in all.
    pub fn of(self, all: Bytes) -> Bytes {
        match self {
            Self::Amount(bytes) => bytes,
            Self::Share(thousandths) => {
                let part = u128::from(all.0) * u128::from(thousandths) / 1000;
                Bytes(u64::try_from(part).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Over {
    /// Where the line lies for this group; `None` where there is none or it is not known.
    pub fn line(self, group: &Group) -> Option<Bytes> {
        match self {
            Self::Amount(bytes) | Self::Kernel(bytes) => Some(bytes),
            Self::High { plus } => group.high?.bytes().map(|high| high + plus),
            Self::Available { under, .. } => group.max?.bytes().map(|max| max - under.of(max)),
        }
    }
    /// Whether it is not known where the line lies; else there is one, or there is none.
    pub const fn line_is_unknown(self, group: &Group) -> bool {
        match self {
            Self::Amount(_) | Self::Kernel(_) => false,
            Self::High { .. } => group.high.is_none(),
            Self::Available { .. } => group.max.is_none(),
        }
    }
    /// What is compared with it; `None`: not known.
    pub fn meter(self, group: &Group) -> Option<Bytes> {
        match self {
            Self::Kernel(_) => group.kernel,
            Self::Amount(_) | Self::High { .. } => group.usage,
            Self::Available { .. } => {
                let (usage, line) = (group.usage?, self.line(group)?);
                match group.reclaimable {
                    Some(reclaimable) => Some(usage - reclaimable),
                    // What can be had back makes it less, and this is not over already.
                    None => (usage <= line).then_some(usage),
                }
            }
        }
    }
    /// A line on kernel memory at or above the limit of the group itself: there is one limit then, for both kinds, and the line only keeps count. That kernel memory cannot
    /// come over it is not all: the limit may be lowered under what is there, and nobody is to be refused beforehand for a line that is none.
    pub fn only_tracks(self, group: &Group) -> bool {
        matches!(self, Self::Kernel(line) if group.max.and_then(Limit::bytes).is_some_and(|max| line >= max))
    }
    /// Whether it is about kernel memory and not about usage.
    pub const fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel(_))
    }
}

/// A line for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssOver {
    /// Which kinds are summed.
    pub kinds: Kinds,
    /// The line (the letter's plimit).
    pub over: Bytes,
}

impl RssOver {
    /// The sum of the selected kinds; `None` if one of them is unknown.
    pub fn meter(self, process: &Process) -> Option<Bytes> {
        let mut sum = Bytes(0);
        for (wanted, value) in [
            (self.kinds.anon, process.rss.anon),
            (self.kinds.file, process.rss.file),
            (self.kinds.shmem, process.rss.shmem),
        ] {
            if wanted {
                sum = sum + value?;
            }
        }
        Some(sum)
    }
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
    /// Have a program of the administrator's run for it, and wait for that; of groups as wholes only.
    Hook(Hook),
}

impl Action {
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
    Largest,
    /// The job below it (of a rule for the host: any) that gives way first, as a whole: [`crate::jobs`].
    LowestPriority,
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

impl MemControl {
    /// When this control acts; `None` for NONE, and for a signal already spent.
    pub fn condition(&self) -> Option<Condition> {
        let acts = match self.action {
            ControlAction::None => false,
            ControlAction::Signal => self.signal != 0,
            _ => true,
        };
        let kinds = Kinds::of(self.flags);
        let rss = kinds.any().then_some(RssOver { kinds, over: self.plimit });
        let group = (!self.flags.has(Flags::DIRECT)).then_some(Over::High { plus: self.climit });
        acts.then_some(Condition { group, rss })
    }
}

/// A path pattern as systemd and shells write it: `*` any run of bytes but `/`, `**` any run, `?` one byte but `/`,
/// `\` takes
/// away the meaning of the byte behind it, everything else means itself. Matches the whole text. `/a/*` is the children of `/a`, `/a/**` everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<[u8]>);

impl Pattern {
    /// Every text is a pattern.
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
    /// A pattern for one path and nothing else, whatever bytes the path has.
    pub fn literal(path: &[u8]) -> Self {
        Self(
            path.iter()
                .flat_map(|&b| if matches!(b, b'*' | b'?' | b'\\') { vec![b'\\', b] } else { vec![b] })
                .collect(),
        )
    }
    /// The text it was made from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// Whether all of `text` matches. Linear in practice and never worse than quadratic; allocates nothing.
    pub fn matches(&self, text: &[u8]) -> bool {
        glob(&self.0, text)
    }
    /// Whether a path below the directory `dir` could match: decides which directories are worth watching.
    pub fn may_match_below(&self, dir: &[u8]) -> bool {
        let mut pattern = self.0.split(|&b| b == b'/').filter(|c| !c.is_empty());
        for component in dir.split(|&b| b == b'/').filter(|c| !c.is_empty()) {
            match pattern.next() {
                None => return false,
                Some(wanted) if wanted.windows(2).any(|w| w == b"**") => return true,
                Some(wanted) if !glob(wanted, component) => return false,
                Some(_) => {}
            }
        }
        pattern.next().is_some()
    }
}

/// Greedy matching with one point of return for `*` and one for `**`: when `*` cannot go on because of a `/`,
/// the last `**` takes one byte more.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    /// Where to go on in the pattern, and from which byte of the text.
    type Return = Option<(usize, usize)>;
    let (mut star, mut deep): (Return, Return) = (None, None);
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        match pattern.get(p) {
            Some(b'*') if pattern.get(p + 1) == Some(&b'*') => {
                deep = Some((p + 2, t));
                star = None;
                p += 2;
                continue;
            }
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') if t < text.len() && text[t] != b'/' => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some(b'\\') if p + 1 < pattern.len() && text.get(t) == Some(&pattern[p + 1]) => {
                (p, t) = (p + 2, t + 1);
                continue;
            }
            Some(b'\\') if p + 1 < pattern.len() => {}
            Some(&byte) if byte != b'?' && text.get(t) == Some(&byte) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            _ => {}
        }
        if let Some((after, from)) = star
            && from < text.len()
            && text[from] != b'/'
        {
            star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else if let Some((after, from)) = deep
            && from < text.len()
        {
            deep = Some((after, from + 1));
            star = None;
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_that_can_hold_a_match_are_watched() {
        let below = |pattern: &str, dir: &str| Pattern::new(pattern).may_match_below(dir.as_bytes());
        assert!(
            below("/a/*", "/") && below("/a/*", "/a") && below("/a/**", "/a/b/c") && below("/**/x", "/q")
        );
        assert!(!below("/a/*", "/b") && !below("/a/*", "/a/b") && !below("/a", "/a"));
    }

    #[test]
    fn a_literal_matches_itself_only() {
        for path in ["/a*b", "/a?", "/a\\b", "/**", "/plain"] {
            assert!(Pattern::literal(path.as_bytes()).matches(path.as_bytes()), "{path}");
        }
        assert!(!Pattern::literal(b"/a*b").matches(b"/axb"));
        assert!(!Pattern::literal(b"/**").matches(b"/x"));
    }

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

    #[test]
    fn patterns_match_as_paths_do() {
        let yes = [
            ("/a/*", "/a/b"),
            ("/a/**", "/a/b/c"),
            ("/a/**/d", "/a/b/c/d"),
            ("/a?c", "/abc"),
            ("/", "/"),
            ("/usr/bin/ld*", "/usr/bin/ld.bfd"),
            ("/**/x*y", "/a/xb/x/xay"),
            ("/a/*", "/a/b\nc"),
            ("**", ""),
        ];
        for (pattern, text) in yes {
            assert!(Pattern::new(pattern).matches(text.as_bytes()), "{pattern} should match {text}");
        }
        let no = [
            ("/a/*", "/a/b/c"),
            ("/a/*", "/a"),
            ("/a", "/a/"),
            ("/a?c", "/a/c"),
            ("", "x"),
            ("/**/z", "/a/b"),
        ];
        for (pattern, text) in no {
            assert!(!Pattern::new(pattern).matches(text.as_bytes()), "{pattern} should not match {text}");
        }
    }
}
