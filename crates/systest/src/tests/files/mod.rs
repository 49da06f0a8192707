//! The letters' files: a shell, `tee`, `find` and Python on them, whose they are, and what becomes of them when the daemon or the file system's own program is gone.

mod container;
mod gone;
mod kernel;
mod memctl;
mod modes;
mod rig;
mod run;
mod worth;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::harness::bench::Bench;
use crate::harness::host::{NOBODY, Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, poll_until, process};
use rig::{Files, fails, refused, shell, works};

pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("files_shells_and_python_behave", behave).needs(&[Need::Fuse]),
        Test::new("files_shrink_is_the_letters_line", shrink)
            .needs(&[Need::Fuse, Need::CleanCache])
            .seconds(60),
        Test::new("files_bound_sockets", sockets).needs(&[Need::Fuse]),
        Test::new("files_owner_and_stranger", permissions).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_events_wake_who_polls", events).needs(&[Need::Fuse]).seconds(60),
        Test::new("files_find_is_quick", find).needs(&[Need::Fuse]).seconds(120),
    ];
    tests.extend(kernel::tests());
    tests.extend(memctl::tests());
    tests.extend(modes::tests());
    tests.extend(container::tests());
    tests.extend(gone::tests());
    tests.extend(run::tests());
    tests.extend(worth::tests());
    tests
}

const SHRINK: &str = "memory.shrink_in_bytes";
const LIMIT: &str = "memory.kmem.limit_in_bytes";
const SOCKET_LIMIT: &str = "memory.sock.limit_in_bytes";
/// What a group's directory has.
const FILES: u64 = 12;
const UNLIMITED: &str = "9223372036854771712\n";

fn behave(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let (dir, limit) = (files.of(&job, ""), files.of(&job, LIMIT));
    let (dir, limit) = (dir.display(), limit.display());
    let listed = works(bench, 0, &format!("find {dir} | wc -l"))?;
    ensure!(listed.trim() == (1 + FILES).to_string(), "a directory and {FILES} files: {listed}");
    // The most there was is kept by nobody on v2 before there is a line.
    let each = format!("{dir}/memory.kmem.[!m]* {dir}/memgov.events");
    let read =
        works(bench, 0, &format!("for f in {each}; do text=$(cat $f) && test -n \"$text\" || exit 1; done"))?;
    ensure!(read.is_empty(), "{read}");
    works(bench, 0, &format!("echo 64M > {limit} && test $(cat {limit}) = 67108864"))?;
    works(bench, 0, &format!("echo 0x2000K | tee {limit} && test $(cat {limit}) = 8388608"))?;
    // Appending and reading in pieces: one write is one command, and one text is one text.
    works(bench, 0, &format!("echo 1G >> {limit} && test $(dd bs=1 if={limit} 2>/dev/null) = 1073741824"))?;
    for refused in [
        format!("touch {dir}/new"),
        format!("mkdir {dir}/new"),
        format!("rm {limit}"),
        format!("chmod 666 {limit}"),
    ] {
        fails(bench, 0, &refused, "not permitted")?;
    }
    fails(bench, 0, &format!("echo 1M > {dir}/memory.kmem.stat"), "")?;
    let program = format!(
        "f = open('{limit}', 'r+'); assert f.read() == '1073741824\\n'; f.seek(0); f.write('-1'); f.close(); \
         open('{limit}', 'w').write('3M'); assert open('{limit}').read() == '3145728\\n'"
    );
    let python = shell(bench, 0, "command -v python3")?.code == 0;
    if python {
        works(bench, 0, &format!("python3 -c \"{program}\""))?;
    }
    Ok(if python {
        "sh, cat, tee, dd, find and Python"
    } else {
        "sh, cat, tee, dd and find; there is no Python"
    }
    .to_owned())
}

fn shrink(bench: &mut Bench<'_>) -> Result<String> {
    let (job, hard) = (bench.group("job")?, bench.group("hard")?);
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let mut reader = bench.agent(&job, "reader")?;
    let cache = bench.host.clean_cache.clone().map_err(anyhow::Error::msg)?;
    reader.ask(&format!("cache {} 0 {}", cache.display(), 150 * MIB))?;
    ensure!(job.usage()? >= 120 * MIB, "the group could not be filled: {}", job.usage()?);
    let line = |bytes: &str, group| format!("echo {bytes} > {}", files.of(group, SHRINK).display());
    works(bench, 0, &line("64M", &job))?;
    let usage = job.usage()?;
    ensure!((56 * MIB..=64 * MIB + 32 * 4096).contains(&usage), "it blocked until {usage}");
    let mut hog = bench.agent(&hard, "hog")?;
    hog.take("anon", 48 * MIB)?;
    let limits = hard.limits();
    fails(bench, 0, &format!("echo 16M | tee {}", files.of(&hard, SHRINK).display()), "")?;
    refused("what cannot go", fs::write(files.of(&hard, SHRINK), "16M"), libc::EBUSY)?;
    ensure!(
        hard.limits() == limits && process::is_alive(hog.pid),
        "limits, or the process, are not what they were"
    );
    let (path, own) = (files.of(&job, SHRINK), bench.group("own")?);
    for garbage in ["x", "-1", "400MB", "1 2", "16E", "\0", &"1".repeat(65)] {
        refused(garbage, fs::write(&path, garbage), libc::EINVAL)?;
    }
    refused("reading", fs::read(&path), libc::EINVAL)?;
    let mut gone = File::options().write(true).open(files.of(&own, SHRINK))?;
    own.remove()?;
    refused("a group that is gone", gone.write_all(b"0"), libc::ENODEV)?;
    Ok(format!("150 MiB -> {usage}"))
}

