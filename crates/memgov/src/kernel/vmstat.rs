//! What the machine's reclaim has done so far, from `/proc/vmstat` (proc_vmstat(5)). Opened when it is first asked, and read once a tick however many ask.

use super::{file, text};
use memgov_decide::units::Time;
use rustix::fd::OwnedFd;

/// The file, and what it said last.
#[derive(Debug, Default)]
pub struct Vmstat {
    file: Option<OwnedFd>,
    read_at: Time,
    said: Scans,
}

/// Counters since boot; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scans {
    /// Pages that tasks have looked through because the machine was short, not a group (`pgscan_direct`, counted for global reclaim alone: `shrink_inactive_list` in mm/vmscan.c).
    pub direct: Option<u64>,
    /// Pages that were gone and came back soon (`workingset_activate_anon` and `…_file`).
    pub came_back: Option<u64>,
}

impl Vmstat {
    /// What it says. `buffer`: more than a line, 512 bytes do.
    pub fn scans(&mut self, at: Time, buffer: &mut [u8]) -> Scans {
        if self.file.is_none() {
            self.file = file::open(c"/proc/vmstat").ok();
        } else if self.read_at == at {
            return self.said;
        }
        (self.read_at, self.said) = (at, self.read(buffer).unwrap_or_default());
        self.said
    }

    fn read(&self, buffer: &mut [u8]) -> Option<Scans> {
        let (file, mut said) = (self.file.as_ref()?, Scans::default());
        // Longer than what one read gives (a page, seq_read_iter in fs/seq_file.c).
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).ok()?;
        let mut line = |line: &[u8]| {
            said.direct = said.direct.or_else(|| value(line, b"pgscan_direct "));
            if let Some(pages) = came_back(line) {
                said.came_back = Some(said.came_back.unwrap_or_default() + pages);
            }
        };
        file::for_each_line(file, buffer, &mut line).ok()?;
        Some(said)
    }
}

/// Of a line of this file, or of a group's `memory.stat`.
pub(super) fn came_back(line: &[u8]) -> Option<u64> {
    value(line, b"workingset_activate_anon ").or_else(|| value(line, b"workingset_activate_file "))
}

fn value(line: &[u8], key: &[u8]) -> Option<u64> {
    text::number(line.strip_prefix(key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells() {
        let (mut vmstat, mut buffer) = (Vmstat::default(), vec![0; 512]);
        let first = vmstat.scans(Time(1), &mut buffer);
        assert!(first.direct.is_some() && first.came_back.is_some(), "{first:?}");
        assert_eq!(vmstat.scans(Time(1), &mut []), first, "not read again in the same tick");
        assert!(vmstat.scans(Time(2), &mut buffer).direct >= first.direct);
    }
}
