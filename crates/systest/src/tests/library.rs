//! libmemgov: the example of each language, as root and as a user in a group of root's, told by a real daemon.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::poll_until;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("library_examples_are_told", told).needs(&[Need::Clients]).seconds(90),
        Test::new("library_a_rehearsal_is_a_warning", rehearsed).needs(&[Need::Clients]).seconds(60),
        Test::new("library_without_a_daemon_says_so", no_daemon).needs(&[Need::Clients]),
        Test::new("library_ends_with_its_daemon", ends).needs(&[Need::Clients]),
        Test::new("library_handlers_free_memory_before_the_kill", handlers)
            .needs(&[Need::Clients])
            .seconds(60),
        Test::new("library_handler_in_its_own_group_is_refused", misplaced).needs(&[Need::Clients]),
        Test::new("library_reserve_in_use_is_not_lowered", reserved).needs(&[Need::Clients]),
        Test::new("library_shrinks_a_group", shrinks).needs(&[Need::Clients, Need::CleanCache]).seconds(60),
    ]
}

const LANGUAGES: [&str; 4] = ["frugal-rust", "frugal-c", "frugal-static-c", "frugal.py"];
/// The example that is a group's handler.
const HANDLERS: [&str; 3] = ["handler-rust", "handler-c", "handler.py"];
/// The example that makes a group smaller.
const SHRINKERS: [&str; 3] = ["shrink-rust", "shrink-c", "shrink.py"];
/// What is kept for what a handler has its group do.
const RESERVE: u64 = 8 * MIB;
/// What cannot be reclaimed: less than RLIMIT_MEMLOCK is (8 MiB since Linux 5.16).
const LOCKED: u64 = 6 * MIB;

