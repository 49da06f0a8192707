//! JW 3, 6 and 9: squeezed sockets stop growing, go on transferring, and have what they had when it is over, however it ends.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::{counting_daemon, most, rule};
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Tier;
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, mib, poll_until, process};
use crate::sys::net::{Bounds, bounds_of, namespace, start_in_namespace};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("jw_03_squeezed_sockets_stop_growing", stop_growing),
        Test::new("jw_03_a_thousand_sockets", thousand).seconds(60),
        Test::new("jw_04_flapping_squeezes_once", flapping),
        Test::new("jw_05_children_are_squeezed_and_siblings_not", hierarchy),
        Test::new("jw_06_a_squeezed_transfer_goes_on", transfer),
        Test::new("jw_09_bounds_restored_when_the_rule_goes", |bench| restored(bench, End::Reloaded)),
        Test::new("jw_09_sizes_are_exactly_what_they_were", sizes),
        Test::new("jw_09_an_odd_size_of_the_system_is_kept", odd),
        Test::new("jw_09_nothing_without_a_rule_that_squeezes", idle),
        Test::new("jw_09_bounds_restored_at_the_end", |bench| restored(bench, End::Asked)),
        Test::new("jw_09_bounds_restored_after_kill9", |bench| restored(bench, End::Killed)),
        Test::new("jw_09_bounds_restored_by_the_next_after_kill9_of_both", |bench| {
            restored(bench, End::Both)
        }),
    ]
}

/// Over this they are squeezed.
const LINE: u64 = 8 * MIB;
/// Connections, and what each is given every 5 ms: 50 MiB a second in all.
const FLOOD: &str = "flood 64 4096";

fn squeezed(bench: &Bench<'_>, job: &Group, flood: &str, sockets: u64) -> Result<(Agent, Daemon)> {
    loopback_up()?;
    let daemon = counting_daemon(bench, job, &rule(job, "sockets", LINE, "\"squeeze\""))?;
    let mut flooder = bench.agent(job, "flooder")?;
    flooder.ask(flood)?;
    let path = job.path();
    let event = daemon.event("squeeze-begin", bench.patience(), |event| {
        event.order == "squeeze-begin" && event.is_of_group(&path)
    })?;
    ensure!(event.by() == "socket-options", "{event}");
    // Both ends of each connection are the group's.
    let all = poll_until(bench.patience(), Duration::from_millis(5), || {
        flooder.numbers("bounds").ok().filter(|bounds| bounds[0] >= sockets)
    });
    all.with_context(|| daemon.explain(anyhow!("not all are squeezed: {:?}", flooder.numbers("bounds"))))?;
    Ok((flooder, daemon))
}

/// Waits until nothing of it is bounded any more; how long after `begin` that was.
fn let_go(bench: &Bench<'_>, daemon: &Daemon, flooder: &mut Agent, begin: Instant) -> Result<Duration> {
    let free = poll_until(bench.patience(), Duration::from_millis(5), || {
        flooder.numbers("bounds").ok().filter(|bounds| bounds == &[0, 0]).map(|_| begin.elapsed())
    });
    free.with_context(|| daemon.explain(anyhow!("still bounded: {:?}", flooder.numbers("bounds"))))
}

/// Where a flood came to rest that nobody bounds, 5 s of it come to less than a twentieth more; let go it grows on.
fn stop_growing(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let (_flooder, daemon) = squeezed(bench, &job, FLOOD, 128)?;
    std::thread::sleep(Duration::from_secs(1) * bench.host.patience);
    let first = job.sockets()?;
    let last = most(Duration::from_secs(5), || job.sockets())?;
    let status = daemon.ok(&["status"])?;
    ensure!(last <= first + first / 20, "from {} to {} in 5 s\n{status}", mib(first), mib(last));
    ensure!(status.contains("squeeze"), "status says nothing of it: {status}");
    std::fs::write(daemon.config(), "")?;
    daemon.ok(&["reload"])?;
    let grown = poll_until(bench.patience(), Duration::from_millis(50), || {
        job.sockets().ok().filter(|held| *held > last + last / 2)
    });
    let grown = grown.with_context(|| format!("let go they stay at {}", mib(job.sockets().unwrap_or(0))))?;
    Ok(format!("{} a second after, {} 5 s later; let go {}", mib(first), mib(last), mib(grown)))
}

