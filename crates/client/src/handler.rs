//! To be the handler of a group: told when memgov has come to the step `handler` for it, and waited for before worse happens to the group.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::wire::{Connection, field};
use crate::{Error, Memgov};

/// What a handler is told of: the group is short of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// The decision's number, for [`Memgov::handled`] and `memgov explain`.
    pub number: u64,
    /// The group.
    pub group: String,
    /// What was compared: `usage`, `available`, `kernel`, `sockets` or `usage+sockets`.
    pub meter: String,
    /// How much of it there was, in bytes.
    pub meter_bytes: u64,
    /// The line it was compared with.
    pub line_bytes: u64,
    /// What the group used, if that was known.
    pub usage_bytes: Option<u64>,
    /// Its hard limit; `None`: it has none, or it was not known.
    pub limit_bytes: Option<u64>,
    /// So much under its hard limit is kept for what helps it ([`Memgov::set_job`]): nothing of that was available before memgov said this. `None`: a memgov that does not say.
    pub oom_reserve_bytes: Option<u64>,
    /// So long memgov waits for the word [`Memgov::handled`], from when it said this.
    pub left: Duration,
}

/// The place of a group's handler, kept until it is dropped. To wait for a shortage beside other things poll the descriptor ([`AsFd`]) for input and then take
/// with [`Handler::try_next`] until that gives `None`. A fork shares the place, but only the process that registered is believed, and the place goes with it: register after
/// daemonising.
#[derive(Debug)]
pub struct Handler {
    connection: Connection,
}

#[derive(Deserialize)]
struct Said {
    number: u64,
    path: String,
    meter: String,
    meter_bytes: u64,
    line_bytes: u64,
    #[serde(default)]
    usage_bytes: Option<u64>,
    #[serde(default)]
    limit_bytes: Option<u64>,
    #[serde(default)]
    oom_reserve_bytes: Option<u64>,
    left_ns: u64,
}

impl Memgov {
    /// Makes this process the handler of a group (named from the root of the memory hierarchy) from now on.
    ///
    /// # Errors
    /// `EBUSY`: the group has one. `EINVAL`: this process is in the group or below, where it would be out of memory, too. `EACCES`: the group is not root's or its owner's
    /// who asks. `ENOENT`: there is no such group. `ESRCH`: this process cannot be seen by memgov. The rest as [`Error`] says.
    pub fn handler(&self, group: &str) -> Result<Handler, Error> {
        let mut connection = self.connect()?;
        connection.send("Handle", json!({ "path": group }), true)?;
        connection.wait::<Value>()?;
        connection.patient()?;
        Ok(Handler { connection })
    }

    /// This process has done what it could about the shortage of this number. What it freed is waited for, and where it was not enough the rule goes on.
    ///
    /// # Errors
    /// `ENOENT`: nobody waits for that any more, or another process was told. The rest as [`Error`] says.
    pub fn handled(&self, number: u64) -> Result<(), Error> {
        self.connect()?.call("Handled", json!({ "number": number })).map(drop)
    }
}

impl Handler {
    /// The next shortage if there is one.
    ///
    /// # Errors
    /// [`Error::Closed`] when the place is no more: memgov has ended, the group is gone or was made anew, or root has put another handler in. Polled, the descriptor is ready for that, too.
    pub fn try_next(&mut self) -> Result<Option<Shortage>, Error> {
        loop {
            let Some(reply) = self.connection.poll()? else { return Ok(None) };
            if let Some(shortage) = shortage(&reply)? {
                return Ok(Some(shortage));
            }
        }
    }

    /// Waits for the next shortage.
    ///
    /// # Errors
    /// As [`Handler::try_next`].
    pub fn wait(&mut self) -> Result<Shortage, Error> {
        loop {
            let reply = self.connection.wait()?;
            if let Some(shortage) = shortage(&reply)? {
                return Ok(shortage);
            }
        }
    }
}

fn shortage(reply: &Value) -> Result<Option<Shortage>, Error> {
    let said: Option<Said> = field(reply, "shortage")?;
    Ok(said.map(|said| Shortage {
        number: said.number,
        group: said.path,
        meter: said.meter,
        meter_bytes: said.meter_bytes,
        line_bytes: said.line_bytes,
        usage_bytes: said.usage_bytes,
        limit_bytes: said.limit_bytes,
        oom_reserve_bytes: said.oom_reserve_bytes,
        left: Duration::from_nanos(said.left_ns),
    }))
}

impl AsFd for Handler {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
