//! Forking, credentials and limits, for the workloads and for what runs between `fork` and `exec`.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Errno, check, errno};

/// `fork(2)`: 0 in the child.
pub fn fork() -> Result<i32, Errno> {
    // SAFETY: the child goes on in code that takes no lock and allocates nothing (the agent's loop), or exits at once.
    match unsafe { libc::fork() } {
        -1 => Err(errno()),
        pid => Ok(pid),
    }
}

/// include/uapi/linux/sched.h; libc's constant is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The same, born in the group whose directory is given: `clone3(2)` with CLONE_INTO_CGROUP.
pub fn fork_into(group: &OwnedFd) -> Result<i32, Errno> {
    // SAFETY: all-zero is what clone3 takes for "not asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or(0);
    args.cgroup = u64::try_from(group.as_raw_fd()).unwrap_or(0);
    // SAFETY: as for `fork`; without CLONE_VM the child goes on with its own copy of this stack.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) } {
        -1 => Err(errno()),
        pid => Ok(i32::try_from(pid).unwrap_or(0)),
    }
}

/// Starts this program with one argument, by `vfork` and `exec` (`posix_spawn(3)`).
pub fn spawn_self(argument: &CStr) -> Result<i32, Errno> {
    let arguments = [c"systest".as_ptr().cast_mut(), argument.as_ptr().cast_mut(), std::ptr::null_mut()];
    let nothing: [*mut libc::c_char; 1] = [std::ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: path, arguments and environment outlive the call, and both lists end with a null pointer.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            c"/proc/self/exe".as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            nothing.as_ptr(),
        )
    };
    if failed == 0 { Ok(pid) } else { Err(failed) }
}

/// SIGKILL for this process when the thread that forked it ends.
pub fn die_with_parent() {
    // SAFETY: prctl with plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Ends this process without running anything on the way.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// `waitpid(2)` for one child: its raw status if it has changed.
pub fn wait(pid: i32, flags: i32) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(pid, &raw mut status, flags) } {
        -1 => Err(errno()),
        0 => Ok(None),
        _ => Ok(Some(status)),
    }
}

/// Replaces this process by the same program running `workload agent`.
pub fn exec_agent() -> Errno {
    let arguments: [*const libc::c_char; 4] =
        [c"agent".as_ptr(), c"workload".as_ptr(), c"agent".as_ptr(), std::ptr::null()];
    // SAFETY: path and arguments are static and the list ends with a null pointer.
    unsafe { libc::execv(c"/proc/self/exe".as_ptr(), arguments.as_ptr()) };
    errno()
}

/// Replaces this process by the program in a file, which gets no arguments but its path.
pub fn exec(path: &CStr) -> Errno {
    let arguments: [*const libc::c_char; 2] = [path.as_ptr(), std::ptr::null()];
    // SAFETY: path and list outlive the call, and the list ends with a null pointer.
    unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
    errno()
}

/// `open(2)` without allocating.
pub fn open(path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: the path ends with a NUL.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `dup2(2)` onto standard input or output, which stays open over exec.
pub fn replace_stdio(from: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: descriptors 0 and 1 are used by number only in this program's workloads.
    check(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), number) }))
}

/// Ends this thread and, if it is not the only one, not its process.
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: nothing of this thread is used by another, and it does not come back.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// This thread's id.
pub fn thread_id() -> i32 {
    // SAFETY: takes no argument.
    i32::try_from(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap_or(0)
}

/// Huge pages would blur a workload's steps; children and programs it becomes inherit this.
pub fn no_huge_pages() {
    // SAFETY: prctl with plain numbers.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Any `prctl(2)` that takes plain numbers, with the whole of what it returns: the C library's gives an int.
pub fn prctl([option, a, b, c, d]: [u64; 5]) -> Result<u64, Errno> {
    // SAFETY: only tests ask for it, and what they ask for reads or changes no memory of this program.
    let value = unsafe { libc::syscall(libc::SYS_prctl, option, a, b, c, d) };
    check(value)?;
    u64::try_from(value).map_err(|_| libc::EIO)
}

/// `comm`.
pub fn set_name(name: &CStr) {
    // SAFETY: the name ends with a NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// All ids at once, raw: this thread's only.
pub fn set_ids(id: u32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        check(libc::syscall(libc::SYS_setresgid, id, id, id))?;
        check(libc::syscall(libc::SYS_setresuid, id, id, id))
    }
}

/// Whether this process has a capability in its effective set.
pub fn has_capability(number: u32) -> bool {
    capabilities().is_ok_and(|sets| sets[0].effective & (1 << number) != 0)
}

/// CAP_IPC_LOCK: its holders may lock any amount.
pub const CAP_IPC_LOCK: u32 = 14;
/// CAP_SYS_RESOURCE: raising hard limits, and limits of other users' processes.
pub const CAP_SYS_RESOURCE: u32 = 24;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySet {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITY_VERSION: u32 = 0x2008_0522;

fn capabilities() -> Result<[CapabilitySet; 2], Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [CapabilitySet::default(); 2];
    // SAFETY: version 3 fills two sets, and both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

/// Gives up CAP_IPC_LOCK for good, so that RLIMIT_MEMLOCK counts for root too.
pub fn drop_ipc_lock() -> Result<(), Errno> {
    let mut sets = capabilities()?;
    for bits in [&mut sets[0].effective, &mut sets[0].permitted, &mut sets[0].inheritable] {
        *bits &= !(1 << CAP_IPC_LOCK);
    }
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    // SAFETY: header and sets outlive the calls. Without CAP_SETPCAP the bounding set stays, which only matters to exec.
    unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(CAP_IPC_LOCK), 0, 0, 0);
        check(libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()))
    }
}

