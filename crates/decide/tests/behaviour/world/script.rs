//! Random histories: a few groups inside one another, a few processes, everything that can happen to them, and every answer
//! that `act` can give. A script is data, so the same one can be played twice, or with another ending.

use proptest::prelude::*;

use memgov_decide::decision::*;
use memgov_decide::governor::Bounds;
use memgov_decide::hook::{Ended, Hook, Run};
use memgov_decide::jobs::{Preference, Wish};
use memgov_decide::policy::*;
use memgov_decide::question::{Answer, Ask, Verdict};
use memgov_decide::snapshot::*;
use memgov_decide::units::{Bytes, Limit};

use super::*;

/// Group paths, parents first.
pub const PATHS: [&str; 6] = ["/", "/x", "/x/a", "/x/a/b", "/x/c", "/y"];
const HIGHS: [Option<u64>; 6] = [None, Some(150), Some(100), None, Some(60), None];
/// Processes and the group each is in.
pub const PROCESSES: [(u32, usize); 7] = [(1, 1), (10, 2), (11, 2), (12, 3), (13, 4), (14, 5), (15, 2)];

#[derive(Clone, Debug)]
pub enum Event {
    Usage(usize, Option<u64>),
    Kernel(usize, Option<u64>),
    Reclaimable(usize, Option<u64>),
    /// What the host has left.
    Available(Option<u64>),
    /// What a group asks for itself.
    Wish(usize, Option<Wish>),
    /// Refaults so far.
    Strain(usize, Option<u64>),
    High(usize, Option<Limit>),
    Anon(usize, Option<u64>),
    /// A group or process goes, and comes again as another.
    GroupGone(usize),
    ProcessGone(usize),
    Move(usize, usize),
    Adjust(usize, Option<i16>),
    Protect(usize, bool),
    Control(usize, u64, u64, u64),
    Inherit(usize, usize),
    Forget(usize),
    Reload(u8),
    /// The first open question is answered, if there is one.
    Answer(Verdict, Option<u64>),
    /// Of the programs that run, this one ends.
    HookEnds(usize),
}

/// One tick: time, what happened, and how decisions are answered (by number in the tick).
#[derive(Clone, Debug)]
pub struct Tick {
    pub ms: u64,
    pub events: Vec<Event>,
    pub answers: Vec<u8>,
}

pub fn ticks(count: usize) -> impl Strategy<Value = Vec<Tick>> {
    let group = 0..PATHS.len();
    let process = 0..PROCESSES.len();
    // Around the lines of the rules below, and now and then unknown.
    let mib =
        prop_oneof![1 => Just(None), 9 => prop_oneof![0u64..40, 90u64..125, 100u64..400].prop_map(Some)];
    let word = prop::sample::select(vec![0u64, 1, 2, 3 | 10 << 8, 0x1_0000 | 3 | 12 << 8, 4]);
    let flags = prop::sample::select(vec![0u64, 0x4 << 16, 0x100 << 16, 0x102 << 16, 0x504 << 16]);
    let event = prop_oneof![
        12 => (group.clone(), mib.clone()).prop_map(|(g, v)| Event::Usage(g, v)),
        4 => (group.clone(), mib.clone()).prop_map(|(g, v)| Event::Kernel(g, v)),
        4 => (group.clone(), mib.clone()).prop_map(|(g, v)| Event::Reclaimable(g, v)),
        6 => mib.clone().prop_map(Event::Available),
        1 => (group.clone(), prop::sample::select(vec![None, Some(Wish::Prefer), Some(Wish::Avoid), Some(Wish::Omit)]))
            .prop_map(|(g, wish)| Event::Wish(g, wish)),
        4 => (group.clone(), prop::option::of(0u64..10_000)).prop_map(|(g, v)| Event::Strain(g, v)),
        12 => (process.clone(), mib).prop_map(|(p, v)| Event::Anon(p, v)),
        1 => (group.clone(), prop::sample::select(vec![None, Some(Limit::Max), Some(Limit::At(Bytes::mib(100)))]))
            .prop_map(|(g, high)| Event::High(g, high)),
        1 => group.clone().prop_map(Event::GroupGone),
        1 => process.clone().prop_map(Event::ProcessGone),
        1 => (process.clone(), group).prop_map(|(p, g)| Event::Move(p, g)),
        1 => (process.clone(), prop::sample::select(vec![None, Some(0), Some(-1000)])).prop_map(|(p, a)| Event::Adjust(p, a)),
        1 => (process.clone(), any::<bool>()).prop_map(|(p, on)| Event::Protect(p, on)),
        3 => (process.clone(), word, flags, 0u64..2).prop_map(|(p, word, flags, climit)| Event::Control(p, word | flags, climit * 8, 32)),
        1 => (process.clone(), process.clone()).prop_map(|(a, b)| Event::Inherit(a, b)),
        1 => process.prop_map(Event::Forget),
        1 => (0u8..3).prop_map(Event::Reload),
        4 => (prop::sample::select(vec![Verdict::Kill, Verdict::GoOn, Verdict::Wait]), prop::option::of(1u64..3000))
            .prop_map(|(verdict, ms)| Event::Answer(verdict, ms)),
        3 => (0usize..4).prop_map(Event::HookEnds),
    ];
    let ms = prop::sample::select(vec![1u64, 10, 10, 50, 200, 500, 1500, 5000]);
    let tick = (ms, prop::collection::vec(event, 0..8), prop::collection::vec(0u8..8, 0..6));
    prop::collection::vec(tick.prop_map(|(ms, events, answers)| Tick { ms, events, answers }), 1..count)
}

