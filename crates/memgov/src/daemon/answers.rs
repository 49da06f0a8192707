//! The loop's answers to requests. What is copied goes into room that whoever asks has brought.

use std::sync::Arc;

use memgov_decide::control::MemControl;
use memgov_decide::decision::{Source, Target};
use memgov_decide::governor::{EpisodeView, KernelMark};
use memgov_decide::question::QuestionView;
use memgov_decide::snapshot::{GroupId, Lost, ProcessId, Snapshot};
use memgov_decide::units::{Bytes, Time};

use super::governing::Governing;
use super::queue::{NewPolicy, Request};
use crate::act::HoldView;
use crate::kernel::sys;
use crate::observe;
use crate::record::event::Names;
use crate::serve::{Failure, FailureKind};

/// At most so many entries in each list of a status.
pub(super) const STATUS_ROWS: usize = 512;

/// A held target with its names.
pub(super) struct Held {
    pub view: HoldView,
    pub names: Names,
}

/// An episode with its names.
pub(super) struct Running {
    pub view: EpisodeView,
    pub names: Names,
    /// Of a group, its limit.
    pub limit: Option<Bytes>,
}

/// What is kept of the kernel memory of a group, and when that was said.
pub(super) struct Marked {
    pub at: Time,
    pub mark: KernelMark,
    pub names: Names,
}

/// Room for a status, brought by whoever asks.
pub(super) struct StatusBuffer {
    pub at: Time,
    pub episodes: Vec<Running>,
    pub holds: Vec<Held>,
    pub controls: Vec<(ProcessId, MemControl)>,
    /// Who was refused something inside the kernel, and how many calls.
    pub refused: Vec<(Target, Names, u64)>,
    /// Groups whose kernel memory has a line.
    pub kernel: Vec<Marked>,
    /// Open questions.
    pub questions: Vec<(QuestionView, Names)>,
    /// Records of what the kernel did by itself that were left out.
    pub happenings_left_out: u64,
    pub left_out: u64,
    pub groups: usize,
    pub processes: usize,
    pub all_controls: usize,
    pub lost: Lost,
    /// Sockets squeezed and let go so far.
    pub squeezed: crate::act::Squeezed,
    pub decisions_lost: u64,
    /// Groups under a line for kernel memory whose processes are not bounded, for want of room.
    pub standing_left_out: u64,
}

impl StatusBuffer {
    pub fn new() -> Self {
        Self {
            at: Time(0),
            episodes: Vec::with_capacity(STATUS_ROWS),
            holds: Vec::with_capacity(STATUS_ROWS),
            controls: Vec::with_capacity(STATUS_ROWS),
            refused: Vec::with_capacity(STATUS_ROWS),
            kernel: Vec::with_capacity(STATUS_ROWS),
            questions: Vec::with_capacity(STATUS_ROWS),
            happenings_left_out: 0,
            left_out: 0,
            groups: 0,
            processes: 0,
            all_controls: 0,
            lost: Lost::default(),
            squeezed: crate::act::Squeezed::default(),
            decisions_lost: 0,
            standing_left_out: 0,
        }
    }
}

