//! WL 6: an allocator that reclaim cannot keep up with is OOM-killed without memgov, and slowed down with it. The high is
//! memgov's own here on every kernel: above the kernel's, the kernel itself throttles a hog so much that it never gets to
//! the limit, and nothing would be shown of memgov. A second test has the kernel's high in force as well.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, CLIMIT, HIGH, Rig, virtual_high, word};
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, mib};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_06_unmitigated_is_oom_killed", unmitigated),
        Test::new("wl_06_slow_keeps_under_the_limit", slowed).needs(&[Need::Freezer]).seconds(120),
        Test::new("wl_06_slow_group_rule", by_rule).needs(&[Need::Freezer]).seconds(60),
        Test::new("wl_06_slow_with_the_kernels_high", with_kernel_high)
            .needs(&[Need::V2, Need::Freezer])
            .seconds(60),
    ]
}

const MAX: u64 = 200 * MIB;
/// 64 KiB filled by one call each millisecond: no stop can come in the middle of much.
const STEP: u64 = 64 << 10;
const INTERVAL: Duration = Duration::from_millis(1);

/// The criterion's 60 s on one kernel; elsewhere enough to be killed many times over.
fn watched_for(bench: &Bench<'_>) -> Duration {
    Duration::from_secs(if bench.host.target == "6.12-v2" { 60 } else { 12 })
}

fn start(hog: &mut Agent) -> Result<()> {
    hog.grow("populate", STEP, INTERVAL, u64::MAX)
}

fn unmitigated(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.set_max(MAX)?;
    let mut hog = bench.agent(&job, "hog")?;
    start(&mut hog)?;
    let (_, signal) = hog.wait_for_end(bench.patience() * 2)?;
    let kills = job.oom_kills()?;
    ensure!(
        signal == libc::SIGKILL && kills >= 1,
        "expected an OOM kill, got signal {signal}, oom_kill {kills}"
    );
    Ok(format!("oom_kill {kills}"))
}

/// How fast the hog grows before the line, and once it is held: bytes a second.
struct Rates {
    before: u64,
    after: u64,
}

/// Lets the hog run into the line, waits for the slowdown, and watches.
fn watch(bench: &Bench<'_>, rig: &mut Rig, during: Duration) -> Result<Rates> {
    let (from, begin) = (rig.job.usage()?, crate::sys::now());
    let crossing = rig.crossing(bench)?;
    start(&mut rig.hog)?;
    let crossed = crossing.wait()?;
    let before = per_second(crossed.usage - from, crossed.at - begin);
    rig.daemon.event("slow-begin", bench.patience(), |event| event.order == "slow-begin")?;
    // A second to settle: the share is found by feedback.
    std::thread::sleep(Duration::from_secs(1));
    let (from, begin) = (rig.job.usage()?, crate::sys::now());
    std::thread::sleep(during);
    let after = per_second(rig.job.usage()?.saturating_sub(from), crate::sys::now() - begin);
    Ok(Rates { before, after })
}

fn per_second(bytes: u64, nanos: u64) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1))).unwrap_or(u64::MAX)
}

fn judge(rig: &Rig, rates: &Rates) -> Result<String> {
    let Rates { before, after } = *rates;
    let usage = rig.job.usage()?;
    let (max_events, kills) = (rig.job.max_events()?, rig.job.oom_kills()?);
    let log = || rig.daemon.log_tail();
    ensure!(kills == 0, "oom_kill: expected 0, got {kills}\n{}", log());
    ensure!(max_events == 0, "the limit was hit {max_events} times, expected 0\n{}", log());
    ensure!(usage < MAX, "usage {} is not under the limit {}", mib(usage), mib(MAX));
    ensure!(after * 10 <= before, "expected a tenth of {}/s or less, got {}/s", mib(before), mib(after));
    Ok(format!("{}/s before, {}/s slowed, usage {} at the end", mib(before), mib(after), mib(usage)))
}

fn slowed(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.set_max(MAX)?;
    let daemon = bench.daemon(&virtual_high(&job, HIGH))?;
    let hog = bench.agent(&job, "hog")?;
    let mut rig = Rig { job, daemon, hog };
    rig.daemon.set_memctl(rig.hog.pid, word::SLOW, CLIMIT, 0)?;
    let rates = watch(bench, &mut rig, watched_for(bench))?;
    judge(&rig, &rates)
}

fn group_rule(job: &Group) -> String {
    format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"usage\"\nover = \"high+8MiB\"\ndo = [{{ action = \"slow\", budget = \"120s\" }}]\n",
        job.path()
    )
}

fn by_rule(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.set_max(MAX)?;
    let daemon = bench.daemon(&(virtual_high(&job, HIGH) + &group_rule(&job)))?;
    let hog = bench.agent(&job, "hog")?;
    let mut rig = Rig { job, daemon, hog };
    let rates = watch(bench, &mut rig, Duration::from_secs(8))?;
    judge(&rig, &rates)
}

/// The kernel's high and memgov's slowdown at once: the hog must not get further than by either alone.
fn with_kernel_high(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::with_rules(bench, group_rule)?;
    rig.job.set_max(MAX)?;
    let rates = watch(bench, &mut rig, Duration::from_secs(8))?;
    judge(&rig, &rates)
}
