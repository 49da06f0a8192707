//! `kill`: the whole group or the largest of it, and who is passed over.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, T};
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;
use crate::harness::{MIB, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("kill_whole_group_with_its_subtree", whole_group),
        Test::new("kill_largest_spares_the_rest", largest),
        Test::new("kill_reaches_a_process_without_its_first_thread", headless),
        Test::new("kill_oom_group_is_respected", oom_group).needs(&[Need::V2]),
        Test::new("kill_passes_over_oom_score_adj_minus_1000", oom_score_adj).needs(&[Need::SysResource]),
        Test::new("kill_passes_over_the_never_list", never_list),
        Test::new("kill_credits_memory_on_its_way_back", credit),
        Test::new("kill_comes_last_in_a_ladder", ladder),
    ]
}

fn killing(group: &Group, victim: &str) -> String {
    format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"usage\"\nover = \"64MiB\"\ndo = [{{ action = \"kill\", victim = {victim:?} }}]\n",
        group.path()
    )
}

/// A victim of 40 MiB and a smaller process of 16 MiB, neither over alone, in one group.
fn two(bench: &Bench<'_>, job: &Group) -> Result<(Agent, Agent)> {
    let (mut large, mut small) = (bench.agent(job, "large")?, bench.agent(job, "small")?);
    large.take("anon", 40 * MIB)?;
    small.take("anon", 16 * MIB)?;
    Ok((large, small))
}

fn killed(bench: &Bench<'_>, daemon: &Daemon) -> Result<Event> {
    daemon.event("a kill seen dead", bench.patience(), |event| {
        event.order == "kill" && event.came_of_it() == "dead"
    })
}

fn expect_alive(agent: &Agent, who: &str) -> Result<()> {
    ensure!(process::is_alive(agent.pid), "{who} is dead");
    Ok(())
}

fn expect_killed(agent: &mut Agent, who: &str, bench: &Bench<'_>) -> Result<()> {
    let (_, signal) = agent.wait_for_end(bench.patience()).map_err(|error| error.context(who.to_owned()))?;
    ensure!(signal == libc::SIGKILL, "{who}: expected death by SIGKILL, got {signal}");
    Ok(())
}

/// By its own memory, which only the surviving thread's status shows.
fn headless(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let rule = format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"rss.anon\"\nover = \"64MiB\"\ndo = [\"kill\"]\n",
        job.path()
    );
    let daemon = bench.daemon(&rule)?;
    let mut hog = bench.agent(&job, "hog")?;
    let mut thread = super::deny::behead(bench, &mut hog)?;
    thread.push("anon", 80 * MIB)?;
    expect_killed(&mut hog, "the process without its first thread", bench).map_err(|e| daemon.explain(e))?;
    Ok(killed(bench, &daemon)?.to_string())
}

fn whole_group(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.delegate_memory()?;
    let (inner, beside) = (bench.group("job/inner")?, bench.group("beside")?);
    let daemon = bench.daemon(&killing(&job, "group"))?;
    let (mut large, mut small) = two(bench, &inner)?;
    let neighbour = bench.agent(&beside, "neighbour")?;
    let before = bench.state(&[neighbour.pid]);
    let _grows = small.take("anon", 40 * MIB);
    expect_killed(&mut large, "the large one", bench)?;
    expect_killed(&mut small, "the small one", bench)?;
    let event = killed(bench, &daemon)?;
    ensure!(inner.processes().is_empty(), "left in the group: {:?}", inner.processes());
    bench.back_to(&before, &[neighbour.pid], bench.patience(), "after the kill")?;
    ensure!(job.oom_kills()? == 0, "the kernel's OOM killer was faster");
    Ok(event.to_string())
}

fn largest(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&killing(&job, "largest"))?;
    let (mut large, mut small) = two(bench, &job)?;
    small.take("anon", 30 * MIB)?;
    expect_killed(&mut large, "the large one", bench)?;
    let event = killed(bench, &daemon)?;
    std::thread::sleep(T);
    expect_alive(&small, "the smaller one")?;
    let first = event.ranking.first().map(|candidate| candidate.pid);
    ensure!(first == Some(large.pid), "ranking: expected {} first, got {first:?}", large.pid);
    Ok(event.to_string())
}

