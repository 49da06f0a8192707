//! Usage thresholds of cgroup v1, and word of a group that is out of memory, set on a thread of their own. Each takes the kernel an RCU grace period
//! (`__mem_cgroup_usage_register_event` in mm/memcontrol-v1.c): 10 ms at rest, and seconds while a fork bomb keeps all processors. The loop never waits for
//! that; until it is told that a group's alarm is set it samples the group.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use memgov_decide::snapshot::GroupSlot;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::kernel::notify::Threshold;

/// Orders under way at most; further ones wait with the rows they are about.
const ROOM: usize = 64;

/// Which order: a row whose lines have changed meanwhile has given another, and a row that was given to another group has given none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OrderId(u64);

#[derive(Debug)]
struct Order {
    id: OrderId,
    slot: GroupSlot,
    dir: OwnedFd,
    /// Usage, in bytes.
    at: Vec<u64>,
    /// That it is out of memory is to be told too.
    oom: bool,
}

/// What became of an order.
#[derive(Debug)]
pub(super) struct Posted {
    pub id: OrderId,
    pub slot: GroupSlot,
    /// Dropping one takes it back.
    pub thresholds: Vec<Threshold>,
    /// All that were asked for.
    pub whole: bool,
}

/// The loop's side.
#[derive(Debug, Default)]
pub(super) struct Sentry {
    thread: Option<(SyncSender<Order>, Receiver<Posted>)>,
    last: u64,
    under_way: usize,
}

/// Why an order was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Later.
    Full,
    /// No thread, or no descriptor: the group goes on being sampled.
    Impossible,
}

impl Sentry {
    /// Asks for thresholds at these amounts of a group; does not wait.
    pub(super) fn order(
        &mut self,
        slot: GroupSlot,
        dir: BorrowedFd<'_>,
        at: Vec<u64>,
        oom: bool,
    ) -> Result<OrderId, Refused> {
        if self.under_way == ROOM {
            return Err(Refused::Full);
        }
        if self.thread.is_none() {
            self.thread = start();
        }
        let Some((orders, _)) = &self.thread else { return Err(Refused::Impossible) };
        let dir = dir.try_clone_to_owned().map_err(|_| Refused::Impossible)?;
        let id = OrderId(self.last + 1);
        match orders.try_send(Order { id, slot, dir, at, oom }) {
            Ok(()) => {
                (self.last, self.under_way) = (id.0, self.under_way + 1);
                Ok(id)
            }
            Err(TrySendError::Full(_)) => Err(Refused::Full),
            Err(TrySendError::Disconnected(_)) => Err(Refused::Impossible),
        }
    }

    /// Whether something was ordered that has not been seen to end.
    pub(super) const fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// The next order that has ended.
    pub(super) fn posted(&mut self) -> Option<Posted> {
        let (_, ended) = self.thread.as_ref()?;
        match ended.try_recv() {
            Ok(posted) => {
                self.under_way -= 1;
                Some(posted)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                (self.thread, self.under_way) = (None, 0);
                None
            }
        }
    }
}

/// It ends with the sender, and is not waited for: it may be in the kernel for long.
fn start() -> Option<(SyncSender<Order>, Receiver<Posted>)> {
    let (orders, taken) = sync_channel::<Order>(ROOM);
    // Never full: no more are under way.
    let (ended, posted) = sync_channel(ROOM);
    let run = move || {
        for order in taken {
            if ended.send(post(order)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("memgov-sentry".into()).spawn(run).ok()?;
    Some((orders, posted))
}

fn post(Order { id, slot, dir, at, oom }: Order) -> Posted {
    let usage = at.iter().map(|bytes| Threshold::arm(dir.as_fd(), *bytes));
    let thresholds: Vec<Threshold> =
        usage.chain(oom.then(|| Threshold::arm_oom(dir.as_fd()))).filter_map(Result::ok).collect();
    let whole = thresholds.len() == at.len() + usize::from(oom);
    Posted { id, slot, thresholds, whole }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn wait(sentry: &mut Sentry) -> Posted {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(posted) = sentry.posted() {
                return posted;
            }
            assert!(Instant::now() < end, "an order did not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn an_order_that_cannot_be_carried_out_ends_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(dir.path()).unwrap();
        let mut sentry = Sentry::default();
        assert!(!sentry.is_busy() && sentry.posted().is_none());
        let id = sentry.order(GroupSlot(7), dir.as_fd(), vec![4096, 8192], false).unwrap();
        assert!(sentry.is_busy());
        let posted = wait(&mut sentry);
        assert_eq!(
            (posted.id, posted.slot, posted.thresholds.len(), posted.whole),
            (id, GroupSlot(7), 0, false)
        );
        assert!(!sentry.is_busy());
    }

    #[test]
    fn no_more_are_under_way_than_there_is_room_for_and_each_has_its_own_number() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(dir.path()).unwrap();
        let mut sentry = Sentry::default();
        let ids: Vec<_> = (0..ROOM)
            .map(|at| {
                sentry.order(GroupSlot(u32::try_from(at).unwrap()), dir.as_fd(), Vec::new(), false).unwrap()
            })
            .collect();
        assert_eq!(sentry.order(GroupSlot(0), dir.as_fd(), Vec::new(), false), Err(Refused::Full));
        let ended: Vec<_> = ids.iter().map(|_| wait(&mut sentry)).collect();
        assert!(ended.iter().all(|posted| posted.whole));
        assert_eq!(ended.iter().map(|posted| posted.id).collect::<Vec<_>>(), ids, "in their order");
        assert!(sentry.order(GroupSlot(0), dir.as_fd(), Vec::new(), false).is_ok());
    }
}
