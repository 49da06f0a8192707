//! KH 9: whose groups, and what is below them.

use std::os::unix::fs::chown;

use anyhow::{Result, ensure};

use super::{at_target, cache, expect};
use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("kh_09_owners_and_nobody_else", owners),
        Test::new("kh_09_what_is_below_counts", subtree).needs(&[Need::CleanCache]),
    ]
}

fn owners(bench: &mut Bench<'_>) -> Result<String> {
    let (own, other) = (bench.group("own")?, bench.group("other")?);
    for dir in own.dirs() {
        chown(dir, Some(NOBODY), None)?;
    }
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&other, "hog")?;
    hog.take("anon", 32 * MIB)?;
    expect(&daemon.cli_as(NOBODY, &["shrink", &own.path(), "--to", "64MiB"])?, 0, "its own group")?;
    expect(&daemon.cli_as(NOBODY, &["shrink", &other.path(), "--to", "64MiB"])?, 4, "another's group")?;
    let id = daemon.ok(&["shrink", &other.path(), "--to", "1MiB", "--async"])?;
    expect(&daemon.cli_as(NOBODY, &["shrink", "--cancel", id.trim()])?, 4, "another's shrink")?;
    let listed = daemon.cli_as(NOBODY, &["shrink", "--list"])?;
    ensure!(!listed.stdout.contains(&other.path()), "another's shrink is shown: {}", listed.stdout);
    ensure!(listed.stdout.contains(&own.path()), "its own is not: {}", listed.stdout);
    expect(&daemon.cli(&["shrink", "--cancel", id.trim()])?, 0, "root")?;
    Ok(String::new())
}

fn subtree(bench: &mut Bench<'_>) -> Result<String> {
    let top = bench.group("top")?;
    top.delegate_memory()?;
    let below = bench.group("top/below")?;
    let daemon = bench.daemon("")?;
    let mut reader = bench.agent(&below, "reader")?;
    cache(bench, &mut reader, 0, 100 * MIB)?;
    expect(&daemon.cli(&["shrink", &top.path(), "--to", "40MiB"])?, 0, "the parent")?;
    at_target(&top, 40 * MIB)?;
    ensure!(below.usage()? <= 40 * MIB, "the child still uses {}", below.usage()?);
    Ok(String::new())
}
