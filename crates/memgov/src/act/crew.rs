//! Threads that may wait for the kernel or for a program, so that the loop need not: it leaves word in a slot and goes on, and comes again for what became of it.
//! All of it is made when the first rule asks for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// At most.
const THREADS: usize = 8;
/// Locked in memory like all of memgov's.
const STACK: usize = 256 << 10;

/// Where the loop leaves word for a thread, and the thread for the loop.
#[derive(Debug, Default)]
pub(super) struct Slot<W, S = ()> {
    word: Mutex<W>,
    bell: Condvar,
    over: AtomicBool,
    /// What is said without the lock.
    pub sign: S,
}

impl<W, S> Slot<W, S> {
    pub fn lock(&self) -> MutexGuard<'_, W> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop, which never waits: a thread that has the lock gives it back in a moment, and the loop comes again.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, W>> {
        try_lock(&self.word)
    }

    /// Wakes its thread.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// For its thread: waits for word that is like this; `None`: it is over.
    pub fn wait_for(&self, wanted: impl Fn(&W) -> bool) -> Option<MutexGuard<'_, W>> {
        let mut word = self.lock();
        while !self.is_over() {
            if wanted(&word) {
                return Some(word);
            }
            word = self.bell.wait(word).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Whether the thread is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// `None`: somebody else has it just now.
pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// The threads, a slot each.
#[derive(Debug)]
pub(super) struct Crew<W, S = ()> {
    slots: Vec<Arc<Slot<W, S>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W, S> Default for Crew<W, S> {
    fn default() -> Self {
        Self { slots: Vec::new(), threads: Vec::new() }
    }
}

impl<W, S> Crew<W, S> {
    pub fn slots(&self) -> impl Iterator<Item = &Slot<W, S>> {
        self.slots.iter().map(|slot| &**slot)
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Nothing is done any more. Threads end within a moment.
    pub fn stop(&self) {
        for slot in &self.slots {
            slot.over.store(true, Ordering::Release);
            // Under the lock, or a thread that has just looked would miss the bell.
            drop(slot.lock());
            slot.bell.notify_all();
        }
    }

    /// Whether all have ended after [`Crew::stop`].
    pub fn stopped(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

#[cfg(test)]
impl<W: Default, S: Default> Crew<W, S> {
    /// So many slots and nobody at them.
    pub fn away(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| Arc::default()).collect(), threads: Vec::new() }
    }

    pub fn slot(&self, at: usize) -> &Slot<W, S> {
        &self.slots[at]
    }
}

impl<W: Default + Send + 'static, S: Default + Send + Sync + 'static> Crew<W, S> {
    /// Starts the threads, if they do not run yet; `body` makes what each does. Allocates.
    pub fn start<B: FnOnce(&Slot<W, S>) + Send + 'static>(&mut self, name: &str, body: impl Fn() -> B) {
        if !self.threads.is_empty() {
            return;
        }
        for number in 0..THREADS {
            let slot = Arc::new(Slot::default());
            let (for_thread, body) = (Arc::clone(&slot), body());
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .stack_size(STACK)
                .spawn(move || body(&for_thread));
            // With fewer threads less is done at a time; without any, orders are refused.
            if let Ok(thread) = thread {
                self.slots.push(slot);
                self.threads.push(thread);
            }
        }
    }
}

impl<W, S> Drop for Crew<W, S> {
    fn drop(&mut self) {
        self.stop();
    }
}
