//! The command line: one file a subcommand. Help teaches; every table has `--json` beside it; errors say what to do and end
//! with the exit codes of [`crate::serve::failure::exit`]. Apart from `run`, `exec`, `restore`, `check` and `doctor`, and
//! `shrink` where no daemon runs, a subcommand is a client of the control socket and touches nothing itself; `status
//! --kernel` reads the kernel's files instead.

mod answer;
mod check;
mod check_program;
mod completions;
mod doctor;
mod events;
mod exec;
mod exec_group;
mod explain;
mod guardian;
mod hook_keeper;
mod kernel;
mod notify;
mod output;
mod reload;
mod replay;
mod rescue;
mod restore;
mod rfc_prctl;
mod run;
mod set;
mod shrink;
mod shrink_here;
mod sockets;
mod status;
mod target;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::ConfigErrors;
use crate::serve::client::{Client, ClientError};
use crate::serve::failure::{Failure, exit};
use crate::terminal::{self, Terminal};

/// A memory governor for Linux: watches control groups and processes, and does what was asked for when one outgrows
/// what it was given, before the kernel's OOM killer does what nobody asked for.
#[derive(Debug, Parser)]
#[command(name = "memgov", version, propagate_version = true, after_help = OVERVIEW)]
pub struct Cli {
    /// Control socket of the daemon [env: MEMGOV_SOCKET].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const OVERVIEW: &str = "\
Start here:
  memgov doctor                                  what this kernel and these privileges allow
  memgov check /etc/memgov/memgov.toml           what a configuration means, rule by rule
  memgov run --config FILE --dry-run             decide and record, touch nothing
  memgov events --follow                         watch it decide
  memgov explain 7                               why it did what it did

Exit codes:
  0 done   1 failed   2 wrong usage   3 configuration not valid   4 not permitted
  5 no such process, group, rule, decision or open question   6 the daemon does not run   7 busy or full, try again
  shrink: 8 what is left cannot be reclaimed (EBUSY)   130 Ctrl-C
  exec: the command's own (128+n after signal n); 125 memgov failed, 126 not executable, 127 not found";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(run::Run),
    /// Run a command in a new group with limits and a rule of its own.
    Exec(exec::Exec),
    /// Set the memory control of a process, or a rule for a running group.
    Set(set::Set),
    /// Make a group smaller: to a usage, or by an amount.
    Shrink(shrink::Shrink),
    /// Show the memory control of a process, or the rule set on a group.
    Get(target::Get),
    /// Take away what `set` has set.
    Clear(target::Clear),
    /// What is governed and what goes on; kernel memory by kind.
    Status(status::Status),
    /// What was decided, done and undone.
    Events(events::Events),
    /// One decision: inputs, rule, ranking, action, what came of it.
    Explain(explain::Explain),
    /// Read a configuration, say what it means and what is wrong with it.
    Check(check::Check),
    /// What this kernel and these privileges allow, and how to get the rest.
    Doctor(doctor::Doctor),
    /// Run a recorded trace against a configuration.
    Replay(replay::Replay),
    /// Undo what a memgov that died has left in force.
    Restore(restore::Restore),
    /// A shell that needs neither memory nor a fork, for when there is none left.
    Rescue(rescue::Rescue),
    /// Have the daemon read its configuration anew: all of it, or nothing.
    Reload(reload::Reload),
    /// Watch over the daemon that starts this.
    #[command(hide = true)]
    Guardian(guardian::Guardian),
    /// Keep a program of a hook within its time.
    #[command(hide = true)]
    HookKeeper(hook_keeper::HookKeeper),
    /// What is asked about frozen groups, and the answer.
    Answer(answer::Answer),
    /// Show questions about frozen groups on this desktop, with buttons for the answers.
    Notify(notify::Notify),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
    /// Print the manual page.
    Man(completions::Man),
}

/// Ends with this code; the message, if any, is for stderr.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Exit {
    pub(crate) fn with(code: u8, message: impl Into<String>) -> anyhow::Error {
        Self { code, message: message.into() }.into()
    }
}

/// Reads the arguments, does what they say, gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let socket = cli.socket.or_else(|| socket_of(std::env::var_os(SOCKET_VARIABLE)));
    let stdout = io::stdout();
    // Line by line when somebody watches, or a follower would show nothing for a screenful.
    let mut out = Terminal(io::LineWriter::new(stdout.lock()));
    let result = cli.command.run(socket, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => ExitCode::from(code),
        // `memgov events | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            if !message.is_empty() {
                terminal::complain(&format!("memgov: {message}"));
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        let json = cause.downcast_ref::<serde_json::Error>();
        io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            || json.and_then(serde_json::Error::io_error_kind) == Some(io::ErrorKind::BrokenPipe)
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(exit) = cause.downcast_ref::<Exit>() {
            return exit.code;
        }
        if let Some(client) = cause.downcast_ref::<ClientError>() {
            return client.exit_code();
        }
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.kind.exit_code();
        }
        if cause.is::<ConfigErrors>() {
            return exit::CONFIG;
        }
    }
    exit::FAILED
}

/// Where `--socket` may stand instead. Not left to clap, which refuses an empty one; empty means unset, as in a shell.
const SOCKET_VARIABLE: &str = "MEMGOV_SOCKET";

fn socket_of(variable: Option<OsString>) -> Option<PathBuf> {
    variable.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where the daemon listens unless said otherwise.
const SOCKET: &str = "/run/memgov/control.sock";

fn connect(socket: Option<PathBuf>) -> Result<Client, ClientError> {
    Client::connect(&socket.unwrap_or_else(|| Path::new(SOCKET).into()))
}

impl Command {
    fn run(self, socket: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<u8> {
        match self {
            Self::Run(run) => run.run(socket)?,
            Self::Exec(exec) => return exec.run(socket),
            Self::Set(set) => set.run(&mut connect(socket)?, out)?,
            Self::Shrink(shrink) => return shrink.run(socket, out),
            Self::Get(get) => get.run(&mut connect(socket)?, out)?,
            Self::Clear(clear) => clear.run(&mut connect(socket)?, out)?,
            Self::Status(status) => status.run(socket, out)?,
            Self::Events(events) => events.run(&mut connect(socket)?, out)?,
            Self::Explain(explain) => explain.run(&mut connect(socket)?, out)?,
            Self::Check(check) => return check.run(out),
            Self::Doctor(doctor) => doctor.run(out)?,
            Self::Replay(replay) => replay.run(out)?,
            Self::Restore(restore) => return restore.run(out),
            Self::Rescue(rescue) => return Err(rescue.run()),
            Self::Reload(reload) => reload.run(&mut connect(socket)?, out)?,
            Self::Guardian(guardian) => return Ok(guardian.run()),
            Self::HookKeeper(keeper) => return Ok(keeper.run()),
            Self::Answer(answer) => answer.run(&mut connect(socket)?, out)?,
            Self::Notify(notify) => notify.run(socket)?,
            Self::Completions(completions) => completions.run(&mut Cli::command(), out)?,
            Self::Man(man) => man.run(Cli::command(), out)?,
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests;
