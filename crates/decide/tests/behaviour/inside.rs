//! The invariants of the governor's module doc that are about a kernel which kills by itself, each under its name, over random histories.

use std::time::Duration;

use proptest::prelude::*;

use crate::world::script::*;
use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::governor::StandingAction;
use memgov_decide::policy::*;
use memgov_decide::snapshot::*;
use memgov_decide::units::{Bytes, Time};

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 250,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// It does what the programs do: kills who stood under a kill for his own memory at the end of the last tick, as long as it has an allowance.
#[derive(Default)]
struct Kernel {
    told: Vec<(ProcessId, Bytes)>,
    left: u32,
}

impl Kernel {
    /// What is told at the end of a tick.
    fn hear(&mut self, stage: &mut Stage) {
        let (governor, snap) = (&mut stage.world.governor, &stage.world.snap);
        self.told.clear();
        for &slot in &stage.processes {
            if let (Some(row), Some(standing)) =
                (snap.process(slot), governor.standing_of_process(slot, snap))
                && let (StandingAction::Kill, Condition { group: None, rss: Some(rss) }) =
                    (standing.action, standing.condition)
            {
                self.told.push((row.id, rss.over));
            }
        }
        self.left = governor.kill_allowance();
    }

    /// A process has grown: whether it is killed for it.
    fn kills(&mut self, stage: &mut Stage, process: usize) -> Option<(usize, ProcessId)> {
        let slot = stage.processes[process];
        let row = stage.world.snap.process(slot)?;
        let (who, anon) = (row.id, row.rss.anon?);
        let over = self.told.iter().any(|&(other, line)| other == who && anon > line);
        if !over || self.left == 0 {
            return None;
        }
        self.left -= 1;
        stage.world.process_row(slot).killed = true;
        Some((process, who))
    }
}

fn killed(stage: &Stage, process: usize) -> bool {
    stage.world.snap.process(stage.processes[process]).is_some_and(|row| row.killed)
}

/// Kills at once for what a process holds, and later for what a group does.
fn policy(kills: KillBudget) -> Policy {
    let rules = vec![
        anon_rule("at-once", "hog", 100, &[(KILL, 0)]),
        usage_rule("all", "/x/*", 110, &[(KILL_LARGEST, 200)]),
    ];
    Policy { rules, kills, ..policy_number(0) }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn kills_are_foreseen(script in ticks(80), number in 0u8..2) {
        let mut stage = Stage::new(number, 64);
        for tick in &script {
            tick.events.iter().for_each(|event| stage.happen(event));
            let foreseen = stage.world.governor.may_kill(&stage.world.snap);
            let quiet = Tick { events: Vec::new(), ..tick.clone() };
            let kills = stage.play(&quiet).iter().filter(|d| matches!(d.order, Order::Kill { .. })).count();
            prop_assert!(foreseen || kills == 0);
        }
    }

    #[test]
    fn kills_inside_the_kernel_are_braked_alike(script in ticks(80)) {
        let mut stage = Stage::new(0, 64);
        let budget = KillBudget { count: 3, window: Duration::from_secs(5) };
        stage.world.governor.set_policy(policy(budget));
        let mut kernel = Kernel::default();
        let mut kills: Vec<Time> = Vec::new();
        for tick in &script {
            let mut made = Vec::new();
            for event in tick.events.iter().filter(|event| !matches!(event, Event::Reload(_))) {
                match event {
                    // The dead do nothing any more: what he had is in the kernel's event.
                    Event::Anon(p, _) | Event::Protect(p, _) | Event::Adjust(p, _) | Event::ProcessGone(p)
                        if killed(&stage, *p) => {}
                    _ => stage.happen(event),
                }
                if let Event::Anon(p, _) = event && !killed(&stage, *p) {
                    made.extend(kernel.kills(&mut stage, *p));
                }
            }
            if stage.world.governor.may_kill(&stage.world.snap) {
                kernel.left = 0;
            }
            // He may have become protected since he was told of.
            let meant = |p: usize| {
                let row = stage.world.snap.process(stage.processes[p]);
                row.is_some_and(|row| row.untouchable.is_none() && row.oom_score_adj != Some(-1000))
            };
            let sure: Vec<ProcessId> = made.iter().filter(|(p, _)| meant(*p)).map(|(_, who)| *who).collect();
            let quiet = Tick { events: Vec::new(), ..tick.clone() };
            let decisions = stage.play(&quiet);
            kills.extend(made.iter().map(|_| stage.world.snap.at));
            let mut undecided: Vec<ProcessId> = made.iter().map(|(_, who)| *who).collect();
            for decision in decisions.iter().filter(|d| matches!(d.order, Order::Kill { .. })) {
                let of_kernel = match decision.target {
                    Target::Process(who, _) => undecided.iter().position(|&other| other == who),
                    Target::Group(..) | Target::Host => None,
                };
                match of_kernel {
                    Some(at) => drop(undecided.swap_remove(at)),
                    None => kills.push(decision.at),
                }
            }
            prop_assert!(!sure.iter().any(|who| undecided.contains(who)), "not decided on: {undecided:?} of {sure:?}");
            let recent = kills.iter().filter(|&&at| at + budget.window > stage.world.snap.at).count();
            prop_assert!(recent <= budget.count as usize, "{recent} kills");
            for (p, who) in made {
                if stage.world.id(stage.processes[p]) == who {
                    // Told for one tick, as the observer does; then the process goes.
                    stage.world.process_row(stage.processes[p]).killed = false;
                    stage.happen(&Event::ProcessGone(p));
                }
            }
            kernel.hear(&mut stage);
        }
    }
}
