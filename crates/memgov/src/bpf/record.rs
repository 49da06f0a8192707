//! The Rust side of `c/record.h`: the same structs, field for field. A test below compares the two through the BTF of the compiled programs.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64};

/// Words of 64 bits of [`Control::ids`].
pub(super) const ID_WORDS: usize = 64;

pub(super) const NO_LINE: u64 = u64::MAX;
pub(super) const HIGH_OF_KERNEL: u64 = u64::MAX;
pub(super) const HIGH_MAX: u64 = u64::MAX - 1;
pub(super) const KIND_ANON: u8 = 1;
pub(super) const KIND_FILE: u8 = 2;
pub(super) const KIND_SHMEM: u8 = 4;
pub(super) const TASK_HIGH: u8 = 1;
pub(super) const TASK_HELD: u8 = 8;
pub(super) const TASK_RULE: u8 = 16;

pub(super) const ACTION_NONE: u8 = 0;
pub(super) const ACTION_DENY: u8 = 1;
pub(super) const ACTION_SIGNAL: u8 = 2;
pub(super) const ACTION_KILL: u8 = 3;
pub(super) const ACTION_TELL: u8 = 4;

/// Mapped memory: every field is read by programs while it is written here.
#[repr(C)]
pub(super) struct Control {
    pub lease_until_ns: AtomicU64,
    pub levels: AtomicU64,
    pub kernel_levels: AtomicU64,
    pub event_gap_ns: AtomicU64,
    pub ns_per_tick: AtomicU64,
    pub selftest_tid: AtomicU32,
    pub selftest_hook: AtomicU32,
    pub tasks: AtomicU32,
    pub protected_count: AtomicU32,
    pub page_size: AtomicU32,
    pub exempt_files: AtomicU32,
    pub kills_left: AtomicI64,
    pub generation: AtomicU32,
    pub kernel_generation: AtomicU32,
    pub squeezed: AtomicU32,
    pub unused: AtomicU32,
    pub protected_names: [[AtomicU8; 16]; super::MAX_PROTECTED_NAMES],
    pub ids: [AtomicU64; ID_WORDS],
}

/// Mapped memory, likewise.
#[repr(C)]
#[cfg_attr(test, derive(Default))]
pub(super) struct GroupSlot {
    pub id: AtomicU64,
    pub deny_line: AtomicU64,
    pub tell_line: AtomicU64,
    pub kernel_line: AtomicU64,
    pub kernel_tell_line: AtomicU64,
    pub high: AtomicU64,
    pub tag: AtomicU64,
    pub level: AtomicU32,
    pub kernel_seeded: AtomicU32,
    pub denials: AtomicU64,
    pub kernel_denials: AtomicU64,
    pub told_ns: AtomicU64,
    pub kernel_told_ns: AtomicU64,
    pub crossed_ns: AtomicU64,
    pub kernel_crossed_ns: AtomicU64,
    pub crossed: AtomicU32,
    pub kernel_crossed: AtomicU32,
    pub kernel_pages: AtomicI64,
    pub kernel_pending: AtomicI64,
    pub kernel_pending_least: AtomicI64,
}

impl GroupSlot {
    /// No fork is under way that was counted.
    pub fn nothing_pending(&self) {
        self.kernel_pending.store(0, Relaxed);
        self.kernel_pending_least.store(NOT_LOOKED, Relaxed);
    }

    /// Takes away what was pending all the time since it was looked last: forks whose end passed no program, or (below 0) whose beginning did not.
    /// A group in which at every moment some process forks loses what those need for as long as they take, and has it again at the next look.
    pub fn forget_what_never_ended(&self) {
        let least = match self.kernel_pending_least.swap(NOT_LOOKED, Relaxed) {
            // No fork began or ended.
            NOT_LOOKED => self.kernel_pending.load(Relaxed),
            least => least,
        };
        self.kernel_pending.fetch_sub(least, Relaxed);
    }
}

