//! Kernel memory of a group and all below it, one shape for v1 and v2, and whether the kernel accounts it at all. For whoever asks, not
//! for the loop: files are opened each time.

use super::{GroupDir, parse_usage, v1, v2};
use crate::kernel::layout::MemoryVersion;
use crate::kernel::{Errno, file, sys};
use memgov_decide::kernel_memory::Breakdown;
use memgov_decide::units::{Bytes, Limit};
use std::ffi::CStr;
use std::path::Path;

/// What was switched off when the kernel was started (`cgroup.memory=` in Documentation/admin-guide/kernel-parameters.txt).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// `nokmem`: kernel memory is charged to nobody.
    pub no_kernel: bool,
    /// `nosocket`: nor are sockets' buffers.
    pub no_sockets: bool,
}

impl Switches {
    /// Of the kernel that runs, read once.
    pub fn of_this_boot() -> Self {
        static SWITCHES: std::sync::OnceLock<Switches> = std::sync::OnceLock::new();
        *SWITCHES.get_or_init(|| Self::read(Path::new("/")))
    }

    /// From `/proc/cmdline`; `root` is `/` or a recorded tree. One that cannot be read says nothing.
    pub fn read(root: &Path) -> Self {
        file::whole(&root.join("proc/cmdline")).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(cmdline: &[u8]) -> Self {
        let mut switches = Self::default();
        let words = cmdline.split(u8::is_ascii_whitespace).take_while(|word| *word != b"--");
        for word in words.filter_map(|word| word.strip_prefix(b"cgroup.memory=")) {
            for token in word.split(|&byte| byte == b',') {
                switches.no_kernel |= token == b"nokmem";
                switches.no_sockets |= token == b"nosocket";
            }
        }
        switches
    }
}

/// Whether a total means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// It does.
    Accounted,
    /// The kernel was started with `cgroup.memory=nokmem`: its files say 0.
    SwitchedOff,
    /// It says 0 of the whole hierarchy, though processes run below its root, and each of them takes some: whatever the reason, nobody counts.
    CountsNothing,
    /// It has no file or line for it: before Linux 5.18 on v2, without CONFIG_MEMCG_KMEM on v1, or the controller is not enabled for the group.
    Unavailable,
}

impl Accounting {
    /// Why there is no number; `None` where there is one.
    pub const fn why(self) -> Option<&'static str> {
        match self {
            Self::Accounted => None,
            Self::SwitchedOff => Some(
                "this kernel does not account kernel memory: it was started with cgroup.memory=nokmem; start it without",
            ),
            Self::CountsNothing => Some(
                "this kernel does not account kernel memory: it says 0 for all groups, and processes run in some; \
                 look for cgroup.memory=nokmem where it is started",
            ),
            Self::Unavailable => Some(
                "this group has no account of kernel memory: the memory controller is not enabled for it, or the kernel is older \
                 than 5.18 (v2) or was built without CONFIG_MEMCG_KMEM",
            ),
        }
    }
}

/// Judges a total: `whole` is that of the mounted root, `inhabited` whether a process is in a group below it.
///
/// A group that says 0 alone may be right: who is moved into it leaves what he has taken where he was.
pub fn accounting(
    switches: Switches,
    total: Option<Bytes>,
    whole: Option<Bytes>,
    inhabited: bool,
) -> Accounting {
    match (total, whole) {
        // It counts, whatever it was told.
        (Some(total), _) if total.0 > 0 => Accounting::Accounted,
        _ if switches.no_kernel => Accounting::SwitchedOff,
        (None, _) => Accounting::Unavailable,
        (Some(_), Some(Bytes(0))) if inhabited => Accounting::CountsNothing,
        (Some(_), _) => Accounting::Accounted,
    }
}

impl GroupDir {
    /// Kernel memory of the group and all below it, by kind where the kernel tells (v2). `buffer`: 128 bytes and more; a longer
    /// line than it is passed over.
    ///
    /// v2 adds up lazily: a number may be 2 s old, or less than 64 pages a processor off (`MEMCG_CHARGE_BATCH` in mm/memcontrol.c).
    pub fn read_kernel_memory(&self, buffer: &mut [u8]) -> Result<Breakdown, Errno> {
        match self.version {
            MemoryVersion::V1 => {
                let total = self.amount(v1::KERNEL, buffer)?;
                Ok(Breakdown::undivided(total, self.tcp(buffer)?))
            }
            MemoryVersion::V2 => {
                let mut into = Breakdown::default();
                if let Some(stat) = file::open_if_there(self.dir(), v2::STAT)? {
                    file::for_each_line(stat, buffer, &mut |line| v2::absorb_stat(line, &mut into))?;
                }
                // The line is there, and says 0.
                into.sockets = into.sockets.filter(|_| !Switches::of_this_boot().no_sockets);
                Ok(into)
            }
        }
    }

