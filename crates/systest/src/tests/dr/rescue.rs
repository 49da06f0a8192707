//! The rescue shell: it looks and acts with nothing but what it had before, for nobody but root.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::host::{available, available_without_slab};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::poll_until;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, millis, process};
use crate::sys::now;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("dr_rescue_looks_and_acts", looks_and_acts).needs(&[Need::Freezer]),
        Test::new("dr_rescue_lets_in_nobody_else_and_one_after_the_other", one_after_the_other),
        Test::new("dr_rescue_while_all_is_eaten_and_nobody_can_fork", while_all_is_eaten)
            .needs(&[Need::OwnMachine])
            .seconds(60),
    ]
}

/// The waiting side. Ended with the test.
struct Waiting {
    child: Child,
    socket: PathBuf,
    program: PathBuf,
}

impl Waiting {
    fn start(bench: &Bench<'_>) -> Result<Self> {
        let program = bench.host.files.with_file_name("memgov-rescue");
        let socket = bench.dir.join("rescue.sock");
        let mut command = Command::new(&program);
        command.arg("serve").arg("--socket").arg(&socket).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line.contains("ready at"), "not ready: {line}");
        Ok(Self { child, socket, program })
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id())?)
    }

    /// Somebody at a terminal: a shell that becomes the client when it is told to, without another process.
    fn visitor(&self) -> Result<Visitor> {
        let script = format!("read go && exec {:?} --socket {:?}", self.program, self.socket);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting sh")?;
        let (to, from) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        Ok(Visitor { child, to, from, seen: Vec::new() })
    }

    /// Page faults of it so far, minor and major (minflt and majflt of proc_pid_stat(5)).
    fn faults(&self) -> Result<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = text.rsplit_once(')').context("no name")?.1;
        let field =
            |at: usize| -> Result<u64> { Ok(fields.split_whitespace().nth(at).context("short")?.parse()?) };
        Ok((field(7)?, field(9)?))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Where it was started in the root group of v2 it has made one of its own.
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup/memgov.rescue"));
    }
}

struct Visitor {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    seen: Vec<u8>,
}

impl Visitor {
    /// Becomes the client.
    fn enter(&mut self) -> Result<String> {
        self.ask("go")
    }