/// Many small ones: each is found, held and let go, and looking at them all five times a second costs little.
fn thousand(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let (mut flooder, daemon) = squeezed(bench, &job, "flood 500 256", 1000)?;
    let spent = || process::thread_time(daemon.pid, "memgov-squeeze").context("no such thread");
    let (begin, before) = (Instant::now(), spent()?);
    std::thread::sleep(Duration::from_secs(3));
    let busy = (spent()? - before) * 1000 / u64::try_from(begin.elapsed().as_nanos())?;
    let status = daemon.ok(&["status"])?;
    ensure!(status.contains("1000 sockets"), "status counts others: {status}");
    let begin = Instant::now();
    std::fs::write(daemon.config(), "")?;
    daemon.ok(&["reload"])?;
    let free = let_go(bench, &daemon, &mut flooder, begin)?;
    ensure!(bench.host.patience > 1 || busy <= 100, "{busy} thousandths of a processor");
    Ok(format!("1000 sockets for {busy} thousandths of a processor, free after {free:.0?}"))
}

/// Pressure that comes and goes twice a second is one squeeze; it ends a second after the last of it, and before another has passed.
fn flapping(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let (job, beside) = (bench.group("job")?, bench.group("beside")?);
    let mut server = bench.agent(&beside, "server")?;
    // Not at full speed: on a host that allows a buffer of 32 MiB, such a connection goes over the line by itself.
    let port = server.number("serve 5")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", LINE, "\"squeeze\""))?;
    let (mut reader, mut flooder) = (bench.agent(&job, "reader")?, bench.agent(&job, "flooder")?);
    reader.ask(&format!("fetch {port}"))?;
    let (mut let_go, mut crossed, mut squeezed) = (0, 0, false);
    for _ in 0..6 {
        flooder.ask("flood 32")?;
        let mut look = |during: Duration| -> Result<()> {
            let end = Instant::now() + during;
            while Instant::now() < end {
                let locked = reader.numbers("bounds")?[0];
                squeezed |= locked == 1;
                let_go += u32::from(squeezed && locked == 0);
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        };
        look(Duration::from_millis(250))?;
        flooder.ask("flood-end")?;
        look(Duration::from_millis(250))?;
    }
    let begin = Instant::now();
    let path = job.path();
    for event in daemon.events() {
        crossed += u32::from(event.order == "squeeze-begin" && event.is_of_group(&path));
    }
    let free = poll_until(bench.patience(), Duration::from_millis(5), || {
        reader.numbers("bounds").ok().filter(|bounds| bounds == &[0, 0]).map(|_| begin.elapsed())
    });
    let free = free.with_context(|| {
        let status = daemon.ok(&["status"]).unwrap_or_default();
        daemon.explain(anyhow!("it is never let go: {:?}; {status}", reader.numbers("bounds")))
    })?;
    ensure!(squeezed, "never squeezed");
    ensure!(crossed >= 3, "the line was crossed {crossed} times: that is no flapping");
    ensure!(let_go == 0, "let go in {let_go} looks while pressure came and went");
    // The last of it was a quarter of a second before.
    let (least, allowed) = (Duration::from_millis(700), Duration::from_millis(1750) * bench.host.patience);
    ensure!(free >= least && free <= allowed, "let go {free:?} after a quarter of a second without");
    Ok(format!("crossed {crossed} times, squeezed all the while, let go 250 ms + {free:?} after the last"))
}

/// A line of a group is for all below it, and for nobody beside it.
fn hierarchy(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let (top, beside) = (bench.group("job")?, bench.group("beside")?);
    top.delegate_memory()?;
    let inner = bench.group("job/inner")?;
    let daemon = counting_daemon(bench, &inner, &rule(&top, "sockets", LINE, "\"squeeze\""))?;
    let mut sibling = bench.agent(&beside, "sibling")?;
    sibling.ask("flood 4 4096")?;
    let mut flooder = bench.agent(&inner, "flooder")?;
    flooder.ask(FLOOD)?;
    let all = poll_until(bench.patience(), Duration::from_millis(5), || {
        flooder.numbers("bounds").ok().filter(|bounds| bounds[0] >= 128)
    });
    all.with_context(|| daemon.explain(anyhow!("not squeezed: {:?}", flooder.numbers("bounds"))))?;
    let other = sibling.numbers("bounds")?;
    ensure!(other == [0, 0], "the sibling's are squeezed: {other:?}");
    Ok("128 sockets below, none beside".into())
}

