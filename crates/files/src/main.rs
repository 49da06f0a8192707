//! `memgov-files`: the files that memgov's letters promised, for scripts and programs that were written for them. A small file system over the control socket, and a
//! program of its own: whatever becomes of a file system, memgov governs on.

#![forbid(unsafe_code)]

mod caller;
mod desk;
mod events;
#[cfg(test)]
mod fake;
mod fs;
mod groups;
mod look;
mod mount;
mod node;
mod open;
mod processes;
mod text;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use fuser::{Config, MountOption, Session, SessionACL};
use memgov_client::Memgov;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// memory.shrink_in_bytes, memory.kmem.*, memctl: the letters' files, as a file system
///
/// Mirrors the memory control groups under `cgroup/` and the processes under `process/`; docs/files.md lists the files. Asks memgov for everything, in the name of
/// whoever opens a file.
#[derive(Parser)]
#[command(name = "memgov-files", version)]
struct Arguments {
    /// Where to mount it; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "/run/memgov/fs")]
    mount: PathBuf,
    /// The control socket of memgov
    #[arg(long, value_name = "PATH", default_value = memgov_client::SOCKET)]
    socket: PathBuf,
    /// End when this process ends, which must be the one that has started it
    #[arg(long, value_name = "PID", hide = true)]
    with_parent: Option<u32>,
}

/// Threads that look at directories. They wait for nobody but the kernel.
const THREADS: usize = 4;

fn main() -> ! {
    let code = match run(Arguments::parse()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("memgov-files: {error:#}");
            1
        }
    };
    // Threads that wait for the daemon are not waited for: nobody can have their answers any more.
    std::process::exit(code)
}

fn run(arguments: Arguments) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("root is needed: it mounts, and asks in the name of each user");
    }
    if let Some(parent) = arguments.with_parent {
        end_with(parent)?;
    }
    let mountinfo =
        std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    // One that cannot be read says nothing.
    let cmdline = std::fs::read("/proc/cmdline").unwrap_or_default();
    let groups = groups::Groups::find(&mountinfo, &String::from_utf8_lossy(&cmdline));
    let groups = groups.context("no hierarchy of memory control groups is mounted")?;
    let place = mount::Place::take(&arguments.mount)?;

    let memgov = Memgov::at(arguments.socket).patience(desk::PATIENCE);
    let counts = Arc::new(events::Counts::default());
    counts.follow(memgov.clone()).context("starting a thread")?;
    let page = u64::try_from(rustix::param::page_size())?;
    let files = fs::Files::new(desk::Desk { memgov, groups, counts, page });
    let tree = files.tree();

    // Before the mount: a signal that comes in between is not to leave it behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("waiting for signals")?;
    let session = Session::new(files, place.dir(), &options())
        .with_context(|| format!("mounting on {}", place.dir().display()))?;
    let session = session.spawn().context("starting a thread")?;
    let notifier = session.notifier();
    thread::spawn(move || fs::keep_small(&tree, &notifier));
    eprintln!("memgov-files: ready on {}", place.dir().display());
    // Without systemd there is nobody to be told.
    let _untold = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let (ended, end) = channel();
    let stopped = ended.clone();
    thread::spawn(move || signals.forever().next().map(|_| stopped.send(None)));
    thread::spawn(move || ended.send(Some(session.join())));
    match end.recv().context("both threads ended")? {
        // Who still has a file open gets an error from it, and the next start finds nothing in its way.
        None => place.leave(),
        Some(Ok(())) => Err(anyhow!("{} was unmounted by somebody else", place.dir().display())),
        Some(Err(error)) => Err(error).context("the kernel's end of the file system"),
    }
}

/// SIGTERM when the parent ends, however it does (PR_SET_PDEATHSIG). What memgov has put on for itself is not for its child: the signals that it blocks to wait for them, and that
/// the OOM killer is to pass it by.
fn end_with(parent: u32) -> Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    nix::sys::signal::SigSet::empty().thread_set_mask().context("letting signals in")?;
    set_parent_process_death_signal(Some(Signal::TERM)).context("asking for a signal at the parent's end")?;
    let is_parent = getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent));
    anyhow::ensure!(is_parent, "process {parent}, with which this was to end, has ended");
    std::fs::write("/proc/self/oom_score_adj", "0").context("writing /proc/self/oom_score_adj")
}

fn options() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(mount::SOURCE.into()),
        MountOption::DefaultPermissions,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    // Everybody: the modes are those of groups and processes, and the kernel looks at them.
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    config
}
