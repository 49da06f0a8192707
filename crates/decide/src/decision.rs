//! What `decide` says and what `act` answers: plain data of fixed size, so that neither allocates under memory pressure.
//! Text is made at the edge (`record`), from the numbers kept here.

mod outcome;

use std::time::Duration;

use crate::jobs::Contender;
use crate::policy::{Kinds, Meter, RuleId};
use crate::pressure::Share;
use crate::question::Verdict;
use crate::snapshot::{GroupId, GroupSlot, ProcessId, ProcessSlot, Untouchable};
use crate::units::{Bytes, Time};
pub use outcome::{Mechanism, Operation, Outcome, Report, UNDONE};

/// Numbers decisions through one run of the daemon; `memgov explain` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId(pub u64);

/// Numbers episodes: from the crossing of a line to the relief. All decisions of one episode carry its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpisodeId(pub u64);

/// Where the order comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A rule of the configuration.
    Rule(RuleId),
    /// The control set on the target process (or inherited by it).
    Control,
}

/// Whom a decision concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A whole group, its subtree included.
    Group(GroupId, GroupSlot),
    /// One process.
    Process(ProcessId, ProcessSlot),
    /// The machine.
    Host,
}

/// Lasting actions begin, are kept up (new children, a new share of running time) and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Start.
    Begin,
    /// Still over: sweep in newcomers, renew what was undone, adjust.
    Sustain,
    /// Put everything back as it was.
    End,
}

/// How much is to be reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Until the meter has fallen by so much from what was read: what the group grows by meanwhile goes with it.
    Down(Bytes),
    /// So much and no more: what the group grows by meanwhile stays.
    Amount(Bytes),
}

impl Extent {
    /// How much that is by the reading it was decided on.
    pub const fn bytes(self) -> Bytes {
        match self {
            Self::Down(bytes) | Self::Amount(bytes) => bytes,
        }
    }
}

/// What `act` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Write it down, nothing more.
    Record,
    /// Refuse memory.
    Deny {
        /// Begin, sustain or end.
        phase: Phase,
        /// What is over its line: decides what refuses it best.
        meter: Meter,
    },
    /// Run not at all.
    Freeze {
        /// Begin, sustain or end.
        phase: Phase,
    },
    /// Run only part of the time.
    Slow {
        /// Begin, sustain or end.
        phase: Phase,
        /// Thousandths of the time it may run.
        share: u16,
    },
    /// Reclaim from the group.
    Reclaim {
        /// Begin, sustain or end.
        phase: Phase,
        /// What is over its line: of kernel memory not all can be reclaimed, and a trial tells.
        meter: Meter,
        /// How much is to go.
        extent: Extent,
        /// Thousandths of one processor that this may use.
        share: u16,
    },
    /// Have the buffers of its sockets stop growing.
    Squeeze {
        /// Begin, sustain or end.
        phase: Phase,
    },
    /// Send a signal.
    Signal {
        /// Number.
        signal: u8,
    },
    /// Send SIGKILL.
    Kill {
        /// Whom.
        take: Take,
    },
    /// Nothing to do: the episode is over. Closes it in the record.
    Relieved,
    /// Raise the group's hard limit, or take that back.
    Lend {
        /// Begin or end: there is nothing to be kept up.
        phase: Phase,
        /// By so much.
        amount: Bytes,
    },
    /// Ask an operator what is to happen; the target stands still. The number of the decision is the question's.
    Ask {
        /// So long the question is open.
        timeout: Duration,
        /// What happens when nobody has answered by then.
        default: Verdict,
    },
    /// Have the program of this step run for the group. It ends by itself or at its time, whatever becomes of the episode.
    Hook,
    /// Nothing to do: what was answered, or what happens because nobody has. What follows from it are decisions of their own.
    Answered {
        /// To which question.
        question: DecisionId,
        /// What.
        verdict: Verdict,
        /// Of [`Verdict::GoOn`]: it is not asked again for so long.
        time: Option<Duration>,
    },
}