    /// A command, and what is said up to the next prompt.
    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.to, "{line}")?;
        const PROMPT: &[u8] = b"rescue# ";
        let mut buffer = [0; 4096];
        while !self.seen.ends_with(PROMPT) {
            let count = self.from.read(&mut buffer)?;
            ensure!(count > 0, "`{line}`: it ended: {}", String::from_utf8_lossy(&self.seen));
            self.seen.extend_from_slice(&buffer[..count]);
        }
        let said = String::from_utf8_lossy(&self.seen[..self.seen.len() - PROMPT.len()]).into_owned();
        self.seen.clear();
        Ok(said)
    }

    fn expect(&mut self, line: &str, part: &str) -> Result<String> {
        let said = self.ask(line)?;
        ensure!(said.contains(part), "`{line}`: expected `{part}` in: {said}");
        Ok(said)
    }

    fn leave(mut self) -> Result<()> {
        writeln!(self.to, "exit")?;
        ensure!(self.child.wait()?.success(), "the client failed");
        Ok(())
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn looks_and_acts(bench: &mut Bench<'_>) -> Result<String> {
    let group = bench.group("job")?;
    let mut hog = bench.agent(&group, "hog")?;
    hog.take("anon", 64 * MIB)?;
    let waiting = Waiting::start(bench)?;
    let mut visitor = waiting.visitor()?;
    visitor.enter()?;
    visitor.expect("help", "killgroup GROUP")?;
    visitor.expect("free", "total ")?;
    let row = visitor.expect("ps 40", &format!("{} ", hog.pid))?;
    ensure!(
        row.lines()
            .any(|line| line.contains(&hog.pid.to_string()) && line.contains("6") && line.ends_with("hog")),
        "{row}"
    );
    let row = visitor.expect("groups 40", &group.path())?;
    ensure!(row.lines().any(|line| line.trim_start().starts_with("6") && line.contains(" MiB  ")), "{row}");
    freezes(bench, &group, &mut visitor)?;
    visitor.expect("cat /proc/self/comm", "memgov-rescue")?;
    visitor.expect("cat /nothing/there", "No such file")?;
    let file = bench.dir.join("word");
    fs::write(&file, "before")?;
    visitor.expect(&format!("write {} now", file.display()), "written")?;
    ensure!(fs::read_to_string(&file)?.starts_with("now"), "not written");
    visitor.expect("run echo a b", "a b\n")?;
    visitor.expect("run false", "status 1")?;
    visitor.expect("nonsense \u{1b}[2J", "nonsense: not a command")?;
    visitor.expect("kill 1", "pid 1")?;
    ensure!(process::is_alive(hog.pid), "the hog is dead already");
    visitor.expect(&format!("kill -TERM {}", hog.pid), "sent 15")?;
    hog.wait_for_end(bench.patience())?;
    let mut others = [bench.agent(&group, "one")?, bench.agent(&group, "two")?];
    visitor.expect(&format!("killgroup {}", group.path()), "2 processes killed, none left")?;
    for other in &mut others {
        let (_, signal) = other.wait_for_end(bench.patience())?;
        ensure!(signal == 9, "ended by {signal}");
    }
    visitor.leave()?;
    Ok(format!("{:?} faults", waiting.faults()?))
}

/// By the path that `groups` shows. On v1 the freezer is a hierarchy of its own, and who has a group there is its administrator's business.
fn freezes(bench: &Bench<'_>, group: &Group, visitor: &mut Visitor) -> Result<()> {
    let said = visitor.ask(&format!("freeze {}", group.path()))?;
    if bench.host.version == Version::V1 && said.contains("No such file") {
        return Ok(());
    }
    ensure!(said.contains("written"), "{said}");
    if bench.host.version == Version::V2 {
        let events = group.dir().join("cgroup.events");
        let frozen = |wanted: &str| fs::read_to_string(&events).ok()?.contains(wanted).then_some(());
        let soon = Duration::from_millis(2);
        poll_until(bench.patience(), soon, || frozen("frozen 1")).context("not frozen")?;
        visitor.expect(&format!("thaw {}", group.path()), "written")?;
        return poll_until(bench.patience(), soon, || frozen("frozen 0")).context("not thawed");
    }
    visitor.expect(&format!("thaw {}", group.path()), "written").map(drop)
}

fn one_after_the_other(bench: &mut Bench<'_>) -> Result<String> {
    let waiting = Waiting::start(bench)?;
    // Not even where he could reach the socket.
    let mut stranger = Command::new(&waiting.program);
    stranger.arg("--socket").arg(&waiting.socket).uid(65534).stdin(Stdio::null()).stdout(Stdio::piped());
    let said = stranger.stderr(Stdio::piped()).output()?;
    ensure!(!said.status.success() && said.stdout.is_empty(), "a stranger was let in: {said:?}");
    let (mut first, mut second) = (waiting.visitor()?, waiting.visitor()?);
    first.enter()?;
    writeln!(second.to, "go")?;
    first.expect("help", "free")?;
    // A terminal that is closed, its client killed: the next one's turn.
    first.child.kill()?;
    let said = second.ask("help")?;
    ensure!(said.contains("rescue shell"), "not the second's turn: {said}");
    second.leave()?;
    // Of two only one waits; after a kill -9 the next takes its place.
    let mut twice = Command::new(&waiting.program);
    let said = twice.arg("serve").arg("--socket").arg(&waiting.socket).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(!said.status.success() && text.contains("another rescue shell"), "{text}");
    drop(waiting);
    let waiting = Waiting::start(bench)?;
    let mut visitor = waiting.visitor()?;
    visitor.enter()?;
    visitor.leave()?;
    Ok(String::new())
}

/// No process can be started on the whole machine (kernel.threads-max, proc_sys_kernel(5)), until this is dropped.
struct NoForks(String);

impl NoForks {
    const FILE: &str = "/proc/sys/kernel/threads-max";

    fn begin() -> Result<Self> {
        let before = Self(fs::read_to_string(Self::FILE)?);
        fs::write(Self::FILE, "20")?;
        Ok(before)
    }
}

impl Drop for NoForks {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, &self.0);
    }
}

