//! Births and deaths of processes, from the kernel's proc connector (netlink). A hint for who inherited what: never the
//! only source, because the queue may overflow and the socket needs CAP_NET_ADMIN.

use super::{Errno, Error, sys};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// A process (not a thread) was born. After clone with CLONE_PARENT `parent` is the caller's parent, not the caller.
    Fork {
        /// Its parent.
        parent: u32,
        /// The new one.
        child: u32,
    },
    /// A process runs another program.
    Exec {
        /// Which.
        pid: u32,
    },
    /// The first thread of a process has exited: nearly always all of it, but others may run on.
    Exit {
        /// Which.
        pid: u32,
    },
    /// Events were lost: look at everything.
    Lost,
}

/// The socket.
#[derive(Debug)]
pub struct ProcessEvents(OwnedFd);

/// Bytes the kernel may queue before events are lost.
const QUEUE: usize = 1 << 20;
/// `CN_IDX_PROC` and `CN_VAL_PROC`: the proc connector's address, and its multicast group.
const CN_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_CN_MCAST_IGNORE: u32 = 2;
const PROC_EVENT_FORK: u32 = 0x1;
const PROC_EVENT_EXEC: u32 = 0x2;
const PROC_EVENT_EXIT: u32 = 0x8000_0000;
/// `struct nlmsghdr`.
const NETLINK_HEADER: usize = 16;
/// `struct cn_msg` without its data.
const CONNECTOR_HEADER: usize = 20;

impl ProcessEvents {
    /// Listens; `None` where this process may not, or the kernel has no proc connector.
    pub fn open() -> Result<Option<Self>, Error> {
        Self::listen().or_else(|errno| match errno {
            Errno::PERM
            | Errno::ACCESS
            | Errno::PROTONOSUPPORT
            | Errno::AFNOSUPPORT
            | Errno::NOENT
            | Errno::CONNREFUSED => Ok(None),
            errno => Err(Error::new("listening to", "netlink connector (process events)", errno)),
        })
    }

    fn listen() -> Result<Option<Self>, Errno> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, sockopt};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            flags,
            Some(netlink::CONNECTOR),
        )?;
        // Best effort: the first needs CAP_NET_ADMIN, the second is cut to net.core.rmem_max.
        if sockopt::set_socket_recv_buffer_size_force(&fd, QUEUE).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&fd, QUEUE);
        }
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, CN_PROC))?;
        rustix::io::write(&fd, &order(PROC_CN_MCAST_LISTEN))?;
        // The kernel answers; but from outside the initial pid and user namespaces it drops the order without a word.
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let answered = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 }))? > 0;
        Ok(answered.then_some(Self(fd)))
    }

    /// Hears births, programs begun and deaths of processes, or nothing at all; what is not heard is dropped in the kernel and wakes
    /// nobody. Threads, and whatever else the connector tells of, are never heard.
    pub fn attend(&self, attend: bool) -> Result<(), Errno> {
        let filter: &[sys::FilterStep] = if attend { &PROCESSES_ONLY } else { &NOTHING };
        sys::attach_filter(self.0.as_fd(), filter)
    }

    /// Gives out what has happened, until nothing is left. `buffer`: 4096 bytes do.
    pub fn read(&mut self, buffer: &mut [u8], f: &mut dyn FnMut(ProcessEvent)) -> Result<(), Errno> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(n) => parse_datagram(&buffer[..n], f),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => f(ProcessEvent::Lost),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl Drop for ProcessEvents {
    fn drop(&mut self) {
        // Kernels before 6.6 go on counting a listener that is gone, and making messages for it. Best effort: one that is
        // killed leaves it counted.
        let _ = rustix::io::write(&self.0, &order(PROC_CN_MCAST_IGNORE));
    }
}

/// Where the fields of a message stand: netlink header, connector header, `struct proc_event`.
const WHAT: u32 = 36;
const DATA: u32 = 52;
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const KEEP: u32 = libc::BPF_MISC | libc::BPF_TAX;
const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IS_KEPT: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_X;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Classic BPF loads in network order; the messages are in the host's.
const fn network(n: u32) -> u32 {
    n.to_be()
}

/// Lets through forks whose child is a process (its pid is its tgid), execs, and exits of whole processes.
const PROCESSES_ONLY: [sys::FilterStep; 14] = [
    (LOAD, 0, 0, WHAT),
    (IS, 2, 0, network(PROC_EVENT_FORK)),
    (IS, 9, 0, network(PROC_EVENT_EXEC)),
    (IS, 4, 9, network(PROC_EVENT_EXIT)),
    // A fork: child_pid and child_tgid.
    (LOAD, 0, 0, DATA + 8),
    (KEEP, 0, 0, 0),
    (LOAD, 0, 0, DATA + 12),
    (IS_KEPT, 4, 5, 0),
    // An exit: process_pid and process_tgid.
    (LOAD, 0, 0, DATA),
    (KEEP, 0, 0, 0),
    (LOAD, 0, 0, DATA + 4),
    (IS_KEPT, 0, 1, 0),
    (RETURN, 0, 0, u32::MAX),
    (RETURN, 0, 0, 0),
];

/// Lets nothing through.
const NOTHING: [sys::FilterStep; 1] = [(RETURN, 0, 0, 0)];

impl AsFd for ProcessEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An order in its old form, without an event filter: every kernel takes it.
fn order(what: u32) -> [u8; 40] {
    const NLMSG_DONE: u16 = 3;
    let mut message = [0; NETLINK_HEADER + CONNECTOR_HEADER + 4];
    let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &40u32.to_ne_bytes()); // nlmsg_len
    put(4, &NLMSG_DONE.to_ne_bytes()); // nlmsg_type
    put(12, &std::process::id().to_ne_bytes()); // nlmsg_pid
    put(16, &CN_PROC.to_ne_bytes()); // cn_msg.id.idx
    put(20, &CN_PROC.to_ne_bytes()); // cn_msg.id.val
    put(32, &4u16.to_ne_bytes()); // cn_msg.len
    put(36, &what.to_ne_bytes());
    message
}

/// The messages of one datagram; whatever is not a whole message of the proc connector is passed over.
pub fn parse_datagram(mut bytes: &[u8], f: &mut dyn FnMut(ProcessEvent)) {
    while let Some(len) = word(bytes, 0).and_then(|len| usize::try_from(len).ok()) {
        if len < NETLINK_HEADER || len > bytes.len() {
            return;
        }
        if let Some(event) = parse_message(&bytes[NETLINK_HEADER..len]) {
            f(event);
        }
        let next = len.next_multiple_of(4).min(bytes.len());
        bytes = &bytes[next..];
    }
}

fn parse_message(message: &[u8]) -> Option<ProcessEvent> {
    if word(message, 0)? != CN_PROC || word(message, 4)? != CN_PROC {
        return None;
    }
    // struct proc_event: what, cpu, timestamp_ns, then pids and tgids.
    let event = message.get(CONNECTOR_HEADER..)?;
    let data = event.get(16..)?;
    match word(event, 0)? {
        PROC_EVENT_FORK => {
            let (parent, child_pid, child) = (word(data, 4)?, word(data, 8)?, word(data, 12)?);
            // Otherwise it is a thread.
            (child_pid == child).then_some(ProcessEvent::Fork { parent, child })
        }
        PROC_EVENT_EXEC => Some(ProcessEvent::Exec { pid: word(data, 4)? }),
        PROC_EVENT_EXIT => {
            let (pid, tgid) = (word(data, 0)?, word(data, 4)?);
            (pid == tgid).then_some(ProcessEvent::Exit { pid })
        }
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}
