//! A TCP socket of another process, borrowed for moments (pidfd_getfd(2), Linux 5.6; needs what ptrace attach needs), and what bounds its memory (socket(7), tcp(7)).
//!
//! For moments: as long as somebody else has it too, a process that closes it has not closed it.

use std::time::Duration;

use super::pidfd::PidFd;
use super::sock_diag::{self, SocketMemory};
use super::{Errno, sys};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

// asm-generic/socket.h, linux/tcp.h.
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_PROTOCOL: i32 = 38;
const SO_MEMINFO: i32 = 55;
const SO_COOKIE: i32 = 57;
const SO_BUF_LOCK: i32 = 72;
const TCP_INFO: i32 = 11;
const TCP_NOTSENT_LOWAT: i32 = 25;
/// Where `struct tcp_info` has these.
const BYTES_ACKED: usize = 120;
/// `tcpi_rtt`, in microseconds.
const RTT: usize = 68;
const BYTES_RECEIVED: usize = 128;

/// What of a socket bounds its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The receive buffer in bytes, as the kernel counts it: twice what SO_RCVBUF was given.
    pub receive: u32,
    /// The send buffer, likewise.
    pub send: u32,
    /// TCP_NOTSENT_LOWAT: more than so much is not taken from the program while it is not sent. 0: the system's (`net.ipv4.tcp_notsent_lowat`).
    pub unsent: u32,
    /// SO_BUF_LOCK (Linux 5.14): 1 the send buffer, 2 the receive buffer is set by hand, and not tuned by the kernel.
    pub locks: u32,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// As in net/tcp_states.h.
    pub state: u8,
    /// What its program has read, ever.
    pub read: u64,
    /// What its program has not read yet.
    pub unread: u64,
    /// What the other side has acknowledged, ever.
    pub acknowledged: u64,
    /// How long the other side takes to answer, as far as that is known.
    pub round_trip: Duration,
}

/// A borrowed socket.
#[derive(Debug)]
pub struct TcpSocket(OwnedFd);

impl TcpSocket {
    /// Descriptor `fd` of a process. `NOENT`: it is no TCP socket; `PERM`: it may not be had.
    pub fn borrow(process: &PidFd, fd: i32) -> Result<Self, Errno> {
        let socket = Self(pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?);
        match socket.number(libc::SOL_SOCKET, SO_PROTOCOL) {
            Ok(protocol) if protocol == libc::IPPROTO_TCP.unsigned_abs() => Ok(socket),
            Ok(_) | Err(Errno::NOTSOCK) => Err(Errno::NOENT),
            Err(errno) => Err(errno),
        }
    }

    /// Which one: never used again within a boot.
    pub fn cookie(&self) -> Result<u64, Errno> {
        let mut cookie = [0; 8];
        sys::getsockopt(self.0.as_fd(), libc::SOL_SOCKET, SO_COOKIE, &mut cookie)?;
        Ok(u64::from_ne_bytes(cookie))
    }

    /// What lies in its buffers.
    pub fn memory(&self) -> Result<SocketMemory, Errno> {
        let mut fields = [0; 36];
        let length = sys::getsockopt(self.0.as_fd(), libc::SOL_SOCKET, SO_MEMINFO, &mut fields)?;
        sock_diag::memory(&fields[..length]).ok_or(Errno::IO)
    }

    /// What bounds it.
    pub fn bounds(&self) -> Result<Bounds, Errno> {
        Ok(Bounds {
            receive: self.number(libc::SOL_SOCKET, libc::SO_RCVBUF)?,
            send: self.number(libc::SOL_SOCKET, libc::SO_SNDBUF)?,
            unsent: self.number(libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT)?,
            locks: self.number(libc::SOL_SOCKET, SO_BUF_LOCK)?,
        })
    }

    /// Sets what bounds it, from any amount to any: needs CAP_NET_ADMIN. The locks last: setting a size locks it.
    pub fn set_bounds(&self, bounds: &Bounds) -> Result<(), Errno> {
        let set = |level, name, value: u32| {
            let value = i32::try_from(value).map_err(|_| Errno::INVAL)?;
            sys::setsockopt(self.0.as_fd(), level, name, value)
        };
        // The kernel doubles what is set, so an odd size can be left alone and not be set.
        if self.number(libc::SOL_SOCKET, libc::SO_RCVBUF)? != bounds.receive {
            set(libc::SOL_SOCKET, SO_RCVBUFFORCE, bounds.receive / 2)?;
        }
        if self.number(libc::SOL_SOCKET, libc::SO_SNDBUF)? != bounds.send {
            set(libc::SOL_SOCKET, SO_SNDBUFFORCE, bounds.send / 2)?;
        }
        set(libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT, bounds.unsent)?;
        set(libc::SOL_SOCKET, SO_BUF_LOCK, bounds.locks)
    }

    /// How far it has come.
    pub fn progress(&self) -> Result<Progress, Errno> {
        let mut info = [0; 256];
        let length = sys::getsockopt(self.0.as_fd(), libc::IPPROTO_TCP, TCP_INFO, &mut info)?;
        let long =
            |at: usize| info[..length].get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        let (received, acknowledged) = long(BYTES_RECEIVED).zip(long(BYTES_ACKED)).ok_or(Errno::IO)?;
        // A socket that listens has none.
        let unread = rustix::io::ioctl_fionread(&self.0).unwrap_or(0);
        let rtt = info[..length]
            .get(RTT..)
            .and_then(|rest| rest.first_chunk())
            .map(|bytes| u32::from_ne_bytes(*bytes));
        let round_trip = Duration::from_micros(rtt.unwrap_or(0).into());
        Ok(Progress {
            state: info[0],
            read: received.saturating_sub(unread),
            unread,
            acknowledged,
            round_trip,
        })
    }

    fn number(&self, level: i32, name: i32) -> Result<u32, Errno> {
        let mut number = [0; 4];
        sys::getsockopt(self.0.as_fd(), level, name, &mut number)?;
        Ok(u32::from_ne_bytes(number))
    }
}
