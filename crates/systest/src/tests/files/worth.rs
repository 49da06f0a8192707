//! What jobs are worth, read and written through files: said while the daemon runs, it decides who gives way.

use std::fs;
use std::os::unix::fs::chown;

use anyhow::{Context as _, Result, ensure};

use super::rig::{Files, fails, refused, works};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;
use crate::harness::{MIB, process};

const PRIORITY: &str = "memory.priority";
const RESERVATION: &str = "memory.reservation_in_bytes";
const OOM_RESERVE: &str = "memory.oom_reserve_in_bytes";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files_say_what_a_job_is_worth", both_ways).needs(&[Need::Fuse]),
        Test::new("files_reserve_is_not_lowered_under_what_is_in_use", reserve).needs(&[Need::Fuse]),
        Test::new("files_owner_says_who_goes_first_among_his_own", owner).needs(&[Need::Fuse]),
        Test::new("files_priority_decides_who_gives_way", decides).needs(&[Need::Fuse]).seconds(60),
    ]
}

fn config(group: &Group, priority: i32) -> String {
    format!("[[group]]\nmatch = {:?}\npriority = {priority}\n", group.path())
}

fn both_ways(bench: &mut Bench<'_>) -> Result<String> {
    let (job, none) = (bench.group("job")?, bench.group("none")?);
    let daemon = bench.daemon(&(config(&job, -7) + "reservation = \"64MiB\"\n"))?;
    let files = Files::start(bench, &daemon.socket())?;
    let shows = |group: &Group, priority: &str, reservation: &str| -> Result<()> {
        for (name, expected) in [(PRIORITY, priority), (RESERVATION, reservation)] {
            let shown = fs::read_to_string(files.of(group, name))?;
            ensure!(shown.trim() == expected, "{name} is {shown:?}, not {expected}");
        }
        Ok(())
    };
    shows(&job, "-7", "67108864")?;
    for name in [PRIORITY, RESERVATION] {
        refused("of a group that is no job", fs::read(files.of(&none, name)), libc::ENODATA)?;
        for garbage in ["x", "1 2", "-2x", "+1", "\0"] {
            refused(garbage, fs::write(files.of(&job, name), garbage), libc::EINVAL)?;
        }
        fails(bench, NOBODY, &format!("cat {}", files.of(&job, name).display()), "denied")?;
        fails(bench, NOBODY, &format!("echo 1 > {}", files.of(&job, name).display()), "denied")?;
    }
    for beyond in ["2147483648", "-2147483649", "1K"] {
        refused(beyond, fs::write(files.of(&job, PRIORITY), beyond), libc::EINVAL)?;
    }
    works(bench, 0, &format!("echo -0x10 > {}", files.of(&job, PRIORITY).display()))?;
    shows(&job, "-16", "67108864")?;
    works(bench, 0, &format!("echo 16M | tee {}", files.of(&job, RESERVATION).display()))?;
    fs::write(files.of(&none, RESERVATION), "1G")?;
    daemon.ok(&["reload"])?;
    shows(&job, "-16", "16777216").context("after a reload")?;
    shows(&none, "0", "1073741824").context("what was no job before")?;
    let status = daemon.ok(&["status"])?;
    let line = format!("{} is a job of priority -16 (set), reservation 16MiB (set)", job.path());
    ensure!(status.contains(&line), "no `{line}` in:\n{status}");
    fs::write(files.of(&job, RESERVATION), "-1")?;
    fs::write(files.of(&job, RESERVATION), "-1").context("twice")?;
    shows(&job, "-16", "67108864")?;
    daemon.ok(&["clear", "--group", &job.path(), "--priority"])?;
    shows(&job, "-7", "67108864")?;
    fs::write(files.of(&none, RESERVATION), "-1")?;
    refused("a job no more", fs::read(files.of(&none, RESERVATION)), libc::ENODATA)?;
    ends_with_its_group(bench, &daemon, &files)
}

/// DR 4: `usage - limit > new` is EBUSY, the limit being that without the reserve.
fn reserve(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.set_max(64 * MIB)?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let file = files.of(&job, OOM_RESERVE);
    let shows = |expected: u64| -> Result<()> {
        let shown = fs::read_to_string(&file)?;
        ensure!(shown.trim() == expected.to_string(), "{OOM_RESERVE} is {shown:?}, not {expected}");
        Ok(())
    };
    shows(0)?;
    for garbage in ["x", "1 2", "-2", "\0"] {
        refused(garbage, fs::write(&file, garbage), libc::EINVAL)?;
    }
    fails(bench, NOBODY, &format!("echo 2m > {}", file.display()), "denied")?;
    works(bench, 0, &format!("echo 32m > {}", file.display()))?;
    shows(32 * MIB)?;
    let mut hog = bench.agent(&job, "hog")?;
    hog.take("anon", 48 * MIB)?;
    // 16 MiB of the 32 are in use, and what a process takes beside.
    for (less, allowed) in [("8M", false), ("-1", false), ("0", false), ("28M", true)] {
        match allowed {
            true => fs::write(&file, less).with_context(|| format!("lowering it to {less}"))?,
            false => refused(less, fs::write(&file, less), libc::EBUSY)?,
        }
    }
    let said = daemon.cli(&["set", "--group", &job.path(), "--oom-reserve", "1MiB"])?;
    ensure!(said.code == 8 && said.stderr.contains("are in use"), "{}", said.stderr);
    let told = daemon.ok(&["get", "--group", &job.path()])?;
    ensure!(told.trim() == format!("{} has oom-reserve 28MiB (set)", job.path()), "{told}");
    hog.ask(&format!("shrink {MIB}"))?;
    fs::write(&file, "-1").context("nothing of it is in use")?;
    shows(0)?;
    ensure!(process::is_alive(hog.pid) && job.oom_kills()? == 0, "somebody was killed");
    Ok(String::new())
}

