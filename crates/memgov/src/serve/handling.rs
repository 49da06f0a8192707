//! The handler of a group: a process that is told when a ladder of that group comes to `handler`, and is waited for.

use memgov_decide::snapshot::ProcessId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::permit::{self, GroupFacts, Peer};
use super::{Failure, Governed, requests, wire};

/// The place of a group's handler. Whoever drops it gives it up.
pub trait Post: std::fmt::Debug + Send {
    /// What there is for its holder.
    fn news(&self) -> News;
}

/// What a handler finds at its post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    Nothing,
    /// It is to be told of this, once.
    Short(wire::Shortage),
    /// The post is no more.
    Over,
}

/// What the daemon is asked about handlers.
#[allow(clippy::missing_errors_doc, reason = "each fails with the Failure that the client is told")]
pub trait Handling {
    /// Takes the place of this group's handler, for a user.
    fn handler_take(&self, group: &GroupFacts, who: ProcessId, by: u32) -> Result<Box<dyn Post>, Failure>;
    /// The handler with this pid has done what it could about the shortage of this number.
    fn handler_done(&self, number: u64, pid: Option<u32>) -> Result<(), Failure>;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
    number: u64,
}

/// Root may be anybody's handler, and the owner of a group its: what a handler can do to a kill is to have it wait for as long as the rule says.
pub(super) fn take(place: &Place, peer: Peer, governed: &dyn Governed) -> Result<Box<dyn Post>, Failure> {
    let group = governed.group(requests::path(&place.path)?)?;
    permit::group(peer, &group)?;
    let who = governed.process(requests::whose(None, peer)?)?.id;
    governed.handler_take(&group, who, peer.uid)
}

/// Only the process that was told is believed.
pub(super) fn done(done: &Done, peer: Peer, governed: &dyn Governed) -> Result<Value, Failure> {
    governed.handler_done(done.number, peer.pid)?;
    Ok(json!({}))
}
