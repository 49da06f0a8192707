//! `memgov rescue`: becomes `memgov-rescue`, which is a program of its own.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::Exit;
use crate::serve::failure::exit;

/// Beside this program, or in PATH.
const PROGRAM: &str = "memgov-rescue";

#[derive(Debug, Args)]
#[command(after_help = "\
The shell was started before, by memgov-rescue.service or `memgov-rescue serve`: it is locked in memory and needs no other process
to look and act, also when nothing can be forked any more. Root only. `help` in it has its commands. Where a shell cannot fork,
`exec memgov-rescue` needs least; one that is left connected in a terminal needs nothing at all.")]
pub(crate) struct Rescue {
    /// Where it waits.
    #[arg(long, value_name = "PATH", default_value = "/run/memgov/rescue.sock")]
    at: PathBuf,
}

impl Rescue {
    pub(crate) fn run(&self) -> anyhow::Error {
        let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
        let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into());
        let error = Command::new(&program).arg("--socket").arg(&self.at).exec();
        Exit::with(
            exit::FAILED,
            format!("{}: {error}; it is a program of its own beside memgov", program.display()),
        )
    }
}
