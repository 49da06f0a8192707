//! What the buffers of a group's sockets hold. v2 counts them in the group's one pool (`sock` of `memory.stat`, all protocols that count); v1 counts TCP alone,
//! beside all other memory (`memory.kmem.tcp.*`), and only in groups for which somebody has written a limit (`tcpmem_active` in mm/memcontrol-v1.c).
//! For the loop: files are kept open where a rule asks for them, and nothing is allocated.

use super::{GroupDir, Switches, Tap, parse_usage, v1, v2};
use crate::kernel::layout::MemoryVersion;
use crate::kernel::{Errno, file, sys, text};
use memgov_decide::units::{Bytes, Limit};

/// In a trace, v1: the file's own name. An empty text: nobody counts.
pub(super) const FRAME_V1: &str = "memory.kmem.tcp.usage_in_bytes";
/// In a trace, v2: the line of `memory.stat`.
pub(super) const FRAME_V2: &str = "memory.stat:sock";

/// The text of either.
pub(super) fn parse(frame: &str, text: &[u8]) -> Option<Bytes> {
    if frame == FRAME_V1 { parse_usage(text) } else { text::keyed(text, b"sock").map(Bytes) }
}

impl GroupDir {
    /// Opens what says how much the buffers of sockets hold, or closes it. What is not there stays closed; so does, on v2, what says nothing because the
    /// kernel was started with `cgroup.memory=nosocket`.
    pub fn keep_sockets(&mut self, keep: bool) {
        let name = match self.version {
            MemoryVersion::V1 => v1::TCP,
            MemoryVersion::V2 => v2::STAT,
        };
        if !keep {
            self.sockets = None;
        } else if self.sockets.is_none() {
            // v1 counts all the same: `memcg_update_tcp_max` does not look at the switch.
            let switched_off = self.version == MemoryVersion::V2 && Switches::of_this_boot().no_sockets;
            self.sockets =
                if switched_off { None } else { file::open_if_there(self.dir(), name).ok().flatten() };
        }
    }

    /// What the buffers of its sockets hold, and those of groups below; `None`: not kept open, or nobody counts. `buffer`: 512 bytes do. `tap` is shown the name
    /// and the line.
    ///
    /// v2 adds up what its processors have counted when enough has changed or 2 s have passed, v1 is exact but for 64 pages a processor (mm/memcontrol.c).
    pub fn read_sockets(&self, buffer: &mut [u8], tap: Tap<'_>) -> Result<Option<Bytes>, Errno> {
        let Some(fd) = &self.sockets else { return Ok(None) };
        match self.version {
            MemoryVersion::V1 => {
                let mut digits = [0; 32];
                let text = file::pread(fd, &mut digits)?;
                let held = parse_usage(text);
                let nobody_counts = held == Some(Bytes(0)) && !self.counts_tcp(buffer)?;
                tap(FRAME_V1, if nobody_counts { b"" } else { text });
                Ok(held.filter(|_| !nobody_counts))
            }
            MemoryVersion::V2 => {
                // `sock` is among the first lines of memory.stat: the rest need not be copied.
                let most = buffer.len().min(512);
                let text = file::pread(fd, &mut buffer[..most])?;
                // With its newline: a line that was cut off says nothing.
                let mut lines = text.split_inclusive(|&byte| byte == b'\n');
                let line = lines.find(|line| line.starts_with(b"sock ")).unwrap_or_default();
                let line = if line.ends_with(b"\n") { line } else { b"" };
                tap(FRAME_V2, line);
                Ok(parse(FRAME_V2, line))
            }
        }
    }

    /// v1: whether buffers of TCP sockets are counted here at all, as far as that shows while there are none: there were some, or there is a limit.
    pub fn counts_tcp(&self, buffer: &mut [u8]) -> Result<bool, Errno> {
        if self.amount(v1::TCP_PEAK, buffer)?.is_some_and(|peak| peak.0 > 0) {
            return Ok(true);
        }
        Ok(matches!(self.tcp_limit(buffer)?, Some(Limit::At(_))))
    }

    /// How often a socket of this group or of one below was kept small because the group was under pressure: `sock_throttled` of `memory.events`, since Linux 6.19. `None`: this kernel does
    /// not count it.
    pub fn read_throttled_sockets(&self, buffer: &mut [u8]) -> Result<Option<u64>, Errno> {
        if self.version == MemoryVersion::V1 {
            return Ok(None);
        }
        let events = file::open_if_there(self.dir(), v2::EVENTS)?;
        events.map_or(Ok(None), |events| Ok(parse_throttled(file::pread(events, buffer)?)))
    }

    /// v1: the limit for TCP; `None`: there is no such file.
    pub fn tcp_limit(&self, buffer: &mut [u8]) -> Result<Option<Limit>, Errno> {
        let limit = file::open_if_there(self.dir(), v1::TCP_LIMIT)?;
        limit.map_or(Ok(None), |limit| Ok(v1::parse_limit(file::pread(limit, buffer)?, sys::page_size())))
    }
}

fn parse_throttled(events: &[u8]) -> Option<u64> {
    text::keyed(events, b"sock_throttled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttled_sockets_are_counted_by_kernels_that_say_so() {
        let before = b"low 0\nhigh 3\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\n";
        assert_eq!(parse_throttled(before), None);
        let since_6_19 = b"low 0\nhigh 3\nmax 9\noom 0\noom_kill 0\noom_group_kill 0\nsock_throttled 17\n";
        assert_eq!(parse_throttled(since_6_19), Some(17));
    }

    #[test]
    fn a_text_that_says_nothing_is_not_zero() {
        assert_eq!(parse(FRAME_V1, b""), None);
        assert_eq!(parse(FRAME_V1, b"4096\n"), Some(Bytes(4096)));
        assert_eq!(parse(FRAME_V2, b""), None);
        assert_eq!(parse(FRAME_V2, b"sock 8192\n"), Some(Bytes(8192)));
    }
}
