//! What the programs cost, as the kernel counts it: nanoseconds a run, with no rule for a process, with rules for another group, and under a rule.

use anyhow::Result;
use memgov::bpf::{Hook, RunStats, TaskAction};

use super::process::{ANON, limit, rss};
use super::rig::Rig;
use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![Test::new("bpf_cost_of_each_program", cost).needs(&[Need::Bpf]).seconds(120)]
}

fn cost(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::new(&[Hook::Deny, Hook::Charge, Hook::Rss])?;
    let _counting = RunStats::enable()?;
    let (job, other) = (bench.group("job")?, bench.group("other")?);
    let mut agent = bench.agent(&job, "worker")?;
    let mut said = vec![format!("(a) no rule: {}", measure(&mut rig, &mut agent)?)];
    rig.deny_over(&other, 512 * MIB)?;
    said.push(format!("(b) another group's: {}", measure(&mut rig, &mut agent)?));
    rig.deny_over(&job, 512 * MIB)?;
    said.push(format!("(c) its group's: {}", measure(&mut rig, &mut agent)?));
    rig.limit_process(&agent, &limit(rss(ANON, 512 * MIB), TaskAction::Deny, 1))?;
    said.push(format!("(d) and its own, refusing: {}", measure(&mut rig, &mut agent)?));
    rig.limit_process(&agent, &limit(rss(ANON, 512 * MIB), TaskAction::Kill, 1))?;
    said.push(format!("(e) its own, killing: {}", measure(&mut rig, &mut agent)?));
    Ok(said.join("\n"))
}

/// Runs a fixed amount of work and gives the nanoseconds a run of each program that ran.
fn measure(rig: &mut Rig, agent: &mut crate::harness::agent::Agent) -> Result<String> {
    let before = rig.tier.hooks();
    agent.numbers(&format!("hammer anon 16384 {} 20", 8 * MIB))?;
    let after = rig.tier.hooks();
    let each = after.iter().zip(&before).filter_map(|(after, before)| {
        let (ns, runs) = after.run?;
        let (ns_before, runs_before) = before.run.unwrap_or_default();
        let runs = runs - runs_before;
        (runs > 100).then(|| format!("{} {} ns x {runs}", after.name, (ns - ns_before) / runs))
    });
    Ok(each.collect::<Vec<_>>().join(", "))
}
