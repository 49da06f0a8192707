//! How cgroup v2 spells memory: file names and texts. Nothing but spelling.

use crate::kernel::text;
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

/// The text of [`USAGE`].
pub fn parse_usage(text: &[u8]) -> Option<Bytes> {
    super::parse_usage(text)
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
