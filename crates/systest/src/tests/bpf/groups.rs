//! Groups read by the iterator, against their files as the oracle: each reading is put between two of the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use memgov::bpf::{GroupPass, GroupRecord};
use memgov_decide::snapshot::GroupId;
use memgov_decide::units::{Bytes, Limit};

use super::rig::{bound, id_of};
use crate::counting::allocations;
use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::group::Group;
use crate::harness::host::{Need, Version};
use crate::harness::process;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_groups_quiet_are_read_as_their_files_say", quiet),
        test("bpf_groups_under_load_are_read_between_two_readings_of_the_file", loaded),
        test("bpf_groups_without_memory_or_gone_have_no_record", absent),
        test("bpf_groups_cost_three_system_calls_a_pass", cost),
    ]
}

/// An iterator over all groups of this host.
fn pass(bench: &Bench<'_>, capacity: u32) -> Result<GroupPass> {
    let root = File::open(&bench.host.memory)?;
    GroupPass::load(root.as_fd(), capacity).map_err(|absent| anyhow!("{absent}"))
}

/// One pass, by id.
fn read(pass: &mut GroupPass) -> Result<BTreeMap<GroupId, GroupRecord>> {
    pass.read().context("a pass")?;
    Ok(pass.ids().filter_map(|(at, id)| Some((id, pass.record(at)?))).collect())
}

/// What the files say, each as a word; a file that this version does not have is left out.
fn files(group: &Group, version: Version) -> Result<BTreeMap<&'static str, String>> {
    let word = |file: &str| anyhow::Ok(group.read(file)?.trim().to_owned());
    let key = |file: &str, key: &str| {
        let text = group.read(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned));
        line.with_context(|| format!("{file} has no {key}: {text:?}"))
    };
    let mut said = BTreeMap::new();
    if version == Version::V1 {
        said.insert("usage", word("memory.usage_in_bytes")?);
        // As the kernel writes "none": PAGE_COUNTER_MAX pages.
        let max = word("memory.limit_in_bytes")?;
        said.insert("max", if max == "9223372036854771712" { "max".to_owned() } else { max });
        said.insert("failcnt", word("memory.failcnt")?);
        said.insert("oom_kill", key("memory.oom_control", "oom_kill")?);
        return Ok(said);
    }
    for (name, file) in [
        ("usage", "memory.current"),
        ("high", "memory.high"),
        ("max", "memory.max"),
        ("swap", "memory.swap.current"),
        ("oom_group", "memory.oom.group"),
    ] {
        // Without swap in the kernel the group has no such file.
        if group.dir().join(file).exists() {
            said.insert(name, word(file)?);
        }
    }
    for (name, of) in
        [("high_events", "high"), ("max_events", "max"), ("oom_events", "oom"), ("oom_kill", "oom_kill")]
    {
        said.insert(name, key("memory.events", of)?);
    }
    Ok(said)
}

/// The same of a record.
fn words(record: &GroupRecord, like: &BTreeMap<&'static str, String>) -> BTreeMap<&'static str, String> {
    let limit = |limit: Limit| limit.bytes().map_or("max".to_owned(), |bytes| bytes.0.to_string());
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let all = [
        ("usage", record.usage.0.to_string()),
        ("high", limit(record.high)),
        ("max", limit(record.max)),
        ("swap", record.swap.0.to_string()),
        ("failcnt", record.failcnt.to_string()),
        ("high_events", number(record.events.high)),
        ("max_events", number(record.events.max)),
        ("oom_events", number(record.events.oom)),
        ("oom_kill", number(record.events.oom_kill)),
        ("oom_group", u8::from(record.oom_group).to_string()),
    ];
    all.into_iter().filter(|(name, _)| like.contains_key(name)).collect()
}

/// Groups three deep with limits of many kinds; in some something has happened.
fn forest(bench: &Bench<'_>, trees: u64) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for at in 0..trees {
        for below in ["", "/a", "/a/b"] {
            let group = bench.group(&format!("t{at}{below}"))?;
            if below != "/a/b" {
                group.delegate_memory()?;
            }
            let odd = (at + 1) * MIB + 4096 * below.len() as u64;
            if at % 3 == 0 {
                group.set_max(odd * 16)?;
            }
            if bench.host.version == Version::V2 && at % 2 == 0 {
                group.set_high(odd * 8)?;
            }
            if bench.host.version == Version::V2 && at % 5 == 0 {
                group.write("memory.oom.group", "1")?;
            }
            groups.push(group);
        }
    }
    Ok(groups)
}

