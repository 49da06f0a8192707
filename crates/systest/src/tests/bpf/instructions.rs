//! What the tier adds to the calls it looks at, in instructions: on a machine whose clock counts them, so that the figures are exact and the same
//! tomorrow. Ratios in one run, with the same process making the same calls.

use anyhow::{Context, Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::group::Group;
use crate::harness::host::Need;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("instructions_of_calls_with_and_without_rules", ratios)
            .needs(&[Need::Bpf, Need::InstructionClock])
            .seconds(600),
    ]
}

/// A call, how many make a batch, and how many batches: a batch without a timer interrupt (every 4 million instructions) is among them.
const CALLS: [(&str, u64, u64); 4] =
    [("mmap", 100, 120), ("fault", 256, 120), ("fork", 5, 120), ("mkdir", 50, 120)];
/// Two runs of the same code differ by so much, in parts of a thousand: caches of the kernel's allocators fill differently.
const NOISE: u64 = 10;

/// Instructions of each of [`CALLS`].
type Figures = [u64; CALLS.len()];

fn measure(worker: &mut Agent) -> Result<Figures> {
    let mut figures = [0; CALLS.len()];
    for (figure, (call, calls, batches)) in figures.iter_mut().zip(CALLS) {
        *figure = worker.number(&format!("pace {call} {calls} {batches}"))?;
        ensure!(*figure > 100, "{call} takes {figure} instructions: the clock does not count them");
    }
    Ok(figures)
}

/// Rules that attach what the tier has, for one group that stays far under its lines.
fn rules(group: &Group) -> String {
    format!("[[rule]]\ngroups = {0:?}\nmeter = \"usage\"\nover = \"700MiB\"\ndo = [\"deny\"]\n", group.path())
}

fn ratios(bench: &mut Bench<'_>) -> Result<String> {
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let mut worker = bench.agent(&job, "worker")?;
    // Once for nothing: what is done only the first time is done then.
    measure(&mut worker)?;
    let stopped = measure(&mut worker)?;
    let daemon = bench.quiet_daemon("", &[])?;
    let idle = measure(&mut worker)?;
    drop(daemon);
    let again = measure(&mut worker)?;
    let daemon = bench.quiet_daemon(&rules(&other), &[])?;
    attached(&daemon)?;
    let of_another = measure(&mut worker)?;
    drop(daemon);
    let daemon = bench.quiet_daemon(&rules(&job), &[])?;
    attached(&daemon)?;
    let own = measure(&mut worker)?;
    let mut said = vec![
        "instructions a call: (a) memgov stopped; (b) running, no rule; (a) again; (c) rules for another group; (d) for this one, under its lines"
            .to_owned(),
    ];
    for at in 0..CALLS.len() {
        let (a, name) = (stopped[at], CALLS[at].0);
        said.push(format!(
            "{name}: (a) {a}, (b) {}, (a) {}, (c) {}, (d) {}",
            percent(idle[at], a),
            percent(again[at], a),
            percent(of_another[at], a),
            percent(own[at], a)
        ));
    }
    let said = said.join("\n");
    for at in 0..CALLS.len() {
        let most = stopped[at].max(again[at]);
        ensure!(
            idle[at] * 1000 <= most * (1000 + NOISE),
            "{}: without a rule it costs something\n{said}",
            CALLS[at].0
        );
    }
    let fork = CALLS.iter().position(|(call, ..)| *call == "fork").context("fork is measured")?;
    let most = stopped[fork].max(again[fork]);
    ensure!(of_another[fork] * 100 < most * 102, "rules for others cost fork+exit 2 % or more\n{said}");
    ensure!(own[fork] * 100 < most * 105, "its rules cost fork+exit 5 % or more\n{said}");
    Ok(said)
}

/// So much more than `base`.
fn percent(figure: u64, base: u64) -> String {
    let thousandths = (i128::from(figure) - i128::from(base)) * 10_000 / i128::from(base.max(1));
    format!(
        "{figure} ({}{}.{:02} %)",
        if thousandths < 0 { "-" } else { "+" },
        thousandths.abs() / 100,
        thousandths.abs() % 100
    )
}

/// Waits until something is attached: a rule in force that attaches nothing would cost nothing.
fn attached(daemon: &Daemon) -> Result<()> {
    let is_attached = || {
        let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"]).ok()?).ok()?;
        let hooks = status["tier"]["hooks"].as_array()?;
        (!hooks.is_empty()).then_some(())
    };
    let patience = std::time::Duration::from_secs(120);
    crate::harness::poll_until(patience, std::time::Duration::from_millis(100), is_attached)
        .context("nothing was attached for the rules")
}
