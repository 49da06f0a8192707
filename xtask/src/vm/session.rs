//! One boot from the first line to the last: builds the initramfs, runs the emulator, keeps the log, says what came of it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::console::{Said, kernel_failed, said, switched_off};
use super::{Machine, Session, initramfs};
use crate::supervise::{self, End, OnInterrupt, Stream};
use crate::workspace;

/// Lines of the log that are shown when a run failed.
const SHOWN: usize = 40;

/// What came of it.
pub struct Outcome {
    /// The command's exit status, when the machine said it.
    pub code: Option<i32>,
    /// Why the run is a failure whatever the command said.
    pub trouble: Option<String>,
    /// From the start to the command's.
    pub boot: Option<Duration>,
    /// From the start to the end of the emulator.
    pub total: Duration,
    log: PathBuf,
    tail: VecDeque<String>,
}

impl Outcome {
    /// Shows where the log is, and its end.
    pub fn print_log(&self) {
        eprintln!("---- the last lines of {}", self.log.display());
        for line in &self.tail {
            eprintln!("{line}");
        }
        eprintln!("----");
    }

    /// Where both consoles were written down; gone when all went well.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Removes the log of a run that went well.
    fn settle(&self) {
        if self.trouble.is_none() && self.code == Some(0) {
            let _ = fs::remove_file(&self.log);
        }
    }
}

/// Boots, runs the command, hands over each line it prints. With `attended`, the first Ctrl-C goes to the command.
pub fn run_command(
    machine: &Machine,
    words: Vec<String>,
    attended: bool,
    on_line: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let scratch = Scratch::new(&machine.name)?;
    let command = scratch.emulator(machine, &Session::Command(words))?;
    let mut log = Log::create(&machine.name)?;
    let start = Instant::now();
    let mut seen = Seen::default();
    let on_interrupt = if attended { OnInterrupt::TypeCtrlC } else { OnInterrupt::End };
    let end = supervise::run(command, machine.limit, on_interrupt, &mut |stream, line| {
        log.line(line);
        if let Some(text) = seen.line(stream, line, start.elapsed()) {
            on_line(text);
        }
    })?;
    let trouble = seen.trouble(end, machine.limit);
    let Seen { boot, code, .. } = seen;
    let outcome = Outcome { code, trouble, boot, total: start.elapsed(), log: log.path, tail: log.tail };
    outcome.settle();
    Ok(outcome)
}

/// What the two consoles have said so far.
#[derive(Default)]
struct Seen {
    boot: Option<Duration>,
    code: Option<i32>,
    kernel_failure: Option<String>,
    off: bool,
}

impl Seen {
    /// Takes one line; gives back what the command printed.
    fn line<'a>(&mut self, stream: Stream, line: &'a str, at: Duration) -> Option<&'a str> {
        // Before the command there is only the kernel, whichever way it speaks; after it there is nothing to hear.
        if stream == Stream::Out && self.boot.is_some() {
            return match said(line) {
                _ if self.code.is_some() => None,
                Said::Ended { code, last } => {
                    self.code = Some(code);
                    (!last.is_empty()).then_some(last)
                }
                Said::Booted | Said::Text(_) => Some(line),
            };
        }
        if stream == Stream::Out && said(line) == Said::Booted {
            self.boot = Some(at);
        } else if switched_off(line) {
            self.off = true;
        } else if kernel_failed(line) && !self.off {
            // User-mode Linux now and then panics in a timer that fires after it has shut down: that is not meant.
            self.kernel_failure.get_or_insert_with(|| line.trim().to_owned());
        }
        None
    }

    fn trouble(&self, end: End, limit: Duration) -> Option<String> {
        match (&self.kernel_failure, end, self.boot, self.code) {
            (Some(line), ..) => Some(format!("the kernel failed: {line}")),
            (None, End::TimedOut, ..) => Some(format!("ended after its limit of {} s", limit.as_secs())),
            (None, End::Interrupted, ..) => Some("interrupted".to_owned()),
            (None, End::Exited(status), None, _) => Some(format!("the machine did not boot ({status})")),
            (None, End::Exited(status), _, None) => {
                Some(format!("the machine ended before its command ({status})"))
            }
            (None, End::Exited(_), Some(_), Some(_)) => None,
        }
    }
}

