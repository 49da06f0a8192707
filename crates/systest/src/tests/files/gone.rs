//! A daemon that is dead, one that never answers, a shrink that never ends, and the file system's own program killed: nobody is left hanging.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::rig::{Endless, Files, fails, refused, works};
use super::{LIMIT, SHRINK};
use crate::harness::bench::Bench;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;
use crate::harness::{poll_until, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files_without_a_daemon_are_enotconn", dead).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_of_a_silent_daemon_are_etimedout", silent).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_of_a_stopped_daemon_are_etimedout", stopped).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_stuck_writers_stop_nobody", stuck).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_killed_and_started_anew", killed).needs(&[Need::Fuse]).seconds(60),
    ]
}

fn dead(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut daemon = bench.quiet_daemon("", &[])?;
    let files = Files::start(bench, &daemon.socket())?;
    let hog = bench.agent(&job, "hog")?;
    let memctl = files.memctl(hog.pid);
    let mut open = File::options().write(true).open(&memctl)?;
    daemon.kill9()?;
    daemon.wait_companions_gone()?;
    let begin = Instant::now();
    refused("a file opened before", open.write_all(b"0 0 0"), libc::ENOTCONN)?;
    refused("reading", fs::read(&memctl), libc::ENOTCONN)?;
    refused("writing", fs::write(&memctl, "0 0 0"), libc::ENOTCONN)?;
    refused("shrinking", fs::write(files.of(&job, SHRINK), "0"), libc::ENOTCONN)?;
    refused("the line", fs::read(files.of(&job, LIMIT)), libc::ENOTCONN)?;
    refused("events", fs::read(files.of(&job, "memgov.events")), libc::ENOTCONN)?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(2) * bench.host.patience, "six answers took {took:?}");
    // The kernel's own figures need no daemon.
    fs::read(files.of(&job, "memory.kmem.usage_in_bytes"))?;
    let _again = bench.quiet_daemon("", &[])?;
    fs::read(&memctl).context("with a daemon again")?;
    fs::read(files.of(&job, "memgov.events")).context("events with a daemon again")?;
    Ok(format!("six refusals in {took:.1?}"))
}

fn silent(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let socket = bench.dir.join("silent.sock");
    // Nobody accepts.
    let _listener = UnixListener::bind(&socket)?;
    let files = Files::start(bench, &socket)?;
    let hog = bench.agent(&job, "hog")?;
    let begin = Instant::now();
    refused("a daemon that never answers", fs::read(files.memctl(hog.pid)), libc::ETIMEDOUT)?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(8) * bench.host.patience, "after {took:?}");
    Ok(format!("after {took:.1?}"))
}

/// One file of each kind, while the daemon stands still and when it goes on. Nothing is held meanwhile, or its guardian would end it.
fn stopped(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.quiet_daemon("", &[])?;
    let files = Files::start(bench, &daemon.socket())?;
    let hog = bench.agent(&job, "hog")?;
    let ways: [(&str, PathBuf, Option<&str>); 6] = [
        ("memctl", files.memctl(hog.pid), None),
        ("setting memctl", files.memctl(hog.pid), Some("1 4096 0")),
        ("the limit", files.of(&job, LIMIT), None),
        ("failcnt", files.of(&job, "memory.kmem.failcnt"), None),
        ("shrinking", files.of(&job, SHRINK), Some("1G")),
        ("events", files.of(&job, "memgov.events"), None),
    ];
    let each = || {
        let way = |(what, path, text): &(&'static str, PathBuf, Option<&str>)| {
            (*what, text.map_or_else(|| fs::read(path).map(drop), |text| fs::write(path, text)))
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = ways.iter().map(|one| scope.spawn(move || way(one))).collect();
            all.into_iter().filter_map(|one| one.join().ok()).collect::<Vec<_>>()
        })
    };
    for (what, done) in each() {
        done.with_context(|| format!("{what}, before"))?;
    }
    // So long counts may be told as they were when the daemon last spoke.
    std::thread::sleep(Duration::from_millis(2500));
    daemon.signal(libc::SIGSTOP)?;
    let begin = Instant::now();
    let stood = each();
    let took = begin.elapsed();
    daemon.signal(libc::SIGCONT)?;
    ensure!(stood.len() == ways.len(), "somebody panicked");
    for (what, done) in stood {
        refused(what, done, libc::ETIMEDOUT)?;
    }
    ensure!(took < Duration::from_secs(8) * bench.host.patience, "after {took:?}");
    let again = || each().into_iter().all(|(_, done)| done.is_ok()).then_some(());
    poll_until(bench.patience(), Duration::from_millis(50), again)
        .with_context(|| format!("when it goes on: {:?}", each()))?;
    Ok(format!("{} ways, all in {took:.1?}", ways.len()))
}

