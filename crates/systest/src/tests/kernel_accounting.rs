//! Criterion GK 5 and the accounting it stands on: kernel memory by kind, in one form on both versions. Known amounts are taken, and what
//! `memgov status --kernel` says of them is compared with what they must be; no daemon runs.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use memgov::serve::wire::{KernelGroup, KernelMemory};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::{Output, run_within};
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need, Version};
use crate::harness::run::Test;
use crate::harness::{mib, poll_until};

pub fn tests() -> Vec<Test> {
    let counted = |name, body| Test::new(name, body).needs(&[Need::KernelAccounting]).seconds(60);
    vec![
        counted("gk_05_kinds_follow_what_is_taken", kinds).needs(&[Need::KernelAccounting, Need::V2]),
        counted("gk_05_total_follows_what_is_taken", total),
        counted("gk_05_peak_and_its_reset", peak),
        counted("gk_05_sockets_are_counted_or_not_known", sockets),
        counted("gk_05_growth_names_the_kind_and_the_offender", offender),
        counted("gk_05_removed_groups_are_found_in_their_parent", removed),
        counted("gk_05_readable_by_everybody", unprivileged),
        Test::new("gk_05_nokmem_is_not_zero", nokmem).needs(&[Need::NoKernelAccounting]),
    ]
}

const KIB: u64 = 1 << 10;

fn command(bench: &Bench<'_>, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.host.memgov);
    command.args(["status", "--kernel"]).args(arguments).stdin(Stdio::null());
    command
}

fn ask(bench: &Bench<'_>, arguments: &[&str]) -> Result<KernelMemory> {
    let Output { code, stdout, stderr } = run_within(&mut command(bench, arguments), bench.patience())?;
    ensure!(code == 0, "status --kernel {arguments:?}: exit code {code} {stderr}");
    serde_json::from_str(&stdout).with_context(|| format!("status --kernel {arguments:?} says {stdout}"))
}

fn one(bench: &Bench<'_>, group: &Group) -> Result<KernelGroup> {
    let mut answer = ask(bench, &[&group.path(), "--json"])?;
    ensure!(answer.groups.len() == 1, "{} groups were told of one", answer.groups.len());
    answer.groups.pop().context("no group")
}

/// After the kernel has had its time to add up (every 2 s on v2).
fn settled(bench: &Bench<'_>, group: &Group) -> Result<KernelGroup> {
    if bench.host.version == Version::V2 {
        std::thread::sleep(Duration::from_millis(2500));
    }
    one(bench, group)
}

fn of(group: &KernelGroup, kind: &str) -> u64 {
    group.kinds.iter().find(|it| it.kind == kind).map_or(0, |it| it.bytes)
}

fn total_of(group: &KernelGroup) -> Result<u64> {
    group.kernel_bytes.with_context(|| format!("no total: {group:?}"))
}

/// Waits until the total is not above this: what is unmapped comes back after a grace period of RCU.
fn fallen(bench: &Bench<'_>, group: &Group, most: u64) -> Result<KernelGroup> {
    let falls = || one(bench, group).ok().filter(|it| it.kernel_bytes.is_some_and(|bytes| bytes <= most));
    match poll_until(bench.patience(), Duration::from_millis(100), falls) {
        Some(group) => Ok(group),
        None => bail!("let go, and it does not fall to {most}: {:#?}", one(bench, group)?),
    }
}

/// A workload whose table of descriptors is there before anything is measured.
fn prepared(bench: &Bench<'_>, group: &Group, name: &str) -> Result<Agent> {
    let mut agent = bench.worker(group, name)?;
    agent.ask("prepare unlinked 0")?;
    Ok(agent)
}

fn take(agent: &mut Agent, kind: &str, count: u64) -> Result<()> {
    let taken = agent.numbers(&format!("hoard {kind} {count}"))?;
    ensure!(taken == [count, 0], "{kind}: {taken:?} of {count}");
    Ok(())
}

/// What is taken, how often, and of which kind at least and at most how many bytes each are: stacks and page tables by the page, slab objects by
/// what the smallest that is involved takes.
struct Known {
    what: &'static str,
    count: u64,
    kind: &'static str,
    each: std::ops::RangeInclusive<u64>,
}

