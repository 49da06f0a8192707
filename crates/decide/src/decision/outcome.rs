//! What came of a decision.

use crate::hook::Run;
use crate::units::Bytes;

use super::DecisionId;

/// By what an action was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// `prlimit(2)`.
    Rlimit,
    /// `cgroup.freeze` of the group itself.
    CgroupFreeze,
    /// A hold group below the target's, with `cgroup.freeze`.
    HoldGroup,
    /// The v1 freezer.
    V1Freezer,
    /// SIGSTOP and SIGCONT: visible to the parent, breaks job control.
    Sigstop,
    /// `pidfd_send_signal(2)`.
    Pidfd,
    /// `cgroup.kill`.
    CgroupKill,
    /// `pids.max`.
    PidsMax,
    /// A program inside the kernel: in the allocating call itself.
    Bpf,
    /// `memory.reclaim`.
    MemoryReclaim,
    /// `memory.limit_in_bytes` (v1) or `memory.high` (before 5.19), lowered for a moment.
    LoweredLimit,
    /// `memory.max` and `memory.high`, or `memory.limit_in_bytes` (v1), raised for a while.
    RaisedLimit,
    /// `memory.kmem.tcp.limit_in_bytes` (v1).
    TcpLimit,
    /// `memory.oom_control` (v1).
    OomControl,
    /// `setsockopt(2)` on sockets had by `pidfd_getfd(2)`.
    SocketOptions,
}

/// A system call or file that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `prlimit(2)`.
    Prlimit,
    /// Opening a process.
    PidfdOpen,
    /// `pidfd_send_signal(2)`.
    SendSignal,
    /// Writing `cgroup.freeze` or `freezer.state`.
    Freeze,
    /// Writing `cgroup.procs`.
    MoveProcess,
    /// `mkdir` of a hold group.
    MakeGroup,
    /// Reading `cgroup.procs`.
    ListProcesses,
    /// Writing `cgroup.kill`.
    CgroupKill,
    /// Reading a file of `/proc/PID`.
    ReadProcess,
    /// Reading or writing `pids.max`.
    PidsMax,
    /// Writing the ledger.
    Ledger,
    /// Writing `memory.reclaim`, or a limit to the same end.
    Reclaim,
    /// Raising a limit of memory, or taking that back.
    Lend,
    /// Starting a program.
    Hook,
    /// Reading or writing `memory.kmem.tcp.limit_in_bytes`.
    TcpLimit,
    /// Writing `memory.oom_control` (v1).
    OomControl,
    /// Setting options of sockets.
    Sockets,
}

/// What came of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done to so many processes.
    Done {
        /// Processes reached.
        processes: u32,
        /// By what.
        by: Mechanism,
    },
    /// There was nothing to do: an empty group, a record, an end of something never begun.
    Nothing,
    /// Some were reached and some refused.
    Partial {
        /// Reached.
        processes: u32,
        /// Refused.
        refused: u32,
        /// By what.
        by: Mechanism,
        /// The last failure.
        at: Operation,
        /// Its errno.
        errno: i32,
    },
    /// None was reached.
    Refused {
        /// What failed.
        at: Operation,
        /// Its errno.
        errno: i32,
    },
    /// A kill whose victims are seen to be dead.
    Dead {
        /// Processes that died.
        processes: u32,
        /// By what.
        by: Mechanism,
        /// Which of the ranking, for kills of one among many.
        choice: u8,
        /// What they held, credited as memory on its way back.
        expected: Bytes,
    },
    /// Kernel memory that no reclaim gets back, as a trial has shown: whoever holds it is to let it go.
    Pinned {
        /// What came back.
        freed: Bytes,
        /// What there was.
        held: Bytes,
    },
    /// A program has been told to run; how that ends comes later.
    Begun,
    /// A program has run.
    Ran(Run),
    /// The target no longer exists.
    Gone,
    /// The ledger has no room, so nothing was changed.
    LedgerFull,
    /// A dry run: nothing was touched.
    DryRun,
    /// `decide` itself had nothing done (kill budget, protection).
    Withheld,
}

/// The outcomes by which nothing was done to anybody, as events say them (`outcome.kind`, docs/cli.md). `nothing` is also what comes of an order that only tells.
pub const UNDONE: [&str; 6] = ["nothing", "refused", "gone", "ledger-full", "dry-run", "withheld"];

/// An outcome on its way back to `decide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which decision.
    pub decision: DecisionId,
    /// What came of it.
    pub outcome: Outcome,
}
