//! The letter's files of kernel memory: what they show, and a line written into one that is kept.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::rig::{Files, refused, works};
use super::{LIMIT, UNLIMITED};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need, Tier};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until};
use crate::tests::gk::{fork_slowly, shielded};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Fuse, Need::KernelAccounting]);
    vec![
        test("files_kernel_memory", kernel),
        test("files_kernel_memory_by_kind", by_kind).seconds(60),
        test("files_kernel_line_is_kept", kept).seconds(120),
        Test::new("files_kernel_line_of_each_of_many_groups", many).needs(&[Need::Fuse]).seconds(60),
    ]
}

const PEAK: &str = "memory.kmem.max_usage_in_bytes";
const HITS: &str = "memory.kmem.failcnt";
const STAT: &str = "memory.kmem.stat";

fn kernel(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let at = |name: &str| files.of(&job, name);
    let read = |name: &str| fs::read_to_string(at(name)).with_context(|| format!("reading {name}"));
    ensure!(read(LIMIT)? == UNLIMITED && read(HITS)? == "0\n", "not as without a line");
    let _one = bench.agent(&job, "one")?;
    let (shown, is) = (read("memory.kmem.usage_in_bytes")?.trim().parse::<u64>()?, job.kernel()?);
    ensure!(shown > 0 && shown.abs_diff(is) <= MIB, "{shown} is shown of {is}");
    ensure!(read(STAT)?.starts_with("kernel "), "no total first");
    fs::write(at(LIMIT), "512M")?;
    let rule = daemon.ok(&["get", "--group", &job.path(), "--json"])?;
    ensure!(rule.contains("\"kernel\"") && read(LIMIT)? == "536870912\n", "{rule}");
    let peak = || read(PEAK).ok()?.trim().parse::<u64>().ok().filter(|&peak| peak > 0);
    poll_until(bench.patience(), Duration::from_millis(20), peak).context("no peak")?;
    fs::write(at(PEAK), "0")?;
    fs::write(at(HITS), "0")?;
    for none in ["-1", UNLIMITED] {
        fs::write(at(LIMIT), "512M")?;
        fs::write(at(LIMIT), none)?;
        fs::write(at(LIMIT), none).context("twice")?;
        ensure!(read(LIMIT)? == UNLIMITED, "it is still there after {none}");
        let left = daemon.cli(&["get", "--group", &job.path()])?;
        ensure!(left.code == 5, "{none} has left a rule: {}", left.stdout);
    }
    // A group has one rule, and another's is not replaced by a number.
    daemon.ok(&["set", "--group", &job.path(), "--over", "1GiB", "--do", "deny"])?;
    refused("over a rule of another meter", fs::write(at(LIMIT), "1M"), libc::EBUSY)?;
    Ok(String::new())
}

fn lines(text: &str) -> Result<BTreeMap<&str, u64>> {
    let line = |line| str::split_once(line, ' ').and_then(|(key, bytes)| Some((key, bytes.parse().ok()?)));
    text.lines().map(|text| line(text).with_context(|| format!("no line of memory.stat: {text:?}"))).collect()
}

/// Of 100 threads, 16 KiB each.
const STACKS: u64 = 100 << 14;

/// The lines that `memory.stat` has for it, with what it says there; where nobody divides it (v1) the total.
fn by_kind(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let files = Files::start(bench, &bench.dir.join("nobody.sock"))?;
    let mut hog = bench.worker(&job, "hog")?;
    hog.ask("hoard threads 100")?;
    // The kernel adds up every 2 s on v2, and may do so between the two looks.
    let same = poll_until(bench.patience(), Duration::from_millis(100), || compared(&files, &job).ok());
    let count = same.map_or_else(|| compared(&files, &job), Ok)?;
    Ok(format!("{count} lines"))
}

fn compared(files: &Files, job: &Group) -> Result<usize> {
    let text = fs::read_to_string(files.of(job, STAT))?;
    let shown = lines(&text)?;
    let divided = job.read("memory.stat")?;
    let is_v1 = job.dir().join("memory.kmem.usage_in_bytes").exists();
    let theirs = if is_v1 { BTreeMap::from([("kernel", job.kernel()?)]) } else { lines(&divided)? };
    for (key, bytes) in &shown {
        let is = theirs.get(key).with_context(|| format!("`{key}` is nowhere in memory.stat"))?;
        ensure!(bytes.abs_diff(*is) <= MIB, "{key} {bytes}, and the kernel says {is}");
    }
    let kinds = ["kernel", "kernel_stack", "pagetables", "percpu", "slab", "slab_reclaimable"];
    for kind in kinds.into_iter().filter(|kind| theirs.contains_key(kind)) {
        ensure!(shown.contains_key(kind), "no `{kind}` in {text}");
    }
    let stacks = if is_v1 { "kernel" } else { "kernel_stack" };
    ensure!(shown[stacks] >= STACKS, "the stacks of 100 threads: {text}");
    ensure!(!shown.contains_key("anon") && !shown.contains_key("file"), "user memory is in {text}");
    Ok(shown.len())
}

