//! What happened, written down: decisions with their reasons and outcomes.
//!
//! The loop hands over plain data through a bounded queue ([`Recorder`]); a thread of its own turns it into text, keeps
//! the newest in memory for `events` and `explain`, appends JSON lines to a capped file and writes one readable line to
//! stderr (the systemd journal). When the thread falls behind, entries are dropped and counted; the loop never waits.
//! Nothing here decides or touches the system.

pub mod doubt;
pub mod event;
pub mod happening;
pub mod journal;
mod overlaid;
pub mod replay;
mod situation;
pub mod text;
pub mod trace;

pub use happening::Happening;
pub use journal::{Journal, Recorder};
