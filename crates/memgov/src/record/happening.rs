//! What the kernel did by itself, as it is shown and kept beside decisions: that it ran out of memory, whom its OOM killer took, how many calls it
//! refused in memgov's name, and whom it has signalled or killed that was gone before memgov knew of it; and which groups were shrunk by hand.
//! `decide` decided none of these, so nothing here has a ladder.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memgov_decide::decision::{DecisionId, EpisodeId, Mechanism, Operation, Source};
use memgov_decide::shrink::End;
use memgov_decide::snapshot::{GroupId, ProcessId, Rss};
use memgov_decide::units::{Bytes, Time};

use super::{event, text};
use crate::act::shrink;
use crate::serve::wire;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An allocation could not be satisfied in the named group (in the whole machine, if none is named): `out_of_memory` in mm/oom_kill.c.
    Oom {
        /// Its usage; 0: not looked at.
        usage: Bytes,
        /// Its `memory.max`; `u64::MAX`: none.
        max: Bytes,
    },
    /// The kernel's OOM killer took the named process: `mark_oom_victim` in mm/oom_kill.c.
    Victim,
    /// The named process went over its own line and got this signal for it in that instant; it was never decided on, because there is no
    /// such process any more.
    Met {
        /// SIGKILL, because its line says kill.
        kill: bool,
        /// The signal.
        signal: u8,
        /// The line: of usage if that was compared, else of resident memory.
        line: Bytes,
        /// Usage that was compared; 0: none was.
        usage: Bytes,
    },
    /// Calls that allocate were refused to the target.
    Denied {
        /// So many since its line was set.
        calls: u64,
        /// So many since the record before this one.
        more: u64,
        /// The line.
        line: Bytes,
        /// What was compared with it; 0: not looked at.
        value: Bytes,
        /// They asked for kernel memory.
        kernel: bool,
    },
    /// The group was shrunk because the user in `who` asked for it.
    Shrunk(Shrunk),
}

/// How a shrink went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// Usage before.
    pub before: Bytes,
    /// Usage after.
    pub usage: Bytes,
    /// Where it was to go.
    pub target: Bytes,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub how: shrink::Outcome,
    /// By what.
    pub by: Mechanism,
}

/// A process, with what can be said of it when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// Which.
    pub id: ProcessId,
    /// Its name, NUL-padded.
    pub comm: [u8; 16],
    /// Its real uid.
    pub uid: u32,
    /// What it held.
    pub rss: Option<Rss>,
}

/// One of these records, in plain data: the loop fills it and allocates nothing for it.
#[derive(Clone, Debug)]
pub struct Happening {
    /// Its number.
    pub id: DecisionId,
    /// What it belongs to: a victim to the shortage before it, a refusal to the episode that refuses.
    pub episode: EpisodeId,
    /// When.
    pub at: Time,
    /// The same by the wall clock.
    pub wall: SystemTime,
    /// What.
    pub what: What,
    /// Whose episode it is; `None`: nobody's.
    pub source: Option<Source>,
    /// The name of the rule.
    pub rule: Option<Arc<str>>,
    /// The group; 0: none, so the whole machine.
    pub group: GroupId,
    /// Its path and owner where it has a row; else they are looked for when this is written down.
    pub path: Option<Arc<[u8]>>,
    /// See `path`.
    pub owner: Option<u32>,
    /// Who was allocating; the victim; whose calls were refused.
    pub who: Who,
    /// It concerns the process and not the group it is in.
    pub own: bool,
    /// So many of its kind before it were not told.
    pub left_out: u64,
}

/// Finds the path and the owner of a group that has no row.
pub type Finder = Box<dyn Fn(GroupId) -> Option<(Box<[u8]>, Option<u32>)> + Send + Sync>;

