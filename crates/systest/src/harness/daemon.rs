//! The real daemon of one test, and the command line against it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::event::Event;
use super::group::Group;
use super::host::Tier;
use super::poll_until;
use super::process;
use crate::sys::process::{start_in_groups, start_without_ipc_lock};
use crate::sys::signal;

/// What a call of the command line gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; -1 if it was killed because it took too long.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// `memgov run`, started for one test.
pub struct Daemon {
    /// Its process.
    pub pid: i32,
    child: Child,
    memgov: PathBuf,
    group: Group,
    config: PathBuf,
    state: PathBuf,
    log: PathBuf,
    patience: Duration,
    events: Arc<Mutex<Vec<Event>>>,
    follower: Option<Child>,
}

/// Where a daemon lives and how it is started.
pub struct Place<'a> {
    /// The program.
    pub memgov: &'a Path,
    /// The group it runs in, so that its guardian can be found there.
    pub group: &'a Group,
    /// A directory for its configuration and its state.
    pub dir: &'a Path,
    /// How long its answers may take.
    pub patience: Duration,
    /// Where it enforces.
    pub tier: Tier,
    /// Whether it may lock its memory.
    pub locks: bool,
    /// Whether it mounts the letters' files where it is told to, or by itself. Most tests of them start `memgov-files` themselves.
    pub files: bool,
}

impl Daemon {
    /// Starts it and waits until it governs.
    pub fn start(place: &Place<'_>, config: &str, arguments: &[&str]) -> Result<Self> {
        let file = place.dir.join("memgov.toml");
        fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
        let (state, log) = (place.dir.join("state"), place.dir.join("daemon.log"));
        fs::create_dir_all(&state)?;
        let output = File::options().create(true).append(true).open(&log)?;
        let seen = fs::metadata(&log)?.len();
        let mut command = Command::new(place.memgov);
        command.arg("run").arg("--config").arg(&file).arg("--state-dir").arg(&state);
        command.arg("--tier").arg(place.tier.name());
        if !place.files {
            command.arg("--no-files");
        }
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Programs of the test's own come before those of the system.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", place.dir.join("bin").display()));
        start_in_groups(&mut command, place.group.doors()?, false);
        if !place.locks {
            start_without_ipc_lock(&mut command);
        }
        let child = command.spawn().with_context(|| format!("starting {}", place.memgov.display()))?;
        let mut daemon = Self {
            pid: i32::try_from(child.id())?,
            child,
            memgov: place.memgov.to_owned(),
            group: place.group.clone(),
            config: file,
            state,
            log,
            patience: place.patience,
            events: Arc::default(),
            follower: None,
        };
        daemon.wait_ready(seen)?;
        Ok(daemon)
    }

    fn wait_ready(&mut self, seen: u64) -> Result<()> {
        let skip = usize::try_from(seen)?;
        let ready = poll_until(self.patience, Duration::from_millis(2), || {
            let text = fs::read(&self.log).unwrap_or_default();
            let text = String::from_utf8_lossy(text.get(skip..).unwrap_or_default()).into_owned();
            if text.contains("memgov: ready") {
                return Some(Ok(()));
            }
            let ended = self.child.try_wait().ok().flatten()?;
            Some(Err(anyhow!("the daemon ended at its start ({ended})")))
        });
        let ready = ready
            .unwrap_or_else(|| Err(anyhow!("no \"memgov: ready\" on its stderr in {:?}", self.patience)));
        ready.map_err(|error| self.explain(error))
    }

    /// The guardian it says it has.
    pub fn guardian(&self) -> Result<Option<i32>> {
        let status: serde_json::Value = serde_json::from_str(&self.ok(&["status", "--json"])?)?;
        Ok(status["guardian"].as_i64().and_then(|pid| i32::try_from(pid).ok()))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// An error with what the daemon says of itself, and its log, beside it.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let status = run_within(&mut self.command(&["status"]), Duration::from_secs(2));
        let status = status.map_or_else(|error| error.to_string(), |output| output.stdout + &output.stderr);
        let log = self.log_tail();
        anyhow!("{error:#}\n-- status:\n{status}-- the end of the daemon's log:\n{log}")
    }

