//! KH 10: a group is made smaller, and nothing else happens: its sockets have the room they had, no pressure is counted, nobody else is reclaimed from.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{alone, cache, reuse};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    let cached: &[Need] = &[Need::CleanCache];
    vec![
        Test::new("kh_10_shrink_changes_nothing_else", shrink).needs(cached).seconds(60),
        Test::new("kh_10_background_reclaim_changes_nothing_else", background).needs(cached).seconds(60),
        Test::new("kh_10_proactive_reclaim_changes_nothing_else", proactive)
            .needs(&[Need::CleanCache, Need::V2])
            .seconds(60),
        Test::new("kh_10_a_squeezed_socket_is_seen", squeezed)
            .needs(&[Need::CleanCache, Need::V1])
            .seconds(60),
        Test::new("kh_10_a_limit_that_is_met_is_seen", limited)
            .needs(&[Need::CleanCache, Need::V2])
            .seconds(60),
    ]
}

const FULL: u64 = 48 * MIB;
const SMALL: u64 = 32 * MIB;
/// So long it talks at a time.
const TALK: Duration = Duration::from_millis(100);
/// Of `memory.events`.
const EVENTS: [&str; 5] = ["low", "high", "max", "oom", "oom_kill"];
/// The room of a connection, as the workload says it.
const ROOM: [&str; 5] =
    ["receive buffer", "send buffer", "window clamp", "sender's window clamp", "window threshold"];

/// A group with a talker and a reader, and a neighbour with cache of his own, below one parent.
struct Scene {
    parent: Group,
    job: Group,
    neighbour: Group,
    talker: Agent,
    reader: Agent,
    /// Keeps the neighbour's cache.
    _other: Agent,
}

/// What must not change.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    room: Vec<u64>,
    /// Of the group, its parent and the neighbour.
    events: Vec<Vec<u64>>,
    /// `some total`, in microseconds, likewise.
    pressure: Vec<u64>,
    limits: Vec<String>,
    /// What was reclaimed from the neighbour; v1 does not tell.
    stolen: u64,
}

impl Scene {
    fn new(bench: &Bench<'_>) -> Result<Self> {
        Self::prepared(bench, |_| Ok(()))
    }

    /// After something was done to the group of the connection, before there is one.
    fn prepared(bench: &Bench<'_>, prepare: impl FnOnce(&Group) -> Result<()>) -> Result<Self> {
        let parent = bench.group("parent")?;
        parent.delegate_memory()?;
        let (job, neighbour) = (bench.group("parent/job")?, bench.group("parent/neighbour")?);
        prepare(&job)?;
        let (mut talker, mut reader) = (bench.agent(&job, "talker")?, bench.agent(&job, "reader")?);
        let mut other = bench.agent(&neighbour, "other")?;
        cache(bench, &mut other, 1, FULL)?;
        reuse(bench, &mut other, 1, FULL)?;
        cache(bench, &mut reader, 0, FULL)?;
        talker.ask("connect")?;
        let mut scene = Self { parent, job, neighbour, talker, reader, _other: other };
        // Its window opens as it talks.
        let mut before = Vec::new();
        for _ in 0..50 {
            ensure!(scene.talk()? > 0, "nothing goes through");
            let room = scene.room()?;
            if room == before {
                return Ok(scene);
            }
            before = room;
        }
        anyhow::bail!("the window does not settle: {before:?}")
    }

    fn groups(&self) -> [&Group; 3] {
        [&self.job, &self.parent, &self.neighbour]
    }

    fn talk(&mut self) -> Result<u64> {
        self.talker.number(&format!("talk {}", TALK.as_millis()))
    }

    fn room(&mut self) -> Result<Vec<u64>> {
        self.talker.numbers("room")
    }

    fn rest(&mut self) -> Result<Rest> {
        let v2 = self.job.read("memory.events").is_ok();
        let events = |group: &Group| -> Result<Vec<u64>> {
            match v2 {
                true => EVENTS.iter().map(|key| group.event(key)).collect(),
                false => Ok(vec![group.max_events()?, group.oom_kills()?]),
            }
        };
        let room = self.room()?;
        let groups = self.groups();
        Ok(Rest {
            room,
            events: groups.iter().map(|group| events(group)).collect::<Result<_>>()?,
            pressure: groups.iter().filter_map(|group| stalled(group)).collect(),
            limits: groups.iter().map(|group| group.limits()).collect(),
            stolen: if v2 { self.neighbour.stat("pgsteal")? } else { 0 },
        })
    }

    /// Talks all the while until it is small; how often, and how fast in comparison with before.
    fn until_small(
        &mut self,
        bench: &Bench<'_>,
        mut done: impl FnMut(&Group) -> Result<bool>,
    ) -> Result<String> {
        let (before, usage, spared) = (self.rest()?, self.job.usage()?, self.neighbour.usage()?);
        let (alone, mut rounds, mut beside) = (self.talk()?, 0, 0);
        let begin = Instant::now();
        while !done(&self.job)? {
            beside += self.talk()?;
            rounds += 1;
            let still = self.job.usage()?;
            ensure!(begin.elapsed() < bench.patience(), "it does not end; usage {}", mib(still));
        }
        let took = begin.elapsed();
        ensure!(rounds > 0, "it was over before anybody could talk");
        ensure!(self.talk()? > 0, "nothing goes through any more");
        let (after, now) = (self.rest()?, self.job.usage()?);
        ensure!(now + FULL / 10 <= usage, "nothing was taken: {} of {}", mib(now), mib(usage));
        let changed = differences(&before, &after);
        ensure!(changed.is_empty(), "{changed}");
        let kept = self.neighbour.usage()?;
        // Counters of processors lag behind by some pages.
        ensure!(kept + MIB / 2 >= spared, "of the neighbour's {} {} are left", mib(spared), mib(kept));
        Ok(format!(
            "{} to {} in {took:.1?}; {rounds} times talked, {} a time ({} before); room {:?} ({:?} before), {} us waited in all, neighbour {}",
            mib(usage),
            mib(now),
            mib(beside / rounds),
            mib(alone),
            after.room,
            before.room,
            after.pressure.iter().sum::<u64>(),
            mib(kept),
        ))
    }
}

