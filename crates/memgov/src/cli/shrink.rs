//! `memgov shrink`: a group made smaller, to a usage or by an amount. By the daemon, if one runs; else from here, where what is lowered
//! stands in the ledger just the same and a guardian watches.

use std::io::{IsTerminal as _, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use memgov_decide::units::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::json;

use super::shrink_here::Here;
use super::{Exit, exit, output};
use crate::act::shrink::Means;
use crate::config::settings::STATE_DIR;
use crate::config::words;
use crate::kernel::sys;
use crate::serve::client::{Client, ClientError};
use crate::serve::shrink::{self, Job, Request, State};

#[derive(Debug, Args)]
#[command(after_help = "\
Ends when the group is at the target (0), when what is left cannot be reclaimed (8, EBUSY; what could go is gone), or with
Ctrl-C (130). A group that is there already is left alone. Nothing is killed, and no limit stays changed. What is used by
the groups below it counts, and goes too. You may shrink groups delegated to you.

  memgov shrink /build.slice --to 400MiB
  memgov shrink /build.slice --by 100MiB --file-only
  memgov shrink /build.slice --to 0 --async      as empty as possible, in the background
  memgov shrink --list; memgov shrink --watch 3; memgov shrink --cancel 3")]
#[command(group = ArgGroup::new("what").required(true).args(["group", "list", "watch", "cancel"]))]
pub(crate) struct Shrink {
    /// The group: its path from the root of the memory hierarchy, as in /proc/PID/cgroup.
    #[arg(value_name = "GROUP")]
    group: Option<String>,
    /// As --to.
    #[arg(value_name = "SIZE", value_parser = size, allow_hyphen_values = true, conflicts_with_all = ["to", "by"])]
    size: Option<Bytes>,
    /// The usage to get to; 0: as empty as possible.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true, conflicts_with = "by", requires = "group")]
    to: Option<Bytes>,
    /// How much less it is to use than now.
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true, requires = "group")]
    by: Option<Bytes>,
    /// Files and anonymous memory in this proportion: 0 (files only) to 200 (Linux 6.11, cgroup v2).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=200), requires = "group")]
    swappiness: Option<u8>,
    /// Reclaim files only (Linux 6.11, cgroup v2).
    #[arg(long, conflicts_with_all = ["swappiness", "anon_only"], requires = "group")]
    file_only: bool,
    /// Reclaim anonymous memory only (Linux 6.16, cgroup v2).
    #[arg(long, conflicts_with = "swappiness", requires = "group")]
    anon_only: bool,
    /// Have the daemon do it, print its number and return at once.
    #[arg(long, requires = "group")]
    r#async: bool,
    /// Those under way, and the last that have ended.
    #[arg(long)]
    list: bool,
    /// Show how far one is until it ends; ends as it does.
    #[arg(long, value_name = "ID")]
    watch: Option<u64>,
    /// Call one off.
    #[arg(long, value_name = "ID")]
    cancel: Option<u64>,
    /// By which file; for tests of the ways that this kernel does not need.
    #[arg(long, value_enum, default_value_t, hide = true, requires = "group")]
    means: Means,
    /// Without a daemon: holds the ledger.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How often a shrink is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Nothing is nothing in every unit.
fn size(text: &str) -> Result<Bytes, String> {
    if text.trim() == "0" { Ok(Bytes(0)) } else { words::size(text) }
}

#[derive(Deserialize)]
struct One {
    job: Job,
}

#[derive(Deserialize)]
struct All {
    jobs: Vec<Job>,
}

/// A shrink somewhere.
pub(super) trait Under {
    /// How far it is.
    fn look(&mut self) -> anyhow::Result<Job>;
    /// Calls it off; it ends soon.
    fn cancel(&mut self) -> anyhow::Result<()>;
}

/// One of the daemon's.
struct There {
    client: Client,
    id: u64,
}

impl Under for There {
    fn look(&mut self) -> anyhow::Result<Job> {
        Ok(self.client.call::<One>("GetShrink", json!({ "id": self.id }))?.job)
    }
    fn cancel(&mut self) -> anyhow::Result<()> {
        self.client.call::<One>("CancelShrink", json!({ "id": self.id }))?;
        Ok(())
    }
}