/// Another group of the same name is not taken for it.
fn ends_with_its_group(bench: &Bench<'_>, daemon: &Daemon, files: &Files) -> Result<String> {
    let group = bench.group("passing")?;
    fs::write(files.of(&group, PRIORITY), "3")?;
    let (path, dirs) = (group.path(), group.dirs().to_vec());
    group.remove()?;
    for dir in dirs {
        fs::create_dir(dir)?;
    }
    let left = daemon.cli(&["get", "--group", &path])?;
    ensure!(left.code == 5, "it outlived its group: {}", left.stdout);
    Ok(String::new())
}

/// Root has given a user a group with two below it. He says who goes first of the two, and not what all that is his is worth.
fn owner(bench: &mut Bench<'_>) -> Result<String> {
    let top = bench.group("his")?;
    top.delegate_memory()?;
    let (low, high) = (bench.group("his/low")?, bench.group("his/high")?);
    for group in [&top, &low, &high] {
        for dir in group.dirs() {
            chown(dir, Some(NOBODY), None)?;
        }
    }
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let line = |group: &Group, file: &str, text: &str| {
        format!("echo {text} | dd conv=notrunc of={}", files.of(group, file).display())
    };
    works(bench, NOBODY, &line(&low, PRIORITY, "-5"))?;
    works(bench, NOBODY, &line(&high, RESERVATION, "64M"))?;
    let shown = works(bench, NOBODY, &format!("cat {}", files.of(&low, PRIORITY).display()))?;
    ensure!(shown == "-5\n", "{shown:?}");
    fails(bench, NOBODY, &line(&top, PRIORITY, "1000"), "denied")?;
    fails(bench, NOBODY, &line(&top, RESERVATION, "1G"), "denied")?;
    works(bench, NOBODY, &line(&high, RESERVATION, "-1"))?;
    let asked = ["set", "--group", &top.path(), "--priority", "1"];
    let said = daemon.cli_as(NOBODY, &asked)?;
    ensure!(said.code == 4 && said.stderr.contains("root's to say"), "{} {}", said.code, said.stderr);
    // Root's word is not his to change.
    works(bench, 0, &line(&low, PRIORITY, "7"))?;
    fails(bench, NOBODY, &line(&low, PRIORITY, "-5"), "denied")?;
    Ok(String::new())
}

const LIMIT: u64 = 160 * MIB;
const UNDER: u64 = 24 * MIB;

/// The one that uses more gives way of two that are worth the same; then a number is written into a file, and the other one does.
fn decides(bench: &mut Bench<'_>) -> Result<String> {
    let parent = bench.group("jobs")?;
    parent.delegate_memory()?;
    let (small, large) = (bench.group("jobs/small")?, bench.group("jobs/large")?);
    parent.set_max(LIMIT)?;
    let trace = bench.dir.join("trace");
    let rule = format!(
        "[[rule]]\nname = \"parent\"\ngroups = {:?}\nmeter = \"available\"\nunder = \"{UNDER}B\"\n\
         do = [{{ action = \"kill\", victim = \"lowest-priority\" }}]\n",
        parent.path()
    );
    let config = config(&small, 10) + &config(&large, 10) + &rule;
    let mut daemon = bench.daemon_with(&config, &["--trace", &trace.to_string_lossy()])?;
    let files = Files::start(bench, &daemon.socket())?;
    let (mut first, mut second) = (bench.agent(&small, "first")?, bench.agent(&large, "second")?);
    first.take("anon", 46 * MIB)?;
    second.push("anon", 98 * MIB)?;
    gives_way(bench, &daemon, &large, &mut second)?;
    ensure!(process::is_alive(first.pid), "both are dead");

    fs::write(files.of(&small, PRIORITY), "5\n")?;
    daemon.ok(&["reload"])?;
    let mut again = bench.agent(&large, "again")?;
    again.push("anon", 98 * MIB)?;
    gives_way(bench, &daemon, &small, &mut first)?;
    ensure!(process::is_alive(again.pid), daemon.explain(anyhow::anyhow!("both are dead")));
    std::thread::sleep(std::time::Duration::from_millis(300));
    daemon.replays_alike(&trace)
}

fn gives_way(bench: &Bench<'_>, daemon: &Daemon, group: &Group, agent: &mut Agent) -> Result<()> {
    let path = group.path();
    daemon.event("a kill by priority, seen dead", bench.patience(), |event| {
        event.order == "kill" && event.is_of_group(&path) && event.came_of_it() == "dead"
    })?;
    let (_, signal) = agent.wait_for_end(bench.patience())?;
    ensure!(signal == libc::SIGKILL, "expected death by SIGKILL, got {signal}");
    Ok(())
}
