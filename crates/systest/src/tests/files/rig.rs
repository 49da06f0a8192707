//! `memgov-files` of one test, what another user's shell makes of its files, and a daemon that never comes to an end.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::harness::bench::Bench;
use crate::harness::daemon::{Output, run_within};
use crate::harness::group::Group;
use crate::harness::poll_until;

/// It runs.
pub struct Files {
    child: Child,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its process.
    pub pid: i32,
}

impl Files {
    /// Starts it and waits until it is mounted.
    pub fn start(bench: &Bench<'_>, socket: &Path) -> Result<Self> {
        let (mount, log) = (bench.dir.join("fs"), bench.dir.join("files.log"));
        let mut command = Command::new(&bench.host.files);
        command.arg("--mount").arg(&mount).arg("--socket").arg(socket);
        command.stdin(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| format!("starting {}", bench.host.files.display()))?;
        let files = Self { pid: i32::try_from(child.id())?, child, mount };
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let ready = poll_until(bench.patience(), Duration::from_millis(2), || {
            said().contains("memgov-files: ready").then_some(())
        });
        ready.with_context(|| format!("memgov-files is not ready: {}", said()))?;
        Ok(files)
    }

    /// A file of a group.
    pub fn of(&self, group: &Group, name: &str) -> PathBuf {
        self.mount.join("cgroup").join(group.path().trim_start_matches('/')).join(name)
    }

    /// A process's control.
    pub fn memctl(&self, pid: i32) -> PathBuf {
        self.mount.join(format!("process/{pid}/memctl"))
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop).context("waiting for memgov-files")
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self, bench: &Bench<'_>) -> Result<Option<i32>> {
        crate::sys::signal::send(self.pid, libc::SIGTERM).map_err(|errno| anyhow!("errno {errno}"))?;
        let ended =
            poll_until(bench.patience(), Duration::from_millis(2), || self.child.try_wait().ok().flatten());
        Ok(ended.context("it is still there after SIGTERM")?.code())
    }

    /// Whether something is mounted there.
    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts.contains(&format!(" {} ", self.mount.display()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // All fail only if it has ended and been cleaned up.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        let _gone = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Fails unless this came to such an error.
pub fn refused<T>(what: &str, result: io::Result<T>, errno: i32) -> Result<()> {
    let got = result.err().map(|error| error.raw_os_error().unwrap_or(-1));
    ensure!(got == Some(errno), "{what}: expected errno {errno}, got {got:?} (None: success)");
    Ok(())
}

/// A shell's line as a user.
pub fn shell(bench: &Bench<'_>, user: u32, line: &str) -> Result<Output> {
    run_within(Command::new("sh").arg("-c").arg(line).uid(user).gid(user), bench.patience())
}

/// Fails unless the line succeeds; gives what it printed.
pub fn works(bench: &Bench<'_>, user: u32, line: &str) -> Result<String> {
    let Output { code, stdout, stderr } = shell(bench, user, line)?;
    ensure!(code == 0, "as {user}: `{line}`: exit code {code}, {stderr}");
    Ok(stdout)
}

/// Fails unless the line fails with this in what it says.
pub fn fails(bench: &Bench<'_>, user: u32, line: &str, why: &str) -> Result<()> {
    let Output { code, stdout, stderr } = shell(bench, user, line)?;
    ensure!(
        code > 0 && stderr.contains(why),
        "as {user}: `{line}`: expected `{why}`, got {code}, {stdout}{stderr}"
    );
    Ok(())
}

/// What stands in for a daemon whose shrinks run for ever.
pub struct Endless {
    /// Where it listens.
    pub socket: PathBuf,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    cancelled: AtomicUsize,
    over: AtomicBool,
}

impl Endless {
    /// It listens.
    pub fn start(bench: &Bench<'_>) -> Result<Self> {
        let socket = bench.dir.join("endless.sock");
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        thread::spawn(move || {
            let clients = listener.incoming().map_while(Result::ok);
            for client in clients.take_while(|_| !counted.over.load(Ordering::SeqCst)) {
                let counted = Arc::clone(&counted);
                thread::spawn(move || serve(client, &counted));
            }
        });
        Ok(Self { socket, counts })
    }

    /// Waits until so many shrinks have begun.
    pub fn begun(&self, bench: &Bench<'_>, shrinks: usize) -> Result<()> {
        let begun = || (self.counts.begun.load(Ordering::SeqCst) >= shrinks).then_some(());
        poll_until(bench.patience(), Duration::from_millis(2), begun)
            .with_context(|| format!("no {shrinks} shrinks have begun"))
    }

    /// Shrinks that were called off.
    pub fn cancelled(&self) -> usize {
        self.counts.cancelled.load(Ordering::SeqCst)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.counts.over.store(true, Ordering::SeqCst);
        // One more client, so that it looks.
        let _woken = UnixStream::connect(&self.socket);
    }
}

fn serve(mut client: UnixStream, counts: &Counts) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let got = client.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..got]);
        while let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            let call: Value = serde_json::from_slice(&bytes[..end])?;
            bytes.drain(..=end);
            if call["more"] == true {
                continue;
            }
            let job = json!({ "job": { "job": 1, "path": "/x", "state": "running" } });
            let parameters = match call["method"].as_str().unwrap_or_default() {
                "org.memgov.CancelShrink" => {
                    counts.cancelled.fetch_add(1, Ordering::SeqCst);
                    job
                }
                "org.memgov.Shrink" => {
                    counts.begun.fetch_add(1, Ordering::SeqCst);
                    job
                }
                "org.memgov.GetShrink" => job,
                "org.memgov.GetControl" => json!({ "control": { "memctl": "0 0 0" } }),
                "org.memgov.GetKernelMark" => json!({ "mark": null }),
                _ => json!({ "events": [], "missed": 0, "cursor": 0 }),
            };
            let mut reply = serde_json::to_vec(&json!({ "parameters": parameters }))?;
            reply.push(0);
            client.write_all(&reply)?;
        }
    }
}
