//! The host's memory into its row of the snapshot, and the kernel's pressure trigger that says to look now. Both only while a rule is about the
//! host. Pressure is a hint: what counts is what is available.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use memgov_decide::pressure::{Share, Stall};
use memgov_decide::snapshot::Snapshot;
use memgov_decide::units::Time;
use rustix::fd::OwnedFd;

use super::Observer;
use super::wake::Wake;
use crate::kernel::file;
use crate::kernel::meminfo::{Meminfo, parse_available};
use crate::kernel::psi::{self, Trigger};
use crate::kernel::vmstat::{Scans, Vmstat};
use crate::record::trace::Tape;

const PRESSURE: &CStr = c"/proc/pressure/memory";
/// Without a rule about it pressure only says when to look: at a tenth of the time.
const HINT: Share = Share(200);

#[derive(Debug, Default)]
pub(super) struct HostMemory {
    meminfo: Option<Meminfo>,
    trigger: Option<Trigger>,
    /// For which line.
    share: Share,
    /// Open where a rule is about pressure.
    pressure: Option<OwnedFd>,
    vmstat: Vmstat,
}

impl HostMemory {
    /// Opens what rules about the host need, or closes it. `pressure`: the lowest line that one has for it.
    pub(super) fn follow(&mut self, wanted: bool, pressure: Option<Share>, wake: &Wake) {
        if !wanted {
            *self = Self::default();
            return;
        }
        if self.meminfo.is_none() {
            // Not there: unknown, and nothing is done for it.
            self.meminfo = Meminfo::open().ok();
        }
        let share = pressure.map_or(HINT, |share| share.min(HINT));
        if self.trigger.is_none() || self.share != share {
            let armed = super::pressure::any(Path::new(OsStr::from_bytes(PRESSURE.to_bytes())), share);
            self.trigger = armed.filter(|trigger| wake.watch_pressure(trigger));
            self.share = share;
        }
        if pressure.is_none() {
            self.pressure = None;
        } else if self.pressure.is_none() {
            self.pressure = file::open(PRESSURE).ok();
        }
    }

    /// How long tasks have waited, where a rule asks.
    fn stall(&mut self, at: Time, buffer: &mut [u8]) -> Option<Stall> {
        let waited = file::pread(self.pressure.as_ref()?, buffer).ok().and_then(psi::waited);
        let Scans { direct, came_back } = self.vmstat.scans(at, buffer);
        Some(Stall { waited, met: direct, came_back, watched: self.trigger.is_some() })
    }
}

impl Observer {
    /// Reads what the host has left.
    pub fn look_at_host(&mut self, snap: &mut Snapshot, tape: &mut Tape) {
        let Some(meminfo) = &self.memory.meminfo else { return };
        let line = meminfo.available(&mut self.buffer).unwrap_or_default();
        tape.host_memory(line);
        snap.memory.read_at = snap.at;
        snap.memory.available = parse_available(line);
        if let Some(stall) = self.memory.stall(snap.at, &mut self.buffer) {
            snap.memory.stall = stall;
            tape.stall(None, &stall);
        }
        snap.fresh_memory = true;
    }
}
