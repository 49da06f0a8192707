//! JW 6 with real peers: what iperf3 sends and gets and curl has from nginx goes on through a squeeze over links with a delay, at which a window is
//! worth hundreds of times what it is over loopback; and a neighbour over a link of his own is none the worse. A link lets less pass than the processor could carry, so
//! that it is the link and the windows that are measured; and speeds are compared with those of the same connections some seconds before and after, squeezed and not in turns.

use std::io::Read as _;
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::{counting_daemon, most, rule};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::peers::{Hash, Link, Peer, Side, curl, iperf_client, iperf_server, large_file, nginx};
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, mib, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Peers]);
    vec![
        test("jw_06_curl_has_it_all_through_a_squeeze", download),
        test("jw_06_iperf3_at_100_ms_and_a_neighbour", |bench| iperf(bench, Duration::from_millis(100))),
        test("jw_06_iperf3_at_300_ms_and_a_neighbour", |bench| iperf(bench, Duration::from_millis(300))),
        test("jw_06_slow_readers_hold_no_more", slow_readers),
    ]
}

/// Over this the job is squeezed, and under that it is not.
const LINE: u64 = 8 * MIB;
const FREE: u64 = 4096 * MIB;
/// Until windows are as large as they get.
const WARM: Duration = Duration::from_secs(4);
/// What a change of the rule takes to be felt at the other end of the link.
const SETTLED: Duration = Duration::from_millis(600);
/// Then speed is measured for so long.
const HALF: Duration = Duration::from_secs(2);

/// A job with a flood in it, which is over the line at rest, and a rule whose line is moved over and under that.
struct Stage<'b> {
    bench: &'b Bench<'b>,
    job: Group,
    daemon: Daemon,
    _flooder: Agent,
}

impl<'b> Stage<'b> {
    fn new(bench: &'b Bench<'b>) -> Result<Self> {
        loopback_up()?;
        let job = bench.group("job")?;
        let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", FREE, "\"squeeze\""))?;
        let mut flooder = bench.agent(&job, "flooder")?;
        flooder.ask("flood 8")?;
        let over = poll_until(bench.patience(), Duration::from_millis(50), || {
            job.sockets().ok().filter(|held| *held > 2 * LINE)
        });
        over.with_context(|| format!("the flood holds {}", mib(job.sockets().unwrap_or(0))))?;
        Ok(Self { bench, job, daemon, _flooder: flooder })
    }

    /// Squeezed from now on, or not any more: each TCP socket of these.
    fn squeeze(&self, on: bool, peers: &[&Peer]) -> Result<()> {
        let line = if on { LINE } else { FREE };
        std::fs::write(self.daemon.config(), rule(&self.job, "sockets", line, "\"squeeze\""))?;
        self.daemon.ok(&["reload"])?;
        for peer in peers {
            // Looked at seldom: each look takes a processor from what is measured next.
            let done = poll_until(self.bench.patience(), Duration::from_millis(150), || {
                let bounds = peer.bounds().ok().filter(|all| !all.is_empty())?;
                bounds.iter().all(|bounds| (bounds.locks != 0) == on).then_some(())
            });
            done.with_context(|| {
                let wrong = anyhow!("squeezed, expected {on}: {:?}", peer.bounds());
                self.daemon.explain(wrong)
            })?;
        }
        Ok(())
    }

    /// Bytes a second of each of these, free and squeezed in turns: the medians.
    fn in_turns(&self, turns: usize, peers: &[&Peer], counters: &[Counter<'_>]) -> Result<Vec<Speeds>> {
        let mut speeds = vec![[Vec::new(), Vec::new()]; counters.len()];
        for turn in 0..turns * 2 {
            let on = turn % 2 == 1;
            self.squeeze(on, peers)?;
            std::thread::sleep(SETTLED);
            let look = || -> Result<Vec<(u64, Instant)>> {
                counters.iter().map(|counter| Ok((counter()?, Instant::now()))).collect()
            };
            let before = look()?;
            std::thread::sleep(HALF);
            let after = look()?;
            for ((before, after), speeds) in before.iter().zip(&after).zip(&mut speeds) {
                let micros = u64::try_from((after.1 - before.1).as_micros())?;
                speeds[usize::from(on)].push((after.0 - before.0) * 1_000_000 / micros);
            }
        }
        Ok(speeds
            .into_iter()
            .map(|[free, squeezed]| Speeds { free: median(free), squeezed: median(squeezed) })
            .collect())
    }
}

