//! Loading, attaching, proving, and that nothing is left.

use std::time::Instant;

use anyhow::{Result, ensure};
use memgov::bpf::{Hook, Hooks};

use super::rig::Rig;
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("bpf_every_program_loads_and_every_refusal_is_proven", all)
            .needs(&[Need::Bpf])
            .seconds(120),
    ]
}

fn all(_: &mut Bench<'_>) -> Result<String> {
    let begin = Instant::now();
    let mut rig = Rig::new(&[])?;
    let loaded = begin.elapsed();
    ensure!(rig.tier.hooks().iter().all(|hook| hook.how.is_none()), "something is attached already");
    let begin = Instant::now();
    let hooks: Hooks = [Hook::Deny, Hook::Charge, Hook::Rss, Hook::Oom].into_iter().collect();
    rig.tier.require(hooks)?;
    let attached = begin.elapsed();
    let status = rig.tier.hooks();
    ensure!(rig.tier.in_force() == hooks, "not all in force: {status:#?}");
    let ways: Vec<String> = status
        .iter()
        .filter_map(|hook| {
            Some(format!("{} {}{}", hook.how?, hook.name, if hook.proven { " (proven)" } else { "" }))
        })
        .collect();
    let begin = Instant::now();
    rig.tier.require(Hooks::NONE)?;
    let detached = begin.elapsed();
    ensure!(rig.tier.hooks().iter().all(|hook| hook.how.is_none()), "something is still attached");
    let begin = Instant::now();
    rig.tier.require(hooks)?;
    Ok(format!(
        "loaded in {loaded:?}, attached in {attached:?}, detached in {detached:?}, attached again in {:?}: {}",
        begin.elapsed(),
        ways.join(", ")
    ))
}
