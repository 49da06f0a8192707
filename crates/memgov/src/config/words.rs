//! The grammar of single words: lines, meters, times, shares, patterns, steps. Used for files, for the command line and
//! for requests on the socket, so that the same word means the same everywhere. Errors are sentences; the caller knows
//! the place.

use std::time::Duration;

use memgov_decide::policy::{
    Action, Condition, Kinds, Meter, Over, Pattern, Reclaim, Slow, Step, Takes, Under, Victim,
};
use memgov_decide::pressure::Share;
use memgov_decide::units::{Bytes, Limit, QuantityError};
use memgov_decide::working_set::Tolerance;

use super::signals;
use super::table::cut;
use super::text::none_of;

/// What can be given with an action.
pub const STEP_KEYS: &[&str] = &[
    "after", "signal", "repeat", "victim", "budget", "floor", "share", "pressure", "swap-out", "when",
    "amount", "keep", "timeout", "default", "within", "memory", "takes",
];
/// Actions of this version.
pub const ACTIONS: &[&str] = &[
    "record", "reclaim", "deny", "slow", "freeze", "signal", "kill", "lend", "ask", "hook", "handler",
    "squeeze",
];
const LATER_ACTIONS: &[&str] = &["shrink"];
const METERS: &[&str] = &[
    "usage",
    "usage+sockets",
    "sockets",
    "kernel",
    "available",
    "pressure",
    "rss.anon",
    "rss.file",
    "rss.shmem",
];
const LATER_METERS: &[&str] = &["oom", "swap"];
/// A step that is not the first waits so long for the one before it.
pub const DEFAULT_AFTER: Duration = Duration::from_secs(1);
/// Longer than this is a slip of the pen, and would overflow clocks.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// An amount of memory, unit required.
///
/// # Errors
/// Says which unit to write.
pub fn size(text: &str) -> Result<Bytes, String> {
    text.parse().map_err(|error: QuantityError| match error {
        QuantityError::NoUnit(_) => error.to_string(),
        QuantityError::UnknownUnit(unit) => QuantityError::UnknownUnit(cut(&unit)).to_string(),
        QuantityError::NotANumber(word) => QuantityError::NotANumber(cut(&word)).to_string(),
        QuantityError::TooLarge(word) => QuantityError::TooLarge(cut(&word)).to_string(),
    })
}

/// An amount, or `max`.
///
/// # Errors
/// As [`size`].
pub fn limit(text: &str) -> Result<Limit, String> {
    if text.trim() == "max" { Ok(Limit::Max) } else { size(text).map(Limit::At) }
}

/// A line for usage: an amount, `high`, or `high+8MiB`.
///
/// # Errors
/// As [`size`].
pub fn line(text: &str) -> Result<Over, String> {
    match text.trim().strip_prefix("high") {
        None => size(text).map(Over::Amount),
        Some(rest) => match rest.trim().strip_prefix('+') {
            Some(plus) => size(plus).map(|plus| Over::High { plus }),
            None if rest.trim().is_empty() => Ok(Over::High { plus: Bytes(0) }),
            None => Err(format!("`{}` is no line; write `high`, `high+8MiB` or `100MiB`", cut(text))),
        },
    }
}

/// A line for what is available: an amount, or a share of what there is in all (of the host's memory, of a group's `memory.max`).
///
/// # Errors
/// Says how to write it.
pub fn under(text: &str) -> Result<Under, String> {
    if !text.trim_end().ends_with('%') {
        return match size(text)? {
            Bytes(0) => Err("less than nothing is never available".into()),
            bytes => Ok(Under::Amount(bytes)),
        };
    }
    match share(text) {
        Ok(1000) => Err("less than 100% is always available".into()),
        Ok(thousandths) => Ok(Under::Share(thousandths)),
        Err(_) => Err(format!(
            "`{}` is no such share; write for example `5%` or `2.5%`, 0.1% at the least",
            cut(text)
        )),
    }
}

/// As [`under()`] reads it.
pub fn under_text(under: Under) -> String {
    match under {
        Under::Amount(bytes) => bytes.to_string(),
        Under::Share(thousandths) if thousandths % 10 == 0 => format!("{}%", thousandths / 10),
        Under::Share(thousandths) => format!("{}.{}%", thousandths / 10, thousandths % 10),
    }
}

