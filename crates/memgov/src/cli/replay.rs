//! `memgov replay`: what would have been done, and why, under another configuration.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Traces are written by `memgov run --trace FILE`. Nothing on this machine is read or touched but the two files.

  memgov replay incident.trace --config /etc/memgov/memgov.toml
  memgov replay incident.trace --config stricter.toml --json")]
pub(crate) struct Replay {
    /// The trace.
    trace: PathBuf,
    /// The configuration to run it against.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let config = crate::config::load(&self.config)?;
        crate::record::replay::run(&self.trace, config.policy, self.json, out)?;
        Ok(())
    }
}
