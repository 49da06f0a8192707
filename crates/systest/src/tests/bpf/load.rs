//! Loading, attaching, proving, and that nothing is left.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use memgov::bpf::{Hook, Hooks, How, Options, Tier};

use super::rig::{LONG, Rig, calls_refused};
use crate::harness::MIB;
use crate::harness::bench::Bench;
use crate::harness::host::Need;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    let test = |name, body| Test::new(name, body).needs(&[Need::Bpf]).seconds(120);
    vec![
        test("bpf_every_program_loads_and_every_refusal_is_proven", all),
        test("bpf_lsm_is_used_where_it_is_called_and_only_there", by_lsm),
        test("bpf_fmod_ret_refuses_where_lsm_is_not_used", by_fmod_ret),
    ]
}

/// Where bpf is not among the security modules, lsm programs load, attach, and are never called: the proof finds that out.
fn by_lsm(_: &mut Bench<'_>) -> Result<String> {
    let options = Options { avoid: Some(How::FmodRet), lease: LONG, ..Options::default() };
    let mut tier = Tier::load(&options)?.map_err(|absent| anyhow!("{absent}"))?;
    tier.require(Hooks::NONE.with(Hook::Deny))?;
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let active = modules.split(',').any(|name| name.trim() == "bpf");
    for hook in tier.hooks().iter().filter(|hook| hook.set == Some(Hook::Deny)) {
        let right = if active {
            hook.how == Some(How::Lsm) && hook.proven
        } else {
            hook.how.is_none() && hook.unavailable.as_ref().is_some_and(|why| why.contains("not refused"))
        };
        ensure!(right, "security modules {modules}: {hook:?}");
    }
    let why = tier.hooks().into_iter().find_map(|hook| hook.unavailable);
    Ok(format!("security modules {}; {}", modules.trim(), why.unwrap_or_else(|| "proven".to_owned())))
}

/// As where bpf is not among the security modules: proven, and what is refused is refused.
fn by_fmod_ret(bench: &mut Bench<'_>) -> Result<String> {
    let options = Options { avoid: Some(How::Lsm), lease: LONG, ..Options::default() };
    let rig = Rig::with(&[Hook::Deny], &options)?;
    for hook in rig.tier.hooks().iter().filter(|hook| hook.set == Some(Hook::Deny)) {
        ensure!(hook.how == Some(How::FmodRet) && hook.proven, "{hook:?}");
    }
    let group = bench.group("job")?;
    let mut hog = bench.agent(&group, "hog")?;
    hog.take("anon", 32 * MIB)?;
    ensure!(calls_refused(&mut hog)?.is_empty(), "refused with no line");
    rig.deny_over(&group, 24 * MIB)?;
    let refused = calls_refused(&mut hog)?;
    ensure!(refused == ["brk", "mmap", "mprotect", "mremap", "shared"], "refused: {refused:?}");
    hog.ask("free")?;
    ensure!(calls_refused(&mut hog)?.is_empty(), "refused under its line");
    Ok(String::new())
}

/// The verifier looks at some million instructions a second natively: so much is far under the second that loading may take, and a loop that it has
/// to unroll (some 60,000 instructions a program) shows.
const MOST_VERIFIED: u32 = 150_000;

/// What something took: by the clock, and of this thread's processor time, in milliseconds. The rest is waiting.
fn taking<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let milliseconds =
        |time: rustix::time::Timespec| time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1_000_000.0;
    let user = || -> Result<u64> {
        // utime, the 14th field of proc_pid_stat(5), in hundredths of a second.
        let text = std::fs::read_to_string("/proc/thread-self/stat")?;
        let fields = text.rsplit_once(')').ok_or_else(|| anyhow!("no name in {text}"))?.1;
        Ok(fields.split_whitespace().nth(11).ok_or_else(|| anyhow!("short: {text}"))?.parse::<u64>()? * 10)
    };
    let (begin, cpu_before, user_before) = (Instant::now(), milliseconds(cpu()), user()?);
    let value = f()?;
    let (clock, cpu, user) =
        (begin.elapsed(), milliseconds(cpu()) - cpu_before, user()?.saturating_sub(user_before));
    Ok((value, format!("{clock:?} ({cpu:.0} ms of processor, {user} of them outside the kernel)")))
}

fn all(_: &mut Bench<'_>) -> Result<String> {
    let (mut rig, loaded) = taking(|| Rig::new(&[]))?;
    ensure!(rig.tier.hooks().iter().all(|hook| hook.how.is_none()), "something is attached already");
    let hooks: Hooks = [Hook::Deny, Hook::Charge, Hook::Rss, Hook::Oom, Hook::Sockets].into_iter().collect();
    let ((), attached) = taking(|| Ok(rig.tier.require(hooks)?))?;
    let status = rig.tier.hooks();
    ensure!(rig.tier.in_force() == hooks, "not all in force: {status:#?}");
    let verified: u32 = status.iter().filter_map(|hook| hook.verified).sum();
    ensure!(
        verified > 0 && verified < MOST_VERIFIED,
        "the verifier looked at {verified} instructions: {status:#?}"
    );
    let ways: Vec<String> = status
        .iter()
        .filter_map(|hook| {
            Some(format!("{} {}{}", hook.how?, hook.name, if hook.proven { " (proven)" } else { "" }))
        })
        .collect();
    let ((), detached) = taking(|| Ok(rig.tier.require(Hooks::NONE)?))?;
    ensure!(rig.tier.hooks().iter().all(|hook| hook.how.is_none()), "something is still attached");
    let ((), again) = taking(|| Ok(rig.tier.require(hooks)?))?;
    Ok(format!(
        "{verified} instructions verified, loaded in {loaded}, attached in {attached}, detached in {detached}, attached again in {again}: {}",
        ways.join(", ")
    ))
}