/// A line for pressure, `10%`, and the relief level, half of it where none is typed.
///
/// # Errors
/// Says how to write it.
pub fn stalled(over: &str, until: Option<&str>) -> Result<Over, String> {
    let wrong = |text: &str| format!("`{}` is no part of the time; write for example `10%`", cut(text));
    let over = share(over).map(Share).map_err(|_| wrong(over))?;
    if over == Share(1000) {
        return Err("more than 100% of the time nobody waits".into());
    }
    let until = match until {
        None => Share(over.0 / 2),
        Some("0" | "0%") => Share(0),
        Some(text) => share(text).map(Share).map_err(|_| wrong(text))?,
    };
    if until > over {
        return Err(format!("`until` ({until}) is above `over` ({over}): it would be relieved while over"));
    }
    Ok(Over::Pressure { over, until })
}

/// Where a rule about pressure has a step that needs an amount.
pub const NO_AMOUNT: &str = "`pressure` is a part of the time and no amount of memory: it goes with `record`, `signal`, `squeeze`, `freeze`, `ask`, `hook`, `handler` and `kill`";

/// Reclaim makes no difference to what is available.
pub const RECLAIM_OF_AVAILABLE: &str =
    "what can be reclaimed counts as available already: `reclaim` would change nothing";

/// The host has no limit of its own.
pub const NO_LEND_OF_HOST: &str = "`lend` raises the limit of a group; the host has none to raise";

/// What a job's sockets hold is not what the host is short of.
pub const NO_SQUEEZE_OF_HOST: &str = "`squeeze` is for rules of groups; a rule of the host does not have it";

/// Not everything is killed for the host.
pub const NO_KILL_OF_HOST: &str = "of the host not everything is killed: say whom it takes";

/// Patience is for groups.
pub const NO_TOLERANCE_OF_HOST: &str = "`pressure` and `when` are for rules of groups: for the host there is `reclaim` of the job that gives way first";

/// A rule for single processes has no choice of victims.
pub const NO_VICTIM: &str = "this rule meets single processes: there is no victim to choose";

/// Nor has it a group to make smaller.
pub const NO_RECLAIM: &str = "`reclaim` makes a group smaller; this rule meets single processes";

/// Nor a limit of its own.
pub const NO_LEND: &str = "`lend` raises the limit of a group; this rule meets single processes";

/// Of a ladder with two such steps.
pub const LEND_TWICE: &str =
    "a ladder lends once: a group has one loan at a time; make the first `amount` larger";

/// Kernel memory has a line and no limit.
pub const NO_LEND_OF_KERNEL: &str =
    "`lend` raises the limit of all memory; the line of this rule is of kernel memory, and stays";

/// Nor have sockets.
pub const NO_LEND_OF_SOCKETS: &str =
    "`lend` raises the limit of all memory; sockets have a line and no limit to raise";

/// Usage has page cache in it.
pub const NO_SQUEEZE_FOR_USAGE: &str = "`squeeze` goes with the meters `sockets`, `pressure` and `available`: usage counts page cache too, and who reads files is not short of memory";

/// Sockets are looked for in all processes of a group.
pub const NO_SQUEEZE: &str = "`squeeze` is of the sockets of a group; this rule meets single processes";

/// What sockets hold nobody can reclaim.
pub const NO_RECLAIM_OF_SOCKETS: &str = "`reclaim` cannot have back what lies in the buffers of sockets: use `squeeze`, or meter = \"usage+sockets\"";

/// Who is asked about is a job as a whole.
pub const NO_ASK: &str = "`ask` holds a group and asks about it; this rule meets single processes";

/// A program is told of a group.
pub const NO_HOOK: &str = "`hook` runs a program for a group; this rule meets single processes";

/// A handler is one of a group.
pub const NO_HANDLER: &str = "`handler` tells the handler of a group; this rule meets single processes";

/// Who may set a rule on a group of his is not to have root run anything.
pub const NO_HOOK_BY_HAND: &str =
    "`hook` is for the configuration only, which is root's: it has root run a program";

