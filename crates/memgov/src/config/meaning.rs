//! What the typed text means: a checked [`Policy`]. Every refusal says what to write instead.

use std::collections::BTreeMap;

use memgov_decide::hook::{Helper, Hook};
use memgov_decide::policy::{
    Action, Condition, GroupPolicy, KillBudget, MAX_RULES, MAX_STEPS, Meter, Over, Pace, Pattern, Policy,
    ProcessMatch, RssOver, Rule, Scope, Step, Victim,
};
use memgov_decide::units::Bytes;

use super::describe;
use super::error::{At, Findings, Place};
use super::fits;
use super::jobs;
use super::never;
use super::passwd::Users;
use super::settings::{self, Settings};
use super::text::{File, GroupText, MatchText, RuleText, StepText};
use super::words;

/// The meaning of all files together. What is wrong is in `findings`, and the result is then not to be used.
pub(crate) fn of(files: &[File], users: &Users, findings: &mut Findings<'_>) -> (Policy, Settings) {
    let mut settings = Settings::default();
    let (mut pace, mut kills) = (Pace::default(), KillBudget::default());
    let mut policy = Policy::default();
    let mut never_defaults = true;
    let mut names: BTreeMap<String, Place> = BTreeMap::new();
    let mut nth = 0;
    let mut chosen = Vec::new();
    for file in files {
        if let Some(text) = &file.settings {
            settings::apply(text, &mut settings, &mut pace, &mut kills, findings);
            policy.never.extend(text.never.iter().filter_map(|m| process_match(m, users, findings)));
            never_defaults = text.never_defaults.as_ref().map_or(never_defaults, |v| v.it);
        }
        policy.groups.extend(file.groups.iter().filter_map(|text| group(text, findings)));
        for text in &file.rules {
            nth += 1;
            let name = name(text, nth, &mut names, findings);
            policy.rules.extend(rule(name, text, users, findings));
            chosen.extend(jobs::asked(text));
            if nth == MAX_RULES + 1 {
                findings.error(text.at, format!("more than {MAX_RULES} rules"));
            }
        }
    }
    jobs::there_are_some(&policy, &chosen, findings);
    jobs::who_waits_is_helped(&policy, files, findings);
    if never_defaults {
        policy.never.extend(never::defaults());
    }
    policy.pace = pace;
    policy.kills = kills;
    (policy, settings)
}

/// The name given, or `rule-N`. Episodes and records go by it, so it is unique over all files.
fn name(
    text: &RuleText,
    nth: usize,
    names: &mut BTreeMap<String, Place>,
    findings: &mut Findings<'_>,
) -> String {
    let (name, at) = match &text.name {
        Some(typed) => (typed.it.clone(), typed.at),
        None => (format!("rule-{nth}"), text.at),
    };
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        findings.error(at, "a rule's name has 1 to 64 bytes and no control characters");
    } else if let Some(first) = names.insert(name.clone(), at) {
        let first = findings.name(first);
        findings.error(at, format!("there is a rule `{name}` already, at {first}"));
    }
    name
}

fn group(text: &GroupText, findings: &mut Findings<'_>) -> Option<GroupPolicy> {
    let Some(typed) = &text.groups else {
        findings.error(text.at, "a [[group]] needs `match`, for example match = \"/hosting.slice/*\"");
        return None;
    };
    let groups = patterns(typed, |t| words::group_pattern(t, true), findings);
    let high = text.high.as_ref().and_then(|h| findings.check(h.at, words::limit(&h.it)));
    let sizes = [&text.high, &text.reservation, &text.oom_reserve, &text.oom_delay];
    if sizes.iter().all(|typed| typed.is_none()) && text.priority.is_none() {
        let message = "this [[group]] says nothing: it has no `high`, `priority`, `reservation`, `oom-reserve` or `oom-delay`";
        findings.note(text.at, message, None);
    }
    let priority = text.priority.as_ref().and_then(|typed| jobs::priority(typed, findings));
    let mut size =
        |typed: &Option<At<String>>| typed.as_ref().and_then(|r| findings.check(r.at, words::size(&r.it)));
    let (reservation, oom_reserve) = (size(&text.reservation), size(&text.oom_reserve));
    let oom_delay =
        text.oom_delay.as_ref().and_then(|typed| findings.check(typed.at, words::oom_delay(&typed.it)));
    Some(GroupPolicy { groups, high, priority, reservation, oom_reserve, oom_delay, set_by: None })
}

fn patterns(
    typed: &At<Vec<At<String>>>,
    parse: impl Fn(&str) -> Result<Pattern, String>,
    findings: &mut Findings<'_>,
) -> Vec<Pattern> {
    if typed.it.is_empty() {
        findings.error(typed.at, "an empty list matches nothing");
    }
    typed.it.iter().filter_map(|word| findings.check(word.at, parse(&word.it))).collect()
}

