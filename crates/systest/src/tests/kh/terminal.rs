//! The progress line of a shrink, and Ctrl-C, on a terminal.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;

use crate::harness::bench::Bench;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};

pub fn tests() -> Vec<Test> {
    vec![Test::new("kh_01_progress_on_a_terminal", progress).seconds(60)]
}

/// A command on a terminal of its own, which it controls.
struct Terminal {
    child: Child,
    master: File,
    seen: Vec<u8>,
}

impl Terminal {
    fn start(command: &Command) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let name = PathBuf::from(rustix::pty::ptsname(&master, Vec::new())?.into_string()?);
        let slave: OwnedFd =
            rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::ioctl_fionbio(&master, true)?;
        // setsid(1) makes the terminal the one that Ctrl-C comes from.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("-c").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(key, value),
                None => on_terminal.env_remove(key),
            };
        }
        on_terminal.stdin(Stdio::from(slave.try_clone()?)).stdout(Stdio::from(slave.try_clone()?));
        let child = on_terminal.stderr(Stdio::from(slave)).spawn().context("starting setsid")?;
        Ok(Self { child, master: File::from(master), seen: Vec::new() })
    }

    /// Takes in what there is to be read.
    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.master.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.seen.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Nobody has the other end open any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

fn progress(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 64 * MIB)?;
    let (path, limits) = (job.path(), job.limits());
    let mut lines = 0;
    for there in [true, false] {
        let command = match there {
            true => daemon.command(&["shrink", &path, "--to", "16MiB"]),
            false => super::alone(bench, &[&path, "--to", "16MiB"]),
        };
        let mut terminal = Terminal::start(&command)?;
        let line = format!("\r\x1b[K{path}: ");
        let drawn = |text: &str| text.matches(&line).count();
        let shown = poll_until(bench.patience(), Duration::from_millis(10), || {
            terminal.read().ok()?;
            (drawn(&terminal.text()) >= 3).then_some(())
        });
        let text = terminal.text();
        shown.with_context(|| format!("no line: {text:?}"))?;
        ensure!(text.contains("-> 16MiB") && text.contains("/s"), "no target or no rate: {text:?}");
        ensure!(!text.contains(": 0B ->"), "a line before it has begun: {text:?}");
        // Ctrl-C, as the keyboard sends it.
        terminal.master.write_all(b"\x03")?;
        let ended = poll_until(bench.patience(), Duration::from_millis(10), || {
            terminal.read().ok()?;
            terminal.child.try_wait().ok()?
        });
        let status = ended.context("it does not end")?;
        terminal.read()?;
        let text = terminal.text();
        ensure!(status.code() == Some(130), "exit {status}: {text:?}");
        // The line is wiped before the last word, which ends with a new line.
        let (_, last) = text.rsplit_once("\r\x1b[K").context("the line is not wiped")?;
        ensure!(last.contains("called off") && last.ends_with('\n'), "{text:?}");
        ensure!(job.limits() == limits, "limits {}, were {limits}", job.limits());
        lines += drawn(&text);
    }
    Ok(format!("drawn {lines} times"))
}
