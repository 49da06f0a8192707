//! A small world for the tests: a snapshot that is changed by hand, a governor over it, and a clock that only moves when told to.
//! What is changed becomes fresh; [`World::tick`] lets time pass and returns what was decided.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that is set up wrongly is to fail")]

use std::time::Duration;

use memgov_decide::control::MemControl;
use memgov_decide::decision::*;
use memgov_decide::governor::{Bounds, Governor};
use memgov_decide::policy::*;
use memgov_decide::snapshot::*;
use memgov_decide::units::{Bytes, Limit, Time};

pub mod script;

pub const BOUNDS: Bounds = Bounds { groups: 64, processes: 64, controls: 32, episodes: 64 };

pub struct World {
    pub snap: Snapshot,
    pub governor: Governor,
    pub out: Decisions,
    pub next_id: u64,
}

impl World {
    pub fn new(policy: Policy) -> Self {
        Self::bounded(policy, BOUNDS, 256)
    }

    pub fn bounded(policy: Policy, bounds: Bounds, room: usize) -> Self {
        let mut snap = Snapshot::with_capacity(bounds.groups, bounds.processes);
        snap.at = Time(1_000_000_000_000);
        let governor = Governor::new(policy, bounds);
        Self { snap, governor, out: Decisions::with_capacity(room), next_id: 1 }
    }

    /// A new group with this `memory.high` in MiB, no `memory.max`, and a known usage of 0. Its parent is found by its path.
    pub fn group(&mut self, path: &str, high: Option<u64>) -> GroupSlot {
        let mut row = Group::new(GroupId(self.next_id), path.as_bytes());
        self.next_id += 1;
        let above = |other: &Group| path.len() > other.path.len() && path.as_bytes().starts_with(&other.path);
        let parents = self.snap.groups.iter().filter(|(_, other)| above(other));
        row.parent = parents.max_by_key(|(_, other)| other.path.len()).map(|(slot, _)| GroupSlot(slot));
        row.high = Some(high.map_or(Limit::Max, |high| Limit::At(Bytes::mib(high))));
        row.max = Some(Limit::Max);
        row.usage = Some(Bytes(0));
        let slot = GroupSlot(self.snap.groups.insert(row).unwrap());
        self.snap.fresh_groups.push(slot);
        slot
    }

    /// A new process without resident memory.
    pub fn process(&mut self, pid: u32, group: Option<GroupSlot>) -> ProcessSlot {
        let mut row = Process::new(ProcessId { pid, start: self.next_id });
        self.next_id += 1;
        row.group = group;
        row.uid = Some(1000);
        row.comm[..3].copy_from_slice(b"hog");
        row.rss = Rss { anon: Some(Bytes(0)), file: Some(Bytes(0)), shmem: Some(Bytes(0)) };
        let slot = ProcessSlot(self.snap.processes.insert(row).unwrap());
        self.snap.fresh_processes.push(slot);
        slot
    }

    pub fn id(&self, slot: ProcessSlot) -> ProcessId {
        self.snap.process(slot).unwrap().id
    }

    pub fn row(&mut self, slot: GroupSlot) -> &mut Group {
        if !self.snap.fresh_groups.contains(&slot) {
            self.snap.fresh_groups.push(slot);
        }
        self.snap.groups.get_mut(slot.0).unwrap()
    }

    pub fn process_row(&mut self, slot: ProcessSlot) -> &mut Process {
        if !self.snap.fresh_processes.contains(&slot) {
            self.snap.fresh_processes.push(slot);
        }
        self.snap.processes.get_mut(slot.0).unwrap()
    }

    pub fn usage(&mut self, slot: GroupSlot, usage: impl Into<Option<Bytes>>) {
        self.row(slot).usage = usage.into();
    }

    pub fn kernel(&mut self, slot: GroupSlot, kernel: impl Into<Option<Bytes>>) {
        self.row(slot).kernel = kernel.into();
    }

    /// What the host has left, in MiB; it is read in the next tick.
    pub fn available(&mut self, mib: impl Into<Option<u64>>) {
        self.snap.memory.available = mib.into().map(Bytes::mib);
        self.snap.fresh_memory = true;
    }

    pub fn anon(&mut self, slot: ProcessSlot, anon: impl Into<Option<Bytes>>) {
        self.process_row(slot).rss.anon = anon.into();
    }

