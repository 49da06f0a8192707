//! `memgov replay`: what would have been done, and why, under another configuration.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Traces are written by `memgov run --trace FILE`. Nothing on this machine is read or touched but the two files.

  memgov replay incident.trace --config /etc/memgov/memgov.toml
  memgov replay incident.trace --config stricter.toml --json

Give --config again for each time the rules were put in force anew while the trace was taken (a reload), in that order;
otherwise the last one given stays. The last line says whether the decisions are identical; the exit code does not.")]
pub(crate) struct Replay {
    /// The trace.
    trace: PathBuf,
    /// The configuration to run it against; again for each reload.
    #[arg(long, value_name = "FILE", required = true)]
    config: Vec<PathBuf>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let policies = self.config.iter().map(|file| Ok(crate::config::load(file)?.policy));
        let policies = policies.collect::<anyhow::Result<_>>()?;
        crate::record::replay::run(&self.trace, policies, self.json, out)?;
        Ok(())
    }
}