/// Bytes a second over so long, and that none was wrong.
fn speed(reader: &mut Agent, during: Duration) -> Result<u64> {
    let before = reader.numbers("fetched")?;
    std::thread::sleep(during);
    let after = reader.numbers("fetched")?;
    ensure!(after[1] == 0, "{} bytes were wrong or the stream broke off", after[1]);
    Ok((after[0] - before[0]) * 1_000 / ((after[2] - before[2]) / 1_000_000).max(1))
}

/// A connection that is read goes on, loses nothing, and keeps half of its speed.
fn transfer(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let (job, beside) = (bench.group("job")?, bench.group("beside")?);
    let mut server = bench.agent(&beside, "server")?;
    let port = server.number("serve")?;
    let mut reader = bench.agent(&job, "reader")?;
    // A line that is not met yet: the flood is there in both, at rest.
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", 4096 * MIB, "\"squeeze\""))?;
    reader.ask(&format!("fetch {port}"))?;
    let mut flooder = bench.agent(&job, "flooder")?;
    flooder.ask("flood 16 16384")?;
    std::thread::sleep(Duration::from_secs(2));
    let free = speed(&mut reader, Duration::from_secs(3))?;
    ensure!(reader.numbers("bounds")? == [0, 0], "squeezed before the line is met");
    std::fs::write(daemon.config(), rule(&job, "sockets", LINE, "\"squeeze\""))?;
    daemon.ok(&["reload"])?;
    let path = job.path();
    daemon.event("squeeze-begin", bench.patience(), |event| {
        event.order == "squeeze-begin" && event.is_of_group(&path)
    })?;
    let all = poll_until(bench.patience(), Duration::from_millis(5), || {
        reader.numbers("bounds").ok().filter(|bounds| bounds[0] == 1)
    });
    all.context("the transfer is not squeezed")?;
    std::thread::sleep(Duration::from_millis(500));
    let under = speed(&mut reader, Duration::from_secs(3))?;
    let locked = reader.numbers("bounds")?[0];
    ensure!(locked == 1, "it was let go in between");
    ensure!(under >= free / 2, "{} a second squeezed, {} free", mib(under), mib(free));
    let untouched = server.numbers("bounds")?;
    ensure!(untouched == [0, 0], "the neighbour's sockets are squeezed: {untouched:?}");
    Ok(format!("{} a second free, {} squeezed", mib(free), mib(under)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Reloaded,
    Asked,
    Killed,
    Both,
}

/// No buffer is locked and no unsent data bounded any more, of sockets that live on.
fn restored(bench: &mut Bench<'_>, end: End) -> Result<String> {
    let job = bench.group("job")?;
    bench.daemon_group()?;
    let (mut flooder, mut daemon) = squeezed(bench, &job, FLOOD, 128)?;
    let before = flooder.numbers("bounds")?;
    let begin = std::time::Instant::now();
    match end {
        End::Reloaded => {
            std::fs::write(daemon.config(), "")?;
            daemon.ok(&["reload"])?;
        }
        End::Asked => {
            daemon.terminate()?;
        }
        End::Killed => daemon.kill9()?,
        End::Both => {
            daemon.kill9_with_guardian()?;
            ensure!(flooder.numbers("bounds")?[0] == before[0], "nobody was there to let them go");
            daemon = bench.quiet_daemon("", &[])?;
        }
    }
    let free = let_go(bench, &daemon, &mut flooder, begin)?;
    let allowed = Duration::from_secs(2) * bench.host.patience;
    ensure!(end != End::Reloaded || free <= allowed, "let go after {free:?}");
    ensure!(flooder.number("flooded")? > 0, "no connection lives on");
    Ok(format!("{} sockets squeezed, all free after {free:?}", before[0]))
}

/// What `status --json` counts since the start: squeezed, released, refused.
fn counts(daemon: &Daemon) -> Result<[u64; 3]> {
    let said: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    let of = |key: &str| said["counts"][key].as_u64().with_context(|| format!("no {key}: {said}"));
    Ok([of("sockets_squeezed")?, of("sockets_released")?, of("sockets_refused")?])
}

/// What `keep` is told of connections: SO_RCVBUF, SO_SNDBUF, TCP_NOTSENT_LOWAT (0: left to the system), and bytes that nobody reads.
const KEPT: [&str; 6] = [
    "0 0 0 0",
    // Odd ones, of which the kernel makes twice as much.
    "50001 0 0 0",
    "0 70003 0 0",
    "150001 150001 4097 100000",
    // Less than what no buffer is made smaller than.
    "3001 5003 1 0",
    // More than a squeeze leaves.
    "0 0 1000001 0",
];

/// Sizes, the bound of unsent data and locks of sockets whose programs have set some of them, and of one that has set none.
fn sizes(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let job = bench.group("job")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", LINE, "\"squeeze\""))?;
    let mut keeper = bench.agent(&job, "keeper")?;
    for kept in KEPT {
        keeper.ask(&format!("keep {kept}"))?;
    }
    let pid = keeper.pid;
    let look = || bounds_of(pid).map_err(|errno| anyhow!("the keeper's sockets: errno {errno}"));
    let before = poll_until(bench.patience(), Duration::from_millis(50), || {
        let (first, _) = (look().ok()?, std::thread::sleep(Duration::from_millis(500)));
        look().ok().filter(|again| *again == first)
    });
    let before = before.context("the sizes of sockets at rest change")?;
    ensure!(before.len() == 2 * KEPT.len(), "{before:?}");
    ensure!(before[2].buffers[0] == 100_002 && before[2].locks == 2, "{:?}", before[2]);
    ensure!(before[6].unsent == 4097 && before[6].locks == 3, "{:?}", before[6]);
    ensure!(counts(&daemon)? == [0; 3], "{:?} before anything was squeezed", counts(&daemon)?);
    let mut flooder = bench.agent(&job, "flooder")?;
    flooder.ask("flood 16 16384")?;
    // The one with unread data and a larger buffer than that takes is held to what it has.
    let held = poll_until(bench.patience(), Duration::from_millis(20), || {
        let now = look().ok()?;
        let all = now.iter().all(|bounds| bounds.locks == 3 && (1..=128 << 10).contains(&bounds.unsent));
        (all && now[7].buffers[0] < before[7].buffers[0]).then_some(now)
    });
    let held = held.with_context(|| daemon.explain(anyhow!("not all are held: {:?}", look())))?;
    let all = (2 * KEPT.len() + 32) as u64;
    let counted = poll_until(bench.patience(), Duration::from_millis(50), || {
        counts(&daemon).ok().filter(|counts| counts[0] == all)
    });
    ensure!(counted == Some([all, 0, 0]), "{:?}, expected {all} squeezed", counts(&daemon)?);
    std::fs::write(daemon.config(), "")?;
    daemon.ok(&["reload"])?;
    let back = poll_until(bench.patience(), Duration::from_millis(20), || {
        look().ok().filter(|now| now.iter().zip(&before).all(|(now, before)| now.locks == before.locks))
    });
    let back = back.with_context(|| daemon.explain(anyhow!("still held: {:?}", look())))?;
    ensure!(back == before, "they were {before:?}, squeezed {held:?}, and are {back:?}");
    let counted = poll_until(bench.patience(), Duration::from_millis(50), || {
        counts(&daemon).ok().filter(|counts| counts[1] == all)
    });
    ensure!(counted == Some([all, all, 0]), "{:?}, expected {all} released", counts(&daemon)?);
    Ok(format!("{} sockets, {all} squeezed and {all} released by the counters", before.len()))
}

