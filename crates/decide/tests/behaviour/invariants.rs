//! The invariants that the governor's module doc states, each under its name, over random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use crate::world::script::*;
use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::question::Verdict;
use memgov_decide::slow::ALL;
use memgov_decide::snapshot::*;
use memgov_decide::units::{Bytes, Limit, Time};

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 250,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Whether it does something to somebody that was not done before.
fn escalates(order: Order) -> bool {
    match order {
        Order::Record | Order::Signal { .. } | Order::Kill { .. } | Order::Hook => true,
        Order::Deny { phase, .. }
        | Order::Slow { phase, .. }
        | Order::Freeze { phase }
        | Order::Squeeze { phase }
        | Order::Lend { phase, .. }
        | Order::Reclaim { phase, .. } => phase != Phase::End,
        // The freeze before it did.
        Order::Ask { .. } => false,
        Order::Relieved | Order::Answered { .. } => false,
    }
}

fn crossed(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Usage { .. }
            | Reason::Kernel { .. }
            | Reason::Sockets { .. }
            | Reason::Pool { .. }
            | Reason::Rss { .. }
            | Reason::UsageAndRss { .. }
            | Reason::Available { .. }
            | Reason::Pressure { .. }
    )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn never_a_protected_target(script in ticks(40), number in 0u8..2) {
        let mut stage = Stage::new(number, 64);
        for tick in &script {
            for decision in stage.play(tick) {
                let row = |slot: ProcessSlot, id| stage.world.snap.process(slot).filter(|row| row.id == id);
                let mut touched: Vec<(ProcessSlot, ProcessId)> =
                    decision.ranking.iter().map(|c| (c.slot, c.process)).collect();
                match decision.target {
                    Target::Group(id, slot) => {
                        let root = stage.world.snap.group(slot).is_some_and(|row| row.id == id && &*row.path == b"/");
                        prop_assert!(!root);
                    }
                    Target::Process(id, slot) if escalates(decision.order) => touched.push((slot, id)),
                    Target::Process(..) | Target::Host => {}
                }
                for (slot, id) in touched {
                    let row = row(slot, id);
                    let safe = row.is_some_and(|row| {
                        row.id.pid != 1 && row.untouchable.is_none() && row.comm() != b"never"
                    });
                    let killed = matches!(decision.order, Order::Kill { .. });
                    prop_assert!(safe && !(killed && row.unwrap().oom_score_adj == Some(-1000)), "{decision:?}");
                }
            }
        }
    }

    #[test]
    fn no_action_without_a_limit_crossed(script in ticks(40), number in 0u8..2) {
        let mut stage = Stage::new(number, 64);
        for tick in &script {
            // `gone` rows are cleared with the tick, so the numbers are looked up in what the tick saw.
            for event in &tick.events {
                stage.happen(event);
            }
            let seen = stage.world.snap.clone();
            let decisions = stage.world.tick(tick.ms);
            for decision in decisions {
                let rss_is = |kinds: Kinds, rss: Bytes| match decision.target {
                    Target::Process(_, slot) => {
                        let row = seen.process(slot).unwrap();
                        RssOver { kinds, over: Bytes(0) }.meter(row) == Some(rss)
                    }
                    Target::Group(..) | Target::Host => false,
                };
                let usage_is = |group: GroupSlot, usage| seen.group(group).unwrap().usage == Some(usage);
                let holds = match decision.reason {
                    Reason::Usage { group, usage, line } => usage > line && usage_is(group, usage),
                    Reason::Kernel { group, kernel, line } => {
                        kernel > line && seen.group(group).unwrap().kernel == Some(kernel)
                    }
                    Reason::Rss { kinds, rss, line } => rss > line && rss_is(kinds, rss),
                    Reason::UsageAndRss { group, usage, usage_line, kinds, rss, line } => {
                        usage > usage_line && rss > line && usage_is(group, usage) && rss_is(kinds, rss)
                    }
                    Reason::Available { group: None, available, line, .. } => {
                        available < line && seen.memory.available == Some(available)
                    }
                    Reason::Available { group: Some(group), available, line, .. } => {
                        let row = seen.group(group).unwrap();
                        let used = row.usage.unwrap() - row.reclaimable.unwrap();
                        let left = row.max.unwrap().bytes().unwrap() - used;
                        available < line && [left, left - RESERVE].contains(&available)
                    }
                    Reason::Relieved { value, until } => {
                        prop_assert!(value <= until);
                        false
                    }
                    Reason::Recovered { available, until } => {
                        prop_assert!(available >= until);
                        false
                    }
                    _ => false,
                };
                // It was frozen for that reason, in a tick before.
                if matches!(decision.order, Order::Ask { .. }) {
                    continue;
                }
                let told = matches!(decision.reason, Reason::Answered { .. });
                let acts = escalates(decision.order) && decision.order != Order::Record && !told;
                prop_assert!(holds || !acts, "{decision:?}");
                prop_assert!(holds == crossed(decision.reason), "{decision:?}");
            }
        }
    }

    #[test]
    fn missing_data_never_escalates(script in ticks(30), number in 0u8..2, ms in 1u64..3000) {
        let mut stage = Stage::new(number, 64);
        for tick in &script {
            // What somebody has said shall be killed is killed, whatever is known.
            let events = tick.events.iter().filter(|e| !matches!(e, Event::Answer(Verdict::Kill, _)));
            stage.play(&Tick { events: events.cloned().collect(), ..tick.clone() });
        }
        for g in 0..PATHS.len() {
            stage.happen(&Event::Usage(g, None));
            stage.happen(&Event::Kernel(g, None));
        }
        stage.happen(&Event::Available(None));
        for p in 0..PROCESSES.len() {
            stage.world.process_row(stage.processes[p]).rss = Rss::default();
        }
        for _ in 0..4 {
            for decision in stage.world.tick(ms) {
                prop_assert!(!escalates(decision.order), "{decision:?}");
                // What was under its relief level before may still be told; nothing new is learnt.
                prop_assert!(!matches!(decision.reason, Reason::Relieved { .. } | Reason::Recovered { .. }), "{decision:?}");
            }
        }
    }

    #[test]
    fn more_over_never_weaker(
        script in ticks(25), number in 0u8..2, group in 1..PATHS.len(), process in 0..PROCESSES.len(),
        amounts in (0u64..300, 0u64..300), ms in 1u64..1000,
    ) {
        let (less, more) = (amounts.0.min(amounts.1), amounts.0.max(amounts.1));
        let mut said = [less, more].map(|amount| {
            let mut stage = Stage::new(number, 64);
            for tick in &script {
                // Without kills, whose brakes are not about how far something is over but about what was killed before.
                let events = tick.events.iter().filter(|e| !matches!(e, Event::Answer(Verdict::Kill, _)));
                stage.play(&Tick { answers: vec![], events: events.cloned().collect(), ..tick.clone() });
            }
            stage.happen(&Event::Usage(group, Some(amount)));
            stage.happen(&Event::Kernel(group, Some(amount)));
            stage.happen(&Event::Anon(process, Some(amount)));
            let mut orders = BTreeMap::new();
            for decision in stage.world.tick(ms) {
                let key = (format!("{:?} {:?}", decision.source, decision.target), decision.step);
                // What may be asked with a tolerance hangs on what was lost and asked before.
                let patient = |rule: RuleId| stage.world.governor.policy().rules[rule.0 as usize].is_patient();
                if matches!(decision.source, Source::Rule(rule) if patient(rule)) {
                    continue;
                }
                let strength = match decision.order {
                    Order::Kill { .. } | Order::Record => continue,
                    Order::Slow { phase: Phase::Begin | Phase::Sustain, share } => u32::from(ALL - share) + 1,
                    Order::Deny { phase: Phase::Begin | Phase::Sustain, .. }
                    | Order::Freeze { phase: Phase::Begin | Phase::Sustain }
                    | Order::Squeeze { phase: Phase::Begin | Phase::Sustain }
                    | Order::Lend { phase: Phase::Begin | Phase::Sustain, .. }
                    | Order::Hook
                    | Order::Signal { .. } => 1,
                    Order::Reclaim { phase: Phase::Begin | Phase::Sustain, extent, .. } => {
                        u32::try_from(extent.bytes().0 / 4096).unwrap() + 1
                    }
                    Order::Deny { .. }
                    | Order::Slow { .. }
                    | Order::Freeze { .. }
                    | Order::Squeeze { .. }
                    | Order::Reclaim { .. }
                    | Order::Lend { .. }
                    | Order::Relieved
                    | Order::Ask { .. }
                    | Order::Answered { .. } => continue,
                };
                orders.insert(key, strength);
            }
            orders
        });
        let (more, less) = (std::mem::take(&mut said[1]), std::mem::take(&mut said[0]));
        for (key, strength) in less {
            prop_assert!(more.get(&key).is_some_and(|&other| other >= strength), "{key:?}: {strength} {more:?}");
        }
    }

    #[test]
    fn kills_per_window_bounded(script in ticks(80), number in 0u8..2) {
        let mut stage = Stage::new(number, 64);
        let KillBudget { count, window } = policy_number(number).kills;
        let mut kills: Vec<Time> = Vec::new();
        for tick in &script {
            let decisions = stage.play(tick);
            kills.extend(decisions.iter().filter(|d| matches!(d.order, Order::Kill { .. })).map(|d| d.at));
            let inside = kills.iter().filter(|&&at| at + window > stage.world.snap.at).count();
            prop_assert!(inside <= count as usize);
        }
    }

    #[test]
    fn freed_memory_is_waited_for(script in ticks(80), number in 0u8..2) {
        let mut stage = Stage::new(number, 64);
        // A group goes after those in it.
        let leaf = |event: &&Event| !matches!(event, Event::GroupGone(0..3));
        // Where somebody was killed, when, and with which usage; as long as no answer says that nothing comes back.
        let mut pending: Vec<(Vec<u8>, Time, Bytes)> = Vec::new();
        for tick in &script {
            for event in tick.events.iter().filter(leaf) {
                stage.happen(event);
            }
            let seen = stage.world.snap.clone();
            let decisions = stage.world.tick(tick.ms);
            // A group that went and came back is another one: nobody waits for what the old one gives back.
            let gone: BTreeSet<&[u8]> = seen.groups.iter().filter(|(_, r)| r.gone).map(|(_, r)| &*r.path).collect();
            let usage_of = |path: &[u8]| {
                let row = seen.groups.iter().find(|(_, row)| !row.gone && &*row.path == path);
                row.and_then(|(_, row)| row.usage)
            };
            // Something has come back; more cannot be expected where nobody said how much.
            pending.retain(|(path, _, before)| usage_of(path).is_none_or(|usage| usage >= *before));
            pending.retain(|(path, ..)| !gone.iter().any(|gone| path.starts_with(gone) || gone.starts_with(path)));
            for (i, decision) in decisions.iter().enumerate() {
                let Order::Kill { .. } = decision.order else { continue };
                let slot = match decision.target {
                    Target::Group(_, slot) => Some(slot),
                    Target::Process(_, slot) => seen.process(slot).unwrap().group,
                    Target::Host => None,
                };
                let Some(row) = slot.and_then(|slot| seen.group(slot)).filter(|row| !row.gone && &*row.path != b"/") else { continue };
                let below = |a: &[u8], b: &[u8]| a == b || (a.starts_with(b) && a[b.len()] == b'/');
                for (path, at, _) in &pending {
                    let related = below(path, &row.path) || below(&row.path, path);
                    let recent = decision.at.since(*at) < Duration::from_secs(2);
                    prop_assert!(!related || !recent, "{decision:?} so soon after one in {path:?}");
                }
                // Half of the kills are never heard of again, the others are done; none gives back nothing.
                if i % 2 == 0 {
                    stage.world.report(decision.id, DONE);
                }
                // Not known is not less: then the two seconds are waited out.
                let before = row.usage.unwrap_or(Bytes(0));
                pending.push((row.path.to_vec(), decision.at, before));
            }
        }
    }

    #[test]
    fn no_flapping_inside_the_band(
        over in 1u64..100, walk in prop::collection::vec((0u64..=1000, 1u64..500), 1..60), until in 0u64..100,
    ) {
        let mut rule = usage_rule("a", "/x", 100, &[(Action::Deny, 0), (signal(10), 60_000)]);
        rule.until = (until > 0).then(|| mib(until));
        let mut world = World::new(policy([rule]));
        let group = world.group("/x", None);
        let until = if until > 0 { mib(until) } else { Bytes(mib(100).0 - mib(100).0 / 64) };
        let inside = |part: u64| Bytes(until.0 + 1 + (mib(100).0 - until.0 - 1) * part / 1000);
        // From below: nothing begins.
        for &(part, ms) in &walk {
            world.usage(group, inside(part));
            prop_assert_eq!(world.said(ms), Vec::<String>::new());
        }
        world.usage(group, mib(100 + over));
        prop_assert_eq!(world.said(10), ["deny-begin /x log"]);
        // From above: nothing ends, and nothing is added.
        for &(part, ms) in &walk {
            world.usage(group, inside(part));
            prop_assert_eq!(world.said(ms), Vec::<String>::new());
        }
        world.usage(group, until);
        prop_assert_eq!(world.said(10), ["deny-end /x", "relieved /x"]);
    }

    #[test]
    fn same_snapshots_same_decisions(script in ticks(50), number in 0u8..2) {
        let (mut one, mut two) = (Stage::new(number, 64), Stage::new(number, 64));
        let (mut groups, mut processes) = (Vec::with_capacity(16), Vec::with_capacity(16));
        for tick in &script {
            prop_assert_eq!(one.play(tick), two.play(tick));
            let now = one.world.snap.at;
            let next = one.world.governor.due(&one.world.snap, now, &mut groups, &mut processes);
            let due = (next, groups.clone(), processes.clone());
            let next = two.world.governor.due(&two.world.snap, now, &mut groups, &mut processes);
            prop_assert_eq!(due, (next, groups.clone(), processes.clone()));
        }
    }

    #[test]
    fn every_begin_has_an_end(script in ticks(60), number in 0u8..2, room in prop::sample::select(vec![1usize, 2, 5, 64])) {
        let mut stage = Stage::new(number, room);
        let mut in_force: BTreeSet<(EpisodeId, u8, &str)> = BTreeSet::new();
        let mut spoken: BTreeSet<EpisodeId> = BTreeSet::new();
        let mut check = |decisions: &[Decision]| {
            for decision in decisions {
                let (kind, phase) = match decision.order {
                    Order::Deny { phase, .. } => ("deny", phase),
                    Order::Slow { phase, .. } => ("slow", phase),
                    Order::Freeze { phase } => ("freeze", phase),
                    Order::Reclaim { phase, .. } => ("reclaim", phase),
                    Order::Lend { phase, .. } => ("lend", phase),
                    Order::Relieved => {
                        assert!(spoken.remove(&decision.episode), "the end of nothing: {decision:?}");
                        assert!(!in_force.iter().any(|&(episode, ..)| episode == decision.episode), "{decision:?}");
                        continue;
                    }
                    _ => {
                        spoken.insert(decision.episode);
                        continue;
                    }
                };
                spoken.insert(decision.episode);
                let key = (decision.episode, decision.step, kind);
                match phase {
                    Phase::Begin => assert!(in_force.insert(key), "begun twice: {decision:?}"),
                    Phase::Sustain => assert!(in_force.contains(&key), "kept up, not begun: {decision:?}"),
                    Phase::End => assert!(in_force.remove(&key), "ended, not begun: {decision:?}"),
                }
            }
            in_force.len() + spoken.len()
        };
        for tick in &script {
            check(&stage.play(tick));
        }
        stage.happen(&Event::Reload(2));
        for p in 0..PROCESSES.len() {
            stage.happen(&Event::Forget(p));
        }
        let left = (0..200).map(|_| check(&stage.world.tick(1))).last();
        prop_assert_eq!(left, Some(0));
        prop_assert_eq!(stage.world.governor.episodes().count(), 0);
    }

    #[test]
    fn log_once_an_episode(script in ticks(60)) {
        let mut stage = Stage::new(0, 64);
        // Rules stay: a rule that was changed is another one.
        let script: Vec<Tick> = script
            .into_iter()
            .map(|mut tick| {
                tick.events.retain(|e| {
                    !matches!(e, Event::Reload(_) | Event::Control(..) | Event::Inherit(..) | Event::Move(..) | Event::High(..))
                });
                tick
            })
            .collect();
        let mut logged: BTreeMap<String, Time> = BTreeMap::new();
        let mut low: BTreeMap<Vec<u8>, Time> = BTreeMap::new();
        let mut once = BTreeSet::new();
        for tick in &script {
            for event in &tick.events {
                stage.happen(event);
            }
            let seen = stage.world.snap.clone();
            for decision in stage.world.tick(tick.ms) {
                if !decision.log {
                    continue;
                }
                prop_assert!(decision.notable && once.insert(decision.episode), "{decision:?}");
                let (Target::Group(id, slot), Source::Rule(rule)) = (decision.target, decision.source) else { continue };
                if matches!(decision.reason, Reason::Kernel { .. } | Reason::Available { .. }) {
                    continue; // memory.high is no line for it: relief is enough.
                }
                let path = seen.group(slot).unwrap().path.to_vec();
                let at = logged.insert(format!("{rule:?} {id:?}"), decision.at);
                let was_low = at.is_none_or(|at| low.get(&path).is_some_and(|&low| low > at));
                prop_assert!(was_low, "{decision:?}: logged again, and never under high since");
            }
            for (_, row) in seen.groups.iter() {
                let under = match row.high {
                    Some(Limit::At(high)) => row.usage.is_some_and(|usage| usage <= high),
                    // No high: relief is enough.
                    _ => true,
                };
                if under {
                    low.insert(row.path.to_vec(), stage.world.snap.at);
                }
            }
        }
    }

    #[test]
    fn steps_in_order(script in ticks(60)) {
        let mut stage = Stage::new(0, 64);
        let mut episodes: BTreeMap<EpisodeId, (u8, Time)> = BTreeMap::new();
        for tick in &script {
            let events = tick.events.iter().filter(|e| !matches!(e, Event::Reload(_))).cloned().collect();
            // Everything works, so nothing hurries.
            for decision in stage.play(&Tick { events, answers: vec![7; 64], ..tick.clone() }) {
                let Source::Rule(RuleId(rule)) = decision.source else { continue };
                let begins = match decision.order {
                    Order::Deny { phase, .. }
                    | Order::Slow { phase, .. }
                    | Order::Freeze { phase }
                    | Order::Squeeze { phase }
                    | Order::Lend { phase, .. }
                    | Order::Reclaim { phase, .. } => phase == Phase::Begin,
                    Order::Relieved => false,
                    _ => true,
                };
                if !begins {
                    continue;
                }
                let before = episodes.get(&decision.episode).copied();
                if before.is_none_or(|(step, _)| step < decision.step) {
                    episodes.insert(decision.episode, (decision.step, decision.at));
                }
                let Some((step, at)) = before else {
                    prop_assert!(decision.step == 0, "{decision:?}");
                    continue;
                };
                let repeats = matches!(decision.order, Order::Signal { .. });
                prop_assert!(decision.step >= step || repeats, "{decision:?} after step {step}");
                let rule = &stage.world.governor.policy().rules[usize::from(rule)];
                let after = rule.steps[usize::from(decision.step)].after;
                let hurried = matches!(decision.reason, Reason::Protected(_) | Reason::NoJob { .. });
                // A slowdown or a loan whose time is up, or a kill that nobody is left for, does not make the next wait.
                let slow_before = matches!(
                    rule.steps[usize::from(step)].action,
                    Action::Slow(_) | Action::Kill { .. } | Action::Lend(_) | Action::Hook(_)
                );
                let in_time = decision.step <= step || slow_before || decision.at.since(at) >= after;
                prop_assert!(hurried || in_time, "{decision:?} after {at:?}");
            }
        }
    }

    #[test]
    fn overflow_delays_and_loses_nothing(room in 1usize..6) {
        let rules = [usage_rule("a", "/*", 100, &[(Action::Deny, 0), (slow(60_000), 0)])];
        let mut world = World::bounded(policy(rules), BOUNDS, room);
        let groups: Vec<_> = (0..5).map(|i| world.group(&format!("/g{i}"), None)).collect();
        for &group in &groups {
            world.usage(group, mib(200));
        }
        let mut all = BTreeSet::new();
        for _ in 0..200 {
            all.extend(world.said(10));
        }
        let begins = |all: &BTreeSet<String>| all.iter().filter(|words| words.contains("-begin")).count();
        prop_assert_eq!(begins(&all), 10);
        prop_assert!(world.out.overflow > 0);
        for &group in &groups {
            world.usage(group, mib(0));
        }
        for _ in 0..20 {
            all.extend(world.said(10));
        }
        prop_assert_eq!(all.iter().filter(|words| words.contains("-end")).count(), 10);
        prop_assert_eq!(all.iter().filter(|words| words.starts_with("relieved")).count(), 5);
    }
}
