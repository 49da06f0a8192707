//! Mapping and touching memory by raw system calls. Addresses are plain numbers here: the regions are never used as Rust
//! objects, only written to one byte a page, so nobody else's memory can be reached through them.

use super::{Errno, check, errno};

/// The page size of every target.
pub const PAGE: usize = 4096;

/// How a region is mapped.
#[derive(Clone, Copy)]
pub enum Mapping {
    /// Private, anonymous, writable.
    Anon,
    /// The same, filled by the kernel before the call returns.
    Populate,
    /// Shared, anonymous: counted as shared memory.
    Shared,
    /// Private, anonymous, no access.
    NoAccess,
    /// Private, anonymous, readable only.
    ReadOnly,
    /// A file, shared, from this offset.
    File {
        /// The open file.
        fd: i32,
        /// Where in it.
        offset: i64,
    },
}

/// `mmap(2)`.
pub fn map(length: usize, mapping: Mapping) -> Result<usize, Errno> {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let (protection, flags, fd, offset) = match mapping {
        Mapping::Anon => (rw, private, -1, 0),
        Mapping::Populate => (rw, private | libc::MAP_POPULATE, -1, 0),
        Mapping::Shared => (rw, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0),
        Mapping::NoAccess => (libc::PROT_NONE, private | libc::MAP_NORESERVE, -1, 0),
        Mapping::ReadOnly => (libc::PROT_READ, private | libc::MAP_NORESERVE, -1, 0),
        Mapping::File { fd, offset } => (rw, libc::MAP_SHARED, fd, offset),
    };
    // SAFETY: no address is asked for, so no existing mapping can be replaced.
    let address = unsafe { libc::syscall(libc::SYS_mmap, 0usize, length, protection, flags, fd, offset) };
    if address == -1 { Err(errno()) } else { Ok(usize::try_from(address).unwrap_or(0)) }
}

/// `munmap(2)` of what [`map`] gave.
pub fn unmap(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: callers pass regions made by `map`, which no Rust object lives in.
    check(unsafe { libc::syscall(libc::SYS_munmap, address, length) })
}

/// `madvise(2)` with MADV_DONTNEED: the pages are given back, the mapping stays.
pub fn discard(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: callers pass regions made by `map`, whose content nobody relies on.
    check(unsafe { libc::syscall(libc::SYS_madvise, address, length, libc::MADV_DONTNEED) })
}

/// `madvise(2)` with MADV_DONTDUMP: nothing is given back, and no neighbour is of one mapping with it any more.
pub fn leave_out_of_dumps(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: what is in a core file is nobody's business here; content and protection stay.
    check(unsafe { libc::syscall(libc::SYS_madvise, address, length, libc::MADV_DONTDUMP) })
}

/// Writes one byte to each page.
pub fn touch(address: usize, length: usize) {
    for at in (address..address + length).step_by(PAGE) {
        // SAFETY: `at` lies in a writable region made by `map` and not unmapped since.
        unsafe { std::ptr::write_volatile(at as *mut u8, 1) };
    }
}

/// Fills it with numbers of which no page is like another or has a pattern in it (xorshift64, Marsaglia 2003).
pub fn fill_with_noise(address: usize, length: usize) {
    let mut state = (address as u64) ^ super::now() | 1;
    for at in (address..address + length).step_by(size_of::<u64>()) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // SAFETY: `at` is aligned and lies in a writable region of whole pages made by `map` and not unmapped since.
        unsafe { std::ptr::write_volatile(at as *mut u64, state) };
    }
}

/// Reads one byte of each page.
pub fn read_pages(address: usize, length: usize) {
    for at in (address..address + length).step_by(PAGE) {
        // SAFETY: `at` lies in a readable region made by `map` and not unmapped since; a file stays as long as it was made.
        unsafe { std::ptr::read_volatile(at as *const u8) };
    }
}

/// `mprotect(2)`: writable or without access.
pub fn protect(address: usize, length: usize, writable: bool) -> Result<(), Errno> {
    let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    // SAFETY: callers pass regions made by `map`, which no Rust object lives in.
    check(unsafe { libc::syscall(libc::SYS_mprotect, address, length, protection) })
}

