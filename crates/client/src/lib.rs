//! For a program that wants to be told before it is killed, and to say what is to happen to it: what it may use ([`Control`]), what happens to it and to its
//! groups ([`Watch`]), a group made smaller ([`Memgov::shrink`]), what a group is worth and what is kept for it ([`Memgov::set_job`]), and to be asked for help before a group is killed for memory ([`Handler`]).
//!
//! It talks to a running memgov over its socket (Varlink, `org.memgov.varlink`), with nothing of the daemon's in it. Every call is a connection of its own: nothing is held between
//! calls, so a daemon that is started anew, a fork and an exec are all the same to it. No call waits for longer than 10 s for an answer; none raises SIGPIPE.
//!
//! ```no_run
//! use memgov_client::{Action, Control, Kind, Memgov};
//!
//! let memgov = Memgov::new();
//! // Refuse me memory when my group is 8 MiB over its memory.high.
//! memgov.set_control(&Control { climit_bytes: 8 << 20, ..Control::of(Action::Deny) })?;
//! for notice in memgov.watch()? {
//!     match notice?.kind {
//!         Kind::Warning | Kind::Over => { /* give something back */ }
//!         Kind::Relieved => { /* go on */ }
//!         _ => {}
//!     }
//! }
//! # Ok::<(), memgov_client::Error>(())
//! ```

mod control;
mod error;
mod handler;
mod job;
mod raw;
mod shrink;
mod watch;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use control::{Action, Control, Flags};
pub use error::Error;
pub use handler::{Handler, Shortage};
pub use job::{Job, JobKey, JobWords};
pub use raw::Stream;
pub use shrink::{Goal, Shrunk};
pub use watch::{Kind, Notice, Watch};

/// Where memgov listens unless told otherwise.
pub const SOCKET: &str = "/run/memgov/control.sock";

/// A memgov, known by its socket. It need not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memgov {
    socket: PathBuf,
    patience: Duration,
}

/// memgov answers in 2 s, or says that it is busy.
const PATIENCE: Duration = Duration::from_secs(10);

impl Default for Memgov {
    fn default() -> Self {
        Self::new()
    }
}

impl Memgov {
    /// The one of this machine, at [`SOCKET`]. The environment is not asked: a setuid program must not be led elsewhere by it.
    pub fn new() -> Self {
        Self::at(SOCKET)
    }

    /// The one that listens there.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), patience: PATIENCE }
    }

    /// The same, waited for so long instead of 10 s.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn connect(&self) -> Result<wire::Connection, Error> {
        wire::Connection::open(&self.socket, self.patience)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