/// The examples where every user can run them.
fn clients(bench: &Bench<'_>) -> Result<PathBuf> {
    let built = std::env::current_exe()?.with_file_name("clients");
    for name in LANGUAGES.iter().chain(&HANDLERS).chain(&SHRINKERS).chain(&["libmemgov.so.0"]) {
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

    fn line(&self, bench: &Bench<'_>, expected: &str) -> Result<String> {
        self.lines.recv_timeout(bench.patience()).with_context(|| format!("no `{expected}`"))
    }

    fn says(&self, bench: &Bench<'_>, expected: &str) -> Result<()> {
        let said = self.line(bench, expected)?;
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

/// A warning, and then it is serious: who is told and takes its control back is refused memory meanwhile.
fn warning(job: &Group) -> String {
    format!(
        "[memgov]\npace = {{ slowest = \"50ms\" }}\n[[rule]]\nname = \"line\"\ngroups = \"{}\"\nover = \"32MiB\"\nuntil = \"24MiB\"\n\
         do = [\"record\", {{ action = \"deny\", after = \"100ms\" }}]\n",
        job.path()
    )
}

fn told(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let clients = clients(bench)?;
    let daemon = bench.daemon(&warning(&job))?;
    for user in [None, Some(NOBODY)] {
        for name in LANGUAGES {
            let command = command(&clients, name, &daemon.socket());
            let told = one(bench, &daemon, &job, (command, user), "over deny-begin");
            told.with_context(|| format!("{name} as {user:?}"))?;
        }
    }
    Ok("Rust, C (shared and static) and Python, as root and as nobody in a group of root's".to_owned())
}

/// Nothing is done in a dry run, and nobody is told that it was.
fn rehearsed(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let clients = clients(bench)?;
    let daemon = bench.daemon_with(&warning(&job), &["--dry-run"])?;
    for name in LANGUAGES {
        let command = command(&clients, name, &daemon.socket());
        one(bench, &daemon, &job, (command, None), "warning record").with_context(|| name)?;
    }
    Ok(String::new())
}

/// A client that is warned, told this when it is serious, and told of the relief.
fn one(
    bench: &Bench<'_>,
    daemon: &Daemon,
    job: &Group,
    (command, user): (Command, Option<u32>),
    serious: &str,
) -> Result<()> {
    let client = Client::start(command, job, user)?;
    client.says(bench, "control 0x1 8388608 0")?;
    client.says(bench, "ready")?;
    let mut hog = bench.agent(job, "hog")?;
    hog.push("anon", 48 * MIB)?;
    client.says(bench, &format!("warning record {}", job.path()))?;
    client.says(bench, &format!("{serious} {}", job.path()))?;
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
            // What root has said stands.
            command.args(user.is_none().then(|| RESERVE.to_string()));
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
    client.says(bench, &format!("reserve {RESERVE}")).map_err(|error| daemon.explain(error))?;
    client.says(bench, "ready").map_err(|error| daemon.explain(error))?;
    let mut hog = bench.agent(job, "hog")?;
    hog.push("anon", 48 * MIB)?;
    client.says(bench, &format!("short usage {} reserve {RESERVE}", job.path()))?;
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

/// A reserve may be made larger than what is left, and not smaller than what of it is in use. It is not everybody's.
fn reserved(bench: &mut Bench<'_>) -> Result<String> {
    let (job, beside) = (bench.group("job")?, bench.group("job-oom")?);
    let clients = clients(bench)?;
    job.set_max(64 * MIB)?;
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 48 * MIB)?;
    for name in HANDLERS {
        let start = |reserve: u64, user| {
            let mut command = command(&clients, name, &daemon.socket());
            command.arg(job.path()).arg("true").arg(reserve.to_string());
            Client::start(command, &beside, user)
        };
        let holder = start(32 * MIB, None)?;
        holder.says(bench, &format!("reserve {}", 32 * MIB)).with_context(|| name)?;
        holder.says(bench, "ready").with_context(|| name)?;
        drop(holder);
        let (code, said) = start(8 * MIB, None)?.end()?;
        ensure!(code == Some(1) && said.contains("are in use"), "{name}: {code:?}, {said}");
        let (code, said) = start(40 * MIB, Some(NOBODY))?.end()?;
        ensure!(code == Some(1) && said.contains("not delegated"), "{name}: {code:?}, {said}");
    }
    Ok(String::new())
}

/// Page cache goes, locked memory stays and is EBUSY; either way it is said what is left.
fn shrinks(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let clients = clients(bench)?;
    let file = bench.host.clean_cache.as_ref().map_err(|why| anyhow!("{why}"))?.display().to_string();
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    // As much as anybody may lock.
    hog.take("mlock", LOCKED)?;
    for (number, name) in SHRINKERS.iter().enumerate() {
        hog.number(&format!("cache {file} {} {}", number << 30, 64 * MIB))?;
        let before = job.usage()?;
        ensure!(before >= 48 * MIB, "the group could not be filled: {before}");
        let asked = |to: u64, user| {
            let mut command = command(&clients, name, &daemon.socket());
            command.arg(job.path()).arg(to.to_string());
            Client::start(command, &job, user)
        };
        let said = asked(32 * MIB, None)?.line(bench, "usage")?;
        let left = said.strip_prefix("usage ").and_then(|left| left.parse::<u64>().ok());
        // A batch of the kernel's more or less.
        ensure!(
            left.is_some_and(|left| (24 * MIB..33 * MIB).contains(&left)),
            "{name}: {before}, then `{said}`"
        );
        let said = asked(LOCKED / 2, None)?.line(bench, "busy")?;
        let left = said.strip_prefix("busy ").and_then(|left| left.parse::<u64>().ok());
        ensure!(left.is_some_and(|left| (LOCKED..32 * MIB).contains(&left)), "{name}: `{said}`");
        let (code, said) = asked(0, Some(NOBODY))?.end()?;
        ensure!(code == Some(1) && said.contains("not delegated"), "{name}: {code:?}, {said}");
    }
    ensure!(job.oom_kills()? == 0, "somebody was killed");
    Ok(String::new())
}
