//! Sockets, as far as the kernel tells of them: a connection that comes to be in a group that is squeezed, and charges that it refuses (JW 8).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::{Need, Tier};
use crate::harness::run::Test;
use crate::harness::{MIB, loopback_up, poll_until};

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_births_are_told_and_squeezed", births),
        test("bpf_refused_charges_of_sockets_are_counted", refused),
    ]
}

fn squeezing(job: &Group) -> String {
    format!(
        "[[rule]]\nname = \"net\"\ngroups = {:?}\nmeter = \"sockets\"\nover = \"1MiB\"\ndo = [\"squeeze\"]\n",
        job.path()
    )
}

/// Connections that are opened one after the other.
const BIRTHS: u64 = 5;

/// The kernel tells of each, accepted and connected, and each is bounded. How soon is told and not judged: where a look takes 10 ms it is mostly the rest after the look before (that it is cut
/// short is a test of the thread's own, `a_birth_is_looked_for_at_once_but_not_all_the_time`).
fn births(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let outside = middle(bench, Tier::Portable)?;
    let inside = middle(bench, Tier::Bpf)?;
    ensure!(inside.1 >= BIRTHS && outside.1 == 0, "told of {} and {} births", inside.1, outside.1);
    Ok(format!("{:.0?} by looking, {:.0?} by {} words of the kernel", outside.0, inside.0, inside.1))
}

fn middle(bench: &Bench<'_>, tier: Tier) -> Result<(Duration, u64)> {
    let job = bench.group(tier.name())?;
    let mut flooder = bench.agent(&job, "flooder")?;
    let daemon = bench.quiet_daemon_of(tier, &squeezing(&job), &[])?;
    // Few: with the more there are, the longer it rests after each look.
    flooder.ask("flood 4 65536")?;
    let bounded = |agent: &mut Agent, ends: u64| {
        poll_until(bench.patience(), Duration::from_millis(1), || {
            agent.numbers("bounds").ok().filter(|bounds| bounds[0] >= ends)
        })
    };
    bounded(&mut flooder, 8)
        .with_context(|| daemon.explain(anyhow!("nothing is squeezed: {:?}", flooder.numbers("bounds"))))?;
    let mut keeper = bench.agent(&job, "keeper")?;
    let mut took = Vec::new();
    for birth in 1..=BIRTHS {
        // At another point of a look each time.
        std::thread::sleep(Duration::from_millis(300 + 37 * birth));
        keeper.ask("keep 0 0 0 0")?;
        let begin = Instant::now();
        bounded(&mut keeper, 2 * birth).with_context(|| daemon.explain(anyhow!("birth {birth}")))?;
        took.push(begin.elapsed());
    }
    took.sort();
    let [accepted, connected] =
        ["security_sock_graft", "inet_sock_set_state"].map(|hook| runs(&daemon, hook));
    let ((accepts, told_of_accepts), (connects, told_of_connects)) = (accepted?, connected?);
    ensure!(
        tier == Tier::Portable || (accepts >= BIRTHS && connects >= BIRTHS),
        "{accepts} accepted and {connects} connected"
    );
    let told = told_of_accepts + told_of_connects;
    drop((flooder, keeper, daemon));
    Ok((took[took.len() / 2], told))
}

/// How often a program has looked, and told; 0 where it is not attached.
fn runs(daemon: &Daemon, hook: &str) -> Result<(u64, u64)> {
    let said: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    let hooks = said["tier"]["hooks"].as_array().cloned().unwrap_or_default();
    let count =
        |key: &str| hooks.iter().find(|it| it["name"] == hook).map_or(0, |it| it[key].as_u64().unwrap_or(0));
    Ok((count("calls"), count("acted")))
}

/// A group at its limit receives: what cannot be charged for that is counted, for it and those above it, and for nobody else.
fn refused(bench: &mut Bench<'_>) -> Result<String> {
    loopback_up()?;
    let (above, beside) = (bench.group("above")?, bench.group("beside")?);
    above.delegate_memory()?;
    let job = bench.group("above/job")?;
    let daemon = bench.daemon(&squeezing(&beside))?;
    let (mut server, mut reader) = (bench.agent(&beside, "server")?, bench.agent(&job, "reader")?);
    let port = server.number("serve 1")?;
    reader.ask(&format!("fetch {port}"))?;
    let count = |group: &Group| -> Result<Option<u64>> {
        let text = daemon.ok(&["status", "--sockets", &group.path(), "--json"])?;
        let said: serde_json::Value = serde_json::from_str(&text)?;
        Ok(said["refused"].as_u64())
    };
    let counted = poll_until(bench.patience(), Duration::from_millis(100), || count(&job).ok().flatten());
    ensure!(counted.is_some(), "nobody counts: {}", daemon.ok(&["status"])?);
    let refused = poll_until(bench.patience(), Duration::from_millis(50), || {
        // No lower than what there is: then nobody has to be killed for it.
        let _by_a_hair = job.set_max(job.usage().ok()? + (16 << 10));
        count(&job).ok().flatten().filter(|count| *count > 0)
    });
    let refused = refused.context("the kernel refused the sockets of a group at its limit nothing")?;
    job.set_max(64 * MIB)?;
    let (above, beside) = (count(&above)?, count(&beside)?);
    ensure!(above >= Some(refused) && beside == Some(0), "{above:?} above, {beside:?} beside");
    let text = daemon.ok(&["status", "--sockets", &job.path()])?;
    ensure!(text.contains("refused by the kernel: "), "{text}");
    Ok(format!("{refused} charges refused, {above:?} with what is above, none beside"))
}
