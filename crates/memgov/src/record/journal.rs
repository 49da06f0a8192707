//! The queue out of the loop, the thread behind it, and the newest events for whoever asks.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use memgov_decide::decision::{Decision, Outcome, Report};
use memgov_decide::governor::Numbers;
use memgov_decide::units::Bytes;
use serde::Deserialize;

use super::doubt::Doubt;
use super::event::{self, Names};
use super::happening::{Finder, Happening};
use super::{situation, text};
use crate::act::hook::Output;
use crate::act::situation::Situation;
use crate::serve::wire::{self, Event, KernelFinding, KernelTrial, ProgramOutput};
use crate::terminal;

/// Entries that may wait for the thread.
const QUEUE: usize = 512;
/// Events kept in memory for `events` and `explain`.
const KEPT: usize = 4096;
/// Outputs that wait for word of how their program has ended: more than there are programs at a time.
const OUTPUTS: usize = 32;
/// Kills whose situations may be on their way to the thread at a time: so many boxes there are.
const SITUATIONS: usize = 4;
/// The file is turned over at this size; one former file is kept beside it.
const FILE_CAP: u64 = 8 << 20;
/// So much of the end of a file is looked at for the highest number: numbers rise, but for outcomes that come later.
const TAIL: u64 = 256 << 10;

#[expect(
    clippy::large_enum_variant,
    reason = "the queue is allocated once; a box would be an allocation for each entry"
)]
enum Entry {
    Decision {
        decision: Decision,
        outcome: Outcome,
        names: Names,
        wall: SystemTime,
    },
    Outcome(Report),
    Happening(Happening),
    Finding {
        id: u64,
        finding: Box<KernelFinding>,
    },
    /// What a program of a hook has written; how it ended comes next.
    Output {
        id: u64,
        output: Box<ProgramOutput>,
    },
    /// What was seen before a kill; the decision comes next. The box goes back.
    Situation(Box<Situation>),
    /// The loop has ended.
    End,
}

/// Where goes what is found out behind the loop: of kernel memory, of programs. It does not keep the queue open.
#[derive(Clone, Debug)]
pub struct Findings(SyncSender<Entry>);

impl Findings {
    /// Puts a finding to its decision; `false`: nobody records any more.
    pub fn found(&self, id: u64, finding: KernelFinding) -> bool {
        self.0.send(Entry::Finding { id, finding: Box::new(finding) }).is_ok()
    }

    /// Puts what a program has written to its decision; `false`: nobody records any more.
    pub fn written(&self, id: u64, output: &Output) -> bool {
        let text = terminal::lines(&wire::text(&output.kept));
        let output = Box::new(ProgramOutput { text, left_out_bytes: output.left_out });
        self.0.send(Entry::Output { id, output }).is_ok()
    }
}

/// The loop's end of the queue. Never blocks, never allocates.
#[derive(Debug)]
pub struct Recorder {
    /// `None` only while it is dropped.
    queue: Option<SyncSender<Entry>>,
    writer: Option<std::thread::JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
    /// Boxes that nothing is in.
    empty: Receiver<Box<Situation>>,
    emptied: SyncSender<Box<Situation>>,
}

impl Recorder {
    /// Records a decision with what came of it.
    pub fn decision(&self, decision: &Decision, outcome: Outcome, names: Names) {
        self.push(Entry::Decision { decision: *decision, outcome, names, wall: SystemTime::now() });
    }

    /// A box for what is seen before a kill; `None`: all are on their way.
    pub fn empty_box(&self) -> Option<Box<Situation>> {
        self.empty.try_recv().ok()
    }

    /// Records what was seen before a kill, ahead of its decision.
    pub fn situation(&self, seen: Box<Situation>) {
        self.push(Entry::Situation(seen));
    }

    /// Records what came later of an earlier decision.
    pub fn outcome(&self, report: Report) {
        self.push(Entry::Outcome(report));
    }

    /// Records what the kernel did by itself.
    pub fn happening(&self, happening: Happening) {
        self.push(Entry::Happening(happening));
    }

    /// For who looks into kernel memory, on a thread of its own.
    pub fn findings(&self) -> Option<Findings> {
        self.queue.clone().map(Findings)
    }

