//! The letter's dentry bomb, `while true; do mkdir x; cd x; done`, on tmpfs and on ext4: stopped at its line, named, and emptied on request.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::pinned::finding;
use super::{K, empty, over, rule, shielded, tolerance, watch};
use crate::harness::bench::Bench;
use crate::harness::daemon::run_within;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::run::Test;
use crate::harness::{MIB, meminfo, poll_until};
use crate::sys::process::start_in_groups;

pub fn tests() -> Vec<Test> {
    let test =
        |name, body| Test::new(name, body).needs(&[Need::Freezer, Need::KernelAccounting]).seconds(120);
    let ext4 = &[Need::Freezer, Need::KernelAccounting, Need::Ext4];
    vec![
        test("gk_02_a_shells_dentry_bomb_on_tmpfs", |bench| shell(bench, Place::Tmpfs)),
        test("gk_02_a_shells_dentry_bomb_on_ext4", |bench| shell(bench, Place::Ext4)).needs(ext4),
        test("gk_02_a_dentry_bomb_at_full_speed_on_tmpfs", |bench| program(bench, Place::Tmpfs)),
        test("gk_02_a_dentry_bomb_at_full_speed_on_ext4", |bench| program(bench, Place::Ext4)).needs(ext4),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Tmpfs,
    Ext4,
}

/// A file system that is gone with the test.
pub(super) struct Mounted {
    pub at: PathBuf,
    /// How it was made.
    how: &'static str,
}

impl Mounted {
    pub fn new(bench: &Bench<'_>, place: Place) -> Result<Self> {
        let at = bench.dir.join("fs");
        std::fs::create_dir_all(&at)?;
        let target = at.display().to_string();
        let how = match place {
            Place::Tmpfs => {
                done(bench, &["mount", "-t", "tmpfs", "-o", "nr_inodes=0", "none", &target])?;
                "tmpfs"
            }
            Place::Ext4 => {
                let image = bench.dir.join("image").display().to_string();
                std::fs::File::create(&image)?.set_len(256 * MIB)?;
                // busybox makes the older layout, without a journal; it is the ext4 driver all the same.
                let journal = done(bench, &["mke2fs", "-q", "-F", "-t", "ext4", &image]).is_ok();
                if !journal {
                    done(bench, &["mke2fs", "-F", &image])?;
                }
                done(bench, &["mount", "-t", "ext4", "-o", "loop", &image, &target])?;
                if journal { "ext4" } else { "ext4 without a journal" }
            }
        };
        Ok(Self { at, how })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Busy: then it goes with the last process in it.
        let _busy = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

fn done(bench: &Bench<'_>, words: &[&str]) -> Result<()> {
    let output = run_within(Command::new(words[0]).args(&words[1..]), bench.patience())?;
    ensure!(output.code == 0, "{words:?}: exit code {} {}{}", output.code, output.stdout, output.stderr);
    Ok(())
}

/// As the letter writes it.
const BOMB: &str = "while true; do mkdir x; cd x; done";

fn bomb(group: &Group, at: &Path) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", BOMB]).current_dir(at).stdin(Stdio::null()).stderr(Stdio::null());
    start_in_groups(&mut command, group.doors()?, true);
    command.spawn().context("starting a shell")
}

/// A shell forks for each directory and is slow; its line is near.
fn shell(bench: &mut Bench<'_>, place: Place) -> Result<String> {
    bench.patience *= 4;
    let fs = Mounted::new(bench, place)?;
    let job = shielded(bench)?;
    let before = job.kernel()?;
    let line = before + MIB;
    let ladder = "{ action = \"reclaim\", share = \"50%\" }, { action = \"freeze\", after = \"60s\" }";
    let daemon = bench.daemon(&rule(&job, line, ladder))?;
    let mut child = bomb(&job, &fs.at)?;
    let path = job.path();
    let stopped =
        daemon.event("freeze-begin", bench.patience(), |e| e.order == "freeze-begin" && e.is_of_group(&path));
    let stopped = stopped.and_then(|event| {
        let found = finding(bench, &daemon, event.id)?;
        let trial = found.trial.as_ref().with_context(|| format!("no word of the trial: {found:?}"))?;
        let worst = found.holders.first().with_context(|| format!("nobody holds it: {found:?}"))?;
        ensure!(["sh", "mkdir", "busybox"].contains(&worst.comm.as_str()), "the offender is {worst:?}");
        let kind = found.cause.as_ref().map_or("not divided", |cause| cause.kind.as_str());
        let expected = match (bench.host.version, place) {
            (Version::V1, _) => "not divided",
            (Version::V2, Place::Tmpfs) => "slab_unreclaimable",
            (Version::V2, Place::Ext4) => "slab_reclaimable",
        };
        ensure!(kind == expected, "the kind is {kind}, expected {expected}: {found:?}");
        let seen = watch(&job, Duration::from_secs(1))?;
        ensure!(seen.peak <= line + tolerance(bench), "{}", over(seen.peak, line));
        ensure!(job.oom_kills()? == 0, "the kernel killed in it");
        ensure!(seen.last > 0, "the shell is gone");
        Ok(format!("{kind}, {trial:?}, {}", over(seen.peak, line)))
    });
    let emptied = emptied(bench, &daemon, &job, fs, before);
    // It is dead, or the test has failed.
    let _gone = child.kill();
    child.wait()?;
    Ok(format!("{}; {}", stopped?, emptied?))
}

/// The same without a shell, which is a hundred times as fast, and against the letter's line.
fn program(bench: &mut Bench<'_>, place: Place) -> Result<String> {
    bench.patience *= 4;
    let fs = Mounted::new(bench, place)?;
    let job = shielded(bench)?;
    let mut hog = bench.worker(&job, "hog")?;
    hog.ask(&format!("work-in {}", fs.at.display()))?;
    let before = job.kernel()?;
    let daemon = bench.daemon(&rule(&job, K, super::bombs::CONTAIN))?;
    let free = meminfo("MemAvailable")?;
    hog.say("hoard dirs 200000")?;
    let path = job.path();
    let met =
        daemon.event("deny-begin", bench.patience(), |e| e.order == "deny-begin" && e.is_of_group(&path));
    let stopped = met.and_then(|met| {
        let seen = watch(&job, Duration::from_secs(2) * bench.host.patience)?;
        ensure!(seen.peak <= K + tolerance(bench), "{}", over(seen.peak, K));
        let found = finding(bench, &daemon, met.id)?;
        ensure!(found.holders.first().is_some_and(|it| it.comm == "hog"), "the offender: {found:?}");
        let fell = machine_has(bench, free, seen.peak)?;
        Ok(format!("by {}, {}; MemAvailable {} KiB less", met.by(), over(seen.peak, K), fell / 1024))
    });
    let emptied = emptied(bench, &daemon, &job, fs, before);
    Ok(format!("{}; {}", stopped?, emptied?))
}

/// The criterion's: what the machine has left may not fall by more, while the bomb stands.
const FALL: u64 = 32 * MIB;
/// Who else is on it takes and gives back meanwhile.
const OTHERS: u64 = 32 * MIB;

/// By how much the machine has less than before. What the bomb holds it holds for as long as it stands; what others take comes and goes, so there is time.
fn machine_has(bench: &Bench<'_>, before: u64, peak: u64) -> Result<u64> {
    let allowed = FALL + OTHERS + peak.saturating_sub(K);
    let fallen = || meminfo("MemAvailable").map(|now| before.saturating_sub(now));
    let little = || fallen().ok().filter(|fallen| *fallen <= allowed);
    let fell = poll_until(bench.patience(), Duration::from_millis(50), little);
    fell.with_context(|| format!("MemAvailable fell by {:?} of {before}, allowed {allowed}", fallen()))
}

/// Killed on request, and what it held is gone: with its last user on tmpfs; by a shrink on ext4, where the directories remain, once the journal has
/// written them (the inodes of a transaction are in use until it commits, every 5 s or on demand: `commit` in ext4(5)).
fn emptied(
    bench: &Bench<'_>,
    daemon: &crate::harness::daemon::Daemon,
    job: &Group,
    fs: Mounted,
    before: u64,
) -> Result<String> {
    let took = empty(bench, daemon, job)?;
    let begin = std::time::Instant::now();
    let how = fs.how;
    let fs = if how == "tmpfs" {
        // A tmpfs keeps its files until it is unmounted, as the letter's ends with the shell's session.
        drop(fs);
        None
    } else {
        daemon.ok(&["clear", "--group", &job.path()])?;
        rustix::fs::syncfs(std::fs::File::open(&fs.at)?)?;
        let shrunk = daemon.cli(&["shrink", &job.path(), "--to", "0"])?;
        ensure!(shrunk.code == 0, "shrink: exit code {} {}{}", shrunk.code, shrunk.stdout, shrunk.stderr);
        Some(fs)
    };
    let bar = Duration::from_secs(5) * bench.host.patience;
    let left = || job.kernel().ok().filter(|left| *left < before + MIB);
    let fell = poll_until(bar, Duration::from_millis(20), left);
    ensure!(fell.is_some(), "{how}: {} of kernel memory after {bar:?}", job.kernel()?);
    drop(fs);
    Ok(format!("{how}: emptied in {took:.0?}, its kernel memory back after {:.0?}", begin.elapsed()))
}