/// A size that no program has set can be odd: tcp(7) has it from a file, or from what 6.12 computes. The kernel doubles what it is told (SO_RCVBUF in socket(7)), so such a size cannot be set: it is left alone.
fn odd(bench: &mut Bench<'_>) -> Result<String> {
    let namespace = namespace().map_err(|errno| anyhow!("making a network namespace: errno {errno}"))?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo 4096 131073 6291456 > /proc/sys/net/ipv4/tcp_rmem"]);
    start_in_namespace(&mut shell, namespace.try_clone()?);
    ensure!(shell.status()?.success(), "setting tcp_rmem of a namespace");
    let job = bench.group("job")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", LINE, "\"squeeze\""))?;
    let mut keeper = Agent::start_in(&namespace, &job, "keeper", bench.patience())?;
    keeper.ask("keep 0 0 0 0")?;
    let pid = keeper.pid;
    let look = || bounds_of(pid).map_err(|errno| anyhow!("the keeper's sockets: errno {errno}"));
    let before = look()?;
    let free = |bounds: &Bounds| bounds.locks == 0 && bounds.unsent == 0;
    ensure!(before.len() == 2 && before.iter().all(|it| it.buffers[0] == 131_073 && free(it)), "{before:?}");
    let mut flooder = Agent::start_in(&namespace, &job, "flooder", bench.patience())?;
    flooder.ask("flood 16 16384")?;
    let until = |what: &str, is: &dyn Fn(&Bounds) -> bool| {
        let seen = poll_until(bench.patience(), Duration::from_millis(20), || {
            look().ok().filter(|now| now.iter().all(is))
        });
        seen.with_context(|| daemon.explain(anyhow!("not {what}: {:?}", look())))
    };
    until("squeezed", &|now| now.locks == 3)?;
    std::fs::write(daemon.config(), "")?;
    daemon.ok(&["reload"])?;
    let after = until("let go", &free)?;
    let sends = |all: &[Bounds]| all.iter().map(|it| it.buffers[1]).collect::<Vec<_>>();
    ensure!(after.iter().all(|it| it.buffers[0] == 131_073), "{after:?}, before {before:?}");
    ensure!(sends(&after) == sends(&before), "{after:?}, before {before:?}");
    Ok(format!("{} before, {} after", before[0].buffers[0], after[0].buffers[0]))
}

