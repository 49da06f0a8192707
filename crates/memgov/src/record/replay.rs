//! What would have been decided: a trace run through the pure engine with any configuration.
//!
//! With the configuration it was recorded under (with the configurations, in their order, if others were put in force
//! meanwhile), the decisions are the recorded ones to the byte; with another, the outcomes that were recorded are taken where the same decision comes, and a decision that was never taken is assumed
//! to have changed nothing.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use memgov_decide::control::MemControl;
use memgov_decide::decision::{DecisionId, Decisions, EpisodeId, Report};
use memgov_decide::governor::{Bounds, Elsewhere, Governor, Numbers};
use memgov_decide::jobs::{Preference, Wish};
use memgov_decide::policy::{GroupPolicy, Pattern, Policy};
use memgov_decide::pressure::Stall;
use memgov_decide::question::Answer;
use memgov_decide::snapshot::{
    Group, GroupId, GroupSlot, Host, Process, ProcessId, ProcessSlot, Rss, Snapshot, Untouchable,
};
use memgov_decide::units::{Bytes, Limit, Time};

use super::trace::{self, Frame, TraceError};
use super::{event, overlaid, text};
use crate::config::ask;
use crate::kernel::cgroup::StrainReading;
use crate::kernel::{Reading, meminfo, proc};
use crate::serve::wire::{self, Event};
use crate::terminal;

/// One difference between what was decided then and what is decided now.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What the engine decides now, in order.
    pub events: Vec<Event>,
    /// How many decisions the trace holds.
    pub recorded: usize,
    /// How many of them are the same to the byte, in the same order.
    pub same: usize,
    /// Ticks that were dropped when the trace was taken, or cut off its end.
    pub gaps: u64,
    /// Times the policy was put in force anew while it was taken, and none was given for it: the one before stayed.
    pub policies: u64,
}

impl Replayed {
    /// Whether the trace is whole and the decisions are the recorded ones.
    pub const fn identical(&self) -> bool {
        self.gaps == 0 && self.same == self.recorded && self.events.len() == self.recorded
    }
}

/// Runs a trace file and prints the outcome. The first of the policies is in force from the beginning, each other from the next time on
/// that one was put in force.
///
/// # Errors
/// If the file cannot be read or is no trace.
pub fn run(path: &Path, policies: Vec<Policy>, json: bool, out: &mut dyn Write) -> anyhow::Result<Replayed> {
    let bytes = std::fs::read(path).map_err(|e| crate::kernel::Error::new("reading", path, e))?;
    let replayed = replay(&bytes, policies).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    if json {
        for event in &replayed.events {
            writeln!(out, "{}", terminal::json(&serde_json::to_string(event)?))?;
        }
    } else {
        for event in &replayed.events {
            writeln!(
                out,
                "{:>12.3}s  {}",
                Time(event.monotonic_ns).since(Time(0)).as_secs_f64(),
                event::line(event, "replayed")
            )?;
        }
        let Replayed { events, recorded, same, gaps, policies } = &replayed;
        writeln!(
            out,
            "{} decisions now, {recorded} recorded, {same} of them the same to the byte",
            events.len()
        )?;
        if *gaps > 0 {
            writeln!(
                out,
                "the trace has gaps: {gaps} ticks were dropped when it was taken, or cut off its end"
            )?;
        }
        if *policies > 0 {
            writeln!(
                out,
                "the rules were put in force anew {policies} times more than --config was given; the last of them stayed"
            )?;
        }
        let verdict = if replayed.identical() { "identical" } else { "not identical" };
        writeln!(out, "the decisions are {verdict}")?;
    }
    Ok(replayed)
}

/// Runs a trace through the engine.
///
/// # Errors
/// If the bytes are no trace.
pub fn replay(bytes: &[u8], policies: Vec<Policy>) -> Result<Replayed, TraceError> {
    let (host, next, start) = trace::header(bytes)?;
    let mut player = Player::new(host, next, policies, bytes.len());
    for frame in trace::frames(bytes, start) {
        match frame {
            Ok(frame) => player.frame(&frame)?,
            // memgov was killed, or the disk was full: what is there still counts.
            Err(error) if error.cut => player.gaps += 1,
            Err(error) => return Err(error),
        }
    }
    player.step();
    Ok(player.result())
}

