//! A small process beside memgov that outlives it: when memgov is killed, or hangs while somebody is held, the guardian puts everything back at
//! once instead of leaving it to the next start. It decides nothing else and holds nothing else.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use memgov_decide::units::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;

use super::ledger::{Ledger, Undone, Verdict};
use crate::kernel::fork::{self, SharedPage};
use crate::kernel::{Error, rlimit, sys};

/// The heartbeat is looked at so many times a lease.
const LOOKS: u32 = 8;
/// How long a hung memgov, killed, is waited for before things are put back regardless.
const DEATH: Duration = Duration::from_secs(5);
const KILL: u8 = 9;

/// memgov's end of it.
#[derive(Debug)]
pub struct Guardian {
    pid: u32,
    farewell: OwnedFd,
    heart: SharedPage,
}

impl Guardian {
    /// Forks the guardian. Before the first thread; `BUSY` otherwise. After it [`Guardian::beat`] must be called at least four times a `lease`
    /// for as long as memgov is well.
    pub fn start(ledger: &Ledger, lease: Duration) -> Result<Self, Error> {
        let failed = |errno| Error::new("starting the guardian of", ledger.path(), errno);
        let heart = SharedPage::new().map_err(failed)?;
        heart.word().store(sys::now().0, Ordering::Release);
        let (listen, farewell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let ward = fork::own_pidfd().map_err(failed)?;
        let ledger = ledger.second_handle()?;
        let watch = Watch { ledger, lease, heart: &heart, listen: &listen, ward: &ward };
        let pid = fork::fork(|| watch.run()).map_err(failed)?;
        Ok(Self { pid, farewell, heart })
    }

    /// Its pid: never to be touched, like memgov itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Says that memgov is well. One store; called in every round of the loop.
    pub fn beat(&self, now: Time) {
        self.heart.word().store(now.0, Ordering::Release);
    }

    /// Sends it away, after everything has been given back, and waits for it to go.
    pub fn dismiss(self) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if rustix::io::write(&self.farewell, b"!").is_ok() && pid.is_some() {
            // It is memgov's child; if it was killed before, that is learnt here too.
            let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
        }
    }
}

/// What the guardian sees.
struct Watch<'a> {
    ledger: Ledger,
    lease: Duration,
    heart: &'a SharedPage,
    listen: &'a OwnedFd,
    ward: &'a OwnedFd,
}

/// Why it woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// memgov has gone in peace.
    Farewell,
    /// memgov is dead.
    Death,
    /// Time to look at the heartbeat.
    Time,
}

impl Watch<'_> {
    fn run(mut self) -> i32 {
        fork::ignore_ending_signals();
        // Neither failure changes what it can do.
        let _ = rustix::process::setsid();
        let _ = rustix::thread::set_name(c"memgov-guardian");
        if rlimit::may_lock_all() {
            let _ = sys::mlock_all();
        }
        let look = self.lease / LOOKS;
        let (mut beat, mut silent) = (0, Duration::ZERO);
        loop {
            match self.wait(look) {
                Woken::Farewell => return 0,
                Woken::Death => return self.undo("memgov died"),
                Woken::Time => {}
            }
            let now = self.heart.word().load(Ordering::Acquire);
            // Counted in looks, not by the clock: when the machine itself stood still, so did the guardian.
            silent = if now == beat { silent + look } else { Duration::ZERO };
            beat = now;
            if silent >= self.lease
                && self.holds_something()
                && self.heart.word().load(Ordering::Acquire) == beat
            {
                let _ = sys::pidfd_send_signal(self.ward.as_fd(), KILL);
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
        let mut fds = [PollFd::new(self.listen, PollFlags::IN), PollFd::new(self.ward, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(_) => Woken::Time,
            // The farewell counts also when memgov is gone by the time it is read.
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => Woken::Farewell,
            // Not the pipe's end but memgov's: another child of it may have kept the pipe open.
            Ok(_) if !fds[1].revents().is_empty() => Woken::Death,
            Ok(_) => Woken::Time,
        }
    }

    fn undo(&mut self, why: &str) -> i32 {
        match self.ledger.leftovers() {
            Ok(leftovers) if leftovers.is_empty() => 0,
            Ok(leftovers) => report(why, &self.ledger.undo(leftovers)),
            Err(error) => {
                say(&format_args!("{why}; {error}"));
                1
            }
        }
    }
}

fn report(why: &str, undone: &[Undone]) -> i32 {
    let failed = undone.iter().filter(|one| matches!(one.verdict, Verdict::Failed(..))).count();
    say(&format_args!("{why}; {} changes put back, {failed} failed", undone.len() - failed));
    for one in undone {
        say(one);
    }
    i32::from(failed > 0)
}

/// To stderr, if there still is one.
fn say(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "memgov guardian: {what}");
}
