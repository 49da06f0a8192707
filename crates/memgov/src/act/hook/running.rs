//! One program, from memgov's side: it is started by its keeper, which is this program under another command, with nothing of memgov's but three pipes. By
//! the first it is seen that memgov lives and still wants it, by the second comes what it writes, by the third how it ended.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memgov_decide::decision::Outcome;
use memgov_decide::hook::{Ended, Run};
use memgov_decide::units::{Limit, Time};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Task, keeper, refused};
use crate::kernel::{Errno, Layout, sys};

/// So much of what a program writes is kept.
const KEPT: usize = 4 << 10;
/// Of the keeper's own few words.
const WORDS: usize = 256;
/// Word of being called off is looked for so often.
const LOOK: Duration = Duration::from_millis(50);
/// A keeper that has not ended the program by so long after its time is ended itself, and takes the program with it.
const PATIENCE: Duration = Duration::from_secs(1);
/// What programs find others by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The beginning of it.
    pub kept: Vec<u8>,
    /// So many bytes more.
    pub left_out: u64,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn add(&mut self, bytes: &[u8], most: usize) {
        let room = most.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.left_out += (bytes.len() - room) as u64;
    }
}

/// Starts it and sees it end.
pub(super) fn run(task: &Task, layout: &Layout, off: &AtomicBool) -> (Outcome, Output) {
    let begin = sys::now();
    let mut output = Output::default();
    let outcome = match command(task, layout).spawn() {
        Ok(child) => {
            let until = begin + task.plan.hook.within + PATIENCE;
            let words = watch(child, until, off, &mut output);
            outcome(&String::from_utf8_lossy(&words.kept))
        }
        Err(error) => refused(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    (outcome, output)
}

fn command(task: &Task, layout: &Layout) -> Command {
    let Task { plan, program, episode, shortage, .. } = task;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("memgov").arg(keeper::COMMAND);
    command.arg(format!("--within-ms={}", plan.hook.within.as_millis()));
    command.arg(format!("--memory={}", program.memory.0)).arg("--");
    command.args(program.run.iter().map(|word| &**word));
    command.env_clear().env("PATH", PATH);
    let below = shortage.path.strip_prefix(b"/").unwrap_or(&shortage.path);
    command.env("MEMGOV_GROUP", OsStr::from_bytes(&shortage.path));
    command.env("MEMGOV_CGROUP_DIR", layout.memory.mount.join(OsStr::from_bytes(below)));
    command.env("MEMGOV_RULE", &plan.name);
    command.env("MEMGOV_DECISION", shortage.decision.0.to_string());
    command.env("MEMGOV_EPISODE", episode.0.to_string());
    command.env("MEMGOV_METER", shortage.meter);
    command.env("MEMGOV_METER_BYTES", shortage.value.0.to_string());
    command.env("MEMGOV_LINE_BYTES", shortage.line.0.to_string());
    if let Some(usage) = shortage.usage {
        command.env("MEMGOV_USAGE_BYTES", usage.0.to_string());
    }
    if let Some(Limit::At(limit)) = shortage.limit {
        command.env("MEMGOV_LIMIT_BYTES", limit.0.to_string());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Takes in what comes until the keeper has said its last; its words.
fn watch(mut child: Child, until: Time, off: &AtomicBool, output: &mut Output) -> Output {
    let mut words = Output::default();
    let (mut wanted, mut said, mut written) = (child.stdin.take(), child.stderr.take(), child.stdout.take());
    while said.is_some() {
        let now = sys::now();
        if off.load(Ordering::Acquire) {
            // The keeper sees that, and ends it.
            wanted = None;
        }
        if now >= until {
            // It fails only if it has just ended.
            let _ = child.kill();
            break;
        }
        wait(written.as_ref(), said.as_ref(), LOOK.min(until.since(now)));
        take(&mut written, output, KEPT);
        take(&mut said, &mut words, WORDS);
    }
    // What is left in the pipe. Whoever holds it open still is not waited for.
    take(&mut written, output, KEPT);
    drop(wanted);
    let _ = child.wait();
    words
}

fn wait(
    written: Option<&std::process::ChildStdout>,
    said: Option<&std::process::ChildStderr>,
    most: Duration,
) {
    let fds = [written.map(|it| it.as_fd()), said.map(|it| it.as_fd())];
    let mut fds: Vec<_> = fds.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: most.as_secs().cast_signed(), tv_nsec: most.subsec_nanos().into() };
    // Interrupted, or out of memory for a moment: looked at again all the same.
    let _ = poll(&mut fds, Some(&timeout));
}

/// What can be had of a pipe at once; at its end it is closed.
fn take<P: std::io::Read + std::os::fd::AsFd>(pipe: &mut Option<P>, into: &mut Output, most: usize) {
    let mut buffer = [0; 4096];
    // Whoever writes without end is not to keep this from seeing that the time is up.
    for _ in 0..16 {
        let Some(open) = pipe else { return };
        let fd = open.as_fd();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !matches!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)), Ok(1)) {
            return;
        }
        match open.read(&mut buffer) {
            Ok(0) | Err(_) => *pipe = None,
            Ok(count) => into.add(&buffer[..count], most),
        }
    }
}

/// What the keeper's last words mean. Of one that was killed before it could say any nothing is known.
fn outcome(words: &str) -> Outcome {
    let mut words = words.split_whitespace();
    let word = words.next().unwrap_or_default();
    let (Some(number), Some(nanos)) = (number(words.next()), number(words.next())) else {
        return refused(Errno::IO);
    };
    let small = u8::try_from(number).unwrap_or(u8::MAX);
    let ended = match word {
        keeper::EXITED => Ended::Exited(small),
        keeper::SIGNALLED => Ended::Signalled(small),
        keeper::OVERDUE => Ended::Overdue,
        keeper::CALLED_OFF => Ended::CalledOff,
        _ => return refused(Errno::from_raw_os_error(i32::try_from(number).unwrap_or(libc::EIO))),
    };
    Outcome::Ran(Run { ended, took: Duration::from_nanos(nanos) })
}

fn number(word: Option<&str>) -> Option<u64> {
    word?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use memgov_decide::decision::Operation;

    #[test]
    fn last_words() {
        let ran = |ended, took| Outcome::Ran(Run { ended, took: Duration::from_nanos(took) });
        let failed = |errno| Outcome::Refused { at: Operation::Hook, errno };
        for (words, expected) in [
            ("exited 3 1500\n", ran(Ended::Exited(3), 1500)),
            ("signalled 11 7\n", ran(Ended::Signalled(11), 7)),
            ("overdue 0 9\n", ran(Ended::Overdue, 9)),
            ("called-off 0 9\n", ran(Ended::CalledOff, 9)),
            ("failed 2 9\n", failed(libc::ENOENT)),
            ("", failed(libc::EIO)),
            ("exited", failed(libc::EIO)),
        ] {
            assert_eq!(outcome(words), expected, "{words:?}");
        }
    }

    #[test]
    fn the_beginning_is_kept_and_the_rest_counted() {
        let mut output = Output::default();
        output.add(b"abc", 5);
        output.add(b"def", 5);
        output.add(b"gh", 5);
        assert_eq!(output, Output { kept: b"abcde".to_vec(), left_out: 3 });
    }
}
