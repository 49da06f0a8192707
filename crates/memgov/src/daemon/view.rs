//! Rules, episodes and holds as `memgov status` shows them. Runs on the serving thread.

use std::time::SystemTime;

use memgov_decide::decision::Target;
use memgov_decide::governor::KernelMark;
use memgov_decide::policy::Policy;
use memgov_decide::question::QuestionView;
use memgov_decide::snapshot::{GroupId, GroupSlot, ProcessId, ProcessSlot};
use memgov_decide::units::{Bytes, Time};

use super::answers::{Held, Marked, Running, StatusBuffer, Subject, who_is_held};
use crate::act::HoldView;
use crate::config::ask::verdict_text;
use crate::config::describe;
use crate::kernel::{GroupDir, Layout, proc};
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
        working_set: view.found.map(|found| wire::WorkingSetStatus {
            working_set_bytes: found.working_set.0,
            peak_bytes: found.peak.0,
            limit_bytes: running.limit.map(|limit| limit.0),
            enough_bytes: found.limit().0,
            settled: found.settled,
        }),
        program: view.hook.map(|hook| wire::ProgramStatus {
            handler: hook.by_handler,
            number: hook.id.0,
            since: wall(hook.since, at),
            left_ns: hook.until.0.saturating_sub(at.0),
            run: hook.run.map(event::run),
        }),
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
        HoldView::Lent(..) => ("lend", None),
        HoldView::Pooled(..) => ("pool", None),
        HoldView::Squeezed(..) => ("squeeze", None),
        HoldView::Waits(_) => ("oom-delay", None),
    };
    let lent = if let HoldView::Lent(_, amount) = held.view { Some(amount.0) } else { None };
    let sockets = if let HoldView::Squeezed(_, sockets) = held.view { Some(sockets) } else { None };
    let tcp = if let HoldView::Pooled(_, most) = held.view { Some(most.0) } else { None };
    let tasks = if let HoldView::Bounded(_, most) = held.view { Some(most) } else { None };
    wire::HoldStatus {
        target: event::target(target, &held.names),
        action: action.into(),
        by: text::mechanism(held.view.mechanism()).into(),
        share_permille: share,
        tasks,
        lent_bytes: lent,
        tcp_limit_bytes: tcp,
        sockets,
    }
}

/// An open question.
pub(super) fn question((view, names): &(QuestionView, Names), at: Time) -> wire::QuestionStatus {
    wire::QuestionStatus {
        number: view.id.0,
        episode: view.episode.0,
        source: event::source(view.source, names.rule.as_deref()),
        target: event::target(view.target, names),
        path: names.group.as_deref().unwrap_or_default().to_vec(),
        of_host: view.of_host,
        reason: event::reason(&view.reason, names.compared()),
        since: wall(view.since, at),
        left_ns: view.until.0.saturating_sub(at.0),
        default: verdict_text(view.default).into(),
    }
}

/// Calls that were refused.
pub(super) fn denials((target, names, calls): &(Target, Names, u64)) -> wire::DenialStatus {
    wire::DenialStatus { target: event::target(*target, names), calls: *calls }
}

/// The watermark of a group's kernel memory. Where the kernel keeps a peak itself (v1), that is told: it misses nothing.
pub(super) fn kernel(seen: &Marked, layout: &Layout) -> wire::KernelMark {
    let Marked { at, mark: KernelMark { id, slot, line, only_tracks, mark }, ref names } = *seen;
    let own = names.group.as_deref().and_then(|path| kernels_peak(layout, path, id));
    let read = mark.peak();
    wire::KernelMark {
        target: event::target(Target::Group(id, slot), names),
        line_bytes: line.0,
        only_tracks,
        kernel_bytes: mark.last().map(|(kernel, _)| kernel.0),
        peak_bytes: own.or(read.map(|(peak, _)| peak)).map(|peak| peak.0),
        peak_by: match (own, read) {
            (Some(_), _) => Some("kernel".into()),
            (None, Some(_)) => Some("readings".into()),
            (None, None) => None,
        },
        peak_time: read.filter(|_| own.is_none()).map(|(_, then)| wall(then, at)),
        since: mark.since().map(|since| wall(since, at)),
        hits: mark.hits(),
        growth_bytes_per_second: mark.growth(),
    }
}

/// `None`: the kernel keeps none (v2), the group is gone, or it is not accounted: 0 of a group that was seen to hold something would be no peak.
fn kernels_peak(layout: &Layout, path: &[u8], id: GroupId) -> Option<Bytes> {
    let dir = GroupDir::open(layout, path).ok().filter(|dir| dir.id() == id)?;
    dir.read_kernel_peak(&mut [0; 128]).ok()?.filter(|peak| peak.0 > 0)
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
