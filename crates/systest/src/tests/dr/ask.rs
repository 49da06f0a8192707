//! The step that asks: what is seen of it in the kernel's own files, and what each answer leads to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::agent::Agent;
use crate::harness::bench::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::event::Event;
use crate::harness::group::Group;
use crate::harness::host::{NOBODY, Need};
use crate::harness::run::Test;
use crate::harness::{MIB, poll_until, process};

pub fn tests() -> Vec<Test> {
    let test = |name, run: fn(&mut Bench<'_>) -> Result<String>| {
        Test::new(name, run).needs(&[Need::Freezer]).seconds(60)
    };
    vec![
        test("dr_ask_answered_kill_is_dead", answered_kill),
        test("dr_ask_answered_go_on_runs_on", answered_go_on),
        test("dr_ask_answered_wait_stays_frozen", answered_wait),
        test("dr_ask_nobody_answers", nobody_answers),
        test("dr_ask_a_stranger_is_refused_and_the_owner_is_not", stranger),
        test("dr_ask_kill9_lets_it_run", kill9),
        test("dr_ask_two_at_once_are_answered_apart", two),
        test("dr_ask_people_are_told_and_who_hangs_harms_nobody", told),
        test("dr_ask_on_a_desktop_a_button_answers", desktop),
        test("dr_ask_replay_decides_alike", replay),
    ]
}

const LINE: u64 = 48 * MIB;

fn rule(group: &Group, details: &str) -> String {
    let path = group.path();
    format!(
        "[[rule]]\nname = {path:?}\ngroups = {path:?}\nmeter = \"usage\"\nover = \"{LINE}B\"\ndo = [{{ action = \"ask\", {details} }}]\n"
    )
}

/// A job that is over its line; frozen, as the kernel's own files say, and asked about.
struct Scene {
    job: Group,
    daemon: Daemon,
    hog: Agent,
    question: Event,
}

impl Scene {
    fn set(bench: &Bench<'_>, details: &str, arguments: &[&str]) -> Result<Self> {
        let job = bench.group("job")?;
        let daemon = bench.daemon_with(&rule(&job, details), arguments)?;
        let mut hog = bench.agent(&job, "hog")?;
        ensure!(!job.is_frozen(), "it is frozen before anything has happened");
        hog.push("anon", 80 * MIB)?;
        let question = asked(bench, &daemon, &job)?;
        still(&job, &hog)?;
        Ok(Self { job, daemon, hog, question })
    }

    fn number(&self) -> String {
        self.question.id.to_string()
    }

    fn answer(&self, words: &[&str]) -> Result<String> {
        self.daemon.ok(&[&["answer", &self.number()], words].concat())
    }

    fn thawed(&mut self, bench: &Bench<'_>) -> Result<()> {
        let thawed =
            poll_until(bench.patience(), Duration::from_millis(2), || (!self.job.is_frozen()).then_some(()));
        thawed.context("it is still frozen")?;
        // What it was frozen in is done, and the next command too: it runs.
        self.hog.ask("groups").map(|_| ())
    }
}

fn asked(bench: &Bench<'_>, daemon: &Daemon, job: &Group) -> Result<Event> {
    daemon
        .event("a question", bench.patience(), |event| event.order == "ask" && event.is_of_group(&job.path()))
}

/// The kernel's own freezer holds it, and it is there.
fn still(job: &Group, hog: &Agent) -> Result<()> {
    // The question is put in the tick in which the freezer is written.
    let frozen =
        poll_until(Duration::from_secs(5), Duration::from_millis(2), || job.is_frozen().then_some(()));
    ensure!(frozen.is_some(), "no freezer file says that it is frozen");
    ensure!(process::is_alive(hog.pid), "it is dead");
    let ticks = || process::cpu_ticks(hog.pid).context("it is gone");
    let before = ticks()?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(ticks()? == before && job.is_frozen(), "it runs");
    Ok(())
}

fn dead(bench: &Bench<'_>, daemon: &Daemon, hog: &mut Agent) -> Result<()> {
    let (_, signal) = hog.wait_for_end(bench.patience()).map_err(|error| daemon.explain(error))?;
    ensure!(signal == libc::SIGKILL, "expected death by SIGKILL, got {signal}");
    Ok(())
}