impl Happening {
    /// Its shown form. `path`, `owner`: of the group, if it is known by now.
    pub fn event(&self, path: Option<&[u8]>, owner: Option<u32>) -> wire::Event {
        let reason = self.reason(path);
        let order = match self.what {
            What::Oom { .. } => wire::OrderKind::Oom,
            What::Victim => wire::OrderKind::OomKill,
            What::Denied { .. } => wire::OrderKind::Denied,
            What::Met { kill: true, .. } => wire::OrderKind::Kill,
            What::Met { kill: false, .. } => wire::OrderKind::Signal,
            What::Shrunk(_) => wire::OrderKind::Shrink,
        };
        let nobodys = match self.what {
            What::Shrunk(_) => wire::Source::Hand { by: self.who.uid },
            _ => wire::Source::Kernel { kernel: true },
        };
        let source = self.source.map(|source| event::source(source, self.rule.as_deref()));
        wire::Event {
            id: self.id.0,
            episode: self.episode.0,
            time: humantime::format_rfc3339_millis(self.wall).to_string(),
            monotonic_ns: self.at.0,
            source: source.unwrap_or(nobodys),
            step: 0,
            target: self.target(path, owner),
            order,
            signal: match self.what {
                What::Victim => Some(9),
                What::Met { kill: false, signal, .. } => Some(signal),
                _ => None,
            },
            lent_bytes: None,
            share_permille: None,
            reason,
            ranking: Vec::new(),
            jobs: Vec::new(),
            jobs_considered: None,
            takes: None,
            allocating: matches!(self.what, What::Oom { .. }).then(|| self.candidate()),
            denials: match self.what {
                What::Denied { calls, .. } => Some(calls),
                _ => None,
            },
            left_out: Some(self.left_out).filter(|&n| n > 0),
            kernel: None,
            outcome: self.outcome(),
            log: None,
            question: None,
            output: None,
            situation: None,
        }
    }

    fn target(&self, path: Option<&[u8]>, owner: Option<u32>) -> wire::Target {
        if self.own || matches!(self.what, What::Victim | What::Met { .. }) {
            return wire::Target::Process {
                pid: self.who.id.pid,
                start: self.who.id.start,
                comm: self.comm(),
                group: path.map(text::printable),
                uid: Some(self.who.uid),
            };
        }
        match self.group {
            GroupId(0) => wire::Target::Host {},
            GroupId(id) => wire::Target::Group { path: text::printable(path.unwrap_or(b"?")), id, owner },
        }
    }

    fn comm(&self) -> String {
        text::printable(event::comm(&self.who.comm))
    }

    fn held(&self) -> Option<Bytes> {
        let rss = self.who.rss?;
        let kinds = [rss.anon, rss.file, rss.shmem];
        Some(kinds.into_iter().flatten().fold(Bytes(0), |sum, kind| sum + kind))
    }

    fn candidate(&self) -> wire::Candidate {
        let ProcessId { pid, start } = self.who.id;
        wire::Candidate { pid, start, comm: self.comm(), rss_bytes: self.held().unwrap_or_default().0 }
    }

    fn reason(&self, path: Option<&[u8]>) -> wire::Reason {
        let known = |bytes: Bytes| Some(bytes.0).filter(|&n| n != 0 && n != u64::MAX);
        let mut shown = wire::Reason {
            kind: wire::ReasonKind::Oom,
            text: self.text(path),
            usage_bytes: None,
            usage_line_bytes: None,
            sockets_bytes: None,
            rss_bytes: None,
            rss_line_bytes: None,
            available_bytes: None,
            available_line_bytes: None,
            falling_bytes_per_second: None,
            stalled_thousandths: None,
            stalled_line_thousandths: None,
        };
        match self.what {
            What::Oom { usage, max } => {
                (shown.usage_bytes, shown.usage_line_bytes) = (known(usage), known(max))
            }
            What::Victim => shown.rss_bytes = self.held().map(|bytes| bytes.0),
            What::Met { line, usage, .. } => {
                shown.rss_bytes = self.held().map(|bytes| bytes.0);
                (shown.kind, shown.rss_line_bytes) = (wire::ReasonKind::Rss, known(line));
                if usage != Bytes(0) {
                    shown.kind = wire::ReasonKind::Usage;
                    (shown.usage_bytes, shown.usage_line_bytes) = (known(usage), shown.rss_line_bytes.take());
                }
            }
            What::Denied { line, value, .. } => {
                shown.kind = wire::ReasonKind::Denied;
                let (of, at) = match self.own && known(value).is_none() {
                    true => (&mut shown.rss_bytes, &mut shown.rss_line_bytes),
                    false => (&mut shown.usage_bytes, &mut shown.usage_line_bytes),
                };
                *of = known(value);
                *at = known(line);
            }
            What::Shrunk(Shrunk { before, target, .. }) => {
                shown.kind = wire::ReasonKind::Asked;
                (shown.usage_bytes, shown.usage_line_bytes) = (Some(before.0), Some(target.0));
            }
        }
        shown
    }

