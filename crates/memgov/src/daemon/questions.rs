//! Open questions, on the serving thread.

use memgov_decide::decision::DecisionId;
use memgov_decide::question::Answer;

use super::desk::Desk;
use super::queue::Request;
use crate::serve::questions::Asking;
use crate::serve::wire::{OrderKind, QuestionStatus};
use crate::serve::{Failure, FailureKind, Governed};

impl Asking for Desk {
    fn questions(&self) -> Result<Vec<QuestionStatus>, Failure> {
        self.status().map(|status| status.questions)
    }

    /// By what the journal still has of it.
    fn why_not_open(&self, number: u64) -> Failure {
        let none = |text: String| FailureKind::NoSuchQuestion.because(text);
        let Some((event, episode)) = self.journal.episode_of(number) else {
            return none(format!("there is no question {number}; `memgov answer` lists those that are open"));
        };
        if event.order != OrderKind::Ask {
            return none(format!("{number} is no question; `memgov explain {number}` tells what it is"));
        }
        let closed = episode.iter().rev().find_map(|later| match (&later.question, later.order) {
            (Some(said), OrderKind::Answered) if said.number == number => {
                Some(format!("{} ({})", said.answer.as_deref().unwrap_or("?"), later.reason.text))
            }
            (_, OrderKind::Relieved) => Some(later.reason.text.clone()),
            _ => None,
        });
        none(format!("question {number} is not open any more: {}", closed.unwrap_or("its time is up".into())))
    }

    fn answer(&self, number: u64, answer: Answer) -> Result<(), Failure> {
        let question = DecisionId(number);
        self.asker
            .ask(|reply| Request::Answer { question, answer, reply })?
            // Answered by somebody else in this moment, or back under its line.
            .map_err(|_| self.why_not_open(number))
    }
}
