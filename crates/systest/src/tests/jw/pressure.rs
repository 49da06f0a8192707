//! JW 3, 5 and 7: what squeezes is that somebody waits for want of memory, of his own group's or of one above it; not that a group below is short, nor that files are read or memory is
//! taken beforehand.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, mib, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::CleanCache, Need::Psi]).seconds(60);
    vec![
        test("jw_03_pressure_squeezes_and_its_end_lets_go", squeezes),
        test("jw_05_pressure_below_leaves_others_alone", below),
        test("jw_05_pressure_above_squeezes_those_below", above),
        test("jw_07_reading_files_squeezes_nobody", files),
        test("jw_07_what_is_taken_beforehand_squeezes_nobody", beforehand).needs(&[
            Need::CleanCache,
            Need::Psi,
            Need::V2,
        ]),
    ]
}

/// An emulated machine waits little: its processor is the slower part.
const SHARE: &str = "5%";
/// The limit of whoever is to be short.
const LIMIT: u64 = 64 * MIB;
/// A few connections that need next to nothing.
const FEW: &str = "flood 8 16";
/// Both ends of each.
const ENDS: u64 = 16;

fn rule(group: &Group) -> String {
    let path = group.path();
    format!(
        "[[rule]]\nname = {path:?}\ngroups = {path:?}\nmeter = \"pressure\"\nover = \"{SHARE}\"\ndo = [\"squeeze\"]\n"
    )
}

/// How long some task of a group has waited for memory, in microseconds.
fn waited(bench: &Bench<'_>, group: &Group) -> Result<u64> {
    let path = group.path();
    let below = path.trim_start_matches('/');
    let files = std::iter::once(&bench.host.memory).chain(&bench.host.others);
    let text = files
        .filter_map(|mount| std::fs::read_to_string(mount.join(below).join("memory.pressure")).ok())
        .next();
    let text = text.context("no memory.pressure of this group in any hierarchy")?;
    let total = text.lines().next().and_then(|line| line.rsplit_once("total=")).context("no total")?;
    Ok(total.1.parse()?)
}

/// Reads files without an end through what room there is.
fn read_on(bench: &Bench<'_>, group: &Group) -> Result<Agent> {
    let file = bench.host.clean_cache.clone().map_err(anyhow::Error::msg)?;
    let mut reader = bench.agent(group, "reader")?;
    reader.say(&format!("cache {} 0 {}", file.display(), crate::harness::host::CACHE_SIZE))?;
    Ok(reader)
}

/// A group of which most is in use by a program, and whose rest is fought for.
struct Short {
    hog: Agent,
    _reader: Agent,
}

impl Short {
    /// In this group, by the limit of itself or of one above it.
    fn begin(bench: &Bench<'_>, group: &Group, limited: &Group) -> Result<Self> {
        limited.set_max(LIMIT)?;
        let mut hog = bench.agent(group, "hog")?;
        hog.take("anon", LIMIT - 10 * MIB)?;
        Ok(Self { hog, _reader: read_on(bench, group)? })
    }
}

fn bounded(bench: &Bench<'_>, daemon: &Daemon, flooder: &mut Agent, sockets: u64) -> Result<Duration> {
    let begin = Instant::now();
    let all = poll_until(bench.patience(), Duration::from_millis(5), || {
        flooder.numbers("bounds").ok().filter(|bounds| bounds[0] == sockets).map(|_| begin.elapsed())
    });
    all.with_context(|| {
        daemon.explain(anyhow!("not {sockets} are squeezed: {:?}", flooder.numbers("bounds")))
    })
}

fn none_is(daemon: &Daemon, flooder: &mut Agent) -> Result<()> {
    let bounds = flooder.numbers("bounds")?;
    ensure!(bounds == [0, 0], "{}", daemon.explain(anyhow!("{} are squeezed", bounds[0])));
    Ok(())
}