/// Bytes so far.
type Counter<'c> = &'c dyn Fn() -> Result<u64>;

/// Bytes a second.
#[derive(Clone, Copy)]
struct Speeds {
    free: u64,
    squeezed: u64,
}

impl Speeds {
    fn shown(self) -> String {
        format!("{} KiB/s free and {} squeezed", self.free >> 10, self.squeezed >> 10)
    }

    /// So much is under way that a window of 64 KiB, which no buffer goes under, would be seen as less than half of the speed.
    fn is_large(self, link: &Link) -> Result<()> {
        let under_way = self.free * u64::try_from(link.round_trip.as_millis())? / 1000;
        ensure!(under_way >= 2 * (64 << 10), "{under_way} bytes under way: {}", self.shown());
        Ok(())
    }
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// Two programs of the job, of which one sends over a link and one is sent to over another, and a neighbour, who sends.
fn iperf(bench: &mut Bench<'_>, round_trip: Duration) -> Result<String> {
    let stage = Stage::new(bench)?;
    let (neighbour, beyond) = (bench.group("neighbour")?, bench.group("beyond")?);
    let links = [Link::new(round_trip)?, Link::new(round_trip)?, Link::new(round_trip)?];
    let serve = |link: &Link| link.serve(Side::Far, &beyond, iperf_server(), bench.patience());
    let servers = [serve(&links[0])?, serve(&links[1])?, serve(&links[2])?];
    let sender = links[0].start(Side::Near, &stage.job, iperf_client(&[]))?;
    let receiver = links[1].start(Side::Near, &stage.job, iperf_client(&["-R"]))?;
    let other = links[2].start(Side::Near, &neighbour, iperf_client(&[]))?;
    std::thread::sleep(WARM);
    let counters: [Counter<'_>; 3] =
        [&|| servers[0].received(), &|| receiver.received(), &|| servers[2].received()];
    let speeds = stage.in_turns(5, &[&sender, &receiver], &counters)?;
    ensure!(other.bounds()?.iter().all(|bounds| bounds.locks == 0), "the neighbour is squeezed");
    let (sent, got, beside) = (speeds[0], speeds[1], speeds[2]);
    for (who, speeds) in [("sender", sent), ("receiver", got)] {
        speeds.is_large(&links[0]).context(who)?;
        ensure!(speeds.squeezed >= speeds.free / 2, "the {who} has {}", speeds.shown());
    }
    beside.is_large(&links[2]).context("neighbour")?;
    ensure!(beside.squeezed >= beside.free * 95 / 100, "the neighbour has {}", beside.shown());
    Ok(format!("sender {}, receiver {}, neighbour {}", sent.shown(), got.shown(), beside.shown()))
}

/// A program whose output is read and hashed.
struct Reading {
    peer: Peer,
    bytes: Arc<AtomicU64>,
    hash: JoinHandle<Result<String>>,
}

impl Reading {
    fn start(mut peer: Peer) -> Result<Self> {
        let (output, bytes) = (peer.output()?, Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&bytes);
        let hash = std::thread::spawn(move || hash_of(output, &counted));
        Ok(Self { peer, bytes, hash })
    }

    fn bytes(&self) -> Result<u64> {
        Ok(self.bytes.load(Ordering::Relaxed))
    }
}

fn hash_of(mut output: ChildStdout, counted: &AtomicU64) -> Result<String> {
    let (mut hash, mut piece) = (Hash::new()?, vec![0; 64 << 10]);
    loop {
        match output.read(&mut piece)? {
            0 => return hash.end(),
            count => {
                hash.add(&piece[..count])?;
                counted.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
}

/// What two downloads are of: at its full speed a link has it over when the turns are.
const SIZE: u64 = 64 * MIB;

/// Downloads over a short and a long way come out of it whole, and with more than half of their speed.
fn download(bench: &mut Bench<'_>) -> Result<String> {
    let stage = Stage::new(bench)?;
    let beyond = bench.group("beyond")?;
    let links = [Link::new(Duration::from_millis(100))?, Link::new(Duration::from_millis(300))?];
    let sha256 = large_file(&bench.dir.join("large"), SIZE / MIB)?;
    let mut servers = Vec::new();
    for (link, name) in links.iter().zip(["near", "far"]) {
        let dir = bench.dir.join(name);
        std::fs::create_dir(&dir)?;
        std::os::unix::fs::symlink(bench.dir.join("large"), dir.join("large"))?;
        servers.push(link.serve(Side::Far, &beyond, nginx(&dir)?, bench.patience())?);
    }
    let start = |link: &Link| Reading::start(link.start(Side::Near, &stage.job, curl("large", &[]))?);
    let mut readings = [start(&links[0])?, start(&links[1])?];
    std::thread::sleep(WARM);
    let [near, far] = &readings;
    let counters: [Counter<'_>; 2] = [&|| near.bytes(), &|| far.bytes()];
    let speeds = stage.in_turns(3, &[&near.peer, &far.peer], &counters)?;
    let all_along = near.bytes()?.max(far.bytes()?) < SIZE;
    ensure!(all_along, "a download was over before the last turn: {} {}", near.bytes()?, far.bytes()?);
    for (link, speeds) in links.iter().zip(&speeds) {
        speeds.is_large(link)?;
        ensure!(speeds.squeezed >= speeds.free / 2, "at {:?}: {}", link.round_trip, speeds.shown());
    }
    let patience = bench.patience();
    for reading in &mut readings {
        let well = poll_until(patience, Duration::from_millis(20), || reading.peer.ended_well());
        ensure!(well == Some(true), "curl has ended well: {well:?}, with {} of {SIZE}", reading.bytes()?);
    }
    for Reading { bytes, hash, .. } in readings {
        let hash = hash.join().map_err(|_| anyhow!("the reader panicked"))??;
        ensure!(hash == sha256, "{} bytes of {SIZE} with another sha256", bytes.load(Ordering::Relaxed));
    }
    Ok(format!("at 100 ms {}, at 300 ms {}, twice {} whole", speeds[0].shown(), speeds[1].shown(), mib(SIZE)))
}

/// Four that read less than the link brings are given ever larger receive buffers, which are full most of the time. Squeezed they go on, with the buffers they have, and
/// hold no more than goes into those; let go the buffers grow again.
fn slow_readers(bench: &mut Bench<'_>) -> Result<String> {
    const RATE: u64 = 200 << 10;
    let stage = Stage::new(bench)?;
    let beyond = bench.group("beyond")?;
    let link = Link::new(Duration::from_millis(100))?;
    let dir = bench.dir.join("nginx");
    std::fs::create_dir(&dir)?;
    std::fs::File::create(dir.join("large"))?.set_len(1024 * MIB)?;
    let _server = link.serve(Side::Far, &beyond, nginx(&dir)?, bench.patience())?;
    let slow = ["--limit-rate", &RATE.to_string()];
    let start = || Reading::start(link.start(Side::Near, &stage.job, curl("large", &slow))?);
    let readings = [start()?, start()?, start()?, start()?];
    let peers: Vec<&Peer> = readings.iter().map(|reading| &reading.peer).collect();
    std::thread::sleep(WARM);
    stage.squeeze(true, &peers)?;
    let buffers = || -> Result<u64> {
        let of = |peer: &&Peer| Ok(peer.bounds()?.iter().map(|it| u64::from(it.buffers[0])).sum::<u64>());
        peers.iter().map(of).sum()
    };
    let unread = || peers.iter().map(|peer| peer.unread()).sum::<Result<u64>>();
    let read = || readings.iter().map(Reading::bytes).sum::<Result<u64>>();
    let (room, before) = (buffers()?, read()?);
    let begin = Instant::now();
    let held = most(Duration::from_secs(10), &unread)?;
    let (came, took) = (read()? - before, begin.elapsed().as_secs());
    // A segment that finds any room is let in whole.
    ensure!(held <= room + 4 * (128 << 10), "{} in buffers of {}", mib(held), mib(room));
    ensure!(buffers()? <= room, "buffers of {} have grown to {}", mib(room), mib(buffers()?));
    ensure!(came >= 4 * RATE * took / 2, "they have read {} in {took} s", mib(came));
    stage.squeeze(false, &peers)?;
    let grown = poll_until(bench.patience(), Duration::from_millis(100), || {
        buffers().ok().filter(|now| *now > room + room / 4)
    });
    let grown =
        grown.with_context(|| format!("let go the buffers are {} of {room}", buffers().unwrap_or(0)))?;
    Ok(format!(
        "squeezed at most {} in buffers of {}, {} read meanwhile; let go buffers of {}",
        mib(held),
        mib(room),
        mib(came),
        mib(grown)
    ))
}