fn oom_group(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    job.write("memory.oom.group", "1")?;
    let daemon = bench.daemon(&killing(&job, "largest"))?;
    let (mut large, mut small) = two(bench, &job)?;
    let _grows = small.take("anon", 30 * MIB);
    expect_killed(&mut large, "the large one", bench)?;
    expect_killed(&mut small, "the small one, of the same oom group", bench)?;
    Ok(killed(bench, &daemon)?.to_string())
}

fn protect(agent: &Agent) -> Result<()> {
    std::fs::write(format!("/proc/{}/oom_score_adj", agent.pid), "-1000")?;
    Ok(())
}

fn oom_score_adj(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&killing(&job, "largest"))?;
    let (mut large, mut small) = (bench.agent(&job, "large")?, bench.agent(&job, "small")?);
    protect(&large)?;
    large.take("anon", 40 * MIB)?;
    let _grows = small.take("anon", 30 * MIB);
    expect_killed(&mut small, "the smaller one", bench)?;
    expect_alive(&large, "the protected one")?;
    Ok(killed(bench, &daemon)?.to_string())
}

fn never_list(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&format!("[memgov]\nnever = [\"large\"]\n{}", killing(&job, "largest")))?;
    let (mut large, mut small) = (bench.agent(&job, "large")?, bench.agent(&job, "small")?);
    large.take("anon", 40 * MIB)?;
    let _grows = small.take("anon", 30 * MIB);
    expect_killed(&mut small, "the smaller one", bench)?;
    expect_alive(&large, "the one on the never-list")?;
    Ok(killed(bench, &daemon)?.to_string())
}

/// The memory of one victim is enough. While it is on its way back nobody else may be hit.
fn credit(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon(&killing(&job, "largest"))?;
    let mut others = Vec::new();
    for name in ["one", "two", "three"] {
        let mut other = bench.agent(&job, name)?;
        other.take("anon", 12 * MIB)?;
        others.push(other);
    }
    let mut large = bench.agent(&job, "large")?;
    let _grows = large.take("anon", 48 * MIB);
    expect_killed(&mut large, "the large one", bench)?;
    killed(bench, &daemon)?;
    std::thread::sleep(Duration::from_millis(800));
    for other in &others {
        expect_alive(other, "one of the small ones")?;
    }
    let kills =
        daemon.events().iter().filter(|event| event.order == "kill" && event.came_of_it() == "dead").count();
    ensure!(kills == 1, "expected 1 kill, got {kills}");
    Ok(String::new())
}

fn ladder(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let rule = format!(
        "[[rule]]\ngroups = {:?}\nmeter = \"usage\"\nover = \"64MiB\"\n\
         do = [\"deny\", {{ action = \"signal\", signal = \"SIGUSR1\", after = \"500ms\" }}, {{ action = \"kill\", after = \"1s\" }}]\n",
        job.path()
    );
    let mut hog = bench.agent(&job, "hog")?;
    hog.ask("count 10")?;
    // Over the line already, so that refusing alone does not help: at its line it would be held inside the kernel.
    hog.take("anon", 72 * MIB)?;
    let daemon = bench.daemon(&rule)?;
    let begin = |order: &'static str| move |event: &Event| event.order == order;
    let deny = daemon.event("deny-begin", bench.patience(), begin("deny-begin"))?;
    let signal = daemon.event("signal", bench.patience(), begin("signal"))?;
    let kill = daemon.event("kill", bench.patience(), begin("kill"))?;
    expect_killed(&mut hog, "the hog", bench)?;
    let step =
        |from: &Event, to: &Event| Duration::from_nanos(to.monotonic_ns.saturating_sub(from.monotonic_ns));
    let (first, second) = (step(&deny, &signal), step(&signal, &kill));
    ensure!(first >= Duration::from_millis(480), "signal {first:?} after deny, expected 500 ms");
    ensure!(second >= Duration::from_millis(980), "kill {second:?} after the signal, expected 1 s");
    ensure!(
        (deny.step, signal.step, kill.step) == (0, 1, 2),
        "steps {} {} {}",
        deny.step,
        signal.step,
        kill.step
    );
    Ok(format!("deny, signal {first:?} later, kill {second:?} later"))
}