fn process_match(text: &MatchText, users: &Users, findings: &mut Findings<'_>) -> Option<ProcessMatch> {
    let MatchText { at, groups, exe, comm, uid } = text;
    if groups.is_empty() && exe.is_empty() && comm.is_empty() && uid.is_empty() {
        let message = "an empty match matches no process: give `exe`, `comm`, `uid` or `groups`";
        findings.error(*at, message);
        return None;
    }
    let mut each = |list: &[At<String>], parse: &dyn Fn(&str) -> Result<Pattern, String>| -> Vec<Pattern> {
        list.iter().filter_map(|word| findings.check(word.at, parse(&word.it))).collect()
    };
    Some(ProcessMatch {
        groups: each(groups, &|t| words::group_pattern(t, false)),
        exe: each(exe, &words::exe_pattern),
        comm: each(comm, &words::comm_pattern),
        uid: uid.iter().filter_map(|word| findings.check(word.at, users.uid(&word.it))).collect(),
    })
}

fn rule(name: String, text: &RuleText, users: &Users, findings: &mut Findings<'_>) -> Option<Rule> {
    let scope = scope(text, users, findings);
    let meter = meter(text, findings);
    let when = meter.and_then(|meter| condition(text, meter, findings));
    // Of pressure it is no size, and part of the condition.
    let until = text.until.as_ref().filter(|_| meter != Some(Meter::Pressure));
    let until = until.and_then(|t| findings.check(t.at, words::size(&t.it)));
    let each_process = matches!(scope, Some(Scope::Processes(_))) || matches!(meter, Some(Meter::Rss(_)));
    let steps = steps(text, meter, each_process, findings)?;
    jobs::fitting(text, scope.as_ref(), meter, &steps, findings);
    let (scope, when) = (scope?, when?);
    if let (Some(until), Some(typed)) = (until, &text.until) {
        findings.check(typed.at, words::until_fits(until, &when));
    }
    notes(text, meter, &steps, findings);
    Some(Rule { name, scope, when, until, steps, log: text.log.as_ref().is_none_or(|l| l.it) })
}

fn scope(text: &RuleText, users: &Users, findings: &mut Findings<'_>) -> Option<Scope> {
    if let Some(host) = &text.host {
        return jobs::host(text, host, findings);
    }
    match (&text.groups, &text.processes) {
        (Some(typed), None) => {
            Some(Scope::Groups(patterns(typed, |t| words::group_pattern(t, true), findings)))
        }
        (None, Some(typed)) => process_match(typed, users, findings).map(Scope::Processes),
        (Some(typed), Some(_)) => {
            let help = "for processes in these groups: processes = { exe = …, groups = … }".to_owned();
            findings.error_with(typed.at, "a rule is for `groups` or for `processes`, not both", Some(help));
            None
        }
        (None, None) => {
            let help =
                "groups = \"/hosting.slice/*\", or processes = { exe = \"/usr/bin/ld*\" }, or host = true";
            let message = "a rule needs `groups`, `processes` or `host`: whom it is for";
            findings.error_with(text.at, message, Some(help.to_owned()));
            None
        }
    }
}

fn meter(text: &RuleText, findings: &mut Findings<'_>) -> Option<Meter> {
    match &text.meter {
        Some(typed) => findings.check(typed.at, words::meter(&typed.it)),
        None if text.host.is_some() => Some(Meter::Available),
        None if text.processes.is_none() => Some(Meter::Usage),
        None => {
            let message = "a rule for `processes` needs `meter`, for example meter = \"rss.anon\"";
            findings.error(text.at, message);
            None
        }
    }
}

fn condition(text: &RuleText, meter: Meter, findings: &mut Findings<'_>) -> Option<Condition> {
    if matches!(meter, Meter::Available | Meter::Pressure) || text.host.is_some() {
        return jobs::condition(text, meter, findings);
    }
    if let Some(under) = &text.under {
        let help = "`over` is the line of every other meter".to_owned();
        findings.error_with(under.at, "`under` goes with meter = \"available\"", Some(help));
    }
    if let Some(typed) = &text.exhausted_in {
        findings.error(typed.at, "`exhausted-in` goes with meter = \"available\"");
    }
    let Some(over) = &text.over else {
        let message = "a rule needs `over`: the amount above which it acts, for example over = \"8GiB\"";
        findings.error(text.at, message);
        return None;
    };
    match meter {
        Meter::Usage => {
            if let Some(extra) = &text.group_over {
                let help = "`over` is the group's line already".to_owned();
                findings.error_with(extra.at, "`group-over` goes with an rss meter", Some(help));
            }
            let group = findings.check(over.at, words::line(&over.it))?;
            Some(Condition { group: Some(group), rss: None })
        }
        Meter::Kernel | Meter::Sockets | Meter::Pool => {
            let (name, whose, line): (_, _, fn(Bytes) -> Over) = match meter {
                Meter::Sockets => ("sockets", "the memory of sockets", Over::Sockets),
                Meter::Pool => ("usage+sockets", "a pool with sockets", Over::Pool),
                _ => ("kernel", "kernel memory", Over::Kernel),
            };
            if text.processes.is_some() {
                let help = "groups = \"/hosting.slice/*\" instead of `processes`".to_owned();
                let message = format!("`{name}` is a group's: what a process holds of it nobody counts");
                findings.error_with(over.at, message, Some(help));
                return None;
            }
            if let Some(extra) = &text.group_over {
                findings.error(extra.at, "`group-over` goes with an rss meter");
            }
            if over.it.trim_start().starts_with("high") {
                let message = format!("`high` is a line for a group's usage; {whose} has no such file");
                findings.error_with(over.at, message, Some("over = \"256MiB\"".to_owned()));
                return None;
            }
            let size = findings.check(over.at, words::size(&over.it))?;
            Some(Condition { group: Some(line(size)), rss: None })
        }
        Meter::Rss(kinds) => {
            let group = text.group_over.as_ref().map(|t| findings.check(t.at, words::line(&t.it)));
            if over.it.trim_start().starts_with("high") {
                let help =
                    "over = \"64MiB\" is the process's line; group-over = \"high+8MiB\" asks the group too";
                let message = "`high` is a line for a group's usage, and this meter is a process's memory";
                findings.error_with(over.at, message, Some(help.to_owned()));
                return None;
            }
            let over = findings.check(over.at, words::size(&over.it))?;
            let group = match group {
                Some(line) => Some(line?),
                None => None,
            };
            Some(Condition { group, rss: Some(RssOver { kinds, over }) })
        }
        // Above.
        Meter::Available | Meter::Pressure => None,
    }
}

