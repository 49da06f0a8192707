//! Memory for the library's own calls when its program has none. Rust ends the program where an allocation fails, and a program that has asked for `deny` is one whose
//! allocations fail: just then it has to be told, and to take its control back. So what the system's allocator refuses comes from a pool that is there from the start. Nobody
//! else's allocations go through here: the allocator is that of what is linked into the C library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

use linked_list_allocator::Heap;

/// Enough for any one call. A call is its request, which has 8 KiB with the longest path there is, its answer as text, what is read out of that, and a handle. The longest answer is a page of notices:
/// 64 decisions of some KiB. Its text grows by doubling, old and new beside each other, so it gets no further here than to half of this; what does not fit is ENOMEM and no end of the program. What is read out
/// of it is less than the text, for only what a notice needs is kept. Until it is used it takes address space and no memory.
const SIZE: usize = 1 << 20;

/// What is taken and given back is rounded to this, so that what a block is shortened by can be a free one.
const GRAIN: usize = 16;

#[repr(align(4096))]
struct Arena(UnsafeCell<[MaybeUninit<u8>; SIZE]>);

/// Static memory and who has what of it.
struct Pool {
    heap: Mutex<Heap>,
    arena: Arena,
}

// SAFETY: the arena is touched by whoever was given a part of it, and else under the heap's lock.
unsafe impl Sync for Pool {}

impl Pool {
    const fn new() -> Self {
        let arena = Arena(UnsafeCell::new([MaybeUninit::uninit(); SIZE]));
        Self { heap: Mutex::new(Heap::empty()), arena }
    }

