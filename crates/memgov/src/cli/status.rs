//! `memgov status`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use memgov_decide::units::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::output::{self, shown};
use super::target::{control_text, job_text};
use super::{Exit, answer, connect, kernel, sockets};
use crate::bpf;
use crate::config::words;
use crate::serve::failure::exit;
use crate::serve::wire;

#[derive(Debug, Args)]
#[command(after_help = "\
Root sees everything, others what concerns their own processes and groups.

  memgov status --kernel                          kernel memory of all groups, most first; each includes all below it
  memgov status --kernel /jobs/a                  by kind: what it is, how it comes back, who holds it
  memgov status --kernel /jobs/a --interval 1s    the same read twice: what grows, and whose
  memgov status --sockets /jobs/a                 who holds how much in the buffers of which socket

--kernel reads the kernel's files and needs no daemon; where one runs and a rule has a line for a group's kernel memory, it adds the peak (v2),
how often the line was hit and how fast it grows. Likewise --sockets, with how often the kernel refused sockets a charge. Amounts that the kernel does not give are `?` (absent in JSON), never 0:
cgroup v1 does not divide kernel memory by kind, and a kernel started with cgroup.memory=nokmem does not account it.")]
pub(crate) struct Status {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also what each program inside the kernel costs: has the kernel count for so many seconds (needs CAP_SYS_ADMIN)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    costs: Option<u64>,
    /// Kernel memory of all groups, or of this one by kind (from the root of the memory hierarchy: /a/b)
    #[arg(long, value_name = "GROUP", num_args = 0..=1, conflicts_with = "costs")]
    kernel: Option<Option<OsString>>,
    /// What lies in the buffers of this group's sockets, socket by socket: TCP, UDP, unix, of all below it and in all its network namespaces
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["costs", "kernel"])]
    sockets: Option<OsString>,
    /// With --kernel: read twice, so far apart, and show what grew
    #[arg(long, value_name = "TIME", requires = "kernel", value_parser = words::span)]
    interval: Option<Duration>,
    /// With --kernel GROUP: set its peak back to what there is, and the count of hits to 0 (of the daemon, where a rule has a line for it; v1 also memory.kmem.max_usage_in_bytes)
    #[arg(long, requires = "kernel")]
    reset_peak: bool,
}

#[derive(Deserialize)]
struct Reply {
    status: wire::Status,
}

impl Status {
    pub(crate) fn run(&self, socket: Option<PathBuf>, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Some(group) = &self.kernel {
            if self.reset_peak && group.is_none() {
                return Err(Exit::with(
                    exit::USAGE,
                    "--reset-peak needs a group: memgov status --kernel GROUP --reset-peak",
                ));
            }
            let (interval, reset_peak, json) = (self.interval, self.reset_peak, self.json);
            return kernel::Question { group: group.as_deref(), interval, reset_peak, json }
                .answer(socket, out);
        }
        if let Some(group) = &self.sockets {
            return sockets::answer(group, self.json, socket, out);
        }
        let client = &mut connect(socket)?;
        let Reply { mut status } = client.call("Status", json!({}))?;
        if let Some(seconds) = self.costs {
            // The kernel counts while this is held: nothing is left behind, however this ends.
            let _counting = bpf::RunStats::enable()?;
            let Reply { status: before } = client.call("Status", json!({}))?;
            std::thread::sleep(Duration::from_secs(seconds));
            Reply { status } = client.call("Status", json!({}))?;
            since(&mut status.tier.hooks, &before.tier.hooks);
        }
        if self.json {
            output::json(out, &status)?;
        } else {
            print(&status, self.costs, out)?;
        }
        Ok(())
    }
}

/// Leaves of the run times what came after `before`.
fn since(hooks: &mut [wire::HookStatus], before: &[wire::HookStatus]) {
    for hook in hooks {
        if let Some(then) = before.iter().find(|then| then.name == hook.name) {
            hook.run_ns = hook.run_ns.zip(then.run_ns).map(|(now, then)| now.saturating_sub(then));
            hook.runs = hook.runs.zip(then.runs).map(|(now, then)| now.saturating_sub(then));
        }
    }
}

