//! Names that break parsers, and pids that come back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::MIB;
use crate::harness::bench::{Bench, T, expect_probe, word};
use crate::harness::group::{Group, below};
use crate::harness::host::Need;
use crate::harness::process;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        // A newline is the one byte beside `/` that the kernel itself refuses.
        Test::new("hostile_group_name_with_control_characters", |bench| {
            named(bench, &[b"a\tb\r\x1b[2J\x07"])
        }),
        Test::new("hostile_group_name_like_a_stat_line", |bench| named(bench, &[b"foo) Z "])),
        Test::new("hostile_group_name_with_colons_and_quotes", |bench| {
            named(bench, &[b"0::\"x\\y\" (deleted)"])
        }),
        Test::new("hostile_group_name_not_utf8", |bench| {
            named(bench, b"\xff\xfe\x80".as_slice().chunks(3).collect::<Vec<_>>().as_slice())
        }),
        Test::new("hostile_group_path_of_many_long_names", long_path),
        Test::new("pid_reuse_gets_no_inheritance", pid_reuse).needs(&[Need::ChoosePid]),
    ]
}

fn rule_below(top: &Group) -> String {
    format!(
        "[[rule]]\ngroups = \"{}/**\"\nmeter = \"usage\"\nover = \"32MiB\"\ndo = [\"deny\"]\n",
        top.path()
    )
}

/// A group of this name, in it a process of a hostile name, held and released like any other.
fn named(bench: &mut Bench<'_>, components: &[&[u8]]) -> Result<String> {
    let top = PathBuf::from(bench.top.path());
    let path = components.iter().fold(top, |path, component| below(&path, component));
    hold(bench, &path)
}

fn hold(bench: &Bench<'_>, path: &Path) -> Result<String> {
    let daemon = bench.daemon(&rule_below(&bench.top))?;
    let job = Group::make(bench.host, path)?;
    let mut hog = bench.agent(&job, "foo) Z ")?;
    let before = bench.state(&[hog.pid]);
    // In one step: the groups above hold a little more, and who is refused for one of theirs does not get over its own.
    hog.grow("anon", 48 * MIB, Duration::ZERO, 48 * MIB)?;
    // The groups above it match the rule and are over as well: their events come too, and are not meant.
    let its = |shown: Option<&String>| match path.to_str() {
        Some(expected) => shown.is_some_and(|shown| shown == expected || *shown == escaped(expected)),
        None => true,
    };
    let event = daemon.event("deny-begin of the hostile group, by its path", bench.patience(), |event| {
        event.order == "deny-begin" && its(event.target.path.as_ref())
    })?;
    bench.await_calls(&mut hog, &daemon, "refused")?;
    daemon.ok(&["explain", &event.id.to_string(), "--json"])?;
    hog.ask("free")?;
    daemon.event("deny-end", bench.patience(), |event| {
        event.order == "deny-end" && its(event.target.path.as_ref())
    })?;
    bench
        .back_to(&before, &[hog.pid], bench.patience(), "after the relief")
        .map_err(|error| daemon.explain(error))?;
    Ok(format!("{} bytes, {} by {}", path.as_os_str().len(), event.came_of_it(), event.by()))
}

/// Control characters and backslashes escaped: what a terminal would obey is shown, and no two names look the same.
fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '\\' => "\\\\".to_owned(),
        c if c.is_control() => c.escape_debug().to_string(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

/// As deep as the kernel's own files can say: `/proc/PID/cgroup` gives no path of a page or more.
fn long_path(bench: &mut Bench<'_>) -> Result<String> {
    const LONGEST: usize = 4000;
    let mount = bench.host.hierarchies().map(|top| top.as_os_str().len()).max().unwrap_or(0);
    let mut path = PathBuf::from(bench.top.path());
    while path.as_os_str().len() + 251 + mount < LONGEST {
        path = path.join("x".repeat(250));
        // Memory is counted all the way down.
        Group::make(bench.host, path.parent().unwrap_or(&path))?.delegate_memory()?;
        Group::make(bench.host, &path)?;
    }
    let done = hold(bench, &path)?;
    let root = format!("{}/{}", bench.top.path(), "x".repeat(250));
    Group::make(bench.host, Path::new(&root))?.remove()?;
    Ok(done)
}

/// A control dies with its process: another that gets the same pid has none.
fn pid_reuse(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    for tries in 1..=20 {
        let mut first = bench.agent(&job, "first")?;
        daemon.set_memctl(first.pid, word::DENY | word::DIRECT | word::ANON, 0, 4 * MIB)?;
        let pid = first.pid;
        first.say("exit 0")?;
        first.wait_for_end(bench.patience())?;
        drop(first);
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
            .context("writing ns_last_pid")?;
        let mut second = bench.agent(&job, "second")?;
        if second.pid != pid {
            continue;
        }
        let output = daemon.cli(&["get", "--pid", &pid.to_string(), "--memctl"])?;
        let none = output.code == 5 || output.stdout.trim() == "0 0 0";
        ensure!(none, "pid {pid} is another process, but has the control {:?}", output.stdout.trim());
        let before = process::limits(pid);
        second.take("anon", 8 * MIB)?;
        std::thread::sleep(T * 2);
        ensure!(process::limits(pid) == before, "the new process was denied: {:?}", process::limits(pid));
        expect_probe(bench, &mut second, "the new process", 0)?;
        return Ok(format!("pid {pid} had again at try {tries}"));
    }
    bail!("no pid could be had twice in 20 tries")
}
