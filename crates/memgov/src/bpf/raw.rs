//! The unsafe code of the tier: map calls, memory shared with programs, the ring of events, and the calls of the self-test.
//! Each is a thin, safe value or function; nothing here decides anything, and what is called on the acting path allocates nothing.

use crate::kernel::{Errno, sys};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The errno of the call that just failed; no allocation.
fn errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The part of `union bpf_attr` that map calls use.
#[repr(C)]
struct MapCall {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A map with keys `K` and values `V` of the sizes the kernel knows.
pub(super) struct TypedMap<K, V> {
    fd: OwnedFd,
    types: PhantomData<fn(K, V)>,
}

impl<K: Copy, V: Copy> TypedMap<K, V> {
    /// `None` if the sizes are not those of the map: then reading or writing it would go past `K` or `V`.
    pub fn new(fd: OwnedFd, key_size: u32, value_size: u32) -> Option<Self> {
        let fits = size_of::<K>() == key_size as usize && size_of::<V>() == value_size as usize;
        fits.then_some(Self { fd, types: PhantomData })
    }

    /// Sets or replaces.
    pub fn update(&self, key: &K, value: &V) -> Result<(), Errno> {
        self.call(libbpf_sys::BPF_MAP_UPDATE_ELEM, ptr::from_ref(key), ptr::from_ref(value).cast_mut())
    }

    /// `NOENT`: there is none.
    pub fn lookup(&self, key: &K, value: &mut V) -> Result<(), Errno> {
        self.call(libbpf_sys::BPF_MAP_LOOKUP_ELEM, ptr::from_ref(key), ptr::from_mut(value))
    }

    /// `NOENT`: there is none.
    pub fn delete(&self, key: &K) -> Result<(), Errno> {
        self.call(libbpf_sys::BPF_MAP_DELETE_ELEM, ptr::from_ref(key), ptr::null_mut())
    }

    fn call(&self, command: u32, key: *const K, value: *mut V) -> Result<(), Errno> {
        let map = u32::try_from(self.fd.as_raw_fd()).map_err(|_| Errno::BADF)?;
        let attr = MapCall {
            map,
            unused: 0,
            key: key.expose_provenance() as u64,
            value: value.expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: key and value point to a K and a V, whose sizes `new` has compared with the map's, and outlive the call.
        // A value that is only read was lent as `&V`; the kernel writes to it for a lookup alone, where it came as `&mut V`.
        match unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(&attr), size_of::<MapCall>()) } {
            -1 => Err(errno()),
            _ => Ok(()),
        }
    }
}

/// A per-CPU value, one for each possible processor. Not for the acting path: the buffer is made here.
pub(super) fn lookup_on_every_cpu<V: Copy + Default>(
    map: BorrowedFd<'_>,
    key: u32,
    cpus: usize,
) -> Result<Vec<V>, Errno> {
    // The kernel rounds each value up to 8 bytes.
    assert!(size_of::<V>().is_multiple_of(8), "values of per-CPU maps are whole words");
    let mut values = vec![V::default(); cpus];
    let (key, values_at) = (ptr::from_ref(&key).cast(), values.as_mut_ptr().cast());
    // SAFETY: the kernel writes one V for each possible processor; `values` has room for `cpus`, which is their number.
    match unsafe { libbpf_sys::bpf_map_lookup_elem(map.as_raw_fd(), key, values_at) } {
        0 => Ok(values),
        _ => Err(errno()),
    }
}

/// Memory shared with programs: a mapped array map. `T` has atomic fields only, so reading while others write is no race.
pub(super) struct Shared<T> {
    at: NonNull<T>,
    count: usize,
    bytes: usize,
}

// SAFETY: it is memory of atomics, mapped until drop.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Maps `count` values of `T`; the map's value size must be that of `T`, and `T` may hold nothing but atomics and arrays of them.
    pub fn map(fd: BorrowedFd<'_>, value_size: u32, count: usize) -> Result<Self, Errno> {
        if size_of::<T>() != value_size as usize || !size_of::<T>().is_multiple_of(8) {
            return Err(Errno::INVAL);
        }
        let bytes = (size_of::<T>() * count).next_multiple_of(page());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            mmap(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }?;
        let at = NonNull::new(at.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { at, count, bytes })
    }
}

impl<T> Deref for Shared<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: mapped for `count` values until drop; any bytes are valid atomics.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.count) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody can hold a reference any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// The reading side of a BPF ring buffer (kernel/bpf/ringbuf.c): one page with the reader's position, one with the writers', and the data
/// mapped twice in a row, so that a record never wraps.
pub(super) struct Ring {
    fd: OwnedFd,
    consumer: NonNull<u8>,
    producer: NonNull<u8>,
    size: usize,
}

// SAFETY: the mappings belong to this value alone.
unsafe impl Send for Ring {}

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER: usize = 8;

