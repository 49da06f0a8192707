//! What the programs tell, out of the ring: the loop waits on its descriptor and reads everything that is there.

use super::raw::{Ring, record};
use super::record::{NO_LINE, RawEvent};
use super::{Event, EventKind};
use crate::kernel::sys;
use memgov_decide::snapshot::{GroupId, ProcessId, Rss};
use memgov_decide::units::{Bytes, Time};
use rustix::fd::BorrowedFd;

/// The ring's reading side. What comes when it is full is counted ([`super::Attachments::lost`]), not kept.
pub struct Events {
    pub(super) ring: Ring,
    pub(super) ns_per_tick: u64,
}

impl Events {
    /// Readable when something happened: for epoll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.ring.fd()
    }

    /// Hands over what happened since the last time, oldest first, until `f` says that it takes no more: that event and those after it come
    /// next time. (hot)
    pub fn drain(&mut self, f: &mut dyn FnMut(&Event) -> bool) {
        let ns_per_tick = self.ns_per_tick;
        self.ring.read(&mut |bytes| {
            record(bytes).and_then(|raw| event(&raw, ns_per_tick)).is_none_or(|event| f(&event))
        });
    }
}

fn event(raw: &RawEvent, ns_per_tick: u64) -> Option<Event> {
    let kind = match raw.kind {
        1 => EventKind::Crossed,
        2 => EventKind::Denied,
        3 => EventKind::Signalled,
        4 => EventKind::Killed,
        5 => EventKind::OomEnter,
        6 => EventKind::OomVictim,
        7 => EventKind::Exit,
        8 => EventKind::CrossedOwn,
        9 => EventKind::KernelCrossed,
        10 => EventKind::KernelDenied,
        11 => EventKind::Birth,
        _ => return None,
    };
    let bytes = |pages: u64| Bytes(pages.saturating_mul(sys::page_size()));
    Some(Event {
        kind,
        who: ProcessId { pid: raw.tgid, start: raw.start_ns / ns_per_tick.max(1) },
        group: GroupId(raw.group),
        tag: raw.tag,
        usage: bytes(raw.usage),
        limit: bytes(raw.limit),
        rss: rss(raw),
        signal: u8::try_from(raw.signal).unwrap_or(0),
        at: Time(raw.at_ns),
        own: raw.own != 0,
        uid: raw.uid,
        comm: raw.comm,
    })
}

/// `None`: the process had no memory any more.
fn rss(raw: &RawEvent) -> Option<Rss> {
    let kind = |pages: u64| Some(Bytes(pages.saturating_mul(sys::page_size())));
    (raw.rss_anon != NO_LINE).then(|| Rss {
        anon: kind(raw.rss_anon),
        file: kind(raw.rss_file),
        shmem: kind(raw.rss_shmem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_in_the_ticks_of_proc_and_amounts_in_bytes() {
        let raw = RawEvent { kind: 2, tgid: 9, start_ns: 12_349_999_999, usage: 3, ..RawEvent::default() };
        let event = event(&raw, 10_000_000).unwrap();
        assert_eq!((event.kind, event.who), (EventKind::Denied, ProcessId { pid: 9, start: 1234 }));
        assert_eq!(event.usage, Bytes(3 * sys::page_size()));
    }

    #[test]
    fn kernel_memory_has_kinds_of_its_own() {
        for (raw, kind) in [(9, EventKind::KernelCrossed), (10, EventKind::KernelDenied)] {
            assert_eq!(event(&RawEvent { kind: raw, ..RawEvent::default() }, 1).unwrap().kind, kind);
        }
    }

    #[test]
    fn an_unknown_kind_is_left_out() {
        for kind in [0, 12] {
            assert_eq!(event(&RawEvent { kind, ..RawEvent::default() }, 1), None);
        }
    }
}