/// Kept under the limit of `/x` by one of them.
pub const RESERVE: Bytes = Bytes::mib(16);

/// Policies with every action, scope and kind of line; the numbers keep some rules from one to the next.
pub fn policy_number(number: u8) -> Policy {
    let all = [
        (Action::Record, 0),
        (Action::Reclaim(Reclaim::default()), 0),
        (Action::Squeeze, 0),
        (Action::Deny, 20),
        (slow(700), 100),
        (signal(10), 50),
        (KILL_LARGEST, 200),
        (KILL, 500),
    ];
    let mut each = anon_rule("each", "", 100, &[(signal(12), 10), (KILL, 100)]);
    each.scope = Scope::Groups(vec![Pattern::new("/x/**")]);
    each.when.group = Some(Over::High { plus: Bytes::mib(8) });
    let mut over_high =
        usage_rule("over-high", "/**", 0, &[(slow(300), 0), (Action::Deny, 0), (KILL_LARGEST, 30)]);
    over_high.when.group = Some(Over::High { plus: Bytes(0) });
    over_high.until = Some(Bytes::mib(80));
    let repeated = Action::Signal { signal: 1, repeat: Some(Duration::from_millis(300)) };
    let mut hogs = anon_rule("hogs", "hog", 100, &[(Action::Deny, 0), (repeated, 50), (KILL, 1000)]);
    hogs.log = number != 1;
    let kernel = [(Action::Deny, 0), (Action::Freeze, 60), (KILL_LARGEST, 150), (KILL, 700)];
    let kernel = kernel_rule("kernel", "/x/**", 95, &kernel);
    let host = host_rule("host", 100, &[(Action::Record, 0), (KILL_JOB, 20)]);
    let parent = available_rule("parent", "/x", 120, &[(signal(10), 0), (KILL_JOB, 50)]);
    let tolerance = Some(memgov_decide::working_set::Tolerance::default());
    let reclaim = Reclaim { tolerance, for_starved: number == 1, ..Reclaim::default() };
    let patient = usage_rule("patient", "/x/*", 20, &[(Action::Reclaim(reclaim), 0)]);
    let lend = Lend { amount: Bytes::mib(60), keep: Under::Share(120), budget: Duration::from_millis(300) };
    let lender = [(Action::Record, 0), (Action::Lend(lend), 20), (Action::Deny, 100)];
    let lender = usage_rule("lender", "/x/*", 105, &lender);
    let default = if number == 1 { Verdict::GoOn } else { Verdict::Kill };
    let ask = Ask { timeout: Duration::from_millis(600), default };
    let ask = usage_rule("ask", "/x/*", 100, &[(signal(12), 0), (Action::Ask(ask), 20), (KILL_LARGEST, 400)]);
    let hook = [(hook(700), 20), (signal(10), 0), (hook(200), 100), (KILL_LARGEST, 50)];
    let hook = usage_rule("hook", "/x/*", 100, &hook);
    let rules = match number {
        0 => {
            let all = usage_rule("all", "/x/*", 110, &all);
            vec![all, each, hogs, kernel, host, parent, patient, lender, ask, hook]
        }
        1 => vec![host, hogs, over_high, usage_rule("all", "/x/*", 110, &all), patient, lender, ask, hook],
        _ => vec![],
    };
    let never = vec![ProcessMatch { comm: vec![Pattern::new("never")], ..ProcessMatch::default() }];
    let kills = KillBudget { count: 3, window: Duration::from_secs(5) };
    let mut groups = vec![job("/x/*", 10, 100), job("/y", 5, 0), job("/x/a/b", 1, 0)];
    if number == 1 {
        let kept = Some(RESERVE);
        groups.push(GroupPolicy {
            groups: vec![Pattern::new("/x")],
            oom_reserve: kept,
            ..GroupPolicy::default()
        });
    }
    Policy { rules, groups, never, kills, ..Policy::default() }
}

