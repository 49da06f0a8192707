//! `memgov events`: what was decided, done and undone, as far as it is kept, or as it comes.

use std::io::{self, Write};

use clap::Args;

use super::output;
use crate::serve::client::Client;
use crate::serve::wire;

#[derive(Debug, Args)]
#[command(after_help = "\
An event whose outcome becomes known later (a kill) comes again with the same id. With --json, one object a line;
a reader that is too slow is told {\"missed\":N}.

  memgov events                          all that are kept
  memgov events --follow --since 120     what came after #120, and what comes
  memgov events --json | jq -r 'select(.order==\"kill\") | .target.path'")]
pub(crate) struct Events {
    /// Go on as they come.
    #[arg(long, short)]
    follow: bool,
    /// Only after this decision.
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut each = |page: wire::Events| -> io::Result<()> {
            if page.missed > 0 && self.json {
                output::json_line(out, &serde_json::json!({ "missed": page.missed }))?;
            } else if page.missed > 0 {
                writeln!(out, "({} events are no longer kept)", page.missed)?;
            }
            for event in &page.events {
                if self.json {
                    output::json_line(out, event)?;
                } else {
                    writeln!(out, "{}", output::event(event))?;
                }
            }
            out.flush()
        };
        if self.follow {
            client.follow(self.since, |page| each(page).map(|()| true))?;
        } else {
            client.events(self.since, each)?;
        }
        Ok(())
    }
}