    fn push(&self, entry: Entry) {
        if let Some(queue) = &self.queue
            && let Err(TrySendError::Full(entry)) = queue.try_send(entry)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            if let Entry::Situation(seen) = entry {
                // There is room for all of them.
                let _ = self.emptied.try_send(seen);
            }
        }
    }
}

impl Drop for Recorder {
    /// What is in the queue is still written.
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            // It fails only if the thread has ended.
            let _ = queue.send(Entry::End);
        }
        if let Some(writer) = self.writer.take() {
            // A panic of it has been shown already.
            let _ = writer.join();
        }
    }
}

/// The newest events, shared with whoever serves them.
#[derive(Default)]
pub struct Journal {
    kept: Mutex<VecDeque<(u64, Event)>>,
    news: Condvar,
    /// Tells the serving thread, once it runs.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Finds groups that have no row.
    finder: OnceLock<Finder>,
    /// Looks into kernel memory.
    examiner: OnceLock<SyncSender<Doubt>>,
    /// Tells people of questions.
    announcer: OnceLock<SyncSender<Event>>,
    dropped: Arc<AtomicU64>,
}

/// Some of what is kept, in order.
#[derive(Clone, Debug, Default)]
pub struct Excerpt {
    /// The events.
    pub events: Vec<Event>,
    /// Where to go on.
    pub cursor: u64,
    /// Asked for and no longer kept.
    pub missed: u64,
}

