//! What outlives memgov: kill -9 at any moment, a hang, a farewell. Without the test harness, because the daemons here are forked, which a
//! process with threads may not do. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod rig;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use memgov::act::{Actor, Ledger, Options, Post, Verdict};
use memgov::kernel::pidfd::PidFd;
use memgov::kernel::{fork, sys};
use memgov_decide::decision::{Phase, Target};
use rig::{Rig, deny, order, run, slow};
use rustix::process::{Pid, WaitOptions, waitpid};

const LEASE: Duration = Duration::from_millis(400);
const TESTS: [(&str, fn()); 6] = [
    ("a_kill_at_any_moment_is_undone_by_the_next_start", a_kill_at_any_moment_is_undone_by_the_next_start),
    ("the_guardian_undoes_at_once_what_a_kill_left", the_guardian_undoes_at_once_what_a_kill_left),
    ("a_hung_memgov_is_killed_and_undone", a_hung_memgov_is_killed_and_undone),
    ("a_hung_memgov_that_holds_nobody_is_left_alone", a_hung_memgov_that_holds_nobody_is_left_alone),
    ("a_farewell_sends_the_guardian_away", a_farewell_sends_the_guardian_away),
    (
        "a_guardian_that_comes_too_late_undoes_all_the_same",
        a_guardian_that_comes_too_late_undoes_all_the_same,
    ),
];

