//! Proactive reclaim beside senpai's law on a real kernel: four groups do the same job at the same time, one of them left alone. Asked for by name.
//!
//! The job is a build in small: tools and headers are read for each unit, objects by a link every [`LINK`] units, each source once in a round of
//! [`SOURCES`] units, and a unit computes (sleeps) for [`COMPUTE`]. It has no pace: what reading takes longer it gets done less. All is read from a null block
//! device (drivers/block/null_blk) of its own, each request of which takes [`REQUEST`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::law::Senpai;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("kh_beside_senpai", beside_senpai)
            .needs(&[Need::CleanCache, Need::V2, Need::OwnMachine])
            .seconds(240),
    ]
}

/// Read for each unit.
const TOOLS: u64 = 12 * MIB;
/// Read by each link.
const OBJECTS: u64 = 8 * MIB;
/// Units from one link to the next.
const LINK: u64 = 16;
/// One of them a unit, ...
const SOURCES: u64 = 192;
/// ... of so many bytes.
const SOURCE: u64 = MIB / 8;
/// Of each unit.
const COMPUTE: Duration = Duration::from_millis(600);
/// What a request takes, of 128 KiB at the most as the kernel reads ahead.
const REQUEST: Duration = Duration::from_micros(250);
/// All that is read.
const LOOKED_AFTER: u64 = TOOLS + OBJECTS + SOURCES * SOURCE;
/// In all, ...
const TIME: Duration = Duration::from_secs(600);
/// ... and this is what counts at its end.
const COUNTED: Duration = Duration::from_secs(150);

/// Who governs a group, as it is called here.
const LAWS: [&str; 4] = ["nobody", "memgov at 0.1 %", "memgov at 0.17 %", "senpai"];

/// A group that works.
struct Job {
    group: Group,
    agent: Agent,
    /// Where its files begin on the device.
    base: u64,
}

/// One look at it.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: Duration,
    usage: u64,
    /// Done so far.
    units: u64,
    /// Time that it took to read, nanoseconds.
    reading: u64,
    /// `some total`, microseconds.
    stalled: u64,
    refaults: u64,
}

impl Job {
    fn new(bench: &Bench<'_>, number: u64) -> Result<Self> {
        let group = bench.group(&format!("job{number}"))?;
        let agent = bench.agent(&group, "builder")?;
        Ok(Self { group, agent, base: number << 30 })
    }

    fn read(&mut self, device: &Path, verb: &str, at: u64, bytes: u64) -> Result<u64> {
        self.agent.number(&format!("{verb} {} {} {bytes}", device.display(), self.base + at))
    }

    /// Everything once, so that it is this group's.
    fn begin(&mut self, device: &Path) -> Result<()> {
        self.read(device, "cache", 0, TOOLS + OBJECTS + SOURCES * SOURCE)?;
        self.read(device, "use", 0, TOOLS + OBJECTS).map(|_| ())
    }

    fn unit(&mut self, device: &Path, number: u64) -> Result<u64> {
        let mut took = self.read(device, "use", 0, TOOLS)?;
        took += self.read(device, "use", TOOLS + OBJECTS + number % SOURCES * SOURCE, SOURCE)?;
        if number % LINK == LINK - 1 {
            took += self.read(device, "use", TOOLS, OBJECTS)?;
        }
        std::thread::sleep(COMPUTE);
        Ok(took)
    }

    /// Works to the end; a look after each unit.
    fn work(&mut self, device: &Path, begin: Instant) -> Result<Vec<Look>> {
        let mut looks = Vec::new();
        let (mut units, mut reading) = (0, 0);
        while begin.elapsed() < TIME {
            reading += self.unit(device, units)?;
            units += 1;
            looks.push(Look {
                at: begin.elapsed(),
                usage: self.group.usage()?,
                units,
                reading,
                stalled: stalled(&self.group)?,
                refaults: self.group.stat("workingset_refault_file")?,
            });
        }
        Ok(looks)
    }
}

/// `some total` of its `memory.pressure`.
pub fn stalled(group: &Group) -> Result<u64> {
    let text = group.read("memory.pressure")?;
    let total = text.lines().next().and_then(|line| line.rsplit_once("total="));
    total.and_then(|(_, total)| total.parse().ok()).with_context(|| format!("no total in {text:?}"))
}

/// What came of one law.
#[derive(Debug)]
struct Came {
    mean: u64,
    lowest: u64,
    highest: u64,
    /// Units a hundred seconds.
    done: u64,
    /// Microseconds of reading a unit.
    reading: u64,
    /// Millionths of the time.
    stalled: u64,
    /// A hundred seconds.
    refaults: u64,
    /// Seconds after which usage is never more than a tenth over the mean.
    settled: u64,
}

impl Came {
    fn of(looks: &[Look]) -> Result<Self> {
        let counted: Vec<Look> = looks.iter().filter(|look| look.at + COUNTED >= TIME).copied().collect();
        let (first, last) = counted.first().zip(counted.last()).context("no work was done")?;
        let usage = || counted.iter().map(|look| look.usage);
        let mean = usage().sum::<u64>() / counted.len() as u64;
        let millis = u64::try_from((last.at - first.at).as_millis())?.max(1);
        let units = (last.units - first.units).max(1);
        let over = looks.iter().rfind(|look| look.usage > mean + mean / 10);
        Ok(Self {
            mean,
            lowest: usage().min().unwrap_or(0),
            highest: usage().max().unwrap_or(0),
            done: units * 100_000 / millis,
            reading: (last.reading - first.reading) / 1000 / units,
            stalled: (last.stalled - first.stalled) * 1000 / millis,
            refaults: (last.refaults - first.refaults) * 100_000 / millis,
            settled: over.map_or(0, |look| look.at.as_secs()),
        })
    }
}