impl Ring {
    /// `size`: of the data, the map's `max_entries`.
    pub fn map(fd: OwnedFd, size: usize) -> Result<Self, Errno> {
        let page = page();
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new mappings at addresses of the kernel's choice; lengths as kernel/bpf/ringbuf.c wants them.
        let (consumer, producer) = unsafe {
            let consumer = mmap(ptr::null_mut(), page, writable, MapFlags::SHARED, &fd, 0)?;
            let length = page + 2 * size;
            match mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, &fd, page as u64) {
                Ok(producer) => (consumer, producer),
                Err(errno) => {
                    let _ = munmap(consumer, page);
                    return Err(errno);
                }
            }
        };
        let here = |at: *mut libc::c_void| NonNull::new(at.cast()).ok_or(Errno::NOMEM);
        Ok(Self { fd, consumer: here(consumer)?, producer: here(producer)?, size })
    }

    /// Readable when there is something to read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        use rustix::fd::AsFd;
        self.fd.as_fd()
    }

    /// Hands over every complete record and makes room for new ones.
    pub fn read(&mut self, f: &mut dyn FnMut(&[u8]) -> bool) {
        // SAFETY: both positions are 8-byte words at the start of mapped pages, written by others only atomically.
        let (consumer, producer) = unsafe {
            (self.consumer.cast::<AtomicU64>().as_ref(), self.producer.cast::<AtomicU64>().as_ref())
        };
        let mut at = consumer.load(Ordering::Relaxed);
        while at < producer.load(Ordering::Acquire) {
            #[allow(clippy::cast_possible_truncation, reason = "less than the size of the ring")]
            let offset = page() + (at & (self.size as u64 - 1)) as usize;
            // SAFETY: records start at multiples of 8 inside the data, which is mapped.
            let header = unsafe { self.producer.add(offset).cast::<AtomicU32>().as_ref() };
            let length = header.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let size = (length & !DISCARDED) as usize;
            if length & DISCARDED == 0 && size <= self.size {
                // SAFETY: the record lies in the doubly mapped data and stays as it is until the position moves past it.
                let record =
                    unsafe { std::slice::from_raw_parts(self.producer.add(offset + HEADER).as_ptr(), size) };
                if !f(record) {
                    return;
                }
            }
            at += (size + HEADER).next_multiple_of(8) as u64;
            consumer.store(at, Ordering::Release);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with these lengths, and nobody can hold a reference any more.
        unsafe {
            let _ = munmap(self.consumer.as_ptr().cast(), page());
            let _ = munmap(self.producer.as_ptr().cast(), page() + 2 * self.size);
        }
    }
}

/// A record as its struct; `None` if it is too short.
pub(super) fn record<T: Copy>(bytes: &[u8]) -> Option<T> {
    // SAFETY: at least so many bytes are there; T is a struct of integers without padding, for which any bytes are valid.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// What the kernel says of a loaded program (`struct bpf_prog_info` of include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramInfo {
    /// Nanoseconds in it and runs of it, counted while somebody has it done ([`enable_run_stats`]).
    pub run: (u64, u64),
    /// Runs that were left out because one was under way on that processor.
    pub missed: u64,
    /// Instructions the verifier looked at until it accepted the program.
    pub verified: u32,
}

/// Asks the kernel about a loaded program.
pub(super) fn program_info(program: BorrowedFd<'_>) -> Result<ProgramInfo, Errno> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = u32::try_from(size_of_val(&info)).map_err(|_| Errno::INVAL)?;
    let at = ptr::from_mut(&mut info);
    // SAFETY: `info` is all zero, so it asks for no arrays, and its length is given.
    match unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), at, &raw mut length) } {
        0 => Ok(ProgramInfo {
            run: (info.run_time_ns, info.run_cnt),
            missed: info.recursion_misses,
            verified: info.verified_insns,
        }),
        _ => Err(errno()),
    }
}

/// The kernel counts run times while this is open (CAP_SYS_ADMIN).
pub(super) fn enable_run_stats() -> Result<OwnedFd, Errno> {
    // SAFETY: a plain number.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: a descriptor the kernel has just given to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A new run of an iterator (BPF_ITER_CREATE): reading from it runs the program.
pub(super) fn iter_create(link: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: a plain number.
    let fd = unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: a descriptor the kernel has just given to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn page() -> usize {
    usize::try_from(sys::page_size()).unwrap_or(4096)
}

/// `msgget(2)` of a queue of nobody else's, which is gone again. That there are too many is found after the hook.
pub(super) fn message_queue() -> Result<(), Errno> {
    // SAFETY: plain numbers, likewise below.
    match unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) } {
        -1 => Err(errno()).or_else(|errno| if errno == Errno::NOSPC { Ok(()) } else { Err(errno) }),
        // SAFETY: removing asks for no buffer.
        queue => done(unsafe { libc::msgctl(queue, libc::IPC_RMID, ptr::null_mut()) }),
    }
}