impl Shrink {
    pub(crate) fn run(&self, socket: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let Some(group) = &self.group else { return self.of_the_daemon(socket, out) };
        let request = self.request(group)?;
        // Before anything is begun: from here on a signal is news and ends nothing by itself.
        let signals = sys::signal_fd(&SIGNALS).map_err(|errno| anyhow::anyhow!("signalfd: {errno}"))?;
        let elsewhere = socket.is_some();
        match super::connect(socket) {
            Ok(mut client) => {
                let job = client.call::<One>("Shrink", json!({ "shrink": request }))?.job;
                let Some(id) = job.job else { anyhow::bail!("the daemon gave it no number") };
                if self.r#async {
                    return self.begun(&job, id, out);
                }
                self.follow(&mut There { client, id }, &signals, true, out)
            }
            Err(ClientError::NotRunning { .. }) if !elsewhere && !self.r#async => {
                let mut here = Here::begin(&request, &self.state_dir)?;
                let code = self.follow(&mut here, &signals, true, out);
                here.end();
                code
            }
            Err(error) => Err(error.into()),
        }
    }

    fn request(&self, group: &str) -> anyhow::Result<Request> {
        let bytes = |size: Option<Bytes>| size.map(|bytes| bytes.0);
        let only = match (self.file_only, self.anon_only) {
            (true, _) => Some("file"),
            (_, true) => Some("anon"),
            _ => None,
        };
        let request = Request {
            path: group.to_owned(),
            to_bytes: bytes(self.to.or(self.size)),
            by_bytes: bytes(self.by),
            swappiness: self.swappiness,
            only: only.map(Into::into),
            means: (self.means == Means::Limit).then(|| "limit".into()),
            attended: !self.r#async,
        };
        shrink::refuse_root(group)?;
        if request.to_bytes.is_none() && request.by_bytes.is_none() {
            return Err(Exit::with(exit::USAGE, "say how far: --to 400MiB, or --by 100MiB"));
        }
        request.meaning()?;
        Ok(request)
    }

    fn begun(&self, job: &Job, id: u64, out: &mut dyn Write) -> anyhow::Result<u8> {
        match self.json {
            true => output::json(out, job)?,
            false => writeln!(out, "{id}")?,
        }
        Ok(0)
    }

    fn of_the_daemon(&self, socket: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        let goal = self.to.or(self.by).or(self.size).is_some() || self.swappiness.is_some();
        if goal || self.file_only || self.anon_only || self.r#async {
            return Err(Exit::with(
                exit::USAGE,
                "how to shrink goes with a GROUP, not with --list, --watch or --cancel",
            ));
        }
        let mut client = super::connect(socket)?;
        if let Some(id) = self.watch {
            let signals = sys::signal_fd(&SIGNALS).map_err(|errno| anyhow::anyhow!("signalfd: {errno}"))?;
            return self.follow(&mut There { client, id }, &signals, false, out);
        }
        if let Some(id) = self.cancel {
            let mut there = There { client, id };
            there.cancel()?;
            let job = ended(&mut there)?;
            self.print(&job, out)?;
            return Ok(0);
        }
        let All { jobs } = client.call("ListShrinks", json!({}))?;
        if self.json {
            output::json(out, &json!({ "jobs": jobs }))?;
        } else if jobs.is_empty() {
            writeln!(out, "no group is being shrunk")?;
        } else {
            output::table(out, &["ID", "GROUP", "STATE", "USAGE", "TARGET", "FREED", "TOOK"], &rows(&jobs))?;
        }
        Ok(0)
    }

    /// Shows how far it is until it ends. `own`: a signal that ends this ends the shrink.
    fn follow(
        &self,
        under: &mut dyn Under,
        signals: &OwnedFd,
        own: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<u8> {
        let mut line = Line::new(!self.json);
        let mut shown = None;
        loop {
            let job = under.look()?;
            if job.state != State::Running {
                line.clear();
                self.print(&job, out)?;
                return code(&job);
            }
            if self.json && !own && shown.as_ref() != Some(&job) {
                output::json_line(out, &job)?;
            }
            line.show(&job);
            shown = Some(job);
            let Some(signal) = wait(signals, LOOK)? else { continue };
            line.clear();
            if own {
                under.cancel()?;
                self.print(&ended(under)?, out)?;
            }
            return Ok(u8::try_from(128 + signal).unwrap_or(exit::FAILED));
        }
    }

    fn print(&self, job: &Job, out: &mut dyn Write) -> anyhow::Result<()> {
        match (self.json, self.watch) {
            (true, Some(_)) => output::json_line(out, job)?,
            (true, None) => output::json(out, job)?,
            _ => writeln!(out, "{}", sentence(job))?,
        }
        Ok(())
    }
}

