//! `memgov restore`: puts back what a memgov that died has left in force. systemd runs it after the daemon
//! (ExecStopPost), the next start does the same; here it is for hand and script.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, output};
use crate::act::ledger::{Ledger, Undone, Verdict, put_back};
use crate::act::strays;
use crate::config::settings::STATE_DIR;
use crate::kernel::{Errno, Layout};
use crate::serve::failure::exit;

#[derive(Debug, Args)]
#[command(after_help = "\
Only what is still as memgov set it is put back; what somebody else has changed since is left alone. Does nothing while a
memgov runs. Groups in which a memgov that is gone still holds processes are found also where the ledger is lost. Ends
with 1 if something could not be put back.")]
pub(crate) struct Restore {
    /// Holds the ledger.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Say what would be put back, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<u8> {
        let path = self.state_dir.join("ledger");
        let layout = Layout::detect(Path::new("/"));
        let strays = || layout.as_ref().map(strays::find).unwrap_or_default();
        if self.dry_run {
            let mut rows = Vec::new();
            let written = if path.exists() { Ledger::peek(&path)? } else { Vec::new() };
            let of_strays = strays().entries.into_iter().filter(|s| !written.iter().any(|l| l.entry == *s));
            rows.extend(written.iter().map(|l| (l.to_string(), "left in force".into())));
            rows.extend(of_strays.map(|stray| (stray.to_string(), "left in force".into())));
            return self.print(out, &rows, 0);
        }
        let mut undone = if path.exists() { undo_ledger(&path)? } else { Vec::new() };
        // After the ledger, which knows more of what it tells of.
        let strays = strays();
        if strays.cut_short {
            crate::terminal::complain("memgov: too many groups to look through them all");
        }
        undone.extend(put_back(strays.entries));
        let failed = undone.iter().filter(|u| matches!(u.verdict, Verdict::Failed(..))).count();
        let rows: Vec<_> = undone.iter().map(|u| (u.leftover.to_string(), u.verdict.to_string())).collect();
        self.print(out, &rows, failed)
    }

    fn print(&self, out: &mut dyn Write, rows: &[(String, String)], failed: usize) -> anyhow::Result<u8> {
        if self.json {
            let row = |(what, verdict): &(String, String)| json!({ "what": what, "verdict": verdict });
            let rows: Vec<Value> = rows.iter().map(row).collect();
            output::json(out, &json!({ "dry_run": self.dry_run, "failed": failed, "leftovers": rows }))?;
        } else if rows.is_empty() {
            writeln!(out, "nothing to restore")?;
        } else {
            for (what, verdict) in rows {
                writeln!(out, "{}: {}", output::shown(what), output::shown(verdict))?;
            }
        }
        Ok(if failed == 0 { 0 } else { exit::FAILED })
    }
}

/// Undoes what the ledger tells of.
fn undo_ledger(path: &Path) -> anyhow::Result<Vec<Undone>> {
    let (mut ledger, leftovers) = Ledger::open(path).map_err(|error| match error.errno() {
        Some(Errno::WOULDBLOCK) => Exit::with(
            exit::BUSY,
            format!("{}: a memgov runs and has the ledger; stop it first", path.display()),
        ),
        _ => error.into(),
    })?;
    if let Some(aside) = ledger.set_aside() {
        crate::terminal::complain(&format!("memgov: {aside}"));
    }
    Ok(ledger.undo(leftovers))
}
