//! Owner, group and mode of files: those of the group's directory and of the process, and what the owner lends by his directory's mode.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::rig::{Files, fails, works};
use super::{LIMIT, SHRINK};
use crate::harness::bench::Bench;
use crate::harness::daemon::run_within;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files_owner_and_mode_follow_the_directory", follow).needs(&[Need::Fuse]),
        Test::new("files_of_a_directory_that_its_group_may_write", lent).needs(&[Need::Fuse]).seconds(60),
    ]
}

const MEMBER: u32 = NOBODY - 1;
const TEAM: u32 = NOBODY - 2;

fn give(group: &Group, owner: u32, mode: u32) -> Result<()> {
    for dir in group.dirs() {
        chown(dir, Some(owner), Some(TEAM))?;
        fs::set_permissions(dir, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The modes without and with what is lent, by name; the rest can be read by everybody.
const PRIVATE: [(&str, [u32; 2]); 8] = [
    (SHRINK, [0o200, 0o220]),
    ("memory.kmem.max_usage_in_bytes", [0o600, 0o660]),
    ("memory.kmem.failcnt", [0o600, 0o660]),
    ("memory.kmem.limit_in_bytes", [0o600, 0o660]),
    ("memory.sock.limit_in_bytes", [0o600, 0o660]),
    ("memory.priority", [0o600, 0o660]),
    ("memory.reservation_in_bytes", [0o600, 0o660]),
    ("memory.oom_reserve_in_bytes", [0o600, 0o660]),
];

fn expect(files: &Files, group: &Group, owner: u32, is_lent: bool) -> Result<()> {
    let (shown, is) = (fs::metadata(files.of(group, ""))?, fs::metadata(group.dir())?);
    let of = |of: &fs::Metadata| (of.uid(), of.gid(), of.mode());
    ensure!(of(&shown) == of(&is), "the directory: {:?}, not {:?}", of(&shown), of(&is));
    for entry in fs::read_dir(files.of(group, ""))?.filter_map(Result::ok) {
        let (name, found) = (entry.file_name(), entry.metadata()?);
        let listed = PRIVATE.iter().find(|(private, _)| name == *private).map(|(_, modes)| modes);
        let events = [0o400, 0o440];
        let modes = if name == "memgov.events" { &events } else { listed.unwrap_or(&[0o444; 2]) };
        let (mode, expected) = (found.mode() & 0o7777, modes[usize::from(is_lent)]);
        ensure!(
            (found.uid(), found.gid(), mode) == (owner, TEAM, expected),
            "{name:?}: {}:{} {mode:o}, expected {owner}:{TEAM} {expected:o}",
            found.uid(),
            found.gid()
        );
    }
    Ok(())
}

fn follow(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let files = Files::start(bench, &bench.dir.join("nobody.sock"))?;
    for (owner, mode, is_lent) in
        [(NOBODY, 0o755, false), (NOBODY, 0o775, true), (0, 0o775, false), (NOBODY, 0o777, true)]
    {
        give(&job, owner, mode)?;
        // The kernel remembers a directory, and not a file, for a second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        expect(&files, &job, owner, is_lent).with_context(|| format!("of {owner}, mode {mode:o}"))?;
    }
    let mut his = bench.agent(&job, "his")?;
    his.ask(&format!("become {NOBODY}"))?;
    let process = fs::metadata(format!("/proc/{}", his.pid))?;
    for file in [files.memctl(his.pid), files.mount.join(format!("process/{0}/task/{0}/memctl", his.pid))] {
        let found = fs::metadata(&file)?;
        ensure!(
            (found.uid(), found.gid(), found.mode() & 0o7777) == (NOBODY, process.gid(), 0o644),
            "{}: {}:{} {:o}",
            file.display(),
            found.uid(),
            found.gid(),
            found.mode()
        );
    }
    Ok(String::new())
}

/// A line as a user with this first group.
fn as_member(bench: &Bench<'_>, gid: u32, line: &str) -> Result<(i32, String)> {
    let mut command = Command::new("sh");
    command.args(["-c", line]).uid(MEMBER).gid(gid);
    let output = run_within(&mut command, bench.patience())?;
    Ok((output.code, output.stdout + &output.stderr))
}

fn lent(bench: &mut Bench<'_>) -> Result<String> {
    let (his, roots) = (bench.group("his")?, bench.group("roots")?);
    give(&his, NOBODY, 0o775)?;
    give(&roots, 0, 0o775)?;
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let write = |group: &Group, file: &str, text: &str| {
        format!("echo {text} | dd conv=notrunc of={}", files.of(group, file).display())
    };
    for line in [write(&his, SHRINK, "1G"), write(&his, LIMIT, "16M")] {
        let (code, said) = as_member(bench, TEAM, &line)?;
        ensure!(code == 0, "a member: `{line}`: {code}, {said}");
        let (code, said) = as_member(bench, MEMBER, &line)?;
        ensure!(code > 0 && said.contains("denied"), "a stranger: `{line}`: {code}, {said}");
    }
    let events = format!("cat {}", files.of(&his, "memgov.events").display());
    ensure!(as_member(bench, TEAM, &events)?.0 == 0, "a member may not read the events");
    // It was done in the owner's name.
    works(bench, NOBODY, &write(&his, LIMIT, "-1"))?;
    for line in [write(&roots, SHRINK, "1G"), write(&roots, LIMIT, "16M")] {
        let (code, said) = as_member(bench, TEAM, &line)?;
        ensure!(code > 0 && said.contains("denied"), "root lends nothing: `{line}`: {code}, {said}");
    }
    let as_further = format!("setpriv --reuid {MEMBER} --regid {MEMBER} --groups {TEAM} sh -c");
    // There may be none, or busybox's, which knows nothing of users.
    let further = if works(bench, 0, &format!("{as_further} 'echo yes' 2>&1 || true"))?.trim() == "yes" {
        works(bench, 0, &format!("{as_further} 'echo 16M > {}'", files.of(&his, LIMIT).display()))?;
        "by a first and by a further group"
    } else {
        "by a first group; there is no setpriv for a further one"
    };
    give(&his, NOBODY, 0o755)?;
    fails(bench, MEMBER, &write(&his, LIMIT, "32M"), "denied")?;
    let (code, said) = as_member(bench, TEAM, &write(&his, LIMIT, "32M"))?;
    ensure!(code > 0 && said.contains("denied"), "taken back: {code}, {said}");
    Ok(further.to_owned())
}