/// A program that may run for so long.
pub fn hook(ms: u64) -> Action {
    let run = ["/bin/true".into()].into();
    Action::Hook(Hook { within: Duration::from_millis(ms), ..Hook::program(run) })
}

/// It has ended well.
pub const RAN: Outcome = Outcome::Ran(Run { ended: Ended::Exited(0), took: Duration::from_millis(1) });

/// A world in which scripts are played.
pub struct Stage {
    pub world: World,
    /// Programs that run, and those that have ended since the last tick.
    pub hooks: Vec<DecisionId>,
    pub ended: Vec<DecisionId>,
    pub groups: Vec<GroupSlot>,
    pub processes: Vec<ProcessSlot>,
}

impl Stage {
    pub fn new(number: u8, room: usize) -> Self {
        let bounds = Bounds { groups: 16, processes: 16, controls: 6, episodes: 24 };
        let mut world = World::bounded(policy_number(number), bounds, room);
        world.snap.host.memory = Some(Bytes::mib(1000));
        let groups: Vec<_> = PATHS.iter().zip(HIGHS).map(|(path, high)| world.group(path, high)).collect();
        let processes: Vec<_> =
            PROCESSES.iter().map(|&(pid, group)| world.process(pid, Some(groups[group]))).collect();
        for (i, &slot) in (0u32..).zip(&processes) {
            let row = world.process_row(slot);
            row.session = (i % 3 > 0).then_some(7 + i % 2);
            // Some hold enough to be killed for it, some do not; those that come later have come since.
            row.kernel.threads = Some(i * 400);
        }
        world.row(groups[1]).max = Some(Limit::At(Bytes::mib(300)));
        world.snap.ticks = Some(world.next_id);
        world.process_row(processes[6]).comm = *b"never\0\0\0\0\0\0\0\0\0\0\0";
        Self { world, hooks: Vec::new(), ended: Vec::new(), groups, processes }
    }

    /// Plays one tick; returns what was decided.
    pub fn play(&mut self, tick: &Tick) -> Vec<Decision> {
        self.ended.clear();
        for event in &tick.events {
            self.happen(event);
        }
        let decisions = self.world.tick(tick.ms);
        self.hooks.extend(decisions.iter().filter(|d| d.order == Order::Hook).map(|d| d.id));
        for (decision, answer) in decisions.iter().zip(&tick.answers) {
            if decision.order == Order::Hook && *answer > 4 {
                self.world.report(decision.id, Outcome::Begun);
            } else if let Some(outcome) = answer_number(*answer) {
                if decision.order == Order::Hook {
                    self.hooks.retain(|&id| id != decision.id);
                    self.ended.push(decision.id);
                }
                self.world.report(decision.id, outcome);
            }
        }
        decisions
    }