    /// Lets time pass; what was changed is read at the end of it, and decided on.
    pub fn tick(&mut self, ms: u64) -> Vec<Decision> {
        let at = self.snap.at + Duration::from_millis(ms);
        self.snap.at = at;
        for i in 0..self.snap.fresh_groups.len() {
            self.snap.groups.get_mut(self.snap.fresh_groups[i].0).unwrap().read_at = at;
        }
        for i in 0..self.snap.fresh_processes.len() {
            self.snap.processes.get_mut(self.snap.fresh_processes[i].0).unwrap().read_at = at;
        }
        if self.snap.fresh_memory {
            self.snap.memory.read_at = at;
        }
        self.governor.step(&self.snap, &mut self.out);
        self.snap.begin(at);
        self.out.iter().collect()
    }

    /// As [`World::tick`], told in short words.
    pub fn said(&mut self, ms: u64) -> Vec<String> {
        let decisions = self.tick(ms);
        decisions.iter().map(|d| self.words(d)).collect()
    }

    /// A decision in short: order, target, and the reason if it is not just a meter over its line.
    pub fn words(&self, decision: &Decision) -> String {
        let phase = |phase| match phase {
            Phase::Begin => "begin",
            Phase::Sustain => "keep",
            Phase::End => "end",
        };
        let order = match decision.order {
            Order::Record => "record".into(),
            Order::Deny { phase: p, .. } => format!("deny-{}", phase(p)),
            Order::Slow { phase: p, .. } => format!("slow-{}", phase(p)),
            Order::Reclaim { phase: p, extent, .. } => format!("reclaim-{}-{}", phase(p), extent.bytes()),
            Order::Signal { signal } => format!("signal-{signal}"),
            Order::Freeze { phase: p } => format!("freeze-{}", phase(p)),
            Order::Kill { take: Take::Whole } => "kill".into(),
            Order::Kill { take: Take::Family(family) } => {
                let comm = family.comm.map_or("*".into(), |comm| {
                    comm.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect::<String>()
                });
                let session = family.session.map_or("*".into(), |session| session.to_string());
                format!("kill-family-{comm}-{session}")
            }
            Order::Kill { take: Take::Tree(root) } => format!("kill-tree-{}", root.pid),
            Order::Kill { take: Take::One } => {
                let pids: Vec<String> = decision.ranking.iter().map(|c| c.process.pid.to_string()).collect();
                format!("kill-one-of-{}", pids.join("-"))
            }
            Order::Relieved => "relieved".into(),
            Order::Lend { phase: p, amount } => format!("lend-{}-{amount}", phase(p)),
            Order::Hook => "hook".into(),
            Order::Squeeze { phase: p } => format!("squeeze-{}", phase(p)),
            Order::Ask { .. } => "ask".into(),
            Order::Answered { verdict, .. } => format!("answered-{verdict:?}"),
        };
        let target = match decision.target {
            Target::Group(id, _) => {
                let row = self.snap.groups.iter().find(|(_, row)| row.id == id);
                row.map_or("?".into(), |(_, row)| String::from_utf8_lossy(&row.path).into_owned())
            }
            Target::Process(id, _) => id.pid.to_string(),
            Target::Host => "host".into(),
        };
        let reason = match decision.reason {
            Reason::Usage { .. }
            | Reason::Kernel { .. }
            | Reason::Sockets { .. }
            | Reason::Pool { .. }
            | Reason::Rss { .. }
            | Reason::UsageAndRss { .. }
            | Reason::Available { .. }
            | Reason::Pressure { .. }
            | Reason::Calm { .. }
            | Reason::Relieved { .. }
            | Reason::Recovered { .. } => "",
            Reason::RuleGone => " rule-gone",
            Reason::TargetGone => " target-gone",
            Reason::BudgetSpent { .. } => " budget-spent",
            Reason::TooManyKills { .. } => " too-many-kills",
            Reason::Protected(_) => " protected",
            Reason::FreeingPending { .. } => " freeing-pending",
            Reason::NoJob { .. } => " no-job",
            Reason::NobodyHoldsEnough { .. } => " nobody-holds-enough",
            Reason::HostShort { .. } => " host-short",
            Reason::LoanDue { .. } => " loan-due",
            Reason::Answered { .. } => " somebody",
            Reason::NoAnswer { .. } => " nobody",
        };
        let log = if decision.log { " log" } else { "" };
        format!("{order} {target}{reason}{log}")
    }

    pub fn report(&mut self, decision: DecisionId, outcome: Outcome) {
        self.governor.report(&Report { decision, outcome });
    }
}