fn print(status: &wire::Status, costs: Option<u64>, out: &mut dyn Write) -> std::io::Result<()> {
    let uptime = Duration::from_secs(Duration::from_nanos(status.uptime_ns).as_secs());
    let dry = if status.dry_run { ", dry run: touches nothing" } else { "" };
    writeln!(
        out,
        "memgov {} (pid {}) has governed for {}; memory on cgroup {}{dry}",
        status.version,
        status.pid,
        humantime::format_duration(uptime),
        status.memory
    )?;
    let mechanisms: Vec<String> =
        status.mechanisms.iter().map(|m| format!("{} by {}", m.action, m.by)).collect();
    if !mechanisms.is_empty() {
        writeln!(out, "actions: {}", mechanisms.join(", "))?;
    }
    tier(&status.tier, costs, out)?;
    for file in &status.files {
        writeln!(out, "configuration: {}", shown(file))?;
    }
    if let Some(error) = &status.reload_error {
        writeln!(out, "the last reload was refused, the rules before it are in force:\n{error}")?;
    }
    let watched = &status.watched;
    writeln!(
        out,
        "watching {} groups, {} processes; {} controls",
        watched.groups, watched.processes, watched.controls
    )?;
    match (status.guardian, status.guardians_lost) {
        (Some(pid), 0) => writeln!(out, "guardian: pid {pid}")?,
        (Some(pid), lost) => writeln!(out, "guardian: pid {pid}; {lost} before it died")?,
        (None, lost) => writeln!(
            out,
            "guardian: none ({lost} died); after a crash only the next start or `memgov restore` undoes what is in force"
        )?,
    }
    for rule in &status.rules {
        writeln!(out, "rule {}: {}", shown(&rule.name), shown(&rule.meaning))?;
    }
    goings_on(status, out)?;
    losses(&status.lost, out)
}

fn tier(tier: &wire::TierStatus, costs: Option<u64>, out: &mut dyn Write) -> std::io::Result<()> {
    if let Some(why) = &tier.why {
        return writeln!(out, "enforcement inside the kernel: none, {}", shown(why));
    }
    if tier.name != "bpf" {
        return Ok(());
    }
    if tier.hooks.is_empty() {
        return writeln!(out, "enforcement inside the kernel: bpf, nothing attached while no rule needs it");
    }
    writeln!(out, "enforcement inside the kernel: bpf")?;
    let row = |hook: &wire::HookStatus| {
        let mut row = vec![
            hook.name.clone(),
            hook.how.clone(),
            if hook.proven { "yes" } else { "no" }.into(),
            hook.calls.to_string(),
            hook.acted.to_string(),
        ];
        if let Some(seconds) = costs {
            let (ns, runs) = (hook.run_ns.unwrap_or(0), hook.runs.unwrap_or(0));
            let each = ns.checked_div(runs).map_or_else(|| "-".to_owned(), |each| each.to_string());
            row.extend([(runs / seconds.max(1)).to_string(), each]);
        }
        row
    };
    let rows: Vec<_> = tier.hooks.iter().map(row).collect();
    let columns = ["HOOK", "BY", "PROVEN", "CALLS", "ACTED", "RUNS/S", "NS EACH"];
    output::table(out, if costs.is_some() { &columns } else { &columns[..5] }, &rows)?;
    for (count, what) in [
        (tier.lost_events, "events of programs found no room"),
        (tier.lost_children, "children did not get their parent's limit"),
        (
            tier.missed_runs,
            "runs of programs were left out: the kernel is preemptible and another stood still in one",
        ),
    ] {
        if count > 0 {
            writeln!(out, "lost: {count} {what}")?;
        }
    }
    Ok(())
}

/// The step of the ladder an episode is at.
fn step(episode: &wire::EpisodeStatus) -> String {
    let order = episode.order.map(|order| output::order(order, None, None)).unwrap_or_default();
    match episode.step {
        Some(step) => format!("{} {order}", step + 1),
        // Over, and the first step's time has not come.
        None => "waits".into(),
    }
}

/// What a limit could be.
fn working_set(found: &wire::WorkingSetStatus) -> String {
    let looking = if found.settled { "" } else { ", still being looked for" };
    let (working_set, enough) = (Bytes(found.working_set_bytes), Bytes(found.enough_bytes));
    let limit = match found.limit_bytes {
        None => "no limit".to_owned(),
        Some(limit) => format!("limit {}", Bytes(limit)),
    };
    format!(
        "working set about {working_set}{looking}; {limit}, could be {enough} (an eighth over the most that was)"
    )
}

/// What a program of a hook or a handler does, or came to.
fn program(it: &wire::ProgramStatus) -> String {
    let now = match (&it.run, it.left_ns) {
        (Some(run), _) => run.sentence(),
        (None, 0) if it.handler => "could not be told, or nothing is known of what it did".to_owned(),
        (None, 0) => "could not be started, or nothing is known of its end".to_owned(),
        (None, left) => {
            let left = std::time::Duration::from_millis(left / 1_000_000);
            let does = if it.handler { "is waited for" } else { "runs" };
            format!("{does} since {}, for {} at most still", it.since, humantime::format_duration(left))
        }
    };
    format!("{} of #{} {now}", if it.handler { "handler" } else { "program" }, it.number)
}