struct Player {
    governor: Governor,
    snap: Snapshot,
    out: Decisions,
    readings: HashMap<u32, Reading>,
    recorded: Vec<(u64, Vec<u8>)>,
    decided: Vec<(Vec<u8>, Event)>,
    decided_ids: HashSet<u64>,
    /// Policies still to be put in force.
    later: std::vec::IntoIter<Policy>,
    /// The last of them, without what was said of jobs since.
    base: Policy,
    /// What was said of jobs, in force...
    jobs: Vec<GroupPolicy>,
    /// ...and about to be.
    said: Vec<GroupPolicy>,
    gaps: u64,
    policies: u64,
    begun: bool,
    stepped: bool,
}

impl Player {
    fn new(host: Host, next: Numbers, policies: Vec<Policy>, size: usize) -> Self {
        // Rows cost memory: no trace has more of them than it has bytes to say so.
        let rows = u32::try_from(size / 16).unwrap_or(u32::MAX).clamp(64, 1 << 16);
        let mut snap = Snapshot::with_capacity(rows, rows);
        snap.host = host;
        let bounds = Bounds { groups: rows, processes: rows, controls: rows, ..Bounds::default() };
        let mut later = policies.into_iter();
        let policy = later.next().unwrap_or_default();
        Self {
            governor: Governor::new(policy.clone(), bounds).counting_from(next),
            base: policy,
            jobs: Vec::new(),
            said: Vec::new(),
            later,
            snap,
            out: Decisions::with_capacity(bounds.decisions()),
            readings: HashMap::new(),
            recorded: Vec::new(),
            decided: Vec::new(),
            decided_ids: HashSet::new(),
            gaps: 0,
            policies: 0,
            begun: false,
            stepped: false,
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), TraceError> {
        let words = Words { frame };
        match frame.words[0] {
            "tick" => {
                self.step();
                self.snap.advance(Time(words.number(1)?));
                // Traces of before do not say it.
                self.snap.ticks = words.text(2).ok().map(|_| words.number(2)).transpose()?;
                (self.begun, self.stepped) = (true, false);
            }
            "step" => self.step(),
            "policy" => self.policy(),
            "job" => self.job(&words)?,
            "jobs" => self.jobs(words.number(1)?),
            "gap" => self.gaps += words.number(1)?,
            "group+" => self.group_new(&words)?,
            "group" => self.group_file(&words)?,
            "group=" => self.group_overlay(&words)?,
            "group!" => {
                let slot = GroupSlot(words.slot(1)?);
                let row = self.snap.groups.get_mut(slot.0).ok_or_else(|| words.bad("a reading of nobody"))?;
                row.usage = Some(Bytes(words.number(2)?));
                self.snap.touch_group(slot);
            }
            "group!kernel" => {
                let slot = GroupSlot(words.slot(1)?);
                let row = self.snap.groups.get_mut(slot.0).ok_or_else(|| words.bad("a reading of nobody"))?;
                row.kernel = Some(Bytes(words.number(2)?));
                self.snap.touch_group(slot);
            }
            "process!" => {
                let slot = ProcessSlot(words.slot(1)?);
                let bytes = |at| words.maybe(at).map(|number| number.map(Bytes));
                let rss = Rss { anon: bytes(2)?, file: bytes(3)?, shmem: bytes(4)? };
                let row = self.snap.processes.get_mut(slot.0);
                row.ok_or_else(|| words.bad("a reading of nobody"))?.rss = rss;
                self.snap.touch_process(slot);
            }
            "killed" => {
                let slot = ProcessSlot(words.slot(1)?);
                let row = self.snap.processes.get_mut(slot.0);
                row.ok_or_else(|| words.bad("a death of nobody"))?.killed = words.number(2)? != 0;
                self.snap.touch_process(slot);
            }
            "elsewhere" => self.governor.kill_elsewhere(match words.text(1)? {
                "maybe" => Elsewhere::Maybe,
                "no" => Elsewhere::No,
                _ => Elsewhere::Unseen,
            }),
            "group~" => self.group_preference(&words)?,
            "host" => {
                self.snap.memory.read_at = self.snap.at;
                self.snap.memory.available = meminfo::parse_available(frame.payload);
                self.snap.fresh_memory = true;
            }
            "stall" => self.stall(&words)?,
            "group-" => {
                let slot = GroupSlot(words.slot(1)?);
                if let Some(group) = self.snap.groups.get_mut(slot.0) {
                    group.gone = true;
                    self.snap.touch_group(slot);
                }
            }
            "process+" => self.process_new(&words)?,
            "process" => self.process_file(&words)?,
            "process-" => {
                let slot = ProcessSlot(words.slot(1)?);
                if let Some(process) = self.snap.processes.get_mut(slot.0) {
                    process.gone = true;
                    self.snap.touch_process(slot);
                }
            }
            "control" | "inherit" | "forget" => self.control(&words)?,
            "answer" => self.answer(&words)?,
            // The engine's turn came before its decisions were written.
            "decision" => {
                self.step();
                self.recorded.push((words.number(1)?, frame.payload.to_vec()));
            }
            // What it was for is in the journal; here only the count goes on.
            "number" => {
                self.step();
                let _ = self.governor.number(words.maybe(1)?.map(EpisodeId));
            }
            "report" => {
                self.step();
                let shown: Option<wire::Outcome> = serde_json::from_slice(frame.payload).ok();
                let outcome =
                    shown.as_ref().and_then(event::outcome_of).ok_or_else(|| words.bad("not an outcome"))?;
                let decision = DecisionId(words.number(1)?);
                if self.decided_ids.contains(&decision.0) {
                    self.governor.report(&Report { decision, outcome });
                }
            }
            other => return Err(words.bad(&format!("unknown frame `{other}`"))),
        }
        Ok(())
    }

    /// Lets the engine decide on what the tick has shown; once a tick.
    fn step(&mut self) {
        if !self.begun || std::mem::replace(&mut self.stepped, true) {
            return;
        }
        self.out.clear();
        self.governor.step(&self.snap, &mut self.out);
        for decision in self.out.iter() {
            let event = event::canonical(&decision, &self.snap, self.governor.policy());
            self.decided_ids.insert(event.id);
            self.decided.push((serde_json::to_vec(&event).unwrap_or_default(), event));
        }
        // As in the daemon: what comes after the decisions belongs to the next tick.
        self.snap.end();
    }

    /// The engine takes a policy up even if it is the same: it looks at everything anew.
    fn policy(&mut self) {
        match self.later.next() {
            Some(next) => self.base = next,
            None => self.policies += 1,
        }
        self.put_in_force();
    }

    fn put_in_force(&mut self) {
        self.step();
        let mut policy = self.base.clone();
        policy.put_first(self.jobs.iter().cloned());
        self.governor.set_policy(policy);
    }

    fn job(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let by = u32::try_from(words.number(1)?).map_err(|_| words.bad("a number is too large"))?;
        let priority = match words.text(2)? {
            "-" => None,
            number => Some(number.parse().map_err(|_| words.bad("not a priority"))?),
        };
        let path = std::str::from_utf8(words.frame.payload).map_err(|_| words.bad("not a path"))?;
        self.said.push(GroupPolicy {
            groups: vec![Pattern::new(path)],
            priority,
            reservation: words.maybe(3)?.map(Bytes),
            oom_reserve: words.maybe(4)?.map(Bytes),
            set_by: Some(by),
            ..GroupPolicy::default()
        });
        Ok(())
    }

    /// The last so many that were said.
    fn jobs(&mut self, count: u64) {
        let all = std::mem::take(&mut self.said);
        let before = all.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
        self.jobs = all.into_iter().skip(before).collect();
        self.put_in_force();
    }

    fn group_new(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let slot = words.slot(1)?;
        let mut group = Group::new(GroupId(words.number(2)?), words.frame.payload);
        group.parent = words.maybe(3)?.and_then(|n| u32::try_from(n).ok()).map(GroupSlot);
        group.owner = words.maybe(4)?.and_then(|n| u32::try_from(n).ok());
        group.watched = words.number(5)? != 0;
        self.snap.groups.put(slot, group).ok_or_else(|| words.bad("no such row"))?;
        self.readings.insert(slot, Reading::default());
        self.snap.touch_group(GroupSlot(slot));
        Ok(())
    }

    fn group_file(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let slot = words.slot(1)?;
        let page = self.snap.host.page.0;
        if self.group_strain(words.text(2)?, slot, words.frame.payload) {
            return Ok(());
        }
        let reading = self.readings.entry(slot).or_default();
        if !reading.apply(words.text(2)?, words.frame.payload, page) {
            return Err(words.bad("unknown file of a group"));
        }
        self.group_read(words, slot)
    }

    /// How long tasks have waited: a group's, behind its files, or the host's.
    fn stall(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let stall = Stall {
            waited: words.maybe(2)?,
            met: words.maybe(3)?,
            came_back: words.maybe(4)?,
            watched: words.number(5)? != 0,
        };
        if words.text(1)? == "-" {
            self.snap.memory.stall = stall;
            return Ok(());
        }
        let slot = words.slot(1)?;
        let group =
            self.snap.groups.get_mut(slot).ok_or_else(|| words.bad("a reading of a group without a row"))?;
        group.stall = stall;
        Ok(())
    }

    /// Whether a file says how a group fares; then it is taken over.
    fn group_strain(&mut self, name: &str, slot: u32, text: &[u8]) -> bool {
        let Some(group) = self.snap.groups.get_mut(slot) else { return false };
        let mut reading = StrainReading { strain: group.strain, reserved: group.reserved };
        if group.strain_at != self.snap.at {
            reading = StrainReading::default();
        }
        let known = reading.apply(name, text, self.snap.host.page.0);
        if known {
            (group.strain, group.reserved, group.strain_at) =
                (reading.strain, reading.reserved, self.snap.at);
        }
        known
    }

    fn group_overlay(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let slot = words.slot(1)?;
        let rest = words.frame.words.get(2..).unwrap_or_default();
        let reading = overlaid::parse(rest).ok_or_else(|| words.bad("not a reading"))?;
        self.readings.insert(slot, reading);
        self.group_read(words, slot)
    }

    fn group_preference(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let wish = |at| match words.text(at)? {
            "-" => Ok(None),
            word => {
                let known =
                    [Wish::Prefer, Wish::Avoid, Wish::Omit].into_iter().find(|w| text::wish(*w) == word);
                known.map(Some).ok_or_else(|| words.bad("not a wish"))
            }
        };
        let slot = words.slot(1)?;
        let owner = words.maybe(2)?.and_then(|uid| u32::try_from(uid).ok());
        let preference = Preference { trusted: wish(3)?, user: wish(4)? };
        let row = self.snap.groups.get_mut(slot).ok_or_else(|| words.bad("a wish of nobody"))?;
        (row.owner, row.preference) = (owner, preference);
        self.snap.touch_group(GroupSlot(slot));
        Ok(())
    }

    /// Takes a reading over into its row.
    fn group_read(&mut self, words: &Words<'_>, slot: u32) -> Result<(), TraceError> {
        let virtual_high = match self.snap.groups.get(slot) {
            Some(group) => self.governor.virtual_high(&group.path),
            None => return Err(words.bad("a reading of a group without a row")),
        };
        if let Some(group) = self.snap.groups.get_mut(slot) {
            group.read_at = self.snap.at;
            if let Some(reading) = self.readings.get(&slot) {
                reading.fill(group, virtual_high);
            }
        }
        self.snap.touch_group(GroupSlot(slot));
        Ok(())
    }

    fn process_new(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let slot = words.slot(1)?;
        let narrow = |n: u64| u32::try_from(n).map_err(|_| words.bad("a number is too large"));
        let mut process = Process::new(ProcessId { pid: narrow(words.number(2)?)?, start: words.number(3)? });
        process.parent = narrow(words.number(4)?)?;
        process.group = words.maybe(5)?.map(narrow).transpose()?.map(GroupSlot);
        process.uid = words.maybe(6)?.map(narrow).transpose()?;
        process.oom_score_adj = match words.text(7)? {
            "-" => None,
            text => Some(text.parse().map_err(|_| words.bad("not an oom_score_adj"))?),
        };
        process.untouchable = match words.text(8)? {
            "-" => None,
            "init" => Some(Untouchable::Init),
            "governor" => Some(Untouchable::Governor),
            "kernel" => Some(Untouchable::Kernel),
            _ => return Err(words.bad("not a protection")),
        };
        let comm = words.text(9)?.as_bytes();
        for (to, pair) in process.comm[..15].iter_mut().zip(comm.get(1..).unwrap_or_default().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *to = u8::from_str_radix(pair, 16).map_err(|_| words.bad("not a name in hexadecimal"))?;
        }
        process.exe = (!words.frame.payload.is_empty()).then(|| words.frame.payload.into());
        process.exe_elsewhere = words.frame.words.get(10).is_some_and(|word| *word == "elsewhere");
        if let Some(old) = self.snap.processes.get(slot).filter(|old| old.id == process.id) {
            (process.rss, process.read_at, process.killed) = (old.rss, old.read_at, old.killed);
            (process.kernel, process.session) = (old.kernel, old.session);
        }
        self.snap.processes.put(slot, process).ok_or_else(|| words.bad("no such row"))?;
        self.snap.touch_process(ProcessSlot(slot));
        Ok(())
    }

    fn process_file(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let slot = words.slot(1)?;
        let at = self.snap.at;
        let process = self.snap.processes.get_mut(slot).ok_or_else(|| words.bad("a reading of nobody"))?;
        let status = proc::parse_status(words.frame.payload);
        process.read_at = at;
        status.fill(process);
        self.snap.touch_process(ProcessSlot(slot));
        Ok(())
    }

    /// One that was taken, so it is open here too, unless other rules are played: then there is nobody to hear it.
    fn answer(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let narrow = |n: u64| u32::try_from(n).map_err(|_| words.bad("a number is too large"));
        let verdict = ask::verdict(words.text(2)?).map_err(|why| words.bad(&why))?;
        let answer = Answer {
            verdict,
            time: words.maybe(4)?.map(Duration::from_nanos),
            by: narrow(words.number(3)?)?,
        };
        // It came between two ticks, after what was decided in the one before.
        self.step();
        let _ = self.governor.answer(DecisionId(words.number(1)?), answer);
        Ok(())
    }

    fn control(&mut self, words: &Words<'_>) -> Result<(), TraceError> {
        let who = |at| -> Result<ProcessId, TraceError> {
            Ok(ProcessId { pid: words.slot(at)?, start: words.number(at + 1)? })
        };
        match words.frame.words[0] {
            "control" => {
                let (climit, plimit) = (Bytes(words.number(4)?), Bytes(words.number(5)?));
                let control = MemControl::from_file(words.number(3)?, climit, plimit, self.snap.host.page)
                    .map_err(|e| words.bad(&e.to_string()))?;
                // Room was found when it was recorded; what has none here is counted by the governor.
                let _ = self.governor.set_control(who(1)?, control);
            }
            "inherit" => {
                let _ = self.governor.inherit(who(1)?, who(3)?);
            }
            _ => self.governor.forget(who(1)?),
        }
        Ok(())
    }

    fn result(self) -> Replayed {
        let pairs = self.recorded.iter().zip(&self.decided);
        let same = pairs.filter(|((_, then), (now, _))| then == now).count();
        Replayed {
            recorded: self.recorded.len(),
            same,
            gaps: self.gaps,
            policies: self.policies,
            events: self.decided.into_iter().map(|(_, event)| event).collect(),
        }
    }
}

/// The words of a frame, with errors that say where.
struct Words<'a> {
    frame: &'a Frame<'a>,
}

