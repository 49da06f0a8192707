//! What a thread does that reclaims for rules.

use std::time::Duration;

use memgov_decide::kernel_memory::trial::{self, Trial, Verdict};
use memgov_decide::policy::Meter;
use memgov_decide::shrink::{Answer, End, Next, Portion, Shrink, rest_after};
use memgov_decide::units::Bytes;

use super::{Aim, Ended, Slot, Task};
use crate::act::shrink::{Book, CALL, Kind, Lever, Means};
use crate::kernel::{Errno, GroupDir, Layout, Reading, sys};

/// So much at once, so that the share is kept to evenly.
const PIECE: Bytes = Bytes::mib(8);
/// Word of a stop is looked for so often while resting.
const LOOK: Duration = Duration::from_millis(10);

/// A thread: waits for a task, does it, says how it went, again.
pub(super) fn serve(slot: &Slot, layout: &Layout, mut book: Option<Box<dyn Book + Send>>) {
    let mut nobody = Nobody;
    while let Some(mut word) = slot.wait_for(|word| word.asked) {
        word.asked = false;
        let Some(task) = word.task.clone() else { continue };
        word.running = true;
        drop(word);
        let book: &mut dyn Book = match &mut book {
            Some(book) => &mut **book,
            None => &mut nobody,
        };
        let how = reclaim(slot, layout, &task, book);
        let mut word = slot.lock();
        word.running = false;
        word.ended = Some((how, sys::now()));
    }
}

/// Where nothing can be written down nothing is lowered.
struct Nobody;

impl Book for Nobody {
    fn record(&mut self, _: &crate::act::ledger::Entry<'_>) -> Result<crate::act::ledger::Place, Errno> {
        Err(Errno::NOSPC)
    }
    fn erase(&mut self, _: crate::act::ledger::Place) -> Result<(), Errno> {
        Ok(())
    }
}

/// Until the target is reached, or it is over.
fn reclaim(slot: &Slot, layout: &Layout, task: &Task, book: &mut dyn Book) -> Result<Ended, Errno> {
    let _nudge = sys::Nudge::every(CALL)?;
    let dir = GroupDir::open(layout, &task.path).map_err(|error| error.errno().unwrap_or(Errno::IO))?;
    if dir.id() != task.group {
        return Err(Errno::NOENT);
    }
    let lever = Lever::of(layout, &task.path, &dir, Kind::Any, Means::Auto);
    let mut lever = lever.map_err(|unable| unable.errno())?;
    let how = match task.meter {
        Meter::Kernel => try_out(slot, &dir, &mut lever, task, book).map(Ended::Tried),
        Meter::Usage | Meter::Sockets | Meter::Pool | Meter::Available | Meter::Pressure | Meter::Rss(_) => {
            let way = if matches!(task.aim, Aim::Gone(_)) { take_away } else { press_on };
            way(slot, &dir, &mut lever, task, book).map(Ended::Shrunk)
        }
    };
    lever.close(book)?;
    how
}

/// To a level: what it grows by meanwhile goes with the rest.
fn press_on(
    slot: &Slot,
    dir: &GroupDir,
    lever: &mut Lever,
    task: &Task,
    book: &mut dyn Book,
) -> Result<End, Errno> {
    let mut shrink: Option<Shrink> = None;
    loop {
        let (target, share) = match current(slot, task) {
            Some(Now { aim: Aim::At(target), share }) => (target, share),
            _ => return Ok(End::Reached),
        };
        let usage = usage(dir)?;
        let now = sys::now();
        let shrink = shrink.get_or_insert_with(|| {
            Shrink::new(target, Bytes(sys::page_size()), usage, now).in_pieces_of(PIECE)
        });
        shrink.aim(target);
        match shrink.next(usage, now) {
            Next::Ask(amount) => {
                let before = sys::thread_time();
                shrink.answered(lever.press(dir, amount, target, book)?);
                rest(slot, task, rest_after(sys::thread_time().saturating_sub(before), share));
            }
            Next::Wait(time) => rest(slot, task, time),
            Next::End(end) => return Ok(end),
        }
    }
}

