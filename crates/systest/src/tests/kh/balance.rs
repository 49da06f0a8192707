//! KH 8: an idle group gives to a starved one, which is better off for it where the kernel would not have done it by itself; no more than it may, and nothing when it is
//! idle no longer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{cache, reuse};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, millis};

pub fn tests() -> Vec<Test> {
    let needs: &[Need] = &[Need::CleanCache, Need::V2];
    vec![
        Test::new("kh_08_the_starved_is_better_off", better_off).needs(needs).seconds(120),
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
/// So many groups share [`IDLE`] in a crowd.
const MANY: u64 = 8;
/// What is told of is the mean of so many.
const ROUNDS: u64 = 5;
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
        cache(bench, &mut self.owner, 0, IDLE)?;
        for _ in 0..2 {
            reuse(bench, &mut self.owner, 0, IDLE)?;
        }
        cache(bench, &mut self.worker, 1, BUSY).map(|_| ())
    }

    /// Has the busy one work for so long, and the idle one too if it is `used`.
    fn work(&mut self, bench: &Bench<'_>, time: Duration, used: bool) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            reuse(bench, &mut self.worker, 1, BUSY)?;
            if used {
                reuse(bench, &mut self.owner, 0, IDLE)?;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn limits(&self) -> String {
        [&self.top, &self.idle, &self.busy].map(Group::limits).join("; ")
    }

    fn rule(&self) -> String {
        rule(&self.top, 8 * MIB)
    }
}

fn rule(top: &Group, floor: u64) -> String {
    format!(
        "[[rule]]\nname = \"balance\"\ngroups = \"{}/*\"\nover = \"{floor}B\"\nuntil = \"{floor}B\"\n\
         do = [{{ action = \"reclaim\", pressure = \"0.1%\", when = \"starved\", share = \"50%\" }}]\n",
        top.path()
    )
}

/// Many idle groups, each so small that the kernel passes them over: it scans a 4096th of a group at first (DEF_PRIORITY in mm/vmscan.c), which is not one page of
/// these, and has enough from the large one. So the large one is reclaimed from for what it reads itself, again and again, beside cache that nobody uses.
struct Crowd {
    top: Group,
    idle: Vec<(Group, Agent)>,
    busy: Group,
    worker: Agent,
}

/// What one round took.
#[derive(Clone, Copy, Debug)]
struct Round {
    refaults: u64,
    nanos: u64,
}

impl Crowd {
    fn new(bench: &Bench<'_>) -> Result<Self> {
        let top = bench.group("top")?;
        top.delegate_memory()?;
        top.set_max(SHARED)?;
        let small = |number: u64| -> Result<(Group, Agent)> {
            let group = bench.group(&format!("top/idle{number}"))?;
            let mut owner = bench.agent(&group, "owner")?;
            cache(bench, &mut owner, 2 + number, IDLE / MANY)?;
            reuse(bench, &mut owner, 2 + number, IDLE / MANY)?;
            Ok((group, owner))
        };
        let idle = (0..MANY).map(small).collect::<Result<_>>()?;
        let busy = bench.group("top/busy")?;
        let mut worker = bench.agent(&busy, "worker")?;
        cache(bench, &mut worker, 1, BUSY)?;
        Ok(Self { top, idle, busy, worker })
    }

    fn round(&mut self, bench: &Bench<'_>) -> Result<Round> {
        let before = self.busy.stat("workingset_refault_file")?;
        let nanos = reuse(bench, &mut self.worker, 1, BUSY)?;
        let refaults = self.busy.stat("workingset_refault_file")? - before;
        std::thread::sleep(Duration::from_millis(200));
        Ok(Round { refaults, nanos })
    }

    /// The mean of some.
    fn rounds(&mut self, bench: &Bench<'_>) -> Result<Round> {
        let all = (0..ROUNDS).map(|_| self.round(bench)).collect::<Result<Vec<_>>>()?;
        let mean = |of: fn(&Round) -> u64| all.iter().map(of).sum::<u64>() / ROUNDS;
        Ok(Round { refaults: mean(|round| round.refaults), nanos: mean(|round| round.nanos) })
    }

    fn idle_usage(&self) -> Result<u64> {
        self.idle.iter().map(|(group, _)| group.usage()).sum()
    }

    fn limits(&self) -> String {
        let all = [&self.top, &self.busy].into_iter().chain(self.idle.iter().map(|(group, _)| group));
        all.map(Group::limits).collect::<Vec<_>>().join("; ")
    }
}

fn better_off(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let mut crowd = Crowd::new(bench)?;
    let (idle, limits) = (crowd.idle_usage()?, crowd.limits());
    let alone = crowd.rounds(bench)?;
    let pages = BUSY / 4096;
    ensure!(alone.refaults > pages / 2, "the kernel does it by itself: {alone:?} of {pages} pages");
    let left = crowd.idle_usage()?;
    let daemon = bench.daemon(&rule(&crowd.top, 2 * MIB))?;
    let begin = Instant::now();
    while crowd.round(bench)?.refaults > alone.refaults / 10 {
        ensure!(
            begin.elapsed() < bench.patience(),
            "it is as starved as before; idle {}",
            mib(crowd.idle_usage()?)
        );
    }
    let took = begin.elapsed();
    let then = crowd.idle_usage()?;
    let helped = crowd.rounds(bench)?;
    let now = crowd.idle_usage()?;
    ensure!(helped.refaults <= alone.refaults / 10, "{helped:?}, {alone:?} without");
    // What it was short of, and no more than is given until that is seen.
    let given = left - now;
    let short = (idle + BUSY).saturating_sub(SHARED);
    ensure!(given <= short + IDLE / 4, "{} were taken, it was short of {}", mib(given), mib(short));
    ensure!(crowd.limits() == limits, "limits {}, were {limits}", crowd.limits());
    ensure!(crowd.top.oom_kills()? == 0, "somebody was killed");
    drop(daemon);
    Ok(format!(
        "a round of {} pages: {} refaults and {} without, {} and {} with, after {took:.0?}; {MANY} idle groups {} (by the kernel alone {}), then {}, in the end {}",
        pages,
        alone.refaults,
        millis(alone.nanos),
        helped.refaults,
        millis(helped.nanos),
        mib(idle),
        mib(left),
        mib(then),
        mib(now),
    ))
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