/// `msgsnd(2)` to a queue that is not there, which is found after the message is made (`do_msgsnd` in ipc/msg.c).
pub(super) fn message() -> Result<(), Errno> {
    // What kind it is, and a byte.
    let message: [libc::c_long; 2] = [1, 0];
    // SAFETY: the message is longer than the byte that is read of it.
    match done(unsafe { libc::msgsnd(i32::MAX, message.as_ptr().cast(), 1, libc::IPC_NOWAIT) }) {
        Err(Errno::INVAL | Errno::IDRM) => Ok(()),
        other => other,
    }
}

/// `semget(2)` of one semaphore, likewise.
pub(super) fn semaphores() -> Result<(), Errno> {
    // SAFETY: plain numbers, likewise below.
    match unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) } {
        -1 => Err(errno()).or_else(|errno| if errno == Errno::NOSPC { Ok(()) } else { Err(errno) }),
        // SAFETY: removing asks for nothing more.
        set => done(unsafe { libc::semctl(set, 0, libc::IPC_RMID) }),
    }
}

fn done(result: i32) -> Result<(), Errno> {
    if result == -1 { Err(errno()) } else { Ok(()) }
}

/// A child that shares this process's memory, as `vfork(2)` makes it, and ends without having run anything: there is no program of that name. Nothing
/// is copied, and no page of memgov's is made read-only for it, as `fork` would do. The C library waits for it.
pub(super) fn make_child() -> Result<(), Errno> {
    let mut pid = 0;
    let name = c"/proc/self/no such program";
    let arguments = [name.as_ptr().cast_mut(), ptr::null_mut()];
    let (at, none) = (arguments.as_ptr(), [ptr::null_mut()]);
    // SAFETY: pid, name, and both lists with their null at the end outlive the call; null for the rest asks for nothing else.
    let failed = unsafe {
        libc::posix_spawn(&raw mut pid, name.as_ptr(), ptr::null(), ptr::null(), at, none.as_ptr())
    };
    match failed {
        // Made, and it found nothing to run.
        libc::ENOENT => Ok(()),
        // Somebody has put a program there after all.
        0 => Err(Errno::EXIST),
        failed => Err(Errno::from_raw_os_error(failed)),
    }
}

/// The calls that the deny hooks must refuse, on memory of their own. Made before the test, so that during it nothing else is asked for.
pub(super) struct Trials {
    at: usize,
}

impl Trials {
    /// Maps two pages, the second without access.
    pub fn new() -> Result<Self, Errno> {
        let at = map_pages(2)?;
        let trials = Self { at };
        protect(at + page(), false)?;
        Ok(trials)
    }

    /// `mmap(2)` of a page, given back if it was granted.
    pub fn mmap(&self) -> Result<(), Errno> {
        map_pages(1).map(|at| unmap(at, 1))
    }

    /// `mremap(2)` of the first page to where it can grow to four.
    pub fn mremap(&mut self) -> Result<(), Errno> {
        let may_move = libc::MREMAP_MAYMOVE;
        // SAFETY: the pages were mapped by `new` and hold no Rust object. Length 2 to 2 plus 2: the old address is forgotten below.
        let to = unsafe { libc::syscall(libc::SYS_mremap, self.at, page(), 4 * page(), may_move) };
        if to == -1 {
            return Err(errno());
        }
        let to = usize::try_from(to).map_err(|_| Errno::IO)?;
        unmap(to, 4);
        // The first page has gone with it; what is left is mapped anew on top.
        unmap(self.at + page(), 1);
        self.at = map_pages(2)?;
        protect(self.at + page(), false)
    }

    /// `mprotect(2)` of the second page to writable, and back if it was granted.
    pub fn mprotect(&self) -> Result<(), Errno> {
        protect(self.at + page(), true)?;
        protect(self.at + page(), false)
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        unmap(self.at, 2);
    }
}

fn map_pages(pages: usize) -> Result<usize, Errno> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let length = pages * page();
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let at = unsafe { libc::syscall(libc::SYS_mmap, 0usize, length, protection, flags, -1, 0usize) };
    if at == -1 { Err(errno()) } else { usize::try_from(at).map_err(|_| Errno::IO) }
}

fn unmap(at: usize, pages: usize) {
    // SAFETY: callers pass pages made by `map_pages` or moved from them, which no Rust object lives in.
    unsafe { libc::syscall(libc::SYS_munmap, at, pages * page()) };
}

fn protect(at: usize, writable: bool) -> Result<(), Errno> {
    let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    // SAFETY: callers pass a page made by `map_pages`, which no Rust object lives in.
    match unsafe { libc::syscall(libc::SYS_mprotect, at, page(), protection) } {
        -1 => Err(errno()),
        _ => Ok(()),
    }
}