const KNOWN: [Known; 6] = [
    Known { what: "threads", count: 100, kind: "kernel_stack", each: 16 * KIB..=16 * KIB },
    Known { what: "forks", count: 60, kind: "kernel_stack", each: 16 * KIB..=16 * KIB },
    Known { what: "tables", count: 2000, kind: "pagetables", each: 4 * KIB..=4 * KIB + 64 },
    Known { what: "absent", count: 8000, kind: "slab_reclaimable", each: 190..=400 },
    Known { what: "unlinked", count: 3000, kind: "slab_unreclaimable", each: 700..=1600 },
    Known { what: "pipes", count: 100, kind: "other", each: 64 * KIB..=72 * KIB },
];

fn kinds(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = prepared(bench, &job, "hog")?;
    hog.ask("prepare tables 0")?;
    let mut said = Vec::new();
    let mut before = settled(bench, &job)?;
    for Known { what, count, kind, each } in KNOWN {
        // Kernel file systems remember the names they do not have; tmpfs does not.
        let place = if what == "absent" { job.dir() } else { &bench.dir.join("hog") };
        hog.ask(&format!("work-in {}", place.display()))?;
        take(&mut hog, what, count)?;
        let now = settled(bench, &job)?;
        let more = of(&now, kind).saturating_sub(of(&before, kind));
        // Beside them the workload itself takes and gives back a few pages, and each processor keeps one in stock for slab objects.
        let slack = 64 * KIB;
        ensure!(
            (each.start() * count - slack..=each.end() * count + slack).contains(&more),
            "{count} {what}: {kind} went up by {more}, expected {each:?} each; {now:#?}"
        );
        let grown: u64 = now.kinds.iter().map(|it| it.bytes.saturating_sub(of(&before, &it.kind))).sum();
        let in_all = total_of(&now)?.saturating_sub(total_of(&before)?);
        ensure!(grown.abs_diff(in_all) <= slack, "{what}: kinds went up by {grown}, the total by {in_all}");
        said.push(format!("{what}: {kind} +{}", more / count));
        before = now;
    }
    let named = before.kinds.iter().map(|it| it.bytes).sum::<u64>();
    ensure!(named.abs_diff(total_of(&before)?) <= 64 * KIB, "the kinds sum up to {named}: {before:#?}");
    let reclaimable = before.reclaimable_bytes.context("not said what is reclaimable")?;
    let pinned = before.pinned_bytes.context("not said what is pinned")?;
    ensure!(reclaimable >= 8000 * 190 && reclaimable + pinned == total_of(&before)?, "{before:#?}");
    hog.ask("let-go")?;
    let after = fallen(bench, &job, total_of(&before)? / 2)?;
    for kind in ["kernel_stack", "pagetables", "other"] {
        ensure!(of(&after, kind) * 4 < of(&before, kind), "{kind} did not come back: {after:#?}");
    }
    Ok(format!(
        "bytes each: {}; all {}, after letting go {}",
        said.join(", "),
        mib(named),
        mib(total_of(&after)?)
    ))
}

/// The number is the kernel's own, on both versions, and moves by what is taken.
fn total(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = prepared(bench, &job, "hog")?;
    hog.ask("prepare tables 0")?;
    let before = total_of(&settled(bench, &job)?)?;
    take(&mut hog, "tables", 2000)?;
    take(&mut hog, "pipes", 100)?;
    let held = settled(bench, &job)?;
    let (file, said) = (job.kernel()?, total_of(&held)?);
    let (least, most) = (2000 * 4 * KIB + 100 * 64 * KIB, 2000 * 4 * KIB + 100 * 72 * KIB + 256 * KIB);
    ensure!(file.abs_diff(said) <= 64 * KIB, "the file says {file}, memgov {said}");
    let more = said.saturating_sub(before);
    ensure!((least..=most).contains(&more), "went up by {more}, expected {least} to {most}");
    ensure!(held.kinds.is_empty() == (bench.host.version == Version::V1), "v1 divides nothing: {held:#?}");
    let tables = held.holders.iter().find(|it| it.comm == "hog").and_then(|it| it.page_tables_bytes);
    ensure!(tables.is_some_and(|bytes| bytes >= 2000 * 4 * KIB), "who holds page tables: {:?}", held.holders);
    hog.ask("let-go")?;
    let after = total_of(&fallen(bench, &job, before + 512 * KIB)?)?;
    Ok(format!("{} to {} to {}", mib(before), mib(said), mib(after)))
}