fn main() -> ExitCode {
    // What `cargo test -- NAME` and `--list` mean elsewhere.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| names.is_empty() || names.iter().any(|n| name.contains(n.as_str()));
    let tests: Vec<_> = TESTS.into_iter().filter(|(name, _)| chosen(name)).collect();
    if arguments.iter().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", tests.len());
    let mut failed = 0;
    for (name, test) in &tests {
        let passed = std::panic::catch_unwind(|| rig::on_each_layout(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (tests.len() - failed, TESTS.len() - tests.len());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// Holds and lets go of a process and its group for ever.
fn churn(actor: &mut Actor, rig: &Rig, target: Target) -> ! {
    loop {
        order(actor, rig, 1, target, slow(Phase::Begin, 300));
        order(actor, rig, 2, rig.group, deny(Phase::Begin));
        order(actor, rig, 3, rig.group, slow(Phase::Begin, 300));
        run(actor, Duration::from_millis(3));
        order(actor, rig, 1, target, slow(Phase::End, 0));
        order(actor, rig, 4, target, deny(Phase::Begin));
        order(actor, rig, 3, rig.group, slow(Phase::Sustain, 10));
        run(actor, Duration::from_millis(3));
        for episode in [2, 3, 4] {
            order(actor, rig, episode, rig.group, deny(Phase::End));
            order(actor, rig, episode, rig.group, slow(Phase::End, 0));
        }
    }
}

fn reap(pid: u32) {
    waitpid(Pid::from_raw(i32::try_from(pid).unwrap()), WaitOptions::empty()).unwrap();
}

fn kill(pid: u32) {
    PidFd::open(rig::identify(pid)).unwrap().send(9).unwrap();
    reap(pid);
}

fn a_kill_at_any_moment_is_undone_by_the_next_start() {
    let mut rig = Rig::new();
    let spinners = [rig.spinner(), rig.spinner()];
    let before = rig.state();
    for round in 0..60u64 {
        let daemon = fork::fork(|| {
            let mut actor = rig.actor();
            churn(&mut actor, &rig, spinners[0])
        });
        let daemon = daemon.unwrap();
        // Spread over the churn, and different in each round.
        std::thread::sleep(Duration::from_micros(1500 + round * 379));
        kill(daemon);
        let (mut ledger, leftovers) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
        for one in ledger.undo(leftovers) {
            assert!(!matches!(one.verdict, Verdict::Failed(..)), "round {round}: {one}");
        }
        rig::settle(|| rig.state() == before);
        assert_eq!(rig.state(), before, "round {round}");
        assert_eq!(ledger.leftovers().unwrap(), [], "round {round}");
    }
}

fn post(ledger: &Ledger) -> Post {
    Post::new(Path::new(env!("CARGO_BIN_EXE_memgov")), ledger, LEASE).unwrap()
}

/// A daemon with a guardian that holds two processes, or none, and then does `last`.
fn daemon(rig: &Rig, target: Option<Target>, beats: bool) -> u32 {
    fork::fork(|| {
        let (ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
        let post = post(&ledger);
        let guardian = post.fill().unwrap();
        let options = Options { guardian: Some(guardian.pid()), ..Options::default() };
        let mut actor = Actor::new(&rig.layout, ledger, options).unwrap();
        if let Some(target) = target {
            order(&mut actor, rig, 1, target, slow(Phase::Begin, 10));
            order(&mut actor, rig, 2, rig.group, deny(Phase::Begin));
        }
        run(&mut actor, Duration::from_millis(20));
        loop {
            if beats {
                post.heart().beat(sys::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
    .unwrap()
}

fn the_guardian_undoes_at_once_what_a_kill_left() {
    let mut rig = Rig::new();
    let spinners = [rig.spinner(), rig.spinner()];
    let before = rig.state();
    let daemon = daemon(&rig, Some(spinners[0]), true);
    rig::eventually("held", || rig.state() != before);
    // Beats keep it alive longer than the lease.
    std::thread::sleep(LEASE * 2);
    assert_ne!(rig.state(), before);
    kill(daemon);
    let killed = Instant::now();
    rig::settle(|| rig.state() == before);
    assert_eq!(rig.state(), before);
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    // It lets go of the ledger when it is done, and has crossed everything out.
    let (_ledger, leftovers) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
    assert_eq!(leftovers, []);
}

fn a_hung_memgov_is_killed_and_undone() {
    let mut rig = Rig::new();
    let spinners = [rig.spinner(), rig.spinner()];
    let before = rig.state();
    let daemon = daemon(&rig, Some(spinners[0]), false);
    rig::eventually("held", || rig.state() != before);
    rig::settle(|| rig.state() == before);
    assert_eq!(rig.state(), before);
    reap(daemon);
}

fn a_hung_memgov_that_holds_nobody_is_left_alone() {
    let rig = Rig::new();
    let daemon = daemon(&rig, None, false);
    let open = PidFd::open(rig::identify(daemon)).unwrap();
    std::thread::sleep(LEASE * 3);
    assert_eq!(open.exited(), Ok(false));
    kill(daemon);
}

fn a_farewell_sends_the_guardian_away() {
    let rig = Rig::new();
    let (ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
    let guardian = post(&ledger).fill().unwrap();
    let open = PidFd::open(rig::identify(guardian.pid())).unwrap();
    // What ends a whole group of processes does not end it.
    rig::eventually("it ignores signals", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", guardian.pid())).unwrap();
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap().trim().to_owned();
        u64::from_str_radix(&ignored, 16).unwrap() & (1 << 14) != 0
    });
    for signal in [1, 2, 15] {
        open.send(signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(open.exited(), Ok(false));
    guardian.dismiss();
    assert_eq!(open.exited(), Ok(true));
}

/// Killed while its next guardian is being started: that one finds nobody to watch over, and what was left.
fn a_guardian_that_comes_too_late_undoes_all_the_same() {
    let mut rig = Rig::new();
    let spinners = [rig.spinner(), rig.spinner()];
    let before = rig.state();
    let daemon = fork::fork(|| {
        let (ledger, _) = Ledger::open_sized(&rig.ledger_path(), 64).unwrap();
        let post = post(&ledger);
        let mut actor = Actor::new(&rig.layout, ledger, Options::default()).unwrap();
        order(&mut actor, &rig, 1, spinners[0], slow(Phase::Begin, 10));
        order(&mut actor, &rig, 2, rig.group, deny(Phase::Begin));
        let _guardian = post.fill().unwrap();
        let own = PidFd::open(rig::identify(std::process::id())).unwrap();
        own.send(9).unwrap();
        unreachable!("killed");
    });
    reap(daemon.unwrap());
    rig::settle(|| rig.state() == before);
    assert_eq!(rig.state(), before);
}
