//! Who is held at this moment, by what: for status.

use memgov_decide::decision::Mechanism;
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::Bytes;

use super::Actor;
use super::deny::DeniedView;
use super::slow::SlowedView;

/// Something held at this moment, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldView {
    /// A process that is refused memory.
    Denied(DeniedView),
    /// A group or process that runs only part of the time.
    Slowed(SlowedView),
    /// A group that may have no more processes.
    Capped(GroupId),
    /// A group that is under its line and may have so many, threads included.
    Bounded(GroupId, u64),
    /// A group whose hard limit is raised by so much.
    Lent(GroupId, Bytes),
    /// A group of which so many sockets do not grow.
    Squeezed(GroupId, u32),
    /// A group in which TCP may hold so much, so that it stays at its line with all else.
    Pooled(GroupId, Bytes),
    /// A group that waits when it is out of memory, and is not killed for by the kernel.
    Waits(GroupId),
}

impl HoldView {
    /// By what.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Self::Denied(denied) => denied.by,
            Self::Slowed(slowed) => slowed.by,
            Self::Capped(_) | Self::Bounded(..) => Mechanism::PidsMax,
            Self::Lent(..) => Mechanism::RaisedLimit,
            Self::Pooled(..) => Mechanism::TcpLimit,
            Self::Waits(..) => Mechanism::OomControl,
            Self::Squeezed(..) => Mechanism::SocketOptions,
        }
    }
}

impl Actor {
    /// Who is held at this moment.
    pub fn holds(&self) -> impl Iterator<Item = HoldView> {
        let slowed = self.slowdowns.views().map(HoldView::Slowed);
        let capped = self.caps.views().map(|(group, most)| match most {
            None => HoldView::Capped(group),
            Some(most) => HoldView::Bounded(group, most),
        });
        let lent = self.loans.views().map(|(group, amount)| HoldView::Lent(group, amount));
        let squeezed = self.squeezes.views().map(|(group, sockets)| HoldView::Squeezed(group, sockets));
        let pooled = self.pools.views().map(|(group, most)| HoldView::Pooled(group, most));
        self.denials
            .views()
            .map(HoldView::Denied)
            .chain(slowed)
            .chain(capped)
            .chain(lent)
            .chain(pooled)
            .chain(squeezed)
            .chain(self.oom_killers.views().map(HoldView::Waits))
    }
}