fn answered_kill(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench, "timeout = \"10m\"", &[])?;
    let listed = scene.daemon.ok(&["answer"])?;
    for word in [scene.number(), scene.job.path(), "kill in 9m".into(), "is over 48MiB".into()] {
        ensure!(listed.contains(&word), "no {word:?} in:\n{listed}");
    }
    let status = scene.daemon.ok(&["status"])?;
    ensure!(listed.lines().nth(1).is_some_and(|_| status.contains("UNANSWERED")), "not in status:\n{status}");
    let json: serde_json::Value = serde_json::from_str(&scene.daemon.ok(&["answer", "--json"])?)?;
    ensure!(json[0]["number"] == scene.question.id && json[0]["default"] == "kill", "{json}");
    scene.answer(&["kill"])?;
    dead(bench, &scene.daemon, &mut scene.hog)?;
    let kill = scene.daemon.event("the kill", bench.patience(), |event| event.came_of_it() == "dead")?;
    ensure!(kill.reason.kind == "answered" && kill.reason.text.contains("uid 0"), "{kill}");
    ensure!(kill.episode == scene.question.episode, "{kill} is not of the episode of {}", scene.question);
    let again = scene.daemon.cli(&["answer", &scene.number(), "go-on"])?;
    ensure!(
        again.code == 5 && again.stderr.contains("is not open any more: kill (uid 0 has answered)"),
        "an answer to what is answered: exit code {}, {}",
        again.code,
        again.stderr
    );
    let none = scene.daemon.cli(&["answer", "999999", "kill"])?;
    ensure!(none.code == 5 && none.stderr.contains("there is no question 999999"), "{}", none.stderr);
    Ok(kill.to_string())
}

fn answered_go_on(bench: &mut Bench<'_>) -> Result<String> {
    let open = Duration::from_secs(2) * bench.host.patience;
    let details = format!("timeout = \"{}s\" }}, {{ action = \"kill\", after = \"100ms\"", open.as_secs());
    let mut scene = Scene::set(bench, &details, &[])?;
    scene.answer(&["go-on"])?;
    scene.thawed(bench)?;
    // Longer than the question would have been open, and the next step after it.
    std::thread::sleep(open + Duration::from_secs(1));
    ensure!(scene.job.usage()? > LINE, "the group is not over any more");
    ensure!(
        process::is_alive(scene.hog.pid) && !scene.job.is_frozen(),
        "it was killed or frozen after `go-on`"
    );
    scene.daemon.no_event("a kill", Duration::ZERO, |event| event.order == "kill")?;
    scene.hog.ask("groups")?;
    Ok(scene.question.to_string())
}

fn answered_wait(bench: &mut Bench<'_>) -> Result<String> {
    let time = Duration::from_secs(3) * bench.host.patience;
    let mut scene = Scene::set(bench, &format!("timeout = \"{}s\"", time.as_secs()), &[])?;
    std::thread::sleep(Duration::from_secs(1));
    scene.answer(&["wait"])?;
    let said = |kind: &str| {
        let wanted = |event: &Event| event.order == "answered" && event.reason.kind == kind;
        scene.daemon.event(&format!("the end of it: {kind}"), bench.patience(), wanted)
    };
    let (answered, last) = (said("answered")?, said("no-answer")?);
    dead(bench, &scene.daemon, &mut scene.hog)?;
    let open = Duration::from_nanos(last.monotonic_ns - answered.monotonic_ns);
    ensure!(open >= time, "it stayed open for {open:?} after `wait`, of {time:?}");
    Ok(format!("open for {open:?} after `wait`"))
}

fn nobody_answers(bench: &mut Bench<'_>) -> Result<String> {
    let timeout = Duration::from_secs(2);
    let mut scene = Scene::set(bench, "timeout = \"2s\"", &[])?;
    dead(bench, &scene.daemon, &mut scene.hog)?;
    let kill = scene.daemon.event("the kill", bench.patience(), |event| event.order == "kill")?;
    let open = Duration::from_nanos(kill.monotonic_ns - scene.question.monotonic_ns);
    ensure!(
        open >= timeout && open < timeout + bench.patience(),
        "killed {open:?} after it was asked, of 2s"
    );
    scene.daemon.terminate()?;
    scene.job.remove()?;
    let mut scene = Scene::set(bench, "timeout = \"2s\", default = \"go-on\"", &[])?;
    scene.thawed(bench)?;
    ensure!(scene.job.usage()? > LINE, "the group is not over any more");
    scene.daemon.no_event("a kill", Duration::from_secs(1), |event| event.order == "kill")?;
    Ok(format!("killed {open:?} after the question; with default = go-on it ran on"))
}

