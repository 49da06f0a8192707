//! A trace: the kernel's own text, framed with time, and the decisions that were taken on it.
//!
//! The format is lines of words, each followed by a payload of stated length, so that any bytes can be carried and a
//! person can still read it:
//!
//! ```text
//! memgov-trace 1 page=4096 cpus=2 memory=25276383232 decision=1 episode=1
//! tick 81234567890 8123 0             monotonic nanoseconds, clock ticks since boot (may be missing)
//! group+ 3 4711 1 0 8                 slot, inode, parent slot or -, owner or -; payload: path
//! /builds
//! group 3 memory.current 9            slot, file; payload: what was read
//! 1048576
//! group= 3 8192 max max 0 0 0 0 0 0  slot, a reading from a pass over all groups (`overlaid.rs`)
//! group! 3 8388608 0                 slot, usage as seen inside the kernel, over what was read
//! group!kernel 3 8388608 0           likewise, its kernel memory
//! group~ 3 0 - avoid 0                slot, owner or -, what it asks for by trusted. and by user. attributes
//! job 1000 -5 - - 7                  who has said it, a priority or -, a reservation or -, an oom-reserve or -; payload: its path, as a pattern
//! /jobs/a
//! jobs 1 0                           so many of those before it hold from here on, over what the configuration says, and no other
//! answer 7 go-on 0 -                 the question, what was answered, the uid, for how many nanoseconds or -
//! host 29                             payload: what was read of /proc/meminfo
//! MemAvailable:    1048576 kB
//! decision 1 312                      number; payload: JSON
//! ```
//!
//! A fixture is a trace of one tick. Writing never blocks the loop: a full queue drops the tick, says so in the next
//! (`gap N`), and replay refuses to call such a trace the same. Tracing allocates; it is off unless asked for.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use memgov_decide::control::MemControl;
use memgov_decide::decision::{DecisionId, EpisodeId, Report};
use memgov_decide::governor::{Elsewhere, Numbers};
use memgov_decide::jobs::Wish;
use memgov_decide::policy::GroupPolicy;
use memgov_decide::pressure::Stall;
use memgov_decide::question::Answer;
use memgov_decide::snapshot::{Group, GroupSlot, Host, Process, ProcessId, ProcessSlot, Rss};
use memgov_decide::trend::nanos;
use memgov_decide::units::{Bytes, Time};

use super::event;
use super::overlaid::Overlaid;
use super::text;
use crate::config::ask::verdict_text;
use crate::kernel::{Error, Reading};

/// The frame for the engine's turn.
const STEP: &[u8] = b"step 0\n\n";
/// Ticks that may wait for the disk.
const QUEUE: usize = 64;

/// The loop's end of a trace. With no file, every call is a branch and nothing more.
#[derive(Debug, Default)]
pub struct Tape {
    frames: Vec<u8>,
    sink: Option<SyncSender<Vec<u8>>>,
    gap: u64,
    writer: Option<std::thread::JoinHandle<()>>,
    /// The engine has had its turn in this tick.
    stepped: bool,
    /// What was written since the last `tick` besides the tick itself; an empty tick is not written.
    pending: Option<(Time, Option<u64>)>,
}

impl Tape {
    /// Starts a trace in a new file. `next` are the numbers the engine begins with: the daemon counts on from the run before.
    ///
    /// # Errors
    /// If the file cannot be made or no thread can be started.
    pub fn create(path: &Path, host: &Host, next: Numbers) -> Result<Self, Error> {
        let mut file = File::create(path).map_err(|e| Error::new("creating", path, e))?;
        let memory = host.memory.map_or_else(|| "-".to_owned(), |b| b.0.to_string());
        let (page, cpus, Numbers { decision, episode }) = (host.page.0, host.cpus, next);
        let header = format!("page={page} cpus={cpus} memory={memory} decision={decision} episode={episode}");
        writeln!(file, "memgov-trace 1 {header}").map_err(|e| Error::new("writing", path, e))?;
        let (sink, ticks): (_, Receiver<Vec<u8>>) = sync_channel(QUEUE);
        let shown = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("memgov-trace".into())
            .spawn(move || {
                for tick in ticks {
                    if let Err(error) = file.write_all(&tick) {
                        let _ = writeln!(
                            std::io::stderr(),
                            "memgov: trace {}: {error}; tracing ends",
                            shown.display()
                        );
                        return;
                    }
                }
            })
            .map_err(|e| Error::new("starting the writer of", path, e))?;
        let mut tape = Self::default();
        (tape.sink, tape.writer) = (Some(sink), Some(writer));
        Ok(tape)
    }

