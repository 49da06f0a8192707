//! The queue of requests into the loop, and its bell. What needs memory or time is prepared by whoever asks.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use memgov_decide::control::MemControl;
use memgov_decide::decision::DecisionId;
use memgov_decide::policy::Policy;
use memgov_decide::question::{Answer, NotOpen};
use memgov_decide::snapshot::{GroupId, ProcessId};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, OwnedFd};

use super::answers::{Marked, StatusBuffer};
use super::succession::Sentry;
use crate::act::ledger::{OwnedEntry, Place};
use crate::kernel::{Errno, Error};
use crate::record::happening::Shrunk;
use crate::serve::{Failure, FailureKind};

/// Requests that may wait.
const QUEUE: usize = 32;
/// How long whoever asks waits for the loop.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where an answer goes: room for exactly one, so that the loop never waits.
pub(super) type Reply<T> = SyncSender<T>;

/// A policy on its way in, with what belongs to it.
pub(super) struct NewPolicy {
    pub policy: Policy,
    pub rule_names: Vec<Arc<str>>,
    pub dry_run: bool,
    /// Only what was said of jobs has changed.
    pub of_jobs: bool,
}

/// What the loop can be asked.
pub(super) enum Request {
    SetControl {
        who: ProcessId,
        control: MemControl,
        by: u32,
        reply: Reply<Result<(), Failure>>,
    },
    GetControl {
        who: ProcessId,
        reply: Reply<Option<MemControl>>,
    },
    ClearControl {
        who: ProcessId,
        reply: Reply<()>,
    },
    /// What was in force goes back, to be freed where freeing may take time.
    SetPolicy {
        new: Box<NewPolicy>,
        reply: Reply<Box<NewPolicy>>,
    },
    Status {
        buffer: Box<StatusBuffer>,
        reply: Reply<Box<StatusBuffer>>,
    },
    /// What is kept of the kernel memory of one group, if a rule has a line for it.
    KernelMark {
        group: GroupId,
        reply: Reply<Option<Marked>>,
    },
    /// The peak of a group's kernel memory starts anew; whether a rule has a line for it.
    ResetKernelPeak {
        group: GroupId,
        reply: Reply<bool>,
    },
    /// Which programs are needed now?
    Needed {
        reply: Reply<crate::bpf::Hooks>,
    },
    /// The programs that were asked for are attached, or others are gone; what of it is in force.
    Attached {
        hooks: crate::bpf::Hooks,
        reply: Reply<()>,
    },
    /// Another guardian has taken the place of one that died.
    Guardian {
        sentry: Sentry,
        reply: Reply<()>,
    },
    /// What a shrink is about to lower.
    WriteDown {
        entry: OwnedEntry,
        reply: Reply<Result<Place, Errno>>,
    },
    /// It is as it was.
    CrossOut {
        place: Place,
        reply: Reply<Result<(), Errno>>,
    },
    /// How a shrink went, for the record.
    Shrunk {
        group: GroupId,
        by: u32,
        shrunk: Shrunk,
        reply: Reply<()>,
    },
    /// Is the loop alive?
    Ping {
        reply: Reply<()>,
    },
    /// Somebody's answer to a question.
    Answer {
        question: DecisionId,
        answer: Answer,
        reply: Reply<Result<(), NotOpen>>,
    },
}

/// Nobody has taken the request yet; whoever asks may still call it off.
const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const CALLED_OFF: u8 = 2;

/// A request in the queue.
pub(super) struct Ticket {
    request: Request,
    state: Arc<AtomicU8>,
}

impl Ticket {
    /// The request, unless it was called off: then it is as if it had never been made.
    pub fn take(self) -> Option<Request> {
        let taken = self.state.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok().then_some(self.request)
    }
}

/// The end of the queue that asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    queue: SyncSender<Ticket>,
    bell: Arc<OwnedFd>,
}

/// The queue, its bell and who rings it.
pub(super) fn queue() -> Result<(Asker, Receiver<Ticket>, Arc<OwnedFd>), Error> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let bell = Arc::new(eventfd(0, flags).map_err(|e| Error::new("opening", "eventfd", e))?);
    let (sender, receiver) = sync_channel(QUEUE);
    Ok((Asker { queue: sender, bell: Arc::clone(&bell) }, receiver, bell))
}

impl Asker {
    /// Asks and waits, within [`PATIENCE`].
    pub fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        let busy = || FailureKind::Busy.because("the daemon is busy acting; try again");
        let (reply, answer) = sync_channel(1);
        let state = Arc::new(AtomicU8::new(WAITING));
        let ticket = Ticket { request: request(reply), state: Arc::clone(&state) };
        match self.queue.try_send(ticket) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(busy()),
            Err(TrySendError::Disconnected(_)) => {
                return Err(FailureKind::Internal.because("the daemon is stopping"));
            }
        }
        ring(&self.bell);
        let stopping = |_| FailureKind::Internal.because("the daemon is stopping");
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => Ok(answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(stopping(mpsc::RecvError)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                match state.compare_exchange(WAITING, CALLED_OFF, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => Err(busy()),
                    // Too late: it is being carried out, so what comes of it is the answer.
                    Err(_) => answer.recv().map_err(stopping),
                }
            }
        }
    }
}

/// Wakes the loop.
pub(super) fn ring(bell: &impl AsFd) {
    // It fails only when it is ringing already.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// Silences the bell.
pub(super) fn quiet(bell: &impl AsFd) {
    let mut count = [0; 8];
    // It fails only when it is not ringing.
    let _ = rustix::io::read(bell, &mut count);
}