fn stranger(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench, "timeout = \"10m\"", &[])?;
    let number = scene.number();
    let refused = scene.daemon.cli_as(NOBODY, &["answer", &number, "go-on"])?;
    ensure!(
        refused.code == 4 && refused.stderr.contains("not yours to answer"),
        "a stranger: exit code {}, {}",
        refused.code,
        refused.stderr
    );
    still(&scene.job, &scene.hog)?;
    let listed = scene.daemon.cli_as(NOBODY, &["answer"])?.stdout;
    ensure!(!listed.contains(&scene.job.path()), "a stranger is shown {listed}");
    chown(scene.job.dir(), Some(NOBODY), Some(NOBODY))?;
    let allowed = scene.daemon.cli_as(NOBODY, &["answer", &number, "go-on", "--for", "1h"])?;
    ensure!(allowed.code == 0, "the owner: exit code {}, {}", allowed.code, allowed.stderr);
    scene.thawed(bench)?;
    Ok(refused.stderr.trim().to_owned())
}

fn kill9(bench: &mut Bench<'_>) -> Result<String> {
    let job = bench.group("before")?;
    let other = bench.agent(&job, "other")?;
    let before = bench.state(&[other.pid]);
    let mut scene = Scene::set(bench, "timeout = \"10m\"", &[])?;
    let begin = Instant::now();
    scene.daemon.kill9()?;
    scene.thawed(bench)?;
    let took = begin.elapsed();
    scene.daemon.wait_companions_gone()?;
    ensure!(process::is_alive(scene.hog.pid), "it is dead");
    let left: Vec<String> = before.differences(&bench.state(&[other.pid]));
    let left: Vec<_> = left.iter().filter(|line| !line.contains("/job")).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(format!("it ran {took:?} after the daemon was killed"))
}

fn two(bench: &mut Bench<'_>) -> Result<String> {
    let jobs = [bench.group("one")?, bench.group("two")?];
    let rules = jobs.iter().map(|job| rule(job, "timeout = \"10m\"")).collect::<String>();
    let daemon = bench.daemon(&rules)?;
    let mut hogs = [bench.agent(&jobs[0], "hog-one")?, bench.agent(&jobs[1], "hog-two")?];
    for hog in &mut hogs {
        hog.push("anon", 80 * MIB)?;
    }
    let questions = [asked(bench, &daemon, &jobs[0])?, asked(bench, &daemon, &jobs[1])?];
    still(&jobs[0], &hogs[0])?;
    still(&jobs[1], &hogs[1])?;
    daemon.ok(&["answer", &questions[1].id.to_string(), "kill"])?;
    dead(bench, &daemon, &mut hogs[1])?;
    still(&jobs[0], &hogs[0])?;
    daemon.ok(&["answer", &questions[0].id.to_string(), "go-on"])?;
    hogs[0].ask("groups")?;
    ensure!(!jobs[0].is_frozen() && process::is_alive(hogs[0].pid), "the first does not run on");
    Ok(format!("{} and {}", questions[0].id, questions[1].id))
}

/// A `wall` of the test's own, found before the system's.
fn own_wall(bench: &Bench<'_>, script: &str) -> Result<PathBuf> {
    let bin = bench.dir.join("bin");
    fs::create_dir_all(&bin)?;
    let wall = bin.join("wall");
    fs::write(&wall, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&wall, fs::Permissions::from_mode(0o755))?;
    Ok(wall)
}

fn told(bench: &mut Bench<'_>) -> Result<String> {
    let heard = bench.dir.join("heard");
    own_wall(bench, &format!("cat > {0}.new\nmv {0}.new {0}\nexec sleep 600", heard.display()))?;
    let mut scene = Scene::set(bench, "timeout = \"10m\"", &[])?;
    let text = poll_until(bench.patience(), Duration::from_millis(5), || fs::read_to_string(&heard).ok());
    let text = text.context("wall was not called")?;
    for word in
        [scene.job.path(), format!("memgov answer {} kill|go-on|wait", scene.number()), "10m: kill".into()]
    {
        ensure!(text.contains(&word), "no {word:?} in {text:?}");
    }
    // It hangs, and nobody waits for it.
    scene.answer(&["go-on"])?;
    scene.thawed(bench)?;
    let guardian = scene.daemon.guardian()?;
    let left = || scene.daemon.companions().into_iter().filter(|pid| Some(*pid) != guardian).count();
    let ended =
        poll_until(Duration::from_secs(20), Duration::from_millis(20), || (left() == 0).then_some(()));
    ended.context("the `wall` that hangs is not ended")?;
    let code = scene.daemon.terminate()?;
    ensure!(code == 0, "SIGTERM: expected exit code 0, got {code}");
    Ok(text.trim().to_owned())
}

