//! `memgov reload`: as SIGHUP, but waits for the verdict.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::output;
use crate::serve::client::Client;
use crate::serve::wire;

#[derive(Debug, Args)]
#[command(after_help = "\
All or nothing: if anything is wrong with the files, the rules before stay in force, the errors are printed here and the
exit code is 3. Running episodes of rules that have not changed go on.")]
pub(crate) struct Reload {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let done: wire::Reloaded = client.call("Reload", json!({}))?;
        if self.json {
            output::json(out, &done)?;
            return Ok(());
        }
        for note in &done.notes {
            writeln!(out, "note: {}", output::shown(note))?;
        }
        writeln!(out, "{} rules in force, from {}", done.rules, done.files.join(", "))?;
        Ok(())
    }
}