    /// Whether anything is traced.
    pub const fn on(&self) -> bool {
        self.sink.is_some()
    }

    /// A new tick begins; the one before is handed over.
    pub fn tick(&mut self, at: Time, ticks: Option<u64>) {
        self.flush();
        self.pending = self.on().then_some((at, ticks));
        self.stepped = false;
    }

    /// The engine's turn: what is written after this in the same tick came to be known after it.
    pub fn step(&mut self) {
        if !self.on() {
            return;
        }
        self.stepped = true;
        if self.pending.is_none() && !self.frames.is_empty() {
            self.frames.extend_from_slice(STEP);
        }
    }

    /// Hands the tick over to the writer.
    pub fn flush(&mut self) {
        let Some(sink) = &self.sink else { return };
        if self.frames.is_empty() {
            return;
        }
        match sink.try_send(std::mem::take(&mut self.frames)) {
            Ok(()) => self.gap = 0,
            Err(TrySendError::Full(_)) => self.gap += 1,
            Err(TrySendError::Disconnected(_)) => self.sink = None,
        }
    }

    fn frame(&mut self, head: std::fmt::Arguments<'_>, payload: &[u8]) {
        if !self.on() {
            return;
        }
        // Writing to a Vec cannot fail.
        if let Some((at, ticks)) = self.pending.take() {
            if self.gap > 0 {
                let _ = writeln!(self.frames, "gap {} 0\n", self.gap);
            }
            let _ = match ticks {
                Some(ticks) => writeln!(self.frames, "tick {} {ticks} 0\n", at.0),
                None => writeln!(self.frames, "tick {} 0\n", at.0),
            };
            if self.stepped {
                self.frames.extend_from_slice(STEP);
            }
        }
        let _ = writeln!(self.frames, "{head} {}", payload.len());
        self.frames.extend_from_slice(payload);
        self.frames.push(b'\n');
    }