/// So long nobody is squeezed, though somebody waits; gives the part of the time, in thousandths.
fn nobody(bench: &Bench<'_>, daemon: &Daemon, flooder: &mut Agent, watched: &Group) -> Result<u64> {
    let during = Duration::from_secs(5);
    let (begin, before) = (Instant::now(), waited(bench, watched)?);
    while begin.elapsed() < during {
        none_is(daemon, flooder)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((waited(bench, watched)? - before) * 1000 / u64::try_from(begin.elapsed().as_micros())?)
}

/// A group with a few connections, that is short of nothing.
fn at_rest(bench: &Bench<'_>) -> Result<(Group, Daemon, Agent)> {
    loopback_up()?;
    let job = bench.group("job")?;
    let daemon = bench.daemon(&rule(&job))?;
    let mut flooder = bench.agent(&job, "flooder")?;
    flooder.ask(FEW)?;
    Ok((job, daemon, flooder))
}

fn squeezes(bench: &mut Bench<'_>) -> Result<String> {
    let (job, daemon, mut flooder) = at_rest(bench)?;
    none_is(&daemon, &mut flooder)?;
    let mut short = Short::begin(bench, &job, &job)?;
    let after = bounded(bench, &daemon, &mut flooder, ENDS)?;
    let path = job.path();
    let event = daemon.event("squeeze-begin", bench.patience(), |event| {
        event.order == "squeeze-begin" && event.is_of_group(&path)
    })?;
    short.hog.ask(&format!("shrink {MIB}"))?;
    let free = bounded(bench, &daemon, &mut flooder, 0)?;
    // A window of half a second, a look and a second for which it is kept.
    ensure!(free <= Duration::from_secs(3) * bench.host.patience, "let go {free:?} after the last of it");
    Ok(format!("{after:.1?} after it began, let go {free:.1?} after its end; {event}"))
}

/// The whole tree waits while one group in it is short, and only that one is squeezed.
fn below(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let top = bench.group("top")?;
    top.delegate_memory()?;
    let (inner, beside) = (bench.group("top/inner")?, bench.group("top/beside")?);
    let daemon = bench.daemon(&(rule(&top) + &rule(&inner) + &rule(&beside)))?;
    let (mut own, mut others) = (bench.agent(&inner, "own")?, bench.agent(&beside, "others")?);
    own.ask(FEW)?;
    others.ask(FEW)?;
    let _short = Short::begin(bench, &inner, &inner)?;
    bounded(bench, &daemon, &mut own, ENDS)?;
    let share = nobody(bench, &daemon, &mut others, &top)?;
    ensure!(share > 50, "the tree waits for {share} thousandths of the time only: nothing is shown");
    bounded(bench, &daemon, &mut own, ENDS)?;
    Ok(format!("the tree waited for {share} thousandths of the time"))
}

/// A limit around the group is met: it is short as well.
fn above(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let top = bench.group("top")?;
    top.delegate_memory()?;
    let (inner, beside) = (bench.group("top/inner")?, bench.group("top/beside")?);
    let daemon = bench.daemon(&rule(&top))?;
    let mut flooder = bench.agent(&inner, "flooder")?;
    flooder.ask(FEW)?;
    let _short = Short::begin(bench, &beside, &top)?;
    let after = bounded(bench, &daemon, &mut flooder, ENDS)?;
    Ok(format!("{after:.1?} after it began"))
}

/// Files are read at full speed through a group that is full of them: it waits for reclaim and misses nothing.
fn files(bench: &mut Bench<'_>) -> Result<String> {
    let (job, daemon, mut flooder) = at_rest(bench)?;
    job.set_max(LIMIT)?;
    let before = job.max_events()?;
    let _reader = read_on(bench, &job)?;
    let share = nobody(bench, &daemon, &mut flooder, &job)?;
    let met = job.max_events()? - before;
    ensure!(met > 100, "the limit was met {met} times only: nothing is shown");
    Ok(format!("limit met {met} times, waited for {share} thousandths of the time"))
}

/// What memgov itself takes beforehand is no shortage, however far it goes.
fn beforehand(bench: &mut Bench<'_>) -> Result<String> {
    let (job, daemon, mut flooder) = at_rest(bench)?;
    let file = bench.host.clean_cache.clone().map_err(anyhow::Error::msg)?;
    let mut reader = bench.agent(&job, "reader")?;
    let mut shrunk = 0;
    for _ in 0..8 {
        reader.ask(&format!("use {} 0 {}", file.display(), LIMIT))?;
        let before = job.usage()?;
        daemon.ok(&["shrink", &job.path(), "--by", "48MiB"])?;
        shrunk += before.saturating_sub(job.usage()?);
        none_is(&daemon, &mut flooder)?;
    }
    ensure!(shrunk > 4 * LIMIT, "only {} were taken: nothing is shown", mib(shrunk));
    let share = nobody(bench, &daemon, &mut flooder, &job)?;
    Ok(format!("{} taken, then waited for {share} thousandths of the time", mib(shrunk)))
}
