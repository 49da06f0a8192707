//! `memgov exec`: a command in a group of its own, with limits and a rule. The group is made and the rule set before the
//! command starts; the child puts itself into the group, so nothing of it ever runs outside.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use clap::Args;
use memgov_decide::units::Limit;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::exec_group::{ExecGroup, enter};
use super::rfc_prctl::{self, Door};
use super::set::RuleArgs;
use super::{Exit, exit};
use crate::config::words;
use crate::kernel::layout::Layout;
use crate::kernel::sys;
use crate::serve::client::Client;
use crate::terminal;

#[derive(Debug, Args)]
#[command(after_help = "\
The command runs in /memgov.exec/NAME-PID of the memory hierarchy (users other than root: inside what is delegated to
them), which is removed afterwards. Signals are forwarded; the exit code is the command's, 128+n after signal n.
A rule needs the daemon; --high (v2) and --max alone do not.

  memgov exec --max 2GiB -- make -j8
  memgov exec --high 100MiB --over high+8MiB --do deny -- ./leaky
  memgov exec --meter rss.anon --over 1GiB --do signal:SIGUSR1,kill@10s --name job -- ./job
  memgov exec --rfc-prctl -- ./written-for-the-letter

--rfc-prctl: prctl(60, word, climit, plimit, 0) and prctl(59, item, 0, 0, 0) of the command and of all it starts set and
get the caller's control, as `memgov set --pid` and `get` would. What mainline Linux does by these numbers (syscall user
dispatch, arm64's pointer authentication keys) still works. Without CAP_SYS_ADMIN it takes no_new_privs: set-user-id
programs gain nothing then. No daemon: ENOTCONN; and ENOSYS for what outlives this command. docs/letters.md has the rest.")]
pub(crate) struct Exec {
    /// memory.high of the group: above it the kernel reclaims and throttles (v1: kept by memgov, for `--over high+…`).
    #[arg(long, value_name = "SIZE", value_parser = limit)]
    high: Option<Limit>,
    /// memory.max of the group: the kernel's own end of it.
    #[arg(long, value_name = "SIZE", value_parser = limit)]
    max: Option<Limit>,
    /// Name of the group [default: the command's].
    #[arg(long)]
    name: Option<String>,
    /// Answer the prctl(2) calls of the over-high series (59 and 60 in its form) for the command and all it starts.
    #[arg(long)]
    rfc_prctl: bool,
    #[command(flatten)]
    rule: RuleArgs,
    /// Become the command inside this group: what the child does first.
    #[arg(long, hide = true, value_name = "DIR")]
    enter: Option<PathBuf>,
    /// With --enter: the socket by which calls to be answered are handed over.
    #[arg(long, hide = true, value_name = "FD", requires = "enter")]
    calls_to: Option<i32>,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

fn limit(text: &str) -> Result<Limit, String> {
    words::limit(text)
}

/// Signals that end or inform a command, and the one that says that it has ended.
const SIGNALS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
];

impl Exec {
    pub(crate) fn run(self, socket: Option<PathBuf>) -> anyhow::Result<u8> {
        if let Some(dir) = &self.enter {
            return Ok(become_command(dir, self.calls_to, &self.command));
        }
        self.govern(socket).map_err(|error| {
            // A caller must be able to tell our failure from the command's, except where the daemon's refusal has a code.
            let known = super::exit_code(&error);
            let code = if known == exit::FAILED { exit::EXEC } else { known };
            Exit::with(code, format!("{error:#}"))
        })
    }

    fn govern(&self, socket: Option<PathBuf>) -> anyhow::Result<u8> {
        let daemon = socket.clone().unwrap_or_else(|| super::SOCKET.into());
        let wants_rule = self.rule.over.is_some() || !self.rule.steps.is_empty();
        // Refused before anything is made.
        let mut client = match wants_rule {
            true => {
                self.rule.meaning("/checked", None)?;
                Some(super::connect(socket)?)
            }
            false => None,
        };
        let layout = Layout::detect(Path::new("/"))?;
        let uid = rustix::process::geteuid().as_raw();
        // Blocked before the group exists: from here on nothing ends us with the group left behind.
        let signals = sys::signal_fd(&SIGNALS).map_err(|errno| anyhow::anyhow!("signalfd: {errno}"))?;
        let group = ExecGroup::make(&layout, uid, &self.group_name())?;
        let result =
            self.limited(&group, client.as_mut()).and_then(|()| self.supervise(&group, &signals, daemon));
        if let Some(client) = client.as_mut() {
            let cleared: Result<Value, _> = client.call("ClearGroupRule", json!({ "path": group.path }));
            // The daemon may have gone meanwhile, and its rule with it.
            drop(cleared);
        }
        if let Err(error) = group.remove() {
            let text = format!(
                "{} is kept: {error} (does something of the command still run?)",
                group.dir.display()
            );
            complain(&text);
        }
        result.map(exit_of)
    }

