//! A small process beside memgov that outlives it: when memgov is killed, or hangs while somebody is held, the guardian puts everything back at
//! once instead of leaving it to the next start. It decides nothing else and holds nothing else.
//!
//! It is this program started anew (`memgov guardian`), so that one can take the place of another while memgov has threads: a forked copy
//! could not even allocate, and forking would make the loop copy every page it writes to afterwards. `posix_spawn` shares memory until
//! the exec, and holds up only the thread that calls it. The ledger and the heartbeat come as its standard input and output.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use memgov_decide::decision::Operation;
use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ledger::{Ledger, Undone, Verdict};
use crate::kernel::fork::{self, SharedPage};
use crate::kernel::pidfd::PidFd;
use crate::kernel::{Errno, Error, proc, rlimit, sys};

/// The subcommand it is started as.
const COMMAND: &str = "guardian";
/// The heartbeat is looked at so many times a lease.
const LOOKS: u32 = 8;
/// How long a hung memgov, killed, is waited for before things are put back regardless.
const DEATH: Duration = Duration::from_secs(5);
const KILL: u8 = 9;
/// What was lent and could not be taken back is tried again so often.
const RETRY: Duration = Duration::from_millis(500);
/// So many times in a row that somebody else has the ledger: it is a daemon, and not `memgov restore`. A minute.
const ANOTHERS: u32 = 120;

/// Where memgov says that it is well.
#[derive(Clone, Debug)]
pub struct Heart(Arc<SharedPage>);

impl Heart {
    /// Says it. One store; called in every round of the loop, and at least four times a lease while anybody is held.
    pub fn beat(&self, now: Time) {
        self.0.word().store(now.0, Ordering::Release);
    }
}

/// What a guardian needs, kept so that another can take its place.
#[derive(Debug)]
pub struct Post {
    program: PathBuf,
    ward: ProcessId,
    ledger: File,
    path: PathBuf,
    heart: Heart,
    heart_file: File,
    lease: Duration,
}

impl Post {
    /// For the process that calls it. `program` is memgov: `/proc/self/exe` in the daemon.
    pub fn new(program: &Path, ledger: &Ledger, lease: Duration) -> Result<Self, Error> {
        let failed = |errno| Error::new("making a heartbeat for the guardian of", ledger.path(), errno);
        let (page, heart_file) = SharedPage::new().map_err(failed)?;
        let mut buffer = [0; proc::STAT_BUFFER];
        let ward = proc::identify(std::process::id(), &mut buffer).map_err(failed)?;
        let heart = Heart(Arc::new(page));
        heart.beat(sys::now());
        Ok(Self {
            program: program.to_owned(),
            ward,
            ledger: ledger.second_handle()?,
            path: ledger.path().to_owned(),
            heart,
            heart_file: heart_file.into(),
            lease,
        })
    }

    /// To be beaten from now on.
    pub fn heart(&self) -> Heart {
        self.heart.clone()
    }

    /// Starts a guardian. Not on the loop: it takes as long as a program takes to start.
    pub fn fill(&self) -> Result<Guardian, Error> {
        let failed = |source| Error::new("starting the guardian of", &self.path, source);
        let mut command = Command::new(&self.program);
        // The program may be called /proc/self/exe here; lists of processes are to say what it is.
        command.arg0("memgov").arg(COMMAND);
        command.args(["--pid", &self.ward.pid.to_string(), "--start", &self.ward.start.to_string()]);
        command.args(["--lease-ms", &self.lease.as_millis().to_string()]);
        command.stdin(Stdio::from(self.ledger.try_clone().map_err(failed)?));
        command.stdout(Stdio::from(self.heart_file.try_clone().map_err(failed)?));
        command.spawn().map(Guardian).map_err(failed)
    }
}

/// memgov's end of it.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Its pid: never to be touched, like memgov itself.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Readable once it has ended: for epoll.
    pub fn pidfd(&self) -> Result<PidFd, Errno> {
        PidFd::of_child(self.pid())
    }

    /// Waits for one that has ended, and says how.
    pub fn reap(mut self) -> std::io::Result<ExitStatus> {
        self.0.wait()
    }

    /// Sends it away, after everything has been given back, and waits for it to go. It ignores all that can be ignored, and has nothing of
    /// its own to finish.
    pub fn dismiss(mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `memgov guardian` does: watches over `ward` until that is dead. The exit code.
pub fn stand_guard(ward: ProcessId, lease: Duration) -> u8 {
    fork::default_signals();
    fork::ignore_ending_signals();
    // Neither failure changes what it can do.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"memgov-guardian");
    match Watch::take_over(ward, lease) {
        Ok(watch) => watch.run(),
        Err(error) => {
            say(&error);
            1
        }
    }
}

/// What the guardian sees.
struct Watch {
    ledger: Ledger,
    lease: Duration,
    heart: SharedPage,
    /// `None`: memgov was dead before it could be looked at.
    ward: Option<PidFd>,
}

/// Why it woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// memgov is dead.
    Death,
    /// Time to look at the heartbeat.
    Time,
}

