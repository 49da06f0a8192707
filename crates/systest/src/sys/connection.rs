//! A TCP connection of a process with itself, and what the kernel says of its buffers and windows.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use super::{Errno, check, errno};

/// Far less than the loopback device takes, so that four of them, to which a squeezed socket's window falls, are little.
const SEGMENT: i32 = 1448;
/// Fixed, so that the kernel does not tune them.
const BUFFER: i32 = 1 << 20;

/// `struct tcp_info` up to the field that is wanted (include/uapi/linux/tcp.h): 8 bytes of small fields, then numbers.
const TCP_INFO_NUMBERS: usize = 24;
/// The place of `tcpi_rcv_ssthresh` among them.
const RCV_SSTHRESH: usize = 16;

/// One.
#[derive(Debug)]
pub struct Connection {
    sender: TcpStream,
    receiver: TcpStream,
}

/// What the receiving end may take, and what the sending end is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// SO_RCVBUF and SO_SNDBUF.
    pub buffers: [u32; 2],
    /// TCP_WINDOW_CLAMP of both.
    pub clamps: [u32; 2],
    /// `tcpi_rcv_ssthresh`: what the window may grow to. Memory pressure takes it down to four segments.
    pub threshold: u32,
}

impl Connection {
    /// A new one.
    pub fn new() -> Result<Self, Errno> {
        let raw = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(raw)?;
        // What a listener has its connections inherit.
        let fd = listener.as_raw_fd();
        set(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG, SEGMENT)?;
        set(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)
            .or_else(|_| set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER))?;
        let sender = TcpStream::connect(listener.local_addr().map_err(raw)?).map_err(raw)?;
        let (receiver, _) = listener.accept().map_err(raw)?;
        set(sender.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER)?;
        for end in [&sender, &receiver] {
            end.set_nonblocking(true).map_err(raw)?;
        }
        Ok(Self { sender, receiver })
    }

    /// Sends what there is room for, and reads it when there is no more: so both buffers are filled again and again. How much went through.
    pub fn talk(&mut self, until: impl Fn() -> bool) -> Result<u64, Errno> {
        let mut buffer = [0; 16 << 10];
        let mut through = 0;
        while !until() {
            loop {
                match self.sender.write(&buffer) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
                }
            }
            through += self.drain(&mut buffer)?;
        }
        Ok(through)
    }

    fn drain(&mut self, buffer: &mut [u8]) -> Result<u64, Errno> {
        let mut through = 0;
        loop {
            match self.receiver.read(buffer) {
                Ok(count) => through += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(through),
                Err(error) => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
    }

    /// What it may take now.
    pub fn room(&self) -> Result<Room, Errno> {
        let (to, from) = (self.receiver.as_raw_fd(), self.sender.as_raw_fd());
        let one = |fd, level, name| get::<1>(fd, level, name).map(|[value]| value);
        let clamp = |fd| one(fd, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP);
        let info = get::<TCP_INFO_NUMBERS>(to, libc::IPPROTO_TCP, libc::TCP_INFO)?;
        Ok(Room {
            buffers: [
                one(to, libc::SOL_SOCKET, libc::SO_RCVBUF)?,
                one(from, libc::SOL_SOCKET, libc::SO_SNDBUF)?,
            ],
            clamps: [clamp(to)?, clamp(from)?],
            threshold: info[RCV_SSTHRESH],
        })
    }
}

pub(crate) fn set(fd: i32, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: the kernel reads four bytes of a live integer.
    check(unsafe { libc::syscall(libc::SYS_setsockopt, fd, level, name, &raw const value, size_of::<i32>()) })
}

pub(super) fn get<const N: usize>(fd: i32, level: i32, name: i32) -> Result<[u32; N], Errno> {
    let mut value = [0u32; N];
    let mut length = u32::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the kernel writes no more than `length` bytes to it, and the length itself.
    let done =
        unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value.as_mut_ptr(), &raw mut length) };
    if done == -1 { Err(errno()) } else { Ok(value) }
}