fn peak(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = prepared(bench, &job, "hog")?;
    hog.ask("prepare tables 0")?;
    take(&mut hog, "tables", 2000)?;
    let held = total_of(&settled(bench, &job)?)?;
    hog.ask("let-go")?;
    let after = fallen(bench, &job, held / 2)?;
    let path = job.path();
    let reset = run_within(&mut command(bench, &[&path, "--reset-peak", "--json"]), bench.patience())?;
    if bench.host.version == Version::V2 {
        ensure!(after.peak_bytes.is_none(), "v2 keeps none: {after:#?}");
        ensure!(reset.code == 1 && reset.stderr.contains("no peak"), "{} {}", reset.code, reset.stderr);
        return Ok("not kept by v2, and said so".to_owned());
    }
    let peak = after.peak_bytes.context("no peak on v1")?;
    ensure!(peak >= held, "peak {peak} after {held}: {after:#?}");
    ensure!(reset.code == 0, "resetting: exit code {} {}", reset.code, reset.stderr);
    let answer: KernelMemory = serde_json::from_str(&reset.stdout)?;
    let lower = answer.groups.first().and_then(|it| it.peak_bytes).context("no peak after resetting")?;
    ensure!(lower < peak && lower <= total_of(&after)? + 256 * KIB, "reset from {peak} to {lower}");
    Ok(format!("{} reset to {}", mib(peak), mib(lower)))
}

/// Of v1 groups without a TCP limit nobody counts buffers; that is not 0.
fn sockets(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = prepared(bench, &job, "hog")?;
    take(&mut hog, "tcp", 4)?;
    let first = settled(bench, &job)?;
    if bench.host.version == Version::V2 {
        let bytes = first.sockets_bytes.context("v2 counts sockets")?;
        ensure!(bytes >= 256 * KIB && first.sockets == "all", "{first:#?}");
        return Ok(mib(bytes));
    }
    ensure!(first.sockets_bytes.is_none() && first.sockets == "tcp", "{first:#?}");
    hog.ask("let-go")?;
    job.write("memory.kmem.tcp.limit_in_bytes", &(1u64 << 30).to_string())?;
    ensure!(one(bench, &job)?.sockets_bytes == Some(0), "with a limit 0 is an account");
    take(&mut hog, "tcp", 4)?;
    let bytes = one(bench, &job)?.sockets_bytes.context("with a limit they are counted")?;
    ensure!(bytes >= 256 * KIB, "{bytes} in four full connections");
    Ok(format!("not known without a limit, {} with one", mib(bytes)))
}

/// A bomb goes off between two readings, beside an innocent who holds more of everything.
fn offender(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut innocent = prepared(bench, &job, "innocent")?;
    innocent.ask("prepare tables 0")?;
    take(&mut innocent, "tables", 1500)?;
    take(&mut innocent, "unlinked", 3000)?;
    let mut bomb = prepared(bench, &job, "bomb")?;
    let still = settled(bench, &job)?;
    let most = still.holders.first().map(|it| it.comm.as_str());
    ensure!(most == Some("innocent"), "before the bomb {most:?} holds most");
    let interval = Duration::from_secs(3) * bench.host.patience.min(2);
    let text = format!("{}s", interval.as_secs());
    let path = job.path();
    let mut reading = command(bench, &[&path, "--interval", &text, "--json"]);
    let patience = bench.patience() + interval;
    let answer: KernelMemory = std::thread::scope(|scope| {
        let reader = scope.spawn(move || run_within(&mut reading, patience));
        std::thread::sleep(interval / 2);
        let forked = take(&mut bomb, "forks", 150);
        let output = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        forked?;
        ensure!(output.code == 0, "exit code {} {}", output.code, output.stderr);
        Ok(serde_json::from_str(&output.stdout)?)
    })?;
    let group = answer.groups.first().context("no group")?;
    let first = group.holders.first().context("nobody holds it")?;
    // An emulated machine may not be through with all of them at the second reading.
    let born = first.born.filter(|born| (20..=150).contains(born));
    ensure!(first.comm == "bomb" && born.is_some(), "the offender is {first:?}");
    let rate = group.growth_bytes_per_second.context("no growth")?;
    let passed = Duration::from_nanos(answer.interval_ns.context("no interval")?).as_millis();
    let stacks = i128::from(born.unwrap_or(0)) * 16 * 1024;
    ensure!(i128::from(rate) * i128::try_from(passed)? / 1000 > stacks, "{rate} a second for {passed} ms");
    if bench.host.version == Version::V1 {
        ensure!(group.cause.is_none(), "v1 divides nothing: {:?}", group.cause);
        return Ok(format!("{first:?}, {rate} bytes a second"));
    }
    let cause = group.cause.as_ref().context("no kind is named")?;
    let fits = ["kernel_stack", "pagetables", "slab_unreclaimable", "other"].contains(&cause.kind.as_str());
    ensure!(fits && cause.by == "growth" && cause.pinned, "the cause is {cause:?}");
    Ok(format!("{cause:?}, {rate} bytes a second"))
}