/// A null block device that takes its time, made through configfs (Documentation/block/null_blk.rst) and removed with this.
struct Device {
    at: PathBuf,
    node: PathBuf,
}

impl Device {
    fn new() -> Result<Self> {
        const CONFIG: &str = "/sys/kernel/config";
        let all = Path::new(CONFIG).join("nullb");
        if !all.exists() {
            rustix::mount::mount("none", CONFIG, "configfs", rustix::mount::MountFlags::empty(), None)
                .map_err(|errno| anyhow!("mounting configfs: {errno}"))?;
        }
        let mut device = Self { at: all.join("nullbslow"), node: PathBuf::from("/dev/nullbslow") };
        std::fs::create_dir(&device.at).with_context(|| format!("making {}", device.at.display()))?;
        let request = REQUEST.as_nanos().to_string();
        // A timer completes each request; 64 GiB.
        let settings = [("irqmode", "2"), ("completion_nsec", &request), ("size", "65536"), ("power", "1")];
        for (key, value) in settings {
            std::fs::write(device.at.join(key), value).with_context(|| format!("{key} of a null device"))?;
        }
        if !device.node.exists() {
            // Older kernels name it by its number.
            let index = std::fs::read_to_string(device.at.join("index"))?;
            device.node = PathBuf::from(format!("/dev/nullb{}", index.trim()));
        }
        ensure!(device.node.exists(), "there is no {}", device.node.display());
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Its readers may still be there; the machine ends with the run.
        let _busy = std::fs::remove_dir(&self.at);
    }
}

fn rules(jobs: &[Job]) -> String {
    let rule = |job: &Job, name: &str, pressure: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\ngroups = {:?}\nover = \"4MiB\"\nuntil = \"4MiB\"\n\
             do = [{{ action = \"reclaim\", pressure = \"{pressure}\" }}]\n",
            job.group.path()
        )
    };
    rule(&jobs[1], "tenth", "0.1%") + &rule(&jobs[2], "as-senpai", "0.17%")
}

fn beside_senpai(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 3;
    let device = Device::new()?;
    let mut jobs = (0..4).map(|number| Job::new(bench, number)).collect::<Result<Vec<_>>>()?;
    for job in &mut jobs {
        job.begin(&device.node)?;
    }
    let _daemon = bench.quiet_daemon(&rules(&jobs), &[])?;
    let mut senpai = Senpai::new(&jobs[3].group)?;
    let (begin, over) = (Instant::now(), AtomicBool::new(false));
    let looks = std::thread::scope(|scope| {
        let law = scope.spawn(|| senpai.run(|| over.load(Ordering::Relaxed)));
        let at_work: Vec<_> = jobs
            .iter_mut()
            .map(|job| {
                let node = &device.node;
                scope.spawn(move || job.work(node, begin))
            })
            .collect();
        let gone = || anyhow!("a thread of the test panicked");
        let looks: Vec<Result<Vec<Look>>> =
            at_work.into_iter().map(|thread| thread.join().map_err(|_| gone())?).collect();
        over.store(true, Ordering::Relaxed);
        law.join().map_err(|_| gone())??;
        looks.into_iter().collect::<Result<Vec<_>>>()
    })?;
    plot(&looks);
    let results = looks.iter().map(|looks| Came::of(looks)).collect::<Result<Vec<_>>>()?;
    let told = table(&results);
    better(&results[1], &results[3]).with_context(|| told.clone())?;
    Ok(told)
}

/// At least as much saved for no more lost than can be told apart (a unit of those done in a hundred seconds or two), settled sooner, and steadier than it or within an
/// eighth.
fn better(ours: &Came, theirs: &Came) -> Result<()> {
    ensure!(ours.mean <= theirs.mean, "senpai saves more");
    ensure!(ours.done + 2 >= theirs.done, "senpai costs less");
    // Who is back where it began has not settled.
    let sank = theirs.mean + theirs.mean / 10 < LOOKED_AFTER;
    ensure!(!sank || ours.settled < theirs.settled, "senpai settles sooner");
    let width = |came: &Came| came.highest - came.lowest;
    ensure!(width(ours) <= width(theirs).max(ours.mean / 8), "senpai is steadier");
    Ok(())
}

/// Usage over time, to be drawn.
fn plot(looks: &[Vec<Look>]) {
    println!("seconds,{}", LAWS.join(","));
    for second in (0..TIME.as_secs()).step_by(5) {
        let usage = looks.iter().map(|looks| {
            let then = looks.iter().rfind(|look| look.at.as_secs() <= second);
            then.map_or(String::new(), |look| format!("{:.1}", look.usage as f64 / MIB as f64))
        });
        println!("{second},{}", usage.collect::<Vec<_>>().join(","));
    }
}

fn table(results: &[Came]) -> String {
    let rows = LAWS.iter().zip(results).map(|(law, result)| {
        format!(
            "{law}: {} ({} to {}), {} units and {} refaults in 100 s, {} us of reading a unit, {} ppm stalled, settled after {} s",
            mib(result.mean),
            mib(result.lowest),
            mib(result.highest),
            result.done,
            result.refaults,
            result.reading,
            result.stalled,
            result.settled,
        )
    });
    rows.collect::<Vec<_>>().join("\n")
}
