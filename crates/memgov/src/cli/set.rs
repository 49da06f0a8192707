//! `memgov set`: a process's memory control, by the letter's word or by name; or a rule for one running group.

use std::io::Write;

use clap::Args;
use memgov_decide::control::MemControl;
use memgov_decide::units::Bytes;
use serde_json::{Value, json};

use super::output;
use super::target::{ControlReply, Target, control_text, job_text, rule_text};
use super::{Exit, exit};
use crate::config::{signals, words};
use crate::kernel::sys;
use crate::serve::client::Client;
use crate::serve::wire::{self, CONTROL_ACTIONS, CONTROL_FLAGS};

#[derive(Debug, Args)]
#[command(after_help = "\
For a process, the over-high control: what happens to it while its group is over memory.high + climit and, with --rss, its
own memory is over plimit. It is inherited by children and kept over exec. You may set your own processes'.

  memgov set --pid 4711 --action deny --climit 8MiB
  memgov set --pid 4711 --action signal --signal SIGUSR1 --rss anon,shmem --plimit 32MiB --direct
  memgov set --pid 4711 --memctl '0x01010a03 8388608 33554432'

For a group, one rule, in the words of the configuration (docs/rules.md). Steps are written ACTION[:DETAIL][@AFTER].
It is gone with the group, or with the daemon. You may set groups delegated to you.

  memgov set --group /hosting.slice/a --over high+8MiB --do deny,kill@10s
  memgov set --group /hosting.slice/a --over 512MiB --do signal:SIGUSR1,slow:60s@2s,kill:largest@20s
  memgov set --group /hosting.slice/a --meter rss.anon --over 64MiB --do deny
  memgov set --group /hosting.slice/a --meter kernel --over 16MiB --do deny,freeze@2s,kill:largest@5s