    fn limited(&self, group: &ExecGroup, client: Option<&mut Client>) -> anyhow::Result<()> {
        if let Some(max) = self.max {
            group.set_max(max)?;
        }
        let by_kernel = self.high.map(|high| group.set_high(high)).transpose()?.unwrap_or(true);
        let Some(client) = client else {
            if !by_kernel {
                let text = "this kernel has no memory.high (cgroup v1): say what memgov is to do, for example \
                            --over high --do slow";
                return Err(Exit::with(exit::USAGE, text));
            }
            return Ok(());
        };
        // Not `to_string`, which rounds to a decimal.
        let exact =
            |high: Limit| high.bytes().map_or_else(|| "max".to_owned(), |bytes| format!("{}B", bytes.0));
        let virtual_high = self.high.filter(|_| !by_kernel).map(exact);
        let rule = self.rule.meaning(&group.path, virtual_high)?;
        let _: Value = client.call("SetGroupRule", json!({ "rule": rule }))?;
        Ok(())
    }

    fn supervise(&self, group: &ExecGroup, signals: &OwnedFd, daemon: PathBuf) -> anyhow::Result<ExitStatus> {
        let door = self.rfc_prctl.then(Door::make).transpose()?;
        let mut command = Command::new("/proc/self/exe");
        command.args([OsStr::new("exec"), OsStr::new("--enter"), group.dir.as_os_str()]);
        if let Some(door) = &door {
            command.args(["--calls-to", &door.number()]);
        }
        let mut child = command.arg("--").args(&self.command).spawn()?;
        if let Some(Err(error)) = door.map(|door| door.attend(daemon)) {
            // The child notices, says so and ends.
            complain(&format!("starting a thread: {error}"));
        }
        Ok(wait(&mut child, signals)?)
    }

    /// The name given, or the command's, of characters that need no quoting.
    fn group_name(&self) -> String {
        let command = self.command.first().map(Path::new).and_then(Path::file_name);
        let name = self.name.clone().or_else(|| Some(command?.to_string_lossy().into_owned()));
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = name.unwrap_or_default().chars().map(plain).take(64).collect();
        if name.is_empty() || name.starts_with('.') { format!("exec{name}") } else { name }
    }
}

fn complain(text: &str) {
    terminal::complain(&format!("memgov: {text}"));
}

/// In the child: into the group, then the command in our place. Comes back only with an exit code for its failure.
fn become_command(dir: &Path, calls_to: Option<i32>, command: &[OsString]) -> u8 {
    // The waiting memgov has blocked signals for itself; its child starts with that mask, and the command must not.
    if let Err(errno) = sys::unblock_signals() {
        complain(&format!("unblocking signals: {errno}"));
        return exit::EXEC;
    }
    if let Err(error) = enter(dir) {
        complain(&error.to_string());
        return exit::EXEC;
    }
    // As late as can be: nothing of memgov itself is to be looked at.
    if let Some(Err(error)) = calls_to.map(rfc_prctl::hand_over) {
        complain(&format!("{error:#}"));
        return exit::EXEC;
    }
    let Some((program, arguments)) = command.split_first() else { return exit::EXEC };
    let error = Command::new(program).args(arguments).exec();
    complain(&format!("{}: {error}", program.to_string_lossy()));
    if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
}

/// Waits for the command and passes on the signals that come meanwhile.
fn wait(child: &mut Child, signals: &OwnedFd) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(signal) = sys::read_signal(signals)? {
            if signal == libc::SIGCHLD || (from_keyboard(signal) && in_foreground()) {
                continue;
            }
            // Not reaped yet, so the pid is still the child's.
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// Ctrl-C and Ctrl-\ go to the whole foreground process group: the command has them already.
fn from_keyboard(signal: i32) -> bool {
    signal == libc::SIGINT || signal == libc::SIGQUIT
}

/// Whether our process group is the terminal's: fields 5 and 8 of /proc/self/stat, counted after the name.
fn in_foreground() -> bool {
    let stat = std::fs::read("/proc/self/stat").unwrap_or_default();
    let after = stat.iter().rposition(|&b| b == b')').map_or(&stat[..0], |at| &stat[at + 1..]);
    let fields: Vec<&[u8]> = after.split(|&b| b == b' ').filter(|f| !f.is_empty()).collect();
    matches!((fields.get(2), fields.get(5)), (Some(group), Some(terminal)) if group == terminal)
}

/// The command's exit code; 128+n if signal n ended it.
fn exit_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::EXEC)
}
