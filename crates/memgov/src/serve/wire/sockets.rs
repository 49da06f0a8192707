//! What `status --sockets --json` prints.

use serde::{Deserialize, Serialize};

/// The sockets of a group and all below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSockets {
    /// `v1` or `v2`.
    pub memory: String,
    /// Path in the memory hierarchy.
    pub path: String,
    /// Inode of its directory.
    pub id: u64,
    /// What the kernel has charged the group for: v2 `sock` of `memory.stat`, v1 TCP alone. Absent: it does not account it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged_bytes: Option<u64>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unaccounted: Option<String>,
    /// How often the kernel refused a charge for these buffers, of the group and all below, since a rule squeezes sockets. Absent: memgov does not count that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// How often the kernel kept one of its sockets, or of those below, small because the group was under pressure: `sock_throttled` of `memory.events`. Absent before Linux 6.19.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
    /// v1: `charged_bytes` is not part of usage.
    pub apart: bool,
    /// What the buffers of all that are listed hold on the receive side.
    pub receive_bytes: u64,
    /// The same on the send side.
    pub send_bytes: u64,
    /// Most memory first.
    pub sockets: Vec<HeldSocket>,
    /// Processes that were looked at.
    pub processes: u32,
    /// Processes whose descriptors this user may not see.
    pub unread_processes: u32,
    /// Open sockets of other kinds (packet, netlink), or closed meanwhile.
    pub others: u64,
    /// Network namespaces that were looked into.
    pub namespaces: u32,
    /// What could not be looked into, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// One socket. Amounts are absent where the kernel does not give them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSocket {
    /// Its inode in sockfs.
    pub inode: u32,
    /// Never used again within a boot (SO_COOKIE in socket(7)).
    pub cookie: u64,
    /// `tcp`, `udp` or `unix`.
    pub kind: String,
    /// As ss(8) names it: `established`, `listen`, `close-wait`, ...
    pub state: String,
    /// Its own address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The other side's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// In the receive buffer, and received while the program had it locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_bytes: Option<u64>,
    /// The most of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_buffer_bytes: Option<u32>,
    /// To be sent or acknowledged; of unix sockets, not read by the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_bytes: Option<u64>,
    /// The most of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_buffer_bytes: Option<u32>,
    /// Processes of the group that have it open.
    pub holders: Vec<SocketHolder>,
}

/// A process that has a socket open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketHolder {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}
