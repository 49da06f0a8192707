//! Looks into kernel memory that went over its line: which kind it is and who holds it, for `memgov explain`. On a thread of its own, behind the
//! record: it goes through `/proc`, which takes its time, and nobody waits for it.
//!
//! What a group held before its line was met is looked at every few seconds (one read of `memory.stat` on v2; from half the line on its processes too, if they are
//! few), so that the kind and the offender are named that grew, and not what has always been there. Nothing of it is done while no rule is about kernel memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime};

use memgov_decide::kernel_memory::{Breakdown, Holding, diagnose, offenders};
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::{Bytes, Time};

use super::answers::{Marked, StatusBuffer};
use super::desk::Desk;
use super::queue::Request;
use crate::kernel::{GroupDir, Layout, MemoryVersion, sys};
use crate::observe::kernel_memory::{some_holdings, survey};
use crate::record::doubt::Doubt;
use crate::record::event::{cause, holder};
use crate::record::journal::Findings;
use crate::serve::wire::KernelFinding;

/// Doubts that may wait.
const QUEUE: usize = 32;
/// So often groups are looked at before anything has happened.
const BEFORE: Duration = Duration::from_secs(5);
/// And so often whether any has a line.
const IDLE: Duration = Duration::from_secs(30);
/// A finding stands for the rest of its episode for so long.
const STANDS: Duration = Duration::from_secs(1);
/// Episodes whose finding is remembered, and groups whose kinds are.
const KEPT: usize = 64;
const GROUPS: usize = 1024;
/// Processes that are looked at: some tenths of a second.
const PROCESSES: usize = 2048;
/// Processes of one group that are looked at before anything has happened. Some milliseconds, each time.
const BEFOREHAND: usize = 128;
/// Names that are told.
const NAMES: usize = 4;

/// Starts the thread. One that cannot be started is said and done without.
pub(super) fn start(desk: &Arc<Desk>, findings: Findings) {
    let (examiner, doubts) = sync_channel(QUEUE);
    let for_thread = Arc::clone(desk);
    let started = std::thread::Builder::new()
        .name("memgov-examine".into())
        .spawn(move || Examiner::new(&for_thread).run(&doubts, &findings));
    match started {
        Ok(_) => desk.journal.examine_by(examiner),
        Err(error) => super::say(&format!("memgov: no thread to look into kernel memory: {error}")),
    }
}

/// What a group held while it was under its line.
#[derive(Default)]
struct Before {
    kinds: Option<Breakdown>,
    /// Empty: not looked at.
    held: Vec<Holding>,
}

struct Examiner<'a> {
    desk: &'a Desk,
    before: HashMap<GroupId, Before>,
    found: Vec<(u64, Time, KernelFinding)>,
}

impl<'a> Examiner<'a> {
    fn new(desk: &'a Desk) -> Self {
        Self { desk, before: HashMap::new(), found: Vec::new() }
    }

    fn run(mut self, doubts: &Receiver<Doubt>, findings: &Findings) {
        let mut next = sys::now();
        loop {
            match doubts.recv_timeout(next.since(sys::now())) {
                Ok(doubt) => {
                    let id = doubt.id;
                    if !findings.found(id, self.finding(&doubt)) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    next = sys::now() + if self.look_before() { BEFORE } else { IDLE };
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// What groups with a line hold while they are under it; `false`: there are none.
    fn look_before(&mut self) -> bool {
        if !self.desk.has_lines_for_kernel_memory() {
            self.before.clear();
            return false;
        }
        let buffer = Box::new(StatusBuffer::new());
        // Busy or stopping: what was known stays.
        let Ok(buffer) = self.desk.asker.ask(|reply| Request::Status { buffer, reply }) else { return true };
        let there: Vec<_> = buffer.kernel.iter().take(GROUPS).collect();
        self.before.retain(|id, _| there.iter().any(|marked| marked.mark.id == *id));
        for Marked { mark, names, .. } in there {
            let Some((kernel, _)) = mark.mark.last().filter(|(kernel, _)| *kernel <= mark.line) else {
                continue;
            };
            let path = names.group.as_deref().unwrap_or_default();
            let kinds = kinds(&self.desk.layout, path, mark.id);
            let near = kernel.0 > mark.line.0 / 2;
            let held = if near { few(&self.desk.layout, path, mark.id) } else { Vec::new() };
            self.before.insert(mark.id, Before { kinds, held });
        }
        true
    }

    /// Of a decision that kills the finding before it, if there is one: afterwards the offender is gone.
    fn finding(&mut self, doubt: &Doubt) -> KernelFinding {
        let now = sys::now();
        let known = self.found.iter().rev().find(|(episode, ..)| *episode == doubt.episode);
        let known = known.filter(|(_, at, _)| doubt.kill || now.since(*at) < STANDS);
        if let Some((.., finding)) = known {
            return finding.clone();
        }
        let finding = look(&self.desk.layout, doubt, self.before.get(&doubt.group));
        if self.found.len() == KEPT {
            self.found.remove(0);
        }
        self.found.push((doubt.episode, now, finding.clone()));
        finding
    }
}

/// v1 does not divide kernel memory: nothing to compare with.
fn kinds(layout: &Layout, path: &[u8], id: GroupId) -> Option<Breakdown> {
    let dir = GroupDir::open(layout, path).ok().filter(|dir| dir.id() == id)?;
    let divides = layout.version == MemoryVersion::V2;
    divides.then(|| dir.read_kernel_memory(&mut [0; 4096]).ok())?
}

/// The processes of a group that has not too many: of some of them nothing could be compared.
fn few(layout: &Layout, path: &[u8], id: GroupId) -> Vec<Holding> {
    let accounts = survey(layout, path).map(|survey| survey.accounts).unwrap_or_default();
    let same = accounts.first().is_some_and(|account| account.id == id);
    let few = accounts.first().is_some_and(|account| account.processes_in_all as usize <= BEFOREHAND);
    if !same || !few {
        return Vec::new();
    }
    let (held, left_out) = some_holdings(layout, &accounts, BEFOREHAND);
    if left_out == 0 { held } else { Vec::new() }
}

fn look(layout: &Layout, doubt: &Doubt, before: Option<&Before>) -> KernelFinding {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let accounts = survey(layout, &doubt.path).map(|survey| survey.accounts).unwrap_or_default();
    // Another group may have the path by now.
    let Some(account) = accounts.first().filter(|account| account.id == doubt.group) else {
        return KernelFinding { time, ..KernelFinding::default() };
    };
    let kind = diagnose(before.and_then(|before| before.kinds.as_ref()), &account.breakdown);
    let (held, left_out) = some_holdings(layout, &accounts, PROCESSES);
    let then = before.map(|before| before.held.as_slice()).filter(|held| !held.is_empty());
    let worst = offenders(then, &held, kind.map(|it| it.kind));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    KernelFinding {
        time,
        kernel_bytes: account.breakdown.total.map(|Bytes(total)| total),
        cause: kind.map(cause),
        trial: None,
        holders: worst.iter().take(NAMES).map(|one| holder(one, then.is_some())).collect(),
        processes: count(held.len()),
        left_out: Some(count(left_out)).filter(|n| *n > 0),
    }
}
