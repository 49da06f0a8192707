//! A process's control as text, by its own file and by those of its threads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::rig::{Files, refused};
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::poll_until;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files_memctl_round_trip", round_trip).needs(&[Need::Fuse]),
        Test::new("files_memctl_of_a_second_thread", second_thread).needs(&[Need::Fuse]),
    ]
}

fn round_trip(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let hog = bench.agent(&job, "hog")?;
    let (pid, path) = (hog.pid, files.memctl(hog.pid));
    ensure!(fs::read_to_string(&path)? == "0 0 0\n", "not all zero before it is set");
    fs::write(&path, "0x01010a03 1000001 5000")?;
    let expected = "16845315 1003520 8192\n";
    let thread = files.mount.join(format!("process/{pid}/task/{pid}/memctl"));
    for shown in [fs::read_to_string(&path)?, fs::read_to_string(&thread)?, daemon.memctl(pid)?] {
        ensure!(shown == expected, "got {shown:?}");
    }
    let long = format!("1 2 {:>76}", 33);
    for garbage in ["", "1 2", "5 0 0", "0x4003 0 0", "x y z", long.as_str()] {
        // Nothing at all is no write.
        if !garbage.is_empty() {
            refused(garbage, fs::write(&path, garbage), libc::EINVAL)?;
        }
        ensure!(fs::read_to_string(&path)? == expected, "{garbage:?} changed something");
    }
    // What only the letter's prctl refuses and forgets: DIRECT with nothing to compare, and limits beside NONE.
    for (taken, shown) in [("0x20001 0 0", "131073 0 0\n"), ("0 4097 0", "0 8192 0\n")] {
        fs::write(&path, taken).with_context(|| format!("writing {taken}"))?;
        ensure!(fs::read_to_string(&path)? == shown, "{taken} became {:?}", fs::read_to_string(&path)?);
    }
    fs::write(&thread, "0 0 0\n")?;
    ensure!(fs::read_to_string(&path)? == "0 0 0\n", "a thread's file is its process's");
    let mut open = File::options().read(true).write(true).open(&path)?;
    drop(hog);
    refused("writing when it is gone", open.write_all(b"0 0 0"), libc::ESRCH)?;
    refused("reading when it is gone", open.read(&mut [0; 80]), libc::ESRCH)?;
    refused("opening when it is gone", File::open(&path), libc::ENOENT)?;
    Ok(String::new())
}

fn threads(pid: i32) -> Result<BTreeSet<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?.map_while(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Its file is its process's for as long as it is one of its threads, and nobody's afterwards.
fn second_thread(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let (mut hog, other) = (bench.agent(&job, "hog")?, bench.agent(&job, "other")?);
    let (pid, before) = (hog.pid, threads(hog.pid)?);
    hog.ask("hoard threads 1")?;
    let tid = *threads(pid)?.difference(&before).next().context("no second thread")?;
    let of = |tid: i32| files.mount.join(format!("process/{pid}/task/{tid}/memctl"));
    fs::write(of(tid), "1 4096 0")?;
    for shown in [fs::read_to_string(of(tid))?, fs::read_to_string(of(pid))?, daemon.memctl(pid)?] {
        ensure!(shown == "1 4096 0\n", "got {shown:?}");
    }
    refused("a thread is no process", File::open(files.memctl(tid)), libc::ENOENT)?;
    refused("another's thread", File::open(of(other.pid)), libc::ENOENT)?;
    let mut open = File::options().read(true).write(true).open(of(tid))?;
    hog.ask("let-go")?;
    let gone = || threads(pid).ok().filter(|now| !now.contains(&tid)).map(drop);
    poll_until(bench.patience(), Duration::from_millis(2), gone).context("the thread does not end")?;
    refused("writing when it is gone", open.write_all(b"0 0 0"), libc::ESRCH)?;
    refused("reading when it is gone", open.read(&mut [0; 80]), libc::ESRCH)?;
    refused("opening when it is gone", File::open(of(tid)), libc::ENOENT)?;
    ensure!(daemon.memctl(pid)? == "1 4096 0\n", "its end has set the process");
    Ok(String::new())
}
