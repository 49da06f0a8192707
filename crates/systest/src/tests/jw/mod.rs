//! The sockets letter's criteria (JW): what sockets hold is part of what a group holds.

mod accounting;
mod peers;
mod pool;
mod pressure;
mod squeeze;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Version;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let themes = [accounting::tests, peers::tests, pool::tests, squeeze::tests, pressure::tests];
    themes.iter().flat_map(|tests| tests()).collect()
}

/// A rule about this group with this meter.
fn rule(group: &Group, meter: &str, over: u64, does: &str) -> String {
    format!(
        "[[rule]]\nname = \"net\"\ngroups = {:?}\nmeter = {meter:?}\nover = \"{over}B\"\ndo = [{does}]\n",
        group.path()
    )
}

/// All memory in one pool.
fn pool(group: &Group, version: Version) -> Result<u64> {
    let apart = if version == Version::V1 { group.sockets()? } else { 0 };
    Ok(group.usage()? + apart)
}

/// What `memgov status --sockets` says of a group, as JSON.
fn status(daemon: &Daemon, group: &Group) -> Result<serde_json::Value> {
    let text = daemon.ok(&["status", "--sockets", &group.path(), "--json"])?;
    serde_json::from_str(&text).with_context(|| format!("status --sockets said {text:?}"))
}

/// The most that `of` comes to in this time.
fn most(during: Duration, mut of: impl FnMut() -> Result<u64>) -> Result<u64> {
    let end = Instant::now() + during;
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(of()?);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(most)
}

/// A daemon that has seen the group, so that on v1 its sockets are counted from here on.
fn counting_daemon(bench: &Bench<'_>, group: &Group, config: &str) -> Result<Daemon> {
    let daemon = bench.daemon(config)?;
    if bench.host.version == Version::V1 {
        anyhow::ensure!(
            group.dir().join("memory.kmem.tcp.limit_in_bytes").exists(),
            "this kernel does not count TCP"
        );
        // Word of it is nowhere but in that a socket made now is counted; the thread looks four times a second.
        std::thread::sleep(Duration::from_millis(600) * bench.host.patience);
    }
    Ok(daemon)
}
