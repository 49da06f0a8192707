//! The steps that need no kernel of their own: formatting, lints, unit tests, documentation, shipped configurations.
//! Each gives a row; a step that could not even start is a failed one.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::table::Row;
use crate::supervise::{self, End, OnInterrupt, Stream};
use crate::{interrupt, workspace};

/// A first build on a slow machine included.
const LIMIT: Duration = Duration::from_secs(3600);

/// cargo fmt, clippy, doc: nothing may be said against the source.
pub fn checks() -> Result<Vec<Row>> {
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
    [("fmt", format), ("clippy", lint), ("clippy, no bpf", portable), ("doc", documentation)]
        .into_iter()
        .map(|(tier, command)| step("source", tier, command))
        .collect()
}

/// One command whose exit status is the verdict. Its output is shown as it comes.
fn step(target: &str, tier: &str, command: Command) -> Result<Row> {
    interrupt::check()?;
    println!("==> {target}: {tier}");
    let start = Instant::now();
    let end = supervise::run(command, LIMIT, OnInterrupt::End, &mut show)?;
    if !end.success() {
        println!("==> {target}: {tier} FAILED ({end})");
    }
    stop_if_interrupted(end)?;
    Ok(Row::step(target, tier, end.success(), start.elapsed()))
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

/// `cargo test --workspace`: unit, property and differential tests, counted from what the harness prints.
pub fn unit_tests() -> Result<Vec<Row>> {
    interrupt::check()?;
    println!("==> workspace: cargo test");
    let start = Instant::now();
    let mut tests = workspace::cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    let mut counts = Counts::default();
    let end = supervise::run(tests, LIMIT, OnInterrupt::End, &mut |stream, line| {
        let harness = stream == Stream::Out;
        if harness {
            counts.line(line);
        }
        if !harness || !(line.is_empty() || is_passed(line)) {
            show(stream, line);
        }
    })?;
    stop_if_interrupted(end)?;
    let counts = counts.finish(end.success());
    Ok(vec![Row {
        passed: counts.passed,
        failed: counts.failed,
        ..Row::step("workspace", "unit", true, start.elapsed())
    }])
}

fn is_passed(line: &str) -> bool {
    line.starts_with("test ") && line.ends_with(" ... ok")
}

/// The sums of all test harnesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Counts {
    /// "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
    fn line(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse::<usize>(), what)) {
                Some((Ok(number), "passed")) => self.passed += number,
                // An ignored test is one that nobody ran.
                Some((Ok(number), "failed" | "ignored")) => self.failed += number,
                _ => {}
            }
        }
    }

    /// A harness that crashed or did not build counts nothing and must not look like success.
    fn finish(mut self, success: bool) -> Self {
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

/// The release build of memgov and memgov-systest: as shipped, and fast enough for emulation.
pub fn build() -> Result<Row> {
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", "memgov", "--package", "memgov-systest"]);
    step("source", "build", build)
}

/// `memgov check` over each configuration that is shipped.
pub fn shipped_configurations() -> Result<Row> {
    println!("==> source: memgov check");
    let start = Instant::now();
    let mut row = Row { passed: 0, ..Row::step("source", "check", true, Duration::ZERO) };
    for file in shipped()? {
        interrupt::check()?;
        let mut check = Command::new(workspace::release("memgov"));
        check.arg("check").arg(&file).current_dir(workspace::root());
        let mut lines = Vec::new();
        let end = supervise::run(check, Duration::from_secs(60), OnInterrupt::End, &mut |_, line| {
            lines.push(line.to_owned());
        })?;
        if end.success() {
            row.passed += 1;
        } else {
            row.failed += 1;
            println!("==> memgov check {}: {end}\n{}", file.display(), lines.join("\n"));
        }
    }
    if row.passed + row.failed == 0 {
        println!("==> memgov check: examples/ ships no configuration");
        row.failed = 1;
    }
    row.took = start.elapsed();
    Ok(row)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &[&str], success: bool) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.line(line));
        counts.finish(success)
    }

    #[test]
    fn the_sums_of_all_harnesses_are_counted() {
        let lines = [
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test governor::tests::x ... FAILED",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.00s",
        ];
        assert_eq!(count(&lines, false), Counts { passed: 15, failed: 2 });
    }

    #[test]
    fn an_ignored_test_is_a_failed_one() {
        let line =
            "test result: ok. 1 passed; 0 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(count(&[line], true), Counts { passed: 1, failed: 4 });
    }

    #[test]
    fn a_build_that_fails_is_no_success() {
        assert_eq!(count(&["error: could not compile"], false), Counts { passed: 0, failed: 1 });
    }
}