fn goings_on(status: &wire::Status, out: &mut dyn Write) -> std::io::Result<()> {
    if !status.questions.is_empty() {
        writeln!(out)?;
        answer::table(&status.questions, out)?;
    }
    if !status.episodes.is_empty() {
        writeln!(out)?;
        let row = |e: &wire::EpisodeStatus| {
            vec![
                output::source(&e.source),
                output::target(&e.target),
                e.since.clone(),
                step(e),
                e.reason.as_ref().map(output::reason).unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = status.episodes.iter().map(row).collect();
        output::table(out, &["BY", "WHO", "OVER SINCE", "STEP", "WHY"], &rows)?;
    }
    for episode in &status.episodes {
        if let Some(found) = &episode.working_set {
            writeln!(out, "{}: {}", output::target(&episode.target), working_set(found))?;
        }
        if let Some(it) = &episode.program {
            writeln!(out, "{}: {}", output::target(&episode.target), program(it))?;
        }
    }
    if !status.holds.is_empty() {
        writeln!(out)?;
        let row = |h: &wire::HoldStatus| {
            let share = h.share_permille.map(|s| format!("{}.{}%", s / 10, s % 10)).unwrap_or_default();
            let tasks = h.tasks.map(|most| format!("{most} tasks at most")).unwrap_or_default();
            let lent = h.lent_bytes.map(|more| format!("with {} more", Bytes(more))).unwrap_or_default();
            let sockets = h.sockets.map(|count| format!("{count} sockets")).unwrap_or_default();
            let tcp = h.tcp_limit_bytes.map(|most| format!("TCP up to {}", Bytes(most))).unwrap_or_default();
            vec![
                output::target(&h.target),
                h.action.clone(),
                h.by.clone(),
                share + &tasks + &lent + &tcp + &sockets,
            ]
        };
        let rows: Vec<_> = status.holds.iter().map(row).collect();
        output::table(out, &["HELD", "ACTION", "BY", "RUNS"], &rows)?;
    }
    let counts = &status.counts;
    if counts.sockets_squeezed + counts.sockets_refused > 0 {
        writeln!(
            out,
            "sockets: {} squeezed, {} of them let go or closed, {} not to be had",
            counts.sockets_squeezed, counts.sockets_released, counts.sockets_refused
        )?;
    }
    if !status.denials.is_empty() {
        writeln!(out)?;
        let row = |d: &wire::DenialStatus| vec![output::target(&d.target), d.calls.to_string()];
        let rows: Vec<_> = status.denials.iter().map(row).collect();
        output::table(out, &["REFUSED", "CALLS"], &rows)?;
    }
    if !status.kernel.is_empty() {
        writeln!(out)?;
        let amount = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |it| Bytes(it).to_string());
        let row = |k: &wire::KernelMark| {
            vec![
                output::target(&k.target),
                amount(k.kernel_bytes),
                amount(Some(k.line_bytes)) + if k.only_tracks { " (tracked)" } else { "" },
                amount(k.peak_bytes),
                k.hits.to_string(),
                amount(k.growth_bytes_per_second),
                k.since.clone().unwrap_or_else(|| "?".into()),
            ]
        };
        let rows: Vec<_> = status.kernel.iter().map(row).collect();
        output::table(out, &["KERNEL MEMORY OF", "NOW", "LINE", "PEAK", "HITS", "GROWS/S", "SINCE"], &rows)?;
    }
    for job in &status.jobs {
        let path = output::target(&job.target);
        writeln!(out, "{}", job_text(&path, &job.worth).unwrap_or_default())?;
    }
    for control in &status.controls {
        writeln!(out, "{}", control_text(control))?;
    }
    if status.truncated > 0 {
        writeln!(out, "and {} more", status.truncated)?;
    }
    Ok(())
}

/// Silence means that nothing was lost.
fn losses(lost: &wire::Losses, out: &mut dyn Write) -> std::io::Result<()> {
    let named = [
        (lost.groups, "groups found no room (max-groups)"),
        (lost.processes, "processes found no room (max-processes)"),
        (lost.events, "event queues overflowed and were followed by a full look"),
        (lost.decisions, "decisions were put off for want of room"),
        (lost.records, "records were dropped"),
        (lost.happenings, "records of OOM kills and refusals were left out: they came too fast"),
        (
            lost.standing,
            "groups under a line for kernel memory may fork freely until they meet it: 512 have a pids.max that stands before",
        ),
        (lost.sockets, "sockets should be squeezed now and are not: 4096 are"),
        (lost.clients, "clients were dropped or turned away"),
    ];
    for (count, what) in named.iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "lost: {count} {what}")?;
    }
    Ok(())
}
