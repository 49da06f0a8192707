//! Lending: when, how much, for how long, and that it is not promised twice.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::world::*;
use memgov_decide::decision::*;
use memgov_decide::policy::*;
use memgov_decide::snapshot::GroupSlot;
use memgov_decide::units::{Bytes, Limit};

const AMOUNT: u64 = 64;
const KEEP: u64 = 200;

const fn lend(budget_ms: u64) -> Action {
    let budget = Duration::from_millis(budget_ms);
    Action::Lend(Lend { amount: mib(AMOUNT), keep: Under::Amount(mib(KEEP)), budget })
}

/// A host of 1000 MiB and a group with a limit of 120, over its line of 100.
fn over(rule: Rule, available: u64) -> (World, GroupSlot) {
    let mut world = World::new(policy([rule]));
    world.snap.host.memory = Some(mib(1000));
    let group = world.group("/x", None);
    world.row(group).max = Some(Limit::At(mib(120)));
    world.usage(group, mib(110));
    world.available(available);
    (world, group)
}

fn ladder_of(budget: u64) -> Rule {
    usage_rule("a", "/x", 100, &[(lend(budget), 0), (KILL, 5000)])
}

#[test]
fn lent_while_the_host_can_spare_it_and_back_at_relief() {
    let (mut world, group) = over(ladder_of(60_000), KEEP + AMOUNT);
    assert_eq!(world.said(10), ["lend-begin-64MiB /x log"]);
    world.usage(group, mib(150));
    assert_eq!(world.said(100), Vec::<String>::new(), "nothing is kept up");
    world.usage(group, mib(50));
    assert_eq!(world.said(10), ["lend-end-64MiB /x", "relieved /x"]);
}

#[test]
fn a_host_without_enough_lends_nothing_and_the_next_step_is_at_once() {
    let (mut world, _) = over(ladder_of(60_000), KEEP + AMOUNT - 1);
    let said = world.tick(10);
    let told: Vec<String> = said.iter().map(|d| world.words(d)).collect();
    assert_eq!(told, ["record /x host-short log", "kill /x"]);
    let Reason::HostShort { available, keep, amount } = said[0].reason else { panic!("{:?}", said[0]) };
    assert_eq!((available, keep, amount), (Some(mib(KEEP + AMOUNT - 1)), mib(KEEP), mib(AMOUNT)));
}

#[test]
fn what_could_not_be_lent_is_neither_ended_nor_promised() {
    for outcome in [REFUSED, Outcome::LedgerFull] {
        let rules = usage_rule("a", "/*", 100, &[(lend(1000), 0), (signal(15), 60_000)]);
        let (mut world, group) = over(rules, KEEP + AMOUNT);
        let lent = world.tick(10);
        assert_eq!(world.words(&lent[0]), "lend-begin-64MiB /x log");
        world.report(lent[0].id, outcome);
        assert_eq!(world.said(1), ["signal-15 /x"], "the next step is at once");
        let other = world.group("/y", None);
        world.row(other).max = Some(Limit::At(mib(120)));
        world.usage(other, mib(110));
        world.available(KEEP + AMOUNT);
        assert_eq!(world.said(10), ["lend-begin-64MiB /y log"], "nobody else has it: {outcome:?}");
        world.usage(group, mib(110));
        let later = world.said(2000);
        assert!(!later.iter().any(|words| words.starts_with("lend-end-64MiB /x")), "{later:?}");
    }
}

#[test]
fn what_the_host_has_must_have_been_read_just_now() {
    let (mut world, _) = over(ladder_of(60_000), 1000);
    world.snap.fresh_memory = false;
    assert_eq!(world.said(10), Vec::<String>::new());
    let mut groups = Vec::with_capacity(4);
    world.governor.due(&world.snap, world.snap.at, &mut groups, &mut Vec::with_capacity(4));
    assert!(world.governor.take_host_due(), "it is to be read at once");
    world.available(1000);
    assert_eq!(world.said(10), ["lend-begin-64MiB /x log"]);
}

#[test]
fn a_host_that_cannot_be_read_does_not_hold_the_ladder_up() {
    let (mut world, _) = over(ladder_of(60_000), 1000);
    world.available(None);
    assert_eq!(world.said(10), Vec::<String>::new());
    assert_eq!(world.said(500), Vec::<String>::new());
    assert_eq!(world.said(500), ["record /x host-short log", "kill /x"]);
}

#[test]
fn due_after_its_time_and_the_next_step_does_not_wait() {
    let (mut world, _) = over(ladder_of(1000), 1000);
    assert_eq!(world.said(10), ["lend-begin-64MiB /x log"]);
    assert_eq!(world.said(990), Vec::<String>::new());
    assert_eq!(world.said(10), ["lend-end-64MiB /x loan-due", "kill /x"]);
}

