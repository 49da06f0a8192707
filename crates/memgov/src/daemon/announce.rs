//! Tells people of a question: on the terminals of who is logged in (`wall`), and on desktops that have a session bus (`notify-send`). On a thread of its
//! own, behind the record; whoever does not end in time is killed, and whoever is not installed is done without. The question stands in the record and in
//! `memgov status` whatever comes of it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::record::Journal;
use crate::serve::wire::{Event, Target};
use crate::terminal;

/// Questions that may wait to be told of; they are told together.
const QUEUE: usize = 32;
/// So long a program may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Desktops that are told.
const DESKTOPS: usize = 8;
/// Where each user who is logged in has a directory.
const USERS: &str = "/run/user";

/// Starts the thread. One that cannot be started is said and done without.
pub(super) fn start(journal: &Journal) {
    let (announcer, asked) = sync_channel(QUEUE);
    let started = std::thread::Builder::new().name("memgov-ask".into()).spawn(move || run(&asked));
    match started {
        Ok(_) => journal.announce_by(announcer),
        Err(error) => super::say(&format!("memgov: no thread to tell people of questions: {error}")),
    }
}

fn run(asked: &Receiver<Event>) {
    while let Ok(first) = asked.recv() {
        let mut text = sentence(&first);
        for event in asked.try_iter() {
            text.push_str(&sentence(&event));
        }
        let running: Vec<Child> = wall(&text).into_iter().chain(desktops(&text)).collect();
        end(running, Instant::now() + PATIENCE);
    }
}

/// What people are told.
fn sentence(event: &Event) -> String {
    let path = match &event.target {
        Target::Group { path, .. } => path.as_str(),
        Target::Process { .. } | Target::Host {} => "?",
    };
    let asked = event.question.as_ref().map(|asked| asked.sentence()).unwrap_or_default();
    let text = format!("memgov: {path} is frozen: {}. What is to happen? {asked}\n", event.reason.text);
    terminal::lines(&text)
}

fn wall(text: &str) -> Option<Child> {
    let mut command = Command::new("wall");
    let mut child = spawn(command.stdin(Stdio::piped()))?;
    // Less than a pipe holds, so this does not wait; whoever does not read it has ended.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(text.as_bytes()));
    Some(child)
}

/// Each user's own program, with his own rights, at his own bus.
fn desktops(text: &str) -> Vec<Child> {
    let Ok(entries) = fs::read_dir(USERS) else { return Vec::new() };
    let on_desktop = entries.flatten().filter_map(|entry| {
        let there = entry.metadata().ok()?;
        let is_bus = fs::symlink_metadata(entry.path().join("bus")).ok()?.file_type().is_socket();
        is_bus.then(|| notify(&entry.path(), there.uid(), there.gid(), text))
    });
    on_desktop.take(DESKTOPS).flatten().collect()
}

fn notify(user: &Path, uid: u32, gid: u32, text: &str) -> Option<Child> {
    // Notifications know some markup.
    let plain = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut command = Command::new("notify-send");
    command.args([
        "--urgency=critical",
        "--app-name=memgov",
        "Out of memory: a job is frozen",
        plain.trim_end(),
    ]);
    command.env("XDG_RUNTIME_DIR", user);
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", user.join("bus").display()));
    spawn(command.stdin(Stdio::null()).current_dir("/").uid(uid).gid(gid))
}

fn spawn(command: &mut Command) -> Option<Child> {
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            let program = command.get_program().display();
            super::say(&format!("memgov: telling people of a question: {program}: {error}"));
            None
        }
    }
}

/// Waits for them all, and kills who is left at the end.
fn end(mut running: Vec<Child>, until: Instant) {
    while Instant::now() < until {
        running.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if running.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for child in &mut running {
        // It fails only if it has just ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_end_in_time_is_ended() {
        let spawned = spawn(Command::new("sleep").arg("600").stdin(Stdio::null())).unwrap();
        let pid = spawned.id();
        let begin = Instant::now();
        end(vec![spawned], begin + Duration::from_millis(50));
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_program_that_is_not_there_is_done_without() {
        assert!(spawn(&mut Command::new("memgov-no-such-program")).is_none());
    }
}
