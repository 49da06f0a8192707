//! The step that has a program run: before anybody is killed, and nobody is if that frees enough.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::{Event, Run};
use crate::harness::group::Group;
use crate::harness::host::NOBODY;
use crate::harness::run::Test;
use crate::harness::{MIB, mib, poll_until, process};

pub fn tests() -> Vec<Test> {
    let test = |name, run: fn(&mut Bench<'_>) -> Result<String>| Test::new(name, run).seconds(60);
    vec![
        test("dr_hook_frees_64_mib_and_nobody_dies", frees),
        test("dr_hook_frees_nothing_and_the_kill_follows", frees_nothing),
        test("dr_hook_hangs_and_is_killed_with_its_children", hangs),
        test("dr_hook_kill9_and_sigterm_leave_nothing_running", ended),
        test("dr_hook_missing_program_makes_nobody_wait", missing),
        test("dr_hook_is_an_ordinary_program_in_memgovs_group", ordinary),
        test("dr_hook_output_is_bounded_and_harmless", output),
        test("dr_hook_eight_at_a_time", eight),
        test("dr_hook_dry_run_runs_nothing", dry_run),
        test("dr_hook_is_not_to_be_had_by_request", by_request),
        test("dr_hook_check_host_finds_what_others_may_write", check_host),
        test("dr_hook_replay_decides_alike", replay),
    ]
}

const LINE: u64 = 48 * MIB;
const HELD: u64 = 96 * MIB;
/// What DR 7 has a hook free.
const FREED: u64 = 64 * MIB;

fn rule(group: &Group, program: &Path, details: &str) -> String {
    format!(
        "[[rule]]\nname = \"drop, then kill\"\ngroups = {:?}\nover = \"{LINE}B\"\n\
         do = [{{ action = \"hook\", run = [{program:?}, \"--fast\", \"two words\"], {details} }}, {{ action = \"kill\", after = \"0s\" }}]\n",
        group.path()
    )
}

/// A program of the test's own; `$DIR` is where it may leave what the test looks at.
fn script(bench: &Bench<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let program = bench.dir.join(name);
    fs::write(&program, format!("#!/bin/sh\nDIR={:?}\n{text}\n", bench.dir))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

/// A job that is over its line, for which a program is told to run.
struct Scene {
    job: Group,
    daemon: Daemon,
    hog: Agent,
    hook: Event,
}

impl Scene {
    fn set(bench: &Bench<'_>, text: &str, details: &str, arguments: &[&str]) -> Result<Self> {
        let program = script(bench, "drop-cache", text)?;
        Self::with(bench, &program, details, arguments)
    }

    fn with(bench: &Bench<'_>, program: &Path, details: &str, arguments: &[&str]) -> Result<Self> {
        let job = bench.group("job")?;
        let daemon = bench.daemon_with(&rule(&job, program, details), arguments)?;
        let mut hog = bench.agent(&job, "hog")?;
        hog.push("anon", HELD)?;
        let hook = daemon.event("a hook", bench.patience(), |event| event.order == "hook")?;
        Ok(Self { job, daemon, hog, hook })
    }

    /// What came of the program.
    fn ran(&self, bench: &Bench<'_>) -> Result<(Event, Run)> {
        super::ran(&self.daemon, self.hook.id, bench.patience() * 2)
    }

    fn killed(&mut self, bench: &Bench<'_>) -> Result<Event> {
        super::dies(&self.daemon, &mut self.hog, bench.patience() * 2)?;
        self.daemon.event("the kill", bench.patience(), |event| event.order == "kill")
    }

    /// Processes in memgov's own group but memgov and its guardian.
    fn programs(&self) -> Result<Vec<i32>> {
        let guardian = self.daemon.guardian()?;
        Ok(self.daemon.companions().into_iter().filter(|pid| Some(*pid) != guardian).collect())
    }

    fn nothing_runs(&self, bench: &Bench<'_>) -> Result<()> {
        let none = || self.programs().is_ok_and(|left| left.is_empty()).then_some(());
        poll_until(bench.patience(), Duration::from_millis(5), none)
            .with_context(|| format!("{:?} are left", self.programs()))
    }
}

/// What the program has left for the test.
fn left(bench: &Bench<'_>, name: &str) -> Result<String> {
    let path = bench.dir.join(name);
    let whole = || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'));
    poll_until(bench.patience(), Duration::from_millis(5), whole).with_context(|| format!("no {name}"))
}

fn after(first: &Event, second: &Event) -> Duration {
    Duration::from_nanos(second.monotonic_ns.saturating_sub(first.monotonic_ns))
}

fn frees(bench: &mut Bench<'_>) -> Result<String> {
    let text = "echo \"$1 $2|$MEMGOV_GROUP|$MEMGOV_METER|$MEMGOV_USAGE_BYTES|$MEMGOV_LINE_BYTES|$MEMGOV_RULE|$MEMGOV_DECISION|$MEMGOV_CGROUP_DIR\" > $DIR/asked\n\
        until [ -e $DIR/dropped ]; do sleep 0.05; done\necho given back\necho and said so >&2";
    let mut scene = Scene::set(bench, text, "within = \"50s\"", &[])?;
    let asked = left(bench, "asked")?;
    let words: Vec<&str> = asked.trim_end().split('|').collect();
    let path = scene.job.path();
    ensure!(words[..3] == ["--fast two words", &path, "usage"], "{asked}");
    let usage: u64 = words[3].parse()?;
    ensure!(usage > LINE && words[4] == LINE.to_string(), "{asked}");
    ensure!(words[5] == "drop, then kill" && words[6] == scene.hook.id.to_string(), "{asked}");
    ensure!(Path::new(words[7]) == scene.job.dir() && scene.job.dir().exists(), "{asked}");
    let status = scene.daemon.ok(&["status"])?;
    ensure!(
        status.contains(&format!("program of #{} runs since", scene.hook.id)),
        "not in status:\n{status}"
    );
    // Longer than the kill would wait, which is not at all.
    std::thread::sleep(Duration::from_secs(1));
    let before = scene.job.usage()?;
    scene.hog.ask(&format!("shrink {}", HELD - FREED))?;
    fs::write(bench.dir.join("dropped"), "")?;
    let (event, run) = scene.ran(bench)?;
    ensure!((run.ended.as_str(), run.status) == ("exited", Some(0)), "{run:?}");
    let written = event.output.context("no output")?.text;
    ensure!(written == "given back\nand said so\n", "{written:?}");
    scene.daemon.event("relief", bench.patience(), |event| event.order == "relieved")?;
    scene.daemon.no_event("a kill", Duration::from_secs(1), |event| event.order == "kill")?;
    ensure!(process::is_alive(scene.hog.pid), "the job is dead");
    let freed = before.saturating_sub(scene.job.usage()?);
    ensure!(freed >= FREED - MIB, "{} freed", mib(freed));
    let explained = scene.daemon.ok(&["explain", &scene.hook.id.to_string()])?;
    for word in ["wrote    given back", "ended with status 0", "drop-cache --fast \"two words\""] {
        ensure!(explained.contains(word), "no {word:?} in:\n{explained}");
    }
    Ok(format!("{} freed, nobody killed", mib(freed)))
}

fn frees_nothing(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench, "exit 3", "within = \"40s\"", &[])?;
    let kill = scene.killed(bench)?;
    let (_, run) = scene.ran(bench)?;
    ensure!((run.ended.as_str(), run.status) == ("exited", Some(3)), "{run:?}");
    let waited = after(&scene.hook, &kill);
    ensure!(
        waited < Duration::from_secs(20),
        "killed {waited:?} after the program began: its time was waited for"
    );
    ensure!(waited >= Duration::from_nanos(run.took_ns), "killed {waited:?} after, while it ran: {run:?}");
    Ok(format!(
        "killed {waited:?} after the program began, which took {:?}",
        Duration::from_nanos(run.took_ns)
    ))
}

/// Children in a session of their own, deaf to all that can be ignored, and the program itself too.
const HANGS: &str = "trap '' TERM INT HUP\n(trap '' TERM INT HUP; setsid sleep 600 & setsid sleep 600) &\nsleep 600 &\necho $$ > $DIR/pid\nwhile :; do sleep 600; done";

fn hangs(bench: &mut Bench<'_>) -> Result<String> {
    let within = Duration::from_secs(2);
    let mut scene = Scene::set(bench, HANGS, "within = \"2s\"", &[])?;
    let pid: i32 = left(bench, "pid")?.trim().parse()?;
    let many = poll_until(bench.patience(), Duration::from_millis(2), || {
        scene.programs().ok().filter(|all| all.len() >= 5)
    });
    let all = many
        .with_context(|| format!("{:?}: not the program, its children and its keeper", scene.programs()))?;
    ensure!(all.contains(&pid) && process::is_alive(scene.hog.pid), "{all:?}, {pid}");
    let kill = scene.killed(bench)?;
    let waited = after(&scene.hook, &kill);
    let most = within + Duration::from_secs(2) + bench.patience();
    ensure!(waited >= within && waited < most, "killed {waited:?} after the program began");
    let (_, run) = scene.ran(bench)?;
    ensure!(run.ended == "overdue" && run.took_ns >= 2_000_000_000, "{run:?}");
    scene.nothing_runs(bench)?;
    ensure!(all.iter().all(|&pid| !process::is_alive(pid)), "somebody of {all:?} is left");
    Ok(format!("{} processes ended; killed {waited:?} after the program began", all.len()))
}

fn ended(bench: &mut Bench<'_>) -> Result<String> {
    let mut counted = Vec::new();
    for by in ["SIGKILL", "SIGTERM"] {
        let mut scene = Scene::set(bench, HANGS, "within = \"10m\"", &[])?;
        left(bench, "pid")?;
        let many = poll_until(bench.patience(), Duration::from_millis(2), || {
            scene.programs().ok().filter(|all| all.len() >= 5)
        });
        let all = many.with_context(|| format!("{:?} run", scene.programs()))?;
        match by {
            "SIGKILL" => scene.daemon.kill9()?,
            _ => ensure!(scene.daemon.terminate()? == 0, "{by}: not ended well"),
        }
        scene.daemon.wait_companions_gone().context(by)?;
        ensure!(all.iter().all(|&pid| !process::is_alive(pid)), "{by}: somebody of {all:?} is left");
        ensure!(process::is_alive(scene.hog.pid), "{by}: the job is dead");
        if by == "SIGTERM" {
            let journal = fs::read_to_string(scene.daemon.state_dir().join("events.jsonl"))?;
            ensure!(journal.contains("\"called-off\""), "its end is not in the record:\n{journal}");
        }
        counted.push(format!("{by}: {} ended", all.len()));
        fs::remove_file(bench.dir.join("pid"))?;
        drop(scene.hog);
        scene.job.remove()?;
    }
    Ok(counted.join(", "))
}

fn missing(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::with(bench, &bench.dir.join("no-such-program"), "within = \"50s\"", &[])?;
    let kill = scene.killed(bench)?;
    let said = scene.daemon.event("why it was not run", bench.patience(), |event| {
        event.id == scene.hook.id && event.came_of_it() == "refused"
    })?;
    let error = said.outcome.as_ref().and_then(|outcome| outcome.error.clone());
    ensure!(error.as_deref() == Some("ENOENT"), "{said}");
    let waited = after(&scene.hook, &kill);
    ensure!(waited < bench.patience(), "killed only {waited:?} after");
    Ok(format!("{error:?}, killed {waited:?} after"))
}

fn ordinary(bench: &mut Bench<'_>) -> Result<String> {
    let text = "echo $$ > $DIR/pid\nexec sleep 600";
    let scene = Scene::set(bench, text, "within = \"10m\", memory = \"32MiB\"", &[])?;
    let pid: i32 = left(bench, "pid")?.trim().parse()?;
    let named = |name: &str| process::status(pid, "Name").is_some_and(|found| found.trim() == name);
    poll_until(bench.patience(), Duration::from_millis(2), || {
        (named("sleep") || named("busybox")).then_some(())
    })
    .context("it is not asleep")?;
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    ensure!(file("oom_score_adj")?.trim() == "0", "oom_score_adj {}", file("oom_score_adj")?);
    for set in ["SigBlk", "SigIgn"] {
        let found = process::status(pid, set).context("gone")?;
        ensure!(u64::from_str_radix(found.trim(), 16) == Ok(0), "{set}: {found}");
    }
    let limits = file("limits")?;
    let limit = limits.lines().find(|line| line.starts_with("Max data size")).context("no such limit")?;
    ensure!(limit.split_whitespace().filter(|word| *word == (32 * MIB).to_string()).count() == 2, "{limit}");
    let stat = file("stat")?;
    let nice = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16));
    ensure!(nice == Some("0"), "nice {nice:?}");
    let mut open: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().map(|fd| fd.file_name()).collect();
    open.sort();
    ensure!(open == ["0", "1", "2"], "open: {open:?}");
    ensure!(fs::read_link(format!("/proc/{pid}/fd/0"))? == Path::new("/dev/null"), "its standard input");
    ensure!(fs::read_link(format!("/proc/{pid}/cwd"))? == Path::new("/"), "its directory");
    ensure!(scene.programs()?.contains(&pid), "it is not in memgov's group: {:?}", process::groups(pid));
    ensure!(!scene.job.processes().contains(&pid), "it is in the group that is out of memory");
    ensure!(process::locked_kib(pid) == Some(0), "{:?} KiB locked", process::locked_kib(pid));
    let all = fs::read(format!("/proc/{pid}/environ"))?;
    let names = all.split(|&byte| byte == 0).filter_map(|one| one.split(|&byte| byte == b'=').next());
    let foreign: Vec<_> = names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.is_empty() && !name.starts_with("MEMGOV_"))
        .collect();
    let known = ["PATH", "PWD", "SHLVL", "_", "OLDPWD"];
    ensure!(
        foreign.iter().all(|name| known.contains(&name.as_str())),
        "from memgov's own environment: {foreign:?}"
    );
    Ok(limit.to_owned())
}

