//! The host's memory into its row of the snapshot, and the kernel's pressure trigger that says to look now. Both only while a rule is about the
//! host. Pressure is a hint: what counts is what is available.

use std::path::Path;
use std::time::Duration;

use memgov_decide::snapshot::Snapshot;

use super::Observer;
use super::wake::Wake;
use crate::kernel::meminfo::{Meminfo, parse_available};
use crate::kernel::psi::{Kind, Trigger};
use crate::record::trace::Tape;

const PRESSURE: &str = "/proc/pressure/memory";
/// Tasks that wait so long in so long wake the loop. The shortest window there is; then the shortest that is allowed without CAP_SYS_RESOURCE
/// (Documentation/accounting/psi.rst).
const TRIGGERS: [(Duration, Duration); 2] = [
    (Duration::from_millis(50), Duration::from_millis(500)),
    (Duration::from_millis(100), Duration::from_secs(2)),
];

#[derive(Debug, Default)]
pub(super) struct HostMemory {
    meminfo: Option<Meminfo>,
    trigger: Option<Trigger>,
}

impl HostMemory {
    /// Opens what a rule about the host needs, or closes it.
    pub(super) fn follow(&mut self, wanted: bool, wake: &Wake) {
        if !wanted {
            *self = Self::default();
            return;
        }
        if self.meminfo.is_none() {
            // Not there: unknown, and nothing is done for it.
            self.meminfo = Meminfo::open().ok();
        }
        if self.trigger.is_none() {
            let armed = TRIGGERS.into_iter().find_map(|(stall, window)| {
                Trigger::open(Path::new(PRESSURE), Kind::Some, stall, window).ok().flatten()
            });
            self.trigger = armed.filter(|trigger| wake.watch_pressure(trigger));
        }
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
        snap.fresh_memory = true;
    }
}
