//! What the kernel did by itself, on its way into the record: shortages, victims, refusals, and signals to whom nobody knew. So many a second and no more, from however many
//! groups: what is left out is counted, said with the next record, and shown in `status`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use memgov_decide::decision::{Decision, EpisodeId, Order, Phase, Source, Target};
use memgov_decide::governor::EpisodeView;
use memgov_decide::policy::Meter;
use memgov_decide::snapshot::{GroupId, Rss};
use memgov_decide::units::{Bytes, Time};

use super::governing::Governing;
use crate::act::{Of, Refused};
use crate::bpf::{Event, EventKind};
use crate::kernel::sys;
use crate::record::Happening;
use crate::record::happening::{Shrunk, What, Who};

/// Records of this kind in a second.
const A_SECOND: u32 = 32;
/// A victim belongs to the shortage before it, if that is not longer ago.
const ONE_SHORTAGE: Duration = Duration::from_secs(1);

/// Bounds what is recorded, and remembers what belongs together.
#[derive(Debug, Default)]
pub(super) struct Happenings {
    since: Time,
    recorded: u32,
    /// Left out since the last record.
    left_out: u64,
    /// Left out since the start.
    pub all_left_out: u64,
    shortage: Option<(EpisodeId, Time)>,
}

impl Happenings {
    /// Whether one more may be recorded now; how many were not since the last one that was.
    fn admit(&mut self, now: Time) -> Option<u64> {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.recorded) = (now, 0);
        }
        if self.recorded == A_SECOND {
            self.left_out += 1;
            self.all_left_out += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Governing {
    /// Puts down what this tick has heard of that nobody decided on.
    pub fn tell_happenings(&mut self) {
        for i in 0..self.heard.len() {
            let event = self.heard[i];
            match event.kind {
                EventKind::OomEnter | EventKind::OomVictim => self.shortage(&event),
                EventKind::Denied | EventKind::KernelDenied => self.denial(&event),
                EventKind::Signalled | EventKind::Killed => self.met(&event),
                _ => {}
            }
        }
    }

    fn shortage(&mut self, event: &Event) {
        self.happenings.all_left_out += event.tag;
        let Some(left_out) = self.happenings.admit(self.snap.at) else { return };
        let recent = self.happenings.shortage.filter(|(_, at)| event.at.since(*at) < ONE_SHORTAGE);
        let (what, episode) = match event.kind {
            EventKind::OomVictim => (What::Victim, recent.map(|(episode, _)| episode)),
            _ => (What::Oom { usage: event.usage, max: event.limit }, None),
        };
        let episode = self.happen(event, what, episode, None, left_out + event.tag);
        if event.kind == EventKind::OomEnter {
            self.happenings.shortage = Some((episode, event.at));
        }
    }

    fn denial(&mut self, event: &Event) {
        let Some(target) = self.refused_target(event) else { return };
        let now = self.snap.at;
        let of = if event.kind == EventKind::KernelDenied { Of::KernelMemory } else { Of::Memory };
        let inside = self.actor.inside();
        let Some(refused) = inside.and_then(|inside| inside.refused(target, of, now, false)) else { return };
        self.denied(target, refused, event);
    }

    /// A signal that nobody has decided on and nobody will: whoever got it is gone, and was before he had a row (a child born a moment ago).
    fn met(&mut self, event: &Event) {
        let row = self.observer.process_slot(event.who.pid).and_then(|slot| self.snap.process(slot));
        if row.is_some_and(|row| row.id == event.who) {
            return;
        }
        let kill = event.kind == EventKind::Killed;
        if kill {
            self.counts.kills.fetch_add(1, Ordering::Relaxed);
        }
        let Some(left_out) = self.happenings.admit(self.snap.at) else { return };
        let what = What::Met { kill, signal: event.signal, line: event.limit, usage: event.usage };
        let source = self.governor.source_of(event.tag);
        self.happen(event, what, None, source, left_out);
    }

    /// The group whose line it was, or the process whose own it was.
    fn refused_target(&self, event: &Event) -> Option<Target> {
        if event.own {
            let slot = self.observer.process_slot(event.who.pid)?;
            return Some(Target::Process(event.who, slot));
        }
        Some(Target::Group(event.group, self.observer.group_slot(event.group, &self.snap)?))
    }

    fn denied(&mut self, target: Target, refused: Refused, event: &Event) {
        let Some(left_out) = self.happenings.admit(self.snap.at) else { return };
        let running: Option<EpisodeView> = self.governor.episodes().find(|view| view.target == target);
        let what = What::Denied {
            calls: refused.calls,
            more: refused.more,
            line: event.limit,
            value: event.usage,
            kernel: event.kind == EventKind::KernelDenied,
        };
        let (episode, source) = (running.map(|view| view.id), running.map(|view| view.source));
        self.happen(event, what, episode, source, left_out);
    }

    /// Before a refusal ends its counter may go with it: what is not in the record yet.
    pub fn last_refused(&mut self, decision: &Decision) -> Option<Refused> {
        let Order::Deny { phase: Phase::End, meter } = decision.order else { return None };
        let of = if meter == Meter::Kernel { Of::KernelMemory } else { Of::Memory };
        let now = self.snap.at;
        self.actor.inside()?.refused(decision.target, of, now, true)
    }

    /// Puts down, with its end, how much an episode refused.
    pub fn tell_refused(&mut self, decision: &Decision, refused: Refused) {
        let Some(left_out) = self.happenings.admit(self.snap.at) else { return };
        let kernel = matches!(decision.order, Order::Deny { meter: Meter::Kernel, .. });
        let Refused { calls, more } = refused;
        let what = What::Denied { calls, more, line: Bytes(0), value: Bytes(0), kernel };
        let mut about = nobody(self.snap.at);
        match decision.target {
            Target::Group(id, _) => about.group = id,
            Target::Host => {}
            Target::Process(who, slot) => {
                (about.who, about.own) = (who, true);
                if let Some(row) = self.snap.process(slot) {
                    (about.comm, about.uid) = (row.comm, row.uid.unwrap_or(u32::MAX));
                    about.group = row.group.and_then(|g| self.snap.group(g)).map_or(GroupId(0), |g| g.id);
                }
            }
        }
        self.happen(&about, what, Some(decision.episode), Some(decision.source), left_out);
    }

    /// Puts down a shrink that somebody asked for.
    pub fn tell_shrunk(&mut self, group: GroupId, by: u32, shrunk: Shrunk) {
        let now = sys::now();
        let Some(left_out) = self.happenings.admit(now) else { return };
        let about = Event { group, uid: by, ..nobody(now) };
        self.happen(&about, What::Shrunk(shrunk), None, None, left_out);
    }

    fn happen(
        &mut self,
        event: &Event,
        what: What,
        episode: Option<EpisodeId>,
        source: Option<Source>,
        left_out: u64,
    ) -> EpisodeId {
        self.tape.number(episode);
        let (id, episode) = self.governor.number(episode);
        let row = self.observer.group_slot(event.group, &self.snap).and_then(|slot| self.snap.group(slot));
        let rule = match source {
            Some(Source::Rule(rule)) => self.rule_names.get(usize::from(rule.0)).map(Arc::clone),
            _ => None,
        };
        let who = Who { id: event.who, comm: event.comm, uid: event.uid, rss: event.rss };
        self.recorder.happening(Happening {
            id,
            episode,
            at: event.at,
            wall: SystemTime::now(),
            what,
            source,
            rule,
            group: event.group,
            path: row.map(|row| Arc::clone(&row.path)),
            owner: row.and_then(|row| row.owner),
            who,
            own: event.own,
            left_out,
        });
        episode
    }
}

/// An event that says nothing yet.
fn nobody(at: Time) -> Event {
    Event {
        kind: EventKind::Denied,
        who: memgov_decide::snapshot::ProcessId { pid: 0, start: 0 },
        group: GroupId(0),
        tag: 0,
        usage: Bytes(0),
        limit: Bytes(0),
        rss: None::<Rss>,
        signal: 0,
        at,
        own: false,
        uid: 0,
        comm: [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_bounded_and_what_is_left_out_is_said() {
        let mut happenings = Happenings::default();
        let at = |ms: u64| Time(10_000_000_000 + ms * 1_000_000);
        let admitted = (0..100).filter(|ms| happenings.admit(at(*ms)).is_some()).count();
        assert_eq!(admitted, A_SECOND as usize);
        assert_eq!(happenings.admit(at(1001)), Some(100 - u64::from(A_SECOND)));
        assert_eq!((happenings.admit(at(1002)), happenings.all_left_out), (Some(0), 68));
    }
}
