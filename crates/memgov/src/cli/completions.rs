//! What packagers install beside the binary: completion scripts and manual pages, made from the same definitions.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "  memgov completions bash > /etc/bash_completion.d/memgov")]
pub(crate) struct Completions {
    /// For which shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, command: &mut Command, out: &mut dyn Write) -> io::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "memgov", &mut script);
        out.write_all(&script)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "  memgov man | man -l -\n  memgov man --dir /usr/share/man/man1")]
pub(crate) struct Man {
    /// Write a page for each subcommand into this directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, command: Command, out: &mut dyn Write) -> io::Result<()> {
        match &self.dir {
            None => clap_mangen::Man::new(command).render(out),
            Some(dir) => {
                fs::create_dir_all(dir)?;
                clap_mangen::generate_to(command, dir)
            }
        }
    }
}
