//! A reading of a group that came from no file, as words of a trace: usage, high, max, the counters high, max, oom and oom_kill, and
//! whether the group is killed as one. `-` is what is not known or not there.

use std::fmt;

use memgov_decide::snapshot::Events;
use memgov_decide::units::{Bytes, Limit};

use crate::kernel::Reading;

/// So many words.
pub(super) const WORDS: usize = 8;

/// Written out.
pub(super) struct Overlaid<'a>(pub &'a Reading);

impl fmt::Display for Overlaid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reading { usage, high, max, events, oom_group, .. } = self.0;
        let limit = |limit: &Option<Limit>| limit.map(|limit| limit.bytes().map_or(MAX, |bytes| bytes.0));
        number(f, usage.map(|bytes| bytes.0))?;
        for value in [limit(high), limit(max), events.high, events.max, events.oom, events.oom_kill] {
            f.write_str(" ")?;
            number(f, value)?;
        }
        f.write_str(" ")?;
        number(f, oom_group.map(u64::from))
    }
}

/// No limit: no amount is so large.
const MAX: u64 = u64::MAX;

fn number(f: &mut fmt::Formatter<'_>, value: Option<u64>) -> fmt::Result {
    match value {
        None => f.write_str("-"),
        Some(MAX) => f.write_str("max"),
        Some(value) => write!(f, "{value}"),
    }
}

/// Read back; `None`: these are not the words.
pub(super) fn parse(words: &[&str]) -> Option<Reading> {
    let mut values = [None; WORDS];
    for (value, word) in values.iter_mut().zip(words) {
        *value = match *word {
            "-" => None,
            "max" => Some(MAX),
            word => Some(word.parse::<u64>().ok()?),
        };
    }
    let [usage, high, max, high_events, max_events, oom, oom_kill, oom_group] = values;
    let limit = |value: Option<u64>| value.map(|n| if n == MAX { Limit::Max } else { Limit::At(Bytes(n)) });
    (words.len() == WORDS).then_some(Reading {
        usage: usage.map(Bytes),
        kernel: None,
        sockets: None,
        sockets_apart: false,
        reclaimable: None,
        high: limit(high),
        max: limit(max),
        events: Events { high: high_events, max: max_events, oom, oom_kill },
        oom_group: oom_group.map(|n| n != 0),
        under_oom: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::replay::replay;
    use crate::record::trace::Tape;
    use memgov_decide::governor::Numbers;
    use memgov_decide::policy::{Action, Condition, Over, Pattern, Policy, Rule, Scope, Step};
    use memgov_decide::snapshot::{Group, GroupId, GroupSlot, Host};
    use memgov_decide::units::Time;
    use proptest::prelude::*;

    fn some(below: u64) -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(0..below)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            usage in some(1 << 60), high in some(3), max in some(1 << 60), counters in [some(9), some(9), some(9), some(9)],
            oom_group in proptest::option::of(any::<bool>()),
        ) {
            let [high_events, max_events, oom, oom_kill] = counters;
            let reading = Reading {
                usage: usage.map(Bytes),
                kernel: None,
                sockets: None,
                sockets_apart: false,
                reclaimable: None,
                high: high.map(|n| if n == 2 { Limit::Max } else { Limit::At(Bytes(n)) }),
                max: max.map(|n| Limit::At(Bytes(n))),
                events: Events { high: high_events, max: max_events, oom, oom_kill },
                oom_group,
                under_oom: None,
            };
            let text = Overlaid(&reading).to_string();
            let words: Vec<&str> = text.split(' ').collect();
            prop_assert_eq!(parse(&words), Some(reading));
        }
    }

    /// One group, under its line and over it, as one way of reading puts it on the tape.
    fn trace(read: impl Fn(&mut Tape, u64)) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let mut tape = Tape::create(&path, &Host::default(), Numbers::default()).unwrap();
        for (second, usage) in [(1, 0), (2, 4096), (3, 8192), (4, 8192), (5, 0)] {
            tape.tick(Time(second * 1_000_000_000), None);
            if second == 1 {
                tape.group_new(GroupSlot(3), &Group::new(GroupId(9), b"/a"));
            }
            read(&mut tape, usage);
            tape.step();
        }
        drop(tape);
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn a_reading_decides_the_same_whichever_way_it_came() {
        let by_file = trace(|tape, usage| {
            tape.group_file(GroupSlot(3), "memory.current", format!("{usage}\n").as_bytes());
            tape.group_file(GroupSlot(3), "memory.max", b"max\n");
        });
        let by_pass = trace(|tape, usage| {
            let (usage, max) = (Some(Bytes(usage)), Some(Limit::Max));
            tape.group_overlay(GroupSlot(3), &Reading { usage, max, ..Reading::default() });
        });
        let rule = Rule {
            name: "all".into(),
            scope: Scope::Groups(vec![Pattern::new("/a")]),
            when: Condition { group: Some(Over::Amount(Bytes(4096))), rss: None },
            until: None,
            steps: vec![Step { action: Action::Deny, after: std::time::Duration::ZERO }],
            log: true,
        };
        let policy = Policy { rules: vec![rule], ..Policy::default() };
        let decided = |bytes: &[u8]| replay(bytes, vec![policy.clone()]).unwrap().events;
        let (by_file, by_pass) = (decided(&by_file), decided(&by_pass));
        assert_eq!(by_file, by_pass);
        assert!(by_pass.len() >= 2, "it was denied and let go: {by_pass:?}");
    }

    /// What a rule with a tolerance asks for hangs on how the group fares: a trace has it.
    #[test]
    fn a_trace_has_how_a_group_fares() {
        let run = |refaults: u64| {
            let seconds = std::cell::Cell::new(0);
            let bytes = trace(|tape, _| {
                seconds.set(seconds.get() + 1);
                let lines = format!(
                    "workingset_refault_anon 0\nworkingset_refault_file {}\n",
                    seconds.get() * refaults
                );
                let slot = GroupSlot(3);
                tape.group_file(slot, "memory.current", b"104857600\n");
                tape.group_file(slot, "memory.max", b"max\n");
                tape.group_file(slot, "memory.stat:workingset_refault", lines.as_bytes());
            });
            let tolerance = Some(memgov_decide::working_set::Tolerance::default());
            let reclaim = memgov_decide::policy::Reclaim { tolerance, ..Default::default() };
            let rule = Rule {
                name: "small".into(),
                scope: Scope::Groups(vec![Pattern::new("/a")]),
                when: Condition { group: Some(Over::Amount(Bytes(4096))), rss: None },
                until: None,
                steps: vec![Step { action: Action::Reclaim(reclaim), after: std::time::Duration::ZERO }],
                log: false,
            };
            let policy = Policy { rules: vec![rule], ..Policy::default() };
            replay(&bytes, vec![policy]).unwrap().events.len()
        };
        assert_eq!(run(1_000_000), 1, "it begins, and is not kept up while it hurts");
        assert!(run(0) >= 3, "while nothing is lost it is asked for again and again");
    }

    #[test]
    fn other_words_are_refused() {
        assert_eq!(Overlaid(&Reading::default()).to_string(), "- - - - - - - -");
        assert_eq!(parse(&["1"; WORDS - 1]), None);
        assert_eq!(parse(&["x"; WORDS]), None);
    }
}
