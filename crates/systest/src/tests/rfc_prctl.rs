//! `memgov exec --rfc-prctl`: programs that make the over-high series' own calls, prctl(60, word, climit, plimit, 0) and prctl(59, item, 0, 0, 0).

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, word};
use crate::harness::daemon::{Daemon, run_within};
use crate::harness::group::members;
use crate::harness::host::NOBODY;
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};
use crate::sys::process::start_in_groups;
use crate::sys::signal;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("rfc_prctl_sets_and_reads_a_control", round_trip),
        Test::new("rfc_prctl_sets_a_control_that_acts", acts),
        Test::new("rfc_prctl_is_for_threads_children_and_programs", descendants),
        Test::new("rfc_prctl_lets_mainlines_forms_through", mainline),
        Test::new("rfc_prctl_without_a_daemon_fails_in_time", no_daemon).seconds(90),
        Test::new("rfc_prctl_holds_up_no_call_of_mainlines", held_up).seconds(90),
        Test::new("rfc_prctl_without_its_launcher_fails", no_launcher),
        Test::new("rfc_prctl_is_answered_by_one", nested),
        Test::new("rfc_prctl_acts_as_its_caller", users),
        Test::new("rfc_prctl_by_a_user_takes_no_new_privs", by_user),
    ]
}

/// The letter's example: SIGUSR1 again and again, anonymous memory counts.
const EXAMPLE: u64 = 0x0101_0a03;
const SET: u64 = 60;
const GET: u64 = 59;
/// Mainline's prctl(59, 1, 0, so much, 0): dispatch system calls from outside the first 128 TiB, and so none of a program's.
const EVERYWHERE: u64 = (1 << 47) - 1;

/// An agent under the launcher. Ends with this, and is waited for: its group must go before the test does.
struct Launched(Agent);

impl Launched {
    fn start(bench: &Bench<'_>, daemon: &Daemon) -> Result<Self> {
        let own = std::env::current_exe()?;
        let command = daemon.command(&launch(&own.to_string_lossy()));
        Ok(Self(Agent::start_command(command, "launched", bench.patience())?))
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _told = self.0.say("exit 0");
        let _ended = self.0.wait_for_end(Duration::from_secs(5));
    }
}

fn launch(program: &str) -> [&str; 6] {
    ["exec", "--rfc-prctl", "--", program, "workload", "agent"]
}

/// What a call returned and its errno.
fn call(agent: &mut Agent, [option, a, b, c, d]: [u64; 5]) -> Result<(u64, i32)> {
    let numbers = agent.numbers(&format!("prctl {option} {a} {b} {c} {d}"))?;
    let [value, errno] = numbers[..] else { return Err(anyhow!("no two numbers: {numbers:?}")) };
    Ok((value, i32::try_from(errno)?))
}

fn expect(agent: &mut Agent, args: [u64; 5], expected: (u64, i32)) -> Result<()> {
    let got = call(agent, args)?;
    ensure!(got == expected, "prctl{args:x?}: expected (value, errno) {expected:?}, got {got:?}");
    Ok(())
}

fn expect_memctl(daemon: &Daemon, pid: i32, expected: &str) -> Result<()> {
    let got = daemon.memctl(pid)?;
    ensure!(got == format!("{expected}\n"), "control of {pid}: expected {expected}, got {got}");
    Ok(())
}

/// Ends a child of a launched agent: left to itself it would keep the group.
fn end(bench: &Bench<'_>, mut child: Agent) -> Result<()> {
    child.say("exit 0")?;
    let pid = child.pid;
    let gone =
        poll_until(bench.patience(), Duration::from_millis(5), || (!process::is_alive(pid)).then_some(()));
    gone.with_context(|| format!("{pid} goes on"))
}

