//! The unsafe code, with `fork.rs` and `seccomp.rs`: calls that rustix does not have, or not in the form needed. Each is a thin, safe function.

use super::Errno;
use memgov_decide::units::Time;
use rustix::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use rustix::mm::MlockAllFlags;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

/// The monotonic clock.
pub fn now() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Since boot, so neither is negative.
    let (sec, nsec) = (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0));
    Time(sec.saturating_mul(1_000_000_000).saturating_add(nsec))
}

/// Clock ticks since boot, suspension included: what start times in `/proc/PID/stat` are counted in.
pub fn boot_ticks() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (sec, nsec) = (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0));
    let ticks = clock_ticks();
    sec.saturating_mul(ticks).saturating_add(nsec.saturating_mul(ticks) / 1_000_000_000)
}

/// Bytes in a page.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Clock ticks a second, the unit of start times.
pub fn clock_ticks() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// Processors online; unlike `available_parallelism` not narrowed by memgov's own affinity or quota.
pub fn cpus() -> u32 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let n = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(n).unwrap_or(1).max(1)
}

/// Keeps all memory of this process, now and later, in RAM.
pub fn mlock_all() -> Result<(), Errno> {
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
}

/// Keeps in RAM what is mapped now, and no longer what will be mapped later (mlockall(2): MCL_CURRENT alone takes MCL_FUTURE back).
pub fn mlock_present() -> Result<(), Errno> {
    rustix::mm::mlockall(MlockAllFlags::CURRENT)
}

/// Where the heap of the thread that called `main` ends, in which everything it allocates lies after [`keep_one_heap`].
pub fn heap_end() -> usize {
    // SAFETY: an increment of 0 only asks; in glibc and musl that reads a variable, or makes the system call brk(0).
    unsafe { libc::sbrk(0) }.addr()
}

/// Keeps in RAM what lies between two ends of the heap, the first one having been the end before.
pub fn mlock_heap(from: usize, to: usize) -> Result<(), Errno> {
    let Some(length) = to.checked_sub(from) else { return Ok(()) };
    // SAFETY: locking changes no memory, and of addresses where nothing is mapped the kernel says ENOMEM.
    check(unsafe { libc::syscall(libc::SYS_mlock, from, length) })
}

/// Bytes that need not be in RAM any more: whoever reads them again may wait for them.
pub fn munlock(bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: unlocking changes no memory. The kernel takes whole pages, so that what is beside it is unlocked too.
    check(unsafe { libc::syscall(libc::SYS_munlock, bytes.as_ptr(), bytes.len()) })
}

/// Unlocks what is mapped of this program and its libraries and only read when something else is wrong or was wanted: the tables by which a
/// panic unwinds the stack, which end an object's read-only segment (`PT_GNU_EH_FRAME` in elf(5); .eh_frame lies behind its index), and all
/// of the libraries whose file names begin with one of `whole`.
pub fn munlock_seldom_read(whole: &[&str]) {
    /// dl_iterate_phdr(3) calls it for each object; 0 goes on.
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        whole: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the C library gives a valid description, with as many program headers as it says; `whole` is what was handed in below. All
        // three live longer than this call.
        let (info, headers, whole) = unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
            (info, headers, &*whole.cast::<&[&str]>())
        };
        let name = if info.dlpi_name.is_null() {
            c""
        } else {
            // SAFETY: a string that the C library keeps as long as the object is loaded.
            unsafe { std::ffi::CStr::from_ptr(info.dlpi_name) }
        };
        let file = name.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let all = whole.iter().any(|wanted| file.starts_with(wanted.as_bytes()));
        let unwinding = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        for segment in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
            let end = segment.p_vaddr.saturating_add(segment.p_memsz);
            let from = match unwinding {
                _ if all => segment.p_vaddr,
                Some(tables)
                    if segment.p_flags == libc::PF_R && (segment.p_vaddr..end).contains(&tables.p_vaddr) =>
                {
                    tables.p_vaddr
                }
                _ => continue,
            };
            // Whole pages, without those at the ends that hold other things too.
            let from = info.dlpi_addr.saturating_add(from).next_multiple_of(page);
            let end = info.dlpi_addr.saturating_add(end) / page * page;
            if from < end {
                // SAFETY: unlocking changes no memory, and of addresses where nothing is mapped the kernel says ENOMEM.
                let _ = check(unsafe { libc::syscall(libc::SYS_munlock, from, end - from) });
            }
        }
        0
    }
    let mut whole = whole;
    // SAFETY: `each` reads what it is handed while this call lasts.
    unsafe { libc::dl_iterate_phdr(Some(each), ptr::from_mut(&mut whole).cast()) };
}

