//! `memgov explain`: one decision, from what was seen to what came of it.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use memgov_decide::units::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::output::{self, shown};
use crate::record::text;
use crate::serve::client::Client;
use crate::serve::wire;

#[derive(Debug, Args)]
#[command(after_help = "IDs stand behind the # in `memgov events` and `memgov status`.")]
pub(crate) struct Explain {
    /// Which decision.
    id: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Reply {
    explanation: wire::Explanation,
}

impl Explain {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let Reply { explanation } = client.call("Explain", json!({ "id": self.id }))?;
        if self.json {
            output::json(out, &explanation)?;
        } else {
            print(&explanation, out)?;
        }
        Ok(())
    }
}

/// What the kernel memory is, and who holds it.
fn kernel(found: &wire::KernelFinding, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "kernel   {}", text::finding(found))?;
    for one in found.holders.iter().skip(1) {
        writeln!(out, "         and {}", text::holder(one))?;
    }
    let left_out = found.left_out.map(|n| format!(", {n} more were not")).unwrap_or_default();
    writeln!(
        out,
        "         looked into at {}; {} processes were looked at{left_out}",
        found.time, found.processes
    )
}

/// The ranking of jobs, with what it is by.
fn print_jobs(event: &wire::Event, out: &mut dyn Write) -> std::io::Result<()> {
    if event.jobs.is_empty() {
        return Ok(());
    }
    let of = event.jobs_considered.unwrap_or_default();
    writeln!(
        out,
        "jobs     first to give way first, of {of}: over its reservation, then what it asks, then priority, then by how much"
    )?;
    let row = |(i, job): (usize, &wire::Job)| {
        vec![
            format!("         {}.", i + 1),
            job.priority.to_string(),
            Bytes(job.usage_bytes).to_string(),
            Bytes(job.reservation_bytes).to_string(),
            job.over_bytes.map_or_else(|| "-".to_owned(), |over| Bytes(over).to_string()),
            job.asks.clone().unwrap_or_else(|| "-".to_owned()),
            shown(&job.path),
        ]
    };
    let rows: Vec<_> = event.jobs.iter().enumerate().map(row).collect();
    output::table(out, &["", "PRIORITY", "USAGE", "RESERVATION", "OVER", "ASKS", "JOB"], &rows)
}

/// Numbers under their names, so many in a line.
fn figures(out: &mut dyn Write, title: &str, of: &[String]) -> std::io::Result<()> {
    for (at, line) in of.chunks(6).enumerate() {
        writeln!(out, "         {:8} {}", if at == 0 { title } else { "" }, line.join(", "))?;
    }
    Ok(())
}

fn sizes(of: &BTreeMap<String, u64>) -> Vec<String> {
    let some = of.iter().filter(|(_, bytes)| **bytes > 0);
    some.map(|(name, bytes)| format!("{} {}", shown(name), Bytes(*bytes))).collect()
}

fn counts(of: &BTreeMap<String, u64>) -> Vec<String> {
    of.iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {count}", shown(name)))
        .collect()
}

fn pressure(of: Option<&wire::PressureSeen>) -> Vec<String> {
    let Some(it) = of else { return Vec::new() };
    let percent = |hundredths: u32| format!("{}.{:02}%", hundredths / 100, hundredths % 100);
    let said = |who: &str, short: u32, long: u32| {
        format!("{who} waited {} of the last 10 s, {} of 60 s", percent(short), percent(long))
    };
    vec![
        said("some", it.some_avg10_per_10000, it.some_avg60_per_10000),
        said("all", it.full_avg10_per_10000, it.full_avg60_per_10000),
    ]
}