fn round_trip(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    expect(agent, [GET, 0, 0, 0, 0], (0, 0))?;
    expect(agent, [SET, EXAMPLE, 1_000_001, 5000, 0], (0, 0))?;
    expect_memctl(&daemon, agent.pid, "16845315 1003520 8192")?;
    for (item, value) in [(0, EXAMPLE), (1, 1_003_520), (2, 8192)] {
        expect(agent, [GET, item, 0, 0, 0], (value, 0))?;
    }
    let direct = u64::from(word::DIRECT | word::DENY);
    let refused = [
        [SET, 5, 0, 0, 0],
        [SET, 64 << 8 | 3, 0, 0, 0],
        [SET, 1 << 23 | 1, 0, 0, 0],
        [SET, 1 << 32, 0, 0, 0],
        [SET, direct, 0, 4096, 0],
        [SET, direct | u64::from(word::ANON), 0, 0, 0],
        [SET, 1, 0, 0, 1],
        [GET, 3, 0, 0, 0],
        [GET, 0, 1, 0, 0],
        [GET, 0, 0, 1, 0],
        [GET, 0, 0, 0, 1],
    ];
    for args in refused {
        expect(agent, args, (0, libc::EINVAL))?;
    }
    expect_memctl(&daemon, agent.pid, "16845315 1003520 8192")?;
    // More than an int, and than 32 bits.
    expect(agent, [SET, 1, 5 << 30, 0, 0], (0, 0))?;
    expect(agent, [GET, 1, 0, 0, 0], (5 << 30, 0))?;
    expect(agent, [SET, 0, 9, 9, 0], (0, 0))?;
    expect_memctl(&daemon, agent.pid, "0 0 0")?;
    Ok(String::new())
}

fn acts(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    let deny = u64::from(word::DENY | word::DIRECT | word::ANON);
    expect(agent, [SET, deny, 0, 32 * MIB, 0], (0, 0))?;
    agent.grow("anon", MIB, Duration::from_millis(30), 200 * MIB)?;
    let held = agent.note("refused").map_err(|error| daemon.explain(error))?;
    expect(agent, [SET, 0, 0, 0, 0], (0, 0))?;
    agent.note("resumed").map_err(|error| daemon.explain(error))?;
    Ok(format!("refused at {:?}", held.numbers.get(1)))
}

fn descendants(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let parent = &mut launched.0;
    let mut thread = parent.offspring("thread", &bench.dir)?;
    ensure!(thread.tid != parent.tid, "no thread of its own");
    expect(&mut thread, [SET, 1, 4096, 0, 0], (0, 0))?;
    expect_memctl(&daemon, parent.pid, "1 4096 0")?;
    expect(parent, [GET, 1, 0, 0, 0], (4096, 0))?;
    let mut child = parent.offspring("fork", &bench.dir)?;
    expect(&mut child, [SET, 2, 8192, 0, 0], (0, 0))?;
    expect_memctl(&daemon, child.pid, "2 8192 0")?;
    expect_memctl(&daemon, parent.pid, "1 4096 0")?;
    child.exec()?;
    expect(&mut child, [GET, 0, 0, 0, 0], (2, 0))?;
    let mut grandchild = child.offspring("fork", &bench.dir)?;
    expect(&mut grandchild, [SET, EXAMPLE, 0, 0, 0], (0, 0))?;
    expect_memctl(&daemon, grandchild.pid, "16845315 0 0")?;
    end(bench, grandchild)?;
    end(bench, child)?;
    Ok(String::new())
}

