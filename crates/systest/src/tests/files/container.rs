//! A container's root, in a user namespace of its own, is outside it the user to whom its 0 is mapped: at each door he may what that user may, and no more.

use std::os::unix::fs::chown;

use anyhow::{Context as _, Result, ensure};

use super::rig::{Files, fails, works};
use super::{LIMIT, SHRINK};
use crate::harness::bench::Bench;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files_in_a_user_namespace", user_namespace)
            .needs(&[Need::Fuse, Need::UserNamespaces])
            .seconds(60),
    ]
}

/// The line as root of a user namespace (user_namespaces(7)) that the user has made.
fn contained(line: &str) -> String {
    format!("unshare -U -r sh -c '{line}'")
}

fn user_namespace(bench: &mut Bench<'_>) -> Result<String> {
    let (own, other) = (bench.group("own")?, bench.group("other")?);
    for dir in own.dirs() {
        chown(dir, Some(NOBODY), None)?;
    }
    let daemon = bench.daemon("")?;
    let files = Files::start(bench, &daemon.socket())?;
    let (mut his, theirs) = (bench.agent(&other, "his")?, bench.agent(&other, "theirs")?);
    his.ask(&format!("become {NOBODY}"))?;
    ensure!(works(bench, NOBODY, &contained("id -u"))?.trim() == "0", "no root in there");

    // The files.
    for (file, text) in [(SHRINK, "64M"), (LIMIT, "16M"), (LIMIT, "-1")] {
        let line = |group| format!("echo {text} | dd conv=notrunc of={}", files.of(group, file).display());
        works(bench, NOBODY, &contained(&line(&own)))?;
        fails(bench, NOBODY, &contained(&line(&other)), "denied")?;
    }
    let memctl = |agent: &crate::harness::agent::Agent| files.memctl(agent.pid).display().to_string();
    works(bench, NOBODY, &contained(&format!("echo 1 4096 0 > {}", memctl(&his))))?;
    ensure!(daemon.memctl(his.pid)? == "1 4096 0\n", "not set: {}", daemon.memctl(his.pid)?);
    fails(bench, NOBODY, &contained(&format!("echo 1 4096 0 > {}", memctl(&theirs))), "denied")?;
    fails(bench, NOBODY, &contained(&format!("cat {}", memctl(&theirs))), "denied")?;

    // The socket.
    let command = daemon.command(&[]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let memgov = words.map(|word| word.to_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let memgov = memgov.context("a path that is no text")?.join(" ");
    let set = |group: &str| contained(&format!("{memgov} set --group {group} --over 64MiB --do deny"));
    works(bench, NOBODY, &set(&own.path()))?;
    fails(bench, NOBODY, &set(&other.path()), "owner")?;
    let control = |pid: i32| contained(&format!("{memgov} set --pid {pid} --memctl \"1 8192 0\""));
    works(bench, NOBODY, &control(his.pid))?;
    ensure!(daemon.memctl(his.pid)? == "1 8192 0\n", "not set: {}", daemon.memctl(his.pid)?);
    fails(bench, NOBODY, &control(theirs.pid), "not yours")?;
    // What root is shown of another's process they are not.
    daemon.set_memctl(theirs.pid, 1, 12288, 0)?;
    let all = daemon.ok(&["status", "--json"])?;
    let seen = works(bench, NOBODY, &contained(&format!("{memgov} status --json")))?;
    let shows = |text: &str, pid: i32| -> Result<bool> {
        let status: serde_json::Value = serde_json::from_str(text)?;
        let controls = status.pointer("/controls").and_then(serde_json::Value::as_array);
        let controls = controls.with_context(|| format!("no controls in {text}"))?;
        Ok(controls.iter().any(|control| control["pid"] == pid))
    };
    ensure!(shows(&all, his.pid)? && shows(&all, theirs.pid)?, "not even root is shown them: {all}");
    ensure!(shows(&seen, his.pid)? && !shows(&seen, theirs.pid)?, "shown in there: {seen}");
    ensure!(daemon.memctl(theirs.pid)? == "1 12288 0\n", "root's was replaced");
    Ok(String::new())
}