/// Has a program run in a group until it is out of memory there.
fn run_out(group: &Group) -> Result<()> {
    group.set_max(8 * MIB)?;
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=64M count=1",
        group.dir().display()
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(!status.success(), "64 MiB in a group of 8 MiB");
    Ok(())
}

fn quiet(bench: &mut Bench<'_>) -> Result<String> {
    let groups = forest(bench, 100)?;
    run_out(&groups[2])?;
    let mut worker = bench.agent(&groups[5], "worker")?;
    worker.take("anon", 5 * MIB)?;
    let mut iterator = pass(bench, 4096)?;
    let (version, mut told) = (bench.host.version, 0);
    // Quiet is what two readings of the file around the pass agree on; a group that was disturbed gets more chances.
    let mut left: Vec<&Group> = groups.iter().collect();
    for _ in 0..10 {
        let before: Vec<_> = left.iter().map(|group| files(group, version)).collect::<Result<_>>()?;
        let found = read(&mut iterator)?;
        let mut again = Vec::new();
        for (group, before) in left.iter().zip(&before) {
            if files(group, version)? != *before {
                again.push(*group);
                continue;
            }
            let record = found.get(&id_of(group)?).with_context(|| format!("no {}", group.path()))?;
            let said = words(record, before);
            ensure!(said == *before, "{}: the files say {before:?}, the pass {said:?}", group.path());
            told += u32::from(before["usage"] != "0");
        }
        left = again;
        if left.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(left.is_empty(), "never quiet: {:?}", left.iter().map(|group| group.path()).collect::<Vec<_>>());
    let killed = files(&groups[2], version)?["oom_kill"].clone();
    ensure!(killed != "0", "nobody was killed in {}", groups[2].path());
    Ok(format!("{} groups, {told} of them not empty, {killed} OOM kills", groups.len()))
}

fn loaded(bench: &mut Bench<'_>) -> Result<String> {
    let version = bench.host.version;
    let mut groups = forest(bench, 50)?;
    groups.retain(|group| group.path().ends_with("/b"));
    for group in &groups {
        group.set_max(1 << 32)?;
        if version == Version::V2 {
            group.set_high(1 << 32)?;
        }
    }
    let mut workers = Vec::new();
    for (at, group) in groups.iter().take(4).enumerate() {
        let mut worker = bench.agent(group, &format!("w{at}"))?;
        worker.grow("anon", 64 << 10, Duration::from_millis(2), 48 * MIB)?;
        workers.push(worker);
    }
    // Processors give back what they hold in stock for a group: usage falls by that much, in between too.
    let slack = bound(0, 0);
    let mut iterator = pass(bench, 4096)?;
    let (mut rounds, mut between, mut moved) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        rounds += 1;
        let group = &groups[rounds % 8];
        let limits = if rounds % 2 == 0 { [96 * MIB, 128 * MIB] } else { [80 * MIB, 112 * MIB] };
        group.set_max(limits[1])?;
        if version == Version::V2 {
            group.set_high(limits[0])?;
        }
        let before = group.usage()?;
        let found = read(&mut iterator)?;
        let after = group.usage()?;
        let record = found.get(&id_of(group)?).with_context(|| format!("no {}", group.path()))?;
        let (low, high, usage) = (before.min(after), before.max(after), record.usage.0);
        ensure!(
            usage + slack >= low && usage <= high + slack,
            "{}: the file says {before}, then {after}, the pass between them {usage}",
            group.path()
        );
        between += u32::from((low..=high).contains(&usage));
        moved += u32::from(before != after);
        ensure!(record.max == Limit::At(Bytes(limits[1])), "{}: max {:?}", group.path(), record.max);
        if version == Version::V2 {
            ensure!(record.high == Limit::At(Bytes(limits[0])), "{}: high {:?}", group.path(), record.high);
        }
    }
    ensure!(moved > 0, "no group changed during {rounds} passes");
    ensure!(
        f64::from(between) >= 0.9 * rounds as f64,
        "only {between} of {rounds} readings lie between the two of the file"
    );
    Ok(format!("{rounds} passes, {moved} times the file changed meanwhile, {between} readings lie between"))
}

