//! The control socket: Varlink (JSON + NUL) on a unix socket, served by one thread with poll(2), apart from the loop that
//! governs. Everything is bounded: clients, requests, replies, time. It never acts; it asks [`Governed`].

pub mod client;
mod connection;
pub mod failure;
pub mod handling;
pub mod permit;
mod poll;
pub mod questions;
pub mod requests;
pub mod shrink;
pub mod varlink;
pub mod wire;
pub mod worth;

use memgov_decide::control::MemControl;
use memgov_decide::policy::Rule;
use memgov_decide::snapshot::ProcessId;
use memgov_decide::units::{Bytes, Limit};

pub use failure::{Failure, FailureKind};
pub use permit::{GroupFacts, ProcessFacts};
pub use poll::{Limits, Serving, Waker, start};

/// The interface, as GetInterfaceDescription gives it.
pub const INTERFACE: &str = include_str!("org.memgov.varlink");

/// Where a reader of events stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// All that is kept.
    Start,
    /// After the decision with this number.
    After(u64),
    /// Where an earlier answer ended ([`wire::Events::cursor`]).
    Cursor(u64),
    /// What comes from now on.
    Now,
}

/// A rule set on a running group, with the request it was made from (shown again by `get`).
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRule {
    /// As it was asked for.
    pub request: wire::GroupRule,
    /// What it means. Its scope is a pattern that matches the group's path and nothing else.
    pub rule: Rule,
    /// A virtual high for the group.
    pub high: Option<Limit>,
}

/// What the daemon answers. Called by the serving thread; no call may take longer than 2 s ([`FailureKind::Busy`]
/// then). Permissions have been checked before each call, against the facts that [`Governed::process`] and [`Governed::group`] gave.
#[allow(clippy::missing_errors_doc, reason = "each fails with the Failure that the client is told")]
pub trait Governed:
    shrink::Shrinking + questions::Asking + handling::Handling + worth::Weighing + Send + Sync
{
    /// The page size, to which limits are rounded.
    fn page(&self) -> Bytes;
    /// For `memgov status`. Lists are to be bounded ([`wire::Status::truncated`]).
    fn status(&self) -> Result<wire::Status, Failure>;
    /// Who has this pid now.
    fn process(&self, pid: u32) -> Result<ProcessFacts, Failure>;
    /// Which group has this path now.
    fn group(&self, path: &[u8]) -> Result<GroupFacts, Failure>;
    /// The control of a process; all zero if it has none.
    fn control_get(&self, who: ProcessId) -> Result<MemControl, Failure>;
    /// Sets it; `by` is the uid of who asked.
    fn control_set(&self, who: ProcessId, control: MemControl, by: u32) -> Result<(), Failure>;
    /// Takes it away.
    fn control_clear(&self, who: ProcessId) -> Result<(), Failure>;
    /// The rule set on this group, if any.
    fn group_rule_get(&self, group: &GroupFacts) -> Result<Option<wire::GroupRule>, Failure>;
    /// Sets or replaces it; `by` is the uid of who asked.
    fn group_rule_set(&self, group: &GroupFacts, rule: GroupRule, by: u32) -> Result<(), Failure>;
    /// Takes it away.
    fn group_rule_clear(&self, group: &GroupFacts) -> Result<(), Failure>;
    /// What is kept of its kernel memory; `None`: no rule has a line for it.
    fn kernel_mark(&self, group: &GroupFacts) -> Result<Option<wire::KernelMark>, Failure>;
    /// The peak of its kernel memory starts anew, and so does the count of hits.
    fn kernel_peak_reset(&self, group: &GroupFacts) -> Result<(), Failure>;
    /// How often the kernel refused a charge for its sockets; `None`: memgov does not count it.
    fn socket_refusals(&self, group: &GroupFacts) -> Result<Option<u64>, Failure>;
    /// At most `most` records from there on, oldest first. Reads the journal, not the loop.
    fn events(&self, from: From, most: usize) -> Result<wire::Events, Failure>;
    /// The path of the group this process is in now, as events name groups; `None` if it is gone or that could not be read.
    fn group_of(&self, who: ProcessId) -> Option<String>;
    /// One decision with its episode.
    fn explain(&self, id: u64) -> Result<wire::Explanation, Failure>;
    /// Reads the configuration anew.
    fn reload(&self) -> Result<wire::Reloaded, Failure>;
}

#[cfg(test)]
mod tests;
