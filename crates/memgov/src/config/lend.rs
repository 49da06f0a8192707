//! What is typed of `lend`, and how it reads.

use std::time::Duration;

use memgov_decide::policy::Lend;

use super::words::{self, StepError, duration_text, under_text};

/// `amount`, `keep` and `budget`.
pub(super) fn step<'a>(
    budget: Option<Duration>,
    details: &mut dyn FnMut(&'static str) -> Option<&'a str>,
) -> Result<Lend, StepError> {
    let wrong = |key| move |message| StepError { key, message };
    let Some(amount) = details("amount") else {
        let message = "`lend` needs to know how much: { action = \"lend\", amount = \"256MiB\" }".into();
        return Err(StepError { key: "action", message });
    };
    let amount = words::size(amount).map_err(wrong("amount"))?;
    if amount.0 == 0 {
        return Err(StepError { key: "amount", message: "must be more than 0".into() });
    }
    let default = Lend::new(amount);
    let keep = details("keep").map(words::under).transpose().map_err(wrong("keep"))?;
    Ok(Lend { amount, keep: keep.unwrap_or(default.keep), budget: budget.unwrap_or(default.budget) })
}

/// In words.
pub(super) fn text(lend: &Lend) -> String {
    let Lend { amount, keep, budget } = lend;
    format!(
        "raise its hard limit by {amount} for at most {}, if the host can spare it and keep {} of its memory (if not, what follows is at once)",
        duration_text(*budget),
        under_text(*keep)
    )
}
