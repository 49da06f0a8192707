//! Network interfaces and namespaces, and what the kernel says of the sockets of a process.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Errno, check, connection};

/// Sets IFF_UP of `lo` in this network namespace (netdevice(7)). It is up already on most machines.
pub fn loopback_up() -> Result<(), Errno> {
    let any =
        std::net::UdpSocket::bind("0.0.0.0:0").map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    // SAFETY: zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).unwrap_or(0);
    }
    // SAFETY: the kernel reads and writes the ifreq that outlives the call.
    check(libc::c_long::from(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) }))?;
    // SAFETY: the call before has filled in the flags.
    unsafe { request.ifr_ifru.ifru_flags |= i16::try_from(libc::IFF_UP).unwrap_or(1) };
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) }))
}

/// A new network namespace with loopback. It lasts as long as the descriptor, or a process in it. Made by a thread of its own, so that nobody else is moved.
pub fn namespace() -> Result<OwnedFd, Errno> {
    let make = || {
        // SAFETY: takes a number, and this thread shares its network with nobody who would rely on it.
        check(libc::c_long::from(unsafe { libc::unshare(libc::CLONE_NEWNET) }))?;
        loopback_up()?;
        let own = fs::File::open("/proc/thread-self/ns/net");
        own.map(OwnedFd::from).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    };
    std::thread::spawn(make).join().unwrap_or(Err(libc::EIO))
}

/// Makes the command start in this network namespace.
pub fn start_in_namespace(command: &mut Command, namespace: OwnedFd) {
    let enter = move || {
        // SAFETY: a live descriptor and a number.
        check(libc::c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }))
            .map_err(std::io::Error::from_raw_os_error)
    };
    // SAFETY: between fork and exec only setns(2) is called, on a descriptor opened before.
    unsafe { command.pre_exec(enter) };
}

const SO_BUF_LOCK: i32 = 72;
const SO_PROTOCOL: i32 = 38;
const SO_MEMINFO: i32 = 55;

/// What bounds a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// SO_RCVBUF and SO_SNDBUF, as the kernel counts them.
    pub buffers: [u32; 2],
    /// TCP_NOTSENT_LOWAT.
    pub unsent: u32,
    /// SO_BUF_LOCK.
    pub locks: u32,
}

/// Those of all TCP sockets of another process, by descriptor.
pub fn bounds_of(pid: i32) -> Result<Vec<Bounds>, Errno> {
    let of =
        |fd: &OwnedFd, level, name| connection::get::<1>(fd.as_raw_fd(), level, name).map(|[value]| value);
    let bounds = |fd: &OwnedFd| {
        Ok(Bounds {
            buffers: [of(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)?, of(fd, libc::SOL_SOCKET, libc::SO_SNDBUF)?],
            unsent: of(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT)?,
            locks: of(fd, libc::SOL_SOCKET, SO_BUF_LOCK)?,
        })
    };
    tcp_sockets(pid)?.iter().map(bounds).collect()
}

/// What lies in their receive buffers: the first of SO_MEMINFO (`enum` of include/uapi/linux/sock_diag.h).
pub fn unread_of(pid: i32) -> Result<u64, Errno> {
    let unread = |fd: &OwnedFd| {
        let memory = connection::get::<9>(fd.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO)?;
        Ok(u64::from(memory[0]))
    };
    tcp_sockets(pid)?.iter().map(unread).sum()
}

/// Borrowed (pidfd_getfd(2)), in the order of their descriptors.
fn tcp_sockets(pid: i32) -> Result<Vec<OwnedFd>, Errno> {
    let raw = |errno: rustix::io::Errno| errno.raw_os_error();
    let process = pidfd_open(Pid::from_raw(pid).ok_or(libc::ESRCH)?, PidfdFlags::empty()).map_err(raw)?;
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?.flatten();
    let mut numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    // One that is closed meanwhile cannot be had, and what is no socket has no protocol.
    let all =
        numbers.iter().filter_map(|&number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    let tcp = |fd: &OwnedFd| {
        let protocol = connection::get::<1>(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PROTOCOL);
        protocol == Ok([libc::IPPROTO_TCP.unsigned_abs()])
    };
    Ok(all.filter(tcp).collect())
}

/// How many sockets of this process have a buffer that is locked (SO_BUF_LOCK in socket(7)), and how many a bound for unsent data (TCP_NOTSENT_LOWAT in tcp(7)).
pub fn bounded() -> (u64, u64) {
    // A descriptor that is none is refused.
    let number = |fd, level, name| connection::get::<1>(fd, level, name).map_or(0, |[value]| value);
    let (mut locked, mut unsent) = (0, 0);
    for fd in 3..2048 {
        locked += u64::from(number(fd, libc::SOL_SOCKET, SO_BUF_LOCK) != 0);
        unsent += u64::from(number(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) != 0);
    }
    (locked, unsent)
}
