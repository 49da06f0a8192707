//! `memgov run`: hands over to the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::config::Files;

#[derive(Debug, Args)]
#[command(after_help = "\
Reads FILE and the drop-ins in memgov.d/ beside it. Prints `memgov: ready` on stderr when it governs (and tells systemd).
SIGHUP reads the configuration anew; SIGTERM and SIGINT undo everything and end. Other signals that have no meaning here
(SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE, realtime signals…) are ignored.

  memgov check FILE                      what FILE means, before it is put in force
  memgov run --config FILE --dry-run     decide and record, touch nothing")]
pub(crate) struct Run {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/memgov/memgov.toml")]
    config: PathBuf,
    /// Holds the ledger and the control socket [default: the configuration's, else /run/memgov].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Decide and record, touch nothing.
    #[arg(long)]
    dry_run: bool,
    /// Record what is seen and decided, for `memgov replay`.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Where enforcement is done [default: the configuration's, else portable].
    #[arg(long, value_name = "TIER")]
    tier: Option<crate::config::Tier>,
    /// Mount the letters' files here [default: the configuration's, else `fs` in the state directory; not in a dry run].
    #[arg(long, value_name = "DIR", conflicts_with = "no_files")]
    files: Option<PathBuf>,
    /// Do not mount the letters' files.
    #[arg(long)]
    no_files: bool,
}

impl Run {
    pub(crate) fn run(self, socket: Option<PathBuf>) -> anyhow::Result<()> {
        let Self { config, state_dir, dry_run, trace, tier, files, no_files } = self;
        let files = if no_files { Some(Files::Off) } else { files.map(Files::At) };
        crate::daemon::run(crate::daemon::Options { config, state_dir, socket, dry_run, trace, tier, files })
    }
}