fn output(bench: &mut Bench<'_>) -> Result<String> {
    let text = "printf 'a\\033[2Jb\\377\\n'\ni=0\nwhile [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done";
    let scene = Scene::set(bench, text, "within = \"50s\"", &[])?;
    let (event, run) = scene.ran(bench)?;
    ensure!(run.status == Some(0), "{run:?}: it was not read to its end");
    let output = event.output.context("no output")?;
    ensure!(
        output.text.len() < 4200 && output.text.starts_with("a\\u{1b}[2Jb\\xff\n"),
        "{:?}",
        &output.text[..40]
    );
    ensure!(output.left_out_bytes == 2000 * 41 + 8 - 4096, "{} left out", output.left_out_bytes);
    let explained = scene.daemon.ok(&["explain", &event.id.to_string()])?;
    ensure!(!explained.contains('\u{1b}'), "{explained:?}");
    Ok(format!("{} kept, {} counted", output.text.len(), output.left_out_bytes))
}

/// One program more than there is room for: that group is not waited for.
fn eight(bench: &mut Bench<'_>) -> Result<String> {
    let program = script(bench, "drop-cache", "exec sleep 600")?;
    let jobs = (0..9).map(|n| bench.group(&format!("job-{n}"))).collect::<Result<Vec<_>>>()?;
    let rules = jobs.iter().enumerate().map(|(n, job)| {
        let name = format!("rule {n}");
        rule(job, &program, "within = \"10m\"")
            .replace("drop, then kill", &name)
            .replace(&LINE.to_string(), &(4 * MIB).to_string())
    });
    let daemon = bench.daemon(&rules.collect::<String>())?;
    let mut hogs = Vec::new();
    for (n, job) in jobs.iter().enumerate() {
        let mut hog = bench.agent(job, &format!("hog-{n}"))?;
        hog.push("anon", 8 * MIB)?;
        let begun = daemon.event("a hook", bench.patience(), |event| {
            event.order == "hook" && event.is_of_group(&job.path())
        })?;
        let expected = if n < 8 { "begun" } else { "refused" };
        ensure!(begun.came_of_it() == expected, "number {n}: {begun}");
        hogs.push(hog);
    }
    let (_, signal) = hogs[8].wait_for_end(bench.patience()).map_err(|error| daemon.explain(error))?;
    ensure!(signal == libc::SIGKILL, "got {signal}");
    ensure!(hogs[..8].iter().all(|hog| process::is_alive(hog.pid)), "another was killed");
    let status: serde_json::Value = serde_json::from_str(&daemon.ok(&["status", "--json"])?)?;
    let refused = &status["counts"]["refused"];
    ensure!(refused.as_u64().is_some_and(|count| count >= 1), "not counted: {}", status["counts"]);
    Ok(format!("the ninth was refused, {refused} counted"))
}