    /// A row of the group table came to be.
    pub fn group_new(&mut self, slot: GroupSlot, group: &Group) {
        let (parent, owner) = (Opt(group.parent.map(|s| s.0)), Opt(group.owner));
        let head =
            format_args!("group+ {} {} {parent} {owner} {}", slot.0, group.id.0, u8::from(group.watched));
        self.frame(head, &group.path);
    }
    /// A file of a group was read.
    pub fn group_file(&mut self, slot: GroupSlot, name: &str, text: &[u8]) {
        self.frame(format_args!("group {} {name}", slot.0), text);
    }
    /// All of a group was read by a program inside the kernel, and no file.
    pub fn group_overlay(&mut self, slot: GroupSlot, reading: &Reading) {
        self.frame(format_args!("group= {} {}", slot.0, Overlaid(reading)), b"");
    }
    /// Usage of a group as a program inside the kernel has seen it, over what was read.
    pub fn group_witness(&mut self, slot: GroupSlot, usage: Bytes) {
        self.frame(format_args!("group! {} {}", slot.0, usage.0), b"");
    }
    /// Its kernel memory, likewise.
    pub fn group_kernel_witness(&mut self, slot: GroupSlot, kernel: Bytes) {
        self.frame(format_args!("group!kernel {} {}", slot.0, kernel.0), b"");
    }
    /// Resident memory of a process, likewise.
    pub fn process_witness(&mut self, slot: ProcessSlot, rss: &Rss) {
        let bytes = |kind: Option<Bytes>| Opt(kind.map(|bytes| bytes.0));
        let (anon, file, shmem) = (bytes(rss.anon), bytes(rss.file), bytes(rss.shmem));
        self.frame(format_args!("process! {} {anon} {file} {shmem}", slot.0), b"");
    }
    /// The kernel has killed a process, which is to be decided on; or that is done.
    pub fn process_killed(&mut self, slot: ProcessSlot, killed: bool) {
        self.frame(format_args!("killed {} {}", slot.0, u8::from(killed)), b"");
    }
    /// Word of kills of which no process is known.
    pub fn elsewhere(&mut self, word: Elsewhere) {
        let word = match word {
            Elsewhere::Maybe => "maybe",
            Elsewhere::No => "no",
            Elsewhere::Unseen => "unseen",
        };
        self.frame(format_args!("elsewhere {word}"), b"");
    }
    /// What a group asks for itself has changed, or its owner.
    pub fn group_preference(&mut self, slot: GroupSlot, group: &Group) {
        let word = |wish: Option<Wish>| Opt(wish.map(text::wish));
        let (trusted, user) = (word(group.preference.trusted), word(group.preference.user));
        self.frame(format_args!("group~ {} {} {trusted} {user}", slot.0, Opt(group.owner)), b"");
    }
    /// The host's memory was read.
    pub fn host_memory(&mut self, text: &[u8]) {
        self.frame(format_args!("host"), text);
    }
    /// How long tasks have waited for memory: of a group, behind its files, or (`None`) of the host, as part of its reading.
    pub fn stall(&mut self, of: Option<GroupSlot>, stall: &Stall) {
        let Stall { waited, met, came_back, watched } = *stall;
        let (of, waited, met, came_back) =
            (Opt(of.map(|slot| slot.0)), Opt(waited), Opt(met), Opt(came_back));
        self.frame(format_args!("stall {of} {waited} {met} {came_back} {}", u8::from(watched)), b"");
    }
    /// A group is gone.
    pub fn group_gone(&mut self, slot: GroupSlot) {
        self.frame(format_args!("group- {}", slot.0), b"");
    }
    /// A row of the process table came to be, or its facts changed (exec, a move). Payload: `exe`.
    pub fn process_new(&mut self, slot: ProcessSlot, p: &Process) {
        let untouchable = match p.untouchable {
            None => "-",
            Some(memgov_decide::snapshot::Untouchable::Init) => "init",
            Some(memgov_decide::snapshot::Untouchable::Governor) => "governor",
            Some(memgov_decide::snapshot::Untouchable::Kernel) => "kernel",
        };
        let comm: String = p.comm().iter().map(|b| format!("{b:02x}")).collect();
        let head = format_args!(
            "process+ {} {} {} {} {} {} {} {untouchable} .{comm}{}",
            slot.0,
            p.id.pid,
            p.id.start,
            p.parent,
            Opt(p.group.map(|s| s.0)),
            Opt(p.uid),
            Opt(p.oom_score_adj),
            if p.exe_elsewhere { " elsewhere" } else { "" },
        );
        self.frame(head, p.exe.as_deref().unwrap_or_default());
    }
    /// A file of a process was read.
    pub fn process_file(&mut self, slot: ProcessSlot, name: &str, text: &[u8]) {
        self.frame(format_args!("process {} {name}", slot.0), text);
    }
    /// A process is gone.
    pub fn process_gone(&mut self, slot: ProcessSlot) {
        self.frame(format_args!("process- {}", slot.0), b"");
    }
    /// A control was set.
    pub fn control(&mut self, who: ProcessId, control: MemControl) {
        let MemControl { climit, plimit, .. } = control;
        let head =
            format_args!("control {} {} {} {} {}", who.pid, who.start, control.word(), climit.0, plimit.0);
        self.frame(head, b"");
    }
    /// A child took over its parent's control.
    pub fn inherit(&mut self, parent: ProcessId, child: ProcessId) {
        let head = format_args!("inherit {} {} {} {}", parent.pid, parent.start, child.pid, child.start);
        self.frame(head, b"");
    }
    /// A control is gone.
    pub fn forget(&mut self, who: ProcessId) {
        self.frame(format_args!("forget {} {}", who.pid, who.start), b"");
    }
    /// The policy was put in force anew (a reload, `memgov set --group`), with these rules: what they mean replay is told by its
    /// configurations.
    pub fn policy<'a>(&mut self, rules: impl Iterator<Item = &'a str>) {
        if self.on() {
            let names: Vec<&str> = rules.collect();
            self.frame(format_args!("policy {}", names.len()), names.join("\n").as_bytes());
        }
    }
    /// What was said of jobs since the start was put in force anew, all of it: unlike rules that are set it is told here, for no configuration has it.
    pub fn jobs<'a>(&mut self, said: impl Iterator<Item = &'a GroupPolicy>) {
        if !self.on() {
            return;
        }
        let mut count = 0u64;
        for job in said {
            let [pattern] = &job.groups[..] else { continue };
            let (by, priority) = (job.set_by.unwrap_or_default(), Opt(job.priority));
            let reservation = Opt(job.reservation.map(|bytes| bytes.0));
            let reserve = Opt(job.oom_reserve.map(|bytes| bytes.0));
            self.frame(format_args!("job {by} {priority} {reservation} {reserve}"), pattern.as_bytes());
            count += 1;
        }
        self.frame(format_args!("jobs {count}"), b"");
    }
    /// A number was given to a record of what nobody decided; `episode`: which it was said to belong to.
    pub fn number(&mut self, episode: Option<EpisodeId>) {
        self.frame(format_args!("number {}", Opt(episode.map(|id| id.0))), b"");
    }
    /// A question was answered.
    pub fn answer(&mut self, question: DecisionId, answer: &Answer) {
        let (word, time) = (verdict_text(answer.verdict), Opt(answer.time.map(nanos)));
        self.frame(format_args!("answer {} {word} {} {time}", question.0, answer.by), b"");
    }
    /// A decision; the payload is its event without what only the daemon knows (wall clock, outcome).
    pub fn decision(&mut self, id: u64, json: &[u8]) {
        self.frame(format_args!("decision {id}"), json);
    }
    /// What came of a decision.
    pub fn report(&mut self, report: &Report) {
        if self.on() {
            let json = serde_json::to_vec(&event::outcome(&report.outcome)).unwrap_or_default();
            self.frame(format_args!("report {}", report.decision.0), &json);
        }
    }
}