/// Whom a kill takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The whole target.
    Whole,
    /// The first of the ranking that can be killed.
    One,
    /// All of the target's processes that belong together; the ranking shows the largest of them.
    Family(Family),
    /// This process of the target's and all that have come from it and are in the target too; the ranking shows the largest of them.
    Tree(ProcessId),
}

/// Processes that belong together: what a fork bomb is made of, though each of it is small and its parents are gone. Of each of them all that is
/// given here is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Family {
    /// Its session (`setsid(2)`): the number of the process that began it.
    pub session: Option<u32>,
    /// `comm`, NUL-padded.
    pub comm: Option<[u8; 16]>,
    /// It has started later than this, in clock ticks since boot.
    pub since: Option<u64>,
    /// Besides all those: an older process that goes on starting them.
    pub parent: Option<ProcessId>,
}

impl Family {
    /// Whether a process of this session and name is one of them.
    pub fn holds(&self, who: ProcessId, session: u32, comm: &[u8; 16]) -> bool {
        let of = self.session.is_none_or(|its| its == session)
            && self.comm.is_none_or(|its| its == *comm)
            && self.since.is_none_or(|since| who.start > since);
        of || self.parent == Some(who)
    }
}

/// Why, with the numbers that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Group usage is over its line.
    Usage {
        /// The group that was compared: the target or an ancestor.
        group: GroupSlot,
        /// Its usage.
        usage: Bytes,
        /// The line.
        line: Bytes,
    },
    /// The group's kernel memory is over its line.
    Kernel {
        /// The group.
        group: GroupSlot,
        /// Its kernel memory.
        kernel: Bytes,
        /// The line.
        line: Bytes,
    },
    /// The buffers of the group's sockets are over their line.
    Sockets {
        /// The group.
        group: GroupSlot,
        /// What they hold.
        sockets: Bytes,
        /// The line.
        line: Bytes,
    },
    /// All of the group's memory in one pool is over its line.
    Pool {
        /// The group.
        group: GroupSlot,
        /// Usage, with the buffers of sockets.
        pool: Bytes,
        /// What of it those buffers hold, as far as that is known.
        sockets: Option<Bytes>,
        /// The line.
        line: Bytes,
    },
    /// Resident memory is over its line.
    Rss {
        /// Summed kinds.
        kinds: Kinds,
        /// Their sum.
        rss: Bytes,
        /// The line.
        line: Bytes,
    },
    /// Both.
    UsageAndRss {
        /// The group that was compared.
        group: GroupSlot,
        /// Its usage.
        usage: Bytes,
        /// Its line.
        usage_line: Bytes,
        /// Summed kinds.
        kinds: Kinds,
        /// Their sum.
        rss: Bytes,
        /// The line.
        line: Bytes,
    },
    /// Less is available than the line allows.
    Available {
        /// The group under whose `memory.max` that is; `None`: of the host.
        group: Option<GroupSlot>,
        /// What is left.
        available: Bytes,
        /// Under this it is too little.
        line: Bytes,
        /// How fast it falls, in bytes a second, where the rule asks for that too.
        falling: Option<u64>,
    },
    /// Somebody waits for memory for more of the time than the line allows.
    Pressure {
        /// In this group; `None`: on the host.
        group: Option<GroupSlot>,
        /// So much of it.
        stalled: Share,
        /// The line.
        line: Share,
    },
    /// Nobody waits for memory any more, or no longer than this.
    Calm {
        /// So much of the time.
        stalled: Share,
        /// The relief level.
        until: Share,
    },
    /// The meter is back at or under the relief level.
    Relieved {
        /// The meter (RSS sum where the rule has one, else usage).
        value: Bytes,
        /// The relief level.
        until: Bytes,
    },
    /// So much is available again.
    Recovered {
        /// What is available.
        available: Bytes,
        /// The relief level.
        until: Bytes,
    },
    /// The rule or control is no longer in force.
    RuleGone,
    /// The target is gone, or became untouchable.
    TargetGone,
    /// A slowdown has used up its time.
    BudgetSpent {
        /// The budget.
        budget: Duration,
    },
    /// The kill budget refuses: recorded, not done.
    TooManyKills {
        /// Kills in the window.
        count: u32,
        /// The window.
        window: Duration,
    },
    /// The target may not be touched.
    Protected(Protected),
    /// An earlier kill's memory is still on its way back: waited for, nobody else is hit.
    FreeingPending {
        /// How much is expected.
        expected: Bytes,
    },
    /// There is no job that could give way.
    NoJob {
        /// Jobs that were looked at...
        considered: u32,
        /// ...and how many of them are left out: they asked for it and may, or could not be killed a moment ago.
        left_out: u32,
    },
    /// Of none of the group's processes, alone or together, is it known that its death would help: nobody is killed on suspicion.
    NobodyHoldsEnough {
        /// The most that is known of any.
        most: Bytes,
        /// What it would have to be.
        needed: Bytes,
    },
    /// The host has not enough to spare: nothing is lent, or what was lent is taken back.
    HostShort {
        /// What is available and not promised to others already; `None`: it is not known.
        available: Option<Bytes>,
        /// So much has to stay.
        keep: Bytes,
        /// And so much besides, which was to be lent.
        amount: Bytes,
    },
    /// What was lent is due.
    LoanDue {
        /// The time for which it was.
        budget: Duration,
    },
    /// Somebody who was asked has said so.
    Answered {
        /// His uid.
        by: u32,
    },
    /// Nobody who was asked has said anything.
    NoAnswer {
        /// The time there was for it.
        within: Duration,
    },
}

