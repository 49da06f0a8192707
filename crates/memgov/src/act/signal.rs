//! Sending a signal, to one process or to each of a group. Which, when and how often is not decided here.

use memgov_decide::decision::{Mechanism, Operation, Outcome, Target};

use super::{Aim, Kit, Tally};
use crate::kernel::pidfd::PidFd;
use crate::kernel::{Errno, proc};

/// The greatest signal number there is.
const MOST: u8 = 64;

/// Sends `signal` to the target; in a group everybody gets it who may be touched.
pub(super) fn send(kit: &mut Kit, at: &Aim<'_>, signal: u8) -> Outcome {
    if !(1..=MOST).contains(&signal) {
        return super::refused(Operation::SendSignal, Errno::INVAL);
    }
    let mut tally = Tally::default();
    match at.decision.target {
        Target::Process(who, _) => {
            if let Err(outcome) = at.guarded(kit, who) {
                return outcome;
            }
            tally.count(send_one(who, signal));
            if let Some(gone) = tally.gone_if_nobody() {
                return gone;
            }
        }
        Target::Group(id, slot) => {
            if let Err(outcome) = at.sweep_group(kit, id, slot) {
                return outcome;
            }
            let mut buffer = [0; proc::STAT_BUFFER];
            for &pid in kit.sweep.pids() {
                match proc::read_stat(pid, &mut buffer) {
                    Ok(stat) if !stat.has_ended() && kit.guard.forbids(&stat).is_none() => {
                        tally.count(send_one(stat.id(), signal));
                    }
                    _ => {}
                }
            }
            tally.overflow(kit.sweep.overflow());
        }
        Target::Host => return super::of_the_host(Operation::SendSignal),
    }
    tally.outcome(Mechanism::Pidfd)
}

fn send_one(who: memgov_decide::snapshot::ProcessId, signal: u8) -> Result<(), (Operation, Errno)> {
    let process = PidFd::open(who).map_err(|errno| (Operation::PidfdOpen, errno))?;
    process.send(signal).map_err(|errno| (Operation::SendSignal, errno))
}
