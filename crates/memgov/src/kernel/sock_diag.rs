//! Sockets of one network namespace with the memory in their buffers, from the kernel's own list (sock_diag(7); linux/inet_diag.h, linux/unix_diag.h). Reads only: no
//! socket is held or touched. Needs no privilege, and for the kinds asked for CONFIG_INET_TCP_DIAG, CONFIG_INET_UDP_DIAG and CONFIG_UNIX_DIAG. For whoever asks, not for
//! the loop: it allocates and takes its time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Errno;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};

/// What kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// TCP, over either IP.
    Tcp,
    /// UDP, over either IP.
    Udp,
    /// Of the unix domain: streams, datagrams, sequenced packets.
    Unix,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Unix];
    /// As a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        }
    }
}

/// Memory of a socket in bytes: the fields of `sk_meminfo` that say who holds what (`sock_diag_put_meminfo` in net/core/sock_diag.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketMemory {
    /// What lies in the receive buffer, with the kernel's own part of each packet (SK_MEMINFO_RMEM_ALLOC).
    pub received: u32,
    /// The most of it (SK_MEMINFO_RCVBUF).
    pub receive_buffer: u32,
    /// What has been handed to the network device and not come back (SK_MEMINFO_WMEM_ALLOC); of unix sockets, what the other side has not read.
    pub in_flight: u32,
    /// The most that may wait to be sent (SK_MEMINFO_SNDBUF).
    pub send_buffer: u32,
    /// What waits to be sent or acknowledged (SK_MEMINFO_WMEM_QUEUED; TCP only).
    pub queued: u32,
    /// Charged already and not in use (SK_MEMINFO_FWD_ALLOC).
    pub reserved: u32,
    /// Received while the program had the socket locked, and not sorted in yet (SK_MEMINFO_BACKLOG).
    pub backlog: u32,
}

impl SocketMemory {
    /// The receive side.
    pub fn receives(&self) -> u64 {
        u64::from(self.received) + u64::from(self.backlog)
    }
    /// The send side. A packet on its way is counted by TCP in both.
    pub fn sends(&self) -> u64 {
        u64::from(self.queued.max(self.in_flight))
    }
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Inode in sockfs; 0: no process has it open any more.
    pub inode: u32,
    /// Never used again within a boot.
    pub cookie: u64,
    /// Kind.
    pub kind: Kind,
    /// As `enum` in net/tcp_states.h counts them, of all kinds.
    pub state: u8,
    /// Its own address; of unix sockets there is none here.
    pub local: Option<SocketAddr>,
    /// The other side's.
    pub remote: Option<SocketAddr>,
    /// `None`: the kernel does not say.
    pub memory: Option<SocketMemory>,
}

impl Socket {
    /// The state as ss(8) names it.
    pub const fn state_name(&self) -> &'static str {
        match (self.state, self.kind) {
            (1, _) => "established",
            (2, _) => "syn-sent",
            (3, _) => "syn-recv",
            (4, _) => "fin-wait-1",
            (5, _) => "fin-wait-2",
            (6, _) => "time-wait",
            (7, Kind::Tcp) => "closed",
            (7, _) => "unconnected",
            (8, _) => "close-wait",
            (9, _) => "last-ack",
            (10, _) => "listen",
            (11, _) => "closing",
            _ => "unknown",
        }
    }
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 1 | 0x300;
const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const INET: usize = 72;
/// `struct unix_diag_msg`.
const UNIX: usize = 16;
/// `INET_DIAG_SKMEMINFO`.
const INET_MEMORY: u16 = 7;
/// `UNIX_DIAG_MEMINFO`, and `UDIAG_SHOW_MEMINFO` that asks for it.
const UNIX_MEMORY: u16 = 5;
const SHOW_UNIX_MEMORY: u32 = 0x20;
/// All but those that the kernel keeps for a while after the last process has closed them (TIME_WAIT), which hold next to nothing.
const STATES: u32 = 0xfff & !(1 << 6);

/// All sockets of a kind in the calling thread's network namespace.
///
/// # Errors
/// `NOENT`: the kernel has no list of this kind (its module is not loaded).
pub fn sockets(kind: Kind) -> Result<Vec<Socket>, Errno> {
    let mut found = Vec::new();
    match kind {
        Kind::Unix => dump(&unix_request(), &mut |message| found.extend(parse_unix(message)))?,
        Kind::Tcp | Kind::Udp => {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let request = inet_request(kind, u8::try_from(family).unwrap_or(0));
                dump(&request, &mut |message| found.extend(parse_inet(kind, message)))?;
            }
        }
    }
    Ok(found)
}

