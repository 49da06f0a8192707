//! A rule in a sentence, for `memgov check` and `status`: what was understood, in words that teach the configuration.

use std::fmt::Write;
use std::time::Duration;

use memgov_decide::governor::met_inside;
use memgov_decide::policy::{
    Action, Condition, DEFAULT_BAND, GroupPolicy, MAX_DEFAULT_BAND, Meter, Over, Pattern, ProcessMatch, Rule,
    Scope, Step, Takes, Under, Victim,
};
use memgov_decide::units::{Bytes, Limit};

use super::signals;
use super::words::{self, duration_text, kinds_text, under_text};
use crate::terminal::shown;

/// One rule in a sentence.
pub fn rule(rule: &Rule) -> String {
    let mut text = format!("{} {}: ", subject(&rule.scope, &rule.when), condition(rule));
    for (i, step) in rule.steps.iter().enumerate() {
        if i > 0 {
            text.push_str("; ");
        }
        let _ = write!(text, "{}", when(i, step.after));
        text.push_str(&action(&step.action, rule.when.meter(), target(&rule.scope, &rule.when)));
    }
    let _ = write!(text, ". {}", relief(rule));
    text
}

/// Said of a rule whose first step is not done inside the kernel, whatever the tier.
pub fn only_from_outside(rule: &Rule) -> Option<&'static str> {
    (!met_inside(rule)).then_some(
        "its first step is done from outside in every tier: inside the kernel are only `deny` at once and, to single processes, \
         `signal` at once and (for their resident memory) `kill` at once",
    )
}

/// Growth that no step of these meets.
pub const NOT_MET: &str =
    "`deny` refuses new mappings; touching memory mapped before passes nothing that could refuse it";

/// Whether refusing is all that these steps do against growth of user memory.
pub fn only_refuses(meter: Meter, steps: &[Step]) -> bool {
    let refuses = steps.iter().any(|step| step.action == Action::Deny);
    let nothing_else = steps.iter().all(|step| matches!(step.action, Action::Deny | Action::Record));
    meter != Meter::Kernel && refuses && nothing_else
}

/// What a `[[group]]` says.
pub fn group(group: &GroupPolicy) -> Option<String> {
    let high = group.high.map(|high| match high {
        Limit::Max => "no high line of memgov's own".to_owned(),
        Limit::At(bytes) => {
            format!("a high line of {bytes}, kept by memgov (nothing is written to the kernel)")
        }
    });
    let priority = group.priority.map(|priority| format!("priority {priority} (lower is given up first)"));
    let reservation = group
        .reservation
        .map(|bytes| format!("{bytes} reserved (given up before others only while it uses more)"));
    let reserve = group
        .oom_reserve
        .map(|bytes| format!("the last {bytes} under its limit are not available (left for what helps it)"));
    let delay = group.oom_delay.map(|time| {
        format!(
            "out of memory it waits up to {} for what the rules do (v1), before the kernel's OOM killer acts",
            words::duration_text(time)
        )
    });
    let said: Vec<String> = [high, priority, reservation, reserve, delay].into_iter().flatten().collect();
    (!said.is_empty()).then(|| format!("{}: {}", list(&group.groups), said.join(", ")))
}

fn list(patterns: &[Pattern]) -> String {
    let each: Vec<_> = patterns.iter().map(|p| shown(&String::from_utf8_lossy(p.as_bytes()))).collect();
    each.join(" or ")
}

fn subject(scope: &Scope, when: &Condition) -> String {
    match (scope, when.rss) {
        (Scope::Groups(patterns), None) => format!("each group {}", list(patterns)),
        (Scope::Groups(patterns), Some(_)) => format!("each process in {}", list(patterns)),
        (Scope::Processes(processes), _) => format!("each process{}", matching(processes)),
        (Scope::Host, _) => "the host".into(),
    }
}

fn matching(processes: &ProcessMatch) -> String {
    let mut parts = Vec::new();
    if !processes.exe.is_empty() {
        parts.push(format!("running {}", list(&processes.exe)));
    }
    if !processes.comm.is_empty() {
        parts.push(format!("called {}", list(&processes.comm)));
    }
    if !processes.uid.is_empty() {
        let uids: Vec<String> = processes.uid.iter().map(u32::to_string).collect();
        parts.push(format!("of uid {}", uids.join(" or ")));
    }
    if !processes.groups.is_empty() {
        parts.push(format!("in or below {}", list(&processes.groups)));
    }
    if parts.is_empty() { String::new() } else { format!(" {}", parts.join(" and ")) }
}

