//! What is typed of `hook` and `handler`, and how it reads.

use std::sync::Arc;
use std::time::Duration;

use memgov_decide::hook::{Helper, Hook, Program};
use memgov_decide::units::Bytes;

use super::error::{At, Findings};
use super::table::cut;
use super::text::StepText;
use super::words::{self, StepError, duration_text};
use crate::terminal::shown;

/// Less is no time for a program to start in; longer than this nobody waits with a group that is out of memory.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(600);
/// With less data no program gets as far as its own first line.
const LEAST: Bytes = Bytes::mib(4);

/// Of `hook`: `within` and `memory`. The program comes from [`program`].
pub(super) fn program_step<'a>(
    details: &mut dyn FnMut(&'static str) -> Option<&'a str>,
) -> Result<Hook, StepError> {
    let mut hook = Hook::program(Arc::new([]));
    hook.within = within(details, hook.within)?;
    if let (Some(memory), Helper::Program(program)) = (details("memory"), &mut hook.by) {
        let wrong = |message| StepError { key: "memory", message };
        program.memory = words::size(memory).map_err(wrong)?;
        if program.memory < LEAST {
            return Err(wrong(format!("with less than {LEAST} of data no program starts")));
        }
    }
    Ok(hook)
}

/// Of `handler`: `within`.
pub(super) fn handler_step<'a>(
    details: &mut dyn FnMut(&'static str) -> Option<&'a str>,
) -> Result<Hook, StepError> {
    let hook = Hook::by(Helper::Handler);
    Ok(Hook { within: within(details, hook.within)?, ..hook })
}

fn within<'a>(
    details: &mut dyn FnMut(&'static str) -> Option<&'a str>,
    default: Duration,
) -> Result<Duration, StepError> {
    let wrong = |message| StepError { key: "within", message };
    let within = details("within").map(words::span).transpose().map_err(wrong)?.unwrap_or(default);
    if !(SHORTEST..=LONGEST).contains(&within) {
        let (least, most) = (duration_text(SHORTEST), duration_text(LONGEST));
        return Err(wrong(format!(
            "it may take between {least} and {most}: the ladder stands still meanwhile"
        )));
    }
    Ok(within)
}

/// The program and its arguments, as they were typed.
pub(super) fn program(text: &StepText, findings: &mut Findings<'_>) -> Option<Arc<[Box<str>]>> {
    const EXAMPLE: &str = "{ action = \"hook\", run = [\"/usr/local/lib/job-drop-cache\", \"--fast\"] }";
    let Some(run) = &text.run else {
        findings.error(text.action.at, format!("`hook` needs to know which program: {EXAMPLE}"));
        return None;
    };
    let Some(first) = run.it.first() else {
        let message = "`run` is empty: the program comes first, by its absolute path, and then its arguments";
        findings.error_with(run.at, message, Some(EXAMPLE.into()));
        return None;
    };
    if !first.it.starts_with('/') {
        let name = cut(first.it.rsplit('/').next().unwrap_or_default());
        let message = format!("`{}` is no absolute path, and no PATH is searched", cut(&first.it));
        findings.error_with(first.at, message, Some(format!("write for example `/usr/local/lib/{name}`")));
        return None;
    }
    if let Some(word) = run.it.iter().find(|word| word.it.contains('\0')) {
        findings.error(word.at, "a program is given no argument with a NUL in it (execve(2))");
        return None;
    }
    Some(run.it.iter().map(|At { it, .. }| it.as_str().into()).collect())
}

/// The whole command, for people. Not for a shell: there is none.
fn command(program: &Program) -> String {
    let word =
        |word: &str| if word.is_empty() || word.contains(' ') { format!("{word:?}") } else { shown(word) };
    program.run.iter().map(|it| word(it)).collect::<Vec<_>>().join(" ")
}

/// In words.
pub(super) fn text(hook: &Hook, target: &str) -> String {
    let within = duration_text(hook.within);
    let of_host = target == super::describe::HOSTS;
    let (whom, whose) =
        if of_host { (target, "the handler of the job that gives way first") } else { ("it", "its handler") };
    match &hook.by {
        Helper::Program(program) => format!(
            "run `{}` for {whom} (as root, each of its processes with at most {} of data, killed after {within}) and wait for that and for what it frees",
            command(program),
            program.memory,
        ),
        Helper::Handler => format!(
            "tell {whose} (the process that has registered for it, if there is one) and wait for its word, at most {within}, and for what it frees"
        ),
    }
}
