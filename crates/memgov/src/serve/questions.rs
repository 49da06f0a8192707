//! Open questions and their answers: root and the owner of the group may answer.

use std::time::Duration;

use memgov_decide::question::{Answer, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

use super::permit::{self, Peer};
use super::wire::{self, QuestionStatus, Target};
use super::{Failure, FailureKind, Governed};
use crate::config::ask::verdict;

/// Longer than this is a slip of the pen, and would overflow clocks: a year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What the daemon is asked about questions.
#[allow(clippy::missing_errors_doc, reason = "each fails with the Failure that the client is told")]
pub trait Asking {
    /// Those that are open.
    fn questions(&self) -> Result<Vec<QuestionStatus>, Failure>;
    /// Why a question of this number is not open.
    fn why_not_open(&self, number: u64) -> Failure;
    /// Answers one that is.
    fn answer(&self, number: u64, answer: Answer) -> Result<(), Failure>;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    number: u64,
    answer: String,
    #[serde(default)]
    for_ns: Option<u64>,
}

pub(super) fn list(peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let mut questions = governed.questions()?;
    questions.retain(|question| permit::may_see(peer, &question.target));
    Ok(json!({ "questions": questions }))
}

pub(super) fn answer(asked: &Asked, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    let meaning = meaning(asked, peer)?;
    let number = asked.number;
    let open = governed.questions()?.into_iter().find(|question| question.number == number);
    let question = match open {
        Some(question) => question,
        None if peer.is_root() => return Err(governed.why_not_open(number)),
        // What was asked about others is none of his business.
        None => return Err(FailureKind::NoSuchQuestion.because(format!("no question {number} is open"))),
    };
    permit(&question, peer, governed)?;
    governed.answer(number, meaning)?;
    let done = wire::Answered {
        number,
        answer: asked.answer.clone(),
        target: question.target,
        for_ns: asked.for_ns,
    };
    Ok(json!({ "answered": done }))
}

fn meaning(asked: &Asked, peer: Peer) -> Result<Answer, Failure> {
    let invalid = |text: String| FailureKind::InvalidAnswer.because(text);
    let verdict = verdict(&asked.answer).map_err(invalid)?;
    let time = asked.for_ns.map(Duration::from_nanos);
    match time {
        Some(_) if verdict != Verdict::GoOn => {
            Err(invalid(format!("a time goes with `go-on`; `{}` has none", asked.answer)))
        }
        Some(time) if time.is_zero() || time > LONGEST => {
            Err(invalid("the time must be more than 0 and at most a year".into()))
        }
        _ => Ok(Answer { verdict, time, by: peer.uid }),
    }
}

/// By the owner that the group's directory has now, not by the one it had when it was asked.
fn permit(question: &QuestionStatus, peer: Peer, governed: &dyn Governed) -> Result<(), Failure> {
    let Target::Group { id, .. } = &question.target else { return permit::administer(peer) };
    if peer.is_root() {
        return Ok(());
    }
    if question.of_host {
        // He would have his job spared at others' cost.
        let text = "the question is about a shortage of the host: root may answer it";
        return Err(FailureKind::PermissionDenied.because(text));
    }
    let theirs = "the question is not yours to answer: root may, and the owner of the group";
    let facts = governed.group(&question.path).map_err(|_| FailureKind::PermissionDenied.because(theirs))?;
    if facts.id.0 != *id || permit::group(peer, &facts).is_err() {
        return Err(FailureKind::PermissionDenied.because(theirs));
    }
    Ok(())
}