/// Boots with a shell on our own terminal. The log has the kernel's console only.
pub fn shell(machine: &Machine) -> Result<()> {
    let scratch = Scratch::new(&machine.name)?;
    let mut command = scratch.emulator(machine, &Session::Shell)?;
    let log = Log::create(&machine.name)?;
    let kernel = log.file.get_ref().try_clone().context("the log")?;
    eprintln!("{}: `exit` ends it; the kernel's console is in {}", machine.name, log.path.display());
    let terminal = Terminal::remember();
    let mut child = command.stderr(Stdio::from(kernel)).spawn().context("starting the emulator")?;
    let status = child.wait().context("waiting for the emulator")?;
    terminal.restore();
    anyhow::ensure!(status.success(), "{}: {status}, see {}", machine.name, log.path.display());
    Ok(())
}

/// The emulator makes the terminal raw and may not live to put that right.
struct Terminal(Option<rustix::termios::Termios>);

impl Terminal {
    fn remember() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }

    fn restore(self) {
        if let Some(was) = self.0 {
            let _ =
                rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Drain, &was);
        }
    }
}

/// Both consoles in one file, as the lines came.
struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    tail: VecDeque<String>,
}

impl Log {
    fn create(name: &str) -> Result<Self> {
        let dir = workspace::vm().join("logs");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(format!("{name}.log"));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path, file: BufWriter::new(file), tail: VecDeque::new() })
    }

    fn line(&mut self, line: &str) {
        // A full disk must not change a verdict: what was seen is judged from memory.
        let _ = writeln!(self.file, "{line}");
        if self.tail.len() == SHOWN {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}

/// A directory for this run, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let runs = workspace::vm().join("run");
        remove_stale(&runs);
        let dir = runs.join(format!("{name}.{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn emulator(&self, machine: &Machine, session: &Session) -> Result<std::process::Command> {
        machine.kernel.prepare(machine.cgroup)?;
        let image =
            initramfs::build(machine, session, machine.kernel.console()).context("building the initramfs")?;
        let path = self.0.join("initramfs");
        fs::write(&path, image).with_context(|| format!("writing {}", path.display()))?;
        machine.kernel.command(machine, &path, &self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Directories of runs that were killed before they could clean up.
fn remove_stale(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.rsplit('.').next().unwrap_or_default();
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(9);
    const GOOD: &[(Stream, &str)] = &[
        (Stream::Out, "SeaBIOS"),
        (Stream::Err, "[    0.1] Linux version 6.1"),
        (Stream::Out, "@@BOOTED"),
        (Stream::Out, "hello"),
        (Stream::Out, "half@@EXIT 3"),
        (Stream::Err, "[    2.8] reboot: Power down"),
        (Stream::Err, "Kernel panic - not syncing: Kernel mode fault at addr 0x14, ip 0x60052f5d"),
        (Stream::Out, "<0>Kernel panic - not syncing: Kernel mode fault"),
    ];

    fn play(lines: &[(Stream, &str)]) -> (Seen, Vec<String>) {
        let mut seen = Seen::default();
        let mut texts = Vec::new();
        for (stream, line) in lines {
            texts.extend(seen.line(*stream, line, Duration::from_secs(1)).map(str::to_owned));
        }
        (seen, texts)
    }

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_run_is_judged_by_what_happened_until_it_was_switched_off() {
        let (seen, texts) = play(GOOD);
        assert_eq!(texts, ["hello", "half"]);
        assert_eq!(seen.code, Some(3));
        assert_eq!(seen.trouble(exited(0), LIMIT), None);
        assert_eq!(seen.trouble(exited(134), LIMIT), None);
    }

    #[test]
    fn every_way_to_end_early_is_a_failure() {
        for length in 0..5 {
            let trouble = play(&GOOD[..length]).0.trouble(exited(0), LIMIT);
            let part = if length < 3 { "did not boot" } else { "before its command" };
            assert!(trouble.is_some_and(|it| it.contains(part)), "{length}");
        }
        assert!(play(GOOD).0.trouble(End::TimedOut, LIMIT).is_some_and(|it| it.contains("9 s")));
        assert!(play(GOOD).0.trouble(End::Interrupted, LIMIT).is_some());
    }

    #[test]
    fn an_oops_spoils_a_run_that_went_well() {
        let mut lines = GOOD.to_vec();
        lines.insert(4, (Stream::Err, "[    2.0] Oops: 0002 [#1] PREEMPT SMP NOPTI"));
        assert!(play(&lines).0.trouble(exited(0), LIMIT).is_some_and(|it| it.contains("Oops")));
    }

    #[test]
    fn a_command_cannot_accuse_the_kernel() {
        let mut lines = GOOD.to_vec();
        lines.insert(4, (Stream::Out, "Kernel panic - not syncing: just text"));
        let (seen, texts) = play(&lines);
        assert_eq!(seen.trouble(exited(0), LIMIT), None);
        assert_eq!(texts.len(), 3);
    }
}