fn dry_run(bench: &mut Bench<'_>) -> Result<String> {
    let scene = Scene::set(bench, "echo > $DIR/ran", "within = \"50s\"", &["--dry-run"])?;
    ensure!(scene.hook.came_of_it() == "dry-run", "{}", scene.hook);
    scene.daemon.event("the kill that is not made", bench.patience(), |event| {
        event.order == "kill" && event.came_of_it() == "dry-run"
    })?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(!bench.dir.join("ran").exists() && scene.programs()?.is_empty(), "it was run");
    ensure!(process::is_alive(scene.hog.pid), "the job is dead");
    Ok(scene.hook.to_string())
}

fn by_request(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    chown(job.dir(), Some(NOBODY), Some(NOBODY))?;
    let daemon = bench.daemon("")?;
    let path = job.path();
    let allowed = ["set", "--group", &path, "--over", "48MiB", "--do", "kill"];
    ensure!(
        daemon.cli_as(NOBODY, &allowed)?.code == 0,
        "the group is not his: nothing is shown by this test"
    );
    let mut said = String::new();
    for user in [NOBODY, 0] {
        let refused = daemon.cli_as(user, &["set", "--group", &path, "--over", "48MiB", "--do", "hook"])?;
        ensure!(
            refused.code != 0 && refused.stderr.contains("configuration only"),
            "uid {user}: {}",
            refused.stderr
        );
        said = refused.stderr;
    }
    Ok(said.trim().to_owned())
}