fn steps(
    text: &RuleText,
    meter: Option<Meter>,
    each_process: bool,
    findings: &mut Findings<'_>,
) -> Option<Vec<Step>> {
    let Some(typed) = &text.steps else {
        let help = "do = [\"deny\", { action = \"kill\", after = \"10s\" }]".to_owned();
        findings.error_with(text.at, "a rule needs `do`: what happens", Some(help));
        return None;
    };
    if typed.it.is_empty() {
        findings.error(typed.at, "`do` is empty; to only look, write do = [\"record\"]");
    }
    if typed.it.len() > MAX_STEPS {
        findings.error(typed.at, format!("a ladder has at most {MAX_STEPS} steps"));
    }
    let mut steps = Vec::new();
    for (i, text) in typed.it.iter().enumerate() {
        let detail = |key| text.details.iter().find(|(k, _)| *k == key).map(|(_, v)| v);
        match words::step_of_file(&text.action.it, i == 0, |key| detail(key).map(|v| v.it.as_str())) {
            Ok(mut step) => {
                if let Action::Hook(Hook { by: Helper::Program(program), .. }) = &mut step.action {
                    // Without one there is an error, and no policy.
                    program.run = super::hook::program(text, findings).unwrap_or_default();
                } else if let Some(run) = &text.run {
                    findings.error(run.at, format!("`{}` has no `run`", text.action.it));
                }
                if let (true, Some(victim)) = (each_process, detail("victim")) {
                    findings.error(victim.at, words::NO_VICTIM);
                }
                if let Some(why) = fits::why_not(&step.action, meter, each_process) {
                    findings.error(text.action.at, why);
                }
                steps.push(step);
            }
            Err(error) => {
                let at = if error.key == "action" { Some(&text.action) } else { detail(error.key) };
                findings.error(at.map_or(text.at, |v| v.at), error.message);
            }
        }
    }
    Some(steps)
}

/// What is allowed and may surprise.
fn notes(text: &RuleText, meter: Option<Meter>, steps: &[Step], findings: &mut Findings<'_>) {
    let Some(typed) = &text.steps else { return };
    // A rule whose meter is nonsense has its error already.
    if describe::only_refuses(meter.unwrap_or(Meter::Usage), steps) {
        let help = "put a step behind it, for example { action = \"kill\", after = \"10s\" }".to_owned();
        findings.note(typed.at, describe::NOT_MET, Some(help));
    }
    // What is said of a step names its place: with one missing that has its own error the places would be others'.
    if steps.len() != typed.it.len() {
        return;
    }
    for (step, text) in steps.iter().zip(&typed.it) {
        signal_note(step, text, findings);
    }
    if let Some(again) = fits::second_loan(steps).and_then(|at| typed.it.get(at)) {
        findings.error(again.at, words::LEND_TWICE);
    }
    // A job's death need not be enough, so its step goes on; one behind it is for when no job is left.
    let whole = |s: &Step| s.action == Action::Kill { victim: Victim::Group };
    if let Some(at) = steps.iter().position(whole)
        && let Some(beyond) = typed.it.get(at + 1)
    {
        findings.note(
            beyond.at,
            "this step stands behind a kill: it is reached only if the kill fails",
            None,
        );
    }
}

fn signal_note(step: &Step, text: &StepText, findings: &mut Findings<'_>) {
    let message = match step.action {
        Action::Signal { signal: 9, .. } => {
            "`kill` instead of SIGKILL checks that the process is dead and credits its memory before the next step"
        }
        Action::Signal { signal: 19..=22, .. } => {
            "nobody continues what this signal stops; `slow` stops and always ends"
        }
        _ => return,
    };
    findings.note(text.at, message, None);
}
