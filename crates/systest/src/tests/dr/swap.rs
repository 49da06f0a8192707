//! A machine that swaps. To zram: what is swapped out is in memory still, at its real size, and the machine runs out of that all the same. To a disk: it is gone, and there is the less of it the fuller
//! swap is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::{self, Watch, available, rule};
use super::jobs::Jobs;
use super::{expect_alive, expect_killed, job_killed, kernel_kills, only_one, told};
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::swap::Swap;
use crate::harness::zram::Zram;
use crate::harness::{MIB, meminfo, mib, poll_until, process};

pub fn tests() -> Vec<Test> {
    const OWN: &[Need] = &[Need::OwnMachine, Need::Zram];
    vec![
        Test::new("dr_zram_is_counted_at_its_real_size", real_size).needs(OWN).seconds(120),
        Test::new("dr_zram_decides_in_time_while_memory_is_eaten", in_time).needs(OWN).seconds(120),
        Test::new("dr_swap_on_a_disk_decides_in_time_while_memory_is_eaten", on_disk)
            .needs(&[Need::OwnMachine, Need::Disk])
            .seconds(120),
    ]
}

/// So much may be swapped out: more than the machine has.
const SIZE: u64 = 2048 * MIB;
/// What the job that swaps may have in memory.
const RESIDENT: u64 = 32 * MIB;

/// The least important job stands at its small limit and swaps all the rest, which does not compress: its usage stays what it is, swap fills up, and with it the machine. The host rule sees
/// that and has the right job give way, although others are larger.
fn real_size(bench: &mut Bench<'_>) -> Result<String> {
    let zram = Zram::start(SIZE)?;
    let mut jobs = Jobs::start(bench)?;
    let before = kernel_kills()?;
    let line = 96 * MIB;
    let daemon = bench.daemon(&(jobs.config([0; 3]) + &rule(line)))?;
    jobs.groups[0].set_max(RESIDENT)?;
    // So that there is not much to fill.
    let ballast = available()?.saturating_sub(line + 256 * MIB);
    jobs.agents[1][0].take("populate", ballast)?;
    jobs.agents[2][0].take("anon", 64 * MIB)?;
    let faults = process::major_faults(daemon.pid, daemon.pid).context("the daemon's loop")?;
    let watch = Watch::start(line);
    jobs.agents[0][0].grow("noise", MIB, Duration::from_millis(1), SIZE)?;
    let event = job_killed(bench, &daemon, &jobs.path(0))?;
    expect_killed(bench, &mut jobs.agents[0])?;
    let swapped = meminfo("SwapTotal")?.saturating_sub(watch.least_swap());
    ensure!(swapped > 64 * MIB, "only {} were swapped out: {event}", mib(swapped));
    let used = event.jobs.first().context("no ranking")?.usage_bytes;
    ensure!(used <= RESIDENT, "{} of {} in use: {event}", mib(used), mib(RESIDENT));
    let faults = process::major_faults(daemon.pid, daemon.pid).context("the daemon's loop")? - faults;
    ensure!(faults == 0, "{faults} major faults on the loop's thread");
    only_one(bench, &daemon, &jobs, before)?;
    expect_alive(&daemon, &jobs.agents[1])?;
    expect_alive(&daemon, &jobs.agents[2])?;
    let back = poll_until(bench.patience(), Duration::from_millis(10), || {
        (zram.takes().ok()? < swapped / 4).then_some(())
    });
    ensure!(back.is_some(), "zram takes {} after its owner's end", mib(zram.takes()?));
    Ok(format!("{} swapped out; {}", mib(swapped), told(&event)))
}

/// Ten hogs at full speed on a machine that has swapped part of a job out already and can swap more.
fn in_time(bench: &mut Bench<'_>) -> Result<String> {
    let zram = Zram::start(SIZE)?;
    let mut jobs = Jobs::start(bench)?;
    jobs.groups[2].set_max(RESIDENT)?;
    jobs.agents[2][0].take("noise", 96 * MIB)?;
    let takes = zram.takes()?;
    ensure!(takes > 32 * MIB, "zram takes {}: not much was swapped out", mib(takes));
    let said = host::eaten(bench, jobs)?;
    Ok(format!("{} on zram before; {said}", mib(takes)))
}

/// The same with swap on a disk, which no memory is taken for.
fn on_disk(bench: &mut Bench<'_>) -> Result<String> {
    let _swap = Swap::on_disk(512 * MIB)?;
    let free = meminfo("SwapFree")?;
    let mut jobs = Jobs::start(bench)?;
    jobs.groups[2].set_max(RESIDENT)?;
    jobs.agents[2][0].take("noise", 96 * MIB)?;
    let out = free.saturating_sub(meminfo("SwapFree")?);
    ensure!(out > 32 * MIB, "only {} were swapped out", mib(out));
    let said = host::eaten(bench, jobs)?;
    Ok(format!("{} on the disk before; {said}", mib(out)))
}
