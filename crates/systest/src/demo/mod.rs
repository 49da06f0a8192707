//! memgov at work, for people: for each action a runaway process in a scratch group and a neighbour beside it, the daemon's
//! own events as they come, and a table of what was held and what it cost the neighbour. Everything is removed at the end,
//! also after Ctrl-C.

mod act;
mod table;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group;
use crate::harness::host::Host;
use crate::sys::signal;

use act::ACTS;

/// Shows it; whether every line of the table was held.
pub fn run(memgov: Option<&Path>) -> Result<bool> {
    signal::note_interrupts().map_err(std::io::Error::from_raw_os_error)?;
    let host = Host::probe("demo", memgov)?;
    let name = format!("memgov-t-{}-demo", std::process::id());
    let shown = Bench::new(&host, &name).and_then(|bench| show(&bench));
    let cleaned = group::remove_all(&host, &name);
    host.clean();
    println!("\nAll groups of this demo are removed, its processes are gone.");
    cleaned?;
    shown
}

fn show(bench: &Bench<'_>) -> Result<bool> {
    let config: Vec<String> = ACTS.iter().map(|act| act.rule(&bench.top)).collect();
    let config = config.join("\n");
    println!("The configuration:\n");
    config.lines().for_each(|line| println!("    {line}"));
    let daemon = bench.daemon(&config)?;
    let version = bench.host.version;
    println!("\nThe daemon (pid {}) governs; the memory controller is cgroup {version:?}.", daemon.pid);
    let mut live = Live { daemon: &daemon, begin: Instant::now(), printed: 0 };
    let mut lines = Vec::new();
    for act in ACTS {
        println!("\n-- {}: {}", act.name, act.story);
        lines.push(act.play(bench, &mut live)?);
    }
    println!();
    table::print(&lines);
    Ok(lines.iter().all(|line| line.held.is_ok()))
}

/// The daemon's events, printed as they come.
pub struct Live<'a> {
    daemon: &'a Daemon,
    begin: Instant,
    printed: usize,
}

impl Live<'_> {
    /// Prints a line of the demo's own, with the time.
    pub fn say(&self, text: &str) {
        println!("{:>7.3}s  {text}", self.begin.elapsed().as_secs_f64());
    }

    /// Waits until this is so, printing events meanwhile; false when the time is over.
    pub fn until(&mut self, within: Duration, mut done: impl FnMut() -> bool) -> Result<bool> {
        let end = Instant::now() + within;
        loop {
            self.print_new();
            if signal::was_interrupted() {
                bail!("interrupted");
            }
            if done() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn print_new(&mut self) {
        let events = self.daemon.events();
        for event in &events[self.printed..] {
            self.say(&format!("memgov {event}"));
        }
        self.printed = events.len();
    }
}
