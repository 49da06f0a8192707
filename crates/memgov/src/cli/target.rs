//! Whom `set`, `get` and `clear` are about, and the two simpler of the three.

use std::io::Write;

use clap::Args;
use memgov_decide::units::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Exit;
use super::output;
use crate::config::signals;
use crate::serve::client::Client;
use crate::serve::failure::exit;
use crate::serve::wire::{self, JobKey};

/// One process or one group.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// A process.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// A group: its path from the root of the memory hierarchy, as in /proc/PID/cgroup.
    #[arg(long, value_name = "PATH")]
    pub(crate) group: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  memgov get --pid 4711                  in words
  memgov get --pid 4711 --memctl         as /proc/PID/memctl would: word, climit, plimit
  memgov get --group /hosting.slice/a    the rule that is set on it, and what it is worth as a job")]
pub(crate) struct Get {
    #[command(flatten)]
    target: Target,
    /// Print the letter's text form: action word, climit and plimit in bytes.
    #[arg(long, conflicts_with_all = ["group", "json"])]
    memctl: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
pub(crate) struct ControlReply {
    pub(crate) control: wire::Control,
}

#[derive(Deserialize)]
struct RuleReply {
    #[serde(default)]
    rule: Option<wire::GroupRule>,
}

impl Get {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(path) = &self.target.group else {
            let reply: ControlReply = client.call("GetControl", json!({ "pid": self.target.pid }))?;
            match (self.memctl, self.json) {
                (true, _) => writeln!(out, "{}", reply.control.memctl)?,
                (_, true) => output::json(out, &reply.control)?,
                _ => writeln!(out, "{}", control_text(&reply.control))?,
            }
            return Ok(());
        };
        self.of_group(path, client, out)
    }

    fn of_group(&self, path: &str, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let RuleReply { rule } = client.call("GetGroupRule", json!({ "path": path }))?;
        let job: wire::JobWorth = client.call("GetJob", json!({ "path": path }))?;
        let worth = job_text(&output::shown(path), &job);
        if rule.is_none() && worth.is_none() {
            let text = format!(
                "no rule is set on {path}, and it is no job; rules of the configuration are in `memgov status`"
            );
            return Err(Exit::with(exit::NO_TARGET, text));
        }
        if self.json {
            let job = worth.map(|_| job);
            let all = match &rule {
                Some(rule) => OfGroup::Ruled { rule, job },
                None => OfGroup::Job { path, job },
            };
            return Ok(output::json(out, &all)?);
        }
        if let Some(rule) = rule {
            writeln!(out, "{}", rule_text(rule)?)?;
        }
        if let Some(worth) = worth {
            writeln!(out, "{worth}")?;
        }
        Ok(())
    }
}

/// The rule's own fields, and the job beside them.
#[derive(Serialize)]
#[serde(untagged)]
enum OfGroup<'a> {
    Ruled {
        #[serde(flatten)]
        rule: &'a wire::GroupRule,
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<wire::JobWorth>,
    },
    Job {
        path: &'a str,
        job: Option<wire::JobWorth>,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "What is in force is undone: memory is no longer refused, the process runs freely again.

  memgov clear --pid 4711
  memgov clear --group /hosting.slice/a                          its rule
  memgov clear --group /jobs/web --priority --reservation        what it was said to be worth: the configuration counts again"
)]
pub(crate) struct Clear {
    #[command(flatten)]
    target: Target,
    /// The priority that was set, and not the rule.
    #[arg(long, conflicts_with = "pid")]
    priority: bool,
    /// The reservation that was set, and not the rule.
    #[arg(long, conflicts_with = "pid")]
    reservation: bool,
    /// The reserve that was set, and not the rule.
    #[arg(long, conflicts_with = "pid")]
    oom_reserve: bool,
}

impl Clear {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let keys = [
            (self.priority, JobKey::Priority),
            (self.reservation, JobKey::Reservation),
            (self.oom_reserve, JobKey::OomReserve),
        ];
        let only: Vec<JobKey> = keys.into_iter().filter_map(|(is, key)| is.then_some(key)).collect();
        let _: Value = match &self.target.group {
            Some(path) if !only.is_empty() => {
                client.call("ClearJob", json!({ "path": path, "only": only }))?
            }
            Some(path) => client.call("ClearGroupRule", json!({ "path": path }))?,
            None => client.call("ClearControl", json!({ "pid": self.target.pid }))?,
        };
        writeln!(out, "cleared")?;
        Ok(())
    }
}

/// A rule set on a group, in a sentence.
pub(crate) fn rule_text(rule: wire::GroupRule) -> anyhow::Result<String> {
    let high = rule.high.as_ref().map(|high| format!(" Virtual high: {high}.")).unwrap_or_default();
    let meaning = crate::serve::requests::group_rule(rule)?;
    Ok(format!("{}{high}", output::shown(&crate::config::describe::rule(&meaning.rule))))
}

/// What a group, by its name as it is shown, is worth as a job, and what is kept under its limit, in a sentence; `None`: it is none, and nothing is.
pub(crate) fn job_text(path: &str, job: &wire::JobWorth) -> Option<String> {
    let set = |key| if job.set.contains(&key) { " (set)" } else { "" };
    let by = match job.by {
        Some(by) if by != 0 => format!(", by uid {by}: this counts in rules for groups of that user only"),
        _ => String::new(),
    };
    let reserve = || format!("oom-reserve {}{}", Bytes(job.oom_reserve_bytes), set(JobKey::OomReserve));
    let keeps = job.oom_reserve_bytes > 0 || job.set.contains(&JobKey::OomReserve);
    let Some((priority, reservation)) = job.priority.zip(job.reservation_bytes) else {
        return keeps.then(|| format!("{path} has {}{by}", reserve()));
    };
    let (said, reserved) = (set(JobKey::Priority), set(JobKey::Reservation));
    let reservation = Bytes(reservation);
    let kept = if keeps { format!(", {}", reserve()) } else { String::new() };
    Some(format!(
        "{path} is a job of priority {priority}{said}, reservation {reservation}{reserved}{kept}{by}"
    ))
}

/// A control in a sentence.
pub(crate) fn control_text(control: &wire::Control) -> String {
    let has = |flag: &str| control.flags.iter().any(|f| f == flag);
    let action = match control.action.as_str() {
        "deny" => "is refused more memory (ENOMEM)".to_owned(),
        "slow" => "is slowed down".into(),
        "signal" if control.signal == 0 => {
            "would be sent a signal, and it has been (set it again to re-arm)".into()
        }
        "signal" => {
            let times = if has("sigcont") { "every second" } else { "once" };
            format!("is sent {} {times}", signals::name(control.signal))
        }
        "kill" => "is killed".into(),
        _ => return format!("pid {}: no control", control.pid),
    };
    let kinds: Vec<String> = control
        .flags
        .iter()
        .filter_map(|f| f.strip_prefix("rss-"))
        .map(|kind| format!("rss.{kind}"))
        .collect();
    let rss = format!("its {} is over {}", kinds.join("+"), Bytes(control.plimit_bytes));
    let group = format!("its group is over memory.high + {}", Bytes(control.climit_bytes));
    let when = match (kinds.is_empty(), has("direct")) {
        (true, _) => group,
        (false, true) => rss,
        (false, false) => format!("{group} and {rss}"),
    };
    let log = if has("log") { ", and logged" } else { "" };
    format!("pid {} {action} while {when}{log}", control.pid)
}
