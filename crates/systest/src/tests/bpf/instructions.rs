//! What the tier adds to the calls it looks at, in instructions: on a machine whose clock counts them, so that the figures are exact and the same
//! tomorrow. Ratios in one run, with the same process making the same calls; and what each program takes, by the kernel's own statistics.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memgov::bpf::RunStats;

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::poll_until;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf, Need::InstructionClock]).seconds(600);
    vec![
        test("instructions_of_calls_with_and_without_usage_rules", of_usage),
        test("instructions_of_calls_with_and_without_resident_rules", of_resident),
        test("instructions_of_calls_with_and_without_kernel_rules", of_kernel),
    ]
}

/// A call, how many make a batch, and how many batches: a batch without a timer interrupt (every 4 million instructions) is among them.
const CALLS: [(&str, u64, u64); 4] =
    [("mmap", 100, 60), ("fault", 192, 80), ("fork", 2, 200), ("mkdir", 50, 60)];
/// The least of so many rounds counts: allocators of the kernel fall into step with the batches of one.
const ROUNDS: usize = 3;
/// Two runs of the same code differ by so much, in parts of a thousand: caches of the kernel's allocators fill differently.
const NOISE: u64 = 10;
/// A fault of 8,300 instructions by up to so much, with memgov stopped both times: each takes a page from lists that are filled by the dozen.
const NOISE_OF_FAULTS: u64 = 50;
/// What rules for another group and for its own may add to fork and exit, in parts of a thousand.
const FORK_OF_ANOTHER: u64 = 20;
const FORK_OF_ITS_OWN: u64 = 50;
/// A line for kernel memory, to the group it is for: what the series' own accounting cost at worst (GK 8).
const FORK_UNDER_A_LINE: u64 = 21;

/// Instructions of each of [`CALLS`].
type Figures = [u64; CALLS.len()];

fn measure(worker: &mut Agent) -> Result<Figures> {
    let mut figures = [u64::MAX; CALLS.len()];
    for _ in 0..ROUNDS {
        for (figure, (call, calls, batches)) in figures.iter_mut().zip(CALLS) {
            *figure = worker.number(&format!("pace {call} {calls} {batches}"))?.min(*figure);
            ensure!(*figure > 100, "{call} takes {figure} instructions: the clock does not count them");
        }
    }
    Ok(figures)
}

/// Usage of the group is the meter: it is denied memory over one line, and crossing another is told.
fn of_usage(bench: &mut Bench<'_>) -> Result<String> {
    ratios(bench, FORK_OF_ITS_OWN, |group| {
        let rule = |over, does| {
            format!(
                "[[rule]]\ngroups = {:?}\nmeter = \"usage\"\nover = \"{over}MiB\"\ndo = [{does:?}]\n",
                group.path()
            )
        };
        rule(700, "deny") + &rule(600, "record")
    })
}

/// Resident memory of its processes is the meter: they are killed for it.
fn of_resident(bench: &mut Bench<'_>) -> Result<String> {
    ratios(bench, FORK_OF_ITS_OWN, |group| {
        format!(
            "[[rule]]\ngroups = {:?}\nmeter = \"rss.anon\"\nover = \"700MiB\"\ndo = [\"kill\"]\n",
            group.path()
        )
    })
}

/// Kernel memory of the group is the meter: it is refused over its line.
fn of_kernel(bench: &mut Bench<'_>) -> Result<String> {
    ratios(bench, FORK_UNDER_A_LINE, |group| {
        format!(
            "[[rule]]\ngroups = {:?}\nmeter = \"kernel\"\nover = \"500MiB\"\ndo = [\"deny\"]\n",
            group.path()
        )
    })
}