impl Drop for Tape {
    /// What is in the queue still gets to the disk.
    fn drop(&mut self) {
        self.flush();
        self.sink = None;
        if let Some(writer) = self.writer.take() {
            // It has reported its own failure.
            let _ = writer.join();
        }
    }
}

/// `-` for nothing.
struct Opt<T>(Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for Opt<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// One frame of a trace: its words, and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The words before the payload's length.
    pub words: Vec<&'a str>,
    /// The payload.
    pub payload: &'a [u8],
    /// Where in the file, for errors: the byte at which the frame starts.
    pub at: usize,
}

/// What is wrong with a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct TraceError {
    /// Where.
    pub at: usize,
    /// What.
    pub what: String,
    /// It ends too early, and so far all was well.
    pub cut: bool,
}

/// Reads the first line: facts about the host the trace was taken on, and the numbers the engine began with (a trace that
/// does not say began with 1).
///
/// # Errors
/// If it is not a trace, or of another version.
pub fn header(trace: &[u8]) -> Result<(Host, Numbers, usize), TraceError> {
    let bad = |what: &str| TraceError { at: 0, what: what.into(), cut: false };
    let end =
        trace.iter().position(|&b| b == b'\n').ok_or_else(|| bad("not a memgov trace: no first line"))?;
    let line = std::str::from_utf8(&trace[..end])
        .map_err(|_| bad("not a memgov trace: the first line is not text"))?;
    let fields =
        line.strip_prefix("memgov-trace 1 ").ok_or_else(|| bad("not a memgov trace of version 1"))?;
    let (mut host, mut next) = (Host::default(), Numbers::default());
    for field in fields.split(' ') {
        let (key, value) = field.split_once('=').ok_or_else(|| bad("a field of the first line has no ="))?;
        let number = value.parse::<u64>().ok();
        match key {
            "page" => host.page.0 = number.filter(|n| *n > 0).ok_or_else(|| bad("page= is not a size"))?,
            "cpus" => {
                host.cpus =
                    number.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("cpus= is not a number"))?;
            }
            "memory" => host.memory = number.map(memgov_decide::units::Bytes),
            "decision" => next.decision = number.ok_or_else(|| bad("decision= is not a number"))?,
            "episode" => next.episode = number.ok_or_else(|| bad("episode= is not a number"))?,
            _ => {}
        }
    }
    Ok((host, next, end + 1))
}

