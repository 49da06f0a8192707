//! Whom a kill for a group's kernel memory takes, by what is known of its processes. The weighing is [`crate::offender`]'s.

use std::time::Duration;

use crate::decision::{Candidate, Family, Take};
use crate::offender::{Growth, Newcomer};
use crate::rise::Mark;
use crate::snapshot::{Group, GroupSlot, ProcessId, ProcessSlot, Snapshot};
use crate::units::Bytes;
use crate::victim::Selection;

use super::Governor;
use super::episode::Episode;
use super::look::{Part, line_of};

/// Having started since the growth began is a sign by itself if that was so shortly before the line was crossed: of a longer time it is true of
/// many who have nothing to do with it.
const LATELY: Duration = Duration::from_secs(90);

impl Governor {
    /// Notes what a fresh group's kernel memory was before it grew, if some rule is about it.
    pub(super) fn note_rise(&mut self, slot: GroupSlot, row: &Group, snap: &Snapshot) {
        let (Some(value), Some(ticks)) = (row.kernel, snap.ticks) else { return };
        let state = &self.groups[slot.0 as usize];
        let lines = state.whole.iter().filter_map(|rule| line_of(&self.policy, rule, row, Part::Kernel));
        if let Some(line) = lines.min() {
            let mark = Mark { at: row.read_at, ticks, value };
            self.groups[slot.0 as usize].kernel_rise.observe(mark, line);
        }
    }

    /// Whom to take, with the ranking of those. Nobody is in it if nobody holds enough, or nothing is known of anybody yet.
    pub(super) fn accuse(
        &mut self,
        episode: &Episode,
        group: GroupSlot,
        snap: &Snapshot,
        selection: &mut Selection,
    ) -> Take {
        let Some(over) = episode.over else { return Take::One };
        let before = self.groups[group.0 as usize].kernel_rise.from();
        let growth = before.map_or(Growth::Unknown, |mark| Growth::Since {
            ticks: mark.ticks,
            lately: episode.began.since(mark.at) <= LATELY,
        });
        let low = before.map_or(Bytes(0), |mark| mark.value);
        // What brings it back is known only about, and part of it may belong to nobody: half of that, and a good part of what it has grown by.
        let too_much = self.too_much(episode, &over, snap);
        let needed = Bytes((too_much.0 / 2).max((over.value - low).0 / 4).max(1));
        self.weigh_members(group, growth, low, snap, selection);
        match self.offenders.worst(growth, needed) {
            Ok(offender) => {
                selection.together = offender.together;
                match (offender.take, offender.one) {
                    (Take::Family(family), _) => self.rank_family(family, group, snap, selection),
                    (take, one) => {
                        self.rank_members(group, snap, selection, |who, _, _| Some(who) == one);
                        take
                    }
                }
            }
            Err(most) => {
                selection.short = Some((most, needed));
                Take::One
            }
        }
    }

    /// What each process below the group has grown its kernel memory by, at the least.
    fn weigh_members(
        &mut self,
        group: GroupSlot,
        growth: Growth,
        low: Bytes,
        snap: &Snapshot,
        selection: &mut Selection,
    ) {
        self.offenders.clear();
        let mut walk = self.tree.walk(group);
        while let Some(slot) = self.tree.step(&mut walk) {
            if !self.renew_process(slot, snap) {
                continue;
            }
            let Some(row) = snap.process(slot) else { continue };
            let held = selection.count(row, self.protection(slot), row.kernel.estimate());
            let Some(held) = held else { continue };
            let (who, parent, comm) = (row.id, row.parent, row.comm);
            match (row.session, is_new(growth, who)) {
                (Some(session), true) => {
                    self.offenders.newcomer(Newcomer { who, parent, session, comm, held });
                }
                (None, true) => self.offenders.grown(who, held),
                (_, false) => {
                    // It had no more than the whole group, and no more than when it was first looked at.
                    let had = self.processes[slot.0 as usize].kernel_before.map_or(low, |had| had.min(low));
                    self.offenders.grown(who, held - had);
                }
            }
        }
    }

    /// Ranks a class; with those goes who goes on starting them.
    fn rank_family(
        &mut self,
        mut family: Family,
        group: GroupSlot,
        snap: &Snapshot,
        selection: &mut Selection,
    ) -> Take {
        if let Some(since) = family.since {
            self.offenders.keep(&family);
            let mut most = None;
            let mut walk = self.tree.walk(group);
            while let Some(slot) = self.tree.step(&mut walk) {
                if let Some(who) = self.killable(slot, snap).filter(|who| who.start <= since)
                    && let Some(count) = self.offenders.started_by(who.pid)
                {
                    most = most.max(Some((count, who.start, who.pid)));
                }
            }
            family.parent = most.map(|(_, start, pid)| ProcessId { pid, start });
        }
        self.rank_members(group, snap, selection, |who, session, comm| {
            session.is_some_and(|session| family.holds(who, session, comm))
        });
        Take::Family(family)
    }

    fn rank_members(
        &mut self,
        group: GroupSlot,
        snap: &Snapshot,
        selection: &mut Selection,
        wanted: impl Fn(ProcessId, Option<u32>, &[u8; 16]) -> bool,
    ) {
        let mut walk = self.tree.walk(group);
        while let Some(slot) = self.tree.step(&mut walk) {
            if self.killable(slot, snap).is_some()
                && let Some(row) = snap.process(slot)
                && wanted(row.id, row.session, &row.comm)
                && let Some(rss) = row.kernel.estimate()
            {
                selection.ranking.offer(Candidate { process: row.id, slot, rss });
            }
        }
    }

    /// Who is in this slot, if he may be killed.
    fn killable(&self, slot: ProcessSlot, snap: &Snapshot) -> Option<ProcessId> {
        let row = snap.process(slot).filter(|row| !row.gone && crate::victim::unkillable(row).is_none())?;
        self.protection(slot).is_none().then_some(row.id)
    }
}

fn is_new(growth: Growth, who: ProcessId) -> bool {
    match growth {
        Growth::Unknown => true,
        Growth::Since { ticks, .. } => who.start > ticks,
    }
}
