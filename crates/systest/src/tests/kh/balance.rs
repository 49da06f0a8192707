//! KH 8: an idle group gives to a starved one, no more than it may, and nothing when it is idle no longer. That the starved one is better off for it is not
//! shown: in an emulated machine the kernel moved so small a working set by itself.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cache;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    let needs: &[Need] = &[Need::CleanCache, Need::V2];
    vec![
        Test::new("kh_08_stops_when_the_giver_refaults", stops).needs(needs).seconds(240),
        Test::new("kh_08_never_below_a_reservation", reserved).needs(needs).seconds(240),
    ]
}

/// What the two may use together.
const SHARED: u64 = 108 * MIB;
/// What the idle one has, and does not use.
const IDLE: u64 = 72 * MIB;
/// What the busy one goes over, again and again.
const BUSY: u64 = 48 * MIB;
/// So long it is looked at.
const TIME: Duration = Duration::from_secs(60);

/// Two groups under one limit.
struct Pair {
    top: Group,
    idle: Group,
    busy: Group,
    owner: Agent,
    worker: Agent,
}

impl Pair {
    fn new(bench: &Bench<'_>) -> Result<Self> {
        let top = bench.group("top")?;
        top.delegate_memory()?;
        top.set_max(SHARED)?;
        let (idle, busy) = (bench.group("top/idle")?, bench.group("top/busy")?);
        let (owner, worker) = (bench.agent(&idle, "owner")?, bench.agent(&busy, "worker")?);
        Ok(Self { top, idle, busy, owner, worker })
    }

    /// The idle one has its cache, all of it used twice, so that the kernel is in no hurry to take it; the busy one has nothing.
    fn begin(&mut self, bench: &Bench<'_>) -> Result<()> {
        for group in [&self.busy, &self.idle] {
            // As empty as possible; what is left makes it fail.
            let _hard = group.write("memory.reclaim", "1G");
        }
        for _ in 0..3 {
            cache(bench, &mut self.owner, 0, IDLE)?;
        }
        Ok(())
    }

    /// Has the busy one work for so long, and the idle one too if it is `used`.
    fn work(&mut self, bench: &Bench<'_>, time: Duration, used: bool) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            cache(bench, &mut self.worker, 1, BUSY)?;
            if used {
                cache(bench, &mut self.owner, 0, IDLE)?;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn limits(&self) -> String {
        [&self.top, &self.idle, &self.busy].map(Group::limits).join("; ")
    }

    fn rule(&self) -> String {
        format!(
            "[[rule]]\nname = \"balance\"\ngroups = \"{}/*\"\nover = \"8MiB\"\nuntil = \"8MiB\"\n\
             do = [{{ action = \"reclaim\", pressure = \"0.1%\", when = \"starved\", share = \"50%\" }}]\n",
            self.top.path()
        )
    }
}

/// When the idle one works, too, there is nothing to give.
fn stops(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let mut pair = Pair::new(bench)?;
    pair.begin(bench)?;
    pair.work(bench, TIME / 2, true)?;
    let before = pair.idle.usage()?;
    let _daemon = bench.daemon(&pair.rule())?;
    let refaults = pair.idle.stat("workingset_refault_file")?;
    pair.work(bench, TIME, true)?;
    let (after, refaults) = (pair.idle.usage()?, pair.idle.stat("workingset_refault_file")? - refaults);
    ensure!(after * 10 >= before * 7, "{} were taken from {}, all in use", mib(before - after), mib(before));
    Ok(format!("{} to {}, {refaults} refaults of who is not idle any more", mib(before), mib(after)))
}

fn reserved(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let mut pair = Pair::new(bench)?;
    let kept = 64 * MIB;
    for group in [&pair.top, &pair.idle] {
        group.write("memory.low", &kept.to_string())?;
    }
    pair.begin(bench)?;
    let (before, limits) = (pair.idle.usage()?, pair.limits());
    let _daemon = bench.daemon(&pair.rule())?;
    pair.work(bench, TIME / 2, false)?;
    let idle = pair.idle.usage()?;
    // Counters of processors lag behind by some pages.
    ensure!(idle + MIB >= kept, "{} of {} reserved", mib(idle), mib(kept));
    ensure!(idle < before, "nothing was taken: {}", mib(idle));
    ensure!(pair.limits() == limits, "limits {}, were {limits}", pair.limits());
    ensure!(pair.top.oom_kills()? == 0, "somebody was killed");
    Ok(format!("{} to {}, {} reserved", mib(before), mib(idle), mib(kept)))
}
