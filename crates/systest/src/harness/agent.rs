//! The harness's end of a workload's line protocol.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::group::Group;
use super::process;
use crate::sys::net::start_in_namespace;
use crate::sys::process::start_in_groups;

/// Something a workload noticed: a word and numbers (of `name=value`, the value).
#[derive(Clone, Debug)]
pub struct Note {
    /// What.
    pub word: String,
    /// Its numbers, in order; the first is a time for most.
    pub numbers: Vec<u64>,
}

/// A workload.
pub struct Agent {
    /// Its process.
    pub pid: i32,
    /// Its thread.
    pub tid: i32,
    name: String,
    input: Box<dyn Write + Send>,
    lines: Receiver<String>,
    answers: VecDeque<String>,
    notes: VecDeque<Note>,
    child: Option<Child>,
    patience: Duration,
}

impl Agent {
    /// Starts one in a group (and dies with the thread that starts it).
    pub fn start(group: &Group, name: &str, patience: Duration) -> Result<Self> {
        Self::start_program(&std::env::current_exe().context("finding this program")?, group, name, patience)
    }

    /// The same from a copy of this program.
    pub fn start_program(program: &Path, group: &Group, name: &str, patience: Duration) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["workload", "agent", &format!("name {name}"), "memlock-max", "drop-ipc-lock"]);
        start_in_groups(&mut command, group.doors()?, true);
        let mut agent = Self::start_command(command, name, patience)
            .with_context(|| format!("starting workload {name} in {}", group.path()))?;
        for _ in 0..3 {
            agent.answer(patience)?;
        }
        Ok(agent)
    }

    /// The same in another network namespace.
    pub fn start_in(namespace: &OwnedFd, group: &Group, name: &str, patience: Duration) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(["workload", "agent", &format!("name {name}")]);
        start_in_groups(&mut command, group.doors()?, true);
        start_in_namespace(&mut command, namespace.try_clone()?);
        let mut agent = Self::start_command(command, name, patience)?;
        agent.answer(patience)?;
        Ok(agent)
    }

    /// The same by any command that becomes or starts one without further commands, where and however it likes.
    pub fn start_command(mut command: Command, name: &str, patience: Duration) -> Result<Self> {
        // One arena for all threads: each would reserve 64 MiB, and mlockall counts what is reserved.
        command.env("MALLOC_ARENA_MAX", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to workload {name}")
        };
        let mut agent = Self::new(name, Box::new(input), BufReader::new(output), patience);
        agent.child = Some(child);
        agent.meet()?;
        Ok(agent)
    }

    /// The process the harness started for it, which need not be its own.
    pub fn started(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    fn new(
        name: &str,
        input: Box<dyn Write + Send>,
        output: impl BufRead + Send + 'static,
        patience: Duration,
    ) -> Self {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line).map_err(|_| ()))
        });
        let (answers, notes) = (VecDeque::new(), VecDeque::new());
        Self { pid: 0, tid: 0, name: name.to_owned(), input, lines, answers, notes, child: None, patience }
    }

    fn meet(&mut self) -> Result<()> {
        let ready = self.note("ready")?;
        let number =
            |at: usize| ready.numbers.get(at).and_then(|&number| i32::try_from(number).ok()).unwrap_or(0);
        (self.pid, self.tid) = (number(0), number(1));
        Ok(())
    }

    /// A child process or a thread of it (`fork` or `thread`), talking through two FIFOs in `dir`.
    pub fn offspring(&mut self, how: &str, dir: &Path) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (to, from) = (dir.join(format!("to-{number}")), dir.join(format!("from-{number}")));
        let (input, output) = (fifo(&to)?, fifo(&from)?);
        let name = format!("{how} of {}", self.name);
        let mut agent = Self::new(&name, Box::new(input), BufReader::new(output), self.patience);
        self.ask(&format!("{how} {} {}", to.display(), from.display()))?;
        agent.meet()?;
        Ok(agent)
    }

    /// Becomes the same program anew; the settings of the process stay, its memory does not.
    pub fn exec(&mut self) -> Result<()> {
        self.say("exec")?;
        self.meet()
    }

    /// Sends a command and does not wait.
    pub fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}")
            .and_then(|()| self.input.flush())
            .with_context(|| format!("telling {} ({}) to {command}: is it dead?", self.name, self.pid))
    }

    /// Sends a command and gives its answer.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.say(command)?;
        self.answer(self.patience).with_context(|| format!("asked {command}"))
    }

    /// Sends a command and gives the numbers of its answer.
    pub fn numbers(&mut self, command: &str) -> Result<Vec<u64>> {
        Ok(numbers(&self.ask(command)?))
    }

    /// The first number of an answer.
    pub fn number(&mut self, command: &str) -> Result<u64> {
        self.numbers(command)?
            .first()
            .copied()
            .ok_or_else(|| anyhow!("{command} was answered without a number"))
    }

    /// Takes all answers that are there or come within a moment, to questions nobody waited for.
    pub fn drain(&mut self) -> Result<()> {
        let end = Instant::now() + self.patience;
        // The one answer that begins with a slash is the last of them.
        self.say("groups")?;
        loop {
            self.receive(end)?;
            if self.answers.back().is_some_and(|answer| answer.starts_with("= /")) {
                self.answers.clear();
                return Ok(());
            }
        }
    }

    /// The numbers of the answer to a command that was only said.
    pub fn answered(&mut self) -> Result<Vec<u64>> {
        Ok(numbers(&self.answer(self.patience)?))
    }

    pub fn answer(&mut self, within: Duration) -> Result<String> {
        let end = Instant::now() + within;
        while self.answers.is_empty() {
            self.receive(end)?;
        }
        let answer = self.answers.pop_front().unwrap_or_default();
        match answer.strip_prefix("= ") {
            Some(text) => Ok(text.to_owned()),
            None => bail!("{} ({}) failed: {answer}", self.name, self.pid),
        }
    }

    /// Waits for a note of this kind; earlier ones of other kinds are kept.
    pub fn note(&mut self, word: &str) -> Result<Note> {
        self.note_within(word, self.patience)
    }

    /// The same, for so long.
    pub fn note_within(&mut self, word: &str, within: Duration) -> Result<Note> {
        let end = Instant::now() + within;
        loop {
            if let Some(at) = self.notes.iter().position(|note| note.word == word)
                && let Some(note) = self.notes.remove(at)
            {
                return Ok(note);
            }
            self.receive(end).with_context(|| format!("waiting for it to say {word}"))?;
        }
    }

    fn receive(&mut self, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => match line.strip_prefix("! ") {
                Some(note) => {
                    let word = note.split(' ').next().unwrap_or_default().to_owned();
                    self.notes.push_back(Note { word, numbers: numbers(note) });
                }
                None => self.answers.push_back(line),
            },
            Err(RecvTimeoutError::Timeout) => {
                let state = process::state(self.pid).map_or("gone".to_owned(), String::from);
                bail!("{} ({}) says nothing in time; its state is {state}", self.name, self.pid)
            }
            Err(RecvTimeoutError::Disconnected) => bail!("{} ({}) is gone", self.name, self.pid),
        }
        Ok(())
    }

    /// Starts growing; see `workload agent`, `help`.
    pub fn grow(&mut self, kind: &str, step: u64, interval: Duration, upto: u64) -> Result<()> {
        self.ask(&format!("grow {kind} {step} {} {upto}", interval.as_micros())).map(|_| ())
    }

    /// Grows at full speed to an amount and waits until it is there.
    pub fn take(&mut self, kind: &str, upto: u64) -> Result<()> {
        self.grow(kind, 256 << 10, Duration::ZERO, upto)?;
        self.note("full").map(|_| ())
    }

    /// Grows towards an amount that it may never get to, because something is going to be done about it.
    pub fn push(&mut self, kind: &str, upto: u64) -> Result<()> {
        self.grow(kind, 256 << 10, Duration::from_millis(1), upto)
    }

    /// Each call of the probe with its errno.
    pub fn probe(&mut self) -> Result<Vec<(String, i32)>> {
        let answer = self.ask("probe")?;
        let pair = |word: &str| {
            let (name, errno) = word.split_once('=')?;
            Some((name.to_owned(), errno.parse().ok()?))
        };
        Ok(answer.split(' ').filter_map(pair).collect())
    }

    /// Waits for the end of its process and gives when it was seen and the signal it died of, 0 for none.
    pub fn wait_for_end(&mut self, within: Duration) -> Result<(u64, i32)> {
        use std::os::unix::process::ExitStatusExt;
        let child = self.child.as_mut().ok_or_else(|| anyhow!("{} is no child of the harness", self.name))?;
        let ended = super::poll_until(within, Duration::from_micros(300), || child.try_wait().ok().flatten());
        let at = crate::sys::now();
        match ended {
            Some(status) => Ok((at, status.signal().unwrap_or(0))),
            None => bail!("{} ({}) is still alive after {within:?}", self.name, self.pid),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only if it is dead and reaped already. A frozen one dies when its group is removed.
            let _dead = child.kill();
            let _reaped = super::poll_until(Duration::from_millis(50), Duration::from_millis(1), || {
                child.try_wait().ok()?
            });
        }
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split([' ', '=']).filter_map(|word| word.parse().ok()).collect()
}

fn fifo(path: &Path) -> Result<File> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .with_context(|| format!("making {}", path.display()))?;
    File::options().read(true).write(true).open(path).with_context(|| format!("opening {}", path.display()))
}