    /// The most kernel memory there was since the group was made, or since the last reset. v1 alone keeps it.
    pub fn read_kernel_peak(&self, buffer: &mut [u8]) -> Result<Option<Bytes>, Errno> {
        match self.version {
            MemoryVersion::V1 => self.amount(v1::KERNEL_PEAK, buffer),
            MemoryVersion::V2 => Ok(None),
        }
    }

    /// Makes the peak what there is. `OPNOTSUPP`: the kernel keeps none (v2).
    pub fn reset_kernel_peak(&self) -> Result<(), Errno> {
        match self.version {
            MemoryVersion::V1 => file::write_in(self.dir(), v1::KERNEL_PEAK, b"0"),
            MemoryVersion::V2 => Err(Errno::OPNOTSUPP),
        }
    }

    /// Groups below it that were removed and still hold memory: user memory that is charged to them, page cache above all. What the kernel
    /// held in their name was made over to their parents when they were removed. v1 does not tell it of a group.
    pub fn read_dying(&self, buffer: &mut [u8]) -> Result<Option<u64>, Errno> {
        if self.version == MemoryVersion::V1 {
            return Ok(None);
        }
        let stat = file::open_if_there(self.dir(), v2::GROUP_STAT)?;
        stat.map_or(Ok(None), |stat| Ok(v2::parse_dying(file::pread(stat, buffer)?)))
    }

    /// Buffers of TCP sockets on v1. 0 says something only of a group that has or had some, or has a limit: of others nobody counts any.
    pub(super) fn tcp(&self, buffer: &mut [u8]) -> Result<Option<Bytes>, Errno> {
        let used = self.amount(v1::TCP, buffer)?;
        if used != Some(Bytes(0)) || self.amount(v1::TCP_PEAK, buffer)?.is_some_and(|peak| peak.0 > 0) {
            return Ok(used);
        }
        let limit = match file::open_if_there(self.dir(), v1::TCP_LIMIT)? {
            Some(limit) => v1::parse_limit(file::pread(limit, buffer)?, sys::page_size()),
            None => None,
        };
        Ok(used.filter(|_| matches!(limit, Some(Limit::At(_)))))
    }

    pub(super) fn amount(&self, name: &CStr, buffer: &mut [u8]) -> Result<Option<Bytes>, Errno> {
        let file = file::open_if_there(self.dir(), name)?;
        file.map_or(Ok(None), |file| Ok(parse_usage(file::pread(file, buffer)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_command_line_says_what_is_switched_off() {
        let of = |text: &[u8]| {
            let Switches { no_kernel, no_sockets } = Switches::parse(text);
            (no_kernel, no_sockets)
        };
        assert_eq!(of(b"ro quiet cgroup.memory=nokmem\n"), (true, false));
        assert_eq!(of(b"cgroup.memory=nosocket,nokmem ro\n"), (true, true));
        assert_eq!(of(b"cgroup.memory=nosocket cgroup.memory=nokmem"), (true, true));
        for harmless in [
            &b"cgroup.memory=nobpf"[..],
            b"xcgroup.memory=nokmem",
            b"nokmem",
            b"",
            b"ro -- cgroup.memory=nokmem",
        ] {
            assert_eq!(of(harmless), (false, false), "{harmless:?}");
        }
    }

    #[test]
    fn zero_is_an_account_only_where_somebody_counts() {
        let (on, off) = (Switches::default(), Switches { no_kernel: true, no_sockets: false });
        let bytes = |n| Some(Bytes(n));
        assert_eq!(accounting(on, bytes(9), bytes(9), true), Accounting::Accounted);
        assert_eq!(
            accounting(on, bytes(0), bytes(9), true),
            Accounting::Accounted,
            "its members came from elsewhere"
        );
        assert_eq!(accounting(on, bytes(0), bytes(0), false), Accounting::Accounted, "nobody takes any");
        assert_eq!(accounting(on, bytes(0), bytes(0), true), Accounting::CountsNothing);
        assert_eq!(accounting(off, bytes(0), bytes(0), false), Accounting::SwitchedOff);
        assert_eq!(accounting(off, None, None, true), Accounting::SwitchedOff);
        assert_eq!(accounting(on, None, bytes(9), true), Accounting::Unavailable);
    }
}
