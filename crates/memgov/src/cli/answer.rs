//! `memgov answer`: open questions, and their answers.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use memgov_decide::trend::nanos;
use serde::Deserialize;
use serde_json::json;

use super::output::{self, shown};
use super::{Exit, exit};
use crate::config::{ask, words};
use crate::serve::client::Client;
use crate::serve::wire::{Answered, QuestionStatus};

#[derive(Debug, Args)]
#[command(after_help = "\
A rule with the step `ask` freezes a group that is over its line and asks what is to happen. Root may answer, and the owner of the group.

  memgov answer                     what is asked, and what happens when nobody answers
  memgov answer 7 kill              the whole group is killed
  memgov answer 7 go-on             it runs on, and is not asked about again before it is back under its line
  memgov answer 7 go-on --for 1h    the same, but for an hour, whatever its usage does
  memgov answer 7 wait              it stays frozen, for the time there was to answer once more")]
pub(crate) struct Answer {
    /// The number of the question.
    #[arg(requires = "answer")]
    number: Option<u64>,
    /// What is to happen.
    #[arg(value_parser = ["kill", "go-on", "wait"])]
    answer: Option<String>,
    /// With go-on: not to be asked again for so long.
    #[arg(long = "for", value_name = "TIME", requires = "answer", value_parser = words::span)]
    time: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Open {
    questions: Vec<QuestionStatus>,
}

#[derive(Deserialize)]
struct Done {
    answered: Answered,
}

impl Answer {
    pub(crate) fn run(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let (Some(number), Some(answer)) = (self.number, &self.answer) else {
            return self.list(client, out);
        };
        if self.time.is_some() && ask::verdict(answer) != Ok(memgov_decide::question::Verdict::GoOn) {
            return Err(Exit::with(exit::USAGE, format!("--for goes with go-on; `{answer}` has no time")));
        }
        let asked = json!({ "number": number, "answer": answer, "for_ns": self.time.map(nanos) });
        let Done { answered } = client.call("Answer", asked)?;
        if self.json {
            output::json(out, &answered)?;
        } else {
            let target = output::target(&answered.target);
            writeln!(out, "question {number}, about {target}: {}", shown(&answered.answer))?;
        }
        Ok(())
    }

    fn list(&self, client: &mut Client, out: &mut dyn Write) -> anyhow::Result<()> {
        let Open { questions } = client.call("Questions", json!({}))?;
        if self.json {
            output::json(out, &questions)?;
        } else if questions.is_empty() {
            writeln!(out, "nothing is asked")?;
        } else {
            table(&questions, out)?;
        }
        Ok(())
    }
}

/// Open questions, as `status` shows them too.
pub(super) fn table(questions: &[QuestionStatus], out: &mut dyn Write) -> std::io::Result<()> {
    let row = |question: &QuestionStatus| {
        let left = Duration::from_secs(Duration::from_nanos(question.left_ns).as_secs());
        let by_itself = format!("{} in {}", shown(&question.default), humantime::format_duration(left));
        vec![
            question.number.to_string(),
            output::target(&question.target),
            output::source(&question.source),
            by_itself,
            output::reason(&question.reason),
        ]
    };
    let rows: Vec<_> = questions.iter().map(row).collect();
    output::table(out, &["ANSWER", "FROZEN", "BY", "UNANSWERED", "WHY"], &rows)
}
