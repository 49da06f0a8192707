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
        let answered = episode.iter().find_map(|later| {
            let said = later.question.as_ref().filter(|said| said.number == number)?;
            let word = said.answer.as_deref().filter(|word| *word != "wait")?;
            Some(format!("{word} ({})", later.reason.text))
        });
        let over = || episode.iter().find(|e| e.order == OrderKind::Relieved).map(|e| e.reason.text.clone());
        let closed = answered.or_else(over).unwrap_or_else(|| "it was answered a moment ago".into());
        none(format!("question {number} is not open any more: {closed}"))
    }

    fn answer(&self, number: u64, answer: Answer) -> Result<(), Failure> {
        let question = DecisionId(number);
        self.asker
            .ask(|reply| Request::Answer { question, answer, reply })?
            // Answered by somebody else in this moment, or back under its line.
            .map_err(|_| self.why_not_open(number))
    }
}