    /// Where its socket is.
    pub fn socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }
    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }
    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs `memgov ARGUMENTS` against it.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.run(&mut self.command(arguments))
    }

    /// The same as another user.
    pub fn cli_as(&self, user: u32, arguments: &[&str]) -> Result<Output> {
        self.run(self.command(arguments).uid(user).gid(user))
    }

    /// Runs it and gives its standard output if it succeeds.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        if output.code != 0 {
            let Output { code, stdout, stderr } = output;
            let shown = arguments.join(" ");
            return Err(
                self.explain(anyhow!("memgov {shown}: exit code {code}, expected 0; {stdout}{stderr}"))
            );
        }
        Ok(output.stdout)
    }

    /// `memgov ARGUMENTS` with its socket, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.memgov);
        command.arg("--socket").arg(self.socket()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, command: &mut Command) -> Result<Output> {
        run_within(command, self.patience)
    }

    /// Sets a control by the letter's word.
    pub fn set_memctl(&self, pid: i32, word: u32, climit: u64, plimit: u64) -> Result<()> {
        let memctl = format!("{word:#x} {climit} {plimit}");
        self.ok(&["set", "--pid", &pid.to_string(), "--memctl", &memctl]).map(|_| ())
    }
    /// Its control as text.
    pub fn memctl(&self, pid: i32) -> Result<String> {
        self.ok(&["get", "--pid", &pid.to_string(), "--memctl"])
    }

    /// Begins to follow its events, from the first on.
    pub fn follow(&mut self) -> Result<()> {
        let mut command = self.command(&["events", "--json", "--follow", "--since", "0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().context("no pipe to memgov events")?;
        let events = Arc::clone(&self.events);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str::<Event>(&line) {
                    keep(&mut events.lock().unwrap_or_else(PoisonError::into_inner), event);
                }
            }
        });
        self.follower = Some(child);
        Ok(())
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an event.
    pub fn event(&self, what: &str, within: Duration, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        let found = poll_until(within, Duration::from_millis(2), || self.events().into_iter().find(&wanted));
        found.ok_or_else(|| {
            let seen: Vec<String> = self.events().iter().map(ToString::to_string).collect();
            self.explain(anyhow!("expected within {within:?}: {what}; events so far: [{}]", seen.join("; ")))
        })
    }

    /// Fails if such an event comes in this time.
    pub fn no_event(&self, what: &str, during: Duration, unwanted: impl Fn(&Event) -> bool) -> Result<()> {
        let found =
            poll_until(during, Duration::from_millis(5), || self.events().into_iter().find(&unwanted));
        match found {
            None => Ok(()),
            Some(event) => Err(self.explain(anyhow!("expected none: {what}; got {event}"))),
        }
    }

    /// SIGKILL, and wait until it is gone. Its guardian lives on.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().context("killing the daemon")?;
        self.child.wait().context("waiting for the daemon")?;
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, number: i32) -> Result<()> {
        signal::send(self.pid, number)
            .map_err(|errno| anyhow!("signal {number} to the daemon: errno {errno}"))
    }

    /// Ends it, and has the trace that it kept replayed with the configuration it had; what `memgov replay` says in the end.
    pub fn replays_alike(&mut self, trace: &Path) -> Result<String> {
        self.terminate()?;
        let config = self.config().to_string_lossy().into_owned();
        let said = self.ok(&["replay", &trace.to_string_lossy(), "--config", &config])?;
        ensure!(said.contains("the decisions are identical"), "{said}");
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self) -> Result<i32> {
        self.signal(libc::SIGTERM)?;
        let ended =
            poll_until(self.patience, Duration::from_millis(2), || self.child.try_wait().ok().flatten());
        let status =
            ended.ok_or_else(|| self.explain(anyhow!("still there {:?} after SIGTERM", self.patience)))?;
        Ok(status.code().unwrap_or(-1))
    }

    /// Other processes of its own: the guardian. Not wall(1), which tells people of a question and ends by itself.
    pub fn companions(&self) -> Vec<i32> {
        let tells = |pid| process::status(pid, "Name").is_some_and(|name| name.trim() == "wall");
        self.group.processes().into_iter().filter(|&pid| pid != self.pid && !tells(pid)).collect()
    }

    /// Waits until the guardian has done its work and is gone.
    pub fn wait_companions_gone(&self) -> Result<()> {
        let gone = poll_until(self.patience, Duration::from_millis(2), || {
            self.companions().is_empty().then_some(())
        });
        gone.ok_or_else(|| self.explain(anyhow!("the guardian {:?} is still there", self.companions())))
    }

    /// Leaves nobody who could undo anything. The guardian goes first, or it would; the daemon stands still meanwhile, or it would put up another.
    pub fn kill9_with_guardian(&mut self) -> Result<()> {
        self.signal(libc::SIGSTOP)?;
        for guardian in self.companions() {
            signal::send(guardian, libc::SIGKILL)
                .map_err(|errno| anyhow!("killing the guardian: errno {errno}"))?;
        }
        self.kill9()?;
        self.wait_companions_gone()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.follower.as_mut()].into_iter().flatten() {
            // Both fail only if it has ended and was waited for.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

/// An outcome that came later replaces the event it belongs to.
fn keep(events: &mut Vec<Event>, event: Event) {
    match events.iter_mut().find(|known| known.id == event.id) {
        Some(known) => *known = event,
        None => events.push(event),
    }
}

/// Runs a command to its end, or kills it when the time is over.
pub fn run_within(command: &mut Command, within: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("no pipes to {shown}")
    };
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    let begin = Instant::now();
    let status = poll_until(within, Duration::from_millis(1), || child.try_wait().ok().flatten());
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, mut stderr) = (text(stdout), text(stderr));
    if status.is_none() {
        stderr += &format!("[killed after {:?}]", begin.elapsed());
    }
    Ok(Output { code: status.and_then(|status| status.code()).unwrap_or(-1), stdout, stderr })
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is to show.
        let _partial = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