impl Words<'_> {
    fn bad(&self, what: &str) -> TraceError {
        TraceError {
            at: self.frame.at,
            what: format!("{what} in `{}`", self.frame.words.join(" ")),
            cut: false,
        }
    }
    fn text(&self, at: usize) -> Result<&str, TraceError> {
        self.frame.words.get(at).copied().ok_or_else(|| self.bad("a word is missing"))
    }
    fn number(&self, at: usize) -> Result<u64, TraceError> {
        self.text(at)?.parse().map_err(|_| self.bad("not a number"))
    }
    fn slot(&self, at: usize) -> Result<u32, TraceError> {
        self.text(at)?.parse().map_err(|_| self.bad("not a slot"))
    }
    fn maybe(&self, at: usize) -> Result<Option<u64>, TraceError> {
        if self.text(at)? == "-" { Ok(None) } else { self.number(at).map(Some) }
    }
}

/// Fills a row from what was read; the virtual high stands in for the kernel's.
impl Reading {
    /// Takes the reading over into a row of the group table.
    pub fn fill(&self, group: &mut Group, virtual_high: Option<Limit>) {
        (group.usage, group.kernel, group.reclaimable) = (self.usage, self.kernel, self.reclaimable);
        (group.sockets, group.sockets_apart) = (self.sockets, self.sockets_apart);
        // v1 has no memory.high: where the configuration gives none, there is no line, and that is known.
        group.high = virtual_high.or(self.high).or(self.max.map(|_| Limit::Max));
        group.max = self.max;
        group.events = self.events;
        group.oom_group = self.oom_group;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::trace::Tape;

    #[test]
    fn whose_path_it_is_goes_into_the_trace_and_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let mut tape = Tape::create(&path, &Host::default(), Numbers::default()).unwrap();
        tape.tick(Time(5), None);
        for (slot, elsewhere) in [(0, false), (1, true)] {
            let mut process = Process::new(ProcessId { pid: 70 + slot, start: 1 });
            (process.exe, process.exe_elsewhere) = (Some(b"/usr/sbin/sshd".as_slice().into()), elsewhere);
            tape.process_new(ProcessSlot(slot), &process);
        }
        drop(tape);
        let bytes = std::fs::read(&path).unwrap();
        let (host, next, start) = trace::header(&bytes).unwrap();
        let mut player = Player::new(host, next, Vec::new(), bytes.len());
        trace::frames(&bytes, start).for_each(|frame| player.frame(&frame.unwrap()).unwrap());
        let row = |slot| player.snap.process(ProcessSlot(slot)).unwrap();
        assert!(!row(0).exe_elsewhere && row(1).exe_elsewhere);
        assert_eq!((row(0).exe.as_deref(), row(1).id.pid), (Some(b"/usr/sbin/sshd".as_slice()), 71));
    }