    fn text(&self, path: Option<&[u8]>) -> String {
        let of = path.map_or_else(|| "the group".to_owned(), text::printable);
        let left_out = match self.left_out {
            0 => String::new(),
            n => format!("; {n} more before it were not recorded one by one"),
        };
        let said = match self.what {
            What::Oom { .. } if self.group == GroupId(0) => {
                format!("the machine is out of memory; {}[{}] was allocating", self.comm(), self.who.id.pid)
            }
            What::Oom { usage, max } => {
                let most = if max.0 == u64::MAX { String::new() } else { format!(" of at most {max}") };
                let (comm, pid) = (self.comm(), self.who.id.pid);
                format!("{of} is out of memory with usage {usage}{most}; {comm}[{pid}] was allocating")
            }
            What::Victim => match self.who.rss {
                Some(Rss { anon, file, shmem }) => {
                    let kind = |bytes: Option<Bytes>| bytes.unwrap_or_default();
                    let (anon, file, shmem) = (kind(anon), kind(file), kind(shmem));
                    format!(
                        "the kernel's OOM killer took it; it held rss.anon {anon}, rss.file {file}, rss.shmem {shmem}"
                    )
                }
                None => "the kernel's OOM killer took it".to_owned(),
            },
            What::Met { line, usage, .. } => {
                let value = match (usage, self.who.rss) {
                    (Bytes(0), None) => "was over its line".to_owned(),
                    (Bytes(0), Some(_)) => format!("held {}, over {line}", self.held().unwrap_or_default()),
                    (usage, _) => format!("usage of {of} is {usage}, over {line}"),
                };
                format!("{value}; it was gone before memgov knew of it")
            }
            What::Denied { calls, more, line, value, kernel } => {
                let usage = if kernel { "kernel memory" } else { "usage" };
                let at = match value {
                    Bytes(0) => String::new(),
                    value if line == Bytes(0) => format!("; the last at {usage} {value}, while held"),
                    value => format!("; the last at {usage} {value}, over {line}"),
                };
                format!(
                    "{calls} calls refused since its line was set, {more} of them since the record before{at}"
                )
            }
            What::Shrunk(Shrunk { before, usage, target, took, .. }) => {
                format!("uid {} asked for {target}: {before} -> {usage} in {took:.1?}", self.who.uid)
            }
        };
        said + &left_out
    }

    fn outcome(&self) -> wire::Outcome {
        let (kind, by) = match self.what {
            What::Shrunk(shrunk) => return shrunk.outcome(),
            What::Oom { .. } => (wire::OutcomeKind::Nothing, None),
            What::Victim => (wire::OutcomeKind::Done, Some("kernel")),
            What::Denied { .. } | What::Met { kill: false, .. } => (wire::OutcomeKind::Done, Some("bpf")),
            What::Met { kill: true, .. } => (wire::OutcomeKind::Dead, Some("bpf")),
        };
        wire::Outcome {
            kind,
            processes: by.map(|_| 1),
            refused: None,
            by: by.map(str::to_owned),
            operation: None,
            errno: None,
            error: None,
            expected_bytes: None,
            freed_bytes: None,
            held_bytes: None,
            run: None,
        }
    }
}

