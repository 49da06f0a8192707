//! libmemgov for C: `include/memgov.h` says what each function does; here is only what lies between C and [`memgov_client`]. Nothing unwinds into C: a panic would be an abort, and
//! there is nothing here that panics. Where there is no memory, which would be an abort as well, there is the pool.

mod handler;
mod job;
mod pool;
mod watch;

use std::ffi::{CStr, CString, c_char, c_int};

use memgov_client::{Control, Error, Goal, Memgov};

pub use handler::{
    Handler, Shortage, memgov_handled, memgov_handler_fd, memgov_handler_free, memgov_handler_new,
    memgov_handler_take,
};
pub use job::{
    Job, memgov_clear_job, memgov_get_job, memgov_set_oom_reserve, memgov_set_priority,
    memgov_set_reservation,
};
pub use watch::{Notice, Watch, memgov_watch_fd, memgov_watch_free, memgov_watch_new, memgov_watch_take};

pub(crate) const EINVAL: c_int = 22;

/// `memgov`: a [`Memgov`] and the last error.
#[derive(Debug)]
pub struct Handle {
    memgov: Memgov,
    error: CString,
}

impl Handle {
    /// What C is given for a result, the sentence kept.
    pub(crate) fn result<T>(&mut self, result: Result<T, Error>) -> Result<T, c_int> {
        let error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        self.error = CString::new(error.replace('\0', " ")).unwrap_or_default();
        result.map_err(|error| -error.errno())
    }

    pub(crate) fn memgov(&self) -> &Memgov {
        &self.memgov
    }

    fn no_group(&mut self) -> c_int {
        self.refuse(c"the path of the group is NULL or not UTF-8")
    }

    fn refuse(&mut self, why: &CStr) -> c_int {
        self.error = why.to_owned();
        -EINVAL
    }
}

/// Text of C's.
///
/// # Safety
/// NULL, or a string that ends with a NUL.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, so a string, as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// The `size` that comes first in every version of a struct that a caller has for us to fill; `None` if it is NULL, or says less than the first version had.
///
/// # Safety
/// `out` is NULL or may be read as far as its first field.
unsafe fn room<T>(out: *const T, least: u64) -> Option<u64> {
    if out.is_null() {
        return None;
    }
    // SAFETY: not NULL, so its first field may be read, as the caller promises.
    let size = unsafe { out.cast::<u64>().read() };
    (size >= least).then_some(size)
}

/// Fills a struct as far as the caller has it: what is behind is a newer header's, and stays as it was.
///
/// # Safety
/// `out` may be written as far as `size` says.
unsafe fn fill<T: Copy>(out: *mut T, value: &T, size: u64) {
    let length = usize::try_from(size).unwrap_or(usize::MAX).min(size_of::<T>());
    // SAFETY: so much is there of both; one of them is ours.
    unsafe {
        std::ptr::copy_nonoverlapping(std::ptr::from_ref(value).cast::<u8>(), out.cast::<u8>(), length)
    };
}

/// Stores where C wants it, if it does.
///
/// # Safety
/// `place` is NULL or may be written.
unsafe fn store<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: not NULL, so it may be written, as the caller promises.
        unsafe { place.write(value) };
    }
}

/// See memgov.h.
///
/// # Safety
/// `socket` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_new(socket: *const c_char) -> *mut Handle {
    // SAFETY: the caller's promise.
    let memgov = match unsafe { text(socket) } {
        Some(path) => Memgov::at(path),
        None if socket.is_null() => Memgov::new(),
        None => return std::ptr::null_mut(),
    };
    pool::heed_forks();
    Box::into_raw(Box::new(Handle { memgov, error: CString::default() }))
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from [`memgov_new`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_free(handle: *mut Handle) {
    if !handle.is_null() {
        // SAFETY: it came from Box::into_raw and is given back once, as the caller promises.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from [`memgov_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_error(handle: *const Handle) -> *const c_char {
    // SAFETY: NULL or valid, as the caller promises.
    match unsafe { handle.as_ref() } {
        Some(handle) => handle.error.as_ptr(),
        None => c"memgov_new failed: the path of the socket is not UTF-8".as_ptr(),
    }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from [`memgov_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_set_control(
    handle: *mut Handle,
    word: u32,
    climit: u64,
    plimit: u64,
) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    let Some(control) = Control::from_word(word, climit, plimit) else {
        return handle.refuse(c"unknown action: 0 none, 1 deny, 2 slow, 3 signal, 4 kill");
    };
    let done = handle.memgov.set_control(&control);
    handle.result(done).map_or_else(|errno| errno, |_| 0)
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from [`memgov_new`]; the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_get_control(
    handle: *mut Handle,
    word: *mut u32,
    climit: *mut u64,
    plimit: *mut u64,
) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    let got = handle.memgov.control();
    match handle.result(got) {
        Ok(control) => {
            // SAFETY: the caller's promise for each.
            unsafe {
                store(word, control.word());
                store(climit, control.climit_bytes);
                store(plimit, control.plimit_bytes);
            }
            0
        }
        Err(errno) => errno,
    }
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from [`memgov_new`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_clear_control(handle: *mut Handle) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    let done = handle.memgov.clear_control();
    handle.result(done).map_or_else(|errno| errno, |()| 0)
}

/// See memgov.h.
///
/// # Safety
/// `handle` is NULL or from [`memgov_new`], `group` NULL or a string, `usage` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memgov_shrink(
    handle: *mut Handle,
    group: *const c_char,
    to: u64,
    usage: *mut u64,
) -> c_int {
    // SAFETY: NULL or valid, as the caller promises.
    let Some(handle) = (unsafe { handle.as_mut() }) else { return -EINVAL };
    // SAFETY: the caller's promise.
    let Some(group) = (unsafe { text(group) }) else { return handle.no_group() };
    let done = handle.memgov.shrink(group, Goal::To(to));
    let left = match &done {
        Ok(shrunk) => Some(shrunk.usage_bytes),
        Err(Error::Hard { usage_bytes, .. }) => Some(*usage_bytes),
        Err(_) => None,
    };
    if let Some(left) = left {
        // SAFETY: the caller's promise.
        unsafe { store(usage, left) };
    }
    handle.result(done).map_or_else(|errno| errno, |_| 0)
}
