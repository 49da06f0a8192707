//! What programs cost, as the kernel counts it.

use super::{Error, raw};
use rustix::fd::OwnedFd;

/// While this lives the kernel counts how long programs run and how often (BPF_ENABLE_STATS, kernel/bpf/syscall.c; needs CAP_SYS_ADMIN). That costs every program
/// on the machine some 20 ns a run, so it is not always on. It ends with the process that has it, however that ends.
pub struct RunStats(#[expect(dead_code, reason = "held open")] OwnedFd);

impl RunStats {
    /// From now on.
    ///
    /// # Errors
    /// The kernel does not allow it, or has no such statistics (before 5.8).
    pub fn enable() -> Result<Self, Error> {
        let fd = raw::enable_run_stats();
        fd.map(Self).map_err(|errno| Error(format!("having the kernel count run times of programs (BPF_ENABLE_STATS): {errno}; it takes CAP_SYS_ADMIN")))
    }
}