/// `some total` of its `memory.pressure`; v1 and kernels without PSI have none.
fn stalled(group: &Group) -> Option<u64> {
    let text = group.read("memory.pressure").ok()?;
    text.lines().next()?.rsplit_once("total=")?.1.parse().ok()
}

fn differences(before: &Rest, after: &Rest) -> String {
    let named = ROOM.iter().zip(before.room.iter().zip(&after.room));
    // It may go on to grow: that it shrinks is what must not be.
    let room = named
        .filter(|(_, (then, now))| now < then)
        .map(|(what, (then, now))| format!("{what} {then} to {now}"));
    let rest = (before.events != after.events
        || before.pressure != after.pressure
        || before.limits != after.limits
        || before.stolen != after.stolen)
        .then(|| format!("{before:?}, then {after:?}"));
    room.chain(rest).collect::<Vec<_>>().join("; ")
}

/// A shrink in a process of its own.
struct Shrinking(Child);

impl Shrinking {
    fn is_over(&mut self) -> Result<bool> {
        match self.0.try_wait()? {
            None => Ok(false),
            Some(status) => {
                ensure!(status.success(), "shrink ended with {status}");
                Ok(true)
            }
        }
    }
}

impl Drop for Shrinking {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn shrink(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::new(bench)?;
    let target = format!("{}KiB", SMALL / 1024);
    let mut command = alone(bench, &[&scene.job.path(), "--to", &target]);
    let mut running: Option<Shrinking> = None;
    scene.until_small(bench, |_| match &mut running {
        None => {
            running =
                Some(Shrinking(command.stdout(Stdio::null()).spawn().context("starting memgov shrink")?));
            Ok(false)
        }
        Some(running) => running.is_over(),
    })
}

fn background(bench: &mut Bench<'_>) -> Result<String> {
    let share = if bench.host.patience > 1 { 60 } else { 20 };
    governed(
        bench,
        &format!(
            "over = \"{}B\"\nuntil = \"{SMALL}B\"\ndo = [{{ action = \"reclaim\", share = \"{share}%\" }}]",
            SMALL + MIB
        ),
        SMALL + MIB / 4,
    )
}

fn proactive(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    governed(
        bench,
        "over = \"8MiB\"\nuntil = \"8MiB\"\ndo = [{ action = \"reclaim\", pressure = \"0.1%\", share = \"60%\" }]",
        FULL * 9 / 10,
    )
}

fn governed(bench: &mut Bench<'_>, rule: &str, small: u64) -> Result<String> {
    let mut scene = Scene::new(bench)?;
    let rule = format!("[[rule]]\nname = \"small\"\ngroups = {:?}\n{rule}\n", scene.job.path());
    let mut daemon = None;
    scene.until_small(bench, |job| {
        if daemon.is_none() {
            daemon = Some(bench.quiet_daemon(&rule, &[])?);
            return Ok(false);
        }
        Ok(job.usage()? <= small)
    })
}

/// The measure itself: who meets a limit is seen, in the events of his group.
fn limited(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::new(bench)?;
    let before = scene.rest()?;
    scene.job.set_high(scene.job.usage()? / 2)?;
    let begin = Instant::now();
    loop {
        cache(bench, &mut scene.reader, 2, FULL / 4)?;
        scene.talk()?;
        let after = scene.rest()?;
        if after.events[0][1] > before.events[0][1] {
            return Ok(differences(&before, &after));
        }
        ensure!(begin.elapsed() < bench.patience(), "nothing is seen of it: {before:?}, then {after:?}");
    }
}

/// The measure itself: sockets that the kernel squeezes are seen. On v1 a group at its limit for TCP does that (`tcpmem_pressure` in mm/memcontrol.c); it is counted only
/// where a limit was written before there was a socket.
fn squeezed(bench: &mut Bench<'_>) -> Result<String> {
    const FILE: &str = "memory.kmem.tcp.limit_in_bytes";
    let mut scene = Scene::prepared(bench, |job| job.write(FILE, &(64 * MIB).to_string()))?;
    let before = scene.rest()?;
    // Only who has filled half of his window is held to it: so not all at once, which would let nothing through at all.
    let steps = [8192_u64, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 128];
    for limit in steps.map(|kib| kib << 10) {
        // EBUSY: more is held at the moment.
        let _ = scene.job.write(FILE, &limit.to_string());
        for _ in 0..5 {
            scene.talk()?;
            let seen = differences(&before, &scene.rest()?);
            if seen.contains("window threshold") {
                return Ok(format!("at {} KiB: {seen}", limit >> 10));
            }
        }
    }
    anyhow::bail!("nothing is seen of it: {before:?}, then {:?}", scene.rest()?)
}