/// What is left when all is eaten: little more than the kernel keeps to itself. How much that is depends on the machine; where its OOM killer ends the hog at this,
/// twice as much is left, and so on up to the most.
const LEFT: u64 = 4 * MIB;
const MOST_LEFT: u64 = 16 * MIB;

/// A hog that has eaten all but so much as the kernel leaves it, and how much is left.
fn eat_all(bench: &Bench<'_>, group: &Group) -> Result<(Agent, u64)> {
    let mut leave = LEFT;
    loop {
        let mut hog = bench.agent(group, "hog")?;
        // The kernel is to choose nobody else.
        fs::write(format!("/proc/{}/oom_score_adj", hog.pid), "1000").context("oom_score_adj of the hog")?;
        match eat(&mut hog, leave) {
            Ok(()) => return Ok((hog, leave)),
            Err(error) if leave >= MOST_LEFT => return Err(error),
            Err(error) => match hog.wait_for_end(bench.patience()) {
                Ok((_, libc::SIGKILL)) => leave *= 2,
                _ => return Err(error),
            },
        }
    }
}

fn eat(hog: &mut Agent, leave: u64) -> Result<()> {
    let mut held = 0;
    loop {
        let left = available_without_slab()?;
        if left <= leave {
            ensure!(held > 0, "{} were left before anything was eaten", mib(left));
            return Ok(());
        }
        held += ((left - leave) / 2).max(MIB);
        hog.take("anon", held)?;
    }
}

fn while_all_is_eaten(bench: &mut Bench<'_>) -> Result<String> {
    let group = bench.group("job")?;
    let waiting = Waiting::start(bench)?;
    ensure!(process::locked_kib(waiting.pid()?).is_some_and(|kib| kib > 0), "its memory is not locked");
    // Whoever was connected before, and whoever becomes the client only then.
    let (mut early, mut late) = (waiting.visitor()?, waiting.visitor()?);
    early.enter()?;
    early.expect("ps 5", "memgov-rescue")?;
    let (mut hog, leave) = eat_all(bench, &group)?;
    let left = available()?;
    ensure!(left < 2 * MOST_LEFT, "{} left is not nearly all eaten", mib(left));
    let no_forks = NoForks::begin()?;
    let refused = Command::new("true").spawn().map(|mut child| child.wait());
    ensure!(refused.is_err(), "a process could be started: {refused:?}");
    let before = waiting.faults()?;
    let begin = Instant::now();
    early.expect("free", "available")?;
    early.expect("groups 3", &group.path())?;
    early.expect("ps 3", "hog")?;
    early.expect("run true", "no room for another process now: not now")?;
    let looked = begin.elapsed();
    early.leave()?;
    late.enter().context("becoming the client without a fork")?;
    late.expect("ps 3", "hog")?;
    let after = waiting.faults()?;
    let begin = now();
    late.expect(&format!("kill {}", hog.pid), "sent 9")?;
    hog.wait_for_end(bench.patience())?;
    let back = poll_until(bench.patience(), Duration::from_millis(2), || {
        available().ok().filter(|available| *available > left + 4 * leave)
    });
    let back = (back.context("memory is not back")?, millis(now() - begin));
    drop(no_forks);
    late.expect("run echo yes", "yes")?;
    late.leave()?;
    ensure!(after == before, "page faults of the shell while all was eaten: {before:?} to {after:?}");
    Ok(format!(
        "{} left and no fork: looked around in {looked:?}, {} back after {}, not one page fault of the shell",
        mib(left),
        mib(back.0),
        back.1
    ))
}