impl Journal {
    /// Starts the recording thread. `file` is appended to; a file that cannot be written is reported once and done without.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(file: Option<PathBuf>, page: Bytes) -> io::Result<(Arc<Self>, Recorder)> {
        let (queue, entries) = sync_channel(QUEUE);
        let (emptied, empty) = sync_channel(SITUATIONS);
        for _ in 0..SITUATIONS {
            // There is room for all of them.
            let _ = emptied.try_send(Box::default());
        }
        let back = emptied.clone();
        let journal = Arc::new(Self::default());
        let shared = Arc::clone(&journal);
        let writer = std::thread::Builder::new()
            .name("memgov-record".into())
            .spawn(move || shared.run(&entries, &back, file.map(Log::new), page))?;
        let dropped = Arc::clone(&journal.dropped);
        Ok((journal, Recorder { queue: Some(queue), writer: Some(writer), dropped, empty, emptied }))
    }

    /// Entries dropped because the thread fell behind.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Has `wake` called after each new event.
    pub fn on_news(&self, wake: Box<dyn Fn() + Send + Sync>) {
        // Set once, at start.
        let _ = self.wake.set(wake);
    }

    /// Has `finder` asked for groups that have no row; it may take its time.
    pub fn find_groups_by(&self, finder: Finder) {
        // Set once, at start.
        let _ = self.finder.set(finder);
    }

    /// Has decisions about kernel memory looked into; what is found comes back through [`Recorder::findings`]. Who is behind is not waited for.
    pub fn examine_by(&self, examiner: SyncSender<Doubt>) {
        // Set once, at start.
        let _ = self.examiner.set(examiner);
    }

    /// Has questions told to people. Who is behind is not waited for.
    pub fn announce_by(&self, announcer: SyncSender<Event>) {
        // Set once, at start.
        let _ = self.announcer.set(announcer);
    }

    /// What was recorded after the cursor `after` (0: all that is kept), oldest first, at most `most`. An event whose outcome became
    /// known later comes again.
    pub fn since(&self, after: u64, most: usize) -> Excerpt {
        let kept = self.lock();
        let start = kept.partition_point(|(number, _)| *number <= after);
        let oldest = kept.front().map_or(after + 1, |(number, _)| *number);
        let taken: Vec<&(u64, Event)> = kept.iter().skip(start).take(most).collect();
        Excerpt {
            cursor: taken.last().map_or(after, |(number, _)| *number),
            missed: oldest.saturating_sub(after + 1),
            events: taken.into_iter().map(|(_, event)| event.clone()).collect(),
        }
    }

    /// The cursor behind all that is kept.
    pub fn cursor(&self) -> u64 {
        self.lock().back().map_or(0, |(number, _)| *number)
    }

    /// The cursor just behind the first record of a decision, so that what follows it comes next.
    pub fn cursor_after(&self, id: u64) -> u64 {
        let kept = self.lock();
        kept.iter().take_while(|(_, e)| e.id <= id).last().map_or(0, |(number, _)| *number)
    }

    /// Waits for something newer than `after`, but not for longer than `patience`.
    pub fn wait(&self, after: u64, patience: Duration) {
        let kept = self.lock();
        let nothing =
            |kept: &mut VecDeque<(u64, Event)>| kept.back().is_none_or(|(number, _)| *number <= after);
        drop(self.news.wait_timeout_while(kept, patience, nothing));
    }

    /// The newest word on one decision, and the rest of its episode in order.
    pub fn episode_of(&self, id: u64) -> Option<(Event, Vec<Event>)> {
        let kept = self.lock();
        let event = kept.iter().rev().map(|(_, e)| e).find(|e| e.id == id)?.clone();
        let mut rest: Vec<Event> = Vec::new();
        for (_, other) in kept.iter().filter(|(_, e)| e.episode == event.episode) {
            match rest.iter_mut().find(|e| e.id == other.id) {
                Some(earlier) => *earlier = other.clone(),
                None => rest.push(other.clone()),
            }
        }
        Some((event, rest))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Event)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        entries: &Receiver<Entry>,
        emptied: &SyncSender<Box<Situation>>,
        mut log: Option<Log>,
        page: Bytes,
    ) {
        let mut number = 0;
        let (mut written, mut seen) = (Early::new(OUTPUTS), Early::new(SITUATIONS));
        for entry in entries {
            let event = match entry {
                Entry::End => return,
                Entry::Finding { id, finding } => self.known_better(id, *finding),
                Entry::Output { id, output } => {
                    written.put(id, *output);
                    None
                }
                Entry::Situation(situation) => {
                    seen.put(situation.decision.0, Box::new(situation::shown(&situation)));
                    // It fails only if the loop has ended.
                    let _ = emptied.try_send(situation);
                    None
                }
                Entry::Decision { decision, outcome, names, wall } => {
                    self.doubt(&decision, &names);
                    let time = humantime::format_rfc3339_millis(wall).to_string();
                    let mut event = event::event(&decision, &outcome, &names, time, page);
                    event.situation = seen.take(event.id);
                    Some((event, text::outcome(&outcome)))
                }
                Entry::Outcome(report) => {
                    let output = written.take(report.decision.0);
                    self.amended(report, output).map(|event| (event, text::outcome(&report.outcome)))
                }
                Entry::Happening(it) => Some((self.named(&it), "seen by memgov".to_owned())),
            };
            let Some((event, outcome)) = event else { continue };
            // The letter's line first: it is what administrators of that series would look for.
            if let Some(line) = &event.log {
                terminal::complain(line);
            }
            terminal::complain(&event::line(&event, &outcome));
            if let Some(log) = &mut log {
                log.append(&event);
            }
            self.announce(&event);
            number += 1;
            let mut kept = self.lock();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back((number, event));
            drop(kept);
            self.news.notify_all();
            if let Some(wake) = self.wake.get() {
                wake();
            }
        }
    }

    /// A question, unless it is only rehearsed.
    fn announce(&self, event: &Event) {
        if event.order == wire::OrderKind::Ask
            && event.outcome.kind == wire::OutcomeKind::Nothing
            && let Some(announcer) = self.announcer.get()
        {
            // Full: it stands in the record and in `memgov status`.
            let _ = announcer.try_send(event.clone());
        }
    }

    fn doubt(&self, decision: &Decision, names: &Names) {
        if let (Some(examiner), Some(doubt)) = (self.examiner.get(), Doubt::of(decision, names)) {
            // Full: a finding less, which is said by its absence.
            let _ = examiner.try_send(doubt);
        }
    }

    /// The newest word on a decision, with what was found out about its kernel memory; and that in words.
    fn known_better(&self, id: u64, mut finding: KernelFinding) -> Option<(Event, String)> {
        let kept = self.lock();
        let mut event = kept.iter().rev().map(|(_, e)| e).find(|e| e.id == id)?.clone();
        let of_episode = kept.iter().rev().map(|(_, e)| e).filter(|e| e.episode == event.episode);
        finding.trial = of_episode.filter(|e| e.id <= id).find_map(|e| trial(&e.outcome));
        let said = text::finding(&finding);
        (event.log, event.kernel) = (None, Some(finding));
        Some((event, said))
    }

    /// With the path of its group, if that can be found.
    fn named(&self, it: &Happening) -> Event {
        let found = match (&it.path, self.finder.get()) {
            (None, Some(find)) if it.group.0 != 0 => find(it.group),
            _ => None,
        };
        match found {
            Some((path, owner)) => it.event(Some(&path), owner),
            None => it.event(it.path.as_deref(), it.owner),
        }
    }

    fn amended(&self, report: Report, output: Option<ProgramOutput>) -> Option<Event> {
        let kept = self.lock();
        let mut event = kept.iter().rev().map(|(_, e)| e).find(|e| e.id == report.decision.0)?.clone();
        event.outcome = event::outcome(&report.outcome);
        event.output = output.or(event.output);
        if let (Some(finding), Some(trial)) = (&mut event.kernel, trial(&event.outcome)) {
            finding.trial = Some(trial);
        }
        event.log = None;
        Some(event)
    }
}