/// A working set is of all memory.
pub const NO_TOLERANCE: &str =
    "`pressure` and `when` go with the meter `usage`: how small a group runs is a question of all its memory";

/// Whether relief at or under `until` can follow what this condition says.
///
/// # Errors
/// If it would be relieved while over. A line that hangs on `memory.high` is not known here.
pub fn until_fits(until: Bytes, when: &Condition) -> Result<(), String> {
    if let Some(Over::Available { under: Under::Amount(under), .. }) = when.group
        && until < under
    {
        return Err(format!(
            "`until` ({until}) is below `under` ({under}): it would be relieved while short"
        ));
    }
    let line = match (when.rss, when.group) {
        (Some(rss), _) => rss.over,
        (None, Some(Over::Amount(line) | Over::Kernel(line) | Over::Sockets(line) | Over::Pool(line))) => {
            line
        }
        _ => return Ok(()),
    };
    if until <= line {
        return Ok(());
    }
    Err(format!("`until` ({until}) is above `over` ({line}): it would be relieved while over"))
}

/// As [`line()`] reads it.
pub fn line_text(over: Over) -> String {
    match over {
        Over::Amount(bytes) | Over::Kernel(bytes) | Over::Sockets(bytes) | Over::Pool(bytes) => {
            bytes.to_string()
        }
        Over::High { plus: Bytes(0) } => "high".into(),
        Over::High { plus } => format!("high+{plus}"),
        Over::Available { under, .. } => under_text(under),
        Over::Pressure { over, .. } => over.to_string(),
    }
}

/// `usage`, `usage+sockets`, `sockets`, `kernel`, `available` or `pressure` of a group, or kinds of RSS joined by `+`.
///
/// # Errors
/// Names the meters there are.
pub fn meter(text: &str) -> Result<Meter, String> {
    if text.trim() == "usage" {
        return Ok(Meter::Usage);
    }
    if text.trim() == "kernel" {
        return Ok(Meter::Kernel);
    }
    if text.trim() == "sockets" {
        return Ok(Meter::Sockets);
    }
    if matches!(
        text.split('+').map(str::trim).collect::<Vec<_>>()[..],
        ["usage", "sockets"] | ["sockets", "usage"]
    ) {
        return Ok(Meter::Pool);
    }
    if text.trim() == "available" {
        return Ok(Meter::Available);
    }
    if text.trim() == "pressure" {
        return Ok(Meter::Pressure);
    }
    if text.trim() == "rss" {
        let all = "rss.anon+rss.file+rss.shmem";
        return Err(format!("`rss` is of three kinds: say which, `rss.anon` or a sum such as `{all}`"));
    }
    let mut kinds = Kinds::default();
    for word in text.split('+').map(str::trim) {
        let kind = match word {
            "rss.anon" => &mut kinds.anon,
            "rss.file" => &mut kinds.file,
            "rss.shmem" => &mut kinds.shmem,
            group @ ("usage" | "sockets" | "kernel" | "available" | "pressure") => {
                return Err(format!("`{group}` is a group's and cannot be summed with a process's RSS"));
            }
            other => return Err(none_of("meter", other, METERS, LATER_METERS)),
        };
        if std::mem::replace(kind, true) {
            return Err(format!("`{word}` is counted twice"));
        }
    }
    Ok(Meter::Rss(kinds))
}

/// As [`meter`] reads it.
pub fn kinds_text(kinds: Kinds) -> String {
    let named = [(kinds.anon, "rss.anon"), (kinds.file, "rss.file"), (kinds.shmem, "rss.shmem")];
    let words: Vec<&str> = named.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
    words.join("+")
}

/// A time above zero, unit required.
///
/// # Errors
/// Says which unit to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    let word = text.trim();
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("`{0}` has no unit; write for example `{0}s` or `{0}ms`", cut(word)));
    }
    match humantime::parse_duration(word) {
        Ok(time) if time > LONGEST => Err(format!("`{}` is more than a year", cut(word))),
        Ok(time) => Ok(time),
        Err(_) => Err(format!("`{}` is not a time; write for example `10s`, `250ms` or `1m 30s`", cut(word))),
    }
}