/// Each form with the same end as without the launcher.
fn mainline(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let job = bench.group("job")?;
    let mut plain = bench.agent(&job, "plain")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    expect(agent, [SET, 1, 0, 0, 0], (0, 0))?;
    let forms = [
        [GET, 1, 0, EVERYWHERE, 0],
        [GET, 0, 0, 0, 0],
        [GET, 1, 8, 0, 0],
        [GET, 1, 0, EVERYWHERE, u64::MAX],
        [GET, 0, 1, 0, 0],
        [GET, 7, 0, 0, 0],
        [SET, 15, 2, 0, 1],
    ];
    let mut said = Vec::new();
    for args in forms {
        let (with, without) = (call(agent, args)?, call(&mut plain, args)?);
        ensure!(with == without, "prctl{args:x?}: {without:?} alone, {with:?} under the launcher");
        said.push(with);
    }
    let good = [(0, 0), (0, 0), (0, libc::EINVAL), (0, libc::EFAULT)];
    ensure!(said.starts_with(&good), "this kernel's own answers: expected {good:?}, got {said:?}");
    // Off was mainline's; now that nothing is on, it is the letter's question again.
    expect(agent, [GET, 0, 0, 0, 0], (1, 0))?;
    // What one thread has switched on is nothing to another.
    expect(agent, [GET, 1, 0, EVERYWHERE, 0], (0, 0))?;
    let mut thread = agent.offspring("thread", &bench.dir)?;
    expect(&mut thread, [GET, 0, 0, 0, 0], (1, 0))?;
    expect(agent, [GET, 0, 0, 0, 0], (0, 0))?;
    expect_memctl(&daemon, agent.pid, "1 0 0")?;
    // exec ends it without a call: what docs/letters.md says of the next question.
    let mut child = agent.offspring("fork", &bench.dir)?;
    expect(&mut child, [SET, 2, 0, 0, 0], (0, 0))?;
    expect(&mut child, [GET, 1, 0, EVERYWHERE, 0], (0, 0))?;
    child.exec()?;
    for value in [0, 2] {
        expect(&mut child, [GET, 0, 0, 0, 0], (value, 0))?;
    }
    end(bench, child)?;
    Ok(format!("{said:?}"))
}

fn no_daemon(bench: &mut Bench<'_>) -> Result<String> {
    let mut daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    // One that hangs: a client waits for 10 s.
    daemon.signal(libc::SIGSTOP)?;
    agent.say(&format!("prctl {SET} 1 0 0 0"))?;
    let answer = agent.answer(bench.patience() + Duration::from_secs(15));
    daemon.signal(libc::SIGCONT)?;
    let (answer, late) = (answer?, libc::ETIMEDOUT);
    ensure!(answer == format!("0 {late}"), "expected ETIMEDOUT ({late}), got {answer}");
    daemon.terminate()?;
    for args in [[SET, 1, 0, 0, 0], [GET, 0, 0, 0, 0]] {
        expect(agent, args, (0, libc::ENOTCONN))?;
    }
    expect(agent, [SET, 5, 0, 0, 0], (0, libc::EINVAL))?;
    expect(agent, [GET, 1, 0, EVERYWHERE, 0], (0, 0))?;
    expect(agent, [GET, 0, 0, 0, 0], (0, 0))?;
    let daemon = bench.daemon("")?;
    expect(agent, [SET, EXAMPLE, 0, 0, 0], (0, 0))?;
    expect_memctl(&daemon, agent.pid, "16845315 0 0")?;
    Ok(String::new())
}

/// More of the letter's calls wait for a daemon that hangs than are answered at once.
fn held_up(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(agent.offspring("thread", &bench.dir)?);
    }
    daemon.signal(libc::SIGSTOP)?;
    for thread in &mut waiting {
        thread.say(&format!("prctl {SET} 1 0 0 0"))?;
    }
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    let went_on = expect(agent, [GET, 1, 0, EVERYWHERE, 0], (0, 0));
    let took = begin.elapsed();
    daemon.signal(libc::SIGCONT)?;
    went_on?;
    for thread in &mut waiting {
        let answer = thread.answer(bench.patience() + Duration::from_secs(15))?;
        ensure!(answer == "0 0", "once the daemon goes on: {answer}");
    }
    ensure!(took < Duration::from_secs(1) * bench.host.patience, "mainline's call took {took:?}");
    expect_memctl(&daemon, agent.pid, "1 0 0")?;
    Ok(format!("it took {took:.1?} while six waited"))
}

/// The launcher is killed: both numbers fail from then on, and nobody waits.
fn no_launcher(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    expect(agent, [SET, 1, 0, 0, 0], (0, 0))?;
    let group = agent.ask("groups")?;
    let dir: PathBuf = bench.host.memory.join(group.trim_start_matches('/'));
    let launcher = agent.started().context("no launcher")?;
    ensure!(launcher != agent.pid, "it is its own launcher");
    signal::send(launcher, libc::SIGKILL).map_err(|errno| anyhow!("killing the launcher: {errno}"))?;
    agent.wait_for_end(bench.patience())?;
    let answers = [call(agent, [SET, 2, 0, 0, 0]), call(agent, [GET, 1, 0, EVERYWHERE, 0])];
    let left = daemon.memctl(agent.pid);
    agent.say("exit 0")?;
    let gone = poll_until(bench.patience(), Duration::from_millis(5), || {
        members(&dir).is_empty().then(|| std::fs::remove_dir(&dir).ok()).flatten()
    });
    gone.with_context(|| format!("{} is still there", dir.display()))?;
    // The folder goes with the last group in it.
    let _others = dir.parent().map(std::fs::remove_dir);
    for answer in answers {
        let answer = answer?;
        ensure!(answer == (0, libc::ENOSYS), "expected ENOSYS, got {answer:?}");
    }
    ensure!(left? == "1 0 0\n", "the control did not outlive the launcher");
    Ok(String::new())
}

