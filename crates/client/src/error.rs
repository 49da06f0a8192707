//! Why a call came to nothing: one type, with the sentence for a person and the errno for a program (the C library returns that).

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// Why a call came to nothing. Its text names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens on the socket. `ENOTCONN`.
    #[error("memgov does not run: nobody answers on {} ({source}); start it with `systemctl start memgov`", .socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// memgov refused. The errno is memgov's: `EACCES` not permitted, `EINVAL` nothing that makes sense, `ESRCH` no such process, `ENOENT` no such group,
    /// `ENOSPC` a table is full, `EAGAIN` busy.
    #[error("{text}")]
    Refused {
        /// Name of the error in the interface, without `org.memgov.`.
        name: String,
        /// errno(3).
        errno: i32,
        /// What memgov said.
        text: String,
    },
    /// A shrink that got no further: what is left cannot be reclaimed. `EBUSY`.
    #[error(
        "what is left of {path} cannot be reclaimed: {usage_bytes} bytes, of which {target_bytes} were to stay"
    )]
    Hard {
        /// The group.
        path: String,
        /// What it uses now.
        usage_bytes: u64,
        /// What it was to use.
        target_bytes: u64,
    },
    /// The connection was closed before there was an answer: the daemon ended, or has too many clients. `EAGAIN`.
    #[error("memgov closed the connection: it was stopped, or has too many clients; try again")]
    Closed,
    /// No answer in 10 s, or in what [`crate::Memgov::patience`] said. `ETIMEDOUT`.
    #[error("memgov did not answer in time; see `journalctl -u memgov`")]
    Silent,
    /// What came is no answer of memgov's, or of one that is too new or too old. `EPROTO`.
    #[error("what answers on the socket is not a memgov of this version: {0}")]
    Garbled(String),
    /// There is no memory for the answer. `ENOMEM`. Of a watch and a handler nothing is lost: try again when there is.
    #[error("there is no memory for what memgov answers")]
    NoMemory,
    /// The socket could not be used, for another reason: its own errno.
    #[error("the socket of memgov: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// errno(3), as the C library returns it (there it is negative).
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::NotRunning { .. } => Errno::NOTCONN,
            Self::Refused { errno, .. } => return *errno,
            Self::Hard { .. } => Errno::BUSY,
            Self::Closed => Errno::AGAIN,
            Self::Silent => Errno::TIMEDOUT,
            Self::Garbled(_) => Errno::PROTO,
            Self::NoMemory => Errno::NOMEM,
            Self::Io(error) => return error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        };
        errno.raw_os_error()
    }
}