/// Written by root and by the owner: over it they are refused, it is counted, and a write has count and peak start anew.
fn kept(bench: &mut Bench<'_>) -> Result<String> {
    bench.patience *= 2;
    let job = shielded(bench)?;
    for dir in job.dirs() {
        chown(dir, Some(NOBODY), Some(NOBODY))?;
    }
    let mut hog = bench.worker(&job, "hog")?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let told: Vec<String> = [0, NOBODY]
        .into_iter()
        .map(|user| by_user(bench, &files, &job, &mut hog, user).with_context(|| format!("as {user}")))
        .collect::<Result<_>>()
        .map_err(|error| daemon.explain(error))?;
    Ok(told.join("; "))
}

fn by_user(bench: &Bench<'_>, files: &Files, job: &Group, hog: &mut Agent, user: u32) -> Result<String> {
    let at = |name: &str| files.of(job, name).display().to_string();
    let number =
        |name: &str| -> Result<u64> { Ok(works(bench, user, &format!("cat {}", at(name)))?.trim().parse()?) };
    let write = |text: &str, name: &str| works(bench, user, &format!("echo {text} > {}", at(name)));
    let line = job.kernel()? + 3 * MIB;
    write(&line.to_string(), LIMIT)?;
    ensure!(number(HITS)? == 0 && number(LIMIT)? == line, "not as of a new line");
    let (taken, errno) = fork_slowly(hog, 400)?;
    // ENOMEM inside, EAGAIN of pids.max.
    let expected = if bench.host.tier == Tier::Bpf { 12 } else { 11 };
    ensure!(errno == expected && taken > 0, "{taken} forks, then errno {errno}, expected {expected}");
    let hit = || number(HITS).ok().filter(|&hits| hits > 0);
    let hits = poll_until(bench.patience(), Duration::from_millis(20), hit).context("nothing was counted")?;
    let peak = number(PEAK)?;
    ensure!(peak > line - 3 * MIB, "the peak is {peak} under a line of {line}");
    hog.ask("let-go")?;
    // What has ended comes back after a grace period of RCU.
    let fallen = || job.kernel().ok().filter(|&kernel| kernel + MIB < peak);
    poll_until(bench.patience(), Duration::from_millis(100), fallen)
        .context("let go, and it does not fall")?;
    // The next reading is on its way; the peak that starts anew is not that of before.
    let anew = || {
        write("0", PEAK).ok()?;
        let (peak_now, hits_now) = (number(PEAK).ok()?, number(HITS).ok()?);
        (peak_now < peak && hits_now == 0).then_some(peak_now)
    };
    let lowered = poll_until(bench.patience(), Duration::from_millis(100), anew);
    let lowered = lowered.with_context(|| format!("written to, the peak is {:?} of {peak}", number(PEAK)))?;
    write("-1", LIMIT)?;
    ensure!(number(LIMIT)?.to_string() == UNLIMITED.trim(), "the line is still there");
    Ok(format!("as {user}: {taken} forks, {hits} hits, peak {peak}, then {lowered}"))
}

/// A status has 512 of them at the most; a file is of its own group.
fn many(bench: &mut Bench<'_>) -> Result<String> {
    const MANY: u64 = 600;
    let jobs = bench.group("jobs")?;
    let rule = format!(
        "[[rule]]\nname = \"kernel\"\ngroups = \"{}/*\"\nmeter = \"kernel\"\nover = \"64MiB\"\ndo = [\"record\"]\n",
        jobs.path()
    );
    for number in 0..MANY {
        fs::create_dir(jobs.dir().join(format!("g{number}")))?;
    }
    let daemon = bench.quiet_daemon(&rule, &[])?;
    let files = Files::start(bench, &daemon.socket())?;
    let top = files.of(&jobs, "");
    for number in 0..MANY {
        let limit = top.join(format!("g{number}")).join(LIMIT);
        // The daemon may still be on its first way through the groups.
        let shown = || fs::read_to_string(&limit).ok().filter(|text| text == "67108864\n");
        poll_until(bench.patience(), Duration::from_millis(20), shown)
            .with_context(|| format!("the line of group {number}: {:?}", fs::read_to_string(&limit)))?;
    }
    Ok(format!("{MANY} groups"))
}