#[test]
fn taken_back_when_the_host_needs_it() {
    let (mut world, _) = over(ladder_of(60_000), 1000);
    assert_eq!(world.said(10), ["lend-begin-64MiB /x log"]);
    world.available(KEEP);
    assert_eq!(world.said(10), Vec::<String>::new());
    world.available(None);
    assert_eq!(world.said(10), Vec::<String>::new(), "what is not known ends nothing");
    world.available(KEEP - 1);
    assert_eq!(world.said(10), ["lend-end-64MiB /x host-short", "kill /x"]);
}

#[test]
fn a_refused_loan_is_no_promise_and_the_next_step_follows() {
    let (mut world, _) = over(ladder_of(60_000), KEEP + AMOUNT);
    let lent = world.tick(10)[0].id;
    world.report(lent, Outcome::Refused { at: Operation::Lend, errno: 95 });
    assert_eq!(world.said(10), ["kill /x"]);
    let (mut world, _) = over(usage_rule("a", "/*", 100, &[(lend(60_000), 0)]), KEEP + AMOUNT);
    let lent = world.tick(10)[0].id;
    world.report(lent, Outcome::Refused { at: Operation::Lend, errno: 95 });
    let other = world.group("/y", None);
    world.usage(other, mib(110));
    world.available(KEEP + AMOUNT);
    assert_eq!(world.said(10), ["lend-begin-64MiB /y log"]);
}

/// Raised by the loan, the line would be relieved by it.
#[test]
fn lines_that_hang_on_a_limit_stay_where_they_were() {
    let mut high = ladder_of(60_000);
    high.when.group = Some(Over::High { plus: Bytes(0) });
    let (mut world, group) = over(high, 1000);
    world.row(group).high = Some(Limit::At(mib(100)));
    assert_eq!(world.said(10), ["lend-begin-64MiB /x log"]);
    for raised in [164, 130, 100] {
        // In full, half taken back, and as it was.
        (world.row(group).high, world.row(group).usage) = (Some(Limit::At(mib(raised))), Some(mib(110)));
        assert_eq!(world.said(10), Vec::<String>::new(), "at {raised}");
    }
    // An administrator's own change is the line.
    world.row(group).high = Some(Limit::At(mib(300)));
    assert_eq!(world.said(10), ["lend-end-64MiB /x", "relieved /x"]);
}

#[test]
fn so_does_what_is_available_under_the_limit() {
    let (mut world, group) = over(available_rule("a", "/x", 20, &[(lend(60_000), 0), (KILL, 1000)]), 1000);
    world.row(group).reclaimable = Some(Bytes(0));
    assert_eq!(world.said(10), ["lend-begin-64MiB /x log"]);
    world.row(group).max = Some(Limit::At(mib(184)));
    let said = world.tick(1000);
    assert_eq!(said.iter().map(|d| world.words(d)).collect::<Vec<_>>(), ["kill /x"]);
    let Reason::Available { available, line, .. } = said[0].reason else { panic!("{:?}", said[0]) };
    assert_eq!((available, line), (mib(10), mib(20)));
    // Under the raised limit's line nobody reads what can be had back.
    (world.row(group).reclaimable, world.row(group).usage) = (None, Some(mib(105)));
    assert_eq!(world.said(2000), Vec::<String>::new());
    world.usage(group, mib(60));
    assert_eq!(world.said(10), ["lend-end-64MiB /x", "relieved /x"]);
}

proptest! {
    #[test]
    fn loans_leave_what_is_to_stay(
        steps in prop::collection::vec((0usize..4, 60u64..200, 150u64..600, 1u64..400), 1..60),
    ) {
        let rule = usage_rule("a", "/*", 100, &[(lend(1500), 0), (signal(10), 60_000)]);
        let mut world = World::new(policy([rule]));
        world.snap.host.memory = Some(mib(1000));
        let groups: Vec<_> = (0..4).map(|i| world.group(&format!("/g{i}"), None)).collect();
        for &group in &groups {
            world.row(group).max = Some(Limit::At(mib(100)));
        }
        let mut out: BTreeMap<u32, GroupSlot> = BTreeMap::new();
        for (group, usage, available, ms) in steps {
            world.usage(groups[group], mib(usage));
            world.available(available);
            for decision in world.tick(ms) {
                let Target::Group(_, slot) = decision.target else { continue };
                match decision.order {
                    Order::Lend { phase: Phase::Begin, amount } => {
                        let unused = |slot: &GroupSlot| {
                            let usage = world.snap.group(*slot).unwrap().usage.unwrap();
                            AMOUNT.saturating_sub(usage.0 / mib(1).0 - usage.0.min(mib(100).0) / mib(1).0)
                        };
                        let promised: u64 = out.values().map(unused).sum();
                        prop_assert!(amount == mib(AMOUNT) && available >= KEEP + AMOUNT + promised);
                        prop_assert!(out.insert(slot.0, slot).is_none(), "lent twice");
                    }
                    Order::Lend { phase: Phase::End, .. } => {
                        prop_assert!(out.remove(&slot.0).is_some(), "not lent");
                    }
                    _ => {}
                }
            }
            prop_assert!(available >= KEEP || out.is_empty(), "the host is short, and {} loans are out", out.len());
        }
    }
}