/// Over a line for sockets that only records, nothing is there that squeezes: no thread, no socket with a bound, no program in the kernel.
fn idle(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let job = bench.group("job")?;
    let daemon = counting_daemon(bench, &job, &rule(&job, "sockets", LINE, "\"record\""))?;
    let mut flooder = bench.agent(&job, "flooder")?;
    flooder.ask("flood 16 16384")?;
    let path = job.path();
    daemon.event("record", bench.patience(), |event| event.order == "record" && event.is_of_group(&path))?;
    std::thread::sleep(Duration::from_secs(1));
    let threads = process::threads(daemon.pid);
    ensure!(threads.iter().any(|name| name == "memgov"), "its threads are {threads:?}");
    ensure!(!threads.iter().any(|name| name.starts_with("memgov-squeeze")), "{threads:?}");
    let programs = || {
        let open = process::open_files(daemon.pid).into_iter();
        open.filter(|file| file.contains("bpf")).collect::<Vec<_>>()
    };
    let without = programs();
    ensure!(bench.host.tier == Tier::Bpf || without.is_empty(), "programs in the kernel: {without:?}");
    ensure!(flooder.numbers("bounds")? == [0, 0], "bounded: {:?}", flooder.numbers("bounds")?);
    ensure!(counts(&daemon)? == [0; 3], "{:?}", counts(&daemon)?);
    // That they would be seen.
    std::fs::write(daemon.config(), rule(&job, "sockets", LINE, "\"squeeze\""))?;
    daemon.ok(&["reload"])?;
    let begun = poll_until(bench.patience(), Duration::from_millis(20), || {
        let threads = process::threads(daemon.pid);
        threads.iter().any(|name| name.starts_with("memgov-squeeze")).then_some(threads)
    });
    let begun = begun.with_context(|| format!("no thread squeezes: {:?}", process::threads(daemon.pid)))?;
    let with = programs();
    ensure!(with.len() == without.len(), "from outside in both tiers, and now {with:?}");
    Ok(format!("{threads:?} without, {begun:?} with"))
}
