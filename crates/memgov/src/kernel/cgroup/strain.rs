//! What it costs a group that some of its memory is not there ([`Strain`]), and what is kept for it. For the loop: files are kept open where a
//! rule asks for them, and nothing is allocated. v2 only, and only where `memory.reclaim` is (Linux 5.19): without that nobody asks.

use super::{GroupDir, Tap, parse_usage, v2};
use crate::kernel::layout::MemoryVersion;
use crate::kernel::{Errno, file, psi, text};
use memgov_decide::snapshot::Strain;
use memgov_decide::units::{Bytes, Limit};
use rustix::fd::OwnedFd;
use rustix::fs::{Access, AtFlags};
use std::ffi::CStr;

/// Time that its tasks waited for memory.
const PRESSURE: &CStr = c"memory.pressure";
/// What it has in swap.
const SWAP: &CStr = c"memory.swap.current";
/// Kept for it as long as there is other memory to be had, ...
const LOW: &CStr = c"memory.low";
/// ... and in any case.
const MIN: &CStr = c"memory.min";
/// In a trace: the lines of `memory.stat` that are about refaults, ...
const REFAULTS: &str = "memory.stat:workingset_refault";
/// ... and the one about what was reclaimed.
const TAKEN: &str = "memory.stat:pgsteal";

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StrainReading {
    /// What it costs.
    pub strain: Strain,
    /// The larger of `memory.low` and `memory.min`.
    pub reserved: Option<Limit>,
}

impl StrainReading {
    /// Takes over what a file says, by its name; whether the name is known. What the text does not say becomes `None`.
    pub fn apply(&mut self, name: &str, text: &[u8], page: u64) -> bool {
        match name {
            "memory.pressure" => self.strain.stalled = psi::parse(text).some.map(|some| some.total),
            "memory.swap.current" => self.strain.swap = parse_usage(text),
            REFAULTS => {
                let refaults = |key: &[u8]| text::keyed(text, key);
                let anon = refaults(b"workingset_refault_anon");
                let file = refaults(b"workingset_refault_file");
                self.strain.refaults = anon.zip(file).map(|(anon, file)| anon.saturating_add(file));
                let bytes = |pages: u64| Bytes(pages.saturating_mul(page));
                (self.strain.swapped_in, self.strain.came_back) =
                    (anon.map(bytes), self.strain.refaults.map(bytes));
            }
            TAKEN => {
                let taken = text::keyed(text, b"pgsteal");
                self.strain.taken = taken.map(|pages| Bytes(pages.saturating_mul(page)));
            }
            "memory.low" => self.reserved = v2::parse_limit(text),
            "memory.min" => self.reserved = self.reserved.max(v2::parse_limit(text)),
            _ => return false,
        }
        true
    }
}

/// The files, open.
#[derive(Debug)]
pub(super) struct StrainFiles {
    stat: OwnedFd,
    others: [(&'static CStr, Option<OwnedFd>); 4],
}

impl GroupDir {
    /// Opens what says how it fares, or closes it. Where there is no `memory.reclaim` it stays closed.
    pub fn keep_strain(&mut self, keep: bool) {
        if !keep {
            self.strain = None;
        } else if self.strain.is_none() && self.version() == MemoryVersion::V2 {
            self.strain = self.open_strain();
        }
    }

    fn open_strain(&self) -> Option<Box<StrainFiles>> {
        rustix::fs::accessat(self.dir(), v2::RECLAIM, Access::EXISTS, AtFlags::empty()).ok()?;
        let open = |name: &'static CStr| file::open_if_there(self.dir(), name).ok().flatten();
        let others = [PRESSURE, SWAP, LOW, MIN].map(|name| (name, open(name)));
        Some(Box::new(StrainFiles { stat: open(v2::STAT)?, others }))
    }

    /// How it fares; `Ok(None)`: not kept open. `buffer`: all of `memory.stat`, 8 KiB do. `tap` is shown the names and texts, of `memory.stat` the
    /// lines that are used.
    ///
    /// # Errors
    /// If a file cannot be read. A pressure file of a kernel that was started without PSI is nothing, not an error.
    pub fn read_strain(&self, buffer: &mut [u8], tap: Tap<'_>) -> Result<Option<StrainReading>, Errno> {
        let Some(files) = &self.strain else { return Ok(None) };
        let (mut reading, page) = (StrainReading::default(), crate::kernel::sys::page_size());
        for (name, fd) in &files.others {
            let Some(fd) = fd else { continue };
            match file::pread(fd, buffer) {
                Ok(text) => {
                    let name = name.to_str().unwrap_or_default();
                    tap(name, text);
                    reading.apply(name, text, page);
                }
                Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        let stat = file::pread(&files.stat, buffer)?;
        for (name, key) in [(REFAULTS, &b"workingset_refault"[..]), (TAKEN, b"pgsteal ")] {
            let lines = lines_with(stat, key);
            tap(name, lines);
            reading.apply(name, lines, page);
        }
        Ok(Some(reading))
    }
}

/// The lines that begin so, which stand together; each with its newline, as one that was cut off says nothing.
fn lines_with<'a>(stat: &'a [u8], key: &[u8]) -> &'a [u8] {
    let (mut begin, mut end, mut at) = (0, 0, 0);
    for line in stat.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(key) && line.ends_with(b"\n") {
            if end == 0 {
                begin = at;
            }
            end = at + line.len();
        }
        at += line.len();
    }
    &stat[begin..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn texts_of_a_kernel_are_understood() {
        let mut reading = StrainReading::default();
        let pressure = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert!(reading.apply("memory.pressure", pressure, 4096));
        let stat = b"anon 5\npgscan 9\npgsteal 3\npgsteal_direct 3\nworkingset_nodes 3\nworkingset_refault_anon 2\nworkingset_refault_file 40\nworkingset_activate_anon 9\n";
        assert!(reading.apply(REFAULTS, lines_with(stat, b"workingset_refault"), 4096));
        assert!(reading.apply(TAKEN, lines_with(stat, b"pgsteal "), 4096));
        assert!(reading.apply("memory.swap.current", b"8192\n", 4096));
        assert!(reading.apply("memory.low", b"max\n", 4096) && reading.apply("memory.min", b"4096\n", 4096));
        let strain = Strain {
            stalled: Some(Duration::from_micros(1234)),
            refaults: Some(42),
            swap: Some(Bytes(8192)),
            swapped_in: Some(Bytes(8192)),
            taken: Some(Bytes(3 * 4096)),
            came_back: Some(Bytes(42 * 4096)),
        };
        assert_eq!(reading, StrainReading { strain, reserved: Some(Limit::Max) });
        assert!(!reading.apply("memory.current", b"1\n", 4096));
    }

    #[test]
    fn what_was_cut_off_says_nothing() {
        let cut = b"workingset_refault_anon 2\nworkingset_refault_file 4";
        let cut = lines_with(cut, b"workingset_refault");
        assert_eq!(cut, b"workingset_refault_anon 2\n");
        let mut reading = StrainReading::default();
        reading.apply(REFAULTS, cut, 4096);
        assert_eq!(reading.strain.refaults, None);
        assert_eq!(lines_with(b"", b"pgsteal "), b"");
    }
}
