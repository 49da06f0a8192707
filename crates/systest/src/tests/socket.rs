//! The control socket under people who stall, flood and send rubbish: none of it harms the others or the governing.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::deny::denying;
use crate::harness::bench::{Bench, T, within};
use crate::harness::crossing::Crossing;
use crate::harness::daemon::{Daemon, Output};
use crate::harness::host::NOBODY;
use crate::harness::run::Test;
use crate::harness::{MIB, millis};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("socket_permissions", permissions),
        Test::new("socket_flood_harms_nobody", flood).seconds(60),
        Test::new("socket_rubbish_is_answered_or_dropped", rubbish),
        Test::new("socket_without_daemon_is_exit_code_6", no_daemon),
    ]
}

/// As another user: its own processes yes, others' no; reading of status works or is refused, but never shows others' names.
fn permissions(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let daemon = bench.daemon("")?;
    let mut own = bench.agent(&job, "own")?;
    let others = bench.agent(&job, "secretive")?;
    own.ask(&format!("become {NOBODY}"))?;
    daemon.set_memctl(others.pid, 1, 0, 0)?;
    let (own, other) = (own.pid.to_string(), others.pid.to_string());
    let memgov = [daemon.pid].into_iter().chain(daemon.companions());
    for pid in memgov.map(|pid| pid.to_string()) {
        let Output { code, stdout, stderr } = daemon.cli(&["set", "--pid", &pid, "--memctl", "1 4096 0"])?;
        ensure!(code == 5, "memgov's own process {pid}: expected exit code 5, got {code} ({stdout}{stderr})");
        ensure!(stderr.contains("memgov") && stderr.contains("cannot be governed"), "no reason: {stderr}");
    }
    let cases: [(&[&str], i32, &str); 5] = [
        (&["set", "--pid", &own, "--memctl", "1 4096 0"], 0, "its own process"),
        (&["set", "--pid", &other, "--memctl", "1 4096 0"], 4, "another's process"),
        (&["get", "--pid", &other, "--memctl"], 4, "reading another's control"),
        (&["set", "--pid", "1", "--memctl", "4 0 0"], 5, "pid 1, which cannot be governed"),
        (&["set", "--pid", "4194303", "--memctl", "1 0 0"], 5, "no such pid"),
    ];
    for (arguments, expected, what) in cases {
        let Output { code, stderr, .. } = daemon.cli_as(NOBODY, arguments)?;
        ensure!(code == expected, "{what}: expected exit code {expected}, got {code} ({})", stderr.trim());
    }
    let status = daemon.cli_as(NOBODY, &["status", "--json"])?.stdout;
    let shown = format!("\"pid\":{other}");
    ensure!(!status.replace(' ', "").contains(&shown), "status shows another user's process");
    Ok(String::new())
}

/// Connections that say nothing, say half, or do not read what they asked for.
fn crowd(daemon: &Daemon) -> Vec<UnixStream> {
    let request = b"{\"method\":\"org.varlink.service.GetInfo\"}\0";
    let mut crowd = Vec::new();
    for at in 0..100 {
        // Past the limit of clients a connection may be refused; that is one way to harm nobody.
        let Ok(mut client) = UnixStream::connect(daemon.socket()) else { continue };
        let quick = client.set_write_timeout(Some(Duration::from_millis(20)));
        let _whatever = quick.and_then(|()| match at % 3 {
            0 => Ok(()),
            1 => client.write_all(&request[..10]),
            _ => (0..200).try_for_each(|_| client.write_all(request)),
        });
        crowd.push(client);
    }
    crowd
}

fn flood(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    // On v2 a plain amount has no event: with the default pace it would be the sampling that is measured, not the flood.
    let quick = "[memgov]\npace = { slowest = \"50ms\" }\n";
    let daemon = bench.daemon(&(quick.to_owned() + &denying(&job)))?;
    let mut hog = bench.agent(&job, "hog")?;
    let crowd = crowd(&daemon);
    let crossing = Crossing::watch(&job.usage_file(), 64 * MIB, bench.patience())?;
    hog.ask(&bench.until("refused"))?;
    hog.grow("anon", MIB, Duration::from_millis(5), 128 * MIB)?;
    let crossed = crossing.wait()?;
    let refused = bench.noted(&mut hog, &daemon, "refused")?;
    let took = within("all calls refused, from the crossing on, under the flood", crossed.at, refused, T)
        .map_err(|error| daemon.explain(error))?;
    // Those that stall are dropped after 5 s; from then on at the latest everybody is served.
    let begin = Instant::now();
    let mut output = daemon.cli(&["status", "--json"])?;
    while output.code != 0 && begin.elapsed() < Duration::from_secs(10) {
        output = daemon.cli(&["status", "--json"])?;
    }
    let waited = begin.elapsed();
    ensure!(
        output.code == 0,
        "status under the flood, for {waited:?}: exit code {} {}",
        output.code,
        output.stderr
    );
    drop(crowd);
    daemon.ok(&["status", "--json"])?;
    Ok(format!("denied {} after the crossing, served after {waited:?}", millis(took)))
}

fn rubbish(bench: &mut Bench<'_>) -> Result<String> {
    let mut daemon = bench.daemon("")?;
    let long = vec![b'x'; 1 << 20];
    let deep = [b"[".repeat(50_000), vec![0]].concat();
    let cases: [(&str, &[u8]); 6] = [
        ("no JSON", b"hello\0"),
        ("binary", b"\xff\xfe\0\0\0\x01\0"),
        ("deep nesting", &deep),
        ("a request without end", &long),
        ("an unknown method", b"{\"method\":\"org.memgov.Nothing\"}\0"),
        ("wrong types", b"{\"method\":7,\"parameters\":[]}\0"),
    ];
    for (what, bytes) in cases {
        let mut client = UnixStream::connect(daemon.socket())?;
        client.set_read_timeout(Some(bench.patience()))?;
        client.set_write_timeout(Some(Duration::from_secs(1)))?;
        // It may hang up in the middle of it.
        let _hung_up = client.write_all(bytes);
        let mut answer = [0; 4096];
        let read = client.read(&mut answer);
        let stalled = matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(!stalled, "{what}: neither answered nor hung up in {:?}", bench.patience());
        ensure!(daemon.is_running(), "{what} ended the daemon\n{}", daemon.log_tail());
        daemon.ok(&["status", "--json"])?;
    }
    Ok(format!("{} kinds", cases.len()))
}

fn no_daemon(bench: &mut Bench<'_>) -> Result<String> {
    let mut daemon = bench.quiet_daemon("", &[])?;
    daemon.terminate()?;
    let output = daemon.cli(&["status"])?;
    ensure!(output.code == 6, "expected exit code 6, got {} ({})", output.code, output.stderr.trim());
    ensure!(!output.stderr.trim().is_empty(), "nothing is said about it");
    Ok(output.stderr.lines().next().unwrap_or_default().to_owned())
}