/// What is over the line has its sockets squeezed, and has them back when the line goes.
fn sockets(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let limit = files.of(&job, SOCKET_LIMIT);
    let usage = || fs::read_to_string(files.of(&job, "memory.sock.usage_in_bytes"));
    if bench.host.version == Version::V1 {
        refused("what nobody counts", usage(), libc::ENODATA)?;
    }
    ensure!(fs::read_to_string(&limit)? == UNLIMITED, "not as without a line");
    works(bench, 0, &format!("echo 8M > {}", limit.display()))?;
    let rule = daemon.ok(&["get", "--group", &job.path(), "--json"])?;
    ensure!(rule.contains("\"sockets\"") && fs::read_to_string(&limit)? == "8388608\n", "{rule}");
    // v1 counts the sockets that are made when somebody has begun to count: looked for four times a second.
    std::thread::sleep(Duration::from_millis(600) * bench.host.patience);
    let mut flooder = bench.agent(&job, "flooder")?;
    flooder.ask("flood 16")?;
    let squeezed = poll_until(bench.patience(), Duration::from_millis(20), || {
        flooder.numbers("bounds").ok().filter(|bounds| bounds[0] > 0)
    });
    squeezed.with_context(|| daemon.explain(anyhow::anyhow!("not squeezed: {:?} bytes", usage())))?;
    let (shown, is) = (usage()?.trim().parse::<u64>()?, job.sockets()?);
    ensure!(shown > 8 * MIB && shown.abs_diff(is) <= MIB, "{shown} is shown of {is}");
    refused("another's line", fs::write(files.of(&job, LIMIT), "1M"), libc::EBUSY)?;
    let told = || {
        let events = fs::read_to_string(files.of(&job, "memgov.events")).ok()?;
        events.lines().any(|line| line.starts_with("squeeze ") && line != "squeeze 0").then_some(())
    };
    poll_until(bench.patience(), Duration::from_millis(20), told).context("its events do not tell")?;
    fs::write(&limit, "-1")?;
    ensure!(fs::read_to_string(&limit)? == UNLIMITED, "it is still there");
    let free = poll_until(bench.patience(), Duration::from_millis(20), || {
        flooder.numbers("bounds").ok().filter(|bounds| bounds == &[0, 0])
    });
    free.with_context(|| daemon.explain(anyhow::anyhow!("not let go: {:?}", flooder.numbers("bounds"))))?;
    Ok(format!("{shown} of 8 MiB"))
}

fn permissions(bench: &mut Bench<'_>) -> Result<String> {
    const STRANGER: u32 = NOBODY - 1;
    let (own, other) = (bench.group("own")?, bench.group("other")?);
    for dir in own.dirs() {
        chown(dir, Some(NOBODY), None)?;
    }
    own.set_max(512 * MIB)?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    // dd says with which errno a write failed; not every tee does.
    let line = |group, file: &str, text: &str| {
        format!("echo {text} | dd conv=notrunc of={}", files.of(group, file).display())
    };
    for (file, text) in [(SHRINK, "64M"), (LIMIT, "16M"), (LIMIT, "-1")] {
        works(bench, NOBODY, &line(&own, file, text))?;
        fails(bench, STRANGER, &line(&own, file, text), "denied")?;
        fails(bench, NOBODY, &line(&other, file, text), "denied")?;
    }
    // The daemon's own judgement: root's line is not the owner's to replace, and his may not be beyond the limit set on him.
    fails(bench, NOBODY, &line(&own, LIMIT, "600M"), "denied")?;
    works(bench, 0, &line(&own, SHRINK, "64M"))?;
    works(bench, 0, &line(&own, LIMIT, "32M"))?;
    fails(bench, NOBODY, &line(&own, LIMIT, "-1"), "denied")?;
    let cat = |group, file: &str| format!("cat {}", files.of(group, file).display());
    works(bench, NOBODY, &cat(&own, "memgov.events"))?;
    fails(bench, STRANGER, &cat(&own, "memgov.events"), "denied")?;
    works(bench, STRANGER, &cat(&own, "memory.kmem.usage_in_bytes"))?;

    let (mut his, theirs) = (bench.agent(&other, "his")?, bench.agent(&other, "theirs")?);
    his.ask(&format!("become {NOBODY}"))?;
    let (his, theirs) = (files.memctl(his.pid), files.memctl(theirs.pid));
    let (his, theirs) = (his.display(), theirs.display());
    works(bench, NOBODY, &format!("echo 1 4096 0 > {his} && test \"$(cat {his})\" = '1 4096 0'"))?;
    works(bench, 0, &format!("cat {his} && echo 1 4096 0 > {theirs}"))?;
    fails(bench, STRANGER, &format!("echo 0 0 0 > {his}"), "denied")?;
    // The mode is the letter's and lets everybody read; that this fails is the daemon's word about who asks.
    fails(bench, STRANGER, &format!("cat {his}"), "denied")?;
    fails(bench, NOBODY, &format!("cat {theirs}"), "denied")?;
    // As of the kernel's own files, who has opened one may go on, and a file that root has opened is root's.
    works(bench, 0, &format!("cat < {theirs}"))?;
    Ok(String::new())
}