/// Answers one request. Nobody may be waiting any more: then the answer is dropped.
pub(super) fn answer(governing: &mut Governing, request: Request) {
    match request {
        Request::SetControl { who, control, by, reply } => {
            let _ = reply.try_send(set_control(governing, who, control, by));
        }
        Request::GetControl { who, reply } => {
            let _ = reply.try_send(get_control(governing, who));
        }
        Request::ClearControl { who, reply } => {
            governing.governor.forget(who);
            governing.tape.forget(who);
            governing.observer.forget(who);
            let _ = reply.try_send(());
        }
        Request::SetPolicy { new, reply } => {
            let _ = reply.try_send(set_policy(governing, new));
        }
        Request::Status { buffer, reply } => {
            let _ = reply.try_send(status(governing, buffer));
        }
        Request::KernelMark { group, reply } => {
            let Governing { governor, snap, .. } = governing;
            let mark = governor.kernel_mark(group, snap);
            let _ = reply.try_send(mark.map(|mark| marked(mark, snap, sys::now())));
        }
        Request::ResetKernelPeak { group, reply } => {
            let Governing { governor, snap, .. } = governing;
            let _ = reply.try_send(governor.reset_kernel_mark(group, sys::now(), snap));
        }
        Request::Needed { reply } => {
            let stands =
                if governing.actor.is_dry_run() { Default::default() } else { governing.governor.stands() };
            let _ = reply.try_send(super::inside::hooks(stands));
        }
        Request::Attached { hooks, reply } => {
            let Governing { actor, governor, .. } = governing;
            if let Some(inside) = &mut actor.inside {
                inside.in_force(hooks);
                inside.each_uncounted(&mut |slot| governor.pace_hint_event(slot, sys::now()));
            }
            let _ = reply.try_send(());
        }
        Request::Guardian { sentry, reply } => {
            governing.post(sentry);
            let _ = reply.try_send(());
        }
        Request::WriteDown { entry, reply } => {
            let _ = reply.try_send(governing.actor.ledger_mut().record(&entry.borrow()));
        }
        Request::CrossOut { place, reply } => {
            let _ = reply.try_send(governing.actor.ledger_mut().erase(place));
        }
        Request::Shrunk { group, by, shrunk, reply } => {
            governing.tell_shrunk(group, by, shrunk);
            let _ = reply.try_send(());
        }
        Request::Ping { reply } => {
            let _ = reply.try_send(());
        }
        Request::Answer { question, answer, reply } => {
            let heard = governing.governor.answer(question, answer);
            if heard.is_ok() {
                governing.tape.answer(question, &answer);
            }
            let _ = reply.try_send(heard);
        }
    }
}

fn set_control(
    governing: &mut Governing,
    who: ProcessId,
    control: MemControl,
    by: u32,
) -> Result<(), Failure> {
    let Governing { observer, snap, governor, tape, .. } = governing;
    let gone = || FailureKind::NoSuchProcess.because(format!("process {} has exited", who.pid));
    if !observer.may_set(who, by) {
        return Err(
            FailureKind::TableFull.because("you have set controls on as many processes as one user may")
        );
    }
    observer.bury_namesake(who, snap, governor, tape);
    observe::set_control(governor, tape, who, control)
        .map_err(|_| FailureKind::TableFull.because("no room for another control; raise max-processes"))?;
    observer.set_by(who, by);
    observer.follow(governor);
    let slot = observer.ensure_process(who.pid, snap, governor, tape);
    let same = slot.and_then(|slot| snap.process(slot)).is_some_and(|p| p.id == who);
    if !same {
        governor.forget(who);
        tape.forget(who);
        observer.forget(who);
        return Err(gone());
    }
    observer.arm(snap, governor);
    Ok(())
}

/// A child that has just been born may not have been told of yet: its parent's control is its own.
fn get_control(governing: &mut Governing, who: ProcessId) -> Option<MemControl> {
    let Governing { observer, snap, governor, tape, .. } = governing;
    observer.bury_namesake(who, snap, governor, tape);
    governing.governor.control(who).or_else(|| {
        let Governing { observer, snap, governor, tape, .. } = governing;
        observer.adopt(who, snap, governor, tape);
        governor.control(who)
    })
}

fn set_policy(governing: &mut Governing, mut new: Box<NewPolicy>) -> Box<NewPolicy> {
    governing.actor.reconfigure(new.policy.never.clone(), new.dry_run);
    if !new.dry_run && super::reclaims(&new.policy) {
        governing.actor.reclaim_ready();
    }
    governing.actor.plan(&new.policy);
    governing.actor.count_sockets(new.policy.asks_for_sockets());
    governing.actor.squeeze_ready(new.policy.squeezes(), new.policy.never.clone());
    new.policy = governing.governor.set_policy(std::mem::take(&mut new.policy));
    std::mem::swap(&mut governing.rule_names, &mut new.rule_names);
    if let Some(inside) = &mut governing.actor.inside {
        inside.begin_generation();
        governing.other_rules = true;
    }
    let Governing { observer, snap, governor, tape, .. } = governing;
    if new.of_jobs {
        tape.jobs(governor.policy().set_jobs());
    } else {
        tape.policy(governor.policy().rules.iter().map(|rule| rule.name.as_str()));
    }
    observer.scan(snap, governor, tape);
    new
}

