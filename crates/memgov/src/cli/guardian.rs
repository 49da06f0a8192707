//! `memgov guardian`: what the daemon starts beside itself, never by hand. Its standard input and output are the daemon's ledger and
//! heartbeat.

use std::time::Duration;

use clap::Args;
use memgov_decide::snapshot::ProcessId;

#[derive(Debug, Args)]
pub(crate) struct Guardian {
    /// The daemon.
    #[arg(long)]
    pid: u32,
    /// When it was started, in clock ticks since boot.
    #[arg(long)]
    start: u64,
    /// How long it may be silent while it holds somebody.
    #[arg(long)]
    lease_ms: u64,
}

impl Guardian {
    pub(crate) fn run(&self) -> u8 {
        let ward = ProcessId { pid: self.pid, start: self.start };
        crate::act::stand_guard(ward, Duration::from_millis(self.lease_ms))
    }
}