/// Why somebody may not be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protected {
    /// A fact.
    Fact(Untouchable),
    /// The never-list.
    Never,
    /// `oom_score_adj` is -1000.
    OomScoreAdj,
}

/// One of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub process: ProcessId,
    /// Its row.
    pub slot: ProcessSlot,
    /// What it was ranked by.
    pub rss: Bytes,
}

/// At most so many candidates are ranked.
pub const MAX_CANDIDATES: usize = 16;

/// At most so many jobs: as many as take no more room than the candidates.
pub const MAX_JOBS: usize = 8;

/// A ranking, best victim first: of processes, or of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    entries: Entries,
    ranked: u8,
    /// Processes or jobs that were looked at, ranked or not.
    pub considered: u32,
    /// Of those, how many may not be touched.
    pub protected: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    Processes([Entry; MAX_CANDIDATES]),
    Jobs([Contender; MAX_JOBS]),
}

impl Default for Entries {
    fn default() -> Self {
        Self::Processes([Entry::default(); MAX_CANDIDATES])
    }
}

/// A [`Candidate`] without gaps: rankings are kept by the hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    rss: Bytes,
    start: u64,
    pid: u32,
    slot: u32,
}

impl From<Candidate> for Entry {
    fn from(Candidate { process, slot, rss }: Candidate) -> Self {
        Self { rss, start: process.start, pid: process.pid, slot: slot.0 }
    }
}

impl From<Entry> for Candidate {
    fn from(Entry { rss, start, pid, slot }: Entry) -> Self {
        Self { process: ProcessId { pid, start }, slot: ProcessSlot(slot), rss }
    }
}

impl Ranking {
    /// An empty ranking of jobs.
    pub fn of_jobs() -> Self {
        Self { entries: Entries::Jobs([Contender::default(); MAX_JOBS]), ..Self::default() }
    }
    /// The candidates, best first.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> {
        self.ranked().iter().map(|&entry| entry.into())
    }
    /// The jobs, first to give way first.
    pub fn jobs(&self) -> &[Contender] {
        match &self.entries {
            Entries::Jobs(jobs) => &jobs[..usize::from(self.ranked)],
            Entries::Processes(_) => &[],
        }
    }
    /// Nobody was looked at.
    pub fn is_empty(&self) -> bool {
        self.ranked == 0 && self.considered == 0
    }
    /// Keeps the best [`MAX_CANDIDATES`]: larger first, then the younger, then the higher pid, so that ties are settled.
    pub fn offer(&mut self, candidate: Candidate) {
        let key = |entry: &Entry| (entry.rss, entry.start, entry.pid);
        if let Entries::Processes(entries) = &mut self.entries {
            insert(entries, &mut self.ranked, candidate.into(), |a, b| key(a) > key(b));
        }
    }
    /// Keeps the first [`MAX_JOBS`] to give way.
    pub fn offer_job(&mut self, job: Contender) {
        if let Entries::Jobs(jobs) = &mut self.entries {
            insert(jobs, &mut self.ranked, job, Contender::gives_way_before);
        }
    }
    fn ranked(&self) -> &[Entry] {
        match &self.entries {
            Entries::Processes(entries) => &entries[..usize::from(self.ranked)],
            Entries::Jobs(_) => &[],
        }
    }
}

