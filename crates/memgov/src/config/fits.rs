//! What a step needs of the rule it stands in, whether that comes from a file or from a request.

use memgov_decide::hook::{Helper, Hook};
use memgov_decide::policy::{Action, Meter, Reclaim, Step, Victim};

use super::words;

/// Why this action cannot stand in a rule with this meter (`None`: not known). `each_process`: the rule meets single processes.
pub fn why_not(action: &Action, meter: Option<Meter>, each_process: bool) -> Option<&'static str> {
    let of_group = each_process.then_some(match action {
        Action::Reclaim(_) => words::NO_RECLAIM,
        Action::Lend(_) => words::NO_LEND,
        Action::Squeeze => words::NO_SQUEEZE,
        Action::Ask(_) => words::NO_ASK,
        Action::Hook(Hook { by: Helper::Handler, .. }) => words::NO_HANDLER,
        Action::Hook(_) => words::NO_HOOK,
        _ => "",
    });
    of_group.filter(|why| !why.is_empty()).or_else(|| of_meter(action, meter?))
}

/// Why this action cannot stand in a rule of the host, and what to write instead.
pub fn why_not_of_host(action: &Action) -> Option<(&'static str, Option<&'static str>)> {
    const JOB: &str = "{ action = \"kill\", victim = \"lowest-priority\" } for jobs, or victim = \"largest\"";
    match action {
        Action::Kill { victim: Victim::Group } => Some((words::NO_KILL_OF_HOST, Some(JOB))),
        Action::Lend(_) => Some((words::NO_LEND_OF_HOST, None)),
        Action::Squeeze => Some((words::NO_SQUEEZE_OF_HOST, None)),
        Action::Reclaim(Reclaim { tolerance: Some(_), .. }) => Some((words::NO_TOLERANCE_OF_HOST, None)),
        _ => None,
    }
}

fn of_meter(action: &Action, meter: Meter) -> Option<&'static str> {
    let part = matches!(meter, Meter::Kernel | Meter::Sockets | Meter::Pool);
    match (action, meter) {
        (Action::Deny | Action::Slow(_) | Action::Reclaim(_) | Action::Lend(_), Meter::Pressure) => {
            Some(words::NO_AMOUNT)
        }
        (Action::Squeeze, Meter::Usage | Meter::Pool | Meter::Kernel) => Some(words::NO_SQUEEZE_FOR_USAGE),
        (Action::Reclaim(_), Meter::Sockets) => Some(words::NO_RECLAIM_OF_SOCKETS),
        (Action::Reclaim(Reclaim { tolerance: Some(_), .. }), _) if part => Some(words::NO_TOLERANCE),
        (Action::Lend(_), Meter::Kernel) => Some(words::NO_LEND_OF_KERNEL),
        (Action::Lend(_), Meter::Sockets) => Some(words::NO_LEND_OF_SOCKETS),
        _ => None,
    }
}

/// The second step that lends: twice would be a promise that is kept once, as a group has one loan at a time.
pub fn second_loan(steps: &[Step]) -> Option<usize> {
    let mut lent = (0..steps.len()).filter(|&at| matches!(steps[at].action, Action::Lend(_)));
    lent.nth(1)
}
