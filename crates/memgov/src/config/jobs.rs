//! What is typed about the host, about what is available, and about jobs that give way: its meaning, and what does not fit.

use memgov_decide::policy::{Action, Condition, GroupPolicy, Meter, Over, Policy, Rule, Scope, Step};

use super::error::{At, Findings, Place};
use super::fits;
use super::text::{File, RuleText};
use super::words;

/// A priority, in the range that everybody's tools can write.
pub(super) fn priority(typed: &At<i64>, findings: &mut Findings<'_>) -> Option<i32> {
    let priority = i32::try_from(typed.it).ok();
    if priority.is_none() {
        findings.error(typed.at, "`priority` is between -2147483648 and 2147483647; lower is given up first");
    }
    priority
}

/// `host = true`.
pub(super) fn host(text: &RuleText, host: &At<bool>, findings: &mut Findings<'_>) -> Option<Scope> {
    if text.groups.is_some() || text.processes.is_some() {
        let help = "two rules, one for each".to_owned();
        findings.error_with(host.at, "a rule is for the host or for others, not both", Some(help));
        return None;
    }
    if !host.it {
        findings.error(host.at, "`host = false` names nobody: give `groups`, `processes` or `host = true`");
        return None;
    }
    Some(Scope::Host)
}

/// `under`, and how soon.
pub(super) fn condition(text: &RuleText, meter: Meter, findings: &mut Findings<'_>) -> Option<Condition> {
    if meter == Meter::Pressure {
        return pressure(text, findings);
    }
    if meter != Meter::Available {
        let help = "meter = \"available\" (or none: it is the default of a rule for the host), or meter = \"pressure\"".to_owned();
        let at = text.meter.as_ref().map_or(text.at, |typed| typed.at);
        findings.error_with(
            at,
            "of the host what is available is measured, or how long somebody waits for memory",
            Some(help),
        );
        return None;
    }
    if text.processes.is_some() {
        findings
            .error(text.at, "`available` is of the host or of a group: host = true, or groups = \"/jobs\"");
        return None;
    }
    for (key, typed) in [("over", &text.over), ("group-over", &text.group_over)] {
        if let Some(typed) = typed {
            let help = "under = \"5%\", or a size".to_owned();
            let message = format!("`{key}` does not go with `available`, of which less is worse");
            findings.error_with(typed.at, message, Some(help));
        }
    }
    let Some(typed) = &text.under else {
        let message = "a rule about what is available needs `under`, for example under = \"5%\"";
        findings.error(text.at, message);
        return None;
    };
    let under = findings.check(typed.at, words::under(&typed.it));
    let exhausted_in = match &text.exhausted_in {
        Some(typed) => Some(findings.check(typed.at, words::span(&typed.it))?),
        None => None,
    };
    Some(Condition { group: Some(Over::Available { under: under?, exhausted_in }), rss: None })
}

/// `over` and `until` as parts of the time.
fn pressure(text: &RuleText, findings: &mut Findings<'_>) -> Option<Condition> {
    if text.processes.is_some() {
        findings
            .error(text.at, "`pressure` is of the host or of a group: host = true, or groups = \"/jobs\"");
        return None;
    }
    let others =
        [("under", &text.under), ("exhausted-in", &text.exhausted_in), ("group-over", &text.group_over)];
    for (key, typed) in others {
        if let Some(typed) = typed {
            findings.error(typed.at, format!("`{key}` does not go with `pressure`"));
        }
    }
    let Some(over) = &text.over else {
        let message = "a rule about pressure needs `over`: a part of the time, for example over = \"10%\"";
        findings.error(text.at, message);
        return None;
    };
    let until = text.until.as_ref().map(|typed| typed.it.as_str());
    let over = findings.check(over.at, words::stalled(&over.it, until))?;
    Some(Condition { group: Some(over), rss: None })
}

/// Steps that a rule of the host, or about what is available, cannot have.
pub(super) fn fitting(
    text: &RuleText,
    scope: Option<&Scope>,
    meter: Option<Meter>,
    steps: &[Step],
    findings: &mut Findings<'_>,
) {
    let typed = text.steps.iter().flat_map(|typed| &typed.it);
    for (step, typed) in steps.iter().zip(typed) {
        if scope == Some(&Scope::Host) {
            // What is swapped out for it becomes available, so it may reclaim.
            if let Some((message, help)) = fits::why_not_of_host(&step.action) {
                findings.error_with(typed.at, message, help.map(str::to_owned));
            }
        } else if meter == Some(Meter::Available) && matches!(step.action, Action::Reclaim(_)) {
            findings.error(typed.at, words::RECLAIM_OF_AVAILABLE);
        }
    }
}

/// Where a rule asks for the job that gives way first.
pub(super) fn asked(text: &RuleText) -> impl Iterator<Item = Place> + '_ {
    let of_host = text.host.as_ref().is_some_and(|host| host.it);
    let steps = text.steps.iter().flat_map(|typed| &typed.it);
    steps.filter_map(move |step| {
        let victim = step.details.iter().find(|(key, _)| *key == "victim").map(|(_, value)| value);
        match victim {
            Some(value) => (value.it == "lowest-priority").then_some(value.at),
            None => {
                (of_host && !matches!(step.action.it.as_str(), "record" | "kill")).then_some(step.action.at)
            }
        }
    })
}

/// Where the kernel's OOM killer is held off, a rule has to kill in its place. Whether its groups are those that wait is not compared: patterns may meet in groups that are not there yet.
pub(super) fn who_waits_is_helped(policy: &Policy, files: &[File], findings: &mut Findings<'_>) {
    if policy.rules.iter().any(Rule::kills_when_full) {
        return;
    }
    for typed in files.iter().flat_map(|file| &file.groups).filter_map(|group| group.oom_delay.as_ref()) {
        let message = "`oom-delay` holds the kernel's OOM killer off, and no rule would kill in its place";
        let help = "a rule for the group with meter = \"available\", under = \"5%\" and a step `kill`, without `exhausted-in`";
        findings.error_with(typed.at, message, Some(help.to_owned()));
    }
}

/// Somebody should be there who can give way; that may also be said while memgov runs.
pub(super) fn there_are_some(policy: &Policy, asked: &[Place], findings: &mut Findings<'_>) {
    if policy.groups.iter().any(GroupPolicy::is_job) {
        return;
    }
    for &at in asked {
        let help = "[[group]] with match = \"/jobs/*\" and priority = 100; or, while it runs, `memgov set --group /jobs/a --priority 100`";
        let message =
            "nobody gives way before it is said who: no [[group]] has a `priority` or a `reservation`";
        findings.note(at, message, Some(help.to_owned()));
    }
}
