//! WL 1: what is set comes back as the letter says, and what the letter refuses is refused whole.

use anyhow::{Result, ensure};

use crate::harness::bench::{Bench, Rig};
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("wl_01_round_trip", round_trip),
        Test::new("wl_01_round_trip_by_names", by_names),
        Test::new("wl_01_invalid_is_refused_whole", invalid),
    ]
}

const EXAMPLE: &str = "16845315 1003520 8192\n";

fn round_trip(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::start(bench)?;
    rig.daemon.set_memctl(rig.hog.pid, 0x0101_0a03, 1_000_001, 5000)?;
    let got = rig.daemon.memctl(rig.hog.pid)?;
    ensure!(got == EXAMPLE, "expected {EXAMPLE:?}, got {got:?}");
    let pid = rig.hog.pid.to_string();
    rig.daemon.ok(&["set", "--pid", &pid, "--memctl", EXAMPLE.trim()])?;
    let got = rig.daemon.memctl(rig.hog.pid)?;
    ensure!(got == EXAMPLE, "its own text form: expected {EXAMPLE:?}, got {got:?}");
    rig.daemon.ok(&["clear", "--pid", &pid])?;
    let after = rig.daemon.cli(&["get", "--pid", &pid, "--memctl"])?;
    let none = after.code == 5 || (after.code == 0 && after.stdout.trim() == "0 0 0");
    ensure!(none, "after clear: expected no control or 0 0 0, got code {} {:?}", after.code, after.stdout);
    Ok(String::new())
}

fn by_names(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::start(bench)?;
    let pid = rig.hog.pid.to_string();
    let words = "--action signal --signal SIGUSR1 --climit 1000001B --plimit 5000B --rss anon --sigcont";
    let arguments: Vec<&str> = ["set", "--pid", &pid].into_iter().chain(words.split(' ')).collect();
    rig.daemon.ok(&arguments)?;
    let got = rig.daemon.memctl(rig.hog.pid)?;
    ensure!(got == EXAMPLE, "expected {EXAMPLE:?}, got {got:?}");
    Ok(String::new())
}

fn invalid(bench: &mut Bench<'_>) -> Result<String> {
    let rig = Rig::start(bench)?;
    let pid = rig.hog.pid.to_string();
    rig.daemon.set_memctl(rig.hog.pid, 0x0101_0a03, 1_000_001, 5000)?;
    let cases = [
        ("0x5 0 0", "action above 4"),
        ("0x4003 0 0", "signal 64"),
        ("0x00800001 0 0", "the internal LOGGED bit"),
        ("0x00100001 0 0", "an unknown flag"),
        ("0x00020001 0 4096", "DIRECT without an RSS flag"),
        ("0x01020001 0 0", "DIRECT with plimit 0"),
        ("0x100000001 0 0", "a word of 33 bits"),
        ("1 2", "two numbers"),
        ("1 x 3", "a word that is no number"),
        ("", "nothing"),
    ];
    for (text, what) in cases {
        let output = rig.daemon.cli(&["set", "--pid", &pid, "--memctl", text])?;
        ensure!(
            output.code == 2,
            "{what}: expected exit code 2, got {} ({})",
            output.code,
            output.stderr.trim()
        );
        let got = rig.daemon.memctl(rig.hog.pid)?;
        ensure!(got == EXAMPLE, "after {what} was refused: expected {EXAMPLE:?} as before, got {got:?}");
    }
    rig.daemon.set_memctl(rig.hog.pid, 0x0004_0001, 0, 0)?;
    let got = rig.daemon.memctl(rig.hog.pid)?;
    ensure!(got == "262145 0 0\n", "LOG is settable and read back: got {got:?}");
    Ok(format!("{} cases", cases.len()))
}