/// As [`duration`], and not zero.
///
/// # Errors
/// As [`duration`].
pub fn span(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than 0".into()),
        time => Ok(time),
    }
}

/// How long the kernel's OOM killer may be held off.
///
/// # Errors
/// Says what is wrong.
pub fn oom_delay(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(600);
    match span(text)? {
        time if time > LONGEST => {
            Err("at most 10m: tasks of the group wait meanwhile, whatever they hold".into())
        }
        time => Ok(time),
    }
}

/// As [`duration`] reads it.
pub fn duration_text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Per cent with at most one decimal, in thousandths: 1 to 1000.
///
/// # Errors
/// Says how to write it.
pub fn share(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{}` is not a share; write for example `1%` or `0.5%`", cut(text));
    let number = text.trim().strip_suffix('%').ok_or_else(wrong)?;
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(tenth) || tenth.len() != 1 || whole.is_empty() || whole.len() > 3 {
        return Err(wrong());
    }
    let thousandths =
        whole.parse::<u16>().map_err(|_| wrong())? * 10 + tenth.parse::<u16>().map_err(|_| wrong())?;
    match thousandths {
        0 => Err("a share of 0 would stop it for ever; the least is 0.1%".into()),
        1..=1000 => Ok(thousandths),
        _ => Err("a share is at most 100%".into()),
    }
}

/// A pattern for group paths; `refuse_root` for rules, which never govern the root.
///
/// # Errors
/// Says how to write it.
pub fn group_pattern(text: &str, refuse_root: bool) -> Result<Pattern, String> {
    let shown = cut(text);
    if text.is_empty() {
        return Err("an empty text names no group; write for example `/hosting.slice/*`".into());
    }
    if !text.starts_with('/') {
        return Err(format!(
            "a group is named from the root: write `/{shown}`, or `/**/{shown}` for any depth"
        ));
    }
    if text.len() > 4096 {
        return Err("a path has at most 4096 bytes".into());
    }
    if text.len() > 1 && text.ends_with('/') {
        let bare = text.trim_end_matches('/');
        return Err(format!(
            "a path does not end in `/`: write `{}` for the group, `{0}/*` for its children",
            cut(bare)
        ));
    }
    if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        return Err(format!("`{shown}` can match no group: paths have no empty part, `.` or `..`"));
    }
    let pattern = Pattern::new(text);
    // By the letter `/*` matches `/` too (an empty run); what is meant by it are the groups below, and no governor of
    // ours ever takes the root.
    if refuse_root && (text == "/" || text.starts_with("/**")) && pattern.matches(b"/") {
        return Err(format!(
            "`{shown}` takes in the root group, which is everything, memgov and pid 1 too: write `/*` for the groups below it"
        ));
    }
    Ok(pattern)
}

/// A pattern for the path of an executable.
///
/// # Errors
/// Says how to write it.
pub fn exe_pattern(text: &str) -> Result<Pattern, String> {
    if text.starts_with('/') || text.starts_with("**") {
        return Ok(Pattern::new(text));
    }
    let shown = cut(text);
    Err(format!(
        "`exe` is the whole path: write `/usr/bin/{shown}`, or `**/{shown}` for anywhere, or comm = \"{shown}\""
    ))
}

/// A pattern for `comm`, which the kernel cuts to 15 bytes.
///
/// # Errors
/// Says how to write it.
pub fn comm_pattern(text: &str) -> Result<Pattern, String> {
    match text.len() {
        0 => Err("`comm` is empty".into()),
        16.. if !text.contains('*') => {
            let mut end = 15;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            Err(format!(
                "the kernel keeps 15 bytes of a name, so this matches nothing; write `{}`",
                &text[..end]
            ))
        }
        _ => Ok(Pattern::new(text)),
    }
}

/// Which key of a step is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// `action`, or one of [`STEP_KEYS`].
    pub key: &'static str,
    /// Why.
    pub message: String,
}

/// One step that somebody asks for: all but `hook`. `details` gives the value of each of [`STEP_KEYS`] that was given.
///
/// # Errors
/// Says which key is wrong.
pub fn step<'a>(
    action: &str,
    first: bool,
    details: impl FnMut(&'static str) -> Option<&'a str>,
) -> Result<Step, StepError> {
    match action {
        "hook" => Err(StepError { key: "action", message: NO_HOOK_BY_HAND.into() }),
        _ => step_of_file(action, first, details),
    }
}

/// One step of a file. Of `hook` the program is still to be given.
pub(super) fn step_of_file<'a>(
    action: &str,
    first: bool,
    mut details: impl FnMut(&'static str) -> Option<&'a str>,
) -> Result<Step, StepError> {
    let allowed: &[&str] = match action {
        "record" | "deny" | "freeze" | "squeeze" => &["after"],
        "slow" => &["after", "budget", "floor"],
        "reclaim" => &["after", "share", "pressure", "swap-out", "when"],
        "signal" => &["after", "signal", "repeat"],
        "kill" => &["after", "victim", "takes"],
        "lend" => &["after", "amount", "keep", "budget"],
        "ask" => &["after", "timeout", "default"],
        "hook" => &["after", "within", "memory"],
        "handler" => &["after", "within"],
        other => {
            return Err(StepError {
                key: "action",
                message: none_of("action", other, ACTIONS, LATER_ACTIONS),
            });
        }
    };
    for key in STEP_KEYS {
        if details(key).is_some() && !allowed.contains(key) {
            return Err(StepError { key, message: format!("`{action}` has no `{key}`") });
        }
    }
    let mut with = |key: &'static str, parse: fn(&str) -> Result<Duration, String>| {
        details(key).map(parse).transpose().map_err(|message| StepError { key, message })
    };
    let after = with("after", duration)?;
    let budget = with("budget", span)?;
    let repeat = with("repeat", span)?;
    let timeout = with("timeout", span)?;
    let action = match action {
        "record" => Action::Record,
        "deny" => Action::Deny,
        "freeze" => Action::Freeze,
        "squeeze" => Action::Squeeze,
        "ask" => Action::Ask(super::ask::step(timeout, details("default"))?),
        "hook" => Action::Hook(super::hook::program_step(&mut details)?),
        "handler" => Action::Hook(super::hook::handler_step(&mut details)?),
        "reclaim" => Action::Reclaim(reclaim(&mut details)?),
        "slow" => Action::Slow(slow(budget, details("floor"))?),
        "lend" => Action::Lend(super::lend::step(budget, &mut details)?),
        "signal" => Action::Signal { signal: signal(details("signal"))?, repeat },
        _ => Action::Kill { victim: victim(details("victim"), details("takes"))? },
    };
    let default = if first { Duration::ZERO } else { DEFAULT_AFTER };
    Ok(Step { action, after: after.unwrap_or(default) })
}

fn slow(budget: Option<Duration>, floor: Option<&str>) -> Result<Slow, StepError> {
    let default = Slow::default();
    let floor = floor.map(share).transpose().map_err(|message| StepError { key: "floor", message })?;
    Ok(Slow { budget: budget.unwrap_or(default.budget), floor: floor.unwrap_or(default.floor) })
}

fn reclaim<'a>(details: &mut dyn FnMut(&'static str) -> Option<&'a str>) -> Result<Reclaim, StepError> {
    let wrong = |key| move |message| StepError { key, message };
    let given = details("share").map(share).transpose().map_err(wrong("share"))?;
    let pressure = details("pressure").map(pressure).transpose().map_err(wrong("pressure"))?;
    let swap_out = details("swap-out").map(rate).transpose().map_err(wrong("swap-out"))?;
    let for_starved = match details("when") {
        None => false,
        Some("starved") => true,
        Some(other) => {
            let message = none_of("condition", other, &["starved"], &[]);
            return Err(StepError { key: "when", message });
        }
    };
    let default = Tolerance::default();
    let tolerance = (pressure.is_some() || for_starved).then(|| Tolerance {
        pressure: pressure.unwrap_or(default.pressure),
        swap_out: swap_out.unwrap_or(default.swap_out),
    });
    if swap_out.is_some() && tolerance.is_none() {
        let message = "`swap-out` goes with `pressure`: { action = \"reclaim\", pressure = \"0.1%\", swap-out = \"1MiB/s\" }";
        return Err(StepError { key: "swap-out", message: message.into() });
    }
    Ok(Reclaim { share: given.unwrap_or(Reclaim::default().share), tolerance, for_starved })
}

/// A part of the time, per cent with at most two decimals, in millionths: 0.01 % to 10 %.
///
/// # Errors
/// Says how to write it.
pub fn pressure(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{}` is not a part of the time; write for example `0.1%` or `1%`", cut(text));
    let number = text.trim().strip_suffix('%').ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 3 || fraction.len() > 2 {
        return Err(wrong());
    }
    let part = |t: &str| t.parse::<u32>().map_err(|_| wrong());
    let hundredths = part(whole)? * 100 + part(fraction)? * if fraction.len() == 1 { 10 } else { 1 };
    match hundredths {
        1..=1000 => Ok(hundredths * 100),
        _ => Err("the pressure to be tolerated is between 0.01% and 10%".into()),
    }
}

