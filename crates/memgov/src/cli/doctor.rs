//! `memgov doctor`: what this kernel and these privileges allow, feature by feature, found by trying.

use std::io::Write;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::output;
use crate::kernel::capabilities::{Facts, OtherKiller, State, features, others};

#[derive(Debug, Args)]
#[command(after_help = "\
Run it as the user memgov runs as: what is allowed depends on privileges. `memgov check --host FILE` says what the
gaps mean for a configuration.")]
pub(crate) struct Doctor {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Do not load programs into the kernel to see whether they work there.
    #[arg(long)]
    no_load: bool,
}

/// The facts, those included that take loading programs into the kernel; nothing of it is left behind.
fn probe(load: bool) -> Facts {
    let mut facts = Facts::probe(Path::new("/"));
    if !load {
        return facts;
    }
    match crate::bpf::trial() {
        Ok(()) => facts.bpf.enforces = Some(true),
        Err(why) => (facts.bpf.enforces, facts.bpf.why_not) = (Some(false), Some(why)),
    }
    facts
}

impl Doctor {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let facts = probe(!self.no_load);
        let features = features(&facts);
        let killers = others(Path::new("/proc"));
        if self.json {
            let shown = json!({ "features": features, "facts": facts, "other-killers": killers });
            output::json(out, &shown)?;
            return Ok(());
        }
        let mut rows = Vec::new();
        for feature in &features {
            let state = match &feature.state {
                State::Available => "yes",
                State::Degraded(_) => "partly",
                State::Unavailable(_) => "no",
            };
            rows.push(vec![feature.name.to_owned(), state.to_owned(), feature.mechanism.to_owned()]);
        }
        output::table(out, &["FEATURE", "HERE", "BY"], &rows)?;
        for feature in &features {
            if let State::Degraded(why) | State::Unavailable(why) = &feature.state {
                writeln!(out, "\n{}: {why}\n  to get it: {}", feature.name, feature.how_to_get)?;
            }
        }
        for OtherKiller { name, pid, does, advice } in &killers {
            writeln!(
                out,
                "\n{name} runs (pid {pid}) and {does}: two kill twice for one shortage\n  to do: {advice}"
            )?;
        }
        Ok(())
    }
}