fn status(governing: &Governing, mut buffer: Box<StatusBuffer>) -> Box<StatusBuffer> {
    let Governing { snap, governor, actor, observer, rule_names, .. } = governing;
    buffer.at = sys::now();
    buffer.groups = snap.groups.len();
    buffer.processes = snap.processes.len();
    buffer.lost = snap.lost;
    buffer.squeezed = governing.actor.squeezed();
    buffer.decisions_lost = governing.buffers.decisions_lost();
    buffer.standing_left_out = governing.unbounded();
    for (who, control) in governor.controls() {
        buffer.all_controls += 1;
        keep(&mut buffer.controls, &mut buffer.left_out, (who, control));
    }
    for view in governor.episodes() {
        let rule = |number: usize| rule_names.get(number).map(Arc::clone);
        let names = Names::of_target(
            view.source,
            view.target,
            view.last.as_ref().map(|(_, reason)| reason),
            snap,
            rule,
        );
        let limit = match view.target {
            Target::Group(_, slot) => snap.group(slot).and_then(|group| group.max?.bytes()),
            Target::Process(..) | Target::Host => None,
        };
        keep(&mut buffer.episodes, &mut buffer.left_out, Running { view, names, limit });
    }
    for view in governor.questions() {
        let rule = |number: usize| rule_names.get(number).map(Arc::clone);
        let names = Names::of_target(view.source, view.target, Some(&view.reason), snap, rule);
        keep(&mut buffer.questions, &mut buffer.left_out, (view, names));
    }
    buffer.happenings_left_out = governing.happenings.all_left_out;
    if let Some(inside) = &actor.inside {
        inside.each_refused(&mut |target, calls| {
            let names = Names::of_target(Source::Control, target, None, snap, |_| None);
            keep(&mut buffer.refused, &mut buffer.left_out, (target, names, calls));
        });
    }
    for mark in governor.kernel_marks(snap) {
        keep(&mut buffer.kernel, &mut buffer.left_out, marked(mark, snap, buffer.at));
    }
    for view in actor.holds() {
        let mut names = Names::default();
        match who_is_held(&view) {
            Subject::Process(who) => {
                if let Some(process) = observer.process_slot(who.pid).and_then(|slot| snap.process(slot)) {
                    names.comm = process.comm;
                    names.uid = process.uid;
                    names.group = process.group.and_then(|g| snap.group(g)).map(|g| Arc::clone(&g.path));
                }
            }
            Subject::Group(id) => {
                let group = snap.groups.iter().find(|(_, g)| g.id == id);
                names.group = group.map(|(_, g)| Arc::clone(&g.path));
                names.owner = group.and_then(|(_, g)| g.owner);
            }
        }
        keep(&mut buffer.holds, &mut buffer.left_out, Held { view, names });
    }
    buffer
}

fn marked(mark: KernelMark, snap: &Snapshot, at: Time) -> Marked {
    let target = Target::Group(mark.id, mark.slot);
    Marked { at, mark, names: Names::of_target(Source::Control, target, None, snap, |_| None) }
}

/// Who a hold holds.
pub(super) enum Subject {
    Process(ProcessId),
    Group(GroupId),
}

/// Who a hold holds.
pub(super) fn who_is_held(view: &HoldView) -> Subject {
    match view {
        HoldView::Denied(denied) => Subject::Process(denied.who),
        HoldView::Capped(id)
        | HoldView::Bounded(id, _)
        | HoldView::Lent(id, _)
        | HoldView::Pooled(id, _)
        | HoldView::Waits(id)
        | HoldView::Squeezed(id, _) => Subject::Group(*id),
        HoldView::Slowed(slowed) => match slowed.target {
            memgov_decide::decision::Target::Process(who, _) => Subject::Process(who),
            memgov_decide::decision::Target::Group(id, _) => Subject::Group(id),
            // Nobody slows the machine.
            memgov_decide::decision::Target::Host => Subject::Group(GroupId(0)),
        },
    }
}

fn keep<T>(list: &mut Vec<T>, left_out: &mut u64, entry: T) {
    if list.len() < list.capacity() {
        list.push(entry);
    } else {
        *left_out += 1;
    }
}
