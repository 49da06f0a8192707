//! A shrink without a daemon: on a thread of this process. Where a limit has to be lowered for it, the ledger and a guardian are as they
//! are for the daemon, so that a kill -9 leaves nothing lowered.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use memgov_decide::decision::Mechanism;

use super::shrink::{Under, ledger_in};
use super::{Exit, exit};
use crate::act::ledger::{Entry, Place};
use crate::act::shrink::{Book, Lever, Unable, Watched, Work};
use crate::act::{Guardian, Ledger, Post};
use crate::kernel::{Errno, GroupDir, Layout};
use crate::serve::shrink::{Job, Request};
use crate::terminal;

/// What the guardian would be told by a daemon that hangs. Here it only waits for a death: nothing beats, and what is lowered is lowered for
/// moments, by one call that the kernel may delay.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// A shrink of this process.
pub(super) struct Here {
    path: Vec<u8>,
    file: &'static str,
    owner: Option<u32>,
    watched: Arc<Watched>,
    thread: JoinHandle<()>,
    guardian: Option<Guardian>,
}

impl Here {
    /// Begins it.
    pub fn begin(request: &Request, state: &Path) -> anyhow::Result<Self> {
        let meaning = request.meaning()?;
        let layout = Layout::detect(Path::new("/"))?;
        let path = request.path.as_bytes();
        crate::config::words::group_pattern(&request.path, true)
            .map_err(|why| Exit::with(exit::USAGE, why))?;
        let dir =
            GroupDir::open(&layout, path).map_err(|error| Exit::with(exit::NO_TARGET, error.to_string()))?;
        let owner = dir.owner();
        let lever = Lever::of(&layout, path, &dir, meaning.kind, meaning.means).map_err(|unable| {
            let code = match unable {
                Unable::Not(_) => exit::USAGE,
                Unable::Forbidden(_) => exit::PERMISSION,
                Unable::Gone => exit::NO_TARGET,
            };
            Exit::with(code, unable.to_string())
        })?;
        let file = lever.file();
        let (mut book, guardian) = match lever.mechanism() {
            Mechanism::LoweredLimit => watched_ledger(state)?,
            // Nothing is changed that would have to be put back.
            _ => (Kept::Nothing, None),
        };
        let watched = Arc::new(Watched::default());
        let for_thread = Arc::clone(&watched);
        let work = Work { dir, lever, goal: meaning.goal };
        let thread = std::thread::Builder::new().name("memgov-shrink".into()).spawn(move || {
            work.run(&for_thread, &mut book);
        })?;
        Ok(Self { path: path.to_vec(), file, owner, watched, thread, guardian })
    }

    /// After the shrink has ended: nothing is left to be guarded.
    pub fn end(self) {
        self.watched.cancel();
        // It holds nothing that a panic in it could have broken.
        let _ = self.thread.join();
        if let Some(guardian) = self.guardian {
            guardian.dismiss();
        }
    }
}

impl Under for Here {
    fn look(&mut self) -> anyhow::Result<Job> {
        let by = rustix::process::getuid().as_raw();
        // It says how it went before it is finished, unless it panicked.
        if self.thread.is_finished() && self.watched.progress().outcome.is_none() {
            anyhow::bail!("the shrink ended without a word; `memgov restore` puts back what it left");
        }
        Ok(Job::new(None, &self.path, &self.watched.progress(), self.file, self.owner, by))
    }
    fn cancel(&mut self) -> anyhow::Result<()> {
        self.watched.cancel();
        Ok(())
    }
}

/// The ledger, where there has to be one.
enum Kept {
    Nothing,
    Ledger(Ledger),
}

impl Book for Kept {
    fn record(&mut self, entry: &Entry<'_>) -> Result<Place, Errno> {
        match self {
            Self::Nothing => Err(Errno::INVAL),
            Self::Ledger(ledger) => ledger.record(entry),
        }
    }
    fn erase(&mut self, place: Place) -> Result<(), Errno> {
        match self {
            Self::Nothing => Err(Errno::INVAL),
            Self::Ledger(ledger) => ledger.erase(place),
        }
    }
}

/// The ledger with what others have left in it undone, and somebody who undoes it after a kill -9.
fn watched_ledger(state: &Path) -> anyhow::Result<(Kept, Option<Guardian>)> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(state)
        .map_err(|error| Exit::with(exit::FAILED, format!("creating {}: {error}", state.display())))?;
    let path = ledger_in(state);
    let (mut ledger, leftovers) = Ledger::open(&path).map_err(|error| match error.errno() {
        Some(Errno::WOULDBLOCK) => Exit::with(
            exit::BUSY,
            format!(
                "{}: a memgov has the ledger; without a daemon only one group is shrunk at a time",
                path.display()
            ),
        ),
        Some(Errno::ACCESS | Errno::PERM) => Exit::with(exit::PERMISSION, error.to_string()),
        _ => error.into(),
    })?;
    for undone in ledger.undo(leftovers) {
        terminal::complain(&format!("memgov: {undone}"));
    }
    let post = Post::new(Path::new("/proc/self/exe"), &ledger, LEASE)?;
    let guardian = post.fill()?;
    Ok((Kept::Ledger(ledger), Some(guardian)))
}