/// A tenant leaves files on tmpfs and is removed: kernel memory is in its parent's name, user memory in that of the removed group.
fn removed(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.delegate_memory()?;
    let tenant = bench.group("job/tenant")?;
    let mut hog = prepared(bench, &tenant, "tenant")?;
    // A file with content stays charged to the group that wrote it.
    let kept = bench.dir.join("tenant").join("f-0");
    take(&mut hog, "files", 4000)?;
    hog.ask(&format!("file {}", kept.display()))?;
    hog.take("file", 4 << 20)?;
    let living = settled(bench, &job)?;
    drop(hog);
    tenant.remove()?;
    let after = settled(bench, &job)?;
    ensure!((after.groups_below, after.processes_in_all) == (0, 0), "{after:#?}");
    let left = after.left_behind_bytes.context("not said what is left")?;
    ensure!(left >= 4000 * 700 && left <= total_of(&living)?, "{left} left of {:?}", living.kernel_bytes);
    let own = after.own_usage_bytes.context("not said what nobody living holds")?;
    ensure!(own >= left + (3 << 20), "{own} of all memory, {left} of kernel memory");
    match bench.host.version {
        Version::V2 => ensure!(after.removed_groups == Some(1), "removed groups: {:?}", after.removed_groups),
        Version::V1 => {
            let all = ask(bench, &["--json"])?.removed_groups;
            ensure!(
                after.removed_groups.is_none() && all >= Some(1),
                "removed groups of the hierarchy: {all:?}"
            );
        }
    }
    std::fs::remove_dir_all(bench.dir.join("tenant"))?;
    let gone = poll_until(bench.patience(), Duration::from_millis(200), || {
        one(bench, &job).ok()?.left_behind_bytes.filter(|bytes| *bytes < left / 4)
    });
    let gone = gone.context("the files are gone and their memory is not")?;
    Ok(format!(
        "{} left by the removed group ({} of all memory), {} after its files went",
        mib(left),
        mib(own),
        mib(gone)
    ))
}

/// Nobody's own processes are in it: descriptors of others are not known then, the rest is.
fn unprivileged(bench: &mut Bench<'_>) -> Result<String> {
    use std::os::unix::process::CommandExt as _;
    let job = bench.group("job")?;
    let mut hog = prepared(bench, &job, "hog")?;
    take(&mut hog, "unlinked", 500)?;
    let root = settled(bench, &job)?;
    let path = job.path();
    let mut command = command(bench, &[&path, "--json"]);
    let output = run_within(command.uid(NOBODY).gid(NOBODY), bench.patience())?;
    ensure!(output.code == 0, "exit code {} {}", output.code, output.stderr);
    let answer: KernelMemory = serde_json::from_str(&output.stdout)?;
    let seen = answer.groups.first().context("no group")?;
    ensure!(total_of(seen)?.abs_diff(total_of(&root)?) <= 64 * KIB, "{seen:#?} and as root {root:#?}");
    let of_hog = |group: &KernelGroup| group.holders.iter().find(|it| it.comm == "hog").cloned();
    let (seen, root) = (of_hog(seen).context("the hog is not seen")?, of_hog(&root).context("nor by root")?);
    ensure!(seen.descriptors.is_none() && seen.threads == root.threads, "{seen:?}, as root {root:?}");
    ensure!(root.descriptors.is_some_and(|count| count >= 500), "{root:?}");
    Ok(String::new())
}

fn nokmem(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let mut hog = prepared(bench, &job, "hog")?;
    take(&mut hog, "forks", 20)?;
    let group = settled(bench, &job)?;
    ensure!(!group.accounted && group.kernel_bytes.is_none() && group.kinds.is_empty(), "{group:#?}");
    ensure!(group.own_bytes.is_none() && group.left_behind_bytes.is_none(), "{group:#?}");
    let why = group.why.context("no reason")?;
    ensure!(why.contains("nokmem"), "{why}");
    let path = job.path();
    for arguments in [&[path.as_str()][..], &[]] {
        let text = run_within(&mut command(bench, arguments), bench.patience())?.stdout;
        ensure!(text.contains("not accounted"), "{text}");
    }
    Ok(why)
}
