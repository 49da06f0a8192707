//! How cgroup v2 spells memory: file names and texts. Nothing but spelling.

use crate::kernel::text;
use memgov_decide::kernel_memory::{Breakdown, Kind};
use memgov_decide::snapshot::Events;
use memgov_decide::units::{Bytes, Limit};
use std::ffi::CStr;

/// What the group and those below it use.
pub const USAGE: &CStr = c"memory.current";
/// The throttle limit.
pub const HIGH: &CStr = c"memory.high";
/// The hard limit.
pub const MAX: &CStr = c"memory.max";
/// Written an amount, the kernel reclaims it (5.19).
pub const RECLAIM: &CStr = c"memory.reclaim";
/// Event counters, modified when one moves.
pub const EVENTS: &CStr = c"memory.events";
/// Whether the group is killed as one.
pub const OOM_GROUP: &CStr = c"memory.oom.group";
/// `populated` and `frozen`.
pub const GROUP_EVENTS: &CStr = c"cgroup.events";
/// Memory by kind, of the group and those below it.
pub const STAT: &CStr = c"memory.stat";
/// Groups below it, living and removed.
pub const GROUP_STAT: &CStr = c"cgroup.stat";

/// Takes over what a line of [`STAT`] says of kernel memory. `kernel` is there since Linux 5.18, the kinds since 5.10 at the latest.
pub fn absorb_stat(line: &[u8], into: &mut Breakdown) {
    let mut words = text::words(line);
    let (Some(key), Some(value), None) = (words.next(), words.next().and_then(text::number), words.next())
    else {
        return;
    };
    match key {
        b"kernel" => into.total = Some(Bytes(value)),
        b"sock" => into.sockets = Some(Bytes(value)),
        key => {
            if let Some(kind) = Kind::named(key) {
                into.set(kind, Bytes(value));
            }
        }
    }
}

/// The text of [`GROUP_STAT`]: groups below that were removed and still hold something of memory. Where the kernel tells it of each controller (6.12)
/// those of memory, before that of any.
pub fn parse_dying(text: &[u8]) -> Option<u64> {
    text::keyed(text, b"nr_dying_subsys_memory").or_else(|| text::keyed(text, b"nr_dying_descendants"))
}

/// The text of [`USAGE`].
pub fn parse_usage(text: &[u8]) -> Option<Bytes> {
    super::parse_usage(text)
}

/// `kernel` of [`STAT`], since 5.18; the line alone is enough.
pub fn parse_kernel(text: &[u8]) -> Option<Bytes> {
    text::keyed(text, b"kernel").map(Bytes)
}

/// The text of [`HIGH`] and [`MAX`].
pub fn parse_limit(text: &[u8]) -> Option<Limit> {
    match text::only_line(text)? {
        b"max" => Some(Limit::Max),
        line => text::number(line).map(|bytes| Limit::At(Bytes(bytes))),
    }
}

/// The text of [`EVENTS`]; a key that this kernel does not have is `None`.
pub fn parse_events(text: &[u8]) -> Events {
    let key = |key: &[u8]| text::keyed(text, key);
    Events { high: key(b"high"), max: key(b"max"), oom: key(b"oom"), oom_kill: key(b"oom_kill") }
}

/// The text of [`OOM_GROUP`].
pub fn parse_oom_group(text: &[u8]) -> Option<bool> {
    match text::only_line(text)? {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}
