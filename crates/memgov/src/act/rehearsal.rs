//! A rehearsal at start: each thing that may have to be done in need is done once, to a child of memgov's own, so that what cannot be
//! done here is known before it is needed.

use std::fmt;
use std::time::{Duration, Instant};

use memgov_decide::decision::{Mechanism, Operation};
use memgov_decide::policy::Kinds;
use memgov_decide::snapshot::ProcessId;

use super::deny::{self, Denials};
use super::ledger::Entry;
use super::limits::Refusal;
use super::slow::Slowdowns;
use super::{Kit, NO_EPISODE, Tally};
use crate::kernel::pidfd::PidFd;
use crate::kernel::proc::{self, Stat};
use crate::kernel::{Errno, fork};

/// A killed sleeper that is not dead by then means that killing does not work here.
const DEATH: Duration = Duration::from_secs(2);

/// What a rehearsal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was tried: `ledger`, `deny`, `slow`, `kill`.
    pub what: &'static str,
    /// By what it is done here, or what stands in the way.
    pub result: Result<Option<Mechanism>, (Operation, Errno)>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result {
            Ok(Some(by)) => write!(f, "{}: works, by {by:?}, in {:?}", self.what, self.took),
            Ok(None) => write!(f, "{}: works, in {:?}", self.what, self.took),
            Err((operation, errno)) => write!(f, "{}: does not work: {operation:?}: {errno}", self.what),
        }
    }
}

pub(super) fn run(kit: &mut Kit, slowdowns: &mut Slowdowns, denials: &mut Denials) -> Vec<Finding> {
    let mut findings = vec![timed("ledger", || ledger(kit).map(|()| None))];
    let sleeper = fork::fork_sleeper().and_then(|pid| {
        let stat = proc::read_stat(pid, &mut [0; proc::STAT_BUFFER]);
        stat.inspect_err(|_| reap(pid))
    });
    match sleeper {
        Ok(stat) => {
            findings.push(timed("deny", || deny(kit, denials, stat.id()).map(Some)));
            findings.push(timed("slow", || slowdowns.rehearse(kit, &stat).map(Some)));
            findings.push(timed("kill", || kill(&stat).map(Some)));
            reap(stat.pid);
        }
        Err(errno) => findings.push(timed("kill", || Err((Operation::PidfdOpen, errno)))),
    }
    findings
}

fn timed(what: &'static str, f: impl FnOnce() -> Result<Option<Mechanism>, (Operation, Errno)>) -> Finding {
    let begin = Instant::now();
    let result = f();
    Finding { what, result, took: begin.elapsed() }
}

fn ledger(kit: &mut Kit) -> Result<(), (Operation, Errno)> {
    // An entry of nobody: should memgov die right here, there is nothing to be undone.
    let entry = Entry::Stopped { who: ProcessId { pid: 0, start: 0 }, now: false };
    let written = kit.ledger.record(&entry).and_then(|place| kit.ledger.erase(place));
    written.map_err(|errno| (Operation::Ledger, errno))
}

fn deny(kit: &mut Kit, denials: &mut Denials, who: ProcessId) -> Result<Mechanism, (Operation, Errno)> {
    let refusal = Refusal::Mappings(Kinds { anon: true, ..Kinds::default() });
    let mut tally = Tally::default();
    denials.hold_process(kit, who, NO_EPISODE, refusal, &mut tally);
    denials.release(kit, NO_EPISODE, &mut tally);
    match tally.failure {
        None if tally.reached == 2 => Ok(deny::BY),
        None => Err((Operation::Prlimit, Errno::SRCH)),
        Some(failure) => Err(failure),
    }
}

/// The fatal path, as it is in `kill`: descriptor, signal, memory, death.
fn kill(sleeper: &Stat) -> Result<Mechanism, (Operation, Errno)> {
    let process = PidFd::open(sleeper.id()).map_err(|errno| (Operation::PidfdOpen, errno))?;
    process.send(9).map_err(|errno| (Operation::SendSignal, errno))?;
    // Not on kernels before 5.15, and not of a process that is dead by now.
    let _ = process.release_memory();
    let until = Instant::now() + DEATH;
    while process.exited() == Ok(false) {
        if Instant::now() > until {
            return Err((Operation::SendSignal, Errno::TIMEDOUT));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Mechanism::Pidfd)
}

/// Ends the sleeper, if it has not been, and waits for it.
fn reap(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    // Not waited for yet, so the pid is still its own.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
}
