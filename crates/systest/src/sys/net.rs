//! Network interfaces, for tests that need loopback.

use std::os::fd::AsRawFd as _;

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

/// How many sockets of this process have a buffer that is locked (SO_BUF_LOCK in socket(7)), and how many a bound for unsent data (TCP_NOTSENT_LOWAT in tcp(7)).
pub fn bounded() -> (u64, u64) {
    const SO_BUF_LOCK: i32 = 72;
    // A descriptor that is none is refused.
    let number = |fd, level, name| connection::get::<1>(fd, level, name).map_or(0, |[value]| value);
    let (mut locked, mut unsent) = (0, 0);
    for fd in 3..2048 {
        locked += u64::from(number(fd, libc::SOL_SOCKET, SO_BUF_LOCK) != 0);
        unsent += u64::from(number(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT) != 0);
    }
    (locked, unsent)
}
