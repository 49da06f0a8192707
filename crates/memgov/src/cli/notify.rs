//! `memgov notify`: open questions on a desktop, with buttons for the answers. A program of the user's own session, and not of the daemon's: that one starts nobody's programs. It asks by
//! notify-send(1), and says of each question what the user may say of it: his own groups', or all of them for root.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::output::{self, shown};
use super::{Exit, connect, exit};
use crate::serve::client::{Client, ClientError};
use crate::serve::wire::{self, QuestionStatus};

#[derive(Debug, Args)]
#[command(after_help = "\
A rule with the step `ask` freezes a group and asks what is to happen. This shows each question that you may answer as a notification whose buttons answer it, until
it is answered or its time is up. Needs notify-send (Debian package libnotify-bin) and a session with a notification service.

  memgov notify                                   for this session
  systemctl --user enable --now memgov-notify     the same, from the next login on too (dist/memgov-notify.service)")]
pub(crate) struct Notify {
    /// The program that shows a notification: called as notify-send(1) is
    #[arg(long, value_name = "PROGRAM", default_value = "notify-send")]
    program: OsString,
}

/// The daemon is looked for again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// Whether a question is still open is looked at so often.
const LOOK: Duration = Duration::from_secs(1);

/// What a button says, and what it answers.
const BUTTONS: [(&str, &str); 3] = [("kill", "Kill it"), ("go-on", "Let it run"), (WAIT, "Wait longer")];
/// After it the question stands on.
const WAIT: &str = "wait";

#[derive(Deserialize)]
struct Open {
    questions: Vec<QuestionStatus>,
}

fn open(client: &mut Client) -> Result<Vec<QuestionStatus>, ClientError> {
    client.call("Questions", json!({})).map(|Open { questions }| questions)
}

