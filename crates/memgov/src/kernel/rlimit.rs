//! Resource limits of other processes. Only numbers in and out: what may be written, and how it is put back, is `act`'s.

use super::{Errno, sys};

/// The limits that refuse memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `RLIMIT_AS`: every mapping.
    AddressSpace,
    /// `RLIMIT_DATA`: private writable mappings and brk.
    Data,
    /// `RLIMIT_MEMLOCK`: mlock, for processes without CAP_IPC_LOCK.
    MemLock,
}

impl Resource {
    const fn number(self) -> u32 {
        match self {
            Self::AddressSpace => libc::RLIMIT_AS,
            Self::Data => libc::RLIMIT_DATA,
            Self::MemLock => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// A soft and a hard limit; `None` is infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What is enforced.
    pub soft: Option<u64>,
    /// How far the process may raise it itself.
    pub hard: Option<u64>,
}

impl Pair {
    fn from_kernel((soft, hard): (u64, u64)) -> Self {
        let known = |n| (n != libc::RLIM64_INFINITY).then_some(n);
        Self { soft: known(soft), hard: known(hard) }
    }
}

/// The limit of a process. Another uid's needs CAP_SYS_RESOURCE, even to read: `PERM`.
pub fn get(pid: u32, resource: Resource) -> Result<Pair, Errno> {
    sys::prlimit(not_self(pid)?, resource.number(), None).map(Pair::from_kernel)
}

/// Replaces the limit of a process and returns what it was, in one step.
pub fn set(pid: u32, resource: Resource, new: Pair) -> Result<Pair, Errno> {
    let raw = |n: Option<u64>| n.unwrap_or(libc::RLIM64_INFINITY);
    sys::prlimit(not_self(pid)?, resource.number(), Some((raw(new.soft), raw(new.hard))))
        .map(Pair::from_kernel)
}

/// Pid 0 would mean memgov itself to the kernel.
/// Whether this process may lock all its memory, what comes later included. With a limit on it (RLIMIT_MEMLOCK, and no CAP_IPC_LOCK)
/// mlockall(MCL_FUTURE) succeeds, and the allocation that meets the limit fails.
pub fn may_lock_all() -> bool {
    let me = std::process::id();
    let unlimited = get(me, Resource::MemLock).is_ok_and(|limit| limit.soft.is_none());
    let mut buffer = [0; super::proc::STATUS_BUFFER];
    unlimited
        || super::proc::read_status(me, &mut buffer).is_ok_and(|status| status.cap_ipc_lock == Some(true))
}

fn not_self(pid: u32) -> Result<u32, Errno> {
    if pid == 0 { Err(Errno::SRCH) } else { Ok(pid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limits_are_lowered_and_put_back() {
        let me = std::process::id();
        let before = get(me, Resource::MemLock).unwrap();
        let lowered = Pair { soft: Some(4096), hard: before.hard };
        assert_eq!(set(me, Resource::MemLock, lowered), Ok(before));
        assert_eq!(get(me, Resource::MemLock), Ok(lowered));
        assert_eq!(set(me, Resource::MemLock, before), Ok(lowered));
    }

    #[test]
    fn pid_0_is_nobody_and_a_soft_limit_over_the_hard_one_is_refused() {
        assert_eq!(get(0, Resource::Data), Err(Errno::SRCH));
        let wrong = Pair { soft: Some(2), hard: Some(1) };
        assert_eq!(set(std::process::id(), Resource::Data, wrong), Err(Errno::INVAL));
        let infinite = Pair::from_kernel((libc::RLIM64_INFINITY, 5));
        assert_eq!(infinite, Pair { soft: None, hard: Some(5) });
    }
}
