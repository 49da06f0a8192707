//! A kill within the job that gives way: its largest process, or the tree of processes that holds most, and not all of it.
//!
//! Its processes are looked at when it is chosen and not before: the others' are nobody's business. So such a kill comes a moment later than that of a whole job.

use std::time::Duration;

use crate::decision::{Candidate, Decisions, Order, Ranking, Take, Target};
use crate::jobs::Contender;
use crate::kin::Kin;
use crate::policy::{Policy, Takes};
use crate::snapshot::{GroupSlot, ProcessId, ProcessSlot, Snapshot};
use crate::units::{Bytes, Time};
use crate::victim::{Selection, resident, unkillable};

use super::Governor;
use super::brake::Sake;
use super::episode::Episode;
use super::judge::Excess;
use super::ladder::Step;
use super::report::What;

/// So long the processes of a job are looked for, at the most; then those that are known have to do.
const PATIENCE: Duration = Duration::from_millis(200);

/// The job whose processes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sought {
    job: GroupSlot,
    since: Time,
}

/// Room for the processes of one job, where some rule asks for trees of them.
pub(super) fn room(policy: &Policy, processes: usize) -> Kin {
    let mut kin = Kin::default();
    if policy.takes_trees() {
        kin.make_room(processes);
    }
    kin
}

impl Governor {
    /// Kills part of a job, once it is known who is in it.
    pub(super) fn kill_in_job(
        &mut self,
        episode: &mut Episode,
        step: u8,
        (job, takes): (&Contender, Takes),
        (excess, ranking): (&Excess, Ranking),
        snap: &Snapshot,
        out: &mut Decisions,
    ) -> Step {
        let Some(sought) = episode.sought.filter(|sought| sought.job == job.slot) else {
            if self.tell_choice(episode, step, job, excess.reason, ranking, out).is_some() {
                episode.sought = Some(Sought { job: job.slot, since: self.now });
                self.sample_for_ranking(job.slot, snap);
                // Its processes are listed after it was read.
                self.timers.bring_forward(self.group_item(job.slot), self.now);
                self.deadline = self.now;
            }
            return Step::Waits;
        };
        self.groups[job.slot.0 as usize].ranks_at = Some(self.now);
        let (take, selection, stale) = self.select_in_job(job.slot, takes, sought.since, snap);
        let best = selection.ranking.iter().next().map(|candidate| candidate.rss);
        let patient = self.now < sought.since + PATIENCE;
        if patient && (stale || best.is_none() && selection.hopeless().is_none()) {
            return Step::Waits;
        }
        let Some(best) = best else {
            // Nobody in it can be taken: the next job.
            episode.sought = None;
            self.spare_job(job.slot);
            return Step::Waits;
        };
        let expected = if matches!(take, Take::Tree(_)) { selection.together } else { best };
        let about = (Target::Group(job.group, job.slot), Order::Kill { take });
        let why = (excess.reason, selection.ranking);
        let Some(id) = self.emit_about(episode, step, about, why, What::KillIn(job.slot), out) else {
            return Step::Waits;
        };
        (episode.sought, episode.noted_freeing) = (None, true);
        self.kills.ordered(self.now, id, Sake::Another, Some(job.slot), expected, snap);
        Step::Began
    }

    /// Who in it is taken; whether somebody was last read before this.
    fn select_in_job(
        &mut self,
        job: GroupSlot,
        takes: Takes,
        since: Time,
        snap: &Snapshot,
    ) -> (Take, Selection, bool) {
        let (mut selection, mut stale) = (Selection::default(), false);
        self.kin.clear();
        let mut walk = self.tree.walk(job);
        while let Some(slot) = self.tree.step(&mut walk) {
            let Some(row) = snap.process(slot).filter(|_| self.renew_process(slot, snap)) else { continue };
            let spared = self.protection(slot).or_else(|| unkillable(row));
            stale |= spared.is_none() && row.read_at < since;
            if takes == Takes::Tree {
                let held = if spared.is_some() { Bytes(0) } else { resident(row).unwrap_or_default() };
                self.kin.add(row.id, row.parent, held);
            } else {
                selection.consider(slot, row, spared);
            }
        }
        if takes != Takes::Tree {
            return (Take::One, selection, stale);
        }
        let largest = self.kin.largest();
        selection.together = largest.map_or(Bytes(0), |(_, together)| together);
        let mut walk = self.tree.walk(job);
        while let Some(slot) = self.tree.step(&mut walk) {
            self.consider_kin(slot, largest.map(|(root, _)| root), snap, &mut selection);
        }
        (largest.map_or(Take::One, |(root, _)| Take::Tree(root)), selection, stale)
    }

    /// Ranks one that belongs to the tree of this root.
    fn consider_kin(
        &self,
        slot: ProcessSlot,
        root: Option<ProcessId>,
        snap: &Snapshot,
        selection: &mut Selection,
    ) {
        let Some(row) = snap.process(slot) else { return };
        if let Some(rss) = selection.count(row, self.protection(slot), resident(row))
            && root.is_some()
            && self.kin.root_of(row.id) == root
        {
            selection.ranking.offer(Candidate { process: row.id, slot, rss });
        }
    }
}