Or what it is worth as a job, over what the configuration says (docs/rules.md, \"Jobs\"); `memgov clear` takes it back.
You may set it for groups below one that is yours, and it counts among yours.

  memgov set --group /jobs/web --priority 300 --reservation 2GiB")]
pub(crate) struct Set {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    rule: RuleArgs,
    #[command(flatten)]
    job: JobArgs,
    /// Print what is set as JSON.
    #[arg(long)]
    json: bool,
}

/// `--pid`: by word or by name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Control of the process")]
struct ControlArgs {
    /// The letter's text form: action word, climit and plimit in bytes.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["group", "action", "signal", "climit", "plimit", "rss", "sigcont", "direct", "log"])]
    memctl: Option<String>,
    /// What happens.
    #[arg(long, conflicts_with = "group", value_parser = CONTROL_ACTIONS)]
    action: Option<String>,
    /// Which signal: a name or a number.
    #[arg(long, conflicts_with = "group")]
    signal: Option<String>,
    /// How far the group may be over memory.high [default: 0].
    #[arg(long, value_name = "SIZE", conflicts_with = "group", value_parser = size)]
    climit: Option<Bytes>,
    /// How much the kinds of --rss may be together.
    #[arg(long, value_name = "SIZE", conflicts_with = "group", value_parser = size)]
    plimit: Option<Bytes>,
    /// Count the process's own memory too: anon, file, shmem.
    #[arg(long, value_name = "KINDS", conflicts_with = "group", value_delimiter = ',', value_parser = ["anon", "file", "shmem"])]
    rss: Vec<String>,
    /// Send the signal again and again, not once.
    #[arg(long, conflicts_with = "group")]
    sigcont: bool,
    /// Only --rss counts, the group does not.
    #[arg(long, conflicts_with = "group")]
    direct: bool,
    /// Write a log line, once an episode.
    #[arg(long, conflicts_with = "group")]
    log: bool,
}

/// `--group`: a rule; `exec` takes them too.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rule for the group")]
pub(crate) struct RuleArgs {
    /// The line: 64MiB, high, high+8MiB.
    #[arg(long, value_name = "LINE")]
    pub(crate) over: Option<String>,
    /// What happens, step by step: record, reclaim, deny, slow, freeze, signal:NAME, lend:AMOUNT, squeeze, handler:TIME, kill, ask:TIME.
    #[arg(long = "do", value_name = "STEPS", value_delimiter = ',')]
    pub(crate) steps: Vec<String>,
    /// usage or kernel (its kernel memory) of the group, or rss.anon, rss.file, rss.shmem (or a sum) of each process in it [default: usage].
    #[arg(long)]
    pub(crate) meter: Option<String>,
    /// With an rss meter: the group must be over this too.
    #[arg(long, value_name = "LINE")]
    pub(crate) group_over: Option<String>,
    /// Relieved at or under this [default: 1/64 under the line, at most 8MiB].
    #[arg(long, value_name = "SIZE")]
    pub(crate) until: Option<String>,
    /// Write no log line.
    #[arg(long)]
    pub(crate) no_log: bool,
}

/// `--group`: what it is worth.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the group is worth as a job")]
struct JobArgs {
    /// Lower is given up first; any whole number of 32 bits.
    #[arg(long, value_name = "NUMBER", conflicts_with = "pid", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// What it may use before it gives way like others.
    #[arg(long, value_name = "SIZE", conflicts_with = "pid", value_parser = size)]
    reservation: Option<Bytes>,
    /// The last part under its hard limit that is not available, of a job or not.
    #[arg(long, value_name = "SIZE", conflicts_with = "pid", value_parser = size)]
    oom_reserve: Option<Bytes>,
}

/// Nothing is nothing in every unit, and the default of --climit.
fn size(text: &str) -> Result<Bytes, String> {
    if text.trim() == "0" { Ok(Bytes(0)) } else { words::size(text) }
}

impl Set {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(path) = &self.target.group else {
            if self.rule.is_given() {
                return Err(usage(
                    "--over, --do and what goes with them are for --group; a process takes --action",
                ));
            }
            let control = self.control.meaning()?;
            let asked = json!({
                "pid": self.target.pid,
                "word": control.word(),
                "climit_bytes": control.climit.0,
                "plimit_bytes": control.plimit.0,
            });
            let reply: ControlReply = client.call("SetControl", asked)?;
            if self.json {
                output::json(out, &reply.control)?;
            } else {
                writeln!(out, "{}", control_text(&reply.control))?;
            }
            return Ok(());
        };
        if self.job.is_given() {
            return self.set_job(path, client, out);
        }
        let rule = self.rule.meaning(path, None)?;
        let _: Value = client.call("SetGroupRule", json!({ "rule": rule }))?;
        if self.json {
            output::json(out, &rule)?;
        } else {
            writeln!(out, "{}", rule_text(rule)?)?;
        }
        Ok(())
    }
}

