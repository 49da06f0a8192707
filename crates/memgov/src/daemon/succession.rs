//! One guardian after the other: starts the first, and another when one has died, on the chores thread and never on the loop.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::deaths::{self, Deaths};
use super::queue::{Asker, Request};
use super::say;
use crate::act::{Guardian, Heart, Ledger, Post};
use crate::kernel::pidfd::PidFd;

/// How often the loop is asked to take note of a new guardian; each time it has two seconds to.
const ASKED: u32 = 5;
/// This program, whatever has become of the file it was started from.
const PROGRAM: &str = "/proc/self/exe";

/// What it means to have none.
const WITHOUT: &str = "after a crash only the next start or `memgov restore` undoes what is in force";

/// What the loop has of the guardian.
pub(super) struct Sentry {
    pub pid: u32,
    /// Readable once it is dead.
    pub pidfd: PidFd,
}

/// The guardian in office, and what the next one needs.
pub(super) struct Succession {
    /// `None`: a guardian could not even be thought of.
    post: Option<Post>,
    office: Mutex<Office>,
}

#[derive(Default)]
struct Office {
    guardian: Option<Guardian>,
    deaths: Deaths,
    /// memgov goes: nobody is to be started any more.
    over: bool,
}

impl Succession {
    /// Starts the first guardian. Without one memgov governs all the same.
    pub fn begin(ledger: &Ledger, lease: Duration) -> Self {
        let complain = |error: &dyn std::fmt::Display| say(&format!("memgov: {error}; {WITHOUT}"));
        let post = Post::new(Path::new(PROGRAM), ledger, lease).inspect_err(|e| complain(e)).ok();
        let guardian = post.as_ref().and_then(|post| post.fill().inspect_err(|e| complain(e)).ok());
        Self { post, office: Mutex::new(Office { guardian, ..Office::default() }) }
    }

    /// Where the loop says that it is well.
    pub fn heart(&self) -> Option<Heart> {
        self.post.as_ref().map(Post::heart)
    }

    /// The guardian in office, for the loop.
    pub fn sentry(&self) -> Option<Sentry> {
        sentry_of(self.lock().guardian.as_ref()?)
    }

    fn lock(&self) -> MutexGuard<'_, Office> {
        self.office.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guardian has died: says so, starts another, and tells the loop.
    pub fn replace(&self, asker: &Asker) {
        let Some(sentry) = self.appoint() else { return };
        let Sentry { pid, pidfd } = sentry;
        for _ in 0..ASKED {
            let Ok(pidfd) = pidfd.try_clone() else { break };
            let asked = asker.ask(|reply| Request::Guardian { sentry: Sentry { pid, pidfd }, reply });
            if asked.is_ok() {
                return say(&format!("memgov: guardian {pid} has taken over"));
            }
        }
        // It does its work all the same; only its own death would go unnoticed.
        say(&format!("memgov: guardian {pid} has taken over, but the loop could not be told"));
    }

    fn appoint(&self) -> Option<Sentry> {
        let mut office = self.lock();
        let dead = office.guardian.take()?;
        let pid = dead.pid();
        let how = dead.reap().map_or_else(|error| error.to_string(), |status| status.to_string());
        if office.over {
            return None;
        }
        if office.deaths.too_many() {
            say(&format!(
                "memgov: the guardian ({pid}) has died ({how}), {} times in a minute; no other is started: {WITHOUT}",
                deaths::MOST
            ));
            return None;
        }
        say(&format!("memgov: the guardian ({pid}) has died ({how}); another is started"));
        let guardian = self
            .post
            .as_ref()?
            .fill()
            .inspect_err(|error| say(&format!("memgov: {error}; {WITHOUT}")))
            .ok()?;
        let sentry = sentry_of(&guardian);
        office.guardian = Some(guardian);
        sentry
    }

    /// memgov goes in peace, and so does its guardian.
    pub fn end(&self) {
        let mut office = self.lock();
        office.over = true;
        if let Some(guardian) = office.guardian.take() {
            guardian.dismiss();
        }
    }
}

fn sentry_of(guardian: &Guardian) -> Option<Sentry> {
    let complain =
        |errno| say(&format!("memgov: pidfd of the guardian: {errno}; its death would go unnoticed"));
    let pidfd = guardian.pidfd().inspect_err(|errno| complain(*errno)).ok()?;
    Some(Sentry { pid: guardian.pid(), pidfd })
}
