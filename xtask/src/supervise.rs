//! One child at a time, watched: its lines as they come, a time limit, Ctrl-C, and an end that is certain.
//! Must not judge: what a line or an exit status means is the caller's business.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;

/// Longer lines arrive in pieces of this size: a child that never ends its line must not fill our memory.
const LINE_LIMIT: u64 = 64 * 1024;
/// From the polite request to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long the pipes may stay open after the child is gone: something it left behind holds them.
const STRAGGLERS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What the first Ctrl-C does to the child. The second one ends it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It is ended.
    End,
    /// It gets the character a terminal sends, on its standard input: for a guest's console.
    TypeCtrlC,
    /// It gets SIGINT and is waited for: for a program that cleans up after itself.
    PassOn,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// We ended it: the time was over.
    TimedOut,
    /// We ended it: the user asked.
    Interrupted,
}

impl End {
    /// The exit status as a shell gives it; `None` when we ended it.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Exited(status) => status.code().or_else(|| status.signal().map(|signal| 128 + signal)),
            Self::TimedOut | Self::Interrupted => None,
        }
    }

    /// True for exit status 0.
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(out, "{status}"),
            Self::TimedOut => out.write_str("ended by us: the time limit was reached"),
            Self::Interrupted => out.write_str("ended by us: interrupted"),
        }
    }
}

struct Line {
    stream: Stream,
    text: String,
}

/// Makes the kernel end the child with us, even if we are killed by SIGKILL.
pub fn dies_with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Runs `command` in a process group of its own to its end or `limit`, handing over each line without its newline.
pub fn run(
    mut command: Command,
    limit: Duration,
    on_interrupt: OnInterrupt,
    on_line: &mut dyn FnMut(Stream, &str),
) -> Result<End> {
    let what = format!("starting {}", command.get_program().to_string_lossy());
    let stdin = if on_interrupt == OnInterrupt::TypeCtrlC { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context(what)?;
    let lines = read_lines(&mut child);
    let keyboard = child.stdin.take();
    let mut watch =
        Watch { child, keyboard, limit: Instant::now() + limit, on_interrupt, typed: interrupt::count() };
    let end = watch.until_the_end(&lines, on_line);
    watch.end();
    end
}

/// Runs `command` on our own output, in a process group of its own: Ctrl-C reaches it once, through us, and it is waited
/// for while it cleans up after itself.
pub fn run_on_our_output(mut command: Command, limit: Duration) -> Result<End> {
    let what = format!("starting {}", command.get_program().to_string_lossy());
    let child = command.stdin(Stdio::null()).process_group(0).spawn().context(what)?;
    let (_, no_lines) = sync_channel(1);
    let on_interrupt = OnInterrupt::PassOn;
    let limit = Instant::now() + limit;
    let mut watch = Watch { child, keyboard: None, limit, on_interrupt, typed: interrupt::count() };
    let end = watch.until_the_end(&no_lines, &mut |_, _| {});
    watch.end();
    end
}

struct Watch {
    child: Child,
    keyboard: Option<ChildStdin>,
    limit: Instant,
    on_interrupt: OnInterrupt,
    /// Interrupts already dealt with.
    typed: usize,
}

impl Watch {
    fn until_the_end(
        &mut self,
        lines: &Receiver<Line>,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<End> {
        let mut gone: Option<(ExitStatus, Instant)> = None;
        loop {
            let open = match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    on_line(line.stream, &line.text);
                    true
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(LOOK / 10);
                    false
                }
            };
            if gone.is_none() {
                gone = self.child.try_wait().context("waiting")?.map(|status| (status, Instant::now()));
            }
            if let Some((status, since)) = gone
                && (!open || since.elapsed() > STRAGGLERS)
            {
                return Ok(End::Exited(status));
            }
            if Instant::now() > self.limit {
                return Ok(End::TimedOut);
            }
            if self.interrupted() {
                return Ok(End::Interrupted);
            }
        }
    }

    /// Deals with a new Ctrl-C; true when the child must go.
    fn interrupted(&mut self) -> bool {
        let count = interrupt::count();
        if count == self.typed {
            return false;
        }
        self.typed = count;
        match self.on_interrupt {
            OnInterrupt::End => return true,
            OnInterrupt::TypeCtrlC => {
                let typed = self.keyboard.as_mut().map(|keyboard| keyboard.write_all(b"\x03"));
                if !matches!(typed, Some(Ok(()))) {
                    return true;
                }
            }
            OnInterrupt::PassOn => self.signal(Signal::INT),
        }
        self.on_interrupt = OnInterrupt::End;
        false
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // The group may be gone already, which is what we want.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Politely, then surely. What stayed behind in the child's process group goes too.
    fn end(&mut self) {
        let since = Instant::now();
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < GRACE {
            std::thread::sleep(LOOK);
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn read_lines(child: &mut Child) -> Receiver<Line> {
    let (sender, receiver) = sync_channel(1024);
    if let Some(stdout) = child.stdout.take() {
        forward(Stream::Out, stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(Stream::Err, stderr, sender);
    }
    receiver
}

fn forward(stream: Stream, from: impl Read + Send + 'static, to: SyncSender<Line>) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            // An error is the end as well: the child is gone or will be ended.
            if !matches!(from.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut bytes), Ok(read) if read > 0) {
                return;
            }
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if to.send(Line { stream, text }).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (End, Vec<(Stream, String)>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let end =
            run(command, limit, OnInterrupt::End, &mut |stream, line| lines.push((stream, line.to_owned())));
        (end.unwrap(), lines)
    }

    #[test]
    fn lines_and_the_exit_status_arrive() {
        let (end, lines) = shell("echo a; printf 'b\\r\\nc'; echo e >&2; exit 7", Duration::from_secs(20));
        assert_eq!(end.code(), Some(7));
        let out: Vec<_> = lines.iter().filter(|(s, _)| *s == Stream::Out).map(|(_, t)| t.as_str()).collect();
        assert_eq!(out, ["a", "b", "c"]);
        assert!(lines.contains(&(Stream::Err, "e".to_owned())));
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(shell("kill -9 $$", Duration::from_secs(20)).0.code(), Some(137));
    }

    #[test]
    fn the_time_limit_ends_the_whole_group() {
        let start = Instant::now();
        let (end, lines) = shell("sleep 60 & echo $!; wait", Duration::from_millis(300));
        assert_eq!(end, End::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(10));
        let left = format!("/proc/{}/stat", lines[0].1);
        let gone = (0..50).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::read_to_string(&left).map_or(true, |stat| stat.contains(") Z "))
        });
        assert!(gone, "{left} is still there");
    }

    #[test]
    fn a_child_left_behind_does_not_hold_us() {
        let start = Instant::now();
        let (end, _) = shell("sleep 30 & exit 3", Duration::from_secs(20));
        assert_eq!(end.code(), Some(3));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