impl Set {
    fn set_job(&self, path: &str, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        if self.rule.is_given() {
            return Err(usage(
                "a rule (--over, --do and what goes with them) and what a group is worth (--priority, --reservation, --oom-reserve) are set one after the other",
            ));
        }
        let JobArgs { priority, reservation, oom_reserve } = self.job;
        let bytes = |size: Option<Bytes>| size.map(|size| size.0);
        let asked = json!({
            "path": path,
            "priority": priority,
            "reservation_bytes": bytes(reservation),
            "oom_reserve_bytes": bytes(oom_reserve),
        });
        let job: wire::JobWorth = client.call("SetJob", asked)?;
        if self.json {
            output::json(out, &job)?;
        } else {
            writeln!(out, "{}", job_text(&output::shown(path), &job).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl JobArgs {
    const fn is_given(&self) -> bool {
        self.priority.is_some() || self.reservation.is_some() || self.oom_reserve.is_some()
    }
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    Exit::with(exit::USAGE, text)
}

impl ControlArgs {
    /// The control these options ask for; refused here already if the letter refuses it.
    fn meaning(&self) -> anyhow::Result<MemControl> {
        let page = Bytes(sys::page_size());
        if let Some(text) = &self.memctl {
            // The text is that of the letter's file; what it may say is what its prctl took, for a control that never acts is a slip of the hand here.
            let said = MemControl::from_text(text, page);
            let control = said.and_then(|c| MemControl::from_word(c.word().into(), c.climit, c.plimit, page));
            return control.map_err(|e| usage(format!("--memctl: {e}")));
        }
        let action = self.action.as_ref().ok_or_else(|| {
            usage("say what happens: --action deny|slow|signal|kill|none, or the letter's own text with --memctl")
        })?;
        let action = CONTROL_ACTIONS.iter().position(|name| name == action).unwrap_or(0) as u64;
        if self.signal.is_some() && self.action.as_deref() != Some("signal") {
            return Err(usage("--signal goes with --action signal; other actions send none"));
        }
        let signal = match &self.signal {
            Some(word) => signals::parse(word).map_err(usage)?,
            None if self.action.as_deref() == Some("signal") => {
                return Err(usage("--action signal needs --signal, for example --signal SIGUSR1"));
            }
            None => 0,
        };
        if self.plimit.is_some() && self.rss.is_empty() {
            return Err(usage("--plimit is the limit for --rss: say which kinds, for example --rss anon"));
        }
        let mut bits = 0u16;
        for (name, flag) in CONTROL_FLAGS {
            let on = match name {
                "sigcont" => self.sigcont,
                "direct" => self.direct,
                "log" => self.log,
                kind => self.rss.iter().any(|k| Some(k.as_str()) == kind.strip_prefix("rss-")),
            };
            bits |= if on { flag.bits() } else { 0 };
        }
        let word = action | u64::from(signal) << 8 | u64::from(bits) << 16;
        let (climit, plimit) = (self.climit.unwrap_or_default(), self.plimit.unwrap_or_default());
        MemControl::from_word(word, climit, plimit, page).map_err(|e| usage(e.to_string()))
    }
}

impl RuleArgs {
    fn is_given(&self) -> bool {
        let words = [&self.over, &self.meter, &self.group_over, &self.until];
        words.iter().any(|word| word.is_some()) || !self.steps.is_empty() || self.no_log
    }

    /// The rule these options ask for.
    pub(crate) fn meaning(&self, path: &str, high: Option<String>) -> anyhow::Result<wire::GroupRule> {
        let over =
            self.over.clone().ok_or_else(|| usage("say from where on: --over 64MiB or --over high+8MiB"))?;
        if self.steps.is_empty() {
            return Err(usage("say what happens: --do deny, or --do slow,kill@30s"));
        }
        let steps = self.steps.iter().map(|word| step(word)).collect::<anyhow::Result<_>>()?;
        let rule = wire::GroupRule {
            path: path.to_owned(),
            meter: self.meter.clone(),
            over,
            group_over: self.group_over.clone(),
            until: self.until.clone(),
            steps,
            log: self.no_log.then_some(false),
            high,
        };
        // Refused here already, with the same words, if the daemon would refuse it.
        crate::serve::requests::group_rule(rule.clone())?;
        Ok(rule)
    }
}

fn step(word: &str) -> anyhow::Result<wire::Step> {
    let (action, details) = words::short_step(word).map_err(|e| usage(format!("--do: {e}")))?;
    let mut step = wire::Step { action, ..wire::Step::default() };
    for (key, value) in details {
        let place = match key {
            "after" => &mut step.after,
            "signal" => &mut step.signal,
            "victim" => &mut step.victim,
            "share" => &mut step.share,
            "timeout" => &mut step.timeout,
            "amount" => &mut step.amount,
            "within" => &mut step.within,
            "budget" => &mut step.budget,
            other => return Err(usage(format!("--do: `{other}` cannot be given in a word"))),
        };
        *place = Some(value);
    }
    Ok(step)
}