impl Notify {
    /// Until Ctrl-C. A daemon that goes is waited for; that there is none at the start is an error.
    pub(crate) fn run(&self, socket: Option<PathBuf>) -> anyhow::Result<()> {
        self.try_program()?;
        drop(connect(socket.clone())?);
        let mut asked = HashSet::new();
        loop {
            if let Ok(client) = &mut connect(socket.clone()) {
                // It ends with the daemon.
                let _gone = self.follow(&socket, client, &mut asked);
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Says at once what else would be said at the first question.
    fn try_program(&self) -> anyhow::Result<()> {
        let mut version = Command::new(&self.program);
        let tried = version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match tried.status() {
            Ok(_) => Ok(()),
            Err(error) => Err(Exit::with(
                exit::FAILED,
                format!(
                    "{}: {error}; install the Debian package libnotify-bin, or name another program with --program",
                    self.program.display()
                ),
            )),
        }
    }

    fn follow(
        &self,
        socket: &Option<PathBuf>,
        client: &mut Client,
        asked: &mut HashSet<Key>,
    ) -> Result<(), ClientError> {
        let about = |event: &wire::Event| event.question.is_some();
        let mut anything = true;
        // From the first event that is kept: whatever is asked is among them, or was asked before, and is looked for with the first page.
        client.follow(Some(0), |page| {
            if std::mem::take(&mut anything) || page.missed > 0 || page.events.iter().any(about) {
                match connect(socket.clone()) {
                    Ok(mut other) => {
                        self.ask_all(socket, &mut other, asked).unwrap_or_else(|_| anything = true)
                    }
                    // With the next event, then.
                    Err(_) => anything = true,
                }
            }
            Ok(true)
        })
    }

    /// Shows what is open and has not been shown.
    fn ask_all(
        &self,
        socket: &Option<PathBuf>,
        client: &mut Client,
        asked: &mut HashSet<Key>,
    ) -> Result<(), ClientError> {
        for question in open(client)? {
            if !asked.insert(key(&question)) {
                continue;
            }
            let (program, socket) = (self.program.clone(), socket.clone());
            let told = std::thread::Builder::new().name("memgov-asks".into()).spawn(move || {
                if let Err(error) = ask(&program, socket, &question) {
                    crate::terminal::complain(&format!("memgov: question {}: {error:#}", question.number));
                }
            });
            if let Err(error) = told {
                crate::terminal::complain(&format!("memgov: no thread for a notification: {error}"));
            }
        }
        Ok(())
    }
}

/// Shows one, and once more when it is to wait longer or could not be shown, until it is answered here or elsewhere.
fn ask(program: &OsString, socket: Option<PathBuf>, question: &QuestionStatus) -> anyhow::Result<()> {
    let mut said = false;
    while let Some(question) = still(&socket, question)? {
        match show(program, &socket, &question) {
            Ok(Some(pressed)) => {
                let asked = json!({ "number": question.number, "answer": pressed, "for_ns": null });
                let _answered: serde_json::Value = connect(socket.clone())?.call("Answer", asked)?;
                if pressed != WAIT {
                    return Ok(());
                }
            }
            // Closed without a word: the default comes in its time.
            Ok(None) => return Ok(()),
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    crate::terminal::complain(&format!("memgov: question {}: {error:#}", question.number));
                }
                std::thread::sleep(AGAIN);
            }
        }
    }
    Ok(())
}

/// The question as it is now, if it is open.
fn still(socket: &Option<PathBuf>, question: &QuestionStatus) -> Result<Option<QuestionStatus>, ClientError> {
    let questions = connect(socket.clone()).and_then(|mut client| open(&mut client))?;
    Ok(questions.into_iter().find(|it| key(it) == key(question)))
}

/// A number alone may come again, where a memgov was killed before it had written it down.
type Key = (u64, String);

fn key(question: &QuestionStatus) -> Key {
    (question.number, format!("{:?}", question.target))
}

/// Which button was pressed; `None`: none, or it was answered elsewhere meanwhile.
fn show(
    program: &OsString,
    socket: &Option<PathBuf>,
    question: &QuestionStatus,
) -> anyhow::Result<Option<&'static str>> {
    let mut shown =
        Command::new(program).args(words(question)).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let status = loop {
        if let Some(status) = shown.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
        if matches!(still(socket, question), Ok(None)) {
            take_down(shown);
            return Ok(None);
        }
    };
    anyhow::ensure!(status.success(), "{}: {status}", program.display());
    let mut pressed = String::new();
    if let Some(mut output) = shown.stdout.take() {
        output.read_to_string(&mut pressed)?;
    }
    let pressed = pressed.trim();
    Ok(BUTTONS.iter().find(|(answer, _)| *answer == pressed).map(|(answer, _)| *answer))
}

/// Nobody is to answer what is answered. (A notification service leaves it to time, or to the user, when its program goes.)
fn take_down(mut shown: Child) {
    // It has ended meanwhile, at worst.
    let _ = shown.kill();
    let _ = shown.wait();
}

/// What the program is called with.
fn words(question: &QuestionStatus) -> Vec<String> {
    let mut words: Vec<String> =
        ["--app-name=memgov", "--urgency=critical", "--wait"].map(str::to_owned).to_vec();
    words.extend(BUTTONS.iter().map(|(answer, button)| format!("--action={answer}={button}")));
    let left = Duration::from_secs(Duration::from_nanos(question.left_ns).as_secs());
    let (title, default) =
        (format!("{} is frozen", output::target(&question.target)), shown(&question.default));
    let text = format!(
        "{}. Unanswered: {default} in {}.",
        output::reason(&question.reason),
        humantime::format_duration(left)
    );
    words.extend(["--".to_owned(), title, marked_up(&text)]);
    words
}

/// The body of a notification is marked up (Desktop Notifications Specification, "Markup").
fn marked_up(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_markup() {
        assert_eq!(marked_up("usage of /a<b>&c"), "usage of /a&lt;b&gt;&amp;c");
    }
}