impl Watch {
    fn take_over(ward: ProcessId, lease: Duration) -> Result<Self, Error> {
        let ward = match PidFd::open(ward) {
            Ok(ward) => Some(ward),
            Err(Errno::SRCH) => None,
            Err(errno) => return Err(Error::new("opening", format!("process {}", ward.pid), errno)),
        };
        let own = |errno: std::io::Error| Error::new("taking over", "standard input", errno);
        let ledger = std::io::stdin().as_fd().try_clone_to_owned().map_err(own)?;
        let heart = SharedPage::of(std::io::stdout())
            .map_err(|errno| Error::new("sharing the heartbeat on", "standard output", errno))?;
        Ok(Self { ledger: Ledger::inherited(ledger.into())?, lease, heart, ward })
    }

    fn run(mut self) -> u8 {
        if rlimit::may_lock_all() {
            // Without it the pages it needs may have to be read from disk first.
            let _ = sys::mlock_all();
        }
        let look = self.lease / LOOKS;
        let (mut beat, mut silent) = (0, Duration::ZERO);
        loop {
            if self.wait(look) == Woken::Death {
                return self.undo("memgov died");
            }
            let now = self.heart.word().load(Ordering::Acquire);
            // Counted in looks, not by the clock: when the machine itself stood still, so did the guardian.
            silent = if now == beat { silent + look } else { Duration::ZERO };
            beat = now;
            if silent >= self.lease
                && self.holds_something()
                && self.heart.word().load(Ordering::Acquire) == beat
            {
                if let Some(ward) = &self.ward {
                    let _ = ward.send(KILL);
                }
                self.wait(DEATH);
                return self.undo("memgov hung and was killed");
            }
        }
    }

    /// Read before the heartbeat is looked at again: memgov beats first and writes the ledger after, so one that has only just
    /// woken from a long rest to hold somebody is not taken for hung.
    fn holds_something(&self) -> bool {
        self.ledger.leftovers().is_ok_and(|left| !left.is_empty())
    }

    fn wait(&self, most: Duration) -> Woken {
        let timeout = Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(most.subsec_nanos()),
        };
        let Some(ward) = &self.ward else { return Woken::Death };
        match poll(&mut [PollFd::new(ward, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(_) => Woken::Time,
            Ok(_) => Woken::Death,
        }
    }

    /// Of what was lent more is in use than could be taken back: stays until it can be, or until another memgov has the ledger and sees to it. In between
    /// the ledger is nobody's, so that it can be had. Who has it for a moment only (`memgov restore`) sees to nothing that is still in use.
    fn await_loans(&mut self) -> u8 {
        let mut taken = 0;
        loop {
            self.ledger.lock(false);
            std::thread::sleep(RETRY);
            if !self.ledger.lock(true) {
                taken += 1;
                if taken < ANOTHERS {
                    continue;
                }
                say(&"another memgov has the ledger, and sees to what is still lent");
                return 0;
            }
            taken = 0;
            let Ok(leftovers) = self.ledger.leftovers() else { return 1 };
            let undone = self.ledger.undo(leftovers);
            if !undone.iter().any(is_still_lent) {
                return report("what was still lent could be taken back", &undone);
            }
        }
    }

    fn undo(&mut self, why: &str) -> u8 {
        match self.ledger.leftovers() {
            Ok(leftovers) if leftovers.is_empty() => 0,
            Ok(leftovers) => {
                let undone = self.ledger.undo(leftovers);
                let code = report(why, &undone);
                if undone.iter().any(is_still_lent) { self.await_loans() } else { code }
            }
            Err(error) => {
                say(&format_args!("{why}; {error}"));
                1
            }
        }
    }
}

fn is_still_lent(one: &Undone) -> bool {
    matches!(one.verdict, Verdict::Failed(Operation::Lend, Errno::BUSY))
}

fn report(why: &str, undone: &[Undone]) -> u8 {
    let failed = undone.iter().filter(|one| matches!(one.verdict, Verdict::Failed(..))).count();
    say(&format_args!("{why}; {} changes put back, {failed} failed", undone.len() - failed));
    for one in undone {
        say(one);
    }
    u8::from(failed > 0)
}

/// To stderr, if there still is one.
fn say(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "memgov guardian: {what}");
}