fn ratios(bench: &mut Bench<'_>, fork_of_its_own: u64, rules: fn(&Group) -> String) -> Result<String> {
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let mut worker = bench.agent(&job, "worker")?;
    let _there = bench.agent(&other, "there")?;
    // Once for nothing: what is done only the first time is done then.
    measure(&mut worker)?;
    let stopped = measure(&mut worker)?;
    let daemon = bench.quiet_daemon("", &[])?;
    let idle = measure(&mut worker)?;
    drop(daemon);
    let again = measure(&mut worker)?;
    let mut each = Vec::new();
    let mut with = |group: &Group, name: &str| -> Result<Figures> {
        let daemon = bench.quiet_daemon(&rules(group), &[])?;
        told(&daemon)?;
        let figures = measure(&mut worker)?;
        each.push(format!("programs, ({name}):\n{}", programs(&daemon, &mut worker)?));
        Ok(figures)
    };
    let of_another = with(&other, "c")?;
    let own = with(&job, "d")?;
    let mut said = vec![
        "instructions a call: (a) memgov stopped; (b) running, no rule; (a) again; (c) rules for another group; (d) for this one, under its lines"
            .to_owned(),
    ];
    for at in 0..CALLS.len() {
        let (a, name) = (stopped[at].max(again[at]), CALLS[at].0);
        said.push(format!(
            "{name}: (a) {}, (b) {}, (a) {}, (c) {}, (d) {}",
            stopped[at],
            percent(idle[at], a),
            again[at],
            percent(of_another[at], a),
            percent(own[at], a)
        ));
    }
    said.extend(each);
    let said = said.join("\n");
    println!("{said}");
    for (at, (call, ..)) in CALLS.iter().enumerate() {
        let most = stopped[at].max(again[at]);
        let noise = if *call == "fault" { NOISE_OF_FAULTS } else { NOISE };
        ensure!(
            idle[at] * 1000 <= most * (1000 + noise),
            "{call}: without a rule it costs something\n{said}"
        );
        if *call == "fork" {
            ensure!(
                of_another[at] * 1000 < most * (1000 + FORK_OF_ANOTHER),
                "rules for others cost fork+exit too much\n{said}"
            );
            ensure!(
                own[at] * 1000 <= most * (1000 + fork_of_its_own),
                "its rules cost fork+exit too much\n{said}"
            );
        }
    }
    Ok(said)
}

/// So much more than `base`.
fn percent(figure: u64, base: u64) -> String {
    let hundredths = (i128::from(figure) - i128::from(base)) * 10_000 / i128::from(base.max(1));
    let sign = if hundredths < 0 { "-" } else { "+" };
    format!("{figure} ({sign}{}.{:02} %)", hundredths.abs() / 100, hundredths.abs() % 100)
}

fn hooks(daemon: &Daemon) -> Result<Vec<serde_json::Value>> {
    let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    Ok(status["tier"]["hooks"].as_array().cloned().unwrap_or_default())
}

/// Waits until something is attached and the kernel is told of the rows: a rule in force that attaches nothing would cost nothing.
fn told(daemon: &Daemon) -> Result<()> {
    let attached = || hooks(daemon).ok().filter(|hooks| !hooks.is_empty());
    let patience = Duration::from_secs(120);
    poll_until(patience, Duration::from_millis(100), attached)
        .context("nothing was attached for the rules")?;
    // Rows are told to the kernel in the tick after they are read for the first time.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// Of each program, for each call that it runs in: how often, and how many instructions a run takes. The clock is read twice a run, which is counted
/// too; what the status itself causes is small beside so many calls.
fn programs(daemon: &Daemon, worker: &mut Agent) -> Result<String> {
    let _counting = RunStats::enable()?;
    let mut lines = Vec::new();
    for (call, calls, batches) in CALLS {
        let before = runs(daemon)?;
        worker.number(&format!("pace {call} {calls} {batches}"))?;
        let after = runs(daemon)?;
        let all = calls * batches;
        for (name, (ns, runs)) in after {
            let (ns_before, runs_before) = before.get(&name).copied().unwrap_or_default();
            let (ns, runs) = (ns.saturating_sub(ns_before), runs.saturating_sub(runs_before));
            if runs * 4 >= all {
                let tenths = runs * 10 / all;
                lines.push(format!("  {call}: {name} {} x {}.{}", ns / runs, tenths / 10, tenths % 10));
            }
        }
    }
    Ok(if lines.is_empty() { "  none runs".to_owned() } else { lines.join("\n") })
}

/// Nanoseconds and runs of each program until now.
fn runs(daemon: &Daemon) -> Result<BTreeMap<String, (u64, u64)>> {
    let of = |hook: serde_json::Value| {
        let name = hook["name"].as_str()?.to_owned();
        Some((name, (hook["run_ns"].as_u64().unwrap_or(0), hook["runs"].as_u64().unwrap_or(0))))
    };
    Ok(hooks(daemon)?.into_iter().filter_map(of).collect())
}