/// Makes the command start without CAP_IPC_LOCK and without room to lock anything.
pub fn start_without_ipc_lock(command: &mut Command) {
    let give_up = || {
        let refused = |errno| std::io::Error::from_raw_os_error(errno);
        set_limits(0, Resource::MemLock, (0, 0)).and_then(|()| drop_ipc_lock()).map_err(refused)
    };
    // SAFETY: between fork and exec only prlimit(2), prctl(2), capget(2) and capset(2) are called.
    unsafe { command.pre_exec(give_up) };
}

/// Capabilities that the unit gives (capability(7), include/uapi/linux/capability.h).
const CAPABILITIES: [(&str, u32); 9] = [
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_KILL", 5),
    ("CAP_NET_ADMIN", 12),
    ("CAP_IPC_LOCK", CAP_IPC_LOCK),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_NICE", 23),
    ("CAP_SYS_RESOURCE", CAP_SYS_RESOURCE),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// Makes the command start, as root, with no capabilities but these, as `CapabilityBoundingSet=` does. Unknown names count for nothing.
pub fn start_with_capabilities(command: &mut Command, names: &[&str]) {
    let known = CAPABILITIES.iter().filter(|(name, _)| names.contains(name));
    let kept = known.fold(0u64, |kept, (_, number)| kept | 1 << number);
    let give_up = move || {
        for number in (0..64).filter(|number| kept & 1 << number == 0) {
            // SAFETY: numbers only; one that this kernel does not have is refused.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only prctl(2) is called.
    unsafe { command.pre_exec(give_up) };
}

/// Makes the command start in a cgroup namespace of its own, as a container does.
pub fn start_in_own_cgroup_namespace(command: &mut Command) {
    let leave = || {
        // SAFETY: a number only, on the one thread there is between fork and exec.
        let left = unsafe { libc::unshare(libc::CLONE_NEWCGROUP) };
        check(left.into()).map_err(std::io::Error::from_raw_os_error)
    };
    // SAFETY: between fork and exec only unshare(2) is called.
    unsafe { command.pre_exec(leave) };
}

/// The limits memgov lowers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// RLIMIT_AS.
    AddressSpace,
    /// RLIMIT_DATA.
    Data,
    /// RLIMIT_MEMLOCK.
    MemLock,
}

impl Resource {
    const fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::AddressSpace => libc::RLIMIT_AS,
            Self::Data => libc::RLIMIT_DATA,
            Self::MemLock => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// Infinity in [`limits`].
pub const NO_LIMIT: u64 = libc::RLIM_INFINITY;

/// Soft and hard limit of a process (0: this one).
pub fn limits(pid: i32, resource: Resource) -> Result<(u64, u64), Errno> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` outlives the call.
    let result = unsafe { libc::prlimit(pid, resource.number(), std::ptr::null(), &raw mut old) };
    check(libc::c_long::from(result))?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// Sets soft and hard limit of a process (0: this one).
pub fn set_limits(pid: i32, resource: Resource, (soft, hard): (u64, u64)) -> Result<(), Errno> {
    let new = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `new` outlives the call.
    let result = unsafe { libc::prlimit(pid, resource.number(), &raw const new, std::ptr::null_mut()) };
    check(libc::c_long::from(result))
}

/// Makes the command enter the groups whose `cgroup.procs` are given, before it becomes another program, so that no
/// child of it can be born outside. It dies with the thread that starts it if `tied`.
pub fn start_in_groups(command: &mut Command, procs: Vec<OwnedFd>, tied: bool) {
    let enter = move || {
        for file in &procs {
            rustix::io::write(file, b"0\n")?;
        }
        if tied {
            die_with_parent();
        }
        Ok(())
    };
    // SAFETY: between fork and exec only write(2) and prctl(2) are called, on descriptors opened before.
    unsafe { command.pre_exec(enter) };
}