    #[test]
    fn what_was_said_of_jobs_goes_into_the_trace_and_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let said = |path: &[u8], priority, reservation, by| GroupPolicy {
            groups: vec![Pattern::literal(path)],
            priority,
            reservation,
            set_by: by,
            ..GroupPolicy::default()
        };
        let of_config = said(b"/*", Some(1), Some(Bytes(1)), None);
        let first = said(b"/a*\xc3\xa9", Some(i32::MIN), None, Some(0));
        let second = said(b"/b", None, Some(Bytes(u64::MAX)), Some(1000));
        let mut tape = Tape::create(&path, &Host::default(), Numbers::default()).unwrap();
        tape.tick(Time(5), None);
        tape.jobs([&first].into_iter());
        tape.jobs([&first, &second].into_iter());
        tape.policy(["r"].into_iter());
        drop(tape);
        let bytes = std::fs::read(&path).unwrap();
        let (host, next, start) = trace::header(&bytes).unwrap();
        let policy = Policy { groups: vec![of_config.clone()], ..Policy::default() };
        let reloaded = Policy { groups: Vec::new(), ..Policy::default() };
        let mut player = Player::new(host, next, vec![policy, reloaded], bytes.len());
        let mut seen = Vec::new();
        for frame in trace::frames(&bytes, start).map(Result::unwrap) {
            player.frame(&frame).unwrap();
            if matches!(frame.words[0], "jobs" | "policy") {
                seen.push(player.governor.policy().groups.clone());
            }
        }
        let both = [first.clone(), second.clone()];
        assert_eq!(seen[0], [first, of_config.clone()]);
        assert_eq!(seen[1], [both.as_slice(), &[of_config]].concat(), "all that holds, and no more");
        assert_eq!(seen[2], both, "over what a reload says too");
        // They are not policies that nobody gave.
        assert_eq!(player.policies, 0);
    }
}
