//! libmemgov: the example of each language, as root and as a user in a group of root's, told by a real daemon.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::poll_until;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("library_examples_are_told", told).needs(&[Need::Clients]).seconds(60),
        Test::new("library_without_a_daemon_says_so", no_daemon).needs(&[Need::Clients]),
        Test::new("library_ends_with_its_daemon", ends).needs(&[Need::Clients]),
        Test::new("library_handlers_free_memory_before_the_kill", handlers)
            .needs(&[Need::Clients])
            .seconds(60),
        Test::new("library_handler_in_its_own_group_is_refused", misplaced).needs(&[Need::Clients]),
    ]
}

const LANGUAGES: [&str; 3] = ["frugal-rust", "frugal-c", "frugal.py"];
/// The example that is a group's handler.
const HANDLERS: [&str; 3] = ["handler-rust", "handler-c", "handler.py"];

/// The examples where every user can run them.
fn clients(bench: &Bench<'_>) -> Result<PathBuf> {
    let built = std::env::current_exe()?.with_file_name("clients");
    for name in LANGUAGES.iter().chain(&HANDLERS).chain(&["libmemgov.so.0"]) {
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

/// A rule that asks the handler first; its group, and the one beside it in which the handler is.
fn asks_first(job: &Group) -> String {
    format!(
        "[memgov]\npace = {{ slowest = \"50ms\" }}\n[[rule]]\nname = \"line\"\ngroups = \"{}\"\nover = \"32MiB\"\nuntil = \"24MiB\"\n\
         do = [{{ action = \"handler\", within = \"30s\" }}, {{ action = \"kill\", after = \"0s\" }}]\n",
        job.path()
    )
}

/// What a handler does here: it tells the hog, as a supervisor tells its worker, by a file that the test looks at, and waits until that has been seen.
fn plea(bench: &Bench<'_>) -> String {
    format!("touch {0}/plea; while [ -e {0}/plea ]; do sleep 0.02; done", bench.dir.display())
}

fn handlers(bench: &mut Bench<'_>) -> Result<String> {
    let (job, beside) = (bench.group("job")?, bench.group("job-oom")?);
    let clients = clients(bench)?;
    // As nobody it is the owner's right, and the file is to be made by him.
    std::os::unix::fs::chown(job.dir(), Some(NOBODY), None)?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&bench.dir, open)?;
    let daemon = bench.daemon(&asks_first(&job))?;
    for user in [None, Some(NOBODY)] {
        for name in HANDLERS {
            let mut command = command(&clients, name, &daemon.socket());
            command.arg(job.path()).arg(plea(bench));
            let freed = helped(bench, &daemon, (&job, &beside), command, user);
            freed.with_context(|| format!("{name} as {user:?}"))?;
        }
    }
    let kills = daemon.events().iter().filter(|event| event.order == "kill").count();
    ensure!(kills == 0, "{kills} kills");
    Ok("Rust, C and Python, as root and as the group's owner; nobody killed".to_owned())
}

fn helped(
    bench: &Bench<'_>,
    daemon: &Daemon,
    (job, beside): (&Group, &Group),
    command: Command,
    user: Option<u32>,
) -> Result<()> {
    let client = Client::start(command, beside, user)?;
    client.says(bench, "ready").map_err(|error| daemon.explain(error))?;
    let mut hog = bench.agent(job, "hog")?;
    hog.push("anon", 48 * MIB)?;
    client.says(bench, &format!("short usage {}", job.path()))?;
    let plea = bench.dir.join("plea");
    let asked = poll_until(bench.patience(), Duration::from_millis(5), || plea.exists().then_some(()));
    asked.context("the command was not run")?;
    hog.ask(&format!("shrink {}", 8 * MIB))?;
    std::fs::remove_file(&plea)?;
    client.says(bench, "handled")?;
    // Back under its line before the next comes.
    let gone = || (job.usage().ok()? < 20 * MIB).then_some(());
    poll_until(bench.patience(), Duration::from_millis(5), gone).context("nothing was freed")?;
    hog.ask("groups").map(drop)
}

fn misplaced(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let below = bench.group("job/below")?;
    let clients = clients(bench)?;
    let daemon = bench.daemon(&asks_first(&job))?;
    for name in HANDLERS {
        for inside in [&job, &below] {
            let mut command = command(&clients, name, &daemon.socket());
            command.arg(job.path()).arg("true");
            let (code, said) = Client::start(command, inside, None)?.end()?;
            let told = said.contains(&format!("is in {}", job.path())) && said.contains("in a group beside");
            ensure!(code == Some(1) && told, "{name} in {}: {code:?}, {said}", inside.path());
        }
        // He does not own it.
        let mut command = command(&clients, name, &daemon.socket());
        command.arg(job.path()).arg("true");
        let (code, said) = Client::start(command, &below, Some(NOBODY))?.end()?;
        ensure!(code == Some(1) && said.contains("not delegated"), "{name}: {code:?}, {said}");
    }
    Ok(String::new())
}
