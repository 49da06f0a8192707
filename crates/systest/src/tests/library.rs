//! libmemgov: the example of each language, as root and as a user in a group of root's, told by a real daemon.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context as _, Result, ensure};

use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("library_examples_are_told", told).needs(&[Need::Clients]).seconds(60),
        Test::new("library_without_a_daemon_says_so", no_daemon).needs(&[Need::Clients]),
        Test::new("library_ends_with_its_daemon", ends).needs(&[Need::Clients]),
    ]
}

const LANGUAGES: [&str; 3] = ["frugal-rust", "frugal-c", "frugal.py"];

/// The examples where every user can run them.
fn clients(bench: &Bench<'_>) -> Result<PathBuf> {
    let built = std::env::current_exe()?.with_file_name("clients");
    for name in LANGUAGES.iter().chain(&["libmemgov.so.0"]) {
        let from = built.join(name);
        std::fs::copy(&from, bench.dir.join(name))
            .with_context(|| format!("copying {}: `cargo xtask test` builds it", from.display()))?;
    }
    Ok(bench.dir.clone())
}

fn command(clients: &Path, name: &str, socket: &Path) -> Command {
    let program = clients.join(name);
    let mut command = if program.extension().is_some() {
        let mut python = Command::new("python3");
        python.arg(program).env("LIBMEMGOV", clients.join("libmemgov.so.0"));
        python
    } else {
        Command::new(program)
    };
    command.arg(socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// One running example. It ends with this.
struct Client {
    child: Child,
    lines: Receiver<String>,
}

impl Client {
    fn start(mut command: Command, group: &Group, user: Option<u32>) -> Result<Self> {
        let doors = group.doors()?;
        let join = move || {
            for door in &doors {
                rustix::io::write(door, b"0")?;
            }
            if let Some(user) = user {
                let (uid, gid) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(user));
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            }
            Ok(())
        };
        // SAFETY: system calls on descriptors and numbers that were there before the fork; nothing is allocated.
        unsafe { command.pre_exec(join) };
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let (send, lines) = channel();
        let out = child.stdout.take().context("no output")?;
        thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Ok(Self { child, lines })
    }

    fn says(&self, bench: &Bench<'_>, expected: &str) -> Result<()> {
        let said = self.lines.recv_timeout(bench.patience()).with_context(|| format!("no `{expected}`"))?;
        ensure!(said == expected, "expected `{expected}`, got `{said}`");
        Ok(())
    }

    /// Its exit code and what it said of errors.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let mut said = String::new();
        self.child.stderr.take().context("no errors")?.read_to_string(&mut said)?;
        Ok((self.child.wait()?.code(), said))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn warning(job: &Group) -> String {
    format!(
        "[memgov]\npace = {{ slowest = \"50ms\" }}\n[[rule]]\nname = \"line\"\ngroups = \"{}\"\nover = \"32MiB\"\nuntil = \"24MiB\"\ndo = [\"record\"]\n",
        job.path()
    )
}

fn told(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let clients = clients(bench)?;
    let daemon = bench.daemon(&warning(&job))?;
    for user in [None, Some(NOBODY)] {
        for name in LANGUAGES {
            let told = one(bench, &daemon, &job, command(&clients, name, &daemon.socket()), user);
            told.with_context(|| format!("{name} as {user:?}"))?;
        }
    }
    Ok("Rust, C and Python, as root and as nobody in a group of root's".to_owned())
}

fn one(bench: &Bench<'_>, daemon: &Daemon, job: &Group, command: Command, user: Option<u32>) -> Result<()> {
    let client = Client::start(command, job, user)?;
    client.says(bench, "control 0x1 8388608 0")?;
    client.says(bench, "ready")?;
    let mut hog = bench.agent(job, "hog")?;
    hog.take("anon", 48 * MIB)?;
    client.says(bench, &format!("warning record {}", job.path()))?;
    drop(hog);
    client.says(bench, &format!("relieved relieved {}", job.path()))?;
    let pid = client.child.id();
    let (code, said) = client.end()?;
    ensure!(code == Some(0), "it ended with {code:?}: {said}");
    let left = daemon.ok(&["status", "--json"])?;
    ensure!(!left.contains(&format!("\"pid\":{pid},")), "a control was left behind: {left}");
    Ok(())
}

fn no_daemon(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let clients = clients(bench)?;
    for name in LANGUAGES {
        let client = Client::start(command(&clients, name, &bench.dir.join("nobody.sock")), &job, None)?;
        let (code, said) = client.end()?;
        ensure!(code == Some(1) && said.contains("memgov does not run"), "{name}: {code:?}, {said}");
    }
    Ok(String::new())
}

/// A watch whose daemon ends says so, and its program goes on (here: says it and ends).
fn ends(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let clients = clients(bench)?;
    for name in LANGUAGES {
        let mut daemon = bench.daemon(&warning(&job))?;
        let client = Client::start(command(&clients, name, &daemon.socket()), &job, None)?;
        client.says(bench, "control 0x1 8388608 0")?;
        client.says(bench, "ready")?;
        daemon.terminate()?;
        let (code, said) = client.end()?;
        ensure!(code == Some(1), "{name}: {code:?}, {said}");
    }
    Ok(String::new())
}