/// More than can be pending.
const NOT_LOOKED: i64 = i64::MAX;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RawTaskLimit {
    pub group_line: u64,
    pub rss_line: u64,
    pub group: u64,
    pub tag: u64,
    pub action: u8,
    pub signal: u8,
    pub kinds: u8,
    pub flags: u8,
    pub sent: u32,
    pub generation: u32,
    pub unused: u32,
    pub denials: u64,
    pub told_ns: u64,
    pub crossed_ns: u64,
    pub room_until_ns: u64,
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
    pub uid: u32,
    pub own: u32,
    pub comm: [u8; 16],
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

/// Mapped memory, written by the iterator while it is read from; amounts in pages.
#[repr(C)]
pub(super) struct RawGroupRecord {
    pub id: AtomicU64,
    pub usage: AtomicU64,
    pub high: AtomicU64,
    pub max: AtomicU64,
    pub swap: AtomicU64,
    pub failcnt: AtomicU64,
    pub high_events: AtomicU64,
    pub max_events: AtomicU64,
    pub oom_events: AtomicU64,
    pub oom_kills: AtomicU64,
    pub oom_group: AtomicU64,
}

/// Mapped memory, likewise.
#[repr(C)]
pub(super) struct RawGroupPass {
    pub seen: AtomicU64,
    pub complete: AtomicU64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExemptFileKey {
    pub inode: u64,
    pub device: u64,
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
    KernelMemory,
    TaskAlloc,
    InodeCreate,
    InodeMkdir,
    InodeMknod,
    InodeSymlink,
    InodeLink,
    InodeSetxattr,
    FileAlloc,
    SkAlloc,
    SocketSendmsg,
    FileFcntl,
    KernelMprotect,
    KernelForks,
    MsgQueueAlloc,
    MsgMsgAlloc,
    SemAlloc,
    Accept,
    Connect,
    SocketCharge,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::load::{self, Source};
    use libbpf_rs::btf::types::Struct;
    use libbpf_rs::btf::{Btf, HasSize};
    use std::mem::offset_of;

    /// Name, offset and, at the end, size, as clang has laid the struct out.
    fn in_c(btf: &Btf<'_>, name: &str) -> (Vec<(String, usize)>, usize) {
        let found: Struct<'_> =
            btf.type_by_name(name).unwrap_or_else(|| panic!("no struct {name} in the programs"));
        let offset = |member: &libbpf_rs::btf::types::StructMember<'_>| match member.attr {
            libbpf_rs::btf::types::MemberAttr::Normal { offset } => offset as usize / 8,
            libbpf_rs::btf::types::MemberAttr::BitField { .. } => panic!("{name} has a bit field"),
        };
        let members =
            found.iter().map(|member| (member.name.unwrap().to_string_lossy().into_owned(), offset(&member)));
        (members.collect(), found.size())
    }

    macro_rules! same {
        ($btf:expr, $name:literal, $rust:ty, $($field:ident),+) => {
            let here = vec![$((stringify!($field).to_owned(), offset_of!($rust, $field))),+];
            assert_eq!(in_c($btf, $name), (here, size_of::<$rust>()), $name);
        };
    }

    #[test]
    fn both_sides_lay_records_out_alike() {
        let programs = load::open(Source::Life).unwrap();
        let object = libbpf_rs::AsRawLibbpf::as_libbpf_object(&programs);
        // SAFETY: the object lives until the end of the test.
        let btf = Btf::from_bpf_object(unsafe { object.as_ref() }).unwrap().unwrap();
        same!(
            &btf,
            "control",
            Control,
            lease_until_ns,
            levels,
            kernel_levels,
            event_gap_ns,
            ns_per_tick,
            selftest_tid,
            selftest_hook,
            tasks,
            protected_count,
            page_size,
            exempt_files,
            kills_left,
            generation,
            kernel_generation,
            squeezed,
            unused,
            protected_names,
            ids
        );
        same!(
            &btf,
            "group_slot",
            GroupSlot,
            id,
            deny_line,
            tell_line,
            kernel_line,
            kernel_tell_line,
            high,
            tag,
            level,
            kernel_seeded,
            denials,
            kernel_denials,
            told_ns,
            kernel_told_ns,
            crossed_ns,
            kernel_crossed_ns,
            crossed,
            kernel_crossed,
            kernel_pages,
            kernel_pending,
            kernel_pending_least
        );
        same!(
            &btf,
            "task_limit",
            RawTaskLimit,
            group_line,
            rss_line,
            group,
            tag,
            action,
            signal,
            kinds,
            flags,
            sent,
            generation,
            unused,
            denials,
            told_ns,
            crossed_ns,
            room_until_ns
        );
        same!(
            &btf, "event", RawEvent, kind, tgid, start_ns, group, tag, usage, limit, rss_anon, rss_file,
            rss_shmem, at_ns, signal, hook, uid, own, comm
        );
        same!(&btf, "hook_stats", HookStats, calls, acted);
        let programs = load::open(Source::Deny).unwrap();
        let object = libbpf_rs::AsRawLibbpf::as_libbpf_object(&programs);
        // SAFETY: the object lives until the end of the test.
        let btf = Btf::from_bpf_object(unsafe { object.as_ref() }).unwrap().unwrap();
        same!(&btf, "exempt_key", ExemptKey, start_ticks, tgid, unused);
        same!(&btf, "exempt_file", ExemptFileKey, inode, device);
    }

    #[test]
    fn forks_that_never_end_are_forgotten() {
        let slot = GroupSlot::default();
        let event = |pages: i64| {
            let now = slot.kernel_pending.fetch_add(pages, Relaxed) + pages;
            slot.kernel_pending_least.fetch_min(now, Relaxed);
        };
        slot.nothing_pending();
        event(40);
        event(8);
        event(-8);
        slot.forget_what_never_ended();
        assert_eq!(slot.kernel_pending.load(Relaxed), 0, "40 were pending all the time");
        event(8);
        slot.forget_what_never_ended();
        assert_eq!(slot.kernel_pending.load(Relaxed), 0);
        event(-8);
        assert_eq!(slot.kernel_pending.load(Relaxed), -8, "it did end");
        slot.forget_what_never_ended();
        assert_eq!(slot.kernel_pending.load(Relaxed), 0, "and is right again");
        slot.forget_what_never_ended();
        assert_eq!(slot.kernel_pending.load(Relaxed), 0, "nothing new, nothing to do");
    }

    #[test]
    fn both_sides_lay_readings_of_groups_out_alike() {
        let programs = load::open(Source::Groups).unwrap();
        let object = libbpf_rs::AsRawLibbpf::as_libbpf_object(&programs);
        // SAFETY: the object lives until the end of the test.
        let btf = Btf::from_bpf_object(unsafe { object.as_ref() }).unwrap().unwrap();
        same!(
            &btf,
            "group_record",
            RawGroupRecord,
            id,
            usage,
            high,
            max,
            swap,
            failcnt,
            high_events,
            max_events,
            oom_events,
            oom_kills,
            oom_group
        );
        same!(&btf, "group_pass", RawGroupPass, seen, complete);
    }

    /// Each program's place in the statistics: the last ones of the list, which a name too many or too few on either side would move.
    #[test]
    fn both_sides_number_hooks_alike() {
        let header = include_str!("c/record.h");
        let list = header.split("enum hook {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        let names: Vec<&str> =
            list.lines().filter_map(|line| line.trim().strip_prefix("HOOK_")?.split(',').next()).collect();
        let at = |name: &str| names.iter().position(|it| *it == name).unwrap();
        assert_eq!(at("LOST_CHILDREN"), StatId::LostChildren as usize);
        assert_eq!(at("KERNEL_MEMORY"), StatId::KernelMemory as usize);
        assert_eq!(at("KERNEL_MPROTECT"), StatId::KernelMprotect as usize);
        assert_eq!(at("KERNEL_FORKS"), StatId::KernelForks as usize);
        assert_eq!(at("SEM_ALLOC"), StatId::SemAlloc as usize);
        assert_eq!(at("SOCKET_CHARGE"), StatId::SocketCharge as usize);
        assert_eq!(names.len(), StatId::SocketCharge as usize + 2, "COUNT comes last");
    }
}