/// What was seen in the moment before the kill.
fn situation(seen: &wire::Situation, out: &mut dyn Write) -> std::io::Result<()> {
    for group in &seen.groups {
        writeln!(out, "before   of {}", shown(&group.path))?;
        figures(out, "usage", &sizes(&group.memory_bytes))?;
        figures(out, "limits", &sizes(&group.limits_bytes))?;
        figures(out, "events", &counts(&group.events))?;
        figures(out, "pressure", &pressure(group.pressure.as_ref()))?;
    }
    writeln!(out, "before   of the host")?;
    figures(out, "memory", &sizes(&seen.host.memory_bytes))?;
    figures(out, "counters", &counts(&seen.host.counters))?;
    figures(out, "pressure", &pressure(seen.host.pressure.as_ref()))?;
    if seen.processes.is_empty() {
        return Ok(());
    }
    let more = match seen.processes_left_out {
        0 => String::new(),
        more => format!(", {more} more were not"),
    };
    writeln!(out, "before   the largest processes; {} were looked at{more}", seen.processes_looked_at)?;
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string());
    let row = |one: &wire::ProcessSeen| {
        let [anon, file, shmem] = [one.anon_bytes, one.file_bytes, one.shmem_bytes].map(size);
        vec!["        ".to_owned(), one.pid.to_string(), anon, file, shmem, shown(&one.comm)]
    };
    let rows: Vec<_> = seen.processes.iter().map(row).collect();
    output::table(out, &["", "PID", "ANON", "FILE", "SHMEM", "NAME"], &rows)
}

fn print(explanation: &wire::Explanation, out: &mut dyn Write) -> std::io::Result<()> {
    let wire::Explanation { event, meaning, before, after } = explanation;
    writeln!(out, "decision #{} of episode {}, {}", event.id, event.episode, event.time)?;
    writeln!(out, "who      {}", output::target(&event.target))?;
    writeln!(out, "rule     {}, step {}", output::source(&event.source), event.step + 1)?;
    if let Some(meaning) = meaning {
        writeln!(out, "         {}", shown(meaning))?;
    }
    writeln!(out, "seen     {}", output::reason(&event.reason))?;
    let numbers = [
        ("usage", event.reason.usage_bytes, event.reason.usage_line_bytes),
        ("rss", event.reason.rss_bytes, event.reason.rss_line_bytes),
    ];
    if let (Some(left), Some(line)) = (event.reason.available_bytes, event.reason.available_line_bytes) {
        writeln!(out, "         available {left} bytes, line {line} bytes")?;
    }
    for (name, value, line) in numbers {
        if let (Some(value), Some(line)) = (value, line) {
            let excess = match value.saturating_sub(line) {
                0 => String::new(),
                excess => format!(", over by {}", Bytes(excess)),
            };
            writeln!(out, "         {name} {value} bytes, line {line} bytes{excess}")?;
        }
    }
    if let Some(found) = &event.kernel {
        kernel(found, out)?;
    }
    if let Some(who) = &event.allocating {
        let held = Bytes(who.rss_bytes);
        writeln!(out, "alloc    pid {} ({}), which held {held}", who.pid, shown(&who.comm))?;
    }
    if let Some(calls) = event.denials {
        writeln!(out, "refused  {calls} calls since its line was set")?;
    }
    if let Some(count) = event.left_out {
        writeln!(
            out,
            "left out {count} of the same kind before it: they came too fast to be recorded one by one"
        )?;
    }
    if let Some(takes) = &event.takes {
        writeln!(out, "takes    {}", shown(takes))?;
    }
    if !event.ranking.is_empty() {
        let others = match event.takes {
            Some(_) => "the largest of them first",
            None => "best victim first; the next is tried if one cannot be killed",
        };
        writeln!(out, "ranking  {others}")?;
        let row = |(i, c): (usize, &wire::Candidate)| {
            vec![
                format!("         {}.", i + 1),
                c.pid.to_string(),
                Bytes(c.rss_bytes).to_string(),
                shown(&c.comm),
            ]
        };
        let rows: Vec<_> = event.ranking.iter().enumerate().map(row).collect();
        output::table(out, &["", "PID", "RSS", "NAME"], &rows)?;
    }
    print_jobs(event, out)?;
    if let Some(seen) = &event.situation {
        situation(seen, out)?;
    }
    let order = output::ordered(event);
    writeln!(out, "action   {order}")?;
    writeln!(out, "outcome  {}", output::outcome(&event.outcome))?;
    if let Some(output) = &event.output {
        for line in output.text.lines() {
            writeln!(out, "wrote    {}", shown(line))?;
        }
        if output.left_out_bytes > 0 {
            writeln!(out, "         and {} bytes more", output.left_out_bytes)?;
        }
    }
    if let Some(log) = &event.log {
        writeln!(out, "logged   {}", shown(log))?;
    }
    for (title, events) in [("before it in this episode:", before), ("after it:", after)] {
        if !events.is_empty() {
            writeln!(out, "{title}")?;
        }
        for event in events {
            writeln!(out, "  {}", output::event(event))?;
        }
    }
    Ok(())
}
