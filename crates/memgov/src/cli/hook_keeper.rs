//! `memgov hook-keeper`: what the daemon starts beside a program of a hook, never by hand. Its standard input says that it is still wanted, its standard
//! output is the program's, its standard error takes word of how that ended.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use memgov_decide::units::Bytes;

use crate::act::hook::{Charge, keep};

#[derive(Debug, Args)]
pub(crate) struct HookKeeper {
    /// The program's time.
    #[arg(long)]
    within_ms: u64,
    /// Bytes of data that each of its processes may have.
    #[arg(long)]
    memory: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    run: Vec<OsString>,
}

impl HookKeeper {
    pub(crate) fn run(self) -> u8 {
        let Self { within_ms, memory, run } = self;
        keep(&Charge { within: Duration::from_millis(within_ms), memory: Bytes(memory), run })
    }
}