/// Large pieces of memory get mappings of their own and are gone when they are given back. glibc does so at first, and then raises its
/// idea of what is large with each that is given back: what loading programs takes (the types of the whole kernel) would stay in the heap.
pub fn map_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; what it does not know it leaves.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// From now on the thread that called `main` allocates from its one heap only (no mappings of their own for large pieces), which grows by
/// `spare` bytes at least and never shrinks. Other threads have heaps of their own. Elsewhere than in glibc nothing can be asked for.
pub fn keep_one_heap(spare: u32) {
    #[cfg(target_env = "gnu")]
    {
        // The most glibc takes: half of the largest heap of another thread (HEAP_MAX_SIZE in malloc/arena.c).
        const LARGEST: libc::c_int = 32 << 20;
        let spare = libc::c_int::try_from(spare).unwrap_or(libc::c_int::MAX);
        for (option, value) in [
            (libc::M_MMAP_THRESHOLD, LARGEST),
            (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
            (libc::M_TOP_PAD, spare),
        ] {
            // SAFETY: takes two numbers; what it does not know it leaves.
            unsafe { libc::mallopt(option, value) };
        }
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = spare;
}

/// Gives back what [`mlock_all`] took.
pub fn munlock_all() -> Result<(), Errno> {
    rustix::mm::munlockall()
}

/// Frees the memory of a process that is being killed without waiting for it to be scheduled. `INVAL`: it is not dying.
pub fn process_mrelease(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the descriptor is valid for the length of the call and the second argument must be 0; no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0u32) })
}

/// Sends a signal by number. By number, because the realtime signals 32 and 33, which the C library keeps to itself, may be asked for too.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: u8) -> Result<(), Errno> {
    let no_info: *const libc::siginfo_t = ptr::null();
    // SAFETY: a null siginfo is allowed and makes the kernel fill in what kill(2) would.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::c_int::from(signal),
            no_info,
            0u32,
        )
    })
}

/// Reads, and if `new` is given replaces, a limit of any process; `(soft, hard)`, `RLIM_INFINITY` as it is. rustix's call
/// cannot read without writing.
pub(crate) fn prlimit(pid: u32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64), Errno> {
    let new = new.map(|(soft, hard)| libc::rlimit64 { rlim_cur: soft, rlim_max: hard });
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or points to a rlimit64 that outlives the call, `old` is ours to be written.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, ptr::from_mut(&mut old)) })?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// Blocks signals in the calling thread (threads it starts inherit that) and opens them for reading.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd, Errno> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by sigemptyset.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: the set is initialised; an invalid number is refused with EINVAL and changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: the set is initialised; the old mask is not asked for.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if blocked != 0 {
        return Err(Errno::from_raw_os_error(blocked));
    }
    // SAFETY: the set is initialised and only read.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(libc::c_long::from(fd))?;
    // SAFETY: a descriptor the kernel has just given to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets all signals in again, in the calling thread: what a program starts with that is about to replace this one.
pub fn unblock_signals() -> Result<(), Errno> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialised; the old mask is not asked for.
    let set_to = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) };
    if set_to == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(set_to)) }
}

/// The next signal of a [`signal_fd`]; `None`: none has come.
pub fn read_signal(fd: &OwnedFd) -> Result<Option<i32>, Errno> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut info)) {
        // `ssi_signo` is the first field, a u32.
        Ok(n) if n == info.len() => {
            Ok(info.first_chunk().and_then(|signo| i32::try_from(u32::from_ne_bytes(*signo)).ok()))
        }
        Ok(_) => Err(Errno::IO),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Does nothing: that a signal came is enough to interrupt a call.
extern "C" fn take_note(_signal: libc::c_int) {}

/// Interrupts the thread that made it again and again: a `write` to a control file that reclaims memory ends with EINTR instead of
/// lasting as long as the kernel likes (`signal_pending` in mm/memcontrol.c). By SIGURG, which nothing else in memgov uses and which
/// by default does nothing. Ends when it is dropped.
#[derive(Debug)]
pub struct Nudge(libc::timer_t);

impl Nudge {
    /// Every so often, from now on. The thread must have SIGURG unblocked, as threads of memgov have.
    pub fn every(interval: Duration) -> Result<Self, Errno> {
        let handler: extern "C" fn(libc::c_int) = take_note;
        // SAFETY: zero is a valid sigaction; the handler makes no call and touches nothing; without SA_RESTART calls are interrupted.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            check(libc::sigaction(libc::SIGURG, &raw const action, ptr::null_mut()).into())?;
        }
        // SAFETY: zero is a valid sigevent; the thread id is this thread's own.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGURG;
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both point to values that outlive the call.
        check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) }.into())?;
        let nudge = Self(timer);
        let span = libc::timespec {
            tv_sec: libc::time_t::try_from(interval.as_secs()).map_err(|_| Errno::INVAL)?,
            tv_nsec: interval.subsec_nanos().into(),
        };
        let times = libc::itimerspec { it_interval: span, it_value: span };
        // SAFETY: the timer was made above; the old times are not asked for.
        check(unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) }.into())?;
        Ok(nudge)
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        // SAFETY: made by `every` and deleted once. It fails only for a timer that is none.
        let _ = unsafe { libc::timer_delete(self.0) };
    }
}