/// As [`pressure`] reads it.
pub fn pressure_text(millionths: u32) -> String {
    format!("{}%", f64::from(millionths) / 10_000.0)
}

/// An amount of memory a second.
///
/// # Errors
/// As [`size`]; or it does not say that it is a second's.
pub fn rate(text: &str) -> Result<Bytes, String> {
    match text.trim().strip_suffix("/s") {
        Some(amount) => size(amount),
        None => Err(format!("`{0}` is no rate; write for example `1MiB/s`", cut(text))),
    }
}

fn signal(word: Option<&str>) -> Result<u8, StepError> {
    let wrong = |message: String| StepError { key: "signal", message };
    let word = word.ok_or_else(|| StepError {
        key: "action",
        message: "`signal` needs to know which: { action = \"signal\", signal = \"SIGUSR1\" }".into(),
    })?;
    signals::parse(word).map_err(wrong)
}

fn victim(word: Option<&str>, takes: Option<&str>) -> Result<Victim, StepError> {
    let wrong = |message| Err(StepError { key: "takes", message });
    let part = match takes {
        None | Some("job") => Takes::Job,
        Some("process") => Takes::Process,
        Some("tree") => Takes::Tree,
        Some(other) => return wrong(none_of("part of a job", other, &["job", "process", "tree"], &[])),
    };
    if takes.is_some() && word != Some("lowest-priority") {
        return wrong(
            "`takes` says how much of a job goes, and goes with victim = \"lowest-priority\"".into(),
        );
    }
    match word {
        None | Some("group") => Ok(Victim::Group),
        Some("largest") => Ok(Victim::Largest),
        Some("lowest-priority") => Ok(Victim::LowestPriority(part)),
        Some(other) => Err(StepError {
            key: "victim",
            message: none_of("victim", other, &["group", "largest", "lowest-priority"], &[]),
        }),
    }
}

