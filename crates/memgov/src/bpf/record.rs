//! The Rust side of `c/record.h`: the same structs, field for field. A test below compares the two through the BTF of the compiled programs.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64};

pub(super) const NO_LINE: u64 = u64::MAX;
pub(super) const HIGH_OF_KERNEL: u64 = u64::MAX;
pub(super) const HIGH_MAX: u64 = u64::MAX - 1;
pub(super) const KIND_ANON: u8 = 1;
pub(super) const KIND_FILE: u8 = 2;
pub(super) const KIND_SHMEM: u8 = 4;
pub(super) const TASK_HIGH: u8 = 1;
pub(super) const TASK_HELD: u8 = 8;

pub(super) const ACTION_DENY: u8 = 1;
pub(super) const ACTION_SIGNAL: u8 = 2;
pub(super) const ACTION_KILL: u8 = 3;
pub(super) const ACTION_TELL: u8 = 4;

/// Mapped memory: every field is read by programs while it is written here.
#[repr(C)]
pub(super) struct Control {
    pub lease_until_ns: AtomicU64,
    pub levels: AtomicU64,
    pub event_gap_ns: AtomicU64,
    pub ns_per_tick: AtomicU64,
    pub selftest_tid: AtomicU32,
    pub tasks: AtomicU32,
    pub protected_count: AtomicU32,
    pub unused: AtomicU32,
    pub protected_names: [[AtomicU8; 16]; super::MAX_PROTECTED_NAMES],
}

/// Mapped memory, likewise.
#[repr(C)]
pub(super) struct GroupSlot {
    pub id: AtomicU64,
    pub deny_line: AtomicU64,
    pub tell_line: AtomicU64,
    pub kernel_line: AtomicU64,
    pub high: AtomicU64,
    pub tag: AtomicU64,
    pub level: AtomicU32,
    pub unused_low: AtomicU32,
    pub denials: AtomicU64,
    pub kernel_denials: AtomicU64,
    pub told_ns: AtomicU64,
    pub crossed: AtomicU32,
    pub kernel_crossed: AtomicU32,
    pub kernel_bytes: AtomicI64,
    pub unused: AtomicU64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RawTaskLimit {
    pub group_line: u64,
    pub rss_line: u64,
    pub group: u64,
    pub tag: u64,
    pub repeat_ns: u64,
    pub action: u8,
    pub signal: u8,
    pub kinds: u8,
    pub flags: u8,
    pub sent: u32,
    pub denials: u64,
    pub told_ns: u64,
    pub sent_ns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawEvent {
    pub kind: u32,
    pub tgid: u32,
    pub start_ns: u64,
    pub group: u64,
    pub tag: u64,
    pub usage: u64,
    pub limit: u64,
    pub rss_anon: u64,
    pub rss_file: u64,
    pub rss_shmem: u64,
    pub at_ns: u64,
    pub signal: u32,
    pub hook: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExemptKey {
    pub start_ticks: u64,
    pub tgid: u32,
    pub unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HookStats {
    pub calls: u64,
    pub acted: u64,
}

/// `enum hook`: where a program's statistics are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum StatId {
    MmapAddr,
    FileMprotect,
    Charge,
    Rss,
    Oom,
    Victim,
    Fork,
    Exec,
    Exit,
    LostEvents,
    LostChildren,
}
