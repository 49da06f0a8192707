//! The letters' files, for whoever starts memgov by hand: `memgov-files` as a child, mounted with memgov and gone with it. It stays a program of its own: whatever becomes
//! of a file system, memgov governs on. Under systemd it is a unit of its own, for what memgov's unit mounts nobody else would see.
//!
//! The child ends with memgov however that ends (its parent-death signal, which it asks for itself).

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::deaths::{self, Deaths};
use super::say;
use crate::config;
use crate::kernel::pidfd::PidFd;

/// The program, beside memgov's own or in PATH.
const PROGRAM: &str = "memgov-files";
/// In the state directory.
const MOUNT: &str = "fs";
/// Between a death and the next start.
const REST: Duration = Duration::from_secs(1);
/// It unmounts and ends at once; longer it is not waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
const SIGTERM: u8 = 15;

/// The child in office.
pub(super) struct Files {
    start: Start,
    office: Arc<Mutex<Office>>,
    first: Option<Child>,
}

/// What the next one is started with.
#[derive(Clone)]
struct Start {
    program: PathBuf,
    mount: PathBuf,
    socket: PathBuf,
    /// The group it belongs in; `None`: where memgov is.
    home: Option<PathBuf>,
}

#[derive(Default)]
struct Office {
    child: Option<PidFd>,
    /// memgov goes: nobody is to be started any more.
    over: bool,
}

/// Where they are to be mounted; `None`: nowhere.
pub(super) fn mount_point(wanted: &config::Files, state: &Path) -> Option<PathBuf> {
    match wanted {
        config::Files::InStateDir => Some(state.join(MOUNT)),
        config::Files::At(dir) => Some(dir.clone()),
        config::Files::Off => None,
    }
}

impl Files {
    /// Starts it, before memgov has put on anything for itself that a child would have from it (its group, its OOM score): it asks for the
    /// socket until there is one. Without it memgov governs all the same.
    pub fn begin(mount: PathBuf, socket: PathBuf) -> Option<Self> {
        let Some(program) = program() else {
            say(&format!(
                "memgov: no files on {}: {PROGRAM} is neither beside memgov nor in PATH (--no-files, or files = \"off\", goes without)",
                mount.display()
            ));
            return None;
        };
        let start = Start { program, mount, socket, home: None };
        let office = Arc::<Mutex<Office>>::default();
        let first = start.fill(&office)?;
        Some(Self { start, office, first: Some(first) })
    }

    /// From here on another is started when it has died, by a thread of its own; in `home`, if memgov has moved away from there since.
    pub fn watch(&mut self, home: Option<PathBuf>) {
        let Some(first) = self.first.take() else { return };
        let (start, office) = (Start { home, ..self.start.clone() }, Arc::clone(&self.office));
        let started =
            thread::Builder::new().name(PROGRAM.into()).spawn(move || start.succeed(first, &office));
        if let Err(error) = started {
            say(&format!("memgov: starting a thread: {error}; {PROGRAM} is not started anew if it dies"));
        }
    }

    /// Tells it to unmount and go. It is not waited for here: others wait to be let go by memgov.
    pub fn dismiss(&self) {
        let mut office = lock(&self.office);
        office.over = true;
        if let Some(child) = &office.child {
            // Gone already: nothing is left to be told.
            let _ = child.send(SIGTERM);
        }
    }

    /// After [`Files::dismiss`]: waits for its end, a while.
    pub fn wait_gone(self) {
        let Some(child) = lock(&self.office).child.take() else { return };
        let until = Instant::now() + ENDS_WITHIN;
        while !child.exited().unwrap_or(true) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Start {
    fn fill(&self, office: &Mutex<Office>) -> Option<Child> {
        let started = self.spawn(&mut lock(office)).transpose()?;
        let complain = |error: &dyn std::fmt::Display| {
            say(&format!("memgov: starting {}: {error}", self.program.display()));
        };
        let child = started.inspect_err(|error| complain(error)).ok()?;
        if let Some(home) = &self.home
            && let Err(error) = fs::write(home.join("cgroup.procs"), child.id().to_string())
        {
            complain(&format!("moving it to {}: {error}", home.display()));
        }
        Some(child)
    }

    /// `None`: memgov goes.
    fn spawn(&self, office: &mut Office) -> std::io::Result<Option<Child>> {
        if office.over {
            return Ok(None);
        }
        let mut command = Command::new(&self.program);
        command.arg("--mount").arg(&self.mount).arg("--socket").arg(&self.socket);
        command.arg("--with-parent").arg(std::process::id().to_string());
        // A group of its own: Ctrl-C is memgov's to hear, and SIGHUP means something else to it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        match PidFd::of_child(child.id()) {
            Ok(pidfd) => office.child = Some(pidfd),
            Err(errno) => {
                // Who cannot be told to go must not stay.
                let _ = child.kill();
                let _ = child.wait();
                return Err(errno.into());
            }
        }
        Ok(Some(child))
    }

    /// One after the other, until memgov goes or it is given up.
    fn succeed(&self, first: Child, office: &Mutex<Office>) {
        let (mut child, mut deaths) = (first, Deaths::default());
        loop {
            let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            {
                let mut office = lock(office);
                if office.over {
                    return;
                }
                office.child = None;
            }
            if deaths.too_many() {
                return say(&format!(
                    "memgov: {PROGRAM} has ended ({how}), {} times in a minute; no other is started: there are no files on {}",
                    deaths::MOST,
                    self.mount.display()
                ));
            }
            say(&format!("memgov: {PROGRAM} has ended ({how}); another is started"));
            thread::sleep(REST);
            let Some(next) = self.fill(office) else { return };
            child = next;
        }
    }
}

/// A program that was built or installed with this one comes before one of another version.
fn program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).collect();
    beside.into_iter().chain(in_path).find(|program| program.is_file())
}

fn lock(office: &Mutex<Office>) -> MutexGuard<'_, Office> {
    office.lock().unwrap_or_else(PoisonError::into_inner)
}
