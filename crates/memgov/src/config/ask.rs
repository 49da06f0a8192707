//! The words of the step that asks, and of answers: the same in files, on the command line and on the socket.

use std::time::Duration;

use memgov_decide::question::{Ask, Verdict};

use super::text::none_of;
use super::words::{StepError, duration_text};

/// What can be answered.
pub const VERDICTS: [(&str, Verdict); 3] =
    [("kill", Verdict::Kill), ("go-on", Verdict::GoOn), ("wait", Verdict::Wait)];

/// The word for an answer.
pub fn verdict_text(verdict: Verdict) -> &'static str {
    VERDICTS.iter().find(|(_, other)| *other == verdict).map_or("?", |(word, _)| word)
}

/// An answer.
///
/// # Errors
/// Names those that there are.
pub fn verdict(word: &str) -> Result<Verdict, String> {
    let known = VERDICTS.map(|(word, _)| word);
    let found = VERDICTS.iter().find(|(other, _)| *other == word);
    found.map(|(_, verdict)| *verdict).ok_or_else(|| none_of("answer", word, &known, &[]))
}

/// The step, as far as it was said.
pub(super) fn step(timeout: Option<Duration>, default: Option<&str>) -> Result<Ask, StepError> {
    let usual = Ask::default();
    let default =
        default.map(verdict).transpose().map_err(|message| StepError { key: "default", message })?;
    Ok(Ask { timeout: timeout.unwrap_or(usual.timeout), default: default.unwrap_or(usual.default) })
}

/// What the step does, for `memgov check`.
pub(super) fn describe(ask: &Ask, target: &str) -> String {
    let unanswered = match ask.default {
        Verdict::Kill => format!("kill {target}"),
        Verdict::GoOn => "let it run on".to_owned(),
        Verdict::Wait => "let it stand until somebody does".to_owned(),
    };
    format!(
        "freeze {target} and ask (`memgov answer`) what is to happen; if nobody has answered in {}, {unanswered}",
        duration_text(ask.timeout)
    )
}