fn line(over: Over) -> String {
    match over {
        Over::Amount(bytes) | Over::Kernel(bytes) | Over::Sockets(bytes) | Over::Pool(bytes) => {
            bytes.to_string()
        }
        Over::High { plus: Bytes(0) } => "memory.high".into(),
        Over::High { plus } => format!("memory.high + {plus}"),
        Over::Available { under, .. } => under_text(under),
        Over::Pressure { over, .. } => over.to_string(),
    }
}

fn condition(rule: &Rule) -> String {
    if let Some(Over::Pressure { over, .. }) = rule.when.group {
        let whose = match rule.scope {
            Scope::Host => "some task waits for memory",
            _ => "some task in it waits for memory that it, a group above it or the host is short of",
        };
        return format!("while {whose}, more than {over} of the time");
    }
    if let Some(Over::Available { under, exhausted_in }) = rule.when.group {
        let of = match (&rule.scope, under) {
            (Scope::Host, Under::Share(_)) => " of its memory",
            (Scope::Host, Under::Amount(_)) => "",
            (_, Under::Share(_)) => " of its memory.max",
            (_, Under::Amount(_)) => " under its memory.max",
        };
        let soon = exhausted_in.map(|time| {
            format!(" and, as fast as that falls, nothing would be left in {}", duration_text(time))
        });
        return format!("while less than {}{of} is available{}", under_text(under), soon.unwrap_or_default());
    }
    let group = match rule.scope {
        Scope::Groups(_) if rule.when.meter() == Meter::Kernel => "its kernel memory",
        Scope::Groups(_) if rule.when.meter() == Meter::Sockets => "what the buffers of its sockets hold",
        Scope::Groups(_) if rule.when.meter() == Meter::Pool => "its usage with the buffers of its sockets",
        Scope::Groups(_) if rule.when.rss.is_none() => "its usage",
        _ => "its group's usage",
    };
    let usage = rule.when.group.map(|over| format!("{group} is over {}", line(over)));
    let rss = rule.when.rss.map(|rss| format!("its {} is over {}", kinds_text(rss.kinds), rss.over));
    let parts: Vec<String> = rss.into_iter().chain(usage).collect();
    format!("while {}", parts.join(" and "))
}

/// To whom steps are done for the host's sake.
pub(super) const HOSTS: &str = "the job that gives way first";

/// "it" is a group or a process.
fn target(scope: &Scope, when: &Condition) -> &'static str {
    match (scope, when.rss) {
        (Scope::Groups(_), None) => "all its processes",
        (Scope::Host, _) => HOSTS,
        _ => "it",
    }
}

fn when(index: usize, after: Duration) -> String {
    match (index, after) {
        (0, Duration::ZERO) => "at once ".into(),
        (0, after) => format!("after {} ", duration_text(after)),
        (_, Duration::ZERO) => "with that ".into(),
        (_, after) => format!("{} later, if still over, ", duration_text(after)),
    }
}

