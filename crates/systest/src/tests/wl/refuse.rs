//! WL 2: over the line, every call of the letter fails with ENOMEM; under it again, every one succeeds.

use anyhow::{Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::{Bench, CLIMIT, Rig, T, expect_probe, within, word};
use crate::harness::crossing::Noticed;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, millis, process};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_02_deny_refuses_all_six_calls", refuses).seconds(45),
        Test::new("wl_02_deny_ends_with_the_excess", ends).seconds(45),
    ]
}

/// The time is taken from outside, at the limits themselves. That the calls fail is shown by a thread of the hog; it is of
/// the group too, so over the kernel's own high its answer may come as late as the kernel lets it.
fn refuses(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    let mut unmarked = bench.agent(&rig.job, "unmarked")?;
    let mut prober = rig.hog.offspring("thread", &bench.dir)?;
    probe_all_but_mlockall(&mut prober)?;
    let (pid, before) = (rig.hog.pid, process::limits(rig.hog.pid));
    let lowered = Noticed::when(bench.patience() * 3, move || process::limits(pid) != before);
    rig.daemon.set_memctl(pid, word::DENY, CLIMIT, 0)?;
    let crossing = rig.crossing(bench)?;
    prober.ask("await refused")?;
    rig.grow(160 * MIB)?;
    let crossed = crossing.wait()?;
    let event = rig.daemon.event("deny-begin of the hog", bench.patience(), |event| {
        event.is_of(pid) && event.order == "deny-begin"
    })?;
    let decided = within("decision after the crossing", crossed.at, event.monotonic_ns, T)?;
    let lowered = lowered.wait("limits lowered").map_err(|error| rig.daemon.explain(error))?;
    let lowered = within("limits lowered after the crossing", crossed.at, lowered, T)?;
    let all = bench.noted(&mut prober, &rig.daemon, "refused")?;
    let refused = within("all calls refused after the crossing", crossed.at, all, T + bench.throttle())?;
    expect_probe(bench, &mut prober, "the hog", libc::ENOMEM)?;
    expect_probe(bench, &mut unmarked, "another process of the group", 0)?;
    ensure!(process::is_alive(pid), "the hog is dead");
    let peak = mib(rig.job.usage()?.saturating_sub(crossed.usage));
    let calls = if bench.host.sys_resource { "six" } else { "five (mlockall is refused here anyway)" };
    let (decided, lowered, refused, by) = (millis(decided), millis(lowered), millis(refused), event.by());
    Ok(format!(
        "decided {decided}, limits {lowered}, {calls} calls refused {refused} after the crossing, {peak} more by {by}"
    ))
}

/// The hog holds more than may be locked on some hosts.
fn probe_all_but_mlockall(prober: &mut Agent) -> Result<()> {
    let wrong: Vec<_> =
        prober.probe()?.into_iter().filter(|(call, errno)| call != "mlockall" && *errno != 0).collect();
    ensure!(wrong.is_empty(), "before the crossing every call should succeed; {wrong:?}");
    Ok(())
}

fn ends(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    let mut prober = rig.hog.offspring("thread", &bench.dir)?;
    let (pid, before) = (rig.hog.pid, process::limits(rig.hog.pid));
    rig.daemon.set_memctl(pid, word::DENY, CLIMIT, 0)?;
    rig.grow(160 * MIB)?;
    rig.hog.note("refused").map_err(|error| rig.daemon.explain(error))?;
    prober.ask(&bench.until("allowed"))?;
    let put_back = Noticed::when(bench.patience(), move || process::limits(pid) == before);
    let freed = rig.hog.number("free")?;
    let put_back = put_back.wait("limits as before").map_err(|error| rig.daemon.explain(error))?;
    let took = within("limits put back after the memory was freed", freed, put_back, T)?;
    let allowed = bench.noted(&mut prober, &rig.daemon, "allowed")?;
    within("all calls allowed after the memory was freed", freed, allowed, T + bench.throttle())?;
    let event = rig.daemon.event("deny-end of the hog", bench.patience(), |event| {
        event.is_of(pid) && event.order == "deny-end"
    })?;
    ensure!(event.reason.kind == "relieved", "expected the reason relieved, got {}", event.reason.kind);
    Ok(format!("limits put back {} after the excess was gone", millis(took)))
}