fn absent(bench: &mut Bench<'_>) -> Result<String> {
    let mut iterator = pass(bench, 4096)?;
    let groups = forest(bench, 20)?;
    let found = read(&mut iterator)?;
    let ids: Vec<GroupId> = groups.iter().map(id_of).collect::<Result<_>>()?;
    ensure!(ids.iter().all(|id| found.contains_key(id)), "not all are found");
    let root = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&bench.host.memory)?);
    ensure!(!found.contains_key(&GroupId(root)), "the root has a record");
    for group in groups.iter().rev() {
        std::fs::remove_dir(group.dir())?;
    }
    let found = read(&mut iterator)?;
    ensure!(!ids.iter().any(|id| found.contains_key(id)), "a removed group has a record");
    if bench.host.version == Version::V2 {
        let (plain, inner) = (bench.group("plain")?, bench.group("plain/inner")?);
        let seen = |iterator: &mut GroupPass| -> Result<(bool, bool)> {
            let found = read(iterator)?;
            Ok((found.contains_key(&id_of(&plain)?), found.contains_key(&id_of(&inner)?)))
        };
        ensure!(seen(&mut iterator)? == (true, false), "a group without the controller has a record");
        plain.delegate_memory()?;
        ensure!(seen(&mut iterator)? == (true, true), "a group with the controller has none");
        plain.write("cgroup.subtree_control", "-memory")?;
        ensure!(seen(&mut iterator)? == (true, false), "a group that lost the controller has a record");
    }
    let outside = bench.daemon_group()?;
    let mut small = pass(bench, 1)?;
    let (seen, kept) = (small.read()?, small.ids().count());
    ensure!(seen > 1 && kept == 1 && small.record(1).is_none(), "{seen} seen, {kept} kept, room for 1");
    let part = File::open(bench.top.dir())?;
    let mut part = GroupPass::load(part.as_fd(), 64).map_err(|absent| anyhow!("{absent}"))?;
    let below = read(&mut part)?;
    ensure!(
        below.contains_key(&id_of(&bench.top)?) && !below.contains_key(&id_of(&outside)?),
        "a pass over a part of the tree"
    );
    let file = File::open("/proc/self/status")?;
    let why = GroupPass::load(file.as_fd(), 64).err().context("a pass over a file of /proc")?;
    Ok(format!("{} groups came and went; of no group: {why}", ids.len()))
}

/// How often each is timed.
const TIMES: u32 = 20;

fn cost(bench: &mut Bench<'_>) -> Result<String> {
    let me = i32::try_from(std::process::id())?;
    let mut iterator = pass(bench, 4096)?;
    let parent = bench.group("n")?;
    parent.delegate_memory()?;
    let mut said = Vec::new();
    let mut usages: Vec<File> = Vec::new();
    for groups in [30, 100, 300, 1000] {
        for at in usages.len()..groups {
            let group = bench.group(&format!("n/g{at}"))?;
            usages.push(File::open(group.usage_file())?);
        }
        let before = process::reads(me).context("its reads")?;
        // Reading the counter itself counts too.
        let own = process::reads(me).context("its reads")? - before;
        let (mut seen, start) = (Ok(0), process::reads(me).context("its reads")?);
        let allocated = allocations(|| seen = iterator.read());
        let reads = process::reads(me).context("its reads")? - start - own;
        ensure!(seen? >= groups as u64 && reads == 1, "{seen:?} groups, {reads} reads");
        ensure!(allocated == 0, "{allocated} allocations");
        let begin = Instant::now();
        for _ in 0..TIMES {
            iterator.read()?;
        }
        let one = begin.elapsed() / TIMES;
        let begin = Instant::now();
        let mut buffer = [0; 64];
        for _ in 0..TIMES {
            for file in &usages {
                std::os::unix::fs::FileExt::read_at(file, &mut buffer, 0)?;
            }
        }
        said.push(format!("{groups} groups: a pass {one:?}, files {:?}", begin.elapsed() / TIMES));
    }
    drop(usages);
    Ok(said.join("; "))
}
