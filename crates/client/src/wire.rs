//! Varlink over a unix socket: one JSON object each way, then a NUL. Blocking with a bound; knows nothing of what the methods mean.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{connect, recv, send, socket_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;

/// A larger answer is not memgov's.
const MOST: usize = 8 << 20;

#[derive(Serialize)]
struct Call<'a> {
    method: &'a str,
    parameters: Value,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply<T> {
    parameters: T,
}

/// Which of the two a reply is.
#[derive(Deserialize)]
struct Verdict {
    #[serde(default)]
    error: Option<String>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    bytes: Vec<u8>,
    /// No NUL before this.
    searched: usize,
}

impl Connection {
    pub(crate) fn open(path: &Path, patience: Duration) -> Result<Self, Error> {
        let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(io::Error::from)?;
        // Before connect(2), which waits as long as this for room in the queue of a daemon that hangs.
        for which in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, which, Some(patience)).map_err(io::Error::from)?;
        }
        match again(|| connect(&socket, &address)) {
            Ok(()) => Ok(Self::of(socket)),
            Err(errno @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                Err(Error::NotRunning { socket: path.into(), source: errno.into() })
            }
            Err(errno) => Err(broken(errno)),
        }
    }

    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self { socket, bytes: Vec::new(), searched: 0 }
    }

    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Result<Value, Error> {
        self.send(method, parameters, false)?;
        self.wait()
    }

    pub(crate) fn send(&self, method: &str, parameters: Value, more: bool) -> Result<(), Error> {
        let call = Call { method: &format!("org.memgov.{method}"), parameters, more };
        let mut bytes = serde_json::to_vec(&call).map_err(|e| Error::Garbled(e.to_string()))?;
        bytes.push(0);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // A daemon that ends now is an error of this call, not a SIGPIPE for the program.
            let sent = again(|| send(&self.socket, rest, SendFlags::NOSIGNAL)).map_err(broken)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// The next reply, waited for.
    pub(crate) fn wait<T: DeserializeOwned + Default>(&mut self) -> Result<T, Error> {
        loop {
            if let Some(reply) = self.taken()? {
                return Ok(reply);
            }
            self.fill(RecvFlags::empty())?.map_err(broken)?;
        }
    }

    /// The next reply if it is here.
    pub(crate) fn poll<T: DeserializeOwned + Default>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(reply) = self.taken()? {
                return Ok(Some(reply));
            }
            match self.fill(RecvFlags::DONTWAIT)? {
                Ok(()) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(broken(errno)),
            }
        }
    }

    /// From now on it is waited without end.
    pub(crate) fn patient(&self) -> Result<(), Error> {
        set_socket_timeout(&self.socket, Timeout::Recv, None).map_err(|e| Error::Io(e.into()))
    }

    /// Takes what the socket has, once there is room for it: what was taken and could not be kept would be lost.
    fn fill(&mut self, flags: RecvFlags) -> Result<Result<(), Errno>, Error> {
        let mut buffer = [0u8; 8192];
        self.bytes.try_reserve(buffer.len()).map_err(|_| Error::NoMemory)?;
        let got = match again(|| recv(&self.socket, &mut buffer[..], flags)) {
            Ok((0, _)) => return Ok(Err(Errno::CONNRESET)),
            Ok((got, _)) => got,
            Err(errno) => {
                self.rest();
                return Ok(Err(errno));
            }
        };
        self.bytes.extend_from_slice(buffer.get(..got).unwrap_or_default());
        Ok(Ok(()))
    }

    /// Nothing is kept between two replies: the memory may be the last there is.
    fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// A whole reply out of what has come.
    fn taken<T: DeserializeOwned + Default>(&mut self) -> Result<Option<T>, Error> {
        let new = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(at) = new.iter().position(|&byte| byte == 0) else {
            self.searched = self.bytes.len();
            if self.searched > MOST {
                return Err(Error::Garbled("an answer without end".into()));
            }
            return Ok(None);
        };
        let end = self.searched + at;
        let reply = read(self.bytes.get(..end).unwrap_or_default());
        self.bytes.drain(..=end);
        self.searched = 0;
        self.rest();
        reply.map(Some)
    }
}

/// A reply without its NUL.
fn read<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Error> {
    let garbled = |error: serde_json::Error| Error::Garbled(error.to_string());
    let verdict: Verdict = serde_json::from_slice(bytes).map_err(garbled)?;
    let Some(name) = verdict.error else {
        return serde_json::from_slice::<Reply<T>>(bytes).map(|reply| reply.parameters).map_err(garbled);
    };
    let reply: Reply<Value> = serde_json::from_slice(bytes).map_err(garbled)?;
    Err(refusal(&name, &reply.parameters))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One field of an answer.
pub(crate) fn field<T: DeserializeOwned>(answer: &Value, name: &str) -> Result<T, Error> {
    T::deserialize(answer.get(name).unwrap_or(&Value::Null))
        .map_err(|e| Error::Garbled(format!("`{name}`: {e}")))
}

/// Parameters of a call; what is not said is left out.
pub(crate) fn parameters<const N: usize>(said: [(&str, Option<Value>); N]) -> Value {
    let said = said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(said.collect::<Map<_, _>>())
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn broken(errno: Errno) -> Error {
    match errno {
        Errno::AGAIN | Errno::TIMEDOUT => Error::Silent,
        Errno::PIPE | Errno::CONNRESET => Error::Closed,
        other => Error::Io(other.into()),
    }
}

/// As the kernel has them (include/linux/err.h): what is none is not handed to a program as one.
pub(crate) fn is_errno(number: &i32) -> bool {
    (1..4096).contains(number)
}

fn refusal(name: &str, parameters: &Value) -> Error {
    let text = parameters.get("text").and_then(Value::as_str);
    let errno = parameters.get("errno").and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    match (name.strip_prefix("org.memgov."), errno.filter(is_errno)) {
        (Some(name), Some(errno)) => {
            Error::Refused { name: name.into(), errno, text: text.unwrap_or(name).into() }
        }
        _ => Error::Garbled(format!("{name} {parameters}")),
    }
}