    fn lock(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is memory of it.
    fn holds(&self, block: *mut u8) -> bool {
        block.addr().wrapping_sub(self.arena.0.get().addr()) < SIZE
    }

    /// NULL if there is not so much.
    fn take(&'static self, layout: Layout) -> *mut u8 {
        let Some(layout) = rounded(layout) else { return ptr::null_mut() };
        let mut heap = self.lock();
        if heap.size() == 0 {
            // SAFETY: the arena is static, and nobody has any of it yet.
            unsafe { heap.init(self.arena.0.get().cast(), SIZE) };
        }
        heap.allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// # Safety
    /// `block` was taken with this layout, and is not used again.
    unsafe fn give(&self, block: *mut u8, layout: Layout) {
        if let (Some(layout), Some(block)) = (rounded(layout), NonNull::new(block)) {
            // SAFETY: as the caller promises.
            unsafe { self.lock().deallocate(block, layout) };
        }
    }

    /// Gives back all but the beginning, which stays where it is: less memory is never refused.
    ///
    /// # Safety
    /// `block` was taken with this layout, and `size` is no more than that has.
    unsafe fn shorten(&self, block: *mut u8, layout: Layout, size: usize) {
        let kept = size.next_multiple_of(GRAIN);
        let rest = layout.size().next_multiple_of(GRAIN).saturating_sub(kept);
        if let (Ok(rest), true) = (Layout::from_size_align(rest, GRAIN), rest > 0) {
            // SAFETY: the end of a block that is the caller's, a grain at the least, as all blocks are.
            unsafe { self.give(block.add(kept), rest) };
        }
    }
}

fn rounded(layout: Layout) -> Option<Layout> {
    let size = layout.size().checked_next_multiple_of(GRAIN)?;
    Layout::from_size_align(size, layout.align().max(GRAIN)).ok()
}

static POOL: Pool = Pool::new();

/// The system's allocator, and the pool behind it.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: each block is the system's or the pool's, which its address tells, and goes back to where it came from. Nothing here unwinds.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() { POOL.take(layout) } else { block }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let block = POOL.take(layout);
        if !block.is_null() {
            // SAFETY: so long it is.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, and where it came from.
        unsafe { if POOL.holds(block) { POOL.give(block, layout) } else { System.dealloc(block, layout) } }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !POOL.holds(block) {
            // SAFETY: the caller's promise, and where it came from.
            let longer = unsafe { System.realloc(block, layout, size) };
            if !longer.is_null() {
                return longer;
            }
        } else if size <= layout.size() {
            // SAFETY: the caller's promise, and where it came from.
            unsafe { POOL.shorten(block, layout, size) };
            return block;
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        // SAFETY: `size` is not 0, as the caller promises; two blocks do not overlap, and the old one is not used again.
        unsafe {
            let longer = self.alloc(wanted);
            if !longer.is_null() {
                ptr::copy_nonoverlapping(block, longer, layout.size().min(size));
                self.dealloc(block, layout);
            }
            longer
        }
    }
}

/// The lock between the two halves of a fork.
struct Held(UnsafeCell<Option<MutexGuard<'static, Heap>>>);

// SAFETY: only who has the lock touches it.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

extern "C" fn before_fork() {
    let guard = POOL.lock();
    // SAFETY: the lock is ours.
    unsafe { *HELD.0.get() = Some(guard) };
}

extern "C" fn after_fork() {
    // SAFETY: `before_fork` has the lock for this thread, which in the child is the only one.
    drop(unsafe { (*HELD.0.get()).take() });
}

/// Has every fork(2) of the program find the pool at rest: a child would wait for ever for a thread of its parent's that had it locked.
pub(crate) fn heed_forks() {
    static HEEDS: Mutex<bool> = Mutex::new(false);
    // In use, another thread is at it; or was when this process was forked off.
    if let Ok(mut heeds) = HEEDS.try_lock()
        && !*heeds
    {
        // SAFETY: three functions that are there as long as the library is. Where there is no memory for that the next handle tries again.
        *heeds = unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) } == 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// Not the program's: nobody else takes of it.
    static MINE: Pool = Pool::new();

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Blocks do not overlap, keep what is in them when they are shortened, and all that is given back can be had again.
        #[test]
        fn all_comes_back(sizes in prop::collection::vec((1usize..20_000, 0u32..8, 0usize..3), 1..80)) {
            let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
            for (mark, (size, align, then)) in (0u8..).zip(sizes) {
                let mut layout = Layout::from_size_align(size, 1 << align).unwrap();
                let block = MINE.take(layout);
                prop_assert!(!block.is_null() && MINE.holds(block) && block.addr().is_multiple_of(layout.align()));
                // SAFETY: it has so much.
                unsafe { block.write_bytes(mark, size) };
                if then == 1 {
                    let less = size.div_ceil(3);
                    // SAFETY: it was taken so, and is at least as long.
                    unsafe { MINE.shorten(block, layout, less) };
                    layout = Layout::from_size_align(less, layout.align()).unwrap();
                }
                blocks.push((block, layout, mark));
                if then == 2 {
                    let (block, layout, _) = blocks.swap_remove(blocks.len() / 2);
                    // SAFETY: taken, and not used again.
                    unsafe { MINE.give(block, layout) };
                }
            }
            for (block, layout, mark) in blocks {
                // SAFETY: written above, so long.
                let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
                prop_assert!(bytes.iter().all(|&byte| byte == mark));
                // SAFETY: taken, and not used again.
                unsafe { MINE.give(block, layout) };
            }
            prop_assert_eq!(MINE.lock().used(), 0);
        }
    }

    #[test]
    fn what_it_does_not_have_it_refuses() {
        let all = Layout::from_size_align(SIZE + 1, 1).unwrap();
        assert!(POOL.take(all).is_null());
        let most = Layout::from_size_align(isize::MAX.unsigned_abs(), 1).unwrap();
        assert!(POOL.take(most).is_null());
        assert!(!POOL.holds(ptr::null_mut()) && !POOL.holds(Box::into_raw(Box::new(0)).cast()));
    }

    /// Whatever its parent's threads were at, a child can take of it and give it back.
    #[test]
    fn a_child_finds_it_at_rest() {
        heed_forks();
        let (over, layout) = (AtomicBool::new(false), Layout::from_size_align(100, 8).unwrap());
        // SAFETY: taken, and not used again.
        let use_it = || unsafe { POOL.give(POOL.take(layout), layout) };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        use_it();
                    }
                });
            }
            for _ in 0..100 {
                // SAFETY: the child takes of the pool and ends; one that waits for ever is ended by the alarm.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: as above.
                    unsafe { libc::alarm(10) };
                    use_it();
                    // SAFETY: as above.
                    unsafe { libc::_exit(0) };
                }
                let mut status = -1;
                // SAFETY: a child of ours, and room for its status.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!((waited, status), (child, 0));
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
