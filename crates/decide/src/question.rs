//! A question to an operator: what is to happen to a group that stands still meanwhile, and what happens when nobody says.

use std::time::Duration;

use crate::decision::{DecisionId, EpisodeId, Reason, Source, Target};
use crate::units::Time;

/// How [`crate::policy::Action::Ask`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// So long the question is open.
    pub timeout: Duration,
    /// What happens when nobody has answered by then.
    pub default: Verdict,
}

impl Default for Ask {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), default: Verdict::Kill }
    }
}

/// What can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is killed, all of it.
    Kill,
    /// It runs on, and the ladder goes no further.
    GoOn,
    /// It stands still for another [`Ask::timeout`].
    Wait,
}

/// Somebody's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What.
    pub verdict: Verdict,
    /// Of [`Verdict::GoOn`]: it is not asked again for so long, whatever its usage does meanwhile. `None`: not again in this episode.
    pub time: Option<Duration>,
    /// The uid of who answered.
    pub by: u32,
}

/// An open question, for `memgov status`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuestionView {
    /// The number of the decision that asked it.
    pub id: DecisionId,
    /// Its episode.
    pub episode: EpisodeId,
    /// Which rule.
    pub source: Source,
    /// About whom.
    pub target: Target,
    /// It is the host that is short, and not who is asked about.
    pub of_host: bool,
    /// When it was asked.
    pub since: Time,
    /// When the default comes.
    pub until: Time,
    /// What that is.
    pub default: Verdict,
    /// Why it was asked.
    pub reason: Reason,
}

/// There is no open question of that number: it was never asked, or it is answered, or the group is back under its line, or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no open question of that number")]
pub struct NotOpen;
