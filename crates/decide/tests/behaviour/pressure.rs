//! Rules about how long tasks wait for memory: that it hurts is not enough, somebody's limit must have been met; and it ends when nobody waits.

use std::time::Duration;

use crate::world::*;
use memgov_decide::policy::*;
use memgov_decide::pressure::{Share, Stall, WINDOW};
use memgov_decide::snapshot::GroupSlot;
use memgov_decide::units::Bytes;
use proptest::prelude::*;

fn pressure_rule(name: &str, groups: &str, steps: &[(Action, u64)]) -> Rule {
    let over = Over::Pressure { over: Share(100), until: Share(50) };
    Rule { when: Condition { group: Some(over), rss: None }, ..usage_rule(name, groups, 0, steps) }
}

/// A group of a world, with counters that go on.
struct Waiting {
    world: World,
    group: GroupSlot,
    stall: Stall,
}

impl Waiting {
    fn new(rule: Rule) -> Self {
        let mut world = World::new(policy([rule]));
        let group = world.group("/a", None);
        world.usage(group, Bytes::mib(30));
        let stall = Stall { waited: Some(0), met: Some(0), came_back: None, watched: true };
        let mut new = Self { world, group, stall };
        assert!(new.passes(0, 0).is_empty() && new.passes(0, 0).is_empty());
        new
    }

    /// A window passes in which somebody waits for so many thousandths of it, and so many limits are met.
    fn passes(&mut self, share: u64, met: u64) -> Vec<String> {
        let window = u64::try_from(WINDOW.as_micros()).unwrap_or(u64::MAX);
        self.stall.waited = self.stall.waited.map(|waited| waited + window * share / 1000);
        self.stall.met = self.stall.met.map(|before| before + met);
        self.world.row(self.group).stall = self.stall;
        let decisions = self.world.tick(u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX));
        decisions.iter().map(|decision| self.world.words(decision)).collect()
    }
}

#[test]
fn sockets_are_squeezed_while_it_hurts_and_a_limit_is_met() {
    let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(Action::Squeeze, 0)]));
    assert_eq!(
        waiting.passes(300, 0),
        [""; 0],
        "somebody below it is short, or what was taken beforehand comes back"
    );
    assert_eq!(waiting.passes(300, 5), ["squeeze-begin /a log"]);
    assert_eq!(waiting.passes(300, 0), ["squeeze-keep /a"], "it goes on: lately it was");
    assert_eq!(waiting.passes(80, 0), [""; 0], "in the band");
    assert_eq!(waiting.passes(10, 9), ["squeeze-end /a", "relieved /a"]);
}

#[test]
fn limits_that_are_met_without_anybody_waiting_are_nothing() {
    let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(Action::Squeeze, 0)]));
    for _ in 0..20 {
        assert_eq!(waiting.passes(20, 1000), [""; 0]);
    }
}

#[test]
fn what_is_not_known_begins_and_ends_nothing() {
    let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(Action::Squeeze, 0)]));
    waiting.passes(500, 1);
    let known = waiting.stall;
    waiting.stall = Stall::default();
    for _ in 0..5 {
        assert_eq!(waiting.passes(0, 0), [""; 0], "a squeeze stays");
    }
    waiting.stall = known;
    assert_eq!(waiting.passes(0, 0), [""; 0], "one reading says nothing");
    assert_eq!(waiting.passes(0, 0), ["squeeze-end /a", "relieved /a"]);
}

/// A squeeze does not stay for the sake of somebody who reads files.
#[test]
fn who_is_short_no_more_is_relieved_though_he_waits() {
    let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(Action::Squeeze, 0)]));
    assert_eq!(waiting.passes(300, 5), ["squeeze-begin /a log"]);
    waiting.world.row(waiting.group).reclaimable = Some(Bytes::mib(20));
    assert_eq!(waiting.passes(300, 5), ["squeeze-end /a", "relieved /a"], "20 of 30 MiB could go");
    waiting.stall.came_back = Some(0);
    waiting.passes(300, 5);
    waiting.stall.came_back = Some(100);
    assert_eq!(waiting.passes(300, 5), ["squeeze-begin /a log"], "and come back");
}

/// `after` at the first step: how long it must have lasted.
#[test]
fn a_kill_waits_for_as_long_as_it_is_told() {
    let kill = Action::Kill { victim: Victim::Group };
    let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(kill, 3000)]));
    let mut windows = 0;
    while waiting.passes(700, 1).is_empty() {
        windows += 1;
        assert!(windows < 20);
    }
    let waited = WINDOW * windows;
    assert!((Duration::from_millis(2500)..=Duration::from_millis(3500)).contains(&waited), "{waited:?}");
}

#[test]
fn it_is_looked_at_often_only_while_somebody_waits() {
    let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(Action::Squeeze, 0)]));
    let interval = |waiting: &mut Waiting| {
        let World { governor, snap, .. } = &mut waiting.world;
        governor.due(snap, snap.at, &mut Vec::new(), &mut Vec::new()).since(snap.at)
    };
    assert!(interval(&mut waiting) > Duration::from_secs(1));
    waiting.passes(1, 0);
    assert!(interval(&mut waiting) <= WINDOW);
}

proptest! {
    /// Whatever comes: it is begun only over the line with a limit met, and ended only at the relief level.
    #[test]
    fn never_without_both(script in proptest::collection::vec((0u64..1000, 0u64..3), 1..60)) {
        let mut waiting = Waiting::new(pressure_rule("p", "/a", &[(Action::Squeeze, 0)]));
        let mut met_before = 100;
        for (share, met) in script {
            met_before = if met > 0 { 0 } else { met_before + 1 };
            let lately = WINDOW * met_before <= Duration::from_secs(2);
            for said in waiting.passes(share, met) {
                if said.starts_with("squeeze-begin") {
                    prop_assert!(share > 100 && lately, "{said} at {share} and {met}");
                } else if said.starts_with("squeeze-end") {
                    prop_assert!(share <= 50 || !lately, "{said} at {share}");
                }
            }
        }
    }
}
