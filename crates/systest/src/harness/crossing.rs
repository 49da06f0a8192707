//! When a group went over a line, to a fraction of a millisecond, as seen from outside: a throttled workload cannot say it,
//! because the kernel puts it to sleep inside the very step that crosses.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::MIB;
use crate::sys::now;

/// A line that was crossed.
#[derive(Clone, Copy, Debug)]
pub struct Crossed {
    /// The last moment the usage was seen not to be over: the crossing came after it.
    pub at: u64,
    /// The first usage seen over the line.
    pub usage: u64,
}

/// Somebody watching.
pub struct Crossing {
    answer: Receiver<Crossed>,
    line: u64,
}

impl Crossing {
    /// Watches a usage file until it is over the line or the time has passed. A crossing that ended while this thread stood still is known by the highest
    /// usage; by that alone only when the usage has fallen, because it counts what processors hold in stock for a moment.
    pub fn watch(usage_file: &Path, line: u64, within: Duration) -> Result<Self> {
        let file = File::open(usage_file).with_context(|| format!("opening {}", usage_file.display()))?;
        let highest = ["memory.peak", "memory.max_usage_in_bytes"];
        let highest = highest.iter().find_map(|name| File::open(usage_file.with_file_name(name)).ok());
        let peak = move || highest.as_ref().and_then(number);
        // One that was before the watch began is not told from another.
        let fresh = peak().is_some_and(|peak| peak <= line);
        let (sender, answer) = channel();
        std::thread::spawn(move || {
            let end = Instant::now() + within;
            let (mut under, mut last) = (now(), 0);
            while Instant::now() < end {
                let before = now();
                let Some(usage) = number(&file) else { return };
                let missed = fresh && usage + MIB < last && peak().is_some_and(|peak| peak > line);
                if usage > line || missed {
                    // Nobody waits any more if the test has failed meanwhile.
                    let _not_wanted = sender.send(Crossed { at: under, usage: usage.max(line + 1) });
                    return;
                }
                (under, last) = (before, usage);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Ok(Self { answer, line })
    }

    /// Waits for the crossing.
    pub fn wait(self) -> Result<Crossed> {
        self.answer.recv().map_err(|_| anyhow!("the usage never went over {} bytes", self.line))
    }
}

/// When something came to be so, as seen from outside every third of a millisecond.
pub struct Noticed(Receiver<u64>);

impl Noticed {
    /// Looks until it is so or the time has passed.
    pub fn when(within: Duration, so: impl Fn() -> bool + Send + 'static) -> Self {
        let (sender, answer) = channel();
        std::thread::spawn(move || {
            let noticed = super::poll_until(within, Duration::from_micros(300), || so().then(now));
            // Nobody waits any more if the test has failed meanwhile.
            noticed.map(|at| sender.send(at))
        });
        Self(answer)
    }

    /// Waits for it.
    pub fn wait(self, what: &str) -> Result<u64> {
        self.0.recv().map_err(|_| anyhow!("it never came to this: {what}"))
    }
}

fn number(file: &File) -> Option<u64> {
    let mut text = [0; 32];
    let count = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..count]).ok()?.trim_end().parse().ok()
}
