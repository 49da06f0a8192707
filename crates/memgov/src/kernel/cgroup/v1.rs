//! How cgroup v1 spells memory: file names and texts. Nothing but spelling.

use super::Reading;
use crate::kernel::text;
use memgov_decide::units::{Bytes, Limit};
use std::ffi::CStr;

/// What the group and those below it use.
pub const USAGE: &CStr = c"memory.usage_in_bytes";
/// The hard limit.
pub const LIMIT: &CStr = c"memory.limit_in_bytes";
/// How often the limit was hit.
pub const FAILCNT: &CStr = c"memory.failcnt";
/// OOM state and counter.
pub const OOM_CONTROL: &CStr = c"memory.oom_control";

/// Kernel memory of the group and those below it, undivided; no line of `memory.stat` divides it (`memcg1_stats` in mm/memcontrol.c).
pub const KERNEL: &CStr = c"memory.kmem.usage_in_bytes";
/// The most there was of it; a write makes it what there is.
pub const KERNEL_PEAK: &CStr = c"memory.kmem.max_usage_in_bytes";
/// Buffers of TCP sockets, which v1 counts beside all other memory. Of other sockets' buffers it gives no number, and of these only for groups
/// that a limit was written for (`tcpmem_active` in mm/memcontrol.c); for others the file says 0.
pub const TCP: &CStr = c"memory.kmem.tcp.usage_in_bytes";
/// Their limit.
pub const TCP_LIMIT: &CStr = c"memory.kmem.tcp.limit_in_bytes";
/// The most there was of them.
pub const TCP_PEAK: &CStr = c"memory.kmem.tcp.max_usage_in_bytes";

/// The text of [`USAGE`].
pub fn parse_usage(text: &[u8]) -> Option<Bytes> {
    super::parse_usage(text)
}

/// The text of [`LIMIT`]. The kernel keeps limits in pages and prints "none" as the most pages there can be
/// (`PAGE_COUNTER_MAX`, `LONG_MAX / page`) times the page size: 9223372036854771712 for 4 KiB.
pub fn parse_limit(text: &[u8], page: u64) -> Option<Limit> {
    let bytes = super::parse_usage(text)?;
    let none = i64::MAX.unsigned_abs().checked_div(page)?.checked_mul(page)?;
    Some(if bytes.0 >= none { Limit::Max } else { Limit::At(bytes) })
}

/// The text of [`FAILCNT`].
pub fn parse_failcnt(text: &[u8]) -> Option<u64> {
    text::number(text::only_line(text)?)
}

/// The text of [`OOM_CONTROL`]; `oom_kill` is missing before 4.13.
pub fn parse_oom_control(text: &[u8], into: &mut Reading) {
    into.events.oom_kill = text::keyed(text, b"oom_kill");
    into.under_oom = parse_under_oom(text);
}

/// Of [`OOM_CONTROL`], whether tasks of the group wait because it is out of memory and nobody is killed.
pub fn parse_under_oom(text: &[u8]) -> Option<bool> {
    text::keyed(text, b"under_oom").map(|n| n != 0)
}

/// Of [`OOM_CONTROL`], whether the kernel kills when the group is out of memory.
pub fn parse_oom_killer(text: &[u8]) -> Option<bool> {
    text::keyed(text, b"oom_kill_disable").map(|n| n == 0)
}