fn action(action: &Action, meter: Meter, target: &str) -> String {
    match action {
        Action::Record => "record it".into(),
        Action::Deny if meter == Meter::Kernel => {
            format!("refuse {target} whatever takes kernel memory (fork, files, directories, sockets)")
        }
        Action::Freeze => format!("freeze {target}"),
        Action::Squeeze => "have the buffers of its TCP sockets stop growing".into(),
        Action::Ask(ask) => super::ask::describe(ask, target),
        Action::Deny => format!("refuse {target} more memory (ENOMEM)"),
        Action::Slow(slow) => {
            let floor = f32::from(slow.floor) / 10.0;
            let budget = duration_text(slow.budget);
            format!(
                "slow {target} down, the more the further over (never under {floor}% of the time, at most {budget})"
            )
        }
        Action::Reclaim(reclaim) => {
            let share = f32::from(reclaim.share) / 10.0;
            let pinned = match meter {
                Meter::Kernel => {
                    " (kernel memory in use cannot be: if that is the rest, what follows is at once)"
                }
                Meter::Usage
                | Meter::Sockets
                | Meter::Pool
                | Meter::Available
                | Meter::Pressure
                | Meter::Rss(_) => "",
            };
            let how = format!("in the background, with at most {share}% of a processor");
            let Some(tolerance) = &reclaim.tolerance else {
                let whose =
                    if target == HOSTS { "the memory of the job that gives way first" } else { "its memory" };
                return format!("reclaim {whose} {how}{pinned}");
            };
            let (pressure, swap_out) = (words::pressure_text(tolerance.pressure), tolerance.swap_out);
            let when = if reclaim.for_starved { ", while another group of this rule is starved" } else { "" };
            format!(
                "reclaim its memory {how}, as far as costs it no more than {pressure} of its time and swaps out no more than {swap_out} a \
                 second{when}"
            )
        }
        Action::Signal { signal, repeat } => {
            let again = repeat.map(|r| format!(", again every {}", duration_text(r))).unwrap_or_default();
            format!("send {target} {}{again}", signals::name(*signal))
        }
        Action::Kill { victim: Victim::Group } => format!("kill {target}"),
        Action::Kill { victim: Victim::LowestPriority(takes) } => kill_of_job(*takes, target),
        Action::Kill { victim: Victim::Largest } if target == HOSTS => {
            "kill the largest process of the machine, and the next if that is not enough".into()
        }
        Action::Kill { victim: Victim::Largest } if meter == Meter::Kernel => {
            "kill the processes that have grown it most, if any are known to hold enough of it".into()
        }
        Action::Kill { victim: Victim::Largest } => "kill its largest process".into(),
        Action::Lend(lend) => super::lend::text(lend),
        Action::Hook(hook) => super::hook::text(hook, target),
    }
}

/// The kill of the job that gives way first, or of part of it.
fn kill_of_job(takes: Takes, target: &str) -> String {
    let job = if target == HOSTS {
        "the job that gives way first"
    } else {
        "the job below it that gives way first"
    };
    match takes {
        Takes::Job => format!("kill {job}, and the next if that is not enough"),
        Takes::Process => format!("kill the largest process of {job}, and the next if that is not enough"),
        Takes::Tree => {
            format!("kill the tree of processes of {job} that holds most, and the next if that is not enough")
        }
    }
}

fn relief(rule: &Rule) -> String {
    let lasting = rule.steps.iter().any(|Step { action, .. }| {
        matches!(
            action,
            Action::Deny
                | Action::Freeze
                | Action::Squeeze
                | Action::Slow(_)
                | Action::Reclaim(_)
                | Action::Lend(_)
                | Action::Ask(_)
        )
    });
    let ends = if lasting { "Undone" } else { "Over" };
    let band = |line: Bytes| Bytes(line.0 / DEFAULT_BAND).min(MAX_DEFAULT_BAND);
    match (rule.until, rule.when.rss, rule.when.group) {
        (_, _, Some(Over::Pressure { until, .. })) => {
            format!("{ends} when that is {until} of the time or less.")
        }
        (Some(until), _, Some(Over::Available { .. })) => {
            format!("{ends} when {until} or more is available.")
        }
        (None, _, Some(Over::Available { .. })) => format!(
            "{ends} when 1/{DEFAULT_BAND} of the rest (at most {MAX_DEFAULT_BAND}) more than that is available."
        ),
        (Some(until), ..) => format!("{ends} at or under {until}."),
        (None, Some(rss), _) => format!("{ends} at or under {}.", rss.over.saturating_sub(band(rss.over))),
        (None, None, Some(Over::Amount(at) | Over::Kernel(at) | Over::Sockets(at) | Over::Pool(at))) => {
            format!("{ends} at or under {}.", at.saturating_sub(band(at)))
        }
        _ => format!("{ends} when 1/{DEFAULT_BAND} of the line (at most {MAX_DEFAULT_BAND}) below it."),
    }
}

/// Everything that was understood, as `memgov check` prints it.
pub fn report(config: &super::Config) -> String {
    let mut text = String::new();
    for group_policy in &config.policy.groups {
        if let Some(meaning) = group(group_policy) {
            let _ = writeln!(text, "group {meaning}");
        }
    }
    for each in &config.policy.rules {
        let _ = writeln!(text, "rule `{}`: {}", shown(&each.name), rule(each));
    }
    if config.policy.rules.is_empty() {
        text.push_str("no rules: memgov will only carry out what processes and `memgov set` ask for\n");
    }
    for note in &config.warnings {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