fn header(length: usize) -> Vec<u8> {
    let mut request = vec![0; HEADER];
    request[..4].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
    request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, and an identity that a dump leaves empty.
fn inet_request(kind: Kind, family: u8) -> Vec<u8> {
    let mut request = header(HEADER + 56);
    let protocol = if kind == Kind::Udp { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };
    request.extend([family, u8::try_from(protocol).unwrap_or(0), 1 << (INET_MEMORY - 1), 0]);
    request.extend(STATES.to_ne_bytes());
    request.extend([0; 48]);
    request
}

/// `struct unix_diag_req`: family, protocol, padding, states, inode, what to show, cookie.
fn unix_request() -> Vec<u8> {
    let mut request = header(HEADER + 24);
    request.extend([u8::try_from(libc::AF_UNIX).unwrap_or(0), 0, 0, 0]);
    request.extend(STATES.to_ne_bytes());
    request.extend([0; 4]);
    request.extend(SHOW_UNIX_MEMORY.to_ne_bytes());
    request.extend([0; 8]);
    request
}

fn dump(request: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    rustix::io::write(&socket, request)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&socket, &mut buffer[..]))?;
        if n == 0 || messages(&buffer[..n], found)? {
            return Ok(());
        }
    }
}

/// The messages of one datagram; whether the last is among them.
fn messages(mut bytes: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<bool, Errno> {
    while let Some(length) = word(bytes, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(payload) = bytes.get(HEADER..length) else { return Err(Errno::IO) };
        match short(bytes, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = word(payload, 0).map_or(0, |code| i32::from_ne_bytes(code.to_ne_bytes()));
                return if code == 0 {
                    Ok(true)
                } else {
                    Err(Errno::from_raw_os_error(code.saturating_neg()))
                };
            }
            Some(BY_FAMILY) => found(payload),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn parse_inet(kind: Kind, message: &[u8]) -> Option<Socket> {
    let fixed = message.get(..INET)?;
    let address = |port: usize, ip: usize| {
        let port = fixed.get(port..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
        let ip = match i32::from(fixed[0]) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*fixed.get(ip..)?.first_chunk::<4>()?)),
            _ => IpAddr::V6(Ipv6Addr::from(*fixed.get(ip..)?.first_chunk::<16>()?)),
        };
        Some(SocketAddr::new(ip, port))
    };
    Some(Socket {
        inode: word(fixed, 68)?,
        cookie: cookie(fixed, 44)?,
        kind,
        state: fixed[1],
        local: address(4, 8),
        remote: address(6, 24).filter(|remote| remote.port() != 0),
        memory: attribute(&message[INET..], INET_MEMORY).and_then(memory),
    })
}

fn parse_unix(message: &[u8]) -> Option<Socket> {
    let fixed = message.get(..UNIX)?;
    Some(Socket {
        inode: word(fixed, 4)?,
        cookie: cookie(fixed, 8)?,
        kind: Kind::Unix,
        state: fixed[2],
        local: None,
        remote: None,
        memory: attribute(&message[UNIX..], UNIX_MEMORY).and_then(memory),
    })
}

fn cookie(fixed: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(word(fixed, at)?) | u64::from(word(fixed, at + 4)?) << 32)
}

/// The payload of an attribute of this number.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(short(bytes, 0)?);
        let payload = bytes.get(4..length)?;
        if short(bytes, 2)? == wanted {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// Older kernels have fewer fields; what is missing is 0, as the kernel takes it.
pub(crate) fn memory(bytes: &[u8]) -> Option<SocketMemory> {
    Some(SocketMemory {
        received: word(bytes, 0)?,
        receive_buffer: word(bytes, 4)?,
        in_flight: word(bytes, 8)?,
        send_buffer: word(bytes, 12)?,
        reserved: word(bytes, 16).unwrap_or(0),
        queued: word(bytes, 20).unwrap_or(0),
        backlog: word(bytes, 28).unwrap_or(0),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    fn inode(socket: &impl std::os::fd::AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        crate::observe::sockets::socket_inode(link.to_str().unwrap()).unwrap()
    }

    #[test]
    fn unread_data_is_found_in_the_socket_that_has_it() {
        let (mut one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        one.write_all(&[7; 20_000]).unwrap();
        assert!(one.as_raw_fd() >= 0);
        let all = match sockets(Kind::Unix) {
            Ok(all) => all,
            // A kernel without the module says so.
            Err(errno) => return assert_eq!(errno, Errno::NOENT),
        };
        let of = |wanted: u32| all.iter().find(|socket| socket.inode == wanted).unwrap();
        // What is sent is the sender's until it is read.
        assert!(of(inode(&one)).memory.unwrap().sends() >= 20_000);
        assert_eq!(of(inode(&other)).memory.unwrap().sends(), 0);
        assert_eq!(of(inode(&other)).state_name(), "established");
    }

    #[test]
    fn a_torn_message_is_no_socket() {
        assert_eq!(parse_inet(Kind::Tcp, &[0; INET - 1]), None);
        assert_eq!(parse_unix(&[0; UNIX - 1]), None);
        let mut whole = vec![0; INET];
        whole[0] = 2;
        assert_eq!(parse_inet(Kind::Tcp, &whole).unwrap().memory, None);
        // An attribute that claims to be longer than what is left.
        whole.extend([40, 0, 7, 0, 1, 2]);
        assert_eq!(parse_inet(Kind::Tcp, &whole).unwrap().memory, None);
        assert!(messages(&[200, 0, 0, 0, 20, 0, 0, 0], &mut |_| panic!("nothing is whole")).is_err());
    }
}