/// `mremap(2)`, free to move.
pub fn remap(address: usize, old: usize, new: usize) -> Result<usize, Errno> {
    // SAFETY: callers pass regions made by `map`, which no Rust object lives in, and forget the old address.
    let moved = unsafe { libc::syscall(libc::SYS_mremap, address, old, new, libc::MREMAP_MAYMOVE) };
    if moved == -1 { Err(errno()) } else { Ok(usize::try_from(moved).unwrap_or(0)) }
}

/// `mlock(2)`.
pub fn lock(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: locking changes no content and no protection.
    check(unsafe { libc::syscall(libc::SYS_mlock, address, length) })
}

/// `mlock2(2)` with MLOCK_ONFAULT.
pub fn lock_on_fault(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: as `lock`.
    check(unsafe { libc::syscall(libc::SYS_mlock2, address, length, libc::MLOCK_ONFAULT) })
}

/// `munlock(2)`.
pub fn unlock(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: as `lock`.
    check(unsafe { libc::syscall(libc::SYS_munlock, address, length) })
}

/// `mlockall(MCL_CURRENT | MCL_ONFAULT)`: counts everything against the limit and fills nothing in.
pub fn lock_all() -> Result<(), Errno> {
    // SAFETY: as `lock`.
    check(unsafe { libc::syscall(libc::SYS_mlockall, libc::MCL_CURRENT | libc::MCL_ONFAULT) })
}

/// `munlockall(2)`.
pub fn unlock_all() -> Result<(), Errno> {
    // SAFETY: as `lock`.
    check(unsafe { libc::syscall(libc::SYS_munlockall) })
}

/// Raises the break by `length` and puts it back. The raw call reports failure by leaving the break where it was.
pub fn grow_break(length: usize) -> Result<(), Errno> {
    // SAFETY: the break goes up and back down by the same amount with no allocation in between, and the C library is
    // not told, so it never uses the part in question.
    unsafe {
        let now = libc::syscall(libc::SYS_brk, 0usize);
        let wanted = now + libc::c_long::try_from(length).unwrap_or(0);
        if libc::syscall(libc::SYS_brk, wanted) != wanted {
            return Err(libc::ENOMEM);
        }
        libc::syscall(libc::SYS_brk, now);
    }
    Ok(())
}

/// What a helper that shares this address space is told.
struct Errand {
    group: i32,
    length: usize,
}

/// Moves to the group, maps, and gives the errno, 0 for success.
extern "C" fn run_errand(errand: *mut libc::c_void) -> i32 {
    // SAFETY: its maker waits for the end of this process, and so the errand lives as long.
    let errand = unsafe { &*errand.cast::<Errand>() };
    // SAFETY: a constant of one byte. 0 is whoever writes.
    if unsafe { libc::write(errand.group, c"0".as_ptr().cast(), 1) } != 1 {
        return errno();
    }
    map(errand.length, Mapping::Anon).and_then(|at| unmap(at, errand.length)).err().unwrap_or(0)
}

/// Has a process that shares this address space (CLONE_VM, and no thread) go to the group of this `cgroup.procs` and map so much; the
/// errno it got, 0 for success.
pub fn map_by_helper(group: i32, length: usize) -> Result<Errno, Errno> {
    const FLAGS: i32 = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let (mut stack, mut errand) = ([0u128; 4096], Errand { group, length });
    let top = stack.as_mut_ptr_range().end.cast();
    // SAFETY: CLONE_VFORK holds this thread up until the helper has ended, so stack and errand outlive it and nobody else uses what threads have
    // of their own (errno). It makes three system calls.
    match unsafe { libc::clone(run_errand, top, FLAGS, (&raw mut errand).cast()) } {
        -1 => Err(errno()),
        helper => Ok(libc::WEXITSTATUS(super::process::wait(helper, 0)?.unwrap_or(0))),
    }
}