fn nested(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let memgov = bench.host.memgov.to_string_lossy().into_owned();
    let inner = [memgov.as_str(), "exec", "--rfc-prctl", "--", "true"];
    let output = daemon.cli(&[&["exec", "--rfc-prctl", "--"], &inner[..]].concat())?;
    ensure!(
        output.code == 125 && output.stderr.contains("answered by somebody else"),
        "expected 125 and why, got {}: {}",
        output.code,
        output.stderr
    );
    let output = daemon.cli(&["exec", "--rfc-prctl", "--", "sh", "-c", "exit 7"])?;
    ensure!(output.code == 7, "the exit code of the command: {}, {}", output.code, output.stderr);
    Ok(String::new())
}

/// A command of root's that has become another user asks as that user, and not as root.
fn users(bench: &mut Bench<'_>) -> Result<String> {
    let daemon = bench.daemon("")?;
    let mut launched = Launched::start(bench, &daemon)?;
    let agent = &mut launched.0;
    expect(agent, [SET, 1, 0, 0, 0], (0, 0))?;
    agent.ask(&format!("become {NOBODY}"))?;
    expect(agent, [SET, 2, 4096, 0, 0], (0, 0))?;
    expect(agent, [GET, 0, 0, 0, 0], (2, 0))?;
    let pid = agent.pid.to_string();
    let seen = daemon.cli_as(NOBODY, &["get", "--pid", &pid, "--memctl"])?;
    ensure!(seen.stdout == "2 4096 0\n", "get as nobody: {}{}", seen.stdout, seen.stderr);
    Ok(String::new())
}

/// A user's launcher in a group that is delegated to the user.
fn by_user(bench: &mut Bench<'_>) -> Result<String> {
    let (home, inside) = (bench.group("home")?, bench.group("home/in")?);
    home.delegate_memory()?;
    for dir in [home.dir(), inside.dir()] {
        for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
            let file = dir.join(name);
            if file.exists() {
                std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY))?;
            }
        }
    }
    let daemon = bench.daemon("")?;
    let program = copy(&bench.dir)?;
    let mut command = daemon.command(&launch(&program.to_string_lossy()));
    start_in_groups(command.uid(NOBODY).gid(NOBODY), inside.doors()?, false);
    let mut launched = Launched(Agent::start_command(command, "user's", bench.patience())?);
    let agent = &mut launched.0;
    let privileges = process::status(agent.pid, "NoNewPrivs");
    ensure!(privileges.as_deref() == Some("1"), "NoNewPrivs is {privileges:?}");
    expect(agent, [SET, EXAMPLE, 4096, 0, 0], (0, 0))?;
    expect(agent, [GET, 1, 0, 0, 0], (4096, 0))?;
    expect_memctl(&daemon, agent.pid, "16845315 4096 0")?;
    drop(launched);
    let mut root = run_within(
        &mut daemon.command(&["exec", "--rfc-prctl", "--", "grep", "NoNewPrivs", "/proc/self/status"]),
        bench.patience(),
    )?;
    root.stdout.retain(|c| !c.is_whitespace());
    ensure!(root.stdout == "NoNewPrivs:0", "root's own: {}{}", root.stdout, root.stderr);
    Ok(String::new())
}

/// This program where every user can run it.
fn copy(dir: &Path) -> Result<PathBuf> {
    let to = dir.join("systest");
    std::fs::copy(std::env::current_exe()?, &to)?;
    Ok(to)
}
