//! One pool for all memory of a group where the kernel counts the buffers of TCP apart (cgroup v1): how much TCP may hold beside what the rest uses.

use crate::governor::Governor;
use crate::policy::{Action, Over, Rule};
use crate::snapshot::{Group, GroupSlot, Snapshot};
use crate::units::Bytes;

/// TCP may always have so much: with less no connection gets anywhere, and one that cannot send its last data cannot be closed either.
pub const LEAST: Bytes = Bytes::mib(1);

/// This part of the line is left free: the kernel lets every connection have its least whatever the limit (`sk_forced_mem_schedule` in net/ipv4/tcp_output.c), and usage
/// grows between two looks.
const FREE: u64 = 32;

/// What TCP may hold beside a usage, so that both together stay at the line.
pub fn room(line: Bytes, usage: Bytes) -> Bytes {
    line.saturating_sub(usage).saturating_sub(Bytes(line.0 / FREE)).max(LEAST)
}

/// Where the limit is to stand that stands at `set`, while TCP holds so much. A limit under what is held the kernel does not take, so it comes down with that; and it
/// never goes up for the sake of what is held beyond it: that would let through, look by look, what it is there to stop.
pub fn limit(line: Bytes, usage: Bytes, held: Option<Bytes>, set: Option<Bytes>) -> Bytes {
    let room = room(line, usage);
    match held.filter(|held| *held > room) {
        None => room,
        Some(held) => set.map_or(held, |set| held.min(set.max(room))),
    }
}

/// The pool of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its size.
    pub line: Bytes,
    /// The rule has memgov reclaim what is over it: so TCP may grow into what is only page cache, as it may where the kernel has one pool, and that makes room.
    pub cache_gives_way: bool,
}

impl Pool {
    /// What of the group's usage TCP has to leave alone; `None`: not known.
    pub fn beside(&self, row: &Group) -> Option<Bytes> {
        let cache = row.reclaimable.filter(|_| self.cache_gives_way).unwrap_or_default();
        row.usage.map(|usage| usage.saturating_sub(cache))
    }
}

/// Whether a rule has memgov reclaim all that is over its line.
pub fn reclaims(rule: &Rule) -> bool {
    rule.steps.iter().any(|step| matches!(step.action, Action::Reclaim(_)))
}

impl Governor {
    /// The lowest line that a rule has for a group's pool, where sockets are counted beside it; `None`: there is none, or usage has them in it.
    pub fn pool(&self, slot: GroupSlot, snap: &Snapshot) -> Option<Pool> {
        let row = snap.group(slot).filter(|row| !row.gone && row.sockets_apart)?;
        let pools = self.rules_of_group(slot, row.id).filter_map(|rule| match rule.when.group {
            Some(Over::Pool(line)) => Some(Pool { line, cache_gives_way: reclaims(rule) }),
            _ => None,
        });
        pools.min_by_key(|pool| pool.line)
    }

    /// Whether some rule asks what the sockets of a group hold.
    pub fn asks_for_sockets(&self, slot: GroupSlot, snap: &Snapshot) -> bool {
        let Some(row) = snap.group(slot).filter(|row| !row.gone) else { return false };
        self.rules_of_group(slot, row.id).any(|rule| rule.when.group.is_some_and(Over::asks_for_sockets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_has_what_is_left_and_never_nothing() {
        let mib = Bytes::mib;
        assert_eq!(room(mib(128), mib(60)), mib(64));
        assert_eq!(room(mib(128), mib(128)), LEAST);
        assert_eq!(room(mib(128), mib(160)), LEAST);
        assert_eq!(room(mib(128), Bytes(0)), mib(124));
    }

    #[test]
    fn what_is_held_beyond_the_room_is_followed_down_and_never_up() {
        let mib = Bytes::mib;
        let at = |usage, held, set| limit(mib(128), mib(usage), Some(mib(held)), Some(mib(set)));
        assert_eq!(at(60, 10, 124), mib(64), "room for it");
        assert_eq!(at(60, 90, 124), mib(90), "down to what is held");
        assert_eq!(at(60, 68, 64), mib(64), "the least of each connection, beyond the limit");
        assert_eq!(
            at(100, 68, 64),
            mib(64),
            "and no less than that while it is held: the kernel would refuse"
        );
        assert_eq!(at(0, 68, 64), mib(124), "up when there is room");
        assert_eq!(limit(mib(128), mib(60), None, None), mib(64));
        assert_eq!(limit(mib(128), mib(60), Some(mib(90)), None), mib(90));
    }
}
