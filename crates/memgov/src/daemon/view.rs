//! Rules, episodes and holds as `memgov status` shows them. Runs on the serving thread.

use std::time::SystemTime;

use memgov_decide::decision::Target;
use memgov_decide::policy::Policy;
use memgov_decide::snapshot::{GroupSlot, ProcessId, ProcessSlot};
use memgov_decide::units::Time;

use super::answers::{Held, Running, StatusBuffer, Subject, who_is_held};
use crate::act::HoldView;
use crate::config::describe;
use crate::kernel::proc;
use crate::record::event::{self, Names};
use crate::record::text;
use crate::serve::wire;

pub(super) fn rules(policy: &Policy, buffer: &StatusBuffer) -> Vec<wire::RuleStatus> {
    let running =
        |name: &str| buffer.episodes.iter().filter(|e| e.names.rule.as_deref() == Some(name)).count();
    let status = policy.rules.iter().map(|rule| wire::RuleStatus {
        name: rule.name.clone(),
        meaning: describe::rule(rule),
        episodes: running(&rule.name) as u64,
    });
    status.collect()
}

pub(super) fn episode(running: &Running, at: Time) -> wire::EpisodeStatus {
    let (view, names) = (&running.view, &running.names);
    wire::EpisodeStatus {
        episode: view.id.0,
        source: event::source(view.source, names.rule.as_deref()),
        target: event::target(view.target, names),
        since: wall(view.since, at),
        step: view.step,
        order: view.last.map(|(order, _)| event::order(&order)),
        reason: view.last.map(|(_, reason)| event::reason(&reason, names.compared())),
    }
}

/// The loop has no row for a process that is held only with its group; /proc knows who it is.
fn name(who: ProcessId, names: &mut Names) {
    let mut buffer = [0; 4096];
    if names.comm[0] != 0 {
        return;
    }
    let Some(stat) = proc::read_stat(who.pid, &mut buffer).ok().filter(|stat| stat.id() == who) else {
        return;
    };
    names.comm = stat.comm;
    let uids = proc::read_status(who.pid, &mut buffer).ok().and_then(|status| status.uids);
    names.uid = names.uid.or(uids.map(|uids| uids[0]));
}

pub(super) fn hold(held: &mut Held) -> wire::HoldStatus {
    let target = match who_is_held(&held.view) {
        Subject::Process(who) => {
            name(who, &mut held.names);
            Target::Process(who, ProcessSlot(0))
        }
        Subject::Group(id) => Target::Group(id, GroupSlot(0)),
    };
    let (action, share) = match &held.view {
        HoldView::Denied(_) => ("deny", None),
        HoldView::Slowed(slowed) if slowed.share == 0 => ("freeze", None),
        HoldView::Slowed(slowed) => ("slow", Some(slowed.share)),
        HoldView::Capped(_) => ("deny", None),
        HoldView::Bounded(..) => ("bound", None),
    };
    let tasks = if let HoldView::Bounded(_, most) = held.view { Some(most) } else { None };
    wire::HoldStatus {
        target: event::target(target, &held.names),
        action: action.into(),
        by: text::mechanism(held.view.mechanism()).into(),
        share_permille: share,
        tasks,
    }
}

/// Calls that were refused.
pub(super) fn denials((target, names, calls): &(Target, Names, u64)) -> wire::DenialStatus {
    wire::DenialStatus { target: event::target(*target, names), calls: *calls }
}

/// A moment of the monotonic clock as wall-clock time.
fn wall(then: Time, now: Time) -> String {
    let ago = now.since(then);
    let wall = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(wall).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_row_has_its_name_all_the_same() {
        let mut buffer = [0; 4096];
        let me = proc::read_stat(std::process::id(), &mut buffer).unwrap();
        let mut names = Names::default();
        name(me.id(), &mut names);
        assert_eq!(names.comm, me.comm);
        assert_eq!(names.uid, Some(rustix::process::getuid().as_raw()));
        let mut names = Names::default();
        name(ProcessId { start: me.start + 1, ..me.id() }, &mut names);
        assert_eq!(names.comm, [0; 16], "another process of the same pid is not it");
    }
}