/// Puts `new` where it belongs among the first `ranked`; who finds no room any more falls out.
fn insert<T>(entries: &mut [T], ranked: &mut u8, new: T, before: impl Fn(&T, &T) -> bool) {
    let there = &entries[..usize::from(*ranked)];
    let place = there.iter().position(|entry| before(&new, entry)).unwrap_or(there.len());
    let most = entries.len();
    let Some(behind) = entries.get_mut(place..).filter(|behind| !behind.is_empty()) else { return };
    behind.rotate_right(1);
    behind[0] = new;
    *ranked += u8::from(usize::from(*ranked) < most);
}

/// One decision. `R`: how its ranking is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision<R = Ranking> {
    /// Its number.
    pub id: DecisionId,
    /// Its episode.
    pub episode: EpisodeId,
    /// When.
    pub at: Time,
    /// Which rule or control.
    pub source: Source,
    /// Which step of the ladder, from 0.
    pub step: u8,
    /// Whom.
    pub target: Target,
    /// What.
    pub order: Order,
    /// Why.
    pub reason: Reason,
    /// The letter's log line is due with this decision: the first of its episode.
    pub log: bool,
    /// Worth a record: begins, ends, one-shot orders. `Sustain` orders are not, they come every tick.
    pub notable: bool,
    /// For kills of one among many.
    pub ranking: R,
}

impl<R> Decision<R> {
    /// The same decision with its ranking kept in another way, and what was there.
    pub fn with_ranking<S>(self, ranking: S) -> (Decision<S>, R) {
        let Self { id, episode, at, source, step, target, order, reason, log, notable, ranking: old } = self;
        (Decision { id, episode, at, source, step, target, order, reason, log, notable, ranking }, old)
    }
}

/// Rankings of one tick, at most. They are ten times as large as all the rest of a decision, and kills are few.
const MAX_RANKINGS: usize = 128;

/// Decisions of one tick; bounded.
#[derive(Debug)]
pub struct Decisions {
    list: Vec<Decision<Option<u16>>>,
    rankings: Vec<Ranking>,
    /// Decisions that found no room; they come again next tick, because their condition still holds.
    pub overflow: u64,
}

impl Decisions {
    /// Room for so many.
    pub fn with_capacity(capacity: usize) -> Self {
        let rankings = Vec::with_capacity(capacity.min(MAX_RANKINGS));
        Self { list: Vec::with_capacity(capacity), rankings, overflow: 0 }
    }
    /// Empties it, keeping the room.
    pub fn clear(&mut self) {
        self.list.clear();
        self.rankings.clear();
    }
    /// Adds one if there is room; says whether there was.
    pub fn push(&mut self, decision: Decision) -> bool {
        let ranked = !decision.ranking.is_empty();
        let full = self.list.len() == self.list.capacity()
            || ranked && self.rankings.len() == self.rankings.capacity();
        if full {
            self.overflow += 1;
            return false;
        }
        let place = u16::try_from(self.rankings.len()).ok().filter(|_| ranked);
        let (decision, ranking) = decision.with_ranking(place);
        self.list.push(decision);
        if ranked {
            self.rankings.push(ranking);
        }
        true
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// One of them, in order.
    pub fn get(&self, at: usize) -> Option<Decision> {
        let decision = *self.list.get(at)?;
        let ranking = decision.ranking.and_then(|place| self.rankings.get(usize::from(place)));
        Some(decision.with_ranking(ranking.copied().unwrap_or_default()).0)
    }
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Decision> {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}
