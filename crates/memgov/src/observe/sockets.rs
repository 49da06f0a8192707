//! The sockets of one group and all below it, for whoever asks: which processes have them open, what lies in their buffers, in which state they are. Of each network
//! namespace that the group's processes are in. It allocates and takes its time, so it is nothing for the loop.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use memgov_decide::snapshot::GroupId;
use memgov_decide::units::Bytes;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel::sock_diag::{Kind, Socket, sockets};
use crate::kernel::{Errno, Error, GroupDir, Layout, MemoryVersion, proc, subgroups};

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: u32,
    /// Its name, NUL-padded.
    pub comm: [u8; 16],
}

/// A socket and who has it open.
#[derive(Clone, Debug)]
pub struct Held {
    /// The socket.
    pub socket: Socket,
    /// Processes of the group that have it open.
    pub holders: Vec<Holder>,
}

/// What was found out.
#[derive(Clone, Debug)]
pub struct SocketSurvey {
    /// How the group's files are spelt.
    pub version: MemoryVersion,
    /// Inode of its directory.
    pub id: u64,
    /// What the kernel has charged the group for; `None`: it does not account it.
    pub charged: Option<Bytes>,
    /// How often the kernel kept their sockets small; `None`: it does not count that.
    pub throttled: Option<u64>,
    /// Most memory first.
    pub held: Vec<Held>,
    /// Processes that were looked at.
    pub processes: u32,
    /// Processes whose descriptors could not be read: not this user's.
    pub unread: u32,
    /// Open sockets that no list has: of other kinds (packet, netlink), or closed meanwhile.
    pub others: u64,
    /// Network namespaces that were looked into.
    pub namespaces: u32,
    /// Namespaces, or kinds of sockets in one, that could not be, and why.
    pub unknown: Vec<String>,
}

/// Processes by the network namespace they are in: its inode, one of them to reach it by.
type Namespaces = BTreeMap<u64, u32>;

/// Surveys the group at `path`.
///
/// # Errors
/// If there is no such group. What is not to be had of single processes is counted.
pub fn survey(layout: &Layout, path: &[u8]) -> Result<SocketSurvey, Error> {
    let mut dir = GroupDir::open(layout, path)?;
    let mut buffer = vec![0; 16 << 10];
    dir.keep_sockets(true);
    let charged = dir.read_sockets(&mut buffer, &mut |_, _| ()).unwrap_or_default();
    let throttled = dir.read_throttled_sockets(&mut buffer).unwrap_or_default();
    let (version, id) = (dir.version(), dir.id().0);
    drop(dir);
    let mut pids = Vec::new();
    processes(layout, path, None, &mut buffer, &mut pids);
    let mut holders: HashMap<u32, Vec<Holder>> = HashMap::new();
    let (mut namespaces, mut unread, mut looked_at) = (Namespaces::new(), 0, 0);
    for pid in pids {
        match descriptors(pid) {
            Ok(open) => {
                looked_at += 1;
                if let Some(inode) = namespace(pid).filter(|_| !open.is_empty()) {
                    namespaces.entry(inode).or_insert(pid);
                }
                let comm = proc::read_stat(pid, &mut buffer).map_or([0; 16], |stat| stat.comm);
                for (_, inode) in open {
                    let of = holders.entry(inode).or_default();
                    if of.iter().all(|holder| holder.pid != pid) {
                        of.push(Holder { pid, comm });
                    }
                }
            }
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(_) => unread += 1,
        }
    }
    let mut unknown = Vec::new();
    let mut held = Vec::new();
    for &pid in namespaces.values() {
        for socket in in_namespace(pid, &mut unknown) {
            if let Some(holders) = holders.remove(&socket.inode) {
                held.push(Held { socket, holders });
            }
        }
    }
    held.sort_by_key(|held| std::cmp::Reverse(weight(&held.socket)));
    let (others, namespaces) = (holders.len() as u64, u32::try_from(namespaces.len()).unwrap_or(u32::MAX));
    Ok(SocketSurvey {
        version,
        id,
        charged,
        throttled,
        held,
        processes: looked_at,
        unread,
        others,
        namespaces,
        unknown,
    })
}

fn weight(socket: &Socket) -> u64 {
    socket.memory.map_or(0, |memory| memory.receives() + memory.sends())
}

/// Groups with a longer path are not followed: whoever nests them deeper costs more with each, and is found by what is above.
const LONGEST_PATH: usize = 4096;

/// The processes of a group and those below; none, if it is not the one that is `meant`. Groups that go meanwhile have none.
pub(crate) fn processes(
    layout: &Layout,
    path: &[u8],
    meant: Option<GroupId>,
    buffer: &mut [u8],
    pids: &mut Vec<u32>,
) {
    let (mut left, mut meant) = (vec![path.to_vec()], meant);
    while let Some(path) = left.pop() {
        match GroupDir::open(layout, &path) {
            Ok(dir) if meant.take().is_none_or(|meant| dir.id() == meant) => {
                // A threaded group's are listed in the one above it that is not.
                let _listed = dir.for_each_pid(buffer, &mut |pid| pids.push(pid));
            }
            _ => continue,
        }
        let top: &[u8] = if path == b"/" { b"" } else { &path };
        let below = subgroups(layout, &path).unwrap_or_default();
        left.extend(
            below.iter().map(|name| [top, b"/", &**name].concat()).filter(|path| path.len() <= LONGEST_PATH),
        );
    }
}

/// Descriptors of a process that are sockets, with their inodes.
pub(crate) fn descriptors(pid: u32) -> Result<Vec<(i32, u32)>, Errno> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let each = open.flatten().filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, socket_inode(std::fs::read_link(entry.path()).ok()?.to_str()?)?))
    });
    Ok(each.collect())
}

/// Of `socket:[12]`.
pub(crate) fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn namespace(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|namespace| namespace.ino())
}

/// All sockets of the network namespace of a process. By a thread that goes there and ends, so that nobody else is moved.
fn in_namespace(pid: u32, unknown: &mut Vec<String>) -> Vec<Socket> {
    let own = namespace(std::process::id()) == namespace(pid);
    let looked = std::thread::spawn(move || {
        let mut unknown = Vec::new();
        if !own && let Err(why) = enter(pid) {
            return (Vec::new(), vec![format!("the network namespace of pid {pid}: {why}")]);
        }
        let mut all = Vec::new();
        for kind in Kind::ALL {
            match sockets(kind) {
                Ok(found) => all.extend(found),
                Err(Errno::NOENT) => {
                    unknown.push(format!("{} sockets: this kernel has no {0}_diag", kind.name()))
                }
                Err(errno) => unknown.push(format!("{} sockets: {errno}", kind.name())),
            }
        }
        (all, unknown)
    });
    // It has nothing that could panic.
    let (all, more) = looked.join().unwrap_or_default();
    for one in more {
        if !unknown.contains(&one) {
            unknown.push(one);
        }
    }
    all
}

fn enter(pid: u32) -> Result<(), String> {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).map_err(|error| error.to_string())?;
    let entered =
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network));
    entered.map_err(|errno| format!("{errno} (setns needs CAP_SYS_ADMIN)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_sockets_are_told_from_others() {
        assert_eq!(socket_inode("socket:[12]"), Some(12));
        for other in ["socket:[]", "socket:[x]", "pipe:[12]", "/tmp/socket:[12]", "socket:[12"] {
            assert_eq!(socket_inode(other), None, "{other}");
        }
    }
}
