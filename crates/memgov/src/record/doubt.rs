//! Which decisions are looked into behind the record: those about kernel memory, of which the numbers tell neither the kind nor the offender.

use std::sync::Arc;

use memgov_decide::decision::{Decision, Order, Phase, Reason, Target};
use memgov_decide::snapshot::GroupId;

use super::event::Names;

/// A decision whose kernel memory is to be looked into.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// Its number.
    pub id: u64,
    /// Its episode.
    pub episode: u64,
    /// The group.
    pub group: GroupId,
    /// Its path.
    pub path: Arc<[u8]>,
    /// It kills: who held it is gone by now, or about to go.
    pub kill: bool,
}

impl Doubt {
    /// Of decisions that do something because of kernel memory, as far as they are worth a record.
    pub(super) fn of(decision: &Decision, names: &Names) -> Option<Self> {
        let (Reason::Kernel { .. }, Target::Group(group, _)) = (decision.reason, decision.target) else {
            return None;
        };
        // What ends because something else takes its place.
        let ends = matches!(decision.order, Order::Slow { phase: Phase::End, .. });
        (!ends).then(|| Self {
            id: decision.id.0,
            episode: decision.episode.0,
            group,
            path: names.group.clone().unwrap_or_default(),
            kill: matches!(decision.order, Order::Kill { .. }),
        })
    }
}