/// An action and the details given with it, keys of [`STEP_KEYS`].
pub type ShortStep = (String, Vec<(&'static str, String)>);

/// A step as the command line writes it: `deny`, `freeze`, `slow:60s`, `signal:SIGUSR1`, `kill:largest`, each with `@5s` for `after`.
/// Gives the action and its details.
///
/// # Errors
/// Says what an action takes.
pub fn short_step(word: &str) -> Result<ShortStep, String> {
    let (word, after) = word.split_once('@').map_or((word, None), |(w, after)| (w, Some(after)));
    let (action, detail) = word.split_once(':').map_or((word, None), |(w, detail)| (w, Some(detail)));
    let mut details = Vec::new();
    if let Some(after) = after {
        details.push(("after", after.to_owned()));
    }
    if let Some(detail) = detail {
        let key = match action {
            "slow" => "budget",
            "ask" => "timeout",
            "reclaim" => "share",
            "signal" => "signal",
            "kill" => "victim",
            "lend" => "amount",
            "handler" => "within",
            "record" | "deny" | "freeze" | "squeeze" => {
                return Err(format!("`{action}` takes nothing after `:`"));
            }
            other => return Err(none_of("action", other, ACTIONS, LATER_ACTIONS)),
        };
        details.push((key, detail.to_owned()));
    }
    Ok((action.to_owned(), details))
}