/// Processor time that this thread has used.
pub fn thread_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// One instruction of a filter for a socket or for system calls (classic BPF, linux/filter.h): code, jump if true, jump if false, operand.
pub type FilterStep = (u32, u8, u8, u32);

/// At most so many instructions.
const FILTER_STEPS: usize = 32;

/// The instructions as the kernel takes them.
pub(super) fn filter_program(steps: &[FilterStep]) -> Result<[libc::sock_filter; FILTER_STEPS], Errno> {
    let mut program = [libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; FILTER_STEPS];
    for (to, &(code, jt, jf, k)) in program.iter_mut().zip(steps) {
        *to = libc::sock_filter { code: u16::try_from(code).map_err(|_| Errno::INVAL)?, jt, jf, k };
    }
    Ok(program)
}

/// Has the kernel drop what a filter returns 0 for before it is queued, so that it wakes nobody.
pub fn attach_filter(socket: BorrowedFd<'_>, steps: &[FilterStep]) -> Result<(), Errno> {
    let mut program = filter_program(steps)?;
    let len = steps.len().min(FILTER_STEPS);
    let filter =
        libc::sock_fprog { len: u16::try_from(len).map_err(|_| Errno::INVAL)?, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `filter` and the program it points to outlive the call, which copies them; the length is that of the program.
    check(libc::c_long::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            ptr::from_ref(&filter).cast(),
            size,
        )
    }))
}

/// Effective uid and pid of who connected to this socket (SO_PEERCRED, unix(7)). No pid: it is in a pid namespace that this process does not see
/// into, for which the kernel says 0, and rustix's type has no 0.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<(u32, Option<u32>), Errno> {
    let mut of = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel writes at most `size` bytes, which is what there is, and any bytes make a ucred.
    check(libc::c_long::from(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            ptr::from_mut(&mut of).cast(),
            &raw mut size,
        )
    }))?;
    Ok((of.uid, u32::try_from(of.pid).ok().filter(|&pid| pid != 0)))
}

/// Reads a socket option (getsockopt(2)); how many bytes of `into` it has.
pub(crate) fn getsockopt(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    into: &mut [u8],
) -> Result<usize, Errno> {
    let mut size = libc::socklen_t::try_from(into.len()).map_err(|_| Errno::INVAL)?;
    let at = into.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `size` bytes, which is what there is.
    check(libc::c_long::from(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, at, &raw mut size)
    }))?;
    Ok(usize::try_from(size).unwrap_or(0).min(into.len()))
}

/// Sets a socket option that is a number (setsockopt(2)).
pub(crate) fn setsockopt(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(size_of::<i32>()).map_err(|_| Errno::INVAL)?;
    let at = ptr::from_ref(&value).cast();
    // SAFETY: the number outlives the call, which reads it.
    check(libc::c_long::from(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, at, size) }))
}

pub(super) fn check(result: libc::c_long) -> Result<(), Errno> {
    if result == -1 {
        // `last_os_error` is errno in an integer: no allocation.
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_and_the_sizes_are_sane() {
        let (a, b) = (now(), now());
        assert!(b >= a && a.0 > 0);
        assert!(page_size().is_power_of_two() && clock_ticks() > 0 && cpus() > 0);
    }

    #[test]
    fn a_nudge_interrupts_its_own_thread_and_ends_when_dropped() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let nudge = Nudge::every(Duration::from_millis(20)).unwrap();
        for _ in 0..3 {
            assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Err(Errno::INTR));
        }
        drop(nudge);
        let rest = rustix::event::Timespec { tv_sec: 0, tv_nsec: 60_000_000 };
        assert_eq!(rustix::event::poll(&mut [], Some(&rest)), Ok(0), "still nudged");
    }
}