fn check_host(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("job")?;
    let program = script(bench, "drop-cache", "exit 0")?;
    let daemon = bench.daemon("")?;
    let file = bench.dir.join("checked.toml");
    fs::write(&file, rule(&job, &program, "within = \"5s\""))?;
    let check = || daemon.cli(&["check", "--host", &file.to_string_lossy()]);
    let good = check()?;
    ensure!(!good.stdout.contains("hook-program"), "{}", good.stdout);
    let mut said = Vec::new();
    for (mode, word) in [(0o757, "may be written to by others"), (0o644, "is not executable")] {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode))?;
        let bad = check()?;
        let line = bad.stdout.lines().find(|line| line.contains("hook-program")).unwrap_or_default();
        ensure!(bad.code == 3 && line.contains(word), "exit code {}: {}", bad.code, bad.stdout);
        said.push(line.to_owned());
    }
    fs::remove_file(&program)?;
    let gone = check()?;
    ensure!(
        gone.code == 3 && gone.stdout.contains("No such file"),
        "exit code {}: {}",
        gone.code,
        gone.stdout
    );
    Ok(said.join("; "))
}

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace");
    let arguments = ["--trace", &trace.to_string_lossy()];
    let mut scene = Scene::set(bench, "sleep 1\nexit 7", "within = \"40s\"", &arguments)?;
    scene.killed(bench)?;
    std::thread::sleep(Duration::from_millis(300));
    let said = scene.daemon.replays_alike(&trace)?;
    let text = fs::read(&trace)?;
    ensure!(String::from_utf8_lossy(&text).contains("\"status\":7"), "how it ended is not in the trace");
    Ok(said)
}
