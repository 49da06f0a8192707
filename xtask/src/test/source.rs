//! The steps that need no kernel of their own: formatting, lints, unit tests, documentation, shipped configurations.
//! Each gives a row; a step that could not even start is a failed one.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::harness::Harness;
use super::summary::{Failure, Last, Summary};
use super::table::Row;
use crate::progress::heading;
use crate::supervise::{self, End, OnInterrupt, Stream};
use crate::{interrupt, workspace};

/// A first build on a slow machine included.
const LIMIT: Duration = Duration::from_secs(3600);

/// cargo fmt, clippy, doc: nothing may be said against the source.
pub fn checks() -> Result<Summary> {
    let mut documentation = workspace::cargo();
    documentation.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    let mut format = workspace::cargo();
    format.args(["fmt", "--all", "--check"]);
    let mut lint = workspace::cargo();
    lint.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut portable = workspace::cargo();
    portable.args([
        "clippy",
        "--package",
        "memgov",
        "--no-default-features",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let mut summary = Summary::default();
    for (tier, command) in
        [("fmt", format), ("clippy", lint), ("clippy, no bpf", portable), ("doc", documentation)]
    {
        summary.add(step("source", tier, command)?);
    }
    Ok(summary)
}

/// One command whose exit status is the verdict. Its output is shown as it comes.
fn step(target: &str, tier: &str, command: Command) -> Result<Summary> {
    interrupt::check()?;
    heading(format_args!("{target}: {tier}"));
    let start = Instant::now();
    let mut printed = Last::default();
    let end = supervise::run(command, LIMIT, OnInterrupt::End, &mut |stream, line| {
        printed.push(line);
        show(stream, line);
    })?;
    if !end.success() {
        heading(format_args!("{target}: {tier} FAILED ({end})"));
    }
    stop_if_interrupted(end)?;
    let row = Row::step(target, tier, end.success(), start.elapsed());
    Ok(Summary::step(row, end.to_string(), printed))
}

fn show(stream: Stream, line: &str) {
    match stream {
        Stream::Out => println!("{line}"),
        Stream::Err => eprintln!("{line}"),
    }
}

fn stop_if_interrupted(end: End) -> Result<()> {
    anyhow::ensure!(end != End::Interrupted, "interrupted");
    Ok(())
}

/// `cargo test --workspace`: unit, property and differential tests, counted from what the harness prints. Some of them start
/// processes and wait for them, beside others that take both processors: what fails is run once more, alone, and said.
pub fn unit_tests() -> Result<Summary> {
    heading("workspace: cargo test");
    let start = Instant::now();
    let (mut said, success) = cargo_test(&[])?;
    let failed = said.to_try_again();
    if !failed.is_empty() {
        heading(format_args!("workspace: tried once more, one at a time: {}", failed.join(" ")));
        let arguments = ["--", "--exact", "--test-threads=1"].into_iter();
        let arguments: Vec<_> = arguments.chain(failed.iter().map(String::as_str)).collect();
        let (second, content) = cargo_test(&arguments)?;
        said.tried_again(&second, content);
    }
    Ok(said.finish(success, start.elapsed()))
}

/// What the harnesses said, and whether cargo was content.
fn cargo_test(arguments: &[&str]) -> Result<(Harness, bool)> {
    interrupt::check()?;
    let mut tests = workspace::cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    let mut said = Harness::default();
    let end = supervise::run(tests, LIMIT, OnInterrupt::End, &mut |stream, line| {
        let harness = stream == Stream::Out;
        said.line(line, harness);
        if !harness || !(line.is_empty() || is_passed(line)) {
            show(stream, line);
        }
    })?;
    stop_if_interrupted(end)?;
    Ok((said, end.success()))
}

fn is_passed(line: &str) -> bool {
    line.starts_with("test ") && line.ends_with(" ... ok")
}

/// The release build of memgov, memgov-systest and libmemgov: as shipped, and fast enough for emulation.
pub fn build() -> Result<Summary> {
    step("source", "build", workspace::release_build())
}

/// libmemgov, its header and an example in each language.
pub fn clients() -> Result<Summary> {
    heading("source: libmemgov and its examples");
    let start = Instant::now();
    let built = crate::library::clients();
    let reason = built.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    let row = Row::step("source", "libmemgov", built.is_ok(), start.elapsed());
    Ok(Summary::step(row, reason, Last::default()))
}

/// `memgov check` over each configuration that is shipped.
pub fn shipped_configurations() -> Result<Summary> {
    heading("source: memgov check");
    let start = Instant::now();
    let mut failures = Vec::new();
    let mut row = Row { passed: 0, ..Row::step("source", "check", true, Duration::ZERO) };
    for file in shipped()? {
        interrupt::check()?;
        let mut check = Command::new(workspace::release("memgov"));
        check.arg("check").arg(&file).current_dir(workspace::root());
        let mut lines = Last::default();
        let end = supervise::run(check, Duration::from_secs(60), OnInterrupt::End, &mut |_, line| {
            lines.push(line);
        })?;
        if end.success() {
            row.passed += 1;
        } else {
            row.failed += 1;
            let printed: Vec<String> = lines.lines().collect();
            let name = format!("memgov check {}", file.display());
            heading(format_args!("{name}: {end}\n{}", printed.join("\n")));
            failures.push(Failure { target: "source".into(), name, reason: end.to_string(), printed });
        }
    }
    if row.passed + row.failed == 0 {
        let reason = "examples/ ships no configuration".to_owned();
        heading(format_args!("memgov check: {reason}"));
        let (target, name) = ("source".to_owned(), "memgov check".to_owned());
        failures.push(Failure { target, name, reason, printed: Vec::new() });
        row.failed = 1;
    }
    row.took = start.elapsed();
    Ok(Summary { rows: vec![row], failures, ..Summary::default() })
}

fn shipped() -> Result<Vec<PathBuf>> {
    let dir = workspace::root().join("examples");
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        entries => entries.with_context(|| format!("reading {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