/// A shell that waits in a shrink.
fn writer(path: &Path, user: u32) -> Result<Child> {
    let line = format!("echo 1M > {}", path.display());
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).uid(user).gid(user).stderr(Stdio::null());
    command.spawn().context("starting a shell")
}

fn ends(bench: &Bench<'_>, child: &mut Child, what: &str) -> Result<()> {
    let ended = poll_until(bench.patience(), Duration::from_millis(5), || child.try_wait().ok().flatten());
    ensure!(!ended.with_context(|| format!("{what}: it hangs"))?.success(), "{what}: it succeeded");
    Ok(())
}

fn stuck(bench: &mut Bench<'_>) -> Result<String> {
    const ROOT_S: usize = 24;
    let endless = Endless::start(bench)?;
    let files = Files::start(bench, &endless.socket)?;
    let groups = (0..ROOT_S).map(|i| bench.group(&format!("g{i}"))).collect::<Result<Vec<_>>>()?;
    let mut writers = Vec::new();
    for group in &groups {
        let child = writer(&files.of(group, SHRINK), 0)?;
        writers.push(child);
    }
    endless.begun(bench, ROOT_S)?;
    // One more than there may be is told so.
    let more = bench.group("more")?;
    refused("one shrink more", fs::write(files.of(&more, SHRINK), "1M"), libc::EAGAIN)?;
    let hog = bench.agent(&more, "hog")?;
    let begin = Instant::now();
    // Each by itself: what they take together is a matter of the machine.
    let mut slowest = Duration::ZERO;
    let usage = files.of(&groups[0], "memory.kmem.usage_in_bytes");
    for path in [files.memctl(hog.pid), usage, files.of(&groups[0], "memgov.events")].iter().cycle().take(150)
    {
        let began = Instant::now();
        fs::read(path)?;
        slowest = slowest.max(began.elapsed());
    }
    works(bench, NOBODY, &format!("find {} | wc -l", files.mount.display()))?;
    let took = begin.elapsed();
    ensure!(
        slowest < Duration::from_secs(3) * bench.host.patience,
        "one of 150 reads took {slowest:?}, all and a find {took:?}"
    );
    // Who is killed or interrupted does not wait, and his shrink is called off.
    for (number, mut child) in writers.into_iter().enumerate() {
        if number == 0 {
            crate::sys::signal::send(i32::try_from(child.id())?, libc::SIGINT)
                .map_err(|errno| anyhow::anyhow!("errno {errno}"))?;
        } else {
            child.kill()?;
        }
        ends(bench, &mut child, "a writer that was killed")?;
    }
    let cancelled = endless.cancelled();
    ensure!(cancelled == ROOT_S, "{cancelled} of {ROOT_S} shrinks were called off");
    Ok(format!("{ROOT_S} stuck, 150 reads and a find in {took:.1?}"))
}

fn killed(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let endless = Endless::start(bench)?;
    let mut files = Files::start(bench, &endless.socket)?;
    let mut waiting = writer(&files.of(&job, SHRINK), 0)?;
    endless.begun(bench, 1)?;
    let open = File::open(files.of(&job, "memory.kmem.usage_in_bytes"))?;
    let mut inside = Command::new("sleep").arg("1000").current_dir(files.of(&job, "")).spawn()?;
    files.kill9()?;
    ends(bench, &mut waiting, "who waited when it was killed")?;
    fails(bench, 0, &format!("ls {}", files.mount.display()), "not connected")?;
    refused("an open file of it", std::io::read_to_string(&open), libc::ENOTCONN)?;
    let mut again = Files::start(bench, &endless.socket)?;
    works(bench, NOBODY, &format!("cat {}", again.of(&job, "memory.kmem.usage_in_bytes").display()))?;
    let second = Command::new(&bench.host.files).arg("--mount").arg(&again.mount).output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        second.status.code() == Some(1) && said.contains("another memgov-files"),
        "two at a time: {said}"
    );
    // In use, and still it goes.
    let busy = File::open(again.of(&job, "memory.kmem.usage_in_bytes"))?;
    let code = again.terminate(bench)?;
    ensure!(
        code == Some(0) && !again.is_mounted(),
        "SIGTERM: exit code {code:?}, mounted {}",
        again.is_mounted()
    );
    refused("an open file after its end", std::io::read_to_string(&busy), libc::ENOTCONN)?;
    ensure!(process::is_alive(i32::try_from(inside.id())?), "who was in it lives on");
    inside.kill()?;
    inside.wait()?;
    Ok(String::new())
}