/// What came before the event that it belongs to, and waits for that. Of too many the oldest go.
struct Early<T> {
    waiting: VecDeque<(u64, T)>,
    most: usize,
}

impl<T> Early<T> {
    const fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), most }
    }

    fn put(&mut self, id: u64, it: T) {
        if self.waiting.len() == self.most {
            self.waiting.pop_front();
        }
        self.waiting.push_back((id, it));
    }

    fn take(&mut self, id: u64) -> Option<T> {
        let at = self.waiting.iter().position(|(of, _)| *of == id)?;
        self.waiting.remove(at).map(|(_, it)| it)
    }
}

fn trial(outcome: &wire::Outcome) -> Option<KernelTrial> {
    Some(KernelTrial { freed_bytes: outcome.freed_bytes?, held_bytes: outcome.held_bytes? })
}

/// The journal file: JSON lines, turned over at [`FILE_CAP`].
struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    complained: bool,
}

impl Log {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, size: 0, complained: false }
    }

    fn append(&mut self, event: &Event) {
        if let Err(error) = self.try_append(event)
            && !self.complained
        {
            self.complained = true;
            terminal::complain(&format!(
                "memgov: journal file {}: {error}; events are kept in memory only",
                self.path.display()
            ));
        }
    }

    fn try_append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if self.size > FILE_CAP {
            self.file = None;
            self.size = 0;
            std::fs::rename(&self.path, former(&self.path))?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                let mut file = options.read(true).append(true).create(true).mode(0o640).open(&self.path)?;
                self.size = file.metadata()?.len();
                // A run that was killed may have left half a line: what follows must not be taken for its rest.
                if self.size > 0 && tail(&mut file, 1)? != b"\n" {
                    line.insert(0, b'\n');
                }
                self.file.insert(file)
            }
        };
        file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }
}

/// The numbers to go on with after what is kept in the journal file and the one before it.
pub fn numbers_after(path: &Path) -> Numbers {
    #[derive(Deserialize)]
    struct Numbered {
        id: u64,
        episode: u64,
    }
    let mut next = Numbers::default();
    for path in [path, &former(path)] {
        // No file, or none that can be read: nothing in it could be mistaken for anything either.
        let kept = File::open(path).and_then(|mut file| tail(&mut file, TAIL)).unwrap_or_default();
        for line in kept.split(|&b| b == b'\n') {
            // Half a line at the beginning is none, and beyond 2^53 no JSON reader would follow.
            if let Ok(Numbered { id, episode }) = serde_json::from_slice(line)
                && id.max(episode) < 1 << 53
            {
                next.decision = next.decision.max(id + 1);
                next.episode = next.episode.max(episode + 1);
            }
        }
    }
    next
}

fn tail(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn former(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