/// So much and no more, whatever it grows by meanwhile.
fn take_away(
    slot: &Slot,
    dir: &GroupDir,
    lever: &mut Lever,
    task: &Task,
    book: &mut dyn Book,
) -> Result<End, Errno> {
    let mut portion = Portion::new(Bytes(0), Bytes(sys::page_size())).in_pieces_of(PIECE);
    loop {
        let Some(Now { aim: Aim::Gone(amount), share }) = current(slot, task) else {
            return Ok(End::Reached);
        };
        if let Some(amount) = amount {
            portion.renew(amount);
        }
        let usage = usage(dir)?;
        match portion.next(usage) {
            Next::Ask(amount) => {
                let before = sys::thread_time();
                portion.answered(lever.press(dir, amount, usage.saturating_sub(amount), book)?);
                rest(slot, task, rest_after(sys::thread_time().saturating_sub(before), share));
            }
            Next::Wait(time) => rest(slot, task, time),
            Next::End(end) => return Ok(end),
        }
    }
}

/// Kernel memory: until it is back at its target, or a trial has shown that what is left is in use.
fn try_out(
    slot: &Slot,
    dir: &GroupDir,
    lever: &mut Lever,
    task: &Task,
    book: &mut dyn Book,
) -> Result<Verdict, Errno> {
    let mut buffer = vec![0; 4096];
    let mut kernel = || dir.read_kernel_memory(&mut buffer)?.total.ok_or(Errno::OPNOTSUPP);
    let mut tried = Trial::new(kernel()?, Bytes(sys::page_size()));
    let mut worked = Duration::ZERO;
    loop {
        let Some(Now { aim: Aim::At(target), share }) = current(slot, task) else { return Ok(Verdict::Back) };
        let all = usage(dir)?;
        match tried.next(kernel()?, all, target, worked) {
            trial::Next::Ask(amount) => {
                let before = sys::thread_time();
                let answer = lever.press(dir, amount, all.saturating_sub(amount), book)?;
                let took = sys::thread_time().saturating_sub(before);
                tried.answered(answer, amount, kernel()?);
                worked += took;
                // Once is no trial: the second ask does not wait for the first one's rest.
                if worked > took || answer == Answer::Interrupted {
                    rest(slot, task, rest_after(took, share));
                }
            }
            trial::Next::Wait(time) => std::thread::sleep(time),
            trial::Next::End(verdict) => return Ok(verdict),
        }
    }
}

/// What is asked for by now.
pub(super) struct Now {
    pub(super) aim: Aim,
    pub(super) share: u16,
}

/// `None`: it is over. An amount is taken on by this, and not given twice.
pub(super) fn current(slot: &Slot, task: &Task) -> Option<Now> {
    let mut word = slot.lock();
    let now = word.task.as_mut().filter(|now| now.episode == task.episode)?;
    let (aim, share) = (now.aim, now.share);
    if let Aim::Gone(amount) = &mut now.aim {
        *amount = None;
    }
    (!slot.is_over()).then_some(Now { aim, share })
}

/// Whether it is over.
fn is_over(slot: &Slot, task: &Task) -> bool {
    slot.is_over() || slot.lock().task.as_ref().is_none_or(|now| now.episode != task.episode)
}

fn rest(slot: &Slot, task: &Task, time: Duration) {
    let until = sys::now() + time;
    while sys::now() < until && !is_over(slot, task) {
        std::thread::sleep(LOOK.min(until.since(sys::now())));
    }
}

fn usage(dir: &GroupDir) -> Result<Bytes, Errno> {
    let mut reading = Reading::default();
    dir.read_usage(&mut [0; 64], &mut reading, &mut |_, _| {})?;
    reading.usage.ok_or(Errno::IO)
}