/// The frames of a trace, from a byte on.
pub fn frames(trace: &[u8], mut at: usize) -> impl Iterator<Item = Result<Frame<'_>, TraceError>> {
    std::iter::from_fn(move || {
        if at >= trace.len() {
            return None;
        }
        let frame = frame(trace, at);
        at = match &frame {
            Ok((_, next)) => *next,
            Err(_) => trace.len(),
        };
        Some(frame.map(|(frame, _)| frame))
    })
}

fn frame(trace: &[u8], at: usize) -> Result<(Frame<'_>, usize), TraceError> {
    let bad = |what: &str| TraceError { at, what: what.into(), cut: false };
    let cut = |what: &str| TraceError { cut: true, ..bad(what) };
    let rest = &trace[at..];
    let end =
        rest.iter().position(|&b| b == b'\n').ok_or_else(|| cut("the frame's first line does not end"))?;
    let line = std::str::from_utf8(&rest[..end]).map_err(|_| bad("the frame's first line is not text"))?;
    let mut words: Vec<&str> = line.split(' ').collect();
    let length = words.pop().and_then(|w| w.parse::<usize>().ok()).ok_or_else(|| bad("no payload length"))?;
    if words.is_empty() {
        return Err(bad("no word before the payload length"));
    }
    let payload =
        rest.get(end + 1..).and_then(|r| r.get(..length)).ok_or_else(|| cut("the payload is cut short"))?;
    match rest.get(end + 1 + length) {
        Some(b'\n') => {}
        Some(_) => return Err(bad("no newline after the payload")),
        None => return Err(cut("the payload is cut short")),
    }
    Ok((Frame { words, payload, at }, at + end + 2 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::snapshot::GroupId;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let first = Numbers { decision: 121, episode: 7 };
        let mut tape = Tape::create(&path, &Host::default(), first).unwrap();
        tape.tick(Time(5), Some(700));
        tape.group_new(GroupSlot(3), &Group::new(GroupId(9), b"/a\nb"));
        tape.group_file(GroupSlot(3), "memory.current", b"17\n");
        tape.tick(Time(6), None);
        drop(tape);
        let deadline = std::time::Duration::from_millis(5);
        let mut text = Vec::new();
        while text.iter().filter(|&&b| b == b'\n').count() < 8 {
            std::thread::sleep(deadline);
            text = std::fs::read(&path).unwrap();
        }
        let (host, next, start) = header(&text).unwrap();
        assert_eq!((host, next), (Host::default(), first));
        let all: Vec<_> = frames(&text, start).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 3, "an empty tick is not written");
        assert_eq!(all[0].words, ["tick", "5", "700"]);
        assert_eq!((all[1].words[0], all[1].payload), ("group+", b"/a\nb".as_slice()));
        assert_eq!((all[2].words[2], all[2].payload), ("memory.current", b"17\n".as_slice()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = header(&bytes);
            let _ = frames(&bytes, 0).count();
        }
    }
}
