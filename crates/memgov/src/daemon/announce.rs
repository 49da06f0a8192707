//! Tells people of a question, on the terminals of who is logged in (`wall`). On a thread of its own, behind the record; if it does not end in time it is
//! killed, and if it is not installed it is done without. The question stands in the record and in `memgov status` whatever comes of it.
//!
//! Not on desktops: their notifications are for a user's own programs, which memgov, exempt from the OOM killer and in a group of its own, does not start. There a program of the
//! user's session asks (`memgov notify`).

use std::io::{ErrorKind, Write};
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
/// Bytes of a sentence, so that a queue of them is less than a pipe holds (64 KiB, pipe(7)).
const LONGEST: usize = 1024;

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
        if let Some(running) = wall(&text) {
            end(running, Instant::now() + PATIENCE);
        }
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
    shortened(terminal::lines(&text))
}

/// A path may have 4 KiB, and stands there twice.
fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST - 5).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        text.push_str(" ...\n");
    }
    text
}

fn wall(text: &str) -> Option<Child> {
    let mut command = Command::new("wall");
    let mut child = spawn(command.stdin(Stdio::piped()))?;
    // Less than a pipe holds, so this does not wait; whoever does not read it has ended.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(text.as_bytes()));
    Some(child)
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

/// Waits for it, and kills it if it is left at the end.
fn end(mut running: Child, until: Instant) {
    while Instant::now() < until {
        if !matches!(running.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // It fails only if it has just ended.
    let _ = running.kill();
    let _ = running.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_end_in_time_is_ended() {
        let spawned = spawn(Command::new("sleep").arg("600").stdin(Stdio::null())).unwrap();
        let pid = spawned.id();
        let begin = Instant::now();
        end(spawned, begin + Duration::from_millis(50));
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_queue_of_long_sentences_is_less_than_a_pipe_holds() {
        let long = shortened("\u{e9}".repeat(5000));
        assert!(long.len() <= LONGEST && long.ends_with(" ...\n"));
        assert_eq!(shortened("short\n".to_owned()), "short\n");
        const { assert!((QUEUE + 1) * LONGEST < 64 << 10) };
    }

    #[test]
    fn a_program_that_is_not_there_is_done_without() {
        assert!(spawn(&mut Command::new("memgov-no-such-program")).is_none());
    }
}
