//! WL 9: one line an episode, in the letter's form, re-armed when the group is back at its high.

use anyhow::{Result, anyhow, ensure};

use crate::harness::MIB;
use crate::harness::bench::{Bench, CLIMIT, PACE, Rig, T, word};
use crate::harness::event::Event;
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_09_log_once_and_rearmed", once).seconds(60),
        Test::new("wl_09_log_only_if_asked", only_if_asked).seconds(45),
        Test::new("wl_09_log_direct_has_no_group", direct),
    ]
}

const DENIED: &str = "Action: return ENOMEM on some syscalls";

/// `Cgroup: job, Comm: hog, Pid: 7, Mem: 25600 pages, Action: ...`, and the pages.
fn pages_of(line: &str, group: &str, pid: i32) -> Result<u64> {
    let front = format!("Cgroup: {group}, Comm: hog, Pid: {pid}, Mem: ");
    let pages = line.strip_prefix(&front).and_then(|rest| rest.strip_suffix(&format!(" pages, {DENIED}")));
    let pages = pages.and_then(|pages| pages.parse().ok());
    pages.ok_or_else(|| anyhow!("expected {front:?}N pages, {DENIED:?}; got {line:?}"))
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().filter_map(|event| event.log.clone()).collect()
}

fn once(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    rig.daemon.set_memctl(rig.hog.pid, word::DENY | word::LOG, CLIMIT, 0)?;
    for episode in 1..=2 {
        if episode == 2 {
            rig.return_near_the_line(bench)?;
        }
        rig.grow(130 * MIB)?;
        rig.daemon.event("a log line for each episode", bench.patience() * 2, |_| {
            lines(&rig.daemon.events()).len() >= episode
        })?;
        std::thread::sleep(T * 3);
        let seen = lines(&rig.daemon.events());
        ensure!(seen.len() == episode, "episode {episode}: expected {episode} lines so far, got {seen:?}");
        let pages = pages_of(&seen[episode - 1], "job", rig.hog.pid)?;
        let line_pages = 108 * MIB / 4096;
        ensure!(
            pages > line_pages && pages < 2 * line_pages,
            "expected a little over {line_pages} pages, got {pages}"
        );
        rig.hog.ask("free")?;
        rig.daemon.event("deny-end", bench.patience(), |event| {
            event.order == "deny-end"
                && rig.daemon.events().iter().filter(|e| e.order == "deny-end").count() == episode
        })?;
    }
    Ok(lines(&rig.daemon.events()).remove(0))
}

fn only_if_asked(bench: &mut Bench<'_>) -> Result<String> {
    let mut rig = Rig::near_the_line(bench)?;
    rig.daemon.set_memctl(rig.hog.pid, word::DENY, CLIMIT, 0)?;
    rig.grow(130 * MIB)?;
    let event = rig.daemon.event("deny-begin", bench.patience() * 2, |event| event.order == "deny-begin")?;
    ensure!(event.log.is_none(), "LOG is not set: expected no line, got {:?}", event.log);
    Ok(String::new())
}

fn direct(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut hog = bench.agent(&job, "hog")?;
    daemon.set_memctl(hog.pid, word::DENY | word::LOG | word::DIRECT | word::ANON, 0, 32 * MIB)?;
    hog.grow("anon", MIB, PACE, 48 * MIB)?;
    let event = daemon.event("deny-begin", bench.patience(), |event| event.order == "deny-begin")?;
    let line = event.log.ok_or_else(|| anyhow!("no log line on the first event of the episode"))?;
    let pages = pages_of(&line, "N/A", hog.pid)?;
    ensure!(pages > 32 * MIB / 4096, "expected more than {} pages, got {pages}", 32 * MIB / 4096);
    Ok(line)
}