impl Shrunk {
    fn outcome(&self) -> wire::Outcome {
        use wire::OutcomeKind::{Done, Gone, Partial, Refused};
        let (kind, errno) = match self.how {
            shrink::Outcome::Ended(End::Hard) => (Partial, Some(libc::EBUSY)),
            shrink::Outcome::Ended(_) => (Done, None),
            shrink::Outcome::Cancelled => (Partial, Some(libc::ECANCELED)),
            shrink::Outcome::Gone => (Gone, None),
            shrink::Outcome::Failed(errno) => (Refused, Some(errno.raw_os_error())),
        };
        wire::Outcome {
            kind,
            processes: Some(0),
            refused: None,
            by: Some(text::mechanism(self.by).to_owned()),
            operation: errno.map(|_| text::operation(Operation::Reclaim).to_owned()),
            errno,
            error: errno.map(text::errno),
            expected_bytes: None,
            freed_bytes: None,
            held_bytes: None,
            run: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shrink_says_who_asked_and_how_it_went() {
        let shrunk = Shrunk {
            before: Bytes::mib(600),
            usage: Bytes::mib(500),
            target: Bytes::mib(400),
            took: Duration::from_millis(1500),
            how: shrink::Outcome::Ended(End::Hard),
            by: Mechanism::MemoryReclaim,
        };
        let shown = happening(What::Shrunk(shrunk)).event(Some(b"/job"), Some(1000));
        assert_eq!(
            (shown.order, shown.source.clone()),
            (wire::OrderKind::Shrink, wire::Source::Hand { by: 5 })
        );
        assert_eq!(shown.reason.text, "uid 5 asked for 400MiB: 600MiB -> 500MiB in 1.5s");
        assert_eq!((shown.outcome.errno, shown.outcome.error.as_deref()), (Some(libc::EBUSY), Some("EBUSY")));
        assert_eq!(shown.target, wire::Target::Group { path: "/job".into(), id: 44, owner: Some(1000) });
        let text = serde_json::to_string(&shown).unwrap();
        assert_eq!(serde_json::from_str::<wire::Event>(&text).unwrap(), shown);
    }

    fn happening(what: What) -> Happening {
        let rss = Rss { anon: Some(Bytes::mib(20)), file: Some(Bytes::mib(1)), shmem: Some(Bytes(0)) };
        let who = Who {
            id: ProcessId { pid: 7, start: 9 },
            comm: *b"h\nog\0\0\0\0\0\0\0\0\0\0\0\0",
            uid: 5,
            rss: Some(rss),
        };
        Happening {
            id: DecisionId(3),
            episode: EpisodeId(2),
            at: Time(1),
            wall: SystemTime::UNIX_EPOCH,
            what,
            source: None,
            rule: None,
            group: GroupId(44),
            path: None,
            owner: None,
            who,
            own: false,
            left_out: 0,
        }
    }

    /// A child that was killed before it had a row leaves a record all the same, with whose line it was and by how much it was over.
    #[test]
    fn whoever_was_gone_before_he_was_known_is_told_of() {
        let met = |kill, signal, usage| {
            let rule = (Some(Source::Rule(memgov_decide::policy::RuleId(0))), Some("hogs".into()));
            let mut it = happening(What::Met { kill, signal, line: Bytes::mib(16), usage });
            (it.source, it.rule) = rule;
            it.event(Some(b"/job"), None)
        };
        let killed = met(true, 9, Bytes(0));
        assert_eq!((killed.order, killed.outcome.kind), (wire::OrderKind::Kill, wire::OutcomeKind::Dead));
        assert_eq!(killed.outcome.by.as_deref(), Some("bpf"));
        assert_eq!(killed.source, wire::Source::Rule { rule: "hogs".into() });
        assert!(matches!(killed.target, wire::Target::Process { pid: 7, .. }), "{:?}", killed.target);
        let of_rss = (killed.reason.rss_bytes, killed.reason.rss_line_bytes);
        assert_eq!(of_rss, (Some(Bytes::mib(21).0), Some(Bytes::mib(16).0)));
        let told = met(false, 10, Bytes::mib(30));
        assert_eq!((told.order, told.signal), (wire::OrderKind::Signal, Some(10)));
        assert_eq!(told.outcome.kind, wire::OutcomeKind::Done);
        assert_eq!(
            (told.reason.kind, told.reason.usage_bytes),
            (wire::ReasonKind::Usage, Some(Bytes::mib(30).0))
        );
        assert!(told.reason.text.contains("/job is 30MiB, over 16MiB"), "{}", told.reason.text);
    }

    #[test]
    fn a_shortage_says_where_and_who_was_allocating() {
        let oom = happening(What::Oom { usage: Bytes::mib(24), max: Bytes::mib(24) });
        let shown = oom.event(Some(b"/job"), Some(1000));
        assert_eq!(shown.target, wire::Target::Group { path: "/job".into(), id: 44, owner: Some(1000) });
        assert_eq!(
            (shown.order, shown.source),
            (wire::OrderKind::Oom, wire::Source::Kernel { kernel: true })
        );
        assert_eq!(
            (shown.reason.usage_bytes, shown.reason.usage_line_bytes),
            (Some(24 << 20), Some(24 << 20))
        );
        assert_eq!(
            shown.reason.text,
            "/job is out of memory with usage 24MiB of at most 24MiB; h\\nog[7] was allocating"
        );
        assert_eq!(shown.allocating.map(|who| (who.pid, who.rss_bytes)), Some((7, 21 << 20)));
        let machine = Happening { group: GroupId(0), ..oom }.event(None, None);
        assert_eq!(machine.target, wire::Target::Host {});
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<wire::Event>(&text).unwrap(), machine);
    }

    #[test]
    fn a_victim_says_what_it_held_and_a_storm_what_was_left_out() {
        let shown = Happening { left_out: 12, ..happening(What::Victim) }.event(None, None);
        assert_eq!(
            (shown.reason.rss_bytes, shown.left_out, shown.signal),
            (Some(21 << 20), Some(12), Some(9))
        );
        assert!(shown.reason.text.contains("rss.anon 20MiB") && shown.reason.text.contains("12 more"));
        assert!(matches!(shown.target, wire::Target::Process { pid: 7, uid: Some(5), .. }));
    }

    #[test]
    fn denials_are_counted() {
        let denied =
            What::Denied { calls: 40, more: 9, line: Bytes::mib(8), value: Bytes::mib(9), kernel: false };
        let shown = happening(denied).event(Some(b"/job"), None);
        assert_eq!((shown.denials, shown.reason.usage_bytes), (Some(40), Some(9 << 20)));
        assert!(shown.reason.text.starts_with("40 calls refused since its line was set, 9 of them"));
    }
}