/// An outcome for every taste.
pub const DONE: Outcome = Outcome::Done { processes: 1, by: Mechanism::Pidfd };
pub const REFUSED: Outcome = Outcome::Refused { at: Operation::SendSignal, errno: 1 };

pub const fn dead(expected: Bytes) -> Outcome {
    Outcome::Dead { processes: 1, by: Mechanism::Pidfd, choice: 0, expected }
}

pub const ANON: Kinds = Kinds { anon: true, file: false, shmem: false };

/// A rule over a group's usage of so many MiB.
pub fn usage_rule(name: &str, groups: &str, over_mib: u64, steps: &[(Action, u64)]) -> Rule {
    Rule {
        name: name.into(),
        scope: Scope::Groups(vec![Pattern::new(groups)]),
        when: Condition { group: Some(Over::Amount(Bytes::mib(over_mib))), rss: None },
        until: None,
        steps: ladder(steps),
        log: true,
    }
}

/// A rule over a group's kernel memory of so many MiB.
pub fn kernel_rule(name: &str, groups: &str, over_mib: u64, steps: &[(Action, u64)]) -> Rule {
    Rule {
        when: Condition { group: Some(Over::Kernel(Bytes::mib(over_mib))), rss: None },
        ..usage_rule(name, groups, 0, steps)
    }
}

/// A rule over the anonymous memory of processes called so.
pub fn anon_rule(name: &str, comm: &str, over_mib: u64, steps: &[(Action, u64)]) -> Rule {
    let named = ProcessMatch { comm: vec![Pattern::new(comm)], ..ProcessMatch::default() };
    Rule {
        scope: Scope::Processes(named),
        when: Condition { group: None, rss: Some(RssOver { kinds: ANON, over: Bytes::mib(over_mib) }) },
        ..usage_rule(name, "", 0, steps)
    }
}

/// A rule for the host: acts while less than so many MiB are available.
pub fn host_rule(name: &str, under_mib: u64, steps: &[(Action, u64)]) -> Rule {
    Rule { scope: Scope::Host, ..available_rule(name, "", under_mib, steps) }
}

/// A rule for groups of which less than so many MiB are left under their `memory.max`.
pub fn available_rule(name: &str, groups: &str, under_mib: u64, steps: &[(Action, u64)]) -> Rule {
    let under = Under::Amount(Bytes::mib(under_mib));
    let over = Over::Available { under, exhausted_in: None };
    Rule { when: Condition { group: Some(over), rss: None }, ..usage_rule(name, groups, 0, steps) }
}

/// A job: so much priority, and a reservation of so many MiB.
pub fn job(groups: &str, priority: i32, reservation_mib: u64) -> GroupPolicy {
    GroupPolicy {
        groups: vec![Pattern::new(groups)],
        priority: Some(priority),
        reservation: Some(Bytes::mib(reservation_mib)),
        ..GroupPolicy::default()
    }
}

/// Actions with their delays in ms.
pub fn ladder(steps: &[(Action, u64)]) -> Vec<Step> {
    steps
        .iter()
        .map(|(action, after)| Step { action: action.clone(), after: Duration::from_millis(*after) })
        .collect()
}

pub const fn signal(signal: u8) -> Action {
    Action::Signal { signal, repeat: None }
}

pub const fn slow(budget_ms: u64) -> Action {
    Action::Slow(Slow { budget: Duration::from_millis(budget_ms), floor: 5 })
}

pub const KILL: Action = Action::Kill { victim: Victim::Group };
pub const KILL_JOB: Action = Action::Kill { victim: Victim::LowestPriority(Takes::Job) };
pub const KILL_IN_JOB: Action = Action::Kill { victim: Victim::LowestPriority(Takes::Process) };
pub const KILL_TREE: Action = Action::Kill { victim: Victim::LowestPriority(Takes::Tree) };
pub const KILL_LARGEST: Action = Action::Kill { victim: Victim::Largest };

pub fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
    Policy { rules: rules.into_iter().collect(), ..Policy::default() }
}

/// A control from the letter's word and limits in MiB.
pub fn control(word: u64, climit_mib: u64, plimit_mib: u64) -> MemControl {
    MemControl::from_word(word, Bytes::mib(climit_mib), Bytes::mib(plimit_mib), Bytes(4096)).unwrap()
}

pub const fn mib(n: u64) -> Bytes {
    Bytes::mib(n)
}