const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The next signal, if one comes in this time.
fn wait(signals: &OwnedFd, time: Duration) -> anyhow::Result<Option<i32>> {
    let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // An interrupted wait is a short one.
    let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&time));
    sys::read_signal(signals).map_err(|errno| anyhow::anyhow!("signalfd: {errno}"))
}

/// Waits for the end of one that was called off.
fn ended(under: &mut dyn Under) -> anyhow::Result<Job> {
    loop {
        let job = under.look()?;
        if job.state != State::Running {
            return Ok(job);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the command ends with; the way out is for stderr.
fn code(job: &Job) -> anyhow::Result<u8> {
    let path = output::shown(&job.path);
    Err(match job.state {
        State::Running | State::Already | State::Reached | State::Emptied => return Ok(0),
        State::Hard => Exit::with(
            exit::HARD,
            format!(
                "{path}: EBUSY: what it uses cannot be reclaimed any further (anonymous memory without swap, locked or in use \
                 faster than it goes)"
            ),
        ),
        State::Cancelled => Exit::with(exit::FAILED, format!("{path}: called off")),
        State::Gone => Exit::with(exit::NO_TARGET, format!("{path}: the group was removed meanwhile")),
        State::Failed => {
            let errno = job.errno.map(crate::record::text::errno).unwrap_or_default();
            Exit::with(exit::FAILED, format!("{path}: {}: {errno}", job.file))
        }
    })
}

/// A shrink that has ended, in a sentence.
fn sentence(job: &Job) -> String {
    let path = output::shown(&job.path);
    let (usage, target) = (Bytes(job.usage_bytes), Bytes(job.target_bytes));
    if job.state == State::Already {
        return format!("{path}: at {usage} already, which is not over {target}: nothing done");
    }
    let rate = job.rate_bytes.map(|rate| format!(", {}/s", Bytes(rate))).unwrap_or_default();
    format!(
        "{path}: {} of {target}: {} -> {usage} in {:.1?} ({} freed by {}{rate})",
        word(job.state),
        Bytes(job.before_bytes),
        Duration::from_millis(job.elapsed_ns / 1_000_000),
        Bytes(job.freed_bytes),
        job.file
    )
}

fn word(state: State) -> &'static str {
    match state {
        State::Running => "on its way to the target",
        State::Reached => "at the target",
        State::Already => "already at the target",
        State::Emptied => "as empty as possible, for the target",
        State::Hard => "hard, short",
        State::Cancelled => "called off, short",
        State::Gone => "removed, short",
        State::Failed => "failed, short",
    }
}

fn rows(jobs: &[Job]) -> Vec<Vec<String>> {
    let row = |job: &Job| {
        vec![
            job.job.map(|id| id.to_string()).unwrap_or_default(),
            output::shown(&job.path),
            serde_json::to_value(job.state)
                .ok()
                .and_then(|v| v.as_str().map(str::to_owned))
                .unwrap_or_default(),
            Bytes(job.usage_bytes).to_string(),
            Bytes(job.target_bytes).to_string(),
            Bytes(job.freed_bytes).to_string(),
            format!("{:.1?}", Duration::from_millis(job.elapsed_ns / 1_000_000)),
        ]
    };
    jobs.iter().map(row).collect()
}

/// One line of a terminal that is written again and again; nothing where stderr is none.
struct Line {
    on: bool,
    written: bool,
}

impl Line {
    fn new(wanted: bool) -> Self {
        Self { on: wanted && std::io::stderr().is_terminal(), written: false }
    }

    fn show(&mut self, job: &Job) {
        // It has not begun: there is nothing to show yet.
        if !self.on || job.before_bytes == 0 {
            return;
        }
        let rate = job.rate_bytes.map(|rate| format!(", {}/s", Bytes(rate))).unwrap_or_default();
        let left = job.left_ns.map(|left| format!(", {} s left", left / 1_000_000_000)).unwrap_or_default();
        let (usage, target) = (Bytes(job.usage_bytes), Bytes(job.target_bytes));
        // A stderr that is closed shows nothing.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{}: {usage} -> {target}{rate}{left}",
            output::shown(&job.path)
        );
        self.written = true;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.written) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Where the ledger of a shrink without a daemon is.
pub(super) fn ledger_in(state: &Path) -> PathBuf {
    state.join(crate::daemon::LEDGER)
}
