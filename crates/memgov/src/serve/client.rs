//! The other side of the socket, for the command line and for tests: blocking, one call at a time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::{Failure, FailureKind, exit};
use super::varlink::{Call, Reply, encode};
use super::wire;

/// An answer takes 8 s at most, where programs have to be attached for it, and else 2; more means that nobody serves.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer is larger; a larger one is not from memgov.
const MAX_REPLY: usize = 64 << 20;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "memgov does not run: nobody answers on {path} ({source})\n\
         start it with `systemctl start memgov`, or `memgov run --config FILE`; \
         for a socket elsewhere, give --socket or set MEMGOV_SOCKET"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The socket may not be used.
    #[error("{path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The daemon refused, and said why.
    #[error("{0}")]
    Refused(Failure),
    /// The daemon does not know this call: versions differ.
    #[error("the daemon refused the call: {0}; is it of this version? See `memgov status`")]
    Service(String),
    /// It hung up.
    #[error(
        "the daemon closed the connection; it serves at most 128 clients at a time, 32 of one user: try again"
    )]
    Closed,
    /// It said nothing.
    #[error("the daemon did not answer in 10 s; see `journalctl -u memgov`")]
    Silent,
    /// What came is no answer.
    #[error("what answers on the socket is not memgov: {0}")]
    Garbled(String),
    /// The socket broke.
    #[error("talking to the daemon: {0}")]
    Io(#[from] io::Error),
}

impl ClientError {
    /// What the command line exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => exit::NO_DAEMON,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                exit::PERMISSION
            }
            Self::Refused(failure) => failure.kind.exit_code(),
            Self::Closed | Self::Silent => exit::BUSY,
            _ => exit::FAILED,
        }
    }

    /// What a system call would have failed with: the same as in libmemgov.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotRunning { .. } => libc::ENOTCONN,
            Self::Refused(failure) => failure.kind.errno(),
            Self::Closed => libc::EAGAIN,
            Self::Silent => libc::ETIMEDOUT,
            Self::Service(_) | Self::Garbled(_) => libc::EPROTO,
            Self::Connect { source, .. } | Self::Io(source) => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or not to us.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = dial(path).map_err(|source| {
            let path = path.to_path_buf();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { path, source }
                }
                io::ErrorKind::WouldBlock => ClientError::Silent,
                _ => ClientError::Connect { path, source },
            }
        })?;
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// Calls `org.memgov.METHOD` and gives what it returned.
    ///
    /// # Errors
    /// The daemon's refusal, or the connection's.
    pub fn call<R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: impl Serialize,
    ) -> Result<R, ClientError> {
        self.send(method, parameters, false)?;
        let reply = self.reply()?;
        serde_json::from_value(reply.parameters).map_err(|e| ClientError::Garbled(e.to_string()))
    }

    /// Gives pages of events as they come, until `each` says stop.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn follow(
        &mut self,
        since: Option<u64>,
        mut each: impl FnMut(wire::Events) -> io::Result<bool>,
    ) -> Result<(), ClientError> {
        self.send("Events", since_parameters(since), true)?;
        self.stream.set_read_timeout(None)?;
        loop {
            let reply = self.reply()?;
            let page =
                serde_json::from_value(reply.parameters).map_err(|e| ClientError::Garbled(e.to_string()))?;
            if !each(page)? || reply.continues != Some(true) {
                return Ok(());
            }
        }
    }

    /// Gives all events that are kept.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn events(
        &mut self,
        since: Option<u64>,
        mut each: impl FnMut(wire::Events) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut parameters = since_parameters(since);
        let mut at = None;
        loop {
            let page: wire::Events = self.call("Events", &parameters)?;
            let cursor = page.cursor;
            let empty = page.events.is_empty();
            each(page)?;
            // A page may be empty because all of it concerned others; the end is where the cursor stands still.
            if at == Some(cursor) && empty {
                return Ok(());
            }
            at = Some(cursor);
            parameters = serde_json::json!({ "cursor": cursor });
        }
    }

    fn send(&mut self, method: &str, parameters: impl Serialize, more: bool) -> Result<(), ClientError> {
        let parameters = serde_json::to_value(parameters).map_err(io::Error::from)?;
        let method = if method.contains('.') { method.to_owned() } else { format!("org.memgov.{method}") };
        let call = Call { method, parameters, more, oneway: false, upgrade: false };
        self.stream.write_all(&encode(&call)).map_err(broken)
    }

    fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut searched = 0;
        let end = loop {
            if let Some(at) = self.bytes[searched..].iter().position(|&b| b == 0) {
                break searched + at;
            }
            searched = self.bytes.len();
            if searched > MAX_REPLY {
                return Err(ClientError::Garbled("an endless answer".into()));
            }
            let mut buffer = [0u8; 16384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(n) => self.bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        };
        let reply: Result<Reply, _> = serde_json::from_slice(&self.bytes[..end]);
        self.bytes.drain(..=end);
        let reply = reply.map_err(|e| ClientError::Garbled(e.to_string()))?;
        match &reply.error {
            None => Ok(reply),
            Some(name) => Err(refusal(name, &reply.parameters)),
        }
    }
}

/// A stream that waits for nothing longer than [`PATIENCE`].
fn dial(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Before connect(2), which waits as long as this for room in the queue of a daemon that hangs.
    for which in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, which, Some(PATIENCE))?;
    }
    rustix::io::retry_on_intr(|| connect(&socket, &address))?;
    Ok(UnixStream::from(socket))
}

fn since_parameters(since: Option<u64>) -> Value {
    since.map_or_else(|| serde_json::json!({}), |id| serde_json::json!({ "since": id }))
}

fn broken(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
        _ => ClientError::Io(error),
    }
}

fn refusal(name: &str, parameters: &Value) -> ClientError {
    let text = parameters.get("text").and_then(Value::as_str);
    match name.strip_prefix("org.memgov.").and_then(FailureKind::named) {
        Some(kind) => ClientError::Refused(kind.because(text.unwrap_or(name))),
        None => ClientError::Service(format!("{name} {parameters}")),
    }
}