fn events(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let rule = format!(
        "[memgov]\npace = {{ slowest = \"50ms\" }}\n[[rule]]\nname = \"line\"\ngroups = \"{}\"\nover = \"32MiB\"\nuntil = \"24MiB\"\ndo = [\"record\"]\n",
        job.path()
    );
    let mut daemon = bench.daemon(&rule)?;
    let files = Files::start(bench, &daemon.socket())?;
    let mut file = File::open(files.of(&job, "memgov.events"))?;
    let mut text = || -> std::io::Result<String> {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    ensure!(text()?.starts_with("warning 0\n"), "something is counted before it happened");
    let file_again = File::open(files.of(&job, "memgov.events"))?;
    let woken = |file: &File, millis: i64| -> Result<bool> {
        let mut polled = [PollFd::new(file, PollFlags::PRI)];
        let limit = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        poll(&mut polled, Some(&limit))?;
        Ok(polled[0].revents().contains(PollFlags::PRI))
    };
    // Opened and not read yet: all is news to it. So it is read through its own descriptor.
    let mut quiet = file_again;
    std::io::copy(&mut quiet, &mut std::io::sink())?;
    ensure!(!woken(&quiet, 300)?, "it is woken by nothing");
    let patience = i64::try_from(bench.patience().as_millis())?;
    let mut hog = bench.agent(&job, "hog")?;
    std::thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(|| woken(&quiet, patience));
        hog.take("anon", 48 * MIB)?;
        let woken = waiting.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(woken, "a crossing woke nobody");
        Ok(())
    })?;
    let shown = text()?;
    ensure!(shown.starts_with("warning 1\n"), "got {shown}");
    quiet.rewind()?;
    std::io::copy(&mut quiet, &mut std::io::sink())?;
    daemon.kill9()?;
    ensure!(woken(&quiet, patience)?, "the daemon's end woke nobody");
    refused("without a daemon", text(), libc::ENOTCONN)?;
    Ok(String::new())
}

/// Nobody is asked for it, as there is no daemon here; and what it costs is counted in requests of the kernel's, each of which is one write in answer.
fn find(bench: &mut Bench<'_>) -> Result<String> {
    let groups: u64 = if bench.host.patience == 1 { 10_000 } else { 1000 };
    let job = bench.group("job")?;
    for number in 0..groups {
        fs::create_dir(job.dir().join(format!("g{number}")))?;
    }
    let files = Files::start(bench, &bench.dir.join("nobody.sock"))?;
    let before = process::writes(files.pid).context("no count of writes")?;
    let begin = std::time::Instant::now();
    bench.patience *= 6;
    let found = works(bench, NOBODY, &format!("find {} | wc -l", files.of(&job, "").display()))?;
    let took = begin.elapsed();
    let requests = process::writes(files.pid).context("no count of writes")? - before;
    ensure!(
        found.trim() == ((groups + 1) * (1 + FILES)).to_string(),
        "{found} of {groups} groups with {FILES} files each"
    );
    // For each name a look-up and its attributes, for each directory that it is opened, read and closed; busybox's find asks for the whole path each time, which the kernel knows for a
    // second: a third of one for each name is left to a slow machine.
    ensure!(requests <= groups * (3 * FILES + 5) + 100, "{requests} requests for {groups} groups");
    let rss = process::rss_kib(files.pid).context("no size")?;
    ensure!(rss <= 64 << 10, "it has grown to {rss} KiB");
    Ok(format!("{groups} groups: {requests} requests in {took:.1?}, {rss} KiB resident"))
}