    pub fn happen(&mut self, event: &Event) {
        let world = &mut self.world;
        match *event {
            Event::Usage(g, usage) => world.usage(self.groups[g], usage.map(Bytes::mib)),
            Event::Kernel(g, kernel) => world.kernel(self.groups[g], kernel.map(Bytes::mib)),
            Event::Reclaimable(g, amount) => {
                world.row(self.groups[g]).reclaimable = amount.map(Bytes::mib);
            }
            Event::Available(amount) => world.available(amount),
            Event::Wish(g, user) => {
                let row = world.row(self.groups[g]);
                (row.preference, row.owner) = (Preference { user, trusted: None }, Some(0));
            }
            Event::Strain(g, refaults) => {
                let at = world.snap.at;
                let row = world.row(self.groups[g]);
                (row.strain.refaults, row.strain_at) = (refaults, at);
            }
            Event::High(g, high) => world.row(self.groups[g]).high = high,
            Event::Anon(p, anon) => world.anon(self.processes[p], anon.map(Bytes::mib)),
            Event::GroupGone(g) => {
                let old = self.groups[g];
                world.row(old).gone = true;
                let new = world.group(PATHS[g], HIGHS[g]);
                self.groups[g] = new;
                // Whoever was in it is in the new one, so that no row points to a slot that will be somebody else's.
                for &slot in self.groups.iter().filter(|&&slot| slot != old && slot != new) {
                    if world.snap.group(slot).is_some_and(|row| row.parent == Some(old)) {
                        world.row(slot).parent = Some(new);
                    }
                }
                for &slot in &self.processes {
                    if world.snap.process(slot).is_some_and(|row| row.group == Some(old)) {
                        world.process_row(slot).group = Some(new);
                    }
                }
            }
            Event::ProcessGone(p) => {
                let old = world.id(self.processes[p]);
                world.process_row(self.processes[p]).gone = true;
                world.governor.forget(old);
                self.processes[p] = world.process(PROCESSES[p].0, Some(self.groups[PROCESSES[p].1]));
            }
            Event::Move(p, g) => world.process_row(self.processes[p]).group = Some(self.groups[g]),
            Event::Adjust(p, adjust) => world.process_row(self.processes[p]).oom_score_adj = adjust,
            Event::Protect(p, on) => {
                world.process_row(self.processes[p]).untouchable = on.then_some(Untouchable::Governor);
            }
            Event::Control(p, word, climit, plimit) => {
                let who = world.id(self.processes[p]);
                let _ = world.governor.set_control(who, control(word, climit, plimit));
            }
            Event::Inherit(a, b) => {
                let (a, b) = (world.id(self.processes[a]), world.id(self.processes[b]));
                let _ = world.governor.inherit(a, b);
            }
            Event::Forget(p) => {
                let who = world.id(self.processes[p]);
                world.governor.forget(who);
            }
            Event::Answer(verdict, ms) => {
                let open = world.governor.questions().next();
                if let Some(question) = open {
                    let answer = Answer { verdict, time: ms.map(Duration::from_millis), by: 7 };
                    world.governor.answer(question.id, answer).unwrap();
                }
            }
            Event::HookEnds(at) => {
                if at < self.hooks.len() {
                    let id = self.hooks.remove(at);
                    world.report(id, RAN);
                    self.ended.push(id);
                }
            }
            Event::Reload(number) => {
                world.governor.set_policy(policy_number(number));
            }
        }
    }
}

fn answer_number(number: u8) -> Option<Outcome> {
    Some(match number {
        0 => REFUSED,
        1 => dead(Bytes::mib(50)),
        2 => dead(Bytes(0)),
        3 => Outcome::LedgerFull,
        4 => Outcome::DryRun,
        5 => Outcome::Nothing,
        6 => return None,
        _ => DONE,
    })
}