fn replay(bench: &mut Bench<'_>) -> Result<String> {
    let trace = bench.dir.join("trace");
    let arguments = ["--trace", &trace.to_string_lossy()];
    let details = "timeout = \"20s\", default = \"wait\" }, { action = \"kill\", after = \"1s\"";
    let mut scene = Scene::set(bench, details, &arguments)?;
    scene.answer(&["wait"])?;
    scene.answer(&["go-on", "--for", "2s"])?;
    scene.thawed(bench)?;
    // After that it is asked again.
    let first = scene.question.id;
    let again =
        scene.daemon.event("the second question", bench.patience(), |e| e.order == "ask" && e.id != first)?;
    scene.daemon.ok(&["answer", &again.id.to_string(), "kill"])?;
    dead(bench, &scene.daemon, &mut scene.hog)?;
    std::thread::sleep(Duration::from_millis(300));
    let said = scene.daemon.replays_alike(&trace)?;
    let text = fs::read(&trace)?;
    let answers = String::from_utf8_lossy(&text).lines().filter(|line| line.starts_with("answer ")).count();
    ensure!(answers == 3, "{answers} of 3 answers are in the trace");
    Ok(said)
}

/// Stands in for notify-send(1): puts down what it is told, and does what the test wants.
fn notifier(bench: &Bench<'_>, does: &str) -> Result<PathBuf> {
    let program = bench.dir.join("notify-send");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nfor word; do echo \"$word\"; done > {}\n{does}\n",
        bench.dir.join("said").display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

/// A button answers; and what is answered elsewhere is no longer shown.
fn desktop(bench: &mut Bench<'_>) -> Result<String> {
    let mut scene = Scene::set(bench, "timeout = \"5m\", default = \"kill\"", &[])?;
    let pressed = notifier(bench, "echo go-on")?;
    let notify = |program: &std::path::Path| -> Result<Asking> {
        let mut command = scene.daemon.command(&["notify", "--program", &program.display().to_string()]);
        Ok(Asking(command.stdout(std::process::Stdio::null()).spawn()?))
    };
    let asking = notify(&pressed)?;
    let answered = scene.daemon.event("the answer", bench.patience(), |event| event.order == "answered")?;
    drop(asking);
    let said = fs::read_to_string(bench.dir.join("said"))?;
    let expected =
        [scene.job.path().as_str(), "--action=kill=Kill it", "--action=go-on=Let it run", "Unanswered: kill"]
            .iter()
            .all(|part| said.contains(part));
    ensure!(expected, "it was shown {said:?}");
    scene.thawed(bench)?;
    // Another one, which nobody looks at there.
    let other = bench.group("other")?;
    fs::write(scene.daemon.config(), rule(&other, "timeout = \"5m\", default = \"kill\""))?;
    scene.daemon.ok(&["reload"])?;
    let pid_file = bench.dir.join("pid");
    let waiting = notifier(bench, &format!("echo $$ > {}\nexec sleep 600", pid_file.display()))?;
    let _asking = Asking(
        scene
            .daemon
            .command(&["notify", "--program", &waiting.display().to_string()])
            .stdout(std::process::Stdio::null())
            .spawn()?,
    );
    let mut hog = bench.agent(&other, "hog")?;
    hog.push("anon", 80 * MIB)?;
    let question = asked(bench, &scene.daemon, &other)?;
    let path = other.path();
    let shown = poll_until(bench.patience(), Duration::from_millis(10), || {
        fs::read_to_string(bench.dir.join("said")).ok().filter(|said| said.contains(&path))
    });
    shown.context("the second question was not shown")?;
    scene.daemon.ok(&["answer", &question.id.to_string(), "go-on"])?;
    let gone = poll_until(bench.patience(), Duration::from_millis(50), || {
        let pid = fs::read_to_string(&pid_file).ok()?.trim().parse().ok()?;
        (!process::is_alive(pid)).then_some(())
    });
    gone.context("what was answered is still shown")?;
    Ok(format!("{answered}"))
}

/// A program of a session, ended with the test.
struct Asking(std::process::Child);

impl Drop for Asking {
    fn drop(&mut self) {
        // It has ended already, at worst.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
